"""Spool: received objects as files, durable before anybody is told so.

An object streams into ``incoming/`` and, once whole, is synchronised, renamed to its place and its folder
synchronised. Names are random: none comes from a peer. The files are Part 10 files (PS3.10): File Meta Information
written here, then the data set byte for byte as it came. Nothing in the File Meta tells who sent the object, so that
files of the same object have the same bytes.

    spool/
        incoming/<random>.part    streams in, or was left behind by a crash: removed at start
        <2 digits>/<random>.dcm   durable; a row of the store names it, or its C-STORE was never answered
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import struct
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

from dicom_node.errors import NodeError, SpoolFailed, SpoolFull

_INCOMING = "incoming"
_OUT_OF_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAX_VECTORS = 1024  # IOV_MAX of Linux and the BSDs
_SYNC_FILE_RANGE_WRITE = 2
_IMPLEMENTATION_VERSION_NAME = "BONEAGE_NODE"


@dataclass(frozen=True, slots=True)
class Received:
    """One object that is durable in the spool, but not yet in the store."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str  # empty where the data set has none, or none that is a CS
    path: Path  # in the spool; durable
    size_bytes: int  # of the data set, without File Meta
    calling_ae: str
    association_id: str  # ours, random
    received_at: datetime  # UTC


class SpoolFile:
    """One object on its way in. Ends with ``commit`` or ``discard``.

    Parameters
    ----------
    part
        Where it streams to.
    place
        Where it will lie.
    meta
        Preamble and File Meta Information, written first.
    """

    def __init__(self, part: Path, place: Path, meta: bytes) -> None:
        self._part = part
        self._place = place
        self._data_offset = len(meta)
        self.size_bytes = 0  # of the data set, so far
        with _as_spool_error():
            self._descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._is_open = True
        try:
            self._write([meta])
        except NodeError:
            self.discard()
            raise

    def write(self, fragments: Sequence[memoryview]) -> None:
        """Append pieces of the data set, and have the disk start on them.

        Raises
        ------
        SpoolFull
            No room is left.
        SpoolFailed
            The disk failed otherwise.
        """
        size = self._write(fragments)
        _start_writeback(self._descriptor, self._data_offset + self.size_bytes, size)
        self.size_bytes += size

    @contextlib.contextmanager
    def data_set(self) -> Iterator[memoryview]:
        """Give access to the data set as written so far, without copying it.

        Raises
        ------
        SpoolFailed
            The disk failed.
        """
        if not self.size_bytes:
            yield memoryview(b"")
            return
        with _as_spool_error():
            whole = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        with whole, memoryview(whole) as view, view[self._data_offset :] as data:
            yield data

    def content(self) -> bytes:
        """Return the file as written so far, File Meta included.

        Raises
        ------
        SpoolFailed
            The disk failed.
        """
        with _as_spool_error():
            return os.pread(self._descriptor, self._data_offset + self.size_bytes, 0)

    def commit(self) -> Path:
        """Make the file durable under its final name: fsync, rename, fsync of the folder. Return where it lies.

        Raises
        ------
        SpoolFull
            No room is left.
        SpoolFailed
            The disk failed otherwise.
        """
        with _as_spool_error():
            os.fsync(self._descriptor)
            self._close()
            self._part.rename(self._place)
            sync_folder(self._place.parent)
        return self._place

    def discard(self) -> None:
        """Leave nothing behind, also of a commit that failed half-way."""
        self._close()
        for path in (self._part, self._place):
            with contextlib.suppress(OSError):  # what cannot be removed now is removed at the next start
                path.unlink(missing_ok=True)

    def _write(self, buffers: Sequence[memoryview | bytes]) -> int:
        size = 0
        with _as_spool_error():
            for start in range(0, len(buffers), _MAX_VECTORS):
                size += _write_all(self._descriptor, buffers[start : start + _MAX_VECTORS])
        return size

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._descriptor)


class Spool:
    """The folder of received objects.

    Parameters
    ----------
    folder
        Where; made if it is missing. One process uses it at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / _INCOMING

    def open(self) -> int:
        """Make the folders, remove what a crash left in the middle of streaming; return how many files that was.

        Raises
        ------
        SpoolFull
            No room is left for the folders.
        SpoolFailed
            The folder cannot be used.
        """
        with _as_spool_error():
            for name in (_INCOMING, *(f"{number:02x}" for number in range(256))):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            sync_folder(self.folder)
            sync_folder(self.folder.parent)
            orphans = list(self._incoming.iterdir())
            for orphan in orphans:
                orphan.unlink()
        return len(orphans)

    def create(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> SpoolFile:
        """Begin a new file.

        Raises
        ------
        SpoolFull
            No room is left.
        SpoolFailed
            The disk failed otherwise.
        """
        name = uuid.uuid4().hex
        meta = file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        return SpoolFile(self._incoming / f"{name}.part", self.folder / name[:2] / f"{name}.dcm", meta)

    def remove(self, path: Path) -> None:
        """Remove a committed file: its object is in the spool already, or was refused."""
        with contextlib.suppress(OSError):  # what cannot be removed now is found by the next `sweep`
            path.unlink(missing_ok=True)

    def files(self) -> Iterator[Path]:
        """Yield the committed files."""
        return self.folder.glob("[0-9a-f][0-9a-f]/*.dcm")

    def sweep(self, known: Collection[Path], min_age_s: float = 0.0) -> int:
        """Remove committed files that no row names; return how many.

        They were left by a crash, or a failure of the store, between the rename and the row: their C-STORE was never
        answered with Success. Or another file stands for them now.

        Parameters
        ----------
        known
            The paths that rows name, relative to the spool.
        min_age_s
            How old a file must be; 0 only while nothing is received.

        Raises
        ------
        SpoolFailed
            The disk failed.
        """
        count, latest = 0, time.time() - min_age_s
        with _as_spool_error():
            for path in self.files():
                if path.relative_to(self.folder) not in known and path.stat().st_mtime <= latest:
                    path.unlink()
                    count += 1
        return count


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode preamble, prefix and File Meta Information (PS3.10 section 7.1), always Explicit VR Little Endian."""
    elements = b"".join(
        (
            struct.pack("<HH2sHI", 2, 0x0001, b"OB", 0, 2) + b"\0\1",
            _short_element(0x0002, b"UI", sop_class_uid, b"\0"),
            _short_element(0x0003, b"UI", sop_instance_uid, b"\0"),
            _short_element(0x0010, b"UI", transfer_syntax_uid, b"\0"),
            _short_element(0x0012, b"UI", PYDICOM_IMPLEMENTATION_UID, b"\0"),
            _short_element(0x0013, b"SH", _IMPLEMENTATION_VERSION_NAME, b" "),
        )
    )
    group_length = struct.pack("<HH2sHI", 2, 0x0000, b"UL", 4, len(elements))
    return bytes(128) + b"DICM" + group_length + elements


def _short_element(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii")
    even = value + padding * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(even)) + even


def _write_all(descriptor: int, buffers: Sequence[memoryview | bytes]) -> int:
    """Write buffers, at most ``_MAX_VECTORS``; return how many bytes that was."""
    total = sum(map(len, buffers))
    written = os.writev(descriptor, buffers)
    if written < total:
        _write_rest(descriptor, buffers, written)
    return total


def _write_rest(descriptor: int, buffers: Sequence[memoryview | bytes], skip: int) -> None:
    """Write what a short ``writev`` left: all but the first ``skip`` bytes. A full disk then says so."""
    for buffer in buffers:
        rest = memoryview(buffer)[min(skip, len(buffer)) :]
        skip -= len(buffer) - len(rest)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


@contextlib.contextmanager
def _as_spool_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Only the number's text: the paths of the spool hold nothing of the patient, but help nobody in a status.
        kind = SpoolFull if error.errno in _OUT_OF_ROOM else SpoolFailed
        raise kind(os.strerror(error.errno) if error.errno else type(error).__name__) from error


def _load_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Find Linux's sync_file_range(2), which Python does not offer; None elsewhere."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


_sync_file_range = _load_sync_file_range()


def _start_writeback(descriptor: int, offset: int, size_bytes: int) -> None:
    """Have the kernel start writing, so that the fsync finds little to do. A hint: failure costs time only."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, offset, size_bytes, _SYNC_FILE_RANGE_WRITE)
