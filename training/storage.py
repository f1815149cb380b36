"""Files that a kill or a power cut leaves whole: written beside the old one, flushed, then put in its place.

What a disk refuses, full or not to be written to, is a RunError; so is a folder that another process writes to.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch

from training.errors import RunError

_log = logging.getLogger(__name__)

LOCK = "lock"
"""In a folder that only one process may write to: empty, and held by that process."""


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in words that a file cannot be written; what there is of it beside the old one goes, to make room.

    Raises
    ------
    RunError
        If the disk is full or broken, or what is written to may not be.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's own word for a full disk is a RuntimeError
        with suppress(OSError):
            path.with_suffix(".part").unlink(missing_ok=True)
        why = error.strerror if isinstance(error, OSError) else "is its disk full?"
        raise RunError(
            f"{path} cannot be written ({why}); make room, or name a folder that may be written to."
        ) from error


@contextmanager
def put_in_place(path: Path) -> Iterator[Path]:
    """Give a place of this call's own beside a file; what is written there takes the file's place, whole or not at all.

    For files that several processes may write at once: with one place for all, each would tear the other's. In a
    folder that is :func:`claimed` one place does, over which the next start writes what a kill has left.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left beside the file then.
    """
    part = path.with_name(f"{path.name}.{token_hex(8)}.part")
    try:
        yield part
        _flush(part)
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse, before work is begun, a place for files that cannot be written to; it need not be there yet.

    Raises
    ------
    RunError
        If the place, or the nearest folder above it that is there, is no folder or may not be written to.
    """
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise RunError(f"{path} cannot be written: {nearest} is a file; name a folder.")
    if not os.access(nearest, os.W_OK):
        raise RunError(f"{path} cannot be written: {nearest} may not be written to; name another place.")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is not there.

    Raises
    ------
    RunError
        As :func:`writing`.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep a folder, which is made where it is not there, to this process; a kill gives it free, too.

    Raises
    ------
    RunError
        If another process has it, or it cannot be written to.
    """
    make_folder(folder)
    with ExitStack() as stack:
        with writing(folder / LOCK):
            file = stack.enter_context((folder / LOCK).open("ab"))
        _lock(file.fileno(), folder)
        yield


def _lock(descriptor: int, folder: Path) -> None:
    try:
        # A record lock: processes that make batches, which a kill leaves for a while, do not inherit it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN}:
            raise RunError(
                f"{folder} is being written to by another process; wait until that has ended, or name another folder."
            ) from error
        _log.warning("%s: its file system has no locks; let no other process train there.", folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; a kill while it is written leaves the one before.

    Raises
    ------
    RunError
        As :func:`writing`.
    """
    part = path.with_suffix(".part")
    with writing(path):
        part.write_text(text, "utf-8")
        _flush(part)
        part.replace(path)


def write_bytes(contents: Mapping[Path, bytes]) -> None:
    """Write files, all or, where the disk refuses one, none; a kill before all are written leaves those before.

    Raises
    ------
    RunError
        As :func:`writing`.
    """
    parts = {path: path.with_suffix(".part") for path in contents}
    try:
        for path, part in parts.items():
            make_folder(path.parent)
            with writing(path):
                part.write_bytes(contents[path])
                _flush(part)
    except RunError:
        for part in parts.values():
            part.unlink(missing_ok=True)
        raise
    for path, part in parts.items():
        with writing(path):
            part.replace(path)


def save_state(state: dict[str, Any], path: Path, *, before: Path | None = None) -> None:
    """Write what :func:`load_state` reads; a kill while it is written leaves the one before, at one of its places.

    Parameters
    ----------
    state
        Tensors and plain values, for torch.
    path
        Where to.
    before
        Where the file found there goes, to be fallen back on; without, it is written over.

    Raises
    ------
    RunError
        As :func:`writing`.
    """
    part = path.with_suffix(".part")
    with writing(path):
        torch.save(state, part)
        _flush(part)
        if before is not None and path.exists():
            path.replace(before)
        part.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """Read a file of torch onto the CPU, tensors and plain values only.

    Raises
    ------
    RunError
        If it is torn, or is no file of torch; the message names it.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise RunError(f"{path} is torn or no file of torch; restore it, or delete it and train again.") from error
    return state
