"""The self-test against archives that take everything, little, or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    ComprehensiveSRStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    Verification,
)

from conformance.nodes import make_settings
from dicom_node.echo import probe
from dicom_node.selftest import NOTICE, PATIENT, make_document, make_film, send
from reports.document import encoded
from reports.identity import KINDS, SOP_CLASSES
from reports.phrases import translated


@contextlib.contextmanager
def archive(*classes: str, status: int = 0x0000) -> Iterator[tuple[tuple[str, int], list[str]]]:
    """Run an SCP for some classes; yields its address and the SOP classes it was sent."""
    taken: list[str] = []
    ae = AE("ARCHIVE")
    for sop_class_uid in (*classes, Verification):
        ae.add_supported_context(sop_class_uid)

    def store(event: evt.Event) -> int:
        taken.append(str(event.dataset.SOPClassUID))
        assert event.dataset.PatientID == PATIENT
        return status

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield server.server_address[:2], taken
    finally:
        server.shutdown()
        ae.shutdown()


FILM = make_film().SOPClassUID
EVERYTHING = (FILM, *SOP_CLASSES.values())


def test_an_archive_that_takes_everything(tmp_path: Path) -> None:
    with archive(*EVERYTHING) as (address, taken):
        settings = make_settings(tmp_path, {"pacs": address})
        said = list(send(settings, settings.archives[0]))
    assert sorted(taken) == sorted(EVERYTHING)
    assert all(fine for _, fine, _ in said)
    assert all("Explicit VR Little Endian, status 0x0000" in sentence for *_, sentence in said)


def test_an_archive_without_3d_reports_gets_the_other(tmp_path: Path) -> None:
    with archive(SecondaryCaptureImageStorage, ComprehensiveSRStorage) as (address, _):
        settings = make_settings(
            tmp_path, {"pacs": address}, peers={"pacs": {"commitment": False, "sr_fallback": ("sr-2d",)}}
        )
        said = list(send(settings, settings.archives[0]))
        echoed = list(probe(settings, settings.archives[0]))
    assert [wanted for wanted, fine, _ in said if wanted and not fine] == []
    assert sum(not fine for _, fine, _ in said) == len(KINDS) + 1 - 2
    assert all(fine for fine, _ in echoed)
    assert any("it will get Comprehensive SR Storage" in sentence for _, sentence in echoed)


def test_what_settings_deliver_must_be_taken(tmp_path: Path) -> None:
    with archive(DigitalXRayImageStorageForPresentation, SecondaryCaptureImageStorage) as (address, _):
        settings = make_settings(tmp_path, {"pacs": address})
        said = list(send(settings, settings.archives[0]))
    assert [sentence.split(":")[0] for wanted, fine, sentence in said if wanted and not fine] == [
        "Comprehensive 3D SR Storage"
    ]


def test_a_refusal_is_said_with_its_status(tmp_path: Path) -> None:
    with archive(*EVERYTHING, status=0xA900) as (address, _):
        settings = make_settings(tmp_path, {"pacs": address})
        said = list(send(settings, settings.archives[0]))
    assert not any(fine for _, fine, _ in said)
    assert all("0xA900" in sentence for *_, sentence in said)


def test_nobody_answers(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, {"pacs": ("127.0.0.1", 1)})
    ((wanted, fine, sentence),) = send(settings, settings.archives[0])
    assert (wanted, fine) == (True, False)
    assert "check host" in sentence


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_test_study_each_time_and_it_says_so(tmp_path: Path, kind: str) -> None:
    settings = make_settings(tmp_path, {"pacs": ("127.0.0.1", 1)})
    first, second = (make_document(kind, make_film(), settings) for _ in range(2))
    assert encoded(first) == encoded(second)
    assert first.PatientID == PATIENT
    assert translated(NOTICE.sentence, "zh") != NOTICE.sentence
