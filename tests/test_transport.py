"""The upper layer of associations that others open: negotiation, fragments, violations, endings, limits.

A wire-level client says what well-behaved ones never would. Not covered: what is done with messages (test_receive) and
how fast (conformance/receive_benchmark.py).
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from conformance.wire import (
    A_ABORT,
    A_ABORT_TYPE,
    A_ASSOCIATE_AC_TYPE,
    A_ASSOCIATE_RJ_TYPE,
    A_RELEASE_RQ,
    COMMAND,
    LAST,
    STATUS,
    PeerClosed,
    Wire,
    c_echo_rq,
    c_store_rq,
    encode_command,
    encode_message,
    encode_request,
    p_data,
    p_data_of,
    pdv,
)
from dicom_node.dimse import Command, encode_response
from dicom_node.negotiate import CALLING_AE_UNKNOWN, Context, Proposal, Rejection
from dicom_node.transport import AbortReason, Acceptor, Association, Ending

PATIENCE_S = 30.0
CR, ECHO = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.1"
REQUEST = encode_request([(CR, [ExplicitVRLittleEndian]), (ECHO, [ImplicitVRLittleEndian])])
STORE_CONTEXT, ECHO_CONTEXT = 1, 3
STORE_COMMAND = encode_command(c_store_rq(CR, "1.2.3"))
ECHO_MESSAGE = p_data(encode_command(c_echo_rq()), ECHO_CONTEXT, COMMAND | LAST)


@dataclass
class Recorder:
    """A service that keeps what it is given."""

    data: list[bytes] = field(default_factory=list)
    discarded: list[bytes] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    associations: list[Association] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    before_answer: Callable[[], None] = lambda: None

    def respond(self, association: Association, context: Context, command: Command) -> bytes:
        self.before_answer()
        return encode_response(command, 0)

    def open(self, association: Association, context: Context, command: Command) -> RecordingSink:
        return RecordingSink(self, command)

    def end(self, association: Association, ending: Ending) -> None:
        with self.changed:
            self.associations.append(association)
            self.endings.append(ending)
            self.changed.notify_all()

    def wait_for_ending(self, count: int = 1) -> Ending:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.endings) >= count, PATIENCE_S)
            return self.endings[-1]


@dataclass
class RecordingSink:
    recorder: Recorder
    command: Command
    data: bytearray = field(default_factory=bytearray)

    def write(self, fragments: Sequence[memoryview]) -> None:
        self.data += b"".join(fragments)

    def finish(self) -> bytes:
        self.recorder.before_answer()
        self.recorder.data.append(bytes(self.data))
        return encode_response(self.command, 0)

    def discard(self) -> None:
        self.recorder.discarded.append(bytes(self.data))


@contextmanager
def listening(
    recorder: Recorder,
    *,
    admit: Callable[[Proposal, str], Rejection | None] = lambda proposal, host: None,
    maximum_associations: int = 8,
    timeout_s: float = PATIENCE_S,
) -> Iterator[tuple[Acceptor, int]]:
    ae = AE("BONEAGE")
    ae.add_supported_context(CR, [ExplicitVRLittleEndian])
    ae.add_supported_context(ECHO)
    ae.maximum_associations = maximum_associations
    ae.maximum_pdu_size = 65536
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
    acceptor = Acceptor(ae, recorder, host="127.0.0.1", port=0, admit=admit, end=recorder.end)
    acceptor.start()
    try:
        yield acceptor, acceptor.address[1]
    finally:
        acceptor.stop()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the log of threads that outlive a test's own capture out of the report."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def port(recorder: Recorder) -> Iterator[int]:
    with listening(recorder) as (_, port):
        yield port


def expect_abort(wire: Wire, reason: AbortReason) -> None:
    assert wire.read_pdu() == struct.pack(">BxIxxBB", A_ABORT_TYPE, 4, 2, reason)
    with pytest.raises(PeerClosed):
        wire.read_pdu()


def test_an_association_with_messages_and_a_release(recorder: Recorder, port: int) -> None:
    with Wire(port, REQUEST) as wire:
        assert wire.answer[0] == A_ASSOCIATE_AC_TYPE
        assert wire.maximum_length == 65536
        for number in range(3):
            wire.send(ECHO_MESSAGE)
            assert wire.read_response()[STATUS] == 0
            wire.send(encode_message(c_store_rq(CR, "1.2.3", number), bytes([number]) * 100, STORE_CONTEXT, 64))
            response = wire.read_response()
            assert (response[STATUS], response[0x0100], response[0x0120]) == (0, 0x8001, number)
            assert response[0x1000] == "1.2.3"
        wire.release()
    assert recorder.wait_for_ending() is Ending.RELEASED
    assert recorder.data == [bytes([number]) * 100 for number in range(3)]
    association = recorder.associations[0]
    assert (association.calling_ae, association.called_ae) == ("WIRE", "BONEAGE")
    assert association.contexts[STORE_CONTEXT] == Context(CR, ExplicitVRLittleEndian)
    assert not recorder.discarded


def test_the_response_comes_in_one_pdu_on_the_context_of_the_request(port: int) -> None:
    with Wire(port, REQUEST) as wire:
        wire.send(ECHO_MESSAGE)
        pdu = wire.read_pdu()
        assert pdu[10:12] == bytes([ECHO_CONTEXT, COMMAND | LAST])
        assert int.from_bytes(pdu[6:10], "big") == len(pdu) - 10


def test_a_data_set_much_larger_than_the_buffer(recorder: Recorder, port: int) -> None:
    data = bytes(range(256)) * 20_000
    with Wire(port, REQUEST) as wire:
        for pdu_bytes in (16_384, 65_536, 1_000_000):
            wire.send(encode_message(c_store_rq(CR, "1.2.3"), data, STORE_CONTEXT, pdu_bytes))
            assert wire.read_response()[STATUS] == 0
    assert recorder.data == [data] * 3


def test_many_messages_in_one_send(recorder: Recorder, port: int) -> None:
    data = [bytes([number]) * 1000 * number for number in range(40)]
    messages = [encode_message(c_store_rq(CR, "1.2.3"), one, STORE_CONTEXT, 700) for one in data]
    with Wire(port, REQUEST) as wire:
        wire.send(b"".join(messages))
        assert [wire.read_response()[STATUS] for _ in messages] == [0] * len(messages)
    assert recorder.data == data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_however_it_is_cut_it_arrives_whole(recorder: Recorder, port: int, data: st.DataObject) -> None:
    """Given any cut into PDVs, PDUs and sends, when a message is sent, then its data set is the same."""
    recorder.data.clear()
    body = data.draw(st.binary(max_size=300))
    values = [*cut(data, STORE_COMMAND, COMMAND), *cut(data, body, 0)]
    pdus = b"".join(p_data_of(b"".join(group)) for group in groups(data, values))
    with Wire(port, REQUEST) as wire:
        for start, end in spans(data, len(pdus)):
            wire.send(pdus[start:end])
        assert wire.read_response()[STATUS] == 0
    assert recorder.data == [body]


def cut(data: st.DataObject, message: bytes, control: int) -> list[bytes]:
    pieces = [message[start:end] for start, end in spans(data, len(message))] or [b""]
    return [
        pdv(piece, STORE_CONTEXT, control | (LAST if index == len(pieces) - 1 else 0))
        for index, piece in enumerate(pieces)
    ]


def groups(data: st.DataObject, values: list[bytes]) -> list[list[bytes]]:
    return [values[start:end] for start, end in spans(data, len(values))]


def spans(data: st.DataObject, size: int) -> list[tuple[int, int]]:
    """Cut 0..size into spans."""
    cuts = data.draw(st.lists(st.integers(1, max(1, size - 1)), max_size=6, unique=True)) if size > 1 else []
    edges = [0, *sorted(cuts), size]
    return [(start, end) for start, end in pairwise(edges) if end > start]


VIOLATIONS = {
    "unknown PDU type": (b"\x99\0\0\0\0\4abcd", AbortReason.UNRECOGNISED_PDU),
    "a second association request": (REQUEST, AbortReason.UNEXPECTED_PDU),
    "a release response": (struct.pack(">BxIxxxx", 0x06, 4), AbortReason.UNEXPECTED_PDU),
    "a value longer than its PDU": (
        struct.pack(">BxIIBB", 0x04, 10, 100, STORE_CONTEXT, COMMAND),
        AbortReason.INVALID_PARAMETER,
    ),
    "a value too short for its own header": (
        struct.pack(">BxIIBB", 0x04, 6, 1, STORE_CONTEXT, COMMAND),
        AbortReason.INVALID_PARAMETER,
    ),
    "a PDU too short for a value": (b"\x04\0\0\0\0\2ab" + bytes(16), AbortReason.INVALID_PARAMETER),
    "a context never accepted": (p_data(STORE_COMMAND, 77, COMMAND | LAST), AbortReason.UNEXPECTED_PARAMETER),
    "data before any command": (p_data(b"data", STORE_CONTEXT, LAST), AbortReason.INVALID_PARAMETER),
    "a command that is none": (p_data(b"garbage!", STORE_CONTEXT, COMMAND | LAST), AbortReason.INVALID_PARAMETER),
    "a command without its elements": (
        p_data(encode_command({0x0100: 0x0030}), ECHO_CONTEXT, COMMAND | LAST),
        AbortReason.INVALID_PARAMETER,
    ),
    "a command that never ends": (
        p_data(bytes(60_000), STORE_CONTEXT, COMMAND) * 2,
        AbortReason.INVALID_PARAMETER,
    ),
    "a command in two contexts": (
        p_data(STORE_COMMAND[:20], STORE_CONTEXT, COMMAND) + p_data(STORE_COMMAND[20:], ECHO_CONTEXT, COMMAND | LAST),
        AbortReason.INVALID_PARAMETER,
    ),
    "a command where data should come": (
        p_data(STORE_COMMAND, STORE_CONTEXT, COMMAND | LAST) + p_data(STORE_COMMAND, STORE_CONTEXT, COMMAND | LAST),
        AbortReason.INVALID_PARAMETER,
    ),
    "data in another context than its command": (
        p_data(STORE_COMMAND, STORE_CONTEXT, COMMAND | LAST) + p_data(b"data", ECHO_CONTEXT, LAST),
        AbortReason.INVALID_PARAMETER,
    ),
    "a release in the middle of a message": (
        p_data(STORE_COMMAND, STORE_CONTEXT, COMMAND | LAST) + A_RELEASE_RQ,
        AbortReason.UNEXPECTED_PDU,
    ),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_aborts(recorder: Recorder, port: int, violation: str) -> None:
    sent, reason = VIOLATIONS[violation]
    with Wire(port, REQUEST) as wire:
        wire.send(sent)
        expect_abort(wire, reason)
    assert recorder.wait_for_ending() is Ending.BROKEN
    assert not recorder.data


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", AbortReason.UNRECOGNISED_PDU),
        (A_RELEASE_RQ, AbortReason.UNEXPECTED_PDU),
        (struct.pack(">BxI", 0x01, 2**31), AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxI", 0x01, 100) + bytes(100), AbortReason.INVALID_PARAMETER),
        (REQUEST[:80] + b"\xff" * (len(REQUEST) - 80), AbortReason.INVALID_PARAMETER),
    ],
)
def test_what_is_no_association_request_is_aborted(
    recorder: Recorder, port: int, first: bytes, reason: AbortReason
) -> None:
    with Wire(port) as wire:
        wire.send(first)
        expect_abort(wire, reason)
    assert not recorder.endings


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(where=st.integers(6, len(REQUEST) - 1), change=st.integers(1, 255))
def test_a_damaged_request_is_answered_one_way_or_another(port: int, where: int, change: int) -> None:
    damaged = bytearray(REQUEST)
    damaged[where] ^= change
    with Wire(port, bytes(damaged)) as wire:
        assert wire.answer[0] in {A_ASSOCIATE_AC_TYPE, A_ASSOCIATE_RJ_TYPE, A_ABORT_TYPE}


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    return struct.pack(">BxIxBBB", A_ASSOCIATE_RJ_TYPE, 4, result, source, reason)


def test_rejections(recorder: Recorder) -> None:
    version_2 = REQUEST[:6] + b"\0\2" + REQUEST[8:]
    other_application = REQUEST.replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9")
    with listening(recorder, admit=lambda proposal, host: CALLING_AE_UNKNOWN) as (_, port):
        for request, expected in (
            (REQUEST, reject_pdu(1, 1, 3)),
            (version_2, reject_pdu(1, 2, 2)),
            (other_application, reject_pdu(1, 1, 2)),
        ):
            with Wire(port, request) as wire:
                assert wire.answer == expected
    assert not recorder.endings


def test_the_limit_on_associations_and_room_again_after_a_release(recorder: Recorder) -> None:
    with listening(recorder, maximum_associations=2) as (_, port), ExitStack() as stack:
        first = stack.enter_context(Wire(port, REQUEST))
        stack.enter_context(Wire(port, REQUEST))
        assert stack.enter_context(Wire(port, REQUEST)).answer == reject_pdu(2, 3, 2)
        first.release()
        for _ in range(5):  # room is there at once, even though the threads of the earlier ones may still linger
            wire = stack.enter_context(Wire(port, REQUEST))
            assert wire.answer[0] == A_ASSOCIATE_AC_TYPE
            wire.release()


def test_connections_far_beyond_the_limit_are_closed(recorder: Recorder) -> None:
    with listening(recorder, maximum_associations=1) as (_, port), ExitStack() as stack:
        silent = [stack.enter_context(Wire(port)) for _ in range(33)]
        with Wire(port) as wire, pytest.raises(ConnectionError):
            wire.read_pdu()
        silent[0].send(REQUEST)
        assert silent[0].read_pdu()[0] == A_ASSOCIATE_AC_TYPE


@pytest.mark.parametrize("half_a_message", [b"", p_data(STORE_COMMAND, STORE_CONTEXT, COMMAND | LAST)])
def test_endings_that_the_peer_makes(recorder: Recorder, port: int, half_a_message: bytes) -> None:
    with Wire(port, REQUEST) as wire:
        wire.send(half_a_message + A_ABORT)
        assert recorder.wait_for_ending(1) is Ending.ABORTED
    with Wire(port, REQUEST) as wire:
        wire.send(half_a_message)
    assert recorder.wait_for_ending(2) is Ending.LOST
    with Wire(port, REQUEST) as wire:
        wire.send(half_a_message + p_data(b"da", STORE_CONTEXT, 0)[:-1] if half_a_message else A_RELEASE_RQ[:3])
        wire.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert recorder.wait_for_ending(3) is Ending.LOST
    assert len(recorder.discarded) == (3 if half_a_message else 0)
    assert not recorder.data


def test_silence_is_not_waited_on_for_ever(recorder: Recorder) -> None:
    with listening(recorder, timeout_s=0.05) as (_, port):
        with Wire(port) as wire, pytest.raises(PeerClosed):
            wire.read_pdu()
        with Wire(port, REQUEST) as wire:
            expect_abort(wire, AbortReason.NOT_SPECIFIED)
        assert recorder.wait_for_ending(1) is Ending.SILENT
        with Wire(port, REQUEST) as wire:
            wire.send(p_data(STORE_COMMAND, STORE_CONTEXT, COMMAND | LAST))
            expect_abort(wire, AbortReason.NOT_SPECIFIED)
        assert recorder.wait_for_ending(2) is Ending.SILENT
    assert recorder.discarded == [b""]


def test_stopping_aborts_those_that_wait_and_lets_an_answer_be_sent(recorder: Recorder) -> None:
    at_answer, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        at_answer.set()
        assert go_on.wait(PATIENCE_S)

    recorder.before_answer = wait
    with listening(recorder) as (acceptor, port), Wire(port, REQUEST) as idle, Wire(port, REQUEST) as busy:
        busy.send(ECHO_MESSAGE)
        assert at_answer.wait(PATIENCE_S)
        stopping = threading.Thread(target=acceptor.stop)
        stopping.start()
        expect_abort(idle, AbortReason.NOT_SPECIFIED)
        go_on.set()
        assert busy.read_response()[STATUS] == 0
        expect_abort(busy, AbortReason.NOT_SPECIFIED)
        idle.connection.close()
        busy.connection.close()
        stopping.join(PATIENCE_S)
        assert not stopping.is_alive()
    assert recorder.endings == [Ending.STOPPED, Ending.STOPPED]
    with pytest.raises(ConnectionRefusedError):
        Wire(port)


def test_a_fault_of_ours_aborts_that_association_only(recorder: Recorder, port: int) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    with Wire(port, REQUEST) as wire, Wire(port, REQUEST) as other:
        recorder.before_answer = fail
        wire.send(ECHO_MESSAGE)
        expect_abort(wire, AbortReason.NOT_SPECIFIED)
        assert recorder.wait_for_ending() is Ending.FAILED
        recorder.before_answer = lambda: None
        other.send(ECHO_MESSAGE)
        assert other.read_response()[STATUS] == 0


def test_the_address_is_known_only_while_it_listens() -> None:
    recorder = Recorder()
    with listening(recorder) as (acceptor, port):
        assert acceptor.address == ("127.0.0.1", port)
    with pytest.raises(RuntimeError):
        _ = acceptor.address


def test_ipv6(recorder: Recorder) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    ae = AE("BONEAGE")
    ae.add_supported_context(ECHO)
    acceptor = Acceptor(ae, recorder, host="::1", port=0, admit=lambda proposal, host: None, end=recorder.end)
    try:
        acceptor.start()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    try:
        with socket.create_connection(("::1", acceptor.address[1])) as connection:
            connection.sendall(REQUEST)
            assert connection.recv(1) == bytes([A_ASSOCIATE_AC_TYPE])
    finally:
        acceptor.stop()
