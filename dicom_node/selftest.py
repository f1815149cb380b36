"""``selftest PEER``: send a marked test study with every kind of document, and say what the archive took of it.

The study is a sample film (a composite, nobody's hand) under a test patient, with a made-up result that says so. It
stays in the archive: its PatientID says what it is, and the same UIDs are sent each time, so that there is never more
than one. At the end the archive is asked to vouch for what it took (storage commitment).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, FileDataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node import __version__
from dicom_node.cli import DONE, FAILED
from dicom_node.commitment import compose_request
from dicom_node.deliver import ANSWER_WAIT_S, REQUEST_COMMITMENT, ReportAnswers, judge_status
from dicom_node.echo import find_archive, stand_in, why_no_association
from dicom_node.profile import fitted
from dicom_node.requestor import SUCCESS, calling
from dicom_node.settings import ArchivePeer, Settings, load_settings
from dicom_node.terminal import open_console
from dicom_node.vouching import Awaited, listening, noted_by_node
from inference.film import display_bytes, read_film
from inference.finding import Box, Estimate, Flag, Laterality, ModelIdentity
from inference.subject import read_subject
from reports.character_sets import UTF_8, in_character_set
from reports.clinic import assess
from reports.identity import KINDS, SOP_CLASSES, DocumentIdentity, Kind, derived_uid, device_uid
from reports.key_objects import Capture
from reports.kinds import Choices, compose

PATIENT = "BONEAGE-TEST"
SAMPLE = "boy-12.dcm"
NOTICE = Flag("self-test", "This is a test of the connection to the archive, not a result.")
REPORT_WAIT_S = 20.0
NO_COMMITMENT = "have the archive's administrator allow it, or say commitment = false"
NO_REPORT = "let the archive know this node's AE title, address and port, to which it reports"
MADE_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)  # fixed, as the UIDs are: the same study each time


def run(options: argparse.Namespace) -> int:
    """Send the study and print what became of each object; 0 only where all that settings deliver was taken."""
    settings = load_settings(options.config)
    peer = find_archive(settings, options.peer)
    console = open_console()
    console.print(
        f"{peer.name}: a test study of patient {PATIENT}, as {settings.node.ae_title}, in {peer.character_set}"
    )
    well = True
    for wanted, fine, sentence in send(settings, peer):
        mark = "ok    " if fine else "FAILED" if wanted else "no    "
        console.print(f"  {mark} {sentence}", soft_wrap=True)
        well = well and (fine or not wanted)
    return DONE if well else FAILED


Said = tuple[bool, bool, str]
"""Whether the settings want it, whether it is well, and what to say of it."""


def send(settings: Settings, peer: ArchivePeer, *, report_wait_s: float = REPORT_WAIT_S) -> Iterator[Said]:
    """Yield for each object whether the settings deliver it, whether it was taken, and what to say of it.

    A report that is not taken is no failure where one that stands for it is. Last comes what became of storage
    commitment, for whose report ``report_wait_s`` seconds are waited.
    """
    film = make_film()
    objects: list[tuple[Kind | None, Dataset]] = [(None, in_character_set(film, peer.character_set) or film)]
    objects += [(kind, fitted(make_document(kind, film, settings, peer), kind, peer)) for kind in KINDS]
    awaited = Awaited()
    answers = ReportAnswers(awaited.take)
    with listening(settings, awaited.take):
        assoc = _associate(settings, peer, [ds for _, ds in objects], answers)
        if not assoc.is_established:
            yield True, False, why_no_association(assoc)
            return
        try:
            yield from _send_all(assoc, peer, objects, partial(_vouch, settings, awaited, report_wait_s))
        finally:
            answers.settle(ANSWER_WAIT_S)
            if assoc.is_established:
                assoc.release()


def _associate(settings: Settings, peer: ArchivePeer, objects: Sequence[Dataset], answers: ReportAnswers) -> Any:
    ae = calling(settings.node, settings.deliver)
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    contexts = [build_context(ds.SOPClassUID, syntax) for ds in objects for syntax in syntaxes]
    contexts.append(build_context(StorageCommitmentPushModel))
    return ae.associate(peer.host, peer.port, contexts=contexts, ae_title=peer.ae_title, evt_handlers=answers.handlers)


def _send_all(
    assoc: Any,
    peer: ArchivePeer,
    objects: Sequence[tuple[Kind | None, Dataset]],
    vouch: Callable[[Any, Sequence[Dataset]], tuple[bool, str]],
) -> Iterator[Said]:
    accepted: dict[str, str] = {}
    for context in assoc.accepted_contexts:
        accepted.setdefault(str(context.abstract_syntax), UID(context.transfer_syntax[0]).name)
    delivered = _delivered(peer, accepted)
    taken = []
    for kind, ds in objects:
        fine, sentence = _send(assoc, ds, accepted.get(str(ds.SOPClassUID)))
        yield kind in delivered, fine, sentence
        if not assoc.is_established:
            yield True, False, "the association ended before everything was sent; look at the archive's log"
            return
        taken += [ds] if fine else []
    if StorageCommitmentPushModel not in accepted:
        yield peer.commitment, False, f"storage commitment: not accepted; {NO_COMMITMENT}"
    elif taken:
        fine, sentence = vouch(assoc, taken)
        yield peer.commitment, fine, f"storage commitment: {sentence}"


def _vouch(
    settings: Settings, awaited: Awaited, wait_s: float, assoc: Any, taken: Sequence[Dataset]
) -> tuple[bool, str]:
    """Have the archive vouch for what it took; return whether it does for all, and what to say."""
    request = compose_request(awaited.transaction_uid, ((str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in taken))
    model, instance = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    try:
        answer, _ = assoc.send_n_action(request, REQUEST_COMMITMENT, model, instance)
    except RuntimeError:
        return False, "the association was gone before it was asked for"
    status = answer.get("Status")
    if status != SUCCESS:
        said = "no answer" if status is None else f"the request got status 0x{status:04X}"
        return False, f"{said}; {NO_COMMITMENT}"
    with noted_by_node(settings) as look:
        vouched = awaited.wait(wait_s, look)
    if vouched is None:
        return False, f"the request was taken, and no report came within {wait_s:.0f} s; {NO_REPORT}"
    if vouched.failed or vouched.committed < len(taken):
        return False, f"{vouched.committed} of {len(taken)} objects are committed; look at the archive's log"
    return True, f"all {len(taken)} objects are committed"


def _delivered(peer: ArchivePeer, accepted: Collection[str]) -> set[Kind]:
    """Return the kinds that the node would send to a peer that accepts these SOP classes."""
    delivered: set[Kind] = set(peer.deliver)
    substitute = stand_in(peer, accepted)
    if SOP_CLASSES["sr"] in accepted or substitute is None:
        return delivered
    return {substitute if SOP_CLASSES[kind] == SOP_CLASSES["sr"] else kind for kind in delivered}


def _send(assoc: Any, ds: Dataset, syntax: str | None) -> tuple[bool, str]:
    """Send one object; return whether it was taken and what to say of it."""
    name = UID(ds.SOPClassUID).name
    if syntax is None:
        return False, f"{name}: not accepted; have the archive's administrator allow it"
    try:
        status = assoc.send_c_store(ds).get("Status")
    except RuntimeError:
        return False, f"{name}: the association was gone before it was sent"
    if status is None:
        return False, f"{name}: no answer; look at the archive's log"
    problem = judge_status(status)
    said = f"{name}: {syntax}, status 0x{status:04X}"
    return problem is None, said if problem is None else f"{said}. {problem}"


def make_film() -> FileDataset:
    """Return the test film: a shipped sample under the test patient."""
    with resources.as_file(resources.files("dicom_node").joinpath("samples", SAMPLE)) as path:
        film = dcmread(path)
    film.decompress(generate_instance_uid=False)
    film.PatientID, film.PatientName = PATIENT, f"{PATIENT}^Bone Age"
    film.StudyInstanceUID, film.SeriesInstanceUID = derived_uid("selftest", "study"), derived_uid("selftest", "series")
    film.SOPInstanceUID = derived_uid("selftest", "film")
    film.file_meta.MediaStorageSOPInstanceUID = UID(film.SOPInstanceUID)
    film.StudyDescription = "Test of the connection, not a patient"
    film.AccessionNumber = ""
    return film


def make_document(kind: Kind, film: Dataset, settings: Settings, peer: ArchivePeer) -> FileDataset:
    """Return one document of the made-up result, as it is before it is fitted to an archive."""
    model = ModelIdentity("self-test", "Self-test, no model", __version__, "0" * 64)
    rows, columns = int(film.Rows), int(film.Columns)
    hand = Box(columns * 0.2, rows * 0.1, columns * 0.8, rows * 0.9)
    subject = replace(read_subject(film), flags=())
    finding = Estimate(144.0, 132.0, 156.0, 0.9, subject, Laterality.LEFT, hand, (), 1, 1.0, (NOTICE,), model)
    series_uid, sop_uid = _uids(kind, settings, peer)
    identity = DocumentIdentity(
        sop_instance_uid=sop_uid,
        series_instance_uid=series_uid,
        series_number=9900 + KINDS.index(kind),
        instance_number=1,
        created_at=MADE_AT,
        device_uid=device_uid("selftest"),
        station_name=settings.node.station_name,
        software_version=__version__,
    )
    choices = Choices(
        assessment=assess(finding),
        language=settings.compose.language,
        capture=Capture(*_uids("sc", settings, peer)),
    )
    display = partial(_display, film)
    return compose(kind, film, finding, identity, display=display, choices=choices)


def _uids(kind: Kind, settings: Settings, peer: ArchivePeer) -> tuple[str, str]:
    """Return the Series and the SOP Instance UID of a test document: other ones where its bytes are others.

    An archive that has the object already might keep it as it was, which would show nothing of other settings.
    """
    parts = [kind, __version__, settings.compose.language, settings.node.station_name]
    parts += [] if peer.character_set == UTF_8 else [peer.character_set]
    parts += [] if peer.series_numbers_from is None else [str(peer.series_numbers_from)]
    return derived_uid("selftest", "series", *parts), derived_uid("selftest", "instance", *parts)


def _display(film: Dataset) -> npt.NDArray[np.uint8]:
    return display_bytes(read_film(film))
