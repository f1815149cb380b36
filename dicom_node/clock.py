"""Clock: what a clock that was ahead, and was set back since, has left waiting for times that are far away.

A machine that starts with a wrong clock (a flat battery, a restored virtual machine) writes times into the store that
lie in the future once the clock is right. Whatever was last touched in the future is due now.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from dicom_node.store import Delivery, Store, Study

SLACK_S = 300.0
"""So far apart the clocks of a cluster may be; what was touched that far ahead is left alone."""

log = structlog.get_logger(__name__)


def wake_what_waits_for_a_wrong_time(store: Store, at: datetime) -> None:
    """Make ready or due what waits since a time that is still to come.

    Raises
    ------
    StoreError
        The database failed.
    """
    future = at + timedelta(seconds=SLACK_S)
    studies = (Study.ready_at > at, Study.last_received_at > future)
    deliveries = (Delivery.due_at > at, Delivery.updated_at > future)
    with store.reading() as session:
        is_right = not any(
            session.scalars(sa.select(table.id).where(*which).limit(1)).first()
            for table, which in ((Study, studies), (Delivery, deliveries))
        )
    if is_right:
        return
    log.warning("clock.set-back")
    with store.session() as session:
        session.execute(sa.update(Study).where(*studies).values(ready_at=at))
        session.execute(sa.update(Delivery).where(*deliveries).values(due_at=at, updated_at=at, failing_since=None))
