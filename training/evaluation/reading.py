"""Films read by the node's own engine, and what is kept of each."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from inference.bundle import DETECTOR, open_bundle
from inference.engine import Engine
from inference.film import Film
from inference.finding import Estimate, Finding, Laterality, Sex, Subject
from inference.method import open_method
from training.errors import DataError
from training.radiographs import Radiograph

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One film's result: reference and estimate in months, interval, or the code of the refusal."""

    rsna_id: int
    sex: str
    reference_months: float
    estimate_months: float | None
    low_months: float | None
    high_months: float | None
    refusal: str | None
    milliseconds: float | None = None  # wall clock of the whole reading: detection, preparation, network
    flags: tuple[str, ...] | None = None  # codes of the flags it was read or refused with; None where nobody kept them

    @property
    def error_months(self) -> float:
        """Estimate minus reference; NaN for a refused film."""
        return float("nan") if self.estimate_months is None else self.estimate_months - self.reference_months


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One film with the engine's finding and its row."""

    film: Radiograph
    finding: Finding
    row: Row


def film_of(pixels: npt.NDArray[np.uint8]) -> Film:
    """Wrap an 8-bit image as a decoded film."""
    return Film(np.asarray(pixels, dtype=np.float32) / np.float32(255), Laterality.UNKNOWN, "no header", None, ())


def interpret(engine: Engine, film: Radiograph) -> Finding:
    """Run the node's engine on a training film, its sex from the table."""
    subject = Subject(film.reading.sex, "table", None, "table")
    return engine.interpret_film(film_of(film.pixels), subject)


def read_case(film: Radiograph, read: Callable[[], Finding]) -> Case:
    """Have one film read, and keep the time it took."""
    started = time.perf_counter()
    finding = read()
    milliseconds = round(1000 * (time.perf_counter() - started), 1)
    reading, flags = film.reading, tuple(dict.fromkeys(flag.code for flag in finding.flags))
    who = (reading.rsna_id, reading.sex.value, reading.age_months)
    if isinstance(finding, Estimate):
        numbers = (finding.age_months, finding.interval_low_months, finding.interval_high_months)
        return Case(film, finding, Row(*who, *numbers, None, milliseconds, flags))
    return Case(film, finding, Row(*who, None, None, None, finding.code.value, milliseconds, flags))


def read_cases(engine: Engine, films: list[Radiograph]) -> list[Case]:
    """Interpret films, saying how far it is."""
    cases = []
    for film in films:
        cases.append(read_case(film, partial(interpret, engine, film)))
        if len(cases) % 50 == 0:
            _log.info("read %d of %d films", len(cases), len(films))
    return cases


def read_films(engine: Engine, films: list[Radiograph]) -> list[Row]:
    """Interpret films and return their rows."""
    return [case.row for case in read_cases(engine, films)]


def count_accepted(engine: Engine, images: Iterable[npt.NDArray[np.uint8]]) -> int:
    """Return how many images without a hand get an age all the same."""
    subject = Subject(Sex.MALE, "assumed", None, "")
    return sum(isinstance(engine.interpret_film(film_of(image), subject), Estimate) for image in images)


def cost(method: str, *, threads: int, device: str, folder: Path | None = None) -> dict[str, Any]:
    """Return parameters and megabytes of what reads a film: a method's bundle, or an ensemble's, and the detector's.

    Parameters are the age networks' alone.
    """
    named = open_bundle(method, folder)
    bundles = {name: open_bundle(name, folder) for name in named.metadata.get("members", [method])}
    nets = [open_method(name, bundle.config).make_net() for name, bundle in bundles.items()]
    files = [file for one in (*bundles.values(), open_bundle(DETECTOR)) for file in (one.folder / "models").iterdir()]
    return {
        "parameters": sum(parameter.numel() for net in nets for parameter in net.parameters()),
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 2),
        "threads": threads,
        "device": "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu",
    }


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of figures or rows.

    Raises
    ------
    DataError
        If it is missing or holds no JSON object.
    """
    try:
        table = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read; it must be a JSON file of boneage-node evaluate --json.") from error
    if not isinstance(table, dict):
        raise DataError(f"{path} is no evaluation; write it with boneage-node evaluate --json.")
    return table


def _row_of(kept: dict[str, Any]) -> Row:
    """Return the row that a file keeps; keys of later versions are passed over, values that no film has refused."""
    row = Row(**{key: value for key, value in kept.items() if key in Row.__dataclass_fields__})
    interval = (row.low_months, row.high_months)
    ages = (row.reference_months, row.estimate_months) if row.refusal is None else (row.reference_months,)
    bounds = () if interval == (None, None) else interval  # out-of-fold estimates have no interval
    if row.sex not in set(Sex) or not all(isinstance(one, int | float) and math.isfinite(one) for one in ages + bounds):
        raise ValueError("a row without its sex or its ages")
    if row.refusal is not None and (row.estimate_months, *interval) != (None, None, None):
        raise ValueError("a row that is read and refused")
    flags = kept.get("flags")
    if flags is None:
        return row
    if not isinstance(flags, list) or not all(isinstance(code, str) for code in flags):
        raise ValueError("flags that are no list of codes")
    return replace(row, flags=tuple(flags))


def rows_of(table: dict[str, Any], name: str) -> list[Row]:
    """Read the ``rows`` of an evaluation's JSON, or of a run's out-of-fold estimates in the same shape.

    Parameters
    ----------
    table
        The parsed file.
    name
        Its name, for the message.

    Raises
    ------
    DataError
        If it has no rows, or rows without the keys of :class:`Row` or with values that no film has.
    """
    rows: list[Row] = []
    try:
        for row in table["rows"]:
            rows.append(_row_of(row))  # noqa: PERF401 - how many there are names the one that fails
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{name} holds no rows of an evaluation (row {len(rows) + 1} is none); write it with boneage-node evaluate "
            "--json."
        ) from error
    return rows
