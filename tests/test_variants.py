"""Variants of a report for one archive or another: kinds of their own, so that no UID stands for different contents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from conformance.films import make_film
from conformance.nodes import Journal, make_settings, run_node, send
from conformance.stand_in import IDENTITY, StandIn
from dicom_node.archive import Archive
from dicom_node.compose import kinds_wanted
from dicom_node.settings import ArchivePeer, ComposeSettings
from reports import codes
from reports.identity import KINDS, document_uids
from reports.read_back import descendants, matches
from reports.structured_report import CORNERSTONE_RECTANGLE


def peer(**keys: Any) -> ArchivePeer:
    return ArchivePeer(kind="archive", name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=104, **keys)


def values(report: Dataset, name: Any, keyword: str) -> list[str]:
    """Return the values of the content items that have a concept name, in order."""
    items = (item for item in descendants(report) if matches(item.get("ConceptNameCodeSequence"), name))
    return [str(item[keyword].value) for item in items]


def test_every_kind_has_uids_of_its_own() -> None:
    uids = [uid for kind in KINDS for uid in document_uids("1.2.3", IDENTITY, kind, 1)]
    assert len(set(uids)) == 2 * len(KINDS)


def test_each_archive_gets_its_variant(tmp_path: Path) -> None:
    """Given an archive with an older OHIF beside another, then each gets its own report, under UIDs of its own."""
    one = make_film()
    with (
        Journal().listening() as journal,
        Archive(tmp_path / "new") as new,
        Archive(tmp_path / "old") as old,
    ):
        settings = make_settings(
            tmp_path / "node",
            {"new": new.address, "old": old.address},
            peers={"old": {"deliver": ("sr-cornerstone", "sc")}},
        )
        with run_node(settings, StandIn()) as node:
            send(node.address, [one])
            journal.wait_for("committed", count=4)
        held = {
            name: [dcmread(item.path) for item in archive.objects()] for name, archive in (("new", new), ("old", old))
        }
    reports = {name: next(ds for ds in objects if ds.Modality == "SR") for name, objects in held.items()}
    named, tracked = reports["new"], reports["old"]
    assert {len(objects) for objects in held.values()} == {2}
    assert [named.SOPClassUID, tracked.SOPClassUID] == [Comprehensive3DSRStorage, ComprehensiveSRStorage]
    assert named.SOPInstanceUID != tracked.SOPInstanceUID
    assert named.SeriesInstanceUID != tracked.SeriesInstanceUID
    assert named.SeriesNumber == tracked.SeriesNumber

    identifiers = values(tracked, codes.TRACKING_IDENTIFIER, "TextValue")
    assert len(identifiers) == 19
    assert set(identifiers) == {CORNERSTONE_RECTANGLE}
    assert len(set(values(named, codes.TRACKING_IDENTIFIER, "TextValue"))) == 19
    assert len(set(values(tracked, codes.TRACKING_UID, "UID"))) == 19
    said = [
        [str(item.TextValue) for item in descendants(report) if item.ValueType == "TEXT"] for report in (named, tracked)
    ]
    assert [text for text in said[0] if text not in said[1]] == values(named, codes.TRACKING_IDENTIFIER, "TextValue")


def test_the_variant_has_the_reports_series_and_no_stand_in() -> None:
    assert kinds_wanted([peer(deliver=("sr-cornerstone", "sc")).composed]) == ("sc", "sr-cornerstone")
    with pytest.raises(ValidationError, match="leave it out"):
        peer(deliver=("sr-cornerstone", "sc"), sr_fallback=("sr-2d",))
    assert ComposeSettings().series_number("sr-cornerstone") == ComposeSettings().series_number_sr


def test_no_archive_gets_both() -> None:
    with pytest.raises(ValidationError, match="not both"):
        peer(deliver=("sr", "sr-cornerstone"))
