"""``boneage-node models`` and ``export``: list, show, verify against damaged bundles, bundles made from runs.

Not covered: that a whole model reads films well (test_engine.py, and evaluate on real films).
"""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from dicom_node import cli
from inference import catalogue, familiarity
from inference.bundle import DETECTOR, bundles_folder, file_sha256, list_methods, open_bundle
from inference.detector import make_finder, make_landmark_net
from inference.engine import Engine
from inference.errors import BundleError
from inference.intervals import UNCALIBRATED
from inference.method import DEFAULT_METHOD, method_names, open_method
from training import export
from training.card import main as write_card
from training.run import begin_run, finish_run, read_about, write_about
from training.terms import RSNA_TERMS

METHOD = {"width": 0.0625}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundles of which one, global-local, was exported from a tiny run and given intervals."""
    run = tmp_path / "run"
    run.mkdir()
    begin_run(run, {"target": "global-local", "seed": 1, "data_sha256": "x", "recipe": RECIPE})
    finish_run(run, open_method("global-local", METHOD).make_net())
    root = tmp_path / "bundles"
    monkeypatch.setattr(export, "bundles_folder", lambda: root)
    assert export.main(["age", "--run", str(run)]) == 0
    calibration = bundles_folder() / "global-local" / "configs" / "calibration.json"
    shutil.copy(calibration, root / "global-local" / "configs")
    return root


RECIPE = {
    "target": "global-local",
    "loss": "absolute",
    "method": METHOD,
    "phases": [
        {"name": "a", "batch": 1, "sharp_share": 1.0, "epochs": 1, "steps_per_epoch": 1, "peak_learning_rate": 1e-3}
    ],
}


def test_an_exported_run_is_whole(folder, capsys):
    assert catalogue.verify(catalogue.names(folder), folder) == 0
    assert "global-local: whole" in capsys.readouterr().out


def export_again(folder: Path, *more: str, finished: bool = True, others: bool = False) -> None:
    run = folder.parent / "run"
    if others:
        torch.manual_seed(8)
        finish_run(run, open_method("global-local", METHOD).make_net())
    if not finished:
        state = torch.load(run / "final.pt", weights_only=True)
        (run / "final.pt").unlink()
        (run / "a").mkdir()
        (run / "a" / "curve.jsonl").write_text("{}\n{}\n")  # a kill came before the second epoch's checkpoint
        torch.save({"epoch": 0, "best": (0, state), "average": {}}, run / "a" / "checkpoint.pt")
    assert export.main(["age", "--run", str(run), *more]) == 0


def test_weights_that_did_not_converge_say_so_wherever_they_are_named(folder, capsys):
    """Given an export that says how far training got, then list, show and the version in reports say it."""
    export_again(folder, "--unconverged", "24 of 60 epochs")
    assert open_bundle("global-local", folder).version == "0.1.0-unconverged"
    identity = Engine.load("global-local", threads=1, device="cpu", folder=folder).identity
    assert identity.version == "0.1.0-unconverged"
    capsys.readouterr()
    catalogue.print_list(folder)
    catalogue.print_one("global-local", folder)
    listed, shown = capsys.readouterr().out.split("\nversion: ")
    assert "0.1.0-unconverged" in listed
    assert "(unconverged: 24 of 60 epochs)" in listed
    assert shown.startswith("0.1.0-unconverged\n")
    assert "\nconvergence: 24 of 60 epochs\n" in shown


def test_the_mark_stays_until_other_weights_are_exported(folder, caplog):
    export_again(folder, "--unconverged", "24 of 60 epochs")
    export.export_compact("global-local")
    assert open_bundle("global-local", folder).unconverged == "24 of 60 epochs"
    assert "no longer marked" not in caplog.text
    export_again(folder)
    assert open_bundle("global-local", folder).unconverged is None
    assert "no longer marked as unconverged" in caplog.text


def test_a_run_that_has_not_ended_is_exported_as_unconverged(folder):
    export_again(folder, finished=False)
    assert open_bundle("global-local", folder).unconverged == "1 of 1 epochs"


def test_shipped_methods_that_did_not_converge_are_marked():
    """Given what the cards say, then the bundles' metadata say the same."""
    for name in list_methods():
        card = (bundles_folder() / name / "docs" / "README.md").read_text()
        assert ("**Unconverged**" in card) == (open_bundle(name).unconverged is not None), name


def flip_a_byte(folder: Path) -> None:
    path = folder / "global-local" / "models" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_json(file: str, **values: object):
    def change(folder: Path) -> None:
        path = folder / "global-local" / "configs" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def remove(file: str):
    return lambda folder: (folder / "global-local" / file).unlink()


def make_folder_of(file: str):
    def change(folder: Path) -> None:
        (folder / "global-local" / file).unlink()
        (folder / "global-local" / file).mkdir()

    return change


def add_a_file(folder: Path) -> None:
    models = folder / "global-local" / "models"
    shutil.copy(models / "model.safetensors", models / "other.safetensors")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_byte, "differs from its recorded hash"),
        (remove("models/model.safetensors"), "is missing"),
        (add_a_file, "other.safetensors has no recorded hash"),
        (change_json("inference.json", width=0.125), "does not fit the network"),
        (change_json("inference.json", width="wide"), "does not open method"),
        (change_json("calibration.json", ages_months=[], edges_months=[0]), "calibration.json cannot be used"),
        (remove("configs/calibration.json"), "boneage-node calibrate"),
        (lambda folder: (folder / "global-local" / "configs" / "inference.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "global-local" / "configs" / "metadata.json").write_text("3"), "cannot be read"),
        (lambda folder: (folder / "global-local" / "configs" / "metadata.json").write_text("{}"), "cannot be read"),
        (make_folder_of("models/model.safetensors"), "is missing"),
    ],
)
def test_each_damage_is_found_and_named(folder, capsys, damage, words):
    damage(folder)
    catalogue.print_list(folder)  # what is damaged keeps nothing else from being listed
    assert "global-local" in capsys.readouterr().out
    assert catalogue.verify(["global-local"], folder) == 1
    out = capsys.readouterr().out
    assert "global-local: NOT WHOLE" in out
    assert words in out


def write_ensemble(folder: Path, **members: float) -> None:
    configs = folder / "both" / "configs"
    configs.mkdir(parents=True)
    metadata = {"version": "1", "name": "Both", "members": members, "weights_sha256": {}}
    (configs / "metadata.json").write_text(json.dumps(metadata))
    (configs / "inference.json").write_text("{}")
    shutil.copy(folder / "global-local" / "configs" / "calibration.json", configs)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"global-local": 0.5, "moon": 0.5}, "its member moon: There are no weights named 'moon'"),
        ({"global-local": 1.0}, "two members or more"),
        ({"global-local": 1.0, "both": 1.0}, "its member both is an ensemble"),
    ],
)
def test_an_ensemble_is_as_whole_as_its_members(folder, capsys, members, words):
    write_ensemble(folder, **members)
    assert catalogue.verify(["both"], folder) == 1
    assert words in capsys.readouterr().out


def test_an_ensemble_of_whole_members_is_whole(folder, monkeypatch):
    shutil.copytree(folder / "global-local", folder / "house")
    monkeypatch.setattr(catalogue, "open_method", lambda name, config: open_method("global-local", config))
    write_ensemble(folder, **{"global-local": 0.5, "house": 0.5})
    assert catalogue.find_problems("both", folder) == []
    flip_a_byte(folder)
    (problem,) = catalogue.find_problems("both", folder)
    assert problem.startswith("its member global-local: model.safetensors differs")


def test_the_shipped_models_are_whole(capsys):
    assert cli.main(["models", "verify"]) == 0
    assert f"{DETECTOR}: whole" in capsys.readouterr().out


def test_list_names_what_is_here_and_what_is_not(capsys):
    assert cli.main(["models", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert set(lines) == {*catalogue.names(), *method_names()}
    assert DETECTOR in lines
    assert "(the default)" in lines[DEFAULT_METHOD]
    for name in set(method_names()) - set(catalogue.names()):
        assert f"boneage-node train {name}" in lines[name]


def test_show_gives_terms_and_hashes(capsys):
    assert cli.main(["models", "show", DEFAULT_METHOD]) == 0
    out = capsys.readouterr().out
    for words in ("non-commercial", "not for diagnosis", "sha256", "configuration", "intervals: 90%", "model card"):
        assert words in out, words


def test_a_method_is_identified_without_its_weights_as_the_engine_does_with_them(folder):
    engine = Engine.load("global-local", threads=1, device="cpu", folder=folder)
    assert catalogue.identify("global-local", folder) == engine.identity


def test_a_model_that_is_not_there_is_named_with_those_that_are(folder, capsys):
    with pytest.raises(BundleError, match=r"moon.*global-local"):
        catalogue.print_one("moon", folder)
    assert cli.main(["models", "show", "moon"]) == 1
    assert "moon" in capsys.readouterr().err


def test_show_gives_an_ensembles_hash_as_the_node_reports_it_and_every_member(capsys):
    first, second = methods = sorted(list_methods())[:2]
    assert cli.main(["models", "show", f"{second}+{first}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    reported = Engine.load(f"{first}+{second}", threads=1, device="cpu").identity
    assert f"method: {reported.method}" in lines
    assert f"version: {reported.version}" in lines
    assert f"weights, as reports name them: sha256 {reported.weights_sha256}" in lines
    assert any(line.startswith("intervals: 90%, not calibrated: the widest of") for line in lines)
    for name in methods:
        bundle = catalogue.read_bundle(name)
        assert any(line.startswith(f"member {name}: version {bundle.version}") for line in lines)
        for sha256 in bundle.metadata["weights_sha256"].values():
            assert any(line.startswith("  weights: ") and line.endswith(sha256) for line in lines)


def test_an_ensemble_by_name_is_as_whole_as_its_members(folder, monkeypatch, capsys):
    shutil.copytree(folder / "global-local", folder / "house")
    monkeypatch.setattr(catalogue, "open_method", lambda name, config: open_method("global-local", config))
    assert catalogue.verify(["house+global-local"], folder) == 0
    flip_a_byte(folder)
    assert catalogue.verify(["house+global-local"], folder) == 1
    assert "its member global-local: model.safetensors differs" in capsys.readouterr().out
    (folder / "house" / "configs" / "calibration.json").unlink()
    assert catalogue.verify(["house+global-local", "house+moon", "house+house"], folder) == 1
    out = capsys.readouterr().out
    for words in ("A member has no intervals", "no weights named 'moon'", "names a member twice"):
        assert words in out


def test_list_and_show_do_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from inference import catalogue\n"
        f"catalogue.print_list(); catalogue.print_one({DEFAULT_METHOD!r})\n"
        f"catalogue.print_one('+'.join(catalogue.names()[1:3]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_exported_weights_are_half_as_large_and_nearly_the_same(folder):
    torch.manual_seed(3)
    net = open_method("global-local", METHOD).make_net()
    weights = catalogue.read_bundle("global-local", folder).read_weights("model.safetensors")
    assert {key: value.shape for key, value in weights.items()} == {k: v.shape for k, v in net.state_dict().items()}
    size = sum(value.numel() for value in weights.values())
    assert (folder / "global-local" / "models" / "model.safetensors").stat().st_size < 3 * size


def test_compact_weights_take_half_the_room_and_are_within_half_a_step_of_their_channels(folder, capsys):
    """Given a bundle, when it is made compact, then it is whole, smaller, and every weight within its rounding."""
    path = folder / "global-local" / "models" / "model.safetensors"
    before, size = open_bundle("global-local", folder).read_weights(path.name), path.stat().st_size
    assert export.main(["compact", "global-local"]) == 0
    after = open_bundle("global-local", folder).read_weights(path.name)
    assert path.stat().st_size < 0.6 * size
    assert catalogue.find_problems("global-local", folder) == []
    assert before.keys() == after.keys()
    assert any(not torch.equal(value, after[key]) for key, value in before.items())
    for key, value in before.items():
        steps = value.flatten(1).abs().amax(1) / 127 if value.ndim > 1 else torch.zeros(1)
        off = (after[key].float() - value.float()).abs()
        worst = off.flatten(1).amax(1) if value.ndim > 1 else off.max()
        assert (worst <= 0.51 * steps + 1e-6).all(), key
    assert export.main(["compact", "global-local", "--bits", "6"]) == 0
    assert path.stat().st_size < 0.45 * size
    assert catalogue.find_problems("global-local", folder) == []
    finer, after = after, open_bundle("global-local", folder).read_weights(path.name)
    assert 0 < max((after[key] - value).abs().max() for key, value in finer.items()) < 0.1
    assert export.main(["compact", "no-such"]) == 2
    assert "no model bundle" in capsys.readouterr().err


def test_an_export_says_that_what_was_fitted_to_the_old_weights_is_gone(folder, caplog):
    """Given a fit of familiar hands, then it stays beside the same weights, and goes with them."""
    fitted, config = (
        folder / "global-local" / file for file in ("models/" + familiarity.FILE, "configs/inference.json")
    )
    fitted.write_bytes(b"fitted")
    export_again(folder)
    assert fitted.exists()
    assert json.loads(config.read_text())["familiarity"] is True
    assert "training.familiarity" not in caplog.text
    export_again(folder, others=True)
    assert not fitted.exists()
    assert "familiarity" not in json.loads(config.read_text())
    assert "run python -m training.familiarity" in caplog.text


def test_intervals_and_the_sex_alarm_go_with_the_weights_they_were_measured_with(folder, caplog, capsys):
    """Given the same weights again, or compact ones, then intervals stay; given others, then nobody reads with them."""
    intervals = folder / "global-local" / "configs" / "calibration.json"
    table = json.loads(intervals.read_text()) | {"sex_alarm": {"logit": 1.0}}
    intervals.write_text(json.dumps(table))
    export_again(folder)
    assert "intervals" not in caplog.text
    export.export_compact("global-local")
    assert json.loads(intervals.read_text()) == table
    assert "boneage-node calibrate --method global-local --data DATA, then boneage-node evaluate" in caplog.text
    caplog.clear()
    export_again(folder, others=True)
    assert not intervals.exists()
    assert "boneage-node calibrate --method global-local --data DATA." in caplog.text
    assert "python -m training.sexes --method global-local --data DATA --write." in caplog.text
    with pytest.raises(BundleError, match=r"no intervals .*: run boneage-node calibrate --method global-local --data"):
        Engine.load("global-local", threads=1, device="cpu", folder=folder)
    assert catalogue.verify(["global-local"], folder) == 1
    catalogue.print_one("global-local", folder)
    out = capsys.readouterr().out
    assert "there are no intervals (calibration.json); write them with boneage-node calibrate" in out
    assert "\nintervals: none, so no film is read; " in out


def test_intervals_go_where_the_same_weights_are_read_otherwise(folder):
    """Given the same weights with another setting that ages hang on, then intervals are of other ages."""
    run, intervals = folder.parent / "run", folder / "global-local" / "configs" / "calibration.json"
    write_about(run, {**read_about(run), "recipe": RECIPE | {"method": METHOD | {"equalise": False}}})
    export_again(folder)
    assert not intervals.exists()


def test_intervals_of_ensembles_go_with_a_members_weights(folder, caplog):
    """Given ensembles with and without the method as a member, then only those with it lose their intervals."""
    write_ensemble(folder, **{"global-local": 0.5, "house": 0.5})
    intervals = {name: folder / name / "configs" / "calibration.json" for name in ("both", "house+global-local", "a+b")}
    for path in list(intervals.values())[1:]:
        path.parent.mkdir(parents=True)
        shutil.copy(intervals["both"], path)
    export_again(folder)
    assert all(path.exists() for path in intervals.values())
    export_again(folder, others=True)
    assert [name for name, path in intervals.items() if path.exists()] == ["a+b"]
    for name in ("both", "house+global-local"):
        assert f"calibrate --method {name} --data DATA" in caplog.text


@pytest.mark.parametrize("file", ["metadata.json", "inference.json"])
@pytest.mark.parametrize("content", ['{"name":', "3"])
def test_a_description_that_cannot_be_read_is_refused(folder, file, content):
    """Given a torn description, or what is none, then the bundle and the remedy are named."""
    (folder / "global-local" / "configs" / file).write_text(content)
    with pytest.raises(BundleError, match=r"description of bundle 'global-local' cannot be read; install"):
        Engine.load("global-local", threads=1, device="cpu", folder=folder)


def test_intervals_that_cannot_be_read_are_refused(folder):
    (folder / "global-local" / "configs" / "calibration.json").write_text("{")
    with pytest.raises(BundleError, match=r"cannot be read: run boneage-node calibrate --method global-local"):
        Engine.load("global-local", threads=1, device="cpu", folder=folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"split": 1}'])
def test_intervals_that_cannot_be_read_are_shown_as_none(folder, capsys, content):
    (folder / "global-local" / "configs" / "calibration.json").write_text(content)
    catalogue.print_one("global-local", folder)
    assert "\nintervals: none that can be used, so no film is read; write them with" in capsys.readouterr().out


def test_weights_that_may_not_be_read_are_named(folder, capsys, monkeypatch):
    def refused(_: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    for module in ("bundle", "catalogue"):
        monkeypatch.setattr(f"inference.{module}.file_sha256", refused)
    assert catalogue.verify(["global-local"], folder) == 1
    assert "model.safetensors cannot be read (Permission denied); let this user read it" in capsys.readouterr().out
    with pytest.raises(BundleError, match=r"model\.safetensors of bundle 'global-local' cannot be read"):
        open_bundle("global-local", folder)


def test_all_models_are_not_whole_without_the_detector(folder, capsys, monkeypatch):
    monkeypatch.setattr(catalogue, "bundles_folder", lambda: folder)
    monkeypatch.setattr(catalogue, "list_methods", lambda *_: ["global-local"])
    assert cli.main(["models", "verify"]) == 1
    out = capsys.readouterr().out
    assert f"{DETECTOR}: NOT WHOLE" in out
    assert "global-local: whole" in out


def test_nothing_is_exported_beside_a_torn_description(folder, capsys):
    """Given another bundle whose description is torn, then the weights that are there stay whole."""
    shutil.copytree(folder / "global-local", folder / "house")
    (folder / "house" / "configs" / "metadata.json").write_text('{"name":')
    torch.manual_seed(8)
    run = folder.parent / "run"
    finish_run(run, open_method("global-local", METHOD).make_net())
    assert export.main(["age", "--run", str(run)]) == 2
    assert (
        f"description of bundle 'house' cannot be read; install the package again. Or move {folder / 'house'} away"
        in (capsys.readouterr().err)
    )
    assert catalogue.verify(["global-local"], folder) == 0


def test_what_a_broken_off_calibration_leaves_is_no_interval(folder):
    """Given a kill while films are read to calibrate on, then no film is read with what stood in for intervals."""
    wide = {"level": 0.9, "ages_months": [0.0], "split": UNCALIBRATED, "half_widths_months": {"M": [240], "F": [240]}}
    (folder / "global-local" / "configs" / "calibration.json").write_text(json.dumps(wide))
    with pytest.raises(BundleError, match=r"broken off; run boneage-node calibrate --method global-local"):
        Engine.load("global-local", threads=1, device="cpu", folder=folder)
    assert catalogue.verify(["global-local"], folder) == 1
    assert Engine.load("global-local", threads=1, device="cpu", folder=folder, uncalibrated=True)


def test_a_bundle_tells_of_its_run(folder):
    metadata = json.loads((folder / "global-local" / "configs" / "metadata.json").read_text())
    assert metadata["training"]["data_sha256"] == "x"
    assert metadata["training"]["seed"] == 1


def test_weights_of_other_films_carry_these_films_terms_and_a_version_of_their_own(folder):
    """Given a hospital's run, then its bundle is neither RSNA's nor our version, also after it was made compact."""
    run, path = folder.parent / "run", folder / "global-local" / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    assert (metadata["version"], metadata["data_terms"]) == ("0.1.0", RSNA_TERMS)
    begin_run(run, {**read_about(run), "data_terms": "Trained on films of a hospital."})
    export_again(folder)
    metadata = json.loads(path.read_text())
    assert metadata["data_terms"] == "Trained on films of a hospital."
    assert metadata["version"] == "0.1.0+own." + metadata["weights_sha256"]["model.safetensors"][:8]
    version = metadata["version"]
    export.export_compact("global-local")
    metadata = json.loads(path.read_text())
    assert (metadata["version"], metadata["data_terms"]) == (version, "Trained on films of a hospital.")


def test_each_network_has_the_terms_of_its_own_films(folder):
    """Given a detector of which one net is of a hospital's films, then the bundle says which, until it is RSNA's."""
    run, path = folder.parent / "finder", folder / DETECTOR / "configs" / "metadata.json"
    for place, net in enumerate((make_finder(), make_landmark_net())):
        part = folder.parent / ("finder", "landmarks")[place]
        part.mkdir()
        begin_run(part, {"target": part.name, "seed": 1, "data_sha256": "x", "recipe": {"target": part.name}})
        finish_run(part, net)
    assert export.main(["detector", "--finder", str(run), "--landmarks", str(folder.parent / "landmarks")]) == 0
    assert json.loads(path.read_text())["data_terms"] == RSNA_TERMS
    write_about(run, {**read_about(run), "data_terms": "Trained on films of a hospital."})
    assert export.main(["detector", "--finder", str(run)]) == 0
    mixed = f"finder.safetensors: Trained on films of a hospital. landmarks.safetensors: {RSNA_TERMS}"
    assert json.loads(path.read_text())["data_terms"] == mixed
    assert export.main(["detector", "--landmarks", str(folder.parent / "landmarks")]) == 0
    assert json.loads(path.read_text())["data_terms"] == mixed
    write_about(run, {**read_about(run), "data_terms": RSNA_TERMS})
    assert export.main(["detector", "--finder", str(run)]) == 0
    metadata = json.loads(path.read_text())
    assert metadata["data_terms"] == RSNA_TERMS
    assert "data_terms_by_file" not in metadata
    assert metadata["version"] == "0.1.0"


def test_intervals_go_with_the_detector_that_they_were_measured_with(folder, caplog):
    """Given a new detector, then intervals stay where regions are found otherwise; given it again, everywhere."""
    write_ensemble(folder, **{"global-local": 0.5, "house": 0.5})
    own = folder / "own" / "configs"
    shutil.copytree(folder / "global-local" / "configs", own)
    change = json.loads((own / "inference.json").read_text()) | {"localiser": "paper"}
    (own / "inference.json").write_text(json.dumps(change))
    intervals = {name: folder / name / "configs" / "calibration.json" for name in ("global-local", "both", "own")}
    run = folder.parent / "landmarks"
    run.mkdir()
    begin_run(run, {"target": "landmarks", "seed": 1, "data_sha256": "x", "recipe": {"target": "landmarks"}})
    finish_run(run, make_landmark_net())
    assert export.main(["detector", "--landmarks", str(run)]) == 0
    assert [name for name, path in intervals.items() if path.exists()] == ["own"]
    for name in ("global-local", "both"):
        assert f"calibrate --method {name} --data DATA" in caplog.text
    shutil.copy(intervals["own"], intervals["global-local"])
    assert export.main(["detector", "--landmarks", str(run)]) == 0
    assert intervals["global-local"].exists()


def detectors_run(folder: Path, target: str) -> Path:
    """Make the finished run of a detector's net beside the bundles."""
    run = folder.parent / f"run of {target}"
    run.mkdir()
    begin_run(run, {"target": target, "seed": 1, "data_sha256": "x", "recipe": {"target": target}})
    finish_run(run, {"finder": make_finder, "landmarks": make_landmark_net}[target]())
    return run


@pytest.mark.parametrize(
    ("finder", "landmarks", "words"),
    [
        ("run of finder", "nowhere", "nowhere"),
        ("run", None, "trained global-local, not finder"),
        ("run of landmarks", "run of finder", "trained landmarks, not finder"),
        (None, None, "--finder RUN"),
    ],
    ids=["one that is not there", "an age method's", "swapped", "none"],
)
def test_a_detector_is_exported_whole_or_stays_as_it_is(folder, capsys, finder, landmarks, words):
    runs = {target: detectors_run(folder, target) for target in ("finder", "landmarks")}
    assert export.main(["detector", "--finder", str(runs["finder"]), "--landmarks", str(runs["landmarks"])]) == 0
    before = {path: path.read_bytes() for path in (folder / DETECTOR).rglob("*.*")}
    torch.manual_seed(9)
    finish_run(runs["finder"], make_finder())
    options = {"--finder": finder, "--landmarks": landmarks}
    given = [word for name, run in options.items() if run for word in (name, str(folder.parent / run))]
    assert export.main(["detector", *given]) == 2
    assert words in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / DETECTOR).rglob("*.*")} == before


def test_a_detectors_run_that_has_not_ended_is_exported_with_a_warning(folder, caplog):
    run = detectors_run(folder, "finder")
    assert export.main(["detector", "--finder", str(run)]) == 0
    assert "has not ended" not in caplog.text
    write_about(run, read_about(run) | {"recipe": {"target": "finder", "epochs": 30}})
    torch.save({"epoch": 2, "best": (0, make_finder().state_dict()), "average": {}}, run / "checkpoint.pt")
    (run / "final.pt").unlink()
    assert export.main(["detector", "--finder", str(run)]) == 0
    assert "run of finder has not ended: the weights are those after 3 of 30 epochs" in caplog.text


ERRORS = {"films": 3, "mae_months": 8.04, "rmse_months": 9.0}
FIGURES = {
    "part": "test",
    "films": 3,
    "table_3": {"all": dict.fromkeys(("male", "female", "total"), ERRORS)},
    "within_months": {"6": 0.5, "12": 0.75, "24": 1.0},
    "refused": {},
    "coverage_90": 0.9,
    "roi_centres_within_3_percent": 0.981,
    "roi_boxes": 1053,
    "roi_centre_median": 0.0099,
    "non_hands": 67,
    "non_hands_accepted": 0,
}
CARD = """# Card

About it.

<!-- figures global-local -->
old
<!-- /figures -->

<!-- sha256 -->
<!-- /sha256 -->
"""


def measured(folder: Path, tmp_path: Path, **more: str) -> Path:
    """Write figures as they are measured with the weights of global-local that a folder of bundles has."""
    path, model = tmp_path / "figures.json", asdict(catalogue.identify("global-local", folder))
    path.write_text(json.dumps(FIGURES | {"model": model | more}))
    return path


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"weights_sha256": "ab" * 32}, "other weights of 'global-local'; evaluate again"),
        ({"version": "0.1.0+site.12345678"}, "has recalibrated ages"),
        ({"method": "house"}, "was measured with 'house'"),
    ],
)
def test_figures_of_something_else_stay_out_of_a_card(folder, tmp_path, caplog, more, words):
    """Given a card that says that its weights are newer, then figures of other ones are refused, and it goes on so."""
    card = folder / "global-local" / "docs" / "README.md"
    card.parent.mkdir()
    card.write_text(CARD)
    export.export_compact("global-local")
    before = card.read_text()
    assert "newer than this card" in before
    assert write_card([str(measured(folder, tmp_path, **more)), str(card)]) == 2
    assert words in caplog.text
    assert card.read_text() == before


def test_a_card_of_other_weights_says_so_until_they_are_measured(folder, tmp_path, caplog, monkeypatch):
    bundle = folder / "global-local"
    card, path = bundle / "docs" / "README.md", bundle / "models" / "model.safetensors"
    card.parent.mkdir()
    card.write_text(CARD)
    export_again(folder)
    assert "newer than this card" not in card.read_text(), "the weights are the same"
    export.export_compact("global-local")
    text = card.read_text()
    assert text.count("The weights are newer than this card") == 1
    assert text.startswith("# Card\n\n<!-- stale -->\n> ")
    assert f"| `model.safetensors` | `{file_sha256(path)}` |" in text
    assert "is of other weights now" in caplog.text
    export_again(folder)
    assert card.read_text().count("The weights are newer than this card") == 1
    assert file_sha256(path) in card.read_text()
    figures = measured(folder, tmp_path)
    assert write_card([str(figures), str(card)]) == 0
    assert "newer than this card" not in card.read_text()
    assert "MAE 8.0 months" in card.read_text()
    monkeypatch.chdir(card.parent)
    assert write_card([str(figures), card.name]) == 0, "a name without folders will do"
    card.write_text(card.read_text().replace(file_sha256(path), "0"))
    assert write_card(["--sha256", str(card)]) == 0
    assert file_sha256(path) in card.read_text()


TERMS = "**Data and terms.** RSNA films: academic research\nonly. 920 films.\n\n"


@pytest.mark.parametrize("typed", [TERMS, ""])
def test_a_card_of_weights_of_other_films_has_their_terms(folder, tmp_path, typed):
    """Given a hospital's weights, then its card has its terms, measured or not, and RSNA's again with such weights."""
    run, card = folder.parent / "run", folder / "global-local" / "docs" / "README.md"
    card.parent.mkdir()
    card.write_text(CARD.replace("<!-- figures", f"{typed}<!-- figures"))
    export_again(folder)
    assert typed in card.read_text()
    write_about(run, {**read_about(run), "data_terms": "Trained on films of a hospital."})
    export_again(folder, others=True)
    figures = measured(folder, tmp_path)
    for _ in range(2):
        text = card.read_text()
        assert text.count("**Data and terms.** Trained on films of a hospital.") == 1
        assert "RSNA" not in text
        assert text.startswith("# Card\n\n")
        assert write_card([str(figures), str(card)]) == 0
    assert "newer than this card" not in card.read_text()
    write_about(run, {**read_about(run), "data_terms": RSNA_TERMS})
    export_again(folder, others=True)
    assert card.read_text().count(f"**Data and terms.** {RSNA_TERMS[:80]}") == 1
    assert "hospital" not in card.read_text()


@pytest.mark.parametrize("name", sorted(path.parents[1].name for path in bundles_folder().glob("*/docs/README.md")))
def test_a_shipped_card_is_of_the_shipped_weights(name):
    text = (bundles_folder() / name / "docs" / "README.md").read_text()
    for file, sha256 in open_bundle(name).metadata["weights_sha256"].items():
        assert f"| `{file}` | `{sha256}` |" in text, "run python -m training.card --sha256 on it"
    assert "newer than this card" not in text, "measure it and run python -m training.card"


def test_a_run_without_weights_or_of_the_detector_is_refused(tmp_path, capsys):
    begin_run(tmp_path, {"target": "finder", "seed": 1, "data_sha256": "x", "recipe": {"target": "finder"}})
    assert export.main(["age", "--run", str(tmp_path)]) == 2
    assert "trained finder" in capsys.readouterr().err
    assert export.main(["detector", "--finder", str(tmp_path)]) == 2
    assert "no weights yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["models", "export", "calibrate", "evaluate", "compare", "stress", "train", "experiment"]
)
def test_the_workshops_commands_explain_themselves(command, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main([command, "--help"])
    assert raised.value.code == 0
    words = capsys.readouterr().out
    assert f"boneage-node {command}" in words
    assert "``" not in words
