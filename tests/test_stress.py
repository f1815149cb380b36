"""The stress suite's changes and sums, on made-up films and a made-up engine.

Not covered: what the shipped models do under it (the command itself says that).
"""

import json

import numpy as np
import pytest

from inference.finding import Box, Estimate, Flag, Laterality, ModelIdentity, Refusal, RefusalCode, Sex, Subject
from training import compare as comparison
from training import outliers
from training import stress as suite
from training.errors import DataError
from training.evaluation.report import stress_section
from training.radiographs import Radiograph
from training.radiographs import Reading as Reference
from training.stress import CHANGES, Change, Reading, compare, print_outcomes, spread, stress, stress_figures

MODEL = ModelIdentity("house", "House", "0.1.0", "ab" * 32)
SUBJECT = Subject(Sex.MALE, "table", None, "table")
HAND = Box(20, 30, 80, 130)


def film(number: int = 1, age: float = 100.0) -> Radiograph:
    """Return a film with a bright shape that is neither symmetric nor of one grey value."""
    rows, columns = np.indices((160, 120))
    pixels = np.where((rows > 30) & (rows < 130) & (columns > 20) & (columns < 80), 90 + (rows + columns) // 3, 40)
    return Radiograph(Reference(number, age, Sex.MALE, "validation"), pixels.astype(np.uint8))


def estimate(age: float, *codes: str) -> Estimate:
    flags = tuple(Flag(code, "A sentence.") for code in codes)
    return Estimate(age, age - 9, age + 9, 0.9, SUBJECT, Laterality.LEFT, HAND, (), 1, 0.9, flags, MODEL)


REFUSED = Refusal(RefusalCode.POOR_IMAGE, "No.", "Send another.", SUBJECT)


class GreyEngine:
    """Reads the mean grey as an age; refuses what is nearly black."""

    identity = MODEL

    def interpret_film(self, shot, subject):
        assert subject.sex is Sex.MALE
        grey = float(shot.pixels.mean() * 255)
        return REFUSED if grey < 20 else estimate(grey)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_changes_the_film_the_same_way_each_time(change):
    before = film().pixels
    original = before.copy()
    once, again = change.apply(before, HAND).pixels, change.apply(before, HAND).pixels
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(before, original)
    assert once.dtype == np.float32
    assert 0 <= once.min() < once.max() <= 1
    assert once.shape != before.shape or not np.array_equal(np.rint(once * 255), before)


def test_names_tell_changes_apart():
    assert len({change.name for change in CHANGES}) == len(CHANGES)


def test_a_turn_is_clockwise_and_loses_nothing():
    """Given a bright dot right of the centre, when turned by 30 degrees clockwise, then it lies 30 degrees lower."""
    pixels = np.zeros((201, 201), dtype=np.uint8)
    pixels[98:103, 178:183] = 255
    turned = suite.turned(30)(pixels, HAND, np.random.default_rng(0))
    rows, columns = np.nonzero(turned > 128)
    x, y = columns.mean() - (turned.shape[1] - 1) / 2, rows.mean() - (turned.shape[0] - 1) / 2
    assert np.degrees(np.arctan2(y, x)) == pytest.approx(30, abs=2)
    assert np.hypot(x, y) == pytest.approx(80, abs=2)
    assert suite.turned(30, whole=False)(pixels, HAND, np.random.default_rng(0)).shape == pixels.shape


@pytest.mark.parametrize("change", [c for c in CHANGES if "bits" in c.name], ids=lambda change: change.name)
def test_another_bit_depth_shows_the_same_film(change):
    """Given a film stored with other bits and rendered again, then every grey value follows the old one in order."""
    before = film().pixels
    after = change.apply(before, HAND).pixels * 255
    means = [after[before == grey].mean() for grey in np.unique(before)]
    assert (np.diff(means) > 0).mean() > 0.9
    assert np.corrcoef(means, np.unique(before))[0, 1] > 0.99


def test_collimation_leaves_the_hand_alone():
    before = film().pixels
    after = suite.collimated(0, margin=0.0)(before, HAND, np.random.default_rng(0))
    np.testing.assert_array_equal(after[30:130, 20:80], before[30:130, 20:80])
    assert after.sum() == after[30:130, 20:80].sum()


def made(maker, pixels):
    return maker(pixels, HAND, np.random.default_rng(0))


def test_light_falls_off_to_the_side_or_the_corners_it_is_said_to():
    even = np.full((101, 201), 200, dtype=np.uint8)
    to_left, to_right = (made(suite.darkened(0.6, right=right), even) for right in (False, True))
    assert (to_left[50, 0], to_left[50, 100], to_left[50, -1]) == (80, 140, 200)
    np.testing.assert_array_equal(to_right, to_left[:, ::-1])
    corners = made(suite.vignetted(0.9), even)
    assert (corners[0, 0], corners[-1, -1], corners[50, 100], corners[50, 0]) == (20, 20, 200, 110)


def test_scatter_lowers_contrast_and_keeps_the_mean():
    before = film().pixels
    after = made(suite.scattered(0.6), before)
    assert after.mean() == pytest.approx(before.mean(), abs=0.5)
    assert after.std() < 0.8 * before.std()


def test_few_grey_values_are_even_steps_from_black_to_white():
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(2, axis=0)
    np.testing.assert_array_equal(np.unique(made(suite.rounded(16), ramp)), np.arange(16) * 17)


def test_a_squash_makes_a_film_narrower_alone():
    assert made(suite.squashed(0.1), film().pixels).shape == (160, 108)


def test_an_outcome_by_hand():
    """Given ages 100, 110, 120 read as 104, 108 (with a new flag) and not at all, then the sums are a pencil's."""
    readings = [
        Reading(film(1, 100), estimate(102, "rotated")),
        Reading(film(2, 110), estimate(113)),
        Reading(film(3, 120), estimate(125)),
    ]
    outcome = compare("made up", readings, [estimate(104, "rotated"), estimate(108, "polarity-corrected"), REFUSED])
    assert (outcome.films, outcome.read) == (3, 2)
    assert outcome.refused_share == pytest.approx(1 / 3)
    assert outcome.flagged_share == 0.5
    assert (outcome.mae_before, outcome.mae_after) == (2.5, 3.0)
    assert (outcome.mean_shift, outcome.mean_absolute_shift) == (-1.5, 3.5)
    assert (outcome.largest_shift, outcome.largest_silent_shift) == (5.0, 2.0)
    assert outcome.passed


def test_a_change_of_the_error_by_more_than_a_month_fails_and_refusing_all_passes():
    readings = [Reading(film(1, 100), estimate(102))]
    assert not compare("worse", readings, [estimate(103.5)]).passed
    assert not compare("better", readings, [estimate(100.5)]).passed
    assert compare("refused", readings, [REFUSED]).passed


def test_the_suite_reads_each_film_before_and_after():
    same, black = Change("same", lambda p, _h, _r: p), Change("black", lambda p, _h, _r: p // 20)
    outcomes = stress(GreyEngine(), [film(1), film(2)], (same, black))
    assert [(o.change, o.read, o.passed) for o in outcomes] == [("same", 2, True), ("black", 0, True)]
    assert outcomes[0].mean_absolute_shift == 0.0


def test_of_films_that_are_all_refused_no_error_is_told(capsys):
    """Given a change after which no film is read, then its errors are nobody's: null, and a dash on the page."""
    black = Change("black", lambda p, _h, _r: p // 20)
    outcomes = stress(GreyEngine(), [film(1), film(2)], (black,))
    found = stress_figures(outcomes)
    unread = ("mae_before", "mae_after", "mean_shift", "mean_absolute_shift", "largest_shift", "largest_silent_shift")
    assert [found["rows"][0][key] for key in (*unread, "flagged_share")] == [None] * 7
    assert found["rows"][0]["refused_share"] == 1.0
    assert stress_section(found).count("<td>\N{EN DASH}</td>") == 7
    print_outcomes(found)
    assert "nan" not in capsys.readouterr().out


def test_films_that_are_refused_as_they_are_play_no_part():
    dark = Radiograph(film(1).reading, film().pixels // 20)
    assert stress(GreyEngine(), [dark, film(2)], (Change("same", lambda p, _h, _r: p),))[0].films == 1
    with pytest.raises(DataError, match="nothing to compare"):
        stress(GreyEngine(), [dark])


def test_films_are_taken_evenly_over_the_ages():
    films = [film(i, age) for i, age in enumerate([50, 10, 40, 20, 30])]
    assert [one.reading.age_months for one in spread(films, 3)] == [10, 30, 50]
    assert len(spread(films, 9)) == 5


@pytest.fixture
def grey(monkeypatch):
    """The command with two films and the engine that reads greys."""
    monkeypatch.setattr(suite, "load_half", lambda *_: [film(1, 100), film(2, 130)])
    monkeypatch.setattr(suite, "terms_of_films", lambda _: "films of nobody")
    monkeypatch.setattr(suite.Engine, "load", classmethod(lambda *_, **__: GreyEngine()))


def test_the_command_writes_figures_and_a_page(grey, tmp_path):
    kept, page = tmp_path / "f.json", tmp_path / "f.html"
    arguments = ["--data", "none", "--json", str(kept), "--report", str(page)]
    assert suite.main([*arguments, "--only", "swapped"]) == 0
    table = json.loads(kept.read_text())
    assert [row["change"] for row in table["rows"]] == ["left and right swapped", "up and down swapped"]
    assert (table["part"], table["films"], table["limit_months"]) == ("validation", 2, 1.0)
    assert table["schema"] == "boneage-node/stress/1"
    assert {"measured_at", "revision", "model"} <= set(table)
    text = page.read_text()
    for words in ("films of nobody", "not for diagnosis", "left and right swapped", "2 of 2 changes pass"):
        assert words in text, words
    assert suite.main([*arguments, "--only", "brighter"]) == 1
    assert "0 of 2 changes pass" in page.read_text()


def test_a_part_without_films_is_named_by_each_command(grey, monkeypatch, caplog, tmp_path):
    """Given a folder without films of the part, then that is said, not that the model reads none of them."""
    monkeypatch.setattr(outliers.Engine, "load", classmethod(lambda *_, **__: GreyEngine()))
    for command in (suite, outliers, comparison):
        monkeypatch.setattr(command, "load_half", lambda *_: [])
        caplog.clear()
        what = ["house"] if command is comparison else []
        assert command.main([*what, "--data", str(tmp_path), "--part", "train"]) == 2
        assert f"{tmp_path} holds no film of the part 'train'; name another" in caplog.text


def test_a_change_that_is_not_there_is_refused_and_does_not_pass(grey, caplog):
    assert suite.main(["--data", "none", "--only", "Rotated"]) == 2
    assert "No change is called 'Rotated'; there are: turned by -30 degrees;" in caplog.text
    with pytest.raises(DataError, match="no such change"):
        stress(GreyEngine(), [film(1)], ())
    with pytest.raises(SystemExit):
        suite.main(["--data", "none", "--films", "0"])


def test_a_page_that_cannot_be_written_is_said_first(grey, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(suite, "stress", lambda *_: pytest.fail("films would be read"))
    assert suite.main(["--data", "none", "--report", str(tmp_path / "nowhere" / "f.html")]) == 2
    assert "there is no folder" in caplog.text


def test_without_data_the_command_says_so(tmp_path, caplog):
    assert suite.main(["--data", str(tmp_path), "--threads", "1", "--device", "cpu"]) == 2
    assert "has no layout that is known" in caplog.text
