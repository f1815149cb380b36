"""A site's own films: a folder of DICOM objects (or PNG, JPEG) and a CSV of readings, read as the node would.

The CSV has a header line and the columns ``file`` (path inside the folder), ``sex`` (M or F; male, female; boy, girl)
and ``bone_age_months``, or ``bone_age_years`` in its place (``sources.tables`` says how they may be written). A film is
named by the number of its line, in figures, pages and messages: file names may hold patient data. The same image in two
lines is refused. The sex is the table's; a header that says otherwise is counted.
"""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath

import numpy as np
import numpy.typing as npt

from inference.engine import Engine
from inference.errors import FilmError
from inference.film import Film, bytes_to_read, read_film, with_square_pixels
from inference.finding import Laterality, Refusal, Sex, Subject
from inference.subject import read_subject
from training.errors import DataError
from training.evaluation.reading import Case, read_case
from training.radiographs import OLDEST_MONTHS, Radiograph, Reading
from training.sources.files import IMAGES, is_there, read_image, read_object
from training.sources.source import SHOWN_PROBLEMS, check_folder, fingerprint
from training.sources.tables import AGES, BEYOND, COLUMNS, SEXES, Row, Table, kind_of, number_of, read_lines, sex_of
from training.sources.units import are_years_and_months, years_for_months

_log = logging.getLogger(__name__)

_TENTH_MONTHS = 1.2
"""A tenth of a year: what years with one decimal leave open."""
_SEPARATOR_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}
_NO_PIXELS: npt.NDArray[np.uint8] = np.zeros((1, 1), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class SiteFilm:
    """One line of the table: its number (the header is line 1), where the film lies, and its reading."""

    path: Path
    reading: Reading


@dataclass(frozen=True, slots=True, eq=False)
class SiteCase:
    """A case, and whether the header's sex is another than the table's."""

    case: Case
    sex_differs: bool


def read_table(folder: Path, table: Path) -> list[SiteFilm]:
    """Read the table of readings.

    Raises
    ------
    DataError
        If there is no such folder, a column is missing, or lines name no film, one named before, no sex or no plausible
        age; the message names these lines, the first SHOWN_PROBLEMS in words. If all ages in months must be years.
    """
    check_folder(folder)
    rows, films, problems = read_rows(table), [], list[str]()
    lines: dict[Path, int] = {}
    for line, row in rows.lines:
        try:
            film = read_line(folder, row, rows, line)
        except DataError as error:
            problems.append(str(error))
            continue
        first = lines.setdefault(film.path.resolve(), line)
        if first != line:
            problems.append(f"Lines {first} and {line} name the same file; keep one of them.")
        films.append((row, film))
    if wrong := wrong_unit(films):
        problems.append(wrong)
    if not rows.lines:
        problems.append(f"{table} holds no readings.")
    if problems:
        raise DataError(listed(problems))
    return [film for _, film in films]


def listed(problems: list[str]) -> str:
    """Return what is wrong in one message: the first SHOWN_PROBLEMS, then how many more."""
    more = len(problems) - SHOWN_PROBLEMS
    return " ".join(problems[:SHOWN_PROBLEMS]) + (f" And {more} more." if more > 0 else "")


def wrong_unit(films: list[tuple[Row, SiteFilm]]) -> str | None:
    """Say that readings are in another unit than their column's, and the remedy.

    Years may stand under months, and years with months behind the decimal point (8.11) under years. Readings that say
    both columns are left out: these must agree.
    """
    alone = [(film.reading.age_months, film.path) for row, film in films if not _filled(row, "bone_age_years")]
    said = years_for_months("bone_age_months", alone)
    if said is not None:
        return f"{said}: name the column bone_age_years, or, if these are infants, add that column beside it."
    years = [row.get("bone_age_years") or "" for row, _ in films if not _filled(row, "bone_age_months")]
    if are_years_and_months(years):
        return (
            "The decimals under bone_age_years are 0 to 11 alone, as where 8.11 means 8 years and 11 months: write "
            "months under bone_age_months (107), or years with true decimals (8.92)."
        )
    return None


def read_rows(table: Path) -> Table:
    """Return a table's lines; its columns are known in capitals as well, between commas, semicolons or tabs.

    Raises
    ------
    DataError
        If it cannot be read, or a column is missing.
    """
    rows = read_lines(table, COLUMNS)
    if not {"file", "sex"} <= set(rows.columns) or not set(AGES) & set(rows.columns):
        raise DataError(
            f"{table} needs the columns file, sex and bone_age_months (or bone_age_years) in its first line, with "
            "commas, semicolons or tabs between them."
        )
    return rows


def read_line(folder: Path, row: Row, table: Table, line: int) -> SiteFilm:
    """Read one line of a table.

    Raises
    ------
    DataError
        The line names no file, no sex or no plausible age, or two ages.
    """
    path, sex = path_of(folder, row["file"] or ""), sex_of(row["sex"])
    age = next(iter(_ages_of(row, table)), math.nan)
    if row[BEYOND]:
        raise DataError(
            f"Line {line}: it has more cells than the header; put what holds a {_SEPARATOR_NAMES[table.separator]} in "
            "quotation marks, and write decimals with a point."
        )
    if not is_there(path):
        raise DataError(f"Line {line}: the folder has no such file; correct the path or take the line out.")
    if sex is None:
        raise DataError(f"Line {line}: the sex must be one of {', '.join(SEXES)}; it is {kind_of(row['sex'])}.")
    if not 0 < age <= OLDEST_MONTHS:
        units = " or ".join(AGES[column] for column in AGES if column in table.columns)
        hint = (
            "; it has a decimal comma: write a point" if any(_has_comma(row, column, table) for column in AGES) else ""
        )
        raise DataError(f"Line {line}: the bone age must be a number above 0 and up to 20 years, in {units}{hint}.")
    if _contradict(row, table):
        raise DataError(f"Line {line}: bone_age_months and bone_age_years contradict each other; correct one of them.")
    return SiteFilm(path, Reading(line, age, sex, "site"))


def path_of(folder: Path, cell: str) -> Path:
    """Return the file that a cell names, with blanks around it and backslashes in it as a spreadsheet may have them.

    One system writes an umlaut as one letter, another as two: either is found.
    """
    plain = PureWindowsPath(cell.strip()).as_posix()
    forms = (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
    paths = [folder / name for name in (cell, cell.strip(), *forms, plain)]
    return next((path for path in paths if is_there(path)), paths[-1])


def _filled(row: Row, column: str) -> bool:
    return bool((row.get(column) or "").strip())


def _has_comma(row: Row, column: str, table: Table) -> bool:
    """Tell whether a cell is a number only with a decimal comma, which cells between commas do not have."""
    return math.isnan(number_of(row.get(column), table.separator)) and not math.isnan(number_of(row.get(column), ";"))


def _ages_of(row: Row, table: Table) -> list[float]:
    """Return what a line says of the bone age, in months: by the column of months, of years; NaN for no number."""
    factors = {"months": 1, "years": 12}
    return [number_of(row[at], table.separator) * factors[unit] for at, unit in AGES.items() if _filled(row, at)]


def _contradict(row: Row, table: Table) -> bool:
    """Tell whether a line's months and years are of two ages; years may be whole ones, rounded or completed."""
    ages = _ages_of(row, table)
    if len(ages) < 2:
        return False
    months, years = ages
    low, high = (-6.0, 12.0) if years % 12 == 0 else (-_TENTH_MONTHS, _TENTH_MONTHS)
    return not low <= months - years <= high


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A film, as the engine takes it and as networks and pictures are shown it, and the sex its header says."""

    film: Film
    shown: npt.NDArray[np.uint8]
    stated: Sex | None


def _open(path: Path) -> _Opened | FilmError:
    """Decode a film; return why it cannot be, where it cannot."""
    try:
        if path.suffix.lower() in IMAGES:
            film, stated = Film(read_image(path), Laterality.UNKNOWN, "no header", None, ()), None
        else:
            ds = read_object(path)
            film, stated = read_film(ds), read_subject(ds).sex
    except FilmError as error:
        return error
    return _Opened(film, bytes_to_read(film), stated)


def _read(engine: Engine, film: SiteFilm, opened: _Opened | FilmError) -> SiteCase:
    """Read a film that was opened; one that could not be is a refusal, as in the node."""
    subject = Subject(film.reading.sex, "table", None, "table")
    if isinstance(opened, FilmError):
        _log.warning("Line %d does not open and counts as refused: %s", film.reading.rsna_id, opened)
        refusal = Refusal(opened.refusal, str(opened), opened.remedy, subject)
        case = read_case(_line(film, _NO_PIXELS), lambda: refusal)
        return SiteCase(replace(case, row=replace(case.row, milliseconds=None)), sex_differs=False)  # nothing was read
    shown = _line(film, opened.shown)
    case = read_case(shown, lambda: engine.interpret_film(opened.film, subject))
    return SiteCase(case, sex_differs=opened.stated not in {None, film.reading.sex})


def _line(film: SiteFilm, pixels: npt.NDArray[np.uint8]) -> Radiograph:
    """Return a film under the name that people find it by in their table."""
    return Radiograph(film.reading, pixels, f"Line {film.reading.rsna_id}")


def read_site_film(engine: Engine, film: SiteFilm) -> SiteCase:
    """Read one film of a site; one that cannot be opened is a refusal."""
    return _read(engine, film, _open(film.path))


def film_to_change(film: SiteFilm) -> Radiograph:
    """Return a film for the stress suite: as networks are shown it, its pixels square, for changes keep no spacing.

    Raises
    ------
    FilmError
        It cannot be opened any more.
    """
    opened = _open(film.path)
    if isinstance(opened, FilmError):
        raise opened
    return _line(film, with_square_pixels(opened.shown, opened.film.pixel_aspect)[0])


def read_site(engine: Engine, films: list[SiteFilm]) -> Iterator[SiteCase]:
    """Read films one after the other, each file once, keeping no pixels: a site's are large.

    From the first image that comes a second time on no more is read; the others are still looked through for more.

    Raises
    ------
    DataError
        If an image stands in two lines, as training refuses it, for it would count twice; when all are looked through,
        naming all of them by their lines.
    """
    lines: dict[bytes, int] = {}
    repeated = []
    for film in films:
        opened, line = _open(film.path), film.reading.rsna_id
        if isinstance(opened, _Opened) and (first := lines.setdefault(fingerprint(opened.shown), line)) != line:
            repeated.append(f"Line {line} is the same image as line {first}: keep one of them.")
        if not repeated:
            made = _read(engine, film, opened)
            yield replace(made, case=replace(made.case, film=_line(film, _NO_PIXELS)))
    if repeated:
        raise DataError(" ".join(repeated))
