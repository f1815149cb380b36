"""Experiments: packs of synthetic hands are written, read, trained within a time limit, resumed, and taken home.

Not covered: real films (a pack's size and speed stand in training/EXPERIMENTS.md), CUDA.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dicom_node import cli
from inference.detector import crop_upright
from inference.finding import Sex
from inference.method import method_names
from inference.pose import Pose, template_points
from inference.preparation import HAND_WINDOW, roi_centres
from training import experiment, fit, pack, storage, train
from training.ages import LocatedFilm
from training.errors import DataError, RecipeError, RunError
from training.experiment import Experiment, experiments, take, write_experiment
from training.export import save_weights
from training.films import AgeFilms
from training.fit import CAUTION
from training.pace import EPOCH_END_S, Pace, fitted, measure
from training.radiographs import Reading
from training.recipe import open_recipe, shipped_recipes
from training.run import begin_run, read_about, read_run
from training.train import Job

TINY = Experiment(
    rank=1,
    title="tiny",
    predicts="nothing",
    costs="seconds",
    recipe="global-local",
    method={"width": 0.0625},
    changes={"epochs": 3, "steps_per_epoch": 1, "batch": 2},
    hand_rows=200,
)


def hand(rsna_id: int, part: str, angle_deg: float = 0.0) -> LocatedFilm:
    """Draw smooth discs at the landmarks of a turned hand, on a film with much around it."""
    angle = np.radians(angle_deg)
    linear = 500 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pose = Pose(np.column_stack([linear, np.array([450.0, 420.0]) - linear @ (0.5, 0.5)]))
    image = np.full((900, 1000), 30, dtype=np.uint8)
    points = pose.to_film(template_points())
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 14, 200, -1)
    image = cv2.GaussianBlur(image, (0, 0), 6)
    return LocatedFilm(Reading(rsna_id, 90.0 + rsna_id, Sex.MALE, part), image, pose, roi_centres(points, pose))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small nets on one thread: two of them wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def films() -> AgeFilms:
    return AgeFilms(
        sharp=[hand(1, "train"), hand(2, "train", 20)],
        small=[hand(3, "pretrain"), hand(4, "pretrain", -15)],
        validation=[hand(5, "validation")],
    )


@pytest.fixture(scope="module")
def packed(films: AgeFilms, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "tiny"
    write_experiment("tiny", TINY, films, folder, piece_mb=0.1)
    return folder


@pytest.mark.parametrize("angle_deg", [0.0, 25.0, 180.0])
def test_a_shrunk_film_shows_the_same_hand(angle_deg):
    """Given a film cut and shrunk, then the upright crop and the ROIs' places are those of the whole film."""
    film = hand(1, "train", angle_deg)
    small = pack.shrink(film, 240)
    assert small.pixels.size < film.pixels.size / 4
    crops = [crop_upright(f.pixels, f.pose, (150, 200), HAND_WINDOW).astype(int) for f in (film, small)]
    assert np.abs(crops[0] - crops[1]).mean() < 1.0
    assert np.allclose(film.pose.to_template(film.centres), small.pose.to_template(small.centres), atol=1e-9)


def test_a_film_is_never_enlarged():
    film = hand(1, "train")
    assert pack.shrink(film, 5000).pose.scale == pytest.approx(film.pose.scale)


def test_a_pack_keeps_films_readings_and_places(films, packed):
    again = pack.read_pack(packed)
    for group in pack.GROUPS:
        for before, after in zip(getattr(films, group), getattr(again, group), strict=True):
            kept = pack.shrink(before, 200, most=0.5 if group == "small" else 1.0)
            assert after.reading == before.reading
            assert np.allclose(after.pose.matrix, kept.pose.matrix)
            assert np.allclose(after.centres, kept.centres)
            assert np.abs(after.pixels.astype(int) - kept.pixels).mean() < 2


def test_pieces_are_no_larger_than_asked(films, tmp_path):
    pieces = pack.write_pack(tmp_path / "p", films, 200, {}, 70_000)
    assert len(pieces) > 1
    assert all(piece.stat().st_size <= 70_000 for piece in pieces)
    assert len(pack.read_pack(tmp_path / "p").sharp) == 2
    with pytest.raises(DataError, match="not empty"):
        pack.write_pack(tmp_path / "p", films, 200, {}, 70_000)


def test_a_missing_or_damaged_piece_is_named(films, tmp_path):
    (piece,) = pack.write_pack(tmp_path / "p", films, 200, {}, 10**7)
    content = bytearray(piece.read_bytes())
    content[len(content) // 2] ^= 255
    piece.write_bytes(content)
    with pytest.raises(DataError, match=r"piece-00\.npz differs"):
        pack.read_pack(tmp_path / "p")
    piece.unlink()
    with pytest.raises(DataError, match=r"lacks piece-00\.npz"):
        pack.read_pack(tmp_path / "p")
    for content in (None, "{", "[1]", "{}"):
        if content is not None:
            (tmp_path / "pack.json").write_text(content)
        with pytest.raises(DataError, match="is no pack"):
            pack.read_pack(tmp_path)


def test_a_large_file_travels_in_parts(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(250)))
    assert [part.name for part in pack.split_file(path, 100)] == ["weights.00", "weights.01", "weights.02"]
    assert pack.joined(tmp_path, "weights") == bytes(range(250))
    (small,) = pack.split_file(tmp_path / "weights.00", 100)
    assert small.name == "weights.00"
    with pytest.raises(DataError, match="lacks figures"):
        pack.joined(tmp_path, "figures")


def test_a_file_in_more_than_a_hundred_parts_is_whole_again(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(range(250)))
    pack.split_file(tmp_path / "weights", 2)
    (tmp_path / "weights.old").write_bytes(b"none of its parts")
    assert pack.joined(tmp_path, "weights") == bytes(range(250))


def test_a_pack_is_trained_within_its_time_resumed_and_taken_home(packed, tmp_path, monkeypatch):
    """Given time for one epoch only, then results are there; given more, then it goes on; at home it is a run."""
    monkeypatch.setattr(experiment, "RESULT_BYTES", 500_000)
    with pytest.raises(RunError, match="before the first epoch"):
        experiment.run(packed, Job(tmp_path / "none", deadline=time.monotonic()), tmp_path / "none")
    monkeypatch.setattr("training.fit._MARGIN", 1e12)  # one epoch
    job, out = Job(tmp_path / "run", half_precision=False), tmp_path / "results"
    job.run.mkdir()
    assert experiment.run(packed, replace(job, deadline=time.monotonic() + 1e6), out) == 3
    early = json.loads((out / "figures.json").read_text())
    assert not early["finished"]
    assert [len(curve) for curve in early["curves"].values()] == [1]
    assert experiment.run(packed, job, out) == 0
    figures = json.loads((out / "figures.json").read_text())
    assert figures["finished"]
    assert len(figures["curves"]["all-films"]) == 3
    assert figures["about"]["experiment"] == "tiny"
    assert [row["rsna_id"] for row in figures["validation"]] == [5]
    assert figures["validation_mae_months"] == pytest.approx(
        min(row["score"] for row in figures["curves"]["all-films"]), abs=0.01
    )
    assert all(path.stat().st_size <= 500_000 for path in out.iterdir())
    assert len(list(out.glob("weights.safetensors.*"))) > 1
    for file in ("figures.json", "weights.safetensors.00"):
        whole = (out / file).read_bytes()
        (out / file).write_bytes(whole[:-7])
        with pytest.raises(RunError, match="is torn; bring all files"):
            take(out, tmp_path / "home")
        (out / file).write_bytes(whole)
    take(out, tmp_path / "home")
    assert read_about(tmp_path / "home")["recipe"]["method"]["width"] == 0.0625
    ours, theirs = read_run(tmp_path / "home"), read_run(job.run)
    assert all(torch.allclose(ours[key].float(), theirs[key].float(), rtol=1e-3, atol=1e-4) for key in theirs)
    with pytest.raises(RunError, match="holds a run"):
        take(out, tmp_path / "home")


def fill_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the disk be full when a file of this name is flushed, or written as a piece."""
    flush, savez = storage._flush, np.savez

    def refuse(path: Path, write: Callable[[], None]) -> None:
        if fnmatchcase(path.name, name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write()

    monkeypatch.setattr(storage, "_flush", lambda path: refuse(path, lambda: flush(path)))
    monkeypatch.setattr(np, "savez", lambda path, **arrays: refuse(path, lambda: savez(path, **arrays)))


@pytest.mark.parametrize("name", ["piece-*.npz", "pack.part"])
def test_a_pack_for_which_there_is_no_room_is_told_in_words(films, tmp_path, monkeypatch, name):
    fill_disk(monkeypatch, name)
    with pytest.raises(RunError, match=r"No space left on device\); make room"):
        pack.write_pack(tmp_path / "p", films, 200, {}, 100_000)
    with pytest.raises(RunError, match="is a file; name a folder"):
        pack.check_new(Path(__file__) / "p")


@pytest.mark.parametrize("name", ["weights.part", "figures.part", "summary.part"])
def test_results_for_which_there_is_no_room_leave_whole_ones_to_take(packed, tmp_path, monkeypatch, name):
    """Given results of a run and then a full disk, then that is said, and there are weights and figures as before."""
    monkeypatch.setattr(experiment, "RESULT_BYTES", 500_000)
    job, out = Job(tmp_path / "run"), tmp_path / "results"
    experiment.run(packed, job, out)
    before = (out / "figures.json").read_bytes()
    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        with pytest.raises(RunError, match=r"No space left on device\); make room"):
            experiment.write_results(job.run, out)
    assert (out / "figures.json").read_bytes() == before or name == "summary.part"
    take(out, tmp_path / "home")
    assert set(read_run(tmp_path / "home")) == set(read_run(job.run))


@pytest.mark.parametrize("name", ["curve.part", "final.part", "run.part"])
def test_results_that_a_full_disk_did_not_take_are_taken_again(packed, tmp_path, monkeypatch, name):
    job, out = Job(tmp_path / "run"), tmp_path / "results"
    experiment.run(packed, job, out)
    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        with pytest.raises(RunError, match="make room"):
            take(out, tmp_path / "home")
    take(out, tmp_path / "home")
    assert (tmp_path / "home" / "summary.html").exists()


def test_a_place_that_results_cannot_be_written_to_is_refused_before_the_pack_is_opened(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "read_pack", lambda _: pytest.fail("films were opened"))
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(RunError, match="notes is a file; name a folder"):
        experiment.run(packed, Job(tmp_path / "run"), tmp_path / "notes" / "results")


@pytest.mark.parametrize("content", ["[1]", '{"schema": "boneage-node/evaluation/2"}'])
def test_figures_of_something_else_are_no_results(tmp_path, content):
    (tmp_path / "figures.json").write_text(content)
    save_weights({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(RunError, match="is none of an experiment"):
        experiment.take(tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_is_fitted_to_its_time_once(packed, tmp_path, monkeypatch):
    """Given a machine that trains one step in a day, when a run has 30 days, then it keeps so many steps ever after."""
    day = 86_400.0
    monkeypatch.setattr("training.pace.rate_of", lambda *_, **__: 1 / day)
    job = Job(tmp_path / "run", deadline=time.monotonic() + 30 * day)
    assert experiment.run(packed, job, tmp_path / "out", fit=True) == 0
    steps = read_about(job.run)["recipe"]["phases"][0]["steps_per_epoch"]
    assert steps == int(30 * CAUTION / TINY.plan().phases[0].epochs)
    monkeypatch.setattr("training.pace.rate_of", lambda *_, **__: 7 / day)
    assert experiment.run(packed, job, tmp_path / "out", fit=True) == 0
    assert read_about(job.run)["recipe"]["phases"][0]["steps_per_epoch"] == steps


def test_a_run_that_keeps_half_the_pace_it_was_measured_at_ends_in_time(packed, tmp_path, monkeypatch):
    """Given a pace measured before others came to share the device, then the run ends in its time, its cycle, too."""

    class Watch:
        now = 5000.0
        monotonic = time = lambda self: self.now

    watch, step = Watch(), fit._Training.step

    def slow(training, batch, *ahead):
        watch.now += 2.0
        return step(training, batch, *ahead)

    for module in ("fit", "pace", "train"):
        monkeypatch.setattr(f"training.{module}.time", watch)
    monkeypatch.setattr("training.pace.rate_of", lambda *_, **__: 1.0)
    monkeypatch.setattr(fit._Training, "step", slow)
    job = Job(tmp_path / "run", deadline=watch.now + 36)
    assert experiment.run(packed, job, tmp_path / "out", fit=True) == 0
    assert 5030 < watch.now <= 5036
    about = read_about(job.run)
    phase = about["recipe"]["phases"][0]
    assert phase["steps_per_epoch"] == 9
    assert about["planned_s"] == {phase["name"]: 3 * (9 + EPOCH_END_S)}
    rows = fit.read_curve(job.run / phase["name"])
    assert [row["steps"] for row in rows] == [9, 4, 4]
    assert rows[-1]["learning_rate"] < 1e-4 * phase["peak_learning_rate"]


def test_a_fitted_run_that_goes_on_is_shortened_to_the_time_it_has_then(packed, tmp_path, monkeypatch):
    """Given a fitted run that is broken off, when it goes on, then its phases part the time left as planned."""
    monkeypatch.setattr("training.pace.rate_of", lambda *_, **__: 1.0)
    seen: list[Job] = []
    monkeypatch.setattr(experiment, "carry_out", lambda recipe, films, job: (seen.append(job), begin(recipe, job))[0])

    def begin(recipe, job):
        begin_run(job.run, train.about_of(recipe, job))
        raise RunError("broken off")

    for _ in range(2):
        with pytest.raises(RunError, match="broken off"):
            experiment.run(packed, Job(tmp_path / "run", deadline=time.monotonic() + 60), tmp_path / "out", fit=True)
    first, again = (job.planned_s for job in seen)
    assert first == again
    assert first is not None
    phases = open_recipe("house").phases
    job = Job(tmp_path / "none", deadline=time.monotonic() + 100, planned_s={phases[0].name: 30, phases[1].name: 10})
    assert job.end_of(phases) - time.monotonic() == pytest.approx(75, abs=1)
    assert job.end_of(phases[1:]) - time.monotonic() == pytest.approx(100, abs=1)
    (job.run / phases[0].name).mkdir(parents=True)
    row = {"epoch": 0, "loss": 1.0, "score": 1.0, "seconds": 1.0}
    (job.run / phases[0].name / "curve.jsonl").write_text(f"{json.dumps(row)}\n" * (phases[0].epochs // 2))
    assert job.end_of(phases) - time.monotonic() == pytest.approx(60, abs=1)
    assert replace(job, planned_s=None).end_of(phases) is None


def test_phases_keep_their_proportions_when_they_are_fitted():
    recipe = open_recipe("house")
    paces = [Pace(phase, rate) for phase, rate in zip(recipe.phases, (40.0, 10.0), strict=True)]
    once, twice = (fitted(recipe, paces, seconds) for seconds in (400, 800))
    for phase, short, long in zip(recipe.phases, once.phases, twice.phases, strict=True):
        assert short.epochs == long.epochs == phase.epochs
        assert short.steps_per_epoch < long.steps_per_epoch
    taken = sum(
        phase.epochs * (phase.steps_per_epoch / pace.steps_per_second + EPOCH_END_S)
        for phase, pace in zip(once.phases, paces, strict=True)
    )
    assert 0.9 * 400 < taken < 400
    first, second = (phase.steps_per_epoch for phase in twice.phases)
    assert first / second == pytest.approx(
        recipe.phases[0].steps_per_epoch / recipe.phases[1].steps_per_epoch, rel=0.02
    )
    with pytest.raises(RunError, match="takes 2 min or more, with a step an epoch"):
        fitted(recipe, paces, 60)
    least = (36 * EPOCH_END_S + (24 * 100 / 40 + 12 * 80 / 10) / 80) / CAUTION
    assert [phase.steps_per_epoch for phase in fitted(recipe, paces, least + 0.1).phases] == [1, 1]
    with pytest.raises(RunError, match="or more"):
        fitted(recipe, paces, least - 0.1)


def test_the_rate_is_measured_by_training(films, monkeypatch):
    monkeypatch.setattr("training.pace.WARM_UP_STEPS", 1)
    monkeypatch.setattr("training.pace.MEASURED_S", 0.1)
    phase = TINY.plan().phases[0]
    (pace,) = measure(TINY.plan(), films, Job(Path("nowhere")))
    assert pace.phase == phase
    assert 0.01 < pace.steps_per_second < 1e4


def test_a_warm_up_ends_when_its_time_is_over(films, monkeypatch):
    """Given steps that take forever, then one is enough of a warm-up and one is measured."""
    steps: list[int] = []
    monkeypatch.setattr("training.pace.WARM_UP_S", 0.0)
    monkeypatch.setattr("training.pace.MEASURED_S", 0.0)
    step = fit._Training.step
    monkeypatch.setattr(fit._Training, "step", lambda self, batch: (steps.append(1), step(self, batch))[1])
    measure(TINY.plan(), films, Job(Path("nowhere")))
    assert len(steps) == 1
    with pytest.raises(RunError, match="up while it was measured"):
        measure(TINY.plan(), films, Job(Path("nowhere"), deadline=time.monotonic() - 1))
    assert len(steps) == 1


@pytest.mark.parametrize("seconds", [-17.0, 3 * EPOCH_END_S / CAUTION])
def test_a_time_that_the_ends_of_the_epochs_take_is_refused_before_anything_is_measured(
    packed, tmp_path, monkeypatch, seconds
):
    """Given less time than three epochs' ends take, then how many minutes it takes is said, before films are opened."""
    monkeypatch.setattr(experiment, "read_pack", lambda _: pytest.fail("films were opened"))
    job = Job(tmp_path / "run", deadline=time.monotonic() + seconds)
    with pytest.raises(RunError, match="epochs alone take 6 s, so it takes 1 min or more; give more --minutes"):
        experiment.run(packed, job, tmp_path / "out", fit=True)


def test_an_experiment_is_trained_for_fewer_epochs(packed, tmp_path):
    job = Job(tmp_path / "run")
    assert experiment.run(packed, job, tmp_path / "out", epochs=1) == 0
    assert read_about(job.run)["recipe"]["phases"][0]["epochs"] == 1
    with pytest.raises(RunError, match="another recipe"):
        experiment.run(packed, job, tmp_path / "out", epochs=2)


def test_a_fit_needs_its_minutes(packed, tmp_path):
    with pytest.raises(RunError, match="--fit needs --minutes"):
        experiment.run(packed, Job(tmp_path / "run"), tmp_path / "out", fit=True)


def test_the_method_s_configuration_can_be_changed_where_it_is_trained(packed, tmp_path):
    """Given --set, as for the networks of an ensemble from one pack, then the run says so, and keys are checked."""
    options = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--epochs", "1", "--threads", "1"]
    assert experiment.main(["run", str(packed), *options, "--set", "nosuch=3"]) == 2
    assert experiment.main(["run", str(packed), *options, "--set", "width=0.125"]) == 0
    assert read_about(tmp_path / "run")["recipe"]["method"]["width"] == 0.125


@pytest.mark.parametrize("fit", [False, True])
def test_a_run_goes_on_with_no_other_configuration(packed, tmp_path, fit):
    """Given a run with --set, when it is to go on with another value, then it is refused, with --fit, too."""
    job = Job(tmp_path / "run", deadline=time.monotonic() + 600)
    experiment.run(packed, job, tmp_path / "out", epochs=1)
    with pytest.raises(RunError, match="recipe"):
        experiment.run(packed, job, tmp_path / "out", fit=fit, epochs=1, method={"width": 0.125})


def test_a_pack_s_weights_of_another_net_are_named_before_its_films_are_read(films, tmp_path, monkeypatch):
    shipped = TINY.model_copy(update={"init": True, "method": {}})
    write_experiment("tiny", shipped, films, tmp_path / "p", piece_mb=20.0)
    monkeypatch.setattr(experiment, "read_pack", lambda _: pytest.fail("films were read"))
    with pytest.raises(RunError, match="starts from are those of another net; change nothing with --set"):
        experiment.run(tmp_path / "p", Job(tmp_path / "run"), tmp_path / "out", method={"width": 0.125})
    assert not (tmp_path / "run" / "run.json").exists()


def test_weights_to_start_from_travel_along(films, tmp_path):
    shipped = TINY.model_copy(
        update={"init": True, "method": {}, "changes": TINY.changes | {"peak_learning_rate": 1e-9}}
    )
    files = write_experiment("tiny", shipped, films, tmp_path / "p", piece_mb=10.0)
    assert [path.name for path in files if "start" in path.name] == ["start.safetensors.00", "start.safetensors.01"]
    assert json.loads((tmp_path / "p" / "pack.json").read_text())["start"] == "shipped"
    (tmp_path / "p" / "start.safetensors.00").unlink()
    (tmp_path / "p" / "start.safetensors.01").unlink()
    with pytest.raises(DataError, match=r"lacks start\.safetensors"):
        experiment.run(tmp_path / "p", Job(tmp_path / "run"), tmp_path / "out")


def test_every_experiment_has_a_plan(capsys):
    known = experiments()
    assert known
    for name, one in known.items():
        recipe = one.plan()
        assert recipe.target in method_names(), name
        for key, value in one.changes.items():
            assert all(getattr(phase, key) == value for phase in recipe.phases), name
        assert recipe.method | one.method == recipe.method, name
    assert cli.main(["experiment", "list"]) == 0
    out = capsys.readouterr().out
    assert all(words in out for name, one in known.items() for words in (name, one.predicts, one.costs))


DASH = "\N{EN DASH}"


def test_experiments_are_numbered_as_in_the_table():
    """Given EXPERIMENTS.md, then a file has the number of the line that names it, and none if that line has none.

    A line names an experiment, or its recipe by a pattern such as `global-local-*`.
    """
    table = (Path(__file__).parents[1] / "training" / "EXPERIMENTS.md").read_text()
    lines = [line.split(" | ") for line in table.splitlines() if re.match(rf"\| (\d+|{DASH}) \| ", line)]
    numbered = [(cells[0].strip("| "), set(re.findall(r"`([^`]+)`", cells[1]))) for cells in lines]
    assert len(numbered) > 20
    for name, one in experiments().items():
        patterns = {name, *({one.recipe} if one.rank is None else ())}
        places = [
            number
            for number, words in numbered
            if patterns & words or any("*" in word and fnmatchcase(one.recipe, word) for word in words)
        ]
        assert str(one.rank or DASH) in places, name
        assert one.rank is not None or not any(place.isdecimal() for place in places), name
    ranks = [one.rank for one in experiments().values()]
    assert ranks == sorted(ranks, key=lambda rank: rank or 99)
    assert {one.recipe for one in experiments().values()} >= {
        name for name in shipped_recipes() if name.startswith("global-local-") and not name.endswith("-paper")
    }, "every recipe of the ablation can be packed"


def test_a_change_of_nothing_a_recipe_has_is_refused():
    with pytest.raises(RecipeError, match="surprise"):
        TINY.model_copy(update={"changes": {"surprise": 1}}).plan()
    with pytest.raises(RecipeError, match="global-local knows no 'wide'"):
        TINY.model_copy(update={"method": {"wide": 1}}).plan()


def test_wrong_packings_are_refused(tmp_path, capsys, caplog):
    out = str(tmp_path / "p")
    sizes = (["global-local-longer", "--piece-mb", size] for size in ("70", "-3", "0", "nan", "0.001"))
    wrong = ((["moon"], "no experiment 'moon'"), (["house-lite2"], "--imagenet"))
    for line, words in (*wrong, *((line, "of 1 to 59 MB") for line in sizes)):
        caplog.clear()
        assert experiment.main(["pack", *line, "--data", str(tmp_path), "--out", out]) == 2
        assert words in caplog.text


def test_a_folder_that_holds_something_is_refused_before_films_are_opened(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(AgeFilms, "load", lambda *_: pytest.fail("films were opened"))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "notes").write_text("mine")
    for out in (tmp_path / "p", tmp_path / "p" / "notes"):
        assert experiment.main(["pack", "ala-net", "--data", str(tmp_path), "--out", str(out)]) == 2
        assert f"{out} is not empty" in caplog.text


def test_another_run_in_the_folder_is_refused_before_the_pack_is_opened(packed, tmp_path, monkeypatch):
    begin_run(tmp_path / "run", {"target": "global-local", "seed": 1})
    monkeypatch.setattr(experiment, "read_pack", lambda _: pytest.fail("films were opened"))
    with pytest.raises(RunError, match="another seed"):
        experiment.run(packed, Job(tmp_path / "run"), tmp_path / "out")


def test_imagenet_weights_are_looked_at_before_films_are_opened(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(AgeFilms, "load", lambda *_: pytest.fail("films were opened"))
    (tmp_path / "weights.pth").write_text("hello")
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "p"), "--imagenet", str(tmp_path / "weights.pth")]
    assert experiment.main(["pack", "house-lite2", *options]) == 2
    assert "is no file of torch" in caplog.text
    assert not (tmp_path / "p").exists()


def documented() -> list[str]:
    """Return the commands that the workshop's documents show."""
    folder = Path(__file__).parents[1] / "training"  # an installed package has no documents
    text = "".join((folder / name).read_text() for name in ("EXPERIMENTS.md", "README.md"))
    found = re.findall(r"(?:boneage-node|-m training\.)\s*((?:experiment|train) [^`\n#]*)", text)
    return sorted({line.replace("-- ", "").replace("...", "house --data DATA --run RUN").strip() for line in found})


@pytest.mark.parametrize("line", [line for line in documented() if len(line.split()) > 2])
def test_documented_commands_are_understood(line):
    command, *arguments = shlex.split(line)
    parser = (experiment if command == "experiment" else train).make_parser()
    options = parser.parse_args(arguments)
    assert command == "train" or options.action in {"pack", "run", "take"}
