"""Earlier results of the same child: who counts as the same, what is compared, and what stops a comparison.

Films are headers only; a fake model reads the bone age that stands in their Patient Comments.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset

from conformance.department import Department, film
from dicom_node.settings import ComposeSettings
from dicom_node.store import ResultRow, open_store
from reports import codes
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
    assert "Since 2024-01-01: +15.0 (+/- 17.0) months of bone age a year" in said(report)


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
    assert [child.ValueType for child in children(height)] == ["TEXT", "TEXT"]
