"""``boneage-node stress``: what a change of the film that leaves the bones as they are does to the age.

Each film is read as it is and once more per change: turned, mirrored, inverted, brighter or darker, with more or less
contrast, gamma, noise, blur, half resolution, borders, collimation, a pasted marker, other bit depths. All readings go
through the node's own engine; changes of bit depth go through a DICOM object. A change passes if the mean absolute
error over the films that were read both ways moves by at most LIMIT_MONTHS; a film that is refused after the change is
not read wrongly in silence, and is counted. Shifts are the age after minus the age before, on the same film.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from inference.engine import Engine
from inference.errors import InferenceError
from inference.film import Film, read_film
from inference.finding import Box, Estimate, Finding, Subject
from inference.method import DEFAULT_METHOD
from training.arguments import add_device, add_part, add_threads, first_line, positive_int
from training.errors import DataError, TrainingError, exit_code
from training.evaluation.figures import clean, measured_now
from training.evaluation.output import check_outputs, told_at_last, write_output
from training.evaluation.page import page
from training.evaluation.reading import film_of
from training.evaluation.report import stress_section
from training.radiographs import Radiograph, load_half, refuse_no_films
from training.radiographs import Reading as Reference
from training.terms import terms_of_films

Grey = npt.NDArray[np.uint8]
Maker = Callable[[Grey, Box, np.random.Generator], Grey | Film]
GreyMaker = Callable[[Grey, Box, np.random.Generator], Grey]

SCHEMA = "boneage-node/stress/1"

LIMIT_MONTHS = 1.0
"""Most by which a change may move the mean absolute error."""
SEED = 7

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a film; ``make`` gets its pixels (rows, columns), the box of the hand and a source of chance."""

    name: str
    make: Maker

    def apply(self, pixels: Grey, hand: Box) -> Film:
        """Return the changed film; the same each time."""
        made = self.make(pixels, hand, np.random.default_rng(SEED))
        return made if isinstance(made, Film) else film_of(np.ascontiguousarray(made))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one change did to the films; months. MAEs and shifts are over the films read before and after it.

    They are NaN where no film was read after it.
    """

    change: str
    films: int
    read: int
    refused_share: float
    flagged_share: float  # of the films read after the change: those with a flag they had not before
    mae_before: float
    mae_after: float
    mean_shift: float
    mean_absolute_shift: float
    largest_shift: float
    largest_silent_shift: float  # of films without a new flag

    @property
    def passed(self) -> bool:
        """Whether the change moved the MAE by at most LIMIT_MONTHS, or every film was refused."""
        return self.read == 0 or abs(self.mae_after - self.mae_before) <= LIMIT_MONTHS


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A film that was read as it is."""

    film: Radiograph
    before: Estimate


def _clipped(values: npt.NDArray[np.floating]) -> Grey:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


def turned(degrees: float, *, whole: bool = True) -> GreyMaker:
    """Turn clockwise; ``whole`` lets the frame grow, otherwise corners are lost. New corners are black."""

    def make(pixels: Grey, _hand: Box, _rng: np.random.Generator) -> Grey:
        rows, columns = pixels.shape
        matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), -degrees, 1.0)
        width, height = columns, rows
        if whole:
            size = np.abs(matrix[:, :2]) @ np.array([columns, rows])
            width, height = int(np.ceil(size[0])), int(np.ceil(size[1]))
            matrix[:, 2] += (size - np.array([columns, rows])) / 2
        return np.asarray(cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR), dtype=np.uint8)

    return make


def levels(factor: float = 1.0, offset: float = 0.0) -> Maker:
    """Scale grey values about mid-grey, then add an offset; what leaves 0..255 is lost."""
    return lambda pixels, _hand, _rng: _clipped((pixels.astype(np.float32) - 127.5) * factor + 127.5 + offset)


def gamma(exponent: float) -> Maker:
    """Raise grey values of 0..1 to a power."""
    return lambda pixels, _hand, _rng: _clipped(255 * (pixels / np.float32(255)) ** exponent)


def darkened(share: float, *, right: bool) -> Maker:
    """Let the light fall off evenly, by a share, from one side of the film to its left or right."""

    def make(pixels: Grey, _hand: Box, _rng: np.random.Generator) -> Grey:
        ramp = np.linspace(1 - share, 1, pixels.shape[1], dtype=np.float32)
        return _clipped(pixels * (ramp[::-1] if right else ramp))

    return make


def vignetted(share: float) -> Maker:
    """Let the light fall off from the film's middle, by a share at its corners, with the square of the distance."""

    def make(pixels: Grey, _hand: Box, _rng: np.random.Generator) -> Grey:
        y, x = (np.linspace(-1, 1, count, dtype=np.float32) for count in pixels.shape)
        return _clipped(pixels * (1 - share * (x**2 + y[:, None] ** 2) / 2))

    return make


def scattered(share: float, reach: float = 0.1) -> Maker:
    """Mix a film with itself, blurred over a share of its longer side, as scattered radiation does without a grid."""

    def make(pixels: Grey, _hand: Box, _rng: np.random.Generator) -> Grey:
        spread_out = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), reach * max(pixels.shape))
        return _clipped((1 - share) * pixels + share * spread_out)

    return make


def rounded(values: int) -> Maker:
    """Round grey values of 0..255 to so many even steps."""
    step = np.float32(255 / (values - 1))
    return lambda pixels, _hand, _rng: _clipped(np.rint(pixels / step) * step)


def squashed(share: float) -> Maker:
    """Make a film narrower by a share, as pixels that are not square do where no one says so."""

    def make(pixels: Grey, _hand: Box, _rng: np.random.Generator) -> Grey:
        return np.asarray(cv2.resize(pixels, None, fx=1 - share, fy=1, interpolation=cv2.INTER_AREA), dtype=np.uint8)

    return make


def noise(deviation: float) -> Maker:
    """Add Gaussian noise of that standard deviation in grey levels."""
    return lambda pixels, _hand, rng: _clipped(pixels + rng.normal(0, deviation, pixels.shape))


def blur(pixels_sigma: float) -> Maker:
    """Blur by a Gaussian."""
    return lambda pixels, _hand, _rng: np.asarray(cv2.GaussianBlur(pixels, (0, 0), pixels_sigma), dtype=np.uint8)


def resized(factor: float) -> Maker:
    """Change the resolution."""

    def make(pixels: Grey, _hand: Box, _rng: np.random.Generator) -> Grey:
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=method), dtype=np.uint8)

    return make


def bordered(grey: int, share: float = 0.1) -> Maker:
    """Put the film on a larger sheet of one grey value."""

    def make(pixels: Grey, _hand: Box, _rng: np.random.Generator) -> Grey:
        rows, columns = round(share * pixels.shape[0]), round(share * pixels.shape[1])
        return np.pad(pixels, ((rows, rows), (columns, columns)), constant_values=grey)

    return make


def collimated(grey: int, margin: float = 0.02) -> Maker:
    """Cover all that lies further from the hand's box than a share of the film's longer side."""

    def make(pixels: Grey, hand: Box, _rng: np.random.Generator) -> Grey:
        reach = margin * max(pixels.shape)
        y0, y1 = max(0, round(hand.y0 - reach)), max(0, round(hand.y1 + reach))
        x0, x1 = max(0, round(hand.x0 - reach)), max(0, round(hand.x1 + reach))
        covered = np.full_like(pixels, grey)
        covered[y0:y1, x0:x1] = pixels[y0:y1, x0:x1]
        return covered

    return make


def marked(*, right: bool, inverted: bool = False) -> Maker:
    """Paste a lead letter and a label with the look of a name plate into the upper corner of a film."""

    def make(pixels: Grey, _hand: Box, _rng: np.random.Generator) -> Grey:
        image, side = pixels.copy(), max(24, round(0.12 * pixels.shape[1]))
        x = pixels.shape[1] - 2 * side if right else side // 2
        ink = 0 if inverted else 255
        cv2.rectangle(image, (x, side // 2), (x + 3 * side // 2, side), 255 - ink, -1)
        cv2.putText(image, "L 0000", (x, side), cv2.FONT_HERSHEY_SIMPLEX, side / 80, ink, 1)
        cv2.putText(image, "L", (x, 2 * side), cv2.FONT_HERSHEY_SIMPLEX, side / 30, ink, max(2, side // 12))
        return image

    return make


def compressed(quality: int) -> Maker:
    """Compress as JPEG."""

    def make(pixels: Grey, _hand: Box, _rng: np.random.Generator) -> Grey:
        encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)

    return make


def stored(bits: int, *, low: float = 0.0, high: float = 1.0, photometric: str = "MONOCHROME2") -> Maker:
    """Store the film as a CR object of so many bits that uses a part of their range, and render that."""

    def make(pixels: Grey, _hand: Box, rng: np.random.Generator) -> Film:
        unit = np.clip((pixels + rng.uniform(-0.5, 0.5, pixels.shape)) / 255, 0, 1)  # what 8 bits had rounded off
        unit = 1 - unit if photometric == "MONOCHROME1" else unit
        return read_film(as_object(np.rint((low + (high - low) * unit) * (2**bits - 1)), bits, photometric))

    return make


def as_object(values: npt.NDArray[np.floating], bits: int, photometric: str) -> Dataset:
    """Return a CR object of 8..16 bits with these stored values, shape (rows, columns), without a window."""
    ds, allocated = Dataset(), 8 if bits == 8 else 16
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = ComputedRadiographyImageStorage, "2.25.1", "CR"
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, photometric, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, bits, bits - 1
    content = values.astype(np.uint8 if allocated == 8 else "<u2").tobytes()
    ds.PixelData = content + b"\0" * (len(content) % 2)
    ds["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return ds


CHANGES: tuple[Change, ...] = (
    *(Change(f"turned by {degrees:+d} degrees", turned(degrees)) for degrees in (-30, -20, -10, 10, 20, 30)),
    *(Change(f"turned by {degrees:+d} degrees in its frame", turned(degrees, whole=False)) for degrees in (-15, 15)),
    Change("left and right swapped", lambda pixels, _hand, _rng: pixels[:, ::-1]),
    Change("up and down swapped", lambda pixels, _hand, _rng: pixels[::-1]),
    Change("inverted", lambda pixels, _hand, _rng: np.asarray(255 - pixels, dtype=np.uint8)),
    Change("brighter by 40 of 255", levels(offset=40)),
    Change("brighter by 80 of 255", levels(offset=80)),
    Change("darker by 20 of 255", levels(offset=-20)),
    Change("darker by 40 of 255", levels(offset=-40)),
    Change("contrast 0.5", levels(0.5)),
    Change("contrast 1.5", levels(1.5)),
    Change("gamma 0.5", gamma(0.5)),
    Change("gamma 2", gamma(2.0)),
    *(
        Change(f"light falling off by {share:.0%} to the {'right' if right else 'left'}", darkened(share, right=right))
        for share in (0.4, 0.6, 0.8)
        for right in (False, True)
    ),
    Change("light falling off by 60% to corners", vignetted(0.6)),
    Change("light falling off by 90% to corners", vignetted(0.9)),
    Change("scatter of 40%", scattered(0.4)),
    Change("scatter of 60%", scattered(0.6)),
    *(Change(f"{values} grey values", rounded(values)) for values in (16, 24, 32)),
    Change("narrower by 5%", squashed(0.05)),
    Change("narrower by 10%", squashed(0.1)),
    Change("noise of 5 of 255", noise(5)),
    Change("noise of 15 of 255", noise(15)),
    Change("blurred by 1 pixel", blur(1.0)),
    Change("blurred by 2 pixels", blur(2.0)),
    Change("blurred by 4 pixels", blur(4.0)),
    Change("half resolution", resized(0.5)),
    Change("double resolution", resized(2.0)),
    Change("JPEG of quality 50", compressed(50)),
    Change("white border", bordered(255)),
    Change("grey border", bordered(128)),
    Change("black border", bordered(0)),
    Change("broad black border", bordered(0, 0.4)),
    Change("collimated, black", collimated(0)),
    Change("collimated, white", collimated(255)),
    Change("marker at the upper left", marked(right=False)),
    Change("marker at the upper right", marked(right=True)),
    Change("dark marker at the upper left", marked(right=False, inverted=True)),
    Change("8 bits", stored(8)),
    Change("12 bits", stored(12)),
    Change("12 bits, a third of their range", stored(12, low=0.1, high=0.43)),
    Change("16 bits, MONOCHROME1", stored(16, photometric="MONOCHROME1")),
)
"""The suite."""


def stress(engine: Engine, films: list[Radiograph], changes: tuple[Change, ...] = CHANGES) -> list[Outcome]:
    """Read films before and after each change; films refused as they are play no part.

    Raises
    ------
    DataError
        If none of the films is read as it is, or no change is to be made.
    """
    if not changes:
        raise DataError("There is no such change; boneage-node stress without --only names them all.")
    readings = []
    for film in films:
        finding = _read(engine, film, film_of(film.pixels))
        if isinstance(finding, Estimate):
            readings.append(Reading(film, finding))
    if not readings:
        raise DataError("The model reads none of these films as they are; there is nothing to compare with.")
    outcomes = []
    for change in changes:
        after = [_read(engine, r.film, change.apply(r.film.pixels, r.before.hand)) for r in readings]
        outcomes.append(compare(change.name, readings, after))
        _log.info("%s: %d of %d films read", change.name, outcomes[-1].read, len(readings))
    return outcomes


def _read(engine: Engine, film: Radiograph, changed: Film) -> Finding:
    return engine.interpret_film(changed, Subject(film.reading.sex, "table", None, "table"))


def compare(name: str, readings: list[Reading], after: list[Finding]) -> Outcome:
    """Set the findings after a change beside those before it."""
    pairs = [(r, finding) for r, finding in zip(readings, after, strict=True) if isinstance(finding, Estimate)]
    truth = np.array([r.film.reading.age_months for r, _ in pairs])
    before = np.array([r.before.age_months for r, _ in pairs])
    later = np.array([finding.age_months for _, finding in pairs])
    shifts = later - before
    codes = ({flag.code for flag in finding.flags} - {flag.code for flag in r.before.flags} for r, finding in pairs)
    flagged = np.array([bool(new) for new in codes], dtype=bool)
    return Outcome(
        name,
        len(readings),
        len(pairs),
        1 - len(pairs) / len(readings),
        _mean(flagged.astype(np.float64)),
        _mean(np.abs(before - truth)),
        _mean(np.abs(later - truth)),
        _mean(shifts),
        _mean(np.abs(shifts)),
        _largest(shifts),
        _largest(shifts[~flagged]),
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _largest(shifts: npt.NDArray[np.float64]) -> float:
    return float(np.abs(shifts).max()) if len(shifts) else math.nan


def stress_figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the suite as the JSON of ``evaluate`` and of ``stress`` has it; null is what no film was read for."""
    rows = [clean(asdict(outcome) | {"passed": outcome.passed}) for outcome in outcomes]
    return {"films": outcomes[0].films, "limit_months": LIMIT_MONTHS, "rows": rows}


class _HasReading(Protocol):
    @property
    def reading(self) -> Reference: ...


_Film = TypeVar("_Film", bound=_HasReading)


def spread(films: list[_Film], count: int) -> list[_Film]:
    """Take so many films, evenly spread over the ages."""
    ordered = sorted(films, key=lambda film: (film.reading.age_months, film.reading.rsna_id))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    return [ordered[place] for place in places]


def print_outcomes(found: dict[str, Any]) -> None:
    """Print a table of the suite, from :func:`stress_figures`."""
    say = print  # a command's answer
    heads = ("MAE", "after", "shift", "|shift|", "most", "silent", "refused", "new flag")
    say(f"{'change':34s} " + " ".join(f"{head:>8s}" for head in heads))
    for row in found["rows"]:
        outcome = "passed" if row["passed"] else "FAILED"
        say(
            f"{row['change']:34s} {_cell(row['mae_before'], '.2f')} {_cell(row['mae_after'], '.2f')} "
            f"{_cell(row['mean_shift'], '+.2f')} {_cell(row['mean_absolute_shift'], '.2f')} "
            f"{_cell(row['largest_shift'], '.1f')} {_cell(row['largest_silent_shift'], '.1f')} "
            f"{row['refused_share']:8.0%} {_cell(row['flagged_share'], '.0%')}  {outcome}"
        )
    passed = sum(row["passed"] for row in found["rows"])
    say(f"{passed} of {len(found['rows'])} passed. Research use only, not for diagnosis.")


def _cell(value: float | None, written: str) -> str:
    """Write a number, or a dash for one that could not be measured."""
    said = "\N{EN DASH}" if value is None else format(value, written)
    return f"{said:>8s}"


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="boneage-node stress", description=first_line(__doc__))
    parser.add_argument("--data", type=Path, required=True, help="this project's data folder, RSNA's or a site's own")
    parser.add_argument(
        "--method", default=DEFAULT_METHOD, help=f"whose bundle to read with (default {DEFAULT_METHOD})"
    )
    add_part(parser, "validation")
    parser.add_argument(
        "--films", type=positive_int, default=20, metavar="N", help="so many films, spread over the ages"
    )
    parser.add_argument("--only", metavar="TEXT", help="only changes whose names hold this")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--report", type=Path, metavar="HTML", help="also write a page for people there")
    add_device(parser)
    add_threads(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the suite; returns 0, 1 when a change fails or the model cannot be opened, 2 when the data cannot be used."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        outcomes = _run(arguments)
    except (TrainingError, InferenceError) as error:
        return exit_code(error)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _run(arguments: argparse.Namespace) -> list[Outcome]:
    check_outputs(arguments.json, arguments.report)
    changes = tuple(change for change in CHANGES if arguments.only is None or arguments.only in change.name)
    if not changes:
        raise DataError(f"No change is called {arguments.only!r}; there are: {'; '.join(c.name for c in CHANGES)}.")
    engine = Engine.load(arguments.method, threads=arguments.threads, device=arguments.device)
    films = load_half(arguments.data, [arguments.part])
    refuse_no_films(films, arguments.data, arguments.part)
    films = spread(films, arguments.films)
    outcomes = stress(engine, films, changes)
    found = stress_figures(outcomes)
    model = engine.identity
    table = {"schema": SCHEMA, **measured_now(), "part": arguments.part, "model": asdict(model), **found}
    lead = (
        f"{model.name} {model.version} on {found['films']} films of the part {arguments.part}: "
        f"{terms_of_films(arguments.data)}."
    )
    with told_at_last(lambda: print_outcomes(found)):
        write_output(arguments.json, lambda: json.dumps(table, indent=1) + "\n")
        write_output(
            arguments.report, lambda: page("What changes of a film do to the age", lead, [stress_section(found)])
        )
    return outcomes


if __name__ == "__main__":
    raise SystemExit(main())
