"""The jigsaw: an image cut into N x N equal tiles, shuffled (Noroozi and Favaro, ECCV 2016; here without the puzzle).

A network that sees the tiles in any order can use what lies inside a tile only, that is, detail of the tile's size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cut_tiles(images: Tensor, pieces: int) -> Tensor:
    """Return the tiles of images (N, channels, rows, columns), row by row: (N, pieces**2, channels, height, width).

    Raises
    ------
    ValueError
        If ``pieces`` does not divide rows and columns.
    """
    count, channels, rows, columns = images.shape
    if rows % pieces or columns % pieces:
        raise ValueError(f"An image of {rows} x {columns} pixels has no {pieces} x {pieces} equal tiles.")
    height, width = rows // pieces, columns // pieces
    tiles = images.reshape(count, channels, pieces, height, pieces, width).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(count, pieces**2, channels, height, width)


def join_tiles(tiles: Tensor) -> Tensor:
    """Put tiles together again, the inverse of :func:`cut_tiles`."""
    count, places, channels, height, width = tiles.shape
    pieces = round(places**0.5)
    grid = tiles.reshape(count, pieces, pieces, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(count, channels, pieces * height, pieces * width)


def jigsaw(images: Tensor, pieces: int) -> Tensor:
    """Shuffle ``pieces`` x ``pieces`` tiles of images (N, channels, rows, columns), each image in an order of its own.

    The order comes from torch's generator; one piece is the image itself.
    """
    if pieces == 1:
        return images
    tiles = cut_tiles(images, pieces)
    order = torch.rand(tiles.shape[:2], device=images.device).argsort(1)
    return join_tiles(tiles[torch.arange(len(tiles), device=images.device)[:, None], order])
