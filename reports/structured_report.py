"""The report as a Comprehensive 3D or a Comprehensive Structured Report (PS3.3 A.35.13, A.35.3), made with highdicom.

highdicom's constructor raises for the headers real CR has and copies their character set, so it gets a stand-in with
the source's UIDs only; patient and study are written afterwards, from what the source really says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from highdicom.sr import Comprehensive3DSR, ComprehensiveSR, ContainerContentItem, ImageContentItem
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code

from inference.finding import Finding
from reports import codes, content
from reports.clinic import Assessment
from reports.content import Item, Relation
from reports.document import declare_private_scheme, put_into_study, put_series_and_equipment, sealed
from reports.header import PATIENT_AND_STUDY_TYPE_2, REQUIRED_UIDS, items_of, required_uid, text_of
from reports.identity import DocumentIdentity
from reports.measurement_report import Report, measurement_report
from reports.phrases import Language

SERIES_DESCRIPTION = "Bone age report (research use only)"

REQUEST_TYPE_2: tuple[str, ...] = (
    "AccessionNumber", "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID", "RequestedProcedureDescription",
)  # fmt: skip
"""Attributes of an item of Referenced Request Sequence (0040,A370) that may be empty, PS3.3 C.17.2."""

CORNERSTONE_RECTANGLE = "Cornerstone3DTools@^0.1.0:RectangleROI"
"""Tracking identifier by which OHIF up to 3.11 knows a rectangle; it tracks nothing under another."""


def compose_sr(
    source: Dataset,
    finding: Finding,
    identity: DocumentIdentity,
    *,
    preliminary: bool = True,
    assessment: Assessment | None = None,
    language: Language = "en",
    three_dimensional: bool = True,
    tracking_identifier: str | None = None,
) -> FileDataset:
    """Compose the Structured Report of one finding.

    Parameters
    ----------
    source
        The image that was read; its header may be as poor as real CR. It is not changed.
    finding
        An estimate, or a refusal: both become a report.
    identity
        The document's own UIDs, numbers and time.
    preliminary
        Preliminary Flag (0040,A496): PRELIMINARY, because nobody has verified what software wrote; FINAL where a site
        decides otherwise.
    assessment
        What an estimate means beside references and earlier results.
    language
        Of the text; code meanings stay English.
    three_dimensional
        False makes it a Comprehensive SR (PS3.3 A.35.3), for archives that take no Comprehensive 3D SR. The tree is the
        same: it has no coordinates in three dimensions.
    tracking_identifier
        Tracking Identifier (112039, DCM) of every group; None names each by what it shows.

    Returns
    -------
    FileDataset
        Explicit VR Little Endian with file meta information, as a reader would get it.

    Raises
    ------
    IncompleteSource
        The source lacks a UID the report refers to.
    UnplaceableFinding
        An estimate's hand does not lie on its image.
    """
    about = Circumstances(source, finding, identity, preliminary, SERIES_DESCRIPTION)
    items = measurement_report(Report(source, finding, identity, assessment, language, tracking_identifier))
    form = Comprehensive3DSR if three_dimensional else ComprehensiveSR
    return put_together(form, Root(codes.IMAGING_MEASUREMENT_REPORT, "1500"), items, about)


class Root(NamedTuple):
    """The root container of a tree: its concept and its template."""

    title: Code
    template: str


@dataclass(frozen=True, slots=True, eq=False)
class Circumstances:
    """What a structured report is written about, and as what.

    Raises
    ------
    IncompleteSource
        The source lacks a UID the report refers to.
    """

    source: Dataset
    finding: Finding
    identity: DocumentIdentity
    preliminary: bool
    description: str
    evidence: Dataset = field(init=False)
    """Stands for the source where highdicom looks at it."""

    def __post_init__(self) -> None:
        """Find out before the tree is made whether there can be a report."""
        object.__setattr__(self, "evidence", _stand_in(self.source))


def put_together(form: type[Any], root: Root, items: list[Item], about: Circumstances) -> FileDataset:
    """Return a structured report around its tree.

    Parameters
    ----------
    form
        highdicom's class of it.
    root
        What the tree is called.
    items
        What is in its root.
    about
        What it is about.
    """
    source, identity = about.source, about.identity
    document: Dataset = form(
        evidence=[about.evidence],
        content=_trunk(root, about.evidence),
        series_instance_uid=identity.series_instance_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.sop_instance_uid,
        instance_number=identity.instance_number,
        is_complete=True,
        is_final=not about.preliminary,
        is_verified=False,
        requested_procedures=requested_procedures(source) or None,
    )
    content.put(document, items)
    put_into_study(document, source)
    put_series_and_equipment(document, identity, about.finding, about.description)
    document.CodingSchemeIdentificationSequence = Sequence([declare_private_scheme()])
    _put_predecessor(document, source, identity)
    return sealed(document, identity)


def _put_predecessor(document: Dataset, source: Dataset, identity: DocumentIdentity) -> None:
    """Write Predecessor Documents Sequence (0040,A360) where this document replaces one (PS3.3 C.17.2)."""
    before = identity.predecessor
    if before is None:
        return
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = before.sop_class_uid
    instance.ReferencedSOPInstanceUID = before.sop_instance_uid
    series.SeriesInstanceUID = before.series_instance_uid
    series.ReferencedSOPSequence = Sequence([instance])
    study.StudyInstanceUID = required_uid(source, "StudyInstanceUID")
    study.ReferencedSeriesSequence = Sequence([series])
    document.PredecessorDocumentsSequence = Sequence([study])


def _trunk(root: Root, evidence: Dataset) -> Dataset:
    """Return the root with nothing but the image in it, for highdicom to look at.

    It collects the evidence from the content, copies it twice and searches it three times.
    """
    trunk: Dataset = ContainerContentItem(root.title, is_content_continuous=False, template_id=root.template)
    image = ImageContentItem(
        codes.SOURCE, evidence.SOPClassUID, evidence.SOPInstanceUID, relationship_type=Relation.CONTAINS.value
    )
    trunk.ContentSequence = [image]
    return trunk


def _stand_in(source: Dataset) -> Dataset:
    """Return an image header with the source's UIDs and nothing else that highdicom could stumble over."""
    stand_in = Dataset()
    for keyword in REQUIRED_UIDS:
        setattr(stand_in, keyword, required_uid(source, keyword))
    for keyword in PATIENT_AND_STUDY_TYPE_2:
        setattr(stand_in, keyword, "")
    return stand_in


def requested_procedures(source: Dataset) -> list[Dataset]:
    """Return the requests this report answers, from the source's Request Attributes Sequence (0040,0275)."""
    return [_request(source, attributes) for attributes in items_of(source, "RequestAttributesSequence")]


def _request(source: Dataset, attributes: Dataset) -> Dataset:
    request = Dataset()
    request.StudyInstanceUID = text_of(attributes, "StudyInstanceUID") or required_uid(source, "StudyInstanceUID")
    request.ReferencedStudySequence = Sequence()
    request.RequestedProcedureCodeSequence = Sequence(items_of(attributes, "RequestedProcedureCodeSequence"))
    for keyword in REQUEST_TYPE_2:
        if keyword in attributes:
            request[keyword] = attributes[keyword]
        else:
            setattr(request, keyword, "")
    if not request.AccessionNumber:
        # Unchecked, as identifiers are: a check would quote one that is too long in a warning.
        number = text_of(source, "AccessionNumber")
        request["AccessionNumber"] = DataElement("AccessionNumber", "SH", number, validation_mode=config.IGNORE)
    return request
