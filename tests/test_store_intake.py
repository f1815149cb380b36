"""Intake: received objects become rows, once, on SQLite and PostgreSQL.

Not covered: the association that brings them (test_receive*.py).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import FileDataset, dcmread
from pydicom.uid import JPEGLSLossless, RLELossless

from conformance.films import draw_pattern, encode, make_film, write
from dicom_node.assemble import assemble_ready
from dicom_node.corrections import digest
from dicom_node.errors import SpoolFileMissing, StoreError
from dicom_node.fingerprints import keep_fingerprint
from dicom_node.intake import Intake, same_data_set
from dicom_node.spool import Received, Spool
from dicom_node.store import Event, Instance, Series, Store, Study, now, open_store

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
Receive = Callable[..., Received]


@pytest.fixture
def store(store_url: str):
    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.open()
    return spool


@pytest.fixture
def receive(spool: Spool) -> Receive:
    """Put bytes into the spool, as the receiver does."""

    def receive(uid: str, data: bytes = b"data", study: str = "1.2", syntax: str = EXPLICIT, **changed) -> Received:
        file = spool.create(CR, uid, syntax)
        file.write([memoryview(data)])
        fields = {
            "sop_class_uid": CR,
            "sop_instance_uid": uid,
            "transfer_syntax_uid": syntax,
            "study_instance_uid": study,
            "series_instance_uid": f"{study}.1",
            "modality": "CR",
            "path": file.commit(),
            "size_bytes": len(data),
            "calling_ae": "SENDER",
            "association_id": "a",
            "received_at": now(),
        }
        return Received(**{**fields, **changed})

    return receive


def make_intake(store: Store, spool: Spool, *, quiet_period_s: float = 10.0) -> Intake:
    return Intake(store, spool.folder, quiet_period_s, frozenset({"WHOLE"}), "node-1")


def count(store: Store, table: type) -> int:
    with store.reading() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table))


def test_a_new_object_makes_study_series_and_instance(store: Store, spool: Spool, receive: Receive) -> None:
    received = receive("1.2.1.1")
    recorded = make_intake(store, spool).record(received)
    assert (recorded.kind, recorded.study_instance_uid) == ("new", "1.2")
    with store.reading() as session:
        study = session.scalars(sa.select(Study)).one()
        instance = session.scalars(sa.select(Instance)).one()
    assert study.state == "receiving"
    assert study.ready_at == received.received_at + timedelta(seconds=10)
    assert spool.folder / instance.path == received.path
    assert instance.revision is None


def test_the_same_bytes_again_are_a_duplicate_and_change_nothing(store: Store, spool: Spool, receive: Receive) -> None:
    intake = make_intake(store, spool)
    intake.record(receive("1.2.1.1"))
    with store.reading() as session:
        before = session.scalars(sa.select(Study.ready_at)).one()
    assert intake.record(receive("1.2.1.1")).kind == "duplicate"
    with store.reading() as session:
        assert session.scalars(sa.select(Study.ready_at)).one() == before
    assert (count(store, Study), count(store, Series), count(store, Instance)) == (1, 1, 1)


@pytest.mark.parametrize("changed", [{"data": b"datb"}, {"syntax": "1.2.840.10008.1.2"}, {"data": b"data2"}])
def test_other_bytes_under_the_same_uid_are_a_clash(
    store: Store, spool: Spool, receive: Receive, changed: dict[str, object]
) -> None:
    intake = make_intake(store, spool)
    intake.record(receive("1.2.1.1"))
    assert intake.record(receive("1.2.1.1", **changed)).kind == "clash"
    assert count(store, Instance) == 1


def test_a_clash_in_another_study_makes_no_study(store: Store, spool: Spool, receive: Receive) -> None:
    intake = make_intake(store, spool)
    intake.record(receive("1.2.1.1"))
    assert intake.record(receive("1.2.1.1", b"else", study="1.3")).kind == "clash"
    assert count(store, Study) == count(store, Series) == 1


def test_an_object_whose_file_is_gone_cannot_be_compared(store: Store, spool: Spool, receive: Receive) -> None:
    intake = make_intake(store, spool)
    first = receive("1.2.1.1")
    intake.record(first)
    first.path.unlink()
    with pytest.raises(SpoolFileMissing):
        intake.record(receive("1.2.1.1", b"another size"))


def test_an_object_of_which_no_hash_was_taken_is_restored_by_one_of_its_size(
    store: Store, spool: Spool, receive: Receive
) -> None:
    intake = make_intake(store, spool)
    first = receive("1.2.1.1")
    intake.record(first)
    assemble_ready(store, "node-1", now() + timedelta(minutes=1))
    first.path.unlink()
    again = receive("1.2.1.1")
    assert intake.record(again).kind == "restored"
    with store.reading() as session:
        instance, study = session.scalars(sa.select(Instance)).one(), session.scalars(sa.select(Study)).one()
    assert spool.folder / instance.path == again.path
    assert (instance.revision, study.ready_at) == (1, None)  # it is not read again by itself
    assert intake.record(receive("1.2.1.1")).kind == "duplicate"


def test_a_corrected_film_waits_to_be_read_and_is_not_undone(store: Store, spool: Spool, receive: Receive) -> None:
    """Given a film that was assembled, when it comes with its sex, then it waits again; the old one is refused."""
    intake, film = make_intake(store, spool), make_film(PatientSex=None)
    wrong = data_set_of(film)
    film.PatientSex = "F"
    right = data_set_of(film)
    uid = str(film.SOPInstanceUID)
    intake.record(receive(uid, wrong))
    assemble_ready(store, "node-1", now() + timedelta(minutes=1))
    corrected = receive(uid, right, association_id="b")
    assert intake.record(corrected).kind == "corrected"
    with store.reading() as session:
        instance, study = session.scalars(sa.select(Instance)).one(), session.scalars(sa.select(Study)).one()
    assert (spool.folder / instance.path, instance.association_id) == (corrected.path, "b")
    assert (instance.revision, study.state) == (None, "receiving")
    (walk,) = assemble_ready(store, "node-1", now() + timedelta(minutes=1))
    assert walk.number == 2
    kinds = [intake.record(receive(uid, data)).kind for data in (right, wrong, right)]
    assert kinds == ["duplicate", "clash", "duplicate"]
    assert count(store, Instance) == 1


FILE_LOST, PURGED = "lost", "purged"


@pytest.fixture(params=[FILE_LOST, PURGED])
def lose(store: Store, spool: Spool, request: pytest.FixtureRequest) -> Callable[[Received], None]:
    """Take a film's fingerprint as its walk does, then its file: by an accident, or as a purge does."""

    def lose(received: Received) -> None:
        keep_fingerprint(store, spool.folder, 1)
        received.path.unlink()
        if request.param == PURGED:
            with store.session() as session:
                session.execute(sa.update(Instance).values(path="", purged_at=now()))

    return lose


def test_a_lost_file_whose_hash_is_known_is_restored_by_the_same_bytes_alone(
    store: Store, spool: Spool, receive: Receive, lose: Callable[[Received], None]
) -> None:
    intake = make_intake(store, spool)
    first = receive("1.2.1.1")
    intake.record(first)
    assemble_ready(store, "node-1", now() + timedelta(minutes=1))
    lose(first)
    assert intake.record(receive("1.2.1.1", b"atad")).kind == "clash"
    again = receive("1.2.1.1")
    assert intake.record(again).kind == "restored"
    with store.reading() as session:
        instance, study = session.scalars(sa.select(Instance)).one(), session.scalars(sa.select(Study)).one()
    assert (spool.folder / instance.path, instance.purged_at) == (again.path, None)
    assert (instance.revision, study.ready_at) == (1, None)  # it is not read again by itself


def test_a_corrected_film_whose_file_is_gone_is_read_again(
    store: Store, spool: Spool, receive: Receive, lose: Callable[[Received], None]
) -> None:
    """Given a film without its file, when it comes with its sex, then it waits again; the old one is refused."""
    intake, film = make_intake(store, spool), make_film(PatientSex=None)
    wrong = data_set_of(film)
    film.PatientSex = "F"
    right = data_set_of(film)
    uid = str(film.SOPInstanceUID)
    first = receive(uid, wrong)
    intake.record(first)
    assemble_ready(store, "node-1", now() + timedelta(minutes=1))
    lose(first)
    assert intake.record(receive(uid, right)).kind == "corrected"
    with store.reading() as session:
        assert session.scalars(sa.select(Instance.revision)).one() is None
    (walk,) = assemble_ready(store, "node-1", now() + timedelta(minutes=1))
    assert walk.number == 2
    kinds = [intake.record(receive(uid, data)).kind for data in (right, wrong)]
    assert kinds == ["duplicate", "clash"]


def record_and_lose(intake: Intake, film: FileDataset, receive: Receive, lose: Callable[[Received], None]) -> str:
    """Record a film whose file is lost then; return its SOP Instance UID."""
    received = receive(str(film.SOPInstanceUID), data_set_of(film))
    intake.record(received)
    lose(received)
    return str(film.SOPInstanceUID)


def test_a_film_whose_file_is_gone_may_come_back_compressed(
    store: Store, spool: Spool, receive: Receive, lose: Callable[[Received], None]
) -> None:
    intake, film = make_intake(store, spool), make_film()
    uid = record_and_lose(intake, film, receive, lose)
    film.PatientID = "MERGED"
    other = make_film(draw_pattern(bits=12)[::-1], SOPInstanceUID=uid)
    came = [data_set_in(ds, JPEGLSLossless) for ds in (other, film)]
    kinds = [intake.record(receive(uid, data, syntax=JPEGLSLossless)).kind for data in came]
    assert kinds == ["clash", "corrected"]


@pytest.mark.parametrize("is_signed", [True, False])
def test_a_compressed_film_that_is_purged_may_have_its_sign_corrected(
    store: Store, spool: Spool, receive: Receive, lose: Callable[[Received], None], is_signed: bool
) -> None:
    """Given a purged compressed film, when it comes with the other PixelRepresentation, then it is a correction."""
    intake, film = make_intake(store, spool), make_film(draw_pattern(bits=12))
    uid = str(film.SOPInstanceUID)
    data = {sign: data_set_with_sign(film, sign) for sign in (True, False)}
    first = receive(uid, data[not is_signed], syntax=JPEGLSLossless)
    intake.record(first)
    lose(first)
    assert intake.record(receive(uid, data[is_signed], syntax=JPEGLSLossless)).kind == "corrected"
    assert intake.record(receive(uid, data[not is_signed], syntax=JPEGLSLossless)).kind == "clash"  # outdated


def data_set_with_sign(film: FileDataset, is_signed: bool) -> bytes:
    """Return a film compressed, its PixelRepresentation changed afterwards, as an archive corrects it."""
    ds = dcmread(io.BytesIO(encode(film, JPEGLSLossless)))
    ds.PixelRepresentation = int(is_signed)
    data = write(ds)
    return data[144 + int.from_bytes(data[140:144], "little") :]


def test_the_same_film_in_another_lossless_syntax_is_restored_and_not_read_again(
    store: Store, spool: Spool, receive: Receive, lose: Callable[[Received], None]
) -> None:
    intake, film = make_intake(store, spool), make_film()
    uid = record_and_lose(intake, film, receive, lose)
    came = receive(uid, data_set_in(film, RLELossless), syntax=RLELossless)
    assert intake.record(came).kind == "restored"
    with store.reading() as session:
        instance = session.scalars(sa.select(Instance)).one()
    assert (instance.transfer_syntax_uid, instance.sha256) == (RLELossless, digest(came.path))


def test_a_film_whose_file_was_damaged_here_is_restored(store: Store, spool: Spool, receive: Receive) -> None:
    intake = make_intake(store, spool)
    first = receive("1.2.1.1")
    intake.record(first)
    keep_fingerprint(store, spool.folder, 1)
    first.path.write_bytes(first.path.read_bytes().replace(b"data", b"dada"))
    assert intake.record(receive("1.2.1.1", b"else")).kind == "clash"
    again = receive("1.2.1.1")
    assert intake.record(again).kind == "restored"
    with store.reading() as session:
        assert spool.folder / session.scalars(sa.select(Instance.path)).one() == again.path


def test_a_purge_while_an_object_is_compared_makes_no_clash(
    store: Store, spool: Spool, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a film that is purged after its row was read, when it is compared, then it is judged by its hash."""
    intake = make_intake(store, spool)
    first = receive("1.2.1.1")
    intake.record(first)
    known = Intake._known

    def purge_after(self: Intake, received: Received) -> Instance:
        found = known(self, received)
        if first.path.exists():
            keep_fingerprint(store, spool.folder, found.id)
            with store.session() as session:
                session.execute(sa.update(Instance).values(path="", purged_at=now()))
            first.path.unlink()
        return found

    monkeypatch.setattr(Intake, "_known", purge_after)
    assert intake.record(receive("1.2.1.1")).kind == "restored"


def data_set_in(film: FileDataset, syntax: str) -> bytes:
    data = encode(film, syntax)
    return data[144 + int.from_bytes(data[140:144], "little") :]


def data_set_of(film: FileDataset) -> bytes:
    part_10 = io.BytesIO()
    film.save_as(part_10, enforce_file_format=True)
    data = part_10.getvalue()
    return data[144 + int.from_bytes(data[140:144], "little") :]


def test_each_object_starts_the_quiet_period_again(store: Store, spool: Spool, receive: Receive) -> None:
    intake = make_intake(store, spool)
    start = now()
    intake.record(receive("1.2.1.1", received_at=start))
    intake.record(receive("1.2.1.2", received_at=start + timedelta(seconds=9)))
    assert assemble_ready(store, "node-1", start + timedelta(seconds=18)) == ()
    (walk,) = assemble_ready(store, "node-1", start + timedelta(seconds=19))
    assert walk.number == 1


def test_a_whole_study_is_ready_when_its_association_ends(store: Store, spool: Spool, receive: Receive) -> None:
    intake = make_intake(store, spool, quiet_period_s=3600)
    intake.record(receive("1.2.1.1", calling_ae="WHOLE", association_id="a"))
    intake.record(receive("1.3.1.1", study="1.3", calling_ae="WHOLE", association_id="b"))
    assert intake.end_association("a", "WHOLE") == ("1.2",)
    walks = assemble_ready(store, "node-1", now())
    assert [walk.study_instance_uid for walk in walks] == ["1.2"]
    assert intake.end_association("a", "WHOLE") == ()  # nothing waits any more


def test_other_senders_studies_wait_out_their_quiet_period(store: Store, spool: Spool, receive: Receive) -> None:
    intake = make_intake(store, spool, quiet_period_s=3600)
    intake.record(receive("1.2.1.1"))
    assert intake.end_association("a", "SENDER") == ()
    assert assemble_ready(store, "node-1", now()) == ()


def test_concurrent_objects_of_one_study_make_one_study(store: Store, spool: Spool, receive: Receive) -> None:
    """Given 12 associations with objects of one study, half of them twice, then each object has one row."""
    intake = make_intake(store, spool)
    objects = [receive(f"1.2.1.{number // 2}") for number in range(12)]
    start, kinds = threading.Barrier(len(objects)), []

    def record(received: Received) -> None:
        start.wait()
        kinds.append(intake.record(received).kind)

    threads = [threading.Thread(target=record, args=(received,)) for received in objects]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kinds) == ["duplicate"] * 6 + ["new"] * 6
    assert (count(store, Study), count(store, Series), count(store, Instance)) == (1, 1, 6)


def test_a_failing_store_is_an_error_and_keeps_nothing(tmp_path: Path, spool: Spool, receive: Receive) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'broken.db'}")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE events")
    with pytest.raises(StoreError):
        make_intake(store, spool).record(receive("1.2.1.1"))
    assert count(store, Instance) == 0
    store.close()


def test_events_tell_what_came_from_whom(store: Store, spool: Spool, receive: Receive) -> None:
    intake = make_intake(store, spool)
    for data in (b"data", b"data", b"else"):
        intake.record(receive("1.2.1.1", data))
    with store.reading() as session:
        kinds = session.execute(sa.select(Event.kind, Event.peer, Event.node_id).order_by(Event.id)).all()
    assert [tuple(row) for row in kinds] == [
        ("received", "SENDER", "node-1"),
        ("duplicate", "SENDER", "node-1"),
        ("clash", "SENDER", "node-1"),
    ]


def test_files_of_one_data_set_may_differ_in_their_meta(tmp_path: Path) -> None:
    def write(name: str, meta: bytes, data: bytes) -> Path:
        length = b"\x02\0\0\0UL\x04\0" + len(meta).to_bytes(4, "little")
        path = tmp_path / name
        path.write_bytes(bytes(128) + b"DICM" + length + meta + data)
        return path

    one = write("one", b"meta", b"data set")
    assert same_data_set(one, write("two", b"longer meta", b"data set"))
    assert not same_data_set(one, write("three", b"meta", b"data seT"))
    assert not same_data_set(one, write("four", b"meta", b"data set and more"))
