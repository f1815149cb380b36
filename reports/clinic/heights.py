"""Adult height from bone age: Bayley and Pinneau 1952, and Roche, Wainer and Thissen (RWT) 1975.

Nothing is extrapolated and nothing is assumed: what a table does not reach, and what an equation lacks, is said. Nobody
becomes shorter: a prediction below the present height is none, and no range begins below it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from inference.finding import Sex
from reports.clinic.model import HeightPrediction
from reports.clinic.sd_scores import steps_between
from reports.clinic.tables import SEX_KEYS, interpolated, table

PLAUSIBLE_CM = (45.0, 220.0)
"""Heights outside this range are a wrong unit or a typing error."""
PLAUSIBLE_ADULT_CM = (100.0, 230.0)
"""An adult height outside this range comes of a height that no child of this age has: 1.92 m for 1.29 m."""
PLAUSIBLE_KG = (2.0, 200.0)
CATEGORY_MONTHS = 12.0
"""Bayley and Pinneau: from a year ahead of or behind chronological age on, a table of its own."""
_NUDGE_MONTHS = 1e-6
CENTIMETRES_PER_INCH = 2.54
NORMAL_90 = 1.645
"""Standard deviations on either side that hold 90 % of a normal distribution."""
RECUMBENT_CM = 1.25
"""RWT is entered by recumbent length: standing height and this much."""

BAYLEY_PINNEAU = "Bayley-Pinneau"
RWT = "RWT 1975"
MOST_OPEN_CM = 1.0
"""Where the span of the chronological age moves a prediction by more, there is none. An age in whole years does so by
RWT always, by Bayley and Pinneau where it leaves the table to choose open."""
OPEN_HEIGHT = "{method} depends on the exact chronological age, which is not known: no adult height by it."
RWT_ASSUMED = RWT + " (mean height of the parents assumed: {cm:.1f} cm)"

Outcome = HeightPrediction | str
"""A prediction, or a sentence that says why there is none."""


def bayley_pinneau(height_cm: float, bone_age_months: float, age_months: float, sex: Sex) -> Outcome:
    """Predict by percent of mature height at a Greulich-Pyle bone age.

    Parameters
    ----------
    height_cm
        Standing height.
    bone_age_months, age_months
        Bone age and chronological age; their difference chooses the table.
    sex
        The child's.
    """
    entry = table("bayley_pinneau")
    rows = entry["percent_mature_height"][SEX_KEYS[sex]][_category(bone_age_months - age_months)]
    found = interpolated(rows, bone_age_months)
    if found is None:
        return f"{BAYLEY_PINNEAU} has no entry for this bone age: no adult height by it."
    height = height_cm / (found[0] / 100)
    error = interpolated(entry["error_inches"][SEX_KEYS[sex]], age_months)
    reach = None if error is None else NORMAL_90 * error[0] * CENTIMETRES_PER_INCH
    return _predicted(BAYLEY_PINNEAU, height, reach, entry["citation"], height_cm)


def _predicted(method: str, height: float, reach: float | None, citation: str, now_cm: float) -> HeightPrediction:
    """Return a prediction with its range; ``reach`` is half of that, None where the publication states no error."""
    if reach is None:
        return HeightPrediction(method, height, None, None, citation, now_cm)
    return HeightPrediction(method, height, max(height - reach, now_cm), height + reach, citation, now_cm)


def _category(ahead_months: float) -> str:
    if ahead_months >= CATEGORY_MONTHS:
        return "accelerated"
    return "retarded" if ahead_months <= -CATEGORY_MONTHS else "average"


def rwt(
    height_cm: float,
    bone_age_months: float,
    age_months: float,
    sex: Sex,
    *,
    weight_kg: float | None,
    midparent_cm: float | None,
    assumed: bool = False,
) -> Outcome:
    """Predict height at 18 years by the regression of Roche, Wainer and Thissen 1975 at the chronological age.

    Parameters
    ----------
    height_cm
        Standing height; the recumbent length is taken to be 1.25 cm more, as the paper does.
    weight_kg, midparent_cm
        Weight, and the mean of both parents' heights; without either there is no prediction.
    assumed
        Whether the parents are not this child's, but a population's means, which the authors put in for unknown ones.
        The prediction then says so and has no range: the published errors are those with the child's own parents.
    """
    if weight_kg is None or midparent_cm is None:
        missing = "the weight" if weight_kg is None else "the parents' heights"
        return f"{RWT} needs {missing}: no adult height by it."
    entry = table("rwt_1975")
    found = interpolated(entry["rows"][SEX_KEYS[sex]], age_months)
    if found is None:
        return f"{RWT} has no entry for this chronological age: no adult height by it."
    length, weight, parents, skeletal, intercept = found
    height = (
        intercept
        + length * (height_cm + RECUMBENT_CM)
        + weight * weight_kg
        + parents * midparent_cm
        + skeletal * bone_age_months / 12
    )
    if height < height_cm:  # most of the bones are adult: the authors do not apply their equation then
        return f"{RWT} gives less than the present height: no adult height by it."
    half = None if assumed else interpolated(entry["half_width"][SEX_KEYS[sex]], age_months)
    method = RWT_ASSUMED.format(cm=midparent_cm) if assumed else RWT
    return _predicted(method, height, None if half is None else half[0], entry["citation"], height_cm)


@dataclass(frozen=True, slots=True)
class Body:
    """What a prediction is made from beside ages and sex; see :func:`rwt`."""

    height_cm: float
    weight_kg: float | None
    midparent_cm: float | None
    assumed: bool

    def plausible(self) -> Body:
        """Return the same without a weight that no child has."""
        usable = self.weight_kg is not None and PLAUSIBLE_KG[0] <= self.weight_kg <= PLAUSIBLE_KG[1]
        return self if usable else replace(self, weight_kg=None)


Predictor = Callable[[float, float], Outcome]
"""Of bone age and chronological age, months."""


def predictors(sex: Sex, body: Body) -> dict[str, Predictor]:
    """Return the methods by their names, for one child."""

    def by_bayley_pinneau(bone_age_months: float, age_months: float) -> Outcome:
        return bayley_pinneau(body.height_cm, bone_age_months, age_months, sex)

    def by_rwt(bone_age_months: float, age_months: float) -> Outcome:
        height, weight, parents, assumed = body.height_cm, body.weight_kg, body.midparent_cm, body.assumed
        return rwt(height, bone_age_months, age_months, sex, weight_kg=weight, midparent_cm=parents, assumed=assumed)

    return {BAYLEY_PINNEAU: by_bayley_pinneau, RWT: by_rwt}


def over_ages(name: str, predict: Predictor, bone_age_months: float, ages_months: tuple[float, float]) -> Outcome:
    """Predict at every chronological age that the header can mean: the middle one's height with the widest range.

    There is none where the age moves it by more than ``MOST_OPEN_CM``, or one of the ages has none.
    """
    found: list[HeightPrediction] = []
    for age in steps_between(ages_months):
        outcome = predict(bone_age_months, age)
        if isinstance(outcome, str):
            return outcome
        found.append(outcome)
    heights = [one.centimetres for one in found]
    if max(heights) - min(heights) > MOST_OPEN_CM:
        return OPEN_HEIGHT.format(method=name)
    lows, highs = [one.low for one in found if one.low is not None], [one.high for one in found if one.high is not None]
    is_whole = len(lows) == len(highs) == len(found)
    low, high = (min(lows), max(highs)) if is_whole else (None, None)
    return replace(found[len(found) // 2], low=low, high=high)


def over_bone_ages(
    prediction: HeightPrediction,
    predict: Predictor,
    interval_months: tuple[float, float],
    ages_months: tuple[float, float],
) -> HeightPrediction:
    """Return a prediction with the heights at all bone ages of the bone age's interval: its lowest and its highest one.

    They need not be those at its ends: Bayley and Pinneau take another table from a year ahead or behind on.
    """
    outcomes = [
        predict(bone_age, age)
        for age in steps_between(ages_months)
        for bone_age in _bone_ages_between(interval_months, age)
    ]
    found = [one.centimetres for one in outcomes if isinstance(one, HeightPrediction)]
    heights = [prediction.centimetres, *found]
    return replace(prediction, by_bone_age=(min(heights), max(heights)), is_whole=len(found) == len(outcomes))


def _bone_ages_between(interval_months: tuple[float, float], age_months: float) -> list[float]:
    """Return the bone ages at which an interval is looked at: in steps, and on both sides of where tables change."""
    low, high = interval_months
    corners = (age_months + side * (CATEGORY_MONTHS + nudge) for side in (-1, 1) for nudge in (-_NUDGE_MONTHS, 0.0))
    return [*steps_between(interval_months), *(corner for corner in corners if low <= corner <= high)]
