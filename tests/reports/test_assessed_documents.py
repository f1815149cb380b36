"""What the documents say beside the bone age: references, stages, earlier results, either sex, other languages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from inference.anatomy import RUS_NAMES
from reports import codes, lettering, wording
from reports.chart import draw_chart
from reports.clinic import ClinicSettings, assess
from reports.overlay import Extras, draw_overlay
from reports.palette import GREY, PANEL
from reports.profile_bars import draw_profile
from reports.read_back import (
    _months,
    children,
    descendants,
    matches,
    measurement_groups,
    named,
    read_bone_age,
    read_refusal,
)
from reports.secondary_capture import compose_sc, patient_line
from reports.structured_report import compose_sr
from reports.text_report import compose_text_sr
from reports.verify import verify


@pytest.fixture
def film() -> np.ndarray:
    return np.tile(np.linspace(20, 220, 500).astype(np.uint8), (600, 1))


def numbers(parent) -> list[tuple[str, float]]:
    return [
        (item.ConceptNameCodeSequence[0].CodeValue, float(item.MeasuredValueSequence[0].NumericValue))
        for item in children(parent)
        if item.ValueType == "NUM"
    ]


def texts(document) -> list[str]:
    return [str(item.TextValue) for item in descendants(document) if item.ValueType == "TEXT"]


@pytest.mark.parametrize(("case", "named"), [("full", None), ("two_models", "Bone age, precise-baa")])
def test_stages_of_another_model_bear_its_name(dx, identify, request, case, named):
    """Given stages of another model than the age's, then each number made of them names it, and no other does."""
    finding, assessment = request.getfixturevalue(case)
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment)
    verify(document, dx, finding)
    told = {"RUS-SCORE", "RUS-AGE", "BONE-STAGE", "BONE-POINTS"}
    for item in descendants(document):
        if item.ValueType == "NUM":
            made_of_stages = item.ConceptNameCodeSequence[0].CodeValue in told
            names = [
                child.TextValue
                for child in children(item)
                if matches(child.ConceptNameCodeSequence, codes.ALGORITHM_NAME)
            ]
            assert names == ([named] if named and made_of_stages else [])
    lines = [text for text in texts(document) if "RUS-CHN: score" in text]
    assert lines
    assert all(("; precise-baa 0.1.0)" in line) == bool(named) for line in lines)
    assert ("precise-baa" in wording.profile_title(finding.profile, "zh")) == bool(named)


def test_the_first_five_numbers_are_what_a_viewer_shows(dx, full, identify):
    finding, assessment = full
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment)
    verify(document, dx, finding)
    group = next(measurement_groups(document))
    assert [name for name, _ in numbers(group)][:4] == ["85151-9", "30525-0", "AGE-DIFFERENCE", "113071"]
    found = dict(numbers(group))
    assert found["113071"] == pytest.approx(assessment.sd.value, abs=1e-3)
    assert found["ADULT-HEIGHT"] == pytest.approx(assessment.heights[-1].centimetres, abs=0.06)
    assert found["EARLIER-RESULT"] == 116.0
    assert found["VELOCITY"] == pytest.approx(assessment.course.velocity, abs=0.06)
    assert {"RUS-SCORE", "RUS-AGE"} <= set(found)


def spans(item) -> list[tuple[str, float, str]]:
    """Return an item's uncertainties: which way, how far, in which unit."""
    return [
        (
            "above" if name is codes.UNCERTAINTY_ABOVE else "below",
            float(child.MeasuredValueSequence[0].FloatingPointValue),
            child.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
        )
        for name in (codes.UNCERTAINTY_ABOVE, codes.UNCERTAINTY_BELOW)
        for child in named(item, name)
    ]


@pytest.mark.parametrize(
    ("name", "field", "unit"),
    [(codes.VELOCITY, "velocity_half_width", "mo/a"), (codes.SD_CHANGE, "sd_change_half_width", "1")],
)
def test_what_changed_has_its_uncertainty_beside_it(dx, full, identify, name, field, unit):
    """Given intervals of both results, then the report has the uncertainty both make together, as a number."""
    finding, assessment = full
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment)
    (item,) = named(next(measurement_groups(document)), name)
    half = getattr(assessment.course, field)
    assert half > 0
    assert spans(item) == [("above", pytest.approx(half), unit), ("below", pytest.approx(half), unit)]


def test_an_earlier_result_keeps_its_own_interval(dx, full, identify):
    finding, assessment = full
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment)
    (item,) = named(next(measurement_groups(document)), codes.EARLIER_RESULT)
    assert spans(item) == [("above", 12.0, "mo"), ("below", 12.0, "mo")]


def test_an_uncertainty_that_is_not_known_is_said_and_not_written_as_a_number(dx, full, identify):
    finding, assessment = full
    blind = replace(assessment.course, velocity_half_width=None, sd_change_half_width=None)
    track = tuple(replace(prior, half_width_months=None) for prior in assessment.track)
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=replace(assessment, course=blind, track=track))
    group = next(measurement_groups(document))
    for name in (codes.VELOCITY, codes.SD_CHANGE, codes.EARLIER_RESULT):
        assert [spans(item) for item in named(group, name)] == [[]]
    assert any("uncertainty not known" in text for text in texts(document))
    assert "不确定度不明" in wording.course(blind, "zh")


def test_every_document_says_the_course_with_its_uncertainty(dx, full, film, identify, monkeypatch):
    """Given both intervals, then report, text report and picture say the same sentence, of both changes."""
    finding, assessment = full
    course = assessment.course
    sentence = (
        f"Since 2024-10-01 (bone age then 9 y 8 mo): "
        f"+{course.velocity:.1f} (+/- {course.velocity_half_width:.1f}) months of bone age a year, "
        f"change of the SD score +{course.sd_change:.1f} (+/- {course.sd_change_half_width:.1f}) (90 % intervals)"
    )
    assert sentence in texts(compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment))
    assert sentence in texts(compose_text_sr(dx, finding, identify(dx, "text"), assessment=assessment))
    drawn: list[str] = []
    wrapped = lettering.wrapped
    monkeypatch.setattr(lettering, "wrapped", lambda text, *rest: drawn.append(text) or wrapped(text, *rest))
    compose_sc(dx, finding, film, identify(dx, "sc"), assessment=assessment)
    assert sentence in drawn


def test_the_bone_age_stands_beside_its_population(dx, full, identify):
    finding, assessment = full
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment)
    (age,) = named(next(measurement_groups(document)), codes.BONE_AGE)
    properties = {item.ConceptNameCodeSequence[0].CodeMeaning for item in children(age)}
    assert {"Normality", "Z-Score of measurement", "Normal Range Lower Limit", "Population description"} <= properties
    (authority,) = named(age, codes.AUTHORITY)
    assert "Greulich" in authority.TextValue


def test_each_bone_has_its_stage_and_says_it_is_derived(dx, full, identify):
    finding, assessment = full
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment)
    staged = [group for group in measurement_groups(document) if any(True for _ in named(group, codes.BONE_STAGE))]
    assert len(staged) == len(RUS_NAMES)
    assert all("derived" in item.ConceptNameCodeSequence[0].CodeMeaning for item in named(staged[0], codes.BONE_STAGE))


def test_text_viewers_read_the_assessment(dx, full, identify):
    finding, assessment = full
    said = " | ".join(texts(compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment)))
    for part in ("SD score", "Brush Foundation", "Bayley-Pinneau", "RUS-CHN", "derived, not read", "Since 2024-10-01"):
        assert part in said


def test_without_an_assessment_nothing_is_said_of_it(dx, estimate, identify):
    document = compose_sr(dx, estimate, identify(dx, "sr"))
    assert "113071" not in dict(numbers(next(measurement_groups(document))))


def test_an_unknown_sex_gives_two_ages_that_nobody_takes_for_one(dx, sex_unknown, identify):
    document = compose_sr(dx, sex_unknown, identify(dx, "sr"))
    verify(document, dx, sex_unknown)
    assert read_bone_age(document) is None
    assert read_refusal(document) is sex_unknown.code
    assert numbers(next(measurement_groups(document))) == [("AGE-IF-MALE", 120.0), ("AGE-IF-FEMALE", 108.0)]
    assert any("If male: 10 y 0 mo" in text and "If female: 9 y 0 mo" in text for text in texts(document))
    assert any(text.startswith("Sex: not known") for text in texts(document))


@pytest.mark.parametrize("kind", ["sr", "sc"])
@pytest.mark.parametrize("result", ["estimate", "sex_unknown"])
def test_documents_in_chinese_verify(dx, estimate, sex_unknown, film, identify, kind, result):
    finding = estimate if result == "estimate" else sex_unknown
    if kind == "sr":
        document = compose_sr(dx, finding, identify(dx, "sr"), language="zh")
        language = next(item for item in children(document) if matches(item.ConceptNameCodeSequence, codes.LANGUAGE))
        assert language.ConceptCodeSequence[0].CodeValue == "zh"
        meanings = [
            i.ConceptNameCodeSequence[0].CodeMeaning for i in descendants(document) if "ConceptNameCodeSequence" in i
        ]
        assert all(meaning.isascii() for meaning in meanings)
    else:
        document = compose_sc(dx, finding, film, identify(dx, "sc"), language="zh")
        assert "骨龄" in document.ImageComments
    verify(document, dx, finding)


def test_chart_and_profile_stand_in_the_strip(full, film):
    finding, assessment = full
    plain, charted = draw_overlay(film, finding), draw_overlay(film, finding, extras=Extras(assessment))
    strip = charted[1020:]
    assert charted.shape[1] >= plain.shape[1]
    band = np.all(strip == np.array((40, 62, 74)), axis=2)
    assert band.sum() > 2000
    columns = np.nonzero(band.any(axis=0))[0]
    assert columns.min() > charted.shape[1] / 2


def test_the_score_of_the_report_has_its_uncertainty(dx, full, identify):
    finding, assessment = full
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment)
    (score,) = [item for group in measurement_groups(document) for item in named(group, codes.Z_SCORE)]
    above, below = (
        next(named(score, name)).MeasuredValueSequence[0] for name in (codes.UNCERTAINTY_ABOVE, codes.UNCERTAINTY_BELOW)
    )
    low, high = assessment.sd.interval
    assert above.FloatingPointValue == pytest.approx(high - assessment.sd.value)
    assert below.FloatingPointValue == pytest.approx(assessment.sd.value - low)
    assert above.MeasurementUnitsCodeSequence[0].CodeValue == "1"


def test_an_adult_height_has_both_errors_as_uncertainty(dx, full, identify):
    """Given heights, then uncertainties are of method and bone age, and a text says which is whose."""
    finding, assessment = full
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment)
    items = list(named(next(measurement_groups(document)), codes.ADULT_HEIGHT))
    assert len(items) == len(assessment.heights) == 2
    for item, height in zip(items, assessment.heights, strict=True):
        (low, high), value = height.total, height.centimetres
        assert spans(item) == [
            ("above", pytest.approx(high - value), "cm"),
            ("below", pytest.approx(value - low), "cm"),
        ]
        assert high - value > height.high - value
        (text,) = named(item, codes.INTERVAL)
        assert text.TextValue == wording.height_ranges(height)
        assert "bone age alone" in text.TextValue
        assert wording.height(height) in texts(document)


def test_an_age_in_whole_years_is_no_exact_number(dx, estimate, identify):
    """Given "010Y", then programs read 10 years, open above by twelve months, and neither difference nor score."""
    finding = replace(estimate, subject=replace(estimate.subject, age_months=120.0, age_span_months=12.0))
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=assess(finding, height_cm=140.0))
    verify(document, dx, finding)
    (subject_age,) = named(document, codes.SUBJECT_AGE)
    measured = subject_age.MeasuredValueSequence[0]
    assert (float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue) == (10.0, "a")
    group = next(measurement_groups(document))
    (age,) = named(group, codes.CHRONOLOGICAL_AGE)
    assert (_months(age), spans(age)) == (120.0, [("above", 12.0, "mo"), ("below", 0.0, "mo")])
    assert not any(True for name in (codes.AGE_DIFFERENCE, codes.Z_SCORE) for _ in named(group, name))
    (bone_age,) = named(group, codes.BONE_AGE)
    assert not any(True for _ in named(bone_age, codes.Z_SCORE_OF_MEASUREMENT))
    (normality,) = named(bone_age, codes.NORMALITY)  # at every age of the year
    assert normality.ConceptCodeSequence[0].CodeValue == "17621005"
    assert any(text.startswith("SD score -0.5 to +0.7, by exact age from 10 y 0 mo") for text in texts(document))


def test_an_age_in_whole_months_has_its_span_as_uncertainty(dx, estimate, identify):
    finding = replace(estimate, subject=replace(estimate.subject, age_months=128.0, age_span_months=1.0))
    group = next(measurement_groups(compose_sr(dx, finding, identify(dx, "sr"), assessment=assess(finding))))
    (apart,) = named(group, codes.AGE_DIFFERENCE)
    assert _months(apart) == pytest.approx(finding.age_months - 128.5)
    assert spans(apart) == [("above", 0.5, "mo"), ("below", 0.5, "mo")]
    assert any(True for _ in named(group, codes.Z_SCORE))


@pytest.mark.parametrize(("normal_sd", "normality"), [(1.0, "371879000"), (2.0, "17621005"), (3.0, "17621005")])
def test_normality_and_normal_range_follow_one_rule(dx, estimate, identify, normal_sd, normality):
    """Given a bone age of 1.5 SD, and a site that calls more than 1 SD advanced, then it lies beyond the range, too."""
    usual = assess(estimate).sd
    finding = replace(estimate, age_months=usual.mean_months + 1.5 * usual.sd_months)
    assessment = assess(finding, settings=ClinicSettings(normal_sd=normal_sd))
    document = compose_sr(dx, finding, identify(dx, "sr"), assessment=assessment)
    (bone_age,) = [item for group in measurement_groups(document) for item in named(group, codes.BONE_AGE)]
    low, high = (next(named(bone_age, name)) for name in (codes.NORMAL_RANGE_LOW, codes.NORMAL_RANGE_HIGH))
    (said,) = named(bone_age, codes.NORMALITY)
    assert said.ConceptCodeSequence[0].CodeValue == normality
    assert (_months(low) <= finding.age_months <= _months(high)) == (normality == "17621005")
    assert _months(high) - _months(low) == pytest.approx(2 * normal_sd * usual.sd_months)


@pytest.mark.parametrize("language", wording.LANGUAGES)
def test_the_heading_of_stages_is_not_cut_off(two_models, language):
    """Given a model whose training did not converge, then its version says so to the end."""
    finding, _ = two_models
    stager = replace(finding.profile.model, version="0.1.0+site-unconverged")
    narrow, wide = (
        np.asarray(draw_profile(replace(finding.profile, model=stager), width, language)) for width in (440, 900)
    )
    assert narrow.shape[0] > wide.shape[0]  # a line more
    grey = [int((np.abs(drawn.astype(int) - GREY) < 30).all(axis=2).sum()) for drawn in (narrow, wide)]
    assert grey[0] == pytest.approx(grey[1], rel=0.02)  # and no letter less


@pytest.mark.parametrize("language", wording.LANGUAGES)
@pytest.mark.parametrize("reference", ["brush-foundation", "greulich-pyle"])
def test_the_charts_heading_is_drawn_whole(full, language, reference):
    """Given a reference with a long name, then its letters are smaller rather than cut off at the picture's edge."""
    finding, _ = full
    assessment = assess(finding, settings=ClinicSettings(reference=reference))
    title = wording.chart_title(assessment, language)
    narrow, wide = (draw_chart(finding, assessment, (width, 340), title) for width in (440, 900))
    heading = [np.asarray(picture)[:30] for picture in (narrow, wide)]
    assert (heading[0][:, -2:] == PANEL).all()
    drawn = [np.count_nonzero((part != PANEL).any(axis=2)) for part in heading]
    assert drawn[0] > 0.6 * drawn[1]  # smaller letters, none less


def test_the_dot_moves_with_the_bone_age(full, film):
    finding, assessment = full
    older = replace(finding, age_months=finding.age_months + 24)
    assert not np.array_equal(
        draw_overlay(film, finding, extras=Extras(assessment)), draw_overlay(film, older, extras=Extras(assessment))
    )


@pytest.mark.parametrize(("name", "line"), [("王^小明", "王 小明"), ("Παπαδοπούλου^Ελένη", "Παπαδοπούλου Ελένη")])
def test_a_site_may_have_the_patient_named(dx, estimate, film, identify, name, line):
    dx.SpecificCharacterSet = "ISO_IR 192"
    dx.PatientName = name
    assert patient_line(dx) == f"{line}, PID 0815, born 2015-03-01, film of 2025-11-01"
    assert patient_line(dx, "zh") == f"{line}, PID 0815, 出生 2015-03-01, 拍片 2025-11-01"
    dx.PatientBirthDate, dx.StudyDate = "", ""
    assert patient_line(dx) == f"{line}, PID 0815"
    named_, unnamed = (
        compose_sc(dx, estimate, film, identify(dx, "sc"), name_patient=wanted) for wanted in (True, False)
    )
    assert named_.Rows > unnamed.Rows
    assert named_.BurnedInAnnotation == "YES"


def test_a_patient_without_a_name_is_not_named(cr):
    assert patient_line(cr) is None


@pytest.mark.parametrize("value", ["12 years", float("inf"), float("nan"), None])
def test_a_number_that_is_none_is_not_read(value):
    item, measured, unit = Dataset(), Dataset(), Dataset()
    unit.CodeValue = "mo"
    measured.MeasurementUnitsCodeSequence = [unit]
    measured.add(DataElement("FloatingPointValue", "LO", value) if isinstance(value, str) else _floating(value))
    item.MeasuredValueSequence = [measured]
    assert _months(item) is None


def _floating(value):
    return DataElement("FloatingPointValue", "FD", value)


@pytest.mark.parametrize(
    ("method", "named"),
    [("house", True), ("house+ala-net", True), ("precise-baa", False), ("house+precise-baa", False)],
)
def test_the_line_of_the_model_names_the_standard_of_its_training(estimate, method, named):
    """Given a method whose readings are of no listed standard, then none is named."""
    finding = replace(estimate, model=replace(estimate.model, method=method))
    assert ("Greulich-Pyle" in wording.model_line(finding)) is named
    assert ("Greulich-Pyle" in wording.model_line(finding, "zh")) is named
