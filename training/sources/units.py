"""Bone ages in years that stand under months: what gives them away.

A child's years are 20 or less, and so are the months of infants only. A table that holds nothing else is taken for one
of years, unless the ages in the headers of its films say that these are infants.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.sources.headers import read_header

MOST_YEARS = 20.0
"""No reading in years is above this, and hardly any in months below."""
ENOUGH_FILMS = 10
"""So many readings in a row that could all be years are, where no header says otherwise."""
GROSS_MONTHS = 36.0
"""No infant's bone age is so far below the age in its header."""


def may_be_years(age_months: float, header_months: float | None) -> bool:
    """Tell whether a reading, beside the age in its film's header, can only be one in years."""
    return age_months <= MOST_YEARS and header_months is not None and header_months - age_months > GROSS_MONTHS


def years_for_months(column: str, films: Sequence[tuple[float, Path | None]]) -> str | None:
    """Say that the readings of a table, which count as months, are years; None where they may be months.

    Parameters
    ----------
    column
        What the readings stand under.
    films
        Each reading in months, and the file of its film where that may have a header.
    """
    if not films or any(age > MOST_YEARS for age, _ in films):
        return None
    headers = [read_header(path).age_months if path else None for _, path in films]
    known = sum(header is not None for header in headers)
    older = sum(may_be_years(age, header) for (age, _), header in zip(films, headers, strict=True))
    if not older and (len(films) < ENOUGH_FILMS or 2 * known >= len(films)):
        return None
    seen = f" (the headers of {older} of the films say children years older)" if older else ""
    return f"All {len(films)} bone ages under {column} are {MOST_YEARS:.0f} or less, as years are and not months{seen}"
