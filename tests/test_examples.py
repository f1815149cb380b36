"""The examples: every document has its picture, and the README of the examples names every file there is.

Not covered: what the documents say (tests/reports), that a viewer shows them so (test_ohif.py).
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from conformance.examples import CASES, WRITTEN
from conformance.pictures import page, presentation

EXAMPLES = Path(__file__).parents[1] / "reports" / "examples"


@pytest.mark.parametrize("case", [name for name, *_ in CASES])
@pytest.mark.parametrize("kind", WRITTEN)
def test_every_document_has_a_picture(case, kind):
    assert (EXAMPLES / f"{case}-{kind}.dcm").stat().st_size > 0
    shown = {"pdf": f"{case}-sc.jpg", "gsps": f"{case}-gsps.jpg"}.get(kind, f"{case}-{kind}.png")
    with Image.open(EXAMPLES / shown) as image:
        assert np.asarray(image).std() > 5  # something is drawn


def test_the_readme_names_every_example():
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    unnamed = [path.name for path in EXAMPLES.iterdir() if path.name != "README.md" and f"({path.name})" not in readme]
    assert unnamed == []


def test_a_page_grows_with_its_lines_and_is_cut_where_it_is_long():
    short, long = page(["one", "  two"]), page([f"line {number}" for number in range(400)])
    assert short.size[1] < long.size[1] < page(["x"]).size[1] * 101
    assert page(["a word " * 60]).size[1] > page(["a word"]).size[1]


def test_a_presentation_state_is_drawn_where_it_says():
    graphic, annotation, state = Dataset(), Dataset(), Dataset()
    graphic.GraphicData = [10.0, 20.0, 60.0, 20.0]
    annotation.GraphicObjectSequence = [graphic]
    state.GraphicAnnotationSequence = [annotation]
    drawn = np.asarray(presentation(state, np.zeros((100, 80), dtype=np.uint8)))
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert (columns.min(), columns.max()) == (10, 60)
    assert set(rows) <= {19, 20, 21}
