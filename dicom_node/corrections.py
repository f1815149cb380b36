"""Corrections: the same film under the same SOP Instance UID, with another header.

An archive in which a patient's sex, birth date or PatientID was corrected keeps the UIDs and sends the film again. That
is no clash of two images: the picture is the same, and what changed is what the film is read and filed by. Anything
else under a known UID is a clash.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, Final

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from reports.header import numbers_of, text_of

_SAME_TEXTS: Final = ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")
_SAME_NUMBERS: Final = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames")
_MAY_DIFFER_TEXTS: Final = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientSex", "PatientBirthDate", "PatientAge", "PatientSize",
    "PatientWeight", "AccessionNumber", "AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate", "Laterality",
    "ImageLaterality", "BodyPartExamined", "PhotometricInterpretation", "PresentationLUTShape", "VOILUTFunction",
)  # fmt: skip
_MAY_DIFFER_NUMBERS: Final = (
    "BitsStored", "PixelRepresentation", "PixelSpacing", "ImagerPixelSpacing", "WindowCenter", "WindowWidth",
    "RescaleSlope", "RescaleIntercept",
)  # fmt: skip
"""What a film is read by, and whose it is: a film in which none of them differs is not read again."""
_ALIKE: Final = frozenset({ExplicitVRLittleEndian, ImplicitVRLittleEndian})  # their pixels have the same bytes


def is_correction(kept: Path, came: Path) -> bool:
    """Tell whether a Part 10 file is the film of another with a corrected header; False where either is unreadable."""
    first, second = _read(kept), _read(came)
    return first is not None and second is not None and _is_same_film(first, second) and _differ(first, second)


def digest(path: Path) -> str:
    """Return the SHA-256 of the data set of a Part 10 file; who sent it, in the File Meta, does not count."""
    with path.open("rb") as file:
        skip_file_meta(file)
        return hashlib.file_digest(file, "sha256").hexdigest()


def skip_file_meta(file: BinaryIO) -> None:
    """Go to where the data set of a Part 10 file begins."""
    # PS3.10 section 7.1: preamble 128, "DICM", then (0002,0000) UL, Explicit VR Little Endian: the length of the rest.
    head = file.read(144)
    file.seek(144 + int.from_bytes(head[140:144], "little"))


def _read(path: Path) -> Dataset | None:
    try:
        return dcmread(path)
    except (OSError, InvalidDicomError, EOFError, struct.error, zlib.error):
        return None


def _is_same_film(first: Dataset, second: Dataset) -> bool:
    syntaxes = {ds.file_meta.TransferSyntaxUID for ds in (first, second)}
    return (
        (len(syntaxes) == 1 or syntaxes <= _ALIKE)
        and all(text_of(first, keyword) == text_of(second, keyword) != "" for keyword in _SAME_TEXTS)
        and all(numbers_of(first, keyword) == numbers_of(second, keyword) for keyword in _SAME_NUMBERS)
        and _pixels(first) == _pixels(second) is not None
    )


def _pixels(ds: Dataset) -> object:
    """Return the pixels as they are encoded; None where there are none."""
    return ds.get_item("PixelData").value if "PixelData" in ds else None


def _differ(first: Dataset, second: Dataset) -> bool:
    return any(text_of(first, keyword) != text_of(second, keyword) for keyword in _MAY_DIFFER_TEXTS) or any(
        numbers_of(first, keyword) != numbers_of(second, keyword) for keyword in _MAY_DIFFER_NUMBERS
    )
