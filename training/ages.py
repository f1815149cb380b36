"""Films ready for the age networks, and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.detector import LANDMARK_SIDE, LANDMARK_WINDOW, crop_upright, decode_landmarks, find_hands, stretch
from inference.finding import Sex
from inference.method import AgeMethod
from inference.pose import Pose, fit_pose, template_points
from inference.preparation import roi_centres, to_units
from inference.torch_backend import as_batch
from training.augmentation import Augmentation
from training.errors import DataError
from training.radiographs import Radiograph, Reading
from training.storage import make_folder, put_in_place, writing

Float = npt.NDArray[np.float64]

LABEL_SOFTNESS_MONTHS = 3.0
"""Training labels move by up to this much (Hui et al. 2022, section 3.1), unless a recipe says otherwise."""

TURN_DEG, STRETCH, GROWTH, SHIFT = 6.0, 0.05, 0.04, 0.015
"""Standard deviations by which a hand is turned, scaled along each axis and in all (as logarithms), and moved (in
template units): a little more than the detector errs."""
MIRRORED = 0.1
"""Share of hands that are."""
GAMMA = 0.35
"""Equalised grey values (0..1) are raised to the power of e to at most plus or minus this."""
BLURRED, BLUR = 0.3, (0.0015, 0.008)
"""Share of hands that are blurred, and by which standard deviations, as shares of the crop's height."""
NOISY, NOISE = 0.3, (0.02, 0.12)
"""Share of hands with noise, and its standard deviations, of grey values of -1..1."""
COVERED, COVER = 0.3, (0.05, 0.25)
"""Share of hands with a rectangle of one grey on them, and its sides as shares of the crop's."""
VEILED, VEIL = 0.1, (0.3, 0.6)
"""The same of rectangles through which bones show faintly or not."""


@dataclass(frozen=True, slots=True, eq=False)
class LocatedFilm:
    """A film, bones bright, with its hand's pose and the centres (18, 2) of its ROIs."""

    reading: Reading
    pixels: npt.NDArray[np.uint8]
    pose: Pose
    centres: Float


def locate(
    films: Iterable[Radiograph], finder: nn.Module, landmark_net: nn.Module, batch: int = 16
) -> Iterator[LocatedFilm]:
    """Find the hand and the ROIs of every film; films without a hand are left out (the caller counts them)."""
    waiting: list[tuple[Radiograph, npt.NDArray[np.uint8], Pose]] = []
    for film in films:
        hands = find_hands(finder, film.pixels, most=1)
        if hands:
            pixels = np.asarray(255 - film.pixels if hands[0].inverted > 0.5 else film.pixels, dtype=np.uint8)
            waiting.append((film, pixels, hands[0].pose))
        if len(waiting) == batch:
            yield from _locate_batch(waiting, landmark_net)
            waiting = []
    if waiting:
        yield from _locate_batch(waiting, landmark_net)


def _locate_batch(
    waiting: list[tuple[Radiograph, npt.NDArray[np.uint8], Pose]], net: nn.Module
) -> Iterator[LocatedFilm]:
    unit = (LANDMARK_WINDOW[2] - LANDMARK_WINDOW[0]) / LANDMARK_SIDE
    poses = [pose for _, _, pose in waiting]
    points: Float = np.empty((0, 44, 2))
    for _ in range(2):
        crops = [
            stretch(crop_upright(p, pose, LANDMARK_SIDE, LANDMARK_WINDOW))
            for (_, p, _), pose in zip(waiting, poses, strict=True)
        ]
        with torch.inference_mode():
            maps = net(torch.from_numpy(np.stack(crops))[:, None]).double().numpy()
        decoded = [decode_landmarks(m) for m in maps]
        points = np.stack(
            [pose.to_film(d[0] * unit + LANDMARK_WINDOW[0]) for d, pose in zip(decoded, poses, strict=True)]
        )
        poses = [
            fit_pose(template_points(), p, np.where(d[1] > 0.2, d[1], 0), mirrored=pose.mirrored)
            if (d[1] > 0.2).sum() >= 6
            else pose
            for d, p, pose in zip(decoded, points, poses, strict=True)
        ]
    for (film, pixels, _), pose, found, decoded_one in zip(waiting, poses, points, decoded, strict=True):
        if (decoded_one[1] > 0.2).sum() >= 20:
            yield LocatedFilm(film.reading, pixels, pose, roi_centres(found, pose))


def write_located(file: Path, located: list[LocatedFilm], films: list[Radiograph]) -> None:
    """Keep what was found in films, without their pixels; a kill while it is written leaves no file.

    Several trainings, which find the same beside each other, may write it at once.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    pixels = {film.reading.rsna_id: film.pixels for film in films}
    make_folder(file.parent)
    with writing(file), put_in_place(file) as part, part.open("wb") as content:
        np.savez(
            content,
            rsna_id=np.array([film.reading.rsna_id for film in located]),
            matrix=np.array([film.pose.matrix for film in located]),
            centres=np.array([film.centres for film in located]),
            inverted=np.array([film.pixels is not pixels[film.reading.rsna_id] for film in located]),
        )


def read_located(file: Path, films: list[Radiograph]) -> list[LocatedFilm]:
    """Put together again what :func:`write_located` kept, with the pixels and readings of the same films.

    Raises
    ------
    DataError
        If the file is torn, or is of other films.
    """
    by_id = {film.reading.rsna_id: film for film in films}
    try:
        with file.open("rb") as content, np.load(content) as kept:  # np.load leaves a torn file open
            rows = zip(*(kept[key] for key in ("rsna_id", "matrix", "centres", "inverted")), strict=True)
            return [
                LocatedFilm(
                    by_id[int(rsna_id)].reading,
                    255 - by_id[int(rsna_id)].pixels if inverted else by_id[int(rsna_id)].pixels,
                    Pose(matrix),
                    centres,
                )
                for rsna_id, matrix, centres, inverted in rows
            ]
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise DataError(f"{file} is torn or of other films; delete it.") from error


def jittered(film: LocatedFilm, generator: np.random.Generator) -> tuple[Pose, Float]:
    """Move the pose and the ROI centres by a little more than the detector errs."""
    angle = np.radians(generator.normal(0, TURN_DEG))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scales = np.exp(generator.normal(0, STRETCH, 2)) * np.exp(generator.normal(0, GROWTH))
    middle = np.array([0.5, 0.5])
    linear = film.pose.matrix[:, :2] @ rotation @ np.diag(scales)
    if generator.random() < MIRRORED:
        linear = linear @ np.diag([-1.0, 1.0])
    centre = film.pose.to_film(middle + generator.normal(0, SHIFT, 2))
    pose = Pose(np.column_stack([linear, centre - linear @ middle]))
    return pose, film.centres + generator.normal(0, 0.008, film.centres.shape) * film.pose.scale


def sample(
    film: LocatedFilm, method: AgeMethod, generator: np.random.Generator | None
) -> tuple[npt.NDArray[np.float32], ...]:
    """Return the method's inputs for a film, float32 of -1..1; jittered and changed in grey if a generator is given."""
    if generator is None:
        return tuple(to_units(part) for part in method.prepare(film.pixels, film.pose, film.centres))
    return augmented(film, method, generator)[0]


def augmented(
    film: LocatedFilm, method: AgeMethod, generator: np.random.Generator, augmentation: Augmentation | None = None
) -> tuple[tuple[npt.NDArray[np.float32], ...], Float]:
    """Return the method's inputs for a film, changed at random, and where the ROIs lie in them.

    Without an ``augmentation`` as this project does it: jittered, changed in grey, blurred, covered. The centres
    (18, 2) are in the template's plane as the changed pose has it, without the jitter of their own.
    """
    if augmentation is not None:
        return _changed(film, method, generator, augmentation)
    pose, centres = jittered(film, generator)
    gamma = float(np.exp(generator.uniform(-GAMMA, GAMMA)))
    table = np.asarray(2 * np.linspace(0, 1, 256) ** gamma - 1, dtype=np.float32)
    blur = float(generator.uniform(*BLUR)) if generator.random() < BLURRED else 0.0
    noise = np.float32(generator.uniform(*NOISE)) if generator.random() < NOISY else np.float32(0)
    inputs = []
    for part in method.prepare(film.pixels, pose, centres):
        grey = table[part]
        if blur and grey.ndim == 2:
            grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), blur * len(grey)), dtype=np.float32)
        if noise:
            grey = grey + noise * generator.standard_normal(grey.shape, dtype=np.float32)
        if grey.ndim == 3 and generator.random() < 0.3:  # a ROI the detector missed
            grey[generator.integers(len(grey))] = 0
        if grey.ndim == 2 and generator.random() < COVERED:  # a marker, a ring, a strip of another grey
            _cover(grey, generator)
        if grey.ndim == 2 and generator.random() < VEILED:  # a cast, a bandage, a splint
            _veil(grey, generator)
        inputs.append(grey.astype(np.float32))
    return tuple(inputs), pose.to_template(film.centres)


def _changed(
    film: LocatedFilm, method: AgeMethod, generator: np.random.Generator, augmentation: Augmentation
) -> tuple[tuple[npt.NDArray[np.float32], ...], Float]:
    table, moved = augmentation.grey_table(generator), film.pose
    if getattr(method, "localiser", "shared") == "paper":  # it cuts the hand out by itself, whatever the pose
        parts = tuple(augmentation.warp(part, generator) for part in method.prepare(film.pixels, moved, film.centres))
    else:
        moved = augmentation.move(moved, generator)
        parts = method.prepare(film.pixels, moved, film.centres)
    return tuple(table[part] for part in parts), moved.to_template(film.centres)


def _cover(grey: npt.NDArray[np.float32], generator: np.random.Generator) -> None:
    """Cover one rectangle with one grey."""
    rows, columns = grey.shape
    height, width = (int(side * generator.uniform(*COVER)) for side in (rows, columns))
    top, left = int(generator.integers(rows - height)), int(generator.integers(columns - width))
    grey[top : top + height, left : left + width] = generator.uniform(-1, 1)


def _veil(grey: npt.NDArray[np.float32], generator: np.random.Generator) -> None:
    """Lay a coarse shade, through which bones show faintly or not, over a rectangle."""
    rows, columns = grey.shape
    height, width = (int(side * generator.uniform(*VEIL)) for side in (rows, columns))
    top, left = int(generator.integers(rows - height)), int(generator.integers(columns - width))
    cells = int(generator.integers(4, 40))
    grain = generator.normal(0, generator.uniform(0, 0.2), (cells, cells)).astype(np.float32)
    shade = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC) + np.float32(generator.uniform(-1, 1))
    seen = np.float32(generator.uniform(0, 0.4))
    hidden = grey[top : top + height, left : left + width]
    hidden[:] = np.clip(seen * hidden + shade, -1, 1)


@dataclass(frozen=True, slots=True)
class Pool:
    """Films to draw from: their share of the films of a batch and, per film, its probability within the pool."""

    films: list[LocatedFilm]
    share: float
    probabilities: Float

    @staticmethod
    def make(films: list[LocatedFilm], share: float, balance: float = 0.0) -> Pool:
        """Weigh films by the density of their age to the power of ``-balance``: 0 as they come, 1 all ages alike."""
        ages = np.array([film.reading.age_months for film in films])
        histogram, _ = np.histogram(ages, bins=20, range=(0, 240))
        smooth = np.convolve(histogram, (0.25, 0.5, 0.25), mode="same") + 0.5
        weights = smooth[np.clip(ages / 12, 0, 19).astype(int)] ** -balance
        return Pool(films, share, weights / weights.sum())


class AgeBatch(NamedTuple):
    """One batch: the method's inputs with a channel axis each, the sexes (+1 male, -1 female), the ages in months.

    ``centres`` (N, 18, 2) are the ROIs' in the template's plane, as :func:`augmented` gives them.
    """

    inputs: tuple[Tensor, ...]
    male: Tensor
    age_months: Tensor
    centres: Tensor | None = None


def age_batches(
    pools: list[Pool],
    method: AgeMethod,
    size: int,
    seed: int,
    *,
    augmentation: Augmentation | None = None,
    softness: float = LABEL_SOFTNESS_MONTHS,
) -> Iterator[AgeBatch]:
    """Yield batches for ever, films changed as :func:`augmented` does, labels moved by up to ``softness`` months."""
    generator = np.random.default_rng(seed)
    shares = np.array([pool.share for pool in pools])
    while True:
        chosen = []
        for place in generator.choice(len(pools), size, p=shares / shares.sum()):
            pool = pools[place]
            chosen.append(pool.films[generator.choice(len(pool.films), p=pool.probabilities)])
        ages = [film.reading.age_months + generator.uniform(-softness, softness) for film in chosen]
        samples = [augmented(film, method, generator, augmentation) for film in chosen]
        centres = torch.from_numpy(np.stack([places for _, places in samples])).float()
        inputs = stack_inputs([parts for parts, _ in samples])
        yield AgeBatch(inputs, males(chosen), torch.tensor(ages, dtype=torch.float32), centres)


def stack_inputs(samples: list[tuple[npt.NDArray[np.float32], ...]]) -> tuple[Tensor, ...]:
    """Stack the inputs of several films into one tensor per input."""
    return tuple(as_batch(np.stack(part)) for part in zip(*samples, strict=True))


def males(films: list[LocatedFilm]) -> Tensor:
    """Return the sexes of films, shape (N,): +1 male, -1 female."""
    return torch.tensor([1.0 if film.reading.sex is Sex.MALE else -1.0 for film in films])


def estimate(net: nn.Module, films: list[LocatedFilm], method: AgeMethod, batch: int = 32) -> Float:
    """Return the net's ages in months for films as they are, shape (len(films),)."""
    ages = []
    with torch.inference_mode():
        for start in range(0, len(films), batch):
            part = films[start : start + batch]
            inputs = stack_inputs([sample(film, method, None) for film in part])
            ages.append(net(*inputs, males(part)).age_months.double().numpy())
    return np.concatenate(ages)
