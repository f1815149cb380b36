"""Whom ``boneage-node compare`` compares: shipped methods, runs, kept evaluations; read on the same films."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference.bundle import UNCONVERGED, Bundle, open_bundle
from inference.engine import Engine
from inference.intervals import UNCALIBRATED
from inference.method import AGE_WEIGHTS
from training.errors import DataError, RunError
from training.evaluation.own_rois import BoxedFilm, detector_of, own_roi_figures
from training.evaluation.reading import Row, cost, interpret, read_films, read_json, rows_of
from training.evaluation.rois import compare_rois, roi_figures
from training.export import save_weights, write_metadata
from training.radiographs import Radiograph
from training.run import read_about, read_run, unfinished

_log = logging.getLogger(__name__)

_TIMED = 20
"""Films read on CUDA for its time, where the comparison itself runs on the CPU."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One method or run with what it said of the films, and what it costs."""

    label: str
    method: str
    config: dict[str, Any]  # the method's configuration: tells an ablation from the full method
    rows: list[Row]
    cost: dict[str, Any]  # parameters, megabytes, threads, device
    rois: dict[str, Any] = field(default_factory=dict)
    """Figures of regions, as an evaluation has them: ``shared`` and, where the method has one, its ``own`` detector's;
    ``detector`` says which of both it reads with."""
    converged: bool = True

    def on(self, films: set[int]) -> Contestant:
        """Return the contestant with its rows of these films only."""
        return replace(self, rows=[row for row in self.rows if row.rsna_id in films])


@dataclass(frozen=True, slots=True)
class Computing:
    """Where and with how many threads to read films."""

    threads: int
    device: str


def labelled(name: str, *, converged: bool) -> str:
    """Return a contestant's label, which says where training did not converge."""
    return name if converged else f"{name} (unconverged)"


def from_evaluation(path: Path) -> tuple[Contestant, str]:
    """Take over a kept evaluation; returns it with the part it was made on.

    Raises
    ------
    DataError
        If the file is no evaluation.
    """
    try:
        table = read_json(path)
        rows = rows_of(table, path.name)
        converged = UNCONVERGED not in str(table["model"].get("version", ""))
        label = labelled(f"{table['model']['method']} ({path.stem})", converged=converged)
        rois = {"detector": table.get("detector"), "shared": (table.get("roi") or {}).get("all")}
        rois["own"] = table.get("own_roi")
        method, config = str(table["model"]["method"]), table.get("config", {})
        made = Contestant(label, method, config, rows, table["cost"], rois, converged)
        return made, str(table["part"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path.name} is no evaluation; write it with boneage-node evaluate --json.") from error


def from_bundle(
    name: str,
    films: list[Radiograph],
    computing: Computing,
    folder: Path | None = None,
    boxed: list[BoxedFilm] | None = None,
) -> Contestant:
    """Read films with a bundle's method; regions are judged on the boxed ones."""
    engine = Engine.load(
        name, threads=computing.threads, device=computing.device, folder=folder, uncalibrated=folder is not None
    )
    _log.info("%s reads %d films", name, len(films))
    rows = read_films(engine, films)
    costs = cost(name, threads=computing.threads, device=computing.device, folder=folder)
    if costs["device"] == "cpu" and torch.cuda.is_available():
        costs["cuda_milliseconds"] = _milliseconds_on_cuda(name, films, computing, folder)
    bundle = open_bundle(name, folder)
    converged = bundle.unconverged is None
    rois = _rois(engine, bundle, computing, folder, boxed or [])
    return Contestant(labelled(name, converged=converged), name, bundle.config, rows, costs, rois, converged)


def _milliseconds_on_cuda(
    name: str, films: list[Radiograph], computing: Computing, folder: Path | None
) -> float | None:
    """Return the median time of a film on CUDA, over the first of them; the very first only warms up."""
    engine = Engine.load(name, threads=computing.threads, device="cuda", folder=folder, uncalibrated=folder is not None)
    times = [row.milliseconds for row in read_films(engine, films[: _TIMED + 1])][1:]
    return float(np.median([one for one in times if one is not None])) if times else None


def _rois(
    engine: Engine, bundle: Bundle, computing: Computing, folder: Path | None, boxed: list[BoxedFilm]
) -> dict[str, Any]:
    shared = [compare_rois(one.film, interpret(engine, one.film).rois, one.annotation) for one in boxed]
    name, threads, device = bundle.folder.name, computing.threads, computing.device
    own = own_roi_figures(name, boxed, threads=threads, device=device, folder=folder)
    return {"detector": detector_of(bundle), "shared": roi_figures(shared), "own": own}


def recipe_of(run: Path) -> dict[str, Any]:
    """Return the recipe of a run of an age method.

    Raises
    ------
    RunError
        If the folder is none.
    """
    recipe = read_about(run).get("recipe")
    if not isinstance(recipe, dict) or "method" not in recipe:
        raise RunError(f"{run} is no run of an age method; compare knows nothing of detectors.")
    return recipe


def from_run(
    run: Path, films: list[Radiograph], computing: Computing, boxed: list[BoxedFilm] | None = None
) -> Contestant:
    """Read films with a run's weights, as the bundle that an export would make; a run has no intervals yet.

    Raises
    ------
    RunError
        If the folder is no run of an age method, or holds no weights.
    """
    recipe = recipe_of(run)
    target = str(recipe["target"])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / target
        save_weights(read_run(run), folder / "models" / AGE_WEIGHTS)
        write_metadata(folder, run.name, "A run.", recipe["method"], unconverged=unfinished(run))
        none = {"level": 0.9, "ages_months": [0], "half_widths_months": {"M": [1], "F": [1]}, "split": UNCALIBRATED}
        (folder / "configs" / "calibration.json").write_text(json.dumps(none))
        read = from_bundle(target, films, computing, Path(made), boxed)
    label = labelled(run.name, converged=read.converged)
    return replace(read, label=label, rows=[replace(row, low_months=None, high_months=None) for row in read.rows])


def common_films(contestants: list[Contestant]) -> list[Contestant]:
    """Return the contestants with the films that all of them were shown.

    Raises
    ------
    DataError
        If there are none, or two of them have another reference for the same film.
    """
    shared = set.intersection(*({row.rsna_id for row in contestant.rows} for contestant in contestants))
    if not shared:
        raise DataError("These contestants have no film in common; measure them on the same part.")
    kept = [contestant.on(shared) for contestant in contestants]
    references = [{row.rsna_id: (row.reference_months, row.sex) for row in contestant.rows} for contestant in kept]
    for contestant, own in zip(kept, references, strict=True):
        if own != references[0]:
            raise DataError(f"{contestant.label} was measured against other readings; measure it again.")
    return kept
