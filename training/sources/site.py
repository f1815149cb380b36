"""A site's own films: DICOM objects (or PNG, JPEG) anywhere below a folder, and ``readings.csv`` beside them.

The table is the one ``boneage-node evaluate --films --readings`` reads: ``file``, ``sex``, ``bone_age_months`` or
``bone_age_years``. Two more columns may stand in it: ``part`` (train, validation, test), and ``patient``, any text that
is the same for all films of a child. Without them the part is drawn by patient, who is PatientID of a DICOM object, so
that no child stands on two sides. A film's id is the number of its line in the file, the header's being 1: unique, and
stable as long as new lines go to the end. Its part does not depend on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inference.film import bytes_to_read, read_film, with_square_pixels
from training.errors import DataError
from training.radiographs import Reading
from training.sources.files import IMAGES, files_below, is_film_file, is_there, plain_name, read_object
from training.sources.headers import Header, read_header
from training.sources.source import ANNOTATIONS, Entry, Grey, Source, open_image, part_by_hash
from training.sources.tables import COLUMNS, PARTS, Row, kind_of, part_of
from training.sources.units import may_be_years

if TYPE_CHECKING:
    from training.evaluation.site import SiteFilm

TABLE = "readings.csv"
PATIENT = "patient"
MANY_OF_ONE = 10
"""So many hand films of one child are few children's; a table in which these are most of the films is doubted."""
FAR_MONTHS = 120.0
"""No child's bone age is so far from the age in its header; one of them is wrong."""


def read(folder: Path) -> Source | None:
    """Read a site's table; None where the folder has none.

    Raises
    ------
    DataError
        If the table itself cannot be read.
    """
    from training.evaluation.site import path_of, read_line, read_rows, wrong_unit  # these import this package's users

    table = _table(folder)
    if table is None:
        return None
    source = Source("a site's films", [])
    lines: dict[Path, int] = {}
    rows, films, headers = read_rows(table), [], list[Header]()
    named = {path.resolve() for _, row in rows.lines if is_there(path := path_of(folder, row["file"] or ""))}
    for line, row in rows.lines:
        try:
            film = read_line(folder, row, rows, line)
        except DataError as error:
            source.problems.append(str(error))
            continue
        first = lines.setdefault(film.path.resolve(), line)
        if first != line:
            source.problems.append(f"Lines {first} and {line} name the same file; keep one of them.")
            continue
        films.append((row, film))
        headers.append(read_header(film.path))
        _enter(source, folder, film, row, headers[-1])
    if wrong := wrong_unit(films):
        source.problems.append(wrong)
    for (_, film), header in zip(films, headers, strict=True):
        source.notices += _doubts(film.reading, header, ages=wrong is None)
    if not rows.lines:
        source.problems.append(f"{TABLE} holds no line below its header; write one for each film.")
    _name_columns(source, rows.columns)
    _doubt_patients(source)
    source.unlisted = unlisted(folder, named)
    if source.unlisted:
        source.notices.append(
            f"Images without a line in {TABLE}: {len(source.unlisted)}; they are left out (data check --file-names)."
        )
    return Source(source.layout, source.entries, source.problems, source.notices, source.unlisted)


def _table(folder: Path) -> Path | None:
    """Return the table's file, in capitals if need be."""
    found = [path for path in folder.glob("*") if path.name.lower() == TABLE and path.is_file()]
    return min(found, key=lambda path: (path.name != TABLE, path.name), default=None)


def unlisted(folder: Path, listed: Iterable[Path]) -> list[Path]:
    """Return the films' files anywhere below a folder, but for its annotations, that no resolved path names."""
    known = set(listed)
    files = (path for path in files_below(folder, without=ANNOTATIONS) if is_film_file(path))
    return [path for path in files if path.resolve() not in known]


def _doubt_patients(source: Source) -> None:
    """Name a patient who has most of the films: where these were anonymised, PatientID may be that of all children."""
    (_, films), *_ = Counter(entry.patient for entry in source.entries if entry.patient).most_common(1) or [("", 0)]
    if films >= MANY_OF_ONE and 2 * films > len(source.entries):
        source.notices.append(
            f"{films} of {len(source.entries)} films are of one patient, by {PATIENT} or PatientID, and belong to one "
            f"part: if they are of several children, tell these apart in a column {PATIENT}."
        )


def _name_columns(source: Source, columns: Iterable[str]) -> None:
    """Name columns that are not read; one that is nearly the name of another is a slip, and decides nothing."""
    for column in (name for name in columns if name not in COLUMNS):
        meant = get_close_matches(column, COLUMNS, 1, cutoff=0.7)
        if meant:
            source.problems.append(f"The column {column!r} is not known: name it {meant[0]!r}, or otherwise.")
        else:
            source.notices.append(f"The column {column!r} is not known, and not read.")


def _doubts(reading: Reading, header: Header, *, ages: bool) -> Iterator[str]:
    """Say what of a line its film's header contradicts: the sex and, if asked, the age; the table's are taken."""
    line, age = reading.rsna_id, header.age_months
    if header.sex not in {None, reading.sex}:
        yield f"Line {line}: the header states the other sex; the table's is taken."
    if ages and may_be_years(reading.age_months, age):
        yield f"Line {line}: its bone age is 20 months or less, but its header's child years older; are they years?"
    elif ages and age is not None and abs(age - reading.age_months) > FAR_MONTHS:
        yield f"Line {line}: its bone age is more than 10 years from the age in the header; check both."


def _enter(source: Source, folder: Path, film: SiteFilm, row: Row, header: Header) -> None:
    path, reading = film.path, film.reading
    line, stated = reading.rsna_id, part_of(row.get("part"))
    patient = (row.get(PATIENT) or "").strip() or header.patient
    if stated is None:
        words, kind = ", ".join(PARTS), kind_of(row.get("part"))
        source.problems.append(f"Line {line}: the part must be one of {words}, or empty; it is {kind}.")
        return
    part = stated or part_by_hash(patient or _inside(folder, path))
    placed = Reading(line, reading.age_months, reading.sex, part)
    source.entries.append(Entry(placed, f"Line {line}", partial(open_film, path), patient, plain_name(path.name)))


def _inside(folder: Path, path: Path) -> str:
    """Return a film's path in the folder: its name alone may be that of all films, "child12/hand.png" and so on."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def open_film(path: Path) -> Grey:
    """Open a film as the node's networks are shown it, its pixels square, shape (rows, columns).

    Raises
    ------
    FilmError
        It cannot be read.
    """
    if path.suffix.lower() in IMAGES:
        return open_image(path)
    film = read_film(read_object(path))
    return with_square_pixels(bytes_to_read(film), film.pixel_aspect)[0]
