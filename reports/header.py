"""The patient and study attributes of a source image, ready to be written into a document beside it.

The rule is "unharmed": text is decoded with the character set the source declares and written as ISO_IR 192 (UTF-8);
identifiers pass as they are, even too long or multi-valued, because archives match on them; an absent type 2 attribute
is left empty, never invented. What the value representation or PS3.3's enumerated values forbid (a birth date
"00000000", a sex "U") says no more than an empty value does and is left empty.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterable
from datetime import date
from decimal import InvalidOperation
from math import gcd, isfinite
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from inference.header import UNPARSABLE
from reports.errors import IncompleteSource

PATIENT_AND_STUDY_TYPE_2: tuple[str, ...] = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
"""Attributes of PS3.3 C.7.1.1 and C.7.2.1 that must be there and may be empty."""

PATIENT_AND_STUDY_TYPE_3: tuple[str, ...] = (
    # Patient, PS3.3 C.7.1.1
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID", "PatientBirthTime",
    "OtherPatientNames", "OtherPatientIDsSequence", "EthnicGroup", "PatientComments",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "QualityControlSubject",
    # Clinical Trial Subject and Study, PS3.3 C.7.1.3 and C.7.2.3
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription", "ConsentForClinicalTrialUseSequence",
    # General Study, PS3.3 C.7.2.1
    "IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "ProcedureCodeSequence",
    # Patient Study, PS3.3 C.7.2.2
    "AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientWeight", "AdditionalPatientHistory",
    # SOP Common, PS3.3 C.12.1: the zone the study's dates and times are written in, and whether they were moved
    "TimezoneOffsetFromUTC", "LongitudinalTemporalInformationModified",
)  # fmt: skip
"""Attributes that are carried along where the source has them."""

REQUIRED_UIDS: tuple[str, ...] = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
"""Without these nothing can refer to the image."""

LARGEST_SIZE = 0xFFFF
"""Of Rows and Columns, which are US."""

ASPECT_STEPS, MOST_ASPECT = 100, 10.0
"""Steps in which the sides of a pixel are compared, and how many times longer one may be to be believed."""

ENUMERATED: dict[str, frozenset[str]] = {
    "PatientSex": frozenset({"M", "F", "O"}),
    "PatientIdentityRemoved": frozenset({"YES", "NO"}),
    "QualityControlSubject": frozenset({"YES", "NO"}),
    "LongitudinalTemporalInformationModified": frozenset({"UNMODIFIED", "MODIFIED", "REMOVED"}),
}
"""Enumerated values of PS3.3: anything else is left empty."""

# What pydicom raises for a value it cannot convert: bad numbers, bad lengths, unknown VRs.
_UNREADABLE = (*UNPARSABLE, InvalidOperation)

TEXT: frozenset[str] = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
"""Value representations that are text; no attribute that is carried along, in a sequence or not, has another."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_AGE = re.compile(r"\d{3}[DWMY]")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?")
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")  # also with leading zeros, as devices send them: nothing else refers to them

# catch_warnings swaps process-wide state: two threads inside it at once could leave the wrong filters behind.
_quiet = threading.Lock()


def patient_and_study(source: Dataset) -> Dataset:
    """Return the attributes a document shares with its source, decoded, ready to be written as ISO_IR 192.

    Parameters
    ----------
    source
        Any image object, however poor its header. It is not changed.

    Raises
    ------
    IncompleteSource
        The source lacks its Study Instance UID.
    """
    shared = Dataset()
    shared.StudyInstanceUID = required_uid(source, "StudyInstanceUID")
    _add(shared, _read(source, PATIENT_AND_STUDY_TYPE_2 + PATIENT_AND_STUDY_TYPE_3))
    for keyword in PATIENT_AND_STUDY_TYPE_2:
        if keyword not in shared:
            setattr(shared, keyword, "")
    return shared


def required_uid(source: Dataset, keyword: str) -> str:
    """Return a UID of the source.

    Raises
    ------
    IncompleteSource
        The source has none, or something that is no UID.
    """
    uid = text_of(source, keyword)
    if not uid:
        raise IncompleteSource(f"The image has no usable {keyword}.")
    return uid


def text_of(source: Dataset, keyword: str) -> str:
    """Return an attribute as text, decoded, multiple values joined by a backslash; "" where absent or unusable."""
    values = _read(source, (keyword,))
    return "" if not values else _joined(values[0].value)


def numbers_of(source: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the numbers of an attribute (DS, IS, US), an empty tuple where absent or unusable."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = source[keyword].value
            values = value if isinstance(value, MultiValue | list | tuple) else [value]
            numbers = tuple(float(number) for number in values)
            return numbers if all(map(isfinite, numbers)) else ()
        except _UNREADABLE:
            return ()


def film_size(source: Dataset) -> tuple[int, int] | None:
    """Return (rows, columns) of the image, None where the header does not say them."""
    rows, columns = numbers_of(source, "Rows")[:1], numbers_of(source, "Columns")[:1]
    sized = rows and columns and all(1 <= size <= LARGEST_SIZE for size in (*rows, *columns))
    return (int(rows[0]), int(columns[0])) if sized else None


def pixel_shape(source: Dataset) -> tuple[int, int]:
    """Return height and width of a pixel as a pair of small whole numbers; a square where the header says nothing.

    By its spacing, else by PixelAspectRatio, as the film was read (``inference.film.read_pixel_aspect``).
    """
    for keyword in ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        sides = numbers_of(source, keyword)
        if len(sides) == 2 and min(sides) > 0 and max(sides) < MOST_ASPECT * min(sides):
            if max(sides) - min(sides) <= max(sides) / ASPECT_STEPS:
                break
            high, wide = (max(1, round(side / max(sides) * ASPECT_STEPS)) for side in sides)
            shared = gcd(high, wide)
            return high // shared, wide // shared
    return 1, 1


def items_of(source: Dataset, keyword: str) -> list[Dataset]:
    """Return copies of a sequence's items with what is usable in them, an empty list where there is none."""
    values = _read(source, (keyword,))
    return list(values[0].value) if values else []


def _read(source: Dataset, keywords: Iterable[str]) -> list[DataElement]:
    """Return usable copies of attributes. pydicom's warnings quote values, so they must not reach a log."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copies = [_copied(source, keyword) for keyword in keywords]
    return [element for element in copies if element is not None]


def _copied(source: Dataset, keyword: str) -> DataElement | None:
    """Return a decoded copy of one attribute, None where it is absent or cannot be read."""
    tag = tag_for_keyword(keyword)
    try:
        if tag is None or tag not in source:
            return None
        value = source[tag].value
    except _UNREADABLE:
        return None
    vr = dictionary_VR(tag)
    if vr == "SQ":
        return _copied_sequence(tag, value)
    if vr not in TEXT:
        return None
    usable = _usable(vr, keyword, _joined(value))
    # Identifiers pass unchecked, as the module says; a check here would quote them in a warning.
    return DataElement(tag, vr, usable, validation_mode=config.IGNORE)


def _copied_sequence(tag: int, value: Any) -> DataElement | None:
    # In another representation it has no items.
    items = [_copied_item(item) for item in value if isinstance(item, Dataset)] if isinstance(value, Sequence) else []
    filled = [item for item in items if len(item)]
    return DataElement(tag, "SQ", Sequence(filled)) if filled else None


def _copied_item(item: Dataset) -> Dataset:
    """Return an item with its standard attributes; private ones lose their meaning outside their object."""
    keywords = [keyword_for_tag(tag) for tag in item.keys() if not tag.is_private]  # noqa: SIM118 - a Dataset iterates elements
    copies = [_copied(item, keyword) for keyword in keywords if keyword]
    copy = Dataset()
    _add(copy, [element for element in copies if element is not None and element.value not in ("", None)])
    return copy


def _add(dataset: Dataset, elements: Iterable[DataElement]) -> None:
    for element in elements:
        dataset[element.tag] = element


def _joined(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):  # a binary VR where text belongs: no character set applies to it
        return value.rstrip(b"\0 ").decode("ascii", "replace")
    parts = value if isinstance(value, MultiValue | list | tuple) else [value]
    return "\\".join("" if part is None else str(part) for part in parts)


def _usable(vr: str, keyword: str, text: str) -> str:
    """Return the text as the value representation allows it (PS3.5 6.2), "" where it says nothing usable."""
    pattern = _CONTROL_IN_TEXT if vr in {"LT", "ST", "UT"} else _CONTROL
    clean = pattern.sub("", text.encode("utf-8", "replace").decode("utf-8")).rstrip(" ")
    if keyword in ENUMERATED:
        return clean if clean in ENUMERATED[keyword] else ""
    if keyword == "TimezoneOffsetFromUTC":
        return clean if _OFFSET.fullmatch(clean) else ""
    return _READ.get(vr, str)(clean)


def _date(text: str) -> str:
    digits = text.replace(".", "") if re.fullmatch(r"\d{4}\.\d\d\.\d\d", text) else text  # ACR-NEMA, PS3.5 6.2 note 1
    if not re.fullmatch(r"[0-9]{8}", digits):
        return ""
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return ""
    return digits


def _time(text: str) -> str:
    digits = text.replace(":", "")  # ACR-NEMA wrote HH:MM:SS
    return digits if _TIME.fullmatch(digits) and digits.isascii() else ""


def _age(text: str) -> str:
    return text if _AGE.fullmatch(text) and text.isascii() else ""


def _number(text: str) -> str:
    try:
        finite = abs(float(text)) < float("inf")
    except ValueError:
        return ""
    return text.strip() if finite and len(text.strip()) <= 16 and text.isascii() and "_" not in text else ""


def _uid(text: str) -> str:
    return text if _UID.fullmatch(text) and len(text) <= 64 else ""


def _code_string(text: str) -> str:
    return text if all(_CODE_STRING.fullmatch(part) for part in text.split("\\")) else ""


_READ: dict[str, Callable[[str], str]] = {
    "DA": _date, "TM": _time, "AS": _age, "DS": _number, "IS": _number, "CS": _code_string, "UI": _uid,
}  # fmt: skip
"""What is left of a text, by its value representation."""
