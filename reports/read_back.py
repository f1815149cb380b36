"""Reading our findings out of documents: the bone age or the refusal of a Structured Report.

Used to check a document before it leaves, and to read earlier results of the same child. Needs no highdicom.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, nan
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from inference.finding import RefusalCode
from reports import codes

MONTHS_PER_UNIT: dict[str, float] = {codes.MONTH.value: 1.0, codes.YEAR.value: 12.0}
"""UCUM units of time a bone age may be written in."""


def read_bone_age(report: Dataset) -> float | None:
    """Return the bone age of a TID 1500 report.

    Parameters
    ----------
    report
        A Structured Report, ours or another maker's.

    Returns
    -------
    float or None
        Months; the first "XR Bone age" (85151-9, LN) among the measurements. None where the report has none: a refusal,
        or a report on something else.
    """
    for group in measurement_groups(report):
        for item in named(group, codes.BONE_AGE):
            months = _months(item)
            if months is not None:
                return months
    return None


class Result(NamedTuple):
    """A bone age of a report with what a later one compares it with; months."""

    bone_age_months: float
    chronological_age_months: float | None
    half_width_months: float | None  # half of what the uncertainties span


def read_result(report: Dataset) -> Result | None:
    """Return the bone age of a TID 1500 report, the chronological age beside it and its uncertainty.

    None where the report has no bone age.
    """
    for group in measurement_groups(report):
        for item in named(group, codes.BONE_AGE):
            months = _months(item)
            if months is None:
                continue
            ages = [_months(age) for age in named(group, codes.CHRONOLOGICAL_AGE)]
            spans = [
                _months(child)
                for name in (codes.UNCERTAINTY_ABOVE, codes.UNCERTAINTY_BELOW)
                for child in named(item, name)
            ]
            known = [span for span in spans if span is not None]
            half = sum(known) / 2 if len(known) == len(spans) == 2 else None
            return Result(months, ages[0] if ages else None, half)
    return None


def read_refusal(report: Dataset) -> RefusalCode | None:
    """Return why a report of ours has no bone age, None where it says nothing of that kind."""
    for container in named(report, codes.QUALITATIVE_EVALUATIONS):
        for item in named(container, codes.FINDING):
            for reason, code in codes.REFUSALS.items():
                if matches(item.get("ConceptCodeSequence"), code):
                    return reason
    return None


def read_image(report: Dataset) -> str | None:
    """Return the SOP Instance UID of the image a TID 1500 report is about; None where its image library has none."""
    for library in named(report, codes.IMAGE_LIBRARY):
        for item in descendants(library):
            reference = item.get("ReferencedSOPSequence") if item.get("ValueType") == "IMAGE" else None
            if reference and reference[0].get("ReferencedSOPInstanceUID"):
                return str(reference[0].ReferencedSOPInstanceUID)
    return None


def measurement_groups(report: Dataset) -> Iterator[Dataset]:
    """Yield the measurement groups (125007, DCM) of a TID 1500 report, in order."""
    for container in named(report, codes.IMAGING_MEASUREMENTS):
        yield from named(container, codes.MEASUREMENT_GROUP)


def named(parent: Dataset, name: Code) -> Iterator[Dataset]:
    """Yield the children of a content item that have this concept name."""
    for item in children(parent):
        if matches(item.get("ConceptNameCodeSequence"), name):
            yield item


def children(parent: Dataset) -> Iterator[Dataset]:
    """Yield the children of a content item."""
    yield from parent.get("ContentSequence") or ()


def descendants(parent: Dataset) -> Iterator[Dataset]:
    """Yield every content item below one, parents before their children."""
    for item in children(parent):
        yield item
        yield from descendants(item)


def matches(sequence: list[Dataset] | None, code: Code) -> bool:
    """Tell whether a code sequence's only item is this code; meanings do not count (PS3.16 7)."""
    if not sequence:
        return False
    item = sequence[0]
    return (item.get("CodeValue"), item.get("CodingSchemeDesignator")) == (code.value, code.scheme_designator)


def _months(item: Dataset) -> float | None:
    """Return a NUM's value in months; Floating Point Value is the exact one where there is one (PS3.3 C.18.1)."""
    measured = item.get("MeasuredValueSequence")
    units = measured[0].get("MeasurementUnitsCodeSequence") if measured else None
    if not measured or not units:
        return None
    value = measured[0].get("FloatingPointValue")
    if value is None:
        value = measured[0].get("NumericValue")
    factor = MONTHS_PER_UNIT.get(units[0].get("CodeValue", ""))
    try:
        months = float(value) * factor if factor is not None else nan
    except (TypeError, ValueError):  # another maker's, or broken: nothing to be read
        return None
    return months if isfinite(months) else None
