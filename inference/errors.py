"""What can go wrong while a film is read, as one tree.

::

    InferenceError
    ├── FilmError              the film gets no age; ``refusal`` says which refusal the reader sees
    │   ├── UnreadablePixels   the pixels cannot be decoded, or the header contradicts them
    │   │   └── CutOff         the object ends before its data does
    │   └── UnsupportedObject  readable perhaps, but not of a kind this product reads
    └── BundleError            the model's own files are missing, damaged or of another version

Messages name tags, transfer syntaxes and counts, never a value that could identify a patient.
"""

from __future__ import annotations

from typing import ClassVar

from inference.finding import RefusalCode


class InferenceError(Exception):
    """Base of everything this package raises on purpose; ``code`` is stable."""

    code: ClassVar[str] = "inference"


class FilmError(InferenceError):
    """A film that gets no age; the message is one English sentence for the reader."""

    code: ClassVar[str] = "film"
    refusal: ClassVar[RefusalCode] = RefusalCode.UNREADABLE_PIXELS
    remedy: ClassVar[str] = "Check the object with the modality or the archive and send it again."


class UnreadablePixels(FilmError):
    """The pixels cannot be decoded, are cut off, or contradict the header that describes them."""

    code: ClassVar[str] = "unreadable-pixels"


class CutOff(UnreadablePixels):
    """The object's file, or its way here, ended before its data did."""

    code: ClassVar[str] = "cut-off"
    remedy: ClassVar[str] = "Send the object again, whole, under a new SOP Instance UID: this one is taken."


class UnsupportedObject(FilmError):
    """An object of another kind: its SOP class, transfer syntax, colours, depth or frames are not read here."""

    code: ClassVar[str] = "unsupported-object"
    refusal: ClassVar[RefusalCode] = RefusalCode.UNSUPPORTED_OBJECT
    remedy: ClassVar[str] = "Send the single-frame greyscale radiograph for presentation (DX for presentation or CR)."


class BundleError(InferenceError):
    """The model bundle is missing, damaged (sha256) or made for another version."""

    code: ClassVar[str] = "model-bundle"
