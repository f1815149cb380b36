"""The house method: one upright, equalised crop of the hand, an EfficientNet-Lite with ImageNet weights, sex late.

Not from a paper: it takes what won where one strong network had little data (Deeplasia, Rassmann et al. 2023: an
EfficientNet that sees the masked hand and gets the sex as one more input; label-distribution learning over monthly
bins, Gao et al. 2017). The crop is upright and always a left hand, so rotation, side and mirroring are gone before the
network looks; equalisation takes out every monotone change of grey. The age is the mean of a distribution over 240
monthly bins. A second head, which never sees the sex given, estimates it from the film, for the mismatch alarm. A
bundle may bring what the network's features look like on ordinary films (``inference.familiarity``); hands that differ
from them are flagged.
"""

from __future__ import annotations

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
    """

    centres: Tensor

    def __init__(self, variant: str = "lite0", dropout: float = 0.2, *, familiarity: bool = False) -> None:
        super().__init__()
        self.trunk = EfficientNetLite(variant)
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
    """

    name = "house"

    def __init__(
        self, rows: int, columns: int, variant: str, *, familiarity: bool = False, equalise: bool = True
    ) -> None:
        self.rows, self.columns, self.variant = rows, columns, variant
        self.familiarity, self.equalise = familiarity, equalise
        self.weight_files = WEIGHTS | {FILE: "familiarity."} if familiarity else WEIGHTS

    def make_plain_net(self) -> HouseNet:
        """Return the network that is trained, which knows no strangeness, with fresh weights."""
        return HouseNet(self.variant)

    def make_familiarity(self) -> Familiarity:
        """Return what tells strangeness, with nothing fitted."""
        return Familiarity(self.make_plain_net().trunk.middle_channels)

    def make_net(self) -> HouseNet:
        """Return the network with fresh weights."""
        return HouseNet(self.variant, familiarity=self.familiarity)

    def prepare(self, film: Grey, pose: Pose, centres: Float) -> tuple[Grey]:  # noqa: ARG002 - as AgeMethod has it
        """Return the crop, shape (rows, columns), equalised if asked for; the ROIs' centres play no part."""
        crop = crop_upright(film, pose, (self.columns, self.rows), HAND_WINDOW)
        return (np.asarray(cv2.LUT(crop, equalisation_table(crop)), dtype=np.uint8) if self.equalise else crop,)


def open_method(config: dict[str, Any]) -> HouseMethod:
    """Read ``rows``, ``columns``, ``variant``, ``familiarity`` (false) and ``equalise`` (true)."""
    return HouseMethod(
        int(config["rows"]),
        int(config["columns"]),
        str(config["variant"]),
        familiarity=bool(config.get("familiarity", False)),
        equalise=bool(config.get("equalise", True)),
    )
