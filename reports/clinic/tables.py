"""The published tables, as data files with their publications, and interpolation that never leaves them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from inference.finding import Sex

SEX_KEYS: dict[Sex, str] = {Sex.MALE: "male", Sex.FEMALE: "female"}

Row = Sequence[float]


@cache
def table(name: str) -> dict[str, Any]:
    """Return one of the data files of ``reports/clinic/tables``."""
    text = resources.files("reports.clinic").joinpath(f"tables/{name}.json").read_text(encoding="utf-8")
    contents: dict[str, Any] = json.loads(text)
    return contents


def interpolated(rows: Sequence[Row], at: float) -> tuple[float, ...] | None:
    """Return the other columns of a table at a value of its first one, linearly between rows.

    Parameters
    ----------
    rows
        The table, its first column rising.
    at
        Where to read it.

    Returns
    -------
    tuple or None
        None where the table does not reach: nothing is extrapolated.
    """
    if not rows[0][0] <= at <= rows[-1][0]:
        return None
    place = min(bisect_right([row[0] for row in rows], at), len(rows) - 1)
    low, high = rows[place - 1], rows[place]
    share = (at - low[0]) / (high[0] - low[0])
    return tuple(a + share * (b - a) for a, b in zip(low[1:], high[1:], strict=True))
