"""Views cut out of films: that what is shrunk is averaged. Does not cover poses (test_pose)."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.warp import warp, warp_onto


def noise(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (rows, columns)).astype(np.uint8)


@pytest.mark.parametrize("factor", [3, 6, 9])
def test_what_is_shrunk_is_averaged(factor):
    film = noise(60 * factor, 50 * factor)
    view = warp(film, np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]], dtype=float), (50, 60))
    sampled = film[factor // 2 :: factor, factor // 2 :: factor]
    means = film.reshape(60, factor, 50, factor).mean((1, 3))
    assert view.std() < sampled.std() / 2
    assert np.corrcoef(view.ravel(), means.ravel())[0, 1] > 0.75


def test_a_small_change_of_size_is_cv2s_own_warp():
    film, matrix = noise(60, 50), np.array([[1.1, 0.2, 3.0], [-0.2, 1.1, 5.0]])
    expected = cv2.warpAffine(
        film, matrix, (40, 30), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    assert np.array_equal(warp(film, matrix, (40, 30)), expected)


@pytest.mark.parametrize("scale", [0.2, 1.5])
def test_beyond_the_film_lies_its_edge_or_the_grey_asked_for(scale):
    film = np.full((100, 100), 200, dtype=np.uint8)
    onto = np.array([[scale, 0, 100.0], [0, scale, 100.0]])
    assert (warp_onto(film, onto, (120, 130)) == 200).all()
    placed = warp_onto(film, onto, (120, 130), fill=7)
    assert placed.shape == (130, 120)
    assert (placed[:90] == 7).all()
    assert placed[110, 110] == 200


@given(st.floats(0.1, 3), st.floats(-180, 180), st.floats(-40, 40), st.floats(-40, 40))
def test_a_mark_lands_where_the_matrix_says(scale, degrees, across, down):
    film = np.zeros((301, 301), dtype=np.uint8)
    cv2.circle(film, (150, 150), max(3, round(4 / scale)), 255, cv2.FILLED)
    angle = np.radians(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = np.array([100 + across, 90 + down])
    canvas = warp_onto(film, np.column_stack([linear, target - linear @ (150, 150)]), (200, 180), fill=0)
    rows, columns = np.nonzero(canvas > 60)
    assert (columns.mean(), rows.mean()) == pytest.approx(target, abs=0.6)
