"""Wire: an SCU in terms of bytes, so that it can send what others never would, or the same thing very fast.

It encodes and reads PDUs (PS3.8 section 9.3) and command sets (PS3.7 section 6.3) and keeps to no state machine.

    with Wire(port, encode_request([(SOPClass, [ExplicitVRLittleEndian])])) as wire:
        wire.send(p_data(encode_command(c_store_rq(...)), 1, COMMAND | LAST))
        status = wire.read_response()[0x0900]
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

COMMAND, LAST = 0x01, 0x02  # message control header (PS3.8 annex E.2)
A_ASSOCIATE_AC_TYPE, A_ASSOCIATE_RJ_TYPE, P_DATA_TF_TYPE, A_RELEASE_RP_TYPE, A_ABORT_TYPE = 0x02, 0x03, 0x04, 0x06, 0x07
A_RELEASE_RQ = struct.pack(">BxIxxxx", 0x05, 4)
A_ABORT = struct.pack(">BxIxxxx", 0x07, 4)
DATA_SET, NO_DATA_SET = 0x0000, 0x0101  # CommandDataSetType (0000,0800)
STATUS = 0x0900
ERROR_COMMENT = 0x0902
_UIDS = frozenset({0x0002, 0x1000})
_TEXTS = frozenset({ERROR_COMMENT})

Elements = Mapping[int, int | str | bytes]


class PeerClosed(ConnectionError):
    """The peer closed the connection where a PDU was expected."""


class Wire:
    """One connection to a peer on loopback, with an association if it accepts one.

    Parameters
    ----------
    port
        Of the peer.
    request
        Sent first: an A-ASSOCIATE-RQ, or anything else. Empty: nothing is sent.
    timeout_s
        How long to wait for a PDU.

    Attributes
    ----------
    answer
        The PDU that answered the request.
    """

    def __init__(self, port: int, request: bytes = b"", *, timeout_s: float = 60.0) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = b""
        if request:
            self.send(request)
            self.answer = self.read_pdu()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    @property
    def maximum_length(self) -> int:
        """The peer's maximum PDU length, 0 for none (PS3.8 annex D.1)."""
        answer = A_ASSOCIATE_AC()
        answer.decode(self.answer)
        return int(answer.user_information.maximum_length)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        self.connection.sendall(data)

    def read_pdu(self) -> bytes:
        """Read one PDU.

        Raises
        ------
        PeerClosed
            There is none: the connection ended.
        """
        header = self._read(6)
        return header + self._read(int.from_bytes(header[2:], "big"))

    def read_response(self) -> dict[int, int | str | bytes]:
        """Read one message without data set, in however many PDUs; return its elements of group 0000 by number."""
        message = b""
        while True:
            pdu = self.read_pdu()
            if pdu[0] != P_DATA_TF_TYPE:
                raise PeerClosed(f"A PDU of type {pdu[0]:02X} came instead of a response: {pdu.hex()}.")
            message += pdu[12:]
            if pdu[11] & LAST:
                return decode_command(message)

    def release(self) -> None:
        """Release the association.

        Raises
        ------
        PeerClosed
            The peer did not answer with A-RELEASE-RP.
        """
        self.send(A_RELEASE_RQ)
        pdu = self.read_pdu()
        if pdu[0] != A_RELEASE_RP_TYPE:
            raise PeerClosed(f"A PDU of type {pdu[0]:02X} came instead of A-RELEASE-RP.")

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.connection.recv(size - len(data))
            if not piece:
                raise PeerClosed("The peer closed the connection.")
            data += piece
        return data


def encode_request(
    contexts: Iterable[tuple[str, Sequence[str]]],
    *,
    calling_ae: str = "WIRE",
    called_ae: str = "BONEAGE",
    maximum_length: int = 16_384,
    items: Iterable[object] = (),
) -> bytes:
    """Encode an A-ASSOCIATE-RQ PDU.

    Parameters
    ----------
    contexts
        SOP class and transfer syntaxes of each presentation context; their ids are 1, 3, 5, ...
    items
        More user information: pynetdicom primitives.
    """
    request = A_ASSOCIATE()
    request.application_context_name = UID("1.2.840.10008.3.1.1.1")
    request.calling_ae_title, request.called_ae_title = calling_ae, called_ae
    proposed = [build_context(sop_class_uid, list(syntaxes)) for sop_class_uid, syntaxes in contexts]
    for index, context in enumerate(proposed):
        context.context_id = 2 * index + 1
    request.presentation_context_definition_list = proposed
    maximum = MaximumLengthNotification()
    maximum.maximum_length_received = maximum_length
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.826.0.1.3680043.8.498.1")
    request.user_information = [maximum, implementation, *items]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return bytes(pdu.encode())


def pdv(fragment: bytes, context_id: int, control: int) -> bytes:
    """Encode a presentation data value (PS3.8 section 9.3.5.1)."""
    return struct.pack(">IBB", len(fragment) + 2, context_id, control) + fragment


def p_data(fragment: bytes, context_id: int, control: int) -> bytes:
    """Encode a P-DATA-TF PDU with one presentation data value."""
    return p_data_of(pdv(fragment, context_id, control))


def p_data_of(values: bytes) -> bytes:
    """Encode a P-DATA-TF PDU (PS3.8 section 9.3.5) around encoded presentation data values."""
    return struct.pack(">BxI", P_DATA_TF_TYPE, len(values)) + values


def c_echo_rq(message_id: int = 1) -> Elements:
    """Return the command elements of a C-ECHO-RQ (PS3.7 section 9.3.5)."""
    return {0x0002: "1.2.840.10008.1.1", 0x0100: 0x0030, 0x0110: message_id, 0x0800: NO_DATA_SET}


def c_store_rq(sop_class_uid: str, sop_instance_uid: str, message_id: int = 1) -> Elements:
    """Return the command elements of a C-STORE-RQ (PS3.7 section 9.3.1)."""
    return {
        0x0002: sop_class_uid,
        0x0100: 0x0001,
        0x0110: message_id,
        0x0700: 0,
        0x0800: DATA_SET,
        0x1000: sop_instance_uid,
    }


def encode_command(elements: Elements) -> bytes:
    """Encode a command set; numbers are US, texts UI."""
    body = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value
        for element, value in ((element, _encode_value(value)) for element, value in sorted(elements.items()))
    )
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def decode_command(data: bytes) -> dict[int, int | str | bytes]:
    """Decode a command set; UIDs and comments are texts, values of two bytes numbers."""
    elements: dict[int, int | str | bytes] = {}
    position = 0
    while position < len(data):
        _, element, length = struct.unpack_from("<HHI", data, position)
        value = data[position + 8 : position + 8 + length]
        position += 8 + length
        if element in _UIDS or element in _TEXTS:
            elements[element] = value.rstrip(b"\0 ").decode("ascii")
        else:
            elements[element] = int.from_bytes(value, "little") if length == 2 else value
    return elements


def encode_message(command: Elements, data_set: bytes, context_id: int, pdu_bytes: int) -> bytes:
    """Encode a command with its data set as P-DATA-TF PDUs: one for the command, as many as it takes for the rest."""
    piece = pdu_bytes - 6
    pdus = [p_data(encode_command(command), context_id, COMMAND | LAST)]
    pdus += [
        p_data(data_set[start : start + piece], context_id, LAST if start + piece >= len(data_set) else 0)
        for start in range(0, max(1, len(data_set)), piece)
    ]
    return b"".join(pdus)


def _encode_value(value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return value.to_bytes(2, "little")
    data = value.encode("ascii") if isinstance(value, str) else value
    return data + b"\0" * (len(data) % 2)
