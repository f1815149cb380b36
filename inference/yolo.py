"""The one-stage region detector of Hui et al. 2022: YOLOv5's architecture, which has no paper; and the two-hand rule.

Backbone: six-by-six stem, cross stage partial blocks (CSPNet, Wang et al., CVPRW 2020), fast spatial pyramid pooling
(SPP, He et al., TPAMI 2015). Neck: path aggregation (PANet, Liu et al., CVPR 2018). Three heads, at strides 8, 16 and
32, each with three anchors per place: box, objectness, class. Written from these papers and the family's published
layer table; no source of that family was used.

Decisions where Hui et al. are silent:

* Which of the family's five sizes: ``width`` and ``depth`` are its two multiples (0.5 and 0.33 are the small one's; the
  largest convolution of width 1 has 1,024 channels). Films are grey, so the first convolution takes one channel.
* The anchors are pixels of the detector's own input, whatever its side; 640 is the family's.
* "IoU threshold 0.5" is taken for non-maximum suppression, which is MONAI's, class by class, as well as for counting.
* A region's score is objectness times class probability. A hand has every region once, so the best box of a class is
  its region, and of each class at most two are kept: films have two hands at most.
* Two hands: a film shows two when at least half of the classes found have two boxes, further apart in the median than a
  region is wide; the line between the hands is the middle of these pairs. The left hand is the one whose thumb's distal
  phalanx lies to the right of the little finger's; where both or neither do, the one further to the left.
* "Expanded by 5 pixels according to the boundary coordinates of the 11th and 17th ROIs": the numbers are not listed, so
  the hand is what all its regions' boxes span, 5 pixels more on each side.

Boxes are x0, y0, x1, y1 in continuous input pixels, the first pixel's middle at 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.data.box_utils import batched_nms
from torch import Tensor, nn

from inference.anatomy import ROI_NAMES

ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""Widths and heights in input pixels, per head (Hui et al. 2022)."""
HEAD_STRIDES = (8, 16, 32)
OVERLAP = 0.5
HAND_MARGIN = 5.0
"""Pixels around the outer regions' bounds."""

_CHANNELS = (64, 128, 256, 512, 1024)
_UNITS = (3, 6, 9, 3)
"""Residual units of the backbone's four blocks at depth 1; the neck's have the first's."""
_LEAST_SCORE, _CANDIDATES = 0.05, 300
_PRIOR = 0.01
_THUMB, _LITTLE_FINGER = ROI_NAMES.index("DP1"), ROI_NAMES.index("DP5")


class Conv(nn.Sequential):
    """Convolution without bias, batch normalisation, SiLU; padded so that a stride of one keeps the map's size."""

    def __init__(self, channels_in: int, channels: int, side: int = 1, stride: int = 1, padding: int | None = None):
        super().__init__(
            nn.Conv2d(channels_in, channels, side, stride, side // 2 if padding is None else padding, bias=False),
            nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03),
            nn.SiLU(inplace=True),
        )


class _Unit(nn.Module):
    """A 1 x 1 and a 3 x 3 convolution, added to what they were given in the backbone."""

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(Conv(channels, channels), Conv(channels, channels, 3))
        self.residual = residual

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = self.body(maps)
        return maps + found if self.residual else found


class CrossStage(nn.Module):
    """Half of the channels go through residual units, half go past them; a 1 x 1 convolution joins both (CSPNet)."""

    def __init__(self, channels_in: int, channels: int, units: int, *, residual: bool = True) -> None:
        super().__init__()
        half = channels // 2
        self.inner = nn.Sequential(Conv(channels_in, half), *(_Unit(half, residual=residual) for _ in range(units)))
        self.past = Conv(channels_in, half)
        self.join = Conv(2 * half, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, channels_in, H, W) to (N, channels, H, W)."""
        joined: Tensor = self.join(torch.cat([self.inner(maps), self.past(maps)], dim=1))
        return joined


class FastPyramidPooling(nn.Module):
    """Max pooling over 5, 9 and 13 pixels, as one 5 x 5 pooling three times in a row, beside the map itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = Conv(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.join = Conv(4 * (channels // 2), channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        pooled = [self.reduce(maps)]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        joined: Tensor = self.join(torch.cat(pooled, dim=1))
        return joined


class Candidates(NamedTuple):
    """What was found in one film: K boxes (K, 4), their scores (K,) in 0..1, best first, and classes (K,)."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor

    def kept(self, chosen: Tensor) -> Candidates:
        """Return those that a mask or places choose."""
        return Candidates(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


class RegionNet(nn.Module):
    """Find regions of so many classes in films.

    Parameters
    ----------
    width, depth
        Factors on the channels of every convolution and on the number of residual units of every block.
    classes
        The 18 of ``inference.anatomy.ROI_NAMES``.
    """

    def __init__(self, width: float = 0.5, depth: float = 0.33, classes: int = len(ROI_NAMES)) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (max(8, round(width * c / 8) * 8) for c in _CHANNELS)
        u2, u3, u4, u5 = (max(1, round(depth * units)) for units in _UNITS)
        self.classes = classes
        self.stem = nn.Sequential(Conv(1, c1, 6, 2, 2), Conv(c1, c2, 3, 2), CrossStage(c2, c2, u2))
        self.stage3 = nn.Sequential(Conv(c2, c3, 3, 2), CrossStage(c3, c3, u3))
        self.stage4 = nn.Sequential(Conv(c3, c4, 3, 2), CrossStage(c4, c4, u4))
        self.stage5 = nn.Sequential(Conv(c4, c5, 3, 2), CrossStage(c5, c5, u5), FastPyramidPooling(c5))
        self.lateral5, self.lateral4 = Conv(c5, c4), Conv(c4, c3)
        self.top4 = CrossStage(2 * c4, c4, u2, residual=False)
        self.top3 = CrossStage(2 * c3, c3, u2, residual=False)
        self.down3, self.down4 = Conv(c3, c3, 3, 2), Conv(c4, c4, 3, 2)
        self.bottom4 = CrossStage(2 * c3, c4, u2, residual=False)
        self.bottom5 = CrossStage(2 * c4, c5, u2, residual=False)
        self.heads = nn.ModuleList([nn.Conv2d(c, 3 * (5 + classes), 1) for c in (c3, c4, c5)])
        self.register_buffer("anchors", torch.tensor(ANCHORS, dtype=torch.float32), persistent=False)
        for head in self.heads:
            _start_low(head)

    anchors: Tensor

    def forward(self, film: Tensor) -> list[Tensor]:
        """Map (N, 1, H, W) films of -1..1, sides multiples of 32, to the heads' logits.

        Returns
        -------
        list of Tensor
            Per stride 8, 16, 32: shape (N, 3, rows, columns, 5 + classes), float32; of each anchor tx, ty, tw, th, log
            odds of an object, then of each class.
        """
        maps3 = self.stage3(self.stem(film))
        maps4 = self.stage4(maps3)
        side5 = self.lateral5(self.stage5(maps4))
        side4 = self.lateral4(self.top4(torch.cat([_twice(side5), maps4], dim=1)))
        out3 = self.top3(torch.cat([_twice(side4), maps3], dim=1))
        out4 = self.bottom4(torch.cat([self.down3(out3), side4], dim=1))
        out5 = self.bottom5(torch.cat([self.down4(out4), side5], dim=1))
        answers = [head(maps) for head, maps in zip(self.heads, (out3, out4, out5), strict=True)]
        return [one.float().unflatten(1, (3, 5 + self.classes)).permute(0, 1, 3, 4, 2) for one in answers]


def _twice(maps: Tensor) -> Tensor:
    return nn.functional.interpolate(maps, scale_factor=2.0, mode="nearest")


def _start_low(head: nn.Module) -> None:
    """Let objects start rare and classes alike, so that thousands of empty places do not drown the first steps."""
    assert isinstance(head, nn.Conv2d)
    assert head.bias is not None
    with torch.no_grad():
        of_anchor = head.bias.view(3, -1)
        of_anchor[:, 4] = -math.log(1 / _PRIOR - 1)
        of_anchor[:, 5:] = -math.log(max(of_anchor.shape[1] - 6, 1))


def place_boxes(steps: Tensor, cells: Tensor, anchors: Tensor) -> Tensor:
    """Turn a head's tx, ty, tw, th (..., 4) into boxes: centre x, y, width, height, in units of its stride.

    ``x = 2 s(tx) - 0.5 + column``, ``w = (2 s(tw))^2 anchor``, s the sigmoid: a box's centre reaches half a cell beyond
    its own, and it is up to four times its anchor.

    Parameters
    ----------
    steps
        Shape (..., 4).
    cells, anchors
        Shape (..., 2): column and row; width and height in units of the stride.
    """
    bounded = torch.sigmoid(steps)
    return torch.cat([2 * bounded[..., :2] - 0.5 + cells, (2 * bounded[..., 2:]) ** 2 * anchors], dim=-1)


def as_corners(boxes: Tensor) -> Tensor:
    """Turn boxes (..., 4) of centre, width and height into corners x0, y0, x1, y1."""
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)


def cells_of(rows: int, columns: int) -> Tensor:
    """Return the column and row of every cell of a map, shape (rows, columns, 2)."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([x, y], dim=-1).float()


def decode(answers: Sequence[Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Return all boxes in input pixels (N, M, 4) and their scores per class (N, M, classes), 0..1.

    Parameters
    ----------
    answers
        What :class:`RegionNet` gives.
    anchors
        Shape (3, 3, 2), input pixels.
    """
    boxes, scores = [], []
    for answer, own, stride in zip(answers, anchors, HEAD_STRIDES, strict=True):
        cells = cells_of(*answer.shape[2:4]).to(answer.device)
        placed = place_boxes(answer[..., :4], cells, (own / stride)[:, None, None])
        boxes.append(as_corners(placed * stride).flatten(1, 3))
        sure = torch.sigmoid(answer[..., 4:])
        scores.append((sure[..., :1] * sure[..., 1:]).flatten(1, 3))
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)


def find_candidates(boxes: Tensor, scores: Tensor, least: float = _LEAST_SCORE) -> Candidates:
    """Suppress what overlaps a better box of its class, and keep two of each class at most.

    Parameters
    ----------
    boxes, scores
        Of one film: (M, 4) and (M, classes).
    least
        Score from which on a box counts.
    """
    best, classes = scores.max(-1)
    best, order = best.topk(min(_CANDIDATES, len(best)))
    found = Candidates(boxes[order], best, classes[order]).kept(best >= least)
    if not len(found.boxes):
        return found
    found = found.kept(batched_nms(found.boxes, found.scores, found.classes, OVERLAP))
    same = found.classes[:, None] == found.classes[None]
    return found.kept(same.tril(-1).sum(1) < 2)


def choose_left_hand(found: Candidates) -> Candidates:
    """Return the regions of the left hand, each class once (see the module for the rule)."""
    line = _line_between(found)
    if line is None:
        return _best_of_each(found)
    middles = (found.boxes[:, 0] + found.boxes[:, 2]) / 2
    sides = [_best_of_each(found.kept(middles < line)), _best_of_each(found.kept(middles >= line))]
    left = [side for side in sides if _thumb_is_right(side)]
    return left[0] if len(left) == 1 else sides[0]


def _best_of_each(found: Candidates) -> Candidates:
    same = found.classes[:, None] == found.classes[None]
    return found.kept(~same.tril(-1).any(1))


def _line_between(found: Candidates) -> float | None:
    """Return the column between two hands, None where the film shows one."""
    middles = (found.boxes[:, 0] + found.boxes[:, 2]) / 2
    classes = set(found.classes.tolist())
    pairs = [middles[found.classes == one] for one in classes if (found.classes == one).sum() == 2]
    if 2 * len(pairs) < len(classes) or not pairs:
        return None
    between = torch.stack([pair.mean() for pair in pairs])
    apart = torch.stack([(pair[0] - pair[1]).abs() for pair in pairs])
    own = float((found.boxes[:, 2] - found.boxes[:, 0]).median())
    return float(between.median()) if float(apart.median()) > own else None


def _thumb_is_right(hand: Candidates) -> bool:
    at = {int(name): float(box[0] + box[2]) for name, box in zip(hand.classes, hand.boxes, strict=True)}
    return _THUMB in at and _LITTLE_FINGER in at and at[_THUMB] > at[_LITTLE_FINGER]


class Regions(NamedTuple):
    """One hand per film: boxes (N, 18, 4) in input pixels, scores (N, 18), 0 where a region was not found."""

    boxes: Tensor
    scores: Tensor


def locate_regions(net: RegionNet, film: Tensor) -> Regions:
    """Find the left hand's regions in films (N, 1, side, side) of -1..1."""
    boxes, scores = decode(net(film), net.anchors)
    places = boxes.new_zeros(len(film), net.classes, 4)
    sure = boxes.new_zeros(len(film), net.classes)
    for row, (own, likely) in enumerate(zip(boxes, scores, strict=True)):
        hand = choose_left_hand(find_candidates(own, likely))
        places[row, hand.classes], sure[row, hand.classes] = hand.boxes, hand.scores
    return Regions(places, sure)


def locate_in_square(net: RegionNet, film: Tensor, side: int) -> Regions:
    """Find the left hand's regions in square films (N, 1, S, S), in their pixels; the net sees them at ``side``."""
    small = nn.functional.interpolate(film, size=(side, side), mode="bilinear", antialias=True)
    found = locate_regions(net, small)
    return Regions(found.boxes * (film.shape[-1] / side), found.scores)


def hand_bounds(found: Regions, side: int, margin: float = HAND_MARGIN) -> Tensor:
    """Return what each film's regions span, ``margin`` pixels more, within its side: (N, 4).

    All of the film where nothing was found.
    """
    known = (found.scores > 0)[..., None]
    low = found.boxes[..., :2].masked_fill(~known, torch.inf).amin(1) - margin
    high = found.boxes[..., 2:].masked_fill(~known, -torch.inf).amax(1) + margin
    bounds = torch.cat([low, high], dim=-1).clamp(0, side)
    return torch.where(known.any(1), bounds, bounds.new_tensor([0, 0, side, side]))
