"""Poses: similarity transforms between template and film, and boxes in them. Not how well the detector finds them."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.anatomy import BOX_NAMES, POINT_NAMES, RUS_NAMES
from inference.detector import Landmarks, crop_upright
from inference.pose import Pose, fit_pose, template_points
from inference.preparation import make_rois


def make_pose(angle_deg: float, scale: float, shift: tuple[float, float], *, mirrored: bool) -> Pose:
    angle = np.radians(angle_deg)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * rotation @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    return Pose(np.column_stack([linear, np.array(shift)]))


@given(st.floats(-179, 179), st.floats(20, 3000), st.floats(-500, 500), st.floats(-500, 500), st.booleans())
def test_a_pose_is_recovered_from_the_points_it_made(angle, scale, x, y, mirrored):
    pose = make_pose(angle, scale, (x, y), mirrored=mirrored)
    fitted = fit_pose(template_points(), pose.to_film(template_points()))
    assert np.allclose(fitted.matrix, pose.matrix, atol=1e-6 * scale + 1e-6)
    assert fitted.mirrored is mirrored
    assert fitted.scale == pytest.approx(scale)


@given(st.floats(-179, 179), st.booleans())
def test_rotation_is_clockwise_from_fingers_up(angle, mirrored):
    pose = make_pose(angle, 100, (0, 0), mirrored=mirrored)
    assert (pose.rotation_deg - angle + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


def test_to_template_inverts_to_film():
    pose = make_pose(33, 700, (12, -40), mirrored=True)
    points = template_points()
    assert np.allclose(pose.to_template(pose.to_film(points)), points)


def test_unknown_points_are_left_out():
    pose = make_pose(-20, 500, (100, 50), mirrored=False)
    film = pose.to_film(template_points())
    film[3:20] = np.nan
    assert np.allclose(fit_pose(template_points(), film).matrix, pose.matrix)


def test_a_forbidden_reflection_is_not_fitted():
    pose = make_pose(0, 100, (0, 0), mirrored=True)
    assert not fit_pose(template_points(), pose.to_film(template_points()), mirrored=False).mirrored


def test_a_pose_needs_two_points():
    with pytest.raises(ValueError, match="two points"):
        fit_pose(template_points()[:1], template_points()[:1])


def test_the_warp_shows_a_template_point_where_the_window_says():
    pose = make_pose(90, 200, (300, 100), mirrored=False)
    film = np.zeros((600, 600), dtype=np.uint8)
    x, y = pose.to_film(template_points()[POINT_NAMES.index("MC3")])
    cv2.circle(film, (int(x), int(y)), 3, 255, -1)
    crop = cv2.warpAffine(film, pose.warp_matrix(200), (200, 200), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    row, column = np.unravel_index(int(cv2.GaussianBlur(crop, (0, 0), 2).argmax()), crop.shape)
    expected = template_points()[POINT_NAMES.index("MC3")] * 200
    assert np.hypot(column + 0.5 - expected[0], row + 0.5 - expected[1]) < 1.5


def test_the_template_is_an_upright_left_hand():
    at = dict(zip(POINT_NAMES, template_points(), strict=True))
    assert at["TIP3"][1] < at["MC3"][1] < at["radius"][1]
    assert at["DP1"][0] > at["DP5"][0]
    assert at["radius"][0] > at["ulna"][0]


@pytest.mark.parametrize("left", [-0.4, 1.3])
def test_a_window_beyond_a_large_film_shows_its_edge(left):
    """A bone that a large film cuts off has a patch all the same; cv2 refused a strip of less than half a pixel."""
    film = np.tile(np.linspace(40, 200, 4000).astype(np.uint8), (5000, 1))
    pose = make_pose(0, 4000, (0, 500), mirrored=False)
    patch = crop_upright(film, pose, 64, (left, 0.4, left + 0.1, 0.5))
    assert patch.shape == (64, 64)
    assert np.unique(patch).tolist() == [40 if left < 0 else 200]


@given(
    st.sampled_from(RUS_NAMES),
    st.floats(15, 30),
    st.sampled_from((-1, 1)),
    st.sampled_from((0, 90, 180)),
    st.booleans(),
)
def test_a_tilted_bones_box_is_between_an_ellipses_and_a_turned_rectangles(name, tilt, side, quarter, mirrored):
    width, height = 0.06, 0.12
    pose = make_pose(quarter + side * tilt, 500, (300, 300), mirrored=mirrored)
    landmarks = Landmarks(
        pose.to_film(template_points()), np.ones(len(POINT_NAMES)), np.tile((width, height), (len(BOX_NAMES), 1)), pose
    )
    box = next(roi for roi in make_rois(landmarks) if roi.name == name).box
    reach = np.abs(pose.matrix[:, :2])
    turned = tuple(reach @ (width, height))
    ellipse = tuple(np.sqrt(reach**2 @ np.square((width, height))))
    found = (box.x1 - box.x0, box.y1 - box.y0)
    assert ellipse[0] < found[0] < turned[0]
    assert ellipse[1] < found[1] < turned[1]


@pytest.mark.parametrize(
    ("name", "turned", "exponent"),
    [
        ("radius", 45, 4),
        ("MC5", 45, 10),
        ("PP3", -45, 10),
        ("DP1", 135, 7),
        ("carpus", 45, 3),
        ("MC5", 10, 6.5),
        ("MC5", 5, 3),
    ],
)
def test_a_bones_box_grows_with_the_tilt_as_square_as_its_readers_draw_it(name, turned, exponent):
    """Given a hand that lies askew, when boxes are drawn, then each is that of its superellipse |x|^n + |y|^n = 1."""
    pose = make_pose(turned, 500, (300, 300), mirrored=False)
    width, height = 0.1, 0.16
    sizes = np.tile((width, height), (len(BOX_NAMES), 1))
    rois = make_rois(Landmarks(pose.to_film(template_points()), np.ones(len(POINT_NAMES)), sizes, pose))
    box = next(roi for roi in rois if roi.name == name).box
    if name == "carpus":
        width, height = 0.26, 0.20
    angles = np.linspace(0, 2 * np.pi, 100_001)
    x, y = (np.sign(f(angles)) * np.abs(f(angles)) ** (2 / exponent) for f in (np.cos, np.sin))
    outline = np.column_stack([x * width / 2, y * height / 2]) @ pose.matrix[:, :2].T
    assert (box.x1 - box.x0, box.y1 - box.y0) == pytest.approx(tuple(np.ptp(outline, axis=0)), rel=1e-4)


def test_an_upright_bones_box_is_its_size():
    pose = make_pose(0, 500, (300, 300), mirrored=False)
    sizes = np.tile((0.06, 0.12), (len(BOX_NAMES), 1))
    rois = make_rois(Landmarks(pose.to_film(template_points()), np.ones(len(POINT_NAMES)), sizes, pose))
    box = next(roi for roi in rois if roi.name == "radius").box
    assert (box.x1 - box.x0, box.y1 - box.y0) == pytest.approx((30, 60))
