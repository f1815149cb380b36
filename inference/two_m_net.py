"""2M-Net, the multi-granularity and multi-attention network of Liu et al., Quant Imaging Med Surg 2024 (qims-23-806).

A ResNet-18 for each sex. While training, every film is seen in T = 3 steps: as a jigsaw of 4 x 4 tiles, of which the
third of the K = 4 convolution groups must tell the age; as one of 2 x 2 tiles (the fourth group); and whole, where the
features of several groups together give the estimate. The loss of each step is L1, eq. (4). A spatial self-attention
sits after stage 3, channel self-attention after stages 4 and 5 (``inference.non_local``).

Decisions where the paper is silent, and where this differs from it:

* Stages: Tables 4 and 5 count to 5, so stage 1 is ResNet's stem and stage k + 1 the convolution group k of Figure 2;
  spatial attention therefore sits on 128 channels at a stride of 8, its "middle layer". Input I_t belongs to group
  k = K - (T - 1) + t: groups 3 and 4 for N = 4 and 2.
* "Multi-scale features" of the last step are those of the groups supervised before, 3 and 4, average-pooled and
  concatenated (768 at width 1).
* Each step's MLP has one hidden layer of 384 units; with that, a model has the 11.8 million parameters of Table 6.
* Where the attention's layers stand, what they start from: see ``inference.non_local``.
* Each film gets tiles in an order of its own, new each time. The paper trains step by step; here the three losses are
  added up and make one step of the optimiser.
* One model per sex: both are parts of one network here, chosen by ``male``, and neither shares a weight with the other.
* The image: the paper squashes the whole film. Ours is the upright hand, squashed into a square of 512; males see its
  central 448 x 448 pixels, females all of it at 448 x 448, as in the paper. The window is chosen so that what males see
  is the hand's window of the other methods. Grey values are stretched between the 1st and 99th percentile.
* The output is in units of 42 months around 126.
* Shipped weights: trained with AdamW and one cycle, not SGD and steps, augmented as all methods are here, labels
  softened by 3 months; what the paper states is the recipe ``2m-net-paper``.
* ``width`` scales every layer's channels (1.0 is the paper's).

``extras`` of the prediction, while training: ``step_months`` (N, 3), the estimates of the three steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.errors import BundleError
from inference.jigsaw import jigsaw
from inference.method import Prediction
from inference.non_local import ChannelAttention, SpatialAttention
from inference.pose import Pose
from inference.preparation import stretched_crop
from inference.resnet import ResNetStages, make_mlp, pool_average

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

SIDE = 512
"""Side of the square input in pixels; the networks see 7/8 of it, 448."""
WINDOW = (0.077, -0.049, 0.923, 1.049)
"""What of the template's plane the input shows; its central 7/8 are ``inference.preparation.HAND_WINDOW``."""
GROUPS = 4
"""K: convolution groups of the trunk."""
PIECES = (4, 2, 1)
"""N of the T = 3 steps: tiles per side."""

_MEAN_MONTHS = 126.0
_UNIT_MONTHS = 42.0
_HIDDEN = 384


def group_of_step(step: int) -> int:
    """Return the convolution group k (from 1) whose output step t (from 1) is supervised at: (T-1) - t = K - k.

    The last step (t = T) has no group of its own: it takes the features of those before.
    """
    return GROUPS - (len(PIECES) - 1) + step


class TwoMBranch(nn.Module):
    """The model of one sex (Liu et al. 2024, Figure 3).

    Parameters
    ----------
    width
        Factor on the number of channels and hidden units; 1.0 is the paper's.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.trunk = ResNetStages(18, width)
        channels = self.trunk.channels
        self.attention = nn.ModuleList(
            [nn.Identity(), SpatialAttention(channels[2]), ChannelAttention(), ChannelAttention()]
        )
        hidden = max(8, round(width * _HIDDEN))
        self.groups = [group_of_step(step) for step in range(1, len(PIECES))]
        sizes = [channels[group] for group in self.groups]
        self.heads = nn.ModuleList([make_mlp(size, hidden, 1) for size in (*sizes, sum(sizes))])

    def features(self, image: Tensor, groups: int) -> list[Tensor]:
        """Return the pooled features of the first groups, each (N, channels)."""
        maps, pooled = self.trunk.stages[0](image), []
        for group, attention in zip(self.trunk.stages[1 : groups + 1], self.attention[:groups], strict=True):
            maps = attention(group(maps))
            pooled.append(pool_average(maps))
        return pooled

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, S, S) images of -1..1 to the steps' ages in months: (N, 3) while training, else (N, 1)."""
        answers = []
        if self.training:
            for pieces, group, head in zip(PIECES[:-1], self.groups, self.heads[:-1], strict=True):
                answers.append(head(self.features(jigsaw(image, pieces), group)[-1]))
        pooled = self.features(image, GROUPS)
        answers.append(self.heads[-1](torch.cat([pooled[group - 1] for group in self.groups], dim=1)))
        return torch.cat(answers, dim=1).float() * _UNIT_MONTHS + _MEAN_MONTHS


class TwoMNet(nn.Module):
    """Estimate bone age with the model of the child's sex.

    Parameters
    ----------
    width
        Of :class:`TwoMBranch`.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.of_male = TwoMBranch(width)
        self.of_female = TwoMBranch(width)

    def forward(self, image: Tensor, male: Tensor) -> Prediction:
        """Return bone ages in months.

        Parameters
        ----------
        image
            Shape (N, 1, side, side), float32 of -1..1.
        male
            Shape (N,), float32: +1 male, -1 female.
        """
        months = torch.zeros(len(image), len(PIECES) if self.training else 1, device=image.device)
        for branch, chosen, see in (
            (self.of_male, male > 0, crop_centre),
            (self.of_female, male <= 0, shrink),
        ):
            if chosen.any():
                months[chosen] = branch(see(image[chosen]))
        return Prediction(months[:, -1], extras={"step_months": months} if self.training else None)

    def load_imagenet(self, weights: dict[str, Tensor]) -> None:
        """Take a ResNet-18's weights for both trunks; see :meth:`inference.resnet.ResNetStages.load_imagenet`."""
        for branch in (self.of_male, self.of_female):
            branch.trunk.load_imagenet(weights)


def crop_centre(image: Tensor) -> Tensor:
    """Return the central 7/8 of square images (N, 1, side, side): 448 of 512 pixels, for males."""
    margin = image.shape[-1] // 16
    return image[..., margin:-margin, margin:-margin]


def shrink(image: Tensor) -> Tensor:
    """Resize square images (N, 1, side, side) to 7/8: 448 of 512 pixels, for females."""
    side = image.shape[-1] * 7 // 8
    return nn.functional.interpolate(image, size=(side, side), mode="bilinear", antialias=True)


class TwoMMethod:
    """The method with its networks' width and its input's side in pixels."""

    name = "2m-net"

    def __init__(self, width: float, side: int) -> None:
        self.width, self.side = width, side

    def make_net(self) -> TwoMNet:
        """Return both sexes' networks with fresh weights."""
        return TwoMNet(self.width)

    def prepare(self, film: Grey, pose: Pose, centres: Float) -> tuple[Grey]:  # noqa: ARG002 - as AgeMethod has it
        """Return the upright hand, shape (side, side); the ROIs' centres play no part."""
        return (stretched_crop(film, pose, (self.side, self.side), WINDOW),)


KEYS = ("width", "side")
"""What :func:`open_method` reads of a configuration."""


_SIDE_UNIT = 32
"""Of such sides, 7/8 are cut into four tiles a side."""


def open_method(config: dict[str, Any]) -> TwoMMethod:
    """Read ``width`` and ``side`` (a multiple of 32 pixels, 512 if it is not given).

    Raises
    ------
    BundleError
        If the side is no such multiple.
    """
    side = int(config.get("side", SIDE))
    if side % _SIDE_UNIT:
        raise BundleError(f"The side of 2m-net's input must be a multiple of {_SIDE_UNIT} pixels; it is {side}.")
    return TwoMMethod(float(config["width"]), side)
