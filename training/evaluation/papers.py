"""The papers' own figures, from ``papers.json``: in months, as printed there, years times 12."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from training.evaluation.ablation import switches
from training.evaluation.page import decimal

_DASH = "\N{EN DASH}"
_BESIDE = {"(16, 19]": "(16, 18]"}
"""Groups here that have no namesake in a paper, and what stands beside them."""


def read_papers() -> dict[str, Any]:
    """Return the papers' figures by method, as ``training/evaluation/papers.json`` has them."""
    text = resources.files("training.evaluation").joinpath("papers.json").read_text("utf-8")
    papers: dict[str, Any] = json.loads(text)
    return papers


def paper_of(method: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the paper's figures for a method; for an ablation, those of its row of Table 4 alone."""
    paper = read_papers().get(method)
    if paper is None:
        return None
    if switches(config) == (True, "both"):
        return dict(paper)
    for row in paper.get("ablation", ()):
        if (row["equalise"], row["paths"]) == switches(config):
            return {
                "source": f"{paper['source']}, Table 4",
                "data": paper["data"],
                "mae_months": row["in_house_mae_months"],
                "rsna_mae_months": row["rsna_mae_months"],
                "other_data": f"RSNA films (which of them the paper does not say): {row['rsna_mae_months']:.2f} months",
            }
    return None


def _all(paper: dict[str, Any], sex: str) -> Sequence[float | None] | None:
    """Return MAE and RMSE of all ages; both sexes' stand in every paper, one sex's only where the paper tells it."""
    told: Sequence[float | None] | None = paper.get("groups_mae_rmse_months", {}).get("all", {}).get(sex)
    return told or ((paper["mae_months"], paper.get("rmse_months")) if sex == "total" else None)


def _both(errors: Sequence[float | None] | None) -> str:
    """Write MAE / RMSE; of a paper without RMSE the MAE alone."""
    if errors is None:
        return _DASH
    return " / ".join(decimal(value) for value in errors if value is not None)


def paper_cells(paper: dict[str, Any], groups: Sequence[str], sex: str) -> list[str] | None:
    """Return the paper's MAE / RMSE in the age groups here, the last of which is ``all``; None if it tells none.

    Groups that only the paper has are not among them, see :func:`own_groups`.
    """
    told = paper.get("groups_mae_rmse_months", {})
    cells = [_both(told.get(_BESIDE.get(group, group), {}).get(sex)) for group in groups[:-1]]
    cells.append(_both(_all(paper, sex)))
    return None if set(cells) == {_DASH} else cells


def own_groups(paper: dict[str, Any], groups: Sequence[str]) -> str | None:
    """Say what the paper tells of age groups that there are not here, and how its groups differ; None if nothing."""
    told = paper.get("groups_mae_rmse_months", {})
    known = {_BESIDE.get(group, group) for group in groups}
    others = [f"{group} {_both(sexes['total'])}" for group, sexes in told.items() if group not in known]
    if not others and "groups_note" not in paper:
        return None
    words = f"{paper['source']}: {paper['groups_note']}." if "groups_note" in paper else f"{paper['source']}."
    return f"{words} In its own age groups, years, MAE / RMSE in months: {', '.join(others)}." if others else words
