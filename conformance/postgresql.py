"""A private PostgreSQL: a cluster of its own under a temporary folder, reached through a socket in it.

For tests and benchmarks. Debian's server refuses to run as root; it then runs as Debian's user ``postgres``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg

START_TIMEOUT_S = 60


class Cluster:
    """A running server, and new databases on it.

    Parameters
    ----------
    folder
        Where its socket is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    def create_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = f"node_{next(self._numbers)}"
        with psycopg.connect(host=str(self._folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"postgresql+psycopg://postgres@/{name}?host={quote(str(self._folder))}"


@contextlib.contextmanager
def run_postgresql(programs: Mapping[str, str]) -> Iterator[Cluster]:
    """Make a cluster, run it, and leave nothing behind.

    Parameters
    ----------
    programs
        Where ``initdb`` and ``postgres`` lie; ``pg_ctl`` lies beside them.
    """
    # Not under pytest's folder: the path of a socket has 107 bytes, and another user must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    pg_ctl = str(Path(programs["postgres"]).with_name("pg_ctl"))
    # Without fsync: the tests kill nodes, not the server.
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c max_connections=200"
    try:
        _run([*prefix, programs["initdb"], "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"])
        start = ["start", "-w", "-t", str(START_TIMEOUT_S), "-l", str(folder / "log"), "-o", options]
        _run([*prefix, pg_ctl, "-D", str(data), *start])
        try:
            yield Cluster(folder)
        finally:
            _run([*prefix, pg_ctl, "-D", str(data), "stop", "-w", "-m", "immediate"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str]) -> None:
    # Another user may not enter the folder we are in.
    subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
