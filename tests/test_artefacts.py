"""Lines and compression over a hand: found, and neither noise nor an ordinary film taken for them.

Not covered: how often real films have them (``inference.eligibility`` has the measured shares).
"""

import cv2
import numpy as np
import pytest

from inference.anatomy import BOX_NAMES
from inference.artefacts import LEAST_PART, Artefacts, find_artefacts, grey_count, part_between
from inference.detector import Landmarks
from inference.eligibility import (
    LEAST_GREY_COUNT,
    MOST_BLOCKS,
    MOST_GRID,
    MOST_LINES,
    doubt_picture,
    flags_of_picture,
    weigh_picture,
)
from inference.finding import RefusalCode
from inference.pose import Pose, template_points

POSE = Pose(np.array([[500.0, 0, 20], [0, 500, 20]]))
LANDMARKS = Landmarks(POSE.to_film(template_points()), np.ones(44), np.full((len(BOX_NAMES), 2), 0.1), POSE)


@pytest.fixture
def film():
    """Return a film of smooth blobs with fine grain, shape (540, 540), 30..230."""
    generator = np.random.default_rng(5)
    coarse = cv2.resize(
        generator.uniform(0, 1, (120, 120)).astype(np.float32), (540, 540), interpolation=cv2.INTER_CUBIC
    )
    fine = cv2.GaussianBlur(generator.normal(0, 1, (540, 540)), (0, 0), 0.8) * 30
    return np.clip(40 + 180 * coarse + fine, 30, 230).astype(np.uint8)


def flags(film: np.ndarray) -> list[str]:
    return [flag.code for flag in flags_of_picture(weigh_picture(film, LANDMARKS))]


def compressed(film: np.ndarray, quality: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))


@pytest.mark.parametrize("grey", [0, 255])
@pytest.mark.parametrize("axis", [0, 1], ids=["row", "column"])
def test_one_line_across_the_hand_is_said(film, grey, axis):
    np.moveaxis(film, axis, 0)[270] = grey
    assert flags(film) == ["lines"]
    assert doubt_picture(weigh_picture(film, LANDMARKS)) is None


def test_a_line_of_no_signal_is_seen_in_a_film_that_is_half_black(film):
    """Given a black background, then a black line shows over the hand alone, and is found all the same."""
    film[:, 300:] = 0
    film[270] = 0
    assert "lines" in flags(film)


def test_many_lines_are_refused(film):
    film[40:500:40] = 0
    weighed = weigh_picture(film, LANDMARKS)
    doubt = doubt_picture(weighed)
    assert weighed.lines > MOST_LINES
    assert doubt is not None
    assert doubt.code is RefusalCode.POOR_IMAGE
    assert "lines" in doubt.sentence


@pytest.mark.parametrize("period", [3, 4, 6])
@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_the_lines_of_a_grid_are_said(film, axis, period):
    lines = 8 * np.sin(2 * np.pi * np.arange(540) / period + 0.3)
    smooth = cv2.GaussianBlur(film, (0, 0), 1.5).astype(np.float64)
    shown = np.clip(np.rint(smooth + (lines[:, None] if axis == 0 else lines)), 0, 255).astype(np.uint8)
    assert flags(smooth.astype(np.uint8)) == []
    assert flags(shown) == ["grid-lines"]


@pytest.mark.parametrize("deviation", [0, 5, 15, 30])
def test_noise_has_no_lines(film, deviation):
    noise = np.random.default_rng(1).normal(0, deviation, film.shape)
    noisy = np.clip(film + noise, 0, 255).astype(np.uint8)
    assert find_artefacts(noisy).lines == 0
    assert find_artefacts(noisy).grid < MOST_GRID


def test_the_edge_of_a_shutter_beside_the_hand_is_no_line(film):
    film[:30] = film[:, :30] = 0
    assert flags(film) == []


@pytest.mark.parametrize(("quality", "said"), [(5, True), (10, True), (90, False)])
@pytest.mark.parametrize("corner", [0, 3])
def test_a_strong_compression_is_said_wherever_its_blocks_begin(film, quality, said, corner):
    smooth = cv2.GaussianBlur(film, (0, 0), 3)
    spoilt = compressed(smooth, quality)[corner:, corner:]
    assert (find_artefacts(part_between(spoilt, LANDMARKS.points)).blocks > MOST_BLOCKS) is said
    assert ("compression-blocks" in flags(spoilt)) is said


@pytest.mark.parametrize(("values", "said"), [(9, True), (64, False)])
def test_a_film_rounded_to_few_grey_values_says_so(film, values, said):
    step = 255 / (values - 1)
    rounded = (np.round(film / step) * step).astype(np.uint8)
    assert ("few-grey-values" in flags(rounded)) is said


def test_a_dark_film_has_enough_grey_values_and_a_rounded_one_has_not(film):
    """Given bones within 20 grey values, then these are enough, rounded to every eighth not, whatever else is there."""
    dark = (film // 10).astype(np.uint8)
    dark[:60, :60] = np.arange(60, dtype=np.uint8) * 4
    rounded = np.asarray(dark // 8 * 8, dtype=np.uint8)
    assert weigh_picture(rounded, LANDMARKS).grey_count < LEAST_GREY_COUNT < weigh_picture(dark, LANDMARKS).grey_count


def test_as_many_grey_values_count_as_are_equally_frequent():
    image = np.repeat(np.array([[0, 50, 100, 200]], dtype=np.uint8), 8, axis=0)
    everywhere = np.ones(image.shape, dtype=np.bool_)
    half = np.arange(4)[None] < np.full((8, 1), 2)
    assert grey_count(image, np.eye(2, 3), everywhere) == pytest.approx(4)
    assert grey_count(image, np.eye(2, 3), half) == pytest.approx(2)


def test_a_part_too_small_to_judge_has_no_artefacts():
    assert find_artefacts(np.zeros((LEAST_PART - 1, 500), dtype=np.uint8)) == Artefacts()


def test_the_part_of_a_hand_ends_with_the_film():
    image = np.arange(100, dtype=np.uint8).reshape(10, 10)
    part = part_between(image, np.array([[-3.0, 2.5], [4.2, 30.0]]))
    np.testing.assert_array_equal(part, image[2:, :5])
    assert part_between(image, np.array([[20.0, 20.0], [30.0, 30.0]])).size == 0
