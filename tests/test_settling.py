"""Batch normalisation that is fitted to rounded weights. Not covered: what that is worth on films (EXPERIMENTS)."""

from __future__ import annotations

from pathlib import Path

import cv2
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
from training.radiographs import Draw, Radiograph, Reading, load_half, load_small


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

    def load(_: Path, parts: list[str], draw: Draw) -> list[Radiograph]:
        found = [Radiograph(film.reading, film.pixels) for part in parts for film in films[part]]
        return [found[place] for place in draw(len(found))]

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
    """Given 200 films, then 80 of them are taken, those that the shipped weights were fitted with; of five, all."""
    drawn = settling.draw(200)
    assert (len(drawn), drawn[:6], drawn[-3:]) == (80, [1, 2, 9, 10, 11, 12], [189, 194, 198])
    assert settling.draw(200) == drawn
    assert settling.draw(5) == [0, 1, 2, 3, 4]


def project_folder(folder: Path) -> Path:
    """Write ten small films and three lines of the table; the sharp films are not there."""
    small = folder / "rsna2017" / "lowres100"
    small.mkdir(parents=True)
    (folder / "rsna2017" / "half.csv").write_text(
        "rsna_id,bone_age_months,sex\n" + "".join(f"{rsna_id},{rsna_id + 20},M\n" for rsna_id in (11, 12, 13))
    )
    for name, ids in (("part0.npz", range(1, 6)), ("part1.npz", range(6, 11))):
        images = np.stack([np.full((100, 100), 10 * rsna_id, dtype=np.uint8) for rsna_id in ids])
        ages, male = np.array(ids) + 50.0, np.array(ids) % 2 == 0
        np.savez(small / name, rsna_id=np.array(ids), images=images, bone_age_months=ages, male=male)
    return folder


def test_films_are_drawn_before_they_are_read(tmp_path, monkeypatch):
    """Given ten small films, when three are drawn, then they alone are enlarged; of sharp ones, read."""
    data = project_folder(tmp_path)
    split = {rsna_id: "pretrain" if rsna_id not in (3, 11) else "test" for rsna_id in range(1, 11)}
    everything = load_small(data, ["pretrain"], split)
    enlarged, resize = [], cv2.resize
    monkeypatch.setattr("training.radiographs.cv2.resize", lambda *a, **k: (enlarged.append(1), resize(*a, **k))[1])
    some = load_small(data, ["pretrain"], split, draw=lambda count: [2, count - 1])
    assert [film.reading for film in some] == [everything[2].reading, everything[8].reading]
    assert [film.reading.rsna_id for film in some] == [4, 10]
    assert all((one.pixels == everything[place].pixels).all() for one, place in zip(some, (2, 8), strict=True))
    assert len(enlarged) == 2

    (data / "rsna2017" / "half").mkdir()
    cv2.imwrite(str(data / "rsna2017" / "half" / "12.jpg"), np.full((60, 50), 90, dtype=np.uint8))
    halves = dict.fromkeys((11, 12, 13), "train")
    assert [film.reading.rsna_id for film in load_half(data, ["train"], halves, draw=lambda _: [1])] == [12]
