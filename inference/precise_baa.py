"""Precise-BAA of Jia et al. 2022: palm, 13 regions, the stage of every bone, and an age from the stages' points.

Four stages, independent of each other: (1) a U-Net finds the palm (:mod:`inference.palm`); (2) a recursive feature
pyramid with switchable atrous convolution and cascade heads finds 13 regions (:mod:`inference.bone_detector`); (3)
DenseNet-121 with attention between the bones tells the maturity stage of each (:mod:`inference.maturity`); (4) the sum
of the stages' points is carried through the 50th percentile curve of RUS-CHN (:mod:`inference.rus_chn`).

The stages are **derived, not read**: the paper had 1,015 x 13 stages from radiologists, which are not to be had. Here
only the age of the whole hand is known, and it teaches the stages through points and curve, which are differentiable
(``training.maturity``). A profile says which bones look ahead of or behind the others; it is no radiologist's reading.
Ages of films read after Greulich and Pyle go through a curve made in China, so that whatever differs between the two
standards ends up in the stages.

Decisions where the paper is silent or contradicts itself:

* The age comes from the *expected* points under each bone's distribution, in training and in use; the paper takes the
  most probable level's. The profile names the stage whose points lie nearest to the expected ones, since points are all
  that was learned from ages. The most probable stage, which the paper takes, is none at all for the radius of every
  fifth child over four years (validation part), and by it TW3-C's age is 17.3 months off instead of 11.9.
* "The sum of the levels" (Fig. 6) can only be the sum of the levels' points: 13 levels add up to at most 150, the
  curve goes to 1,000.
* One DenseNet for all bones, a linear layer of its own for each bone's stages, and a learned offset that tells the
  bones apart. Queries and keys have 64 features; what attention gives is added to the feature it looks from.
* The sex enters through points and curve only: the stages' descriptions are the same for both.
* Size of the patches: not said. ``side`` sets it; 96 pixels is the default.
* Every bone's region is the detector's best box for it, however low its score: the paper's reject rate is 0. The
  engine's own checks refuse films without a hand.
* Three learning rates are named for each stage and one is said to be best, 0.01. Shipped weights: AdamW with one cycle
  for all stages (``training.bones``), labels softened by 3 months; stage 3 as the paper trains it is the recipe
  ``precise-baa-paper``.
* With the paper's localiser the film is seen as it lies, 512 pixels in a square; grey values are equalised within the
  palm, and what is outside it is black.

``localiser`` says where the 13 regions come from: "paper" is stages 1 and 2, which have weights of their own in the
bundle (``python -m training.bones`` trains them, ``boneage-node export bones`` puts them there); "shared", the default,
is this project's landmark detector: upright patches of a left hand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.anatomy import RUS_NAMES
from inference.bone_detector import BoneDetector, best_boxes
from inference.finding import BoneProfile, BoneStage, Sex
from inference.localiser import Localiser, read_localiser
from inference.maturity import BONES, MaturityNet
from inference.method import WEIGHTS, Prediction
from inference.palm import PalmNet, keep_palm
from inference.pose import Pose
from inference.preparation import fit_film, prepare
from inference.roi_align import grow_to_squares, roi_align
from inference.rus_chn import STAGE_COUNTS, Maturity, stage_scores

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

LOCALISER_FILE = "localiser.safetensors"
"""Palm net and detector in the bundle."""
FILM_SIDE = 512
"""Side of the square that holds the whole film for the paper's localiser, in pixels."""


class PreciseNet(nn.Module):
    """Stages 3 and 4: from 13 patches to stages and age.

    Parameters
    ----------
    growth
        Of :class:`inference.maturity.MaturityNet`; the paper's DenseNet-121 has 32.
    """

    def __init__(self, growth: int = 32) -> None:
        super().__init__()
        self.maturity = MaturityNet(growth)
        self.reference = Maturity()

    def forward(self, patches: Tensor, male: Tensor) -> Prediction:
        """Return ages and stages.

        Parameters
        ----------
        patches
            Shape (N, 13, side, side), float32 of -1..1, in the order of RUS_NAMES.
        male
            Shape (N,), float32: +1 male, -1 female.
        """
        stages = self.maturity(patches)
        score = self.reference.bone_scores(stages, male).sum(1)
        return Prediction(self.reference(score, male), stages=stages)

    def load_imagenet(self, weights: dict[str, Tensor]) -> None:
        """Take DenseNet-121's weights; see :meth:`inference.maturity.MaturityNet.load_imagenet`."""
        self.maturity.load_imagenet(weights)


class LocatedBones(NamedTuple):
    """What stages 1 and 2 say of N films."""

    palm: Tensor
    """Shape (N, 1, 512, 512), -1..1: what stage 2 saw, all but the palm black."""
    boxes: Tensor
    """Shape (N, 13, 4): x0, y0, x1, y1 in its pixels, in the order of RUS_NAMES."""
    scores: Tensor
    """Shape (N, 13), 0..1."""


class BoneLocaliser(nn.Module):
    """Stages 1 and 2: from a whole film to the palm and the 13 regions in it.

    Parameters
    ----------
    width
        Factor on the channels of palm net and detector; 1.0 is the papers'.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.palm = PalmNet(width)
        self.detector = BoneDetector(width=width)

    def forward(self, film: Tensor) -> LocatedBones:
        """Find palms and bones in films (N, 1, 512, 512), float32 of -1..1."""
        palm = keep_palm(film, self.palm(film))
        return LocatedBones(palm, *best_boxes(self.detector(palm), FILM_SIDE))


class FourStageNet(PreciseNet):
    """All four stages: from a whole film to stages and age.

    Parameters
    ----------
    growth
        As :class:`PreciseNet`.
    detector_width
        Of :class:`BoneLocaliser`.
    side
        Side of the patches in pixels.
    """

    def __init__(self, growth: int = 32, detector_width: float = 1.0, side: int = 96) -> None:
        super().__init__(growth)
        self.localiser = BoneLocaliser(detector_width)
        self.side = side

    def forward(self, film: Tensor, male: Tensor) -> Prediction:
        """Return ages and stages, boxes and their scores among the extras; gradients reach stage 3 only."""
        with torch.no_grad():
            found = self.localiser(film)
            patches = roi_align(found.palm, grow_to_squares(found.boxes), stride=1, side=self.side, samples=1)[:, :, 0]
        return super().forward(patches, male)._replace(extras={"boxes": found.boxes, "box_scores": found.scores})


class PreciseMethod:
    """The method with its networks' sizes and where it takes the regions from."""

    name = "precise-baa"
    localiser_file = LOCALISER_FILE

    def __init__(self, side: int, growth: int, detector_width: float, localiser: Localiser) -> None:
        self.side, self.growth, self.detector_width, self.localiser = side, growth, detector_width, localiser
        self.weight_files = WEIGHTS if localiser == "shared" else WEIGHTS | {LOCALISER_FILE: "localiser."}

    def make_localiser(self) -> BoneLocaliser:
        """Return palm net and detector with fresh weights."""
        return BoneLocaliser(self.detector_width)

    def make_age_net(self) -> PreciseNet:
        """Return stages 3 and 4 with fresh weights."""
        return PreciseNet(self.growth)

    def make_net(self) -> PreciseNet:
        """Return the network with fresh weights: stages 3 and 4, or all four with the paper's localiser."""
        if self.localiser == "paper":
            return FourStageNet(self.growth, self.detector_width, self.side)
        return self.make_age_net()

    def prepare(self, film: Grey, pose: Pose, centres: Float) -> tuple[Grey]:
        """Return 13 equalised patches (13, side, side), or the whole film (512, 512) for the paper's localiser."""
        if self.localiser == "paper":
            return (fit_film(film, FILM_SIDE)[0],)
        return (prepare(film, pose, centres, patch_side=self.side).patches[:BONES],)


KEYS = ("side", "growth", "detector_width", "localiser")
"""What :func:`open_method` reads of a configuration."""


def open_method(config: dict[str, Any]) -> PreciseMethod:
    """Read ``side`` (pixels, 96), ``growth`` (32), ``detector_width`` (1.0), ``localiser`` ("shared" or "paper").

    Raises
    ------
    BundleError
        If there is no such localiser.
    """
    side, growth = int(config.get("side", 96)), int(config.get("growth", 32))
    return PreciseMethod(side, growth, float(config.get("detector_width", 1.0)), read_localiser(config))


def read_profile(predicted: Prediction, male: Tensor, place: int = 0) -> BoneProfile:
    """Return the profile of one hand of a prediction; ``male`` (N,) is what the network was given.

    Raises
    ------
    ValueError
        If the prediction has no stages.
    """
    if predicted.stages is None:
        raise ValueError("This prediction has no stages; only precise-baa gives them.")
    stages = predicted.stages[place].detach().float().cpu()
    sex = male[place : place + 1].cpu()
    points = Maturity().bone_scores(stages[None], sex)[0]
    scale = stage_scores(Sex.MALE if sex > 0 else Sex.FEMALE)
    bones = []
    for name, row, count, worth, own in zip(RUS_NAMES, stages, STAGE_COUNTS, points.tolist(), scale, strict=True):
        stage = int(np.abs(own[:count] - worth).argmin())
        bones.append(BoneStage(name, stage, count - 1, float(row[stage]), worth))
    return BoneProfile(tuple(bones), float(points.sum()), float(predicted.age_months[place].detach()))
