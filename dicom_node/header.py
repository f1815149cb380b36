"""Header: what a received data set says it is, read from its bytes without decoding it.

The walk goes over the top level of the whole data set, from length to length, and so also notices one that ends in
the middle of an element. Values are not touched: 10 MB of pixels cost as much as one byte. A general parser makes
objects of all elements first; this is on the path of the C-STORE answer.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from dicom_node.dimse import is_uid
from dicom_node.errors import BrokenDataSet
from reports.identity import MANUFACTURER

Buffer = bytes | bytearray | memoryview | mmap.mmap

_SOP_CLASS_UID = 0x0008_0016
_SOP_INSTANCE_UID = 0x0008_0018
_MODALITY = 0x0008_0060
_CAPTURE_MANUFACTURER = 0x0018_1016  # Secondary Capture Device Manufacturer
_STUDY_INSTANCE_UID = 0x0020_000D
_SERIES_INSTANCE_UID = 0x0020_000E
_WANTED = frozenset(
    {_SOP_CLASS_UID, _SOP_INSTANCE_UID, _MODALITY, _CAPTURE_MANUFACTURER, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID}
)
_KEYWORDS = {
    _SOP_CLASS_UID: "SOPClassUID",
    _SOP_INSTANCE_UID: "SOPInstanceUID",
    _STUDY_INSTANCE_UID: "StudyInstanceUID",
    _SERIES_INSTANCE_UID: "SeriesInstanceUID",
}

_ITEM = 0xFFFE_E000
_ITEM_DELIMITER = 0xFFFE_E00D
_SEQUENCE_DELIMITER = 0xFFFE_E0DD
_UNDEFINED = 0xFFFF_FFFF
# 16-bit length (PS3.5 section 7.1.2); all other value representations, future ones too, have 32 bits
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_MAX_VALUE_BYTES = 128  # of an element that is read; more than any of them may have
_MAX_DEPTH = 32  # of nested items; real data sets have fewer than ten
_MAX_INFLATED_BYTES = 4 << 20  # of a deflated data set, until its header is found


@dataclass(frozen=True, slots=True)
class Header:
    """What identifies one object. The UIDs are valid ones; ``Modality`` is empty where the data set has none.

    ``is_ours``: it is a secondary capture that a boneage-node has written, this one or another.
    """

    SOPClassUID: str
    SOPInstanceUID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    Modality: str
    is_ours: bool = False


def read_header(data: Buffer, transfer_syntax_uid: str) -> Header:
    """Read what identifies an object, and check that its data set is whole.

    Of a deflated data set (PS3.5 section A.5) only the beginning is inflated: its end is not checked.

    Parameters
    ----------
    data
        The data set as it came, without File Meta.
    transfer_syntax_uid
        How it is encoded.

    Raises
    ------
    BrokenDataSet
        It does not parse, or a UID that identifies it is missing or is none.
    """
    syntax = UID(transfer_syntax_uid)
    is_deflated = syntax == DeflatedExplicitVRLittleEndian
    if is_deflated:
        data = _inflate(data)
    walk = _Walk(data, implicit=syntax.is_implicit_VR, big_endian=not syntax.is_little_endian)
    values: dict[int, bytes] = {}
    for tag, start, length in walk.elements(0, len(data)):
        if tag in _WANTED and tag not in values:
            values[tag] = bytes(data[start : start + min(length, _MAX_VALUE_BYTES)])
        if is_deflated and tag >= _SERIES_INSTANCE_UID:
            break
    return Header(
        SOPClassUID=_uid(values, _SOP_CLASS_UID),
        SOPInstanceUID=_uid(values, _SOP_INSTANCE_UID),
        StudyInstanceUID=_uid(values, _STUDY_INSTANCE_UID),
        SeriesInstanceUID=_uid(values, _SERIES_INSTANCE_UID),
        Modality=_code_string(values.get(_MODALITY, b"")),
        is_ours=values.get(_CAPTURE_MANUFACTURER, b"").strip(b"\0 ") == MANUFACTURER.encode("ascii"),
    )


def _inflate(data: Buffer) -> bytes:
    """Return the beginning of a deflated data set; how much is bounded, whatever it would inflate to."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _MAX_INFLATED_BYTES)
    except zlib.error:
        raise BrokenDataSet("The data set is not deflated.") from None


def _uid(values: dict[int, bytes], tag: int) -> str:
    if tag not in values:
        raise BrokenDataSet(f"The data set has no {_KEYWORDS[tag]}.")
    uid = values[tag].rstrip(b"\0 ").decode("ascii", "replace")
    if not is_uid(uid):
        raise BrokenDataSet(f"The data set's {_KEYWORDS[tag]} is no UID.")
    return uid


def _code_string(value: bytes) -> str:
    """Return a CS (PS3.5 section 6.2) as text; empty for what cannot be one."""
    text = value.strip(b"\0 ").decode("ascii", "replace")
    return text if len(text) <= 16 and all(c.isalnum() or c in " _" for c in text) else ""


class _Walk:
    """Goes over the elements of one encoded data set.

    Parameters
    ----------
    data
        The data set.
    implicit
        Whether it has no value representations (Implicit VR).
    big_endian
        Whether its numbers are big endian.
    """

    def __init__(self, data: Buffer, *, implicit: bool, big_endian: bool = False) -> None:
        order = ">" if big_endian else "<"
        self._data = data
        self._implicit = implicit
        self._tag_length = struct.Struct(order + "HHI")
        self._tag_vr_length = struct.Struct(order + "HH2sH")
        self._length = struct.Struct(order + "I")

    def elements(self, position: int, end: int, depth: int = 0) -> Iterator[tuple[int, int, int]]:
        """Yield tag, position of the value and its length, of the elements up to ``end`` or an item's delimiter.

        Raises
        ------
        BrokenDataSet
            The bytes are no elements, or end within one.
        """
        while position < end:
            tag, is_unknown, length, position = self._head(position, end)
            if tag == _ITEM_DELIMITER:
                yield tag, position, 0
                return
            start = position
            if length == _UNDEFINED:
                position = self._end_of_undefined(position, end, depth + 1, is_unknown=is_unknown)
            else:
                position += length
            if position > end:
                raise BrokenDataSet("The data set ends within an element.")
            yield tag, start, position - start

    def _head(self, position: int, end: int) -> tuple[int, bool, int, int]:
        """Return tag, whether its VR is UN, length, and where the value starts."""
        if end - position < 8:
            raise BrokenDataSet("The data set ends within an element.")
        group, element, length = self._tag_length.unpack_from(self._data, position)
        tag = group << 16 | element
        if self._implicit or group == 0xFFFE:
            return tag, False, length, position + 8
        _, _, vr, length = self._tag_vr_length.unpack_from(self._data, position)
        if vr in _SHORT_VRS:
            return tag, False, length, position + 8
        if not (vr.isalpha() and vr.isupper()) or end - position < 12:
            raise BrokenDataSet("The data set has an element without a value representation.")
        (length,) = self._length.unpack_from(self._data, position + 8)
        return tag, vr == b"UN", length, position + 12

    def _end_of_undefined(self, position: int, end: int, depth: int, *, is_unknown: bool) -> int:
        """Return where a sequence, or encapsulated pixel data, of undefined length ends (PS3.5 section 7.5)."""
        if depth > _MAX_DEPTH:
            raise BrokenDataSet("The data set nests too deeply.")
        # A sequence whose VR is UN is Implicit VR Little Endian inside, whatever is around it (PS3.5 section 6.2.2).
        inside = _Walk(self._data, implicit=True) if is_unknown else self
        while True:
            if end - position < 8:
                raise BrokenDataSet("The data set ends within a sequence.")
            group, element, length = inside._tag_length.unpack_from(self._data, position)  # noqa: SLF001 - same class
            tag = group << 16 | element
            position += 8
            if tag == _SEQUENCE_DELIMITER:
                return position
            if tag != _ITEM:
                raise BrokenDataSet("The data set has a sequence with something else than items.")
            position = position + length if length != _UNDEFINED else inside._end_of_item(position, end, depth)  # noqa: SLF001

    def _end_of_item(self, position: int, end: int, depth: int) -> int:
        tag = 0
        for tag, start, length in self.elements(position, end, depth):  # noqa: B007 - the last one counts
            position = start + length
        if tag != _ITEM_DELIMITER:
            raise BrokenDataSet("The data set ends within an item.")
        return position
