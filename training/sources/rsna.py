"""RSNA's official layout: folders of ``<id>.png`` and CSV files of readings, as the challenge hands them out.

The training table has the columns ``id,boneage,male``, the validation table ``Image ID,male,Bone Age (months)``; the
images lie in any folders below. Films of the committed split keep their part, where ``pretrain`` (films this project
has at 100 x 100 pixels only) is training here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from inference.finding import Sex
from training.radiographs import Reading, read_split
from training.sources.source import Entry, Source, open_image, part_by_hash

COLUMNS = (("id", "boneage", "male"), ("image id", "bone age (months)", "male"))
"""Id, bone age in months, whether male: in lower case, of either table."""
OLDEST_MONTHS = 240.0
_MALE = {"true": Sex.MALE, "1": Sex.MALE, "false": Sex.FEMALE, "0": Sex.FEMALE}
_SUFFIXES = (".png", ".jpg", ".jpeg")


def read(folder: Path) -> Source | None:
    """Read all tables of a folder; None where it holds none."""
    tables = [(path, names) for path in sorted(folder.glob("*.csv")) if (names := _names(path)) is not None]
    if not tables:
        return None
    images = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES}
    split, source = read_split(), Source("RSNA's official layout", [])
    for path, names in tables:
        for row in _rows(path):
            film = (row.get(names[0]) or "").strip()
            _enter(source, film, {"age": row.get(names[1]), "male": row.get(names[2])}, images, split)
    _name_duplicates(source)
    return source


def _names(path: Path) -> tuple[str, str, str] | None:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        header = [name.strip().lower() for name in next(csv.reader(file), [])]
    return next((names for names in COLUMNS if set(names) <= set(header)), None)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        for row in csv.DictReader(file):
            yield {(name or "").strip().lower(): value or "" for name, value in row.items() if isinstance(value, str)}


def _enter(
    source: Source, film: str, values: dict[str, str | None], images: dict[str, Path], split: dict[int, str]
) -> None:
    """Take one line, or name what is wrong with it."""
    image = images.get(film)
    film = str(int(film)) if film.isdecimal() else film  # "012" is film 12: one name, one part
    name, sex = f"film {film}", _MALE.get((values["male"] or "").strip().lower())
    try:
        age = float(values["age"] or "")
    except ValueError:
        age = float("nan")
    if not film.isdecimal():
        source.problems.append(f"{name}: the id must be a number, as RSNA has it.")
    elif sex is None:
        source.problems.append(f"{name}: male must be True or False.")
    elif not 0 < age <= OLDEST_MONTHS:
        source.problems.append(f"{name}: the bone age must be a number of months above 0 and up to 240.")
    elif image is None:
        source.problems.append(f"{name}: there is no image {film}.png below the folder; restore it.")
    else:
        part = split.get(int(film)) or part_by_hash(film)
        reading = Reading(int(film), age, sex, "train" if part == "pretrain" else part)
        source.entries.append(Entry(reading, name, partial(open_image, image)))


def _name_duplicates(source: Source) -> None:
    seen: set[str] = set()
    for entry in source.entries:
        if entry.name in seen:
            source.problems.append(f"{entry.name} stands in the tables twice: keep one of its lines.")
        seen.add(entry.name)
