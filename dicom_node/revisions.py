"""Revisions: the states a study walks through, and what the ledger makes of them.

::

    receiving ──quiet period──> assembled ──> interpreted ──> composed ──> sent ──> committed
        ^                                                        │  │         └────> delivered   (no commitment there)
        └── an image that comes later: the next revision         │  └──────────────> kept        (no archive configured)
                                                                 └─────────────────> failed      (a person must look)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from dicom_node.store import Delivery, Instance, Revision, Study, now


class RevisionState(StrEnum):
    """How far a revision has come. The values are stable: they stand in SQL and on the command line."""

    ASSEMBLED = "assembled"  # its instances are fixed; it waits to be interpreted
    INTERPRETED = "interpreted"  # each of its instances has a finding
    COMPOSED = "composed"  # its documents are written and verified; some are still to be sent
    SENT = "sent"  # every archive took every document; not all have committed
    COMMITTED = "committed"  # every archive vouches for every document
    DELIVERED = "delivered"  # sent to all, committed where there is commitment; at least one has none, or was given up
    KEPT = "kept"  # there is no archive for the documents, or only ones that were given up, or the reading was
    FAILED = "failed"  # something was set aside for a person; the rest was delivered


class StudyState(StrEnum):
    """What a study is doing: receiving, or what its least advanced revision that still counts does."""

    RECEIVING = "receiving"
    ASSEMBLED = "assembled"
    INTERPRETED = "interpreted"
    COMPOSED = "composed"
    SENT = "sent"
    COMMITTED = "committed"
    DELIVERED = "delivered"
    KEPT = "kept"
    FAILED = "failed"


class DeliveryState(StrEnum):
    """How far one document has come to one peer."""

    COMPOSED = "composed"
    SENT = "sent"
    COMMITTED = "committed"
    FAILED = "failed"  # permanently: nothing happens until a person retries
    DISMISSED = "dismissed"  # given up by the administrator; nothing happens unless that is taken back


class CommitmentState(StrEnum):
    """What is known of a peer's commitment to one document."""

    NONE = "none"  # the peer has no storage commitment
    DUE = "due"  # to be asked for once the document is sent
    REQUESTED = "requested"  # asked for; the report may still come
    COMMITTED = "committed"


class Scope(StrEnum):
    """Which instances a revision covers."""

    NEW = "new"  # those assembled into it
    ALL = "all"  # all of the study up to it


WALKING = (RevisionState.ASSEMBLED, RevisionState.INTERPRETED)
"""States in which a walk is under way or to be started."""

_LEAST_ADVANCED_FIRST = (
    RevisionState.FAILED,
    RevisionState.ASSEMBLED,
    RevisionState.INTERPRETED,
    RevisionState.COMPOSED,
    RevisionState.SENT,
    RevisionState.KEPT,
    RevisionState.DELIVERED,
    RevisionState.COMMITTED,
)


def judge(ledger: Iterable[tuple[str, str]]) -> RevisionState:
    """Say what the ledger of a composed revision amounts to.

    Parameters
    ----------
    ledger
        Delivery state and commitment state of each document at each peer.
    """
    listed = list(ledger)
    entries = [(state, commitment) for state, commitment in listed if state != DeliveryState.DISMISSED]
    states = {state for state, _ in entries}
    if not entries:
        return RevisionState.KEPT
    for state in (RevisionState.FAILED, RevisionState.COMPOSED):
        if state in states:
            return state
    if states == {DeliveryState.COMMITTED} and len(entries) == len(listed):
        return RevisionState.COMMITTED
    waits = any(state == DeliveryState.SENT and commitment != CommitmentState.NONE for state, commitment in entries)
    return RevisionState.SENT if waits else RevisionState.DELIVERED


def study_state(*, receives: bool, revisions: Iterable[tuple[Scope, RevisionState]]) -> StudyState:
    """Say what a study is doing.

    Parameters
    ----------
    receives
        Whether instances wait to be assembled.
    revisions
        Scope and state of its revisions, in order; one of scope "all" replaces those before it.
    """
    if receives:
        return StudyState.RECEIVING
    counting: list[RevisionState] = []
    for scope, state in revisions:
        counting = [state] if scope == Scope.ALL else [*counting, state]
    least = next((state for state in _LEAST_ADVANCED_FIRST if state in counting), None)
    return StudyState(least) if least else StudyState.RECEIVING


def is_replaced() -> sa.ColumnElement[bool]:
    """Return the condition that a revision was replaced: the whole study was read again after it.

    What failed of it needs nobody any more; worked on again, it would send older documents after newer ones.
    """
    later = aliased(Revision)
    same_study = (later.study_id == Revision.study_id, later.number > Revision.number)
    return sa.exists().where(*same_study, later.scope == Scope.ALL)


def settle(session: Session, study: Study, revision: Revision) -> RevisionState:
    """Write down what the ledger says of a composed revision, and what its study does now. The study is locked."""
    entries = session.execute(sa.select(Delivery.state, Delivery.commitment).where(Delivery.revision_id == revision.id))
    state = judge(entries)
    if revision.error_code and revision.dismissed_at is None:
        state = RevisionState.FAILED
    elif revision.error_code and state == RevisionState.COMMITTED:
        state = RevisionState.DELIVERED  # all that was made is committed; what failed and was given up is not
    revision.state = state
    revision.updated_at = now()
    refresh_study(session, study)
    return state


def refresh_study(session: Session, study: Study) -> None:
    """Write down what a study does now, from its revisions. The study is locked."""
    session.flush()
    rows = session.execute(
        sa.select(Revision.scope, Revision.state).where(Revision.study_id == study.id).order_by(Revision.number)
    )
    revisions = [(Scope(scope), RevisionState(state)) for scope, state in rows]
    study.state = study_state(receives=study.ready_at is not None, revisions=revisions)


def lock_revision(session: Session, revision_id: int) -> tuple[Study, Revision]:
    """Return a revision and its study, the study locked until the transaction's end: the one order of locking."""
    query = sa.select(Study).join(Revision, Revision.study_id == Study.id).where(Revision.id == revision_id)
    study = session.scalars(query.with_for_update(of=Study)).one()
    return study, session.get_one(Revision, revision_id)


def instances_of(session: Session, revision: Revision) -> Sequence[Instance]:
    """Return the instances a revision covers, in the order they were received."""
    covered = (
        Instance.revision == revision.number if revision.scope == Scope.NEW else (Instance.revision <= revision.number)
    )
    query = sa.select(Instance).where(Instance.study_id == revision.study_id, covered).order_by(Instance.id)
    return session.scalars(query).all()
