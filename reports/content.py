"""Content items of a Structured Report (PS3.3 C.17.3), one short function for each value type.

An item is kept as the bytes it will be: a report has a thousand of them, and objects for each attribute took most of
the time of composing. They are highdicom's items byte for byte, but for what it does otherwise: containers are SEPARATE
(viewers drop the labels of CONTINUOUS ones), a number is written as readers want to see it, its full value beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import format_number_as_ds

from inference.finding import Box
from reports import codes
from reports.elements import floats, sequence, sequence_value
from reports.elements import text as _text
from reports.header import required_uid
from reports.wording import one_decimal

CONTENT_SEQUENCE: BaseTag = Tag(0x0040A730)
LONGEST_CODE, LONGEST_MEANING, LONGEST_DS = 16, 64, 16
"""Characters of Code Value (SH), Code Meaning (LO) and Numeric Value (DS), PS3.5 6.2."""


class Relation(StrEnum):
    """Relationship Type (0040,A010), PS3.3 C.17.3.2.4."""

    CONTAINS = "CONTAINS"
    HAS_OBS_CONTEXT = "HAS OBS CONTEXT"
    HAS_ACQ_CONTEXT = "HAS ACQ CONTEXT"
    HAS_CONCEPT_MOD = "HAS CONCEPT MOD"
    HAS_PROPERTIES = "HAS PROPERTIES"
    INFERRED_FROM = "INFERRED FROM"
    SELECTED_FROM = "SELECTED FROM"


@dataclass(frozen=True, slots=True)
class Item:
    """A content item: its attributes before and after Content Sequence (0040,A730) as bytes, and what is in that."""

    head: bytes
    tail: bytes = b""
    children: tuple[Item, ...] = ()

    def encoded(self) -> bytes:
        """Return the item's elements in the order of their tags."""
        inner = sequence(CONTENT_SEQUENCE, [child.encoded() for child in self.children]) if self.children else b""
        return self.head + inner + self.tail


def put(document: Dataset, items: Iterable[Item]) -> None:
    """Write items as a document's Content Sequence. It is read, as any other, when somebody looks at it."""
    value = sequence_value(item.encoded() for item in items)
    document[CONTENT_SEQUENCE] = RawDataElement(
        CONTENT_SEQUENCE, "SQ", len(value), value, 0, is_implicit_VR=False, is_little_endian=True
    )


def container(name: Code, *children: Item, template: str | None = None, relation: Relation = Relation.CONTAINS) -> Item:
    """Return a CONTAINER, its content separate."""
    identified = b"" if template is None else sequence(0x0040A504, [_template(template)])
    head = _head("CONTAINER", name, relation) + _text(0x0040A050, "CS", "SEPARATE") + identified
    return Item(head, children=children)


def code(name: Code, value: Code, *children: Item, relation: Relation = Relation.CONTAINS) -> Item:
    """Return a CODE."""
    return Item(_head("CODE", name, relation) + sequence(0x0040A168, [_coded(value)]), children=children)


def text(name: Code, value: str, relation: Relation = Relation.CONTAINS) -> Item:
    """Return a TEXT."""
    return Item(_head("TEXT", name, relation) + _text(0x0040A160, "UT", value))


def uid_reference(name: Code, value: str, relation: Relation = Relation.HAS_OBS_CONTEXT) -> Item:
    """Return a UIDREF."""
    return Item(_head("UIDREF", name, relation) + _text(0x0040A124, "UI", value))


def number(name: Code, value: float, unit: Code, *children: Item, relation: Relation = Relation.CONTAINS) -> Item:
    """Return a NUM: Numeric Value with one decimal for readers, Floating Point Value with all of it (PS3.3 C.18.1)."""
    return with_children(_measured(name, one_decimal(value), float(value), unit, relation), *children)


def count(name: Code, value: int, unit: Code, relation: Relation) -> Item:
    """Return a NUM of a whole number."""
    return _measured(name, str(value), None, unit, relation)


def measure(name: Code, value: float, unit: Code, relation: Relation) -> Item:
    """Return a NUM with as many decimals as DS allows."""
    plain = str(float(value))
    return _measured(
        name, plain if len(plain) <= LONGEST_DS else format_number_as_ds(value), float(value), unit, relation
    )


def image(source: Dataset, relation: Relation = Relation.SELECTED_FROM) -> Item:
    """Return an IMAGE that references the source.

    Raises
    ------
    IncompleteSource
        The source lacks one of both UIDs.
    """
    sop_class_uid, sop_instance_uid = required_uid(source, "SOPClassUID"), required_uid(source, "SOPInstanceUID")
    return _referenced(sop_class_uid, sop_instance_uid, codes.SOURCE, relation)


def unnamed_image(sop_class_uid: str, sop_instance_uid: str) -> Item:
    """Return an IMAGE without a concept name, as TID 2010 wants it."""
    return _referenced(sop_class_uid, sop_instance_uid, None, Relation.CONTAINS)


def region(box: Box, source: Dataset, relation: Relation = Relation.CONTAINS) -> Item:
    """Return a box as SCOORD: a closed POLYLINE of five points, for SR has no rectangle (PS3.3 C.18.6)."""
    corners = (box.x0, box.y0, box.x1, box.y0, box.x1, box.y1, box.x0, box.y1, box.x0, box.y0)
    tail = floats(0x00700022, "FL", corners) + _text(0x00700023, "CS", "POLYLINE")
    return Item(_head("SCOORD", codes.IMAGE_REGION, relation), tail, (image(source),))


def with_children(item: Item, *children: Item) -> Item:
    """Return the item with children added, in order."""
    return replace(item, children=(*item.children, *children)) if children else item


def _head(value_type: str, name: Code | None, relation: Relation) -> bytes:
    """Return Relationship Type (0040,A010), Value Type (0040,A040) and Concept Name Code Sequence (0040,A043)."""
    kind = _text(0x0040A010, "CS", relation.value) + _text(0x0040A040, "CS", value_type)
    return kind if name is None else kind + sequence(0x0040A043, [_coded(name)])


def _coded(concept: Code) -> bytes:
    # A Code equals another of the same value whatever its meaning, so it would be a wrong key.
    return _coded_as(concept.value, concept.scheme_designator, concept.meaning)


@lru_cache(maxsize=1024)
def _coded_as(value: str, scheme: str, meaning: str) -> bytes:
    """Return the item of a code sequence (PS3.3 8.8).

    Raises
    ------
    ValueError
        The code or its meaning does not fit its attribute.
    """
    if len(value) > LONGEST_CODE or len(meaning) > LONGEST_MEANING:
        raise ValueError(f"Code {value!r} does not fit its attributes.")
    return _text(0x00080100, "SH", value) + _text(0x00080102, "SH", scheme) + _text(0x00080104, "LO", meaning)


def _template(identifier: str) -> bytes:
    return _text(0x00080105, "CS", "DCMR") + _text(0x0040DB00, "CS", identifier)


def _measured(name: Code, written: str, value: float | None, unit: Code, relation: Relation) -> Item:
    """Return a NUM; its Floating Point Value (0040,A161) is left out for None."""
    exact = b"" if value is None else floats(0x0040A161, "FD", [value])
    measured = sequence(0x004008EA, [_coded(unit)]) + exact + _text(0x0040A30A, "DS", written)
    return Item(_head("NUM", name, relation) + sequence(0x0040A300, [measured]))


def _referenced(sop_class_uid: str, sop_instance_uid: str, name: Code | None, relation: Relation) -> Item:
    reference = _text(0x00081150, "UI", sop_class_uid) + _text(0x00081155, "UI", sop_instance_uid)
    return Item(sequence(0x00081199, [reference]) + _head("IMAGE", name, relation))
