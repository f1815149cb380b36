"""All figures of an evaluation in one dictionary: the JSON that ``FIGURES.md`` describes."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from inference.finding import ModelIdentity, Sex
from training.errors import DataError
from training.evaluation.ages import age_figures
from training.evaluation.reading import Row, rows_of
from training.evaluation.rois import FilmRois, all_roi_figures
from training.run import git_revision

SCHEMA = "boneage-node/evaluation/2"
KEYS = (
    "measured_at", "revision", "model", "part", "films", "material", "cost", "milliseconds_median", "table_3",
    "mae_interval_months", "within_months", "cumulative_accuracy", "bland_altman", "coverage_90", "intervals",
    "refused", "refused_share", "roi", "non_hands", "non_hands_accepted", "rows",
)  # fmt: skip
"""What every evaluation of this schema has, from its first day on."""


def clean(value: Any) -> Any:
    """Return a value as JSON has it: text keys, null for what is not finite, plain numbers."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def measured_now() -> dict[str, str]:
    """Return ``measured_at`` and ``revision`` of figures: when they were measured, and by which sources."""
    return {"measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "revision": git_revision()}


def check_figures(figures: dict[str, Any], name: str) -> None:
    """Refuse figures that a file does not hold whole; ``name`` is the file's, for the message.

    Raises
    ------
    DataError
        If the schema is another, a key is missing that every evaluation has, or its parts do not belong together.
    """
    if figures.get("schema") != SCHEMA:
        raise DataError(f"{name} is no evaluation of this version ({SCHEMA}); measure again.")
    missing = [key for key in KEYS if key not in figures]
    if missing:
        raise DataError(f"{name} is no whole evaluation, it lacks {', '.join(missing)}; measure again.")
    if len(rows_of(figures, name)) != figures["films"]:
        raise DataError(f"{name} has rows of other films than it counts; measure again.")
    torn = [key for key in ("table_3", "bland_altman", "intervals") if not _has_all(figures[key])]
    flags = figures.get("flags")
    if not (flags is None or (isinstance(flags, dict) and all(map(_is_flag, flags.values())))):
        torn.append("flags")
    if torn:
        raise DataError(f"{name} is no whole evaluation, {', '.join(torn)} in it cannot be read; measure again.")


def _has_all(groups: Any) -> bool:
    """Tell whether figures by group have the one of all films."""
    return isinstance(groups, dict) and isinstance(groups.get("all"), dict)


def _is_flag(figures: Any) -> bool:
    return isinstance(figures, dict) and {"films", "refused", "mae_months", "mae_months_without"} <= figures.keys()


def material(rows: list[Row]) -> dict[str, Any]:
    """Return who the films are of."""
    ages = [row.reference_months / 12 for row in rows] or [float("nan")]
    return {
        **{sex.name.lower(): sum(row.sex == sex.value for row in rows) for sex in Sex},
        "youngest_years": min(ages),
        "oldest_years": max(ages),
        "reference": "bone age as the table of readings has it",
        "sex_differs": 0,
    }


def assemble(model: ModelIdentity, part: str, rows: list[Row], films: list[FilmRois]) -> dict[str, Any]:
    """Return every figure of films that were read, and of the ROIs of those that have annotations."""
    rois = all_roi_figures(films)
    return {
        "schema": SCHEMA,
        **measured_now(),
        "model": asdict(model),
        "part": part,
        "films": len(rows),
        "material": material(rows),
        **age_figures(rows),
        "refused_share": sum(row.refusal is not None for row in rows) / len(rows) if rows else float("nan"),
        "roi": rois,
        "roi_boxes": rois["all"]["boxes"] if rois else 0,
        "roi_centres_within_3_percent": rois["all"]["within_3_percent"] if rois else None,
        "roi_centre_median": rois["all"]["centre_median"] if rois else None,
        "roi_centres_per_bone": (
            {name: bone["within_3_percent"] for name, bone in rois["all"]["bones"].items()} if rois else {}
        ),
        "non_hands": 0,
        "non_hands_accepted": 0,
        "non_hands_share": float("nan"),
        "rows": [asdict(row) for row in rows],
    }
