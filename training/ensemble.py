"""``python -m training.ensemble NAME METHOD=WEIGHT METHOD=WEIGHT ...``: write the bundle of an ensemble.

What an ensemble is stands in ``inference.ensemble``. Weights are chosen on the validation part, never on the test part;
``boneage-node calibrate --method NAME`` writes its intervals afterwards, and it is chosen by its name in the settings.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from inference.bundle import bundles_folder, open_bundle
from inference.ensemble import read_members
from inference.errors import BundleError, InferenceError
from inference.method import method_names
from inference.named_ensemble import unconverged_of
from training.arguments import first_line

_log = logging.getLogger(__name__)


def write_ensemble(name: str, members: dict[str, float], folder: Path, version: str = "0.1.0") -> Path:
    """Write an ensemble's bundle, without intervals, and return its folder.

    Raises
    ------
    BundleError
        If the name is a method's, a member has no bundle, or the weights are none.
    """
    if name in method_names():
        raise BundleError(f"{name!r} is the name of a method; give the ensemble one of its own, such as 'ensemble'.")
    for member in members:
        if read_members(open_bundle(member, folder)):
            raise BundleError(f"{member!r} is an ensemble itself; name its methods instead.")
    root = folder / name
    words = " and ".join(f"{weight:g} x {member}" for member, weight in sorted(members.items()))
    metadata = {
        "name": f"Bone age, mean of {', '.join(sorted(members))}",
        "version": version,
        "description": f"The weighted mean of the ages of {words}.",
        **unconverged_of({member: open_bundle(member, folder) for member in sorted(members)}),
        "members": dict(sorted(members.items())),
        "weights_sha256": {},
    }
    (root / "configs").mkdir(parents=True, exist_ok=True)
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    (root / "configs" / "inference.json").write_text("{}\n")
    read_members(open_bundle(name, folder))
    return root


def _member(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    return name, float(weight or 1)


def main(argv: list[str] | None = None) -> int:
    """Write; returns 0, 1 when a member cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m training.ensemble", description=first_line(__doc__))
    parser.add_argument("name", help="the ensemble's name in the settings")
    parser.add_argument("members", nargs="+", type=_member, metavar="METHOD=WEIGHT", help="methods that have bundles")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        print(write_ensemble(arguments.name, dict(arguments.members), bundles_folder()))  # noqa: T201 - an answer
    except InferenceError as error:
        _log.error("%s: %s", error.code, error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
