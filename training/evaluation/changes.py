"""ROI detection on films that were turned, mirrored, bordered, marked or show two hands; annotations move along.

Every change carries film and annotation by the same affine map of film pixels (x right, y down, origin at the corner of
the first pixel), so that a found box can be judged as on the film as it is. The age is left alone here: what a change
does to it is ``boneage-node stress``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inference.engine import Engine
from inference.pose import fit_pose, template_points
from training.annotations import Annotation
from training.evaluation.reading import Case, read_cases
from training.evaluation.rois import FilmRois, compare_film, roi_figures
from training.radiographs import Radiograph
from training.template import film_points

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]
Changed = tuple[Grey, Float, tuple[int, int]]  # pixels, affine map (2, 3) from the old film's pixels, (columns, rows)

_BORDER = 0.12
_MARKER = 0.07
_TILT_DEG = 25.0


def move(annotation: Annotation, matrix: Float, before: tuple[int, int], after: tuple[int, int]) -> Annotation:
    """Carry an annotation along; ``before`` and ``after`` are (columns, rows). Boxes stay upright."""
    old, new = np.array(before, dtype=np.float64), np.array(after, dtype=np.float64)
    reach = np.abs(matrix[:, :2])
    points = {
        name: tuple(((matrix[:, :2] @ (old * point) + matrix[:, 2]) / new).tolist())
        for name, point in annotation.points.items()
    }
    sizes = {name: tuple((reach @ (old * size) / new).tolist()) for name, size in annotation.sizes.items()}
    return replace(annotation, aspect=after[0] / after[1], points=points, sizes=sizes)


def _warp(pixels: Grey, linear: Float) -> Changed:
    """Turn or mirror about the middle, on a canvas that holds the whole film; what is new is as grey as its rim."""
    extent = np.array([pixels.shape[1], pixels.shape[0]], dtype=np.float64)
    canvas = np.ceil(np.abs(linear) @ extent - 1e-6)
    matrix = np.column_stack([linear, canvas / 2 - linear @ (extent / 2)])
    centres = matrix.copy()  # cv2 has pixel centres at integers, this project at halves
    centres[:, 2] += linear @ (0.5, 0.5) - 0.5
    columns, rows = int(canvas[0]), int(canvas[1])
    rim = float(np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])))
    made = cv2.warpAffine(pixels, centres, (columns, rows), flags=cv2.INTER_LINEAR, borderValue=rim)
    return np.asarray(made, dtype=np.uint8), matrix, (columns, rows)


def _turned(degrees: float) -> Callable[[Grey], Changed]:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return lambda pixels: _warp(pixels, np.array([[cosine, -sine], [sine, cosine]]))


def _mirrored(pixels: Grey) -> Changed:
    return _warp(pixels, np.diag([-1.0, 1.0]))


def _bordered(pixels: Grey) -> Changed:
    width = round(_BORDER * max(pixels.shape))
    made = cv2.copyMakeBorder(pixels, width, width, width, width, cv2.BORDER_CONSTANT, value=255)
    matrix = np.array([[1.0, 0, width], [0, 1.0, width]])
    return np.asarray(made, dtype=np.uint8), matrix, (made.shape[1], made.shape[0])


def _marked(pixels: Grey) -> Changed:
    made, side = pixels.copy(), round(_MARKER * max(pixels.shape))
    made[side // 2 : side // 2 + side, side // 2 : side // 2 + max(2, side // 4)] = 250
    made[side // 2 + side - max(2, side // 4) : side // 2 + side, side // 2 : side // 2 + side // 2] = 250
    return made, np.eye(2, 3), (pixels.shape[1], pixels.shape[0])


def _two_hands(pixels: Grey) -> Changed:
    """Put the film's mirror image to its right: a left and a right hand, of a left one; the left one is to be read."""
    made = np.hstack([pixels, pixels[:, ::-1]])
    return made, np.eye(2, 3), (made.shape[1], made.shape[0])


CHANGES: dict[str, Callable[[Grey], Changed]] = {
    "mirrored": _mirrored,
    "upside down": _turned(180),
    "on its side": _turned(90),
    "tilted right": _turned(_TILT_DEG),
    "tilted left": _turned(-_TILT_DEG),
    "white border": _bordered,
    "marker": _marked,
    "two hands": _two_hands,
}


def is_right(annotation: Annotation) -> bool:
    """Whether the points are those of a right hand seen from its back, or of a left one mirrored."""
    return fit_pose(template_points(), film_points(annotation)).mirrored


def change_film(
    film: Radiograph, annotation: Annotation, make: Callable[[Grey], Changed]
) -> tuple[Radiograph, Annotation]:
    """Return the changed film with its annotation; before two hands are made of one, it is made a left one."""
    if make is _two_hands and is_right(annotation):
        film, annotation = change_film(film, annotation, _mirrored)
    pixels, matrix, extent = make(film.pixels)
    before = (film.pixels.shape[1], film.pixels.shape[0])
    return replace(film, pixels=np.ascontiguousarray(pixels)), move(annotation, matrix, before, extent)


def changed_rois(engine: Engine, cases: list[Case], annotations: dict[int, Annotation]) -> dict[str, Any]:
    """Return the ROI figures of annotated films under each change, by its name."""
    usable = [case.film for case in cases if compare_case(case, annotations) is not None]
    table = {}
    for name, make in CHANGES.items():
        changed = [change_film(film, annotations[film.reading.rsna_id], make) for film in usable]
        read = read_cases(engine, [film for film, _ in changed])
        compared = [compare_film(case, moved) for case, (_, moved) in zip(read, changed, strict=True)]
        table[name] = roi_figures([film for film in compared if film is not None])
    return table


def compare_case(case: Case, annotations: dict[int, Annotation]) -> FilmRois | None:
    """Set a film's ROIs beside its annotation, where it has a whole one."""
    annotation = annotations.get(case.row.rsna_id)
    return None if annotation is None else compare_film(case, annotation)
