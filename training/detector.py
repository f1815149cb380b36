"""Samples and losses of the finder and the landmark net: poses, pairs of hands and non-hands made on the fly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.anatomy import BOX_NAMES, POINT_NAMES
from inference.detector import (
    CENTRE_POINTS,
    FINDER_SIDE,
    LANDMARK_SIDE,
    LANDMARK_WINDOW,
    STRIDE,
    HeatMapNet,
    make_finder,
    make_landmark_net,
    stretch,
)
from inference.pose import Pose, fit_pose, template_points
from inference.warp import warp, warp_onto
from training.errors import DataError

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

POSE_POINTS = 6
"""So many points a film needs, or where its hand lies is a guess."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedFilm:
    """A film with its points (44, 2) in film pixels and box sizes (21, 2) in template units, NaN where unknown."""

    pixels: Grey
    points: Float
    sizes: Float
    pose: Pose

    @staticmethod
    def make(pixels: Grey, relative_points: Float, relative_sizes: Float) -> AnnotatedFilm | None:
        """Build from points and sizes relative to the film's width and height; None with too few points for a pose."""
        extent = np.array([pixels.shape[1], pixels.shape[0]], dtype=np.float64)
        points = relative_points * extent
        if np.isfinite(points).all(1).sum() < POSE_POINTS:
            return None
        pose = fit_pose(template_points(), points)
        return AnnotatedFilm(pixels, points, relative_sizes * extent / pose.scale, pose)


def demand(films: list[AnnotatedFilm], data: Path, needs: str) -> list[AnnotatedFilm]:
    """Return films to train on.

    Parameters
    ----------
    films
        What there is.
    data
        Where they come from.
    needs
        What an annotation must have, for the message.

    Raises
    ------
    DataError
        If there is none.
    """
    if not films:
        raise DataError(
            f"No film of {data} for training or validation has {needs} in annotations/; put them there as Pascal VOC "
            "(*.xml), YOLO (*.txt with classes.txt) or COCO (*.json), named as the films are. "
            "boneage-node data check says which are read."
        )
    return films


def _grey_changes(
    image: Grey, generator: np.random.Generator, inversion: float
) -> tuple[npt.NDArray[np.float32], bool]:
    """Gamma, contrast, noise, blur and (with probability ``inversion``) polarity; returns 0..1 and whether inverted."""
    grey = stretch(image)
    grey = grey ** float(np.exp(generator.uniform(-0.6, 0.6)))
    if generator.random() < 0.3:
        grey = cv2.GaussianBlur(grey, (0, 0), float(generator.uniform(0.4, 1.3)))
    if generator.random() < 0.3:
        grey = grey + generator.normal(0, generator.uniform(0.01, 0.06), grey.shape).astype(np.float32)
    inverted = bool(generator.random() < inversion)
    if inverted:
        grey = 1 - grey
    contrast = generator.uniform(0.6, 1.0)
    grey = grey * contrast + generator.uniform(0, 1 - contrast)
    return np.clip(grey, 0, 1).astype(np.float32), inverted


def _place(image: Grey, matrix: Float, side: int, generator: np.random.Generator) -> Grey:
    """Warp a film onto a square by a film-to-canvas matrix; outside is replicated or one grey."""
    linear = matrix[:, :2]
    matrix = np.column_stack([linear, matrix[:, 2] + linear @ (0.5, 0.5) - 0.5])  # cv2 has pixel centres at integers
    edge_goes_on = generator.random() < 0.5
    fill = None if edge_goes_on else int(generator.choice([0, int(np.median(image)), int(generator.integers(0, 256))]))
    return warp_onto(image, matrix, (side, side), fill=fill)


def _then(second: Float, first: Float) -> Float:
    """Compose two (2, 3) affine matrices: first, then second."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def _random_pose(generator: np.random.Generator, length: float, centre: Float) -> Pose:
    """Draw a pose of a hand on a canvas: mostly upright, a third of them turned any way, half of them mirrored."""
    spread = 180.0 if generator.random() < 0.35 else 25.0
    angle = np.radians(generator.uniform(-spread, spread))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = length * rotation @ np.diag([-1.0 if generator.random() < 0.5 else 1.0, 1.0])
    return Pose(np.column_stack([linear, centre - linear @ np.array([0.5, 0.5])]))


def _film_to(pose_on_canvas: Pose, film: AnnotatedFilm) -> Float:
    """Return the (2, 3) film-to-canvas matrix that brings the film's hand to a pose on the canvas."""
    inverse = np.linalg.inv(film.pose.matrix[:, :2])
    to_template = np.column_stack([inverse, -inverse @ film.pose.matrix[:, 2]])
    return _then(pose_on_canvas.matrix, to_template)


def finder_sample(
    films: list[AnnotatedFilm], negatives: list[Grey], generator: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Make one finder input (128, 128) and its target (7, 32, 32).

    The target's channels: heat, direction x and y, mirrored, inverted, weight of the regression, care.
    """
    side, cells = FINDER_SIDE, FINDER_SIDE // STRIDE
    target = np.zeros((7, cells, cells), dtype=np.float32)
    target[6] = 1
    kind = generator.random()
    if kind < 0.16:
        canvas, inverted = _grey_changes(_negative(negatives, films, generator), generator, 0.2)
        return canvas, target
    if kind < 0.40:
        canvas_u8, poses = _pair(films, generator)
    else:
        film = films[generator.integers(len(films))]
        pose = _random_pose(
            generator, side * generator.uniform(0.5, 1.25), np.array(generator.uniform(0.3, 0.7, 2)) * side
        )
        canvas_u8, poses = _place(film.pixels, _film_to(pose, film), side, generator), [pose]
    canvas, inverted = _grey_changes(canvas_u8, generator, 0.2)
    for pose in poses:
        points = pose.to_film(template_points())
        visible = float(((points > 0) & (points < side)).all(1).mean())
        _draw_hand(target, pose, inverted=inverted, visible=visible)
    return canvas, target


def _pair(films: list[AnnotatedFilm], generator: np.random.Generator) -> tuple[Grey, list[Pose]]:
    """Put two hands side by side on one film, thumbs inward more often than outward."""
    side = FINDER_SIDE
    length = side * generator.uniform(0.5, 0.75)
    first, second = (films[i] for i in generator.integers(len(films), size=2))
    if generator.random() < 0.5:
        second = first
    height = side * generator.uniform(0.4, 0.6)
    outward = generator.random() < 0.2
    canvas = np.zeros((side, side), dtype=np.uint8)
    poses = []
    for place, (film, x) in enumerate(((first, 0.27), (second, 0.73))):
        angle = np.radians(generator.uniform(-15, 15))
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        mirror = -1.0 if (place == 1) != outward else 1.0
        linear = length * generator.uniform(0.9, 1.05) * rotation @ np.diag([mirror, 1.0])
        centre = np.array([side * x, height + generator.uniform(-4, 4)])
        pose = Pose(np.column_stack([linear, centre - linear @ np.array([0.5, 0.5])]))
        half = _place(film.pixels, _film_to(pose, film), side, generator)
        columns = slice(0, side // 2) if place == 0 else slice(side // 2, side)
        canvas[:, columns] = half[:, columns]
        poses.append(pose)
    if generator.random() < 0.25:  # turned films with two hands
        turn = int(generator.integers(1, 4))
        canvas = np.ascontiguousarray(np.rot90(canvas, turn))
        for _ in range(turn):
            quarter = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, float(side)]])
            poses = [Pose(_then(quarter, pose.matrix)) for pose in poses]
    return canvas, poses


def _negative(negatives: list[Grey], films: list[AnnotatedFilm], generator: np.random.Generator) -> Grey:
    """Make an image without a hand: a chest, a part of a hand, texture, noise or nothing."""
    side, kind = FINDER_SIDE, generator.random()
    if kind < 0.45 and negatives:
        image = negatives[generator.integers(len(negatives))]
        scale = side / max(image.shape) * generator.uniform(0.7, 2.0)
        angle = generator.choice([0, 90, 180, 270]) + generator.uniform(-20, 20)
        matrix = cv2.getRotationMatrix2D((image.shape[1] / 2, image.shape[0] / 2), angle, scale)
        matrix[:, 2] += side / 2 - np.array([image.shape[1] / 2, image.shape[0] / 2])
        return _place(image, matrix, side, generator)
    if kind < 0.85:  # a part: magnified until few of the points are inside
        film = films[generator.integers(len(films))]
        focus = template_points()[generator.integers(len(POINT_NAMES))] + generator.normal(0, 0.03, 2)
        pose = _random_pose(generator, side * generator.uniform(2.2, 5.0), np.zeros(2))
        pose = Pose(np.column_stack([pose.matrix[:, :2], np.full(2, side / 2) - pose.matrix[:, :2] @ focus]))
        return _place(film.pixels, _film_to(pose, film), side, generator)
    cells = int(generator.choice([1, 4, 8, 16, 64]))
    noise = generator.integers(0, 256, (cells, cells)).astype(np.uint8)
    return np.asarray(cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _draw_hand(target: npt.NDArray[np.float32], pose: Pose, *, inverted: bool, visible: float) -> None:
    """Write one hand into a target; a hand only partly on the canvas is neither taught nor held against the net."""
    cells = target.shape[1]
    centre = pose.to_film(template_points()[list(CENTRE_POINTS)].mean(0)) / STRIDE - 0.5
    rows, columns = np.ogrid[:cells, :cells]
    distance = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2
    if visible < 0.9:
        target[6] = np.where(distance < (0.3 * pose.scale / STRIDE) ** 2, 0, target[6])
        if visible < 0.55:
            target[6] = 1
        return
    gauss = np.exp(-distance / (2 * 1.6**2)).astype(np.float32)
    row, column = (int(np.clip(round(v), 0, cells - 1)) for v in (centre[1], centre[0]))
    gauss[row, column] = 1
    target[0] = np.maximum(target[0], gauss)
    near = distance < 2.5**2
    up = pose.matrix[:, :2] @ np.array([0.0, -1.0]) / FINDER_SIDE
    for channel, value in ((1, up[0]), (2, up[1]), (3, float(pose.mirrored)), (4, float(inverted)), (5, 1.0)):
        target[channel][near] = value


def landmark_sample(
    films: list[AnnotatedFilm], generator: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Make one upright crop (224, 224), its points (44, 3) as x, y, known, and box sizes (21, 2) in template units."""
    film = films[generator.integers(len(films))]
    rough = generator.random() < 0.5
    angle = np.radians(generator.normal(0, 9 if rough else 3))
    scale = float(np.exp(generator.normal(0, 0.10 if rough else 0.04)))
    shift = generator.normal(0, 0.04 if rough else 0.012, 2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = film.pose.matrix[:, :2] @ rotation / scale
    stretch_x = np.diag([float(np.exp(generator.normal(0, 0.05))), 1.0])
    linear = linear @ stretch_x
    middle = np.array([0.5, 0.5])
    pose = Pose(np.column_stack([linear, film.pose.to_film(middle + shift) - linear @ middle]))
    matrix = pose.warp_matrix(LANDMARK_SIDE, LANDMARK_WINDOW)
    edge_goes_on = generator.random() < 0.5
    fill = None if edge_goes_on else int(generator.choice([0, int(np.median(film.pixels)), 255]))
    crop = warp(film.pixels, matrix, (LANDMARK_SIDE, LANDMARK_SIDE), fill=fill)
    points: Float = np.column_stack([film.points, np.isfinite(film.points).all(1)]).astype(np.float64)
    unit = (LANDMARK_WINDOW[2] - LANDMARK_WINDOW[0]) / LANDMARK_SIDE
    points[:, :2] = (pose.to_template(film.points) - LANDMARK_WINDOW[0]) / unit
    _hide(crop, points, generator)
    grey, _ = _grey_changes(crop, generator, 0.05)
    sizes = film.sizes * film.pose.scale / pose.scale
    return grey, points.astype(np.float32), sizes.astype(np.float32)


def _hide(crop: Grey, points: Float, generator: np.random.Generator) -> None:
    """Now and then cover a strip of the crop, as collimation or a cassette's edge does; covered points get no heat."""
    if generator.random() > 0.15:
        return
    edge = int(generator.integers(20, 80))
    where = int(generator.integers(3))
    fill = int(generator.integers(0, 256))
    if where == 0:
        crop[-edge:] = fill
        hidden = points[:, 1] > LANDMARK_SIDE - edge
    elif where == 1:
        crop[:, :edge] = fill
        hidden = points[:, 0] < edge
    else:
        crop[:, -edge:] = fill
        hidden = points[:, 0] > LANDMARK_SIDE - edge
    points[hidden, :2] = -100.0


def draw_heat(points: Tensor, cells: int, sigma: float = 1.3) -> Tensor:
    """Return Gaussian heat maps (N, P, cells, cells), exactly one at the nearest cell of each point."""
    centre = points[..., :2] / STRIDE - 0.5
    axis = torch.arange(cells, dtype=torch.float32)
    x = torch.exp(-((axis - centre[..., 0:1]) ** 2) / (2 * sigma**2))
    y = torch.exp(-((axis - centre[..., 1:2]) ** 2) / (2 * sigma**2))
    heat = y[..., :, None] * x[..., None, :]
    peak = heat.amax((-2, -1), keepdim=True)
    return torch.where((heat == peak) & (peak > 0.5), torch.ones_like(heat), heat)


def focal_loss(logits: Tensor, heat: Tensor, care: Tensor) -> Tensor:
    """Penalty-reduced focal loss of Zhou et al. 2019, eq. (1), alpha 2, beta 4, over cells with ``care`` > 0."""
    probability = torch.sigmoid(logits).clamp(1e-5, 1 - 1e-5)
    positive = (heat == 1).float() * care
    negative = (1 - heat) ** 4 * care * (heat < 1).float()
    loss = -positive * (1 - probability) ** 2 * probability.log()
    loss = loss - negative * probability**2 * (1 - probability).log()
    return loss.sum() / positive.sum().clamp(min=1)


def finder_loss(maps: Tensor, target: Tensor) -> Tensor:
    """Focal loss on centres, smooth L1 on directions, cross entropy on mirrored and inverted near centres."""
    heat = focal_loss(maps[:, 0], target[:, 0], target[:, 6])
    weight = target[:, 5]
    count = weight.sum().clamp(min=1)
    direction = nn.functional.smooth_l1_loss(maps[:, 1:3], target[:, 1:3], reduction="none", beta=0.02).sum(1)
    binary = nn.functional.binary_cross_entropy_with_logits(maps[:, 3:5], target[:, 3:5], reduction="none").sum(1)
    return heat + 5 * (direction * weight).sum() / count + (binary * weight).sum() / count


def landmark_loss(maps: Tensor, points: Tensor, sizes: Tensor) -> Tensor:
    """Cross entropy of each known point's softmax over the crop, and L1 on box sizes read at the boxes' centres.

    The target is a Gaussian around the point; a point that is hidden or outside the crop has an even target, so that
    its peak holds little.
    """
    count, boxes = len(POINT_NAMES), len(BOX_NAMES)
    cells = maps.shape[-1]
    heat = draw_heat(points, cells).flatten(2)
    shown = (heat.amax(-1, keepdim=True) == 1).float()
    target = shown * heat / heat.sum(-1, keepdim=True).clamp(min=1e-6) + (1 - shown) / cells**2
    entropy = -(target * torch.log_softmax(maps[:, :count].flatten(2), dim=-1)).sum(-1)
    known = points[..., 2]
    at = (points[:, :boxes, :2] / STRIDE).nan_to_num(0).long()
    inside = ((at >= 0) & (at < cells)).all(-1) & (points[:, :boxes, 2] > 0) & torch.isfinite(sizes).all(-1)
    at = at.clamp(0, cells - 1)
    batch = torch.arange(maps.shape[0])[:, None].expand(-1, boxes)
    read = maps[:, count:].reshape(maps.shape[0], boxes, 2, cells, cells)
    predicted = read[batch, torch.arange(boxes)[None].expand_as(batch), :, at[..., 1], at[..., 0]]
    error = (predicted - sizes.nan_to_num(0)).abs().sum(-1) * inside
    return (entropy * known).sum() / known.sum().clamp(min=1) + 5 * error.sum() / inside.sum().clamp(min=1)


def finder_batches(
    films: list[AnnotatedFilm], negatives: list[Grey], size: int, seed: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield finder batches for ever."""
    generator = np.random.default_rng(seed)
    while True:
        samples = [finder_sample(films, negatives, generator) for _ in range(size)]
        images, targets = (torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))
        yield images[:, None], targets


def landmark_batches(films: list[AnnotatedFilm], size: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield landmark batches for ever."""
    generator = np.random.default_rng(seed)
    while True:
        samples = [landmark_sample(films, generator) for _ in range(size)]
        images, points, sizes = (torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))
        points[..., :2] = points[..., :2].nan_to_num(-100)
        yield images[:, None], points, sizes


NETS: dict[str, tuple[Callable[[], HeatMapNet], Callable[..., Tensor]]] = {
    "finder": (make_finder, finder_loss),
    "landmarks": (make_landmark_net, landmark_loss),
}
"""Each detector net's maker and loss."""
