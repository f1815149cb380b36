"""Who made a document, when, and under which UIDs: all of it derived, so that a repeated step repeats nothing.

UIDs are UUIDv5 in the form of PS3.5 B.2 ("2.25." and the UUID as a decimal number), over the source image, the model,
the kind of document and its revision: the same work gives the same UID on every node and after every restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid5

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)

from inference.finding import ModelIdentity

Kind = Literal["sr", "sc", "text", "gsps", "pdf", "kos", "sr-2d", "sr-cornerstone"]
"""Comprehensive 3D SR, secondary capture, Enhanced SR, presentation state, PDF, key objects; the first one's tree as a
Comprehensive SR; that one with the tracking identifiers that older OHIF wants. A variant is a kind of its own: one
SOP Instance UID never stands for different contents."""

KINDS: tuple[Kind, ...] = ("sr", "sc", "text", "gsps", "pdf", "kos", "sr-2d", "sr-cornerstone")
"""In the order they are written: key objects refer to the capture."""
SOP_CLASSES: dict[Kind, str] = {
    "sr": str(Comprehensive3DSRStorage),
    "sc": str(SecondaryCaptureImageStorage),
    "text": str(EnhancedSRStorage),
    "gsps": str(GrayscaleSoftcopyPresentationStateStorage),
    "pdf": str(EncapsulatedPDFStorage),
    "kos": str(KeyObjectSelectionDocumentStorage),
    "sr-2d": str(ComprehensiveSRStorage),
    "sr-cornerstone": str(ComprehensiveSRStorage),
}

NAMESPACE = UUID("6d1c1f0e-6d53-5d0c-9a54-0b0e3c6f4a51")
"""Root of every UID of this project. Changing it would make archives see known documents as new ones."""


def derived_uid(*parts: str) -> str:
    """Return the UID that belongs to these parts, in this order (PS3.5 B.2; at most 44 characters)."""
    return f"2.25.{uuid5(NAMESPACE, chr(0x1F).join(parts)).int}"


MANUFACTURER = "boneage-node"
"""In every document; an archive may send one back, which is then known by it."""

IMPLEMENTATION_CLASS_UID = derived_uid("implementation")
"""Implementation Class UID (0002,0012) of the files written here (PS3.7 D.3.3.2)."""


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The document that one replaces, in the same study: what the same image was said to show before."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class DocumentIdentity:
    """What a document says of itself. ``created_at``, aware: the node's local time, for studies that name no zone."""

    sop_instance_uid: str
    series_instance_uid: str
    series_number: int
    instance_number: int
    created_at: datetime
    device_uid: str
    station_name: str
    manufacturer: str = MANUFACTURER
    software_version: str = "0"
    revision: int = 1
    predecessor: Predecessor | None = None

    def __post_init__(self) -> None:
        if self.created_at.tzinfo is None:
            raise ValueError("created_at needs a time zone.")
        if min(self.series_number, self.instance_number, self.revision) < 1:
            raise ValueError("Series number, instance number and revision start at 1.")


def document_uids(
    source_sop_instance_uid: str, model: ModelIdentity | None, kind: Kind, revision: int
) -> tuple[str, str]:
    """Return the Series and the SOP Instance UID of one document.

    Parameters
    ----------
    source_sop_instance_uid
        The image that was read.
    model
        The model that read it; None where a film was refused before any model saw it.
    kind
        Each kind has a series of its own: viewers show one SR per series.
    revision
        1 for the first reading of the study, counted up when it is read again.
    """
    named = () if model is None else (model.method, model.version, model.weights_sha256)
    parts = (source_sop_instance_uid, *named, kind, str(revision))
    return derived_uid("series", *parts), derived_uid("instance", *parts)


def device_uid(node_id: str) -> str:
    """Return the Device UID (0018,1002) of a node: stable for as long as the node keeps its id."""
    return derived_uid("device", node_id)


def tracking_uid(sop_instance_uid: str, name: str) -> str:
    """Return the Tracking Unique Identifier (112040, DCM) of one region in one document."""
    return derived_uid("tracking", sop_instance_uid, name)
