"""The Storage SCP, over real associations: what is stored, what is answered, who may call, what is logged.

pynetdicom and DCMTK send; the wire-level client sends what they would not. Not covered: PDUs and associations as such
(test_transport), the rows (test_intake), what becomes of a study, and speed (conformance/receive_benchmark.py).
"""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydicom import Dataset, FileDataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)
from pynetdicom import AE
from pynetdicom.presentation import build_context, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification

from conformance.films import LOSSLESS, PATIENT, draw_pattern, encode, make_film, write, write_encapsulated
from conformance.wire import (
    A_ASSOCIATE_AC_TYPE,
    A_ASSOCIATE_RJ_TYPE,
    COMMAND,
    DATA_SET,
    ERROR_COMMENT,
    LAST,
    NO_DATA_SET,
    STATUS,
    Elements,
    Wire,
    c_echo_rq,
    c_store_rq,
    encode_command,
    encode_message,
    encode_request,
    p_data,
)
from dicom_node import spool
from dicom_node.commitment import CommitmentReport
from dicom_node.errors import SpoolFileMissing, StoreError
from dicom_node.intake import Intake, Recorded
from dicom_node.receive import AssociationEnd, Receiver
from dicom_node.settings import ArchivePeer, NodeSettings, ReceiveSettings, SenderPeer
from dicom_node.spool import Received, Spool
from dicom_node.store import open_store
from inference.film import DX_FOR_PRESENTATION, SUPPORTED_SOP_CLASSES, SUPPORTED_TRANSFER_SYNTAXES

PATIENCE_S = 60.0
SENDER = SenderPeer(kind="sender", name="modality", ae_title="MODALITY")
ARCHIVE = ArchivePeer(
    kind="archive", name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=104, calls_as=("ARCHIVE_SCU",)
)


@dataclass
class Node:
    """A receiver, and what it told the rest of the node."""

    folder: Path
    received: list[Received] = field(default_factory=list)
    reports: list[CommitmentReport] = field(default_factory=list)
    ends: list[AssociationEnd] = field(default_factory=list)
    failure: Exception | None = None  # of the store
    commitment_status: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    record_with: Callable[[Received], Recorded] | None = None
    port: int = 0

    def record(self, received: Received) -> Recorded:
        if self.failure is not None:
            raise self.failure
        self.received.append(received)
        if self.record_with is not None:
            return self.record_with(received)
        return Recorded("new", received.study_instance_uid)

    def end(self, end: AssociationEnd) -> None:
        with self.changed:
            self.ends.append(end)
            self.changed.notify_all()

    def commit(self, report: CommitmentReport) -> int:
        self.reports.append(report)
        return self.commitment_status

    def wait_for_end(self, count: int = 1) -> AssociationEnd:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.ends) >= count, PATIENCE_S)
            return self.ends[-1]

    def files(self) -> list[Path]:
        return sorted(path for path in (self.folder / "spool").rglob("*") if path.is_file())


@contextmanager
def running(node: Node, peers: Sequence[SenderPeer] = (SENDER,), **settings: Any) -> Iterator[Node]:
    receiver = Receiver(
        ReceiveSettings(port=0, **settings),
        NodeSettings(data_dir=node.folder),
        peers,
        Spool(node.folder / "spool"),
        node.record,
        node.end,
        node.commit,
        archives=[ARCHIVE],
    )
    receiver.start()
    node.port = receiver.address[1]
    try:
        yield node
    finally:
        receiver.stop()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running(Node(tmp_path)) as node:
        yield node


@dataclass
class Log:
    """Everything that was logged, ours and the libraries'."""

    ours: list[Any]
    libraries: list[str] = field(default_factory=list)

    def of(self, event: str) -> list[Any]:
        return [one for one in self.ours if one["event"] == event]

    def text(self) -> str:
        return "\n".join(map(str, [*self.ours, *self.libraries]))


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    root = logging.getLogger()
    with structlog.testing.capture_logs() as ours:
        log = Log(ours)
        handler = logging.Handler(logging.DEBUG)
        handler.emit = lambda record: log.libraries.append(handler.format(record))  # type: ignore[method-assign]
        root.addHandler(handler)
        yield log
        root.removeHandler(handler)


def data_set_of(part_10: bytes) -> bytes:
    return part_10[144 + int.from_bytes(part_10[140:144], "little") :]


def open_association(
    node: Node, contexts: Sequence[tuple[str, str]], *, calling_ae: str = "MODALITY", called_ae: str = "BONEAGE"
) -> Any:
    ae = AE(calling_ae)
    for abstract_syntax, transfer_syntax in contexts:
        ae.add_requested_context(abstract_syntax, transfer_syntax)
    return ae.associate("127.0.0.1", node.port, ae_title=called_ae)


def send(node: Node, *films: FileDataset, calling_ae: str = "MODALITY") -> list[Dataset]:
    contexts = {(str(film.SOPClassUID), str(film.file_meta.TransferSyntaxUID)) for film in films}
    assoc = open_association(node, sorted(contexts), calling_ae=calling_ae)
    assert assoc.is_established
    answers = [assoc.send_c_store(film) for film in films]
    assoc.release()
    return answers


def wire_to(node: Node, syntax: str = ExplicitVRLittleEndian, *, calling_ae: str = "MODALITY") -> Wire:
    contexts = [(uid, [syntax]) for uid in SUPPORTED_SOP_CLASSES]
    contexts += [(Verification, [ImplicitVRLittleEndian]), (StorageCommitmentPushModel, [ImplicitVRLittleEndian])]
    return Wire(node.port, encode_request(contexts, calling_ae=calling_ae))


CONTEXT_OF = {uid: 2 * index + 1 for index, uid in enumerate(SUPPORTED_SOP_CLASSES)}
VERIFICATION_CONTEXT, COMMITMENT_CONTEXT = 9, 11


def store(
    wire: Wire,
    data: bytes,
    *,
    sop_class_uid: str = DX_FOR_PRESENTATION,
    sop_instance_uid: str,
    context_id: int | None = None,
) -> Elements:
    context_id = CONTEXT_OF[sop_class_uid] if context_id is None else context_id
    wire.send(encode_message(c_store_rq(sop_class_uid, sop_instance_uid), data, context_id, 16_384))
    return wire.read_response()


def store_film(wire: Wire, film: FileDataset) -> Elements:
    return store(wire, data_set_of(write(film)), sop_instance_uid=str(film.SOPInstanceUID))


# What is stored


def test_echo(node: Node) -> None:
    assoc = open_association(node, [(Verification, ImplicitVRLittleEndian)])
    assert assoc.send_c_echo().Status == 0
    assoc.release()
    end = node.wait_for_end()
    assert (end.calling_ae, end.study_instance_uids, end.released) == ("MODALITY", (), True)


def encoded(syntax: str) -> bytes:
    if syntax in LOSSLESS:
        return encode(make_film(), syntax)
    if syntax == JPEGBaseline8Bit:
        return encode(make_film(draw_pattern(bits=8), bits_stored=8), syntax)
    return write_encapsulated(make_film(), syntax, bytes(range(256)) * 40)  # a stream nobody decodes here


@pytest.mark.parametrize("syntax", SUPPORTED_TRANSFER_SYNTAXES)
def test_every_transfer_syntax_is_stored_byte_for_byte(node: Node, syntax: str) -> None:
    part_10 = encoded(syntax)
    film = dcmread(io.BytesIO(part_10))
    with wire_to(node, syntax) as wire:
        assert store(wire, data_set_of(part_10), sop_instance_uid=str(film.SOPInstanceUID))[STATUS] == 0
        wire.release()
    (received,) = node.received
    assert data_set_of(received.path.read_bytes()) == data_set_of(part_10)
    assert dcmread(received.path).file_meta.TransferSyntaxUID == syntax == received.transfer_syntax_uid
    assert received.size_bytes == len(data_set_of(part_10))
    assert (received.sop_class_uid, received.modality, received.calling_ae) == (DX_FOR_PRESENTATION, "DX", "MODALITY")
    assert received.study_instance_uid == film.StudyInstanceUID
    assert received.series_instance_uid == film.SeriesInstanceUID
    assert node.files() == [received.path]


@pytest.mark.parametrize("sop_class_uid", SUPPORTED_SOP_CLASSES)
def test_every_storage_class(node: Node, sop_class_uid: str) -> None:
    film = make_film(SOPClassUID=sop_class_uid)
    assert [answer.Status for answer in send(node, film)] == [0]
    assert dcmread(node.received[0].path) == film


def test_other_storage_classes_and_syntaxes_are_not_negotiated(node: Node) -> None:
    ae = AE("MODALITY")
    ae.add_requested_context(CTImageStorage)
    ae.add_requested_context(DX_FOR_PRESENTATION, "1.2.840.10008.1.2.4.51")  # JPEG extended: no free decoder
    ae.add_requested_context(DX_FOR_PRESENTATION, HTJ2KLossless)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="BONEAGE")
    assert [str(context.transfer_syntax[0]) for context in assoc.accepted_contexts] == [HTJ2KLossless]
    assoc.release()


def test_names_on_disk_come_from_no_peer(node: Node) -> None:
    film = make_film(StudyInstanceUID="1.2.3.4.5", SOPInstanceUID="1.2.3.4.5.6")
    send(node, film)
    assert "1.2.3.4.5" not in str(node.received[0].path.relative_to(node.folder))


def test_the_end_of_an_association_tells_its_studies(node: Node) -> None:
    films = [make_film(StudyInstanceUID=uid) for uid in ("1.2.3", "1.2.3", "1.2.4")]
    send(node, *films)
    end = node.wait_for_end()
    assert end.study_instance_uids == ("1.2.3", "1.2.4")
    assert end.released
    assert {one.association_id for one in node.received} == {end.association_id}


def test_answered_only_after_the_file_is_durable_and_the_row_recorded(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    commit = spool.SpoolFile.commit

    def watch(file: spool.SpoolFile) -> Path:
        path = commit(file)
        order.append("durable")
        return path

    def record(received: Received) -> Recorded:
        assert received.path.is_file()
        order.append("recorded")
        return Recorded("new", received.study_instance_uid)

    monkeypatch.setattr(spool.SpoolFile, "commit", watch)
    node.record_with = record
    with wire_to(node) as wire:
        assert store_film(wire, make_film())[STATUS] == 0
        order.append("answered")
    assert order == ["durable", "recorded", "answered"]


# Again, and otherwise


@contextmanager
def with_intake(tmp_path: Path) -> Iterator[Node]:
    """Run a receiver with the real store."""
    opened = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    intake = Intake(opened, tmp_path / "spool", quiet_period_s=10.0, whole_study_callers=(), node_id="node-1")
    try:
        with running(Node(tmp_path, record_with=intake.record)) as node:
            yield node
    finally:
        opened.close()


def test_the_same_object_again_is_success_and_one_file(tmp_path: Path) -> None:
    with with_intake(tmp_path) as node:
        film = make_film()
        assert [answer.Status for answer in send(node, film, film)] == [0, 0]
        assert [answer.Status for answer in send(node, film)] == [0]
        assert len(node.files()) == 1
        assert node.wait_for_end(2).study_instance_uids == (film.StudyInstanceUID,)


def test_other_bytes_under_a_known_uid_are_refused_and_change_nothing(tmp_path: Path, log: Log) -> None:
    with with_intake(tmp_path) as node:
        film = make_film()
        send(node, film)
        before = [path.read_bytes() for path in node.files()]
        other = make_film(SOPInstanceUID=film.SOPInstanceUID, PatientID="SOMEBODY-ELSE")  # of another study
        (answer,) = send(node, other)
        assert answer.Status == 0x0111
        assert [path.read_bytes() for path in node.files()] == before
        (line,) = log.of("receive.refused")
        assert (line["code"], line["sop_instance_uid"]) == ("identity-clash", film.SOPInstanceUID)
        assert "SOMEBODY-ELSE" not in log.text()


def test_a_corrected_film_is_kept_in_the_place_of_the_other(tmp_path: Path) -> None:
    with with_intake(tmp_path) as node:
        film = make_film(PatientSex=None)
        send(node, film)
        film.PatientSex = "F"
        assert [answer.Status for answer in send(node, film, film)] == [0, 0]
        assert node.wait_for_end(2).study_instance_uids == (film.StudyInstanceUID,)
        corrected = node.received[1].path
        assert data_set_of(corrected.read_bytes()) == data_set_of(write(film))
        assert len(node.files()) == 2  # the other is swept at the next start


def test_the_same_object_at_once_on_many_associations(tmp_path: Path) -> None:
    film = make_film()
    with with_intake(tmp_path) as node, ThreadPoolExecutor(8) as pool:
        wires = [wire_to(node) for _ in range(8)]
        statuses = list(pool.map(lambda wire: store_film(wire, film)[STATUS], wires))
        for wire in wires:
            wire.connection.close()
        assert statuses == [0] * 8
        assert len(node.files()) == 1


def test_many_objects_at_once_on_many_associations(tmp_path: Path) -> None:
    def send_some(wire: Wire) -> list[Any]:
        with wire:
            return [store_film(wire, make_film())[STATUS] for _ in range(5)]

    with with_intake(tmp_path) as node, ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send_some, [wire_to(node) for _ in range(8)]))
        assert statuses == [[0] * 5] * 8
        assert len(node.files()) == 40


# What is refused


def assert_refused(node: Node, response: Elements, status: int, log: Log, code: str | None) -> None:
    assert response[STATUS] == status
    assert response[ERROR_COMMENT]
    assert node.files() == []
    if code is not None:
        (line,) = log.of("receive.refused")
        assert (line["code"], line["status"]) == (code, f"{status:04X}")
    for value in PATIENT.values():
        assert value not in log.text()


def store_with_failing(node: Node, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> Elements:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with wire_to(node) as wire:
        monkeypatch.setattr(spool.os, call, fail)
        response = store_film(wire, make_film())
        monkeypatch.undo()
        assert store_film(wire, make_film())[STATUS] == 0  # the association goes on, and so does the node
    for received in node.received:
        received.path.unlink()
    return response


@pytest.mark.parametrize("call", ["writev", "fsync"])
def test_disk_full(node: Node, monkeypatch: pytest.MonkeyPatch, log: Log, call: str) -> None:
    response = store_with_failing(node, monkeypatch, call, errno.ENOSPC)
    assert_refused(node, response, 0xA700, log, "spool-full")


@pytest.mark.parametrize("call", ["writev", "fsync"])
def test_disk_broken(node: Node, monkeypatch: pytest.MonkeyPatch, log: Log, call: str) -> None:
    response = store_with_failing(node, monkeypatch, call, errno.EIO)
    assert_refused(node, response, 0xA701, log, "spool-failed")


def test_too_large_is_refused_while_it_streams(tmp_path: Path, log: Log) -> None:
    film = make_film(draw_pattern(1500, 1500))
    with running(Node(tmp_path), max_object_bytes=3_000_000) as node, wire_to(node) as wire:
        assert_refused(node, store_film(wire, film), 0xA702, log, "object-too-large")
        assert store_film(wire, make_film())[STATUS] == 0


def test_store_failed_keeps_the_file_for_the_sweep(node: Node, log: Log) -> None:
    node.failure = StoreError("The store failed.")
    film = make_film()
    with wire_to(node) as wire:
        assert store_film(wire, film)[STATUS] == 0xA703
    assert log.of("receive.refused")[0]["sop_instance_uid"] == film.SOPInstanceUID
    # Whether the row was committed is not known: a file too many is swept later, a row without is a loss.
    assert len(node.files()) == 1


def test_failures_of_recording(node: Node, log: Log) -> None:
    node.failure = SpoolFileMissing("Its file is gone.")
    with wire_to(node) as wire:
        assert_refused(node, store_film(wire, make_film()), 0xA704, log, "spool-file-missing")
        node.failure = None
        assert store_film(wire, make_film())[STATUS] == 0


def test_a_fault_while_recording_keeps_the_file(node: Node, log: Log) -> None:
    node.failure = RuntimeError("Nobody^Knows")
    with wire_to(node) as wire:
        assert store_film(wire, make_film())[STATUS] == 0x0110
    assert len(log.of("receive.fault")) == 1
    # It may have come after the row was committed: the sender will send the same bytes again, and find them here.
    assert len(node.files()) == 1


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_without_what_it_belongs_to(node: Node, log: Log, keyword: str) -> None:
    with wire_to(node) as wire:
        response = store_film(wire, make_film(**{keyword: None}))
    assert_refused(node, response, 0xC000, log, "broken-data-set")
    assert keyword in str(response[ERROR_COMMENT])


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"\xff" * len(data), lambda data: b""])
def test_broken(node: Node, log: Log, damage: Callable[[bytes], bytes]) -> None:
    film = make_film()
    with wire_to(node) as wire:
        response = store(wire, damage(data_set_of(write(film))), sop_instance_uid=str(film.SOPInstanceUID))
    assert_refused(node, response, 0xC000, log, "broken-data-set")


def test_without_a_data_set(node: Node, log: Log) -> None:
    command = {**c_store_rq(DX_FOR_PRESENTATION, "1.2.3"), 0x0800: NO_DATA_SET}
    with wire_to(node) as wire:
        wire.send(p_data(encode_command(command), CONTEXT_OF[DX_FOR_PRESENTATION], COMMAND | LAST))
        assert_refused(node, wire.read_response(), 0xC000, log, "broken-data-set")


def test_command_and_data_set_name_different_objects(node: Node, log: Log) -> None:
    with wire_to(node) as wire:
        response = store(wire, data_set_of(write(make_film())), sop_instance_uid="1.2.3")
    assert_refused(node, response, 0xA900, log, "identifier-mismatch")


def test_command_and_data_set_name_different_classes(node: Node, log: Log) -> None:
    film = make_film(SOPClassUID=SUPPORTED_SOP_CLASSES[0])
    with wire_to(node) as wire:
        assert_refused(node, store_film(wire, film), 0xA900, log, "identifier-mismatch")


def test_the_class_of_the_context_counts(node: Node, log: Log) -> None:
    film = make_film()
    with wire_to(node) as wire:
        data, context_id = data_set_of(write(film)), CONTEXT_OF[SUPPORTED_SOP_CLASSES[0]]
        response = store(wire, data, sop_instance_uid=str(film.SOPInstanceUID), context_id=context_id)
        assert_refused(node, response, 0x0122, log, "sop-class-refused")
        echo = {0x0002: DX_FOR_PRESENTATION, 0x0100: 0x0030, 0x0110: 7, 0x0800: NO_DATA_SET}
        wire.send(p_data(encode_command(echo), context_id, COMMAND | LAST))
        assert wire.read_response()[STATUS] == 0x0122


def test_an_instance_uid_that_is_none_is_refused_and_not_logged(node: Node, log: Log) -> None:
    with wire_to(node) as wire:
        response = store(wire, data_set_of(write(make_film())), sop_instance_uid=PATIENT["PatientID"])
    assert_refused(node, response, 0x0117, log, None)


@pytest.mark.parametrize("operation", [0x0020, 0x0021, 0x0010, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150])
@pytest.mark.parametrize("data", [b"", b"an identifier"])
def test_other_operations(node: Node, operation: int, data: bytes) -> None:
    command = {0x0002: DX_FOR_PRESENTATION, 0x0100: operation, 0x0110: 3, 0x0800: DATA_SET if data else NO_DATA_SET}
    with wire_to(node) as wire:
        wire.send(p_data(encode_command(command), 1, COMMAND | LAST) + (p_data(data, 1, LAST) if data else b""))
        response = wire.read_response()
        assert (response[STATUS], response[0x0100], response[0x0120]) == (0x0211, operation | 0x8000, 3)


def test_a_cancellation_is_not_answered(node: Node) -> None:
    cancel = {0x0100: 0x0FFF, 0x0110: 3, 0x0800: NO_DATA_SET}
    with wire_to(node) as wire:
        wire.send(p_data(encode_command(cancel), 1, COMMAND | LAST))
        assert store_film(wire, make_film())[STATUS] == 0


# Who may call


@pytest.mark.parametrize(
    ("calling_ae", "called_ae", "reason"), [("STRANGER", "BONEAGE", 0x03), ("MODALITY", "SOMEBODY", 0x07)]
)
def test_names_are_checked(node: Node, calling_ae: str, called_ae: str, reason: int) -> None:
    contexts = [(Verification, [ImplicitVRLittleEndian])]
    # Not by pynetdicom: once in a hundred times it takes a rejection for an abort, when the machine is busy.
    with Wire(node.port, encode_request(contexts, calling_ae=calling_ae, called_ae=called_ae)) as wire:
        assert wire.answer == bytes([A_ASSOCIATE_RJ_TYPE, 0, 0, 0, 0, 4, 0, 1, 1, reason])


def test_names_padded_with_nul_are_names(node: Node) -> None:
    request = encode_request([(Verification, [ImplicitVRLittleEndian])], calling_ae="MODALITY")
    padded = request[:10] + b"BONEAGE".ljust(16, b"\0") + b"MODALITY\0".ljust(16) + request[42:]
    with Wire(node.port, padded) as wire:
        wire.release()
    assert node.wait_for_end().calling_ae == "MODALITY"


def test_open_to_all_where_the_settings_say_so(tmp_path: Path) -> None:
    with running(Node(tmp_path), accept_unknown_callers=True, check_called_ae=False) as node:
        film = make_film()
        contexts = [(DX_FOR_PRESENTATION, ExplicitVRLittleEndian)]
        assoc = open_association(node, contexts, calling_ae="STRANGER", called_ae="SOMEBODY")
        assert assoc.send_c_store(film).Status == 0
        assoc.release()


@pytest.mark.parametrize(
    ("host", "is_admitted"),
    [("127.0.0.1", True), ("localhost", True), ("192.0.2.1", False), ("no-such-host.invalid", False)],
)
def test_a_sender_with_a_host_calls_from_there(tmp_path: Path, host: str, is_admitted: bool) -> None:
    sender = SenderPeer(kind="sender", name="modality", ae_title="MODALITY", host=host)
    with running(Node(tmp_path), [sender]) as node, wire_to(node) as wire:
        assert (wire.answer[0] == A_ASSOCIATE_AC_TYPE) is is_admitted


def test_an_archive_may_call_but_not_store(node: Node, log: Log) -> None:
    with wire_to(node, calling_ae="ARCHIVE") as wire:
        assert_refused(node, store_film(wire, make_film()), 0x0124, log, "caller-refused")


def test_the_limit_on_associations(tmp_path: Path) -> None:
    with running(Node(tmp_path), max_associations=1) as node, wire_to(node), wire_to(node) as second:
        assert second.answer == bytes([A_ASSOCIATE_RJ_TYPE, 0, 0, 0, 0, 4, 0, 2, 3, 2])


# Broken off


def test_a_transfer_broken_off_leaves_nothing(node: Node) -> None:
    film = make_film(draw_pattern(1200, 1200))
    message = encode_message(
        c_store_rq(DX_FOR_PRESENTATION, str(film.SOPInstanceUID)),
        data_set_of(write(film)),
        CONTEXT_OF[DX_FOR_PRESENTATION],
        16_384,
    )
    for count, cut in enumerate((200, 16_000, 2_000_000, len(message) - 1), start=1):
        with wire_to(node) as wire:
            wire.send(message[:cut])
        end = node.wait_for_end(count)
        assert (end.study_instance_uids, end.released) == ((), False)
        assert node.files() == []
    assert node.received == []


def test_orphans_of_a_crash_are_removed_at_start(tmp_path: Path, log: Log) -> None:
    Spool(tmp_path / "spool").open()
    (tmp_path / "spool" / "incoming" / "left.part").write_bytes(b"half")
    with running(Node(tmp_path)) as node:
        assert node.files() == []
    assert log.of("receive.started")[0]["orphans_removed"] == 1


def test_an_end_that_cannot_be_told_is_logged(tmp_path: Path, log: Log) -> None:
    node = Node(tmp_path)

    def fail(end: AssociationEnd) -> None:
        Node.end(node, end)
        raise StoreError("The store failed.")

    node.end = fail  # type: ignore[method-assign]
    with running(node), wire_to(node) as wire:
        wire.release()
        node.wait_for_end()
    assert log.of("receive.association-end-failed")[0]["code"] == "store-failed"


# Storage commitment, from the archive


def report_of(transaction_uid: str = "1.2.9") -> Dataset:
    information = Dataset()
    information.TransactionUID = transaction_uid
    held, lost = Dataset(), Dataset()
    held.ReferencedSOPClassUID, held.ReferencedSOPInstanceUID = "1.2.1", "1.2.2"
    lost.ReferencedSOPClassUID, lost.ReferencedSOPInstanceUID, lost.FailureReason = "1.2.1", "1.2.3", 0x0112
    information.ReferencedSOPSequence, information.FailedSOPSequence = [held], [lost]
    return information


@pytest.mark.parametrize("status", [0x0000, 0x0115])
def test_a_commitment_report_on_an_association_the_archive_opens(node: Node, status: int) -> None:
    node.commitment_status = status
    ae = AE("ARCHIVE")
    assoc = ae.associate(
        "127.0.0.1",
        node.port,
        contexts=[build_context(StorageCommitmentPushModel)],
        ae_title="BONEAGE",
        ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
    )
    assert assoc.is_established
    assert assoc.accepted_contexts[0].as_scp
    answer, _ = assoc.send_n_event_report(
        report_of(), 2, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    assoc.release()
    assert answer.Status == status
    assert node.reports == [CommitmentReport("1.2.9", (("1.2.1", "1.2.2"),), (("1.2.1", "1.2.3", 0x0112),))]


def event_report(event_type: int | None = 1) -> dict[int, int | str | bytes]:
    command: dict[int, int | str | bytes] = {
        0x0002: StorageCommitmentPushModel,
        0x0100: 0x0100,
        0x0110: 5,
        0x0800: DATA_SET,
        0x1000: StorageCommitmentPushModelInstance,
    }
    return command if event_type is None else {**command, 0x1002: event_type}


def encode_report(transaction_uid: str = "1.2.9") -> bytes:
    ds = report_of(transaction_uid)
    stream = io.BytesIO()
    ds.save_as(stream, implicit_vr=True, little_endian=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("command", "data", "context_id", "calling_ae", "status"),
    [
        (event_report(), encode_report(), COMMITMENT_CONTEXT, "ARCHIVE", 0x0000),
        (event_report(3), encode_report(), COMMITMENT_CONTEXT, "ARCHIVE", 0x0113),
        (event_report(None), encode_report(), COMMITMENT_CONTEXT, "ARCHIVE", 0x0113),
        (event_report(), b"\x08\0\x99\x11\x10\0\0\0ab", COMMITMENT_CONTEXT, "ARCHIVE", 0x0115),
        (event_report(), bytes(5 << 20), COMMITMENT_CONTEXT, "ARCHIVE", 0x0115),
        (event_report(), encode_report(), VERIFICATION_CONTEXT, "ARCHIVE", 0x0122),
        (event_report(), encode_report(), COMMITMENT_CONTEXT, "ARCHIVE_SCU", 0x0000),
        (event_report(), encode_report(), COMMITMENT_CONTEXT, "MODALITY", 0x0124),
    ],
)
def test_reports_are_checked(
    node: Node, command: Elements, data: bytes, context_id: int, calling_ae: str, status: int
) -> None:
    with wire_to(node, calling_ae=calling_ae) as wire:
        wire.send(encode_message(command, data, context_id, 16_384))
        response = wire.read_response()
        assert response[STATUS] == status
        assert (response[0x0100], response[0x0120]) == (0x8100, 5)
        assert response[0x1000] == StorageCommitmentPushModelInstance
    assert len(node.reports) == (status == 0)


def test_reports_echoes_and_objects_on_one_association(tmp_path: Path) -> None:
    with running(Node(tmp_path), accept_unknown_callers=True) as node, wire_to(node) as wire:
        for _ in range(2):
            assert store_film(wire, make_film())[STATUS] == 0
            wire.send(encode_message(event_report(), encode_report(), COMMITMENT_CONTEXT, 64))
            assert wire.read_response()[STATUS] == 0
            wire.send(p_data(encode_command(c_echo_rq()), VERIFICATION_CONTEXT, COMMAND | LAST))
            assert wire.read_response()[STATUS] == 0
        wire.release()
        assert (len(node.reports), len(node.received)) == (2, 2)


# The log


def test_the_log_names_the_object_and_never_the_patient(tmp_path: Path, log: Log) -> None:
    with with_intake(tmp_path) as node:
        film = make_film()
        send(node, film, film, make_film(SOPInstanceUID=film.SOPInstanceUID, PatientSex="M"))
        with wire_to(node) as wire:
            store(wire, data_set_of(write(film))[:-7], sop_instance_uid=str(film.SOPInstanceUID))
            store(wire, data_set_of(write(film)), sop_instance_uid=PATIENT["PatientID"])
        node.wait_for_end(2)
    lines = log.of("receive.stored")
    assert [line["kind"] for line in lines] == ["new", "duplicate"]
    assert {line["sop_instance_uid"] for line in lines} == {film.SOPInstanceUID}
    assert len(log.of("receive.refused")) == 2
    for value in (*PATIENT.values(), "Prüfling", "Ähnlich"):
        assert value not in log.text()


# DCMTK


@pytest.fixture
def dcmtk(require_peer: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return require_peer("dcmtk")


STORESCU_PROFILE = """
[[TransferSyntaxes]]
[One]
TransferSyntax1 = {syntax}
[[PresentationContexts]]
[Contexts]
PresentationContext1 = {sop_class_uid}\\One
[[Profiles]]
[Film]
PresentationContexts = Contexts
"""


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_dcmtk_echoscu(node: Node, dcmtk: dict[str, str]) -> None:
    told = call(dcmtk["echoscu"], "-aet", "MODALITY", "-aec", "BONEAGE", "127.0.0.1", str(node.port))
    assert told.returncode == 0, told.stderr
    told = call(dcmtk["echoscu"], "-aet", "STRANGER", "-aec", "BONEAGE", "127.0.0.1", str(node.port))
    assert told.returncode != 0


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_dcmtk_sends_every_transfer_syntax(
    node: Node, dcmtk: dict[str, str], tmp_path: Path, program: str, syntax: str
) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(encode(make_film(draw_pattern(400, 300)), syntax))
    profile = tmp_path / "storescu.cfg"
    profile.write_text(STORESCU_PROFILE.format(syntax=syntax, sop_class_uid=DX_FOR_PRESENTATION))
    options = ["-xf", profile, "Film"] if program == "storescu" else ["-dn"]
    told = call(dcmtk[program], *options, "-aet", "MODALITY", "-aec", "BONEAGE", "127.0.0.1", str(node.port), path)
    assert told.returncode == 0, told.stderr
    (received,) = node.received
    if program == "dcmsend" and syntax in {ImplicitVRLittleEndian, ExplicitVRBigEndian}:
        assert received.transfer_syntax_uid == ExplicitVRLittleEndian  # it offers all that are uncompressed, we choose
    else:
        assert received.transfer_syntax_uid == syntax
        assert dcmread(received.path) == dcmread(path)  # DCMTK writes lengths of its own: the elements are the same


def test_dcmtk_sees_the_status(node: Node, dcmtk: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(write(make_film(StudyInstanceUID=None)))
    told = call(dcmtk["storescu"], "-v", "-aet", "MODALITY", "-aec", "BONEAGE", "127.0.0.1", str(node.port), path)
    assert "0xc000" in (told.stdout + told.stderr).lower() or "CannotUnderstand" in told.stdout + told.stderr
    assert node.files() == []


def test_dcmtk_sends_many_at_once(node: Node, dcmtk: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.dcm").write_bytes(write(make_film()))
    told = call(dcmtk["storescu"], "+sd", "-aet", "MODALITY", "-aec", "BONEAGE", "127.0.0.1", str(node.port), folder)
    assert told.returncode == 0, told.stderr
    assert len(node.received) == 12
