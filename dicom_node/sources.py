"""Received objects, read from the spool when they are needed again."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from dicom_node.errors import FilmPurged, SourceCutOff, SpoolFileMissing
from dicom_node.store import Instance
from inference.errors import CutOff

SEND_AGAIN = "Have the archive or the modality send it again, under its UIDs, then do this once more."


def read_source(spool_dir: Path, instance: Instance) -> Dataset:
    """Read a received object from the spool.

    Raises
    ------
    FilmPurged
        The file was removed by a purge.
    SpoolFileMissing
        The file is not there, or is no DICOM file any more.
    SourceCutOff
        It is cut off: a deflated data set, of which only the beginning is checked when it comes, or the file itself.
    """
    uid = instance.sop_instance_uid
    if instance.purged_at is not None:
        raise FilmPurged(f"The file of {uid} was removed by a purge on {instance.purged_at:%Y-%m-%d}. {SEND_AGAIN}")
    try:
        return dcmread(spool_dir / instance.path)
    except (OSError, InvalidDicomError) as error:
        remedy = "Send it again, then retry."
        raise SpoolFileMissing(f"The spool has no readable file for the recorded object {uid}. {remedy}") from error
    except (EOFError, struct.error, zlib.error) as error:
        raise SourceCutOff(f"The recorded object {uid} is cut off or damaged. {CutOff.remedy}") from error
