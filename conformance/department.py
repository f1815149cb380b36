"""A department of one: films of headers only, read by a model that knows the answer, composed by the real composer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from sqlalchemy.orm import Session

from dicom_node.compose import Composer
from dicom_node.interpret import Reader
from dicom_node.settings import ComposeSettings, NodeSettings
from dicom_node.store import Document, FindingRow, Instance, Revision, Series, Store, Study, now
from inference.finding import Box, Estimate, Finding, Laterality, ModelIdentity, Refusal, RefusalCode
from inference.subject import read_subject


class Model:
    """Reads what the header says the answer is."""

    identity = ModelIdentity("house", "House", "1", "ab" * 32)

    def interpret(self, ds: Dataset) -> Finding:
        """Return the bone age in Patient Comments; a refusal where there is none."""
        subject, hand = read_subject(ds), Box(2.0, 2.0, 30.0, 30.0)
        if not ds.get("PatientComments"):
            return Refusal(RefusalCode.POOR_IMAGE, "Too dark.", "Send another.", subject, model=self.identity)
        age = float(ds.PatientComments)
        return Estimate(age, age - 12, age + 12, 0.9, subject, Laterality.LEFT, hand, (), 1, 0.9, (), self.identity)


def film(study: str, on: str, bone_age: float | None, **header: str) -> Dataset:
    """Return a film of one study, acquired on a day (YYYYMMDD), whose bone age is given in months; None: refused."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, f"{study}.1.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
    ds.Modality, ds.PatientID, ds.IssuerOfPatientID = "CR", "P1", "HOSPITAL"
    ds.PatientBirthDate, ds.PatientSex, ds.StudyDate = "20140101", "M", on
    ds.PatientComments = "" if bone_age is None else str(bone_age)
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
        self.before_composing: Callable[[int], None] | None = None
        node = NodeSettings(id="node-1", data_dir=folder)
        self.reader = Reader(store, folder, Model(), node.id)
        self.composer = Composer(
            store, spool_dir=folder, documents_dir=folder / "documents", settings=settings, node=node
        )

    def receive(self, ds: Dataset) -> None:
        """Put a film into the spool; its study and series are made at the first."""
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

    def _series(self, session: Session, study: Study, ds: Dataset) -> int:
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
        if self.before_composing is not None:
            self.before_composing(finding)
        self.composer.compose(finding, "sr")
        with self.store.session() as session:
            path = session.scalars(sa.select(Document.path).where(Document.revision_id == revision_id)).one()
        return dcmread(self.folder / "documents" / path)
