"""Whole hands changed at random as films differ and fail in practice, in batches made on the device that trains.

Light that falls off, scatter, few grey values, edge enhancement, lines over the hand, a squash, perspective: what a
film has before its grey values are equalised is put there, what a network must not lean on (sharpness, grain, one
spot) after it. ``training.ages`` changes films one by one on the CPU, which a GPU soon waits for; here a batch is a
few tensor operations. A recipe asks for it by ``augmentation = "faults"``; only ``house`` reads one crop of the hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import is_

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inference.detector import crop_upright
from inference.house import HouseMethod
from inference.preparation import HAND_WINDOW, MOST_FLAT_SHARE
from training.ages import (
    BLUR,
    BLURRED,
    COVER,
    COVERED,
    GAMMA,
    GROWTH,
    MIRRORED,
    NOISE,
    NOISY,
    SHIFT,
    STRETCH,
    TURN_DEG,
    VEIL,
    VEILED,
    AgeBatch,
    LocatedFilm,
    Pool,
    males,
)

_REACH = 0.10
"""So much more than the hand's window a canvas shows on each side, in template units; beyond it the edge goes on."""
_DENSITY = 2.0
"""Pixels of a canvas for each of the crop's, along each axis: a crop is sampled from it a second time."""
_LARGEST_BLUR = 0.012
"""Standard deviation as a share of the crop's height: what edges are enhanced by."""


_REACHED = (HAND_WINDOW[0] - _REACH, HAND_WINDOW[1] - _REACH, HAND_WINDOW[2] + _REACH, HAND_WINDOW[3] + _REACH)
"""What a canvas shows, in template units."""


class CutHands:
    """The hands that were cut out last, for whoever asks for the same: training does, once its pace was measured.

    Only these are kept, since they fill gigabytes of the device.
    """

    def __init__(self) -> None:
        self._films: list[LocatedFilm] = []
        self._asked: tuple[tuple[int, int], torch.device] | None = None
        self._canvases: Tensor | None = None

    def cut(self, films: Sequence[LocatedFilm], extent: tuple[int, int], device: torch.device) -> Tensor:
        """Return the canvases of films (N, rows, columns), uint8; ``extent`` is that of the crops, columns and rows."""
        same = len(films) == len(self._films) and all(map(is_, films, self._films))
        if self._canvases is None or not same or self._asked != (extent, device):
            self._canvases = None  # before others take its room
            self._films, self._asked = list(films), (extent, device)
            self._canvases = _cut(films, extent).to(device)
        return self._canvases


def _cut(films: Sequence[LocatedFilm], extent: tuple[int, int]) -> Tensor:
    x0, y0, x1, y1 = HAND_WINDOW
    wide, high = 1 + 2 * _REACH / (x1 - x0), 1 + 2 * _REACH / (y1 - y0)
    size = (round(extent[0] * wide * _DENSITY), round(extent[1] * high * _DENSITY))
    canvases = torch.empty((len(films), size[1], size[0]), dtype=torch.uint8)  # gigabytes: held once

    def cut(place: int, film: LocatedFilm) -> None:
        canvases[place] = torch.from_numpy(crop_upright(film.pixels, film.pose, size, _REACHED))

    with ThreadPoolExecutor() as threads:  # OpenCV lets go of Python's lock
        list(threads.map(cut, range(len(films)), films))
    return canvases


@dataclass(frozen=True, slots=True, eq=False)
class HandStore:
    """Films on a device: the hand upright, as a left hand, with a margin."""

    canvases: Tensor  # (N, rows, columns), uint8
    window: tuple[float, float, float, float]  # what they show, in template units
    age_months: Tensor  # (N,), float32
    male: Tensor  # (N,), +1 or -1, float32
    probabilities: Tensor  # (N,), that a film is drawn

    @staticmethod
    def make(pools: Sequence[Pool], extent: tuple[int, int], device: torch.device, kept: CutHands) -> HandStore:
        """Cut the hands out of the films of pools, or take those that are kept; ``extent`` is that of the crops."""
        films = [film for pool in pools for film in pool.films]
        shares = np.array([pool.share for pool in pools]) / sum(pool.share for pool in pools)
        probabilities = np.concatenate([share * pool.probabilities for share, pool in zip(shares, pools, strict=True)])
        return HandStore(
            kept.cut(films, extent, device),
            _REACHED,
            torch.tensor([film.reading.age_months for film in films], dtype=torch.float32, device=device),
            males(films).to(device),
            torch.from_numpy(probabilities).float().to(device),
        )


class FaultyHands:
    """Draws batches of changed hands; the same seed draws the same on one device.

    Parameters
    ----------
    pools
        What is drawn from.
    method
        Whose crop is made, of its first network.
    size
        Hands of a batch.
    device
        Where films are kept and batches made.
    softness
        Ages move by up to so many months.
    kept
        Where hands that are cut out already are found, and where they are kept.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        method: HouseMethod,
        size: int,
        device: torch.device,
        *,
        softness: float,
        kept: CutHands,
    ) -> None:
        self.store = HandStore.make(pools, (method.columns, method.rows), device, kept)
        self.rows, self.columns, self.equalise = method.rows, method.columns, method.equalise
        self.size, self.device, self.softness = size, device, softness

    @torch.no_grad()
    def __call__(self, seed: int) -> AgeBatch:
        """Return a batch; ``centres`` are left out, since no ROI plays a part."""
        dice = Dice(self.size, self.device, seed)
        store = self.store
        chosen = torch.multinomial(store.probabilities, self.size, replacement=True, generator=dice.generator)
        hands = sample(store.canvases[chosen], moved_grid((self.rows, self.columns), dice), store.window)
        hands = _film_faults(hands, dice)
        hands = equalised(hands) if self.equalise else hands / 255
        hands = _network_faults(hands, dice)
        ages = store.age_months[chosen] + self.softness * dice.uniform(-1, 1)
        return AgeBatch((hands[:, None],), store.male[chosen], ages)


class Dice:
    """Random numbers for the hands of a batch, on its device."""

    def __init__(self, size: int, device: torch.device, seed: int) -> None:
        self.size, self.device = size, device
        self.generator = torch.Generator(device).manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return evenly drawn numbers, shape (size, *shape)."""
        drawn = torch.rand((self.size, *shape), generator=self.generator, device=self.device)
        return low + (high - low) * drawn

    def normal(self, spread: float, *shape: int) -> Tensor:
        """Return normally drawn numbers, shape (size, *shape)."""
        return spread * torch.randn((self.size, *shape), generator=self.generator, device=self.device)

    def some(self, share: float) -> Tensor:
        """Return 1 for about this share of the hands, 0 for the others, shape (size,)."""
        return (self.uniform(0, 1) < share).float()

    def strength(self, share: float, low: float, high: float) -> Tensor:
        """Return how much of a fault each hand has, shape (size, 1, 1): none, but for this share of them."""
        return (self.some(share) * self.uniform(low, high))[:, None, None]


def plain_grid(extent: tuple[int, int], device: torch.device) -> Tensor:
    """Return where the pixels of a crop of ``extent`` (rows, columns) lie in the template, shape (rows, columns, 2)."""
    rows, columns = extent
    x0, y0, x1, y1 = HAND_WINDOW
    x = x0 + (x1 - x0) * (torch.arange(columns, device=device) + 0.5) / columns
    y = y0 + (y1 - y0) * (torch.arange(rows, device=device) + 0.5) / rows
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def moved_grid(extent: tuple[int, int], dice: Dice) -> Tensor:
    """Return where the pixels of changed hands come from in the template, shape (size, rows, columns, 2).

    Turned, scaled, moved and mirrored as ``training.ages.jittered`` does; some squashed, in perspective, or bent.
    """
    angle = torch.deg2rad(dice.normal(TURN_DEG))
    cosine, sine = angle.cos(), angle.sin()
    squash = torch.exp(dice.normal(STRETCH, 2) + dice.some(0.2)[:, None] * dice.normal(0.08, 2)) * torch.exp(
        dice.normal(GROWTH, 1)
    )
    squash = squash * torch.stack([1 - 2 * dice.some(MIRRORED), torch.ones_like(cosine)], 1)
    turn = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    linear = turn * squash[:, None, :]
    offsets = plain_grid(extent, dice.device) - 0.5
    places = torch.einsum("nij,rcj->nrci", linear, offsets)
    slant = dice.some(0.2)[:, None] * dice.normal(0.08, 2)
    places = places / (1 + torch.einsum("ni,rci->nrc", slant, offsets)).clamp(min=0.5)[..., None]
    bend = dice.normal(0.008, 2, 6, 5) * dice.some(0.3)[:, None, None, None]
    bend = functional.interpolate(bend, size=extent, mode="bicubic", align_corners=True)
    return places + bend.permute(0, 2, 3, 1) + 0.5 + dice.normal(SHIFT, 1, 1, 2)


def sample(canvases: Tensor, grid: Tensor, window: tuple[float, float, float, float]) -> Tensor:
    """Return what canvases (N, H, W) show at places (N, rows, columns, 2) of the template, float32 of 0..255."""
    low = torch.tensor(window[:2], device=grid.device)
    high = torch.tensor(window[2:], device=grid.device)
    places = 2 * (grid - low) / (high - low) - 1
    shown = functional.grid_sample(
        canvases[:, None].float(), places, mode="bilinear", padding_mode="border", align_corners=False
    )
    return shown[:, 0]


def equalised(hands: Tensor) -> Tensor:
    """Flatten histograms as ``inference.preparation.equalisation_table`` does: (N, rows, columns) of 0..255 to 0..1."""
    levels = hands.round().clamp(0, 255).long().flatten(1)
    histogram = torch.zeros((len(hands), 256), device=hands.device)
    histogram.scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float32))
    cumulative = histogram.cumsum(1)
    lowest = (histogram > 0).float().argmax(1, keepdim=True)
    first = cumulative.gather(1, lowest)
    left_out = first.clamp(max=MOST_FLAT_SHARE * levels.shape[1])
    flat = torch.arange(256, device=hands.device) <= lowest
    ranks = torch.where(flat, (first / 2 - left_out).clamp(min=0), cumulative - left_out)
    spread = (cumulative[:, -1:] - left_out).clamp(min=1)
    table = (ranks * 255 / spread).round().clamp(0, 255)
    return table.gather(1, levels).view_as(hands) / 255


def _film_faults(hands: Tensor, dice: Dice) -> Tensor:
    """Change hands as films are: uneven light, scatter, edge enhancement, a line, few grey values."""
    rows, columns = hands.shape[1:]
    y = torch.linspace(-1, 1, rows, device=hands.device)[:, None]
    x = torch.linspace(-1, 1, columns, device=hands.device)[None, :]
    angle = dice.uniform(0, 2 * np.pi)[:, None, None]
    slope = dice.strength(0.25, 0.05, 0.4) * (angle.cos() * x + angle.sin() * y)
    away = (x - dice.normal(0.2, 1, 1)) ** 2 + (y - dice.normal(0.2, 1, 1)) ** 2
    falling = dice.strength(0.15, 0.1, 0.8) * away / 2
    hands = hands * ((1 + slope).clamp(min=0.1) * (1 - falling).clamp(min=0.15))
    haze = functional.interpolate(hands[:, None], scale_factor=1 / 16, mode="area")
    haze = functional.interpolate(haze, size=(rows, columns), mode="bilinear")[:, 0]
    hands = torch.lerp(hands, haze, dice.strength(0.15, 0.1, 0.6))
    soft = _blurred(hands, torch.full((len(hands),), _LARGEST_BLUR * rows, device=hands.device))
    hands = hands + dice.strength(0.15, 0.2, 1.2) * (hands - soft)
    hands = _lined(hands, dice)
    levels = dice.uniform(14, 64)[:, None, None]
    few = (hands.clamp(0, 255) / 255 * levels).round() / levels * 255
    return torch.lerp(hands.clamp(0, 255), few, dice.some(0.06)[:, None, None])


def _lined(hands: Tensor, dice: Dice) -> Tensor:
    """Lay a curved bright or dark line over some hands: a cable, an infusion, a scratch."""
    rows, columns = hands.shape[1:]
    y = torch.linspace(0, 1, rows, device=hands.device)[:, None]
    x = torch.linspace(0, 1, columns, device=hands.device)[None, :]
    along = dice.uniform(0, np.pi)[:, None, None]
    far = (x - dice.uniform(0.1, 0.9, 1, 1)) * along.cos() + (y - dice.uniform(0.1, 0.9, 1, 1)) * along.sin()
    near = -x * along.sin() + y * along.cos()
    far = far + dice.uniform(0, 0.06, 1, 1) * torch.sin(dice.uniform(2, 12, 1, 1) * near + dice.uniform(0, 6.3, 1, 1))
    width = dice.uniform(0.002, 0.010, 1, 1)
    shade = torch.exp(-((far / width) ** 4)) * dice.strength(0.1, 0.3, 1.0)
    return torch.lerp(hands, 255 * dice.some(0.7)[:, None, None].expand_as(hands), shade)


def _network_faults(hands: Tensor, dice: Dice) -> Tensor:
    """Change equalised hands (0..1) as ``training.ages.augmented`` does; returns them as float32 of -1..1."""
    rows = hands.shape[1]
    hands = 2 * hands ** torch.exp(dice.uniform(-GAMMA, GAMMA, 1, 1)) - 1
    hands = _blurred(hands, dice.some(BLURRED) * dice.uniform(*BLUR) * rows)
    hands = hands + dice.strength(NOISY, *NOISE) * dice.normal(1.0, *hands.shape[1:])
    spot = _rectangle(hands, dice, *COVER) * dice.some(COVERED)[:, None, None]
    hands = torch.lerp(hands, dice.uniform(-1, 1, 1, 1).expand_as(hands), spot)
    return _veiled(hands, dice)


def _veiled(hands: Tensor, dice: Dice) -> Tensor:
    """Lay a grained shade, through which bones show faintly or not, over a part of some hands: a cast, a bandage."""
    coarse = functional.interpolate(dice.normal(1.0, 1, 8, 6), size=hands.shape[1:], mode="bicubic")[:, 0]
    fine = functional.interpolate(dice.normal(1.0, 1, 48, 36), size=hands.shape[1:], mode="bicubic")[:, 0]
    grain = torch.lerp(coarse, fine, dice.uniform(0, 1, 1, 1)) * dice.uniform(0, 0.2, 1, 1)
    veiled = (dice.uniform(0, 0.4, 1, 1) * hands + grain + dice.uniform(-1, 1, 1, 1)).clamp(-1, 1)
    return torch.lerp(hands, veiled, _rectangle(hands, dice, *VEIL) * dice.some(VEILED)[:, None, None])


def _rectangle(hands: Tensor, dice: Dice, least: float, most: float) -> Tensor:
    """Return 1 within a rectangle of each hand, 0 elsewhere; its sides are shares of the hand's."""
    inside = torch.ones_like(hands)
    for axis, side in ((1, hands.shape[1]), (2, hands.shape[2])):
        length = dice.uniform(least, most)
        start = dice.uniform(0, 1) * (1 - length)
        places = (torch.arange(side, device=hands.device) + 0.5) / side
        covered = (places >= start[:, None]) & (places < (start + length)[:, None])
        inside = inside * covered.float().unsqueeze(3 - axis)
    return inside


def _blurred(hands: Tensor, spread: Tensor) -> Tensor:
    """Blur each hand (N, rows, columns) by a Gaussian of its own standard deviation in pixels; 0 leaves it."""
    reach = max(1, round(3 * _LARGEST_BLUR * hands.shape[1]))
    taps = torch.arange(-reach, reach + 1, device=hands.device)
    weights = torch.exp(-0.5 * (taps / spread.clamp(min=1e-3)[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    padded = functional.pad(hands[None], (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(padded, weights[:, None, None, :], groups=len(hands))
    return functional.conv2d(across, weights[:, None, :, None], groups=len(hands))[0]
