"""The picture of the secondary capture: the film with its boxes, and the result in words beside it, never over it.

The film is brought to a size a screen shows whole. Numbers and names of the regions stand in margins added left and
right, joined to their boxes by thin lines; the result stands in a strip added below, beside it the growth chart and the
stage profile where there are any: no word ever covers anatomy. Lines are OpenCV's (smooth), letters ``lettering``'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inference.anatomy import CARPAL_NAMES, ROI_NAMES
from inference.finding import Box, Estimate, Finding, Refusal
from reports import lettering, wording
from reports.chart import draw_chart
from reports.clinic import Assessment
from reports.palette import AMBER, BANNER, CYAN, GREY, HAND, PANEL, WHITE, Colour
from reports.phrases import Language, translated
from reports.profile_bars import draw_profile

FILM_LONG_SIDE = 1020
LARGEST_ENLARGEMENT = 3.0
SMALLEST_CANVAS_WIDTH = 900
PADDING = 20
LABEL_GAP = 12

LABEL_SIZE, BODY_SIZE, HEADLINE_SIZE, BANNER_SIZE = 20, 23, 40, 24
"""On a screen of 1,024 lines a picture of 1,700 shows the smallest letters 12 pixels high."""
LABEL_PITCH = 28
LINE_FACTOR = 1.35

CHART_SIZE = (440, 340)
"""Pixels of the growth chart, width and height."""
TEXT_WIDTH = 460
"""Least width of the strip's text in pixels: where the chart leaves less, the canvas is made wider."""

Canvas = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the strip."""

    text: str
    size: int = BODY_SIZE
    colour: Colour = WHITE


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the film lies on the canvas: canvas = film * scale + offset, in pixels."""

    scale_x: float
    scale_y: float
    left: int
    margin: int
    width: int
    height: int

    def placed(self, box: Box) -> tuple[int, int, int, int]:
        """Return a box of the film as ``(x0, y0, x1, y1)`` on the canvas, its last pixels included."""
        x0, x1 = (round(x * self.scale_x) + self.left for x in (box.x0, box.x1))
        y0, y1 = (round(y * self.scale_y) for y in (box.y0, box.y1))
        return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)


@dataclass(frozen=True, slots=True)
class Label:
    """A region's name in a margin: the point of its box it belongs to, and the height it stands at."""

    name: str
    colour: Colour
    on_left: bool
    anchor: tuple[int, int]
    y: int


@dataclass(frozen=True, slots=True)
class Extras:
    """What the picture shows beside the finding.

    ``patient`` is a line that names the patient, for archives whose viewers show pixels only; None where a site wants
    nobody named in pixels.
    """

    assessment: Assessment | None = None
    language: Language = "en"
    patient: str | None = None


def draw_overlay(
    display: NDArray[np.uint8] | None,
    finding: Finding,
    film_size: tuple[int, int] | None = None,
    extras: Extras = Extras(),
    *,
    pixel: tuple[int, int] = (1, 1),
) -> Canvas:
    """Draw the film, its boxes and the result.

    Parameters
    ----------
    display
        uint8 of shape (rows, columns), bones bright, as ``inference.film.display_bytes`` makes it; None where the
        pixels could not be decoded.
    finding
        What to say and to draw. Boxes are in pixels of the source image.
    film_size
        (rows, columns) of the source image, where the display was made smaller; its own shape otherwise.
    extras
        What is shown beside the finding.
    pixel
        Height and width of a pixel of the film, in any unit: it is shown with square ones.

    Returns
    -------
    NDArray[np.uint8]
        RGB of shape (rows, columns, 3): the long side at most 1,600 pixels for up to two flags, without extras.

    Raises
    ------
    FontUnavailable
        This Pillow was built without FreeType and has letters of one size only.
    """
    film, pixel = (_placeholder(), (1, 1)) if display is None else (display, pixel)
    size = film_size or (film.shape[0], film.shape[1])
    language = extras.language
    inset = _inset(finding, extras)
    least = SMALLEST_CANVAS_WIDTH if inset is None else TEXT_WIDTH + inset.width + 3 * PADDING
    shown = _scaled(film, pixel)
    placement = _place(shown, size, _margin(finding, language), least)
    text_width = placement.width - 2 * PADDING - (0 if inset is None else inset.width + PADDING)
    lines = _wrapped(_lines(finding, extras), text_width)
    text_height = sum(_pitch(line) for line in lines)
    strip = PADDING * 2 + max(text_height, 0 if inset is None else inset.height) + _banner_height()
    canvas = np.zeros((placement.height + strip, placement.width, 3), np.uint8)
    canvas[: placement.height, placement.left : placement.left + shown.shape[1]] = cv2.cvtColor(
        shown, cv2.COLOR_GRAY2RGB
    )
    labels = [] if display is None else _draw_boxes(canvas, placement, finding, language, size)
    canvas[placement.height :] = PANEL
    picture = _written(canvas, placement, labels, lines, language)
    if inset is not None:
        picture.paste(inset, (placement.width - PADDING - inset.width, placement.height + PADDING))
    if display is None:
        middle = (placement.width / 2, placement.height / 2)
        lettering.draw(ImageDraw.Draw(picture), middle, wording.no_picture(language), GREY, BODY_SIZE, "mm")
    return np.asarray(picture)


def _inset(finding: Finding, extras: Extras) -> Image.Image | None:
    """Return the growth chart above the stage profile, what there is of them; None for neither."""
    if not isinstance(finding, Estimate):
        return None
    parts: list[Image.Image] = []
    assessment = extras.assessment
    if assessment is not None:
        title = wording.chart_title(assessment, extras.language)
        chart = draw_chart(finding, assessment, CHART_SIZE, title)
        parts += [] if chart is None else [chart]
    if finding.profile is not None:
        parts.append(draw_profile(finding.profile, CHART_SIZE[0], extras.language))
    if not parts:
        return None
    inset = Image.new("RGB", (CHART_SIZE[0], sum(part.height for part in parts)), PANEL)
    top = 0
    for part in parts:
        inset.paste(part, (0, top))
        top += part.height
    return inset


def _placeholder() -> NDArray[np.uint8]:
    """Return a dark field in place of a film that cannot be shown."""
    return np.full((360, SMALLEST_CANVAS_WIDTH), 40, np.uint8)


def _margin(finding: Finding, language: Language) -> int:
    """Return the width each margin needs for the longest name in it."""
    return max(
        (ceil(lettering.width(name, LABEL_SIZE)) + 2 * LABEL_GAP for name in _names(finding, language)), default=0
    )


def _is_staged(finding: Finding) -> bool:
    return isinstance(finding, Estimate) and finding.profile is not None


def _names(finding: Finding, language: Language) -> list[str]:
    """Return what the margins call each region: its number in anatomical order, its name, its stage if there is one."""
    profile = finding.profile if isinstance(finding, Estimate) else None
    stages = {} if profile is None else {bone.name: bone for bone in profile.bones}
    names = []
    for roi in finding.rois:
        name = f"{ROI_NAMES.index(roi.name) + 1} {wording.region(roi.name, language)}"
        names.append(f"{name} ({stages[roi.name].stage})" if roi.name in stages else name)
    return names


def _place(shown: NDArray[np.uint8], film_size: tuple[int, int], margin: int, least: int) -> Placement:
    """Centre the film, as it is shown, between the margins."""
    height, width = shown.shape
    canvas = max(width + 2 * margin, least)
    return Placement(width / film_size[1], height / film_size[0], (canvas - width) // 2, margin, canvas, height)


def _scaled(film: NDArray[np.uint8], pixel: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the film with square pixels, brought to its long side."""
    high, wide = (side / min(pixel) for side in pixel)
    rows, columns = film.shape[0] * high, film.shape[1] * wide
    scale = min(FILM_LONG_SIDE / max(rows, columns), LARGEST_ENLARGEMENT)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(film), size, interpolation=how), dtype=np.uint8)


def _draw_boxes(
    canvas: Canvas, placement: Placement, finding: Finding, language: Language, film_size: tuple[int, int]
) -> list[Label]:
    """Draw what lies on the film of the hand's box and the regions', and lines to their names; return the names."""
    rows, columns = film_size
    named = zip(finding.rois, _names(finding, language), strict=True)
    boxes = [
        (name, _colour(roi.name), placement.placed(box))
        for roi, name in named
        if (box := roi.box.clipped(columns, rows)) is not None
    ]
    labels = _labels(boxes, placement)
    faint = canvas.copy()
    for label in labels:
        _draw_leader(faint, label, placement)
    cv2.addWeighted(faint, 0.55, canvas, 0.45, 0, dst=canvas)
    hand = None if finding.hand is None else finding.hand.clipped(columns, rows)
    if hand is not None:
        x0, y0, x1, y1 = placement.placed(hand)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), HAND, 1)
    for _name, colour, (x0, y0, x1, y1) in boxes:
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, 2, cv2.LINE_AA)
    return labels


def _colour(name: str) -> Colour:
    return AMBER if name in CARPAL_NAMES else CYAN


def _labels(boxes: list[tuple[str, Colour, tuple[int, int, int, int]]], placement: Placement) -> list[Label]:
    """Give each region a place in the margin nearer to it, half of them on each side, without overlap."""
    by_side = sorted(boxes, key=lambda box: box[2][0] + box[2][2])
    half = (len(by_side) + 1) // 2
    left = [Label(n, c, True, (b[0], (b[1] + b[3]) // 2), 0) for n, c, b in by_side[:half]]
    right = [Label(n, c, False, (b[2], (b[1] + b[3]) // 2), 0) for n, c, b in by_side[half:]]
    return [*_spread(left, placement.height), *_spread(right, placement.height)]


def _spread(labels: list[Label], height: int) -> list[Label]:
    """Return the labels of one margin at heights near their boxes, ``LABEL_PITCH`` apart or more, inside the film.

    Beside a film that is too low for them they stand closer: one over the edge would not be seen at all.
    """
    pitch = min(LABEL_PITCH, height / max(1, len(labels)))
    ordered = sorted(labels, key=lambda label: label.anchor[1])
    heights = [float(label.anchor[1]) for label in ordered]
    lowest = pitch / 2
    for index, wanted in enumerate(heights):
        heights[index] = lowest = max(wanted, lowest)
        lowest += pitch
    highest = height - pitch / 2
    for index in reversed(range(len(heights))):
        heights[index] = highest = min(heights[index], highest)
        highest -= pitch
    return [replace(label, y=round(y)) for label, y in zip(ordered, heights, strict=True)]


def _draw_leader(canvas: Canvas, label: Label, placement: Placement) -> None:
    """Draw the line from a name to its box."""
    edge = placement.margin if label.on_left else placement.width - placement.margin
    cv2.line(canvas, (edge, label.y), label.anchor, label.colour, 1, cv2.LINE_AA)


def _written(
    canvas: Canvas, placement: Placement, labels: list[Label], lines: list[Line], language: Language
) -> Image.Image:
    """Write the names into the margins and the lines and the banner into the strip."""
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for label in labels:
        inset = placement.margin - LABEL_GAP // 2
        x, anchor = (inset, "rm") if label.on_left else (placement.width - inset, "lm")
        lettering.draw(draw, (x, label.y), label.name, label.colour, LABEL_SIZE, anchor)
    y = placement.height + PADDING
    for line in lines:
        lettering.draw(draw, (PADDING, y), line.text, line.colour, line.size)
        y += _pitch(line)
    _write_banner(draw, canvas.shape, wording.disclaimer(language))
    return picture


def _write_banner(draw: ImageDraw.ImageDraw, shape: tuple[int, ...], text: str) -> None:
    top = shape[0] - _banner_height()
    draw.rectangle((0, top, shape[1], shape[0]), BANNER)
    middle = (shape[1] / 2, top + _banner_height() / 2)
    lettering.draw(draw, middle, text, WHITE, BANNER_SIZE, "mm")


def _banner_height() -> int:
    return round(BANNER_SIZE * 1.8)


def _pitch(line: Line) -> int:
    return round(line.size * LINE_FACTOR)


def _lines(finding: Finding, extras: Extras) -> list[Line]:
    """Return what the strip says, most important first."""
    language, subject = extras.language, finding.subject
    against = [Line(f"! {sentence}", colour=AMBER) for sentence in wording.flag_lines(finding, language)]
    if isinstance(finding, Refusal):
        stated = [Line(wording.sex_stated(subject, language)), Line(wording.chronological_age(subject, language))]
        lines = [*_refusal_lines(finding, language), *stated, *against]
    else:
        lines = [*_estimate_lines(finding, extras, against), Line(wording.sex_used(subject, language))]
    return [
        *lines,
        *(Line(note, LABEL_SIZE, GREY) for note in wording.notes(extras.assessment, language)),
        *([] if extras.patient is None else [Line(extras.patient)]),
        *([Line(wording.legend(language, staged=_is_staged(finding)), LABEL_SIZE, GREY)] if finding.rois else []),
        Line(wording.model_line(finding, language), LABEL_SIZE, GREY),
    ]


def _estimate_lines(estimate: Estimate, extras: Extras, against: list[Line]) -> list[Line]:
    """Return the result, the child's age beside it, what speaks against it, and what it means."""
    language = extras.language
    apart = wording.difference(estimate, language)
    return [
        Line(wording.bone_age(estimate, language), HEADLINE_SIZE, WHITE),
        Line(wording.interval(estimate, language), colour=CYAN),
        Line(wording.chronological_age(estimate.subject, language)),
        *([] if apart is None else [Line(apart)]),
        *against,
        *(Line(sentence) for sentence in wording.assessed(extras.assessment, language)),
        Line(wording.read_from(estimate, len(ROI_NAMES), language)),
    ]


def _refusal_lines(refusal: Refusal, language: Language) -> list[Line]:
    return [
        Line(wording.no_bone_age(language), HEADLINE_SIZE, AMBER),
        Line(translated(refusal.sentence, language)),
        *(Line(wording.assumed_reading(reading, language), colour=CYAN) for reading in refusal.assumed),
        Line(translated(refusal.remedy, language), colour=GREY),
    ]


def _wrapped(lines: list[Line], width: int) -> list[Line]:
    """Break lines that are too long for the strip."""
    return [
        Line(part, line.size, line.colour)
        for line in lines
        for part in lettering.wrapped(lettering.drawable(line.text), line.size, width)
    ]
