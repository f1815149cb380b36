"""``python -m training.familiarity``: teach a method's bundle what ordinary hands look like to its network.

Fits ``inference.familiarity`` to the films the weights were trained on, the sharp ones and as many of 100 x 100 pixels,
and writes it beside the weights. The limit is the QUANTILE of distances from one half to the other. Prints which share
of the validation part, which nothing here is fitted to, lies beyond the limit: false alarms, if these are ordinary.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from inference.bundle import bundles_folder, file_sha256, open_bundle
from inference.errors import BundleError, InferenceError
from inference.familiarity import DIMENSIONS, FILE, QUANTILE, Familiarity
from inference.house import HouseMethod
from inference.method import AGE_WEIGHTS, DEFAULT_METHOD, open_method
from training.ages import LocatedFilm, sample, stack_inputs
from training.arguments import add_threads, first_line
from training.bundle_intervals import refuse_others, weights_of
from training.errors import DataError, TrainingError, exit_code
from training.films import locate_all
from training.radiographs import load_half, load_small
from training.storage import check_writable, write_bytes, write_text

_log = logging.getLogger(__name__)

LEAST_FILMS = 100
"""Of fewer films the QUANTILE is the farthest one's distance: chance would say what is strange."""
SEED = 2026
_SHRINKAGE = 0.05
"""Share of a place's mean variance that is added to every variance there: no direction counts as impossible."""
_BATCH = 32


def fit(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return each place's mean (P, D) and a root (P, D, D) of its precision, from features (N, P, D)."""
    mean = features.mean(0)
    centred = features - mean
    covariance = torch.einsum("npi,npj->pij", centred, centred) / len(features)
    floor = _SHRINKAGE * torch.diagonal(covariance, dim1=1, dim2=2).mean(1) + 1e-6
    covariance = covariance + floor[:, None, None] * torch.eye(features.shape[2], dtype=features.dtype)
    return mean, torch.linalg.cholesky(torch.linalg.inv(covariance))


def distances(features: Tensor, described: tuple[Tensor, Tensor]) -> Tensor:
    """Return distances (N,) of features (N, P, D) from a description by :func:`fit`."""
    mean, root = described
    return torch.einsum("npi,pij->npj", features - mean, root).square().mean((1, 2))


def describe(maps: Tensor, seed: int = SEED) -> Familiarity:
    """Describe ordinary films' maps (N, channels, rows, columns)."""
    generator = torch.Generator().manual_seed(seed)
    module = Familiarity(maps.shape[1])
    directions = torch.linalg.qr(torch.randn(maps.shape[1], maps.shape[1], generator=generator))[0]
    module.projection.copy_(directions[:, :DIMENSIONS])
    features = module.features(maps).double()
    order = torch.randperm(len(features), generator=generator)
    halves = features[order[::2]], features[order[1::2]]
    across = torch.cat([distances(halves[1], fit(halves[0])), distances(halves[0], fit(halves[1]))])
    mean, root = fit(features)
    module.mean.copy_(mean)
    module.root.copy_(root)
    module.limit.fill_(float(torch.quantile(across, QUANTILE)))
    return module


def middle_maps(method: HouseMethod, folder: Path, films: list[LocatedFilm]) -> Tensor:
    """Return the middle maps of the first network's trunk, of films as the node prepares them."""
    net = method.make_plain_net()
    net.load_state_dict(open_bundle(method.name, folder).read_weights(AGE_WEIGHTS))
    net.eval()
    maps = []
    with torch.inference_mode():
        for start in range(0, len(films), _BATCH):
            images, *_ = stack_inputs([sample(film, method, None) for film in films[start : start + _BATCH]])
            maps.append(net.trunk.features(images)[0])
    return torch.cat(maps)


def write(folder: Path, module: Familiarity) -> None:
    """Write it into a bundle's folder, with its hash, and have the bundle use it.

    The old hash goes first: a kill in between leaves a bundle that opens, and the same command goes through.
    """
    path = folder / "models" / FILE
    _describe(folder, None)
    write_bytes({path: save({name: buffer.contiguous() for name, buffer in module.state_dict().items()})})
    _describe(folder, file_sha256(path))


def _describe(folder: Path, sha256: str | None) -> None:
    """Have a bundle's description use a fit of this hash; None has it use none."""
    metadata_path, config_path = folder / "configs" / "metadata.json", folder / "configs" / "inference.json"
    metadata, config = json.loads(metadata_path.read_text()), json.loads(config_path.read_text())
    others = {name: one for name, one in metadata["weights_sha256"].items() if name != FILE}
    metadata["weights_sha256"] = others if sha256 is None else dict(sorted((others | {FILE: sha256}).items()))
    config["familiarity"] = config["network_def"]["config"]["familiarity"] = sha256 is not None
    first, second = (metadata_path, metadata), (config_path, config)
    for file, table in (second, first) if sha256 is None else (first, second):
        write_text(file, json.dumps(table, indent=2) + "\n")


def check_enough(ordinary: list[LocatedFilm], others: list[LocatedFilm]) -> None:
    """Refuse too few films to fit to, and none to try the fit on.

    Raises
    ------
    DataError
        If fewer than LEAST_FILMS have a hand, or no validation film has.
    """
    if len(ordinary) < LEAST_FILMS or not others:
        raise DataError(
            f"What ordinary hands look like takes {LEAST_FILMS} training films with a hand and a validation film; "
            f"there are {len(ordinary)} and {len(others)}. Without a fit the method warns of no strange hand."
        )


def _films(data: Path, cache: Path | None) -> tuple[list[LocatedFilm], list[LocatedFilm]]:
    sharp = locate_all(load_half(data, ["train"]), cache)
    small = locate_all(load_small(data, ["pretrain"]), cache)
    chosen = np.random.default_rng(SEED).choice(len(small), min(len(sharp), len(small)), replace=False)
    return sharp + [small[place] for place in chosen], locate_all(load_half(data, ["validation"]), cache)


def main(argv: list[str] | None = None) -> int:
    """Fit and write; returns 0, 1 when the bundle cannot be opened, 2 when the data cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m training.familiarity", description=first_line(__doc__))
    parser.add_argument("--data", type=Path, required=True, help="the data folder (rsna2017/)")
    parser.add_argument("--method", default=DEFAULT_METHOD, help=f"whose bundle (default {DEFAULT_METHOD})")
    parser.add_argument("--cache", type=Path, help="folder that keeps where hands were found, as a run's does")
    add_threads(parser)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    try:
        method = open_method(arguments.method, open_bundle(arguments.method).config)
        if not isinstance(method, HouseMethod):
            raise BundleError(f"{arguments.method} does not tell how strange a hand looks; house does.")
        check_writable(bundles_folder() / arguments.method)
        weights = weights_of(arguments.method)
        ordinary, others = _films(arguments.data, arguments.cache)
        check_enough(ordinary, others)
        folder = bundles_folder()
        module = describe(middle_maps(method, folder, ordinary))
        beyond = module(middle_maps(method, folder, others)) > 1
        refuse_others(arguments.method, weights)
        write(folder / arguments.method, module)
    except (TrainingError, InferenceError) as error:
        return exit_code(error)
    share = float(beyond.double().mean())
    print(f"{len(ordinary)} films; of {len(others)} validation films {share:.1%} beyond the limit")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
