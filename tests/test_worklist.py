"""Heights out of orders: whose they are, which count, and that they are asked for once.

Not covered: a real RIS. The worklist is pynetdicom's, the film a header only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import ModalityWorklistInformationFind

from conformance.department import Department, film
from conformance.films import make_film
from conformance.nodes import Journal, make_settings, run_node, send
from conformance.stand_in import StandIn
from dicom_node.settings import ComposeSettings, DeliverSettings, NodeSettings, WorklistPeer
from dicom_node.store import OrderedSizeRow, open_store
from dicom_node.worklist import Scales
from reports import codes
from reports.read_back import descendants, measurement_groups, named

HEADER = {"AccessionNumber": "A1"}


class Worklist:
    """A worklist of a few orders; it matches accession numbers, or fails."""

    def __init__(self, *orders: Dataset, status: int = 0x0000) -> None:
        self.orders, self.status = orders, status
        self.asked: list[Dataset] = []
        self.ae = AE("RIS")
        self.ae.add_supported_context(ModalityWorklistInformationFind)
        self.server = self.ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, self._find)])

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.asked.append(event.identifier)
        for order in self.orders:
            if order.AccessionNumber == event.identifier.AccessionNumber:
                yield 0xFF00, order
        yield self.status, None

    def __enter__(self) -> Worklist:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.ae.shutdown()

    @property
    def peer(self) -> WorklistPeer:
        host, port = self.server.server_address[:2]
        return WorklistPeer(kind="worklist", name="ris", ae_title="RIS", host=host, port=port)


def order(size: str = "1.40", **elements: str) -> Dataset:
    """Return an order for the film of the tests."""
    ds = Dataset()
    ds.AccessionNumber, ds.PatientID, ds.IssuerOfPatientID = "A1", "P1", "HOSPITAL"
    ds.PatientSize, ds.PatientWeight = size, "32"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


@pytest.fixture
def department(tmp_path: Path) -> Iterator[Department]:
    store = open_store(f"sqlite:///{tmp_path / 'node.db'}")
    yield Department(store, tmp_path, ComposeSettings())
    store.close()


def weigh(department: Department, peer: WorklistPeer) -> Scales:
    """Ask for every finding there is, as the street does before it composes."""
    scales = Scales(
        department.store,
        spool_dir=department.folder,
        worklist=peer,
        node=NodeSettings(id="node-1", data_dir=department.folder),
        timeouts=DeliverSettings(connect_timeout_s=5, dimse_timeout_s=5),
    )
    department.before_composing = scales.ask
    return scales


def heights(report: Dataset) -> list[float]:
    found = named(next(measurement_groups(report)), codes.ADULT_HEIGHT)
    return [float(item.MeasuredValueSequence[0].NumericValue) for item in found]


def said(report: Dataset) -> str:
    return " | ".join(str(item.TextValue) for item in descendants(report) if item.ValueType == "TEXT")


def test_an_orders_height_becomes_an_adult_height_and_says_where_it_is_from(department: Department) -> None:
    with Worklist(order()) as worklist:
        weigh(department, worklist.peer)
        report = department.read(film("1.2.1", "20240101", 120.0, **HEADER))
    assert heights(report) == [pytest.approx(140 / 0.784, abs=0.06)]
    assert "from 140.0 cm now (worklist)" in said(report)
    (query,) = worklist.asked
    assert query.AccessionNumber == "A1"
    assert "PatientSize" in query


def test_the_films_own_height_is_not_asked_for(department: Department) -> None:
    with Worklist(order()) as worklist:
        weigh(department, worklist.peer)
        report = department.read(film("1.2.1", "20240101", 120.0, PatientSize="1.30", **HEADER))
    assert worklist.asked == []
    assert "from 130.0 cm now |" in said(report) + " |"


@pytest.mark.parametrize(
    "orders",
    [
        [order(PatientID="P2")],
        [order(IssuerOfPatientID="ELSEWHERE")],
        [order(), order("1.50")],
        [order("0")],
        [order("")],
        [],
    ],
    ids=["another-patient", "another-issuer", "two-heights", "zero", "empty", "no-order"],
)
def test_what_is_not_clearly_this_childs_height_is_none(department: Department, orders: list[Dataset]) -> None:
    with Worklist(*orders) as worklist:
        weigh(department, worklist.peer)
        report = department.read(film("1.2.1", "20240101", 120.0, **HEADER))
    assert len(worklist.asked) == 1
    assert heights(report) == []
    assert "worklist" not in said(report)


def test_orders_that_agree_are_one_and_an_issuer_may_be_missing(department: Department) -> None:
    with Worklist(order(), order("1.4", IssuerOfPatientID="")) as worklist:
        weigh(department, worklist.peer)
        assert len(heights(department.read(film("1.2.1", "20240101", 120.0, **HEADER)))) == 1


def test_without_an_accession_number_nobody_is_asked(department: Department) -> None:
    with Worklist(order()) as worklist:
        weigh(department, worklist.peer)
        department.read(film("1.2.1", "20240101", 120.0))
    assert worklist.asked == []


@pytest.mark.parametrize("down", [True, False], ids=["down", "fails"])
def test_a_worklist_that_cannot_be_asked_stops_nothing_and_is_said(department: Department, down: bool) -> None:
    with Worklist(order(), status=0xA700) as worklist:
        weigh(department, worklist.peer.model_copy(update={"port": 1}) if down else worklist.peer)
        report = department.read(film("1.2.1", "20240101", 120.0, **HEADER))
    assert heights(report) == []
    assert "The worklist could not be asked for the height." in said(report)


def test_an_order_that_cannot_be_read_might_contradict_the_others(
    department: Department, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.worklist.matches", lambda *_: iter([order(), None]))
    with Worklist() as worklist:
        weigh(department, worklist.peer)
        report = department.read(film("1.2.1", "20240101", 120.0, **HEADER))
    assert heights(report) == []
    assert "The worklist could not be asked for the height." in said(report)


def test_it_is_asked_once_and_a_written_document_is_never_changed_by_it(department: Department) -> None:
    """Given a report written while the worklist was down, when it is asked again later, then nothing is learnt."""
    with Worklist(order()) as worklist:
        scales = weigh(department, worklist.peer.model_copy(update={"port": 1}))
        department.read(film("1.2.1", "20240101", 120.0, **HEADER))
        with department.store.session() as session:
            (row,) = session.scalars(sa.select(OrderedSizeRow)).all()
            assert (row.answered, row.metres) == (False, None)
            session.delete(row)
        weigh(department, worklist.peer)
        scales.ask(row.finding_id)
    assert worklist.asked == []


def test_a_node_asks_the_worklist_of_its_settings(tmp_path: Path) -> None:
    with Worklist(order(PatientID="PID-7", IssuerOfPatientID="")) as worklist:
        plain = make_settings(tmp_path)
        compose = plain.compose.model_copy(update={"height_from": "ris"})
        settings = plain.model_copy(update={"compose": compose, "peers": (*plain.peers, worklist.peer)})
        with Journal().listening() as journal, run_node(settings, StandIn()) as node:
            send(node.address, [make_film(AccessionNumber="A1", PatientID="PID-7")])
            journal.wait_for("entered-ledger")
            with node.store.reading() as session:
                (row,) = session.scalars(sa.select(OrderedSizeRow)).all()
    assert (row.answered, row.metres, row.kilograms) == (True, 1.4, 32.0)
