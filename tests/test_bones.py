"""How precise-baa's localiser is taught: samples, runs, joining. Does not cover how well it then finds bones."""

import json

import cv2
import numpy as np
import pytest
import torch

from inference.anatomy import BOX_NAMES
from inference.bone_detector import BoneDetector
from inference.method import open_method
from inference.palm import PalmNet
from inference.pose import Pose, template_points
from inference.precise_baa import FourStageNet, PreciseNet
from training import bones
from training.bones import box_batches, draw_palm, has_all_bones, join, palm_batches
from training.detector import AnnotatedFilm
from training.errors import RunError
from training.recipe import read_recipe
from training.run import read_about, read_run, write_about


@pytest.fixture(autouse=True)
def one_thread():
    """Many small steps are slow where several threads fight for a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def annotated() -> AnnotatedFilm:
    """Discs at the landmarks, and boxes around the bones."""
    pose = Pose(np.array([[360.0, 0, -20], [0, 360.0, 10]]))
    image, points = np.full((400, 320), 20, dtype=np.uint8), pose.to_film(template_points())
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 6, 220, -1)
    return AnnotatedFilm(image, points, np.full((len(BOX_NAMES), 2), 0.12), pose)


def test_samples_hold_the_hand_and_its_bones(annotated):
    assert has_all_bones(annotated)
    palm = next(palm_batches([annotated], 2, 1))
    assert palm.film.shape == (2, 1, 512, 512)
    assert palm.mask.shape == (2, 1, 256, 256)
    assert 0.1 < palm.mask.mean() < 0.6
    boxes = next(box_batches([annotated], 2, 2))
    assert boxes.boxes.shape == (2, 13, 4)
    for film, found in zip(boxes.film[:, 0], boxes.boxes, strict=True):
        for x, y in ((found[:, :2] + found[:, 2:]) / 2).round().int().tolist():
            assert film[y, x] > 0, "every box has a bright bone in its middle"
        assert (film[:5, :5] == -1).all()
    assert not has_all_bones(
        AnnotatedFilm(annotated.pixels, annotated.points * np.nan, annotated.sizes, annotated.pose)
    )


def test_the_palms_mask_covers_all_points(annotated):
    mask = draw_palm(annotated.points, annotated.pose.scale, 512)
    rows, columns = np.rint(annotated.points).astype(int).T[::-1]
    assert mask[rows, columns].all()


def test_runs_of_both_nets_are_begun_and_finished(annotated, tmp_path, monkeypatch):
    """Given data of one film, when both nets are trained for a step, then each run has its width, data and weights."""
    monkeypatch.setattr(bones, "annotated_films", lambda _: [annotated])
    short = {"steps_per_epoch": 1, "batch": 1}
    monkeypatch.setattr(bones, "STRETCHES", {k: v.model_copy(update=short) for k, v in bones.STRETCHES.items()})
    for target, net in (("palm", PalmNet(0.02)), ("detector", BoneDetector(width=0.02))):
        run = tmp_path / target
        options = ["--width", "0.02", "--epochs", "1", "--precision", "float32", "--device", "cpu", "--threads", "1"]
        assert bones.main([target, "--data", str(tmp_path), "--run", str(run), *options]) == 0
        assert read_about(run)["width"] == 0.02
        net.load_state_dict(read_run(run))


def test_the_papers_localiser_is_joined_to_a_run(tmp_path):
    """Given runs of all three nets, when they are joined, then the new run's weights fit the four-stage net."""
    recipe = read_recipe("precise-baa").model_dump(mode="json")
    recipe["method"] |= {"growth": 4}
    nets = {"precise-baa": PreciseNet(4), "palm": PalmNet(0.02), "detector": BoneDetector(width=0.02)}
    for name, net in nets.items():
        (tmp_path / name).mkdir()
        write_about(tmp_path / name, {"target": name, "width": 0.02, "recipe": recipe})
        torch.save(net.state_dict(), tmp_path / name / "final.pt")
    join(tmp_path / "precise-baa", tmp_path / "palm", tmp_path / "detector", tmp_path / "all")
    about = read_about(tmp_path / "all")
    method = open_method("precise-baa", about["recipe"]["method"])
    net = method.make_net()
    assert isinstance(net, FourStageNet)
    net.load_state_dict(read_run(tmp_path / "all"))
    with pytest.raises(RunError, match="in this order"):
        join(tmp_path / "palm", tmp_path / "palm", tmp_path / "detector", tmp_path / "none")
    write_about(tmp_path / "palm", json.loads((tmp_path / "palm" / "run.json").read_text()) | {"width": 1.0})
    with pytest.raises(RunError, match="one width"):
        join(tmp_path / "precise-baa", tmp_path / "palm", tmp_path / "detector", tmp_path / "none")
