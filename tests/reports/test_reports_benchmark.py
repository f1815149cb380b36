"""How long composing takes. No limit is asserted: the goal is 150 ms for both documents on a quiet machine."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")

from reports.secondary_capture import compose_sc
from reports.structured_report import compose_sr
from reports.verify import verify


def test_compose_and_verify_both(benchmark, dx, estimate, identify):
    dx.Rows, dx.Columns = 2500, 2000
    display = np.full((2500, 2000), 90, np.uint8)

    def compose():
        report = compose_sr(dx, estimate, identify(dx, "sr"))
        capture = compose_sc(dx, estimate, display, identify(dx, "sc"))
        return report, capture

    documents = benchmark.pedantic(compose, rounds=3, warmup_rounds=1)
    for document in documents:
        verify(document, dx, estimate)
