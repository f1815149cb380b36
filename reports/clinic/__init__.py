"""What a bone age means for a child: SD scores, adult height, ages by stages, and the course since earlier results."""

from reports.clinic.assessment import assess, difference_of
from reports.clinic.model import (
    Assessment,
    ClinicSettings,
    Course,
    GrowthChart,
    Height,
    HeightPrediction,
    Prior,
    Reference,
    ReferenceName,
    ScoreRange,
    SdScore,
    StageAge,
    Verdict,
)

__all__ = [
    "Assessment",
    "ClinicSettings",
    "Course",
    "GrowthChart",
    "Height",
    "HeightPrediction",
    "Prior",
    "Reference",
    "ReferenceName",
    "ScoreRange",
    "SdScore",
    "StageAge",
    "Verdict",
    "assess",
    "difference_of",
]
