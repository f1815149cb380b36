"""Whether the data of a scan of DCT-based JPEG (ISO 10918-1) is whole: asked of the decoder itself, which does not say.

libjpeg decodes a damaged scan with a warning that no caller sees: what it lacks becomes grey, what is left over goes
unread. So changed streams are decoded, too. More data at the end of each restart interval changes nothing where the
interval holds all of its MCUs; other data in the place of its end changes something where that end is read. Damage
after which a decoder finds its place again, with as many MCUs as before, is not seen.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inference.errors import UnreadablePixels

Decoder = Callable[[bytes], npt.NDArray[np.generic]]
"""Turns a JPEG stream into pixels, shape (rows, columns) or (rows, columns, samples)."""

_SEQUENTIAL = frozenset({0xC0, 0xC1})
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_RESTARTS, _SCAN = 0xDD, 0xDA
_BLOCK = 8
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_MORE = (bytes([0x5A, 0x33, 0x96, 0xC1] * 16), bytes([0x00] * 64))
"""What is added: without 0xFF, so that no marker arises. Zeros alone are what a decoder itself goes on with."""
_TAIL = 16
_OTHER = tuple(np.random.default_rng(seed).integers(0, 255, _TAIL, dtype=np.uint8).tobytes() for seed in range(4))
"""What ends are replaced by; several, as one may by chance decode to what is there, or to differences too small."""


@dataclass(frozen=True, slots=True)
class _Scan:
    """The one scan of a sequential stream."""

    head: bytes  # all before its data
    intervals: tuple[bytes, ...]  # its data between restart markers
    rest: bytes  # from the marker that ends it
    per_interval: int  # MCUs of a restart interval
    mcu: tuple[int, int]  # height and width of an MCU in pixels
    shape: tuple[int, int]  # rows and columns of MCUs

    def joined(self, intervals: list[bytes]) -> bytes:
        """Return the stream with other data in its intervals."""
        parts = [self.head, intervals[0]]
        for place, interval in enumerate(intervals[1:]):
            parts += [bytes([0xFF, 0xD0 + place % 8]), interval]
        return b"".join([*parts, self.rest])


def check_scan(frame: bytes, decode: Decoder) -> None:
    """Check that the one scan of a sequential JPEG holds as much data as it has MCUs; other streams are passed.

    Raises
    ------
    UnreadablePixels
        If data is missing, is left over, or restart markers are out of order.
    """
    scan = _find_scan(frame)
    if scan is None:
        return
    pixels = decode(frame)
    for more in _MORE:
        if not np.array_equal(decode(scan.joined([data + more for data in scan.intervals])), pixels):
            raise _damaged()
    unread = np.array([len(data) > 2 * _TAIL for data in scan.intervals])
    for other in _OTHER:
        if not unread.any():
            return
        changed = decode(scan.joined([_with_tail(data, other) for data in scan.intervals])) != pixels
        unread &= ~_intervals_changed(changed, scan)
    if unread.any():
        raise _damaged()


def _damaged() -> UnreadablePixels:
    return UnreadablePixels("The compressed pixel data is damaged: part of the film is missing or was changed.")


def _find_scan(frame: bytes) -> _Scan | None:
    """Return the scan; None for a stream of several, or of a process that is not looked into."""
    position, size, interval = 2, b"", 0
    while (marker := _MARKER.match(frame, position)) is not None:
        kind, start = marker[1][0], marker.end()
        if start + 2 > len(frame):
            return None
        length = int(struct.unpack_from(">H", frame, start)[0])
        content, position = frame[start + 2 : start + length], start + length
        if kind in _FRAMES and kind not in _SEQUENTIAL:
            return None
        if kind in _FRAMES:
            size = content
        if kind == _RESTARTS:
            interval = int.from_bytes(content[:2], "big")
        if kind == _SCAN:
            return _cut(frame, position, size, interval) if size and content[0] == size[5] else None
    return None


def _cut(frame: bytes, start: int, size: bytes, interval: int) -> _Scan:
    """Cut the data of a scan that begins at ``start`` at its restart markers."""
    rows, columns = struct.unpack_from(">HH", size, 1)
    factors = [divmod(size[7 + 3 * place], 16) for place in range(size[5])]
    across, down = (1, 1) if len(factors) == 1 else (max(h for h, _ in factors), max(v for _, v in factors))
    mcu = (_BLOCK * down, _BLOCK * across)
    shape = (-(-rows // mcu[0]), -(-columns // mcu[1]))
    intervals: list[bytes] = []
    position, end = start, len(frame)
    for marker in _MARKER.finditer(frame, start):
        kind = marker[1][0]
        if not 0xD0 <= kind <= 0xD7:
            end = marker.start()
            break
        if kind != 0xD0 + len(intervals) % 8:
            raise _damaged()
        intervals.append(frame[position : marker.start()])
        position = marker.end()
    last = frame[position:end]
    if last or not intervals:  # some encoders write a marker after the last interval, too
        intervals.append(last)
    mcus = shape[0] * shape[1]
    per_interval = interval or mcus
    if len(intervals) != -(-mcus // per_interval):
        raise _damaged()
    return _Scan(frame[:start], tuple(intervals), frame[end:], per_interval, mcu, shape)


def _with_tail(data: bytes, other: bytes) -> bytes:
    """Return an interval's data with another end; of a short one, whose end may be all of it, as it is."""
    if len(data) <= 2 * _TAIL:
        return data
    kept = data[:-_TAIL]
    return (kept[:-1] if kept.endswith(b"\xff") else kept) + other


def _intervals_changed(changed: npt.NDArray[np.bool_], scan: _Scan) -> npt.NDArray[np.bool_]:
    """Tell of which restart intervals, shape (intervals,), a pixel has changed."""
    flat = changed.any(axis=2) if changed.ndim == 3 else changed
    (height, width), (down, across) = scan.mcu, scan.shape
    whole = np.zeros((down * height, across * width), dtype=np.bool_)
    whole[: flat.shape[0], : flat.shape[1]] = flat
    mcus = whole.reshape(down, height, across, width).any(axis=(1, 3)).ravel()
    padded = np.zeros(len(scan.intervals) * scan.per_interval, dtype=np.bool_)
    padded[: len(mcus)] = mcus
    return np.asarray(padded.reshape(len(scan.intervals), scan.per_interval).any(axis=1), dtype=np.bool_)
