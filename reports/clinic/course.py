"""What changed since an earlier result: velocity of bone age and change of the SD score, with their uncertainty.

Two readings err independently, each within half of its 90 % interval: their difference errs by the root of the sum of
squares. That is an upper bound where both are of one model, whose errors on one child go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from math import hypot

from inference.finding import Estimate
from inference.subject import months_between
from reports.clinic.model import Course, Prior, ReferenceName, SdScore
from reports.clinic.sd_scores import sd_score

LEAST_MONTHS = 3.0
"""Results closer together than this say nothing of a velocity: the uncertainty is many times the change."""
MONTHS_PER_YEAR = 12.0


UNKNOWN_CHANGE = "The change of the SD score is not known: one of the chronological ages is not known exactly."
UNKNOWN_COURSE = "The change since earlier results is not known: the time between them is not known exactly."


def course(
    estimate: Estimate,
    score: SdScore | None,
    priors: Sequence[Prior],
    name: ReferenceName,
    on: date | None = None,
) -> tuple[Course | None, tuple[str, ...]]:
    """Compare with the latest result that is old enough; None where there is none, or sex or age are not known.

    Returns the change and sentences that say what of it could not be told. ``on`` is the day of the film.
    """
    sex = estimate.subject.sex
    if estimate.subject.age_months is None or sex is None or not priors:
        return None, ()
    apart = [(_months_since(prior, estimate, on), prior) for prior in priors]
    old = [(months, prior) for months, prior in apart if months is not None and months >= LEAST_MONTHS]
    if not old:
        return None, (UNKNOWN_COURSE,) if any(months is None for months, _ in apart) else ()
    months, prior = min(old, key=lambda one: one[0])
    before = sd_score(prior.bone_age_months, prior.chronological_age_months, sex, name)
    is_open = estimate.subject.age_span_months > 0 or prior.age_span_months > 0
    change = None if score is None or before is None or is_open else (score, before)
    return _compare(estimate, prior, months / MONTHS_PER_YEAR, change), (UNKNOWN_CHANGE,) if is_open else ()


def _months_since(prior: Prior, estimate: Estimate, on: date | None) -> float | None:
    """Return the time since an earlier result: by ages where both are exact, else by days; None without these."""
    age, span = estimate.subject.age_months, estimate.subject.age_span_months
    if age is not None and span == 0 and prior.age_span_months == 0:
        return age - prior.chronological_age_months
    return None if on is None else months_between(prior.at, on)


def _compare(estimate: Estimate, prior: Prior, years: float, scores: tuple[SdScore, SdScore] | None) -> Course:
    """Return velocity and change of the score, now and before, each with its uncertainty where both have one."""
    half_width_months = (estimate.interval_high_months - estimate.interval_low_months) / 2
    velocity = (estimate.age_months - prior.bone_age_months) / years
    change = None if scores is None else scores[0].value - scores[1].value
    if prior.half_width_months is None:
        return Course(prior.at, prior.bone_age_months, velocity, None, change, None)
    apart = hypot(half_width_months, prior.half_width_months) / years
    moved = None
    if scores is not None:
        now, before = scores
        moved = hypot(half_width_months / now.sd_months, prior.half_width_months / before.sd_months)
    return Course(prior.at, prior.bone_age_months, velocity, apart, change, moved)
