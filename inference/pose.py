"""Where a hand lies in a film: similarity transforms between the template hand and film pixels.

The template is a left hand, palm down, fingers up, thumb to the right, in a unit square (x right, y down): the mean of
the annotated training films after generalised Procrustes alignment, written by ``training.template``. A pose may
reflect: a right hand, or a mirrored film, is the template reflected.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from inference.anatomy import POINT_NAMES

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """An affine map from template coordinates to film pixels: ``film = matrix @ (x, y, 1)``, matrix of shape (2, 3)."""

    matrix: Points

    @property
    def scale(self) -> float:
        """Film pixels per template unit."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    @property
    def mirrored(self) -> bool:
        """Whether the hand is the template reflected: thumb to the left when the fingers point up."""
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    @property
    def rotation_deg(self) -> float:
        """Clockwise angle in degrees from fingers-up to the hand's direction in the film, -180..180."""
        up = self.matrix[:, :2] @ np.array([0.0, -1.0])
        return float(np.degrees(np.arctan2(up[0], -up[1])))

    def to_film(self, points: npt.ArrayLike) -> Points:
        """Map template points, shape (..., 2), to film pixels."""
        return np.asarray(points, dtype=np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_template(self, points: npt.ArrayLike) -> Points:
        """Map film pixels, shape (..., 2), to template points."""
        return (np.asarray(points, dtype=np.float64) - self.matrix[:, 2]) @ np.linalg.inv(self.matrix[:, :2]).T

    def warp_matrix(
        self, side: int | tuple[int, int], window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    ) -> Points:
        """Return the (2, 3) matrix that carries pixels of a canvas to film pixels.

        The canvas shows ``window`` (x0, y0, x1, y1 in template units) in ``side`` x ``side`` or (columns, rows)
        pixels. Use it with ``cv2.warpAffine`` and WARP_INVERSE_MAP. cv2 has pixel centres at integers, this project at
        halves: the half pixels are accounted for.
        """
        x0, y0, x1, y1 = window
        columns, rows = (side, side) if isinstance(side, int) else side
        step_x, step_y = (x1 - x0) / columns, (y1 - y0) / rows
        canvas_to_template = np.array([[step_x, 0, 0.5 * step_x + x0], [0, step_y, 0.5 * step_y + y0], [0, 0, 1]])
        matrix: Points = self.matrix @ canvas_to_template
        matrix[:, 2] -= 0.5
        return matrix


def fit_pose(
    template: npt.ArrayLike, film: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, mirrored: bool | None = None
) -> Pose:
    """Fit the similarity, reflection allowed, that carries template points to film points (Umeyama 1991).

    Parameters
    ----------
    template, film
        Shape (N, 2), N >= 2; rows with a NaN in either are left out.
    weights
        Shape (N,), non-negative.
    mirrored
        Force (True) or forbid (False) a reflection; None takes whichever fits better (needs N >= 3).

    Raises
    ------
    ValueError
        If fewer than two points remain.
    """
    source, target = np.asarray(template, dtype=np.float64), np.asarray(film, dtype=np.float64)
    weight = np.ones(len(source)) if weights is None else np.asarray(weights, dtype=np.float64)
    known = np.isfinite(source).all(1) & np.isfinite(target).all(1) & (weight > 0)
    if known.sum() < 2:
        raise ValueError("A pose needs at least two points.")
    source, target, weight = source[known], target[known], weight[known] / weight[known].sum()
    source_mean, target_mean = weight @ source, weight @ target
    source, target = source - source_mean, target - target_mean
    covariance = (target * weight[:, None]).T @ source
    left, singular, right = np.linalg.svd(covariance)
    sign = np.sign(np.linalg.det(left @ right)) or 1.0
    if mirrored is not None:
        sign = np.sign(np.linalg.det(left @ right)) * (-1.0 if mirrored else 1.0)
        flip = np.array([1.0, sign or 1.0])
    else:
        flip = np.ones(2)
    scale = float((singular * flip).sum() / (weight @ (source**2).sum(1)))
    linear = scale * (left * flip) @ right
    return Pose(np.column_stack([linear, target_mean - linear @ source_mean]))


@cache
def template_points() -> Points:
    """Return the template's points, shape (len(POINT_NAMES), 2), in the unit square."""
    table = json.loads(resources.files("inference").joinpath("template.json").read_text())
    return np.array([table["points"][name] for name in POINT_NAMES], dtype=np.float64)
