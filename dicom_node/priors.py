"""Earlier results of the same child, out of the SQL store and of an archive: what velocity is made from.

A patient is PatientID (0010,0020) with IssuerOfPatientID (0010,0021), verbatim. The store keeps hashes of both and of
the birth date, never their values: equality is all that is asked. Where birth date or sex of two results with the same
ID differ, one of them belongs to another child, and nothing is compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date, timedelta
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog
from pydicom import Dataset
from sqlalchemy.orm import Session, aliased

from dicom_node.errors import DeliveryError
from dicom_node.events import record
from dicom_node.findings import finding_columns
from dicom_node.older_films import Known, Read, ReadFilm, read_older_films
from dicom_node.query import Asking, Wanted, fetch_reports
from dicom_node.requestor import Patience
from dicom_node.revisions import lock_revision
from dicom_node.sources import read_source
from dicom_node.store import (
    UID_LENGTH,
    ArchiveFilmRow,
    ArchivePriorRow,
    ArchiveResultRow,
    FindingRow,
    Instance,
    PriorsAskedRow,
    ResultRow,
    Revision,
    Store,
    Study,
    insert_if_absent,
    now,
)
from inference.finding import Estimate
from inference.subject import acquisition_date
from reports.clinic import Prior
from reports.codes import PRIVATE_SCHEME
from reports.header import items_of, text_of
from reports.read_back import read_image, read_refusal, read_result
from reports.verify import MALFORMED

log = structlog.get_logger(__name__)

DAYS_PER_YEAR = 365.2425
DAYS_PER_WEEK, MONTHS_PER_YEAR = 7.0, 12.0
THIS_NODE, ARCHIVE, OLDER_FILM = "this node", "archive", "film of the archive, read by this node"
UNASKED_EVENT = "priors-unasked"
UNASKED = "Earlier results could not be asked of the archive."
CLASH = (
    "Earlier results under this PatientID have another birth date or sex: nothing is compared. Check whose they are."
)

_Known = ResultRow | ArchiveResultRow


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
    columns = _comparable(ds, estimate)
    if columns is not None:
        insert_if_absent(session, ResultRow, finding_id=finding.id, study_id=study_id, **columns)


def _comparable(ds: Dataset, estimate: Estimate) -> dict[str, Any] | None:
    """Return the columns by which a bone age is compared; None without PatientID, chronological age or a date."""
    key, on, age = patient_key(ds), acquisition_date(ds), estimate.subject.age_months
    if key is None or on is None or age is None:
        return None
    return {
        "patient_key": key,
        "birth_key": _birth_key(ds),
        "sex": None if estimate.subject.sex is None else estimate.subject.sex.value,
        "acquired_on": on,
        "chronological_age_months": age,
        "bone_age_months": estimate.age_months,
        "half_width_months": (estimate.interval_high_months - estimate.interval_low_months) / 2,
    }


def earlier(session: Session, finding: FindingRow, *, years: float) -> Priors:
    """Return the results of the same patient in other studies, acquired before: of each study its latest.

    The same for a finding whenever it is asked: what was read, and what an archive was asked, after it does not count.

    Parameters
    ----------
    years
        How far back.
    """
    own = session.scalars(sa.select(ResultRow).where(ResultRow.finding_id == finding.id)).one_or_none()
    if own is None:
        return Priors()
    since = earliest_day(own.acquired_on, years)
    latest: dict[str, _Known] = {row.study_instance_uid: row for row in _of_archive(session, finding, own, since)}
    latest.update(_of_this_node(session, finding, own, since))  # nearer than a copy of it
    notes = () if _was_answered(session, finding) else (UNASKED,)
    if any(_clash(own, row) for row in latest.values()):
        return Priors(notes=(CLASH, *notes))
    found = sorted(latest.values(), key=lambda row: (row.acquired_on, row.id))
    return Priors(tuple(prior for prior in map(_prior, found) if prior is not None), notes)


def earliest_day(on: date, years: float) -> date:
    """Return the day so many years before another."""
    return on - timedelta(days=min(ceil(years * DAYS_PER_YEAR), (on - date.min).days))


def _of_this_node(session: Session, finding: FindingRow, own: ResultRow, since: date) -> dict[str, _Known]:
    """Return what this node read, by study. A film that was read again, be it to a refusal, counts as read last."""
    again = aliased(FindingRow)
    rows = session.execute(
        sa.select(Study.study_instance_uid, ResultRow)
        .join(FindingRow, FindingRow.id == ResultRow.finding_id)
        .join(Revision, Revision.id == FindingRow.revision_id)
        .join(Study, Study.id == ResultRow.study_id)
        .where(
            ResultRow.patient_key == own.patient_key,
            ResultRow.study_id != own.study_id,
            ResultRow.acquired_on.between(since, own.acquired_on - timedelta(days=1)),
            FindingRow.interpreted_at <= finding.interpreted_at,
            ~sa.exists().where(
                again.instance_id == FindingRow.instance_id,
                again.id > FindingRow.id,
                again.interpreted_at <= finding.interpreted_at,
            ),
        )
        .order_by(ResultRow.acquired_on, Revision.number, ResultRow.id)
    ).all()
    return {uid: row for uid, row in rows}  # noqa: C416 - dict() of rows has no type


def _of_archive(session: Session, finding: FindingRow, own: ResultRow, since: date) -> list[ArchiveResultRow]:
    """Return what an archive had when it was asked for this finding, in the order it was written.

    Of each image the latest counts, be it a refusal; of an image that this node has read itself, none.
    """
    rows = session.scalars(
        sa.select(ArchiveResultRow)
        .join(ArchivePriorRow, ArchivePriorRow.archive_result_id == ArchiveResultRow.id)
        .where(
            ArchivePriorRow.finding_id == finding.id,
            ArchiveResultRow.acquired_on.between(since, own.acquired_on - timedelta(days=1)),
            ~sa.exists().where(
                Instance.sop_instance_uid == ArchiveResultRow.image_uid,
                FindingRow.instance_id == Instance.id,
                FindingRow.interpreted_at <= finding.interpreted_at,
            ),
        )
        .order_by(ArchiveResultRow.written_at, ArchiveResultRow.id)
    )
    by_image = {row.image_uid or row.sop_instance_uid: row for row in rows}
    comparable = [row for row in by_image.values() if row.bone_age_months is not None]
    return sorted(comparable, key=lambda row: (row.written_at, row.id))


def _prior(row: _Known) -> Prior | None:
    age, bone_age = row.chronological_age_months, row.bone_age_months
    if age is None or bone_age is None:
        return None
    return Prior(row.acquired_on, age, bone_age, row.half_width_months, _source(row), _age_span_months(row, age))


def _age_span_months(row: _Known, age_months: float) -> float:
    """Return the span that an earlier chronological age leaves open: none where it was counted from a birth date.

    The unit of a stated age is not kept: twelve months may be meant where the age is one of whole years.
    """
    if row.birth_key is not None:
        return 0.0
    if not age_months.is_integer():
        return DAYS_PER_WEEK * MONTHS_PER_YEAR / DAYS_PER_YEAR
    return 1.0 if age_months % MONTHS_PER_YEAR else MONTHS_PER_YEAR


def _source(row: _Known) -> str:
    if isinstance(row, ResultRow):
        return THIS_NODE
    return OLDER_FILM if row.image_uid == row.sop_instance_uid else ARCHIVE


def _was_answered(session: Session, finding: FindingRow) -> bool:
    """Tell whether the archive answered; True where none was asked."""
    asked = sa.select(PriorsAskedRow.answered).where(PriorsAskedRow.finding_id == finding.id)
    return session.scalars(asked).one_or_none() is not False


class _Heard(NamedTuple):
    """What an archive had, and why not all of it could be asked."""

    reports: Sequence[Dataset]
    films: Sequence[ReadFilm]
    problem: DeliveryError | None


class Seeker:
    """Fetches earlier reports from an archive, before a report is composed.

    Parameters
    ----------
    store
        The SQL store.
    spool_dir
        Where the received files lie.
    asking
        Whom to ask, as whom, and how long to wait.
    years
        How far back.
    read, films
        What reads earlier films that have no result, and how many at most for one finding.
    """

    def __init__(
        self,
        store: Store,
        *,
        spool_dir: Path,
        asking: Asking,
        years: float,
        read: Read | None = None,
        films: int = 0,
    ) -> None:
        self._store = store
        self._spool_dir = spool_dir
        self._asking = asking
        self._years = years
        self._read = read
        self._films = films
        self._patience = Patience("archive")

    def seek(self, finding_id: int) -> None:
        """Keep what the archive has of the patient of one finding. An archive that cannot be asked stops nothing.

        It is asked once for each finding, so that all its documents, also those composed again, say the same.

        Raises
        ------
        SpoolFileMissing
            The film is not in the spool.
        SourceCutOff
            It ends before its data does.
        StoreError
            The database failed.
        """
        with self._store.reading() as session:
            finding = session.get_one(FindingRow, finding_id)
            own = session.scalars(sa.select(ResultRow).where(ResultRow.finding_id == finding_id)).one_or_none()
            asked = sa.select(PriorsAskedRow.id).where(PriorsAskedRow.finding_id == finding_id)
            if own is None or session.scalars(asked).one_or_none() is not None:
                return  # nothing that could be compared, or done
            instance = session.get_one(Instance, finding.instance_id)
        source = read_source(self._spool_dir, instance)
        heard = self._ask(source, own)
        with self._store.session() as session:
            answered = heard.problem is None
            if not insert_if_absent(session, PriorsAskedRow, finding_id=finding_id, answered=answered, asked_at=now()):
                return  # another node was quicker
            for report in heard.reports:
                _keep(session, report)
            for film in heard.films:
                _keep_film(session, film)
            _freeze(session, finding_id, own.patient_key)
            if heard.problem is not None:
                self._tell(session, finding.revision_id, heard.problem)

    def _ask(self, source: Dataset, own: ResultRow) -> _Heard:
        wanted = Wanted(
            patient_id=text_of(source, "PatientID"),
            not_of_study=str(source.StudyInstanceUID),
            since=earliest_day(own.acquired_on, self._years),
            before=own.acquired_on,
        )
        reports: list[Dataset] = []
        films: list[ReadFilm] = []
        problem = None
        try:
            with self._patience.asking():
                found = fetch_reports(self._asking, wanted)
                reports = [one for one in found if _is_ours(one) and patient_key(one) == own.patient_key]
                if self._films and self._read is not None:
                    known = self._known(own.patient_key, reports)
                    read = read_older_films(self._asking, wanted, known, self._read, most=self._films)
                    films = [film for film in read if patient_key(film.header) == own.patient_key]
        except DeliveryError as error:
            log.warning("priors.unasked", peer=self._asking.archive.name, code=error.code)
            problem = error
        return _Heard(reports, films, problem)

    def _known(self, key: str, reports: Sequence[Dataset]) -> Known:
        """Return what tells studies with a result, here or in a report, and films that were read before."""
        reported = {text_of(report, "StudyInstanceUID") for report in reports}
        image, own = ArchiveResultRow.image_uid, ArchiveResultRow.sop_instance_uid

        def has_result(uid: str) -> bool:
            of_report = sa.select(ArchiveResultRow.id).where(
                ArchiveResultRow.patient_key == key,
                ArchiveResultRow.study_instance_uid == uid,
                image.is_distinct_from(own),
            )
            here = sa.select(FindingRow.id).join(Instance, Instance.id == FindingRow.instance_id)
            here = here.join(Study, Study.id == Instance.study_id).where(Study.study_instance_uid == uid)
            return uid in reported or self._has(of_report) or self._has(here)

        def was_read(uid: str) -> bool:
            return self._has(sa.select(ArchiveFilmRow.id).where(ArchiveFilmRow.sop_instance_uid == uid))

        return Known(has_result, was_read)

    def _has(self, query: sa.Select[Any]) -> bool:
        with self._store.reading() as session:
            return session.scalars(query.limit(1)).one_or_none() is not None

    def _tell(self, session: Session, revision_id: int, problem: DeliveryError) -> None:
        study, revision = lock_revision(session, revision_id)
        number, peer, code = revision.number, self._asking.archive.name, problem.code
        record(session, self._asking.node.id, UNASKED_EVENT, study, revision=number, peer=peer, detail=code)


def _freeze(session: Session, finding_id: int, key: str) -> None:
    """Note what is known of a patient from the archive by now, as what one finding is compared with."""
    ids = sa.select(ArchiveResultRow.id).where(ArchiveResultRow.patient_key == key).order_by(ArchiveResultRow.id)
    for result_id in session.scalars(ids).all():
        insert_if_absent(session, ArchivePriorRow, finding_id=finding_id, archive_result_id=result_id)


def _keep_film(session: Session, film: ReadFilm) -> None:
    """Keep what was found on an earlier film, and its bone age where it can be compared."""
    uids = _uids(film.header)
    if uids is None:
        return
    is_new = insert_if_absent(session, ArchiveFilmRow, **uids, **finding_columns(film.finding, film.body))
    columns = _comparable(film.header, film.finding) if isinstance(film.finding, Estimate) else None
    if is_new and columns is not None:
        columns["written_at"] = ""  # any report of it is newer
        insert_if_absent(session, ArchiveResultRow, **uids, image_uid=uids["sop_instance_uid"], **columns)


def _uids(ds: Dataset) -> dict[str, str] | None:
    """Return the columns that name an object of an archive; None where they are no UIDs that could be kept."""
    uids = {"sop_instance_uid": text_of(ds, "SOPInstanceUID"), "study_instance_uid": text_of(ds, "StudyInstanceUID")}
    return uids if all(0 < len(uid) <= UID_LENGTH for uid in uids.values()) else None


def _is_ours(report: Dataset) -> bool:
    """Tell whether a report declares our own concepts: other makers' ages may be of another kind."""
    schemes = items_of(report, "CodingSchemeIdentificationSequence")
    return any(text_of(item, "CodingSchemeDesignator") == PRIVATE_SCHEME for item in schemes)


def _keep(session: Session, report: Dataset) -> None:
    """Keep what a report says of a bone age; without ages where it is a refusal, or has nothing to compare it by."""
    dated = Dataset()
    dated.StudyDate = text_of(report, "StudyDate")  # its content is as old as the report, not as the film
    try:
        result, refusal, image = read_result(report), read_refusal(report), read_image(report)
    except MALFORMED as error:  # what an archive sends is not ours to mend, and must not stop this study
        log.warning("priors.unreadable", kind=type(error).__name__)
        return
    on, key = acquisition_date(dated), patient_key(report)
    uids = _uids(report)
    if uids is None or (result is None and refusal is None) or on is None or key is None:
        return
    comparable = result if result is not None and result.chronological_age_months is not None else None
    sex = text_of(report, "PatientSex")
    insert_if_absent(
        session,
        ArchiveResultRow,
        **uids,
        image_uid=image if image is not None and len(image) <= UID_LENGTH else None,
        patient_key=key,
        birth_key=_birth_key(report),
        sex=sex if sex in {"M", "F"} else None,
        acquired_on=on,
        written_at=(text_of(report, "ContentDate") + text_of(report, "ContentTime"))[:32],
        chronological_age_months=comparable.chronological_age_months if comparable else None,
        bone_age_months=comparable.bone_age_months if comparable else None,
        half_width_months=comparable.half_width_months if comparable else None,
    )


def _clash(one: ResultRow, other: _Known) -> bool:
    pairs = ((one.birth_key, other.birth_key), (one.sex, other.sex))
    return any(a is not None and b is not None and a != b for a, b in pairs)


def _birth_key(ds: Dataset) -> str | None:
    birth = text_of(ds, "PatientBirthDate")
    return _hash(birth) if birth else None


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
