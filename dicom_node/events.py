"""Events: what happened to a study, when and on which node, in SQL and in the log at once; no patient data."""

from __future__ import annotations

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
    """Add one event to a transaction, and log it.

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
    context = {"revision": revision, "sop_instance_uid": sop_instance_uid, "peer": peer, "detail": detail}
    uid = study.study_instance_uid if study else None
    log.info(kind, study_instance_uid=uid, **{key: value for key, value in context.items() if value is not None})
