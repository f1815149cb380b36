"""``retry``, ``dismiss`` and ``reprocess``: what a person has done once more, or never again.

A running node notices within a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node import assemble, ledger
from dicom_node.cli import DONE, FAILED
from dicom_node.errors import SettingsError
from dicom_node.events import record
from dicom_node.revisions import CommitmentState, DeliveryState, RevisionState, is_replaced, lock_revision, settle
from dicom_node.settings import LogSettings, Settings, SettingsProblem, load_settings
from dicom_node.show import find_study_by_beginning
from dicom_node.status import open_existing
from dicom_node.store import Delivery, Revision, Study
from dicom_node.terminal import open_console


def retry(options: argparse.Namespace) -> int:
    """Put what failed, and what waits for its next try, to work at once; 1 where there is nothing of that kind.

    What a later reading of the whole study has replaced stays as it is. What was dismissed is put to work where its
    study or its peer is named, not by ``--all`` alone.
    """
    settings = load_settings(options.config)
    _quieten()
    store = open_existing(settings)
    with store.session() as session:
        _check_peer(session, options.peer, settings)
        uid = None if options.all else find_study_by_beginning(session, options.study).study_instance_uid
        walks = 0 if options.peer else _walk_again(session, uid, settings.node.id)
        deliveries = _deliver_again(session, uid, options.peer, settings.node.id)
    store.close()
    console = open_console()
    if not walks + deliveries:
        console.print("Nothing there has failed or waits for another try.")
        return FAILED
    console.print(f"Put to work again: {walks} walk(s) of a study, {deliveries} deliveries.")
    return DONE


def reprocess(options: argparse.Namespace) -> int:
    """Read a whole study again, as a new revision with documents of its own."""
    settings = load_settings(options.config)
    _quieten()
    store = open_existing(settings)
    with store.reading() as session:
        uid = find_study_by_beginning(session, options.study).study_instance_uid
    walk = assemble.reprocess(store, uid, settings.node.id)
    store.close()
    open_console().print(f"Study {uid} is read again, as revision {walk.number}.", soft_wrap=True)
    return DONE


def dismiss(options: argparse.Namespace) -> int:
    """Give up what a peer has not taken or not vouched for; 1 where there is nothing of that kind."""
    settings = load_settings(options.config)
    _quieten()
    store = open_existing(settings)
    with store.session() as session:
        _check_peer(session, options.peer, settings)
        uid = None if options.study is None else find_study_by_beginning(session, options.study).study_instance_uid
        number = _give_up(session, uid, options.peer, settings.node.id)
    store.close()
    console = open_console()
    if not number:
        console.print(f"Nothing is on its way to {options.peer}, and nothing has failed there.")
        return FAILED
    which = f"{uid or '--all'} --peer {options.peer}"
    console.print(f"Given up: {number} deliveries. Taken back by: boneage-node retry {which}", soft_wrap=True)
    if options.peer in {archive.name for archive in settings.archives}:
        console.print(f"Note: {options.peer} is in the settings, so that new documents still go there.")
    return DONE


def _check_peer(session: Session, name: str | None, settings: Settings) -> None:
    """Raise SettingsError for a name that neither the settings nor the ledger have: it was misspelt."""
    known = {archive.name for archive in settings.archives} | set(session.scalars(sa.select(Delivery.peer).distinct()))
    if name is not None and name not in known:
        names = ", ".join(sorted(known)) or "none"
        what, remedy = f"No archive has the name {name}.", f"Archives that results go to: {names}."
        raise SettingsError(SettingsProblem("peers", "", what, remedy))


def _walk_again(session: Session, study_instance_uid: str | None, node_id: str) -> int:
    """Have revisions walk again that something on the street set aside; return how many."""
    set_aside = (Revision.state == RevisionState.FAILED, Revision.error_code.is_not(None), ~is_replaced())
    query = sa.select(Revision.id).where(*set_aside, *_in_study(study_instance_uid)).order_by(Revision.id)
    ids = session.scalars(query).all()
    for revision_id in ids:
        assemble.walk_again(session, *lock_revision(session, revision_id), node_id)
    return len(ids)


def _deliver_again(session: Session, study_instance_uid: str | None, peer: str | None, node_id: str) -> int:
    """Put deliveries to work that failed or wait for another try; return how many."""
    given_up = [] if study_instance_uid is None and peer is None else [DeliveryState.DISMISSED]
    is_failed = Delivery.state.in_([DeliveryState.FAILED, *given_up])
    is_open = Delivery.state.not_in([DeliveryState.COMMITTED, DeliveryState.DISMISSED])
    troubled = sa.or_(
        sa.and_(is_failed, ~is_replaced()), sa.and_(is_open, ~is_failed, Delivery.error_code.is_not(None))
    )
    which = [troubled, *_in_study(study_instance_uid), *([] if peer is None else [Delivery.peer == peer])]
    return _change(session, which, ledger.put_to_work, "retried-by-hand", node_id)


def _give_up(session: Session, study_instance_uid: str | None, peer: str, node_id: str) -> int:
    """Dismiss deliveries to a peer that failed, are on their way, or wait for its word; return how many."""
    waits = sa.and_(Delivery.state == DeliveryState.SENT, Delivery.commitment != CommitmentState.NONE)
    is_open = sa.or_(Delivery.state.in_([DeliveryState.FAILED, DeliveryState.COMPOSED]), waits)
    which = [is_open, Delivery.peer == peer, *_in_study(study_instance_uid)]
    return _change(session, which, ledger.dismiss, "dismissed", node_id)


def _change(
    session: Session,
    which: Sequence[sa.ColumnElement[bool]],
    act: Callable[[Sequence[Delivery]], None],
    event: str,
    node_id: str,
) -> int:
    """Do something with deliveries, by revision and peer, with an event for each of these; return how many."""
    query = sa.select(Delivery.revision_id, Delivery.peer).join(Revision, Revision.id == Delivery.revision_id)
    query = query.where(*which).distinct()
    number = 0
    for revision_id, name in session.execute(query.order_by(Delivery.revision_id, Delivery.peer)).all():
        study, revision = lock_revision(session, revision_id)
        of_peer = (Delivery.revision_id == revision_id, Delivery.peer == name, Revision.id == Delivery.revision_id)
        deliveries = session.scalars(sa.select(Delivery).where(*of_peer, *which).with_for_update(of=Delivery)).all()
        act(deliveries)
        number += len(deliveries)
        record(session, node_id, event, study, revision=revision.number, peer=name, detail=f"{len(deliveries)}")
        if revision.state != RevisionState.ASSEMBLED:  # a walk that begins again settles at its end
            session.flush()
            settle(session, study, revision)
    return number


def _in_study(uid: str | None) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that keep revisions to one study; none for all studies."""
    return [] if uid is None else [Revision.study_id == Study.id, Study.study_instance_uid == uid]


def _quieten() -> None:
    """Keep events off the terminal: they are in the store, and the command says what it did."""
    from dicom_node import logs

    logs.configure(LogSettings(level="WARNING", format="console"))
