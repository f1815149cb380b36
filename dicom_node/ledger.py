"""The ledger: one row per document and peer, and what is to be done about it next.

A delivery is worked on when its ``due_at`` has come. All deliveries of one revision to one peer that are due make a
*turn*: one workflow, one association. No thread waits for a peer; an outage of days is a row with a time in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.errors import DeliveryAbandoned, Disposition, NodeError, PeerUnreachable, disposition_of
from dicom_node.events import record
from dicom_node.retry import next_attempt_at
from dicom_node.revisions import CommitmentState, DeliveryState, lock_revision, settle
from dicom_node.settings import ArchivePeer, DeliverSettings
from dicom_node.store import Delivery, Document, Revision, Store, Study, insert_if_absent, now
from reports.identity import SOP_CLASSES, Kind


@dataclass(frozen=True, slots=True)
class Turn:
    """What is due of one revision at one peer."""

    revision_id: int
    peer: str
    number: int  # counts the turns of this revision and peer

    @property
    def workflow_id(self) -> str:
        """The same on every node and after every restart: the engine starts it once."""
        return f"deliver/{self.revision_id}/{self.peer}/{self.number}"


@dataclass(frozen=True, slots=True)
class Job:
    """One delivery to work on."""

    delivery_id: int
    finding_id: int
    kind: Kind
    sop_class_uid: str
    sop_instance_uid: str
    path: str  # relative to the documents directory
    sent_at: datetime | None  # not None: only the commitment is missing

    @property
    def is_sent(self) -> bool:
        """Whether the peer has it."""
        return self.sent_at is not None


def enter(session: Session, revision: Revision, archives: Iterable[ArchivePeer]) -> None:
    """Enter every verified document of a revision for every archive that takes its kind; what is there stays."""
    entered = now()
    query = sa.select(Document).where(Document.revision_id == revision.id, Document.verified_at.is_not(None))
    for document in session.scalars(query.order_by(Document.id)).all():
        for archive in archives:
            if document.kind in archive.deliver:
                insert_if_absent(
                    session,
                    Delivery,
                    document_id=document.id,
                    revision_id=revision.id,
                    peer=archive.name,
                    state=DeliveryState.COMPOSED,
                    commitment=CommitmentState.DUE if archive.commitment else CommitmentState.NONE,
                    turn=0,
                    attempts=0,
                    commitment_failures=0,
                    due_at=entered,
                    updated_at=entered,
                )


def due_turns(store: Store, at: datetime) -> tuple[Turn, ...]:
    """Return what is due, the longest due first."""
    with store.reading() as session:
        # The number counts over all rows of the group: a row that was not in the last turn must not reuse its id.
        rows = session.execute(
            sa.select(Delivery.revision_id, Delivery.peer, sa.func.max(Delivery.turn))
            .group_by(Delivery.revision_id, Delivery.peer)
            .having(sa.func.min(Delivery.due_at) <= at)
            .order_by(sa.func.min(Delivery.due_at))
        )
        return tuple(Turn(*row) for row in rows)


def next_due_at(store: Store, after: datetime) -> datetime | None:
    """Return when the first delivery after a time is due; None where none is."""
    with store.reading() as session:
        return session.scalar(sa.select(sa.func.min(Delivery.due_at)).where(Delivery.due_at > after))


def jobs_of(store: Store, turn: Turn, at: datetime) -> tuple[Job, ...]:
    """Return the deliveries of a turn that are due."""
    with store.reading() as session:
        rows = session.execute(
            sa.select(Delivery, Document)
            .join(Document, Document.id == Delivery.document_id)
            .where(Delivery.revision_id == turn.revision_id, Delivery.peer == turn.peer, Delivery.due_at <= at)
            .order_by(Delivery.id)
        )
        return tuple(_job(delivery, document) for delivery, document in rows)


def _job(delivery: Delivery, document: Document) -> Job:
    return Job(
        delivery_id=delivery.id,
        finding_id=document.finding_id,
        kind=cast("Kind", document.kind),
        sop_class_uid=document.sop_class_uid,
        sop_instance_uid=document.sop_instance_uid,
        path=document.path,
        sent_at=delivery.sent_at if delivery.state == DeliveryState.SENT else None,
    )


def substitute(store: Store, job: Job, accepted: Collection[str], archive: ArchivePeer, node_id: str) -> Job:
    """Have another document of the same finding stand for a report that an archive does not take.

    Parameters
    ----------
    accepted
        SOP classes that were negotiated.
    archive
        Which documents may stand for its "sr", the best first.

    Returns
    -------
    Job
        The same delivery with the first document that was accepted; the job as it was where there is none.

    Raises
    ------
    StoreError
        The database failed.
    """
    kinds = [kind for kind in archive.sr_fallback if kind not in archive.deliver]
    if job.is_sent or job.sop_class_uid in accepted or job.sop_class_uid != SOP_CLASSES["sr"]:
        return job
    with store.session() as session:
        study, revision, delivery = _lock(session, job.delivery_id)
        finding_id = session.get_one(Document, delivery.document_id).finding_id
        others = sa.select(Document).where(Document.finding_id == finding_id, Document.verified_at.is_not(None))
        by_kind = {document.kind: document for document in session.scalars(others)}
        for document in (by_kind[kind] for kind in kinds if kind in by_kind):
            if document.sop_class_uid in accepted:
                delivery.document_id = document.id
                number, uid = revision.number, document.sop_instance_uid
                record(
                    session, node_id, "substituted", study, revision=number, sop_instance_uid=uid, peer=delivery.peer,
                    detail=document.kind,
                )  # fmt: skip
                session.flush()
                return _job(delivery, document)
    return job


def mark_sent(store: Store, job: Job, status: int, node_id: str) -> None:
    """Write down that the peer took an object, with the status it said so with.

    Raises
    ------
    StoreError
        The database failed: the object will be sent again, with the same UID.
    """
    with store.session() as session:
        study, revision, delivery = _lock(session, job.delivery_id)
        _write_sent(delivery, status, now())
        number, uid, peer = revision.number, job.sop_instance_uid, delivery.peer
        record(
            session, node_id, "sent", study, revision=number, sop_instance_uid=uid, peer=peer, detail=f"0x{status:04X}"
        )
        settle(session, study, revision)


def _write_sent(delivery: Delivery, status: int, sent: datetime) -> None:
    delivery.status, delivery.sent_at, delivery.updated_at = status, sent, sent
    delivery.attempts, delivery.failing_since, delivery.error_code, delivery.error = 0, None, None, None
    if delivery.state == DeliveryState.DISMISSED:
        return  # by a person, while it was on its way
    delivery.state = DeliveryState.SENT
    waits = delivery.commitment != CommitmentState.NONE
    delivery.due_at = sent if waits else None  # due at once, if the process dies before it asks for commitment


def mark_failed(store: Store, job: Job, error: NodeError, settings: DeliverSettings, node_id: str) -> None:
    """Write down that a delivery failed: it is tried again, or set aside where that is pointless.

    Raises
    ------
    StoreError
        The database failed.
    """
    with store.session() as session:
        study, revision, delivery = _lock(session, job.delivery_id)
        without_commitment = delivery.state == DeliveryState.SENT and delivery.commitment == CommitmentState.NONE
        if delivery.state in {DeliveryState.COMMITTED, DeliveryState.DISMISSED} or without_commitment:
            return  # it got there, or was given up meanwhile; the error is about others of its turn
        failed = now()
        delivery.attempts += 1
        delivery.failing_since = delivery.failing_since or failed
        due_at = next_attempt_at(settings, delivery.attempts, delivery.failing_since, failed)
        if disposition_of(error) != Disposition.RETRY:
            due_at = None
        elif due_at is None:
            error = DeliveryAbandoned(f"Given up after {settings.give_up_after_s / 86_400:.1f} days. Last: {error}")
        _write_failure(delivery, error, due_at, failed)
        kind, number, uid = ("failed" if due_at is None else "retried"), revision.number, job.sop_instance_uid
        record(
            session, node_id, kind, study, revision=number, sop_instance_uid=uid, peer=delivery.peer, detail=error.code
        )
        settle(session, study, revision)


def _write_failure(delivery: Delivery, error: NodeError, due_at: datetime | None, failed: datetime) -> None:
    delivery.error_code, delivery.error = error.code, str(error)
    delivery.status = getattr(error, "status", None) or delivery.status
    delivery.due_at, delivery.updated_at = due_at, failed
    if due_at is None:
        delivery.state = DeliveryState.FAILED


def finish_turn(store: Store, turn: Turn, settings: DeliverSettings) -> None:
    """Close a turn: what is due of its group from now on is the next turn; for reports it waits from now on.

    Raises
    ------
    StoreError
        The database failed; the turn will be repeated.
    """
    with store.session() as session:
        study, revision = lock_revision(session, turn.revision_id)
        for delivery in _group(session, turn):
            delivery.turn = max(delivery.turn, turn.number + 1)
            if delivery.state == DeliveryState.SENT and delivery.commitment == CommitmentState.REQUESTED:
                delivery.due_at = now() + timedelta(seconds=settings.commitment_timeout_s)
        settle(session, study, revision)


def renew_turn(store: Store, turn: Turn) -> None:
    """Give a turn a new id: its workflow has ended without closing it.

    Raises
    ------
    StoreError
        The database failed.
    """
    with store.session() as session:
        lock_revision(session, turn.revision_id)
        for delivery in _group(session, turn):
            delivery.turn = max(delivery.turn, turn.number + 1)


def _group(session: Session, turn: Turn) -> Sequence[Delivery]:
    query = sa.select(Delivery).where(Delivery.revision_id == turn.revision_id, Delivery.peer == turn.peer)
    return session.scalars(query.order_by(Delivery.id).with_for_update()).all()


def hasten(store: Store, peer: str) -> None:
    """Make due at once what waits only because this peer could not be reached: it has just been.

    Raises
    ------
    StoreError
        The database failed.
    """
    with store.session() as session:
        waiting = (Delivery.peer == peer, Delivery.error_code == PeerUnreachable.code, Delivery.due_at > now())
        session.execute(sa.update(Delivery).where(*waiting).values(due_at=now()))


def put_to_work(deliveries: Sequence[Delivery]) -> None:
    """Have deliveries that a person retries start afresh: the committed stay so."""
    at = now()
    for delivery in deliveries:
        if delivery.state == DeliveryState.COMMITTED:
            continue
        if delivery.state in {DeliveryState.FAILED, DeliveryState.DISMISSED}:
            delivery.state = DeliveryState.COMPOSED  # sent again, whatever it was that failed
        delivery.attempts = delivery.commitment_failures = 0
        delivery.failing_since = delivery.error_code = delivery.error = None
        is_done = delivery.state == DeliveryState.SENT and delivery.commitment == CommitmentState.NONE
        delivery.due_at, delivery.updated_at = (None if is_done else at), at


def dismiss(deliveries: Sequence[Delivery]) -> None:
    """Have nothing more done about deliveries that a person gives up; what is known of them stays."""
    for delivery in deliveries:
        delivery.state, delivery.due_at, delivery.updated_at = DeliveryState.DISMISSED, None, now()


def _lock(session: Session, delivery_id: int) -> tuple[Study, Revision, Delivery]:
    revision_id = session.scalars(sa.select(Delivery.revision_id).where(Delivery.id == delivery_id)).one()
    study, revision = lock_revision(session, revision_id)
    delivery = session.get_one(Delivery, delivery_id, populate_existing=True)
    return study, revision, delivery
