"""What can go wrong in the node, what is done about it, and what a peer is told.

::

    NodeError                          node-error
    ├── SettingsError                  settings            the configuration file is wrong
    ├── NodeIdTaken                    node-id-taken       another live process runs under this node's id
    ├── ReceiveError                   receive-failed      a C-STORE is not answered with Success
    │   ├── SpoolFull                  spool-full          no room left on the spool's disk
    │   ├── SpoolFailed                spool-failed        the spool's disk failed otherwise
    │   ├── ObjectTooLarge             object-too-large    larger than the node is set to accept
    │   ├── BrokenDataSet              broken-data-set     the data set does not parse
    │   ├── IdentifierMismatch         identifier-mismatch data set and C-STORE command name different objects
    │   ├── IdentityClash              identity-clash      the SOP Instance UID is known, with other bytes
    │   ├── SOPClassRefused            sop-class-refused   the object's SOP class is not for this node
    │   └── CallerRefused              caller-refused      the calling AE title is not configured
    ├── StoreError                     store-failed        the SQL store failed
    │   └── UnknownStudy               unknown-study       no such study in the store
    ├── StreetError                    street-failed       a study cannot walk on
    │   ├── SpoolFileMissing           spool-file-missing  a row without its file
    │   ├── FilmPurged                 film-purged         its file was given up on purpose
    │   ├── SourceCutOff               source-cut-off      a received object ends before its data does
    │   ├── InterpretationFailed       interpretation-failed  the interpreter raised; it must refuse instead
    │   ├── CompositionFailed          composition-failed  a document could not be written from its source
    │   ├── DocumentRejected           document-rejected   a document did not survive being read back
    │   ├── DocumentUnwritten          document-unwritten  the documents' disk failed or is full
    │   └── WalkGivenUp                walk-given-up       every attempt ended with the whole process
    └── DeliveryError                  delivery-failed     an object did not reach a peer
        ├── PeerUnreachable            peer-unreachable    refused, timed out, aborted
        ├── PeerBusy                   peer-busy           a status that says: later
        ├── PeerRefused                peer-refused        a status that says: never
        ├── ContextRejected            context-rejected    the peer does not take the SOP class or syntax
        ├── PeerUnknown                peer-unknown        the ledger names a peer the configuration lacks
        ├── DeliveryAbandoned          delivery-abandoned  retried for as long as the settings say
        ├── CommitmentUnsupported      commitment-unsupported  the peer has no storage commitment
        └── CommitmentFailed           commitment-failed   the peer says it does not hold the object

Messages name objects by their UIDs and peers by their configured names. They never hold patient data.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class NodeError(Exception):
    """Base of everything the node raises. ``code`` is stable: it appears in logs, in SQL and on the command line."""

    code: ClassVar[str] = "node-error"


class SettingsError(NodeError):
    """The configuration file is missing, unreadable or wrong.

    Parameters
    ----------
    problems
        Each thing that is wrong; its text becomes a line of the message and holds no values, which may be secrets.
    """

    code = "settings"

    def __init__(self, *problems: object) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class NodeIdTaken(NodeError):
    """Another live process runs under this node's id."""

    code = "node-id-taken"


class ReceiveError(NodeError):
    """A C-STORE request is not answered with Success."""

    code = "receive-failed"


class SpoolFull(ReceiveError):
    """No room is left on the spool's disk."""

    code = "spool-full"


class SpoolFailed(ReceiveError):
    """The spool's disk failed otherwise than by being full."""

    code = "spool-failed"


class ObjectTooLarge(ReceiveError):
    """The object is larger than the node is set to accept."""

    code = "object-too-large"


class BrokenDataSet(ReceiveError):
    """The data set does not parse, or lacks what identifies it."""

    code = "broken-data-set"


class IdentifierMismatch(ReceiveError):
    """The data set and the C-STORE command name different objects or SOP classes."""

    code = "identifier-mismatch"


class IdentityClash(ReceiveError):
    """The SOP Instance UID is in the store already, with other bytes."""

    code = "identity-clash"


class SOPClassRefused(ReceiveError):
    """The object's SOP class is not one this node takes."""

    code = "sop-class-refused"


class CallerRefused(ReceiveError):
    """The calling AE title is not one of the configured peers'."""

    code = "caller-refused"


class StoreError(NodeError):
    """The SQL store failed; nothing of the transaction was kept."""

    code = "store-failed"


class UnknownStudy(StoreError):
    """No study of that UID, or more than one of that beginning, is in the store."""

    code = "unknown-study"


class StreetError(NodeError):
    """A study cannot walk on down the street."""

    code = "street-failed"


class SpoolFileMissing(StreetError):
    """The store has a row for an object whose file is not in the spool."""

    code = "spool-file-missing"


class FilmPurged(StreetError):
    """The file of a received object was removed by a purge."""

    code = "film-purged"


class SourceCutOff(StreetError):
    """A received object ends before its data does, so early that nothing can be written of it."""

    code = "source-cut-off"


class InterpretationFailed(StreetError):
    """The interpreter raised, where its contract is to return a refusal."""

    code = "interpretation-failed"


class CompositionFailed(StreetError):
    """A document could not be composed from its source."""

    code = "composition-failed"


class DocumentRejected(StreetError):
    """A document did not survive being read back: it must not leave."""

    code = "document-rejected"


class DocumentUnwritten(StreetError):
    """The disk that documents are written to failed or is full."""

    code = "document-unwritten"


class WalkGivenUp(StreetError):
    """A revision's walk ended without a result too often: it takes the process down, or never gets through."""

    code = "walk-given-up"


class DeliveryError(NodeError):
    """An object did not reach a peer, or the peer does not vouch for it.

    Parameters
    ----------
    message
        What happened, without patient data.
    status
        DIMSE status the peer answered with (PS3.7 annex C), None where it did not answer.
    """

    code = "delivery-failed"

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PeerUnreachable(DeliveryError):
    """Connection refused, timed out, association rejected or aborted."""

    code = "peer-unreachable"


class PeerBusy(DeliveryError):
    """The peer answered with a status that says: later."""

    code = "peer-busy"


class PeerRefused(DeliveryError):
    """The peer answered with a status that no repetition will change."""

    code = "peer-refused"


class ContextRejected(DeliveryError):
    """The peer accepted no presentation context for the object's SOP class and transfer syntax."""

    code = "context-rejected"


class PeerUnknown(DeliveryError):
    """The ledger names a peer that the configuration does not have (any more)."""

    code = "peer-unknown"


class DeliveryAbandoned(DeliveryError):
    """The object was retried for as long as the settings say."""

    code = "delivery-abandoned"


class CommitmentUnsupported(DeliveryError):
    """The peer does not take Storage Commitment Push Model requests."""

    code = "commitment-unsupported"


class CommitmentFailed(DeliveryError):
    """The peer says, repeatedly, that it does not hold the object safely."""

    code = "commitment-failed"


class Disposition(StrEnum):
    """What is done with the work that met an error."""

    RETRY = "retry"  # the same work again, later, by itself: the cause may pass
    QUARANTINE = "quarantine"  # set this piece of work aside, visibly, until a person acts; everything else goes on
    STOP = "stop"  # the node must not run like this


DISPOSITIONS: dict[type[NodeError], Disposition] = {
    NodeError: Disposition.QUARANTINE,
    SettingsError: Disposition.STOP,
    NodeIdTaken: Disposition.STOP,
    ReceiveError: Disposition.QUARANTINE,
    SpoolFull: Disposition.RETRY,
    SpoolFailed: Disposition.RETRY,
    ObjectTooLarge: Disposition.QUARANTINE,
    BrokenDataSet: Disposition.QUARANTINE,
    IdentifierMismatch: Disposition.QUARANTINE,
    IdentityClash: Disposition.QUARANTINE,
    SOPClassRefused: Disposition.QUARANTINE,
    CallerRefused: Disposition.QUARANTINE,
    StoreError: Disposition.RETRY,
    UnknownStudy: Disposition.QUARANTINE,
    StreetError: Disposition.QUARANTINE,
    SpoolFileMissing: Disposition.QUARANTINE,
    FilmPurged: Disposition.QUARANTINE,
    SourceCutOff: Disposition.QUARANTINE,
    InterpretationFailed: Disposition.QUARANTINE,
    CompositionFailed: Disposition.QUARANTINE,
    DocumentRejected: Disposition.QUARANTINE,
    DocumentUnwritten: Disposition.RETRY,
    WalkGivenUp: Disposition.QUARANTINE,
    DeliveryError: Disposition.RETRY,
    PeerUnreachable: Disposition.RETRY,
    PeerBusy: Disposition.RETRY,
    PeerRefused: Disposition.QUARANTINE,
    ContextRejected: Disposition.QUARANTINE,
    PeerUnknown: Disposition.QUARANTINE,
    DeliveryAbandoned: Disposition.QUARANTINE,
    CommitmentUnsupported: Disposition.QUARANTINE,
    CommitmentFailed: Disposition.QUARANTINE,
}
"""Every class of the tree, by itself: a new one without an entry fails a test."""


DIMSE_STATUSES: dict[type[NodeError], int] = {
    NodeError: 0x0110,  # Processing failure (PS3.7 C.5.14)
    SettingsError: 0x0110,
    NodeIdTaken: 0x0110,
    ReceiveError: 0x0110,
    SpoolFull: 0xA700,  # Refused: Out of resources (PS3.4 table B.2-1)
    SpoolFailed: 0xA701,  # Refused: Out of resources; the last digits are ours
    ObjectTooLarge: 0xA702,  # Refused: Out of resources; the last digits are ours
    BrokenDataSet: 0xC000,  # Error: Cannot understand (PS3.4 table B.2-1)
    IdentifierMismatch: 0xA900,  # Error: Data Set does not match SOP Class (PS3.4 table B.2-1)
    IdentityClash: 0x0111,  # Duplicate SOP Instance (PS3.7 C.5.6)
    SOPClassRefused: 0x0122,  # Refused: SOP Class not supported (PS3.7 C.5.25)
    CallerRefused: 0x0124,  # Refused: Not authorized (PS3.7 C.5.13)
    StoreError: 0xA703,  # Refused: Out of resources; the last digits are ours
    UnknownStudy: 0x0112,  # No such SOP Instance (PS3.7 C.5.12)
    StreetError: 0x0110,
    SpoolFileMissing: 0xA704,  # Refused: Out of resources; the last digits are ours
    FilmPurged: 0x0110,
    SourceCutOff: 0x0110,
    InterpretationFailed: 0x0110,
    CompositionFailed: 0x0110,
    DocumentRejected: 0x0110,
    DocumentUnwritten: 0x0110,
    WalkGivenUp: 0x0110,
    DeliveryError: 0x0110,
    PeerUnreachable: 0x0110,
    PeerBusy: 0x0110,
    PeerRefused: 0x0110,
    ContextRejected: 0x0110,
    PeerUnknown: 0x0110,
    DeliveryAbandoned: 0x0110,
    CommitmentUnsupported: 0x0110,
    CommitmentFailed: 0x0110,
}
"""What a peer is told when a request of its meets the error. Complete, like ``DISPOSITIONS``."""


def disposition_of(error: Exception) -> Disposition:
    """Say what is done with work that met this error; one from outside the tree is set aside for a person to see."""
    return DISPOSITIONS[type(error)] if isinstance(error, NodeError) else Disposition.QUARANTINE


def dimse_status_of(error: Exception) -> int:
    """Return the DIMSE status (PS3.7 annex C) for this error; 0x0110, processing failure, for one from outside."""
    return DIMSE_STATUSES[type(error)] if isinstance(error, NodeError) else 0x0110


def code_of(error: Exception) -> str:
    """Return the stable code of an error, or the name of its class for one from outside the tree."""
    code = getattr(error, "code", None)
    return code if isinstance(code, str) else type(error).__name__
