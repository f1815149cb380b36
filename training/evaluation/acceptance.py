"""Acceptance of a model on a site's own films: thresholds on figures, and a sentence for each.

``"mae<=10,coverage>=0.85,refused<=0.05"``, or the path of a TOML file with the same names::

    mae = "<= 10"
    coverage = ">= 0.85"

A figure that could not be measured (no films, no annotations) fails its threshold: nobody has shown that it holds.
"""

from __future__ import annotations

import math
import operator
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DataError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_PATTERN = re.compile(r"\s*([a-z0-9_]+)\s*(<=|>=|<|>)\s*([0-9.]+)\s*")

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure that a threshold may name: what it is called in a sentence, and where it stands in the JSON."""

    words: str
    path: tuple[str, ...]
    absolute: bool = False  # judge its size, whatever its sign
    share: bool = True  # from 0 to 1, else months or milliseconds


METRICS: dict[str, Metric] = {
    "mae": Metric("mean absolute error in months", ("table_3", "all", "total", "mae_months"), share=False),
    "mae_male": Metric("mean absolute error of boys in months", ("table_3", "all", "male", "mae_months"), share=False),
    "mae_female": Metric(
        "mean absolute error of girls in months", ("table_3", "all", "female", "mae_months"), share=False
    ),
    "rmse": Metric("root mean square error in months", ("table_3", "all", "total", "rmse_months"), share=False),
    "bias": Metric(
        "bias in months, whatever its sign", ("bland_altman", "all", "total", "bias_months"), absolute=True, share=False
    ),
    "within_6": Metric("share of films within 6 months", ("within_months", "6")),
    "within_12": Metric("share of films within 12 months", ("within_months", "12")),
    "within_24": Metric("share of films within 24 months", ("within_months", "24")),
    "coverage": Metric("share of references inside their 90 % interval", ("coverage_90",)),
    "group_coverage": Metric("lowest such share of the age groups with 15 films or more", ("least_group_coverage",)),
    "width": Metric("mean width of the intervals in months", ("intervals", "all", "width_months"), share=False),
    "refused": Metric("share of films refused", ("refused_share",)),
    "non_hands": Metric("share of images without a hand that got an age", ("non_hands_share",)),
    "milliseconds": Metric("median milliseconds a film", ("milliseconds_median",), share=False),
    "roi_precision": Metric("precision of the 13 bones at IoU 0.5", ("roi", "all", "precision")),
    "roi_recall": Metric("recall of the 13 bones at IoU 0.5", ("roi", "all", "recall")),
    "roi_f1": Metric("F1 of the 13 bones at IoU 0.5", ("roi", "all", "f1")),
    "roi_ap50": Metric("AP50 of the 13 bones", ("roi", "all", "ap50")),
    "roi_all_13": Metric("share of films with all 13 bones reported", ("roi", "all", "films_all_13_reported")),
    "roi_centre": Metric("median centre error as a share of the hand's length", ("roi", "all", "centre_median")),
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """What one figure must be."""

    name: str
    comparison: str
    limit: float

    def judge(self, figures: Figures) -> Verdict:
        """Set a figure beside the threshold."""
        metric = METRICS[self.name]
        value = _find(figures, metric.path)
        if metric.absolute:
            value = abs(value)
        passed = not math.isnan(value) and _OPERATORS[self.comparison](value, self.limit)
        measured = "was not measured" if math.isnan(value) else f"is {value:.4g}"
        sentence = f"{self.name}: {metric.words} {measured}, wanted {self.comparison} {self.limit:g}."
        return Verdict(self.name, passed, sentence)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one threshold holds, in a sentence."""

    name: str
    passed: bool
    sentence: str


def _find(figures: Figures, path: tuple[str, ...]) -> float:
    value: Any = figures
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return float("nan") if value is None else float(value)


def read_thresholds(text: str) -> list[Threshold]:
    """Read thresholds from the command line's text, or from the TOML file it names.

    Raises
    ------
    DataError
        If there is none, one cannot be understood, or names a figure that there is not.
    """
    path = Path(text)
    if text.endswith(".toml"):
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"The thresholds {path} cannot be read; it must be a TOML file.") from error
        unclear = [name for name, wanted in table.items() if not isinstance(wanted, str)]
        if unclear:
            raise DataError(f'{path}: {unclear[0]} has no comparison in quotes; write it like {unclear[0]} = "<= 10".')
        parts = [f"{name}{wanted}" for name, wanted in table.items()]
    else:
        parts = [part for part in text.split(",") if part.strip()]
    if not parts:
        raise DataError(f"There is no threshold in {text!r}; write one like mae<=10.")
    return [_parse(part) for part in parts]


def _parse(text: str) -> Threshold:
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise DataError(f"The threshold {text.strip()!r} cannot be understood; write it like mae<=10.")
    name, comparison, limit = match.groups()
    if name not in METRICS:
        raise DataError(f"There is no figure named {name!r}; there are {', '.join(METRICS)}.")
    try:
        threshold = Threshold(name, comparison, float(limit))
    except ValueError as error:
        raise DataError(f"The threshold {text.strip()!r} has no number; write it like mae<=10.") from error
    if METRICS[name].share and threshold.limit > 1:
        raise DataError(
            f"The threshold {text.strip()!r} means nothing: {name} is a share from 0 to 1; write 0.05 for 5 %."
        )
    return threshold
