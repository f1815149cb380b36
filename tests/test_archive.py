"""The small archive of the demo: what it keeps, what it commits to, and both ways of reporting that.

Not covered: what a real archive does (test_acceptance_orthanc.py), and loss of power.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import (
    ComprehensiveSRStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from dicom_node.archive import Archive, CallBack

WAIT_S = 20


def make_object(study_instance_uid: str | None = None) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = study_instance_uid or generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.PatientName = "Hand^Average"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def ask_for(*objects: Dataset) -> Dataset:
    request = Dataset()
    request.TransactionUID = generate_uid()
    request.ReferencedSOPSequence = []
    for ds in objects:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        request.ReferencedSOPSequence.append(item)
    return request


class Caller:
    """A Storage and Storage Commitment SCU that collects the reports it gets."""

    def __init__(self) -> None:
        self.reports: queue.Queue[tuple[int, Dataset]] = queue.Queue()
        self.handlers = [(evt.EVT_N_EVENT_REPORT, self._on_report)]

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        self.reports.put((event.request.EventTypeID, event.event_information))
        return 0x0000, None

    def open(self, archive: Archive) -> Any:
        ae = AE("CALLER")
        ae.add_requested_context(Verification)
        ae.add_requested_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
        ae.add_requested_context(StorageCommitmentPushModel)
        host, port = archive.address
        assoc = ae.associate(host, port, evt_handlers=self.handlers, ae_title="ARCHIVE")
        assert assoc.is_established
        return assoc

    def listen(self) -> Any:
        ae = AE("CALLER")
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        return ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=self.handlers)


def ask(assoc: Any, request: Dataset, action: int = 1, instance: str = StorageCommitmentPushModelInstance) -> int:
    status, _ = assoc.send_n_action(request, action, StorageCommitmentPushModel, instance)
    answer: int = status.Status
    return answer


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive") as running:
        yield running


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_it_answers_an_echo(archive: Archive, caller: Caller) -> None:
    assoc = caller.open(archive)
    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()


def test_it_keeps_an_object_once(archive: Archive, caller: Caller, tmp_path: Path) -> None:
    """Given one object sent twice and another under its UID, then the first is kept and the last is refused."""
    ds = make_object()
    assoc = caller.open(archive)
    assert assoc.send_c_store(ds).Status == 0x0000
    assert assoc.send_c_store(ds).Status == 0x0000
    ds.PatientName = "Another"
    assert assoc.send_c_store(ds).Status == 0x0111
    assoc.release()
    (stored,) = archive.objects(ds.StudyInstanceUID)
    assert dcmread(stored.path).PatientName == "Hand^Average"
    assert stored.path.parent == tmp_path / "archive"
    assert ds.SOPInstanceUID not in stored.path.name
    assert archive.receipts[ds.SOPInstanceUID] == 3
    assert archive.objects("1.2.3") == []


def test_an_object_without_a_study_is_not_kept(archive: Archive, caller: Caller) -> None:
    ds = make_object()
    del ds.StudyInstanceUID
    assoc = caller.open(archive)
    assert assoc.send_c_store(ds).Status == 0xC000
    assoc.release()
    assert archive.objects() == []


def test_it_commits_on_the_same_association(archive: Archive, caller: Caller) -> None:
    ds = make_object()
    assoc = caller.open(archive)
    assoc.send_c_store(ds)
    request = ask_for(ds)
    assert ask(assoc, request) == 0x0000
    event_type, report = caller.reports.get(timeout=WAIT_S)
    assoc.release()
    assert event_type == 1
    assert report.TransactionUID == request.TransactionUID
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [ds.SOPInstanceUID]
    assert "FailedSOPSequence" not in report


def test_it_does_not_commit_to_what_it_lacks(archive: Archive, caller: Caller) -> None:
    kept, other_class, missing = make_object(), make_object(), make_object()
    assoc = caller.open(archive)
    assoc.send_c_store(kept)
    assoc.send_c_store(other_class)
    other_class.SOPClassUID = ComprehensiveSRStorage
    assert ask(assoc, ask_for(kept, other_class, missing)) == 0x0000
    event_type, report = caller.reports.get(timeout=WAIT_S)
    assoc.release()
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [kept.SOPInstanceUID]
    failed = {item.ReferencedSOPInstanceUID: item.FailureReason for item in report.FailedSOPSequence}
    assert failed == {other_class.SOPInstanceUID: 0x0119, missing.SOPInstanceUID: 0x0112}


def test_it_commits_on_an_association_of_its_own(archive: Archive, caller: Caller) -> None:
    ds = make_object()
    server = caller.listen()
    archive.same_association = False
    archive.call_back = CallBack("127.0.0.1", server.server_address[1], "CALLER")
    assoc = caller.open(archive)
    assoc.send_c_store(ds)
    assert ask(assoc, ask_for(ds)) == 0x0000
    assoc.release()
    event_type, _report = caller.reports.get(timeout=WAIT_S)
    assert event_type == 1
    server.shutdown()


def test_it_calls_again_when_nobody_answers(archive: Archive, caller: Caller) -> None:
    """Given a caller that cannot be reached at first, then the report still comes."""
    ds = make_object()
    gone = caller.listen()
    archive.same_association = False
    archive.call_back = CallBack("127.0.0.1", gone.server_address[1], "CALLER")
    gone.shutdown()
    assoc = caller.open(archive)
    assoc.send_c_store(ds)
    assert ask(assoc, ask_for(ds)) == 0x0000
    assoc.release()
    server = caller.listen()
    archive.call_back = CallBack("127.0.0.1", server.server_address[1], "CALLER")
    assert caller.reports.get(timeout=WAIT_S)[0] == 1
    server.shutdown()


@pytest.mark.parametrize(
    ("action", "instance", "request_ds", "status"),
    [
        (2, StorageCommitmentPushModelInstance, ask_for(make_object()), 0x0123),
        (1, "1.2.3", ask_for(make_object()), 0x0112),
        (1, StorageCommitmentPushModelInstance, ask_for(), 0x0115),
    ],
)
def test_wrong_requests_get_their_status(
    archive: Archive, caller: Caller, action: int, instance: str, request_ds: Dataset, status: int
) -> None:
    assoc = caller.open(archive)
    assert ask(assoc, request_ds, action, instance) == status
    assoc.release()


def test_a_restarted_archive_still_holds_what_it_held(caller: Caller, tmp_path: Path) -> None:
    ds = make_object()
    with Archive(tmp_path) as first:
        assoc = caller.open(first)
        assoc.send_c_store(ds)
        assoc.release()
    with Archive(tmp_path) as second:
        assoc = caller.open(second)
        assert ask(assoc, ask_for(ds)) == 0x0000
        assert caller.reports.get(timeout=WAIT_S)[0] == 1
        assoc.release()
        assert len(second.objects()) == 1


def test_waiting_ends_with_the_object_or_the_time(archive: Archive, caller: Caller) -> None:
    assert not archive.wait_for(lambda a: len(a.objects()) > 0, 0.01)
    assoc = caller.open(archive)
    assoc.send_c_store(make_object())
    assert archive.wait_for(lambda a: len(a.objects()) == 1, WAIT_S)
    assoc.release()


def test_an_archive_that_was_not_started_has_no_address(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not been started"):
        _ = Archive(tmp_path).address


def test_the_role_item_of_a_call_back_is_what_the_standard_says() -> None:
    """PS3.4 J.3.3: who opens an association to report proposes itself as SCP."""
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    assert (role.scu_role, role.scp_role) == (False, True)
