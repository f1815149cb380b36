"""``boneage-node compare``: methods, runs and kept evaluations side by side on the same films, and beside the papers.

Each WHAT is a shipped method's name, a run's folder, or the JSON of ``boneage-node evaluate``. Methods and runs read
the films here, one after the other, through the node's own engine; kept evaluations are taken as they are. A paper's
figure stands beside its method with the data it was measured on: those are never the same films. The ablation of Hui
et al. 2022 (Table 4) is a comparison of the runs of the ``global-local*`` recipes.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.bundle import SEPARATOR, list_methods
from inference.errors import InferenceError
from training.arguments import add_device, add_part, add_threads, first_line
from training.errors import DataError, TrainingError, exit_code
from training.evaluation.ablation import HEAD as ABLATION_HEAD
from training.evaluation.ablation import ablation_rows
from training.evaluation.ages import age_figures
from training.evaluation.contestants import (
    Computing,
    Contestant,
    common_films,
    from_bundle,
    from_evaluation,
    from_run,
    recipe_of,
)
from training.evaluation.drawing import COLOURS, Plot
from training.evaluation.figures import clean
from training.evaluation.output import check_outputs, told_at_last, write_output
from training.evaluation.own_rois import boxed_films
from training.evaluation.page import decimal, figure, figures, page, paragraph, percent, section, table
from training.evaluation.papers import own_groups, paper_cells, paper_of
from training.evaluation.reading import read_json
from training.evaluation.report import cumulative_plot, short_names
from training.radiographs import is_project_folder, load_half, read_split, refuse_no_films
from training.run import git_revision
from training.terms import SITE_FILMS, terms_of_films

_log = logging.getLogger(__name__)

SCHEMA = "boneage-node/comparison/1"
_DASH = "\N{EN DASH}"


def gain(contestant: Contestant, first: Contestant) -> dict[str, float] | None:
    """Return by how much its absolute error is smaller than the first one's, paired over films both read, with 95 %."""
    other = {row.rsna_id: abs(row.error_months) for row in first.rows if row.estimate_months is not None}
    own = {row.rsna_id: abs(row.error_months) for row in contestant.rows if row.estimate_months is not None}
    both = sorted(set(own) & set(other))
    if contestant is first or len(both) < 2:
        return None
    gains = np.array([other[number] - own[number] for number in both])
    reach = 1.96 * float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return {"films": len(both), "months": float(gains.mean()), "reach_months": reach}


def compare(contestants: list[Contestant], part: str, *, films_of: str | None = None) -> dict[str, Any]:
    """Return the comparison as its JSON has it; ``films_of`` says whose films they are, None this project's.

    Raises
    ------
    DataError
        If the contestants have no films in common.
    """
    kept = common_films(contestants)
    entries = [
        {
            "label": one.label,
            "method": one.method,
            "config": one.config,
            "converged": one.converged,
            "cost": one.cost,
            **age_figures(one.rows),
            "rois": one.rois,
            "gain_over_first": gain(one, kept[0]),
            "paper": paper_of(one.method, one.config),
        }
        for one in kept
    ]
    films = len(kept[0].rows)
    return dict(clean({
        "schema": SCHEMA, "part": part, "films": films, "films_of": films_of, "revision": git_revision(),
        "contestants": entries,
    }))  # fmt: skip


_HEAD = (
    "", "MAE", "95 %", "RMSE", "bias", "within 12 m", "coverage", "width", "refused", "ms, CPU", "ms, CUDA",
    "M parameters", "MB", "better than the first by",
)  # fmt: skip


UNCONVERGED_NOTE = (
    "Unconverged methods were given too little computing: their figures say how far their training got, not what the "
    "method is worth."
)


def milliseconds(one: dict[str, Any]) -> tuple[float | None, float | None]:
    """Return a contestant's time a film on the CPU and on CUDA, None where it was not measured."""
    measured, cost = one["milliseconds_median"], one["cost"]
    return (None, measured) if cost["device"] == "cuda" else (measured, cost.get("cuda_milliseconds"))


def summary_rows(comparison: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the summary as rows of text: each contestant, and its paper below it."""
    rows: list[tuple[str, ...]] = []
    for one in comparison["contestants"]:
        total, low_high, better = one["table_3"]["all"]["total"], one["mae_interval_months"], one["gain_over_first"]
        rows.append((
            one["label"], decimal(total["mae_months"], 2), f"{decimal(low_high[0])} to {decimal(low_high[1])}",
            decimal(total["rmse_months"], 2), decimal(one["bland_altman"]["all"]["total"]["bias_months"]),
            percent(one["within_months"]["12"]), percent(one["coverage_90"]),
            decimal(one["intervals"]["all"]["width_months"]), str(sum(one["refused"].values())),
            *(decimal(value, 0) for value in milliseconds(one)), decimal(one["cost"]["parameters"] / 1e6),
            decimal(one["cost"]["megabytes"]),
            f"{decimal(better['months'], 2)} ± {decimal(better['reach_months'], 2)}" if better else _DASH,
        ))  # fmt: skip
        paper = one["paper"]
        if paper:
            parameters = paper.get("parameters")
            rows.append((
                f"  paper: {paper['source']}", decimal(paper["mae_months"], 2), _DASH,
                decimal(paper.get("rmse_months"), 2), _DASH, percent(paper.get("within_months", {}).get("12")),
                *[_DASH] * 5, decimal(parameters and parameters / 1e6), _DASH, _DASH,
            ))  # fmt: skip
    return rows


def group_rows(comparison: dict[str, Any], sex: str) -> list[tuple[str, ...]]:
    """Return MAE / RMSE per age group of one sex or of both: a row a contestant, and its paper's figures below it.

    A paper has a row where it tells something of that sex; what it tells of other age groups, :func:`group_notes` has.
    """
    rows: list[tuple[str, ...]] = []
    for one in comparison["contestants"]:
        cells = [row[sex] for row in one["table_3"].values()]
        rows.append((one["label"], *(f"{decimal(c['mae_months'])} / {decimal(c['rmse_months'])}" for c in cells)))
        theirs = paper_cells(one["paper"], list(one["table_3"]), sex) if one["paper"] else None
        if theirs:
            rows.append(("  paper", *theirs))
    return rows


def group_notes(comparison: dict[str, Any]) -> list[str]:
    """Say of each paper that has them its figures in age groups of its own, and how its groups differ from these."""
    groups = list(comparison["contestants"][0]["table_3"])
    notes = (own_groups(one["paper"], groups) for one in comparison["contestants"] if one["paper"])
    return list(dict.fromkeys(note for note in notes if note))


ROI_HEAD = (
    "", "regions by", "films", "precision", "recall", "F1", "AP", "AP50", "AP75", "median centre error", "within 3 %",
    "films with all 13 right",
)  # fmt: skip


def roi_rows(comparison: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return how well regions are found: what each contestant reads with first, its paper below it.

    A detector of its own that it does not read with is told as well; films are those with boxes, not those read.
    """
    rows: list[tuple[str, ...]] = []
    for one in comparison["contestants"]:
        rois = one.get("rois") or {}
        kinds = ("own", "shared") if rois.get("detector") == "own" else ("shared", "own")
        before = len(rows)
        for kind in kinds:
            found = rois.get(kind)
            if found is None:
                continue
            words = "its own detector" if kind == "own" else "shared detector"
            unused = "" if kind == rois.get("detector", "shared") else ", not used"
            rows.append((
                one["label"], words + unused, str(found["films"]),
                *(percent(found[key], 1) for key in ("precision", "recall", "f1")),
                *(decimal(found[key], 3) for key in ("ap", "ap50", "ap75")),
                percent(found["centre_median"], 2), percent(found["within_3_percent"], 1),
                percent(found.get("films_all_13_at_iou_50"), 1),
            ))  # fmt: skip
        theirs = (one["paper"] or {}).get("roi")
        if theirs and len(rows) > before:
            rows.append((
                "  paper", theirs["data"], _DASH,
                *(percent(theirs.get(key), 1) for key in ("precision", "recall", "f1")),
                *(decimal(theirs.get(key), 3) for key in ("ap", "ap50", "ap75")), _DASH, _DASH, _DASH,
            ))  # fmt: skip
    return rows


def data_differences(comparison: dict[str, Any]) -> list[str]:
    """Say, for each paper, on what its figures were measured, and that it is not what was measured here."""
    sentences = {}
    for one in comparison["contestants"]:
        paper = one["paper"]
        if paper:
            more = f" {paper['other_data'][0].upper()}{paper['other_data'][1:]}." if "other_data" in paper else ""
            sentences[paper["source"]] = f"{paper['source']}: measured on {paper['data']}.{more}"
    return [*sentences.values(), _what_films(comparison)] if sentences else []


def _what_films(comparison: dict[str, Any]) -> str:
    """Say on which films the contestants were measured."""
    here = f"Here: {comparison['films']} films of the part {comparison['part']!r}"
    if comparison.get("films_of") is not None:  # a comparison of an earlier version does not say it
        return f"{here}: {comparison['films_of']}."
    parts = Counter(read_split().values())
    return (
        f"{here} of this project's split of RSNA 2017's training films, at half resolution; to train on there are "
        f"{parts['train']} such films and {parts['pretrain']:,} of 100 x 100 pixels."
    )


def comparison_page(comparison: dict[str, Any]) -> str:
    """Return the comparison as an HTML document."""
    ones = comparison["contestants"]
    by_age, cumulative = plots(comparison)
    names = ("age", *ones[0]["table_3"])
    return page(
        "Methods side by side",
        f"{comparison['films']} films, part {comparison['part']!r}; boneage-node {comparison['revision']}.",
        [
            section(
                "In short",
                table("Months; the first is what the others are compared with", _HEAD, summary_rows(comparison)),
                paragraph(
                    "The last column pairs films: it is the mean gain in absolute error with its 95 % interval; where "
                    "that holds 0, the difference may be chance. Milliseconds are the median of a whole reading, "
                    "detection included, on the machine that measured; on CUDA where it has one."
                ),
                *([paragraph(UNCONVERGED_NOTE)] if any(not one.get("converged", True) for one in ones) else []),
            ),
            *_roi_section(comparison),
            *_ablation_section(comparison),
            section("The papers' data", *map(paragraph, data_differences(comparison) or ["No paper describes these."])),
            section(
                "By age and sex",
                table("All: MAE / RMSE, months", names, group_rows(comparison, "total")),
                table("Boys: MAE / RMSE, months", names, group_rows(comparison, "male")),
                table("Girls: MAE / RMSE, months", names, group_rows(comparison, "female")),
                *map(paragraph, group_notes(comparison)),
                figures(
                    figure(by_age.svg(), "Mean absolute error by age group."),
                    figure(cumulative.svg(), "How many films are read within so many months."),
                ),
            ),
        ],
    )


def plots(comparison: dict[str, Any]) -> tuple[Plot, Plot]:
    """Return MAE by age group, and how many films are read within so many months, a colour a contestant."""
    ones = comparison["contestants"]
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(ones))]
    curves = [
        (one["label"], one["cumulative_accuracy"]["total"], colour) for one, colour in zip(ones, colours, strict=True)
    ]
    return _group_plot(ones, short_names(ones[0]["table_3"]), colours), cumulative_plot(curves)


def _roi_section(comparison: dict[str, Any]) -> list[str]:
    rows = roi_rows(comparison)
    if not rows:
        return []
    note = paragraph(
        "Against boxes that people drew around the 13 RUS bones, on films no training saw; IoU 0.5 for precision, "
        "recall and F1. Methods without a detector of their own read with the shared one. The regions of ala-net bear "
        "no names: they count as one class, against squares of its side around the bones."
    )
    return [section("Regions of interest", table("As found on films with boxes", ROI_HEAD, rows), note)]


def _ablation_section(comparison: dict[str, Any]) -> list[str]:
    rows = ablation_rows(comparison)
    if not rows:
        return []
    note = paragraph(
        "Hui et al. 2022, Table 4. What stands here was trained as long as its run says, and is compared with what was "
        "trained as long; the paper's networks were trained to the end, on many more films."
    )
    return [section("What equalisation and pathways are worth", table("MAE, months", ABLATION_HEAD, rows), note)]


def _group_plot(ones: Sequence[dict[str, Any]], groups: list[str], colours: list[str]) -> Plot:
    cells = [[row["total"]["mae_months"] for row in one["table_3"].values()] for one in ones]
    highest = max((value for row in cells for value in row if value is not None), default=10.0)
    plot = Plot(
        (-0.6, len(groups) - 0.4), (0, 1.25 * highest), x_label="age over \N{EN DASH} to, years", y_label="MAE, months",
        title="Mean absolute error by age group", names=groups,
    )  # fmt: skip
    width = 0.8 / len(ones)
    for place, (one, colour, row) in enumerate(zip(ones, colours, cells, strict=True)):
        plot.named(one["label"], colour)
        for group, value in enumerate(row):
            if value is not None:
                plot.bar(group - 0.4 + (place + 0.5) * width, value, 0.9 * width, colour)
    return plot


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns, the first to the left."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    for row in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())  # noqa: T201 - a command's answer


def _gather(arguments: argparse.Namespace) -> tuple[list[Contestant], str]:
    kept = {what: from_evaluation(Path(what)) for what in arguments.what if what.endswith(".json")}
    parts, to_read = {part for _, part in kept.values()}, [what for what in arguments.what if what not in kept]
    if len(parts) > 1 or (parts and to_read and parts != {arguments.part}):
        raise DataError(f"The evaluations are of the parts {sorted(parts)}; compare one part, here {arguments.part!r}.")
    films, boxed = [], []
    if to_read:
        if arguments.data is None:
            raise DataError("Methods and runs read films here; give the data folder with --data.")
        for run in (what for what in to_read if not _is_method(what)):
            recipe_of(Path(run))  # said before films are read
        films, boxed = load_half(arguments.data, [arguments.part]), boxed_films(arguments.data, arguments.part)
        refuse_no_films(films, arguments.data, arguments.part)
    computing, contestants = Computing(arguments.threads, arguments.device), []
    for what in arguments.what:
        if what in kept:
            contestants.append(kept[what][0])
        elif _is_method(what):
            contestants.append(from_bundle(what, films, computing, boxed=boxed))
        else:
            contestants.append(from_run(Path(what), films, computing, boxed))
    return _distinct(contestants), parts.pop() if parts else arguments.part


def _is_method(what: str) -> bool:
    return set(what.split(SEPARATOR)) <= set(list_methods())


def _films_of(arguments: argparse.Namespace) -> str | None:
    """Say whose films are read or were; None for this project's."""
    if arguments.data is not None:
        return None if is_project_folder(arguments.data) else terms_of_films(arguments.data)
    kept = (read_json(Path(what)) for what in arguments.what if what.endswith(".json"))
    of_site = any((table.get("terms") or {}).get("films") == SITE_FILMS for table in kept)
    return SITE_FILMS if of_site else None


def _distinct(contestants: list[Contestant]) -> list[Contestant]:
    """Give labels that occur twice a number."""
    often, seen, named = Counter(one.label for one in contestants), Counter[str](), []
    for one in contestants:
        seen[one.label] += 1
        named.append(replace(one, label=f"{one.label} {seen[one.label]}") if often[one.label] > 1 else one)
    return named


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="boneage-node compare", description=first_line(__doc__))
    parser.add_argument(
        "what",
        nargs="+",
        metavar="WHAT",
        help="a method, several with + between them, a run's folder, or an evaluation's JSON",
    )
    parser.add_argument(
        "--data", type=Path, help="this project's data folder, RSNA's or a site's own, for methods and runs"
    )
    add_part(parser, "test")
    parser.add_argument("--json", type=Path, help="also write the comparison there")
    parser.add_argument("--report", type=Path, metavar="HTML", help="also write a page for people there")
    add_device(parser, "cpu")
    add_threads(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Compare; returns 0, 1 when a model cannot be opened, 2 when data, runs or files cannot be used."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        check_outputs(arguments.json, arguments.report, inputs=map(Path, arguments.what))
        comparison = compare(*_gather(arguments), films_of=_films_of(arguments))
        with told_at_last(lambda: _print(comparison)):
            write_output(arguments.json, lambda: json.dumps(comparison, indent=1, allow_nan=False) + "\n")
            write_output(arguments.report, lambda: comparison_page(comparison))
    except (TrainingError, InferenceError) as error:
        return exit_code(error)
    return 0


def _print(comparison: dict[str, Any]) -> None:
    """Print the comparison's tables, and on what the papers' figures were measured."""
    print_table(_HEAD, summary_rows(comparison))
    for sex in ("total", "male", "female"):
        print(f"\nMAE / RMSE in months by age, {sex}")  # noqa: T201 - a command's answer
        print_table(("", *comparison["contestants"][0]["table_3"]), group_rows(comparison, sex))
    print("\n".join(group_notes(comparison)))  # noqa: T201
    if regions := roi_rows(comparison):
        print("\nRegions of the 13 RUS bones, against boxes people drew")  # noqa: T201
        print_table(ROI_HEAD, regions)
    if ablation := ablation_rows(comparison):
        print("\nEqualisation and pathways of global-local (Hui et al., Table 4), MAE in months")  # noqa: T201
        print_table(ABLATION_HEAD, ablation)
    print("\n" + "\n".join(data_differences(comparison)))  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
