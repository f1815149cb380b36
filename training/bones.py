"""``python -m training.bones``: train the paper's localiser of precise-baa (Jia et al. 2022).

``palm`` trains stage 1, the U-Net, and ``detector`` stage 2, the 13 regions; ``boneage-node export bones`` puts both
beside the weights of the age method.

Decisions where the paper's data are not to be had: its 100 palm masks are drawn here from annotated points (fingers as
capsules, the palm as a hull, discs around the 13 bones, the ends of radius and ulna), which teaches a U-Net roughly
where a hand is; its boxes are the annotated ones. Shipped weights came of AdamW with one cycle; ``--paper`` trains as
the paper states, where it does: SGD, batches of 4; the U-Net (section 4.1) with momentum 0.99 for 100 epochs of 80
images, at the first of three rates named, 0.01; the detector (section 4.2) for 24 epochs of 70 % of 2,129 images, its
momentum (0.9) and rate (0.001, that of the Faster R-CNN beside it) not named for it. No fall of a rate, decay or
averaging is named.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.anatomy import BOX_NAMES, POINT_NAMES, RUS_NAMES
from inference.bone_detector import BoneDetector
from inference.palm import PALM_SIDE, PalmNet
from inference.pose import template_points
from inference.precise_baa import FILM_SIDE
from inference.preparation import equalisation_table
from inference.warp import warp_onto
from training.annotations import read_annotations
from training.arguments import plain, positive, positive_int, seed_number
from training.cascade import detector_loss, palm_loss
from training.detector import AnnotatedFilm, demand
from training.errors import TimeUp, TrainingError
from training.films import annotated
from training.machine import join as join_machine
from training.radiographs import load_half, load_small, read_split
from training.recipe import Stretch
from training.run import check_run, data_sha256, finish_run, running
from training.train import (
    DONE,
    SEED,
    TIME_UP,
    WRONG_USAGE,
    Job,
    Start,
    add_machine_options,
    make_job,
    terms_of_run,
)

_log = logging.getLogger(__name__)

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

STRETCHES = {
    "palm": Stretch(batch=4, epochs=10, steps_per_epoch=100, peak_learning_rate=2e-3),
    "detector": Stretch(batch=4, epochs=24, steps_per_epoch=250, peak_learning_rate=5e-4),
}

_STATED = {"rate": "constant", "optimiser": "sgd", "weight_decay": 0.0, "averaging": 0.0}
PAPER_STRETCHES = {
    "palm": Stretch(batch=4, epochs=100, steps_per_epoch=20, peak_learning_rate=1e-2, momentum=0.99, **_STATED),
    "detector": Stretch(batch=4, epochs=24, steps_per_epoch=373, peak_learning_rate=1e-3, momentum=0.9, **_STATED),
}
"""The same as the paper states them."""

_FINGER_SHARE = 0.045
"""Half a finger's width in template units."""
_PLACES = [POINT_NAMES.index(name) for name in RUS_NAMES]
_SIZE_PLACES = [BOX_NAMES.index(name) for name in RUS_NAMES]
_FINGERS = (
    ("CMC1", "MC1", "J-MCP1", "PP1", "J-IP1", "DP1", "TIP1"),
    ("MC2", "J-MCP2", "PP2", "J-PIP2", "MP2", "J-DIP2", "DP2", "TIP2"),
    ("MC3", "J-MCP3", "PP3", "J-PIP3", "MP3", "J-DIP3", "DP3", "TIP3"),
    ("MC4", "J-MCP4", "PP4", "J-PIP4", "MP4", "J-DIP4", "DP4", "TIP4"),
    ("MC5", "J-MCP5", "PP5", "J-PIP5", "MP5", "J-DIP5", "DP5", "TIP5"),
)
_PALM = ("CMC1", "MC1", "J-MCP2", "J-MCP3", "J-MCP4", "J-MCP5", "J-carpus", "radius", "ulna")


class PalmBatch(NamedTuple):
    """Films (N, 1, 512, 512) of -1..1 and masks (N, 1, 256, 256) of 0 and 1."""

    film: Tensor
    mask: Tensor


class BoxBatch(NamedTuple):
    """Films (N, 1, 512, 512) of -1..1, all but the palm black, and the true boxes (N, 13, 4) in pixels."""

    film: Tensor
    boxes: Tensor


def has_all_bones(film: AnnotatedFilm) -> bool:
    """Whether all 13 bones have a point and a size."""
    return bool(np.isfinite(film.points[_PLACES]).all() and np.isfinite(film.sizes[_SIZE_PLACES]).all())


def draw_palm(points: Float, scale: float, side: int) -> Grey:
    """Draw a hand's mask (side, side) of 0 and 1 from its 44 points; ``scale`` is a template unit in pixels."""
    mask = np.zeros((side, side), dtype=np.uint8)
    at = {name: np.rint(point).astype(int) for name, point in zip(POINT_NAMES, points, strict=True)}
    thickness = max(1, round(2 * _FINGER_SHARE * scale))
    for finger in _FINGERS:
        chain = np.array([at[name] for name in finger], dtype=np.int32)
        cv2.polylines(mask, [chain], isClosed=False, color=1, thickness=thickness)
    hull = cv2.convexHull(np.array([at[name] for name in _PALM], dtype=np.int32))
    cv2.fillConvexPoly(mask, hull, 1)
    cv2.polylines(mask, [hull], isClosed=True, color=1, thickness=thickness)
    for name in RUS_NAMES:
        reach = 0.09 if name in {"radius", "ulna"} else 0.05
        cv2.circle(mask, at[name].tolist(), round(reach * scale), 1, cv2.FILLED)
    return mask


class Placed(NamedTuple):
    """A film placed in a square of 512 pixels, bones bright: grey values, 44 points, boxes (13, 4), scale in pixels."""

    film: Grey
    points: Float
    boxes: Float
    scale: float


def place(film: AnnotatedFilm, generator: np.random.Generator) -> Placed:
    """Turn, scale, shift, mirror and change the grey of a film; unknown points come from the hand's pose."""
    rows, columns = film.pixels.shape
    fit_scale = FILM_SIDE / max(rows, columns) * float(np.exp(generator.uniform(-0.15, 0.1)))
    angle = np.radians(generator.normal(0, 8))
    turn = fit_scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([-1.0 if generator.random() < 0.5 else 1.0, 1.0])
    middle = np.array([columns, rows]) / 2
    shift = FILM_SIDE / 2 + generator.normal(0, 8, 2) - turn @ middle
    known = np.isfinite(film.points).all(1, keepdims=True)
    points = np.where(known, film.points, film.pose.to_film(template_points())) @ turn.T + shift
    scale = film.pose.scale * fit_scale
    centres, halves = points[_PLACES], film.sizes[_SIZE_PLACES] * scale / 2
    matrix = np.column_stack([turn, shift + turn @ (0.5, 0.5) - 0.5])  # cv2 has pixel centres at integers
    square = warp_onto(film.pixels, matrix, (FILM_SIDE, FILM_SIDE), fill=0)
    gamma = np.linspace(0, 1, 256) ** float(np.exp(generator.uniform(-0.4, 0.4)))
    grey = np.asarray(np.rint(255 * gamma), dtype=np.uint8)[square]
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    return Placed(grey, points, np.clip(boxes, 0, FILM_SIDE), scale)


def palm_batches(films: list[AnnotatedFilm], size: int, seed: int) -> Iterator[PalmBatch]:
    """Yield batches for the palm net for ever."""
    generator = np.random.default_rng(seed)
    ratio = PALM_SIDE / FILM_SIDE
    while True:
        placed = [place(films[generator.integers(len(films))], generator) for _ in range(size)]
        masks = [draw_palm(one.points * ratio, one.scale * ratio, PALM_SIDE) for one in placed]
        yield PalmBatch(_units([one.film for one in placed]), torch.from_numpy(np.stack(masks))[:, None].float())


def box_batches(films: list[AnnotatedFilm], size: int, seed: int) -> Iterator[BoxBatch]:
    """Yield batches for the detector for ever: films as the palm net would leave them, if it drew the true mask."""
    generator = np.random.default_rng(seed)
    while True:
        placed = [place(films[generator.integers(len(films))], generator) for _ in range(size)]
        kept = []
        for one in placed:
            mask = draw_palm(one.points, one.scale, FILM_SIDE) > 0
            kept.append(np.where(mask, equalisation_table(one.film[mask])[one.film], np.uint8(0)))
        boxes = torch.from_numpy(np.stack([one.boxes for one in placed])).float()
        yield BoxBatch(_units(kept), boxes)


def _units(films: list[Grey]) -> Tensor:
    return torch.from_numpy(np.stack(films).astype(np.float32) / 127.5 - 1)[:, None]


def annotated_films(data: Path) -> list[AnnotatedFilm]:
    """Return the films of the parts pretrain (small) and train (sharp, three times) with boxes of all 13 bones.

    Raises
    ------
    DataError
        If there are none.
    """
    annotations, split = read_annotations(data), read_split()
    wanted = {rsna_id: part for rsna_id, part in split.items() if rsna_id in annotations}
    aspects = {rsna_id: annotation.aspect for rsna_id, annotation in annotations.items()}
    sharp = annotated(load_half(data, ["train"], wanted), annotations)
    small = annotated(load_small(data, ["pretrain"], wanted, aspects), annotations)
    films = [film for film in small + 3 * sharp if has_all_bones(film)]
    return demand(films, data, "boxes of the 13 RUS bones")


def train(target: str, films: list[AnnotatedFilm], width: float, stretch: Stretch, job: Job) -> nn.Module:
    """Train the palm net or the detector; a run found in the folder is resumed."""
    size = job.machine.share(stretch.batch)
    torch.manual_seed(job.seed)
    if target == "palm":
        return job.fit(
            PalmNet(width),
            lambda seed: next(palm_batches(films, size, seed)),
            lambda net, batch: palm_loss(net(batch.film), batch.mask),
            stretch,
        )
    return job.fit(
        BoneDetector(width=width),
        lambda seed: next(box_batches(films, size, seed)),
        lambda net, batch: detector_loss(net(batch.film, batch.boxes), batch.boxes),
        stretch,
    )


def _train(arguments: argparse.Namespace) -> None:
    stretch = (PAPER_STRETCHES if arguments.paper else STRETCHES)[arguments.command]
    changes = {"epochs": arguments.epochs, "peak_learning_rate": arguments.learning_rate}
    stretch = stretch.model_copy(update={key: value for key, value in changes.items() if value is not None})
    with join_machine(arguments.device, deterministic=arguments.deterministic) as machine:
        job = make_job(arguments, machine, Start())
        about = {"target": arguments.command, "width": arguments.width, "seed": job.seed}
        about["recipe"] = stretch.model_dump(mode="json")
        check_run(job.run, about)
        films = annotated_films(arguments.data)
        _log.info("%d films with all 13 bones", len(films))
        if not machine.leads:
            train(arguments.command, films, arguments.width, stretch, job)
            return
        about["data_terms"] = terms_of_run(arguments.command, arguments.data, None)
        hashed = data_sha256((b"film", film.pixels, film.points, film.sizes) for film in films)
        with running(job.run, about | {"data_sha256": hashed}):
            finish_run(job.run, train(arguments.command, films, arguments.width, stretch, job))


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="python -m training.bones", description=plain(__doc__))
    commands = parser.add_subparsers(dest="command", required=True)
    for target, stretch in STRETCHES.items():
        one = commands.add_parser(target)
        one.add_argument("--data", type=Path, required=True, help="the data folder (rsna2017/, annotations/)")
        one.add_argument("--run", type=Path, required=True, help="the run's folder; a run found there is resumed")
        one.add_argument("--paper", action="store_true", help="SGD as the paper states it; --width 1 is its size")
        one.add_argument("--width", type=positive, default=0.25, help="factor on the papers' channels (default 0.25)")
        one.add_argument("--epochs", type=positive_int, help=f"epochs instead of {stretch.epochs}")
        one.add_argument("--learning-rate", type=positive, help=f"peak instead of {stretch.peak_learning_rate:g}")
        one.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
        one.add_argument("--seed", type=seed_number, default=SEED)
        add_machine_options(one)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train; returns 0 when done, 2 when the data or the run's folder cannot be used, 3 out of time."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        torch.set_num_threads(arguments.threads)
        cv2.setNumThreads(1)
        _train(arguments)
    except TimeUp as over:
        _log.info("%s", over)
        return TIME_UP
    except TrainingError as error:
        _log.error("%s: %s", error.code, error)
        return WRONG_USAGE
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
