"""A node with a stand-in for the model, in a process that kills itself at a given point of the street.

Usage: node_process.py SETTINGS.json [POINT]. Logs JSON lines to standard error. Not a test itself.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from conformance.stand_in import StandIn
from dicom_node import dispatch, ledger, logs
from dicom_node.commitment import Commitments
from dicom_node.compose import Composer
from dicom_node.deliver import Courier
from dicom_node.interpret import Reader
from dicom_node.node import Node
from dicom_node.settings import LogSettings, Settings


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function: Callable[..., Any], *, before: bool = False, when: Callable[..., bool] = lambda *_: True) -> Any:
    """Wrap a function so that the process dies before or after it, ``when(result, *arguments)`` holds."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if before and when(None, *arguments):
            die()
        result = function(*arguments, **named)
        if when(result, *arguments):
            die()
        return result

    return wrapped


def is_capture(_result: object, _composer: object, _finding_id: int, kind: str) -> bool:
    return kind == "sc"


POINTS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "record": (Node, "_record", {}),  # the row is committed, the C-STORE not answered
    "receive": (Node, "_end_association", {"before": True}),  # answered, not assembled (quiet period)
    "assemble": (dispatch, "assemble_ready", {"when": lambda walks, *_: bool(walks)}),  # assembled, not enqueued
    "interpret": (Reader, "interpret", {}),
    "write": (Composer, "_mark_verified", {"before": True}),  # the file is written, its row does not say so
    "compose": (Composer, "compose", {"when": is_capture}),
    "ledger": (ledger, "enter", {}),  # within the transaction
    "send": (ledger, "mark_sent", {"before": True}),  # the archive has it, the ledger does not say so
    "between": (Courier, "_ask_for_commitment", {"before": True}),  # sent, commitment not asked for
    "request": (Commitments, "request", {}),  # written down, not asked for
    "report": (Commitments, "take", {"before": True}),  # the report came, the ledger does not say so
}


def main(settings_file: str, point: str | None = None) -> None:
    logs.configure(LogSettings(level="INFO", format="json"))
    if point is not None:
        owner, name, how = POINTS[point]
        setattr(owner, name, dying(getattr(owner, name), **how))
    settings = Settings.model_validate_json(Path(settings_file).read_text())
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    node = Node(settings, StandIn())
    node.start()
    host, port = node.address
    structlog.get_logger().info("test.listening", host=host, port=port)
    leave.wait()
    node.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
