"""Rounds: work of a running node that nothing waits for, done by a thread of its own once in a while."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import structlog

from dicom_node.errors import NodeError

log = structlog.get_logger(__name__)


class Rounds(ABC):
    """One thread that makes a pass at once and then after each pause, whatever befalls one of them.

    Parameters
    ----------
    name
        Of the thread; what a pass fails by is logged as ``NAME.failed``, a fault of the program as ``NAME.fault``.
    pause_s
        From the end of a pass to the next.
    """

    def __init__(self, name: str, pause_s: float) -> None:
        self._failed, self._fault = f"{name}.failed", f"{name}.fault"
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; its first pass is at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a pass that asks :meth:`is_stopping` ends early."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def is_stopping(self) -> bool:
        """Tell whether a pass is to end after what it is at."""
        return self._stop.is_set()

    @abstractmethod
    def make_pass(self) -> None:
        """Do what there is to do.

        Raises
        ------
        NodeError
            It failed; the next pass tries again.
        """

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.make_pass()
            except NodeError as error:
                log.warning(self._failed, code=error.code, reason=str(error))
            except Exception:  # the boundary of the thread: without it no pass would follow, and nobody know
                log.exception(self._fault)
            self._stop.wait(self._pause_s)
