"""``boneage-node evaluate``: what the shipped model does on films it has not seen, through the node's own engine.

Ages (Table 3, identity lines and cumulative accuracy of Hui et al. 2022; Bland-Altman, bias and intervals besides),
regions of interest, refusals and images without a hand, and with ``--stress`` what changes of a film do to its age.
``--json`` keeps every figure for machines (the keys are in ``training/evaluation/FIGURES.md``), ``--report`` writes a
page for people. It doubles as a site's acceptance test: ``--films`` and ``--readings`` take its own films, ``--accept``
sets thresholds, ``--recalibrate`` fits its own correction.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from inference.bundle import open_bundle
from inference.engine import Engine, read_intervals
from inference.errors import FilmError, InferenceError
from inference.finding import ModelIdentity, RefusalCode
from inference.method import DEFAULT_METHOD
from inference.recalibration import SITE_MARK
from training.annotations import read_annotations
from training.arguments import add_device, add_part, add_threads, count, first_line, positive_int
from training.errors import DataError, TrainingError, exit_code
from training.evaluation import recalibration
from training.evaluation.acceptance import Threshold, read_thresholds
from training.evaluation.ages import AGE_GROUPS_YEARS, Errors, coverage, errors_of, table_3
from training.evaluation.changes import changed_rois, compare_case
from training.evaluation.figures import assemble, check_figures, clean
from training.evaluation.options import refuse_idle
from training.evaluation.output import check_outputs, told_at_last, write_output
from training.evaluation.own_rois import boxed_films, detector_of, own_roi_figures
from training.evaluation.reading import (
    Case,
    Row,
    cost,
    count_accepted,
    film_of,
    interpret,
    read_cases,
    read_films,
    read_json,
    rows_of,
)
from training.evaluation.report import MAYBE_TRAINED_ON, may_be_trained_on, report
from training.evaluation.site import SiteFilm, film_to_change, read_site, read_site_film, read_table
from training.radiographs import (
    Radiograph,
    load_half,
    load_negatives,
    load_small,
    read_split,
    refuse_no_films,
)
from training.stress import print_outcomes, spread, stress, stress_figures
from training.terms import SITE_FILMS, terms_of_films

__all__ = [
    "AGE_GROUPS_YEARS", "Case", "Errors", "Row", "coverage", "errors_of", "evaluate", "film_of", "interpret", "main",
    "read_cases", "read_films", "table_3",
]  # fmt: skip

_log = logging.getLogger(__name__)

_PICTURE_SIDE = 320
_PICTURES = 6
"""So many films are shown in a page where nothing else is said."""
_WITHOUT_PICTURE = frozenset({RefusalCode.UNREADABLE_PIXELS.value, RefusalCode.UNSUPPORTED_OBJECT.value})
"""Refusals of files that do not open."""
STRESS_FILMS = 40
"""So many films, spread over the ages, go through the stress suite."""


def evaluate(
    engine: Engine, data: Path, part: str, *, changed: bool = False, **also: Any
) -> tuple[list[Case], dict[str, Any]]:
    """Evaluate one part of the split in a data folder; ``also`` goes into the figures as it is.

    With ``changed``, ROIs are judged on turned, mirrored, bordered and marked films and on two hands, too.

    Raises
    ------
    DataError
        If the films cannot be read, or there are none of that part.
    """
    split, annotations = read_split(), read_annotations(data) if (data / "annotations").is_dir() else {}
    films = load_half(data, [part], split)
    refuse_no_films(films, data, part)
    cases = read_cases(engine, films)
    aspects = {rsna_id: annotation.aspect for rsna_id, annotation in annotations.items()}
    small = load_small(data, ["annotation-test"], split, aspects) if part == "test" and annotations else []
    every = cases + read_cases(engine, small)
    rois = [film for case in every if (film := compare_case(case, annotations)) is not None]
    figures = assemble(engine.identity, part, [case.row for case in cases], rois)
    if changed:
        figures["roi_changed"] = changed_rois(engine, every, annotations)
    negatives = load_negatives(data)
    accepted = count_accepted(engine, negatives)
    share = accepted / len(negatives) if negatives else float("nan")
    figures |= {"non_hands": len(negatives), "non_hands_accepted": accepted, "non_hands_share": share}
    return cases, clean(figures | also)


def evaluate_site(engine: Engine, films: list[SiteFilm], **also: Any) -> dict[str, Any]:
    """Evaluate a site's own films; ``also`` goes into the figures as it is."""
    rows, differing = [], 0
    for made in read_site(engine, films):
        rows.append(made.case.row)
        differing += made.sex_differs
        if len(rows) % 50 == 0:
            _log.info("read %d of %d films", len(rows), len(films))
    figures = assemble(engine.identity, "site", rows, [])
    figures["material"]["sex_differs"] = differing
    return dict(clean(figures | also))


def print_figures(figures: dict[str, Any]) -> None:
    """Print the paper's Table 3 and every figure that fits a line."""
    say = print  # a command's answer
    say(f"\nPart {figures['part']!r}, {figures['films']} films, months: MAE / RMSE (films)")
    for group, row in figures["table_3"].items():
        cells = (f"{sex} {_cell(errors)}" for sex, errors in row.items())
        say(f"  {group:9s} " + "   ".join(cells))
    say("\nBias (limits of agreement) in months; coverage and mean width of the intervals")
    for group, row in figures["bland_altman"].items():
        total, interval = row["total"], figures["intervals"][group]
        if total["bias_months"] is not None:
            limits = (
                f"{total['bias_months']:+5.1f} ({total['limit_low_months']:+.1f} to {total['limit_high_months']:+.1f})"
            )
            say(f"  {group:9s} {limits:26s} {interval['coverage']:6.1%} {interval['width_months']:6.1f}")
    own = {"by the method's own detector": figures.get("own_roi")}
    for name, found in ((figures["roi"] or {}) | own | (figures.get("roi_changed") or {})).items():
        if found:
            say(f"\nROIs, {name}, {found['films']} films of 13 bones")
            keys = [key for key, value in found.items() if not isinstance(value, dict)]
            say("  " + ", ".join(f"{key} {found[key]:.4g}" for key in keys if found[key] is not None))
    for code, flagged in (figures.get("flags") or {}).items():
        films, refused, mae = flagged["films"] + flagged["refused"], flagged["refused"], flagged["mae_months"]
        error = "" if mae is None else f", MAE {mae:.1f} months (without it {_or_dash(flagged['mae_months_without'])})"
        say(f"flag {code}: {films} of {figures['films']} films, {refused} refused{error}")
    hidden = {
        "flags", "table_3", "rows", "roi", "own_roi", "roi_changed", "bland_altman", "intervals", "cumulative_accuracy",
        "acceptance", "recalibration", "stress",
    }  # fmt: skip
    say("")
    for key, value in figures.items():
        if key not in hidden:
            say(f"{key}: {value}")


def _or_dash(months: float | None) -> str:
    return "-" if months is None else f"{months:.1f}"


def _cell(errors: dict[str, Any]) -> str:
    if not errors["films"]:
        return f"{'':13s} (  0)"
    return f"{errors['mae_months']:5.1f} / {errors['rmse_months']:5.1f} ({errors['films']:3d})"


def judge(figures: dict[str, Any], thresholds: list[Threshold]) -> bool:
    """Set the figures beside the thresholds and keep the sentences; True when all hold."""
    verdicts = [threshold.judge(figures) for threshold in thresholds]
    figures["acceptance"] = [asdict(verdict) for verdict in verdicts]
    return all(verdict.passed for verdict in verdicts)


def picture(case: Case) -> tuple[str, str]:
    """Return a film with its found regions drawn in, as caption and data URI."""
    image = cv2.cvtColor(case.film.pixels, cv2.COLOR_GRAY2BGR)
    scale = _PICTURE_SIDE / max(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for roi in case.finding.rois:
        corners = [round(v * scale) for v in (roi.box.x0, roi.box.y0, roi.box.x1, roi.box.y1)]
        cv2.rectangle(image, (corners[0], corners[1]), (corners[2], corners[3]), (80, 200, 255), 1)
    encoded = base64.b64encode(cv2.imencode(".jpg", image)[1].tobytes()).decode()
    row = case.row
    said = row.refusal or f"{row.estimate_months:.0f} months"
    return (
        f"{case.film.called.capitalize()}: reference {row.reference_months:.0f} months, {said}",
        f"data:image/jpeg;base64,{encoded}",
    )


def furthest(rows: list[Row], count: int) -> list[Row]:
    """Return the rows with the largest errors, refused films first."""
    return sorted(rows, key=lambda row: math.inf if row.refusal else abs(row.error_months), reverse=True)[:count]


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="boneage-node evaluate", description=first_line(__doc__))
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="this project's data folder, RSNA's layout or a site's own")
    source.add_argument("--films", type=Path, metavar="DIR", help="a site's own films, DICOM or PNG, with --readings")
    source.add_argument("--from", type=Path, dest="kept", metavar="JSON", help="figures kept by --json: read no film")
    parser.add_argument(
        "--readings", type=Path, metavar="CSV", help="their readings: file, sex, bone_age_months or _years"
    )
    parser.add_argument("--method", default=DEFAULT_METHOD, help=f"whose bundle to evaluate (default {DEFAULT_METHOD})")
    add_part(parser, "test")
    parser.add_argument("--changed", action="store_true", help="find the ROIs on turned, mirrored, marked films, too")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--report", type=Path, metavar="HTML", help="also write a page for people there")
    parser.add_argument(
        "--pictures",
        type=count,
        metavar="N",
        help=f"show the N films that are furthest off in the page (default {_PICTURES}; of a site's own films 0, as "
        "names may be burnt in)",
    )
    parser.add_argument(
        "--stress",
        type=positive_int,
        nargs="?",
        const=STRESS_FILMS,
        metavar="N",
        help=f"change N films (default {STRESS_FILMS}) as boneage-node stress does; reads each some 55 times more",
    )
    parser.add_argument(
        "--accept", metavar="THRESHOLDS", help="such as mae<=10,coverage>=0.85,refused<=0.05, or a TOML file of them"
    )
    parser.add_argument(
        "--recalibrate", type=Path, metavar="FILE", help="fit a line per sex on these films, write it there"
    )
    parser.add_argument("--recalibration", type=Path, metavar="FILE", help="evaluate with this recalibration in force")
    add_device(parser)
    add_threads(parser)
    return parser


Pictures = Callable[[int], list[tuple[str, str]]]


def _measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], Pictures]:
    """Return the figures, and what gives the pictures of so many films that are furthest off."""
    if arguments.kept is not None:
        figures = read_json(arguments.kept)
        check_figures(figures, str(arguments.kept))
        return figures, lambda _: []
    site = read_table(arguments.films, arguments.readings) if arguments.films else []
    chosen = {"threads": arguments.threads, "device": arguments.device}
    engine = Engine.load(arguments.method, recalibration=arguments.recalibration, **chosen)
    bundle = open_bundle(arguments.method)
    also = {
        "cost": cost(arguments.method, **chosen),
        "config": bundle.config,
        "detector": detector_of(bundle),
        "intervals_fingerprint": read_intervals(bundle)[0].fingerprint,
        "terms": {
            "films": SITE_FILMS if site else terms_of_films(arguments.data),
            "weights": bundle.metadata.get("data_terms"),
        },
    }
    if site:
        by_line = {film.reading.rsna_id: film for film in site}
        figures = evaluate_site(engine, site, **also)
        if arguments.stress:
            chosen_films = spread([by_line[row.rsna_id] for row in _read_rows(figures)], arguments.stress)
            figures["stress"] = _stress(engine, map(film_to_change, chosen_films))
        seen = [row for row in rows_of(figures, "figures") if row.refusal not in _WITHOUT_PICTURE]
        return figures, lambda count: [
            picture(read_site_film(engine, by_line[row.rsna_id]).case) for row in furthest(seen, count)
        ]
    also["own_roi"] = clean(own_roi_figures(arguments.method, boxed_films(arguments.data, arguments.part), **chosen))
    cases, figures = evaluate(engine, arguments.data, arguments.part, changed=arguments.changed, **also)
    if arguments.stress:
        read = [case.film for case in cases if case.row.refusal is None]
        figures["stress"] = _stress(engine, spread(read, arguments.stress))
    by_id = {case.row.rsna_id: case for case in cases}
    return figures, lambda count: [picture(by_id[row.rsna_id]) for row in furthest([c.row for c in cases], count)]


def _note_own_films(figures: dict[str, Any], path: Path | None) -> None:
    """Say where the recalibration in force was fitted on the very films that are read, and keep that."""
    if path is None or not recalibration.is_of_these_films(path, rows_of(figures, "figures")):
        return
    figures["recalibration_fitted_on_these"] = True
    _log.warning(
        "The recalibration %s was fitted on these very films: new ones are read worse than the figures say. Its file "
        "has honest ones (after_left_out).",
        path,
    )


def _read_rows(figures: dict[str, Any]) -> list[Row]:
    return [row for row in rows_of(figures, "figures") if row.refusal is None]


def _stress(engine: Engine, films: Iterable[Radiograph]) -> dict[str, Any]:
    """Put films that were read through the stress suite and return the outcomes as figures.

    {} and a warning where none is read, or one does not open any more: what was measured before must not be lost.
    """
    try:
        changed = list(films)
        _log.info("changing %d films", len(changed))
        return stress_figures(stress(engine, changed))
    except (DataError, FilmError) as error:
        _log.warning("There are no figures of changed films: %s", error)
        return {}


def _fit(figures: dict[str, Any], path: Path) -> None:
    model = ModelIdentity(**figures["model"])
    if SITE_MARK in model.version:
        raise DataError("These ages are recalibrated already; evaluate without --recalibration to fit anew.")
    of = figures.get("intervals_fingerprint")  # figures of earlier versions do not say
    fitted = recalibration.fit(rows_of(figures, "figures"), model, intervals_fingerprint=of)
    figures["recalibration"] = fitted
    write_output(path, lambda: json.dumps(fitted, indent=2) + "\n")


def _try_to_fit(figures: dict[str, Any], path: Path) -> DataError | None:
    """Fit a recalibration and write it; where none can be, return why."""
    try:
        _fit(figures, path)
    except DataError as error:
        return error
    return None


def _tell(figures: dict[str, Any], unfitted: DataError | None, arguments: argparse.Namespace) -> None:
    """Print the figures, and what came of stress, and of the thresholds and the recalibration that were asked for."""
    say = print  # a command's answer
    if figures.get("stress"):
        print_outcomes(figures["stress"])
    print_figures(figures)
    for verdict in figures["acceptance"] if arguments.accept is not None else ():
        say(f"{'passed' if verdict['passed'] else 'FAILED'}: {verdict['sentence']}")
    if unfitted is not None:
        say(f"no recalibration: {unfitted}")
    elif arguments.recalibrate is not None:
        say(f"recalibration: {figures['recalibration']}")


def _run(arguments: argparse.Namespace) -> bool:
    """Do what the command line asks; True unless a threshold failed.

    What was measured is written even where no recalibration can be fitted to it, and so it is judged: a threshold that
    failed counts before the recalibration that could not be.
    """
    thresholds = read_thresholds(arguments.accept) if arguments.accept is not None else []
    inputs = (arguments.readings, arguments.recalibration)
    check_outputs(arguments.json, arguments.report, arguments.recalibrate, inputs=inputs)
    figures, pictures = _measure(arguments)
    _note_own_films(figures, arguments.recalibration)
    if may_be_trained_on(figures):
        _log.warning("%s", MAYBE_TRAINED_ON)
    accepted = judge(figures, thresholds) if thresholds else True
    unfitted = _try_to_fit(figures, arguments.recalibrate) if arguments.recalibrate else None
    of_site = (figures.get("terms") or {}).get("films") == SITE_FILMS  # whichever option they came by
    usual = 0 if of_site else _PICTURES
    shown = usual if arguments.pictures is None else arguments.pictures
    with told_at_last(lambda: _tell(figures, unfitted, arguments)):
        write_output(arguments.json, lambda: json.dumps(figures, indent=1, allow_nan=False) + "\n")
        write_output(arguments.report, lambda: report(figures, pictures(shown)))
    if accepted and unfitted is not None:
        raise unfitted
    return accepted


def main(argv: list[str] | None = None) -> int:
    """Evaluate; returns 0, 1 when a threshold fails or the model cannot be opened, 2 when the data cannot be used.

    Where thresholds hold but no recalibration can be fitted, 2 is returned too.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if (arguments.films is None) != (arguments.readings is None):
        parser.error("--films and --readings go together")
    refuse_idle(parser, argv)
    if arguments.kept and (arguments.stress or arguments.pictures):
        parser.error("--stress and --pictures need the films; give --data, or --films and --readings")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        return 0 if _run(arguments) else 1
    except (TrainingError, InferenceError) as error:
        return exit_code(error)


if __name__ == "__main__":
    raise SystemExit(main())
