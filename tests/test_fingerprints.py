"""Fingerprints: when the hashes of films are taken, and that a kill, a purge or a busy node loses none.

Not covered: what they are taken of (test_corrections.py), how a film that comes back is judged (test_store_intake.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from conformance.films import make_film
from conformance.nodes import Journal, make_settings, run_node, send, states
from conformance.stand_in import StandIn
from dicom_node import fingerprints
from dicom_node.archive import Archive
from dicom_node.corrections import digest
from dicom_node.errors import StoreError
from dicom_node.fingerprints import Fingerprinter, keep_digest, keep_fingerprint
from dicom_node.revisions import CommitmentState, DeliveryState
from dicom_node.spool import Spool
from dicom_node.store import Delivery, Document, FindingRow, Instance, Revision, Series, Store, Study, now, open_store

CR, EXPLICIT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.1"
AN_HOUR_AGO = now() - timedelta(hours=1)


class Shelf:
    """A store with one study per film, each read and delivered an hour ago, and the files of the films."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.spool_dir = store, folder
        self.spool = Spool(folder / "node-1")
        self.spool.open()
        self.fingerprinter = Fingerprinter(store, folder, "node-1")

    def add(self, uid: str, data: bytes | None = None) -> Path:
        file = self.spool.create(CR, uid, EXPLICIT)
        file.write([memoryview(_data_set() if data is None else data)])
        path = file.commit()
        with self.store.session() as session:
            study = Study(
                study_instance_uid=f"{uid}.1", state="committed", revision=1, first_received_at=AN_HOUR_AGO,
                last_received_at=AN_HOUR_AGO,
            )  # fmt: skip
            session.add(study)
            session.flush()
            series = Series(study_id=study.id, series_instance_uid=f"{uid}.2", modality="CR")
            revision = Revision(
                study_id=study.id, number=1, scope="new", state="committed", assembled_at=AN_HOUR_AGO,
                updated_at=AN_HOUR_AGO,
            )  # fmt: skip
            session.add_all([series, revision])
            session.flush()
            instance = Instance(
                series_id=series.id, study_id=study.id, sop_instance_uid=uid, sop_class_uid=CR,
                transfer_syntax_uid=EXPLICIT, path=path.relative_to(self.spool_dir).as_posix(), size_bytes=4,
                received_at=AN_HOUR_AGO, calling_ae="XRAY1", association_id="a", revision=1,
            )  # fmt: skip
            session.add(instance)
            session.flush()
            instance_id = instance.id
        keep_digest(self.store, self.spool_dir, instance_id)
        return path

    def change(self, table: type[Any], **values: Any) -> None:
        with self.store.session() as session:
            session.execute(sa.update(table).values(**values))

    def add_delivery(self, due_at: datetime | None) -> None:
        """Have a report of the first film that is to be sent at a time."""
        with self.store.session() as session:
            finding = FindingRow(instance_id=1, revision_id=1, kind="estimate", body="{}", interpreted_at=AN_HOUR_AGO)
            session.add(finding)
            session.flush()
            document = Document(
                finding_id=finding.id, revision_id=1, kind="sr", sop_class_uid=CR, sop_instance_uid="1.9",
                series_instance_uid="1.8", path="sr.dcm", created_at=AN_HOUR_AGO, verified_at=AN_HOUR_AGO,
            )  # fmt: skip
            session.add(document)
            session.flush()
            delivery = Delivery(
                document_id=document.id, revision_id=1, peer="pacs", state=DeliveryState.COMPOSED,
                commitment=CommitmentState.DUE, due_at=due_at, updated_at=AN_HOUR_AGO,
            )  # fmt: skip
            session.add(delivery)

    def hashes(self) -> list[tuple[str | None, str | None]]:
        with self.store.reading() as session:
            rows = session.execute(sa.select(Instance.sha256, Instance.picture_sha256).order_by(Instance.id))
            return [(sha256, picture) for sha256, picture in rows]

    def taken(self) -> list[bool]:
        return [picture is not None for _, picture in self.hashes()]


def _data_set() -> bytes:
    part_10 = BytesIO()
    make_film().save_as(part_10, enforce_file_format=True)
    data = part_10.getvalue()
    return data[144 + int.from_bytes(data[140:144], "little") :]


@pytest.fixture
def shelf(store_url: str, tmp_path: Path) -> Iterator[Shelf]:
    store = open_store(store_url)
    yield Shelf(store, tmp_path)
    store.close()


def test_a_walk_takes_the_hash_of_the_bytes_alone_and_a_node_at_rest_the_others(shelf: Shelf) -> None:
    """Given films that were read, when nothing is on its way, then their pictures are taken, by whoever runs then."""
    paths = [shelf.add("1.2.1"), shelf.add("1.2.2")]
    assert shelf.hashes() == [(digest(path), None) for path in paths]
    Fingerprinter(shelf.store, shelf.spool_dir, "node-1").make_pass()  # of the process after a kill -9
    assert shelf.taken() == [True, True]
    assert [sha256 for sha256, _ in shelf.hashes()] == [digest(path) for path in paths]


def wait_for_more(shelf: Shelf) -> None:
    shelf.change(Study, ready_at=now() + timedelta(minutes=1))


def walk(shelf: Shelf) -> None:
    shelf.change(Revision, state="assembled")


def is_sent(shelf: Shelf) -> None:
    shelf.add_delivery(now())


def has_just_come(shelf: Shelf) -> None:
    shelf.change(Study, last_received_at=now())


def is_of_another_node(shelf: Shelf) -> None:
    shelf.change(Instance, path="node-2/ab/cd.dcm")


@pytest.mark.parametrize("happens", [wait_for_more, walk, is_sent, has_just_come, is_of_another_node])
def test_nothing_is_taken_while_something_is_on_its_way(shelf: Shelf, happens: Callable[[Shelf], None]) -> None:
    shelf.add("1.2.1")
    happens(shelf)
    shelf.fingerprinter.make_pass()
    assert shelf.taken() == [False]


def test_an_archive_that_is_down_holds_no_hash_up(shelf: Shelf) -> None:
    shelf.add("1.2.1")
    shelf.add_delivery(now() + timedelta(minutes=15))
    shelf.fingerprinter.make_pass()
    assert shelf.taken() == [True]


def test_it_leaves_off_when_something_comes(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given many films to take, when one arrives meanwhile, then the rest waits for the next pass."""
    shelf.add("1.2.1")
    shelf.add("1.2.2")

    def take_and_receive(*arguments: Any) -> bool:
        taken = keep_fingerprint(*arguments)
        wait_for_more(shelf)
        return taken

    monkeypatch.setattr(fingerprints, "keep_fingerprint", take_and_receive)
    shelf.fingerprinter.make_pass()
    assert shelf.taken() == [True, False]


def test_what_has_no_picture_is_looked_at_once(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shelf.add("1.2.1", b"data")
    shelf.fingerprinter.make_pass()
    assert shelf.hashes() == [(digest(path), "")]
    monkeypatch.setattr(fingerprints, "take_fingerprint", lambda _path: pytest.fail("It was looked at before."))
    shelf.fingerprinter.make_pass()
    keep_fingerprint(shelf.store, shelf.spool_dir, 1)


def test_a_file_that_is_gone_is_told_once_and_holds_up_no_other(shelf: Shelf) -> None:
    shelf.add("1.2.1").unlink()
    shelf.add("1.2.2")
    with Journal().listening() as journal:
        shelf.fingerprinter.make_pass()
        shelf.fingerprinter.make_pass()
    assert (shelf.taken(), len(journal.of("fingerprint.untaken"))) == ([False, True], 1)


def test_a_file_that_was_damaged_since_keeps_the_hash_of_what_came(shelf: Shelf) -> None:
    """Given a file that a disk changed, when its picture is taken, then the bytes that came are known as before."""
    path = shelf.add("1.2.1")
    came = digest(path)
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    with Journal().listening() as journal:
        shelf.fingerprinter.make_pass()
    assert (shelf.hashes(), len(journal.of("fingerprint.damaged"))) == ([(came, "")], 1)


@pytest.mark.parametrize(
    ("error", "told"), [(StoreError("no"), "fingerprint.failed"), (ValueError(), "fingerprint.fault")]
)
def test_a_pass_that_fails_is_made_again(
    shelf: Shelf, error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(fingerprints, "EVERY_S", 0.01)
    monkeypatch.setattr(shelf.fingerprinter, "make_pass", fail)
    with Journal().listening() as journal:
        shelf.fingerprinter.start()
        journal.wait_for(told, count=2)
        shelf.fingerprinter.stop()


def test_a_report_does_not_wait_for_the_hash_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a whole node, when a film was read and committed, then its bytes have a hash, and no picture has one."""
    monkeypatch.setattr(fingerprints, "take_fingerprint", lambda _path: pytest.fail("A report waits for this."))
    film = make_film()
    with Journal().listening() as journal, Archive(tmp_path / "archive") as archive:
        settings = make_settings(tmp_path / "node", {"pacs": archive.address})
        with run_node(settings, StandIn()) as node:  # it stops only when the walk has ended
            send(node.address, [film])
            journal.wait_until(lambda: states(node.store).get(str(film.StudyInstanceUID)) == "committed")
    with contextlib.closing(open_store(settings.database_url)) as store, store.reading() as session:
        sha256, picture = session.execute(sa.select(Instance.sha256, Instance.picture_sha256)).one()
    assert (sha256 is None, picture) == (False, None)
