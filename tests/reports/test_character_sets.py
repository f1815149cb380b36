"""Documents in the character set of an archive: nothing is lost, and outside programs read what was written.

Not covered: how they get there (``tests/test_profile.py``).
"""

from __future__ import annotations

import re
import subprocess
from io import BytesIO
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from conformance.judges import JUDGES, unexplained
from reports.character_sets import FOR_CHINESE, CharacterSet, in_character_set
from reports.document import encoded
from reports.identity import KINDS
from reports.key_objects import Capture
from reports.kinds import Choices, compose
from reports.read_back import read_result
from reports.verify import verify

SETS = [name for name in get_args(CharacterSet) if name != "ISO_IR 192"]
DECLARED = {
    "ISO_IR 6": None,
    "ISO 2022 IR 87": ["", "ISO 2022 IR 87"],
    "ISO 2022 IR 149": ["", "ISO 2022 IR 149"],
    "ISO 2022 IR 13": ["ISO 2022 IR 13", "ISO 2022 IR 87"],
}
"""What Specific Character Set says where that is not the name of the set."""

NAMES = [
    ("ISO_IR 6", "Muster^Joerg"),
    ("ISO_IR 100", "Müller^Jörg"),
    ("ISO_IR 101", "Černý^Łukasz"),
    ("ISO_IR 109", "Ĉapelo^Ĝoja"),
    ("ISO_IR 110", "Bērziņš^Jānis"),
    ("ISO_IR 126", "Παπαδοπούλου^Ελένη"),
    ("ISO_IR 127", "قباني^لنزار"),
    ("ISO_IR 138", "שרון^דבורה"),
    ("ISO_IR 144", "Люкceмбypг^Иван"),
    ("ISO_IR 148", "Çavuşoğlu^İbrahim"),
    ("ISO_IR 166", "นามสกุล^ชื่อ"),
    ("GB18030", "Wang^XiaoDong=王^小东乗乛"),  # the last two end in the bytes of a backslash and a caret
    ("GBK", "Wang^XiaoDong=王^小东乗乛"),
    ("ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동"),
    ("ISO 2022 IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
]

FROM_THE_STANDARD = [
    # PS3.5 annexes H.3.1, H.3.2, I.2 and J.3 or K.2
    (
        "ISO 2022 IR 13",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    ),
    (
        "ISO 2022 IR 87",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    (
        "ISO 2022 IR 149",
        "Hong^Gildong=洪^吉洞=홍^길동",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    ),
    ("GB18030", "Wang^XiaoDong=王^小东", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab"),
    ("GBK", "Wang^XiaoDong=王^小东", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab"),
]

TEXTS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}


def texts(dataset: Dataset) -> list[str]:
    """Return every text of a data set and its items, as somebody who decodes it reads it."""
    return [str(element.value) for element in dataset.iterall() if element.VR in TEXTS]


def but_texts(dataset: Dataset) -> list[tuple[int, str]]:
    """Return everything else but the character set: numbers, UIDs, pixels."""
    return [
        (element.tag, repr(element.value))
        for element in dataset.iterall()
        if element.VR not in {*TEXTS, "SQ"} and element.keyword != "SpecificCharacterSet"
    ]


def raw(document: Dataset, keyword: str) -> bytes:
    """Return the bytes of a value, without padding."""
    return dcmread(BytesIO(encoded(document))).get_item(keyword).value.rstrip(b" ")


def named(dx: Dataset, name: str) -> Dataset:
    """Return a source with a name in all sorts of attributes, in sequences and texts of several lines as well."""
    family = name.rsplit("=", maxsplit=1)[-1].replace("^", " ")
    dx.SpecificCharacterSet = "ISO_IR 192"
    dx.PatientName, dx.ReferringPhysicianName, dx.StudyDescription = name, name, f"Hand {family}"
    dx.PatientComments = f"{family}\r\nA-{family} B\n{family}"
    dx.RequestAttributesSequence[0].RequestedProcedureDescription = family
    dx.ProcedureCodeSequence[0].CodeMeaning = family
    dx.OtherPatientNames = [name, name]
    return dx


@pytest.fixture
def made(dx, estimate, compose_other):
    """``made(name, kind)`` returns a document of a patient of that name."""

    def make(name, kind="sr", finding=estimate, language="en"):
        return compose_other(kind, named(dx, name), finding, language)

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("character_set", "name"), NAMES, ids=[name for name, _ in NAMES])
def test_every_kind_says_the_same_in_another_set(made, dx, estimate, character_set, name, kind):
    """Given a name, when a document is written in a set that has it, then only the set has changed."""
    document = made(name, kind)
    before = encoded(document)

    written = in_character_set(document, character_set)

    declared = DECLARED.get(character_set, character_set)
    assert written is not None
    assert written.get("SpecificCharacterSet") == declared
    assert texts(written) == texts(document)
    assert str(written.PatientName) == name
    assert but_texts(written) == but_texts(document)
    assert written.file_meta == document.file_meta
    assert encoded(document) == before
    verify(written, dx, estimate)


def test_the_bone_age_is_read_back(made, estimate):
    written = in_character_set(made("Wang^XiaoDong=王^小东", language="zh"), "GB18030")
    result = read_result(written)
    assert result is not None
    assert result.bone_age_months == pytest.approx(estimate.age_months)


@pytest.mark.parametrize(("character_set", "name", "expected"), FROM_THE_STANDARD)
def test_names_have_the_bytes_of_the_standard(made, character_set, name, expected):
    written = in_character_set(made(name, "text"), character_set)
    assert raw(written, "PatientName") == expected
    assert raw(written, "OtherPatientNames") == expected + b"\\" + expected


def test_each_line_is_designated_anew(made):
    written = in_character_set(made("Hong^Gildong=洪^吉洞=홍^길동", "text"), "ISO 2022 IR 149")
    first, second, third = re.split(b"\r?\n", raw(written, "PatientComments"))
    assert first == b"\x1b$)C" + "홍 길동".encode("euc_kr")
    assert second == b"\x1b$)C" + "A-홍 길동 B".encode("euc_kr")
    assert third == first


@pytest.mark.parametrize("character_set", sorted(FOR_CHINESE - {"ISO_IR 192"}))
@pytest.mark.parametrize("kind", KINDS)
def test_reports_in_chinese_fit(dx, full, sex_unknown, refusal, identify, display, kind, character_set):
    finding, assessment = full
    for found, known in ((finding, assessment), (sex_unknown, None), (refusal, None)):
        choices = Choices(assessment=known, language="zh", name_patient=True, capture=Capture("1.2.3", "1.2.3.4"))
        document = compose(
            kind, named(dx, "王^小东"), found, identify(dx, kind), display=lambda: display, choices=choices
        )
        written = in_character_set(document, character_set)
        assert written is not None
        assert texts(written) == texts(document)


@pytest.mark.parametrize("kind", KINDS)
def test_reports_in_english_need_no_more_than_ascii(dx, full, identify, display, kind):
    """Given a header in ASCII, then so are the documents, and the attribute is left out (PS3.3 C.12.1.1.2)."""
    finding, assessment = full
    choices = Choices(assessment=assessment, capture=Capture("1.2.3", "1.2.3.4"))
    source = named(dx, "Muster^Joerg")
    document = compose(kind, source, finding, identify(source, kind), display=lambda: display, choices=choices)
    written = in_character_set(document, "ISO_IR 6")
    assert "SpecificCharacterSet" not in written
    assert all(text.isascii() for text in texts(written))


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 6", "Müller"),
        ("ISO_IR 100", "王^小东"),
        ("ISO_IR 100", "Černý"),
        ("ISO_IR 100", "Tab\x85"),  # a control character of C1 (PS3.5 6.1.3)
        ("ISO_IR 126", "Ελένη €"),  # in ISO 8859-7 since 2003, not in ISO-IR 126
        ("ISO_IR 144", "Ελένη"),
        ("ISO 2022 IR 87", "Müller^Jörg=山田^太郎"),  # pydicom would write Latin-1 where ASCII is declared
        ("ISO 2022 IR 87", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
        ("ISO 2022 IR 87", "山田±"),
        ("ISO 2022 IR 149", "홍°"),
        ("ISO 2022 IR 13", "Yamada~Tarou"),  # an overline there, and a backslash is a yen sign
        ("ISO 2022 IR 149", "Bērziņš"),
        ("GBK", "Bērziņš"),
    ],
)
@pytest.mark.parametrize("kind", ["sr", "sc"])
def test_what_a_set_cannot_say_is_not_written_in_it(made, character_set, name, kind):
    document = made("Muster^Eva", kind)
    document.PatientName = name
    before = encoded(document)
    assert in_character_set(document, character_set) is None
    assert encoded(document) == before


def test_a_backslash_that_separates_no_values_is_no_yen_sign():
    one = plain(TextValue="a")
    one.TextValue = "C:\\films"
    assert in_character_set(one, "ISO 2022 IR 13") is None
    assert in_character_set(one, "ISO 2022 IR 87") is not None
    several = plain(StudyDescription="a")
    several.OtherPatientNames = ["山田^太郎", "ﾔﾏﾀﾞ^ﾀﾛｳ"]
    assert in_character_set(several, "ISO 2022 IR 13").OtherPatientNames == ["山田^太郎", "ﾔﾏﾀﾞ^ﾀﾛｳ"]


def test_one_letter_deep_in_the_tree_is_enough(made):
    document = made("Muster^Eva")
    group = next(item for item in document.ContentSequence if "ContentSequence" in item)
    group.ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning = "王"
    assert in_character_set(document, "ISO_IR 100") is None
    assert in_character_set(document, "GBK") is not None


def test_an_item_with_a_set_of_its_own_takes_the_documents(made):
    """Given an item in Latin-1 in a document in UTF-8, as PS3.5 7.5.3 allows, then both are read right in another."""
    document = made("Muster^Eva", "text")
    item = document.ProcedureCodeSequence[0]
    item.SpecificCharacterSet, item.CodeMeaning = "ISO_IR 100", "Knochenälter"
    document = dcmread(BytesIO(encoded(document)))
    assert "Knochenälter".encode("latin-1") in document.get_item("ProcedureCodeSequence").value

    written = in_character_set(document, "ISO_IR 101")

    assert written.ProcedureCodeSequence[0].CodeMeaning == "Knochenälter"
    assert "SpecificCharacterSet" not in written.ProcedureCodeSequence[0]
    written = in_character_set(document, "ISO 2022 IR 87")
    assert written is None


def plain(**values: str) -> Dataset:
    """Return the smallest document, in UTF-8."""
    ds = Dataset()
    ds.SpecificCharacterSet, ds.SOPClassUID, ds.SOPInstanceUID = "ISO_IR 192", SecondaryCaptureImageStorage, "1.2.3"
    ds.update(values)
    item = Dataset()
    item.update(values)
    ds.RequestAttributesSequence = [item]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dcmread(BytesIO(encoded(ds)))


LETTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\")


@given(
    character_set=st.sampled_from(SETS),
    words=st.lists(st.one_of(st.sampled_from([name for _, name in NAMES]), st.text(LETTERS, max_size=6)), max_size=3),
    between=st.sampled_from(["", " ", "\n", "\r\n", "\t", "=", "^"]),
)
def test_a_text_arrives_or_is_not_written(character_set, words, between):
    """Given any text, in a name, in a sequence and over several lines, then nobody ever reads another one."""
    text = between.join(words).rstrip()
    line = re.sub(r"[\t\r\n]", " ", text)
    name = "=".join(line.split("=")[:3])
    document = plain(TextValue=text, PatientComments=text, StudyDescription=line[:64], PatientName=name[:64])
    written = in_character_set(document, character_set)
    if written is None:
        assert not text.isascii() or (character_set == "ISO 2022 IR 13" and set("~\\") & set(text))
    else:
        assert texts(written) == texts(document)


def test_what_is_no_document_of_ours_is_left_alone():
    """Given a sequence that ends by a delimiter, which is never written here, then it is not taken apart."""
    document = plain(TextValue="ü")
    assert in_character_set(document, "ISO_IR 100") is not None
    document["RequestAttributesSequence"].is_undefined_length = True
    assert in_character_set(document, "ISO_IR 100") is None


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        pair for pair in NAMES if pair[0] not in {"ISO 2022 IR 13", "ISO 2022 IR 87"}
    ],  # Debian's DCMTK has no code extensions of that
)
def test_another_toolkit_reads_the_same(made, require_peer, tmp_path, character_set, name):
    """Given a report with its name in many places, then DCMTK, which decodes by itself, reads each as it was."""
    document = made(name, "text")
    path, read = tmp_path / "document.dcm", tmp_path / "read.dcm"
    path.write_bytes(encoded(in_character_set(document, character_set)))
    program = Path(require_peer("dcmtk")["dsrdump"]).with_name("dcmconv")
    subprocess.run([program, "+U8", path, read], check=True, timeout=60)
    assert texts(dcmread(read)) == texts(document)


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        *(pair for pair in NAMES if pair[0] not in {"GBK", "GB18030"}),
        ("GB18030", "Wang^XiaoDong=王^小东"),  # of GBK it knows nothing, and it takes each byte of a backslash for one
    ],
)
def test_a_validator_finds_no_fault(made, require_peer, tmp_path, character_set, name):
    programs, judge = require_peer("dicom3tools"), JUDGES["dciodvfy"]
    for kind in ("text", "sc"):
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(encoded(in_character_set(made(name, kind), character_set)))
        assert unexplained("dciodvfy", judge.complaints(programs, path)) == []
