"""One seam for folders of films: what stands in their tables, what is wrong with them, and their pixels when asked for.

Two layouts are known beside the project's own data folder (``training.radiographs``): RSNA's official one
(``sources.rsna``) and a site's (``sources.site``). Everything that is wrong is collected and named by the id or the
line of the film, never by its file or patient; a folder with problems is not trained on. What is only left out, such as
an image without a reading, is a notice.

Films keep the part that the committed split gives their RSNA id. Others get theirs by a hash of the id, or of the
patient where that is known: always the same one, whichever other films are in the folder.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from inference.errors import FilmError
from training.errors import DataError
from training.radiographs import Radiograph, Reading
from training.sources.files import read_image

Grey = npt.NDArray[np.uint8]

_log = logging.getLogger(__name__)

LONG_SIDE = 1022
"""Films are shrunk to this long side, that of the project's sharp films."""
MANY_FILMS, LONG_SIDE_OF_MANY = 4000, 640
"""So many films are shrunk further, so that 12,611 fit into 4 GB; no method reads hands larger than that."""
VALIDATION_SHARE, TEST_SHARE = 0.10, 0.15
SHOWN_PROBLEMS = 20
ANNOTATIONS = "annotations"
"""The folder below the films' that holds boxes; images in it are copies for the tool that drew them."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One film of a table: how to open it, its reading, and what it is called in messages."""

    reading: Reading
    name: str  # "film 1377", "line 12"
    open: Callable[[], Grey]  # bones bright; raises FilmError or DataError
    patient: str = ""  # what is the same for all films of a child; "" where that is not known
    stem: str = ""  # what annotations call the film: its id, or a site's file name without folders and ending


@dataclass(slots=True)
class Source:
    """A folder of films: its layout's name, the films of its table, and what is wrong with them."""

    layout: str
    entries: list[Entry]
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    """What is left out, and what of the table a header contradicts, in words."""
    unlisted: list[Path] = field(default_factory=list)
    """Images without a reading; their names may hold patient data and stand in no notice."""

    def __post_init__(self) -> None:
        self.problems += _split_patients(self.entries)

    def load(self, parts: Iterable[str]) -> list[Radiograph]:
        """Return the films of some parts, shrunk.

        Raises
        ------
        DataError
            If anything is wrong with the folder: the message names each film and the remedy.
        """
        films, problems = self.read(parts)
        self.problems += [problem for problem in problems if problem not in self.problems]
        self.refuse_problems()
        log_notices(self.notices)
        return films

    def read(self, parts: Iterable[str]) -> tuple[list[Radiograph], list[str]]:
        """Return the films of some parts, and what is wrong with any film of the folder.

        Every film is opened, whatever its part: the same image in two parts is what a split must not have.
        """
        wanted, films, problems = set(parts), [], []
        side = LONG_SIDE if len(self.entries) < MANY_FILMS else LONG_SIDE_OF_MANY
        seen: dict[bytes, str] = {}
        for entry in self.entries:
            try:
                pixels = entry.open()
            except (FilmError, DataError) as error:
                problems.append(f"{entry.name}: {error} Restore the file, or take it out of the table.")
                continue
            first = seen.setdefault(fingerprint(pixels), entry.name)
            if first != entry.name:
                problems.append(f"{entry.name} is the same image as {first}: keep one of them.")
                continue
            if entry.reading.part in wanted:
                films.append(Radiograph(entry.reading, shrunk(pixels, side), entry.name))
        return films, problems

    def missing_parts(self) -> list[str]:
        """Name the parts without which an age method is not trained, of a table that has films."""
        parts = {entry.reading.part for entry in self.entries}
        return [
            f"No film has the part {part!r}, so that training would refuse the folder: add films, or name parts."
            for part in ("train", "validation")
            if self.entries and part not in parts
        ]

    def refuse_problems(self) -> None:
        """Raise a DataError that names every problem, the first twenty in words."""
        if self.problems:
            more = len(self.problems) - SHOWN_PROBLEMS
            listed = "\n  ".join(self.problems[:SHOWN_PROBLEMS]) + (f"\n  and {more} more" if more > 0 else "")
            raise DataError(
                f"{len(self.problems)} problems in the films ({self.layout}); boneage-node data check lists them all:"
                f"\n  {listed}"
            )

    def by_stem(self) -> dict[str, list[Entry]]:
        """Return the films by what annotations call them; several where files in different folders share a name."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            found[entry.stem].append(entry)
        return dict(found)

    def counts(self) -> Counter[tuple[str, str]]:
        """Return how many films there are of each part and sex."""
        return Counter((entry.reading.part, entry.reading.sex.value) for entry in self.entries)


def log_notices(notices: list[str], option: str = "") -> None:
    """Log notices as warnings: the first twenty in words, then how many more; an option has ``data check`` list all."""
    for notice in notices[:SHOWN_PROBLEMS]:
        _log.warning("%s", notice)
    if len(notices) > SHOWN_PROBLEMS:
        _log.warning("And %d more; boneage-node data check%s lists them all.", len(notices) - SHOWN_PROBLEMS, option)


def open_source(folder: Path) -> Source:
    """Recognise a folder's layout and read its table.

    Raises
    ------
    DataError
        If there is no such folder, or it has none of the known layouts.
    """
    from training.sources import rsna, site

    check_folder(folder)
    readers: tuple[Callable[[Path], Source | None], ...] = (rsna.read, site.read)
    for read in readers:
        source = read(folder)
        if source is not None:
            return source
    raise DataError(
        f"{folder} has no layout that is known: rsna2017/half.csv (this project's), images with a CSV of the columns "
        f"id, boneage, male (RSNA's), or DICOM objects with readings.csv (see training/README.md)."
    )


def check_folder(folder: Path) -> None:
    """Refuse a path at which no folder is.

    Raises
    ------
    DataError
        If there is none.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; correct the path.")


def part_by_hash(key: str) -> str:
    """Return the part of a film or patient that no split names: 15 % test, 10 % validation, else training."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if place < TEST_SHARE:
        return "test"
    return "validation" if place < TEST_SHARE + VALIDATION_SHARE else "train"


def open_image(path: Path) -> Grey:
    """Read an image file as grey, shape (rows, columns); see :func:`training.sources.files.read_image`.

    Raises
    ------
    UnreadablePixels
        If it is missing or cannot be decoded.
    """
    return np.rint(read_image(path) * 255).astype(np.uint8)


def shrunk(pixels: Grey, long_side: int) -> Grey:
    """Return a film made smaller, to a long side in pixels; never larger."""
    scale = long_side / max(pixels.shape)
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def fingerprint(pixels: Grey) -> bytes:
    """Return what two films share only if all their pixels, shape (rows, columns), are the same."""
    shape = str(pixels.shape).encode()
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, key=shape).digest()


def _split_patients(entries: list[Entry]) -> list[str]:
    """Name the patients whose films stand on two sides of the split, by their films."""
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in entries:
        if entry.patient:
            sides[entry.patient].setdefault(entry.reading.part, entry.name)
    return [
        f"{' and '.join(found.values())} are of one patient and stand in {' and '.join(found)}: give them one "
        "part, or, if PatientID is not one child's, tell the children apart in a column patient."
        for found in sides.values()
        if len(found) > 1
    ]
