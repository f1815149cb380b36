"""Structured logs without patient data: JSON lines or a console, on standard error.

Two guards stand between an event and its line. Values under keys that name a patient, and values that are pieces of a
data set, are withheld: only their keys appear, under ``withheld``. And what libraries log is cut down to where it was
logged and the kind of exception, since their messages quote values (pydicom: "Invalid value for VR DA: ...").
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from dicom_node.settings import LogSettings

FORBIDDEN_KEYS = frozenset(
    {
        "accessionnumber", "address", "birthdate", "birthname", "birthtime", "dataset", "dob", "ds", "ethnicgroup",
        "institutionname", "issuerofpatientid", "militaryrank", "mothersbirthname", "mrn", "occupation",
        "operatorsname", "otherids", "personname", "physicianname", "pixels", "referringphysicianname",
        "studydescription", "studyid",
    }
)  # fmt: skip
"""Keys that are never logged, beside every key that begins with ``patient`` or ``otherpatient``; lower case, no
underscores: ``PatientName`` and ``patient_name`` are the same key."""

OUR_PACKAGES = ("dicom_node", "inference", "reports", "training", "conformance")
"""Exceptions of these carry no patient data in their messages, by the house's rule; others may."""

OUTSIDE_LEVEL = logging.WARNING


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send all logs of this process, ours and the libraries', to ``stream`` (default: standard error).

    May be called again; the last call counts. A line that cannot be written (the disk of the log is full, its reader is
    gone) is dropped: logging never stops what is logged.
    """
    out = stream or sys.stderr
    structlog.configure(
        processors=_processors(settings.format, colours=out.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(settings.level.lower()),
        logger_factory=lambda *_: _DroppingLogger(out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[LibraryHandler()], level=OUTSIDE_LEVEL, force=True)
    for name in ("dbos", "pynetdicom", "sqlalchemy", "alembic"):  # some bring a handler of their own
        library = logging.getLogger(name)
        library.handlers = [logging.NullHandler()]
        library.propagate = True
        library.setLevel(OUTSIDE_LEVEL)
    warnings.showwarning = _log_warning


class _DroppingLogger(structlog.PrintLogger):
    """Prints lines and drops those that cannot be printed, as ``logging.Handler.handleError`` has it.

    Events are told while objects are received and after transactions are committed: a failure there would cost a study.
    """

    def msg(self, message: str) -> None:
        """Print one line, if that can be done."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            super().msg(message)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


def withhold_patient_data(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """Structlog processor: drop what may tell who the patient is, and name the dropped keys under ``withheld``."""
    withheld = sorted(key for key, value in event.items() if is_forbidden(key) or not _is_plain(value))
    kept = {key: value for key, value in event.items() if key not in withheld}
    return {**kept, "withheld": withheld} if withheld else kept


def is_forbidden(key: str) -> bool:
    """Say whether a key names something of the patient."""
    folded = re.sub(r"[^a-z]", "", key.lower())
    return folded in FORBIDDEN_KEYS or folded.startswith(("patient", "otherpatient"))


def describe_exception(error: BaseException) -> dict[str, Any]:
    """Return kind, place and, of our own exceptions only, message and code of an exception and of its causes."""
    described: dict[str, Any] = {"kind": _kind(error), "place": _place(error.__traceback__)}
    if type(error).__module__.split(".")[0] in OUR_PACKAGES:
        described |= {"code": getattr(error, "code", None), "message": str(error)}
    cause = error.__cause__ or error.__context__
    if cause is not None:
        described["cause"] = describe_exception(cause)
    return described


class LibraryHandler(logging.Handler):
    """Takes what libraries log with ``logging``: where and how grave, never their text."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record of a library as an event of ours."""
        error = record.exc_info[1] if record.exc_info else None
        event: dict[str, Any] = {"library": record.name, "place": f"{record.module}:{record.lineno}"}
        if error is not None:
            event["exception"] = describe_exception(error)
        structlog.get_logger().log(record.levelno, "library.message", **event)


def _processors(style: Literal["json", "console"], *, colours: bool) -> list[Processor]:
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _exception_as_data,
        withhold_patient_data,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    if style == "console":
        return [*shared, _pop_time_as_timestamp, structlog.dev.ConsoleRenderer(colors=colours)]
    return [*shared, structlog.processors.JSONRenderer(default=str)]


def _exception_as_data(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    raised = event.pop("exc_info", None)
    if raised is True:
        raised = sys.exc_info()[1]
    elif isinstance(raised, tuple):
        raised = raised[1]
    if isinstance(raised, BaseException):
        event["exception"] = describe_exception(raised)
    return event


def _pop_time_as_timestamp(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    event["timestamp"] = event.pop("time")
    return event


def _is_plain(value: object) -> bool:
    """Say whether a value is made of plain parts only: no data set, no element, no person's name, no bytes."""
    if isinstance(value, Mapping):
        return all(_is_plain(part) and not is_forbidden(str(key)) for key, part in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool, Path, datetime, date, Enum, UUID))


def _kind(error: BaseException) -> str:
    module = type(error).__module__
    return type(error).__qualname__ if module == "builtins" else f"{module}.{type(error).__qualname__}"


def _place(trace: TracebackType | None) -> str:
    """Return ``file:line function`` of each frame, innermost last, files by their last two parts."""
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{'/'.join(Path(code.co_filename).parts[-2:])}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " > ".join(frames)


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    """Log where a warning arose and of what kind it is; its text may quote a value."""
    del message
    place = f"{'/'.join(Path(filename).parts[-2:])}:{lineno}"
    structlog.get_logger().warning("library.warning", kind=category.__name__, place=place)
