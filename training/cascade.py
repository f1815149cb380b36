"""Losses of precise-baa's localiser: palm mask, anchors and the heads of the cascade (Jia et al. 2022, section 4).

Boxes are trained by GIoU (Rezatofighi et al., CVPR 2019), which the paper names; anchors are matched as Faster R-CNN
does (``training.proposals``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inference.bone_detector import HEAD_OVERLAPS, Detection, HeadAnswer
from inference.maturity import BONES
from inference.proposals import overlaps
from training.proposals import match_anchors

HEAD_WEIGHTS = (1.0, 0.5, 0.25)
"""Weights of the three heads' losses (Cai and Vasconcelos's implementation)."""


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return GIoU of boxes (..., 4) with as many others, -1..1 (Rezatofighi et al., Algorithm 1).

    Intersection over union, less the share of the smallest box around both that neither fills.
    """
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    joined = sum((boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1) for boxes in (first, second)) - shared
    around = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    hull = around.prod(-1).clamp(min=1e-6)
    union: Tensor = joined.clamp(min=1e-6)
    return shared / union - (hull - union) / hull


def match_boxes(given: Tensor, true: Tensor, overlap: float) -> tuple[Tensor, Tensor]:
    """Say which of 13 bones each given box holds: classes (N, R), 13 for none, and its true box (N, R, 4).

    Parameters
    ----------
    given, true
        Shape (N, R, 4) and (N, 13, 4).
    overlap
        Intersection over union from which on a box holds the bone it overlaps most.
    """
    most, place = overlaps(given, true).max(-1)
    classes = torch.where(most >= overlap, place, BONES)
    return classes, true.gather(1, place[..., None].expand(-1, -1, 4))


def head_loss(answer: HeadAnswer, true: Tensor, overlap: float) -> Tensor:
    """Cross entropy of the classes, and one minus GIoU of the boxes that hold a bone, both means.

    All proposals count, whatever they hold: none are drawn at random, as Faster R-CNN does to balance bones and
    background, since 128 proposals of a hand with 13 bones hold enough of both.
    """
    classes, wanted = match_boxes(answer.given, true, overlap)
    entropy = nn.functional.cross_entropy(answer.logits.flatten(0, 1), classes.flatten())
    holds = classes < BONES
    distance = (1 - generalised_iou(answer.boxes, wanted)) * holds
    return entropy + distance.sum() / holds.sum().clamp(min=1)


def anchor_loss(found: Detection, true: Tensor) -> Tensor:
    """Cross entropy of anchors with and without a bone, weighing the same in all, and one minus GIoU of the former.

    There are thousands of anchors and 13 bones, so that a plain mean would hardly see the bones; the mean over each
    kind stands in for Faster R-CNN's drawing of as many of either.
    """
    labels, place = match_anchors(found.anchors, true)
    entropy = nn.functional.binary_cross_entropy_with_logits(
        found.anchor_logits, (labels > 0).float(), reduction="none"
    )
    means = [entropy[labels == kind].sum() / (labels == kind).sum().clamp(min=1) for kind in (0, 1)]
    wanted = true.gather(1, place[..., None].expand(-1, -1, 4))
    distance = 1 - generalised_iou(found.anchor_boxes[labels == 1], wanted[labels == 1])
    return (means[0] + means[1]) / 2 + distance.sum() / (labels == 1).sum().clamp(min=1)


def detector_loss(found: Detection, true: Tensor) -> Tensor:
    """Add up the proposals' loss and those of the heads, each at its own overlap."""
    heads = zip(HEAD_WEIGHTS, found.heads, HEAD_OVERLAPS, strict=True)
    weighed = torch.stack([weight * head_loss(answer, true, overlap) for weight, answer, overlap in heads])
    return anchor_loss(found, true) + weighed.sum()


def palm_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean cross entropy of the pixels."""
    return nn.functional.binary_cross_entropy_with_logits(logits, mask)
