"""Weights in few bits: whole numbers, and a scale for each slice of the first axis (an output channel).

A weight ``w`` is stored as the tensor ``w`` of whole numbers and ``w.eight_bit_scale`` or ``w.six_bit_scale``, float32,
one a channel; their product is the weight. Numbers of 8 bits are int8 in the weight's shape. Of 6 bits, -31 to 31, four
lie in three bytes, raised by 32, the first in the lowest bits; ``w.six_bit_shape`` is the weight's shape; zeros fill
the last three bytes. Such files are whole safetensors that any reader opens; ``unpack`` restores the weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EIGHT, SIX = 8, 6
"""The bits that numbers can be stored in."""
_SCALE = {EIGHT: ".eight_bit_scale", SIX: ".six_bit_scale"}
_SHAPE = ".six_bit_shape"
_CLIPS = 25
"""Scales that are tried for a channel of 6 bits, from 0.4 of its largest number up to it."""


def pack(name: str, weight: Tensor, bits: int) -> dict[str, Tensor]:
    """Return what a file holds of a weight in 8 or 6 bits, by name.

    In 8 bits a channel's largest number becomes 127. In 6 bits, large numbers are cut where that makes the channel's
    mean squared error the least: steps are so wide that a single large number would cost all others more.

    Parameters
    ----------
    name
        The weight's.
    weight
        Floating point, of two axes or more.
    bits
        8 or 6.
    """
    import torch

    largest = 2 ** (bits - 1) - 1
    flat = weight.float().flatten(1)
    scale = flat.abs().amax(1, keepdim=True).clamp(min=1e-12) / largest
    if bits == SIX:
        scale = _least_error(flat, scale, largest)
    whole = (flat / scale).round().clamp(-largest, largest)
    if bits == EIGHT:
        return {name: whole.to(torch.int8).view_as(weight), name + _SCALE[EIGHT]: scale[:, 0]}
    return {name: _pack_six(whole), name + _SCALE[SIX]: scale[:, 0], name + _SHAPE: torch.tensor(weight.shape)}


def _least_error(flat: Tensor, widest: Tensor, largest: int) -> Tensor:
    """Return the scale of each row that leaves the least squared error, among parts of the widest."""
    import torch

    best, least = widest, torch.full_like(widest, math.inf)
    for part in torch.linspace(0.4, 1.0, _CLIPS):
        scale = widest * part
        error = ((flat / scale).round().clamp(-largest, largest) * scale - flat).square().sum(1, keepdim=True)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _pack_six(whole: Tensor) -> Tensor:
    import torch

    raised = (whole.flatten() + 32).to(torch.uint8)
    padded = torch.nn.functional.pad(raised, (0, -len(raised) % 4))
    first, second, third, fourth = padded.view(-1, 4).unbind(1)
    return torch.stack(
        [first | (second & 3) << 6, second >> 2 | (third & 15) << 4, third >> 4 | fourth << 2], 1
    ).flatten()


def _unpack_six(packed: Tensor, shape: list[int]) -> Tensor:
    import torch

    low, middle, high = packed.view(-1, 3).unbind(1)
    raised = torch.stack([low & 63, low >> 6 | (middle & 15) << 2, middle >> 4 | (high & 3) << 4, high >> 2], 1)
    return raised.flatten()[: math.prod(shape)].view(shape).float() - 32


def unpack(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file as float32, and what is no floating point as it is."""
    scales = {bits: {key.removesuffix(end): key for key in stored if key.endswith(end)} for bits, end in _SCALE.items()}
    shapes = {name: name + _SHAPE for name in scales[SIX]}
    of_others = {*scales[EIGHT].values(), *scales[SIX].values(), *shapes.values()}
    weights = {}
    for key, value in stored.items():
        if key in of_others:
            continue
        if key in scales[SIX]:
            weights[key] = _scaled(_unpack_six(value, stored[shapes[key]].tolist()), stored[scales[SIX][key]])
        elif key in scales[EIGHT]:
            weights[key] = _scaled(value.float(), stored[scales[EIGHT][key]])
        else:
            weights[key] = value.float() if value.is_floating_point() else value
    return weights


def _scaled(whole: Tensor, scale: Tensor) -> Tensor:
    return whole * scale.view(-1, *[1] * (whole.ndim - 1))
