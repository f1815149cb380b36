"""The committed split. The films themselves are not part of the project, so nothing here opens one."""

from collections import Counter

import pytest

from training.errors import DataError
from training.radiographs import PARTS, read_split


def test_every_film_of_the_challenge_has_one_part():
    split = read_split()
    assert len(split) == 12_611
    assert set(split.values()) == set(PARTS)


def test_a_seventh_of_the_sharp_films_is_for_testing():
    counts = Counter(read_split().values())
    sharp = counts["train"] + counts["validation"] + counts["test"]
    assert sharp == 1227
    assert counts["test"] / sharp == pytest.approx(0.15, abs=0.005)


def test_an_id_on_two_sides_is_refused(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("rsna_id,part\n1,train\n1,test\n")
    with pytest.raises(DataError, match="two sides"):
        read_split(path)


def test_an_unknown_part_is_refused(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("rsna_id,part\n1,holdout\n")
    with pytest.raises(DataError, match="unknown part"):
        read_split(path)
