"""What a bone age means: published values come back, tables are what they should be, and nothing is extrapolated."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.anatomy import RUS_NAMES
from inference.finding import BoneProfile, BoneStage, Estimate, Sex
from inference.rus_chn import STAGE_COUNTS
from reports import wording
from reports.chart import EDGES, draw_chart
from reports.clinic import ClinicSettings, HeightPrediction, Prior, assess
from reports.clinic.heights import bayley_pinneau, rwt
from reports.clinic.sd_scores import MOST_OPEN_SD, growth_chart, reference, rows_of, sd_score, verdict
from reports.clinic.stage_ages import TW3_C_RUS, TW3_RUS, stage_ages, tw3_points
from reports.clinic.tables import interpolated, table
from reports.palette import CYAN
from reports.phrases import translated

REFERENCES = ("brush-foundation", "greulich-pyle")


def aged(estimate: Estimate, *, bone: float, age: float | None, sex: Sex | None = Sex.MALE) -> Estimate:
    return replace(
        estimate,
        age_months=bone,
        interval_low_months=bone - 12,
        interval_high_months=bone + 12,
        subject=replace(estimate.subject, age_months=age, sex=sex),
    )


def mature(stage_of: dict[str, int] | None = None) -> BoneProfile:
    stages = {name: count - 1 for name, count in zip(RUS_NAMES, STAGE_COUNTS, strict=True)} | (stage_of or {})
    bones = tuple(BoneStage(name, stages[name], 14, 0.9, 10.0) for name in RUS_NAMES)
    return BoneProfile(bones, 1000.0, 216.0)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("sex", list(Sex))
def test_reference_tables_rise_and_have_positive_spreads(name, sex):
    rows = rows_of(name, sex)
    ages, means, spreads = zip(*rows, strict=True)
    assert list(ages) == sorted(set(ages))
    assert list(means) == sorted(set(means))
    assert min(spreads) > 0
    assert reference(name).citation


@pytest.mark.parametrize(
    ("name", "sex", "age", "mean", "sd"),
    [
        ("brush-foundation", Sex.MALE, 120, 125.68, 9.79),
        ("brush-foundation", Sex.FEMALE, 132, 137.86, 11.94),
        ("greulich-pyle", Sex.MALE, 120, 120, 11.4),
        ("greulich-pyle", Sex.FEMALE, 168, 168, 12.6),
    ],
)
def test_a_tabulated_age_gives_the_published_score(name, sex, age, mean, sd):
    score = sd_score(mean + 1.5 * sd, age, sex, name)
    assert score.value == pytest.approx(1.5)
    assert (score.low_months, score.high_months) == pytest.approx((mean - 2 * sd, mean + 2 * sd))


def test_between_two_ages_mean_and_spread_are_interpolated():
    score = sd_score(130.0, 126.0, Sex.MALE, "brush-foundation")
    assert (score.mean_months, score.sd_months) == pytest.approx(((125.68 + 137.32) / 2, (9.79 + 10.09) / 2))


@pytest.mark.parametrize("age", [2.9, 204.1, -1, 300])
def test_outside_a_table_there_is_no_score(age, estimate):
    assert sd_score(100.0, age, Sex.MALE, "brush-foundation") is None
    said = assess(aged(estimate, bone=100, age=age))
    assert said.sd is None
    assert said.verdict is None
    assert said.notes == ("The chronological age lies outside the table of Brush Foundation: no SD score.",)


@given(st.floats(3, 192), st.floats(0, 228), st.sampled_from(Sex))
def test_scores_rise_with_bone_age(age, bone, sex):
    lower, higher = (sd_score(value, age, sex, "brush-foundation").value for value in (bone, bone + 1))
    assert lower < higher


@pytest.mark.parametrize(("bone", "word"), [(125.68 + 20, "advanced"), (125.68 - 20, "delayed"), (125.68, "normal")])
def test_verdicts(estimate, bone, word):
    assert assess(aged(estimate, bone=bone, age=120)).verdict == word


def test_a_site_chooses_reference_and_rule(estimate):
    film = aged(estimate, bone=135, age=120)
    assert assess(film).verdict == "normal"
    assert wording.verdict(assess(film)) == "Within the normal range for chronological age (+/- 2 SD)"
    strict = assess(film, settings=ClinicSettings(normal_sd=0.5))
    assert strict.verdict == "advanced"
    assert wording.verdict(strict) == "Advanced for chronological age (more than 0.5 SD)"
    assert wording.verdict(strict, "zh") == "骨龄提前 (超过 0.5 SD)"
    assert assess(film, settings=ClinicSettings(reference="greulich-pyle")).sd.reference.name == "greulich-pyle"
    assert verdict(sd_score(135, 120, Sex.MALE, "greulich-pyle"), 2) == "normal"


def test_without_age_or_sex_nothing_is_compared(estimate):
    no_age = assess(aged(estimate, bone=120, age=None))
    assert (no_age.sd, no_age.verdict, no_age.difference_months) == (None, None, None)
    assert no_age.notes == ("The chronological age is not known: no SD score.",)
    no_sex = assess(aged(estimate, bone=120, age=110, sex=None))
    assert (no_sex.sd, no_sex.chart, no_sex.heights) == (None, None, ())


@pytest.mark.parametrize("name", REFERENCES)
def test_charts_are_bands_around_their_mean(name):
    chart = growth_chart(Sex.FEMALE, name)
    rows = zip(chart.low, chart.mean, chart.high, strict=True)
    assert all(low < mean < high for low, mean, high in rows)


def test_a_score_says_how_far_the_interval_of_its_bone_age_reaches(estimate):
    """A boy of 6 months, read as 10 (0 to 22): 3.5 SD ahead, and the interval holds the whole normal range."""
    film = replace(aged(estimate, bone=10, age=6), interval_low_months=0.0, interval_high_months=22.0)
    score = assess(film).sd
    mean, sd = 6.09, 1.13
    assert score.interval == pytest.approx((-mean / sd, (22 - mean) / sd))
    assert wording.sd_score(score) == (
        "SD score +3.5 (90 % -5.4 to +14.1; Brush Foundation: mean 0 y 6 mo, SD 1.1 months)"
    )
    assert "+3.5 (90 % -5.4 至 +14.1；Brush Foundation：" in wording.sd_score(score, "zh").replace(": ", "：")


@pytest.mark.parametrize("age", [2, 100, 215])
def test_the_chart_names_its_reference_also_beyond_its_table(estimate, age):
    assert wording.chart_title(assess(aged(estimate, bone=100, age=age))) == "Bone age by age, years (Brush Foundation)"


@pytest.mark.parametrize(
    ("age", "bone", "half"), [(210, 228, 23), (216, 240, 30), (3, 6, 6), (120, 130, 60), (250, 225, 25)]
)
def test_the_interval_stays_in_the_chart(estimate, age, bone, half):
    film = replace(
        aged(estimate, bone=bone, age=age), interval_low_months=bone - half, interval_high_months=bone + half
    )
    size = (440, 340)
    drawn = np.asarray(draw_chart(film, assess(film), size, ""))
    rows = np.nonzero((np.abs(drawn.astype(int) - CYAN) < 40).all(axis=2))[0]
    assert len(rows) > 3
    assert EDGES[1] - 1 <= rows.min() <= rows.max() <= size[1] - EDGES[3] + 1


# An age in whole weeks, months or years.


def spanned(estimate: Estimate, *, bone: float, age: float, span: float, sex: Sex = Sex.MALE) -> Estimate:
    film = aged(estimate, bone=bone, age=age, sex=sex)
    return replace(film, subject=replace(film.subject, age_span_months=span))


def test_an_age_in_whole_years_gives_a_range_of_scores_and_no_number(estimate):
    """Given a boy of "010Y" read as 130 months, then he may be 0.4 SD ahead or 0.7 behind; neither is told."""
    said = assess(spanned(estimate, bone=130, age=120, span=12))
    assert (said.sd, said.difference_months) == (None, None)
    assert said.sd_range.high == pytest.approx((130 - 125.68) / 9.79)
    assert said.sd_range.low == pytest.approx((130 - 137.32) / 10.09)
    assert said.sd_range.interval == pytest.approx(((118 - 137.32) / 10.09, (142 - 125.68) / 9.79))
    assert wording.assessed(said)[:3] == [
        "SD score -0.7 to +0.4, by exact age from 10 y 0 mo up to 11 y 0 mo (90 % -1.9 to +1.7; Brush Foundation)",
        "Mean -/+ 2 SD: 8 y 10 mo to 12 y 1 mo at 10 y 0 mo, 9 y 9 mo to 13 y 2 mo at 11 y 0 mo",
        "Within the normal range for chronological age (+/- 2 SD)",
    ]


@pytest.mark.parametrize(
    ("bone", "word"), [(166, "advanced"), (150, None), (130, "normal"), (112, None), (100, "delayed")]
)
def test_no_word_where_the_age_leaves_it_open(estimate, bone, word):
    """Given a boy of "010Y", then he is called advanced only where he is at 10 as at almost 11."""
    said = assess(spanned(estimate, bone=bone, age=120, span=12))
    assert said.verdict == word
    assert ("depends on the exact chronological age" in " ".join(said.notes)) == (word is None)
    assert (wording.verdict(said) is None) == (word is None)
    open_ = [note for note in wording.notes(said, "zh") if "取决于确切的实际年龄" in note]
    assert bool(open_) == (word is None)


def test_an_age_in_whole_months_gives_a_score_at_its_middle(estimate):
    said = assess(spanned(estimate, bone=130, age=120, span=1))
    assert said.sd_range is None
    assert said.sd.value == pytest.approx(sd_score(130, 120.5, Sex.MALE, "brush-foundation").value)
    youngest, oldest = (sd_score(bone, age, Sex.MALE, "brush-foundation") for bone, age in ((142, 120), (118, 121)))
    assert said.sd.interval == pytest.approx((oldest.value, youngest.value))
    assert said.difference_months == pytest.approx(9.5)


def test_a_month_leaves_an_infants_score_open(estimate):
    """Given "006M", of an age whose SD is a month, then there is a range; of weeks there is a number."""
    assert assess(spanned(estimate, bone=7, age=6, span=1)).sd is None
    assert assess(spanned(estimate, bone=7, age=6, span=7 / 30.4)).sd is not None


def test_an_age_that_may_lie_outside_the_table_has_no_score(estimate):
    said = assess(spanned(estimate, bone=200, age=204, span=12))
    assert (said.sd, said.sd_range, said.verdict) == (None, None, None)
    assert said.notes == ("The chronological age may lie outside the table of Brush Foundation: no SD score.",)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # nothing changes the frozen estimate
@given(st.floats(3, 180), st.floats(0, 228), st.sampled_from((7 / 30.4375, 1.0, 12.0)), st.floats(0, 0.999))
def test_the_range_holds_the_score_of_every_age_it_is_told_for(estimate, age, bone, span, share):
    """Given any true age that the header can mean, then score, word and difference told are not wrong for it."""
    said = assess(spanned(estimate, bone=bone, age=age, span=span))
    truth = assess(aged(estimate, bone=bone, age=age + share * span))
    slack = 0.05 * (1 + abs(truth.sd.value))  # tables have corners between the ages that are looked at
    if said.sd_range is None:
        assert abs(said.sd.value - truth.sd.value) <= MOST_OPEN_SD
    else:
        assert said.sd_range.low - slack <= truth.sd.value <= said.sd_range.high + slack
    near_limit = abs(abs(truth.sd.value) - 2) < slack
    assert said.verdict in {None, truth.verdict} or near_limit
    assert said.difference_months is None or abs(said.difference_months - truth.difference_months) <= span / 2 + 1e-9


@pytest.mark.parametrize(
    ("bone", "span", "sentence"),
    [
        (126, 12, "Bone age is between 6.0 months behind and 6.0 months ahead of chronological age"),
        (140, 12, "Bone age is 8.0 to 20.0 months ahead of chronological age"),
        (100, 12, "Bone age is 20.0 to 32.0 months behind chronological age"),
        (126, 1, "Bone age is 5.0 to 6.0 months ahead of chronological age"),
        (132, 12, "Bone age is 0.0 to 12.0 months ahead of chronological age"),
    ],
)
def test_a_difference_to_an_age_in_whole_units_is_a_range(estimate, bone, span, sentence):
    film = spanned(estimate, bone=bone, age=120, span=span)
    assert wording.difference(film) == sentence
    assert sentence in wording.conclusion(film)


@pytest.mark.parametrize(
    ("span", "stated"),
    [(12, "10 y 0 mo up to 11 y 0 mo (120.0 to 132.0 months)"), (7 / 30.4375, "10 y 0 mo (120.0 to 120.2 months)")],
)
def test_an_age_in_whole_units_is_stated_as_what_it_can_mean(estimate, span, stated):
    subject = spanned(estimate, bone=126, age=120, span=span).subject
    assert f"Chronological age {stated}, from" in wording.chronological_age(subject)


def test_heights_that_hang_on_the_exact_age_are_left_out_and_said(estimate):
    """Given "010Y", then Bayley-Pinneau is used where it takes one of its tables for all of the year; RWT never is."""
    body = {"height_cm": 140.0, "weight_kg": 32.0, "midparent_cm": 171.0}
    one_table = assess(spanned(estimate, bone=126, age=120, span=12), **body)
    assert [one.method for one in one_table.heights] == ["Bayley-Pinneau"]
    ends = [bayley_pinneau(140.0, 126, age, Sex.MALE) for age in (120, 132)]
    assert one_table.heights[0].high >= max(one.high for one in ends)
    assert [note for note in one_table.notes if "adult height" in note] == [
        "RWT 1975 depends on the exact chronological age, which is not known: no adult height by it."
    ]
    two_tables = assess(spanned(estimate, bone=140, age=120, span=12), **body)
    assert two_tables.heights == ()
    assert any(note.startswith("Bayley-Pinneau depends on the exact") for note in two_tables.notes)
    by_month = assess(spanned(estimate, bone=126, age=120, span=1), **body)
    assert [one.method for one in by_month.heights] == ["Bayley-Pinneau", "RWT 1975"]


def test_an_age_in_whole_years_is_a_line_in_the_chart(estimate):
    """Given "010Y", then the chart has the result over a year, as wide as that is there."""
    film, exact = spanned(estimate, bone=126, age=120, span=12), aged(estimate, bone=126, age=126)
    widths = []
    for one in (film, exact):
        drawn = np.asarray(draw_chart(one, assess(one), (440, 340), ""))
        widths.append(int((np.abs(drawn.astype(int) - CYAN) < 40).all(axis=2).sum(axis=1).max()))
    assert widths[1] <= 8
    assert widths[0] >= 20


# Adult height.


@pytest.mark.parametrize("sex", ["male", "female"])
@pytest.mark.parametrize("category", ["average", "accelerated", "retarded"])
def test_percent_of_mature_height_rises_to_at_most_all(sex, category):
    ages, shares = zip(*table("bayley_pinneau")["percent_mature_height"][sex][category], strict=True)
    assert list(ages) == sorted(set(ages))
    assert list(shares) == sorted(shares)
    assert shares[-1] <= 100


def test_bayley_pinneau_divides_by_the_percentage():
    """A boy of bone age 10-0, average: 78.4 % of mature height."""
    predicted = bayley_pinneau(140.0, 120, 118, Sex.MALE)
    assert predicted.centimetres == pytest.approx(140 / 0.784)
    assert predicted.low < predicted.centimetres < predicted.high


@pytest.mark.parametrize(("age", "share"), [(108, 74.7), (107, 74.7), (118, 78.4), (132, 81.2), (140, 81.2)])
def test_a_year_apart_chooses_another_table(age, share):
    assert bayley_pinneau(140.0, 120, age, Sex.MALE).centimetres == pytest.approx(140 / share * 100)


@pytest.mark.parametrize("bone", [60, 240])
def test_no_height_outside_the_table(bone):
    assert "no entry for this bone age" in bayley_pinneau(140.0, bone, bone, Sex.MALE)


def test_rwt_gives_its_test_vector():
    vector = table("rwt_1975")["test_vector"]
    predicted = rwt(
        vector["recumbent_length"] - 1.25,
        vector["skeletal_age"] * 12,
        vector["age_months"],
        Sex.MALE,
        weight_kg=vector["weight"],
        midparent_cm=vector["midparent"],
    )
    assert predicted.centimetres == pytest.approx(vector["expected_cm"], abs=0.01)
    assert predicted.high - predicted.centimetres == pytest.approx(vector["paper_90pct_half_width_cm"])


def test_nobody_becomes_shorter():
    """A girl of 14 with a mature hand: RWT, of whom most bones are adult, would take 5 cm away from her."""
    said = rwt(172.0, 204, 168, Sex.FEMALE, weight_kg=60.0, midparent_cm=168.25)
    assert said == "RWT 1975 gives less than the present height: no adult height by it."
    assert translated(said, "zh") == "RWT 1975 的结果低于现身高：未据此预测成年身高。"
    almost_grown = bayley_pinneau(172.0, 204, 168, Sex.FEMALE)
    assert almost_grown.low == 172.0 < almost_grown.centimetres < almost_grown.high
    growing = rwt(165.0, 168, 168, Sex.FEMALE, weight_kg=60.0, midparent_cm=180.0)
    assert growing.low >= 165.0


@pytest.mark.parametrize(
    ("sex", "age", "inches"), [(Sex.FEMALE, 198, 0.25), (Sex.FEMALE, 216, 0.11), (Sex.MALE, 144, 1.49)]
)
def test_the_error_of_bayley_and_pinneau_is_not_only_that_of_the_children_it_was_made_from(sex, age, inches):
    predicted = bayley_pinneau(160.0, 156 if sex is Sex.MALE else 204, age, sex)
    assert predicted.high - predicted.centimetres == pytest.approx(1.645 * 2.54 * inches)


def test_what_rwt_lacks_is_said(estimate):
    film = aged(estimate, bone=120, age=118)
    with_height = assess(film, height_cm=140.0)
    assert [one.method for one in with_height.heights] == ["Bayley-Pinneau"]
    assert with_height.notes == ("RWT 1975 needs the weight: no adult height by it.",)
    everything = assess(film, height_cm=140.0, weight_kg=32.0, midparent_cm=170.0)
    assert [one.method for one in everything.heights] == ["Bayley-Pinneau", "RWT 1975"]
    assert everything.notes == ()


def test_assumed_parents_are_named_and_leave_no_range(estimate):
    """Given a site's means for parents, then RWT predicts as with them, says whose they are, and claims no range."""
    film, settings = aged(estimate, bone=120, age=118), ClinicSettings(midparent_cm=168.25)
    (assumed,) = assess(film, settings=settings, height_cm=140.0, weight_kg=32.0).heights[1:]
    (known,) = assess(film, settings=settings, height_cm=140.0, weight_kg=32.0, midparent_cm=168.25).heights[1:]
    assert assumed.centimetres == known.centimetres
    assert (known.method, assumed.method) == ("RWT 1975", "RWT 1975 (mean height of the parents assumed: 168.2 cm)")
    assert known.low is not None
    assert assumed.low is assumed.high is None
    assert "父母平均身高为假定值：168.2 cm" in wording.height(assumed, "zh")


def test_without_a_height_there_is_no_word_of_adult_height(estimate):
    said = assess(aged(estimate, bone=120, age=118))
    assert (said.heights, said.notes) == ((), ())
    assert (
        assess(aged(estimate, bone=120, age=118), settings=ClinicSettings(heights=False), height_cm=140).heights == ()
    )


@pytest.mark.parametrize("height", [1.4, 0.0, 1400.0, float("nan")])
def test_an_implausible_height_is_said(estimate, height):
    said = assess(aged(estimate, bone=120, age=118), height_cm=height)
    assert said.heights == ()
    assert said.notes == ("The height that is stated is not plausible: no adult height.",)


@pytest.mark.parametrize("height", [61.0, 195.0])
def test_a_height_that_no_child_of_this_age_has_is_said(estimate, height):
    """Given a boy of bone age 8 and a slip of the keyboard, then no adult of 270 or 84 cm is predicted."""
    said = assess(aged(estimate, bone=96, age=96), height_cm=height, weight_kg=28.0, midparent_cm=170.0)
    assert said.heights == ()
    assert said.notes == ("The height that is stated is not plausible: no adult height.",)


def test_a_height_without_an_age_gives_none_and_says_so(estimate):
    said = assess(aged(estimate, bone=120, age=None), height_cm=140.0)
    assert said.heights == ()
    assert "The chronological age is not known: no adult height." in said.notes


def test_a_prediction_says_its_range_and_what_it_was_made_from():
    predicted = bayley_pinneau(140.0, 120, 118, Sex.MALE)
    low, high = f"{predicted.low:.1f}", f"{predicted.high:.1f}"
    assert wording.height(predicted) == (
        f"Adult height by Bayley-Pinneau: 178.6 cm (90 % {low}-{high} cm), from 140.0 cm now"
    )
    assert "按现身高 140.0 cm 预测" in wording.height(predicted, "zh")


def test_a_height_says_what_the_bone_age_leaves_open(estimate):
    """Given a boy of bone age 10 to 12 and 148 cm, then both errors stand beside the range they make together."""
    (height,) = assess(aged(estimate, bone=132, age=132), height_cm=148.0).heights
    ends = [
        bayley_pinneau(148.0, bone, 132, Sex.MALE).centimetres for bone in (120.0 + 1e-6, 120.0, 144.0 - 1e-6, 144.0)
    ]
    assert height.by_bone_age == pytest.approx((min(ends), max(ends)), abs=1e-3)
    reach = height.high - height.centimetres
    low, high = height.by_bone_age
    assert height.total == pytest.approx(
        (
            height.centimetres - np.hypot(reach, height.centimetres - low),
            height.centimetres + np.hypot(reach, high - height.centimetres),
        )
    )
    assert height.total[0] < min(low, height.low) < max(high, height.high) < height.total[1]
    said = wording.height(height)
    assert f"(90 % {height.total[0]:.1f}-{height.total[1]:.1f} cm; method alone {height.low:.1f}-" in said
    assert f"bone age alone {low:.1f}-{high:.1f})" in said
    assert f"仅骨龄误差 {low:.1f}-{high:.1f}" in wording.height(height, "zh")


@given(st.floats(90, 190), st.floats(1, 30), st.floats(96, 200), st.floats(0, 1), st.sampled_from(Sex))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # nothing changes the frozen estimate
def test_no_bone_age_of_the_interval_leads_out_of_what_is_told(estimate, bone, half, age, share, sex):
    film = replace(
        aged(estimate, bone=bone, age=age, sex=sex), interval_low_months=bone - half, interval_high_months=bone + half
    )
    truth = bayley_pinneau(140.0, bone + half * (2 * share - 1), age, sex)
    for height in assess(film, height_cm=140.0).heights:
        low, high = height.by_bone_age
        assert low <= height.centimetres <= high
        assert height.total is None or 140.0 <= height.total[0] <= low + 1e-9 <= high + 1e-9 <= height.total[1] + 2e-9
        if isinstance(truth, HeightPrediction):
            assert low * 0.995 <= truth.centimetres <= high * 1.005  # tables have corners between the steps
        else:
            assert not height.is_whole


def test_a_method_that_reaches_part_of_the_interval_says_so(estimate):
    """Given a boy whose bone age may lie beyond the end of the table, then that is said."""
    (height,) = assess(aged(estimate, bone=215, age=204), height_cm=176.0).heights
    assert not height.is_whole
    assert height.total[0] == 176.0
    assert "where the method reaches" in wording.height(height)
    assert "限于方法可用范围" in wording.height(height, "zh")


def test_without_the_methods_error_the_bone_ages_stands_alone(estimate):
    film, settings = aged(estimate, bone=120, age=118), ClinicSettings(midparent_cm=168.25)
    (assumed,) = assess(film, settings=settings, height_cm=140.0, weight_kg=32.0).heights[1:]
    assert assumed.total is None
    low, high = assumed.by_bone_age
    slope = 12 * interpolated([row[:1] + row[4:5] for row in table("rwt_1975")["rows"]["male"]], 118)[0] / 12
    assert high - low == pytest.approx(abs(2 * slope))
    said = wording.height(assumed)
    assert f"(90 % by the bone age alone {low:.1f}-{high:.1f} cm; the method's own error is not known)" in said


# Stages.


@pytest.mark.parametrize("sex", ["male", "female"])
def test_tw3_tables_add_up_and_rise(sex):
    entry = table("tw3")
    assert sum(scores[-1] for scores in entry["scores"][sex].values()) == 1000
    assert set(entry["scores"][sex]) == set(RUS_NAMES)
    for scores in entry["scores"][sex].values():
        assert scores == sorted(scores)
    points, ages = zip(*entry["age"][sex], strict=True)
    assert list(points) == sorted(set(points))
    assert list(ages) == sorted(set(ages))
    ages, points = zip(*entry["china_05"]["age"][sex], strict=True)
    assert list(points) == sorted(set(points))


def test_every_stage_of_rus_chn_belongs_to_one_of_tw3():
    entry = table("tw3")
    for name, count in zip(RUS_NAMES, STAGE_COUNTS, strict=True):
        stages = entry["stage_of_rus_chn"]["bones"][name]
        assert len(stages) == count - 1
        assert stages == sorted(stages)
        assert stages[-1] == len(entry["scores"]["male"][name]) - 1


def test_mature_bones_have_all_points():
    assert tw3_points(mature(), Sex.MALE) == 1000
    assert tw3_points(mature(dict.fromkeys(RUS_NAMES, 0)), Sex.FEMALE) == 0


def test_ages_of_stages_name_their_scale(estimate):
    film = replace(aged(estimate, bone=120, age=118), profile=mature({"radius": 9, "ulna": 7}))
    ages = assess(film).stage_ages
    assert [age.method for age in ages] == ["RUS-CHN", TW3_RUS, TW3_C_RUS]
    assert all(age.citation for age in ages)
    assert 14 * 12 < ages[1].age_months < 16.5 * 12


def test_a_score_below_a_scale_has_no_age_by_it():
    ages, why_not = stage_ages(mature(dict.fromkeys(RUS_NAMES, 0)), Sex.MALE)
    assert [age.method for age in ages] == ["RUS-CHN", TW3_C_RUS]
    assert why_not == ("TW3-RUS (approximate) has no age for a score of 0: no age by it.",)


def test_what_a_scale_does_not_reach_is_said_in_the_assessment(estimate):
    film = replace(aged(estimate, bone=20, age=22), profile=mature(dict.fromkeys(RUS_NAMES, 0)))
    said = assess(film)
    assert "TW3-RUS (approximate) has no age for a score of 0: no age by it." in said.notes
    assert "表无评分 0" in " ".join(wording.notes(said, "zh"))


def test_a_mature_hand_has_the_scales_last_age_or_more():
    ages, why_not = stage_ages(mature(), Sex.FEMALE)
    assert why_not == ()
    assert all(age.is_mature for age in ages)
    assert wording.stage_age(ages[1]) == f"{TW3_RUS}: score 1000, age 15 y 0 mo or more (derived, not read)"
    assert "15岁0个月及以上" in wording.stage_age(ages[1], "zh")


@pytest.mark.parametrize(("points", "written", "more"), [(999.6, "1000", True), (999.4, "999", False)])
def test_a_score_that_is_written_as_the_last_one_is_open_to_above(points, written, more):
    (age, *_), _ = stage_ages(replace(mature(), points=points), Sex.MALE)
    assert f"score {written}," in wording.stage_age(age)
    assert ("or more" in wording.stage_age(age)) == more


# The course.


def prior(age: float, bone: float, half: float | None = 12.0, year: int = 2024) -> Prior:
    return Prior(date(year, 5, 1), age, bone, half, "this node")


def test_velocity_and_change_of_score_have_their_uncertainty(estimate):
    said = assess(aged(estimate, bone=132, age=132), priors=[prior(120, 114)])
    assert said.course.velocity == pytest.approx(18.0)
    assert said.course.velocity_half_width == pytest.approx((12**2 + 12**2) ** 0.5)
    before, now = sd_score(114, 120, Sex.MALE, "brush-foundation"), said.sd
    assert said.course.sd_change == pytest.approx(now.value - before.value)
    assert said.course.sd_change_half_width == pytest.approx(
        ((12 / now.sd_months) ** 2 + (12 / before.sd_months) ** 2) ** 0.5
    )


def test_the_latest_result_that_is_old_enough_counts(estimate):
    priors = [prior(130.5, 131, year=2025), prior(96, 90, year=2022), prior(120, 114, year=2024)]
    said = assess(aged(estimate, bone=132, age=132), priors=priors)
    assert said.course.since == date(2024, 5, 1)
    assert [one.at.year for one in said.track] == [2022, 2024, 2025]


def test_a_result_without_an_interval_gives_no_uncertainty(estimate):
    said = assess(aged(estimate, bone=132, age=132), priors=[prior(120, 114, None)])
    assert (said.course.velocity_half_width, said.course.sd_change_half_width) == (None, None)


def test_the_time_since_is_counted_by_days_where_an_age_is_not_exact(estimate):
    """Given "010Y" and a result of a year ago, then velocity is by the days between; without them there is none."""
    film = spanned(estimate, bone=132, age=120, span=12)
    dated = assess(film, priors=[prior(119, 120)], on=date(2025, 5, 1))
    assert dated.course.velocity == pytest.approx(12.0)
    assert dated.course.sd_change is None
    assert "The change of the SD score is not known" in " ".join(dated.notes)
    undated = assess(film, priors=[prior(108, 120)])
    assert undated.course is None
    assert "The change since earlier results is not known" in " ".join(undated.notes)
    of_years = replace(prior(108, 120), age_span_months=12.0)
    assert assess(aged(estimate, bone=132, age=131), priors=[of_years], on=date(2025, 5, 1)).course.sd_change is None


def test_one_result_alone_has_no_course(estimate):
    assert assess(aged(estimate, bone=132, age=132)).course is None


# The files.


@given(st.floats(-5, 15))
def test_interpolation_never_leaves_the_table(at):
    found = interpolated([[0, 1], [4, 3], [10, 30]], at)
    assert (found is None) == (at < 0 or at > 10)
    assert found is None or 1 <= found[0] <= 30


@pytest.mark.parametrize("sex", ["male", "female"])
def test_rwt_has_a_row_for_every_age_and_an_error_for_every_row(sex):
    entry = table("rwt_1975")
    ages = [row[0] for row in entry["rows"][sex]]
    assert ages == [12.0 + 3 * place for place in range(len(ages))]
    assert ages[-1] == (192 if sex == "male" else 168)
    error_ages, halves = zip(*entry["half_width"][sex], strict=True)
    assert (error_ages[0], error_ages[-1]) == (ages[0], ages[-1])
    assert list(error_ages) == sorted(set(error_ages))
    assert all(3 <= half <= 7 for half in halves)


@pytest.mark.parametrize("sex", ["male", "female"])
def test_the_error_of_bayley_and_pinneau_has_an_entry_every_half_year(sex):
    ages, errors = zip(*table("bayley_pinneau")["error_inches"][sex], strict=True)
    assert all(later - earlier == 6 for earlier, later in pairwise(ages))
    assert all(0 < error < 3 for error in errors)


def test_corrections_stand_beside_the_tables_and_are_in_them():
    china = table("tw3")["china_05"]
    (corrected,) = china["corrections"]
    assert [corrected["age"], corrected["used"]] in china["age"][corrected["sex"]]
    (conflict,) = table("tw3")["conflicts"]
    assert table("tw3")["scores"][conflict["sex"]]["MC1"][1] == conflict["used"]
    (girls_135,) = [row for row in table("rwt_1975")["rows"]["female"] if row[0] == 135]
    assert girls_135[-1] == 64.136
    assert any("64.136" in text for text in table("rwt_1975")["corrections"])
    assert "697" in inference_tables()["curve_about"]
    assert [12, 697] in inference_tables()["curve"]["female"]


def inference_tables():
    return json.loads(resources.files("inference").joinpath("tables/rus_chn.json").read_text(encoding="utf-8"))


def test_every_table_says_how_far_it_is_to_be_trusted():
    for name in ("bayley_pinneau", "skeletal_age_sd", "tw3", "rwt_1975"):
        assert table(name)["reliability"]


def test_every_table_names_its_publication():
    folder = resources.files("reports.clinic").joinpath("tables")
    names = [file.name for file in folder.iterdir() if file.name.endswith(".json")]
    assert len(names) == 4
    for name in names:
        assert '"citation"' in json.dumps(json.loads(folder.joinpath(name).read_text(encoding="utf-8")))


def test_predictions_are_predictions():
    assert isinstance(bayley_pinneau(140.0, 120, 118, Sex.MALE), HeightPrediction)
