"""Standard deviation scores of bone age, after Greulich and Pyle 1959, in one of the two populations of their atlas.

Both tables are entered by chronological age: the score is (bone age - mean) / SD. Tables V and VI give no means; there,
as is usual, the mean bone age is the chronological age itself.
"""

from __future__ import annotations

from dataclasses import replace

from inference.finding import Sex
from reports.clinic.model import GrowthChart, Reference, ReferenceName, ScoreRange, SdScore, Verdict
from reports.clinic.tables import SEX_KEYS, Row, interpolated, table

RANGE_SD = 2.0
"""Standard deviations on either side of the mean that charts and ranges show."""
AGE_STEPS = 12
"""Steps in which a span of chronological ages is looked at: a month of a year."""
MOST_OPEN_SD = 0.25
"""A score that the span of the chronological age moves by more is told as a range and not as a number. An age in whole
years moves it by half an SD at least, one in whole months by a tenth at school age and by more than this of infants."""


def reference(name: ReferenceName) -> Reference:
    """Return a population by its name."""
    entry = table("skeletal_age_sd")[name]
    return Reference(name, entry["title"], entry["citation"])


def rows_of(name: ReferenceName, sex: Sex) -> list[Row]:
    """Return a population's table: chronological age, mean bone age, SD; months."""
    rows: list[Row] = table("skeletal_age_sd")[name][SEX_KEYS[sex]]
    return rows


def sd_score(bone_age_months: float, age_months: float, sex: Sex, name: ReferenceName) -> SdScore | None:
    """Return the score of a bone age at a chronological age; None where the population's table does not reach."""
    found = interpolated(rows_of(name, sex), age_months)
    if found is None:
        return None
    mean, sd = found
    reach = RANGE_SD * sd
    return SdScore((bone_age_months - mean) / sd, mean, sd, mean - reach, mean + reach, reference(name))


def scores_between(score: SdScore, low_months: float, high_months: float) -> tuple[float, float]:
    """Return the scores of the ends of a bone age's interval: of an infant, whose SD is a month, they lie far apart."""
    return (low_months - score.mean_months) / score.sd_months, (high_months - score.mean_months) / score.sd_months


def steps_between(ages_months: tuple[float, float]) -> tuple[float, ...]:
    """Return the ages at which a span of chronological ages is looked at, both ends among them; one for no span."""
    low, high = ages_months
    if high <= low:
        return (low,)
    return tuple(low + (high - low) * step / AGE_STEPS for step in range(AGE_STEPS + 1))


def score_of_span(
    scores: list[SdScore], ages_months: tuple[float, float], interval_months: tuple[float, float]
) -> SdScore | ScoreRange:
    """Return the score at the middle of a span of chronological ages, or the range where it leaves too much open.

    Parameters
    ----------
    scores
        Those of the bone age at ``steps_between(ages_months)``.
    ages_months
        The span.
    interval_months
        The bone age's.
    """
    ends = [scores_between(score, *interval_months) for score in scores]
    interval = min(low for low, _ in ends), max(high for _, high in ends)
    values = [score.value for score in scores]
    if max(values) - min(values) <= MOST_OPEN_SD:
        return replace(scores[len(scores) // 2], interval=interval)
    return ScoreRange(min(values), max(values), interval, ages_months, scores[0], scores[-1])


def verdict(score: SdScore, normal_sd: float) -> Verdict:
    """Return what a score is called: advanced or delayed from so many SD on."""
    if abs(score.value) <= normal_sd:
        return "normal"
    return "advanced" if score.value > 0 else "delayed"


def growth_chart(sex: Sex, name: ReferenceName) -> GrowthChart:
    """Return a population's curves."""
    rows = rows_of(name, sex)
    return GrowthChart(
        reference=reference(name),
        ages_months=tuple(row[0] for row in rows),
        mean=tuple(row[1] for row in rows),
        low=tuple(row[1] - RANGE_SD * row[2] for row in rows),
        high=tuple(row[1] + RANGE_SD * row[2] for row in rows),
    )
