"""Interpretation benchmark: milliseconds a film and where they go, on prepared films, beside other forms of torch.

The films are the shipped samples, or those of ``--films``, decoded once; each form reads all of them in turn, from the
second round on forms alternate so that a busy machine is busy for all alike, and the median and the 95th percentile of
single films are given. ``eager`` is what the node runs; ``channels-last`` lays the age network's weights and inputs out
channels last (the detector has one form); ``batch`` and ``half-batch`` read a backlog (``--backlog`` films, over and
over) with one call of ``Engine.interpret_films``. Compare within one run on one machine only.

    python -m conformance.interpret_benchmark
    python -m conformance.interpret_benchmark --method house --rounds 10 --json figures.json --strict
    python -m conformance.interpret_benchmark --device cuda --forms half --backlog 32 --rounds 8 --seconds 60

Parts: ``picture`` (grey values and the checks of a film), ``detection`` (crops and places of landmarks) and
``preparation`` (crops for the age networks) are the CPU's; ``detector nets`` and ``age networks`` hold the transfers to
the GPU and back, too.

On CUDA ``half`` computes in float16 by autocast; elsewhere it is ``channels-last``. The first film of a form and size
of batch waits until CUDA has its kernels. Right after that the form is measured once by itself, so that a run that is
cut off has measured something: standard error tells each stage as it begins and how long it took, ``--json`` is written
anew after each, ``--seconds`` lets no further film begin, and an interrupt (Ctrl-C, ``kill``) ends the run as soon as
Python hears of it, with the figures so far.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from inference.method import DEFAULT_METHOD

if TYPE_CHECKING:
    import torch

    from inference.engine import Engine
    from inference.film import Film
    from inference.finding import Finding, Subject

MAX_MEDIAN_MS = 350.0
MAX_DIFFERENCE_MONTHS = 0.05
OTHER_FORMS = ("channels-last", "half")
"""Of ``inference.torch_backend.FORMS``, which takes seconds to import, those beside eager."""

_BATCHES = {"eager": "batch", "half": "half-batch"}
"""Forms that read a backlog, too, and what that is called."""
_NOT_NEEDED = (
    *("cuda", "cupy", "cupyx", "einops", "h5py", "huggingface_hub", "ignite", "itk", "matplotlib", "nibabel", "pandas"),
    *("requests", "skimage", "sklearn", "tensorboard", "tifffile", "torchaudio", "torchvision", "tqdm", "transformers"),
)
"""What MONAI imports where it is installed, and no network of ours uses: with them all, 3000 modules, 470 MB of files
and 5 seconds from a fast disk."""
_PACKAGES = ("cv2", "pydicom", "torch", "monai.networks.nets", "inference.torch_backend", "inference.engine")

Case = tuple["Film", "Subject"]
Ages = dict[int, float]
"""Months, by the place of a film among the films."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One form: milliseconds a film, and the largest difference of an age from eager's in months.

    ``first_s`` is how long its first film or batch took, in seconds; ``readings`` is how many the medians are of, and
    ``parts_ms`` holds those of the parts of a film's time.
    """

    form: str
    median_ms: float
    p95_ms: float
    difference_months: float
    first_s: float = 0.0
    readings: int = 0
    parts_ms: dict[str, float] = field(default_factory=dict)


class Clock:
    """Tells each stage of a run on standard error, and whether the run's time is up.

    Parameters
    ----------
    seconds
        The run's time; None for no limit.
    after
        Called after each stage.
    """

    def __init__(self, seconds: float | None = None, after: Callable[[], None] = lambda: None) -> None:
        self._begun = time.perf_counter()
        self._seconds = seconds
        self._after = after
        self.stages: dict[str, float] = {}

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._begun

    @property
    def is_up(self) -> bool:
        """Whether the run has had its time."""
        return self._seconds is not None and self.elapsed >= self._seconds

    def tell(self, line: str, end: str = "\n") -> None:
        """Write a line with the time at its front."""
        sys.stderr.write(f"[{self.elapsed:6.1f} s] {line}{end}")
        sys.stderr.flush()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell a stage as it begins, so that one that does not end is known, and how long it took."""
        self.tell(f"{name} ...")
        started = time.perf_counter()
        yield
        self.stages[name] = round(time.perf_counter() - started, 3)
        self.tell(f"{name}: {self.stages[name]:.1f} s")
        self._after()


class Track:
    """The readings of one form, film by film or a backlog at once, and what they took."""

    def __init__(self, form: str, engine: Engine, portions: Sequence[Sequence[tuple[int, Case]]]) -> None:
        self.form = form
        self.portions = portions
        self.ages: Ages = {}
        self.first_s = 0.0
        self._engine = engine
        self._taken: list[float] = []
        self._parts: list[dict[str, float]] = []

    @property
    def is_batch(self) -> bool:
        """Whether it reads a backlog."""
        return len(self.portions[0]) > 1

    @property
    def median_ms(self) -> float:
        """Milliseconds a film so far."""
        return statistics.median(self._taken)

    def warm(self) -> None:
        """Read the first portion, unmeasured but for how long it took."""
        self.first_s = self._read(self.portions[0])[0]

    def measure(self, place: int) -> None:
        """Read one portion and keep what it took."""
        portion = self.portions[place]
        seconds, spent = self._read(portion)
        self._taken.append(1000 * seconds / len(portion))
        self._parts.append({name: 1000 * part / len(portion) for name, part in spent.items()})

    def _read(self, portion: Sequence[tuple[int, Case]]) -> tuple[float, dict[str, float]]:
        with watched() as spent:
            started = time.perf_counter()
            findings = self._engine.interpret_films([case for _, case in portion])
            seconds = time.perf_counter() - started
        self.ages |= _ages((place for place, _ in portion), findings)
        return seconds, _parts(seconds, spent)

    def figures(self, eager: Ages) -> Figures | None:
        """Return what was measured, nothing if nothing was; ``eager`` are the ages to compare with."""
        if not self._taken:
            return None
        apart = [abs(age - eager[place]) for place, age in self.ages.items() if place in eager]
        ordered = sorted(self._taken)
        return Figures(
            self.form,
            self.median_ms,
            ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
            max(apart, default=0.0),
            self.first_s,
            len(ordered),
            {name: statistics.median(part[name] for part in self._parts) for name in self._parts[0]},
        )


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Have the engine's parts add the seconds they take to the dictionary that this gives."""
    from inference.detector import HeatMapNet
    from inference.torch_backend import OnDevice, TorchAgeNetwork, TorchLocator

    spent = dict.fromkeys(("locate", "read", "detector nets", "age networks"), 0.0)

    def name_net(on_device: Any) -> str:
        return "detector nets" if isinstance(on_device.net, HeatMapNet) else "age networks"

    watch: list[tuple[type, str, Callable[[Any], str]]] = [
        (OnDevice, "forward", name_net),
        (TorchLocator, "locate", lambda _: "locate"),
        (TorchAgeNetwork, "read", lambda _: "read"),
    ]
    with ExitStack() as patches:
        for owner, method, name in watch:
            patches.enter_context(patch.object(owner, method, _clocked(getattr(owner, method), name, spent)))
        yield spent


def _clocked(method: Callable[..., Any], name: Callable[[Any], str], spent: dict[str, float]) -> Callable[..., Any]:
    def clocked(owner: Any, *args: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(owner, *args)
        finally:
            spent[name(owner)] += time.perf_counter() - started

    return clocked


def _parts(seconds: float, spent: dict[str, float]) -> dict[str, float]:
    """Return seconds by part, which add up to those of the whole."""
    return {
        "picture": seconds - spent["locate"] - spent["read"],
        "detection": spent["locate"] - spent["detector nets"],
        "detector nets": spent["detector nets"],
        "preparation": spent["read"] - spent["age networks"],
        "age networks": spent["age networks"],
    }


def _ages(places: Iterable[int], findings: Sequence[Finding]) -> Ages:
    from inference.finding import Estimate

    return {
        place: finding.age_months
        for place, finding in zip(places, findings, strict=True)
        if isinstance(finding, Estimate)
    }


def read_samples(folder: Path | None = None) -> list[Case]:
    """Return the shipped hands, or the films of a folder, decoded."""
    from pydicom import dcmread

    from inference.film import read_film
    from inference.subject import read_subject

    cases: list[Case] = []
    with ExitStack() as opened:
        shipped = files("dicom_node").joinpath("samples")
        for path in sorted((folder or opened.enter_context(as_file(shipped))).glob("*.dcm")):
            if path.stem != "not-a-hand":
                ds = dcmread(path)
                cases.append((read_film(ds), read_subject(ds)))
    return cases


def make_tracks(engines: dict[str, Engine], cases: list[Case], backlog: int) -> list[Track]:
    """Return what is to be measured: each form film by film, and those of _BATCHES with a backlog, too."""
    numbered = list(enumerate(cases))
    waiting = list(itertools.islice(itertools.cycle(numbered), backlog))
    tracks = []
    for form, engine in engines.items():
        tracks.append(Track(form, engine, [[one] for one in numbered]))
        if form in _BATCHES:
            tracks.append(Track(_BATCHES[form], engine, [waiting]))
    return tracks


def measure(tracks: list[Track], rounds: int, clock: Clock) -> None:
    """Time every form: each by itself once its first film has been read, then in turn, until the time is up."""
    for track in tracks:
        if clock.is_up:
            clock.tell(f"{track.form}: not measured, the time is up")
            continue
        size = f"batch of {len(track.portions[0])}" if track.is_batch else "film"
        with clock.stage(f"{track.form}: first {size}"):
            track.warm()
        with clock.stage(f"{track.form}: round 1"):
            _run([track], clock, at_least=1)
        clock.tell(f"{track.form}: {track.median_ms:.1f} ms a film")
    for number in range(2, rounds + 1):
        if clock.is_up:
            clock.tell(f"round {number} of {rounds}: not begun, the time is up")
            break
        with clock.stage(f"round {number} of {rounds}"):
            _run(tracks, clock)
        clock.tell(", ".join(f"{track.form} {track.median_ms:.1f}" for track in tracks) + " ms a film")


def _run(tracks: list[Track], clock: Clock, at_least: int = 0) -> None:
    """Read every portion once, the forms' in turn, until the time is up; of each form ``at_least`` so many."""
    for place in range(max(len(track.portions) for track in tracks)):
        for track in tracks:
            if place < len(track.portions) and (place < at_least or not clock.is_up):
                track.measure(place)


def figures_of(tracks: list[Track]) -> list[Figures]:
    """Return the figures of every form that has been measured."""
    eager = next((track.ages for track in tracks if track.form == "eager"), {})
    return [figures for track in tracks if (figures := track.figures(eager)) is not None]


def passed(figures: list[Figures]) -> bool:
    """Whether eager keeps the time and every exact form says the same ages; float16 is not held to that."""
    eager = [one for one in figures if one.form == "eager" and one.median_ms <= MAX_MEDIAN_MS]
    exact = all(one.difference_months <= MAX_DIFFERENCE_MONTHS for one in figures if not one.form.startswith("half"))
    return bool(eager) and exact


@contextmanager
def kept_out(names: Sequence[str]) -> Iterator[None]:
    """Have packages that are not loaded yet be as if they were not installed."""
    modules: dict[str, Any] = sys.modules  # None there is how an import is refused
    absent = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            modules.pop(name)


class Run:
    """One run of the benchmark, and what of it has been measured so far.

    Parameters
    ----------
    options
        Of the command.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._machine: dict[str, str] = {}
        self._tracks: list[Track] = []
        self._ended = "cut off"
        self.clock = Clock(options.seconds, self._write)

    def go(self) -> list[Figures]:
        """Measure, and return what was; an interrupt or SIGTERM ends it early."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self._prepare()
            measure(self._tracks, self._options.rounds, self.clock)
            self._ended = "time up" if self.clock.is_up else "complete"
        except KeyboardInterrupt:
            self._ended = "interrupted"
            traceback.print_exc()  # where it was: what took so long
        finally:
            signal.signal(signal.SIGTERM, before)
        self._write()
        return figures_of(self._tracks)

    def _prepare(self) -> None:
        options, stage = self._options, self.clock.stage
        with kept_out(_NOT_NEEDED):
            for name in _PACKAGES:
                with stage(f"import {name}"):
                    import_module(name)
        from inference.engine import Engine
        from inference.torch_backend import choose_device

        with stage("find the device"):
            device = choose_device(options.device, options.threads)
            self._machine = _describe(device)
        self.clock.tell(self.line)
        with stage("first kernels"):
            _try_out(device)
        with stage("decode the films"):
            cases = read_samples(options.films)
        if not cases:
            raise SystemExit(f"There are no films (*.dcm) in {options.films}.")
        with stage("load the networks"):
            engines = {
                form: Engine.load(options.method, threads=options.threads, device=options.device, form=form)
                for form in dict.fromkeys(["eager", *options.forms])
            }
        self._tracks = make_tracks(engines, cases, options.backlog)

    @property
    def line(self) -> str:
        """What was measured where."""
        described = ", ".join(self._machine.values()) or "nothing"
        return f"{self._options.method} on {described}, {self._options.threads} CPU threads"

    def summary(self) -> str:
        """Return the line above with how the run ended."""
        return f"{self.line}: {self._ended} after {self.clock.elapsed:.0f} s"

    def _write(self) -> None:
        if self._options.json is None:
            return
        told = {
            "method": self._options.method,
            **self._machine,
            "threads": self._options.threads,
            "backlog": self._options.backlog,
            "ended": self._ended,
            "elapsed_s": round(self.clock.elapsed, 1),
            "stages_s": self.clock.stages,
            "forms": [asdict(one) for one in figures_of(self._tracks)],
        }
        self._options.json.write_text(json.dumps(told, indent=1) + "\n")


def _describe(device: torch.device) -> dict[str, str]:
    """Name what computes: the GPU, or the kind of CPU."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return {"device": name, "torch": f"torch {torch.__version__}"}


def _try_out(device: torch.device) -> None:
    """Have CUDA, cuDNN and cuBLAS loaded: what a first film would wait for besides kernels of its own."""
    import torch

    image = torch.zeros(1, 1, 8, 8, device=device)
    seen = torch.nn.functional.conv2d(image, torch.zeros(1, 1, 3, 3, device=device))
    (seen.reshape(6, 6) @ torch.zeros(6, 6, device=device)).cpu()


def _print(figures: Iterable[Figures]) -> None:
    for one in figures:
        print(
            f"{one.form:14s} median {one.median_ms:7.1f} ms  p95 {one.p95_ms:7.1f} ms  "
            f"differs by {one.difference_months:.4f} months  first {one.first_s:.1f} s"
        )
        print("  " + ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in one.parts_ms.items()) + " ms")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 1 with ``--strict`` when a limit is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default=DEFAULT_METHOD, help=f"whose bundle (default {DEFAULT_METHOD})")
    parser.add_argument("--films", type=Path, help="read the *.dcm of this folder instead of the samples")
    parser.add_argument("--rounds", type=int, default=5, help="how often each film is read in each form (default 5)")
    parser.add_argument(
        "--seconds", type=float, help="begin no further film once so many have passed (default no limit)"
    )
    parser.add_argument("--backlog", type=int, default=8, help="films of a batch (default 8)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2, as the node)")
    parser.add_argument(
        "--forms", nargs="*", choices=OTHER_FORMS, default=list(OTHER_FORMS), help="beside eager (default all)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    parser.add_argument("--json", type=Path, help="also write the figures there, after every stage")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a limit is missed")
    run = Run(options := parser.parse_args(argv))
    figures = run.go()
    print(run.summary())
    _print(figures)
    return 1 if options.strict and not passed(figures) else 0


if __name__ == "__main__":
    raise SystemExit(main())
