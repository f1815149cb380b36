"""Command lines: their descriptions, their numbers, and the options that several commands have.

A number that means nothing is refused with the option's name, not taken for what was meant.
"""

from __future__ import annotations

import argparse
import math

MOST_SEED = 1 << 32
"""Seeds are below this."""
DEVICES = ("auto", "cpu", "cuda")
SHARP_PARTS = ("train", "validation", "test")
"""Parts of the split that films at half resolution, or a site's, have."""
THREADS = 2


def add_part(parser: argparse.ArgumentParser, default: str) -> None:
    """Give a command ``--part``."""
    parser.add_argument(
        "--part", default=default, choices=SHARP_PARTS, help=f"part of the split to read (default {default})"
    )


def add_device(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Give a command ``--device``; auto is CUDA where there is one."""
    parser.add_argument("--device", default=default, choices=DEVICES, help=f"where to compute (default {default})")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Give a command ``--threads``."""
    parser.add_argument("--threads", type=positive_int, default=THREADS, help=f"CPU threads (default {THREADS})")


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
