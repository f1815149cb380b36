"""Dispatch: finds what is to be done in the SQL store and hands it to the workflow engine.

The store is the truth, the engine its servant: every pass assembles what is ready, and enqueues each revision that is
to walk and each delivery that is due. Ids make that harmless to repeat, on this node and on others. So work is also
found that a crash left between two transactions, that another node received, or that a person asked for on a command
line.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime

import structlog

from dicom_node import ledger
from dicom_node.assemble import Walk, assemble_ready, next_ready_at, pending_walks
from dicom_node.clock import wake_what_waits_for_a_wrong_time
from dicom_node.errors import StoreError
from dicom_node.ledger import Turn
from dicom_node.store import Store, now
from dicom_node.street import Street
from dicom_node.workflows import GIVEN_UP, Workflows

LONGEST_PAUSE_S = 1.0  # after that the store is looked at anyway: others write to it too
RECONCILE_EVERY_S = 30.0  # how often work is looked for whose workflow has ended without doing it

log = structlog.get_logger(__name__)


class Dispatcher:
    """One thread that keeps the engine supplied.

    Parameters
    ----------
    store
        The SQL store.
    workflows
        The engine.
    street
        Begins walks anew.
    node_id
        This node, for the events.
    """

    def __init__(self, store: Store, workflows: Workflows, street: Street, node_id: str) -> None:
        self._store = store
        self._workflows = workflows
        self._street = street
        self._node_id = node_id
        self._wake = threading.Event()
        self._stopping = False
        self._handed_over: set[str] = set()  # workflow ids this process has enqueued and that are still to be done
        self._reconciled_at: datetime | None = None
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Start the thread; its first pass also takes up what a crash left."""
        self._thread.start()

    def wake(self) -> None:
        """Have a pass made now: something has become ready or due."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread after the pass it is in."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                at = now()
                self.make_pass(at)
                pause_s = self._pause_s(at)
            except StoreError as error:
                # Nothing is lost by waiting: whatever was to be done still stands in the store.
                log.warning("dispatch.failed", code=error.code, reason=str(error))
                pause_s = LONGEST_PAUSE_S
            except Exception:  # the boundary of the thread: without it the node would receive on and read nothing
                log.exception("dispatch.fault")
                pause_s = LONGEST_PAUSE_S
            self._wake.wait(pause_s)

    def make_pass(self, at: datetime) -> None:
        """Assemble what is ready by then, enqueue what is to be done.

        Raises
        ------
        StoreError
            A database failed.
        """
        is_time = self._reconciled_at is None or abs((at - self._reconciled_at).total_seconds()) >= RECONCILE_EVERY_S
        if is_time:  # by the clock, which may also have been set back
            wake_what_waits_for_a_wrong_time(self._store, at)
        assemble_ready(self._store, self._node_id, at)
        walks = pending_walks(self._store)
        turns = ledger.due_turns(self._store, at)
        # Forget what is done, so that the set stays as small as the work.
        self._handed_over &= _ids(walks, turns)
        if is_time:
            self._reconciled_at = at
            self._reconcile(walks, turns)
        for walk in walks:
            if walk.workflow_id not in self._handed_over:
                self._workflows.start_walk(walk)
                self._handed_over.add(walk.workflow_id)
        for turn in turns:
            if turn.workflow_id not in self._handed_over:
                self._workflows.start_turn(turn)
                self._handed_over.add(turn.workflow_id)

    def _reconcile(self, walks: tuple[Walk, ...], turns: tuple[Turn, ...]) -> None:
        """Give new ids to work that is still to be done though its workflow has ended."""
        ended = self._workflows.ended(sorted(_ids(walks, turns)))
        if not ended:
            return
        # A workflow may have ended, and done its work, after the two lists were made: look again.
        for walk in pending_walks(self._store):
            if walk.workflow_id in ended:
                log.warning("dispatch.walk-lost", workflow_id=walk.workflow_id, status=ended[walk.workflow_id])
                self._restart(walk, ended[walk.workflow_id])
        for turn in ledger.due_turns(self._store, now()):
            if turn.workflow_id in ended:
                log.warning("dispatch.turn-lost", workflow_id=turn.workflow_id)
                ledger.renew_turn(self._store, turn)
        self._wake.set()

    def _restart(self, walk: Walk, status: str) -> None:
        if status == GIVEN_UP:
            self._street.give_up(walk.revision_id)
        else:
            self._street.begin_anew(walk.revision_id)

    def _pause_s(self, at: datetime) -> float:
        """Return how long there is nothing to do after a pass that was made for ``at``."""
        times = (next_ready_at(self._store, at), ledger.next_due_at(self._store, at))
        coming = [max((time - now()).total_seconds(), 0.0) for time in times if time is not None]
        return min([LONGEST_PAUSE_S, *coming])


def _ids(walks: Iterable[Walk], turns: Iterable[Turn]) -> set[str]:
    return {walk.workflow_id for walk in walks} | {turn.workflow_id for turn in turns}
