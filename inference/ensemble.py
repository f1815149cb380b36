"""Several methods as one: the weighted mean of their ages. An ensemble is a bundle that names its members.

Such a bundle has no weights of its own. Its ``metadata.json`` holds, beside name and version,
``"members": {"global-local": 0.4, "house": 0.6}`` (positive weights, taken relative to their sum) and an empty
``weights_sha256``; its ``calibration.json`` holds its own intervals, since a mean errs less than its members do. The
hash in its identity is over the members' names, weights and hashes, so a report names exactly what made it. It is
chosen by its name, like any method. ``python -m training.ensemble`` writes one. Ensembles of equal weights need none:
``inference.named_ensemble``.

Stages of bones are not averaged: an ensemble gives none. Its own estimate of the sex is the mean of the log odds of
those members that give one, its strangeness the largest that one gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inference.bundle import Bundle, open_bundle
from inference.engine import AgeNetwork, Reading, SexedHand
from inference.errors import BundleError

if TYPE_CHECKING:
    from torch import device

    from inference.torch_backend import Form


class Ensemble:
    """The weighted mean of several networks.

    Parameters
    ----------
    members
        Networks with their weights, which need not add up to one.
    """

    def __init__(self, members: Sequence[tuple[AgeNetwork, float]]) -> None:
        total = sum(weight for _, weight in members)
        self._members = [(network, weight / total) for network, weight in members]

    def read(self, hands: Sequence[SexedHand]) -> list[Reading]:
        """Return one reading a hand; see :class:`inference.engine.AgeNetwork`."""
        readings = [network.read(hands) for network, _ in self._members]
        weights = [weight for _, weight in self._members]
        return [_mean(of_one, weights) for of_one in zip(*readings, strict=True)]


def _mean(readings: Sequence[Reading], weights: Sequence[float]) -> Reading:
    age = sum(reading.age_months * weight for reading, weight in zip(readings, weights, strict=True))
    logits = [reading.male_logit for reading in readings if reading.male_logit is not None]
    strange = [reading.strangeness for reading in readings if reading.strangeness is not None]
    return Reading(
        age,
        male_logit=sum(logits) / len(logits) if logits else None,
        strangeness=max(strange) if strange else None,
    )


def read_members(bundle: Bundle) -> dict[str, float]:
    """Return the members' weights by name; empty for a bundle of one method.

    Raises
    ------
    BundleError
        If there are fewer than two, or a weight is no positive number.
    """
    members = bundle.metadata.get("members")
    if members is None:
        return {}
    try:
        weights = {str(name): float(weight) for name, weight in members.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise BundleError(f"The members of {bundle.folder.name!r} hold no weights by name; write it again.") from error
    if len(weights) < 2 or not all(0 < weight < float("inf") for weight in weights.values()):
        raise BundleError(f"{bundle.folder.name!r} needs two members or more with positive weights; write it again.")
    return weights


def combined_sha256(weights: Mapping[str, float], members: Mapping[str, Bundle]) -> str:
    """Return the hash that stands for an ensemble in reports, 64 hex digits: over names, weights and hashes."""
    lines = (f"{member} {weights[member]}:{members[member].weights_sha256}\n" for member in sorted(weights))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_network(
    name: str, bundle: Bundle, where: device, folder: Path | None = None, form: Form = "eager"
) -> tuple[AgeNetwork, str]:
    """Return the network of a method or ensemble and the hash that stands for its weights.

    Raises
    ------
    BundleError
        If a member has no bundle, is an ensemble itself, or its weights do not fit.
    """
    from inference.torch_backend import TorchAgeNetwork

    weights = read_members(bundle)
    if not weights:
        return TorchAgeNetwork(name, bundle, where, form), bundle.weights_sha256
    opened = {member: open_bundle(member, folder) for member in sorted(weights)}
    for member, one in opened.items():
        if read_members(one):
            raise BundleError(f"Ensemble {name!r} has the ensemble {member!r} as a member; name its methods instead.")
    networks = [(TorchAgeNetwork(member, one, where, form), weights[member]) for member, one in opened.items()]
    return Ensemble(networks), combined_sha256(weights, opened)
