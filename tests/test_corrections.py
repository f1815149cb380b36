"""Corrections: a film whose header was corrected under its UIDs is read again; anything else stays a clash.

Not covered: the association that brings them, and what is read and sent then (test_receive.py, test_street_node.py).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from conformance.films import draw_pattern, encode, make_film
from dicom_node.corrections import digest, is_correction
from dicom_node.fingerprints import take_fingerprint

KEPT = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
DAMAGED = make_film(draw_pattern(rows=9, columns=7))


def save(folder: Path, name: str, film: FileDataset) -> Path:
    path = folder / name
    film.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def film() -> FileDataset:
    return make_film(PatientSex=None)


def changed(film: FileDataset, **elements: Any) -> FileDataset:
    kept = {keyword: film[keyword].value for keyword in KEPT}
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


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("bits", [12, 8])
def test_a_correction_may_come_in_another_lossless_syntax(tmp_path: Path, syntax: str, bits: int) -> None:
    """Given a film of an odd number of pixels, when its correction comes compressed, or came so, it is one."""
    film = make_film(draw_pattern(rows=61, columns=43, bits=bits), bits, PatientSex=None)
    other = make_film(film.pixel_array[::-1], bits, PatientSex="F", **{key: film[key].value for key in KEPT})
    first = save(tmp_path, "a", film)
    film.PatientSex = "F"
    (tmp_path / "b").write_bytes(encode(film, syntax))
    (tmp_path / "c").write_bytes(encode(other, syntax))
    assert is_correction(first, tmp_path / "b")
    assert is_correction(tmp_path / "b", first)
    assert not is_correction(first, tmp_path / "c")


def test_what_lost_detail_is_no_correction_of_what_did_not(tmp_path: Path) -> None:
    film = make_film(PatientSex=None)
    first = save(tmp_path, "a", film)
    film.PatientSex = "F"
    (tmp_path / "b").write_bytes(encode(film, JPEGLSNearLossless, near=0))
    assert not is_correction(first, tmp_path / "b")


def test_a_picture_is_known_again_in_any_lossless_syntax(film: FileDataset, tmp_path: Path) -> None:
    first = take_fingerprint(save(tmp_path, "a", film))
    (tmp_path / "b").write_bytes(encode(film, JPEGLSLossless))
    again = take_fingerprint(tmp_path / "b")
    assert again.has_picture_of(first)
    assert (again.sha256 == first.sha256, again.header_sha256 == first.header_sha256) == (False, True)
    sexed = take_fingerprint(save(tmp_path, "c", changed(film, PatientSex="F")))
    assert (sexed.has_picture_of(first), sexed.header_sha256 == first.header_sha256) == (True, False)
    other = take_fingerprint(save(tmp_path, "d", changed(film, StudyInstanceUID="1.2.3")))
    assert not other.has_picture_of(first)


@pytest.mark.filterwarnings("ignore")
@given(data=st.data(), syntax=st.sampled_from([ExplicitVRLittleEndian, JPEGLSLossless, RLELossless]))
def test_damaged_films_have_fingerprints_too(data: st.DataObject, syntax: str) -> None:
    """Given a film some bytes of which are others, then its hashes are taken all the same: a purge must not stop."""
    damaged = bytearray(encode(DAMAGED, syntax))
    start = 144 + int.from_bytes(damaged[140:144], "little")
    places = st.integers(start, len(damaged) - 1)
    for place, value in data.draw(st.dictionaries(places, st.integers(0, 255), min_size=1, max_size=8)).items():
        damaged[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(damaged[: data.draw(st.integers(start, len(damaged)))])
        assert take_fingerprint(path).sha256 == digest(path)


def test_what_has_no_picture_is_no_picture_of_another(film: FileDataset, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"no DICOM")
    (tmp_path / "b").write_bytes(b"no DICOM")
    one, other = take_fingerprint(tmp_path / "a"), take_fingerprint(save(tmp_path, "c", changed(film, PixelData=None)))
    assert not one.has_picture_of(take_fingerprint(tmp_path / "b"))
    assert not other.has_picture_of(other)


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
    kept = {keyword: film[keyword].value for keyword in KEPT}
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
