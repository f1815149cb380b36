"""How well the 13 RUS bones are found: boxes at IoU thresholds as COCO counts them, centres by the hand's length.

A film has at most one found and one annotated box of each bone, so a found box is right at an IoU threshold or is a
false positive, and whatever was not found right is a false negative. AP is COCO's: precision made monotone and averaged
at 101 recalls, then over the bones, then over the IoU thresholds 0.50, 0.55 ... 0.95. The extents of annotated boxes
differ between readers (the data folder's README): centres are what the age methods use, and are judged beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.anatomy import BOX_NAMES, POINT_NAMES, RUS_NAMES
from inference.finding import Roi
from inference.preparation import hand_length
from training.annotations import Annotation
from training.evaluation.reading import Case
from training.radiographs import Radiograph

Float = npt.NDArray[np.float64]

IOU = 0.5
AP_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
CENTRE_TOLERANCES = (0.01, 0.03)
"""A centre within this share of the hand's length (radius to distal phalanx 3) counts as right."""
CENTRE_PERCENTS = tuple(step / 4 for step in range(21))
"""Where the cumulative accuracy of centres is given, in percent of the hand's length."""


@dataclass(frozen=True, slots=True, eq=False)
class FilmRois:
    """The 13 bones of one film, in RUS_NAMES order: IoU and score of the found boxes, centre errors.

    ``ious`` and ``scores`` have shape (13,), 0 where a bone was not found; ``distances`` (13,) are shares of the hand's
    length, infinite where it was not; ``found`` (13,) says whether it was.
    """

    sharp: bool  # a film at half resolution, else one at 100 x 100 pixels
    ious: Float
    scores: Float
    distances: Float
    found: npt.NDArray[np.bool_]


def iou(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Return intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


def is_complete(annotation: Annotation) -> bool:
    """Tell whether all 21 boxes are annotated."""
    return all(name in annotation.points and name in annotation.sizes for name in BOX_NAMES)


def compare_film(case: Case, annotation: Annotation) -> FilmRois | None:
    """Set a film's found beside its annotated boxes; None where not all boxes are annotated."""
    return compare_rois(case.film, case.finding.rois, annotation) if is_complete(annotation) else None


def is_sharp(film: Radiograph) -> bool:
    """Tell whether a film is one at half resolution, not one at 100 x 100 pixels."""
    return film.reading.part not in {"annotation-test", "pretrain"}


def compare_rois(film: Radiograph, rois: Iterable[Roi], annotation: Annotation) -> FilmRois:
    """Set regions found in a film, in its pixels, beside its complete annotation."""
    extent = np.array([film.pixels.shape[1], film.pixels.shape[0]], dtype=np.float64)
    centres = annotation.array().astype(np.float64) * extent
    halves = annotation.size_array().astype(np.float64) * extent / 2
    length = float(hand_length(centres))
    found = {roi.name: roi for roi in rois}
    count = len(RUS_NAMES)
    ious, scores, distances = np.zeros(count), np.zeros(count), np.full(count, np.inf)
    for place, name in enumerate(RUS_NAMES):
        if name not in found:
            continue
        centre, half = centres[POINT_NAMES.index(name)], halves[BOX_NAMES.index(name)]
        box, truth = found[name].box, (*(centre - half).tolist(), *(centre + half).tolist())
        ious[place] = iou((box.x0, box.y0, box.x1, box.y1), truth)
        scores[place] = found[name].score
        distances[place] = np.hypot(*(np.array(box.centre) - centre)) / length
    known = np.array([name in found for name in RUS_NAMES])
    return FilmRois(is_sharp(film), ious, scores, distances, known)


def average_precision(scores: Float, hits: npt.NDArray[np.bool_], truths: int) -> float:
    """Return COCO's average precision of one class: ``scores`` and ``hits`` (n,) of what was found, among ``truths``.

    NaN without a truth.
    """
    if not truths:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    true = hits[order].cumsum()
    recall, precision = true / truths, true / np.arange(1, len(true) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())


def average_precisions(films: list[FilmRois], *, one_class: bool = False) -> dict[str, float]:
    """Return ``ap`` (0.50:0.95), ``ap50`` and ``ap75``, means over the 13 bones.

    With ``one_class`` all regions count as one class, as for a detector that does not tell them apart.
    """
    found, ious, scores = (np.stack([getattr(film, key) for film in films]) for key in ("found", "ious", "scores"))
    if one_class:
        found, ious, scores = found.reshape(-1, 1), ious.reshape(-1, 1), scores.reshape(-1, 1)
    by_threshold = {
        threshold: np.mean([
            average_precision(scores[known, bone], ious[known, bone] >= threshold, len(known))
            for bone, known in enumerate(found.T)
        ])
        for threshold in AP_THRESHOLDS
    }  # fmt: skip
    return {
        "ap": float(np.mean(list(by_threshold.values()))),
        "ap50": float(by_threshold[0.5]),
        "ap75": float(by_threshold[0.75]),
    }


def counts(hits: int, found: int, truths: int) -> dict[str, float]:
    """Return precision, recall and F1; precision is NaN where nothing was found."""
    precision = hits / found if found else float("nan")
    recall = hits / truths if truths else float("nan")
    return {"precision": precision, "recall": recall, "f1": 2 * hits / (found + truths) if truths else float("nan")}


def _figures(found: npt.NDArray[np.bool_], ious: Float, distances: Float) -> dict[str, Any]:
    near = {f"within_{round(100 * share)}_percent": float((distances <= share).mean()) for share in CENTRE_TOLERANCES}
    boxes = counts(int((ious >= IOU).sum()), int(found.sum()), found.size)
    return {"boxes": found.size} | boxes | {"centre_median": float(np.median(distances))} | near


def roi_figures(films: list[FilmRois], *, one_class: bool = False) -> dict[str, Any] | None:
    """Return the figures of one set of films, over all bones and for each; None without films.

    ``one_class`` is that of :func:`average_precisions`.
    """
    if not films:
        return None
    found, ious, distances = (
        np.stack([getattr(film, key) for film in films]) for key in ("found", "ious", "distances")
    )
    return {
        "films": len(films),
        **_figures(found, ious, distances),
        **average_precisions(films, one_class=one_class),
        "films_all_13_reported": float(found.all(1).mean()),
        "films_all_13_at_iou_50": float((ious >= IOU).all(1).mean()),
        "films_all_13_within_3_percent": float((distances <= CENTRE_TOLERANCES[-1]).all(1).mean()),
        "centre_accuracy": {f"{percent:g}": float((distances <= percent / 100).mean()) for percent in CENTRE_PERCENTS},
        "bones": {
            name: _figures(found[:, place], ious[:, place], distances[:, place]) for place, name in enumerate(RUS_NAMES)
        },
    }


def all_roi_figures(films: list[FilmRois]) -> dict[str, Any] | None:
    """Return the figures of all films, of those at half resolution and of those at 100 x 100 pixels."""
    if not films:
        return None
    parts = {"all": films, "sharp": [f for f in films if f.sharp], "small": [f for f in films if not f.sharp]}
    return {name: roi_figures(part) for name, part in parts.items()}
