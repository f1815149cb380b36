"""Objects a node has asked an archive to move to it: handed to who waits, never taken for something to interpret.

Receivers with real associations; whole nodes beside a small archive and beside Orthanc.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import Dataset, FileDataset, dcmread
from pynetdicom import AE

from conformance.department import Department, film
from conformance.films import PATIENT, make_film, write
from conformance.nodes import Journal, make_settings, run_node, send, states
from conformance.orthanc import Orthanc
from conformance.query_archive import QueryArchive
from conformance.stand_in import StandIn
from dicom_node.asked import Asked, Sender
from dicom_node.intake import Recorded
from dicom_node.node import Node
from dicom_node.receive import Receiver
from dicom_node.settings import ArchivePeer, ComposeSettings, NodeSettings, ReceiveSettings, SenderPeer
from dicom_node.spool import Received, Spool
from dicom_node.store import Document, open_store
from reports import codes
from reports.document import encoded
from reports.read_back import descendants, measurement_groups, named

NODE, ARCHIVE, WORKSTATION, MODALITY = "BONEAGE", "ARCHIVE", "WORKSTATION", "SENDER"
SUCCESS, NOT_AUTHORISED, CLASS_NOT_SUPPORTED = 0x0000, 0x0124, 0x0122


def write_report(folder: Path) -> FileDataset:
    """Return the report of an earlier film of the child on every film of ``make_film``, made elsewhere."""
    folder.mkdir()
    store = open_store(f"sqlite:///{folder / 'node.db'}")
    child = {"PatientID": PATIENT["PatientID"], "PatientBirthDate": PATIENT["PatientBirthDate"], "PatientSex": "F"}
    report = Department(store, folder, ComposeSettings()).read(
        film("1.2.1", "20230917", 100.0, IssuerOfPatientID="", **child)
    )
    store.close()
    return report


@pytest.fixture
def report(tmp_path: Path) -> FileDataset:
    return write_report(tmp_path / "elsewhere")


class Reception:
    """A receiver, what it recorded, and what it asks for."""

    def __init__(self, folder: Path, *, asks: bool = True) -> None:
        self.asked = Asked(NODE)
        self.recorded: list[Received] = []
        self.folder = folder
        self.receiver = Receiver(
            ReceiveSettings(port=0),
            NodeSettings(data_dir=folder),
            [SenderPeer(kind="sender", name="modality", ae_title=MODALITY)],
            Spool(folder / "spool"),
            self._record,
            lambda _end: None,
            lambda _report: SUCCESS,
            archives=[ArchivePeer(kind="archive", name="pacs", ae_title=ARCHIVE, host="127.0.0.1", port=104)],
            asked=self.asked if asks else None,
        )

    def _record(self, received: Received) -> Recorded:
        self.recorded.append(received)
        return Recorded("new", received.study_instance_uid)

    def store(self, ds: Dataset, caller: str, originator: str | None) -> int | None:
        """Send one object; None where its context is not accepted."""
        ae = AE(caller)
        ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
        assoc = ae.associate(*self.receiver.address, ae_title=NODE)
        if not assoc.is_established:
            return None
        numbered = {} if originator is None else {"originator_aet": originator, "originator_id": 1}
        answer = assoc.send_c_store(ds, **numbered)
        assoc.release()
        return int(answer.Status)

    def files(self) -> list[Path]:
        return [path for path in (self.folder / "spool").rglob("*") if path.is_file()]


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path)
    reception.receiver.start()
    yield reception
    reception.receiver.stop()


@pytest.mark.parametrize("originator", [NODE, None, ARCHIVE], ids=["said", "left-out", "itself"])
def test_what_was_asked_for_reaches_who_waits_and_nobody_else(
    reception: Reception, report: FileDataset, originator: str | None
) -> None:
    """Given a series that is waited for, when the archive moves it, then it is neither recorded nor left on disk."""
    with reception.asked.waiting(ARCHIVE, str(report.SeriesInstanceUID)) as files:
        assert reception.store(report, ARCHIVE, originator) == SUCCESS
    assert [dcmread(BytesIO(file)).SOPInstanceUID for file in files] == [report.SOPInstanceUID]
    assert reception.recorded == []
    assert reception.files() == []


def test_a_film_that_was_asked_for_is_no_new_study_also_from_an_archive_that_sends(reception: Reception) -> None:
    asked_for, sent = (dcmread(BytesIO(write(make_film()))) for _ in range(2))
    with reception.asked.waiting(MODALITY, str(asked_for.SOPInstanceUID)) as files:
        assert [reception.store(one, MODALITY, NODE) for one in (asked_for, sent)] == [SUCCESS, NOT_AUTHORISED]
        assert reception.store(sent, MODALITY, None) == SUCCESS
    assert len(files) == 1
    assert [received.sop_instance_uid for received in reception.recorded] == [str(sent.SOPInstanceUID)]


@pytest.mark.parametrize("caller", [ARCHIVE, MODALITY])
def test_what_nobody_waits_for_any_more_is_refused(reception: Reception, caller: str) -> None:
    """Given a request that is over, when its object comes late, then it does not become a study."""
    late = dcmread(BytesIO(write(make_film())))
    with reception.asked.waiting(ARCHIVE, str(late.SOPInstanceUID)):
        pass
    assert reception.store(late, caller, NODE) == NOT_AUTHORISED
    assert reception.recorded == []
    assert reception.files() == []


def test_a_film_that_somebody_else_moved_here_is_read(reception: Reception) -> None:
    """Given a film that is waited for, when a workstation has it sent here, then it is a new study as ever."""
    one = dcmread(BytesIO(write(make_film())))
    with reception.asked.waiting(MODALITY, str(one.SOPInstanceUID)) as files:
        assert reception.store(one, MODALITY, WORKSTATION) == SUCCESS
    assert files == []
    assert len(reception.recorded) == 1


@pytest.mark.parametrize(("caller", "status"), [(MODALITY, CLASS_NOT_SUPPORTED), (ARCHIVE, NOT_AUTHORISED)])
def test_a_report_that_nobody_asked_for_is_refused(
    reception: Reception, report: FileDataset, caller: str, status: int
) -> None:
    assert reception.store(report, caller, None) == status
    with reception.asked.waiting(ARCHIVE, "1.2.3"):
        assert reception.store(report, caller, None) == status
    assert reception.recorded == []
    assert reception.files() == []


def test_a_node_that_asks_for_nothing_negotiates_no_reports(tmp_path: Path, report: FileDataset) -> None:
    reception = Reception(tmp_path, asks=False)
    reception.receiver.start()
    assert reception.store(report, MODALITY, None) is None
    reception.receiver.stop()


def test_only_the_archive_that_is_asked_may_leave_the_originator_out() -> None:
    """Given a series that is waited for, then nothing else is so much as read for it."""
    asked = Asked(NODE)
    read: list[str] = []

    def take(sender: Sender, series: str) -> bool:
        return asked.take(sender, (series, "1.2.3"), lambda: read.append(series) or b"file")

    with asked.waiting(ARCHIVE, "1.2") as files:
        assert not take(Sender(MODALITY, ""), "1.2")
        assert not take(Sender(ARCHIVE, WORKSTATION), "1.2")
        assert not take(Sender(ARCHIVE, NODE), "1.3")
        assert read == []
        assert take(Sender(MODALITY, NODE), "1.2")
    assert files == [b"file"]
    assert not take(Sender(ARCHIVE, ""), "1.2")
    assert read == ["1.2"]


def earlier_ages(report: Dataset) -> list[float]:
    group = next(measurement_groups(report))
    return [float(item.MeasuredValueSequence[0].NumericValue) for item in named(group, codes.EARLIER_RESULT)]


def report_of(node: Node) -> Dataset:
    """Return the one report a node has written."""
    with node.store.reading() as session:
        path = session.scalars(sa.select(Document.path).where(Document.kind == "sr")).one()
    return dcmread(node.settings.documents_dir / path)


def said(report: Dataset) -> str:
    return " | ".join(str(item.TextValue) for item in descendants(report) if item.ValueType == "TEXT")


@pytest.mark.parametrize(("gets", "retrieve"), [(False, "auto"), (True, "move"), (True, "auto"), (True, "get")])
def test_an_archive_moves_an_earlier_report(tmp_path: Path, report: FileDataset, gets: bool, retrieve: str) -> None:
    """Given an archive without C-GET, or one told to move, then the earlier result counts and is no study here."""
    one = make_film()
    with Journal().listening() as journal, QueryArchive([report], gets=gets, moves=True) as archive:
        peers = {"pacs": {"commitment": False, "retrieve": retrieve}}
        settings = make_settings(
            tmp_path / "node", {"pacs": archive.address}, peers=peers, compose={"priors_from": "pacs"}
        )
        with run_node(settings, StandIn()) as node:
            archive.destination = node.address
            send(node.address, [one])
            journal.wait_for("sent", count=2)
            assert earlier_ages(report_of(node)) == [100.0]
            assert set(states(node.store)) == {str(one.StudyInstanceUID)}
    assert archive.retrieved == [str(report.SOPInstanceUID)]
    assert len(journal.of("receive.asked-for")) == (0 if gets and retrieve != "move" else 1)
    assert str(report.StudyInstanceUID) not in {str(ds.StudyInstanceUID) for ds in archive.stored}


@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_an_archive_that_can_neither_is_said_not_to_have_been_asked(
    tmp_path: Path, report: FileDataset, retrieve: str
) -> None:
    """Given an archive that knows no such destination, or no C-GET, then the report says so and still arrives."""
    with Journal().listening() as journal, QueryArchive([report], gets=False, moves=True) as archive:
        peers = {"pacs": {"commitment": False, "retrieve": retrieve}}
        settings = make_settings(
            tmp_path / "node", {"pacs": archive.address}, peers=peers, compose={"priors_from": "pacs"}
        )
        with run_node(settings, StandIn()) as node:
            send(node.address, [make_film()])
            journal.wait_for("sent", count=2)
            assert "could not be asked" in said(report_of(node))


@pytest.mark.peer("orthanc")
@pytest.mark.parametrize("retrieve", ["move", "auto"])
def test_orthanc_moves_an_earlier_report(tmp_path: Path, report: FileDataset, retrieve: str) -> None:
    one = make_film()
    with Journal().listening() as journal, Orthanc(tmp_path / "orthanc") as orthanc:
        orthanc.put(encoded(report))
        peers = {"pacs": {"ae_title": orthanc.ae_title, "commitment": False, "retrieve": retrieve}}
        settings = make_settings(
            tmp_path / "node",
            {"pacs": ("127.0.0.1", orthanc.dicom_port)},
            peers=peers,
            compose={"priors_from": "pacs"},
            deliver={"dimse_timeout_s": 30.0},
        )
        with run_node(settings, StandIn()) as node:
            orthanc.register(NODE, node.address[1])
            send(node.address, [one])
            journal.wait_for("sent", count=2)
            assert earlier_ages(report_of(node)) == [100.0]
            assert set(states(node.store)) == {str(one.StudyInstanceUID)}
        assert len(journal.of("receive.asked-for")) == (1 if retrieve == "move" else 0)
        assert orthanc.count("Instance") == 3
