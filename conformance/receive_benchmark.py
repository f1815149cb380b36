"""Receive benchmark: the node's SCP, a raw-bytes pynetdicom SCP and Orthanc side by side, durable, over loopback.

One lean client in a process of its own, the same for all, replays one digital radiograph, encoded beforehand as 16 KiB
PDUs, with new UIDs each time. Each receiver is a process with its files on the same disk and answers Success only after
an fsync; the node also commits a row to SQLite, Orthanc to its index. Rounds of the receivers alternate, and the
figures are medians over the rounds: compare them within one run, never with another machine's.

    python -m conformance.receive_benchmark
    python -m conformance.receive_benchmark --rounds 5 --json figures.json --strict
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from conformance.wire import A_ASSOCIATE_AC_TYPE, STATUS, Wire, c_store_rq, encode_message, encode_request
from inference.film import DX_FOR_PRESENTATION, SUPPORTED_SOP_CLASSES, SUPPORTED_TRANSFER_SYNTAXES

PDU_BYTES = 16_384
OPENINGS = 20
START_TIMEOUT_S = 60.0
MAX_OPENING_MS = 10.0
LEAST_SCALING = 0.95  # "no slower at 16 associations than at 4", with 5 % for noise
MEBI = 1 << 20
CALLED_AE, CALLING_AE = "BONEAGE", "BENCHMARK"
RECEIVERS = ("node", "pynetdicom", "orthanc")
UID_CHARACTERS = 44  # "2.25." and 39 digits: UIDs of one length can take each other's place in encoded PDUs


@dataclass(frozen=True, slots=True)
class Measurement:
    """One receiver with one number of associations, in one round."""

    receiver: str
    associations: int
    images: int
    image_bytes: int
    seconds: float  # from the first byte sent to the last answer
    cpu_ms_per_image: float  # of the receiver, user and system
    rss_mib: float  # of the receiver, the highest so far
    opening_ms: float  # median of OPENINGS associations, from connect to A-ASSOCIATE-AC
    first_opening_ms: float

    @property
    def megabytes_per_s(self) -> float:
        """Throughput in 10^6 bytes per second."""
        return self.images * self.image_bytes / self.seconds / 1e6

    @property
    def images_per_s(self) -> float:
        """Throughput in images per second."""
        return self.images / self.seconds


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver under test, running."""

    name: str
    port: int
    pid: int
    folder: Path

    def forget(self, size_bytes: int) -> None:
        """Remove the objects it holds, known by their size, so that the next one's take their place in memory."""
        for path in self.folder.rglob("*"):
            if path.is_file() and path.stat().st_size >= size_bytes and not path.name.startswith(("node.db", "index")):
                path.unlink()

    def cpu_s(self) -> float:
        """Return the processor time it has taken, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_rss_mib(self) -> float:
        """Return the most memory that was resident at once."""
        for line in Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("The system does not tell how much memory a process has had.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, or, in its own child processes, a receiver or the client; return the exit code."""
    options = _parse(argv)
    if options.serve:
        return _serve(options.serve, options.folder)
    if options.send:
        return _send(json.loads(options.send))
    with tempfile.TemporaryDirectory(prefix="receive-benchmark-", dir=options.folder) as folder:
        measurements = measure(options, Path(folder))
    print(table(measurements))
    verdicts = judge(measurements)
    for sentence, holds in verdicts:
        print(f"{'yes' if holds else 'NO '}  {sentence}")
    if options.json:
        figures = [{**asdict(one), "megabytes_per_s": one.megabytes_per_s} for one in measurements]
        options.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    return 1 if options.strict and not all(holds for _, holds in verdicts) else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="receive_benchmark", description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--receivers", default=",".join(RECEIVERS), help="which, separated by commas")
    parser.add_argument("--associations", default="1,4,16", help="how many at once, separated by commas")
    parser.add_argument("--images", type=int, default=32, help="images per measurement, over all associations")
    parser.add_argument("--megabytes", type=float, default=10.0, help="size of one image")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--folder", type=Path, help="where the receivers' files go: the disk to measure")
    parser.add_argument("--json", type=Path, help="write all measurements here")
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless every requirement holds")
    parser.add_argument("--serve", choices=RECEIVERS, help=argparse.SUPPRESS)
    parser.add_argument("--send", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


def measure(options: argparse.Namespace, folder: Path) -> list[Measurement]:
    """Start the receivers and measure each in turn, round by round."""
    measurements = []
    with contextlib.ExitStack() as stack:
        receivers = []
        for name in options.receivers.split(","):
            if name == "orthanc" and _find_orthanc() is None:
                print("orthanc: not installed, left out")
                continue
            receivers.append(stack.enter_context(running(name, folder / name)))
        for _ in range(options.rounds):
            for associations in map(int, options.associations.split(",")):
                for receiver in receivers:
                    measurements.append(_measure(receiver, associations, options))
                    print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return measurements


def _measure(receiver: Receiver, associations: int, options: argparse.Namespace) -> Measurement:
    order = {
        "port": receiver.port,
        "associations": associations,
        "images": max(1, options.images // associations),
        "bytes": int(options.megabytes * 1e6),
    }
    os.sync()  # what one receiver left to be written or removed is not the next one's to wait for
    cpu_s = receiver.cpu_s()
    sent = subprocess.run(
        [sys.executable, "-m", __spec__.name, "--send", json.dumps(order)], check=True, stdout=subprocess.PIPE
    )
    told = json.loads(sent.stdout)
    receiver.forget(told["image_bytes"])
    return Measurement(
        receiver=receiver.name,
        associations=associations,
        images=told["images"],
        image_bytes=told["image_bytes"],
        seconds=told["seconds"],
        cpu_ms_per_image=(receiver.cpu_s() - cpu_s) * 1e3 / told["images"],
        rss_mib=receiver.peak_rss_mib(),
        opening_ms=statistics.median(told["openings_ms"]),
        first_opening_ms=told["openings_ms"][0],
    )


def table(measurements: Sequence[Measurement]) -> str:
    """Return the medians as a text table."""
    lines = [
        f"{'receiver':<12}{'assoc.':>7}{'MB/s':>9}{'images/s':>10}{'CPU ms/image':>14}{'RSS MiB':>9}{'opening ms':>12}"
    ]
    for receiver, associations in _keys(measurements):
        ones = _of(measurements, receiver, associations)
        lines.append(
            f"{receiver:<12}{associations:>7}"
            f"{statistics.median(one.megabytes_per_s for one in ones):>9.0f}"
            f"{statistics.median(one.images_per_s for one in ones):>10.1f}"
            f"{statistics.median(one.cpu_ms_per_image for one in ones):>14.1f}"
            f"{max(one.rss_mib for one in ones):>9.0f}"
            f"{statistics.median(one.opening_ms for one in ones):>12.2f}"
        )
    return "\n".join(lines)


def judge(measurements: Sequence[Measurement]) -> list[tuple[str, bool]]:
    """Return what is required of the node, and whether it holds; only what was measured is judged."""
    verdicts = []
    speed = {
        key: statistics.median(one.megabytes_per_s for one in _of(measurements, *key)) for key in _keys(measurements)
    }
    if ("node", 4) in speed and ("orthanc", 4) in speed:
        ratio = speed["node", 4] / speed["orthanc", 4]
        verdicts.append((f"ahead of Orthanc at 4 associations: {ratio:.2f} times", ratio > 1))
    if ("node", 4) in speed and ("node", 16) in speed:
        ratio = speed["node", 16] / speed["node", 4]
        verdicts.append((f"no slower at 16 associations than at 4: {ratio:.2f} times", ratio >= LEAST_SCALING))
    openings = [one.opening_ms for one in measurements if one.receiver == "node"]
    if openings:
        opening_ms = statistics.median(openings)
        verdicts.append((f"an association opens in {opening_ms:.2f} ms, at most 10", opening_ms <= MAX_OPENING_MS))
    return verdicts


def _keys(measurements: Sequence[Measurement]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((one.receiver, one.associations) for one in sorted(measurements, key=_order)))


def _order(one: Measurement) -> tuple[int, int]:
    return RECEIVERS.index(one.receiver), one.associations


def _of(measurements: Sequence[Measurement], receiver: str, associations: int) -> list[Measurement]:
    return [one for one in measurements if (one.receiver, one.associations) == (receiver, associations)]


# The receivers


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Receiver]:
    """Run a receiver in a process of its own until the block ends."""
    folder.mkdir()
    if name == "orthanc":
        process, port = _start_orthanc(folder)
    else:
        command = [sys.executable, "-m", __spec__.name, "--serve", name, "--folder", str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        port = int(process.stdout.readline())
    try:
        yield Receiver(name, port, process.pid, folder)
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()


def _serve(name: str, folder: Path) -> int:
    """Child process: run one receiver until SIGTERM, having printed its port."""
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    start = _start_node if name == "node" else _start_pynetdicom
    port, stop = start(folder)
    print(port, flush=True)
    leave.wait()
    stop()
    return 0


def _start_node(folder: Path) -> tuple[int, Callable[[], None]]:
    import structlog

    from dicom_node.intake import Intake
    from dicom_node.receive import Receiver as NodeReceiver
    from dicom_node.settings import NodeSettings, ReceiveSettings
    from dicom_node.spool import Spool
    from dicom_node.store import open_store

    log = (folder / "log").open("w", encoding="utf-8")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
    store = open_store(f"sqlite:///{folder / 'node.db'}")
    intake = Intake(store, folder / "spool", quiet_period_s=10.0, whole_study_callers=(), node_id="benchmark")
    receiver = NodeReceiver(
        ReceiveSettings(port=0, accept_unknown_callers=True),
        NodeSettings(data_dir=folder),
        (),
        Spool(folder / "spool"),
        intake.record,
        lambda _: None,
        lambda _: 0,
    )
    receiver.start()

    def stop() -> None:
        receiver.stop()
        store.close()
        log.close()

    return receiver.address[1], stop


def _start_pynetdicom(folder: Path) -> tuple[int, Callable[[], None]]:
    """Start pynetdicom as it comes; the object is written as raw bytes and synchronised."""

    def store(event: evt.Event) -> int:
        path = folder / f"{uuid.uuid4().hex}.dcm"
        with path.open("wb") as file:
            file.write(event.encoded_dataset())
            file.flush()
            os.fsync(file.fileno())
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        return 0

    ae = AE(CALLED_AE)
    ae.maximum_associations = 64
    for sop_class_uid in SUPPORTED_SOP_CLASSES:
        ae.add_supported_context(sop_class_uid, list(SUPPORTED_TRANSFER_SYNTAXES))
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    return server.server_address[1], server.shutdown


def _find_orthanc() -> str | None:
    return shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _start_orthanc(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start Orthanc with as many DICOM threads as the client has associations, synchronous, without Nagle's delay."""
    program = _find_orthanc()
    assert program is not None
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, http_port = one.getsockname()[1], other.getsockname()[1]
    configuration = {
        "Name": "benchmark",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "SyncStorageArea": True,
        "StorageCompression": False,
        "DicomAet": CALLED_AE,
        "DicomPort": port,
        "DicomThreadsCount": 16,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration), "utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")],
            stdout=log,
            stderr=log,
            env={**os.environ, "TCP_NODELAY": "1"},  # read by DCMTK, which Orthanc is built on
        )
    until = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > until or process.poll() is not None:
                raise
            time.sleep(0.1)
        else:
            return process, port


# The client


def _send(order: dict[str, int]) -> int:
    """Child process: send images on several associations at once and print, as JSON, how it went."""
    openings_ms = [_time_opening(order["port"]) for _ in range(OPENINGS)]
    image = encode_image(order["bytes"])
    senders = [Sender(order["port"], image) for _ in range(order["associations"])]
    start = threading.Barrier(len(senders) + 1)
    threads = [threading.Thread(target=sender.run, args=(order["images"], start)) for sender in senders]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    statuses = [status for sender in senders for status in sender.statuses]
    images = order["images"] * order["associations"]
    if statuses != [0] * images:
        print(f"not all images were taken: {len(statuses)} answers, statuses {set(statuses)}", file=sys.stderr)
        return 1
    told = {"openings_ms": openings_ms, "images": images, "image_bytes": len(image), "seconds": seconds}
    print(json.dumps(told))
    return 0


def encode_image(size_bytes: int) -> bytes:
    """Return the data set of a digital radiograph (DX for presentation, Explicit VR Little Endian) of about a size."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.SOPClassUID = DX_FOR_PRESENTATION
    ds.SOPInstanceUID = _new_uid()
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = "20260101"
    ds.StudyTime = "120000"
    ds.Modality = "DX"
    ds.PatientName = "Benchmark"
    ds.PatientID = "BENCHMARK"
    ds.StudyInstanceUID = _new_uid()
    ds.SeriesInstanceUID = _new_uid()
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = max(1, round((size_bytes / 2 / 1.25) ** 0.5))
    ds.Columns = max(1, size_bytes // 2 // ds.Rows)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    rng = np.random.default_rng(0)
    ds.PixelData = rng.integers(0, 4096, (ds.Rows, ds.Columns), dtype=np.uint16).tobytes()
    encoded = io.BytesIO()
    dcmwrite(encoded, ds, implicit_vr=False, little_endian=True)
    return encoded.getvalue()


def _new_uid() -> str:
    return f"2.25.{random.randrange(10**38, 2**128)}"  # noqa: S311 - no secret


class Sender:
    """One association that sends an image again and again, each time with new UIDs.

    Parameters
    ----------
    port
        Of the receiver, on loopback.
    image
        An encoded data set.
    """

    def __init__(self, port: int, image: bytes) -> None:
        self._wire = Wire(port, REQUEST)
        instance_uid, study_uid = (image[_find(image, element) :][:UID_CHARACTERS] for element in (_INSTANCE, _STUDY))
        command = c_store_rq(DX_FOR_PRESENTATION, instance_uid.decode("ascii"))
        pdu_bytes = min(PDU_BYTES, self._wire.maximum_length or PDU_BYTES)
        self._message = bytearray(encode_message(command, image, 1, pdu_bytes))
        self._instance_at = _places(self._message, instance_uid)
        self._study_at = _places(self._message, study_uid)
        self.statuses: list[int | str | bytes] = []

    def run(self, images: int, start: threading.Barrier) -> None:
        """Send images one after the other, then release."""
        self._stamp(self._study_at)
        start.wait()
        with self._wire:
            for _ in range(images):
                self._stamp(self._instance_at)
                self._wire.send(self._message)
                self.statuses.append(self._wire.read_response()[STATUS])
            self._wire.release()

    def _stamp(self, places: Sequence[int]) -> None:
        uid = _new_uid().encode("ascii")
        for place in places:
            self._message[place : place + UID_CHARACTERS] = uid


_INSTANCE = struct.pack("<HH2sH", 0x0008, 0x0018, b"UI", UID_CHARACTERS)
_STUDY = struct.pack("<HH2sH", 0x0020, 0x000D, b"UI", UID_CHARACTERS)


def _find(image: bytes, element: bytes) -> int:
    return image.index(element) + len(element)


def _places(message: bytearray, uid: bytes) -> list[int]:
    """Return where a UID stands: in command and data set, at the message's beginning."""
    beginning = message[:PDU_BYTES]
    return [place for place in range(len(beginning)) if beginning.startswith(uid, place)]


def _time_opening(port: int) -> float:
    """Return how many ms it takes from connect to A-ASSOCIATE-AC."""
    began = time.perf_counter()
    with Wire(port, REQUEST) as wire:
        opening_ms = (time.perf_counter() - began) * 1e3
        if wire.answer[0] != A_ASSOCIATE_AC_TYPE:
            raise RuntimeError(f"The receiver answered the association request with a PDU of type {wire.answer[0]}.")
        wire.release()
    return opening_ms


REQUEST = encode_request(
    [
        (DX_FOR_PRESENTATION, [ExplicitVRLittleEndian]),
        *((DX_FOR_PRESENTATION, [syntax]) for syntax in SUPPORTED_TRANSFER_SYNTAXES),
        *((sop_class_uid, [ImplicitVRLittleEndian, ExplicitVRLittleEndian]) for sop_class_uid in SUPPORTED_SOP_CLASSES),
    ],
    calling_ae=CALLING_AE,
    called_ae=CALLED_AE,
)
"""As a modality might ask: one class in all its syntaxes, the others uncompressed."""


if __name__ == "__main__":
    sys.exit(main())
