"""What outside judges say of our documents: every kind of them, of every film and name a node meets.

The judges and the exceptions made to them, each with its reason, stand in ``conformance/judges.py``; a complaint that
is not among them fails, and so does an exception that no document needs.

Not covered: viewers and archives (``tests/test_acceptance_orthanc.py``).
"""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian

from conformance.judges import EVERY_KIND, EXEMPTIONS, JUDGES, REPORTS, TREES, unexplained, unused
from inference.film import display_bytes, read_film
from inference.finding import Flag
from reports import codes
from reports.document import encoded
from reports.key_objects import Capture
from reports.kinds import Choices, compose
from reports.read_back import read_bone_age
from reports.secondary_capture import compose_sc

ISSUE = {
    "full-dx": ("dx", "full", "en"),
    "sparse-cr": ("cr", "estimate", "en"),
    "jpeg-2000": ("jpeg2000", "lossy", "en"),
    "two-hands": ("dx", "two_hands", "en"),
    "refused-chest": ("chest", "refusal", "en"),
    "sex-unknown": ("cr", "sex_unknown", "en"),
    "chinese": ("chinese", "few", "zh"),
    "greek": ("greek", "few", "en"),
}
"""Name: a source, a finding, a language."""
CASES = ISSUE | {
    "sparse-cr-refused": ("cr", "refusal", "en"),
    "refused-hand": ("dx", "refusal_with_hand", "en"),
    "chinese-full": ("chinese", "full", "zh"),
    "two-models": ("dx", "two_models", "en"),
    "chinese-refused": ("chinese", "refusal", "zh"),
    "chinese-sex-unknown": ("chinese", "sex_unknown", "zh"),
    "capture": ("capture", "few", "en"),
}

IODS = {
    "sr": "Comprehensive3DSR",
    "sr-2d": "ComprehensiveSR",
    "text": "EnhancedSR",
    "kos": "KeyObjectSelectionDocument",
    "sc": "SCImage",
    "gsps": "GrayscaleSoftcopyPresentationState",
    "pdf": "EncapsulatedPDF",
}
"""What dciodvfy calls each kind."""

SCRIPT = Path(__file__).with_name("read_by_dcmjs.cjs")
README = Path(__file__).parents[2] / "reports" / "README.md"


def chinese(dx, _cr, _display):
    dx.SpecificCharacterSet, dx.PatientName = "GB18030", "Wang^XiaoMing=王^小明"
    return dx


def greek(dx, _cr, _display):
    dx.SpecificCharacterSet, dx.PatientName = "ISO_IR 126", "Παπαδοπούλου^Ελένη"
    return dx


def chest(dx, _cr, _display):
    dx.BodyPartExamined, dx.StudyDescription = "CHEST", "Thorax pa"
    del dx.ImageLaterality
    return dx


def capture(dx, _cr, _display):
    """Return a film that came as a secondary capture, with a side marker as an overlay plane."""
    dx.SOPClassUID, dx.Modality = "1.2.840.10008.5.1.4.1.1.7", "OT"
    for element, vr, value in (
        (0x0010, "US", dx.Rows), (0x0011, "US", dx.Columns), (0x0040, "CS", "G"), (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1), (0x0102, "US", 0), (0x3000, "OW", bytes(dx.Rows * dx.Columns // 8)),
    ):  # fmt: skip
        dx.add_new((0x6000, element), vr, value)
    return dx


def jpeg2000(_dx, cr, display):
    """Return a CR with a JPEG 2000 codestream that lost something."""
    cr.file_meta = FileMetaDataset()
    cr.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    cr.SamplesPerPixel, cr.BitsAllocated, cr.BitsStored, cr.HighBit, cr.PixelRepresentation = 1, 8, 8, 7, 0
    cr.PixelData = (255 - display).tobytes()
    cr["PixelData"].VR = "OB"
    cr.compress(JPEG2000, encoding_plugin="pylibjpeg", generate_instance_uid=False, j2k_cr=[10])
    cr.LossyImageCompression, cr.LossyImageCompressionRatio = "01", "10"
    cr.LossyImageCompressionMethod = "ISO_15444_1"
    return cr


SOURCES = {
    "dx": lambda dx, _cr, _display: dx,
    "cr": lambda _dx, cr, _display: cr,
    "chinese": chinese,
    "greek": greek,
    "chest": chest,
    "jpeg2000": jpeg2000,
    "capture": capture,
}


@pytest.fixture
def few(estimate):
    """An estimate of some regions only: the Java judge takes a second for each."""
    return replace(estimate, rois=estimate.rois[::6])


@pytest.fixture
def lossy(few):
    return replace(few, flags=(Flag("lossy-compression", "The image was compressed with loss."),))


@pytest.fixture
def two_hands(few):
    return replace(few, hands_found=2, flags=(Flag("two-hands", "Two hands are on the film; one was read."),))


_written: dict[str, Path] = {}


@pytest.fixture
def documents(request, dx, cr, display, identify, tmp_path_factory):
    """Return every document by case and kind; they are composed and written once a session."""
    if not _written:
        folder = tmp_path_factory.mktemp("documents")
        for name, (source, finding, language) in CASES.items():
            value = request.getfixturevalue(finding)
            found, assessment = value if isinstance(value, tuple) else (value, None)
            header = SOURCES[source](deepcopy(dx), deepcopy(cr), display)
            shown = display_bytes(read_film(header)) if source == "jpeg2000" else display
            capture = Capture(*identified(identify(header, "sc")))
            choices = Choices(assessment=assessment, language=language, name_patient=True, capture=capture)
            for kind in EVERY_KIND:
                identity = identify(header, kind)
                document = compose(kind, header, found, identity, display=lambda shown=shown: shown, choices=choices)
                path = folder / f"{name}.{kind}.dcm"
                path.write_bytes(encoded(document))
                _written[f"{name}.{kind}"] = path
    return dict(_written)


def identified(identity):
    return identity.series_instance_uid, identity.sop_instance_uid


def chosen(documents, kinds, cases=tuple(CASES)):
    return {
        name: path for name, path in documents.items() if name.split(".")[0] in cases and name.split(".")[1] in kinds
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", JUDGES)
def test_no_judge_complains_but_for_the_exceptions(name, documents, require_peer):
    judge = JUDGES[name]
    programs = require_peer(judge.peer)
    # The Java judge takes many seconds a document; the others see more cases.
    seen = chosen(documents, judge.kinds, ISSUE if name == "DicomSRValidator" else CASES)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = dict(zip(seen, pool.map(lambda path: judge.complaints(programs, path), seen.values()), strict=True))

    faults = {document: unexplained(name, lines) for document, lines in said.items()}
    assert {document: lines for document, lines in faults.items() if lines} == {}
    assert unused(name, [line for lines in said.values() for line in lines]) == []


def said(program: str, *arguments: object) -> tuple[int, str]:
    """Return a program's exit code and everything it said."""
    ran = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False, timeout=60)
    return ran.returncode, (ran.stdout + ran.stderr).decode("utf-8", "replace")


def test_dciodvfy_knows_what_each_document_is(documents, require_peer):
    program = require_peer("dicom3tools")["dciodvfy"]
    for name, path in chosen(documents, EVERY_KIND, ("full-dx", "refused-chest")).items():
        assert IODS[name.split(".")[1]] in said(program, "-new", path)[1].splitlines(), name


def test_dciodvfy_finds_a_fault(documents, require_peer, tmp_path):
    """Given a document with a fault, when it is judged, then there is a complaint: silence above means something."""
    broken = dcmread(documents["full-dx.sr"])
    del broken.CompletionFlag
    broken.save_as(tmp_path / "broken.dcm")

    lines = JUDGES["dciodvfy"].complaints(require_peer("dicom3tools"), tmp_path / "broken.dcm")
    assert [line for line in unexplained("dciodvfy", lines) if "CompletionFlag" in line]


@pytest.mark.slow
def test_dciodvfy_asks_for_no_side_of_what_has_none(cr, refusal, display, identify, require_peer, tmp_path):
    program, path = require_peer("dicom3tools"), tmp_path / "capture.dcm"
    faults = {}
    for part in (*sorted(codes.UNPAIRED_PARTS), "KNEE", "SHOULDER"):
        cr.BodyPartExamined = part
        path.write_bytes(encoded(compose_sc(cr, refusal, display, identify(cr, "sc"))))
        faults[part] = unexplained("dciodvfy", JUDGES["dciodvfy"].complaints(program, path))
    assert {part: lines for part, lines in faults.items() if lines} == {}


def test_dcmtk_shows_what_the_reports_say(documents, require_peer, tmp_path):
    programs = require_peer("dcmtk")
    for name, path in chosen(documents, REPORTS, ("full-dx", "greek", "refused-chest")).items():
        page = tmp_path / "report.html"
        assert said(programs["dsr2html"], "+U8", path, page)[0] == 0, name
        assert "not for diagnosis" in page.read_text(encoding="utf-8"), name


def test_dcmtk_takes_the_page_out_of_its_document(documents, require_peer, tmp_path):
    page = tmp_path / "page.pdf"

    assert said(require_peer("dcmtk")["dcm2pdf"], documents["full-dx.pdf"], page)[0] == 0
    assert page.read_bytes().startswith(b"%PDF-")


def test_tid1500reader_reads_the_measurements(documents, require_peer):
    path = documents["full-dx.sr"]
    JUDGES["tid1500reader"].complaints(require_peer("dcmqi"), path)

    groups = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["Measurements"]
    first = {item["quantity"]["CodeValue"]: item["value"] for item in groups[0]["measurementItems"]}
    assert float(first["85151-9"]) == pytest.approx(read_bone_age(dcmread(path)), abs=0.051)
    assert len(groups) == 19  # the hand and its 18 regions


def test_dcmjs_reads_every_document(documents, require_peer):
    programs = require_peer("dcmjs")
    ran = subprocess.run(
        [programs["node"], SCRIPT, programs["dcmjs"], *documents.values()],
        capture_output=True,
        check=False,
        timeout=120,
        encoding="utf-8",
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    for (name, path), read in zip(documents.items(), json.loads(ran.stdout), strict=True):
        document, kind = dcmread(path), name.split(".")[1]
        assert read["sopClass"] == document.SOPClassUID, name
        assert "=".join(read["name"].values()) == str(document.get("PatientName", "")), name
        assert read["bytes"] == len(document.get("PixelData", b"")), name
        if kind in TREES:
            assert any("not for diagnosis" in text for text in read["texts"]), name
        age = read_bone_age(document) if kind in {"sr", "sr-2d"} else None
        printed = [value for concept, value in read["numbers"] if concept == "85151-9"]
        assert kind == "text" or printed == ([] if age is None else [pytest.approx(age, abs=0.051)]), name


def test_each_exception_is_in_the_readme_with_its_reason():
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]

    assert [
        (e.judge, e.reason) for e in EXEMPTIONS if not any(e.judge in row and e.reason in row for row in rows)
    ] == []
    judged = [row for row in rows if row.split("`")[1] in JUDGES]
    assert len(judged) == len(EXEMPTIONS)
