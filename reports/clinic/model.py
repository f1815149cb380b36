"""What a bone age means for a child: the types. All ages are months unless a name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from math import hypot
from typing import Literal

from inference.finding import ModelIdentity

ReferenceName = Literal["brush-foundation", "greulich-pyle"]
Verdict = Literal["advanced", "delayed", "normal"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A published population."""

    name: ReferenceName
    title: str
    citation: str


@dataclass(frozen=True, slots=True)
class SdScore:
    """How many standard deviations a bone age lies from the mean of a reference at a chronological age."""

    value: float
    mean_months: float
    sd_months: float
    low_months: float  # mean - 2 SD
    high_months: float  # mean + 2 SD
    reference: Reference
    interval: tuple[float, float] | None = None  # the scores at the ends of the bone age's 90 % interval


@dataclass(frozen=True, slots=True)
class ScoreRange:
    """The scores of one bone age over the chronological ages that the header can mean, where they lie far apart."""

    low: float
    high: float
    interval: tuple[float, float]  # the same over the bone age's 90 % interval, too
    ages_months: tuple[float, float]
    youngest: SdScore  # at the lower of these ages
    oldest: SdScore


class Height(StrEnum):
    """Where a child's height comes from."""

    HEADER = "PatientSize (0010,1020)"
    ORDER = "worklist"


@dataclass(frozen=True, slots=True)
class HeightPrediction:
    """An adult height. ``low`` and ``high`` are the 90 % range where the publication states its error.

    That is the method's own, for a bone age without error. ``by_bone_age`` is how far the bone age's 90 % interval
    moves the height; where the method gives none at some bone ages of it, ``is_whole`` is False, and it is what the
    method gives at the others. ``total`` combines both.
    """

    method: str
    centimetres: float
    low: float | None
    high: float | None
    citation: str
    from_cm: float  # the height it was predicted from
    height: Height = Height.HEADER
    by_bone_age: tuple[float, float] | None = None
    is_whole: bool = True

    @property
    def total(self) -> tuple[float, float] | None:
        """The 90 % range by both errors, each the root of the sum of squares; None where one of them is not known.

        They are taken to be independent. The published one holds its own readers' error of bone age, too: an upper
        bound. Nobody becomes shorter.
        """
        if self.high is None or self.by_bone_age is None:
            return None
        reach, (low, high) = self.high - self.centimetres, self.by_bone_age
        below, above = hypot(reach, self.centimetres - low), hypot(reach, high - self.centimetres)
        return max(self.centimetres - below, self.from_cm), self.centimetres + above


@dataclass(frozen=True, slots=True)
class StageAge:
    """The age a scale gives for derived stages, and the sum of their points (0 to 1000)."""

    method: str
    points: float
    age_months: float
    citation: str
    is_mature: bool = False  # the scale ends here: the age is this one or any later
    model: ModelIdentity | None = None  # what told the stages, where it is not what read the bone age


@dataclass(frozen=True, slots=True)
class Prior:
    """An earlier bone age of the same child."""

    at: date
    chronological_age_months: float
    bone_age_months: float
    half_width_months: float | None  # half of its 90 % interval
    source: str  # "this node", "archive"
    age_span_months: float = 0.0  # the chronological age lies in [age, age + this)


@dataclass(frozen=True, slots=True)
class Course:
    """What changed since an earlier result, each with half of its 90 % interval where both results have one."""

    since: date
    bone_age_months: float  # of that result
    velocity: float  # months of bone age per year
    velocity_half_width: float | None
    sd_change: float | None
    sd_change_half_width: float | None


@dataclass(frozen=True, slots=True)
class GrowthChart:
    """The curves of a reference for one sex, over its whole table."""

    reference: Reference
    ages_months: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]  # mean - 2 SD
    high: tuple[float, ...]  # mean + 2 SD


@dataclass(frozen=True, slots=True)
class ClinicSettings:
    """What a site chose: the reference, from how many SD a bone age is advanced or delayed, and whether to predict.

    ``midparent_cm`` stands in where the parents' heights of a child are not known.
    """

    reference: ReferenceName = "brush-foundation"
    normal_sd: float = 2.0
    heights: bool = True
    midparent_cm: float | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """Everything that is said beside a bone age. ``notes`` say in sentences what could not be told, and why."""

    difference_months: float | None = None  # None, too, where the chronological age leaves it open
    sd: SdScore | None = None
    sd_range: ScoreRange | None = None  # in place of ``sd`` where the chronological age leaves it open
    verdict: Verdict | None = None
    normal_sd: float = 2.0  # the rule the verdict was made by
    heights: tuple[HeightPrediction, ...] = ()
    stage_ages: tuple[StageAge, ...] = ()
    chart: GrowthChart | None = None
    track: tuple[Prior, ...] = ()
    course: Course | None = None
    notes: tuple[str, ...] = ()
