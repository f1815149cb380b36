"""Earlier results of the same child, out of the SQL store and of an archive: what velocity is made from.

A patient is PatientID (0010,0020) with IssuerOfPatientID (0010,0021), verbatim. The store keeps hashes of both and of
the birth date, never their values: equality is all that is asked. Where birth date or sex of two results with the same
ID differ, one of them belongs to another child, and nothing is compared.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
import structlog
from pydicom import Dataset
from sqlalchemy.orm import Session, aliased

from dicom_node.errors import DeliveryError
from dicom_node.events import record
from dicom_node.query import fetch_reports
from dicom_node.revisions import lock_revision
from dicom_node.settings import ArchivePeer, DeliverSettings, NodeSettings
from dicom_node.sources import read_source
from dicom_node.store import (
    UID_LENGTH,
    ArchiveResultRow,
    Event,
    FindingRow,
    Instance,
    ResultRow,
    Revision,
    Store,
    Study,
    insert_if_absent,
)
from inference.finding import Estimate
from inference.subject import acquisition_date
from reports.clinic import Prior
from reports.codes import PRIVATE_SCHEME
from reports.header import items_of, text_of
from reports.read_back import read_result
from reports.verify import MALFORMED

log = structlog.get_logger(__name__)

THIS_NODE, ARCHIVE = "this node", "archive"
UNASKED_EVENT = "priors-unasked"
UNASKED = "Earlier results could not be asked of the archive."
CLASH = (
    "Earlier results under this PatientID have another birth date or sex: nothing is compared. Check whose they are."
)


class Priors(NamedTuple):
    """Earlier results, the oldest first, and what is to be said of them."""

    results: tuple[Prior, ...] = ()
    notes: tuple[str, ...] = ()


def patient_key(ds: Dataset) -> str | None:
    """Return what stands for a patient in the store, 64 hex digits; None where the header has no PatientID."""
    patient_id = text_of(ds, "PatientID")
    return _hash(text_of(ds, "IssuerOfPatientID"), patient_id) if patient_id else None


def enter(session: Session, finding: FindingRow, study_id: int, ds: Dataset, estimate: Estimate) -> None:
    """Keep an estimate where later films of the same child find it.

    Without PatientID, chronological age or a date it can be compared with nothing, and is not kept here.
    """
    key, on, age = patient_key(ds), acquisition_date(ds), estimate.subject.age_months
    if key is None or on is None or age is None:
        return
    birth = text_of(ds, "PatientBirthDate")
    insert_if_absent(
        session,
        ResultRow,
        finding_id=finding.id,
        study_id=study_id,
        patient_key=key,
        birth_key=_hash(birth) if birth else None,
        sex=None if estimate.subject.sex is None else estimate.subject.sex.value,
        acquired_on=on,
        chronological_age_months=age,
        bone_age_months=estimate.age_months,
        half_width_months=(estimate.interval_high_months - estimate.interval_low_months) / 2,
    )


def earlier(session: Session, finding: FindingRow) -> Priors:
    """Return the results of the same patient in other studies, acquired before: of each study its latest revision's."""
    own = session.scalars(sa.select(ResultRow).where(ResultRow.finding_id == finding.id)).one_or_none()
    if own is None:
        return Priors()
    again = aliased(FindingRow)
    rows = session.execute(
        sa.select(ResultRow, Revision.number, Study.study_instance_uid)
        .join(FindingRow, FindingRow.id == ResultRow.finding_id)
        .join(Revision, Revision.id == FindingRow.revision_id)
        .join(Study, Study.id == ResultRow.study_id)
        .where(
            ResultRow.patient_key == own.patient_key,
            ResultRow.study_id != own.study_id,
            ResultRow.acquired_on < own.acquired_on,
            FindingRow.interpreted_at <= finding.interpreted_at,  # so that composing again says the same
            ~sa.exists().where(  # a film that was read again, be it to a refusal, counts as it was read last
                again.instance_id == FindingRow.instance_id,
                again.id > FindingRow.id,
                again.interpreted_at <= finding.interpreted_at,
            ),
        )
        .order_by(ResultRow.acquired_on, Revision.number, ResultRow.id)
    ).all()
    latest: dict[str, ResultRow | ArchiveResultRow] = {}
    query = sa.select(ArchiveResultRow).where(
        ArchiveResultRow.patient_key == own.patient_key, ArchiveResultRow.acquired_on < own.acquired_on
    )
    for kept in session.scalars(query.order_by(ArchiveResultRow.written_at, ArchiveResultRow.id)):
        latest[kept.study_instance_uid] = kept
    latest.update((uid, row) for row, _number, uid in rows)  # what this node made is nearer than a copy of it
    notes = (UNASKED,) if _was_unasked(session, finding) else ()
    if any(_clash(own, row) for row in latest.values()):
        return Priors(notes=(CLASH, *notes))
    found = sorted(latest.values(), key=lambda row: (row.acquired_on, row.id))
    return Priors(tuple(_prior(row) for row in found), notes)


def _prior(row: ResultRow | ArchiveResultRow) -> Prior:
    source = THIS_NODE if isinstance(row, ResultRow) else ARCHIVE
    ages = (row.chronological_age_months, row.bone_age_months)
    return Prior(row.acquired_on, *ages, row.half_width_months, source)


def _was_unasked(session: Session, finding: FindingRow) -> bool:
    number, study_id = session.execute(
        sa.select(Revision.number, Revision.study_id).where(Revision.id == finding.revision_id)
    ).one()
    query = sa.select(Event.id).where(Event.kind == UNASKED_EVENT, Event.study_id == study_id, Event.revision == number)
    return session.scalars(query.limit(1)).one_or_none() is not None


class Seeker:
    """Fetches earlier reports from an archive, before a report is composed.

    Parameters
    ----------
    store
        The SQL store.
    spool_dir
        Where the received files lie.
    archive
        Whom to ask.
    node, timeouts
        As whom, and how long to wait.
    """

    def __init__(
        self, store: Store, *, spool_dir: Path, archive: ArchivePeer, node: NodeSettings, timeouts: DeliverSettings
    ) -> None:
        self._store = store
        self._spool_dir = spool_dir
        self._archive = archive
        self._node = node
        self._timeouts = timeouts

    def seek(self, finding_id: int) -> None:
        """Keep what the archive has of the patient of one finding. An archive that cannot be asked stops nothing.

        Raises
        ------
        StoreError
            The database failed.
        """
        with self._store.reading() as session:
            finding = session.get_one(FindingRow, finding_id)
            own = session.scalars(sa.select(ResultRow.id).where(ResultRow.finding_id == finding_id)).one_or_none()
            instance = session.get_one(Instance, finding.instance_id)
            revision_id = finding.revision_id
        if own is None:  # nothing that could be compared
            return
        source = read_source(self._spool_dir, instance)
        try:
            reports = fetch_reports(
                self._archive, self._node, self._timeouts, text_of(source, "PatientID"), str(source.StudyInstanceUID)
            )
        except DeliveryError as error:
            log.warning("priors.unasked", peer=self._archive.name, code=error.code)
            with self._store.session() as session:
                study, revision = lock_revision(session, revision_id)
                record(
                    session,
                    self._node.id,
                    UNASKED_EVENT,
                    study,
                    revision=revision.number,
                    peer=self._archive.name,
                    detail=error.code,
                )
            return
        key = patient_key(source)
        with self._store.session() as session:
            for report in reports:
                if _is_ours(report) and patient_key(report) == key:
                    _keep(session, report)


def _is_ours(report: Dataset) -> bool:
    """Tell whether a report declares our own concepts: other makers' ages may be of another kind."""
    schemes = items_of(report, "CodingSchemeIdentificationSequence")
    return any(text_of(item, "CodingSchemeDesignator") == PRIVATE_SCHEME for item in schemes)


def _keep(session: Session, report: Dataset) -> None:
    """Keep a report's bone age, unless it has none, or no age or date to compare it by."""
    dated = Dataset()
    dated.StudyDate = text_of(report, "StudyDate")  # its content is as old as the report, not as the film
    try:
        result = read_result(report)
    except MALFORMED as error:  # what an archive sends is not ours to mend, and must not stop this study
        log.warning("priors.unreadable", kind=type(error).__name__)
        return
    on, key = acquisition_date(dated), patient_key(report)
    uids = [text_of(report, keyword) for keyword in ("SOPInstanceUID", "StudyInstanceUID")]
    if not all(0 < len(uid) <= UID_LENGTH for uid in uids):
        return
    if result is None or result.chronological_age_months is None or on is None or key is None:
        return
    birth, sex = text_of(report, "PatientBirthDate"), text_of(report, "PatientSex")
    insert_if_absent(
        session,
        ArchiveResultRow,
        sop_instance_uid=uids[0],
        study_instance_uid=uids[1],
        patient_key=key,
        birth_key=_hash(birth) if birth else None,
        sex=sex if sex in {"M", "F"} else None,
        acquired_on=on,
        written_at=(text_of(report, "ContentDate") + text_of(report, "ContentTime"))[:32],
        chronological_age_months=result.chronological_age_months,
        bone_age_months=result.bone_age_months,
        half_width_months=result.half_width_months,
    )


def _clash(one: ResultRow, other: ResultRow | ArchiveResultRow) -> bool:
    pairs = ((one.birth_key, other.birth_key), (one.sex, other.sex))
    return any(a is not None and b is not None and a != b for a, b in pairs)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
