"""Shadow methods: recorded, never sent, and never in the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import Dataset

from conformance.department import Department, film
from dicom_node.settings import ComposeSettings, InterpretSettings
from dicom_node.shadow import Shadows, agreements
from dicom_node.store import Delivery, Document, Event, Instance, Revision, ShadowRow, open_store
from inference.finding import Box, Estimate, Finding, Laterality, ModelIdentity, Refusal, RefusalCode
from inference.subject import read_subject


class Model:
    """Says so many months more than the header's answer; None refuses; an exception is raised."""

    identity = ModelIdentity("global-local", "Other", "2", "cd" * 32)

    def __init__(self, answer: float | Exception | None) -> None:
        self.answer, self.asked = answer, 0

    def interpret(self, ds: Dataset) -> Finding:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        subject = read_subject(ds)
        if self.answer is None:
            return Refusal(RefusalCode.POOR_IMAGE, "Poor.", "Send again.", subject)
        age, hand = float(ds.PatientComments) + self.answer, Box(2.0, 2.0, 30.0, 30.0)
        return Estimate(age, age - 9, age + 9, 0.9, subject, Laterality.LEFT, hand, (), 1, 0.9, (), self.identity)


@pytest.fixture
def department(tmp_path: Path) -> Iterator[Department]:
    store = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    yield Department(store, tmp_path, ComposeSettings())
    store.close()


def shade(department: Department, model: Model) -> None:
    shadows = Shadows(department.store, department.folder, {"global-local": lambda: model}, "node-1")
    with department.store.reading() as session:
        pairs = session.execute(
            sa.select(Revision.id, Instance.id).join(Instance, Instance.study_id == Revision.study_id)
        ).all()
    for revision_id, instance_id in pairs:
        shadows.read(revision_id, instance_id)


def test_what_it_says_is_recorded_and_nothing_is_composed_of_it(department: Department) -> None:
    department.read(film("1.2.1", "20240101", 110.0))
    shade(department, Model(6.0))
    with department.store.reading() as session:
        row = session.scalars(sa.select(ShadowRow)).one()
        assert (row.method, row.age_months, row.kind, row.version) == ("global-local", 116.0, "estimate", "2")
        assert session.scalar(sa.select(sa.func.count(Document.id))) == 1
        assert session.scalar(sa.select(sa.func.count(Delivery.id))) == 0


def test_it_reads_each_film_once(department: Department) -> None:
    department.read(film("1.2.1", "20240101", 110.0))
    model = Model(6.0)
    for _ in range(2):
        shade(department, model)
    assert model.asked == 1


def test_what_it_raises_is_an_event(department: Department) -> None:
    department.read(film("1.2.1", "20240101", 110.0))
    shade(department, Model(RuntimeError("P1 was born in 2014")))
    with department.store.reading() as session:
        assert session.scalars(sa.select(ShadowRow)).all() == []
        (event,) = session.scalars(sa.select(Event).where(Event.kind == "shadow-failed"))
        assert event.detail == "global-local: RuntimeError"


def test_the_summary_compares_with_the_active_method(department: Department) -> None:
    for place, answer in enumerate([6.0, -14.0, None]):
        department.read(film(f"1.2.{place + 1}", f"2024010{place + 1}", 110.0))
        shade(department, Model(answer))
    with department.store.reading() as session:
        (one,) = agreements(session)
    assert (one.method, one.films, one.both, one.far_apart, one.refused_alone) == ("global-local", 3, 2, 1, 1)
    assert one.apart == pytest.approx(10.0)
    assert one.bias == pytest.approx(-4.0)


@pytest.mark.parametrize("shadow", [("house",), ("global-local", "global-local")])
def test_a_shadow_is_another_method(shadow: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="named twice"):
        InterpretSettings(method="house", shadow=shadow)
    assert InterpretSettings(method="house", shadow=("global-local",)).shadow == ("global-local",)


def test_a_method_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no weights"):
        InterpretSettings(shadow=("nonesuch",))
