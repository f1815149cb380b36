"""What an interpretation of one film says: an estimate of bone age, or a refusal. Both are results.

Coordinates are pixels of the source image as the DICOM object stores it: x to the right (columns), y down (rows),
origin at the top-left corner of the first pixel, boxes half-open ``[x0, x1) x [y0, y1)``. A SCOORD of PS3.3 C.18.6.1.2
has the same origin, so edges pass into a Structured Report unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Sex(StrEnum):
    """Sex as PatientSex (0010,0040) codes it, restricted to the two the reference populations know."""

    MALE = "M"
    FEMALE = "F"


class Laterality(StrEnum):
    """Side of a hand, as ImageLaterality (0020,0062) codes it. UNKNOWN where nothing said it."""

    LEFT = "L"
    RIGHT = "R"
    UNKNOWN = "U"


class RefusalCode(StrEnum):
    """Why a film got no age. The values are stable: they appear in reports, in SQL and in logs."""

    NOT_A_HAND = "not-a-hand"
    HAND_INCOMPLETE = "hand-incomplete"
    UNREADABLE_PIXELS = "unreadable-pixels"
    UNSUPPORTED_OBJECT = "unsupported-object"
    POOR_IMAGE = "poor-image"
    SEX_UNKNOWN = "sex-unknown"


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned, half-open rectangle in source pixels (see the module's docstring)."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not (self.x1 > self.x0 and self.y1 > self.y0):
            raise ValueError(f"A box needs x1 > x0 and y1 > y0, got {self}.")

    @property
    def centre(self) -> tuple[float, float]:
        """Centre ``(x, y)`` in source pixels."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def moved(self, x: float, y: float) -> Box:
        """Return the box shifted by so many pixels."""
        return Box(self.x0 + x, self.y0 + y, self.x1 + x, self.y1 + y)

    def scaled(self, x: float, y: float) -> Box:
        """Return the box with its places multiplied by these factors."""
        return Box(self.x0 * x, self.y0 * y, self.x1 * x, self.y1 * y)

    def clipped(self, columns: int, rows: int) -> Box | None:
        """Return the part of the box inside an image of that size, or None where nothing of it is."""
        x0, y0, x1, y1 = max(self.x0, 0.0), max(self.y0, 0.0), min(self.x1, float(columns)), min(self.y1, float(rows))
        return Box(x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


@dataclass(frozen=True, slots=True)
class Roi:
    """One region of interest: a name of ``inference.anatomy.ROI_NAMES``, its box, the detector's score in 0..1."""

    name: str
    box: Box
    score: float


@dataclass(frozen=True, slots=True)
class Flag:
    """Something the reader should know beside the result: a stable code and one English sentence, no patient data."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What the header says of the child, and where it says so. None means missing or unusable, never defaulted."""

    sex: Sex | None
    sex_source: str  # e.g. "PatientSex (0010,0040)", or why there is none
    age_months: float | None  # chronological age at acquisition; see age_span_months
    age_source: str  # e.g. "PatientBirthDate and AcquisitionDate", "PatientAge", or why there is none
    flags: tuple[Flag, ...] = ()  # contradictions found in the header
    age_span_months: float = 0.0  # of an age in whole weeks, months or years: the true one lies in [age, age + this)

    @property
    def ages_months(self) -> tuple[float, float] | None:
        """The youngest and the oldest age that the header can mean, the latter excluded; None where it has none."""
        return None if self.age_months is None else (self.age_months, self.age_months + self.age_span_months)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model made a result; written into every report."""

    method: str  # "global-local", ...
    name: str  # human-readable
    version: str
    weights_sha256: str  # 64 hex digits over all weight files of the bundle
    manufacturer: str = "boneage-node"


DERIVED = "derived, not read"
"""What results must say of the stages in a BoneProfile."""


@dataclass(frozen=True, slots=True)
class BoneStage:
    """One bone's maturity stage of RUS-CHN: the one whose points lie nearest to the expected ones."""

    name: str  # one of inference.anatomy.RUS_NAMES
    stage: int  # 0 is no ossification centre
    last_stage: int  # the bone is mature
    probability: float  # of that stage, 0..1
    points: float  # expected


@dataclass(frozen=True, slots=True)
class BoneProfile:
    """Stages of 13 bones, their points, and the age the sum gives: learned from ages of hands, not from read stages."""

    bones: tuple[BoneStage, ...]
    points: float  # 0..1000, the sum of the expected points
    age_months: float
    origin: str = DERIVED
    model: ModelIdentity | None = None  # what told the stages, where it is not what read the age


@dataclass(frozen=True, slots=True)
class Estimate:
    """A bone age with its interval, and everything a reader needs to judge it."""

    age_months: float
    interval_low_months: float
    interval_high_months: float
    interval_level: float  # 0.9: the interval covers 90 % of calibration films
    subject: Subject
    laterality: Laterality  # of the hand that was read
    hand: Box
    rois: tuple[Roi, ...]  # the 18 of inference.anatomy.ROI_NAMES, in that order, those that were found
    hands_found: int  # 1 or more
    quality: float  # 0..1, the detector's mean score over the ROIs
    flags: tuple[Flag, ...]
    model: ModelIdentity
    profile: BoneProfile | None = None  # of methods that tell stages


@dataclass(frozen=True, slots=True)
class AssumedReading:
    """What a hand would be read as if the child's sex, which is not known, were this one. Not a result: a choice."""

    sex: Sex
    age_months: float
    interval_low_months: float
    interval_high_months: float
    interval_level: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no age: a code and a sentence for the reader, with whatever was found."""

    code: RefusalCode
    sentence: str
    remedy: str  # what the radiographer or radiologist can do about it
    subject: Subject
    hand: Box | None = None
    rois: tuple[Roi, ...] = ()
    flags: tuple[Flag, ...] = ()
    model: ModelIdentity | None = None
    assumed: tuple[AssumedReading, ...] = ()  # SEX_UNKNOWN: one for each sex, where nothing else speaks against reading


Finding = Estimate | Refusal
