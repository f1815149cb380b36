"""Put measured figures into the README and the model cards: no figure is typed by hand.

``python -m training.card figures.json FILE...`` replaces what stands between ``<!-- figures METHOD -->`` and
``<!-- /figures -->`` in each file by the tables of an evaluation (``boneage-node evaluate --json figures.json``), or
what stands at ``<!-- figures compare -->`` by the tables of a comparison (``boneage-node compare --json``), whose plots
it writes into ``training/evaluation/plots`` beside that file.

A bundle's card takes figures of its own weights only. It gets the hashes of these as well, at ``<!-- sha256 -->`` to
``<!-- /sha256 -->``, the terms of these where they are not RSNA's, and loses the mark of ``export`` that its weights
are newer; ``python -m training.card --sha256 CARD...`` writes hashes and terms alone.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.catalogue import identify
from inference.errors import InferenceError
from training.arguments import plain
from training.bundle_card import fill_metadata, without_mark
from training.calibrate import check_rows
from training.compare import (
    ROI_HEAD,
    UNCONVERGED_NOTE,
    data_differences,
    group_notes,
    group_rows,
    milliseconds,
    plots,
    roi_rows,
)
from training.errors import DataError, RunError, TrainingError, exit_code
from training.evaluation.ablation import HEAD as ABLATION_HEAD
from training.evaluation.ablation import ablation_rows
from training.evaluation.page import decimal, percent
from training.evaluation.reading import read_json
from training.storage import write_text
from training.terms import SITE_FILMS


def figures_text(figures: dict[str, Any]) -> str:
    """Return the paper's Table 3 and the sentences below it, as Markdown."""
    lines = ["| age in years | male | female | total |", "|---|---|---|---|"]
    for group, row in figures["table_3"].items():
        cells = (_cell(row[sex]) for sex in ("male", "female", "total"))
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    sentences = " ".join(s for s in (_ages(figures), _regions(figures), _non_hands(figures)) if s)
    return "\n".join(lines) + "\n\n" + _wrapped(re.sub(r"(\d)%", r"\1 %", sentences))


def _ages(figures: dict[str, Any]) -> str:
    """Say how well ages are read, of which films: a site's own are no part of a split."""
    own = (figures.get("terms") or {}).get("films") == SITE_FILMS
    whose = " of a site's own films" if own else ""
    measured = "A site's own films" if figures["part"] == "site" else f"Part `{figures['part']}`{whose}"
    total, films = figures["table_3"]["all"]["total"], figures["films"]
    if not total["films"]:
        return f"{measured}: no age, all {films} films were refused."
    within = {int(month): share for month, share in figures["within_months"].items()}
    return (
        f"{measured}{_threads([figures])}: "
        f"MAE {total['mae_months']:.1f} months, RMSE {total['rmse_months']:.1f} over {total['films']} of {films} films "
        f"({sum(figures['refused'].values())} refused); {within[6]:.0%} within 6 months, {within[12]:.0%} "
        f"within 12, {within[24]:.0%} within 24; the 90 % interval covers {figures['coverage_90']:.0%}."
    )


def _regions(figures: dict[str, Any]) -> str:
    """Say how well regions are found; nothing where no film had boxes that people drew."""
    if not figures["roi_boxes"]:
        return ""
    return (
        f"ROI centres: {figures['roi_centres_within_3_percent']:.1%} of {figures['roi_boxes']} annotated boxes of the "
        f"13 RUS bones within 3 % of the hand's length (radius to distal phalanx 3), median "
        f"{figures['roi_centre_median']:.1%}."
    )


def _non_hands(figures: dict[str, Any]) -> str:
    """Say how many images without a hand were read; nothing where there were none."""
    if not figures["non_hands"]:
        return ""
    return f"Of {figures['non_hands']} chests, {figures['non_hands_accepted']} were read."


def comparison_text(comparison: dict[str, Any]) -> str:
    """Return methods side by side, each with its paper: in short, by age and sex, as plots, regions, data."""
    ones = comparison["contestants"]
    measured = f"{comparison['films']} films of the part `{comparison['part']}`{_threads(ones)}"
    parts = [f"Months, {measured}:", _summary(ones), *_remarks(ones), _PICTURES]
    heads = ("MAE / RMSE by age in years", *ones[0]["table_3"])
    parts.append(_table(("all: " + heads[0], *heads[1:]), group_rows(comparison, "total")))
    for sex, words in (("male", "boys"), ("female", "girls")):
        of_sex = _table((f"{words}: {heads[0]}", *heads[1:]), group_rows(comparison, sex))
        parts.append(f"<details><summary>The same for {words}</summary>\n\n{of_sex}\n\n</details>")
    parts += [_wrapped(note) for note in group_notes(comparison)]
    if regions := roi_rows(comparison):
        parts += ["Regions of the 13 RUS bones, against boxes people drew:", _table(("method", *ROI_HEAD[1:]), regions)]
    parts.append("\n".join(_wrapped(f"- {sentence}", indent=2) for sentence in data_differences(comparison)))
    return "\n\n".join(part for part in parts if part)


def ablation_text(comparison: dict[str, Any]) -> str:
    """Return what equalisation and pathways are worth to global-local, as its paper's Table 4 has it."""
    measured = f"{comparison['films']} films of the part `{comparison['part']}`{_threads(comparison['contestants'])}"
    heads = ("MAE, months", *ABLATION_HEAD[1:])
    return "\n\n".join((_wrapped(f"{_ABLATION} {measured}."), _table(heads, ablation_rows(comparison))))


def is_ablation(comparison: dict[str, Any]) -> bool:
    """Tell a comparison of global-local's configurations with each other from one of methods."""
    return len({one["method"] for one in comparison["contestants"]}) == 1 and bool(ablation_rows(comparison))


def _threads(measured: Sequence[dict[str, Any]]) -> str:
    """Say on how many CPU threads figures were measured, where they tell: ages depend on it by a little."""
    threads = sorted({one["cost"]["threads"] for one in measured if "threads" in one.get("cost", {})})
    if not threads:
        return ""
    return f", on {' or '.join(map(str, threads))} CPU thread{'' if threads == [1] else 's'}"


PLOTS = Path("training/evaluation/plots")
"""Where the plots of a comparison lie, from the folder of the document that shows them."""
BY_AGE, CUMULATIVE = "mae-by-age.svg", "cumulative-accuracy.svg"
_PICTURES = (
    f"![mean absolute error of each method by age group]({PLOTS.as_posix()}/{BY_AGE})\n"
    f"![share of films read within so many months, by method]({PLOTS.as_posix()}/{CUMULATIVE})"
)
_ABLATION = (
    "What equalisation and the two pathways are worth to `global-local` (Hui et al. 2022, Table 4). Runs here are "
    "as long as each other and compare with each other; the paper's were trained to the end, on many more films. "
    "Measured on"
)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown, the first column to the left, the others to the right."""
    lines = (head, ("---", *["--:"] * (len(head) - 1)), *rows)
    return "\n".join(f"| {' | '.join(cell.strip() for cell in cells)} |" for cells in lines)


def _summary(ones: Sequence[dict[str, Any]]) -> str:
    with_cuda = any(milliseconds(one)[1] is not None for one in ones)
    head = ["method", "MAE (95 %)", "RMSE", "90 % interval covers", "refused", "ms, CPU", "M parameters", "MB",
            "paper's MAE / RMSE", "paper's M parameters"]  # fmt: skip
    rows = []
    for one in ones:
        total, (low, high), paper = one["table_3"]["all"]["total"], one["mae_interval_months"], one["paper"] or {}
        cpu, cuda = milliseconds(one)
        theirs = [decimal(value) for key in ("mae_months", "rmse_months") if (value := paper.get(key)) is not None]
        parameters = paper.get("parameters")
        row = [
            _named(one), f"{total['mae_months']:.1f} ({low:.1f} to {high:.1f})", f"{total['rmse_months']:.1f}",
            percent(one["coverage_90"]), str(sum(one["refused"].values())), decimal(cpu, 0),
            decimal(one["cost"]["parameters"] / 1e6), decimal(one["cost"]["megabytes"]),
            " / ".join(theirs) or _DASH, decimal(parameters and parameters / 1e6),
        ]  # fmt: skip
        rows.append([*row[:6], decimal(cuda, 0), *row[6:]] if with_cuda else row)
    return _table([*head[:6], "ms, CUDA", *head[6:]] if with_cuda else head, rows)


_DASH = "\N{EN DASH}"


def _named(one: dict[str, Any]) -> str:
    """Return a contestant's label with its name as code: `2m-net` (unconverged)."""
    name, space, rest = str(one["label"]).partition(" ")
    return f"`{name}`{space}{rest}"


def _remarks(ones: Sequence[dict[str, Any]]) -> list[str]:
    """Say what the summary lacks, and what its unconverged figures are."""
    words = [] if any(milliseconds(one)[1] is not None for one in ones) else ["Time on CUDA: not measured with these."]
    if any(not one.get("converged", True) for one in ones):
        words.append(UNCONVERGED_NOTE)
    return [_wrapped(" ".join(words))] if words else []


def write_plots(comparison: dict[str, Any], folder: Path) -> None:
    """Write the plots that the text of a comparison shows, as SVG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, plot in zip((BY_AGE, CUMULATIVE), plots(comparison), strict=True):
        (folder / name).write_text(plot.file(), "utf-8")


def _cell(errors: dict[str, float]) -> str:
    if not errors["films"]:
        return "- (0)"
    return f"{errors['mae_months']:.1f} / {errors['rmse_months']:.1f} ({errors['films']:.0f})"


def _wrapped(text: str, width: int = 118, indent: int = 0) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + indent >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return ("\n" + " " * indent).join(lines)


def fill(document: str, method: str, text: str) -> str:
    """Replace the figures of a method in a document.

    Raises
    ------
    RunError
        If the document has no place for them.
    """
    pattern = re.compile(rf"(<!-- figures {re.escape(method)} -->\n).*?(<!-- /figures -->)", re.DOTALL)
    if not pattern.search(document):
        raise RunError(f"The document has no place <!-- figures {method} --> ... <!-- /figures -->; put one there.")
    return pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", document)


def read_figures(path: Path) -> dict[str, Any]:
    """Read the figures of an evaluation or a comparison.

    Raises
    ------
    DataError
        If the file cannot be read, or holds neither.
    """
    figures = read_json(path)
    if "contestants" not in figures and not {"model", "table_3", "part"} <= set(figures):
        raise DataError(f"{path} holds no figures; write them with boneage-node evaluate --json, or compare --json.")
    return figures


def check_card(card: Path, figures: dict[str, Any], name: str) -> None:
    """Refuse figures in a bundle's card that were measured with other weights than the bundle's, or recalibrated.

    Raises
    ------
    DataError
        If they were; ``name`` is their file's, for the message.
    """
    bundle = card.resolve().parents[1]
    if (bundle / "configs" / "metadata.json").is_file():
        check_rows(figures, name, identify(bundle.name, bundle.parent))


def main(argv: list[str] | None = None) -> int:
    """Fill; returns 0, 2 where the figures cannot be used or a document has no place for them, 1 for a torn bundle."""
    parser = argparse.ArgumentParser(prog="python -m training.card", description=plain(__doc__))
    parser.add_argument("figures", type=Path, nargs="?")
    parser.add_argument("documents", type=Path, nargs="*", metavar="FILE")
    parser.add_argument("--sha256", type=Path, nargs="+", metavar="CARD", default=[], help="write the hashes there")
    arguments = parser.parse_args(argv)
    if bool(arguments.sha256) == bool(arguments.documents):
        parser.error("give figures and the files they go into, or --sha256 and cards")
    if missing := [str(path) for path in (*arguments.sha256, *arguments.documents) if not path.is_file()]:
        parser.error(f"there is no file {', '.join(missing)}")
    for path in arguments.sha256:
        fill_metadata(path)
    try:
        if arguments.documents:
            _fill_all(arguments)
    except (TrainingError, InferenceError) as error:
        return exit_code(error)
    return 0


def _fill_all(arguments: argparse.Namespace) -> None:
    figures = read_figures(arguments.figures)
    compared = "contestants" in figures
    name, write = ("compare", comparison_text) if compared else (figures["model"]["method"], figures_text)
    if compared and is_ablation(figures):
        name, write = "ablation", ablation_text
    text = write(figures)
    for path in arguments.documents:
        if not compared:
            check_card(path, figures, str(arguments.figures))
        write_text(path, without_mark(fill(path.read_text("utf-8"), name, text)))
        fill_metadata(path)
        if name == "compare":
            write_plots(figures, path.parent / PLOTS)


if __name__ == "__main__":
    raise SystemExit(main())
