"""What an archive's settings change in a document on its way there, seen from the archive.

Not covered: what a character set can say (``tests/reports/test_character_sets.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom import Dataset, FileDataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from conformance.films import make_film
from conformance.nodes import Journal, make_settings, run_node, send
from conformance.orthanc import Orthanc
from conformance.stand_in import StandIn
from dicom_node.archive import Archive
from dicom_node.compose import BY_DEFAULT
from dicom_node.profile import fitted
from dicom_node.settings import ArchivePeer, ComposeSettings
from reports.identity import KINDS, SOP_CLASSES

KINDS_SENT = ("sr", "sc", "text", "gsps", "pdf", "kos")
NAMES = {
    "GB18030": "Wang^XiaoDong=王^小东",
    "ISO_IR 126": "Παπαδοπούλου^Ελένη",
    "ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "ISO_IR 101": "Černý^Łukasz",
    "ISO 2022 IR 13": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
}
DECLARED = {
    "ISO 2022 IR 87": ["", "ISO 2022 IR 87"],
    "ISO 2022 IR 149": ["", "ISO 2022 IR 149"],
    "ISO 2022 IR 13": ["ISO 2022 IR 13", "ISO 2022 IR 87"],
}
UNFIT = "deliver.character-set-unfit"


def peer(**keys: Any) -> ArchivePeer:
    return ArchivePeer(kind="archive", name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=104, **keys)


def by_class(archive: Archive) -> dict[str, FileDataset]:
    return {str(ds.SOPClassUID): ds for ds in (dcmread(item.path) for item in archive.objects())}


def said(ds: Dataset) -> list[tuple[int, str]]:
    """Return what a reader gets of a data set, but for its character set and series number."""
    return [
        (element.tag, repr(element.value))
        for element in ds.iterall()
        if element.VR != "SQ" and element.keyword not in {"SpecificCharacterSet", "SeriesNumber"}
    ]


@pytest.mark.parametrize(("character_set", "name"), NAMES.items())
def test_each_archive_gets_its_character_set(tmp_path: Path, character_set: str, name: str) -> None:
    """Given archives with and without UTF-8, then both commit to the same objects, and say the same of them."""
    with (
        Journal().listening() as journal,
        Archive(tmp_path / "new") as new,
        Archive(tmp_path / "old") as old,
    ):
        peers = {
            "new": {"deliver": KINDS_SENT},
            "old": {"deliver": KINDS_SENT, "character_set": character_set, "series_numbers_from": 501},
        }
        settings = make_settings(tmp_path / "node", {"new": new.address, "old": old.address}, peers=peers)
        with run_node(settings, StandIn()) as node:
            send(node.address, [make_film(PatientName=name, StudyDescription=name.replace("^", " "))])
            journal.wait_for("committed", count=2 * len(KINDS_SENT))
        in_utf_8, fitted_ = by_class(new), by_class(old)
    assert set(in_utf_8) == set(fitted_) == {SOP_CLASSES[kind] for kind in KINDS_SENT}
    for sop_class_uid, document in fitted_.items():
        assert in_utf_8[sop_class_uid].SpecificCharacterSet == "ISO_IR 192"
        assert document.SpecificCharacterSet == DECLARED.get(character_set, character_set)
        assert document.PatientName == name
        assert said(document) == said(in_utf_8[sop_class_uid])
    compose = ComposeSettings()
    for place, kind in enumerate(KINDS_SENT):
        assert in_utf_8[SOP_CLASSES[kind]].SeriesNumber == compose.series_number(kind)
        assert fitted_[SOP_CLASSES[kind]].SeriesNumber == 501 + place
    assert journal.of(UNFIT) == []
    assert name not in str(journal.events)


def test_what_does_not_fit_goes_out_in_utf_8_and_is_named(tmp_path: Path) -> None:
    """Given a Chinese name and an archive for Latin-1, then nothing is lost, and the log says which objects it were."""
    name = "Wang^XiaoDong=王^小东"
    with Journal().listening() as journal, Archive(tmp_path / "archive") as archive:
        settings = make_settings(
            tmp_path / "node", {"pacs": archive.address}, peers={"pacs": {"character_set": "ISO_IR 100"}}
        )
        with run_node(settings, StandIn()) as node:
            send(node.address, [make_film(PatientName=name)])
            journal.wait_for("committed", count=len(BY_DEFAULT))
        held = by_class(archive)
    assert {str(ds.SpecificCharacterSet) for ds in held.values()} == {"ISO_IR 192"}
    assert {str(ds.PatientName) for ds in held.values()} == {name}
    unfit = journal.of(UNFIT)
    assert {(event["kind"], event["sop_instance_uid"]) for event in unfit} == {
        (kind, str(held[SOP_CLASSES[kind]].SOPInstanceUID)) for kind in BY_DEFAULT
    }
    assert {(event["peer"], event["character_set"]) for event in unfit} == {("pacs", "ISO_IR 100")}
    assert all(part not in str(journal.events) for part in ("Wang", "王"))


def test_an_archive_with_implicit_vr_only_gets_it_too(tmp_path: Path) -> None:
    received: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0x0000

    ae = AE("ARCHIVE")
    for kind in BY_DEFAULT:
        ae.add_supported_context(SOP_CLASSES[kind], ImplicitVRLittleEndian)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    keys = {"character_set": "GB18030", "commitment": False, "series_numbers_from": 7}
    settings = make_settings(tmp_path / "node", {"pacs": server.server_address[:2]}, peers={"pacs": keys})
    with Journal().listening() as journal, run_node(settings, StandIn()) as node:
        send(node.address, [make_film(PatientName="王^小东")])
        journal.wait_for("sent", count=len(BY_DEFAULT))
    server.shutdown()
    ae.shutdown()
    assert sorted(int(ds.SeriesNumber) for ds in received) == [7, 8]
    for ds in received:
        assert ds.get_item("PatientName").value.rstrip() == "王^小东".encode("gb18030")
        assert ds.PatientName == "王^小东"


@pytest.fixture(scope="module")
def orthanc(
    require_peer: Callable[[str], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Orthanc]:
    require_peer("orthanc")
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.mark.peer("orthanc")
@pytest.mark.parametrize(
    ("character_set", "name"),
    [pair for pair in NAMES.items() if pair[0] != "ISO 2022 IR 13"],  # of two sets, Orthanc 1.10 takes one
)
def test_orthanc_reads_the_names(orthanc: Orthanc, tmp_path: Path, character_set: str, name: str) -> None:
    """Given an Orthanc, which decodes by itself and answers in UTF-8, then it has the patient by the right name."""
    film = make_film(PatientName=name, PatientID=character_set)
    keys = {"character_set": character_set, "ae_title": orthanc.ae_title, "commitment": False}
    address = {"pacs": ("127.0.0.1", orthanc.dicom_port)}
    with Journal().listening() as journal:
        settings = make_settings(tmp_path / "node", address, peers={"pacs": keys})
        with run_node(settings, StandIn()) as node:
            send(node.address, [film])
            journal.wait_for("sent", count=len(BY_DEFAULT))
    (study,) = orthanc.studies(str(film.StudyInstanceUID))
    assert study["PatientMainDicomTags"]["PatientName"] == name
    held = [dcmread(path, stop_before_pixels=True) for path in orthanc.instances(str(film.StudyInstanceUID))]
    assert [ds.SpecificCharacterSet for ds in held] == [DECLARED.get(character_set, character_set)] * len(BY_DEFAULT)


def document() -> FileDataset:
    film = make_film(SeriesNumber=9001)
    buffer = BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()))


@pytest.mark.parametrize(
    ("kind", "number"),
    [("sr", 1), ("sc", 2), ("text", 3), ("gsps", 4), ("pdf", 5), ("kos", 6), ("sr-2d", 1), ("sr-cornerstone", 1)],
)
def test_series_numbers_are_a_block_of_their_own(kind: str, number: int) -> None:
    assert kind in KINDS
    assert fitted(document(), kind, peer(series_numbers_from=1)).SeriesNumber == number
    assert fitted(document(), kind, peer()).SeriesNumber == 9001


def test_by_default_nothing_is_changed() -> None:
    one = document()
    before = BytesIO()
    one.save_as(before)
    after = BytesIO()
    fitted(one, "sr", peer()).save_as(after)
    assert after.getvalue() == before.getvalue()
    assert one.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


@pytest.mark.parametrize("number", [0, -1, 2**31 - 1, "first"])
def test_series_numbers_that_are_none_are_refused(number: Any) -> None:
    with pytest.raises(ValidationError, match="series_numbers_from"):
        peer(series_numbers_from=number)
