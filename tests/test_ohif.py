"""What OHIF shows of a study with our documents, in Chromium beside Orthanc's DICOMweb.

Not covered: other viewers, older versions of OHIF. After tracking, OHIF's panel names our finding and gives area and
grey values of its box, its own measurements; the bone age stands in the label over the film and in the overlay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.examples import read_sample
from conformance.ohif import DICOMWEB, DIST, Screen, browse, put_study, serve
from conformance.orthanc import Orthanc
from inference.engine import Engine
from inference.finding import Estimate

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("chromium"), pytest.mark.peer("ohif"), pytest.mark.slow]

SAMPLE = "boy-12.dcm"


@dataclass(frozen=True)
class Seen:
    """What was seen, in the order a radiologist looks: series offered, labels and outlines of the report, the panel."""

    series: list[str]
    labels: list[str]
    outlines: int
    panel: list[str]
    estimate: Estimate
    pictures: Path


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Open the study, the overlay and the report, once for all tests here."""
    folder, film, engine = tmp_path_factory.mktemp("ohif"), read_sample(SAMPLE), Engine.load()
    estimate = engine.interpret(film)
    assert isinstance(estimate, Estimate)
    with (
        Orthanc(folder / "orthanc", Plugins=[str(DICOMWEB)]) as orthanc,
        serve(DIST, orthanc) as root,
        browse() as browser,
    ):
        put_study(orthanc, film, engine)
        screen = Screen.open(browser, root, film.StudyInstanceUID)
        series = screen.series()
        screen.show("OT")
        screen.until_drawn()
        screen.save(folder / "overlay.png")
        screen.show("SR")
        labels, outlines = screen.until_labelled("XR Bone age"), screen.outlines()
        screen.save(folder / "report.png")
        panel = screen.track()
        screen.save(folder / "panel.png")
        yield Seen(series, labels, outlines, panel, estimate, folder)


@pytest.mark.timeout(600)
def test_the_study_offers_film_overlay_and_report(seen: Seen) -> None:
    assert sorted(one.split()[0] for one in seen.series) == ["DX", "OT", "SR"]
    assert any("Bone age overlay (research use only)" in one for one in seen.series)
    assert all((seen.pictures / name).stat().st_size > 20_000 for name in ("overlay.png", "report.png", "panel.png"))


@pytest.mark.timeout(600)
def test_the_bone_age_is_written_beside_the_outline_of_the_hand(seen: Seen) -> None:
    """Given the report, when it is opened, then the age stands there as in the estimate, and every region is drawn."""
    (label,) = (one for one in seen.labels if "XR Bone age" in one)
    assert f"XR Bone age: {seen.estimate.age_months:.1f}0 mo" in label
    assert seen.outlines >= 1 + len(seen.estimate.rois)


@pytest.mark.timeout(600)
def test_tracking_takes_the_finding_and_every_region_into_the_panel(seen: Seen) -> None:
    assert len(seen.panel) == 1 + len(seen.estimate.rois)
    assert "Skeletal maturity" in seen.panel[0]
    assert "Radius, distal epiphysis" in seen.panel[1]
