"""Folders: whether this user may write what the node keeps under its data directory.

Asked before anything is opened: SQLite and the disk say no in their own words, some of them hours later. A folder that
root has run the node in once is the usual case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import make_url

from dicom_node.settings import Settings, SettingsProblem

_REMEDY = "Give the data_dir and all that is in it to the node's user: chown -R USER DIR."


def find_unwritable(settings: Settings) -> Iterator[SettingsProblem]:
    """Yield a problem where the data directory, or what the node keeps in it, is there and cannot be written.

    Raises
    ------
    SettingsError
        The settings name no database.
    """
    data_dir = settings.node.data_dir
    if not _can_be_made(data_dir):
        what = "The folder cannot be created or written by this user."
        yield SettingsProblem("node", "data_dir", what, "Create it and give it to the node's user.")
        return
    folders, files = _kept(settings)
    refused = [path for path in folders if _is_there(path) and not _is_folder(path)]
    refused += [path for path in files if _is_there(path) and not os.access(path, os.R_OK | os.W_OK)]
    if refused:
        names = ", ".join(map(str, refused))
        yield SettingsProblem("node", "data_dir", f"This user may not write what is in it: {names}.", _REMEDY)


def _kept(settings: Settings) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files that the node writes to in its data directory, whether or not they are there."""
    data_dir, spool = settings.node.data_dir, settings.spool_dir / settings.node.id
    folders = [settings.spool_dir, spool, spool / "incoming", settings.documents_dir]
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return folders, []
    databases = (Path(url.database), data_dir / "workflows.db")
    files = [path.with_name(path.name + suffix) for path in databases for suffix in ("", "-wal", "-shm")]
    return folders, [data_dir / f"{settings.node.id}.lock", *files]


def _can_be_made(folder: Path) -> bool:
    """Tell whether a folder can be written, or made in the first folder above it that is there."""
    existing = next((one for one in (folder, *folder.parents) if _is_there(one)), Path("/"))
    return _is_folder(existing)


def _is_there(path: Path) -> bool:
    """Tell whether a path is there, as far as this user may look; ``Path.exists`` raises where it may not."""
    return os.access(path, os.F_OK)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path) and os.access(path, os.R_OK | os.W_OK | os.X_OK)  # noqa: PTH112 - it never raises
