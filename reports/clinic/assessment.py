"""The assessment of one estimate: everything that is said beside the bone age, and why something is not said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import NamedTuple

from inference.finding import Estimate, Sex
from reports.clinic.course import course
from reports.clinic.heights import (
    PLAUSIBLE_ADULT_CM,
    PLAUSIBLE_CM,
    Body,
    Outcome,
    over_ages,
    over_bone_ages,
    predictors,
)
from reports.clinic.model import (
    Assessment,
    ClinicSettings,
    Height,
    HeightPrediction,
    Prior,
    ScoreRange,
    SdScore,
    Verdict,
)
from reports.clinic.sd_scores import growth_chart, reference, score_of_span, sd_score, steps_between, verdict
from reports.clinic.stage_ages import stage_ages

OUTSIDE_REFERENCE = "The chronological age lies outside the table of {title}: no SD score."
REACHES_OUTSIDE = "The chronological age may lie outside the table of {title}: no SD score."
OPEN_VERDICT = (
    "Whether the bone age is advanced, delayed or normal depends on the exact chronological age, which is not known."
)
NO_AGE = "The chronological age is not known: no SD score."
NO_AGE_NO_HEIGHT = "The chronological age is not known: no adult height."
IMPLAUSIBLE_HEIGHT = "The height that is stated is not plausible: no adult height."
MOST_SPAN_MONTHS = 1.0
"""A difference to an age of a longer span, which is one in whole years, is told as a range and not as a number."""


def assess(
    estimate: Estimate,
    *,
    settings: ClinicSettings = ClinicSettings(),  # noqa: B008 - frozen
    height_cm: float | None = None,
    height_source: Height = Height.HEADER,
    weight_kg: float | None = None,
    midparent_cm: float | None = None,
    priors: Sequence[Prior] = (),
    on: date | None = None,
) -> Assessment:
    """Assess one estimate.

    An age in whole months or years leaves open what follows from it: a score is then a range, and a word, a difference
    or a height that hangs on the exact age is left out and the reason given.

    Parameters
    ----------
    estimate
        The bone age, its interval, and whose it is.
    settings
        The site's choices.
    height_cm, weight_kg, midparent_cm
        Where they are known; without a height there is no word of adult height at all.
    height_source
        Where the height comes from.
    priors
        Earlier results of the same child, in any order.
    on
        The day of the film: the time since an earlier result is counted by days where an age is not exact.
    """
    sex, ages = estimate.subject.sex, estimate.subject.ages_months
    track = tuple(sorted(priors, key=lambda prior: prior.at))
    if sex is None:
        return Assessment(track=track)
    name, predicts = settings.reference, settings.heights and height_cm is not None
    stages, outside = ((), ()) if estimate.profile is None else stage_ages(estimate.profile, sex)
    notes = list(outside)
    chart = growth_chart(sex, name)
    if ages is None:
        notes += [NO_AGE, NO_AGE_NO_HEIGHT] if predicts else [NO_AGE]
        return Assessment(stage_ages=stages, chart=chart, track=track, notes=tuple(notes))
    scored = _scored(estimate, ages, sex, settings)
    notes += scored.notes
    heights: tuple[HeightPrediction, ...] = ()
    if settings.heights and height_cm is not None:
        body = Body(
            height_cm, weight_kg, settings.midparent_cm if midparent_cm is None else midparent_cm, midparent_cm is None
        )
        heights, why_not = _heights(estimate, ages, sex, body)
        heights = tuple(replace(one, height=height_source) for one in heights)
        notes += why_not
    moved, unmoved = course(estimate, scored.sd, track, name, on)
    return Assessment(
        difference_months=difference_of(estimate),
        sd=scored.sd,
        sd_range=scored.range,
        verdict=scored.verdict,
        normal_sd=settings.normal_sd,
        heights=heights,
        stage_ages=stages,
        chart=chart,
        track=track,
        course=moved,
        notes=(*notes, *unmoved),
    )


class _Scored(NamedTuple):
    """What a bone age is in standard deviations, and what could not be told."""

    sd: SdScore | None = None
    range: ScoreRange | None = None
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()


def _scored(estimate: Estimate, ages: tuple[float, float], sex: Sex, settings: ClinicSettings) -> _Scored:
    """Score a bone age at every chronological age that the header can mean."""
    title = reference(settings.reference).title
    wanted = [sd_score(estimate.age_months, age, sex, settings.reference) for age in steps_between(ages)]
    scores = [score for score in wanted if score is not None]
    if len(scores) < len(wanted):
        return _Scored(notes=((REACHES_OUTSIDE if scores else OUTSIDE_REFERENCE).format(title=title),))
    verdicts = {verdict(score, settings.normal_sd) for score in scores}
    said, notes = (verdicts.pop(), ()) if len(verdicts) == 1 else (None, (OPEN_VERDICT,))
    told = score_of_span(scores, ages, (estimate.interval_low_months, estimate.interval_high_months))
    return _Scored(told, None, said, notes) if isinstance(told, SdScore) else _Scored(None, told, said, notes)


def difference_of(estimate: Estimate) -> float | None:
    """Return bone age less chronological age, of whole weeks or months to their middle; None for whole years."""
    ages = estimate.subject.ages_months
    if ages is None or ages[1] - ages[0] > MOST_SPAN_MONTHS:
        return None
    return estimate.age_months - (ages[0] + ages[1]) / 2


def _heights(
    estimate: Estimate, ages: tuple[float, float], sex: Sex, body: Body
) -> tuple[tuple[HeightPrediction, ...], list[str]]:
    if not PLAUSIBLE_CM[0] <= body.height_cm <= PLAUSIBLE_CM[1]:
        return (), [IMPLAUSIBLE_HEIGHT]
    interval = estimate.interval_low_months, estimate.interval_high_months
    outcomes: list[Outcome] = []
    for name, predict in predictors(sex, body.plausible()).items():
        outcome = over_ages(name, predict, estimate.age_months, ages)
        if isinstance(outcome, HeightPrediction):
            outcome = over_bone_ages(outcome, predict, interval, ages)
        outcomes.append(outcome)
    predictions = tuple(one for one in outcomes if isinstance(one, HeightPrediction))
    if any(not PLAUSIBLE_ADULT_CM[0] <= one.centimetres <= PLAUSIBLE_ADULT_CM[1] for one in predictions):
        return (), [IMPLAUSIBLE_HEIGHT]
    return predictions, [one for one in outcomes if isinstance(one, str)]
