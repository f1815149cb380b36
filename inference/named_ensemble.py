"""Ensembles by name alone: ``house+global-local`` is the mean of both methods' ages, every member with the same weight.

Wherever a method is named, such a name can stand: in ``interpret.method`` and ``interpret.shadow``, in ``boneage-node
models``, ``evaluate``, ``compare``, ``calibrate`` and ``stress``, in ``training.outliers`` and ``training.sexes``.
Nothing needs to be written first; other weights need a bundle (``inference.ensemble``). The order of the members
changes nothing.

Intervals: its own where ``boneage-node calibrate --method house+global-local`` has written them. Until then the widest
member's half-width at each age and sex stands in, and the version ends in ``-uncalibrated``. The rule is cautious: the
mean is never further off than the member that is furthest off, and its mean squared error is at most the mean of theirs
(convexity). It claims no coverage; ``house+ala-net`` covered 99 % of the 123 validation films where 90 % was meant. An
alarm for a wrong sex is given only where one was calibrated for the mean. With an unconverged member the mean is
unconverged.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.bundle import SEPARATOR, Bundle, bundles_folder, canonical_name, open_bundle
from inference.errors import BundleError
from inference.finding import Sex
from inference.intervals import UNCALIBRATED, Calibration

_KNOTS_MONTHS = tuple(float(age) for age in range(0, 241, 6))


def open_named(
    name: str, folder: Path | None = None, *, open_member: Callable[[str, Path | None], Bundle] = open_bundle
) -> Bundle:
    """Return the bundle that the name of an ensemble stands for.

    Parameters
    ----------
    name
        Its members' names, in any order.
    folder
        Where bundles lie, if not with the package.
    open_member
        How to open a member.

    Raises
    ------
    BundleError
        If a member has no bundle, is named twice, is an ensemble itself, or has no intervals.
    """
    name = canonical_name(name)
    members = {member: open_member(member, folder) for member in name.split(SEPARATOR)}
    if len(members) <= name.count(SEPARATOR):
        raise BundleError(f"Ensemble {name!r} names a member twice; name each method once.")
    for member, bundle in members.items():
        if "members" in bundle.metadata:
            raise BundleError(f"Ensemble {name!r} has the ensemble {member!r} as a member; name its methods instead.")
    own, table = _intervals(name, folder, members)
    metadata = {
        "name": f"Bone age, mean of {' and '.join(members)}",
        "version": "+".join(str(one.metadata["version"]) for one in members.values())
        + ("" if own else "-uncalibrated"),
        **unconverged_of(members),
        "members": dict.fromkeys(members, 1.0),
        "weights_sha256": {},
    }
    return Bundle((folder or bundles_folder()) / name, metadata, {}, {"calibration.json": table})


def unconverged_of(members: dict[str, Bundle]) -> dict[str, Any]:
    """Return the metadata that mark an ensemble as unconverged, as one is if a member is; else none."""
    marks = [f"{name}: {bundle.unconverged}" for name, bundle in members.items() if bundle.unconverged is not None]
    return {"converged": False, "convergence": "; ".join(marks)} if marks else {}


def calibration_path(name: str, folder: Path | None = None) -> Path:
    """Return where a method's or an ensemble's own intervals lie, or would.

    An ensemble's are found in whatever order its members were named when they were written.
    """
    root, wanted = folder or bundles_folder(), canonical_name(name)
    written = sorted(root.glob(f"*{SEPARATOR}*/configs/calibration.json"))
    own = root / wanted / "configs" / "calibration.json"
    return next((path for path in written if canonical_name(path.parents[1].name) == wanted), own)


def _intervals(name: str, folder: Path | None, members: dict[str, Bundle]) -> tuple[bool, dict[str, Any]]:
    """Return whether an ensemble's intervals are its own, and the intervals.

    What stands there while it is being calibrated counts only where the members have nothing that could be used.
    """
    path = calibration_path(name, folder)
    try:
        table: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    except ValueError as error:
        raise BundleError(f"The intervals of {name!r} cannot be read; calibrate it anew.") from error
    if table is not None and table.get("split") != UNCALIBRATED:
        return True, table
    try:
        return False, widest(members)
    except BundleError:
        if table is None:
            raise
        return False, table


def _intervals_of(member: str, bundle: Bundle) -> Calibration:
    try:
        return Calibration.parse(bundle.read_json("calibration.json"))
    except FileNotFoundError as error:
        raise BundleError(
            f"A member has no intervals, {member}: run boneage-node calibrate --method {member} --data DATA, or on the "
            "ensemble itself."
        ) from error


def widest(members: dict[str, Bundle]) -> dict[str, Any]:
    """Return intervals as wide, at each age and sex, as the widest member's.

    Raises
    ------
    BundleError
        If a member has no intervals, or they are not all of one level.
    """
    tables = [_intervals_of(name, bundle) for name, bundle in members.items()]
    levels = {table.level for table in tables}
    if len(levels) > 1:
        raise BundleError(f"The members' intervals are of several levels, {sorted(levels)}; calibrate the ensemble.")
    widths = {sex.value: [max(table.half_width(age, sex) for table in tables) for age in _KNOTS_MONTHS] for sex in Sex}
    return {
        "level": levels.pop(),
        "ages_months": list(_KNOTS_MONTHS),
        "half_widths_months": widths,
        "split": f"not calibrated: the widest of {', '.join(members)}",
    }
