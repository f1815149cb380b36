"""What outside judges say of our documents: dicom3tools' dciodvfy and dcsrdump, DCMTK's dsrdump and dsr2html.

Every kind of document, of a full DX and of a sparse MONOCHROME1 CR, of every kind of finding, in both languages and
with names of other letters. No exception to any judge is made.

Not covered: viewers, archives, and template conformance (DicomSRValidator is not in Debian's base of the CI).
"""

from __future__ import annotations

import subprocess

import pytest

from reports.document import encoded
from reports.secondary_capture import compose_sc
from reports.structured_report import compose_sr
from reports.text_report import compose_text_sr

SOURCES = ("dx", "cr", "chinese", "greek")
FINDINGS = ("estimate", "refusal", "refusal_with_hand", "sex_unknown", "full")
CASES = [(source, finding, language) for source in SOURCES[:2] for finding in FINDINGS for language in ("en", "zh")]
CASES += [(source, "full", "en") for source in SOURCES[2:]]
REPORTS = {"sr": "Comprehensive3DSR", "sr-2d": "ComprehensiveSR", "text": "EnhancedSR"}


@pytest.fixture
def chinese(dx):
    dx.SpecificCharacterSet, dx.PatientName = "GB18030", "Wang^XiaoMing=王^小明"
    return dx


@pytest.fixture
def greek(dx):
    dx.SpecificCharacterSet, dx.PatientName = "ISO_IR 126", "Παπαδοπούλου^Ελένη"
    return dx


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    """Return a source, a finding, its assessment and a language."""
    source, found, language = request.param
    value = request.getfixturevalue(found)
    finding, assessment = value if found == "full" else (value, None)
    return request.getfixturevalue(source), finding, {"assessment": assessment, "language": language}


def said(program: str, *arguments: object) -> tuple[int, str]:
    """Return a judge's exit code and everything it said."""
    ran = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False, timeout=60)
    return ran.returncode, (ran.stdout + ran.stderr).decode("utf-8", "replace")


@pytest.fixture(params=list(REPORTS))
def report(case, tmp_path, identify, request):
    """Return the kind of a report and its file."""
    source, finding, options = case
    identity = identify(source, request.param)
    if request.param == "text":
        document = compose_text_sr(source, finding, identity, **options)
    else:
        document = compose_sr(source, finding, identity, three_dimensional=request.param == "sr", **options)
    path = tmp_path / "report.dcm"
    path.write_bytes(encoded(document))
    return request.param, path


@pytest.fixture
def capture(case, tmp_path, identify, display):
    source, finding, options = case
    path = tmp_path / "capture.dcm"
    path.write_bytes(encoded(compose_sc(source, finding, display, identify(source, "sc"), **options)))
    return path


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_the_report(report):
    kind, path = report
    _code, text = said("dciodvfy", "-new", path)

    assert REPORTS[kind] in text
    assert not [line for line in text.splitlines() if line.startswith("Error")]


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_the_capture(capture):
    _code, text = said("dciodvfy", "-new", capture)

    assert "SCImage" in text
    assert not [line for line in text.splitlines() if line.startswith("Error")]


@pytest.mark.peer("dicom3tools")
def test_dcsrdump_reads_the_report(report):
    kind, path = report
    code, text = said("dcsrdump", path)

    assert code == 0
    assert ("Diagnostic imaging study" if kind == "text" else '(126000,DCM,"Imaging Measurement Report")') in text
    assert "Error" not in text


@pytest.mark.peer("dcmtk")
def test_dsrdump_reads_the_report(report):
    kind, path = report
    names = {"sr": "Comprehensive 3D SR Document", "sr-2d": "Comprehensive SR Document", "text": "Enhanced SR Document"}
    code, text = said("dsrdump", path)

    assert code == 0
    assert names[kind] in text
    assert not [line for line in text.splitlines() if line.startswith(("E:", "F:"))]


@pytest.mark.peer("dcmtk")
def test_dsr2html_makes_a_page_of_the_report(report, tmp_path):
    _kind, path = report
    page = tmp_path / "report.html"
    code, text = said("dsr2html", "+U8", path, page)

    assert code == 0
    assert not [line for line in text.splitlines() if line.startswith(("E:", "F:"))]
    assert "not for diagnosis" in page.read_text(encoding="utf-8")


OTHERS = {"gsps": "GrayscaleSoftcopyPresentationState", "pdf": "EncapsulatedPDF", "kos": "KeyObjectSelectionDocument"}


@pytest.fixture(params=list(OTHERS))
def other(case, tmp_path, compose_other, request):
    """Return the kind of a document that is neither report nor capture, and its file."""
    source, finding, options = case
    document = compose_other(request.param, source, finding, options["language"])
    path = tmp_path / "other.dcm"
    path.write_bytes(encoded(document))
    return request.param, path


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_the_other_documents(other):
    kind, path = other
    _code, text = said("dciodvfy", "-new", path)

    assert OTHERS[kind] in text
    assert not [line for line in text.splitlines() if line.startswith("Error")]


@pytest.mark.peer("dcmtk")
def test_dcmtk_reads_the_other_documents(other, tmp_path):
    kind, path = other
    if kind == "kos":
        code, text = said("dsrdump", path)
    elif kind == "pdf":
        code, text = said("dcm2pdf", path, tmp_path / "page.pdf")
    else:
        code, text = said("dcmdump", path)

    assert code == 0
    assert not [line for line in text.splitlines() if line.startswith(("E:", "F:"))]
