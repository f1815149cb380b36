"""``python -m training.split --data DATA``: draw the split anew, and say whether the committed one is that.

The films of ``training/split.csv`` were drawn once, by the function here. Whoever doubts that a part was chosen draws
them again: 0 films in another part is the answer that the committed file must give.
"""

from __future__ import annotations

import argparse
import csv
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np

from training.annotations import read_all_sets
from training.arguments import first_line
from training.errors import DataError, TrainingError, exit_code
from training.radiographs import read_split

SEED = 2026


def make_split(data: Path, annotated: set[int], seed: int = SEED) -> dict[int, str]:
    """Draw the split: 15 % of the half-resolution films as test, 10 % as validation, stratified by sex and age.

    Of the films that are annotated but exist at 100 x 100 only, 120 are set aside as ``annotation-test``.

    Parameters
    ----------
    data
        This project's data folder.
    annotated
        Ids of films that any reader annotated.
    seed
        What the draw begins with.

    Raises
    ------
    DataError
        If the tables of films are missing or broken.
    """
    generator = np.random.default_rng(seed)
    strata, only_small = _read_films(data / "rsna2017")
    split: dict[int, str] = {}
    # Carrying the remainder from stratum to stratum keeps the total at 15 % and 10 % in spite of small strata.
    owed_test = owed_validation = 0.0
    for key in sorted(strata):
        ids = generator.permutation(sorted(strata[key]))
        owed_test, owed_validation = owed_test + 0.15 * len(ids), owed_validation + 0.10 * len(ids)
        test = round(owed_test)
        validation = min(round(owed_validation), len(ids) - test)
        owed_test, owed_validation = owed_test - test, owed_validation - validation
        for place, rsna_id in enumerate(ids):
            split[int(rsna_id)] = "test" if place < test else "validation" if place < test + validation else "train"
    only_small -= set(split)
    aside = set(generator.permutation(sorted(only_small & annotated))[:120].tolist())
    split.update({rsna_id: "annotation-test" if rsna_id in aside else "pretrain" for rsna_id in sorted(only_small)})
    return split


def _read_films(folder: Path) -> tuple[dict[tuple[str, int], list[int]], set[int]]:
    """Return the ids of films at half resolution by sex and two years of age, and those of all at 100 x 100 pixels."""
    strata: dict[tuple[str, int], list[int]] = defaultdict(list)
    try:
        with (folder / "half.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                strata[row["sex"], int(float(row["bone_age_months"]) // 24)].append(int(row["rsna_id"]))
        small = {int(i) for n in (0, 1) for i in np.load(folder / "lowres100" / f"part{n}.npz")["rsna_id"]}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder} lacks half.csv or lowres100/part0.npz and part1.npz, or one is broken; restore them."
        ) from error
    return strata, small


def main(argv: list[str] | None = None) -> int:
    """Draw and compare; returns 0, 1 where the committed split is another, 2 when the data cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m training.split", description=first_line(__doc__))
    parser.add_argument("--data", type=Path, required=True, help="this project's data folder")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        drawn = make_split(arguments.data, set(read_all_sets(arguments.data / "annotations")))
    except TrainingError as error:
        return exit_code(error)
    committed = read_split()
    others = sum(drawn.get(rsna_id) != committed.get(rsna_id) for rsna_id in drawn.keys() | committed.keys())
    print(f"{len(drawn)} films drawn, {others} of them in another part than training/split.csv says")  # noqa: T201
    return 1 if others else 0


if __name__ == "__main__":
    raise SystemExit(main())
