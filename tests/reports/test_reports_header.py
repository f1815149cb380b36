"""Patient and study attributes: what is carried over, what is left empty, and that no header stops a report.

Not covered: whether pydicom decodes a character set rightly (its own tests do); that archives match on what is written.
"""

from __future__ import annotations

import struct
import warnings
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_charset_files
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from conformance.judges import EVERY_KIND
from inference.film import read_pixel_aspect
from reports.document import encoded
from reports.errors import IncompleteSource
from reports.header import (
    PATIENT_AND_STUDY_TYPE_2,
    PATIENT_AND_STUDY_TYPE_3,
    items_of,
    numbers_of,
    patient_and_study,
    pixel_shape,
    text_of,
)
from reports.secondary_capture import compose_sc
from reports.structured_report import compose_sr
from reports.verify import verify

CHARSET_FILES = sorted({Path(name) for name in get_charset_files("chr*.dcm")})

CHARACTER_SETS = [
    b"", b"ISO_IR 100", b"ISO_IR 101", b"ISO_IR 126", b"ISO_IR 13", b"ISO_IR 144", b"ISO_IR 192", b"GB18030", b"GBK",
    b"\\ISO 2022 IR 87", b"ISO 2022 IR 13\\ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"\\ISO 2022 IR 58",
    b"ISO_IR 999", b"ISO IR 100", b"latin1", b"\\\\",
]  # fmt: skip

NAMES = [
    ("ISO_IR 100", "Müller^Jörg"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
    ("GB18030", "Wang^XiaoDong=王^小东乗乛"),  # the last two end in the bytes of a backslash and a caret
    ("GBK", "乗^乛"),
    ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동"),
    ("ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    ("ISO_IR 101", "Černý^Łukasz"),
    ("ISO_IR 144", "Люкceмбypг"),
]

OTHER_ATTRIBUTES = (
    "Rows", "Columns", "ImagerPixelSpacing", "PatientOrientation", "ImageLaterality", "Laterality", "BodyPartExamined",
    "LossyImageCompression", "LossyImageCompressionRatio",
)  # fmt: skip

ATTRIBUTES = [
    keyword
    for keyword in (*PATIENT_AND_STUDY_TYPE_2, *PATIENT_AND_STUDY_TYPE_3, *OTHER_ATTRIBUTES)
    if dictionary_VR(tag_for_keyword(keyword)) != "SQ"
]

LONG = {"UT", "UN", "SQ", "OB"}
"""Value representations whose length has four bytes."""

SEQUENCES = ["ProcedureCodeSequence", "RequestAttributesSequence", "IssuerOfPatientIDQualifiersSequence"]

VALUES = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=40).map(lambda text: text.encode("utf-8")),
    st.sampled_from([b"", b"00000000", b"20150301", b"2015.03.01", b"PR", b"U", b"L\\F", b"010Y", b"A^B=C", b"\x1b$B"]),
)


def element(keyword: str, value: bytes, vr: str | None = None) -> bytes:
    """Return an element in Explicit VR Little Endian."""
    tag = tag_for_keyword(keyword)
    vr = vr or dictionary_VR(tag)
    padded = value + b" " * (len(value) % 2)
    length = struct.pack("<HL" if vr in LONG else "<H", *((0,) if vr in LONG else ()), len(padded))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + length + padded


def parsed(elements: dict[str, bytes]) -> Dataset:
    """Return the data set these bytes are, as the node would read it; what pydicom says of it is not the point here."""
    ordered = sorted(elements.items(), key=lambda item: tag_for_keyword(item[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_dataset(BytesIO(b"".join(element(*item) for item in ordered)), False, True)


REQUIRED = {
    "SOPClassUID": b"1.2.840.10008.5.1.4.1.1.1",
    "SOPInstanceUID": b"1.2.3.4",
    "StudyInstanceUID": b"1.2.3.1",
    "SeriesInstanceUID": b"1.2.3.2",
}

SIZED = {"Rows": struct.pack("<H", 600), "Columns": struct.pack("<H", 500)}


def values_of(ds: Dataset) -> dict[str, str]:
    return {keyword: text_of(ds, keyword) for keyword in ATTRIBUTES if keyword not in OTHER_ATTRIBUTES}


def through_a_file(ds: Dataset) -> Dataset:
    """Return a data set written as a file and read again."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    buffer = BytesIO()
    ds.save_as(buffer, implicit_vr=False, little_endian=True)
    buffer.seek(0)
    return dcmread(buffer, force=True)


@pytest.mark.parametrize("path", CHARSET_FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_names_of_every_character_set_survive(path, kind, refusal, compose_other):
    """Given pydicom's examples of PS3.5 annexes H to K, in ISO 2022 IR 13, 87 and 149 and GB18030 too."""
    source = dcmread(path)
    source.Rows, source.Columns = 600, 500
    source.setdefault("StudyInstanceUID", "1.2.3.1")
    source.setdefault("SeriesInstanceUID", "1.2.3.2")
    source.setdefault("SOPClassUID", "1.2.840.10008.5.1.4.1.1.1")
    source.setdefault("SOPInstanceUID", "1.2.3.4")
    name = str(source.get("PatientName", ""))

    document = dcmread(BytesIO(encoded(compose_other(kind, source, refusal))))

    assert str(document.PatientName) == name
    assert document.SpecificCharacterSet == "ISO_IR 192"
    verify(document, source, refusal)


@pytest.mark.parametrize(("character_set", "name"), NAMES)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_names_are_written_back_unharmed(character_set, name, kind, estimate, compose_other):
    encodings = {"\\ISO 2022 IR 87": "iso2022_jp", "\\ISO 2022 IR 149": None, "ISO_IR 100": "latin-1"}
    encodings |= {"ISO_IR 192": "utf-8", "ISO_IR 144": "iso8859-5", "ISO_IR 101": "iso8859-2"}
    codec = encodings.get(character_set)
    if character_set.startswith("GB"):
        codec = character_set.lower()
    by_hand = _japanese if "IR 13" in character_set else _korean
    raw = name.encode(codec) if codec else by_hand(name)
    named = dict.fromkeys(("PatientName", "ReferringPhysicianName", "StudyDescription"), raw)
    source = parsed({**REQUIRED, **SIZED, "SpecificCharacterSet": character_set.encode(), **named})

    document = dcmread(BytesIO(encoded(compose_other(kind, source, estimate))))

    assert {keyword: str(document[keyword].value) for keyword in named} == dict.fromkeys(named, name)


def _japanese(name: str) -> bytes:
    """Return a name in ISO 2022 IR 13 and IR 87: katakana of half width, then kanji between escapes (PS3.5 H.3.2)."""
    first, *groups = name.split("=")
    parts = [[part.encode("iso2022_jp").replace(b"\x1b(B", b"\x1b(J") for part in group.split("^")] for group in groups]
    return b"=".join([first.encode("shift_jis"), *(b"^".join(group) for group in parts)])


def _korean(name: str) -> bytes:
    """Return a name in ISO 2022 IR 149, each part introduced by its escape sequence (PS3.5 annex I)."""
    groups = name.split("=")
    parts = [[b"\x1b$)C" + part.encode("euc_kr") for part in group.split("^")] for group in groups[1:]]
    return b"=".join([groups[0].encode(), *(b"^".join(group) for group in parts)])


def test_everything_a_full_header_says_is_carried(dx):
    shared = patient_and_study(dx)

    for keyword in ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge",
                    "PatientWeight", "PatientComments", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
                    "ReferringPhysicianName", "StudyDescription", "TimezoneOffsetFromUTC"):  # fmt: skip
        assert str(shared[keyword].value) == str(dx[keyword].value), keyword
    assert shared.ProcedureCodeSequence[0].CodeMeaning == "XR Bone age"


def test_what_limits_the_use_of_a_film_goes_with_its_documents(dx):
    """A phantom, dates moved by a de-identifier, and a consent that does not go as far as distribution."""
    consent = Dataset()
    consent.ConsentForDistributionFlag, consent.ClinicalTrialProtocolID = "NO", "P1"
    dx.QualityControlSubject, dx.LongitudinalTemporalInformationModified = "YES", "MODIFIED"
    dx.ConsentForClinicalTrialUseSequence = [consent]
    shared = patient_and_study(dx)
    assert (shared.QualityControlSubject, shared.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")
    assert shared.ConsentForClinicalTrialUseSequence[0] == consent


def test_a_poor_header_leaves_type_2_attributes_empty(cr):
    shared = patient_and_study(cr)

    assert {keyword: shared[keyword].value for keyword in PATIENT_AND_STUDY_TYPE_2} == dict.fromkeys(
        PATIENT_AND_STUDY_TYPE_2, ""
    )
    assert set(shared.dir()) == {*PATIENT_AND_STUDY_TYPE_2, "StudyInstanceUID"}


@pytest.mark.parametrize(
    ("keyword", "value", "written"),
    [
        ("PatientSex", "U", ""),
        ("PatientSex", "O", "O"),
        ("PatientSex", "m", ""),
        ("PatientBirthDate", "00000000", ""),
        ("PatientBirthDate", "20150230", ""),
        ("PatientBirthDate", "2015.03.01", "20150301"),
        ("StudyTime", "10:15:30", "101530"),
        ("StudyTime", "251530", ""),
        ("StudyTime", "1015", "1015"),
        ("PatientAge", "11Y", ""),
        ("PatientID", "X" * 80, "X" * 80),
        ("PatientID", "A\\B", "A\\B"),
        ("PatientID", "A\nB\x1b", "AB"),
        ("TimezoneOffsetFromUTC", "UTC", ""),
    ],
)
def test_values(keyword, value, written):
    source = parsed({**REQUIRED, keyword: value.encode()})

    assert text_of(patient_and_study(source), keyword) == written


@pytest.mark.parametrize("keyword", REQUIRED)
@pytest.mark.parametrize("value", [None, b"", b"not a uid", b"1.02.3a", b"1." * 40 + b"1"])
def test_without_a_uid_there_is_no_document(keyword, value, refusal, display, identify):
    elements = {name: uid for name, uid in REQUIRED.items() if name != keyword}
    source = parsed(elements | ({} if value is None else {keyword: value}))
    identity = identify(parsed(REQUIRED), "sr")

    with pytest.raises(IncompleteSource) as raised:
        compose_sr(source, refusal, identity)
    assert keyword in str(raised.value)
    assert raised.value.code == "incomplete-source"


@pytest.mark.filterwarnings(r"ignore:Invalid value for VR UI. '[0-9]+(\.[0-9]+)+'")
@pytest.mark.parametrize("keyword", sorted({*REQUIRED} - {"SOPClassUID"}))
def test_a_uid_with_a_leading_zero_is_referred_to_as_it_is(keyword, refusal, identify):
    """Given a device that writes such UIDs, as some do, then its film has a report: the node has answered Success."""
    source = parsed({**REQUIRED, keyword: b"1.2.03.4"})

    report = compose_sr(source, refusal, identify(parsed(REQUIRED), "sr"))
    verify(report, source, refusal)
    assert "1.2.03.4" in str(report)


def test_numbers_and_items_of_junk_are_nothing(dx):
    source = parsed({**REQUIRED, "ImagerPixelSpacing": b"0.1\\x", "Rows": b"\x01\x02\x03"})

    assert numbers_of(source, "ImagerPixelSpacing") == ()
    assert numbers_of(source, "Columns") == ()
    assert items_of(source, "RequestAttributesSequence") == []
    assert numbers_of(dx, "ImagerPixelSpacing") == (0.139, 0.139)


@given(st.sampled_from(CHARACTER_SETS), st.dictionaries(st.sampled_from(ATTRIBUTES), VALUES, max_size=8))
@settings(max_examples=150)
def test_no_header_is_too_odd_and_nothing_changes_on_the_way(character_set, elements):
    """Given any bytes in a header, when they are carried over, written and read, then the same text stands there."""
    source = parsed({**REQUIRED, **elements, "SpecificCharacterSet": character_set})

    shared = patient_and_study(source)

    assert values_of(through_a_file(shared)) == values_of(shared)
    assert values_of(patient_and_study(through_a_file(shared))) == values_of(shared)


@given(
    st.sampled_from(CHARACTER_SETS),
    st.dictionaries(st.sampled_from(ATTRIBUTES), VALUES, max_size=6),
    st.sets(st.sampled_from(sorted(SIZED))),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_report_comes_out_of_any_header(refusal, display, identify, character_set, elements, sized):
    """Given any header with its UIDs, when a refusal is composed, then both documents pass their verification."""
    sizes = {keyword: SIZED[keyword] for keyword in sized}
    source = parsed({**REQUIRED, **elements, **sizes, "SpecificCharacterSet": character_set})

    verify(compose_sr(source, refusal, identify(source, "sr")), source, refusal)
    verify(compose_sc(source, refusal, display, identify(source, "sc")), source, refusal)


@pytest.mark.parametrize(("vr", "name"), [("UN", "Müller^Jörg"), ("OB", "M\ufffdller^J\ufffdrg")])
def test_a_name_in_another_vr_is_still_a_name(vr, name):
    raw = element("SpecificCharacterSet", b"ISO_IR 100") + element("PatientName", "Müller^Jörg".encode("latin-1"), vr)
    source = read_dataset(BytesIO(raw + element("StudyInstanceUID", b"1.2.3.1")), False, True)

    assert str(patient_and_study(source).PatientName) == name


@given(st.dictionaries(st.sampled_from(SEQUENCES), st.binary(max_size=60)))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_broken_sequence_is_left_out(refusal, identify, elements):
    source = parsed({**REQUIRED, **elements})

    verify(compose_sr(source, refusal, identify(source, "sr")), source, refusal)


@given(st.sets(st.sampled_from([*PATIENT_AND_STUDY_TYPE_2, *OTHER_ATTRIBUTES[2:], "RequestAttributesSequence"])))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_an_estimate_comes_out_whatever_is_missing(dx, estimate, display, identify, missing):
    source = Dataset(dx)
    for keyword in missing & set(source.dir()):
        delattr(source, keyword)

    for document in (
        compose_sr(source, estimate, identify(source, "sr")),
        compose_sc(source, estimate, display, identify(source, "sc")),
    ):
        verify(document, source, estimate)
        assert all(document[keyword].is_empty for keyword in missing & set(PATIENT_AND_STUDY_TYPE_2))


@pytest.mark.parametrize(
    ("header", "shape"),
    [
        ({}, (1, 1)),
        ({"ImagerPixelSpacing": ["0.2", "0.1"], "PixelAspectRatio": ["1", "3"]}, (2, 1)),
        ({"PixelSpacing": ["0.1", "0.1009"]}, (1, 1)),
        ({"NominalScannedPixelSpacing": ["0.1", "0.2"]}, (1, 2)),
        ({"PixelAspectRatio": ["3", "4"]}, (3, 4)),
    ],
)
def test_documents_show_pixels_in_the_shape_they_were_read_in(header, shape):
    source = Dataset()
    for keyword, value in header.items():
        setattr(source, keyword, value)
    assert pixel_shape(source) == shape
    assert read_pixel_aspect(source) == pytest.approx(shape[0] / shape[1])
