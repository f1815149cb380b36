"""Where commands print: a console as wide as its terminal, and wide enough for UIDs where there is none."""

from __future__ import annotations

import sys

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 200


def open_console() -> Console:
    """Return a console on standard output."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
