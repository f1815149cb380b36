"""What the header of a site's film says of its patient, to set beside the table."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from inference.finding import Sex
from inference.header import UNPARSABLE, texts
from inference.subject import read_subject
from training.sources.files import IMAGES

_TAGS = [
    "PatientID", "IssuerOfPatientID", "PatientSex", "PatientBirthDate", "PatientAge",
    "AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says; of an image, which has none, nothing."""

    patient: str = ""  # PatientID with its issuer
    sex: Sex | None = None
    age_months: float | None = None  # chronological, at the examination


def read_header(path: Path) -> Header:
    """Read a film's header, however poor; one that cannot be read says nothing."""
    if path.suffix.lower() in IMAGES:
        return Header()
    try:
        with warnings.catch_warnings():  # a file that ends too early is named where its pixels are read
            warnings.filterwarnings("ignore", message="End of file reached", category=UserWarning)
            ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except (*UNPARSABLE, zlib.error):
        return Header()
    patient, subject = "".join(texts(ds, "PatientID")[:1]), read_subject(ds)
    whole = "\x1f".join((*texts(ds, "IssuerOfPatientID")[:1], patient)) if patient else ""
    return Header(whole, subject.sex, subject.age_months)
