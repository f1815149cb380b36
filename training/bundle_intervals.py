"""What a bundle's intervals hang on, and taking them away where they were measured with something else.

Intervals and the alarm for a wrong sex (``configs/calibration.json``) are errors of certain weights, on hands and
regions found in a certain way. Beside other ones they promise what nobody has measured, so the node gets none: it
refuses the method until ``boneage-node calibrate`` has written new ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inference import familiarity
from inference.bundle import DETECTOR, SEPARATOR
from inference.catalogue import identify, read_bundle
from inference.global_local import REGIONS_FILE
from inference.precise_baa import LOCALISER_FILE
from training.errors import RunError

_log = logging.getLogger(__name__)

DETECTOR_KEYS = ("detector_width", "detector_depth", "detector_side")
"""What a configuration says of a method's own detector."""


def read_with(hashes: dict[str, str], config: dict[str, Any]) -> dict[str, str]:
    """Return the hashes of the weights that a method reads films with: its own detector's only where it is used."""
    own = () if _has_own_regions(config) else (REGIONS_FILE, LOCALISER_FILE)
    return {name: sha256 for name, sha256 in hashes.items() if name not in own}


def _has_own_regions(config: dict[str, Any]) -> bool:
    return bool(config.get("localiser", "shared") == "paper")


def makes_ages(hashes: dict[str, str], config: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the weights and settings that ages hang on: whether a hand looks familiar changes none."""
    weights = {name: sha256 for name, sha256 in read_with(hashes, config).items() if name != familiarity.FILE}
    idle = {"network_def", "familiarity", "localiser", *(() if _has_own_regions(config) else DETECTOR_KEYS)}
    settings = {key: value for key, value in config.items() if key not in idle}
    settings = json.loads(json.dumps(settings))  # as a file has them
    return weights, settings | {"localiser": config.get("localiser", "shared")}


def weights_of(method: str) -> tuple[str, str]:
    """Return the hashes of the weights that a method reads films with: its own, or its members', and the detector's.

    Raises
    ------
    BundleError
        If one of their bundles is not there.
    """
    return identify(method).weights_sha256, read_bundle(DETECTOR).weights_sha256


def refuse_others(method: str, before: tuple[str, str]) -> None:
    """Refuse to write what was measured, which takes minutes, where the weights are not those of before any more.

    Raises
    ------
    RunError
        If another command has written other weights of the method or the detector meanwhile.
    """
    if weights_of(method) != before:
        raise RunError(
            f"Another command has exported weights of {method} or the detector while films were read: what was "
            "measured is of the old ones, and is not written; run this command again."
        )


def drop_intervals(bundle: Path) -> None:
    """Take away what was calibrated on a bundle's former ages, its own and that of ensembles with it, and say so.

    Of the detector's bundle, that is what every method that reads with it has.
    """
    for folder in _read_by(bundle) if bundle.name == DETECTOR else (bundle, *_ensembles_with(bundle)):
        calibration = folder / "configs" / "calibration.json"
        if calibration.is_file():
            alarm = '"sex_alarm"' in calibration.read_text()
            calibration.unlink()
            _say_gone(folder.name, bundle.name, alarm=alarm)


def _read_by(detector: Path) -> Iterator[Path]:
    for folder in sorted(detector.parent.glob("*")):
        inference = folder / "configs" / "inference.json"
        if not (inference.is_file() and _has_own_regions(json.loads(inference.read_text()))):
            yield folder


def _ensembles_with(bundle: Path) -> Iterator[Path]:
    for folder in sorted(bundle.parent.glob("*")):
        metadata = folder / "configs" / "metadata.json"
        members = json.loads(metadata.read_text()).get("members", {}) if metadata.is_file() else {}
        if bundle.name in members or (SEPARATOR in folder.name and bundle.name in folder.name.split(SEPARATOR)):
            yield folder


def _say_gone(name: str, changed: str, *, alarm: bool) -> None:
    _log.warning(
        "The 90 %% intervals of %s were measured with other weights or regions of %s and are gone. Measure new ones: "
        "boneage-node calibrate --method %s --data DATA.",
        name,
        changed,
        name,
    )
    if alarm:
        _log.warning(
            "The alarm for a wrong sex of %s is gone with them. Measure it after the intervals: "
            "python -m training.sexes --method %s --data DATA --write.",
            name,
            name,
        )
