"""Files that a measurement is written to: a path that cannot be written is said before the films are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from training.errors import DataError


def check_outputs(*paths: Path | None) -> None:
    """Refuse paths that cannot be written later; None is none.

    Raises
    ------
    DataError
        If a path's folder is not there, or a folder lies at the path itself.
    """
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise DataError(f"{path} cannot be written: there is no folder {path.parent}; make it first.")
        if path is not None and path.is_dir():
            raise DataError(f"{path} cannot be written: it is a folder; name a file in it.")


def write_output(path: Path | None, write: Callable[[], str]) -> None:
    """Write a text if a path is wanted.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    if path is None:
        return
    try:
        path.write_text(write(), "utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; name another place.") from error
