"""``settings check`` and ``settings show``: what is wrong with a settings file, and what it amounts to."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from dicom_node.cli import DONE, WRONG_USAGE
from dicom_node.errors import SettingsError
from dicom_node.folders import find_unwritable
from dicom_node.ownership import check_ownership
from dicom_node.settings import InterpretSettings, Settings, SettingsProblem, load_settings
from dicom_node.terminal import make_table, open_console
from inference.bundle import DETECTOR, SEPARATOR, list_methods, open_bundle
from inference.catalogue import identify, read_bundle
from inference.engine import read_intervals
from inference.ensemble import read_members
from inference.errors import BundleError
from inference.method import open_method
from inference.recalibration import Recalibration

CONNECT_TIMEOUT_S = 5


def check(options: argparse.Namespace) -> int:
    """Print every problem with section, key and remedy; exit code 0 where the node would start, else 2."""
    console = open_console()
    problems: list[SettingsProblem] = []
    try:
        settings = load_settings(options.config)
        problems += find_hindrances(settings)
    except SettingsError as error:
        problems += [problem for problem in error.problems if isinstance(problem, SettingsProblem)]
    else:
        _print_remarks(console, settings)
    try:
        check_ownership()
    except SettingsError as error:
        problems += [problem for problem in error.problems if isinstance(problem, SettingsProblem)]
    if not problems:
        console.print("The settings are complete and the node would start.")
        return DONE
    _print_problems(console, problems)
    return WRONG_USAGE


def show(options: argparse.Namespace) -> int:
    """Print the settings in force as TOML, defaults included, secrets masked."""
    settings = load_settings(options.config)
    open_console().print("\n".join(render(settings)), markup=False, highlight=False, soft_wrap=True)
    return DONE


def find_hindrances(settings: Settings) -> Iterator[SettingsProblem]:
    """Yield what on this machine would keep a node with these settings from starting."""
    yield from _find_store_hindrances(settings)
    yield from _find_model_hindrances(settings.interpret)
    with contextlib.suppress(SettingsError):  # named above
        yield from find_unwritable(settings)


def _find_store_hindrances(settings: Settings) -> Iterator[SettingsProblem]:
    try:
        url = make_url(settings.database_url)
    except SettingsError as error:
        yield from (problem for problem in error.problems if isinstance(problem, SettingsProblem))
        return
    if url.get_backend_name() == "postgresql":
        yield from _find_connection_hindrances(url, "url_file" if settings.store.url_file else "url")


def _find_model_hindrances(interpret: InterpretSettings) -> Iterator[SettingsProblem]:
    """Open what the engine opens, without its networks: hashes, intervals, and the site's recalibration."""
    try:
        open_bundle(DETECTOR)
        _open_method(interpret.method)
    except BundleError as error:
        remedy = (
            f"Do so, or choose another method; boneage-node models verify {interpret.method} says all that is wrong."
        )
        yield SettingsProblem("interpret", "method", str(error), remedy)
        return
    try:
        if interpret.stages is not None:
            open_bundle(interpret.stages)
    except BundleError as error:
        remedy = f"Do so, or leave the key out; boneage-node models verify {interpret.stages} says all that is wrong."
        yield SettingsProblem("interpret", "stages", str(error), remedy)
    try:
        if interpret.recalibration is not None:
            calibration, _ = read_intervals(read_bundle(interpret.method))
            Recalibration.read(interpret.recalibration).check(identify(interpret.method), calibration)
    except BundleError as error:
        remedy = "Name the file that was fitted with these weights and intervals, or leave the key out."
        yield SettingsProblem("interpret", "recalibration", str(error), remedy)


def _open_method(name: str) -> None:
    """Open a method as the engine does, and each member of an ensemble; BundleError where the engine would raise it."""
    bundle = open_bundle(name)
    read_intervals(bundle)
    for member in read_members(bundle) or (name,):
        open_method(member, open_bundle(member).config)


def _find_connection_hindrances(url: URL, key: str) -> Iterator[SettingsProblem]:
    """Try the database; SQLite is not tried, for that would make it."""
    arguments = {"connect_timeout": CONNECT_TIMEOUT_S}
    engine = create_engine(url.set(drivername="postgresql+psycopg"), connect_args=arguments, poolclass=NullPool)
    try:
        engine.connect().close()
    except SQLAlchemyError as error:
        what = f"PostgreSQL does not let this node in ({type(error).__name__})."  # its own words may quote the URL
        yield SettingsProblem("store", key, what, "Check host, port, user, password, database, and that it runs.")


def find_remarks(settings: Settings) -> Iterator[str]:
    """Yield what is allowed, but seldom meant."""
    receive = settings.receive
    if not settings.senders and not receive.accept_unknown_callers:
        yield "peers: no sender is configured and unknown callers are refused, so nobody may send."
    if not settings.archives:
        yield "peers: no archive is configured, so results stay on this node."
    if receive.accept_unknown_callers and receive.host not in ("127.0.0.1", "::1", "localhost"):
        yield "receive.accept_unknown_callers: anyone who reaches this address may send."
    for peer in settings.archives:
        if not peer.commitment:
            yield f"peers: {peer.name} has commitment = false; nothing there will ever be shown as committed."
    yield from _unconverged_methods(settings)
    yield from _unfit_shadows(settings.interpret)
    yield from _unadvised_recalibration(settings.interpret)


def _unfit_shadows(interpret: InterpretSettings) -> Iterator[str]:
    """Say of each shadow method that could not be opened: the node starts, and nothing is read with it."""
    for name in interpret.shadow:
        try:
            _open_method(name)
        except BundleError as error:
            yield f"interpret.shadow: nothing would be read with {name}. {error}"


def _unadvised_recalibration(interpret: InterpretSettings) -> Iterator[str]:
    """Repeat what a recalibration file says of itself, where that is to leave it; hindrances say if it is unfit."""
    if interpret.recalibration is None:
        return
    try:
        recalibration = Recalibration.read(interpret.recalibration)
    except BundleError:
        return
    if recalibration.is_advised_against:
        yield f"interpret.recalibration: the file itself advises against its use. {recalibration.advice}"


def _unconverged_methods(settings: Settings) -> Iterator[str]:
    """Say of each method that reads films here whether its training did not converge."""
    interpret = settings.interpret
    places = [
        ("method", interpret.method),
        ("stages", interpret.stages),
        *(("shadow", name) for name in interpret.shadow),
    ]
    for key, name in places:
        for member in [] if name is None else [name] if name in list_methods() else name.split(SEPARATOR):
            bundle = read_bundle(member)
            if bundle.unconverged is not None:
                yield (
                    f"interpret.{key}: {member} is unconverged ({bundle.unconverged}); reports say so in the model's "
                    f"version, {bundle.version}."
                )


def render(settings: Settings) -> Iterator[str]:
    """Yield the lines of a TOML text that says what is in force; it loads again unless a secret was masked."""
    tables: dict[str, Any] = settings.model_dump(mode="json")
    for name, table in tables.items():
        rows = table if name == "peers" else [table]
        for row in rows:
            yield f"[[{name}]]" if name == "peers" else f"[{name}]"
            if name == "store":
                yield f"# in force: {mask(settings.database_url)}"
            for key, value in row.items():
                if value is not None:
                    yield f"{key} = {json.dumps(mask(value) if key == 'url' else value, ensure_ascii=False)}"
            yield ""


_BACKENDS = ("sqlite", "postgresql")
"""Databases whose URLs may be shown but for their secrets."""


def mask(url: str) -> str:
    """Return a database URL without its password and its query, which may hold one, or without all that is doubtful."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "***"
    if parsed.get_backend_name() not in _BACKENDS:  # no database's URL: all of it may be a secret
        return "***"
    # An unescaped @ puts the end of a password into the host.
    if url.count("@") > 1 or not re.fullmatch(r"[\w.-]*", parsed.host or ""):
        return f"{parsed.drivername}://***"
    shown = parsed.set(query={}).render_as_string(hide_password=True)
    return f"{shown}?***" if parsed.query else shown


def _print_remarks(console: Console, settings: Settings) -> None:
    for remark in find_remarks(settings):
        console.print(f"Note: {remark}", markup=False, soft_wrap=True)


def _print_problems(console: Console, problems: list[SettingsProblem]) -> None:
    table = make_table("section", "key", "what is wrong", "remedy", show_lines=True)
    for problem in problems:
        table.add_row(problem.section or "the file", problem.key, problem.what, problem.remedy)
    console.print(table)
    console.print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}.")
