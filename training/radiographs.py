"""The training films: RSNA 2017 at half resolution and the 12,611 at 100 x 100 pixels, with their readings and split.

Layout of the data folder (see its own README): ``rsna2017/half.csv``, ``rsna2017/half/<rsna_id>.jpg``,
``rsna2017/lowres100/part{0,1}.npz``, ``annotations/*.csv``, ``negatives/*.jpg``. Terms: RSNA, non-commercial research.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import cv2
import numpy as np
import numpy.typing as npt

from inference.finding import Sex
from training.errors import DataError

Grey = npt.NDArray[np.uint8]

Draw = Callable[[int], Iterable[int]]
"""Chooses films, by their places, from so many."""
_One = TypeVar("_One")

OLDEST_MONTHS = 240.0
_SHOWN = 20

PARTS = ("train", "validation", "test", "pretrain", "annotation-test")
"""Parts of the committed split: the first three are half-resolution films, the other two exist at 100 x 100 only."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One film's reference reading."""

    rsna_id: int
    age_months: float
    sex: Sex
    part: str  # one of PARTS


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """One film's pixels, shape (rows, columns), bones bright, with its reading."""

    reading: Reading
    pixels: Grey
    name: str = ""  # what messages call it where that is not its id: "Line 12"

    @property
    def called(self) -> str:
        """What messages call it."""
        return self.name or f"film {self.reading.rsna_id}"


def read_split(path: Path | None = None) -> dict[int, str]:
    """Return the part of every rsna_id; the committed ``training/split.csv`` unless another file is given.

    Raises
    ------
    DataError
        If an id stands on two sides of the split or a part is not one of PARTS.
    """
    text = path.read_text() if path else resources.files("training").joinpath("split.csv").read_text()
    parts: dict[int, str] = {}
    for row in csv.DictReader(text.splitlines()):
        rsna_id = int(row["rsna_id"])
        if row["part"] not in PARTS:
            raise DataError(f"split: film {rsna_id} has the unknown part {row['part']!r}; use one of {PARTS}.")
        if parts.setdefault(rsna_id, row["part"]) != row["part"]:
            raise DataError(f"split: film {rsna_id} stands on two sides; keep one of its lines.")
    return parts


def read_half_readings(data: Path, split: dict[int, str]) -> list[Reading]:
    """Return the readings of the half-resolution films, those of the split only, in the file's order.

    Raises
    ------
    DataError
        If the table is missing, or lines of it name no film, age or sex; they are named by their numbers.
    """
    path = data / "rsna2017" / "half.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing; give the data folder with --data.")
    readings, broken = [], []
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        for row in rows:
            try:
                readings.append(_reading_of(row, split))
            except (KeyError, TypeError, ValueError):
                broken.append(str(rows.line_num))
    if broken:
        raise DataError(
            f"{path}: line {_first_of(broken)} must have numbers as "
            "rsna_id and bone_age_months (above 0, up to 240) and M or F as sex; correct the table."
        )
    return [reading for reading in readings if reading.part]


def _reading_of(row: dict[str, str], split: dict[int, str]) -> Reading:
    """Return a line's reading, of the part "" where the split has it not; ValueError and its like where it has none."""
    rsna_id, age_months = int(row["rsna_id"]), float(row["bone_age_months"])
    if not 0 < age_months <= OLDEST_MONTHS:
        raise ValueError(age_months)
    return Reading(rsna_id, age_months, Sex(row["sex"]), split.get(rsna_id, ""))


def is_project_folder(data: Path) -> bool:
    """Tell whether a folder has this project's layout (see above)."""
    return (data / "rsna2017").is_dir()


def load_half(
    data: Path, parts: Iterable[str], split: dict[int, str] | None = None, *, draw: Draw | None = None
) -> list[Radiograph]:
    """Load the sharp films of some parts: those at half resolution, or a folder's in another layout.

    ``training.sources`` knows the other layouts; a split that is given names films of this project's layout. With
    ``draw`` only films that it chooses are loaded; of other layouts all are opened, to find what comes twice.

    Raises
    ------
    DataError
        If a film of the table is missing, cut off or cannot be decoded, or the folder has no layout that is known.
    """
    from training.sources import open_source  # it reads films into this module's types

    if not is_project_folder(data):
        return _drawn(open_source(data).load(parts), draw)
    wanted, films = set(parts), []
    readings = read_half_readings(data, split if split is not None else read_split())
    for reading in _drawn([reading for reading in readings if reading.part in wanted], draw):
        path = data / "rsna2017" / "half" / f"{reading.rsna_id}.jpg"
        pixels = _read_grey(path)
        if pixels is None:
            raise DataError(f"{path} is missing, cut off or cannot be decoded; restore it or take it out of the split.")
        films.append(Radiograph(reading, pixels))
    return films


def _drawn(all_of_them: list[_One], draw: Draw | None) -> list[_One]:
    return all_of_them if draw is None else [all_of_them[place] for place in draw(len(all_of_them))]


def _read_grey(path: Path) -> Grey | None:
    """Read an image of 8 bits; None if it is missing, cut off or cannot be decoded."""
    from training.sources.files import is_cut_off

    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # it says that it is larger than any film
        return None
    return None if pixels is None or is_cut_off(path) else np.asarray(pixels, dtype=np.uint8)


def refuse_no_films(films: Sequence[object], data: Path, part: str) -> None:
    """Refuse a folder that has no film of the part that is to be read.

    Raises
    ------
    DataError
        If ``films``, those of the part, are none.
    """
    if not films:
        raise DataError(f"{data} holds no film of the part {part!r}; name another --part, or another folder.")


def load_small(
    data: Path,
    parts: Iterable[str],
    split: dict[int, str] | None = None,
    aspects: dict[int, float] | None = None,
    *,
    draw: Draw | None = None,
) -> list[Radiograph]:
    """Load the 100 x 100 films of some parts, un-squashed to their aspect ratio (columns / rows) where it is known.

    Films without a known aspect get 0.8, the median of the collection. Folders in other layouts have no small films.
    With ``draw`` only films that it chooses are enlarged.

    Raises
    ------
    DataError
        If the small films of this project's layout are missing or torn.
    """
    if not is_project_folder(data):
        return []
    wanted, parts_of = set(parts), split if split is not None else read_split()
    names = (data / "rsna2017" / "lowres100" / name for name in ("part0.npz", "part1.npz"))
    rows = [row for name in names for row in _small_rows(name) if parts_of.get(int(row[0])) in wanted]
    films = []
    for rsna_id, image, age, male in _drawn(rows, draw):
        aspect = (aspects or {}).get(int(rsna_id), 0.8)
        columns, height = (round(256 * aspect), 256) if aspect < 1 else (256, round(256 / aspect))
        pixels = cv2.resize(image, (columns, height), interpolation=cv2.INTER_CUBIC)
        reading = Reading(int(rsna_id), float(age), Sex.MALE if male else Sex.FEMALE, parts_of[int(rsna_id)])
        films.append(Radiograph(reading, np.asarray(pixels, dtype=np.uint8)))
    return films


def _small_rows(path: Path) -> list[tuple[Any, ...]]:
    """Return id, image, age in months and whether it is a boy's, of each small film in a file."""
    try:
        with np.load(path) as table:
            return list(zip(*(table[key] for key in ("rsna_id", "images", "bone_age_months", "male")), strict=True))
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise DataError(f"{path} is missing or torn; restore the folder of small films.") from error


def load_negatives(data: Path) -> list[Grey]:
    """Load the radiographs that are not hands; none where the folder has no ``negatives``.

    Raises
    ------
    DataError
        If some are cut off or cannot be decoded; they are named.
    """
    paths = sorted((data / "negatives").glob("*.jpg"))
    images = {path: _read_grey(path) for path in paths}
    broken = [path.name for path, image in images.items() if image is None]
    if broken:
        raise DataError(
            f"{data / 'negatives'}: cut off or not to be decoded: {_first_of(broken)}; restore or delete what is named."
        )
    return [image for image in images.values() if image is not None]


def _first_of(names: Sequence[str]) -> str:
    """Name the first of what is broken."""
    return f"{', '.join(names[:_SHOWN])}{' and more' if names[_SHOWN:] else ''}"
