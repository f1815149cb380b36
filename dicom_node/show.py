"""``show STUDY``: everything the store knows of one study, in the order of the street."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from sqlalchemy.orm import Session

from dicom_node.cli import DONE
from dicom_node.errors import UnknownStudy
from dicom_node.findings import finding_from_json
from dicom_node.settings import Settings, load_settings
from dicom_node.status import open_existing
from dicom_node.store import Delivery, Document, Event, FindingRow, Instance, Revision, Series, Study
from dicom_node.terminal import make_table, open_console
from inference.finding import Refusal

MONTHS_A_YEAR = 12


def run(options: argparse.Namespace) -> int:
    """Print one study: instances, revisions, findings, documents, deliveries, events."""
    settings = load_settings(options.config)
    store = open_existing(settings)
    console = open_console()
    with store.reading() as session:
        study = find_study_by_beginning(session, options.study)
        console.print(
            f"Study {study.study_instance_uid}: {study.state}, {study.revision} revision(s), "
            f"received {_time(study.first_received_at)} to {_time(study.last_received_at)}"
            + (f", ready at {_time(study.ready_at)}" if study.ready_at else ""),
            soft_wrap=True,
        )
        for title, columns, rows in _sections(session, study, settings):
            _print(console, title, columns, rows)
    store.close()
    return DONE


def find_study_by_beginning(session: Session, beginning: str) -> Study:
    """Return the study of that UID, or the only one whose UID begins so.

    Raises
    ------
    UnknownStudy
        There is none, or more than one.
    """
    uid = Study.study_instance_uid
    query = sa.select(Study).where(uid.startswith(beginning, autoescape=True)).order_by(sa.func.length(uid)).limit(2)
    studies = session.scalars(query).all()
    exact = [study for study in studies if study.study_instance_uid == beginning]
    if exact or len(studies) == 1:
        return (exact or studies)[0]
    how_many = "More than one study begins" if studies else "No study begins"
    raise UnknownStudy(f"{how_many} with {beginning}; `boneage-node status` lists those in trouble.")


_Section = tuple[str, tuple[str, ...], Iterable[tuple[object, ...]]]


def _sections(session: Session, study: Study, settings: Settings) -> Iterable[_Section]:
    yield _instances(session, study, settings)
    yield _revisions(session, study)
    yield _findings(session, study)
    yield _documents(session, study, settings)
    yield _deliveries(session, study)
    yield _events(session, study)


def _instances(session: Session, study: Study, settings: Settings) -> _Section:
    query = (
        sa.select(
            Instance.sop_instance_uid,
            Series.modality,
            Instance.calling_ae,
            Instance.received_at,
            Instance.size_bytes,
            Instance.revision,
            Instance.path,
            Instance.purged_at,
        )
        .join(Series, Series.id == Instance.series_id)
        .where(Instance.study_id == study.id)
        .order_by(Instance.id)
    )
    rows = [(*row[:-2], _place(settings.spool_dir, *row[-2:])) for row in session.execute(query)]
    return "Received", ("object", "modality", "from", "at", "bytes", "revision", "file"), rows


def _place(folder: Path, path: str, purged_at: datetime | None) -> str:
    """Say where a file lies, or since when it does not."""
    return str(folder / path) if purged_at is None else f"purged {_time(purged_at)}"


def _revisions(session: Session, study: Study) -> _Section:
    revisions = session.scalars(sa.select(Revision).where(Revision.study_id == study.id).order_by(Revision.number))
    rows = [
        (
            one.number,
            one.state if one.dismissed_at is None else f"{one.state}, dismissed {_time(one.dismissed_at)}",
            one.assembled_at,
            one.updated_at,
            one.error_code,
            one.error,
        )
        for one in revisions
    ]
    return "Revisions", ("number", "state", "assembled", "updated", "code", "error"), rows


def _findings(session: Session, study: Study) -> _Section:
    query = (
        sa.select(Revision.number, Instance.sop_instance_uid, FindingRow.age_months, FindingRow.body)
        .join(Instance, Instance.id == FindingRow.instance_id)
        .join(Revision, Revision.id == FindingRow.revision_id)
        .where(Revision.study_id == study.id)
        .order_by(FindingRow.id)
    )
    rows = [
        (number, uid, "", _why_refused(body)) if age is None else (number, uid, _age(age), "")
        for number, uid, age, body in session.execute(query)
    ]
    return "Findings", ("revision", "object", "bone age", "refused"), rows


def _age(months: float) -> str:
    return f"{months:.1f} months ({months / MONTHS_A_YEAR:.1f} years)"


def _why_refused(body: str) -> str:
    finding = finding_from_json(body)
    return f"{finding.code}: {finding.sentence} {finding.remedy}" if isinstance(finding, Refusal) else ""


def _documents(session: Session, study: Study, settings: Settings) -> _Section:
    of_document = (Document.kind, Document.sop_instance_uid, Document.verified_at, Document.path, Document.purged_at)
    query = (
        sa.select(Revision.number, *of_document)
        .join(Revision, Revision.id == Document.revision_id)
        .where(Revision.study_id == study.id)
        .order_by(Document.id)
    )
    rows = [(*row[:-2], _place(settings.documents_dir, *row[-2:])) for row in session.execute(query)]
    return "Documents", ("revision", "kind", "object", "verified", "file"), rows


def _deliveries(session: Session, study: Study) -> _Section:
    query = (
        sa.select(Revision.number, Document.kind, Delivery)
        .join(Document, Document.id == Delivery.document_id)
        .join(Revision, Revision.id == Delivery.revision_id)
        .where(Revision.study_id == study.id)
        .order_by(Delivery.id)
    )
    rows = [
        (
            number,
            kind,
            delivery.peer,
            delivery.state,
            delivery.commitment,
            delivery.attempts,
            "" if delivery.status is None else f"0x{delivery.status:04X}",
            delivery.committed_at or delivery.sent_at or delivery.due_at,
            delivery.error or "",
        )
        for number, kind, delivery in session.execute(query)
    ]
    columns = ("revision", "kind", "peer", "state", "commitment", "attempts", "status", "at", "error")
    return "Deliveries", columns, rows


def _events(session: Session, study: Study) -> _Section:
    query = sa.select(Event.at, Event.node_id, Event.kind, Event.revision, Event.peer, Event.detail).where(
        Event.study_id == study.id
    )
    return (
        "Events",
        ("at", "node", "what", "revision", "peer", "detail"),
        session.execute(query.order_by(Event.id)),
    )


def _print(console: Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    table = make_table(*columns, title=title)
    for row in rows:
        table.add_row(
            *(_time(part) if isinstance(part, datetime) else "" if part is None else str(part) for part in row)
        )
    console.print(table)


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
