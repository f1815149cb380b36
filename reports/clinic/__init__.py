"""What a bone age means for a child: SD scores, adult height, ages by stages, and the course since earlier results."""

from reports.clinic.assessment import assess
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
    "SdScore",
    "StageAge",
    "Verdict",
    "assess",
]
