"""One film, as the interpretation sees it: rendered, bones bright, with its side and spacing.

Rendering follows PS3.3 C.11 and PS3.4 N.2: modality LUT, VOI LUT or first window, exactly one inversion, and then the
display shutter: what it hides is neither read nor shown, and sets no window. Pixels keep the rows and columns of the
stored image, so a box found in a film is a box in the DICOM image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset

from inference.errors import CutOff, UnsupportedObject
from inference.finding import Flag, Laterality
from inference.greyscale import render_table
from inference.header import ends_within, items, numbers, reaches, texts
from inference.pixels import DECODERS, LOSSY, Layout, decode, read_layout
from inference.shutter import WHITE, Shutter, read_shutter, states_shutter

CR_IMAGE = str(uid.ComputedRadiographyImageStorage)
DX_FOR_PRESENTATION = str(uid.DigitalXRayImageStorageForPresentation)
DX_FOR_PROCESSING = str(uid.DigitalXRayImageStorageForProcessing)
SECONDARY_CAPTURE = str(uid.SecondaryCaptureImageStorage)

SUPPORTED_SOP_CLASSES: tuple[str, ...] = (CR_IMAGE, DX_FOR_PRESENTATION, DX_FOR_PROCESSING, SECONDARY_CAPTURE)
"""What the node receives. DX for processing is among them so that it is refused with a reason, not lost."""
SUPPORTED_TRANSFER_SYNTAXES: tuple[str, ...] = tuple(map(str, DECODERS))
"""What can be decoded here: everything that has a decoder under a free licence."""

GREY_TOLERANCE = 16 / 255
"""Difference between the colours of a pixel, of full range, that still counts as grey: JPEG leaves some."""

SQUARE_TOLERANCE = 0.01
"""Share by which the sides of a pixel may differ and still count as the same."""

LEAST_SHOWN = 0.25
"""A shutter that shows a smaller share of its film than this is flagged: it may be of an image of another size."""
_MOSTLY_HIDDEN = Flag("shutter-hides-most", "The display shutter hides most of the film; only what it shows was read.")
_UNUSABLE_SHUTTER = Flag(
    "shutter-unusable", "The film's display shutter cannot be used as the header gives it; all of the film was read."
)
_NOT_SQUARE = Flag("pixels-not-square", "The film's pixels are not square; they were made square for reading.")

_LATERALITY_CODES = {
    ("7771000", "SCT"): "L",
    ("24028007", "SCT"): "R",
    ("G-A101", "SRT"): "L",
    ("G-A100", "SRT"): "R",
    ("G-A101", "SNM3"): "L",
    ("G-A100", "SNM3"): "R",
}
_MODIFIERS = (
    ("AnatomicRegionSequence", "AnatomicRegionModifierSequence"),
    ("PrimaryAnatomicStructureSequence", "PrimaryAnatomicStructureModifierSequence"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """A rendered film."""

    pixels: npt.NDArray[np.float32]  # (rows, columns) of the stored image, 0 dark .. 1 bright
    laterality: Laterality
    laterality_source: str  # the element that said so, or why there is none
    spacing_mm: tuple[float, float] | None  # (between rows, between columns), at the detector
    flags: tuple[Flag, ...]
    hidden: npt.NDArray[np.bool_] | None = None  # (rows, columns), what a display shutter hides
    pixel_aspect: float = 1.0  # height of a pixel over its width


def read_film(ds: Dataset) -> Film:
    """Decode and render a film.

    Polarity is what the header says; whether bones really are bright can only be told from the pixels, and a header
    that contradicts itself is flagged.

    Raises
    ------
    CutOff
        If the object ends before its data does.
    UnreadablePixels
        If the pixels are missing, damaged, or contradict the header.
    UnsupportedObject
        If the SOP class, transfer syntax, depth, colours or number of frames are not read here.
    """
    _check_whole(ds)
    layout = read_layout(ds)
    cells, colour_flags = _to_grey(decode(ds, layout), layout)
    shutter, shutter_flags = _find_shutter(ds)
    shown = None if shutter is None else shutter.shown(*cells.shape)
    table, flags = render_table(ds, layout, cells if shown is None else cells[shown][None])
    pixels, hidden, flags = table[cells], None, (*flags, *shutter_flags)
    if shutter is not None and shown is not None:
        hidden = ~shown
        pixels[hidden] = shutter.presentation_value / WHITE
        flags += () if shown.mean() >= LEAST_SHOWN else (_MOSTLY_HIDDEN,)
    side, source, side_flags = read_laterality(ds)
    spacing, aspect = read_spacing(ds), read_pixel_aspect(ds)
    flags = (*colour_flags, *flags, *_loss_flags(ds, layout), *side_flags)
    flags += () if aspect == 1 else (_NOT_SQUARE,)
    return Film(pixels, side, source, spacing, flags, hidden, aspect)


def display_bytes(film: Film) -> npt.NDArray[np.uint8]:
    """Return the film as it is shown to people, shape (rows, columns), 0..255."""
    return np.rint(film.pixels * 255).astype(np.uint8)


def bytes_to_read(film: Film) -> npt.NDArray[np.uint8]:
    """Return the same for networks: what a shutter hides is dark, as padding is, whatever grey a viewer gives it."""
    shown = display_bytes(film)
    if film.hidden is not None:
        shown[film.hidden] = 0
    return shown


def without_border(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Cut off edges of one grey value, as borders and masks added after exposure have; return (x, y) of the new corner.

    Rows and columns go as long as all their pixels equal the film's corner pixel on that side; an image of one grey
    value stays as it is.
    """
    top, bottom = _flat_edge(image), image.shape[0] - _flat_edge(image[::-1])
    left, right = _flat_edge(image.T), image.shape[1] - _flat_edge(image.T[::-1])
    if top >= bottom or left >= right:
        return image, (0, 0)
    return image[top:bottom, left:right], (left, top)


def with_square_pixels(
    image: npt.NDArray[np.uint8], pixel_aspect: float
) -> tuple[npt.NDArray[np.uint8], tuple[float, float]]:
    """Sample an image anew, as large as before, so that its pixels are square; one whose pixels are stays as it is.

    Returns the image and the (x, y) steps in pixels of the given image from one of its pixels to the next.
    """
    if pixel_aspect == 1:
        return image, (1.0, 1.0)
    rows, columns = image.shape
    factor = pixel_aspect**0.5
    extent = (max(1, round(columns / factor)), max(1, round(rows * factor)))
    made = np.asarray(cv2.resize(image, extent, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return made, (columns / extent[0], rows / extent[1])


def _flat_edge(image: npt.NDArray[np.uint8]) -> int:
    """Count the first rows that have all the value of the first pixel."""
    differs = (image != image[0, 0]).any(axis=1)
    return int(differs.argmax()) if differs.any() else len(image)


def read_laterality(ds: Dataset) -> tuple[Laterality, str, tuple[Flag, ...]]:
    """Return the side the header states, where it stands or why there is none, and a flag for a contradiction.

    ImageLaterality, Laterality and the anatomic modifiers are compared; they must agree. B (both) is no side.
    """
    stated = _stated_sides(ds)
    sides = {side for side, _ in stated}
    if not sides:
        return Laterality.UNKNOWN, "no element states a side", ()
    if sides == {"B"}:
        flag = Flag("both-hands-stated", "The header says that both sides are in the film.")
        return Laterality.UNKNOWN, f"{stated[0][1]} says both", (flag,)
    if len(sides) > 1:
        flag = Flag("laterality-contradictory", "The header contradicts itself about the side, so none is used.")
        return Laterality.UNKNOWN, " and ".join(source for _, source in stated) + " contradict each other", (flag,)
    return Laterality(sides.pop()), stated[0][1], ()


def read_spacing(ds: Dataset) -> tuple[float, float] | None:
    """Return (row, column) spacing in mm: ImagerPixelSpacing, else PixelSpacing, else NominalScannedPixelSpacing."""
    for keyword in ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing"):
        spacing = numbers(ds, keyword)
        if len(spacing) == 2 and all(0 < side < 10 for side in spacing):
            return spacing[0], spacing[1]
    return None


def read_pixel_aspect(ds: Dataset) -> float:
    """Return a pixel's height over its width, 1 where they hardly differ: by its spacing, else by PixelAspectRatio.

    PS3.3 C.7.6.3.1.7: PixelAspectRatio stands in films without a spacing, such as digitised ones.
    """
    ratio = numbers(ds, "PixelAspectRatio")
    height, width = read_spacing(ds) or (ratio if len(ratio) == 2 and min(ratio) > 0 else (1.0, 1.0))
    return 1.0 if abs(height - width) <= SQUARE_TOLERANCE * max(height, width) else height / width


def _check_whole(ds: Dataset) -> None:
    """Check that an object, of a kind that is read here, has not been cut off before its pixel data.

    What is cut within its pixel data is seen when that is decoded. pydicom returns nothing at all of a file that ends
    within an element of undefined length, such as compressed pixel data.
    """
    has_pixels = reaches(ds, "FloatPixelData")  # or any other of group 7FE0
    if not reaches(ds, "SOPClassUID") or (not has_pixels and ends_within(ds)):
        raise CutOff("The object is cut off: it ends before its data does.")
    _check_sop_class(ds)
    if not reaches(ds, "Rows"):
        raise CutOff("The object is cut off: it ends before its data does.")
    if not has_pixels:
        raise CutOff("The object ends before its PixelData: it is cut off, or was stored without it.")


def _check_sop_class(ds: Dataset) -> None:
    sop_class = "".join(texts(ds, "SOPClassUID")[:1])
    if sop_class == DX_FOR_PROCESSING:
        raise UnsupportedObject("This is a raw image for processing, not the image for presentation that people read.")
    if sop_class not in SUPPORTED_SOP_CLASSES:
        raise UnsupportedObject("Only CR, DX for presentation and secondary capture images are read as films.")


def _to_grey(
    pixels: npt.NDArray[np.generic], layout: Layout
) -> tuple[npt.NDArray[np.unsignedinteger], tuple[Flag, ...]]:
    """Return cells, shape (rows, columns), signed values viewed as unsigned; grey in RGB becomes its green channel."""
    if layout.samples == 1:
        kind = pixels.dtype.newbyteorder("=").str[1:].replace("i", "u")
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False).view(kind), ()
    step = max(1, round((pixels.shape[0] * pixels.shape[1] / 2**20) ** 0.5))
    sample = pixels[::step, ::step].astype(np.int32)
    spread = sample.max(axis=2) - sample.min(axis=2)
    if (spread > GREY_TOLERANCE * (2**layout.bits_stored - 1)).mean() > 0.01:
        raise UnsupportedObject("The image is in colour; a radiograph is grey.")
    flag = Flag("colour-converted", "The film came as a colour image and was converted to grey.")
    return np.ascontiguousarray(pixels[:, :, 1]), (flag,)


def _find_shutter(ds: Dataset) -> tuple[Shutter | None, tuple[Flag, ...]]:
    """Return the film's shutter, and a flag for one that cannot be used."""
    shutter = read_shutter(ds)
    return shutter, (_UNUSABLE_SHUTTER,) if shutter is None and states_shutter(ds) else ()


def _loss_flags(ds: Dataset, layout: Layout) -> tuple[Flag, ...]:
    if layout.transfer_syntax_uid not in LOSSY and texts(ds, "LossyImageCompression") != ("01",):
        return ()
    return (Flag("lossy-compression", "The film was compressed with loss; fine detail may be missing."),)


def _stated_sides(ds: Dataset) -> list[tuple[str, str]]:
    """Return every (side, source) the header states: L, R or B."""
    stated = [
        (texts(ds, "ImageLaterality"), "ImageLaterality (0020,0062)"),
        (texts(ds, "Laterality"), "Laterality (0020,0060)"),
        (_modifier_sides(ds), "anatomic region modifier"),
    ]
    return [
        (value.upper(), source) for values, source in stated for value in values if value.upper() in ("L", "R", "B")
    ]


def _modifier_sides(ds: Dataset) -> tuple[str, ...]:
    codes = (
        ("".join(texts(code, "CodeValue")[:1]), "".join(texts(code, "CodingSchemeDesignator")[:1]))
        for outer, inner in _MODIFIERS
        for region in items(ds, outer)
        for code in items(region, inner)
    )
    return tuple(_LATERALITY_CODES[code] for code in codes if code in _LATERALITY_CODES)
