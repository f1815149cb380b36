"""Deliver: one turn is one association with a peer: C-STORE what is not there yet, then ask for commitment.

Each outcome is in the ledger before the next message goes out, so a repeated turn goes on where the last one died; at
worst it sends an object again whose answer was lost, with the same UIDs and the same bytes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from pydicom import FileDataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node import commitment, ledger
from dicom_node.commitment import Commitments, compose_request, read_report
from dicom_node.errors import (
    CommitmentFailed,
    CommitmentUnsupported,
    ContextRejected,
    DeliveryError,
    DocumentRejected,
    NodeError,
    PeerBusy,
    PeerRefused,
    PeerUnknown,
    PeerUnreachable,
)
from dicom_node.ledger import Job, Turn
from dicom_node.profile import fitted
from dicom_node.retry import delay_s
from dicom_node.settings import ArchivePeer, DeliverSettings, NodeSettings
from dicom_node.store import Store, now
from reports.identity import SOP_CLASSES, Kind

REPORT_WAIT_S = 2.0  # how long an association stays open for a report on it; many archives open one of their own
ANSWER_WAIT_S = 10.0  # how long a report on our association has for its answer to leave, before it is released
REQUEST_COMMITMENT = 1  # Action Type ID (PS3.4 section J.3.2.1)

SUCCESS = 0x0000
DUPLICATE_SOP_INSTANCE = 0x0111  # PS3.7 C.5.6: the archive has it already: this node sent it before a crash
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007})  # stored, with remarks (PS3.4 table B.2-1)
_PERMANENT = frozenset({0x0106, 0x0117, 0x0118, 0x0119, 0x0122, 0x0124, 0x0210, 0x0211, 0x0212})  # PS3.7 annex C
_PERMANENT_CLASSES = (0xA900, 0xC000)  # A9xx data set does not match SOP class, Cxxx cannot understand

_NO_COMMITMENT = frozenset({0x0112, 0x0118, 0x0122, 0x0123, 0x0124, 0x0211})
"""N-ACTION statuses that say: this peer has no storage commitment for us (PS3.7 section 10.1.4.1.10)."""

log = structlog.get_logger(__name__)


def judge_status(status: int) -> DeliveryError | None:
    """Say what a C-STORE status means: None where the archive has the object (PS3.4 table B.2-1, PS3.7 annex C)."""
    if status in (SUCCESS, DUPLICATE_SOP_INSTANCE) or status in _WARNINGS:
        return None
    if status in _PERMANENT or status & 0xFF00 == _PERMANENT_CLASSES[0] or status & 0xF000 == _PERMANENT_CLASSES[1]:
        remedy = "Look at the archive's log, change what it objects to, then retry."
        return PeerRefused(f"The peer refused the object for good: status 0x{status:04X}. {remedy}", status)
    return PeerBusy(f"The peer did not take the object now: status 0x{status:04X}.", status)


class Courier:
    """Carry documents to archives.

    Parameters
    ----------
    store
        The SQL store with the ledger.
    settings
        Retries and timeouts.
    node
        Who calls.
    archives
        The configured archives.
    documents_dir
        Where the documents lie.
    compose
        Writes a document of a finding, given its kind, where its file is not there. May raise any NodeError.
    commitments
        Takes the reports that come on our own associations.
    on_change
        Called when something may have become due.
    """

    def __init__(
        self,
        store: Store,
        *,
        settings: DeliverSettings,
        node: NodeSettings,
        archives: Sequence[ArchivePeer],
        documents_dir: Path,
        compose: Callable[[int, Kind], None],
        commitments: Commitments,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._node = node
        self._archives: Mapping[str, ArchivePeer] = {archive.name: archive for archive in archives}
        self._documents_dir = documents_dir
        self._compose = compose
        self._commitments = commitments
        self._on_change = on_change

    def run(self, turn: Turn) -> None:
        """Work on everything that is due of one revision at one peer.

        Raises
        ------
        StoreError
            The database failed; the turn can be repeated.
        """
        jobs = self._without_the_hopeless(ledger.jobs_of(self._store, turn, now()))
        if jobs:
            self._work(turn, jobs)
        ledger.finish_turn(self._store, turn, self._settings)
        self._on_change()

    def _work(self, turn: Turn, jobs: Sequence[Job]) -> None:
        archive = self._archives.get(turn.peer)
        if archive is None:
            remedy = f"Configure it again, or give it up: boneage-node dismiss --peer {turn.peer}"
            self._fail(jobs, PeerUnknown(f"The configuration has no archive {turn.peer}. {remedy}"))
            return
        unsent = [job for job in jobs if not job.is_sent]
        try:
            if unsent or archive.commitment:
                with self._associate(archive, unsent) as assoc:
                    ledger.hasten(self._store, turn.peer)
                    accepted = {str(context.abstract_syntax) for context in assoc.accepted_contexts}
                    jobs = [ledger.substitute(self._store, job, accepted, archive, self._node.id) for job in jobs]
                    there = [job for job in jobs if job.is_sent or self._send(assoc, archive, job)]
                    self._ask_for_commitment(assoc, archive, there)
            else:
                self._mark_unsupported(archive, jobs)
        except ContextRejected as error:  # of everything that was proposed
            self._fail(unsent, error)
            self._mark_unsupported(archive, [job for job in jobs if job.is_sent])
        except DeliveryError as error:
            self._fail(jobs, error)

    def _without_the_hopeless(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Give up what was sent so long ago that no commitment will come any more."""
        earliest = now() - timedelta(seconds=self._settings.give_up_after_s)
        hopeless = [job for job in jobs if job.sent_at is not None and job.sent_at < earliest]
        remedy = "Ask the archive's administrator whether it has the object, then retry."
        self._fail(hopeless, CommitmentFailed(f"The peer took the object and never vouched for it. {remedy}"))
        return [job for job in jobs if job not in hopeless]

    def _fail(self, jobs: Sequence[Job], error: NodeError) -> None:
        for job in jobs:
            ledger.mark_failed(self._store, job, error, self._settings, self._node.id)

    @contextlib.contextmanager
    def _associate(self, archive: ArchivePeer, unsent: Sequence[Job]) -> Iterator[Any]:
        ae = AE(self._node.ae_title)
        ae.connection_timeout = ae.acse_timeout = self._settings.connect_timeout_s
        ae.dimse_timeout = ae.network_timeout = self._settings.dimse_timeout_s
        syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
        classes = sorted(_proposed({job.sop_class_uid for job in unsent}, archive))
        # One context per syntax: the peer then accepts each by itself, and the one without conversion is used.
        contexts = [build_context(uid, syntax) for uid in classes for syntax in syntaxes]
        if archive.commitment:
            contexts.append(build_context(StorageCommitmentPushModel))
        answers = ReportAnswers(self._on_report)
        assoc = ae.associate(
            archive.host, archive.port, contexts=contexts, ae_title=archive.ae_title, evt_handlers=answers.handlers
        )
        if not assoc.is_established:
            raise _no_association(assoc)
        try:
            yield assoc
        finally:
            answers.settle(ANSWER_WAIT_S)
            if assoc.is_established:
                assoc.release()

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        """Take a report on our own association; statuses as of ``Commitments.take`` (PS3.4 section J.3.3)."""
        return self._commitments.take(read_report(event.event_information)), None

    def _send(self, assoc: Any, archive: ArchivePeer, job: Job) -> bool:
        """Send one object and enter the outcome; return whether the peer has it.

        Raises
        ------
        PeerUnreachable
            The association is gone.
        """
        try:
            status = self._store_object(assoc, archive, job)
        except PeerUnreachable:
            raise  # it concerns everything else of the turn as well
        except NodeError as error:
            self._fail([job], error)
            return False
        ledger.mark_sent(self._store, job, status, self._node.id)
        return True

    def _store_object(self, assoc: Any, archive: ArchivePeer, job: Job) -> int:
        document = fitted(self._read(job), job.kind, archive)
        try:
            answer = assoc.send_c_store(document)
        except ValueError as error:
            name = UID(job.sop_class_uid).name
            remedy = "Allow it in the archive, or take it out of the peer's `deliver`; then retry."
            raise ContextRejected(f"The peer takes no {name} ({job.sop_class_uid}). {remedy}", 0x0122) from error
        except RuntimeError as error:
            raise PeerUnreachable("The association was gone before the object was sent.") from error
        if "Status" not in answer:
            raise PeerUnreachable("The peer did not answer: timed out or aborted.")
        status = int(answer.Status)
        problem = judge_status(status)
        if problem:
            raise problem
        return status

    def _read(self, job: Job) -> FileDataset:
        """Read a document, or have it composed again where its file is lost or damaged: it says what it said."""
        path = self._documents_dir / job.path
        try:
            try:
                return dcmread(path)
            except (FileNotFoundError, InvalidDicomError) as error:
                log.warning("deliver.document-lost", sop_instance_uid=job.sop_instance_uid, kind=type(error).__name__)
                path.unlink(missing_ok=True)
                self._compose(job.finding_id, job.kind)
                return dcmread(path)
        except (OSError, InvalidDicomError) as error:
            remedy = "Let the node's user read and write its documents, then retry."
            raise DocumentRejected(f"The document {job.sop_instance_uid} cannot be read. {remedy}") from error

    def _ask_for_commitment(self, assoc: Any, archive: ArchivePeer, jobs: Sequence[Job]) -> None:
        """Ask the peer to vouch for the objects it has (PS3.4 section J.3.2), and wait a moment for its report."""
        if not archive.commitment or not jobs:
            self._mark_unsupported(archive, jobs)
            return
        ids = [job.delivery_id for job in jobs]
        transaction_uid = str(generate_uid())
        self._commitments.request(transaction_uid, ids)
        try:
            self._request(assoc, transaction_uid, jobs)
        except CommitmentUnsupported:
            self._mark_unsupported(archive, jobs)
        except DeliveryError as error:
            commitment.mark_refused(self._store, ids, delay_s(self._settings, 1), error)
        else:
            self._commitments.wait(transaction_uid, REPORT_WAIT_S)

    def _mark_unsupported(self, archive: ArchivePeer, jobs: Sequence[Job]) -> None:
        if jobs and archive.commitment:
            log.warning("commitment.unsupported", peer=archive.name)
        commitment.mark_unsupported(self._store, [job.delivery_id for job in jobs])

    def _request(self, assoc: Any, transaction_uid: str, jobs: Sequence[Job]) -> None:
        request = compose_request(transaction_uid, ((job.sop_class_uid, job.sop_instance_uid) for job in jobs))
        try:
            answer, _ = assoc.send_n_action(
                request, REQUEST_COMMITMENT, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except ValueError as error:
            raise CommitmentUnsupported("The peer takes no storage commitment requests.") from error
        except RuntimeError as error:
            raise PeerUnreachable("The association was gone before commitment was asked for.") from error
        if "Status" not in answer:
            raise PeerUnreachable("The peer did not answer the commitment request: timed out or aborted.")
        status = int(answer.Status)
        if status in _NO_COMMITMENT:
            raise CommitmentUnsupported(f"The peer has no storage commitment: status 0x{status:04X}.", status)
        if status != SUCCESS:
            raise PeerBusy(f"The peer did not take the commitment request now: status 0x{status:04X}.", status)


def _proposed(classes: set[str], archive: ArchivePeer) -> set[str]:
    """Return the SOP classes to propose: what is to be sent, and what may stand for a report that is not taken."""
    if SOP_CLASSES["sr"] not in classes:
        return classes
    return classes | {SOP_CLASSES[kind] for kind in archive.sr_fallback}


class ReportAnswers:
    """Keeps an association until the answer to a report that came on it has left.

    pynetdicom serves an N-EVENT-REPORT in a thread of its own: a release in between would put the answer behind the
    A-RELEASE-RQ, which PS3.8 table 9-10 forbids (Sta7) and which ends pynetdicom's provider thread.
    """

    def __init__(self, take: Callable[[evt.Event], tuple[int, None]]) -> None:
        self._take = take
        self._answered = threading.Event()
        self._answered.set()
        self._answering = False
        self.handlers: list[Any] = [
            (evt.EVT_N_EVENT_REPORT, self._on_report),
            (evt.EVT_DIMSE_SENT, self._on_message),
            (evt.EVT_PDU_SENT, self._on_pdu),
        ]

    def settle(self, timeout_s: float) -> None:
        """Wait until no report waits for its answer."""
        self._answered.wait(timeout_s)

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        self._answered.clear()
        return self._take(event)

    def _on_message(self, event: evt.Event) -> None:
        self._answering = isinstance(event.message, N_EVENT_REPORT_RSP)

    def _on_pdu(self, event: evt.Event) -> None:
        if self._answering and isinstance(event.pdu, P_DATA_TF):
            self._answering = False
            self._answered.set()


def _no_association(assoc: Any) -> DeliveryError:
    """Say why there is no association. All but the last may pass, also what must be changed at the archive."""
    if assoc.is_rejected:
        answer = assoc.acceptor.primitive
        why = f"result {answer.result}, source {answer.result_source}, reason {answer.diagnostic}"
        remedy = "Check that both AE titles are configured at the archive."
        return PeerUnreachable(f"The peer rejected the association ({why}, PS3.8 table 9-21). {remedy}")
    if assoc.rejected_contexts:
        remedy = "Allow these SOP classes in the archive, or take them out of the peer's `deliver`; then retry."
        return ContextRejected(f"The peer takes none of the objects' SOP classes. {remedy}", 0x0122)
    # A peer that hangs up right after its rejection may look like this too.
    remedy = "Check host, port and network, and that both AE titles are configured at the archive."
    return PeerUnreachable(f"No association: nobody answers at the peer's address, or it broke off. {remedy}")
