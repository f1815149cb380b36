"""Profile: what an archive's settings change in a document on its way there: character set and series number.

The document on disk stays as it was composed. Its UIDs are the same everywhere, and so is what it says. Why this is no
document of its own: ``decisions/0004-one-document-several-archives.md``.
"""

from __future__ import annotations

import structlog
from pydicom.dataset import FileDataset

from dicom_node.settings import ArchivePeer
from reports.character_sets import in_character_set

log = structlog.get_logger(__name__)


def fitted(document: FileDataset, kind: str, archive: ArchivePeer) -> FileDataset:
    """Return a document as an archive is to get it.

    What its character set cannot say goes out in UTF-8, and the log names it.

    Parameters
    ----------
    document
        As it was read from disk. Its series number may be changed.
    kind
        One of ``reports.identity.KINDS``.
    archive
        Where it goes.
    """
    written = in_character_set(document, archive.character_set)
    if written is None:
        log.warning(
            "deliver.character-set-unfit",
            peer=archive.name,
            kind=kind,
            sop_instance_uid=str(document.SOPInstanceUID),
            character_set=archive.character_set,
        )
        written = document
    number = archive.series_number(kind)
    if number is not None:
        written.SeriesNumber = number
    return written
