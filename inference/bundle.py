"""MONAI bundles that ship with the node: metadata, configuration, weights as safetensors, model card. Loaded offline.

Layout of one bundle (docs.monai.io, "MONAI Bundle Specification")::

    <name>/configs/metadata.json      name, version, what goes in and out, data, terms, sha256 of every weight file;
                                      converged: false with convergence, how far it got, where training had no time
    <name>/configs/inference.json     the network's definition and the settings it was trained with
    <name>/configs/calibration.json   intervals (age methods only)
    <name>/models/*.safetensors       weights
    <name>/docs/README.md             model card
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import BundleError
from inference.method import method_names
from inference.quantised import unpack

if TYPE_CHECKING:
    from torch import Tensor

DETECTOR = "hand-detector"
"""The bundle that finds hands and ROIs for every method."""
SEPARATOR = "+"
"""Between the members' names of an ensemble that has no bundle of its own, see ``inference.named_ensemble``."""
UNCONVERGED = "-unconverged"
"""At the end of the version of weights whose training did not converge, so that every report says it."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One bundle's folder with its parsed configuration; the weight files have been checked against their hashes."""

    folder: Path
    metadata: dict[str, Any]
    config: dict[str, Any]
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Files of ``configs`` that lie nowhere, by name: what an ensemble by name has instead of a folder."""

    @property
    def unconverged(self) -> str | None:
        """How far its training got, where that did not converge (``converged`` is false in the metadata); else None."""
        if self.metadata.get("converged", True):
            return None
        return str(self.metadata.get("convergence", "how far it got is not recorded"))

    @property
    def version(self) -> str:
        """Version of the weights, with UNCONVERGED at its end where that is so."""
        return f"{self.metadata['version']}{'' if self.unconverged is None else UNCONVERGED}"

    @property
    def weights_sha256(self) -> str:
        """SHA-256 over the sorted hashes of all weight files, 64 hex digits."""
        hashes = sorted(self.metadata["weights_sha256"].items())
        return hashlib.sha256("".join(f"{name}:{value}\n" for name, value in hashes).encode()).hexdigest()

    def read_json(self, name: str) -> dict[str, Any]:
        """Read another file of ``configs``."""
        if name in self.tables:
            return dict(self.tables[name])
        content: dict[str, Any] = json.loads((self.folder / "configs" / name).read_text())
        return content

    def read_weights(self, name: str) -> dict[str, Tensor]:
        """Read a weight file as float32 tensors, also what is stored in few bits (``inference.quantised``)."""
        from safetensors.torch import load_file

        return unpack(load_file(self.folder / "models" / name))


def bundles_folder() -> Path:
    """Return the folder of the shipped bundles."""
    return Path(str(resources.files("inference").joinpath("bundles")))


def list_methods(folder: Path | None = None) -> list[str]:
    """Return the names of the age methods that have a bundle, sorted."""
    found = (folder or bundles_folder()).glob("*/configs/metadata.json")
    return sorted(path.parents[1].name for path in found if path.parents[1].name != DETECTOR)


def canonical_name(name: str) -> str:
    """Return the one name of an ensemble by name, its members sorted; any other name as it is."""
    return SEPARATOR.join(sorted(name.split(SEPARATOR)))


def open_bundle(name: str, folder: Path | None = None) -> Bundle:
    """Open a bundle and check its weight files; for ``a+b``, the ensemble of both.

    Raises
    ------
    BundleError
        If the bundle does not exist, its description cannot be read, or a weight file is missing or differs from its
        recorded hash.
    """
    root = (folder or bundles_folder()) / name
    metadata_path = root / "configs" / "metadata.json"
    if SEPARATOR in name and not metadata_path.is_file():
        from inference.named_ensemble import open_named  # it opens the members by this function

        return open_named(name, folder)
    if not metadata_path.is_file():
        installed = ", ".join(list_methods(folder)) or "none"
        if name in method_names():
            raise BundleError(f"Method {name!r} has no weights here: train and export it, or use one of: {installed}.")
        raise BundleError(f"There is no model bundle named {name!r}; installed are: {installed}.")
    metadata, config = read_description(root)
    for file, expected in metadata["weights_sha256"].items():
        path = root / "models" / file
        if not path.is_file():
            raise BundleError(f"Bundle {name!r} lacks its weight file {file}; install the package again.")
        try:
            sha256 = file_sha256(path)
        except OSError as error:
            raise BundleError(
                f"Weight file {file} of bundle {name!r} cannot be read ({error.strerror}); let this user read it."
            ) from error
        if sha256 != expected:
            raise BundleError(f"Weight file {file} of bundle {name!r} differs from its recorded hash; install again.")
    return Bundle(root, metadata, config)


def read_description(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a bundle's folder says of itself, ``metadata.json`` and ``inference.json``.

    Raises
    ------
    BundleError
        If one of them cannot be read, or the metadata record no hashes.
    """
    try:
        metadata, config = (
            dict(json.loads((root / "configs" / file).read_text())) for file in ("metadata.json", "inference.json")
        )
        return metadata | {"weights_sha256": dict(metadata["weights_sha256"])}, config
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(
            f"The description of bundle {root.name!r} cannot be read; install the package again."
        ) from error


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
