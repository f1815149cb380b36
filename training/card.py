"""Put measured figures into the README and the model cards: no figure is typed by hand.

``python -m training.card figures.json FILE...`` replaces what stands between ``<!-- figures METHOD -->`` and
``<!-- /figures -->`` in each file by the tables of an evaluation (``boneage-node evaluate --json figures.json``), or
what stands at ``<!-- figures compare -->`` by the table of a comparison (``boneage-node compare --json``).
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from training.compare import ROI_HEAD, roi_rows
from training.errors import RunError


def figures_text(figures: dict[str, Any]) -> str:
    """Return the paper's Table 3 and the sentences below it, as Markdown."""
    lines = ["| age in years | male | female | total |", "|---|---|---|---|"]
    for group, row in figures["table_3"].items():
        cells = (_cell(row[sex]) for sex in ("male", "female", "total"))
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    total = figures["table_3"]["all"]["total"]
    within = {int(month): share for month, share in figures["within_months"].items()}
    films, refused = figures["films"], sum(figures["refused"].values())
    sentences = (
        f"Part `{figures['part']}`: MAE {total['mae_months']:.1f} months, RMSE {total['rmse_months']:.1f} over "
        f"{total['films']} of {films} films ({refused} refused); {within[6]:.0%} within 6 months, {within[12]:.0%} "
        f"within 12, {within[24]:.0%} within 24; the 90 % interval covers {figures['coverage_90']:.0%}. ROI centres: "
        f"{figures['roi_centres_within_3_percent']:.1%} of {figures['roi_boxes']} annotated boxes of the 13 RUS bones "
        f"within 3 % of the hand's length (radius to distal phalanx 3), median {figures['roi_centre_median']:.1%}. Of "
        f"67 chests, {figures['non_hands_accepted']} were read."
    )
    return "\n".join(lines) + "\n\n" + _wrapped(re.sub(r"(\d)%", r"\1 %", sentences))


def comparison_text(comparison: dict[str, Any]) -> str:
    """Return methods side by side, each with its paper's figure, and below them how their regions are found."""
    lines = [
        "| method | MAE (95 %) | RMSE | 90 % interval covers | refused | ms a film | M parameters | MB | paper's MAE |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in comparison["contestants"]:
        total, (low, high) = one["table_3"]["all"]["total"], one["mae_interval_months"]
        paper = (one["paper"] or {}).get("mae_months")
        lines.append(
            f"| `{one['method']}` | {total['mae_months']:.1f} ({low:.1f} to {high:.1f}) | {total['rmse_months']:.1f} | "
            f"{one['coverage_90']:.0%} | {sum(one['refused'].values())} | {one['milliseconds_median']:.0f} | "
            f"{one['cost']['parameters'] / 1e6:.1f} | {one['cost']['megabytes']:.1f} | "
            f"{'-' if paper is None else f'{paper:.1f}'} |"
        )
    regions = roi_rows(comparison)
    if regions:
        heads = ("method", *ROI_HEAD[1:])
        lines += ["", *(f"| {' | '.join(row).strip()} |" for row in (heads, ("---",) * len(heads), *regions))]
    return "\n".join(lines)


def _cell(errors: dict[str, float]) -> str:
    if not errors["films"]:
        return "- (0)"
    return f"{errors['mae_months']:.1f} / {errors['rmse_months']:.1f} ({errors['films']:.0f})"


def _wrapped(text: str, width: int = 118) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


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


def main(argv: list[str] | None = None) -> int:
    """Fill; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m training.card", description=__doc__)
    parser.add_argument("figures", type=Path)
    parser.add_argument("documents", type=Path, nargs="+")
    arguments = parser.parse_args(argv)
    figures = json.loads(arguments.figures.read_text())
    compared = "contestants" in figures
    name = "compare" if compared else figures["model"]["method"]
    text = comparison_text(figures) if compared else figures_text(figures)
    for path in arguments.documents:
        path.write_text(fill(path.read_text(), name, text))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
