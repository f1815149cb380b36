"""The films that nets learn from: annotated ones for the detector's nets, located ones for the age methods."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from inference.bundle import DETECTOR, Bundle, open_bundle
from inference.detector import make_finder, make_landmark_net
from inference.torch_backend import load_net
from training.ages import LocatedFilm, locate, read_located, write_located
from training.annotations import Annotation, read_annotations
from training.detector import POSE_POINTS, AnnotatedFilm, demand
from training.errors import DataError, RunError
from training.faults import CutHands
from training.machine import ALONE, Machine
from training.radiographs import Grey, Radiograph, load_half, load_negatives, load_small, read_split
from training.regions import is_boxed
from training.run import data_sha256
from training.sources.source import log_notices

_log = logging.getLogger(__name__)

TRAIN_NEGATIVES = 50
"""The finder learns from so many of the films without a hand; the others are for evaluation."""


def annotated(films: list[Radiograph], annotations: dict[int, Annotation]) -> list[AnnotatedFilm]:
    """Return the films that have annotations enough for a pose, with them."""
    made = (
        AnnotatedFilm.make(
            film.pixels,
            annotations[film.reading.rsna_id].array().astype(np.float64),
            annotations[film.reading.rsna_id].size_array().astype(np.float64),
        )
        for film in films
        if film.reading.rsna_id in annotations
    )
    return [film for film in made if film is not None]


def _detector_films(data: Path) -> list[AnnotatedFilm]:
    annotations, split = read_annotations(data), read_split()
    aspects = {rsna_id: annotation.aspect for rsna_id, annotation in annotations.items()}
    wanted = {rsna_id: part for rsna_id, part in split.items() if rsna_id in annotations}
    sharp = annotated(load_half(data, ["train", "validation"], wanted), annotations)
    return annotated(load_small(data, ["pretrain"], wanted, aspects), annotations) + 3 * sharp


@dataclass(frozen=True, slots=True, eq=False)
class DetectorFilms:
    """What the detector's nets learn from."""

    annotated: list[AnnotatedFilm]
    negatives: list[Grey]

    @staticmethod
    def load(data: Path) -> DetectorFilms:
        """Read the annotated films, the sharp ones thrice, and the negatives that are for training.

        Raises
        ------
        DataError
            If no film is annotated.
        """
        films = demand(_detector_films(data), data, f"boxes of {POSE_POINTS} bones")
        return DetectorFilms(films, load_negatives(data)[:TRAIN_NEGATIVES])

    @staticmethod
    def load_boxed(data: Path) -> DetectorFilms:
        """Read the annotated films that have boxes of all 13 bones, the sharp ones thrice.

        Raises
        ------
        DataError
            If there are none.
        """
        films = [film for film in _detector_films(data) if is_boxed(film)]
        return DetectorFilms(demand(films, data, "boxes of the 13 RUS bones"), [])

    def sha256(self) -> str:
        """Return the hash of films, points and negatives."""
        films = ((b"film", film.pixels, film.points) for film in self.annotated)
        return data_sha256([*films, *((b"negative", pixels) for pixels in self.negatives)])


def _kept_in(cache: Path, films: list[Radiograph], detector_sha256: str) -> Path:
    """Return the file for what a detector found in these very films: a site's ids are lines, the next table's too."""
    content = data_sha256((str(film.reading.rsna_id).encode(), film.pixels) for film in films)
    part = films[0].reading.part if films else "none"
    return cache / f"located-{part}-{content[:12]}-{detector_sha256[:12]}.npz"


def _located(films: list[Radiograph], bundle: Bundle, device: torch.device) -> list[LocatedFilm]:
    """Find hand and ROIs in films, saying how far it is."""
    finder = load_net(make_finder(), bundle, "finder.safetensors", device)
    landmark_net = load_net(make_landmark_net(), bundle, "landmarks.safetensors", device)
    located = []
    started = time.monotonic()
    for film in locate(films, finder, landmark_net):
        located.append(film)
        if len(located) % 1000 == 0:
            _log.info("located %d of %d films (%.0f s)", len(located), len(films), time.monotonic() - started)
    return located


def _kept(file: Path | None, films: list[Radiograph]) -> list[LocatedFilm] | None:
    """Return what an earlier run found in the same films; None where nothing is kept, or it is torn."""
    if file is None or not file.exists():
        return None
    try:
        return read_located(file, films)
    except DataError as error:
        _log.warning("%s Locating the films again.", error)
        return None


def _keep(file: Path, located: list[LocatedFilm], films: list[Radiograph]) -> None:
    """Keep what was found; where that cannot be, in another user's folder say, warn: a training can do without."""
    try:
        write_located(file, located, films)
    except RunError as error:
        _log.warning("%s Going on without: the next run looks for the hands again.", error)


def locate_all(
    films: list[Radiograph], cache: Path | None = None, device: torch.device = ALONE.device
) -> list[LocatedFilm]:
    """Find hand and ROIs in films with the shipped detector; warns of those that have none, which are left out.

    ``cache`` is a folder that keeps what was found, for the next run with the same films and the same detector.
    """
    bundle = open_bundle(DETECTOR)
    file = _kept_in(cache, films, bundle.weights_sha256) if cache else None
    located = _kept(file, films)
    if located is None:
        located = _located(films, bundle, device)
        if file:
            _keep(file, located, films)
    _log.info("%d of %d films have no hand the detector finds", len(films) - len(located), len(films))
    log_notices(_left_out(films, located), " --hands")
    return located


def films_without_hand(films: list[Radiograph]) -> list[str]:
    """Name the films in which the shipped detector finds no hand, as a training would leave them out."""
    return _left_out(films, _located(films, open_bundle(DETECTOR), ALONE.device))


def _left_out(films: list[Radiograph], located: list[LocatedFilm]) -> list[str]:
    found = {film.reading.rsna_id for film in located}
    missing = (film for film in films if film.reading.rsna_id not in found)
    return [f"{film.called}: the detector finds no hand in it; it is left out." for film in missing]


@dataclass(frozen=True, slots=True, eq=False)
class AgeFilms:
    """What age methods learn from: sharp and small films to train on, sharp ones to choose the epoch by."""

    sharp: list[LocatedFilm]
    small: list[LocatedFilm]
    validation: list[LocatedFilm]
    cut: CutHands = field(default_factory=CutHands, init=False)
    """What was cut out of them for batches that are made on a device."""

    @staticmethod
    def load(data: Path, cache: Path | None, machine: Machine = ALONE) -> AgeFilms:
        """Read and locate them; the leading process locates, the others take what it found from the cache.

        Raises
        ------
        DataError
            If the films have problems, or none with a hand is there to train on or to validate with.
        """
        sharp = load_half(data, ["train", "validation"])  # at once: a site's folder is looked through each time
        train, validation = ([film for film in sharp if film.reading.part == part] for part in ("train", "validation"))
        films = [train, load_small(data, ["pretrain"]), validation]
        if not train or not validation:
            raise DataError("There are no films to train on, or none to validate with; see boneage-node data check.")
        if not machine.leads:
            machine.agree(True)
        located = AgeFilms(*(locate_all(part, cache, machine.device) for part in films))
        if machine.leads:
            machine.agree(True)
        if not located.sharp or not located.validation:
            part = "validate with" if located.sharp else "train on"
            raise DataError(f"The detector finds no hand in any film to {part}; see boneage-node data check --hands.")
        return located

    def sha256(self) -> str:
        """Return the hash of their ids, readings and pixels."""
        return data_sha256(
            (f"{reading.rsna_id} {reading.age_months} {reading.sex.value} {reading.part}".encode(), film.pixels)
            for films in (self.sharp, self.small, self.validation)
            for film in films
            for reading in (film.reading,)
        )
