"""What all tests share: hypothesis profiles, and the rule for outside programs (skipped here, demanded in CI)."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from conformance.judges import PIXELMED_JAR
from conformance.postgresql import Cluster, run_postgresql

IN_CI = os.environ.get("CI") == "true"

PROGRAMS = {
    "dcmtk": ("echoscu", "storescu", "dcmsend", "dsrdump", "dsr2html", "dcmpschk", "dcm2pdf"),
    "dicom3tools": ("dciodvfy", "dcsrdump"),
    "orthanc": ("Orthanc",),
    "postgresql": ("initdb", "postgres"),
    "pixelmed": ("java", str(PIXELMED_JAR)),
    "dcmqi": ("tid1500reader",),
    "dcmjs": ("node", "dcmjs"),
    "chromium": ("chromium", "chromedriver"),
    "ohif": ("ohif", "orthanc-dicomweb"),
    "ohif-older": ("ohif-older", "orthanc-dicomweb"),
}
ELSEWHERE = {
    "tid1500reader": Path(sys.executable).parent / "tid1500reader",  # a package of the tests' own environment
    "dcmjs": Path(__file__).parents[1] / ".ci" / "npm" / "node_modules" / "dcmjs",  # where .ci/run installs it
    "ohif": Path(__file__).parents[1] / ".ci" / "npm" / "ohif" / "package" / "dist" / "index.html",
    "ohif-older": Path(__file__).parents[1] / ".ci" / "npm" / "ohif-older" / "package" / "dist" / "index.html",
    "orthanc-dicomweb": Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),
    str(PIXELMED_JAR): PIXELMED_JAR,
}
"""Programs, and packages of programs, that are not looked for on the PATH."""
POSTGRESQL_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian keeps them off the PATH

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if IN_CI else "here")


def find_program(program: str) -> str | None:
    """Return where a program lies, also Debian's PostgreSQL ones; never pynetdicom's namesakes in an environment."""
    if program in ELSEWHERE:
        return str(ELSEWHERE[program]) if ELSEWHERE[program].exists() else None
    folders = os.environ.get("PATH", "").split(os.pathsep)
    outside = [folder for folder in folders if not (Path(folder).parent / "pyvenv.cfg").is_file()]
    return shutil.which(program, path=os.pathsep.join([*outside, "/usr/sbin", *map(str, POSTGRESQL_BINARIES[-1:])]))


def demand_peer(name: str) -> dict[str, str]:
    """Return the paths of a peer's programs; without them skip the test, or fail it in CI."""
    found = {program: find_program(program) for program in PROGRAMS[name]}
    missing = [program for program, path in found.items() if path is None]
    if missing:
        reason = f"the peer {name} is not installed here: {', '.join(missing)} not found"
        (pytest.fail if IN_CI else pytest.skip)(reason)
    return {program: path for program, path in found.items() if path is not None}


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Put logging back after each test: a command configures it for its whole process."""
    root, showwarning, config = logging.getLogger(), warnings.showwarning, structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**config)
    root.handlers[:], warnings.showwarning = handlers, showwarning
    root.setLevel(level)


@pytest.fixture(scope="session")
def require_peer() -> Callable[[str], dict[str, str]]:
    """``require_peer("dcmtk")`` returns program paths, or skips the test with a reason; in CI it fails it."""
    return demand_peer


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Apply ``@pytest.mark.peer("dcmtk")``."""
    for marker in item.iter_markers("peer"):
        for name in marker.args:
            demand_peer(name)


@pytest.fixture(scope="session")
def postgresql(require_peer: Callable[[str], dict[str, str]]) -> Iterator[Cluster]:
    """Run a private PostgreSQL for the session; ``create_database()`` returns the URL of an empty database."""
    with run_postgresql(require_peer("postgresql")) as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'node.db'}"
    cluster: Cluster = request.getfixturevalue("postgresql")
    return cluster.create_database()
