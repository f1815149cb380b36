"""The two tables of errors are complete, and the tree in the docstring is the tree."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

# Every module of the node, so that every subclass there is has been made.
import dicom_node.node
import dicom_node.settings  # noqa: F401
from dicom_node import errors
from dicom_node.errors import (
    DIMSE_STATUSES,
    DISPOSITIONS,
    Disposition,
    NodeError,
    PeerUnreachable,
    SpoolFull,
    code_of,
    dimse_status_of,
    disposition_of,
)


def tree(base: type[NodeError] = NodeError) -> Iterator[type[NodeError]]:
    yield base
    for child in base.__subclasses__():
        yield from tree(child)


def test_every_error_has_a_disposition() -> None:
    assert set(DISPOSITIONS) == set(tree())


def test_every_error_has_a_dimse_status() -> None:
    assert set(DIMSE_STATUSES) == set(tree())


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in tree()]
    assert len(codes) == len(set(codes))


def test_the_docstring_shows_the_tree() -> None:
    shown = dict(re.findall(r"^\s*[│├└─ ]*([A-Z]\w+) {2,}([a-z-]+)", errors.__doc__ or "", re.MULTILINE))
    assert shown == {kind.__name__: kind.code for kind in tree()}


@pytest.mark.parametrize("kind", [kind for kind in tree() if issubclass(kind, errors.ReceiveError | errors.StoreError)])
def test_no_failure_to_receive_is_answered_with_success_or_a_warning(kind: type[NodeError]) -> None:
    status = DIMSE_STATUSES[kind]
    assert status not in {0x0000, 0x0001, 0x0107, 0x0116}
    assert status & 0xF000 != 0xB000


def test_errors_from_outside_the_tree_are_set_aside() -> None:
    assert disposition_of(ZeroDivisionError()) is Disposition.QUARANTINE
    assert dimse_status_of(ZeroDivisionError()) == 0x0110
    assert code_of(ZeroDivisionError()) == "ZeroDivisionError"


def test_errors_of_the_tree_have_what_the_tables_say() -> None:
    assert disposition_of(PeerUnreachable("no answer")) is Disposition.RETRY
    assert dimse_status_of(SpoolFull("no room")) == 0xA700
    assert code_of(SpoolFull("no room")) == "spool-full"
