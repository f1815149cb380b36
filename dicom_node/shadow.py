"""Shadow methods: they read the same films beside the active one, are recorded, and are never composed or sent.

They read after the results of a revision have entered the ledger, so that no result waits for them; what goes wrong
with one is an event and nothing more. ``boneage-node shadow`` sums up how far each lies from the active method.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import sqlalchemy as sa
import structlog
from pydicom import Dataset
from sqlalchemy.orm import Session

from dicom_node.cli import DONE
from dicom_node.errors import StoreError
from dicom_node.events import record
from dicom_node.findings import finding_columns, finding_to_json
from dicom_node.interpret import Interpreter
from dicom_node.revisions import lock_revision
from dicom_node.settings import load_settings
from dicom_node.sources import read_source
from dicom_node.status import open_existing
from dicom_node.store import FindingRow, Instance, ShadowRow, Store, insert_if_absent
from dicom_node.terminal import make_table, open_console

FAR_APART_MONTHS = 12.0

log = structlog.get_logger(__name__)

Loader = Callable[[], Interpreter]


class Shadows:
    """Read films with the shadow methods.

    Parameters
    ----------
    store
        The SQL store.
    spool_dir
        Where the received files lie.
    loaders
        By method: what loads it, at the first film. Each model stays in memory from then on.
    node_id
        This node, for the events.
    """

    def __init__(self, store: Store, spool_dir: Path, loaders: Mapping[str, Loader], node_id: str) -> None:
        self._store = store
        self._spool_dir = spool_dir
        self._loaders = dict(loaders)
        self._loaded: dict[str, Interpreter] = {}
        self._node_id = node_id
        self._one_at_a_time = threading.Lock()

    def read(self, revision_id: int, instance_id: int) -> None:
        """Read one film with every shadow method that has not read it; whatever goes wrong is an event.

        Raises
        ------
        StoreError
            The database failed.
        """
        for method in self._loaders:
            with self._store.reading() as session:
                done = sa.select(ShadowRow.id).where(
                    ShadowRow.revision_id == revision_id,
                    ShadowRow.instance_id == instance_id,
                    ShadowRow.method == method,
                )
                if session.scalars(done).first() is not None:
                    continue
                instance = session.get_one(Instance, instance_id)
            try:
                self._read(method, revision_id, instance)
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001
                # The boundary of a shadow: it must not touch the study, whatever it raises.
                log.warning("shadow.failed", method=method, kind=type(error).__name__)
                self._tell(revision_id, instance, f"{method}: {type(error).__name__}")

    def _read(self, method: str, revision_id: int, instance: Instance) -> None:
        source = read_source(self._spool_dir, instance)
        with self._one_at_a_time:  # two walks at once would load a model twice, and read with it at once
            if method not in self._loaded:
                self._loaded[method] = self._loaders[method]()
            self._record(method, revision_id, instance, source)

    def _record(self, method: str, revision_id: int, instance: Instance, source: Dataset) -> None:
        interpreter = self._loaded[method]
        started = time.perf_counter()
        finding = interpreter.interpret(source)
        took_ms = (time.perf_counter() - started) * 1000
        with self._store.session() as session:
            insert_if_absent(
                session,
                ShadowRow,
                instance_id=instance.id,
                revision_id=revision_id,
                method=method,
                version=interpreter.identity.version,
                weights_sha256=interpreter.identity.weights_sha256,
                milliseconds=took_ms,
                **finding_columns(finding, finding_to_json(finding)),
            )

    def _tell(self, revision_id: int, instance: Instance, detail: str) -> None:
        with self._store.session() as session:
            study, revision = lock_revision(session, revision_id)
            uid, number = instance.sop_instance_uid, revision.number
            record(session, self._node_id, "shadow-failed", study, revision=number, sop_instance_uid=uid, detail=detail)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a shadow method stands to the active one, over the films both gave an age; months."""

    method: str
    films: int  # that it has looked at
    both: int  # to which both gave an age
    apart: float | None  # mean absolute difference
    bias: float | None  # shadow minus active
    far_apart: int  # further than 12 months
    refused_alone: int  # by the shadow, not by the active method
    milliseconds: float


def agreements(session: Session) -> list[Agreement]:
    """Return how every shadow method stands to the active one, over all films there are."""
    rows = session.execute(
        sa.select(ShadowRow.method, ShadowRow.age_months, ShadowRow.milliseconds, FindingRow.age_months).join(
            FindingRow,
            sa.and_(FindingRow.instance_id == ShadowRow.instance_id, FindingRow.revision_id == ShadowRow.revision_id),
        )
    ).all()
    found = []
    for method in sorted({row[0] for row in rows}):
        own = [row for row in rows if row[0] == method]
        apart = [shadow - active for _, shadow, _, active in own if shadow is not None and active is not None]
        found.append(
            Agreement(
                method=method,
                films=len(own),
                both=len(apart),
                apart=fmean(map(abs, apart)) if apart else None,
                bias=fmean(apart) if apart else None,
                far_apart=sum(abs(value) > FAR_APART_MONTHS for value in apart),
                refused_alone=sum(shadow is None and active is not None for _, shadow, _, active in own),
                milliseconds=fmean(row[2] for row in own),
            )
        )
    return found


def run(options: argparse.Namespace) -> int:
    """Print how shadow methods stand to the active one."""
    store = open_existing(load_settings(options.config))
    with store.reading() as session:
        found = agreements(session)
    store.close()
    if options.json:
        sys.stdout.write(json.dumps([asdict(one) for one in found], indent=2) + "\n")
        return DONE
    columns = ("method", "films", "both read", "apart, months", "bias", "> 12 months", "refused alone", "ms a film")
    table = make_table(*columns, title="Shadow methods, recorded and not sent")
    for one in found:
        numbers = ("-" if value is None else f"{value:.1f}" for value in (one.apart, one.bias))
        apart, bias = numbers
        counts = (str(one.far_apart), str(one.refused_alone), f"{one.milliseconds:.0f}")
        table.add_row(one.method, str(one.films), str(one.both), apart, bias, *counts)
    open_console().print(table)
    return DONE
