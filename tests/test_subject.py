"""Sex and chronological age from headers, however poor, with their sources; never defaulted, never quoted.

Does not cover: what a report or a refusal makes of a subject.
"""

from __future__ import annotations

from datetime import date, timedelta
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from conformance.films import make_film, write
from inference.finding import Sex, Subject
from inference.subject import OLDEST_MONTHS, months_between, read_subject

DATES = ("AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate")
VRS = {"PatientSex": "CS", "PatientAge": "AS", "PatientBirthDate": "DA", **dict.fromkeys(DATES, "DA")}


def make_header(**values: bytes | str) -> Dataset:
    """Return a data set as it comes from a file: raw, converted by nobody."""
    ds = Dataset()
    for keyword, value in values.items():
        tag, raw = Tag(keyword), value.encode() if isinstance(value, str) else value
        ds[tag] = RawDataElement(
            tag, VRS.get(keyword, "LO"), len(raw), raw, 0, is_implicit_VR=False, is_little_endian=True
        )
    return ds


def read(**values: bytes | str) -> Subject:
    return read_subject(make_header(**values))


def codes(subject: Subject) -> list[str]:
    return [flag.code for flag in subject.flags]


# -- sex -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "sex"), [("M", Sex.MALE), ("F ", Sex.FEMALE), ("f", Sex.FEMALE), ("M\0", Sex.MALE)])
def test_sex(value, sex):
    subject = read(PatientSex=value)

    assert subject.sex is sex
    assert subject.sex_source == "PatientSex (0010,0040)"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("O", "says O (other)"),
        ("U", "says U (unknown)"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("MALE", "none of M, F and O"),
        (b"\xff\xfe", "none of M, F and O"),
        ("MÜLLER^EVA", "none of M, F and O"),
    ],
)
def test_no_other_sex_is_made_up(value, reason):
    subject = read(PatientSex=value)

    assert subject.sex is None
    assert reason in subject.sex_source
    assert "EVA" not in subject.sex_source


def test_missing_sex():
    assert read().sex is None
    assert read().sex_source == "PatientSex (0010,0040) is missing"


def test_several_sexes_contradict():
    subject = read(PatientSex="M\\F")

    assert subject.sex is None
    assert codes(subject) == ["sex-contradictory"]
    assert read(PatientSex="M\\M").sex is Sex.MALE


# -- age by birth date -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("birth", "study", "months"),
    [
        ("20140317", "20240317", 120.0),
        ("20140317", "20240316", 119 + 28 / 29),
        ("20140317", "20240401", 120 + 15 / 31),
        ("20120229", "20130228", 12.0),
        ("20120229", "20160229", 48.0),
        ("20150131", "20150228", 1.0),
        ("20150131", "20150315", 1 + 15 / 31),
        ("20240917", "20240917", 0.0),
        ("2014.03.17", "20240317", 120.0),
        ("2014-03-17", "20240317", 120.0),
        ("20140317 ", "20240317\0", 120.0),
    ],
)
def test_age_in_months_and_days(birth, study, months):
    subject = read(PatientBirthDate=birth, AcquisitionDate=study)

    assert subject.age_months == pytest.approx(months)
    assert subject.age_span_months == 0
    assert subject.age_source == "PatientBirthDate and AcquisitionDate"
    assert codes(subject) == []


@pytest.mark.parametrize("present", range(4))
def test_the_date_closest_to_the_exposure_is_used(present):
    """The dates before it are missing or unusable, those after it are there."""
    unusable = dict.fromkeys(DATES[:present], "00000000")
    usable = {keyword: f"2024031{7 + place}" for place, keyword in enumerate(DATES[present:]) if place < 3}

    subject = read(PatientBirthDate="20140317", **unusable, **usable)

    assert subject.age_months == 120.0
    assert subject.age_source == f"PatientBirthDate and {DATES[present]}"


def test_study_dates_a_year_apart_are_flagged():
    subject = read(PatientBirthDate="20140317", AcquisitionDate="20240317", StudyDate="20200101")

    assert subject.age_months == 120.0
    assert codes(subject) == ["study-dates-contradictory"]


@pytest.mark.parametrize(
    "birth", ["", "00000000", "20140230", "2014", "201403", "20140317\\20140318", "unbekannt", "99991231"]
)
def test_unusable_birth_dates_give_no_age(birth):
    subject = read(PatientBirthDate=birth, StudyDate="20240317")

    assert subject.age_months is None
    assert "PatientBirthDate (0010,0030) is " in subject.age_source
    assert "PatientAge (0010,1010) is missing" in subject.age_source
    assert birth == "" or birth not in subject.age_source


def test_a_birth_date_after_the_study_is_flagged_and_nothing_takes_its_place():
    subject = read(PatientBirthDate="20250101", StudyDate="20240317", PatientAge="010Y")

    assert subject.age_months is None
    assert codes(subject) == ["birth-date-after-study"]


@pytest.mark.parametrize("values", [{"PatientBirthDate": "19000101", "StudyDate": "20240317"}, {"PatientAge": "041Y"}])
def test_ages_no_child_has_are_flagged(values):
    subject = read(**values)

    assert subject.age_months is None
    assert codes(subject) == ["age-implausible"]
    assert "above 25 years" in subject.age_source


# -- age as stated ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "months", "span", "unit", "flags"),
    [
        ("011Y", 132.0, 12.0, "years", ["age-coarse"]),
        ("11Y", 132.0, 12.0, "years", ["age-coarse"]),
        ("130M", 130.0, 1.0, "months", ["age-coarse"]),
        ("050W", 50 * 7 * 12 / 365.25, 7 * 12 / 365.25, "weeks", []),
        ("0300D", 300 * 12 / 365.25, 0.0, "days", []),
        ("300d", 300 * 12 / 365.25, 0.0, "days", []),
    ],
)
def test_stated_ages(value, months, span, unit, flags):
    """Given an age in whole units, then it is any from that many on to one more; of days as exact as a birth date."""
    subject = read(PatientAge=value)

    assert subject.age_months == pytest.approx(months)
    assert subject.ages_months == pytest.approx((months, months + span))
    assert subject.age_source == f"PatientAge (0010,1010), in whole {unit}"
    assert codes(subject) == flags


@pytest.mark.parametrize("value", ["", "11", "Y", "-11Y", "1.5Y", "11Y\\12Y", "elf", "011 Y", "\u0660\u0661\u0661Y"])
def test_what_is_no_age(value):
    subject = read(PatientAge=value)

    assert subject.age_months is None
    assert "PatientAge (0010,1010) is " in subject.age_source


def test_the_stated_age_stands_in_where_no_study_date_is_usable():
    subject = read(PatientBirthDate="20140317", PatientAge="010Y")

    assert subject.age_months == 120.0
    assert codes(subject) == ["age-coarse"]


@pytest.mark.parametrize(
    ("stated", "flags"),
    [
        ("010Y", []),
        ("009Y", []),
        ("011Y", []),
        ("008Y", ["age-contradictory"]),
        ("012Y", ["age-contradictory"]),
        ("120M", []),
        ("106M", ["age-contradictory"]),
        ("garbage", []),
    ],
)
def test_the_two_ages_are_compared(stated, flags):
    """Ten years and a day by birth date: 009Y and 011Y may both be a slip of less than a year."""
    subject = read(PatientBirthDate="20140317", StudyDate="20240318", PatientAge=stated)

    assert subject.age_months == pytest.approx(120 + 1 / 31)
    assert codes(subject) == flags


def test_elements_that_pydicom_has_already_converted_read_the_same():
    ds = dcmread(BytesIO(write(make_film())))
    before = read_subject(ds)
    for _ in ds.iterall():
        pass

    assert (
        read_subject(ds)
        == before
        == Subject(Sex.FEMALE, "PatientSex (0010,0040)", 126.0, "PatientBirthDate and AcquisitionDate")
    )


# -- properties ------------------------------------------------------------------------------------------------------

days = st.dates(date(1, 1, 1), date(9998, 12, 31))


@given(days, days)
def test_months_are_antisymmetric_and_close_to_days(birth, study):
    months = months_between(birth, study)

    assert months == -months_between(study, birth)
    assert months == pytest.approx((study - birth).days * 12 / 365.25, abs=0.15 + abs(months) * 1e-4)


@given(days, st.integers(1, 12_000))
def test_a_child_gets_older_every_day(birth, age_days):
    study = birth + timedelta(days=age_days) if birth.year < 9900 else birth - timedelta(days=age_days)
    earlier, later = sorted((birth, study))

    assert 0 <= months_between(earlier, later - timedelta(days=1)) <= months_between(earlier, later)


garbage = st.one_of(
    st.binary(max_size=18),
    st.text(max_size=10).map(lambda text: text.encode("utf-8", "replace")),
    st.text(max_size=8).map(lambda text: text.encode("gb18030", "replace")),
    st.from_regex(rb"\A[0-9]{4}[01][0-9][0-3][0-9]\Z"),
    st.from_regex(rb"\A[0-9]{1,4}[DWMY]\Z"),
    st.from_regex(rb"\A[0-9]{8}(\\\\[0-9]{8})?-?\Z"),
    st.sampled_from([b"M", b"F", b"O"]),
)


@given(st.dictionaries(st.sampled_from(sorted(VRS)), garbage))
def test_any_header_gives_a_subject(values):
    subject = read(**values)

    assert subject.age_months is None or 0 <= subject.age_months <= OLDEST_MONTHS
    assert subject.sex is None or b"M" in values["PatientSex"].upper() or b"F" in values["PatientSex"].upper()
    assert subject.sex_source
    assert subject.age_source


@given(secret=st.from_regex(r"\A[A-Z]{6}[\^][a-z]{5}\Z"), keyword=st.sampled_from(sorted(VRS)))
def test_sources_never_quote_the_header(secret, keyword):
    assert secret not in str(read(**{"PatientBirthDate": "20140317", "StudyDate": "20240317", keyword: secret}))
