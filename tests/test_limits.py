"""How near films come to the limits of the picture: the table against the judgement itself, and the sums by hand.

Not covered: what the shipped detector measures of real films (``python -m training.limits`` measures that).
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from inference.eligibility import PictureEvidence, doubt_picture, flags_of_picture
from inference.finding import Laterality, Sex
from inference.pose import Pose, template_points
from training import limits
from training.errors import DataError
from training.limits import LIMITS, limit_figures, main, print_figures, weigh_films
from training.radiographs import Radiograph, Reading

GOOD = PictureEvidence(0.0, 0.0, 1.0, 1.0)


def outcome(evidence):
    if doubt_picture(evidence) is not None:
        return "refused"
    return "flagged" if flags_of_picture(evidence) else "read"


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.measure} {limit.outcome}")
def test_what_is_just_beyond_a_limit_meets_its_outcome_and_what_is_at_it_does_not(limit):
    assert outcome(GOOD) == "read"
    step = 1e-6 if limit.side == "above" else -1e-6
    assert outcome(replace(GOOD, **{limit.measure: limit.value + step})) == limit.outcome
    assert outcome(replace(GOOD, **{limit.measure: limit.value})) != limit.outcome


def test_light_that_falls_off_to_either_side_counts():
    row = next(row for row in limit_figures([replace(GOOD, slope=-0.9), GOOD]) if row["measure"] == "slope")
    assert row["beyond"] == 1
    assert row["percentiles"]["100"] == 0.9


def test_figures_by_hand(capsys):
    found = [replace(GOOD, grey_count=count) for count in (5.0, 8.0, 20.0, 40.0, 60.0)]
    refused, flagged = (row for row in limit_figures(found) if row["measure"] == "grey_count")
    assert (refused["beyond"], flagged["beyond"]) == (1, 2)
    assert flagged["percentiles"]["0"] == 5.0
    assert flagged["percentiles"]["50"] == 20.0
    print_figures({"rows": [refused, flagged], "films": 5, "without_hand": [7]})
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["grey_count", "below", "6", "refused", "5", "5.12", "20", "59.2", "60", "1"]
    assert said[-1] == "5 films with a hand; of 1 more nothing is measured."


def test_nothing_measured_is_named():
    with pytest.raises(DataError, match="No hand is found in any of these films"):
        limit_figures([])


class BrightLocator:
    """Finds one hand, where it is told to, on films that are not dark."""

    def locate(self, image):
        pose = Pose(np.array([[180.0, 0, 20], [0, 180, 20]]))
        landmarks = SimpleNamespace(pose=pose, points=pose.to_film(template_points()))
        evidence = SimpleNamespace(points_found=44, mean_score=0.9, shape_error=0.01, second_look=False)
        hand = SimpleNamespace(evidence=evidence, landmarks=landmarks, side=Laterality.LEFT)
        return ([hand] if image.mean() > 50 else []), image, False


def film(number, pixels):
    return Radiograph(Reading(number, 100.0, Sex.MALE, "train"), pixels.astype(np.uint8))


def test_films_are_weighed_as_the_node_weighs_them_and_those_without_a_hand_are_told():
    grain = np.random.default_rng(3).integers(90, 160, (220, 220))
    few = 4 * (grain // 4)
    flat = np.full_like(grain, 120)  # BrightLocator would find a hand in it; the node refuses it before it looks
    found, without = weigh_films(BrightLocator(), [film(1, grain), film(2, grain // 3), film(3, few), film(4, flat)])
    assert without == [2, 4]
    assert found[1].grey_count < found[0].grey_count


def test_a_folder_that_is_none_is_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(limits, "TorchLocator", lambda *_: BrightLocator())
    assert main(["--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere; correct the path" in caplog.text
