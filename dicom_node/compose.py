"""Compose: each finding becomes documents on disk, read back and verified before any of them may leave.

The row comes first and fixes the UIDs and the time of creation, then the file: a repeated composition writes the same
document under the same name.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
import structlog
from pydicom import Dataset, dcmread, dcmwrite
from sqlalchemy.orm import Session

from dicom_node.errors import CompositionFailed, DocumentRejected, DocumentUnwritten
from dicom_node.events import record
from dicom_node.findings import finding_from_json
from dicom_node.priors import Priors, earlier
from dicom_node.revisions import lock_revision
from dicom_node.settings import ComposeSettings, NodeSettings
from dicom_node.sources import read_source
from dicom_node.spool import sync_folder
from dicom_node.store import Document, FindingRow, Instance, Revision, Store, insert_if_absent, now
from dicom_node.worklist import Size, ordered, size_of
from inference.errors import FilmError
from inference.film import display_bytes, read_film
from inference.finding import Estimate, Finding
from inference.subject import acquisition_date
from reports import kinds
from reports.clinic import Assessment, ClinicSettings, Height, assess
from reports.errors import InapplicableKind, ReportError
from reports.identity import KINDS, SOP_CLASSES, DocumentIdentity, Kind, Predecessor, device_uid, document_uids
from reports.key_objects import Capture
from reports.kinds import Choices
from reports.verify import verify

log = structlog.get_logger(__name__)

BY_DEFAULT: tuple[Kind, ...] = ("sr", "sc")


class _Task(NamedTuple):
    """One document to write, and all that it is made of."""

    document: Document
    kind: Kind
    finding: FindingRow
    instance: Instance
    revision: Revision
    priors: Priors
    ordered: tuple[Size, str | None]  # what the order said of the size, and why it could not be asked
    predecessor: Predecessor | None
    capture: Capture | None


class Composer:
    """Writes the documents of findings.

    Parameters
    ----------
    store
        The SQL store.
    spool_dir, documents_dir
        Where the sources lie, and where documents go.
    settings
        Series numbers and how final the report is.
    node
        Who writes.
    """

    def __init__(
        self, store: Store, *, spool_dir: Path, documents_dir: Path, settings: ComposeSettings, node: NodeSettings
    ) -> None:
        self._store = store
        self._spool_dir = spool_dir
        self._documents_dir = documents_dir
        self._settings = settings
        self._node = node
        self._software_version = version("boneage-node")

    def compose(self, finding_id: int, kind: Kind) -> None:
        """Write one document of one finding and verify it, unless that is done or there is none of its kind.

        Raises
        ------
        CompositionFailed
            The document cannot be made from this source.
        DocumentRejected
            It does not say what it should once it is read back.
        DocumentUnwritten
            The disk failed or is full.
        SpoolFileMissing
            The source is not in the spool.
        SourceCutOff
            It ends before its data does.
        StoreError
            The database failed.
        """
        task = self._enter(finding_id, kind)
        document = task.document
        path = self._documents_dir / document.path
        if document.verified_at is not None and (document.purged_at is not None or path.is_file()):
            return
        finding = finding_from_json(task.finding.body)
        source = read_source(self._spool_dir, task.instance)
        made = self._make(source, finding, task)
        if made is None:
            return
        _write_durably(path, made)
        _verify(path, source, finding)
        self._mark_verified(document, task.revision)

    def _assess(self, source: Dataset, finding: Finding, task: _Task) -> Assessment | None:
        """Say what an estimate means beside references and earlier results."""
        if not isinstance(finding, Estimate):
            return None
        settings = self._settings
        parents = settings.parents_cm
        midparent = None if parents is None else sum(parents) / 2
        clinic = ClinicSettings(settings.reference, settings.normal_sd, settings.adult_height, midparent)
        stated, (ordered, unasked) = size_of(source), task.ordered
        height = Height.HEADER if stated.metres else Height.ORDER
        metres, kilograms = stated.metres or ordered.metres, stated.kilograms or ordered.kilograms
        assessment = assess(
            finding,
            settings=clinic,
            height_cm=metres * 100 if metres else None,
            height_source=height,
            weight_kg=kilograms,
            priors=task.priors.results,
            on=acquisition_date(source),
        )
        notes = (*assessment.notes, *task.priors.notes, *([] if unasked is None else [unasked]))
        return dataclasses.replace(assessment, notes=notes)

    def _enter(self, finding_id: int, kind: Kind) -> _Task:
        """Return the document's row, made at the first call, and all that it is made of."""
        with self._store.session() as session:
            row = session.get_one(FindingRow, finding_id)
            instance = session.get_one(Instance, row.instance_id)
            revision = session.get_one(Revision, row.revision_id)
            model = finding_from_json(row.body).model
            series_uid, sop_uid = document_uids(instance.sop_instance_uid, model, kind, revision.number)
            insert_if_absent(
                session,
                Document,
                finding_id=row.id,
                revision_id=revision.id,
                kind=kind,
                sop_class_uid=SOP_CLASSES[kind],
                sop_instance_uid=sop_uid,
                series_instance_uid=series_uid,
                path=f"{sop_uid[-2:]}/{sop_uid}.dcm",
                created_at=now(),
            )
            of_finding = sa.select(Document).where(Document.finding_id == row.id, Document.kind == kind)
            settings = self._settings
            found = earlier(session, row, years=settings.priors_years) if settings.priors else Priors()
            document = session.scalars(of_finding).one()
            before = _predecessor(session, document, instance, revision)
            size = ordered(session, row)
            return _Task(document, kind, row, instance, revision, found, size, before, _capture(session, row))

    def _make(self, source: Dataset, finding: Finding, task: _Task) -> Dataset | None:
        """Return the document; None where there is none of its kind of such an image, which is no fault."""
        document, settings = task.document, self._settings
        try:
            choices = Choices(
                preliminary=settings.preliminary,
                assessment=self._assess(source, finding, task),
                language=settings.language,
                name_patient=settings.name_patient,
                capture=task.capture,
            )
            identity, display = self._identify(task), partial(_display, source)
            return kinds.compose(task.kind, source, finding, identity, display=display, choices=choices)
        except InapplicableKind as error:
            log.info(
                "compose.inapplicable",
                kind=task.kind,
                sop_instance_uid=task.instance.sop_instance_uid,
                reason=str(error),
            )
            return None
        except ReportError as error:
            raise CompositionFailed(f"The document {document.sop_instance_uid} cannot be made: {error}") from error
        except Exception as error:
            # The boundary to the report library, which raises whatever a strange header leads it to.
            kind = type(error).__name__
            raise CompositionFailed(f"Making the document {document.sop_instance_uid} raised {kind}.") from error

    def _identify(self, task: _Task) -> DocumentIdentity:
        document = task.document
        return DocumentIdentity(
            sop_instance_uid=document.sop_instance_uid,
            series_instance_uid=document.series_instance_uid,
            series_number=self._settings.series_number(task.kind),
            instance_number=1,
            created_at=_local(document.created_at),
            device_uid=device_uid(self._node.id),
            station_name=self._node.station_name,
            software_version=self._software_version,
            revision=task.revision.number,
            predecessor=task.predecessor,
        )

    def _mark_verified(self, document: Document, revision: Revision) -> None:
        with self._store.session() as session:
            study, _ = lock_revision(session, revision.id)
            session.get_one(Document, document.id).verified_at = now()
            uid, number = document.sop_instance_uid, revision.number
            record(
                session, self._node.id, "composed", study, revision=number, sop_instance_uid=uid, detail=document.kind
            )


def _capture(session: Session, finding: FindingRow) -> Capture | None:
    """Return the secondary capture of a finding, where it was written."""
    query = sa.select(Document).where(
        Document.finding_id == finding.id, Document.kind == "sc", Document.verified_at.is_not(None)
    )
    found = session.scalars(query).one_or_none()
    return None if found is None else Capture(found.series_instance_uid, found.sop_instance_uid)


def _predecessor(session: Session, document: Document, instance: Instance, revision: Revision) -> Predecessor | None:
    """Return the latest verified document of that kind that an earlier revision made of the same image."""
    before = session.scalars(
        sa.select(Document)
        .join(FindingRow, FindingRow.id == Document.finding_id)
        .join(Revision, Revision.id == Document.revision_id)
        .where(
            FindingRow.instance_id == instance.id,
            Document.kind == document.kind,
            Document.verified_at.is_not(None),
            Revision.number < revision.number,
        )
        .order_by(Revision.number.desc())
        .limit(1)
    ).one_or_none()
    if before is None:
        return None
    return Predecessor(before.sop_class_uid, before.sop_instance_uid, before.series_instance_uid)


def _display(source: Dataset) -> npt.NDArray[np.uint8] | None:
    """Return the film as people see it, shape (rows, columns); None where it cannot be decoded."""
    try:
        return display_bytes(read_film(source))
    except FilmError:
        return None


def _local(at: datetime) -> datetime:
    return at.astimezone()


def _write_durably(path: Path, document: Dataset) -> None:
    """Write a file so that it is whole and on disk when its name appears."""
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            dcmwrite(file, document, enforce_file_format=True)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        raise DocumentUnwritten(f"The document {path.stem} was not written: {why}.") from error


def _verify(path: Path, source: Dataset, finding: Finding) -> None:
    try:
        verify(dcmread(path), source, finding)
    except ReportError as error:
        raise DocumentRejected(f"The document {path.stem} must not leave: {error}") from error


def kinds_wanted(deliver: Sequence[Sequence[Kind]]) -> tuple[Kind, ...]:
    """Return the kinds that some archive takes; SR and capture where no archive is configured: they are kept here."""
    wanted = {kind for kinds in deliver for kind in kinds} if deliver else set(BY_DEFAULT)
    return tuple(kind for kind in KINDS if kind in wanted)
