"""Retry: when something that failed is tried again. Delays grow, are spread by chance and outlive an outage of days."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from dicom_node.settings import DeliverSettings

_SPREAD = 0.5  # a delay is between half of the nominal one and the whole: peers are not called by everyone at once


def delay_s(settings: DeliverSettings, failures: int, chance: float | None = None) -> float:
    """Return how many seconds to wait after so many failures in a row.

    Parameters
    ----------
    failures
        From 1.
    chance
        0..1, where in the spread; None: by chance.
    """
    doublings = min(max(failures, 1) - 1, 32)  # beyond that any maximum is reached, and a float would overflow
    nominal_s = min(settings.first_retry_s * 2.0**doublings, settings.max_retry_s)
    drawn = random.random() if chance is None else chance  # noqa: S311 - nothing secret
    return nominal_s * (1.0 - _SPREAD * drawn)


def next_attempt_at(
    settings: DeliverSettings, failures: int, failing_since: datetime, at: datetime, chance: float | None = None
) -> datetime | None:
    """Decide when to try again after the latest failure; None: never, it has been tried for long enough.

    Parameters
    ----------
    failures
        In a row, this one included.
    failing_since
        When the first of them was.
    at
        When the latest was.
    """
    if at - failing_since >= timedelta(seconds=settings.give_up_after_s):
        return None
    return at + timedelta(seconds=delay_s(settings, failures, chance))
