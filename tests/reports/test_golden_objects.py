"""Every kind of document, compared tag by tag with what it was when somebody last looked: UIDs, dates and all.

After a deliberate change, write them anew, and read the difference before committing it::

    REWRITE_GOLDEN=1 pytest tests/reports/test_golden_objects.py

One line is one element; a content item is one line with its codes in it. Not compared: what is drawn (Pixel Data, the
bytes and the length of an encapsulated document), which follows Pillow, OpenCV and zlib, and the equipment that
contributed, where highdicom names itself and its version.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from conformance.judges import EVERY_KIND
from reports.document import encoded
from reports.key_objects import Capture
from reports.kinds import Choices, compose
from reports.structured_report import compose_sr
from reports.verify import verify

GOLDEN = Path(__file__).parent / "golden" / "objects"
REWRITE = os.environ.get("REWRITE_GOLDEN") == "1"

CASES = {
    "estimate": ("dx", "estimate"),
    "full": ("dx", "full"),
    "refusal": ("cr", "refusal"),
    "sex-unknown": ("dx", "sex_unknown"),
}
"""Name: a source and a finding."""

DRAWN = {"PixelData", "EncapsulatedDocument", "EncapsulatedDocumentLength"}
LEFT_OUT = {*DRAWN, "ContributingEquipmentSequence"}


def lines_of(dataset: Dataset, depth: int = 0) -> Iterator[str]:
    """Yield a data set as text: a line for each element, sequences below their own line, content items in one."""
    for element in dataset:
        start = f"{'  ' * depth}{element.tag} {element.VR} {element.keyword}"
        if element.keyword in LEFT_OUT:
            yield f"{start}: not compared"
        elif element.keyword == "ContentSequence":
            yield start
            for item in element.value:
                yield f"{'  ' * (depth + 1)}> {attributes_of(item)}"
                if "ContentSequence" in item:
                    yield from lines_of(content_of(item), depth + 2)
        elif element.VR == "SQ":
            yield start
            for item in element.value:
                yield f"{'  ' * (depth + 1)}>"
                yield from lines_of(item, depth + 2)
        else:
            yield f"{start}: {value_of(element)}"


def content_of(item: Dataset) -> Dataset:
    """Return an item without all but its Content Sequence."""
    only = Dataset()
    only.ContentSequence = item.ContentSequence
    return only


def attributes_of(item: Dataset) -> str:
    """Return an item's elements but its content in one line, with those of its sequences in brackets."""
    parts = []
    for element in item:
        if element.VR == "SQ" and element.keyword != "ContentSequence":
            inner = " ".join(f"[{attributes_of(inner)}]" for inner in element.value)
            parts.append(f"{element.tag} SQ {inner}")
        elif element.VR != "SQ":
            parts.append(f"{element.tag} {element.VR} {value_of(element)}")
    return "; ".join(parts)


def value_of(element: DataElement) -> str:
    """Return a value as it is read; a binary number in the digits that do not depend on who computed it."""
    if element.VR in {"FD", "FL"}:
        values = [element.value] if element.VM == 1 else list(element.value)
        return "\\".join(f"{value:.9g}" for value in values)
    values = element.value if element.VM > 1 else [element.value]
    return "\\".join("" if value is None else repr(str(value))[1:-1] for value in values)


def kept(text: str, path: Path) -> list[str]:
    """Return the golden lines; write them first where that was asked for."""
    if REWRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return path.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def few(request):
    """``few(case)`` returns a source, a finding with every sixth region, and its assessment."""

    def make(case):
        source, finding = CASES[case]
        value = request.getfixturevalue(finding)
        found, assessment = value if case == "full" else (value, None)
        return request.getfixturevalue(source), replace(found, rois=found.rois[::6]), assessment

    return make


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("case", CASES)
def test_the_object_is_the_golden_one(case, kind, few, identify, display):
    source, finding, assessment = few(case)
    choices = Choices(assessment=assessment, capture=Capture("1.2.3", "1.2.3.4"))
    document = compose(kind, source, finding, identify(source, kind), display=lambda: display, choices=choices)
    verify(document, source, finding)

    found = [*lines_of(document.file_meta), *lines_of(document)]
    assert found == kept("\n".join(found) + "\n", GOLDEN / f"{case}.{kind}.txt")


def test_each_golden_object_is_compared():
    assert {path.name for path in GOLDEN.iterdir()} == {f"{case}.{kind}.txt" for case in CASES for kind in EVERY_KIND}


def test_the_golden_lines_see_a_changed_tag(dx, estimate, identify, tmp_path):
    """Given one letter changed deep in a tree, when it is compared, then the lines differ."""
    path = tmp_path / "report.dcm"
    path.write_bytes(encoded(compose_sr(dx, estimate, identify(dx, "sr"))))
    first, second = dcmread(path), dcmread(path)
    second.ContentSequence[-1].ContentSequence[1].TextValue += "."
    second.StudyID = "S2"

    differ = [pair for pair in zip(lines_of(first), lines_of(second), strict=True) if pair[0] != pair[1]]
    assert len(differ) == 2
