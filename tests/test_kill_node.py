"""kill -9 at every point of the street, then a restart: each study ends committed, each object is once in the archive.

Real processes, real associations, a stand-in for the model. Not covered: loss of power (fsync is taken at its word),
PostgreSQL dying (its own tests do that), two nodes (test_cluster.py).
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from conformance.films import PATIENT, make_film
from conformance.nodes import NodeProcess, document_uids, held_uids, ledger, make_settings, send, states
from dicom_node.archive import Archive
from dicom_node.store import Store, make_engine

SCRIPT = Path(__file__).with_name("node_process.py")
POINTS = (
    "record", "receive", "assemble", "interpret", "write", "compose", "ledger", "send", "between", "request", "report",
)  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_node_finishes_after_a_restart(point: str, tmp_path: Path) -> None:
    """Given a node that dies at a point, when it is started again, then the study is committed, and only once."""
    film = make_film()
    with Archive(tmp_path / "archive") as archive:
        settings = make_settings(
            tmp_path / "node",
            {"pacs": archive.address},
            assemble={"quiet_period_s": 1.0 if point == "receive" else 0.0},
        )
        with NodeProcess(SCRIPT, settings, [point]) as first:
            (status,) = send(first.listen(), [film])
            assert first.wait_for_death() == -9
        assert status == (None if point == "record" else 0x0000)

        with NodeProcess(SCRIPT, settings) as second:
            address = second.listen()
            if status is None:
                assert send(address, [film]) == [0x0000]  # a sender repeats what was not answered
            store = Store(make_engine(settings.database_url))
            second.journal.wait_until(lambda: states(store) == {str(film.StudyInstanceUID): "committed"})
            assert second.stop() == 0

        assert [delivery.state for delivery in ledger(store, film.StudyInstanceUID)] == ["committed", "committed"]
        assert held_uids(archive) == document_uids(store)
        assert len(held_uids(archive)) == 2
        store.close()
    _assert_no_patient_in(first, second)


def test_many_studies_survive_being_killed_again_and_again(tmp_path: Path) -> None:
    """Given ten studies, when the node is killed thrice while it works, then all are committed, each once."""
    films = [make_film() for _ in range(10)]
    with Archive(tmp_path / "archive") as archive, contextlib.ExitStack() as processes:
        settings = make_settings(tmp_path / "node", {"pacs": archive.address})
        node = processes.enter_context(NodeProcess(SCRIPT, settings))
        assert send(node.listen(), films) == [0x0000] * len(films)
        for kind in ("estimated", "sent", "committed"):
            node.journal.wait_for(kind)
            node.kill()
            _assert_no_patient_in(node)
            node = processes.enter_context(NodeProcess(SCRIPT, settings))
            node.listen()
        store = Store(make_engine(settings.database_url))
        node.journal.wait_until(lambda: set(states(store).values()) == {"committed"})
        node.stop()

        assert len(states(store)) == len(films)
        assert held_uids(archive) == document_uids(store)
        assert len(held_uids(archive)) == 2 * len(films)
        store.close()
    _assert_no_patient_in(node)


def _assert_no_patient_in(*processes: NodeProcess) -> None:
    text = "\n".join(str(event) for process in processes for event in process.journal.events)
    for value in PATIENT.values():
        assert value not in text
