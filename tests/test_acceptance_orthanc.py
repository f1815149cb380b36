"""Acceptance, from outside: DCMTK sends to the node, the node reports to Orthanc, and Orthanc commits.

One node and one Orthanc serve the whole module. The interpreter really decodes each film, and makes its age up from the
picture. Whatever a test sends, the node's log and databases must not show whose film it was.

Does not cover: the shipped model (test_samples), crashes and outages (test_street, test_kill), PostgreSQL.
"""

from __future__ import annotations

import io
import json
import logging
import subprocess
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, FileDataset, dcmread, uid
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from pynetdicom import AE

from conformance import htj2k
from conformance.films import LOSSLESS, PATIENT, draw_pattern, encode, make_film, write
from conformance.orthanc import Orthanc
from dicom_node import logs
from dicom_node.node import Node
from dicom_node.revisions import DeliveryState, StudyState
from dicom_node.settings import LogSettings, Settings
from dicom_node.store import Delivery, Document, FindingRow, Instance, Revision, Study
from inference.anatomy import ROI_NAMES
from inference.errors import FilmError
from inference.film import (
    CR_IMAGE,
    DX_FOR_PRESENTATION,
    DX_FOR_PROCESSING,
    SECONDARY_CAPTURE,
    SUPPORTED_TRANSFER_SYNTAXES,
    read_film,
)
from inference.finding import Box, Estimate, Finding, Laterality, ModelIdentity, Refusal, RefusalCode, Roi
from inference.subject import read_subject
from reports.read_back import read_bone_age, read_refusal

pytestmark = pytest.mark.peer("dcmtk", "dicom3tools", "orthanc")

NODE, MODALITY = "BONEAGE", "MODALITY"
PATIENCE_S = 90.0
IDENTITY = ModelIdentity("global-local", "Made up for tests", "0", "0" * 64)
ENDED = {StudyState.COMMITTED, StudyState.DELIVERED, StudyState.KEPT, StudyState.FAILED}


class MadeUpInterpreter:
    """Decodes a film and makes up an age from its mean grey: another film, another age."""

    identity = IDENTITY

    def interpret(self, ds: Dataset) -> Finding:
        subject = read_subject(ds)
        try:
            film = read_film(ds)
        except FilmError as error:
            return Refusal(error.refusal, str(error), error.remedy, subject, model=IDENTITY)
        rows, columns = film.pixels.shape
        age = 24.0 + 150.0 * float(film.pixels.mean())
        side = columns / 40
        rois = tuple(Roi(name, Box(k * side, 1, (k + 4) * side, rows / 3), 0.9) for k, name in enumerate(ROI_NAMES))
        return Estimate(
            age_months=age,
            interval_low_months=age - 11,
            interval_high_months=age + 12,
            interval_level=0.9,
            subject=subject,
            laterality=Laterality.LEFT,
            hand=Box(1, 1, columns - 1, rows - 1),
            rois=rois,
            hands_found=1,
            quality=0.9,
            flags=film.flags,
            model=IDENTITY,
        )


class Log(io.StringIO):
    """The node's log, and something to wait on: it says what has happened after it is committed."""

    def __init__(self) -> None:
        super().__init__()
        self.grown = threading.Condition()

    def write(self, text: str) -> int:
        with self.grown:
            if "committed" in text or '"info"' not in text:  # an end, or trouble
                self.grown.notify_all()
            return super().write(text)


@dataclass
class Hospital:
    """A running node with its archive."""

    node: Node
    orthanc: Orthanc
    folder: Path
    log: Log
    secrets: set[str] = field(default_factory=lambda: set(PATIENT.values()))  # what must not be found in the log

    def write(self, file: bytes) -> Path:
        """Put a file where a modality would have it."""
        path = self.folder / f"{hash(file)}.dcm"
        path.write_bytes(file)
        return path

    def states(self) -> dict[str, str]:
        with self.node.store.reading() as session:
            return dict(session.execute(sa.select(Study.study_instance_uid, Study.state)).all())

    def wait_for(self, study_uids: Iterable[str]) -> None:
        """Wait until all these studies are committed."""
        wanted = set(study_uids)
        with self.log.grown:
            self.log.grown.wait_for(lambda: {self.states().get(study) for study in wanted} <= ENDED, PATIENCE_S)
        assert {self.states().get(study) for study in wanted} == {StudyState.COMMITTED}, self.log.getvalue()[-3000:]

    def finding(self, study_uid: str) -> FindingRow:
        with self.node.store.reading() as session:
            in_study = Study.study_instance_uid == study_uid
            query = sa.select(FindingRow).join(Revision).join(Study, Study.id == Revision.study_id).where(in_study)
            return session.scalars(query).one()

    def fetch(self, study_uid: str) -> tuple[Path, Path]:
        """Return SR and SC of a study as Orthanc hands them out, having checked that it has one of each."""
        by_series: dict[int, list[Path]] = {}
        for path in self.orthanc.instances(study_uid):
            number = dcmread(path, stop_before_pixels=True).get("SeriesNumber")
            by_series.setdefault(number, []).append(path)
        compose = self.node.settings.compose
        (sr,), (sc,) = by_series[compose.series_number_sr], by_series[compose.series_number_sc]
        return sr, sc


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    root, showwarning, handlers = logging.getLogger(), warnings.showwarning, logging.getLogger().handlers[:]
    level, log = root.level, Log()
    logs.configure(LogSettings(level="DEBUG"), log)
    with Orthanc(folder / "orthanc") as orthanc:
        node = Node(make_settings(folder, orthanc), MadeUpInterpreter())
        node.start()
        try:
            orthanc.register(NODE, node.address[1])
            yield Hospital(node, orthanc, folder, log)
        finally:
            node.stop()
            structlog.reset_defaults()
            root.handlers[:], warnings.showwarning = handlers, showwarning
            root.setLevel(level)


def make_settings(folder: Path, orthanc: Orthanc) -> Settings:
    return Settings.model_validate(
        {
            "node": {"id": "acceptance", "ae_title": NODE, "data_dir": folder / "node"},
            "receive": {"port": 0},
            "assemble": {"quiet_period_s": 0},
            "deliver": {"first_retry_s": 0.2, "max_retry_s": 2},
            "peers": [
                {"kind": "sender", "name": "modality", "ae_title": MODALITY},
                {
                    "kind": "archive",
                    "name": "orthanc",
                    "ae_title": orthanc.ae_title,
                    "host": "127.0.0.1",
                    "port": orthanc.dicom_port,
                },
            ],
        }
    )


@pytest.fixture(autouse=True)
def no_patient_data_leaks(hospital: Hospital, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a test did, nothing of the patient is in the log, on the console, or in the databases."""
    yield
    said = hospital.log.getvalue() + "".join(capfd.readouterr())
    databases = b"".join(path.read_bytes() for path in sorted((hospital.folder / "node").glob("*.db*")))
    assert "receive.started" in said  # there is a log to search; how much each library says depends on what ran before
    assert databases
    for secret in hospital.secrets:
        for written in spellings(secret):
            assert written not in said
            assert written.encode() not in databases
        assert secret.encode("utf-16-le") not in databases


def spellings(secret: str) -> set[str]:
    """Return a value as a log may show it: whole, its name parts, and escaped as in JSON or a repr."""
    parts = {secret, *(part for part in secret.replace("=", "^").split("^") if len(part) > 3)}
    return parts | {json.dumps(part)[1:-1] for part in parts} | {ascii(part)[1:-1] for part in parts}


def test_the_search_for_leaks_sees_through_escapes():
    for secret in (*PATIENT.values(), "Yamada^Tarou=山田^太郎"):
        for line in (secret, json.dumps({"x": secret}), repr(secret), ascii([secret]), f"no {secret.split('^')[0]}"):
            assert any(written in line for written in spellings(secret))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )


def send(hospital: Hospital, datasets: Sequence[FileDataset]) -> None:
    """Send films as a modality does, each in the transfer syntax it is in."""
    ae = AE(MODALITY)
    for ds in datasets:
        ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    assoc = ae.associate(*hospital.node.address, ae_title=NODE)
    assert assoc.is_established
    assert [assoc.send_c_store(ds).get("Status") for ds in datasets] == [0] * len(datasets)
    assoc.release()


def complaints(path: Path, programs: dict[str, str]) -> list[str]:
    """Return the errors dciodvfy finds in an object."""
    result = run(programs["dciodvfy"], "-new", path)
    return [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error")]


# -- the street ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
@pytest.mark.parametrize(
    "header",
    [
        {},
        {"SOPClassUID": CR_IMAGE, "Modality": "CR", "PhotometricInterpretation": "MONOCHROME1"},
        {"SOPClassUID": SECONDARY_CAPTURE, "Modality": "OT", "ConversionType": "DF"},
        {
            "SOPClassUID": CR_IMAGE, "Modality": "CR", "StudyID": None, "AccessionNumber": None,
            "PatientBirthDate": None, "ImagerPixelSpacing": None, "PatientOrientation": None, "StudyTime": None,
            "ReferringPhysicianName": None, "ImageLaterality": None, "BodyPartExamined": None, "PatientSex": None,
        },
    ],
    ids=["DX", "CR", "SC", "poor CR"],
)  # fmt: skip
def test_a_film_sent_by_dcmtk_comes_back_to_orthanc_as_two_reports(hospital, require_peer, program, header):
    """Given a film in the archive, when DCMTK sends it to the node, then SR and SC lie beside it, and are right."""
    dcmtk, dicom3tools = require_peer("dcmtk"), require_peer("dicom3tools")
    film = make_film(draw_pattern(256, 200), **header)
    study_uid, path = film.StudyInstanceUID, hospital.write(write(film))
    archived = run(
        dcmtk["storescu"], "-aet", MODALITY, "-aec", "ORTHANC", "127.0.0.1", str(hospital.orthanc.dicom_port), path
    )
    assert archived.returncode == 0, archived.stderr

    sent = run(dcmtk[program], "-aet", MODALITY, "-aec", NODE, *map(str, hospital.node.address), path)

    assert sent.returncode == 0, sent.stderr
    hospital.wait_for([study_uid])
    (study,) = hospital.orthanc.studies(study_uid)
    assert len(study["Series"]) == 3
    sr_path, sc_path = hospital.fetch(study_uid)
    for report in (sr_path, sc_path):
        assert complaints(report, dicom3tools) == []
    assert run(dcmtk["dsrdump"], sr_path).returncode == 0
    assert run(dicom3tools["dcsrdump"], sr_path).returncode == 0
    sr, finding = dcmread(sr_path), hospital.finding(study_uid)
    assert finding.kind == "estimate"
    assert read_bone_age(sr) == pytest.approx(finding.age_months, abs=1e-6)
    assert f"{finding.age_months:.1f}"[:4] in run(dcmtk["dsrdump"], sr_path).stdout
    assert referenced_images(sr) >= {film.SOPInstanceUID}
    assert str(sr.get("PatientName", "")) == str(film.PatientName)
    ledger_agrees_with(hospital, study_uid, {sr_path, sc_path})


def referenced_images(sr: Dataset) -> set[str]:
    return {
        instance.ReferencedSOPInstanceUID
        for study in sr.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def ledger_agrees_with(hospital: Hospital, study_uid: str, paths: set[Path]) -> None:
    """The ledger has a row for each object that Orthanc has, with its commitment, and no other."""
    with hospital.node.store.reading() as session:
        query = (
            sa.select(Document.sop_instance_uid, Delivery.state)
            .join(Delivery, Delivery.document_id == Document.id)
            .join(Revision, Revision.id == Document.revision_id)
            .join(Study, Study.id == Revision.study_id)
            .where(Study.study_instance_uid == study_uid)
        )
        ledger = dict(session.execute(query).all())
    fetched = {dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths}
    assert ledger == dict.fromkeys(fetched, DeliveryState.COMMITTED)


def test_a_refusal_reaches_the_archive(hospital, require_peer):
    """DX for processing is taken, and refused with a reason that the archive can show."""
    dicom3tools = require_peer("dicom3tools")
    film = make_film(draw_pattern(256, 200), SOPClassUID=DX_FOR_PROCESSING, PresentationIntentType="FOR PROCESSING")

    send(hospital, [film])

    hospital.wait_for([film.StudyInstanceUID])
    sr_path, sc_path = hospital.fetch(film.StudyInstanceUID)
    for report in (sr_path, sc_path):
        assert complaints(report, dicom3tools) == []
    assert read_refusal(dcmread(sr_path)) == RefusalCode.UNSUPPORTED_OBJECT
    assert hospital.finding(film.StudyInstanceUID).refusal_code == RefusalCode.UNSUPPORTED_OBJECT


# -- transfer syntaxes -----------------------------------------------------------------------------------------------


def make_file(transfer_syntax: str) -> bytes:
    if transfer_syntax in htj2k.SYNTAXES:
        return htj2k.encode_film(transfer_syntax)
    bits = 8 if transfer_syntax == uid.JPEGBaseline8Bit else 12
    return encode(make_film(draw_pattern(256, 200, bits), bits), transfer_syntax)


def test_every_transfer_syntax_leads_to_a_committed_age(hospital):
    """Sent by pynetdicom on one association; stored as sent; what was lossless gives the age of the native film."""
    films = {syntax: dcmread(BytesIO(make_file(syntax))) for syntax in SUPPORTED_TRANSFER_SYNTAXES}
    assert {ds.file_meta.TransferSyntaxUID for ds in films.values()} == set(SUPPORTED_TRANSFER_SYNTAXES)

    send(hospital, list(films.values()))

    hospital.wait_for(ds.StudyInstanceUID for ds in films.values())
    ages = {}
    for syntax, ds in films.items():
        finding = hospital.finding(ds.StudyInstanceUID)
        assert (finding.kind, spooled_syntax(hospital, ds)) == ("estimate", syntax)
        sr_path, _ = hospital.fetch(ds.StudyInstanceUID)
        assert read_bone_age(dcmread(sr_path)) == pytest.approx(finding.age_months, abs=1e-6)
        ages[syntax] = finding.age_months
    assert len({ages[syntax] for syntax in LOSSLESS}) == 1
    assert ages[uid.JPEG2000] == pytest.approx(ages[uid.JPEG2000Lossless], abs=3)


def spooled_syntax(hospital: Hospital, ds: Dataset) -> str:
    """Return the transfer syntax of the spooled file, having checked it against the row and the pixels sent."""
    with hospital.node.store.reading() as session:
        (instance,) = session.scalars(sa.select(Instance).where(Instance.sop_instance_uid == ds.SOPInstanceUID))
    spooled = dcmread(hospital.folder / "node" / "spool" / instance.path)
    assert spooled.file_meta.TransferSyntaxUID == instance.transfer_syntax_uid
    assert spooled.PixelData == ds.PixelData
    return str(instance.transfer_syntax_uid)


@pytest.mark.parametrize(
    "syntax",
    [uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless],
    ids=lambda syntax: syntax.keyword,
)
def test_dcmsend_sends_what_it_has(hospital, require_peer, syntax):
    path = hospital.write(make_file(syntax))
    study_uid = dcmread(path).StudyInstanceUID

    sent = run(
        require_peer("dcmtk")["dcmsend"], "--decompress-never", "-aet", MODALITY, "-aec", NODE,
        *map(str, hospital.node.address), path,
    )  # fmt: skip

    assert sent.returncode == 0, sent.stderr
    hospital.wait_for([study_uid])
    assert spooled_syntax(hospital, dcmread(path)) == syntax
    hospital.fetch(study_uid)


# -- headers ---------------------------------------------------------------------------------------------------------

NAMES = [
    (None, "PLAIN^NAME"),
    ("ISO_IR 100", "Äneas^Rüdiger"),
    ("ISO_IR 144", "Люксембург^Анна"),
    ("ISO_IR 192", "Buc^Jérôme=王^小东"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ("ISO_IR 127", "قباني^لنزار"),
]
DROPPABLE = (
    "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "SeriesNumber", "InstanceNumber", "ImagerPixelSpacing", "ImageLaterality",
    "BodyPartExamined", "ViewPosition", "ImageType", "Manufacturer", "AcquisitionDate", "ContentDate", "SeriesDate",
    "ContentTime", "PatientOrientation", "BurnedInAnnotation", "Modality", "PresentationLUTShape",
)  # fmt: skip
GARBLED = (
    "PatientBirthDate", "PatientAge", "PatientSex", "StudyDate", "StudyTime", "AcquisitionDate", "AccessionNumber",
    "StudyID", "SeriesNumber", "ImagerPixelSpacing", "PatientOrientation", "ImageLaterality", "BodyPartExamined",
    "StudyDescription", "PatientWeight", "WindowCenter",
)  # fmt: skip

headers = st.tuples(
    st.sampled_from(NAMES),
    st.sets(st.sampled_from(DROPPABLE)),
    st.dictionaries(
        st.sampled_from(GARBLED),
        st.one_of(
            st.just(""),
            st.sampled_from(
                ["20240230", "99999999", "240000", "1.5.7", "PR", "U", "L\\R\\X", "0\\0", "-1", "abc", "011Y"]
            ),
            st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"), max_size=14),
        ),
        max_size=4,
    ),
)


def make_odd_film(header) -> FileDataset:
    (charset, name), dropped, garbled = header
    film = make_film(draw_pattern(256, 200), **dict.fromkeys(dropped))
    film.SpecificCharacterSet = charset
    if charset is None:
        del film.SpecificCharacterSet
    film.PatientName = name
    for keyword, value in garbled.items():
        film.add(DataElement(Tag(keyword), dictionary_VR(keyword), "", validation_mode=IGNORE))
        values = value.split("\\")
        film[keyword]._value = values if len(values) > 1 else value  # what a VR forbids, only bytes can say
    return film


@settings(max_examples=3, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(headers, min_size=8, max_size=8))
@pytest.mark.filterwarnings("ignore")  # pydicom's, for values its VRs do not allow
def test_any_header_leads_to_a_committed_report_under_the_same_name(hospital, drawn):
    films = [dcmread(BytesIO(write(make_odd_film(header)))) for header in drawn]
    hospital.secrets |= {name for (_, name), _, _ in drawn}

    send(hospital, films)

    hospital.wait_for(film.StudyInstanceUID for film in films)
    for film in films:
        sr_path, sc_path = hospital.fetch(film.StudyInstanceUID)
        for report in (dcmread(sr_path), dcmread(sc_path, stop_before_pixels=True)):
            assert str(report.PatientName) == str(film.PatientName)
            assert report.get("PatientID", "") == film.get("PatientID", "")


@pytest.mark.parametrize(("charset", "name"), NAMES, ids=str)
def test_reports_in_any_character_set_please_dciodvfy(hospital, require_peer, charset, name):
    film = make_odd_film(((charset, name), set(), {}))
    hospital.secrets.add(name)

    send(hospital, [film])

    hospital.wait_for([film.StudyInstanceUID])
    for report in hospital.fetch(film.StudyInstanceUID):
        assert complaints(report, require_peer("dicom3tools")) == []
        assert str(dcmread(report, stop_before_pixels=True).PatientName) == name


def test_two_films_of_one_study_are_both_reported(hospital):
    first = make_film(draw_pattern(256, 200))
    second = make_film(np.flip(draw_pattern(256, 200), axis=0), StudyInstanceUID=first.StudyInstanceUID)

    send(hospital, [first, second])

    hospital.wait_for([first.StudyInstanceUID])
    modalities = [dcmread(path).Modality for path in hospital.orthanc.instances(first.StudyInstanceUID)]
    assert sorted(modalities) == ["OT", "OT", "SR", "SR"]


def test_the_same_film_again_changes_nothing_in_the_archive(hospital):
    film = make_film(draw_pattern(256, 200), SOPClassUID=DX_FOR_PRESENTATION)
    send(hospital, [film])
    hospital.wait_for([film.StudyInstanceUID])
    before = hospital.orthanc.count("Instance")

    send(hospital, [film])
    hospital.wait_for([film.StudyInstanceUID])

    assert hospital.orthanc.count("Instance") == before
