"""``boneage-node calibrate``: write a method's 90 % intervals, from films that no weight was fitted to.

The films are the validation part, read by the node's own engine, or those of ``--rows`` files: evaluations, or
out-of-fold estimates of a run with folds, as ``boneage-node evaluate --json`` writes rows. Folds are best: where epochs
and recipes were chosen on the validation part, its errors are smaller than new films will have. ``--small`` adds the
120 films of ``annotation-test``, which nothing was fitted to or chosen on, but which have 100 x 100 pixels only: read
worse than a clinical film, they err on the side of wide intervals.

The scheme is normalised split conformal prediction (Lei et al., JASA 2018;113:1094, section 5.2): the half-width at
predicted age x for sex s is ``q * scale(x, s)``. ``scale`` is the local mean absolute error: a Gaussian kernel over
predicted age of BANDWIDTH_MONTHS, the sex's own films pulled towards both sexes' by PRIOR_FILMS films' worth, and those
towards the mean over all ages likewise. ``q`` is the conformal quantile of ``error / scale`` with each film left out
of its own scale, raised so that with CONFIDENCE the intervals cover what they promise whichever films they were
calibrated on (``rank``): plain conformal intervals promise it only on average over such draws, and a hospital has one.

Why so: with some 120 films, bins per sex and age hold 3 to 15 each, whose 90 % quantile is their largest error or the
one below: it jumps between neighbouring bins and covers by luck. Here one quantile is taken over all films, so that the
coverage overall is the promised one whatever the scale looks like; the scale, a mean and no quantile, is steady with
few films, and where a sex or an age has many films it follows them. ``--shape`` takes the scale from the errors on the
``train`` part instead, as Lei et al. do: eight times as many films tell apart ages that are read well and badly
(SHAPE_BANDWIDTH_MONTHS); ``q`` still comes from the other films alone. That errors are smaller there does not matter by
itself, but a network that knows its films by heart knows some ages better than others: take the one of both whose
cross-validated coverage is higher where it is lowest. What neither can mend: ages at which the method is biased (very
old ones read too young) while films of the same *predicted* age are not; the coverage per group of the reference that
``evaluate`` prints shows it.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from inference.bundle import canonical_name
from inference.catalogue import identify
from inference.engine import Engine
from inference.errors import BundleError, InferenceError
from inference.finding import ModelIdentity, Sex
from inference.intervals import UNCALIBRATED, Calibration
from inference.method import DEFAULT_METHOD
from inference.named_ensemble import calibration_path
from inference.recalibration import SITE_MARK
from inference.sex_alarm import SexAlarm
from training.annotations import read_annotations
from training.arguments import add_threads, first_line
from training.bundle_intervals import refuse_others, weights_of
from training.errors import DataError, TrainingError, exit_code
from training.evaluation.ages import age_groups, in_group
from training.evaluation.output import check_outputs
from training.evaluation.reading import Row, read_films, read_json, rows_of
from training.radiographs import is_project_folder, load_half, load_small
from training.storage import check_writable, make_folder, write_text
from training.terms import part_of_films

_log = logging.getLogger(__name__)

Float = npt.NDArray[np.float64]

LEVEL, CONFIDENCE = 0.9, 0.9
BANDWIDTH_MONTHS = 36.0
"""Standard deviation of the kernel: films three years away in predicted age still count a little over half."""
PRIOR_FILMS = 20.0
"""So many films' worth of the coarser mean goes into each finer one.

Both were chosen on draws of 122 of the ``train`` part's films, counted on the rest: coverage 0.91 ± 0.03 overall, much
the same from 12 months and 5 films to no kernel at all; the lowest group was steadiest from 36 months on.
"""
SHAPE_BANDWIDTH_MONTHS = 12.0
"""The same with the films of the ``train`` part: a year away still counts a little over half."""
KNOTS_MONTHS = tuple(float(age) for age in range(0, 241, 12))
LEAST_FILMS = 30
"""With fewer films no 90 % quantile is worth its name."""
FOLDS, REPEATS = 5, 20
"""The cross-validated coverage calibrates on 4 of 5 parts and counts on the fifth, for so many random divisions."""
_LEAST_SCALE_MONTHS = 0.5
_OWN = {
    "level", "confidence", "ages_months", "edges_months", "half_widths_months", "split", "films", "shape_films",
    "cross_validated_coverage",
}  # fmt: skip
"""Keys of ``calibration.json`` that intervals own."""


def rank(films: int, level: float, confidence: float = CONFIDENCE) -> int:
    """Return which of so many films' ratios of error to scale, sorted and counted from 1, is the conformal factor.

    The smallest with which intervals cover at least ``level`` of new films with at least ``confidence``: the coverage
    given the calibration films is distributed as Beta(k, films + 1 - k) (Vovk, Proc. ACML 2012, proposition 2). With
    too few films for that, the last.
    """
    ranks = np.arange(1, films + 1)
    enough = np.flatnonzero(beta.sf(level, ranks, films + 1 - ranks) >= confidence)
    return int(ranks[enough[0]]) if len(enough) else films


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Films as arrays of shape (n,): predicted ages and absolute errors in months, whether male."""

    ages: Float
    errors: Float
    male: npt.NDArray[np.bool_]

    @staticmethod
    def make(rows: list[Row]) -> Sample:
        """Take the films that got an age."""
        read = [row for row in rows if row.estimate_months is not None]
        ages = np.array([row.estimate_months for row in read], dtype=np.float64)
        errors = np.abs([row.error_months for row in read])
        return Sample(ages, errors, np.array([row.sex == Sex.MALE.value for row in read], dtype=bool))

    def part(self, chosen: npt.NDArray[Any]) -> Sample:
        """Return some of the films, by mask or places."""
        return Sample(self.ages[chosen], self.errors[chosen], self.male[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """The local mean absolute error around a predicted age, by sex, as films show it."""

    films: Sample
    bandwidth_months: float = BANDWIDTH_MONTHS

    def at(self, ages: Float, male: npt.NDArray[np.bool_], *, own: bool = False) -> Float:
        """Return it in months, shape of ``ages``.

        With ``own``, ``ages`` are the films' own, and each film is left out of its own mean.
        """
        errors = self.films.errors
        weights = np.exp(-(((ages[:, None] - self.films.ages) / self.bandwidth_months) ** 2) / 2)
        overall = np.full(len(ages), errors.mean())
        if own:
            np.fill_diagonal(weights, 0)
            overall = (errors.sum() - errors) / (len(errors) - 1)
        pooled = (weights @ errors + PRIOR_FILMS * overall) / (weights.sum(1) + PRIOR_FILMS)
        weights *= male[:, None] == self.films.male
        scale = (weights @ errors + PRIOR_FILMS * pooled) / (weights.sum(1) + PRIOR_FILMS)
        return np.asarray(np.maximum(scale, _LEAST_SCALE_MONTHS), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Widths:
    """Half-widths: a factor times a scale."""

    factor: float
    scale: Scale

    @staticmethod
    def fit(films: Sample, level: float, shape: Scale | None = None) -> Widths:
        """Take the factor from films, and their own scale unless a shape from other films is given.

        The factor is the conformal one: the ratio of error to scale that :func:`rank` names.
        """
        scale = shape or Scale(films)
        ratios = np.sort(films.errors / scale.at(films.ages, films.male, own=shape is None))
        return Widths(float(ratios[rank(len(ratios), level) - 1]), scale)

    def at(self, ages: Float, male: npt.NDArray[np.bool_]) -> Float:
        """Return half-widths in months, shape of ``ages``."""
        return self.factor * self.scale.at(ages, male)


def calibrate(rows: list[Row], films: str, level: float = LEVEL, shape: list[Row] | None = None) -> dict[str, Any]:
    """Return the content of ``calibration.json``.

    Parameters
    ----------
    rows
        Films with their estimates.
    films
        Which films these are, a phrase for people.
    level
        Coverage wanted.
    shape
        Films the scale is taken from instead; their errors may be smaller than new films will have.

    Raises
    ------
    DataError
        If fewer than LEAST_FILMS of them got an age.
    """
    sample = Sample.make(rows)
    if len(sample.ages) < LEAST_FILMS:
        raise DataError(
            f"Intervals need at least {LEAST_FILMS} films with an age; there are {len(sample.ages)}. Add films that "
            "nothing was trained on: mark them as validation in the table's part column of the --data folder, or "
            "give --rows more films (rows of several evaluations, or out-of-fold estimates)."
        )
    scale = Scale(Sample.make(shape), SHAPE_BANDWIDTH_MONTHS) if shape else None
    fitted, knots = Widths.fit(sample, level, scale), np.array(KNOTS_MONTHS)
    widths = {
        sex.value: [round(float(w), 2) for w in fitted.at(knots, np.full(len(knots), sex is Sex.MALE))] for sex in Sex
    }
    return {
        "level": level,
        "confidence": CONFIDENCE,
        "ages_months": list(KNOTS_MONTHS),
        "half_widths_months": widths,
        "split": films,
        "films": len(sample.ages),
        "shape_films": len(scale.films.ages) if scale else 0,
        "cross_validated_coverage": cross_validated_coverage(rows, level, scale),
    }


def cross_validated_coverage(
    rows: list[Row], level: float = LEVEL, shape: Scale | None = None, seed: int = 2026
) -> dict[str, float]:
    """Return the coverage on films the intervals were not made from, overall and per age group of the reference."""
    read = [row for row in rows if row.estimate_months is not None]
    sample, generator = Sample.make(read), np.random.default_rng(seed)
    hits = np.zeros(len(read))
    for _ in range(REPEATS):
        fold = generator.permutation(len(read)) % FOLDS
        for place in range(FOLDS):
            held = fold == place
            half = Widths.fit(sample.part(~held), level, shape).at(sample.ages[held], sample.male[held])
            hits[held] += sample.errors[held] <= half
    coverage = {"all": float(hits.mean() / REPEATS)}
    for group in age_groups(read):
        inside = np.array([in_group(row, group) for row in read])
        if inside.any():
            coverage[f"({group[0]}, {group[1]}]"] = float(hits[inside].mean() / REPEATS)
    return {name: round(value, 3) for name, value in coverage.items()}


def print_calibration(table: dict[str, Any]) -> None:
    """Print half-widths by sex and age, and the cross-validated coverage."""
    print(f"{table['films']} films: {table['split']}")  # noqa: T201 - a command's answer
    calibration = Calibration.parse(table)
    for age in range(24, 229, 24):
        widths = (f"{sex.name.lower()} ± {calibration.half_width(age, sex):.1f}" for sex in Sex)
        print(f"  {age / 12:4.0f} years: " + ", ".join(widths) + " months")  # noqa: T201
    for name, share in table["cross_validated_coverage"].items():
        print(f"  coverage, cross-validated, {name}: {share:.1%}")  # noqa: T201


def write_calibration(path: Path, table: dict[str, Any]) -> None:
    """Write the intervals; what else a ``calibration.json`` found there holds, such as the sex alarm, stays."""
    before = _read_usable(path) or {}
    make_folder(path.parent)
    write_text(path, json.dumps({k: v for k, v in before.items() if k not in _OWN} | table, indent=2) + "\n")


def _read_usable(path: Path) -> dict[str, Any] | None:
    """Return what a ``calibration.json`` holds; None where there is none, or one that no engine opens, which goes."""
    if not path.exists():
        return None
    try:
        table: dict[str, Any] = json.loads(path.read_text())
        Calibration.parse(table)
        SexAlarm.parse(table)
    except (ValueError, AttributeError, TypeError, BundleError):
        path.unlink()
        _log.warning(
            "%s could not be used and is written anew; an alarm for a wrong sex that it may have held is gone: "
            "python -m training.sexes measures it.",
            path.name,
        )
        return None
    return table


@contextmanager
def _some_intervals(path: Path) -> Iterator[None]:
    """Have intervals there for as long as an engine starts, which wants some; they play no part in its estimates."""
    if _read_usable(path) is not None:
        yield
        return
    wide = {"level": LEVEL, "ages_months": [0.0], "split": UNCALIBRATED, "half_widths_months": {"M": [240], "F": [240]}}
    write_calibration(path, wide)
    try:
        yield
    finally:
        path.unlink()
        for folder in (path.parent, path.parents[1]):  # an ensemble may have none of its own yet
            if not any(folder.iterdir()):
                folder.rmdir()


def check_rows(table: dict[str, Any], name: str, model: ModelIdentity) -> None:
    """Refuse the rows of an evaluation of something else than what gets the intervals.

    Out-of-fold estimates say of no model what it is, and are taken.

    Raises
    ------
    DataError
        If the evaluation is of another method or other weights, or its ages were recalibrated.
    """
    said = table.get("model")
    if not isinstance(said, dict):
        return
    method, version = str(said.get("method")), str(said.get("version"))
    if canonical_name(method) != model.method:
        raise DataError(f"{name} was measured with {method!r}: name it by --method, or give rows of {model.method!r}.")
    if SITE_MARK in version:
        raise DataError(f"{name} has recalibrated ages; evaluate without --recalibration: intervals are the model's.")
    if said.get("weights_sha256") != model.weights_sha256:
        raise DataError(f"{name} was measured with other weights of {method!r}; evaluate again.")


def _read_rows(arguments: argparse.Namespace, path: Path) -> tuple[list[Row], str, list[Row] | None]:
    if arguments.rows:
        with _some_intervals(path):
            model = identify(arguments.method)
        tables = {file: read_json(file) for file in arguments.rows}
        for file, table in tables.items():
            check_rows(table, file.name, model)
        parts = ", ".join(str(table.get("part", file.stem)) for file, table in tables.items())
        return [row for file, table in tables.items() for row in rows_of(table, file.name)], f"films of {parts}", None
    with _some_intervals(path):
        engine = Engine.load(arguments.method, threads=arguments.threads, uncalibrated=True)
    films, words = load_half(arguments.data, ["validation"]), part_of_films(arguments.data, "validation")
    if arguments.small and is_project_folder(arguments.data):
        aspects = {rsna_id: a.aspect for rsna_id, a in read_annotations(arguments.data).items()}
        films += load_small(arguments.data, ["annotation-test"], aspects=aspects)
        words = "validation and annotation-test parts of training/split.csv"
    words = f"{words} (a recipe that chooses its epoch chose it on the validation part)"
    shape = read_films(engine, load_half(arguments.data, ["train"])) if arguments.shape else None
    if shape:
        words += "; their shape over ages: train part"
    return read_films(engine, films), words, shape


def main(argv: list[str] | None = None) -> int:
    """Calibrate; returns 0, 1 when the model cannot be opened, 2 when the data cannot be used."""
    parser = argparse.ArgumentParser(prog="boneage-node calibrate", description=first_line(__doc__))
    parser.add_argument(
        "--data", type=Path, help="this project's data folder, RSNA's or a site's own; its validation part is read"
    )
    parser.add_argument("--small", action="store_true", help="add the held-out films at 100 x 100 pixels")
    parser.add_argument("--shape", action="store_true", help="take the widths' shape over ages from the train part")
    parser.add_argument("--rows", type=Path, nargs="+", help="take the rows of these evaluations' JSON instead")
    parser.add_argument("--method", default=DEFAULT_METHOD, help=f"whose bundle gets them (default {DEFAULT_METHOD})")
    parser.add_argument("--out", type=Path, help="write here instead of into the bundle")
    add_threads(parser)
    arguments = parser.parse_args(argv)
    if (arguments.data is None) == (not arguments.rows):
        parser.error("give either --data or --rows")
    if arguments.rows and (arguments.small or arguments.shape):
        parser.error("--small and --shape would change nothing with --rows; leave them out, or give --data")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    path = calibration_path(arguments.method)
    try:
        check_outputs(arguments.out, inputs=arguments.rows or ())
        if arguments.out is None:
            check_writable(path.parent)
        with _some_intervals(path):
            weights = weights_of(arguments.method)
        rows, films, shape = _read_rows(arguments, path)
        table = calibrate(rows, films, shape=shape)
        with _some_intervals(path):
            refuse_others(arguments.method, weights)
        write_calibration(arguments.out or path, table)
    except (TrainingError, InferenceError) as error:
        return exit_code(error)
    print_calibration(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
