"""``boneage-node evaluate``: what the shipped model does on films it has not seen, through the node's own engine.

Prints the paper's Table 3 (MAE and RMSE per age group and sex), cumulative accuracy, interval coverage, refusals,
the detector's errors against annotations and what it says of images without a hand; ``--json`` keeps it for machines.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inference.anatomy import BOX_NAMES, POINT_NAMES, RUS_NAMES
from inference.engine import Engine
from inference.film import Film
from inference.finding import Estimate, Finding, Laterality, Sex, Subject
from inference.preparation import hand_length
from training.annotations import Annotation, read_annotations
from training.errors import TrainingError
from training.radiographs import Radiograph, load_half, load_negatives, load_small, read_split

_log = logging.getLogger(__name__)

AGE_GROUPS_YEARS = ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14), (14, 16), (16, 19))
"""The paper's groups (a, b], with one below and the last one widened: RSNA's films go from 1 to 19 years."""

CENTRE_TOLERANCE = 0.03
"""A ROI centre within this share of the hand's length counts as right."""


@dataclass(frozen=True, slots=True)
class Row:
    """One film's result: reference and estimate in months, interval, or the code of the refusal."""

    rsna_id: int
    sex: str
    reference_months: float
    estimate_months: float | None
    low_months: float | None
    high_months: float | None
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean absolute and root-mean-square error in months over ``films`` films."""

    films: int
    mae_months: float
    rmse_months: float


def film_of(pixels: npt.NDArray[np.uint8]) -> Film:
    """Wrap an 8-bit image as a decoded film."""
    return Film(np.asarray(pixels, dtype=np.float32) / np.float32(255), Laterality.UNKNOWN, "no header", None, ())


def interpret(engine: Engine, film: Radiograph) -> Finding:
    """Run the node's engine on a training film, its sex from the table."""
    subject = Subject(film.reading.sex, "table", None, "table")
    return engine.interpret_film(film_of(film.pixels), subject)


def read_films(engine: Engine, films: list[Radiograph]) -> list[Row]:
    """Interpret films, saying how far it is."""
    rows = []
    for place, film in enumerate(films, 1):
        finding, reading = interpret(engine, film), film.reading
        if isinstance(finding, Estimate):
            numbers = (finding.age_months, finding.interval_low_months, finding.interval_high_months)
            rows.append(Row(reading.rsna_id, reading.sex.value, reading.age_months, *numbers, None))
        else:
            rows.append(
                Row(reading.rsna_id, reading.sex.value, reading.age_months, None, None, None, finding.code.value)
            )
        if place % 50 == 0:
            _log.info("read %d of %d films", place, len(films))
    return rows


def errors_of(rows: list[Row]) -> Errors:
    """Errors over the films that got an age; NaN without any."""
    differences = np.array([r.estimate_months - r.reference_months for r in rows if r.estimate_months is not None])
    if not len(differences):
        return Errors(0, float("nan"), float("nan"))
    return Errors(len(differences), float(np.abs(differences).mean()), float(np.sqrt((differences**2).mean())))


def table_3(rows: list[Row]) -> dict[str, dict[str, Errors]]:
    """Errors per age group and sex as the paper's Table 3 lists them; groups are (a, b] in years of the reference."""
    groups = {f"({low}, {high}]": (low * 12, high * 12) for low, high in AGE_GROUPS_YEARS} | {"all": (-1, 10_000)}
    table = {}
    for name, (low, high) in groups.items():
        inside = [row for row in rows if low < row.reference_months <= high]
        by_sex = {sex.name.lower(): [row for row in inside if row.sex == sex.value] for sex in Sex} | {"total": inside}
        table[name] = {sex: errors_of(part) for sex, part in by_sex.items()}
    return table


def coverage(rows: list[Row]) -> float:
    """Share of references inside their interval."""
    inside = [
        row.low_months <= row.reference_months <= row.high_months
        for row in rows
        if row.low_months is not None and row.high_months is not None
    ]
    return float(np.mean(inside)) if inside else float("nan")


def cumulative_accuracy(rows: list[Row], months: tuple[int, ...] = (6, 12, 18, 24)) -> dict[int, float]:
    """Share of films within so many months (Fig. 9 of the paper at four places)."""
    differences = [abs(r.estimate_months - r.reference_months) for r in rows if r.estimate_months is not None]
    return {
        month: float(np.mean([d <= month for d in differences])) if differences else float("nan") for month in months
    }


def centre_errors(
    engine: Engine, films: list[Radiograph], annotations: dict[int, Annotation]
) -> dict[str, npt.NDArray[np.float64]]:
    """Distances of the found to the annotated centres of the 13 RUS bones, as shares of the hand's length.

    A bone that was not found, or a film without a hand, counts as infinitely far.
    """
    errors: dict[str, list[float]] = {name: [] for name in RUS_NAMES}
    for film in films:
        annotation = annotations.get(film.reading.rsna_id)
        if annotation is None or not all(name in annotation.points for name in BOX_NAMES):
            continue
        truth = annotation.array().astype(np.float64) * (film.pixels.shape[1], film.pixels.shape[0])
        length = float(hand_length(truth))
        finding = interpret(engine, film)
        found = {roi.name: roi.box.centre for roi in finding.rois}
        for name in RUS_NAMES:
            at = truth[POINT_NAMES.index(name)]
            distance = np.hypot(*(np.array(found[name]) - at)) / length if name in found else np.inf
            errors[name].append(float(distance))
    return {name: np.array(values) for name, values in errors.items()}


def print_table(title: str, table: dict[str, dict[str, Errors]]) -> None:
    """Print the paper's Table 3."""
    print(f"\n{title}, months: MAE / RMSE (films)")  # noqa: T201 - a command's answer
    for group, row in table.items():
        cells = [f"{sex} {e.mae_months:5.1f} / {e.rmse_months:5.1f} ({e.films:3d})" for sex, e in row.items()]
        print(f"  {group:9s} " + "   ".join(cells))  # noqa: T201


def evaluate(engine: Engine, data: Path, part: str) -> dict[str, object]:
    """Evaluate ages, intervals, ROIs and eligibility on one part of the split; prints and returns the figures."""
    split, annotations = read_split(), read_annotations(data)
    films = load_half(data, [part], split)
    rows = read_films(engine, films)
    table = table_3(rows)
    print_table(f"Part {part!r}, {len(films)} films", table)
    refused = Counter(row.refusal for row in rows if row.refusal)
    aspects = {rsna_id: annotation.aspect for rsna_id, annotation in annotations.items()}
    held_out = films + load_small(data, ["annotation-test"], split, aspects) if part == "test" else films
    centres = centre_errors(engine, held_out, annotations)
    distances = np.concatenate(list(centres.values()))
    accepted = sum(
        isinstance(engine.interpret_film(film_of(image), Subject(Sex.MALE, "assumed", None, "")), Estimate)
        for image in load_negatives(data)
    )
    figures: dict[str, object] = {
        "part": part,
        "model": asdict(engine.identity),
        "films": len(films),
        "table_3": {group: {sex: asdict(e) for sex, e in row.items()} for group, row in table.items()},
        "within_months": cumulative_accuracy(rows),
        "coverage_90": coverage(rows),
        "refused": dict(refused),
        "roi_boxes": len(distances),
        "roi_centres_within_3_percent": float((distances <= CENTRE_TOLERANCE).mean()),
        "roi_centre_median": float(np.median(distances)),
        "roi_centres_per_bone": {name: float((values <= CENTRE_TOLERANCE).mean()) for name, values in centres.items()},
        "non_hands_accepted": accepted,
        "rows": [asdict(row) for row in rows],
    }
    for key, value in figures.items():
        if key not in {"table_3", "rows"}:
            print(f"{key}: {value}")  # noqa: T201 - a command's answer
    return figures


def main(argv: list[str] | None = None) -> int:
    """Evaluate; returns 0, or 2 when the data cannot be used."""
    parser = argparse.ArgumentParser(prog="boneage-node evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="the data folder (rsna2017/, annotations/, negatives/)"
    )
    parser.add_argument("--method", default="global-local", help="which bundle to evaluate (default global-local)")
    parser.add_argument("--part", default="test", choices=("train", "validation", "test"), help="part of the split")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        figures = evaluate(Engine.load(arguments.method, threads=arguments.threads), arguments.data, arguments.part)
    except TrainingError as error:
        _log.error("%s: %s", error.code, error)
        return 2
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
