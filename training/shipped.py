"""The weights this package ships, where a command otherwise takes those of a run: ``shipped``, ``shipped:3``."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from inference.bundle import DETECTOR, Bundle, open_bundle
from inference.errors import BundleError
from inference.global_local import REGIONS_FILE, GlobalLocalMethod
from inference.house import HouseMethod, more_file
from inference.method import AGE_WEIGHTS
from training.bundle_terms import terms_by_file
from training.detector import NETS
from training.errors import RunError

SHIPPED = Path("shipped")
"""Stands for a run's folder. ``shipped:3`` are the weights of the third network, where a method reads several together;
without a number, of the first that is of the net in question."""
_OF_A_NETWORK = ("rows", "columns", "variant", "equalise")
"""Keys of a configuration that each network of ``house`` has, or all have."""


@dataclass(frozen=True, slots=True, eq=False)
class ShippedNetwork:
    """One network of the shipped ``house``, as a run would have left it."""

    weights: dict[str, Tensor]
    method: dict[str, Any]
    """Its configuration, as a recipe's."""
    about: dict[str, Any]
    """What the bundle tells of the run it comes from."""


def is_shipped(place: Path) -> bool:
    """Return whether a path stands for weights that this package ships, and for no run's folder."""
    return place == SHIPPED or re.fullmatch(rf"{SHIPPED}:\d+", str(place)) is not None


def load_shipped(target: str, net: nn.Module, place: Path) -> None:
    """Fill a net from the shipped weights of a target: a method's, a detector's net or ``regions``.

    Raises
    ------
    RunError
        If none are shipped, they are of another size, or there is no network of this number.
    """
    bundle, files = _networks(target)
    for file in _numbered(place, target, files):
        with suppress(RuntimeError):
            net.load_state_dict(bundle.read_weights(file))
            return
    raise RunError(f"The shipped weights of {target} are those of another size; leave --init out or name a run.")


def read_shipped(place: Path) -> ShippedNetwork:
    """Read one network of the shipped ``house`` (the first without a number) to be read beside others.

    Raises
    ------
    RunError
        As :func:`load_shipped`.
    """
    bundle, files = _networks(HouseMethod.name)
    file = _numbered(place, HouseMethod.name, files)[0]
    number, config = files.index(file), bundle.config
    method = {key: config[key] for key in _OF_A_NETWORK if key in config}
    about = {key: value for key, value in bundle.metadata.get("training", {}).items() if key != "more"}
    if number:
        method |= config["more"][number - 1]
        about = bundle.metadata.get("training", {}).get("more", [{}] * number)[number - 1]
    terms = terms_by_file(bundle.metadata, files, {})[file]
    return ShippedNetwork(bundle.read_weights(file), method, about | {"data_terms": terms})


def terms_of_shipped(target: str, place: Path) -> str:
    """Return the terms of the weights that a place stands for: a site may have exported networks of its own films.

    Raises
    ------
    RunError
        As :func:`load_shipped`.
    """
    bundle, files = _networks(target)
    by_file = terms_by_file(bundle.metadata, files, {})
    return " ".join(dict.fromkeys(by_file[file] for file in _numbered(place, target, files)))


def _networks(target: str) -> tuple[Bundle, list[str]]:
    """Return the bundle and the files that a target's weights are shipped in, one for each network read together."""
    own = {"regions": (GlobalLocalMethod.name, REGIONS_FILE)} | {net: (DETECTOR, f"{net}.safetensors") for net in NETS}
    name, file = own.get(target, (target, AGE_WEIGHTS))
    try:
        bundle = open_bundle(name)
    except BundleError as error:
        raise RunError(f"No weights of {target} are shipped: {error}") from error
    if file not in bundle.metadata["weights_sha256"]:
        raise RunError(f"No weights of {target} are shipped; name a run's folder.")
    more = bundle.config.get("more", ()) if target == HouseMethod.name else ()
    return bundle, [file, *map(more_file, range(len(more)))]


def _numbered(place: Path, target: str, files: list[str]) -> list[str]:
    """Return the files that a place stands for."""
    _, _, number = str(place).partition(":")
    if not number:
        return files
    if not 1 <= int(number) <= len(files):
        raise RunError(f"There is no {place} of {target}; networks shipped: {len(files)}.")
    return [files[int(number) - 1]]
