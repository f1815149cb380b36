"""Storage commitment: reports on both ways, failures, silence, restarts; turns are run by hand.

Not covered: the association that a report comes in on (test_receive*.py), a real archive (test_acceptance_orthanc.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import Comprehensive3DSRStorage, SecondaryCaptureImageStorage, StorageCommitmentPushModel

from conformance.documents import enter_documents
from conformance.nodes import ledger, make_settings, states
from dicom_node.archive import Archive
from dicom_node.commitment import CommitmentReport, Commitments, compose_request, read_report
from dicom_node.deliver import Courier
from dicom_node.ledger import due_turns
from dicom_node.store import CommitmentRequest, Delivery, Document, Store, now, open_store


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url)
    yield opened
    opened.close()


class SilentArchive:
    """Takes objects and commitment requests, and reports nothing: the test does.

    Parameters
    ----------
    answer
        DIMSE status of the N-ACTION.
    """

    def __init__(self, answer: int = 0x0000) -> None:
        self.requests: list[Dataset] = []
        self.stored: list[str] = []
        self._answer = answer
        self._ae = AE("ARCHIVE")
        for sop_class_uid in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage, StorageCommitmentPushModel):
            self._ae.add_supported_context(sop_class_uid)

    def __enter__(self) -> SilentArchive:
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._take)]
        self._server = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.address = self._server.server_address[:2]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._ae.shutdown()

    def _store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _take(self, event: evt.Event) -> tuple[int, None]:
        self.requests.append(event.action_information)
        return self._answer, None


class Bench:
    """A courier, its ledger, and what takes reports."""

    def __init__(self, store: Store, folder: Path, address: tuple[str, int], **sections: Any) -> None:
        self.store = store
        self.settings = make_settings(folder, {"pacs": address}, **sections)
        self.woken = 0
        self.commitments = Commitments(store, self.settings.deliver, "node-1", self._wake)
        self.courier = Courier(
            store,
            settings=self.settings.deliver,
            node=self.settings.node,
            archives=self.settings.archives,
            documents_dir=self.settings.documents_dir,
            compose=lambda *_: None,
            commitments=self.commitments,
        )
        self.uid, self.revision_id = enter_documents(store, self.settings.documents_dir, self.settings.archives)

    def _wake(self) -> None:
        self.woken += 1

    def go(self) -> None:
        for turn in due_turns(self.store, now()):
            self.courier.run(turn)

    def let_time_pass(self, by: timedelta) -> None:
        with self.store.session() as session:
            for delivery in session.scalars(sa.select(Delivery).where(Delivery.due_at.is_not(None))):
                assert delivery.due_at is not None
                delivery.due_at -= by

    def references(self) -> tuple[tuple[str, str], ...]:
        with self.store.reading() as session:
            query = sa.select(Document.sop_class_uid, Document.sop_instance_uid).order_by(Document.id)
            return tuple((sop_class, uid) for sop_class, uid in session.execute(query))

    def transactions(self) -> list[str]:
        with self.store.reading() as session:
            query = sa.select(CommitmentRequest.transaction_uid).order_by(CommitmentRequest.requested_at)
            return list(dict.fromkeys(session.scalars(query)))

    def ledger(self) -> list[tuple[str, str]]:
        return [(entry.state, entry.commitment) for entry in ledger(self.store, self.uid)]

    @property
    def state(self) -> str:
        return states(self.store)[self.uid]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentArchive]:
    monkeypatch.setattr("dicom_node.deliver.REPORT_WAIT_S", 0.01)
    with SilentArchive() as archive:
        yield archive


@pytest.fixture
def bench(store: Store, tmp_path: Path, silent: SilentArchive) -> Bench:
    return Bench(store, tmp_path / "node", silent.address)


def report(transaction: str, committed: Any = (), failed: Any = (), reason: int = 0x0112) -> CommitmentReport:
    return CommitmentReport(transaction, tuple(committed), tuple((*reference, reason) for reference in failed))


def test_a_request_names_the_objects_of_one_turn(bench: Bench, silent: SilentArchive) -> None:
    bench.go()
    (request,) = silent.requests
    assert request.TransactionUID == bench.transactions()[0]
    named = {(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in request.ReferencedSOPSequence}
    assert named == set(bench.references())
    assert bench.ledger() == [("sent", "requested")] * 2
    assert bench.state == "sent"


def test_a_report_from_anywhere_commits(bench: Bench) -> None:
    """Given a request, when its report comes after the association has gone, then the ledger says committed."""
    bench.go()
    assert bench.commitments.take(report(bench.transactions()[0], bench.references())) == 0x0000
    assert bench.ledger() == [("committed", "committed")] * 2
    assert bench.state == "committed"
    assert bench.woken == 1
    assert due_turns(bench.store, now() + timedelta(days=365)) == ()


def test_a_report_is_understood_after_a_restart(bench: Bench) -> None:
    bench.go()
    reborn = Commitments(bench.store, bench.settings.deliver, "node-2")
    assert reborn.take(report(bench.transactions()[0], bench.references())) == 0x0000
    assert bench.state == "committed"


def test_a_report_twice_changes_nothing(bench: Bench) -> None:
    bench.go()
    told = report(bench.transactions()[0], bench.references())
    assert [bench.commitments.take(told) for _ in range(2)] == [0x0000, 0x0000]
    assert bench.state == "committed"


def test_a_failure_after_a_commitment_changes_nothing(bench: Bench) -> None:
    bench.go()
    transaction = bench.transactions()[0]
    bench.commitments.take(report(transaction, bench.references()))
    assert bench.commitments.take(report(transaction, (), bench.references())) == 0x0000
    assert bench.state == "committed"


def test_a_report_of_an_unknown_transaction_is_refused(bench: Bench) -> None:
    bench.go()
    assert bench.commitments.take(report(str(generate_uid()), bench.references())) == 0x0115
    assert bench.ledger() == [("sent", "requested")] * 2


def test_objects_nobody_asked_about_are_not_committed(bench: Bench) -> None:
    bench.go()
    first, _ = bench.references()
    bench.commitments.take(report(bench.transactions()[0], [first, ("1.2", "1.2.3")]))
    assert bench.ledger() == [("committed", "committed"), ("sent", "requested")]
    assert bench.state == "sent"


def test_a_store_that_fails_asks_the_archive_to_report_again(bench: Bench) -> None:
    bench.go()
    transaction = bench.transactions()[0]
    with bench.store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE deliveries RENAME TO lost")
    assert bench.commitments.take(report(transaction, bench.references())) == 0x0110


def test_what_the_archive_does_not_hold_is_sent_again(bench: Bench, silent: SilentArchive) -> None:
    bench.go()
    first, second = bench.references()
    bench.commitments.take(report(bench.transactions()[0], [first], [second]))
    assert bench.ledger() == [("committed", "committed"), ("composed", "due")]
    assert bench.state == "composed"
    bench.let_time_pass(timedelta(minutes=1))
    bench.go()
    assert silent.stored.count(second[1]) == 2
    assert silent.stored.count(first[1]) == 1
    bench.commitments.take(report(bench.transactions()[1], [second]))
    assert bench.state == "committed"


def test_an_archive_that_never_holds_it_is_believed_at_last(bench: Bench, silent: SilentArchive) -> None:
    """Given an archive that loses what it is sent, when it has been sent four times, then a person must look."""
    for _ in range(4):
        bench.go()
        bench.commitments.take(report(bench.transactions()[-1], (), bench.references()))
        bench.let_time_pass(timedelta(minutes=1))
    bench.go()
    entries = ledger(bench.store, bench.uid)
    assert {(e.state, e.error_code, e.status, e.due_at) for e in entries} == {
        ("failed", "commitment-failed", 0x0112, None)
    }
    assert len(silent.stored) == 8
    assert bench.state == "failed"


@pytest.mark.parametrize("reason", [0x0122, 0x0119])
def test_reasons_that_no_repetition_changes(bench: Bench, reason: int) -> None:
    bench.go()
    bench.commitments.take(report(bench.transactions()[0], (), bench.references(), reason))
    assert [entry.state for entry in ledger(bench.store, bench.uid)] == ["failed", "failed"]


@pytest.mark.parametrize("reason", [0x0213, 0x0131])
def test_reasons_to_ask_again_without_sending(bench: Bench, silent: SilentArchive, reason: int) -> None:
    bench.go()
    bench.commitments.take(report(bench.transactions()[0], (), bench.references(), reason))
    bench.let_time_pass(timedelta(minutes=1))
    bench.go()
    assert len(silent.stored) == 2
    assert len(silent.requests) == 2


def test_silence_is_asked_again(bench: Bench, silent: SilentArchive) -> None:
    """Given no report for longer than the settings allow, then it is asked again, and both reports are understood."""
    bench.go()
    bench.let_time_pass(timedelta(seconds=bench.settings.deliver.commitment_timeout_s - 10))
    bench.go()
    assert len(silent.requests) == 1
    bench.let_time_pass(timedelta(seconds=20))
    bench.go()
    assert len(silent.requests) == 2
    assert len(silent.stored) == 2
    old, new = bench.transactions()
    first, second = bench.references()
    bench.commitments.take(report(old, [first]))
    bench.commitments.take(report(new, [second]))
    assert bench.state == "committed"


def test_silence_for_as_long_as_the_settings_say_is_given_up(bench: Bench, silent: SilentArchive) -> None:
    bench.go()
    with bench.store.session() as session:
        for delivery in session.scalars(sa.select(Delivery)):
            delivery.sent_at = delivery.due_at = now() - timedelta(days=15)
    bench.go()
    assert len(silent.requests) == 1
    entries = ledger(bench.store, bench.uid)
    assert {(e.state, e.error_code) for e in entries} == {("failed", "commitment-failed")}


def test_a_turn_that_died_before_the_report_asks_again(bench: Bench, silent: SilentArchive, monkeypatch: Any) -> None:
    """Given a process that dies while it waits, when its turn is repeated, then it asks at once, not in an hour."""

    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    (turn,) = due_turns(bench.store, now())
    with monkeypatch.context() as patched:
        patched.setattr(bench.commitments, "wait", die)
        with pytest.raises(Died):
            bench.courier.run(turn)
    bench.courier.run(turn)
    assert len(silent.requests) == 2
    assert len(silent.stored) == 2


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0x0211])
def test_a_peer_that_declines_for_good_has_no_commitment(store: Store, tmp_path: Path, status: int) -> None:
    with SilentArchive(status) as archive:
        bench = Bench(store, tmp_path / "node", archive.address)
        bench.go()
    assert bench.ledger() == [("sent", "none")] * 2
    assert bench.state == "delivered"


def test_a_peer_that_declines_for_now_is_asked_again(store: Store, tmp_path: Path) -> None:
    with SilentArchive(0x0213) as archive:
        bench = Bench(store, tmp_path / "node", archive.address)
        bench.go()
        assert bench.ledger() == [("sent", "due")] * 2
        bench.let_time_pass(timedelta(minutes=1))
        bench.go()
        assert len(archive.requests) == 2
        assert len(archive.stored) == 2


def test_the_same_association_brings_the_report(store: Store, tmp_path: Path) -> None:
    with Archive(tmp_path / "archive") as archive:
        bench = Bench(store, tmp_path / "node", archive.address)
        bench.go()
        assert bench.state == "committed"


def test_requests_and_reports_are_read_as_written() -> None:
    references = [("1.2.3", "1.2.3.4"), ("1.2.3", "1.2.3.5")]
    request = compose_request("1.9", references)
    assert read_report(request) == CommitmentReport("1.9", tuple(references), ())


@pytest.mark.parametrize(
    "make",
    [
        Dataset,
        lambda: compose_request("1.9", []),
        lambda: compose_request("", [("", "")]),
    ],
)
def test_poor_reports_do_not_raise(bench: Bench, make: Callable[[], Dataset]) -> None:
    bench.go()
    assert bench.commitments.take(read_report(make())) == 0x0115
