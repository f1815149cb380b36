"""What a GPU changes: nothing that a reader sees. Skipped where there is none, CI included.

Run on a lent GPU (training/EXPERIMENTS.md). Not covered: several GPUs and NCCL.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from conformance.interpret_benchmark import read_samples
from inference.engine import Engine
from inference.finding import Estimate
from training.errors import TimeUp
from training.fit import Schedule, fit
from training.machine import join

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")

SCHEDULE = Schedule(epochs=3, steps_per_epoch=4, peak_learning_rate=0.05)
CUDA_MONTHS, HALF_MONTHS = 0.25, 0.5
"""CUDA may move an age by so much, float16 there by so much: landmarks move by a ten-thousandth of a pixel, and hands
are cut out in steps of a 32nd. Another number of CPU threads does the same."""


def ages_on(device: str, form: str = "eager") -> list[float]:
    findings = Engine.load(threads=2, device=device, form=form).interpret_films(read_samples())
    return [finding.age_months for finding in findings if isinstance(finding, Estimate)]


def make_net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)
    )


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return images, images.mean((1, 2, 3))[:, None]


def run_tiny(folder: Path, schedule: Schedule = SCHEDULE, **options: object) -> nn.Module:
    with join("cuda") as machine:
        return fit(
            make_net(),
            draw,
            lambda net, batch: nn.functional.mse_loss(net(batch[0]), batch[1]),
            schedule,
            folder,
            machine=machine,
            workers=2,
            **options,
        )


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def on_cpu() -> list[float]:
    return ages_on("cpu")


def test_ages_are_those_of_a_cpu(on_cpu):
    assert len(on_cpu) == len(read_samples())
    assert ages_on("cuda") == pytest.approx(on_cpu, abs=CUDA_MONTHS)


def test_float16_moves_ages_by_less_than_half_a_month(on_cpu):
    assert ages_on("cuda", "half") == pytest.approx(on_cpu, abs=HALF_MONTHS)


def test_bfloat16_pays_and_workers_make_the_batches():
    with join("auto") as machine:
        assert machine.device.type == "cuda"
        assert machine.half_precision_pays()
        assert machine.workers() >= 1


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path, half):
    """Given a run stopped after an epoch, when it goes on, then its losses are those of one that was not stopped."""
    schedule = replace(SCHEDULE, half_precision=half)

    def stop(_):
        raise TimeUp("enough")

    with pytest.raises(TimeUp):
        run_tiny(tmp_path / "stopped", schedule, after=stop)
    stopped = run_tiny(tmp_path / "stopped", schedule)
    run_tiny(tmp_path / "whole", schedule)
    assert next(stopped.parameters()).is_cuda
    assert losses(tmp_path / "stopped") == pytest.approx(losses(tmp_path / "whole"), rel=0.05)
