"""Storage commitment: the archive vouches for what it was sent (Storage Commitment Push Model, PS3.4 annex J).

The node asks by N-ACTION; the archive answers by N-EVENT-REPORT, on the same association or on one that it opens to the
node, seconds or hours later. Both ways end in ``Commitments.take``. A transaction is in the store before it is asked
for, so its report is understood also after a restart, and on any node of a cluster.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
import structlog
from pydicom import Dataset
from sqlalchemy.orm import Session

from dicom_node.dimse import is_uid
from dicom_node.errors import CommitmentFailed, NodeError, StoreError
from dicom_node.events import record
from dicom_node.retry import delay_s
from dicom_node.revisions import CommitmentState, DeliveryState, lock_revision, settle
from dicom_node.settings import DeliverSettings
from dicom_node.store import CommitmentRequest, Delivery, Document, Store, now

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110  # PS3.7 C.5.14
INVALID_ARGUMENT_VALUE = 0x0115  # PS3.7 C.5.9: here, a transaction that was never asked for

UNKNOWN_EVENT = "commitment-unknown"  # its detail: transaction UID, how many objects committed, how many failed
MAX_FAILURES = 3  # how often an object is sent again because the archive says that it does not hold it

# FailureReason (0008,1197), PS3.3 table C.14-1
REFERENCED_SOP_CLASS_NOT_SUPPORTED = 0x0122
CLASS_INSTANCE_CONFLICT = 0x0119
RESOURCE_LIMITATION = 0x0213
DUPLICATE_TRANSACTION_UID = 0x0131
_PERMANENT_REASONS = frozenset({REFERENCED_SOP_CLASS_NOT_SUPPORTED, CLASS_INSTANCE_CONFLICT})
_ASK_AGAIN_REASONS = frozenset({RESOURCE_LIMITATION, DUPLICATE_TRANSACTION_UID})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What an N-EVENT-REPORT of the Storage Commitment Push Model says (PS3.4 table J.3-2)."""

    transaction_uid: str
    committed: tuple[tuple[str, str], ...]  # SOP Class UID, SOP Instance UID
    failed: tuple[tuple[str, str, int], ...]  # the same, and FailureReason (0008,1197)


def read_report(information: Dataset) -> CommitmentReport:
    """Read the event information of an N-EVENT-REPORT; what it lacks is empty, a missing reason 0x0110."""
    return CommitmentReport(
        transaction_uid=str(information.get("TransactionUID", "")),
        committed=tuple(map(_reference, information.get("ReferencedSOPSequence") or ())),
        failed=tuple(
            (*_reference(item), int(item.get("FailureReason", PROCESSING_FAILURE)))
            for item in information.get("FailedSOPSequence") or ()
        ),
    )


def _reference(item: Dataset) -> tuple[str, str]:
    return str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", ""))


def compose_request(transaction_uid: str, references: Iterable[tuple[str, str]]) -> Dataset:
    """Return the action information of an N-ACTION (PS3.4 table J.3-1) for pairs of SOP Class and Instance UID."""
    request = Dataset()
    request.TransactionUID = transaction_uid
    items = []
    for sop_class_uid, sop_instance_uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        items.append(item)
    request.ReferencedSOPSequence = items
    return request


class Commitments:
    """The commitments that were asked for, and their reports.

    Parameters
    ----------
    store
        The SQL store.
    settings
        How long to wait, and the back-off for objects that have to be sent again.
    node_id
        This node, for the events.
    on_change
        Called after a report changed the ledger: there may be something to send again.
    """

    def __init__(
        self, store: Store, settings: DeliverSettings, node_id: str, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._settings = settings
        self._node_id = node_id
        self._on_change = on_change
        self._lock = threading.Lock()
        self._awaited: dict[str, threading.Event] = {}

    def request(self, transaction_uid: str, delivery_ids: Sequence[int]) -> None:
        """Write down that commitment is about to be asked for; from now on a report is understood.

        Raises
        ------
        StoreError
            The database failed: do not ask.
        """
        with self._store.session() as session:
            asked = now()
            for delivery in _deliveries(session, delivery_ids):
                if delivery.state == DeliveryState.DISMISSED:  # by a person, just now
                    continue
                key = CommitmentRequest(transaction_uid=transaction_uid, delivery_id=delivery.id, requested_at=asked)
                session.add(key)
                delivery.commitment = CommitmentState.REQUESTED
                # Due until the turn ends: one that dies meanwhile is repeated and asks again, in a new transaction.
                delivery.commitment_requested_at = delivery.updated_at = delivery.due_at = asked
        with self._lock:
            self._awaited[transaction_uid] = threading.Event()

    def wait(self, transaction_uid: str, timeout_s: float) -> bool:
        """Wait until this process has taken the report of a transaction; False where time ran out."""
        with self._lock:
            awaited = self._awaited.get(transaction_uid)
        taken = awaited is None or awaited.wait(timeout_s)
        with self._lock:
            self._awaited.pop(transaction_uid, None)
        return taken

    def take(self, report: CommitmentReport) -> int:
        """Enter a report into the ledger; return the status of the N-EVENT-REPORT response (PS3.7 10.1.1.1.8).

        ``0x0000``: entered. ``0x0115``: the transaction was never asked for. ``0x0110``: the store failed, the archive
        may report again.
        """
        try:
            known = self._enter(report)
        except StoreError:
            log.exception("commitment.not-entered", transaction_uid=report.transaction_uid)
            return PROCESSING_FAILURE
        if not known:
            log.warning("commitment.unknown-transaction", transaction_uid=report.transaction_uid)
            self._note_unknown(report)
            return INVALID_ARGUMENT_VALUE
        with self._lock:
            awaited = self._awaited.get(report.transaction_uid)
        if awaited:
            awaited.set()
        self._on_change()
        return SUCCESS

    def _note_unknown(self, report: CommitmentReport) -> None:
        """Keep that a report came on a transaction of none of our deliveries: ``selftest`` looks for its own."""
        if is_uid(report.transaction_uid):
            detail = f"{report.transaction_uid} {len(report.committed)} {len(report.failed)}"
            with self._store.session() as session:
                record(session, self._node_id, UNKNOWN_EVENT, None, detail=detail)

    def _enter(self, report: CommitmentReport) -> bool:
        with self._store.session() as session:
            query = sa.select(Delivery.revision_id).join(
                CommitmentRequest, CommitmentRequest.delivery_id == Delivery.id
            )
            of_transaction = CommitmentRequest.transaction_uid == report.transaction_uid
            revision_id = session.scalars(query.where(of_transaction).limit(1)).one_or_none()
            if revision_id is None:
                return False
            study, revision = lock_revision(session, revision_id)
            ledger = _of_transaction(session, report.transaction_uid)
            answers: dict[str, int | None] = {uid: reason for _, uid, reason in report.failed}
            answers |= dict.fromkeys((uid for _, uid in report.committed), None)
            for uid, delivery in ledger.items():
                if uid in answers:
                    kind, detail = _enter_answer(delivery, answers[uid], self._settings)
                    event = {"sop_instance_uid": uid, "peer": delivery.peer, "detail": detail}
                    record(session, self._node_id, kind, study, revision=revision.number, **event)
            settle(session, study, revision)
            return True


def _enter_answer(delivery: Delivery, reason: int | None, settings: DeliverSettings) -> tuple[str, str | None]:
    """Enter what a peer says of one object, None for committed, else why not; return what happened, as an event."""
    if delivery.state == DeliveryState.COMMITTED:
        return "committed-again", None
    if reason is None:
        _commit(delivery)
        return "committed", None
    if delivery.state in {DeliveryState.FAILED, DeliveryState.DISMISSED}:
        return "not-committed-again", f"0x{reason:04X}"
    _fail(delivery, reason, settings)
    return "not-committed", f"0x{reason:04X}"


def _commit(delivery: Delivery) -> None:
    delivery.state, delivery.commitment = DeliveryState.COMMITTED, CommitmentState.COMMITTED
    delivery.committed_at = delivery.updated_at = now()
    delivery.sent_at = delivery.sent_at or delivery.committed_at
    delivery.due_at = delivery.error_code = delivery.error = delivery.failing_since = None


def _fail(delivery: Delivery, reason: int, settings: DeliverSettings) -> None:
    remedy = "Look at the archive's log, then retry."
    error = CommitmentFailed(f"The peer does not vouch for the object: reason 0x{reason:04X}. {remedy}", reason)
    delivery.commitment_failures += 1
    delivery.commitment, delivery.status = CommitmentState.DUE, reason
    delivery.error_code, delivery.error, delivery.updated_at = error.code, str(error), now()
    if reason in _PERMANENT_REASONS or delivery.commitment_failures > MAX_FAILURES:
        delivery.state, delivery.due_at = DeliveryState.FAILED, None
        return
    delivery.due_at = now() + timedelta(seconds=delay_s(settings, delivery.commitment_failures))
    if reason not in _ASK_AGAIN_REASONS:
        delivery.state = DeliveryState.COMPOSED  # it is sent again


def _of_transaction(session: Session, transaction_uid: str) -> dict[str, Delivery]:
    """Return the deliveries of a transaction by SOP Instance UID."""
    query = (
        sa.select(Document.sop_instance_uid, Delivery)
        .join(Delivery, Delivery.document_id == Document.id)
        .join(CommitmentRequest, CommitmentRequest.delivery_id == Delivery.id)
        .where(CommitmentRequest.transaction_uid == transaction_uid)
    )
    return dict(session.execute(query).all())


def _deliveries(session: Session, delivery_ids: Sequence[int]) -> Sequence[Delivery]:
    query = sa.select(Delivery).where(Delivery.id.in_(delivery_ids)).order_by(Delivery.id)
    return session.scalars(query.with_for_update()).all()


def mark_refused(store: Store, delivery_ids: Sequence[int], due_in_s: float, error: NodeError) -> None:
    """Write down that the peer did not take the request now: it is asked again.

    Raises
    ------
    StoreError
        The database failed.
    """
    with store.session() as session:
        for delivery in _deliveries(session, delivery_ids):
            if delivery.state == DeliveryState.SENT:
                delivery.commitment, delivery.due_at = CommitmentState.DUE, now() + timedelta(seconds=due_in_s)
                delivery.error_code, delivery.error, delivery.updated_at = error.code, str(error), now()


def mark_unsupported(store: Store, delivery_ids: Sequence[int]) -> None:
    """Write down that the peer has no storage commitment: what it was sent stays "sent" and is never "committed".

    Raises
    ------
    StoreError
        The database failed.
    """
    with store.session() as session:
        for delivery in _deliveries(session, delivery_ids):
            if delivery.state == DeliveryState.SENT:
                delivery.commitment, delivery.due_at, delivery.updated_at = CommitmentState.NONE, None, now()
