"""A run's folder: what it was asked for, its curve, its checkpoints, its weights.

Layout: ``run.json`` (target, recipe, seed, git revision), one folder per phase (or the folder itself, for a detector)
with ``checkpoint.pt`` and ``curve.jsonl``, and ``final.pt`` once it is done.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import torch

from training.errors import RunError


def git_revision() -> str:
    """Return the revision of the sources, ``unknown`` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_about(run: Path, about: dict[str, object]) -> None:
    """Write ``run.json``."""
    (run / "run.json").write_text(json.dumps(about | {"revision": git_revision()}, indent=2) + "\n")


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
        final: dict[str, torch.Tensor] = torch.load(run / "final.pt", weights_only=True)
        return final
    checkpoints = sorted(run.glob("**/checkpoint.pt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise RunError(f"{run} holds no weights yet; wait for its first epoch.")
    state = torch.load(checkpoints[-1], weights_only=True)
    if state["best"] is not None:
        best: dict[str, torch.Tensor] = state["best"][1]
        return best
    return {k.removeprefix("module."): v for k, v in state["average"].items() if k.startswith("module.")}
