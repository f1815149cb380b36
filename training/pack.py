"""What a training run needs, in pieces small enough to travel: located hands, recipe, weights to start from.

A pack is a folder with ``pack.json`` (recipe, hashes, what its films are) and pieces ``piece-00.npz``, ... A piece
holds films as JPEG: of each film only what the pose's jitter can show, at the resolution the method reads it at, with
pose and ROI centres moved along. So an epoch on a pack sees what an epoch on the films sees, up to JPEG's losses. Packs
hold training films: they stay under the data's terms, and out of the repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inference.bundle import file_sha256
from inference.finding import Sex
from inference.pose import Pose
from inference.preparation import HAND_WINDOW
from training.ages import LocatedFilm
from training.errors import DataError
from training.films import AgeFilms
from training.radiographs import Reading
from training.storage import check_writable, make_folder, write_text, writing

NAME = "pack.json"
GROUPS = ("sharp", "small", "validation")
MARGIN = 0.15
"""So much more than the hand's window is kept on each side: three standard deviations of the jitter."""
QUALITY = 92
SMALL_FACTOR = 0.5
"""Small films were enlarged 2.56 times when they were read; half of that loses nothing."""

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PackedFilm:
    """One film's entry in a piece."""

    group: str  # one of GROUPS
    reading: Reading
    matrix: npt.NDArray[np.float64]  # (2, 3), of the pose
    centres: npt.NDArray[np.float64]  # (18, 2)
    jpeg: bytes


def shrink(film: LocatedFilm, hand_rows: int, *, most: float = 1.0) -> LocatedFilm:
    """Cut a film to its hand and shrink it until the hand's window is ``hand_rows`` pixels high; never enlarge.

    ``most`` is the largest factor allowed.
    """
    top, left, bottom, right = _frame(film)
    cut = film.pixels[top:bottom, left:right]
    factor = min(most, hand_rows / (film.pose.scale * (HAND_WINDOW[3] - HAND_WINDOW[1])))
    if factor < 1:
        extent = (max(1, round(cut.shape[1] * factor)), max(1, round(cut.shape[0] * factor)))
        pixels = np.asarray(cv2.resize(cut, extent, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    else:
        pixels = cut
    ratio = np.array([pixels.shape[1] / cut.shape[1], pixels.shape[0] / cut.shape[0]])
    shift = -ratio * (left, top)  # poses have pixel centres at halves
    matrix = film.pose.matrix * ratio[:, None]
    matrix[:, 2] += shift
    return LocatedFilm(film.reading, pixels, Pose(matrix), film.centres * ratio + shift)


def _frame(film: LocatedFilm) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of what to keep, within the film."""
    x0, y0, x1, y1 = HAND_WINDOW
    corners = film.pose.to_film([(x, y) for x in (x0 - MARGIN, x1 + MARGIN) for y in (y0 - MARGIN, y1 + MARGIN)])
    rows, columns = film.pixels.shape
    left, top = np.floor(corners.min(0)).astype(int).clip(0, (columns - 1, rows - 1))
    right, bottom = np.ceil(corners.max(0)).astype(int)
    return int(top), int(left), int(np.clip(bottom, top + 1, rows)), int(np.clip(right, left + 1, columns))


def packed(films: AgeFilms, hand_rows: int) -> Iterator[PackedFilm]:
    """Shrink and compress films one by one."""
    for group in GROUPS:
        for film in getattr(films, group):
            kept = shrink(film, hand_rows, most=SMALL_FACTOR if group == "small" else 1.0)
            _, jpeg = cv2.imencode(".jpg", kept.pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            yield PackedFilm(group, kept.reading, kept.pose.matrix, kept.centres, jpeg.tobytes())


def check_new(folder: Path) -> None:
    """Refuse a folder that holds something, or that cannot be written to.

    Raises
    ------
    DataError
        If it does, or is a file.
    RunError
        As :func:`training.storage.check_writable`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty; pack into a new folder.")
    check_writable(folder)


def write_pack(folder: Path, films: AgeFilms, hand_rows: int, about: dict[str, Any], piece_bytes: int) -> list[Path]:
    """Write films into pieces of at most ``piece_bytes`` and ``pack.json`` last; returns the pieces.

    Raises
    ------
    DataError
        As :func:`check_new`.
    RunError
        If the disk is full.
    """
    check_new(folder)
    make_folder(folder)
    pieces: list[Path] = []
    for entries in _divided(packed(films, hand_rows), piece_bytes):
        pieces.append(folder / f"piece-{len(pieces):02}.npz")
        _write_piece(pieces[-1], entries)
    hashes = {piece.name: file_sha256(piece) for piece in pieces}
    write_text(folder / NAME, json.dumps(about | {"hand_rows": hand_rows, "pieces": hashes}, indent=2) + "\n")
    return pieces


def _divided(films: Iterable[PackedFilm], piece_bytes: int) -> Iterator[list[PackedFilm]]:
    entries: list[PackedFilm] = []
    held = 0
    for film in films:
        size = len(film.jpeg) + 512  # its numbers
        if entries and held + size > piece_bytes - (1 << 16):
            yield entries
            entries, held = [], 0
        entries.append(film)
        held += size
    if entries:
        yield entries


def _write_piece(path: Path, films: list[PackedFilm]) -> None:
    with writing(path):
        np.savez(
            path,
            group=np.array([GROUPS.index(film.group) for film in films], dtype=np.uint8),
            rsna_id=np.array([film.reading.rsna_id for film in films]),
            age_months=np.array([film.reading.age_months for film in films]),
            sex=np.array([film.reading.sex.value for film in films]),
            part=np.array([film.reading.part for film in films]),
            matrix=np.array([film.matrix for film in films]),
            centres=np.array([film.centres for film in films]),
            ends=np.cumsum([len(film.jpeg) for film in films]),
            jpeg=np.frombuffer(b"".join(film.jpeg for film in films), dtype=np.uint8),
        )


def read_about_pack(folder: Path) -> dict[str, Any]:
    """Return the content of ``pack.json``, its pieces checked against their hashes.

    Raises
    ------
    DataError
        If the folder is no pack, or a piece is missing or damaged.
    """
    try:
        about: dict[str, Any] = json.loads((folder / NAME).read_text())
        pieces = dict(about["pieces"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is no pack; it has no {NAME} that can be read.") from error
    for name, sha256 in pieces.items():
        if not (folder / name).is_file():
            raise DataError(f"The pack lacks {name}; bring it into {folder}.")
        if file_sha256(folder / name) != sha256:
            raise DataError(f"{name} differs from its recorded hash; bring it again.")
    return about


def read_pack(folder: Path) -> AgeFilms:
    """Read the films of a pack.

    Raises
    ------
    DataError
        As :func:`read_about_pack`.
    """
    groups: dict[str, list[LocatedFilm]] = {group: [] for group in GROUPS}
    for name in read_about_pack(folder)["pieces"]:
        for group, film in _read_piece(folder / name):
            groups[group].append(film)
    return AgeFilms(**groups)


def _read_piece(path: Path) -> Iterator[tuple[str, LocatedFilm]]:
    with np.load(path, allow_pickle=False) as piece:
        arrays = {key: piece[key] for key in piece.files}
    starts = np.concatenate([[0], arrays["ends"][:-1]])
    for place, (start, end) in enumerate(zip(starts, arrays["ends"], strict=True)):
        pixels = cv2.imdecode(arrays["jpeg"][start:end], cv2.IMREAD_GRAYSCALE)
        reading = Reading(
            int(arrays["rsna_id"][place]),
            float(arrays["age_months"][place]),
            Sex(str(arrays["sex"][place])),
            str(arrays["part"][place]),
        )
        film = LocatedFilm(
            reading, np.asarray(pixels, dtype=np.uint8), Pose(arrays["matrix"][place]), arrays["centres"][place]
        )
        yield GROUPS[int(arrays["group"][place])], film


def split_file(path: Path, most_bytes: int) -> list[Path]:
    """Divide a file into ``NAME.00``, ``NAME.01``, ... of at most so many bytes; one that is small enough stays.

    Raises
    ------
    RunError
        If the disk is full; the file is still there then.
    """
    if path.stat().st_size <= most_bytes:
        return [path]
    content = path.read_bytes()
    parts: list[Path] = []
    for start in range(0, len(content), most_bytes):
        parts.append(path.with_name(f"{path.name}.{len(parts):02}"))
        with writing(parts[-1]):
            parts[-1].write_bytes(content[start : start + most_bytes])
    path.unlink()
    return parts


def joined(folder: Path, name: str) -> bytes:
    """Return a file that :func:`split_file` may have divided.

    Raises
    ------
    DataError
        If it is not there.
    """
    numbered = (path for path in folder.glob(f"{name}.[0-9]*") if path.suffix[1:].isdecimal())
    parts = sorted(numbered, key=lambda path: int(path.suffix[1:]))
    parts = [folder / name] if (folder / name).is_file() else parts
    if not parts:
        raise DataError(f"{folder} lacks {name}; bring all files of the results.")
    return b"".join(part.read_bytes() for part in parts)
