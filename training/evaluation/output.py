"""Files that a measurement is written to: a path that cannot be written is said before the films are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import DataError
from training.storage import put_in_place


def check_outputs(*paths: Path | None, inputs: Iterable[Path | None] = ()) -> None:
    """Refuse paths that cannot be written later, and those over which something would be lost; None is none.

    Parameters
    ----------
    paths
        What is written.
    inputs
        Files that are read, a site's table of readings say, and must stay.

    Raises
    ------
    DataError
        If a path's folder is not there or may not be written to, a folder lies at the path itself, two paths are one
        file, or one of them is an input.
    """
    kept = {path.resolve() for path in inputs if path is not None}
    for path in (path for path in paths if path is not None):
        if not path.parent.is_dir():
            raise DataError(f"{path} cannot be written: there is no folder {path.parent}; make it first.")
        if path.is_dir():
            raise DataError(f"{path} cannot be written: it is a folder; name a file in it.")
        if not os.access(path if _is_device(path) else path.resolve().parent, os.W_OK):
            raise DataError(f"{path} cannot be written: it, or its folder, may not be; name another place.")
        if path.resolve() in kept:
            raise DataError(f"{path} would be written over what is read or written there, too; name another file.")
        if not _is_device(path):  # that may take all of them
            kept.add(path.resolve())


def _is_device(path: Path) -> bool:
    """Tell whether a path is no file but what takes any text, such as /dev/stdout, wherever that leads."""
    return path.absolute().is_relative_to("/dev") or (path.exists() and not path.is_file())


@contextmanager
def told_at_last(tell: Callable[[], object]) -> Iterator[None]:
    """Tell what was measured when its files are written, or could not be.

    A standard output that takes nothing (a full disk, an encoding without a letter, a reader that has gone) then costs
    no file, and a file that cannot be written no answer.
    """
    try:
        yield
    finally:
        tell()


def write_output(path: Path | None, write: Callable[[], str]) -> None:
    """Write a text if a path is wanted; a full disk or a kill leaves the file that was there.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    if path is None:
        return
    text, place = write(), path.resolve()
    try:
        if _is_device(path):
            path.write_text(text, "utf-8")
            return
        with put_in_place(place) as part:
            part.write_text(text, "utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; name another place.") from error
