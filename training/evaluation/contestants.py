"""Whom ``boneage-node compare`` compares: shipped methods, runs, kept evaluations; read on the same films."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference.bundle import open_bundle
from inference.engine import Engine
from training.errors import DataError, RunError
from training.evaluation.reading import Row, cost, read_films, read_json, rows_of
from training.export import save_weights, write_metadata
from training.radiographs import Radiograph
from training.run import read_about, read_run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contestant:
    """One method or run with what it said of the films, and what it costs."""

    label: str
    method: str
    config: dict[str, Any]  # the method's configuration: tells an ablation from the full method
    rows: list[Row]
    cost: dict[str, Any]  # parameters, megabytes, threads, device

    def on(self, films: set[int]) -> Contestant:
        """Return the contestant with its rows of these films only."""
        return replace(self, rows=[row for row in self.rows if row.rsna_id in films])


@dataclass(frozen=True, slots=True)
class Computing:
    """Where and with how many threads to read films."""

    threads: int
    device: str


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
        label = f"{table['model']['method']} ({path.stem})"
        made = Contestant(label, str(table["model"]["method"]), table.get("config", {}), rows, table["cost"])
        return made, str(table["part"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path.name} is no evaluation; write it with boneage-node evaluate --json.") from error


def from_bundle(name: str, films: list[Radiograph], computing: Computing, folder: Path | None = None) -> Contestant:
    """Read films with a bundle's method."""
    engine = Engine.load(name, threads=computing.threads, device=computing.device, folder=folder)
    _log.info("%s reads %d films", name, len(films))
    rows = read_films(engine, films)
    costs = cost(name, threads=computing.threads, device=computing.device, folder=folder)
    return Contestant(name, name, open_bundle(name, folder).config, rows, costs)


def from_run(run: Path, films: list[Radiograph], computing: Computing) -> Contestant:
    """Read films with a run's weights, as the bundle that an export would make; a run has no intervals yet.

    Raises
    ------
    RunError
        If the folder is no run of an age method, or holds no weights.
    """
    recipe = read_about(run).get("recipe")
    if not isinstance(recipe, dict) or "method" not in recipe:
        raise RunError(f"{run} is no run of an age method; compare knows nothing of detectors.")
    target = str(recipe["target"])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / target
        save_weights(read_run(run), folder / "models" / "model.safetensors")
        write_metadata(folder, run.name, "A run.", recipe["method"])
        none = {"level": 0.9, "ages_months": [0], "half_widths_months": {"M": [1], "F": [1]}, "split": "none"}
        (folder / "configs" / "calibration.json").write_text(json.dumps(none))
        read = from_bundle(target, films, computing, Path(made))
    return replace(read, label=run.name, rows=[replace(row, low_months=None, high_months=None) for row in read.rows])


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
