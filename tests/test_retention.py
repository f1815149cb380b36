"""Retention: whose files may go, that they go and leave the store truthful, and what comes of the films afterwards.

Not covered: how a film that comes back is judged (test_store_intake.py), the hashes (test_corrections.py).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from conformance.films import PATIENT, make_film
from conformance.nodes import Journal, make_settings, run_node, send, states
from conformance.stand_in import StandIn
from dicom_node import ballast, cli, retention
from dicom_node.archive import Archive
from dicom_node.assemble import reprocess
from dicom_node.corrections import digest
from dicom_node.errors import FilmPurged, NodeError, SpoolFailed
from dicom_node.node import Node
from dicom_node.retention import Keeper, Limits, Purger, held
from dicom_node.revisions import CommitmentState, DeliveryState, RevisionState
from dicom_node.settings import RetentionSettings, Settings, load_settings
from dicom_node.sources import read_source
from dicom_node.spool import file_meta
from dicom_node.store import (
    Base,
    Delivery,
    Document,
    Event,
    FindingRow,
    Instance,
    Revision,
    Series,
    Store,
    Study,
    now,
    open_store,
)

CR, EXPLICIT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.1"
LONG_AGO, DAYS = now() - timedelta(days=40), 30.0
BEFORE = now() - timedelta(days=DAYS)
TOMORROW = now() + timedelta(days=1)  # all that is done is older
FILMS, ALL = Limits(BEFORE, None), Limits(BEFORE, BEFORE)


class Shelf:
    """A store and the files behind its rows: studies as the street leaves them, done long ago unless told otherwise."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.purger = Purger(store, settings)

    def add_study(self, uid: str = "1.2", *, films: int = 1, delivered: bool = True) -> int:
        with self.store.session() as session:
            state = RevisionState.COMMITTED if delivered else RevisionState.KEPT
            study = Study(
                study_instance_uid=uid, state=state, revision=1, first_received_at=LONG_AGO, last_received_at=LONG_AGO
            )
            session.add(study)
            session.flush()
            series = Series(study_id=study.id, series_instance_uid=f"{uid}.1", modality="DX")
            revision = Revision(
                study_id=study.id, number=1, scope="new", state=state, assembled_at=LONG_AGO, updated_at=LONG_AGO
            )
            session.add_all([series, revision])
            session.flush()
            for number in range(films):
                self._add_film(session, study, series, revision, f"{uid}.1.{number}", delivered=delivered)
            return study.id

    def _add_film(
        self, session: Any, study: Study, series: Series, revision: Revision, uid: str, *, delivered: bool
    ) -> None:
        film, report = self.settings.spool_dir / f"{uid}.dcm", self.settings.documents_dir / f"{uid}.9.dcm"
        for path in (film, report):
            path.parent.mkdir(parents=True, exist_ok=True)
        film.write_bytes(file_meta(CR, uid, EXPLICIT) + b"film")
        report.write_bytes(b"report")
        instance = Instance(
            series_id=series.id, study_id=study.id, sop_instance_uid=uid, sop_class_uid=CR,
            transfer_syntax_uid=EXPLICIT, path=film.name, size_bytes=4, received_at=LONG_AGO, calling_ae="XRAY1",
            association_id="a", revision=1,
        )  # fmt: skip
        session.add(instance)
        session.flush()
        finding = FindingRow(
            instance_id=instance.id, revision_id=revision.id, kind="estimate", age_months=99.4, body="{}",
            interpreted_at=LONG_AGO,
        )  # fmt: skip
        session.add(finding)
        session.flush()
        document = Document(
            finding_id=finding.id, revision_id=revision.id, kind="sr", sop_class_uid=CR, sop_instance_uid=f"{uid}.9",
            series_instance_uid=f"{uid}.8", path=report.name, created_at=LONG_AGO, verified_at=LONG_AGO,
        )  # fmt: skip
        session.add(document)
        session.flush()
        if delivered:
            delivery = Delivery(
                document_id=document.id, revision_id=revision.id, peer="pacs", state=DeliveryState.COMMITTED,
                commitment=CommitmentState.COMMITTED, sent_at=LONG_AGO, committed_at=LONG_AGO, updated_at=LONG_AGO,
            )  # fmt: skip
            session.add(delivery)

    def change(self, table: type[Base], **values: Any) -> None:
        with self.store.session() as session:
            session.execute(sa.update(table).values(**values))

    def add_reading(self, study_id: int) -> None:
        """Have the whole study read again, long ago."""
        with self.store.session() as session:
            again = Revision(
                study_id=study_id, number=2, scope="all", state="committed", assembled_at=LONG_AGO, updated_at=LONG_AGO
            )
            session.add(again)

    def rows(self, table: Any) -> list[Any]:
        with self.store.reading() as session:
            return list(session.scalars(sa.select(table).order_by(table.id)))

    def files(self) -> set[str]:
        """Return the names of the files there are."""
        return {path.name for path in self.settings.node.data_dir.rglob("*.dcm")}


@pytest.fixture
def shelf(store_url: str, tmp_path: Path) -> Iterator[Shelf]:
    store = open_store(store_url)
    yield Shelf(store, make_settings(tmp_path / "node", store={"url": store_url}))
    store.close()


def test_films_of_what_is_done_go_and_what_was_found_stays(shelf: Shelf) -> None:
    shelf.add_study("1.2", films=2)
    shelf.add_study("1.3")
    shelf.change(Study, state="committed")
    sha256 = digest(shelf.settings.spool_dir / "1.2.1.0.dcm")
    portions = shelf.purger.find(FILMS)
    assert [(one.study_instance_uid, one.objects, one.size_bytes) for one in portions] == [("1.2", 2, 8), ("1.3", 1, 4)]
    assert shelf.purger.purge(FILMS) == portions
    assert shelf.files() == {"1.2.1.0.9.dcm", "1.2.1.1.9.dcm", "1.3.1.0.9.dcm"}
    assert {(row.path, row.purged_at is None) for row in shelf.rows(Instance)} == {("", False)}
    assert shelf.rows(Instance)[0].sha256 == sha256
    assert [len(shelf.rows(table)) for table in (FindingRow, Document, Delivery)] == [3, 3, 3]
    events = [(event.kind, event.detail, event.node_id) for event in shelf.rows(Event)]
    assert events[0] == ("purged", "2 films, 0.0 MiB", "node-1")
    assert len(events) == 2
    assert shelf.purger.find(FILMS) == shelf.purger.purge(FILMS) == []
    with shelf.store.reading() as session:
        assert held(session) == (0, 0)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (Study, {"ready_at": LONG_AGO}),
        (Study, {"state": "sent"}),
        (Study, {"state": "failed"}),
        (Instance, {"revision": None}),
        (Instance, {"received_at": now()}),
        (Revision, {"state": "assembled"}),
        (Revision, {"updated_at": now()}),
        (Delivery, {"state": "composed", "commitment": "due"}),
        (Delivery, {"state": "sent", "commitment": "requested"}),
        (Delivery, {"updated_at": now()}),
    ],
)
def test_what_is_not_done_or_young_keeps_its_films(shelf: Shelf, table: type[Base], values: dict[str, Any]) -> None:
    shelf.add_study()
    shelf.change(table, **values)
    assert shelf.purger.find(ALL) == shelf.purger.purge(ALL) == []
    assert shelf.files() == {"1.2.1.0.dcm", "1.2.1.0.9.dcm"}


def test_what_an_older_reading_has_open_keeps_the_film_and_what_failed_there_does_not(shelf: Shelf) -> None:
    study_id = shelf.add_study()
    shelf.add_reading(study_id)
    shelf.change(Delivery, state="composed", commitment="due")
    assert shelf.purger.find(FILMS) == []
    shelf.change(Delivery, state="failed")
    assert len(shelf.purger.find(FILMS)) == 1


def test_a_peer_without_commitment_is_done_when_it_was_sent(shelf: Shelf) -> None:
    shelf.add_study()
    shelf.change(Delivery, state="sent", commitment="none")
    shelf.change(Study, state="delivered")
    assert len(shelf.purger.purge(ALL)) == 2
    assert shelf.files() == set()


def test_documents_go_only_where_an_archive_has_them(shelf: Shelf) -> None:
    shelf.add_study("1.2")
    shelf.add_study("1.3", delivered=False)
    gone = shelf.purger.purge(ALL)
    assert [(one.what, one.study_instance_uid, one.size_bytes) for one in gone] == [
        ("films", "1.2", 4), ("films", "1.3", 4), ("documents", "1.2", 6)
    ]  # fmt: skip
    assert shelf.files() == {"1.3.1.0.9.dcm"}
    assert [(row.path == "", row.purged_at is None) for row in shelf.rows(Document)] == [(True, False), (False, True)]


def test_what_was_dismissed_holds_no_film_and_keeps_its_documents(shelf: Shelf) -> None:
    """Given a delivery that was given up, then its document is all there is of it: retry may still send it."""
    shelf.add_study()
    shelf.change(Delivery, state="dismissed", commitment="due")
    shelf.change(Study, state="kept")
    assert [one.what for one in shelf.purger.purge(ALL)] == ["films"]


def test_a_reading_that_was_dismissed_holds_no_film_and_keeps_its_documents(shelf: Shelf) -> None:
    """Given a reading that failed and was given up, then its film may go; a document of it may be nowhere else."""
    shelf.add_study()
    shelf.change(Revision, state="delivered", error_code="composition-failed", dismissed_at=LONG_AGO)
    shelf.change(Study, state="delivered")
    assert [one.what for one in shelf.purger.purge(ALL)] == ["films"]


def test_a_purge_of_a_full_disk_has_its_ballast_to_write_with(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a full disk, when it is purged, then ballast goes before a row is written, and comes back."""
    shelf.add_study("1.2")
    folder = shelf.settings.node.data_dir
    ballast.take_in(folder)
    assert (folder / "ballast").stat().st_blocks * 512 >= ballast.SIZE_BYTES
    usage, give_up, seen = shutil.disk_usage(folder), shelf.purger._give_up, []
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=0))

    def look(*arguments: Any) -> Any:
        seen.append((folder / "ballast").exists())
        return give_up(*arguments)

    monkeypatch.setattr(shelf.purger, "_give_up", look)
    assert len(shelf.purger.purge(FILMS)) == 1
    assert (seen, (folder / "ballast").exists()) == ([False], False)
    monkeypatch.undo()
    shelf.purger.purge(FILMS)
    assert (folder / "ballast").exists()


@pytest.mark.parametrize("trouble", ["no folder", "no room", "no allocation"])
def test_ballast_that_cannot_be_taken_in_is_no_error(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    usage = shutil.disk_usage(tmp_path)
    if trouble == "no room":
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=9 << 20))
    if trouble == "no allocation":
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    folder = tmp_path / "absent" if trouble == "no folder" else tmp_path
    ballast.take_in(folder)
    ballast.throw(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_purge_that_is_killed_leaves_the_truth_and_is_ended_by_the_next(
    shelf: Shelf, dies_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a purge that dies before its first or second file, when there is another, then nothing is left or lost."""
    shelf.add_study(films=2)
    unlink, calls = retention._unlink, []

    def die(path: Path) -> None:
        calls.append(path)
        if len(calls) == dies_at:
            raise KeyboardInterrupt
        unlink(path)

    monkeypatch.setattr(retention, "_unlink", die)
    with pytest.raises(KeyboardInterrupt):
        shelf.purger.purge(FILMS)
    assert all(row.purged_at is not None for row in shelf.rows(Instance))
    assert [row.path != "" for row in shelf.rows(Instance)] == [dies_at == 1, True]
    with pytest.raises(FilmPurged):
        reprocess(shelf.store, "1.2", "node-1")
    monkeypatch.undo()
    assert shelf.purger.purge(FILMS) == []
    assert shelf.files() == {"1.2.1.0.9.dcm", "1.2.1.1.9.dcm"}
    assert [row.path for row in shelf.rows(Instance)] == ["", ""]
    assert [event.kind for event in shelf.rows(Event)] == ["purged"]


def test_a_film_that_comes_back_before_its_file_is_gone_keeps_the_new_one(shelf: Shelf) -> None:
    shelf.add_study()
    shelf.change(Instance, purged_at=now())
    left = shelf.purger._left_behind()
    shelf.change(Instance, path="back.dcm", purged_at=None)
    shelf.purger._remove(left)
    assert [row.path for row in shelf.rows(Instance)] == ["back.dcm"]


def test_a_study_that_moved_since_it_was_found_keeps_its_films(shelf: Shelf) -> None:
    shelf.add_study()
    (portion,) = shelf.purger.find(FILMS)
    shelf.change(Instance, received_at=now())
    assert shelf.purger._give_up(portion, FILMS) == []
    assert (shelf.rows(Instance)[0].purged_at, shelf.rows(Event)) == (None, [])


def test_two_purges_at_once_do_it_once(shelf: Shelf) -> None:
    for number in range(5):
        shelf.add_study(f"1.{number + 2}")
    start, failures = threading.Barrier(2), []

    def purge() -> None:
        start.wait()
        try:
            Purger(shelf.store, shelf.settings).purge(FILMS)
        except NodeError as error:
            failures.append(error)

    threads = [threading.Thread(target=purge) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [event.kind for event in shelf.rows(Event)] == ["purged"] * 5
    assert {row.path for row in shelf.rows(Instance)} == {""}


def test_a_purge_that_is_to_stop_ends_after_its_study(shelf: Shelf) -> None:
    shelf.add_study("1.2")
    shelf.add_study("1.3")
    answers = iter([False, True])
    assert len(shelf.purger.purge(FILMS, lambda: next(answers))) == 1
    assert [row.purged_at is None for row in shelf.rows(Instance)] == [False, True]


def test_a_film_that_was_lost_before_is_given_up_too(shelf: Shelf) -> None:
    shelf.add_study()
    (shelf.settings.spool_dir / "1.2.1.0.dcm").unlink()
    assert len(shelf.purger.purge(FILMS)) == 1
    (row,) = shelf.rows(Instance)
    assert (row.sha256, row.path) == (None, "")


def test_a_file_that_cannot_be_removed_is_named(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.add_study()

    def refuse(_path: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(SpoolFailed, match=r"1\.2\.1\.0\.dcm cannot be removed: Permission denied.*node's user"):
        shelf.purger.purge(FILMS)


def test_what_reads_a_purged_film_says_so(shelf: Shelf) -> None:
    shelf.add_study()
    shelf.purger.purge(FILMS)
    with pytest.raises(FilmPurged, match="send it again"):
        read_source(shelf.settings.spool_dir, shelf.rows(Instance)[0])


class Desk:
    """A settings file and the command line over a shelf on SQLite."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config, self._capsys = folder / "node.toml", capsys
        self.config.write_text('[node]\ndata_dir = "data"\n')
        settings = load_settings(self.config)
        self.shelf = Shelf(open_store(settings.database_url), settings)

    def run(self, *arguments: str) -> tuple[int, str]:
        code = cli.main([*arguments, "--config", str(self.config)])
        captured = self._capsys.readouterr()
        return code, " ".join((captured.out + captured.err).split())


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    desk = Desk(tmp_path, capsys)
    yield desk
    desk.shelf.store.close()


def test_a_dry_run_says_what_may_go_and_removes_nothing(desk: Desk) -> None:
    desk.shelf.add_study(films=3)
    before = desk.shelf.files()
    code, out = desk.run("purge", "--older-than", "30", "--dry-run")
    assert (code, "May go" in out, "Files of 1 study: 3, 0.0 MiB" in out, "Nothing was removed" in out) == (
        0,
        True,
        True,
        True,
    )
    assert (desk.shelf.files(), desk.shelf.rows(Event)) == (before, [])


def test_purge_removes_what_is_older(desk: Desk) -> None:
    desk.shelf.add_study()
    code, out = desk.run("purge", "--older-than", "50")
    assert (code, "Nothing may go" in out) == (0, True)
    code, out = desk.run("purge", "--older-than", "30", "--documents")
    assert (code, "Files of 1 study: 2" in out, desk.shelf.files()) == (0, True, set())
    code, out = desk.run("show", "1.2")
    assert (code, out.count("purged 20")) == (0, 2), out
    code, out = desk.run("reprocess", "1.2")
    assert (code, "film-purged" in out, "1 of 1 films" in out, "send it again" in out) == (1, True, True, True), out
    assert len(desk.shelf.rows(Revision)) == 1


def test_purge_takes_its_days_from_the_settings(desk: Desk) -> None:
    desk.shelf.add_study()
    code, out = desk.run("purge")
    assert (code, "--older-than DAYS" in out) == (2, True), out
    assert desk.run("purge", "--documents")[0] == 2
    desk.config.write_text(desk.config.read_text() + "[retention]\nfilms_days = 30\n")
    assert "films_days = 30" in desk.run("settings", "show")[1]
    assert "films go 30 days" in desk.run("status")[1]
    assert desk.run("purge")[0] == 0
    assert desk.shelf.files() == {"1.2.1.0.9.dcm"}


@pytest.mark.parametrize("days", ["-1", "soon", "nan", "1e9"])
def test_days_that_are_none_are_a_wrong_command_line(desk: Desk, days: str) -> None:
    with pytest.raises(SystemExit) as raised:
        desk.run("purge", "--older-than", days)
    assert raised.value.code == 2


@pytest.mark.parametrize("days", ["0", "-3", "inf", '"soon"'])
def test_retention_without_days_is_a_wrong_setting(desk: Desk, days: str) -> None:
    desk.config.write_text(desk.config.read_text() + f"[retention]\nfilms_days = {days}\n")
    code, out = desk.run("settings", "show")
    assert (code, "retention.films_days" in out) == (2, True), out


def test_status_tells_what_the_spool_holds_and_what_could_go(desk: Desk) -> None:
    desk.shelf.add_study("1.2")
    desk.shelf.add_study("1.3")
    desk.shelf.change(Instance, size_bytes=3 << 20)
    with desk.shelf.store.session() as session:
        session.execute(sa.update(Study).where(Study.id == 2).values(state="failed"))
    out = desk.run("status")[1]
    assert "Films in the spool: 2, 6.0 MiB; of studies that are done: 1, 3.0 MiB" in out, out


def test_a_running_node_purges_by_itself_only_where_it_was_told_to(shelf: Shelf) -> None:
    shelf.add_study()
    swept = threading.Event()
    with Journal().listening() as journal:
        keeper = Keeper(shelf.purger, RetentionSettings(), swept.set)
        keeper.start()
        assert swept.wait(60.0)
        keeper.stop()
        assert shelf.rows(Event) == []
        keeper = Keeper(shelf.purger, RetentionSettings(films_days=DAYS))
        keeper.start()
        journal.wait_for("retention.purged")
        keeper.stop()
    assert shelf.files() == {"1.2.1.0.9.dcm"}


@pytest.mark.parametrize(
    ("error", "told"), [(SpoolFailed("no disk"), "retention.failed"), (ValueError(), "retention.fault")]
)
def test_a_purge_that_fails_is_tried_again(
    shelf: Shelf, error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(retention, "EVERY_S", 0.01)
    monkeypatch.setattr(shelf.purger, "purge", fail)
    with Journal().listening() as journal:
        keeper = Keeper(shelf.purger, RetentionSettings(films_days=DAYS))
        keeper.start()
        journal.wait_for(told, count=2)
        keeper.stop()


# -- a whole node ------------------------------------------------------------------------------------------------------


@pytest.fixture
def journal() -> Iterator[Journal]:
    with Journal().listening() as journal:
        yield journal
    for value in PATIENT.values():
        assert value not in str(journal.events)


def wait_until_committed(journal: Journal, node: Node, uid: str) -> None:
    journal.wait_until(lambda: states(node.store).get(str(uid)) in {"committed", "failed"})
    assert states(node.store) == {str(uid): "committed"}


def revisions(node: Node) -> int:
    with node.store.reading() as session:
        return session.scalars(sa.select(Study.revision)).one()


def test_a_purged_film_comes_back_is_read_again_when_asked_and_corrected(journal: Journal, tmp_path: Path) -> None:
    """Given a purged film, when it comes again, then it is kept and not read, but for reprocess or another header."""
    film, interpreter = make_film(PatientSex="M"), StandIn()
    uid = str(film.StudyInstanceUID)
    with Archive(tmp_path / "archive") as archive:
        settings = make_settings(tmp_path / "node", {"pacs": archive.address})
        with run_node(settings, interpreter) as node:
            purger = Purger(node.store, settings)
            send(node.address, [film])
            wait_until_committed(journal, node, uid)
            assert len(purger.purge(Limits(TOMORROW, TOMORROW))) == 2
            assert list(settings.node.data_dir.rglob("*.dcm")) == []
            with pytest.raises(FilmPurged):
                reprocess(node.store, uid, "node-1")

            assert send(node.address, [film]) == [0x0000]
            journal.wait_for("restored")
            assert (revisions(node), interpreter.calls) == (1, 1)
            assert reprocess(node.store, uid, "node-1").number == 2
            journal.wait_for("committed", count=4)
            wait_until_committed(journal, node, uid)
            assert (interpreter.calls, len(archive.objects())) == (2, 4)

            assert len(purger.purge(Limits(TOMORROW, None))) == 1
            film.PatientSex, film.PatientID = "F", "MERGED"
            assert send(node.address, [film]) == [0x0000]
            journal.wait_for("committed", count=6)
            wait_until_committed(journal, node, uid)
            assert (interpreter.calls, len(archive.objects())) == (3, 6)
            film.PatientSex = "M"
            film.PixelData = bytes(len(film.PixelData))
            purger.purge(Limits(TOMORROW, None))
            assert send(node.address, [film]) == [0x0111]


def test_a_running_node_lets_films_go_by_its_settings(journal: Journal, tmp_path: Path) -> None:
    """Given a node that keeps films for a day, when it starts over an older one, then it goes, and no younger one."""
    old, young = make_film(), make_film()
    settings = make_settings(tmp_path / "node")
    with run_node(settings, StandIn()) as node:
        send(node.address, [old])
        journal.wait_until(lambda: states(node.store).get(str(old.StudyInstanceUID)) == "kept")
        with node.store.session() as session:
            for table in (Instance, Revision):
                column = "received_at" if table is Instance else "updated_at"
                session.execute(sa.update(table).values({column: LONG_AGO}))
        send(node.address, [young])
        journal.wait_until(lambda: states(node.store).get(str(young.StudyInstanceUID)) == "kept")
    settings = make_settings(tmp_path / "node", retention={"films_days": 1.0})
    with run_node(settings, StandIn()) as node:
        (gone,) = journal.wait_for("purged")
        assert gone["study_instance_uid"] == str(old.StudyInstanceUID)
    assert len(list(settings.spool_dir.rglob("*.dcm"))) == 1


def test_a_node_that_starts_removes_what_a_killed_purge_left(journal: Journal, tmp_path: Path) -> None:
    film, settings = make_film(), make_settings(tmp_path / "node")
    with run_node(settings, StandIn()) as node:
        send(node.address, [film])
        journal.wait_until(lambda: states(node.store).get(str(film.StudyInstanceUID)) == "kept")
        with node.store.session() as session:
            session.execute(sa.update(Instance).values(purged_at=now()))
    assert len(list(settings.spool_dir.rglob("*.dcm"))) == 1
    with run_node(settings, StandIn()):
        assert list(settings.spool_dir.rglob("*.dcm")) == []
