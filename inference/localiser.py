"""Where a method's regions come from: the shared hand detector, or the way its own paper finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from inference.errors import BundleError

if TYPE_CHECKING:
    from torch import nn

Localiser = Literal["shared", "paper"]


@runtime_checkable
class HasLocaliser(Protocol):
    """A method that can find its regions as its paper does, by nets with a weight file of their own in the bundle."""

    localiser: Localiser
    localiser_file: str

    def make_localiser(self) -> nn.Module:
        """Return what fills ``localiser_file``, with fresh weights."""
        ...

    def make_age_net(self) -> nn.Module:
        """Return what fills the bundle's first weight file, with fresh weights: the network without the localiser."""
        ...


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
