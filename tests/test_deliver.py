"""Delivery: the back-off, what statuses mean, and the ledger against archives that behave and that do not.

Turns are run by hand, without the workflow engine. Not covered: the engine (test_kill_node.py, test_street_node.py),
commitment (test_commitment.py).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

from conformance.documents import enter_documents
from conformance.nodes import ledger as ledger_of
from conformance.nodes import make_settings, states
from dicom_node import ledger
from dicom_node.archive import Archive
from dicom_node.commitment import CommitmentReport, Commitments
from dicom_node.deliver import Courier, judge_status
from dicom_node.errors import PeerBusy, PeerRefused
from dicom_node.ledger import due_turns
from dicom_node.retry import delay_s, next_attempt_at
from dicom_node.settings import DeliverSettings, Settings
from dicom_node.store import Delivery, Document, Event, Store, now, open_store

STORAGE = (Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
DAY = timedelta(days=1)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Round:
    """A courier and its ledger; ``go`` runs what is due."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.commitments = Commitments(store, settings.deliver, settings.node.id)
        self.courier = Courier(
            store,
            settings=settings.deliver,
            node=settings.node,
            archives=settings.archives,
            documents_dir=settings.documents_dir,
            compose=lambda *_: None,
            commitments=self.commitments,
        )

    def enter(self, **options: Any) -> str:
        uid, _ = enter_documents(self.store, self.settings.documents_dir, self.settings.archives, **options)
        return uid

    def go(self, peer: str | None = None) -> int:
        turns = [turn for turn in due_turns(self.store, now()) if peer in (None, turn.peer)]
        for turn in turns:
            self.courier.run(turn)
        return len(turns)

    def let_time_pass(self, by: timedelta = DAY) -> None:
        """Move every time of the ledger into the past."""
        with self.store.session() as session:
            for delivery in session.scalars(sa.select(Delivery)):
                for field in ("due_at", "failing_since", "sent_at", "commitment_requested_at"):
                    at = getattr(delivery, field)
                    if at is not None:
                        setattr(delivery, field, at - by)


@pytest.fixture
def make_round(store: Store, tmp_path: Path) -> Callable[..., Round]:
    def make(archives: dict[str, tuple[str, int]], **sections: Any) -> Round:
        return Round(store, make_settings(tmp_path / "node", archives, **sections))

    return make


@contextlib.contextmanager
def stubborn_archive(status: int, *classes: str) -> Iterator[tuple[str, int]]:
    """Run an SCP that answers every C-STORE with one status."""
    ae = AE("ARCHIVE")
    for sop_class_uid in (*(classes or STORAGE), Verification):
        ae.add_supported_context(sop_class_uid)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: status)])
    try:
        yield server.server_address[:2]
    finally:
        server.shutdown()
        ae.shutdown()


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_delays_stay_between_half_the_first_and_the_maximum(failures: int, chance: float) -> None:
    settings = DeliverSettings(first_retry_s=5, max_retry_s=900)
    assert 2.5 <= delay_s(settings, failures, chance) <= 900


@given(st.integers(1, 100))
def test_delays_grow_until_the_maximum(failures: int) -> None:
    settings = DeliverSettings(first_retry_s=5, max_retry_s=900)
    delays = [delay_s(settings, number, chance=0.0) for number in (failures, failures + 1)]
    assert delays[1] == min(2 * delays[0], 900)


def test_an_outage_is_retried_until_the_settings_say_so() -> None:
    settings = DeliverSettings(give_up_after_s=14 * 86_400)
    since = now()
    assert next_attempt_at(settings, 2000, since, since + 13.9 * DAY) is not None
    assert next_attempt_at(settings, 2000, since, since + 14 * DAY) is None


@pytest.mark.parametrize("status", [0x0000, 0x0111, 0xB000, 0xB006, 0xB007, 0x0107, 0x0116])
def test_statuses_that_say_the_archive_has_it(status: int) -> None:
    assert judge_status(status) is None


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0x0106, 0x0117, 0xA900, 0xA9FF, 0xC000, 0xCFFF])
def test_statuses_that_no_repetition_changes(status: int) -> None:
    assert type(judge_status(status)) is PeerRefused


@given(st.integers(1, 0xFFFF))
def test_every_status_means_something(status: int) -> None:
    problem = judge_status(status)
    assert problem is None or problem.status == status


@pytest.mark.parametrize("status", [0x0110, 0x0213, 0xA700, 0xA7FF, 0xFE00])
def test_statuses_that_say_later(status: int) -> None:
    assert type(judge_status(status)) is PeerBusy


def test_documents_are_sent_and_committed(make_round: Callable[..., Round], tmp_path: Path) -> None:
    with Archive(tmp_path / "archive") as archive:
        round_ = make_round({"pacs": archive.address})
        uid = round_.enter()
        assert round_.go() == 1
        assert states(round_.store)[uid] == "committed"
        assert len(archive.objects(uid)) == 2
    entries = ledger_of(round_.store, uid)
    assert {(entry.state, entry.commitment, entry.status, entry.due_at) for entry in entries} == {
        ("committed", "committed", 0x0000, None)
    }
    assert round_.go() == 0


def test_a_report_is_answered_before_the_association_is_released(
    make_round: Callable[..., Round], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a report whose taking lingers after the courier was woken, then the archive still gets its answer."""
    released, early = threading.Event(), list[bool]()
    release, take = Association.release, Commitments.take

    def release_noted(assoc: Association) -> None:
        released.set()
        release(assoc)

    def take_and_linger(commitments: Commitments, report: Any) -> int:
        status = take(commitments, report)
        early.append(released.wait(0.3))
        return status

    monkeypatch.setattr(Association, "release", release_noted)
    monkeypatch.setattr(Commitments, "take", take_and_linger)
    with Archive(tmp_path / "archive") as archive:
        round_ = make_round({"archive": archive.address})
        round_.enter()
        assert round_.go() == 1
    assert early == [False], "the association was released under the answer"
    assert released.is_set()


def test_an_outage_of_days_ends_without_a_hand(
    make_round: Callable[..., Round], tmp_path: Path, unused_port: int
) -> None:
    """Given an archive that is down for ten days, when it is up again, then everything arrives by itself."""
    round_ = make_round({"pacs": ("127.0.0.1", unused_port)}, deliver={"first_retry_s": 600, "max_retry_s": 900})
    uids = [round_.enter() for _ in range(3)]
    for day in range(10):
        assert round_.go() == 3, f"day {day}"
        assert round_.go() == 0  # nothing is due before its time
        round_.let_time_pass()
    assert set(states(round_.store).values()) == {"composed"}
    entry = ledger_of(round_.store, uids[0])[0]
    assert (entry.state, entry.error_code, entry.attempts) == ("composed", "peer-unreachable", 10)
    with Archive(tmp_path / "archive", port=unused_port) as archive:
        assert round_.go() == 3
        assert set(states(round_.store).values()) == {"committed"}
        assert set(archive.receipts.values()) == {1}


def test_the_first_success_hastens_what_waits_for_the_peer(
    make_round: Callable[..., Round], tmp_path: Path, unused_port: int
) -> None:
    round_ = make_round({"pacs": ("127.0.0.1", unused_port)}, deliver={"first_retry_s": 600, "max_retry_s": 900})
    waiting = round_.enter()
    round_.go()
    assert due_turns(round_.store, now()) == ()
    with Archive(tmp_path / "archive", port=unused_port):
        round_.enter()
        assert round_.go() == 1
        assert round_.go() == 1
        assert states(round_.store)[waiting] == "committed"


def test_an_outage_longer_than_the_settings_is_given_up(make_round: Callable[..., Round], unused_port: int) -> None:
    round_ = make_round({"pacs": ("127.0.0.1", unused_port)})
    uid = round_.enter()
    round_.go()
    round_.let_time_pass(15 * DAY)
    round_.go()
    assert {(entry.state, entry.error_code, entry.due_at) for entry in ledger_of(round_.store, uid)} == {
        ("failed", "delivery-abandoned", None)
    }
    assert states(round_.store)[uid] == "failed"


def test_a_peer_that_is_down_holds_up_no_other(
    make_round: Callable[..., Round], tmp_path: Path, unused_port: int
) -> None:
    with Archive(tmp_path / "archive") as archive:
        round_ = make_round({"down": ("127.0.0.1", unused_port), "pacs": archive.address})
        uid = round_.enter()
        round_.go()
    entries = {(entry.peer, entry.state) for entry in ledger_of(round_.store, uid)}
    assert entries == {("down", "composed"), ("pacs", "committed")}
    assert states(round_.store)[uid] == "composed"


@pytest.mark.parametrize("is_up", [True, False])
def test_what_is_dismissed_on_its_way_stays_so(
    make_round: Callable[..., Round], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_up: bool, unused_port: int
) -> None:
    """Given a turn that is worked on, when a person gives it up meanwhile, then nothing brings it back."""
    work = Courier._work

    def give_up_first(courier: Courier, *arguments: Any) -> None:
        with courier._store.session() as session:
            ledger.dismiss(session.scalars(sa.select(Delivery)).all())
        work(courier, *arguments)

    monkeypatch.setattr(Courier, "_work", give_up_first)
    with Archive(tmp_path / "archive") as archive:
        round_ = make_round({"pacs": archive.address if is_up else ("127.0.0.1", unused_port)})
        uid = round_.enter()
        assert (round_.go(), round_.go()) == (1, 0)
        assert len(archive.objects(uid)) == 2 * is_up
    entries = ledger_of(round_.store, uid)
    assert {(entry.state, entry.due_at, entry.sent_at is not None) for entry in entries} == {("dismissed", None, is_up)}


def test_an_archive_that_vouches_for_what_was_dismissed_is_believed(make_round: Callable[..., Round]) -> None:
    round_ = make_round({"pacs": ("127.0.0.1", 1)})
    uid = round_.enter()
    first, second = ledger_of(round_.store, uid)
    round_.commitments.request("1.2.3", [first.id, second.id])
    with round_.store.session() as session:
        ledger.dismiss(session.scalars(sa.select(Delivery)).all())
        uids = [session.get_one(Document, entry.document_id).sop_instance_uid for entry in (first, second)]
    report = CommitmentReport("1.2.3", committed=((STORAGE[0], uids[0]),), failed=((STORAGE[1], uids[1], 0x0112),))
    assert round_.commitments.take(report) == 0x0000
    assert [entry.state for entry in ledger_of(round_.store, uid)] == ["committed", "dismissed"]
    assert round_.go() == 0


@pytest.mark.parametrize(("status", "code"), [(0xC000, "peer-refused"), (0x0124, "peer-refused")])
def test_a_refusal_for_good_is_set_aside_with_its_status(
    make_round: Callable[..., Round], status: int, code: str
) -> None:
    with stubborn_archive(status) as address:
        round_ = make_round({"pacs": address})
        uid = round_.enter()
        round_.go()
        round_.let_time_pass()
        assert round_.go() == 0
    assert {(entry.state, entry.status, entry.error_code) for entry in ledger_of(round_.store, uid)} == {
        ("failed", status, code)
    }


def test_a_busy_peer_is_tried_again(make_round: Callable[..., Round], tmp_path: Path) -> None:
    with stubborn_archive(0xA700) as address:
        round_ = make_round({"pacs": address})
        uid = round_.enter()
        round_.go()
    entry = ledger_of(round_.store, uid)[0]
    assert (entry.state, entry.status, entry.error_code) == ("composed", 0xA700, "peer-busy")
    assert entry.due_at is not None
    with Archive(tmp_path / "archive", port=address[1]):
        round_.let_time_pass()
        round_.go()
    assert states(round_.store)[uid] == "committed"


def test_an_sop_class_the_peer_does_not_take_fails_alone(make_round: Callable[..., Round]) -> None:
    """Given an archive for secondary captures only, then the report fails with a remedy, and the capture arrives."""
    with stubborn_archive(0x0000, SecondaryCaptureImageStorage) as address:
        round_ = make_round({"pacs": address})
        uid = round_.enter()
        round_.go()
    report, capture = ledger_of(round_.store, uid)
    assert (report.state, report.error_code, report.status) == ("failed", "context-rejected", 0x0122)
    assert "deliver" in (report.error or "")
    assert (capture.state, capture.commitment) == ("sent", "none")
    assert states(round_.store)[uid] == "failed"


@pytest.mark.parametrize(
    ("taken", "kind"), [((ComprehensiveSRStorage, EnhancedSRStorage), "sr-2d"), ((EnhancedSRStorage,), "text")]
)
def test_another_report_stands_for_one_the_peer_does_not_take(
    make_round: Callable[..., Round], taken: tuple[str, ...], kind: str
) -> None:
    """Given an archive without Comprehensive 3D SR, then it gets the best report it takes, and the ledger says so."""
    with stubborn_archive(0x0000, SecondaryCaptureImageStorage, *taken) as address:
        round_ = make_round({"pacs": address}, peers={"pacs": {"sr_fallback": ("sr-2d", "text")}})
        uid = round_.enter(kinds=("sr", "sc", "text", "sr-2d"))
        round_.go()
    assert states(round_.store)[uid] == "delivered"
    with round_.store.session() as session:
        kinds = session.scalars(sa.select(Document.kind).join(Delivery, Delivery.document_id == Document.id))
        assert set(kinds) == {"sc", kind}
        events = session.scalars(sa.select(Event).where(Event.kind == "substituted")).all()
        assert [event.detail for event in events] == [kind]


def test_a_site_may_want_no_other_report(make_round: Callable[..., Round]) -> None:
    with stubborn_archive(0x0000, SecondaryCaptureImageStorage, EnhancedSRStorage) as address:
        round_ = make_round({"pacs": address}, peers={"pacs": {"sr_fallback": ()}})
        uid = round_.enter(kinds=("sr", "sc", "text", "sr-2d"))
        round_.go()
    assert states(round_.store)[uid] == "failed"


def test_a_peer_that_takes_none_of_the_classes_is_no_outage(make_round: Callable[..., Round]) -> None:
    with stubborn_archive(0x0000, Verification) as address:
        round_ = make_round({"pacs": address})
        uid = round_.enter()
        round_.go()
    assert {(entry.state, entry.error_code) for entry in ledger_of(round_.store, uid)} == {
        ("failed", "context-rejected")
    }


def test_a_peer_without_commitment_is_never_shown_as_committed(make_round: Callable[..., Round]) -> None:
    with stubborn_archive(0x0000) as address:
        by_settings = make_round({"pacs": address}, peers={"pacs": {"commitment": False}})
        told = by_settings.enter()
        by_settings.go()
        by_context = make_round({"pacs": address})
        found = by_context.enter()
        by_context.go()
    for uid in (told, found):
        entries = ledger_of(by_settings.store, uid)
        assert {(entry.state, entry.commitment, entry.due_at) for entry in entries} == {("sent", "none", None)}
        assert all(entry.committed_at is None for entry in entries)
        assert states(by_settings.store)[uid] == "delivered"


def test_each_archive_gets_the_kinds_it_takes(make_round: Callable[..., Round], tmp_path: Path) -> None:
    with Archive(tmp_path / "one") as one, Archive(tmp_path / "other") as other:
        peers = {"other": {"deliver": ("sc",)}}
        round_ = make_round({"one": one.address, "other": other.address}, peers=peers)
        uid = round_.enter()
        round_.go()
        assert len(one.objects(uid)) == 2
        assert [item.sop_class_uid for item in other.objects(uid)] == [SecondaryCaptureImageStorage]
    assert states(round_.store)[uid] == "committed"


def test_a_document_that_cannot_be_composed_again_fails_alone(make_round: Callable[..., Round], tmp_path: Path) -> None:
    with Archive(tmp_path / "archive") as archive:
        round_ = make_round({"pacs": archive.address})
        uid = round_.enter()
        next(iter(round_.settings.documents_dir.glob("*.dcm"))).unlink()
        round_.go()
        assert len(archive.objects(uid)) == 1
    entries = sorted((entry.state, entry.error_code or "") for entry in ledger_of(round_.store, uid))
    assert entries == [("committed", ""), ("failed", "document-rejected")]


def test_a_peer_that_aborts_is_tried_again(make_round: Callable[..., Round]) -> None:
    ae = AE("ARCHIVE")
    for sop_class_uid in STORAGE:
        ae.add_supported_context(sop_class_uid)

    def abort(event: evt.Event) -> int:
        event.assoc.abort()
        return 0x0000

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, abort)])
    round_ = make_round({"pacs": server.server_address[:2]})
    uid = round_.enter()
    round_.go()
    server.shutdown()
    ae.shutdown()
    assert {(entry.state, entry.error_code) for entry in ledger_of(round_.store, uid)} == {
        ("composed", "peer-unreachable")
    }


def test_a_rejected_association_says_what_to_check(make_round: Callable[..., Round], tmp_path: Path) -> None:
    ae = AE("OTHER")
    ae.require_called_aet = True
    ae.add_supported_context(Comprehensive3DSRStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    round_ = make_round({"pacs": server.server_address[:2]})
    uid = round_.enter()
    round_.go()
    server.shutdown()
    ae.shutdown()
    entry = ledger_of(round_.store, uid)[0]
    assert entry.error_code == "peer-unreachable"
    assert entry.due_at is not None
    assert "AE titles" in (entry.error or "")


def test_a_peer_that_left_the_configuration_is_said(make_round: Callable[..., Round], tmp_path: Path) -> None:
    with Archive(tmp_path / "archive") as archive:
        uid = make_round({"old": archive.address}).enter()
        round_ = make_round({"new": archive.address})
        round_.go()
    assert {(entry.state, entry.error_code) for entry in ledger_of(round_.store, uid)} == {("failed", "peer-unknown")}


def test_what_failed_is_put_to_work_by_hand(make_round: Callable[..., Round], tmp_path: Path) -> None:
    with stubborn_archive(0xC000) as address:
        round_ = make_round({"pacs": address})
        uid = round_.enter()
        round_.go()
    with round_.store.session() as session:
        ledger.put_to_work(session.scalars(sa.select(Delivery)).all())
    with Archive(tmp_path / "archive", port=address[1]):
        assert round_.go() == 1
    assert states(round_.store)[uid] == "committed"


def test_a_repeated_turn_repeats_nothing(make_round: Callable[..., Round], tmp_path: Path) -> None:
    with Archive(tmp_path / "archive") as archive:
        round_ = make_round({"pacs": archive.address})
        round_.enter()
        (turn,) = due_turns(round_.store, now())
        for _ in range(3):
            round_.courier.run(turn)
        assert set(archive.receipts.values()) == {1}


def test_every_turn_has_an_id_of_its_own(make_round: Callable[..., Round], unused_port: int) -> None:
    round_ = make_round({"pacs": ("127.0.0.1", unused_port)})
    round_.enter()
    ids = set()
    for _ in range(4):
        ids |= {turn.workflow_id for turn in due_turns(round_.store, now())}
        round_.go()
        round_.let_time_pass()
    assert len(ids) == 4


def test_the_ledger_tells_no_more_than_uids(make_round: Callable[..., Round], unused_port: int) -> None:
    round_ = make_round({"pacs": ("127.0.0.1", unused_port)})
    round_.enter()
    round_.go()
    with round_.store.reading() as session:
        details = session.scalars(sa.select(Event.detail).where(Event.kind == "retried")).all()
    assert set(details) == {"peer-unreachable"}
