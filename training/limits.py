"""``python -m training.limits``: how near films come to the limits from which the node refuses or flags a picture.

Each film's hand is found as the node finds it, and what ``inference/eligibility.py`` measures of the picture around its
bones is set beside the limits there. It is what those limits were set by, and tells a site whether its own films, of
another detector or another processing, would be refused or flagged too often. Films that no hand is found in, and those
that are refused before one is looked for (too small, no contrast), are counted apart: nothing is measured of them.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from inference import eligibility
from inference.bundle import DETECTOR, open_bundle
from inference.eligibility import PictureEvidence
from inference.engine import Locator, choose_hand
from inference.errors import InferenceError
from inference.film import bytes_to_read, without_border
from inference.torch_backend import TorchLocator, choose_device
from training.arguments import add_device, add_part, add_threads, first_line, positive_int
from training.errors import DataError, TrainingError, exit_code
from training.evaluation.figures import clean, measured_now
from training.evaluation.output import check_outputs, told_at_last, write_output
from training.evaluation.reading import film_of
from training.radiographs import Radiograph, load_half, load_small, refuse_no_films
from training.stress import spread
from training.terms import terms_of_films

SCHEMA = "boneage-node/limits/1"
PERCENTILES = (0.0, 1.0, 50.0, 99.0, 100.0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of one measure: above or below ``value`` a film is refused or flagged."""

    measure: str  # a field of PictureEvidence; of a signed one its size counts
    side: Literal["above", "below"]
    value: float
    outcome: Literal["refused", "flagged"]

    def is_beyond(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Return for each value whether it is beyond the limit."""
        beyond: npt.NDArray[np.bool_] = values > self.value if self.side == "above" else values < self.value
        return beyond


LIMITS: tuple[Limit, ...] = (
    Limit("black", "above", eligibility.MOST_BLACK, "refused"),
    Limit("white", "above", eligibility.MOST_WHITE, "refused"),
    Limit("noise", "above", eligibility.MOST_NOISE, "refused"),
    Limit("sharpness", "below", eligibility.LEAST_SHARPNESS, "refused"),
    Limit("coarse_sharpness", "below", eligibility.LEAST_COARSE_SHARPNESS, "refused"),
    Limit("coarse_detail", "below", eligibility.LEAST_COARSE_DETAIL, "refused"),
    Limit("grey_count", "below", eligibility.LEAST_GREY_COUNT, "refused"),
    Limit("grey_count", "below", eligibility.FEW_GREY_COUNT, "flagged"),
    Limit("lines", "above", eligibility.MOST_LINES, "refused"),
    Limit("lines", "above", 0.0, "flagged"),
    Limit("grid", "above", eligibility.MOST_GRID, "flagged"),
    Limit("blocks", "above", eligibility.MOST_BLOCKS, "flagged"),
    Limit("bright_radius", "above", eligibility.MOST_BRIGHT_RADIUS, "flagged"),
    Limit("slope", "above", eligibility.MOST_SLOPE, "flagged"),
)
"""Those of :func:`inference.eligibility.doubt_picture` and :func:`inference.eligibility.flags_of_picture`."""


def weigh_films(locator: Locator, films: Iterable[Radiograph]) -> tuple[list[PictureEvidence], list[int]]:
    """Return what is measured of each film's hand, and the ids of films that show none, or are refused before."""
    found: list[PictureEvidence] = []
    without: list[int] = []
    for film in films:
        image, _ = without_border(bytes_to_read(film_of(film.pixels)))
        located, image, _ = ([], image, False) if eligibility.doubt_image(image) else locator.locate(image)
        hands = [hand for hand in located if eligibility.is_hand(hand.evidence)]
        if hands:
            landmarks = choose_hand(hands, image.shape[1]).landmarks
            found.append(eligibility.weigh_picture(image, landmarks))
        else:
            without.append(film.reading.rsna_id)
        if (len(found) + len(without)) % 100 == 0:
            _log.info("looked at %d films", len(found) + len(without))
    return found, without


def limit_figures(found: Sequence[PictureEvidence], limits: Sequence[Limit] = LIMITS) -> list[dict[str, Any]]:
    """Set films beside the limits: of each the percentiles of its measure, and how many films are beyond it.

    Raises
    ------
    DataError
        If nothing was measured.
    """
    if not found:
        raise DataError("No hand is found in any of these films; there is nothing to measure.")
    rows = []
    for limit in limits:
        values = np.abs([float(getattr(one, limit.measure)) for one in found])
        spread_of = {f"{share:g}": float(np.percentile(values, share)) for share in PERCENTILES}
        rows.append(asdict(limit) | {"percentiles": spread_of, "beyond": int(limit.is_beyond(values).sum())})
    return rows


def print_figures(table: dict[str, Any]) -> None:
    """Print a row a limit."""
    say = print  # a command's answer
    heads = ("least", "1 %", "median", "99 %", "most")
    say(f"{'measure':18s} {'limit':>14s}  {'a film is':9s} " + " ".join(f"{head:>8s}" for head in heads) + "   beyond")
    for row in table["rows"]:
        limit = f"{row['side']} {row['value']:g}"
        cells = " ".join(f"{value:8.3g}" for value in row["percentiles"].values())
        say(f"{row['measure']:18s} {limit:>14s}  {row['outcome']:9s} {cells} {row['beyond']:8d}")
    say(f"{table['films']} films with a hand; of {len(table['without_hand'])} more nothing is measured.")


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="python -m training.limits", description=first_line(__doc__))
    parser.add_argument("--data", type=Path, required=True, help="this project's data folder, RSNA's or a site's own")
    add_part(parser, "train")
    parser.add_argument("--small", action="store_true", help="also the films at 100 x 100 pixels that were trained on")
    parser.add_argument("--films", type=positive_int, metavar="N", help="so many of each, spread over the ages")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    add_device(parser)
    add_threads(parser)
    return parser


def _load(arguments: argparse.Namespace) -> list[Radiograph]:
    films = load_half(arguments.data, [arguments.part])
    refuse_no_films(films, arguments.data, arguments.part)
    small = load_small(arguments.data, ["pretrain"]) if arguments.small else []
    return films + small if arguments.films is None else spread(films, arguments.films) + spread(small, arguments.films)


def _run(arguments: argparse.Namespace) -> None:
    check_outputs(arguments.json)
    locator = TorchLocator(open_bundle(DETECTOR), choose_device(arguments.device, arguments.threads))
    found, without = weigh_films(locator, _load(arguments))
    rows = limit_figures(found)
    terms = terms_of_films(arguments.data)
    head = {"schema": SCHEMA, **measured_now(), "part": arguments.part, "small": arguments.small, "terms": terms}
    table = clean({**head, "films": len(found), "without_hand": without, "rows": rows})
    with told_at_last(lambda: print_figures(table)):
        write_output(arguments.json, lambda: json.dumps(table, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0, 1 when the detector cannot be opened, 2 when the data or the output cannot be used."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _run(arguments)
    except (TrainingError, InferenceError) as error:
        return exit_code(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
