"""Where the texts of a presentation state go: over no other text, over no bone where there is room, inside the image.

How large a viewer draws letters nobody knows; here they are a sixtieth of the film's long side, as the module has it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from inference.finding import Box, Flag, Roi
from reports import lettering, wording
from reports.errors import VerificationError
from reports.presentation_state import compose_gsps
from reports.verify import verify

WIDTH, HEIGHT = 800.0, 1000.0
HAND = {
    "radius": (332, 763, 472, 949), "ulna": (255, 780, 353, 938), "MC1": (448, 605, 599, 729),
    "MC3": (335, 415, 411, 552), "MC5": (209, 495, 282, 619), "PP1": (559, 485, 668, 594),
    "PP3": (329, 334, 414, 437), "PP5": (172, 428, 258, 530), "MP3": (317, 209, 414, 293),
    "MP5": (117, 365, 209, 438), "DP1": (623, 368, 742, 499), "DP3": (308, 55, 399, 182), "DP5": (66, 257, 159, 364),
    "capitate-hamate": (297, 640, 438, 762), "triquetrum-lunate": (292, 698, 424, 801),
    "scaphoid": (403, 688, 497, 782), "trapezium-trapezoid": (423, 641, 526, 734), "carpus": (274, 635, 518, 823),
}  # fmt: skip
"""Regions of a left hand as found on a film of 800 x 1,000 pixels."""
OTHER_FINGERS = {"second": (455, 105, 530, 430), "fourth": (190, 120, 320, 480)}
"""What has no region, on the same film."""


def upright(x, y):
    return x, y


def tight(x, y):
    """Return a place on a film that ends at the tips of the fingers."""
    return (x - 60) / 690 * WIDTH, (y - 55) / 945 * HEIGHT


def small(x, y):
    """Return a place of a hand in the lower right quarter."""
    return WIDTH / 2 + x / 2, HEIGHT / 2 + y / 2


def mirrored(x, y):
    return WIDTH - x, y


def upside_down(x, y):
    return WIDTH - x, HEIGHT - y


def lying(x, y):
    """Return a place on the film turned by a quarter."""
    return HEIGHT - y, x


def in_the_middle(x, y):
    """Return a place on a film twice as wide."""
    return x + WIDTH / 2, y


def beside_another(x, y):
    """Return a place of the left one of two hands that fill a film."""
    return 30 + 0.9 * x, 80 + 0.9 * y


FILMS = {
    "upright": (upright, (1000, 800)),
    "tight": (tight, (1000, 800)),
    "small": (small, (1000, 800)),
    "mirrored": (mirrored, (1000, 800)),
    "upside-down": (upside_down, (1000, 800)),
    "lying": (lying, (800, 1000)),
    "wide": (in_the_middle, (1000, 1600)),
    "two": (beside_another, (1000, 1500)),
}
"""Where a place of the hand is on each film, and its rows and columns."""


def moved(place, box):
    (x0, y0), (x1, y1) = place(*box[:2]), place(*box[2:])
    return Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


@pytest.fixture
def composed(dx, estimate, identify):
    """``composed(film, scale, language, flags)`` returns the state of a film, checked, and its image's size."""

    def make(film="upright", scale=1.0, language="en", flags=(), hands=1):
        place, (rows, columns) = FILMS[film]
        dx.Rows, dx.Columns = round(rows * scale), round(columns * scale)
        boxes = {name: moved(place, box) for name, box in HAND.items()}
        rois = tuple(
            Roi(name, Box(b.x0 * scale, b.y0 * scale, b.x1 * scale, b.y1 * scale), 0.9) for name, b in boxes.items()
        )
        x0, y0 = (min(getattr(roi.box, side) for roi in rois) for side in ("x0", "y0"))
        x1, y1 = (max(getattr(roi.box, side) for roi in rois) for side in ("x1", "y1"))
        finding = replace(estimate, rois=rois, hand=Box(x0, y0, x1, y1), flags=flags, hands_found=hands)
        document = compose_gsps(dx, finding, identify(dx, "gsps"), language=language)
        verify(document, dx, finding)
        return document, finding

    return make


def covered(document, long_side):
    """Return what the names and the result cover, the result last."""
    letter = long_side / 60
    found = []
    for annotation in document.GraphicAnnotationSequence:
        for item in annotation.get("TextObjectSequence", ()):
            lines = str(item.UnformattedTextValue).split("\r\n")
            x, y = item.AnchorPoint
            wide = max(lettering.width(line, 60) for line in lines) / 60 * letter
            found.append(Box(x, y, x + wide, y + 1.3 * letter * len(lines)))
    return found


def shared(one, other):
    wide, high = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(wide, 0) * max(high, 0)


@pytest.mark.parametrize("language", wording.LANGUAGES)
@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("film", FILMS)
def test_no_text_lies_over_another_or_leaves_the_image(composed, dx, film, scale, language):
    document, finding = composed(film, scale, language)
    texts = covered(document, max(dx.Rows, dx.Columns))
    assert len(texts) == len(finding.rois) + 1
    for one, other in combinations(texts, 2):
        assert shared(one, other) <= 0.02 * scale**2  # pixels, of rounding
    for text in texts:
        assert min(text.x0, text.y0) >= 0
        assert text.x1 <= dx.Columns
        assert text.y1 <= dx.Rows


@pytest.mark.parametrize("film", ["upright", "small", "mirrored", "upside-down", "lying", "wide"])
def test_the_result_lies_over_no_region_where_there_is_room(composed, dx, film):
    document, finding = composed(film)
    result = covered(document, max(dx.Rows, dx.Columns))[-1]
    hidden = sum(shared(result, roi.box) for roi in finding.rois)
    assert hidden <= 0.01 * (result.x1 - result.x0) * (result.y1 - result.y0)


@pytest.mark.parametrize("film", ["upright", "mirrored", "upside-down", "wide"])
def test_nor_over_fingers_without_regions(composed, dx, film):
    document, _ = composed(film)
    result = covered(document, max(dx.Rows, dx.Columns))[-1]
    place = FILMS[film][0]
    fingers = {name: moved(place, box) for name, box in OTHER_FINGERS.items()}
    assert [name for name, finger in fingers.items() if shared(result, finger)] == []


def test_nor_over_the_other_hand(composed, dx):
    """Given two hands, of which one was read, then the other one lies on the other side as its mirror image."""
    document, finding = composed("two", hands=2)
    result = covered(document, max(dx.Rows, dx.Columns))[-1]
    others = [
        Box(dx.Columns - box.x1, box.y0, dx.Columns - box.x0, box.y1) for box in (roi.box for roi in finding.rois)
    ]
    assert [box for box in others if shared(result, box)] == []
    assert [roi.name for roi in finding.rois if shared(result, roi.box)] == []


def test_on_pixels_that_are_not_square(composed, dx):
    """Given pixels twice as wide as high, then letters are so many fewer pixels wide."""
    dx.ImagerPixelSpacing = ["0.1", "0.2"]
    document, _ = composed("upright")
    square = covered(document, 2 * dx.Columns)  # the long side as shown, in the height of a pixel
    texts = [Box(text.x0, text.y0, text.x0 + (text.x1 - text.x0) / 2, text.y1) for text in square]
    for one, other in combinations(texts, 2):
        assert shared(one, other) <= 0.02
    assert max(text.x1 for text in texts) <= dx.Columns
    assert max(text.y1 for text in texts) <= dx.Rows


@pytest.mark.parametrize("anchor", [[801.0, 5.0], [5.0, 1001.0], [-1.0, 5.0]])
def test_a_text_beyond_the_image_is_noticed(composed, dx, anchor):
    document, finding = composed()
    document.GraphicAnnotationSequence[0].TextObjectSequence[0].AnchorPoint = anchor
    with pytest.raises(VerificationError, match="form"):
        verify(document, dx, finding)


@pytest.mark.parametrize("language", wording.LANGUAGES)
def test_the_disclaimer_stays_in_one_line(composed, language):
    flags = tuple(Flag(f"f{place}", f"Something number {place} speaks against the result.") for place in range(9))
    document, _ = composed("upright", 1.0, language, flags)
    said = document.GraphicAnnotationSequence[-1].TextObjectSequence[0].UnformattedTextValue
    assert len(said) <= 1024
    assert [line for line in said.split("\r\n") if wording.DISCLAIMER in line]


def test_a_strip_of_a_film_has_its_texts_inside(composed, dx, estimate, identify):
    """Given a film narrower than the disclaimer, then that is broken rather than drawn beyond the edge."""
    dx.Rows, dx.Columns = 1000, 200
    hand = replace(estimate, rois=(Roi("DP3", Box(120.0, 5.0, 198.0, 90.0), 0.9),), hand=Box(20.0, 0.0, 199.0, 900.0))
    document = compose_gsps(dx, hand, identify(dx, "gsps"))
    verify(document, dx, hand)
    for text in covered(document, 1000):
        assert text.x1 <= 200
        assert text.y1 <= 1000
