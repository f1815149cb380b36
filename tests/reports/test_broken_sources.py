"""Source images with tags taken away or spoilt: every document still comes out valid, or an error names the tag.

Each tag of a full DX and of a sparse CR, inside sequences too; wrong value representations, unknown character sets,
values nobody expects. ``test_reports_header.py`` looks at what is written of any header; here every kind of document is
composed of it and verified as it is read again, and a sample is shown to dciodvfy.

Not covered: headers that pydicom cannot read at all, as one whose Specific Character Set is not text (the node refuses
them at its door).
"""

from __future__ import annotations

import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32 as LONG

from conformance.judges import EVERY_KIND, JUDGES, unexplained
from reports.document import encoded
from reports.errors import InapplicableKind, IncompleteSource, UnplaceableFinding
from reports.header import REQUIRED_UIDS
from reports.key_objects import Capture
from reports.kinds import Choices, compose
from reports.verify import verify

FULLER = {
    "Laterality": "L", "WindowCenter": "2048", "WindowWidth": "4096", "PatientBirthTime": "0815", "EthnicGroup": "x",
    "PatientSize": "1.4", "OtherPatientNames": "Müster^J", "PatientIdentityRemoved": "NO", "TypeOfPatientID": "TEXT",
    "AdditionalPatientHistory": "small for age", "PhysiciansOfRecord": "Arzt^A", "LossyImageCompressionRatio": "1",
}  # fmt: skip
"""What a full DX may have beside what the fixture has, and documents read or carry along."""

CHARACTER_SET = 0x00080005
REPRESENTATIONS = ["UN", "OB", "LO", "SH", "UT", "US", "FD", "DS", "IS", "CS", "PN", "DA", "UI", "SQ", "AT"]

# A UID with leading zeros is carried as it came, and pydicom warns of it; of anything that is no UID it must not.
pytestmark = pytest.mark.filterwarnings(r"ignore:Invalid value for VR UI. '[0-9]+(\.[0-9]+)+'")

ODD = [
    b"", b" ", b"\0", b"\\", b"\\\\\\", b"0", b"-1", b"1e400", b"nan", b"4294967296", b"99999999", b"1.2.", b"1..2",
    b"01.02.03", b"x" * 70, b"\x1b$B\x1b(B", b"\xff\xfe\xfd", b"A^B^C^D^E^F=G=H=I", b"NULL", b"19000230",
    "王".encode("gb18030"), "ü".encode(), b"L\\R", b"HAND\\WRIST", b"\xfe\xff\x00\xe0\x04\x00\x00\x00\x01\x02\x03\x04",
]  # fmt: skip
SHORT = [value for value in ODD if b"\\" not in value and len(value) <= 16]
"""Without those that identifiers keep although their representation forbids it: archives match on them."""
VALUES = st.one_of(st.sampled_from(ODD), st.binary(max_size=40), st.text(max_size=20).map(str.encode))

CHARACTER_SETS = [
    b"", b"ISO_IR 192", b"ISO_IR 100", b"GB18030", b"\\ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"ISO_IR 999",
    b"nonsense", b"\\\\\\", b"\xff\xff",
]  # fmt: skip


def elements_of(ds: Dataset) -> dict[int, bytes]:
    """Return each element of a data set as it stands in a file, by its tag."""
    return {int(element.tag): written(alone(element)) for element in ds}


def alone(element: DataElement) -> Dataset:
    ds = Dataset()
    ds.add(element)
    return ds


def written(ds: Dataset) -> bytes:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, ds, "latin_1")
    return file.getvalue()


def raw(tag: int, vr: str, value: bytes) -> bytes:
    """Return an element with any value in any representation."""
    padded = value + b"\0" * (len(value) % 2)
    form, length = ("<HH2s2xL", 4) if vr in LONG else ("<HH2sH", 2)
    return struct.pack(form, tag >> 16, tag & 0xFFFF, vr.encode(), min(len(padded), 2 ** (8 * length) - 1)) + padded


def item_of(elements: dict[int, bytes]) -> bytes:
    inner = joined(elements)
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner


def joined(elements: dict[int, bytes]) -> bytes:
    return b"".join(elements[tag] for tag in sorted(elements))


def read(elements: dict[int, bytes]) -> Dataset:
    """Return the data set these elements are, as the node would read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_dataset(BytesIO(joined(elements)), False, True)


@pytest.fixture
def full_dx(dx):
    for keyword, value in FULLER.items():
        setattr(dx, keyword, value)
    dx.PixelAspectRatio = [1, 1]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-D8700", "SRT", "Hand"
    dx.RequestAttributesSequence[0].RequestedProcedureCodeSequence = [code]
    qualifier = Dataset()
    qualifier.UniversalEntityID, qualifier.UniversalEntityIDType = "1.2.3", "ISO"
    dx.IssuerOfPatientIDQualifiersSequence = [qualifier]
    return dx


@pytest.fixture
def attempt(estimate, refusal, identify):
    """``attempt(source, kind, wanted)`` composes a document and returns it as a peer reads it, or the error's words."""

    display = np.full((30, 25), 90, np.uint8)  # as small as it may be: what is drawn is not the point here

    def outcome(source: Dataset, whole: Dataset, kind: str, finding="estimate") -> Dataset | str:
        found = estimate if finding == "estimate" else refusal
        choices = Choices(capture=Capture("1.2.3", "1.2.3.4"), name_patient=True)
        try:
            identity = identify(whole, kind)
            document = compose(kind, source, found, identity, display=lambda: display, choices=choices)
        except (InapplicableKind, IncompleteSource, UnplaceableFinding) as error:
            return str(error)
        document = dcmread(BytesIO(encoded(document)))
        verify(document, source, found)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The value length")  # an identifier is carried along however long it is
            assert sum(1 for _ in document.iterall()) > 20
        return document

    return outcome


def named_in(message: str, tag: int) -> bool:
    return keyword_for_tag(tag) in message


SOURCES = ["full_dx", "cr"]
FINDINGS = ["estimate", "refusal"]


@pytest.fixture(params=SOURCES)
def whole(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_without_any_one_tag_there_is_a_document_or_the_tag_is_named(whole, kind, attempt):
    elements = elements_of(whole)
    for place, missing in enumerate(elements):
        finding = FINDINGS[(place + EVERY_KIND.index(kind)) % 2]
        outcome = attempt(read({tag: e for tag, e in elements.items() if tag != missing}), whole, kind, finding)
        assert isinstance(outcome, Dataset) or named_in(outcome, missing), (keyword_for_tag(missing), outcome)
        if keyword_for_tag(missing) in {"StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"}:
            assert isinstance(outcome, str), kind


@pytest.mark.parametrize("vr", ["own", "UN", "OB", "US", "LO", "SQ"])
def test_with_any_one_tag_spoilt_there_is_a_document_or_the_tag_is_named(whole, vr, attempt):
    elements = elements_of(whole)
    for place, spoilt in enumerate(sorted(elements.keys() - ({CHARACTER_SET} if vr != "own" else set()))):
        kind, value = EVERY_KIND[(place + len(vr)) % len(EVERY_KIND)], ODD[(place * 7 + len(vr)) % len(ODD)]
        changed = elements | {spoilt: raw(spoilt, dictionary_VR(spoilt) if vr == "own" else vr, value)}
        outcome = attempt(read(changed), whole, kind, FINDINGS[place % 2])
        assert isinstance(outcome, Dataset) or named_in(outcome, spoilt), (keyword_for_tag(spoilt), value, outcome)


TAGS = sorted({tag_for_keyword(keyword) for keyword in (
    "RequestAttributesSequence", "ProcedureCodeSequence", "IssuerOfPatientIDQualifiersSequence", "PatientName",
    "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "SOPInstanceUID", "SOPClassUID", "Rows",
    "Columns", "SeriesInstanceUID", "StudyDate", "ImagerPixelSpacing", "PatientOrientation", "ImageLaterality",
    "WindowCenter", "WindowWidth", "PhotometricInterpretation", "LossyImageCompression", "BodyPartExamined",
    "PatientComments",
    "CodeValue", "CodeMeaning", "CodingSchemeDesignator", "RequestedProcedureID", "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence", "OtherPatientIDsSequence", "IssuerOfAccessionNumberSequence", "AccessionNumber",
)})  # fmt: skip
SPOILT = st.tuples(st.sampled_from(TAGS), st.sampled_from(REPRESENTATIONS), VALUES)
NESTED = st.dictionaries(st.sampled_from(TAGS), st.tuples(st.sampled_from(REPRESENTATIONS), VALUES), max_size=4)


@given(
    source=st.sampled_from(SOURCES),
    kind=st.sampled_from(EVERY_KIND),
    finding=st.sampled_from(FINDINGS),
    character_set=st.sampled_from(CHARACTER_SETS),
    missing=st.sets(st.sampled_from(TAGS), max_size=4),
    spoilt=st.lists(SPOILT, max_size=3),
    sequences=st.dictionaries(
        st.sampled_from([tag for tag in TAGS if dictionary_VR(tag) == "SQ"]), st.lists(NESTED, max_size=2), max_size=2
    ),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_of_any_broken_source_there_is_a_document_or_a_tag_is_named(
    request, attempt, source, kind, finding, character_set, missing, spoilt, sequences
):
    """Given tags missing, spoilt and nested, when a document is composed, then it is valid or a tag is named."""
    whole = request.getfixturevalue(source)
    elements = {tag: e for tag, e in elements_of(whole).items() if tag not in missing}
    elements[CHARACTER_SET] = raw(CHARACTER_SET, "CS", character_set)
    elements |= {tag: raw(tag, vr, value) for tag, vr, value in spoilt}
    for tag, items in sequences.items():
        inner = [item_of({t: raw(t, vr, value) for t, (vr, value) in item.items()}) for item in items]
        elements[tag] = raw(tag, "SQ", b"".join(inner))

    outcome = attempt(read(elements), whole, kind, finding)

    touched = {*missing, *(tag for tag, _vr, _value in spoilt)}
    assert isinstance(outcome, Dataset) or any(named_in(outcome, tag) for tag in touched), outcome


def test_dciodvfy_finds_no_error_in_what_comes_of_broken_sources(full_dx, attempt, require_peer, tmp_path):
    programs, path = require_peer("dicom3tools"), tmp_path / "document.dcm"
    elements = elements_of(full_dx)
    needed = {*map(tag_for_keyword, (*REQUIRED_UIDS, "Rows", "Columns"))}
    faults = {}
    for place, spoilt in enumerate(sorted(elements.keys() - needed)):
        kind = EVERY_KIND[place % len(EVERY_KIND)]
        broken = read(elements | {spoilt: raw(spoilt, "LO", SHORT[place % len(SHORT)])})
        path.write_bytes(encoded(attempt(broken, full_dx, kind)))
        said = unexplained("dciodvfy", JUDGES["dciodvfy"].complaints(programs, path))
        faults[f"{kind} {keyword_for_tag(spoilt)}"] = [line for line in said if line.startswith("Error")]
    assert {name: lines for name, lines in faults.items() if lines} == {}
