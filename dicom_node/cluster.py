"""Cluster: nodes that share one store, their signs of life, and who takes over from whom.

Each node has an id of its own that it keeps over restarts. It writes a heartbeat; one that stays silent is taken for
dead, and its work goes back into the queues, for whoever lives. Should it only have been slow, the engine refuses its
results, and since steps are idempotent the archive sees nothing of it.

Nodes of one cluster share the PostgreSQL database and the data directory; each has a spool of its own in there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import uuid
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import NodeIdTaken, StoreError
from dicom_node.events import record
from dicom_node.settings import ClusterSettings
from dicom_node.store import NodeRow, Store, insert_if_absent, now
from dicom_node.workflows import Workflows

log = structlog.get_logger(__name__)


class Membership:
    """One node's place in the cluster.

    Parameters
    ----------
    store
        The SQL store.
    node_id
        This node.
    settings
        How often it shows that it lives, and how long the others may be silent.
    data_dir
        Where the lock of a node on SQLite lies.
    """

    def __init__(self, store: Store, node_id: str, settings: ClusterSettings, data_dir: Path) -> None:
        self._store = store
        self._node_id = node_id
        self._settings = settings
        self._lock_path = data_dir / f"{node_id}.lock"
        self._descriptor: int | None = None
        self._connection: Connection | None = None
        self._workflows: Workflows | None = None
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def join(self) -> None:
        """Claim the node's id and write the first heartbeat.

        Raises
        ------
        NodeIdTaken
            Another live process has this id.
        StoreError
            The database failed.
        """
        self._claim()
        with self._store.session() as session:
            joined = now()
            life = {"incarnation": uuid.uuid4().hex, "started_at": joined, "heartbeat_at": joined, "stopped_at": None}
            if not insert_if_absent(session, NodeRow, id=self._node_id, **life):
                session.execute(sa.update(NodeRow).where(NodeRow.id == self._node_id).values(**life))
            record(session, self._node_id, "node-started", None)

    def watch(self, workflows: Workflows) -> None:
        """Start the heartbeat, and to look after the others."""
        self._workflows = workflows
        self._thread.start()

    def leave(self) -> None:
        """Say good-bye and give the id back; what this node leaves undone is for the others after a while."""
        self._leave.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            with self._store.session() as session:
                session.execute(sa.update(NodeRow).where(NodeRow.id == self._node_id).values(stopped_at=now()))
                record(session, self._node_id, "node-stopped", None)
        except StoreError as error:
            log.warning("cluster.no-good-bye", code=error.code, reason=str(error))
        self._release()

    def beat(self) -> None:
        """Show that this node lives.

        Raises
        ------
        StoreError
            The database failed.
        """
        with self._store.session() as session:
            life = {"heartbeat_at": now(), "stopped_at": None}
            session.execute(sa.update(NodeRow).where(NodeRow.id == self._node_id).values(**life))

    def keep_claim(self) -> None:
        """Claim the node's id again where PostgreSQL has forgotten it: the lock goes with its connection.

        Raises
        ------
        NodeIdTaken
            Another process has claimed it meanwhile.
        StoreError
            The database failed.
        """
        if self._store.engine.dialect.name != "postgresql":
            return
        try:
            if self._connection is not None:
                self._connection.scalar(sa.text("SELECT 1"))
                return
        except SQLAlchemyError:
            self._release()
        try:
            self._claim()
        except SQLAlchemyError as error:
            self._release()
            raise StoreError("The node's id cannot be claimed: the database does not answer.") from error

    def silent_nodes(self) -> tuple[str, ...]:
        """Return the other nodes that have shown no sign of life for as long as the settings allow.

        Raises
        ------
        StoreError
            The database failed.
        """
        latest = now() - timedelta(seconds=self._settings.silent_after_s)
        query = sa.select(NodeRow.id).where(NodeRow.id != self._node_id, NodeRow.heartbeat_at < latest)
        with self._store.reading() as session:
            return tuple(session.scalars(query.order_by(NodeRow.id)))

    def _run(self) -> None:
        while not self._leave.wait(self._settings.heartbeat_s):
            try:
                self.keep_claim()
                self.beat()
                self._take_over()
            except NodeIdTaken as error:
                log.exception("cluster.id-lost", code=error.code)
            except StoreError as error:
                # The others will take this node for dead if it stays so; the next beat says otherwise.
                log.warning("cluster.no-heartbeat", code=error.code, reason=str(error))

    def _take_over(self) -> None:
        assert self._workflows is not None
        silent = self.silent_nodes()
        taken = self._workflows.take_over(silent)
        if taken:
            detail = f"{len(taken)} from {', '.join(silent)}"
            with self._store.session() as session:
                record(session, self._node_id, "taken-over", None, detail=detail)

    def _claim(self) -> None:
        # Both locks end with the process, however it ends: a restart after kill -9 need not wait for a silence.
        taken = NodeIdTaken(f"Another live process is node {self._node_id}. Give each node an id of its own.")
        if self._store.engine.dialect.name == "postgresql":
            key = int.from_bytes(hashlib.sha256(self._node_id.encode()).digest()[:8], "big", signed=True)
            self._connection = self._store.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            if not self._connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}):
                self._release()
                raise taken
            return
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._release()
            raise taken from None

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._connection is not None:
            self._connection.invalidate()  # closes the session itself, and its lock with it, not only gives it back
            self._connection.close()
            self._connection = None
