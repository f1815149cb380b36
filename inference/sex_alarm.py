"""The alarm for a wrong PatientSex: the film itself contradicts the header, and the age hangs on it.

Bone age is read by sex, and at the same bones girls are up to two years younger than boys. Some networks estimate
the sex from the film alone (``Prediction.male_logit``). Where that estimate contradicts the header confidently *and*
the age with the other sex differs by more than LEAST_MONTHS, the finding gets a flag; the age stays the one by the
header's sex. How confident is enough is measured on films of the validation part by ``python -m training.sexes`` and
stands in the bundle's ``calibration.json`` as ``"sex_alarm": {"logit": 1.7, ...}``; without that key no alarm is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from inference.errors import BundleError
from inference.finding import Flag, Sex

LEAST_MONTHS = 12.0
"""So much must the age move for a wrong sex to matter."""
CODE = "sex-mismatch"


@dataclass(frozen=True, slots=True)
class SexAlarm:
    """Least log odds against the header's sex, and least change of the age in months, that raise the alarm."""

    logit: float
    least_months: float = LEAST_MONTHS

    @staticmethod
    def parse(calibration: dict[str, Any]) -> SexAlarm | None:
        """Read ``sex_alarm`` of a ``calibration.json``; None where there is none.

        Raises
        ------
        BundleError
            If it holds no positive number.
        """
        table = calibration.get("sex_alarm")
        if table is None:
            return None
        try:
            logit = float(table["logit"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError("sex_alarm in calibration.json lacks its logit; measure it again.") from error
        if not 0 < logit < math.inf:
            raise BundleError("The logit of sex_alarm in calibration.json must be positive; measure it again.")
        return SexAlarm(logit)

    def contradicts(self, male_logit: float | None, sex: Sex) -> bool:
        """Whether the network's own estimate (log odds of male) confidently speaks against ``sex``."""
        return male_logit is not None and against(male_logit, sex) >= self.logit

    def flag(self, age_months: float, other_age_months: float) -> Flag | None:
        """Return the flag for a contradicted sex, if the age hangs on it: ages with the header's and the other sex."""
        difference = other_age_months - age_months
        if abs(difference) <= self.least_months:
            return None
        return Flag(
            CODE,
            "The film looks like one of the other sex than PatientSex (0010,0040) says; check it. With the other sex "
            f"the estimate would be {abs(difference):.0f} months {'higher' if difference > 0 else 'lower'}.",
        )


def against(male_logit: float, sex: Sex) -> float:
    """Return the log odds against a sex."""
    return -male_logit if sex is Sex.MALE else male_logit


def other(sex: Sex) -> Sex:
    """Return the other one of the two sexes that the reference populations know."""
    return Sex.FEMALE if sex is Sex.MALE else Sex.MALE
