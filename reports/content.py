"""Content items of a Structured Report (PS3.3 C.17.3), one short function for each value type.

They wrap highdicom's value types, so that what its constructors validate stays validated, and put right what it does
otherwise: containers are SEPARATE (viewers drop the labels of CONTINUOUS ones), a number is written as readers want to
see it with its full value beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    ScoordContentItem,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from inference.finding import Box
from reports import codes
from reports.wording import one_decimal

Relation = RelationshipTypeValues
Item = Dataset
"""A content item; highdicom's classes derive from Dataset."""


def container(name: Code, *children: Item, template: str | None = None, relation: Any = Relation.CONTAINS) -> Item:
    """Return a CONTAINER, its content separate. ``relation`` is None for the root."""
    item = ContainerContentItem(name, is_content_continuous=False, template_id=template, relationship_type=relation)
    return with_children(item, *children)


def code(name: Code, value: Code, *children: Item, relation: Any = Relation.CONTAINS) -> Item:
    """Return a CODE."""
    return with_children(CodeContentItem(name, value, relationship_type=relation), *children)


def text(name: Code, value: str, relation: Any = Relation.CONTAINS) -> Item:
    """Return a TEXT."""
    item: Item = TextContentItem(name, value, relationship_type=relation)
    return item


def uid_reference(name: Code, value: str, relation: Any = Relation.HAS_OBS_CONTEXT) -> Item:
    """Return a UIDREF."""
    item: Item = UIDRefContentItem(name, value, relationship_type=relation)
    return item


def number(name: Code, value: float, unit: Code, *children: Item, relation: Any = Relation.CONTAINS) -> Item:
    """Return a NUM: Numeric Value with one decimal for readers, Floating Point Value with all of it (PS3.3 C.18.1)."""
    item = NumContentItem(name, float(value), unit, relationship_type=relation)
    item.MeasuredValueSequence[0].NumericValue = one_decimal(value)
    return with_children(item, *children)


def count(name: Code, value: int, unit: Code, relation: Any) -> Item:
    """Return a NUM of a whole number; highdicom would write it as "2500.0"."""
    item: Item = NumContentItem(name, value, unit, relationship_type=relation)
    item.MeasuredValueSequence[0].NumericValue = str(value)
    return item


def measure(name: Code, value: float, unit: Code, relation: Any) -> Item:
    """Return a NUM with as many decimals as DS allows."""
    item: Item = NumContentItem(name, value, unit, relationship_type=relation)
    return item


def image(source: Dataset, relation: Any = Relation.SELECTED_FROM) -> Item:
    """Return an IMAGE that references the source."""
    item: Item = ImageContentItem(codes.SOURCE, source.SOPClassUID, source.SOPInstanceUID, relationship_type=relation)
    return item


def region(box: Box, source: Dataset, relation: Any = Relation.CONTAINS) -> Item:
    """Return a box as SCOORD: a closed POLYLINE of five points, for SR has no rectangle (PS3.3 C.18.6)."""
    corners = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1), (box.x0, box.y0)]
    item = ScoordContentItem(codes.IMAGE_REGION, "POLYLINE", np.array(corners), relationship_type=relation)
    return with_children(item, image(source))


def with_children(item: Item, *children: Item) -> Item:
    """Return the item with children added, in order."""
    if children:
        item.ContentSequence = list(children)
    return item
