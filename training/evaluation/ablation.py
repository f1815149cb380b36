"""Hui et al. 2022, Table 4: what equalisation, the whole hand and the 18 regions are worth to global-local."""

from __future__ import annotations

from typing import Any

from inference.global_local import GlobalLocalMethod
from training.evaluation.page import decimal

HEAD = ("", "global", "local", "global and local")
_PATHS = ("global", "local", "both")


def switches(config: dict[str, Any]) -> tuple[bool, str]:
    """Return what of Table 4 a configuration of global-local has: whether it equalises, and its pathways."""
    return bool(config.get("equalise", True)), str(config.get("paths", "both"))


def ablation_rows(comparison: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return MAE in months by equalisation and pathways, the paper's on RSNA films below each; no rows without a pair.

    Of several contestants with the same switches the first counts.
    """
    own: dict[tuple[bool, str], float | None] = {}
    theirs: dict[tuple[bool, str], float | None] = {}
    for one in comparison["contestants"]:
        if one["method"] == GlobalLocalMethod.name and switches(one["config"]) not in own:
            own[switches(one["config"])] = one["table_3"]["all"]["total"]["mae_months"]
            theirs[switches(one["config"])] = (one["paper"] or {}).get("rsna_mae_months")
    if len(own) < 2:
        return []
    rows: list[tuple[str, ...]] = []
    for equalise, words in ((False, "as it is"), (True, "histogram equalised")):
        rows.extend(
            (label, *(decimal(table.get((equalise, paths)), digits) for paths in _PATHS))
            for label, table, digits in ((words, own, 1), ("  paper, RSNA films", theirs, 2))
        )
    return rows
