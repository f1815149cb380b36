"""Options of ``boneage-node evaluate`` that would change nothing: refused, so that nobody believes they were heeded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

IDLE = {
    "films": ("part", "changed"),
    "kept": ("method", "part", "changed", "recalibration", "device", "threads"),
}
"""Where films come from, and what changes nothing then."""
_FLAGS = {"films": "--films", "kept": "--from"}


def refuse_idle(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
    """End the command, with its usage, where an option was given that would change nothing.

    Parameters
    ----------
    parser
        The command's, which took ``argv``.
    argv
        The command line.
    """
    unset = argparse.Namespace(**dict.fromkeys(name for names in IDLE.values() for name in names))
    given = parser.parse_args(argv, unset)  # without defaults: None is what was not said
    for source, names in IDLE.items():
        idle = [f"--{name}" for name in names if getattr(given, name) is not None]
        if getattr(given, source) is not None and idle:
            parser.error(f"{', '.join(idle)} would change nothing with {_FLAGS[source]}; leave it out")
