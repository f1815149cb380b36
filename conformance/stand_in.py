"""A stand-in for the model: same interface, no weights, an answer that depends on the object alone.

For tests and benchmarks of everything around the model: receiving, storing, delivering, surviving.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from pydicom import Dataset

from inference.anatomy import ROI_NAMES
from inference.finding import Box, Estimate, Finding, Laterality, ModelIdentity, Refusal, RefusalCode, Roi
from inference.subject import read_subject

IDENTITY = ModelIdentity("global-local", "Stand-in", "0", "0" * 64)


def estimate(ds: Dataset) -> Estimate:
    """Return an estimate with all 18 regions, of an age between 24 and 216 months drawn from the SOP Instance UID."""
    digest = hashlib.sha256(str(ds.SOPInstanceUID).encode()).digest()
    age_months = 24.0 + int.from_bytes(digest[:2], "big") % 1920 / 10
    rows, columns = int(ds.Rows), int(ds.Columns)
    cells = [(name, index % 6, index // 6) for index, name in enumerate(ROI_NAMES)]
    width, height = columns / 8, rows / 8
    return Estimate(
        age_months=age_months,
        interval_low_months=age_months - 12.0,
        interval_high_months=age_months + 12.0,
        interval_level=0.9,
        subject=read_subject(ds),
        laterality=Laterality.LEFT,
        hand=Box(width / 2, height / 2, columns - width / 2, rows - height / 2),
        rois=tuple(
            Roi(name, Box((x + 1) * width, (y + 1) * height, (x + 1.9) * width, (y + 1.9) * height), 0.9)
            for name, x, y in cells
        ),
        hands_found=1,
        quality=0.9,
        flags=(),
        model=IDENTITY,
    )


def refuse(ds: Dataset) -> Refusal:
    """Return a refusal: not a hand."""
    remedy = "Send a radiograph of a hand."
    return Refusal(RefusalCode.NOT_A_HAND, "The film shows no hand.", remedy, read_subject(ds), model=IDENTITY)


class StandIn:
    """Interprets as one of the functions above, and counts.

    Parameters
    ----------
    answer
        What it does with an object.
    """

    identity = IDENTITY

    def __init__(self, answer: Callable[[Dataset], Finding] = estimate) -> None:
        self._answer = answer
        self.calls = 0

    def interpret(self, ds: Dataset) -> Finding:
        """Return a finding."""
        self.calls += 1
        return self._answer(ds)
