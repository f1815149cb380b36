"""Several nodes on one PostgreSQL: a node that stays silent has its work taken over by itself; one id, one process.

Not covered: nodes on several machines (they share the data directory; see decision record 0002), network partitions.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from conformance.films import make_film
from conformance.nodes import Journal, NodeProcess, document_uids, held_uids, make_settings, run_node, send, states
from conformance.postgresql import Cluster
from conformance.stand_in import StandIn
from dicom_node.archive import Archive
from dicom_node.cluster import Membership
from dicom_node.errors import NodeIdTaken
from dicom_node.settings import ClusterSettings
from dicom_node.store import Event, NodeRow, Store, make_engine, now, open_store

SCRIPT = Path(__file__).with_name("node_process.py")


def test_a_dead_nodes_work_is_taken_over(tmp_path: Path, postgresql: Cluster) -> None:
    """Given two nodes, when the one that has everything is killed for good, then the other finishes all of it."""
    films = [make_film() for _ in range(8)]
    url = postgresql.create_database()
    with Archive(tmp_path / "archive") as archive, contextlib.ExitStack() as processes:
        # The first gets everything and dies; the second starts only then, so that all the work is the first's.
        node_1, node_2 = (
            make_settings(tmp_path / "data", {"pacs": archive.address}, store={"url": url}, node={"id": id_})
            for id_ in ("node-1", "node-2")
        )
        first = processes.enter_context(NodeProcess(SCRIPT, node_1, ["write"]))
        statuses = [send(first.listen(), [film])[0] for film in films]
        assert first.wait_for_death() == -9
        received = [film for film, status in zip(films, statuses, strict=True) if status == 0x0000]
        assert received
        second = processes.enter_context(NodeProcess(SCRIPT, node_2))
        second.listen()
        store = Store(make_engine(url))
        wanted = {str(film.StudyInstanceUID) for film in received}
        second.journal.wait_until(
            lambda: {uid for uid, state in states(store).items() if state == "committed"} >= wanted
        )
        second.journal.wait_for("taken-over")
        with store.reading() as session:
            taken = session.scalars(sa.select(Event).where(Event.kind == "taken-over")).all()
        assert {event.node_id for event in taken} == {"node-2"}
        assert second.stop() == 0
        assert held_uids(archive) == document_uids(store)
        store.close()


def test_two_live_nodes_share_the_work(tmp_path: Path, postgresql: Cluster) -> None:
    """Given two nodes that both receive, then every study is committed once, whoever did what."""
    films = [make_film() for _ in range(6)]
    url = postgresql.create_database()
    with Archive(tmp_path / "archive") as archive, contextlib.ExitStack() as processes:
        both = Journal()  # either node may make the last step
        nodes = [
            processes.enter_context(
                NodeProcess(
                    SCRIPT,
                    make_settings(tmp_path / "data", {"pacs": archive.address}, store={"url": url}, node={"id": id_}),
                    also=both,
                )
            )
            for id_ in ("node-1", "node-2")
        ]
        for node, share in zip(nodes, (films[:3], films[3:]), strict=True):
            assert send(node.listen(), share) == [0x0000] * 3
        store = Store(make_engine(url))
        both.wait_until(lambda: list(states(store).values()) == ["committed"] * 6)
        for node in nodes:
            assert node.stop() == 0
        assert held_uids(archive) == document_uids(store)
        assert set(archive.receipts.values()) == {1}
        store.close()


def test_a_node_id_belongs_to_one_process(tmp_path: Path, store_url: str) -> None:
    settings = make_settings(tmp_path / "node", store={"url": store_url})
    with run_node(settings, StandIn()):
        store = open_store(store_url)
        twin = Membership(store, "node-1", settings.cluster, settings.node.data_dir)
        with pytest.raises(NodeIdTaken):
            twin.join()
        store.close()
    with run_node(settings, StandIn()):
        pass  # given back


def test_a_node_keeps_its_id_over_a_restart_of_the_database(tmp_path: Path, postgresql: Cluster) -> None:
    """Given a node whose connections PostgreSQL has cut, when it beats again, then no other process gets its id."""
    store = open_store(postgresql.create_database())
    one, twin = (Membership(store, "node-1", ClusterSettings(), tmp_path) for _ in range(2))
    one.join()
    with store.engine.connect() as connection:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        connection.execute(sa.text(cut))
    one.keep_claim()
    with pytest.raises(NodeIdTaken):
        twin.join()
    one.leave()
    twin.join()
    with pytest.raises(NodeIdTaken):
        one.keep_claim()
    twin.leave()
    store.close()


def test_a_beat_takes_back_a_good_bye(tmp_path: Path, store_url: str) -> None:
    store = open_store(store_url)
    member = Membership(store, "node-1", ClusterSettings(), tmp_path)
    member.join()
    with store.session() as session:
        session.execute(sa.update(NodeRow).values(stopped_at=now()))
    member.beat()
    with store.reading() as session:
        assert session.scalars(sa.select(NodeRow.stopped_at)).one() is None
    member.leave()
    store.close()


def test_a_killed_node_gets_its_id_back_at_once(tmp_path: Path, store_url: str) -> None:
    settings = make_settings(tmp_path / "node", store={"url": store_url})
    with NodeProcess(SCRIPT, settings) as first:
        first.listen()
        first.kill()
    with NodeProcess(SCRIPT, settings) as second:
        second.listen()
        second.stop()


def test_silence_is_told_from_life(tmp_path: Path, store_url: str) -> None:
    store = open_store(store_url)
    settings = ClusterSettings(heartbeat_s=1, silent_after_s=30)
    ages_s = {"me": 0, "lively": 5, "silent": 31, "stopped": 3600}
    with store.session() as session:
        for name, age_s in ages_s.items():
            seen = now() - timedelta(seconds=age_s)
            session.add(NodeRow(id=name, incarnation="x", started_at=seen, heartbeat_at=seen))
    membership = Membership(store, "me", settings, tmp_path)
    assert membership.silent_nodes() == ("silent", "stopped")
    with store.session() as session:
        session.get_one(NodeRow, "me").heartbeat_at = now() - timedelta(days=1)
    membership.beat()
    with store.reading() as session:
        assert now() - session.get_one(NodeRow, "me").heartbeat_at < timedelta(seconds=30)
    store.close()
