"""The last look at a document before it leaves: read back, it must say what the finding says of the image it is about.

Each check has a name; the first that fails raises ``VerificationError``. Nothing is put right here: a document that
fails is a fault of this software and stays at home.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isclose

from pydicom.dataset import Dataset

from inference.finding import Estimate, Finding, Refusal
from reports import codes, wording
from reports.errors import VerificationError
from reports.header import PATIENT_AND_STUDY_TYPE_2, REQUIRED_UIDS, numbers_of, patient_and_study, text_of
from reports.identity import SOP_CLASSES
from reports.read_back import children, descendants, matches, measurement_groups, named, read_bone_age, read_refusal

AGE_TOLERANCE_MONTHS = 1e-6
PRINTED_TOLERANCE_MONTHS = 0.0501
"""Numeric Value has one decimal."""

SMALLEST_CAPTURE_PIXELS = 256
LARGEST_CAPTURE_PIXELS = 4096

MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What a check meets where a document lacks parts it takes for granted."""

Check = Callable[[Dataset, Dataset, Finding], None]


def verify(document: Dataset, source: Dataset, finding: Finding) -> None:
    """Check a composed document against the image and the finding it was made from.

    Parameters
    ----------
    document
        A Structured Report or a secondary capture, best as read again from where it will be sent from.
    source
        The image that was read.
    finding
        What was found on it.

    Raises
    ------
    VerificationError
        The document belongs to another patient or study, refers to another image, says something else than the finding,
        lacks its disclaimer, or is not of a form that displays.
    """
    kind = str(document.get("SOPClassUID", ""))
    if kind not in CHECKS:
        raise VerificationError("sop-class", "no kind of document that is written here")
    for check in (_identity, _patient_and_study, *CHECKS[kind]):
        try:
            check(document, source, finding)
        except MALFORMED as error:
            raise VerificationError("malformed", f"{check.__name__} met a {type(error).__name__}") from None


def _require(condition: bool, check: str, detail: str) -> None:
    if not condition:
        raise VerificationError(check, detail)


def _identity(document: Dataset, source: Dataset, _finding: Finding) -> None:
    """Require that the document is an object of its own, in a series of its own."""
    for keyword in REQUIRED_UIDS:
        _require(bool(document.get(keyword)), "identity", f"{keyword} is missing")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        _require(document.get(keyword) != text_of(source, keyword), "identity", f"{keyword} is the image's own")


def _patient_and_study(document: Dataset, source: Dataset, _finding: Finding) -> None:
    """Require the same patient and study, every identifying attribute as the source has it."""
    expected, found = patient_and_study(source), patient_and_study(document)
    for keyword in ("StudyInstanceUID", "IssuerOfPatientID", *PATIENT_AND_STUDY_TYPE_2):
        same = text_of(expected, keyword) == text_of(found, keyword)
        _require(same, "patient-and-study", f"{keyword} is not that of the image")
    for keyword in PATIENT_AND_STUDY_TYPE_2:
        _require(keyword in document, "patient-and-study", f"{keyword} is missing")


def _report_references(document: Dataset, source: Dataset, _finding: Finding) -> None:
    """Require that the report is about the source image, in its evidence and in every reference."""
    evidence = [
        (study.StudyInstanceUID, series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID)
        for study in document.get("CurrentRequestedProcedureEvidenceSequence") or ()
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    expected = [tuple(text_of(source, keyword) for keyword in REQUIRED_UIDS[:3])]
    _require(evidence == expected, "references", "the evidence is not the source image")
    images = [item for item in descendants(document) if item.get("ValueType") == "IMAGE"]
    _require(bool(images), "references", "no image is referenced")
    _require(all(_references(image, source) for image in images), "references", "another image is referenced")


def _references(item: Dataset, source: Dataset) -> bool:
    return [(r.ReferencedSOPClassUID, r.ReferencedSOPInstanceUID) for r in item.get("ReferencedSOPSequence") or ()] == [
        _referenced(source)
    ]


def _referenced(source: Dataset) -> tuple[str, str]:
    """Return what a reference to the source image says."""
    return text_of(source, "SOPClassUID"), text_of(source, "SOPInstanceUID")


def _report_result(document: Dataset, _source: Dataset, finding: Finding) -> None:
    """Require the finding's bone age or refusal; what a reader sees is what a program reads."""
    if isinstance(finding, Refusal):
        _require(read_bone_age(document) is None, "result", "a refusal has a bone age")
        _require(read_refusal(document) is finding.code, "result", "the refusal has another reason")
        return
    age = read_bone_age(document)
    _require(age is not None and _close(age, finding.age_months), "result", "the bone age is not the finding's")
    printed = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for group in measurement_groups(document)
        for item in named(group, codes.BONE_AGE)
    ]
    _require(len(printed) == 1, "result", "there is not exactly one bone age")
    _require(abs(printed[0] - finding.age_months) <= PRINTED_TOLERANCE_MONTHS, "result", "the printed bone age differs")


def _close(age_months: float, expected_months: float) -> bool:
    return isclose(age_months, expected_months, rel_tol=0, abs_tol=AGE_TOLERANCE_MONTHS)


def _report_text(document: Dataset, _source: Dataset, finding: Finding) -> None:
    """Require conclusion and disclaimer, for those who see text only."""
    texts = [
        (item, str(item.get("TextValue", "")).rstrip())
        for container in named(document, codes.QUALITATIVE_EVALUATIONS)
        for item in children(container)
    ]
    said = [text for item, text in texts if matches(item.get("ConceptNameCodeSequence"), codes.CONCLUSION)]
    stated = any(said == [wording.conclusion(finding, language).rstrip()] for language in wording.LANGUAGES)
    _require(stated, "conclusion", "the conclusion is not the finding's")
    sentences = {wording.disclaimer_sentence(language) for language in wording.LANGUAGES}
    disclaimed = any(text in sentences for _item, text in texts)
    _require(disclaimed, "disclaimer", "the disclaimer is missing")


def _report_form(document: Dataset, source: Dataset, finding: Finding) -> None:
    """Require what viewers need: separate containers, and in each group a tracking UID and a region on the image."""
    containers = [document, *(item for item in descendants(document) if item.get("ValueType") == "CONTAINER")]
    separate = all(item.get("ContinuityOfContent") == "SEPARATE" for item in containers)
    _require(separate, "form", "a container is not SEPARATE")
    groups = list(measurement_groups(document))
    _require(bool(groups) or not isinstance(finding, Estimate), "form", "an estimate has no measurement group")
    tracked = {item.UID for group in groups for item in named(group, codes.TRACKING_UID)}
    _require(len(tracked) == len(groups), "form", "a group has no tracking UID of its own")
    for group in groups:
        _require(any(True for _ in named(group, codes.IMAGE_REGION)), "form", "a group has no region")
    for item in descendants(document):
        if item.get("ValueType") == "SCOORD":
            _require(_on_image(item, source), "form", "a region is not a closed box on the image")


def _on_image(region: Dataset, source: Dataset) -> bool:
    points = numbers_of(region, "GraphicData")
    sizes = (*numbers_of(source, "Columns")[:1], *numbers_of(source, "Rows")[:1])
    return (
        region.get("GraphicType") == "POLYLINE"
        and len(points) == 10
        and points[:2] == points[8:]
        and len(sizes) == 2
        and all(0 <= value <= sizes[index % 2] for index, value in enumerate(points))
    )


def _capture_references(document: Dataset, source: Dataset, _finding: Finding) -> None:
    """Require that the capture names the source image as what it was made from."""
    sources = document.get("SourceImageSequence") or []
    _require(len(sources) == 1, "references", "there is not exactly one source image")
    item = sources[0]
    referenced = (item.get("ReferencedSOPClassUID"), item.get("ReferencedSOPInstanceUID"))
    _require(referenced == _referenced(source), "references", "another image is referenced")
    purpose = matches(item.get("PurposeOfReferenceCodeSequence"), codes.SOURCE_OF_PROCESSING)
    _require(purpose, "references", "the purpose of the reference is missing")


def _capture_result(document: Dataset, _source: Dataset, finding: Finding) -> None:
    """Require the finding's words beside the pixels; what is burned in was drawn from the same words."""
    comments = str(document.get("ImageComments", ""))
    stated = any(wording.conclusion(finding, language).rstrip() in comments for language in wording.LANGUAGES)
    _require(stated, "result", "the image comments do not state the finding")
    _require(wording.DISCLAIMER in comments, "disclaimer", "the disclaimer is missing")
    _require(document.get("BurnedInAnnotation") == "YES", "form", "burned-in text is not declared")


def _capture_pixels(document: Dataset, _source: Dataset, _finding: Finding) -> None:
    """Require RGB of 8 bits, a sane size, and as many bytes as that makes."""
    layout = [document.get(keyword) for keyword in ("SamplesPerPixel", "BitsAllocated", "PlanarConfiguration")]
    rgb = document.get("PhotometricInterpretation") == "RGB" and layout == [3, 8, 0]
    _require(rgb, "pixels", "the pixels are not RGB of 8 bits")
    rows, columns = int(document.get("Rows", 0)), int(document.get("Columns", 0))
    sane = all(SMALLEST_CAPTURE_PIXELS <= size <= LARGEST_CAPTURE_PIXELS for size in (rows, columns))
    _require(sane, "pixels", f"{columns} x {rows} is no size for a screen")
    size = rows * columns * 3
    _require(len(document.get("PixelData", b"")) == size + size % 2, "pixels", "the pixels are incomplete")


def _text_result(document: Dataset, _source: Dataset, finding: Finding) -> None:
    """Require the finding's bone age as a number, none for a refusal; conclusion and disclaimer as text."""
    ages = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in descendants(document)
        if matches(item.get("ConceptNameCodeSequence"), codes.BONE_AGE)
    ]
    if isinstance(finding, Refusal):
        _require(not ages, "result", "a refusal has a bone age")
    else:
        right = len(ages) == 1 and abs(ages[0] - finding.age_months) <= PRINTED_TOLERANCE_MONTHS
        _require(right, "result", "the bone age is not the finding's")
    texts = [str(item.TextValue).rstrip() for item in descendants(document) if item.get("ValueType") == "TEXT"]
    concluded = any(wording.conclusion(finding, language).rstrip() in texts for language in wording.LANGUAGES)
    _require(concluded, "conclusion", "the conclusion is not the finding's")
    disclaimed = any(wording.disclaimer_sentence(language) in texts for language in wording.LANGUAGES)
    _require(disclaimed, "disclaimer", "the disclaimer is missing")


def _marks(document: Dataset, source: Dataset, finding: Finding) -> None:
    """Require that a presentation state is about the source image, states the finding, and draws on the image."""
    images = [item for series in document.ReferencedSeriesSequence for item in series.ReferencedImageSequence]
    referenced = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in images]
    _require(referenced == [_referenced(source)], "references", "another image is referenced")
    texts = [
        str(text.UnformattedTextValue)
        for annotation in document.GraphicAnnotationSequence
        for text in annotation.get("TextObjectSequence") or ()
    ]
    _require(any(_states(text, finding) for text in texts), "result", "the marks do not state the finding")
    sizes = (numbers_of(source, "Columns")[0], numbers_of(source, "Rows")[0])
    for annotation in document.GraphicAnnotationSequence:
        for drawn in annotation.get("GraphicObjectSequence") or ():
            inside = all(0 <= value <= sizes[place % 2] for place, value in enumerate(drawn.GraphicData))
            _require(inside, "form", "a mark is not on the image")
        for text in annotation.get("TextObjectSequence") or ():
            inside = all(0 <= value <= sizes[place] for place, value in enumerate(text.AnchorPoint))
            _require(inside, "form", "a text does not begin on the image")


def _states(text: str, finding: Finding) -> bool:
    """Tell whether a text states finding and disclaimer, wherever its lines end."""
    said = "".join(text.split())
    wanted = (wording.conclusion(finding, language) for language in wording.LANGUAGES)
    return "".join(wording.DISCLAIMER.split()) in said and any("".join(one.split()) in said for one in wanted)


def _page(document: Dataset, source: Dataset, _finding: Finding) -> None:
    """Require a PDF about the source image."""
    (item,) = document.SourceInstanceSequence
    same = (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == _referenced(source)
    _require(same, "references", "another image is referenced")
    is_pdf = document.EncapsulatedDocument.startswith(b"%PDF-") and document.get("BurnedInAnnotation") == "YES"
    _require(is_pdf, "form", "there is no PDF in it")
    _require(wording.DISCLAIMER in document.DocumentTitle, "disclaimer", "the disclaimer is missing")


def _selection(document: Dataset, source: Dataset, finding: Finding) -> None:
    """Require that a selection names the source image, in its evidence too, and states the finding."""
    named_images = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in children(document)
        if item.get("ValueType") == "IMAGE"
    }
    evidence = {
        item.ReferencedSOPInstanceUID
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    _require(
        text_of(source, "SOPInstanceUID") in named_images and named_images == evidence,
        "references",
        "the evidence differs",
    )
    texts = [str(item.TextValue) for item in children(document) if item.get("ValueType") == "TEXT"]
    _require(any(_states(text, finding) for text in texts), "result", "the selection does not state the finding")


_REPORT: tuple[Check, ...] = (_report_references, _report_result, _report_text, _report_form)

CHECKS: dict[str, tuple[Check, ...]] = {
    SOP_CLASSES["sr"]: _REPORT,
    SOP_CLASSES["sr-2d"]: _REPORT,
    SOP_CLASSES["text"]: (_report_references, _text_result),
    SOP_CLASSES["gsps"]: (_marks,),
    SOP_CLASSES["pdf"]: (_page,),
    SOP_CLASSES["kos"]: (_selection,),
    SOP_CLASSES["sc"]: (_capture_references, _capture_result, _capture_pixels),
}
"""What is checked in each kind of document, after what all have in common."""
