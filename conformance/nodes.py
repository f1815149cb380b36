"""Nodes under test: settings for a folder, senders, and a journal to wait on instead of sleeping.

Used by tests and benchmarks.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import sqlalchemy as sa
import structlog
from pydicom import Dataset, FileDataset, dcmread
from pynetdicom import AE

from conformance.films import write
from dicom_node.archive import Archive
from dicom_node.interpret import Interpreter
from dicom_node.logs import describe_exception
from dicom_node.node import Node
from dicom_node.settings import Settings
from dicom_node.store import Delivery, Document, Revision, Store, Study

PATIENCE_S = 60.0
SENDER, NODE = "SENDER", "BONEAGE"


class Journal:
    """The log of a node, as it is written; something to wait on.

    In one process with the node it is a structlog processor; of another process it is fed lines of JSON.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._grown = threading.Condition()

    def __call__(self, _logger: object, _method: str, event: Any) -> NoReturn:
        """Take one event of this process (structlog's processor interface)."""
        taken = dict(event)
        raised = taken.pop("exc_info", None)
        error = raised if isinstance(raised, BaseException) else sys.exc_info()[1] if raised else None
        if error is not None:
            taken["exception"] = describe_exception(error)  # as the node's own log does
        self.add(taken)
        raise structlog.DropEvent

    def feed(self, stream: IO[str], also: Journal | None = None) -> None:
        """Take the lines of another process until it ends, and hand them on to another journal."""
        for line in stream:
            event = _read_event(line)
            for journal in (self, also):
                if journal is not None:
                    journal.add(event)
        self.add({"event": "end"})

    def add(self, event: dict[str, Any]) -> None:
        """Take one event."""
        with self._grown:
            self.events.append(event)
            self._grown.notify_all()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait until a condition holds; it is looked at after every event.

        Raises
        ------
        TimeoutError
            Time ran out; the message holds the last events.
        """
        with self._grown:
            if not self._grown.wait_for(condition, timeout_s):
                told = "\n".join(str(event) for event in self.events[-25:])
                raise TimeoutError(f"Not within {timeout_s:.0f} s. Last events:\n{told}")

    def wait_for(self, kind: str, *, count: int = 1, timeout_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """Wait until so many events of a kind have come; return them."""
        self.wait_until(lambda: len(self.of(kind)) >= count, timeout_s)
        return self.of(kind)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind."""
        return [event for event in self.events if event.get("event") == kind]

    @contextlib.contextmanager
    def listening(self) -> Iterator[Journal]:
        """Take what this process logs, instead of it being printed."""
        before = structlog.get_config()
        structlog.configure(processors=[self], cache_logger_on_first_use=False)
        try:
            yield self
        finally:
            structlog.configure(**before)


def _read_event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        event = None
    return event if isinstance(event, dict) else {"event": "line", "text": line}


def make_settings(
    folder: Path, archives: Mapping[str, tuple[str, int]] | None = None, **sections: Mapping[str, Any]
) -> Settings:
    """Return settings for a node in a folder, with short times.

    Parameters
    ----------
    archives
        Name and address of each archive; its AE title is ARCHIVE.
    sections
        Keys that replace or extend those of a section; ``peers`` is a dictionary of archives' keys by name.
    """
    peers = sections.pop("peers", {})
    data: dict[str, dict[str, Any]] = {
        "node": {"data_dir": folder},
        "receive": {"port": 0},
        "assemble": {"quiet_period_s": 0.0},
        "deliver": {"first_retry_s": 0.2, "max_retry_s": 0.5, "connect_timeout_s": 5.0, "dimse_timeout_s": 5.0},
        "cluster": {"heartbeat_s": 0.5, "silent_after_s": 2.0},
    }
    for section, keys in sections.items():
        data[section] = {**data.get(section, {}), **keys}
    listed: list[dict[str, Any]] = [{"kind": "sender", "name": "modality", "ae_title": SENDER}]
    for name, (host, port) in (archives or {}).items():
        archive = {"kind": "archive", "name": name, "ae_title": "ARCHIVE", "host": host, "port": port}
        listed.append({**archive, **peers.get(name, {})})
    if "modality" in peers:
        listed[0] |= peers["modality"]
    return Settings.model_validate({**data, "peers": listed})


@contextlib.contextmanager
def run_node(settings: Settings, interpreter: Interpreter) -> Iterator[Node]:
    """Run a node in this process."""
    node = Node(settings, interpreter)
    node.start()
    try:
        yield node
    finally:
        node.stop()


def send(address: tuple[str, int], films: Iterable[FileDataset], *, calling_ae: str = SENDER) -> list[int | None]:
    """Send objects over one association; return their statuses, None where no answer came."""
    objects = [dcmread(BytesIO(write(ds))) for ds in films]  # as a modality would: from a file
    ae = AE(calling_ae)
    for sop_class_uid, syntax in {(str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) for ds in objects}:
        ae.add_requested_context(sop_class_uid, syntax)
    assoc = ae.associate(*address, ae_title=NODE)
    if not assoc.is_established:
        return [None] * len(objects)
    statuses: list[int | None] = []
    for ds in objects:
        answer = assoc.send_c_store(ds) if assoc.is_established else Dataset()
        statuses.append(int(answer.Status) if "Status" in answer else None)
    if assoc.is_established:
        assoc.release()
    return statuses


def states(store: Store) -> dict[str, str]:
    """Return the state of each study by its UID."""
    with store.reading() as session:
        return dict(session.execute(sa.select(Study.study_instance_uid, Study.state)).all())


def ledger(store: Store, study_instance_uid: str) -> list[Delivery]:
    """Return the ledger of a study."""
    query = (
        sa.select(Delivery)
        .join(Revision, Revision.id == Delivery.revision_id)
        .join(Study, Study.id == Revision.study_id)
        .where(Study.study_instance_uid == study_instance_uid)
    )
    with store.reading() as session:
        return list(session.scalars(query.order_by(Delivery.id)))


def document_uids(store: Store) -> list[str]:
    """Return the SOP Instance UIDs of all documents that archives are to get, sorted."""
    with store.reading() as session:
        sent = sa.select(Document.sop_instance_uid).join(Delivery, Delivery.document_id == Document.id)
        return sorted(set(session.scalars(sent)))


def held_uids(archive: Archive) -> list[str]:
    """Return the SOP Instance UIDs of everything an archive holds, sorted."""
    return sorted(item.sop_instance_uid for item in archive.objects())


class NodeProcess:
    """A node in a process of its own, which may be killed.

    Parameters
    ----------
    script
        Python file that takes a JSON file of settings and further words, logs JSON lines to standard error and the
        event ``test.listening`` with ``host`` and ``port``.
    settings
        The node's settings.
    words
        What else the script is told.
    also
        A journal that hears of it too: to wait on several nodes at once.
    """

    def __init__(
        self, script: Path, settings: Settings, words: Sequence[str] = (), *, also: Journal | None = None
    ) -> None:
        path = settings.node.data_dir.parent / f"{settings.node.data_dir.name}-{settings.node.id}.json"
        path.write_text(settings.model_dump_json())
        self.journal = Journal()
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(path), *words], stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=self.journal.feed, args=(self.process.stderr, also), daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def listen(self) -> tuple[str, int]:
        """Wait until the node listens; return where."""
        self.journal.wait_until(lambda: bool(self.journal.of("test.listening") or self.journal.of("end")))
        (event,) = self.journal.of("test.listening")
        return event["host"], event["port"]

    def wait_for_death(self) -> int:
        """Wait until the process has ended by itself; return its exit status."""
        code = self.process.wait(PATIENCE_S)
        self._close()
        return code

    def kill(self) -> None:
        """End the process without giving it a chance, and wait for that."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._close()

    def stop(self) -> int:
        """Ask the process to end in order; return its exit status."""
        self.process.terminate()
        return self.wait_for_death()

    def _close(self) -> None:
        self._reader.join(PATIENCE_S)
        if self.process.stderr is not None:
            self.process.stderr.close()
