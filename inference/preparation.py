"""From a film and its landmarks to what the age networks see: used by training and the node, no copy of it.

The hand is cut out upright and as a left hand (so rotation, side and mirroring are gone before a network looks), its
grey values are equalised by the hand crop's own histogram (Hui et al. 2022, section 3.1), and the 18 ROIs are cut
from the film at full resolution with the same orientation and the same grey-value table.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inference.anatomy import BOX_NAMES, CARPAL_NAMES, POINT_NAMES, ROI_NAMES, RUS_NAMES
from inference.detector import Landmarks, crop_upright, stretch
from inference.finding import Box, Roi
from inference.pose import Pose, template_points

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

HAND_WINDOW = (0.13, 0.02, 0.87, 0.98)
"""What of the template's plane the global input shows: the hand, squashed into a square as the paper does."""

_CARPAL_OFFSETS = np.array([[-0.030, -0.030], [-0.040, 0.022], [0.058, 0.007], [0.084, -0.044], [0.0, 0.0]])
_CARPAL_SIZES = np.array([[0.15, 0.13], [0.14, 0.11], [0.10, 0.10], [0.11, 0.10], [0.26, 0.20]])
"""Centres (from the carpus point) and sizes of the five carpal regions in template units, measured on the mean hand."""

PATCH_SIDES = np.array(
    [0.20, 0.18, 0.15, 0.16, 0.15, 0.125, 0.135, 0.12, 0.105, 0.095, 0.15, 0.135, 0.12, 0.15, 0.14, 0.11, 0.12, 0.27]
)
"""Sides of the square patches in template units: median long sides of the annotated boxes, in ROI_NAMES order."""

_UPRIGHT_SQUARENESS = 3.0
"""How square a region of a hand that lies nearly upright is drawn: the exponent n of the superellipse
|x|^n + |y|^n = 1 whose upright box is taken (2 is an ellipse, infinity a rectangle)."""
_TILTED_SQUARENESS = np.array([4, 4, 10, 4, 10, 4, 10, 7, 7, 10, 7, 7, 10] + [3] * len(CARPAL_NAMES))
"""The same of a hand that lies askew, in ROI_NAMES order.

Chosen on the annotated films of the training parts, as they are laid and turned by 15 to 30 degrees: for each bone a
large one that loses no box, or hardly one, of hands that lie askew by themselves, which readers draw closer.
"""
_UPRIGHT_DEG, _ASKEW_DEG = 5.0, 15.0
"""Up to how far from the nearest quarter turn a hand lies nearly upright, and from where on it lies askew."""

_RUS_PLACES = [POINT_NAMES.index(name) for name in RUS_NAMES]
_BOX_PLACES = [BOX_NAMES.index(name) for name in RUS_NAMES]
_CARPUS_PLACE = POINT_NAMES.index("J-carpus")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedHand:
    """A network's input for one hand.

    ``whole`` has shape (224, 224) and ``patches`` (18, 64, 64), both uint8, equalised unless asked otherwise.
    """

    whole: Grey
    patches: Grey


def roi_centres(points: Float, pose: Pose) -> Float:
    """Return the centres of the 18 ROIs in film pixels, shape (18, 2), from the 44 points."""
    carpal = points[_CARPUS_PLACE] + _CARPAL_OFFSETS @ pose.matrix[:, :2].T
    return np.concatenate([points[_RUS_PLACES], carpal])


def make_rois(landmarks: Landmarks) -> tuple[Roi, ...]:
    """Return the 18 ROIs as axis-aligned boxes in film pixels, each with the score of the point it hangs on."""
    pose = landmarks.pose
    centres = roi_centres(landmarks.points, pose)
    sizes = np.concatenate([np.clip(landmarks.sizes[_BOX_PLACES], 0.04, 0.35), _CARPAL_SIZES])
    # The support function of a superellipse of exponent n is the norm of exponent n / (n - 1).
    exponents = _squareness(pose)[:, None]
    norm = exponents / (exponents - 1)
    reach = (sizes[:, None, :] * np.abs(pose.matrix[:, :2])) ** norm[..., None]
    extents = reach.sum(-1) ** (1 / norm)
    scores = np.concatenate(
        [landmarks.scores[_RUS_PLACES], np.full(len(CARPAL_NAMES), landmarks.scores[_CARPUS_PLACE])]
    )
    return tuple(
        Roi(name, Box(x - w / 2, y - h / 2, x + w / 2, y + h / 2), float(score))
        for name, (x, y), (w, h), score in zip(ROI_NAMES, centres.tolist(), extents.tolist(), scores, strict=True)
    )


def _squareness(pose: Pose) -> Float:
    """Return the exponents (18,) of the superellipses whose boxes are drawn where a hand lies so."""
    tilt = abs((pose.rotation_deg + 45) % 90 - 45)
    askew = np.clip((tilt - _UPRIGHT_DEG) / (_ASKEW_DEG - _UPRIGHT_DEG), 0, 1)
    return np.asarray(_UPRIGHT_SQUARENESS + askew * (_TILTED_SQUARENESS - _UPRIGHT_SQUARENESS))


def hand_box(landmarks: Landmarks, margin: float = 0.02) -> Box:
    """Return the box around the hand in film pixels: all points and ROIs, widened by a margin in template units."""
    boxes = [roi.box for roi in make_rois(landmarks)]
    corners = np.array([(box.x0, box.y0) for box in boxes] + [(box.x1, box.y1) for box in boxes])
    points = np.concatenate([landmarks.pose.to_film(template_points()), corners])
    reach = margin * landmarks.pose.scale
    (x0, y0), (x1, y1) = points.min(0) - reach, points.max(0) + reach
    return Box(float(x0), float(y0), float(x1), float(y1))


def hand_length(points: Float) -> Float:
    """Return the length from the radius to the middle finger's distal phalanx in film pixels, over the leading axes."""
    length: Float = np.linalg.norm(
        points[..., POINT_NAMES.index("DP3"), :] - points[..., POINT_NAMES.index("radius"), :], axis=-1
    )
    return length


MOST_FLAT_SHARE = 0.3
"""Largest share of a crop that equalisation passes over as flat background; one training film in thirty has more."""


def equalisation_table(crop: Grey) -> Grey:
    """Return the table (256,) that flattens a crop's histogram.

    It is what ``cv2.equalizeHist`` computes, which takes the lowest grey value out of the histogram, as long as that
    value holds at most MOST_FLAT_SHARE of the crop. Where a window or a dark film has crushed the soft parts into one
    value, only so much of it is taken out, and it is shown as the mean of the ranks it holds: what is brighter keeps
    the grey it would have had.
    """
    histogram = np.bincount(crop.ravel(), minlength=256)
    cumulative = histogram.cumsum()
    lowest = np.flatnonzero(histogram)[0]
    first = cumulative[lowest]
    left_out = min(float(first), MOST_FLAT_SHARE * crop.size)
    spread = max(cumulative[-1] - left_out, 1.0)
    ranks = cumulative - left_out
    ranks[: lowest + 1] = max(first / 2 - left_out, 0.0)
    return np.asarray(np.clip(np.rint(ranks * (255.0 / spread)), 0, 255), dtype=np.uint8)


def stretched_crop(film: Grey, pose: Pose, extent: tuple[int, int], window: tuple[float, float, float, float]) -> Grey:
    """Cut a window of the template's plane out of a film, grey values stretched to 0..255 between two percentiles.

    ``extent`` is (columns, rows) in pixels; for methods whose papers do not equalise.
    """
    return np.asarray(np.rint(255 * stretch(crop_upright(film, pose, extent, window))), dtype=np.uint8)


def prepare(
    film: Grey, pose: Pose, centres: Float, *, side: int = 224, patch_side: int = 64, equalise: bool = True
) -> PreparedHand:
    """Cut a hand and its ROIs out of a film.

    Parameters
    ----------
    film
        Shape (rows, columns), uint8, bones bright.
    pose
        Where the hand lies.
    centres
        Shape (18, 2), film pixels, in the order of ROI_NAMES.
    side, patch_side
        Sides of the two inputs in pixels.
    equalise
        Flatten the histogram; without, grey values stay as the film has them (Table 4 of Hui et al. 2022).
    """
    whole = crop_upright(film, pose, side, HAND_WINDOW)
    table = equalisation_table(whole) if equalise else np.arange(256, dtype=np.uint8)
    patches = []
    middle = pose.to_template(centres)
    for (x, y), reach in zip(middle, PATCH_SIDES / 2, strict=True):
        patches.append(crop_upright(film, pose, patch_side, (x - reach, y - reach, x + reach, y + reach)))
    return PreparedHand(np.asarray(cv2.LUT(whole, table), dtype=np.uint8), table[np.stack(patches)])


def fit_film(film: Grey, side: int) -> tuple[Grey, float]:
    """Fit a film into a square, at its top left, black beside it; return it with its scale."""
    rows, columns = film.shape
    scale = side / max(rows, columns)
    extent = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    square = np.zeros((side, side), dtype=np.uint8)
    square[: extent[1], : extent[0]] = cv2.resize(film, extent, interpolation=cv2.INTER_AREA)
    return square, scale


def to_units(grey: Grey) -> npt.NDArray[np.float32]:
    """Scale 0..255 to -1..1, float32."""
    return grey.astype(np.float32) / 127.5 - 1
