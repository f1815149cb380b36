"""Fingerprints: what a received object is known again by once its file is gone from the spool.

Three SHA-256: of the data set as it came; of its picture, that is the pixels and whose image they are, in whatever
lossless syntax they come; and of what the film is read by and whose it is. They are taken where nobody waits for them,
never before a C-STORE is answered: 10 MB cost a tenth of a second.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
import structlog

from dicom_node.corrections import digest, header_of, kind_of, open_object, pixels_of
from dicom_node.store import Instance, Store

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
    pixels = None if ds is None else pixels_of(ds)
    if ds is None or pixels is None:
        return Fingerprint(sha256, None, None)
    syntax, cells = pixels
    picture = hashlib.sha256(json.dumps([*kind_of(ds), syntax]).encode())
    picture.update(cells)
    header = hashlib.sha256(json.dumps(header_of(ds)).encode())
    return Fingerprint(sha256, picture.hexdigest(), header.hexdigest())


def fingerprint_of(instance: Instance) -> Fingerprint | None:
    """Return what the store knows of an object; None for one whose bytes were never looked at."""
    if instance.sha256 is None:
        return None
    return Fingerprint(instance.sha256, instance.picture_sha256, instance.header_sha256)


def keep_fingerprint(store: Store, spool_dir: Path, instance_id: int) -> None:
    """Write down what an object is known again by, unless that is done; of one without a file, nothing.

    Raises
    ------
    StoreError
        The database failed.
    """
    with store.reading() as session:
        instance = session.get_one(Instance, instance_id)
    if instance.sha256 is not None or not instance.path:
        return
    try:
        found = take_fingerprint(spool_dir / instance.path)
    except OSError as error:
        log.warning("fingerprint.untaken", sop_instance_uid=instance.sop_instance_uid, kind=type(error).__name__)
        return
    with store.session() as session:
        is_as_read = (Instance.id == instance_id, Instance.path == instance.path)  # no other file came in between
        session.execute(sa.update(Instance).where(*is_as_read).values(**columns_of(found)))


def columns_of(fingerprint: Fingerprint) -> dict[str, str | None]:
    """Return a fingerprint as columns of an instance."""
    return {
        "sha256": fingerprint.sha256,
        "picture_sha256": fingerprint.picture_sha256,
        "header_sha256": fingerprint.header_sha256,
    }
