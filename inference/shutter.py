"""The display shutter of a film (PS3.3 C.7.6.11): what of it a viewer shows, and the grey it puts over the rest.

Rows and columns count from 1 here, as DICOM's do. A shutter of which a stated shape cannot be read, or that shows
nothing of its film, is none: nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from inference.header import integers, numbers, texts
from inference.pixels import MAX_PIXELS

Mask = npt.NDArray[np.bool_]

WHITE = 0xFFFF
"""Shutter Presentation Value is a P-Value: 0 black, this white."""
FARTHEST = 2**16
"""Rows and Columns are 16 bits: a place further off, in pixels, is none."""
EDGES = (
    "ShutterLeftVerticalEdge",
    "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge",
)
RECTANGULAR, CIRCULAR, POLYGONAL = "RECTANGULAR", "CIRCULAR", "POLYGONAL"


@dataclass(frozen=True, slots=True)
class Shutter:
    """The shapes of a shutter, at least one; what lies in all of them is shown, their edges included.

    ``rectangle`` is (left, right, upper, lower), ``circle`` (row, column, radius), ``polygon`` its vertices (row,
    column); pixels, counted from 1.
    """

    rectangle: tuple[int, int, int, int] | None = None
    circle: tuple[int, int, int] | None = None
    polygon: tuple[tuple[int, int], ...] = ()
    presentation_value: int = 0  # 0 to WHITE

    @property
    def shapes(self) -> tuple[str, ...]:
        """The values of Shutter Shape (0018,1600)."""
        there = {RECTANGULAR: self.rectangle, CIRCULAR: self.circle, POLYGONAL: self.polygon}
        return tuple(shape for shape, value in there.items() if value)

    def shown(self, rows: int, columns: int) -> Mask:
        """Return what of a film it shows, shape (rows, columns)."""
        mask: Mask = np.ones((rows, columns), dtype=np.bool_)
        if self.rectangle is not None:
            left, right, upper, lower = self.rectangle
            mask[: max(0, upper - 1)] = mask[max(0, lower) :] = False
            mask[:, : max(0, left - 1)] = mask[:, max(0, right) :] = False
        if self.circle is not None:
            row, column, radius = self.circle
            away = np.arange(1, rows + 1)[:, None] - row
            reach = np.where(abs(away) <= radius, np.sqrt(np.maximum(radius**2 - away**2, 0)), -1.0)
            mask &= abs(np.arange(1, columns + 1) - column) <= reach
        if self.polygon:
            corners = np.array([(column - 1, row - 1) for row, column in self.polygon], dtype=np.int32)
            mask &= cv2.fillPoly(np.zeros((rows, columns), dtype=np.uint8), [corners], 1).astype(np.bool_)
        return mask


def states_shutter(ds: Dataset) -> bool:
    """Tell whether a header speaks of a shutter, usable or not."""
    return bool(texts(ds, "ShutterShape"))


def read_shutter(ds: Dataset) -> Shutter | None:
    """Return a film's shutter; None where it has none, or none that can be used with its Rows and Columns."""
    stated = {shape.upper() for shape in texts(ds, "ShutterShape")}
    if not stated or not stated <= {RECTANGULAR, CIRCULAR, POLYGONAL}:
        return None
    shutter = Shutter(
        _rectangle(ds) if RECTANGULAR in stated else None,
        _circle(ds) if CIRCULAR in stated else None,
        _polygon(ds) if POLYGONAL in stated else (),
        _presentation_value(ds),
    )
    rows, columns = integers(ds, "Rows"), integers(ds, "Columns")
    if set(shutter.shapes) != stated or len(rows) != 1 or len(columns) != 1 or rows[0] * columns[0] > MAX_PIXELS:
        return None
    return shutter if shutter.shown(rows[0], columns[0]).any() else None


def _rectangle(ds: Dataset) -> tuple[int, int, int, int] | None:
    edges = tuple(place for keyword in EDGES for place in _places(ds, keyword)[:1])
    if len(edges) != len(EDGES):
        return None
    left, right, upper, lower = edges
    return left, right, upper, lower


def _circle(ds: Dataset) -> tuple[int, int, int] | None:
    centre, radius = _places(ds, "CenterOfCircularShutter"), _places(ds, "RadiusOfCircularShutter")
    return (*centre, radius[0]) if len(centre) == 2 and len(radius) == 1 and radius[0] > 0 else None


def _polygon(ds: Dataset) -> tuple[tuple[int, int], ...]:
    """Return the vertices, () where there are no three; a last one that repeats the first is left out."""
    places = _places(ds, "VerticesOfThePolygonalShutter")
    if len(places) % 2:
        return ()
    vertices = tuple(zip(places[::2], places[1::2], strict=True))
    if vertices and vertices[0] == vertices[-1]:
        vertices = vertices[:-1]
    return vertices if len(vertices) >= 3 else ()


def _places(ds: Dataset, keyword: str) -> tuple[int, ...]:
    """Return the whole numbers of an IS element, () where any is none that lies near a film."""
    values = numbers(ds, keyword)
    return tuple(map(round, values)) if all(abs(value) <= FARTHEST for value in values) else ()


def _presentation_value(ds: Dataset) -> int:
    """Return the grey over what is hidden: black where the header says none."""
    value = integers(ds, "ShutterPresentationValue")
    return value[0] if len(value) == 1 and 0 <= value[0] <= WHITE else 0
