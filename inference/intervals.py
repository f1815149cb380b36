"""Intervals around an estimate: split conformal prediction whose width follows sex and predicted age.

Half-widths come from absolute errors on films that no weight was fitted to (Lei et al., JASA 2018;113:1094, sections
2.2 and 5.2, "locally weighted"); the bundle's ``calibration.json`` holds them with the films they come from. It has one
of two forms: ``ages_months``, knots between which half-widths are interpolated linearly and beyond which they stay, or
``edges_months``, bins with one half-width each. ``boneage-node calibrate`` writes the first.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.errors import BundleError
from inference.finding import Sex

UNCALIBRATED = "none"
"""The split of intervals that only stand there while a method is being calibrated, or a run compared."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Half-widths in months by sex and predicted age.

    With ``binned``, ``ages_months`` are edges: half-width i holds for ``[ages_months[i], ages_months[i + 1])``.
    """

    level: float
    ages_months: tuple[float, ...]
    half_widths_months: dict[Sex, tuple[float, ...]]
    split: str
    binned: bool = False

    @staticmethod
    def parse(table: dict[str, Any]) -> Calibration:
        """Read the content of ``calibration.json``.

        Raises
        ------
        BundleError
            If a key is missing, a sex lacks a half-width for an age, ages do not rise or a half-width is not positive.
        """
        binned = "edges_months" in table
        try:
            ages = tuple(float(age) for age in table["edges_months" if binned else "ages_months"])
            widths = {sex: tuple(float(w) for w in table["half_widths_months"][sex.value]) for sex in Sex}
            level, split = float(table["level"]), str(table["split"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError("calibration.json lacks a key or holds no numbers; calibrate again.") from error
        if any(len(width) != len(ages) - binned for width in widths.values()):
            raise BundleError("calibration.json needs one half-width a bin or age for each sex.")
        if list(ages) != sorted(set(ages)) or not all(w > 0 for width in widths.values() for w in width):
            raise BundleError("calibration.json needs rising ages and positive half-widths.")
        return Calibration(level, ages, widths, split, binned)

    @property
    def fingerprint(self) -> str:
        """Return 8 hex digits that tell these intervals from others, whatever films they were made from."""
        widths = {sex.value: widths for sex, widths in self.half_widths_months.items()}
        content = json.dumps([self.level, self.binned, self.ages_months, widths], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:8]

    def half_width(self, age_months: float, sex: Sex) -> float:
        """Return half the interval's width in months for a predicted age."""
        widths = self.half_widths_months[sex]
        if self.binned:
            return widths[int(np.searchsorted(self.ages_months[1:-1], age_months, side="right"))]
        return float(np.interp(age_months, self.ages_months, widths))

    def interval(self, age_months: float, sex: Sex) -> tuple[float, float]:
        """Return the interval's ends in months around an estimate; the lower end is never negative."""
        half = self.half_width(age_months, sex)
        return max(0.0, age_months - half), age_months + half
