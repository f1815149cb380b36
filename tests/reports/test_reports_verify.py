"""That verification stops every document that says something else than its source or finding.

Not covered: documents broken on disk (the node reads them before it verifies).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydicom.dataset import Dataset

from inference.finding import RefusalCode
from reports import codes
from reports.errors import ReportError, VerificationError
from reports.read_back import descendants, measurement_groups, named, read_bone_age, read_refusal
from reports.secondary_capture import compose_sc
from reports.structured_report import compose_sr
from reports.verify import verify


def bone_age_of(document: Dataset) -> Dataset:
    return next(named(next(measurement_groups(document)), codes.BONE_AGE)).MeasuredValueSequence[0]


def of_type(document: Dataset, value_type: str) -> Dataset:
    return next(item for item in descendants(document) if item.ValueType == value_type)


def evaluations(document: Dataset) -> Dataset:
    return next(named(document, codes.QUALITATIVE_EVALUATIONS))


def drop_last_evaluation(document: Dataset) -> None:
    del evaluations(document).ContentSequence[-1]


def drop_item(document: Dataset, name: codes.Code) -> None:
    group = next(measurement_groups(document))
    group.ContentSequence = [item for item in group.ContentSequence if item not in list(named(group, name))]


REPORT_FAULTS = {
    "another patient": ("patient-and-study", lambda ds: setattr(ds, "PatientID", "PID 0816")),
    "a mangled name": ("patient-and-study", lambda ds: setattr(ds, "PatientName", "M?ster^J?rg^^Dr")),
    "no birth date": ("patient-and-study", lambda ds: setattr(ds, "PatientBirthDate", "")),
    "a type 2 attribute gone": ("patient-and-study", lambda ds: delattr(ds, "StudyID")),
    "another study": ("patient-and-study", lambda ds: setattr(ds, "StudyInstanceUID", "1.2.3")),
    "the image's series": ("identity", lambda ds: setattr(ds, "SeriesInstanceUID", "1.2.826.0.1.3680043.8.498.3")),
    "no instance UID": ("identity", lambda ds: delattr(ds, "SOPInstanceUID")),
    "no evidence": ("references", lambda ds: delattr(ds, "CurrentRequestedProcedureEvidenceSequence")),
    "another image": (
        "references",
        lambda ds: setattr(of_type(ds, "IMAGE").ReferencedSOPSequence[0], "ReferencedSOPInstanceUID", "1.2.3"),
    ),
    "another age": ("result", lambda ds: setattr(bone_age_of(ds), "FloatingPointValue", 133.0)),
    "another printed age": ("result", lambda ds: setattr(bone_age_of(ds), "NumericValue", "133.5")),
    "another unit": (
        "result",
        lambda ds: setattr(bone_age_of(ds).MeasurementUnitsCodeSequence[0], "CodeValue", "a"),
    ),
    "no age": ("result", lambda ds: drop_item(ds, codes.BONE_AGE)),
    "another conclusion": (
        "conclusion",
        lambda ds: setattr(next(named(evaluations(ds), codes.CONCLUSION)), "TextValue", "Normal."),
    ),
    "no disclaimer": ("disclaimer", drop_last_evaluation),
    "a continuous container": (
        "form",
        lambda ds: setattr(of_type(ds, "CONTAINER"), "ContinuityOfContent", "CONTINUOUS"),
    ),
    "no region": ("form", lambda ds: drop_item(ds, codes.IMAGE_REGION)),
    "no tracking UID": ("form", lambda ds: drop_item(ds, codes.TRACKING_UID)),
    "a region off the image": (
        "form",
        lambda ds: setattr(of_type(ds, "SCOORD"), "GraphicData", [0, 0, 501, 0, 501, 9, 0, 9, 0, 0]),
    ),
    "an open region": (
        "form",
        lambda ds: setattr(of_type(ds, "SCOORD"), "GraphicData", [0, 0, 9, 0, 9, 9, 0, 9]),
    ),
    "a malformed reference": (
        "malformed",
        lambda ds: delattr(of_type(ds, "IMAGE").ReferencedSOPSequence[0], "ReferencedSOPInstanceUID"),
    ),
    "another class": ("sop-class", lambda ds: setattr(ds, "SOPClassUID", "1.2.3")),
}

CAPTURE_FAULTS = {
    "another patient": ("patient-and-study", lambda ds: setattr(ds, "PatientSex", "F")),
    "no source": ("references", lambda ds: delattr(ds, "SourceImageSequence")),
    "another image": (
        "references",
        lambda ds: setattr(ds.SourceImageSequence[0], "ReferencedSOPInstanceUID", "1.2.3"),
    ),
    "no purpose": ("references", lambda ds: delattr(ds.SourceImageSequence[0], "PurposeOfReferenceCodeSequence")),
    "another result": ("result", lambda ds: setattr(ds, "ImageComments", "Normal.")),
    "burned-in text denied": ("form", lambda ds: setattr(ds, "BurnedInAnnotation", "NO")),
    "grey pixels": ("pixels", lambda ds: setattr(ds, "PhotometricInterpretation", "MONOCHROME2")),
    "a stamp": ("pixels", lambda ds: setattr(ds, "Rows", 20)),
    "pixels cut off": ("pixels", lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2])),
}


@pytest.mark.parametrize("fault", REPORT_FAULTS)
def test_a_report_with_a_fault_stays_at_home(fault, dx, estimate, identify):
    document = compose_sr(dx, estimate, identify(dx, "sr"))
    check, break_it = REPORT_FAULTS[fault]
    break_it(document)

    with pytest.raises(VerificationError) as raised:
        verify(document, dx, estimate)
    assert raised.value.check == check


@pytest.mark.parametrize("fault", CAPTURE_FAULTS)
def test_a_capture_with_a_fault_stays_at_home(fault, dx, estimate, display, identify):
    document = compose_sc(dx, estimate, display, identify(dx, "sc"))
    check, break_it = CAPTURE_FAULTS[fault]
    break_it(document)

    with pytest.raises(VerificationError) as raised:
        verify(document, dx, estimate)
    assert raised.value.check == check


def test_no_patient_data_in_messages(dx, estimate, identify):
    document = compose_sr(dx, estimate, identify(dx, "sr"))
    document.PatientName = "Secret^Name"

    with pytest.raises(VerificationError) as raised:
        verify(document, dx, estimate)
    assert "Secret" not in str(raised.value)
    assert str(dx.PatientName) not in str(raised.value)


def test_documents_of_one_finding_do_not_pass_for_another(dx, estimate, refusal, display, identify):
    report = compose_sr(dx, estimate, identify(dx, "sr"))
    capture = compose_sc(dx, estimate, display, identify(dx, "sc"))

    for document in (report, capture):
        for other in (replace(estimate, age_months=140.0), refusal):
            with pytest.raises(VerificationError):
                verify(document, dx, other)


def test_another_reason_is_another_result(dx, refusal, identify):
    report = compose_sr(dx, refusal, identify(dx, "sr"))

    with pytest.raises(VerificationError) as raised:
        verify(report, dx, replace(refusal, code=RefusalCode.POOR_IMAGE))
    assert raised.value.check == "result"


def test_every_error_has_a_code_of_its_own():
    errors = [ReportError, *ReportError.__subclasses__()]

    assert len({error.code for error in errors}) == len(errors)
    assert all(f'"{error.code}"' in (__import__("reports.errors").errors.__doc__) for error in errors)


@pytest.mark.parametrize(("unit", "value", "months"), [("mo", "120.5", 120.5), ("a", "10", 120.0), ("d", "10", None)])
def test_ages_of_other_makers_are_read_in_their_unit(unit, value, months, dx, estimate, identify):
    document = compose_sr(dx, estimate, identify(dx, "sr"))
    measured = bone_age_of(document)
    del measured.FloatingPointValue
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence[0].CodeValue = unit

    assert read_bone_age(document) == months


def test_other_objects_say_nothing(dx):
    assert read_bone_age(dx) is None
    assert read_refusal(dx) is None
