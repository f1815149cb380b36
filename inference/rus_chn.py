"""RUS-CHN: points for the stages of 13 bones, and the 50th percentile curve from their sum to an age, by sex.

The numbers lie in ``tables/rus_chn.json`` with the publication they come from. They are a copy of what inference needs:
the tables that reports show are kept by ``reports``, which this package must not import.

Stage 0 is a bone without an ossification centre; it has no points. Published stages start at 1.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor, nn

from inference.anatomy import RUS_NAMES
from inference.finding import Sex

Float = npt.NDArray[np.float64]

STAGE_COUNTS: tuple[int, ...] = (15, 13, 12, 11, 11, 13, 13, 13, 13, 13, 12, 12, 12)
"""Stages of each bone of RUS_NAMES, stage 0 among them (Jia et al. 2022, section 4.3)."""
MOST_STAGES = max(STAGE_COUNTS)
TOP_SCORE = 1000.0
"""Sum of the points when all bones are mature."""

_KEYS = {Sex.MALE: "male", Sex.FEMALE: "female"}


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(resources.files("inference").joinpath("tables/rus_chn.json").read_text())
    return tables


def source() -> str:
    """Return the publication of scores and curve."""
    return str(_tables()["source"])


def stage_scores(sex: Sex) -> Float:
    """Return the points of each stage of each bone, shape (13, 15); 0 where a bone has no such stage."""
    rows = [_tables()["scores"][_KEYS[sex]][name] for name in RUS_NAMES]
    return np.array([row + [0] * (MOST_STAGES - len(row)) for row in rows], dtype=np.float64)


def curve_knots(sex: Sex) -> tuple[Float, Float]:
    """Return the curve's knots: sums of points, rising from 0 to 1000, and the ages in months that go with them."""
    knots = np.array(_tables()["curve"][_KEYS[sex]], dtype=np.float64)
    return knots[:, 1], knots[:, 0] * 12


class _Curve(nn.Module):
    """A monotone piecewise cubic through knots (Fritsch and Carlson 1980), flat beyond its ends."""

    scores: Tensor
    months: Tensor
    slopes: Tensor

    def __init__(self, scores: Float, months: Float) -> None:
        super().__init__()
        slopes = PchipInterpolator(scores, months).derivative()(scores)
        for name, values in (("scores", scores), ("months", months), ("slopes", slopes)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, score: Tensor) -> Tensor:
        score = score.clamp(0.0, TOP_SCORE)
        place = torch.searchsorted(self.scores, score.detach().contiguous(), right=True).clamp(1, len(self.scores) - 1)
        low, high = self.scores[place - 1], self.scores[place]
        extent = high - low
        t = (score - low) / extent
        return (
            (1 + 2 * t) * (1 - t) ** 2 * self.months[place - 1]
            + t * (1 - t) ** 2 * extent * self.slopes[place - 1]
            + t**2 * (3 - 2 * t) * self.months[place]
            + t**2 * (t - 1) * extent * self.slopes[place]
        )


class Maturity(nn.Module):
    """From stages to points and to an age: nothing to learn, differentiable in the stages' probabilities."""

    points: Tensor

    def __init__(self) -> None:
        super().__init__()
        tables = np.stack([stage_scores(sex) for sex in (Sex.MALE, Sex.FEMALE)])
        self.register_buffer("points", torch.tensor(tables, dtype=torch.float32), persistent=False)
        self.of_male, self.of_female = (_Curve(*curve_knots(sex)) for sex in (Sex.MALE, Sex.FEMALE))

    def bone_scores(self, stages: Tensor, male: Tensor) -> Tensor:
        """Return the expected points of each bone, shape (N, 13), of stages (N, 13, 15) and sexes (N,) (+1 male)."""
        points = torch.where(male[:, None, None] > 0, self.points[0], self.points[1])
        return (stages.float() * points).sum(-1)

    def forward(self, score: Tensor, male: Tensor) -> Tensor:
        """Return the ages in months at which half of the children have these sums of points; both of shape (N,).

        The curve ends at 18 years for boys and 17 for girls, whatever is mature reads as that.
        """
        return torch.where(male > 0, self.of_male(score), self.of_female(score))
