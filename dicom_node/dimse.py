"""Command sets: what a DIMSE message asks for, and the answer to it (PS3.7 section 6.3 and annex E).

A command set is always Implicit VR Little Endian and holds a dozen short elements, so it is read and written here
directly: a general data set parser takes longer for it than the node takes for the image that follows.

    command = decode_command(fragments)
    response = encode_response(command, 0xA700, "no room left on the disk")
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum

NO_DATA_SET = 0x0101  # CommandDataSetType (0000,0800): any other value says that a data set follows
RESPONSE_BIT = 0x8000

_ELEMENT = struct.Struct("<HHI")  # group, element, length of the value
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_COMMENT_CHARACTERS = 64  # ErrorComment is LO


class CommandField(IntEnum):
    """Requests this node answers or knows (PS3.7 table E.1-1, CommandField)."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    C_CANCEL_RQ = 0x0FFF
    N_EVENT_REPORT_RQ = 0x0100


class BrokenCommand(ValueError):
    """The bytes are no command set of a request; nothing can be answered to it."""


@dataclass(frozen=True, slots=True)
class Command:
    """The elements of a request that this node reads. Names are DICOM keywords."""

    CommandField: int
    MessageID: int
    CommandDataSetType: int
    AffectedSOPClassUID: str  # empty where absent
    AffectedSOPInstanceUID: str  # empty where absent
    EventTypeID: int | None  # N-EVENT-REPORT only
    MoveOriginatorApplicationEntityTitle: str = ""  # C-STORE within a C-MOVE only

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows the command."""
        return self.CommandDataSetType != NO_DATA_SET


def is_uid(value: str) -> bool:
    """Tell whether a string is a UID: digits and dots, 64 at most (PS3.5 section 9.1).

    Components with a leading zero pass: devices send them, and they identify as well as others.
    """
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def decode_command(data: bytes | bytearray) -> Command:
    """Read the command set of a request.

    Raises
    ------
    BrokenCommand
        The bytes do not parse, or lack an element every request has (PS3.7 section 9.3).
    """
    elements = _decode_elements(data)
    return Command(
        CommandField=_required_us(elements, 0x0100),
        MessageID=_required_us(elements, 0x0110),
        CommandDataSetType=_required_us(elements, 0x0800),
        AffectedSOPClassUID=_ui(elements, 0x0002),
        AffectedSOPInstanceUID=_ui(elements, 0x1000),
        EventTypeID=_required_us(elements, 0x1002) if 0x1002 in elements else None,
        MoveOriginatorApplicationEntityTitle=_ae(elements, 0x1030),
    )


def encode_response(command: Command, status: int, comment: str = "") -> bytes:
    """Write the response to a request, without a data set.

    Parameters
    ----------
    command
        The request.
    status
        DIMSE status (PS3.7 annex C, PS3.4 section B.2.3).
    comment
        ErrorComment (0000,0902): ASCII, cut to 64 characters; empty for none. No patient data.
    """
    parts = [
        _encode_ui(0x0002, command.AffectedSOPClassUID),
        _encode_us(0x0100, command.CommandField | RESPONSE_BIT),
        _encode_us(0x0120, command.MessageID),
        _encode_us(0x0800, NO_DATA_SET),
        _encode_us(0x0900, status),
        _encode(0x0902, comment[:_MAX_COMMENT_CHARACTERS].encode("ascii", "replace"), b" "),
        _encode_ui(0x1000, command.AffectedSOPInstanceUID),
    ]
    if command.EventTypeID is not None:
        parts.append(_encode_us(0x1002, command.EventTypeID))
    body = b"".join(parts)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


def _decode_elements(data: bytes | bytearray) -> dict[int, bytes]:
    """Return the values by element number, group 0000 only."""
    elements: dict[int, bytes] = {}
    position, end = 0, len(data)
    while position < end:
        if end - position < _ELEMENT.size:
            raise BrokenCommand("The command set ends within an element.")
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += _ELEMENT.size
        if group != 0 or length > end - position:
            raise BrokenCommand("The command set holds something else than whole elements of group 0000.")
        elements[element] = bytes(data[position : position + length])
        position += length
    return elements


def _required_us(elements: dict[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != 2:
        raise BrokenCommand(f"The command set lacks (0000,{element:04X}), or it is no unsigned short.")
    return int.from_bytes(value, "little")


def _ui(elements: dict[int, bytes], element: int) -> str:
    # What is no ASCII becomes question marks: it is no UID then, and is refused as such.
    return elements.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")


def _ae(elements: dict[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("ascii", "replace").strip("\0 ")


def _encode(element: int, value: bytes, padding: bytes) -> bytes:
    if not value:
        return b""
    even = value + padding * (len(value) % 2)
    return _ELEMENT.pack(0, element, len(even)) + even


def _encode_us(element: int, value: int) -> bytes:
    return _encode(element, value.to_bytes(2, "little"), b"")


def _encode_ui(element: int, uid: str) -> bytes:
    return _encode(element, uid.encode("ascii", "replace"), b"\0")
