"""Figures in documents come from an evaluation's JSON. Does not cover how they were measured."""

import json
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from inference.finding import ModelIdentity
from training.card import ablation_text, comparison_text, figures_text, fill, is_ablation, main
from training.errors import RunError
from training.evaluation.figures import assemble, clean
from training.evaluation.papers import paper_of
from training.evaluation.reading import Row
from training.terms import SITE_FILMS

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
    "non_hands": 67,
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
    assert "Part `test`: MAE" in text
    assert "Part `test`, on 1 CPU thread: MAE" in figures_text(FIGURES | {"cost": {"threads": 1}})


def test_a_document_without_a_place_is_refused(tmp_path, caplog):
    with pytest.raises(RunError, match="no place"):
        fill("nothing", "house", "text")
    figures, document = tmp_path / "figures.json", tmp_path / "README.md"
    figures.write_text(json.dumps(FIGURES | {"model": {"method": "house"}}))
    document.write_text("nothing")
    assert main([str(figures), str(document)]) == 2
    assert "put one there" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("torn", "cannot be read"), ("[]", "no evaluation"), ("{}", "holds no figures")],
)
def test_a_file_without_figures_is_named(tmp_path, caplog, content, words):
    figures, document = tmp_path / "figures.json", tmp_path / "README.md"
    document.write_text("a\n<!-- figures house -->\n<!-- /figures -->\n")
    if content is not None:
        figures.write_text(content)
    assert main([str(figures), str(document)]) == 2
    assert f"{figures} " in caplog.text
    assert words in caplog.text


@pytest.mark.parametrize("line", [["figures.json", "absent.md"], ["--sha256", "absent.md"]])
def test_a_document_that_is_not_there_is_named(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 2
    assert "there is no file absent.md" in capsys.readouterr().err


def test_an_acceptance_test_says_nothing_of_what_it_did_not_measure():
    """Given a site's own films, which have no boxes and no images without a hand, then neither is spoken of."""
    rows = [Row(str(place), "MF"[place % 2], 100.0, 104.0, 90.0, 118.0, None, None) for place in range(4)]
    model = ModelIdentity("house", "House", "0.1.0", "ab" * 32)
    text = figures_text(clean(assemble(model, "site", rows, [])))
    assert "A site's own films: MAE 4.0 months, RMSE 4.0 over 4 of 4 films (0 refused);" in " ".join(text.split())
    assert text.endswith("the 90 % interval covers 100 %.")
    for words in ("ROI", "chests", "None", "nan"):
        assert words not in text
    part = clean(assemble(model, "test", rows, []) | {"terms": {"films": SITE_FILMS}})
    assert "Part `test` of a site's own films: MAE 4.0 months" in " ".join(figures_text(part).split())
    refused = [Row("1", "M", 100.0, None, None, None, "no-hand", None)]
    text = figures_text(clean(assemble(model, "site", refused, [])))
    assert text.endswith("A site's own films: no age, all 1 films were refused.")


ROIS = dict.fromkeys(("precision", "recall", "f1", "ap", "ap50", "ap75", "centre_median", "within_3_percent"), 0.5)


def contestant(label: str, method: str, **more: Any) -> dict[str, Any]:
    return {
        "label": label, "method": method, "config": {}, "table_3": FIGURES["table_3"],
        "mae_interval_months": (7.0, 9.0), "cumulative_accuracy": {"total": {"0": 0.0, "12": 0.75, "24": 1.0}},
        "coverage_90": 0.9, "refused": {},
        "milliseconds_median": 90.4, "cost": {"parameters": 3.8e6, "megabytes": 11.5, "threads": 2, "device": "cpu"},
        "paper": paper_of(method, {}), **more,
    }  # fmt: skip


COMPARISON: dict[str, Any] = {
    "part": "test",
    "films": 184,
    "contestants": [
        contestant("house", "house"),
        contestant("2m-net (unconverged)", "2m-net", converged=False),
        contestant("precise-baa", "precise-baa", rois={"detector": "own", "own": ROIS | {"films": 81}}),
    ],
}


def tables(text: str) -> list[list[str]]:
    """Return the tables of a Markdown text, each as its lines."""
    blocks = (block.splitlines() for block in text.split("\n\n"))
    return [lines for lines in blocks if lines[0].startswith("|")]


def test_a_comparison_shows_all_that_was_measured():
    """Given three methods, two with papers, then summary, groups of all, boys and girls, and regions are told."""
    text = comparison_text(COMPARISON)
    assert text.startswith("Months, 184 films of the part `test`, on 2 CPU threads:")
    summary, everyone, boys, girls, regions = tables(text)
    assert (
        summary[2] == "| `house` | 8.0 (7.0 to 9.0) | 10.1 | 90 % | 0 | 90 | 3.8 | 11.5 | \N{EN DASH} | \N{EN DASH} |"
    )
    assert summary[3].startswith("| `2m-net` (unconverged) | 8.0 ")
    assert summary[4].endswith("| 7.3 / 8.3 | \N{EN DASH} |")
    assert [line.split(" | ")[0] for line in everyone[2:]] == [
        "| house", "| 2m-net (unconverged)", "| paper", "| precise-baa", "| paper",
    ]  # fmt: skip
    assert everyone[6].endswith("| 7.3 / 8.3 |")
    assert boys[4].endswith("| 3.9 |")
    assert girls[4].endswith("| 4.1 |")
    assert text.count("<details>") == text.count("</details>") == 2
    assert regions[2].startswith("| precise-baa | its own detector | 81 | 50.0 %")
    assert regions[3].startswith("| paper | 13 regions, its mAP |")
    for lines in (summary, everyone, boys, girls, regions):
        assert len({line.count("|") for line in lines}) == 1
    assert "- Jia et al., 2022: measured on 222 films of its own" in text
    assert "0\N{EN DASH}3 11.4 / 11.9" in text
    prose = [line for line in text.splitlines() if not line.startswith(("|", "!"))]
    assert max(map(len, prose)) <= 120


def test_what_is_not_so_is_not_said():
    """Given methods that converged, no CUDA and one run of global-local, then no mark, no column and no ablation."""
    plain = {**COMPARISON, "contestants": COMPARISON["contestants"][:1]}
    text = comparison_text(plain)
    assert "CUDA: not measured" in text
    assert "ms, CUDA" not in text
    assert "nconverged" not in text
    assert "Table 4" not in text
    with_cuda = contestant("house", "house")
    with_cuda["cost"] = with_cuda["cost"] | {"cuda_milliseconds": 7.4}
    text = comparison_text({**plain, "contestants": [with_cuda]})
    assert "| ms, CPU | ms, CUDA |" in text
    assert "| 90 | 7 |" in text
    assert "not measured" not in text


def test_an_ablation_has_a_table_of_its_own():
    ones = [
        contestant(paths, "global-local", config={"paths": paths}, paper=paper_of("global-local", {"paths": paths}))
        for paths in ("global", "local")
    ]
    compared = {**COMPARISON, "contestants": ones}
    assert is_ablation(compared)
    assert not is_ablation({**compared, "contestants": [*ones, *COMPARISON["contestants"]]})
    assert not is_ablation({**compared, "contestants": ones[:1]})
    ablation = tables(ablation_text(compared))[-1]
    assert ablation[0] == "| MAE, months | global | local | global and local |"
    assert ablation[-2] == "| histogram equalised | 8.0 | 8.0 | \N{EN DASH} |"
    assert ablation[-1] == "| paper, RSNA films | 8.16 | 6.36 | \N{EN DASH} |"


def test_the_command_fills_in_an_ablation_and_draws_nothing(tmp_path):
    ones = [contestant(paths, "global-local", config={"paths": paths}) for paths in ("global", "local")]
    figures, document = tmp_path / "ablation.json", tmp_path / "README.md"
    figures.write_text(json.dumps({**COMPARISON, "contestants": ones}))
    document.write_text("a\n<!-- figures ablation -->\n<!-- /figures -->\n")
    assert main([str(figures), str(document)]) == 0
    assert "| histogram equalised |" in document.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {figures.name, document.name}


def test_the_command_fills_the_document_and_draws_what_it_shows(tmp_path):
    """Given a comparison, then each picture in the document is an SVG file on white that parses by itself."""
    figures, document = tmp_path / "compare.json", tmp_path / "README.md"
    figures.write_text(json.dumps(COMPARISON))
    document.write_text("a\n<!-- figures compare -->\n<!-- /figures -->\n")
    assert main([str(figures), str(document)]) == 0
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", document.read_text())
    assert len(pictures) == 2
    for picture in pictures:
        drawn = ET.fromstring((tmp_path / picture).read_text("utf-8"))
        assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
        white = drawn.find("{http://www.w3.org/2000/svg}rect")
        assert white is not None
        assert white.get("fill") == "#fff"
        assert (float(drawn.get("width", 0)), float(white.get("width", 0))) == (960, 480)
        assert "2m-net (unconverged)" in "".join(drawn.itertext())
