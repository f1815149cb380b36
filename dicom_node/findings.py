"""A finding as a row of SQL: the columns that active, shadow and earlier readings have in common."""

from __future__ import annotations

from typing import Any

from dicom_node.store import now
from inference.finding import Estimate, Finding


def kind_of(finding: Finding) -> str:
    """Return "estimate" or "refusal"."""
    return "estimate" if isinstance(finding, Estimate) else "refusal"


def finding_columns(finding: Finding, body: str) -> dict[str, Any]:
    """Return the values of the columns, interpreted now.

    Parameters
    ----------
    body
        The finding, whole, as JSON (``dicom_node.interpret.finding_to_json``).
    """
    return {
        "kind": kind_of(finding),
        "age_months": finding.age_months if isinstance(finding, Estimate) else None,
        "refusal_code": None if isinstance(finding, Estimate) else str(finding.code),
        "body": body,
        "interpreted_at": now(),
    }
