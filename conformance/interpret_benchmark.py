"""Interpretation benchmark: milliseconds a film, detection and age, on prepared films, beside other forms of torch.

The films are the shipped samples, decoded once; each form reads all of them in turn, forms alternate so that a busy
machine is busy for all alike, and the median and the 95th percentile of single films are given. ``eager`` is what the
node runs; ``channels-last`` lays the age network's weights and inputs out channels last (the detector has one form);
``batch`` and ``half-batch`` read a backlog (``--backlog`` films, the samples over and over) with one call of
``Engine.interpret_films``. Compare within one run on one machine only.

    python -m conformance.interpret_benchmark
    python -m conformance.interpret_benchmark --method house --rounds 10 --json figures.json --strict

On CUDA ``half`` computes in float16 by autocast; elsewhere it is ``channels-last``. The first films on a GPU can take
half a minute a form and size of batch, until CUDA has its kernels: where time is short, name few ``--forms``. Standard
error tells how long that took and, after each round, the medians so far, so that a run that is cut off has measured
something.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path

from pydicom import dcmread

from inference.engine import Engine
from inference.film import Film, read_film
from inference.finding import Estimate, Finding, Subject
from inference.method import DEFAULT_METHOD
from inference.subject import read_subject
from inference.torch_backend import FORMS

MAX_MEDIAN_MS = 350.0
MAX_DIFFERENCE_MONTHS = 0.05

Case = tuple[Film, Subject]
_BATCHES = {"batch": "eager", "half-batch": "half"}
"""Readings of a backlog, by the form that each takes."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One form: milliseconds a film, and the largest difference of an age from eager's in months."""

    form: str
    median_ms: float
    p95_ms: float
    difference_months: float


def read_samples() -> list[Case]:
    """Return the shipped hands, decoded."""
    cases: list[Case] = []
    with as_file(files("dicom_node").joinpath("samples")) as folder:
        for path in sorted(folder.glob("*.dcm")):
            ds = dcmread(path)
            if path.stem != "not-a-hand":
                cases.append((read_film(ds), read_subject(ds)))
    return cases


def measure(engines: dict[str, Engine], cases: list[Case], rounds: int, backlog: int = 8) -> list[Figures]:
    """Time every form; ``engines`` holds eager and others by name. One unmeasured round comes first.

    ``backlog`` is how many films a batch holds.
    """
    readers: dict[str, Callable[[list[Case]], list[Finding]]] = {
        name: engine.interpret_films for name, engine in engines.items()
    }
    ages = {name: _ages(_told(name, read, cases)) for name, read in readers.items()}
    batches = {label: name for label, name in _BATCHES.items() if name in readers}
    times: dict[str, list[float]] = {name: [] for name in [*readers, *batches]}
    waiting = list(itertools.islice(itertools.cycle(cases), backlog))
    for label, name in batches.items():
        _told(label, readers[name], waiting)
    for done in range(rounds):
        for case in cases:
            for name, read in readers.items():
                times[name].append(_milliseconds(read, [case]))
        for label, name in batches.items():
            times[label].append(_milliseconds(readers[name], waiting) / len(waiting))
        medians = ", ".join(f"{name} {statistics.median(taken):.1f}" for name, taken in times.items())
        sys.stderr.write(f"round {done + 1} of {rounds}: {medians} ms a film\n")
    single = _ages([engines["eager"].interpret_film(*case) for case in cases])
    ages |= {label: ages[name] for label, name in batches.items()}
    return [
        Figures(
            name,
            statistics.median(taken),
            sorted(taken)[min(len(taken) - 1, int(0.95 * len(taken)))],
            max(abs(a - b) for a, b in zip(ages[name], single, strict=True)),
        )
        for name, taken in times.items()
    ]


def _told(name: str, read: Callable[[list[Case]], list[Finding]], cases: list[Case]) -> list[Finding]:
    """Read films for the first time in a form, and say how long that took."""
    started = time.perf_counter()
    findings = read(cases)
    sys.stderr.write(f"{name}: the first {len(cases)} films took {time.perf_counter() - started:.1f} s\n")
    return findings


def _ages(findings: Sequence[Finding]) -> list[float]:
    return [finding.age_months for finding in findings if isinstance(finding, Estimate)]


def _milliseconds(read: Callable[[list[Case]], list[Finding]], cases: list[Case]) -> float:
    started = time.perf_counter()
    read(cases)
    return 1000 * (time.perf_counter() - started)


def passed(figures: list[Figures]) -> bool:
    """Whether eager keeps the time and every exact form says the same ages; float16 is not held to that."""
    eager = next(one for one in figures if one.form == "eager")
    exact = all(one.difference_months <= MAX_DIFFERENCE_MONTHS for one in figures if not one.form.startswith("half"))
    return eager.median_ms <= MAX_MEDIAN_MS and exact


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 1 with ``--strict`` when a limit is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default=DEFAULT_METHOD, help=f"whose bundle (default {DEFAULT_METHOD})")
    parser.add_argument("--rounds", type=int, default=5, help="how often each film is read in each form (default 5)")
    parser.add_argument("--backlog", type=int, default=8, help="films of a batch (default 8)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="beside eager (default all)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a limit is missed")
    options = parser.parse_args(argv)
    engines: dict[str, Engine] = {
        form: Engine.load(options.method, threads=options.threads, device=options.device, form=form)
        for form in dict.fromkeys(["eager", *options.forms])
    }
    figures = measure(engines, read_samples(), options.rounds, options.backlog)
    for one in figures:
        print(
            f"{one.form:14s} median {one.median_ms:7.1f} ms  p95 {one.p95_ms:7.1f} ms  "
            f"differs by {one.difference_months:.4f} months"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in figures], indent=1) + "\n")
    return 1 if options.strict and not passed(figures) else 0


if __name__ == "__main__":
    raise SystemExit(main())
