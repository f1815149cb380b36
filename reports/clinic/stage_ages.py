"""Ages by maturity stages: RUS-CHN, and by its stages TW3-RUS and TW3-C RUS. The stages are derived, nobody read them.

RUS-CHN splits stages of TW3 further. Which of TW3's a stage belongs to is a heuristic seen in one program (see the data
file), so that the two TW3 ages are approximate and say so.
"""

from __future__ import annotations

from inference.finding import BoneProfile, Sex
from reports.clinic.model import StageAge
from reports.clinic.tables import SEX_KEYS, interpolated, table

RUS_CHN = "RUS-CHN"
TW3_RUS = "TW3-RUS (approximate)"
TW3_C_RUS = "TW3-C RUS (approximate)"


def stage_ages(profile: BoneProfile, sex: Sex) -> tuple[StageAge, ...]:
    """Return the ages of each scale whose table reaches."""
    points, entry = tw3_points(profile, sex), table("tw3")
    ages = [StageAge(RUS_CHN, profile.points, profile.age_months, entry["rus_chn_citation"])]
    european = interpolated(entry["age"][SEX_KEYS[sex]], points)
    if european is not None:
        ages.append(StageAge(TW3_RUS, points, european[0] * 12, entry["citation"]))
    curve = [(score, age) for age, score in entry["china_05"]["age"][SEX_KEYS[sex]]]
    chinese = interpolated(curve, points)
    if chinese is not None:
        ages.append(StageAge(TW3_C_RUS, points, chinese[0] * 12, entry["china_05"]["citation"]))
    return tuple(ages)


def tw3_points(profile: BoneProfile, sex: Sex) -> float:
    """Return the sum of TW3's points for the TW3 stages that the profile's stages belong to, 0 to 1000."""
    entry = table("tw3")
    scores, stages = entry["scores"][SEX_KEYS[sex]], entry["stage_of_rus_chn"]["bones"]
    total = 0.0
    for bone in profile.bones:
        stage = 0 if bone.stage == 0 else stages[bone.name][bone.stage - 1]
        total += scores[bone.name][stage]
    return total
