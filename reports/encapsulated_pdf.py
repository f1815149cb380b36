"""The overlay as an Encapsulated PDF of one page (PS3.3 A.45.1), for archives that show documents and no captures."""

from __future__ import annotations

from io import BytesIO
from time import struct_time

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import EncapsulatedPDFStorage

from inference.finding import Finding
from reports import codes, wording
from reports.document import begin, coded, image_reference, sealed
from reports.identity import DocumentIdentity
from reports.phrases import Language

SERIES_DESCRIPTION = "Bone age page (research use only)"
PIXELS_PER_INCH = 150.0
PDF = "application/pdf"


def compose_pdf(
    source: Dataset,
    finding: Finding,
    picture: NDArray[np.uint8],
    identity: DocumentIdentity,
    *,
    language: Language = "en",
) -> FileDataset:
    """Compose the page of one finding.

    Parameters
    ----------
    source
        The image that was read; its header may be as poor as real CR. It is not changed.
    finding
        An estimate, or a refusal.
    picture
        RGB of ``reports.overlay.draw_overlay``, uint8 of shape (rows, columns, 3): the page is what it shows.
    identity
        The document's own UIDs, numbers and time.
    language
        Of the title; the picture is drawn in one already.

    Raises
    ------
    IncompleteSource
        The source lacks a UID the document refers to.
    """
    title = wording.page_title(language)
    page = _page(picture, identity, title)
    document = begin(EncapsulatedPDFStorage, source, finding, identity, SERIES_DESCRIPTION)
    document.Modality, document.ConversionType = "DOC", "WSD"
    document.AcquisitionDateTime = ""
    document.BurnedInAnnotation = "YES"
    document.DocumentTitle = title
    document.ConceptNameCodeSequence = Sequence([coded(codes.DIAGNOSTIC_IMAGING_REPORT)])
    document.VerificationFlag = "UNVERIFIED"
    document.SourceInstanceSequence = Sequence([image_reference(source)])
    document.MIMETypeOfEncapsulatedDocument = PDF
    document.EncapsulatedDocumentLength = len(page)
    document.EncapsulatedDocument = page + b"\0" * (len(page) % 2)
    return sealed(document, identity)


def _page(picture: NDArray[np.uint8], identity: DocumentIdentity, title: str) -> bytes:
    """Return the picture as a PDF: the same bytes for the same work, so its dates are the document's."""
    buffer = BytesIO()
    at: struct_time = identity.created_at.utctimetuple()
    Image.fromarray(picture).save(
        buffer, "PDF", resolution=PIXELS_PER_INCH, title=title, producer="boneage-node", creationDate=at, modDate=at
    )
    return buffer.getvalue()
