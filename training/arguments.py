"""Command lines: their descriptions, and their numbers.

A number that means nothing is refused with the option's name, not taken for what was meant.
"""

from __future__ import annotations

import argparse
import math

MOST_SEED = 1 << 32
"""Seeds are below this."""


def first_line(docstring: str | None) -> str:
    """Return the first line of a module's docstring as ``--help`` shows it."""
    return plain(docstring).partition("\n")[0]


def plain(docstring: str | None) -> str:
    """Return a module's docstring without the marks of code."""
    return (docstring or "").replace("``", "")


def positive_int(text: str) -> int:
    """Read a whole number above 0.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def count(text: str) -> int:
    """Read a whole number, 0 or more.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def seed_number(text: str) -> int:
    """Read what draws begin with: a whole number that numpy and torch both take.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none.
    """
    if not text.isdecimal() or int(text) >= MOST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on and below 2^32")
    return int(text)


def positive(text: str) -> float:
    """Read a number above 0.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none.
    """
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def decay(text: str) -> float:
    """Read a number from 0 on and below 1.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none.
    """
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on and below 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
