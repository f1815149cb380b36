"""The region proposal network of Faster R-CNN (Ren, He, Girshick, Sun, NIPS 2015) and the geometry of its boxes.

Boxes are x0, y0, x1, y1 in continuous image pixels. All functions take whole batches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

_LARGEST_GROWTH = math.log(1000 / 16)
"""Sides grow by at most this logarithm, so that an untrained net's boxes stay finite."""


class Proposals(NamedTuple):
    """What a region proposal network says of A anchors in N images."""

    logits: Tensor
    """Shape (N, A): log odds that an anchor holds an object."""
    deltas: Tensor
    """Shape (N, A, 4): the objects' boxes as :func:`encode_boxes` writes them."""
    anchors: Tensor
    """Shape (A, 4)."""

    def boxes(self) -> Tensor:
        """Return the proposed boxes, shape (N, A, 4), cut off from the gradient as Ren et al. do."""
        return decode_boxes(self.deltas.detach(), self.anchors)


def make_anchors(rows: int, columns: int, stride: int, side: float) -> Tensor:
    """Return one square anchor in the middle of every pixel of a map, row by row: shape (rows * columns, 4)."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centres = (torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride
    return torch.cat([centres - side / 2, centres + side / 2], dim=1)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Write boxes (..., 4) relative to anchors (..., 4): shift in units of the anchor's sides, logarithm of the growth.

    Ren et al., eq. (2).
    """
    sides, own = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    shift = ((boxes[..., :2] + boxes[..., 2:]) - (anchors[..., :2] + anchors[..., 2:])) / 2 / own
    return torch.cat([shift, torch.log(sides / own)], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes (..., 4) that :func:`encode_boxes` wrote."""
    own = anchors[..., 2:] - anchors[..., :2]
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * own
    halves = own * deltas[..., 2:].clamp(max=_LARGEST_GROWTH).exp() / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)


def clip_boxes(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """Cut boxes (..., 4) off at an image's edges."""
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([columns, rows, columns, rows]))


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of boxes (..., A, 4) with boxes (..., B, 4): shape (..., A, B)."""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    return shared / (areas[0][..., :, None] + areas[1][..., None, :] - shared).clamp(min=1e-6)


def pick_best(boxes: Tensor, scores: Tensor, count: int, overlap: float) -> Tensor:
    """Return the places of the best ``count`` boxes that overlap none better by more than ``overlap``, best first.

    Greedy non-maximum suppression of a whole batch at once: boxes (N, A, 4), scores (N, A), the answer (N, count).
    Where fewer boxes are left than are asked for, the first box of all is named again.
    """
    left, picked = scores.clone().float(), []
    rows = torch.arange(len(boxes), device=boxes.device)
    for _ in range(count):
        best = left.argmax(1)
        picked.append(best)
        near = overlaps(boxes[rows, best][:, None], boxes)[:, 0] > overlap
        left = left.masked_fill(near, -torch.inf)
        left[rows, best] = -torch.inf
    return torch.stack(picked, dim=1)


class RegionProposalNet(nn.Module):
    """A 3 x 3 convolution, then per place whether an object is there and its box (Ren et al., section 3.1).

    Parameters
    ----------
    channels_in
        Channels of the map it slides over.
    channels
        Channels of its own layer: 512 in the paper.
    """

    def __init__(self, channels_in: int, channels: int = 512) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.score = nn.Conv2d(channels, 1, 1)
        self.box = nn.Conv2d(channels, 4, 1)
        for layer in (self.conv, self.score, self.box):
            nn.init.normal_(layer.weight, std=0.01)  # as the paper has it
            nn.init.zeros_(layer.bias if layer.bias is not None else torch.empty(0))

    def forward(self, maps: Tensor, stride: int, side: float) -> Proposals:
        """Return proposals for maps (N, channels, rows, columns) from one anchor of ``side`` pixels at each place."""
        hidden = torch.relu(self.conv(maps))
        anchors = make_anchors(maps.shape[-2], maps.shape[-1], stride, side).to(maps.device)
        deltas = self.box(hidden).permute(0, 2, 3, 1).flatten(1, 2)
        return Proposals(self.score(hidden).flatten(1).float(), deltas.float(), anchors)
