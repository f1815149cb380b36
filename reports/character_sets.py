"""Documents in the character set of an archive that takes no UTF-8 (PS3.3 C.12.1.1.2, PS3.5 6.1.2).

Only the encoding changes: the document says the same under the same UIDs. Every letter is looked up before it is
written, and every text that was written is read again and compared, so that none is lost. Data sets are changed as
bytes, since a report has thousands of items. pydicom encodes; where it leaves the standard it is led around that:

- Where the first value of Specific Character Set is ASCII, it writes the upper half of Latin-1 all the same, which no
  reader has to understand. Such letters do not fit.
- It designates Korean once in a text, although a line's end takes that back (PS3.5 6.1.2.5.3). What stands between
  delimiters is encoded by itself.
- ``ISO 2022 IR 58`` (Chinese) gets no escape sequence from it at all, and is not offered.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

from pydicom import dcmread
from pydicom.charset import ESC, convert_encodings, decode_bytes, default_encoding, encode_string
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileDataset
from pydicom.filereader import data_element_generator
from pydicom.tag import Tag

from reports.document import encoded
from reports.elements import element as encoded_element
from reports.elements import items_of_sequence, sequence_value

SPECIFIC_CHARACTER_SET = Tag(0x00080005)
CharacterSet = Literal[
    "ISO_IR 192", "ISO_IR 6", "ISO_IR 100", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110", "ISO_IR 126", "ISO_IR 127",
    "ISO_IR 138", "ISO_IR 144", "ISO_IR 148", "ISO_IR 166", "GB18030", "GBK", "ISO 2022 IR 13",
    "ISO 2022 IR 87", "ISO 2022 IR 149",
]  # fmt: skip
"""What an archive may be sent. ``ISO 2022 IR 87`` and ``149`` stand for ASCII and theirs beside it, with an empty first
value; ``ISO 2022 IR 13`` for JIS X 0201 (katakana of half width) and, as second value, ``ISO 2022 IR 87``."""

UTF_8: CharacterSet = "ISO_IR 192"
FOR_CHINESE: frozenset[CharacterSet] = frozenset({UTF_8, "GB18030", "GBK"})
"""Those that can say what reports in Chinese say."""

TEXT: frozenset[str] = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""Value representations that Specific Character Set applies to (PS3.5 6.1.2.3)."""

_LINE_ENDS = re.compile(r"([\t\n\f\r])")
_DELIMITERS = {
    "PN": re.compile(r"([\t\n\f\r\\^=])"),
    **dict.fromkeys(("LO", "SH", "UC"), re.compile(r"([\t\n\f\r\\])")),
}
"""What takes a designation back, in the value representations where that is more than line ends (PS3.5 6.1.2.5.3)."""
_RESETTING = set(b"\t\n\f\r")
"""Line ends for pydicom, which decodes names and several values as one text: what stands between them is ASCII."""


@dataclass(frozen=True, slots=True)
class _Repertoire:
    """What a character set can say."""

    values: tuple[str, ...]  # of Specific Character Set (0008,0005), which is left out where there are none
    codec: str  # Python's
    designated_by: bytes = b""  # what the codec begins with where it takes a letter from this very set
    without: str = ""  # of what the codec has: additions of later editions, and letters that look otherwise in it
    also: str = ""  # what another codec has of it

    @property
    def keeps_ascii(self) -> bool:
        """Whether each letter of ASCII is the same byte in it, and looks the same."""
        return not any(letter < "\x80" for letter in self.without)

    def has(self, letter: str) -> bool:
        """Tell whether a letter is in the set. Control characters are but those of ASCII without ESC."""
        if letter in self.without or letter == "\x1b":
            return False
        if letter < "\x80" or letter in self.also:
            return True
        if letter <= "\x9f" or (len(self.values) > 1 and letter <= "\xff"):
            return False
        try:
            return letter.encode(self.codec).startswith(self.designated_by)
        except UnicodeEncodeError:
            return False


_REPERTOIRES: dict[CharacterSet, _Repertoire] = {
    "ISO_IR 6": _Repertoire((), "ascii"),
    "ISO_IR 100": _Repertoire(("ISO_IR 100",), "iso8859-1"),
    "ISO_IR 101": _Repertoire(("ISO_IR 101",), "iso8859-2"),
    "ISO_IR 109": _Repertoire(("ISO_IR 109",), "iso8859-3"),
    "ISO_IR 110": _Repertoire(("ISO_IR 110",), "iso8859-4"),
    # ISO 8859-7:1987 and ISO 8859-8:1988
    "ISO_IR 126": _Repertoire(("ISO_IR 126",), "iso8859-7", without="\u20ac\u20af\u037a\u2018\u2019"),
    "ISO_IR 127": _Repertoire(("ISO_IR 127",), "iso8859-6"),
    "ISO_IR 138": _Repertoire(("ISO_IR 138",), "iso8859-8", without="\u200e\u200f"),
    "ISO_IR 144": _Repertoire(("ISO_IR 144",), "iso8859-5"),
    "ISO_IR 148": _Repertoire(("ISO_IR 148",), "iso8859-9"),
    "ISO_IR 166": _Repertoire(("ISO_IR 166",), "tis-620"),
    "GB18030": _Repertoire(("GB18030",), "gb18030"),
    "GBK": _Repertoire(("GBK",), "gbk"),
    "ISO 2022 IR 13": _Repertoire(
        ("ISO 2022 IR 13", "ISO 2022 IR 87"),
        "iso2022_jp",
        designated_by=b"\x1b$B",
        without="\\~",  # a yen sign and an overline in JIS X 0201
        also="".join(map(chr, range(0xFF61, 0xFFA0))),  # katakana of half width
    ),
    "ISO 2022 IR 87": _Repertoire(("", "ISO 2022 IR 87"), "iso2022_jp", designated_by=b"\x1b$B"),
    "ISO 2022 IR 149": _Repertoire(("", "ISO 2022 IR 149"), "euc_kr"),
}


class _Unfit(ValueError):
    """Something cannot be said in a character set."""


_UNREADABLE = (EOFError, ValueError, struct.error)
"""What is met in a data set that is not of our making."""


def in_character_set(document: FileDataset, character_set: CharacterSet) -> FileDataset | None:
    """Return a document in another character set, None where that cannot say all that it says, or cannot be told.

    Parameters
    ----------
    document
        A document with its file meta information, in Explicit VR Little Endian. It is not changed.
    character_set
        The set to write it in.
    """
    if character_set == UTF_8:
        return document
    copy, target = dcmread(BytesIO(encoded(document))), _REPERTOIRES[character_set]
    try:
        _recode(copy, target)
    except _UNREADABLE:
        return None
    return dcmread(BytesIO(encoded(copy)))


def _recode(document: FileDataset, target: _Repertoire) -> None:
    """Write all texts of a document that was just read in another set, and declare that."""
    source = convert_encodings(document.get("SpecificCharacterSet"))
    for tag in list(document.keys()):
        element: DataElement | RawDataElement = document.get_item(tag)
        if isinstance(element, RawDataElement):
            value = _recoded(element, source, target)
            if value is not None and value != element.value:
                document[tag] = element._replace(value=value, length=len(value))
        elif element.VR in {*TEXT, "SQ"}:
            raise _Unfit
    document.pop("SpecificCharacterSet", None)
    if target.values:
        document.SpecificCharacterSet = list(target.values)
    # All of it is as it is to be written: pydicom need not look through it for that.
    encodings = convert_encodings(list(target.values)) if target.values else default_encoding
    document.set_original_encoding(False, True, encodings)


def _recoded(element: RawDataElement, source: list[str], target: _Repertoire) -> bytes | None:
    """Return the value of an element, and of all that is in it, in another set."""
    if element.VR == "SQ":
        items = items_of_sequence(element.value or b"")
        return sequence_value(_recoded_item(item, source, target) for item in items)
    if element.VR not in TEXT or not element.value:
        return element.value
    if target.keeps_ascii and element.value.isascii() and ESC not in element.value:
        return element.value
    return _recoded_text(element.value, element.VR, source, target)


def _recoded_item(item: bytes, source: list[str], target: _Repertoire) -> bytes:
    """Return an item in another set; it no longer has one of its own (PS3.5 7.5.3)."""
    written = []
    for element in data_element_generator(BytesIO(item), is_implicit_VR=False, is_little_endian=True):
        if not isinstance(element, RawDataElement) or element.VR is None:
            raise _Unfit
        if element.tag == SPECIFIC_CHARACTER_SET:
            source = convert_encodings((element.value or b"").decode("ascii").strip().split("\\"))
        else:
            written.append(encoded_element(element.tag, element.VR, _recoded(element, source, target) or b""))
    return b"".join(written)


def _recoded_text(value: bytes, vr: str, source: list[str], target: _Repertoire) -> bytes:
    """Return a text in another set, designated anew wherever the standard wants that."""
    text = decode_bytes(value, source, _RESETTING).rstrip(" ")
    parts = _DELIMITERS.get(vr, _LINE_ENDS).split(text)  # every other one is a delimiter
    if not all(map(target.has, "".join(parts[::2]))):
        raise _Unfit
    encodings = convert_encodings(list(target.values))
    written = b"".join(encode_string(part, encodings) for part in parts)
    if decode_bytes(written, encodings, _RESETTING) != text:
        raise _Unfit
    return written + b" " * (len(written) % 2)
