"""`serve` as a process of its own: it says where it listens, answers, and leaves in order on a signal.

Not covered: the model (a fake stands for it here) and `kill -9` (test_kill_node.py).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

PROGRAM = """
import sys
import inference.engine
from inference.finding import ModelIdentity
from dicom_node.cli import main

class Fake:
    identity = ModelIdentity("global-local", "A fake", "0", "0" * 64)

    def interpret(self, ds):
        raise AssertionError("nothing is sent here")

inference.engine.Engine.load = classmethod(lambda cls, *_, **__: Fake())
sys.exit(main(["serve", "--config", sys.argv[1]]))
"""

SETTINGS = """
[node]
data_dir = "data"
[receive]
port = 0
accept_unknown_callers = true
"""


class Service:
    """A running `serve` and the lines it logs."""

    def __init__(self, config: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, config], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.watchdog = threading.Timer(120, self.process.kill)
        self.watchdog.start()

    def wait_for(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            logged: dict[str, Any] = json.loads(line)
            if logged["event"] == event:
                return logged
        raise AssertionError(f"{event} was never logged, but:\n{''.join(seen)}")

    def close(self) -> None:
        self.watchdog.cancel()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    config = tmp_path / "node.toml"
    config.write_text(SETTINGS)
    running = Service(config)
    yield running
    running.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_leaves_on_a_signal(service: Service, number: signal.Signals) -> None:
    """Given a node that listens on a port the system chose, when it gets a signal, then it stops in order with 0."""
    listening = service.wait_for("serve.listening")
    assert listening["host"] == "127.0.0.1"
    assert listening["ae_title"] == "BONEAGE"
    ae = AE("TESTER")
    ae.add_requested_context(Verification)
    assoc = ae.associate(listening["host"], listening["port"], ae_title="BONEAGE")
    assert assoc.is_established
    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()
    service.process.send_signal(number)
    service.wait_for("serve.stopped")
    assert service.process.wait(timeout=60) == 0


def test_a_port_that_is_taken_is_said(service: Service, tmp_path: Path) -> None:
    port = service.wait_for("serve.listening")["port"]
    config = tmp_path / "second" / "node.toml"
    config.parent.mkdir()
    config.write_text(SETTINGS.replace("port = 0", f"port = {port}"))
    second = subprocess.run(
        [sys.executable, "-c", PROGRAM, config], capture_output=True, text=True, timeout=120, check=False
    )
    assert second.returncode == 2, second.stderr
    assert "receive.port" in second.stderr
    assert "Traceback" not in second.stderr
