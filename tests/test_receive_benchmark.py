"""The receive benchmark still runs: one small round. What it measures is not judged here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.receive_benchmark import RECEIVERS, Measurement, judge, main


def test_one_small_round(
    tmp_path: Path, require_peer: Callable[[str], dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    require_peer("orthanc")
    figures = tmp_path / "figures.json"
    small = ["--associations", "1,4", "--images", "4", "--megabytes", "0.2", "--rounds", "1"]
    assert main([*small, "--folder", str(tmp_path), "--json", str(figures)]) == 0
    measured = json.loads(figures.read_text("utf-8"))
    assert [(one["receiver"], one["associations"]) for one in measured] == [
        (receiver, associations) for associations in (1, 4) for receiver in RECEIVERS
    ]
    assert all(one["images"] == 4 and one["seconds"] > 0 and one["rss_mib"] > 0 for one in measured)
    assert "ahead of Orthanc at 4 associations" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def measured(receiver: str, associations: int, seconds: float, opening_ms: float = 1.0) -> Measurement:
    return Measurement(receiver, associations, 10, 10_000_000, seconds, 10.0, 100.0, opening_ms, opening_ms)


def test_the_requirements() -> None:
    good = [measured("node", 4, 1.0), measured("node", 16, 0.9), measured("orthanc", 4, 2.0)]
    assert [holds for _, holds in judge(good)] == [True, True, True]
    bad = [measured("node", 4, 1.0, 11.0), measured("node", 16, 1.2, 11.0), measured("orthanc", 4, 0.9)]
    assert [holds for _, holds in judge(bad)] == [False, False, False]
    assert judge([]) == []


def test_throughput() -> None:
    one = measured("node", 1, 2.0)
    assert math.isclose(one.megabytes_per_s, 50.0)
    assert math.isclose(one.images_per_s, 5.0)
