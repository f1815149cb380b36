"""The SQL store: what was received, found, written and delivered. SQLite by default, PostgreSQL a URL away.

A study collects instances (``ready_at`` holds its quiet period). When it is ready its waiting instances become a
*revision*, which then walks the street. Everything the node must remember over a ``kill -9`` is a row here; the
workflow engine only remembers how far a walk has come.

Times are timezone-aware UTC on both databases. Rows hold no names and no identifiers of patients; findings hold the sex
and the age that were used.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Dialect, Engine, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dicom_node.errors import StoreError

UID_LENGTH = 64  # PS3.5 section 9.1
BUSY_TIMEOUT_S = 30.0
_MIGRATIONS = Path(__file__).parent / "migrations"


def now() -> datetime:
    """Return the present time, aware, UTC."""
    return datetime.now(UTC)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC time on every database; SQLite, which has no time zones, holds it as UTC without one."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times, convert the others to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("The store takes only times with a time zone.")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return an aware UTC time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all tables; constraints get names, which SQLite's batch migrations need."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime}


class Study(Base):
    """One study, known by its Study Instance UID."""

    __tablename__ = "studies"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH), unique=True)
    state: Mapped[str] = mapped_column(String(16))  # a StudyState of dicom_node.assemble
    revision: Mapped[int] = mapped_column(default=0)  # the latest that was assembled; 0: none yet
    first_received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    ready_at: Mapped[datetime | None] = mapped_column(index=True)  # end of the quiet period; None: nothing waits


class Series(Base):
    """One series of a study."""

    __tablename__ = "series"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    modality: Mapped[str] = mapped_column(String(16))

    __table_args__ = (UniqueConstraint("study_id", "series_instance_uid"),)


class Instance(Base):
    """One received object, byte for byte in the spool."""

    __tablename__ = "instances"

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    sop_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    path: Mapped[str] = mapped_column(String(255))  # relative to the spool; empty once a purge has removed the file
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    received_at: Mapped[datetime]
    calling_ae: Mapped[str] = mapped_column(String(16))
    association_id: Mapped[str] = mapped_column(String(64), index=True)
    revision: Mapped[int | None]  # the revision it was assembled into; None: it waits
    sha256: Mapped[str | None] = mapped_column(String(64))  # of the data set; see dicom_node.fingerprints
    picture_sha256: Mapped[str | None] = mapped_column(String(64))  # of its pixels and what they belong to
    header_sha256: Mapped[str | None] = mapped_column(String(64))  # of what it is read by, and whose it is
    purged_at: Mapped[datetime | None]  # when its file was given up on purpose; None: it is kept

    __table_args__ = (sa.Index("ix_instances_study_id_revision", "study_id", "revision"),)


class Revision(Base):
    """One assembled state of a study, and how far it has come down the street."""

    __tablename__ = "revisions"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    number: Mapped[int]  # from 1
    scope: Mapped[str] = mapped_column(String(8))  # "new": the instances assembled into it; "all": the study's
    state: Mapped[str] = mapped_column(String(16), index=True)  # a RevisionState of dicom_node.assemble
    round: Mapped[int] = mapped_column(default=0)  # how often a person had it walk again
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(sa.Text)
    assembled_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    dismissed_at: Mapped[datetime | None]  # when a person gave up what failed on its walk; None: nobody did

    __table_args__ = (UniqueConstraint("study_id", "number"),)


class FindingRow(Base):
    """What was found on one instance in one revision: ``body`` is the finding, whole, as JSON."""

    __tablename__ = "findings"

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"), index=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), index=True)
    kind: Mapped[str] = mapped_column(String(8))  # "estimate" or "refusal"
    age_months: Mapped[float | None]
    refusal_code: Mapped[str | None] = mapped_column(String(64))
    body: Mapped[str] = mapped_column(sa.Text)
    interpreted_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("instance_id", "revision_id"),)


class ResultRow(Base):
    """A bone age under its patient, for later films of the same child. The patient is a hash; see dicom_node.priors."""

    __tablename__ = "results"

    id: Mapped[int] = mapped_column(primary_key=True)
    finding_id: Mapped[int] = mapped_column(ForeignKey("findings.id"), unique=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    patient_key: Mapped[str] = mapped_column(String(64), index=True)
    birth_key: Mapped[str | None] = mapped_column(String(64))
    sex: Mapped[str | None] = mapped_column(String(1))
    acquired_on: Mapped[date]
    chronological_age_months: Mapped[float]
    bone_age_months: Mapped[float]
    half_width_months: Mapped[float]


class ArchiveResultRow(Base):
    """A bone age out of a report, or of a film, that an archive had of the same patient; see dicom_node.priors.

    Of a film read here, ``image_uid`` is the ``sop_instance_uid``. Without ages it is a refusal, or has nothing to be
    compared by: it only says that an earlier report is outdated.
    """

    __tablename__ = "archive_results"

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH), unique=True)
    study_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    image_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH))  # of the film that was read
    patient_key: Mapped[str] = mapped_column(String(64), index=True)
    birth_key: Mapped[str | None] = mapped_column(String(64))
    sex: Mapped[str | None] = mapped_column(String(1))
    acquired_on: Mapped[date]
    written_at: Mapped[str] = mapped_column(String(32))  # content date and time: of one image the latest counts
    chronological_age_months: Mapped[float | None]
    bone_age_months: Mapped[float | None]
    half_width_months: Mapped[float | None]


class ArchiveFilmRow(Base):
    """An earlier film of an archive that was read for comparison only; see dicom_node.older_films."""

    __tablename__ = "archive_films"

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH), unique=True)
    study_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    kind: Mapped[str] = mapped_column(String(8))  # "estimate" or "refusal"
    age_months: Mapped[float | None]
    refusal_code: Mapped[str | None] = mapped_column(String(64))
    body: Mapped[str] = mapped_column(sa.Text)
    interpreted_at: Mapped[datetime]


class PriorsAskedRow(Base):
    """That an archive was asked for earlier results for one finding: once, for good."""

    __tablename__ = "priors_asked"

    id: Mapped[int] = mapped_column(primary_key=True)
    finding_id: Mapped[int] = mapped_column(ForeignKey("findings.id"), unique=True)
    answered: Mapped[bool]
    asked_at: Mapped[datetime]


class ArchivePriorRow(Base):
    """One of the archive's results that one finding is compared with, whatever is learnt later."""

    __tablename__ = "archive_priors"

    finding_id: Mapped[int] = mapped_column(ForeignKey("findings.id"), primary_key=True)
    archive_result_id: Mapped[int] = mapped_column(ForeignKey("archive_results.id"), primary_key=True)


class OrderedSizeRow(Base):
    """What the order of a finding's film said of the child's size: asked once, for good; see dicom_node.worklist."""

    __tablename__ = "ordered_sizes"

    id: Mapped[int] = mapped_column(primary_key=True)
    finding_id: Mapped[int] = mapped_column(ForeignKey("findings.id"), unique=True)
    answered: Mapped[bool]
    metres: Mapped[float | None]
    kilograms: Mapped[float | None]
    asked_at: Mapped[datetime]


class ShadowRow(Base):
    """What a shadow method said of one instance in one revision; see dicom_node.shadow."""

    __tablename__ = "shadow_findings"

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"))
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"))
    method: Mapped[str] = mapped_column(String(64), index=True)
    version: Mapped[str] = mapped_column(String(64))
    weights_sha256: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(8))  # "estimate" or "refusal"
    age_months: Mapped[float | None]
    refusal_code: Mapped[str | None] = mapped_column(String(64))
    body: Mapped[str] = mapped_column(sa.Text)
    milliseconds: Mapped[float]
    interpreted_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("instance_id", "revision_id", "method"),)


class Document(Base):
    """One object the node wrote: a Structured Report or a secondary capture."""

    __tablename__ = "documents"

    id: Mapped[int] = mapped_column(primary_key=True)
    finding_id: Mapped[int] = mapped_column(ForeignKey("findings.id"), index=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))  # a Kind of reports.identity
    sop_class_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    sop_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    path: Mapped[str] = mapped_column(String(255))  # relative to the documents directory; empty once it is removed
    created_at: Mapped[datetime]  # written into the document; fixed by the first composition
    verified_at: Mapped[datetime | None]  # read back and found right; only then may it leave
    purged_at: Mapped[datetime | None]  # when its file was given up on purpose; None: it is kept

    __table_args__ = (UniqueConstraint("finding_id", "kind"),)


class Delivery(Base):
    """The ledger: one document on its way to one peer."""

    __tablename__ = "deliveries"

    id: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"))
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), index=True)
    peer: Mapped[str] = mapped_column(String(64))  # the configured name
    state: Mapped[str] = mapped_column(String(16), index=True)  # a DeliveryState of dicom_node.deliver
    commitment: Mapped[str] = mapped_column(String(16))  # a CommitmentState of dicom_node.commitment
    turn: Mapped[int] = mapped_column(default=0)  # counts the workflows of its (revision, peer); part of their ids
    attempts: Mapped[int] = mapped_column(default=0)  # that failed in a row
    failing_since: Mapped[datetime | None]  # first of the attempts that failed in a row; giving up counts from here
    due_at: Mapped[datetime | None] = mapped_column(index=True)  # when it is worked on next; None: never by itself
    status: Mapped[int | None]  # the peer's last DIMSE status
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(sa.Text)  # with its remedy
    sent_at: Mapped[datetime | None]
    commitment_requested_at: Mapped[datetime | None]
    commitment_failures: Mapped[int] = mapped_column(default=0)  # how often the peer said it does not hold it
    committed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("document_id", "peer"),)


class CommitmentRequest(Base):
    """One delivery in one storage commitment transaction; an old transaction may still be answered."""

    __tablename__ = "commitment_requests"

    transaction_uid: Mapped[str] = mapped_column(String(UID_LENGTH), primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), primary_key=True)
    requested_at: Mapped[datetime]


class Event(Base):
    """One thing that happened, with its time and node. No patient data."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    node_id: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    study_id: Mapped[int | None] = mapped_column(ForeignKey("studies.id"), index=True)
    revision: Mapped[int | None]
    sop_instance_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH))
    peer: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(sa.Text)


class NodeRow(Base):
    """One node of the cluster and its last sign of life."""

    __tablename__ = "nodes"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # NodeSettings.id, stable over restarts
    incarnation: Mapped[str] = mapped_column(String(64))  # random, one per start: tells two processes of one id apart
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    stopped_at: Mapped[datetime | None]  # None: it runs, or died


class Store:
    """An open store: an engine, and sessions whose failures are StoreErrors.

    Parameters
    ----------
    engine
        An engine of ``make_engine``.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reading = engine.execution_options(boneage_reading=True)
        # SQLite has one writer at a time, and lets the others sleep and try again: with many of them some starve for
        # seconds. In one process they queue here instead.
        self._turnstile = threading.Lock() if engine.dialect.name == "sqlite" else None

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Open one writing transaction: committed at the end of the block, rolled back on an exception.

        Raises
        ------
        StoreError
            The database failed; nothing of the transaction was kept.
        """
        with (
            self._one_writer(),
            _as_store_error(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """Open one transaction that only reads; it waits for no writer.

        Raises
        ------
        StoreError
            The database failed.
        """
        with _as_store_error(), Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextlib.contextmanager
    def _one_writer(self) -> Iterator[None]:
        if self._turnstile is None:
            yield
            return
        if not self._turnstile.acquire(timeout=BUSY_TIMEOUT_S):
            raise StoreError(f"The store was busy for {BUSY_TIMEOUT_S:.0f} s.")
        try:
            yield
        finally:
            self._turnstile.release()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


@contextlib.contextmanager
def _as_store_error() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(f"The store failed: {_why(getattr(error, 'orig', None) or error)}.") from error


_IN_WORDS = {
    "SQLITE_FULL": "its disk is full",
    "SQLITE_READONLY": "this user may not write it",
    "SQLITE_CANTOPEN": "its file cannot be opened by this user",
    "SQLITE_CORRUPT": "its file is damaged",
    "SQLITE_NOTADB": "its file is no database",
    "SQLITE_BUSY": "another program holds it locked",
    "SQLITE_ERROR": "its tables are of another version; `boneage-node serve` brings older ones up to date",
    "UndefinedTable": "its tables are of another version; `boneage-node serve` brings older ones up to date",
    "UndefinedColumn": "its tables are of another version; `boneage-node serve` brings older ones up to date",
    "DiskFull": "its disk is full",
    "InsufficientPrivilege": "the database's user may not do this",
    "OperationalError": "the database does not answer",
    "AdminShutdown": "the database was shut down",
}
"""By SQLite's name of an error without its extension, or by psycopg's class."""


def _why(error: BaseException) -> str:
    """Say what failed. The text of the driver's exception may quote row values; its kind says enough without them."""
    kind = str(getattr(error, "sqlite_errorname", type(error).__name__))
    known = next((words for name, words in _IN_WORDS.items() if kind == name or kind.startswith(f"{name}_")), None)
    return kind if known is None else f"{known} ({kind})"


def insert_if_absent(session: Session, table: type[Base], **values: Any) -> bool:
    """Insert one row unless a unique constraint says it is there; return whether it was inserted.

    Waits for a concurrent transaction that inserts the same row (PostgreSQL), so that the caller finds it afterwards.
    """
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    # The row that was inserted comes back, none where it was there: unlike row counts, the same on every driver.
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(sa.literal(1))
    return session.execute(statement).first() is not None


def find_study(session: Session, study_instance_uid: str, *, lock: bool = False) -> Study | None:
    """Return the study of that UID, its row locked until the transaction's end where asked for."""
    query = sa.select(Study).where(Study.study_instance_uid == study_instance_uid)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def make_engine(url: str) -> Engine:
    """Make an engine for ``sqlite:///…`` or ``postgresql…``.

    SQLite runs in WAL mode with ``synchronous=FULL``: a committed row survives a loss of power.

    Raises
    ------
    StoreError
        The URL is not of one of the two databases.
    """
    try:
        parsed = make_url(url)
    except SQLAlchemyError as error:
        raise StoreError("The store's URL does not parse.") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite_engine(parsed)
    if backend == "postgresql":
        return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_size=32, pool_pre_ping=True)
    raise StoreError(f"The store cannot be on {backend}: use sqlite or postgresql.")


def _sqlite_engine(url: URL) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, pool_size=32, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
    sa.event.listen(engine, "connect", _configure_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transactions by itself: `_begin_sqlite` does
    _use_write_ahead_log(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _use_write_ahead_log(connection: Any) -> None:
    """Put the database in WAL mode; wait where another connection does that to a new one at this moment.

    SQLite answers that collision with SQLITE_BUSY at once: its own timeout does not cover this change of mode.
    """
    patience = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > patience:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at its start: one that first reads and then writes would fail instead of waiting.
    reading = connection.get_execution_options().get("boneage_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def upgrade(engine: Engine) -> None:
    """Bring the schema up to date. Two nodes that start at once do it one after the other.

    Raises
    ------
    StoreError
        The migration failed; the schema is as it was.
    """
    from alembic import command  # Alembic is needed once, at start
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with _as_store_error(), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7161190250)")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:  # it names a revision that this version does not have
            remedy = "Install that version, or go back to a copy of the database that is older."
            raise StoreError(f"The database is of a newer version of boneage-node. {remedy}") from error


def open_store(url: str) -> Store:
    """Open the store and bring its schema up to date.

    Raises
    ------
    StoreError
        The database cannot be reached or migrated.
    """
    engine = make_engine(url)
    upgrade(engine)
    return Store(engine)
