"""Augmentation that a recipe names: where landmarks and grey values go. What it does for accuracy is not tested."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from inference.finding import Sex
from inference.method import open_method
from inference.pose import Pose, template_points
from inference.preparation import HAND_WINDOW, roi_centres
from training.ages import LABEL_SOFTNESS_MONTHS, LocatedFilm, Pool, age_batches, augmented, sample
from training.augmentation import Augmentation
from training.radiographs import Reading
from training.recipe import Recipe, open_recipe, shipped_recipes

POSE = Pose(np.array([[350.0, 40.0, -20.0], [-40.0, 350.0, 30.0]]))
POINTS = POSE.to_film(template_points())
METHOD = open_method("global-local", {"width": 0.0625, "equalise": False})


@pytest.fixture
def film() -> LocatedFilm:
    """A hand of discs that lies tilted in its film, on a ramp of grey."""
    image = np.tile(np.linspace(20, 90, 420).astype(np.uint8), (440, 1))
    for x, y in POINTS:
        cv2.circle(image, (round(x), round(y)), 5, 220, -1)
    return LocatedFilm(Reading(1, 100.0, Sex.MALE, "train"), image, POSE, roi_centres(POINTS, POSE))


def moved(seed: int = 1, **amounts: float) -> np.ndarray:
    """Return where the template's points (44, 2) lie in the template's plane of the changed pose."""
    return Augmentation(**amounts).move(POSE, np.random.default_rng(seed)).to_template(POINTS)


def test_nothing_named_changes_nothing(film):
    plain, centres = augmented(film, METHOD, np.random.default_rng(1), Augmentation())
    for mine, untouched in zip(plain, sample(film, METHOD, None), strict=True):
        assert np.allclose(mine, untouched, atol=1e-6)
    assert np.allclose(centres, film.pose.to_template(film.centres))


def test_mirrors_and_flips_are_about_the_hands_middle():
    points = template_points()
    assert np.allclose(moved(mirror=1.0), np.column_stack([1 - points[:, 0], points[:, 1]]))
    assert np.allclose(moved(flip=1.0), np.column_stack([points[:, 0], 1 - points[:, 1]]))
    mirrored = [not np.allclose(moved(seed, mirror=0.25), points) for seed in range(400)]
    assert 0.18 < np.mean(mirrored) < 0.32


def test_rotation_scale_and_shift_stay_within_what_is_named_and_reach_it():
    points = template_points()
    arm, shifts, angles, scales = points[0] - 0.5, [], [], []
    for seed in range(300):
        turned = moved(seed, rotation_degrees=20.0)[0] - 0.5
        cross, along = arm[0] * turned[1] - arm[1] * turned[0], arm @ turned
        angles.append(np.degrees(np.arctan2(cross, along)))
        assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(arm))
        scales.append(np.linalg.norm(moved(seed, scale_share=0.2)[0] - 0.5) / np.linalg.norm(arm))
        shifts.append(moved(seed, shift_share=0.1) - points)
    assert (min(angles), max(angles)) == (pytest.approx(-20, abs=0.5), pytest.approx(20, abs=0.5))
    assert (min(scales), max(scales)) == (pytest.approx(0.8, abs=0.01), pytest.approx(1.2, abs=0.01))
    assert np.abs(shifts).max() == pytest.approx(0.1, abs=0.002)
    assert all(np.allclose(shift, shift[0]) for shift in shifts)


def test_the_picture_shows_the_hand_where_the_centres_say(film):
    """Given a hand mirrored, turned, grown and moved, then its discs are bright where the changed centres lie."""
    named = Augmentation(rotation_degrees=20.0, scale_share=0.1, shift_share=0.03, mirror=1.0)
    (whole, patches), centres = augmented(film, METHOD, np.random.default_rng(4), named)
    x0, y0, x1, y1 = HAND_WINDOW
    places = (centres[:13] - (x0, y0)) / (x1 - x0, y1 - y0) * 224 - 0.5
    assert not np.allclose(centres, film.pose.to_template(film.centres), atol=0.02)
    seen = [whole[round(y), round(x)] for x, y in places if 0 <= x < 223 and 0 <= y < 223]
    assert len(seen) >= 11
    assert min(seen) > 0.3 > np.median(whole)
    assert (patches[:13, 30:34, 30:34].mean((1, 2)) > 0.3).all()


def test_a_crop_moves_as_a_pose_does():
    """Given a bright disc in a crop, when it is warped, then the disc lies where the same change puts the point."""
    crop, place = np.zeros((200, 200), dtype=np.uint8), np.array([140.0, 60.0])
    cv2.circle(crop, (140, 60), 6, 255, -1)
    named = Augmentation(rotation_degrees=20.0, scale_share=0.1, shift_share=0.05, mirror=0.5, flip=0.5)
    for seed in range(20):
        warped = named.warp(crop, np.random.default_rng(seed))
        changed = named.move(Pose(np.eye(2, 3)), np.random.default_rng(seed))
        found = cv2.moments(warped)
        seen = np.array([found["m10"], found["m01"]]) / found["m00"]
        assert np.allclose(seen, changed.to_template((place + 0.5) / 200) * 200 - 0.5, atol=0.3)


def test_a_method_that_cuts_out_the_hand_itself_has_its_crop_moved(film):
    """Given a film whose hand is the whole film, when it is flipped, then the method's crop is upside down."""
    method = open_method("unsupervised-mobilenet", {"localiser": "paper", "side": 64})
    (plain,), centres = augmented(film, method, np.random.default_rng(1), Augmentation())
    (flipped,), _ = augmented(film, method, np.random.default_rng(1), Augmentation(flip=1.0))
    assert np.allclose(flipped, plain[::-1], atol=0.01)
    assert not np.allclose(flipped, plain, atol=0.1)
    assert centres.shape == (18, 2)


def test_grey_values_change_as_named():
    def table(seed: int = 1, **amounts: float) -> np.ndarray:
        return Augmentation(**amounts).grey_table(np.random.default_rng(seed))

    plain = np.linspace(-1, 1, 256)
    assert table() == pytest.approx(plain, abs=1e-6)
    tables = np.stack([table(seed, gamma=0.35) for seed in range(200)])
    assert (np.diff(tables, axis=1) > 0).all()
    assert np.allclose(tables[:, [0, -1]], [-1, 1])
    middle = tables[:, 128] / 2 + 0.5
    assert middle.min() == pytest.approx(0.502 ** np.exp(0.35), abs=0.01)
    assert middle.max() == pytest.approx(0.502 ** np.exp(-0.35), abs=0.01)
    slopes = [np.diff(table(seed, contrast=0.2))[128] / np.diff(plain)[128] for seed in range(200)]
    assert (min(slopes), max(slopes)) == (pytest.approx(0.8, abs=0.01), pytest.approx(1.2, abs=0.01))
    lifts = [(table(seed, brightness=0.1) - plain)[128] / 2 for seed in range(200)]
    assert (min(lifts), max(lifts)) == (pytest.approx(-0.1, abs=0.005), pytest.approx(0.1, abs=0.005))
    assert np.abs([table(seed, contrast=0.5, brightness=0.3) for seed in range(50)]).max() == 1.0


def test_labels_are_softened_as_a_recipe_says(film):
    def ages(**options: float) -> torch.Tensor:
        return next(
            age_batches([Pool.make([film], 1.0)], METHOD, 30, 1, augmentation=Augmentation(), **options)
        ).age_months

    assert (ages(softness=0.0) == 100.0).all()
    assert 1.5 < (ages(softness=2.0) - 100).abs().max() <= 2
    assert 2.5 < (ages() - 100).abs().max() <= 3


def test_every_shipped_recipe_says_how_far_it_softens_labels_and_what_it_changes():
    for name, path in shipped_recipes().items():
        recipe = open_recipe(name)
        assert isinstance(recipe, Recipe)
        for key in ("label_softness_months", "augmentation"):
            assert key in path.read_text(), f"{name} does not say its {key}"
        if not name.endswith("-paper"):
            assert recipe.label_softness_months == LABEL_SOFTNESS_MONTHS
            assert recipe.augmentation == ("faults" if name.startswith("house-faults") else "house")


def test_a_change_that_no_recipe_has_is_refused():
    with pytest.raises(ValidationError, match="shear"):
        Augmentation.model_validate({"shear": 0.1})
    with pytest.raises(ValidationError, match="rotation_degrees"):
        Augmentation(rotation_degrees=-3.0)
