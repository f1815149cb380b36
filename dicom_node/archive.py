"""A small archive: Storage SCP and Storage Commitment SCP over a folder, for the demo and for tests.

It keeps what it is sent, commits to what it keeps, and knows nothing of queries: a department uses a real archive.
The report of a commitment (N-EVENT-REPORT, PS3.4 J.3.3) goes out on the association that asked for it while that is
open, else, where ``call_back`` is set, on one that the archive opens.

    with Archive(folder) as archive:
        host, port = archive.address
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse_messages import N_ACTION_RSP
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import StoragePresentationContexts, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification
from pynetdicom.transport import ThreadedAssociationServer

SUCCESS = 0x0000
DUPLICATE_SOP_INSTANCE = 0x0111  # PS3.7 C.5.8: the same UID, other bytes
NO_SUCH_OBJECT_INSTANCE = 0x0112  # PS3.7 C.5.19, and as FailureReason PS3.3 C.14.1.1
NO_SUCH_ACTION = 0x0123  # PS3.7 C.5.15
INVALID_ARGUMENT_VALUE = 0x0115  # PS3.7 C.5.11
CLASS_INSTANCE_CONFLICT = 0x0119  # FailureReason, PS3.3 C.14.1.1
CANNOT_UNDERSTAND = 0xC000  # PS3.4 B.2.3
OUT_OF_RESOURCES = 0xA700  # PS3.4 B.2.3
CALL_BACK_ATTEMPTS = 5
TRANSFER_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CallBack:
    """Where the archive opens an association to report commitments."""

    host: str
    port: int
    ae_title: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object the archive holds."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    path: Path


class Archive:
    """The archive. Restarted over the same folder it still holds what it held.

    Attributes
    ----------
    receipts
        How often each SOP Instance UID has been sent since the start; an archive that is sent nothing twice counts 1.
    call_back
        Where to open an association for a report; None: nowhere. May be set at any time.
    same_association
        Whether reports go out on the asking association where they can. May be set at any time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "ARCHIVE",
        host: str = "127.0.0.1",
        port: int = 0,
        call_back: CallBack | None = None,
        same_association: bool = True,
    ) -> None:
        self.ae_title = ae_title
        self.call_back = call_back
        self.same_association = same_association
        self.receipts: Counter[str] = Counter()
        self._folder = folder
        self._asked_address = (host, port)
        self._server: ThreadedAssociationServer | None = None
        self._objects: dict[str, StoredObject] = {}
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._due: dict[Any, list[Dataset]] = {}  # association -> reports that wait for the N-ACTION's answer
        self._reporters: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on; RuntimeError before ``start``."""
        if self._server is None:
            raise RuntimeError("The archive has not been started.")
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Read the folder and listen. OSError where the port is taken."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._objects = {item.sop_instance_uid: item for item in map(_describe, sorted(self._folder.glob("*.dcm")))}
        self._stopping.clear()
        ae = AE(self.ae_title)
        ae.maximum_pdu_size = 131_072
        ae.add_supported_context(Verification)
        for context in StoragePresentationContexts:
            ae.add_supported_context(UID(str(context.abstract_syntax)), TRANSFER_SYNTAXES)
        ae.add_supported_context(StorageCommitmentPushModel)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_DIMSE_SENT, self._on_sent),
        ]
        self._server = ae.start_server(self._asked_address, block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """End all associations, stop listening and wait for reports on their way."""
        self._stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.ae.shutdown()
            self._server = None
        for reporter in self._reporters:
            reporter.join(timeout=30)
        self._reporters.clear()

    def objects(self, study_instance_uid: str | None = None) -> list[StoredObject]:
        """Return what is held, of one study or of all, in the order it came."""
        with self._changed:
            items = list(self._objects.values())
        return [item for item in items if study_instance_uid in (None, item.study_instance_uid)]

    def wait_for(self, condition: Callable[[Archive], bool], timeout_s: float) -> bool:
        """Wait until ``condition(archive)`` holds after some object has come; False where time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout_s)

    def _on_store(self, event: evt.Event) -> int:
        """Keep an object.

        Returns 0x0000 when it is on disk, 0x0111 for a UID known with other bytes, 0xC000 for a data set without the
        UIDs an archive needs, 0xA700 where the disk refuses (PS3.4 B.2.3, PS3.7 C.5.8).
        """
        encoded = event.encoded_dataset(include_meta=True)
        uid = str(event.request.AffectedSOPInstanceUID)
        path = self._folder / f"{hashlib.sha256(uid.encode()).hexdigest()}.dcm"  # no name on disk comes from a peer
        with self._changed:
            self.receipts[uid] += 1
            if path.exists():
                return SUCCESS if path.read_bytes() == encoded else DUPLICATE_SOP_INSTANCE
            try:
                _write_durably(path, encoded)
                stored = _describe(path)
            except OSError:
                return OUT_OF_RESOURCES
            if not stored.study_instance_uid or stored.sop_instance_uid != uid:
                path.unlink()
                return CANNOT_UNDERSTAND
            self._objects[uid] = stored
            self._changed.notify_all()
        return SUCCESS

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        """Take a commitment request (N-ACTION, PS3.4 J.3.2); the report follows the answer.

        Returns 0x0000, 0x0123 for another action, 0x0112 for another instance than the well-known one, 0x0115 for a
        request without transaction UID or objects.
        """
        if event.request.ActionTypeID != 1:
            return NO_SUCH_ACTION, None
        if event.request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
            return NO_SUCH_OBJECT_INSTANCE, None
        request = event.action_information
        if not request.get("TransactionUID") or not request.get("ReferencedSOPSequence"):
            return INVALID_ARGUMENT_VALUE, None
        with self._changed:
            self._due.setdefault(event.assoc, []).append(request)
        return SUCCESS, None

    def _on_sent(self, event: evt.Event) -> None:
        """Start the reports that are due once the answer to the N-ACTION is out."""
        if not isinstance(event.message, N_ACTION_RSP):
            return
        with self._changed:
            requests = self._due.pop(event.assoc, [])
        for request in requests:
            reporter = threading.Thread(target=self._report, args=(event.assoc, request), daemon=True)
            self._reporters.append(reporter)
            reporter.start()

    def _report(self, assoc: Any, request: Dataset) -> None:
        """Send the N-EVENT-REPORT for one request, on the asking association or on our own."""
        report = self._judge(request)
        sent = (self.same_association and _send_report(assoc, report)) or self._call(report)
        log.info("archive.commitment_reported", sent=sent, transaction_uid=report.TransactionUID)

    def _judge(self, request: Dataset) -> Dataset:
        """Return the event information of PS3.4 table J.3-2: what is kept, and what is not, with the reason."""
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        kept: list[Dataset] = []
        failed: list[Dataset] = []
        for item in request.ReferencedSOPSequence:
            reason = self._why_not(item)
            answer = Dataset()
            answer.ReferencedSOPClassUID = item.ReferencedSOPClassUID
            answer.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
            if reason:
                answer.FailureReason = reason
            (failed if reason else kept).append(answer)
        if kept:
            report.ReferencedSOPSequence = kept
        if failed:
            report.FailedSOPSequence = failed
        return report

    def _why_not(self, item: Dataset) -> int:
        with self._changed:
            stored = self._objects.get(str(item.ReferencedSOPInstanceUID))
        if stored is None:
            return NO_SUCH_OBJECT_INSTANCE
        return SUCCESS if stored.sop_class_uid == item.ReferencedSOPClassUID else CLASS_INSTANCE_CONFLICT

    def _call(self, report: Dataset) -> bool:
        """Open an association as SCP of storage commitment (role selection, PS3.7 D.3.3.4) and report on it."""
        ae = AE(self.ae_title)
        ae.add_requested_context(StorageCommitmentPushModel)
        role: SCP_SCU_RoleSelectionNegotiation = build_role(StorageCommitmentPushModel, scp_role=True)
        for attempt in range(CALL_BACK_ATTEMPTS):
            peer = self.call_back  # the caller may have moved meanwhile
            if peer is None or self._stopping.is_set():
                return False
            if _report_to(peer, ae, role, report):
                return True
            self._stopping.wait(0.2 * 2**attempt)
        return False


def _report_to(peer: CallBack, ae: AE, role: SCP_SCU_RoleSelectionNegotiation, report: Dataset) -> bool:
    assoc = ae.associate(peer.host, peer.port, ext_neg=[role], ae_title=peer.ae_title)
    if not assoc.is_established:
        return False
    sent = _send_report(assoc, report)
    assoc.release()
    return sent


def _send_report(assoc: Any, report: Dataset) -> bool:
    """Send an N-EVENT-REPORT; False where the association has gone or the peer did not answer with success."""
    event_type = 2 if "FailedSOPSequence" in report else 1
    try:
        status, _ = assoc.send_n_event_report(
            report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except (RuntimeError, ValueError):  # released meanwhile, or without a fitting context
        return False
    return bool(status.get("Status") == SUCCESS)


def _describe(path: Path) -> StoredObject:
    ds = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"])
    return StoredObject(
        str(ds.get("SOPClassUID", "")), str(ds.get("SOPInstanceUID", "")), str(ds.get("StudyInstanceUID", "")), path
    )


def _write_durably(path: Path, content: bytes) -> None:
    """Write, fsync and rename, so that a commitment means something."""
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
