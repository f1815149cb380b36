"""Ages by maturity stages: RUS-CHN, and by its stages TW3-RUS and TW3-C RUS. The stages are derived, nobody read them.

RUS-CHN splits stages of TW3 further. Which of TW3's a stage belongs to is a heuristic seen in one program (see the data
file), so that the two TW3 ages are approximate and say so.
"""

from __future__ import annotations

from collections.abc import Sequence

from inference.finding import BoneProfile, Sex
from reports.clinic.model import StageAge
from reports.clinic.tables import SEX_KEYS, Row, interpolated, table

RUS_CHN = "RUS-CHN"
TW3_RUS = "TW3-RUS (approximate)"
TW3_C_RUS = "TW3-C RUS (approximate)"
MOST_POINTS = 1000.0
"""All bones are mature: every scale ends here, with the age at which half of the children have come so far."""
OUTSIDE_SCALE = "{method} has no age for a score of {points}: no age by it."


def stage_ages(profile: BoneProfile, sex: Sex) -> tuple[tuple[StageAge, ...], tuple[str, ...]]:
    """Return the age of each scale whose table reaches, and a sentence for each whose table does not."""
    points, entry = tw3_points(profile, sex), table("tw3")
    china = entry["china_05"]
    curves: tuple[tuple[str, Sequence[Row], str], ...] = (
        (TW3_RUS, entry["age"][SEX_KEYS[sex]], entry["citation"]),
        (TW3_C_RUS, [(score, age) for age, score in china["age"][SEX_KEYS[sex]]], china["citation"]),
    )
    # Expected points come as near to the end as they like and never reach it; what is written is rounded.
    is_mature = round(profile.points) >= MOST_POINTS
    rus_chn = StageAge(RUS_CHN, profile.points, profile.age_months, entry["rus_chn_citation"], is_mature, profile.model)
    ages = [rus_chn]
    why_not = []
    for method, rows, citation in curves:
        found = interpolated(rows, points)
        if found is None:
            why_not.append(OUTSIDE_SCALE.format(method=method, points=round(points)))
        else:
            ages.append(StageAge(method, points, found[0] * 12, citation, points >= MOST_POINTS, profile.model))
    return tuple(ages), tuple(why_not)


def tw3_points(profile: BoneProfile, sex: Sex) -> float:
    """Return the sum of TW3's points for the TW3 stages that the profile's stages belong to, 0 to 1000."""
    entry = table("tw3")
    scores, stages = entry["scores"][SEX_KEYS[sex]], entry["stage_of_rus_chn"]["bones"]
    total = 0.0
    for bone in profile.bones:
        stage = 0 if bone.stage == 0 else stages[bone.name][bone.stage - 1]
        total += scores[bone.name][stage]
    return total
