"""Conformal intervals and how they are calibrated. Their coverage on films is measured by boneage-node evaluate."""

import json
from dataclasses import asdict, replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.catalogue import identify
from inference.errors import BundleError
from inference.finding import Sex
from inference.intervals import UNCALIBRATED, Calibration
from training import calibrate as command
from training.calibrate import KNOTS_MONTHS, Sample, Scale, calibrate, rank
from training.errors import DataError
from training.evaluation.reading import Row

BINNED = {
    "level": 0.9,
    "edges_months": [0, 96, 144, 240],
    "half_widths_months": {"M": [10, 20, 30], "F": [11, 21, 31]},
    "split": "validation",
}
SMOOTH = {
    "level": 0.9,
    "ages_months": [60, 120, 180],
    "half_widths_months": {"M": [10, 20, 30], "F": [11, 21, 31]},
    "split": "validation",
}


def made_up(films: int, spread, seed: int = 1, male: float = 0.5) -> list[Row]:
    """Films whose errors are normal with a standard deviation of ``spread(age, is_male)`` months."""
    generator = np.random.default_rng(seed)
    ages, sexes = generator.uniform(12, 220, films), generator.random(films) < male
    return [
        Row(i, "M" if m else "F", age + spread(age, m) * generator.normal(), age, None, None, None)
        for i, (age, m) in enumerate(zip(ages.tolist(), sexes.tolist(), strict=True))
    ]


@pytest.mark.parametrize(
    ("age", "sex", "half"), [(50, "M", 10), (96, "M", 20), (143.9, "F", 21), (144, "F", 31), (300, "M", 30)]
)
def test_each_bin_has_its_half_width(age, sex, half):
    low, high = Calibration.parse(BINNED).interval(age, Sex(sex))
    assert (low, high) == (age - half, age + half)


@pytest.mark.parametrize(
    ("age", "sex", "half"), [(20, "M", 10), (60, "M", 10), (90, "M", 15), (150, "F", 26), (300, "F", 31)]
)
def test_between_ages_half_widths_are_interpolated_and_beyond_they_stay(age, sex, half):
    assert Calibration.parse(SMOOTH).half_width(age, Sex(sex)) == pytest.approx(half)


@given(st.floats(0, 260), st.sampled_from(list(Sex)), st.sampled_from([BINNED, SMOOTH]))
def test_the_interval_holds_the_estimate_and_never_goes_below_birth(age, sex, table):
    low, high = Calibration.parse(table).interval(age, sex)
    assert 0 <= low <= age <= high


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"half_widths_months": {"M": [1, 2], "F": [1, 2, 3]}}, "one half-width"),
        ({"half_widths_months": {"M": [1, 2, 3]}}, "lacks a key"),
        ({"half_widths_months": {"M": [1, 0, 3], "F": [1, 2, 3]}}, "positive"),
        ({"ages_months": [60, 60, 180]}, "rising"),
        ({"ages_months": ["a", 60, 180]}, "no numbers"),
    ],
)
def test_a_calibration_that_cannot_be_used_is_refused(change, says):
    with pytest.raises(BundleError, match=says):
        Calibration.parse(SMOOTH | change)


@pytest.mark.parametrize("films", [22, 37, 38, 123, 242, 600])
def test_the_rank_leaves_room_for_an_unlucky_draw(films):
    """Given n films, then the k-th ratio is the smallest with which 90 % are covered with 90 % confidence.

    Coverage is below 90 % where k or more of n ratios lie below their distribution's 90 % point, a binomial tail.
    """

    def unlucky(k: int) -> float:
        return sum(comb(films, i) * 0.9**i * 0.1 ** (films - i) for i in range(k, films + 1))

    chosen = rank(films, 0.9)
    assert unlucky(chosen) <= 0.1 < unlucky(chosen - 1)


def test_too_few_films_give_their_largest_ratio():
    assert rank(21, 0.9) == 21


def test_nine_calibrations_in_ten_cover_nine_films_in_ten():
    """Given many draws of 200 films, then about a tenth of the calibrations cover less than 90 % of all films."""
    generator = np.random.default_rng(7)
    draws = np.sort(generator.random((2000, 200)), axis=1)  # of ratios that are evenly distributed
    covered = draws[:, rank(200, 0.9) - 1]
    assert 0.05 < (covered < 0.9).mean() <= 0.115


def test_half_widths_cover_what_they_promise_where_all_errors_are_alike():
    table = calibrate(made_up(800, lambda _age, _male: 8.0), "made up")
    widths = np.array(list(table["half_widths_months"].values()))
    assert widths.shape == (2, len(KNOTS_MONTHS))
    assert widths == pytest.approx(1.645 * 8, rel=0.25)


def test_half_widths_follow_age_and_sex_where_there_are_many_films():
    """Given boys twice as hard as girls and errors that grow with age, then the intervals do so too."""
    table = calibrate(made_up(800, lambda age, male: (3 + age / 20) * (2 if male else 1)), "made up")
    calibration = Calibration.parse(table)
    for age in (60, 180):
        assert calibration.half_width(age, Sex.MALE) > 1.5 * calibration.half_width(age, Sex.FEMALE)
    for sex in Sex:
        assert calibration.half_width(180, sex) > 1.3 * calibration.half_width(60, sex)


def test_a_sex_with_few_films_leans_on_the_other():
    """Given 3 boys among 150 films, whose errors happen to be nil, then boys do not get narrow intervals."""
    rows = made_up(150, lambda _age, male: 0.0 if male else 8.0, male=0.02)
    assert 1 <= sum(row.sex == "M" for row in rows) <= 6
    calibration = Calibration.parse(calibrate(rows, "made up"))
    assert calibration.half_width(120, Sex.MALE) > 0.6 * calibration.half_width(120, Sex.FEMALE)


@pytest.mark.parametrize("seed", range(3))
def test_with_a_hundred_films_the_coverage_on_new_ones_is_near_the_promise(seed):
    """Given as many films as the validation part has, then new ones are covered at 90 %, by chance ± 7."""

    def spread(age, male):
        return 5 + abs(age - 120) / 15 + (2 if male else 0)

    calibration = Calibration.parse(calibrate(made_up(123, spread, seed), "made up"))
    hits = [
        abs(row.error_months) <= calibration.half_width(row.estimate_months, Sex(row.sex))
        for row in made_up(2000, spread, seed + 100)
    ]
    assert 0.83 <= np.mean(hits) <= 0.97


def test_the_cross_validated_coverage_says_what_new_films_will_see():
    coverage = calibrate(made_up(400, lambda _age, _male: 8.0), "made up")["cross_validated_coverage"]
    assert coverage["all"] == pytest.approx(0.9, abs=0.03)
    assert set(coverage) > {"(4, 6]", "(12, 14]"}


def test_no_film_has_a_say_in_its_own_scale():
    rows = made_up(40, lambda _age, _male: 8.0)
    sample = Sample.make(rows)
    without = sample.part(np.arange(40) != 7)
    own = Scale(sample).at(sample.ages, sample.male, own=True)[7]
    assert own == pytest.approx(Scale(without).at(sample.ages[7:8], sample.male[7:8])[0])


def test_a_shape_from_films_trained_on_covers_the_ages_that_are_read_badly():
    """Given boys of nine that are read badly, and training films with half the errors, then few films find it, too."""

    def spread(age, male):
        return 16.0 if male and 96 <= age < 120 else 6.0

    few, trained = made_up(240, spread), made_up(900, lambda age, male: spread(age, male) / 2, 7)
    new = [row for row in made_up(6000, spread, 99) if row.sex == "M" and 100 <= row.estimate_months < 116]

    def covered(table):
        calibration = Calibration.parse(table)
        return np.mean([abs(row.error_months) <= calibration.half_width(row.estimate_months, Sex.MALE) for row in new])

    plain, shaped = calibrate(few, "made up"), calibrate(few, "made up", shape=trained)
    assert covered(plain) < 0.75
    assert covered(shaped) > covered(plain) + 0.05
    assert shaped["shape_films"] == 900
    assert shaped["cross_validated_coverage"]["all"] == pytest.approx(0.9, abs=0.03)


def test_too_few_films_are_refused():
    with pytest.raises(DataError, match=r"at least 30 films with an age; there are 29\..*part column.*--rows"):
        calibrate(made_up(29, lambda _age, _male: 8.0), "made up")


def test_the_command_calibrates_on_the_rows_of_an_evaluation(tmp_path, capsys):
    rows = made_up(60, lambda _age, _male: 8.0)
    table = [{key: getattr(row, key) for key in Row.__dataclass_fields__} for row in rows]
    refused = table[0] | {"estimate_months": None, "refusal": "not-a-hand"}
    (tmp_path / "folds.json").write_text(json.dumps({"part": "out-of-fold", "rows": [*table, refused]}))
    out = tmp_path / "calibration.json"
    assert command.main(["--rows", str(tmp_path / "folds.json"), "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["films"] == 60
    assert written["split"] == "films of out-of-fold"
    assert Calibration.parse(written).half_width(120, Sex.MALE) > 5
    assert "cross-validated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "ala-net"}, "was measured with 'ala-net'"),
        ({"weights_sha256": "0" * 64}, "other weights of 'house'"),
        ({"version": "0.1.0+site.12345678"}, "recalibrated ages"),
        ({}, ""),
    ],
)
def test_intervals_are_of_the_method_that_gets_them(tmp_path, caplog, change, says):
    """Given rows of another method, of other weights or of recalibrated ages, then they are no errors of this one."""
    rows = [{key: getattr(row, key) for key in Row.__dataclass_fields__} for row in made_up(60, lambda _a, _m: 8.0)]
    model = asdict(identify("house")) | change
    (tmp_path / "test.json").write_text(json.dumps({"part": "test", "model": model, "rows": rows}))
    out = tmp_path / "calibration.json"
    assert command.main(["--rows", str(tmp_path / "test.json"), "--out", str(out)]) == (2 if says else 0)
    assert out.exists() is (not says)
    assert says in caplog.text


def test_weights_that_are_exported_while_films_are_read_get_no_intervals_of_the_old_ones(tmp_path, caplog, monkeypatch):
    rows = [{key: getattr(row, key) for key in Row.__dataclass_fields__} for row in made_up(60, lambda _a, _m: 8.0)]
    (tmp_path / "folds.json").write_text(json.dumps({"part": "folds", "rows": rows}))
    read_json = command.read_json

    def read_slowly(path: Path) -> dict[str, Any]:
        new = replace(identify("house"), weights_sha256="0" * 64)
        monkeypatch.setattr("training.bundle_intervals.identify", lambda _: new)
        return read_json(path)

    monkeypatch.setattr(command, "read_json", read_slowly)
    out = tmp_path / "calibration.json"
    assert command.main(["--rows", str(tmp_path / "folds.json"), "--out", str(out)]) == 2
    assert "exported weights of house or the detector while films were read" in caplog.text
    assert not out.exists()


def test_a_method_that_is_not_there_gets_no_intervals(tmp_path, monkeypatch):
    """Given a slip in the name, then no folder of that name is made among the bundles."""
    rows = [{key: getattr(row, key) for key in Row.__dataclass_fields__} for row in made_up(60, lambda _a, _m: 8.0)]
    (tmp_path / "folds.json").write_text(json.dumps({"rows": rows}))
    path = tmp_path / "hose" / "configs" / "calibration.json"
    monkeypatch.setattr(command, "calibration_path", lambda _: path)
    assert command.main(["--rows", str(tmp_path / "folds.json"), "--method", "hose"]) == 1
    assert not path.parents[1].exists()


@pytest.mark.parametrize("option", ["--small", "--shape"])
def test_an_option_without_effect_is_refused(tmp_path, option):
    with pytest.raises(SystemExit):
        command.main(["--rows", str(tmp_path / "folds.json"), option])


def test_what_else_the_file_holds_stays(tmp_path):
    """Given a file of the older form with the sex alarm, then new intervals replace the old ones and nothing else."""
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(BINNED | {"sex_alarm": {"logit": 1.7}}))
    command.write_calibration(path, calibrate(made_up(60, lambda _age, _male: 8.0), "made up"))
    written = json.loads(path.read_text())
    assert written["sex_alarm"] == {"logit": 1.7}
    assert "edges_months" not in written
    assert not Calibration.parse(written).binned


@pytest.mark.parametrize(
    "content",
    ['{"level":', "[]", json.dumps(BINNED | {"half_widths_months": {}}), json.dumps(BINNED | {"sex_alarm": {}})],
)
def test_a_file_that_no_engine_opens_is_written_anew(tmp_path, caplog, content):
    """Given a torn or unusable file, which the engine refuses with the advice to calibrate, then that mends it."""
    path = tmp_path / "a" / "configs" / "calibration.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with command._some_intervals(path):
        assert Calibration.parse(json.loads(path.read_text())).split == UNCALIBRATED
    assert not path.exists()
    assert "python -m training.sexes measures it" in caplog.text
    path.parent.mkdir(parents=True)
    path.write_text(content)
    command.write_calibration(path, calibrate(made_up(60, lambda _age, _male: 8.0), "made up"))
    table = json.loads(path.read_text())
    assert Calibration.parse(table).split == "made up"
    assert "sex_alarm" not in table


def test_the_command_refuses_rows_that_are_none(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    assert command.main(["--rows", str(tmp_path / "other.json"), "--out", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


def test_intervals_say_whose_films_they_are_of(tmp_path, monkeypatch):
    """Given a site's folder, then nothing is said of this project's split, nor of small films that it has not."""
    sites, ours = tmp_path / "site", tmp_path / "ours"
    sites.mkdir()
    (sites / "readings.csv").write_text("file,sex,bone_age_months\n")
    (ours / "rsna2017").mkdir(parents=True)
    monkeypatch.setattr(command.Engine, "load", classmethod(lambda *_, **__: None))
    monkeypatch.setattr(command, "load_half", lambda *_: [])
    monkeypatch.setattr(command, "load_small", lambda *_, **__: [])
    monkeypatch.setattr(command, "read_annotations", lambda _: {})
    said = []
    monkeypatch.setattr(command, "calibrate", lambda _rows, words, **_: said.append(words) or {})
    monkeypatch.setattr(command, "print_calibration", lambda _: None)
    for data in (sites, ours):
        assert command.main(["--data", str(data), "--small", "--out", str(tmp_path / "c.json")]) == 0
    assert said[0].startswith("validation part of a site's own films (")
    assert "split.csv" not in said[0]
    assert said[1].startswith("validation and annotation-test parts of training/split.csv (")
