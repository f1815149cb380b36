"""Ask an archive for earlier reports of a patient: C-FIND for studies and series, C-GET or C-MOVE for the reports.

Query and retrieve by the Study Root (PS3.4 C.6.2). C-GET brings objects on the same association; where an archive does
not take it, C-MOVE has them sent to this node's own Storage SCP, which knows them by ``dicom_node.asked``. What comes
back is not trusted to fit: a report that cannot be read, or is another maker's, is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from typing import Any

import structlog
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import DA
from pynetdicom import build_context, build_role, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.asked import REPORTS, Asked
from dicom_node.errors import PeerUnreachable
from dicom_node.requestor import SUCCESS, answers, associated, calling, matches
from dicom_node.settings import ArchivePeer, DeliverSettings, NodeSettings

DESCRIPTION = "Bone age report"
"""What the Series Description of our reports begins with (reports.structured_report)."""
MOST_STUDIES = 50
SOME_FAILED = 0xB000  # "One or more Failures or Warnings" (PS3.4 tables C.4-2 and C.4-3)
DESTINATION_UNKNOWN = 0xA801
_WHOM = "archive"
_ASKED_OF_STUDY = (
    "StudyInstanceUID", "StudyDate", "StudyDescription", "PatientID", "IssuerOfPatientID", "ModalitiesInStudy",
)  # fmt: skip
_ASKED_OF_SERIES = ("SeriesInstanceUID", "Modality", "SeriesDescription")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose earlier studies are asked for. Who the PatientID's issuer is, is to be compared in what comes back."""

    patient_id: str  # verbatim
    not_of_study: str  # the present one
    since: date
    before: date

    def holds(self, study: Dataset) -> bool:
        """Tell whether an answer is of such a study; one without a date may be."""
        uid, on = str(study.get("StudyInstanceUID", "")), _day(study)
        is_other = bool(uid) and uid != self.not_of_study and str(study.get("PatientID", "")) == self.patient_id
        return is_other and (on is None or self.since <= on < self.before)


def _day(study: Dataset) -> date | None:
    try:
        return DA(study.get("StudyDate") or None)
    except (TypeError, ValueError):  # no date, or several
        return None


@dataclass(frozen=True, slots=True)
class Asking:
    """Whom to ask, as whom, and how long to wait."""

    archive: ArchivePeer
    node: NodeSettings
    timeouts: DeliverSettings
    asked: Asked | None = None  # with the node's Storage SCP behind it; None: nothing can be moved here


def fetch_reports(asking: Asking, wanted: Wanted) -> list[Dataset]:
    """Return the bone-age reports an archive has of a patient in other studies.

    Raises
    ------
    PeerUnreachable
        The archive does not answer, or breaks off.
    """
    with inquire(asking, REPORTS) as inquiry:
        return [report for series in list(_report_series(inquiry, wanted)) for report in inquiry.retrieve(series)]


def _report_series(inquiry: Inquiry, wanted: Wanted) -> Iterator[dict[str, str]]:
    """Yield the keys of what may be our reports, of the latest studies first."""
    for study in inquiry.studies(wanted):
        uid = str(study.StudyInstanceUID)
        for series in inquiry.find("SERIES", _ASKED_OF_SERIES, StudyInstanceUID=uid, Modality="SR"):
            described = str(series.get("SeriesDescription", ""))
            if series.get("SeriesInstanceUID") and (not described or described.startswith(DESCRIPTION)):
                yield {"StudyInstanceUID": uid, "SeriesInstanceUID": str(series.SeriesInstanceUID)}


@contextmanager
def inquire(
    asking: Asking, sop_classes: Iterable[str], transfer_syntaxes: Sequence[str] | None = None
) -> Iterator[Inquiry]:
    """Open an association for questions.

    Parameters
    ----------
    sop_classes, transfer_syntaxes
        Of what may be retrieved. With transfer syntaxes each has a context, so that nothing has to be converted;
        without, the uncompressed ones share one.

    Raises
    ------
    PeerUnreachable
        The archive does not answer, or breaks off.
    """
    received: list[bytes] = []

    def keep(event: evt.Event) -> int:
        received.append(event.encoded_dataset())
        return SUCCESS

    archive, classes = asking.archive, list(sop_classes)
    contexts = [build_context(model) for model in _models(asking)]
    gets = archive.retrieve != "move"
    if gets:
        syntaxes = [None] if transfer_syntaxes is None else list(transfer_syntaxes)
        contexts += [build_context(uid, syntax) for uid in classes for syntax in syntaxes]
    roles = [build_role(uid, scp_role=True) for uid in classes] if gets else []
    handlers = [(evt.EVT_C_STORE, keep)]
    ae = calling(asking.node, asking.timeouts)
    with associated(ae, archive, contexts=contexts, ext_neg=roles, evt_handlers=handlers) as assoc:
        yield Inquiry(assoc, asking, received)


def _models(asking: Asking) -> Iterator[str]:
    """Yield the information models that are proposed."""
    yield StudyRootQueryRetrieveInformationModelFind
    if asking.archive.retrieve != "move":
        yield StudyRootQueryRetrieveInformationModelGet
    if asking.archive.retrieve != "get" and asking.asked is not None:
        yield StudyRootQueryRetrieveInformationModelMove


class Inquiry:
    """Questions over one association.

    Parameters
    ----------
    assoc
        With the archive.
    asking
        Whom, and as whom.
    received
        Grows with each object that comes over the association.
    """

    def __init__(self, assoc: Any, asking: Asking, received: list[bytes]) -> None:
        self._assoc = assoc
        self._asking = asking
        self._received = received
        self._accepted = {str(context.abstract_syntax) for context in assoc.accepted_contexts}

    def studies(self, wanted: Wanted) -> list[Dataset]:
        """Return the wanted studies, the latest first.

        Raises
        ------
        PeerUnreachable
            The archive does not answer, or breaks off.
        """
        found = filter(wanted.holds, self.find("STUDY", _ASKED_OF_STUDY, PatientID=wanted.patient_id))
        return sorted(found, key=lambda study: _day(study) or date.min, reverse=True)[:MOST_STUDIES]

    def find(self, level: str, asked: Iterable[str], **keys: str) -> list[Dataset]:
        """Return what the archive has of a level ("STUDY", "SERIES", "IMAGE") that matches the keys.

        Raises
        ------
        PeerUnreachable
            The archive does not answer, or breaks off.
        """
        query = _query(level, {**dict.fromkeys(asked, ""), **keys})
        found = matches(_WHOM, self._assoc, query, StudyRootQueryRetrieveInformationModelFind)
        return [match for match in found if match is not None]

    def retrieve(self, keys: dict[str, str]) -> list[Dataset]:
        """Return a series, or an object, by its UIDs: by C-GET, or by C-MOVE where that does not bring it.

        Raises
        ------
        PeerUnreachable
            The archive does not send it.
        """
        ways: list[Callable[[Dataset, str], list[bytes]]] = []
        if StudyRootQueryRetrieveInformationModelGet in self._accepted:
            ways.append(self._get)
        if StudyRootQueryRetrieveInformationModelMove in self._accepted:
            ways.append(self._move)
        image = keys.get("SOPInstanceUID")
        query, uid = _query("IMAGE" if image else "SERIES", keys), image or keys["SeriesInstanceUID"]
        problem = PeerUnreachable("The archive takes neither C-GET nor C-MOVE from this node.")
        for way in ways:
            try:
                return list(_read(way(query, uid)))
            except PeerUnreachable as error:
                problem = error
        raise problem

    def _get(self, query: Dataset, _uid: str) -> list[bytes]:
        before = len(self._received)
        came = answers(_WHOM, self._assoc.send_c_get, query, StudyRootQueryRetrieveInformationModelGet)
        status = [status for status, _ in came][-1]
        files = self._received[before:]
        if status != SUCCESS and not (status == SOME_FAILED and files):
            raise PeerUnreachable(f"The archive did not send an earlier object: status 0x{status:04X}.")
        return files

    def _move(self, query: Dataset, uid: str) -> list[bytes]:
        """Have the archive send it to our own Storage SCP, which hands it on as it comes."""
        asked, ae_title = self._asking.asked, self._asking.node.ae_title
        assert asked is not None  # else it was not proposed
        with asked.waiting(self._asking.archive.ae_title, uid) as files:
            model = StudyRootQueryRetrieveInformationModelMove
            came = answers(_WHOM, self._assoc.send_c_move, query, ae_title, model)
            status = [status for status, _ in came][-1]
        if status == DESTINATION_UNKNOWN:
            raise PeerUnreachable("The archive does not know this node's AE title: enter it there (0xA801).")
        if status != SUCCESS and not (status == SOME_FAILED and files):
            raise PeerUnreachable(f"The archive did not move an earlier object: status 0x{status:04X}.")
        if status == SUCCESS and not files:
            raise PeerUnreachable(
                "The archive moved an object that did not arrive: check the host and port it has for this node."
            )
        return files


def _query(level: str, keys: dict[str, str]) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def _read(files: Iterable[bytes]) -> Iterator[Dataset]:
    """Yield what can be read of Part 10 files."""
    for file in files:
        try:
            yield dcmread(BytesIO(file))
        except (InvalidDicomError, OSError, ValueError, KeyError, AttributeError) as error:
            log.warning("query.unreadable", kind=type(error).__name__)
