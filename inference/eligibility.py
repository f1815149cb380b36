"""Is this one readable hand? Judged by whether the landmarks make a hand, never by a list of what else exists."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inference.anatomy import POINT_NAMES, RUS_NAMES
from inference.artefacts import find_artefacts, grey_count, part_between
from inference.detector import FoundHand, Landmarks, crop_upright
from inference.finding import Flag, RefusalCode
from inference.pose import template_points
from inference.preparation import HAND_WINDOW, PATCH_SIDES, equalisation_table, roi_centres

# What is said here of the picture of training films is measured by ``python -m training.limits`` (920 at half
# resolution), with ``--small`` of 11,261 of 100 x 100 pixels, too.

FOUND_SCORE = 0.25
"""Least score at which a point counts as found."""
LEAST_HAND_POINTS = 24
"""A hand has 44 points; with fewer found than this nothing says it is one."""
LEAST_MEAN_SCORE = 0.42
"""Least mean score over all points."""
SURE_SIDE_SCORE = 0.8
"""Below this mean score a hand is looked at as one of the other side, too, and taken for one from this on. Of 200
training films all have 0.84 or more; a hand whose side the finder got wrong has 0.65 to 0.75, and its thumb and little
finger in each other's place."""
LEAST_SECOND_LOOK_SCORE = 0.7
"""The same for hands seen at a second look only, which may as well be half a wrist (up to 0.55)."""
LEAST_DOUBTFUL_SCORES = (0.42, 0.56)
"""From this mean score on, at the first and at a second look, what is no hand may be one: half of one, or askew."""
LEAST_DOUBTFUL_FINDER_SCORE = 0.5
"""The same for the finder's score at the first look, whatever the landmarks say."""
MOST_SHAPE_ERROR = 0.10
"""Largest root-mean-square distance in template units between the points and the template in its best pose."""
LEAST_RUS_BONES = 12
"""With more than one of the 13 RUS bones missing, the film does not show what an age is read from."""
LEAST_SIDE_PIXELS = 96
LEAST_GREY_SPREAD = 6.0
"""Smallest image side, and smallest spread between the 2nd and 98th percentile of 256 grey values."""
LEAST_GREY_VALUES = 16
"""Of 256, that an image must have: with 8, ages of 11 films moved by up to 13 months in silence. Films at half
resolution have 85 or more, those of 100 x 100 pixels 27 or more."""

MOST_BLACK, MOST_WHITE = 0.035, 0.08
"""Largest share of the bones' surroundings in the crop's darkest and in its brightest grey value. Of 919 training films
none has more than 0.032 in either; without a window a film is rendered with 0.5 % of it white, maybe all of it bone."""
MOST_NOISE = 6.0
"""Largest standard deviation of the noise in the equalised crop, in grey values of 256; training films: 0.7 to 4.8."""
LEAST_SHARPNESS = 0.28
"""Smallest ratio of fine (under a pixel of the crop) to coarse detail (one to three pixels) in the equalised crop;
training films: 0.61 to 1.2, the shipped averages of films down to 0.43. Of the films of 100 x 100 pixels, enlarged, one
in seventy has less."""

LEAST_COARSE_SHARPNESS, LEAST_COARSE_DETAIL = 0.58, 1.5
"""Smallest ratio of coarse to coarser detail (three to six pixels), and smallest standard deviation of the coarse one
in grey values of 256. A strong blur leaves so little fine detail that rounding makes up for it; these tell it. Training
films: 0.73 and 3.1 or more, the shipped averages 0.65 and 2.2; of 11,261 films of 100 x 100 pixels 18 have less."""

MOST_BRIGHT_RADIUS = 7.0
"""Largest radius, in pixels of the crop (384 from top to bottom), of a disc in the surroundings of the bones that all
lies within BRIGHT_LEVELS of their brightest grey value: metal. Of 920 training films at half resolution one has more,
99 % have at most 2; of 11,261 of 100 x 100 pixels 14 have more."""
BRIGHT_LEVELS = 2

MOST_LINES = 0.02
"""Largest share of rows or columns across a hand that may belong to lines, about four lines; of 920 training films two
have any, up to 0.0036; of the films of 100 x 100 pixels, enlarged, one in thirty, which is flagged."""
MOST_BLOCKS = 2.5
"""Largest ratio of differences across the edges of 8 x 8 blocks to others, see ``inference.artefacts``: training films
have up to 1.8, compressed once more as JPEG of quality 75 up to 2.3, of quality 10 mostly 2.9 and more."""
MOST_GRID = 0.35
"""Largest share of the differences between neighbouring rows, or columns, that may be the same all across: of 920
training films one has more, 99 % up to 0.13, under lines 4 pixels apart, 5 grey values strong, 0.74 and more."""
LEAST_GREY_COUNT = 6.0
"""Fewest grey values, see :func:`inference.artefacts.grey_count`, around the bones: training films have 13.7 or more.
With fewer than 4, as of dark films rounded to 32 values, ages moved by up to 51 months, with 4 to 6 by 3, with 8 to 14
by 1."""
FEW_GREY_COUNT = 12.0
"""With fewer a film is flagged. Of validation films rounded to 16 grey values 18 % are refused and all others flagged,
of 24 a third: ages moved by 2.1 and 1.4 months on average, by 8.5 at most (``boneage-node stress --films 40``)."""
MOST_SLOPE = 0.65
"""Largest change of the bones' grey value across the hand, in shares of its mean per template unit: 10 of 12,181 films
trained on have more. Under light that falls off by 80 % from one side of the film to the other all validation films
have, by 60 % two thirds, by 40 % one in twenty; ages moved by 2.1 (at most 17), 1.6 (8) and 1.2 (7) months
(``boneage-node stress --films 40``)."""

_CROP_EXTENT = (296, 384)
_SPOT = 4
"""Pixels of it to each side of a region's centre that its grey value is the median of."""
_FINE, _COARSE, _COARSER = 1.0, 3.0, 6.0
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a film is not read."""

    code: RefusalCode
    sentence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class HandEvidence:
    """What speaks for a hand: finder score, points found of 44, mean score, shape error, RUS bones found of 13.

    ``second_look`` says that it was seen in a half of the film or in the film turned only.
    """

    finder_score: float
    points_found: int
    mean_score: float
    shape_error: float
    bones_found: int
    missing: tuple[str, ...]
    second_look: bool = False


def weigh(hand: FoundHand, landmarks: Landmarks) -> HandEvidence:
    """Collect what the detectors say of one hand."""
    found = landmarks.scores >= FOUND_SCORE
    distance = np.linalg.norm(landmarks.pose.to_template(landmarks.points) - template_points(), axis=1)
    error = float(np.sqrt((distance[found] ** 2).mean())) if found.any() else float("inf")
    missing = tuple(name for name in RUS_NAMES if not found[POINT_NAMES.index(name)])
    return HandEvidence(
        hand.score,
        int(found.sum()),
        float(landmarks.scores.mean()),
        error,
        len(RUS_NAMES) - len(missing),
        missing,
        hand.second_look,
    )


@dataclass(frozen=True, slots=True)
class PictureEvidence:
    """How well the bones can be seen: see the thresholds above.

    ``lines``, ``blocks``, ``grid`` and ``grey_count`` are those of ``inference.artefacts``; ``slope`` is how the bones'
    grey value changes across the hand, see MOST_SLOPE.
    """

    black: float
    white: float
    noise: float
    sharpness: float
    bright_radius: float = 0.0
    lines: float = 0.0
    blocks: float = 1.0
    grey_count: float = 256.0
    coarse_sharpness: float = 1.0
    coarse_detail: float = 255.0
    grid: float = 0.0
    slope: float = 0.0


def weigh_picture(image: Grey, landmarks: Landmarks) -> PictureEvidence:
    """Measure the picture around the 18 regions, at the resolution that networks see a hand at.

    Noise is estimated as Immerkaer does (Comput Vis Image Underst 1996;64:300): the mean response to the difference of
    two Laplacians, which flat and sloping grey leave at zero.
    """
    crop = crop_upright(image, landmarks.pose, _CROP_EXTENT, HAND_WINDOW)
    bones = _around_bones(landmarks)
    seen = crop[bones]
    black, white = (seen == crop.min()).mean(), (seen == crop.max()).mean()
    equal = cv2.LUT(crop, equalisation_table(crop)).astype(np.float32)
    noise = np.sqrt(np.pi / 2) / 6 * np.abs(cv2.filter2D(equal, -1, _NOISE_KERNEL)[bones]).mean()
    smooth, smoother = cv2.GaussianBlur(equal, (0, 0), _FINE), cv2.GaussianBlur(equal, (0, 0), _COARSE)
    coarse = max(float((smooth - smoother)[bones].std()), 1e-6)
    sharpness = (equal - smooth)[bones].std() / coarse
    coarser = max(float((smoother - cv2.GaussianBlur(equal, (0, 0), _COARSER))[bones].std()), 1e-6)
    bright = _bright_radius(crop, _around_bones(landmarks, 0.5))
    found = find_artefacts(part_between(image, landmarks.points))
    greys = grey_count(image, landmarks.pose.warp_matrix(_CROP_EXTENT, HAND_WINDOW), bones)
    return PictureEvidence(
        float(black),
        float(white),
        float(noise),
        float(sharpness),
        bright,
        found.lines,
        found.blocks,
        greys,
        coarse / coarser,
        coarse,
        found.grid,
        _slope(crop, landmarks),
    )


def _slope(crop: Grey, landmarks: Landmarks) -> float:
    """Return how steep, across the hand, the plane is that fits the crop's medians at the regions' centres best."""
    centres, scale = _centres(landmarks)
    at = np.clip(centres.round().astype(int), _SPOT, np.array(_CROP_EXTENT) - 1 - _SPOT)
    greys = [np.median(crop[y - _SPOT : y + _SPOT + 1, x - _SPOT : x + _SPOT + 1]) for x, y in at]
    places = centres / scale
    plane = np.column_stack([np.ones(len(places)), places - places.mean(0)])
    (mean, across, _), *_ = np.linalg.lstsq(plane, np.array(greys), rcond=None)
    return float(across / max(mean, 1.0))


def _bright_radius(crop: Grey, region: npt.NDArray[np.bool_]) -> float:
    """Return the radius of the largest disc of a region's brightest grey."""
    brightest = int(crop[region].max())
    bright = (region & (crop >= brightest - BRIGHT_LEVELS)).astype(np.uint8)
    return float(cv2.distanceTransform(bright, cv2.DIST_L2, 5).max())


def _around_bones(landmarks: Landmarks, share: float = 0.25) -> npt.NDArray[np.bool_]:
    """Mark discs around the regions' centres, of that share of their width as radius, in the crop of _CROP_EXTENT."""
    centres, scale = _centres(landmarks)
    mask = np.zeros(_CROP_EXTENT[::-1], dtype=np.uint8)
    for (x, y), side in zip(centres.tolist(), PATCH_SIDES.tolist(), strict=True):
        cv2.circle(mask, (round(x), round(y)), round(share * side * float(scale.mean())), 1, -1)
    return mask.astype(bool)


def _centres(landmarks: Landmarks) -> tuple[Float, Float]:
    """Return the regions' centres (18, 2) in the crop of _CROP_EXTENT, and its pixels per template unit, x before y."""
    x0, y0, x1, y1 = HAND_WINDOW
    scale = np.array(_CROP_EXTENT) / (x1 - x0, y1 - y0)
    return (landmarks.pose.to_template(roi_centres(landmarks.points, landmarks.pose)) - (x0, y0)) * scale, scale


def is_hand(evidence: HandEvidence) -> bool:
    """Whether the landmarks make a hand, complete or not."""
    return (
        evidence.points_found >= LEAST_HAND_POINTS
        and evidence.mean_score >= (LEAST_SECOND_LOOK_SCORE if evidence.second_look else LEAST_MEAN_SCORE)
        and evidence.shape_error <= MOST_SHAPE_ERROR
    )


def may_be_hand(evidence: HandEvidence) -> bool:
    """Whether something that is no hand by :func:`is_hand` looks so much like one that a reader should be told."""
    if is_hand(evidence):
        return False
    seems_one = evidence.mean_score >= LEAST_DOUBTFUL_SCORES[evidence.second_look]
    is_seen = evidence.finder_score >= LEAST_DOUBTFUL_FINDER_SCORE and not evidence.second_look
    return is_seen or (seems_one and evidence.points_found >= LEAST_HAND_POINTS)


def doubt_image(image: Grey) -> Doubt | None:
    """Refuse an image that is too small, has no contrast or too few grey values."""
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
    if np.count_nonzero(cv2.calcHist([image], [0], None, [256], [0, 256])) < LEAST_GREY_VALUES:
        return TOO_NOISY
    return None


TOO_NOISY = Doubt(
    RefusalCode.POOR_IMAGE,
    "The film is too noisy, or has too few grey values, for its bones to be judged.",
    "Check exposure and window settings, then send the film again.",
)


def doubt_completeness(evidence: HandEvidence) -> Doubt | None:
    """Refuse a hand of which too many bones are outside the film or hidden."""
    if evidence.bones_found >= LEAST_RUS_BONES:
        return None
    return Doubt(
        RefusalCode.HAND_INCOMPLETE,
        f"Only {evidence.bones_found} of 13 bones were found; missing: {', '.join(evidence.missing)}.",
        "Send a film that shows the whole hand with the wrist, uncovered.",
    )


def doubt_picture(evidence: PictureEvidence) -> Doubt | None:
    """Refuse a hand whose bones cannot be seen as well as on any film that the thresholds were set on."""
    if evidence.black > MOST_BLACK or evidence.white > MOST_WHITE:
        name, share = ("black", evidence.black) if evidence.black > MOST_BLACK else ("white", evidence.white)
        return Doubt(
            RefusalCode.POOR_IMAGE,
            f"The film is cut off in {name}: {share:.1%} of the bones' surroundings show no detail.",
            "Check exposure and window settings, then send the film again.",
        )
    if evidence.noise > MOST_NOISE or evidence.grey_count < LEAST_GREY_COUNT:
        return TOO_NOISY
    if evidence.lines > MOST_LINES:
        return Doubt(
            RefusalCode.POOR_IMAGE,
            "Many bright or dark lines run across the hand; they look like growth plates to a model.",
            "Check the detector or scanner, and send or take the film again.",
        )
    if _is_blurred(evidence):
        return Doubt(
            RefusalCode.POOR_IMAGE,
            "The film is too blurred for its bones to be judged.",
            "Send the film at the resolution it was acquired with; repeat it if the hand moved.",
        )
    return None


def _is_blurred(evidence: PictureEvidence) -> bool:
    return (
        evidence.sharpness < LEAST_SHARPNESS
        or evidence.coarse_sharpness < LEAST_COARSE_SHARPNESS
        or evidence.coarse_detail < LEAST_COARSE_DETAIL
    )


def flags_of_picture(evidence: PictureEvidence) -> list[Flag]:
    """Return what to say of a picture that is read all the same."""
    flags = []
    if evidence.bright_radius > MOST_BRIGHT_RADIUS:
        sentence = "A bright, even object, such as a metal plate, lies over or beside a bone; check the estimate."
        flags.append(Flag("bright-object", sentence))
    if evidence.lines > 0:
        sentence = "A bright or dark line runs across the hand, as of a faulty detector; check the estimate."
        flags.append(Flag("lines", sentence))
    elif evidence.grid > MOST_GRID:
        sentence = "Even lines run across the hand, as of an anti-scatter grid; check the estimate."
        flags.append(Flag("grid-lines", sentence))
    if evidence.blocks > MOST_BLOCKS:
        sentence = "The film shows the blocks of a strong compression; fine detail is missing, check the estimate."
        flags.append(Flag("compression-blocks", sentence))
    if evidence.grey_count < FEW_GREY_COUNT:
        sentence = "The film has few grey values where the bones lie; fine detail is missing, check the estimate."
        flags.append(Flag("few-grey-values", sentence))
    if abs(evidence.slope) > MOST_SLOPE:
        sentence = "One side of the hand is far brighter than the other; check the beam's centring, and the estimate."
        flags.append(Flag("uneven-light", sentence))
    return flags


NO_HAND = Doubt(
    RefusalCode.NOT_A_HAND,
    "No hand was recognised in this image.",
    "Check that the image is a hand radiograph; other images need not be sent to this node.",
)
