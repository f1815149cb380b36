"""``echo PEER``: whether a peer answers, and would take what this node sends."""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Iterator
from typing import Any

from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_node.cli import DONE, FAILED
from dicom_node.errors import SettingsError
from dicom_node.requestor import SUCCESS, calling
from dicom_node.settings import ArchivePeer, Settings, SettingsProblem, load_settings
from dicom_node.terminal import open_console
from reports.identity import SOP_CLASSES, Kind


def run(options: argparse.Namespace) -> int:
    """Open an association, send a C-ECHO, and print what the peer accepts; 0 only where all of it is well."""
    settings = load_settings(options.config)
    peer = find_archive(settings, options.peer)
    console = open_console()
    console.print(f"{peer.name}: {peer.ae_title} at {peer.host}:{peer.port}, called by {settings.node.ae_title}")
    well = True
    for fine, sentence in probe(settings, peer):
        console.print(f"  {'ok    ' if fine else 'FAILED'} {sentence}", soft_wrap=True)
        well = well and fine
    return DONE if well else FAILED


def find_archive(settings: Settings, name: str) -> ArchivePeer:
    """Return the archive of that name; SettingsError where there is none."""
    for peer in settings.archives:
        if peer.name == name:
            return peer
    if any(peer.name == name for peer in settings.worklists):
        what, remedy = "This peer is a worklist: nothing is stored there.", "Query it with another program."
    elif any(peer.name == name for peer in settings.senders):
        what, remedy = "This peer is a sender: it has no port to call.", "Send a C-ECHO from its side to this node."
    else:
        names = ", ".join(peer.name for peer in settings.archives) or "none"
        what, remedy = "No peer has this name.", f"Archives that are configured: {names}."
    raise SettingsError(SettingsProblem("peers", "", what, remedy))


def probe(settings: Settings, peer: ArchivePeer) -> Iterator[tuple[bool, str]]:
    """Yield what was found, step by step: whether it is well, and a sentence with its remedy."""
    ae = calling(settings.node, settings.deliver)
    ae.add_requested_context(Verification)
    wanted = {Verification: "Verification (C-ECHO)"}
    for kind in peer.deliver:
        wanted[UID(SOP_CLASSES[kind])] = f"storage of {UID(SOP_CLASSES[kind]).name}"
    others = {SOP_CLASSES[kind] for kind in peer.composed} - set(wanted)
    for sop_class_uid in sorted({*wanted, *others} - {Verification}):
        ae.add_requested_context(sop_class_uid, ExplicitVRLittleEndian)
    if peer.commitment:
        wanted[StorageCommitmentPushModel] = "storage commitment"
        ae.add_requested_context(StorageCommitmentPushModel)
    start = time.perf_counter()
    assoc = ae.associate(peer.host, peer.port, ae_title=peer.ae_title)
    took_ms = (time.perf_counter() - start) * 1000
    if not assoc.is_established:
        yield False, why_no_association(assoc)
        return
    yield True, f"association opened in {took_ms:.0f} ms"
    accepted = {context.abstract_syntax for context in assoc.accepted_contexts}
    for abstract_syntax, name in wanted.items():
        fine = abstract_syntax in accepted
        substitute = stand_in(peer, accepted)
        if not fine and abstract_syntax == SOP_CLASSES["sr"] and substitute is not None:
            yield True, f"does not accept {name}: it will get {UID(SOP_CLASSES[substitute]).name} in its place"
            continue
        yield fine, f"accepts {name}" if fine else f"does not accept {name}: have the peer's administrator allow it"
    if Verification in accepted:
        status = assoc.send_c_echo().get("Status")
        yield status == SUCCESS, "answered C-ECHO" if status == SUCCESS else f"answered C-ECHO with {status!r}"
    assoc.release()


def stand_in(peer: ArchivePeer, accepted: Collection[str]) -> Kind | None:
    """Return what a peer that accepts these SOP classes gets in place of a report (see ``dicom_node.ledger``).

    What it is sent anyway stands for nothing else.
    """
    others = (kind for kind in peer.sr_fallback if kind not in peer.deliver)
    return next((kind for kind in others if SOP_CLASSES[kind] in accepted), None)


def why_no_association(assoc: Any) -> str:
    """Say why there is no association, and what to check."""
    if assoc.is_rejected:
        return "the association was rejected: both AE titles must be known to the peer, and spelled as it spells them"
    if assoc.acceptor.primitive is None:
        return "no connection: check host, port, firewall, and that the peer runs"
    return "the peer aborted the association or accepted no presentation context"
