"""The global-local fusion network of Hui et al., Appl. Sci. 2022, 12, 7218: Table 1 and Figure 7.

Two pathways of nine convolutions each, a whole-hand image and 18 ROI patches stacked as channels, are concatenated
after each of four stages; two valid convolutions, global max pooling, dense 512 and dense 1 follow. Batch
normalisation and ReLU come after each convolution.

Decisions where the paper is silent or contradicts itself:

* "2 x 2 x 2048" after the last two convolutions (section 4.2) against Table 1's strides: plain arithmetic gives
  7 -> 3 -> 1, and Table 1 is what is built; global max pooling is then over one position at 224 pixels.
* The figure shows one concatenated map feeding "the global path": the fused map goes on in the global pathway, the
  local pathway goes on from its own map. Conv 4 of the global pathway therefore sees twice the channels of conv 3.
* The paper evaluates both sexes with one network and does not say how sex enters, or whether it does. Here sex is
  embedded in 32 values that join the pooled feature before dense 512.
* Dense 512 is followed by ReLU and dropout; the output is the age in units of 12 months around 10 years, so that Adam's
  step size of 0.001 suits it.
* The ablation of Table 4 takes a pathway away: what is left goes through its own four stages and straight into the last
  two convolutions, which then see half the channels. Equalisation is a switch of its own.
* ``width`` scales every convolution (1.0 is the paper's 121 million parameters); the dense layer keeps its 512 units.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.errors import BundleError
from inference.method import Prediction
from inference.pose import Pose
from inference.preparation import prepare

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

Paths = Literal["both", "global", "local"]
"""Which pathways a network has; the paper's has both."""

GLOBAL_SIDE = 224
"""Side of the global input in pixels."""
LOCAL_SIDE = 64
"""Side of each ROI patch in pixels."""
LOCAL_CHANNELS = 18
"""Number of ROI patches."""

_MEAN_MONTHS = 126.0
_UNIT_MONTHS = 42.0
_SEX_FEATURES = 32


def _convolution(channels_in: int, channels_out: int, side: int, stride: int, *, same: bool) -> nn.Sequential:
    padding = side // 2 if same else 0
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, side, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _local_stages(channels: list[int]) -> nn.ModuleList:
    c1, c2, c3, c4, c5 = channels
    return nn.ModuleList(
        [
            nn.Sequential(
                _convolution(LOCAL_CHANNELS, c1, 5, 1, same=False),
                _convolution(c1, c2, 5, 1, same=False),
                _convolution(c2, c2, 3, 1, same=True),
            ),
            nn.Sequential(_convolution(c2, c3, 3, 2, same=True), _convolution(c3, c3, 3, 1, same=True)),
            nn.Sequential(_convolution(c3, c4, 3, 2, same=True), _convolution(c4, c4, 3, 1, same=True)),
            nn.Sequential(_convolution(c4, c5, 3, 2, same=True), _convolution(c5, c5, 3, 1, same=True)),
        ]
    )


def _global_stages(channels: list[int], maps: int) -> nn.ModuleList:
    c1, c2, c3, c4, c5 = channels
    return nn.ModuleList(
        [
            nn.Sequential(
                _convolution(1, c1, 7, 2, same=True),
                _convolution(c1, c2, 7, 2, same=True),
                _convolution(c2, c2, 7, 1, same=True),
            ),
            nn.Sequential(_convolution(maps * c2, c3, 3, 2, same=True), _convolution(c3, c3, 3, 1, same=True)),
            nn.Sequential(_convolution(maps * c3, c4, 3, 2, same=True), _convolution(c4, c4, 3, 1, same=True)),
            nn.Sequential(_convolution(maps * c4, c5, 3, 2, same=True), _convolution(c5, c5, 3, 1, same=True)),
        ]
    )


class GlobalLocalNet(nn.Module):
    """Estimate bone age from a whole hand and 18 ROI patches (Hui et al. 2022, Table 1).

    Parameters
    ----------
    width
        Factor on the number of channels of every convolution; 1.0 is the paper's.
    dropout
        Probability of dropping a unit of the dense layer while training.
    paths
        Leave a pathway out, for the ablation.
    """

    def __init__(self, width: float = 1.0, dropout: float = 0.3, paths: Paths = "both") -> None:
        super().__init__()
        self.width, self.paths = width, paths
        *channels, last = (max(8, round(width * c / 8) * 8) for c in (64, 128, 256, 512, 1024, 2048))
        maps = 2 if paths == "both" else 1  # how many are concatenated after each stage
        if paths != "local":
            self.global_stages = _global_stages(channels, maps)
        if paths != "global":
            self.local_stages = _local_stages(channels)
        self.head = nn.Sequential(
            _convolution(maps * channels[-1], last, 3, 2, same=False),
            _convolution(last, last, 3, 1, same=False),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.sex = nn.Sequential(nn.Linear(1, _SEX_FEATURES), nn.ReLU(inplace=True))
        self.dense = nn.Linear(last + _SEX_FEATURES, 512)
        self.dropout = nn.Dropout(dropout)
        self.age = nn.Linear(512, 1)

    def features(self, *images: Tensor) -> Tensor:
        """Return the pooled feature, shape (N, 2048 x width), of the images that :meth:`forward` takes."""
        if self.paths != "both":
            stages = self.global_stages if self.paths == "global" else self.local_stages
            (image,) = images
            for stage in stages:
                image = stage(image)
            return self.head(image)  # type: ignore[no-any-return]
        whole, local = images
        for global_stage, local_stage in zip(self.global_stages, self.local_stages, strict=True):
            local = local_stage(local)
            whole = torch.cat([global_stage(whole), local], dim=1)
        return self.head(whole)  # type: ignore[no-any-return]

    def forward(self, *inputs: Tensor) -> Prediction:
        """Return bone ages in months.

        Parameters
        ----------
        inputs
            ``whole``, shape (N, 1, 224, 224), and ``local``, shape (N, 18, 64, 64), the patches of
            ``inference.anatomy.ROI_NAMES`` in that order, each float32 of -1..1 (without a pathway, only the other's);
            then ``male``, shape (N,), float32: +1 male, -1 female.
        """
        *images, male = inputs
        feature = torch.cat([self.features(*images), self.sex(male[:, None])], dim=1)
        hidden = self.dropout(torch.relu(self.dense(feature)))
        return Prediction(self.age(hidden).float().squeeze(1) * _UNIT_MONTHS + _MEAN_MONTHS)


class GlobalLocalMethod:
    """The method with its network's width, and the parts that an ablation takes away."""

    name = "global-local"

    def __init__(self, width: float, *, equalise: bool = True, paths: Paths = "both") -> None:
        self.width, self.equalise, self.paths = width, equalise, paths

    def make_net(self) -> GlobalLocalNet:
        """Return the network with fresh weights."""
        return GlobalLocalNet(self.width, paths=self.paths)

    def prepare(self, film: Grey, pose: Pose, centres: Float) -> tuple[Grey, ...]:
        """Return the whole hand (224, 224) and the 18 patches (18, 64, 64), equalised; without a pathway, the other."""
        hand = prepare(film, pose, centres, side=GLOBAL_SIDE, patch_side=LOCAL_SIDE, equalise=self.equalise)
        inputs = {"both": (hand.whole, hand.patches), "global": (hand.whole,), "local": (hand.patches,)}
        return inputs[self.paths]


def open_method(config: dict[str, Any]) -> GlobalLocalMethod:
    """Read ``width``, and for the ablation ``equalise`` (true) and ``paths`` ("both", "global" or "local").

    Raises
    ------
    BundleError
        If ``paths`` is something else.
    """
    paths = config.get("paths", "both")
    if paths not in get_args(Paths):
        raise BundleError(f"paths = {paths!r} is not known; global-local has {', '.join(get_args(Paths))}.")
    return GlobalLocalMethod(float(config["width"]), equalise=bool(config.get("equalise", True)), paths=paths)
