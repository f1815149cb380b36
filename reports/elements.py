"""Data elements as bytes in Explicit VR Little Endian (PS3.5 7.1.2), for content trees: thousands of them a report.

pydicom's own writer walks a tree again at each of its levels and took half the time of a report. What is
written here is what it writes, byte for byte (``tests/reports/test_content.py`` compares).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2s2xL")
_ITEM = struct.Struct("<HHL")
_LONG_VRS = frozenset(map(str, EXPLICIT_VR_LENGTH_32))
"""The value representations whose length has four bytes."""


def element(tag: int, vr: str, value: bytes) -> bytes:
    """Return one element, its value padded to an even length (PS3.5 6.2).

    Parameters
    ----------
    tag
        Group and element as one number.
    vr
        Its value representation.
    value
        As it stands in the file, before padding.

    Raises
    ------
    struct.error
        The value is longer than its representation can say.
    """
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    header = _LONG if vr in _LONG_VRS else _SHORT
    return header.pack(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), len(value)) + value


def text(tag: int, vr: str, value: str) -> bytes:
    """Return an element of text in ISO_IR 192."""
    return element(tag, vr, value.encode("utf-8"))


def sequence(tag: int, items: Iterable[bytes]) -> bytes:
    """Return a sequence (PS3.5 7.5); each item is its elements in the order of their tags."""
    return element(tag, "SQ", sequence_value(items))


def sequence_value(items: Iterable[bytes]) -> bytes:
    """Return a sequence without its header, items with their length."""
    return b"".join(_ITEM.pack(0xFFFE, 0xE000, len(item)) + item for item in items)


def items_of_sequence(value: bytes) -> Iterator[bytes]:
    """Yield the items of a sequence without its header, each its elements.

    Raises
    ------
    ValueError
        The items do not have their length, or something else is between them.
    struct.error
        An item is cut off.
    """
    place = 0
    while place < len(value):
        group, number, length = _ITEM.unpack_from(value, place)
        place += _ITEM.size + length
        if (group, number) != (0xFFFE, 0xE000) or place > len(value):
            raise ValueError("This is no sequence whose items have their length.")
        yield value[place - length : place]


def floats(tag: int, vr: str, values: Iterable[float]) -> bytes:
    """Return an element of FL (four bytes each) or FD (eight)."""
    numbers = tuple(values)
    return element(tag, vr, struct.pack(f"<{len(numbers)}{'f' if vr == 'FL' else 'd'}", *numbers))
