"""The self-test against archives that take everything, little, or nothing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedSRStorage,
    SecondaryCaptureImageStorage,
    StorageCommitmentPushModel,
    Verification,
)

from conformance.nodes import PATIENCE_S, make_settings, run_node
from conformance.stand_in import StandIn
from dicom_node.archive import Archive, CallBack
from dicom_node.commitment import UNKNOWN_EVENT
from dicom_node.echo import probe
from dicom_node.selftest import NOTICE, PATIENT, make_document, make_film, send
from dicom_node.settings import Settings
from dicom_node.store import Event, now, open_store
from reports.document import encoded
from reports.identity import KINDS, SOP_CLASSES
from reports.phrases import translated


@contextlib.contextmanager
def archive(
    *classes: str, status: int = 0x0000, commits: Callable[[], int] | None = None
) -> Iterator[tuple[tuple[str, int], list[str]]]:
    """Run an SCP for some classes; yields its address and the SOP classes it was sent."""
    taken: list[str] = []
    ae = AE("ARCHIVE")
    for sop_class_uid in (*classes, Verification):
        ae.add_supported_context(sop_class_uid)

    def store(event: evt.Event) -> int:
        taken.append(str(event.dataset.SOPClassUID))
        assert event.dataset.PatientID == PATIENT
        return status

    handlers: list[Any] = [(evt.EVT_C_STORE, store)]
    if commits is not None:
        handlers.append((evt.EVT_N_ACTION, lambda _event: (commits(), None)))
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.server_address[:2], taken
    finally:
        server.shutdown()
        ae.shutdown()


FILM = make_film().SOPClassUID
EVERYTHING = (FILM, *SOP_CLASSES.values())


def test_an_archive_that_takes_everything(tmp_path: Path) -> None:
    with archive(*EVERYTHING) as (address, taken):
        settings = make_settings(tmp_path, {"pacs": address}, peers={"pacs": {"commitment": False}})
        *said, commitment = send(settings, settings.archives[0])
    assert sorted(taken) == sorted(EVERYTHING)
    assert all(fine for _, fine, _ in said)
    assert all("Explicit VR Little Endian, status 0x0000" in sentence for *_, sentence in said)
    assert commitment[:2] == (False, False)
    assert "not accepted" in commitment[2]


def test_an_archive_without_3d_reports_gets_the_other(tmp_path: Path) -> None:
    peer = {"commitment": False, "sr_fallback": ("sr-2d",)}
    with archive(SecondaryCaptureImageStorage, ComprehensiveSRStorage) as (address, _):
        settings = make_settings(tmp_path, {"pacs": address}, peers={"pacs": peer})
        said = list(send(settings, settings.archives[0]))
        echoed = list(probe(settings, settings.archives[0]))
    assert [wanted for wanted, fine, _ in said if wanted and not fine] == []
    taken = {sentence.split(":")[0] for _, fine, sentence in said if fine}
    assert taken == {"Secondary Capture Image Storage", "Comprehensive SR Storage"}
    assert all(fine for fine, _ in echoed)
    assert any("it will get Comprehensive SR Storage" in sentence for _, sentence in echoed)


@pytest.mark.parametrize("taken", [ComprehensiveSRStorage, Comprehensive3DSRStorage])
def test_the_report_for_older_ohif_must_be_taken_itself(tmp_path: Path, taken: str) -> None:
    peer = {"commitment": False, "deliver": ("sr-cornerstone", "sc")}
    with archive(SecondaryCaptureImageStorage, taken, EnhancedSRStorage) as (address, _):
        settings = make_settings(tmp_path, {"pacs": address}, peers={"pacs": peer})
        said = list(send(settings, settings.archives[0]))
        echoed = list(probe(settings, settings.archives[0]))
    failed = [sentence.split(":")[0] for wanted, fine, sentence in said if wanted and not fine]
    assert failed == ([] if taken == ComprehensiveSRStorage else ["Comprehensive SR Storage"])
    assert all(fine for fine, _ in echoed) == (taken == ComprehensiveSRStorage)


def test_what_an_archive_gets_anyway_stands_for_no_report(tmp_path: Path) -> None:
    """Given the text beside the report and in its place, when the report is not taken, then that is a failure."""
    peer = {"commitment": False, "deliver": ("sr", "text"), "sr_fallback": ("text",)}
    with archive(EnhancedSRStorage) as (address, _):
        settings = make_settings(tmp_path, {"pacs": address}, peers={"pacs": peer})
        said = list(send(settings, settings.archives[0]))
        echoed = list(probe(settings, settings.archives[0]))
    failed = [sentence.split(":")[0] for wanted, fine, sentence in said if wanted and not fine]
    assert failed == ["Comprehensive 3D SR Storage"]
    assert not all(fine for fine, _ in echoed)


def test_what_settings_deliver_must_be_taken(tmp_path: Path) -> None:
    with archive(DigitalXRayImageStorageForPresentation, SecondaryCaptureImageStorage) as (address, _):
        settings = make_settings(tmp_path, {"pacs": address})
        said = list(send(settings, settings.archives[0]))
    assert [sentence.split(":")[0] for wanted, fine, sentence in said if wanted and not fine] == [
        "Comprehensive 3D SR Storage",
        "storage commitment",
    ]


def test_a_refusal_is_said_with_its_status(tmp_path: Path) -> None:
    with archive(*EVERYTHING, status=0xA900) as (address, _):
        settings = make_settings(tmp_path, {"pacs": address})
        *said, _ = send(settings, settings.archives[0])
    assert not any(fine for _, fine, _ in said)
    assert all("0xA900" in sentence for *_, sentence in said)


def test_nobody_answers(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, {"pacs": ("127.0.0.1", 1)})
    ((wanted, fine, sentence),) = send(settings, settings.archives[0])
    assert (wanted, fine) == (True, False)
    assert "check host" in sentence


# Storage commitment.


def commitment_of(settings: Settings, wait_s: float = PATIENCE_S) -> tuple[bool, bool, str]:
    """Return the last thing a self-test says."""
    *_, last = send(settings, settings.archives[0], report_wait_s=wait_s)
    return last


ALL_COMMITTED = (True, True, f"storage commitment: all {len(EVERYTHING)} objects are committed")


def test_the_objects_are_fitted_to_the_archive(tmp_path: Path) -> None:
    """Given an archive with a character set and series numbers of its own, then it is tested with those."""
    with Archive(tmp_path / "archive") as pacs:
        settings = make_settings(
            tmp_path / "node",
            {"pacs": pacs.address},
            compose={"language": "zh"},
            peers={"pacs": {"character_set": "GB18030", "series_numbers_from": 501}},
        )
        assert commitment_of(settings) == ALL_COMMITTED
        held = [dcmread(item.path) for item in pacs.objects()]
    assert {ds.SpecificCharacterSet for ds in held} == {"GB18030"}
    documents = [ds for ds in held if ds.SOPClassUID != FILM]
    assert {int(ds.SeriesNumber) for ds in documents} == set(range(501, 507))
    plain = settings.archives[0].model_copy(update={"character_set": "ISO_IR 192", "series_numbers_from": None})
    known = {str(make_document(kind, make_film(), settings, plain).SOPInstanceUID) for kind in KINDS}
    assert known.isdisjoint(str(ds.SOPInstanceUID) for ds in documents)


def test_an_archive_vouches_on_our_association(tmp_path: Path) -> None:
    with Archive(tmp_path / "archive") as pacs:
        settings = make_settings(tmp_path / "node", {"pacs": pacs.address})
        assert commitment_of(settings) == ALL_COMMITTED


def test_an_archive_vouches_at_the_nodes_address_while_no_node_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with Archive(
        tmp_path / "archive", call_back=CallBack("127.0.0.1", port, "BONEAGE"), same_association=False
    ) as pacs:
        settings = make_settings(tmp_path / "node", {"pacs": pacs.address}, receive={"port": port})
        assert commitment_of(settings) == ALL_COMMITTED


def test_an_archive_vouches_to_the_running_node(tmp_path: Path) -> None:
    """Given a running node, when the report comes to it, then the self-test learns of it from the store."""
    with Archive(tmp_path / "archive", same_association=False) as pacs:
        settings = make_settings(tmp_path / "node", {"pacs": pacs.address})
        with run_node(settings, StandIn()) as node:
            pacs.call_back = CallBack(*node.address, "BONEAGE")
            assert commitment_of(settings) == ALL_COMMITTED


def test_an_archive_that_reports_nothing_is_named(tmp_path: Path) -> None:
    with Archive(tmp_path / "archive", same_association=False) as pacs:
        settings = make_settings(tmp_path / "node", {"pacs": pacs.address})
        wanted, fine, sentence = commitment_of(settings, 0.3)
    assert (wanted, fine) == (True, False)
    assert "no report came within 0 s; let the archive know this node's AE title" in sentence


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((0x0000, 2, 1), f"2 of {len(KINDS) + 1} objects are committed"),
        ((0x0112, 0, 0), "the request got status 0x0112"),
    ],
    ids=["lost-some", "refused"],
)
def test_what_an_archive_does_not_vouch_for_is_said(tmp_path: Path, answer: tuple[int, int, int], words: str) -> None:
    status, committed, failed = answer
    with archive(*EVERYTHING, StorageCommitmentPushModel, commits=lambda: status) as (address, _):
        settings = make_settings(tmp_path / "node", {"pacs": address})
        upgraded = open_store(settings.database_url)
        with upgraded.session() as session:
            look = Event(at=now(), node_id="node-1", kind=UNKNOWN_EVENT, detail=f"1.2.3 {committed} {failed}")
            session.add(look)
        upgraded.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dicom_node.vouching.generate_uid", lambda: "1.2.3")
            wanted, fine, sentence = commitment_of(settings)
    assert (wanted, fine) == (True, False)
    assert words in sentence


def test_other_settings_make_other_objects(tmp_path: Path) -> None:
    english, chinese = (
        make_settings(tmp_path, {"pacs": ("127.0.0.1", 1)}, compose={"language": language}) for language in ("en", "zh")
    )
    one, other = (make_document("sr", make_film(), settings, settings.archives[0]) for settings in (english, chinese))
    assert encoded(one) != encoded(other)
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.StudyInstanceUID == other.StudyInstanceUID


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_test_study_each_time_and_it_says_so(tmp_path: Path, kind: str) -> None:
    settings = make_settings(tmp_path, {"pacs": ("127.0.0.1", 1)})
    first, second = (make_document(kind, make_film(), settings, settings.archives[0]) for _ in range(2))
    assert encoded(first) == encoded(second)
    assert first.PatientID == PATIENT
    assert translated(NOTICE.sentence, "zh") != NOTICE.sentence
