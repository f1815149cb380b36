"""The SQL store on SQLite and PostgreSQL: schema, times, transactions, failures.

Not covered: what the rows mean (test_street_*.py); old rows through migrations, but for what an archive had.
"""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

import dicom_node
from dicom_node.errors import StoreError
from dicom_node.store import (
    ArchivePriorRow,
    ArchiveResultRow,
    Base,
    Event,
    NodeRow,
    PriorsAskedRow,
    Store,
    Study,
    insert_if_absent,
    make_engine,
    now,
    open_store,
    upgrade,
)


@pytest.fixture
def store(store_url: str):
    opened = open_store(store_url)
    yield opened
    opened.close()


def make_study(uid: str, at: datetime | None = None) -> Study:
    at = at or now()
    return Study(study_instance_uid=uid, state="receiving", revision=0, first_received_at=at, last_received_at=at)


def test_the_migrations_make_what_the_models_say(store: Store) -> None:
    with store.engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def configure(connection: sa.Connection) -> Config:
    """Return Alembic's configuration for a connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(dicom_node.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


AT = "'2026-01-01 00:00:00'"
BEFORE_0005 = (
    f"INSERT INTO studies VALUES (1, '1.2', 'ready', 3, {AT}, {AT}, NULL)",
    "INSERT INTO series VALUES (1, 1, '1.2.1', 'CR')",
    f"INSERT INTO instances VALUES (1, 1, 1, '1.2.1.1', '1', '1', 'p', 1, {AT}, 'CR', 'a', 1)",
    *(f"INSERT INTO revisions VALUES ({n}, 1, {n}, 'all', 'kept', 0, NULL, NULL, {AT}, {AT})" for n in (1, 2, 3)),
    *(f"INSERT INTO findings VALUES ({n}, 1, {n}, 'estimate', 1, NULL, '', {AT})" for n in (1, 2, 3)),
    *(f"INSERT INTO documents VALUES ({n}, {n}, {n}, 'sr', '1', '1.{n}', '1', 'p', {AT}, {AT})" for n in (1, 2)),
    "INSERT INTO results VALUES (1, 1, 1, 'k', NULL, NULL, '2023-01-01', 100, 100, 9)",
    "INSERT INTO results VALUES (2, 2, 1, 'k', NULL, NULL, '2025-01-01', 120, 120, 9)",
    "INSERT INTO archive_results VALUES (1, '9', '8', 'k', NULL, NULL, '2024-01-01', '', 108, 110, NULL)",
    f"INSERT INTO events VALUES (1, {AT}, 'n', 'priors-unasked', 1, 1, NULL, 'pacs', NULL)",
)
"""Three findings of one film: before an archive's result, the archive down; after it; and one not composed yet."""


def test_migrations_can_be_taken_back(store_url: str) -> None:
    engine = make_engine(store_url)
    upgrade(engine)
    with engine.begin() as connection:
        command.downgrade(configure(connection), "base")
    assert set(sa.inspect(engine).get_table_names()) <= {"alembic_version"}
    upgrade(engine)
    engine.dispose()


def test_what_was_composed_before_keeps_what_it_was_composed_of(store_url: str) -> None:
    """Given a store of before priors were kept by finding, then each finding has the archive's results of its time."""
    engine = make_engine(store_url)
    with engine.begin() as connection:
        command.upgrade(configure(connection), "0004")
        for statement in BEFORE_0005:
            connection.execute(sa.text(statement))
    upgrade(engine)
    with Store(engine).reading() as session:
        assert session.execute(sa.select(ArchivePriorRow.finding_id, ArchivePriorRow.archive_result_id)).all() == [
            (2, 1)
        ]
        asked = session.execute(sa.select(PriorsAskedRow.finding_id, PriorsAskedRow.answered)).all()
        assert sorted(asked) == [(1, False), (2, True)]
        kept = session.scalars(sa.select(ArchiveResultRow)).one()
        assert (kept.bone_age_months, kept.image_uid) == (110.0, None)
    engine.dispose()


def test_a_database_of_a_newer_version_is_said_to_be_one(store_url: str) -> None:
    engine = make_engine(store_url)
    upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer version"):
        upgrade(engine)
    engine.dispose()


def test_nodes_that_start_at_once_migrate_one_after_the_other(store_url: str) -> None:
    failures: list[StoreError] = []

    def start() -> None:
        try:
            open_store(store_url).close()
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_new_sqlite_file_that_another_node_is_writing_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # as another connection does on its way to WAL mode; SQLite itself does not wait
    end = threading.Timer(0.3, other.execute, ["COMMIT"])
    end.start()
    open_store(f"sqlite:///{path}").close()
    end.join()
    other.close()


def test_a_new_sqlite_file_that_stays_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.store.BUSY_TIMEOUT_S", 0.1)
    other = sqlite3.connect(tmp_path / "node.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another program holds it locked"):
        open_store(f"sqlite:///{tmp_path / 'node.db'}")
    other.close()


def test_sqlite_survives_a_loss_of_power(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    with store.session() as session:
        assert session.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(sa.text("PRAGMA synchronous")) == 2  # FULL
        assert session.scalar(sa.text("PRAGMA foreign_keys")) == 1
    store.close()


def test_times_come_back_aware_in_utc(store: Store) -> None:
    at = datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    with store.session() as session:
        session.add(make_study("1.2.3", at))
    with store.reading() as session:
        found = session.scalars(sa.select(Study)).one()
    assert found.first_received_at == at
    assert found.first_received_at.tzinfo is UTC


def test_times_without_a_zone_are_refused(store: Store) -> None:
    with pytest.raises(StoreError), store.session() as session:
        session.add(make_study("1.2.3", datetime(2026, 1, 1)))  # noqa: DTZ001


def test_times_compare_in_sql(store: Store) -> None:
    early, late = now(), now() + timedelta(microseconds=1)
    with store.session() as session:
        session.add_all([make_study("1.2.3", early), make_study("1.2.4", late)])
    with store.reading() as session:
        query = sa.select(Study.study_instance_uid).where(Study.first_received_at > early)
        assert session.scalars(query).all() == ["1.2.4"]


def test_a_failed_transaction_keeps_nothing(store: Store) -> None:
    def write_twice() -> None:
        with store.session() as session:
            session.add(make_study("1.2.3"))
            session.flush()
            session.add(make_study("1.2.3"))

    with pytest.raises(StoreError):
        write_twice()
    with store.reading() as session:
        assert session.scalars(sa.select(Study)).all() == []


def test_store_errors_do_not_quote_values(store: Store) -> None:
    with pytest.raises(StoreError) as caught, store.session() as session:
        session.add_all([make_study("1.2.3.4.5"), make_study("1.2.3.4.5")])
    assert "1.2.3.4.5" not in str(caught.value)
    assert caught.value.code == "store-failed"


def test_inserting_what_is_there_changes_nothing(store: Store) -> None:
    started = now()
    life = {"incarnation": "one", "started_at": started, "heartbeat_at": started}
    with store.session() as session:
        assert insert_if_absent(session, NodeRow, id="node-1", **life)
        assert not insert_if_absent(session, NodeRow, id="node-1", **{**life, "incarnation": "two"})
    with store.reading() as session:
        assert session.get_one(NodeRow, "node-1").incarnation == "one"


def test_concurrent_writers_wait_for_each_other(store: Store) -> None:
    """Given 16 threads that read and then write, when they all do, then none fails and none is lost."""
    with store.session() as session:
        session.add(make_study("1.2.3"))
    start, failures = threading.Barrier(16), []

    def write() -> None:
        start.wait()
        try:
            with store.session() as session:
                study = session.scalars(sa.select(Study).with_for_update()).one()
                study.revision += 1
                session.add(Event(at=now(), node_id="n", kind="counted", study_id=study.id))
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with store.reading() as session:
        assert session.scalars(sa.select(Study.revision)).one() == 16


def test_readers_do_not_wait_for_a_writer(store: Store) -> None:
    with store.session() as writing:
        writing.add(make_study("1.2.3"))
        writing.flush()
        with store.reading() as session:
            assert session.scalars(sa.select(Study)).all() == []


@pytest.mark.parametrize("url", ["mysql://host/db", "not a url", "oracle+oracledb://host"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(StoreError):
        make_engine(url)


def test_a_database_that_cannot_be_reached_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        open_store(f"postgresql://nobody@/none?host={tmp_path}")
