"""The palm in a film: a U-Net's mask, its largest region, holes filled (Jia et al. 2022, sections 3.1.2 and 4.1).

U-Net: Ronneberger et al., MICCAI 2015, MONAI's layers (instance normalisation, leaky ReLU, padded convolutions). "Palm"
is the paper's word for the hand as far as the 13 bones go.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from inference.preparation import equalisation_table

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

PALM_SIDE = 256
"""Side of the U-Net's input in pixels: an outline needs no more."""
_CHANNELS = (64, 128, 256, 512, 1024)


class PalmNet(nn.Module):
    """Say of each pixel of a film whether it belongs to the palm.

    Parameters
    ----------
    width
        Factor on the number of channels; 1.0 is the U-Net paper's.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = [max(8, round(width * c / 8) * 8) for c in _CHANNELS]
        self.net = BasicUNet(2, 1, 1, features=(*channels, channels[0]))

    def forward(self, film: Tensor) -> Tensor:
        """Map films (N, 1, H, W) of -1..1 to log odds of palm, (N, 1, 256, 256)."""
        small = nn.functional.interpolate(film, size=(PALM_SIDE, PALM_SIDE), mode="bilinear", antialias=True)
        logits: Tensor = self.net(small)
        return logits


def clean_mask(mask: Mask) -> Mask:
    """Return the largest connected region of a mask (H, W) with its holes filled; all of it if the mask is empty."""
    _, regions, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if len(statistics) < 2:
        return np.ones_like(mask)
    largest = (regions == 1 + statistics[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
    outlines, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(largest), outlines, -1, 1, cv2.FILLED)
    return np.asarray(filled > 0, dtype=np.bool_)


def keep_palm(film: Tensor, logits: Tensor) -> Tensor:
    """Return films (N, 1, H, W) of -1..1 with all but the palm black, grey values equalised within it.

    ``logits`` are those of :class:`PalmNet`; the mask is drawn at the film's resolution. No gradient passes.
    """
    large = nn.functional.interpolate(logits.detach().float(), size=film.shape[-2:], mode="bilinear")
    kept = [_keep(one, odds) for one, odds in zip(film[:, 0].cpu().numpy(), large[:, 0].cpu().numpy(), strict=True)]
    return torch.from_numpy(np.stack(kept))[:, None].to(film.device)


def _keep(film: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    mask = clean_mask(np.asarray(logits > 0, dtype=np.bool_))
    grey = np.asarray(np.clip(np.rint((film + 1) * 127.5), 0, 255), dtype=np.uint8)
    equal = equalisation_table(grey[mask])[grey].astype(np.float32) / 127.5 - 1
    return np.asarray(np.where(mask, equal, np.float32(-1)), dtype=np.float32)
