"""Ask an archive for earlier reports of a patient: C-FIND for studies and series, C-GET for the reports themselves.

Query and retrieve by the Study Root (PS3.4 C.6.2). What comes back is not trusted to fit: a report that cannot be read,
or is another maker's, is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydicom import Dataset
from pydicom.valuerep import DA
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from dicom_node.errors import PeerUnreachable
from dicom_node.settings import ArchivePeer, DeliverSettings, NodeSettings

REPORTS = (Comprehensive3DSRStorage, ComprehensiveSRStorage)
DESCRIPTION = "Bone age report"
"""What the Series Description of our reports begins with (reports.structured_report)."""
MOST_STUDIES = 50
PENDING = frozenset({0xFF00, 0xFF01})
SUCCESS = 0x0000
_ASKED_OF_STUDY = ("StudyInstanceUID", "StudyDate", "PatientID", "IssuerOfPatientID", "ModalitiesInStudy")
_ASKED_OF_SERIES = ("SeriesInstanceUID", "Modality", "SeriesDescription")


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
    except ValueError:  # no date
        return None


def fetch_reports(archive: ArchivePeer, node: NodeSettings, timeouts: DeliverSettings, wanted: Wanted) -> list[Dataset]:
    """Return the bone-age reports an archive has of a patient in other studies.

    Parameters
    ----------
    archive, node, timeouts
        Whom to ask, as whom, and how long to wait.
    wanted
        Of whom, and of which time.

    Raises
    ------
    PeerUnreachable
        The archive does not answer, or breaks off.
    """
    received: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        document = event.dataset
        document.file_meta = event.file_meta
        received.append(document)
        return SUCCESS

    ae = AE(node.ae_title)
    ae.connection_timeout = ae.acse_timeout = timeouts.connect_timeout_s
    ae.dimse_timeout = ae.network_timeout = timeouts.dimse_timeout_s
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    for sop_class_uid in REPORTS:
        ae.add_requested_context(sop_class_uid)
    assoc = ae.associate(
        archive.host,
        archive.port,
        ae_title=archive.ae_title,
        ext_neg=[build_role(sop_class_uid, scp_role=True) for sop_class_uid in REPORTS],
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    if not assoc.is_established:
        raise PeerUnreachable("The archive cannot be asked for earlier results: there is no association.")
    try:
        for study, series in list(_report_series(assoc, wanted)):
            _get(assoc, study, series)
    except (RuntimeError, ValueError) as error:
        # Without an accepted context, or when the association is gone.
        raise PeerUnreachable("The archive takes no queries from this node, or broke off.") from error
    finally:
        if assoc.is_established:
            assoc.release()
    return received


def _report_series(assoc: Any, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Yield (study, series) of what may be our reports, of the latest studies first."""
    studies = filter(wanted.holds, _find(assoc, "STUDY", _ASKED_OF_STUDY, PatientID=wanted.patient_id))
    for study in sorted(studies, key=lambda study: _day(study) or date.min, reverse=True)[:MOST_STUDIES]:
        uid = str(study.StudyInstanceUID)
        for series in _find(assoc, "SERIES", _ASKED_OF_SERIES, StudyInstanceUID=uid, Modality="SR"):
            described = str(series.get("SeriesDescription", ""))
            if series.get("SeriesInstanceUID") and (not described or described.startswith(DESCRIPTION)):
                yield uid, str(series.SeriesInstanceUID)


def _find(assoc: Any, level: str, asked: tuple[str, ...], **keys: str) -> list[Dataset]:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword in asked:
        setattr(query, keyword, "")
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    found = []
    for status, answer in assoc.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
        if "Status" not in status:
            raise PeerUnreachable("The archive did not answer a query: timed out or aborted.")
        if status.Status in PENDING and answer is not None:
            found.append(answer)
        elif status.Status not in PENDING and status.Status != SUCCESS:
            raise PeerUnreachable(f"The archive did not answer a query: status 0x{status.Status:04X}.")
    return found


def _get(assoc: Any, study: str, series: str) -> None:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = study, series
    for status, _ in assoc.send_c_get(query, StudyRootQueryRetrieveInformationModelGet):
        if "Status" not in status:
            raise PeerUnreachable("The archive did not send an earlier report: timed out or aborted.")
        if status.Status not in PENDING and status.Status != SUCCESS:
            raise PeerUnreachable(f"The archive did not send an earlier report: status 0x{status.Status:04X}.")
