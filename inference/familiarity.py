"""How far a hand lies from the hands a network was trained on: casts, metal plates, artefacts that no rule foresees.

PaDiM (Defard et al., ICPR workshops 2021): at each place of a pretrained network's feature map the features of ordinary
pictures are described by a Gaussian, and a picture is as strange as it is far from them (Mahalanobis). Hands lie
upright and in one place before a network looks, as that method needs it. Here the map, a sixteenth of the crop's
resolution, is averaged over GRID, since textures count and not their exact places, and the distances are averaged over
the places: a ring or a marker makes one cell strange, a cast makes many.

``python -m training.familiarity`` fits it; nothing but films that weights were trained on is used, and no picture with
a cast. The limit is what QUANTILE of such films, each measured against the others' half, stay below.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GRID = (8, 6)
"""Places, rows and columns."""
DIMENSIONS = 24
"""So many random projections of the channels; the paper has 100 of 448, with the same result here."""
QUANTILE = 0.99
FILE = "familiarity.safetensors"
"""In a method's bundle, beside the network's own weights."""


class Familiarity(nn.Module):
    """Mean and precision of the projected features at each place, and the limit.

    Parameters
    ----------
    channels
        Of the map it looks at.
    """

    projection: Tensor
    mean: Tensor
    root: Tensor
    limit: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        places = GRID[0] * GRID[1]
        self.register_buffer("projection", torch.zeros(channels, DIMENSIONS))
        self.register_buffer("mean", torch.zeros(places, DIMENSIONS))
        self.register_buffer("root", torch.zeros(places, DIMENSIONS, DIMENSIONS))
        self.register_buffer("limit", torch.ones(1))

    def forward(self, maps: Tensor) -> Tensor:
        """Map features (N, channels, H, W) to distances (N,): above 1 is beyond the limit."""
        centred = self.features(maps) - self.mean
        return torch.einsum("npi,pij->npj", centred, self.root).square().mean((1, 2)) / self.limit

    def features(self, maps: Tensor) -> Tensor:
        """Return projected features (N, places, DIMENSIONS) of maps (N, channels, H, W)."""
        cells = nn.functional.adaptive_avg_pool2d(maps, GRID).flatten(2).transpose(1, 2)
        return cells @ self.projection
