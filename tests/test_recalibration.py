"""A site's recalibration: its file, what it does to an estimate, its setting. Its fitting is in test_evaluate.py."""

import json
from dataclasses import replace

import pytest

from dicom_node import cli
from dicom_node.settings import load_settings
from inference.catalogue import identify
from inference.engine import Engine
from inference.errors import BundleError
from inference.finding import ModelIdentity, Sex
from inference.intervals import Calibration
from inference.recalibration import SCHEMA, Recalibration
from training.evaluation.reading import Row
from training.evaluation.recalibration import fit

IDENTITY = ModelIdentity("house", "House", "0.1.0", "ab" * 32)
TABLE = {
    "schema": SCHEMA,
    "method": "house",
    "weights_sha256": "ab" * 32,
    "lines": {"M": {"offset_months": 6.0, "factor": 0.9}, "F": {"offset_months": -30.0, "factor": 1.0}},
    "interval_factor": 2.0,
}
CALIBRATION = Calibration(0.9, (0.0,), dict.fromkeys(Sex, (10.0,)), "made up")


def write(path, **changes):
    path.write_text(json.dumps(TABLE | changes))
    return path


def test_an_age_is_moved_along_its_sexs_line_and_never_below_birth(tmp_path):
    recalibration = Recalibration.read(write(tmp_path / "r.json"))
    assert recalibration.apply(100, Sex.MALE) == pytest.approx(96)
    assert recalibration.apply(100, Sex.FEMALE) == pytest.approx(70)
    assert recalibration.apply(12, Sex.FEMALE) == 0


def test_the_engine_says_what_it_changed(tmp_path):
    """Given a recalibration, then age, interval, version and a flag show it; without one, nothing changes."""
    recalibration = Recalibration.read(write(tmp_path / "r.json"))
    engine = Engine(None, None, CALIBRATION, IDENTITY, recalibration)
    age, interval, flags = engine._place(100.0, Sex.MALE)
    assert age == pytest.approx(96)
    assert interval == pytest.approx((76, 116))
    assert [flag.code for flag in flags] == ["site-recalibrated"]
    assert "100.0 months" in flags[0].sentence
    assert engine.identity.version == f"0.1.0+site.{recalibration.fingerprint}"
    plain = Engine(None, None, CALIBRATION, IDENTITY)
    assert plain._place(100.0, Sex.MALE) == (100.0, (90.0, 110.0), [])
    assert plain.identity == IDENTITY


@pytest.mark.parametrize("other", [{"method": "ala-net"}, {"weights_sha256": "cd" * 32}])
def test_other_weights_than_it_was_fitted_with_are_refused(tmp_path, other):
    recalibration = Recalibration.read(write(tmp_path / "r.json", **other))
    with pytest.raises(BundleError, match="fit it again"):
        Engine(None, None, CALIBRATION, IDENTITY, recalibration)


def test_other_intervals_than_it_was_fitted_with_are_refused(tmp_path):
    """Given intervals that were calibrated anew, then a factor for the old ones widens them no more."""
    of_these = Recalibration.read(write(tmp_path / "r.json", intervals_fingerprint=CALIBRATION.fingerprint))
    Engine(None, None, CALIBRATION, IDENTITY, of_these)
    Engine(None, None, replace(CALIBRATION, split="the same from other films"), IDENTITY, of_these)
    with pytest.raises(BundleError, match="fitted with other intervals of 'house', which it widens; fit it again"):
        Engine(None, None, replace(CALIBRATION, half_widths_months=dict.fromkeys(Sex, (12.0,))), IDENTITY, of_these)


def test_two_files_have_two_fingerprints(tmp_path):
    one, other = (Recalibration.read(write(tmp_path / "r.json", interval_factor=f)) for f in (1.0, 1.1))
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": "other"}, "no recalibration"),
        ({"lines": {"M": {"offset_months": 0, "factor": 1}}}, "damaged"),
        ({"interval_factor": "wide"}, "damaged"),
        ({"interval_factor": 0}, "implausibly"),
        ({"lines": TABLE["lines"] | {"M": {"offset_months": 0, "factor": 0.1}}}, "implausibly"),
        ({"lines": TABLE["lines"] | {"M": {"offset_months": 500, "factor": 1.0}}}, "implausibly"),
        ({"lines": TABLE["lines"] | {"M": {"offset_months": float("nan"), "factor": 1.0}}}, "implausibly"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, change, says):
    with pytest.raises(BundleError, match=says):
        Recalibration.read(write(tmp_path / "r.json", **change))


@pytest.mark.parametrize("content", [None, b"{", b"\xff", b"[]"])
def test_a_missing_or_broken_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"r\.json"):
        Recalibration.read(tmp_path / "r.json")


def check_settings(folder, **changes):
    """Return the exit code of a check of settings that name such a file."""
    model = identify("house")
    write(folder / "r.json", **{"method": model.method, "weights_sha256": model.weights_sha256, **changes})
    (folder / "node.toml").write_text('[node]\ndata_dir = "d"\n[interpret]\nrecalibration = "r.json"\n')
    return cli.main(["settings", "check", "--config", str(folder / "node.toml")])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights_sha256": "ab" * 32}, "fitted with other weights"),
        ({"method": "ala-net"}, "fitted with other weights of 'ala-net'"),
        ({"intervals_fingerprint": "00000000"}, "fitted with other intervals of 'house'"),
        ({"schema": "other"}, "no recalibration of this version"),
        ({"interval_factor": float("nan")}, "implausibly"),
    ],
)
def test_the_settings_are_refused_with_a_file_that_the_engine_refuses(tmp_path, capsys, change, says):
    assert check_settings(tmp_path, **change) == 2
    out = " ".join(capsys.readouterr().out.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split())
    assert "1 problem." in out
    assert "recalibration" in out
    for word in says.split():
        assert word in out


def test_a_file_that_is_not_there_is_a_problem_of_the_settings(tmp_path, capsys):
    assert check_settings(tmp_path) == 0
    (tmp_path / "r.json").unlink()
    assert cli.main(["settings", "check", "--config", str(tmp_path / "node.toml")]) == 2
    assert "1 problem." in capsys.readouterr().out


def test_the_settings_pass_on_what_a_file_says_of_itself(tmp_path, capsys):
    """Given files for and against their own use, then the node starts with both, and a note repeats the second."""
    for offset, noted in ((10.0, False), (0.0, True)):
        rows = []
        for place in range(60):
            age = 60.0 + place
            reference = age + offset + (-1) ** (place // 2)
            rows.append(Row(str(place), "MF"[place % 2], reference, age, age - 12, age + 12, None, None))
        assert check_settings(tmp_path, advice=fit(rows, IDENTITY)["advice"]) == 0
        out = capsys.readouterr().out
        assert ("Note: interpret.recalibration: the file itself advises against its use. Leave it: on" in out) == noted
        assert "would start" in out


def test_the_setting_is_relative_to_the_settings_file(tmp_path):
    (tmp_path / "node.toml").write_text('[node]\ndata_dir = "d"\n[interpret]\nrecalibration = "site/r.json"\n')
    assert load_settings(tmp_path / "node.toml").interpret.recalibration == tmp_path / "site" / "r.json"
