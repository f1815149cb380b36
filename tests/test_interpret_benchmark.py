"""The interpretation benchmark: one small round on the shipped model, and its verdict; it must not rot.

Not covered: the time itself, which depends on the machine.
"""

import pytest

from conformance import interpret_benchmark as benchmark
from conformance.interpret_benchmark import MAX_DIFFERENCE_MONTHS, MAX_MEDIAN_MS, Figures, measure, passed, read_samples
from inference.engine import Engine

GOOD = [Figures("eager", MAX_MEDIAN_MS, 400, 0.0), Figures("batch", 999, 999, MAX_DIFFERENCE_MONTHS)]


def test_every_form_says_the_same_ages():
    """Given the shipped hands, when each form and a batch read them, then ages agree within 0.05 months."""
    engines = {form: Engine.load(threads=2, device="cpu", form=form) for form in ("eager", "channels-last")}
    figures = measure(engines, read_samples(), 1)
    assert [one.form for one in figures] == ["eager", "channels-last", "batch"]
    assert all(0 < one.median_ms <= one.p95_ms for one in figures)
    assert max(one.difference_months for one in figures) <= MAX_DIFFERENCE_MONTHS


def test_a_run_tells_what_it_has_measured_so_far(monkeypatch, capsys):
    """Given one form asked for, then eager is measured beside it, and each step is told before the last is done."""
    monkeypatch.setattr(benchmark, "read_samples", lambda: read_samples()[:1])
    assert benchmark.main(["--forms", "channels-last", "--rounds", "2", "--backlog", "1", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["eager", "channels-last", "batch"]
    told = err.splitlines()
    assert [line.split(":")[0] for line in told] == ["eager", "channels-last", "batch", "round 1 of 2", "round 2 of 2"]
    assert "the first 1 films took" in told[0]
    assert "channels-last " in told[3]


def test_the_samples_are_the_eight_hands():
    assert len(read_samples()) == 8


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


def test_help_names_the_limits_flag(capsys):
    with pytest.raises(SystemExit, match="0"):
        benchmark.main(["--help"])
    assert "--strict" in capsys.readouterr().out
