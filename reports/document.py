"""What every document of ours has in common: the modules around its content, and its form as a DICOM file.

A composed document is written to bytes and read again before it is handed on: what the caller holds is what a peer will
read, and nothing that cannot be written leaves this package.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from io import BytesIO

from pydicom import dcmread, dcmwrite
from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian

from inference.finding import Finding
from reports import codes
from reports.header import PATIENT_AND_STUDY_TYPE_2, PATIENT_AND_STUDY_TYPE_3, patient_and_study, required_uid
from reports.identity import IMPLEMENTATION_CLASS_UID, DocumentIdentity

CHARACTER_SET = "ISO_IR 192"


def put_into_study(document: Dataset, source: Dataset) -> None:
    """Replace the document's patient and study attributes by those of its source (see ``reports.header``).

    Raises
    ------
    IncompleteSource
        The source lacks its Study Instance UID.
    """
    document.SpecificCharacterSet = CHARACTER_SET
    for keyword in PATIENT_AND_STUDY_TYPE_2 + PATIENT_AND_STUDY_TYPE_3:
        if keyword in document:
            delattr(document, keyword)
    for element in patient_and_study(source):
        document[element.tag] = element


def begin(
    sop_class_uid: str, source: Dataset, finding: Finding, identity: DocumentIdentity, description: str
) -> Dataset:
    """Return a document of a SOP class with all that documents have in common, for its own modules to be added.

    Raises
    ------
    IncompleteSource
        The source lacks its Study Instance UID.
    """
    document = Dataset()
    document.SOPClassUID = sop_class_uid
    put_into_study(document, source)
    put_series_and_equipment(document, identity, finding, description)
    return document


def image_reference(source: Dataset) -> Dataset:
    """Return the item that references the image that was read (PS3.3 table 10-11).

    Raises
    ------
    IncompleteSource
        The source lacks one of both UIDs.
    """
    item = Dataset()
    item.ReferencedSOPClassUID = required_uid(source, "SOPClassUID")
    item.ReferencedSOPInstanceUID = required_uid(source, "SOPInstanceUID")
    return item


def put_series_and_equipment(document: Dataset, identity: DocumentIdentity, finding: Finding, description: str) -> None:
    """Write General Series, General Equipment and SOP Common (PS3.3 C.7.3.1, C.7.5.1, C.12.1)."""
    document.SeriesInstanceUID = identity.series_instance_uid
    document.SeriesNumber = identity.series_number
    document.SeriesDescription = description
    document.SOPInstanceUID = identity.sop_instance_uid
    document.InstanceNumber = identity.instance_number
    document.Manufacturer = identity.manufacturer[:64]
    document.ManufacturerModelName = (finding.model.name if finding.model else identity.manufacturer)[:64]
    document.SoftwareVersions = identity.software_version[:64]
    document.StationName = identity.station_name[:16]
    document.DeviceUID = identity.device_uid
    at = created_at(document, identity)
    for event in ("Series", "Content", "InstanceCreation"):
        setattr(document, f"{event}Date", written_date(at))
        setattr(document, f"{event}Time", written_time(at))
    # highdicom names itself as equipment that contributed, at the time its clock shows.
    for equipment in document.get("ContributingEquipmentSequence") or ():
        equipment.ContributionDateTime = written_date(at) + written_time(at)


def declare_private_scheme() -> Dataset:
    """Return the item of Coding Scheme Identification Sequence (0008,0110) that declares our own concepts."""
    item = Dataset()
    item.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    item.CodingSchemeUID = codes.PRIVATE_SCHEME_UID
    item.CodingSchemeName = codes.PRIVATE_SCHEME_NAME
    item.CodingSchemeResponsibleOrganization = "boneage-node"
    return item


def coded(concept: Code) -> Dataset:
    """Return the item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = concept[:3]
    return item


def created_at(document: Dataset, identity: DocumentIdentity) -> datetime:
    """Return when a document was made, in the zone its study's dates and times are in, where that is known.

    Timezone Offset From UTC (0008,0201) goes for all dates and times of an object, our own too (PS3.3 C.12.1.1.8).
    """
    offset = document.get("TimezoneOffsetFromUTC")
    if not offset:
        return identity.created_at
    sign, hours, minutes = offset[0], int(offset[1:3]), int(offset[3:5])
    apart = timedelta(hours=hours, minutes=minutes)
    return identity.created_at.astimezone(timezone(-apart if sign == "-" else apart))


def written_date(moment: datetime) -> str:
    """Return a DA of PS3.5 6.2."""
    return moment.strftime("%Y%m%d")


def written_time(moment: datetime) -> str:
    """Return a TM of PS3.5 6.2, to the second."""
    return moment.strftime("%H%M%S")


def sealed(document: Dataset, identity: DocumentIdentity) -> FileDataset:
    """Return the document as a reader will get it, in Explicit VR Little Endian, with its file meta information."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = document.SOPClassUID
    meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = f"BONEAGE_{identity.software_version}"[:16]
    plain = FileDataset("", document, preamble=b"\0" * 128, file_meta=meta)
    # It is in the form it is written in already, the content tree as bytes: pydicom need not look through it for that.
    plain.set_original_encoding(False, True, convert_encodings(CHARACTER_SET))
    return dcmread(BytesIO(encoded(plain)))


def encoded(document: Dataset) -> bytes:
    """Return a document as the bytes of a DICOM file (PS3.10 7): the same bytes for the same work."""
    buffer = BytesIO()
    dcmwrite(buffer, document, enforce_file_format=True)
    return buffer.getvalue()
