"""Retention: the files of films and documents that nothing here needs any more, and their removal.

A study is *done* when nothing of it waits, walks, is to be sent or is to be vouched for, and nothing of it needs a
person. What it holds may go once all of that is long enough ago. Rows, findings, events and the ledger stay.

The row says first that its file is given up, then the file goes, then the row loses its path: a purge that is cut off
leaves a row that tells the truth and a file that the next one, or the node's next start, removes. Two at once take
turns at each study. ``decisions/0005`` says why these rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session, aliased

from dicom_node import ballast
from dicom_node.errors import SpoolFailed
from dicom_node.events import record
from dicom_node.fingerprints import keep_fingerprint
from dicom_node.revisions import WALKING, CommitmentState, DeliveryState, StudyState
from dicom_node.rounds import Rounds
from dicom_node.settings import DAY_S, MEBIBYTE, RetentionSettings, Settings
from dicom_node.store import Delivery, Document, Instance, Revision, Store, Study, now

PURGED_EVENT = "purged"
EVERY_S = 3600.0  # how often a running node looks for what may go

What = Literal["films", "documents"]

log = structlog.get_logger(__name__)

_DONE = (StudyState.COMMITTED, StudyState.DELIVERED, StudyState.KEPT)
_TABLES: dict[What, type[Instance] | type[Document]] = {"films": Instance, "documents": Document}


@dataclass(frozen=True, slots=True)
class Portion:
    """The films, or the documents, of one study that may go."""

    what: What
    study_id: int
    study_instance_uid: str
    last_received_at: datetime
    objects: int
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.objects} {self.noun}, {self.size_bytes / MEBIBYTE:.1f} MiB"

    @property
    def noun(self) -> str:
        """What the objects are called, by their number."""
        return self.what.removesuffix("s") if self.objects == 1 else self.what


@dataclass(frozen=True, slots=True)
class Limits:
    """Of what is older than these times the files may go; None: none of that kind."""

    films: datetime | None
    documents: datetime | None

    def kinds(self) -> Iterable[tuple[What, datetime]]:
        """Yield what may go, and the time it must be older than. Films first: documents are made of them."""
        if self.films is not None:
            yield "films", self.films
        if self.documents is not None:
            yield "documents", self.documents


def limits_of(settings: RetentionSettings, at: datetime) -> Limits:
    """Return what the settings let go at a time."""

    def before(days: float | None) -> datetime | None:
        return None if days is None else at - timedelta(seconds=days * DAY_S)

    return Limits(before(settings.films_days), before(settings.documents_days))


class _File(NamedTuple):
    """A file that is given up."""

    what: What
    row_id: int
    path: str  # relative to its folder


class Purger:
    """Finds what may go, and removes it.

    Parameters
    ----------
    store
        The SQL store.
    settings
        Where the files lie, and which node this is, for the events.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._node_id = settings.node.id
        self._data_dir = settings.node.data_dir
        self._folders: dict[What, Path] = {"films": settings.spool_dir, "documents": settings.documents_dir}

    def find(self, limits: Limits) -> list[Portion]:
        """Return what may go, the oldest first.

        Raises
        ------
        StoreError
            The database failed.
        """
        with self._store.reading() as session:
            return [
                self._sized(session, one) for what, before in limits.kinds() for one in _find(session, what, before)
            ]

    def purge(self, limits: Limits, is_stopping: Callable[[], bool] = lambda: False) -> list[Portion]:
        """Remove what may go, and what an earlier purge gave up and did not get to; return what went.

        Raises
        ------
        SpoolFailed
            A file cannot be removed. What was given up stays so; the next purge tries again.
        StoreError
            The database failed; what went before stays so.
        """
        ballast.throw(self._data_dir)
        try:
            self._remove(self._left_behind())
            gone = []
            for portion in self.find(limits):
                if is_stopping():
                    break
                given_up = self._give_up(portion, limits)
                if given_up:
                    self._remove(given_up)
                    gone.append(portion)
        finally:
            ballast.take_in(self._data_dir)
        return gone

    def _sized(self, session: Session, portion: Portion) -> Portion:
        """Add the sizes of documents, which the store does not have."""
        if portion.what == "films":
            return portion
        paths = [self._folders["documents"] / row.path for row in _held(session, portion)]
        size = sum(path.stat().st_size for path in paths if path.is_file())
        return Portion(
            "documents", portion.study_id, portion.study_instance_uid, portion.last_received_at, len(paths), size
        )

    def _give_up(self, portion: Portion, limits: Limits) -> list[_File]:
        """Say in the rows of a study that their files are given up; return these: none where it is done no more."""
        if portion.what == "films":
            self._take_fingerprints(portion)
        conditions = _may_go(portion.what, dict(limits.kinds())[portion.what])
        with self._store.session() as session:
            study = session.scalars(sa.select(Study).where(Study.id == portion.study_id).with_for_update()).one()
            # Looked at again now that the study is locked: it may have received, or be read again, since.
            if session.scalars(sa.select(Study.id).where(Study.id == study.id, *conditions)).one_or_none() is None:
                return []
            rows = _held(session, portion)
            for row in rows:
                row.purged_at = now()
            if rows:
                record(session, self._node_id, PURGED_EVENT, study, detail=str(portion))
            return [_File(portion.what, row.id, row.path) for row in rows]

    def _take_fingerprints(self, portion: Portion) -> None:
        """See to it that films are known again: those that an earlier version received have no hashes."""
        with self._store.reading() as session:
            ids = [row.id for row in _held(session, portion)]
        for instance_id in ids:
            keep_fingerprint(self._store, self._folders["films"], instance_id)

    def _left_behind(self) -> list[_File]:
        """Return the files that an earlier purge gave up and did not get to."""
        files = []
        with self._store.reading() as session:
            for what, table in _TABLES.items():
                given_up = sa.select(table.id, table.path).where(table.purged_at.is_not(None), table.path != "")
                files += [_File(what, *row) for row in session.execute(given_up.order_by(table.id))]
        return files

    def _remove(self, files: Iterable[_File]) -> None:
        """Remove files, and then say so in their rows, unless another file stands for one meanwhile."""
        for file in files:
            _unlink(self._folders[file.what] / file.path)
            table = _TABLES[file.what]
            with self._store.session() as session:
                is_it = (table.id == file.row_id, table.path == file.path, table.purged_at.is_not(None))
                session.execute(sa.update(table).where(*is_it).values(path=""))


def held(session: Session, before: datetime | None = None) -> tuple[int, int]:
    """Return how many films the spool holds and their bytes: all, or of studies that were done before a time."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(Instance.size_bytes), 0)).select_from(Instance)
    query = query.where(Instance.purged_at.is_(None))
    if before is not None:
        query = query.join(Study, Study.id == Instance.study_id).where(*_may_go("films", before))
    films, size_bytes = session.execute(query).one()
    return films, int(size_bytes)


def _find(session: Session, what: What, before: datetime) -> list[Portion]:
    study = (Study.id, Study.study_instance_uid, Study.last_received_at)
    if what == "films":
        films = sa.select(*study, sa.func.count(), sa.func.sum(Instance.size_bytes))
        query = films.join(Instance, Instance.study_id == Study.id).where(Instance.purged_at.is_(None))
    else:
        documents = sa.select(*study, sa.func.count(), sa.literal(0)).join(Revision, Revision.study_id == Study.id)
        query = documents.join(Document, Document.revision_id == Revision.id).where(Document.purged_at.is_(None))
    rows = session.execute(query.where(*_may_go(what, before)).group_by(Study.id).order_by(Study.last_received_at))
    return [Portion(what, one, uid, at, count, int(size)) for one, uid, at, count, size in rows]


def _held(session: Session, portion: Portion) -> Sequence[Instance | Document]:
    """Return the rows of a study whose files are kept."""
    if portion.what == "films":
        films = sa.select(Instance).where(Instance.study_id == portion.study_id, Instance.purged_at.is_(None))
        return session.scalars(films.order_by(Instance.id)).all()
    documents = sa.select(Document).join(Revision, Revision.id == Document.revision_id)
    documents = documents.where(Revision.study_id == portion.study_id, Document.purged_at.is_(None))
    return session.scalars(documents.order_by(Document.id)).all()


def _may_go(what: What, before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions on a study whose films or documents may go.

    A study is done, and was so before that time: received, read, delivered. Documents go only where each was meant for
    an archive and nothing of it was given up: what no archive has is the only copy there is.
    """
    instance, revision, delivery, walk = aliased(Instance), aliased(Revision), aliased(Delivery), aliased(Revision)
    delivered = sa.exists().where(walk.study_id == Study.id, delivery.revision_id == walk.id)
    is_open = sa.or_(
        delivery.state == DeliveryState.COMPOSED,
        sa.and_(delivery.state == DeliveryState.SENT, delivery.commitment != CommitmentState.NONE),
        delivery.updated_at >= before,
    )
    is_waiting = sa.or_(instance.revision.is_(None), instance.received_at >= before)
    is_walking = sa.or_(revision.state.in_(WALKING), revision.updated_at >= before)
    done = (
        Study.state.in_(_DONE),
        Study.ready_at.is_(None),
        ~sa.exists().where(instance.study_id == Study.id, is_waiting),
        ~sa.exists().where(revision.study_id == Study.id, is_walking),
        ~delivered.where(is_open),
    )
    given_up = delivered.where(delivery.state == DeliveryState.DISMISSED)
    unread = sa.exists().where(revision.study_id == Study.id, revision.dismissed_at.is_not(None))
    return done if what == "films" else (*done, delivered, ~given_up, ~unread)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        remedy = "Run it as the node's user, on a machine that has the node's data_dir."
        raise SpoolFailed(f"The file {path} cannot be removed: {error.strerror}. {remedy}") from error


class Keeper(Rounds):
    """Removes what belongs to nobody, and what the settings let go, while a node runs.

    Parameters
    ----------
    purger
        Removes what the settings let go.
    settings
        After how many days.
    sweep
        Removes what no row names. May raise any NodeError.
    """

    def __init__(self, purger: Purger, settings: RetentionSettings, sweep: Callable[[], None] = lambda: None) -> None:
        super().__init__("retention", EVERY_S)
        self._purger = purger
        self._settings = settings
        self._sweep = sweep

    def make_pass(self) -> None:
        """Sweep, and purge what is old enough, until the node stops.

        Raises
        ------
        NodeError
            The spool or the database failed.
        """
        self._sweep()
        limits = limits_of(self._settings, now())
        gone = [] if limits == Limits(None, None) else self._purger.purge(limits, self.is_stopping)
        if gone:
            log.info("retention.purged", studies=len({portion.study_id for portion in gone}))
