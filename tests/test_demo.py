"""The demo with a fake interpreter and drawn films: real associations, a real node, a real archive, one process.

Not covered: the shipped samples with the shipped model; the time it takes.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from rich.console import Console

from dicom_node import cli, demo
from dicom_node.archive import Archive
from dicom_node.demo import Outcome, Sample
from dicom_node.errors import NodeError
from inference.anatomy import ROI_NAMES
from inference.finding import (
    Box,
    Estimate,
    Finding,
    Laterality,
    ModelIdentity,
    Refusal,
    RefusalCode,
    Roi,
    Sex,
    Subject,
)

IDENTITY = ModelIdentity("global-local", "A fake", "0", "0" * 64)
SUBJECT = Subject(Sex.FEMALE, "PatientSex (0010,0040)", 100.0, "PatientBirthDate and AcquisitionDate")


class FakeInterpreter:
    """Says 99.4 months of every film but those whose SeriesDescription is "chest"."""

    identity = IDENTITY

    def interpret(self, ds: Dataset) -> Finding:
        if ds.SeriesDescription == "chest":
            return Refusal(RefusalCode.NOT_A_HAND, "No hand was found.", "Send a hand.", SUBJECT, model=IDENTITY)
        rois = tuple(Roi(name, Box(20 + 4 * i, 30, 50 + 4 * i, 70), 0.9) for i, name in enumerate(ROI_NAMES))
        return Estimate(
            age_months=99.4,
            interval_low_months=88.0,
            interval_high_months=111.0,
            interval_level=0.9,
            subject=SUBJECT,
            laterality=Laterality.LEFT,
            hand=Box(10, 10, 190, 240),
            rois=rois,
            hands_found=1,
            quality=0.9,
            flags=(),
            model=IDENTITY,
        )


def write_film(path: Path, description: str) -> None:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ComputedRadiographyImageStorage
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(ds, keyword, generate_uid())
    ds.PatientName, ds.PatientID, ds.PatientSex, ds.PatientBirthDate = "Hand^Drawn", "DRAWN", "F", "20100101"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20180501", "101500", "", ""
    ds.Modality, ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber = "CR", description, 1, 1
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 256, 200, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = np.tile(np.arange(200, dtype=np.uint8), (256, 1)).tobytes()
    ds.save_as(path, enforce_file_format=True)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    folder = tmp_path / "samples"
    folder.mkdir()
    write_film(folder / "hand-1.dcm", "hand")
    write_film(folder / "hand-2.dcm", "hand")
    write_film(folder / "not-a-hand.dcm", "chest")
    return demo.find_samples(folder)


def open_buffer() -> Console:
    return Console(file=io.StringIO(), width=200)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_whole_street_is_played_to_commitment(samples: list[Sample], tmp_path: Path) -> None:
    """Given two hands and a chest, then each has an SR and an SC in the archive, which has committed to them."""
    output, console = tmp_path / "output", open_buffer()
    outcomes = demo.play(samples, FakeInterpreter(), output, tmp_path / "data", console)
    assert [outcome.sample.name for outcome in outcomes] == ["hand-1", "hand-2", "not-a-hand"]
    for outcome in outcomes:
        assert outcome.state == "committed", outcome
        assert (outcome.documents, outcome.committed, outcome.is_committed) == (2, 2, True)
        assert outcome.seconds is not None
        assert dcmread(outcome.files["sr"]).StudyInstanceUID == outcome.sample.study_instance_uid
        assert dcmread(outcome.files["sc"]).StudyInstanceUID == outcome.sample.study_instance_uid
        with Image.open(outcome.files["png"]) as image:
            assert image.mode == "RGB"
    demo.print_outcomes(console, outcomes, output)
    text = text_of(console)
    for words in ("8 y 3 m", "7 y 4 m to 9 y 3 m", "18 of 18", "refused: not-a-hand", "hand-1/{sr.dcm,sc.dcm,sc.png}",
                  "2 of 2", "Research use only"):  # fmt: skip
        assert words in text
    assert "NOT COMMITTED" not in text


@pytest.fixture
def command(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line of a demo with the drawn films and the fake interpreter."""
    monkeypatch.setattr(demo, "_samples", lambda: contextlib.nullcontext(samples[:1]))
    monkeypatch.setattr(demo, "_load_interpreter", FakeInterpreter)
    return ["demo", "--output"]


def test_the_command_ends_with_0_and_a_table(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results"
    assert cli.main([*command, str(output)]) == 0
    printed = capsys.readouterr()
    assert "2 of 2" in printed.out
    assert printed.err == ""
    assert {path.name for path in (output / "hand-1").iterdir()} == {"sr.dcm", "sc.dcm", "sc.png"}
    assert not (output / "data").exists()
    log = (output / "node.log").read_text()
    assert "receive.stored" in log
    assert "Drawn" not in log
    assert "DRAWN" not in log


def test_what_is_kept_can_be_played_again(command: list[str], tmp_path: Path) -> None:
    """Given a demo whose data were kept, when it is played again, then the same objects are no second study."""
    output = tmp_path / "results"
    for _ in range(2):
        assert cli.main([*command, str(output), "--keep"]) == 0
    assert len(list((output / "data" / "archive").glob("*.dcm"))) == 2


def test_an_archive_that_does_not_commit_ends_it_with_1(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Archive, "_on_action", lambda *_: (0x0123, None))
    assert cli.main([*command, str(tmp_path / "results")]) == 1
    assert "NOT COMMITTED: hand-1" in capsys.readouterr().out


def test_what_was_not_committed_is_said(tmp_path: Path) -> None:
    console = open_buffer()
    sample = Sample("hand-1", tmp_path / "hand-1.dcm", "1.2.3")
    outcomes = [
        Outcome(sample, "not received"),
        Outcome(sample, "sent", documents=2, committed=1, errors=("The archive does not answer.",)),
    ]
    assert not any(outcome.is_committed for outcome in outcomes)
    demo.print_outcomes(console, outcomes, tmp_path)
    assert "NOT COMMITTED: hand-1 is not received: see node.log" in text_of(console)
    assert "NOT COMMITTED: hand-1 is sent: The archive does not answer." in text_of(console)


def test_no_samples_is_an_error_not_a_success(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="sample films are missing"):
        demo.find_samples(tmp_path)


@pytest.mark.parametrize(("months", "text"), [(99.4, "8 y 3 m"), (11.9, "1 y 0 m"), (0.2, "0 y 0 m")])
def test_ages_are_written_in_years_and_months(months: float, text: str) -> None:
    assert demo.as_years(months) == text


def test_the_node_of_the_demo_keeps_to_this_machine(tmp_path: Path) -> None:
    settings = demo.make_settings(tmp_path, 104)
    assert settings.receive.host == "127.0.0.1"
    assert settings.receive.port == 0
    assert {archive.host for archive in settings.archives} == {"127.0.0.1"}
    assert not settings.receive.accept_unknown_callers
