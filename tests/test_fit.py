"""The loop: resume after a kill, seeds, devices, several processes, time limits, TensorBoard's events, run folders.

Not covered: CUDA itself and NCCL (no test machine has them: moving to a device is tested with a stand-in), bfloat16's
speed, accuracy on radiographs.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.overrides import TorchFunctionMode

from training import events, prefetch
from training.errors import RecipeError, RunError, TimeUp
from training.fit import Drops, Schedule, duration, fit, rate_of, read_curve
from training.machine import ALONE, Machine, join
from training.prefetch import Steps, prefetched, seed_of
from training.recipe import DetectorRecipe, Phase, Stretch, open_recipe, read_recipe
from training.run import begin_run, check_run, data_sha256, finish_run, read_about, read_run
from training.summary import write_summary

SCHEDULE = Schedule(epochs=4, steps_per_epoch=3, peak_learning_rate=0.05)

TINY = """
import sys
from pathlib import Path
import torch
from torch import nn
from training.fit import Schedule, fit

def make_net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.2), nn.Linear(3, 1))

def draw(seed):
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(seed))
    return x, x.sum(1, keepdim=True)

def loss_of(net, batch):
    return nn.functional.mse_loss(net(batch[0]), batch[1])
"""
_tiny: dict = {}
exec(TINY, _tiny)  # the child processes below run the same text
make_net, draw, loss_of = (_tiny[name] for name in ("make_net", "draw", "loss_of"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small nets on one thread: two of them wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_epoch(monkeypatch: pytest.MonkeyPatch) -> float:
    """A deadline after the first epoch and before the second, whatever they take."""
    monkeypatch.setattr("training.fit._MARGIN", 1e12)
    return time.monotonic() + 1e6


def run_tiny(folder: Path, **options) -> dict[str, torch.Tensor]:
    return fit(make_net(), draw, loss_of, options.pop("schedule", SCHEDULE), folder, **options).state_dict()


def start_child(code: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Run code after TINY in a process of its own; ``sys.argv[1]`` is the folder."""
    command = [sys.executable, "-c", f"{TINY}\n{code}", str(folder)]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(tmp_path):
    """Given a run stopped in its third epoch, when it is started again, then nothing shows that it was stopped."""
    scores = iter((3.0, 2.0, KeyboardInterrupt()))

    def validate(_):
        score = next(scores)
        if isinstance(score, BaseException):
            raise score
        return score

    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "stopped", validate=validate)
    assert [row["epoch"] for row in read_curve(tmp_path / "stopped")] == [0, 1]
    resumed = run_tiny(tmp_path / "stopped", validate=lambda _: 1.0 - len(read_curve(tmp_path / "stopped")))
    whole = run_tiny(tmp_path / "whole", validate=lambda _: 1.0 - len(read_curve(tmp_path / "whole")))
    assert same(resumed, whole)
    curves = [[row["loss"] for row in read_curve(tmp_path / name)] for name in ("stopped", "whole")]
    assert curves[0] == curves[1]


def test_a_phase_that_does_not_choose_hands_on_its_last_epoch(tmp_path):
    """Given a first epoch that scores best, when the best is chosen it is that one, else it is the last."""

    def rising(_):
        return float(len(read_curve(folder)))

    folder = tmp_path / "chosen"
    chosen = run_tiny(folder, validate=rising)
    folder = tmp_path / "last"
    last = run_tiny(folder, validate=rising, choose=False)
    assert not same(chosen, last)
    assert same(last, run_tiny(tmp_path / "unscored"))


def test_a_killed_process_loses_at_most_one_epoch(tmp_path):
    """Given SIGKILL in the middle of the third epoch, when it is run again, then the first two are kept."""
    child = start_child(
        "import os, signal\n"
        "steps = []\n"
        "def deadly(net, batch):\n"
        "    steps.append(1)\n"
        "    len(steps) == 8 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return loss_of(net, batch)\n"
        "fit(make_net(), draw, deadly, Schedule(4, 3, 0.05), Path(sys.argv[1]))",
        tmp_path,
    )
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    seen = []
    run_tiny(tmp_path, after=lambda done: seen.append(done.epoch))
    assert seen == [2, 3]
    assert [row["epoch"] for row in read_curve(tmp_path)] == [0, 1, 2, 3]


def test_what_a_kill_left_behind_its_checkpoint_is_taken_out_of_the_curve(tmp_path, one_epoch):
    with pytest.raises(TimeUp):
        run_tiny(tmp_path, deadline=one_epoch)
    with (tmp_path / "curve.jsonl").open("a") as curve:
        curve.write(json.dumps({"epoch": 1, "loss": 9.0, "score": None}) + "\n")
    (tmp_path / "checkpoint.part").write_bytes(b"half a checkpoint")
    run_tiny(tmp_path)
    assert [row["epoch"] for row in read_curve(tmp_path)] == [0, 1, 2, 3]
    assert all(row["loss"] != 9.0 for row in read_curve(tmp_path))


def test_draws_differ_from_epoch_to_epoch_and_after_a_resume(tmp_path, one_epoch):
    drawn: list[int] = []

    def watched(seed):
        drawn.append(seed)
        return draw(seed)

    with pytest.raises(TimeUp):
        fit(make_net(), watched, loss_of, SCHEDULE, tmp_path, deadline=one_epoch)
    before = drawn[:3]
    drawn.clear()
    fit(make_net(), watched, loss_of, SCHEDULE, tmp_path)
    assert drawn == [seed_of(2026, 0, step) for step in range(3, 12)]
    assert len({*before, *drawn}) == 12


def test_a_deadline_stops_between_epochs_and_the_next_call_goes_on(tmp_path, one_epoch):
    with pytest.raises(TimeUp, match="epoch 1 of 4"):
        run_tiny(tmp_path, deadline=one_epoch)
    assert len(read_curve(tmp_path)) == 1
    with pytest.raises(TimeUp, match="epoch 1 of 4"):
        run_tiny(tmp_path, deadline=time.monotonic() - 1)
    assert len(read_curve(tmp_path)) == 1
    run_tiny(tmp_path)
    assert len(read_curve(tmp_path)) == 4


class Watch:
    """A clock that goes on by the steps of a training alone, ``step_s`` seconds each."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 1000.0, step_s

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def loss_of(self, net, batch):
        self.now += self.step_s
        return loss_of(net, batch)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    held = Watch(1.0)
    monkeypatch.setattr("training.fit.time", held)
    return held


LONG = Schedule(epochs=4, steps_per_epoch=30, peak_learning_rate=0.05, warm_up=0.4)


def fit_within(watch: Watch, folder: Path, seconds: float, **options) -> dict[str, torch.Tensor]:
    end = watch.now + seconds
    options = {"schedule": LONG, "deadline": end, "end_by": end} | options
    schedule = options.pop("schedule")
    return fit(make_net(), draw, watch.loss_of, schedule, folder, **options).state_dict()


def test_epochs_are_shortened_so_that_the_last_ends_in_time(tmp_path, watch):
    """Given half the time that a run takes, then it ends within it, and every epoch at a whole run's rate."""
    run_tiny(tmp_path / "whole", schedule=LONG)
    begun = watch.now
    fit_within(watch, tmp_path / "short", 60)
    assert 55 < watch.now - begun <= 60
    whole, short = (read_curve(tmp_path / name) for name in ("whole", "short"))
    assert [row["steps"] for row in whole] == [30] * 4
    assert [row["steps"] for row in short] == [30, 9, 10, 10]
    for one, other in zip(whole, short, strict=True):
        assert other["learning_rate"] == pytest.approx(one["learning_rate"], rel=1e-9)
    assert short[-1]["learning_rate"] < 1e-5 * LONG.peak_learning_rate


def test_a_run_that_keeps_its_pace_is_not_shortened(tmp_path, watch):
    """Given time enough, then every epoch is whole, and the weights are those of a run that nothing shortens."""
    given = fit_within(watch, tmp_path / "given", 200)
    assert same(given, run_tiny(tmp_path / "free", schedule=LONG))


def test_others_that_come_and_go_are_made_room_for(tmp_path, watch):
    """Given steps that take twice as long in the second epoch alone, then the last one has more of them again."""

    def busy(done):
        watch.step_s = 2.0 if done.epoch == 0 else 1.0

    begun = watch.now
    fit_within(watch, tmp_path, 100, after=busy)
    assert watch.now - begun <= 100
    assert [row["steps"] for row in read_curve(tmp_path)] == [30, 22, 6, 19]


def test_a_shortened_run_goes_on_as_if_it_had_not_stopped(tmp_path, watch):
    """Given a kill after the second epoch, when it goes on within the time left, then weights are the same."""
    whole = fit_within(watch, tmp_path / "whole", 60)

    def killed(done):
        if done.epoch == 1:
            raise KeyboardInterrupt

    begun = watch.now
    with pytest.raises(KeyboardInterrupt):
        fit_within(watch, tmp_path / "killed", 60, after=killed)
    assert same(fit_within(watch, tmp_path / "killed", 60 - (watch.now - begun)), whole)


def test_a_rate_in_steps_keeps_its_drops_where_epochs_are_shortened(tmp_path, watch):
    """Given a rate that drops after half of the steps, then it drops after half of a shortened run's epochs."""
    steps = replace(LONG, drops=Drops(steps=(60,), factor=0.1))
    fit_within(watch, tmp_path, 60, schedule=steps)
    rates = [row["learning_rate"] for row in read_curve(tmp_path)]
    assert rates == pytest.approx([0.05, 0.005, 0.005, 0.005])


def test_no_epoch_is_begun_that_ends_too_late_though_it_has_one_step(tmp_path, watch):
    watch.step_s = 10.0
    with pytest.raises(TimeUp, match="after epoch 1 of 4"):
        fit_within(watch, tmp_path, 305)
    assert watch.now == 1300


def test_a_folder_with_another_net_is_refused(tmp_path):
    """Given a checkpoint whose run.json is lost, then weights of other shapes are no traceback."""
    run_tiny(tmp_path)
    with pytest.raises(RunError, match="weights of another net"):
        fit(torch.nn.Linear(2, 1), draw, loss_of, SCHEDULE, tmp_path)


def test_a_folder_with_another_schedule_is_refused(tmp_path):
    run_tiny(tmp_path)
    with pytest.raises(RunError, match="another schedule"):
        run_tiny(tmp_path, schedule=Schedule(5, 3, 0.05))


STEPS = replace(SCHEDULE, optimiser="sgd", momentum=0.9, drops=Drops((4, 7), 0.1, warm_up=2, begin=0.5), clip=0.0)


@pytest.mark.parametrize(
    "other",
    [
        replace(STEPS, momentum=0.8),
        replace(STEPS, drops=Drops((4, 8), 0.1, warm_up=2, begin=0.5)),
        replace(STEPS, drops=None),
        replace(STEPS, clip=5.0),
        replace(STEPS, patience=3),
    ],
)
def test_a_schedule_is_another_when_any_part_of_it_is(tmp_path, other):
    run_tiny(tmp_path, schedule=STEPS)
    run_tiny(tmp_path, schedule=STEPS)
    with pytest.raises(RunError, match="another schedule"):
        run_tiny(tmp_path, schedule=other)


def test_a_rate_in_steps_rises_and_falls_where_it_is_told(tmp_path):
    """Given a rise from half the peak in 2 steps and tenths from steps 4 and 7 on, then a run of 12 steps has these."""
    assert STEPS.drops is not None
    shares = [0.5, 0.75, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]
    assert [STEPS.drops.share(step) for step in range(9)] == pytest.approx(shares)
    run_tiny(tmp_path, schedule=STEPS)
    rates = [row["learning_rate"] for row in read_curve(tmp_path)]
    assert rates == pytest.approx([0.05, 0.005, 0.0005, 0.0005]), "of the step that follows each epoch"


def test_a_run_in_steps_is_resumed_as_if_it_had_not_stopped(tmp_path, one_epoch):
    with pytest.raises(TimeUp):
        run_tiny(tmp_path / "stopped", schedule=STEPS, deadline=one_epoch)
    resumed, whole = (run_tiny(tmp_path / name, schedule=STEPS) for name in ("stopped", "whole"))
    assert same(resumed, whole)


def one_weight(folder: Path, schedule: Schedule) -> float:
    """Train a weight that starts at 1 with a loss whose slope is always 3."""
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(net.weight)
    ones = torch.ones(1, 1)
    return fit(net, lambda _: (ones,), lambda forward, b: 3 * forward(b[0]).sum(), schedule, folder).weight.item()


def test_optimisers_step_as_their_papers_say(tmp_path):
    """Given two steps at a rate of 0.1 down a slope of 3, then by hand: SGD, momentum, a short slope, Adam, decays."""
    plain = Schedule(1, 2, 0.1, weight_decay=0.0, averaging=0.0, optimiser="sgd", drops=Drops((), 1.0), clip=0.0)
    assert one_weight(tmp_path / "sgd", plain) == pytest.approx(1 - 0.3 - 0.3)
    assert one_weight(tmp_path / "momentum", replace(plain, momentum=0.9)) == pytest.approx(1 - 0.3 - 0.3 * 1.9)
    assert one_weight(tmp_path / "clip", replace(plain, clip=1.0)) == pytest.approx(1 - 0.1 - 0.1, abs=1e-5)
    assert one_weight(tmp_path / "adam", replace(plain, optimiser="adam")) == pytest.approx(1 - 0.1 - 0.1, abs=1e-5)
    decayed = replace(plain, optimiser="adam", weight_decay=9.0)
    assert one_weight(tmp_path / "l2", decayed) == pytest.approx(0.8, abs=0.01), "Adam's decay is part of the slope,"
    decoupled = one_weight(tmp_path / "w", replace(decayed, optimiser="adamw"))
    assert decoupled == pytest.approx((1 * 0.1 - 0.1) * 0.1 - 0.1, abs=1e-5), "AdamW's shrinks the weight beside it"


def test_a_cycle_ends_where_it_is_told(tmp_path):
    """Given a cycle of 12 steps, then it begins at a 25th of the peak and ends at a tenth, or without a word near 0."""
    for name, end in (("told", 0.1), ("not", None)):
        schedule = replace(SCHEDULE, warm_up=0.25, end_share=end)
        run_tiny(tmp_path / name, schedule=schedule)
        last = read_curve(tmp_path / name)[-1]["learning_rate"]
        assert last == pytest.approx(0.05 * (4e-6 if end is None else end))


def test_a_cycle_leaves_sgd_the_momentum_of_its_schedule(tmp_path):
    run_tiny(tmp_path, schedule=replace(STEPS, drops=None))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["optimiser"]["param_groups"][0]["momentum"] == 0.9


def test_a_run_without_progress_ends_when_its_patience_does(tmp_path):
    """Given scores that are best in the second of eight epochs and a patience of 2, then the fourth is the last."""
    schedule = replace(SCHEDULE, epochs=8, patience=2)
    scores = iter((5.0, 3.0, 4.0, 3.0))
    chosen = run_tiny(tmp_path / "a", schedule=schedule, validate=lambda _: next(scores))
    assert [row["score"] for row in read_curve(tmp_path / "a")] == [5.0, 3.0, 4.0, 3.0]
    again = run_tiny(tmp_path / "a", schedule=schedule, validate=lambda _: next(scores))
    assert len(read_curve(tmp_path / "a")) == 4, "the same command does not go on"
    assert same(chosen, again)
    run_tiny(tmp_path / "b", schedule=schedule, validate=lambda _: -float(len(read_curve(tmp_path / "b"))))
    assert len(read_curve(tmp_path / "b")) == 8


STRETCH = {"batch": 8, "epochs": 40, "steps_per_epoch": 10, "peak_learning_rate": 0.002}


def test_a_recipe_names_the_steps_of_its_rate_in_epochs_or_batches():
    def drops(**keys) -> Drops | None:
        return Stretch(**STRETCH, rate={"factor": 0.1, **keys}).schedule(half_precision=False).drops

    assert drops(every_epochs=15) == Drops((150, 300), 0.1)
    assert drops(every_epochs=20) == Drops((200,), 0.1), "a drop after the last epoch is none"
    assert drops(at_epochs=(5, 7)) == Drops((50, 70), 0.1)
    assert drops(at_steps=(33, 44)) == Drops((33, 44), 0.1)
    assert drops(at_steps=(33,), warm_up_epochs=3, warm_up_from=0.001) == Drops((33,), 0.1, 30, 0.5)
    constant = Stretch(**STRETCH, rate="constant").schedule(half_precision=False).drops
    assert constant is not None
    assert [constant.share(step) for step in (0, 399)] == [1.0, 1.0]
    assert Stretch(**STRETCH).schedule(half_precision=False) == Schedule(40, 10, 0.002)
    phase = Phase(**STRETCH, name="one", sharp_share=1.0, patience=7)
    assert phase.schedule(half_precision=True) == Schedule(40, 10, 0.002, half_precision=True, patience=7)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"optimiser": "adam", "momentum": 0.9}, "adam takes no momentum"),
        ({"rate": {"factor": 0.1}}, "one of every_epochs"),
        ({"rate": {"factor": 0.1, "every_epochs": 3, "at_epochs": (1,)}}, "one of every_epochs"),
        ({"rate": "steps"}, "one-cycle"),
        ({"rate": "constant", "end_learning_rate": 1e-3}, "only one cycle"),
        ({"optimiser": "lion"}, "adamw"),
        ({"patience": 3}, "patience"),
    ],
)
def test_a_stretch_that_contradicts_itself_is_refused(keys, words):
    with pytest.raises(ValidationError, match=words):
        Stretch(**STRETCH, **keys)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_epoch_before(tmp_path):
    calls = []

    def broken(net, batch):
        calls.append(1)
        return loss_of(net, batch) * (float("nan") if len(calls) == 5 else 1)

    with pytest.raises(RunError, match="no number any more in epoch 2"):
        fit(make_net(), draw, broken, SCHEDULE, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 0


def test_a_checkpoint_of_before_is_still_read(tmp_path, one_epoch):
    """Given the keys that checkpoints have had from the first version on, then a run goes on from them."""
    with pytest.raises(TimeUp):
        run_tiny(tmp_path, deadline=one_epoch, validate=lambda _: 1.0)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(state) == {"schedule", "epoch", "net", "average", "optimiser", "cycle", "best", "taken"}
    del state["taken"]  # it came later
    first = ("epochs", "steps_per_epoch", "peak_learning_rate", "weight_decay", "averaging", "warm_up")
    state["schedule"] = {key: state["schedule"][key] for key in first}  # the others had defaults when they came
    torch.save(state, tmp_path / "checkpoint.pt")
    (tmp_path / "curve.jsonl").write_text('{"epoch": 0, "loss": 1.0, "seconds": 1.0, "score": 1.0}\n')
    run_tiny(tmp_path, validate=lambda _: 1.0)
    assert len(read_curve(tmp_path)) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_whoever_makes_them(workers):
    with prefetched(Steps(draw, 1, 0), range(2, 9), workers) as batches:
        made = [batch[0] for batch in batches]
    assert len(made) == 7
    assert all(torch.equal(x, draw(seed_of(1, 0, step))[0]) for step, x in enumerate(made, 2))


def test_what_goes_wrong_while_a_batch_is_made_is_raised_in_the_loop(tmp_path):
    def broken(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(make_net(), broken, loss_of, SCHEDULE, tmp_path)


def test_the_thread_ends_with_the_loop():
    with prefetched(Steps(draw, 1, 0), range(10**6)) as batches:
        next(batches)
        names = [thread.name for thread in prefetch.threading.enumerate()]
        assert "batches" in names
    assert "batches" not in [thread.name for thread in prefetch.threading.enumerate()]


class StandIn(TorchFunctionMode):
    """Takes the place of a CUDA device: what is moved there stays where it is, and is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: set[tuple[int, ...]] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch._C._nn._parse_to:  # Module.to reads its arguments with it
            return func(*args, **(kwargs or {}))
        device = next((a for a in (*args, *(kwargs or {}).values()) if isinstance(a, torch.device)), None)
        if device is not None and device.type == "cuda":
            args = tuple(torch.device("cpu") if isinstance(a, torch.device) else a for a in args)
            kwargs = {k: torch.device("cpu") if isinstance(v, torch.device) else v for k, v in (kwargs or {}).items()}
            if isinstance(args[0] if args else None, torch.Tensor):
                self.moved.add(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def test_net_and_batches_go_to_the_device(tmp_path):
    with StandIn() as stand_in:
        run_tiny(tmp_path, machine=Machine(torch.device("cuda")))
    batch, weights = draw(0), make_net()
    assert {tuple(t.shape) for t in batch} <= stand_in.moved
    assert {tuple(p.shape) for p in weights.parameters()} <= stand_in.moved


def test_half_precision_keeps_weights_and_loss_in_float32(tmp_path):
    seen = []

    def watched(net, batch):
        predicted = net(batch[0])
        seen.append(predicted.dtype)
        return torch.nn.functional.mse_loss(predicted, batch[1])

    schedule = Schedule(1, 1, 0.01, half_precision=True)
    net = fit(make_net(), draw, watched, schedule, tmp_path)
    assert seen == [torch.float32]
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="no CUDA device"), join("cuda"):
        pass
    with join("auto") as machine:
        assert machine == ALONE


def test_repeatable_operations_are_asked_for_while_a_run_lasts(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with join("cpu", deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_memory_that_a_step_frees_is_kept_for_the_next(tmp_path):
    """In a process of its own, since what is asked of the C library stays so."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library than glibc")
    script = tmp_path / "use.py"
    script.write_text(USE)
    taken = [
        int(subprocess.run([sys.executable, str(script), *kept], check=True, capture_output=True, text=True).stdout)
        for kept in ((), ("kept",))
    ]
    assert taken[0] > 100_000
    assert taken[1] < 1_000


def test_a_batch_is_shared_evenly_or_refused():
    assert Machine(torch.device("cpu"), 1, 4).share(32) == 8
    with pytest.raises(RunError, match="6 films cannot be shared by 4"):
        Machine(torch.device("cpu"), 1, 4).share(6)


USE = """
import resource, sys
import torch
from training.machine import join

def use():
    for _ in range(10):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt  # pages that the system had to clear

if sys.argv[1:]:
    with join("cpu"):
        before = use()
else:
    before = use()
print(use() - before)
"""

TOGETHER = """
import training.fit
from training.errors import TimeUp
from training.machine import join
training.fit._MARGIN = 1e12  # one epoch
with join("cpu") as machine:
    wrote = []
    options = dict(machine=machine, after=lambda done: wrote.append(done.epoch), validate=lambda net: 1.0)
    folder = Path(sys.argv[1])
    try:
        fit(make_net(), draw, loss_of, Schedule(2, 3, 0.05), folder, deadline=1e9 if machine.leads else None, **options)
    except TimeUp:
        pass
    net = make_net()
    fit(net, draw, loss_of, Schedule(2, 3, 0.05), folder, **options)
    print(machine.rank, machine.processes, wrote, [round(p.sum().item(), 6) for p in net.parameters()])
"""


def test_two_processes_train_one_net_and_resume(tmp_path):
    """Given two processes as torchrun starts them, when the leading one's time is up after the first epoch and both go
    on, then both hold the same weights, only one wrote, and the gradients were those of both.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [start_child(TOGETHER, tmp_path, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")]
    answers = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0, 0], answers
    (lead, other) = (out.splitlines()[-1].split(" ", 2) for out, _ in answers)
    assert (lead[:2], other[:2]) == (["0", "2"], ["1", "2"])
    assert lead[2].startswith("[0, 1] ")
    assert other[2].startswith("[] ")
    assert lead[2].removeprefix("[0, 1] ") == other[2].removeprefix("[] ")
    alone = make_net()
    fit(alone, draw, loss_of, Schedule(2, 3, 0.05), tmp_path / "alone")
    assert str([round(p.sum().item(), 6) for p in alone.parameters()]) != other[2].removeprefix("[] ")
    assert [row["epoch"] for row in read_curve(tmp_path)] == [0, 1]


def read_events(path: Path) -> list[bytes]:
    """Return the events of a file whose checksums are right."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == events.masked_crc(content[:8])
        event = content[12 : 12 + length]
        assert struct.unpack("<I", content[12 + length : 16 + length])[0] == events.masked_crc(event)
        found.append(event)
        content = content[16 + length :]
    return found


def test_the_checksum_is_that_of_the_standard():
    """CRC-32C of 32 zero bytes, RFC 3720 B.4, unmasked."""
    masked = events.masked_crc(bytes(32)) - 0xA282EAD8 & 0xFFFFFFFF
    assert (masked << 15 | masked >> 17) & 0xFFFFFFFF == 0x8A9136AA


def test_tensorboard_gets_every_epoch_once(tmp_path, one_epoch):
    """The bytes of one event were read back by tensorboard 2.21 when this was written."""
    with pytest.raises(TimeUp):
        run_tiny(tmp_path, deadline=one_epoch)
    run_tiny(tmp_path, validate=lambda _: 2.5)
    head, *rest = read_events(tmp_path / events.NAME)
    assert head.endswith(b"brain.Event:2")
    assert len(rest) == 4
    assert b"validation score" not in rest[0]
    assert b"validation score\x15" + struct.pack("<f", 2.5) in rest[3]


def test_a_run_says_how_it_was_made_and_refuses_other_data(tmp_path):
    about = {"target": "house", "seed": 1, "recipe": {"a": 1}, "data_sha256": "x"}
    begin_run(tmp_path, about)
    begin_run(tmp_path, about)
    written = read_about(tmp_path)
    assert len(written["starts"]) == 2
    assert {"revision", "versions", "data_sha256"} <= set(written)
    assert written["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    with pytest.raises(RunError, match="another data_sha256"):
        begin_run(tmp_path, about | {"data_sha256": "y"})


def test_a_copy_of_the_sources_is_told_their_revision(tmp_path, monkeypatch, caplog):
    """Given sources without history, then the environment says the revision, or it is unknown and that is said."""
    monkeypatch.setattr("training.run.subprocess.run", lambda *_, **__: (_ for _ in ()).throw(OSError))
    monkeypatch.delenv("BONEAGE_NODE_REVISION", raising=False)
    begin_run(tmp_path, {"target": "house", "seed": 1, "recipe": {}})
    assert read_about(tmp_path)["revision"] == "unknown"
    assert "BONEAGE_NODE_REVISION" in caplog.text
    monkeypatch.setenv("BONEAGE_NODE_REVISION", "1a2b3c4")
    begin_run(tmp_path, {"target": "house", "seed": 1, "recipe": {}})
    about = read_about(tmp_path)
    assert (about["revision"], about["starts"][1]["revision"]) == ("1a2b3c4", "1a2b3c4")


ABOUT = {"target": "house", "seed": 1, "data_sha256": "x", "half_precision": False, "init": None, "imagenet": None}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"half_precision": True}, "another half_precision"),
        ({"init": "shipped"}, "another init"),
        ({"imagenet": "lite0.pth"}, "another imagenet"),
        ({"recipe": {"method": {"rows": 64}, "phases": [{"epochs": 5}]}}, r"recipe \(phases.0.epochs: 2, now 5\)"),
        ({"recipe": {"method": {"rows": 96}, "phases": [{"epochs": 2}]}}, r"recipe \(method.rows: 64, now 96\)"),
        ({"recipe": {"method": {"rows": 64}, "phases": []}}, "recipe"),
    ],
)
def test_a_run_with_other_settings_is_refused_and_its_own_are_kept(tmp_path, other, words):
    about = ABOUT | {"recipe": {"method": {"rows": 64}, "phases": [{"epochs": 2}]}}
    begin_run(tmp_path, about)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunError, match=words):
        begin_run(tmp_path, about | other)
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_recipe_of_before_is_the_same_without_the_keys_that_came_since(tmp_path):
    """Given run.json as the version before phases had optimisers wrote it, then the same recipe of today goes on."""
    today = read_recipe("house").model_dump(mode="json")
    first = {"batch", "epochs", "steps_per_epoch", "peak_learning_rate", "weight_decay", "averaging", "warm_up"}
    phase = first | {"name", "method", "sharp_share", "balance"}
    old = {key: today[key] for key in ("target", "loss", "method", "choose_epoch")}
    old["phases"] = [{key: one[key] for key in phase} for one in today["phases"]]
    assert old != today
    begin_run(tmp_path, ABOUT | {"recipe": old})
    begin_run(tmp_path, ABOUT | {"recipe": today})
    assert len(read_about(tmp_path)["starts"]) == 2
    changed = today | {"label_softness_months": 1.0}
    with pytest.raises(RunError, match=r"label_softness_months: 3\.0, now 1\.0"):
        begin_run(tmp_path, ABOUT | {"recipe": changed})


@pytest.mark.parametrize("steps", [1, 3, 9])
def test_one_cycle_runs_whatever_share_of_its_steps_it_rises_in(tmp_path, steps):
    """Given rises of one step, of less and of more, then training runs to the end of the cycle."""
    shares = (rise / (steps + 1) for rise in (0.5, 1 - 1e-9, 1, 1 + 1e-9, 1.5, 2) if rise < steps + 1)
    for place, warm_up in enumerate((*shares, 0.1)):
        run_tiny(tmp_path / str(place), schedule=replace(SCHEDULE, epochs=steps, steps_per_epoch=1, warm_up=warm_up))
        rates = [row["learning_rate"] for row in read_curve(tmp_path / str(place))]
        assert len(rates) == steps
        assert max(rates) <= SCHEDULE.peak_learning_rate
        assert rates[-1] < 1e-6


def test_a_rate_is_measured_over_more_steps_than_the_schedule_has():
    steps: list[int] = []

    def counted(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        steps.append(seed)
        return draw(seed)

    schedule = replace(SCHEDULE, epochs=1, steps_per_epoch=2)
    assert rate_of(make_net(), counted, loss_of, schedule, skipped=20, seconds=0.01) > 0
    assert len(steps) > 20


def tear(path: Path) -> None:
    """Leave half of a file, as a power cut may."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_torn_last_line_of_the_curve_is_left_out(tmp_path, one_epoch):
    with pytest.raises(TimeUp):
        run_tiny(tmp_path, deadline=one_epoch)
    (line,) = (tmp_path / "curve.jsonl").read_text().splitlines()
    (tmp_path / "curve.jsonl").write_text(f"{line}\n{line[:20]}")
    assert [row["epoch"] for row in read_curve(tmp_path)] == [0]
    run_tiny(tmp_path)
    assert [row["epoch"] for row in read_curve(tmp_path)] == [0, 1, 2, 3]
    (tmp_path / "curve.jsonl").write_text(f"{line[:20]}\n{line}\n")
    with pytest.raises(RunError, match=r"curve\.jsonl is torn in line 1"):
        read_curve(tmp_path)


def test_a_torn_checkpoint_costs_an_epoch_and_no_more(tmp_path, caplog):
    """Given a whole run whose last checkpoint is torn or gone, then the epoch before goes on to the same weights."""
    whole, seen = run_tiny(tmp_path), []
    for times, hurt in enumerate((tear, Path.unlink), 1):
        hurt(tmp_path / "checkpoint.pt")
        again = run_tiny(tmp_path, after=lambda done: seen.append(done.epoch))
        assert seen == [3] * times
        assert same(again, whole)
        assert [row["epoch"] for row in read_curve(tmp_path)] == [0, 1, 2, 3]
    assert caplog.text.count("checkpoint.pt is torn") == 2


@pytest.mark.parametrize("writing", ["_extend_curve", "save_state"], ids=["curve", "checkpoint"])
def test_a_kill_between_checkpoint_and_curve_leaves_no_gap(tmp_path, one_epoch, monkeypatch, writing):
    """Given a kill just before either is written, then the run goes on and its curve has every epoch, once."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(TimeUp):
        run_tiny(tmp_path, deadline=one_epoch)
    with monkeypatch.context() as short:
        short.setattr(f"training.fit.{writing}", killed)
        with pytest.raises(KeyboardInterrupt):
            run_tiny(tmp_path)
    run_tiny(tmp_path)
    assert [row["epoch"] for row in read_curve(tmp_path)] == [0, 1, 2, 3]


def test_what_is_torn_beyond_repair_is_named(tmp_path):
    run_tiny(tmp_path, schedule=replace(SCHEDULE, epochs=1))
    tear(tmp_path / "checkpoint.pt")
    for read in (read_run, lambda folder: run_tiny(folder, schedule=replace(SCHEDULE, epochs=1))):
        with pytest.raises(RunError, match=r"checkpoint\.pt is torn.*delete it and train again"):
            read(tmp_path)
    begin_run(tmp_path, ABOUT | {"recipe": {}})
    tear(tmp_path / "run.json")
    with pytest.raises(RunError, match=r"run\.json is torn; delete it"):
        begin_run(tmp_path, ABOUT | {"recipe": {}})
    finish_run(tmp_path, make_net())
    tear(tmp_path / "final.pt")
    with pytest.raises(RunError, match=r"final\.pt is torn"):
        read_run(tmp_path)


def test_a_kill_while_run_json_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    begin_run(tmp_path, ABOUT | {"recipe": {}})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.storage.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        begin_run(tmp_path, ABOUT | {"recipe": {}})
    assert len(read_about(tmp_path)["starts"]) == 1


def test_a_full_disk_ends_a_run_in_words_and_keeps_the_checkpoint(tmp_path, one_epoch, monkeypatch):
    """Given a disk that fills up in the second epoch, then that is said, no part stays, and the run goes on later."""
    with pytest.raises(TimeUp):
        run_tiny(tmp_path, deadline=one_epoch)

    def full(_, path: Path) -> None:
        path.write_bytes(b"as far as it went")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    with monkeypatch.context() as filled:
        filled.setattr("training.storage.torch.save", full)
        with pytest.raises(RunError, match=r"checkpoint\.pt cannot be written \(is its disk full\?\); make room"):
            run_tiny(tmp_path)
    assert not list(tmp_path.glob("*.part"))
    run_tiny(tmp_path)
    assert [row["epoch"] for row in read_curve(tmp_path)] == [0, 1, 2, 3]


def test_a_curve_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / events.NAME).mkdir()
    with pytest.raises(RunError, match=r"cannot be written \(Is a directory\)"):
        run_tiny(tmp_path)


def test_a_run_where_no_folder_can_be_is_refused_before_it_begins(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for run in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match="file is a file; name a folder"):
            check_run(run, ABOUT)
    monkeypatch.setattr("training.storage.os.access", lambda *_: False)
    with pytest.raises(RunError, match="may not be written to; name another place"):
        check_run(tmp_path / "new" / "run", ABOUT)


def test_the_run_of_an_older_version_is_resumed(tmp_path):
    (tmp_path / "run.json").write_text('{"target": "house", "seed": 1, "half_precision": false}')
    begin_run(tmp_path, {"target": "house", "seed": 1, "recipe": {}, "data_sha256": "x"})
    assert read_about(tmp_path)["data_sha256"] == "x"


def test_the_datas_hash_knows_pixels_and_readings_and_no_order():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    films = [(b"1 120.0 M", image), (b"2 60.0 F", image)]
    assert data_sha256(films) == data_sha256(films[::-1])
    assert data_sha256(films) != data_sha256([(b"1 121.0 M", image), films[1]])
    assert data_sha256(films) != data_sha256([(b"1 120.0 M", image + np.uint8(1)), films[1]])
    assert data_sha256(films) != data_sha256([(b"1 120.0 M", image.T), films[1]])


def test_finished_weights_are_read_back(tmp_path):
    net = make_net()
    finish_run(tmp_path, net)
    assert same(read_run(tmp_path), net.state_dict())


def test_a_run_that_was_copied_in_any_order_has_the_weights_of_its_last_phase(tmp_path):
    """Given files with the times of a copy, the first phase's the newest, then the last phase's weights count."""
    phases = [{"name": "one", "epochs": 1}, {"name": "another", "epochs": 2}]
    begin_run(tmp_path, ABOUT | {"recipe": {"phases": phases}})
    run_tiny(tmp_path / "one", schedule=replace(SCHEDULE, epochs=1))
    last = run_tiny(tmp_path / "another", schedule=replace(SCHEDULE, epochs=2))
    for place, name in enumerate(("another", "one")):
        for path in (tmp_path / name).iterdir():
            os.utime(path, (2e9 + place, 2e9 + place))
    assert same(read_run(tmp_path), last)


RECIPE = {
    "target": "house",
    "method": {"rows": 96},
    "phases": [{"name": "one", "epochs": 4, "batch": 8}, {"name": "two", "epochs": 2, "batch": 4}],
}


def test_the_summary_says_how_far_a_run_is_and_how_it_was_made(tmp_path):
    """Given a run of two phases in its first, then its page has both curves and the best epoch; it loads nothing."""
    begin_run(tmp_path, {"target": "house", "seed": 7, "recipe": RECIPE, "data_sha256": "abc123"})
    write_summary(tmp_path)
    scores = iter((9.0, 7.25, 8.0, 8.5))
    run_tiny(tmp_path / "one", validate=lambda _: next(scores), after=lambda _: write_summary(tmp_path))
    text = (tmp_path / "summary.html").read_text()
    for words in ("4 of 6", "7.25", "epoch 2", "not finished", "abc123", "Research use only", "one: training loss"):
        assert words in text, words
    assert text.count("<svg") == 2
    assert not re.search(r"<script|src=|href=|@import", text)
    finish_run(tmp_path, make_net())
    write_summary(tmp_path)
    assert "not finished" not in (tmp_path / "summary.html").read_text()


def test_a_curve_of_one_epoch_is_seen(tmp_path):
    """Given one epoch, through which no line goes, then loss and score have a dot each."""
    begin_run(tmp_path, {"target": "house", "seed": 7, "recipe": RECIPE})
    (tmp_path / "one").mkdir()
    row = {"epoch": 0, "loss": 5.2, "score": 6.5, "seconds": 1.0}
    (tmp_path / "one" / "curve.jsonl").write_text(json.dumps(row) + "\n")
    write_summary(tmp_path)
    loss, score = re.findall(r"<title>one: .*?</svg>", (tmp_path / "summary.html").read_text(), re.DOTALL)
    assert (loss.count("<circle"), score.count("<circle")) == (1, 1)


def test_a_curve_that_is_all_but_flat_has_ticks_that_fit_and_whole_epochs(tmp_path):
    """Given scores thousandths apart, resumed once, then no tick has over five digits and none is half an epoch."""
    about = {"target": "house", "seed": 7, "recipe": RECIPE}
    begin_run(tmp_path, about)
    begin_run(tmp_path, about)
    scores = iter((54.324, 54.325, 54.326, 54.3265))
    run_tiny(tmp_path / "one", validate=lambda _: next(scores), after=lambda _: write_summary(tmp_path))
    text = (tmp_path / "summary.html").read_text()
    assert ", resumed once." in text
    curve = text[text.index("<title>one: validation MAE") :]
    numbers = re.findall(r'text-anchor="(\w+)">([\d.]+)</text>', curve)
    assert max(len(number) for anchor, number in numbers if anchor == "end") <= 5
    assert [number for anchor, number in numbers if anchor == "middle"] == ["0", "1", "2", "3", "4"]


def test_the_detectors_recipes_are_read_and_are_no_age_methods():
    landmarks = open_recipe("landmarks")
    assert isinstance(landmarks, DetectorRecipe)
    assert (landmarks.batch, landmarks.epochs, landmarks.averaging) == (16, 24, 0.99)
    finder = open_recipe("finder")
    assert isinstance(finder, DetectorRecipe)
    assert finder.schedule(half_precision=False) == Schedule(30, 100, 3e-3)
    with pytest.raises(RecipeError, match="trains the detector"):
        read_recipe("finder")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_how_far_an_epoch_is_and_a_log_is_not(tmp_path, monkeypatch):
    """Given a second a step, then a terminal shows the step and the time left, and the line is cleared at the end."""
    clock = iter(range(10**6))
    monkeypatch.setattr("training.fit.time.monotonic", lambda: float(next(clock)))
    schedule = Schedule(epochs=1, steps_per_epoch=3, peak_learning_rate=0.05)
    for shown, screen in ((True, Terminal()), (False, io.StringIO())):
        monkeypatch.setattr(sys, "stderr", screen)
        run_tiny(tmp_path / str(shown), schedule=schedule)
        written = screen.getvalue()
        assert ("epoch 1/1 step 2/3 loss" in written) is shown
        assert ("1 s left" in written) is shown
        assert not written or written.endswith("\r\x1b[K")


def test_a_log_is_told_every_half_minute_how_far_an_epoch_is(tmp_path, monkeypatch, caplog):
    """Given 20 s a step and no terminal, then every second step is logged, and a quick epoch only at its end."""
    caplog.set_level("INFO", logger="training.fit")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    schedule = Schedule(epochs=1, steps_per_epoch=5, peak_learning_rate=0.05)
    for step_s, told in ((20.0, ["2/5", "4/5"]), (5.0, [])):
        clock = count(0.0, step_s)
        monkeypatch.setattr("training.fit.time.monotonic", lambda clock=clock: next(clock))
        caplog.clear()
        run_tiny(tmp_path / str(step_s), schedule=schedule)
        assert re.findall(r"epoch 1/1 step (\d/5) loss [\d.]+, \d+ s left", caplog.text) == told


@pytest.mark.parametrize(("seconds", "words"), [(45, "45 s"), (720, "12 min"), (12000, "3 h 20 min")])
def test_times_are_for_people(seconds, words):
    assert duration(seconds) == words
