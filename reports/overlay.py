"""The picture of the secondary capture: the film with its boxes, and the result in words beside it, never over it.

The film is brought to a size a screen shows whole. Names of the regions stand in margins added left and right, joined
to their boxes by thin lines; the result stands in a strip added below: no word ever covers anatomy. Lines are OpenCV's
(smooth), letters are of the font inside Pillow (no file to ship).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from unicodedata import normalize

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inference.anatomy import CARPAL_NAMES, ROI_NAMES
from inference.finding import Box, Estimate, Finding, Refusal
from reports import wording
from reports.errors import FontUnavailable

FILM_LONG_SIDE = 1020
LARGEST_ENLARGEMENT = 3.0
SMALLEST_CANVAS_WIDTH = 900
PADDING = 20
LABEL_GAP = 12

LABEL_SIZE, BODY_SIZE, HEADLINE_SIZE, BANNER_SIZE = 17, 23, 40, 24
LABEL_PITCH = 26
LINE_FACTOR = 1.35

BLACK = (0, 0, 0)
PANEL = (18, 22, 27)
WHITE = (240, 243, 246)
GREY = (168, 178, 188)
CYAN = (86, 200, 235)
AMBER = (247, 181, 75)
BANNER = (122, 30, 34)
HAND = (150, 160, 170)

Colour = tuple[int, int, int]
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


def draw_overlay(
    display: NDArray[np.uint8] | None, finding: Finding, film_size: tuple[int, int] | None = None
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

    Returns
    -------
    NDArray[np.uint8]
        RGB of shape (rows, columns, 3): the long side at most 1,400 pixels for up to two flags.
    """
    film = _placeholder() if display is None else display
    placement = _place(film, film_size or (film.shape[0], film.shape[1]), _margin(finding))
    lines = _wrapped(_lines(finding), placement.width - 2 * PADDING)
    strip = PADDING * 2 + sum(_pitch(line) for line in lines) + _banner_height()
    canvas = np.zeros((placement.height + strip, placement.width, 3), np.uint8)
    shown = _scaled(film, placement)
    canvas[: placement.height, placement.left : placement.left + shown.shape[1]] = shown[..., None]
    labels = [] if display is None else _draw_boxes(canvas, placement, finding)
    canvas[placement.height :] = PANEL
    picture = _written(canvas, placement, labels, lines)
    if display is None:
        middle = (placement.width / 2, placement.height / 2)
        ImageDraw.Draw(picture).text(middle, wording.NO_PICTURE, GREY, _font(BODY_SIZE), anchor="mm")
    return np.asarray(picture)


def _placeholder() -> NDArray[np.uint8]:
    """Return a dark field in place of a film that cannot be shown."""
    return np.full((360, SMALLEST_CANVAS_WIDTH), 40, np.uint8)


def _margin(finding: Finding) -> int:
    """Return the width each margin needs for the longest name in it."""
    return max((ceil(_font(LABEL_SIZE).getlength(roi.name)) + 2 * LABEL_GAP for roi in finding.rois), default=0)


def _place(film: NDArray[np.uint8], film_size: tuple[int, int], margin: int) -> Placement:
    """Fit the film to its long side and centre it between the margins."""
    rows, columns = film.shape
    scale = min(FILM_LONG_SIDE / max(rows, columns), LARGEST_ENLARGEMENT)
    width, height = max(1, round(columns * scale)), max(1, round(rows * scale))
    canvas = max(width + 2 * margin, SMALLEST_CANVAS_WIDTH)
    return Placement(width / film_size[1], height / film_size[0], (canvas - width) // 2, margin, canvas, height)


def _scaled(film: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    rows, columns = film.shape
    scale = min(FILM_LONG_SIDE / max(rows, columns), LARGEST_ENLARGEMENT)
    size = (max(1, round(columns * scale)), placement.height)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(film), size, interpolation=how), dtype=np.uint8)


def _draw_boxes(canvas: Canvas, placement: Placement, finding: Finding) -> list[Label]:
    """Draw the hand's box, the regions' boxes and the lines to their names; return the names to write."""
    boxes = [(roi.name, _colour(roi.name), placement.placed(roi.box)) for roi in finding.rois]
    labels = _labels(boxes, placement)
    faint = canvas.copy()
    for label in labels:
        _draw_leader(faint, label, placement)
    cv2.addWeighted(faint, 0.55, canvas, 0.45, 0, dst=canvas)
    if finding.hand is not None:
        x0, y0, x1, y1 = placement.placed(finding.hand)
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
    """Return the labels of one margin at heights near their boxes, ``LABEL_PITCH`` apart or more, inside the film."""
    ordered = sorted(labels, key=lambda label: label.anchor[1])
    heights = [float(label.anchor[1]) for label in ordered]
    lowest = LABEL_PITCH / 2
    for index, wanted in enumerate(heights):
        heights[index] = lowest = max(wanted, lowest)
        lowest += LABEL_PITCH
    highest = height - LABEL_PITCH / 2
    for index in reversed(range(len(heights))):
        heights[index] = highest = min(heights[index], highest)
        highest -= LABEL_PITCH
    return [replace(label, y=round(y)) for label, y in zip(ordered, heights, strict=True)]


def _draw_leader(canvas: Canvas, label: Label, placement: Placement) -> None:
    """Draw the line from a name to its box."""
    edge = placement.margin if label.on_left else placement.width - placement.margin
    cv2.line(canvas, (edge, label.y), label.anchor, label.colour, 1, cv2.LINE_AA)


def _written(canvas: Canvas, placement: Placement, labels: list[Label], lines: list[Line]) -> Image.Image:
    """Write the names into the margins and the lines and the banner into the strip."""
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for label in labels:
        inset = placement.margin - LABEL_GAP // 2
        x, anchor = (inset, "rm") if label.on_left else (placement.width - inset, "lm")
        draw.text((x, label.y), label.name, label.colour, _font(LABEL_SIZE), anchor=anchor)
    y = placement.height + PADDING
    for line in lines:
        draw.text((PADDING, y), line.text, line.colour, _font(line.size))
        y += _pitch(line)
    _write_banner(draw, canvas.shape)
    return picture


def _write_banner(draw: ImageDraw.ImageDraw, shape: tuple[int, ...]) -> None:
    top = shape[0] - _banner_height()
    draw.rectangle((0, top, shape[1], shape[0]), BANNER)
    middle = (shape[1] / 2, top + _banner_height() / 2)
    draw.text(middle, wording.DISCLAIMER, WHITE, _font(BANNER_SIZE), anchor="mm")


def _banner_height() -> int:
    return round(BANNER_SIZE * 1.8)


def _pitch(line: Line) -> int:
    return round(line.size * LINE_FACTOR)


def _lines(finding: Finding) -> list[Line]:
    """Return what the strip says, most important first."""
    return [
        *(_refusal_lines(finding) if isinstance(finding, Refusal) else _estimate_lines(finding)),
        Line(wording.sex_used(finding.subject)),
        Line(wording.chronological_age(finding.subject)),
        *(Line(f"! {flag.sentence}", colour=AMBER) for flag in wording.flags(finding)),
        Line(wording.model_line(finding), LABEL_SIZE, GREY),
    ]


def _estimate_lines(estimate: Estimate) -> list[Line]:
    apart = wording.difference(estimate)
    read = f"{wording.hand_read(estimate)}; {len(estimate.rois)} of {len(ROI_NAMES)} regions found"
    return [
        Line(wording.bone_age(estimate), HEADLINE_SIZE, WHITE),
        Line(wording.interval(estimate), colour=CYAN),
        Line(f"{read}. {apart}" if apart else read),
    ]


def _refusal_lines(refusal: Refusal) -> list[Line]:
    return [Line("No bone age", HEADLINE_SIZE, AMBER), Line(refusal.sentence), Line(refusal.remedy, colour=GREY)]


def _wrapped(lines: list[Line], width: int) -> list[Line]:
    """Break lines that are too long for the strip at their spaces."""
    return [
        Line(part, line.size, line.colour) for line in lines for part in _parts(_ascii(line.text), line.size, width)
    ]


def _parts(text: str, size: int, width: int) -> list[str]:
    parts: list[str] = []
    for word in text.split():
        longer = f"{parts[-1]} {word}" if parts else word
        if parts and _font(size).getlength(longer) <= width:
            parts[-1] = longer
        else:
            parts.append(word)
    return parts


def _ascii(text: str) -> str:
    """Return the text in the letters the font has: accents dropped, everything else as a question mark."""
    plain = normalize("NFKD", text.replace("\u2013", "-").replace("\u2014", "-"))
    return "".join(c for c in plain if not 0x300 <= ord(c) <= 0x36F).encode("ascii", "replace").decode("ascii")


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that Pillow carries (Aileron, CC0).

    Raises
    ------
    FontUnavailable
        This Pillow was built without FreeType and has letters of one size only.
    """
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise FontUnavailable("Pillow without FreeType cannot write the overlay's text.")
    return font
