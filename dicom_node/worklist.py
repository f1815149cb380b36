"""Ask a modality worklist for a child's height: C-FIND by accession number (PS3.4 annex K), once for each finding.

Adult height is predicted where a height is known. A film's own PatientSize (0010,1020) comes first; where it has none,
the order may have one. An answer counts only for the same PatientID, and only where all answers agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
import structlog
from pydicom import Dataset
from pynetdicom.sop_class import ModalityWorklistInformationFind
from sqlalchemy.orm import Session

from dicom_node.errors import DeliveryError, PeerUnreachable
from dicom_node.requestor import Patience, associated, calling, matches
from dicom_node.settings import DeliverSettings, NodeSettings, WorklistPeer
from dicom_node.sources import read_source
from dicom_node.store import Document, FindingRow, Instance, OrderedSizeRow, Store, insert_if_absent, now
from inference.header import numbers
from reports.header import text_of

UNASKED = "The worklist could not be asked for the height."

log = structlog.get_logger(__name__)


class Size(NamedTuple):
    """Height and weight as DICOM has them: metres and kilograms; None where they are not known."""

    metres: float | None = None
    kilograms: float | None = None


class Scales:
    """Asks a worklist for the height of children whose films have none.

    Parameters
    ----------
    store
        The SQL store.
    spool_dir
        Where the received files lie.
    worklist, node, timeouts
        Whom to ask, as whom, and how long to wait.
    """

    def __init__(
        self, store: Store, *, spool_dir: Path, worklist: WorklistPeer, node: NodeSettings, timeouts: DeliverSettings
    ) -> None:
        self._store = store
        self._spool_dir = spool_dir
        self._worklist = worklist
        self._node = node
        self._timeouts = timeouts
        self._patience = Patience("worklist")

    def ask(self, finding_id: int) -> None:
        """Keep what the order of one finding's film says, unless that was asked, or a document is written already.

        A worklist that cannot be asked stops nothing.

        Raises
        ------
        StoreError
            The database failed.
        """
        with self._store.reading() as session:
            finding = session.get_one(FindingRow, finding_id)
            instance = session.get_one(Instance, finding.instance_id)
            is_done = _is_asked(session, finding_id)
        if is_done or finding.kind != "estimate":
            return
        film = read_source(self._spool_dir, instance)
        if size_of(film).metres is not None or not all(
            text_of(film, name) for name in ("AccessionNumber", "PatientID")
        ):
            return
        try:
            with self._patience.asking():
                size = _agreed(film, find_orders(film, self._worklist, self._node, self._timeouts))
        except DeliveryError as error:
            log.warning("worklist.unasked", peer=self._worklist.name, code=error.code)
            size = None
        with self._store.session() as session:
            insert_if_absent(
                session,
                OrderedSizeRow,
                finding_id=finding_id,
                answered=size is not None,
                metres=None if size is None else size.metres,
                kilograms=None if size is None else size.kilograms,
                asked_at=now(),
            )


def size_of(ds: Dataset) -> Size:
    """Return what a header says; a size or weight of 0, as an empty one is often written, is none."""
    metres, kilograms = numbers(ds, "PatientSize")[:1], numbers(ds, "PatientWeight")[:1]
    return Size(next(filter(None, metres), None), next(filter(None, kilograms), None))


def ordered(session: Session, finding: FindingRow) -> tuple[Size, str | None]:
    """Return what the order said of the size, and a sentence where the worklist could not be asked."""
    query = sa.select(OrderedSizeRow).where(OrderedSizeRow.finding_id == finding.id)
    row = session.scalars(query).one_or_none()
    if row is None:
        return Size(), None
    return Size(row.metres, row.kilograms), None if row.answered else UNASKED


def find_orders(film: Dataset, worklist: WorklistPeer, node: NodeSettings, timeouts: DeliverSettings) -> list[Dataset]:
    """Return the orders a worklist has of a film's accession number.

    Raises
    ------
    PeerUnreachable
        The worklist does not answer, takes no queries, or breaks off.
    """
    ae = calling(node, timeouts)
    ae.add_requested_context(ModalityWorklistInformationFind)
    with associated(ae, worklist) as assoc:
        orders = list(matches("worklist", assoc, _query(film), ModalityWorklistInformationFind))
    found = [order for order in orders if order is not None]
    if len(found) < len(orders):  # which might contradict the others
        raise PeerUnreachable("The worklist sent an order that cannot be read.")
    return found


def _query(film: Dataset) -> Dataset:
    """Return the identifier: the accession number to match, and what is to come back (PS3.4 table K.6-1)."""
    query, step = Dataset(), Dataset()
    query.AccessionNumber = text_of(film, "AccessionNumber")
    for keyword in ("PatientID", "IssuerOfPatientID", "PatientSize", "PatientWeight"):
        setattr(query, keyword, None)
    for keyword in ("ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "Modality"):
        setattr(step, keyword, None)
    query.ScheduledProcedureStepSequence = [step]
    return query


def _agreed(film: Dataset, orders: Iterable[Dataset]) -> Size:
    """Return the size all orders of the same patient agree on, each value for itself."""
    sizes = [size_of(order) for order in orders if _is_of(film, order)]
    metres = {size.metres for size in sizes} - {None}
    kilograms = {size.kilograms for size in sizes} - {None}
    return Size(metres.pop() if len(metres) == 1 else None, kilograms.pop() if len(kilograms) == 1 else None)


def _is_of(film: Dataset, order: Dataset) -> bool:
    """Tell whether an order is of the film's patient; an issuer that only one of both names is no contradiction."""
    issuers = {text_of(ds, "IssuerOfPatientID") for ds in (film, order)} - {""}
    same = all(text_of(film, name) == text_of(order, name) for name in ("PatientID", "AccessionNumber"))
    return same and len(issuers) <= 1


def _is_asked(session: Session, finding_id: int) -> bool:
    """Tell whether it was asked, or is too late: a document that is written again must say the same."""
    asked = sa.select(OrderedSizeRow.id).where(OrderedSizeRow.finding_id == finding_id)
    written = sa.select(Document.id).where(Document.finding_id == finding_id)
    return any(session.scalars(query.limit(1)).first() is not None for query in (asked, written))
