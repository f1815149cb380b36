"""Content items as bytes: what highdicom's items and pydicom's writer make of the same, byte for byte.

Not covered: that the tree of a report is right (``test_reports_structured_report.py``, the judges).
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ImageContentItem,
    NumContentItem,
    ScoordContentItem,
    TextContentItem,
    UIDRefContentItem,
)
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sr.coding import Code

from inference.finding import Box
from reports import codes, content
from reports.content import Relation

CONTAINS = Relation.CONTAINS.value
LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
PLACES = st.floats(0, 4000, width=32)
SIDES = st.floats(0.5, 4000, width=32)
NUMBERS = st.one_of(st.integers(-1000, 1000).map(float), st.floats(-1e6, 1e6), st.floats(0, 1).map(lambda x: x / 3))


def written(item: Dataset) -> bytes:
    """Return an item as pydicom writes it."""
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, item, "utf8")
    return file.getvalue()


@given(st.text(LETTERS, min_size=1))
def test_text(value):
    expected = TextContentItem(codes.COMMENT, value, relationship_type=CONTAINS)

    assert content.text(codes.COMMENT, value).encoded() == written(expected)


def test_codes_and_uids():
    code = CodeContentItem(codes.FINDING, codes.SKELETAL_MATURITY, relationship_type="HAS CONCEPT MOD")
    uid = UIDRefContentItem(codes.TRACKING_UID, "2.25.123", relationship_type="HAS OBS CONTEXT")

    found = content.code(codes.FINDING, codes.SKELETAL_MATURITY, relation=Relation.HAS_CONCEPT_MOD)
    assert found.encoded() == written(code)
    assert content.uid_reference(codes.TRACKING_UID, "2.25.123").encoded() == written(uid)


@given(NUMBERS)
def test_a_measure_has_all_decimals_that_fit(value):
    expected = NumContentItem(codes.Z_SCORE, value, codes.NO_UNITS, relationship_type=CONTAINS)

    assert content.measure(codes.Z_SCORE, value, codes.NO_UNITS, Relation.CONTAINS).encoded() == written(expected)


@given(NUMBERS)
def test_a_number_is_printed_with_one_decimal(value):
    expected = NumContentItem(codes.BONE_AGE, value, codes.MONTH, relationship_type=CONTAINS)
    expected.MeasuredValueSequence[0].NumericValue = f"{round(value, 1) + 0.0:.1f}"

    assert content.number(codes.BONE_AGE, value, codes.MONTH).encoded() == written(expected)


@given(st.integers(-(10**9), 10**9))
def test_a_count_is_a_whole_number(value):
    expected = NumContentItem(codes.ROWS, value, codes.PIXELS, relationship_type=CONTAINS)
    expected.MeasuredValueSequence[0].NumericValue = str(value)

    assert content.count(codes.ROWS, value, codes.PIXELS, Relation.CONTAINS).encoded() == written(expected)


@given(PLACES, PLACES, SIDES, SIDES)
def test_regions_in_containers(x0, y0, width, height):
    x1, y1 = x0 + width, y0 + height
    source = Dataset()
    source.SOPClassUID, source.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    image = ImageContentItem(codes.SOURCE, source.SOPClassUID, "1.2.3", relationship_type="SELECTED FROM")
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
    region = ScoordContentItem(codes.IMAGE_REGION, "POLYLINE", corners, relationship_type=CONTAINS)
    region.ContentSequence = [image]
    expected = ContainerContentItem(codes.FINDINGS, False, "1410", relationship_type=CONTAINS)
    expected.ContentSequence = [region]

    found = content.container(codes.FINDINGS, content.region(Box(x0, y0, x1, y1), source), template="1410")
    assert found.encoded() == written(expected)


@pytest.mark.parametrize("code", [Code("x" * 17, "99BONEAGE", "too long"), Code("x", "99BONEAGE", "y" * 65)])
def test_a_code_that_does_not_fit_is_refused(code):
    with pytest.raises(ValueError, match="does not fit"):
        content.code(codes.FINDING, code)


def test_codes_of_one_value_keep_their_meanings():
    first, second = (content.code(codes.FINDING, Code("x", "99BONEAGE", meaning)) for meaning in ("one", "two"))

    assert first.encoded() != second.encoded()


def test_children_come_in_order():
    item = content.with_children(content.text(codes.FINDING, "a"), *(content.text(codes.COMMENT, s) for s in "bc"))

    read = read_dataset(BytesIO(item.encoded()), False, True)
    assert [child.TextValue for child in read.ContentSequence] == ["b", "c"]
    assert content.with_children(item) is item


def test_no_two_methods_have_the_same_code():
    """Given names whose first letters are the same, as those of ensembles are, then their codes differ and fit."""
    methods = ["house", "global-local", "unsupervised-mobilenet", "global-local+house", "global-local+house+2m-net"]
    methods += ["ala-net+global-local", "ala-net+global-local+house", "house+unsupervised-mobilenet"]
    values = [codes.estimation_method(method).value for method in methods]
    assert values[:2] == methods[:2]
    assert len(set(values)) == len(methods)
    assert max(map(len, values)) <= 16
