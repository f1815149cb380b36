"""Batch normalisation that is fitted to rounded weights. Not covered: what that is worth on films (EXPERIMENTS)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from inference.finding import Sex
from inference.house import HouseMethod
from inference.pose import Pose
from inference.quantised import SIX, unpack
from training import settling
from training.ages import LocatedFilm
from training.errors import RunError
from training.export import in_few_bits
from training.radiographs import Radiograph, Reading


def hand(rsna_id: int) -> LocatedFilm:
    """A film of noise with a pose; what it shows plays no part."""
    pixels = np.random.default_rng(rsna_id).integers(0, 256, (120, 100), dtype=np.uint8)
    reading = Reading(rsna_id, 90.0, Sex.MALE, "train")
    return LocatedFilm(reading, pixels, Pose(np.array([[90.0, 0, 5], [0, 90.0, 10]])), np.zeros((18, 2)))


def make_net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    )


def roughened(net: nn.Sequential) -> nn.Sequential:
    """Return a copy whose weights are changed by a tenth, and shifted."""
    copy = make_net()
    copy.load_state_dict(net.state_dict())
    with torch.no_grad():
        for module in copy:
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(1 + 0.1 * torch.randn_like(module.weight)).add_(0.05)
    return copy


def test_normalised_maps_are_distributed_as_before_in_every_layer():
    """Given a net with changed weights, when it settles, then means and spreads of its maps are the exact net's."""
    exact, images = make_net(), torch.randn(16, 1, 24, 20) + 1
    rough = roughened(exact)
    before = {key: value.clone() for key, value in rough.state_dict().items()}
    wanted = exact.eval()(images)
    off = (rough.eval()(images) - wanted).mean((0, 2, 3)).abs().max()
    settling.settle(rough, exact, (images,))
    for end in (2, 5):
        mine, theirs = rough[:end](images), exact[:end](images)
        assert torch.allclose(mine.mean((0, 2, 3)), theirs.mean((0, 2, 3)), atol=1e-3)
        assert torch.allclose(mine.std((0, 2, 3)), theirs.std((0, 2, 3)), rtol=1e-2)
    assert (rough(images) - wanted).mean((0, 2, 3)).abs().max() < off / 5
    moved = {key for key, value in rough.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {f"{place}.running_{kind}" for place in (1, 4) for kind in ("mean", "var")}
    assert not rough[1]._forward_pre_hooks


def test_exact_weights_stay_settled():
    exact, images = make_net(), torch.randn(8, 1, 24, 20)
    same = make_net()
    settling.settle(same, exact, (images,))
    assert all(torch.allclose(same.state_dict()[key], value, atol=1e-6) for key, value in exact.state_dict().items())


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for a data folder with three films, and for the detector that finds their hands."""
    films = {"train": [hand(1), hand(2)], "pretrain": [hand(3)]}

    def load(_: Path, parts: list[str]) -> list[Radiograph]:
        return [Radiograph(film.reading, film.pixels) for part in parts for film in films[part]]

    by_id = {film.reading.rsna_id: film for part in films.values() for film in part}
    monkeypatch.setattr(settling, "load_half", load)
    monkeypatch.setattr(settling, "load_small", load)
    monkeypatch.setattr(settling, "locate_all", lambda found: [by_id[film.reading.rsna_id] for film in found])
    return Path("data")


def test_a_method_s_statistics_alone_are_moved_in_each_of_its_files(folder):
    """Given two networks in 6 bits, when they settle, then each file has other statistics, and the same weights."""
    torch.manual_seed(1)
    config = {"rows": 64, "columns": 48, "variant": "lite0", "more": [{"rows": 48, "columns": 32, "variant": "lite0"}]}
    state = HouseMethod(64, 48, "lite0").make_net().state_dict()
    exact = {file: {key: value.clone() for key, value in state.items()} for file in MODELS}
    stored = {file: in_few_bits(weights, SIX) for file, weights in exact.items()}
    found = settling.settled("house", config, exact, stored, folder)
    for file in MODELS:
        other = {key for key, value in found[file].items() if not torch.equal(value, exact[file][key])}
        assert other
        assert all(key.endswith(("running_mean", "running_var")) for key in other)
        again = unpack(in_few_bits(found[file], SIX))
        assert torch.equal(again["density.weight"], unpack(stored[file])["density.weight"])
    first, second = (found[file]["trunk._bn0.running_mean"] for file in MODELS)
    assert not torch.equal(first, second), "each sees its own crop"


MODELS = ("model.safetensors", "model-2.safetensors")


def test_a_folder_without_a_hand_is_named(folder, monkeypatch):
    monkeypatch.setattr(settling, "locate_all", lambda _: [])
    with pytest.raises(RunError, match="data has no film to train on that shows a hand"):
        settling.ordinary_inputs(HouseMethod(64, 48, "lite0"), folder)


def test_as_many_films_of_each_kind_are_taken_and_the_same_each_time():
    films = [Radiograph(Reading(i, 90.0, Sex.MALE, "train"), hand(1).pixels) for i in range(200)]
    drawn = settling._drawn(films)
    assert len(drawn) == 80
    assert [film.reading.rsna_id for film in drawn] == [film.reading.rsna_id for film in settling._drawn(films)]
    assert settling._drawn(films[:5]) == films[:5]
