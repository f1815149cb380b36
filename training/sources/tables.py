"""Tables of readings as hospitals and spreadsheets write them: their separators, numbers and words.

Cells stand between commas, semicolons or tabs, whichever gives the header line its columns. Where that is no comma, a
number may have a decimal comma. Words have any case. Messages say of what kind a value is that cannot be taken, never
the value: a column that slipped may hold a name.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from inference.finding import Sex
from training.errors import DataError

SEPARATORS = (",", ";", "\t")
AGES = {"bone_age_months": "months", "bone_age_years": "years"}
"""A site's columns that hold bone ages, and their units."""
COLUMNS = ("file", "sex", *AGES, "part", "patient")
"""All columns of a site's table that are read, to evaluate or to train."""
SEXES = {
    "m": Sex.MALE, "male": Sex.MALE, "boy": Sex.MALE,
    "f": Sex.FEMALE, "female": Sex.FEMALE, "girl": Sex.FEMALE,
}  # fmt: skip
PARTS = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip

Row = dict[str, str | None]
"""The cells of one line by their columns, in lower case; None where the line is too short."""
BEYOND = " beyond"
"""Where a row has the text of the cells that no column is for; no column has this name, for names are stripped."""


@dataclass(frozen=True, slots=True)
class Table:
    """The lines of a table, each with its number in the file (the header's is 1), and what separates its cells."""

    separator: str
    columns: tuple[str, ...]  # in lower case
    lines: list[tuple[int, Row]]


def read_lines(path: Path, known: Collection[str]) -> Table:
    """Read a table that has some of the known columns.

    Blank lines, and those whose cells are all empty, count, and are none. Of a line that goes on in the next, as a cell
    in quotation marks may, the number is the last.

    Raises
    ------
    DataError
        If it cannot be read, or a known column comes twice: one reader's ages would be taken for another's.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            above = pass_word_to_excel(file)
            header_at = file.tell()
            separator = separator_of(file.readline(), known)
            file.seek(header_at)
            reader = csv.DictReader(file, delimiter=separator, restkey=BEYOND)
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            lines = [(above + reader.line_num, _whole(row)) for row in reader]
    except OSError as error:
        raise DataError(f"The table of readings {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        words = "it must be a CSV in UTF-8 (in Excel: save as CSV UTF-8)"
        raise DataError(f"The table of readings {path} cannot be read; {words}.") from error
    if again := repeated(columns, known):
        raise DataError(f"The table of readings {path} has {again}.")
    return Table(separator, tuple(columns), [(line, row) for line, row in lines if is_filled(row.values())])


def pass_word_to_excel(file: TextIO) -> int:
    """Go to a table's header, from the file's beginning; return how many lines are above it, 0 or 1."""
    if is_for_excel(file.readline()):
        return 1
    file.seek(0)
    return 0


def is_for_excel(line: str) -> bool:
    """Tell whether a line says ``sep=;`` to Excel, as exports have it above their header."""
    return line.strip().strip('"').lower() in {f"sep={separator}".strip() for separator in SEPARATORS}


def repeated(columns: Sequence[str], known: Collection[str]) -> str:
    """Say which known column comes twice in a header, and the remedy; "" where none does."""
    twice = next((name for name in columns if name in known and columns.count(name) > 1), None)
    return f"the column {twice!r} twice; keep one of them, or name the other otherwise" if twice else ""


def is_filled(cells: Iterable[str | None]) -> bool:
    """Tell whether a line holds anything: spreadsheets write lines of separators alone below a table."""
    return any((cell or "").strip() for cell in cells)


def _whole(row: dict[str, Any]) -> Row:
    """Return a row in which the cells beyond the header are one text."""
    return row | {BEYOND: "".join(row.get(BEYOND, ())).strip()}


def separator_of(header: str, known: Collection[str]) -> str:
    """Return the separator by which a header line has most of the known columns; a comma where none has any."""
    return max(SEPARATORS, key=lambda separator: len(set(known) & set(columns_of(header, separator))))


def columns_of(header: str, separator: str) -> list[str]:
    """Return the names in a header line, in lower case."""
    return [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]


def number_of(text: str | None, separator: str) -> float:
    """Return a cell's number, with a decimal comma where cells stand between other marks; NaN where it is none."""
    digits = (text or "").strip()
    if separator != "," and digits.count(",") == 1 and "." not in digits:
        digits = digits.replace(",", ".")
    try:
        return float("nan") if "_" in digits else float(digits)  # Python reads 1_0 as 10
    except ValueError:
        return float("nan")


def sex_of(text: str | None) -> Sex | None:
    """Return the sex that a cell says; None where it says none."""
    return SEXES.get(_word(text))


def part_of(text: str | None) -> str | None:
    """Return the part of the split that a cell says, "" where it is empty; None where it says none that there is."""
    return PARTS.get(_word(text)) if _word(text) else ""


def kind_of(text: str | None) -> str:
    """Say what a cell holds without saying it: for messages on values that may be names."""
    word = _word(text)
    if not word:
        return "empty"
    return "another text" if math.isnan(number_of(word, ";")) else "a number"


def _word(text: str | None) -> str:
    return (text or "").strip().lower()
