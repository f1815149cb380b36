"""The recursive feature pyramid with switchable atrous convolution (DetectoRS: Qiao, Chen, Yuille, CVPR 2021).

As Jia et al. 2022 use it for bones (section 3.2, Figure 3): a ResNet whose 3 x 3 convolutions are switchable, a feature
pyramid (Lin et al., CVPR 2017) on it, and the pyramid's maps fed back into the ResNet through atrous spatial pyramid
pooling (Chen et al. 2017), so that the network looks at the film twice.

Decisions where the papers leave a choice: both looks share all weights (the first look has no feedback); convolutions
are switchable in the ResNet's last three blocks, as in DetectoRS; batch normalisation is the ResNet's. Feedback is
added to the output of each block's first residual unit, after its last ReLU; in DetectoRS it joins the sum before that.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from inference.resnet import ResNetStages

LEVELS = 4
"""Maps of the pyramid, finest first."""
LEVEL_STRIDES = (4, 8, 16, 32)
"""Film pixels per pixel of each."""
LOOKS = 2
_FEEDBACK_CHANNELS = 64
_ATROUS_RATE = 3


class GlobalContext(nn.Module):
    """Add to every place of a map what a 1 x 1 convolution makes of its mean; starts by adding nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        _fill(self.conv, 0.0)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        added: Tensor = self.conv(maps.mean((-2, -1), keepdim=True))
        return maps + added


class SwitchableAtrousConv(nn.Module):
    """Eq. (1): S(x) Conv(x, w, 1) + (1 - S(x)) Conv(x, w + dw, r), between two global contexts.

    ``dw`` starts at zero and the switch S (5 x 5 mean, 1 x 1 convolution) at one: the convolution it replaces.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride = (conv.stride[0], conv.stride[1])
        self.weight = nn.Parameter(conv.weight.detach().clone())
        self.difference = nn.Parameter(torch.zeros_like(conv.weight))
        self.switch = nn.Conv2d(conv.in_channels, 1, 1)
        _fill(self.switch, 1.0)
        self.before, self.after = GlobalContext(conv.in_channels), GlobalContext(conv.out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, channels_in, H, W) to (N, channels_out, H / stride, W / stride)."""
        maps = self.before(maps)
        # The mean takes the stride: torch 2.13 corrupts memory in the backward pass of a strided 1 x 1 convolution to
        # one channel in channels-last format.
        padded = nn.functional.pad(maps, (2, 2, 2, 2), mode="replicate")
        around = nn.functional.avg_pool2d(padded, 5, stride=self.stride)
        switch = self.switch(around)
        near = nn.functional.conv2d(maps, self.weight, stride=self.stride, padding=1)
        wide = self.weight + self.difference
        far = nn.functional.conv2d(maps, wide, stride=self.stride, padding=_ATROUS_RATE, dilation=_ATROUS_RATE)
        out: Tensor = self.after(switch * near + (1 - switch) * far)
        return out


class AtrousPooling(nn.Module):
    """Atrous spatial pyramid pooling: 1 x 1, 3 x 3 at rates 3 and 6, and the mean, a quarter of the channels each."""

    def __init__(self, channels_in: int, channels_out: int = _FEEDBACK_CHANNELS) -> None:
        super().__init__()
        quarter = channels_out // 4
        self.near = nn.Conv2d(channels_in, quarter, 1)
        self.middle = nn.Conv2d(channels_in, quarter, 3, padding=3, dilation=3)
        self.far = nn.Conv2d(channels_in, quarter, 3, padding=6, dilation=6)
        self.mean = nn.Conv2d(channels_in, quarter, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, channels_in, H, W) to (N, channels_out, H, W), not negative."""
        mean = self.mean(maps.mean((-2, -1), keepdim=True)).expand(-1, -1, *maps.shape[-2:])
        return torch.relu(torch.cat([self.near(maps), self.middle(maps), self.far(maps), mean], dim=1))


class FeaturePyramid(nn.Module):
    """Lateral 1 x 1 convolutions, coarse maps added to finer ones, a 3 x 3 convolution on each (Lin et al. 2017)."""

    def __init__(self, channels_in: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(c, channels, 1) for c in channels_in])
        self.out = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in channels_in])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map maps of several channels, finest first, to as many of ``channels`` at the same resolutions."""
        summed = [lateral(one) for lateral, one in zip(self.lateral, maps, strict=True)]
        for level in range(len(summed) - 2, -1, -1):
            finer = summed[level].shape[-2:]
            summed[level] = summed[level] + nn.functional.interpolate(summed[level + 1], size=finer, mode="nearest")
        return [out(one) for out, one in zip(self.out, summed, strict=True)]


class RecursivePyramid(nn.Module):
    """A ResNet and its feature pyramid, looking twice.

    Parameters
    ----------
    depth, width
        Of :class:`inference.resnet.ResNetStages`.
    channels
        Channels of the pyramid's maps.
    """

    def __init__(self, depth: Literal[18, 50] = 50, width: float = 1.0, channels: int = 256) -> None:
        super().__init__()
        self.trunk = ResNetStages(depth, width)
        for block in list(self.trunk.stages)[2:]:
            _make_switchable(block)
        self.pyramid = FeaturePyramid(self.trunk.channels[1:], channels)
        self.pooling = AtrousPooling(channels)
        self.feedback = nn.ModuleList([nn.Conv2d(_FEEDBACK_CHANNELS, c, 1) for c in self.trunk.channels[1:]])
        for conv in self.feedback:
            _fill(conv, 0.0)
        self.fusion = nn.Conv2d(channels, 1, 1)
        _fill(self.fusion, 0.0)

    def forward(self, film: Tensor) -> list[Tensor]:
        """Map films (N, 1, H, W) of -1..1 to four maps (N, channels, H / stride, W / stride), finest first."""
        maps = self._look(film, None)
        for _ in range(LOOKS - 1):
            again = self._look(film, [self.pooling(one) for one in maps])
            maps = [self._fuse(old, new) for old, new in zip(maps, again, strict=True)]
        return maps

    def _look(self, film: Tensor, feedback: list[Tensor] | None) -> list[Tensor]:
        stem, *blocks = self.trunk.stages.children()
        maps, found = stem(film), []
        for level, block in enumerate(blocks):
            first, *others = block.children()
            maps = first(maps)
            if feedback is not None:
                maps = maps + self.feedback[level](feedback[level])
            for unit in others:
                maps = unit(maps)
            found.append(maps)
        looked: list[Tensor] = self.pyramid(found)
        return looked

    def _fuse(self, old: Tensor, new: Tensor) -> Tensor:
        """Mix two looks, place by place, by a share that is learned from the new one."""
        share = torch.sigmoid(self.fusion(new))
        return share * new + (1 - share) * old


def _make_switchable(block: nn.Module) -> None:
    """Replace every 3 x 3 convolution of a ResNet's block."""
    for unit in block.children():
        for name, conv in list(unit.named_children()):
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                setattr(unit, name, SwitchableAtrousConv(conv))


def _fill(conv: nn.Module, bias: float) -> None:
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    nn.init.constant_(conv.bias, bias)
