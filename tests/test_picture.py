"""What is done to a picture before it is read, and when its quality forbids reading: borders, equalisation, thresholds.

Not covered: how far real films are from the thresholds (``training.stress`` measures that).
"""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.anatomy import BOX_NAMES, POINT_NAMES
from inference.detector import Landmarks
from inference.eligibility import (
    LEAST_COARSE_DETAIL,
    LEAST_COARSE_SHARPNESS,
    LEAST_GREY_COUNT,
    LEAST_SHARPNESS,
    MOST_BLACK,
    MOST_BRIGHT_RADIUS,
    MOST_LINES,
    MOST_NOISE,
    MOST_WHITE,
    PictureEvidence,
    doubt_picture,
    flags_of_picture,
    weigh_picture,
)
from inference.film import without_border
from inference.finding import Box, RefusalCode
from inference.pose import Pose, template_points
from inference.preparation import MOST_FLAT_SHARE, equalisation_table

POSE = Pose(np.array([[500.0, 0, 20], [0, 500, 20]]))
LANDMARKS = Landmarks(POSE.to_film(template_points()), np.ones(44), np.full((len(BOX_NAMES), 2), 0.1), POSE)
IMAGES = arrays(np.uint8, st.tuples(st.integers(3, 12), st.integers(3, 12)), elements=st.integers(0, 3))


def picture(noise: float = 2.0) -> np.ndarray:
    """Return a film of smooth blobs with a little noise, shape (540, 540), 40..220."""
    generator = np.random.default_rng(5)
    coarse = cv2.resize(
        generator.uniform(0, 1, (120, 120)).astype(np.float32), (540, 540), interpolation=cv2.INTER_CUBIC
    )
    fine = cv2.GaussianBlur(generator.normal(0, 1, (540, 540)), (0, 0), 0.8) * 30
    return np.clip(40 + 180 * coarse + fine + generator.normal(0, noise, coarse.shape), 30, 230).astype(np.uint8)


@given(inner=IMAGES, edges=st.tuples(*[st.integers(1, 4)] * 4), grey=st.integers(10, 12))
def test_a_border_goes_and_the_film_stays(inner, edges, grey):
    """Given a film with borders of a grey value it does not hold, then exactly the borders are cut off."""
    top, bottom, left, right = edges
    sheet = np.pad(inner, ((top, bottom), (left, right)), constant_values=grey)
    cut, corner = without_border(sheet)
    np.testing.assert_array_equal(cut, inner)
    assert corner == (left, top)


def test_a_flat_line_inside_the_film_stays():
    film = np.array([[1, 2, 3], [0, 0, 0], [4, 5, 6]], dtype=np.uint8)
    np.testing.assert_array_equal(without_border(film)[0], film)


def test_an_image_of_one_grey_value_keeps_its_size():
    flat = np.full((5, 7), 9, dtype=np.uint8)
    assert without_border(flat) == (pytest.approx(flat), (0, 0))


def test_a_box_moves():
    assert Box(1, 2, 3, 4).moved(10, 20) == Box(11, 22, 13, 24)


def test_equalisation_is_opencvs_where_the_background_is_not_flat():
    image = picture()
    np.testing.assert_array_equal(cv2.LUT(image, equalisation_table(image)), cv2.equalizeHist(image))


def test_crushed_soft_parts_leave_the_bones_grey_values_alone():
    """Given a film whose darker half is cut off at black, then the brighter half is equalised as before."""
    image = picture()
    middle = int(np.median(image))
    crushed = np.where(image > middle, image, 0).astype(np.uint8)
    assert (crushed == 0).mean() > MOST_FLAT_SHARE
    bright = image > middle
    before = cv2.LUT(image, equalisation_table(image)).astype(int)[bright]
    after = cv2.LUT(crushed, equalisation_table(crushed)).astype(int)[bright]
    by_opencv = cv2.equalizeHist(crushed).astype(int)[bright]
    assert np.abs(after - before).mean() < 0.6 * np.abs(by_opencv - before).mean()
    assert after.max() == 255


def test_a_good_picture_is_read():
    assert doubt_picture(weigh_picture(picture(), LANDMARKS)) is None


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda p: np.where(p < 90, 0, p), "black"),
        (lambda p: np.where(p > 120, 255, p), "white"),
        (lambda p: np.clip(p + np.random.default_rng(1).normal(0, 40, p.shape), 0, 255), "noisy"),
        (lambda p: cv2.GaussianBlur(p, (0, 0), 4), "blurred"),
        (lambda p: p // 40 * 40, "grey values"),
    ],
    ids=["black", "white", "noise", "blur", "few-levels"],
)
def test_a_spoiled_picture_is_refused_with_a_reason(spoil, word):
    spoiled = np.asarray(spoil(picture())).astype(np.uint8)
    doubt = doubt_picture(weigh_picture(spoiled, LANDMARKS))
    assert doubt is not None
    assert doubt.code is RefusalCode.POOR_IMAGE
    assert word in doubt.sentence or (word == "grey values" and "black" in doubt.sentence)


@pytest.mark.parametrize("sigma", [5, 6, 8, 12])
def test_the_stronger_a_blur_the_less_it_is_read(sigma):
    """Given a blur so strong that rounding makes more detail than is left, then the film is refused as blurred."""
    doubt = doubt_picture(weigh_picture(cv2.GaussianBlur(picture(), (0, 0), sigma), LANDMARKS))
    assert doubt is not None
    assert "blurred" in doubt.sentence


@pytest.mark.parametrize(
    ("left", "right", "said"), [(1.0, 0.2, True), (0.2, 1.0, True), (1.0, 0.9, False)], ids=["left", "right", "hardly"]
)
def test_light_that_falls_off_across_the_hand_is_said(left, right, said):
    """Given one side far darker than the other, then a flag says so; towards the wrist films differ anyway."""
    ramp = np.linspace(left, right, 540)
    across, along = ((picture() * falling).astype(np.uint8) for falling in (ramp[None, :], ramp[:, None]))
    codes = [[flag.code for flag in flags_of_picture(weigh_picture(one, LANDMARKS))] for one in (across, along)]
    assert codes == [["uneven-light"] * said, []]


def test_the_estimated_noise_grows_with_the_noise():
    weighed = [weigh_picture(picture(noise), LANDMARKS).noise for noise in (0, 10, 20)]
    assert weighed == sorted(weighed)
    assert weighed[2] > weighed[0] + 2


@pytest.mark.parametrize(
    ("evidence", "refused"),
    [
        (PictureEvidence(MOST_BLACK, MOST_WHITE, MOST_NOISE, LEAST_SHARPNESS), False),
        (PictureEvidence(MOST_BLACK + 0.01, 0, 1, 1), True),
        (PictureEvidence(0, MOST_WHITE + 0.01, 1, 1), True),
        (PictureEvidence(0, 0, MOST_NOISE + 0.1, 1), True),
        (PictureEvidence(0, 0, 1, LEAST_SHARPNESS - 0.01), True),
        (
            PictureEvidence(0, 0, 1, 1, coarse_sharpness=LEAST_COARSE_SHARPNESS, coarse_detail=LEAST_COARSE_DETAIL),
            False,
        ),
        (PictureEvidence(0, 0, 1, 1, coarse_sharpness=LEAST_COARSE_SHARPNESS - 0.01), True),
        (PictureEvidence(0, 0, 1, 1, coarse_detail=LEAST_COARSE_DETAIL - 0.1), True),
        (PictureEvidence(0, 0, 1, 1, lines=MOST_LINES, grey_count=LEAST_GREY_COUNT), False),
        (PictureEvidence(0, 0, 1, 1, lines=MOST_LINES + 0.001), True),
        (PictureEvidence(0, 0, 1, 1, grey_count=LEAST_GREY_COUNT - 0.1), True),
    ],
)
def test_thresholds_are_the_last_values_that_are_read(evidence, refused):
    assert (doubt_picture(evidence) is not None) is refused


def test_a_bright_even_object_beside_a_bone_is_flagged_and_a_thin_ring_is_not():
    film = picture()
    assert flags_of_picture(weigh_picture(film, LANDMARKS)) == []
    x, y = LANDMARKS.points[POINT_NAMES.index("radius")].round().astype(int).tolist()
    ring = cv2.circle(film.copy(), (x, y), 14, 255, 5)
    assert flags_of_picture(weigh_picture(ring, LANDMARKS)) == []
    plated = cv2.line(film.copy(), (x, y - 30), (x, y + 40), 255, 26)
    assert weigh_picture(plated, LANDMARKS).bright_radius > MOST_BRIGHT_RADIUS
    assert [flag.code for flag in flags_of_picture(weigh_picture(plated, LANDMARKS))] == ["bright-object"]
