"""Make the template hand: the mean of the annotated training films by generalised Procrustes (Gower 1975)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inference.anatomy import POINT_NAMES
from inference.pose import fit_pose
from training.annotations import Annotation

_TOP, _BOTTOM = 0.06, 0.90  # template rows of the middle finger's tip and of the radius
_ROUNDS = 8


def film_points(annotation: Annotation, rows: float = 1.0) -> npt.NDArray[np.float64]:
    """Return an annotation's points in pixels of a film ``rows`` high, shape (44, 2), NaN where absent."""
    return annotation.array().astype(np.float64) * (rows * annotation.aspect, rows)


def make_template(annotations: list[Annotation]) -> npt.NDArray[np.float64]:
    """Return the template's points, shape (44, 2): fingers up, thumb right, centred in the unit square."""
    shapes = [film_points(annotation) for annotation in annotations]
    mean = max(shapes, key=lambda shape: int(np.isfinite(shape).sum())).copy()
    for _ in range(_ROUNDS):
        aligned = [fit_pose(mean, shape).to_template(shape) for shape in shapes if _shared(mean, shape) >= 6]
        mean = np.nanmean(np.stack(aligned), axis=0)
    mean = _upright(mean)
    tip, radius = (mean[POINT_NAMES.index(name)] for name in ("TIP3", "radius"))
    mean = np.asarray(mean) * (_BOTTOM - _TOP) / (radius[1] - tip[1])
    mean += (0.5 - (mean[:, 0].min() + mean[:, 0].max()) / 2, _TOP - mean[POINT_NAMES.index("TIP3"), 1])
    return np.asarray(mean, dtype=np.float64)


def _shared(mean: npt.NDArray[np.float64], shape: npt.NDArray[np.float64]) -> int:
    return int((np.isfinite(mean).all(1) & np.isfinite(shape).all(1)).sum())


def _upright(mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    at = {name: mean[place] for place, name in enumerate(POINT_NAMES)}
    up = at["DP3"] - (at["radius"] + at["ulna"]) / 2
    up /= np.linalg.norm(up)
    turned = mean @ np.array([[-up[1], -up[0]], [up[0], -up[1]]])
    thumb_right = turned[POINT_NAMES.index("DP1"), 0] > turned[POINT_NAMES.index("DP5"), 0]
    return np.asarray(turned if thumb_right else turned * (-1, 1), dtype=np.float64)
