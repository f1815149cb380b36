"""The street a revision walks: interpret, compose, verify, and into the ledger, from where it is delivered.

Each step is one function with one committed result, and does nothing where that result is there: a walk that died is
walked again from its beginning, and repeats nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
import structlog

from dicom_node import ledger
from dicom_node.assemble import walk_again
from dicom_node.compose import Composer, kinds_wanted
from dicom_node.errors import Disposition, NodeError, WalkGivenUp, code_of, disposition_of
from dicom_node.events import record
from dicom_node.interpret import Reader
from dicom_node.priors import Seeker
from dicom_node.revisions import (
    WALKING,
    RevisionState,
    instances_of,
    lock_revision,
    refresh_study,
    settle,
)
from dicom_node.settings import ArchivePeer
from dicom_node.shadow import Shadows
from dicom_node.store import FindingRow, Revision, Store, now
from dicom_node.workflows import Steps
from dicom_node.worklist import Scales
from reports.identity import Kind

Problem = list[str]  # code and sentence; a list, because the engine keeps results as JSON

log = structlog.get_logger(__name__)


class Street:
    """Take revisions down the street.

    Parameters
    ----------
    store
        The SQL store.
    reader, composer
        The two workshops on the way.
    archives
        Where the documents go.
    node_id
        This node, for the events.
    on_composed
        Called when a revision has entered the ledger.
    shadows
        What reads the films once more afterwards, for the record only.
    seeker
        What asks an archive for earlier results before documents are composed.
    scales
        What asks a worklist for heights before documents are composed.
    keep_digest
        Writes down the hash of a film's bytes, given its instance; after its documents were handed over.
    """

    def __init__(
        self,
        store: Store,
        *,
        reader: Reader,
        composer: Composer,
        archives: Sequence[ArchivePeer],
        node_id: str,
        on_composed: Callable[[], None] = lambda: None,
        shadows: Shadows | None = None,
        seeker: Seeker | None = None,
        scales: Scales | None = None,
        keep_digest: Callable[[int], None] | None = None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._composer = composer
        self._archives = tuple(archives)
        self._kinds = kinds_wanted([archive.composed for archive in archives])
        self._node_id = node_id
        self._on_composed = on_composed
        self._shadows = shadows
        self._seeker = seeker
        self._scales = scales
        self._keep_digest = keep_digest

    def walk(self, revision_id: int, step: Steps) -> None:
        """Take one revision from assembled to composed. What fails for good is written down; the rest goes on.

        Raises
        ------
        NodeError
            Something failed that may pass, for longer than a step is retried: the walk is to be begun anew.
        """
        try:
            problems: list[Problem] = []
            for instance_id in step("list-instances", self._list_instances, revision_id):
                problems += step("interpret", self.interpret, revision_id, instance_id)
            for finding_id in step("list-findings", self._list_findings, revision_id):
                if self._scales is not None:
                    step("ask-for-height", self._scales.ask, finding_id)
                if self._seeker is not None:
                    step("ask-for-priors", self._seeker.seek, finding_id)
                for kind in self._kinds:
                    problems += step("compose", self.compose, finding_id, kind)
            step("enter-ledger", self.enter_ledger, revision_id, problems)
        except Exception as error:
            # The boundary of a walk: whatever it met that will not pass must end in the store, for a person to see.
            if disposition_of(error) == Disposition.RETRY:
                raise
            self._set_aside(revision_id, error)
            self._on_composed()
            return
        self._on_composed()
        self._look_again(revision_id, step)

    def _look_again(self, revision_id: int, step: Steps) -> None:
        """Do with each film what no result waits for."""
        for instance_id in step("list-instances-again", self._list_instances, revision_id):
            if self._keep_digest is not None:
                step("keep-digest", self._keep_digest, instance_id)
            if self._shadows is not None:
                step("shadow", self._shadows.read, revision_id, instance_id)

    def interpret(self, revision_id: int, instance_id: int) -> list[Problem]:
        """Read one instance; return what failed for good."""
        return _attempt(self._reader.interpret, revision_id, instance_id)

    def compose(self, finding_id: int, kind: Kind) -> list[Problem]:
        """Write one document of one finding; return what failed for good."""
        return _attempt(self._composer.compose, finding_id, kind)

    def enter_ledger(self, revision_id: int, problems: Sequence[Problem]) -> None:
        """Put the verified documents into the ledger and close the walk."""
        with self._store.session() as session:
            study, revision = lock_revision(session, revision_id)
            ledger.enter(session, revision, self._archives)
            if problems:
                revision.error_code, revision.error = problems[0]
                for code, _ in problems:
                    record(session, self._node_id, "set-aside", study, revision=revision.number, detail=code)
            session.flush()
            settle(session, study, revision)
            record(session, self._node_id, "entered-ledger", study, revision=revision.number)

    def begin_anew(self, revision_id: int) -> None:
        """Begin a walk anew whose workflow has ended without closing it.

        Raises
        ------
        StoreError
            The database failed.
        """
        with self._store.session() as session:
            study, revision = lock_revision(session, revision_id)
            if revision.state in WALKING:
                walk_again(session, study, revision, self._node_id)

    def give_up(self, revision_id: int) -> None:
        """Set a walk aside that has taken the process down each time it was tried.

        Raises
        ------
        StoreError
            The database failed.
        """
        remedy = "Look at the log of that time, then retry."
        self._set_aside(revision_id, WalkGivenUp(f"The process died each time the study was worked on. {remedy}"))

    def _list_instances(self, revision_id: int) -> list[int]:
        with self._store.reading() as session:
            return [instance.id for instance in instances_of(session, session.get_one(Revision, revision_id))]

    def _list_findings(self, revision_id: int) -> list[int]:
        with self._store.session() as session:
            study, revision = lock_revision(session, revision_id)
            if revision.state == RevisionState.ASSEMBLED:
                revision.state, revision.updated_at = RevisionState.INTERPRETED, now()
                refresh_study(session, study)
                record(session, self._node_id, "interpreted", study, revision=revision.number)
            query = sa.select(FindingRow.id).where(FindingRow.revision_id == revision_id).order_by(FindingRow.id)
            return list(session.scalars(query))

    def _set_aside(self, revision_id: int, error: Exception) -> None:
        log.error("street.set-aside", revision_id=revision_id, exc_info=error)
        with self._store.session() as session:
            study, revision = lock_revision(session, revision_id)
            revision.error_code = code_of(error)
            revision.error = str(error) if isinstance(error, NodeError) else type(error).__name__
            settle(session, study, revision)
            number, detail = revision.number, revision.error_code
            record(session, self._node_id, "set-aside", study, revision=number, detail=detail)


def _attempt(act: Callable[..., None], *arguments: Any) -> list[Problem]:
    """Do something; return its error where that is one to set aside, raise it where it is one to retry."""
    try:
        act(*arguments)
    except NodeError as error:
        if disposition_of(error) != Disposition.QUARANTINE:
            raise
        log.warning("street.problem", code=error.code, reason=str(error), exc_info=error)
        return [[error.code, str(error)]]
    return []
