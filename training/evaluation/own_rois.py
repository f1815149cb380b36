"""How well the methods' own detectors find their regions, where they have weights of one.

By default every method reads with the shared detector, whose figures are the evaluation's ``roi``. Three methods have a
detector of their own:

* ``global-local``: the one-stage detector, where its bundle has ``regions.safetensors``, used or not;
* ``ala-net``: its region proposals, a part of the network and always in use. They are 17 and bear no names. Here
  each is given to one of the 17 key points so that all overlap most (Hungarian method); what goes to one of the four
  carpal points, which nobody annotated, is left out. True boxes are squares of the method's side around the annotated
  bones, not the readers' boxes, and all count as one class, as in the paper;
* ``precise-baa``: palm and cascade, where its bundle has ``localiser.safetensors``, used or not.

All see what the node's engine gives a method: the film without flat borders, bones bright, and, for ``ala-net``, the
upright hand that the shared detector found; a film without a hand has no regions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment

from inference.ala_net import BOX_SHARE, KEY_POINTS, WINDOW, AlaNetMethod
from inference.anatomy import POINT_NAMES, ROI_NAMES, RUS_NAMES
from inference.bundle import DETECTOR, Bundle, open_bundle
from inference.engine import LocatedHand, choose_hand
from inference.film import without_border
from inference.finding import Box, Roi
from inference.global_local import REGIONS_FILE, GlobalLocalMethod, square_film
from inference.method import AGE_WEIGHTS, open_method
from inference.pose import Pose
from inference.precise_baa import FILM_SIDE, LOCALISER_FILE, PreciseMethod
from inference.preparation import fit_film, hand_length, roi_centres, to_units
from inference.torch_backend import OnDevice, TorchLocator, as_batch, choose_device, load_net
from inference.yolo import locate_in_square
from training.annotations import Annotation, read_annotations
from training.evaluation.rois import FilmRois, compare_rois, iou, is_complete, is_sharp, roi_figures
from training.radiographs import Radiograph, load_half, load_small, read_split

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

Find = Callable[[Grey, LocatedHand], list[Roi]]
"""Finds regions in an image with bones bright and one hand; boxes in its pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class OwnDetector:
    """A method's own detector."""

    find: Find
    named: bool
    """Whether its regions bear names of ``inference.anatomy.ROI_NAMES``."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxedFilm:
    """A film with a complete annotation, as no training saw it."""

    film: Radiograph
    annotation: Annotation


def boxed_films(data: Path, part: str) -> list[BoxedFilm]:
    """Return the films of a part whose 21 boxes are annotated; for the test part, those set aside at 100 x 100, too."""
    if not (data / "annotations").is_dir():
        return []
    split, annotations = read_split(), read_annotations(data)
    aspects = {rsna_id: annotation.aspect for rsna_id, annotation in annotations.items()}
    films = load_half(data, [part], split)
    films += load_small(data, ["annotation-test"], split, aspects) if part == "test" else []
    known = ((film, annotations.get(film.reading.rsna_id)) for film in films)
    return [BoxedFilm(film, found) for film, found in known if found is not None and is_complete(found)]


def open_own(bundle: Bundle, device: torch.device) -> OwnDetector | None:
    """Return the detector of a bundle's method, None where it has no weights of one."""
    if "members" in bundle.metadata:
        return None
    method = open_method(bundle.folder.name, bundle.config)
    if isinstance(method, GlobalLocalMethod) and REGIONS_FILE in bundle.metadata["weights_sha256"]:
        return OwnDetector(_one_stage(method, bundle, device), named=True)
    if isinstance(method, AlaNetMethod):
        return OwnDetector(_proposals(method, bundle, device), named=False)
    if isinstance(method, PreciseMethod) and LOCALISER_FILE in bundle.metadata["weights_sha256"]:
        return OwnDetector(_cascade(method, bundle, device), named=True)
    return None


def _one_stage(method: GlobalLocalMethod, bundle: Bundle, device: torch.device) -> Find:
    net = method.make_localiser()
    net.load_state_dict(bundle.read_weights(REGIONS_FILE))
    net.eval().to(device)

    def find(image: Grey, hand: LocatedHand) -> list[Roi]:  # noqa: ARG001 - as Find has it
        square, scale = square_film(image)
        with torch.inference_mode():
            found = locate_in_square(net, as_batch(to_units(square)[None]).to(device), method.detector.side)
        return _named(ROI_NAMES, found.boxes[0] / scale, found.scores[0])

    return find


def _cascade(method: PreciseMethod, bundle: Bundle, device: torch.device) -> Find:
    net = method.make_localiser()
    net.load_state_dict(bundle.read_weights(LOCALISER_FILE))
    net.eval().to(device)

    def find(image: Grey, hand: LocatedHand) -> list[Roi]:  # noqa: ARG001 - as Find has it
        square, scale = fit_film(image, FILM_SIDE)
        with torch.inference_mode():
            found = net(as_batch(to_units(square)[None]).to(device))
        return _named(RUS_NAMES, found.boxes[0] / scale, found.scores[0])

    return find


def _named(names: tuple[str, ...], boxes: torch.Tensor, scores: torch.Tensor) -> list[Roi]:
    columns = zip(names, boxes.cpu().tolist(), scores.cpu().tolist(), strict=True)
    return [Roi(name, Box(*box), score) for name, box, score in columns if score > 0 and _has_area(box)]


def _has_area(box: list[float]) -> bool:
    return box[2] > box[0] and box[3] > box[1]


def _proposals(method: AlaNetMethod, bundle: Bundle, device: torch.device) -> Find:
    net = load_net(method.make_net(), bundle, AGE_WEIGHTS, device)
    assert isinstance(net, OnDevice)
    pixel = (WINDOW[3] - WINDOW[1]) / method.rows  # in template units

    def find(image: Grey, hand: LocatedHand) -> list[Roi]:
        pose = hand.landmarks.pose
        (upright,) = method.prepare(image, pose, roi_centres(hand.landmarks.points, pose))
        with torch.inference_mode():
            extras = net(as_batch(to_units(upright)[None]), torch.ones(1)).extras
        boxes, scores = extras["boxes"][0].double().numpy(), extras["box_scores"][0].tolist()
        placed = _on_film(boxes * pixel + np.tile(WINDOW[:2], 2), pose)
        return [Roi("", Box(*box), score) for box, score in zip(placed.tolist(), scores, strict=True) if _has_area(box)]

    return find


def _on_film(boxes: Float, pose: Pose) -> Float:
    """Carry boxes (n, 4) of the template's plane to film pixels: their middles go along, their sides are scaled."""
    middles = pose.to_film((boxes[:, :2] + boxes[:, 2:]) / 2)
    halves = (boxes[:, 2:] - boxes[:, :2]) / 2 * pose.scale
    return np.concatenate([middles - halves, middles + halves], axis=1)


def compare_unnamed(one: BoxedFilm, rois: list[Roi], pose: Pose, carpal: Float) -> FilmRois:
    """Set regions without names, in film pixels, beside squares around the key points.

    Parameters
    ----------
    one
        The film with its annotation.
    rois
        What was found.
    pose
        Of the hand in the film; its scale is that of the squares.
    carpal
        Shape (4, 2): the carpal key points as the shared detector has them, film pixels.
    """
    rows, columns = one.film.pixels.shape
    points = one.annotation.array().astype(np.float64) * (columns, rows)
    bones = points[[POINT_NAMES.index(name) for name in RUS_NAMES]]
    half = BOX_SHARE * (WINDOW[3] - WINDOW[1]) * pose.scale / 2
    truths = [(x - half, y - half, x + half, y + half) for x, y in np.concatenate([bones, carpal]).tolist()]
    boxes = [(roi.box.x0, roi.box.y0, roi.box.x1, roi.box.y1) for roi in rois]
    table = np.array([[iou(box, truth) for truth in truths] for box in boxes]).reshape(len(boxes), len(truths))
    count, length = len(RUS_NAMES), float(hand_length(points))
    ious, scores, distances = np.zeros(count), np.zeros(count), np.full(count, np.inf)
    found = np.zeros(count, dtype=bool)
    for place, truth in zip(*linear_sum_assignment(-table), strict=True):
        if truth < count:
            ious[truth], scores[truth], found[truth] = table[place, truth], rois[place].score, True
            distances[truth] = np.hypot(*(np.array(rois[place].box.centre) - bones[truth])) / length
    return FilmRois(is_sharp(one.film), ious, scores, distances, found)


def own_roi_figures(
    name: str, films: list[BoxedFilm], *, threads: int, device: str, folder: Path | None = None
) -> dict[str, Any] | None:
    """Return the figures of a method's own detector, as ``roi_figures`` has them.

    None where the method has no weights of one, or there are no films.
    """
    where = choose_device(device, threads)
    own = open_own(open_bundle(name, folder), where)
    if own is None or not films:
        return None
    locator = TorchLocator(open_bundle(DETECTOR), where)
    return roi_figures([_judge(own, locator, one) for one in films], one_class=not own.named)


def _judge(own: OwnDetector, locator: TorchLocator, one: BoxedFilm) -> FilmRois:
    image, corner = without_border(one.film.pixels)
    hands, image, _ = locator.locate(image)
    if not hands:
        return compare_rois(one.film, [], one.annotation)
    hand = choose_hand(hands, image.shape[1])
    rois = [Roi(roi.name, roi.box.moved(*corner), roi.score) for roi in own.find(image, hand)]
    if own.named:
        return compare_rois(one.film, rois, one.annotation)
    pose = hand.landmarks.pose
    carpal = roi_centres(hand.landmarks.points, pose)[len(RUS_NAMES) : len(KEY_POINTS)] + corner
    return compare_unnamed(one, rois, pose, carpal)


def detector_of(bundle: Bundle) -> str:
    """Say which detector a method takes its regions from: "own" or "shared"."""
    own = bundle.folder.name == AlaNetMethod.name or bundle.config.get("localiser") == "paper"
    return "own" if own else "shared"
