"""Display shutters: what of a film they show, and which of them are none.

Does not cover: what is drawn over the rest (test_film.py), presentation states (tests/reports).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from inference.shutter import Shutter, read_shutter, states_shutter

RECTANGLE = {
    "ShutterLeftVerticalEdge": "11",
    "ShutterRightVerticalEdge": "30",
    "ShutterUpperHorizontalEdge": "6",
    "ShutterLowerHorizontalEdge": "55",
}
CIRCLE = {"CenterOfCircularShutter": "30\\20", "RadiusOfCircularShutter": "12"}
POLYGON = {"VerticesOfThePolygonalShutter": "1\\1\\1\\40\\60\\1"}
ALL = RECTANGLE | CIRCLE | POLYGON
VRS = {"ShutterShape": "CS"}


def header(shape: str, **values: str) -> Dataset:
    """Return a header of 60 x 40 pixels as it comes from a file: raw, converted by nobody."""
    ds = Dataset()
    for keyword, value in {"ShutterShape": shape, **values}.items():
        tag, raw = Tag(keyword), value.encode()
        ds[tag] = RawDataElement(
            tag, VRS.get(keyword, "IS"), len(raw), raw, 0, is_implicit_VR=False, is_little_endian=True
        )
    ds.Rows, ds.Columns = 60, 40
    return ds


def test_a_rectangle_shows_its_rows_and_columns():
    shutter = read_shutter(header("RECTANGULAR", **RECTANGLE))
    rows, columns = np.nonzero(shutter.shown(60, 40))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 54, 10, 29)
    assert shutter.shown(60, 40).sum() == 50 * 20
    assert (shutter.shapes, shutter.presentation_value) == (("RECTANGULAR",), 0)


def test_a_circle_is_round_its_centre():
    rows, columns = np.nonzero(read_shutter(header("CIRCULAR", **CIRCLE)).shown(60, 40))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (29 - 12, 29 + 12, 19 - 12, 19 + 12)
    assert len(rows) == pytest.approx(np.pi * 12**2, rel=0.03)


def test_a_polygon_shows_what_lies_in_it():
    shown = read_shutter(header("POLYGONAL", **POLYGON)).shown(60, 40)
    assert shown.sum() == pytest.approx(60 * 40 / 2, rel=0.05)
    assert (shown[0, 0], shown[0, 39], shown[59, 0], shown[59, 39]) == (True, True, True, False)
    closed = header("POLYGONAL", VerticesOfThePolygonalShutter="1\\1\\1\\40\\60\\1\\1\\1")
    assert read_shutter(closed) == read_shutter(header("POLYGONAL", **POLYGON))


def test_of_several_shapes_what_lies_in_all_is_shown():
    shown = read_shutter(header("RECTANGULAR\\CIRCULAR\\POLYGONAL", **ALL)).shown(60, 40)
    each = [read_shutter(header(shape, **ALL)).shown(60, 40) for shape in ("RECTANGULAR", "CIRCULAR", "POLYGONAL")]
    assert np.array_equal(shown, np.logical_and.reduce(each))
    assert 0 < shown.sum() < min(one.sum() for one in each)


def test_the_grey_over_the_rest_is_black_unless_said():
    ds = header("RECTANGULAR", **RECTANGLE)
    ds.ShutterPresentationValue = 0xFFFF
    assert read_shutter(ds).presentation_value == 0xFFFF


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ("RECTANGULAR", RECTANGLE | {"ShutterLeftVerticalEdge": ""}),
        ("RECTANGULAR", RECTANGLE | {"ShutterLeftVerticalEdge": "31"}),
        ("RECTANGULAR", RECTANGLE | {"ShutterUpperHorizontalEdge": "61", "ShutterLowerHorizontalEdge": "90"}),
        ("RECTANGULAR", RECTANGLE | {"ShutterRightVerticalEdge": "thirty"}),
        ("RECTANGULAR", RECTANGLE | {"ShutterRightVerticalEdge": "99999999999"}),
        ("RECTANGULAR", CIRCLE),
        ("CIRCULAR", CIRCLE | {"RadiusOfCircularShutter": "0"}),
        ("CIRCULAR", CIRCLE | {"CenterOfCircularShutter": "30"}),
        ("CIRCULAR", CIRCLE | {"CenterOfCircularShutter": "300\\200"}),
        ("POLYGONAL", {"VerticesOfThePolygonalShutter": "1\\1\\60\\40"}),
        ("POLYGONAL", {"VerticesOfThePolygonalShutter": "1\\1\\60\\40\\60"}),
        ("RECTANGULAR\\CIRCULAR", RECTANGLE),
        ("BITMAP", ALL),
    ],
)
def test_a_shutter_that_cannot_be_used_is_none(shape, values):
    """Given a shape without its places, beside the film, or of another kind, then nothing is guessed."""
    ds = header(shape, **values)
    assert read_shutter(ds) is None
    assert states_shutter(ds)


def test_a_header_of_absurd_size_makes_no_mask():
    ds = header("CIRCULAR", **CIRCLE)
    ds.Rows = ds.Columns = 0xFFFF
    assert read_shutter(ds) is None


def test_no_shape_is_no_shutter():
    ds = header("", **ALL)
    assert (read_shutter(ds), states_shutter(ds)) == (None, False)


places = st.integers(-100, 200)


@given(st.tuples(places, places, places, places), st.tuples(places, places, st.integers(1, 150)))
def test_any_places_show_a_part_of_the_film(edges, circle):
    shown = Shutter(edges, circle).shown(60, 40)
    left, right, upper, lower = edges
    y, x = np.mgrid[1:61, 1:41]
    expected = (x >= left) & (x <= right) & (y >= upper) & (y <= lower)
    expected &= (y - circle[0]) ** 2 + (x - circle[1]) ** 2 <= circle[2] ** 2
    assert np.array_equal(shown, expected)
