"""What the documents say in words: one place, so that all of them say the same, in the language a site chose.

Every function that words something takes the language last. Codes, names of methods, publications and DICOM keywords
stay as they are in any language.
"""

from __future__ import annotations

from collections.abc import Sequence

from inference.finding import (
    AssumedReading,
    BoneProfile,
    Estimate,
    Finding,
    Flag,
    Laterality,
    ModelIdentity,
    Refusal,
    Sex,
    Subject,
)
from reports import codes
from reports.clinic import Assessment, Course, Height, HeightPrediction, Prior, ScoreRange, SdScore, StageAge
from reports.phrases import REGIONS, Language, translated

LANGUAGES: tuple[Language, ...] = ("en", "zh")
NEW_LINE = "\r\n"
"""Between lines of a text (PS3.5 6.2)."""

DISCLAIMER = "Research use only - not for diagnosis"
_DISCLAIMERS: dict[Language, str] = {"en": DISCLAIMER, "zh": f"仅供研究，不用于诊断 ({DISCLAIMER})"}

DISCLAIMER_SENTENCE = (
    f"{DISCLAIMER}. This document was made by software without a reader's review. The software is not a medical device."
)
_DISCLAIMER_SENTENCES: dict[Language, str] = {
    "en": DISCLAIMER_SENTENCE,
    "zh": f"仅供研究，不用于诊断。本文件由软件生成，未经医师审阅；该软件不是医疗器械。({DISCLAIMER})",
}

SEX_WORDS: dict[Language, dict[Sex, str]] = {
    "en": {Sex.MALE: "male", Sex.FEMALE: "female"},
    "zh": {Sex.MALE: "男", Sex.FEMALE: "女"},
}

LATERALITY_WORDS: dict[Language, dict[Laterality, str]] = {
    "en": {Laterality.LEFT: "left", Laterality.RIGHT: "right", Laterality.UNKNOWN: "side not known"},
    "zh": {Laterality.LEFT: "左手", Laterality.RIGHT: "右手", Laterality.UNKNOWN: "侧别不明"},
}


def _either(language: Language, english: str, chinese: str) -> str:
    return chinese if language == "zh" else english


def disclaimer(language: Language = "en") -> str:
    """Return the disclaimer in a few words. The English stays beside any other language: it is looked for."""
    return _DISCLAIMERS[language]


def disclaimer_sentence(language: Language = "en") -> str:
    """Return the disclaimer of a document."""
    return _DISCLAIMER_SENTENCES[language]


def no_picture(language: Language = "en") -> str:
    """Return what stands in place of a film that cannot be shown."""
    return _either(language, "The image could not be displayed", "图像无法显示")


def no_bone_age(language: Language = "en") -> str:
    """Return the headline of a refusal."""
    return _either(language, "No bone age", "未给出骨龄")


def years_and_months(age_months: float, language: Language = "en") -> str:
    """Return an age as "11 y 1 mo", rounded to whole months."""
    whole = round(abs(age_months))
    sign = "-" if age_months < 0 and whole else ""
    return sign + _either(language, f"{whole // 12} y {whole % 12} mo", f"{whole // 12}岁{whole % 12}个月")


def months(age_months: float, language: Language = "en") -> str:
    """Return an age as "132.5 months"."""
    return one_decimal(age_months) + _either(language, " months", "个月")


def one_decimal(value: float) -> str:
    """Return a number with one decimal and no negative zero."""
    return f"{round(value, 1) + 0.0:.1f}"


def signed(value: float) -> str:
    """Return a number with one decimal and its sign; a zero has none."""
    text = one_decimal(value)
    return text if text.startswith("-") or text == "0.0" else f"+{text}"


def bone_age(estimate: Estimate, language: Language = "en") -> str:
    """Return "Bone age 11 y 1 mo (132.5 months)"."""
    name = _either(language, "Bone age", "骨龄")
    return f"{name} {years_and_months(estimate.age_months, language)} ({months(estimate.age_months, language)})"


def headline(finding: Finding, language: Language = "en") -> str:
    """Return the result in one line: the bone age, or that there is none and why."""
    if isinstance(finding, Estimate):
        return bone_age(finding, language)
    return f"{no_bone_age(language)}{_either(language, ': ', '：')}{translated(finding.sentence, language)}"


def interval(reading: Estimate | AssumedReading, language: Language = "en") -> str:
    """Return "90 % interval 10 y 0 mo to 12 y 1 mo (120.1 to 144.9 months)"."""
    low, high = reading.interval_low_months, reading.interval_high_months
    to = _either(language, " to ", " 至 ")
    return (
        f"{interval_name(reading, language)} {years_and_months(low, language)}{to}{years_and_months(high, language)} "
        f"({one_decimal(low)}{to}{months(high, language)})"
    )


def interval_name(reading: Estimate | AssumedReading, language: Language = "en") -> str:
    """Return "90 % interval"."""
    return f"{reading.interval_level * 100:.3g} % " + _either(language, "interval", "预测区间")


def sex_used(subject: Subject, language: Language = "en") -> str:
    """Return the sex the estimate was made for and where it came from, or that there is none and why."""
    return _sex(subject, language, _either(language, "Sex used", "所用性别"))


def sex_stated(subject: Subject, language: Language = "en") -> str:
    """Return the sex the header states, for a film on which nothing was estimated, so that no sex was used."""
    return _sex(subject, language, _either(language, "Sex", "性别"))


def _sex(subject: Subject, language: Language, name: str) -> str:
    source = translated(subject.sex_source, language)
    if subject.sex is None:
        return _either(language, f"Sex: not known ({source})", f"性别：不明 ({source})")
    word = SEX_WORDS[language][subject.sex]
    return _either(language, f"{name}: {word}, from {source}", f"{name}：{word}，来自 {source}")


def chronological_age(subject: Subject, language: Language = "en") -> str:
    """Return the chronological age and where it came from, or that there is none and why."""
    source = translated(subject.age_source, language)
    if subject.age_months is None:
        return _either(language, f"Chronological age: not known ({source})", f"实际年龄：不明 ({source})")
    age = f"{years_and_months(subject.age_months, language)} ({months(subject.age_months, language)})"
    if subject.age_span_months:
        age = _age_span(subject.age_months, subject.age_months + subject.age_span_months, language)
    return _either(language, f"Chronological age {age}, from {source}", f"实际年龄 {age}，来自 {source}")


def _age_span(low: float, high: float, language: Language) -> str:
    """Return "10 y 0 mo up to 11 y 0 mo (120.0 to 132.0 months)": what an age in whole years can mean."""
    youngest, oldest = years_and_months(low, language), years_and_months(high, language)
    ends = youngest if youngest == oldest else f"{youngest}{_either(language, ' up to ', ' 至不满 ')}{oldest}"
    return f"{ends} ({one_decimal(low)}{_to(language)}{months(high, language)})"


def _to(language: Language) -> str:
    return _either(language, " to ", " 至 ")


def difference(estimate: Estimate, language: Language = "en") -> str | None:
    """Return how far bone age and chronological age lie apart, None where there is no chronological age.

    A range where the chronological age is known in whole weeks, months or years.
    """
    if estimate.subject.age_months is None:
        return None
    apart = estimate.age_months - estimate.subject.age_months
    if estimate.subject.age_span_months:
        return _difference_span(apart - estimate.subject.age_span_months, apart, language)
    if one_decimal(apart) == "0.0":
        return _either(language, "Bone age equals chronological age", "骨龄与实际年龄相等")
    size = months(abs(apart), language)
    if apart > 0:
        return _either(language, f"Bone age is {size} ahead of chronological age", f"骨龄比实际年龄提前 {size}")
    return _either(language, f"Bone age is {size} behind chronological age", f"骨龄比实际年龄落后 {size}")


def _difference_span(low: float, high: float, language: Language) -> str:
    """Return between which differences that of bone age and chronological age lies."""
    if low < 0 < high:
        behind, ahead = months(-low, language), months(high, language)
        return _either(
            language,
            f"Bone age is between {behind} behind and {ahead} ahead of chronological age",
            f"骨龄与实际年龄之差在落后 {behind} 至提前 {ahead} 之间",
        )
    near, far = sorted((abs(low), abs(high)))
    size = f"{one_decimal(near)}{_to(language)}{months(far, language)}"
    if high > 0:
        return _either(language, f"Bone age is {size} ahead of chronological age", f"骨龄比实际年龄提前 {size}")
    return _either(language, f"Bone age is {size} behind chronological age", f"骨龄比实际年龄落后 {size}")


def hand_read(estimate: Estimate, language: Language = "en") -> str:
    """Return which hand was read, of how many."""
    side, hands = LATERALITY_WORDS[language][estimate.laterality], estimate.hands_found
    if hands == 1:
        return _either(language, f"Hand read: {side}", f"所读手：{side}")
    return _either(language, f"Hand read: {side}, one of {hands} on the film", f"所读手：{side}，片上共 {hands} 只手")


def model_line(finding: Finding, language: Language = "en") -> str:
    """Return the model's name and version, the first digits of its weights' hash, and whose standard it follows."""
    if finding.model is None:
        return _either(language, "No model was run", "未运行模型")
    weights = _either(language, "weights", "权重")
    model = f"{finding.model.name} {finding.model.version} ({weights} {finding.model.weights_sha256[:12]})"
    standard = codes.reference_method(finding.model.method)
    if standard is None or standard != codes.GREULICH_PYLE:
        return model
    by = _either(language, "; trained on Greulich-Pyle readings", "；以 Greulich-Pyle 判读训练")
    return model + by


def region(name: str, language: Language = "en") -> str:
    """Return what people call a region."""
    return _either(language, name, REGIONS.get(name, name))


def off_image(name: str, language: Language = "en") -> str:
    """Return what is said of a region that cannot be drawn."""
    called = region(name, language)
    return _either(
        language,
        f"Region {called} lies outside the image and is not drawn.",
        f"区域 {called} 位于图像之外，未绘出。",
    )


def assumed_reading(reading: AssumedReading, language: Language = "en") -> str:
    """Return what a hand would be read as if the sex were this one."""
    word, age = SEX_WORDS[language][reading.sex], years_and_months(reading.age_months, language)
    size, range_ = months(reading.age_months, language), interval(reading, language)
    return _either(language, f"If {word}: {age} ({size}), {range_}", f"若为{word}性：{age} ({size})，{range_}")


def conclusion(finding: Finding, language: Language = "en") -> str:
    """Return the result as a paragraph: what a reader sees where only text is shown."""
    return _either(language, " ", "").join(_concluded(finding, language))


def _concluded(finding: Finding, language: Language) -> list[str]:
    """Return the sentences of the result, the most important first."""
    stop = _either(language, ".", "。")
    if isinstance(finding, Refusal):
        lead, why = (
            _either(language, "No bone age was estimated.", "未估计骨龄。"),
            translated(finding.sentence, language),
        )
        return [lead, why, *(assumed_reading(reading, language) + stop for reading in finding.assumed)]
    sentences = [
        f"{bone_age(finding, language)}, {interval(finding, language)}",
        hand_read(finding, language),
        sex_used(finding.subject, language),
        chronological_age(finding.subject, language),
        difference(finding, language),
    ]
    return [sentence + stop for sentence in sentences if sentence]


def summary(finding: Finding, language: Language = "en") -> str:
    """Return the result, the disclaimer and what speaks against the result, as a paragraph."""
    return " ".join([f"{conclusion(finding, language)} {disclaimer(language)}.", *_warnings(finding, language)])


def summary_lines(finding: Finding, language: Language, most: int) -> str:
    """Return the same, a sentence in each line, for viewers that break a line only where one ends.

    Of what speaks against the result as much as goes into so many characters; that there is more is said.
    """
    more = _either(language, "! More stands in the report.", "! 其余见报告。")
    lines = [*_concluded(finding, language), f"{disclaimer(language)}."]
    warnings = _warnings(finding, language)
    for place, warning in enumerate(warnings, 1):
        ends = [warning] if place == len(warnings) else [warning, more]
        if len(NEW_LINE.join([*lines, *ends])) > most:
            return NEW_LINE.join([*lines, more])
        lines.append(warning)
    return NEW_LINE.join(lines)


def _warnings(finding: Finding, language: Language) -> list[str]:
    return [f"! {sentence}" for sentence in flag_lines(finding, language)]


def sd_score(score: SdScore, language: Language = "en") -> str:
    """Return "SD score +1.3 (90 % -0.1 to +2.7; Brush Foundation: mean 10 y 0 mo, SD 9.1 months)"."""
    mean, sd = years_and_months(score.mean_months, language), months(score.sd_months, language)
    name = _either(language, "SD score", "标准差分值 (SDS)")
    around = ""
    if score.interval is not None:
        low, high = map(signed, score.interval)
        around = f"90 % {low}{_either(language, ' to ', ' 至 ')}{high}{_either(language, '; ', '；')}"
    usual = f"{score.reference.title}: {_either(language, 'mean', '均值')} {mean}, SD {sd}"
    return f"{name} {signed(score.value)} ({around}{usual})"


def score_range(scores: ScoreRange, language: Language = "en") -> str:
    """Return "SD score -0.7 to +0.6, by exact age from 10 y 0 mo up to 11 y 0 mo (90 % -2.1 to +1.9; ...)"."""
    name, to = _either(language, "SD score", "标准差分值 (SDS)"), _to(language)
    youngest, oldest = (years_and_months(age, language) for age in scores.ages_months)
    value = f"{signed(scores.low)}{to}{signed(scores.high)}"
    by_age = _either(
        language,
        f", by exact age from {youngest} up to {oldest}",
        f"，取决于确切年龄 ({youngest} 至不满 {oldest})",
    )
    low, high = map(signed, scores.interval)
    title = scores.oldest.reference.title
    return f"{name} {value}{by_age} (90 % {low}{to}{high}{_either(language, '; ', '；')}{title})"


def usual_ranges(scores: ScoreRange, language: Language = "en") -> str:
    """Return the bone ages within two standard deviations of the mean at both ends of a chronological age's span."""
    youngest, oldest = (years_and_months(age, language) for age in scores.ages_months)
    first, last = (
        f"{years_and_months(score.low_months, language)}{_to(language)}{years_and_months(score.high_months, language)}"
        for score in (scores.youngest, scores.oldest)
    )
    return _either(
        language,
        f"Mean -/+ 2 SD: {first} at {youngest}, {last} at {oldest}",
        f"均值 ±2 SD：{youngest}时 {first}，{oldest}时 {last}",
    )


def usual_range(score: SdScore, language: Language = "en") -> str:
    """Return the bone ages within two standard deviations of the reference's mean at this chronological age."""
    low, high = years_and_months(score.low_months, language), years_and_months(score.high_months, language)
    return _either(language, f"Mean -/+ 2 SD at this age: {low} to {high}", f"该年龄均值 ±2 SD：{low} 至 {high}")


def verdict(assessment: Assessment, language: Language = "en") -> str | None:
    """Return how the bone age stands to the reference, and by which rule; None where that cannot be told."""
    rule = f"{assessment.normal_sd:g} SD"
    words = {
        "advanced": (f"Advanced for chronological age (more than {rule})", f"骨龄提前 (超过 {rule})"),
        "delayed": (f"Delayed for chronological age (more than {rule})", f"骨龄落后 (超过 {rule})"),
        "normal": (f"Within the normal range for chronological age (+/- {rule})", f"骨龄在正常范围内 (±{rule})"),
    }
    return None if assessment.verdict is None else _either(language, *words[assessment.verdict])


def method(name: str, language: Language = "en") -> str:
    """Return a published method's name; only a remark in it is translated."""
    return translated(name, language)


def scale_of_stages(last_stage: int, language: Language = "en") -> str:
    """Return the scale that a derived stage is of."""
    return _either(language, f"RUS-CHN, stages 0 to {last_stage}", f"RUS-CHN，分期 0 至 {last_stage}")


def stage_age(age: StageAge, language: Language = "en") -> str:
    """Return the score and the age a scale gives, which were derived by the model and not read by a person."""
    years, points = years_and_months(age.age_months, language), f"{age.points:.0f}"
    years += _either(language, " or more", "及以上") if age.is_mature else ""
    of_model = _of_model(age.model, language)
    return _either(
        language,
        f"{age.method}: score {points}, age {years} (derived, not read{of_model})",
        f"{method(age.method, language)}：评分 {points}，骨龄 {years} (由模型推导，非人工判读{of_model})",
    )


def _of_model(model: ModelIdentity | None, language: Language) -> str:
    """Return which other model told the stages; nothing where it is the one that read the age."""
    return "" if model is None else f"{_either(language, '; ', '；')}{model.method} {model.version}"


def height(prediction: HeightPrediction, language: Language = "en") -> str:
    """Return an adult height with its ranges, and the height it was predicted from."""
    value, now = f"{one_decimal(prediction.centimetres)} cm", f"{one_decimal(prediction.from_cm)} cm"
    by = method(prediction.method, language)
    by_order = prediction.height is Height.ORDER
    ranges = height_ranges(prediction, language)
    value += f" ({ranges})" if ranges else ""
    return _either(
        language,
        f"Adult height by {by}: {value}, from {now} now" + (" (worklist)" if by_order else ""),
        f"成年身高 ({by})：{value}，按现身高 {now} 预测" + (" (来自工作列表)" if by_order else ""),
    )


def height_ranges(prediction: HeightPrediction, language: Language = "en") -> str:
    """Return the 90 % range of an adult height, and what of it is the method's and what the bone age's interval's."""
    own = None if prediction.low is None or prediction.high is None else (prediction.low, prediction.high)
    total, by_bone_age, stop = prediction.total, prediction.by_bone_age, _either(language, "; ", "；")
    if by_bone_age is None:
        return "" if own is None else f"90 % {_centimetres(own)} cm"
    from_bone_age = _centimetres(by_bone_age) + (
        "" if prediction.is_whole else _either(language, " where the method reaches", " (限于方法可用范围)")
    )
    if own is None or total is None:
        return _either(
            language,
            f"90 % by the bone age alone {from_bone_age} cm{stop}the method's own error is not known",
            f"仅骨龄误差 90 % {from_bone_age} cm{stop}方法误差不明",
        )
    return f"90 % {_centimetres(total)} cm{stop}" + _either(
        language,
        f"method alone {_centimetres(own)}, bone age alone {from_bone_age}",
        f"仅方法误差 {_centimetres(own)}，仅骨龄误差 {from_bone_age}",
    )


def _centimetres(ends: tuple[float, float]) -> str:
    return "-".join(map(one_decimal, ends))


def course(change: Course, language: Language = "en") -> str:
    """Return the velocity and the change of the SD score since an earlier result, each with its uncertainty."""
    velocity = signed(change.velocity) + _give_or_take(change.velocity_half_width)
    day, then = change.since.isoformat(), years_and_months(change.bone_age_months, language)
    text = _either(
        language,
        f"Since {day} (bone age then {then}): {velocity} months of bone age a year",
        f"自 {day} 起 (当时骨龄 {then})：骨龄每年增长 {velocity} 个月",
    )
    if change.sd_change is not None:
        moved = signed(change.sd_change) + _give_or_take(change.sd_change_half_width)
        text += _either(language, f", change of the SD score {moved}", f"，SDS 变化 {moved}")
    if change.velocity_half_width is None:
        why = _either(
            language, "uncertainty not known: the earlier result has no interval", "既往结果无区间，不确定度不明"
        )
        return text + f" ({why})"
    return text + _either(language, " (90 % intervals)", " (90 % 区间)")


def since(change: Course, language: Language = "en") -> str:
    """Return since when something has changed."""
    day = change.since.isoformat()
    return _either(language, f"since {day}", f"自 {day} 起")


def found_in(prior: Prior, language: Language = "en") -> str:
    """Return when an earlier result is of, and where it was found."""
    return f"{prior.at.isoformat()}{_either(language, ', ', '，')}{translated(prior.source, language)}"


def derivation(language: Language = "en") -> str:
    """Return how a secondary capture was made of its film."""
    english = "Reduced in size, with boxes drawn on it and text added beside it"
    return _either(language, english, "图像已缩小，其上绘有方框，旁边附有文字")


def page_title(language: Language = "en") -> str:
    """Return the title of a page, with the disclaimer."""
    return f"{_either(language, 'Bone age. ', '骨龄。')}{disclaimer(language)}"


def _give_or_take(half_width: float | None) -> str:
    return "" if half_width is None else f" (+/- {one_decimal(half_width)})"


def assessed(assessment: Assessment | None, language: Language = "en") -> list[str]:
    """Return what a result means beside references and earlier results, a line each, the most important first."""
    if assessment is None:
        return []
    lines: list[str] = []
    if assessment.sd is not None:
        lines += [sd_score(assessment.sd, language), usual_range(assessment.sd, language)]
    if assessment.sd_range is not None:
        lines += [score_range(assessment.sd_range, language), usual_ranges(assessment.sd_range, language)]
    said = verdict(assessment, language)
    lines += [] if said is None else [said]
    lines += [stage_age(age, language) for age in assessment.stage_ages]
    lines += [height(prediction, language) for prediction in assessment.heights]
    lines += [] if assessment.course is None else [course(assessment.course, language)]
    return lines


def notes(assessment: Assessment | None, language: Language = "en") -> list[str]:
    """Return what could not be told beside the result, and why."""
    return [] if assessment is None else [translated(note, language) for note in assessment.notes]


def chart_title(assessment: Assessment, language: Language = "en") -> str:
    """Return the heading of the growth chart, with the reference it shows: also beyond its table."""
    reference = "" if assessment.chart is None else f" ({assessment.chart.reference.title})"
    return _either(language, f"Bone age by age, years{reference}", f"骨龄-年龄 (岁){reference}")


def regions_found(found: int, wanted: int, language: Language = "en") -> str:
    """Return how many regions were found."""
    return _either(language, f"{found} of {wanted} regions found", f"找到 {found}/{wanted} 个区域")


def read_from(estimate: Estimate, wanted: int, language: Language = "en") -> str:
    """Return which hand was read, and how many of its regions were found."""
    found = regions_found(len(estimate.rois), wanted, language)
    return f"{hand_read(estimate, language)}{_either(language, '; ', '；')}{found}"


def patient(named: Sequence[str], born: str, filmed: str, language: Language = "en") -> str:
    """Return a line that names a patient, with the dates of birth and of the film, "" where they are not known."""
    dates = [
        _either(language, f"born {born}", f"出生 {born}") if born else "",
        _either(language, f"film of {filmed}", f"拍片 {filmed}") if filmed else "",
    ]
    return ", ".join(part for part in (*named, *dates) if part)


def legend(language: Language = "en", *, staged: bool = False) -> str:
    """Return what numbers and colours of the boxes mean, and the brackets where stages are shown."""
    boxes = _either(
        language,
        "Boxes: 1-13 RUS bones, 14-18 carpal regions, thin frame: hand",
        "方框：1-13 为 RUS 骨，14-18 为腕骨区域，细框为手",
    )
    return boxes + _either(language, "; in brackets: derived stage", "；括号内为推导分期") if staged else boxes


def profile_title(profile: BoneProfile, language: Language = "en") -> str:
    """Return the heading of the stage profile, which says that nobody read the stages."""
    of_model = _of_model(profile.model, language)
    return _either(language, f"Stages ({profile.origin}{of_model})", f"分期 (由模型推导，非人工判读{of_model})")


def flags(finding: Finding) -> tuple[Flag, ...]:
    """Return what speaks against the result, of the image first, then of the header; each once."""
    return tuple(dict.fromkeys((*finding.flags, *finding.subject.flags)))


def flag_lines(finding: Finding, language: Language = "en") -> Sequence[str]:
    """Return the sentences of the flags."""
    return [translated(flag.sentence, language) for flag in flags(finding)]
