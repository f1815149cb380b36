"""Whose hand it is, as far as the header says: sex and chronological age, each with where it came from.

Nothing is defaulted. What is missing or unusable is None with the reason, and contradictions are flagged. Sources and
reasons name elements, never their values, which may identify the patient.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from pydicom.dataset import Dataset

from inference.finding import Flag, Sex, Subject
from inference.header import texts

OLDEST_MONTHS = 300.0
"""No chronological age above this is believed: the reference populations end before 20 years."""
TOLERANCE_MONTHS = 12.0
"""Two sources of age that differ by more than this, beyond their own coarseness, contradict each other."""

_DAYS_PER_MONTH = 365.25 / 12
_STUDY_DATES = ("AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate")  # the closest to the exposure first
_AGE_UNITS = {
    "D": ("days", 1 / _DAYS_PER_MONTH),
    "W": ("weeks", 7 / _DAYS_PER_MONTH),
    "M": ("months", 1.0),
    "Y": ("years", 12.0),
}
_OTHER_SEXES = {"O": "other", "U": "unknown"}


@dataclass(frozen=True, slots=True)
class _Age:
    """An age in months, or why there is none."""

    months: float | None
    source: str
    coarseness_months: float = 0.0  # the true age lies in [months, months + coarseness)
    flags: tuple[Flag, ...] = ()


def read_subject(ds: Dataset) -> Subject:
    """Read sex and chronological age at acquisition from a header, however poor.

    Never raises for what a header holds. Age comes from PatientBirthDate and the first usable of AcquisitionDate,
    ContentDate, SeriesDate, StudyDate, in calendar months and fractions of a month; else from PatientAge (PS3.5 6.2,
    VR AS), with the span it leaves open: "010Y" is an age from 10 up to 11 years. In months and years it is flagged,
    too. A day's span is a birth date's own and does not count. A negative age and one above 25 years are flagged, and
    None.
    """
    sex, sex_source, sex_flags = _read_sex(ds)
    age = _read_age(ds)
    flags, span = (*sex_flags, *age.flags), 0.0 if age.months is None else age.coarseness_months
    return Subject(sex, sex_source, age.months, age.source, flags, span)


def acquisition_date(ds: Dataset) -> date | None:
    """Return the date of the exposure, or the closest to it that the header has: the one ages are counted to."""
    dates = (_single_date(ds, keyword) for keyword in _STUDY_DATES)
    return next((day for day in dates if day is not None), None)


def months_between(birth: date, study: date) -> float:
    """Return the age in months at ``study``: whole calendar months, and the days as a fraction of the running month.

    A child born on the 31st is a month older on the last day of a shorter month. Negative if ``study`` is earlier.
    """
    if study < birth:
        return -months_between(study, birth)
    whole = (study.year - birth.year) * 12 + study.month - birth.month
    if _add_months(birth, whole) > study:
        whole -= 1
    start, end = _add_months(birth, whole), _add_months(birth, whole + 1)
    return whole + (study - start).days / (end - start).days


def _add_months(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def _read_sex(ds: Dataset) -> tuple[Sex | None, str, tuple[Flag, ...]]:
    name = "PatientSex (0010,0040)"
    values = {value.upper() for value in texts(ds, "PatientSex")}
    if not values:
        return None, f"{name} is {'empty' if 'PatientSex' in ds else 'missing'}", ()
    if len(values) > 1:
        flag = Flag("sex-contradictory", "The header states more than one sex, so none is used.")
        return None, f"{name} has several values", (flag,)
    value = values.pop()
    if value in ("M", "F"):
        return Sex(value), name, ()
    if value in _OTHER_SEXES:
        return None, f"{name} says {value} ({_OTHER_SEXES[value]})", ()
    return None, f"{name} is none of M, F and O", ()


def _read_age(ds: Dataset) -> _Age:
    stated = _stated_age(ds)
    birth, why_not = _read_birth_date(ds)
    studies = [(keyword, day) for keyword in _STUDY_DATES if (day := _single_date(ds, keyword)) is not None]
    if birth is None or not studies:
        reason = why_not or "no usable acquisition, content, series or study date"
        return _plausible(stated) if stated.months is not None else _Age(None, f"{reason}; {stated.source}")
    keyword, day = studies[0]
    months = months_between(birth, day)
    age = _plausible(_Age(months, f"PatientBirthDate and {keyword}"))
    if age.months is None:
        return age
    flags = (*_compare_dates(birth, months, studies), *_compare_stated(months, stated))
    return _Age(age.months, age.source, flags=flags)


def _read_birth_date(ds: Dataset) -> tuple[date | None, str]:
    """Return the birth date, or None and why."""
    name = "PatientBirthDate (0010,0030)"
    if not texts(ds, "PatientBirthDate"):
        return None, f"{name} is {'empty' if 'PatientBirthDate' in ds else 'missing'}"
    birth = _single_date(ds, "PatientBirthDate")
    return birth, "" if birth else f"{name} is no date"


def _single_date(ds: Dataset, keyword: str) -> date | None:
    """Return the date of a DA element (PS3.5 6.2; also ACR-NEMA's YYYY.MM.DD), None unless it is exactly one."""
    values = texts(ds, keyword)
    match = re.fullmatch(r"([0-9]{4})([.-]?)([0-9]{2})\2([0-9]{2})", values[0]) if len(values) == 1 else None
    if match is None or match[1] == "9999":  # there is no day after 9999-12-31 to count towards
        return None
    try:
        return date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None


def _stated_age(ds: Dataset) -> _Age:
    """Return the age PatientAge states, the lower end of what it can mean, marked as coarse."""
    name = "PatientAge (0010,1010)"
    values = texts(ds, "PatientAge")
    if not values:
        return _Age(None, f"{name} is {'empty' if 'PatientAge' in ds else 'missing'}")
    match = re.fullmatch(r"([0-9]{1,4})([DWMY])", values[0].upper()) if len(values) == 1 else None
    if match is None:
        return _Age(None, f"{name} is no age")
    unit, months_per_unit = _AGE_UNITS[match[2]]
    sentence = f"The chronological age is stated in whole {unit} only."
    return _Age(
        int(match[1]) * months_per_unit,
        f"{name}, in whole {unit}",
        0.0 if unit == "days" else months_per_unit,
        (Flag("age-coarse", sentence),) if months_per_unit >= 1 else (),
    )


def _plausible(age: _Age) -> _Age:
    """Return the age, or None and a flag where no child can have it."""
    assert age.months is not None
    if age.months < 0:
        flag = Flag("birth-date-after-study", "The birth date lies after the examination, so no age is used.")
        return _Age(None, f"{age.source} give a negative age", flags=(flag,))
    if age.months > OLDEST_MONTHS:
        flag = Flag("age-implausible", "The header gives an age above 25 years, so no age is used.")
        return _Age(None, f"{age.source} give an age above 25 years", flags=(flag,))
    return age


def _compare_dates(birth: date, months: float, studies: list[tuple[str, date]]) -> Iterator[Flag]:
    if any(abs(months_between(birth, day) - months) > TOLERANCE_MONTHS for _, day in studies):
        yield Flag("study-dates-contradictory", "The dates of the examination are more than a year apart.")


def _compare_stated(months: float, stated: _Age) -> Iterator[Flag]:
    if stated.months is None:
        return
    low, high = stated.months - TOLERANCE_MONTHS, stated.months + stated.coarseness_months + TOLERANCE_MONTHS
    if not low <= months <= high:
        sentence = "The stated age and the age by birth date differ by more than a year; the birth date is used."
        yield Flag("age-contradictory", sentence)
