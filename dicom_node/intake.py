"""Intake: one received object becomes a row, in one transaction, before its C-STORE is answered with Success.

The quiet period starts again with every new object (``Study.ready_at``). An object that comes after its study was
assembled waits again and will make a new revision: it is never lost.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.errors import SpoolFileMissing
from dicom_node.events import record
from dicom_node.revisions import StudyState
from dicom_node.store import Instance, Series, Store, Study, find_study, insert_if_absent, now

if TYPE_CHECKING:
    from dicom_node.spool import Received

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Recorded:
    """What intake made of one object.

    ``new``: a row was committed. ``duplicate``: the same bytes are there already, nothing changed. ``clash``: the SOP
    Instance UID is there with other bytes, nothing changed. The file of a duplicate or clash belongs to nobody: the
    receiver removes it.
    """

    kind: Literal["new", "duplicate", "clash"]
    study_instance_uid: str


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
            The object's row is there, but its file is gone, so that the two cannot be compared.
        """
        with self.store.session() as session:
            study = self._touch_study(session, received)
            if self._insert_instance(session, received, study):
                study.last_received_at = received.received_at
                study.ready_at = received.received_at + timedelta(seconds=self.quiet_period_s)
                study.state = StudyState.RECEIVING
                self._event(session, "received", study, received.sop_instance_uid, received.calling_ae)
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
                self._event(session, "association-ended", study, None, calling_ae)
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
            transfer_syntax_uid=received.transfer_syntax_uid,
            path=received.path.relative_to(self.spool_dir).as_posix(),
            size_bytes=received.size_bytes,
            received_at=received.received_at,
            calling_ae=received.calling_ae[:16],
            association_id=received.association_id,
        )

    def _compare(self, received: Received) -> Recorded:
        # Outside any transaction: comparing reads two whole files, and no writer should wait for that.
        with self.store.reading() as session:
            found = sa.select(Instance).where(Instance.sop_instance_uid == received.sop_instance_uid)
            instance = session.scalars(found).one()
            study = session.get_one(Study, instance.study_id)
        kept = self.spool_dir / instance.path
        if not kept.is_file():
            raise SpoolFileMissing(f"The spool has no file for the recorded object {received.sop_instance_uid}.")
        same = instance.transfer_syntax_uid == received.transfer_syntax_uid and same_data_set(kept, received.path)
        kind: Literal["duplicate", "clash"] = "duplicate" if same else "clash"
        with self.store.session() as session:
            self._event(session, kind, study, received.sop_instance_uid, received.calling_ae)
        return Recorded(kind, study.study_instance_uid)

    def _event(self, session: Session, kind: str, study: Study, sop_instance_uid: str | None, peer: str) -> None:
        record(session, self.node_id, kind, study, sop_instance_uid=sop_instance_uid, peer=peer)


def same_data_set(one: Path, other: Path) -> bool:
    """Tell whether two Part 10 files hold the same data set, byte for byte; the File Meta (who sent it) may differ."""
    with one.open("rb") as first, other.open("rb") as second:
        _skip_file_meta(first)
        _skip_file_meta(second)
        while True:
            left, right = first.read(_CHUNK_BYTES), second.read(_CHUNK_BYTES)
            if left != right:
                return False
            if not left:
                return True


def _skip_file_meta(file: BinaryIO) -> None:
    # PS3.10 section 7.1: preamble 128, "DICM", then (0002,0000) UL, Explicit VR Little Endian: the length of the rest.
    head = file.read(144)
    file.seek(144 + int.from_bytes(head[140:144], "little"))
