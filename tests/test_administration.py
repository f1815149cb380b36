"""status, show, retry, reprocess: what an administrator reads and does, over rows as the street leaves them.

Not covered: that a running node takes up what these commands leave.
"""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dicom_node import cli
from dicom_node.errors import UnknownStudy
from dicom_node.findings import finding_to_json
from dicom_node.revisions import CommitmentState, DeliveryState, RevisionState
from dicom_node.settings import load_settings
from dicom_node.show import find_study_by_beginning
from dicom_node.store import (
    Delivery,
    Document,
    Event,
    FindingRow,
    Instance,
    NodeRow,
    Revision,
    Series,
    Store,
    Study,
    now,
    open_store,
)
from inference.finding import Refusal, RefusalCode, Subject

AT = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)


class Ward:
    """A settings file, a store behind it, and the command line over both."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = folder / "node.toml"
        self.config.write_text('[node]\ndata_dir = "data"\n')
        self.capsys = capsys
        self.store: Store = open_store(load_settings(self.config).database_url)

    def run(self, *arguments: str) -> tuple[int, str]:
        code = cli.main([*arguments, "--config", str(self.config)])
        captured = self.capsys.readouterr()
        return code, captured.out + captured.err

    def add_archive(self, name: str) -> None:
        peer = f'[[peers]]\nkind = "archive"\nname = "{name}"\nae_title = "A"\nhost = "127.0.0.1"\nport = 104\n'
        self.config.write_text(self.config.read_text() + peer)

    def add_study(
        self,
        uid: str,
        *,
        state: DeliveryState = DeliveryState.SENT,
        delivery_error: str | None = None,
        walk_error: str | None = None,
        due_at: datetime | None = None,
        refusal: Refusal | None = None,
        sentence: str = "It went wrong. Do this.",
    ) -> None:
        failed = walk_error or state == DeliveryState.FAILED
        revision_state = RevisionState.FAILED if failed else RevisionState.SENT
        with self.store.session() as session:
            study = Study(
                study_instance_uid=uid, state=revision_state, revision=1, first_received_at=AT, last_received_at=AT
            )
            session.add(study)
            session.flush()
            series = Series(study_id=study.id, series_instance_uid=f"{uid}.1", modality="DX")
            session.add(series)
            session.flush()
            instance = Instance(
                series_id=series.id, study_id=study.id, sop_instance_uid=f"{uid}.1.1", sop_class_uid="1.2",
                transfer_syntax_uid="1.2", path="ab/cd", size_bytes=10, received_at=AT, calling_ae="XRAY1",
                association_id="a", revision=1,
            )  # fmt: skip
            revision = Revision(
                study_id=study.id, number=1, scope="new", state=revision_state, assembled_at=AT, updated_at=AT,
                error_code=walk_error, error=walk_error and sentence,
            )  # fmt: skip
            session.add_all([instance, revision])
            session.flush()
            finding = FindingRow(
                instance_id=instance.id, revision_id=revision.id, kind="refusal" if refusal else "estimate",
                age_months=None if refusal else 99.4, refusal_code=refusal and refusal.code,
                body=finding_to_json(refusal) if refusal else "{}", interpreted_at=AT,
            )  # fmt: skip
            session.add(finding)
            session.flush()
            document = Document(
                finding_id=finding.id, revision_id=revision.id, kind="sr", sop_class_uid="1.2",
                sop_instance_uid=f"{uid}.9", series_instance_uid=f"{uid}.8", path="sr.dcm", created_at=AT,
                verified_at=AT,
            )  # fmt: skip
            session.add(document)
            session.flush()
            session.add(
                Delivery(
                    document_id=document.id,
                    revision_id=revision.id,
                    peer="pacs",
                    state=state,
                    commitment=CommitmentState.DUE,
                    error_code=delivery_error,
                    error=delivery_error and "Refused.",
                    status=0xA900 if delivery_error else None,
                    due_at=due_at,
                    updated_at=AT,
                )
            )
            session.add(Event(at=AT, node_id="node-1", kind="received", study_id=study.id, peer="XRAY1"))

    def rows(self, entity: Any) -> list[Any]:
        with self.store.reading() as session:
            return list(session.scalars(sa.select(entity).order_by(entity.id)))


@pytest.fixture
def ward(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ward:
    return Ward(tmp_path, capsys)


def test_without_a_database_they_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "data"\n')
    for line in (["status"], ["show", "1.2"], ["retry", "--all"], ["reprocess", "1.2"]):
        assert cli.main([*line, "--config", str(config)]) == 1
        assert "no database yet" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_status_of_a_healthy_node(ward: Ward) -> None:
    with ward.store.session() as session:
        session.add(NodeRow(id="node-1", incarnation="x", started_at=AT, heartbeat_at=now()))
        session.add(NodeRow(id="node-2", incarnation="y", started_at=AT, heartbeat_at=now() - timedelta(hours=1)))
        session.add(NodeRow(id="node-3", incarnation="z", started_at=AT, heartbeat_at=AT, stopped_at=AT))
    ward.add_study("1.2.3")
    code, out = ward.run("status")
    assert code == 0
    for words in ("lives", "SILENT", "stopped", "sent", "pacs", "Nothing needs a person"):
        assert words in out


@pytest.mark.parametrize("stopped_at", [None, AT])
def test_status_says_that_no_node_runs(ward: Ward, stopped_at: datetime | None) -> None:
    with ward.store.session() as session:
        session.add(NodeRow(id="node-1", incarnation="x", started_at=AT, heartbeat_at=AT, stopped_at=stopped_at))
    code, out = ward.run("status")
    assert (code, "NO NODE RUNS" in out, "taken over" in out, "Nothing needs" in out) == (0, True, False, False)


def test_status_says_that_little_room_is_left(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=3 << 20))
    assert "LITTLE ROOM: 3 MiB" in ward.run("status")[1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1 << 40))
    assert "LITTLE ROOM" not in ward.run("status")[1]


def test_status_on_a_full_disk_does_not_swear_that_no_node_runs(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a disk on which no node can write that it lives, then nobody is sent to start another."""
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=0))
    out = ward.run("status")[1]
    assert ("no room left to show that it lives" in out, "until `boneage-node serve`" in out) == (True, False), out


def test_status_can_be_watched_by_a_machine(ward: Ward) -> None:
    """Given what passes by itself, and then what does not, then --check says 0 and 1, and --json what it is."""
    with ward.store.session() as session:
        session.add(NodeRow(id="node-1", incarnation="x", started_at=AT, heartbeat_at=now()))
    ward.add_study("1.2.3", delivery_error="peer-unreachable", due_at=now() + timedelta(minutes=5))
    code, out = ward.run("status", "--check", "--json")
    told = json.loads(out)
    assert (code, told["needs_a_person"], told["shortage"]) == (0, False, None)
    assert [(one["id"], one["state"]) for one in told["nodes"]] == [("node-1", "lives")]
    assert [(one["study_instance_uid"], one["code"]) for one in told["troubles"]] == [("1.2.3", "peer-unreachable")]
    assert (told["studies"][0]["number"], told["deliveries"][0]["peer"]) == (1, "pacs")
    assert told["deliveries"][0]["next_try_at"].endswith("+00:00")
    ward.add_study("1.2.4", walk_error="composition-failed")
    code, out = ward.run("status", "--check", "--json")
    assert (code, json.loads(out)["needs_a_person"]) == (1, True)
    assert ward.run("status")[0] == 0


@pytest.mark.parametrize("trouble", ["silent", "no room", "unanswered"])
def test_what_needs_a_person_fails_the_check(ward: Ward, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    with ward.store.session() as session:
        beat = AT if trouble == "silent" else now()
        session.add(NodeRow(id="node-1", incarnation="x", started_at=AT, heartbeat_at=beat))
    ward.add_study("1.2.3", due_at=now() + timedelta(hours=1))
    assert ward.run("status", "--check")[0] == (trouble == "silent")
    if trouble == "no room":
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=0))
    if trouble == "unanswered":
        with ward.store.session() as session:
            asked = {"commitment": CommitmentState.REQUESTED, "sent_at": now() - timedelta(hours=2)}
            session.execute(sa.update(Delivery).values(asked))
    assert ward.run("status", "--check")[0] == 1


def test_status_names_what_an_archive_never_vouches_for(ward: Ward) -> None:
    ward.add_study("1.2.3", due_at=now() + timedelta(hours=1))
    ward.add_study("1.2.4", due_at=now() + timedelta(hours=1))
    with ward.store.session() as session:
        asked = sa.update(Delivery).values(commitment=CommitmentState.REQUESTED)
        session.execute(asked.where(Delivery.id == 1).values(sent_at=now() - timedelta(hours=2)))
        session.execute(asked.where(Delivery.id == 2).values(sent_at=now()))
    out = ward.run("status")[1]
    assert ("1.2.3" in out, "1.2.4" in out, "no-commitment-report" in out) == (True, False, True), out


def test_a_database_of_another_version_is_named(ward: Ward) -> None:
    with ward.store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE deliveries DROP COLUMN commitment_failures")
        connection.exec_driver_sql("DROP TABLE nodes")
    code, out = ward.run("status")
    assert (code, "tables are of another version" in out) == (1, True), out


def test_status_names_trouble_and_the_command_that_helps(ward: Ward) -> None:
    ward.add_study("1.2.3", state=DeliveryState.FAILED, delivery_error="peer-refused")
    ward.add_study("1.2.4", delivery_error="peer-unreachable", due_at=now() + timedelta(minutes=5))
    ward.add_study("1.2.5", walk_error="composition-failed")
    code, out = ward.run("status")
    assert code == 0
    for words in ("boneage-node retry 1.2.3", "peer-refused", "peer-unreachable", "composition-failed", "Do this."):
        assert words in out
    assert "boneage-node retry 1.2.4" not in out


def test_show_tells_everything_of_a_study(ward: Ward) -> None:
    ward.add_study("1.2.3", state=DeliveryState.FAILED, delivery_error="peer-refused")
    code, out = ward.run("show", "1.2")
    assert code == 0
    for words in ("1.2.3.1.1", "XRAY1", "99.4 months (8.3 years)", "sr.dcm", "0xA900", "Refused.", "received"):
        assert words in out


def test_show_tells_why_a_film_was_refused_and_what_to_do(ward: Ward) -> None:
    subject = Subject(None, "missing", None, "missing")
    ward.add_study(
        "1.2.3", refusal=Refusal(RefusalCode.SEX_UNKNOWN, "The sex is not known.", "Correct PatientSex.", subject)
    )
    assert "sex-unknown: The sex is not known. Correct PatientSex." in ward.run("show", "1.2.3")[1]


def test_a_beginning_must_be_clear(ward: Ward) -> None:
    for uid in ("1.2.3", "1.2.3.4", "1.2.3.5", "1.9"):
        ward.add_study(uid)
    with ward.store.reading() as session:
        assert find_study_by_beginning(session, "1.2.3").study_instance_uid == "1.2.3"
        assert find_study_by_beginning(session, "1.9").study_instance_uid == "1.9"
        for unclear in ("1.2", "1.2.4", "%", "1_2"):
            with pytest.raises(UnknownStudy):
                find_study_by_beginning(session, unclear)


def test_retry_puts_a_failed_delivery_to_work(ward: Ward) -> None:
    ward.add_study("1.2.3", state=DeliveryState.FAILED, delivery_error="peer-refused")
    ward.add_study("1.2.4", state=DeliveryState.FAILED, delivery_error="peer-refused")
    code, out = ward.run("retry", "1.2.3")
    assert (code, "1 deliveries" in out) == (0, True), out
    first, second = ward.rows(Delivery)
    assert (first.state, first.error_code) == (DeliveryState.COMPOSED, None)
    assert first.due_at <= now()
    assert second.state == DeliveryState.FAILED
    assert [revision.state for revision in ward.rows(Revision)] == [RevisionState.COMPOSED, RevisionState.FAILED]
    assert [study.state for study in ward.rows(Study)] == ["composed", "failed"]


def test_retry_makes_due_what_waits(ward: Ward) -> None:
    ward.add_study("1.2.3", delivery_error="peer-unreachable", due_at=now() + timedelta(days=1))
    assert ward.run("retry", "--all")[0] == 0
    assert ward.rows(Delivery)[0].due_at <= now()


def test_retry_of_one_peer_leaves_the_others_and_the_walks(ward: Ward) -> None:
    ward.add_study("1.2.3", state=DeliveryState.FAILED, delivery_error="peer-refused", walk_error="composition-failed")
    ward.add_archive("elsewhere")
    assert ward.run("retry", "--all", "--peer", "elsewhere")[0] == 1
    assert ward.rows(Delivery)[0].state == DeliveryState.FAILED
    assert ward.rows(Revision)[0].state == RevisionState.FAILED


def test_retry_of_a_peer_that_nobody_knows_says_so(ward: Ward) -> None:
    ward.add_study("1.2.3", state=DeliveryState.FAILED, delivery_error="peer-refused")
    ward.add_archive("elsewhere")
    code, out = ward.run("retry", "--all", "--peer", "pasc")
    assert (code, "No archive has the name pasc." in out, "elsewhere, pacs" in out) == (2, True, True), out


@pytest.mark.parametrize("trouble", [{"walk_error": "composition-failed"}, {"state": DeliveryState.FAILED}])
def test_what_was_read_again_troubles_nobody_any_more(ward: Ward, trouble: dict[str, Any]) -> None:
    ward.add_study("1.2.3", delivery_error="peer-refused" if "state" in trouble else None, **trouble)
    ward.add_study("1.2.4", **trouble, delivery_error="peer-refused" if "state" in trouble else None)
    assert ward.run("reprocess", "1.2.3")[0] == 0
    out = ward.run("status")[1]
    assert ("retry 1.2.3" in out, "retry 1.2.4" in out) == (False, True), out
    assert ward.run("retry", "1.2.3")[0] == 1
    assert ward.run("retry", "--all")[0] == 0
    older, other, newer = ward.rows(Revision)
    assert (older.state, older.round, other.state == RevisionState.FAILED) == (RevisionState.FAILED, 0, False)
    assert newer.state == RevisionState.ASSEMBLED


def test_status_shows_brackets_as_they_are(ward: Ward) -> None:
    ward.add_study("1.2.3", walk_error="composition-failed", sentence="Look at [compose] and [/x].")
    assert "Look at [compose] and [/x]." in ward.run("status")[1]


def test_retry_has_a_failed_walk_walk_again(ward: Ward) -> None:
    ward.add_study("1.2.3", walk_error="composition-failed")
    assert ward.run("retry", "1.2.3")[0] == 0
    (revision,) = ward.rows(Revision)
    assert (revision.state, revision.round, revision.error_code) == (RevisionState.ASSEMBLED, 1, None)


def test_retry_of_nothing_is_1(ward: Ward) -> None:
    ward.add_study("1.2.3")
    code, out = ward.run("retry", "--all")
    assert code == 1
    assert "Nothing there has failed" in out


@pytest.mark.parametrize(
    ("state", "error", "due_at"),
    [
        (DeliveryState.FAILED, "peer-unknown", None),
        (DeliveryState.COMPOSED, "peer-unreachable", now() + timedelta(days=1)),
        (DeliveryState.SENT, None, now() + timedelta(days=1)),
    ],
)
def test_what_a_peer_that_is_gone_will_never_take_can_be_dismissed(
    ward: Ward, state: DeliveryState, error: str | None, due_at: datetime | None
) -> None:
    """Given an archive that is no more, when it is dismissed, then nobody is troubled, and nothing is committed."""
    ward.add_study("1.2.3", state=state, delivery_error=error, due_at=due_at)
    ward.add_archive("elsewhere")
    code, out = ward.run("dismiss", "--peer", "pacs")
    assert (code, "retry --all --peer pacs" in out, "Note:" in out) == (0, True, False), out
    (delivery,) = ward.rows(Delivery)
    assert (delivery.state, delivery.due_at, delivery.error_code) == (DeliveryState.DISMISSED, None, error)
    assert [row.state for row in (*ward.rows(Revision), *ward.rows(Study))] == ["kept", "kept"]
    out = ward.run("status")[1]
    assert ("retry 1.2.3" in out, "dismissed" in out) == (False, True), out
    assert [(event.kind, event.peer) for event in ward.rows(Event)][-1] == ("dismissed", "pacs")
    assert ward.run("dismiss", "--peer", "pacs")[0] == 1


def test_dismissing_one_study_or_peer_leaves_the_others(ward: Ward) -> None:
    for uid in ("1.2.3", "1.2.4"):
        ward.add_study(uid, state=DeliveryState.FAILED, delivery_error="peer-refused")
    ward.add_archive("elsewhere")
    assert ward.run("dismiss", "--peer", "elsewhere")[0] == 1
    assert ward.run("dismiss", "1.2.3", "--peer", "pacs")[0] == 0
    assert [row.state for row in ward.rows(Delivery)] == ["dismissed", "failed"]
    code, out = ward.run("dismiss", "--peer", "pasc")
    assert (code, "No archive has the name pasc." in out) == (2, True), out


def test_dismissing_a_peer_that_is_still_configured_says_so(ward: Ward) -> None:
    ward.add_study("1.2.3", state=DeliveryState.FAILED, delivery_error="peer-refused")
    ward.add_archive("pacs")
    assert "Note: pacs is in the settings" in ward.run("dismiss", "--peer", "pacs")[1]


def test_what_is_committed_or_done_without_commitment_is_not_dismissed(ward: Ward) -> None:
    ward.add_study("1.2.3", state=DeliveryState.COMMITTED)
    ward.add_study("1.2.4")
    with ward.store.session() as session:
        session.execute(sa.update(Delivery).where(Delivery.id == 2).values(commitment=CommitmentState.NONE))
    assert ward.run("dismiss", "--peer", "pacs")[0] == 1
    assert [row.state for row in ward.rows(Delivery)] == ["committed", "sent"]


@pytest.mark.parametrize("words", [("1.2.3",), ("--all", "--peer", "pacs")])
def test_retry_takes_a_dismissal_back_where_study_or_peer_is_named(ward: Ward, words: tuple[str, ...]) -> None:
    ward.add_study("1.2.3", state=DeliveryState.FAILED, delivery_error="peer-refused")
    assert ward.run("dismiss", "--peer", "pacs")[0] == 0
    assert ward.run("retry", "--all")[0] == 1
    assert ward.rows(Delivery)[0].state == DeliveryState.DISMISSED
    assert ward.run("retry", *words)[0] == 0
    (delivery,) = ward.rows(Delivery)
    assert (delivery.state, delivery.error_code, delivery.due_at is None) == (DeliveryState.COMPOSED, None, False)
    assert [row.state for row in (*ward.rows(Revision), *ward.rows(Study))] == ["composed", "composed"]


@pytest.mark.parametrize(
    ("state", "settled"), [(DeliveryState.COMMITTED, "delivered"), (DeliveryState.SENT, "sent"), (None, "kept")]
)
def test_a_reading_that_failed_can_be_dismissed(ward: Ward, state: DeliveryState | None, settled: str) -> None:
    """Given a walk that failed, when its study is dismissed, then nobody is troubled, and it is never committed."""
    ward.add_study("1.2.3", state=state or DeliveryState.SENT, walk_error="film-purged")
    ward.add_study("1.2.4", walk_error="film-purged")
    if state is None:
        with ward.store.session() as session:
            session.execute(sa.delete(Delivery).where(Delivery.revision_id == 1))
    assert "given up by boneage-node dismiss STUDY" in ward.run("status")[1]
    code, out = ward.run("dismiss", "1.2.3")
    assert (code, "1 walk(s)" in out, "boneage-node retry 1.2.3\n" in out) == (0, True, True), out
    revision, other = ward.rows(Revision)
    assert (revision.state, revision.error_code, other.state) == (settled, "film-purged", "failed")
    assert [row.state for row in ward.rows(Study)] == [settled, "failed"]
    assert [(event.kind, event.detail) for event in ward.rows(Event)][-1] == ("dismissed", "film-purged")
    out = ward.run("status")[1]
    assert ("retry 1.2.3" in out, "retry 1.2.4" in out) == (False, True), out
    assert f"{settled}, dismissed 20" in " ".join(ward.run("show", "1.2.3")[1].split())
    assert ward.run("dismiss", "1.2.3")[0] == 1


def test_dismissing_a_study_gives_up_what_failed_of_it_and_nothing_that_goes_on(ward: Ward) -> None:
    ward.add_study("1.2.3", state=DeliveryState.FAILED, delivery_error="peer-refused", walk_error="composition-failed")
    ward.add_study("1.2.4", delivery_error="peer-unreachable", due_at=now() + timedelta(days=1))
    assert ward.run("dismiss", "1.2.4")[0] == 1
    assert ward.run("dismiss", "1.2.3")[0] == 0
    assert [row.state for row in ward.rows(Delivery)] == ["dismissed", "sent"]
    assert [row.state for row in ward.rows(Study)] == ["kept", "sent"]
    assert "retry 1.2.3" not in ward.run("status")[1]


def test_retry_takes_the_dismissal_of_a_reading_back_where_its_study_is_named(ward: Ward) -> None:
    ward.add_study("1.2.3", state=DeliveryState.COMMITTED, walk_error="composition-failed")
    assert ward.run("dismiss", "1.2.3")[0] == 0
    assert ward.run("retry", "--all")[0] == 1
    assert ward.run("retry", "1.2.3")[0] == 0
    (revision,) = ward.rows(Revision)
    assert (revision.state, revision.round, revision.error_code, revision.dismissed_at) == ("assembled", 1, None, None)


def test_dismiss_must_be_told_what(ward: Ward) -> None:
    code, out = ward.run("dismiss")
    assert (code, "Name a study, or --peer PEER" in out) == (2, True), out


def test_reprocess_makes_a_revision(ward: Ward) -> None:
    ward.add_study("1.2.3")
    code, out = ward.run("reprocess", "1.2.3")
    assert (code, "revision 2" in out) == (0, True)
    assert [revision.number for revision in ward.rows(Revision)] == [1, 2]
    assert ward.rows(Revision)[1].scope == "all"


def test_reprocess_of_an_unknown_study_is_1(ward: Ward) -> None:
    code, out = ward.run("reprocess", "1.2.3")
    assert code == 1
    assert "unknown-study" in out
