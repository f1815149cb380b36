"""Corrections: a film whose header was corrected under its UIDs is read again; anything else stays a clash.

Not covered: the association that brings them, and what is read and sent then (test_receive.py, test_street_node.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset
from pydicom.uid import ImplicitVRLittleEndian

from conformance.films import draw_pattern, make_film
from dicom_node.corrections import digest, is_correction


def save(folder: Path, name: str, film: FileDataset) -> Path:
    path = folder / name
    film.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def film() -> FileDataset:
    return make_film(PatientSex=None)


def changed(film: FileDataset, **elements: Any) -> FileDataset:
    kept = {keyword: film[keyword].value for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
    return make_film(**{**kept, "PatientSex": None, **elements})


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientSex": "F"},
        {"PatientID": "MERGED"},
        {"PatientBirthDate": "20100101"},
        {"AccessionNumber": "A-2"},
        {"PixelSpacing": ["0.2", "0.2"]},
        {"PhotometricInterpretation": "MONOCHROME1"},
    ],
)
def test_another_header_over_the_same_picture_is_a_correction(
    film: FileDataset, tmp_path: Path, elements: dict[str, Any]
) -> None:
    assert is_correction(save(tmp_path, "a", film), save(tmp_path, "b", changed(film, **elements)))


def test_a_correction_may_come_in_the_other_native_syntax(film: FileDataset, tmp_path: Path) -> None:
    corrected = changed(film, PatientSex="M")
    corrected.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    path = tmp_path / "b"
    corrected.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=True)
    assert is_correction(save(tmp_path, "a", film), path)


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientComments": "what nothing is read by"},
        {"PatientSex": "F", "StudyInstanceUID": "1.2.3"},
        {"PatientSex": "F", "SeriesInstanceUID": "1.2.3"},
        {"PatientSex": "F", "Rows": 1},
        {"PatientSex": "F", "PixelData": None},
    ],
)
def test_what_is_no_correction(film: FileDataset, tmp_path: Path, elements: dict[str, Any]) -> None:
    assert not is_correction(save(tmp_path, "a", film), save(tmp_path, "b", changed(film, **elements)))


def test_another_picture_is_no_correction(film: FileDataset, tmp_path: Path) -> None:
    kept = {keyword: film[keyword].value for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
    other = make_film(draw_pattern(bits=12)[::-1], PatientSex="F", **kept)
    assert not is_correction(save(tmp_path, "a", film), save(tmp_path, "b", other))


def test_what_cannot_be_read_is_no_correction(film: FileDataset, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"no DICOM")
    assert not is_correction(save(tmp_path, "a", film), tmp_path / "b")
    assert not is_correction(tmp_path / "absent", save(tmp_path, "a", film))


def test_the_digest_is_of_the_data_set(film: FileDataset, tmp_path: Path) -> None:
    first = save(tmp_path, "a", film)
    film.file_meta.SourceApplicationEntityTitle = "ELSEWHERE"
    assert digest(first) == digest(save(tmp_path, "b", film))
    assert digest(first) != digest(save(tmp_path, "c", changed(film, PatientSex="F")))
