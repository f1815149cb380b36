"""Orthanc as a peer: a private one with an empty storage, on loopback ports of its own, for tests and benchmarks.

with Orthanc(folder) as orthanc:
    orthanc.register("BONEAGE", node_port)
    ArchivePeer(kind="archive", ae_title=orthanc.ae_title, port=orthanc.dicom_port, ...)
    orthanc.instances(study_instance_uid)
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
REQUEST_TIMEOUT_S = 30.0
START_ATTEMPTS = 5  # a port that was free a moment ago may be taken when Orthanc binds it
_STARTED = "Orthanc has started"


def find_orthanc() -> str | None:
    """Return where the program lies; Debian keeps it off an ordinary user's path."""
    return shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class OrthancFailed(RuntimeError):
    """Orthanc is not installed, did not start, or refused a request."""


class Orthanc:
    """A running Orthanc: Storage SCP, Storage Commitment SCP and REST. Started again, it still holds what it held.

    Parameters
    ----------
    folder
        For its configuration and storage.
    ae_title
        What it is called as.
    configuration
        Further keys of its configuration file.
    """

    def __init__(self, folder: Path, *, ae_title: str = "ORTHANC", **configuration: Any) -> None:
        self.ae_title = ae_title
        self.dicom_port = 0
        self.log: list[str] = []
        self._folder = folder
        self._configuration = configuration
        self._http_port = 0
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the running Orthanc."""
        return self._running().pid

    def start(self) -> None:
        """Start it and return when it serves; on the same ports as before where it has been stopped.

        Raises
        ------
        OrthancFailed
            It is not installed, or did not start.
        """
        for _ in range(START_ATTEMPTS):
            if not self.dicom_port:
                self.dicom_port, self._http_port = _free_ports()
            if self._launch():
                return
            self.stop()
            self.dicom_port = 0
        raise OrthancFailed(f"Orthanc did not start: {self.log[-3:]}")

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process = None

    @property
    def http_port(self) -> int:
        """Port of its REST interface and, with the plug-in, of DICOMweb."""
        return self._http_port

    def put(self, content: bytes) -> None:
        """Have it store an object, a DICOM file's bytes."""
        self._request("POST", "/instances", content)

    def register(self, ae_title: str, port: int, host: str = "127.0.0.1") -> None:
        """Make a node known as a modality, so that storage commitment reports find it."""
        modality = {"AET": ae_title, "Host": host, "Port": port, "AllowStorageCommitment": True}
        self._request("PUT", f"/modalities/{ae_title}", modality)

    def instances(self, study_instance_uid: str) -> list[Path]:
        """Download every object it holds of a study, to its folder; sorted by SOP Instance UID."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_instance_uid}, "Expand": True}
        found = json.loads(self._request("POST", "/tools/find", query))
        return [
            self._download(item["ID"])
            for item in sorted(found, key=lambda item: item["MainDicomTags"]["SOPInstanceUID"])
        ]

    def count(self, level: str) -> int:
        """Return how many "Patient", "Study", "Series" or "Instance" it holds."""
        statistics = json.loads(self._request("GET", "/statistics"))
        plural = {"Patient": "Patients", "Study": "Studies", "Series": "Series", "Instance": "Instances"}[level]
        return int(statistics[f"Count{plural}"])

    def studies(self, study_instance_uid: str) -> list[dict[str, Any]]:
        """Return what it knows of a study by UID: one entry, if patient and study agree in all objects."""
        query = {"Level": "Study", "Query": {"StudyInstanceUID": study_instance_uid}, "Expand": True}
        found: list[dict[str, Any]] = json.loads(self._request("POST", "/tools/find", query))
        return found

    def _download(self, identifier: str) -> Path:
        path = self._folder / f"{identifier}.dcm"
        path.write_bytes(self._request("GET", f"/instances/{identifier}/file"))
        return path

    def _request(self, method: str, path: str, body: object = None) -> bytes:
        connection = HTTPConnection("127.0.0.1", self._http_port, timeout=REQUEST_TIMEOUT_S)
        try:
            raw = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, raw)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != HTTPStatus.OK:
            raise OrthancFailed(f"Orthanc answered {response.status} to {method} {path}.")
        return content

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise OrthancFailed("Orthanc has not been started.")
        return self._process

    def _launch(self) -> bool:
        program = find_orthanc()
        if program is None:
            raise OrthancFailed("Orthanc is not installed.")
        configuration = self._folder / "orthanc.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration.write_text(json.dumps(self._compose_configuration()), "utf-8")
        environment = {**os.environ, "TCP_NODELAY": "1"}  # DCMTK, inside, would else wait 40 ms with each answer
        self._process = subprocess.Popen(
            [program, str(configuration)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
        )
        serves = threading.Event()
        self._reader = threading.Thread(target=self._read_log, args=(serves,), daemon=True)
        self._reader.start()
        return serves.wait(START_TIMEOUT_S) and self._process.poll() is None

    def _read_log(self, serves: threading.Event) -> None:
        """Keep the log; ``serves`` is set when it has started, and when it ends: nobody waits for a dead one."""
        process = self._running()
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line.rstrip())
            if _STARTED in line:
                serves.set()
        process.wait()
        serves.set()

    def _compose_configuration(self) -> dict[str, Any]:
        storage = str(self._folder / "storage")
        return {
            "Name": "conformance",
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "Plugins": [],
            "HttpPort": self._http_port,
            "RemoteAccessAllowed": False,  # loopback only, where it needs no passwords
            "AuthenticationEnabled": False,
            "DicomAet": self.ae_title,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "DicomThreadsCount": 16,
            "UnknownSopClassAccepted": False,
            "OverwriteInstances": False,
            **self._configuration,
        }


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
