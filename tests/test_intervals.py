"""Conformal intervals and how they are calibrated. Their coverage on films is measured by boneage-node evaluate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import BundleError
from inference.finding import Sex
from inference.intervals import Calibration
from training.calibrate import EDGES_MONTHS, half_widths
from training.evaluate import Row

TABLE = {
    "level": 0.9,
    "edges_months": [0, 96, 144, 240],
    "half_widths_months": {"M": [10, 20, 30], "F": [11, 21, 31]},
    "split": "validation",
}


@pytest.mark.parametrize(
    ("age", "sex", "half"), [(50, "M", 10), (96, "M", 20), (143.9, "F", 21), (144, "F", 31), (300, "M", 30)]
)
def test_each_bin_has_its_half_width(age, sex, half):
    low, high = Calibration.parse(TABLE).interval(age, Sex(sex))
    assert (low, high) == (age - half, age + half)


@given(st.floats(0, 260), st.sampled_from(list(Sex)))
def test_the_interval_holds_the_estimate_and_never_goes_below_birth(age, sex):
    low, high = Calibration.parse(TABLE).interval(age, sex)
    assert 0 <= low <= age <= high


def test_a_missing_half_width_is_an_error():
    with pytest.raises(BundleError, match="half-width"):
        Calibration.parse(TABLE | {"half_widths_months": {"M": [1, 2], "F": [1, 2, 3]}})


def test_half_widths_cover_what_they_promise():
    generator = np.random.default_rng(1)
    references = generator.uniform(0, 239, 3000)
    estimates = np.clip(references + generator.normal(0, 8, 3000), 0, 239)
    rows = [Row(i, "M", r, e, None, None, None) for i, (r, e) in enumerate(zip(references, estimates, strict=True))]
    widths = half_widths(rows)
    assert len(widths) == len(EDGES_MONTHS) - 1
    assert all(width == pytest.approx(1.645 * 8, rel=0.15) for width in widths)
