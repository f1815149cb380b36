"""``data.yaml``, with which Ultralytics' YOLO describes a data set: the names of its classes, and where its parts lie.

Read as https://docs.ultralytics.com/datasets/detect/ has it, by the safe loader of PyYAML (MIT licence): ``names`` is
a list, or a table from index to name; ``path``, ``train``, ``val``, ``test`` and ``nc`` may be there. Parts count only
for the lists of images that they name, which are texts and hold no boxes: our own parts go by patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from training.errors import DataError

DATA_FILE = "data.yaml"
_PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class DataFile:
    """What is read of a ``data.yaml``."""

    names: tuple[str, ...]
    """By the class's number."""
    lists: frozenset[Path]
    """The lists of images (``*.txt``) that it names, resolved."""


def read_data_file(path: Path) -> DataFile:
    """Read a ``data.yaml``.

    Raises
    ------
    DataError
        If it cannot be read, has no names, or they are not one for each number from 0 on.
    """
    try:
        text = path.read_text("utf-8-sig")
        _refuse_repeated(yaml.compose(text, Loader=yaml.SafeLoader))
        table = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(
            f"its {DATA_FILE} cannot be read ({type(error).__name__}); it must be YAML in UTF-8."
        ) from error
    if not isinstance(table, dict) or "names" not in table:
        raise DataError(f"its {DATA_FILE} has no names of classes.")
    names = _names(table["names"])
    if table.get("nc", len(names)) != len(names):
        raise DataError(f"its {DATA_FILE} has {len(names)} names of classes, and says nc: {table['nc']}.")
    return DataFile(names, frozenset(_lists(table, path.parent)))


def _refuse_repeated(root: Any) -> None:
    """Refuse a key that stands twice in the table or in its names: YAML's loader would take the last in silence."""
    tables = [root, *(value for key, value in _pairs(root) if key.value == "names")]
    for keys in ([key.value for key, _ in _pairs(table) if isinstance(key, yaml.ScalarNode)] for table in tables):
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise DataError(f"its {DATA_FILE} has {twice!r} twice.")


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def _names(names: Any) -> tuple[str, ...]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"the names in its {DATA_FILE} are neither a list nor a table from index to name.")
    by_number = {_number(key): name for key, name in names.items()}
    if set(by_number) != set(range(len(names))):
        raise DataError(f"the {len(names)} names in its {DATA_FILE} need the indices 0 to {len(names) - 1}, each once.")
    odd = next((number for number, name in by_number.items() if not isinstance(name, str) or not name.strip()), None)
    if odd is not None:
        raise DataError(f"the name of class {odd} in its {DATA_FILE} is no text; put it in quotation marks.")
    return tuple(by_number[number].strip() for number in range(len(names)))


def _number(key: Any) -> int | None:
    """Return an index, which may be written as a text; None for what is none."""
    if isinstance(key, str) and key.isdecimal():
        return int(key)
    return key if type(key) is int else None


def _lists(table: dict[Any, Any], folder: Path) -> list[Path]:
    root = table.get("path")
    at = folder / root if isinstance(root, str) else folder
    parts = [table.get(part) for part in _PARTS]
    named = [name for part in parts for name in (part if isinstance(part, list) else [part]) if isinstance(name, str)]
    # Whoever moves a data set leaves its path behind: beside the file itself counts too.
    return [(base / name).resolve() for name in named if name.endswith(".txt") for base in (at, folder)]
