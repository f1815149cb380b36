"""The committed split. The films themselves are not part of the project, so nothing here opens one."""

import csv
from collections import Counter

import numpy as np
import pytest

from training import split as command
from training.errors import DataError
from training.radiographs import PARTS, read_split
from training.split import make_split


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


@pytest.fixture
def films(tmp_path):
    """A data folder's tables: 400 films at half resolution among 700 at 100 x 100 pixels."""
    folder = tmp_path / "rsna2017"
    (folder / "lowres100").mkdir(parents=True)
    with (folder / "half.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rsna_id", "bone_age_months", "sex"])
        writer.writerows([i, 20 + i % 200, "MF"[i % 3 == 0]] for i in range(400))
    for part in (0, 1):
        np.savez(folder / "lowres100" / f"part{part}.npz", rsna_id=np.arange(350 * part, 350 * part + 350))
    return tmp_path


def test_a_split_is_drawn_once_and_for_all(films):
    """Given the same films, then the same split: shares as promised, and only annotated small films set aside."""
    annotated = set(range(300, 650))
    drawn = make_split(films, annotated)
    assert drawn == make_split(films, annotated)
    assert drawn != make_split(films, annotated, seed=1)
    counts = Counter(part for number, part in drawn.items() if number < 400)
    assert (counts["test"], counts["validation"]) == (pytest.approx(60, abs=1), pytest.approx(40, abs=1))
    aside = {number for number, part in drawn.items() if part == "annotation-test"}
    assert len(aside) == 120
    assert aside <= set(range(400, 650))
    assert {drawn[number] for number in range(650, 700)} == {"pretrain"}


def test_every_sex_and_age_is_in_the_test_part(films):
    drawn = make_split(films, set())
    tested = {("MF"[i % 3 == 0], (20 + i % 200) // 24) for i in range(400) if drawn[i] == "test"}
    assert len(tested) >= 16  # of 20 strata, some of which hold three films


@pytest.mark.parametrize(("changed", "code", "said"), [(False, 0, "0 of them"), (True, 1, "1 of them")])
def test_the_command_compares_with_the_committed_split(films, monkeypatch, capsys, changed, code, said):
    monkeypatch.setattr(command, "read_all_sets", lambda _: {})
    drawn = make_split(films, set())
    monkeypatch.setattr(command, "read_split", lambda: drawn | ({0: "nowhere"} if changed else {}))
    assert command.main(["--data", str(films)]) == code
    assert f"700 films drawn, {said}" in capsys.readouterr().out


def test_a_folder_without_films_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(command, "read_all_sets", lambda _: {})
    assert command.main(["--data", str(tmp_path)]) == 2
    assert "lacks half.csv" in caplog.text
