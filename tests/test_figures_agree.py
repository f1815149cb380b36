"""What the README and the model cards tell of one method is the same. Does not cover how it was measured."""

import re
from pathlib import Path

from inference.bundle import bundles_folder, list_methods

ROOT = Path(__file__).parents[1]


def block(document: Path, name: str) -> str:
    found = re.search(rf"<!-- figures {name} -->\n(.*?)<!-- /figures -->", document.read_text("utf-8"), re.DOTALL)
    assert found, f"{document.name} has no figures {name}"
    return found[1]


def totals(text: str) -> tuple[str, str, str]:
    """Return MAE, RMSE and coverage of an evaluation's figures."""
    errors = re.search(r"^\| all \|.*\| ([\d.]+) / ([\d.]+) \(\d+\) \|$", text, re.MULTILINE)
    covered = re.search(r"interval covers (\d+) %", " ".join(text.split()))
    assert errors
    assert covered
    return errors[1], errors[2], covered[1]


def test_readme_and_cards_tell_the_same():
    """Given the comparison in the README, then MAE, RMSE and coverage of each method are those of its model card.

    Both are made by one measuring: evaluate and compare with the same number of threads.
    """
    row = re.compile(r"^\| `([\w-]+)`[^|]*\| ([\d.]+) [^|]*\| ([\d.]+) \| (\d+) % \|", re.MULTILINE)
    told = {name: figures for name, *figures in row.findall(block(ROOT / "README.md", "compare"))}
    assert set(told) == set(list_methods())
    for name, figures in told.items():
        card = bundles_folder() / name / "docs" / "README.md"
        assert totals(block(card, name)) == tuple(figures), name
    for name in re.findall(r"<!-- figures ([\w-]+) -->", (ROOT / "README.md").read_text("utf-8")):
        if name not in {"compare", "ablation"}:
            assert totals(block(ROOT / "README.md", name)) == tuple(told[name]), name
