"""MobileNetV3-Large (Howard et al., ICCV 2019, Table 1), without its classifier.

Inverted residuals with depthwise convolutions, squeeze-and-excitation where the table has it, h-swish in the later
half. Layers keep torchvision's order, so that :meth:`MobileNetV3.load_imagenet` can take over its ImageNet weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inference.efficientnet_lite import scaled_channels

_EPSILON, _MOMENTUM = 1e-3, 0.1
"""Batch normalisation as the reference implementation has it, but for the momentum: 0.01 is for hundreds of thousands
of steps, and in a run of a few thousand the running statistics never catch up with the weights."""
_STEM = 16
FEATURES = 960
"""Channels of the last maps at width 1."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: a depthwise kernel, channels inside and out, squeeze-and-excitation, h-swish, stride."""

    kernel: int
    inner: int
    channels: int
    squeezes: bool
    swishes: bool
    stride: int


ROWS = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)


class Squeeze(nn.Module):
    """Weigh channels by what they hold all over the map (Hu et al. 2018), a quarter of them in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        between = scaled_channels(channels, 0.25)
        self.fc1 = nn.Conv2d(channels, between, 1)
        self.fc2 = nn.Conv2d(between, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Scale maps (N, channels, H, W)."""
        squeezed = torch.relu(self.fc1(maps.mean((-2, -1), keepdim=True)))
        return maps * nn.functional.hardsigmoid(self.fc2(squeezed))


def _convolution(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1, act: type[nn.Module] | None
) -> nn.Sequential:
    layers = [
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out, eps=_EPSILON, momentum=_MOMENTUM),
    ]
    return nn.Sequential(*layers, *([act(inplace=True)] if act is not None else []))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, weigh channels, project; add the input where shape allows."""

    def __init__(self, channels_in: int, channels_out: int, inner: int, row: Row) -> None:
        super().__init__()
        act: type[nn.Module] = nn.Hardswish if row.swishes else nn.ReLU
        layers: list[nn.Module] = []
        if inner != channels_in:
            layers.append(_convolution(channels_in, inner, 1, act=act))
        layers.append(_convolution(inner, inner, row.kernel, stride=row.stride, groups=inner, act=act))
        if row.squeezes:
            layers.append(Squeeze(inner))
        layers.append(_convolution(inner, channels_out, 1, act=None))
        self.block = nn.Sequential(*layers)
        self._adds = row.stride == 1 and channels_in == channels_out

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, channels_in, H, W) to (N, channels_out, H / stride, W / stride)."""
        out: Tensor = self.block(maps)
        return out + maps if self._adds else out


class MobileNetV3(nn.Module):
    """The trunk: a grey image in, 960 maps at a 32nd of its resolution out.

    Parameters
    ----------
    width
        Factor on the number of channels; 1.0 is MobileNetV3-Large.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = scaled_channels(_STEM, width)
        blocks: list[nn.Module] = [_convolution(1, channels, 3, stride=2, act=nn.Hardswish)]
        for row in ROWS:
            inner, out = scaled_channels(row.inner, width), scaled_channels(row.channels, width)
            blocks.append(InvertedResidual(channels, out, inner, row))
            channels = out
        self.channels = 6 * channels
        """Channels of the maps it gives."""
        self.features = nn.Sequential(*blocks, _convolution(channels, self.channels, 1, act=nn.Hardswish))

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, H, W) images of -1..1 to (N, 960 x width, H / 32, W / 32)."""
        maps: Tensor = self.features(image)
        return maps

    def load_imagenet(self, weights: dict[str, Tensor]) -> None:
        """Take weights under torchvision's names for three-channel images; the stem's colours are added up to one grey.

        Raises
        ------
        RuntimeError
            If the weights are of another network, or this one is not of width 1.
        """
        own = {key: value for key, value in weights.items() if key.startswith("features.")}
        if "features.0.0.weight" in own:
            own["features.0.0.weight"] = own["features.0.0.weight"].sum(1, keepdim=True)
        self.load_state_dict(own)
