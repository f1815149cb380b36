"""Bone ages in years that stand under months, and years and months written as decimals: what gives them away.

A child's years are 20 or less, and so are the months of infants only. A table that holds nothing else is taken for one
of years, unless the ages in the headers of its films say that these are infants.

Clinics write 8 years and 11 months as 8.11, which as a number is eight years and a month. Decimals of true numbers go
beyond 11 where they have two digits, and a table of single digits has no 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.sources.headers import read_header

MOST_YEARS = 20.0
"""No reading in years is above this, and hardly any in months below."""
ENOUGH_FILMS = 10
"""So many readings in a row that could all be years are, where no header says otherwise."""
_MOST_MONTHS = 11
"""Months beside whole years."""
_ENOUGH_MONTHS = 2
"""So many cells with two digits that are months tell a table of these from one of decimals."""
GROSS_MONTHS = 36.0
"""No infant's bone age is so far below the age in its header."""


def may_be_years(age_months: float, header_months: float | None) -> bool:
    """Tell whether a reading, beside the age in its film's header, can only be one in years."""
    return age_months <= MOST_YEARS and header_months is not None and header_months - age_months > GROSS_MONTHS


def are_years_and_months(cells: Sequence[str]) -> bool:
    """Tell whether cells of years, as they stand in a table, are years and months: 8.11, 7.6, 9.02."""
    behind = [after for cell in cells for _, mark, after in (cell.strip().replace(",", ".").partition("."),) if mark]
    if len(behind) < ENOUGH_FILMS or not all(after.isdecimal() and int(after) <= _MOST_MONTHS for after in behind):
        return False
    return sum(len(after) == 2 and int(after) > 0 for after in behind) >= _ENOUGH_MONTHS


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
