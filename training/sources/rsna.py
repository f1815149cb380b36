"""RSNA's official layout: folders of ``<id>.png`` and CSV files of readings, as the challenge hands them out.

The training table has the columns ``id,boneage,male``, the validation table ``Image ID,male,Bone Age (months)``, the
test table, saved as CSV, ``Case ID,Sex,Ground truth bone age (months)``. Tables and images lie in any folders below, as
the three archives unpack, but for ``annotations``. An image without a reading, as those of the test set are without its
table, is left out and named. Films of the test table are for testing; those of the committed split keep their part,
where ``pretrain`` (films this project has at 100 x 100 pixels only) is training here.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from inference.finding import Sex
from training.errors import DataError
from training.radiographs import OLDEST_MONTHS, Reading, read_split
from training.sources.files import IMAGES, files_below
from training.sources.source import ANNOTATIONS, Entry, Source, open_image, part_by_hash
from training.sources.tables import (
    columns_of,
    is_filled,
    number_of,
    pass_word_to_excel,
    repeated,
    separator_of,
    sex_of,
)
from training.sources.units import years_for_months

TEST_COLUMNS = ("case id", "ground truth bone age (months)", "sex")
COLUMNS = (("id", "boneage", "male"), ("image id", "bone age (months)", "male"), TEST_COLUMNS)
"""Id, bone age in months, whether male or which sex: in lower case, of each table."""
LONGEST_HEADER = 10_000
"""More letters than any table's header has: what lies about below a folder may be one line of millions."""
_SITES_TABLE = "readings.csv"
_EXCEL = frozenset({".xlsx", ".xls"})
_MALE = {"true": Sex.MALE, "1": Sex.MALE, "false": Sex.FEMALE, "0": Sex.FEMALE}


def read(folder: Path) -> Source | None:
    """Read all tables of a folder; None where it holds none.

    Raises
    ------
    DataError
        If a table cannot be read.
    """
    tables = [(path, *found) for path in _csv_files(folder) if (found := _names(path)) is not None]
    if not tables:
        return None
    images, split, source = _images(folder), read_split(), Source("RSNA's official layout", [])
    named: set[str] = set()
    for path, names, separator in tables:
        if again := repeated(columns_of(_header(path), separator), names):
            source.problems.append(f"A table has {again}.")
        before = len(source.entries)
        for line, row in _rows(path, separator):
            film, age = _number((row.get(names[0]) or "").strip()), number_of(row.get(names[1]), separator)
            part = "test" if names == TEST_COLUMNS else _part(film, split)
            named.add(film)
            if film.isdecimal():
                _enter(source, film, (age, _sex(row, names[2])), images.get(film, []), part)
            else:  # which may be a name
                source.problems.append(f"Line {line} of {path.name}: the id must be a number, as RSNA has it.")
        said = years_for_months(repr(names[1]), [(entry.reading.age_months, None) for entry in source.entries[before:]])
        if said is not None:
            source.problems.append(f"{said}: write months.")
    if not named:
        source.problems.append("The tables hold no line below their header; write one for each film.")
    _name_duplicates(source)
    _name_unlisted(source, {film: files for film, files in images.items() if film not in named})
    if excel := sum(path.suffix.lower() in _EXCEL for path in files_below(folder)):
        source.notices.append(f"Tables of Excel: {excel}; they are not read. Save them as CSV to have their readings.")
    return source


def _csv_files(folder: Path) -> list[Path]:
    """Return the CSV files of a folder, its own first, and those of the folders below where no site's table is."""
    own = [path for path in sorted(folder.glob("*")) if path.suffix.lower() == ".csv" and path.is_file()]
    if any(path.name.lower() == _SITES_TABLE for path in own):
        return own
    return [path for path in files_below(folder, without=ANNOTATIONS) if path.suffix.lower() == ".csv"]


def _part(film: str, split: dict[int, str]) -> str:
    part = split.get(int(film)) if film.isdecimal() else None
    return "train" if part == "pretrain" else part or part_by_hash(film)


def _sex(row: dict[str, str], column: str) -> Sex | None:
    """Return the sex that a line says, as whether male or by its letter; None where it says none."""
    said = row.get(column) or ""
    return _MALE.get(said.strip().lower()) if column == "male" else sex_of(said)


def _images(folder: Path) -> dict[str, list[Path]]:
    """Return the images below a folder by the film's number; copies beside annotations are none."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files_below(folder, without=ANNOTATIONS):
        if path.suffix.lower() in IMAGES:
            found[_number(path.stem)].append(path)
    return found


def _number(film: str) -> str:
    """Return an id as all write it: "012" is film 12, one name and one part."""
    return str(int(film)) if film.isdecimal() else film


def _name_unlisted(source: Source, images: dict[str, list[Path]]) -> None:
    source.unlisted = [path for files in images.values() for path in files]
    for film in images:
        if film.isdecimal():
            source.notices.append(f"film {film}: its image has no reading in the tables; it is left out.")
    others = sum(not film.isdecimal() for film in images)
    if others:
        source.notices.append(f"Images whose name is no id: {others}; they are left out (data check --file-names).")


def _names(path: Path) -> tuple[tuple[str, str, str], str] | None:
    """Return the names of a table's columns, and what separates its cells; None of a table that has others.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        header = _header(path)
    except OSError as error:
        raise DataError(f"The table {path} cannot be read: {error.strerror}.") from error
    separator = separator_of(header, {name for names in COLUMNS for name in names})
    columns = columns_of(header, separator)
    return next(((names, separator) for names in COLUMNS if set(names) <= set(columns)), None)


def _header(path: Path) -> str:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        pass_word_to_excel(file)
        return file.readline(LONGEST_HEADER)


def _rows(path: Path, separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a table that hold anything, each with its number in the file."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        above, rows = pass_word_to_excel(file), csv.DictReader(file, delimiter=separator)
        for row in rows:
            cells = {(name or "").strip().lower(): value or "" for name, value in row.items() if isinstance(value, str)}
            if is_filled(cells.values()):
                yield above + rows.line_num, cells


def _enter(source: Source, film: str, stated: tuple[float, Sex | None], images: list[Path], part: str) -> None:
    """Take one line, its age and sex, or name what is wrong with it."""
    name, (age, sex) = f"film {film}", stated
    if sex is None:
        source.problems.append(f"{name}: male must be True or False, or sex M or F.")
    elif not 0 < age <= OLDEST_MONTHS:
        source.problems.append(f"{name}: the bone age must be a number of months above 0 and up to 240.")
    elif not images:
        source.problems.append(f"{name}: there is no image {film}.png below the folder; restore it.")
    elif len(images) > 1:
        source.problems.append(f"{name}: {len(images)} images below the folder have its id; keep one of them.")
    else:
        reading = Reading(int(film), age, sex, part)
        source.entries.append(Entry(reading, name, partial(open_image, images[0]), stem=film))


def _name_duplicates(source: Source) -> None:
    seen: set[str] = set()
    for entry in source.entries:
        if entry.name in seen:
            source.problems.append(f"{entry.name} stands in the tables twice: keep one of its lines.")
        seen.add(entry.name)
