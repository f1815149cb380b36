"""Settings: what a file may say, what is refused, and that no refusal repeats a value.

Not covered: whether the values suit a given hospital; `boneage-node settings check` in test_cli.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dicom_node.errors import SettingsError
from dicom_node.settings import ArchivePeer, SenderPeer, Settings, SettingsProblem, load_settings

FULL = """
[node]
id = "node-a"
ae_title = "BONEAGE"
data_dir = "data"

[receive]
port = 0

[[peers]]
kind = "archive"
name = "pacs"
ae_title = "ORTHANC"
host = "10.0.0.2"
port = 4242

[[peers]]
kind = "sender"
name = "room-1"
ae_title = "XRAY1"
whole_study_per_association = true
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text, "utf-8")
    return path


def problems_of(folder: Path, text: str) -> dict[str, SettingsProblem]:
    with pytest.raises(SettingsError) as raised:
        load_settings(write(folder, text))
    problems = [problem for problem in raised.value.problems if isinstance(problem, SettingsProblem)]
    return {".".join(part for part in (problem.section, problem.key) if part): problem for problem in problems}


def test_a_full_file_is_read(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, FULL))
    assert settings.node.data_dir == tmp_path / "data"
    assert settings.spool_dir == tmp_path / "data" / "spool"
    assert settings.documents_dir == tmp_path / "data" / "documents"
    assert settings.database_url == f"sqlite:///{tmp_path}/data/node.db"
    assert settings.archives == (
        ArchivePeer(kind="archive", name="pacs", ae_title="ORTHANC", host="10.0.0.2", port=4242),
    )
    assert settings.senders == (
        SenderPeer(kind="sender", name="room-1", ae_title="XRAY1", whole_study_per_association=True),
    )
    assert settings.archives[0].commitment
    assert settings.archives[0].deliver == ("sr", "sc")


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, FULL))
    with pytest.raises(ValidationError):
        settings.receive.port = 1  # type: ignore[misc]


def test_all_problems_are_listed_with_section_key_and_remedy(tmp_path: Path) -> None:
    text = """
    [node]
    datadir = "x"
    [receive]
    port = 70000
    [assemble]
    quiet_period_s = -1
    [colour]
    [[peers]]
    kind = "archive"
    name = "pacs"
    ae_title = "MUCH TOO LONG FOR AN AE"
    host = "h"
    port = 104
    [[peers]]
    name = "nobody"
    """
    problems = problems_of(tmp_path, text)
    assert set(problems) == {
        "node.data_dir", "node.datadir", "receive.port", "assemble.quiet_period_s", "colour", "peers[0].ae_title",
        "peers[1]",
    }  # fmt: skip
    assert "data_dir" in problems["node.datadir"].remedy
    assert "known here" in problems["colour"].remedy
    assert 'kind = "archive"' in problems["peers[1]"].remedy
    assert all(problem.remedy and problem.what for problem in problems.values())


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ("deliver", "[deliver]\nfirst_retry_s = 900\nmax_retry_s = 5\n"),
        ("cluster", "[cluster]\nheartbeat_s = 20\n"),
        ("compose", "[compose]\nseries_number_sr = 9002\n"),
        ("store", '[store]\nurl = "sqlite://"\nurl_file = "u"\n'),
        ("deliver.max_retry_s", "[deliver]\nmax_retry_s = inf\n"),
        ("log.level", '[log]\nlevel = "LOUD"\n'),
        ("interpret.stages", '[interpret]\nstages = "ala-net"\n'),
        ("interpret", '[interpret]\nmethod = "precise-baa"\nstages = "precise-baa"\n'),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, section: str, text: str) -> None:
    assert section in problems_of(tmp_path, '[node]\ndata_dir = "d"\n' + text)


def test_two_peers_of_one_name_are_refused(tmp_path: Path) -> None:
    peer = '[[peers]]\nkind = "sender"\nname = "a"\nae_title = "A"\n'
    problems = problems_of(tmp_path, '[node]\ndata_dir = "d"\n' + peer + peer)
    assert any("share the name" in problem.what for problem in problems.values())


def test_films_are_asked_of_somebody(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, '[node]\ndata_dir = "d"\n[compose]\npriors_films = 2\n')
    assert any("priors_from" in problem.what for problem in problems.values())


def test_heights_come_from_a_worklist_among_the_peers(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, '[node]\ndata_dir = "d"\n[compose]\nheight_from = "ris"\n')
    assert any("height_from" in problem.what for problem in problems.values())
    worklist = '[[peers]]\nkind = "worklist"\nname = "ris"\nae_title = "RIS"\nhost = "10.0.0.3"\nport = 104\n'
    remedies = [problem.remedy for problem in problems_of(tmp_path, worklist + "deliver = []\n").values()]
    assert any("known here: kind, name, ae_title, host, port." in remedy for remedy in remedies)


PACS = '[[peers]]\nkind = "archive"\nname = "pacs"\nae_title = "A"\nhost = "h"\nport = 104\n'


@pytest.mark.parametrize("name", ["UTF-8", "ISO_IR 13", "ISO 2022 IR 58", "ISO-8859-1", "GB2312"])
def test_a_character_set_is_one_that_can_be_written(tmp_path: Path, name: str) -> None:
    """Given a name that is none of the sets offered, then the complaint names the key and lists those."""
    text = f'[node]\ndata_dir = "d"\n{PACS}character_set = "{name}"\n'
    problem = problems_of(tmp_path, text)["peers[0].character_set"]
    assert all(f"'{one}'" in problem.remedy for one in ("ISO_IR 192", "ISO_IR 100", "GB18030", "ISO 2022 IR 87"))


def test_series_numbers_of_an_archive_fit_their_attribute(tmp_path: Path) -> None:
    text = f'[node]\ndata_dir = "d"\n{PACS}series_numbers_from = 2_147_483_647\n'
    problem = problems_of(tmp_path, text)["peers[0].series_numbers_from"]
    assert "less than or equal to" in problem.what
    assert problem.remedy


@pytest.mark.parametrize("name", ["ISO_IR 100", "ISO 2022 IR 87"])
def test_reports_in_chinese_need_a_set_that_has_it(tmp_path: Path, name: str) -> None:
    node = '[node]\ndata_dir = "d"\n[compose]\nlanguage = "zh"\n'
    (problem,) = problems_of(tmp_path, f'{node}{PACS}character_set = "{name}"\n').values()
    assert all(word in problem.what for word in ("character_set", "pacs", "compose.language", "GB18030"))
    settings = load_settings(write(tmp_path, f'{node}{PACS}character_set = "GBK"\n'))
    assert settings.archives[0].character_set == "GBK"


def test_a_file_that_is_missing_or_no_toml_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "absent.toml")
    with pytest.raises(SettingsError, match="line 2") as raised:
        load_settings(write(tmp_path, '[store]\nurl = secret-hunter2"\n'))
    assert "hunter2" not in str(raised.value)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://u:hunter2@h/db\n", "utf-8-sig")
    path = tmp_path / "node.toml"
    path.write_text('[node]\r\ndata_dir = "d"\r\n[store]\r\nurl_file = "url"\r\n', "utf-8-sig")
    assert load_settings(path).database_url == "postgresql://u:hunter2@h/db"


def test_a_password_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = '[node]\ndata_dir = "d"\n[store]\nurl = "postgresql://u:hunter2@h/db"\n'
    problems = problems_of(tmp_path, text)
    assert "url_file" in problems["store.url"].remedy
    assert "hunter2" not in str(problems["store.url"])


@given(secret=st.text("abcdefghXYZ", min_size=8, max_size=12))
def test_no_problem_repeats_a_value(secret: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"node": {"data_dir": "d", "id": f"{secret} "}, "log": {"level": secret}})
    assert secret not in str(raised.value)


def test_the_database_url_comes_from_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://u:hunter2@h/db\n")
    settings = load_settings(write(tmp_path, '[node]\ndata_dir = "d"\n[store]\nurl_file = "url"\n'))
    assert settings.database_url == "postgresql://u:hunter2@h/db"
    assert "hunter2" not in repr(settings)
    (tmp_path / "url").write_text(" \n")
    with pytest.raises(SettingsError, match=r"store\.url_file"):
        _ = settings.database_url


@given(title=st.text(max_size=20))
def test_ae_titles_are_those_of_the_standard(title: str) -> None:
    """PS3.5 table 6.2-1: at most 16 characters of the default repertoire, no backslash, no control characters."""
    stripped = title.strip(" ")
    fits = 1 <= len(stripped) <= 16 and all(0x20 <= ord(c) <= 0x7E and c != "\\" for c in stripped)
    try:
        peer = SenderPeer(kind="sender", name="a", ae_title=title)
    except ValidationError:
        assert not fits
    else:
        assert fits
        assert peer.ae_title == stripped
