"""A whole node in one process: real associations, a stand-in for the model, the small archive.

Not covered: kill -9 (test_kill_node.py), several nodes (test_cluster.py), a real archive (test_acceptance_orthanc.py).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread
from pydicom.uid import DigitalXRayImageStorageForProcessing, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE

from conformance.films import PATIENT, make_film
from conformance.nodes import (
    NODE,
    SENDER,
    Journal,
    document_uids,
    held_uids,
    ledger,
    make_settings,
    run_node,
    send,
    states,
)
from conformance.stand_in import StandIn, estimate, refuse
from dicom_node import node as node_module
from dicom_node.archive import Archive, CallBack
from dicom_node.assemble import reprocess
from dicom_node.errors import SettingsError
from dicom_node.findings import finding_from_json
from dicom_node.node import Node
from dicom_node.settings import Settings
from dicom_node.store import Document, Event, FindingRow, Instance, Revision, now
from inference.finding import Finding
from reports.read_back import read_bone_age


@pytest.fixture
def journal() -> Iterator[Journal]:
    with Journal().listening() as journal:
        yield journal
    for value in PATIENT.values():
        assert value not in str(journal.events)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive") as archive:
        yield archive


def wait_for_state(journal: Journal, node: Node, uid: str, *wanted: str) -> None:
    journal.wait_until(lambda: states(node.store).get(str(uid)) in wanted)


def events_of(node: Node) -> list[str]:
    with node.store.reading() as session:
        return list(session.scalars(sa.select(Event.kind).order_by(Event.id)))


def test_a_film_comes_back_as_a_committed_report(
    journal: Journal, archive: Archive, tmp_path: Path, store_url: str
) -> None:
    """Given a node on either database, when a film is sent, then SR and SC are committed, and SR and SQL agree."""
    film = make_film()
    settings = make_settings(tmp_path / "node", {"pacs": archive.address}, store={"url": store_url})
    with run_node(settings, StandIn()) as node:
        assert send(node.address, [film]) == [0x0000]
        wait_for_state(journal, node, film.StudyInstanceUID, "committed", "failed")
        assert [entry.state for entry in ledger(node.store, film.StudyInstanceUID)] == ["committed"] * 2
        assert held_uids(archive) == document_uids(node.store)
        with node.store.reading() as session:
            age_months = session.scalars(sa.select(FindingRow.age_months)).one()
            report = session.scalars(sa.select(Document).where(Document.kind == "sr")).one()
        held = {item.sop_instance_uid: item for item in archive.objects(str(film.StudyInstanceUID))}
        assert len(held) == 2
        assert read_bone_age(dcmread(held[report.sop_instance_uid].path)) == pytest.approx(age_months, abs=0.051)
        assert events_of(node) == [
            "node-started", "received", "assembled", "estimated", "interpreted", "composed", "composed",
            "entered-ledger", "sent", "sent", "committed", "committed",
        ]  # fmt: skip


def test_a_report_on_an_association_of_the_archive_commits(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    film = make_film()
    with run_node(make_settings(tmp_path / "node", {"pacs": archive.address}), StandIn()) as node:
        archive.call_back = CallBack(*node.address, "BONEAGE")
        send(node.address, [film])
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")


def test_a_refusal_reaches_the_archive(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    film = make_film()
    with run_node(make_settings(tmp_path / "node", {"pacs": archive.address}), StandIn(refuse)) as node:
        send(node.address, [film])
        wait_for_state(journal, node, film.StudyInstanceUID, "committed", "failed")
        assert states(node.store) == {str(film.StudyInstanceUID): "committed"}
        assert len(archive.objects()) == 2
        with node.store.reading() as session:
            row = session.scalars(sa.select(FindingRow)).one()
    assert (row.kind, row.refusal_code, row.age_months) == ("refusal", "not-a-hand", None)
    assert finding_from_json(row.body).model == StandIn.identity


def test_a_document_that_an_archive_sends_back_is_not_read(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    """Given an archive that sends all that it gets, when it sends a capture here, then it is taken and goes no further.

    Read as a film it would be refused in a report and another capture, and so on without end.
    """
    film, other = make_film(), make_film()
    with run_node(make_settings(tmp_path / "node", {"pacs": archive.address}), StandIn()) as node:
        send(node.address, [film])
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")
        documents = [dcmread(path) for path in node.settings.documents_dir.rglob("*.dcm")]
        (capture,) = [ds for ds in documents if ds.SOPClassUID == SecondaryCaptureImageStorage]
        assert send(node.address, [capture]) == [0x0000]
        assert [event["sop_instance_uid"] for event in journal.of("receive.own-document")] == [capture.SOPInstanceUID]
        send(node.address, [other])
        wait_for_state(journal, node, other.StudyInstanceUID, "committed")
        assert len(archive.objects()) == 4
        assert len(list(node.settings.spool_dir.rglob("*.dcm"))) == 2


def test_an_interpreter_that_raises_sets_its_film_aside_and_no_other(
    journal: Journal, archive: Archive, tmp_path: Path
) -> None:
    """Given a study of two films, when the interpreter raises on one, then the other arrives and a person is told."""
    study = generate_uid()
    films = [make_film(StudyInstanceUID=study, InstanceNumber=number) for number in (1, 2)]

    def raise_on_second(ds: Dataset) -> Finding:
        if ds.InstanceNumber == 2:
            raise RuntimeError(f"about {ds.PatientName}")
        return estimate(ds)

    settings = make_settings(tmp_path / "node", {"pacs": archive.address}, assemble={"quiet_period_s": 0.5})
    with run_node(settings, StandIn(raise_on_second)) as node:
        send(node.address, films)
        journal.wait_for("committed", count=2)
        wait_for_state(journal, node, study, "failed")
        with node.store.reading() as session:
            revision = session.scalars(sa.select(Revision)).one()
        assert revision.error_code == "interpretation-failed"
        assert "PatientName" not in (revision.error or "")
        assert str(films[1].SOPInstanceUID) in (revision.error or "")
        assert len(archive.objects()) == 2


def test_a_film_that_comes_later_makes_a_new_revision(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    study = generate_uid()
    first, second = (make_film(StudyInstanceUID=study) for _ in range(2))
    with run_node(make_settings(tmp_path / "node", {"pacs": archive.address}), StandIn()) as node:
        send(node.address, [first])
        wait_for_state(journal, node, study, "committed")
        send(node.address, [second])
        journal.wait_for("committed", count=4)
        wait_for_state(journal, node, study, "committed")
        assert len(archive.objects()) == 4
        assert set(archive.receipts.values()) == {1}
        with node.store.reading() as session:
            query = sa.select(Instance.sop_instance_uid, Revision.number).join(
                FindingRow, FindingRow.instance_id == Instance.id
            )
            found = dict(session.execute(query.join(Revision, Revision.id == FindingRow.revision_id)).all())
    assert found == {str(first.SOPInstanceUID): 1, str(second.SOPInstanceUID): 2}


def test_the_same_film_again_is_not_a_second_study(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    film = make_film()
    with run_node(make_settings(tmp_path / "node", {"pacs": archive.address}), StandIn()) as node:
        send(node.address, [film])
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")
        assert send(node.address, [film]) == [0x0000]
        journal.wait_for("duplicate")
        assert states(node.store) == {str(film.StudyInstanceUID): "committed"}
        film.PatientComments = "other bytes"
        assert send(node.address, [film]) == [0x0111]
        assert len(archive.objects()) == 2


def test_a_film_whose_header_was_corrected_is_read_again(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    film, interpreter = make_film(PatientSex="M"), StandIn()
    with run_node(make_settings(tmp_path / "node", {"pacs": archive.address}), interpreter) as node:
        send(node.address, [film])
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")
        film.PatientSex, film.PatientID = "F", "MERGED"
        assert send(node.address, [film]) == [0x0000]
        journal.wait_for("committed", count=4)
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")
        assert interpreter.calls == 2
        held = [dcmread(item.path) for item in archive.objects()]
        assert sorted((ds.PatientID, ds.PatientSex) for ds in held)[:2] == [("MERGED", "F")] * 2
        assert len(held) == 4


def test_a_study_read_again_has_new_documents(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    film, interpreter = make_film(), StandIn()
    with run_node(make_settings(tmp_path / "node", {"pacs": archive.address}), interpreter) as node:
        send(node.address, [film])
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")
        walk = reprocess(node.store, str(film.StudyInstanceUID), "node-1")
        assert walk.number == 2
        journal.wait_for("committed", count=4)
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")
        assert interpreter.calls == 2
        assert len(archive.objects()) == 4


def test_a_whole_study_does_not_wait_for_its_quiet_period(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    study = generate_uid()
    films = [make_film(StudyInstanceUID=study) for _ in range(3)]
    settings = make_settings(
        tmp_path / "node",
        {"pacs": archive.address},
        assemble={"quiet_period_s": 3600.0},
        peers={"modality": {"whole_study_per_association": True}},
    )
    with run_node(settings, StandIn()) as node:
        send(node.address, films)
        wait_for_state(journal, node, study, "committed")
        assert len(journal.of("assembled")) == 1
        assert len(archive.objects()) == 6


def test_half_a_study_waits_for_the_rest_where_its_association_broke(
    journal: Journal, archive: Archive, tmp_path: Path
) -> None:
    study = generate_uid()
    first, second = (make_film(StudyInstanceUID=study) for _ in range(2))
    settings = make_settings(
        tmp_path / "node",
        {"pacs": archive.address},
        assemble={"quiet_period_s": 3600.0},
        peers={"modality": {"whole_study_per_association": True}},
    )
    with run_node(settings, StandIn()) as node:
        ae = AE(SENDER)
        ae.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
        assoc = ae.associate(*node.address, ae_title=NODE)
        assert assoc.send_c_store(first).Status == 0x0000
        assoc.abort()
        journal.wait_for("receive.association-ended")
        send(node.address, [second])
        wait_for_state(journal, node, study, "committed")
        assert len(journal.of("assembled")) == 1


def test_dx_for_processing_is_taken_and_answered(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    film = make_film(SOPClassUID=DigitalXRayImageStorageForProcessing, PresentationIntentType="FOR PROCESSING")
    with run_node(make_settings(tmp_path / "node", {"pacs": archive.address}), StandIn(refuse)) as node:
        send(node.address, [film])
        wait_for_state(journal, node, film.StudyInstanceUID, "committed", "failed")
        assert states(node.store) == {str(film.StudyInstanceUID): "committed"}


def test_without_an_archive_the_documents_are_kept(journal: Journal, tmp_path: Path) -> None:
    film = make_film()
    settings = make_settings(tmp_path / "node")
    with run_node(settings, StandIn()) as node:
        send(node.address, [film])
        wait_for_state(journal, node, film.StudyInstanceUID, "kept")
        assert len(list(settings.documents_dir.rglob("*.dcm"))) == 2


def test_an_archive_that_comes_up_later_gets_everything(journal: Journal, tmp_path: Path) -> None:
    """Given an archive that is down, when it comes up, then the study is delivered without a hand."""
    archive = Archive(tmp_path / "archive")
    archive.start()
    address = archive.address
    archive.stop()
    film = make_film()
    with run_node(make_settings(tmp_path / "node", {"pacs": address}), StandIn()) as node:
        send(node.address, [film])
        journal.wait_for("retried", count=4)
        with Archive(tmp_path / "archive", port=address[1]):
            wait_for_state(journal, node, film.StudyInstanceUID, "committed")


@pytest.mark.parametrize("content", [None, b"no DICOM object"])
def test_a_document_that_is_lost_before_it_is_sent_is_composed_again(
    journal: Journal, tmp_path: Path, content: bytes | None
) -> None:
    """Given an archive that is down, when a document of its is lost or damaged, then it gets what was written."""
    film = make_film()
    with Archive(tmp_path / "archive") as down:
        address = down.address
    settings = make_settings(tmp_path / "node", {"pacs": address})
    with run_node(settings, StandIn()) as node:
        send(node.address, [film])
        journal.wait_for("retried")
        before = {path: path.read_bytes() for path in settings.documents_dir.rglob("*.dcm")}
        for path in before:
            path.unlink()
            if content is not None:
                path.write_bytes(content)
        with Archive(tmp_path / "archive", port=address[1]):
            wait_for_state(journal, node, film.StudyInstanceUID, "committed", "failed")
        assert states(node.store) == {str(film.StudyInstanceUID): "committed"}
    assert {path: path.read_bytes() for path in before} == before


def test_two_archives_are_served_apart(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    """Given two archives, one of them down, then the other has the study committed all the same."""
    down = Archive(tmp_path / "down")
    down.start()
    address = down.address
    down.stop()
    film = make_film()
    with run_node(make_settings(tmp_path / "node", {"down": address, "up": archive.address}), StandIn()) as node:
        send(node.address, [film])
        journal.wait_for("committed", count=2)
        entries = {(entry.peer, entry.state) for entry in ledger(node.store, film.StudyInstanceUID)}
        assert entries == {("down", "composed"), ("up", "committed")}


def test_a_repeated_composition_writes_the_same_bytes(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    """Given written documents, when one is lost from the disk and composed again, then it is what it was."""
    film = make_film()
    settings = make_settings(tmp_path / "node", {"pacs": archive.address})
    with run_node(settings, StandIn()) as node:
        send(node.address, [film])
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")
        composer = node._street._composer
        with node.store.reading() as session:
            documents = session.scalars(sa.select(Document)).all()
        for document in documents:
            path = settings.documents_dir / document.path
            before = path.read_bytes()
            path.unlink()
            composer.compose(document.finding_id, document.kind)
            assert path.read_bytes() == before


def test_a_node_can_stop_and_start_in_one_process(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "node", {"pacs": archive.address}, assemble={"quiet_period_s": 1.0})
    film = make_film()
    with run_node(settings, StandIn()) as node:
        send(node.address, [film])
    with run_node(settings, StandIn()) as node:
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")


def test_files_without_a_row_are_swept_at_the_start(journal: Journal, tmp_path: Path) -> None:
    """Given a file that a crash left without its row, when the node starts, then it is removed, and no other."""
    settings = make_settings(tmp_path / "node", assemble={"quiet_period_s": 3600.0})
    film = make_film()
    with run_node(settings, StandIn()) as node:
        send(node.address, [film])
        (kept,) = settings.spool_dir.rglob("*.dcm")
    orphan = kept.with_name("0" * 32 + ".dcm")
    orphan.write_bytes(b"left behind")
    with run_node(settings, StandIn()):
        assert kept.exists()
        assert not orphan.exists()


def test_a_running_node_removes_old_files_without_a_row(journal: Journal, tmp_path: Path) -> None:
    """Given what objects left that a broken store refused, then a running node removes it, and nothing young."""
    with run_node(make_settings(tmp_path / "node"), StandIn()) as node:
        send(node.address, [make_film()])
        (kept,) = node.settings.spool_dir.rglob("*.dcm")
        old, young = kept.with_name("0" * 32 + ".dcm"), kept.with_name("1" * 32 + ".dcm")
        for path in (kept, old, young):
            path.touch()
        for path in (kept, old):
            os.utime(path, (0.0, 0.0))
        node._sweep()
        assert (kept.exists(), old.exists(), young.exists()) == (True, False, True)


def test_a_database_that_films_do_not_belong_to_costs_no_film(journal: Journal, tmp_path: Path) -> None:
    """Given a node that is pointed at another database, when it starts, then it says so, and its spool stays."""
    settings = make_settings(tmp_path / "node", assemble={"quiet_period_s": 3600.0})
    with run_node(settings, StandIn()) as node:
        send(node.address, [make_film()])
    other = f"sqlite:///{tmp_path / 'other.db'}"
    moved = make_settings(tmp_path / "node", store={"url": other})
    for _ in range(2):
        with (
            pytest.raises(SettingsError, match=r"never seen node-1, but .* holds films.*another data_dir"),
            run_node(moved, StandIn()),
        ):
            pass
    assert len(list(settings.spool_dir.rglob("*.dcm"))) == 1
    with run_node(settings, StandIn()):
        assert len(list(settings.spool_dir.rglob("*.dcm"))) == 1


def test_the_engine_forgets_what_has_ended_and_nothing_is_done_twice(
    journal: Journal, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a study that is committed, when its workflows are forgotten, then nothing of it is left or done again."""
    settings = make_settings(tmp_path / "node", {"pacs": archive.address})
    film, interpreter = make_film(), StandIn()
    with run_node(settings, interpreter) as node:
        send(node.address, [film])
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")
        before = events_of(node)
    assert engine_rows(settings)["operation_outputs"] > 0
    with run_node(settings, interpreter) as node:
        node._tidy()
        assert engine_rows(settings)["operation_outputs"] > 0  # of today
        monkeypatch.setattr(node_module, "FORGOTTEN_AFTER", timedelta(0))
        node._tidy()
        node._dispatcher.make_pass(now())
        assert events_of(node)[: len(before)] == before
        assert set(events_of(node)[len(before) :]) <= {"node-started", "node-stopped"}
    assert set(engine_rows(settings).values()) == {0}
    assert interpreter.calls == 1


def engine_rows(settings: Settings) -> dict[str, int]:
    """Return how many rows the engine's tables of workflows have."""
    tables = ("workflow_status", "workflow_input", "workflow_output", "operation_outputs")
    with contextlib.closing(sqlite3.connect(settings.node.data_dir / "workflows.db")) as connection:
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def test_work_whose_workflow_was_lost_is_found_again(journal: Journal, archive: Archive, tmp_path: Path) -> None:
    """Given an engine that lost its memory, when the node starts, then the study walks all the same."""
    settings = make_settings(tmp_path / "node", {"pacs": archive.address}, assemble={"quiet_period_s": 1.0})
    film = make_film()
    with run_node(settings, StandIn()) as node:
        send(node.address, [film])
    for file in settings.node.data_dir.glob("workflows.db*"):
        file.unlink()
    with run_node(settings, StandIn()) as node:
        wait_for_state(journal, node, film.StudyInstanceUID, "committed")
