"""``demo``: the whole street on this machine, with sample films, a node and a small archive on loopback."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import as_file, files
from pathlib import Path
from time import monotonic

import sqlalchemy as sa
from PIL import Image
from pydicom import dcmread
from pydicom.uid import UID
from pynetdicom import AE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dicom_node import logs
from dicom_node.archive import Archive, CallBack, StoredObject
from dicom_node.cli import DONE, FAILED
from dicom_node.errors import NodeError, PeerUnreachable
from dicom_node.findings import finding_from_json
from dicom_node.interpret import Interpreter
from dicom_node.ownership import check_ownership
from dicom_node.revisions import DeliveryState, StudyState
from dicom_node.settings import LogSettings, Settings
from dicom_node.status import open_existing
from dicom_node.store import Delivery, Document, FindingRow, Instance, Revision, Store, Study
from dicom_node.terminal import make_table, open_console
from inference.anatomy import ROI_NAMES
from inference.finding import Estimate, Finding

OUTPUT = Path("boneage-demo")
SENDER, ARCHIVE, NODE = "DEMO-SENDER", "DEMO-ARCHIVE", "BONEAGE"
PATIENCE_S = 120.0
TICK_S = 0.2
MONTHS_A_YEAR = 12
SUCCESS = 0x0000
NOTICE = "Research use only: not a medical device, no result may be used for diagnosis or treatment."

_PROGRESS = {
    StudyState.RECEIVING: 1,
    StudyState.ASSEMBLED: 2,
    StudyState.INTERPRETED: 3,
    StudyState.COMPOSED: 4,
    StudyState.SENT: 5,
    StudyState.COMMITTED: 6,
}
_ENDED = frozenset({StudyState.COMMITTED, StudyState.DELIVERED, StudyState.KEPT, StudyState.FAILED})


@dataclass(frozen=True, slots=True)
class Sample:
    """One film to send. ``study_instance_uid`` tells its result from the others'."""

    name: str
    path: Path
    study_instance_uid: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sample."""

    sample: Sample
    state: str  # a StudyState, or "not received"
    finding: Finding | None = None
    seconds: float | None = None  # from its receipt to the last commitment
    documents: int = 0
    committed: int = 0
    errors: tuple[str, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)  # "sr", "sc", "png"

    @property
    def is_committed(self) -> bool:
        """Whether the archive vouches for every object of the study, and there are any."""
        return self.documents > 0 and self.committed == self.documents


def run(options: argparse.Namespace) -> int:
    """Play the demo; 0 only where the archive committed to every object."""
    check_ownership()
    output: Path = options.output or OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    console = open_console()
    console.print(f"boneage-node demo. {NOTICE}", soft_wrap=True)
    with _samples() as samples, _folder(output, keep=options.keep) as data, (output / "node.log").open("w") as log:
        logs.configure(LogSettings(), log)
        with console.status("Loading the model ..."):
            interpreter = _load_interpreter()
        outcomes = play(samples, interpreter, output, data, console)
    print_outcomes(console, outcomes, output)
    return DONE if outcomes and all(outcome.is_committed for outcome in outcomes) else FAILED


def play(
    samples: Sequence[Sample], interpreter: Interpreter, output: Path, data: Path, console: Console
) -> list[Outcome]:
    """Send samples through a node to an archive and fetch the results into ``output``.

    Parameters
    ----------
    data
        Folder for the node's data and the archive's objects.
    """
    from dicom_node.node import Node

    with Archive(data / "archive", ae_title=ARCHIVE) as archive:
        settings = make_settings(data, archive.address[1])
        node = Node(settings, interpreter)
        node.start()
        try:
            archive.call_back = CallBack(*node.address, NODE)
            store = open_existing(settings)
            with contextlib.closing(store), _open_progress(console, samples) as progress:
                _send(samples, node.address)
                _follow(store, samples, archive, progress)
                return [fetch(store, sample, archive, output) for sample in samples]
        finally:
            node.stop()


def make_settings(data: Path, archive_port: int) -> Settings:
    """Return the settings of the demo's node: loopback, a port the system hands out, no quiet period."""
    return Settings.model_validate(
        {
            "node": {"id": "demo", "ae_title": NODE, "data_dir": data / "node"},
            "receive": {"host": "127.0.0.1", "port": 0},
            "peers": [
                {"kind": "archive", "name": "archive", "ae_title": ARCHIVE, "host": "127.0.0.1", "port": archive_port},
                {"kind": "sender", "name": "sender", "ae_title": SENDER, "whole_study_per_association": True},
            ],
        }
    )


def find_samples(folder: Path) -> list[Sample]:
    """Return the films of a folder, by name.

    Raises
    ------
    NodeError
        There are none: the installation is not complete.
    """
    samples = []
    for path in sorted(folder.glob("*.dcm")):
        ds = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        samples.append(Sample(path.stem, path, str(ds.StudyInstanceUID)))
    if not samples:
        raise NodeError("The sample films are missing from this installation: install boneage-node again.")
    return samples


def fetch(store: Store, sample: Sample, archive: Archive, output: Path) -> Outcome:
    """Say what became of a sample, and copy its reports out of the archive."""
    with store.reading() as session:
        study = session.scalars(sa.select(Study).where(Study.study_instance_uid == sample.study_instance_uid)).first()
        if study is None:
            return Outcome(sample, "not received")
        in_study = (Revision.study_id == study.id, Revision.number == study.revision)
        bodies = session.scalars(sa.select(FindingRow.body).join(Revision).where(*in_study)).all()
        rows = session.execute(
            sa.select(Document.kind, Document.sop_instance_uid, Delivery)
            .join(Delivery, Delivery.document_id == Document.id)
            .join(Revision, Revision.id == Document.revision_id)
            .where(*in_study)
        )
        ledger = rows.all()
        received_at = session.scalar(sa.select(sa.func.max(Instance.received_at)).where(Instance.study_id == study.id))
        state = study.state
    committed = [delivery for _, _, delivery in ledger if delivery.state == DeliveryState.COMMITTED]
    return Outcome(
        sample,
        state,
        finding=finding_from_json(bodies[0]) if bodies else None,
        seconds=_seconds(received_at, [delivery.committed_at for delivery in committed]),
        documents=len(ledger),
        committed=len(committed),
        errors=tuple(delivery.error for _, _, delivery in ledger if delivery.error),
        files=_copy_reports({uid: kind for kind, uid, _ in ledger}, archive.objects(sample.study_instance_uid),
                            output / sample.name),
    )  # fmt: skip


def print_outcomes(console: Console, outcomes: Sequence[Outcome], output: Path) -> None:
    """Print the table at the end, and what is wrong where something is."""
    columns = ("study", "bone age", "90 % interval", "ROIs", "seconds", "committed", "SR, SC, PNG of the SC")
    table = make_table(*columns)
    for outcome in outcomes:
        table.add_row(outcome.sample.name, *_describe(outcome), _describe_files(outcome))
    console.print(table)
    console.print(f"Files are in {output.resolve()}, the node's log is node.log there.", soft_wrap=True)
    for outcome in outcomes:
        if not outcome.is_committed:
            why = "; ".join(outcome.errors) or "see node.log"
            console.print(f"NOT COMMITTED: {outcome.sample.name} is {outcome.state}: {why}", soft_wrap=True)
    console.print(NOTICE, soft_wrap=True)


def as_years(months: float) -> str:
    """Write an age in months as years and months: ``99.4`` is ``8 y 3 m``."""
    years, rest = divmod(round(months), MONTHS_A_YEAR)
    return f"{years} y {rest} m"


def _describe(outcome: Outcome) -> Iterator[str]:
    finding = outcome.finding
    if isinstance(finding, Estimate):
        yield as_years(finding.age_months)
        yield f"{as_years(finding.interval_low_months)} to {as_years(finding.interval_high_months)}"
        yield f"{len(finding.rois)} of {len(ROI_NAMES)}"
    else:
        yield f"refused: {finding.code}" if finding else "none"
        yield from ("", "")
    yield "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
    yield f"{outcome.committed} of {outcome.documents}"


def _describe_files(outcome: Outcome) -> str:
    """Return where the reports lie, relative to the output, in one word that a shell understands."""
    names = [outcome.files[kind].name for kind in ("sr", "sc", "png") if kind in outcome.files]
    return f"{outcome.sample.name}/{{{','.join(names)}}}" if names else ""


def _copy_reports(kinds: dict[str, str], objects: Sequence[StoredObject], folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for item in objects:
        kind = kinds.get(item.sop_instance_uid)
        if kind is None:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        found[kind] = folder / f"{kind}.dcm"
        shutil.copyfile(item.path, found[kind])
        if kind == "sc":
            found["png"] = folder / "sc.png"
            Image.fromarray(dcmread(item.path).pixel_array).save(found["png"])
    return found


def _seconds(received_at: datetime | None, committed_at: Sequence[datetime | None]) -> float | None:
    times = [at for at in committed_at if at is not None]
    return (max(times) - received_at).total_seconds() if received_at and times else None


def _send(samples: Sequence[Sample], address: tuple[str, int]) -> None:
    """Send each sample on an association of its own, as a modality does.

    Raises
    ------
    PeerUnreachable
        The node did not accept an association or an object.
    """
    for sample in samples:
        ds = dcmread(sample.path)
        ae = AE(SENDER)
        ae.add_requested_context(UID(ds.SOPClassUID), UID(ds.file_meta.TransferSyntaxUID))
        assoc = ae.associate(*address, ae_title=NODE)
        if not assoc.is_established:
            raise PeerUnreachable(f"The node did not accept an association for {sample.name}.")
        status = assoc.send_c_store(ds).get("Status")
        assoc.release()
        if status != SUCCESS:
            raise PeerUnreachable(f"The node answered {status!r} to {sample.name}.", status)


def _follow(store: Store, samples: Sequence[Sample], archive: Archive, progress: Progress) -> None:
    """Move the bars until every study has ended, or patience has."""
    ends_at = monotonic() + PATIENCE_S
    bars = {sample.study_instance_uid: task for sample, task in zip(samples, progress.task_ids, strict=True)}
    while monotonic() < ends_at:
        with store.reading() as session:
            states = dict(session.execute(sa.select(Study.study_instance_uid, Study.state)).all())
        for uid, task in bars.items():
            state = states.get(uid)
            if state is not None:
                progress.update(task, completed=_PROGRESS.get(StudyState(state), max(_PROGRESS.values())), state=state)
        if all(states.get(uid) in _ENDED for uid in bars):
            return
        objects = len(archive.objects())
        archive.wait_for(lambda a, seen=objects: len(a.objects()) != seen, TICK_S)  # type: ignore[misc]


def _open_progress(console: Console, samples: Sequence[Sample]) -> Progress:
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn(),
        console=console,
    )  # fmt: skip
    for sample in samples:
        progress.add_task(sample.name, total=max(_PROGRESS.values()), state="")
    return progress


@contextlib.contextmanager
def _samples() -> Iterator[list[Sample]]:
    with as_file(files("dicom_node") / "samples") as folder:
        yield find_samples(folder)


@contextlib.contextmanager
def _folder(output: Path, *, keep: bool) -> Iterator[Path]:
    if keep:
        yield output.resolve() / "data"
    else:
        with tempfile.TemporaryDirectory(prefix="boneage-demo-") as folder:
            yield Path(folder)


def _load_interpreter() -> Interpreter:
    from inference.engine import Engine

    return Engine.load(threads=2, device="auto")
