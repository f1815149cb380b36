"""A finding as a row of SQL: whole as JSON, and the columns that active, shadow and earlier readings have in common."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dicom_node.errors import StoreError
from dicom_node.store import now
from inference.finding import Estimate, Finding, Refusal

_KINDS: dict[str, TypeAdapter[Any]] = {"estimate": TypeAdapter(Estimate), "refusal": TypeAdapter(Refusal)}


def kind_of(finding: Finding) -> str:
    """Return "estimate" or "refusal"."""
    return "estimate" if isinstance(finding, Estimate) else "refusal"


def finding_to_json(finding: Finding) -> str:
    """Write a finding as JSON, whole: ``finding_from_json`` returns an equal one."""
    return json.dumps({"kind": kind_of(finding), "finding": dataclasses.asdict(finding)}, allow_nan=False)


def finding_from_json(text: str) -> Finding:
    """Read a finding that ``finding_to_json`` wrote.

    Raises
    ------
    StoreError
        The text is no finding: the row was changed by something else, or by a newer version.
    """
    try:
        body = json.loads(text)
        finding: Finding = _KINDS[body["kind"]].validate_python(body["finding"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise StoreError(f"A finding in the store cannot be read: {type(error).__name__}.") from None
    return finding


def finding_columns(finding: Finding, body: str) -> dict[str, Any]:
    """Return the values of the columns, interpreted now.

    Parameters
    ----------
    body
        The finding, whole, as JSON (:func:`finding_to_json`).
    """
    return {
        "kind": kind_of(finding),
        "age_months": finding.age_months if isinstance(finding, Estimate) else None,
        "refusal_code": None if isinstance(finding, Estimate) else str(finding.code),
        "body": body,
        "interpreted_at": now(),
    }
