"""The Enhanced SR says what the measurement report says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reports import codes, wording
from reports.errors import VerificationError
from reports.read_back import descendants, matches
from reports.structured_report import compose_sr
from reports.text_report import compose_text_sr
from reports.verify import verify


def numbers(document) -> list[float]:
    found = [item for item in descendants(document) if matches(item.get("ConceptNameCodeSequence"), codes.BONE_AGE)]
    return [float(item.MeasuredValueSequence[0].NumericValue) for item in found]


def texts(document) -> str:
    return " | ".join(str(item.TextValue) for item in descendants(document) if item.ValueType == "TEXT")


@pytest.mark.parametrize("source", ["dx", "cr"])
@pytest.mark.parametrize("language", wording.LANGUAGES)
def test_an_estimate_and_what_it_means(request, full, identify, source, language):
    header, (finding, assessment) = request.getfixturevalue(source), full
    document = compose_text_sr(header, finding, identify(header, "text"), assessment=assessment, language=language)
    verify(document, header, finding)
    assert numbers(document) == [132.5]
    said = texts(document)
    for sentence in (wording.interval(finding, language), *wording.assessed(assessment, language)):
        assert sentence in said
    assert wording.DISCLAIMER in said


@pytest.mark.parametrize("which", ["refusal", "refusal_with_hand", "sex_unknown"])
def test_a_refusal_has_no_number(request, dx, identify, which):
    finding = request.getfixturevalue(which)
    document = compose_text_sr(dx, finding, identify(dx, "text"))
    verify(document, dx, finding)
    assert numbers(document) == []
    assert finding.remedy in texts(document)


def test_it_has_no_coordinates_and_one_image(dx, estimate, identify):
    kinds = [item.ValueType for item in descendants(compose_text_sr(dx, estimate, identify(dx, "text")))]
    assert "SCOORD" not in kinds
    assert kinds.count("IMAGE") == 1


def test_another_finding_is_noticed(dx, estimate, identify):
    document = compose_text_sr(dx, estimate, identify(dx, "text"))
    with pytest.raises(VerificationError, match="result"):
        verify(document, dx, replace(estimate, age_months=100.0))


def test_the_tree_of_the_fallback_is_the_same(dx, full, identify):
    finding, assessment = full
    identity = identify(dx, "sr")
    three, two = (
        compose_sr(dx, finding, identity, assessment=assessment, three_dimensional=wanted) for wanted in (True, False)
    )
    verify(two, dx, finding)
    assert two.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33"
    assert two.ContentSequence == three.ContentSequence
