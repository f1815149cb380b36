"""Films ready for the age networks, and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.detector import LANDMARK_SIDE, LANDMARK_WINDOW, crop_upright, decode_landmarks, find_hands, stretch
from inference.finding import Sex
from inference.pose import Pose, fit_pose, template_points
from inference.preparation import prepare, roi_centres, to_units
from training.radiographs import Radiograph, Reading

Float = npt.NDArray[np.float64]

LABEL_SOFTNESS_MONTHS = 3.0
"""Training labels move by up to this much (Hui et al. 2022, section 3.1)."""


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


def jittered(film: LocatedFilm, generator: np.random.Generator) -> tuple[Pose, Float]:
    """Move the pose and the ROI centres by a little more than the detector errs."""
    angle = np.radians(generator.normal(0, 6))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scales = np.exp(generator.normal(0, 0.05, 2)) * np.exp(generator.normal(0, 0.04))
    middle = np.array([0.5, 0.5])
    linear = film.pose.matrix[:, :2] @ rotation @ np.diag(scales)
    if generator.random() < 0.1:
        linear = linear @ np.diag([-1.0, 1.0])
    centre = film.pose.to_film(middle + generator.normal(0, 0.015, 2))
    pose = Pose(np.column_stack([linear, centre - linear @ middle]))
    return pose, film.centres + generator.normal(0, 0.008, film.centres.shape) * film.pose.scale


def sample(
    film: LocatedFilm, generator: np.random.Generator | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the two inputs (224, 224) and (18, 64, 64) of -1..1; jittered if a generator is given."""
    if generator is None:
        hand = prepare(film.pixels, film.pose, film.centres)
        return to_units(hand.whole), to_units(hand.patches)
    pose, centres = jittered(film, generator)
    hand = prepare(film.pixels, pose, centres)
    gamma = float(np.exp(generator.uniform(-0.35, 0.35)))
    table = np.asarray(2 * np.linspace(0, 1, 256) ** gamma - 1, dtype=np.float32)
    whole, patches = table[hand.whole], table[hand.patches]
    if generator.random() < 0.3:
        sigma = float(generator.uniform(0.4, 1.4))
        whole = np.asarray(cv2.GaussianBlur(whole, (0, 0), sigma), dtype=np.float32)
    if generator.random() < 0.3:
        noise = np.float32(generator.uniform(0.02, 0.12))
        whole = whole + noise * generator.standard_normal(whole.shape, dtype=np.float32)
        patches = patches + noise * generator.standard_normal(patches.shape, dtype=np.float32)
    if generator.random() < 0.3:
        patches[generator.integers(len(patches))] = 0
    return whole.astype(np.float32), patches.astype(np.float32)


def age_batches(
    pools: list[tuple[list[LocatedFilm], float]], size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield batches for ever: whole, local, male (+1/-1), softened age; each pool with its share of the films drawn."""
    generator = np.random.default_rng(seed)
    shares = np.array([share for _, share in pools])
    while True:
        chosen = []
        for place in generator.choice(len(pools), size, p=shares / shares.sum()):
            pool = pools[place][0]
            chosen.append(pool[generator.integers(len(pool))])
        inputs = [sample(film, generator) for film in chosen]
        ages = [f.reading.age_months + generator.uniform(-LABEL_SOFTNESS_MONTHS, LABEL_SOFTNESS_MONTHS) for f in chosen]
        whole, local = (torch.from_numpy(np.stack(part)) for part in zip(*inputs, strict=True))
        male = torch.tensor([1.0 if f.reading.sex is Sex.MALE else -1.0 for f in chosen])
        yield whole[:, None], local, male, torch.tensor(ages, dtype=torch.float32)


def estimate(net: nn.Module, films: list[LocatedFilm], batch: int = 32) -> Float:
    """Return the net's ages in months for films as they are, shape (len(films),)."""
    ages = []
    with torch.inference_mode():
        for start in range(0, len(films), batch):
            part = films[start : start + batch]
            inputs = [sample(film, None) for film in part]
            whole, local = (torch.from_numpy(np.stack(i)) for i in zip(*inputs, strict=True))
            male = torch.tensor([1.0 if f.reading.sex is Sex.MALE else -1.0 for f in part])
            ages.append(net(whole[:, None], local, male).double().numpy())
    return np.concatenate(ages)
