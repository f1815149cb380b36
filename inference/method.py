"""What an age method is to the rest of the house: how it cuts a hand out, its network, and what that answers.

Training, evaluation and the node all go through :func:`open_method`, so a method is prepared in one way everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from inference.errors import BundleError
from inference.pose import Pose

if TYPE_CHECKING:
    from torch import Tensor, nn

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]


class Prediction(NamedTuple):
    """What a network answers for N hands; what a method does not give is None."""

    age_months: Tensor
    """Shape (N,), months."""
    male_logit: Tensor | None = None
    """Shape (N,): the network's own estimate of the sex, from the film alone, as log odds of male."""
    log_density: Tensor | None = None
    """Shape (N, bins): log-probabilities of age bins one month wide, from 0 months on."""
    extras: dict[str, Tensor] | None = None
    """What only the method itself and its loss know of, by names that the method's module lists."""
    stages: Tensor | None = None
    """Shape (N, 13, 15): probabilities of the maturity stages of ``inference.anatomy.RUS_NAMES``, derived, not read."""
    strangeness: Tensor | None = None
    """Shape (N,): how far the hand lies from ordinary ones, 1 at the limit; see ``inference.familiarity``."""


AGE_WEIGHTS = "model.safetensors"
"""The file in a bundle's ``models`` that holds the age network, of several read together the first one."""
WEIGHTS = {AGE_WEIGHTS: ""}
"""The one weight file of most methods, with the prefix of its names in the network's state."""


class AgeMethod(Protocol):
    """One method with the configuration of its bundle.

    ``make_net`` gives a module that is called with the inputs of ``prepare`` (each with a batch axis in front, as
    float32 of -1..1; (rows, columns) inputs with a channel axis, too) and ``male`` (N,), +1 or -1, and answers with a
    :class:`Prediction`.
    """

    name: str

    def make_net(self) -> nn.Module:
        """Return the network with fresh weights."""
        ...

    def prepare(self, film: Grey, pose: Pose, centres: Float) -> tuple[Grey, ...]:
        """Cut out what the network sees: uint8 images (rows, columns) or stacks of them (channels, rows, columns).

        ``film`` has bones bright, ``centres`` (18, 2) are the ROIs' in film pixels, as ``inference.anatomy.ROI_NAMES``.
        """
        ...


_MODULES = {
    "2m-net": "inference.two_m_net",
    "ala-net": "inference.ala_net",
    "global-local": "inference.global_local",
    "house": "inference.house",
    "precise-baa": "inference.precise_baa",
    "unsupervised-mobilenet": "inference.unsupervised_mobilenet",
}
"""Module of each method; it has a function ``open_method(config)``, and as ``KEYS`` what that reads."""


DEFAULT_METHOD = "house"
"""What the node, the demo and the commands use unless told otherwise."""


STAGE_METHODS = ("precise-baa",)
"""Methods that tell maturity stages; their reading can stand beside another method's age."""


def weight_files_of(method: AgeMethod) -> dict[str, str]:
    """Return the bundle's files that fill a method's network, each with the prefix of its names in the state.

    WEIGHTS, unless the method has ``weight_files`` of its own.
    """
    files: dict[str, str] = getattr(method, "weight_files", WEIGHTS)
    return files


def method_names() -> tuple[str, ...]:
    """Return the names of all methods this package implements, sorted."""
    return tuple(sorted(_MODULES))


def config_keys(name: str) -> tuple[str, ...]:
    """Return the keys that a method's configuration may have; a bundle's ``inference.json`` holds others besides."""
    keys: tuple[str, ...] = import_module(_MODULES[name]).KEYS
    return keys


def open_method(name: str, config: dict[str, Any]) -> AgeMethod:
    """Return a method by its name; ``config`` is the content of its bundle's ``inference.json`` (or its recipe's).

    Raises
    ------
    BundleError
        If there is no method of that name.
    """
    if name not in _MODULES:
        raise BundleError(f"There is no method named {name!r}; there are {', '.join(method_names())}.")
    opener: Callable[[dict[str, Any]], AgeMethod] = import_module(_MODULES[name]).open_method
    return opener(config)


def make_net(name: str, config: dict[str, Any]) -> nn.Module:
    """Return a method's network with fresh weights; bundles name this function as their ``network_def``."""
    return open_method(name, config).make_net()
