"""Augmentation as a paper names it, chosen in a recipe; what this project does by itself is in ``training.ages``.

Poses are changed, not pixels: the hand is cut out of the film by the changed pose, so that whole hand, patches and
regions all move alike and nothing is resampled twice. A method that cuts the hand out by itself has its crop moved.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from inference.pose import Pose

_MIDDLE = np.array([0.5, 0.5])
"""Of the template's plane: what a hand is turned, scaled and mirrored about."""
_AS_IT_LIES = Pose(np.eye(2, 3))


class Augmentation(BaseModel):
    """How far a training film is changed at random. What is not given is not changed; all is drawn evenly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation_degrees: float = Field(0.0, ge=0, le=180)
    """The most that a hand is turned either way."""
    shift_share: float = Field(0.0, ge=0, lt=0.5)
    """The most that it is moved along each axis, as a share of the upright hand's height: a random crop."""
    scale_share: float = Field(0.0, ge=0, lt=1)
    """The most that it grows or shrinks, as a share."""
    mirror: float = Field(0.0, ge=0, le=1)
    """Share of films that are mirrored left to right."""
    flip: float = Field(0.0, ge=0, le=1)
    """Share of films that are flipped top to bottom."""
    gamma: float = Field(0.0, ge=0)
    """Grey values (0..1) are raised to the power of e to at most plus or minus this."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """The most that their distance from mid-grey grows or shrinks, as a share."""
    brightness: float = Field(0.0, ge=0, lt=1)
    """The most that they are raised or lowered, as a share of black to white."""

    def move(self, pose: Pose, generator: np.random.Generator) -> Pose:
        """Return another pose for the same hand."""
        angle = np.radians(generator.uniform(-self.rotation_degrees, self.rotation_degrees))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        scale = 1 + generator.uniform(-self.scale_share, self.scale_share)
        across, down = (-1.0 if generator.random() < share else 1.0 for share in (self.mirror, self.flip))
        # A pose that takes less of the film shows the hand larger.
        linear = pose.matrix[:, :2] @ turn @ np.diag([across, down]) / scale
        centre = pose.to_film(_MIDDLE + generator.uniform(-self.shift_share, self.shift_share, 2))
        return Pose(np.column_stack([linear, centre - linear @ _MIDDLE]))

    def warp(self, crop: npt.NDArray[np.uint8], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Return a square crop moved as :meth:`move` moves a pose; what comes from beyond it repeats its edge."""
        change = self.move(_AS_IT_LIES, generator).matrix
        linear, side = change[:, :2], len(crop)
        shift = side * change[:, 2] + linear @ (0.5, 0.5) - 0.5  # cv2 has pixel centres at integers
        return np.asarray(
            cv2.warpAffine(
                crop,
                np.column_stack([linear, shift]),
                crop.shape[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            ),
            dtype=np.uint8,
        )

    def grey_table(self, generator: np.random.Generator) -> npt.NDArray[np.float32]:
        """Return what each grey value 0..255 becomes, shape (256,), float32 of -1..1."""
        grey = np.linspace(0, 1, 256) ** np.exp(generator.uniform(-self.gamma, self.gamma))
        grey = 0.5 + (grey - 0.5) * (1 + generator.uniform(-self.contrast, self.contrast))
        grey += generator.uniform(-self.brightness, self.brightness)
        return np.asarray(2 * np.clip(grey, 0, 1) - 1, dtype=np.float32)
