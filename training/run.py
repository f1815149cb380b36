"""A run's folder: what it was asked for, its curve, its checkpoints, its weights.

Layout: ``run.json`` (target, recipe, seed, git revision, versions, hash of the data, ...), one folder per phase (or the
folder itself, for a detector) with ``checkpoint.pt``, ``curve.jsonl`` and TensorBoard's events, ``summary.html`` (see
:mod:`training.summary`), and ``final.pt`` once it is done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training.errors import RunError
from training.fit import BEFORE, CHECKPOINT, load_checkpoint
from training.recipe import complete
from training.storage import check_writable, claimed, load_state, make_folder, save_state, write_text

_log = logging.getLogger(__name__)

REVISION = "BONEAGE_NODE_REVISION"
"""The environment variable that names the revision in a copy of the sources."""
_ABOUT = "run.json"
_PACKAGES = ("torch", "numpy", "opencv-python-headless", "monai", "scipy")
_SAME = ("target", "seed", "data_sha256", "width", "half_precision", "init", "imagenet")
"""What a run must have in common with the one it resumes, besides the recipe, where both say it."""


def git_revision() -> str:
    """Return the revision of the sources; in a copy without their history, what REVISION says, else ``unknown``."""
    if os.environ.get(REVISION):
        return os.environ[REVISION]
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that weights depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def data_sha256(films: Iterable[tuple[bytes, *tuple[Any, ...]]]) -> str:
    """Return a hash over films, whatever their order: of each, a name with its reading and arrays.

    Arrays go in by shape, type and CRC-32: the hash tells data apart, it does not guard against forgery.
    """
    lines = []
    for name, *arrays in films:
        parts = [name]
        for array in arrays:
            content = np.ascontiguousarray(array)
            parts.append(f"{content.shape} {content.dtype} {zlib.crc32(content.data):08x}".encode())
        lines.append(b" ".join(parts))
    return hashlib.sha256(b"\n".join(sorted(lines))).hexdigest()


def write_about(run: Path, about: dict[str, Any]) -> None:
    """Write ``run.json``, with the revision and the versions in force."""
    content = about | {"revision": git_revision(), "versions": versions()}
    write_text(run / _ABOUT, json.dumps(content, indent=2) + "\n")


def begin_run(run: Path, about: dict[str, Any]) -> None:
    """Write ``run.json``; a run found there is resumed, and the times and revisions of its starts are kept.

    Raises
    ------
    RunError
        If the run found there is another (its recipe, target, seed, precision, starting weights or data); nothing is
        written then. What a recipe of an earlier version does not say has the value it had then. If the folder cannot
        be written to.
    """
    before = check_run(run, about)
    make_folder(run)
    start = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "revision": git_revision()}
    if start["revision"] == "unknown":
        _log.warning("The revision of these sources is not known: name it in %s.", REVISION)
    write_about(run, about | {"starts": [*before.get("starts", []), start]})


@contextmanager
def running(run: Path, about: dict[str, Any]) -> Iterator[None]:
    """Begin a run, and keep its folder to this process until it is done or broken off.

    Raises
    ------
    RunError
        As :func:`begin_run`, or if another process trains in the folder; nothing is written then.
    """
    check_run(run, about)
    with claimed(run):
        begin_run(run, about)
        yield


def check_run(run: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Return what ``run.json`` of a folder says; empty where there is none.

    ``about`` may lack what is not known yet, such as the data's hash: then that is not compared.

    Raises
    ------
    RunError
        As :func:`begin_run`.
    """
    check_writable(run)
    before = read_about(run) if (run / _ABOUT).exists() else {}
    for key in _SAME:
        if key in before and key in about and before[key] != about[key]:
            _refuse(run, f"{key} ({before[key]}, now {about[key]})")
    if "recipe" in before and complete(before["recipe"]) != complete(about["recipe"]):
        _refuse(run, f"recipe ({_difference(complete(before['recipe']), complete(about['recipe']))})")
    return before


def _refuse(run: Path, other: str) -> None:
    raise RunError(f"{run} holds a run with another {other}; choose another folder or delete that run.")


def _difference(before: Any, now: Any, name: str = "") -> str:
    """Name the first value in which two recipes differ: ``phases.0.epochs: 2, now 5``."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = {key: (before.get(key), now.get(key)) for key in (*before, *now)}
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = dict(enumerate(zip(before, now, strict=True)))
    else:
        return f"{name}: {before}, now {now}"
    key, (one, other) = next((key, pair) for key, pair in pairs.items() if pair[0] != pair[1])
    return _difference(one, other, f"{name}.{key}" if name else str(key))


def finish_run(run: Path, net: nn.Module) -> None:
    """Write the finished weights."""
    save_state({key: value.cpu() for key, value in net.state_dict().items()}, run / "final.pt")


def read_about(run: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises
    ------
    RunError
        If the folder has none, or it is torn.
    """
    try:
        about: dict[str, Any] = json.loads((run / _ABOUT).read_text("utf-8"))
    except OSError as error:
        raise RunError(f"{run} is no run's folder; it has no {_ABOUT}.") from error
    except ValueError as error:
        raise RunError(
            f"{run / _ABOUT} is torn; delete it, and the command the run began with goes on from its checkpoint."
        ) from error
    return about


def unfinished(run: Path) -> str | None:
    """Say how far a run got that has not ended yet, by its checkpoints; None of one that has.

    Raises
    ------
    RunError
        If a checkpoint is torn and there is none of the epoch before.
    """
    if (run / "final.pt").exists():
        return None
    recipe = read_about(run)["recipe"]
    epochs = sum(stretch["epochs"] for stretch in recipe.get("phases", [recipe]))
    done = sum(load_checkpoint(folder)[0]["epoch"] + 1 for folder in _begun(run))
    return f"{done} of {epochs} epochs"


def _begun(run: Path) -> list[Path]:
    """Return the folders of the phases that have a checkpoint, first to last; of a detector, the run's own.

    The order is the recipe's: a copy of the run's folder has times of its own.
    """
    recipe = read_about(run).get("recipe", {}) if (run / _ABOUT).exists() else {}
    folders = [run / phase["name"] for phase in recipe.get("phases", ())] or [run]
    return [folder for folder in folders if (folder / CHECKPOINT).exists() or (folder / BEFORE).exists()]


def read_run(run: Path) -> dict[str, torch.Tensor]:
    """Return a finished run's weights; of a run still going, the moving average so far (the best validated epoch's).

    Raises
    ------
    RunError
        If the folder holds neither, or they are torn, or there is no folder.
    """
    if not run.is_dir():
        raise RunError(f"There is no run's folder {run}.")
    if (run / "final.pt").exists():
        return load_state(run / "final.pt")
    begun = _begun(run)
    if not begun:
        raise RunError(f"{run} holds no weights yet; wait for its first epoch.")
    state, _ = load_checkpoint(begun[-1])
    if state["best"] is not None:
        best: dict[str, torch.Tensor] = state["best"][1]
        return best
    return {k.removeprefix("module."): v for k, v in state["average"].items() if k.startswith("module.")}
