"""Files that a kill or a power cut leaves whole: written beside the old one, flushed, then put in its place."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from training.errors import RunError


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file; a kill while it is written leaves the one before."""
    part = path.with_suffix(".part")
    part.write_text(text)
    _flush(part)
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
    """
    part = path.with_suffix(".part")
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
