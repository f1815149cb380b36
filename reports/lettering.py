"""Text in pictures, in any letters a patient's name or a report may have: each run in the first font that has them.

ASCII is drawn in the font that Pillow carries, other alphabets in DejaVu Sans, Chinese, Japanese and Korean in Droid
Sans Fallback; both files lie in ``fonts`` with their terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from unicodedata import bidirectional, category, normalize

from PIL import ImageDraw, ImageFont

from reports.errors import FontUnavailable

Colour = tuple[int, int, int]

_FIRST_EAST_ASIAN = 0x2E80
_FILES = ("", "DejaVuSans.ttf", "DroidSansFallback.ttf")
_ASCII, _ALPHABETS, _EAST_ASIAN = range(3)
DOUBT = 0.1
"""Part of a width by which the sum of letters may differ from the text they make: kerning, ligatures."""
_NEVER_FIRST = frozenset("、。，．：；！？）】》」』〉”’),.;:!?]%")
"""Punctuation that does not begin a line."""
_TO_THE_LEFT = frozenset({"R", "AL"})
"""Bidirectional classes of letters that are written to the left."""
_MISSING = "\U0010ffff"
"""A noncharacter: no font has it, so its picture is that of a letter that is not there."""


def width(text: str, size: int) -> float:
    """Return how wide a text is drawn, in pixels."""
    return sum(_font(which, size).getlength(run) for which, run in _runs(text))


def draw(  # noqa: PLR0917 - as Pillow has them
    target: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    colour: Colour,
    size: int,
    anchor: str = "la",
) -> None:
    """Draw one line.

    Parameters
    ----------
    target
        Where to draw.
    at
        (x, y) in pixels of the anchor.
    text
        What :func:`drawable` returned.
    size
        Pixels of an em.
    anchor
        Pillow's, of "l", "m", "r" (across) and "a", "m" (down).

    Raises
    ------
    FontUnavailable
        This Pillow was built without FreeType.
    """
    x, y = at
    if anchor[0] != "l":
        whole = width(text, size)
        x -= whole if anchor[0] == "r" else whole / 2
    ascent, descent = _font(_ASCII, size).getmetrics()
    baseline = y + ascent if anchor[1] == "a" else y + (ascent - descent) / 2
    for which, run in _runs(text):
        font = _font(which, size)
        target.text((x, baseline), run, colour, font, anchor="ls")
        x += font.getlength(run)


def wrapped(text: str, size: int, width_px: float) -> list[str]:
    """Break a text into lines: at spaces, between Chinese, Japanese or Korean letters, and where a word is too long."""
    lines: list[str] = []
    for piece, spaced in _pieces(text):
        if not _fits(piece, size, width_px):
            lines += _cut(piece, size, width_px)
            continue
        longer = f"{lines[-1]}{' ' if spaced else ''}{piece}" if lines else piece
        if lines and _fits(longer, size, width_px):
            lines[-1] = longer
        else:
            lines.append(piece)
    return lines


def _cut(word: str, size: int, width_px: float) -> list[str]:
    """Return a word that is wider than a line in parts that are not: a long identifier has no spaces."""
    parts = [word[0]]
    for letter in word[1:]:
        if _fits(parts[-1] + letter, size, width_px):
            parts[-1] += letter
        else:
            parts.append(letter)
    return parts


def _fits(text: str, size: int, width_px: float) -> bool:
    """Return whether a text is no wider, measured as it is drawn only where the sum of its letters leaves a doubt."""
    rough = sum(_advance(letter, size) for letter in text)
    if abs(rough - width_px) > DOUBT * width_px:
        return rough < width_px
    return width(text, size) <= width_px


def drawable(text: str) -> str:
    """Return a text composed, without control characters, and with "?" for each letter that no font has.

    A form of a letter that lacks (a ligature, an Arabic letter as it stands within a word) is the letter itself.
    """
    plain = " ".join(normalize("NFC", text).split())
    return "".join(map(_drawable, (letter for letter in plain if category(letter) not in {"Cc", "Cf"})))


def _drawable(letter: str) -> str:
    if not _is_missing(letter):
        return letter
    usual = normalize("NFKC", letter)
    return "?" if any(map(_is_missing, usual)) else usual


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yield what must stay together, and whether a space went before it."""
    for word in text.split(" "):
        if not word:
            continue
        spaced, piece = True, ""
        for letter in word:
            breaks = _is_east_asian(letter) or (piece and _is_east_asian(piece[-1]))
            if piece and breaks and letter not in _NEVER_FIRST:
                yield piece, spaced
                spaced, piece = False, ""
            piece += letter
        yield piece, spaced


def _runs(text: str) -> Iterator[tuple[int, str]]:
    """Yield the parts of a text with the font of each.

    What stands between two letters that are written to the left is theirs: drawn one by one, the words of a name in
    Arabic or Hebrew would stand in reverse order.
    """
    if text.isascii():
        yield _ASCII, text
        return
    fonts = [_which(letter) for letter in text]
    last: int | None = None
    for place, letter in enumerate(text):
        if bidirectional(letter) in _TO_THE_LEFT:
            if last is not None and not any(map(str.isalnum, text[last + 1 : place])):
                fonts[last + 1 : place] = [_ALPHABETS] * (place - last - 1)
            last = place
    for which, run in groupby(zip(fonts, text, strict=True), key=itemgetter(0)):
        yield which, "".join(letter for _, letter in run)


def _is_east_asian(letter: str) -> bool:
    return ord(letter) >= _FIRST_EAST_ASIAN


def _which(letter: str) -> int:
    if letter.isascii():
        return _ASCII
    return _EAST_ASIAN if _is_east_asian(letter) else _ALPHABETS


@lru_cache(maxsize=4096)
def _is_missing(letter: str) -> bool:
    if letter.isascii():
        return not letter.isprintable()
    font = _font(_which(letter), 20)
    # Behind another letter: a mark that stands alone gets a circle to stand on, also where the font lacks it.
    drawn, missing = font.getmask("a" + letter), font.getmask("a" + _MISSING)
    return drawn.size == missing.size and bytes(drawn) == bytes(missing)


@lru_cache(maxsize=4096)
def _advance(letter: str, size: int) -> float:
    return _font(_which(letter), size).getlength(letter)


@lru_cache(maxsize=32)
def _font(which: int, size: int) -> ImageFont.FreeTypeFont:
    """Return one of the fonts.

    Raises
    ------
    FontUnavailable
        This Pillow was built without FreeType and has letters of one size only.
    """
    if which == _ASCII:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise FontUnavailable("Pillow without FreeType cannot write the overlay's text.")
        return font
    return ImageFont.truetype(BytesIO(_file(which)), size)


@lru_cache(maxsize=len(_FILES))
def _file(which: int) -> bytes:
    return (Path(__file__).parent / "fonts" / _FILES[which]).read_bytes()
