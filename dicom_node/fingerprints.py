"""Fingerprints: what a received object is known again by once its file is gone from the spool.

Three SHA-256: of the data set as it came; of its picture, that is the pixels and whose image they are, in whatever
lossless syntax they come; and of what the film is read by and whose it is. None is taken before a C-STORE is answered.
The first is cheap, and taken at the end of a walk. The others decode the film again, up to a fifth of a second of a
processor that reports may need: they are taken once nothing is on its way, and at the latest by a purge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from pydicom import Dataset

from dicom_node import ledger
from dicom_node.assemble import pending_walks
from dicom_node.corrections import digest, header_of, kind_of, open_object, pixels_of
from dicom_node.rounds import Rounds
from dicom_node.store import Instance, Store, Study, now
from reports.header import numbers_of

EVERY_S = 30.0  # how often it is looked for films whose picture's hash is still to be taken
RESTS_AFTER = timedelta(minutes=1)  # how long nothing of a study must have come: its report is likely out by then

_NO_PICTURE = ""  # in a row: it was looked for; None: it is still to be looked for

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What one object is known again by; hexadecimal SHA-256."""

    sha256: str  # of the data set, byte for byte
    picture_sha256: str | None  # None: it has no pixels, or is no DICOM object
    header_sha256: str | None

    def has_picture_of(self, other: Fingerprint) -> bool:
        """Tell whether both are the same image, whatever the rest of their headers says."""
        return self.picture_sha256 is not None and self.picture_sha256 == other.picture_sha256


def take_fingerprint(path: Path) -> Fingerprint:
    """Read a Part 10 file whole.

    Raises
    ------
    OSError
        It cannot be read.
    """
    sha256 = digest(path)
    ds = open_object(path)
    picture = None if ds is None else _hash_picture(ds)
    if ds is None or picture is None:
        return Fingerprint(sha256, None, None)
    return Fingerprint(sha256, picture, hashlib.sha256(json.dumps(header_of(ds)).encode()).hexdigest())


def has_picture_of_other_sign(path: Path, known: Fingerprint) -> bool:
    """Tell whether a Part 10 file is a known image but for PixelRepresentation: decoded pixels are extended by it.

    Raises
    ------
    OSError
        It cannot be read.
    """
    ds = open_object(path)
    if ds is None or known.picture_sha256 is None:
        return False
    ds.PixelRepresentation = int(numbers_of(ds, "PixelRepresentation") != (1,))
    return _hash_picture(ds) == known.picture_sha256


def _hash_picture(ds: Dataset) -> str | None:
    """Return the SHA-256 of pixels and of whose image they are; None where there are no pixels."""
    pixels = pixels_of(ds)
    if pixels is None:
        return None
    syntax, cells = pixels
    picture = hashlib.sha256(json.dumps([*kind_of(ds), syntax]).encode())
    picture.update(cells)
    return picture.hexdigest()


def fingerprint_of(instance: Instance) -> Fingerprint | None:
    """Return what the store knows of an object; None for one whose bytes were never looked at."""
    if instance.sha256 is None:
        return None
    return Fingerprint(instance.sha256, instance.picture_sha256 or None, instance.header_sha256 or None)


def keep_digest(store: Store, spool_dir: Path, instance_id: int) -> None:
    """Write down the hash of an object's bytes alone, unless that is done; of one without a file, nothing.

    Raises
    ------
    StoreError
        The database failed.
    """
    instance = _read(store, instance_id)
    if instance.sha256 is not None or not instance.path:
        return
    try:
        sha256 = digest(spool_dir / instance.path)
    except OSError as error:
        _tell_untaken(instance, error)
        return
    _write(store, instance, {"sha256": sha256})


def keep_fingerprint(store: Store, spool_dir: Path, instance_id: int) -> bool:
    """Write down all that an object is known again by, unless that is done; return False where its file is not there.

    A file that is no longer what was received has no picture to be known again by: the hash of what came stays.

    Raises
    ------
    StoreError
        The database failed.
    """
    instance = _read(store, instance_id)
    if instance.picture_sha256 is not None or not instance.path:
        return bool(instance.path)
    try:
        found = take_fingerprint(spool_dir / instance.path)
    except OSError as error:
        _tell_untaken(instance, error)
        return False
    if instance.sha256 not in {None, found.sha256}:
        log.error("fingerprint.damaged", sop_instance_uid=instance.sop_instance_uid, path=instance.path)
        found = Fingerprint(str(instance.sha256), None, None)
    _write(store, instance, columns_of(found))
    return True


def columns_of(fingerprint: Fingerprint) -> dict[str, str]:
    """Return a fingerprint as columns of an instance."""
    return {
        "sha256": fingerprint.sha256,
        "picture_sha256": fingerprint.picture_sha256 or _NO_PICTURE,
        "header_sha256": fingerprint.header_sha256 or _NO_PICTURE,
    }


def _read(store: Store, instance_id: int) -> Instance:
    with store.reading() as session:
        return session.get_one(Instance, instance_id)


def _write(store: Store, instance: Instance, columns: dict[str, str]) -> None:
    """Write hashes of the file that an instance had when it was read, unless another came in between."""
    with store.session() as session:
        is_as_read = (Instance.id == instance.id, Instance.path == instance.path)
        session.execute(sa.update(Instance).where(*is_as_read).values(**columns))


def _tell_untaken(instance: Instance, error: OSError) -> None:
    log.warning("fingerprint.untaken", sop_instance_uid=instance.sop_instance_uid, kind=type(error).__name__)


class Fingerprinter(Rounds):
    """Takes the hashes of pictures while nothing is on its way.

    What is to be taken stands in the store, so that a kill costs nothing. A node that never rests leaves it to a purge.

    Parameters
    ----------
    store
        The SQL store.
    spool_dir
        Where the spool's files lie; rows hold paths relative to it.
    node_id
        This node: it takes those of what it has received itself.
    """

    def __init__(self, store: Store, spool_dir: Path, node_id: str) -> None:
        super().__init__("fingerprint", EVERY_S)
        self._store = store
        self._spool_dir = spool_dir
        self._node_id = node_id
        self._without_file: set[int] = set()  # told once

    def make_pass(self) -> None:
        """Take what is to be taken, until something is on its way.

        Raises
        ------
        StoreError
            The database failed.
        """
        for instance_id in self._open():
            if self.is_stopping() or not self._rests():
                return
            if not keep_fingerprint(self._store, self._spool_dir, instance_id):
                self._without_file.add(instance_id)

    def _open(self) -> Sequence[int]:
        """Return the films of this node without a hash of their picture whose studies have received nothing lately."""
        is_open = (Instance.sha256.is_not(None), Instance.picture_sha256.is_(None), Instance.purged_at.is_(None))
        is_own = Instance.path.startswith(f"{self._node_id}/", autoescape=True)
        query = sa.select(Instance.id).join(Study, Study.id == Instance.study_id).where(*is_open, is_own)
        with self._store.reading() as session:
            ids = session.scalars(query.where(Study.last_received_at < now() - RESTS_AFTER).order_by(Instance.id)).all()
        return [instance_id for instance_id in ids if instance_id not in self._without_file]

    def _rests(self) -> bool:
        """Tell whether nothing is received, read or to be sent at this moment."""
        with self._store.reading() as session:
            if session.scalars(sa.select(Study.id).where(Study.ready_at.is_not(None)).limit(1)).first() is not None:
                return False
        return not pending_walks(self._store) and not ledger.due_turns(self._store, now())
