"""Figures in documents come from an evaluation's JSON. Does not cover how they were measured."""

import pytest

from training.card import comparison_text, figures_text, fill
from training.errors import RunError

ERRORS = {"films": 3, "mae_months": 8.04, "rmse_months": 10.06}
FIGURES = {
    "part": "test",
    "films": 4,
    "table_3": {"(0, 4]": dict.fromkeys(("male", "female", "total"), ERRORS | {"films": 0}),
                "all": dict.fromkeys(("male", "female", "total"), ERRORS)},
    "within_months": {"6": 0.5, "12": 0.75, "18": 0.9, "24": 1.0},
    "refused": {"no-hand": 1},
    "coverage_90": 0.9,
    "roi_centres_within_3_percent": 0.981,
    "roi_boxes": 1053,
    "roi_centre_median": 0.0099,
    "non_hands_accepted": 0,
}  # fmt: skip


def test_figures_are_put_where_the_document_has_a_place_for_them():
    document = "a\n<!-- figures house -->\nold\n<!-- /figures -->\nb\n<!-- figures other -->\nkept\n<!-- /figures -->\n"
    text = figures_text(FIGURES)
    filled = fill(document, "house", text)
    assert "old" not in filled
    assert "kept" in filled
    assert "| all | 8.0 / 10.1 (3) |" in filled
    assert "| (0, 4] | - (0) |" in filled
    assert "MAE 8.0 months" in filled
    assert "98.1 % of 1053" in filled
    assert "(1 refused)" in filled
    assert fill(filled, "house", text) == filled
    assert max(map(len, filled.splitlines())) <= 120


def test_a_document_without_a_place_is_refused():
    with pytest.raises(RunError, match="no place"):
        fill("nothing", "house", "text")


def test_a_comparison_shows_ages_and_below_them_regions():
    rois = dict.fromkeys(("precision", "recall", "f1", "ap", "ap50", "ap75", "centre_median", "within_3_percent"), 0.5)
    contestant = {
        "label": "a", "method": "a", "table_3": FIGURES["table_3"], "mae_interval_months": (7.0, 9.0),
        "coverage_90": 0.9, "refused": {}, "milliseconds_median": 90.4,
        "cost": {"parameters": 3.8e6, "megabytes": 11.5},
        "paper": {"mae_months": 5.3, "roi": {"f1": 0.996, "data": "x"}},
        "rois": {"detector": "own", "own": rois | {"films": 81}},
    }  # fmt: skip
    text = comparison_text({"contestants": [contestant]})
    ages, regions = text.split("\n\n")
    assert "| `a` | 8.0 (7.0 to 9.0) | 10.1 | 90% | 0 | 90 | 3.8 | 11.5 | 5.3 |" in ages
    assert "| a | its own detector | 81 | 50.0 %" in regions.replace("50.0%", "50.0 %")
    assert "| paper | x |" in regions
    assert len({line.count("|") for line in regions.splitlines()}) == 1
