"""``python -m training.ensemble NAME METHOD=WEIGHT METHOD=WEIGHT ...``: write the bundle of an ensemble.

What an ensemble is stands in ``inference.ensemble``. Weights are chosen on the validation part, never on the test part;
``boneage-node calibrate --method NAME`` writes its intervals afterwards, and it is chosen by its name in the settings.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from inference.bundle import DETECTOR, SEPARATOR, Bundle, bundles_folder, open_bundle
from inference.ensemble import read_members
from inference.errors import BundleError, InferenceError
from inference.method import method_names
from inference.named_ensemble import unconverged_of
from training.arguments import first_line, positive
from training.bundle_intervals import drop_intervals
from training.errors import TrainingError, exit_code
from training.storage import make_folder, write_text


def write_ensemble(name: str, members: dict[str, float], folder: Path, version: str = "0.1.0") -> Path:
    """Write an ensemble's bundle and return its folder; intervals that are there go, unless it is the same ensemble.

    Raises
    ------
    BundleError
        If the name is a method's or no folder's, a member is no method with a bundle, or the weights are none; nothing
        is written then.
    RunError
        As :func:`training.storage.writing`.
    """
    root = folder / name
    if name in method_names():
        raise BundleError(f"{name!r} is the name of a method; give the ensemble one of its own, such as 'ensemble'.")
    if name == DETECTOR or SEPARATOR in name or root.name != name or not name.strip("."):
        raise BundleError(f"{name!r} is no name for an ensemble; give it a word, such as 'ensemble'.")
    opened = {member: open_bundle(member, folder) for member in sorted(members)}
    for member, bundle in opened.items():
        if read_members(bundle):
            raise BundleError(f"{member!r} is an ensemble itself; name its methods instead.")
        if member not in method_names():
            raise BundleError(f"{member!r} is no method; an ensemble has some of {', '.join(method_names())}.")
    words = " and ".join(f"{weight:g} x {member}" for member, weight in sorted(members.items()))
    metadata = {
        "name": f"Bone age, mean of {', '.join(sorted(members))}",
        "version": version,
        "description": f"The weighted mean of the ages of {words}.",
        **unconverged_of(opened),
        "members": dict(sorted(members.items())),
        "weights_sha256": {},
    }
    read_members(Bundle(root, metadata, {}))  # weights that are none are refused before anything is written
    if _members_before(root) != metadata["members"]:
        drop_intervals(root)
    make_folder(root / "configs")
    write_text(root / "configs" / "metadata.json", json.dumps(metadata, indent=2) + "\n")
    write_text(root / "configs" / "inference.json", "{}\n")
    return root


def _members_before(root: Path) -> object:
    try:
        return json.loads((root / "configs" / "metadata.json").read_text()).get("members")
    except (OSError, ValueError, AttributeError):
        return None


def _member(text: str) -> tuple[str, float]:
    """Read ``METHOD=WEIGHT``, the weight 1 where it is left out.

    Raises
    ------
    argparse.ArgumentTypeError
        If the weight is no positive number.
    """
    name, _, weight = text.partition("=")
    return name, positive(weight or "1")


def _members(parser: argparse.ArgumentParser, given: list[tuple[str, float]]) -> dict[str, float]:
    """Return the members' weights; end the command where one is named twice."""
    members = dict(given)
    if len(members) < len(given):
        parser.error("a method is named twice; name each once, with its weight")
    return members


def main(argv: list[str] | None = None) -> int:
    """Write; returns 0, 1 when a member cannot be used, 2 when the bundle cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m training.ensemble", description=first_line(__doc__))
    parser.add_argument("name", help="the ensemble's name in the settings")
    parser.add_argument("members", nargs="+", type=_member, metavar="METHOD=WEIGHT", help="methods that have bundles")
    arguments = parser.parse_args(argv)
    members = _members(parser, arguments.members)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        print(write_ensemble(arguments.name, members, bundles_folder()))  # noqa: T201 - an answer
    except (TrainingError, InferenceError) as error:
        return exit_code(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
