"""Batch normalisation made to fit weights that are stored in few bits (Nagel et al., ICCV 2019, section 4.2).

Rounded weights shift the mean and the variance of every map a little, each layer adds its own shift, and the statistics
that were learned with the exact weights fit no more. Here both networks see the same films, and from the first layer to
the last the statistics of the rounded one are moved by what its maps differ by.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from inference.method import AgeMethod, open_method, weight_files_of
from inference.quantised import unpack
from training.ages import males, sample, stack_inputs
from training.errors import RunError
from training.films import locate_all
from training.radiographs import load_half, load_small

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 2026
_FILMS = 160
"""Of each kind, sharp and small, half as many; all pass a network at once."""
_FLOOR = 1e-5
"""Added to variances before they are compared: a map of one grey has none."""
_MOST = 4.0
"""A variance grows or shrinks by no more: beyond it a map holds next to nothing."""

Weights = dict[str, dict[str, Tensor]]
"""Tensors by name, of each weight file of a bundle."""
_Moments = tuple[Tensor, Tensor]


def settle(rounded: nn.Module, exact: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Move the running statistics of ``rounded``, so that its normalised maps are distributed as those of ``exact``.

    Parameters
    ----------
    rounded, exact
        The same network with weights as they are stored and as they were; both are put into evaluation.
    inputs
        What both are called with: a batch of ordinary films.
    """
    wanted: dict[str, _Moments] = {}
    with torch.no_grad(), _before_norms(exact, lambda name, _, maps: wanted.update({name: _moments(maps)})):
        exact.eval()(*inputs)

    def move(name: str, norm: nn.BatchNorm2d, maps: Tensor) -> None:
        mean, variance = _moments(maps)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        ratio = ((variance + _FLOOR) / (wanted[name][1] + _FLOOR)).clamp(1 / _MOST, _MOST)
        norm.running_mean.copy_(mean - (wanted[name][0] - norm.running_mean) * ratio.sqrt())
        norm.running_var *= ratio

    # A norm is moved just before it is used, so that those behind it see maps that are right already.
    with torch.no_grad(), _before_norms(rounded, move):
        rounded.eval()(*inputs)


def _moments(maps: Tensor) -> _Moments:
    return maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)


@contextmanager
def _before_norms(net: nn.Module, see: Callable[[str, nn.BatchNorm2d, Tensor], None]) -> Iterator[None]:
    """Call ``see`` with name, module and input of each batch normalisation, each time just before it runs."""
    norms = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def run(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
            assert isinstance(norm, nn.BatchNorm2d)
            see(name, norm, given[0])

        return run

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def ordinary_inputs(method: AgeMethod, data: Path) -> tuple[Tensor, ...]:
    """Return inputs and sexes of films trained on, drawn by a fixed seed, half sharp and half small if there are both.

    Raises
    ------
    DataError
        If the folder cannot be used.
    RunError
        If it has no film to train on with a hand.
    """
    films = [*load_half(data, ["train"], draw=draw), *load_small(data, ["pretrain"], draw=draw)]
    located = locate_all(films)
    if not located:
        raise RunError(f"{data} has no film to train on that shows a hand; see boneage-node data check --hands.")
    return (*stack_inputs([sample(film, method, None) for film in located]), males(located))


def draw(count: int) -> list[int]:
    """Return the places of the films taken from so many, in their order: the same each time."""
    return sorted(np.random.default_rng(SEED).permutation(count)[: _FILMS // 2].tolist())


def settled(name: str, config: dict[str, object], exact: Weights, stored: Weights, data: Path) -> Weights:
    """Return a method's weights with statistics that fit those that are stored; raises as :func:`ordinary_inputs`.

    Parameters
    ----------
    name, config
        The method and its configuration.
    exact, stored
        Its networks' files, as they are and in few bits.
    data
        The films.
    """
    method = open_method(name, config)
    prefixes = {file: prefix for file, prefix in weight_files_of(method).items() if file in exact}
    nets = [method.make_net(), method.make_net()]
    for net, weights in zip(nets, (exact, {file: unpack(tensors) for file, tensors in stored.items()}), strict=True):
        state = {prefix + key: value for file, prefix in prefixes.items() for key, value in weights[file].items()}
        net.load_state_dict(net.state_dict() | state)  # what tells strangeness is fitted after this
    settle(nets[1], nets[0], ordinary_inputs(method, data))
    moved = nets[1].state_dict()
    return {
        file: {
            key: moved[prefixes[file] + key] if file in prefixes and _is_statistic(key) else value
            for key, value in weights.items()
        }
        for file, weights in exact.items()
    }


def _is_statistic(key: str) -> bool:
    return key.endswith((".running_mean", ".running_var"))
