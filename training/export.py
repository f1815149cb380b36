"""``boneage-node export``: write MONAI bundles from runs: weights as half-precision safetensors, hashes, metadata.

``export detector [--finder RUN] [--landmarks RUN]``, ``export age --run RUN``, ``export regions --run RUN``, ``export
bones --palm RUN --detector RUN`` and ``export compact NAME`` write into the package's ``inference/bundles``. Model
cards are written by hand and stay; where weights change, the card gets their hashes and a mark that the rest is older.
Intervals and the alarm for a wrong sex go where ages are others (``training.bundle_intervals``).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save

from inference import familiarity
from inference.bundle import DETECTOR, bundles_folder, file_sha256, open_bundle, read_description
from inference.catalogue import names
from inference.errors import BundleError
from inference.global_local import REGIONS_FILE
from inference.house import HouseMethod, more_file
from inference.method import AGE_WEIGHTS, open_method
from inference.precise_baa import LOCALISER_FILE
from inference.quantised import EIGHT, SIX, pack
from training.arguments import first_line
from training.bundle_card import card_of, fill_metadata, mark_stale
from training.bundle_intervals import DETECTOR_KEYS, drop_intervals, makes_ages, read_with
from training.bundle_terms import are_own, described, terms_by_file
from training.errors import RunError, TrainingError
from training.recipe import Recipe, RegionRecipe, in_words
from training.run import read_about, read_run, unfinished
from training.settling import settled
from training.shipped import is_shipped, read_shipped
from training.storage import check_writable, make_folder, write_bytes, write_text
from training.terms import RSNA_TERMS

_log = logging.getLogger(__name__)

VERSION = "0.1.0"
_HALF_STEP = 2.0**-24
"""The least step of half precision, by which batch normalisation's smallest variances are rounded: its epsilons are a
hundred times as large or more."""
_LEAST_IN_FEW_BITS = {EIGHT: 4096, SIX: 512}
"""Numbers a tensor must have to be stored in few bits."""


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write weights as safetensors, floating point at half precision except batch-norm statistics and other vectors.

    Raises
    ------
    RunError
        As :func:`training.storage.writing`; the file that was there stays.
    """
    write_bytes({path: _halved(weights)})


def _halved(weights: dict[str, torch.Tensor]) -> bytes:
    return _content({key: _at_half_precision(value) for key, value in weights.items()})


def _at_half_precision(value: torch.Tensor) -> torch.Tensor:
    return value.half() if value.is_floating_point() and value.ndim > 1 else value


def _content(tensors: dict[str, torch.Tensor]) -> bytes:
    return bytes(save({key: value.contiguous() for key, value in tensors.items()}))


def in_few_bits(weights: dict[str, torch.Tensor], bits: int) -> dict[str, torch.Tensor]:
    """Store the large ones of some weights in 8 or 6 bits (``inference.quantised``).

    What has fewer than two axes or too few numbers stays as :func:`save_weights` has it; vectors beside 6 bits take
    half precision where that rounds none of them by more than a thousandth, or by half of the least step there is.
    """
    tensors: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        if value.is_floating_point() and value.ndim > 1 and value.numel() >= _LEAST_IN_FEW_BITS[bits]:
            tensors |= pack(key, value, bits)
        elif bits == SIX and value.is_floating_point() and _fits_half(value):
            tensors[key] = value.half()
        else:
            tensors[key] = _at_half_precision(value)
    return tensors


def _fits_half(value: torch.Tensor) -> bool:
    return torch.allclose(value.half().float(), value, rtol=1e-3, atol=_HALF_STEP / 2)


_NETWORKS = "model*.safetensors"
_ORIGIN = ("revision", "versions", "seed", "data_sha256", "detector_sha256", "device", "half_precision", "more")
"""What a bundle tells of the run it comes from."""


def write_metadata(
    folder: Path,
    name: str,
    description: str,
    config: dict[str, Any],
    *,
    origin: dict[str, Any] | None = None,
    terms: Mapping[str, str] | None = None,
    unconverged: str | None = None,
    keep_intervals: bool = False,
) -> None:
    """Write ``metadata.json`` (with the hashes of the weight files as they lie there) and ``inference.json``.

    ``origin`` is the content of ``run.json``, ``unconverged`` says how far training got that did not converge; without
    both, what the metadata said of their origin and of that stays. ``terms`` are those of the weight files that are
    new; age networks of other films than RSNA's get a version of their own, too. A card of other weights is marked as
    such. Where ages are read with other weights or settings than before, intervals go, unless ``keep_intervals`` says
    that ages hardly changed.
    """
    configs = folder / "configs"
    make_folder(configs)
    hashes = {path.name: file_sha256(path) for path in sorted((folder / "models").glob("*.safetensors"))}
    path = configs / "metadata.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    training = _origin(origin) if origin else before.get("training")
    mark = {"converged": False, "convergence": unconverged} if unconverged else {}
    if not origin and not mark:
        mark = {key: before[key] for key in ("converged", "convergence") if key in before}
    by_file = terms_by_file(before, hashes, terms or {})
    own = f"+own.{hashes[AGE_WEIGHTS][:8]}" if origin and are_own(by_file) else ""
    metadata = {
        "version": VERSION + own if origin else before.get("version", VERSION),
        "name": name,
        "description": description,
        "task": "Paediatric bone age from hand radiographs",
        "authors": "The boneage-node authors",
        "copyright": "Apache-2.0 for the code; see data_terms for the weights",
        **described(by_file),
        "intended_use": "Research use only, not for diagnosis",
        "monai_version": "1.5",
        "pytorch_version": "2.6",
        **({"training": training} if training else {}),
        **mark,
        "weights_sha256": hashes,
    }
    inference = configs / "inference.json"
    config_before = json.loads(inference.read_text()) if inference.exists() else {}
    hashes_before = before.get("weights_sha256", {})
    if not keep_intervals and makes_ages(hashes_before, config_before) != makes_ages(hashes, config):
        drop_intervals(folder)  # before the new hashes are there: a node that reads in between refuses the weights
    write_text(path, json.dumps(metadata, indent=2) + "\n")
    write_text(inference, json.dumps(config, indent=2) + "\n")
    if card_of(folder).is_file():
        fill_metadata(card_of(folder))
        if read_with(hashes_before, config_before) != read_with(hashes, config):
            mark_stale(card_of(folder))
            _log.warning("The card of %s is of other weights now and says so: write it anew.", folder.name)


def export_detector(finder: Path | None, landmarks: Path | None) -> Path:
    """Write the detector's bundle and return its folder; a net without a run keeps the weights it has.

    Where they are others than before, the intervals of all methods that read with it go.

    Raises
    ------
    RunError
        If there is no run at all, or one trained something else or has no weights yet; the bundle stays as it is then.
    """
    given = {"finder": finder, "landmarks": landmarks}
    runs = {target: run for target, run in given.items() if run is not None}
    if not runs:
        raise RunError("Name a run of a detector's net: --finder RUN, --landmarks RUN, or both.")
    abouts = {f"{target}.safetensors": _read_run_of(target, run) for target, run in runs.items()}
    folder, weights = bundles_folder() / DETECTOR, map(_read_detectors, runs.values())
    write_bytes({folder / "models" / file: _halved(state) for file, state in zip(abouts, weights, strict=True)})
    terms = {file: _terms(about) for file, about in abouts.items()}
    config = {
        "finder": {"_target_": "inference.detector.make_finder"},
        "landmarks": {"_target_": "inference.detector.make_landmark_net"},
    }
    description = "Finds hands in any pose and the 18 regions of interest."
    write_metadata(folder, "Hand and ROI detector", description, config, terms=terms)
    return folder


def _read_run_of(target: str, run: Path) -> dict[str, Any]:
    """Return what a run says of itself; one that trained another net is refused."""
    about = read_about(run)
    if about.get("target") != target:
        raise RunError(f"{run} trained {about.get('target')}, not {target}; name a run of {target}.")
    return about


def _read_detectors(run: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a detector's run; warn where it has not ended, which no mark in a bundle tells."""
    weights = read_run(run)
    if (done := unfinished(run)) is not None:
        _log.warning("%s has not ended: the weights are those after %s. Export it again when it has.", run, done)
    return weights


_DESCRIPTIONS = {
    "2m-net": "2M-Net of Liu et al., Quant Imaging Med Surg 2024 (qims-23-806): one ResNet-18 with attention per sex.",
    "ala-net": "ALA-Net of Wang et al., MICCAI 2020: ResNet-50, its own 17 regions, ordinal regression.",
    "global-local": "Global-local fusion network of Hui et al., Appl. Sci. 2022, 12, 7218.",
    "precise-baa": "Precise-BAA of Jia et al. 2022: stages of 13 bones, derived from ages; age by RUS-CHN's curve.",
    "unsupervised-mobilenet": "MobileNetV3-Large with the sex beside its features, of Li et al. 2021.",
    "house": "EfficientNet-Lite on the upright, equalised hand, with the sex as a late input.",
}


def export_age(run: Path, *, more: Sequence[Path] = (), unconverged: str | None = None) -> Path:
    """Write the bundle of a run's age method and return its folder; ``boneage-node calibrate`` adds the intervals.

    ``more`` are runs of further networks of ``house``, whose answers it averages. ``shipped:2`` stands for a shipped
    network, as ``run``, too (:mod:`training.shipped`).

    What was fitted to other weights goes, and a warning names the command that measures it anew: intervals, the alarm
    for a wrong sex, and what ``training.familiarity`` fitted. Where the weights are the same, it stays.

    ``unconverged`` says how far a training got that did not converge; a run that has not ended its recipe is marked by
    itself, one of ``more``, too. Where a mark goes, a warning says so.

    Raises
    ------
    RunError
        If a run trained something else, or has no weights yet.
    """
    first, *others = networks = [_read_network(one) for one in (run, *more)]
    config, folder = first.method | _more_networks(networks), bundles_folder() / first.target
    files = (AGE_WEIGHTS, *map(more_file, range(len(more))))
    _replace_networks(folder / "models", dict(zip(files, (one.read() for one in networks), strict=True)))
    terms = dict(zip(files, (_terms(one.about) for one in networks), strict=True))
    config |= _familiarity(folder, same=_networks(folder) == _described_networks(folder))
    unfinished_ones = (f"{file}: {one.unfinished}" for file, one in zip(files, networks, strict=True) if one.unfinished)
    mark = unconverged or ("; ".join(unfinished_ones) if more else first.unfinished) or None
    metadata = folder / "configs" / "metadata.json"
    if mark is None and metadata.is_file() and not json.loads(metadata.read_text()).get("converged", True):
        _log.warning(
            "%s is no longer marked as unconverged; if it still is, export it with --unconverged.", folder.name
        )
    origin = first.about | ({"more": [_origin(other.about) for other in others]} if others else {})
    _describe(folder, config | _own_detector(folder), origin, mark, terms=terms)
    return folder


def _networks(folder: Path) -> dict[str, str]:
    """Return the hashes of the age networks that lie in a bundle."""
    return {path.name: file_sha256(path) for path in (folder / "models").glob(_NETWORKS)}


def _described_networks(folder: Path) -> dict[str, str]:
    """Return the hashes of the age networks that a bundle's description is of: an export may have been killed since."""
    metadata = folder / "configs" / "metadata.json"
    hashes = json.loads(metadata.read_text()).get("weights_sha256", {}) if metadata.is_file() else {}
    return {name: sha256 for name, sha256 in hashes.items() if fnmatch(name, _NETWORKS)}


def _replace_networks(models: Path, networks: dict[str, dict[str, torch.Tensor]]) -> None:
    """Write a bundle's age networks and take away the others; a disk that is full leaves those that are there."""
    write_bytes({models / file: _halved(state) for file, state in networks.items()})
    for old in models.glob(_NETWORKS):
        if old.name not in networks:
            old.unlink()


def _familiarity(folder: Path, *, same: bool) -> dict[str, Any]:
    """Return what a configuration says of the fit of familiar hands, which goes where the weights are not the same."""
    fitted = folder / "models" / familiarity.FILE
    if not fitted.is_file():
        return {}
    if same:
        return {"familiarity": True}
    fitted.unlink()
    _log.warning("The fit of familiar hands is gone with the old weights: run python -m training.familiarity.")
    return {}


@dataclass(frozen=True, slots=True, eq=False)
class _Network:
    """What goes into a bundle of one age network."""

    target: str
    method: dict[str, Any]
    read: Callable[[], dict[str, torch.Tensor]]
    """Reads its weights; raises RunError if there are none yet."""
    about: dict[str, Any]
    """Of its ``run.json``."""
    unfinished: str | None = None


def _read_network(run: Path) -> _Network:
    if is_shipped(run):
        shipped = read_shipped(run)
        return _Network(HouseMethod.name, shipped.method, lambda: shipped.weights, shipped.about)
    about = read_about(run)
    if "phases" not in about.get("recipe", {}):
        raise RunError(f"{run} trained {about.get('target')}, no age method; export it with export detector.")
    try:
        recipe = Recipe.model_validate(about["recipe"])
    except ValidationError as error:
        raise RunError(f"{run} has a recipe that is none any more ({in_words(error)}); train again.") from error
    return _Network(recipe.target, recipe.method, partial(read_run, run), about, unfinished(run))


def _more_networks(networks: list[_Network]) -> dict[str, Any]:
    """Return what a configuration says of the networks besides the first."""
    _, *others = networks
    if not others:
        return {}
    if any(one.target != HouseMethod.name for one in networks):
        raise RunError("Only house is read with several networks; name an ensemble's members house+ala-net instead.")
    methods = [open_method(one.target, one.method) for one in networks]
    if len({method.equalise for method in methods if isinstance(method, HouseMethod)}) > 1:
        raise RunError("Networks that are read together must all be equalised, or none; leave one out.")
    return {"more": [{key: one.method[key] for key in ("rows", "columns", "variant")} for one in others]}


def _origin(about: dict[str, Any]) -> dict[str, Any]:
    return {key: about[key] for key in _ORIGIN if key in about}


def _terms(about: dict[str, Any]) -> str:
    return str(about.get("data_terms", RSNA_TERMS))


def _describe(
    folder: Path,
    method: dict[str, Any],
    about: dict[str, Any] | None,
    unconverged: str | None = None,
    *,
    terms: Mapping[str, str] | None = None,
    keep_intervals: bool = False,
) -> None:
    name = folder.name
    # What MONAI's ConfigParser instantiates; the node itself opens the method by its name.
    network = {"_target_": "inference.method.make_net", "name": name, "config": method}
    config = method | {"network_def": network}
    write_metadata(
        folder,
        f"Bone age, {name}",
        _DESCRIPTIONS[name],
        config,
        origin=about,
        terms=terms,
        unconverged=unconverged,
        keep_intervals=keep_intervals,
    )


def _own_detector(folder: Path) -> dict[str, Any]:
    """Return what a bundle's configuration says of the method's own detector, if it has one's weights."""
    if not any((folder / "models" / file).is_file() for file in (REGIONS_FILE, LOCALISER_FILE)):
        return {}
    config = json.loads((folder / "configs" / "inference.json").read_text())
    return {key: config[key] for key in ("localiser", *DETECTOR_KEYS) if key in config}


def export_regions(run: Path, *, use: bool) -> Path:
    """Write global-local's own detector into its bundle, which must be there, and return its folder.

    Parameters
    ----------
    run
        Of the recipe ``regions``.
    use
        Have the method take hand and regions from it (``localiser = "paper"``); intervals must be calibrated anew then.

    Raises
    ------
    RunError
        If the run trained something else, has no weights yet, or there is no bundle.
    """
    about = _read_run_of("regions", run)
    recipe = RegionRecipe.model_validate(about["recipe"])
    own = dict(zip(DETECTOR_KEYS, (recipe.width, recipe.depth, recipe.side), strict=True))
    return _add_localiser("global-local", REGIONS_FILE, _read_detectors(run), own, terms=_terms(about), use=use)


def export_bones(palm: Path, detector: Path, *, use: bool) -> Path:
    """Write precise-baa's own localiser into its bundle, which must be there, and return its folder.

    Parameters
    ----------
    palm, detector
        Runs of ``training.bones``.
    use
        As :func:`export_regions`.

    Raises
    ------
    RunError
        If a run is of another target or has no weights yet, the two differ in width, or there is no bundle.
    """
    runs = {"palm": palm, "detector": detector}
    abouts = {name: read_about(run) for name, run in runs.items()}
    targets = [about.get("target") for about in abouts.values()]
    if targets != list(runs):
        raise RunError(f"Runs of palm and detector are needed, in this order; these are {targets}.")
    widths = {about["width"] for about in abouts.values()}
    if len(widths) > 1:
        raise RunError(f"Palm net and detector must have one width, not {sorted(widths)}; train one of them again.")
    weights = {f"{name}.{key}": value for name, run in runs.items() for key, value in _read_detectors(run).items()}
    terms = " ".join(dict.fromkeys(map(_terms, abouts.values())))
    return _add_localiser(
        "precise-baa", LOCALISER_FILE, weights, {"detector_width": widths.pop()}, terms=terms, use=use
    )


def _add_localiser(
    name: str, file: str, weights: dict[str, torch.Tensor], own: dict[str, Any], *, terms: str, use: bool
) -> Path:
    folder = bundles_folder() / name
    path = folder / "configs" / "inference.json"
    if not path.is_file():
        raise RunError(f"{name} has no bundle here; train and export it first.")
    save_weights(weights, folder / "models" / file)
    before, localiser = _read_method(path), "paper" if use else "shared"
    _describe(folder, before | own | {"localiser": localiser}, None, terms={file: terms})
    return folder


def _read_method(inference: Path) -> dict[str, Any]:
    """Read a method's configuration from its bundle's ``inference.json``."""
    return {key: value for key, value in json.loads(inference.read_text()).items() if key != "network_def"}


def export_compact(name: str, bits: int = EIGHT, data: Path | None = None) -> Path:
    """Store a method's weights in few bits and return its folder; figures must be measured anew then.

    8 bits take half the room of half precision, 6 bits three eighths; the weights of its own detector, too. Intervals
    stay: ages change by tenths of a month.

    Parameters
    ----------
    name
        The method's.
    bits
        8 or 6. What is stored in 6 already gains nothing by 8.
    data
        Films to fit batch normalisation to the rounded weights with (``training.settling``); without, it stays.

    Raises
    ------
    RunError
        If the method has no whole bundle.
    RunError, DataError
        As :func:`training.settling.ordinary_inputs`.
    """
    try:
        bundle = open_bundle(name, bundles_folder())
    except BundleError as error:
        raise RunError(str(error)) from error
    models = bundle.folder / "models"
    networks = sorted(models.glob(_NETWORKS))
    if not networks:
        raise RunError(f"{name} has no weights of its own; name one of its members.")
    paths = (*networks, *filter(Path.is_file, (models / REGIONS_FILE, models / LOCALISER_FILE)))
    config = _read_method(bundle.folder / "configs" / "inference.json")
    weights = {path.name: bundle.read_weights(path.name) for path in paths}
    if data is not None:
        exact = {path.name: weights[path.name] for path in networks}
        stored = {file: in_few_bits(tensors, bits) for file, tensors in exact.items()}
        weights |= settled(name, config, exact, stored, data)
    write_bytes({path: _content(in_few_bits(weights[path.name], bits)) for path in paths})
    _describe(bundle.folder, config, None, keep_intervals=True)
    _log.warning(
        "The ages of %s change by tenths of a month, and its intervals are of the weights before: run boneage-node "
        "calibrate --method %s --data DATA, then boneage-node evaluate.",
        name,
        name,
    )
    return bundle.folder


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="boneage-node export", description=first_line(__doc__))
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    detector = kinds.add_parser("detector", help="the hand detector; a net without a run keeps the weights it has")
    detector.add_argument("--finder", type=Path, metavar="RUN", help="a run of boneage-node train finder")
    detector.add_argument("--landmarks", type=Path, metavar="RUN", help="a run of boneage-node train landmarks")
    ages = kinds.add_parser("age", help="an age method")
    ages.add_argument(
        "--run", type=Path, required=True, help="its run's folder; a network of the shipped house is shipped:2"
    )
    ages.add_argument(
        "--more",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="a further network of house, read beside the first; again for each",
    )
    ages.add_argument(
        "--unconverged", metavar="WORDS", help="mark the weights so: how far training got, such as '24 of 60 epochs'"
    )
    regions = kinds.add_parser("regions", help="global-local's own detector, beside its weights")
    regions.add_argument("--run", type=Path, required=True, help="a run of boneage-node train regions")
    bones = kinds.add_parser("bones", help="precise-baa's own palm net and detector, beside its weights")
    bones.add_argument("--palm", type=Path, required=True, metavar="RUN", help="of python -m training.bones palm")
    bones.add_argument(
        "--detector", type=Path, required=True, metavar="RUN", help="of python -m training.bones detector"
    )
    for own in (regions, bones):
        own.add_argument("--use", action="store_true", help="have the method read with it (then calibrate anew)")
    compact = kinds.add_parser("compact", help="a method's weights in 8 or 6 bits (then measure anew)")
    compact.add_argument("name", metavar="NAME")
    compact.add_argument("--bits", type=int, choices=(EIGHT, SIX), default=EIGHT, help="default 8")
    compact.add_argument(
        "--data", type=Path, help="the training films: fit batch normalisation to the rounded weights with some of them"
    )
    return parser


def _refuse_torn(root: Path) -> None:
    """Refuse an export beside a bundle whose description is torn: what hangs on the new weights could not be told."""
    for name in names(root):
        try:
            read_description(root / name)
        except BundleError as error:
            raise RunError(
                f"{error} Or move {root / name} away. Until then nothing is exported: which intervals hang on other "
                "weights is not known."
            ) from error


def _carry_out(arguments: argparse.Namespace) -> Path:
    if arguments.kind == "detector":
        return export_detector(arguments.finder, arguments.landmarks)
    if arguments.kind == "regions":
        return export_regions(arguments.run, use=arguments.use)
    if arguments.kind == "bones":
        return export_bones(arguments.palm, arguments.detector, use=arguments.use)
    if arguments.kind == "compact":
        return export_compact(arguments.name, arguments.bits, arguments.data)
    return export_age(arguments.run, more=arguments.more, unconverged=arguments.unconverged)


def main(argv: list[str] | None = None) -> int:
    """Export; returns 0, or 2 when a run's folder cannot be used, or the bundle's cannot be written to."""
    arguments = make_parser().parse_args(argv)
    try:
        check_writable(bundles_folder())
        _refuse_torn(bundles_folder())
        folder = _carry_out(arguments)
    except TrainingError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return 2
    for path in sorted((folder / "models").iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")  # noqa: T201 - a command's answer
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
