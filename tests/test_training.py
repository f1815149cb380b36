"""The samples nets are fed, losses and recipes, on synthetic hands. The loop: test_fit.py. Not accuracy on films."""

import csv
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from inference.anatomy import BOX_NAMES, POINT_NAMES
from inference.finding import Sex
from inference.method import Prediction, open_method
from inference.pose import Pose, template_points
from inference.preparation import equalisation_table, prepare, roi_centres
from training.ages import AgeBatch, LocatedFilm, Pool, age_batches, read_located, write_located
from training.annotations import _KEYPOINTS, DISAGREEMENT, Annotation, disagreement, read_annotations
from training.detector import (
    AnnotatedFilm,
    _place,
    draw_heat,
    finder_batches,
    finder_loss,
    landmark_batches,
    landmark_loss,
)
from training.errors import RecipeError, RunError
from training.losses import density_loss
from training.radiographs import Radiograph, Reading
from training.recipe import read_recipe, shipped_recipes


def draw_hand(rows: int = 400, columns: int = 320, age_months: float = 120.0) -> tuple[np.ndarray, Pose]:
    """Draw a phantom: discs at the landmarks whose size grows with age."""
    pose = Pose(np.array([[360.0, 0, -20], [0, 360.0, 10]]))
    image = np.full((rows, columns), 20, dtype=np.uint8)
    for x, y in pose.to_film(template_points()):
        cv2.circle(image, (round(x), round(y)), round(2 + age_months / 30), 220, -1)
    return image, pose


@pytest.fixture(scope="module")
def annotated():
    image, pose = draw_hand()
    return AnnotatedFilm(image, pose.to_film(template_points()), np.full((len(BOX_NAMES), 2), 0.1), pose)


def test_the_finders_target_marks_the_hand(annotated):
    images, targets = next(finder_batches([annotated], [], 24, 1))
    assert images.shape == (24, 1, 128, 128)
    assert targets.shape == (24, 7, 32, 32)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    peaks = targets[:, 0].amax((1, 2))
    assert set(peaks.tolist()) == {0.0, 1.0}, "some samples have a hand, some have none"


def test_a_film_lies_on_the_finders_canvas_where_its_target_says():
    """Given a fifth of the film's scale, then a point is drawn there and not up to half a pixel beside it."""
    down, across = np.mgrid[:640, :640] + 0.5
    film = np.rint(255 * np.exp(-((across - 210) ** 2 + (down - 310) ** 2) / (2 * 25**2))).astype(np.uint8)
    matrix = np.array([[0.2, 0.0, 3.0], [0.0, 0.2, 1.0]])
    canvas = _place(film, matrix, 128, np.random.default_rng(2)).astype(np.float64)
    rows, columns = np.mgrid[:128, :128] + 0.5
    middle = [(canvas * axis).sum() / canvas.sum() for axis in (columns, rows)]
    assert middle == pytest.approx([45.0, 63.0], abs=0.11)


def test_heat_peaks_at_one_only_where_a_point_is():
    points = torch.tensor([[[40.0, 80.0, 1.0], [-100.0, -100.0, 1.0]]])
    heat = draw_heat(points, 56)
    assert float(heat[0, 0].max()) == 1
    assert divmod(int(heat[0, 0].argmax()), 56) == (20, 10) or divmod(int(heat[0, 0].argmax()), 56) == (19, 9)
    assert float(heat[0, 1].max()) < 0.01


def test_perfect_maps_have_almost_no_loss(annotated):
    _, targets = next(finder_batches([annotated], [], 8, 2))
    logits = torch.logit(targets.clamp(1e-6, 1 - 1e-6))
    good = torch.cat([logits[:, :1], targets[:, 1:3], 20 * (targets[:, 3:5] - 0.5)], dim=1)
    assert float(finder_loss(good, targets)) < 0.3  # the focal loss never vanishes beside a peak
    assert float(finder_loss(torch.zeros_like(good), targets)) > 2


def test_landmark_samples_and_loss(annotated):
    images, points, sizes = next(landmark_batches([annotated], 4, 3))
    assert images.shape == (4, 1, 192, 192)
    assert points.shape == (4, len(POINT_NAMES), 3)
    maps = torch.zeros(4, len(POINT_NAMES) + 2 * len(BOX_NAMES), 48, 48)
    assert torch.isfinite(landmark_loss(maps, points, sizes))


def located(age_months: float, sex: Sex) -> LocatedFilm:
    image, pose = draw_hand(age_months=age_months)
    return LocatedFilm(
        Reading(1, age_months, sex, "train"), image, pose, roi_centres(pose.to_film(template_points()), pose)
    )


def test_a_prepared_hand_is_equalised_and_has_18_patches():
    film = located(100, Sex.MALE)
    hand = prepare(film.pixels, film.pose, film.centres)
    assert hand.whole.shape == (224, 224)
    assert hand.patches.shape == (18, 64, 64)
    assert hand.whole.max() == 255


def test_the_equalisation_table_is_cv2s():
    image = np.random.default_rng(1).normal(90, 20, (64, 64)).clip(0, 255).astype(np.uint8)
    assert (
        np.abs(cv2.LUT(image, equalisation_table(image)).astype(int) - cv2.equalizeHist(image).astype(int)).max() <= 1
    )


def test_a_mirrored_turned_film_is_prepared_as_the_same_hand():
    film = located(100, Sex.MALE)
    straight = prepare(film.pixels, film.pose, film.centres).whole.astype(int)
    flipped = np.ascontiguousarray(film.pixels[:, ::-1])
    flip = np.array([[-1.0, 0, film.pixels.shape[1]], [0, 1.0, 0]])
    pose = Pose(
        np.column_stack([flip[:, :2] @ film.pose.matrix[:, :2], flip[:, :2] @ film.pose.matrix[:, 2] + flip[:, 2]])
    )
    mirrored = prepare(flipped, pose, film.centres * (-1, 1) + (film.pixels.shape[1], 0)).whole.astype(int)
    assert np.abs(straight - mirrored).mean() < 1


BOX_LABELS = {"radius": "Radius", "ulna": "Ulna", "MC1": "MCPFirst", "MC": "MCP", "PP": "ProximalPhalanx",
              "MP": "MiddlePhalanx", "DP": "DistalPhalanx"}  # fmt: skip


def write_boxes(folder: Path, points: dict, labels: dict[str, str], key_points_size: int | None = None) -> None:
    """Write the three sets of annotations of film 7, 1000 x 1000 pixels; key points of a size, all unseen, if asked."""
    with (folder / "rus_boxes_881.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rsna_id", "image_width", "image_height", "label", "xmin", "ymin", "xmax", "ymax"])
        for name in sorted(BOX_NAMES, key=hash):
            x, y = points[name]
            writer.writerow([7, 1000, 1000, labels.get(name, labels.get(name[:2])), x - 20, y - 20, x + 20, y + 20])
    (folder / "ossification_rois_koitka2018.csv").write_text(
        "rsna_id,split,ref_width,ref_height,label,xmin,ymin,xmax,ymax,truncated,difficult\n"
    )
    seen = {f"{key}_v": 0 for key in _KEYPOINTS}
    rows = [] if key_points_size is None else [[7, key_points_size, key_points_size, *seen.values()]]
    with (folder / "keypoints21.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["rsna_id", "ref_width", "ref_height", *seen], *rows])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_fingers_are_numbered_by_geometry(tmp_path, mirrored, swapped):
    """Given 21 boxes without finger numbers, when they are read, then every box gets the name of its bone.

    That holds also where a reader took the ulna for the first metacarpal and this one for the ulna.
    """
    folder = tmp_path / "annotations"
    folder.mkdir()
    labels = dict(BOX_LABELS)
    if swapped:
        labels["ulna"], labels["MC1"] = labels["MC1"], labels["ulna"]
    points = dict(zip(POINT_NAMES, template_points() * 1000, strict=True))
    if mirrored:
        points = {name: np.array([1000 - x, y]) for name, (x, y) in points.items()}
    write_boxes(folder, points, labels)
    annotation = read_annotations(tmp_path)[7]
    assert set(annotation.points) == set(BOX_NAMES)
    for name in BOX_NAMES:
        assert np.allclose(np.array(annotation.points[name]) * 1000, points[name], atol=1e-6), name


@pytest.mark.parametrize(("size", "kept"), [(1000, True), (1003, True), (1149, False)])
def test_a_film_that_two_readers_had_in_two_sizes_is_left_out(tmp_path, caplog, size, kept):
    """Given boxes on 1000 pixels, when key points say another size, then one is of another version of the film."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    points = dict(zip(POINT_NAMES, template_points() * 1000, strict=True))
    write_boxes(folder, points, BOX_LABELS, size)
    with caplog.at_level(logging.INFO):
        assert (7 in read_annotations(tmp_path)) is kept
    assert ("contradict each other: [7]" in caplog.text) is not kept


def annotation_of(turned_deg: float) -> Annotation:
    """Annotate one hand with boxes, and with joints of the same film turned by an angle."""
    angle = np.radians(turned_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    annotation = Annotation(1, 1.0)
    for name, (x, y) in zip(POINT_NAMES, template_points(), strict=True):
        point = np.array([x, y]) if name in BOX_NAMES else turn @ np.array([x - 0.5, y - 0.5]) + 0.5
        annotation.points[name] = (float(point[0]), float(point[1]))
    return annotation


def test_readers_of_two_versions_of_a_film_disagree():
    assert disagreement(annotation_of(0)) < 0.001
    assert disagreement(annotation_of(1)) < DISAGREEMENT < disagreement(annotation_of(12))


def test_every_shipped_recipe_is_read_and_names_a_method_that_opens():
    assert set(shipped_recipes()) >= {"global-local", "house"}
    for name in shipped_recipes():
        recipe = read_recipe(name)
        with torch.device("meta"):
            assert all(open_method(recipe.target, recipe.method | phase.method).make_net() for phase in recipe.phases)


def test_a_recipe_with_an_unknown_key_is_refused_and_a_missing_one_named(tmp_path):
    (tmp_path / "r.toml").write_text(shipped_recipes()["house"].read_text() + "\nsurprise = 1\n")
    with pytest.raises(RecipeError, match="surprise"):
        read_recipe(str(tmp_path / "r.toml"))
    with pytest.raises(RecipeError, match="house"):
        read_recipe("nothing")


def test_what_was_located_is_read_back_with_its_polarity(tmp_path):
    film = located(100, Sex.MALE)
    radiographs = [Radiograph(film.reading, film.pixels)]
    inverse = LocatedFilm(film.reading, 255 - film.pixels, film.pose, film.centres)
    for kept in (film, inverse):
        write_located(tmp_path / "l.npz", [kept], radiographs)
        (again,) = read_located(tmp_path / "l.npz", radiographs)
        assert (again.pixels == kept.pixels).all()
        assert np.allclose(again.pose.matrix, kept.pose.matrix)
        assert np.allclose(again.centres, kept.centres)


def test_two_trainings_may_keep_what_they_located_at_once(tmp_path, monkeypatch):
    """Given a training that writes while another one does, then both end, one whole file is there and nothing else."""
    film = located(100, Sex.MALE)
    radiographs, savez = [Radiograph(film.reading, film.pixels)], np.savez

    def overtaken(content, **arrays):
        monkeypatch.setattr("training.ages.np.savez", savez)
        write_located(tmp_path / "l.npz", [film], radiographs)
        savez(content, **arrays)

    monkeypatch.setattr("training.ages.np.savez", overtaken)
    write_located(tmp_path / "l.npz", [film], radiographs)
    assert len(read_located(tmp_path / "l.npz", radiographs)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["l.npz"]


def test_what_was_located_stays_where_a_disk_is_full(tmp_path, monkeypatch):
    film = located(100, Sex.MALE)
    radiographs = [Radiograph(film.reading, film.pixels)]
    write_located(tmp_path / "l.npz", [film], radiographs)

    def full(content, **_):
        content.write(b"as far as it went")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.ages.np.savez", full)
    with pytest.raises(RunError, match=r"l\.npz cannot be written \(No space left on device\)"):
        write_located(tmp_path / "l.npz", [], radiographs)
    assert len(read_located(tmp_path / "l.npz", radiographs)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["l.npz"]


def test_a_balanced_pool_draws_rare_ages_more_often_than_they_come():
    films = [located(age, Sex.MALE) for age in (120,) * 9 + (30,)]
    assert Pool.make(films, 1.0, 0.0).probabilities[-1] == pytest.approx(0.1)
    assert 0.3 < Pool.make(films, 1.0, 1.0).probabilities[-1] < 0.8


def test_the_density_loss_falls_when_the_estimate_nears_the_label():
    """Given a distribution around 100 months, when labels lie at 100, 130 and 200, then the loss rises with them."""
    centres = torch.arange(240) + 0.5
    log_density = torch.log_softmax(-(((centres - 100) / 6) ** 2)[None] / 2, dim=1)
    predicted = Prediction((log_density.exp() * centres).sum(1), torch.zeros(1), log_density)
    losses = [
        float(density_loss(predicted, AgeBatch((), torch.ones(1), torch.tensor([age]))))
        for age in (100.0, 130.0, 200.0)
    ]
    assert predicted.age_months.item() == pytest.approx(100, abs=0.1)
    assert losses == sorted(losses)


def test_the_house_net_trains_and_answers_with_ages_own_sex_and_a_distribution():
    method = open_method("house", {"rows": 96, "columns": 64, "variant": "lite0"})
    films = [located(age, sex) for age in (60, 180) for sex in Sex]
    batch = next(age_batches([Pool.make(films, 1.0)], method, 4, 1))
    net = method.make_net()
    answer = net(*batch.inputs, batch.male)
    density_loss(answer, batch).backward()
    assert answer.age_months.shape == answer.male_logit.shape == (4,)
    assert torch.allclose(answer.log_density.exp().sum(1), torch.ones(4), atol=1e-4)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
