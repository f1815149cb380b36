"""Sources, findings and identities for the tests of ``reports``. Nobody's hand: a grey ramp and boxes on it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation

from inference.anatomy import ROI_NAMES, RUS_NAMES
from inference.finding import (
    AssumedReading,
    BoneProfile,
    BoneStage,
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
from reports.clinic import Prior, assess
from reports.identity import DocumentIdentity, Kind, device_uid, document_uids
from reports.key_objects import Capture
from reports.kinds import Choices, compose
from reports.phrases import Language

ROWS, COLUMNS = 600, 500


@pytest.fixture
def model() -> ModelIdentity:
    return ModelIdentity("global-local", "Global-local fusion network", "1.0.0", "ab" * 32)


@pytest.fixture
def estimate(model) -> Estimate:
    subject = Subject(Sex.MALE, "PatientSex (0010,0040)", 128.0, "PatientBirthDate and AcquisitionDate")
    rois = tuple(
        Roi(name, Box(60.5 + 20 * i, 40.25 + 25 * i, 100.5 + 20 * i, 80.25 + 25 * i), 0.97)
        for i, name in enumerate(ROI_NAMES)
    )
    return Estimate(
        age_months=132.4635162353,
        interval_low_months=120.1,
        interval_high_months=144.9,
        interval_level=0.9,
        subject=subject,
        laterality=Laterality.LEFT,
        hand=Box(20.0, 10.0, 480.0, 590.0),
        rois=rois,
        hands_found=1,
        quality=0.97,
        flags=(Flag("lossy", "The image was compressed with loss."),),
        model=model,
    )


@pytest.fixture
def refusal() -> Refusal:
    subject = Subject(None, "PatientSex (0010,0040) is empty", None, "PatientBirthDate (0010,0030) is missing")
    return Refusal(RefusalCode.NOT_A_HAND, "The image does not show a hand.", "Send a radiograph of one hand.", subject)


@pytest.fixture
def refusal_with_hand(refusal, estimate, model) -> Refusal:
    return Refusal(
        RefusalCode.SEX_UNKNOWN,
        "The sex is not known, and the method needs it.",
        "Enter the sex at the modality and send the image again.",
        refusal.subject,
        hand=estimate.hand,
        rois=estimate.rois[:5],
        model=model,
    )


@pytest.fixture
def full(estimate):
    """An estimate with stages, and its assessment with a height and an earlier result."""
    bones = tuple(BoneStage(name, 7, 11, 0.8, 40.0) for name in RUS_NAMES)
    film = replace(estimate, profile=BoneProfile(bones, 520.0, 150.0))
    priors = [Prior(date(2024, 10, 1), 115.0, 116.0, 12.0, "this node")]
    return film, assess(film, height_cm=140.0, weight_kg=32.0, midparent_cm=171.0, priors=priors)


@pytest.fixture
def two_models(full):
    """The same, the stages told by another model than the age."""
    film, _ = full
    stager = ModelIdentity("precise-baa", "Bone age, precise-baa", "0.1.0", "b" * 64)
    film = replace(film, profile=replace(film.profile, model=stager))
    return film, assess(film, height_cm=140.0, weight_kg=32.0, midparent_cm=171.0)


@pytest.fixture
def sex_unknown(refusal_with_hand) -> Refusal:
    assumed = tuple(AssumedReading(sex, 120.0 - 12 * i, 100.0, 140.0, 0.9) for i, sex in enumerate(Sex))
    return replace(refusal_with_hand, assumed=assumed)


@pytest.fixture
def dx() -> Dataset:
    """A DX for presentation with a header as complete as they come."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    ds.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.3"
    ds.PatientName = "Müster^Jörg^^Dr"
    ds.PatientID = "PID 0815"
    ds.IssuerOfPatientID = "HOSPITAL"
    ds.PatientBirthDate = "20150301"
    ds.PatientSex = "M"
    ds.PatientAge = "010Y"
    ds.PatientWeight = "31.5"
    ds.PatientComments = "first line\r\nsecond line"
    ds.StudyDate, ds.StudyTime = "20251101", "101530.25"
    ds.AccessionNumber, ds.StudyID = "ACC1", "S1"
    ds.ReferringPhysicianName = "Ärztin^Eva"
    ds.StudyDescription = "Hand links dp"
    ds.TimezoneOffsetFromUTC = "+0100"
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "24724-7", "LN", "XR Bone age"
    ds.ProcedureCodeSequence = [procedure]
    request = Dataset()
    request.RequestedProcedureID, request.RequestedProcedureDescription = "RP1", "Handwurzel für Knochenalter"
    request.ScheduledProcedureStepID = "SPS1"
    ds.RequestAttributesSequence = [request]
    ds.BodyPartExamined, ds.ImageLaterality, ds.Modality = "HAND", "L", "DX"
    ds.PatientOrientation = ["R", "F"]
    ds.ImagerPixelSpacing = ["0.139", "0.139"]
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.LossyImageCompression = "00"
    return ds


@pytest.fixture
def cr() -> Dataset:
    """A MONOCHROME1 CR as poor as real ones: what identifies it, what its pixels need, and nothing else."""
    ds = Dataset()
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.11"
    ds.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.12"
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.13"
    ds.Modality = "CR"
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.Rows, ds.Columns = ROWS, COLUMNS
    return ds


@pytest.fixture
def identify(model):
    """``identify(source, "sr")`` returns the identity a node would give the document."""

    def make(source: Dataset, kind: str, revision: int = 1) -> DocumentIdentity:
        series_uid, sop_uid = document_uids(source.SOPInstanceUID, model, kind, revision)
        return DocumentIdentity(
            sop_instance_uid=sop_uid,
            series_instance_uid=series_uid,
            series_number=9001 if kind == "sr" else 9002,
            instance_number=1,
            created_at=datetime(2026, 11, 21, 5, 7, 9, tzinfo=UTC),
            device_uid=device_uid("node-1"),
            station_name="BONEAGE",
            software_version="0.1.0",
            revision=revision,
        )

    return make


@pytest.fixture
def display() -> np.ndarray:
    """A grey ramp, so that every pixel of the film can be told from what is drawn on it."""
    ramp = np.linspace(20, 200, ROWS, dtype=np.float32)[:, None]
    return np.repeat(ramp, COLUMNS, axis=1).astype(np.uint8)


@pytest.fixture
def compose_other(identify, display):
    """``compose_other("gsps", source, finding, "en")`` composes what is neither report nor capture."""

    def other(kind: Kind, source: Dataset, finding: Finding, language: Language = "en") -> Dataset:
        choices = Choices(language=language, capture=Capture("1.2.3", "1.2.3.4"))
        return compose(kind, source, finding, identify(source, kind), display=lambda: display, choices=choices)

    return other
