"""The node: everything that serves, put together."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import structlog
from sqlalchemy import select

from dicom_node import ballast
from dicom_node.asked import Asked
from dicom_node.cluster import Membership
from dicom_node.commitment import Commitments
from dicom_node.compose import Composer
from dicom_node.deliver import Courier
from dicom_node.dispatch import Dispatcher
from dicom_node.errors import SettingsError
from dicom_node.fingerprints import Fingerprinter, keep_digest
from dicom_node.intake import Intake, Recorded
from dicom_node.interpret import Interpreter, Reader
from dicom_node.priors import Seeker
from dicom_node.query import Asking
from dicom_node.receive import AssociationEnd, Receiver
from dicom_node.retention import Keeper, Purger
from dicom_node.settings import ArchivePeer, Settings, SettingsProblem
from dicom_node.shadow import Shadows
from dicom_node.spool import Received, Spool
from dicom_node.store import Instance, NodeRow, Store, make_engine, now, upgrade
from dicom_node.street import Street
from dicom_node.workflows import Workflows
from dicom_node.worklist import Scales

STOP_WITHIN_S = 30.0
FORGOTTEN_AFTER = timedelta(days=1)
"""How long the engine remembers what it has ended."""
SWEPT_AFTER_S = 3600.0
"""How old a file without a row must be before a running node removes it: its row may still come."""

log = structlog.get_logger(__name__)


def _asked_archive(settings: Settings) -> ArchivePeer | None:
    """Return the archive that is asked for earlier results; None where none is to be asked."""
    compose = settings.compose
    wanted = [archive for archive in settings.archives if compose.priors and archive.name == compose.priors_from]
    return wanted[0] if wanted else None


def _seeker(store: Store, settings: Settings, asked: Asked | None, reader: Reader) -> Seeker | None:
    """Return what asks an archive for earlier results; None where none is to be asked."""
    archive = _asked_archive(settings)
    if archive is None:
        return None
    asking = Asking(archive, settings.node, settings.deliver, asked)
    return Seeker(
        store,
        spool_dir=settings.spool_dir,
        asking=asking,
        years=settings.compose.priors_years,
        read=reader.read_aside,
        films=settings.compose.priors_films,
    )


def _scales(store: Store, settings: Settings) -> Scales | None:
    """Return what asks a worklist for heights; None where none is to be asked."""
    for worklist in settings.worklists:
        if settings.compose.adult_height and worklist.name == settings.compose.height_from:
            spool_dir, timeouts = settings.spool_dir, settings.deliver
            return Scales(store, spool_dir=spool_dir, worklist=worklist, node=settings.node, timeouts=timeouts)
    return None


def _shadows(store: Store, settings: Settings) -> Shadows | None:
    """Return what reads films with the shadow methods, each loaded at its first film; None where there are none."""
    interpret = settings.interpret

    def load(method: str) -> Interpreter:
        from inference.engine import Engine

        return Engine.load(method, threads=interpret.threads, device=interpret.device)

    if not interpret.shadow:
        return None
    loaders = {method: partial(load, method) for method in interpret.shadow}
    return Shadows(store, settings.spool_dir, loaders, settings.node.id)


class Node:
    """A running node. One per process, because the workflow engine keeps itself in globals.

    Parameters
    ----------
    settings
        Everything it can be told.
    interpreter
        What reads films.
    """

    def __init__(self, settings: Settings, interpreter: Interpreter) -> None:
        self.settings = settings
        node = settings.node
        url = settings.database_url
        self.store = Store(make_engine(url))
        self._membership = Membership(self.store, node.id, settings.cluster, node.data_dir)
        commitments = Commitments(self.store, settings.deliver, node.id, self._wake)
        composer = Composer(
            self.store,
            spool_dir=settings.spool_dir,
            documents_dir=settings.documents_dir,
            settings=settings.compose,
            node=node,
        )
        self._courier = Courier(
            self.store,
            settings=settings.deliver,
            node=node,
            archives=settings.archives,
            documents_dir=settings.documents_dir,
            compose=composer.compose,
            commitments=commitments,
            on_change=self._wake,
        )
        reader = Reader(self.store, settings.spool_dir, interpreter, node.id)
        archive = _asked_archive(settings)
        asked = Asked(node.ae_title) if archive is not None and archive.retrieve != "get" else None
        self._street = Street(
            self.store,
            reader=reader,
            composer=composer,
            archives=settings.archives,
            node_id=node.id,
            on_composed=self._wake,
            shadows=_shadows(self.store, settings),
            seeker=_seeker(self.store, settings, asked, reader),
            scales=_scales(self.store, settings),
            keep_digest=partial(keep_digest, self.store, settings.spool_dir),
        )
        self._workflows = Workflows(
            system_database_url=system_database_url(settings),
            node_id=node.id,
            peers=[archive.name for archive in settings.archives],
            walk=self._street.walk,
            deliver=self._courier.run,
        )
        self._dispatcher = Dispatcher(self.store, self._workflows, self._street, node.id)
        self._keeper = Keeper(Purger(self.store, settings), settings.retention, self._tidy)
        self._fingerprinter = Fingerprinter(self.store, settings.spool_dir, node.id)
        self._intake = Intake(
            store=self.store,
            spool_dir=settings.spool_dir,
            quiet_period_s=settings.assemble.quiet_period_s,
            whole_study_callers=frozenset(
                sender.ae_title for sender in settings.senders if sender.whole_study_per_association
            ),
            node_id=node.id,
        )
        # Nodes of a cluster share the data directory; each sweeps only what it has received itself.
        self._spool = Spool(settings.spool_dir / node.id)
        self._receiver = Receiver(
            settings.receive,
            node,
            settings.senders,
            self._spool,
            self._record,
            self._end_association,
            commitments.take,
            archives=settings.archives,
            asked=asked,
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on, after ``start``."""
        return self._receiver.address

    def start(self) -> None:
        """Take up what an earlier run left, then listen.

        Raises
        ------
        NodeIdTaken
            Another live process is this node.
        SettingsError
            The spool holds films of another database.
        StoreError
            A database cannot be used.
        SpoolFull, SpoolFailed
            The spool cannot be used.
        OSError
            The address cannot be used.
        """
        upgrade(self.store.engine)
        self._check_spool()
        self._membership.join()
        ballast.take_in(self.settings.node.data_dir)
        try:
            self._spool.open()
            self._sweep(0.0)
            self._workflows.start()
            self._dispatcher.start()
            self._membership.watch(self._workflows)
            self._receiver.start()
            self._keeper.start()
            self._fingerprinter.start()
        except BaseException:
            self._close()
            raise

    def stop(self) -> None:
        """Stop taking objects, let running steps end, and say good-bye; the rest goes on at the next start."""
        self._receiver.stop()
        self._close()

    def _close(self) -> None:
        self._fingerprinter.stop()
        self._keeper.stop()
        self._dispatcher.stop()
        self._workflows.stop(STOP_WITHIN_S)
        self._membership.leave()
        self.store.close()

    def _record(self, received: Received) -> Recorded:
        recorded = self._intake.record(received)
        if recorded.is_kept:
            self._wake()
        return recorded

    def _end_association(self, end: AssociationEnd) -> None:
        # One that broke may have meant to bring more: what it brought waits for the rest, or for the quiet period.
        if end.released and self._intake.end_association(end.association_id, end.calling_ae):
            self._wake()

    def _check_spool(self) -> None:
        """Raise SettingsError where films in the spool belong to another database: a sweep would remove them."""
        node_id = self.settings.node.id
        with self.store.reading() as session:
            if session.get(NodeRow, node_id) is not None or next(self._spool.files(), None) is None:
                return
        what = f"The database has never seen {node_id}, but {self._spool.folder} holds films that it received."
        remedy = "Give the database they belong to, or, to begin anew, another data_dir; or move these films away."
        raise SettingsError(SettingsProblem("store", "", what, remedy))

    def _tidy(self) -> None:
        """Remove what nobody needs any more, whatever the settings say of retention.

        Raises
        ------
        SpoolFailed
            The disk failed.
        StoreError
            A database failed.
        """
        self._sweep()
        forgotten = self._workflows.forget(now() - FORGOTTEN_AFTER)
        if forgotten:
            log.info("node.workflows-forgotten", workflows=forgotten)

    def _sweep(self, min_age_s: float = SWEPT_AFTER_S) -> None:
        """Remove what of this node's spool no row names.

        Raises
        ------
        SpoolFailed
            The disk failed.
        StoreError
            The database failed.
        """
        folder, node_id = self.settings.spool_dir, self.settings.node.id
        named = select(Instance.path).where(
            Instance.path.startswith(f"{node_id}/", autoescape=True), Instance.purged_at.is_(None)
        )
        with self.store.reading() as session:
            known = {(folder / path).relative_to(self._spool.folder) for path in session.scalars(named)}
        swept = self._spool.sweep(known, min_age_s)
        if swept:
            log.info("node.spool-swept", files=swept)

    def _wake(self) -> None:
        self._dispatcher.wake()


def system_database_url(settings: Settings) -> str:
    """Return where the workflow engine keeps its tables: beside the store's on PostgreSQL, else a file of its own."""
    url = settings.database_url
    if url.startswith("postgresql"):
        return url
    return f"sqlite:///{(settings.node.data_dir / 'workflows.db').absolute()}"
