"""What a received data set says it is, read from its bytes: the same as pydicom reads, and every broken one noticed.

Not covered: values beyond those that identify an object; ``inference`` reads them later.
"""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from conformance.films import LOSSLESS, encode, make_film
from dicom_node.errors import BrokenDataSet
from dicom_node.header import Header, read_header
from inference.film import SUPPORTED_TRANSFER_SYNTAXES

KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def split(part_10: bytes) -> bytes:
    """Return the data set of a Part 10 file."""
    return part_10[144 + int.from_bytes(part_10[140:144], "little") :]


def expected(ds: Dataset) -> Header:
    return Header(*(str(ds[keyword].value) for keyword in KEYWORDS), Modality=str(ds.get("Modality", "")))


def shipped_files() -> list[Path]:
    """Return pydicom's own test files that a receiver might be sent, those in its wheel."""
    found = []
    for path in sorted(Path(pydicom.data.__file__).parent.glob("test_files/*.dcm")):
        with warnings.catch_warnings(action="ignore"):
            try:
                ds = dcmread(path, stop_before_pixels=True)
            except Exception:  # noqa: BLE001 - some are broken on purpose
                continue
        syntax = ds.file_meta.get("TransferSyntaxUID")
        if syntax in SUPPORTED_TRANSFER_SYNTAXES and all(ds.get(keyword) for keyword in KEYWORDS):
            found.append(path)
    return found


# Files of pydicom that end too early, or whose encoding is not what they say: they must not be taken for whole.
BROKEN = {"rtplan_truncated.dcm", "MR_truncated.dcm", "SC_rgb_jpeg.dcm"}


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in shipped_files()])
def test_agrees_with_pydicom(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        ds = dcmread(path, stop_before_pixels=True)
    data, syntax = split(path.read_bytes()), str(ds.file_meta.TransferSyntaxUID)
    if path.name in BROKEN:
        with pytest.raises(BrokenDataSet):
            read_header(data, syntax)
    else:
        assert read_header(data, syntax) == expected(ds)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_every_encoding(syntax: str) -> None:
    film = make_film()
    assert read_header(split(encode(film, syntax)), syntax) == expected(film)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("keyword", KEYWORDS)
def test_what_identifies_must_be_there(keyword: str, syntax: str) -> None:
    film = make_film()
    del film[keyword]
    film.file_meta.MediaStorageSOPClassUID = film.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    with pytest.raises(BrokenDataSet, match=f"has no {keyword}"):
        read_header(split(encode(film, syntax)), syntax)


@pytest.mark.parametrize("value", [b"", b"Nobody^Knows", b"1..2", b"1.2.3.", b"../../etc", b"1" * 66, b"1.2\\1.3"])
def test_what_identifies_must_be_a_uid(value: bytes) -> None:
    with pytest.raises(BrokenDataSet, match="is no UID") as caught:
        read_header(minimal(study_uid=value), ImplicitVRLittleEndian)
    assert "Nobody" not in str(caught.value)


def element(tag: int, value: bytes, length: int | None = None) -> bytes:
    """Encode an Implicit VR Little Endian element."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def minimal(*, study_uid: bytes = b"1.2.3\0", between: bytes = b"", after: bytes = b"") -> bytes:
    return (
        element(0x00080016, b"1.2.1\0")
        + element(0x00080018, b"1.2.2\0")
        + between
        + element(0x0020000D, study_uid + b"\0" * (len(study_uid) % 2))
        + element(0x0020000E, b"1.2.4\0")
        + after
    )


MINIMAL = Header("1.2.1", "1.2.2", "1.2.3", "1.2.4", "")
UNDEFINED = 0xFFFFFFFF
ITEM_END, SEQUENCE_END = element(0xFFFEE00D, b""), element(0xFFFEE0DD, b"")


def nest(depth: int) -> bytes:
    if not depth:
        return b""
    item = element(0xFFFEE000, nest(depth - 1), UNDEFINED) + ITEM_END
    return element(0x00081140, item, UNDEFINED) + SEQUENCE_END


def test_sequences_hide_what_is_inside_them() -> None:
    inner = minimal(study_uid=b"9.9.9\0")
    of_undefined_length = element(
        0x00081140, element(0xFFFEE000, inner, UNDEFINED) + ITEM_END + SEQUENCE_END, UNDEFINED
    )
    of_defined_length = element(0x00081140, element(0xFFFEE000, inner))
    for between in (of_undefined_length, of_defined_length, nest(20)):
        assert read_header(minimal(between=between), ImplicitVRLittleEndian) == MINIMAL


@pytest.mark.parametrize("depth", [40, 5000])
def test_bottomless_nesting_is_refused(depth: int) -> None:
    head = element(0x00081140, element(0xFFFEE000, b"", UNDEFINED), UNDEFINED)
    with pytest.raises(BrokenDataSet, match="nests too deeply"):
        read_header(head * depth, ImplicitVRLittleEndian)


def test_unknown_vr_of_undefined_length_is_implicit_inside() -> None:
    head = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, UNDEFINED)
    unknown = head + element(0xFFFEE000, element(0x00091002, b"ab")) + SEQUENCE_END
    ds = make_film()
    data = split(encode(ds, ExplicitVRLittleEndian))
    at = data.index(struct.pack("<HH", 0x0010, 0x0010))
    assert read_header(data[:at] + unknown + data[at:], ExplicitVRLittleEndian) == expected(ds)


@pytest.mark.parametrize(
    "after",
    [
        element(0x7FE00010, b"ab", 4),
        element(0x7FE00010, b"", UNDEFINED),
        element(0x7FE00010, element(0xFFFEE000, b"ab", 200), UNDEFINED),
        element(0x7FE00010, element(0xFFFEE000, b"ab"), UNDEFINED),
        element(0x7FE00010, element(0x00100010, b"ab"), UNDEFINED),
        element(0x00081140, element(0xFFFEE000, element(0x00100010, b"ab"), UNDEFINED) + SEQUENCE_END, UNDEFINED),
        b"\0\0\0",
    ],
)
def test_what_ends_too_early_is_broken(after: bytes) -> None:
    with pytest.raises(BrokenDataSet):
        read_header(minimal(after=after), ImplicitVRLittleEndian)


def test_implicit_data_in_an_explicit_context_is_broken() -> None:
    with pytest.raises(BrokenDataSet, match="value representation"):
        read_header(minimal(), ExplicitVRLittleEndian)


@pytest.mark.parametrize("modality", [b"Nobody's^Name ", b"\xff\xff", b"TOO LONG FOR A CODE STRING"])
def test_a_modality_that_is_none_is_empty(modality: bytes) -> None:
    header = read_header(minimal(between=element(0x00080060, modality)), ImplicitVRLittleEndian)
    assert header.Modality == ""


def test_deflated_that_is_not_and_that_is_huge() -> None:
    with pytest.raises(BrokenDataSet, match="not deflated"):
        read_header(b"\xff" * 64, DeflatedExplicitVRLittleEndian)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(64 << 20)) + packer.flush()
    with pytest.raises(BrokenDataSet):
        read_header(bomb, DeflatedExplicitVRLittleEndian)


@given(st.binary(max_size=400), st.sampled_from(SUPPORTED_TRANSFER_SYNTAXES))
def test_no_bytes_do_worse_than_be_refused(data: bytes, syntax: str) -> None:
    with contextlib.suppress(BrokenDataSet):
        read_header(data, syntax)


@given(st.data())
def test_no_truncation_and_no_flipped_byte_does_worse_than_be_refused(data: st.DataObject) -> None:
    whole = bytearray(minimal(between=nest(3), after=element(0x7FE00010, b"ab" * 8)))
    where = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        whole[where] ^= data.draw(st.integers(1, 255))
    else:
        del whole[where:]
    with contextlib.suppress(BrokenDataSet):
        read_header(bytes(whole), ImplicitVRLittleEndian)


def test_character_sets_and_sequences_of_a_real_header_do_not_matter() -> None:
    film = make_film(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎")
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    film.ReferencedStudySequence = Sequence([item, item])
    film.is_undefined_length_sequence_item = True
    stream = BytesIO()
    film["ReferencedStudySequence"].is_undefined_length = True
    film.save_as(stream, enforce_file_format=True)
    assert read_header(split(stream.getvalue()), ExplicitVRLittleEndian) == expected(film)
