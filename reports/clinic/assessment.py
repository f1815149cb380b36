"""The assessment of one estimate: everything that is said beside the bone age, and why something is not said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from inference.finding import Estimate, Sex
from reports.clinic.course import course
from reports.clinic.heights import PLAUSIBLE_ADULT_CM, PLAUSIBLE_CM, PLAUSIBLE_KG, bayley_pinneau, rwt
from reports.clinic.model import Assessment, ClinicSettings, Height, HeightPrediction, Prior
from reports.clinic.sd_scores import growth_chart, reference, scores_between, sd_score, verdict
from reports.clinic.stage_ages import stage_ages

OUTSIDE_REFERENCE = "The chronological age lies outside the table of {title}: no SD score."
NO_AGE = "The chronological age is not known: no SD score."
NO_AGE_NO_HEIGHT = "The chronological age is not known: no adult height."
IMPLAUSIBLE_HEIGHT = "The height that is stated is not plausible: no adult height."


def assess(
    estimate: Estimate,
    *,
    settings: ClinicSettings = ClinicSettings(),  # noqa: B008 - frozen
    height_cm: float | None = None,
    height_source: Height = Height.HEADER,
    weight_kg: float | None = None,
    midparent_cm: float | None = None,
    priors: Sequence[Prior] = (),
) -> Assessment:
    """Assess one estimate.

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
    """
    sex, age = estimate.subject.sex, estimate.subject.age_months
    track = tuple(sorted(priors, key=lambda prior: prior.at))
    if sex is None:
        return Assessment(track=track)
    name, predicts = settings.reference, settings.heights and height_cm is not None
    stages, outside = ((), ()) if estimate.profile is None else stage_ages(estimate.profile, sex)
    notes = list(outside)
    chart = growth_chart(sex, name)
    if age is None:
        notes += [NO_AGE, NO_AGE_NO_HEIGHT] if predicts else [NO_AGE]
        return Assessment(stage_ages=stages, chart=chart, track=track, notes=tuple(notes))
    score = sd_score(estimate.age_months, age, sex, name)
    if score is None:
        notes.append(OUTSIDE_REFERENCE.format(title=reference(name).title))
    else:
        ends = estimate.interval_low_months, estimate.interval_high_months
        score = replace(score, interval=scores_between(score, *ends))
    heights: tuple[HeightPrediction, ...] = ()
    if settings.heights and height_cm is not None:
        heights, why_not = _heights(
            estimate.age_months,
            age,
            sex,
            height_cm=height_cm,
            weight_kg=weight_kg,
            midparent_cm=settings.midparent_cm if midparent_cm is None else midparent_cm,
            assumed=midparent_cm is None,
        )
        heights = tuple(replace(one, height=height_source) for one in heights)
        notes += why_not
    return Assessment(
        difference_months=estimate.age_months - age,
        sd=score,
        verdict=None if score is None else verdict(score, settings.normal_sd),
        normal_sd=settings.normal_sd,
        heights=heights,
        stage_ages=stages,
        chart=chart,
        track=track,
        course=course(estimate, score, track, name),
        notes=tuple(notes),
    )


def _heights(
    bone_age: float,
    age: float,
    sex: Sex,
    *,
    height_cm: float,
    weight_kg: float | None,
    midparent_cm: float | None,
    assumed: bool,
) -> tuple[tuple[HeightPrediction, ...], list[str]]:
    if not PLAUSIBLE_CM[0] <= height_cm <= PLAUSIBLE_CM[1]:
        return (), [IMPLAUSIBLE_HEIGHT]
    if weight_kg is not None and not PLAUSIBLE_KG[0] <= weight_kg <= PLAUSIBLE_KG[1]:
        weight_kg = None
    outcomes = [
        bayley_pinneau(height_cm, bone_age, age, sex),
        rwt(height_cm, bone_age, age, sex, weight_kg=weight_kg, midparent_cm=midparent_cm, assumed=assumed),
    ]
    predictions = tuple(one for one in outcomes if isinstance(one, HeightPrediction))
    if any(not PLAUSIBLE_ADULT_CM[0] <= one.centimetres <= PLAUSIBLE_ADULT_CM[1] for one in predictions):
        return (), [IMPLAUSIBLE_HEIGHT]
    return predictions, [one for one in outcomes if isinstance(one, str)]
