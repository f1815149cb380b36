"""Storage commitment outside the ledger: ask once, and wait for the report wherever it comes (PS3.4 annex J).

An archive reports on the association that asked, or on one that it opens to the node's address. Where no node runs, the
one who asks listens there itself; where one runs, that one takes the report, does not know its transaction, and keeps
an event that says so.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_node.commitment import INVALID_ARGUMENT_VALUE, SUCCESS, UNKNOWN_EVENT, read_report
from dicom_node.deliver import ANSWER_WAIT_S, ReportAnswers
from dicom_node.errors import StoreError
from dicom_node.settings import Settings
from dicom_node.status import open_existing
from dicom_node.store import Event, Store

LOOK_EVERY_S = 0.2


class Vouched(NamedTuple):
    """What a report said: how many objects are committed, and how many are not."""

    committed: int
    failed: int


class Awaited:
    """One transaction, and the report on it."""

    def __init__(self) -> None:
        self.transaction_uid = str(generate_uid())
        self._come = threading.Event()
        self._vouched: Vouched | None = None

    def take(self, event: evt.Event) -> tuple[int, None]:
        """Take an N-EVENT-REPORT; return its status: 0x0000, or 0x0115 for another transaction (PS3.7 10.1.1.1.8)."""
        report = read_report(event.event_information)
        if report.transaction_uid != self.transaction_uid:
            return INVALID_ARGUMENT_VALUE, None
        self._vouched = Vouched(len(report.committed), len(report.failed))
        self._come.set()
        return SUCCESS, None

    def wait(self, timeout_s: float, look: Callable[[str], Vouched | None]) -> Vouched | None:
        """Wait for the report; None where time ran out.

        Parameters
        ----------
        look
            Says what a running node has noted of a transaction.
        """
        deadline = time.monotonic() + timeout_s
        while not self._come.wait(LOOK_EVERY_S):
            noted = look(self.transaction_uid)
            if noted is not None:
                return noted
            if time.monotonic() > deadline:
                return None
        return self._vouched


@contextlib.contextmanager
def listening(settings: Settings, take: Callable[[Any], tuple[int, None]]) -> Iterator[None]:
    """Take reports at the node's address for a while, unless the node itself, or somebody else, listens there."""
    address = settings.receive.host, settings.receive.port
    ae = AE(settings.node.ae_title)
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    answers = ReportAnswers(take)
    try:
        server = ae.start_server(address, block=False, evt_handlers=answers.handlers)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        answers.settle(ANSWER_WAIT_S)
        server.shutdown()
        ae.shutdown()


@contextlib.contextmanager
def noted_by_node(settings: Settings) -> Iterator[Callable[[str], Vouched | None]]:
    """Give a look at what a running node with these settings notes of transactions it does not know."""
    try:
        store = open_existing(settings)
    except StoreError:  # never started: nothing there to look at
        yield lambda _uid: None
        return
    try:
        yield lambda uid: _noted(store, uid)
    finally:
        store.close()


def _noted(store: Store, transaction_uid: str) -> Vouched | None:
    query = sa.select(Event.detail).where(
        Event.kind == UNKNOWN_EVENT, Event.detail.startswith(f"{transaction_uid} ", autoescape=True)
    )
    try:
        with store.reading() as session:
            found = session.scalars(query.limit(1)).one_or_none()
    except StoreError:  # a database that was made, but has no tables yet
        return None
    if found is None:
        return None
    _uid, committed, failed = found.split(" ")
    return Vouched(int(committed), int(failed))
