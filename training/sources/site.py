"""A site's own films: DICOM objects (or PNG, JPEG) anywhere below a folder, and ``readings.csv`` beside them.

The table is the one ``boneage-node evaluate --films --readings`` reads: ``file``, ``sex``, ``bone_age_months`` or
``bone_age_years``. Two more columns may stand in it: ``part`` (train, validation, test), and ``patient``, any text that
is the same for all films of a child. Without them the part is drawn by patient, who is PatientID of a DICOM object, so
that no child stands on two sides. A film is named by its line.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from inference.film import display_bytes, read_film
from inference.header import texts
from training.errors import DataError
from training.radiographs import Reading
from training.sources.source import Entry, Grey, Source, open_image, part_by_hash

TABLE = "readings.csv"
PARTS = ("train", "validation", "test")
_IMAGES = {".png", ".jpg", ".jpeg"}


def read(folder: Path) -> Source | None:
    """Read a site's table; None where the folder has none.

    Raises
    ------
    DataError
        If the table itself cannot be read.
    """
    from training.evaluation.site import read_line, read_rows  # evaluation imports this package's users

    table = folder / TABLE
    if not table.is_file():
        return None
    source = Source("a site's films", [])
    lines: dict[Path, int] = {}
    unit, rows = read_rows(table)
    for line, row in rows:
        try:
            film = read_line(folder, row, unit, line)
        except DataError as error:
            source.problems.append(str(error))
            continue
        first = lines.setdefault(film.path.resolve(), line)
        if first != line:
            source.problems.append(f"Lines {first} and {line} name the same file; keep one of them.")
            continue
        _enter(source, film.path, film.reading, row)
    return Source(source.layout, source.entries, source.problems)


def _enter(source: Source, path: Path, reading: Reading, row: dict[str, str | None]) -> None:
    line, stated = reading.rsna_id, (row.get("part") or "").strip()
    patient = (row.get("patient") or "").strip() or _patient(path)
    part = stated or part_by_hash(patient or str(path.name))
    if part not in PARTS:
        source.problems.append(f"Line {line}: the part must be one of {', '.join(PARTS)}, or empty.")
        return
    placed = Reading(line, reading.age_months, reading.sex, part)
    source.entries.append(Entry(placed, f"Line {line}", partial(open_film, path), patient))


def _patient(path: Path) -> str:
    """Return PatientID with its issuer; "" for what is no DICOM object or has none."""
    if path.suffix.lower() in _IMAGES:
        return ""
    try:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", "IssuerOfPatientID"])
    except (InvalidDicomError, OSError):
        return ""
    patient = "".join(texts(ds, "PatientID")[:1])
    return "\x1f".join((*texts(ds, "IssuerOfPatientID")[:1], patient)) if patient else ""


def open_film(path: Path) -> Grey:
    """Open a film as the node would show it, bones bright, shape (rows, columns).

    Raises
    ------
    FilmError, DataError
        It cannot be read.
    """
    if path.suffix.lower() in _IMAGES:
        return open_image(path)
    try:
        ds = dcmread(path)
    except InvalidDicomError as error:
        raise DataError("The file is no DICOM object.") from error
    return display_bytes(read_film(ds))
