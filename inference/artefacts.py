"""What transmission and storage do to a film: lines, blocks of a strong compression, grey values that are gone.

A network takes a dark line for a growth plate and the edge of a block for the edge of a bone, and landmarks stay as
sure as before. Each measure is taken from the film's own pixels between the hand's outermost points; thresholds stand
in ``inference.eligibility`` with what films have.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

LINE_CONTRAST, LINE_DEVIATIONS = 4.0, 6.0
"""Least difference in grey values of 256 between a line and the mean of its two neighbours, and the same in standard
deviations of that difference over all lines: noise has none of its own that stand out."""
LINE_STRIPS, LINE_SHARE = 8, 0.5
"""A line stands out in this share of so many strips across the hand, and is the contrary in none."""
LEAST_GRID_CONTRAST = 0.5
"""Least root mean square in grey values of what lines all across the hand have in common to count as a grid."""
LEAST_PART = 24
"""Smallest side in pixels of a part that is looked at."""

_SAMPLES = 256  # places along a row or column that stand for all of it
_BLOCK = 8  # side of a block of JPEG (ISO 10918-1) in pixels
_FLATTEST = 0.3  # grey values; flatter than this is even

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Artefacts:
    """What was found between a hand's outermost points.

    ``lines`` is the larger share, of rows or of columns, that belong to a line. ``blocks`` is the difference between
    pixels on either side of every eighth edge over that at other edges, the smaller of rows and columns. ``grid`` is
    how much of what sets rows, or columns, off from their neighbours is the same all across, as a share of its
    variance: an eighth by chance, all of it under the lines of an anti-scatter grid.
    """

    lines: float = 0.0
    blocks: float = 1.0
    grid: float = 0.0


def find_artefacts(part: Grey) -> Artefacts:
    """Measure the part of a film, shape (rows, columns), that a hand lies in; one too small for it has none."""
    if min(part.shape) < LEAST_PART:
        return Artefacts()
    views = [_sampled(part), _sampled(part.T)]
    strips = [_strips(view) for view in views]
    return Artefacts(max(map(_line_share, strips)), min(map(_block_ratio, views)), max(map(_grid_share, strips)))


def part_between(image: Grey, points: Float) -> Grey:
    """Cut out what lies between the outermost of points (N, 2), x before y, as far as it is in the image."""
    (x0, y0), (x1, y1) = np.maximum(np.floor(points.min(0)), 0).astype(int), np.ceil(points.max(0)).astype(int)
    return image[y0 : max(y0, y1), x0 : max(x0, x1)]


def grey_count(image: Grey, matrix: Float, region: npt.NDArray[np.bool_]) -> float:
    """Return how many grey values, were all as frequent, would tell as much: 2 to the entropy in bits (Shannon 1948).

    ``region`` is a mask (rows, columns) of a canvas whose pixels ``matrix`` (2, 3) carries to the image's. No grey
    value is made by averaging: each pixel of the canvas is one of the image.
    """
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(image, matrix, region.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)[region]
    shares = np.bincount(seen, minlength=1) / max(seen.size, 1)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _sampled(part: Grey) -> npt.NDArray[np.int16]:
    """Take all rows of a part at evenly spread columns."""
    columns = np.linspace(0, part.shape[1] - 1, min(part.shape[1], _SAMPLES)).round().astype(int)
    return part[:, columns].astype(np.int16)


def _strips(view: npt.NDArray[np.int16]) -> Float:
    """Return by how much rows differ from the mean of both their neighbours: medians (LINE_STRIPS, rows) of strips."""
    step = view[1:-1] - (view[:-2] + view[2:]) / 2
    return np.stack([np.median(strip, axis=1) for strip in np.array_split(step, LINE_STRIPS, axis=1)])


def _line_share(strips: Float) -> float:
    """Return the share of rows that stand out, all across, from both their neighbours."""
    deviation = 1.4826 * np.median(np.abs(strips), axis=1, keepdims=True)  # of a Gaussian with that median distance
    contrast = np.maximum(LINE_CONTRAST, LINE_DEVIATIONS * deviation)
    least = LINE_SHARE * LINE_STRIPS
    bright = ((strips > contrast).sum(0) >= least) & (strips >= -contrast / 4).all(0)
    dark = ((strips < -contrast).sum(0) >= least) & (strips <= contrast / 4).all(0)
    return float((bright | dark).mean())


def _grid_share(strips: Float) -> float:
    """Return the share of the strips' variance that is common to all of them, 0 where that is hardly to be seen."""
    common = float((strips.mean(0) ** 2).mean())
    return 0.0 if common < LEAST_GRID_CONTRAST**2 else common / float((strips**2).mean())


def _block_ratio(view: npt.NDArray[np.int16]) -> float:
    """Return the mean difference of rows across the edges of blocks over that across other rows."""
    steps = np.abs(np.diff(view, axis=0)).mean(1)
    phases = np.array([steps[phase::_BLOCK].mean() for phase in range(_BLOCK)])
    others = (phases.sum() - phases.max()) / (_BLOCK - 1)
    return float(phases.max() / max(others, _FLATTEST))
