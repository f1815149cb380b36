"""The recipes ``*-paper`` hold what the five papers state. Not covered: what they lead to; none was run to its end.

Each test names the section it follows; numbers without one are this project's choice and stand in the recipe's comment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from inference.bone_detector import HEAD_OVERLAPS
from inference.finding import Sex
from inference.method import method_names, open_method
from inference.pose import Pose, template_points
from inference.preparation import roi_centres
from training import bones
from training.ages import LocatedFilm
from training.films import AgeFilms
from training.fit import Drops, Schedule
from training.radiographs import Reading
from training.recipe import PAPER, Phase, Recipe, RegionRecipe, open_recipe, read_recipe, shipped_recipes
from training.run import read_run
from training.train import SEED, Job, carry_out

METHODS = ("global-local", "ala-net", "precise-baa", "unsupervised-mobilenet", "2m-net")
TINY: dict[str, dict[str, Any]] = {
    "global-local": {"width": 0.0625},
    "ala-net": {"width": 0.0625, "long_side": 128},
    "precise-baa": {"side": 32, "growth": 4},
    "unsupervised-mobilenet": {"localiser": "shared", "side": 64, "width": 0.25},
    "2m-net": {"width": 0.125, "side": 128},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small nets on one thread: two of them wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def paper(name: str) -> tuple[Recipe, Phase, Schedule]:
    recipe = read_recipe(f"{name}-paper")
    (phase,) = recipe.phases
    return recipe, phase, phase.schedule(half_precision=False)


def parameters(recipe: Recipe) -> int:
    with torch.device("meta"):
        net = open_method(recipe.target, recipe.method).make_net()
    return sum(p.numel() for p in net.parameters())


def named(recipe: Recipe) -> set[str]:
    """Return what a recipe changes of its films."""
    assert recipe.augmentation != "house"
    return {key for key, value in recipe.augmentation.model_dump().items() if value}


def test_every_method_of_a_paper_has_one():
    assert {f"{name}{PAPER}" for name in METHODS} == {name for name in shipped_recipes() if name.endswith(PAPER)}
    assert {*METHODS, "house"} == set(method_names())


def test_global_local_is_that_of_hui_et_al():
    recipe, phase, schedule = paper("global-local")
    assert (schedule.optimiser, schedule.peak_learning_rate) == ("adam", 0.001)  # section 5.1
    assert (phase.batch, schedule.epochs, schedule.patience) == (64, 100, 10)  # section 5.1
    assert phase.steps_per_epoch == math.ceil(9266 / 64)  # Table 2
    assert schedule.drops is not None
    ends = [schedule.drops.share(10 * k * phase.steps_per_epoch) for k in range(10)]
    assert ends == pytest.approx([(1 / 3) ** k for k in range(10)]), "section 5.1: 1/3 decay for every 10 epochs"
    assert recipe.label_softness_months == 3.0  # section 3.1
    assert named(recipe) == {"flip", "mirror", "rotation_degrees"}  # section 3.1
    assert parameters(recipe) == pytest.approx(121.5e6, rel=0.01), "Table 1"
    hand, patches = prepared(recipe)
    assert (hand.shape, patches.shape) == ((224, 224), (18, 64, 64))  # section 4.2


def test_the_detector_of_global_local_is_that_of_hui_et_al():
    recipe = open_recipe("regions-paper")
    assert isinstance(recipe, RegionRecipe)
    assert (recipe.batch, recipe.epochs) == (64, 100)  # section 5.1
    assert recipe.steps_per_epoch == math.ceil(400 / 64)  # section 4.1: 400 for training
    assert (recipe.rate, recipe.peak_learning_rate, recipe.end_learning_rate) == (
        "one-cycle",
        0.01,
        0.001,
    )  # section 5.1
    assert recipe.schedule(half_precision=False).end_share == pytest.approx(0.1)


def test_ala_net_is_that_of_wang_et_al():
    recipe, phase, schedule = paper("ala-net")
    assert (schedule.optimiser, schedule.peak_learning_rate, phase.batch) == ("adam", 0.001, 32)  # section 4.1
    assert schedule.drops == Drops((30_000, 40_000), 0.1)  # section 4.1: by 10 at 30k and 40k
    assert schedule.epochs * schedule.steps_per_epoch == 50_000  # section 4.1
    assert recipe.label_softness_months == 0
    assert named(recipe) == {"mirror", "scale_share"}  # section 4.1
    assert max(prepared(recipe)[0].shape) == 512  # section 4.1
    with torch.device("meta"):
        net = open_method(recipe.target, recipe.method).make_net()
    assert sum(p.numel() for p in net.trunk.parameters()) == 23_508_032 - 2 * 64 * 49, (
        "ResNet-50 (section 3), one colour"
    )


def test_precise_baa_is_that_of_jia_et_al():
    recipe, phase, schedule = paper("precise-baa")
    assert (schedule.optimiser, schedule.momentum, schedule.peak_learning_rate) == ("sgd", 0.9, 0.01)  # section 4.3
    assert (phase.batch, schedule.epochs) == (2, 100)  # section 4.3
    assert schedule.drops == Drops((), 1.0), "no fall is named"
    assert phase.steps_per_epoch == math.ceil(873 / 2)  # Figure 15
    assert recipe.label_softness_months == 0
    assert named(recipe) == {"rotation_degrees", "scale_share", "gamma"}  # section 4.3
    with torch.device("meta"):
        net = open_method(recipe.target, recipe.method).make_net()
    trunk = sum(p.numel() for p in net.maturity.trunk.parameters())
    assert trunk == 6_953_856 - 2 * 64 * 49, "DenseNet-121 (section 4.3), one colour"
    assert prepared(recipe)[0].shape[0] == 13  # section 3.2


def test_the_localiser_of_precise_baa_is_that_of_jia_et_al():
    palm, detector = (bones.PAPER_STRETCHES[stage] for stage in ("palm", "detector"))
    assert (palm.optimiser, palm.momentum, palm.batch, palm.epochs) == ("sgd", 0.99, 4, 100)  # section 4.1
    assert palm.peak_learning_rate in {0.01, 0.001, 0.005}  # section 4.1
    assert palm.steps_per_epoch == 100 * 0.8 / 4  # section 4.1: 100 samples, 8:2
    assert (detector.optimiser, detector.batch, detector.epochs) == ("sgd", 4, 24)  # section 4.2.2
    assert detector.steps_per_epoch == math.ceil(0.7 * 2129 / 4)  # sections 3.1.1 and 4.2.2
    assert HEAD_OVERLAPS == (0.5, 0.6, 0.7)  # section 3.2: cascade R-CNN


def test_unsupervised_mobilenet_is_that_of_li_et_al():
    recipe, phase, schedule = paper("unsupervised-mobilenet")
    assert (schedule.optimiser, schedule.momentum) == ("sgd", 0.9)  # Details of training
    assert (phase.batch, schedule.epochs) == (10, 160)  # Details of training
    assert phase.steps_per_epoch == math.ceil(0.7 * 12_611 / 10)  # Dataset: 7:2:1 of 12,611
    assert schedule.drops == Drops(tuple(30 * k * 883 for k in range(1, 6)), 0.1)  # Details of training
    assert recipe.loss == "standardised", "eq. 6 and 7"
    assert recipe.label_softness_months == 0
    changes = {"shift_share", "scale_share", "rotation_degrees", "contrast", "brightness"}
    assert named(recipe) == changes  # Details of training: cropping, resizing, rotation, contrast, brightness
    assert parameters(recipe) == pytest.approx(7.6e6, rel=0.005), "Table 1"
    assert (recipe.method["localiser"], recipe.method["side"]) == ("paper", 700)  # Algorithm 1, Table 2


def test_2m_net_is_that_of_liu_et_al():
    recipe, phase, schedule = paper("2m-net")
    assert (schedule.optimiser, schedule.momentum, schedule.weight_decay) == (
        "sgd",
        0.9,
        1e-4,
    )  # Implementation details
    assert phase.batch == 2 * 64, "Implementation details: 64, of either sex here"
    assert schedule.epochs == 130  # Implementation details
    assert phase.steps_per_epoch == math.ceil((6833 + 5778) / 128)  # Table 2
    assert schedule.drops is not None
    first = schedule.peak_learning_rate * schedule.drops.share(0)
    assert (first, schedule.peak_learning_rate) == (pytest.approx(0.001), 0.0025)  # Implementation details
    assert schedule.drops.warm_up == 5 * 99  # Implementation details: the first five epochs
    assert schedule.drops.steps == tuple(99 * epoch for epoch in (30, 60, 90, 120))  # 10x drops per 30 epochs
    assert recipe.loss == "jigsaw", "eq. 4"
    assert recipe.label_softness_months == 0
    assert named(recipe) == {"rotation_degrees", "mirror", "gamma"}  # Implementation details
    assert round(parameters(recipe) / 2e6, 1) == 11.8, "Table 6, of one sex"
    assert prepared(recipe)[0].shape == (512, 512)  # Implementation details


def phantom(age_months: float, sex: Sex) -> LocatedFilm:
    """Draw discs at the landmarks whose size grows with age."""
    pose = Pose(np.array([[360.0, 0, -20], [0, 360.0, 10]]))
    image = np.full((400, 320), 20, dtype=np.uint8)
    points = pose.to_film(template_points())
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), round(2 + age_months / 30), 220, -1)
    return LocatedFilm(Reading(1, age_months, sex, "train"), image, pose, roi_centres(points, pose))


def prepared(recipe: Recipe) -> tuple[np.ndarray, ...]:
    film = phantom(120.0, Sex.MALE)
    return open_method(recipe.target, recipe.method).prepare(film.pixels, film.pose, film.centres)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_by_each_recipe_moves_the_weights_as_its_optimiser_does(name, tmp_path):
    """Given a tiny network and two steps by the recipe, then a run ends and its checkpoint has the optimiser."""
    recipe, phase, schedule = paper(name)
    short = phase.model_copy(update={"epochs": 1, "steps_per_epoch": 2, "batch": 4})
    tiny = recipe.model_copy(update={"phases": (short,), "method": recipe.method | TINY[name]})
    films = [phantom(age, sex) for age in (60.0, 180.0) for sex in Sex]
    torch.manual_seed(SEED)
    start = open_method(tiny.target, tiny.method).make_net().state_dict()
    carry_out(tiny, AgeFilms(films, [], films[:2]), Job(tmp_path))
    trained = read_run(tmp_path)
    weights = [key for key, value in start.items() if value.is_floating_point() and key.endswith("weight")]
    assert all(torch.isfinite(trained[key]).all() for key in weights)
    assert np.mean([not torch.equal(trained[key], start[key]) for key in weights]) > 0.9
    state = torch.load(tmp_path / phase.name / "checkpoint.pt", weights_only=True)
    (group,) = state["optimiser"]["param_groups"]
    assert group["weight_decay"] == schedule.weight_decay
    if schedule.optimiser == "sgd":
        assert group["momentum"] == 0.9
        assert "momentum_buffer" in state["optimiser"]["state"][0]
    else:
        assert group["decoupled_weight_decay"] is False, "Adam, not AdamW"
    for key, value in trained.items():
        assert torch.equal(value, state["net"][key]), "no average: the last weights"


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_comes_back_from_a_runs_record(name: str):
    recipe = read_recipe(f"{name}-paper")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_the_films_of_a_paper_recipe_are_the_sharp_ones_as_they_come():
    for name in METHODS:
        _, phase, schedule = paper(name)
        assert (phase.sharp_share, phase.balance, schedule.averaging) == (1.0, 0.0, 0.0)
        assert Path(shipped_recipes()[f"{name}-paper"]).read_text().startswith("# "), "it says what was chosen"
