"""Overview: the state of a node's store, gathered for people and for machines; ``status`` shows it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.retention import held
from dicom_node.revisions import CommitmentState, DeliveryState, RevisionState, is_replaced
from dicom_node.settings import MEBIBYTE, Settings
from dicom_node.store import Delivery, Document, NodeRow, Revision, Study, now

UNANSWERED = (
    "The peer took the object and the request to vouch for it, and has not reported. Let the archive know this node's "
    "AE title, address and port, to which it reports; enter other AE titles that it calls under in calls_as; or say "
    "commitment = false."
)
_NO_REPORT = "no-commitment-report"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that does not go on without a person, or has not gone on at its last try."""

    study_instance_uid: str
    revision: int
    where: str  # the peer's name, or "the street"
    code: str
    sentence: str
    next_try_at: datetime | None  # None: only after `retry`

    @property
    def needs_a_person(self) -> bool:
        """Whether it is not likely to pass by itself, as an archive does that is down."""
        return self.next_try_at is None or self.code == _NO_REPORT


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node of the cluster."""

    id: str
    state: str  # "lives", "silent" or "stopped"
    heartbeat_at: datetime
    started_at: datetime


class Count(NamedTuple):
    """How many studies or objects are in a state; of objects at which peer, and when the first of them is due."""

    state: str
    number: int
    peer: str | None = None
    next_try_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """Films in the spool."""

    films: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Overview:
    """What ``status`` tells."""

    nodes: tuple[NodeState, ...]
    studies: tuple[Count, ...]
    deliveries: tuple[Count, ...]
    spool: Held
    spool_of_done: Held  # of studies that nothing here needs any more
    shortage: str | None  # a sentence where little room is left on the disk
    troubles: tuple[Trouble, ...]

    @property
    def lives(self) -> bool:
        """Whether a node has shown lately that it lives."""
        return any(node.state == "lives" for node in self.nodes)

    @property
    def needs_a_person(self) -> bool:
        """Whether something here does not pass by itself."""
        is_stuck = any(trouble.needs_a_person for trouble in self.troubles)
        return not self.lives or self.shortage is not None or is_stuck


def look(session: Session, settings: Settings) -> Overview:
    """Gather the state of the store."""
    unanswered = find_unanswered(session, timedelta(seconds=settings.deliver.commitment_timeout_s))
    return Overview(
        nodes=tuple(_nodes(session, timedelta(seconds=settings.cluster.silent_after_s))),
        studies=tuple(_count_studies(session)),
        deliveries=tuple(_count_deliveries(session)),
        spool=Held(*held(session)),
        spool_of_done=Held(*held(session, now())),
        shortage=find_shortage(settings),
        troubles=(*find_troubles(session), *unanswered),
    )


def _nodes(session: Session, silent_after: timedelta) -> list[NodeState]:
    def state(node: NodeRow) -> str:
        if node.stopped_at is not None:
            return "stopped"
        return "lives" if now() - node.heartbeat_at < silent_after else "silent"

    nodes = session.scalars(sa.select(NodeRow).order_by(NodeRow.id))
    return [NodeState(node.id, state(node), node.heartbeat_at, node.started_at) for node in nodes]


def _count_studies(session: Session) -> list[Count]:
    counts = session.execute(sa.select(Study.state, sa.func.count()).group_by(Study.state).order_by(Study.state))
    return [Count(state, number) for state, number in counts]


def _count_deliveries(session: Session) -> list[Count]:
    is_moot = sa.and_(Delivery.state == DeliveryState.FAILED, is_replaced())
    objects = sa.case((is_moot, "failed, replaced"), else_=Delivery.state).label("objects")
    listed = sa.select(Delivery.peer, objects, Delivery.due_at).join(Revision, Revision.id == Delivery.revision_id)
    each = listed.subquery().c
    counts = session.execute(
        sa.select(each.peer, each.objects, sa.func.count(), sa.func.min(each.due_at))
        .group_by(each.peer, each.objects)
        .order_by(each.peer, each.objects)
    )
    return [Count(state, number, peer, due_at) for peer, state, number, due_at in counts]


def find_troubles(session: Session) -> list[Trouble]:
    """Return what failed for good, then what waits for its next try, newest first; no failure of what was replaced."""
    walks = sa.select(Study.study_instance_uid, Revision.number, Revision.error_code, Revision.error).where(
        Study.id == Revision.study_id,
        Revision.state == RevisionState.FAILED,
        Revision.error_code.is_not(None),
        ~is_replaced(),
    )
    deliveries = (
        sa.select(
            Study.study_instance_uid,
            Revision.number,
            Delivery.peer,
            Document.kind,
            Delivery.error_code,
            Delivery.error,
            Delivery.due_at,
        )
        .where(
            Delivery.error_code.is_not(None),
            Delivery.state.not_in([DeliveryState.COMMITTED, DeliveryState.DISMISSED]),
            sa.or_(Delivery.state != DeliveryState.FAILED, ~is_replaced()),
            Document.id == Delivery.document_id,
            Revision.id == Delivery.revision_id,
            Study.id == Revision.study_id,
        )
        .order_by(Delivery.due_at.is_not(None), Delivery.updated_at.desc())
    )
    troubles = [Trouble(uid, number, "the street", code or "", text or "", None) for uid, number, code, text in
                session.execute(walks.order_by(Revision.updated_at.desc()))]  # fmt: skip
    for uid, number, peer, kind, code, text, due_at in session.execute(deliveries):
        troubles.append(Trouble(uid, number, f"{kind} to {peer}", code or "", text or "", due_at))
    return troubles


def find_unanswered(session: Session, after: timedelta) -> list[Trouble]:
    """Return what an archive took, was asked to vouch for, and has not answered for so long, newest first."""
    query = (
        sa.select(Study.study_instance_uid, Revision.number, Delivery.peer, Document.kind, Delivery.due_at)
        .where(
            Delivery.state == DeliveryState.SENT,
            Delivery.commitment == CommitmentState.REQUESTED,
            Delivery.error_code.is_(None),
            Delivery.sent_at < now() - after,
            Document.id == Delivery.document_id,
            Revision.id == Delivery.revision_id,
            Study.id == Revision.study_id,
        )
        .order_by(Delivery.sent_at.desc())
    )
    rows = session.execute(query)
    return [Trouble(uid, number, f"{kind} to {peer}", _NO_REPORT, UNANSWERED, due_at)
            for uid, number, peer, kind, due_at in rows]  # fmt: skip


def find_shortage(settings: Settings) -> str | None:
    """Return a sentence where the largest object that the settings allow would not fit on the disk any more."""
    data_dir = settings.node.data_dir
    try:
        free = shutil.disk_usage(data_dir).free
    except OSError:  # of another machine, or of another user: nothing can be said
        return None
    if free >= settings.receive.max_object_bytes:
        return None
    return (
        f"LITTLE ROOM: {free // MEBIBYTE} MiB are left for {data_dir}. Without room films are refused (A700) and no "
        "report is written; boneage-node purge makes room, or give it a larger disk."
    )
