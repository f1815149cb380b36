"""Every sentence a finding can carry has its Chinese."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import inference
import reports.clinic
from inference.finding import Sex
from reports import wording
from reports.phrases import CHINESE, translated

SOURCES = [
    *sorted(Path(inference.__file__).parent.glob("*.py")),
    *sorted(Path(reports.clinic.__file__).parent.glob("*.py")),
]
RAISED = {"Flag", "Doubt", "UnreadablePixels", "CutOff", "UnsupportedObject", "Refusal"}
REASON = re.compile(r"^[A-Z][^{}]* .*[.]$", re.DOTALL)


def sentences() -> set[str]:
    """Return every literal sentence handed to what becomes a flag or a refusal, variable parts as ``{}``."""
    found = set()
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in RAISED:
                texts = [text for argument in call.args for text in literals(argument)]
                found.update(text for text in texts if REASON.match(text.replace("{}", "x")))
    return found


def literals(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
        return ["".join(str(part) for part in parts)]
    return []


TEMPLATES = {re.sub(r"\{\w+\}", "{}", english) for english in CHINESE}


def test_sentences_are_found():
    assert len(sentences()) > 30


@pytest.mark.parametrize("sentence", sorted(sentences()))
def test_every_sentence_has_a_template(sentence):
    assert sentence in TEMPLATES


@pytest.mark.parametrize("english", sorted(CHINESE))
def test_templates_keep_their_parts(english):
    names = set(re.findall(r"\{(\w+)\}", english))
    assert names == set(re.findall(r"\{(\w+)\}", CHINESE[english]))
    filled = english.format(**{name: f"X{place}" for place, name in enumerate(sorted(names))})
    chinese = translated(filled, "zh")
    assert chinese != filled
    assert all(f"X{place}" in chinese for place in range(len(names)))


def test_variable_parts_are_translated_too():
    assert (
        translated("The header names no side; the thumb shows a left hand.", "zh")
        == "头信息未说明侧别；拇指显示为左手。"
    )
    assert translated("Bone age is read by sex, and the sex is not known: PatientSex (0010,0040) is empty.", "zh") == (
        "骨龄按性别判读，而性别不明：PatientSex (0010,0040) 为空。"
    )
    assert translated("PatientBirthDate (0010,0030) is missing; PatientAge (0010,1010) is missing", "zh") == (
        "缺少 PatientBirthDate (0010,0030)；缺少 PatientAge (0010,1010)"
    )


def test_an_unknown_sentence_stays():
    assert translated("Something new.", "zh") == "Something new."
    assert translated("No hand was recognised in this image.", "en") == "No hand was recognised in this image."


def test_the_result_in_chinese(estimate):
    assert wording.conclusion(estimate, "zh") == (
        "骨龄 11岁0个月 (132.5个月), 90 % 预测区间 10岁0个月 至 12岁1个月 (120.1 至 144.9个月)。"
        "所读手：左手。所用性别：男，来自 PatientSex (0010,0040)。"
        "实际年龄 10岁8个月 (128.0个月)，来自 PatientBirthDate 与 AcquisitionDate。骨龄比实际年龄提前 4.5个月。"
    )


@pytest.mark.parametrize("language", wording.LANGUAGES)
def test_every_language_disclaims_in_english_too(language):
    assert wording.DISCLAIMER in wording.disclaimer(language)
    assert wording.DISCLAIMER in wording.disclaimer_sentence(language)
    assert set(wording.SEX_WORDS[language]) == set(Sex)
