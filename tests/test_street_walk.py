"""One walk down the street and what becomes of its errors, without the engine: steps are called directly.

Not covered: the engine's memory of steps (test_kill_node.py), the documents' content (test_reports_*.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dicom_node import ledger
from dicom_node.assemble import Walk, assemble_ready, pending_walks
from dicom_node.compose import kinds_wanted
from dicom_node.dispatch import Dispatcher
from dicom_node.errors import DocumentRejected, DocumentUnwritten, InterpretationFailed, StoreError
from dicom_node.intake import Intake
from dicom_node.ledger import Turn
from dicom_node.revisions import DeliveryState
from dicom_node.settings import ArchivePeer
from dicom_node.spool import Received, file_meta
from dicom_node.store import (
    Delivery,
    Document,
    Event,
    FindingRow,
    Revision,
    Store,
    Study,
    insert_if_absent,
    now,
    open_store,
)
from dicom_node.street import Street
from dicom_node.workflows import GIVEN_UP

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
PACS = ArchivePeer(kind="archive", name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=104)


def step(_name: str, act: Callable[..., Any], *arguments: object) -> Any:
    return act(*arguments)


class Workshop:
    """Reader and composer in one; ``fail_with`` is raised by the step it is set for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read: list[int] = []
        self.fail_with: dict[str, Exception] = {}

    def interpret(self, revision_id: int, instance_id: int) -> None:
        self.read.append(instance_id)
        self._maybe_fail("interpret")
        with self._store.session() as session:
            insert_if_absent(
                session, FindingRow, instance_id=instance_id, revision_id=revision_id, kind="estimate", body="{}",
                interpreted_at=now(),
            )  # fmt: skip

    def compose(self, finding_id: int, kind: str) -> None:
        self._maybe_fail(kind)
        with self._store.session() as session:
            revision_id = session.get_one(FindingRow, finding_id).revision_id
            insert_if_absent(
                session, Document, finding_id=finding_id, revision_id=revision_id, kind=kind, sop_class_uid=CR,
                sop_instance_uid=f"2.25.{finding_id}.{kind == 'sr':d}", series_instance_uid="1", path="p",
                created_at=now(), verified_at=now(),
            )  # fmt: skip

    def _maybe_fail(self, where: str) -> None:
        if where in self.fail_with:
            raise self.fail_with[where]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    yield opened
    opened.close()


@pytest.fixture
def workshop(store: Store) -> Workshop:
    return Workshop(store)


@pytest.fixture
def street(store: Store, workshop: Workshop) -> Street:
    return Street(store, reader=workshop, composer=workshop, archives=[PACS], node_id="node-1")  # type: ignore[arg-type]


@pytest.fixture
def walk(store: Store, tmp_path: Path) -> Walk:
    path = tmp_path / "object.dcm"
    path.write_bytes(file_meta(CR, "1.2.1.1", EXPLICIT) + b"data")
    intake = Intake(store, tmp_path, 0.0, frozenset(), "node-1")
    intake.record(Received(CR, "1.2.1.1", EXPLICIT, "1.2", "1.2.1", "CR", path, 4, "SENDER", "a", now()))
    (walk,) = assemble_ready(store, "node-1", now())
    return walk


def revision_of(store: Store, walk: Walk) -> Revision:
    with store.reading() as session:
        return session.get_one(Revision, walk.revision_id)


def test_a_walk_ends_in_the_ledger(store: Store, street: Street, walk: Walk) -> None:
    street.walk(walk.revision_id, step)
    assert revision_of(store, walk).state == "composed"
    assert pending_walks(store) == ()
    with store.reading() as session:
        assert session.scalars(sa.select(Delivery.state)).all() == ["composed", "composed"]


def test_a_walk_again_repeats_nothing(store: Store, street: Street, walk: Walk) -> None:
    for _ in range(3):
        street.walk(walk.revision_id, step)
    with store.reading() as session:
        for table in (FindingRow, Revision):
            assert session.scalar(sa.select(sa.func.count()).select_from(table)) == 1
        for table in (Document, Delivery):
            assert session.scalar(sa.select(sa.func.count()).select_from(table)) == 2


def test_a_document_that_fails_lets_the_other_go(store: Store, street: Street, workshop: Workshop, walk: Walk) -> None:
    workshop.fail_with["sc"] = DocumentRejected("not the right image")
    street.walk(walk.revision_id, step)
    revision = revision_of(store, walk)
    assert (revision.state, revision.error_code) == ("failed", "document-rejected")
    with store.reading() as session:
        assert session.scalars(sa.select(Delivery.state)).all() == ["composed"]


def test_a_failed_interpretation_is_set_aside(store: Store, street: Street, workshop: Workshop, walk: Walk) -> None:
    workshop.fail_with["interpret"] = InterpretationFailed("raised on 1.2.1.1")
    street.walk(walk.revision_id, step)
    revision = revision_of(store, walk)
    assert (revision.state, revision.error_code, revision.error) == (
        "failed", "interpretation-failed", "raised on 1.2.1.1",
    )  # fmt: skip


@pytest.mark.parametrize("error", [StoreError("away"), DocumentUnwritten("full")])
def test_what_may_pass_ends_the_walk_and_not_the_revision(
    store: Store, street: Street, workshop: Workshop, walk: Walk, error: Exception
) -> None:
    """Given an error that may pass, when steps have been retried in vain, then the walk is to begin anew."""
    workshop.fail_with["sr"] = error
    with pytest.raises(type(error)):
        street.walk(walk.revision_id, step)
    assert revision_of(store, walk).error_code is None
    street.begin_anew(walk.revision_id)
    (again,) = pending_walks(store)
    assert again.workflow_id != walk.workflow_id
    workshop.fail_with.clear()
    street.walk(walk.revision_id, step)
    assert revision_of(store, walk).state == "composed"


def test_a_fault_of_ours_is_set_aside_without_its_text(
    store: Store, street: Street, workshop: Workshop, walk: Walk
) -> None:
    workshop.fail_with["sr"] = ZeroDivisionError("of Prüfling")
    street.walk(walk.revision_id, step)
    revision = revision_of(store, walk)
    assert (revision.state, revision.error_code, revision.error) == ("failed", "ZeroDivisionError", "ZeroDivisionError")


class LosingEngine:
    """Enqueues nothing, and says that everything has ended with one status."""

    def __init__(self, status: str) -> None:
        self.status = status
        self.walks: list[str] = []
        self.turns: list[str] = []

    def start_walk(self, walk: Walk) -> None:
        self.walks.append(walk.workflow_id)

    def start_turn(self, turn: Turn) -> None:
        self.turns.append(turn.workflow_id)

    def ended(self, workflow_ids: list[str]) -> dict[str, str]:
        return dict.fromkeys(workflow_ids, self.status)


def make_dispatcher(store: Store, street: Street, status: str) -> tuple[Dispatcher, LosingEngine]:
    engine = LosingEngine(status)
    return Dispatcher(store, engine, street, "node-1"), engine  # type: ignore[arg-type]


def test_a_walk_that_kills_the_process_each_time_is_given_up(store: Store, street: Street, walk: Walk) -> None:
    dispatcher, _ = make_dispatcher(store, street, GIVEN_UP)
    dispatcher.make_pass(now())
    revision = revision_of(store, walk)
    assert (revision.state, revision.error_code) == ("failed", "walk-given-up")


@pytest.mark.parametrize("status", ["ERROR", "SUCCESS", "CANCELLED"])
def test_a_walk_whose_workflow_ended_begins_anew(store: Store, street: Street, walk: Walk, status: str) -> None:
    dispatcher, engine = make_dispatcher(store, street, status)
    at = now()
    dispatcher.make_pass(at)
    dispatcher.make_pass(at + timedelta(seconds=1))
    assert engine.walks[-1] == f"walk/1.2/1/{revision_of(store, walk).round}"
    assert revision_of(store, walk).round == 1


def test_a_turn_whose_workflow_ended_gets_a_new_id(store: Store, street: Street, walk: Walk) -> None:
    street.walk(walk.revision_id, step)
    dispatcher, engine = make_dispatcher(store, street, "ERROR")
    at = now()
    dispatcher.make_pass(at)
    dispatcher.make_pass(at + timedelta(seconds=1))
    assert len(engine.turns) == len(set(engine.turns)) == 2


def test_a_clock_that_was_ahead_leaves_nothing_waiting(store: Store, street: Street, walk: Walk) -> None:
    """Given a study and a delivery that a clock a year ahead put off, when it is right again, then both go on."""
    street.walk(walk.revision_id, step)
    ahead = now() + timedelta(days=365)
    with store.session() as session:
        for delivery in session.scalars(sa.select(Delivery)):
            delivery.due_at, delivery.updated_at = ahead + timedelta(minutes=15), ahead
        late = Study(
            study_instance_uid="1.9", state="receiving", first_received_at=ahead, last_received_at=ahead,
            ready_at=ahead + timedelta(seconds=10), revision=0,
        )  # fmt: skip
        session.add(late)
    dispatcher, _ = make_dispatcher(store, street, "SUCCESS")
    dispatcher.make_pass(now())
    assert {walk.study_instance_uid for walk in pending_walks(store)} == {"1.9"}
    with store.reading() as session:
        assert all(delivery.due_at <= now() for delivery in session.scalars(sa.select(Delivery)))


def test_a_quiet_period_and_a_pause_are_no_wrong_clock(store: Store, street: Street, walk: Walk) -> None:
    street.walk(walk.revision_id, step)
    later = now() + timedelta(hours=1)
    with store.session() as session:
        session.execute(sa.update(Delivery).values(due_at=later, updated_at=now()))
        session.execute(sa.update(Study).values(ready_at=later, last_received_at=now()))
    make_dispatcher(store, street, "SUCCESS")[0].make_pass(now())
    assert pending_walks(store) == ()
    with store.reading() as session:
        assert {delivery.due_at for delivery in session.scalars(sa.select(Delivery))} == {later}


def test_work_that_was_lost_is_found_also_after_the_clock_was_set_back(
    store: Store, street: Street, walk: Walk
) -> None:
    dispatcher, _ = make_dispatcher(store, street, "ERROR")
    dispatcher.make_pass(now() + timedelta(days=1))
    assert revision_of(store, walk).round == 1
    dispatcher.make_pass(now())
    assert revision_of(store, walk).round == 2


def test_a_fault_does_not_end_the_dispatcher(
    store: Store, street: Street, walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an engine that raises what nobody expects, when it is well again, then the walk is handed over."""
    dispatcher, engine = make_dispatcher(store, street, "ERROR")
    is_handed_over = threading.Event()
    failures = iter([RuntimeError("a fault"), None])

    def start_walk(_walk: Walk) -> None:
        failure = next(failures, None)
        if failure is not None:
            dispatcher.wake()
            raise failure
        is_handed_over.set()

    monkeypatch.setattr(engine, "start_walk", start_walk)
    dispatcher.start()
    assert is_handed_over.wait(60)
    dispatcher.stop()
    assert walk.number == 1


def test_what_is_handed_over_is_not_handed_over_again(store: Store, street: Street, walk: Walk) -> None:
    dispatcher, engine = make_dispatcher(store, street, "ERROR")
    engine.ended = lambda _: {}  # type: ignore[method-assign,assignment]
    for _ in range(5):
        dispatcher.make_pass(now())
    assert engine.walks == [walk.workflow_id]


def test_events_tell_the_walk(store: Store, street: Street, walk: Walk) -> None:
    street.walk(walk.revision_id, step)
    with store.reading() as session:
        kinds = session.scalars(sa.select(Event.kind).order_by(Event.id)).all()
    assert kinds == ["received", "assembled", "interpreted", "entered-ledger"]


def test_a_retry_by_hand_sends_what_failed_again(store: Store, street: Street, walk: Walk) -> None:
    street.walk(walk.revision_id, step)
    with store.session() as session:
        report, capture = session.scalars(sa.select(Delivery).order_by(Delivery.id)).all()
        report.state, report.due_at, report.error_code = DeliveryState.FAILED, None, "peer-refused"
        capture.state, capture.due_at = DeliveryState.COMMITTED, None
        ledger.put_to_work([report, capture])
    with store.reading() as session:
        states = session.execute(sa.select(Delivery.state, Delivery.due_at.is_not(None)).order_by(Delivery.id)).all()
        assert [tuple(row) for row in states] == [("composed", True), ("committed", False)]
        assert session.scalars(sa.select(Study.revision)).one() == 1


@pytest.mark.parametrize(
    ("deliver", "kinds"),
    [
        ([], ("sr", "sc")),
        ([("sc",)], ("sc",)),
        ([("sc",), ("sr",)], ("sr", "sc")),
        ([("sr", "sc")], ("sr", "sc")),
        ([("sc", "text")], ("sc", "text")),
        ([PACS.composed], ("sr", "sc")),
        ([PACS.model_copy(update={"sr_fallback": ("sr-2d", "text")}).composed], ("sr", "sc", "text", "sr-2d")),
    ],
)
def test_only_wanted_kinds_are_composed(deliver: list[Any], kinds: tuple[str, ...]) -> None:
    assert kinds_wanted(deliver) == kinds
