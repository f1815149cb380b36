"""Cut an affine view out of a film so that what is shrunk is averaged, not sampled.

``cv2.warpAffine`` takes the four nearest pixels however small a film becomes (it reads INTER_AREA as INTER_LINEAR), so
that a film shown at a third of its size would be sampled at every third pixel, noise and all.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]


def warp(film: Grey, matrix: Float, extent: tuple[int, int], *, fill: int | None = None) -> Grey:
    """Return what a view shows of a film, shape (rows, columns).

    A view that shows the film at less than half its size is cut from a smaller film, averaged over areas.

    Parameters
    ----------
    film
        Shape (H, W).
    matrix
        Shape (2, 3), from the view's pixels to the film's, both with pixel centres at integers as cv2 has them.
    extent
        Columns and rows of the view.
    fill
        Grey value beyond the film; without, its edge goes on.
    """
    factor = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if factor > 2:
        film, matrix = _shrunk_to(film, matrix, extent, factor)
    border = cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(film, matrix, extent, flags=flags, borderMode=border, borderValue=fill or 0)
    return np.asarray(view, dtype=np.uint8)


def warp_onto(film: Grey, matrix: Float, extent: tuple[int, int], *, fill: int | None = None) -> Grey:
    """Return the canvas of ``extent`` on which a film is put by ``matrix``, which goes from the film's pixels to it."""
    return warp(film, np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float64), extent, fill=fill)


def _shrunk_to(film: Grey, matrix: Float, extent: tuple[int, int], factor: float) -> tuple[Grey, Float]:
    """Shrink what a view shows of a film to twice the view's size; returns it with the matrix from the view to it."""
    film, origin = _region_shown(film, matrix, extent)
    small = _shrunk(film, 2 / factor)
    ratio = np.array([small.shape[1] / film.shape[1], small.shape[0] / film.shape[0]])
    moved: Float = np.column_stack([matrix[:, :2], matrix[:, 2] - origin]) * ratio[:, None]
    moved[:, 2] += 0.5 * ratio - 0.5
    return small, moved


def _region_shown(film: Grey, matrix: Float, extent: tuple[int, int], margin: int = 4) -> tuple[Grey, Float]:
    """Cut the part of a film that a view shows, with a margin; returns it and its corner (x, y) in the film."""
    columns, rows = extent
    corners = matrix @ np.array([[0, columns, 0, columns], [0, 0, rows, rows], [1, 1, 1, 1]], dtype=np.float64)
    reach = margin * float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    whole = np.array([film.shape[1], film.shape[0]])
    low = np.clip(np.floor(corners.min(1) - reach), 0, whole - 1).astype(int)
    high = np.clip(np.ceil(corners.max(1) + reach), low + 1, whole).astype(int)
    return film[low[1] : high[1], low[0] : high[0]], low.astype(np.float64)


def _shrunk(film: Grey, scale: float) -> Grey:
    """Make a part of a film smaller, at least a pixel wide and high: beyond the film a window shows a strip of edge."""
    columns, rows = (round(side * scale) for side in film.shape[::-1])
    if columns and rows:
        return np.asarray(cv2.resize(film, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    extent = (max(1, columns), max(1, rows))
    return np.asarray(cv2.resize(film, extent, interpolation=cv2.INTER_AREA), dtype=np.uint8)
