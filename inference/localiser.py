"""Where a method's regions come from: the shared hand detector, or the way its own paper finds them."""

from __future__ import annotations

from typing import Any, Literal, get_args

from inference.errors import BundleError

Localiser = Literal["shared", "paper"]


def read_localiser(config: dict[str, Any]) -> Localiser:
    """Read ``localiser`` of a method's configuration, "shared" where it is not there.

    Raises
    ------
    BundleError
        If there is no such localiser.
    """
    found = config.get("localiser", "shared")
    for known in get_args(Localiser):
        if found == known:
            localiser: Localiser = known
            return localiser
    raise BundleError(f"localiser = {found!r} is not known; choose one of {', '.join(get_args(Localiser))}.")
