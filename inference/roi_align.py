"""RoIAlign by ``grid_sample``: features of a box, read between the pixels of a map (He et al., Mask R-CNN, 2017).

Coordinates are continuous image pixels, the first pixel's middle at 0.5; no coordinate is rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample


def roi_align(maps: Tensor, boxes: Tensor, stride: int, side: int = 7, samples: int = 2) -> Tensor:
    """Return each box's features on a regular grid of bins.

    Parameters
    ----------
    maps
        Shape (N, channels, rows, columns).
    boxes
        Shape (N, R, 4): x0, y0, x1, y1 in image pixels; what lies beyond the map has the value of its edge.
    stride
        Image pixels per pixel of the maps.
    side
        Bins per side.
    samples
        Bilinear samples per bin and axis, evenly spaced; a bin's value is their mean.

    Returns
    -------
    Tensor
        Shape (N, R, channels, side, side), float32.
    """
    count, channels, rows, columns = maps.shape
    regions, ticks = boxes.shape[1], side * samples
    places = (torch.arange(ticks, device=boxes.device, dtype=torch.float32) + 0.5) / ticks
    corners, extents = boxes[..., None, :2].float(), (boxes[..., 2:] - boxes[..., :2])[..., None, :].float()
    points = corners + extents * places[:, None]  # (N, R, ticks, 2): x and y of the samples' columns and rows
    x, y = (points / torch.tensor([columns * stride, rows * stride], device=boxes.device) * 2 - 1).unbind(-1)
    shape = (count, regions, ticks, ticks)
    grid = torch.stack([x[:, :, None, :].expand(shape), y[:, :, :, None].expand(shape)], dim=-1)
    sampled = grid_sample(
        maps.float(), grid.reshape(count, regions * ticks, ticks, 2), padding_mode="border", align_corners=False
    )
    pooled = avg_pool2d(sampled, samples).reshape(count, channels, regions, side, side)
    return pooled.transpose(1, 2)


def grow_to_squares(boxes: Tensor) -> Tensor:
    """Grow boxes (..., 4) to squares around their middles, at least two pixels wide."""
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    halves = (boxes[..., 2:] - boxes[..., :2]).amax(-1, keepdim=True).clamp(min=2) / 2
    return torch.cat([middles - halves, middles + halves], dim=-1)
