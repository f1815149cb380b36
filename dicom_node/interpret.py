"""Interpret: each instance of a revision gets one finding, stored whole as JSON."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from pydicom import Dataset

from dicom_node import priors
from dicom_node.errors import InterpretationFailed
from dicom_node.events import record
from dicom_node.findings import finding_columns, finding_to_json
from dicom_node.revisions import lock_revision
from dicom_node.sources import read_source
from dicom_node.store import FindingRow, Instance, Store, insert_if_absent
from inference.finding import Estimate, Finding, ModelIdentity


class Interpreter(Protocol):
    """What reads films: ``inference.engine.Engine``, or anything else that keeps this promise."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model it is."""
        ...

    def interpret(self, ds: Dataset) -> Finding:
        """Read one object. A bad film is a Refusal, never an exception."""
        ...


class Reader:
    """Reads the instances of revisions, one at a time: two on the same cores would both be late.

    Parameters
    ----------
    store
        The SQL store.
    spool_dir
        Where the received files lie.
    interpreter
        What reads films.
    node_id
        This node, for the events.
    """

    def __init__(self, store: Store, spool_dir: Path, interpreter: Interpreter, node_id: str) -> None:
        self._store = store
        self._spool_dir = spool_dir
        self._interpreter = interpreter
        self._node_id = node_id
        self._one_at_a_time = threading.Lock()

    def interpret(self, revision_id: int, instance_id: int) -> None:
        """Read one instance for one revision, unless that is done.

        Raises
        ------
        SpoolFileMissing
            Its file is not in the spool.
        SourceCutOff
            It ends before its data does.
        InterpretationFailed
            The interpreter raised.
        StoreError
            The database failed.
        """
        with self._store.reading() as session:
            done = sa.select(FindingRow.id).where(
                FindingRow.revision_id == revision_id, FindingRow.instance_id == instance_id
            )
            if session.scalars(done).one_or_none() is not None:
                return
            instance = session.get_one(Instance, instance_id)
        source = read_source(self._spool_dir, instance)
        finding, body = self._read(source, instance.sop_instance_uid)
        self._keep(revision_id, instance, source, finding, body)

    def read_aside(self, ds: Dataset) -> tuple[Finding, str]:
        """Read an object that belongs to no revision; return what was found, and that as JSON. Nothing is recorded.

        Raises
        ------
        InterpretationFailed
            The interpreter raised.
        """
        return self._read(ds, str(ds.get("SOPInstanceUID", "")))

    def _read(self, ds: Dataset, sop_instance_uid: str) -> tuple[Finding, str]:
        try:
            with self._one_at_a_time:
                finding = self._interpreter.interpret(ds)
            return finding, finding_to_json(finding)
        except Exception as error:
            # The boundary to the model: whatever it raises concerns this one object, and must not stop the others.
            kind = type(error).__name__
            raise InterpretationFailed(f"The interpreter raised {kind} on {sop_instance_uid}.") from error

    def _keep(self, revision_id: int, instance: Instance, source: Dataset, finding: Finding, body: str) -> None:
        with self._store.session() as session:
            study, revision = lock_revision(session, revision_id)
            is_new = insert_if_absent(
                session,
                FindingRow,
                instance_id=instance.id,
                revision_id=revision_id,
                **finding_columns(finding, body),
            )
            if is_new and isinstance(finding, Estimate):
                row = session.scalars(
                    sa.select(FindingRow).where(
                        FindingRow.revision_id == revision_id, FindingRow.instance_id == instance.id
                    )
                ).one()
                priors.enter(session, row, study.id, source, finding)
            if is_new:
                kind = "estimated" if isinstance(finding, Estimate) else "refused"
                detail = None if isinstance(finding, Estimate) else str(finding.code)
                uid, number = instance.sop_instance_uid, revision.number
                record(session, self._node_id, kind, study, revision=number, sop_instance_uid=uid, detail=detail)
