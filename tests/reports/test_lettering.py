"""Letters of any name are drawn, and lines break where they may."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from reports import lettering


def drawn(text: str, anchor: str = "la", at: tuple[float, float] = (20, 20)) -> np.ndarray:
    picture = Image.new("RGB", (600, 80))
    lettering.draw(ImageDraw.Draw(picture), at, text, (255, 255, 255), 24, anchor)
    return np.asarray(picture)[..., 0]


@pytest.mark.parametrize(
    "name", ["Müster Jörg", "Ελένη Παπαδοπούλου", "王小明", "山田太郎 ヤマダ", "김철수", "Юлия", "Łukasz Żółć"]
)
def test_names_keep_all_their_letters(name):
    assert lettering.drawable(name) == name
    letters = [drawn(letter).tobytes() for letter in dict.fromkeys(name) if letter != " "]
    assert len(set(letters)) == len(letters)


def test_what_no_font_has_becomes_a_question_mark_and_control_characters_go():
    assert lettering.drawable("a\x07b\u200bc\U0010fffd") == "abc?"
    assert lettering.drawable("ใจดี กั") == "???? ??"  # marks too: no font of ours has Thai


@pytest.mark.parametrize(("form", "letters"), [("ﻗﺒﺎﻧﻲ", "قباني"), ("Hoﬀmann", "Hoffmann"), ("𝒜nna", "Anna")])
def test_a_form_of_a_letter_is_the_letter(form, letters):
    """Given letters as older systems write them, by their form in a word, then they are drawn all the same."""
    assert lettering.drawable(form) == letters


@pytest.mark.parametrize("text", ["Bone age 11 y 0 mo", "骨龄 11岁0个月 (132.5个月)", "Ελένη / 王小明 / Muster"])
def test_the_width_is_that_of_what_is_drawn(text):
    columns = np.nonzero(drawn(text).any(axis=0))[0]
    assert columns[-1] - 20 == pytest.approx(lettering.width(text, 24), abs=4)


@pytest.mark.parametrize(("anchor", "at"), [("rm", (400, 40)), ("mm", (300, 40))])
def test_anchors_move_the_text(anchor, at):
    columns = np.nonzero(drawn("骨龄 bone", anchor, at).any(axis=0))[0]
    middle, end = (columns[0] + columns[-1]) / 2, columns[-1]
    assert (end if anchor[0] == "r" else middle) == pytest.approx(at[0], abs=3)


@pytest.mark.parametrize("name", ["شششششش ا", "שששששש ו", "שששששש' ו"])
def test_words_that_are_written_to_the_left_stand_in_their_order(name):
    """Given a long word before a short one, then the long one stands at the right, where its reader begins."""
    columns = np.nonzero(drawn(name).any(axis=0))[0]
    gap = int(np.argmax(np.diff(columns)))
    assert columns[gap] < (columns[0] + columns[-1]) / 2


def test_words_of_both_directions_stand_where_the_line_goes():
    """Given a Latin word between Hebrew ones, then each is a run of its own in a line that goes to the right."""
    parts = ["שלום", " PID ", "אב"]
    widths = [lettering.width(part, 24) for part in parts]
    assert lettering.width("".join(parts), 24) == pytest.approx(sum(widths))


TEXTS = st.text(alphabet="abc DE，。骨龄年 12", min_size=1, max_size=120).map(lettering.drawable).filter(str.strip)


@given(TEXTS, st.integers(60, 400))
def test_wrapping_loses_nothing_and_stays_inside(text, width):
    lines = lettering.wrapped(text, 20, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line in lines:
        assert lettering.width(line, 20) <= width


@pytest.mark.parametrize("word", ["W" * 64, "0123456789" * 10, "Ж" * 70])
def test_a_word_longer_than_a_line_is_cut(word):
    lines = lettering.wrapped(f"ID {word} end", 17, 300)
    assert "".join(lines).replace(" ", "") == f"ID{word}end"
    assert len(lines) > 2
    assert all(lettering.width(line, 17) <= 300 for line in lines)


def test_punctuation_does_not_begin_a_line():
    lines = lettering.wrapped("仅供研究，不用于诊断。本文件由软件生成，未经医师审阅。", 20, 95)
    assert len(lines) > 3
    assert not any(line[0] in "，。" for line in lines)


@pytest.mark.parametrize("width", range(60, 260, 10))
def test_nor_does_a_bracket_that_closes(width):
    lines = lettering.wrapped("预测区间 9岁10个月 至 12岁2个月 (118.5 至 146.5个月)。", 20, width)
    assert not any(line[0] in ")。" for line in lines)
