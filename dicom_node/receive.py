"""Receive: the node as Storage SCP (PS3.4 annex B), Verification SCP (A) and taker of commitment reports (annex J).

An object is answered with Success only after its bytes are durable in the spool and its row is committed in the store.
What goes wrong has a status of its own: ``errors.DIMSE_STATUSES`` for errors, ``Refusal`` for requests that are none
of the node's. ``Receiver`` lists them all.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from io import BytesIO
from ipaddress import ip_address
from socket import getaddrinfo
from typing import Final

import structlog
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dsutils import decode
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_node.asked import REPORTS, Asked, Sender
from dicom_node.commitment import CommitmentReport, read_report
from dicom_node.dimse import Command, CommandField, encode_response, is_uid
from dicom_node.errors import (
    BrokenDataSet,
    CallerRefused,
    IdentifierMismatch,
    IdentityClash,
    NodeError,
    ObjectTooLarge,
    SOPClassRefused,
    StoreError,
    code_of,
    dimse_status_of,
)
from dicom_node.header import Header, read_header
from dicom_node.intake import Recorded
from dicom_node.negotiate import CALLED_AE_UNKNOWN, CALLING_AE_UNKNOWN, Context, Proposal, Rejection
from dicom_node.settings import ArchivePeer, NodeSettings, ReceiveSettings, SenderPeer
from dicom_node.spool import Received, Spool, SpoolFile
from dicom_node.transport import Acceptor, Association, Ending, Sink
from inference.film import SUPPORTED_SOP_CLASSES, SUPPORTED_TRANSFER_SYNTAXES

log = structlog.get_logger(__name__)

SUCCESS = 0x0000

# The first that a context proposes is chosen: explicit rather than implicit VR, which loses that of private elements.
_TRANSFER_SYNTAXES: Final = sorted(SUPPORTED_TRANSFER_SYNTAXES, key=ExplicitVRLittleEndian.__ne__)
_UNCOMPRESSED: Final = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_IMPLEMENTATION_VERSION_NAME = "BONEAGE_NODE"
_MAX_REPORT_BYTES = 4 << 20  # of one N-EVENT-REPORT; an object in it takes about 150
_EVENT_TYPES = (1, 2)  # all committed; some failed (PS3.4 table J.3.3-1)


class Refusal(Enum):
    """A request that is none of the node's: DIMSE status (PS3.7 annex C) and ErrorComment."""

    FAULT = (0x0110, "processing failure")
    NO_SUCH_EVENT_TYPE = (0x0113, "no such event type")
    INVALID_ARGUMENT = (0x0115, "the commitment report does not parse")
    INVALID_INSTANCE = (0x0117, "the SOP Instance UID is no UID")
    UNRECOGNISED_OPERATION = (0x0211, "the node does not do this operation")

    @property
    def status(self) -> int:
        """DIMSE status."""
        return self.value[0]

    @property
    def comment(self) -> str:
        """ErrorComment: why, for the peer's log."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class AssociationEnd:
    """An association that has ended, of which a sender of whole studies per association may be the caller."""

    association_id: str  # that of the objects it brought, ``Received.association_id``
    calling_ae: str
    study_instance_uids: tuple[str, ...]  # of the objects answered with Success on it, sorted
    released: bool  # False: it broke, so that more may have been meant to come


class Callers:
    """Who may call, and for what.

    Parameters
    ----------
    settings
        Whether strangers may call, and whether callers must know the node's name.
    node
        The node's AE title.
    senders, archives
        The configured peers.
    """

    def __init__(
        self,
        settings: ReceiveSettings,
        node: NodeSettings,
        senders: Iterable[SenderPeer],
        archives: Iterable[ArchivePeer],
    ) -> None:
        self._is_open = settings.accept_unknown_callers
        self._called_ae = node.ae_title if settings.check_called_ae else None
        self._senders: dict[str, list[str | None]] = defaultdict(list)
        for sender in senders:
            self._senders[sender.ae_title].append(sender.host)
        self._archives = frozenset(title for archive in archives for title in (archive.ae_title, *archive.calls_as))

    def admit(self, proposal: Proposal, host: str) -> Rejection | None:
        """Return None if the caller may come in, else why not (PS3.8 table 9-21)."""
        if self._called_ae not in {None, proposal.called_ae}:
            return CALLED_AE_UNKNOWN
        calling_ae = proposal.calling_ae
        if self._is_open or calling_ae in self._archives:
            return None
        if any(place is None or _is_at(place, host) for place in self._senders.get(calling_ae, [])):
            return None
        return CALLING_AE_UNKNOWN

    def may_store(self, calling_ae: str) -> bool:
        """Tell whether an admitted caller may send objects; an archive that is no sender may not."""
        return self._is_open or calling_ae in self._senders

    def may_report(self, calling_ae: str) -> bool:
        """Tell whether an admitted caller may report commitments."""
        return self._is_open or calling_ae in self._archives


class Receiver:
    """Takes objects, echoes and commitment reports over associations that others open.

    The statuses of C-STORE (PS3.4 section B.2.3, PS3.7 section 9.1.1 and annex C):

    ====  ===========================================================================================
    0000  durable and recorded, also in the place of what it corrects, or the same object was there already, or it is
          a capture that such a node has written itself
    0110  a fault of the node
    0111  the SOP Instance UID is there with other bytes (IdentityClash); nothing stored has changed
    0117  the command's Affected SOP Instance UID is no UID
    0122  the SOP class is not that of the presentation context (SOPClassRefused)
    0124  the caller may not send objects (CallerRefused)
    A700  no room is left on the disk (SpoolFull)
    A701  the disk failed otherwise (SpoolFailed)
    A702  the object is larger than the settings allow (ObjectTooLarge)
    A703  the SQL store failed (StoreError)
    A704  the object is known, its file is gone, no hash was taken, and its size was another (SpoolFileMissing)
    A900  data set and command name different objects (IdentifierMismatch)
    C000  the data set does not parse, or does not say what it is (BrokenDataSet)
    ====  ===========================================================================================

    Parameters
    ----------
    settings, node
        Limits, addresses, names.
    senders
        Peers that may send objects.
    spool
        Where objects go; opened by ``start``.
    record
        Commits the row of an object that is durable. May raise any NodeError. Called from many threads, one at a
        time.
    on_association_end
        Told of each association that was established. May raise NodeError, which is logged.
    on_commitment
        Takes a report of storage commitment; returns the DIMSE status to answer with. May raise NodeError.
    archives
        Peers that may report commitments.
    asked
        What this node has asked archives to move to it; None where it asks for nothing.
    """

    def __init__(  # noqa: PLR0917 - one caller, and the order of the street
        self,
        settings: ReceiveSettings,
        node: NodeSettings,
        senders: Iterable[SenderPeer],
        spool: Spool,
        record: Callable[[Received], Recorded],
        on_association_end: Callable[[AssociationEnd], None],
        on_commitment: Callable[[CommitmentReport], int],
        *,
        archives: Iterable[ArchivePeer] = (),
        asked: Asked | None = None,
    ) -> None:
        self.asked = asked
        self.callers = Callers(settings, node, senders, archives)
        self.max_object_bytes = settings.max_object_bytes
        self.spool = spool
        self._record = record
        self._on_association_end = on_association_end
        self._on_commitment = on_commitment
        self._recording = threading.Lock()
        self._studies: dict[str, set[str]] = {}  # by association: what it brought
        self._acceptor = Acceptor(
            make_ae(settings, node, asks=asked is not None),
            self,
            host=settings.host,
            port=settings.port,
            admit=self.callers.admit,
            end=self._end,
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port actually bound."""
        return self._acceptor.address

    def start(self) -> None:
        """Clean the spool of what a crash left, and listen.

        Raises
        ------
        SpoolFull, SpoolFailed
            The spool cannot be used.
        OSError
            The address cannot be used.
        """
        removed = self.spool.open()
        self._acceptor.start()
        host, port = self.address
        log.info("receive.started", host=host, port=port, orphans_removed=removed)

    def stop(self) -> None:
        """Stop listening and abort the associations; an object whose last byte has come is still answered."""
        self._acceptor.stop()

    def respond(self, association: Association, context: Context, command: Command) -> bytes:
        """Answer a request without a data set; one of ``transport.Service``."""
        if command.CommandField == CommandField.C_ECHO_RQ:
            return self._echo(context, command)
        if command.CommandField == CommandField.C_STORE_RQ:
            return self._refuse(association, command, BrokenDataSet("No data set follows the command."))
        return _decline(command)

    def open(self, association: Association, context: Context, command: Command) -> Sink:
        """Take the data set of a request; one of ``transport.Service``."""
        if command.CommandField == CommandField.C_STORE_RQ:
            return _StoreSink(self, association, context, command)
        if command.CommandField == CommandField.N_EVENT_REPORT_RQ:
            return _ReportSink(self, association, context, command)
        return _ScrapSink(_decline(command))

    def keep(self, received: Received) -> None:
        """Record a durable object.

        Raises
        ------
        IdentityClash
            Its SOP Instance UID is known with other bytes.
        NodeError
            It could not be recorded.
        """
        try:
            # One at a time: SQLite has one writer, and lets the others sleep past their turn. Half as fast without.
            with self._recording:
                recorded = self._record(received)
        except StoreError:
            # Its transaction may have been committed all the same, if the connection broke just then. A file too
            # many is found by `Spool.sweep`; a row without a file would be a loss.
            raise
        except NodeError:
            self.spool.remove(received.path)
            raise
        if not recorded.is_kept:
            self.spool.remove(received.path)
        if recorded.kind == "clash":
            raise IdentityClash("The SOP Instance UID is known with other bytes.")
        self._studies.setdefault(received.association_id, set()).add(recorded.study_instance_uid)
        log.info(
            "receive.stored",
            kind=recorded.kind,
            sop_instance_uid=received.sop_instance_uid,
            study_instance_uid=received.study_instance_uid,
            size_bytes=received.size_bytes,
            peer=received.calling_ae,
            association_id=received.association_id,
        )

    def report(self, report: CommitmentReport) -> int:
        """Hand on a report of storage commitment; return the DIMSE status."""
        return self._on_commitment(report)

    def answer(self, association: Association, command: Command, act: Callable[[], int]) -> bytes:
        """Do what a request asks for, and encode the response, whatever comes of it.

        Parameters
        ----------
        act
            Does it; returns the DIMSE status.
        """
        try:
            return encode_response(command, act())
        except NodeError as error:
            return self._refuse(association, command, error)
        except Exception:  # the boundary of a request: a fault of ours must not look like Success
            log.exception("receive.fault", sop_instance_uid=_uid_of(command), association_id=association.id)
            return _decline(command, Refusal.FAULT)

    def _echo(self, context: Context, command: Command) -> bytes:
        if context.abstract_syntax != Verification:
            return encode_response(command, dimse_status_of(SOPClassRefused()), "not the class of the context")
        return encode_response(command, SUCCESS)

    def _refuse(self, association: Association, command: Command, error: NodeError) -> bytes:
        status = dimse_status_of(error)
        log.warning(
            "receive.refused",
            code=code_of(error),
            status=f"{status:04X}",
            reason=str(error),
            sop_class_uid=command.AffectedSOPClassUID if is_uid(command.AffectedSOPClassUID) else None,
            sop_instance_uid=_uid_of(command),
            peer=association.calling_ae,
            association_id=association.id,
        )
        return encode_response(command, status, str(error))

    def _end(self, association: Association, ending: Ending) -> None:
        studies = tuple(sorted(self._studies.pop(association.id, ())))
        log.info(
            "receive.association-ended",
            ending=ending.value,
            peer=association.calling_ae,
            association_id=association.id,
            studies=len(studies),
        )
        end = AssociationEnd(association.id, association.calling_ae, studies, ending is Ending.RELEASED)
        try:
            self._on_association_end(end)
        except NodeError as error:
            log.warning("receive.association-end-failed", code=code_of(error), association_id=association.id)


class _StoreSink:
    """One C-STORE (PS3.7 section 9.1.1): streams into the spool; after a failure the rest goes nowhere."""

    def __init__(self, receiver: Receiver, association: Association, context: Context, command: Command) -> None:
        self._receiver = receiver
        self._association = association
        self._context = context
        self._command = command
        self._sender = Sender(association.calling_ae, command.MoveOriginatorApplicationEntityTitle)
        self._file: SpoolFile | None = None
        self._failure: NodeError | None = None
        if not is_uid(command.AffectedSOPInstanceUID):
            return
        try:
            self._file = self._begin()
        except NodeError as error:
            self._failure = error

    def write(self, fragments: Sequence[memoryview]) -> None:
        if self._file is None:
            return
        try:
            if self._file.size_bytes + sum(map(len, fragments)) > self._receiver.max_object_bytes:
                raise ObjectTooLarge(f"More than {self._receiver.max_object_bytes} bytes.")
            self._file.write(fragments)
        except NodeError as error:
            self._failure = error
            self.discard()

    def finish(self) -> bytes:
        if self._file is None and self._failure is None:
            return _decline(self._command, Refusal.INVALID_INSTANCE)
        return self._receiver.answer(self._association, self._command, self._store)

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _begin(self) -> SpoolFile:
        sop_class_uid, asked = self._command.AffectedSOPClassUID, self._receiver.asked
        maybe_asked = asked is not None and (asked.is_asked_for(self._sender) or asked.may_be_asked_for(self._sender))
        if not maybe_asked:
            self._check_sent(sop_class_uid)
        if sop_class_uid != self._context.abstract_syntax or sop_class_uid not in {*SUPPORTED_SOP_CLASSES, *REPORTS}:
            raise SOPClassRefused("Not the SOP class of the presentation context.")
        return self._receiver.spool.create(
            sop_class_uid, self._command.AffectedSOPInstanceUID, self._context.transfer_syntax
        )

    def _check_sent(self, sop_class_uid: str) -> None:
        """Refuse what nobody asked for, unless its caller may send it."""
        if not self._receiver.callers.may_store(self._association.calling_ae):
            raise CallerRefused("This calling AE title is not configured as a sender.")
        if sop_class_uid not in SUPPORTED_SOP_CLASSES:
            raise SOPClassRefused("This SOP class is taken only when the node asks for it.")

    def _take_asked(self, header: Header, file: SpoolFile) -> bool:
        """Hand an object to who asked for it; return False for one that was sent.

        Raises
        ------
        CallerRefused
            It says it was asked for, and nobody waits for it (any more): it must not become a study.
        """
        asked = self._receiver.asked
        if asked is None:
            return False
        if asked.take(self._sender, (header.SeriesInstanceUID, header.SOPInstanceUID), file.content):
            log.info("receive.asked-for", sop_instance_uid=header.SOPInstanceUID, peer=self._sender.calling_ae)
            return True
        if asked.is_asked_for(self._sender):
            raise CallerRefused("Nobody here waits for this object (any more).")
        self._check_sent(header.SOPClassUID)
        return False

    def _is_ours(self, header: Header) -> bool:
        """Tell whether a document of this node, or of another one, comes back from an archive that sends all it gets.

        Read as a film it would be refused, in a report and a capture, which the archive sends here again: without end.
        """
        if header.is_ours:
            log.info("receive.own-document", sop_instance_uid=header.SOPInstanceUID, peer=self._sender.calling_ae)
        return header.is_ours

    def _store(self) -> int:
        if self._failure is not None:
            raise self._failure
        assert self._file is not None
        try:
            header = self._read_header(self._file)
            if self._take_asked(header, self._file) or self._is_ours(header):
                self.discard()
                return SUCCESS
            size_bytes = self._file.size_bytes
            path = self._file.commit()
        except BaseException:
            self.discard()
            raise
        self._file = None
        self._receiver.keep(
            Received(
                sop_class_uid=header.SOPClassUID,
                sop_instance_uid=header.SOPInstanceUID,
                transfer_syntax_uid=self._context.transfer_syntax,
                study_instance_uid=header.StudyInstanceUID,
                series_instance_uid=header.SeriesInstanceUID,
                modality=header.Modality,
                path=path,
                size_bytes=size_bytes,
                calling_ae=self._association.calling_ae,
                association_id=self._association.id,
                received_at=datetime.now(UTC),
            )
        )
        return SUCCESS

    def _read_header(self, file: SpoolFile) -> Header:
        with file.data_set() as data:
            header = read_header(data, self._context.transfer_syntax)
        if header.SOPClassUID != self._command.AffectedSOPClassUID:
            raise IdentifierMismatch("Data set and command differ in the SOP class.")
        if header.SOPInstanceUID != self._command.AffectedSOPInstanceUID:
            raise IdentifierMismatch("Data set and command differ in the SOP instance.")
        return header


class _ReportSink:
    """One N-EVENT-REPORT of storage commitment (PS3.4 section J.3.3); small, so in memory.

    Statuses beside those of ``on_commitment``: 0113 (event type), 0115 (does not parse), 0122 (not of the Storage
    Commitment Push Model), 0124 (the caller is no archive), 0110 (a fault of the node).
    """

    def __init__(self, receiver: Receiver, association: Association, context: Context, command: Command) -> None:
        self._receiver = receiver
        self._association = association
        self._context = context
        self._command = command
        self._data = bytearray()
        self._is_too_large = False

    def write(self, fragments: Sequence[memoryview]) -> None:
        if len(self._data) + sum(map(len, fragments)) > _MAX_REPORT_BYTES:
            self._is_too_large = True
            self._data.clear()
        if not self._is_too_large:
            self._data += b"".join(fragments)

    def finish(self) -> bytes:
        if self._command.EventTypeID not in _EVENT_TYPES:
            return _decline(self._command, Refusal.NO_SUCH_EVENT_TYPE)
        report = None if self._is_too_large else _parse_report(self._data, self._context)
        if report is None:
            return _decline(self._command, Refusal.INVALID_ARGUMENT)
        return self._receiver.answer(self._association, self._command, lambda: self._hand_on(report))

    def discard(self) -> None:
        self._data.clear()

    def _hand_on(self, report: CommitmentReport) -> int:
        if self._context.abstract_syntax != StorageCommitmentPushModel:
            raise SOPClassRefused("Not the SOP class of the presentation context.")
        if not self._receiver.callers.may_report(self._association.calling_ae):
            raise CallerRefused("This calling AE title is not configured as an archive.")
        return self._receiver.report(report)


class _ScrapSink:
    """The data set of a request that is answered with a refusal anyway."""

    def __init__(self, response: bytes) -> None:
        self._response = response

    def write(self, fragments: Sequence[memoryview]) -> None:
        pass

    def finish(self) -> bytes:
        return self._response

    def discard(self) -> None:
        pass


def make_ae(settings: ReceiveSettings, node: NodeSettings, *, asks: bool = False) -> AE:
    """Make the Application Entity: what is negotiated, and the limits.

    Reports are negotiated where the node asks archives for them.
    Storage commitment is taken in the reversed role: the caller is its SCP (PS3.4 section J.3.3, PS3.7 annex D.3.3.4).
    """
    ae = AE(node.ae_title)
    ae.implementation_version_name = _IMPLEMENTATION_VERSION_NAME
    ae.maximum_associations = settings.max_associations
    ae.maximum_pdu_size = settings.max_pdu_bytes
    ae.acse_timeout = settings.acse_timeout_s
    ae.dimse_timeout = settings.dimse_timeout_s
    ae.network_timeout = settings.network_timeout_s
    for sop_class_uid in SUPPORTED_SOP_CLASSES:
        ae.add_supported_context(sop_class_uid, _TRANSFER_SYNTAXES)
    for sop_class_uid in REPORTS if asks else ():
        ae.add_supported_context(sop_class_uid, _UNCOMPRESSED)
    ae.add_supported_context(Verification, _UNCOMPRESSED)
    ae.add_supported_context(StorageCommitmentPushModel, _UNCOMPRESSED, scu_role=False, scp_role=True)
    return ae


def _parse_report(data: bytes | bytearray, context: Context) -> CommitmentReport | None:
    """Decode the event information of an N-EVENT-REPORT; None for what is none."""
    syntax = UID(context.transfer_syntax)
    try:
        return read_report(decode(BytesIO(data), syntax.is_implicit_VR, syntax.is_little_endian))
    except Exception as error:  # noqa: BLE001 - a stranger's bytes in a parser that raises whatever it stumbles on
        log.warning("receive.broken-report", kind=type(error).__name__)
        return None


def _decline(command: Command, refusal: Refusal = Refusal.UNRECOGNISED_OPERATION) -> bytes:
    """Encode a refusal; nothing for what asks for no response: a cancellation, or a response."""
    if command.CommandField == CommandField.C_CANCEL_RQ or command.CommandField & 0x8000:
        return b""
    log.warning("receive.declined", operation=f"{command.CommandField:04X}", status=f"{refusal.status:04X}")
    return encode_response(command, refusal.status, refusal.comment)


def _uid_of(command: Command) -> str | None:
    """Return the SOP Instance UID for the log; None for what is no UID and might be anything."""
    return command.AffectedSOPInstanceUID if is_uid(command.AffectedSOPInstanceUID) else None


def _is_at(place: str, host: str) -> bool:
    """Tell whether a configured host, a name or an address, is the peer's address."""
    try:
        found = {entry[4][0] for entry in getaddrinfo(place, None)}
    except OSError:
        log.warning("receive.sender-unresolved", host=place)
        return False
    return _plain(host) in {_plain(str(one)) for one in found}


def _plain(host: str) -> str:
    """Return an address as IPv4 where it is one written as IPv6."""
    parsed = ip_address(host.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
