"""Turnaround benchmark: from the last C-STORE answer to the archive's commitment, with the shipped model and samples.

A node in a process of its own, quiet period 0, gets one study after the other over loopback; the small archive commits.
The first study is told apart: it pays for what is loaded late. Compare figures within one machine and one load only.

    python -m conformance.turnaround_benchmark
    python -m conformance.turnaround_benchmark --rounds 5 --json figures.json --strict
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path

import sqlalchemy as sa
from pydicom import FileDataset, dcmread
from pydicom.uid import generate_uid

from conformance.nodes import Journal, make_settings, send
from dicom_node.archive import Archive
from dicom_node.interpret import Interpreter
from dicom_node.revisions import StudyState
from dicom_node.settings import Settings
from dicom_node.store import Delivery, Event, Revision, Store, Study, make_engine

MAX_MEDIAN_S = 3.0
MAX_RSS_MIB = 1.5 * 1024
PATIENCE_S = 120.0
TICK_S = 0.01
STAGES = ("assembled", "interpreted", "entered-ledger", "sent", "committed")
"""Events of a study at which the time is looked at; the last of each kind."""

_ENDED = frozenset({StudyState.COMMITTED, StudyState.DELIVERED, StudyState.KEPT, StudyState.FAILED})


@dataclass(frozen=True, slots=True)
class Turnaround:
    """One study on its way."""

    film: str
    seconds: float  # from the answer to its last C-STORE until everything about it was committed
    stages_s: dict[str, float]  # from that answer until each of STAGES


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured."""

    first: Turnaround
    later: tuple[Turnaround, ...]
    peak_rss_mib: float  # of the node's process, the model in it
    start_s: float  # from the start of the process until it listened

    @property
    def median_s(self) -> float:
        """Median turnaround, the first study left out."""
        return statistics.median(one.seconds for one in self.later)

    @property
    def p95_s(self) -> float:
        """95th percentile of the turnaround, the first study left out; the slowest where there are under 20."""
        ordered = sorted(one.seconds for one in self.later)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, or, in its own child process, the node; return the exit code."""
    options = _parse(argv)
    if options.serve:
        return _serve(options.serve, options.interpreter)
    with _films(options.films) as films, tempfile.TemporaryDirectory(prefix="turnaround-") as folder:
        figures = measure(films, Path(folder), options.interpreter, options.rounds)
    print(report(figures))
    verdicts = judge(figures)
    for sentence, holds in verdicts:
        print(f"{'yes' if holds else 'NO '}  {sentence}")
    if options.json:
        told = {**asdict(figures), "median_s": figures.median_s, "p95_s": figures.p95_s}
        options.json.write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    return 1 if options.strict and not all(holds for _, holds in verdicts) else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="turnaround_benchmark", description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each film is sent, as a new study each time")
    parser.add_argument("--films", type=Path, help="folder of DICOM files to send (default: the shipped samples)")
    parser.add_argument("--interpreter", choices=("engine", "stand-in"), default="engine", help="what reads the films")
    parser.add_argument("--json", type=Path, help="write all measurements here")
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless every requirement holds")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


def measure(films: Sequence[Path], folder: Path, interpreter: str, rounds: int) -> Figures:
    """Start a node and an archive, send every film so often, and take the times.

    Raises
    ------
    RuntimeError
        A study did not come to be committed.
    """
    with Journal().listening(), Archive(folder / "archive") as archive:
        settings = make_settings(folder / "node", {"archive": archive.address})
        began = time.monotonic()
        with _running(settings, folder, interpreter) as (process, port):
            start_s = time.monotonic() - began
            with contextlib.closing(Store(make_engine(settings.database_url))) as store:
                turnarounds = [_turn(store, port, film) for _ in range(rounds) for film in films]
            peak_rss_mib = _peak_rss_mib(process.pid)
    return Figures(turnarounds[0], tuple(turnarounds[1:]), peak_rss_mib, start_s)


def report(figures: Figures) -> str:
    """Return the figures as text."""
    lines = [
        f"{len(figures.later)} studies after the first: median {figures.median_s:.2f} s, p95 {figures.p95_s:.2f} s",
        f"first study {figures.first.seconds:.2f} s, start of the node {figures.start_s:.1f} s",
        f"resident memory of the node at its peak: {figures.peak_rss_mib:.0f} MiB",
        "median time until a study is ...",
    ]
    for stage in STAGES:
        median_s = statistics.median(one.stages_s[stage] for one in figures.later)
        lines.append(f"  {stage:<16}{median_s:>6.2f} s")
    return "\n".join(lines)


def judge(figures: Figures) -> list[tuple[str, bool]]:
    """Return what is required, and whether it holds."""
    return [
        (f"median turnaround is at most {MAX_MEDIAN_S:.0f} s", figures.median_s <= MAX_MEDIAN_S),
        (f"resident memory is at most {MAX_RSS_MIB:.0f} MiB", figures.peak_rss_mib <= MAX_RSS_MIB),
    ]


# One study


def _turn(store: Store, port: int, path: Path) -> Turnaround:
    film = _as_new(path)
    statuses = send(("127.0.0.1", port), [film])
    answered_at = datetime.now(UTC)
    if statuses != [0]:
        raise RuntimeError(f"The node answered {statuses} to {path.name}.")
    study_uid = str(film.StudyInstanceUID)
    state = _wait(store, study_uid)
    if state != StudyState.COMMITTED:
        raise RuntimeError(f"The study of {path.name} is {state}, not committed.")
    committed_at, stages = _times(store, study_uid)
    print(".", end="", file=sys.stderr, flush=True)
    return Turnaround(
        path.stem,
        (committed_at - answered_at).total_seconds(),
        {stage: (at - answered_at).total_seconds() for stage, at in stages.items()},
    )


def _as_new(path: Path) -> FileDataset:
    """Read a film and give it new UIDs, so that each round is a new study."""
    ds = dcmread(path)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = (generate_uid() for _ in range(3))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def _wait(store: Store, study_uid: str) -> str | None:
    """Wait until the study has ended; the rows are another process's, so they are looked at again and again."""
    until = time.monotonic() + PATIENCE_S
    while True:
        with store.reading() as session:
            state = session.scalar(sa.select(Study.state).where(Study.study_instance_uid == study_uid))
        if state in _ENDED or time.monotonic() > until:
            return state
        time.sleep(TICK_S)


def _times(store: Store, study_uid: str) -> tuple[datetime, dict[str, datetime]]:
    """Return when the last object was committed, and the times of STAGES."""
    of_study = Study.study_instance_uid == study_uid
    with store.reading() as session:
        committed = sa.select(sa.func.max(Delivery.committed_at)).join(Revision, Revision.id == Delivery.revision_id)
        committed_at = session.scalar(committed.join(Study, Study.id == Revision.study_id).where(of_study))
        events = sa.select(Event.kind, Event.at).join(Study, Study.id == Event.study_id).where(of_study)
        times = {kind: at for kind, at in session.execute(events.order_by(Event.id))}  # noqa: C416 - rows
    assert committed_at is not None
    return committed_at, {stage: times[stage] for stage in STAGES}


def _peak_rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("The system does not tell how much memory a process has had.")


# The node


@contextlib.contextmanager
def _films(folder: Path | None) -> Iterator[list[Path]]:
    with contextlib.ExitStack() as stack:
        samples = folder or stack.enter_context(as_file(files("dicom_node") / "samples"))
        films = sorted(samples.glob("*.dcm"))
        if len(films) < 2:
            raise SystemExit("There are fewer than two films to send: give a folder with --films.")
        yield films


@contextlib.contextmanager
def _running(settings: Settings, folder: Path, interpreter: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a node in a process of its own until the block ends; gives the process and the port it listens on."""
    path = folder / "settings.json"
    path.write_text(settings.model_dump_json(), "utf-8")
    command = [sys.executable, "-m", "conformance.turnaround_benchmark", "--serve", str(path)]
    with (
        (folder / "node.log").open("wb") as log,
        subprocess.Popen([*command, "--interpreter", interpreter], stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"The node did not start: {(folder / 'node.log').read_text('utf-8')[-2000:]}")
            yield process, int(line)
        finally:
            process.terminate()


def _serve(path: Path, interpreter: str) -> int:
    """Child process: run the node until SIGTERM, having printed its port."""
    from dicom_node import logs
    from dicom_node.node import Node

    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    settings = Settings.model_validate_json(path.read_text("utf-8"))
    logs.configure(settings.log)
    node = Node(settings, _load(interpreter, settings))
    node.start()
    print(node.address[1], flush=True)
    leave.wait()
    node.stop()
    return 0


def _load(interpreter: str, settings: Settings) -> Interpreter:
    if interpreter == "stand-in":
        from conformance.stand_in import StandIn

        return StandIn()
    from inference.engine import Engine

    options = settings.interpret
    return Engine.load(options.method, threads=options.threads, device=options.device)


if __name__ == "__main__":
    sys.exit(main())
