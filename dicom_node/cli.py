"""The command ``boneage-node``: what it understands, and which module does it.

Only this module is imported to parse a command line and to print help; the module that does the work comes after.

Exit codes: 0 done; 1 tried and failed (the sentence on standard error says what); 2 the command line or the settings
are wrong; 130 interrupted; 141 whoever read the answer has gone, as ``head`` does.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

from dicom_node import __version__

DONE, FAILED, WRONG_USAGE, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141

CONFIG_VARIABLE = "BONEAGE_NODE_CONFIG"
DELEGATED = {
    "train": "training.train",
    "evaluate": "training.evaluate",
    "compare": "training.compare",
    "calibrate": "training.calibrate",
    "stress": "training.stress",
    "export": "training.export",
    "experiment": "training.experiment",
    "data": "training.sources.check",
    "models": "inference.catalogue",
}
"""Commands that read their own arguments: each module has ``main(argv) -> int``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's) and return its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a dash that its encoding has not must not end a command
    try:
        code = _carry_out(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        if not _is_reader_gone():
            raise
        return READER_GONE
    _is_reader_gone()  # what is still to be written is then, not when Python ends
    return code


def _is_reader_gone() -> bool:
    """Write what standard output still holds; where it is a pipe that nobody reads any more, let that go."""
    try:
        with suppress(BrokenPipeError):
            sys.stdout.flush()
        place = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return False  # a full disk, of which Python itself tells at its end; no file of the system's, or none at all
    poll = select.poll()
    poll.register(place, 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), place)
    return gone


def _carry_out(arguments: list[str]) -> int:
    try:
        if arguments and arguments[0] in DELEGATED:
            return _delegate(arguments[0], arguments[1:])
        options = build_parser().parse_args(arguments)
        module, function = options.does.split(":")
        code: int = getattr(import_module(module), function)(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        # The errors of our packages have a code and a message fit for people; everything else is a defect: show it.
        code_of_error = getattr(error, "code", None)
        if not isinstance(code_of_error, str):
            raise
        sys.stderr.write(f"boneage-node: {code_of_error}: {error}\n")
        return WRONG_USAGE if code_of_error == "settings" else FAILED
    return code


def build_parser() -> argparse.ArgumentParser:
    """Describe the whole command line; ``does`` names the function that carries a command out."""
    parser = argparse.ArgumentParser(
        prog="boneage-node",
        description="Reads bone age from hand radiographs, from C-STORE to committed report. Research use only.",
        epilog="Exit codes: 0 done, 1 tried and failed, 2 wrong command line or settings, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"boneage-node {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_running(commands)
    _add_administration(commands)
    for name, summary in (
        ("train", "train a model (see train --help)"),
        ("evaluate", "measure it (see evaluate --help)"),
        ("compare", "set methods and runs side by side (see compare --help)"),
        ("calibrate", "write a method's intervals (see calibrate --help)"),
        ("stress", "change films and see how far the age moves (see stress --help)"),
        ("export", "make a bundle of a run (see export --help)"),
        ("experiment", "pack an experiment for a machine with a GPU, run it there (see experiment --help)"),
        ("data", "check a folder of films (see data check --help)"),
        ("models", "list, show or verify the models that are here"),
    ):
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def _add_running(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser("serve", help="run the node until SIGTERM or SIGINT")
    _add_config(serve)
    serve.set_defaults(does="dicom_node.serve:run")
    demo = commands.add_parser("demo", help="send sample films through a node and a small archive on this machine")
    demo.add_argument("--output", type=Path, metavar="DIR", help="where to put results (default: ./boneage-demo)")
    demo.add_argument("--keep", action="store_true", help="keep the node's data and the archive's folder as well")
    demo.set_defaults(does="dicom_node.demo:run")


def _add_administration(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = commands.add_parser("status", help="what waits, what failed, which nodes live")
    show = commands.add_parser("show", help="everything known of one study")
    retry = commands.add_parser("retry", help="try failed work again, now")
    dismiss = commands.add_parser(
        "dismiss", help="give up what failed of a study, or what a peer that is gone never takes"
    )
    reprocess = commands.add_parser("reprocess", help="read a study again, as a new revision")
    purge = commands.add_parser("purge", help="remove the film files of studies that are done, or say which may go")
    for command in (status, show, retry, dismiss, reprocess, purge):
        _add_config(command)
    status.add_argument("--json", action="store_true", help="for machines")
    status.add_argument("--check", action="store_true", help="exit with 1 where something needs a person")
    for command in (show, reprocess):
        command.add_argument("study", metavar="STUDY", help="Study Instance UID, or its beginning where that is clear")
    chosen = retry.add_mutually_exclusive_group(required=True)
    chosen.add_argument("study", nargs="?", metavar="STUDY", help="Study Instance UID, or its beginning")
    chosen.add_argument("--all", action="store_true", help="everything that failed")
    retry.add_argument("--peer", help="only deliveries to this peer")
    dismiss.add_argument(
        "study", nargs="?", metavar="STUDY", help="what failed of this study: its UID, or its beginning"
    )
    dismiss.add_argument("--peer", help="what is open at this peer, also one that the settings have no more")
    _add_purge_options(purge)
    echo = commands.add_parser("echo", help="C-ECHO a peer and ask what it would accept")
    selftest = commands.add_parser("selftest", help="send a marked test study to a peer and say what it took")
    for command in (echo, selftest):
        _add_config(command)
        command.add_argument("peer", metavar="PEER", help="the peer's name in the settings")
    shadow = commands.add_parser("shadow", help="how shadow methods stand to the active one")
    _add_config(shadow)
    shadow.add_argument("--json", action="store_true", help="for machines")
    settings = commands.add_parser("settings", help="check or show the settings").add_subparsers(
        metavar="ACTION", required=True
    )
    check = settings.add_parser("check", help="list every problem of a settings file")
    shown = settings.add_parser("show", help="print the settings in force, defaults included, secrets masked")
    for command, does in (
        (status, "dicom_node.status:run"),
        (show, "dicom_node.show:run"),
        (retry, "dicom_node.again:retry"),
        (dismiss, "dicom_node.again:dismiss"),
        (reprocess, "dicom_node.again:reprocess"),
        (purge, "dicom_node.purge:run"),
        (echo, "dicom_node.echo:run"),
        (shadow, "dicom_node.shadow:run"),
        (selftest, "dicom_node.selftest:run"),
        (check, "dicom_node.settings_report:check"),
        (shown, "dicom_node.settings_report:show"),
    ):
        command.set_defaults(does=does)
    for command in (check, shown):
        _add_config(command)


def _add_purge_options(purge: argparse.ArgumentParser) -> None:
    purge.add_argument(
        "--older-than", type=_days, metavar="DAYS", help="done for so long; 0: at all (default: [retention])"
    )
    purge.add_argument("--documents", action="store_true", help="with --older-than: the documents archives have, too")
    purge.add_argument("--dry-run", action="store_true", help="only say what may go")


def _days(text: str) -> float:
    """Return a number of days; argparse says what is wrong with another text."""
    days = float(text)
    if not 0 <= days <= 36_500:
        raise argparse.ArgumentTypeError("give a number of days, 0 or more")
    return days


def _add_config(command: argparse.ArgumentParser) -> None:
    default = os.environ.get(CONFIG_VARIABLE)
    command.add_argument(
        "--config",
        type=Path,
        metavar="NODE.TOML",
        required=default is None,
        default=default and Path(default),
        help=f"the settings file (default: ${CONFIG_VARIABLE})",
    )


def _delegate(name: str, arguments: list[str]) -> int:
    """Run a command that reads its own arguments."""
    try:
        module = import_module(DELEGATED[name])
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"boneage-node: {name} needs the Python package {error.name!r}, which is not installed here; "
            f"install it with: python -m pip install {error.name}\n"
        )
        return FAILED
    code: int | None = module.main(arguments)
    return code or DONE
