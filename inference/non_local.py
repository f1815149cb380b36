"""Self-attention over places and over channels of a map, each added to what it was given (Liu et al. 2024, Figure 4).

Non-local blocks after Wang et al. (CVPR 2018): every output is a weighted sum of all inputs, eq. (1) of Liu et al.::

    h_i = sum_j f(x_i, x_j) g(x_j) / sum_j f(x_i, x_j)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _shares(queries: Tensor, keys: Tensor) -> Tensor:
    """Return ``exp(queries @ keys)`` with every row scaled to sum 1, float32 throughout."""
    with torch.autocast(queries.device.type, enabled=False):  # sums over whole maps outgrow half precision
        return torch.softmax(queries.float() @ keys.float(), dim=-1)


class SpatialAttention(nn.Module):
    """Relations between any two places, embedded Gaussian: ``f = exp(theta(x_i)^T phi(x_j))``, eq. (2).

    theta, phi and g are 1 x 1 convolutions to half the channels; phi and g see the map max-pooled by two, which makes
    the table of relations four times smaller; a 1 x 1 convolution leads back to all channels and is added to the map.
    That one's batch normalisation starts at zero (Wang et al., section 4), so a block plugged into a trained network
    changes nothing at first.

    Parameters
    ----------
    channels
        Of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.pool = nn.MaxPool2d(2)
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def relations(self, maps: Tensor) -> Tensor:
        """Return the weights of every place's sum, shape (N, H * W, H * W / 4); each row sums to 1."""
        return _shares(self.theta(maps).flatten(2).transpose(1, 2), self.phi(self.pool(maps)).flatten(2))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape (N, channels, H, W)."""
        values = self.g(self.pool(maps)).flatten(2)
        summed = values @ self.relations(maps).to(values.dtype).transpose(1, 2)
        blended: Tensor = self.norm(self.out(summed.reshape(len(maps), -1, *maps.shape[2:])))
        return maps + blended


class ChannelAttention(nn.Module):
    """Complements between channels: ``f = exp(-x_i^T x_j)``, x_i being a channel's whole map, eq. (3).

    The less two channels have in common, the more one is added to the other. The equation has no layer to learn; here g
    is the identity, and the sum joins the map with a learned weight that starts at zero, as in Fu et al., Dual
    Attention Network (CVPR 2019).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    @staticmethod
    def relations(maps: Tensor) -> Tensor:
        """Return the weights of every channel's sum, shape (N, channels, channels); each row sums to 1."""
        rows = maps.flatten(2)
        return _shares(-rows, rows.transpose(1, 2))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape (N, channels, H, W)."""
        summed = self.relations(maps).to(maps.dtype) @ maps.flatten(2)
        return maps + self.weight * summed.reshape(maps.shape)
