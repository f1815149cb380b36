"""The house method with several networks: what they are given, what their mean says, and their way into a bundle.

Not covered: how well they read films (boneage-node evaluate), one network alone (test_training.py).
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import training.familiarity
from inference import catalogue, familiarity
from inference.bundle import bundles_folder, open_bundle
from inference.house import HouseMeanNet, HouseMethod, Member, open_method
from inference.method import weight_files_of
from inference.pose import Pose
from inference.torch_backend import TorchAgeNetwork
from training import export
from training.run import begin_run, finish_run, read_about, write_about
from training.terms import RSNA_TERMS
from training.train import terms_of_run

FIRST = {"rows": 64, "columns": 48, "variant": "lite0"}
MORE = [{"rows": 96, "columns": 64, "variant": "lite1"}, {"rows": 64, "columns": 48, "variant": "lite0"}]


def begin(folder: Path, target: str, method: dict, seed: int) -> Path:
    phase = {"name": "a", "batch": 1, "sharp_share": 1, "epochs": 1, "steps_per_epoch": 1, "peak_learning_rate": 1e-3}
    loss = "density" if target == "house" else "absolute"
    recipe = {"target": target, "loss": loss, "method": method, "phases": [phase]}
    folder.mkdir()
    begin_run(folder, {"target": target, "seed": seed, "recipe": recipe})
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folders = []
    for seed, config in enumerate([FIRST, *MORE]):
        folders.append(begin(tmp_path / f"run-{seed}", "house", config, seed))
        torch.manual_seed(seed)
        finish_run(folders[-1], open_method(config).make_net())
    return folders


@pytest.fixture
def bundle(runs, tmp_path, monkeypatch) -> Path:
    root = tmp_path / "bundles"
    monkeypatch.setattr(export, "bundles_folder", lambda: root)
    assert export.main(["age", "--run", str(runs[0]), "--more", str(runs[1]), "--more", str(runs[2])]) == 0
    (root / "house" / "configs" / "calibration.json").write_text(
        (bundles_folder() / "house" / "configs" / "calibration.json").read_text()
    )
    return root


def test_every_network_gets_a_crop_of_its_size():
    method = open_method(FIRST | {"more": MORE})
    film = np.random.default_rng(0).integers(0, 256, (300, 200), dtype=np.uint8)
    crops = method.prepare(film, Pose(np.array([[180.0, 0, 10], [0, 280.0, 10]])), np.zeros((18, 2)))
    assert [crop.shape for crop in crops] == [(64, 48), (96, 64), (64, 48)]
    assert np.array_equal(crops[0], crops[2])


def test_the_answer_is_the_mean_of_what_each_network_says(runs, bundle):
    """Given three networks of one bundle, then ages, distributions and log odds are the means of theirs."""
    whole = open_bundle("house", bundle)
    method = open_method(whole.config)
    assert list(weight_files_of(method)) == ["model.safetensors", "model-2.safetensors", "model-3.safetensors"]
    net = TorchAgeNetwork("house", whole, torch.device("cpu"))._net.net
    assert isinstance(net, HouseMeanNet)
    torch.manual_seed(5)
    images = [torch.rand(2, 1, 64, 48), torch.rand(2, 1, 96, 64), torch.rand(2, 1, 64, 48)]
    male = torch.tensor([1.0, -1.0])
    with torch.inference_mode():
        together = net(*images, male)
        alone = [one(image, male) for one, image in zip([_first(whole), *net.more], images, strict=True)]
    assert torch.allclose(together.age_months, sum(one.age_months for one in alone) / 3, atol=1e-4)
    assert torch.allclose(together.male_logit, sum(one.male_logit for one in alone) / 3, atol=1e-5)
    density = sum(one.log_density.exp() for one in alone) / 3
    assert torch.allclose(together.log_density.exp(), density, atol=1e-6)
    assert len({round(float(one.age_months[0]), 3) for one in alone}) == 3


def _first(bundle) -> torch.nn.Module:
    net = HouseMethod(**FIRST).make_plain_net()
    net.load_state_dict(bundle.read_weights("model.safetensors"))
    return net.eval()


def test_a_bundle_of_several_networks_is_whole_and_tells_of_every_run(bundle, capsys):
    assert catalogue.verify(["house"], bundle) == 0, capsys.readouterr().out
    metadata = json.loads((bundle / "house" / "configs" / "metadata.json").read_text())
    assert metadata["training"]["seed"] == 0
    assert [one["seed"] for one in metadata["training"]["more"]] == [1, 2]
    assert len(metadata["weights_sha256"]) == 3


def test_a_network_that_is_missing_is_named(bundle, capsys):
    (bundle / "house" / "models" / "model-3.safetensors").unlink()
    assert catalogue.verify(["house"], bundle) == 1
    assert "model-3.safetensors" in capsys.readouterr().out


def test_networks_of_an_export_before_are_gone(runs, bundle):
    assert export.main(["age", "--run", str(runs[1])]) == 0
    assert [path.name for path in (bundle / "house" / "models").iterdir()] == ["model.safetensors"]
    assert "more" not in open_bundle("house", bundle).config


def test_all_networks_are_stored_in_eight_bits(bundle):
    before = {path.name: path.stat().st_size for path in (bundle / "house" / "models").iterdir()}
    assert export.main(["compact", "house"]) == 0
    assert all((bundle / "house" / "models" / name).stat().st_size < 0.7 * size for name, size in before.items())
    assert catalogue.verify(["house"], bundle) == 0


def test_networks_that_cannot_be_read_together_are_refused(runs, tmp_path, monkeypatch, capsys):
    """Given a run of another method, or one whose crops are not equalised, then nothing is written."""
    monkeypatch.setattr(export, "bundles_folder", lambda: tmp_path / "bundles")
    plain = begin(tmp_path / "plain", "house", FIRST | {"equalise": False}, 9)
    other = begin(tmp_path / "other", "global-local", {"width": 0.0625}, 9)
    for more, words in ((plain, "all be equalised"), (other, "Only house")):
        assert export.main(["age", "--run", str(runs[0]), "--more", str(more)]) == 2
        assert words in capsys.readouterr().err
    about = read_about(other)
    write_about(other, about | {"recipe": about["recipe"] | {"loss": "density"}})
    assert export.main(["age", "--run", str(other)]) == 2
    assert "judges answers of house only); train again" in capsys.readouterr().err
    assert not (tmp_path / "bundles").exists()


def test_shipped_networks_are_read_beside_a_run(runs, tmp_path, monkeypatch, capsys):
    """Given a site's network trained on, then it takes the place of one that is shipped; each keeps its origin."""
    root, shipped = tmp_path / "bundles", open_bundle("house")
    monkeypatch.setattr(export, "bundles_folder", lambda: root)
    write_about(runs[1], read_about(runs[1]) | {"data_terms": "A hospital's."})
    places = ["shipped:1", str(runs[1]), "shipped:4"]
    more = [word for place in places[1:] for word in ("--more", place)]
    assert export.main(["age", "--run", places[0], *more]) == 0
    mixed = open_bundle("house", root)
    of_first = {key: shipped.config[key] for key in FIRST}
    assert {key: mixed.config[key] for key in FIRST} == of_first
    assert mixed.config["more"] == [MORE[0], shipped.config["more"][2]]
    for file, before in (("model.safetensors", "model.safetensors"), ("model-3.safetensors", "model-4.safetensors")):
        weights = shipped.read_weights(before)
        assert all(
            torch.allclose(value, weights[key], rtol=1e-3, atol=1e-6) for key, value in mixed.read_weights(file).items()
        )
    origins = [mixed.metadata["training"], *mixed.metadata["training"]["more"]]
    of_shipped = [shipped.metadata["training"], *shipped.metadata["training"]["more"]]
    assert [one["seed"] for one in origins] == [of_shipped[0]["seed"], 1, of_shipped[3]["seed"]]
    assert "model-2.safetensors: A hospital's." in mixed.metadata["data_terms"]
    assert mixed.metadata["data_terms"].count("RSNA Pediatric") == 2
    assert export.main(["age", "--run", "shipped:5"]) == 2
    assert "There is no shipped:5 of house; networks shipped: 4" in capsys.readouterr().err


def test_a_further_network_that_has_not_ended_its_recipe_marks_the_bundle(runs, bundle):
    """Given a second run without its last file, then the bundle says which network got how far."""
    final = runs[1] / "final.pt"
    weights = torch.load(final)
    final.unlink()
    phase = runs[1] / "a"
    phase.mkdir()
    torch.save({"epoch": 0, "best": (7.0, weights)}, phase / "checkpoint.pt")
    assert export.main(["age", "--run", str(runs[0]), "--more", str(runs[1])]) == 0
    opened = open_bundle("house", bundle)
    assert opened.unconverged == "model-2.safetensors: 1 of 1 epochs"
    assert opened.version.endswith("unconverged")


def test_a_run_from_a_shipped_network_of_own_films_keeps_their_terms(runs, bundle, monkeypatch):
    """Given a site's own network among those that lie here, then a run that starts from it says so, also on RSNA's."""
    write_about(runs[1], read_about(runs[1]) | {"data_terms": "A hospital's."})
    assert export.main(["age", "--run", str(runs[0]), "--more", str(runs[1])]) == 0
    monkeypatch.setattr("training.shipped.open_bundle", lambda name: open_bundle(name, bundle))
    monkeypatch.setattr("training.terms.is_project_folder", lambda _: True)
    of_run = [terms_of_run("house", Path(), Path(f"shipped:{number}")) for number in (1, 2)]
    assert of_run[0] == RSNA_TERMS
    assert of_run[1].startswith("Trained on the RSNA")
    assert of_run[1].endswith("Its training began with other weights: A hospital's.")


def test_a_member_has_its_size_as_columns_and_rows():
    assert Member(96, 64, "lite0").extent == (64, 96)


def test_a_full_disk_leaves_the_bundle_that_was_there(runs, bundle, monkeypatch, capsys):
    """Given a disk that fills up at the second of three networks, then the bundle before opens, and no part stays."""
    models, written = bundle / "house" / "models", []
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    plain = Path.write_bytes

    def fill(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 2:
            plain(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(path, content)

    others = ["--more", str(runs[0]), "--more", str(runs[1])]
    with monkeypatch.context() as filled:
        filled.setattr(Path, "write_bytes", fill)
        assert export.main(["age", "--run", str(runs[2]), *others]) == 2
    assert "No space left on device); make room" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in models.iterdir()} == before
    assert catalogue.verify(["house"], bundle) == 0
    assert export.main(["age", "--run", str(runs[2]), *others]) == 0


def test_an_export_that_was_killed_takes_the_old_fit_of_familiar_hands_away_when_run_again(runs, bundle, monkeypatch):
    """Given new weights that a killed export put in their place, then the next one knows that the fit is of others."""
    folder = bundle / "house"
    fit_module = HouseMethod(**FIRST).make_familiarity()
    training.familiarity.write(folder, fit_module)
    with monkeypatch.context() as killed:
        killed.setattr(export, "_familiarity", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export.main(["age", "--run", str(runs[1])])
    assert export.main(["age", "--run", str(runs[1])]) == 0
    assert not (folder / "models" / familiarity.FILE).exists()
    assert "familiarity" not in open_bundle("house", bundle).config


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
