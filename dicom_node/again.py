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
from dicom_node.store import Delivery, Revision, Study, now
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
    """Give up what failed of a study, or what a peer has not taken or vouched for; 1 where there is no such thing."""
    if options.study is None and options.peer is None:
        what, remedy = "Nothing says what is given up.", "Name a study, or --peer PEER, or both."
        raise SettingsError(SettingsProblem("", "dismiss", what, remedy))
    settings = load_settings(options.config)
    _quieten()
    store = open_existing(settings)
    with store.session() as session:
        _check_peer(session, options.peer, settings)
        uid = None if options.study is None else find_study_by_beginning(session, options.study).study_instance_uid
        walks = 0 if options.peer else _give_up_walks(session, uid, settings.node.id)
        deliveries = _give_up(session, uid, options.peer, settings.node.id)
    store.close()
    if not walks + deliveries:
        place = (
            "Nothing of this study" if options.peer is None else f"Nothing is on its way to {options.peer}, and nothing"
        )
        open_console().print(f"{place} has failed{'' if options.peer is None else ' there'}.")
        return FAILED
    _tell_given_up(f"{walks} walk(s) of a study, {deliveries} deliveries", uid, options.peer, settings)
    return DONE


def _tell_given_up(what: str, uid: str | None, peer: str | None, settings: Settings) -> None:
    """Say what was given up, and how that is taken back."""
    console, which = open_console(), " ".join([uid or "--all", *(() if peer is None else ("--peer", peer))])
    console.print(f"Given up: {what}. Taken back by: boneage-node retry {which}", soft_wrap=True)
    if peer in {archive.name for archive in settings.archives}:
        console.print(f"Note: {peer} is in the settings, so that new documents still go there.")


def _check_peer(session: Session, name: str | None, settings: Settings) -> None:
    """Raise SettingsError for a name that neither the settings nor the ledger have: it was misspelt."""
    known = {archive.name for archive in settings.archives} | set(session.scalars(sa.select(Delivery.peer).distinct()))
    if name is not None and name not in known:
        names = ", ".join(sorted(known)) or "none"
        what, remedy = f"No archive has the name {name}.", f"Archives that results go to: {names}."
        raise SettingsError(SettingsProblem("peers", "", what, remedy))


def _walk_again(session: Session, study_instance_uid: str | None, node_id: str) -> int:
    """Have revisions walk again that something on the street set aside; return how many."""
    ids = _set_aside(session, study_instance_uid, with_dismissed=study_instance_uid is not None)
    for revision_id in ids:
        assemble.walk_again(session, *lock_revision(session, revision_id), node_id)
    return len(ids)


def _give_up_walks(session: Session, study_instance_uid: str | None, node_id: str) -> int:
    """Give up readings that something on the street set aside; return how many. What they came to stays."""
    ids = _set_aside(session, study_instance_uid, with_dismissed=False)
    for revision_id in ids:
        study, revision = lock_revision(session, revision_id)
        revision.dismissed_at = now()
        record(session, node_id, "dismissed", study, revision=revision.number, detail=revision.error_code)
        settle(session, study, revision)
    return len(ids)


def _set_aside(session: Session, study_instance_uid: str | None, *, with_dismissed: bool) -> Sequence[int]:
    """Return the revisions that something on the street set aside and that no later reading has replaced."""
    failed = sa.and_(Revision.state == RevisionState.FAILED, Revision.error_code.is_not(None))
    is_meant = sa.or_(failed, Revision.dismissed_at.is_not(None)) if with_dismissed else failed
    query = sa.select(Revision.id).where(is_meant, ~is_replaced(), *_in_study(study_instance_uid))
    return session.scalars(query.order_by(Revision.id)).all()


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


def _give_up(session: Session, study_instance_uid: str | None, peer: str | None, node_id: str) -> int:
    """Dismiss deliveries that failed, and, to a peer that is named, all that is open there; return how many."""
    waits = sa.and_(Delivery.state == DeliveryState.SENT, Delivery.commitment != CommitmentState.NONE)
    is_open = sa.or_(Delivery.state.in_([DeliveryState.FAILED, DeliveryState.COMPOSED]), waits)
    named = [Delivery.state == DeliveryState.FAILED] if peer is None else [is_open, Delivery.peer == peer]
    which = [*named, *_in_study(study_instance_uid)]
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
