"""Intake: one received object becomes a row, in one transaction, before its C-STORE is answered with Success.

The quiet period starts again with every new object (``Study.ready_at``). An object that comes after its study was
assembled waits again and will make a new revision: it is never lost.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.corrections import digest, is_correction, skip_file_meta
from dicom_node.errors import SpoolFileMissing, StoreError
from dicom_node.events import record
from dicom_node.fingerprints import (
    Fingerprint,
    columns_of,
    fingerprint_of,
    has_picture_of_other_sign,
    take_fingerprint,
)
from dicom_node.revisions import StudyState
from dicom_node.store import Event, Instance, Series, Store, Study, find_study, insert_if_absent, now

if TYPE_CHECKING:
    from dicom_node.spool import Received

CORRECTED_EVENT: Final = "corrected"  # its detail: the digest of what the object was before

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Recorded:
    """What intake made of one object.

    ``new``: a row was committed. ``corrected``: the film is known with another header, this one counts now and waits to
    be read. ``restored``: its file was gone or damaged, this one stands for it and is not read by itself.
    ``duplicate``: the same bytes are there already, nothing changed. ``clash``: the UID is known with other bytes,
    nothing changed. The file of a duplicate or clash belongs to nobody: the receiver removes it.
    """

    kind: Literal["new", "corrected", "restored", "duplicate", "clash"]
    study_instance_uid: str

    @property
    def is_kept(self) -> bool:
        """Whether a row names the file that came."""
        return self.kind in {"new", "corrected", "restored"}


@dataclass(frozen=True)
class Intake:
    """Record what arrives.

    Parameters
    ----------
    store
        The SQL store.
    spool_dir
        Where the spool's files lie; rows hold paths relative to it.
    quiet_period_s
        Seconds without a new object after which a study is ready.
    whole_study_callers
        AE titles that send whole studies per association: their studies are ready when the association ends.
    node_id
        This node, for the events.
    """

    store: Store
    spool_dir: Path
    quiet_period_s: float
    whole_study_callers: Collection[str]
    node_id: str

    def record(self, received: Received) -> Recorded:
        """Commit the rows of one object whose file is already durable.

        Raises
        ------
        StoreError
            The database failed; nothing was kept.
        SpoolFileMissing
            The object's row is there, its file is gone, no hash of it was ever taken, and it was of another size: it
            cannot be told if it was this.
        """
        with self.store.session() as session:
            study = self._touch_study(session, received)
            if self._insert_instance(session, received, study):
                self._begin_quiet_period(study, received)
                self._event(session, "received", study, received)
                return Recorded("new", received.study_instance_uid)
            session.rollback()
        return self._compare(received)

    def end_association(self, association_id: str, calling_ae: str) -> tuple[str, ...]:
        """Make ready what an association of a whole-study sender brought; return the Study Instance UIDs concerned.

        Raises
        ------
        StoreError
            The database failed; the quiet period then makes the studies ready.
        """
        if calling_ae not in self.whole_study_callers:
            return ()
        with self.store.session() as session:
            of_association = sa.select(Instance.study_id).where(
                Instance.association_id == association_id, Instance.revision.is_(None)
            )
            query = sa.select(Study).where(Study.id.in_(of_association)).order_by(Study.id).with_for_update()
            studies = session.scalars(query).all()
            for study in studies:
                study.ready_at = min(study.ready_at or now(), now())
                record(session, self.node_id, "association-ended", study, peer=calling_ae)
            return tuple(study.study_instance_uid for study in studies)

    def _touch_study(self, session: Session, received: Received) -> Study:
        insert_if_absent(
            session,
            Study,
            study_instance_uid=received.study_instance_uid,
            state=StudyState.RECEIVING,
            revision=0,
            first_received_at=received.received_at,
            last_received_at=received.received_at,
        )
        # The lock orders intake against assembly: an object is either in the revision or waits for the next.
        study = find_study(session, received.study_instance_uid, lock=True)
        assert study is not None
        return study

    def _insert_instance(self, session: Session, received: Received, study: Study) -> bool:
        insert_if_absent(
            session,
            Series,
            study_id=study.id,
            series_instance_uid=received.series_instance_uid,
            modality=received.modality[:16],
        )
        series_id = session.scalars(
            sa.select(Series.id).where(
                Series.study_id == study.id, Series.series_instance_uid == received.series_instance_uid
            )
        ).one()
        return insert_if_absent(
            session,
            Instance,
            study_id=study.id,
            series_id=series_id,
            sop_instance_uid=received.sop_instance_uid,
            sop_class_uid=received.sop_class_uid,
            **self._file_columns(received),
        )

    def _begin_quiet_period(self, study: Study, received: Received) -> None:
        study.last_received_at = received.received_at
        study.ready_at = received.received_at + timedelta(seconds=self.quiet_period_s)
        study.state = StudyState.RECEIVING

    def _file_columns(self, received: Received) -> dict[str, Any]:
        """Return what an instance's row says of its file and where that came from."""
        return {
            "transfer_syntax_uid": received.transfer_syntax_uid,
            "path": received.path.relative_to(self.spool_dir).as_posix(),
            "size_bytes": received.size_bytes,
            "received_at": received.received_at,
            "calling_ae": received.calling_ae[:16],
            "association_id": received.association_id,
        }

    def _compare(self, received: Received) -> Recorded:
        # Outside any transaction: comparing reads two whole files, and no writer should wait for that.
        instance = self._known(received)
        if instance.purged_at is None:
            try:
                return self._compare_with_file(received, instance)
            except FileNotFoundError:  # lost, or purged just now
                instance = self._known(received)
        return self._compare_with_hashes(received, instance)

    def _known(self, received: Received) -> Instance:
        with self.store.reading() as session:
            found = sa.select(Instance).where(Instance.sop_instance_uid == received.sop_instance_uid)
            return session.scalars(found).one()

    def _compare_with_file(self, received: Received, instance: Instance) -> Recorded:
        """Judge an object whose file is there; FileNotFoundError where it is not."""
        kept = self.spool_dir / instance.path
        same_syntax = instance.transfer_syntax_uid == received.transfer_syntax_uid
        if same_syntax and same_data_set(kept, received.path):
            return self._leave("duplicate", received, instance)
        if instance.sha256 is not None and instance.sha256 == digest(received.path):  # the file here is damaged
            return self._replace(received, instance, "restored", take_fingerprint(received.path))
        if is_correction(kept, received.path) and not self._is_outdated(received):
            return self._replace(received, instance, CORRECTED_EVENT, take_fingerprint(received.path), digest(kept))
        if not kept.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._leave("clash", received, instance)

    def _compare_with_hashes(self, received: Received, instance: Instance) -> Recorded:
        """Judge an object whose file is gone: by its hashes, by its size where none were ever taken."""
        known = fingerprint_of(instance)
        if known is None:
            same_syntax = instance.transfer_syntax_uid == received.transfer_syntax_uid
            if not same_syntax or instance.size_bytes != received.size_bytes:
                raise SpoolFileMissing(f"The spool has no file for the recorded object {received.sop_instance_uid}.")
            return self._replace(received, instance, "restored", take_fingerprint(received.path))
        came = take_fingerprint(received.path)
        if came.sha256 != known.sha256 and (not _has_picture_of(came, known, received) or self._is_outdated(received)):
            return self._leave("clash", received, instance)
        if came.sha256 == known.sha256 or came.header_sha256 == known.header_sha256:
            return self._replace(received, instance, "restored", came)
        return self._replace(received, instance, CORRECTED_EVENT, came, known.sha256)

    def _leave(self, kind: Literal["duplicate", "clash"], received: Received, instance: Instance) -> Recorded:
        """Note what came of an object that changes nothing."""
        with self.store.session() as session:
            study = session.get_one(Study, instance.study_id)
            self._event(session, kind, study, received)
            return Recorded(kind, study.study_instance_uid)

    def _is_outdated(self, received: Received) -> bool:
        """Tell whether an object is one that was corrected since: it must not undo its correction."""
        before = sa.select(Event.id).where(
            Event.kind == CORRECTED_EVENT,
            Event.sop_instance_uid == received.sop_instance_uid,
            Event.detail == digest(received.path),
        )
        with self.store.reading() as session:
            return session.scalars(before.limit(1)).first() is not None

    def _replace(
        self,
        received: Received,
        known: Instance,
        kind: Literal["corrected", "restored"],
        came: Fingerprint,
        detail: str | None = None,
    ) -> Recorded:
        """Have a file stand for a known object. The old one belongs to nobody then; a sweep removes it."""
        with self.store.session() as session:
            study_id = sa.select(Instance.study_id).where(Instance.id == known.id).scalar_subquery()
            study = session.scalars(sa.select(Study).where(Study.id == study_id).with_for_update()).one()
            instance = session.get_one(Instance, known.id)
            if instance.path != known.path:
                raise StoreError("Another association replaced the object just now.")
            for column, value in {**self._file_columns(received), **columns_of(came), "purged_at": None}.items():
                setattr(instance, column, value)
            if kind == CORRECTED_EVENT:
                instance.revision = None
                self._begin_quiet_period(study, received)
            self._event(session, kind, study, received, detail=detail)
            return Recorded(kind, study.study_instance_uid)

    def _event(
        self, session: Session, kind: str, study: Study, received: Received, *, detail: str | None = None
    ) -> None:
        uid, peer = received.sop_instance_uid, received.calling_ae
        record(session, self.node_id, kind, study, sop_instance_uid=uid, peer=peer, detail=detail)


def _has_picture_of(came: Fingerprint, known: Fingerprint, received: Received) -> bool:
    return came.has_picture_of(known) or has_picture_of_other_sign(received.path, known)


def same_data_set(one: Path, other: Path) -> bool:
    """Tell whether two Part 10 files hold the same data set, byte for byte; the File Meta (who sent it) may differ."""
    with one.open("rb") as first, other.open("rb") as second:
        skip_file_meta(first)
        skip_file_meta(second)
        while True:
            left, right = first.read(_CHUNK_BYTES), second.read(_CHUNK_BYTES)
            if left != right:
                return False
            if not left:
                return True
