"""Earlier results of the same child, out of the SQL store: what velocity and change of the SD score are made from.

A patient is PatientID (0010,0020) with IssuerOfPatientID (0010,0021), verbatim. The store keeps hashes of both and of
the birth date, never their values: equality is all that is asked. Where birth date or sex of two results with the same
ID differ, one of them belongs to another child, and nothing is compared.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import sqlalchemy as sa
from pydicom import Dataset
from sqlalchemy.orm import Session

from dicom_node.store import FindingRow, ResultRow, Revision, insert_if_absent
from inference.finding import Estimate
from inference.subject import acquisition_date
from reports.clinic import Prior
from reports.header import text_of

THIS_NODE = "this node"
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
    rows = session.execute(
        sa.select(ResultRow, Revision.number)
        .join(FindingRow, FindingRow.id == ResultRow.finding_id)
        .join(Revision, Revision.id == FindingRow.revision_id)
        .where(
            ResultRow.patient_key == own.patient_key,
            ResultRow.study_id != own.study_id,
            ResultRow.acquired_on < own.acquired_on,
        )
        .order_by(ResultRow.acquired_on, Revision.number, ResultRow.id)
    ).all()
    latest: dict[int, ResultRow] = {row.study_id: row for row, _ in rows}
    if any(_clash(own, row) for row in latest.values()):
        return Priors(notes=(CLASH,))
    found = sorted(latest.values(), key=lambda row: (row.acquired_on, row.id))
    return Priors(
        tuple(
            Prior(row.acquired_on, row.chronological_age_months, row.bone_age_months, row.half_width_months, THIS_NODE)
            for row in found
        )
    )


def _clash(one: ResultRow, other: ResultRow) -> bool:
    pairs = ((one.birth_key, other.birth_key), (one.sex, other.sex))
    return any(a is not None and b is not None and a != b for a, b in pairs)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
