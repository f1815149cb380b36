"""Earlier results of the same child: who counts as the same, what is compared, and what stops a comparison.

Films are headers only; a fake model reads the bone age that stands in their Patient Comments.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import DataElement, dcmread
from pydicom.dataset import Dataset
from pynetdicom.sop_class import Comprehensive3DSRStorage

from conformance.department import Department, film
from conformance.films import make_film
from conformance.nodes import Journal, make_settings, run_node, send
from conformance.query_archive import QueryArchive
from conformance.stand_in import StandIn
from dicom_node import priors, requestor
from dicom_node.archive import Archive
from dicom_node.errors import PeerUnreachable
from dicom_node.priors import Seeker, earliest_day
from dicom_node.query import Asking, Wanted
from dicom_node.settings import ArchivePeer, ComposeSettings, DeliverSettings, NodeSettings
from dicom_node.store import Document, FindingRow, ResultRow, open_store
from reports import codes
from reports.document import encoded
from reports.read_back import children, descendants, measurement_groups, named


@pytest.fixture
def department(tmp_path: Path) -> Iterator[Department]:
    store = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    yield Department(store, tmp_path, ComposeSettings())
    store.close()


def earlier_ages(report: Dataset) -> list[float]:
    group = next(measurement_groups(report))
    return [float(item.MeasuredValueSequence[0].NumericValue) for item in named(group, codes.EARLIER_RESULT)]


def velocity(report: Dataset) -> float | None:
    found = list(named(next(measurement_groups(report)), codes.VELOCITY))
    return float(found[0].MeasuredValueSequence[0].NumericValue) if found else None


def said(report: Dataset) -> str:
    return " | ".join(str(item.TextValue) for item in descendants(report) if item.ValueType == "TEXT")


def test_a_second_film_shows_the_first_and_the_velocity(department: Department) -> None:
    assert earlier_ages(department.read(film("1.2.1", "20240101", 110.0))) == []
    report = department.read(film("1.2.2", "20250101", 125.0))
    assert earlier_ages(report) == [110.0]
    assert velocity(report) == pytest.approx(15.0, abs=0.06)
    assert "Since 2024-01-01 (bone age then 9 y 2 mo): +15.0 (+/- 17.0) months of bone age a year, change" in said(
        report
    )


@pytest.mark.parametrize(
    "other",
    [{"PatientID": "P2"}, {"IssuerOfPatientID": "ELSEWHERE"}, {"PatientID": "p1"}],
    ids=["another-id", "another-issuer", "another-spelling"],
)
def test_another_patient_is_not_compared(department: Department, other: dict[str, str]) -> None:
    department.read(film("1.2.1", "20240101", 110.0, **other))
    report = department.read(film("1.2.2", "20250101", 125.0))
    assert earlier_ages(report) == []
    assert "Earlier results" not in said(report)


@pytest.mark.parametrize("clash", [{"PatientBirthDate": "20130101"}, {"PatientSex": "F"}])
def test_a_clash_stops_the_comparison_and_is_said(department: Department, clash: dict[str, str]) -> None:
    department.read(film("1.2.1", "20240101", 110.0, **clash))
    report = department.read(film("1.2.2", "20250101", 125.0))
    assert earlier_ages(report) == []
    assert "another birth date or sex" in said(report)


@pytest.mark.parametrize("clash", [{"PatientBirthDate": "20130101"}, {"PatientSex": "M"}], ids=["birth-date", "sex"])
def test_a_clash_is_said_in_what_an_archive_gets(tmp_path: Path, clash: dict[str, str]) -> None:
    """Given a node and an archive, when two films of one PatientID clash, then the second report compares nothing."""
    first = make_film(StudyDate="20220917", AcquisitionDate="20220917", **clash)
    second, third = make_film(), make_film(AcquisitionDate="20251001", PatientID="ANOTHER")
    with (
        Journal().listening() as journal,
        Archive(tmp_path / "archive") as archive,
        run_node(make_settings(tmp_path / "node", {"pacs": archive.address}), StandIn()) as node,
    ):
        for count, one in enumerate((first, second, third), 1):
            assert send(node.address, [one]) == [0x0000]
            journal.wait_for("committed", count=2 * count)
        held = [dcmread(item.path) for item in archive.objects()]
    reports = {str(ds.StudyInstanceUID): ds for ds in held if ds.SOPClassUID == Comprehensive3DSRStorage}
    alone, clashing, other = (reports[str(one.StudyInstanceUID)] for one in (first, second, third))
    assert "Check whose they are." in said(clashing)
    assert earlier_ages(clashing) == []
    assert velocity(clashing) is None
    assert "Since" not in said(clashing)
    assert all("Check whose they are." not in said(one) for one in (alone, other))


def test_ages_in_whole_years_are_compared_by_days(department: Department) -> None:
    """Given "009Y" and "010Y" on films a year and a half apart, then the velocity is that of a year and a half."""
    header = {"PatientBirthDate": "", "PatientAge": "009Y"}
    department.read(film("1.2.1", "20240101", 110.0, **header))
    report = department.read(film("1.2.2", "20250701", 128.0, **header | {"PatientAge": "010Y"}))
    assert earlier_ages(report) == [110.0]
    assert velocity(report) == pytest.approx(12.0)
    assert "The change of the SD score is not known" in said(report)


def test_an_earlier_age_in_whole_years_is_not_taken_for_an_exact_one(department: Department) -> None:
    """Given "009Y" first and a birth date later, then the time between is counted by days, and no score's change."""
    department.read(film("1.2.1", "20240101", 110.0, PatientBirthDate="", PatientAge="009Y"))
    report = department.read(film("1.2.2", "20250701", 128.0))
    assert velocity(report) == pytest.approx(12.0)
    assert "The change of the SD score is not known" in said(report)


def test_without_an_id_nothing_is_compared(department: Department) -> None:
    department.read(film("1.2.1", "20240101", 110.0, PatientID=""))
    assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0, PatientID=""))) == []


def test_later_films_are_no_earlier_results(department: Department) -> None:
    department.read(film("1.2.1", "20260101", 140.0))
    assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == []


def test_of_a_study_that_was_read_twice_the_latest_counts_once(department: Department) -> None:
    first = film("1.2.1", "20240101", 110.0)
    department.read(first)
    again = film("1.2.1", "20240101", 114.0)

    department.read(again)
    assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == [114.0]


def test_a_later_refusal_of_the_same_film_takes_its_result_back(department: Department) -> None:
    department.read(film("1.2.1", "20240101", 110.0))
    department.read(film("1.2.1", "20240101", None))
    report = department.read(film("1.2.2", "20250101", 125.0))
    assert earlier_ages(report) == []
    assert velocity(report) is None


def test_a_refusal_after_a_report_does_not_change_it(department: Department) -> None:
    """Given a report that names an earlier result, when that film is refused later, then composing says the same."""
    department.read(film("1.2.1", "20240101", 110.0))
    report = department.read(film("1.2.2", "20250101", 125.0))
    department.read(film("1.2.1", "20240101", None))
    assert compose_again(department, report) == encoded(report)


def test_what_is_older_than_a_site_looks_back_does_not_count(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    department = Department(store, tmp_path, ComposeSettings(priors_years=2.0))
    department.read(film("1.2.1", "20221231", 95.0))
    department.read(film("1.2.2", "20230102", 98.0))
    assert earlier_ages(department.read(film("1.2.3", "20250101", 125.0))) == [98.0]
    store.close()


def test_a_clash_before_the_time_looked_back_stops_nothing(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    department = Department(store, tmp_path, ComposeSettings(priors_years=2.0))
    department.read(film("1.2.1", "20210101", 95.0, PatientSex="F"))
    assert "another birth date or sex" not in said(department.read(film("1.2.3", "20250101", 125.0)))
    store.close()


def test_the_earliest_day_is_never_before_the_calendar() -> None:
    assert earliest_day(date(2025, 1, 1), 2.0) == date(2023, 1, 1)
    assert earliest_day(date(5, 1, 1), 25.0) == date.min


def test_a_site_may_do_without(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    department = Department(store, tmp_path, ComposeSettings(priors=False))
    department.read(film("1.2.1", "20240101", 110.0))
    assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == []
    store.close()


def test_a_revision_names_its_predecessor(department: Department) -> None:
    first = department.read(film("1.2.1", "20240101", 110.0))
    second = department.read(film("1.2.1", "20240101", 112.0))
    assert "PredecessorDocumentsSequence" not in first
    (study,) = second.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (reference,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == "1.2.1"
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (
        first.SOPClassUID,
        first.SOPInstanceUID,
    )


def test_the_store_holds_no_id_and_no_birth_date(department: Department) -> None:
    department.read(film("1.2.1", "20240101", 110.0))
    with department.store.session() as session:
        row = session.scalars(sa.select(ResultRow)).one()
        assert len(row.patient_key) == len(row.birth_key) == 64
        values = " ".join(str(getattr(row, column.key)) for column in ResultRow.__table__.columns)
    assert "P1" not in values
    assert "2014" not in values


def test_a_height_in_the_header_becomes_an_adult_height(department: Department) -> None:
    report = department.read(film("1.2.1", "20240101", 120.0, PatientSize="1.40"))
    (height,) = named(next(measurement_groups(report)), codes.ADULT_HEIGHT)
    assert height.MeasuredValueSequence[0].NumericValue == pytest.approx(140 / 0.784, abs=0.06)
    assert [child.ValueType for child in children(height)] == ["NUM", "NUM", "TEXT", "TEXT", "TEXT"]


def compose_again(department: Department, report: Dataset) -> bytes:
    """Lose a report's file, compose it again, and return it as it would be sent."""
    with department.store.session() as session:
        query = sa.select(Document).where(Document.sop_instance_uid == report.SOPInstanceUID)
        document = session.scalars(query).one()
    path = department.folder / "documents" / document.path
    path.unlink()
    department.composer.compose(document.finding_id, "sr")
    return encoded(dcmread(path))


# An archive that is asked.


def ask(department: Department, peer: ArchivePeer) -> None:
    """Seek for every finding there is, as the street does before it composes."""
    seeker = Seeker(
        department.store,
        spool_dir=department.folder,
        asking=Asking(
            peer,
            NodeSettings(id="node-1", data_dir=department.folder),
            DeliverSettings(connect_timeout_s=5, dimse_timeout_s=5),
        ),
        years=25,
    )
    department.before_composing = seeker.seek


@pytest.fixture
def elsewhere(tmp_path: Path) -> Dataset:
    """A report that another node made of an earlier film."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    store = open_store(f"sqlite:///{folder / 'node.db'}")
    report = Department(store, folder, ComposeSettings()).read(film("1.2.1", "20240101", 110.0))
    store.close()
    return report


def test_an_archives_reports_are_earlier_results(department: Department, elsewhere: Dataset) -> None:
    with QueryArchive([elsewhere]) as archive:
        ask(department, archive.peer)
        report = department.read(film("1.2.2", "20250101", 125.0))
    assert earlier_ages(report) == [110.0]
    assert velocity(report) == pytest.approx(15.0, abs=0.06)
    assert "(+/- 17.0)" in said(report)


def test_what_this_node_made_counts_once(department: Department) -> None:
    first = department.read(film("1.2.1", "20240101", 110.0))
    with QueryArchive([first]) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == [110.0]


def test_another_issuers_patient_is_not_taken(department: Department, elsewhere: Dataset) -> None:
    elsewhere.IssuerOfPatientID = "ANOTHER"
    with QueryArchive([elsewhere]) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == []


def test_a_clash_in_the_archive_is_said(department: Department, elsewhere: Dataset) -> None:
    elsewhere.PatientBirthDate = "20130101"
    with QueryArchive([elsewhere]) as archive:
        ask(department, archive.peer)
        report = department.read(film("1.2.2", "20250101", 125.0))
    assert earlier_ages(report) == []
    assert "another birth date or sex" in said(report)


@pytest.mark.parametrize("down", [True, False], ids=["down", "without-c-get"])
def test_an_archive_that_cannot_be_asked_stops_nothing(department: Department, elsewhere: Dataset, down: bool) -> None:
    with QueryArchive([elsewhere], gets=False) as archive:
        peer = archive.peer.model_copy(update={"port": 1}) if down else archive.peer
        ask(department, peer)
        report = department.read(film("1.2.2", "20250101", 125.0))
    assert earlier_ages(report) == []
    assert "Earlier results could not be asked of the archive." in said(report)


@pytest.mark.parametrize(("waited_s", "asked"), [(10.0, 1), (1.0, 3)])
def test_an_archive_that_keeps_films_waiting_is_spared_for_a_while(
    department: Department, monkeypatch: pytest.MonkeyPatch, waited_s: float, asked: int
) -> None:
    """Given an archive that hangs, when films come, then one a minute waits for it; one that is down costs no time."""
    clock, calls = [100.0], []

    def hang(*_: object) -> list[Dataset]:
        calls.append(clock[0])
        clock[0] += waited_s
        raise PeerUnreachable("silence")

    monkeypatch.setattr(requestor, "monotonic", lambda: clock[0])
    monkeypatch.setattr(priors, "fetch_reports", hang)
    ask(department, ArchivePeer(kind="archive", name="pacs", ae_title="A", host="127.0.0.1", port=1))
    reports = [department.read(film(f"1.2.{number}", f"2025010{number}", 125.0)) for number in (1, 2, 3)]
    assert len(calls) == asked
    assert all("Earlier results could not be asked of the archive." in said(report) for report in reports)
    clock[0] += requestor.SPARED_S
    department.read(film("1.2.4", "20250104", 125.0))
    assert len(calls) == asked + 1


@pytest.mark.parametrize("fails", ["find", "get"])
def test_an_archive_that_answers_with_a_failure_has_not_been_asked(
    department: Department, elsewhere: Dataset, fails: str
) -> None:
    with QueryArchive([elsewhere], fails=fails) as archive:
        ask(department, archive.peer)
        report = department.read(film("1.2.2", "20250101", 125.0))
    assert "Earlier results could not be asked of the archive." in said(report)


def test_a_broken_report_of_the_archive_stops_nothing(department: Department, elsewhere: Dataset) -> None:
    (age,) = named(next(measurement_groups(elsewhere)), codes.BONE_AGE)
    del age.MeasuredValueSequence[0].FloatingPointValue
    age.MeasuredValueSequence[0].NumericValue = None
    age.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = []
    with QueryArchive([elsewhere]) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == []


def test_another_makers_report_is_passed_over(department: Department, elsewhere: Dataset) -> None:
    del elsewhere.CodingSchemeIdentificationSequence
    elsewhere.SeriesDescription = ""
    with QueryArchive([elsewhere]) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == []


def write_elsewhere(folder: Path, *films: Dataset) -> list[Dataset]:
    """Return the reports that another node made of films, one after the other."""
    folder.mkdir()
    store = open_store(f"sqlite:///{folder / 'node.db'}")
    department = Department(store, folder, ComposeSettings())
    reports = [department.read(one) for one in films]
    store.close()
    return reports


def test_what_an_archive_learns_later_does_not_change_a_report(
    department: Department, elsewhere: Dataset, tmp_path: Path
) -> None:
    """Given a report with an archive's result, when the archive has one more, then composing again changes no byte."""
    (more,) = write_elsewhere(tmp_path / "more", film("1.2.9", "20240601", 117.0))
    with QueryArchive([elsewhere]) as archive:
        ask(department, archive.peer)
        report = department.read(film("1.2.2", "20250101", 125.0))
        archive.objects.append(more)
        assert earlier_ages(department.read(film("1.2.3", "20250201", 126.0))) == [110.0, 117.0, 125.0]
        with department.store.reading() as session:
            finding = session.scalars(sa.select(FindingRow.id).order_by(FindingRow.id)).first()
        department.before_composing(finding)  # the walk is walked again
    assert earlier_ages(report) == [110.0]
    assert compose_again(department, report) == encoded(report)


def test_an_archive_that_comes_back_does_not_change_a_report(department: Department, elsewhere: Dataset) -> None:
    with QueryArchive([elsewhere]) as archive:
        ask(department, archive.peer.model_copy(update={"port": 1}))
        report = department.read(film("1.2.2", "20250101", 125.0))
        ask(department, archive.peer)
        with department.store.reading() as session:
            finding = session.scalars(sa.select(FindingRow.id)).one()
        department.before_composing(finding)
    assert compose_again(department, report) == encoded(report)
    assert "could not be asked" in said(report)


def test_a_refusal_in_the_archive_takes_the_report_before_it_back(department: Department, tmp_path: Path) -> None:
    films = [film("1.2.1", "20240101", age) for age in (110.0, None)]
    with QueryArchive(write_elsewhere(tmp_path / "more", *films)) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == []


def test_a_refusal_of_another_image_takes_nothing_back(department: Department, tmp_path: Path) -> None:
    films = [film("1.2.1", "20240101", age) for age in (110.0, None)]
    estimate, refusal = write_elsewhere(tmp_path / "more", *films)
    for item in descendants(refusal):
        if item.ValueType == "IMAGE":
            item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.1.1.2"
    with QueryArchive([estimate, refusal]) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == [110.0]


def test_a_copy_of_what_this_node_has_taken_back_does_not_count(department: Department) -> None:
    first = department.read(film("1.2.1", "20240101", 110.0))
    department.read(film("1.2.1", "20240101", None))
    with QueryArchive([first]) as archive:
        ask(department, archive.peer)
        assert earlier_ages(department.read(film("1.2.2", "20250101", 125.0))) == []


@pytest.mark.parametrize(
    ("answer", "holds"),
    [
        ({}, True),
        ({"StudyDate": "20230101"}, True),
        ({"StudyDate": "20221231"}, False),
        ({"StudyDate": "20250101"}, False),
        ({"StudyDate": "in May"}, True),
        ({"PatientID": "P12"}, False),
        ({"StudyInstanceUID": "1.2.2"}, False),
        ({"StudyInstanceUID": ""}, False),
    ],
)
def test_only_earlier_studies_of_the_patient_are_asked_for(answer: dict[str, str], holds: bool) -> None:
    study = Dataset()
    values = {"StudyInstanceUID": "1.2.1", "PatientID": "P1", **answer}
    for keyword, value in values.items():
        element = DataElement(keyword, "LO", value) if keyword == "StudyDate" else None
        setattr(study, keyword, value) if element is None else study.add(element)
    assert Wanted("P1", "1.2.2", date(2023, 1, 1), date(2025, 1, 1)).holds(study) is holds
