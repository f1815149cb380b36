"""The loop all nets of this package train in: one-cycle Adam, weight averaging, checkpoints, resume, progress."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from training.errors import RunError

_log = logging.getLogger(__name__)

Batch = tuple[Any, ...]
"""A tuple, named or not, of tensors and of tuples of tensors."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train. ``epochs`` of ``steps_per_epoch`` batches each."""

    epochs: int
    steps_per_epoch: int
    peak_learning_rate: float
    weight_decay: float = 1e-4
    averaging: float = 0.998  # decay of the exponential moving average of the weights, per step
    warm_up: float = 0.15  # share of the steps in which the learning rate rises
    half_precision: bool = False  # bfloat16 in the forward pass; weights, losses and averages stay float32


@dataclass(slots=True)
class Progress:
    """Where a run stands after an epoch."""

    epoch: int
    loss: float
    seconds: float
    score: float | None  # validation score, lower is better


def half_precision_pays() -> bool:
    """Whether this machine multiplies bfloat16 faster than float32: any CUDA device, a CPU with AVX-512 BF16 or AMX."""
    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - no public way to ask


class _HalfPrecision(nn.Module):
    """Runs a net under bfloat16 autocast and gives its outputs back as float32, so that losses keep their precision."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Any:
        with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
            outputs = self.net(*inputs)
        return tree_map(lambda t: t.float() if isinstance(t, Tensor) else t, outputs)


def _prefetch(batches: Iterator[Any], depth: int = 4) -> Iterator[Any]:
    """Make batches in a thread beside the training step."""
    queue: Queue[Any] = Queue(depth)

    def fill() -> None:
        for batch in batches:
            queue.put(batch)

    threading.Thread(target=fill, daemon=True).start()
    while True:
        batch = queue.get()
        yield tree_map(lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t, batch)


def fit(
    net: nn.Module,
    batches: Iterator[Batch],
    loss_of: Callable[[nn.Module, Any], Tensor],
    schedule: Schedule,
    folder: Path,
    *,
    validate: Callable[[nn.Module], float] | None = None,
) -> nn.Module:
    """Train a net and return its moving average, the best epoch by ``validate`` if that is given.

    Parameters
    ----------
    net
        Trained in place.
    batches
        Endless.
    loss_of
        Gives the loss of one batch.
    schedule
        Length and learning rate.
    folder
        Gets ``checkpoint.pt`` after every epoch and ``curve.jsonl``; a checkpoint there is resumed from.
    validate
        Scores the averaged net after each epoch, lower is better.

    Raises
    ------
    RunError
        If the folder's checkpoint was made with another schedule.
    """
    folder.mkdir(parents=True, exist_ok=True)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half as fast again on a CPU
    total = schedule.epochs * schedule.steps_per_epoch
    optimiser = torch.optim.AdamW(net.parameters(), lr=schedule.peak_learning_rate, weight_decay=schedule.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=schedule.peak_learning_rate, total_steps=total + 1, pct_start=schedule.warm_up
    )
    moving = torch.optim.swa_utils.get_ema_multi_avg_fn(schedule.averaging)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=moving, use_buffers=True)
    best: tuple[float, dict[str, Tensor]] | None = None
    first = 0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["schedule"] != asdict(schedule):
            raise RunError(f"{folder} holds a run with another schedule; choose another folder or delete that run.")
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        cycle.load_state_dict(state["cycle"])
        first, best = state["epoch"] + 1, state["best"]
    source = _prefetch(batches)
    forward = _HalfPrecision(net) if schedule.half_precision else net
    for epoch in range(first, schedule.epochs):
        started, total_loss = time.monotonic(), 0.0
        net.train()
        for _ in range(schedule.steps_per_epoch):
            optimiser.zero_grad(set_to_none=True)
            loss = loss_of(forward, next(source))
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            cycle.step()
            average.update_parameters(net)
            total_loss += float(loss.detach())
        score = None
        if validate is not None:
            average.eval()
            score = validate(average.module)
            if best is None or score < best[0]:
                best = (score, {k: v.clone() for k, v in average.module.state_dict().items()})
        done = Progress(epoch, total_loss / schedule.steps_per_epoch, time.monotonic() - started, score)
        _log.info("epoch %d/%d loss %.4f score %s (%.0f s)", epoch + 1, schedule.epochs, done.loss, score, done.seconds)
        with (folder / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(asdict(done)) + "\n")
        part = checkpoint.with_suffix(".part")
        torch.save(
            {
                "schedule": asdict(schedule),
                "epoch": epoch,
                "net": net.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "cycle": cycle.state_dict(),
                "best": best,
            },
            part,
        )
        part.replace(checkpoint)
    if best is not None:
        average.module.load_state_dict(best[1])
    return average.module.eval()
