"""What all tests share: hypothesis profiles, and the rule for outside programs (skipped here, demanded in CI)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

IN_CI = os.environ.get("CI") == "true"

PROGRAMS = {
    "dcmtk": ("echoscu", "storescu", "dcmsend", "dsrdump"),
    "dicom3tools": ("dciodvfy", "dcsrdump"),
    "orthanc": ("Orthanc",),
    "postgresql": ("initdb", "postgres"),
}
POSTGRESQL_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian keeps them off the PATH

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if IN_CI else "here")


def find_program(program: str) -> str | None:
    """Return where a program lies, also Debian's PostgreSQL ones."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *map(str, POSTGRESQL_BINARIES[-1:])])
    return shutil.which(program, path=path)


def demand_peer(name: str) -> dict[str, str]:
    """Return the paths of a peer's programs; without them skip the test, or fail it in CI."""
    found = {program: find_program(program) for program in PROGRAMS[name]}
    missing = [program for program, path in found.items() if path is None]
    if missing:
        reason = f"the peer {name} is not installed here: {', '.join(missing)} not found"
        (pytest.fail if IN_CI else pytest.skip)(reason)
    return {program: path for program, path in found.items() if path is not None}


@pytest.fixture(scope="session")
def require_peer() -> Callable[[str], dict[str, str]]:
    """``require_peer("dcmtk")`` returns program paths, or skips the test with a reason; in CI it fails it."""
    return demand_peer


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Apply ``@pytest.mark.peer("dcmtk")``."""
    for marker in item.iter_markers("peer"):
        for name in marker.args:
            demand_peer(name)
