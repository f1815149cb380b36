"""The overlay as an RGB Secondary Capture image (PS3.3 A.8.1), made with highdicom: what every viewer can show.

highdicom says the capture was digitised (DI) and adds a third value to Image Type; both are put right afterwards.
There is no pixel spacing on purpose: nobody should measure on a picture made smaller, with a strip below it.
"""

from __future__ import annotations

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from inference.finding import Estimate, Finding, Laterality
from inference.subject import acquisition_date
from reports import codes, wording
from reports.clinic import Assessment
from reports.document import (
    coded,
    created_at,
    image_reference,
    put_into_study,
    put_series_and_equipment,
    sealed,
    written_date,
    written_time,
)
from reports.header import film_size, pixel_shape, required_uid, text_of
from reports.identity import DocumentIdentity
from reports.measurement_report import patient_orientation
from reports.overlay import Extras, draw_overlay
from reports.phrases import Language

SERIES_DESCRIPTION = "Bone age overlay (research use only)"

LOSSY_SYNTAXES: frozenset[str] = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
"""Transfer syntaxes that always lose something, whatever the header says."""


def compose_sc(
    source: Dataset,
    finding: Finding,
    display: NDArray[np.uint8] | None,
    identity: DocumentIdentity,
    *,
    assessment: Assessment | None = None,
    language: Language = "en",
    name_patient: bool = False,
) -> FileDataset:
    """Compose the secondary capture of one finding.

    Parameters
    ----------
    source
        The image that was read; its header may be as poor as real CR. It is not changed.
    finding
        An estimate, or a refusal: both are shown.
    display
        uint8 of shape (rows, columns), bones bright; None where the pixels could not be decoded.
    identity
        The document's own UIDs, numbers and time.
    assessment
        What an estimate means beside references and earlier results.
    language
        Of the text.
    name_patient
        Write the patient's name and ID into the picture, for viewers that show pixels only. Burned In Annotation
        (0028,0301) is YES either way.

    Returns
    -------
    FileDataset
        Explicit VR Little Endian, RGB of 8 bits, with file meta information, as a reader would get it.

    Raises
    ------
    IncompleteSource
        The source lacks a UID the capture refers to.
    """
    document = SCImage(
        pixel_array=draw_overlay(
            display,
            finding,
            film_size(source),
            Extras(assessment, language, patient_line(source, language) if name_patient else None),
            pixel=pixel_shape(source),
        ),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # it insists on one; what the source says is written below
        study_instance_uid=required_uid(source, "StudyInstanceUID"),
        series_instance_uid=identity.series_instance_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.sop_instance_uid,
        instance_number=identity.instance_number,
        manufacturer=identity.manufacturer[:64],
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    put_into_study(document, source)
    put_series_and_equipment(document, identity, finding, SERIES_DESCRIPTION)
    _put_capture(document, identity)
    _put_image(document, source, finding, language)
    return sealed(document, identity)


def patient_line(source: Dataset, language: Language = "en") -> str | None:
    """Return the patient's name, in all the forms the header has, ID, and the dates of birth and film.

    None where it has neither name nor ID.
    """
    name = " / ".join(
        dict.fromkeys(form.replace("^", " ").strip() for form in text_of(source, "PatientName").split("="))
    )
    named = [part for part in (name.strip(" /"), text_of(source, "PatientID")) if part]
    birth, filmed = text_of(source, "PatientBirthDate"), acquisition_date(source)
    born = f"{birth[:4]}-{birth[4:6]}-{birth[6:]}" if birth else ""
    return wording.patient(named, born, "" if filmed is None else filmed.isoformat(), language) if named else None


def _put_capture(document: Dataset, identity: DocumentIdentity) -> None:
    """Write SC Equipment and SC Image (PS3.3 C.8.6.1 and C.8.6.2): made by a workstation, not digitised."""
    document.ConversionType = "WSD"
    document.SecondaryCaptureDeviceManufacturer = identity.manufacturer[:64]
    document.SecondaryCaptureDeviceSoftwareVersions = identity.software_version[:64]
    at = created_at(document, identity)
    document.DateOfSecondaryCapture, document.TimeOfSecondaryCapture = written_date(at), written_time(at)


def _put_image(document: Dataset, source: Dataset, finding: Finding, language: Language) -> None:
    """Write General Image and General Series' anatomy (PS3.3 C.7.6.1, C.7.3.1)."""
    document.ImageType = ["DERIVED", "SECONDARY"]
    document["PixelData"].VR = "OW"  # highdicom leaves it open until it is written (PS3.5 A.2)
    document.BurnedInAnnotation = "YES"
    document.DerivationDescription = wording.derivation(language)
    document.ImageComments = wording.summary(finding, language)
    orientation = patient_orientation(source)
    document.PatientOrientation = "" if orientation is None else list(orientation)
    document.SourceImageSequence = Sequence([_source_image(source)])
    _put_anatomy(document, source, finding)
    _put_compression(document, source)


def _source_image(source: Dataset) -> Dataset:
    """Return the reference to the image this one was made from, with its purpose (CID 7202)."""
    item = image_reference(source)
    item.PurposeOfReferenceCodeSequence = Sequence([coded(codes.SOURCE_OF_PROCESSING)])
    return item


def _put_anatomy(document: Dataset, source: Dataset, finding: Finding) -> None:
    """Write body part and side: what was read, or, where nothing was, what the source claims."""
    if isinstance(finding, Estimate):
        part, side = "HAND", finding.laterality.value
    else:
        part, side = text_of(source, "BodyPartExamined"), text_of(source, "ImageLaterality")
    if part and "\\" not in part:
        document.BodyPartExamined = part
    if side in {Laterality.LEFT.value, Laterality.RIGHT.value, "B"}:
        document.ImageLaterality = side
    elif part not in codes.UNPAIRED_PARTS:
        document.Laterality = ""  # type 2C: required of a paired part where the image itself does not say it


def _put_compression(document: Dataset, source: Dataset) -> None:
    """Keep what was lost on record: once lossy, always lossy (PS3.3 C.7.6.1.1.5)."""
    syntax = str(getattr(getattr(source, "file_meta", None), "TransferSyntaxUID", ""))
    stated = text_of(source, "LossyImageCompression")
    if stated == "01" or syntax in LOSSY_SYNTAXES:
        document.LossyImageCompression = "01"
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            value = text_of(source, keyword)
            if value:
                setattr(document, keyword, value.split("\\"))
    elif stated == "00":
        document.LossyImageCompression = "00"
