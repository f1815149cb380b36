"""UIDs and identities. Not covered: that archives take UUID-derived UIDs (the node's tests send to Orthanc)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from inference.finding import ModelIdentity
from reports.identity import derived_uid, device_uid, document_uids, tracking_uid

MODEL = ModelIdentity("global-local", "Global-local fusion network", "1.0.0", "ab" * 32)


def test_golden_uids():
    """Archives hold documents under these: a change here makes known documents new ones."""
    assert document_uids("1.2.3", MODEL, "sr", 1) == (
        "2.25.329158471733602005837199104056530245944",
        "2.25.267009010798915993583938155820171892743",
    )
    assert device_uid("node-1") == "2.25.85305356833368468724368920831385179376"


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_derived_uids_are_valid(parts):
    uid = UID(derived_uid(*parts))

    assert uid.is_valid
    assert len(uid) <= 44


@pytest.mark.parametrize(
    "other",
    [
        ("1.2.4", MODEL, "sr", 1),
        ("1.2.3", None, "sr", 1),
        ("1.2.3", replace(MODEL, version="1.0.1"), "sr", 1),
        ("1.2.3", replace(MODEL, method="2m-net"), "sr", 1),
        ("1.2.3", replace(MODEL, weights_sha256="cd" * 32), "sr", 1),
        ("1.2.3", MODEL, "sc", 1),
        ("1.2.3", MODEL, "sr", 2),
    ],
)
def test_each_part_counts(other):
    assert not set(document_uids("1.2.3", MODEL, "sr", 1)) & set(document_uids(*other))


def test_parts_do_not_run_together():
    assert derived_uid("ab", "c") != derived_uid("a", "bc")
    assert tracking_uid("1.2", "radius") != tracking_uid("1.2", "ulna")


def test_identity_refuses_naive_times_and_numbers_below_one(dx, identify):
    identity = identify(dx, "sr")

    with pytest.raises(ValueError, match="time zone"):
        replace(identity, created_at=datetime(2026, 1, 1))  # noqa: DTZ001 - the point of the test
    with pytest.raises(ValueError, match="start at 1"):
        replace(identity, revision=0)
