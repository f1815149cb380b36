"""Where commands print: a console as wide as its terminal, wide enough for UIDs where there is none, and tables."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

WIDTH_WITHOUT_TERMINAL = 200


def open_console() -> Console:
    """Return a console on standard output that prints texts as they are: brackets in them are no markup."""
    width = None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL
    return Console(file=sys.stdout, highlight=False, markup=False, width=width)


def make_table(*columns: str, title: str | None = None, show_lines: bool = False) -> Table:
    """Return an empty table that folds what is too long: a UID or a path that is cut short is of no use."""
    table = Table(title=title, title_justify="left", show_lines=show_lines)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
