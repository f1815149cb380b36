"""The one-stage detector of Hui et al. 2022: sizes, anchors, losses on worked examples, the two-hand rule, the bundle.

Does not cover how well it finds regions (boneage-node evaluate does).
"""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from inference import catalogue
from inference.anatomy import ROI_NAMES
from inference.bundle import open_bundle
from inference.errors import BundleError
from inference.global_local import FILM_SIDE, LocatingNet, square_film
from inference.method import open_method, weight_files_of
from inference.pose import Pose, template_points
from inference.torch_backend import TorchAgeNetwork, load_net
from inference.yolo import (
    ANCHORS,
    HEAD_STRIDES,
    Candidates,
    RegionNet,
    Regions,
    as_corners,
    choose_left_hand,
    decode,
    find_candidates,
    hand_bounds,
    locate_regions,
    place_boxes,
)
from training import export
from training.detector import AnnotatedFilm
from training.errors import RecipeError, RunError
from training.export import save_weights
from training.films import AgeFilms, DetectorFilms
from training.recipe import RegionRecipe, open_recipe, read_recipe
from training.regions import assign, complete_iou, head_loss, is_boxed, region_batches, region_loss, region_sample
from training.run import begin_run, finish_run
from training.shipped import SHIPPED
from training.train import Job, Start, train_age, train_regions

SMALL = {"width": 0.125, "depth": 0.33}


def phantom(mirrored: bool = False) -> AnnotatedFilm:
    """Draw a disc at each of the template's points; all boxes are known."""
    flip = -1.0 if mirrored else 1.0
    pose = Pose(np.array([[300.0 * flip, 0, 160 - 150 * flip], [0, 300.0, 10]]))
    image = np.full((340, 320), 20, dtype=np.uint8)
    points = pose.to_film(template_points())
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 6, 230, -1)
    return AnnotatedFilm(image, points, np.full((21, 2), 0.12), pose)


@pytest.mark.parametrize(("width", "published"), [(0.5, 7_235_389), (0.25, 1_872_157)])
def test_it_has_the_familys_published_number_of_parameters(width, published):
    """Given 80 classes, then the small and the smallest net count what the family's table says, but for the colours."""
    with torch.device("meta"):
        net = RegionNet(width, 0.33, classes=80)
    colours = 2 * round(64 * width) * 6 * 6  # a film is grey, a photograph has three channels
    assert sum(p.numel() for p in net.parameters()) + colours == published


def test_three_heads_answer_for_three_anchors_at_three_strides():
    with torch.device("meta"):
        net = RegionNet(0.5, 0.33).eval()
        answers = net(torch.empty(2, 1, 640, 640))
    assert [tuple(one.shape) for one in answers] == [(2, 3, side, side, 23) for side in (80, 40, 20)]


def test_the_anchors_are_the_papers():
    assert [[side for anchor in head for side in anchor] for head in ANCHORS] == [
        [10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]
    ]  # fmt: skip
    assert RegionNet(**SMALL).anchors.tolist() == [[list(map(float, a)) for a in head] for head in ANCHORS]


def test_a_head_that_says_nothing_places_its_anchor_in_the_middle_of_the_cell():
    still = place_boxes(torch.zeros(4), torch.tensor([3.0, 5.0]), torch.tensor([2.0, 4.0]))
    assert still.tolist() == [3.5, 5.5, 2.0, 4.0]
    far = place_boxes(torch.full((4,), 20.0), torch.tensor([3.0, 5.0]), torch.tensor([2.0, 4.0]))
    assert far.tolist() == pytest.approx([4.5, 6.5, 8.0, 16.0], abs=1e-4)


def test_decoding_speaks_pixels():
    """Given one sure anchor of the coarsest head, then its box and score come out, and nothing else is sure."""
    answers = [torch.full((1, 3, side, side, 23), -9.0) for side in (8, 4, 2)]
    answers[2][0, 1, 1, 0, :4] = 0
    answers[2][0, 1, 1, 0, [4, 5 + 7]] = 9.0
    boxes, scores = decode(answers, torch.tensor(ANCHORS, dtype=torch.float32))
    assert boxes.shape == (1, 3 * (64 + 16 + 4), 4)
    found = find_candidates(boxes[0], scores[0])
    assert found.classes.tolist() == [7]
    assert found.boxes.tolist() == [[16 - 78, 48 - 99, 16 + 78, 48 + 99]]


def test_of_one_class_two_boxes_at_most_are_kept_and_overlapping_ones_suppressed():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10], [80, 0, 90, 10]])
    scores = torch.zeros(4, 18)
    scores[:, 3] = torch.tensor([0.9, 0.8, 0.7, 0.6])
    found = find_candidates(boxes, scores)
    assert found.boxes[:, 0].tolist() == [0, 40]
    scores[1] = 0
    scores[1, 4] = 0.8  # another class is not suppressed
    assert find_candidates(boxes, scores).classes.tolist() == [3, 4, 3]
    assert len(find_candidates(boxes, torch.zeros(4, 18)).boxes) == 0


def hands(*thumbs_right: bool) -> Candidates:
    """Make the regions of hands side by side, each with its thumb's region at its right or left."""
    thumb, little = ROI_NAMES.index("DP1"), ROI_NAMES.index("DP5")
    boxes, classes = [], []
    for place, right in enumerate(thumbs_right):
        for one in range(18):
            x = 300.0 * place + {thumb: 200 if right else 20, little: 20 if right else 200}.get(one, 100)
            boxes.append([x, 20.0 * one, x + 20, 20.0 * one + 20])
            classes.append(one)
    return Candidates(torch.tensor(boxes), torch.full((len(boxes),), 0.9), torch.tensor(classes))


@pytest.mark.parametrize(
    ("shown", "chosen"), [((True, False), 0), ((False, True), 1), ((True, True), 0), ((False,), 0)]
)
def test_of_two_hands_the_left_one_goes_on(shown, chosen):
    left = choose_left_hand(hands(*shown))
    assert sorted(left.classes.tolist()) == list(range(18))
    assert (left.boxes[:, 0] >= 300).tolist() == [bool(chosen)] * 18


def test_a_stray_second_box_makes_no_second_hand():
    found = hands(True)
    stray = Candidates(torch.tensor([[400.0, 0, 420, 20]]), torch.tensor([0.3]), torch.tensor([2]))
    both = Candidates(*(torch.cat(parts) for parts in zip(found, stray, strict=True)))
    assert choose_left_hand(both).boxes[:, 0].max() < 300


def test_the_hand_is_what_its_regions_span_and_five_pixels():
    boxes, scores = torch.zeros(2, 18, 4), torch.zeros(2, 18)
    boxes[0, 3], boxes[0, 10] = torch.tensor([50.0, 60, 90, 100]), torch.tensor([3.0, 200, 40, 260])
    scores[0, [3, 10]] = 0.5
    assert hand_bounds(Regions(boxes, scores), 300).tolist() == [[0, 55, 95, 265], [0, 0, 300, 300]]


def test_complete_iou_is_the_papers_on_worked_examples():
    same = torch.tensor([10.0, 10, 4, 4])
    assert complete_iou(same, same).item() == pytest.approx(1, abs=1e-6)
    beside = torch.tensor([14.0, 10, 4, 4])  # no overlap, same shape: minus d^2 / c^2 = 16 / (64 + 16)
    assert complete_iou(same, beside).item() == pytest.approx(-16 / 80, abs=1e-6)
    wide = torch.tensor([10.0, 10, 8, 4])  # IoU 1/2, one middle: minus a v
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(2)) ** 2
    assert complete_iou(same, wide).item() == pytest.approx(0.5 - v * v / (0.5 + v), abs=1e-6)


def test_an_anchor_takes_boxes_of_like_size_in_its_cell_and_the_two_nearest():
    """Given a box of 32 x 16 pixels at (44, 52) and stride 8, then anchors up to 4 times its sides take it."""
    boxes = torch.full((1, 36, 4), torch.nan)
    boxes[0, 20] = torch.tensor([28.0, 44, 60, 60])
    anchors = torch.tensor([[16.0, 16], [8.5, 63], [129, 16]])
    found = assign(boxes, anchors, 8, (10, 10), 18)
    assert set(found.anchor.tolist()) == {0, 1}, "129 is more than four times 32"
    assert set(found.classes.tolist()) == {2}
    cells = set(zip(found.column.tolist(), found.row.tolist(), strict=True))
    assert cells == {(5, 6)}, "5.5 and 6.5 lie in the middle of the cell, no neighbour is nearer"
    boxes[0, 20] += torch.tensor([2.0, -2, 2, -2])  # (46, 50): nearer to the right and to the cell above
    moved = assign(boxes, anchors[:1], 8, (10, 10), 18)
    assert set(zip(moved.column.tolist(), moved.row.tolist(), strict=True)) == {(5, 6), (6, 6), (5, 5)}
    assert moved.boxes[0].tolist() == [46 / 8, 50 / 8, 4, 2]


def test_a_head_that_is_right_loses_next_to_nothing_and_one_that_is_silent_what_entropy_says():
    anchors = torch.tensor(ANCHORS[0], dtype=torch.float32)
    boxes = torch.full((1, 18, 4), torch.nan)
    boxes[0, 4] = as_corners(torch.tensor([36.0, 36, 16, 30]))
    silent = torch.zeros(1, 3, 8, 8, 23)
    box, objects, kinds = head_loss(silent, anchors, 8, boxes)
    assert kinds.item() == pytest.approx(math.log(2), abs=1e-5)
    assert objects.item() == pytest.approx(math.log(2), abs=1e-5)
    right = silent.clone()
    right[..., 4] = -20
    found = assign(boxes, anchors, 8, (8, 8), 18)
    at = (found.film, found.anchor, found.row, found.column)
    right[(*at, 4)] = 20
    right[(*at, slice(5, None))] = -20.0
    right[(*at, 9)] = 20
    growth = (boxes[0, 4, 2:] - boxes[0, 4, :2]) / anchors[found.anchor]
    right[(*at, slice(2, 4))] = torch.logit(growth.sqrt() / 2)
    box, objects, kinds = head_loss(right, anchors, 8, boxes)
    assert max(box.item(), objects.item(), kinds.item()) < 1e-4
    nothing = head_loss(right, anchors, 8, torch.full((1, 18, 4), torch.nan))
    assert (nothing[0].item(), nothing[2].item()) == (0, 0)
    assert nothing[1].item() > 0.01


def test_the_loss_adds_up_the_heads_with_their_weights():
    torch.manual_seed(0)
    anchors, boxes = torch.tensor(ANCHORS, dtype=torch.float32), torch.full((1, 36, 4), torch.nan)
    boxes[0, 1] = torch.tensor([10.0, 12, 50, 60])
    answers = [torch.randn(1, 3, side, side, 23) for side in (8, 4, 2)]
    parts = [head_loss(a, o, s, boxes) for a, o, s in zip(answers, anchors, HEAD_STRIDES, strict=True)]
    wanted = sum(
        0.05 * box + weight * 0.01 * objects + 0.5 * 18 / 80 * kinds
        for (box, objects, kinds), weight in zip(parts, (4.0, 1.0, 0.4), strict=True)
    )
    assert region_loss(answers, anchors, boxes).item() == pytest.approx(float(wanted), rel=1e-5)


def test_samples_carry_their_boxes_along():
    """Given phantoms with bright discs, when films are placed, then every box of a bone is brighter than its film."""
    generator = np.random.default_rng(5)
    shown = set()
    for _ in range(12):
        film, boxes = region_sample([phantom()], 320, generator)
        assert film.shape == (320, 320)
        known = np.isfinite(boxes).all(1)
        shown.add(int(known[18:].any()))
        for place in np.flatnonzero(known):
            if place % 18 >= 13:
                continue
            x, y = ((boxes[place, :2] + boxes[place, 2:]) / 2).astype(int).clip(2, 317)
            assert film[y - 2 : y + 3, x - 2 : x + 3].max() > film.mean()
    assert shown == {0, 1}, "some samples show two hands"


def test_only_films_with_all_13_bones_are_learned_from():
    film = phantom()
    assert is_boxed(film)
    film.sizes[0] = np.nan
    assert not is_boxed(film)


def test_gradients_reach_every_part_and_a_few_steps_lower_the_loss():
    torch.manual_seed(6)
    net = RegionNet(**SMALL)
    batches = region_batches([phantom(), phantom(mirrored=True)], 160, 4, 7)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses = []
    for step in range(20):
        batch = next(batches)
        loss = region_loss(net(batch.film), net.anchors, batch.boxes)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:2])


def test_the_recipe_fits_the_budget_of_weights(tmp_path):
    recipe = open_recipe("regions")
    assert isinstance(recipe, RegionRecipe)
    save_weights(RegionNet(recipe.width, recipe.depth).state_dict(), tmp_path / "r.safetensors")
    assert (tmp_path / "r.safetensors").stat().st_size <= 1.2e6


class Told(RegionNet):
    """A detector that answers with one hand's true boxes."""

    def __init__(self, boxes: torch.Tensor) -> None:
        super().__init__(**SMALL)
        self.told = boxes

    def forward(self, film: torch.Tensor) -> list[torch.Tensor]:
        answers = [torch.full((len(film), 3, 320 // s, 320 // s, 23), -9.0) for s in HEAD_STRIDES]
        found = assign(self.told[None], self.anchors[1], 16, (20, 20), 18)
        for place in range(len(found.film)):
            at = (0, int(found.anchor[place]), int(found.row[place]), int(found.column[place]))
            growth = found.boxes[place, 2:] * 16 / self.anchors[1][at[1]]
            shift = (found.boxes[place, :2] - torch.tensor([at[3], at[2]]) + 0.5) / 2
            answers[1][at][:4] = torch.logit(torch.cat([shift, growth.sqrt() / 2]).clamp(1e-4, 1 - 1e-4))
            answers[1][at][[4, 5 + int(found.classes[place])]] = 9.0
        return answers


def test_the_fusion_network_sees_what_the_detector_found():
    """Given a film whose regions are bright and one region that was not found, then the patches show just that."""
    boxes = torch.full((18, 4), torch.nan)
    film = np.zeros((640, 640), dtype=np.uint8)
    for place in range(17):
        x, y = 20 + 60 * (place % 5), 20 + 70 * (place // 5)
        boxes[place] = torch.tensor([x, y, x + 40, y + 44])
        film[2 * y : 2 * y + 88, 2 * x : 2 * x + 80] = 10 * place + 60
    net = LocatingNet(0.0625, "both", Told(boxes), 320, equalise=False).eval()
    image = torch.from_numpy(film.astype(np.float32) / 127.5 - 1)[None, None]
    found = net.locate(image)
    assert torch.allclose(found.boxes[0, :17], 2 * boxes[:17], atol=0.5)
    assert found.scores[0, 17] == 0
    whole, patches = net.cut(image, found)
    assert (whole.shape, patches.shape) == ((1, 1, 224, 224), (1, 18, 64, 64))
    assert patches[0, :17, 32, 32].tolist() == pytest.approx([(10 * p + 60) / 127.5 - 1 for p in range(17)], abs=0.01)
    assert (patches[0, 17] == 0).all()
    predicted = net(image, torch.tensor([1.0]))
    assert predicted.age_months.shape == (1,)
    assert torch.equal(predicted.extras["boxes"], found.boxes)


def test_with_the_papers_localiser_the_method_takes_the_whole_film():
    method = open_method("global-local", {"width": 0.0625, "localiser": "paper", "detector_width": 0.125})
    film = phantom()
    (image,) = method.prepare(film.pixels, film.pose, np.zeros((18, 2)))
    assert image.shape == (FILM_SIDE, FILM_SIDE)
    assert square_film(film.pixels)[1] == FILM_SIDE / 340
    with pytest.raises(BundleError, match="localiser = 'moon'"):
        open_method("global-local", {"width": 0.0625, "localiser": "moon"})


@pytest.fixture
def bundles(tmp_path, monkeypatch):
    """A bundle of a tiny global-local, and a run of a tiny detector."""
    root = tmp_path / "bundles"
    monkeypatch.setattr(export, "bundles_folder", lambda: root)
    age, regions = tmp_path / "age", tmp_path / "regions"
    method = {"width": 0.0625}
    phase = {"name": "one", "batch": 1, "epochs": 1, "steps_per_epoch": 1, "peak_learning_rate": 1e-3, "sharp_share": 1}
    recipe = {"target": "global-local", "loss": "absolute", "method": method, "phases": [phase]}
    begin_run(age, {"target": "global-local", "seed": 1, "data_sha256": "x", "recipe": recipe})
    finish_run(age, open_method("global-local", method).make_net())
    assert export.main(["age", "--run", str(age)]) == 0
    recipe = open_recipe("regions").model_copy(update={"width": 0.125, "epochs": 1, "steps_per_epoch": 1, "batch": 2})
    begin_run(regions, {"target": "regions", "seed": 1, "data_sha256": "x", "recipe": recipe.model_dump(mode="json")})
    finish_run(regions, train_regions(recipe, DetectorFilms([phantom()], []), Job(regions)))
    return root, age, regions


def test_the_detector_is_exported_beside_the_weights_and_used_when_asked_for(bundles):
    """Given a bundle and a detector's run, then both localisers open it; exporting the age again keeps the detector."""
    root, age, regions = bundles
    for more, localiser in (([], "shared"), (["--use"], "paper")):
        assert export.main(["regions", "--run", str(regions), *more]) == 0
        config = json.loads((root / "global-local" / "configs" / "inference.json").read_text())
        assert (config["localiser"], config["detector_side"]) == (localiser, 320)
        assert [p for p in catalogue.find_problems("global-local", root) if "intervals" not in p] == []
    assert export.main(["age", "--run", str(age)]) == 0
    bundle = open_bundle("global-local", root)
    assert bundle.config["localiser"] == "paper"
    assert TorchAgeNetwork("global-local", bundle, torch.device("cpu")).read([]) == []
    method = open_method("global-local", bundle.config)
    first, *others = weight_files_of(method).items()
    loaded = load_net(method.make_net(), bundle, first[0], torch.device("cpu"), more=dict(others)).net
    own = bundle.read_weights("regions.safetensors")
    assert all(torch.equal(value, own[key]) for key, value in loaded.detector.state_dict().items())


def test_the_age_is_trained_without_the_detector():
    """Given a recipe with the paper's localiser, then training refuses it: the detector would be a random one."""
    recipe = read_recipe("global-local")
    asked = recipe.model_copy(update={"method": recipe.method | {"localiser": "paper"}})
    with pytest.raises(RecipeError, match="recipe regions"):
        train_age(asked, AgeFilms([], [], []), Job(Path()))
    net = LocatingNet(0.0625, "both", RegionNet(**SMALL), 320, equalise=True).train()
    assert net.global_stages.training
    assert not net.detector.training


def test_a_detectors_run_can_start_from_the_shipped_one(bundles, monkeypatch):
    """Given a bundle without and with a detector, then a start from what is shipped is refused, and made."""
    root, _, regions = bundles
    monkeypatch.setattr("training.shipped.open_bundle", lambda name: open_bundle(name, root))
    with pytest.raises(RunError, match="No weights of regions"):
        Start(SHIPPED).apply("regions", RegionNet(**SMALL))
    assert export.main(["regions", "--run", str(regions)]) == 0
    net = Start(SHIPPED).apply("regions", RegionNet(**SMALL))
    shipped = open_bundle("global-local", root).read_weights("regions.safetensors")
    assert all(torch.equal(value, shipped[key]) for key, value in net.state_dict().items())


def test_a_run_of_something_else_is_no_detector(bundles):
    _, age, _ = bundles
    with pytest.raises(RunError, match="not regions"):
        export.export_regions(age, use=False)


def test_an_untrained_detector_finds_nothing_and_the_film_is_the_hand():
    found = locate_regions(RegionNet(**SMALL).eval(), torch.zeros(1, 1, 64, 64))
    assert found.scores.max() == 0
    assert hand_bounds(found, 64).tolist() == [[0, 0, 64, 64]]
