"""What header elements say, read without trusting them.

pydicom converts an element when it is first touched, and raises or warns where the value is not what the VR demands.
Headers of real CR are like that every day, and one bad element must not lose a film. So text values are taken as they
stand in the data set and parsed here; what cannot be parsed counts as absent.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag

UNPARSABLE = (
    ValueError, TypeError, LookupError, AttributeError, NotImplementedError, OverflowError, OSError, EOFError,
    struct.error, BytesLengthException, InvalidDicomError, RecursionError,
)  # fmt: skip
"""What pydicom raises, depending on the VR, when the bytes of an element are not what the VR demands."""

_UNDEFINED = 0xFFFF_FFFF


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of a text element (AS, CS, DA, DS, IS, LO, SH), stripped of padding; () where there is none.

    For elements of the default character repertoire (PS3.5 6.1.2.2): other bytes come back as U+FFFD.
    An empty element gives (), an empty value among several gives "".
    """
    value = _stored_value(ds, keyword)
    if value is None:
        return ()
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    parts = value.split("\\") if isinstance(value, str) else list(_several(value))
    stripped = tuple(str(part).strip(" \0\t\r\n") for part in parts)
    return stripped if any(stripped) else ()


def numbers(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the finite numbers of a DS or IS element; () where it is absent or any value is not a finite number."""
    try:
        values = tuple(float(part) for part in texts(ds, keyword))
    except ValueError:
        return ()
    return values if all(map(math.isfinite, values)) else ()


def integers(ds: Dataset, keyword: str) -> tuple[int, ...]:
    """Return the integers of a binary element (US, SS, or either); () where it is absent or no integers."""
    try:
        value: Any = ds.get(keyword)
    except UNPARSABLE:
        return ()
    values = tuple(_several(value)) if value is not None else ()
    return values if all(isinstance(v, int) for v in values) else ()


def items(ds: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """Return the items of a sequence; () where it is absent or unreadable."""
    try:
        value: Any = ds.get(keyword)
    except UNPARSABLE:
        return ()
    return tuple(value) if isinstance(value, Sequence) else ()


def reaches(ds: Dataset, keyword: str) -> bool:
    """Tell whether a data set holds an element or any that follows it: those of a file ascend (PS3.5 section 7.1)."""
    return bool(max(ds.keys(), default=0) >= Tag(keyword))


def ends_within(ds: Dataset) -> bool:
    """Tell whether the last element of a data set read from a file has fewer bytes than its length says.

    False where it cannot be told: of an element that was converted, or has no length of its own.
    """
    last: Any = ds.get_item(max(ds.keys())) if len(ds) else None
    return isinstance(last, RawDataElement) and last.length != _UNDEFINED and len(last.value or b"") < last.length


def _stored_value(ds: Dataset, keyword: str) -> Any:
    """Return the value as it stands in the data set: bytes before pydicom has converted it, its value after."""
    tag = Tag(keyword)
    if tag not in ds:
        return None
    element = ds.get_item(tag)
    value: Any = element.value if element is not None else None
    return None if isinstance(value, Sequence) else value


def _several(value: Any) -> Iterable[Any]:
    return value if isinstance(value, MultiValue | list | tuple) else (value,)
