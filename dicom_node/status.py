"""``status``: which nodes live, what waits, and what needs a person, with the command that helps."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from rich.console import Console
from sqlalchemy.engine import make_url

from dicom_node.cli import DONE, FAILED
from dicom_node.errors import StoreError
from dicom_node.overview import Count, NodeState, Overview, Trouble, look
from dicom_node.settings import MEBIBYTE, Settings, load_settings
from dicom_node.store import Store, make_engine
from dicom_node.terminal import make_table, open_console

MOST_SHOWN = 20
NO_NODE = "NO NODE RUNS: nothing is received and nothing goes on until `boneage-node serve` does."
NO_SIGN = "NO NODE RUNS, or one does and has no room left to show that it lives: see below."


def run(options: argparse.Namespace) -> int:
    """Tell the state of the node's store: 0 whatever it is, unless ``--check`` asks for 1 where it needs a person."""
    settings = load_settings(options.config)
    store = open_existing(settings)
    with store.reading() as session:
        overview = look(session, settings)
    store.close()
    if options.json:
        sys.stdout.write(_as_json(overview) + "\n")
    else:
        _print(open_console(), overview, settings)
    return FAILED if options.check and overview.needs_a_person else DONE


def open_existing(settings: Settings) -> Store:
    """Open the store as it is: a command that only looks neither makes a database nor migrates one.

    Raises
    ------
    StoreError
        There is no database yet.
    """
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        raise StoreError("There is no database yet: has the node ever been started with these settings?")
    return Store(make_engine(settings.database_url))


def _as_json(overview: Overview) -> str:
    """Return an overview for machines: times as ISO 8601, UTC."""
    counts = {name: [one._asdict() for one in getattr(overview, name)] for name in ("studies", "deliveries")}
    told = {**asdict(overview), **counts, "needs_a_person": overview.needs_a_person}
    return json.dumps(told, indent=2, default=lambda at: at.isoformat())


def _print(console: Console, overview: Overview, settings: Settings) -> None:
    _print_nodes(console, overview.nodes)
    _print_studies(console, overview.studies)
    _print_deliveries(console, overview.deliveries)
    _print_spool(console, overview, settings.retention.films_days)
    if not overview.lives:
        console.print(NO_NODE if overview.shortage is None else NO_SIGN, soft_wrap=True)
    if overview.shortage is not None:
        console.print(overview.shortage, soft_wrap=True)
    _print_troubles(console, overview.troubles, calm=overview.lives and overview.shortage is None)


def _print_nodes(console: Console, nodes: Sequence[NodeState]) -> None:
    table = make_table("node", "state", "last sign of life", "started", title="Nodes")
    lives = any(node.state == "lives" for node in nodes)
    silent = "SILENT: its work is taken over" if lives else "SILENT: its work waits for it"
    for node in nodes:
        state = silent if node.state == "silent" else node.state
        table.add_row(node.id, state, _time(node.heartbeat_at), _time(node.started_at))
    console.print(table)


def _print_studies(console: Console, studies: Sequence[Count]) -> None:
    table = make_table("studies", "number", title="Studies")
    for one in studies:
        table.add_row(one.state, str(one.number))
    console.print(table)


def _print_deliveries(console: Console, deliveries: Sequence[Count]) -> None:
    table = make_table("peer", "objects", "number", "next try", title="Deliveries")
    for one in deliveries:
        table.add_row(one.peer, one.state, str(one.number), _time(one.next_try_at))
    console.print(table)


def _print_spool(console: Console, overview: Overview, films_days: float | None) -> None:
    """Say how much the spool holds, and how much of that nothing here needs any more."""
    spool, done = overview.spool, overview.spool_of_done
    rule = (
        "films are kept until boneage-node purge" if films_days is None else f"films go {films_days:g} days after that"
    )
    of_done = f"of studies that are done: {done.films}, {done.size_bytes / MEBIBYTE:.1f} MiB"
    all_of_it = f"Films in the spool: {spool.films}, {spool.size_bytes / MEBIBYTE:.1f} MiB"
    console.print(f"{all_of_it}; {of_done} ({rule}).", soft_wrap=True)


def _print_troubles(console: Console, troubles: Sequence[Trouble], *, calm: bool) -> None:
    if not troubles:
        console.print("Nothing needs a person." if calm else "Nothing else needs a person.")
        return
    table = make_table("study", "rev.", "where", "code", "what", "goes on", title="Troubles")
    for trouble in troubles[:MOST_SHOWN]:
        goes_on = _time(trouble.next_try_at) or f"after: boneage-node retry {trouble.study_instance_uid}"
        table.add_row(
            trouble.study_instance_uid, str(trouble.revision), trouble.where, trouble.code, trouble.sentence, goes_on
        )
    console.print(table)
    if any(trouble.next_try_at is None for trouble in troubles):
        console.print("What cannot be mended is given up by boneage-node dismiss STUDY.")
    if len(troubles) > MOST_SHOWN:
        console.print(f"{len(troubles) - MOST_SHOWN} more; boneage-node retry --all tries all of them again.")


def _time(at: datetime | None) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""
