"""The README is held to what the code does: its configuration, its commands, its table of statuses, its paths.

Not covered: whether its commands succeed on a bare machine (`.ci/run` runs the second).
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from dicom_node.errors import DIMSE_STATUSES, NodeError, ReceiveError, SpoolFileMissing, StoreError
from dicom_node.settings import ArchivePeer, SenderPeer, Settings, WorklistPeer, load_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_configuration_loads_and_is_complete(tmp_path: Path) -> None:
    """Given the README's configuration, then it loads and shows every key that there is."""
    (example,) = blocks("toml")
    path = tmp_path / "node.toml"
    path.write_text(example, "utf-8")
    settings = load_settings(path)
    tables = tomllib.loads(example)
    for name in Settings.model_fields:
        if name != "peers":
            missing = set(type(getattr(settings, name)).model_fields) - set(tables[name])
            assert all(f"# {key} = " in example for key in missing), f"README's [{name}] does not show {missing}"
    shown = {key for peer in tables["peers"] for key in peer}
    assert shown == {key for peer in (ArchivePeer, SenderPeer, WorklistPeer) for key in peer.model_fields}


def test_the_configuration_shows_the_defaults(tmp_path: Path) -> None:
    """Given a key whose comment does not say otherwise, then its value is the default."""
    (example,) = blocks("toml")
    defaults = Settings.model_validate({"node": {"data_dir": "/x"}}).model_dump(mode="json")
    for name, table in tomllib.loads(example).items():
        if name == "peers":
            continue
        for key, value in table.items():
            (line,) = [line for line in example.splitlines() if line.startswith(f"{key} = ")][:1]
            assert value == defaults[name][key] or "default" in line, f"{name}.{key}"


def test_continuous_integration_runs_command_2() -> None:
    commands = [block.strip() for block in blocks("sh") if "venv" in block]
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)
    assert commands[0].endswith("boneage-node demo")
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("script", ["run", "check"])
def test_the_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / ".ci" / script], check=True, timeout=60)


def test_every_status_a_sender_may_get_is_in_the_table() -> None:
    table = set(re.findall(r"^\| ([0-9A-F]{4}) \|", README, re.MULTILINE))
    answers: list[type[NodeError]] = [
        NodeError,
        StoreError,
        SpoolFileMissing,
        ReceiveError,
        *ReceiveError.__subclasses__(),
    ]
    assert table == {"0000"} | {f"{DIMSE_STATUSES[error]:04X}" for error in answers}


def test_every_path_it_names_exists() -> None:
    named = set(re.findall(r"`((?:dicom_node|inference|reports|training|tests|\.ci)/[\w./]*)`", README))
    assert named
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing


def test_constraints_name_versions_and_no_places() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)
    assert "torch==2.13.0" in lines
