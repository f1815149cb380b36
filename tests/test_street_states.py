"""The state machine of a study, by hypothesis: arrivals, quiet periods, revisions, failures, retries, commitments.

At the level of the store; the engine and the network are played by the rules. Not covered: concurrency
(test_store*.py), crashes (test_kill_node.py).
"""

from __future__ import annotations

import itertools
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dicom_node.assemble import Walk, assemble_ready, pending_walks, reprocess, walk_again
from dicom_node.errors import FilmPurged
from dicom_node.intake import Intake
from dicom_node.ledger import put_to_work
from dicom_node.retention import Limits, Purger
from dicom_node.revisions import (
    CommitmentState,
    DeliveryState,
    RevisionState,
    Scope,
    StudyState,
    instances_of,
    judge,
    lock_revision,
    settle,
    study_state,
)
from dicom_node.settings import Settings
from dicom_node.spool import Received, file_meta
from dicom_node.store import Base, Delivery, Document, FindingRow, Instance, Revision, Store, Study, make_engine, now

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
QUIET_S = 10.0
NUMBERS = itertools.count(1)


class StudyMachine(RuleBasedStateMachine):
    """One study after another in one store; the clock is the machine's own."""

    folder: Path
    store: Store

    @initialize()
    def begin(self) -> None:
        self.uid = f"1.2.{next(NUMBERS)}"
        self.clock = datetime(2026, 1, 1, tzinfo=UTC)
        self.objects: dict[str, bytes] = {}
        self.revisions = 0
        self.intake = Intake(self.store, self.folder, QUIET_S, frozenset({"WHOLE"}), "node-1")

    def _receive(self, uid: str, data: bytes, calling_ae: str) -> str:
        path = self.folder / f"{next(NUMBERS)}.dcm"
        path.write_bytes(file_meta(CR, uid, EXPLICIT) + data)
        received = Received(
            CR, uid, EXPLICIT, self.uid, f"{self.uid}.1", "CR", path, len(data), calling_ae, self.uid, self.clock
        )
        return self.intake.record(received).kind

    @rule(calling_ae=st.sampled_from(["SENDER", "WHOLE"]))
    def receive(self, calling_ae: str) -> None:
        uid = f"{self.uid}.1.{len(self.objects) + 1}"
        self.objects[uid] = b"bytes"
        assert self._receive(uid, b"bytes", calling_ae) == "new"

    @precondition(lambda self: self.objects)
    @rule(data=st.data(), same=st.booleans())
    def receive_again(self, data: Any, same: bool) -> None:
        uid = data.draw(st.sampled_from(sorted(self.objects)))
        before, was_purged = self._snapshot(), uid in self._purged()
        kind = self._receive(uid, b"bytes" if same else b"other", "SENDER")
        assert kind == ("clash" if not same else "restored" if was_purged else "duplicate")
        assert (self._snapshot(), uid in self._purged()) == (before, was_purged and not same)

    @rule()
    def purge(self) -> None:
        """Remove what may go: nothing of a study that waits, walks, has something open, or has failed."""
        study, before = self._study(), self._purged()
        settings = Settings.model_validate({"node": {"data_dir": self.folder.parent}})
        later = max(self.clock, now()) + timedelta(days=1)
        Purger(self.store, settings).purge(Limits(later, later))
        assert before <= self._purged()
        if before < self._purged():
            assert study is not None
            assert (study.state in {"committed", "delivered", "kept"}, study.ready_at) == (True, None)
            assert {state for _, state, commitment in self._open_deliveries() if commitment != "none"} == set()
            assert self._purged() == set(self.objects)
        assert all((row.path == "") == (row.purged_at is not None) for row in self._instances())

    @rule()
    def end_association(self) -> None:
        self.intake.end_association(self.uid, "WHOLE")

    @rule(seconds=st.floats(0, 2 * QUIET_S))
    def let_time_pass(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    @rule()
    def assemble(self) -> None:
        study = self._study()
        due = study is not None and study.ready_at is not None and study.ready_at <= self.clock
        walks = [walk for walk in assemble_ready(self.store, "node-1", self.clock) if self._is_ours(walk)]
        assert len(walks) == int(due)
        self.revisions += len(walks)
        assert all(walk.number == self.revisions for walk in walks)

    @precondition(lambda self: self.objects)
    @rule()
    def read_again(self) -> None:
        if self._purged():
            with pytest.raises(FilmPurged):
                reprocess(self.store, self.uid, "node-1")
            return
        walk = reprocess(self.store, self.uid, "node-1")
        self.revisions += 1
        assert walk.number == self.revisions

    @precondition(lambda self: self._walks())
    @rule(fails=st.booleans(), peers=st.integers(0, 2), commits=st.booleans())
    def walk(self, fails: bool, peers: int, commits: bool) -> None:
        walk = self._walks()[0]
        with self.store.session() as session:
            study, revision = lock_revision(session, walk.revision_id)
            for instance in instances_of(session, revision):
                self._enter(session, revision, instance, peers, commits)
            revision.error_code = "interpretation-failed" if fails else None
            session.flush()
            settle(session, study, revision)

    def _enter(self, session: Any, revision: Revision, instance: Instance, peers: int, commits: bool) -> None:
        finding = session.scalars(
            sa.select(FindingRow).where(FindingRow.revision_id == revision.id, FindingRow.instance_id == instance.id)
        ).first()
        if finding is not None:
            return
        finding = FindingRow(
            instance_id=instance.id, revision_id=revision.id, kind="estimate", body="{}", interpreted_at=now()
        )
        session.add(finding)
        session.flush()
        document = Document(
            finding_id=finding.id,
            revision_id=revision.id,
            kind="sr",
            sop_class_uid=CR,
            sop_instance_uid=f"2.25.{next(NUMBERS)}",
            series_instance_uid="1",
            path="p",
            created_at=now(),
        )
        session.add(document)
        session.flush()
        for peer in range(peers):
            session.add(
                Delivery(
                    document_id=document.id,
                    revision_id=revision.id,
                    peer=str(peer),
                    state=DeliveryState.COMPOSED,
                    commitment=CommitmentState.DUE if commits else CommitmentState.NONE,
                    updated_at=now(),
                )
            )

    @precondition(lambda self: self._open_deliveries())
    @rule(data=st.data())
    def deliver(self, data: Any) -> None:
        delivery_id, state, commitment = data.draw(st.sampled_from(self._open_deliveries()))
        steps = {DeliveryState.COMPOSED: [DeliveryState.SENT, DeliveryState.FAILED]}
        if commitment != CommitmentState.NONE:
            steps[DeliveryState.SENT] = [DeliveryState.COMMITTED, DeliveryState.COMPOSED, DeliveryState.FAILED]
        if state not in steps:
            return
        with self.store.session() as session:
            revision_id = session.get_one(Delivery, delivery_id).revision_id
            study, revision = lock_revision(session, revision_id)
            session.get_one(Delivery, delivery_id).state = data.draw(st.sampled_from(steps[state]))
            session.flush()
            if revision.state not in (RevisionState.ASSEMBLED, RevisionState.INTERPRETED):
                settle(session, study, revision)

    @rule()
    def retry(self) -> None:
        with self.store.session() as session:
            query = sa.select(Revision).join(Study, Study.id == Revision.study_id)
            failed = query.where(Study.study_instance_uid == self.uid, Revision.state == RevisionState.FAILED)
            for revision in session.scalars(failed.order_by(Revision.id)).all():
                study, _ = lock_revision(session, revision.id)
                of_revision = sa.select(Delivery).where(Delivery.revision_id == revision.id)
                put_to_work(session.scalars(of_revision).all())
                if revision.error_code:
                    walk_again(session, study, revision, "node-1")
                else:
                    session.flush()
                    settle(session, study, revision)

    @invariant()
    def nothing_is_lost(self) -> None:
        study = self._study()
        with self.store.reading() as session:
            rows = session.scalars(
                sa.select(Instance)
                .join(Study, Study.id == Instance.study_id)
                .where(Study.study_instance_uid == self.uid)
            ).all()
        assert {row.sop_instance_uid for row in rows} == set(self.objects)
        waiting = [row for row in rows if row.revision is None]
        assert (study is not None and study.ready_at is not None) == bool(waiting)
        assert all(1 <= row.revision <= self.revisions for row in rows if row.revision is not None)

    @invariant()
    def every_revision_covers_what_it_should(self) -> None:
        with self.store.reading() as session:
            for revision in self._revisions(session):
                covered = {instance.sop_instance_uid for instance in instances_of(session, revision)}
                assert covered <= set(self.objects)
                if revision.scope == Scope.NEW:
                    assert covered, "a revision of nothing"

    @invariant()
    def states_say_what_is_so(self) -> None:
        study = self._study()
        if study is None:
            return
        with self.store.reading() as session:
            revisions = self._revisions(session)
            for revision in revisions:
                if revision.state in (RevisionState.ASSEMBLED, RevisionState.INTERPRETED):
                    continue
                ledger = session.execute(
                    sa.select(Delivery.state, Delivery.commitment).where(Delivery.revision_id == revision.id)
                ).all()
                told = RevisionState.FAILED if revision.error_code else judge([(s, c) for s, c in ledger])
                assert revision.state == told
                if revision.state == RevisionState.COMMITTED:
                    assert {s for s, _ in ledger} == {DeliveryState.COMMITTED}
            pairs = [(Scope(revision.scope), RevisionState(revision.state)) for revision in revisions]
        assert [revision.number for revision in revisions] == list(range(1, self.revisions + 1))
        assert study.state == study_state(receives=study.ready_at is not None, revisions=pairs)

    def _instances(self) -> list[Instance]:
        query = sa.select(Instance).join(Study, Study.id == Instance.study_id)
        with self.store.reading() as session:
            return list(session.scalars(query.where(Study.study_instance_uid == self.uid)))

    def _purged(self) -> set[str]:
        """Return the objects whose files are gone."""
        return {row.sop_instance_uid for row in self._instances() if row.purged_at is not None}

    def _is_ours(self, walk: Walk) -> bool:
        return walk.study_instance_uid == self.uid

    def _walks(self) -> list[Walk]:
        return [walk for walk in pending_walks(self.store) if self._is_ours(walk)]

    def _open_deliveries(self) -> list[tuple[int, str, str]]:
        query = (
            sa.select(Delivery.id, Delivery.state, Delivery.commitment)
            .join(Revision, Revision.id == Delivery.revision_id)
            .join(Study, Study.id == Revision.study_id)
            .where(Study.study_instance_uid == self.uid, Delivery.state.in_(["composed", "sent"]))
        )
        with self.store.reading() as session:
            return [tuple(row) for row in session.execute(query.order_by(Delivery.id))]

    def _study(self) -> Study | None:
        with self.store.reading() as session:
            return session.scalars(sa.select(Study).where(Study.study_instance_uid == self.uid)).one_or_none()

    def _revisions(self, session: Any) -> list[Revision]:
        query = sa.select(Revision).join(Study, Study.id == Revision.study_id)
        return list(session.scalars(query.where(Study.study_instance_uid == self.uid).order_by(Revision.number)))

    def _snapshot(self) -> tuple[Any, ...]:
        study = self._study()
        assert study is not None
        with self.store.reading() as session:
            instances = session.scalar(sa.select(sa.func.count()).select_from(Instance))
        return study.state, study.revision, study.ready_at, study.last_received_at, instances


def test_a_study_never_loses_an_image_nor_lies_about_its_state() -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(f"sqlite:///{folder}/node.db")
        Base.metadata.create_all(engine)
        # The order of events is tested here, not their durability, which costs most of the time.
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        engine.dispose()

        class Machine(StudyMachine):
            pass

        Machine.folder, Machine.store = Path(folder) / "spool", Store(engine)
        Machine.folder.mkdir()
        from hypothesis.stateful import run_state_machine_as_test

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
        engine.dispose()


@pytest.mark.parametrize(
    ("ledger", "state"),
    [
        ([], "kept"),
        ([("composed", "due"), ("committed", "committed")], "composed"),
        ([("sent", "requested"), ("sent", "none")], "sent"),
        ([("sent", "none"), ("sent", "none")], "delivered"),
        ([("sent", "none"), ("committed", "committed")], "delivered"),
        ([("committed", "committed")], "committed"),
        ([("failed", "due"), ("composed", "due")], "failed"),
        ([("dismissed", "due"), ("committed", "committed")], "delivered"),
        ([("dismissed", "requested"), ("sent", "requested")], "sent"),
        ([("dismissed", "due"), ("failed", "due")], "failed"),
        ([("dismissed", "due")], "kept"),
    ],
)
def test_what_a_ledger_amounts_to(ledger: list[tuple[str, str]], state: str) -> None:
    assert judge(ledger) == state


@pytest.mark.parametrize(
    ("receives", "revisions", "state"),
    [
        (True, [(Scope.NEW, RevisionState.COMMITTED)], StudyState.RECEIVING),
        (False, [(Scope.NEW, RevisionState.SENT), (Scope.NEW, RevisionState.COMMITTED)], StudyState.SENT),
        (False, [(Scope.NEW, RevisionState.FAILED), (Scope.NEW, RevisionState.COMMITTED)], StudyState.FAILED),
        (False, [(Scope.NEW, RevisionState.FAILED), (Scope.ALL, RevisionState.COMMITTED)], StudyState.COMMITTED),
    ],
)
def test_what_a_study_does(receives: bool, revisions: list[tuple[Scope, RevisionState]], state: StudyState) -> None:
    assert study_state(receives=receives, revisions=revisions) is state
