"""``python -m training.outliers``: what becomes of images that are no readable hand.

Groups are made from hand films and from other images: chests, wrists alone, single fingers, parts and scrambled pieces
of hands, hands under a cast or with a plate (bright bars), hands laid far askew, noise, blank sheets, textures with the
statistics of photographs, and the images that pydicom brings along for its own tests. All go through the node's engine.
Counted is how many are refused, read with a flag, or read in silence. Limbs other than hands are not among the data.

A hand laid askew may be read, since it is turned upright first, and says so by a flag; a cast or plate hides bones and
should be refused or flagged, and its row holds how far the age moved where it was read.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import dcmread

from inference.detector import crop_upright
from inference.engine import Engine
from inference.errors import InferenceError
from inference.finding import Estimate, Finding, Sex, Subject
from inference.method import DEFAULT_METHOD
from inference.pose import Pose, fit_pose, template_points
from inference.preparation import roi_centres
from training.arguments import add_part, add_threads, first_line, positive_int
from training.errors import TrainingError, exit_code
from training.evaluation.figures import clean
from training.evaluation.output import check_outputs, told_at_last, write_output
from training.evaluation.reading import film_of
from training.radiographs import Radiograph, load_half, load_negatives, refuse_no_films
from training.stress import SEED, spread, turned

Grey = npt.NDArray[np.uint8]
Window = tuple[float, float, float, float]

USUAL_FLAGS = frozenset({"laterality-from-pixels"})
"""Flags that every film without a header gets; they warn of nothing here."""

PYDICOM_IMAGES = Path(pydicom.__file__).parent / "data" / "test_files"
"""Those that are installed with it; its own functions would download more."""

PARTS: dict[str, Window] = {
    "wrist alone": (0.15, 0.70, 0.85, 1.0),
    "single finger": (0.42, 0.0, 0.58, 0.45),
    "fingers without palm": (0.0, 0.0, 1.0, 0.45),
    "palm and wrist without fingers": (0.0, 0.5, 1.0, 1.0),
    "thumb's half": (0.5, 0.0, 1.0, 1.0),
    "little finger's half": (0.0, 0.0, 0.5, 1.0),
    "hand without wrist": (0.0, 0.0, 1.0, 0.72),
}
"""What is cut out of upright hands, in units of the template's plane."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What became of one group; ``silent`` films were read without a flag. Shifts are months, where an age is known."""

    group: str
    images: int
    refused: float
    flagged: float
    silent: float
    mean_absolute_shift: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Hand:
    """A hand film that is read as it is, with its pose by the regions found."""

    film: Radiograph
    estimate: Estimate
    pose: Pose


def take_hands(engine: Engine, films: list[Radiograph]) -> list[Hand]:
    """Read hand films and keep those that get an age."""
    template = roi_centres(template_points(), Pose(np.eye(2, 3)))
    hands = []
    for film in films:
        finding = engine.interpret_film(film_of(film.pixels), _subject(film))
        if isinstance(finding, Estimate) and len(finding.rois) == len(template):
            centres = np.array([roi.box.centre for roi in finding.rois])
            hands.append(Hand(film, finding, fit_pose(template, centres)))
    return hands


def _subject(film: Radiograph) -> Subject:
    return Subject(film.reading.sex, "table", None, "table")


def part_of(hand: Hand, window: Window) -> Grey:
    """Cut a part out of a hand, upright, at the film's own resolution."""
    x0, y0, x1, y1 = window
    extent = (max(96, round((x1 - x0) * hand.pose.scale)), max(96, round((y1 - y0) * hand.pose.scale)))
    return crop_upright(hand.film.pixels, hand.pose, extent, window)


def scrambled(hand: Hand, rng: np.random.Generator, pieces: int = 4) -> Grey:
    """Cut a film into squares and lay them anew."""
    rows, columns = hand.film.pixels.shape[0] // pieces, hand.film.pixels.shape[1] // pieces
    tiles = [
        hand.film.pixels[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns]
        for r in range(pieces)
        for c in range(pieces)
    ]
    order = rng.permutation(len(tiles))
    return np.vstack([np.hstack([tiles[i] for i in order[r * pieces : (r + 1) * pieces]]) for r in range(pieces)])


def plated(hand: Hand) -> Grey:
    """Lay a bright plate along the radius, over its growth plate."""
    image = hand.film.pixels.copy()
    radius = roi_centres(template_points(), Pose(np.eye(2, 3)))[0]
    ends = hand.pose.to_film(radius + np.array([[0.0, -0.06], [0.0, 0.12]])).round().astype(int).tolist()
    cv2.line(image, ends[0], ends[1], 255, max(3, round(0.05 * hand.pose.scale)))
    return image


def in_cast(hand: Hand) -> Grey:
    """Lay the bright, coarse shade of a plaster cast over wrist and palm."""
    corners = hand.pose.to_film([(0.2, 0.45), (0.8, 0.45), (0.8, 1.1), (0.2, 1.1)])
    mask = np.zeros(hand.film.pixels.shape, dtype=np.uint8)
    cv2.fillPoly(mask, [corners.round().astype(np.int32)], 1)
    coarse = np.random.default_rng(SEED).normal(0, 1, (40, 40)).astype(np.float32)
    grain = cv2.resize(coarse, mask.shape[::-1], interpolation=cv2.INTER_CUBIC) * 18
    shade = np.clip(0.35 * hand.film.pixels + 150 + grain, 0, 255)
    return np.where(mask > 0, shade, hand.film.pixels).astype(np.uint8)


def texture(rng: np.random.Generator, side: int = 512) -> Grey:
    """Make a texture whose spectrum falls as 1 / frequency, as that of photographs does (Field 1987)."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = np.inf
    waves = np.fft.ifft2(np.exp(2j * np.pi * rng.random((side, side))) / frequency).real
    low, high = np.percentile(waves, (1, 99))
    return np.asarray(np.clip((waves - low) / (high - low) * 255, 0, 255), dtype=np.uint8)


Shape = Callable[[Hand, np.random.Generator], Grey]


def askew(hand: Hand, rng: np.random.Generator) -> Grey:
    """Turn a film by 60 to 120 degrees."""
    return turned(float(rng.uniform(60, 120)))(hand.film.pixels, hand.estimate.hand, rng)


def cutter(window: Window) -> Shape:
    """Return what cuts this part out of a hand."""
    return lambda hand, _rng: part_of(hand, window)


FROM_HANDS: dict[str, Shape] = {
    **{name: cutter(window) for name, window in PARTS.items()},
    "scrambled hand": scrambled,
    "plate on the radius": lambda hand, _rng: plated(hand),
    "cast": lambda hand, _rng: in_cast(hand),
    "askew by 60 to 120 degrees": askew,
}
"""Groups made from hand films."""


def sheets(rng: np.random.Generator, count: int) -> Iterator[tuple[str, Grey]]:
    """Make noise, blank sheets and textures."""
    for _ in range(count):
        yield "noise", rng.integers(0, 256, (600, 480), dtype=np.uint8)
        yield "smoothed noise", cv2.GaussianBlur(rng.integers(0, 256, (600, 480), dtype=np.uint8), (0, 0), 12) * 3
        yield "blank", np.full((600, 480), int(rng.integers(0, 256)), dtype=np.uint8)
        yield "texture of a photograph", texture(rng)


def measure(engine: Engine, films: list[Radiograph], negatives: list[Grey]) -> list[Rate]:
    """Count every group; groups without an image are left out."""
    rng, hands = np.random.default_rng(SEED), take_hands(engine, films)
    counted = []
    for name, make in FROM_HANDS.items():
        pairs = [(engine.interpret_film(film_of(make(h, rng)), _subject(h.film)), h.estimate) for h in hands]
        counted.append(rate(name, [finding for finding, _ in pairs], [estimate for _, estimate in pairs]))
    found: dict[str, list[Finding]] = {"chests": [], "pydicom's test images": pydicom_findings(engine)}
    subject = Subject(Sex.MALE, "assumed", None, "none")
    for name, image in [*(("chests", image) for image in negatives), *sheets(rng, max(1, len(films)))]:
        found.setdefault(name, []).append(engine.interpret_film(film_of(image), subject))
    return [one for one in counted + [rate(*group) for group in found.items()] if one.images]


def pydicom_findings(engine: Engine) -> list[Finding]:
    """Interpret the images that pydicom brings along, as objects, their sex entered."""
    findings = []
    for path in sorted(PYDICOM_IMAGES.glob("*.dcm")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are odd on purpose
            ds = dcmread(path, force=True)
            if "PixelData" in ds:
                ds.PatientSex, ds.SOPClassUID = "M", "1.2.840.10008.5.1.4.1.1.1"  # as if an X-ray room had sent them
                findings.append(engine.interpret(ds))
    return findings


def rate(group: str, findings: list[Finding], before: list[Estimate] | None = None) -> Rate:
    """Count refused, flagged and silent findings, and how far ages moved from those before."""
    count, read = len(findings), [finding for finding in findings if isinstance(finding, Estimate)]
    if not count:
        return Rate(group, 0, 0.0, 0.0, 0.0)
    flagged = sum(bool({flag.code for flag in finding.flags} - USUAL_FLAGS) for finding in read)
    shifts = [
        abs(after.age_months - one.age_months)
        for after, one in zip(findings, before or [], strict=False)
        if isinstance(after, Estimate)
    ]
    mean = float(np.mean(shifts)) if shifts else None
    return Rate(group, count, 1 - len(read) / count, flagged / count, (len(read) - flagged) / count, mean)


def print_rates(rates: list[Rate]) -> None:
    """Print a table of the groups."""
    say = print  # a command's answer
    say(f"{'group':32s} images refused flagged  silent  |shift|")
    for one in rates:
        shift = "" if one.mean_absolute_shift is None else f"{one.mean_absolute_shift:8.1f}"
        say(f"{one.group:32s} {one.images:6d} {one.refused:7.0%} {one.flagged:7.0%} {one.silent:7.0%} {shift}")
    say("Research use only, not for diagnosis.")


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="python -m training.outliers", description=first_line(__doc__))
    parser.add_argument("--data", type=Path, required=True, help="the data folder (rsna2017/, negatives/)")
    parser.add_argument("--method", default=DEFAULT_METHOD, help=f"whose bundle (default {DEFAULT_METHOD})")
    add_part(parser, "validation")
    parser.add_argument(
        "--films", type=positive_int, default=20, metavar="N", help="so many hand films, spread over the ages"
    )
    parser.add_argument("--json", type=Path, help="also write the rates there")
    add_threads(parser)
    return parser


def _measure(arguments: argparse.Namespace) -> None:
    check_outputs(arguments.json)
    engine = Engine.load(arguments.method, threads=arguments.threads)
    films = load_half(arguments.data, [arguments.part])
    refuse_no_films(films, arguments.data, arguments.part)
    rates = measure(engine, spread(films, arguments.films), load_negatives(arguments.data))
    table = {"part": arguments.part, "model": asdict(engine.identity), "rows": [asdict(one) for one in rates]}
    with told_at_last(lambda: print_rates(rates)):
        write_output(arguments.json, lambda: json.dumps(clean(table), indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0, 1 when the model cannot be opened, 2 when the data or the output cannot be used."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _measure(arguments)
    except (TrainingError, InferenceError) as error:
        return exit_code(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
