"""Ensembles by name alone: what the name opens, their intervals, identity and settings.

How members are averaged: test_sex_alarm. Not covered: how well a mean reads (boneage-node evaluate does).
"""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydicom import dcmread

from dicom_node.settings import InterpretSettings
from inference.bundle import list_methods, open_bundle
from inference.engine import Engine
from inference.errors import BundleError
from inference.finding import Estimate, Sex
from inference.intervals import Calibration
from inference.method import DEFAULT_METHOD
from reports import codes
from training import calibrate, sexes
from training.ensemble import write_ensemble
from training.evaluation.reading import Row

SAMPLE = Path(__file__).parents[1] / "dicom_node" / "samples" / "girl-08.dcm"


def intervals(male: float, female: float, level: float = 0.9) -> dict[str, object]:
    return {
        "level": level,
        "ages_months": [0, 120],
        "half_widths_months": {"M": [male, 20], "F": [female, 20]},
        "split": "some films",
    }


@pytest.fixture
def folder(tmp_path):
    """Bundles a, b and c; c has no intervals."""
    for name, table in (("a", intervals(10, 30)), ("b", intervals(16, 12)), ("c", None)):
        configs = tmp_path / name / "configs"
        configs.mkdir(parents=True)
        (configs / "metadata.json").write_text(json.dumps({"version": f"1.{name}", "weights_sha256": {}}))
        (configs / "inference.json").write_text("{}")
        if table:
            (configs / "calibration.json").write_text(json.dumps(table))
    return tmp_path


def test_a_name_opens_the_mean_of_its_members_in_any_order(folder):
    one, other = (open_bundle(name, folder) for name in ("b+a", "a+b"))
    assert one == other
    assert one.metadata["members"] == {"a": 1.0, "b": 1.0}
    assert one.metadata["name"] == "Bone age, mean of a and b"
    assert one.version == "1.a+1.b-uncalibrated"


def test_a_mean_with_an_unconverged_member_is_unconverged(folder):
    path = folder / "b" / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"converged": False, "convergence": "2 of 9 epochs"}))
    bundle = open_bundle("a+b", folder)
    assert bundle.version == "1.a+1.b-uncalibrated-unconverged"
    assert bundle.unconverged == "b: 2 of 9 epochs"
    assert open_bundle("a+b", folder).metadata["name"] == "Bone age, mean of a and b"


def test_a_written_ensemble_with_an_unconverged_member_is_unconverged(folder, monkeypatch):
    monkeypatch.setattr("training.ensemble.method_names", lambda: ("a", "b", "c"))
    path = folder / "b" / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"converged": False, "convergence": "2 of 9 epochs"}))
    write_ensemble("both", {"a": 1.0, "b": 3.0}, folder, "1")
    write_ensemble("others", {"a": 1.0, "c": 3.0}, folder, "1")
    assert (open_bundle("both", folder).version, open_bundle("others", folder).version) == ("1-unconverged", "1")


def test_without_intervals_of_its_own_the_widest_members_hold(folder):
    """Given members that are the wider one for a sex each, then at every age the wider half-width is taken."""
    table = open_bundle("a+b", folder).read_json("calibration.json")
    found = Calibration.parse(table)
    assert found.half_width(0, Sex.MALE) == 16
    assert found.half_width(0, Sex.FEMALE) == 30
    assert found.half_width(60, Sex.MALE) == pytest.approx(18)
    assert found.half_width(200, Sex.MALE) == 20
    assert table["split"].startswith("not calibrated")


def test_its_own_intervals_are_taken_whatever_the_order_they_were_made_in(folder):
    own = folder / "b+a" / "configs" / "calibration.json"
    own.parent.mkdir(parents=True)
    own.write_text(json.dumps(intervals(5, 6)))
    bundle = open_bundle("a+b", folder)
    assert bundle.version == "1.a+1.b"
    assert Calibration.parse(bundle.read_json("calibration.json")).half_width(0, Sex.MALE) == 5
    own.write_text(json.dumps(intervals(5, 6) | {"split": "none"}))
    assert open_bundle("a+b", folder).version.endswith("-uncalibrated"), "a calibration that was broken off counts not"
    own.write_text("{")
    with pytest.raises(BundleError, match="calibrate it anew"):
        open_bundle("a+b", folder)


@pytest.mark.parametrize("name", ["c+a", "a+c"])
def test_an_ensemble_is_calibrated_also_where_a_member_is_not(folder, monkeypatch, name):
    """Given films, then both orders write one file, and a member without intervals does not stop it."""
    opened = []
    rows = [Row(place, "MF"[place % 2], 100.0, 100.0 + place % 7, None, None, None) for place in range(40)]
    monkeypatch.setattr("inference.named_ensemble.bundles_folder", lambda: folder)
    monkeypatch.setattr(calibrate.Engine, "load", lambda name, **_: opened.append(open_bundle(name, folder)))
    monkeypatch.setattr(calibrate, "load_half", lambda *_: [])
    monkeypatch.setattr(calibrate, "part_of_films", lambda *_: "validation part of some films")
    monkeypatch.setattr(calibrate, "read_films", lambda *_: rows)
    for module in ("calibrate", "bundle_intervals"):
        monkeypatch.setattr(f"training.{module}.weights_of", lambda _: ("the ensemble's", "the detector's"))
    assert calibrate.main(["--data", "films", "--method", name]) == 0
    assert [bundle.version for bundle in opened] == ["1.a+1.c-uncalibrated"]
    assert open_bundle("a+c", folder).version == "1.a+1.c"
    assert [path.parents[1].name for path in folder.glob("*+*/configs/calibration.json")] == ["a+c"]


def test_a_calibration_that_fails_leaves_nothing_behind(folder, monkeypatch):
    monkeypatch.setattr("inference.named_ensemble.bundles_folder", lambda: folder)
    monkeypatch.setattr(calibrate.Engine, "load", lambda name, **_: open_bundle(name, folder))
    assert calibrate.main(["--data", "films", "--method", "a+moon"]) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "c"]


def test_the_alarm_of_an_ensemble_without_intervals_is_refused(folder, monkeypatch, caplog):
    monkeypatch.setattr("inference.named_ensemble.bundles_folder", lambda: folder)
    assert sexes.main(["--data", "films", "--method", "a+b", "--write"]) == 2
    assert "run boneage-node calibrate first" in caplog.text


@pytest.mark.parametrize(
    ("name", "words"), [("a+moon", "no model bundle named 'moon'"), ("a+a", "twice"), ("a+c", "no intervals")]
)
def test_an_ensemble_that_cannot_be_made_is_refused(folder, name, words):
    with pytest.raises(BundleError, match=words):
        open_bundle(name, folder)


def test_members_of_several_levels_or_that_are_ensembles_are_refused(folder):
    (folder / "a" / "configs" / "calibration.json").write_text(json.dumps(intervals(1, 1, level=0.8)))
    with pytest.raises(BundleError, match="several levels"):
        open_bundle("a+b", folder)
    (folder / "a" / "configs" / "metadata.json").write_text(
        json.dumps({"version": "1", "weights_sha256": {}, "members": {"b": 1.0, "c": 1.0}})
    )
    with pytest.raises(BundleError, match="name its methods"):
        open_bundle("a+b", folder)


@pytest.mark.parametrize(
    ("method", "code"),
    [("house", codes.GREULICH_PYLE), ("ala-net+house", codes.GREULICH_PYLE), ("house+precise-baa", None), ("x", None)],
)
def test_a_report_names_the_atlas_that_all_members_were_trained_to_reproduce(method, code):
    assert codes.reference_method(method) == code


def test_settings_take_an_ensemble_and_refuse_what_is_none():
    first, second = sorted(list_methods())[:2]
    assert InterpretSettings(method=f"{second}+{first}").method == f"{first}+{second}"
    assert InterpretSettings(shadow=(f"{second}+{first}",)).shadow == (f"{first}+{second}",)
    for name, words in ((f"{first}+moon", "no weights"), (f"{first}+{first}", "twice"), (f"{first}+", "no weights")):
        with pytest.raises(ValidationError, match=words):
            InterpretSettings(method=name)
    with pytest.raises(ValidationError, match="named twice"):
        InterpretSettings(method=f"{first}+{second}", shadow=(f"{second}+{first}",))


def test_the_node_reads_with_an_ensemble_by_name():
    """Given a sample, then the ensemble's age is the mean of its members', and its identity names them."""
    methods = (DEFAULT_METHOD, next(name for name in list_methods() if name != DEFAULT_METHOD))
    ds = dcmread(SAMPLE)
    engine = Engine.load("+".join(methods), threads=1, device="cpu")
    found = engine.interpret(ds)
    ages = [Engine.load(name, threads=1, device="cpu").interpret(ds) for name in methods]
    assert isinstance(found, Estimate)
    assert all(isinstance(one, Estimate) for one in ages)
    assert found.age_months == pytest.approx(sum(one.age_months for one in ages) / 2, abs=0.01)
    assert found.model.method == "+".join(sorted(methods))
    assert all(name in found.model.name for name in methods)
    half = found.interval_high_months - found.age_months
    assert half >= min(one.interval_high_months - one.age_months for one in ages) - 1
    assert len(found.model.weights_sha256) == 64
