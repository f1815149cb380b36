"""Write a method's ``calibration.json``: 90 % intervals from the validation films, through the node's own engine.

``python -m training.calibrate --data DIR [--method global-local]``. Split conformal prediction per predicted-age bin;
the sexes share a bin's quantile while the validation part holds only 123 films.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from itertools import pairwise
from pathlib import Path

import numpy as np

from inference.bundle import bundles_folder
from inference.engine import Engine
from inference.finding import Sex
from training.evaluate import Row, read_films
from training.radiographs import load_half

EDGES_MONTHS = (0.0, 96.0, 144.0, 240.0)
LEVEL = 0.9


def half_widths(rows: list[Row], level: float = LEVEL) -> list[float]:
    """Return the conformal half-width in months of each bin: the ceil((n + 1) level)-th smallest absolute error."""
    read = [(r.estimate_months, r.reference_months) for r in rows if r.estimate_months is not None]
    estimates, references = np.array(read).T
    widths = []
    for low, high in pairwise(EDGES_MONTHS):
        errors = np.sort(np.abs(estimates - references)[(estimates >= low) & (estimates < high)])
        rank = min(math.ceil((len(errors) + 1) * level), len(errors))
        widths.append(round(float(errors[rank - 1]), 2))
    return widths


def main(argv: list[str] | None = None) -> int:
    """Calibrate; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m training.calibrate", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", default="global-local")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    path = bundles_folder() / arguments.method / "configs" / "calibration.json"
    if not path.exists():  # the engine wants one to start; its widths play no part in the estimates
        wide = [240.0] * (len(EDGES_MONTHS) - 1)
        _write(path, wide)
    rows = read_films(Engine.load(arguments.method), load_half(arguments.data, ["validation"]))
    _write(path, half_widths(rows))
    return 0


def _write(path: Path, widths: list[float]) -> None:
    table = {
        "level": LEVEL,
        "edges_months": EDGES_MONTHS,
        "half_widths_months": {sex.value: widths for sex in Sex},
        "split": "validation part of training/split.csv (the epoch was also chosen on it)",
    }
    path.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
