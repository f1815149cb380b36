"""The files that films lie in: grey images of 8 or 16 bits, and DICOM objects; and what a file's film is called."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PureWindowsPath

import cv2
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from inference.errors import CutOff, UnreadablePixels
from inference.header import UNPARSABLE

IMAGES = frozenset({".png", ".jpg", ".jpeg"})
"""Endings of images, in lower case; a film with another is a DICOM object."""

_JPEG = frozenset({".jpg", ".jpeg"})
_START_OF_IMAGE, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PICTURES = (b"II*\0", b"MM\0*", b"BM", b"GIF8", b"RIFF", b"\0\0\0\x0cjP", b"\x89PNG", b"\xff\xd8\xff")
"""How images begin: TIFF, BMP, GIF, WebP, JPEG 2000; PNG and JPEG, which other endings hide."""
_PREAMBLE = 128
_DIRECTORY = "DICOMDIR"


def read_image(path: Path) -> npt.NDArray[np.float32]:
    """Read an image as grey, 0..1, shape (rows, columns).

    An image of 16 bits seldom uses all of them and does not say how many: white is the largest number of as many bits
    as its brightest pixel needs, 8 at least. A film of 12 bits in a PNG of 16 is so as bright as one of 8 bits.

    Raises
    ------
    CutOff
        If it is a JPEG that ends before its data does.
    UnreadablePixels
        If it is missing, cannot be decoded, or has another depth.
    """
    if is_cut_off(path):
        raise CutOff("The image is cut off: it ends before its data does.")
    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH) if path.is_file() else None
    except cv2.error as error:
        raise UnreadablePixels("The image says that it is larger than any film, or is damaged.") from error
    if pixels is None:
        raise UnreadablePixels("The image is missing or cannot be decoded.")
    if pixels.dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        raise UnreadablePixels("The image has neither 8 nor 16 bits.")
    bits = max(8, int(pixels.max()).bit_length())
    return np.asarray(pixels, dtype=np.float32) / np.float32(2**bits - 1)


def is_cut_off(path: Path) -> bool:
    """Tell whether a JPEG has no end: cv2 decodes what is there of one, and paints the rest in one grey.

    The end counts behind the beginning of the (last) scan only: a thumbnail in the file's head has one of its own
    (ISO 10918-1 B.1.1.3; within the data of a scan 0xFF is followed by 0).
    """
    content = path.read_bytes() if path.suffix.lower() in _JPEG and path.is_file() else b""
    if not content.startswith(_START_OF_IMAGE):
        return False  # no JPEG, whatever its ending says: cv2 tells what it is by its bytes, too
    return content.rfind(_END_OF_IMAGE) < content.rfind(_START_OF_SCAN)


def read_object(path: Path) -> Dataset:
    """Read a DICOM object.

    Raises
    ------
    CutOff
        If its file ends so early that nothing can be read of it; ``read_film`` sees what ends later.
    UnreadablePixels
        If it is none.
    """
    try:
        content = path.read_bytes()
        with warnings.catch_warnings():  # pydicom only warns of a file that ends too early, and returns nothing of it
            warnings.filterwarnings("ignore", message="End of file reached", category=UserWarning)
            return dcmread(BytesIO(content))  # given the path, it would name the file in the log
    except InvalidDicomError as error:
        if content.startswith(_PICTURES):
            raise UnreadablePixels("The file is an image, which must be PNG or JPEG and be named so.") from error
        raise UnreadablePixels("The file is no DICOM object.") from error
    except (EOFError, struct.error) as error:
        raise CutOff("The object is cut off: it ends before its data does.") from error
    except zlib.error as error:
        raise CutOff("The deflated data set is cut off or damaged.") from error
    except UNPARSABLE as error:
        raise UnreadablePixels("The file is a damaged DICOM object.") from error


def is_film_file(path: Path) -> bool:
    """Tell whether a file is an image or a DICOM object, by its ending or its first bytes."""
    if path.suffix.lower() in IMAGES:
        return path.is_file()
    if path.name == _DIRECTORY or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"


def is_there(path: Path) -> bool:
    """Tell whether a file is there; no path is too long to ask."""
    try:
        return path.is_file()
    except OSError:
        return False


def files_below(folder: Path, without: str = "") -> Iterator[Path]:
    """Return all files anywhere below a folder, its own first, in the order of their names.

    What links lead to counts as well, for films often lie on another disk; each folder once, for links may go in a
    circle. ``without`` names a folder in the first one that is passed over.
    """
    seen = {folder.resolve()}
    for at, folders, files in os.walk(folder, followlinks=True):
        here = Path(at)
        wanted = [name for name in sorted(folders) if name != without or here != folder]
        folders.clear()
        for name in wanted:
            place = (here / name).resolve()
            if place not in seen:
                seen.add(place)
                folders.append(name)
        yield from (here / name for name in sorted(files))


def plain_name(path: str) -> str:
    """Return a file's name without folders and ending; an ending of digits is part of a name (1.2.840.10008)."""
    name = PureWindowsPath(path)  # knows / and \\ alike
    return name.name if name.suffix[1:].isdecimal() else name.stem
