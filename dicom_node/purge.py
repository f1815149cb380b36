"""``purge``: remove the files of films, and of documents, of studies that are done; or only say which."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime, timedelta

from rich.console import Console

from dicom_node import logs
from dicom_node.cli import DONE
from dicom_node.errors import SettingsError
from dicom_node.retention import Limits, Portion, Purger, limits_of
from dicom_node.settings import DAY_S, MEBIBYTE, LogSettings, Settings, SettingsProblem, load_settings
from dicom_node.status import MOST_SHOWN, open_existing
from dicom_node.store import now
from dicom_node.terminal import make_table, open_console


def run(options: argparse.Namespace) -> int:
    """Print what may go, and remove it unless only asked; 0 also where there is nothing."""
    settings = load_settings(options.config)
    limits = _limits(options, settings)
    logs.configure(LogSettings(level="WARNING", format="console"))
    store = open_existing(settings)
    purger = Purger(store, settings)
    portions = purger.find(limits) if options.dry_run else purger.purge(limits)
    store.close()
    _print(open_console(), portions, is_gone=not options.dry_run)
    return DONE


def _limits(options: argparse.Namespace, settings: Settings) -> Limits:
    """Return what the command line lets go, or the settings where it says no days."""
    at = now()
    if options.older_than is None and options.documents:
        raise SettingsError(SettingsProblem("", "--documents", "It has no days.", "Give --older-than DAYS with it."))
    if options.older_than is None:
        limits = limits_of(settings.retention, at)
        if limits == Limits(None, None):
            what = "Nothing says how old films must be before they may go."
            raise SettingsError(SettingsProblem("retention", "films_days", what, "Set it, or give --older-than DAYS."))
        return limits
    before = at - timedelta(seconds=options.older_than * DAY_S)
    return Limits(before, before if options.documents else None)


def _print(console: Console, portions: Sequence[Portion], *, is_gone: bool) -> None:
    if not portions:
        console.print(
            "Nothing may go: what there is is younger, or not done yet. boneage-node status says what is open."
        )
        return
    table = make_table("study", "last received", "what", "objects", "MiB", title="Gone" if is_gone else "May go")
    for one in portions[:MOST_SHOWN]:
        size = f"{one.size_bytes / MEBIBYTE:.1f}"
        table.add_row(one.study_instance_uid, _day(one.last_received_at), one.what, str(one.objects), size)
    console.print(table)
    if len(portions) > MOST_SHOWN:
        console.print(f"{len(portions) - MOST_SHOWN} more.")
    studies = len({one.study_id for one in portions})
    of = "1 study" if studies == 1 else f"{studies} studies"
    files, size_mib = sum(one.objects for one in portions), sum(one.size_bytes for one in portions) / MEBIBYTE
    end = "Findings and ledger stay." if is_gone else "Nothing was removed."
    console.print(f"Files of {of}: {files}, {size_mib:.1f} MiB. {end}", soft_wrap=True)


def _day(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d")
