"""Pictures of documents for those who would rather look: a content tree as a page, a presentation state on its film.

They are drawn from the documents themselves, as a viewer would: what a document lacks is not in its picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom import Dataset

from reports import lettering

_PAPER, _INK, _LINE = (255, 255, 255), (20, 24, 32), (96, 200, 250)
_SIZE = 15
_WIDTH, _MARGIN, _INDENT = 1100, 24, 22
_LONGEST = 100
"""Lines of a page; of the 18 regions of a report nobody needs to look at all."""


def page(lines: Sequence[str]) -> Image.Image:
    """Draw lines of text, indented by pairs of spaces, wrapped, dark on white; what is too long is cut and says so."""
    shown = [*lines[:_LONGEST], f"... and {len(lines) - _LONGEST} lines more"] if len(lines) > _LONGEST else lines
    placed: list[tuple[float, str]] = []
    for line in shown:
        text = line.lstrip(" ")
        left = _MARGIN + _INDENT * (len(line) - len(text)) / 2
        pieces = lettering.wrapped(lettering.drawable(text), _SIZE, _WIDTH - left - _MARGIN)
        placed += [(left, piece) for piece in pieces]
    step = round(1.4 * _SIZE)
    image = Image.new("RGB", (_WIDTH, 2 * _MARGIN + step * len(placed)), _PAPER)
    target = ImageDraw.Draw(image)
    for row, (left, text) in enumerate(placed):
        lettering.draw(target, (left, _MARGIN + step * row), text, _INK, _SIZE)
    return image


def presentation(state: Dataset, display: npt.NDArray[np.uint8]) -> Image.Image:
    """Draw a presentation state's lines and texts (PS3.3 C.10.5) over its film.

    Parameters
    ----------
    state
        A Grayscale Softcopy Presentation State whose annotations are polylines and anchored texts in pixels.
    display
        The film as it is shown, uint8 of shape (rows, columns).
    """
    image = Image.fromarray(display).convert("RGB")
    target, size = ImageDraw.Draw(image), max(12, display.shape[0] // 60)
    for annotation in state.GraphicAnnotationSequence:
        for graphic in annotation.get("GraphicObjectSequence", []):
            values = [float(value) for value in graphic.GraphicData]
            target.line(list(zip(values[::2], values[1::2], strict=True)), fill=_LINE, width=2)
        for item in annotation.get("TextObjectSequence", []):
            x, y = (float(value) for value in item.AnchorPoint)
            lines = map(lettering.drawable, item.UnformattedTextValue.splitlines())
            for text in (part for line in lines for part in lettering.wrapped(line, size, display.shape[1] - x)):
                lettering.draw(target, (x, y), text, _LINE, size)
                y += 1.3 * size
    return image
