"""How precise-baa's localiser is taught: samples, runs, export. Does not cover how well it then finds bones."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from inference import catalogue
from inference.anatomy import BOX_NAMES
from inference.bone_detector import BoneDetector
from inference.bundle import bundles_folder, open_bundle
from inference.engine import Engine
from inference.errors import BundleError
from inference.method import open_method, weight_files_of
from inference.palm import PalmNet
from inference.pose import Pose, template_points
from inference.precise_baa import LOCALISER_FILE, FourStageNet, PreciseNet
from inference.torch_backend import load_net
from training import bones, export
from training.bones import box_batches, draw_palm, has_all_bones, palm_batches
from training.detector import AnnotatedFilm
from training.errors import RecipeError
from training.films import AgeFilms
from training.recipe import read_recipe
from training.run import begin_run, finish_run, read_about, read_run, write_about
from training.train import Job, train_age


@pytest.fixture(autouse=True)
def one_thread():
    """Many small steps are slow where several threads fight for a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def known_layout(tmp_path):
    """Data folders of these tests are this project's own layout: whose films they are is then known."""
    (tmp_path / "rsna2017").mkdir()


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


def test_runs_of_both_nets_are_begun_and_finished(annotated, tmp_path, monkeypatch, caplog):
    """Given data of one film, when both nets are trained for a step, then each run has its width, data and weights.

    Another width in the same folder is refused before films are opened.
    """
    monkeypatch.setattr(bones, "annotated_films", lambda _: [annotated])
    short = {"steps_per_epoch": 1, "batch": 1}
    monkeypatch.setattr(bones, "STRETCHES", {k: v.model_copy(update=short) for k, v in bones.STRETCHES.items()})
    for target, net in (("palm", PalmNet(0.02)), ("detector", BoneDetector(width=0.02))):
        run = tmp_path / target
        options = ["--width", "0.02", "--epochs", "1", "--precision", "float32", "--device", "cpu", "--threads", "1"]
        assert bones.main([target, "--data", str(tmp_path), "--run", str(run), *options]) == 0
        about = read_about(run)
        assert about["width"] == 0.02
        assert "RSNA" in about["data_terms"]
        net.load_state_dict(read_run(run))
    monkeypatch.setattr(bones, "annotated_films", lambda _: pytest.fail("films were opened"))
    again = ["palm", "--data", str(tmp_path), "--run", str(tmp_path / "palm"), *options, "--width", "0.04"]
    assert bones.main(again) == 2
    assert "another width" in caplog.text


def test_the_papers_schedule_is_trained_when_asked_for(annotated, tmp_path, monkeypatch):
    monkeypatch.setattr(bones, "annotated_films", lambda _: [annotated])
    short = bones.PAPER_STRETCHES["palm"].model_copy(update={"steps_per_epoch": 1, "batch": 1})
    monkeypatch.setattr(bones, "PAPER_STRETCHES", {"palm": short})
    options = ["--width", "0.02", "--epochs", "1", "--precision", "float32", "--device", "cpu", "--threads", "1"]
    assert bones.main(["palm", "--paper", "--data", str(tmp_path), "--run", str(tmp_path / "palm"), *options]) == 0
    recipe = read_about(tmp_path / "palm")["recipe"]
    assert (recipe["optimiser"], recipe["momentum"], recipe["rate"]) == ("sgd", 0.99, "constant")


@pytest.fixture
def bundle_and_runs(tmp_path, monkeypatch):
    """A bundle of precise-baa, where exports go to, and runs of palm net and detector; all tiny."""
    root = tmp_path / "bundles"
    monkeypatch.setattr(export, "bundles_folder", lambda: root)
    recipe = read_recipe("precise-baa").model_dump(mode="json")
    recipe["method"] |= {"growth": 4}
    nets = {"precise-baa": PreciseNet(4), "palm": PalmNet(0.02), "detector": BoneDetector(width=0.02)}
    for name, net in nets.items():
        begin_run(tmp_path / name, {"target": name, "width": 0.02, "seed": 1, "data_sha256": "x", "recipe": recipe})
        finish_run(tmp_path / name, net)
    assert export.main(["age", "--run", str(tmp_path / "precise-baa")]) == 0
    return root, tmp_path


def test_the_localiser_is_exported_beside_the_weights_and_used_when_asked_for(bundle_and_runs):
    """Given a bundle and both runs, then both localisers open it; exporting the age again keeps the localiser."""
    root, runs = bundle_and_runs
    options = ["bones", "--palm", str(runs / "palm"), "--detector", str(runs / "detector")]
    intervals = root / "precise-baa" / "configs" / "calibration.json"
    shutil.copy(bundles_folder() / "precise-baa" / "configs" / "calibration.json", intervals)
    card = root / "precise-baa" / "docs" / "README.md"
    card.parent.mkdir()
    card.write_text("# Card\n\n<!-- sha256 -->\n<!-- /sha256 -->\n")
    for more, localiser in (([], "shared"), (["--use"], "paper")):
        assert export.main([*options, *more]) == 0
        assert ("newer than this card" in card.read_text()) == (localiser == "paper"), "only then its ages are others"
        assert "localiser.safetensors" in card.read_text()
        assert intervals.exists() == (localiser == "shared"), "intervals are of the regions that were read"
        bundle = open_bundle("precise-baa", root)
        assert (bundle.config["localiser"], bundle.config["detector_width"]) == (localiser, 0.02)
        assert [p for p in catalogue.find_problems("precise-baa", root) if "intervals" not in p] == []
    assert export.main(["age", "--run", str(runs / "precise-baa")]) == 0
    bundle = open_bundle("precise-baa", root)
    with pytest.raises(BundleError, match=r"calibrate --method precise-baa"):
        Engine.load("precise-baa", folder=root, device="cpu", threads=1)
    method = open_method("precise-baa", bundle.config)
    first, *others = weight_files_of(method).items()
    net = load_net(method.make_net(), bundle, first[0], torch.device("cpu"), more=dict(others)).net
    assert isinstance(net, FourStageNet)
    own = bundle.read_weights(LOCALISER_FILE)
    assert all(torch.equal(value, own[key]) for key, value in net.localiser.state_dict().items())


def test_runs_that_do_not_belong_together_are_refused(bundle_and_runs, capsys):
    """Given runs in the wrong order, or of two widths, or no bundle, then the command says so and writes nothing."""
    root, runs = bundle_and_runs
    assert export.main(["bones", "--palm", str(runs / "detector"), "--detector", str(runs / "palm")]) == 2
    assert "in this order" in capsys.readouterr().err
    write_about(runs / "palm", read_about(runs / "palm") | {"width": 1.0})
    good = ["bones", "--palm", str(runs / "palm"), "--detector", str(runs / "detector")]
    assert export.main(good) == 2
    assert "one width" in capsys.readouterr().err
    write_about(runs / "palm", read_about(runs / "palm") | {"width": 0.02})
    shutil.rmtree(root / "precise-baa" / "configs")
    assert export.main(good) == 2
    assert "no bundle" in capsys.readouterr().err
    assert not (root / "precise-baa" / "models" / LOCALISER_FILE).exists()


def test_the_age_is_trained_without_the_localiser():
    recipe = read_recipe("precise-baa")
    asked = recipe.model_copy(update={"method": recipe.method | {"localiser": "paper"}})
    with pytest.raises(RecipeError, match=r"training\.bones"):
        train_age(asked, AgeFilms([], [], []), Job(Path()))
