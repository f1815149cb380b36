"""``status``: which nodes live, what waits, and what needs a person, with the command that helps."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from dicom_node.cli import DONE
from dicom_node.errors import StoreError
from dicom_node.retention import held
from dicom_node.revisions import CommitmentState, DeliveryState, RevisionState, is_replaced
from dicom_node.settings import MEBIBYTE, Settings, load_settings
from dicom_node.store import Delivery, Document, NodeRow, Revision, Store, Study, make_engine, now
from dicom_node.terminal import make_table, open_console

MOST_SHOWN = 20
NO_NODE = "NO NODE RUNS: nothing is received and nothing goes on until `boneage-node serve` does."
NO_SIGN = "NO NODE RUNS, or one does and has no room left to show that it lives: see below."
UNANSWERED = (
    "The peer took the object and the request to vouch for it, and has not reported. Let the archive know this node's "
    "AE title, address and port, to which it reports; enter other AE titles that it calls under in calls_as; or say "
    "commitment = false."
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that does not go on without a person, or has not gone on at its last try."""

    study_instance_uid: str
    revision: int
    where: str  # the peer's name, or "the street"
    code: str
    sentence: str
    next_try_at: datetime | None  # None: only after `retry`


def run(options: argparse.Namespace) -> int:
    """Print the state of the node's store; 0 whatever it is, so that a script can tell trouble from a broken store."""
    settings = load_settings(options.config)
    store = open_existing(settings)
    console = open_console()
    with store.reading() as session:
        lives = _print_nodes(console, session, settings)
        _print_studies(console, session)
        _print_deliveries(console, session)
        _print_spool(console, session, settings)
        shortage = find_shortage(settings)
        if not lives:
            console.print(NO_NODE if shortage is None else NO_SIGN, soft_wrap=True)
        if shortage is not None:
            console.print(shortage, soft_wrap=True)
        unanswered = find_unanswered(session, timedelta(seconds=settings.deliver.commitment_timeout_s))
        calm = lives and shortage is None
        _print_troubles(console, [*find_troubles(session), *unanswered], calm=calm)
    store.close()
    return DONE


def open_existing(settings: Settings) -> Store:
    """Open the store as it is: a command that only looks neither makes a database nor migrates one.

    Raises
    ------
    StoreError
        There is no database yet.
    """
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        raise StoreError("There is no database yet: has the node ever been started with these settings?")
    return Store(make_engine(settings.database_url))


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
    return [Trouble(uid, number, f"{kind} to {peer}", "no-commitment-report", UNANSWERED, due_at)
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


def _print_nodes(console: Console, session: Session, settings: Settings) -> bool:
    """Print which nodes live; return whether one does."""
    table = make_table("node", "state", "last sign of life", "started", title="Nodes")
    silent_after = timedelta(seconds=settings.cluster.silent_after_s)
    nodes = session.scalars(sa.select(NodeRow).order_by(NodeRow.id)).all()
    living = {node.id for node in nodes if node.stopped_at is None and now() - node.heartbeat_at < silent_after}
    silent = "SILENT: its work is taken over" if living else "SILENT: its work waits for it"
    for node in nodes:
        state = "lives" if node.id in living else silent if node.stopped_at is None else "stopped"
        table.add_row(node.id, state, _time(node.heartbeat_at), _time(node.started_at))
    console.print(table)
    return bool(living)


def _print_studies(console: Console, session: Session) -> None:
    counts = session.execute(sa.select(Study.state, sa.func.count()).group_by(Study.state).order_by(Study.state))
    table = make_table("studies", "number", title="Studies")
    for state, number in counts:
        table.add_row(state, str(number))
    console.print(table)


def _print_deliveries(console: Console, session: Session) -> None:
    is_moot = sa.and_(Delivery.state == DeliveryState.FAILED, is_replaced())
    objects = sa.case((is_moot, "failed, replaced"), else_=Delivery.state).label("objects")
    listed = sa.select(Delivery.peer, objects, Delivery.due_at).join(Revision, Revision.id == Delivery.revision_id)
    each = listed.subquery().c
    counts = session.execute(
        sa.select(each.peer, each.objects, sa.func.count(), sa.func.min(each.due_at))
        .group_by(each.peer, each.objects)
        .order_by(each.peer, each.objects)
    )
    table = make_table("peer", "objects", "number", "next try", title="Deliveries")
    for peer, what, number, due_at in counts:
        table.add_row(peer, what, str(number), _time(due_at))
    console.print(table)


def _print_spool(console: Console, session: Session, settings: Settings) -> None:
    """Say how much the spool holds, and how much of that nothing here needs any more."""
    days = settings.retention.films_days
    (films, size), (done, done_size) = held(session), held(session, now())
    rule = "films are kept until boneage-node purge" if days is None else f"films go {days:g} days after that"
    of_done = f"of studies that are done: {done}, {done_size / MEBIBYTE:.1f} MiB"
    console.print(f"Films in the spool: {films}, {size / MEBIBYTE:.1f} MiB; {of_done} ({rule}).", soft_wrap=True)


def _print_troubles(console: Console, troubles: list[Trouble], *, calm: bool) -> None:
    if not troubles:
        console.print("Nothing needs a person." if calm else "Nothing else needs a person.")
        return
    table = make_table("study", "rev.", "where", "code", "what", "goes on", title="Troubles")
    for trouble in troubles[:MOST_SHOWN]:
        goes_on = _time(trouble.next_try_at) or f"after: boneage-node retry {trouble.study_instance_uid}"
        table.add_row(
            trouble.study_instance_uid, str(trouble.revision), trouble.where, trouble.code, trouble.sentence, goes_on
        )
    console.print(table)
    if any(trouble.next_try_at is None for trouble in troubles):
        console.print("What cannot be mended is given up by boneage-node dismiss STUDY.")
    if len(troubles) > MOST_SHOWN:
        console.print(f"{len(troubles) - MOST_SHOWN} more; boneage-node retry --all tries all of them again.")


def _time(at: datetime | None) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""
