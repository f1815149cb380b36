"""Received objects, read from the spool when they are needed again."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from dicom_node.errors import SpoolFileMissing
from dicom_node.store import Instance


def read_source(spool_dir: Path, instance: Instance) -> Dataset:
    """Read a received object from the spool.

    Raises
    ------
    SpoolFileMissing
        The file is not there, or is no DICOM file any more.
    """
    try:
        return dcmread(spool_dir / instance.path)
    except (OSError, InvalidDicomError) as error:
        uid = instance.sop_instance_uid
        raise SpoolFileMissing(f"The spool has no readable file for the recorded object {uid}.") from error
