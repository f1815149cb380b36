"""The spool: files that are durable before anybody is told so, under names of our own.

Not covered: that fsync reaches the platters. Only that it is asked for, in the right order, is seen here.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import FileDataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
)

from conformance.films import encode, make_film, write
from dicom_node import spool as spool_module
from dicom_node.errors import SourceCutOff, SpoolFailed, SpoolFileMissing, SpoolFull
from dicom_node.header import read_header
from dicom_node.sources import read_source
from dicom_node.spool import Spool, SpoolFile, file_meta
from dicom_node.store import Instance

INSTANCE_UID = "2.25.4711"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.open()
    return spool


def begin(spool: Spool, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> SpoolFile:
    return spool.create(DigitalXRayImageStorageForPresentation, INSTANCE_UID, transfer_syntax_uid)


def put(spool: Spool, data: bytes) -> Path:
    file = begin(spool)
    file.write([memoryview(data)])
    return file.commit()


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_file_is_part_10_and_holds_the_data_set_byte_for_byte(spool: Spool) -> None:
    film = make_film()
    data = data_set_of(film)
    path = put(spool, data)
    written = path.read_bytes()
    assert written.endswith(data)
    assert dcmread(path) == dcmread(BytesIO(write(film)))
    assert not files_in(spool.folder / "incoming")


def data_set_of(film: FileDataset) -> bytes:
    whole = write(film)
    length = int.from_bytes(whole[140:144], "little")
    return whole[144 + length :]


def test_file_meta_is_complete_and_tells_nothing_of_the_sender() -> None:
    meta = file_meta(DigitalXRayImageStorageForPresentation, INSTANCE_UID, JPEG2000Lossless)
    read = dcmread(BytesIO(meta)).file_meta
    assert read.FileMetaInformationVersion == b"\0\1"
    assert read.MediaStorageSOPClassUID == DigitalXRayImageStorageForPresentation
    assert read.MediaStorageSOPInstanceUID == INSTANCE_UID
    assert read.TransferSyntaxUID == JPEG2000Lossless
    assert read.ImplementationVersionName == "BONEAGE_NODE"
    assert read.FileMetaInformationGroupLength == len(meta) - 144
    assert "SourceApplicationEntityTitle" not in read


def test_names_are_random(spool: Spool) -> None:
    paths = {put(spool, b"x") for _ in range(8)}
    assert len(paths) == 8
    for path in paths:
        assert re.fullmatch(r"[0-9a-f]{2}/[0-9a-f]{32}\.dcm", path.relative_to(spool.folder).as_posix())
        assert INSTANCE_UID not in path.name


def test_commit_syncs_the_file_then_renames_then_syncs_the_folder(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watch_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("fsync folder" if is_folder else "fsync file")
        fsync(descriptor)

    def watch_rename(path: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(Path, "rename", watch_rename)
    put(spool, b"x")
    assert calls == ["fsync file", "rename", "fsync folder"]


def test_data_set_is_seen_without_the_file_meta_before_it_is_committed(spool: Spool) -> None:
    file = begin(spool)
    with file.data_set() as data:
        assert bytes(data) == b""
    file.write([memoryview(b"abc"), memoryview(b"def")])
    file.write([memoryview(b"g")])
    with file.data_set() as data:
        assert bytes(data) == b"abcdefg"
    assert file.size_bytes == 7
    file.discard()


def test_discard_leaves_nothing(spool: Spool) -> None:
    file = begin(spool)
    file.write([memoryview(b"abc")])
    file.discard()
    file.discard()
    assert files_in(spool.folder) == []


def test_many_pieces_and_short_writes(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [bytes([number % 256]) * (number % 7) for number in range(3000)]
    writev = os.writev

    def write_a_little(descriptor: int, buffers: list[memoryview]) -> int:
        return writev(descriptor, [memoryview(b"".join(buffers))[:5]])

    monkeypatch.setattr(spool_module.os, "writev", write_a_little)
    file = begin(spool)
    file.write([memoryview(piece) for piece in pieces])
    with file.data_set() as data:
        assert bytes(data) == b"".join(pieces)
    file.discard()


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, SpoolFull), (errno.EDQUOT, SpoolFull), (errno.EIO, SpoolFailed), (errno.EROFS, SpoolFailed)],
)
@pytest.mark.parametrize("call", ["writev", "fsync", "open"])
def test_what_the_disk_says_becomes_our_error(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number), "/patient/name")

    monkeypatch.setattr(spool_module.os, call, fail)
    with pytest.raises(error, match=re.escape(os.strerror(number))) as caught:
        put(spool, b"x")
    assert "patient" not in str(caught.value)


def test_a_commit_that_fails_after_the_rename_is_discarded_whole(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    file = begin(spool)
    file.write([memoryview(b"x")])
    monkeypatch.setattr(spool_module, "sync_folder", fail)
    with pytest.raises(SpoolFailed):
        file.commit()
    file.discard()
    assert files_in(spool.folder) == []


def test_open_removes_what_a_crash_left_and_nothing_else(spool: Spool) -> None:
    kept = put(spool, b"x")
    begin(spool).write([memoryview(b"half")])
    assert Spool(spool.folder).open() == 1
    assert files_in(spool.folder) == [kept]


def test_sweep_removes_committed_files_without_a_row(spool: Spool) -> None:
    known, unknown = put(spool, b"x"), put(spool, b"y")
    assert spool.sweep({known.relative_to(spool.folder)}) == 1
    assert known.exists()
    assert not unknown.exists()


def test_sweep_leaves_files_whose_row_may_still_come(spool: Spool) -> None:
    old, young = put(spool, b"x"), put(spool, b"y")
    os.utime(old, (0.0, time.time() - 61.0))
    assert spool.sweep(set(), min_age_s=60.0) == 1
    assert (old.exists(), young.exists()) == (False, True)


def test_remove_takes_a_missing_file_for_removed(spool: Spool) -> None:
    path = put(spool, b"x")
    spool.remove(path)
    spool.remove(path)
    assert files_in(spool.folder) == []


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"a file in its place")
    with pytest.raises(SpoolFailed):
        Spool(tmp_path / "spool").open()


def test_without_sync_file_range_files_are_the_same(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_sync_file_range", None)
    assert put(spool, b"abc").read_bytes().endswith(b"abc")


def test_the_system_takes_the_writeback_hint(spool: Spool) -> None:
    hint: Callable[[int, int, int, int], int] | None = spool_module._sync_file_range
    if hint is not None:
        path = put(spool, b"abc")
        with path.open("rb") as file:
            assert hint(file.fileno(), 0, 3, 2) == 0


def test_a_deflated_object_that_came_cut_off_says_so_when_it_is_read(tmp_path: Path) -> None:
    """Given what passed the check of its beginning, then reading it names the object and what to do."""
    part = encode(make_film(), DeflatedExplicitVRLittleEndian)[:-100]
    (tmp_path / "ab").write_bytes(part)
    read_header(part[144 + int.from_bytes(part[140:144], "little") :], DeflatedExplicitVRLittleEndian)
    with pytest.raises(SourceCutOff, match=r"1\.2\.3 is cut off or damaged\. Send the object again"):
        read_source(tmp_path, Instance(path="ab", sop_instance_uid="1.2.3"))


def test_a_file_that_is_gone_or_no_object_any_more_is_missing(tmp_path: Path) -> None:
    (tmp_path / "ab").write_bytes(b"torn")
    for path in ("ab", "none"):
        with pytest.raises(SpoolFileMissing, match=r"1\.2\.3"):
            read_source(tmp_path, Instance(path=path, sop_instance_uid="1.2.3"))
