"""Received objects, read from the spool when they are needed again."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from dicom_node.errors import SourceCutOff, SpoolFileMissing
from dicom_node.store import Instance
from inference.errors import CutOff


def read_source(spool_dir: Path, instance: Instance) -> Dataset:
    """Read a received object from the spool.

    Raises
    ------
    SpoolFileMissing
        The file is not there, or is no DICOM file any more.
    SourceCutOff
        It is cut off: a deflated data set, of which only the beginning is checked when it comes, or the file itself.
    """
    uid = instance.sop_instance_uid
    try:
        return dcmread(spool_dir / instance.path)
    except (OSError, InvalidDicomError) as error:
        remedy = "Send it again, then retry."
        raise SpoolFileMissing(f"The spool has no readable file for the recorded object {uid}. {remedy}") from error
    except (EOFError, struct.error, zlib.error) as error:
        raise SourceCutOff(f"The recorded object {uid} is cut off or damaged. {CutOff.remedy}") from error
