"""The turnaround benchmark runs: two drawn films, a stand-in for the model, one round.

Not covered: the figures. They are the machine's, and no test of this project is timed.
"""

from __future__ import annotations

import json

import pytest

from conformance import turnaround_benchmark
from conformance.films import draw_pattern, make_film, write
from conformance.turnaround_benchmark import STAGES, Figures, Turnaround, judge


def test_one_round(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / f"{name}.dcm").write_bytes(write(make_film(draw_pattern(256, 200))))
    told = tmp_path / "figures.json"

    options = ["--films", str(tmp_path), "--interpreter", "stand-in", "--rounds", "1", "--json", str(told)]
    assert turnaround_benchmark.main(options) == 0

    text = capsys.readouterr().out
    assert all(words in text for words in ("median", "p95", "resident memory", *STAGES))
    figures = json.loads(told.read_text())
    assert [figures["first"]["film"], *(one["film"] for one in figures["later"])] == ["one", "two"]
    assert 0 < figures["later"][0]["stages_s"]["sent"] <= figures["later"][0]["seconds"] == figures["median_s"]
    assert figures["peak_rss_mib"] > 50


def test_too_few_films_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="fewer than two films"):
        turnaround_benchmark.main(["--films", str(tmp_path)])


def test_verdicts():
    slow, quick = (Turnaround("film", seconds, {}) for seconds in (3.1, 0.4))

    assert [holds for _, holds in judge(Figures(slow, (quick,) * 3, 900.0, 1.0))] == [True, True]
    assert [holds for _, holds in judge(Figures(quick, (slow,) * 3, 2000.0, 1.0))] == [False, False]
    assert Figures(quick, (quick,) * 19 + (slow,), 0.0, 0.0).p95_s == 3.1
