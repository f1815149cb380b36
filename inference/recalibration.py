"""A site's own linear correction of ages, per sex: fitted on its films by ``boneage-node evaluate --recalibrate``.

Films of another hospital shift and stretch the ages a model gives (other machines, other readers, other children); a
line per sex takes most of that back (Deeplasia, Rassmann et al. 2023, corrects each of its models so). The file belongs
to the weights and the intervals it was fitted with and is refused beside any others; whatever it changes is said in the
finding.

The file::

    {"schema": "boneage-node/recalibration/1", "method": "house", "weights_sha256": "...",
     "intervals_fingerprint": "1a2b3c4d",
     "lines": {"M": {"offset_months": 3.1, "factor": 0.98}, "F": {"offset_months": 0.0, "factor": 1.0}},
     "interval_factor": 1.1, "advice": "Adopt it: ...", ...}

``recalibrated = offset_months + factor * age``; half-widths of intervals are multiplied by ``interval_factor``. Further
keys (films, errors before and after) are for people, as is ``advice``, which begins with LEAVE_IT where the line may be
chance.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from inference.errors import BundleError
from inference.finding import Flag, ModelIdentity, Sex
from inference.intervals import Calibration

SCHEMA = "boneage-node/recalibration/1"
PLAUSIBLE_FACTORS = (0.6, 1.6)
"""A line steeper or flatter than this is no recalibration: films and readings do not belong together."""
PLAUSIBLE_OFFSET_MONTHS = 120.0
"""So far, either way, an age of 0 may be moved: about what such a factor does to one of 20 years."""
PLAUSIBLE_INTERVAL_FACTORS = (0.2, 5.0)
LEAVE_IT = "Leave it"
SITE_MARK = "+site."
"""In the version of a model whose ages are recalibrated, before the file's fingerprint."""


@dataclass(frozen=True, slots=True)
class Line:
    """``recalibrated = offset_months + factor * age``."""

    offset_months: float
    factor: float


@dataclass(frozen=True, slots=True)
class Recalibration:
    """A line per sex, and by how much intervals widen.

    ``fingerprint`` are 8 hex digits of the file's SHA-256, ``advice`` is its own word on whether to adopt it.
    """

    lines: dict[Sex, Line]
    interval_factor: float
    method: str
    weights_sha256: str
    fingerprint: str
    advice: str = ""
    intervals_fingerprint: str | None = None  # of the intervals that it widens; files of earlier versions do not say

    @staticmethod
    def read(path: Path) -> Recalibration:
        """Read a recalibration file.

        Raises
        ------
        BundleError
            If it is missing, damaged or implausible.
        """
        try:
            content = path.read_bytes()
            table = json.loads(content)
            if table["schema"] != SCHEMA:
                raise BundleError(f"{path.name} is no recalibration of this version ({SCHEMA}); fit it again.")
            lines = {
                sex: Line(float(table["lines"][sex.value]["offset_months"]), float(table["lines"][sex.value]["factor"]))
                for sex in Sex
            }
            interval_factor = float(table["interval_factor"])
            method, weights = str(table["method"]), str(table["weights_sha256"])
            advice, said = str(table.get("advice", "")), table.get("intervals_fingerprint")
            intervals = None if said is None else str(said)
        except OSError as error:
            raise BundleError(f"The recalibration file {path} cannot be read ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{path.name} is damaged; fit it again: boneage-node evaluate --recalibrate.") from error
        low, high = PLAUSIBLE_FACTORS
        narrow, wide = PLAUSIBLE_INTERVAL_FACTORS
        straight = all(
            low <= line.factor <= high and abs(line.offset_months) <= PLAUSIBLE_OFFSET_MONTHS for line in lines.values()
        )
        if not straight or not narrow <= interval_factor <= wide:
            raise BundleError(f"{path.name} bends ages implausibly; check the films and readings it was fitted on.")
        fingerprint = hashlib.sha256(content).hexdigest()[:8]
        return Recalibration(lines, interval_factor, method, weights, fingerprint, advice, intervals)

    @property
    def is_advised_against(self) -> bool:
        """Whether its own advice is to leave it."""
        return self.advice.startswith(LEAVE_IT)

    def check(self, model: ModelIdentity, calibration: Calibration) -> None:
        """Refuse another model than the one this was fitted with, or other intervals than those that it widens.

        Raises
        ------
        BundleError
            If method, weights or intervals differ.
        """
        if (self.method, self.weights_sha256) != (model.method, model.weights_sha256):
            raise BundleError(
                f"The recalibration was fitted with other weights of {self.method!r}; fit it again with those of "
                f"{model.method!r}: boneage-node evaluate --recalibrate."
            )
        if self.intervals_fingerprint not in {None, calibration.fingerprint}:
            raise BundleError(
                f"The recalibration was fitted with other intervals of {self.method!r}, which it widens; fit it again: "
                "boneage-node evaluate --recalibrate."
            )

    def apply(self, age_months: float, sex: Sex) -> float:
        """Return the recalibrated age in months, never below 0."""
        line = self.lines[sex]
        return max(0.0, line.offset_months + line.factor * age_months)

    def identify(self, model: ModelIdentity) -> ModelIdentity:
        """Return the model's identity with this recalibration in its version: ``0.1.0+site.1a2b3c4d``."""
        return replace(model, version=f"{model.version}{SITE_MARK}{self.fingerprint}")

    def flag(self, age_months: float) -> Flag:
        """Say that the age was changed, and what the model itself said."""
        return Flag(
            "site-recalibrated",
            f"The age was adjusted to this site's readings (recalibration {self.fingerprint}); the model itself said "
            f"{age_months:.1f} months.",
        )
