"""Events: what happened to a study, when and on which node, in SQL and in the log at once; no patient data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from dicom_node.store import Event, Study, now

log = structlog.get_logger(__name__)


def record(
    session: Session,
    node_id: str,
    kind: str,
    study: Study | None,
    *,
    revision: int | None = None,
    sop_instance_uid: str | None = None,
    peer: str | None = None,
    detail: str | None = None,
) -> None:
    """Add one event to a transaction, and log it once that is committed.

    Parameters
    ----------
    kind
        A word for what happened: "received", "assembled", "sent", ...
    study
        Flushed already; None for what concerns no study.
    detail
        A sentence or a code, without patient data.
    """
    session.add(
        Event(
            at=now(),
            node_id=node_id,
            kind=kind,
            study_id=study.id if study else None,
            revision=revision,
            sop_instance_uid=sop_instance_uid,
            peer=peer,
            detail=detail,
        )
    )
    context = {
        "study_instance_uid": study.study_instance_uid if study else None,
        "revision": revision,
        "sop_instance_uid": sop_instance_uid,
        "peer": peer,
        "detail": detail,
    }
    told = {key: value for key, value in context.items() if value is not None}
    sa.event.listen(session, "after_commit", partial(_tell, kind, told), once=True)


def _tell(kind: str, context: Mapping[str, object], _session: Session) -> None:
    log.info(kind, **context)
