"""From stored cells to what is shown: one table per film that folds the whole greyscale pipeline.

Stored bits -> stored value -> modality LUT or rescale (PS3.3 C.11.1) -> VOI LUT or first window (C.11.2) -> one
inversion -> padding dark. A film has at most 65,536 different cells, so the table costs a millisecond and the film one
look-up per pixel. Equal to pydicom's ``apply_modality_lut`` and ``apply_voi_lut`` scaled to 0..1, which take ten times
as long and give up on headers that a film can survive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from inference.finding import Flag
from inference.header import UNPARSABLE, integers, items, numbers, texts
from inference.pixels import Layout

Values = npt.NDArray[np.float64]
Cells = npt.NDArray[np.unsignedinteger]

WINDOW_PERCENTILES = (0.5, 99.5)
"""The window of a film that has none of its own: these percentiles of its pixels, padding left out."""

LEAST_SPAN, LEAST_WINDOW_SPAN = 0.02, 0.2
"""Of what can be shown, the share that the middle 99.8 % of a film's pixels must span: by any window to be contrast at
all, by the header's own to be followed. With less, networks see some dozens of 256 grey values."""

_SAMPLE_PIXELS = 2**18  # enough for a percentile, a twentieth of a film


@dataclass(frozen=True, slots=True, eq=False)
class _Lut:
    """A look-up table of PS3.3 C.11: ``entries[0]`` is for ``first`` and everything below."""

    first: int
    entries: Values
    top: float  # the largest value an entry can have: 2 ** bits - 1

    def __call__(self, values: Values) -> Values:
        index = np.clip(np.floor(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        shown: Values = self.entries[index]
        return shown


def render_table(ds: Dataset, layout: Layout, cells: Cells) -> tuple[npt.NDArray[np.float32], tuple[Flag, ...]]:
    """Compose the table that carries every cell a film can hold to 0 (dark) .. 1 (bright).

    Parameters
    ----------
    ds
        Header with the modality LUT, VOI LUT, padding and polarity attributes.
    layout
        How stored values lie in the cells.
    cells
        Shape (rows, columns), the film as uint8 or uint16: signed values viewed as unsigned.

    Returns
    -------
    Shape (256,) or (65536,), float32, indexed by cell; and flags for whatever in the header could not be followed.
    """
    counts = _count_cells(cells, layout)
    stored, bits_flags = _stored_values(layout, counts)
    padding = _padding(ds, layout, stored)
    counts[padding] = 0
    values, modality_flags = _apply_modality(ds, stored)
    shown, voi_flags = _apply_voi(ds, values, counts)
    if layout.photometric == "MONOCHROME1":
        shown = 1 - shown
    shown[padding] = 0
    return shown.astype(np.float32), (*bits_flags, *modality_flags, *voi_flags, *_polarity_flags(ds, layout))


def _count_cells(cells: Cells, layout: Layout) -> npt.NDArray[np.intp]:
    """Count how often each cell occurs in an even sample of the film."""
    stride = max(1, round((cells.size / _SAMPLE_PIXELS) ** 0.5))
    return np.bincount(cells[::stride, ::stride].ravel(), minlength=2**layout.bits_allocated)


def _stored_values(layout: Layout, counts: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.int64], tuple[Flag, ...]]:
    """Return the stored value of each cell: BitsStored bits below HighBit (PS3.5 8.1.1), sign extended."""
    size = 2**layout.bits_allocated
    cells = np.arange(size)
    if not layout.keeps_raw_bits:
        return (cells + size // 2) % size - size // 2 if layout.signed else cells, ()
    shift, flags = _shift(layout, counts)
    values, span = (cells >> shift) % 2**layout.bits_stored, 2**layout.bits_stored
    return (values + span // 2) % span - span // 2 if layout.signed else values, flags


def _shift(layout: Layout, counts: npt.NDArray[np.intp]) -> tuple[int, tuple[Flag, ...]]:
    """Return how many unused bits lie below the stored ones, and a flag where HighBit cannot be believed."""
    shift = layout.high_bit + 1 - layout.bits_stored
    if shift == 0:
        return 0, ()
    flag = Flag("high-bit", "HighBit contradicts the pixel data or BitsStored; the low bits are read.")
    if not 0 < shift <= layout.bits_allocated - layout.bits_stored:
        return 0, (flag,)
    used = np.flatnonzero(counts)
    lies_low = bool((used % 2**shift).any()) and int(used.max(initial=0)) < 2**layout.bits_stored
    return (0, (flag,)) if lies_low else (shift, ())


def _padding(ds: Dataset, layout: Layout, stored: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mark the cells that are padding: from PixelPaddingValue to PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2)."""
    value = integers(ds, "PixelPaddingValue")
    if len(value) != 1:
        return np.zeros(len(stored), dtype=np.bool_)
    limit = integers(ds, "PixelPaddingRangeLimit")
    ends = [_as_stored(v, layout) for v in (value[0], limit[0] if len(limit) == 1 else value[0])]
    return (stored >= min(ends)) & (stored <= max(ends))


def _as_stored(value: int, layout: Layout) -> int:
    """Undo a wrong sign: US and SS are ambiguous, and writers pick the wrong one."""
    half = 2**15
    return (value + half) % 2**16 - half if layout.signed else value % 2**16


def _apply_modality(ds: Dataset, stored: npt.NDArray[np.int64]) -> tuple[Values, tuple[Flag, ...]]:
    values = stored.astype(np.float64)
    sequence = items(ds, "ModalityLUTSequence")
    if sequence:
        lut = _read_lut(ds, sequence[0], signed=bool(values.min() < 0))
        if lut is not None:
            return lut(values), ()
        return values, (Flag("modality-lut-unusable", "The modality LUT cannot be read; stored values are used."),)
    slope, intercept = numbers(ds, "RescaleSlope"), numbers(ds, "RescaleIntercept")
    if not slope or not intercept:
        return values, ()
    if slope[0] == 0:
        return values, (Flag("modality-lut-unusable", "RescaleSlope is 0; stored values are used."),)
    return values * slope[0] + intercept[0], ()


def _apply_voi(ds: Dataset, values: Values, counts: npt.NDArray[np.intp]) -> tuple[Values, tuple[Flag, ...]]:
    """Return what is shown for each cell, 0..1: by VOI LUT, else first window, else percentiles of the film."""
    shown, flags = _follow_header(ds, values)
    if shown is not None and _span(shown, counts) > LEAST_WINDOW_SPAN:
        return shown, flags
    fallback = _percentile_window(values, counts)
    if shown is None or _span(fallback, counts) <= LEAST_SPAN:
        return fallback if shown is None else shown, flags
    flag = Flag("voi-unusable", "The film's own window shows little or nothing; a window was taken from its pixels.")
    return fallback, (*flags, flag)


def _follow_header(ds: Dataset, values: Values) -> tuple[Values | None, tuple[Flag, ...]]:
    flag = Flag("voi-unusable", "The film's VOI LUT or window cannot be used as the header gives it.")
    sequence = items(ds, "VOILUTSequence")
    lut = _read_lut(ds, sequence[0], signed=bool(values.min() < 0)) if sequence else None
    if lut is not None:
        return lut(values) / lut.top, ()
    flags = (flag,) if sequence else ()
    centre, width = numbers(ds, "WindowCenter"), numbers(ds, "WindowWidth")
    if not texts(ds, "WindowCenter") and not texts(ds, "WindowWidth"):
        return None, flags
    function = (texts(ds, "VOILUTFunction") or ("LINEAR",))[0].upper()
    if not centre or not width or width[0] < (1 if function == "LINEAR" else np.finfo(np.float32).tiny):
        return None, (flag,)
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return (None, (flag,)) if width[0] < 1 else (_window(values, centre[0], width[0], "LINEAR"), (flag,))
    return _window(values, centre[0], width[0], function), flags


def _window(values: Values, centre: float, width: float, function: str) -> Values:
    """Apply one window, output 0..1 (PS3.3 C.11.2.1.2.1, C.11.2.1.3.1, C.11.2.1.3.2)."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _percentile_window(values: Values, counts: npt.NDArray[np.intp]) -> Values:
    low, high = _percentiles(values, counts, WINDOW_PERCENTILES)
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def _span(shown: Values, counts: npt.NDArray[np.intp]) -> float:
    low, high = _percentiles(shown, counts, (0.1, 99.9))
    return high - low


def _percentiles(values: Values, counts: npt.NDArray[np.intp], percents: tuple[float, float]) -> tuple[float, float]:
    """Return two percentiles of ``values`` weighted by ``counts``; (0, 0) where nothing is counted."""
    used = np.flatnonzero(counts)
    if not len(used):
        return 0.0, 0.0
    order = used[np.argsort(values[used], kind="stable")]
    shares = np.cumsum(counts[order]) / counts[order].sum() * 100
    low, high = (float(values[order[min(int(np.searchsorted(shares, p)), len(order) - 1)]]) for p in percents)
    return low, high


def _read_lut(ds: Dataset, item: Dataset, *, signed: bool) -> _Lut | None:
    """Read an item of a modality or VOI LUT sequence (PS3.3 C.11.1.1, C.11.2.1.1), None where it is unusable."""
    descriptor = integers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    count, first, bits = descriptor[0] % 2**16 or 2**16, descriptor[1], descriptor[2]
    if not 1 <= bits <= 16:
        return None
    if signed and first >= 2**15:  # written as US though it maps negative values
        first -= 2**16
    entries = _read_entries(ds, item, count, bits)
    if entries is None:
        return None
    needed = int(entries.max()).bit_length()
    if needed > bits or needed < bits - 1:  # the third value is often 16 whatever the entries use
        bits = max(needed, 1)
    return _Lut(first, entries.astype(np.float64), float(2**bits - 1))


def _read_entries(ds: Dataset, item: Dataset, count: int, bits: int) -> npt.NDArray[np.unsignedinteger] | None:
    try:
        data = item.get("LUTData")
    except UNPARSABLE:
        return None
    if not isinstance(data, bytes):
        values = integers(item, "LUTData")
        return np.array(values[:count], dtype=np.int64).astype(np.uint16) if len(values) >= count else None
    order = ">" if _is_big_endian(ds) else "<"
    if len(data) >= 2 * count:
        return np.frombuffer(data, f"{order}u2", count)
    if bits <= 8 and len(data) >= count:  # packed two to a word
        words = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2").astype("<u2")
        return words.view(np.uint8)[:count]
    return None


def _is_big_endian(ds: Dataset) -> bool:
    meta = getattr(ds, "file_meta", None)
    return meta is not None and str(meta.get("TransferSyntaxUID")) == "1.2.840.10008.1.2.2"


def _polarity_flags(ds: Dataset, layout: Layout) -> tuple[Flag, ...]:
    """Flag a header that contradicts itself about polarity; PhotometricInterpretation is followed, once.

    PresentationLUTShape says INVERSE for MONOCHROME1 and IDENTITY for MONOCHROME2 (PS3.3 C.8.11.3.1.2): the same
    inversion in other words, not a second one. PixelIntensityRelationshipSign is -1 where higher stored values had
    less exposure, as under bone, which MONOCHROME2 shows bright (PS3.3 C.8.11.3.1.2).
    """
    inverse = layout.photometric == "MONOCHROME1"
    shape = "".join(texts(ds, "PresentationLUTShape")[:1]).upper()
    sign = integers(ds, "PixelIntensityRelationshipSign")
    shape_differs = shape in ("IDENTITY", "INVERSE") and (shape == "INVERSE") != inverse
    sign_differs = sign in ((1,), (-1,)) and (sign == (1,)) != inverse
    flags = []
    if shape_differs:
        sentence = "The header contradicts itself about polarity; PhotometricInterpretation was followed."
        flags.append(Flag("polarity-contradictory", sentence))
    if sign_differs:
        flags.append(Flag("bones-stated-dark", "The header says that this film is displayed with dark bones."))
    return tuple(flags)
