"""Ballast: a file that only takes up room, so that a purge of a full disk has some to write with.

A purge says in the store what goes before it goes (``decisions/0005``). On a disk without a free byte SQLite cannot,
and nothing would ever go: the ballast is thrown first, and taken in again once there is room.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

SIZE_BYTES = 8 << 20  # many times what the rows of a thousand studies take
_NAME = "ballast"
_LEAVES_FREE = 2 * SIZE_BYTES  # it is not taken in where that is all there is


def take_in(folder: Path) -> None:
    """Take ballast in, unless it is there, or there is little room. Its want is no error: it is a precaution."""
    path = folder / _NAME
    with contextlib.suppress(OSError):
        if path.is_file() or shutil.disk_usage(folder).free < _LEAVES_FREE:
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(descriptor, 0, SIZE_BYTES)
        except OSError:
            path.unlink()
        finally:
            os.close(descriptor)


def throw(folder: Path) -> None:
    """Throw the ballast where less than its size is free."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < SIZE_BYTES:
            (folder / _NAME).unlink(missing_ok=True)
