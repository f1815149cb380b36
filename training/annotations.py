"""Annotated boxes and key points of RSNA films, put into one list of named points in relative film coordinates.

Three readers annotated three overlapping sets (see the data folder's README). Their points differ in meaning, so each
keeps names of its own; a film holds the points its readers gave and lacks the others. The fingers of the 21-box set are
not numbered: they are ordered here by geometry, thumb first.
"""

from __future__ import annotations

import csv
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inference.anatomy import BOX_NAMES, POINT_NAMES
from inference.pose import fit_pose, template_points
from training.errors import DataError
from training.radiographs import is_project_folder

Point = tuple[float, float]

_log = logging.getLogger(__name__)

DISAGREEMENT = 0.05
"""Two readers' poses of one hand differ by less than this, in template units; else one read another version."""
SIZE_TOLERANCE = 4.0
"""Two readers' pictures of one film differ by no more pixels; all boxes are said to be in pixels of the original."""
LEAST_POINTS = 6
"""So many points of each reader are needed to compare them."""

Box = tuple[Point, Point]
"""A centre and a size."""

RUS_CLASSES = {
    "Radius": 1,
    "Ulna": 1,
    "MCPFirst": 1,
    "MCP": 4,
    "ProximalPhalanx": 5,
    "MiddlePhalanx": 4,
    "DistalPhalanx": 5,
}
_FINGERS = {
    "MCP": ("MC2", "MC3", "MC4", "MC5"),
    "ProximalPhalanx": ("PP1", "PP2", "PP3", "PP4", "PP5"),
    "MiddlePhalanx": ("MP2", "MP3", "MP4", "MP5"),
    "DistalPhalanx": ("DP1", "DP2", "DP3", "DP4", "DP5"),
}
_JOINT_CLASSES = {
    "MCP": ("J-MCP1", "J-MCP2", "J-MCP3", "J-MCP4", "J-MCP5"),
    "PIP": ("J-IP1", "J-PIP2", "J-PIP3", "J-PIP4", "J-PIP5"),
    "DIP": ("J-DIP2", "J-DIP3", "J-DIP4", "J-DIP5"),
}
_KEYPOINTS = {
    "thumb1": "CMC1", "thumb2": "J-MCP1", "thumb3": "J-IP1", "thumb4": "TIP1",
    "forefinger1": "J-MCP2", "forefinger2": "J-PIP2", "forefinger3": "J-DIP2", "forefinger4": "TIP2",
    "middle_finger1": "J-MCP3", "middle_finger2": "J-PIP3", "middle_finger3": "J-DIP3", "middle_finger4": "TIP3",
    "ring_finger1": "J-MCP4", "ring_finger2": "J-PIP4", "ring_finger3": "J-DIP4", "ring_finger4": "TIP4",
    "pinky_finger1": "J-MCP5", "pinky_finger2": "J-PIP5", "pinky_finger3": "J-DIP5", "pinky_finger4": "TIP5",
}  # fmt: skip


@dataclass(slots=True)
class Annotation:
    """Named points ``(x, y)`` and box sizes ``(width, height)``, relative to the film's width and height (0..1)."""

    rsna_id: int
    aspect: float  # columns / rows of the original film
    points: dict[str, Point] = field(default_factory=dict)
    sizes: dict[str, Point] = field(default_factory=dict)
    pictures: set[tuple[float, float]] = field(default_factory=set)  # (columns, rows) of those its readers had

    def array(self) -> npt.NDArray[np.float32]:
        """Return shape (len(POINT_NAMES), 2), NaN where a point is not annotated."""
        return np.array([self.points.get(name, (np.nan, np.nan)) for name in POINT_NAMES], dtype=np.float32)

    def size_array(self) -> npt.NDArray[np.float32]:
        """Return shape (len(BOX_NAMES), 2), NaN where a box is not annotated."""
        return np.array([self.sizes.get(name, (np.nan, np.nan)) for name in BOX_NAMES], dtype=np.float32)


def _by_angle(origin: npt.NDArray[np.float64], start: npt.NDArray[np.float64], points: list[Point]) -> list[int]:
    """Order points by the angle their direction from the origin makes with the start direction."""
    directions = np.array(points) - origin
    cosines = directions @ start / (np.linalg.norm(directions, axis=1) * np.linalg.norm(start) + 1e-9)
    return [int(i) for i in np.argsort(-cosines)]


def _annotation_of(annotations: dict[int, Annotation], rsna_id: int, columns: float, rows: float) -> Annotation:
    """Return a film's annotation, a new one if need be, with the size of one more reader's picture of it."""
    annotation = annotations.setdefault(rsna_id, Annotation(rsna_id, columns / rows))
    annotation.pictures.add((columns, rows))
    return annotation


def _read_rus_boxes(path: Path, annotations: dict[int, Annotation]) -> None:
    films: dict[int, list[dict[str, str]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            films[int(row["rsna_id"])].append(row)
    for rsna_id, rows in films.items():
        width, height = float(rows[0]["image_width"]), float(rows[0]["image_height"])
        boxes: dict[str, list[Box]] = defaultdict(list)
        for row in rows:
            x0, y0, x1, y1 = (float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
            centre = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height)
            boxes[row["label"]].append((centre, ((x1 - x0) / width, (y1 - y0) / height)))
        if not is_complete(boxes):
            continue  # a box too many or too few makes the order of the fingers a guess
        add_rus_boxes(_annotation_of(annotations, rsna_id, width, height), boxes)


def is_complete(boxes: Mapping[str, list[Box]]) -> bool:
    """Tell whether there are as many boxes of each class as a hand has, so that fingers can be told apart."""
    return all(len(boxes.get(label, ())) == count for label, count in RUS_CLASSES.items())


def add_rus_boxes(annotation: Annotation, boxes: Mapping[str, list[Box]]) -> None:
    """Name a complete set of boxes by geometry, thumb first, and add them; relative to the film's width and height."""
    stretch = np.array((annotation.aspect, 1.0))  # angles are those of the film, not of a square
    named = {"radius": boxes["Radius"][0], "ulna": boxes["Ulna"][0], "MC1": boxes["MCPFirst"][0]}
    radius, ulna, thumb = (np.array(named[name][0]) * stretch for name in ("radius", "ulna", "MC1"))
    fingers = np.mean([centre for centre, _ in boxes["DistalPhalanx"]], axis=0) * stretch
    if (ulna - thumb) @ (fingers - radius) > 0:  # no ulna ends nearer to the finger tips: the two names were swapped
        named["ulna"], named["MC1"], ulna, thumb = named["MC1"], named["ulna"], thumb, ulna
        _log.info("film %d: ulna and first metacarpal were named the wrong way round", annotation.rsna_id)
    wrist = (radius + ulna) / 2
    start = thumb - wrist + 0.8 * (radius - ulna)  # past the thumb's side of the thumb
    for label, names in _FINGERS.items():
        found = boxes[label]
        order = _by_angle(wrist, start, [(x * annotation.aspect, y) for (x, y), _ in found])
        named.update({name: found[place] for name, place in zip(names, order, strict=True)})
    for name, (centre, size) in named.items():
        annotation.points[name], annotation.sizes[name] = centre, size


def _read_joint_boxes(path: Path, annotations: dict[int, Annotation]) -> None:
    films: dict[tuple[int, str], list[dict[str, str]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            films[int(row["rsna_id"]), row["split"]].append(row)
    for (rsna_id, reader), rows in sorted(films.items()):
        if reader == "eval_nonexpert":
            continue  # the same films as the expert's, read again
        width, height = float(rows[0]["ref_width"]), float(rows[0]["ref_height"])
        centres: dict[str, list[Point]] = defaultdict(list)
        for row in rows:
            x0, y0, x1, y1 = (float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
            centres[row["label"]].append(((x0 + x1) / 2, (y0 + y1) / 2))
        single = all(len(centres[label]) == 1 for label in ("Radius", "Ulna", "Wrist"))
        if not single or any(len(centres[label]) != len(names) for label, names in _JOINT_CLASSES.items()):
            continue
        radius, ulna = np.array(centres["Radius"][0]), np.array(centres["Ulna"][0])
        annotation = _annotation_of(annotations, rsna_id, width, height)
        wrist = (radius + ulna) / 2
        for label, names in _JOINT_CLASSES.items():
            order = _by_angle(wrist, radius - ulna, centres[label])
            for name, place in zip(names, order, strict=True):
                x, y = centres[label][place]
                annotation.points.setdefault(name, (x / width, y / height))
        for name, label in (("J-radius", "Radius"), ("J-ulna", "Ulna"), ("J-carpus", "Wrist")):
            x, y = centres[label][0]
            annotation.points[name] = (x / width, y / height)


def _read_keypoints(path: Path, annotations: dict[int, Annotation]) -> None:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            rsna_id, width, height = int(row["rsna_id"]), float(row["ref_width"]), float(row["ref_height"])
            annotation = _annotation_of(annotations, rsna_id, width, height)
            for key, name in _KEYPOINTS.items():
                if row[f"{key}_v"] == "2":
                    annotation.points[name] = (float(row[f"{key}_x"]) / width, float(row[f"{key}_y"]) / height)


_SETS: dict[str, Callable[[Path, dict[int, Annotation]], None]] = {
    "rus_boxes_881.csv": _read_rus_boxes,
    "ossification_rois_koitka2018.csv": _read_joint_boxes,
    "keypoints21.csv": _read_keypoints,
}


def read_annotations(data: Path) -> dict[int, Annotation]:
    """Read all three sets; of a folder in another layout the boxes in ``annotations`` (``sources.boxes``), if any.

    Boxes of RSNA's layout and a site's belong to the films of the folder's table, and must.

    Films whose boxes cannot be ordered are left out of the set concerned. Films on which two readers disagree about
    where the hand lies, or how large the film is, are left out altogether, and named in the log: one of them had
    another version of the film.

    Raises
    ------
    DataError
        If a set is missing or broken, or boxes or films of another layout have problems.
    """
    from training.sources import open_source
    from training.sources.boxes import read_boxes  # it makes the same annotations, by this module's functions

    folder = data / "annotations"
    if not (folder / "rus_boxes_881.csv").is_file():
        if not folder.is_dir():
            return {}
        source = None if is_project_folder(data) else open_source(data)
        if source is not None:
            source.refuse_problems()  # a line that is wrong is a film that boxes do not find
        return read_boxes(folder, source)
    annotations = read_all_sets(folder)
    contradictory = [rsna_id for rsna_id, annotation in annotations.items() if is_contradictory(annotation)]
    if contradictory:
        _log.info("left out, since its annotations contradict each other: %s", sorted(contradictory))
    return {rsna_id: a for rsna_id, a in annotations.items() if rsna_id not in contradictory}


def read_all_sets(folder: Path) -> dict[int, Annotation]:
    """Read this project's three sets as they are, films on which readers disagree included.

    Raises
    ------
    DataError
        If a set is missing or broken.
    """
    annotations: dict[int, Annotation] = {}
    for name, read in _SETS.items():
        try:
            read(folder / name, annotations)
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read ({error.strerror}); restore it.") from error
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise DataError(f"{folder / name} has a line without its columns or numbers; restore it.") from error
    return annotations


def is_contradictory(annotation: Annotation) -> bool:
    """Tell whether a film's readers had different versions of it: they place the hand, or size the film, otherwise."""
    spread = np.ptp(list(annotation.pictures or {(0.0, 0.0)}), axis=0)
    return bool(spread.max() > SIZE_TOLERANCE) or disagreement(annotation) > DISAGREEMENT


def disagreement(annotation: Annotation) -> float:
    """Return how far apart the boxes and the joints of one film place the hand, in template units; 0 without both."""
    film = annotation.array().astype(np.float64) * (annotation.aspect, 1.0)
    template = template_points()
    boxes, joints = (
        np.where(np.array([(name in BOX_NAMES) is of_boxes for name in POINT_NAMES])[:, None], film, np.nan)
        for of_boxes in (True, False)
    )
    if min(np.isfinite(boxes).all(1).sum(), np.isfinite(joints).all(1).sum()) < LEAST_POINTS:
        return 0.0
    by_boxes, by_joints = fit_pose(template, boxes), fit_pose(template, joints)
    distance = np.linalg.norm(by_boxes.to_film(template) - by_joints.to_film(template), axis=1)
    return float(distance.mean() / by_joints.scale)
