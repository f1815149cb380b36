"""What changed since an earlier result: velocity of bone age and change of the SD score, with their uncertainty.

Two readings err independently, each within half of its 90 % interval: their difference errs by the root of the sum of
squares. That is an upper bound where both are of one model, whose errors on one child go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

from inference.finding import Estimate
from reports.clinic.model import Course, Prior, ReferenceName, SdScore
from reports.clinic.sd_scores import sd_score

LEAST_MONTHS = 3.0
"""Results closer together than this say nothing of a velocity: the uncertainty is many times the change."""
MONTHS_PER_YEAR = 12.0


def course(estimate: Estimate, score: SdScore | None, priors: Sequence[Prior], name: ReferenceName) -> Course | None:
    """Compare with the latest result that is old enough; None where there is none, or sex or age are not known."""
    bone_age_months, age_months, sex = estimate.age_months, estimate.subject.age_months, estimate.subject.sex
    if age_months is None or sex is None:
        return None
    half_width_months = (estimate.interval_high_months - estimate.interval_low_months) / 2
    old = [prior for prior in priors if age_months - prior.chronological_age_months >= LEAST_MONTHS]
    if not old:
        return None
    prior = max(old, key=lambda one: one.chronological_age_months)
    years = (age_months - prior.chronological_age_months) / MONTHS_PER_YEAR
    before = sd_score(prior.bone_age_months, prior.chronological_age_months, sex, name)
    change = None if score is None or before is None else score.value - before.value
    if prior.half_width_months is None:
        return Course(prior.at, (bone_age_months - prior.bone_age_months) / years, None, change, None)
    apart = hypot(half_width_months, prior.half_width_months) / years
    moved = None
    if score is not None and before is not None:
        moved = hypot(half_width_months / score.sd_months, prior.half_width_months / before.sd_months)
    return Course(prior.at, (bone_age_months - prior.bone_age_months) / years, apart, change, moved)
