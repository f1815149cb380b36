"""``serve``: run the node until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from dicom_node import __version__, logs
from dicom_node.cli import DONE
from dicom_node.errors import SettingsError
from dicom_node.folders import find_unwritable
from dicom_node.ownership import check_ownership
from dicom_node.settings import ReceiveSettings, Settings, SettingsProblem, load_settings

if TYPE_CHECKING:
    from dicom_node.node import Node

log = structlog.get_logger(__name__)


def run(options: argparse.Namespace) -> int:
    """Start the node, wait for a signal, stop it in order: exit code 0 after a signal.

    A first SIGTERM or SIGINT lets running associations and steps end; a second one kills, which the node survives as
    it survives any ``kill -9``: what was answered with Success is on disk, the rest is done again.
    """
    settings = load_settings(options.config)
    logs.configure(settings.log)
    check_ownership()
    _check_folders(settings)
    leave = threading.Event()
    _listen_for_signals(leave)
    _serve(settings, leave)
    return DONE


def _check_folders(settings: Settings) -> None:
    """Raise SettingsError where this user may not write what the node keeps."""
    problems = list(find_unwritable(settings))
    if problems:
        raise SettingsError(*problems)


def _serve(settings: Settings, leave: threading.Event) -> None:
    from dicom_node.node import Node
    from inference.engine import Engine

    interpret = settings.interpret
    log.info("serve.loading", version=__version__, node_id=settings.node.id, method=interpret.method)
    engine = Engine.load(
        interpret.method,
        threads=interpret.threads,
        device=interpret.device,
        recalibration=interpret.recalibration,
        stages=interpret.stages,
    )
    node = Node(settings, engine)
    if leave.is_set():
        return
    _start(node, settings.receive)
    try:
        host, port = node.address
        log.info("serve.listening", host=host, port=port, ae_title=settings.node.ae_title)
        leave.wait()
        log.info("serve.stopping")
    finally:
        node.stop()
    log.info("serve.stopped")


def _start(node: Node, receive: ReceiveSettings) -> None:
    try:
        node.start()
    except OSError as error:
        what = f"The node cannot listen on {receive.host}:{receive.port} ({error.strerror})."
        remedy = "Stop what listens there, or choose another address: `ss -ltnp` shows who does."
        raise SettingsError(SettingsProblem("receive", "port", what, remedy)) from error


def _listen_for_signals(leave: threading.Event) -> None:
    def on_signal(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        leave.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
