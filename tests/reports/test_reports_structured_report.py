"""The Structured Report's tree and header. Not covered: what viewers make of it (judges parse it elsewhere)."""

from __future__ import annotations

import copy
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from inference.finding import Box, Laterality, RefusalCode, Roi
from reports import codes, wording
from reports.document import encoded
from reports.errors import UnplaceableFinding
from reports.header import PATIENT_AND_STUDY_TYPE_2
from reports.read_back import (
    children,
    descendants,
    matches,
    measurement_groups,
    named,
    read_bone_age,
    read_refusal,
)
from reports.structured_report import compose_sr
from reports.verify import verify

GOLDEN = Path(__file__).parent / "golden"


def outline(item: Dataset, depth: int = 0) -> list[str]:
    """Return a content tree as lines: relation, type, name, value."""
    name = item.ConceptNameCodeSequence[0]
    relation = item.get("RelationshipType", "ROOT")
    line = (
        f"{'  ' * depth}{relation} {item.ValueType} ({name.CodeValue}, {name.CodingSchemeDesignator}): {_value(item)}"
    )
    return [line.rstrip(), *(below for child in children(item) for below in outline(child, depth + 1))]


def _value(item: Dataset) -> str:
    if item.ValueType == "NUM":
        measured = item.MeasuredValueSequence[0]
        return f"{measured.NumericValue} {measured.MeasurementUnitsCodeSequence[0].CodeValue}"
    if item.ValueType == "CODE":
        return item.ConceptCodeSequence[0].CodeValue
    if item.ValueType == "SCOORD":
        return f"{item.GraphicType} {[float(number) for number in item.GraphicData]}"
    if item.ValueType == "IMAGE":
        return item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    return str(item.get("TextValue") or item.get("UID") or item.get("ContinuityOfContent"))


@pytest.mark.parametrize("case", ["estimate", "refusal", "refusal_with_hand"])
def test_the_tree_is_the_golden_one(case, dx, identify, request):
    """To renew: write the outline into golden/CASE.txt, and read the difference before committing it."""
    document = compose_sr(dx, request.getfixturevalue(case), identify(dx, "sr"))

    assert outline(document) == (GOLDEN / f"{case}.txt").read_text(encoding="utf-8").splitlines()


def test_bone_age_is_the_first_number_and_exact(dx, estimate, identify):
    document = compose_sr(dx, estimate, identify(dx, "sr"))
    group = next(measurement_groups(document))
    first = next(item for item in children(group) if item.ValueType == "NUM")

    assert matches(first.ConceptNameCodeSequence, codes.BONE_AGE)
    assert first.MeasuredValueSequence[0].NumericValue == 132.5
    assert read_bone_age(document) == estimate.age_months


@pytest.mark.parametrize(
    ("case", "language", "words"),
    [
        ("estimate", "en", "Bone age 11 y 0 mo (132.5 months)"),
        ("estimate", "zh", "骨龄 11岁0个月 (132.5个月)"),
        ("refusal", "en", "No bone age: The image does not show a hand."),
        ("refusal_with_hand", "en", "No bone age: The sex is not known, and the method needs it."),
    ],
)
def test_the_first_group_has_a_comment_to_be_listed_by(case, language, words, dx, identify, request):
    """Given a viewer that lists groups by their comments, when it tracks them, then the first one tells the result."""
    document = compose_sr(dx, request.getfixturevalue(case), identify(dx, "sr"), language=language)
    first, *regions = measurement_groups(document)

    assert [comment.TextValue for comment in named(first, codes.COMMENT)] == [words]
    assert not any(list(named(region, codes.COMMENT)) for region in regions)


@pytest.mark.parametrize(("case", "numbered"), [("estimate", 1), ("staged", 14), ("sex_unknown", 1), ("refusal", 0)])
def test_the_first_number_of_a_group_has_the_group_s_region(case, numbered, dx, identify, request):
    """OHIF tracks a group by the region of its first number, where it has a number, and passes over it without."""
    finding = request.getfixturevalue("full")[0] if case == "staged" else request.getfixturevalue(case)
    first_numbers = []
    for group in measurement_groups(compose_sr(dx, finding, identify(dx, "sr"))):
        (region,) = named(group, codes.IMAGE_REGION)
        for number in [item for item in children(group) if item.ValueType == "NUM"][:1]:
            (inferred_from,) = (item for item in children(number) if item.ValueType == "SCOORD")
            assert inferred_from.RelationshipType == "INFERRED FROM"
            assert inferred_from.GraphicData == region.GraphicData
            first_numbers.append(number)

    assert len(first_numbers) == numbered


def test_uncertainties_are_in_months(dx, estimate, identify):
    bone_age = next(named(next(measurement_groups(compose_sr(dx, estimate, identify(dx, "sr")))), codes.BONE_AGE))
    (above,) = named(bone_age, codes.UNCERTAINTY_ABOVE)
    (below,) = named(bone_age, codes.UNCERTAINTY_BELOW)

    for item in (above, below):
        assert item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "mo"
    assert above.MeasuredValueSequence[0].FloatingPointValue == pytest.approx(144.9 - estimate.age_months)
    assert below.MeasuredValueSequence[0].FloatingPointValue == pytest.approx(estimate.age_months - 120.1)


def test_the_model_is_identified_with_its_weights(dx, estimate, model, identify):
    group = next(measurement_groups(compose_sr(dx, estimate, identify(dx, "sr"))))

    assert [item.TextValue for item in named(group, codes.ALGORITHM_NAME)] == [model.name]
    assert [item.TextValue for item in named(group, codes.ALGORITHM_VERSION)] == [model.version]
    parameters = [item.TextValue for item in named(group, codes.ALGORITHM_PARAMETERS)]
    assert f"weights-sha256={model.weights_sha256}" in parameters


def test_a_group_for_each_region(dx, estimate, identify):
    groups = list(measurement_groups(compose_sr(dx, estimate, identify(dx, "sr"))))
    names = [next(named(group, codes.TRACKING_IDENTIFIER)).TextValue for group in groups]
    uids = {next(named(group, codes.TRACKING_UID)).UID for group in groups}

    assert names == ["Bone age, left hand", *(f"Region {roi.name}" for roi in estimate.rois)]
    assert len(uids) == len(groups)


def test_a_refusal_says_why_and_what_to_do(dx, refusal, identify):
    document = compose_sr(dx, refusal, identify(dx, "sr"))
    (evaluations,) = named(document, codes.QUALITATIVE_EVALUATIONS)
    texts = [item.TextValue for item in children(evaluations) if item.ValueType == "TEXT"]

    assert read_bone_age(document) is None
    assert read_refusal(document) is RefusalCode.NOT_A_HAND
    assert any(refusal.sentence in text for text in texts)
    assert refusal.remedy in texts
    assert wording.DISCLAIMER_SENTENCE in texts


@pytest.mark.parametrize("code", RefusalCode)
def test_every_reason_can_be_read_back(code, cr, refusal, identify):
    refused = replace(refusal, code=code)
    document = compose_sr(cr, refused, identify(cr, "sr"))

    assert read_refusal(document) is code
    verify(document, cr, refused)


def test_a_refused_object_without_a_size_still_becomes_a_report(cr, refusal, identify):
    """Given no Rows, when there is nothing to draw on, then image library and measurements are there all the same."""
    del cr.Rows
    document = compose_sr(cr, refusal, identify(cr, "sr"))

    assert list(measurement_groups(document)) == []
    assert list(named(document, codes.IMAGING_MEASUREMENTS))
    assert list(named(document, codes.IMAGE_LIBRARY))
    verify(document, cr, refusal)


def test_regions_are_clipped_and_those_off_the_image_are_named(dx, estimate, identify):
    rois = (Roi("radius", Box(-20, -20, 30, 30), 0.9), Roi("ulna", Box(700, 700, 800, 800), 0.9))
    finding = replace(estimate, rois=rois, hand=Box(-5, -5, 900, 900))
    document = compose_sr(dx, finding, identify(dx, "sr"))
    regions = [[float(n) for n in item.GraphicData] for item in descendants(document) if item.ValueType == "SCOORD"]
    (evaluations,) = named(document, codes.QUALITATIVE_EVALUATIONS)

    assert regions[-1] == [0, 0, 30, 0, 30, 30, 0, 30, 0, 0]
    assert regions[0] == [0, 0, 500, 0, 500, 600, 0, 600, 0, 0]
    assert "Region ulna lies outside the image and is not drawn." in [
        item.TextValue for item in named(evaluations, codes.FLAG)
    ]
    verify(document, dx, finding)


def test_an_estimate_off_the_image_is_a_fault(dx, estimate, identify):
    with pytest.raises(UnplaceableFinding):
        compose_sr(dx, replace(estimate, hand=Box(900, 900, 999, 999)), identify(dx, "sr"))


@given(
    st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 4),
    st.floats(0, 300),
    st.sampled_from(Laterality),
    st.one_of(st.none(), st.floats(-12, 300)),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_estimate_on_the_image_passes(dx, estimate, identify, corners, age, side, chronological):
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    assume(x0 < 500 and x1 > 0 and y0 < 600 and y1 > 0 and x1 - x0 > 1 and y1 - y0 > 1)
    subject = replace(estimate.subject, age_months=chronological)
    finding = replace(
        estimate,
        age_months=age,
        interval_low_months=age - 10,
        interval_high_months=age + 12,
        hand=Box(x0, y0, x1, y1),
        laterality=side,
        subject=subject,
        rois=estimate.rois[:2],
    )
    document = compose_sr(dx, finding, identify(dx, "sr"))

    verify(dcmread(BytesIO(encoded(document))), dx, finding)


def test_the_header_stays_with_patient_and_study(dx, estimate, identify):
    document = compose_sr(dx, estimate, identify(dx, "sr"))

    for keyword in (*PATIENT_AND_STUDY_TYPE_2, "StudyInstanceUID", "StudyDescription"):
        assert document[keyword].value == dx[keyword].value
    assert document.SpecificCharacterSet == "ISO_IR 192"
    assert document.Modality == "SR"
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert (document.SeriesNumber, document.InstanceNumber) == (9001, 1)
    assert (document.ContentDate, document.ContentTime) == ("20261121", "060709")  # in the zone of the film
    assert document.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


def test_the_request_is_referenced(dx, estimate, identify):
    (request,) = compose_sr(dx, estimate, identify(dx, "sr")).ReferencedRequestSequence

    assert request.RequestedProcedureID == "RP1"
    assert request.RequestedProcedureDescription == "Handwurzel für Knochenalter"
    assert request.AccessionNumber == "ACC1"
    assert request.StudyInstanceUID == dx.StudyInstanceUID
    assert "ScheduledProcedureStepID" not in request


def test_without_a_request_there_is_no_reference(cr, refusal, identify):
    assert "ReferencedRequestSequence" not in compose_sr(cr, refusal, identify(cr, "sr"))


@pytest.mark.parametrize(("preliminary", "flag"), [(True, "PRELIMINARY"), (False, "FINAL")])
def test_preliminary_is_a_choice(preliminary, flag, cr, refusal, identify):
    assert compose_sr(cr, refusal, identify(cr, "sr"), preliminary=preliminary).PreliminaryFlag == flag


def test_the_same_work_gives_the_same_bytes(dx, estimate, identify):
    first, second = (encoded(compose_sr(copy.deepcopy(dx), estimate, identify(dx, "sr"))) for _ in range(2))

    assert first == second


def test_the_source_is_left_alone(dx, estimate, identify):
    before = copy.deepcopy(dx)
    compose_sr(dx, estimate, identify(dx, "sr"))

    assert dx == before


@pytest.mark.parametrize(
    ("sop_class", "stated", "written"),
    [
        ("1.2.840.10008.5.1.4.1.1.7", "CR", "CR"),
        ("1.2.840.10008.5.1.4.1.1.7", "RG", "RG"),
        ("1.2.840.10008.5.1.4.1.1.7", "OT", None),
        ("1.2.840.10008.5.1.4.1.1.7", None, None),
        ("1.2.840.10008.5.1.4.1.1.1", "DX", "CR"),
    ],
)
def test_a_film_that_comes_as_a_capture_keeps_its_modality(dx, estimate, identify, sop_class, stated, written):
    """Given another modality than those of CID 29, to which OT does not belong, then none is named."""
    dx.SOPClassUID = sop_class
    dx.Modality = stated
    document = compose_sr(dx, estimate, identify(dx, "sr"))
    verify(document, dx, estimate)
    found = [item for item in descendants(document) if matches(item.get("ConceptNameCodeSequence"), codes.MODALITY)]
    assert [item.ConceptCodeSequence[0].CodeValue for item in found] == ([] if written is None else [written])
