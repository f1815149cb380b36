"""Films in other layouts than this project's: RSNA's own, a site's DICOM objects, boxes of other tools.

Not covered: the project's own folder (test_split.py, test_training.py), training itself (test_train.py).
"""

from __future__ import annotations

import csv
import json
import re
import struct
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from conformance.films import encode, make_film
from dicom_node.cli import main
from inference.anatomy import BOX_NAMES
from inference.errors import CutOff, UnreadablePixels
from inference.finding import Sex
from training.annotations import RUS_CLASSES, read_annotations
from training.bones import annotated_films
from training.errors import DataError
from training.evaluation.site import read_table
from training.films import AgeFilms, DetectorFilms
from training.radiographs import load_half, load_negatives, load_small, read_split
from training.sources import open_source
from training.sources import site as site_source
from training.sources.boxes import check_boxes, read_boxes
from training.sources.files import read_image, read_object
from training.sources.source import LONG_SIDE, open_image, part_by_hash


def picture(seed: int, rows: int = 60, columns: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns)).astype(np.uint8)


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Six films as RSNA hands them out: four of the training table, two of the validation table."""
    images = tmp_path / "boneage-training-dataset"
    images.mkdir()
    split = read_split()
    known = [min(film for film in split if split[film] == part) for part in ("train", "validation", "test")]
    for place, film in enumerate([*known, 900001, 900002, 900003]):
        cv2.imwrite(str(images / f"{film}.png"), picture(place))
    write_csv(
        tmp_path / "boneage-training-dataset.csv",
        ["id", "boneage", "male"],
        [[film, 100 + place, place % 2 == 0] for place, film in enumerate([*known, 900001])],
    )
    write_csv(
        tmp_path / "Validation Dataset.csv",
        ["Image ID", "male", "Bone Age (months)"],
        [[900002, "TRUE", 50], [900003, "False", 60]],
    )
    return tmp_path


def make_object(
    path: Path, seed: int, patient: str = "", photometric: str = "MONOCHROME2", age: str = "", sex: str = ""
) -> None:
    ds = Dataset()
    ds.PatientAge, ds.PatientSex = age, sex
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, f"1.2.{seed + 1}"
    ds.PatientID, ds.Modality, ds.PhotometricInterpretation = patient, "CR", photometric
    ds.Rows, ds.Columns, ds.SamplesPerPixel = 60, 40, 1
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.WindowCenter, ds.WindowWidth = "128", "256"
    ds.PixelData = picture(seed).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for seed in range(6):
        make_object(tmp_path / f"film{seed}.dcm", seed, patient=f"P{seed // 2}")
    write_csv(
        tmp_path / "readings.csv",
        ["file", "sex", "bone_age_years"],
        [[f"film{seed}.dcm", "F" if seed % 2 else "male", 8 + seed] for seed in range(6)],
    )
    return tmp_path


def test_the_official_layout_is_read_with_both_tables(official: Path) -> None:
    source = open_source(official)
    assert source.problems == []
    readings = {entry.reading.rsna_id: entry.reading for entry in source.entries}
    assert len(readings) == 6
    assert (readings[900002].sex, readings[900002].age_months) == (Sex.MALE, 50)
    assert readings[900003].sex is Sex.FEMALE


def test_the_three_official_archives_are_read_as_they_unpack(official: Path) -> None:
    """Given each table in its archive's folder, then its films are there; those of the test table are for testing."""
    for name in ("boneage-training-dataset.csv", "Validation Dataset.csv"):
        (official / name).rename(official / "boneage-training-dataset" / name)
    films = official / "Bone Age Test Set" / "Test Set Images"
    films.mkdir(parents=True)
    for place in range(4):
        cv2.imwrite(str(films / f"{4360 + place}.png"), picture(70 + place))
    table = films.parent / "Bone age ground truth.csv"
    table.write_text("Case ID,Sex,Ground truth bone age (months)\n4360,M,180.28\n4361,F,96.1\n4362,M,8\n4363,?,9\n")
    table.with_suffix(".xlsx").write_bytes(b"PK")
    source = open_source(official)
    assert source.problems == ["film 4363: male must be True or False, or sex M or F."]
    assert {entry.name for entry in source.entries} >= {"film 900001", "film 900002", "film 900003"}
    tested = {entry.name: entry.reading for entry in source.entries if entry.name.startswith("film 436")}
    assert [(reading.part, reading.sex.value) for reading in tested.values()] == [
        ("test", "M"), ("test", "F"), ("test", "M"),
    ]  # fmt: skip
    assert tested["film 4360"].age_months == 180.28
    assert source.notices == ["Tables of Excel: 1; they are not read. Save them as CSV to have their readings."]


def test_what_else_lies_about_below_an_official_folder_is_no_table(official: Path) -> None:
    (official / "__MACOSX").mkdir()
    (official / "__MACOSX" / "._Validation Dataset.csv").write_bytes(b"\0\5\x16\7" + bytes(range(256)))
    (official / "__MACOSX" / "one line.csv").write_text("a" * 200_000)
    assert (len(open_source(official).entries), open_source(official).problems) == (6, [])


def test_a_sites_table_counts_before_an_official_one_below_it(site: Path) -> None:
    (site / "rsna").mkdir()
    write_csv(site / "rsna" / "train.csv", ["id", "boneage", "male"], [[1, 100, "True"]])
    assert open_source(site).layout == "a site's films"


def test_films_of_the_committed_split_keep_their_part(official: Path) -> None:
    split = read_split()
    for entry in open_source(official).entries:
        film = entry.reading.rsna_id
        expected = split.get(film) or part_by_hash(str(film))
        assert entry.reading.part == ("train" if expected == "pretrain" else expected)


def test_every_loader_takes_the_layout(official: Path) -> None:
    parts = ["train", "validation", "test", "annotation-test"]
    assert len(load_half(official, parts)) == 6
    assert load_small(official, ["pretrain"]) == []


def test_official_images_may_lie_behind_a_link(official: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Given images on another disk and a link that leads in a circle, then each image is there once."""
    elsewhere = tmp_path_factory.mktemp("disk") / "images"
    (official / "boneage-training-dataset").rename(elsewhere)
    (official / "boneage-training-dataset").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(official)
    assert open_source(official).problems == []
    assert len(load_half(official, ["train", "validation", "test"])) == 6


def test_official_tables_may_have_their_names_in_capitals(official: Path) -> None:
    (official / "boneage-training-dataset.csv").rename(official / "TRAINING.CSV")
    assert len(open_source(official).entries) == 6


def test_a_sites_table_may_have_its_name_in_capitals(site: Path) -> None:
    (site / "readings.csv").rename(site / "Readings.CSV")
    assert len(open_source(site).entries) == 6


def test_a_folder_named_like_a_table_is_none(official: Path) -> None:
    (official / "old.csv").mkdir()
    assert open_source(official).problems == []


def test_a_table_that_may_not_be_read_is_named(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"\.csv cannot be read: Permission denied\."):
        open_source(official)


def test_parts_drawn_by_hash_are_in_proportion() -> None:
    parts = [part_by_hash(str(film)) for film in range(4000)]
    shares = {part: parts.count(part) / len(parts) for part in set(parts)}
    assert shares == pytest.approx({"train": 0.75, "validation": 0.10, "test": 0.15}, abs=0.02)


def test_large_films_are_shrunk(official: Path) -> None:
    cv2.imwrite(str(official / "boneage-training-dataset" / "900001.png"), picture(9, 2200, 1000))
    films = load_half(official, ["train", "validation", "test", "annotation-test"])
    (film,) = [film for film in films if film.reading.rsna_id == 900001]
    assert max(film.pixels.shape) == LONG_SIDE


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["900009", "120", "True"], "film 900009: there is no image"),
        (["Jane Doe", "120", "True"], "Line 6 of boneage-training-dataset.csv: the id must be a number"),
        (["900001", "", "True"], "film 900001: the bone age must be"),
        (["900001", "999", "True"], "film 900001: the bone age must be"),
        (["900001", "120", ""], "film 900001: male must be"),
        (["900002", "120", "True"], "film 900002 stands in the tables twice"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(official: Path, line: list[str], words: str) -> None:
    with (official / "boneage-training-dataset.csv").open("a", newline="") as file:
        csv.writer(file).writerow(line)
    problems = open_source(official).problems
    assert any(words in problem for problem in problems)
    assert not any("Jane" in problem for problem in problems)
    with pytest.raises(DataError, match=words):
        load_half(official, ["train"])


def test_broken_and_repeated_images_are_all_named_at_once(official: Path) -> None:
    folder = official / "boneage-training-dataset"
    (folder / "900001.png").write_bytes(b"no image")
    cv2.imwrite(str(folder / "900003.png"), cv2.imread(str(folder / "900002.png"), cv2.IMREAD_GRAYSCALE))
    with pytest.raises(DataError) as caught:
        load_half(official, ["train", "validation", "test", "annotation-test"])
    assert "film 900001: The image is missing or cannot be decoded." in str(caught.value)
    assert "film 900003 is the same image as film 900002" in str(caught.value)


def test_the_same_image_in_a_part_that_is_not_loaded_is_refused_too(site: Path) -> None:
    make_object(site / "film1.dcm", 0, "P1")
    write_csv(
        site / "readings.csv",
        ["file", "sex", "bone_age_months", "part", "patient"],
        [["film0.dcm", "M", 100, "train", "one"], ["film1.dcm", "M", 100, "test", "other"]],
    )
    with pytest.raises(DataError, match="Line 3 is the same image as Line 2"):
        load_half(site, ["train"])


def test_one_id_in_two_spellings_is_one_film(official: Path) -> None:
    with (official / "boneage-training-dataset.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["0900001", "120", "True"])
    assert any("film 900001 stands in the tables twice" in problem for problem in open_source(official).problems)


@pytest.mark.parametrize("name", ["900001.png", "0900001.png", "900001.jpg"])
def test_two_images_of_one_id_are_refused(official: Path, name: str) -> None:
    (official / "more").mkdir()
    cv2.imwrite(str(official / "more" / name), picture(77))
    assert open_source(official).problems == ["film 900001: 2 images below the folder have its id; keep one of them."]


def test_an_official_image_without_a_reading_is_named_and_left_out(
    official: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(official / "boneage-training-dataset" / "900004.png"), picture(78))
    cv2.imwrite(str(official / "Jane Doe.png"), picture(79))
    assert main(["data", "check", str(official)]) == 0
    said = capsys.readouterr().out
    assert "? film 900004: its image has no reading in the tables" in said
    assert "? Images whose name is no id: 1" in said
    assert "Jane" not in said
    assert "no problems, 2 notices" in said
    assert main(["data", "check", str(official), "--file-names"]) == 0
    assert "Jane Doe.png" in capsys.readouterr().out
    assert len(load_half(official, ["train", "validation", "test", "annotation-test"])) == 6
    assert "film 900004" in caplog.text


def test_a_sites_film_without_a_line_is_counted_and_left_out(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "more").mkdir()
    make_object(site / "more" / "IM0001", 11)
    cv2.imwrite(str(site / "more" / "Jane Doe.png"), picture(79))
    (site / "annotations").mkdir()
    cv2.imwrite(str(site / "annotations" / "film0.png"), picture(80))
    write_voc(site / "annotations", "film0", [("radius", 0.5, 0.5)])
    (site / "more" / "notes.pdf").write_bytes(b"%PDF")
    main(["data", "check", str(site)])
    said = capsys.readouterr().out
    assert "? Images without a line in readings.csv: 2;" in said
    assert "Jane" not in said
    main(["data", "check", str(site), "--file-names"])
    assert f"? {site / 'more' / 'Jane Doe.png'}" in capsys.readouterr().out


def test_an_image_whose_line_is_wrong_is_not_said_to_have_none(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = site / "readings.csv"
    table.write_text(table.read_text().replace(",F,", ",weiblich,"))
    main(["data", "check", str(site)])
    said = capsys.readouterr().out
    assert "! Line 3: the sex must be" in said
    assert "without a line" not in said


@pytest.mark.parametrize(
    ("table", "words"),
    [("readings.csv", "readings.csv holds no line"), ("boneage-training-dataset.csv", "The tables hold no line")],
)
def test_a_table_without_lines_is_a_problem(
    tmp_path: Path, table: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    header = ["file", "sex", "bone_age_months"] if table == "readings.csv" else ["id", "boneage", "male"]
    write_csv(tmp_path / table, header, [])
    assert main(["data", "check", str(tmp_path)]) == 1
    assert words in capsys.readouterr().out
    with pytest.raises(DataError, match=words):
        load_half(tmp_path, ["train"])


@pytest.mark.parametrize("missing", ["train", "validation"])
def test_parts_that_training_cannot_do_without_are_named(
    site: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "validation" if missing == "train" else "train"
    header = ["file", "sex", "bone_age_months", "part"]
    write_csv(site / "readings.csv", header, [[f"film{seed}.dcm", "M", 100, other] for seed in range(6)])
    assert main(["data", "check", str(site)]) == 1
    assert f"! No film has the part '{missing}'" in capsys.readouterr().out


def test_a_column_that_is_nearly_another_is_a_problem_and_a_strange_one_is_named(site: Path) -> None:
    write_csv(
        site / "readings.csv",
        ["file", "sex", "bone_age_months", "prat", "reader"],
        [[f"film{seed}.dcm", "M", 100, "train", "A"] for seed in range(6)],
    )
    source = open_source(site)
    assert source.problems == ["The column 'prat' is not known: name it 'part', or otherwise."]
    assert source.notices == ["The column 'reader' is not known, and not read."]


def test_columns_are_known_in_capitals_and_with_blanks(site: Path) -> None:
    rows = [[f"film{seed}.dcm", "M", 100, "train"] for seed in range(6)]
    write_csv(site / "readings.csv", ["File", " Sex", "Bone_Age_Months ", "Part"], rows)
    source = open_source(site)
    assert (source.problems, source.notices) == ([], [])
    assert {entry.reading.part for entry in source.entries} == {"train"}


def test_lines_are_counted_as_an_editor_counts_them(site: Path) -> None:
    """Given blank lines and a cell over two lines, then ids are numbers of lines, and problems name the right one."""
    (site / "readings.csv").write_text(
        'file,sex,bone_age_months,note\nfilm0.dcm,M,100,\n\n\nfilm1.dcm,M,100,"two\nlines"\nfilm2.dcm,X,100,\n'
    )
    source = open_source(site)
    assert [entry.reading.rsna_id for entry in source.entries] == [2, 6]
    assert source.problems == ["Line 7: the sex must be one of m, male, boy, f, female, girl; it is another text."]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_has_the_separator_of_its_header(site: Path, separator: str) -> None:
    """Given commas, semicolons or tabs, words in any case and paths of Windows, then all is read, and the same."""
    (site / "more").mkdir()
    (site / "film3.dcm").rename(site / "more" / "film3.dcm")
    age = "8.5" if separator == "," else "8,5"
    lines = [
        ["\ufefffile", "Sex", "bone_age_years", "part", "patient"],
        [" film0.dcm ", "Boy", age, "Training", "a"],
        [".\\film1.dcm", "GIRL", age, "VALIDATION", "b"],
        ["film2.dcm", "male", "8", " test", '"c, d; e"'],
        [" more\\film3.dcm", "Female", "8", "", "f"],
    ]
    (site / "readings.csv").write_text("\r\n".join(separator.join(line) for line in lines), "utf-8")
    source = open_source(site)
    assert source.problems == []
    readings = [entry.reading for entry in source.entries]
    assert [reading.age_months for reading in readings] == [102, 102, 96, 96]
    assert [reading.sex.value for reading in readings] == ["M", "F", "M", "F"]
    assert [reading.part for reading in readings[:3]] == ["train", "validation", "test"]
    assert len(source.entries) == 4


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;\r"])
def test_a_word_to_excel_above_the_header_counts_as_a_line_and_is_none(site: Path, first: str) -> None:
    table = site / "readings.csv"
    lines = table.read_text().replace(",", ";").splitlines()
    table.write_text("\N{ZERO WIDTH NO-BREAK SPACE}" + "\n".join([first, *lines]) + "\n", "utf-8")
    assert [entry.reading.rsna_id for entry in open_source(site).entries] == [3, 4, 5, 6, 7, 8]
    table.write_text("\n".join([first, *lines, "film0.dcm;X;9"]) + "\n")
    assert "Line 9: the sex must be one of" in open_source(site).problems[0]


@pytest.mark.parametrize("first", ["", "sep=;\n", '\N{ZERO WIDTH NO-BREAK SPACE}"sep=;"\r\n'])
def test_an_official_table_that_a_spreadsheet_wrote_is_read(official: Path, first: str) -> None:
    table = official / "Validation Dataset.csv"
    table.write_text(f"{first}Image ID;male;Bone Age (months)\n900002;TRUE;50,5\n900003;False;60\n", "utf-8")
    source = open_source(official)
    assert source.problems == []
    assert {entry.name: entry.reading.age_months for entry in source.entries}["film 900002"] == 50.5


def test_a_decimal_comma_between_commas_is_no_number(site: Path) -> None:
    (site / "readings.csv").write_text('file,sex,bone_age_years\nfilm0.dcm,M,"8,5"\n')
    (problem,) = open_source(site).problems
    assert problem.startswith("Line 2: the bone age must be a number above 0 and up to 20 years, in years; ")
    assert problem.endswith("it has a decimal comma: write a point.")


def write_ages(site: Path, films: int, column: str, age: Callable[[int], object], header: Callable[[int], str]) -> None:
    """Make so many objects with the ages that their headers say, and their table."""
    for seed in range(films):
        make_object(site / f"film{seed}.dcm", seed, f"P{seed}", age=header(seed))
    rows = [[f"film{seed}.dcm", "M", age(seed)] for seed in range(films)]
    write_csv(site / "readings.csv", ["file", "sex", column], rows)


@pytest.mark.parametrize(
    ("films", "header", "seen"),
    [
        (10, lambda _: "", ""),
        (3, lambda seed: "012Y" if seed == 1 else "", r" \(the headers of 1 of the films say children years older\)"),
        (12, lambda seed: "001Y" if seed < 5 else "", ""),
    ],
)
def test_years_under_months_are_a_problem(tmp_path: Path, films: int, header: Callable[[int], str], seen: str) -> None:
    """Given readings of 20 or less only, many or beside an older child's header, then training and test refuse them."""
    write_ages(tmp_path, films, "bone_age_months", lambda seed: 5 + seed, header)
    says = f"All {films} bone ages under bone_age_months are 20 or less, as years are and not months{seen}: name the "
    with pytest.raises(DataError, match=says):
        load_half(tmp_path, ["train"])
    with pytest.raises(DataError, match=says):
        read_table(tmp_path, tmp_path / "readings.csv")


@pytest.mark.parametrize(
    ("films", "column", "age", "header"),
    [
        (12, "bone_age_months", lambda seed: 5 + seed, lambda _: "014M"),
        (9, "bone_age_months", lambda seed: 5 + seed, lambda _: ""),
        (12, "bone_age_months", lambda seed: 10 + seed, lambda _: ""),
        (12, "bone_age_years", lambda seed: 5 + seed, lambda _: "012Y"),
    ],
)
def test_months_of_infants_and_years_under_years_are_read(
    tmp_path: Path, films: int, column: str, age: Callable[[int], object], header: Callable[[int], str]
) -> None:
    write_ages(tmp_path, films, column, age, header)
    assert open_source(tmp_path).problems == []
    assert len(read_table(tmp_path, tmp_path / "readings.csv")) == films


@pytest.mark.parametrize(
    ("ages", "refused"),
    [
        (["8.11", "7.6", "10.0", "9.10", "12.3", "6.7", "11.9", "5.1", "13.2", "4.5"], True),
        (["8.11", "7.06", "10.00", "9.10", "12.03", "6.07", "11.09", "5.01", "13.02", "4.05"], True),
        (["8,11", "7,6", "10,0", "9,10", "12,3", "6,7", "11,9", "5,1", "13,2", "4,5"], True),
        (["8.1", "7.6", "10.0", "9.9", "12.3", "6.7", "11.9", "5.1", "13.2", "4.5"], False),
        (["8.11", "7.60", "10.00", "9.10", "12.30", "6.70", "11.90", "5.10", "13.20", "4.50"], False),
        (["8.10", "7", "10", "9.11", "12", "6", "11", "5", "13", "4"], False),
    ],
    ids=["months", "padded", "commas", "tenths", "hundredths", "too few"],
)
def test_years_and_months_as_decimals_are_a_problem(tmp_path: Path, ages: list[str], refused: bool) -> None:
    """Given 8.11 for 8 years and 11 months, then no table is read in which it would be 8 years and 1 month."""
    rows = []
    for seed, age in enumerate(ages):
        make_object(tmp_path / f"film{seed}.dcm", seed)
        rows.append(f"film{seed}.dcm;F;{age}")
    (tmp_path / "readings.csv").write_text("\n".join(["file;sex;bone_age_years", *rows]))
    problems = open_source(tmp_path).problems
    assert any("8.11 means 8 years and 11 months" in problem for problem in problems) is refused
    if refused:
        with pytest.raises(DataError, match=r"write months under bone_age_months \(107\)"):
            read_table(tmp_path, tmp_path / "readings.csv")


def test_infants_months_are_believed_beside_their_years(tmp_path: Path) -> None:
    write_ages(tmp_path, 12, "bone_age_months", lambda seed: 5 + seed, lambda _: "")
    rows = [[f"film{seed}.dcm", "M", 5 + seed, round((5 + seed) / 12, 1)] for seed in range(12)]
    write_csv(tmp_path / "readings.csv", ["file", "sex", "bone_age_months", "bone_age_years"], rows)
    assert open_source(tmp_path).problems == []


@pytest.mark.parametrize(
    ("months", "years", "age"),
    [
        ("100", "8.3", 100), ("107", "8", 107), ("90", "8", 90), ("100", "", 100), ("", "8", 96),
        ("8", "8", None), ("100", "9", None), ("109", "8", None), ("100", "8.5", None), ("1", "1", None),
        ("", "", None), ("100", "?", None),
    ],
)  # fmt: skip
def test_months_and_years_must_agree(site: Path, months: str, years: str, age: float | None) -> None:
    """Given both columns, then whole years may be completed or rounded ones; what is of two ages is named by line."""
    header = ["file", "sex", "bone_age_months", "bone_age_years"]
    write_csv(site / "readings.csv", header, [["film0.dcm", "M", months, years]])
    source = open_source(site)
    assert [entry.reading.age_months for entry in source.entries] == ([] if age is None else [age])
    words = "the bone age must" if not months else "bone_age_months and bone_age_years contradict each other"
    assert [problem.startswith(f"Line 2: {words}") for problem in source.problems] == [True] * (age is None)


def test_years_in_an_official_table_are_a_problem(official: Path) -> None:
    images = official / "boneage-training-dataset"
    for film in range(900010, 900020):
        cv2.imwrite(str(images / f"{film}.png"), picture(film))
    write_csv(official / "more.csv", ["id", "boneage", "male"], [[film, 8, True] for film in range(900010, 900020)])
    assert open_source(official).problems == [
        "All 10 bone ages under 'boneage' are 20 or less, as years are and not months: write months."
    ]


@pytest.mark.parametrize("again", ["bone_age_years", "Sex"])
def test_a_column_that_comes_twice_is_refused(site: Path, again: str) -> None:
    """Given two readers' ages, or two sexes, in one table, then neither is taken in silence."""
    write_csv(site / "readings.csv", ["file", "sex", "bone_age_years", again], [["film0.dcm", "F", 8, "12"]])
    with pytest.raises(DataError, match=f"the column '{again.lower()}' twice; keep one"):
        open_source(site)


def test_an_official_column_that_comes_twice_is_a_problem(official: Path) -> None:
    write_csv(official / "second.csv", ["id", "boneage", "male", "boneage"], [[900009, 50, "True", 80]])
    assert "A table has the column 'boneage' twice" in open_source(official).problems[0]


def test_lines_of_separators_alone_are_blank(site: Path) -> None:
    """Given what a spreadsheet leaves below its table, then it is no film, as a blank line is none."""
    rows = [["film0.dcm", "F", 8], ["", "", ""], ["film1.dcm", "M", 9], [" ", "", ""]]
    write_csv(site / "readings.csv", ["file", "sex", "bone_age_years", ""], [[*row, ""] for row in rows])
    source = open_source(site)
    assert (source.problems, [entry.name for entry in source.entries]) == ([], ["Line 2", "Line 4"])


def test_lines_of_separators_alone_are_blank_in_an_official_table_too(official: Path) -> None:
    write_csv(official / "second.csv", ["id", "boneage", "male"], [["", "", ""]])
    assert not open_source(official).problems


def test_digits_that_only_python_reads_are_no_number(site: Path) -> None:
    write_csv(site / "readings.csv", ["file", "sex", "bone_age_months"], [["film0.dcm", "F", "1_00"]])
    assert "Line 2: the bone age must be a number" in open_source(site).problems[0]


def test_a_csv_that_breaks_the_rules_is_refused(site: Path) -> None:
    (site / "readings.csv").write_text("file,sex,bone_age_months\n" + "x" * 200_000 + ",M,100\n")
    with pytest.raises(DataError, match="cannot be read"):
        open_source(site)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_an_object_that_is_cut_off_says_so(site: Path, share: float) -> None:
    sample = resources.files("dicom_node").joinpath("samples", "boy-08.dcm").read_bytes()
    (site / "film3.dcm").write_bytes(sample[: int(len(sample) * share)])
    with pytest.raises(DataError, match="Line 5: The object is cut off"):
        load_half(site, ["train"])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_file_that_ends_where_nothing_can_be_read_of_it_is_cut_off(tmp_path: Path, syntax: str) -> None:
    """Given an end within the head of PixelData, or within what is deflated, then no other error comes of it."""
    whole, path = encode(make_film(), syntax), tmp_path / "a.dcm"
    head = whole.find(b"\xe0\x7f\x10\x00OW")
    path.write_bytes(whole[: head + 10] if head > 0 else whole[:-100])
    with pytest.raises(CutOff, match="cut off"):
        read_object(path)


@pytest.mark.parametrize(("factor", "depth"), [(1, np.uint8), (16, np.uint16), (257, np.uint16)])
def test_images_of_any_depth_are_as_bright(tmp_path: Path, factor: int, depth: type[np.generic]) -> None:
    """Given a film in 8, 12 (in 16) or 16 bits, then it is read as the same, to a grey value."""
    expected = picture(3)
    expected[0, 0] = 255
    cv2.imwrite(str(tmp_path / "a.png"), (expected.astype(np.uint32) * factor).astype(depth))
    difference = open_image(tmp_path / "a.png").astype(int) - expected
    assert np.abs(difference).max() <= (1 if factor == 16 else 0)


@pytest.mark.parametrize("share", [0.3, 0.9, 1.0])
def test_a_jpeg_that_is_cut_off_is_no_film(tmp_path: Path, share: float) -> None:
    """Given one with a thumbnail in its head, which has an end of its own; cv2 paints in grey what is missing."""
    path = tmp_path / "a.jpg"
    picture_of, thumbnail = (cv2.imencode(".jpg", picture(3, *size))[1].tobytes() for size in ((400, 300), (60, 40)))
    head = picture_of[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path.write_bytes(head + picture_of[2:])
    assert open_image(path).shape == (400, 300)
    path.write_bytes(head + picture_of[2 : round(share * len(picture_of)) - 2])
    with pytest.raises(CutOff, match="The image is cut off"):
        open_image(path)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_an_image_that_claims_to_be_larger_than_any_is_named(tmp_path: Path) -> None:
    """Given a PNG whose header is damaged, so that it has ten thousand million pixels, then it is no film."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadablePixels, match="larger than any film"):
        read_image(tmp_path / "a.png")


def test_an_image_of_another_depth_is_no_film(tmp_path: Path) -> None:
    """Given numbers with fractions under an image's name, whose white nobody knows, then they are refused."""
    cv2.imwrite(str(tmp_path / "a.tiff"), picture(1).astype(np.float32) / 255)
    (tmp_path / "a.tiff").rename(tmp_path / "a.png")
    with pytest.raises(UnreadablePixels, match="neither 8 nor 16 bits"):
        read_image(tmp_path / "a.png")


def test_what_16_bits_hold_is_kept(tmp_path: Path) -> None:
    fine = np.linspace(0, 4095, 4000, dtype=np.uint16).reshape(50, 80)
    cv2.imwrite(str(tmp_path / "a.png"), fine)
    assert np.allclose(read_image(tmp_path / "a.png"), fine / 4095, atol=1e-6)


def test_a_sites_objects_are_read_as_the_node_shows_them(site: Path) -> None:
    make_object(site / "film0.dcm", 0, "P0", "MONOCHROME1")
    films = {film.reading.rsna_id: film for film in load_half(site, ["train", "validation", "test"])}
    assert len(films) == 6
    assert films[2].reading.age_months == 96
    correlation = np.corrcoef(films[2].pixels.ravel(), picture(0).ravel())[0, 1]
    assert correlation == pytest.approx(-1, abs=0.02)


def test_films_of_one_child_stand_on_one_side(site: Path) -> None:
    parts = {entry.reading.rsna_id: entry.reading.part for entry in open_source(site).entries}
    assert all(parts[2 + 2 * pair] == parts[3 + 2 * pair] for pair in range(3))


def test_films_that_share_a_name_in_folders_of_their_own_are_drawn_apart(tmp_path: Path) -> None:
    """Given a folder for each child, each with a ``hand.png``, then not all of them stand on one side."""
    names = [f"child{place}/hand.png" for place in range(30)]
    for place, name in enumerate(names):
        (tmp_path / name).parent.mkdir()
        cv2.imwrite(str(tmp_path / name), picture(place))
    write_csv(tmp_path / "readings.csv", ["file", "sex", "bone_age_months"], [[name, "F", 100] for name in names])
    assert {entry.reading.part for entry in open_source(tmp_path).entries} == {"train", "validation", "test"}


@pytest.mark.parametrize(("films", "doubted"), [(10, True), (9, False)])
def test_anonymised_films_that_all_have_one_patient_are_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], films: int, doubted: bool
) -> None:
    """Given films whose PatientID is the same, as after anonymisation, then it is said why all have one part."""
    for seed in range(films):
        make_object(tmp_path / f"film{seed}.dcm", seed, patient="ANONYMOUS")
    header = ["file", "sex", "bone_age_years"]
    write_csv(tmp_path / "readings.csv", header, [[f"film{seed}.dcm", "F", 8] for seed in range(films)])
    assert main(["data", "check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert (f"? {films} of {films} films are of one patient, by patient or PatientID" in said) is doubted
    assert "ANONYMOUS" not in said
    rows = [[f"film{seed}.dcm", "F", 8, f"child {seed}"] for seed in range(films)]
    write_csv(tmp_path / "readings.csv", [*header, "patient"], rows)
    main(["data", "check", str(tmp_path)])
    assert "of one patient" not in capsys.readouterr().out


def test_a_child_on_both_sides_is_refused_and_not_named(site: Path) -> None:
    write_csv(
        site / "readings.csv",
        ["file", "sex", "bone_age_months", "part"],
        [["film0.dcm", "M", 100, "train"], ["film1.dcm", "M", 110, "test"]],
    )
    (problem,) = open_source(site).problems
    assert problem == (
        "Line 2 and Line 3 are of one patient and stand in train and test: give them one part, or, if PatientID is not "
        "one child's, tell the children apart in a column patient."
    )
    assert "P0" not in problem


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (["none.dcm", "M", "100", ""], "Line 2: the folder has no such file"),
        (["film0.dcm", "?", "100", ""], "girl; it is another text."),
        (["film0.dcm", "1", "100", ""], "girl; it is a number."),
        (["film0.dcm", "", "100", ""], "girl; it is empty."),
        (["film0.dcm", "M", "-1", ""], "Line 2: the bone age must be"),
        (["film0.dcm", "M", "100", "holdout"], "Line 2: the part must be one of train, training, validation, val,"),
        (["film0.dcm", "M", "100", "7"], "or empty; it is a number."),
        (["film0.dcm", "M", "8", "5", "train"], "Line 2: it has more cells than the header; put what holds a comma"),
    ],
)
def test_a_sites_lines_are_checked(site: Path, row: list[str], words: str) -> None:
    write_csv(site / "readings.csv", ["file", "sex", "bone_age_months", "part"], [row])
    assert [problem for problem in open_source(site).problems if words in problem]


HALF = "rsna_id,bone_age_months,sex\n1377,180,F\n1380,120,M\n"


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (HALF.replace("180,F", "180,U"), "line 2 must"),
        (HALF.replace("120", ""), "line 3 must"),
        (HALF.replace("180", "-5").replace("120", "9999"), "line 2, 3 must"),
        (HALF.replace("1377", "x1377"), "line 2 must"),
        (HALF.replace("sex", "gender"), "line 2, 3 must"),
        ("rsna_id,bone_age_months,sex\n" + "1377,none,F\n" * 30, "20, 21 and more must"),
    ],
)
def test_broken_lines_of_this_projects_own_table_are_named(
    tmp_path: Path, content: str, lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "rsna2017"
    (folder / "half").mkdir(parents=True)
    (folder / "half.csv").write_text(content)
    assert main(["data", "check", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "half.csv: line 2" in said or "half.csv: line 3 must" in said
    assert f"{lines} have numbers as rsna_id" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "rsna_id,image_width,image_height,label,xmin,ymin,xmax,ymax\n1377,9,9,Radius,a,1,2,2\n",
            "rus_boxes_881.csv has",
        ),
        ("rsna_id,label\n1377,Radius\n", "rus_boxes_881.csv has a line without its columns"),
        ("rsna_id,label\n", "ossification_rois_koitka2018.csv cannot be read"),
    ],
)
def test_annotations_of_this_project_that_are_broken_are_named(tmp_path: Path, content: str, words: str) -> None:
    for name in ("rsna2017", "annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "annotations" / "rus_boxes_881.csv").write_text(content)
    with pytest.raises(DataError, match=re.escape(words)):
        read_annotations(tmp_path)


@pytest.mark.parametrize("content", [None, b"torn"])
def test_small_films_that_are_missing_or_torn_are_named(tmp_path: Path, content: bytes | None) -> None:
    folder = tmp_path / "rsna2017" / "lowres100"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "part0.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"part0\.npz is missing or torn; restore"):
        load_small(tmp_path, ["pretrain"])


def test_films_without_a_hand_that_are_broken_are_named(tmp_path: Path) -> None:
    """Given three films without a hand, one cut off and one no image, then both are named."""
    folder = tmp_path / "negatives"
    assert load_negatives(tmp_path) == []
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        cv2.imwrite(str(folder / name), np.random.default_rng(1).integers(0, 256, (60, 50), dtype=np.uint8))
    assert [film.shape for film in load_negatives(tmp_path)] == [(60, 50)] * 3
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-500])
    (folder / "c.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"negatives: cut off or not to be decoded: a\.jpg, c\.jpg; restore or delete"):
        load_negatives(tmp_path)


def test_a_file_that_is_no_film_is_named_by_its_line(site: Path) -> None:
    (site / "film3.dcm").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"Line 5: The file is no DICOM object\."):
        load_half(site, ["train", "validation", "test"])


@pytest.mark.parametrize("ending", [".tif", ".bmp", ".webp", ".png"])
def test_an_image_that_is_not_read_is_called_one(site: Path, ending: str) -> None:
    """Given an image of another kind, or one whose name hides what it is, then that is said and what it must be."""
    cv2.imwrite(str(site / f"picture{ending}"), np.full((40, 30), 90, dtype=np.uint8))
    (site / f"picture{ending}").rename(site / "film3.dcm")
    with pytest.raises(DataError, match=r"Line 5: The file is an image, which must be PNG or JPEG and be named so\."):
        load_half(site, ["train", "validation", "test"])


def test_a_folder_without_a_table_says_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"readings\.csv"):
        open_source(tmp_path)


@pytest.mark.parametrize("place", ["nowhere", "readings.csv"])
def test_a_path_without_a_folder_says_so(site: Path, place: str) -> None:
    for read in (open_source, lambda folder: read_table(folder, site / "readings.csv")):
        with pytest.raises(DataError, match=f"There is no folder .*{place}; correct the path"):
            read(site / place)


def test_a_table_that_is_not_there_is_no_broken_csv(site: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv cannot be read: No such file"):
        read_table(site, site / "no.csv")


def test_a_training_opens_each_film_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {0: "train", 2: "validation", 4: "test", 1: "train"}
    rows = [[f"film{place}.dcm", "F", 8, part] for place, part in parts.items()]
    write_csv(site / "readings.csv", ["file", "sex", "bone_age_years", "part"], rows)
    opened: list[str] = []
    read = site_source.open_film
    monkeypatch.setattr(site_source, "open_film", lambda path: opened.append(path.name) or read(path))
    monkeypatch.setattr("training.films.locate_all", lambda films, *_: films)
    films = AgeFilms.load(site, None)
    assert sorted(opened) == [f"film{place}.dcm" for place in (0, 1, 2, 4)]
    assert [[film.reading.rsna_id for film in part] for part in (films.sharp, films.small, films.validation)] == [
        [2, 5], [], [3],
    ]  # fmt: skip


def test_what_a_header_contradicts_is_noted_and_the_table_taken(
    site: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Given headers of another sex, of another age and of a child for whom months are years, then lines say so."""
    headers = [("F", "008Y"), ("F", "015Y"), ("M", "006Y"), ("M", "008Y"), ("", ""), ("O", "009Y")]
    for seed, (sex, age) in enumerate(headers):
        make_object(site / f"film{seed}.dcm", seed, f"P{seed}", age=age, sex=sex)
    lines = [("M", 96), ("F", 40), ("M", 6), ("M", 150), ("M", 100), ("M", 100)]
    parts = ["train", "validation"] * 3
    rows = [[f"film{seed}.dcm", *line, parts[seed]] for seed, line in enumerate(lines)]
    write_csv(site / "readings.csv", ["file", "sex", "bone_age_months", "part"], rows)
    assert main(["data", "check", str(site)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("!", "?"))]
    assert said == [
        "? Line 2: the header states the other sex; the table's is taken.",
        "? Line 3: its bone age is more than 10 years from the age in the header; check both.",
        "? Line 4: its bone age is 20 months or less, but its header's child years older; are they years?",
    ]
    assert load_half(site, ["train"])[0].reading.sex is Sex.MALE
    assert "Line 2: the header states the other sex" in caplog.text


@pytest.fixture
def hands(tmp_path: Path) -> Path:
    """A site's folder of two hands, a black object and noise in a PNG."""
    for name in ("boy-08", "boy-12"):
        sample = resources.files("dicom_node").joinpath("samples", f"{name}.dcm")
        (tmp_path / f"{name}.dcm").write_bytes(sample.read_bytes())
    make_film(photometric="MONOCHROME2").save_as(tmp_path / "black.dcm")
    black = read_object(tmp_path / "black.dcm")
    black.PixelData = bytes(len(black.PixelData))
    black.save_as(tmp_path / "black.dcm")
    cv2.imwrite(str(tmp_path / "Jane Doe.png"), picture(3, 500, 400))
    rows = [["boy-08.dcm", "M", 96, "train"], ["black.dcm", "F", 96, "train"], ["Jane Doe.png", "M", 96, "validation"]]
    rows.append(["boy-12.dcm", "M", 144, "validation"])
    write_csv(tmp_path / "readings.csv", ["file", "sex", "bone_age_months", "part"], rows)
    return tmp_path


def test_films_without_a_hand_are_named_if_asked(hands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(hands)]) == 0
    assert "hand" not in capsys.readouterr().out.replace(str(hands), "")
    assert main(["data", "check", str(hands), "--hands"]) == 0
    said = capsys.readouterr().out
    assert "hands: found in 2 of 4 films" in said
    assert "? Line 3: the detector finds no hand in it; it is left out.\n? Line 4: the detector finds no hand" in said
    assert "no problems, 2 notices of what is left out or doubtful" in said
    assert "Jane" not in said


def test_a_training_names_the_films_that_it_leaves_out(hands: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Given films without a hand, then a warning names each by its line, also where all was located before."""
    for _ in range(2):
        caplog.clear()
        films = AgeFilms.load(hands, hands / "located")
        assert [film.reading.rsna_id for film in (*films.sharp, *films.validation)] == [2, 5]
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [message.split(":")[0] for message in warned if "no hand" in message] == ["Line 3", "Line 4"]
    assert "Jane" not in caplog.text


@pytest.mark.parametrize(("gone", "words"), [("boy-08", "train on"), ("boy-12", "validate with")])
def test_a_training_without_any_hand_is_refused(hands: Path, gone: str, words: str) -> None:
    table = (hands / "readings.csv").read_text().splitlines()
    (hands / "readings.csv").write_text("\n".join(line for line in table if gone not in line))
    with pytest.raises(DataError, match=f"finds no hand in any film to {words}; see boneage-node data check --hands"):
        AgeFilms.load(hands, None)


# Boxes.

LABELS = {"Radius": 1, "Ulna": 1, "MCPFirst": 1, "MCP": 4, "ProximalPhalanx": 5, "MiddlePhalanx": 4, "DistalPhalanx": 5}


def hand_boxes() -> list[tuple[str, float, float]]:
    """Return (class, x, y) in 0..1 of a left hand seen from its palm's back, wrist below, thumb to the right."""
    boxes = [("Radius", 0.55, 0.9), ("Ulna", 0.4, 0.9), ("MCPFirst", 0.72, 0.7)]
    fingers = [(0.82, 0.62), (0.62, 0.4), (0.5, 0.36), (0.4, 0.4), (0.28, 0.5)]
    for place, (x, y) in enumerate(fingers):
        if place:
            boxes.append(("MCP", x, y))
            boxes.append(("MiddlePhalanx", x + (x - 0.5) * 0.3, y - 0.16))
        boxes.append(("ProximalPhalanx", x + (x - 0.5) * 0.15, y - 0.08))
        boxes.append(("DistalPhalanx", x + (x - 0.5) * 0.4, y - 0.24))
    return boxes


def write_voc(folder: Path, film: int | str, boxes: list[tuple[str, float, float]]) -> None:
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{400 * x - 10}</xmin><ymin>{600 * y - 15}</ymin>"
        f"<xmax>{400 * x + 10}</xmax><ymax>{600 * y + 15}</ymax></bndbox></object>"
        for label, x, y in boxes
    )
    size = "<size><width>400</width><height>600</height></size>"
    (folder / f"{film}.xml").write_text(f"<annotation><filename>{film}.png</filename>{size}{objects}</annotation>")


def write_yolo(folder: Path, film: int | str, boxes: list[tuple[str, float, float]]) -> None:
    names = list(LABELS)
    (folder / "classes.txt").write_text("\n".join(names))
    cv2.imwrite(str(folder / f"{film}.png"), np.zeros((600, 400), np.uint8))
    lines = [f"{names.index(label)} {x} {y} {20 / 400} {30 / 600}" for label, x, y in boxes]
    (folder / f"{film}.txt").write_text("\n".join(lines))


def write_coco(folder: Path, film: int | str, boxes: list[tuple[str, float, float]]) -> None:
    names = list(LABELS)
    table = {
        "images": [{"id": 7, "file_name": f"{film}.png", "width": 400, "height": 600}],
        "categories": [{"id": place, "name": name} for place, name in enumerate(names)],
        "annotations": [
            {"image_id": 7, "category_id": names.index(label), "bbox": [400 * x - 10, 600 * y - 15, 20, 30]}
            for label, x, y in boxes
        ],
    }
    (folder / "boxes.json").write_text(json.dumps(table))


WRITERS = {"voc": write_voc, "yolo": write_yolo, "coco": write_coco}


@pytest.mark.parametrize("form", WRITERS)
def test_boxes_of_other_tools_become_named_points(tmp_path: Path, form: str) -> None:
    WRITERS[form](tmp_path, 1377, hand_boxes())
    annotation = read_boxes(tmp_path)[1377]
    assert set(annotation.points) == set(BOX_NAMES)
    assert annotation.aspect == pytest.approx(400 / 600)
    assert annotation.points["radius"] == pytest.approx((0.55, 0.9))
    assert annotation.sizes["ulna"] == pytest.approx((0.05, 0.05))
    assert annotation.points["PP1"][0] > annotation.points["MC2"][0] > annotation.points["MC5"][0]
    assert annotation.points["MC3"] == pytest.approx((0.5, 0.36))


@pytest.mark.parametrize(("form", "ending"), [("voc", ".xml"), ("coco", ".json"), ("yolo", ".txt")])
def test_boxes_may_lie_behind_a_link_and_have_their_ending_in_capitals(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, form: str, ending: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("disk")
    WRITERS[form](elsewhere, 1377, hand_boxes())
    for path in elsewhere.glob(f"*{ending}"):
        if path.name != "classes.txt":
            path.rename(path.with_suffix(ending.upper()))
    (tmp_path / "labels").symlink_to(elsewhere)
    assert set(read_boxes(tmp_path)) == {1377}


def test_the_three_forms_agree(tmp_path: Path) -> None:
    found = []
    for form, write in WRITERS.items():
        (tmp_path / form).mkdir()
        write(tmp_path / form, 1377, hand_boxes())
        found.append(read_boxes(tmp_path / form)[1377].array())
    assert np.allclose(found[0], found[1], equal_nan=True)
    assert np.allclose(found[0], found[2], equal_nan=True)


def test_a_box_too_few_is_named(tmp_path: Path) -> None:
    write_voc(tmp_path, 1377, hand_boxes()[:-1])
    with pytest.raises(DataError, match=r"film 1377: fingers cannot be told apart with 4 of DistalPhalanx \(not 5\)"):
        read_boxes(tmp_path)


def test_named_boxes_need_no_complete_hand(tmp_path: Path) -> None:
    write_voc(tmp_path, 1377, [("DP3", 0.5, 0.1), ("radius", 0.55, 0.9)])
    assert set(read_boxes(tmp_path)[1377].points) == {"DP3", "radius"}


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([("Elbow", 0.5, 0.5)], "film 1377: the label 'Elbow' is not known"),
        (
            [("radius", 1.5, 0.5)],
            r"film 1377: a box 'radius' at x 590 to 610, y 285 to 315 of 400 x 600 pixels lies outside the film: "
            r"it reaches 210 pixels \(52\.5% of the side\) over the right edge \(1377\.xml\)",
        ),
        ([("radius", 0.5, 1.03)], r"it reaches 33 pixels \(5\.5% of the side\) over the lower edge"),
        ([("radius", -0.03, 0.5)], r"it reaches 22 pixels \(5\.5% of the side\) over the left edge"),
        ([("radius", float("nan"), 0.5)], r"a box 'radius' at x nan to nan, .* is none: it has no area"),
        ([("radius", 0.3, 0.5), ("radius", 0.6, 0.5)], "the label 'radius' stands 2 times"),
        ([("radius", 0.3, 0.5), *hand_boxes()], "labels of both kinds"),
    ],
)
def test_wrong_boxes_are_named(tmp_path: Path, boxes: list[tuple[str, float, float]], words: str) -> None:
    write_voc(tmp_path, 1377, boxes)
    with pytest.raises(DataError, match=words):
        read_boxes(tmp_path)


@pytest.mark.parametrize("form", WRITERS)
def test_a_box_only_just_over_the_edge_is_cut_off_and_named(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a box with its middle on the film and 1.25 % of it beyond, then it ends at the edge, and that is said."""
    boxes = [(label, 0.9875 if label == "MCPFirst" else x, y) for label, x, y in hand_boxes()]
    WRITERS[form](tmp_path, 1377, boxes)
    annotation = read_boxes(tmp_path)[1377]
    assert annotation.points["MC1"] == pytest.approx((0.98125, 0.7))
    assert annotation.sizes["MC1"] == pytest.approx((0.0375, 0.05))
    file = {"voc": "1377.xml", "yolo": "1377.txt", "coco": "boxes.json"}[form]
    said = (
        "film 1377: the box 'MCPFirst' at x 385 to 405, y 405 to 435 of 400 x 600 pixels reaches 5 pixels (1.2% of the "
        f"side) over the right edge, where it is cut off ({file})"
    )
    assert said in caplog.text


def test_what_is_only_rounded_over_the_edge_is_cut_off_unnamed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_voc(tmp_path, 1377, [("radius", 0.977, 0.5)])
    assert read_boxes(tmp_path)[1377].sizes["radius"] == pytest.approx((0.048, 0.05))
    assert caplog.text == ""


def test_a_log_names_twenty_boxes_and_counts_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for film in range(23):
        write_voc(tmp_path, film, [("radius", 0.98, 0.5)])
    assert len(read_boxes(tmp_path)) == 23
    assert caplog.text.count("where it is cut off") == 20
    assert "And 3 more; boneage-node data check lists them all." in caplog.text


def test_a_box_that_is_cut_off_is_no_problem(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "annotations").mkdir()
    write_voc(site / "annotations", "film2", [("radius", 0.5, 0.01)])
    write_csv(
        site / "readings.csv",
        ["file", "sex", "bone_age_months", "part", "patient"],
        [[f"film{n}.dcm", "M", 100, part, part] for n, part in ((1, "validation"), (2, "train"))],
    )
    assert main(["data", "check", str(site)]) == 0
    said = capsys.readouterr().out
    assert "? Line 3: the box 'radius' at x 190 to 210, y -9 to 21 of 400 x 600 pixels reaches 9 pixels (1.5%" in said
    assert "annotations: 1 films" in said


VOC_SIZE, COCO_SIZE = "<width>400</width>", '"width": 400'


@pytest.mark.parametrize(
    ("form", "file", "changes", "words"),
    [
        ("voc", "1377.xml", (VOC_SIZE, "<width>0</width>"), "the size that it gives of its image must be above 0"),
        ("coco", "boxes.json", (COCO_SIZE, '"width": 0'), "the size that it gives of its image must be above 0"),
        ("coco", "boxes.json", ('"image_id": 7', '"image_id": 8'), r"cannot be read \(KeyError\)"),
        ("yolo", "1377.txt", ("0 0.55", "-1 0.55"), "its class -1 is none of the 7"),
        ("yolo", "1377.txt", ("0 0.55", "9 0.55"), "its class 9 is none of the 7"),
        ("yolo", "1377.txt", ("0 0.55", "0 0.1 0.1 0.3 0.1 0.3 0.3"), "polygons are not read"),
        ("voc", "1377.xml", (">1377.png<", ">1378.png<"), "no other than that of the image"),
    ],
)
def test_oddities_are_named(tmp_path: Path, form: str, file: str, changes: tuple[str, str], words: str) -> None:
    WRITERS[form](tmp_path, 1377, hand_boxes())
    text = (tmp_path / file).read_text()
    assert changes[0] in text
    (tmp_path / file).write_text(text.replace(*changes, 1))
    with pytest.raises(DataError, match=words):
        read_boxes(tmp_path)


def test_a_film_annotated_twice_is_named(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_voc(tmp_path / folder, 1377, [("radius", 0.5, 0.5)])
    with pytest.raises(DataError, match=r"film 1377 has boxes in a/1377\.xml and in b/1377\.xml"):
        read_boxes(tmp_path)


def test_two_coco_images_of_one_film_are_named(tmp_path: Path) -> None:
    write_coco(tmp_path, 1377, hand_boxes())
    table = json.loads((tmp_path / "boxes.json").read_text())
    table["images"].append({"id": 8, "file_name": "b/1377.png", "width": 400, "height": 600})
    table["annotations"] += [box | {"image_id": 8} for box in table["annotations"]]
    (tmp_path / "boxes.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="film 1377 has boxes in"):
        read_boxes(tmp_path)


def test_images_without_a_box_are_not_annotated(tmp_path: Path) -> None:
    write_coco(tmp_path, 1377, hand_boxes())
    table = json.loads((tmp_path / "boxes.json").read_text())
    table["images"].append({"id": 8, "file_name": "1378.png", "width": 400, "height": 600})
    (tmp_path / "boxes.json").write_text(json.dumps(table))
    (tmp_path / "1379.txt").write_text("\n")
    assert set(read_boxes(tmp_path)) == {1377}


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path, form: str) -> None:
    WRITERS[form](tmp_path, 1377, hand_boxes())
    for path in (*tmp_path.glob("*.json"), *tmp_path.glob("*.txt")):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert set(read_boxes(tmp_path)[1377].points) == set(BOX_NAMES)


@pytest.mark.parametrize("form", WRITERS)
def test_a_sites_boxes_have_the_name_of_its_film(site: Path, form: str) -> None:
    """Given boxes named as the third film is, then they are the film's of line 4, whatever the tool's image was."""
    (site / "annotations").mkdir()
    WRITERS[form](site / "annotations", "film2", hand_boxes())
    assert set(read_annotations(site)) == {4}
    assert set(read_annotations(site)[4].points) == set(BOX_NAMES)


def test_yolo_takes_the_shape_of_the_film_itself(site: Path) -> None:
    write_yolo(site, "film2", hand_boxes())
    (site / "film2.png").unlink()  # film2.dcm lies there
    (site / "labels").mkdir()
    (site / "film2.txt").rename(site / "labels" / "film2.txt")
    (site / "classes.txt").rename(site / "labels" / "classes.txt")
    assert read_boxes(site / "labels", open_source(site))[4].aspect == pytest.approx(40 / 60)
    make_object(site / "labels" / "film2.dcm", 0)
    assert read_boxes(site / "labels", open_source(site))[4].aspect == pytest.approx(40 / 60)


def test_yolo_folders_of_labels_and_images_are_read(tmp_path: Path) -> None:
    for folder in ("labels/train", "images/train"):
        (tmp_path / folder).mkdir(parents=True)
    write_yolo(tmp_path / "labels" / "train", 1377, hand_boxes())
    (tmp_path / "labels" / "train" / "1377.png").rename(tmp_path / "images" / "train" / "1377.png")
    (tmp_path / "labels" / "train" / "classes.txt").rename(tmp_path / "classes.txt")
    assert read_boxes(tmp_path)[1377].aspect == pytest.approx(400 / 600)


def write_ultralytics(folder: Path, data: str) -> None:
    """Write a data set as Ultralytics has it, its ``data.yaml`` given: one hand, in ``labels/train``."""
    for part in ("labels/train", "images/train"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_yolo(folder / "labels" / "train", 1377, hand_boxes())
    (folder / "labels" / "train" / "1377.png").rename(folder / "images" / "train" / "1377.png")
    (folder / "labels" / "train" / "classes.txt").unlink()
    (folder / "data.yaml").write_text(data)


NAMES_AS_LIST = f"names: [{', '.join(LABELS)}]\n"
NAMES_AS_TABLE = "names:\n" + "".join(f"  {place}: {name}\n" for place, name in enumerate(LABELS))


@pytest.mark.parametrize("names", [NAMES_AS_LIST, NAMES_AS_TABLE, "\ufeff" + NAMES_AS_TABLE + "nc: 7\n"])
def test_classes_are_named_by_ultralytics_own_file(tmp_path: Path, names: str) -> None:
    """Given names in either form, and parts of which one is a list of images, then the boxes are all there."""
    write_yolo(tmp_path, 1377, hand_boxes())
    expected = read_boxes(tmp_path)[1377].array()
    other = tmp_path / "dataset"
    write_ultralytics(other, names + "path: ../elsewhere\ntrain: [images/train, train.txt]\nval: images/val\ntest:\n")
    (other / "train.txt").write_text("./images/train/1377.png\n")
    np.testing.assert_array_equal(read_boxes(other)[1377].array(), expected)


def test_the_order_of_ultralytics_table_is_that_of_its_indices(tmp_path: Path) -> None:
    write_ultralytics(tmp_path, NAMES_AS_TABLE)
    expected = read_boxes(tmp_path)[1377].array()
    turned = "names:\n" + "".join(f'  "{place}": {name}\n' for place, name in reversed(list(enumerate(LABELS))))
    (tmp_path / "data.yaml").write_text(turned)
    np.testing.assert_array_equal(read_boxes(tmp_path)[1377].array(), expected)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("names: [radius", r"its data\.yaml cannot be read \(ParserError\)"),
        ("names: !!python/object/apply:os.getcwd []", r"cannot be read \(ConstructorError\)"),
        ("- radius\n", "has no names of classes"),
        ("train: images\n", "has no names of classes"),
        ("names: radius\n", "neither a list nor a table"),
        ("names: []\n", "neither a list nor a table"),
        ("names: {1: radius, 2: ulna}\n", "the 2 names in its data.yaml need the indices 0 to 1"),
        ("names: {a: radius}\n", "need the indices 0 to 0"),
        ("names: {0: radius, 0: ulna}\n", "has '0' twice"),
        ("names: [radius]\nnames: [ulna]\n", "has 'names' twice"),
        ("names: [radius, off]\n", "the name of class 1 in its data.yaml is no text"),
        (NAMES_AS_LIST + "nc: 8\n", "has 7 names of classes, and says nc: 8"),
        ("names: [Radius]\n", "its class 1 is none of the 1 that have a name"),
    ],
)
def test_a_malformed_file_of_ultralytics_is_named(tmp_path: Path, data: str, words: str) -> None:
    write_ultralytics(tmp_path, data)
    with pytest.raises(DataError, match=rf"labels/train/1377\.txt: .*{words}"):
        read_boxes(tmp_path)


def test_a_file_of_ultralytics_that_is_no_text_is_named(tmp_path: Path) -> None:
    write_ultralytics(tmp_path, "")
    (tmp_path / "data.yaml").write_bytes(b"names: [\xff]")
    with pytest.raises(DataError, match=r"cannot be read \(UnicodeDecodeError\)"):
        read_boxes(tmp_path)


def test_classes_named_twice_must_be_the_same(tmp_path: Path) -> None:
    write_ultralytics(tmp_path, NAMES_AS_LIST)
    (tmp_path / "classes.txt").write_text("\n".join(LABELS) + "\n\n")
    assert set(read_boxes(tmp_path)) == {1377}
    (tmp_path / "classes.txt").write_text("\n".join(reversed(LABELS)))
    with pytest.raises(DataError, match=r"classes\.txt and data\.yaml name different classes"):
        read_boxes(tmp_path)
    (tmp_path / "classes.txt").rename(tmp_path / "labels" / "train" / "classes.txt")
    with pytest.raises(DataError, match="fingers cannot be told apart"):
        read_boxes(tmp_path)


def test_without_names_of_classes_both_files_are_asked_for(tmp_path: Path) -> None:
    write_ultralytics(tmp_path, "")
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"there is no classes\.txt or data\.yaml beside it"):
        read_boxes(tmp_path)


def export_cvat_voc(folder: Path) -> None:
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    write_voc(folder / "Annotations", "film2", hand_boxes())
    (folder / "ImageSets" / "Main" / "default.txt").write_text("film2\n")
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nRadius:128,0,0::\n")


def export_cvat_yolo(folder: Path) -> None:
    (folder / "obj_train_data").mkdir()
    write_yolo(folder / "obj_train_data", "film2", hand_boxes())
    (folder / "obj_train_data" / "classes.txt").rename(folder / "obj.names")
    (folder / "obj.data").write_text("classes = 7\nnames = data/obj.names\ntrain = data/train.txt\nbackup = backup/\n")
    (folder / "train.txt").write_text("data/obj_train_data/film2.png\n")


def export_cvat_ultralytics(folder: Path) -> None:
    write_ultralytics(folder, NAMES_AS_TABLE + "path: ./\ntrain: train.txt\n")
    for path in (*folder.glob("*/train/1377.*"),):
        path.rename(path.with_stem("film2"))
    (folder / "train.txt").write_text("images/train/film2.png\n")


def export_label_studio_yolo(folder: Path) -> None:
    for part in ("labels", "images"):
        (folder / part).mkdir()
    write_yolo(folder / "labels", "0a1b2c3d-film2", hand_boxes())
    (folder / "labels" / "0a1b2c3d-film2.png").rename(folder / "images" / "0a1b2c3d-film2.png")
    (folder / "labels" / "classes.txt").rename(folder / "classes.txt")
    (folder / "notes.json").write_text(json.dumps({"categories": [{"id": 0, "name": "Radius"}], "info": {}}))


def export_label_studio_coco(folder: Path) -> None:
    write_coco(folder, "0a1b2c3d-film2", hand_boxes())
    (folder / "boxes.json").write_text((folder / "boxes.json").read_text().replace("0a1b", "images/0a1b"))


@pytest.mark.parametrize(
    "export",
    [export_cvat_voc, export_cvat_yolo, export_cvat_ultralytics, export_label_studio_yolo, export_label_studio_coco],
)
def test_what_tools_export_is_read_as_it_unpacks(site: Path, export: Callable[[Path], None]) -> None:
    (site / "annotations").mkdir()
    export(site / "annotations")
    annotation = read_annotations(site)[4]
    assert set(annotation.points) == set(BOX_NAMES)
    assert annotation.aspect == pytest.approx(400 / 600)


def test_a_film_that_is_called_like_an_upload_is_that_film(tmp_path: Path) -> None:
    for name in ("0a1b2c3d-film", "film"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture(len(name)))
    rows = [["0a1b2c3d-film.png", "F", 8], ["film.png", "F", 8]]
    write_csv(tmp_path / "readings.csv", ["file", "sex", "bone_age_years"], rows)
    (tmp_path / "annotations").mkdir()
    write_voc(tmp_path / "annotations", "0a1b2c3d-film", hand_boxes())
    assert set(read_annotations(tmp_path)) == {2}


@pytest.mark.parametrize(
    ("degrees", "turned"), [(0.0, False), (180.0, False), (359.8, False), (12.5, True), (90, True)]
)
def test_a_box_that_cvat_turned_is_no_upright_one(tmp_path: Path, degrees: float, turned: bool) -> None:
    """Given a box with its rotation, whose numbers are those of the upright one, then it is not taken for that."""
    for form in ("coco", "voc"):
        (tmp_path / form).mkdir()
        WRITERS[form](tmp_path / form, 1377, hand_boxes())
    table = json.loads((tmp_path / "coco" / "boxes.json").read_text())
    table["annotations"][0]["attributes"] = {"occluded": False, "rotation": degrees}
    (tmp_path / "coco" / "boxes.json").write_text(json.dumps(table))
    said = f"<attributes><attribute><name>rotation</name><value>{degrees}</value></attribute></attributes></object>"
    voc = tmp_path / "voc" / "1377.xml"
    voc.write_text(voc.read_text().replace("</object>", said, 1))
    for form in ("coco", "voc"):
        problems = check_boxes(tmp_path / form).problems
        assert ([f"is turned by {degrees:g} degrees: draw it upright" in problem for problem in problems]) == [
            True
        ] * turned


def test_a_json_that_is_no_coco_says_so(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps([{"id": 1, "annotations": []}]))
    with pytest.raises(DataError, match=r"export\.json: it is no COCO file"):
        read_boxes(tmp_path)


def test_uids_as_file_names_are_whole_names(tmp_path: Path) -> None:
    for film in ("1.2.840.1", "1.2.840.2"):
        make_object(tmp_path / film, int(film[-1]))
    write_csv(
        tmp_path / "readings.csv", ["file", "sex", "bone_age_months"], [["1.2.840.1", "M", 9], ["1.2.840.2", "F", 9]]
    )
    (tmp_path / "annotations").mkdir()
    write_voc(tmp_path / "annotations", "1.2.840.2", [("radius", 0.5, 0.5)])
    assert set(read_annotations(tmp_path)) == {3}


def test_folders_in_an_annotations_image_name_do_not_matter(site: Path) -> None:
    (site / "annotations").mkdir()
    write_voc(site / "annotations", "C:\\films\\film2", [("radius", 0.5, 0.5)])
    assert set(read_annotations(site)) == {4}


def test_an_annotation_of_no_film_and_one_of_several_are_named(site: Path) -> None:
    (site / "annotations").mkdir()
    write_voc(site / "annotations", "other", [("radius", 0.5, 0.5)])
    with pytest.raises(DataError, match=r"other\.xml: no film in the table has its name"):
        read_annotations(site)
    (site / "again").mkdir()
    make_object(site / "again" / "other.dcm", 40, "P9")
    make_object(site / "other.dcm", 41, "P9")
    with (site / "readings.csv").open("a") as file:
        file.write("other.dcm,M,8\nagain/other.dcm,M,8\n")
    with pytest.raises(DataError, match=r"other\.xml: it may belong to any of Line 8, Line 9"):
        read_annotations(site)


def test_boxes_of_an_official_folder_have_the_films_id(official: Path) -> None:
    (official / "annotations").mkdir()
    write_yolo(official / "annotations", "0900001", hand_boxes())
    assert set(read_annotations(official)) == {900001}
    assert open_source(official).problems == []


@pytest.mark.parametrize("load", [DetectorFilms.load, DetectorFilms.load_boxed, annotated_films])
def test_a_detector_is_not_trained_without_boxes(site: Path, load: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=r"No film .* annotations/.* Pascal VOC"):
        load(site)


def test_a_sites_detector_learns_from_its_boxes(site: Path) -> None:
    header = ["file", "sex", "bone_age_months", "part"]
    write_csv(site / "readings.csv", header, [[f"film{seed}.dcm", "M", 100, "train"] for seed in range(6)])
    (site / "annotations").mkdir()
    write_voc(site / "annotations", "film2", hand_boxes())
    films = DetectorFilms.load_boxed(site)
    assert len(films.annotated) == 3  # a sharp film counts thrice
    assert films.annotated[0].points[BOX_NAMES.index("radius")] == pytest.approx((0.55 * 40, 0.9 * 60))


def test_broken_files_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "1.xml").write_text("<annotation>")
    (tmp_path / "2.json").write_text("{}")
    (tmp_path / "3.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(DataError) as caught:
        read_boxes(tmp_path)
    assert all(name in str(caught.value) for name in ("1.xml", "2.json", "3.txt"))


def test_the_classes_are_the_seven_of_the_rus_boxes() -> None:
    assert RUS_CLASSES == LABELS


# The command.


def test_the_command_counts(official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(official)]) == 0
    said = capsys.readouterr().out
    assert "RSNA's official layout: 6 films" in said
    assert "no problems" in said


def test_the_oldest_that_a_table_may_have_are_counted_among_the_oldest(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(site / "readings.csv", ["file", "sex", "bone_age_years"], [["film0.dcm", "F", 20], ["film2.dcm", "F", 4]])
    main(["data", "check", str(site)])
    assert re.findall(r"(\d+ to +\d+) years +(\d+)", capsys.readouterr().out) == [("4 to  8", "1"), ("16 to 20", "1")]


def test_the_command_lists_every_problem(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "film3.dcm").write_bytes(b"nothing")
    (site / "boxes").mkdir()
    write_voc(site / "boxes", "film3", [("Elbow", 0.5, 0.5)])
    write_voc(site / "boxes", "film4", [("radius", 0.5, 0.5)])
    assert main(["data", "check", str(site), "--annotations", str(site / "boxes")]) == 1
    said = capsys.readouterr().out
    assert "! Line 5: The file is no DICOM object." in said
    assert "! Line 5: the label 'Elbow' is not known" in said
    assert "annotations: 1 films, 0 with the 6 points of a pose" in said
    assert "\n2 problems" in said


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_annotations_that_are_not_there_are_a_problem(
    site: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "empty").mkdir()
    assert main(["data", "check", str(site), "--annotations", str(site / folder)]) == 1
    assert "does not exist" in (said := capsys.readouterr().out) or "holds no boxes" in said


def test_the_folders_own_annotations_are_checked_unasked(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "annotations").mkdir()
    write_voc(site / "annotations", 2, [("radius", 0.5, 0.5)])
    assert main(["data", "check", str(site)]) == 1
    assert "! 2.xml: no film in the table" in capsys.readouterr().out
