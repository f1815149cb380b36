"""The loop all nets of this package train in: optimiser, rate, weight averaging, checkpoints, resume, progress.

Every step's batch is drawn from a seed of its own, made of the run's seed, the process's rank and the step's number. So
a resumed run goes on with the draws it would have had, however many workers make the batches.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from training import events
from training.errors import RunError, TimeUp
from training.machine import ALONE, Machine
from training.prefetch import Batch, Draw, Steps, prefetched, seed_of
from training.storage import load_state, make_folder, save_state, write_text, writing

_log = logging.getLogger(__name__)

Loss = Callable[[Callable[..., Any], Any], Tensor]
"""Gives the loss of one batch; calls the net it is given, once."""

CURVE, CHECKPOINT = "curve.jsonl", "checkpoint.pt"
BEFORE = "checkpoint.before.pt"
"""The checkpoint of the epoch before, for a disk that lost the last one."""
_BEGIN = 25.0
"""One cycle begins at the peak learning rate divided by this."""
_ENDLESS = 1 << 30
"""Steps, of which as many are made as are taken."""
_MARGIN = 1.1
"""An epoch may take this much longer than the longest one so far."""
CAUTION = 0.96
"""Of the time left, so much is planned with."""
_TERMINAL_S, _LOG_S = 0.5, 30.0
"""So much time lies between two words on how far an epoch is, at least."""


Optimiser = Literal["adamw", "adam", "sgd"]


@dataclass(frozen=True, slots=True)
class Drops:
    """A learning rate that is multiplied by ``factor`` after each of ``steps``; before, it may rise linearly."""

    steps: tuple[int, ...]
    factor: float
    warm_up: int = 0  # steps in which it rises to the peak
    begin: float = 1.0  # share of the peak that it rises from

    def share(self, step: int) -> float:
        """Return the share of the peak learning rate at a step, counted from 0."""
        risen = min(1.0, step / self.warm_up) if self.warm_up else 1.0
        return (self.begin + (1 - self.begin) * risen) * self.factor ** sum(step >= drop for drop in self.steps)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train. ``epochs`` of ``steps_per_epoch`` batches each."""

    epochs: int
    steps_per_epoch: int
    peak_learning_rate: float
    weight_decay: float = 1e-4
    averaging: float = 0.998  # decay of the exponential moving average of the weights, per step
    warm_up: float = 0.15  # share of the steps of one cycle in which the learning rate rises
    half_precision: bool = False  # bfloat16 in the forward pass; weights, losses and averages stay float32
    optimiser: Optimiser = "adamw"
    momentum: float = 0.0  # of sgd
    drops: Drops | None = None  # without, one cycle
    clip: float = 5.0  # longest gradient of a step; 0 leaves all as they are
    end_share: float | None = None  # of the peak learning rate, where one cycle ends; without, next to nothing
    patience: int | None = None  # epochs without a better validation score after which a run ends


_DEFAULTS = {field.name: field.default for field in fields(Schedule) if field.default is not MISSING}
"""What a schedule means that a checkpoint of an earlier version has not."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after an epoch; one line of ``curve.jsonl``."""

    epoch: int  # from 0
    loss: float  # mean over the epoch's batches (of the leading process)
    seconds: float
    score: float | None  # validation score, lower is better
    learning_rate: float
    ended: float  # seconds since 1970
    steps: int  # of the epoch


class _HalfPrecision(nn.Module):
    """Runs a net under bfloat16 autocast and gives its outputs back as float32, so that losses keep their precision."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Any:
        with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
            outputs = self.net(*inputs)
        return tree_map(lambda t: t.float() if isinstance(t, Tensor) else t, outputs)


class _Objective(nn.Module):
    """A net and its loss as one module, whose only output is the loss: so DDP sees which weights took part."""

    def __init__(self, net: nn.Module, loss_of: Loss) -> None:
        super().__init__()
        self.net, self.loss_of = net, loss_of

    def forward(self, batch: Any) -> Tensor:
        return self.loss_of(self.net, batch)


def _moved(batch: Any, device: torch.device) -> Any:
    """Bring a batch to a device, images channels last."""

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value.to(device, non_blocking=True)

    return tree_map(move, batch)


def _make_optimiser(net: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    rate, decay = schedule.peak_learning_rate, schedule.weight_decay
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(net.parameters(), lr=rate, momentum=schedule.momentum, weight_decay=decay)
    kind = torch.optim.Adam if schedule.optimiser == "adam" else torch.optim.AdamW
    return kind(net.parameters(), lr=rate, weight_decay=decay)


def _rising_share(warm_up: float, total_steps: int) -> float:
    """Return the share of one cycle in which the learning rate rises, for torch.

    torch counts the end of the rise from 0, at ``share * total_steps - 1``, and divides by it: a rise of exactly one
    step would have the length zero. It becomes half a step.
    """
    return 1.5 / total_steps if abs(warm_up * total_steps - 1) < 1e-6 else warm_up


def _make_cycle(optimiser: torch.optim.Optimizer, schedule: Schedule) -> torch.optim.lr_scheduler.LRScheduler:
    """Return what sets the learning rate of each step: the drops, or else one cycle."""
    if schedule.drops is not None:
        return torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.drops.share)
    total = schedule.epochs * schedule.steps_per_epoch + 1
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=schedule.peak_learning_rate,
        total_steps=total,
        pct_start=_rising_share(schedule.warm_up, total),
        div_factor=_BEGIN,
        final_div_factor=1e4 if schedule.end_share is None else 1 / (_BEGIN * schedule.end_share),
        cycle_momentum=schedule.optimiser != "sgd",  # whose momentum is the schedule's
    )


class _Training:
    """Everything that changes while a net is trained."""

    def __init__(self, net: nn.Module, loss_of: Loss, schedule: Schedule, machine: Machine) -> None:
        self.schedule, self.machine = schedule, machine
        # channels last: half as fast again on a CPU
        self.net = net.to(machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        objective = _Objective(_HalfPrecision(self.net) if schedule.half_precision else self.net, loss_of)
        self.objective: nn.Module = objective
        if machine.processes > 1:
            # A batch without girls leaves the girls' network without gradients, in one process and not in another.
            self.objective = DistributedDataParallel(objective, find_unused_parameters=True)
        self.optimiser = _make_optimiser(net, schedule)
        self.cycle = _make_cycle(self.optimiser, schedule)
        moving = torch.optim.swa_utils.get_ema_multi_avg_fn(schedule.averaging)  # type: ignore[no-untyped-call]
        self.average = torch.optim.swa_utils.AveragedModel(self.net, multi_avg_fn=moving, use_buffers=True)
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.taken = 0  # steps
        self.whole = True  # is the last checkpoint on the disk

    def step(self, batch: Batch, ahead: float = 0.0) -> Tensor:
        """Take one step, which stands for ``ahead`` more of the schedule's; returns its loss."""
        self.optimiser.zero_grad(set_to_none=True)
        loss: Tensor = self.objective(_moved(batch, self.machine.device))
        loss.backward()  # type: ignore[no-untyped-call]
        if self.schedule.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.schedule.clip)
        self.optimiser.step()
        self.cycle.last_epoch += ahead  # type: ignore[assignment]  # what torch calls so counts steps; a part of one will do
        self.cycle.step()
        self.taken += 1
        self.average.update_parameters(self.net)
        return loss.detach()

    def validate(self, validate: Callable[[nn.Module], float] | None) -> float | None:
        """Score the average and keep it if it is the best so far."""
        if validate is None:
            return None
        self.average.eval()
        trying = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = False  # a few batches, of other shapes, do not pay for its search
        try:
            score = validate(self.average.module)
        finally:
            torch.backends.cudnn.benchmark = trying
        if self.best is None or score < self.best[0]:
            self.best = (score, {k: v.detach().cpu().clone() for k, v in self.average.module.state_dict().items()})
        return score

    def save(self, folder: Path, epoch: int) -> None:
        """Write a checkpoint; the one before stays beside it."""
        save_state(
            {
                "schedule": asdict(self.schedule),
                "epoch": epoch,
                "taken": self.taken,
                "net": self.net.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "cycle": self.cycle.state_dict(),
                "best": self.best,
            },
            folder / CHECKPOINT,
            before=folder / BEFORE if self.whole else None,
        )
        self.whole = True

    def restore(self, folder: Path) -> int:
        """Go on from a checkpoint, if there is one; returns the epoch to go on with."""
        if not (folder / CHECKPOINT).exists() and not (folder / BEFORE).exists():
            return 0
        state, name = load_checkpoint(folder)
        self.whole = name == CHECKPOINT
        if _DEFAULTS | state["schedule"] != asdict(self.schedule):
            raise RunError(f"{folder} holds a run with another schedule; choose another folder or delete that run.")
        try:
            self.net.load_state_dict(state["net"])
        except RuntimeError as error:
            raise RunError(
                f"{folder} holds weights of another net; choose another folder or delete that run."
            ) from error
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.cycle.load_state_dict(state["cycle"])
        self.best = state["best"]
        first = int(state["epoch"]) + 1
        self.taken = int(state.get("taken", first * self.schedule.steps_per_epoch))  # of an earlier version: all
        return first

    def result(self, *, choose: bool) -> nn.Module:
        """Return the average; with ``choose``, the best epoch's where epochs were scored."""
        if choose and self.best is not None:
            self.average.module.load_state_dict(self.best[1])
        return self.average.module.eval()


class _Pace:
    """How long epochs take, by those before, and how many steps each may have where the last must end in time.

    A shortened epoch goes through as much of the schedule as a whole one, in longer strides, so that the learning rate
    comes to its end, however often the pace changes (budgeted training: Li, Yumer and Ramanan, ICLR 2020).
    """

    def __init__(self, schedule: Schedule, end_by: float | None, step_s: float | None) -> None:
        self.whole, self.end_by = schedule.steps_per_epoch, end_by
        self.step_s, self.end_s, self.longest = step_s, 0.0, 0.0

    def steps(self, epochs: int) -> int:
        """Return how many steps the next of the last ``epochs`` has: no more than the schedule says, one at least."""
        if self.end_by is None or self.step_s is None:
            return self.whole
        seconds = CAUTION * (self.end_by - time.monotonic()) / epochs - self.end_s
        return max(1, min(self.whole, int(seconds / self.step_s)))

    def seconds(self, steps: int) -> float:
        """Return what an epoch of so many steps takes at most; nothing before one is known."""
        if self.end_by is None:
            return _MARGIN * self.longest
        return 0.0 if self.step_s is None else steps * self.step_s + self.end_s

    def took(self, steps: int, training_s: float, end_s: float) -> None:
        """Take note of an epoch: its steps, and what followed them."""
        self.step_s, self.end_s = max(training_s, 1e-6) / steps, end_s
        self.longest = max(self.longest, training_s + end_s)


class _Line:
    """How far an epoch is: a line of its own on a terminal, elsewhere one in the log now and then."""

    def __init__(self, steps: int, label: str, *, shown: bool) -> None:
        self.steps, self.label, self.shown, self.terminal = steps, label, shown, sys.stderr.isatty()
        self.every_s = _TERMINAL_S if self.terminal else _LOG_S
        self.started = self.last = time.monotonic()

    def tell(self, done: int, loss: Tensor) -> None:
        """Say that so many steps are done, if it was not said just now."""
        now = time.monotonic()
        if not self.shown or now - self.last < self.every_s:
            return
        self.last, left = now, (now - self.started) / done * (self.steps - done)
        told = f"{self.label} step {done}/{self.steps} loss {float(loss):.4f}, {duration(left)} left"
        if self.terminal:
            sys.stderr.write(f"\r\x1b[K{told}")
            sys.stderr.flush()
        else:
            _log.info("%s", told)

    def clear(self) -> None:
        """Make room for the epoch's own line."""
        if self.shown and self.terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def duration(seconds: float) -> str:
    """Write a time for people: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], str]:
    """Read a phase's checkpoint, or the one of the epoch before if it is torn or was being replaced; and its name.

    Raises
    ------
    RunError
        If neither can be read.
    """
    if not (folder / BEFORE).exists():
        return load_state(folder / CHECKPOINT), CHECKPOINT
    try:
        return load_state(folder / CHECKPOINT), CHECKPOINT
    except RunError as error:
        state = load_state(folder / BEFORE)
        _log.warning("%s Going on from %s, after epoch %d.", error, BEFORE, state["epoch"] + 1)
        return state, BEFORE


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a phase's curve, oldest first; none before its first epoch has ended.

    A last line that is torn is left out: the power went while it was written.

    Raises
    ------
    RunError
        If another line is.
    """
    path = folder / CURVE
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise RunError(f"{path} is torn in line {number}; take that line out.") from error
    return rows


def _epochs_since_best(folder: Path) -> int:
    """Return how many epochs of a curve came after the best validation score; 0 if none was scored."""
    scores = [row["score"] for row in read_curve(folder)]
    return 0 if not scores or None in scores else len(scores) - 1 - scores.index(min(scores))


def _step_s(folder: Path) -> float | None:
    """Return the seconds a step of the last epoch of a curve took, its end included; None before the first."""
    rows = [row for row in read_curve(folder) if row.get("steps")]
    return rows[-1]["seconds"] / rows[-1]["steps"] if rows else None


def _begin_curve(folder: Path, first: int) -> None:
    """Take out what a killed run wrote of an epoch whose checkpoint was not kept, and give TensorBoard the rest."""
    kept = [row for row in read_curve(folder) if row["epoch"] < first]
    write_text(folder / CURVE, "".join(json.dumps(row) + "\n" for row in kept))
    with writing(folder / events.NAME):
        events.begin(folder, kept)


def _extend_curve(folder: Path, done: Progress) -> None:
    with writing(folder / CURVE):
        with (folder / CURVE).open("a") as curve:
            curve.write(json.dumps(asdict(done)) + "\n")
        events.extend(folder, asdict(done))


def _run_epoch(training: _Training, source: Iterator[Batch], epoch: int, seed: int, steps: int) -> float:
    """Train for one epoch of so many steps; returns the mean loss.

    Raises
    ------
    RunError
        If the loss is no number any more; the checkpoint of the epoch before is kept.
    """
    schedule, machine = training.schedule, training.machine
    torch.manual_seed(seed_of(seed, machine.rank, epoch, 1))
    training.net.train()
    line = _Line(steps, f"epoch {epoch + 1}/{schedule.epochs}", shown=machine.leads)
    total = torch.zeros((), device=machine.device)
    for done in range(1, steps + 1):
        loss = training.step(next(source), schedule.steps_per_epoch / steps - 1)
        total += loss
        line.tell(done, loss)
    line.clear()
    training.cycle.last_epoch = (epoch + 1) * schedule.steps_per_epoch
    mean = float(total) / steps
    if not np.isfinite(mean):
        raise RunError(
            f"The loss is no number any more in epoch {epoch + 1}; start again in another folder with a lower learning "
            "rate or in float32. The checkpoint of the epoch before is kept."
        )
    return mean


def fit(
    net: nn.Module,
    draw: Draw,
    loss_of: Loss,
    schedule: Schedule,
    folder: Path,
    *,
    validate: Callable[[nn.Module], float] | None = None,
    choose: bool = True,
    machine: Machine = ALONE,
    seed: int = 2026,
    workers: int = 0,
    deadline: float | None = None,
    end_by: float | None = None,
    after: Callable[[Progress], None] | None = None,
) -> nn.Module:
    """Train a net and return its moving average: with ``validate`` and ``choose`` the best epoch's, else the last's.

    Parameters
    ----------
    net
        Trained in place; goes to the machine's device.
    draw
        Makes a batch (of this process's share) from a seed.
    loss_of
        Gives the loss of one batch.
    schedule
        Length and learning rate.
    folder
        Gets ``checkpoint.pt``, ``curve.jsonl`` and TensorBoard's events after every epoch; a checkpoint there is
        resumed from. Of several processes, the leading one writes, and all must see the folder.
    validate
        Scores the averaged net, which lies on the machine's device, after each epoch, lower is better.
    choose
        Return the best epoch by ``validate``, else the last one.
    machine
        This process's device and place among the processes of the run.
    seed
        Of batches and dropout.
    workers
        Processes that make batches; 0 makes them in a thread.
    deadline
        Of ``time.monotonic``: no epoch is begun after it, nor one that would end after it if it took as long as the
        longest of this call.
    end_by
        Of ``time.monotonic``: epochs are shortened as it needs for the last one to end by then, by the pace of the one
        before; of one process only. An epoch is then expected to take what its steps take.
    after
        Called in the leading process when an epoch's files are written.

    Raises
    ------
    RunError
        If the folder's checkpoint was made with another schedule, the loss is no number any more, or the folder cannot
        be written to: the checkpoint of the epoch before is kept.
    TimeUp
        If the deadline came before the last epoch.
    """
    make_folder(folder)
    training = _Training(net, loss_of, schedule, machine)
    first = training.restore(folder)
    if machine.leads and first < schedule.epochs:
        _begin_curve(folder, first)
    most = (schedule.epochs - first) * schedule.steps_per_epoch
    steps, places = Steps(draw, seed, machine.rank), range(training.taken, training.taken + most)
    pace = _Pace(schedule, end_by, _step_s(folder))
    with prefetched(steps, places, workers, pinned=machine.device.type == "cuda") as source:
        for epoch in range(first, schedule.epochs):
            if schedule.patience is not None and machine.agree(_epochs_since_best(folder) >= schedule.patience):
                _log.info("no better score in %d epochs: ended after epoch %d", schedule.patience, epoch)
                break
            started, count = time.monotonic(), pace.steps(schedule.epochs - epoch)
            if machine.agree(deadline is not None and started + pace.seconds(count) > deadline):
                raise TimeUp(f"The time was up after epoch {epoch} of {schedule.epochs}; the same command goes on.")
            if count < schedule.steps_per_epoch:
                _log.info("epoch %d: %d of %d steps, to end in time", epoch + 1, count, schedule.steps_per_epoch)
            loss, rate = _run_epoch(training, source, epoch, seed, count), float(training.cycle.get_last_lr()[0])
            trained = time.monotonic()
            if machine.leads:
                score = training.validate(validate)
                done = Progress(epoch, loss, time.monotonic() - started, score, rate, time.time(), count)
                _extend_curve(folder, done)  # first: a resume takes out what has no checkpoint, and adds nothing
                training.save(folder, epoch)
                _tell(done, schedule, training.best)
                if after is not None:
                    after(done)
            pace.took(count, trained - started, time.monotonic() - trained)
    machine.agree(True)  # the last checkpoint is written
    return training.result(choose=choose)


def rate_of(
    net: nn.Module,
    draw: Draw,
    loss_of: Loss,
    schedule: Schedule,
    *,
    machine: Machine = ALONE,
    workers: int = 0,
    skipped: int = 0,
    skipped_s: float = math.inf,
    seconds: float = 5.0,
) -> float:
    """Return how many steps a second a net trains at; its weights are of no use afterwards.

    Parameters are :func:`fit`'s. ``skipped`` steps, or those begun in ``skipped_s``, come before the ``seconds`` that
    are measured.
    """
    endless = replace(schedule, epochs=_ENDLESS, steps_per_epoch=1)  # one cycle ends with the steps it was made for
    training = _Training(net, loss_of, endless, machine)
    training.net.train()
    steps = Steps(draw, 0, machine.rank)
    with prefetched(steps, range(_ENDLESS), workers, pinned=machine.device.type == "cuda") as source:
        started, done = time.monotonic(), 0
        while done < skipped and time.monotonic() < started + skipped_s:
            training.step(next(source))
            done += 1
        machine.wait()
        started, done = time.monotonic(), 0
        while not done or time.monotonic() < started + seconds:
            training.step(next(source))
            done += 1
        machine.wait()
        return done / (time.monotonic() - started)


def _tell(done: Progress, schedule: Schedule, best: tuple[float, Any] | None) -> None:
    """Log an epoch."""
    left = (schedule.epochs - done.epoch - 1) * done.seconds
    scores = "" if done.score is None or best is None else f" score {done.score:.3f} (best {best[0]:.3f})"
    _log.info(
        "epoch %d/%d loss %.4f%s in %s, %s left",
        done.epoch + 1,
        schedule.epochs,
        done.loss,
        scores,
        duration(done.seconds),
        duration(left),
    )
