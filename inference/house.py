"""The house method: one upright, equalised crop of the hand, an EfficientNet-Lite with ImageNet weights, sex late.

Not from a paper: it takes what won where one strong network had little data (Deeplasia, Rassmann et al. 2023: an
EfficientNet that sees the masked hand and gets the sex as one more input; label-distribution learning over monthly
bins, Gao et al. 2017). The crop is upright and always a left hand, so rotation, side and mirroring are gone before the
network looks; equalisation takes out every monotone change of grey. The age is the mean of a distribution over 240
monthly bins. A second head, which never sees the sex given, estimates it from the film, for the mismatch alarm. A
bundle may bring what the network's features look like on ordinary films (``inference.familiarity``); hands that differ
from them are flagged. It may bring further networks, each with a size of its own: the answer is their mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.detector import crop_upright
from inference.efficientnet_lite import FEATURES, EfficientNetLite
from inference.familiarity import FILE, Familiarity
from inference.method import WEIGHTS, Prediction
from inference.pose import Pose
from inference.preparation import HAND_WINDOW, equalisation_table

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

BINS = 240
"""Monthly bins of the age distribution; bin i stands for i + 0.5 months."""
_SEX_FEATURES = 32
_HIDDEN = 256


class HouseNet(nn.Module):
    """Estimate bone age from one crop of the hand.

    Parameters
    ----------
    variant
        Of :class:`inference.efficientnet_lite.EfficientNetLite`.
    dropout
        Probability of dropping a feature in training, before each dense layer.
    familiarity
        Whether to tell how strange a hand looks.
    drop_path
        Of the trunk, in training.
    """

    centres: Tensor

    def __init__(
        self, variant: str = "lite0", dropout: float = 0.2, *, familiarity: bool = False, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.trunk = EfficientNetLite(variant, drop_path)
        self.familiarity = Familiarity(self.trunk.middle_channels) if familiarity else None
        self.sex = nn.Sequential(nn.Linear(1, _SEX_FEATURES), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(FEATURES + _SEX_FEATURES, _HIDDEN)
        self.density = nn.Linear(_HIDDEN, BINS)
        self.male = nn.Linear(FEATURES, 1)
        self.register_buffer("centres", torch.arange(BINS, dtype=torch.float32) + 0.5, persistent=False)

    def forward(self, image: Tensor, male: Tensor) -> Prediction:
        """Return ages, own sex estimates, age distributions and, if asked for, strangeness.

        Parameters
        ----------
        image
            Shape (N, 1, rows, columns), float32 of -1..1.
        male
            Shape (N,), float32: +1 male, -1 female.
        """
        middle, last = self.trunk.features(image)
        feature = self.dropout(last.mean((-2, -1)))
        hidden = torch.relu(self.hidden(torch.cat([feature, self.sex(male[:, None])], dim=1)))
        log_density = torch.log_softmax(self.density(self.dropout(hidden)).float(), dim=1)
        age = (log_density.exp() * self.centres).sum(1)
        strangeness = None if self.familiarity is None else self.familiarity(middle.float())
        return Prediction(age, self.male(feature).squeeze(1), log_density, strangeness=strangeness)

    def load_imagenet(self, weights: dict[str, Tensor]) -> None:
        """Take ImageNet weights for the trunk; see ``inference.efficientnet_lite``."""
        self.trunk.load_imagenet(weights)


class HouseMeanNet(HouseNet):
    """Several networks of this method as one: the mean of their ages, distributions and log odds of the sex.

    Parameters
    ----------
    variants
        One for each network; the first tells how strange a hand looks, if asked to.
    familiarity
        As of :class:`HouseNet`.
    """

    def __init__(self, variants: Sequence[str], *, familiarity: bool = False) -> None:
        super().__init__(variants[0], familiarity=familiarity)
        self.more = nn.ModuleList(HouseNet(variant) for variant in variants[1:])

    def forward(self, *inputs: Tensor) -> Prediction:
        """Answer as :meth:`HouseNet.forward` does, from an image for each network, of its size, and ``male``."""
        *images, male = inputs
        first = super().forward(images[0], male)
        answers = [first, *(net(image, male) for net, image in zip(self.more, images[1:], strict=True))]
        density = torch.stack([answer.log_density for answer in answers if answer.log_density is not None])
        logits = torch.stack([answer.male_logit for answer in answers if answer.male_logit is not None])
        return Prediction(
            torch.stack([answer.age_months for answer in answers]).mean(0),
            logits.mean(0),
            torch.logsumexp(density, 0) - math.log(len(answers)),
            strangeness=first.strangeness,
        )


@dataclass(frozen=True, slots=True)
class Member:
    """A network besides the first: the size of its crop in pixels and its trunk."""

    rows: int
    columns: int
    variant: str

    @property
    def extent(self) -> tuple[int, int]:
        """Columns and rows."""
        return self.columns, self.rows

    def make_net(self) -> HouseNet:
        """Return the network with fresh weights."""
        return HouseNet(self.variant)


class HouseMethod:
    """The house method.

    Parameters
    ----------
    rows, columns
        Size of the crop in pixels.
    variant
        Of the trunk.
    familiarity
        Whether it tells how strange a hand looks.
    equalise
        Whether grey values are equalised, as in the weights that are shipped.
    more
        Networks besides the first, trained apart (``boneage-node export age --more``).
    drop_path
        Of the first network's trunk, in training.
    """

    name = "house"

    def __init__(
        self,
        rows: int,
        columns: int,
        variant: str,
        *,
        familiarity: bool = False,
        equalise: bool = True,
        more: Sequence[Member] = (),
        drop_path: float = 0.0,
    ) -> None:
        self.rows, self.columns, self.variant = rows, columns, variant
        self.familiarity, self.equalise, self.more = familiarity, equalise, tuple(more)
        self.drop_path = drop_path
        self.weight_files = {
            **WEIGHTS,
            **({FILE: "familiarity."} if familiarity else {}),
            **{more_file(place): f"more.{place}." for place in range(len(self.more))},
        }

    def make_plain_net(self) -> HouseNet:
        """Return the first network as it is trained, which knows no strangeness, with fresh weights."""
        return HouseNet(self.variant, drop_path=self.drop_path)

    def make_familiarity(self) -> Familiarity:
        """Return what tells strangeness, with nothing fitted."""
        return Familiarity(self.make_plain_net().trunk.middle_channels)

    def make_net(self) -> HouseNet:
        """Return the network, or all of them, with fresh weights."""
        if not self.more:
            return HouseNet(self.variant, familiarity=self.familiarity, drop_path=self.drop_path)
        return HouseMeanNet([self.variant, *(one.variant for one in self.more)], familiarity=self.familiarity)

    def prepare(self, film: Grey, pose: Pose, centres: Float) -> tuple[Grey, ...]:  # noqa: ARG002 - as AgeMethod has it
        """Return a crop (rows, columns) for each network, equalised if asked for; the ROIs' centres play no part."""
        extents = [(self.columns, self.rows), *(one.extent for one in self.more)]
        crops = {extent: self._crop(film, pose, extent) for extent in set(extents)}
        return tuple(crops[extent] for extent in extents)

    def _crop(self, film: Grey, pose: Pose, extent: tuple[int, int]) -> Grey:
        crop = crop_upright(film, pose, extent, HAND_WINDOW)
        return np.asarray(cv2.LUT(crop, equalisation_table(crop)), dtype=np.uint8) if self.equalise else crop


def more_file(place: int) -> str:
    """Return the weight file of the ``place``-th network besides the first, counted from 0."""
    return f"model-{place + 2}.safetensors"


KEYS = ("rows", "columns", "variant", "familiarity", "equalise", "more", "drop_path")
"""What :func:`open_method` reads of a configuration."""


def open_method(config: dict[str, Any]) -> HouseMethod:
    """Read ``rows``, ``columns`` and ``variant``, and what may be left out.

    These are ``familiarity`` (false), ``equalise`` (true), ``more`` (none) and ``drop_path`` (0, of training alone).
    """
    return HouseMethod(
        int(config["rows"]),
        int(config["columns"]),
        str(config["variant"]),
        familiarity=bool(config.get("familiarity", False)),
        equalise=bool(config.get("equalise", True)),
        more=[Member(int(one["rows"]), int(one["columns"]), str(one["variant"])) for one in config.get("more", ())],
        drop_path=float(config.get("drop_path", 0.0)),
    )
