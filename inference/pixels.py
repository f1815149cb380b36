"""The stored pixels of a film: every transfer syntax that has a free decoder, each by one named plugin of pydicom.

pydicom by itself tries whatever plugins are installed, in their order; two nodes could then decode one lossy film
differently. Sizes are checked before a decoder of the C family sees the data: Rows and Columns against a limit, and
against what the codestream itself says.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.config import IGNORE
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder

from inference.errors import CutOff, UnreadablePixels, UnsupportedObject
from inference.header import UNPARSABLE, integers, numbers, texts
from inference.jpeg import check_tables
from inference.scan import check_scan

DECODERS: dict[str, str] = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.DeflatedExplicitVRLittleEndian: "",
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
}
"""Transfer syntax to the plugin that decodes it; "" where pydicom itself reads native data."""

LOSSY = frozenset({uid.JPEGBaseline8Bit, uid.JPEGLSNearLossless, uid.JPEG2000, uid.HTJ2K})
"""Transfer syntaxes that may have lost detail."""

MAX_PIXELS = 2**26
"""Rows x Columns a film may have: 35 x 43 cm at 50 micrometres still fits. Guards against absurd headers."""

_JPEG_FAMILY = frozenset(
    {uid.JPEGBaseline8Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless}
)
_SCANNED = frozenset({uid.JPEGBaseline8Bit})
"""Transfer syntaxes whose damage ``inference.scan`` looks for. JPEG lossless is none: gdcm would write to standard
error of every sound film that it is corrupt."""
_RAW_BITS = frozenset({*(u for u, plugin in DECODERS.items() if not plugin), uid.RLELossless})
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True, slots=True)
class Layout:
    """The Image Pixel attributes (PS3.3 C.7.6.3) of a film, checked."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    samples: int  # 1 grey, 3 colour
    photometric: str  # "MONOCHROME1", "RGB", ...
    bits_allocated: int  # 8 or 16
    bits_stored: int  # 8..bits_allocated
    high_bit: int  # as the header says; BitsStored - 1 where it says nothing
    signed: bool

    @property
    def keeps_raw_bits(self) -> bool:
        """Whether decoding returns the stored cells as they are, unused bits included (native and RLE)."""
        return self.transfer_syntax_uid in _RAW_BITS


def read_layout(ds: Dataset) -> Layout:
    """Check the Image Pixel module of one greyscale or colour frame of 8 to 16 bits.

    Raises
    ------
    UnreadablePixels
        If an attribute is missing or impossible.
    UnsupportedObject
        If it is a kind of image that is not read here: see the sentences.
    """
    syntax = _transfer_syntax(ds)
    rows, columns = _count(ds, "Rows"), _count(ds, "Columns")
    samples = _count(ds, "SamplesPerPixel")
    photometric = "".join(texts(ds, "PhotometricInterpretation")[:1]).upper()
    _check_kind(ds, rows * columns, samples, photometric)
    allocated, stored = _count(ds, "BitsAllocated"), _count(ds, "BitsStored")
    if allocated not in (8, 16) or not 8 <= stored <= 16:
        raise UnsupportedObject(f"Films have 8 to 16 bits in 8 or 16; this one has {stored} bits in {allocated}.")
    if stored > allocated:
        raise UnreadablePixels(f"The header is impossible: BitsStored {stored} is more than BitsAllocated {allocated}.")
    representation = integers(ds, "PixelRepresentation") or (0,)
    high_bit = integers(ds, "HighBit") or (stored - 1,)
    return Layout(
        syntax, rows, columns, samples, photometric, allocated, stored, high_bit[0], signed=representation[0] == 1
    )


def decode(ds: Dataset, layout: Layout) -> npt.NDArray[np.generic]:
    """Decode the one frame of a film.

    Returns
    -------
    Shape (rows, columns), or (rows, columns, 3) in RGB, of 8 or 16 bit integers. Native and RLE data come as stored,
    unused bits included; other syntaxes give the values the codestream holds, sign extended. May be read-only.

    Raises
    ------
    CutOff
        If native pixel data has fewer bytes than the header needs, or a codestream no end.
    UnreadablePixels
        If the pixel data is missing, of another size than the header says, or damaged.
    """
    if "PixelData" not in ds:
        raise UnreadablePixels("The object has no PixelData.")
    plugin = DECODERS[layout.transfer_syntax_uid]
    try:
        if plugin:
            _check_codestream(get_frame(ds.PixelData, 0, number_of_frames=1), layout)
        else:
            _check_length(len(ds.PixelData), layout)
        # Not validated by pydicom: it warns where we decide, and the layout is checked above.
        pixels, _ = get_decoder(layout.transfer_syntax_uid).as_array(
            ds,
            index=0,
            validate=False,
            raw=layout.samples == 1,
            decoding_plugin=plugin,
            **_options(layout),
        )
        if layout.transfer_syntax_uid in _SCANNED:
            check_scan(get_frame(ds.PixelData, 0, number_of_frames=1), partial(_decode_stream, layout=layout))
    except (*UNPARSABLE, RuntimeError, MemoryError) as error:
        kind = type(error).__name__  # its message may quote the data set
        raise UnreadablePixels(f"The pixel data cannot be decoded ({kind}).") from error
    return pixels


def _decode_stream(frame: bytes, layout: Layout) -> npt.NDArray[np.generic]:
    """Decode a stream of the film's layout, its colours as they are stored."""
    image_pixel: dict[str, Any] = {
        "pixel_keyword": "PixelData",
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "planar_configuration": 0,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
    }
    plugin = DECODERS[layout.transfer_syntax_uid]
    decoder = get_decoder(layout.transfer_syntax_uid)
    pixels, _ = decoder.as_array(
        encapsulate([frame]), index=0, validate=False, raw=True, decoding_plugin=plugin, **image_pixel
    )
    return pixels


def _options(layout: Layout) -> dict[str, Any]:
    if layout.keeps_raw_bits:
        return {"correct_unused_bits": False, "view_only": True}
    return {"correct_unused_bits": layout.signed}  # JPEG has no sign; unsigned values stay as the codestream holds them


def _transfer_syntax(ds: Dataset) -> str:
    meta = getattr(ds, "file_meta", None)
    syntax = str(meta.get("TransferSyntaxUID") or "") if meta is not None else ""
    if not syntax:
        raise UnreadablePixels("The object does not say its transfer syntax.")
    if syntax not in DECODERS:
        name = uid.UID(syntax, validation_mode=IGNORE).name
        known = "of an unknown name" if name == syntax else name  # an unknown one may hold anything
        raise UnsupportedObject(f"There is no free decoder for the film's transfer syntax, {known}.")
    return syntax


def _count(ds: Dataset, keyword: str) -> int:
    values = integers(ds, keyword)
    if len(values) != 1 or values[0] < 1:
        raise UnreadablePixels(f"The header has no usable {keyword}.")
    return values[0]


def _check_kind(ds: Dataset, pixels: int, samples: int, photometric: str) -> None:
    if texts(ds, "NumberOfFrames") and numbers(ds, "NumberOfFrames") != (1.0,):
        raise UnsupportedObject("Only single-frame films are read; this object has several frames or none.")
    if pixels > MAX_PIXELS:
        raise UnsupportedObject(f"The film has {pixels} pixels, more than the {MAX_PIXELS} that are read.")
    if photometric not in (_MONOCHROME if samples == 1 else _COLOUR if samples == 3 else ()):
        raise UnsupportedObject(
            "PhotometricInterpretation and SamplesPerPixel are not those of a greyscale or RGB film."
        )


def _check_length(held: int, layout: Layout) -> None:
    """Check that native pixel data is complete; more than that may be padding."""
    samples = 2 if layout.photometric == "YBR_FULL_422" else layout.samples  # two pixels share their colours
    needed = layout.rows * layout.columns * samples * layout.bits_allocated // 8
    if held < needed:
        raise CutOff(f"The pixel data is cut off: it has {held} of the {needed} bytes that the header needs.")


def _check_codestream(frame: bytes, layout: Layout) -> None:
    """Check a compressed frame against the header before a decoder sees it: complete, and of the size announced."""
    if layout.transfer_syntax_uid == uid.RLELossless:
        return  # has no size of its own; pydicom checks the length of what comes out
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise CutOff("The compressed pixel data is cut off: its end marker is missing.")
    is_jpeg = layout.transfer_syntax_uid in _JPEG_FAMILY
    precision, *size = _jpeg_size(frame) if is_jpeg else _jpeg2000_size(frame)
    if size != [layout.rows, layout.columns, layout.samples]:
        raise UnreadablePixels("The compressed film has another size than Rows, Columns and SamplesPerPixel say.")
    if DECODERS[layout.transfer_syntax_uid] == "gdcm":
        check_tables(frame)
    if precision > layout.bits_allocated:
        raise UnreadablePixels(f"The compressed film has {precision} bits, BitsAllocated is {layout.bits_allocated}.")


def _jpeg_size(frame: bytes) -> tuple[int, int, int, int]:
    """Return (precision, rows, columns, components) of the frame header of JPEG or JPEG-LS (ISO 10918-1 B.2.2)."""
    position = 2
    while position + 10 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            return precision, rows, columns, components
        position += 2 + int(struct.unpack_from(">H", frame, position + 2)[0])
    raise UnreadablePixels("The compressed pixel data has no JPEG frame header.")


def _jpeg2000_size(frame: bytes) -> tuple[int, int, int, int]:
    """Return (precision, rows, columns, components) of the SIZ segment of JPEG 2000 (ISO 15444-1 A.5.1)."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)  # after a JP2 header where someone wrote a whole file
    if start < 0 or len(frame) < start + 43:
        raise UnreadablePixels("The compressed pixel data has no JPEG 2000 header.")
    x1, y1, x0, y0 = struct.unpack_from(">4I", frame, start + 8)
    components, precision = struct.unpack_from(">HB", frame, start + 40)
    return (precision & 0x7F) + 1, y1 - y0, x1 - x0, components
