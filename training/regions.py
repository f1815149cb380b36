"""Samples and losses of global-local's own region detector (``inference.yolo``).

The loss is the YOLOv5 family's: binary cross entropy of objectness and classes, CIoU of boxes (Zheng et al., AAAI
2020).

Decisions where Hui et al. are silent:

* An anchor takes a true box whose sides differ from its own by less than a factor of 4, in the cell of the box's centre
  and in the two nearest neighbours; objectness is taught to be the CIoU of what is predicted there.
* Weights: boxes 0.05, classes 0.5 x classes / 80, objectness 1 x (side / 640)^2, of the three heads 4, 1 and 0.4: the
  family's, without its factor of the batch's size, which AdamW takes no notice of.
* Films: 400 of theirs were annotated in 18 regions, which are not to be had. Ours have boxes of the 13 RUS bones; the
  five carpal regions come from ``inference.preparation``, at the carpus that a reader marked, else at the pose's.
* Equalised as the paper has it, then turned, scaled, shifted, mirrored, changed in gamma; one in five shows two hands.
* The paper: 100 epochs of 400 films, batches of 64, one cycle from 0.01 to 0.001. Here: AdamW with one cycle, recipe
  ``training/recipes/regions.toml``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from inference.anatomy import BOX_NAMES, POINT_NAMES, RUS_NAMES
from inference.detector import Landmarks
from inference.pose import template_points
from inference.preparation import equalisation_table, make_rois
from inference.warp import warp_onto
from inference.yolo import HEAD_STRIDES, as_corners, place_boxes
from training.detector import AnnotatedFilm

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

BOX_WEIGHT, CLASS_WEIGHT = 0.05, 0.5
HEAD_WEIGHTS = (4.0, 1.0, 0.4)
MOST_RATIO = 4.0
"""An anchor takes boxes whose sides differ from its own by less than this factor."""
PAIR_SHARE = 0.2
"""Share of the samples that show two hands."""

_PLACES = [POINT_NAMES.index(name) for name in RUS_NAMES]
_SIZES = [BOX_NAMES.index(name) for name in RUS_NAMES]
_NEIGHBOURS = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]])


class RegionBatch(NamedTuple):
    """Films (N, 1, side, side) of -1..1, and the true boxes (N, 36, 4) in pixels, NaN where there is none.

    Box k is of class k modulo 18: a second hand's follow the first's.
    """

    film: Tensor
    boxes: Tensor


class Targets(NamedTuple):
    """Which anchors of one head take which of T true boxes (an anchor takes several, a box several anchors)."""

    film: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    boxes: Tensor
    """Shape (T, 4): centre, width and height in units of the head's stride."""
    classes: Tensor


def is_boxed(film: AnnotatedFilm) -> bool:
    """Whether all 13 bones have a point and a size."""
    return bool(np.isfinite(film.points[_PLACES]).all() and np.isfinite(film.sizes[_SIZES]).all())


def true_boxes(film: AnnotatedFilm) -> Float:
    """Return the 18 regions' boxes in film pixels, shape (18, 4)."""
    points = np.where(np.isfinite(film.points), film.points, film.pose.to_film(template_points()))
    marks = Landmarks(points, np.ones(len(points)), np.nan_to_num(film.sizes, nan=0.1), film.pose)
    return np.array([(roi.box.x0, roi.box.y0, roi.box.x1, roi.box.y1) for roi in make_rois(marks)])


def _moved(boxes: Float, linear: Float, shift: Float) -> Float:
    """Carry boxes (n, 4) along; a tilted box grows as an ellipse does."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2 @ linear.T + shift
    halves = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / 2) ** 2 @ (linear**2).T)
    return np.concatenate([middles - halves, middles + halves], axis=1)


def place(
    film: AnnotatedFilm, extent: tuple[int, int], generator: np.random.Generator, *, mirror: bool
) -> tuple[Grey, Float]:
    """Turn, scale and shift an equalised film into (columns, rows) pixels; returns it with its boxes (18, 4)."""
    rows, columns = film.pixels.shape
    angle = np.radians(generator.normal(0, 8))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    fit = min(extent[0] / columns, extent[1] / rows) * float(np.exp(generator.uniform(-0.25, 0.1)))
    linear = fit * turn @ np.diag([-1.0 if mirror else 1.0, 1.0])
    shift = np.array(extent) / 2 + generator.normal(0, 0.03, 2) * extent - linear @ (columns / 2, rows / 2)
    matrix = np.column_stack([linear, shift + linear @ (0.5, 0.5) - 0.5])  # cv2 has pixel centres at integers
    equal = np.asarray(cv2.LUT(film.pixels, equalisation_table(film.pixels)), dtype=np.uint8)
    return warp_onto(equal, matrix, extent, fill=0), _moved(true_boxes(film), linear, shift)


def region_sample(
    films: list[AnnotatedFilm], side: int, generator: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Make one film (side, side) of -1..1 and its boxes (36, 4)."""
    first, second = (films[place_] for place_ in generator.integers(len(films), size=2))
    boxes, mirror = np.full((36, 4), np.nan), bool(generator.random() < 0.5)
    if generator.random() < PAIR_SHARE:
        half = side // 2
        mirrors = (first.pose.mirrored, not second.pose.mirrored)  # thumbs inward: the left hand on the left
        left, boxes[:18] = place(first, (half, side), generator, mirror=mirrors[0])
        right, boxes[18:] = place(second, (half, side), generator, mirror=mirrors[1])
        boxes[18:, 0::2] += half
        canvas = np.concatenate([left, right], axis=1)
    else:
        canvas, boxes[:18] = place(first, (side, side), generator, mirror=mirror)
    table = np.linspace(0, 1, 256) ** float(np.exp(generator.uniform(-0.35, 0.35)))
    grey = np.asarray(2 * table - 1, dtype=np.float32)[canvas]
    if generator.random() < 0.3:
        grey = grey + generator.normal(0, generator.uniform(0.02, 0.12), grey.shape).astype(np.float32)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    boxes[~((middles > 0) & (middles < side)).all(1)] = np.nan
    return grey, np.clip(boxes, 0, side).astype(np.float32)


def region_batches(films: list[AnnotatedFilm], side: int, size: int, seed: int) -> Iterator[RegionBatch]:
    """Yield batches for ever."""
    generator = np.random.default_rng(seed)
    while True:
        samples = [region_sample(films, side, generator) for _ in range(size)]
        film, boxes = (torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))
        yield RegionBatch(film[:, None], boxes)


def complete_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return CIoU of boxes (..., 4), centre, width and height, with as many others (Zheng et al. 2020, eq. 8 to 11).

    ``IoU - d^2 / c^2 - a v``: d is the centres' distance, c the diagonal of the smallest box around both, v how their
    shapes differ, ``a = v / (1 - IoU + v)``, through which no gradient passes.
    """
    one, other = as_corners(first), as_corners(second)
    shared = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    overlap = shared.prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - overlap
    iou = overlap / union.clamp(min=1e-7)
    around = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    apart = ((first[..., :2] - second[..., :2]) ** 2).sum(-1) / (around**2).sum(-1).clamp(min=1e-7)
    shapes = [torch.atan2(boxes[..., 2], boxes[..., 3].clamp(min=1e-7)) for boxes in (first, second)]
    differ = 4 / math.pi**2 * (shapes[0] - shapes[1]) ** 2
    weight = (differ / (1 - iou + differ).clamp(min=1e-7)).detach()
    return iou - apart - weight * differ


def assign(boxes: Tensor, anchors: Tensor, stride: int, extent: tuple[int, int], classes: int) -> Targets:
    """Say which anchors of one head take which true boxes.

    Parameters
    ----------
    boxes
        Shape (N, K, 4), corners in pixels, NaN where there is none; box k is of class k modulo ``classes``.
    anchors
        Shape (3, 2), pixels.
    stride, extent
        Of the head, and its rows and columns.
    classes
        How many there are.
    """
    film, which = torch.isfinite(boxes).all(-1).nonzero(as_tuple=True)
    own = boxes[film, which] / stride
    placed = torch.cat([(own[:, :2] + own[:, 2:]) / 2, own[:, 2:] - own[:, :2]], dim=1)
    ratio = placed[:, None, 2:] / (anchors / stride)
    taken, anchor = (torch.maximum(ratio, 1 / ratio).amax(-1) < MOST_RATIO).nonzero(as_tuple=True)
    centre = placed[taken, :2]
    cells = centre[:, None].floor() + _NEIGHBOURS.to(boxes.device)  # (M, 5, 2): own, left, above, right, below
    within = centre - centre.floor()
    own_cell = torch.ones(len(taken), 1, dtype=torch.bool, device=boxes.device)
    wanted = torch.cat([own_cell, within < 0.5, within > 0.5], dim=1)
    limits = torch.tensor([extent[1], extent[0]], device=boxes.device)
    wanted &= ((cells >= 0) & (cells < limits)).all(-1)
    row, kind = wanted.nonzero(as_tuple=True)
    column_row = cells[row, kind].long()
    chosen = taken[row]
    return Targets(
        film[chosen], anchor[row], column_row[:, 1], column_row[:, 0], placed[chosen], which[chosen] % classes
    )


def head_loss(answer: Tensor, anchors: Tensor, stride: int, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return one head's losses of boxes, objectness and classes, each a mean.

    Parameters
    ----------
    answer
        Shape (N, 3, rows, columns, 5 + classes), as ``inference.yolo.RegionNet`` gives it.
    anchors, stride, boxes
        As :func:`assign` takes them.
    """
    classes = answer.shape[-1] - 5
    found = assign(boxes, anchors, stride, (answer.shape[2], answer.shape[3]), classes)
    objects = torch.zeros_like(answer[..., 4])
    zero = answer.sum() * 0
    if not len(found.film):
        return zero, binary_cross_entropy_with_logits(answer[..., 4], objects), zero
    chosen = answer[found.film, found.anchor, found.row, found.column]
    cells = torch.stack([found.column, found.row], dim=-1).float()
    near = complete_iou(place_boxes(chosen[:, :4], cells, anchors[found.anchor] / stride), found.boxes)
    objects[found.film, found.anchor, found.row, found.column] = near.detach().clamp(min=0)
    entropy = binary_cross_entropy_with_logits(chosen[:, 5:], one_hot(found.classes, classes).float())
    return (1 - near).mean(), binary_cross_entropy_with_logits(answer[..., 4], objects), entropy


def region_loss(answers: list[Tensor], anchors: Tensor, boxes: Tensor) -> Tensor:
    """Add up the heads' losses: ``boxes`` (N, K, 4) in pixels, NaN where there is none; ``anchors`` (3, 3, 2)."""
    total = answers[0].new_zeros(())
    side = answers[0].shape[2] * HEAD_STRIDES[0]
    classes = answers[0].shape[-1] - 5
    for answer, own, stride, weight in zip(answers, anchors, HEAD_STRIDES, HEAD_WEIGHTS, strict=True):
        box, objects, kinds = head_loss(answer, own, stride, boxes)
        total = total + BOX_WEIGHT * box + weight * (side / 640) ** 2 * objects + CLASS_WEIGHT * classes / 80 * kinds
    return total
