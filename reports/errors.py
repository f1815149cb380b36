"""Errors of the package.

The tree::

    ReportError                     "report"
    ├── IncompleteSource            "incomplete-source"     the image lacks a UID without which nothing can refer to it
    ├── UnplaceableFinding          "unplaceable-finding"   a region of the finding cannot be placed on the image
    ├── InapplicableKind            "inapplicable-kind"     there is no document of this kind of such an image
    ├── FontUnavailable             "font-unavailable"      this installation cannot write the overlay's text
    └── VerificationError           "verification-failed"   a document does not say what the finding says

None of them carries patient data: messages name attributes and checks, never values.
"""

from __future__ import annotations


class ReportError(Exception):
    """Base of every error that composing or verifying a document raises. ``code`` is stable."""

    code = "report"


class IncompleteSource(ReportError):
    """The source image lacks one of the UIDs a document refers to. Not to be retried: quarantine the object."""

    code = "incomplete-source"


class UnplaceableFinding(ReportError):
    """The hand's box does not lie on the image: a fault of the reader, not of the film."""

    code = "unplaceable-finding"


class InapplicableKind(ReportError):
    """A document of this kind goes with no image like this one. No fault: the other kinds say the same."""

    code = "inapplicable-kind"


class FontUnavailable(ReportError):
    """Pillow was built without the library that scales letters: a fault of the installation."""

    code = "font-unavailable"


class VerificationError(ReportError):
    """A composed document contradicts its source or its finding and must not leave the node.

    Parameters
    ----------
    check
        Which check failed: a stable word for logs and for SQL.
    detail
        What was found, without values of the patient.
    """

    code = "verification-failed"

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check
