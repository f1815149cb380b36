"""``boneage-node train``: train the finder, the landmark net or the global-local network; resume where a run stopped.

The recipes stand here as data. ``global-local`` keeps the paper's loss target (labels softened by 3 months), histogram
equalisation, Adam and peak rate 0.001, and differs where 920 sharp films are all there are: it also draws the 11,264
films of the ``pretrain`` part at 100 x 100 pixels, runs one cycle instead of a step schedule, and averages its weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from inference.bundle import DETECTOR, open_bundle
from inference.detector import make_finder, make_landmark_net
from inference.global_local import GlobalLocalNet
from inference.torch_backend import load_net
from training.ages import LocatedFilm, age_batches, estimate, locate
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
from training.fit import Schedule, fit
from training.radiographs import Radiograph, load_half, load_negatives, load_small, read_split

_log = logging.getLogger(__name__)

WIDTH = 0.25
"""Shipped width of the global-local network: 7.8 million parameters of the paper's 121.5."""

SCHEDULES = {
    "finder": Schedule(epochs=30, steps_per_epoch=100, peak_learning_rate=3e-3),
    "landmarks": Schedule(epochs=24, steps_per_epoch=100, peak_learning_rate=2.5e-3, averaging=0.99),
    "global-local": Schedule(epochs=36, steps_per_epoch=100, peak_learning_rate=1.5e-3, warm_up=0.08),
}
BATCHES = {"finder": 32, "landmarks": 16, "global-local": 32}
HALF_SHARE = 0.3
"""Share of the films of a batch that come from the sharp films."""


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

SHIPPED_WEIGHTS = {
    "finder": (DETECTOR, "finder.safetensors"),
    "landmarks": (DETECTOR, "landmarks.safetensors"),
    "global-local": ("global-local", "model.safetensors"),
}


def started(target: str, net: nn.Module, init: Path | None) -> nn.Module:
    """Fill a net with the weights of another run's checkpoint, or with the shipped ones, to go on from there.

    Raises
    ------
    RunError
        If the run has no checkpoint of this net.
    """
    if init is None:
        return net
    if init == SHIPPED:
        name, file = SHIPPED_WEIGHTS[target]
        net.load_state_dict(open_bundle(name).read_weights(file))
        return net
    try:
        net.load_state_dict(torch.load(init / "checkpoint.pt", weights_only=True)["net"])
    except (OSError, RuntimeError, KeyError) as error:
        raise RunError(
            f"{init} holds no checkpoint of this net; name the folder of a run of the same target."
        ) from error
    return net


def train_finder(data: Path, run: Path, schedule: Schedule, seed: int, init: Path | None) -> nn.Module:
    """Train the finder; of the negatives, the first 50 only (the others are for evaluation)."""
    batches = finder_batches(_detector_films(data), load_negatives(data)[:50], BATCHES["finder"], seed)
    return fit(
        started("finder", NETS["finder"][0](), init),
        batches,
        lambda net, b: finder_loss(net(b[0]), b[1]),
        schedule,
        run,
    )


def train_landmarks(data: Path, run: Path, schedule: Schedule, seed: int, init: Path | None) -> nn.Module:
    """Train the landmark net."""
    batches = landmark_batches(_detector_films(data), BATCHES["landmarks"], seed)
    return fit(
        started("landmarks", NETS["landmarks"][0](), init),
        batches,
        lambda net, b: landmark_loss(net(b[0]), b[1], b[2]),
        schedule,
        run,
    )


def locate_all(films: list[Radiograph]) -> list[LocatedFilm]:
    """Find hand and ROIs in films with the shipped detector; says how many had none."""
    bundle, device = open_bundle(DETECTOR), torch.device("cpu")
    finder = load_net(make_finder(), bundle, "finder.safetensors", device)
    landmark_net = load_net(make_landmark_net(), bundle, "landmarks.safetensors", device)
    located = []
    started = time.monotonic()
    for film in locate(films, finder, landmark_net):
        located.append(film)
        if len(located) % 1000 == 0:
            _log.info("located %d of %d films (%.0f s)", len(located), len(films), time.monotonic() - started)
    _log.info("%d of %d films have no hand the detector finds", len(films) - len(located), len(films))
    return located


def age_loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Mean absolute error in months, smooth within half a month."""
    whole, local, male, age = batch
    return nn.functional.smooth_l1_loss(net(whole, local, male), age, beta=0.5)


def train_global_local(data: Path, run: Path, schedule: Schedule, seed: int, init: Path | None) -> nn.Module:
    """Train the global-local network; the epoch with the best validation MAE is kept."""
    sharp, validation = (locate_all(load_half(data, [part])) for part in ("train", "validation"))
    small = locate_all(load_small(data, ["pretrain"]))
    reference = np.array([film.reading.age_months for film in validation])
    batches: Iterator[tuple[Tensor, ...]] = age_batches(
        [(sharp, HALF_SHARE), (small, 1 - HALF_SHARE)], BATCHES["global-local"], seed
    )
    return fit(
        started("global-local", GlobalLocalNet(WIDTH), init),
        batches,
        age_loss,
        schedule,
        run,
        validate=lambda net: float(np.abs(estimate(net, validation) - reference).mean()),
    )


TRAINERS = {"finder": train_finder, "landmarks": train_landmarks, "global-local": train_global_local}


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="boneage-node train", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("target", choices=sorted(TRAINERS), help="what to train")
    parser.add_argument(
        "--data", type=Path, required=True, help="the data folder (rsna2017/, annotations/, negatives/)"
    )
    parser.add_argument("--run", type=Path, required=True, help="the run's folder; a run found there is resumed")
    parser.add_argument(
        "--init", type=Path, help="start from the weights of this run's checkpoint, or from 'shipped' ones"
    )
    parser.add_argument("--epochs", type=int, help="epochs instead of the recipe's")
    parser.add_argument("--seed", type=int, default=2026, help="seed of weights and batches (default 2026)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train; returns 0 when done, 2 when the data or the run's folder cannot be used."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(arguments.seed)
    schedule = SCHEDULES[arguments.target]
    if arguments.epochs:
        schedule = replace(schedule, epochs=arguments.epochs)
    arguments.run.mkdir(parents=True, exist_ok=True)
    (arguments.run / "run.json").write_text(json.dumps({"target": arguments.target, "seed": arguments.seed}) + "\n")
    try:
        net = TRAINERS[arguments.target](arguments.data, arguments.run, schedule, arguments.seed, arguments.init)
    except TrainingError as error:
        _log.error("%s: %s", error.code, error)
        return 2
    torch.save(net.state_dict(), arguments.run / "final.pt")
    _log.info("done: %s", arguments.run / "final.pt")
    return 0
