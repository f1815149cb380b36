"""Workflows: durable work on DBOS Transact. The one module that knows the engine; decision record 0002 says why.

The engine remembers which steps of a walk are done and starts again what a dead process had in hand. What a study *is*
stands in the SQL store: a workflow that is lost is found there and started anew, under an id that can start only once.

One process runs one engine: DBOS keeps it, and the registry of workflows, in globals of its own.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa
import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID, StepOptions
from dbos import error as dbos_error
from sqlalchemy.engine import make_url

from dicom_node.assemble import Walk
from dicom_node.errors import Disposition, StoreError, disposition_of
from dicom_node.ledger import Turn

APPLICATION_NAME = "boneage-node"
APPLICATION_VERSION = "street-5"
"""Grows when a workflow's steps change, so that a walk never goes on with steps it did not begin with. A walk left
behind by an older version is found by ``Dispatcher`` and starts again in a new round."""

POLLING_INTERVAL_S = 0.2  # how often each queue is looked at; half of it is what a study waits, twice on its way
WALKS_AT_ONCE = 2  # per node: one is composed while the next is interpreted; the interpreter takes one at a time
TURNS_AT_ONCE = 2  # per node and peer
STEP_ATTEMPTS = 8  # of a step whose error may pass: 1 + 2 + 4 + ... seconds, two minutes in all
MAX_RECOVERIES = 10  # a walk that takes the process down with it each time is set aside after so many
WALK_QUEUE = "walk"
_FORGOTTEN_AT_ONCE = 200  # so that others who write to the engine's database wait for moments only
GIVEN_UP = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"

log = structlog.get_logger(__name__)


class Steps(Protocol):
    """Runs the steps of a walk, each once: what it returned is remembered over a restart."""

    def __call__(self, name: str, act: Callable[..., Any], *arguments: object) -> Any:
        """Run one step; ``act`` returns plain data: numbers, strings, lists."""
        ...


def deliver_queue(peer: str) -> str:
    """Return the name of a peer's queue: a peer that does not answer holds up nobody else."""
    return f"deliver-{peer}"


class Workflows:
    """The engine, and what it runs.

    Parameters
    ----------
    system_database_url
        Where the engine keeps its own tables; several nodes share one on PostgreSQL.
    node_id
        This node, stable over restarts: what it had in hand is its own again.
    peers
        Names of the configured archives.
    walk
        Takes a revision down the street, step by step.
    deliver
        Works on one turn; idempotent.
    """

    def __init__(
        self,
        *,
        system_database_url: str,
        node_id: str,
        peers: Sequence[str],
        walk: Callable[[int, Steps], None],
        deliver: Callable[[Turn], None],
    ) -> None:
        self._url = system_database_url
        self._node_id = node_id
        self._peers = tuple(peers)
        self._walk_function = walk
        self._deliver_function = deliver
        self._running = 0
        self._idle = threading.Condition()
        self._stopping = False

    def start(self) -> None:
        """Start the engine: it takes up again what this node had in hand when it died.

        Raises
        ------
        StoreError
            The engine's database cannot be used.
        """
        _prepare_sqlite(self._url)
        DBOS(
            config=DBOSConfig(
                name=APPLICATION_NAME,
                system_database_url=self._url,
                application_version=APPLICATION_VERSION,
                executor_id=self._node_id,
                serializer=DBOSPortableJSONSerializer(),  # data only: nothing in the database is ever executed
                log_level="WARNING",
                run_migrations=True,
            )
        )
        self._register()
        with _as_store_error("The workflow engine does not start"):
            DBOS.launch()
            self._register_queues()

    def stop(self, timeout_s: float) -> None:
        """Let running steps end, up to a time, and stop. What is cut off goes on at the next start."""
        self._stopping = True
        with self._idle:
            is_idle = self._idle.wait_for(lambda: self._running == 0, timeout_s)
        if not is_idle:
            log.warning("workflows.cut-off", running=self._running)
        DBOS.destroy(destroy_registry=True)

    def start_walk(self, walk: Walk) -> None:
        """Have a revision walk; does nothing where its workflow is known.

        Raises
        ------
        StoreError
            The engine's database failed.
        """
        with _as_store_error("The walk was not enqueued"), SetWorkflowID(walk.workflow_id):
            DBOS.enqueue_workflow(WALK_QUEUE, self._walk_workflow, walk.revision_id)

    def start_turn(self, turn: Turn) -> None:
        """Have a turn worked on; does nothing where its workflow is known.

        Raises
        ------
        StoreError
            The engine's database failed.
        """
        # A peer that is configured no more has no queue; its turns only have to be written off, by anyone's worker.
        queue = deliver_queue(turn.peer) if turn.peer in self._peers else WALK_QUEUE
        with _as_store_error("The delivery was not enqueued"), SetWorkflowID(turn.workflow_id):
            DBOS.enqueue_workflow(queue, self._turn_workflow, turn.revision_id, turn.peer, turn.number)

    def ended(self, workflow_ids: Sequence[str]) -> dict[str, str]:
        """Return which of these the engine will not run (any more), each with its last status.

        ``GIVEN_UP`` is the status of those that took the process down too often; the others are done, failed,
        cancelled, or of another version.

        Raises
        ------
        StoreError
            The engine's database failed.
        """
        if not workflow_ids:
            return {}
        with _as_store_error("The engine's workflows cannot be listed"):
            found = DBOS.list_workflows(workflow_ids=list(workflow_ids), load_input=False, load_output=False)
        alive = {"ENQUEUED", "DELAYED", "PENDING"}
        return {
            status.workflow_id: status.status
            for status in found
            if status.status not in alive or status.app_version not in (None, APPLICATION_VERSION)
        }

    def take_over(self, dead_nodes: Collection[str]) -> tuple[str, ...]:
        """Put what dead nodes had in hand back into its queues, for whoever lives; return the workflow ids.

        Raises
        ------
        StoreError
            The engine's database failed.
        """
        if not dead_nodes:
            return ()
        taken: list[str] = []
        with _as_store_error("The work of a dead node was not taken over"):
            left = DBOS.list_workflows(
                status="PENDING", executor_id=sorted(dead_nodes), load_input=False, load_output=False
            )
            for status in left:
                DBOS.resume_workflows([status.workflow_id], queue_name=status.queue_name or WALK_QUEUE)
                taken.append(status.workflow_id)
        return tuple(taken)

    def forget(self, before: datetime) -> int:
        """Have the engine forget what ended before a time; return how many workflows that was.

        What there is to do stands in the SQL store, and what was done as events. Without this an archive that is down
        for weeks costs a workflow per revision and quarter of an hour, for good.

        Raises
        ------
        StoreError
            The engine's database failed.
        """
        number = 0
        with _as_store_error("The engine's workflows cannot be forgotten"):
            while not self._stopping:
                ended = DBOS.list_workflows(
                    status=["SUCCESS", "ERROR", "CANCELLED"],
                    completed_before=before.isoformat(),
                    limit=_FORGOTTEN_AT_ONCE,
                    load_input=False,
                    load_output=False,
                )
                if not ended:
                    break
                DBOS.delete_workflows([status.workflow_id for status in ended])
                number += len(ended)
        return number

    def _register(self) -> None:
        @DBOS.workflow(name="walk", max_recovery_attempts=MAX_RECOVERIES)
        def walk(revision_id: int) -> None:
            with self._counted():
                self._walk_function(revision_id, self._run_step)

        @DBOS.workflow(name="deliver", max_recovery_attempts=MAX_RECOVERIES)
        def deliver(revision_id: int, peer: str, number: int) -> None:
            turn = Turn(revision_id, peer, number)
            with self._counted():
                self._run_step("deliver", self._deliver_function, turn)

        self._walk_workflow = walk
        self._turn_workflow = deliver

    def _register_queues(self) -> None:
        DBOS.register_queue(
            WALK_QUEUE,
            worker_concurrency=WALKS_AT_ONCE,
            polling_interval_sec=POLLING_INTERVAL_S,
            on_conflict="always_update",
        )
        for peer in self._peers:
            DBOS.register_queue(
                deliver_queue(peer),
                worker_concurrency=TURNS_AT_ONCE,
                polling_interval_sec=POLLING_INTERVAL_S,
                on_conflict="always_update",
            )

    def _run_step(self, name: str, act: Callable[..., Any], *arguments: object) -> Any:
        options = StepOptions(
            name=name,
            retries_allowed=True,
            interval_seconds=1.0,
            backoff_rate=2.0,
            max_attempts=STEP_ATTEMPTS,
            should_retry=self._should_retry,
        )
        try:
            return DBOS.run_step(options, functools.partial(act, *arguments))
        except dbos_error.DBOSMaxStepRetriesExceeded as error:
            # Its error may pass, only not within minutes: the walk ends here, and the dispatcher begins it anew.
            raise StoreError(f"The step {name} failed {STEP_ATTEMPTS} times.") from error
        except (dbos_error.DBOSException, sa.exc.SQLAlchemyError) as error:
            # The engine itself, perhaps because it is being stopped: says nothing about the study.
            raise StoreError(f"The engine failed in the step {name}: {type(error).__name__}.") from error

    def _should_retry(self, error: BaseException) -> bool:
        is_ours = isinstance(error, Exception) and disposition_of(error) == Disposition.RETRY
        return is_ours and not self._stopping

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._idle:
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()


def _prepare_sqlite(url: str) -> None:
    """Put the engine's SQLite file into WAL mode, which stays with the file: readers then do not block the writer."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    engine = sa.create_engine(parsed)
    with closing(engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode=WAL")
    engine.dispose()


@contextmanager
def _as_store_error(what: str) -> Iterator[None]:
    try:
        yield
    except (dbos_error.DBOSException, sa.exc.SQLAlchemyError) as error:
        # Without the engine's message: it may quote statements and their values.
        raise StoreError(f"{what}: {type(error).__name__}.") from error
