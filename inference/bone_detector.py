"""Stage 2 of Jia et al. 2022: 13 regions by a recursive feature pyramid, proposals and a cascade of three heads.

Cascade R-CNN: Cai and Vasconcelos, CVPR 2018: each head refines the boxes of the one before and is trained at a higher
overlap (0.5, 0.6, 0.7; the losses are in ``training.cascade``).

Decisions where the paper is silent: one square anchor per place of each of the pyramid's four maps, eight times its
stride; the 128 best proposals of an image; while training, heads learn from all of these and the true boxes, none being
drawn at random to balance bones and background (Faster R-CNN draws 512); boxes are refined for all bones alike; a box's
score is the mean of the three heads'; of each bone the best box is the region, since a hand has each bone once.

Boxes are x0, y0, x1, y1 in film pixels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from inference.maturity import BONES
from inference.proposals import RegionProposalNet, clip_boxes, decode_boxes, pick_best
from inference.recursive_pyramid import LEVEL_STRIDES, RecursivePyramid
from inference.roi_align import roi_align

HEAD_OVERLAPS = (0.5, 0.6, 0.7)
"""Overlap from which on a proposal counts as a bone, for each head."""
CLASSES = BONES + 1
"""The bones of RUS_NAMES, then background."""
_SPREADS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
"""Sizes of the steps that the heads' outputs are measured in: the boxes they start from grow better."""
_ANCHOR_STRIDES = 8
_PROPOSALS, _CANDIDATES, _PROPOSAL_OVERLAP = 128, 1000, 0.7
_POOLED = 7
_FINEST_SIDE = 56
"""Boxes of less than twice this side are read from the finest map, each next map takes boxes twice as large."""


class HeadAnswer(NamedTuple):
    """What one head of the cascade says of R boxes in N films."""

    given: Tensor
    """Shape (N, R, 4): the boxes it started from."""
    logits: Tensor
    """Shape (N, R, 14)."""
    boxes: Tensor
    """Shape (N, R, 4): refined."""


class Detection(NamedTuple):
    """What the detector says of N films: A anchors, then R boxes per head."""

    anchor_logits: Tensor
    """Shape (N, A): log odds that an anchor holds a bone."""
    anchor_boxes: Tensor
    """Shape (N, A, 4): the boxes they propose."""
    anchors: Tensor
    """Shape (A, 4)."""
    heads: tuple[HeadAnswer, ...]
    """One per overlap of HEAD_OVERLAPS."""


class BoxHead(nn.Module):
    """Two dense layers on a box's 7 x 7 features, then its class and how to refine it."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * _POOLED**2, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
        )
        self.score = nn.Linear(hidden, CLASSES)
        self.box = nn.Linear(hidden, 4)
        nn.init.normal_(self.box.weight, std=0.001)
        nn.init.zeros_(self.box.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, R, channels, 7, 7) to logits (N, R, 14) and steps (N, R, 4)."""
        shape = pooled.shape[:2]
        hidden = self.dense(pooled.flatten(0, 1))
        return self.score(hidden).float().unflatten(0, shape), self.box(hidden).float().unflatten(0, shape)


class BoneDetector(nn.Module):
    """Find 13 bones in films.

    Parameters
    ----------
    depth
        Of the ResNet: 50 or 18 layers.
    width
        Factor on all channels; 1.0 is the papers': 256 in the pyramid, 1,024 units in the heads.
    """

    def __init__(self, depth: Literal[18, 50] = 50, width: float = 1.0) -> None:
        super().__init__()
        channels, hidden = (max(16, round(width * c / 8) * 8) for c in (256, 1024))
        self.pyramid = RecursivePyramid(depth, width, channels)
        self.proposals = RegionProposalNet(channels, channels)
        self.heads = nn.ModuleList([BoxHead(channels, hidden) for _ in HEAD_OVERLAPS])
        self.register_buffer("spreads", torch.tensor(_SPREADS), persistent=False)

    spreads: Tensor

    def forward(self, film: Tensor, known: Tensor | None = None) -> Detection:
        """Return anchors, proposals and refined boxes.

        Parameters
        ----------
        film
            Shape (N, 1, rows, columns), float32 of -1..1.
        known
            Shape (N, K, 4): true boxes, which join the proposals in training.
        """
        maps = self.pyramid(film)
        looks = [
            self.proposals(one, stride, _ANCHOR_STRIDES * stride)
            for one, stride in zip(maps, LEVEL_STRIDES, strict=True)
        ]
        anchors = torch.cat([look.anchors for look in looks])
        logits = torch.cat([look.logits for look in looks], dim=1)
        proposed = decode_boxes(torch.cat([look.deltas for look in looks], dim=1), anchors)
        boxes = _choose(proposed.detach(), logits.detach(), film.shape[-2:])
        if known is not None:
            boxes = torch.cat([boxes, known], dim=1)
        return Detection(logits, proposed, anchors, self._refine(maps, boxes, film.shape[-2:]))

    def _refine(self, maps: list[Tensor], boxes: Tensor, extent: torch.Size) -> tuple[HeadAnswer, ...]:
        answers = []
        for head, spread in zip(self.heads, self.spreads, strict=True):
            logits, steps = head(pool_boxes(maps, boxes))
            refined = decode_boxes(steps * spread, boxes)
            answers.append(HeadAnswer(boxes, logits, refined))
            boxes = _valid(refined.detach(), extent)
        return tuple(answers)


def _valid(boxes: Tensor, extent: torch.Size) -> Tensor:
    """Clip boxes to the film and keep every side at least a pixel long."""
    clipped = clip_boxes(boxes, *extent)
    return torch.cat([clipped[..., :2], torch.maximum(clipped[..., 2:], clipped[..., :2] + 1)], dim=-1)


def _choose(boxes: Tensor, logits: Tensor, extent: torch.Size) -> Tensor:
    """Return the best proposals (N, 128, 4) of an image's, none overlapping a better one by more than 0.7."""
    boxes = _valid(boxes, extent)
    scores, order = logits.topk(min(_CANDIDATES, logits.shape[1]), dim=1)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    best = pick_best(boxes, scores, min(_PROPOSALS, boxes.shape[1]), _PROPOSAL_OVERLAP)
    return boxes.gather(1, best[..., None].expand(-1, -1, 4))


def pool_boxes(maps: list[Tensor], boxes: Tensor) -> Tensor:
    """Read each of the boxes (N, R, 4) from the map that suits its size: (N, R, channels, 7, 7)."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1).prod(-1).sqrt()
    levels = torch.floor(torch.log2(sides / _FINEST_SIDE)).clamp(0, len(maps) - 1)
    pooled = torch.zeros((), device=boxes.device)
    for level, (one, stride) in enumerate(zip(maps, LEVEL_STRIDES, strict=True)):
        chosen = (levels == level)[..., None, None, None]
        if chosen.any():
            pooled = pooled + roi_align(one, boxes, stride, _POOLED) * chosen
    return pooled


def best_boxes(found: Detection, side: int) -> tuple[Tensor, Tensor]:
    """Return each bone's best box (N, 13, 4), clipped to films of ``side`` pixels, and its score (N, 13) in 0..1."""
    scores = torch.stack([torch.softmax(head.logits, -1) for head in found.heads]).mean(0)[..., :BONES]
    best, place = scores.max(1)
    boxes = found.heads[-1].boxes.gather(1, place[..., None].expand(-1, -1, 4))
    return _valid(boxes, torch.Size((side, side))), best
