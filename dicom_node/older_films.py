"""Earlier hand films of a patient that an archive has and nobody has read: found, fetched and read for comparison.

A setting allows it, and bounds how many. Such a film becomes a row and perhaps an earlier result, never a study:
nothing is composed of it or sent, and its pixels are not kept. It is read once, whatever model reads later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import structlog
from pydicom import Dataset

from dicom_node.errors import InterpretationFailed
from dicom_node.query import Asking, Inquiry, Wanted, inquire
from inference.film import CR_IMAGE, DX_FOR_PRESENTATION, SUPPORTED_TRANSFER_SYNTAXES
from inference.finding import Estimate, Finding

MOST_IMAGES = 4
"""Objects of one series that are looked at: a series of hand films has one or two."""
_HAND = re.compile(r"hand|wrist|finger|carp|bone ?age|knochenalter|main\b|poignet|mano|骨龄|手|腕", re.IGNORECASE)
_ASKED_OF_SERIES = ("SeriesInstanceUID", "Modality", "SeriesDescription", "BodyPartExamined")
_ASKED_OF_IMAGE = ("SOPInstanceUID", "SOPClassUID")

log = structlog.get_logger(__name__)

Read = Callable[[Dataset], tuple[Finding, str]]
"""Reads a film that belongs to no revision; returns what it found, and that as JSON. May raise InterpretationFailed."""


class ReadFilm(NamedTuple):
    """A film of the archive without its pixels, and what was found."""

    header: Dataset
    finding: Finding
    body: str  # the finding as JSON


class Known(NamedTuple):
    """What need not be fetched, by UID."""

    has_result: Callable[[str], bool]  # a study
    was_read: Callable[[str], bool]  # a film


def read_older_films(asking: Asking, wanted: Wanted, known: Known, read: Read, *, most: int) -> list[ReadFilm]:
    """Fetch and read earlier hand films without a result, of the latest studies first; of each study up to an estimate.

    Parameters
    ----------
    wanted
        Of whom, and of which time.
    read
        What reads them.
    most
        How many are fetched at most.

    Raises
    ------
    PeerUnreachable
        The archive does not answer, or breaks off.
    """
    found: list[ReadFilm] = []
    done: set[str] = set()
    with inquire(asking, (CR_IMAGE, DX_FOR_PRESENTATION), sorted(SUPPORTED_TRANSFER_SYNTAXES)) as inquiry:
        fetched = 0
        for keys in _candidates(inquiry, wanted, known):
            if fetched == most:
                break
            if keys["StudyInstanceUID"] in done:
                continue
            fetched += 1
            for film in inquiry.retrieve(keys):
                one = _read_one(film, read)
                if one is not None:
                    found.append(one)
                    done |= {keys["StudyInstanceUID"]} if isinstance(one.finding, Estimate) else set()
    return found


def _read_one(film: Dataset, read: Read) -> ReadFilm | None:
    try:
        finding, body = read(film)
    except InterpretationFailed as error:  # an earlier film must not stop the present one
        log.warning("older-films.unread", code=error.code)
        return None
    if "PixelData" in film:
        del film.PixelData
    return ReadFilm(film, finding, body)


def _candidates(inquiry: Inquiry, wanted: Wanted, known: Known) -> Iterator[dict[str, str]]:
    """Yield the keys of images that may be hand films, as they are asked for."""
    for study in inquiry.studies(wanted):
        uid = str(study.StudyInstanceUID)
        if known.has_result(uid):
            continue
        for modality in ("CR", "DX"):
            for series in inquiry.find("SERIES", _ASKED_OF_SERIES, StudyInstanceUID=uid, Modality=modality):
                if series.get("SeriesInstanceUID") and may_be_hand(study, series):
                    keys = {"StudyInstanceUID": uid, "SeriesInstanceUID": str(series.SeriesInstanceUID)}
                    yield from _images(inquiry, keys, known)


def _images(inquiry: Inquiry, keys: dict[str, str], known: Known) -> Iterator[dict[str, str]]:
    for image in inquiry.find("IMAGE", _ASKED_OF_IMAGE, **keys)[:MOST_IMAGES]:
        uid, sop_class_uid = str(image.get("SOPInstanceUID", "")), str(image.get("SOPClassUID", ""))
        if uid and not known.was_read(uid) and sop_class_uid in {"", CR_IMAGE, DX_FOR_PRESENTATION}:
            yield {**keys, "SOPInstanceUID": uid}


def may_be_hand(study: Dataset, series: Dataset) -> bool:
    """Tell whether an archive's words for a series are a hand's, or it has none; what it is, is for the reader."""
    words = [
        str(series.get("BodyPartExamined", "") or ""),
        str(series.get("SeriesDescription", "") or ""),
        str(study.get("StudyDescription", "") or ""),
    ]
    said = " ".join(word for word in words if word.strip())
    return not said or _HAND.search(said) is not None
