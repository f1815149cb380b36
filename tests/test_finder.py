"""Hands in wide films: which parts are looked at, where what is found there lies, and what counts as one hand.

Not covered: how many hands the shipped finder finds (``boneage-node evaluate --changed`` counts on two hands).
"""

import numpy as np
import pytest

from inference import detector
from inference.anatomy import BOX_NAMES
from inference.detector import FoundHand, Landmarks, find_all_hands, is_same_hand
from inference.eligibility import HandEvidence, is_hand
from inference.pose import Pose, template_points

ROWS = 100


@pytest.fixture
def looked(monkeypatch):
    """Replace the finder by one that sees a hand in the middle of halves only; returns the widths it was shown."""
    widths: list[int] = []

    def find(_net, film, threshold=0.3, most=3):
        widths.append(film.shape[1])
        return [hand_at(film.shape[1] / 2)] if film.shape[1] <= ROWS else []

    monkeypatch.setattr(detector, "find_hands", find)
    return widths


def hand_at(x: float) -> FoundHand:
    return FoundHand(Pose(np.array([[50.0, 0, x - 25], [0, 50, 10]])), 0.9, 0.0)


def landmarks(pose: Pose) -> Landmarks:
    return Landmarks(pose.to_film(template_points()), np.ones(44), np.full((len(BOX_NAMES), 2), 0.1), pose)


def test_hands_in_halves_lie_where_they_are_in_the_film(looked):
    hands = find_all_hands(None, np.zeros((ROWS, 181), dtype=np.uint8))
    assert looked == [181, 90, 91]
    assert [float(hand.pose.to_film([(0.5, 0.5)])[0, 0]) for hand in hands] == pytest.approx([45, 90 + 45.5])


@pytest.mark.parametrize("columns", [80, 119])
def test_a_film_that_is_not_wide_is_looked_at_once(looked, columns):
    find_all_hands(None, np.zeros((ROWS, columns), dtype=np.uint8))
    assert looked == [columns]


def test_a_film_with_two_hands_is_looked_at_once(monkeypatch):
    shown = []
    monkeypatch.setattr(
        detector, "find_hands", lambda _net, film, **_: shown.append(film.shape) or [hand_at(50), hand_at(150)]
    )
    assert len(find_all_hands(None, np.zeros((ROWS, 200), dtype=np.uint8))) == 2
    assert shown == [(ROWS, 200)]


def test_landmarks_a_palm_apart_are_two_hands():
    here, near, there = (landmarks(hand_at(x).pose) for x in (50, 60, 90))
    assert is_same_hand(here, near)
    assert not is_same_hand(here, there)


@pytest.mark.parametrize(("in_half", "score", "is_one"), [(False, 0.55, True), (True, 0.55, False), (True, 0.8, True)])
def test_half_a_wrist_makes_no_hand(in_half, score, is_one):
    """Given points found by halves, then a hand seen in a half of the film only needs them surer."""
    assert is_hand(HandEvidence(0.5, 44, score, 0.05, 13, (), in_half)) is is_one
