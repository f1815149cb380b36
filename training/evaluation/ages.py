"""Figures of ages and intervals: what Hui et al. 2022 print and plot, and what they do not.

All differences are estimate minus reference, in months: a positive bias means read too old. Groups are by the
reference, in years, (a, b]. A figure without films is NaN.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

from inference.finding import Sex
from training.evaluation.reading import Row

Float = npt.NDArray[np.float64]

AGE_GROUPS_YEARS = ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14), (14, 16), (16, 19))
"""The paper's groups (a, b], with one below and the last one widened: RSNA's films go from 1 to 19 years."""
OLDEST_GROUP_YEARS = (19, 20)
"""Of readings beyond these, which a site's table may have; a group only where there are any."""

LEAST_GROUP_FILMS = 15
"""A group's coverage is judged from so many films on; below, chance alone decides."""

BOOTSTRAPS = 2000


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean absolute and root-mean-square error in months over ``films`` films."""

    films: int
    mae_months: float
    rmse_months: float


def in_group(row: Row, group: tuple[int, int]) -> bool:
    """Whether a film's reference lies in (a, b] years."""
    return 12 * group[0] < row.reference_months <= 12 * group[1]


def age_groups(rows: list[Row]) -> tuple[tuple[int, int], ...]:
    """Return the groups of which each film's reference lies in one, up to 20 years."""
    older = any(in_group(row, OLDEST_GROUP_YEARS) for row in rows)
    return (*AGE_GROUPS_YEARS, OLDEST_GROUP_YEARS) if older else AGE_GROUPS_YEARS


def grouped(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the films of each age group and of all, by the group's name."""
    groups = {f"({g[0]}, {g[1]}]": [row for row in rows if in_group(row, g)] for g in age_groups(rows)}
    return groups | {"all": rows}


def by_sex(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the films of boys, of girls and of both, as ``male``, ``female`` and ``total``."""
    return {sex.name.lower(): [row for row in rows if row.sex == sex.value] for sex in Sex} | {"total": rows}


def differences(rows: list[Row]) -> Float:
    """Return estimate minus reference in months of the films that got an age, shape (n,)."""
    return np.array([row.error_months for row in rows if row.estimate_months is not None], dtype=np.float64)


def errors_of(rows: list[Row]) -> Errors:
    """Errors over the films that got an age; NaN without any."""
    errors = differences(rows)
    if not len(errors):
        return Errors(0, float("nan"), float("nan"))
    return Errors(len(errors), float(np.abs(errors).mean()), float(np.sqrt((errors**2).mean())))


def table_3(rows: list[Row]) -> dict[str, dict[str, Errors]]:
    """Errors per age group and sex as the paper's Table 3 lists them; groups are (a, b] in years of the reference."""
    return {
        group: {sex: errors_of(part) for sex, part in by_sex(inside).items()} for group, inside in grouped(rows).items()
    }


def coverage(rows: list[Row]) -> float:
    """Share of references inside their interval."""
    inside = [
        row.low_months <= row.reference_months <= row.high_months
        for row in rows
        if row.low_months is not None and row.high_months is not None
    ]
    return float(np.mean(inside)) if inside else float("nan")


def cumulative_accuracy(rows: list[Row], months: tuple[int, ...] = (6, 12, 18, 24)) -> dict[int, float]:
    """Share of films within so many months (Fig. 9 of the paper)."""
    errors = np.abs(differences(rows))
    return {month: float((errors <= month).mean()) if len(errors) else float("nan") for month in months}


def mae_interval(rows: list[Row], seed: int = 2026) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean absolute error in months: how much of it is these very films."""
    errors = np.abs(differences(rows))
    if len(errors) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = errors[generator.integers(len(errors), size=(BOOTSTRAPS, len(errors)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def wilson(share: float, films: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson interval of a share counted over so many films."""
    if not films:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + level / 2))
    middle = (share + z * z / (2 * films)) / (1 + z * z / films)
    reach = z / (1 + z * z / films) * math.sqrt(share * (1 - share) / films + z * z / (4 * films * films))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def bland_altman(rows: list[Row]) -> dict[str, float]:
    """Return bias and limits of agreement in months (Bland and Altman, Lancet 1986;1:307): bias ± 1.96 SD.

    ``bias_low_months`` and ``bias_high_months`` bound the bias at 95 % (Student's t).
    """
    errors = differences(rows)
    if len(errors) < 2:
        names = ("bias", "bias_low", "bias_high", "sd", "limit_low", "limit_high")
        return {"films": len(errors)} | {f"{name}_months": float("nan") for name in names}
    bias, deviation = float(errors.mean()), float(errors.std(ddof=1))
    reach = float(t.ppf(0.975, len(errors) - 1)) * deviation / math.sqrt(len(errors))
    return {
        "films": len(errors),
        "bias_months": bias,
        "bias_low_months": bias - reach,
        "bias_high_months": bias + reach,
        "sd_months": deviation,
        "limit_low_months": bias - 1.96 * deviation,
        "limit_high_months": bias + 1.96 * deviation,
    }


def intervals(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Return films, coverage (with its 95 % Wilson interval) and mean width in months of the intervals per group."""
    table = {}
    for group, inside in grouped(rows).items():
        widths = [
            row.high_months - row.low_months
            for row in inside
            if row.low_months is not None and row.high_months is not None
        ]
        share = coverage(inside)
        low, high = wilson(share, len(widths)) if widths else (float("nan"), float("nan"))
        table[group] = {
            "films": len(widths),
            "coverage": share,
            "coverage_low": low,
            "coverage_high": high,
            "width_months": float(np.mean(widths)) if widths else float("nan"),
        }
    return table


def least_coverage(rows: list[Row]) -> float:
    """Return the lowest coverage of the age groups that have LEAST_GROUP_FILMS films; NaN without such a group."""
    table = intervals(rows)
    shares = [row["coverage"] for name, row in table.items() if name != "all" and row["films"] >= LEAST_GROUP_FILMS]
    return min(shares, default=float("nan"))


def flag_figures(rows: list[Row]) -> dict[str, dict[str, Any]] | None:
    """Return for each flag, the most frequent first, how many films carry it, and how well those and others are read.

    ``films`` counts those that got an age, ``refused`` the others; None where the rows do not tell flags.
    """
    if any(row.flags is None for row in rows):
        return None
    often = Counter(code for row in rows for code in row.flags or ())
    table = {}
    for code, _ in sorted(often.items(), key=lambda item: (-item[1], item[0])):
        with_it = [row for row in rows if code in (row.flags or ())]
        read = errors_of(with_it)
        table[code] = {
            "films": read.films,
            "refused": len(with_it) - read.films,
            "mae_months": read.mae_months,
            "mae_months_without": errors_of([row for row in rows if code not in (row.flags or ())]).mae_months,
        }
    return table


def age_figures(rows: list[Row]) -> dict[str, Any]:
    """Return every figure of ages and intervals, as the evaluation's JSON has them."""
    by_group = {name: by_sex(inside) for name, inside in grouped(rows).items()}
    times = [row.milliseconds for row in rows if row.milliseconds is not None]
    return {
        "table_3": {group: {sex: asdict(e) for sex, e in row.items()} for group, row in table_3(rows).items()},
        "within_months": cumulative_accuracy(rows),
        "cumulative_accuracy": {sex: cumulative_accuracy(part, tuple(range(25))) for sex, part in by_sex(rows).items()},
        "mae_interval_months": list(mae_interval(rows)),
        "bland_altman": {
            group: {sex: bland_altman(part) for sex, part in parts.items()} for group, parts in by_group.items()
        },
        "coverage_90": coverage(rows),
        "least_group_coverage": least_coverage(rows),
        "intervals": intervals(rows),
        "refused": dict(Counter(row.refusal for row in rows if row.refusal)),
        "flags": flag_figures(rows),
        "milliseconds_median": float(np.median(times)) if times else float("nan"),
    }
