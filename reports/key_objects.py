"""A Key Object Selection (PS3.3 A.35.4, TID 2010) that points to the film that was read and to its overlay.

Written without highdicom, whose selection puts a concept name on IMAGE items, which TID 2010 forbids.
"""

from __future__ import annotations

from typing import NamedTuple

from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import KeyObjectSelectionDocumentStorage, SecondaryCaptureImageStorage

from inference.finding import Finding
from reports import codes, content, wording
from reports.content import Relation
from reports.document import begin, coded, image_reference, sealed
from reports.header import required_uid
from reports.identity import DocumentIdentity
from reports.phrases import Language
from reports.structured_report import requested_procedures

SERIES_DESCRIPTION = "Bone age key images (research use only)"


class Capture(NamedTuple):
    """The secondary capture of the same finding."""

    series_instance_uid: str
    sop_instance_uid: str


def compose_kos(
    source: Dataset,
    finding: Finding,
    identity: DocumentIdentity,
    *,
    capture: Capture | None = None,
    language: Language = "en",
) -> FileDataset:
    """Compose the selection of one finding.

    Parameters
    ----------
    source
        The image that was read; its header may be as poor as real CR. It is not changed.
    finding
        An estimate, or a refusal.
    identity
        The document's own UIDs, numbers and time.
    capture
        The overlay, where there is one in the study.
    language
        Of the description.

    Raises
    ------
    IncompleteSource
        The source lacks a UID the document refers to.
    """
    images = [(str(required_uid(source, "SeriesInstanceUID")), image_reference(source))]
    if capture is not None:
        item = Dataset()
        item.ReferencedSOPClassUID = SecondaryCaptureImageStorage
        item.ReferencedSOPInstanceUID = capture.sop_instance_uid
        images.insert(0, (capture.series_instance_uid, item))
    document = begin(KeyObjectSelectionDocumentStorage, source, finding, identity, SERIES_DESCRIPTION)
    document.Modality = "KO"
    document.ReferencedPerformedProcedureStepSequence = Sequence()
    requests = requested_procedures(source)
    if requests:
        document.ReferencedRequestSequence = Sequence(requests)
    document.CurrentRequestedProcedureEvidenceSequence = Sequence([_evidence(source, images)])
    document.ValueType, document.ContinuityOfContent = "CONTAINER", "SEPARATE"
    document.ConceptNameCodeSequence = Sequence([coded(codes.OF_INTEREST)])
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    document.ContentTemplateSequence = Sequence([template])
    items = [
        content.code(codes.LANGUAGE, codes.LANGUAGES[language], relation=Relation.HAS_CONCEPT_MOD),
        content.text(codes.KEY_OBJECT_DESCRIPTION, wording.summary(finding, language)),
        *(content.unnamed_image(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for _series, item in images),
    ]
    content.put(document, items)
    return sealed(document, identity)


def _evidence(source: Dataset, images: list[tuple[str, Dataset]]) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = required_uid(source, "StudyInstanceUID")
    study.ReferencedSeriesSequence = Sequence()
    for series_uid, item in images:
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        series.ReferencedSOPSequence = Sequence([item])
        study.ReferencedSeriesSequence.append(series)
    return study
