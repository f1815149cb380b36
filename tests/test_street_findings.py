"""Findings survive the store: JSON and back, whole, by hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.errors import StoreError
from dicom_node.findings import finding_from_json, finding_to_json
from inference.finding import (
    Box,
    Estimate,
    Finding,
    Flag,
    Laterality,
    ModelIdentity,
    Refusal,
    RefusalCode,
    Roi,
    Sex,
    Subject,
)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=20)
EDGES = st.floats(-1e6, 1e6)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, x1 = sorted(draw(st.tuples(EDGES, EDGES).filter(lambda pair: pair[0] != pair[1])))
    y0, y1 = sorted(draw(st.tuples(EDGES, EDGES).filter(lambda pair: pair[0] != pair[1])))
    return Box(x0, y0, x1, y1)


FLAGS = st.lists(st.builds(Flag, TEXTS, TEXTS), max_size=3).map(tuple)
ROIS = st.lists(st.builds(Roi, TEXTS, boxes(), FLOATS), max_size=18).map(tuple)
MODELS = st.builds(ModelIdentity, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS)
SUBJECTS = st.builds(Subject, st.none() | st.sampled_from(Sex), TEXTS, st.none() | FLOATS, TEXTS, FLAGS)
ESTIMATES = st.builds(
    Estimate, FLOATS, FLOATS, FLOATS, FLOATS, SUBJECTS, st.sampled_from(Laterality), boxes(), ROIS,
    st.integers(1, 2), FLOATS, FLAGS, MODELS,
)  # fmt: skip
REFUSALS = st.builds(
    Refusal, st.sampled_from(RefusalCode), TEXTS, TEXTS, SUBJECTS, st.none() | boxes(), ROIS, FLAGS, st.none() | MODELS
)


@given(ESTIMATES | REFUSALS)
def test_a_finding_comes_back_as_it_was(finding: Finding) -> None:
    found = finding_from_json(finding_to_json(finding))
    assert found == finding
    assert repr(found) == repr(finding)  # the types too: a Sex is a Sex, a tuple a tuple


@given(ESTIMATES | REFUSALS)
def test_json_comes_back_as_it_was(finding: Finding) -> None:
    text = finding_to_json(finding)
    assert finding_to_json(finding_from_json(text)) == text


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"kind": "guess", "finding": {}}', '{"kind": "refusal", "finding": {}}']
)
def test_what_is_no_finding_is_a_store_error(text: str) -> None:
    with pytest.raises(StoreError):
        finding_from_json(text)
