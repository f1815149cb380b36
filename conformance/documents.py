"""Documents in a ledger, without the street that makes them: for tests of delivery alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.revisions import RevisionState, Scope
from dicom_node.settings import ArchivePeer
from dicom_node.store import Document, FindingRow, Instance, Revision, Series, Store, Study, now
from reports.identity import SOP_CLASSES, Kind


def enter_documents(
    store: Store, folder: Path, archives: Iterable[ArchivePeer], kinds: tuple[Kind, ...] = ("sr", "sc")
) -> tuple[str, int]:
    """Make a study with one composed revision and its ledger; return its Study Instance UID and the revision's id."""
    uid, at = str(generate_uid()), now()
    with store.session() as session:
        study = Study(
            study_instance_uid=uid, state=RevisionState.ASSEMBLED, revision=1, first_received_at=at, last_received_at=at
        )
        session.add(study)
        session.flush()
        series = Series(study_id=study.id, series_instance_uid=str(generate_uid()), modality="DX")
        revision = Revision(
            study_id=study.id,
            number=1,
            scope=Scope.NEW,
            state=RevisionState.COMPOSED,
            assembled_at=at,
            updated_at=at,
        )
        session.add_all([series, revision])
        session.flush()
        finding = _enter_finding(session, series, revision)
        for kind in kinds:
            session.add(_write(folder, uid, kind, finding))
        session.flush()
        ledger.enter(session, revision, archives)
        return uid, revision.id


def _enter_finding(session: Session, series: Series, revision: Revision) -> FindingRow:
    at = now()
    instance = Instance(
        series_id=series.id,
        study_id=series.study_id,
        sop_instance_uid=str(generate_uid()),
        sop_class_uid=str(DigitalXRayImageStorageForPresentation),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        path="none",
        size_bytes=0,
        received_at=at,
        calling_ae="SENDER",
        association_id="none",
        revision=1,
    )
    session.add(instance)
    session.flush()
    finding = FindingRow(
        instance_id=instance.id, revision_id=revision.id, kind="estimate", body="{}", interpreted_at=at
    )
    session.add(finding)
    session.flush()
    return finding


def _write(folder: Path, study_instance_uid: str, kind: Kind, finding: FindingRow) -> Document:
    """Write a file with nothing in it but what identifies it; return its row."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASSES[kind], generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_instance_uid, generate_uid()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    dcmwrite(path, ds, enforce_file_format=True)
    return Document(
        finding_id=finding.id,
        revision_id=finding.revision_id,
        kind=kind,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        path=path.name,
        created_at=now(),
        verified_at=now(),
    )
