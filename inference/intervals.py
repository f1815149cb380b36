"""Intervals around an estimate: split conformal prediction per sex and predicted-age bin.

Half-widths are quantiles of absolute errors on films that no weight was fitted to (Lei et al., JASA 2018;113:1094,
Algorithm 2, per Mondrian bin); the bundle's ``calibration.json`` holds them with the split they come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.errors import BundleError
from inference.finding import Sex


@dataclass(frozen=True, slots=True)
class Calibration:
    """Half-widths in months for bins of predicted age: bin i covers ``[edges[i], edges[i + 1])`` months."""

    level: float
    edges_months: tuple[float, ...]
    half_widths_months: dict[Sex, tuple[float, ...]]
    split: str

    @staticmethod
    def parse(table: dict[str, Any]) -> Calibration:
        """Read the content of ``calibration.json``.

        Raises
        ------
        BundleError
            If a sex lacks a half-width for a bin.
        """
        edges = tuple(float(edge) for edge in table["edges_months"])
        widths = {sex: tuple(float(w) for w in table["half_widths_months"][sex.value]) for sex in Sex}
        if any(len(width) != len(edges) - 1 for width in widths.values()):
            raise BundleError("calibration.json needs one half-width a bin for each sex.")
        return Calibration(float(table["level"]), edges, widths, str(table["split"]))

    def interval(self, age_months: float, sex: Sex) -> tuple[float, float]:
        """Return the interval's ends in months around an estimate; the lower end is never negative."""
        place = int(np.searchsorted(self.edges_months[1:-1], age_months, side="right"))
        half = self.half_widths_months[sex][place]
        return max(0.0, age_months - half), age_months + half
