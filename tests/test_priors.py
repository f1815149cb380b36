"""Earlier results of the same child: who counts as the same, what is compared, and what stops a comparison.

Films are headers only; a fake model reads the bone age that stands in their Patient Comments.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from dicom_node.compose import Composer
from dicom_node.interpret import Reader
from dicom_node.settings import ComposeSettings, NodeSettings
from dicom_node.store import Document, FindingRow, Instance, ResultRow, Revision, Store, Study, now, open_store
from inference.finding import Box, Estimate, Laterality, ModelIdentity
from inference.subject import read_subject
from reports import codes
from reports.read_back import children, descendants, measurement_groups, named


class Model:
    """Reads what the header says the answer is."""

    identity = ModelIdentity("house", "House", "1", "ab" * 32)

    def interpret(self, ds: Dataset) -> Estimate:
        age = float(ds.PatientComments)
        subject, hand = read_subject(ds), Box(2.0, 2.0, 30.0, 30.0)
        return Estimate(age, age - 12, age + 12, 0.9, subject, Laterality.LEFT, hand, (), 1, 0.9, (), self.identity)


def film(study: str, on: str, bone_age: float, **header: str) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, f"{study}.1.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
    ds.Modality, ds.PatientID, ds.IssuerOfPatientID = "CR", "P1", "HOSPITAL"
    ds.PatientBirthDate, ds.PatientSex, ds.StudyDate = "20140101", "M", on
    ds.PatientComments = str(bone_age)
    ds.Rows = ds.Columns = 32
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 0, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = np.zeros((32, 32), np.uint16).tobytes()
    for keyword, value in header.items():
        setattr(ds, keyword, value)
    return ds


class Department:
    """The street's reader and composer over a real store and a real spool."""

    def __init__(self, store: Store, folder: Path, settings: ComposeSettings) -> None:
        self.store, self.folder = store, folder
        node = NodeSettings(id="node-1", data_dir=folder)
        self.reader = Reader(store, folder, Model(), node.id)
        self.composer = Composer(
            store, spool_dir=folder, documents_dir=folder / "documents", settings=settings, node=node
        )

    def receive(self, ds: Dataset) -> None:
        path = self.folder / f"{ds.SOPInstanceUID}.dcm"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(path, enforce_file_format=True)
        with self.store.session() as session:
            known = session.scalars(sa.select(Study).where(Study.study_instance_uid == ds.StudyInstanceUID)).first()
            if known is None:
                known = Study(
                    study_instance_uid=ds.StudyInstanceUID, state="ready", revision=0,
                    first_received_at=now(), last_received_at=now(),
                )  # fmt: skip
                session.add(known)
                session.flush()
                series = self._series(session, known, ds)
                session.add(
                    Instance(
                        series_id=series, study_id=known.id, sop_instance_uid=ds.SOPInstanceUID,
                        sop_class_uid=ds.SOPClassUID, transfer_syntax_uid=ExplicitVRLittleEndian, path=path.name,
                        size_bytes=1, received_at=now(), calling_ae="CR1", association_id="a", revision=1,
                    )
                )  # fmt: skip

    def _series(self, session: object, study: Study, ds: Dataset) -> int:
        from dicom_node.store import Series

        row = Series(study_id=study.id, series_instance_uid=ds.SeriesInstanceUID, modality="CR")
        session.add(row)
        session.flush()
        return row.id

    def read(self, ds: Dataset) -> Dataset:
        """Receive, interpret and compose one film as the next revision of its study; return the report."""
        self.receive(ds)
        with self.store.session() as session:
            study = session.scalars(sa.select(Study).where(Study.study_instance_uid == ds.StudyInstanceUID)).one()
            study.revision += 1
            revision = Revision(
                study_id=study.id, number=study.revision, scope="all", state="assembled", assembled_at=now(),
                updated_at=now(),
            )  # fmt: skip
            session.add(revision)
            session.flush()
            revision_id = revision.id
            instance = session.scalars(sa.select(Instance).where(Instance.study_id == study.id)).one().id
        self.reader.interpret(revision_id, instance)
        with self.store.session() as session:
            finding = session.scalars(sa.select(FindingRow.id).where(FindingRow.revision_id == revision_id)).one()
        self.composer.compose(finding, "sr")
        with self.store.session() as session:
            path = session.scalars(sa.select(Document.path).where(Document.revision_id == revision_id)).one()
        return dcmread(self.folder / "documents" / path)


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
