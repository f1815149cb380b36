"""The methods' own detectors beside annotated boxes, and what compare says of them, with made-up detectors.

Not covered: how well the shipped ones find regions (boneage-node evaluate measures it).
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from inference.ala_net import BOX_SHARE, KEY_POINTS, WINDOW
from inference.anatomy import BOX_NAMES, POINT_NAMES, ROI_NAMES, RUS_NAMES
from inference.bundle import Bundle
from inference.finding import Box, Roi, Sex
from inference.global_local import REGIONS_FILE
from inference.pose import Pose, template_points
from inference.preparation import roi_centres
from inference.yolo import RegionNet, Regions
from training.annotations import Annotation
from training.compare import compare, comparison_page, milliseconds, roi_rows
from training.evaluation import own_rois
from training.evaluation.contestants import Contestant, from_evaluation
from training.evaluation.own_rois import BoxedFilm, compare_unnamed, detector_of, open_own
from training.evaluation.reading import Row
from training.evaluation.rois import FilmRois, average_precisions, compare_rois, roi_figures
from training.radiographs import Radiograph, Reading

POSE = Pose(np.array([[300.0, 0, 10], [0, 300.0, 5]]))
SIDE = BOX_SHARE * (WINDOW[3] - WINDOW[1]) * 300


def boxed() -> BoxedFilm:
    """A blank film whose annotation is the template's hand, all boxes 30 pixels wide."""
    film = Radiograph(Reading(7, 100.0, Sex.MALE, "test"), np.zeros((330, 320), dtype=np.uint8))
    points = POSE.to_film(template_points()) / (320, 330)
    annotation = Annotation(7, 320 / 330, dict(zip(POINT_NAMES, map(tuple, points.tolist()), strict=True)))
    annotation.sizes.update(dict.fromkeys(BOX_NAMES, (30 / 320, 30 / 330)))
    return BoxedFilm(film, annotation)


def square(x: float, y: float, side: float) -> Box:
    return Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def key_points() -> np.ndarray:
    return roi_centres(POSE.to_film(template_points()), POSE)[: len(KEY_POINTS)]


def test_regions_without_names_are_given_to_the_key_points_they_overlap():
    """Given 17 squares in any order, one of them astray, then 12 bones are found, and carpal points do not count."""
    points = key_points()
    rois = [Roi("", square(x, y, SIDE), 0.9) for x, y in points]
    rois[2] = Roi("", square(5, 5, SIDE), 0.4)
    shuffled = [rois[place] for place in np.random.default_rng(1).permutation(17)]
    found = compare_unnamed(boxed(), shuffled, POSE, points[13:])
    assert found.found.all()
    assert np.flatnonzero(found.ious < 0.99).tolist() == [2]
    assert found.scores[2] == 0.4
    assert found.distances[[0, 1, *range(3, 13)]].max() < 1e-6
    figures = roi_figures([found], one_class=True)
    assert figures["precision"] == figures["recall"] == pytest.approx(12 / 13)
    fewer = compare_unnamed(boxed(), rois[:2], POSE, points[13:])
    assert fewer.found.sum() == 2
    assert compare_unnamed(boxed(), [], POSE, points[13:]).found.sum() == 0


def test_as_one_class_a_confident_mistake_costs_every_bone():
    """Given one bone always wrong with the highest score, then as classes of their own 12 of 13 are perfect."""
    ious, scores = np.full(13, 0.95), np.full(13, 0.5)
    ious[4], scores[4] = 0.0, 0.99
    films = [FilmRois(True, ious, scores, np.zeros(13), np.ones(13, dtype=bool))] * 3
    assert average_precisions(films)["ap50"] == pytest.approx(12 / 13)
    assert average_precisions(films, one_class=True)["ap50"] < 0.9


def test_named_regions_are_judged_against_the_readers_boxes():
    one = boxed()
    points = POSE.to_film(template_points())
    rois = [Roi(name, square(*points[POINT_NAMES.index(name)], 30), 0.8) for name in RUS_NAMES[1:]]
    found = compare_rois(one.film, rois, one.annotation)
    assert found.ious[1:] == pytest.approx(np.ones(12))
    assert not found.found[0]


def bundle(name: str, config: dict, *files: str) -> Bundle:
    root = SimpleNamespace(name=name)
    return Bundle(root, {"weights_sha256": dict.fromkeys(files, "x")}, config)


def test_methods_without_weights_of_a_detector_have_none():
    cpu = torch.device("cpu")
    assert open_own(bundle("global-local", {"width": 0.0625}, "model.safetensors"), cpu) is None
    assert open_own(bundle("precise-baa", {"growth": 4}, "model.safetensors"), cpu) is None
    assert open_own(Bundle(SimpleNamespace(name="a+b"), {"members": {"a": 1}}, {}), cpu) is None
    assert detector_of(bundle("global-local", {"width": 0.0625})) == "shared"
    assert detector_of(bundle("global-local", {"width": 0.0625, "localiser": "paper"})) == "own"
    assert detector_of(bundle("ala-net", {"width": 0.25})) == "own"


def test_the_one_stage_detectors_boxes_come_back_in_the_films_pixels(monkeypatch):
    """Given a detector that finds one box in the square of 640 pixels, then it is named and scaled to the film."""
    config = {"width": 0.0625, "detector_width": 0.125, "detector_side": 320}
    made = bundle("global-local", config, REGIONS_FILE)
    monkeypatch.setattr(Bundle, "read_weights", lambda *_: RegionNet(0.125, 0.33).state_dict())
    boxes, scores = torch.zeros(1, 18, 4), torch.zeros(1, 18)
    boxes[0, 3], scores[0, 3] = torch.tensor([64.0, 128, 96, 192]), 0.7
    sides = []
    monkeypatch.setattr(
        own_rois, "locate_in_square", lambda net, film, side: sides.append((film.shape, side)) or Regions(boxes, scores)
    )
    own = open_own(made, torch.device("cpu"))
    (roi,) = own.find(np.full((320, 200), 9, dtype=np.uint8), None)
    assert own.named
    assert sides == [((1, 1, 640, 640), 320)]
    assert (roi.name, roi.box) == (ROI_NAMES[3], Box(32, 64, 48, 96))
    assert roi.score == pytest.approx(0.7)


ROWS = [Row(i, "MF"[i % 2], 50.0 + 9 * i, 52.0 + 9 * i, 40.0 + 9 * i, 60.0 + 9 * i, None, 60.0) for i in range(1, 9)]
COST = {"parameters": 4_100_000, "megabytes": 12.0, "threads": 2, "device": "cpu"}


def figures(precision: float) -> dict:
    perfect = FilmRois(True, np.ones(13), np.ones(13), np.zeros(13), np.ones(13, dtype=bool))
    return roi_figures([perfect]) | {"precision": precision}


def test_compare_says_whose_detector_found_what_beside_the_papers():
    """Given a method with a detector that it reads with, one with a detector unused, one without, then all is told."""
    made = [
        Contestant("a", "ala-net", {}, ROWS, COST, {"detector": "own", "shared": figures(0.9), "own": figures(0.8)}),
        Contestant(
            "b", "global-local", {}, ROWS, COST, {"detector": "shared", "shared": figures(0.9), "own": figures(0.7)}
        ),
        Contestant("c", "house", {}, ROWS, COST, {"detector": "shared", "shared": figures(0.9), "own": None}),
        Contestant("d", "house", {}, ROWS, COST),
    ]
    comparison = compare(made, "test")
    rows = [row[:4] for row in roi_rows(comparison)]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("a", "its own detector", "80.0 %"),
        ("a", "shared detector, not used", "90.0 %"),
        ("  paper", "17 regions around key points", "\N{EN DASH}"),
        ("b", "shared detector", "90.0 %"),
        ("b", "its own detector, not used", "70.0 %"),
        ("  paper", "100 films, IoU 0.5", "99.7 %"),
        ("c", "shared detector", "90.0 %"),
    ]
    assert "Regions of interest" in comparison_page(comparison)
    assert "Regions of interest" not in comparison_page(compare(made[3:], "test"))


def test_a_kept_evaluation_brings_its_regions(tmp_path):
    table = {"model": {"method": "ala-net"}, "config": {}, "cost": COST, "part": "test", "detector": "own"}
    table |= {"rows": [{k: getattr(row, k) for k in Row.__dataclass_fields__} for row in ROWS]}
    table |= {"roi": {"all": {"films": 3}}, "own_roi": {"films": 2}}
    (tmp_path / "e.json").write_text(json.dumps(table))
    made, _ = from_evaluation(tmp_path / "e.json")
    assert made.rois == {"detector": "own", "shared": {"films": 3}, "own": {"films": 2}}


@pytest.mark.parametrize(
    ("cost", "told"),
    [({"device": "cpu"}, (40.0, None)), ({"device": "cuda"}, (None, 40.0)),
     ({"device": "cpu", "cuda_milliseconds": 5.0}, (40.0, 5.0))],
)  # fmt: skip
def test_times_on_cpu_and_cuda_stand_apart(cost, told):
    assert milliseconds({"milliseconds_median": 40.0, "cost": cost}) == told
