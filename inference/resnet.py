"""Residual networks as a row of stages, so that methods can work between them (He et al., CVPR 2016).

The layers are MONAI's, which are the original's: stage 1 is the stem (7 x 7 convolution, pooling), stages 2 to 5 are
the four blocks conv2_x to conv5_x of the paper's Table 1. Films are grey, so the first convolution takes one channel.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

STRIDES = (4, 4, 8, 16, 32)
"""Input pixels per pixel of the five stages' outputs."""

_LAYERS = {18: ("basic", (2, 2, 2, 2), 1), 50: ("bottleneck", (3, 4, 6, 3), 4)}
"""Per depth: kind of residual unit, units per block, factor on the channels that a unit gives out."""


class ResNetStages(nn.Module):
    """A residual network without its classifier.

    Parameters
    ----------
    depth
        18 or 50 layers.
    width
        Factor on the channels of every convolution; 1.0 is the paper's.
    """

    def __init__(self, depth: Literal[18, 50], width: float = 1.0) -> None:
        super().__init__()
        kind, units, expansion = _LAYERS[depth]
        planes = [max(8, round(width * c / 8) * 8) for c in (64, 128, 256, 512)]
        net = ResNet(
            kind,
            list(units),
            planes,
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_size=7,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        stem = nn.Sequential(net.conv1, net.bn1, net.act, net.maxpool)
        self.stages = nn.ModuleList([stem, net.layer1, net.layer2, net.layer3, net.layer4])
        self.channels = (planes[0], *(expansion * p for p in planes))
        """Channels of the five stages' outputs."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (N, 1, H, W) images of -1..1 to the five stages' outputs, each (N, channels, H / stride, W / stride)."""
        outputs = [image]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return outputs[1:]

    def load_imagenet(self, weights: dict[str, Tensor]) -> None:
        """Take weights under torchvision's names for three-channel images; the stem's colours are added up to one grey.

        Raises
        ------
        RuntimeError
            If the weights are of another depth, or this network is not of width 1.
        """
        places = {"conv1": "stages.0.0", "bn1": "stages.0.1"} | {f"layer{k}": f"stages.{k}" for k in range(1, 5)}
        own = {}
        for key, value in weights.items():
            head, _, rest = key.partition(".")
            if head in places:
                own[f"{places[head]}.{rest}"] = value.sum(1, keepdim=True) if key == "conv1.weight" else value
        self.load_state_dict(own)


def make_mlp(*sizes: int) -> nn.Sequential:
    """Return linear layers of these sizes, first to last, with ReLU between them."""
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def pool_average(maps: Tensor) -> Tensor:
    """Average maps (N, channels, H, W) over their area: (N, channels)."""
    return torch.flatten(nn.functional.adaptive_avg_pool2d(maps, 1), 1)
