"""Fit a site's linear correction of ages, per sex, and say honestly what it gains.

Least squares of the reference on the estimate. A line fitted on the very films it is judged on always looks good, so
every figure "after" is leave-one-out: each film is corrected by the line of the others (exactly, by the hat matrix: the
left-out residual is residual / (1 - leverage)). Intervals are rescaled by the conformal quantile of these left-out
errors over the model's half-widths. ``inference.recalibration`` says what the file holds and applies it.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.finding import ModelIdentity, Sex
from inference.recalibration import (
    LEAVE_IT,
    PLAUSIBLE_FACTORS,
    PLAUSIBLE_INTERVAL_FACTORS,
    PLAUSIBLE_OFFSET_MONTHS,
    SCHEMA,
)
from training.errors import DataError
from training.evaluation.reading import Row, read_json

Float = npt.NDArray[np.float64]

LEAST_FILMS = 20
"""A sex with fewer films keeps its ages as they are: two numbers from less than this are noise."""
LEAST_SPREAD_MONTHS = 12.0
"""Films all of one age say nothing of a slope: with a smaller standard deviation only an offset is fitted."""


def fit_line(estimates: Float, references: Float) -> tuple[float, float, Float]:
    """Return offset in months, factor, and the left-out residuals (estimate minus reference), shape (n,)."""
    films = len(estimates)
    centred = estimates - estimates.mean()
    if estimates.std() < LEAST_SPREAD_MONTHS:
        factor, leverage = 1.0, np.full(films, 1 / films)
    else:
        spread = float(centred @ centred)
        factor, leverage = float(centred @ references) / spread, 1 / films + centred**2 / spread
    offset = float(references.mean() - factor * estimates.mean())
    return offset, factor, (offset + factor * estimates - references) / (1 - leverage)


def films_fingerprint(rows: list[Row]) -> str:
    """Return 8 hex digits that tell films with their readings from others, whatever a model says of them."""
    lines = sorted(f"{row.rsna_id} {row.sex} {row.reference_months:g}" for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def is_of_these_films(path: Path, rows: list[Row]) -> bool:
    """Tell whether a recalibration was fitted on these very films, by its file; of one that does not say, it is not.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    return bool(read_json(path).get("films_fingerprint") == films_fingerprint(rows))


def fit(
    rows: list[Row], model: ModelIdentity, level: float = 0.9, *, intervals_fingerprint: str | None = None
) -> dict[str, Any]:
    """Return the content of the recalibration file; the fingerprint is that of the rows' intervals, if it is known.

    Raises
    ------
    DataError
        If no sex has LEAST_FILMS films, the readings and the estimates do not belong together, or an age has no
        interval to rescale.
    """
    read = [row for row in rows if row.estimate_months is not None]
    estimates = np.array([row.estimate_months for row in read], dtype=np.float64)
    references = np.array([row.reference_months for row in read])
    halves = _half_widths(read)
    male = np.array([row.sex == Sex.MALE.value for row in read], dtype=bool)
    lines, left_out = {}, estimates - references
    for sex in Sex:
        chosen = male == (sex is Sex.MALE)
        offset, factor = 0.0, 1.0
        if chosen.sum() >= LEAST_FILMS:
            offset, factor, left_out[chosen] = fit_line(estimates[chosen], references[chosen])
        if not PLAUSIBLE_FACTORS[0] <= factor <= PLAUSIBLE_FACTORS[1] or abs(offset) > PLAUSIBLE_OFFSET_MONTHS:
            raise DataError(
                f"The readings of sex {sex.value} hardly follow the estimates; check that they belong to them."
            )
        lines[sex.value] = {"offset_months": round(offset, 3), "factor": round(factor, 5), "films": int(chosen.sum())}
    if all(line["films"] < LEAST_FILMS for line in lines.values()):
        raise DataError(f"A recalibration needs {LEAST_FILMS} films of one sex with an age; there are fewer.")
    factor = _interval_factor(np.abs(left_out), halves, level)
    return {
        "schema": SCHEMA,
        "method": model.method,
        "weights_sha256": model.weights_sha256,
        "intervals_fingerprint": intervals_fingerprint,
        "films_fingerprint": films_fingerprint(rows),
        "lines": lines,
        "interval_factor": round(factor, 4),
        "before": _figures(estimates - references, halves),
        "after_left_out": _figures(left_out, halves * factor),
        "advice": advice(np.abs(estimates - references), np.abs(left_out)),
    }


def _half_widths(read: list[Row]) -> Float:
    """Return half the width in months of each film's interval, shape (n,): its upper end, for the lower stops at 0."""
    halves = np.array(
        [
            math.nan
            if row.high_months is None or row.estimate_months is None
            else row.high_months - row.estimate_months
            for row in read
        ],
        dtype=np.float64,
    )
    without = int((~(halves > 0)).sum())
    if without:
        raise DataError(
            f"{without} of {len(read)} ages have an interval without width, which nothing can rescale; calibrate the "
            "method and evaluate again."
        )
    return halves


def _interval_factor(errors: Float, halves: Float, level: float) -> float:
    ratios = np.sort(errors / halves)
    rank = min(math.ceil((len(ratios) + 1) * level), len(ratios))
    return float(np.clip(ratios[rank - 1], *PLAUSIBLE_INTERVAL_FACTORS))


def _figures(errors: Float, halves: Float) -> dict[str, float]:
    return {
        "films": len(errors),
        "mae_months": round(float(np.abs(errors).mean()), 3),
        "bias_months": round(float(errors.mean()), 3),
        "coverage": round(float((np.abs(errors) <= halves).mean()), 4),
        "width_months": round(float(2 * halves.mean()), 2),
    }


def advice(before: Float, after: Float) -> str:
    """Say whether the left-out errors are clearly smaller, by the paired 95 % interval of their difference.

    Parameters
    ----------
    before, after
        Absolute errors in months of the same films, shape (n,), n of 2 or more.
    """
    change = after - before
    mean, reach = float(change.mean()), 1.96 * float(change.std(ddof=1)) / math.sqrt(len(change))
    if mean < -reach:
        return f"Adopt it: on films it has not seen it lowers the error by {-mean:.1f} ± {reach:.1f} months."
    if mean > reach:
        return f"{LEAVE_IT}: on films it has not seen it raises the error by {mean:.1f} ± {reach:.1f} months."
    said = f"changes the error by {mean:+.1f} ± {reach:.1f} months"
    return f"{LEAVE_IT}: on films it has not seen it {said}, which may be chance."
