"""Where the texts of a presentation state go: beside the hand as far as there is room, over no other, inside the image.

A state says where a text begins and not how large it is: viewers choose letters as they like. They are taken to be a
sixtieth of the film's long side high here, a usual size where the film fills a window. Letters a bit larger or smaller
still find the free place, for a text begins at its upper left corner and grows to the right and down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.finding import Box
from reports import lettering

Places = NDArray[np.float64]
"""Of shape (places down, places across)."""

LETTER = 1 / 60
"""Height of a letter, as a part of the long side of the film as it is shown."""
SLACK, LINE_FACTOR = 1.02, 1.3
"""What is added to the width of a line, for letters of other sizes are spaced otherwise, and to its height."""
COLUMNS = (1.0, 0.8, 0.65, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25)
"""Widths a text is broken to, as parts of the image's; none is narrower than what must stay in one line."""
CELLS = 160
"""Cells of the long side of the image in which the room is measured."""
STEPS = 20
"""Places across and down that are tried."""
REGION_COST, HAND_COST = 12.0, 8.0
"""What a cell of a region, and of the rest of the hand, costs to be written over; a free one costs nothing."""
LINE_COST, DOWN_COST, ACROSS_COST = 4.0, 24.0, 12.0
"""Cells of the hand that one line more, and a place at the far end, are worth: a free text stands above and left."""
OUTSIDE_COST = 1e5
"""What each cell's width beyond the edge costs: more than anything on the image."""
_CHAINS = (("DP1", "PP1", "MC1", "carpus"), ("DP3", "MP3", "PP3", "MC3"), ("DP5", "MP5", "PP5", "MC5"))
_FINGER_BONES = frozenset(name for chain in _CHAINS for name in chain) - {"MC3", "MC5", "PP5", "carpus"}
_BETWEEN = (("DP1", 0.6, 1.25), ("DP5", 0.5, 1.15))
"""Where the tips of second and fourth finger lie, of a flat hand: the tip that they stand beside as well as the third
finger's, the third one's share in the place between both, and how much further out they lie."""
_FOREARM = 4.0
"""How many times as far as from the carpus to the ends of radius and ulna the forearm goes on beyond these."""
_MEASURED = 20
"""Size in which letters are measured; a tiny film's own would be rounded to nothing."""
_NO_BREAK = "\u00a0"
_IN_A_QUANTITY = re.compile(r"(?<=\d) (?=[%ymc])|(?<=\d y) (?=\d)")
"""The spaces of "90 %", "11 y 1 mo", "132.5 months" and "140.0 cm"."""
_EDGE = 1.0
"""Pixels between a text and the edge of the image."""


@dataclass(frozen=True, slots=True)
class Letters:
    """Size of a letter in pixels of the image, which need not be square."""

    width: float
    height: float

    @classmethod
    def on(cls, area: Box, pixel: tuple[float, float]) -> Letters:
        """Return the letters of an image; ``pixel`` is how high and how wide a pixel is shown."""
        high, wide = pixel
        size = LETTER * max((area.x1 - area.x0) * wide, (area.y1 - area.y0) * high)
        return cls(size / wide, size / high)

    def extent(self, lines: Sequence[str]) -> tuple[float, float]:
        """Return width and height of lines of text in pixels of the image."""
        longest = max(lettering.width(line, _MEASURED) for line in lines)
        return SLACK * longest / _MEASURED * self.width, len(lines) * LINE_FACTOR * self.height


@dataclass(frozen=True, slots=True)
class Placed:
    """Lines of text, and what they cover."""

    lines: tuple[str, ...]
    box: Box


def place_result(
    lines: Sequence[str],
    around: tuple[Box, Letters],
    regions: Mapping[str, Box],
    hand: Box | None,
    *,
    whole: str,
    most: int,
    several: bool = False,
) -> Placed:
    """Return the result's lines, broken and placed where they cover least of the hand.

    Parameters
    ----------
    lines
        A sentence each.
    around
        The image, and the letters on it.
    regions
        The boxes of regions by their names.
    hand
        The hand's box, for where nothing is known of its regions.
    whole
        A part of them that stays in one line where the image is wide enough.
    most
        Characters the text may have, two for each end of a line.
    several
        Whether the image shows another hand: it is taken to lie on the other side, as its mirror image.
    """
    area, letters = around
    room = _Room(area, regions, hand, several=several)
    words = [word for line in lines for word in line.replace(whole, _unbroken(whole)).split(" ")]
    narrowest = letters.extent([word for word in words if _NO_BREAK in word] or [""])[0] + 2 * _EDGE
    widest = area.x1 - area.x0 - 2 * _EDGE
    widths = dict.fromkeys(min(max(part * (area.x1 - area.x0), narrowest), widest) for part in COLUMNS)
    broken = dict.fromkeys(_broken(lines, whole, width, letters) for width in widths)
    fitting = [text for text in broken if sum(map(len, text)) + 2 * (len(text) - 1) <= most] or [tuple(lines)]
    placed = {text: room.place(letters.extent(text), len(text)) for text in fitting}
    text = min(placed, key=lambda one: placed[one][0])
    return Placed(text, placed[text][1])


def place_names(
    names: Sequence[tuple[str, Box]], around: tuple[Box, Letters], taken: Sequence[Box]
) -> list[tuple[str, Box]]:
    """Return regions' names with what they cover: in a corner of their boxes, else beside them, over no other text."""
    area, letters = around
    placed: list[tuple[str, Box]] = []
    for name, box in names:
        size = letters.extent([name])
        others = [*taken, *(other for _, other in placed)]
        wanted = [_inside(corner, size, area) for corner in _corners(box, size)]
        placed.append((name, min(wanted, key=lambda place: sum(_shared(place, other) for other in others))))
    return placed


def _corners(box: Box, size: tuple[float, float]) -> list[tuple[float, float]]:
    """Return where a name may begin, the first choice first: in the corners of its box, above, below and beside it."""
    width, height = size
    inside = list(product((box.x0, box.x1 - width), (box.y0, box.y1 - height)))
    beside = [(box.x0, box.y0 - height), (box.x0, box.y1), (box.x0 - width, box.y0), (box.x1, box.y0)]
    return [*inside, *beside]


def _inside(corner: tuple[float, float], size: tuple[float, float], area: Box) -> Box:
    """Return a text moved onto the image; what is larger than that begins at its edge."""
    (x, y), (width, height) = corner, size
    x = max(min(x, area.x1 - width - _EDGE), area.x0)
    y = max(min(y, area.y1 - height - _EDGE), area.y0)
    return Box(x, y, x + width, y + height)


def _shared(one: Box, other: Box) -> float:
    """Return the area that two boxes share."""
    wide, high = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(wide, 0.0) * max(high, 0.0)


def _broken(lines: Sequence[str], whole: str, width: float, letters: Letters) -> tuple[str, ...]:
    measured = width / letters.width * _MEASURED
    kept = (_IN_A_QUANTITY.sub(_NO_BREAK, line.replace(whole, _unbroken(whole))) for line in lines)
    parts = (part for line in kept for part in lettering.wrapped(line, _MEASURED, measured))
    return tuple(part.replace(_NO_BREAK, " ") for part in parts)


def _unbroken(text: str) -> str:
    return text.replace(" ", _NO_BREAK)


class _Room:
    """What each part of an image costs to be written over."""

    def __init__(self, area: Box, regions: Mapping[str, Box], hand: Box | None, *, several: bool) -> None:
        self.area = area
        self.scale = CELLS / max(area.x1 - area.x0, area.y1 - area.y0)
        height, width = ((high - low) * self.scale for low, high in ((area.y0, area.y1), (area.x0, area.x1)))
        costs = np.zeros((max(1, round(height)), max(1, round(width))), np.uint8)
        if regions:
            self._put_hand(costs, regions)
        for box in regions.values() or ([] if hand is None else [hand]):
            cv2.rectangle(costs, self._cell(box.x0, box.y0), self._cell(box.x1, box.y1), REGION_COST, cv2.FILLED)
        if several:
            costs = np.maximum(costs, costs[:, ::-1])
        self.sums = np.pad(costs.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def _cell(self, x: float, y: float) -> tuple[int, int]:
        return int((x - self.area.x0) * self.scale), int((y - self.area.y0) * self.scale)

    def _put_hand(self, costs: NDArray[np.uint8], regions: Mapping[str, Box]) -> None:
        """Fill the palm and the fingers, those without regions where they lie between the others."""
        palm = [box for name, box in regions.items() if name not in _FINGER_BONES]
        corners = [self._cell(x, y) for box in palm for x in (box.x0, box.x1) for y in (box.y0, box.y1)]
        if corners:
            cv2.fillConvexPoly(costs, cv2.convexHull(np.array(corners, np.int32)), HAND_COST)
        middles = {name: np.array(box.centre) for name, box in regions.items()}
        chains = [[middles[name] for name in chain if name in middles] for chain in _CHAINS]
        if palm and "DP3" in middles:
            root = np.mean([box.centre for box in palm], axis=0)
            chains += [
                [root, root + reach * (share * middles["DP3"] + (1 - share) * middles[other] - root)]
                for other, share, reach in _BETWEEN
                if other in middles
            ]
        thick = max(1, round(self.scale * float(np.median([box.x1 - box.x0 for box in regions.values()]))))
        for chain in chains:
            self._draw(costs, chain, thick)
        forearm = [middles[name] for name in ("radius", "ulna") if name in middles]
        if forearm and "carpus" in middles:
            base = np.mean(forearm, axis=0)
            self._draw(costs, [base, base + _FOREARM * (base - middles["carpus"])], len(forearm) * thick)

    def _draw(self, costs: NDArray[np.uint8], chain: Sequence[NDArray[np.float64]], thick: int) -> None:
        line = np.array([self._cell(*middle) for middle in chain], np.int32).reshape(-1, 1, 2)
        cv2.polylines(costs, [line], False, HAND_COST, thick)

    def place(self, size: tuple[float, float], lines: int) -> tuple[float, Box]:
        """Return the best place of a text of this size on the image, and what it costs."""
        area, (width, height) = self.area, size
        right, down = area.x1 - width - 2 * _EDGE - area.x0, area.y1 - height - 2 * _EDGE - area.y0
        across, below = np.meshgrid(np.linspace(0, 1, STEPS), np.linspace(0, 1, STEPS))
        x, y = area.x0 + _EDGE + across * max(right, 0.0), area.y0 + _EDGE + below * max(down, 0.0)
        costs = self._cost(x, y, size) + DOWN_COST * below + ACROSS_COST * across
        best = np.unravel_index(int(np.argmin(costs)), costs.shape)
        outside = OUTSIDE_COST * (max(-right, 0.0) + max(-down, 0.0)) * self.scale
        left, top = float(x[best]), float(y[best])
        return float(costs[best]) + LINE_COST * lines + outside, Box(left, top, left + width, top + height)

    def _cost(self, x: Places, y: Places, size: tuple[float, float]) -> Places:
        """Return what a text of this size covers at each of some places."""
        rows, columns = self.sums.shape[0] - 1, self.sums.shape[1] - 1
        x, y = (x - self.area.x0) * self.scale, (y - self.area.y0) * self.scale
        wide, high = (side * self.scale for side in size)
        x0, x1 = (np.clip(np.round(edge), 0, columns).astype(np.intp) for edge in (x, x + wide))
        y0, y1 = (np.clip(np.round(edge), 0, rows).astype(np.intp) for edge in (y, y + high))
        covered: Places = self.sums[y1, x1] - self.sums[y0, x1] - self.sums[y1, x0] + self.sums[y0, x0]
        return covered
