"""Corrections: the same film under the same SOP Instance UID, with another header.

An archive in which a patient's sex, birth date or PatientID was corrected keeps the UIDs and sends the film again. That
is no clash of two images: the picture is the same, and what changed is what the film is read and filed by. Anything
else under a known UID is a clash.

The picture may come in another lossless syntax; it is then decoded, on the way of the C-STORE answer. That is seldom,
and only for an object whose shape is that of the film that is known.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import BinaryIO, Final

from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from inference.errors import FilmError
from inference.header import UNPARSABLE
from inference.pixels import LOSSY, decode, read_layout
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
_ALIKE: Final = frozenset({ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
"""Syntaxes whose pixels have the same bytes."""


def is_correction(kept: Path, came: Path) -> bool:
    """Tell whether a Part 10 file is the film of another with a corrected header; False where either is unreadable."""
    first, second = open_object(kept), open_object(came)
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


def open_object(path: Path) -> Dataset | None:
    """Read a Part 10 file; None for what is none, is cut off, or is not there."""
    try:
        return dcmread(path)
    except (*UNPARSABLE, zlib.error):
        return None


def kind_of(ds: Dataset) -> list[object]:
    """Return whose image it is and of what shape: what no correction changes."""
    texts, numbers = (text_of(ds, keyword) for keyword in _SAME_TEXTS), (numbers_of(ds, one) for one in _SAME_NUMBERS)
    return [*texts, *map(list, numbers)]


def header_of(ds: Dataset) -> list[object]:
    """Return what a film is read by, and whose it is: what a correction changes."""
    texts = (text_of(ds, keyword) for keyword in _MAY_DIFFER_TEXTS)
    return [*texts, *(list(numbers_of(ds, keyword)) for keyword in _MAY_DIFFER_NUMBERS)]


def pixels_of(ds: Dataset) -> tuple[str, bytes] | None:
    """Return what can be compared of the pixels: the syntax it is in, and bytes; None where there are none.

    Grey pixels without loss are native and little endian, with an even number of bytes, and the syntax is empty; all
    others are as they are encoded.
    """
    encoded, syntax = _encoded(ds), ds.file_meta.TransferSyntaxUID
    if encoded is None or syntax in _ALIKE:
        return None if encoded is None else ("", encoded)
    decoded = _decoded(ds)
    return (str(syntax), encoded) if decoded is None else ("", decoded)


def _is_same_film(first: Dataset, second: Dataset) -> bool:
    kind = kind_of(first)
    return kind == kind_of(second) and "" not in kind[: len(_SAME_TEXTS)] and _has_same_pixels(first, second)


def _has_same_pixels(first: Dataset, second: Dataset) -> bool:
    """Compare pixels as they are encoded; what came in another syntax is decoded. Both are of the same shape."""
    syntaxes = {ds.file_meta.TransferSyntaxUID for ds in (first, second)}
    if len(syntaxes) == 1 or syntaxes <= _ALIKE:
        return _encoded(first) == _encoded(second) is not None
    one, other = pixels_of(first), pixels_of(second)
    return one == other is not None


def _encoded(ds: Dataset) -> bytes | None:
    """Return the pixels as they are encoded; None where there are none."""
    value = ds.get_item("PixelData").value if "PixelData" in ds else None
    return value if isinstance(value, bytes) else None


def _decoded(ds: Dataset) -> bytes | None:
    """Return grey pixels that lost nothing as native ones have them; None for others, and for what is damaged."""
    try:
        layout = read_layout(ds)
        if layout.samples != 1 or layout.transfer_syntax_uid in LOSSY:
            return None
        cells = decode(ds, layout)
    except FilmError:
        return None
    data = cells.astype(cells.dtype.newbyteorder("<"), copy=False).tobytes()
    return data + bytes(len(data) % 2)


def _differ(first: Dataset, second: Dataset) -> bool:
    return header_of(first) != header_of(second)
