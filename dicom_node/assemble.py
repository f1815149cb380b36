"""Assemble: a study whose quiet period is over becomes a revision.

The quiet period is a time in the database (``Study.ready_at``), so it outlives a restart, and any node may assemble.
What comes later waits again and becomes the next revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.errors import FilmPurged, UnknownStudy
from dicom_node.events import record
from dicom_node.revisions import WALKING, RevisionState, Scope, refresh_study
from dicom_node.sources import SEND_AGAIN
from dicom_node.store import Instance, Revision, Store, Study, find_study, now


@dataclass(frozen=True, slots=True)
class Walk:
    """A revision that walks, or is to walk, down the street."""

    revision_id: int
    study_instance_uid: str
    number: int
    round: int  # grows when a person has the revision walk again

    @property
    def workflow_id(self) -> str:
        """The same on every node and after every restart: the engine starts it once."""
        return f"walk/{self.study_instance_uid}/{self.number}/{self.round}"


def assemble_ready(store: Store, node_id: str, at: datetime) -> tuple[Walk, ...]:
    """Make a revision of each study whose quiet period is over.

    Raises
    ------
    StoreError
        The database failed; what was assembled before it did stays so.
    """
    with store.reading() as session:
        ids = session.scalars(sa.select(Study.id).where(Study.ready_at <= at).order_by(Study.ready_at)).all()
    walks = [assemble(store, study_id, node_id, at) for study_id in ids]
    return tuple(walk for walk in walks if walk is not None)


def assemble(store: Store, study_id: int, node_id: str, at: datetime) -> Walk | None:
    """Make a revision of one study; None where it is not ready (any more), or another node has it in hand."""
    with store.session() as session:
        query = sa.select(Study).where(Study.id == study_id, Study.ready_at <= at)
        study = session.scalars(query.with_for_update(skip_locked=True)).one_or_none()
        return _open_revision(session, study, Scope.NEW, node_id) if study else None


def reprocess(store: Store, study_instance_uid: str, node_id: str) -> Walk:
    """Make a revision of everything a study has, also of what waits.

    Raises
    ------
    UnknownStudy
        The store has no such study.
    FilmPurged
        Films of it are not here any more.
    """
    with store.session() as session:
        study = find_study(session, study_instance_uid, lock=True)
        if study is None:
            raise UnknownStudy(f"The store has no study {study_instance_uid}.")
        _check_films(session, study)
        return _open_revision(session, study, Scope.ALL, node_id)


def _check_films(session: Session, study: Study) -> None:
    """Raise FilmPurged where a film of a study is not here any more."""
    query = sa.select(sa.func.count(), sa.func.count(Instance.purged_at), sa.func.max(Instance.purged_at))
    films, purged, purged_at = session.execute(query.where(Instance.study_id == study.id)).one()
    if purged:
        what = f"{purged} of {films} films of study {study.study_instance_uid} were removed by a purge"
        raise FilmPurged(f"{what}, the last on {purged_at:%Y-%m-%d}. {SEND_AGAIN}")


def _open_revision(session: Session, study: Study, scope: Scope, node_id: str) -> Walk:
    number = study.revision + 1
    waiting = sa.update(Instance).where(Instance.study_id == study.id, Instance.revision.is_(None))
    session.execute(waiting.values(revision=number))
    opened = now()
    revision = Revision(
        study_id=study.id,
        number=number,
        scope=scope,
        state=RevisionState.ASSEMBLED,
        round=0,
        assembled_at=opened,
        updated_at=opened,
    )
    session.add(revision)
    study.revision, study.ready_at = number, None
    refresh_study(session, study)
    record(session, node_id, "assembled", study, revision=number, detail=scope)
    return Walk(revision.id, study.study_instance_uid, number, 0)


def walk_again(session: Session, study: Study, revision: Revision, node_id: str) -> None:
    """Have a revision walk again from its beginning: a new workflow, which skips what is done. The study is locked."""
    revision.round += 1
    revision.state, revision.updated_at = RevisionState.ASSEMBLED, now()
    revision.error_code = revision.error = revision.dismissed_at = None
    refresh_study(session, study)
    record(session, node_id, "walks-again", study, revision=revision.number)


def pending_walks(store: Store) -> tuple[Walk, ...]:
    """Return the revisions that are to walk, whether or not the engine knows of them."""
    with store.reading() as session:
        rows = session.execute(
            sa.select(Revision.id, Study.study_instance_uid, Revision.number, Revision.round)
            .join(Study, Study.id == Revision.study_id)
            .where(Revision.state.in_(WALKING))
            .order_by(Revision.id)
        )
        return tuple(Walk(*row) for row in rows)


def next_ready_at(store: Store, after: datetime) -> datetime | None:
    """Return when the first quiet period after a time ends; None where none runs then."""
    with store.reading() as session:
        return session.scalar(sa.select(sa.func.min(Study.ready_at)).where(Study.ready_at > after))
