"""Boxes and result as a Grayscale Softcopy Presentation State (PS3.3 A.33.1): drawn over the film, and put away again.

Written without highdicom, whose state lacks Laterality, copies windows with several values and shows MONOCHROME1 with
the identity; here the first window is used, and INVERSE where the film is MONOCHROME1.
"""

from __future__ import annotations

from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from inference.anatomy import CARPAL_NAMES, ROI_NAMES
from inference.finding import Box, Estimate, Finding, Laterality
from reports import wording
from reports.document import begin, image_reference, sealed, written_date, written_time
from reports.errors import UnplaceableFinding
from reports.header import numbers_of, required_uid, text_of
from reports.identity import DocumentIdentity
from reports.measurement_report import Report
from reports.phrases import Language

SERIES_DESCRIPTION = "Bone age marks (research use only)"
LABEL = "BONE AGE"
REGIONS, RESULT = "REGIONS", "RESULT"
"""Graphic layers: a viewer may switch each off."""


def compose_gsps(
    source: Dataset, finding: Finding, identity: DocumentIdentity, *, language: Language = "en"
) -> FileDataset:
    """Compose the presentation state of one finding.

    Parameters
    ----------
    source
        The image that was read; its header may be as poor as real CR. It is not changed.
    finding
        An estimate, or a refusal.
    identity
        The document's own UIDs, numbers and time.
    language
        Of the text.

    Raises
    ------
    IncompleteSource
        The source lacks a UID the document refers to.
    UnplaceableFinding
        The header does not say how large the image is.
    """
    report = Report(source, finding, identity)
    area = report.image_box
    if area is None:
        raise UnplaceableFinding("Rows and Columns do not say how large the image is.")
    document = begin(GrayscaleSoftcopyPresentationStateStorage, source, finding, identity, SERIES_DESCRIPTION)
    document.Modality, document.Laterality = "PR", _side(finding)
    # General Series and SOP Common have no such times; this object has its own (PS3.3 C.11.10).
    del document.ContentDate, document.ContentTime
    document.PresentationCreationDate = written_date(identity.created_at)
    document.PresentationCreationTime = written_time(identity.created_at)
    document.ContentLabel, document.ContentCreatorName = LABEL.replace(" ", "_"), ""
    document.ContentDescription = wording.DISCLAIMER  # some count 64 bytes, not letters
    series = Dataset()
    series.SeriesInstanceUID = required_uid(source, "SeriesInstanceUID")
    series.ReferencedImageSequence = Sequence([image_reference(source)])
    document.ReferencedSeriesSequence = Sequence([series])
    document.DisplayedAreaSelectionSequence = Sequence([_displayed(source, area)])
    document.GraphicLayerSequence = Sequence([_layer(name, order) for order, name in enumerate((REGIONS, RESULT), 1)])
    document.GraphicAnnotationSequence = Sequence(_annotations(report, area, language))
    _put_window(document, source)
    inverse = text_of(source, "PhotometricInterpretation") == "MONOCHROME1"
    document.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    return sealed(document, identity)


def _side(finding: Finding) -> str:
    """Return Laterality (0020,0060) of the hand that was read, empty where nobody knows (PS3.3 C.7.3.1, type 2C)."""
    side = finding.laterality if isinstance(finding, Estimate) else Laterality.UNKNOWN
    return "" if side is Laterality.UNKNOWN else side.value


def _displayed(source: Dataset, area: Box) -> Dataset:
    item = Dataset()
    item.ReferencedImageSequence = Sequence([image_reference(source)])
    item.DisplayedAreaTopLeftHandCorner = [1, 1]
    item.DisplayedAreaBottomRightHandCorner = [int(area.x1), int(area.y1)]
    item.PresentationSizeMode = "SCALE TO FIT"
    item.PresentationPixelAspectRatio = [1, 1]
    return item


def _layer(name: str, order: int) -> Dataset:
    item = Dataset()
    item.GraphicLayer, item.GraphicLayerOrder = name, order
    return item


def _annotations(report: Report, area: Box, language: Language) -> list[Dataset]:
    """Return the regions' boxes with their names, and the result in the upper left corner."""
    boxes = [
        (_name(roi.name, language), box) for roi in report.finding.rois if (box := report.on_image(roi.box)) is not None
    ]
    found = report.finding.hand
    hand = None if found is None else report.on_image(found)
    drawn = [box for _, box in boxes] + ([] if hand is None else [hand])
    said = [f"{wording.conclusion(report.finding, language)} {wording.disclaimer(language)}."]
    result = _annotation(report.source, RESULT, [], [(text, area.x0 + 1, area.y0 + 1) for text in said])
    if not drawn:
        return [result]
    names = [(name, box.x0, box.y0) for name, box in boxes]
    return [_annotation(report.source, REGIONS, drawn, names), result]


def _name(region: str, language: Language) -> str:
    """Return a region's number and name; of the carpal ones, which lie over each other, the number alone."""
    number = str(ROI_NAMES.index(region) + 1)
    return number if region in CARPAL_NAMES else f"{number} {wording.region(region, language)}"


def _annotation(source: Dataset, layer: str, boxes: list[Box], texts: list[tuple[str, float, float]]) -> Dataset:
    item = Dataset()
    item.ReferencedImageSequence = Sequence([image_reference(source)])
    item.GraphicLayer = layer
    if boxes:
        item.GraphicObjectSequence = Sequence([_polyline(box) for box in boxes])
    if texts:
        item.TextObjectSequence = Sequence([_text(*text) for text in texts])
    return item


def _polyline(box: Box) -> Dataset:
    """Return a box as a closed line; (0, 0) is the corner of the first pixel, as in an SCOORD (PS3.3 C.10.5.1.2)."""
    item = Dataset()
    item.GraphicAnnotationUnits, item.GraphicDimensions, item.NumberOfGraphicPoints = "PIXEL", 2, 5
    corners = ((box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1), (box.x0, box.y0))
    item.GraphicData = [value for corner in corners for value in corner]
    item.GraphicType, item.GraphicFilled = "POLYLINE", "N"
    return item


def _text(text: str, x: float, y: float) -> Dataset:
    item = Dataset()
    item.UnformattedTextValue = text[:1024]
    item.AnchorPointAnnotationUnits, item.AnchorPointVisibility = "PIXEL", "N"
    item.AnchorPoint = [x, y]
    return item


def _put_window(document: Dataset, source: Dataset) -> None:
    """Write the source's first window, where it has a usable one (PS3.3 C.11.8)."""
    centre, width = numbers_of(source, "WindowCenter")[:1], numbers_of(source, "WindowWidth")[:1]
    if not centre or not width or width[0] < 1:
        return
    item = Dataset()
    item.WindowCenter, item.WindowWidth = f"{centre[0]:.6g}", f"{width[0]:.6g}"
    item.ReferencedImageSequence = Sequence([image_reference(source)])
    document.SoftcopyVOILUTSequence = Sequence([item])
