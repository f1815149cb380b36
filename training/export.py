"""``boneage-node export``: write MONAI bundles from runs: weights as half-precision safetensors, hashes, metadata.

``export detector [--finder RUN] [--landmarks RUN]``, ``export age --run RUN``, ``export regions --run RUN`` write into
the package's ``inference/bundles``; model cards are written by hand and stay.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from inference import familiarity
from inference.bundle import DETECTOR, bundles_folder, file_sha256
from inference.global_local import REGIONS_FILE
from training.errors import RunError, TrainingError
from training.recipe import Recipe, RegionRecipe
from training.run import read_about, read_run

VERSION = "0.1.0"
_DETECTOR_KEYS = ("detector_width", "detector_depth", "detector_side")

_TERMS = (
    "Trained on the RSNA Pediatric Bone Age Challenge 2017 films (Halabi et al., Radiology 2018;290:498-503): "
    "non-commercial research and education only. Not a medical device."
)


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write weights as safetensors, floating point at half precision except batch-norm statistics and other vectors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: (value.half() if value.is_floating_point() and value.ndim > 1 else value).contiguous()
        for key, value in weights.items()
    }
    save_file(tensors, path)
    path.chmod(0o644)  # safetensors writes files that only their owner may read


_ORIGIN = ("revision", "versions", "seed", "data_sha256", "detector_sha256", "device", "half_precision")
"""What a bundle tells of the run it comes from."""


def write_metadata(
    folder: Path, name: str, description: str, config: dict[str, Any], *, origin: dict[str, Any] | None = None
) -> None:
    """Write ``metadata.json`` (with the hashes of the weight files as they lie there) and ``inference.json``.

    ``origin`` is the content of ``run.json``; without it, what the metadata said of their origin stays.
    """
    configs = folder / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    hashes = {path.name: file_sha256(path) for path in sorted((folder / "models").glob("*.safetensors"))}
    path = configs / "metadata.json"
    before = json.loads(path.read_text()).get("training") if path.exists() else None
    training = {key: origin[key] for key in _ORIGIN if key in origin} if origin else before
    metadata = {
        "version": VERSION,
        "name": name,
        "description": description,
        "task": "Paediatric bone age from hand radiographs",
        "authors": "The boneage-node authors",
        "copyright": "Apache-2.0 for the code; see data_terms for the weights",
        "data_terms": _TERMS,
        "intended_use": "Research use only, not for diagnosis",
        "monai_version": "1.5",
        "pytorch_version": "2.6",
        **({"training": training} if training else {}),
        "weights_sha256": hashes,
    }
    path.write_text(json.dumps(metadata, indent=2) + "\n")
    (configs / "inference.json").write_text(json.dumps(config, indent=2) + "\n")


def export_detector(finder: Path | None, landmarks: Path | None) -> Path:
    """Write the detector's bundle and return its folder; a net without a run keeps the weights it has."""
    folder = bundles_folder() / DETECTOR
    for run, file in ((finder, "finder.safetensors"), (landmarks, "landmarks.safetensors")):
        if run is not None:
            save_weights(read_run(run), folder / "models" / file)
    config = {
        "finder": {"_target_": "inference.detector.make_finder"},
        "landmarks": {"_target_": "inference.detector.make_landmark_net"},
    }
    write_metadata(folder, "Hand and ROI detector", "Finds hands in any pose and the 18 regions of interest.", config)
    return folder


_DESCRIPTIONS = {
    "2m-net": "2M-Net of Liu et al., Quant Imaging Med Surg 2024 (qims-23-806): one ResNet-18 with attention per sex.",
    "ala-net": "ALA-Net of Wang et al., MICCAI 2020: ResNet-50, its own 17 regions, ordinal regression.",
    "global-local": "Global-local fusion network of Hui et al., Appl. Sci. 2022, 12, 7218.",
    "precise-baa": "Precise-BAA of Jia et al. 2022: stages of 13 bones, derived from ages; age by RUS-CHN's curve.",
    "unsupervised-mobilenet": "MobileNetV3-Large with the sex beside its features, of Li et al. 2021.",
    "house": "EfficientNet-Lite on the upright, equalised hand, with the sex as a late input.",
}


def export_age(run: Path) -> Path:
    """Write the bundle of a run's age method and return its folder; ``boneage-node calibrate`` adds the intervals.

    What ``training.familiarity`` fitted to other weights goes.

    Raises
    ------
    RunError
        If the run trained something else, or has no weights yet.
    """
    about = read_about(run)
    if "phases" not in about.get("recipe", {}):
        raise RunError(f"{run} trained {about.get('target')}, no age method; export it with export detector.")
    recipe = Recipe.model_validate(about["recipe"])
    folder = bundles_folder() / recipe.target
    save_weights(read_run(run), folder / "models" / "model.safetensors")
    (folder / "models" / familiarity.FILE).unlink(missing_ok=True)  # it described the weights there were before
    _describe(folder, recipe.method | _own_detector(folder), about)
    return folder


def _describe(folder: Path, method: dict[str, Any], about: dict[str, Any] | None) -> None:
    name = folder.name
    # What MONAI's ConfigParser instantiates; the node itself opens the method by its name.
    network = {"_target_": "inference.method.make_net", "name": name, "config": method}
    write_metadata(folder, f"Bone age, {name}", _DESCRIPTIONS[name], method | {"network_def": network}, origin=about)


def _own_detector(folder: Path) -> dict[str, Any]:
    """Return what a bundle's configuration says of the method's own detector, if it has one's weights."""
    if not (folder / "models" / REGIONS_FILE).is_file():
        return {}
    config = json.loads((folder / "configs" / "inference.json").read_text())
    return {key: config[key] for key in ("localiser", *_DETECTOR_KEYS) if key in config}


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
    about = read_about(run)
    if about.get("target") != "regions":
        raise RunError(f"{run} trained {about.get('target')}, not regions; export it with export age or detector.")
    folder = bundles_folder() / "global-local"
    path = folder / "configs" / "inference.json"
    if not path.is_file():
        raise RunError("global-local has no bundle here; train and export it first.")
    recipe = RegionRecipe.model_validate(about["recipe"])
    save_weights(read_run(run), folder / "models" / REGIONS_FILE)
    method = {key: value for key, value in json.loads(path.read_text()).items() if key != "network_def"}
    own = dict(zip(_DETECTOR_KEYS, (recipe.width, recipe.depth, recipe.side), strict=True))
    _describe(folder, method | own | {"localiser": "paper" if use else "shared"}, None)
    return folder


def main(argv: list[str] | None = None) -> int:
    """Export; returns 0, or 2 when a run's folder cannot be used."""
    parser = argparse.ArgumentParser(prog="boneage-node export", description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    detector = kinds.add_parser("detector", help="the hand detector; a net without a run keeps the weights it has")
    detector.add_argument("--finder", type=Path, metavar="RUN")
    detector.add_argument("--landmarks", type=Path, metavar="RUN")
    ages = kinds.add_parser("age", help="an age method")
    ages.add_argument("--run", type=Path, required=True)
    regions = kinds.add_parser("regions", help="global-local's own detector, beside its weights")
    regions.add_argument("--run", type=Path, required=True)
    regions.add_argument("--use", action="store_true", help="have the method read with it (then calibrate anew)")
    arguments = parser.parse_args(argv)
    try:
        if arguments.kind == "detector":
            folder = export_detector(arguments.finder, arguments.landmarks)
        elif arguments.kind == "regions":
            folder = export_regions(arguments.run, use=arguments.use)
        else:
            folder = export_age(arguments.run)
    except TrainingError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return 2
    for path in sorted((folder / "models").iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")  # noqa: T201 - a command's answer
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
