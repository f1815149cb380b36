"""Is this one readable hand? Judged by whether the landmarks make a hand, never by a list of what else exists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inference.anatomy import POINT_NAMES, RUS_NAMES
from inference.detector import FoundHand, Landmarks
from inference.finding import RefusalCode
from inference.pose import template_points

FOUND_SCORE = 0.25
"""Least score at which a point counts as found."""
LEAST_HAND_POINTS = 24
"""A hand has 44 points; with fewer found than this nothing says it is one."""
LEAST_MEAN_SCORE = 0.42
"""Least mean score over all points."""
MOST_SHAPE_ERROR = 0.10
"""Largest root-mean-square distance in template units between the points and the template in its best pose."""
LEAST_RUS_BONES = 12
"""With more than one of the 13 RUS bones missing, the film does not show what an age is read from."""
LEAST_SIDE_PIXELS = 96
LEAST_GREY_SPREAD = 6.0
"""Smallest image side, and smallest spread between the 2nd and 98th percentile of 256 grey values."""

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a film is not read."""

    code: RefusalCode
    sentence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class HandEvidence:
    """What speaks for a hand: finder score, points found of 44, mean score, shape error, RUS bones found of 13."""

    finder_score: float
    points_found: int
    mean_score: float
    shape_error: float
    bones_found: int
    missing: tuple[str, ...]


def weigh(hand: FoundHand, landmarks: Landmarks) -> HandEvidence:
    """Collect what the detectors say of one hand."""
    found = landmarks.scores >= FOUND_SCORE
    distance = np.linalg.norm(landmarks.pose.to_template(landmarks.points) - template_points(), axis=1)
    error = float(np.sqrt((distance[found] ** 2).mean())) if found.any() else float("inf")
    missing = tuple(name for name in RUS_NAMES if not found[POINT_NAMES.index(name)])
    return HandEvidence(
        hand.score, int(found.sum()), float(landmarks.scores.mean()), error, len(RUS_NAMES) - len(missing), missing
    )


def is_hand(evidence: HandEvidence) -> bool:
    """Whether the landmarks make a hand, complete or not."""
    return (
        evidence.points_found >= LEAST_HAND_POINTS
        and evidence.mean_score >= LEAST_MEAN_SCORE
        and evidence.shape_error <= MOST_SHAPE_ERROR
    )


def doubt_image(image: Grey) -> Doubt | None:
    """Refuse an image that is too small or has no contrast."""
    if min(image.shape) < LEAST_SIDE_PIXELS:
        return Doubt(
            RefusalCode.POOR_IMAGE,
            f"The image is only {image.shape[1]} x {image.shape[0]} pixels.",
            "Send the film at the resolution it was acquired with.",
        )
    low, high = np.percentile(image, (2, 98))
    if high - low < LEAST_GREY_SPREAD:
        return Doubt(
            RefusalCode.POOR_IMAGE,
            "The image has next to no contrast.",
            "Check exposure and window settings, then send the film again.",
        )
    return None


def doubt_completeness(evidence: HandEvidence) -> Doubt | None:
    """Refuse a hand of which too many bones are outside the film or hidden."""
    if evidence.bones_found >= LEAST_RUS_BONES:
        return None
    return Doubt(
        RefusalCode.HAND_INCOMPLETE,
        f"Only {evidence.bones_found} of 13 bones were found; missing: {', '.join(evidence.missing)}.",
        "Send a film that shows the whole hand with the wrist, uncovered.",
    )


NO_HAND = Doubt(
    RefusalCode.NOT_A_HAND,
    "No hand was recognised in this image.",
    "Check that the image is a hand radiograph; other images need not be sent to this node.",
)
