"""What a region proposal network learns from: which anchors are objects, and the loss (Ren et al., NIPS 2015)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from inference.proposals import encode_boxes, overlaps

POSITIVE, NEGATIVE = 0.7, 0.3
"""Overlap from which on an anchor is an object, and below which it is none; between them it counts as neither."""


def match_anchors(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Say what each of A anchors is to the true boxes (N, R, 4): labels (N, A) and places among the R boxes (N, A).

    Labels are 1 (object), 0 (none) and -1 (neither), by section 3.1.2: an object is an anchor that overlaps a box by
    0.7 or more, and of each box the anchor that overlaps it most, which then belongs to that box (if to two, to the one
    it overlaps more).
    """
    shared = overlaps(anchors.expand(len(boxes), -1, -1), boxes)  # (N, A, R)
    most, place = shared.max(-1)
    labels = torch.where(most >= POSITIVE, 1, torch.where(most < NEGATIVE, 0, -1))
    best, anchor = shared.max(1)  # of each box
    nearest = torch.zeros_like(shared).scatter_(1, anchor[:, None], best[:, None])  # 0 unless nearest to some box
    claim, claimant = nearest.max(-1)
    return torch.where(claim > 0, 1, labels), torch.where(claim > 0, claimant, place)


def proposal_loss(logits: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Cross entropy of object or none, and smooth L1 of the objects' boxes: Ren et al., eq. (1).

    Both sums are divided by the number of anchors with a label, with which lambda is 1 (the paper divides by 256 and
    about 2,400 and balances with lambda = 10, to the same effect). All of an image's anchors take part: there are fewer
    than the 256 that the paper draws.

    Parameters
    ----------
    logits, deltas
        Shape (N, A) and (N, A, 4), as ``inference.proposals.Proposals`` has them.
    anchors
        Shape (A, 4).
    boxes
        Shape (N, R, 4), the true ones.
    """
    labels, place = match_anchors(anchors, boxes)
    count = (labels >= 0).sum()
    entropy = binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")[labels >= 0].sum()
    matched = boxes.gather(1, place[..., None].expand(-1, -1, 4))
    wanted = encode_boxes(matched, anchors)
    distance = smooth_l1_loss(deltas[labels == 1], wanted[labels == 1], reduction="sum")
    return (entropy + distance) / count
