"""Hands in long films: which parts are looked at, where what is found there lies, and what counts as one hand.

Not covered: how many hands the shipped finder finds (``boneage-node evaluate --changed`` counts on two hands).
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import detector
from inference.anatomy import BOX_NAMES
from inference.detector import (
    CENTRE_POINTS,
    FoundHand,
    Landmarks,
    find_all_hands,
    find_turned_hands,
    is_same_hand,
    reflected,
)
from inference.eligibility import HandEvidence, is_hand, may_be_hand
from inference.engine import LocatedHand
from inference.pose import Pose, template_points
from inference.torch_backend import _keep

ROWS = 100


@pytest.fixture
def looked(monkeypatch):
    """Replace the finder by one that sees a hand in the middle of halves only; returns the long sides it was shown."""
    sides: list[int] = []

    def find(_net, film, threshold=0.3, most=3):
        sides.append(max(film.shape))
        return [hand_at(film.shape[1] / 2, film.shape[0] / 2)] if max(film.shape) <= ROWS else []

    monkeypatch.setattr(detector, "find_hands", find)
    return sides


def hand_at(x: float, y: float = 35.0) -> FoundHand:
    return FoundHand(Pose(np.array([[50.0, 0, x - 25], [0, 50, y - 25]])), 0.9, 0.0)


def landmarks(pose: Pose) -> Landmarks:
    return Landmarks(pose.to_film(template_points()), np.ones(44), np.full((len(BOX_NAMES), 2), 0.1), pose)


def test_hands_in_halves_lie_where_they_are_in_the_film(looked):
    hands = find_all_hands(None, np.zeros((ROWS, 181), dtype=np.uint8))
    assert looked == [181, ROWS, ROWS]
    assert [float(hand.pose.to_film([(0.5, 0.5)])[0, 0]) for hand in hands] == pytest.approx([45, 90 + 45.5])


def test_hands_above_each_other_lie_where_they_are_in_the_film(looked):
    hands = find_all_hands(None, np.zeros((181, 90), dtype=np.uint8))
    assert looked == [181, 90, 91]
    assert [float(hand.pose.to_film([(0.5, 0.5)])[0, 1]) for hand in hands] == pytest.approx([45, 90 + 45.5])


@pytest.mark.parametrize("columns", [53, 80, 100])
def test_a_film_with_a_hand_that_is_not_long_is_looked_at_once(looked, columns):
    find_all_hands(None, np.zeros((ROWS, columns), dtype=np.uint8))
    assert looked == [ROWS]


@given(st.floats(-180, 180), st.floats(20, 200), st.booleans())
def test_the_other_sides_hand_lies_where_this_one_does(turn, scale, mirrored):
    """Given any pose, then the reflected one has the same palm, direction and size, and the thumb on the other side."""
    angle = np.radians(turn)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pose = Pose(np.column_stack([linear * ((-1.0 if mirrored else 1.0), 1.0), (30.0, 40.0)]))
    other = reflected(pose)
    assert other.mirrored is not pose.mirrored
    assert other.scale == pytest.approx(pose.scale)
    assert abs((other.rotation_deg - pose.rotation_deg + 180) % 360 - 180) == pytest.approx(0, abs=1e-6)
    palm = template_points()[list(CENTRE_POINTS)].mean(0)
    assert other.to_film(palm) == pytest.approx(pose.to_film(palm))
    assert reflected(other).matrix == pytest.approx(pose.matrix)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_hand_seen_in_the_film_turned_lies_where_it_is_in_the_film(monkeypatch, turn):
    """Given a finder that sees a bright spot in one orientation only, then the hand it makes of it is at the spot."""
    film = np.zeros((ROWS, 90), dtype=np.uint8)
    film[20, 70] = 255
    wanted = np.rot90(film, turn)

    def find(_net, shown, threshold=0.3, most=3):
        if shown.shape != wanted.shape or not (shown == wanted).all():
            return []
        (y, x) = np.argwhere(shown > 0)[0] + 0.5
        return [FoundHand(Pose(np.array([[50.0, 0, x - 25], [0, 50, y - 25]])), 0.9, 0.0)]

    monkeypatch.setattr(detector, "find_hands", find)
    assert find_all_hands(None, film) == []
    (hand,) = find_turned_hands(None, film)
    assert hand.pose.to_film([(0.5, 0.5)])[0] == pytest.approx((70.5, 20.5))
    assert hand.pose.scale == pytest.approx(50)
    assert hand.pose.rotation_deg % 360 == pytest.approx(90 * turn)
    assert not hand.pose.mirrored
    assert hand.second_look


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


@pytest.mark.parametrize(
    ("second_look", "score", "is_one"), [(False, 0.55, True), (True, 0.55, False), (True, 0.8, True)]
)
def test_half_a_wrist_makes_no_hand(second_look, score, is_one):
    """Given points found by halves, then a hand seen at a second look only needs them surer."""
    assert is_hand(HandEvidence(0.5, 44, score, 0.05, 13, (), second_look)) is is_one


@pytest.mark.parametrize(
    ("finder", "points", "score", "second_look", "may_be"),
    [
        (0.9, 44, 0.9, False, False),  # it is one
        (0.6, 44, 0.5, True, False),  # half a wrist
        (0.6, 37, 0.67, True, True),  # more than half of a hand
        (0.31, 25, 0.39, False, False),
        (0.31, 30, 0.45, False, False),  # it is one, if a poor one
        (0.7, 10, 0.2, False, True),  # the finder is sure
        (0.7, 10, 0.2, True, False),
    ],
)
def test_what_may_be_a_hand_is_told(finder, points, score, second_look, may_be):
    assert may_be_hand(HandEvidence(finder, points, score, 0.05, 8, (), second_look)) is may_be
    askew = HandEvidence(0.4, 44, 0.6, 0.2, 13, (), second_look)
    assert may_be_hand(askew)


@pytest.mark.parametrize("order", [(0.6, 0.8), (0.8, 0.6)])
def test_of_two_findings_of_one_hand_the_surer_one_stays(order):
    hands: list[LocatedHand] = []
    for x, score in zip((50, 54), order, strict=True):
        found = hand_at(x)
        _keep(hands, LocatedHand(found, landmarks(found.pose), HandEvidence(0.9, 44, score, 0.05, 13, ())))
    assert [hand.evidence.mean_score for hand in hands] == [0.8]
    _keep(hands, LocatedHand(hand_at(90), landmarks(hand_at(90).pose), HandEvidence(0.9, 44, 0.5, 0.05, 13, ())))
    assert len(hands) == 2
