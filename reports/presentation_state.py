"""Boxes and result as a Grayscale Softcopy Presentation State (PS3.3 A.33.1): drawn over the film, and put away again.

Written without highdicom, whose state lacks Laterality, copies windows with several values and shows MONOCHROME1 with
the identity; here the first window is used, and INVERSE where the film is MONOCHROME1.

A state replaces all transformations of its image: one that it lacks is the identity (PS3.4 N.2). So it has the film's
own modality and VOI LUT, as ``inference.greyscale`` reads them; a window would be applied to values of another scale.
Likewise its display shutter: without one, a viewer shows what the modality had covered. Likewise its overlay planes:
without a layer for them, a viewer hides them, and with them the side marker that a modality has put there.
"""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, GrayscaleSoftcopyPresentationStateStorage

from inference.anatomy import CARPAL_NAMES, ROI_NAMES
from inference.finding import Box, Estimate, Finding, Laterality
from inference.header import UNPARSABLE, integers, items
from inference.shutter import EDGES, read_shutter
from reports import wording
from reports.document import begin, created_at, image_reference, sealed, written_date, written_time
from reports.errors import InapplicableKind
from reports.header import numbers_of, pixel_shape, required_uid, text_of
from reports.identity import DocumentIdentity
from reports.measurement_report import Report
from reports.phrases import Language
from reports.placement import Letters, place_names, place_result

SERIES_DESCRIPTION = "Bone age marks (research use only)"
LABEL = "BONE AGE"
REGIONS, RESULT, OVERLAYS = "REGIONS", "RESULT", "OVERLAYS"
"""Graphic layers: a viewer may switch each off."""
OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
OVERLAY_ACTIVATION_LAYER = 0x1001
"""Groups of overlay planes (PS3.3 C.9.2), and the element of each that a state shows it by (C.11.7)."""
LONGEST_TEXT = 1024
"""Characters of Unformatted Text Value, an ST (PS3.5 6.2)."""
LONGEST_RESULT = 960
"""Characters of the result before its sentences are broken to lines."""
UNSPECIFIED = "US"
"""Rescale Type and Modality LUT Type (PS3.3 C.11.1.1.2) where the source does not say them."""
LEAST_WIDTHS = {"LINEAR_EXACT": 1e-6, "SIGMOID": 1e-6}
"""Functions of a window (PS3.3 C.11.2.1.3) that allow widths below 1, with the least that is written."""


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
    InapplicableKind
        The image is in colour, which such a state must not refer to, or its header does not say how large it is.
    """
    report = Report(source, finding, identity)
    area = report.image_box
    if area is None:
        raise InapplicableKind("Rows and Columns do not say how large the image is.")
    if _is_coloured(source):
        raise InapplicableKind("PhotometricInterpretation or SamplesPerPixel say that the image is not grey.")
    document = begin(GrayscaleSoftcopyPresentationStateStorage, source, finding, identity, SERIES_DESCRIPTION)
    document.Modality, document.Laterality = "PR", _side(finding)
    # General Series and SOP Common have no such times; this object has its own (PS3.3 C.11.10).
    del document.ContentDate, document.ContentTime
    at = created_at(document, identity)
    document.PresentationCreationDate, document.PresentationCreationTime = written_date(at), written_time(at)
    document.ContentLabel, document.ContentCreatorName = LABEL.replace(" ", "_"), ""
    document.ContentDescription = wording.DISCLAIMER  # some count 64 bytes, not letters
    series = Dataset()
    series.SeriesInstanceUID = required_uid(source, "SeriesInstanceUID")
    series.ReferencedImageSequence = Sequence([image_reference(source)])
    document.ReferencedSeriesSequence = Sequence([series])
    document.DisplayedAreaSelectionSequence = Sequence([_displayed(source, area)])
    overlays = _overlay_groups(source)
    layers = (REGIONS, RESULT, OVERLAYS) if overlays else (REGIONS, RESULT)
    document.GraphicLayerSequence = Sequence([_layer(name, order) for order, name in enumerate(layers, 1)])
    document.GraphicAnnotationSequence = Sequence(_annotations(report, area, language))
    for group in overlays:
        document.add_new((group, OVERLAY_ACTIVATION_LAYER), "CS", OVERLAYS)
    _put_modality_lut(document, source)
    _put_voi_lut(document, source)
    _put_shutter(document, source)
    inverse = text_of(source, "PhotometricInterpretation") == "MONOCHROME1"
    document.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    return sealed(document, identity)


def _is_coloured(source: Dataset) -> bool:
    photometric = text_of(source, "PhotometricInterpretation")
    is_grey = not photometric or photometric.startswith("MONOCHROME")
    return not is_grey or numbers_of(source, "SamplesPerPixel")[:1] > (1.0,)


def _overlay_groups(source: Dataset) -> list[int]:
    """Return the groups of the overlay planes that the source has."""
    return sorted({tag.group for tag in source.keys()} & set(OVERLAY_GROUPS))  # noqa: SIM118 - a Dataset iterates elements


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
    item.PresentationPixelAspectRatio = list(pixel_shape(source))
    return item


def _layer(name: str, order: int) -> Dataset:
    item = Dataset()
    item.GraphicLayer, item.GraphicLayerOrder = name, order
    return item


def _annotations(report: Report, area: Box, language: Language) -> list[Dataset]:
    """Return the regions' boxes with their names, and the result beside them."""
    source, finding = report.source, report.finding
    regions = {roi.name: box for roi in finding.rois if (box := report.on_image(roi.box)) is not None}
    hand = None if finding.hand is None else report.on_image(finding.hand)
    around = area, Letters.on(area, pixel_shape(source))
    sentences = wording.summary_lines(finding, language, LONGEST_RESULT).split(wording.NEW_LINE)
    several = isinstance(finding, Estimate) and finding.hands_found > 1
    said = place_result(sentences, around, regions, hand, whole=wording.DISCLAIMER, most=LONGEST_TEXT, several=several)
    result = _annotation(source, RESULT, [], [(wording.NEW_LINE.join(said.lines), said.box.x0, said.box.y0)])
    drawn = [*regions.values(), *([] if hand is None else [hand])]
    if not drawn:
        return [result]
    names = [(_name(name, language), box) for name, box in regions.items()]
    texts = [(name, place.x0, place.y0) for name, place in place_names(names, around, [said.box])]
    return [_annotation(source, REGIONS, drawn, texts), result]


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
    item.UnformattedTextValue = text[:LONGEST_TEXT]
    item.AnchorPointAnnotationUnits, item.AnchorPointVisibility = "PIXEL", "N"
    item.AnchorPoint = [x, y]
    return item


def _put_modality_lut(document: Dataset, source: Dataset) -> None:
    """Write the source's modality LUT or rescale, where it has a usable one (PS3.3 C.11.1)."""
    tables = items(source, "ModalityLUTSequence")
    if tables:
        table = _lut(tables[0], source)
        if table is not None:
            table.ModalityLUTType = text_of(tables[0], "ModalityLUTType") or UNSPECIFIED
            document.ModalityLUTSequence = Sequence([table])
        return
    slope, intercept = numbers_of(source, "RescaleSlope")[:1], numbers_of(source, "RescaleIntercept")[:1]
    if slope and intercept and slope[0]:
        document.RescaleIntercept, document.RescaleSlope = f"{intercept[0]:.9g}", f"{slope[0]:.9g}"
        document.RescaleType = text_of(source, "RescaleType") or UNSPECIFIED


def _put_voi_lut(document: Dataset, source: Dataset) -> None:
    """Write the source's VOI LUT, else its first window, where it has a usable one (PS3.3 C.11.8)."""
    tables = items(source, "VOILUTSequence")
    table = _lut(tables[0], source) if tables else None
    item = _window(source)
    if table is not None:
        item = Dataset()
        item.VOILUTSequence = Sequence([table])
    if item is not None:
        item.ReferencedImageSequence = Sequence([image_reference(source)])
        document.SoftcopyVOILUTSequence = Sequence([item])


def _put_shutter(document: Dataset, source: Dataset) -> None:
    """Write the source's display shutter, where it has a usable one (PS3.3 C.7.6.11), and its grey (C.11.12)."""
    shutter = read_shutter(source)
    if shutter is None:
        return
    document.ShutterShape = list(shutter.shapes)
    for keyword, edge in zip(EDGES, shutter.rectangle or (), strict=False):  # all edges or none
        setattr(document, keyword, edge)
    if shutter.circle is not None:
        document.CenterOfCircularShutter = list(shutter.circle[:2])
        document.RadiusOfCircularShutter = shutter.circle[2]
    if shutter.polygon:
        document.VerticesOfThePolygonalShutter = [place for vertex in shutter.polygon for place in vertex]
    document.ShutterPresentationValue = shutter.presentation_value


def _window(source: Dataset) -> Dataset | None:
    """Return the source's first window with its function; None where it has no usable one (PS3.3 C.11.2)."""
    centre, width = numbers_of(source, "WindowCenter")[:1], numbers_of(source, "WindowWidth")[:1]
    function = text_of(source, "VOILUTFunction")
    least = LEAST_WIDTHS.get(function, 1.0)
    if not centre or not width or width[0] < least:
        return None
    item = Dataset()
    item.WindowCenter, item.WindowWidth = f"{centre[0]:.6g}", f"{width[0]:.6g}"
    if function in LEAST_WIDTHS:
        item.VOILUTFunction = function
    return item


def _lut(item: Dataset, source: Dataset) -> Dataset | None:
    """Return a copy of a look-up table (PS3.3 C.11.1.1) whose representations no pixel of ours need tell.

    None where it cannot be read.
    """
    descriptor, data = integers(item, "LUTDescriptor"), _lut_data(item, source)
    if len(descriptor) != 3 or data is None:
        return None
    count, first, bits = descriptor[0] % 2**16, descriptor[1], descriptor[2]
    entries = count or 2**16
    needed = entries + entries % 2 if bits <= 8 else 2 * entries  # of 8 bits, two may be packed in a word
    if not 1 <= bits <= 16 or len(data) < needed or not -(2**15) <= first < 2**16:
        return None
    table = Dataset()
    # As SS where it begins below zero; a count that SS cannot say is what its bits say (PS3.3 C.11.1.1.1).
    signed = first < 0
    written = count - 2**16 if signed and count >= 2**15 else count
    table.add_new("LUTDescriptor", "SS" if signed else "US", [written, first, bits])
    table.add_new("LUTData", "OW", data)
    return table


def _lut_data(item: Dataset, source: Dataset) -> bytes | None:
    """Return the entries of a table as little-endian words, None where they cannot be read."""
    try:
        data = item.get("LUTData")
    except UNPARSABLE:
        return None
    if isinstance(data, bytes):
        is_big = str(getattr(getattr(source, "file_meta", None), "TransferSyntaxUID", "")) == ExplicitVRBigEndian
        words = data[: len(data) // 2 * 2]
        return np.frombuffer(words, ">u2").astype("<u2").tobytes() if is_big else words
    values = integers(item, "LUTData")
    return (np.array(values, dtype=np.int64) % 2**16).astype("<u2").tobytes() if values else None
