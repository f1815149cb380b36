"""Groups of images that are no readable hand, and their counts, with a made-up engine.

Not covered: which groups the shipped detector refuses (``python -m training.outliers`` measures that).
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inference.finding import Box, Estimate, Flag, Laterality, ModelIdentity, Refusal, RefusalCode, Roi, Sex, Subject
from inference.pose import Pose, template_points
from inference.preparation import roi_centres
from training import outliers, samples
from training.outliers import FROM_HANDS, PARTS, Hand, measure, rate, sheets, take_hands, texture
from training.radiographs import Radiograph, Reading

MODEL = ModelIdentity("house", "House", "0.1.0", "ab" * 32)
SUBJECT = Subject(Sex.MALE, "table", None, "table")
POSE = Pose(np.array([[150.0, 20, 30], [-20, 150, 40]]))
CENTRES = POSE.to_film(roi_centres(template_points(), Pose(np.eye(2, 3))))
ROIS = tuple(Roi(str(i), Box(x - 2, y - 3, x + 2, y + 3), 0.9) for i, (x, y) in enumerate(CENTRES.tolist()))
FILM = Radiograph(
    Reading(1, 100.0, Sex.MALE, "validation"), np.random.default_rng(0).integers(20, 120, (220, 220)).astype(np.uint8)
)
REFUSED = Refusal(RefusalCode.NOT_A_HAND, "No.", "Send another.", SUBJECT)


def estimate(age: float, *codes: str) -> Estimate:
    flags = tuple(Flag(code, "A sentence.") for code in codes)
    return Estimate(age, age - 9, age + 9, 0.9, SUBJECT, Laterality.LEFT, Box(0, 0, 9, 9), ROIS, 1, 0.9, flags, MODEL)


class SameFilmEngine:
    """Reads the film it knows and refuses all else."""

    def interpret_film(self, shot, _subject):
        same = np.array_equal(np.rint(shot.pixels * 255), FILM.pixels)
        return estimate(100) if same else REFUSED

    def interpret(self, _ds):
        return REFUSED


def hand() -> Hand:
    return take_hands(SameFilmEngine(), [FILM])[0]


def test_the_pose_of_a_hand_comes_from_its_regions():
    np.testing.assert_allclose(hand().pose.matrix, POSE.matrix, atol=1e-6)


def test_a_refused_film_is_no_hand():
    other = Radiograph(FILM.reading, FILM.pixels // 2)
    assert take_hands(SameFilmEngine(), [other]) == []


@pytest.mark.parametrize("name", sorted(FROM_HANDS))
def test_each_group_differs_from_its_film_and_leaves_that_alone(name):
    before = FILM.pixels.copy()
    made = FROM_HANDS[name](hand(), np.random.default_rng(1))
    np.testing.assert_array_equal(FILM.pixels, before)
    assert made.dtype == np.uint8
    assert min(made.shape) >= 90  # not refused for its size alone
    assert made.shape != before.shape or (made != before).any()


def test_every_part_leaves_bones_out():
    template = roi_centres(template_points(), Pose(np.eye(2, 3)))[:13]
    for name, (x0, y0, x1, y1) in PARTS.items():
        inside = ((template >= (x0, y0)) & (template <= (x1, y1))).all(1)
        assert inside.sum() < 12, name


def test_a_rate_by_hand():
    findings = [REFUSED, estimate(110), estimate(95, "rotated"), estimate(100, "laterality-from-pixels")]
    counted = rate("made up", findings, [estimate(100)] * 4)
    assert (counted.images, counted.refused, counted.flagged, counted.silent) == (4, 0.25, 0.25, 0.5)
    assert counted.mean_absolute_shift == pytest.approx(5)
    assert rate("none", []).images == 0


def test_sheets_are_what_they_say():
    made = dict(sheets(np.random.default_rng(3), 1))
    assert np.ptp(made["blank"]) == 0
    assert made["noise"].std() > 60
    spectrum = np.abs(np.fft.fft2(texture(np.random.default_rng(3)).astype(float)))[1:60, 0]
    assert spectrum[:5].mean() > 4 * spectrum[40:].mean()


def test_all_groups_are_counted(monkeypatch):
    monkeypatch.setattr("training.outliers.pydicom_findings", lambda _engine: [REFUSED])
    found = {one.group: one for one in measure(SameFilmEngine(), [FILM], [FILM.pixels // 3])}
    assert set(FROM_HANDS) | {"chests", "noise", "blank", "pydicom's test images"} <= set(found)
    assert all(one.refused == 1 for one in found.values())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_rates_that_a_full_disk_does_not_take_are_told_all_the_same(tmp_path, monkeypatch, caplog, capsys):
    engine = SimpleNamespace(identity=MODEL)
    monkeypatch.setattr(outliers.Engine, "load", classmethod(lambda *_, **__: engine))
    monkeypatch.setattr(outliers, "load_half", lambda *_: [None])
    monkeypatch.setattr(outliers, "load_negatives", lambda *_: [])
    monkeypatch.setattr(outliers, "spread", lambda films, _: films)
    monkeypatch.setattr(outliers, "measure", lambda *_: [outliers.Rate("chests", 1, 1, 0, 0)])
    assert outliers.main(["--data", str(tmp_path), "--json", "/dev/full"]) == 2
    assert "/dev/full cannot be written: No space left on device" in caplog.text
    assert "chests" in capsys.readouterr().out


def test_samples_without_films_are_refused_in_words(tmp_path, caplog):
    (tmp_path / "data").mkdir()
    assert samples.main(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    assert "train" in caplog.text
