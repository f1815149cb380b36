"""Finding hands and their regions of interest: a coarse finder for any pose, then a landmark net on the upright crop.

Both are one-stage, anchor-free detectors that predict centres as heat maps (Zhou et al., Objects as Points, 2019),
small enough for a CPU. The finder sees the whole film, letterboxed, and answers for each hand where its centre is,
how it is turned and scaled, and whether it is mirrored; the landmark net sees the hand upright and finds the 44
points of ``inference.anatomy.POINT_NAMES`` and the sizes of the 21 epiphyseal boxes. Hui et al. use a YOLOv5 here; that
detector is a method of its own in this project's plan, and this one serves all methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from inference.anatomy import BOX_NAMES, POINT_NAMES
from inference.pose import Pose, fit_pose, template_points
from inference.warp import warp

FINDER_SIDE = 128
"""Side of the finder's letterboxed input in pixels."""
LANDMARK_SIDE = 192
"""Side of the landmark net's upright crop in pixels."""
LANDMARK_WINDOW = (-0.08, -0.08, 1.08, 1.08)
"""What of the template's plane that crop shows."""
STRIDE = 4
"""Input pixels per heat-map pixel of both nets."""

CENTRE_POINTS = tuple(POINT_NAMES.index(name) for name in ("MC2", "MC3", "MC4", "J-carpus"))
"""Points whose mean in the template is a hand's centre: the palm."""

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]


class HeatMapNet(nn.Module):
    """A stem that divides resolution by four, then a residual U-Net; one map per output channel.

    Parameters
    ----------
    channels_out
        Number of maps.
    widths
        Channels at strides 4, 8, 16 and 32.
    """

    def __init__(self, channels_out: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0] // 2, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(widths[0] // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(widths[0] // 2, widths[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.body = UNet(
            spatial_dims=2,
            in_channels=widths[0],
            out_channels=widths[0],
            channels=widths,
            strides=(2, 2, 2),
            num_res_units=2,
            act="RELU",
            norm="BATCH",
        )
        self.out = nn.Conv2d(widths[0], channels_out, 1)
        nn.init.constant_(_bias(self.out), -2.2)  # heat starts low, as the focal loss wants it

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, S, S) images of 0..1 to (N, channels_out, S/4, S/4) maps; heat maps are logits."""
        return self.out(torch.relu(self.body(self.stem(image - 0.5))))  # type: ignore[no-any-return]


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def make_finder() -> HeatMapNet:
    """Return the finder: centre, direction (x, y), mirrored, inverted."""
    return HeatMapNet(5, (24, 48, 96, 128))


def make_landmark_net() -> HeatMapNet:
    """Return the landmark net: 44 heat maps, then width and height of each of the 21 boxes."""
    return HeatMapNet(len(POINT_NAMES) + 2 * len(BOX_NAMES), (48, 64, 112, 160))


@dataclass(frozen=True, slots=True, eq=False)
class FoundHand:
    """One hand that the finder saw: its coarse pose, score in 0..1, and whether bones are dark on bright."""

    pose: Pose
    score: float
    inverted: float  # probability that the film's polarity is inverted
    second_look: bool = False  # whether it was seen in a half of the film or in the film turned only


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """What the landmark net found, in film pixels.

    ``points`` has shape (44, 2), ``scores`` (44,) in 0..1, ``sizes`` (21, 2) box width and height in template units.
    """

    points: Float
    scores: Float
    sizes: Float
    pose: Pose


def letterbox(image: Grey, side: int = FINDER_SIDE) -> tuple[Grey, float, tuple[float, float]]:
    """Fit an image into a square; return it with scale and (x, y) offset: ``canvas = film * scale + offset``."""
    rows, columns = image.shape
    scale = side / max(rows, columns)
    width, height = max(1, round(columns * scale)), max(1, round(rows * scale))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    left, top = (side - width) // 2, (side - height) // 2
    canvas = np.full((side, side), int(np.median(small)), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = small
    return canvas, scale, (float(left), float(top))


def stretch(image: Grey) -> npt.NDArray[np.float32]:
    """Scale grey values to 0..1 between their 1st and 99th percentile."""
    low, high = np.percentile(image, (1, 99))
    stretched = np.clip((image.astype(np.float32) - low) / max(float(high - low), 1.0), 0, 1)
    return np.asarray(stretched, dtype=np.float32)


def find_hands(net: nn.Module, film: Grey, threshold: float = 0.3, most: int = 3) -> list[FoundHand]:
    """Find hands of any pose in a film, best first.

    Parameters
    ----------
    net
        The finder in evaluation mode.
    film
        Shape (rows, columns), uint8.
    threshold
        Least score of a centre.
    most
        Stop after so many.
    """
    canvas, scale, offset = letterbox(film)
    with torch.inference_mode():
        maps = net(torch.from_numpy(stretch(canvas))[None, None])[0].double().numpy()
    heat = 1 / (1 + np.exp(-maps[0]))
    hands: list[FoundHand] = []
    while len(hands) < most:
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        score = float(heat[row, column])
        if score < threshold:
            break
        pose = _pose_at(maps, int(row), int(column))
        matrix = (pose.matrix - np.array([[0, 0, offset[0]], [0, 0, offset[1]]])) / scale
        inverted = float(1 / (1 + np.exp(-maps[4, row, column])))
        hands.append(FoundHand(Pose(matrix), score, inverted))
        radius = max(2.0, 0.22 * pose.scale / STRIDE)  # a palm's breadth: two hands are further apart
        rows, columns = np.ogrid[: heat.shape[0], : heat.shape[1]]
        heat[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 0
    return hands


WIDE, TALL = 1.2, 1.9
"""A film so many times as wide as it is high, or as high as it is wide, may show two hands beside or above each other,
each small in the finder's input. Of 200 training films of one hand none is so wide or so high."""


def find_all_hands(net: nn.Module, film: Grey) -> list[FoundHand]:
    """Find hands as :func:`find_hands` does; where a long film seems to show fewer than two, look at its halves too.

    What is found in a half may be a hand found before, or half of one: the caller compares landmarks.
    """
    hands = find_hands(net, film)
    if len(hands) < 2:
        for (row, column), part in _halves(film):
            hands += _seen_again(find_hands(net, part, most=1), np.array([[1, 0, column], [0, 1, row]]))
    return hands


def _halves(film: Grey) -> list[tuple[tuple[int, int], Grey]]:
    """Return the halves of a long film with the film's pixel (row, column) that each begins at; none of another."""
    rows, columns = film.shape
    if columns >= WIDE * rows:
        middle = columns // 2
        return [((0, 0), film[:, :middle]), ((0, middle), film[:, middle:])]
    if rows >= TALL * columns:
        middle = rows // 2
        return [((0, 0), film[:middle]), ((middle, 0), film[middle:])]
    return []


def find_turned_hands(net: nn.Module, film: Grey) -> list[FoundHand]:
    """Find the hand, if any, that each of the film's three other orientations shows."""
    hands = []
    for turn in (1, 3, 2):
        turned = np.ascontiguousarray(np.rot90(film, turn))
        hands += _seen_again(find_hands(net, turned, most=1), _turned_back(turn, *film.shape))
    return sorted(hands, key=lambda hand: -hand.score)


def _seen_again(hands: list[FoundHand], to_film: npt.NDArray[np.int_]) -> list[FoundHand]:
    """Carry hands from a part's or a turned film's pixels to the film's by a matrix (2, 3)."""
    carried = []
    for hand in hands:
        matrix = to_film[:, :2] @ hand.pose.matrix
        matrix[:, 2] += to_film[:, 2]
        carried.append(FoundHand(Pose(matrix), hand.score, hand.inverted, second_look=True))
    return carried


def _turned_back(quarters: int, rows: int, columns: int) -> npt.NDArray[np.int_]:
    """Return the matrix from the pixels of ``np.rot90(film, quarters)`` to those of the film (rows, columns)."""
    matrices = {
        1: [[0, -1, columns], [1, 0, 0]],
        2: [[-1, 0, columns], [0, -1, rows]],
        3: [[0, 1, 0], [-1, 0, rows]],
    }
    return np.array(matrices[quarters])


def reflected(pose: Pose) -> Pose:
    """Return the pose of the other side's hand at the same place, pointing the same way."""
    linear = pose.matrix[:, :2] * np.array([-1.0, 1.0])
    origin = template_points()[list(CENTRE_POINTS)].mean(0)
    return Pose(np.column_stack([linear, pose.to_film(origin) - linear @ origin]))


def is_same_hand(one: Landmarks, other: Landmarks) -> bool:
    """Whether two sets of landmarks lie on one hand: their middles are less than a palm's breadth apart."""
    apart = np.linalg.norm(one.points.mean(0) - other.points.mean(0))
    return bool(apart < 0.3 * max(one.pose.scale, other.pose.scale))


def _pose_at(maps: Float, row: int, column: int) -> Pose:
    """Read the pose (template to canvas pixels) that the finder's maps hold at one place."""
    weights = np.exp(np.clip(maps[0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2], -20, 20))
    rows, columns = np.mgrid[
        max(row - 1, 0) : min(row + 2, maps.shape[1]), max(column - 1, 0) : min(column + 2, maps.shape[2])
    ]
    weights /= weights.sum()
    centre = np.array([(weights * columns).sum() + 0.5, (weights * rows).sum() + 0.5]) * STRIDE
    up = maps[1:3, row, column] * FINDER_SIDE  # the template's unit length along its fingers, in canvas pixels
    side = np.array([-up[1], up[0]]) * (-1.0 if maps[3, row, column] > 0 else 1.0)
    linear = np.column_stack([side, -up])
    origin = template_points()[list(CENTRE_POINTS)].mean(0)
    return Pose(np.column_stack([linear, centre - linear @ origin]))


def crop_upright(
    film: Grey, pose: Pose, side: int | tuple[int, int], window: tuple[float, float, float, float]
) -> Grey:
    """Cut the window of the template's plane out of the film, upright; beyond the film its edge goes on.

    ``side`` is that of a square or (columns, rows) in pixels; the crop has shape (rows, columns).
    """
    extent = (side, side) if isinstance(side, int) else side
    return warp(film, pose.warp_matrix(side, window), extent)


_VIEWS = ((1.0, 0.0), (0.92, 4.0), (1.08, -4.0))
"""Scale and turn (degrees) of the crops that :func:`find_landmarks` looks at together."""


def find_landmarks(net: nn.Module, film: Grey, pose: Pose, rounds: int = 2) -> Landmarks:
    """Find the 44 points of the hand at a coarse pose; each round cuts the crops anew along the pose just found.

    The last round averages what the net finds in three crops that differ a little in scale and turn: the places where
    its cells fall differ, and so do its errors.
    """
    for place in range(rounds):
        views = [_view(pose, *view) for view in (_VIEWS if place == rounds - 1 else _VIEWS[:1])]
        points, scores, sizes = _look(net, film, views)
        sizes = sizes * _ratios(views, pose)[:, None, None]
        weights = scores**2 + 1e-6
        points = (points * weights[..., None]).sum(0) / weights.sum(0)[:, None]
        inside = (points >= 0).all(1) & (points <= (film.shape[1], film.shape[0])).all(1)
        mean_scores: Float = np.where(inside, scores.mean(0), 0.0)
        if (mean_scores > 0.2).sum() >= 6:
            trusted = np.where(mean_scores > 0.2, mean_scores, 0)
            pose = fit_pose(template_points(), points, trusted, mirrored=pose.mirrored)
    return Landmarks(points, mean_scores, sizes.mean(0), pose)


def _view(pose: Pose, scale: float, turn_deg: float) -> Pose:
    """Return a pose turned and scaled about the middle of the template's plane."""
    angle = np.radians(turn_deg)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([0.5, 0.5])
    linear = pose.matrix[:, :2] @ rotation * scale
    return Pose(np.column_stack([linear, pose.to_film(middle) - linear @ middle]))


def _ratios(views: list[Pose], pose: Pose) -> Float:
    """Return the scale of each view relative to a pose, shape (views,)."""
    return np.array([view.scale / pose.scale for view in views])


def _look(net: nn.Module, film: Grey, views: list[Pose]) -> tuple[Float, Float, Float]:
    """Return points (V, 44, 2) in film pixels, scores (V, 44) and box sizes (V, 21, 2) in each view's units."""
    crops = [stretch(crop_upright(film, view, LANDMARK_SIDE, LANDMARK_WINDOW)) for view in views]
    with torch.inference_mode():
        maps = net(torch.from_numpy(np.stack(crops))[:, None]).double().numpy()
    unit = (LANDMARK_WINDOW[2] - LANDMARK_WINDOW[0]) / LANDMARK_SIDE
    decoded = [decode_landmarks(of_view) for of_view in maps]
    points = [
        view.to_film(found * unit + LANDMARK_WINDOW[0]) for view, (found, _, _) in zip(views, decoded, strict=True)
    ]
    return np.stack(points), np.stack([scores for _, scores, _ in decoded]), np.stack([s for _, _, s in decoded])


def decode_landmarks(maps: Float) -> tuple[Float, Float, Float]:
    """Return points (44, 2) in crop pixels, scores (44,) and box sizes (21, 2) from the landmark net's maps.

    Each point's map is a probability over the crop (softmax). Its place is the centroid of the 5 x 5 cells around the
    peak, its score the probability they hold: a point that is not there has its probability spread all over.
    """
    count, boxes = len(POINT_NAMES), len(BOX_NAMES)
    height, width = maps.shape[1:]
    flat = maps[:count].reshape(count, -1)
    heat = np.exp(flat - flat.max(1, keepdims=True))
    heat = (heat / heat.sum(1, keepdims=True)).reshape(count, height, width)
    peak = flat.argmax(1)
    rows, columns = peak // width, peak % width
    padded = np.pad(heat, ((0, 0), (2, 2), (2, 2)))
    offsets = np.arange(-2, 3)
    at_rows = rows[:, None, None] + 2 + offsets[:, None]
    at_columns = columns[:, None, None] + 2 + offsets
    window = padded[np.arange(count)[:, None, None], at_rows, at_columns]
    scores = window.sum((1, 2))
    x = columns + (window * offsets[None, None, :]).sum((1, 2)) / scores + 0.5
    y = rows + (window * offsets[None, :, None]).sum((1, 2)) / scores + 0.5
    sizes = maps[count:, rows[:boxes].repeat(2), columns[:boxes].repeat(2)][np.arange(2 * boxes), np.arange(2 * boxes)]
    return np.stack([x, y], 1) * STRIDE, scores, sizes.reshape(boxes, 2)
