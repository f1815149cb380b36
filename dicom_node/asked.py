"""Asked: objects that this node has asked an archive to move to it (C-MOVE), told from those that are sent to it.

An archive moves over an association of its own, to the node's Storage SCP. What comes there because it was asked for is
handed to who waits for it, and never becomes a study. It is known by its series or its own UID, and by the Move
Originator (PS3.7 section 9.1.1.1), which a plain C-STORE does not have. Archives that leave the originator out, or name
themselves (pynetdicom's do), are believed while they are asked, and only under the AE title they are asked by.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from pynetdicom.sop_class import Comprehensive3DSRStorage, ComprehensiveSRStorage

REPORTS: Final = (str(Comprehensive3DSRStorage), str(ComprehensiveSRStorage))
"""What earlier reports are written as. They are received when they are asked for, and at no other time."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends an object, as it says itself."""

    calling_ae: str
    originator: (
        str  # AE title of who asked for the move; empty for what nobody asked for, or an archive that says nothing
    )


@dataclass(frozen=True, slots=True)
class _Request:
    archive_ae: str
    uid: str
    files: list[bytes] = field(default_factory=list)


class Asked:
    """What is waited for now. Called from many threads.

    Parameters
    ----------
    ae_title
        As whom this node asks.
    """

    def __init__(self, ae_title: str) -> None:
        self._ae_title = ae_title
        self._requests: list[_Request] = []
        self._lock = threading.Lock()

    @contextmanager
    def waiting(self, archive_ae: str, uid: str) -> Iterator[list[bytes]]:
        """Wait for a series, or for one object; yields the list of Part 10 files that grows meanwhile."""
        request = _Request(archive_ae, uid)
        with self._lock:
            self._requests.append(request)
        try:
            yield request.files
        finally:
            with self._lock:
                self._requests = [one for one in self._requests if one is not request]

    def is_asked_for(self, sender: Sender) -> bool:
        """Tell whether a sender says that it moves something for this node; whether that is so, ``take`` finds out."""
        return sender.originator == self._ae_title

    def may_be_asked_for(self, sender: Sender) -> bool:
        """Tell whether something is waited for that this sender may bring."""
        with self._lock:
            return any(self._fits(request, sender) for request in self._requests)

    def take(self, sender: Sender, uids: tuple[str, str], read: Callable[[], bytes]) -> bool:
        """Hand an object to who waits for it; return False where nobody does.

        Parameters
        ----------
        uids
            Of its series, and its own.
        read
            Returns it as a Part 10 file; not called for what nobody waits for.
        """
        with self._lock:
            waiting = [one for one in self._requests if one.uid in uids and self._fits(one, sender)]
        if waiting:
            file = read()
            for request in waiting:
                request.files.append(file)
        return bool(waiting)

    def _fits(self, request: _Request, sender: Sender) -> bool:
        if sender.originator not in {"", sender.calling_ae}:
            return sender.originator == self._ae_title
        return sender.calling_ae == request.archive_ae
