"""Earlier hand films that nobody has read: which are fetched, how many, and what becomes of them.

Films are headers only; a fake model reads the bone age that stands in their Patient Comments.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from conformance.department import Department, film
from conformance.films import PATIENT, make_film, write
from conformance.nodes import Journal, make_settings, run_node, send, states
from conformance.orthanc import Orthanc
from conformance.query_archive import QueryArchive
from conformance.stand_in import StandIn, estimate
from dicom_node.errors import InterpretationFailed
from dicom_node.node import Node
from dicom_node.older_films import may_be_hand
from dicom_node.priors import OLDER_FILM, Seeker
from dicom_node.query import Asking
from dicom_node.settings import ArchivePeer, ComposeSettings, DeliverSettings, NodeSettings
from dicom_node.store import ArchiveFilmRow, Document, Instance, Study, open_store
from inference.finding import Finding
from reports import codes
from reports.read_back import children, descendants, measurement_groups, named


@pytest.fixture
def department(tmp_path: Path) -> Iterator[Department]:
    store = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    yield Department(store, tmp_path, ComposeSettings())
    store.close()


def ask(department: Department, peer: ArchivePeer, films: int = 3, years: float = 25.0) -> None:
    """Seek for every finding there is, as the street does before it composes."""
    timeouts = DeliverSettings(connect_timeout_s=5, dimse_timeout_s=5)
    seeker = Seeker(
        department.store,
        spool_dir=department.folder,
        asking=Asking(peer, NodeSettings(id="node-1", data_dir=department.folder), timeouts),
        years=years,
        read=department.reader.read_aside,
        films=films,
    )
    department.before_composing = seeker.seek


def archived(ds: Dataset) -> Dataset:
    """Return a film as an archive has it."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


def earlier_ages(report: Dataset) -> list[float]:
    group = next(measurement_groups(report))
    return [float(item.MeasuredValueSequence[0].NumericValue) for item in named(group, codes.EARLIER_RESULT)]


def said(report: Dataset) -> str:
    return " | ".join(str(item.TextValue) for item in descendants(report) if item.ValueType == "TEXT")


def kinds_read(department: Department) -> dict[str, str]:
    with department.store.reading() as session:
        return dict(session.execute(sa.select(ArchiveFilmRow.sop_instance_uid, ArchiveFilmRow.kind)).all())


def test_nothing_is_fetched_unless_a_site_says_so(department: Department) -> None:
    assert ComposeSettings().priors_films == 0
    with QueryArchive([archived(film("1.2.1", "20240101", 110.0))]) as archive:
        ask(department, archive.peer, films=ComposeSettings().priors_films)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == []
    assert archive.retrieved == []


def test_an_earlier_film_becomes_an_earlier_result_and_nothing_else(department: Department) -> None:
    """Given a film in the archive, when a later one is read, then it is compared with, said so, and never a study."""
    with QueryArchive([archived(film("1.2.1", "20240101", 110.0, BodyPartExamined="HAND"))]) as archive:
        ask(department, archive.peer)
        report = department.read(film("1.2.2", "20250101", 125.0))
    assert earlier_ages(report) == [110.0]
    (item,) = named(next(measurement_groups(report)), codes.EARLIER_RESULT)
    assert [child.TextValue for child in children(item) if child.ValueType == "TEXT"] == [f"2024-01-01, {OLDER_FILM}"]
    assert "Since 2024-01-01 (bone age then 9 y 2 mo): +15.0 (+/- 17.0)" in said(report)
    assert kinds_read(department) == {"1.2.1.1.1": "estimate"}
    with department.store.reading() as session:
        assert session.scalars(sa.select(Study.study_instance_uid)).all() == ["1.2.2"]
        assert session.scalars(sa.select(Instance.sop_instance_uid)).all() == ["1.2.2.1.1"]
        assert len(session.scalars(sa.select(Document.id)).all()) == 1


def test_no_more_are_fetched_than_allowed_and_the_latest_first(department: Department) -> None:
    films = [archived(film(f"1.2.{year}", f"{year}0101", year - 1900)) for year in (2021, 2024, 2022, 2023)]
    with QueryArchive(films) as archive:
        ask(department, archive.peer, films=2)
        assert earlier_ages(department.read(film("1.2.9", "20250101", 125.0))) == [123.0, 124.0]
    assert archive.retrieved == ["1.2.2024.1.1", "1.2.2023.1.1"]


def test_a_film_from_before_the_time_looked_back_is_not_fetched(department: Department) -> None:
    with QueryArchive([archived(film("1.2.1", "20220101", 90.0))]) as archive:
        ask(department, archive.peer, years=2)
        department.read(film("1.2.2", "20250101", 125.0))
    assert archive.retrieved == []


def test_a_study_with_a_report_is_not_read_again(department: Department, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    store = open_store(f"sqlite:///{tmp_path / 'elsewhere' / 'node.db'}")
    report = Department(store, tmp_path / "elsewhere", ComposeSettings()).read(film("1.2.1", "20240101", 108.0))
    store.close()
    with QueryArchive([report, archived(film("1.2.1", "20240101", 110.0))]) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == [108.0]
        assert earlier_ages(department.read(film("1.2.3", "20250201", 125.0))) == [108.0, 125.0]
    assert set(archive.retrieved) == {str(report.SOPInstanceUID)}


def test_a_report_that_comes_later_counts_instead_of_the_own_reading(department: Department, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    store = open_store(f"sqlite:///{tmp_path / 'elsewhere' / 'node.db'}")
    report = Department(store, tmp_path / "elsewhere", ComposeSettings()).read(film("1.2.1", "20240101", 108.0))
    store.close()
    with QueryArchive([archived(film("1.2.1", "20240101", 110.0))]) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == [110.0]
        archive.objects.append(report)
        assert earlier_ages(department.read(film("1.2.3", "20250201", 125.0))) == [108.0, 125.0]


@pytest.mark.parametrize("age", [110.0, None], ids=["read", "refused"])
def test_a_study_that_this_node_has_read_is_not_fetched(department: Department, age: float | None) -> None:
    department.read(film("1.2.1", "20240101", age))
    with QueryArchive([archived(film("1.2.1", "20240101", 117.0))]) as archive:
        ask(department, archive.peer)
        department.read(film("1.2.2", "20250101", 125.0))
    assert archive.retrieved == []


@pytest.mark.parametrize(("age", "kind"), [(110.0, "estimate"), (None, "refusal")])
def test_a_film_is_read_once(department: Department, age: float | None, kind: str) -> None:
    """Given an earlier film, read or refused, when two later films are read, then it was fetched for the first only."""
    expected = [] if age is None else [age]
    with QueryArchive([archived(film("1.2.1", "20240101", age))]) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == expected
        assert earlier_ages(department.read(film("1.2.3", "20250201", 126.0))) == [*expected, 125.0]
    assert archive.retrieved == ["1.2.1.1.1"]
    assert kinds_read(department) == {"1.2.1.1.1": kind}


def test_another_issuers_film_is_not_taken(department: Department) -> None:
    with QueryArchive([archived(film("1.2.1", "20240101", 110.0, IssuerOfPatientID="ELSEWHERE"))]) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == []
    assert kinds_read(department) == {}


def test_a_film_of_another_birth_date_stops_the_comparison(department: Department) -> None:
    with QueryArchive([archived(film("1.2.1", "20240101", 110.0, PatientBirthDate="20130101"))]) as archive:
        ask(department, archive.peer)
        report = department.read(film("1.2.2", "20250101", 125.0))
    assert earlier_ages(report) == []
    assert "another birth date or sex" in said(report)


def test_a_film_that_cannot_be_read_stops_nothing(department: Department, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_ds: Dataset) -> tuple[Finding, str]:
        raise InterpretationFailed("The interpreter raised.")

    monkeypatch.setattr(department.reader, "read_aside", fail)
    with QueryArchive([archived(film("1.2.1", "20240101", 110.0))]) as archive:
        ask(department, archive.peer)
        report = department.read(film("1.2.2", "20250101", 125.0))
    assert earlier_ages(report) == []
    assert "could not be asked" not in said(report)
    assert archive.retrieved == ["1.2.1.1.1"]


@pytest.mark.parametrize(
    ("part", "series", "study", "may_be"),
    [
        ("HAND", "", "", True),
        ("", "Handwurzel dp", "", True),
        ("", "", "XR BONE AGE", True),
        ("", "左手", "", True),
        ("", "", "", True),
        ("CHEST", "", "", False),
        ("", "pa", "Thorax", False),
        ("FOOT", "left", "", False),
    ],
)
def test_what_an_archive_calls_something_else_is_not_fetched(part: str, series: str, study: str, may_be: bool) -> None:
    one, other = Dataset(), Dataset()
    one.StudyDescription, other.BodyPartExamined, other.SeriesDescription = study, part, series
    assert may_be_hand(one, other) is may_be


def test_a_chest_is_not_fetched(department: Department) -> None:
    with QueryArchive([archived(film("1.2.1", "20240101", 110.0, BodyPartExamined="CHEST"))]) as archive:
        ask(department, archive.peer)
        department.read(film("1.2.2", "20250101", 125.0))
    assert archive.retrieved == []


def report_of(node: Node) -> Dataset:
    with node.store.reading() as session:
        path = session.scalars(sa.select(Document.path).where(Document.kind == "sr")).one()
    return dcmread(node.settings.documents_dir / path)


@pytest.mark.parametrize("retrieve", ["move", "auto"])
def test_a_whole_node_reads_an_earlier_film_and_sends_nothing_of_it(tmp_path: Path, retrieve: str) -> None:
    """Given an archive with an earlier film, when a film is sent, then its report alone comes, and compares both."""
    older = dcmread(BytesIO(write(make_film(StudyDate="20220917", AcquisitionDate="20220917"))))
    one = make_film()
    with Journal().listening() as journal, QueryArchive([older], moves=True) as archive:
        peers = {"pacs": {"commitment": False, "retrieve": retrieve}}
        compose = {"priors_from": "pacs", "priors_films": 2}
        settings = make_settings(tmp_path / "node", {"pacs": archive.address}, peers=peers, compose=compose)
        with run_node(settings, StandIn()) as node:
            archive.destination = node.address
            send(node.address, [one])
            journal.wait_for("sent", count=2)
            assert earlier_ages(report_of(node)) == [pytest.approx(estimate(older).age_months, abs=0.06)]
            assert set(states(node.store)) == {str(one.StudyInstanceUID)}
        assert [path for path in settings.spool_dir.rglob("*.dcm") if older.SOPInstanceUID in path.name] == []
        assert len(list(settings.spool_dir.rglob("*.dcm"))) == 1
    assert archive.retrieved == [str(older.SOPInstanceUID)]
    assert {str(ds.StudyInstanceUID) for ds in archive.stored} == {str(one.StudyInstanceUID)}
    assert all(value not in str(journal.events) for value in PATIENT.values())


@pytest.mark.peer("orthanc")
@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_orthanc_has_an_earlier_film(tmp_path: Path, retrieve: str) -> None:
    older, one = make_film(StudyDate="20220917", AcquisitionDate="20220917"), make_film()
    with Journal().listening() as journal, Orthanc(tmp_path / "orthanc") as orthanc:
        orthanc.put(write(older))
        settings = make_settings(
            tmp_path / "node",
            {"pacs": ("127.0.0.1", orthanc.dicom_port)},
            peers={"pacs": {"ae_title": orthanc.ae_title, "commitment": False, "retrieve": retrieve}},
            compose={"priors_from": "pacs", "priors_films": 1},
            deliver={"dimse_timeout_s": 30.0},
        )
        with run_node(settings, StandIn()) as node:
            orthanc.register("BONEAGE", node.address[1])
            send(node.address, [one])
            journal.wait_for("sent", count=2)
            assert earlier_ages(report_of(node)) == [pytest.approx(estimate(older).age_months, abs=0.06)]
            assert set(states(node.store)) == {str(one.StudyInstanceUID)}
        assert orthanc.count("Instance") == 3
