"""What outside judges say of our documents: dicom3tools' dciodvfy and dcsrdump, DCMTK's dsrdump.

Not covered: viewers, archives, and template conformance (DicomSRValidator is not in Debian's base of the CI).
"""

from __future__ import annotations

import subprocess

import pytest

from reports.document import encoded
from reports.secondary_capture import compose_sc
from reports.structured_report import compose_sr

CASES = [
    (source, finding) for source in ("dx", "cr") for finding in ("estimate", "refusal", "refusal_with_hand")
]  # "cr" is a sparse MONOCHROME1


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    """Return a source and a finding."""
    return tuple(request.getfixturevalue(name) for name in request.param)


def said(program: str, *arguments: object) -> tuple[int, str]:
    """Return a judge's exit code and everything it said."""
    ran = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False, timeout=60)
    return ran.returncode, (ran.stdout + ran.stderr).decode("utf-8", "replace")


@pytest.fixture
def report(case, tmp_path, identify):
    source, finding = case
    path = tmp_path / "report.dcm"
    path.write_bytes(encoded(compose_sr(source, finding, identify(source, "sr"))))
    return path


@pytest.fixture
def capture(case, tmp_path, identify, display):
    source, finding = case
    path = tmp_path / "capture.dcm"
    path.write_bytes(encoded(compose_sc(source, finding, display, identify(source, "sc"))))
    return path


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_the_report(report):
    _code, text = said("dciodvfy", "-new", report)

    assert "Comprehensive3DSR" in text
    assert not [line for line in text.splitlines() if line.startswith("Error")]


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_the_capture(capture):
    _code, text = said("dciodvfy", "-new", capture)

    assert "SCImage" in text
    assert not [line for line in text.splitlines() if line.startswith("Error")]


@pytest.mark.peer("dicom3tools")
def test_dcsrdump_reads_the_report(report):
    code, text = said("dcsrdump", report)

    assert code == 0
    assert '(126000,DCM,"Imaging Measurement Report")' in text
    assert "Error" not in text


@pytest.mark.peer("dcmtk")
def test_dsrdump_reads_the_report(report):
    code, text = said("dsrdump", report)

    assert code == 0
    assert "Comprehensive 3D SR Document" in text
    assert not [line for line in text.splitlines() if line.startswith(("E:", "F:"))]
