"""A site's recalibration: its file, what it does to an estimate, its setting. Its fitting is in test_evaluate.py."""

import json

import pytest

from dicom_node.settings import load_settings
from inference.engine import Engine
from inference.errors import BundleError
from inference.finding import ModelIdentity, Sex
from inference.intervals import Calibration
from inference.recalibration import SCHEMA, Recalibration

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


def test_the_setting_is_relative_to_the_settings_file(tmp_path):
    (tmp_path / "node.toml").write_text('[node]\ndata_dir = "d"\n[interpret]\nrecalibration = "site/r.json"\n')
    assert load_settings(tmp_path / "node.toml").interpret.recalibration == tmp_path / "site" / "r.json"
