"""The interpretation benchmark: small rounds on the shipped model, its verdict, and what it says when it is cut off.

Not covered: the time itself, which depends on the machine, and CUDA.
"""

import json
import os
import signal
import sys
from importlib.resources import as_file, files
from shutil import copy

import pytest

from conformance import interpret_benchmark as benchmark
from conformance.interpret_benchmark import (
    MAX_DIFFERENCE_MONTHS,
    MAX_MEDIAN_MS,
    OTHER_FORMS,
    Clock,
    Figures,
    figures_of,
    kept_out,
    make_tracks,
    measure,
    passed,
    read_samples,
)
from inference.engine import Engine
from inference.finding import Sex
from inference.torch_backend import FORMS

GOOD = [Figures("eager", MAX_MEDIAN_MS, 400, 0.0), Figures("batch", 999, 999, MAX_DIFFERENCE_MONTHS)]
ONE_FILM = ["--forms", "channels-last", "--backlog", "2", "--device", "cpu"]
PARTS = ["picture", "detection", "detector nets", "preparation", "age networks"]


@pytest.fixture
def one_film(monkeypatch):
    """Have the benchmark read one of the samples."""
    monkeypatch.setattr(benchmark, "read_samples", lambda _: read_samples()[:1])


def forms_of(out: str) -> list[str]:
    """Name the forms that the benchmark printed figures of; its first line is what was measured where."""
    return [line.split()[0] for line in out.splitlines()[1:] if not line.startswith(" ")]


def stop_at(monkeypatch, form: str) -> None:
    """Have the process told to end while a form reads its first film."""
    warm = benchmark.Track.warm

    def ended(track):
        if track.form == form:
            os.kill(os.getpid(), signal.SIGTERM)
        warm(track)

    monkeypatch.setattr(benchmark.Track, "warm", ended)


def test_every_form_says_the_same_ages():
    """Given the shipped hands, when each form and a batch read them, then ages agree within 0.05 months."""
    engines = {form: Engine.load(threads=2, device="cpu", form=form) for form in ("eager", "channels-last")}
    cases = read_samples()
    tracks = make_tracks(engines, cases, backlog=8)
    measure(tracks, 1, Clock())
    figures = figures_of(tracks)
    assert [one.form for one in figures] == ["eager", "batch", "channels-last"]
    assert all(len(track.ages) == 8 for track in tracks)
    assert [one.readings for one in figures] == [8, 1, 8]
    assert all(0 < one.median_ms <= one.p95_ms and one.first_s > 0 for one in figures)
    assert max(one.difference_months for one in figures) <= MAX_DIFFERENCE_MONTHS
    assert list(tracks[0].ages.values()) == [
        found.age_months for found in map(engines["eager"].interpret_film, *zip(*cases, strict=True))
    ]


def test_the_parts_of_a_film_add_up_to_it(one_film, tmp_path):
    """Given one reading of a form, then its parts are the film's time, and each takes some of it."""
    written = tmp_path / "figures.json"
    assert benchmark.main([*ONE_FILM, "--rounds", "1", "--json", str(written)]) == 0
    for form in json.loads(written.read_text())["forms"]:
        assert list(form["parts_ms"]) == PARTS
        assert all(part > 0 for part in form["parts_ms"].values())
        assert sum(form["parts_ms"].values()) == pytest.approx(form["median_ms"])


def test_a_run_tells_each_stage_as_it_begins_and_what_it_has_measured_so_far(one_film, capsys):
    assert benchmark.main([*ONE_FILM, "--rounds", "2"]) == 0
    out, err = capsys.readouterr()
    assert forms_of(out) == ["eager", "batch", "channels-last"]
    assert "house on " in out
    assert "2 CPU threads: complete after" in out.splitlines()[0]
    told = [line.split("] ")[1] for line in err.splitlines()]
    begun = [line for line in told if line.endswith("...")]
    assert "batch: first batch of 2 ..." in begun
    assert "import torch ..." in begun
    assert begun[-1] == "round 2 of 2 ..."
    assert told[-1].startswith("eager ")
    assert told[-1].endswith("ms a film")


def test_when_the_time_is_up_no_further_form_begins(one_film, tmp_path, capsys, monkeypatch):
    """Given a time that passes while the first form is read, then that one alone is measured, once, and all is told."""
    written = tmp_path / "figures.json"
    monkeypatch.setattr(benchmark.Clock, "is_up", property(lambda clock: "eager: first film" in clock.stages))
    assert benchmark.main([*ONE_FILM, "--rounds", "9", "--json", str(written)]) == 0
    out, err = capsys.readouterr()
    assert forms_of(out) == ["eager"]
    assert "time up after" in out
    assert "channels-last: not measured, the time is up" in err
    told = json.loads(written.read_text())
    assert (told["ended"], [one["readings"] for one in told["forms"]]) == ("time up", [1])


def test_the_time_is_up_after_the_seconds_given():
    assert Clock(seconds=0).is_up
    assert not Clock(seconds=3600).is_up
    assert not Clock().is_up


def test_a_run_that_is_told_to_end_gives_what_it_has(one_film, tmp_path, capsys, monkeypatch):
    """Given a run that is ended in its second form, then the first form's figures are printed, written and left."""
    written, before = tmp_path / "figures.json", signal.getsignal(signal.SIGTERM)
    stop_at(monkeypatch, "channels-last")
    assert benchmark.main([*ONE_FILM, "--json", str(written)]) == 0
    out, err = capsys.readouterr()
    assert forms_of(out) == ["eager", "batch"]
    assert "interrupted after" in out
    assert "KeyboardInterrupt" in err
    assert json.loads(written.read_text())["ended"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_is_killed_leaves_the_stages_it_had_ended(one_film, tmp_path, monkeypatch):
    """Given a run that breaks off with no word, then the file says so, names its machine and has what was measured."""
    written = tmp_path / "figures.json"
    monkeypatch.setattr(benchmark, "measure", lambda tracks, *_: tracks[0].unknown)
    with pytest.raises(AttributeError):
        benchmark.main([*ONE_FILM, "--json", str(written)])
    told = json.loads(written.read_text())
    assert (told["ended"], told["forms"]) == ("cut off", [])
    assert told["device"].endswith("CPU")
    assert list(told["stages_s"])[-1] == "load the networks"


def test_the_samples_are_the_eight_hands():
    assert len(read_samples()) == 8


def test_films_of_a_folder_are_read_instead_of_the_samples(tmp_path):
    """Given a folder of one film, then that one is read; an empty folder is named and nothing is measured."""
    with pytest.raises(SystemExit, match=f"no films .* {tmp_path}"):
        benchmark.main(["--films", str(tmp_path), "--device", "cpu"])
    with as_file(files("dicom_node").joinpath("samples", "girl-08.dcm")) as film:
        copy(film, tmp_path)
    ((_, subject),) = read_samples(tmp_path)
    assert subject.sex is Sex.FEMALE


def test_what_monai_need_not_import_is_kept_out_for_the_time_only(tmp_path, monkeypatch):
    """Given two installed packages, one loaded, when both are kept out, then only the loaded one can be imported."""
    for name in ("asleep", "awake"):
        (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("asleep", "awake"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    __import__("awake")
    with kept_out(["asleep", "awake"]):
        __import__("awake")
        with pytest.raises(ImportError, match="asleep"):
            __import__("asleep")
    __import__("asleep")


def test_the_forms_are_those_of_the_engine():
    assert ("eager", *OTHER_FORMS) == FORMS


@pytest.mark.parametrize(
    ("worse", "verdict"),
    [
        (Figures("half", 999, 999, 1.0), True),
        (Figures("half-batch", 999, 999, 1.0), True),
        (Figures("channels-last", 9, 9, 0.06), False),
    ],
)
def test_the_verdict(worse, verdict):
    assert passed(GOOD) is True
    assert passed([*GOOD, worse]) is verdict
    assert passed([Figures("eager", MAX_MEDIAN_MS + 1, 999, 0.0)]) is False
    assert passed([]) is False


def test_help_names_the_limits_flag(capsys):
    with pytest.raises(SystemExit, match="0"):
        benchmark.main(["--help"])
    assert "--strict" in capsys.readouterr().out
