"""``boneage-node models``: which models are here, what one is, and whether they are whole.

``list`` and ``show`` read the bundles' JSON alone; ``verify`` loads every network.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.bundle import (
    DETECTOR,
    SEPARATOR,
    Bundle,
    bundles_folder,
    canonical_name,
    file_sha256,
    list_methods,
    read_description,
)
from inference.errors import BundleError
from inference.finding import ModelIdentity
from inference.intervals import UNCALIBRATED, Calibration
from inference.method import AGE_WEIGHTS, DEFAULT_METHOD, method_names, open_method

if TYPE_CHECKING:
    from torch import nn

DONE, FAILED = 0, 1
_CALIBRATION, _CALIBRATE = "calibration.json", "write them with boneage-node calibrate --method "


def names(folder: Path | None = None) -> list[str]:
    """Return the names of all bundles: the detector, then the methods that have weights, sorted."""
    root = folder or bundles_folder()
    detector = [DETECTOR] if (root / DETECTOR / "configs" / "metadata.json").is_file() else []
    return detector + list_methods(root)


def read_bundle(name: str, folder: Path | None = None) -> Bundle:
    """Read a bundle's description without looking at its weights; for ``a+b``, that of the ensemble of both.

    Raises
    ------
    BundleError
        If there is none, or its JSON cannot be read.
    """
    root = folder or bundles_folder()
    if name not in names(root) and SEPARATOR in name:
        from inference.named_ensemble import open_named

        return open_named(name, root, open_member=read_bundle)
    if name not in names(root):
        hint = f": boneage-node train {name}, then export it" if name in method_names() else ""
        raise BundleError(f"There are no weights named {name!r} here{hint}. There are: {', '.join(names(root))}.")
    return Bundle(root / name, *read_description(root / name))


def identify(name: str, folder: Path | None = None) -> ModelIdentity:
    """Return what reports say of a method or an ensemble, as the engine has it; no weights are loaded.

    Raises
    ------
    BundleError
        If it or a member of it has no bundle.
    """
    from inference.ensemble import combined_sha256, read_members

    bundle = read_bundle(name, folder)
    weights = read_members(bundle)
    members = {member: read_bundle(member, folder) for member in weights}
    sha256 = combined_sha256(weights, members) if members else bundle.weights_sha256
    return ModelIdentity(canonical_name(name), str(bundle.metadata["name"]), bundle.version, sha256)


def weight_files(bundle: Bundle) -> list[Path]:
    """Return the weight files that lie in a bundle, sorted."""
    return sorted(path for path in (bundle.folder / "models").glob("*.safetensors") if path.is_file())


def print_list(folder: Path | None = None) -> None:
    """Print one line a bundle, and one for each method that has no weights here."""
    have = names(folder)
    lines = [("NAME", "VERSION", "SIZE", "WHAT IT IS")]
    for name in have:
        try:
            bundle = read_bundle(name, folder)
        except BundleError:
            lines.append((name, "-", "-", f"NOT WHOLE: boneage-node models verify {name}"))
            continue
        size = sum(path.stat().st_size for path in weight_files(bundle)) / 1e6
        words = " (the default)" if name == DEFAULT_METHOD else ""
        if bundle.unconverged is not None:
            words += f" (unconverged: {bundle.unconverged})"
        lines.append((name, bundle.version, f"{size:.1f} MB", f"{bundle.metadata.get('name', name)}{words}"))
    missing = (name for name in method_names() if name not in have)
    lines.extend((name, "-", "-", f"no weights here: boneage-node train {name}") for name in missing)
    widths = [max(len(line[place]) for line in lines) for place in range(3)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        print("  ".join([*cells, line[3]]))  # noqa: T201 - a command's answer


def print_one(name: str, folder: Path | None = None) -> None:
    """Print what a bundle says of itself: terms, configuration, intervals, files with their hashes, members."""
    bundle = read_bundle(name, folder)
    if SEPARATOR in name:
        print(f"method: {canonical_name(name)}")  # noqa: T201
    for key, value in (bundle.metadata | {"version": bundle.version}).items():
        if key != "weights_sha256":
            print(f"{key.replace('_', ' ')}: {value}")  # noqa: T201
    print(f"configuration: {json.dumps(bundle.config)}")  # noqa: T201
    for line in _interval_lines(bundle):
        print(line)  # noqa: T201
    for line in (*_weight_lines(bundle), *_member_lines(bundle, folder), _card_line(bundle)):
        print(line)  # noqa: T201


def _interval_lines(bundle: Bundle) -> Iterator[str]:
    name = bundle.folder.name
    try:
        table = bundle.read_json(_CALIBRATION)
        usable = Calibration.parse(table).split != UNCALIBRATED
    except FileNotFoundError:
        if name != DETECTOR:
            yield f"intervals: none, so no film is read; {_CALIBRATE}{name} --data DATA"
        return
    except (BundleError, ValueError):
        usable = False
    if not usable:
        yield f"intervals: none that can be used, so no film is read; {_CALIBRATE}{name} --data DATA"
        return
    films = f"from {table['films']} films of {table.get('split')}" if "films" in table else table.get("split")
    yield f"intervals: {table.get('level', 0):.0%}, {films}"


def _weight_lines(bundle: Bundle) -> Iterator[str]:
    for file, sha256 in sorted(bundle.metadata["weights_sha256"].items()):
        path = bundle.folder / "models" / file
        size = f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "missing"
        yield f"weights: {file}, {size}, sha256 {sha256}"


def _card_line(bundle: Bundle) -> str:
    card = bundle.folder / "docs" / "README.md"
    return f"model card: {card if card.is_file() else 'none'}"


def _member_lines(bundle: Bundle, folder: Path | None) -> Iterator[str]:
    """Yield an ensemble's hash as reports have it, and what each of its members is."""
    from inference.ensemble import read_members

    weights = read_members(bundle)
    if not weights:
        return
    yield f"weights, as reports name them: sha256 {identify(bundle.folder.name, folder).weights_sha256}"
    for member, one in ((member, read_bundle(member, folder)) for member in weights):
        yield f"member {member}: version {one.version}, {one.metadata.get('name', member)}"
        yield from (f"  {line}" for line in (*_interval_lines(one), *_weight_lines(one), _card_line(one)))


def find_problems(name: str, folder: Path | None = None) -> list[str]:
    """Return what is wrong with a bundle, each with its remedy: hashes, configuration, intervals, weights."""
    try:
        bundle = read_bundle(name, folder)
    except BundleError as error:
        return [str(error)]
    recorded: dict[str, str] = bundle.metadata["weights_sha256"]
    problems = list(_wrong_files(bundle, recorded))
    if "members" in bundle.metadata:
        problems += _wrong_members(bundle, folder)
    elif not problems:
        problems += _misfits(name, bundle, recorded)
    if name != DETECTOR:
        problems += _wrong_intervals(bundle)
    return problems


def _wrong_files(bundle: Bundle, recorded: dict[str, str]) -> Iterator[str]:
    here = {path.name: path for path in weight_files(bundle)}
    for file, sha256 in recorded.items():
        if file not in here:
            yield f"{file} is missing; install the package again."
            continue
        try:
            differs = file_sha256(here[file]) != sha256
        except OSError as error:
            yield f"{file} cannot be read ({error.strerror}); let this user read it."
            continue
        if differs:
            yield f"{file} differs from its recorded hash; install the package again."
    for file in sorted(set(here) - set(recorded)):
        yield f"{file} has no recorded hash; export the bundle again, or delete the file."


def _wrong_members(bundle: Bundle, folder: Path | None) -> Iterator[str]:
    from inference.ensemble import read_members

    try:
        members = read_members(bundle)
    except BundleError as error:
        yield str(error)
        return
    for member in members:
        if member == bundle.folder.name or "members" in _metadata(member, folder):
            yield f"its member {member} is an ensemble; name methods only."
        else:
            yield from (f"its member {member}: {problem}" for problem in find_problems(member, folder))


def _metadata(name: str, folder: Path | None) -> dict[str, Any]:
    return read_bundle(name, folder).metadata if name in names(folder) else {}


def _misfits(name: str, bundle: Bundle, recorded: dict[str, str]) -> Iterator[str]:
    try:
        makers = _nets(name, bundle.config, recorded)
    except (BundleError, KeyError, TypeError, ValueError, AttributeError) as error:
        yield f"inference.json does not open method {name!r} ({error}); export the bundle again."
        return
    for file in sorted(set(makers) - set(recorded)):
        yield f"metadata.json records no {file}; export the bundle again."
    for file, make in makers.items():
        if file in recorded:
            try:
                make().load_state_dict(bundle.read_weights(file))
            except (RuntimeError, OSError, ValueError):
                yield f"{file} does not fit the network that inference.json describes; export the bundle again."


def _nets(name: str, config: dict[str, Any], recorded: dict[str, str]) -> dict[str, Callable[[], nn.Module]]:
    """Return the maker of each weight file's network."""
    if name == DETECTOR:
        from inference.detector import make_finder, make_landmark_net

        return {"finder.safetensors": make_finder, "landmarks.safetensors": make_landmark_net}
    from inference.familiarity import FILE
    from inference.house import HouseMethod, more_file
    from inference.localiser import HasLocaliser

    method = open_method(name, config)
    if isinstance(method, HouseMethod):
        fitted = {FILE: method.make_familiarity} if method.familiarity else {}
        more = {more_file(place): one.make_net for place, one in enumerate(method.more)}
        return {AGE_WEIGHTS: method.make_plain_net, **more, **fitted}
    if not isinstance(method, HasLocaliser):
        return {AGE_WEIGHTS: method.make_net}
    nets: dict[str, Callable[[], nn.Module]] = {AGE_WEIGHTS: method.make_age_net}
    if method.localiser == "paper" or method.localiser_file in recorded:
        nets[method.localiser_file] = method.make_localiser
    return nets


def _wrong_intervals(bundle: Bundle) -> Iterator[str]:
    try:
        if Calibration.parse(bundle.read_json(_CALIBRATION)).split == UNCALIBRATED:
            yield f"its calibration was broken off; {_CALIBRATE}{bundle.folder.name} --data DATA."
    except FileNotFoundError:
        yield f"there are no intervals (calibration.json); {_CALIBRATE}{bundle.folder.name} --data DATA."
    except (BundleError, ValueError) as error:
        yield f"calibration.json cannot be used: {error}"


def verify(wanted: list[str], folder: Path | None = None) -> int:
    """Check bundles and print each one's state; returns 0, or 1 if one has a problem."""
    failed = False
    for name in wanted:
        problems = find_problems(name, folder)
        print(f"{name}: {'whole' if not problems else 'NOT WHOLE'}")  # noqa: T201
        for problem in problems:
            print(f"  {problem}")  # noqa: T201
        failed = failed or bool(problems)
    return FAILED if failed else DONE


def main(argv: list[str] | None = None) -> int:
    """Answer; returns 0, or 1 if a model is not there or not whole."""
    parser = argparse.ArgumentParser(prog="boneage-node models", description="Models that are here. Research use only.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="one line each")
    show = actions.add_parser("show", help="everything a model's bundle says of itself")
    show.add_argument("name", metavar="NAME")
    check = actions.add_parser(
        "verify", help="recompute hashes, open configurations, fit weights; 1 if one is not whole"
    )
    check.add_argument("name", metavar="NAME", nargs="?", help="default: all")
    arguments = parser.parse_args(argv)
    if arguments.action == "verify":
        return verify([arguments.name] if arguments.name else [DETECTOR, *list_methods()])
    if arguments.action == "show":
        print_one(arguments.name)
    else:
        print_list()
    return DONE
