"""How strange a hand looks: fitting, the limit, the network that says it, the flag, and the shipped fit on a cast.

Not covered: how often ordinary films are flagged (``python -m training.familiarity`` says that of the validation part).
"""

import json
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydicom import dcmread

from inference.bundle import bundles_folder, open_bundle
from inference.engine import Engine, Reading, _strange
from inference.ensemble import Ensemble
from inference.familiarity import DIMENSIONS, FILE, GRID, QUANTILE
from inference.film import read_film
from inference.finding import Estimate, Sex, Subject
from inference.house import open_method
from inference.method import weight_files_of
from training import familiarity
from training.errors import RunError
from training.evaluation.reading import film_of
from training.outliers import FROM_HANDS, take_hands
from training.radiographs import Radiograph
from training.radiographs import Reading as Label

SAMPLES = Path(str(resources.files("dicom_node").joinpath("samples")))
CONFIG = {"rows": 64, "columns": 48, "variant": "lite0"}
PLACES = GRID[0] * GRID[1]


def ordinary(count: int, seed: int) -> torch.Tensor:
    """Return maps (N, 32, 16, 12) whose channels go together, as those of a network do."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    return torch.einsum("nchw,cd->ndhw", torch.randn(count, 32, 16, 12, generator=generator), mixed)


def test_new_ordinary_maps_lie_below_the_limit_and_others_above():
    module = familiarity.describe(ordinary(600, seed=1))
    beyond = float((module(ordinary(400, seed=2)) > 1).double().mean())
    assert beyond < 4 * (1 - QUANTILE)
    assert bool((module(ordinary(20, seed=3) * 2 + 1) > 1).all())


def test_maps_of_another_resolution_are_measured_alike():
    module = familiarity.describe(ordinary(300, seed=1))
    maps = ordinary(5, seed=4)
    torch.testing.assert_close(module(maps), module(maps.repeat_interleave(2, 2).repeat_interleave(2, 3)))


def test_the_distance_is_mahalanobis_by_hand():
    """Given features with variances 4 and 1 at one place, then 2 away along both is (1 + 4) / 2 on average."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20000, 1, 2, generator=generator, dtype=torch.float64) * torch.tensor([2.0, 1.0])
    described = familiarity.fit(features)
    away = described[0] + 2.0
    assert float(familiarity.distances(away[None], described)) == pytest.approx(2.5, rel=0.15)


def test_a_network_says_it_only_where_the_bundle_asks_for_it():
    image, male = torch.zeros(2, 1, 64, 48), torch.ones(2)
    plain = open_method(CONFIG)
    assert plain.make_net().eval()(image, male).strangeness is None
    assert FILE not in weight_files_of(plain)
    method = open_method(CONFIG | {"familiarity": True})
    net = method.make_net().eval()
    assert net(image, male).strangeness.shape == (2,)
    prefix = weight_files_of(method)[FILE]
    own = {key for key in net.state_dict() if key.startswith(prefix)}
    assert {key.removeprefix(prefix) for key in own} == set(method.make_familiarity().state_dict())
    assert set(net.state_dict()) - own == set(plain.make_net().state_dict())


def test_an_ensemble_is_as_strange_as_its_strangest_member():
    members = [
        (SimpleNamespace(read=lambda _h, s=s: [Reading(100.0, strangeness=s)]), 1.0) for s in (None, 0.4, 1.7, 0.9)
    ]
    assert Ensemble(members).read([object()])[0].strangeness == 1.7


@pytest.mark.parametrize(("strangeness", "flagged"), [(None, False), (0.2, False), (1.0, False), (1.01, True)])
def test_what_lies_beyond_the_limit_is_flagged(strangeness, flagged):
    assert bool(_strange(Reading(100.0, strangeness=strangeness))) is flagged


def test_a_fit_is_written_into_the_bundle_and_goes_with_its_weights(tmp_path):
    folder = tmp_path / "house"
    (folder / "models").mkdir(parents=True)
    (folder / "configs").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0", "weights_sha256": {}}))
    (folder / "configs" / "inference.json").write_text(json.dumps(CONFIG | {"network_def": {"config": CONFIG}}))
    module = familiarity.describe(ordinary(60, seed=1))
    familiarity.write(folder, module)
    bundle = open_bundle("house", tmp_path)
    assert bundle.config["familiarity"] is True
    assert bundle.config["network_def"]["config"]["familiarity"] is True
    torch.testing.assert_close(bundle.read_weights(FILE), dict(module.state_dict()))


def test_a_fit_that_is_killed_leaves_a_bundle_that_opens_and_is_written_again(tmp_path, monkeypatch):
    folder = tmp_path / "house"
    (folder / "models").mkdir(parents=True)
    (folder / "configs").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0", "weights_sha256": {}}))
    (folder / "configs" / "inference.json").write_text(json.dumps(CONFIG | {"network_def": {"config": CONFIG}}))
    familiarity.write(folder, familiarity.describe(ordinary(60, seed=1)))
    module = familiarity.describe(ordinary(60, seed=2))
    with monkeypatch.context() as killed:
        killed.setattr(familiarity, "file_sha256", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            familiarity.write(folder, module)
    assert open_bundle("house", tmp_path).config["familiarity"] is False
    familiarity.write(folder, module)
    torch.testing.assert_close(open_bundle("house", tmp_path).read_weights(FILE), dict(module.state_dict()))


@pytest.mark.parametrize(("films", "others"), [(0, 0), (familiarity.LEAST_FILMS - 1, 5), (familiarity.LEAST_FILMS, 0)])
def test_too_few_films_say_nothing_of_what_is_strange(monkeypatch, tmp_path, caplog, films, others):
    monkeypatch.setattr(familiarity, "_films", lambda *_: ([None] * films, [None] * others))
    monkeypatch.setattr(familiarity, "write", lambda *_: pytest.fail("the shipped fit would go"))
    assert familiarity.main(["--data", str(tmp_path)]) == 2
    assert f"there are {films} and {others}" in caplog.text


@pytest.mark.parametrize("changed", [False, True], ids=["a full disk", "other weights"])
def test_a_fit_that_cannot_be_written_is_said_in_words(monkeypatch, tmp_path, caplog, changed):
    def full(*_) -> None:
        raise RunError("The disk is full.")

    module = familiarity.describe(ordinary(60, seed=1))
    monkeypatch.setattr(familiarity, "_films", lambda *_: ([None] * familiarity.LEAST_FILMS, [None]))
    monkeypatch.setattr(familiarity, "middle_maps", lambda *_: ordinary(60, seed=1))
    monkeypatch.setattr(familiarity, "describe", lambda _: module)
    monkeypatch.setattr(familiarity, "write", full)
    if changed:
        monkeypatch.setattr("training.bundle_intervals.weights_of", lambda _: ("new", "detector"))
    assert familiarity.main(["--data", str(tmp_path)]) == 2
    assert ("run this command again" if changed else "The disk is full.") in caplog.text


@pytest.fixture(scope="module")
def engine():
    return Engine.load("house", threads=1)


@pytest.fixture(scope="module")
def hand(engine):
    """A shipped sample as the film of a table, read and with its pose."""
    grey = np.rint(255 * read_film(dcmread(SAMPLES / "girl-08.dcm")).pixels).astype(np.uint8)
    hands = take_hands(engine, [Radiograph(Label(1, 96.0, Sex.FEMALE, "none"), grey)])
    assert hands
    return hands[0]


@pytest.mark.parametrize(
    ("group", "code"), [("cast", "unlike-training"), ("plate on the radius", "bright-object"), (None, None)]
)
def test_the_shipped_model_warns_of_casts_and_plates_and_of_nothing_else(engine, hand, group, code):
    rng = np.random.default_rng(1)
    grey = hand.film.pixels if group is None else FROM_HANDS[group](hand, rng)
    finding = engine.interpret_film(film_of(grey), Subject(Sex.FEMALE, "table", None, "table"))
    assert isinstance(finding, Estimate)
    codes = {flag.code for flag in finding.flags} & {"unlike-training", "bright-object"}
    assert codes == ({code} if code else set())


def test_the_shipped_fit_has_the_shape_the_network_wants():
    weights = open_bundle("house").read_weights(FILE)
    assert weights["root"].shape == (PLACES, DIMENSIONS, DIMENSIONS)
    assert (bundles_folder() / "house" / "models" / FILE).stat().st_size < 200_000
