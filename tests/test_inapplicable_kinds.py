"""A kind of document that goes with no image of that kind: none is made, and nothing is set aside for it.

Colour screenshots come with whole studies that are routed here. Not covered: what the other kinds say of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from conformance.department import Department, film
from dicom_node.settings import ComposeSettings
from dicom_node.store import Document, FindingRow, Store, open_store
from reports.identity import Kind


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    yield opened
    opened.close()


@pytest.mark.parametrize(("colour", "verified"), [(False, {"sr", "sc", "gsps"}), (True, {"sr", "sc"})])
@pytest.mark.parametrize("bone_age", [100.0, None])
def test_a_film_in_colour_has_no_presentation_state_and_no_fault(
    store: Store, tmp_path: Path, colour: bool, verified: set[Kind], bone_age: float | None
) -> None:
    department = Department(store, tmp_path, ComposeSettings())
    image = film("1.2.1", "20230917", bone_age)
    if colour:
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
        image.BitsAllocated = image.BitsStored = 8
        image.HighBit = 7
        image.PixelData = np.zeros((32, 32, 3), np.uint8).tobytes()
    department.read(image)
    with store.session() as session:
        finding = session.scalars(sa.select(FindingRow.id)).one()
    department.composer.compose(finding, "gsps")
    department.composer.compose(finding, "sc")
    with store.session() as session:
        kinds = session.scalars(sa.select(Document.kind).where(Document.verified_at.is_not(None))).all()
    assert set(kinds) == verified
