"""A run's folder: what it was asked for, its curve, its checkpoints, its weights.

Layout: ``run.json`` (target, recipe, seed, git revision, versions, hash of the data, ...), one folder per phase (or the
folder itself, for a detector) with ``checkpoint.pt``, ``curve.jsonl`` and TensorBoard's events, ``summary.html`` (see
:mod:`training.summary`), and ``final.pt`` once it is done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import subprocess
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training.errors import RunError

_log = logging.getLogger(__name__)

_PACKAGES = ("torch", "numpy", "opencv-python-headless", "monai", "scipy")
_SAME = ("target", "seed", "data_sha256")
"""What a run must have in common with the one it resumes; its schedule is compared with the checkpoint's."""


def git_revision() -> str:
    """Return the revision of the sources, ``unknown`` outside a checkout."""
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
    (run / "run.json").write_text(json.dumps(content, indent=2) + "\n")


def begin_run(run: Path, about: dict[str, Any]) -> None:
    """Write ``run.json``; a run found there is resumed, and the times and revisions of its starts are kept.

    Raises
    ------
    RunError
        If the run found there had another target, seed or data.
    """
    run.mkdir(parents=True, exist_ok=True)
    before = read_about(run) if (run / "run.json").exists() else {}
    for key in _SAME:
        if key in before and before[key] != about[key]:
            raise RunError(
                f"{run} holds a run with another {key} ({before[key]}, now {about[key]}); choose another folder or "
                "delete that run."
            )
    if before and before.get("recipe") != about["recipe"]:
        _log.warning("the recipe differs from the one %s began with; run.json now holds the new one", run)
    start = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "revision": git_revision()}
    write_about(run, about | {"starts": [*before.get("starts", []), start]})


def finish_run(run: Path, net: nn.Module) -> None:
    """Write the finished weights."""
    part = run / "final.part"
    torch.save({key: value.cpu() for key, value in net.state_dict().items()}, part)
    part.replace(run / "final.pt")


def read_about(run: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises
    ------
    RunError
        If the folder has none.
    """
    try:
        about: dict[str, Any] = json.loads((run / "run.json").read_text())
    except OSError as error:
        raise RunError(f"{run} is no run's folder; it has no run.json.") from error
    return about


def best_score(folder: Path) -> float:
    """Return the best validation score of a phase so far; NaN without any."""
    lines = (folder / "curve.jsonl").read_text().splitlines()
    scores = [score for line in lines if (score := json.loads(line)["score"]) is not None]
    return min(scores, default=float("nan"))


def read_run(run: Path) -> dict[str, torch.Tensor]:
    """Return a finished run's weights; of a run still going, the moving average so far (the best validated epoch's).

    Raises
    ------
    RunError
        If the folder holds neither.
    """
    if (run / "final.pt").exists():
        final: dict[str, torch.Tensor] = torch.load(run / "final.pt", map_location="cpu", weights_only=True)
        return final
    checkpoints = sorted(run.glob("**/checkpoint.pt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise RunError(f"{run} holds no weights yet; wait for its first epoch.")
    state = torch.load(checkpoints[-1], map_location="cpu", weights_only=True)
    if state["best"] is not None:
        best: dict[str, torch.Tensor] = state["best"][1]
        return best
    return {k.removeprefix("module."): v for k, v in state["average"].items() if k.startswith("module.")}
