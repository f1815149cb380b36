"""Figures in documents come from an evaluation's JSON. Does not cover how they were measured."""

import pytest

from training.card import figures_text, fill
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
