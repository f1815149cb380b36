"""Documents in Chinese are in Chinese: what stays English is a name, a DICOM keyword, a code or an identifier."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import pytest
from pydicom.datadict import tag_for_keyword

from dicom_node.priors import ARCHIVE, OLDER_FILM, THIS_NODE
from inference.anatomy import CARPAL_NAMES
from inference.finding import Flag, Sex, Subject
from reports import codes, lettering, wording
from reports.clinic import Height, Prior, assess
from reports.identity import KINDS
from reports.key_objects import Capture
from reports.kinds import Choices, compose
from reports.phrases import translated
from reports.read_back import descendants, matches, read_bone_age, read_image

IDENTIFIERS = (
    codes.TRACKING_IDENTIFIER, codes.ALGORITHM_NAME, codes.ALGORITHM_VERSION, codes.ALGORITHM_PARAMETERS,
    codes.ALGORITHM_MANUFACTURER, codes.DEVICE_NAME, codes.DEVICE_MANUFACTURER, codes.DEVICE_MODEL,
    codes.DEVICE_SERIAL, codes.AUTHORITY,
)  # fmt: skip
"""Texts that programs compare, and publications."""

NAMES = (
    wording.DISCLAIMER, "Brush Foundation", "Bayley-Pinneau", "RWT", "RUS-CHN", "TW3-RUS", "TW3-C RUS", "RUS", "SDS",
    "Global-local fusion network", "Greulich-Pyle",
)  # fmt: skip

DESCRIBING = (
    "ImageComments", "DerivationDescription", "DocumentTitle", "ContentDescription", "UnformattedTextValue",
)  # fmt: skip


def english_in(text: str) -> list[str]:
    """Return the words of English in a text that are no names."""
    for name in NAMES:
        text = text.replace(name, "")
    text = re.sub(r"\b[0-9a-f]{12}\b|\[[a-z-]+\]$", "", text)  # of a hash; the code of a flag
    words = re.findall(r"[A-Za-z][A-Za-z-]*[a-z][A-Za-z]*", text)
    return [word for word in words if tag_for_keyword(word) is None and word not in {"cm"}]


def said(document) -> Iterator[str]:
    """Yield what a document says to people, beside codes and descriptions of series."""
    for item in descendants(document):
        if item.ValueType == "TEXT" and not any(matches(item.ConceptNameCodeSequence, name) for name in IDENTIFIERS):
            yield str(item.TextValue)
    yield from (str(element.value) for element in document.iterall() if element.keyword in DESCRIBING)


@pytest.fixture
def findings(full, refusal_with_hand, sex_unknown):
    """Return findings by name with their assessment, with all that can be said of where something comes from."""
    film, _ = full
    flags = (
        Flag("lossy", "The film was compressed with loss; fine detail may be missing."),
        Flag("missing", f"Not found: {', '.join(CARPAL_NAMES)}."),
    )
    subject = Subject(Sex.MALE, "PatientSex (0010,0040)", 128.0, "PatientAge (0010,1010), in whole years")
    film = replace(film, flags=flags, subject=subject)
    priors = [
        Prior(date(2023, 10, 1), 104.0, 106.0, 12.0, THIS_NODE),
        Prior(date(2022, 10, 1), 92.0, 94.0, None, ARCHIVE),
        Prior(date(2021, 10, 1), 80.0, 82.0, 12.0, OLDER_FILM),
    ]
    years = replace(film, subject=replace(subject, age_months=120.0, age_span_months=12.0), age_months=112.0)
    options = {"height_cm": 140.0, "height_source": Height.ORDER, "midparent_cm": 171.0, "priors": priors}
    reason = "PatientSex (0010,0040) is empty"
    refused = replace(
        refusal_with_hand, sentence=f"Bone age is read by sex, and the sex is not known: {reason}.",
        remedy="Correct PatientSex (0010,0040) in the archive and send the study again.",
    )  # fmt: skip
    return {
        "complete": (film, assess(film, weight_kg=32.0, **options)),
        "no-weight": (film, assess(film, **options)),
        "whole-years": (years, assess(years, weight_kg=32.0, on=date(2025, 10, 1), **options)),
        "refused": (refused, None),
        "sex-unknown": (replace(refused, assumed=sex_unknown.assumed), None),
    }


@pytest.fixture
def in_chinese(dx, identify, display):
    """``in_chinese("sr", finding, assessment)`` composes a document in Chinese."""

    def make(kind, finding, assessment):
        choices = Choices(assessment=assessment, language="zh", capture=Capture("1.2.3", "1.2.3.4"))
        return compose(kind, dx, finding, identify(dx, kind), display=lambda: display, choices=choices)

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["complete", "no-weight", "whole-years", "refused", "sex-unknown"])
def test_no_english_is_left(in_chinese, findings, name, kind):
    texts = list(said(in_chinese(kind, *findings[name])))
    assert texts
    assert [(text, english_in(text)) for text in texts if english_in(text)] == []


@pytest.mark.parametrize("name", ["complete", "no-weight", "whole-years", "refused", "sex-unknown"])
def test_no_english_is_drawn(in_chinese, findings, monkeypatch, name):
    """Given everything that is written into the picture, the legend and the names of regions included."""
    drawn: list[str] = []
    draw = lettering.draw
    monkeypatch.setattr(lettering, "draw", lambda on, at, text, *rest: drawn.append(text) or draw(on, at, text, *rest))
    in_chinese("sc", *findings[name])
    assert len(drawn) > 10
    assert [(text, english_in(text)) for text in drawn if english_in(text)] == []
    assert any("桡骨" in text for text in drawn)
    assert not any(re.search(r"[\u4e00-\u9fff][;.]", text) for text in drawn)


def test_the_same_test_finds_english(in_chinese, findings, dx, identify, display):
    """Given a report in English, then it has more than a few words of it."""
    finding, assessment = findings["complete"]
    choices = Choices(assessment=assessment)
    document = compose("sr", dx, finding, identify(dx, "sr"), display=lambda: display, choices=choices)
    words = {word for text in said(document) for word in english_in(text)}
    assert {"this", "node", "archive", "film", "since", "stages", "approximate"} <= words


def test_sources_of_earlier_results_are_told_apart(in_chinese, findings):
    document = in_chinese("sr", *findings["complete"])
    sources = {
        str(i.TextValue) for i in descendants(document) if matches(i.get("ConceptNameCodeSequence"), codes.VALUE_SOURCE)
    }
    assert {
        "2023-10-01，本节点", "2022-10-01，归档系统", "2021-10-01，归档系统的图像，由本节点判读",
        "自 2023-10-01 起", "PatientAge (0010,1010)，以整岁计", "PatientSex (0010,0040)",
    } <= sources  # fmt: skip


@pytest.mark.parametrize("kind", ["sr", "sr-2d", "sr-cornerstone"])
def test_programs_read_the_same_in_either_language(in_chinese, findings, dx, identify, display, kind):
    finding, assessment = findings["complete"]
    choices = Choices(assessment=assessment)
    english = compose(kind, dx, finding, identify(dx, kind), display=lambda: display, choices=choices)
    chinese = in_chinese(kind, finding, assessment)
    assert read_bone_age(chinese) == read_bone_age(english) == finding.age_months
    assert read_image(chinese) == read_image(english)
    for name in IDENTIFIERS:
        assert of(chinese, name) == of(english, name)


def of(document, name) -> list[str]:
    return [str(i.TextValue) for i in descendants(document) if matches(i.get("ConceptNameCodeSequence"), name)]


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("Only 9 of 13 bones were found; missing: radius, ulna, MC1, DP5.", "桡骨, 尺骨, MC1, DP5"),
        ("The film is cut off in carpus: 40 % of the bones' surroundings show no detail.", "腕骨"),
    ],
)
def test_bones_have_their_names(english, chinese):
    assert chinese in translated(english, "zh")
    assert english_in(translated(english, "zh")) == []
