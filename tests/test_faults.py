"""Hands changed on the device that trains: what is drawn, what stays as inference has it. Not covered: accuracy."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from inference.efficientnet_lite import InvertedResidual
from inference.finding import Sex
from inference.house import HouseMethod
from inference.method import open_method
from inference.pose import Pose, template_points
from inference.preparation import HAND_WINDOW, equalisation_table, roi_centres
from training import experiment, faults
from training.ages import LocatedFilm, Pool, sample
from training.films import AgeFilms
from training.machine import ALONE
from training.prefetch import Steps, prefetched
from training.radiographs import Reading
from training.recipe import Recipe, open_recipe
from training.run import read_about
from training.train import Job, age_draw, carry_out

CPU = torch.device("cpu")
EXTENT = (64, 48)
METHOD = HouseMethod(*EXTENT, "lite0")


def hand(rsna_id: int, *, mirrored: bool = False, months: float = 90.0, part: str = "train") -> LocatedFilm:
    """Draw smooth discs at a tilted hand's landmarks, on a ramp of grey."""
    linear = np.array([[350.0, 40.0], [-40.0, 350.0]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    pose = Pose(np.column_stack([linear, np.array([200.0, 210.0]) - linear @ (0.5, 0.5)]))
    points = pose.to_film(template_points())
    image = np.tile(np.linspace(20, 90, 420).astype(np.uint8), (440, 1))
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 9, 220, -1)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), 4), dtype=np.uint8)
    sex = Sex.MALE if rsna_id % 2 else Sex.FEMALE
    return LocatedFilm(Reading(rsna_id, months, sex, part), image, pose, roi_centres(points, pose))


@pytest.fixture(scope="module")
def pools() -> list[Pool]:
    sharp = [hand(1, months=50.0), hand(2, mirrored=True, months=60.0)]
    return [Pool.make(sharp, 0.75), Pool.make([hand(3, months=150.0)], 0.25)]


@pytest.fixture(scope="module")
def draw(pools: list[Pool]) -> faults.FaultyHands:
    return faults.FaultyHands(pools, METHOD, 32, CPU, softness=3.0, kept=faults.CutHands())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_unchanged_hand_is_what_inference_cuts_out(draw, pools, place):
    store, grid = draw.store, faults.plain_grid(EXTENT, CPU)[None]
    shown = 2 * faults.equalised(faults.sample(store.canvases[place : place + 1], grid, store.window)) - 1
    film = [film for pool in pools for film in pool.films][place]
    (wanted,) = sample(film, METHOD, None)
    assert np.abs(shown[0].numpy() - wanted).mean() < 0.03
    mirrored = np.abs(shown[0].numpy()[:, ::-1] - wanted).mean()
    assert mirrored > 0.1


def test_histograms_are_flattened_as_inference_flattens_them():
    """Given grey values at random, in few values, and mostly of the lowest one, then the same table is used."""
    dice = np.random.default_rng(3)
    crops = np.stack(
        [
            dice.integers(0, 256, EXTENT),
            dice.integers(0, 8, EXTENT) * 30 + 10,
            np.where(dice.random(EXTENT) < 0.6, 5, dice.integers(5, 200, EXTENT)),
            np.full(EXTENT, 77),
        ]
    ).astype(np.uint8)
    flat = (255 * faults.equalised(torch.from_numpy(crops).float())).round().numpy().astype(int)
    for crop, mine in zip(crops, flat, strict=True):
        assert np.array_equal(mine, equalisation_table(crop)[crop])


def test_a_seed_draws_the_same_batch_and_another_one_another(draw):
    first, again, other = draw(5), draw(5), draw(6)
    assert torch.equal(first.inputs[0], again.inputs[0])
    assert torch.equal(first.age_months, again.age_months)
    assert not torch.equal(first.inputs[0], other.inputs[0])


def test_batches_are_of_the_method_s_size_and_of_ages_near_the_readings(draw):
    batches = [draw(seed) for seed in range(12)]
    ages = torch.cat([batch.age_months for batch in batches])
    males = torch.cat([batch.male for batch in batches])
    for batch in batches:
        assert batch.inputs[0].shape == (32, 1, *EXTENT)
        assert batch.inputs[0].isfinite().all()
    distance = (ages[:, None] - torch.tensor([50.0, 60.0, 150.0])).abs()
    assert distance.min(1).values.max() <= 3
    assert distance.min(1).values.max() > 2
    nearest = distance.argmin(1)
    assert torch.equal(males, torch.tensor([1.0, -1.0, 1.0])[nearest])
    assert 0.15 < (nearest == 2).float().mean() < 0.35, "a quarter of the films are drawn from the second pool"


def test_places_move_about_the_hands_middle_as_much_as_the_other_augmentation_moves_them():
    dice = faults.Dice(600, CPU, 1)
    moved = faults.moved_grid(EXTENT, dice)
    still = faults.plain_grid(EXTENT, CPU)
    middle = moved[:, 31:33, 23:25].mean((1, 2))
    assert 0.01 < (middle - 0.5).std(0).mean() < 0.03
    right = moved[:, 32, 40] - moved[:, 32, 8]
    assert 0.05 < (right[:, 0] < 0).float().mean() < 0.15, "a tenth is mirrored"
    growth = right.norm(dim=1) / (still[32, 40] - still[32, 8]).norm()
    assert 0.05 < growth.std() < 0.15


def changed_share(shown: torch.Tensor, before: torch.Tensor) -> float:
    return float(((shown - before).abs().amax((1, 2)) > 1e-3).float().mean())


def test_some_hands_are_left_as_they_are(draw):
    """Given films before they are equalised, then faults change some and leave others exactly as they are."""
    hands = draw.store.canvases[:1].float().repeat(400, 1, 1)[:, ::4, ::4]
    with torch.no_grad():
        assert 0.3 < changed_share(faults._film_faults(hands, faults.Dice(400, CPU, 2)), hands) < 0.7
        assert changed_share(faults._lined(hands, faults.Dice(400, CPU, 2)), hands) == pytest.approx(0.1, abs=0.05)
        assert changed_share(faults._veiled(hands / 255, faults.Dice(400, CPU, 2)), hands / 255) == pytest.approx(
            0.1, abs=0.05
        )


def test_a_blur_is_opencv_s():
    image = np.random.default_rng(1).random((2, 96, 72)).astype(np.float32)
    blurred = faults._blurred(torch.from_numpy(image), torch.tensor([0.0, 0.8])).numpy()
    assert np.allclose(blurred[0], image[0], atol=1e-6)
    wanted = cv2.GaussianBlur(image[1], (7, 7), 0.8, borderType=cv2.BORDER_REPLICATE)
    assert np.allclose(blurred[1], wanted, atol=2e-3)


def test_blocks_are_left_out_in_training_alone():
    """Given a block that is left out half the time, then in training images keep their maps or gain twice its own."""
    torch.manual_seed(1)
    block = InvertedResidual(8, 8, kernel=3, stride=1, expansion=2)
    block.drop = 0.5
    block.train()
    for norm in (block._bn0, block._bn1, block._bn2):
        norm.eval()
    maps = torch.randn(1, 8, 6, 6).repeat(64, 1, 1, 1)
    gained = block(maps) - maps
    kept = gained.abs().amax((1, 2, 3)) > 0
    assert 0.3 < kept.float().mean() < 0.7
    added = block.eval()(maps) - maps
    assert torch.allclose(gained[kept], 2 * added[kept], atol=1e-6)


def test_deeper_blocks_are_left_out_more_often():
    drops = [block.drop for block in HouseMethod(*EXTENT, "lite0", drop_path=0.4).make_net().trunk._blocks]
    assert drops == sorted(drops)
    assert (drops[0], drops[-1]) == (pytest.approx(0.4 / 16), pytest.approx(0.4))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_blocks_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=f"drop_path = {share} must be from 0 up to below 1"):
        HouseMethod(*EXTENT, "lite0", drop_path=share).make_net()


def tiny(**changes: object) -> Recipe:
    content = open_recipe("house-faults").model_dump(mode="json") | {"imagenet": False} | changes
    small = {"epochs": 1, "steps_per_epoch": 2, "batch": 4, "averaging": 0.5}
    content["method"] = {"rows": 64, "columns": 48, "variant": "lite0", "drop_path": 0.1}
    content["phases"] = [phase | small for phase in content["phases"]]
    return Recipe.model_validate(content)


def test_a_run_by_the_recipe_makes_its_batches_itself(pools, tmp_path: Path):
    """Given workers, which could not reach a GPU, then a run by this recipe asks none of them and ends."""
    films = AgeFilms([hand(1), hand(2)], [hand(3)], [hand(4, part="validation")])
    carry_out(tiny(), films, Job(tmp_path / "run", workers=3))
    assert (tmp_path / "run" / "final.pt").exists()
    assert read_about(tmp_path / "run")["workers"] == 0
    recipe = tiny()
    method = open_method("house", recipe.method)
    made = age_draw(recipe, recipe.phases[0], method, films, ALONE)
    assert isinstance(made, faults.FaultyHands)
    with prefetched(Steps(made, 1, 0), range(2)) as batches:
        assert len(list(batches)) == 2


@pytest.fixture
def cut_out(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return the films that hands are cut out of, in turn."""
    cut, crop_upright = [], faults.crop_upright
    monkeypatch.setattr(faults, "crop_upright", lambda film, *a: (cut.append(film), crop_upright(film, *a))[1])
    return cut


def test_a_run_that_is_fitted_to_its_time_cuts_each_hand_out_once(cut_out, tmp_path: Path, monkeypatch):
    """Given three films to train on, when the pace is measured and then trained at, then each is cut out once."""
    monkeypatch.setattr("training.pace.WARM_UP_STEPS", 1)
    monkeypatch.setattr("training.pace.MEASURED_S", 0.0)
    one = experiment.Experiment(
        title="tiny",
        predicts="nothing",
        costs="seconds",
        recipe="house-faults",
        method={"rows": 64, "columns": 48, "variant": "lite0"},
        changes={"epochs": 1, "steps_per_epoch": 2, "batch": 4},
        hand_rows=100,
    )
    films = AgeFilms([hand(1), hand(2)], [hand(3)], [hand(4, part="validation")])
    experiment.write_experiment("tiny", one, films, tmp_path / "pack", piece_mb=1)
    monkeypatch.setattr("training.pace.fitted", lambda recipe, *_, **__: recipe)
    job = Job(tmp_path / "run", deadline=time.monotonic() + 600)
    assert experiment.run(tmp_path / "pack", job, tmp_path / "out", fit=True) == 0
    assert len(cut_out) == len({id(film) for film in cut_out}) == 3


def test_hands_are_cut_out_anew_for_other_films_and_other_crops(cut_out, pools):
    kept, films = faults.CutHands(), [film for pool in pools for film in pool.films]
    first = kept.cut(films, (48, 64), CPU)
    assert kept.cut(list(films), (48, 64), CPU) is first
    assert len(cut_out) == 3
    assert kept.cut(films, (24, 32), CPU).shape[1] < first.shape[1]
    assert torch.equal(kept.cut(films[::-1], (48, 64), CPU), first.flip(0))
    assert len(kept.cut(films[:2], (48, 64), CPU)) == 2
    assert len(cut_out) == 3 + 3 + 3 + 2


def test_only_house_can_ask_for_it():
    with pytest.raises(ValidationError, match="crops of house only, not of ala-net"):
        tiny(target="ala-net", loss="absolute")


def test_the_window_is_shown_with_a_margin(draw):
    x0, y0, x1, y1 = draw.store.window
    assert x0 < HAND_WINDOW[0] < HAND_WINDOW[2] < x1
    assert y0 < HAND_WINDOW[1] < HAND_WINDOW[3] < y1
