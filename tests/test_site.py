"""The acceptance test's own films: what of them is refused, and which options and files it does not take.

Not covered: the figures themselves (test_evaluate.py), the same table as training reads it (test_sources.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
import weakref
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import dcmread

from inference.film import Film, bytes_to_read, read_film, with_square_pixels
from inference.finding import Box, Estimate, Finding, Laterality, ModelIdentity, Refusal, RefusalCode, Subject
from training import evaluate
from training.errors import DataError
from training.evaluation import site
from training.evaluation.acceptance import read_thresholds
from training.evaluation.figures import KEYS, assemble, clean
from training.evaluation.output import check_outputs, write_output
from training.evaluation.reading import Row
from training.evaluation.site import SiteCase, read_site, read_table
from training.radiographs import load_half
from training.sources.source import LONG_SIDE, shrunk

MODEL = ModelIdentity("house", "House", "0.1.0", "ab" * 32)


class FakeEngine:
    """Reads the age off the film's grey."""

    identity = MODEL

    def __init__(self) -> None:
        self.read = 0

    def interpret_film(self, film: Film, subject: Subject) -> Finding:
        self.read += 1
        age = float(film.pixels.mean()) * 255
        box = Box(0, 0, 9, 9)
        return Estimate(age, age - 10, age + 10, 0.9, subject, Laterality.LEFT, box, (), 1, 1.0, (), MODEL)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (60, 40)).astype(np.uint8)


def read_all(folder: Path, lines: list[str], engine: FakeEngine | None = None) -> list[SiteCase]:
    table = folder / "r.csv"
    table.write_text("file,sex,bone_age_months\n" + "\n".join(lines) + "\n")
    return list(read_site(engine or FakeEngine(), read_table(folder, table)))


def test_the_same_image_in_two_lines_is_refused(tmp_path: Path) -> None:
    """Given one image in two files and one DICOM object under two names, then both are named; no more is read."""
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    cv2.imwrite(str(tmp_path / "b.png"), picture(1), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    cv2.imwrite(str(tmp_path / "c.png"), picture(2))
    sample = resources.files("dicom_node").joinpath("samples", "boy-12.dcm").read_bytes()
    for name in ("d.dcm", "e.dcm"):
        (tmp_path / name).write_bytes(sample)
    engine = FakeEngine()
    with pytest.raises(DataError) as caught:
        read_all(tmp_path, ["a.png,M,100", "b.png,F,90", "c.png,M,80", "d.dcm,M,144", "e.dcm,M,144"], engine)
    assert str(caught.value) == (
        "Line 3 is the same image as line 2: keep one of them. Line 6 is the same image as line 5: keep one of them."
    )
    assert engine.read == 1


def test_a_film_is_decoded_once_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given images and objects, then each file is opened and shown once, and no more than two lie in memory."""
    sample = resources.files("dicom_node").joinpath("samples", "boy-12.dcm").read_bytes()
    (tmp_path / "c.dcm").write_bytes(sample)
    (tmp_path / "d.dcm").write_bytes(sample[: len(sample) // 2])
    for name in ("a", "b", "e"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture(ord(name)))
    opened: list[str] = []
    decoded: list[weakref.ref[np.ndarray]] = []
    for reader in ("read_image", "read_object"):
        read = getattr(site, reader)
        monkeypatch.setattr(site, reader, lambda path, read=read: opened.append(path.name) or read(path))

    def show(film: Film) -> np.ndarray:
        decoded.append(weakref.ref(film.pixels))
        assert sum(pixels() is not None for pixels in decoded) <= 2
        return bytes_to_read(film)

    monkeypatch.setattr(site, "bytes_to_read", show)
    names = ["a.png", "b.png", "c.dcm", "d.dcm", "e.png"]
    cases = read_all(tmp_path, [f"{name},M,100" for name in names])
    assert opened == names
    assert len(decoded) == 4  # all but the one that is cut off
    assert {case.case.film.pixels.size for case in cases} == {1}


def test_a_film_that_is_cut_off_is_refused_as_unreadable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sample = resources.files("dicom_node").joinpath("samples", "boy-12.dcm").read_bytes()
    (tmp_path / "Jane Doe.dcm").write_bytes(sample[: len(sample) * 3 // 4])
    (case,) = read_all(tmp_path, ["Jane Doe.dcm,M,144"])
    assert isinstance(case.case.finding, Refusal)
    assert case.case.finding.code is RefusalCode.UNREADABLE_PIXELS
    assert "cut off" in case.case.finding.sentence
    assert "Line 2 does not open and counts as refused: " in caplog.text
    assert case.case.finding.sentence in caplog.text
    assert "Jane" not in caplog.text
    assert case.case.row.milliseconds is None, "no film is read in no time"


@pytest.mark.parametrize(("factor", "tolerance"), [(16, 0.6), (257, 1e-3)])
def test_a_png_of_12_or_16_bits_is_read_as_one_of_8(tmp_path: Path, factor: int, tolerance: float) -> None:
    eight = picture(4)
    eight[0, 0] = 255
    cv2.imwrite(str(tmp_path / "a.png"), eight)
    cv2.imwrite(str(tmp_path / "b.png"), eight.astype(np.uint16) * factor)
    first, second = (read_all(tmp_path, [f"{name}.png,M,100"])[0].case.row.estimate_months for name in "ab")
    assert second == pytest.approx(first, abs=tolerance)


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture(ord(name)))
    assert [case.case.row.rsna_id for case in read_all(tmp_path, ["", "a.png,M,100", "", "b.png,M,100"])] == [3, 5]
    with pytest.raises(DataError, match="Line 4: the sex"):
        read_all(tmp_path, ["a.png,M,100", "", "b.png,X,100"])


def test_the_acceptance_test_takes_a_spreadsheets_table(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    (tmp_path / "r.csv").write_text("file;sex;bone_age_months\n.\\a.png ;Girl;100,5\n")
    (film,) = read_table(tmp_path, tmp_path / "r.csv")
    assert (film.reading.sex.value, film.reading.age_months) == ("F", 100.5)


@pytest.mark.parametrize(("stored", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_an_umlaut_of_another_system_names_the_same_file(tmp_path: Path, stored: str, written: str) -> None:
    cv2.imwrite(
        str(tmp_path / unicodedata.normalize(stored, "M\N{LATIN SMALL LETTER A WITH DIAERESIS}.png")), picture(1)
    )
    name = unicodedata.normalize(written, "M\N{LATIN SMALL LETTER A WITH DIAERESIS}.png")
    (tmp_path / "r.csv").write_text(f"file,sex,bone_age_months\n{name},F,100\n", "utf-8")
    assert len(read_table(tmp_path, tmp_path / "r.csv")) == 1


def test_a_cell_that_is_no_path_at_all_names_no_file(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(f"file,sex,bone_age_months\n{'words ' * 100},F,100\n")
    with pytest.raises(DataError, match="Line 2: the folder has no such file"):
        read_table(tmp_path, tmp_path / "r.csv")


def test_a_picture_of_a_sites_film_is_called_by_its_line(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    (tmp_path / "r.csv").write_text("file,sex,bone_age_months\na.png,F,100\n")
    (film,) = read_table(tmp_path, tmp_path / "r.csv")
    caption, _ = evaluate.picture(site.read_site_film(FakeEngine(), film).case)
    assert caption.startswith("Line 2: reference 100 months, ")


def test_a_shuttered_film_is_shown_and_changed_as_networks_are_shown_it(tmp_path: Path) -> None:
    """Given a film whose shutter hides its left part behind white, then that part is dark, as the engine takes it."""
    with resources.as_file(resources.files("dicom_node").joinpath("samples", "boy-12.dcm")) as sample:
        ds = dcmread(sample)
    ds.ShutterShape, ds.ShutterPresentationValue = "RECTANGULAR", 0xFFFF
    ds.ShutterLeftVerticalEdge, ds.ShutterRightVerticalEdge = 51, ds.Columns
    ds.ShutterUpperHorizontalEdge, ds.ShutterLowerHorizontalEdge = 1, ds.Rows
    ds.save_as(tmp_path / "a.dcm")
    (tmp_path / "r.csv").write_text("file,sex,bone_age_months\na.dcm,M,144\n")
    (film,) = read_table(tmp_path, tmp_path / "r.csv")
    for pixels in (site.read_site_film(FakeEngine(), film).case.film.pixels, site.film_to_change(film).pixels):
        assert not pixels[:, :50].any()
        assert pixels[:, 50:].any()


def test_a_film_whose_pixels_are_not_square_is_trained_on_and_changed_as_it_is_read(tmp_path: Path) -> None:
    """Given pixels twice as high as wide, then training and stress get the film that the engine makes of it."""
    with resources.as_file(resources.files("dicom_node").joinpath("samples", "boy-12.dcm")) as sample:
        ds = dcmread(sample)
    ds.ImagerPixelSpacing = ["0.4", "0.2"]
    ds.save_as(tmp_path / "a.dcm")
    (tmp_path / "readings.csv").write_text("file,sex,bone_age_months,part\na.dcm,M,144,test\n")
    film = read_film(dcmread(tmp_path / "a.dcm"))
    square, _ = with_square_pixels(bytes_to_read(film), film.pixel_aspect)
    assert square.shape[0] > 1.9 * square.shape[1] * film.pixels.shape[0] / film.pixels.shape[1]
    (listed,) = read_table(tmp_path, tmp_path / "readings.csv")
    assert np.array_equal(site.film_to_change(listed).pixels, square)
    (trained_on,) = load_half(tmp_path, ["test"])
    assert trained_on.pixels.shape == shrunk(square, LONG_SIDE).shape
    assert np.array_equal(trained_on.pixels, shrunk(square, LONG_SIDE))


# Options and kept figures.


def test_nothing_is_written_over_what_is_read_or_written_there_too(tmp_path: Path) -> None:
    readings, other = tmp_path / "readings.csv", tmp_path / "other.json"
    readings.write_text("file,sex,bone_age_months\n")
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match=r"readings\.csv would be written over what is read"):
        check_outputs(tmp_path / "sub" / ".." / "readings.csv", inputs=[readings])
    with pytest.raises(DataError, match=r"other\.json would be written over"):
        check_outputs(other, None, other)
    check_outputs(readings, other, Path("/dev/null"), Path("/dev/null"), inputs=[None])


def test_a_full_disk_leaves_the_figures_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "figures.json"
    write_output(kept, lambda: "the first")

    def full(path: Path, text: str, _: str) -> None:
        path.write_bytes(text[:3].encode())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as filled:
        filled.setattr(Path, "write_text", full)
        with pytest.raises(DataError, match=r"figures\.json cannot be written: No space left on device"):
            write_output(kept, lambda: "the second")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the first"]


def test_two_commands_may_write_one_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a command that writes while another one does, then both end, and the later one's figures are whole."""
    kept, write_text = tmp_path / "figures.json", Path.write_text

    def overtaken(path: Path, text: str, encoding: str) -> None:
        write_text(path, text, encoding)
        monkeypatch.setattr(Path, "write_text", write_text)
        write_output(kept, lambda: "the earlier")

    monkeypatch.setattr(Path, "write_text", overtaken)
    write_output(kept, lambda: "the later")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the later"]


@pytest.mark.parametrize("to", ["pipe", "file"])
def test_figures_go_to_standard_output_wherever_that_leads(tmp_path: Path, to: str) -> None:
    code = (
        "from pathlib import Path; from training.evaluation.output import *; out = Path('/dev/stdout'); "
        "check_outputs(out, out); write_output(out, lambda: 'figures')"
    )
    with (tmp_path / "out").open("w") as file:
        run = subprocess.run(
            [sys.executable, "-c", code], stdout=file if to == "file" else subprocess.PIPE, text=True, check=True
        )
    assert (run.stdout if to == "pipe" else (tmp_path / "out").read_text()) == "figures"


def test_a_site_that_names_its_table_as_output_keeps_it(tmp_path: Path) -> None:
    table = tmp_path / "r.csv"
    table.write_text("file,sex,bone_age_months\n")
    assert evaluate.main(["--films", str(tmp_path), "--readings", str(table), "--json", str(table)]) == 2
    assert table.read_text() == "file,sex,bone_age_months\n"


def test_a_folder_that_may_not_be_written_to_is_said_before_films_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluation.output.os.access", lambda *_: False)
    with pytest.raises(DataError, match="may not be; name another place"):
        check_outputs(tmp_path / "figures.json")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--films", "f", "--readings", "r", "--changed"], "--changed would change nothing with --films"),
        (["--films", "f", "--readings", "r", "--part", "test"], "--part would change nothing with --films"),
        (["--from", "f.json", "--method", "house"], "--method would change nothing with --from"),
        (["--from", "f.json", "--part", "test", "--changed"], "--part, --changed would change nothing with --from"),
        (["--from", "f.json", "--recalibration", "r.json"], "--recalibration would change nothing"),
        (["--from", "f.json", "--threads", "2", "--device", "cpu"], "--device, --threads would change nothing"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.main(options)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def kept_figures() -> dict[str, Any]:
    rows = [Row(2, "M", 100.0, 103.0, 93.0, 113.0, None, 5.0), Row(3, "F", 90.0, None, None, None, "not-a-hand", 5.0)]
    cost = {"parameters": 5_000_000, "megabytes": 12.0, "threads": 2, "device": "cpu"}
    return dict(clean(assemble(MODEL, "site", rows, []) | {"cost": cost}))


def test_kept_figures_that_are_whole_are_taken(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(json.dumps(kept_figures()))
    assert evaluate.main(["--from", str(tmp_path / "f.json"), "--accept", "mae<=10"]) == 0


def test_only_the_keys_of_the_first_day_are_demanded(tmp_path: Path) -> None:
    """Given figures with no more than the demanded keys, then they print and the page is written."""
    figures = {key: value for key, value in kept_figures().items() if key in {"schema", *KEYS}}
    (tmp_path / "f.json").write_text(json.dumps(figures))
    assert evaluate.main(["--from", str(tmp_path / "f.json"), "--report", str(tmp_path / "f.html")]) == 0


@pytest.mark.parametrize("key", KEYS)
def test_kept_figures_that_lack_a_key_are_refused(tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture) -> None:
    figures = kept_figures()
    del figures[key]
    (tmp_path / "f.json").write_text(json.dumps(figures))
    assert evaluate.main(["--from", str(tmp_path / "f.json")]) == 2
    assert f"it lacks {key};" in caplog.text


@pytest.mark.parametrize("wanted", [" , ", ""])
def test_no_threshold_is_no_acceptance(tmp_path: Path, wanted: str) -> None:
    (tmp_path / "f.json").write_text(json.dumps(kept_figures()))
    assert evaluate.main(["--from", str(tmp_path / "f.json"), "--accept", wanted]) == 2


def test_a_file_without_thresholds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("")
    with pytest.raises(DataError, match="There is no threshold"):
        read_thresholds(str(tmp_path / "t.toml"))
