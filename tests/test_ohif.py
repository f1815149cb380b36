"""What OHIF shows of studies with our documents, in Chromium beside Orthanc's DICOMweb.

Not covered: other viewers, OHIF before 3.11. Beside the bone age, the panel gives area and grey values of each box,
which are OHIF's own measurements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset
from selenium.webdriver.remote.webdriver import WebDriver

from conformance.examples import read_sample
from conformance.ohif import DICOMWEB, DIST, OLDER, Screen, browse, put_study, serve
from conformance.orthanc import Orthanc
from inference.engine import Engine
from inference.finding import Box, Estimate, Finding, Refusal

pytestmark = [
    pytest.mark.peer("orthanc"),
    pytest.mark.peer("chromium"),
    pytest.mark.peer("ohif"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

CHECKOUT = Path(__file__).parents[1]
"""The tests run from it; the package they test may be installed elsewhere."""


@dataclass(frozen=True)
class Viewer:
    """OHIF in a browser, beside an archive."""

    orthanc: Orthanc
    browser: WebDriver
    root: str
    engine: Engine

    def open(self, film: Dataset) -> tuple[Screen, Finding]:
        """Put a film into the archive with what is made of it, and open the study."""
        finding = self.engine.interpret(film)
        put_study(self.orthanc, film, finding)
        return Screen.open(self.browser, self.root, film.StudyInstanceUID), finding


@dataclass(frozen=True)
class Seen:
    """What was seen of a reading, in the order a radiologist looks: series, report over the film, panel."""

    series: list[str]
    labels: list[str]
    outlines: list[Box]
    panel: list[str]
    estimate: Estimate
    pictures: Path


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """Start archive, viewer and browser once for all tests here."""
    folder = tmp_path_factory.mktemp("archive")
    with (
        Orthanc(folder / "orthanc", Plugins=[str(DICOMWEB)]) as orthanc,
        serve(CHECKOUT / DIST, orthanc) as root,
        browse() as browser,
    ):
        yield Viewer(orthanc, browser, root, Engine.load())


@pytest.fixture(scope="module")
def seen(viewer: Viewer, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Open a reading, its overlay and its report, and track the report. The pictures are kept."""
    folder = tmp_path_factory.mktemp("ohif")
    screen, estimate = viewer.open(read_sample("boy-12.dcm"))
    assert isinstance(estimate, Estimate)
    regions = 1 + len(estimate.rois)
    series = screen.until_offered(3)
    screen.show("OT")
    screen.until_coloured()
    screen.save(folder / "overlay.png")
    screen.show("SR")
    labels, outlines = screen.until_labelled("XR Bone age"), screen.until_outlined(regions)
    screen.until_drawn()
    screen.save(folder / "report.png")
    panel = screen.track(regions)
    screen.save(folder / "panel.png")
    return Seen(series, labels, outlines, panel, estimate, folder)


def within(outer: Box, boxes: Sequence[Box]) -> list[tuple[float, ...]]:
    """Return boxes as shares of the outer one's width, from its corner, so that a scale on the screen drops out."""
    return [
        tuple(
            distance / (outer.x1 - outer.x0)
            for distance in (box.x0 - outer.x0, box.y0 - outer.y0, box.x1 - outer.x0, box.y1 - outer.y0)
        )
        for box in boxes
    ]


def test_the_study_offers_film_overlay_and_report(seen: Seen) -> None:
    assert sorted(one.split()[0] for one in seen.series) == ["DX", "OT", "SR"]
    assert any("Bone age overlay (research use only)" in one for one in seen.series)
    assert any("Bone age report (research use only)" in one for one in seen.series)
    assert all((seen.pictures / name).stat().st_size > 20_000 for name in ("overlay.png", "report.png", "panel.png"))


def test_the_bone_age_is_written_over_the_film(seen: Seen) -> None:
    (label,) = (one for one in seen.labels if "XR Bone age" in one)
    assert f"XR Bone age: {seen.estimate.age_months:.1f}0 mo" in label


def test_hand_and_regions_are_drawn_where_they_were_found(seen: Seen) -> None:
    """Given the report over the film, then each outline lies in the hand's as its box did in the estimate's."""
    hand = max(seen.outlines, key=lambda box: (box.x1 - box.x0) * (box.y1 - box.y0))
    drawn = within(hand, seen.outlines)

    for found in within(seen.estimate.hand, [seen.estimate.hand, *(roi.box for roi in seen.estimate.rois)]):
        assert any(outline == pytest.approx(found, abs=0.01) for outline in drawn)


def test_tracking_lists_the_bone_age_and_every_region_in_the_panel(seen: Seen) -> None:
    assert f"({seen.estimate.age_months:.1f} months)" in seen.panel[0]
    assert seen.panel[0].startswith("1 Bone age ")
    assert "Skeletal maturity" in seen.panel[0]
    assert "Radius, distal epiphysis" in seen.panel[1]


def test_an_unknown_sex_shows_both_readings_and_lists_no_bone_age(viewer: Viewer) -> None:
    film = read_sample("girl-12.dcm")
    film.PatientSex = ""
    screen, refusal = viewer.open(film)
    assert isinstance(refusal, Refusal)
    screen.show("SR")
    label = next(one for one in screen.until_labelled("Bone age if the sex were") if "if the sex" in one)

    assert all(f"Bone age if the sex were {sex}: " in label for sex in ("male", "female"))
    assert screen.track(1 + len(refusal.rois))[0].startswith(f"1 No bone age: {refusal.sentence}")


def test_a_refused_film_is_framed_and_listed_with_its_reason(viewer: Viewer) -> None:
    screen, refusal = viewer.open(read_sample("not-a-hand.dcm"))
    assert isinstance(refusal, Refusal)
    screen.show("SR")
    screen.until_outlined(1)

    assert screen.track(1)[0].startswith(f"1 No bone age: {refusal.sentence}")


@pytest.mark.peer("ohif-older")
def test_older_ohif_tracks_the_report_that_is_made_for_it(viewer: Viewer) -> None:
    """Given OHIF 3.11 and its own tracking identifiers, then the report is drawn and tracked."""
    film = read_sample("girl-08.dcm")
    finding = viewer.engine.interpret(film)
    assert isinstance(finding, Estimate)
    regions = 1 + len(finding.rois)
    put_study(viewer.orthanc, film, finding, "sr-cornerstone")
    with serve(CHECKOUT / OLDER, viewer.orthanc) as root:
        screen = Screen.open(viewer.browser, root, film.StudyInstanceUID)
        screen.show("SR")
        labels = screen.until_labelled("XR Bone age")
        screen.until_outlined(regions)
        panel = screen.track(regions)

    assert any(f"XR Bone age: {finding.age_months:.1f}0 mo" in label for label in labels)
    assert panel[0].startswith("1 Bone age ")
    assert f"({finding.age_months:.1f} months)" in panel[0]
    assert "Radius, distal epiphysis" in panel[1]
