"""Fit a recipe to the time there is: measure how fast each of its phases trains here, then scale its steps.

One cycle of the learning rate must come to its end to be worth anything, and on a lent machine nobody knows beforehand
how many steps that may take. Nor does a pace last that was measured before others came to share the GPU: while it
trains, ``training.fit`` shortens the epochs that are left.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

from inference.method import open_method
from training.errors import RunError
from training.films import AgeFilms
from training.fit import CAUTION, duration, rate_of
from training.losses import LOSSES
from training.recipe import Phase, Recipe
from training.train import Job, age_draw, workers_of

_log = logging.getLogger(__name__)

WARM_UP_STEPS = 10
"""Not measured: cuDNN tries its algorithms, workers begin."""
WARM_UP_S = 8.0
"""No step of these is begun later: on a slow machine a step takes seconds, and nothing else needs warming."""
MEASURED_S = 6.0
EPOCH_END_S = 2.0
"""Of every epoch, for validation and files."""
RESERVE_S = 20.0
"""Kept of the minutes given, for the validation films and the results."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What one phase takes."""

    phase: Phase
    steps_per_second: float

    def seconds(self) -> float:
        """Return how long its steps take, without the ends of its epochs."""
        return self.phase.epochs * self.phase.steps_per_epoch / self.steps_per_second

    def planned_s(self, phase: Phase) -> float:
        """Return how long it takes with its steps as ``phase`` has them, the ends of its epochs included."""
        return phase.epochs * (phase.steps_per_epoch / self.steps_per_second + EPOCH_END_S)


def measure(recipe: Recipe, films: AgeFilms, job: Job) -> list[Pace]:
    """Train every phase for a few seconds, as the run will, and throw the weights away.

    Raises
    ------
    RunError
        If the job's deadline comes before all are measured.
    """
    paces = []
    loss = LOSSES[recipe.loss]
    for phase in recipe.phases:
        if job.deadline is not None and time.monotonic() > job.deadline:
            raise RunError("The time was up while it was measured how fast this recipe trains; give more --minutes.")
        method = open_method(recipe.target, recipe.method | phase.method)
        rate = rate_of(
            job.start.apply(recipe.target, method.make_net()),
            age_draw(recipe, phase, method, films, job.machine),
            lambda forward, batch: loss(forward(*batch.inputs, batch.male), batch),
            phase.schedule(half_precision=job.half_precision),
            machine=job.machine,
            workers=workers_of(recipe, job),
            skipped=WARM_UP_STEPS,
            skipped_s=WARM_UP_S,
            seconds=MEASURED_S,
        )
        _log.info("phase %s: %.3g steps, %.3g films a second", phase.name, rate, rate * phase.batch)
        paces.append(Pace(phase, rate))
    return paces


def _ends(recipe: Recipe) -> float:
    """Return the seconds that the ends of a recipe's epochs take."""
    return EPOCH_END_S * sum(phase.epochs for phase in recipe.phases)


def _minutes(seconds: float) -> int:
    """Return how many ``--minutes`` leave so many seconds for training."""
    return math.ceil((seconds + RESERVE_S) / 60)


def check_time(recipe: Recipe, job: Job) -> None:
    """Refuse a time that the ends of the epochs alone would take, before anything is read or measured.

    Raises
    ------
    RunError
        If it does, the job has no deadline, or several processes share it.
    """
    if job.deadline is None or job.machine.processes > 1:
        raise RunError("--fit needs --minutes, and one process; give the minutes, or leave --fit out.")
    least = MEASURED_S * len(recipe.phases) + _ends(recipe) / CAUTION
    if least >= job.deadline - time.monotonic():
        raise RunError(
            f"The ends of this recipe's epochs alone take {duration(_ends(recipe))}, so it takes {_minutes(least)} min "
            "or more; give more --minutes, or fewer --epochs."
        )


def fitted(recipe: Recipe, paces: list[Pace], seconds: float, *, spent: float = 0.0) -> Recipe:
    """Return the recipe with the steps of all its epochs scaled alike, so that it ends within the time.

    ``spent`` is what measuring took: another start spends it again.

    Raises
    ------
    RunError
        If not even one step an epoch fits; says how many minutes are needed.
    """
    whole = sum(pace.seconds() for pace in paces)
    factor = (CAUTION * seconds - _ends(recipe)) / whole
    steps = [int(pace.phase.steps_per_epoch * factor) for pace in paces]
    if min(steps) < 1:
        least = _ends(recipe) + whole / min(pace.phase.steps_per_epoch for pace in paces)
        raise RunError(
            f"Here this recipe takes {_minutes(least / CAUTION + spent)} min or more, with a step an epoch; give more "
            "--minutes, or fewer --epochs."
        )
    phases = tuple(
        pace.phase.model_copy(update={"steps_per_epoch": count}) for pace, count in zip(paces, steps, strict=True)
    )
    return recipe.model_copy(update={"phases": phases})


def fit_to_deadline(recipe: Recipe, films: AgeFilms, job: Job) -> tuple[Recipe, dict[str, float]]:
    """Return the recipe fitted to the time until the job's deadline, and the seconds that each phase may take of it.

    Raises
    ------
    RunError
        As :func:`check_time`, or if the time is too short for this machine.
    """
    check_time(recipe, job)
    assert job.deadline is not None
    started = time.monotonic()
    paces, now = measure(recipe, films, job), time.monotonic()
    planned = fitted(recipe, paces, job.deadline - now, spent=now - started)
    return planned, {phase.name: pace.planned_s(phase) for pace, phase in zip(paces, planned.phases, strict=True)}
