"""The node's settings: one TOML file, parsed once into frozen models; a function receives its own section.

Unknown keys are refused, durations are seconds and sizes bytes, secrets stand in files of their own, and peers are a
union told apart by ``kind``. A relative path is relative to the folder of the settings file.

    settings = load_settings(Path("node.toml"))
    Receiver(settings.receive, settings.node, ...)
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dicom_node.errors import SettingsError
from inference.bundle import SEPARATOR, canonical_name, list_methods
from inference.method import DEFAULT_METHOD, STAGE_METHODS
from reports.character_sets import FOR_CHINESE, UTF_8, CharacterSet
from reports.identity import KINDS, Kind

MEBIBYTE = 1024 * 1024
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class SettingsProblem:
    """One thing wrong in a settings file. It never carries the value: values may be secrets."""

    section: str  # "receive", "peers[1]"; empty for the file itself
    key: str  # "port"; empty where the section as a whole is meant
    what: str  # what is wrong, one sentence
    remedy: str  # what to write instead, one sentence

    def __str__(self) -> str:
        where = ".".join(part for part in (self.section, self.key) if part) or "file"
        return f"{where}: {self.what} {self.remedy}".rstrip()


def _check_ae_title(title: str) -> str:
    """Return the AE title stripped of insignificant blanks (PS3.5 table 6.2-1, VR AE)."""
    stripped = title.strip(" ")
    if not 1 <= len(stripped) <= 16 or not all(" " <= c <= "~" and c != "\\" for c in stripped):
        raise ValueError("An AE title has 1 to 16 printable ASCII characters and no backslash.")
    return stripped


def _check_method(name: str) -> str:
    """Return the name of a method that can read films here: the package implements more than it has weights of.

    Several names with ``+`` between them are an ensemble; they come back sorted.
    """
    members = [name] if name in list_methods() else name.split(SEPARATOR)
    if not set(members) <= set(list_methods()):
        raise ValueError(
            f"There are no weights of this method here; use one of: {', '.join(list_methods())}, or several, with "
            f"{SEPARATOR} between them."
        )
    if len(set(members)) < len(members):
        raise ValueError("An ensemble names a method twice; name each once.")
    return name if members == [name] else canonical_name(name)


def _check_stage_method(name: str) -> str:
    """Return the name of a method that tells stages and has weights here."""
    if name not in STAGE_METHODS:
        raise ValueError(f"This method tells no stages; use one of: {', '.join(STAGE_METHODS)}.")
    return _check_method(name)


DeliveredKind = Literal["sr", "sc", "text", "gsps", "pdf", "kos", "sr-cornerstone"]
AETitle = Annotated[str, AfterValidator(_check_ae_title)]
Method = Annotated[str, AfterValidator(_check_method)]
StageMethod = Annotated[str, AfterValidator(_check_stage_method)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65_535)]
SeriesNumber = Annotated[int, Field(ge=1, le=2**31 - 1 - len(KINDS))]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, strict=False)


class NodeSettings(_Section):
    """Who this node is and where it keeps its files."""

    id: Name = "node-1"  # stable over restarts, different on each node of a cluster
    ae_title: AETitle = "BONEAGE"
    data_dir: Path
    station_name: Annotated[str, Field(min_length=1, max_length=16)] = "BONEAGE"  # StationName, VR SH


class ReceiveSettings(_Section):
    """The Storage SCP."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 11_112  # 0: the system hands out a free one
    max_associations: Annotated[int, Field(ge=1)] = 16
    max_object_bytes: Annotated[int, Field(ge=1)] = 512 * MEBIBYTE
    max_pdu_bytes: Annotated[int, Field(ge=0, le=2**32 - 1)] = 131_072  # 0: no limit (PS3.8 annex D.1)
    accept_unknown_callers: bool = False  # True: any calling AE title may send
    check_called_ae: bool = True  # False: callers may name us as they like
    acse_timeout_s: Seconds = 30.0
    dimse_timeout_s: Seconds = 60.0
    network_timeout_s: Seconds = 120.0


class StoreSettings(_Section):
    """The SQL store. Neither key: SQLite in ``data_dir/node.db``."""

    url: str | None = Field(default=None, repr=False)  # SQLAlchemy URL, without a password
    url_file: Path | None = None  # a file that holds the URL, for a URL with a password

    @model_validator(mode="after")
    def _one_of_both(self) -> StoreSettings:
        if self.url is not None and self.url_file is not None:
            raise ValueError("Both url and url_file are given; give one.")
        return self


class AssembleSettings(_Section):
    """When a study is taken for complete."""

    quiet_period_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0  # after the last object; 0: at once


class InterpretSettings(_Section):
    """How films are read."""

    method: Method = DEFAULT_METHOD
    threads: Annotated[int, Field(ge=1)] = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    recalibration: Path | None = None  # written by `boneage-node evaluate --recalibrate` on the site's own films
    stages: StageMethod | None = None  # tells stages of bones and an age of its own by them, beside the method's
    shadow: tuple[Method, ...] = ()  # read the same films afterwards; recorded, never sent

    @model_validator(mode="after")
    def _stages_are_another_methods(self) -> InterpretSettings:
        if self.stages == self.method:
            raise ValueError(f"{self.method} tells stages by itself; leave stages out, or choose another method.")
        return self

    @model_validator(mode="after")
    def _shadows_differ(self) -> InterpretSettings:
        if len({self.method, *self.shadow}) <= len(self.shadow):
            raise ValueError("A shadow method is named twice, or is the active one; name each method once.")
        return self


_ParentCm = Annotated[float, Field(ge=120, le=230)]


class ComposeSettings(_Section):
    """How results are written."""

    series_number_sr: Annotated[int, Field(ge=1, le=2**31 - 1)] = 9001
    series_number_sc: Annotated[int, Field(ge=1, le=2**31 - 1)] = 9002
    series_number_text: Annotated[int, Field(ge=1, le=2**31 - 1)] = 9003
    series_number_gsps: Annotated[int, Field(ge=1, le=2**31 - 1)] = 9004
    series_number_pdf: Annotated[int, Field(ge=1, le=2**31 - 1)] = 9005
    series_number_kos: Annotated[int, Field(ge=1, le=2**31 - 1)] = 9006
    preliminary: bool = True  # PreliminaryFlag (0040,A496): PRELIMINARY, else FINAL
    language: Literal["en", "zh"] = "en"  # of the text in reports and pictures; code meanings stay English
    name_patient: bool = True  # write the patient's name and ID into the picture as well
    reference: Literal["brush-foundation", "greulich-pyle"] = "brush-foundation"  # population of SD scores
    normal_sd: Annotated[float, Field(gt=0, le=4)] = 2.0  # from so many SD on a bone age is called advanced or delayed
    adult_height: bool = True  # predict it where PatientSize (0010,1020) is there
    parents_cm: tuple[_ParentCm, _ParentCm] | None = None  # assumed for every child in RWT: father's, mother's height
    height_from: Name | None = None  # the worklist that is asked for the height where it is not, by its name
    priors: bool = True  # compare with earlier results of the same patient
    priors_years: Annotated[float, Field(gt=0, le=100)] = 25.0  # how far back; more than anybody grows
    priors_from: Name | None = None  # the archive that is asked for them too, by its name
    priors_films: Annotated[int, Field(ge=0, le=20)] = 0  # earlier hand films read for it, at most; never sent

    @model_validator(mode="after")
    def _two_numbers(self) -> ComposeSettings:
        numbers = [getattr(self, name) for name in type(self).model_fields if name.startswith("series_number_")]
        if len(set(numbers)) < len(numbers):
            raise ValueError("Two of the series numbers are the same; give each series its own number.")
        return self

    def series_number(self, kind: Kind) -> int:
        """Return the series number of a kind. What stands for the SR has the SR's: no archive gets both."""
        number: int = getattr(self, f"series_number_{'sr' if kind.startswith('sr-') else kind}")
        return number


class DeliverSettings(_Section):
    """How results reach the archives."""

    first_retry_s: Seconds = 5.0  # doubled after each failure ...
    max_retry_s: Seconds = 900.0  # ... up to here
    give_up_after_s: Seconds = 14 * DAY_S
    connect_timeout_s: Seconds = 10.0
    dimse_timeout_s: Seconds = 60.0
    commitment_timeout_s: Seconds = 3600.0  # how long to wait for an N-EVENT-REPORT before asking again

    @model_validator(mode="after")
    def _growing(self) -> DeliverSettings:
        if not self.first_retry_s <= self.max_retry_s <= self.give_up_after_s:
            raise ValueError("It must be that first_retry_s <= max_retry_s <= give_up_after_s.")
        return self


Days = Annotated[float, Field(gt=0, le=36_500)]


class RetentionSettings(_Section):
    """How long files of studies that are done are kept here; rows are kept for ever. Neither key: for ever, too."""

    films_days: Days | None = None  # of the films as received, in the spool
    documents_days: Days | None = None  # of the documents, once an archive has them


class ClusterSettings(_Section):
    """Several nodes on one PostgreSQL: when a node counts as dead."""

    heartbeat_s: Seconds = 5.0
    silent_after_s: Seconds = 30.0

    @model_validator(mode="after")
    def _several_beats(self) -> ClusterSettings:
        if self.silent_after_s < 3 * self.heartbeat_s:
            raise ValueError("silent_after_s must be at least three times heartbeat_s.")
        return self


class LogSettings(_Section):
    """What is logged, and as what; always to standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["json", "console"] = "json"


class ArchivePeer(_Section):
    """An archive that results are delivered to."""

    kind: Literal["archive"]
    name: Name
    ae_title: AETitle
    host: Annotated[str, Field(min_length=1)]
    port: Port
    calls_as: tuple[AETitle, ...] = ()  # AE titles under which it calls here, beside its own: to report commitments
    commitment: bool = True  # False: it has no storage commitment, and nothing there is ever shown as committed
    deliver: Annotated[tuple[DeliveredKind, ...], Field(min_length=1)] = ("sr", "sc")
    sr_fallback: tuple[Literal["sr-2d", "text"], ...] = ()  # written too; sent in place of an "sr" not taken
    retrieve: Literal["auto", "get", "move"] = "auto"  # by C-GET or C-MOVE; auto: C-MOVE where C-GET is not taken
    character_set: CharacterSet = UTF_8  # of what it is sent; what a set cannot say goes out in UTF-8 all the same
    series_numbers_from: SeriesNumber | None = None  # its first series number; None: those of [compose]

    @property
    def composed(self) -> tuple[Kind, ...]:
        """What is written for it: what it is sent, and what it may be sent instead."""
        return (*self.deliver, *self.sr_fallback) if "sr" in self.deliver else self.deliver

    def series_number(self, kind: str) -> int | None:
        """Return the series number of a kind there: a block in the order of ``KINDS``, variants of the SR as the SR."""
        first = self.series_numbers_from
        return None if first is None else first + (0 if kind.startswith("sr-") else KINDS.index(kind))

    @model_validator(mode="after")
    def _one_report(self) -> ArchivePeer:
        if {"sr", "sr-cornerstone"} <= {*self.deliver}:
            raise ValueError('An archive gets "sr" or "sr-cornerstone", not both: they say the same.')
        if "sr-cornerstone" in self.deliver and self.sr_fallback:
            raise ValueError('Only "sr" has an sr_fallback; leave it out where "sr-cornerstone" is delivered.')
        return self


class SenderPeer(_Section):
    """A modality or router that may send to this node."""

    kind: Literal["sender"]
    name: Name
    ae_title: AETitle
    host: str | None = None  # where given, the address the caller must have
    whole_study_per_association: bool = False  # True: the study is complete when the association is released


class WorklistPeer(_Section):
    """A modality worklist that is asked for heights."""

    kind: Literal["worklist"]
    name: Name
    ae_title: AETitle
    host: Annotated[str, Field(min_length=1)]
    port: Port


Peer = Annotated[ArchivePeer | SenderPeer | WorklistPeer, Field(discriminator="kind")]


class Settings(_Section):
    """Everything the node can be told."""

    node: NodeSettings
    receive: ReceiveSettings = ReceiveSettings()
    store: StoreSettings = StoreSettings()
    assemble: AssembleSettings = AssembleSettings()
    interpret: InterpretSettings = InterpretSettings()
    compose: ComposeSettings = ComposeSettings()
    deliver: DeliverSettings = DeliverSettings()
    retention: RetentionSettings = RetentionSettings()
    cluster: ClusterSettings = ClusterSettings()
    log: LogSettings = LogSettings()
    peers: tuple[Peer, ...] = ()

    @model_validator(mode="after")
    def _peers_differ(self) -> Settings:
        twice = [name for name, count in Counter(peer.name for peer in self.peers).items() if count > 1]
        if twice:
            raise ValueError(f"Two peers share the name {twice[0]}; give each a name of its own.")
        asked = self.compose.priors_from
        if asked is not None and asked not in {archive.name for archive in self.archives}:
            raise ValueError("compose.priors_from names no archive among the peers; write the name of one.")
        orders = self.compose.height_from
        if orders is not None and orders not in {worklist.name for worklist in self.worklists}:
            raise ValueError("compose.height_from names no worklist among the peers; write the name of one.")
        unable = [archive.name for archive in self.archives if archive.character_set not in FOR_CHINESE]
        if self.compose.language == "zh" and unable:
            fitting = ", ".join(sorted(FOR_CHINESE))
            raise ValueError(
                f"The character_set of {unable[0]} has no Chinese, which compose.language is; use {fitting}."
            )
        if self.compose.priors_films and asked is None:
            raise ValueError("compose.priors_films has no archive to ask; name one in compose.priors_from.")
        return self

    @property
    def archives(self) -> tuple[ArchivePeer, ...]:
        """The peers that results are delivered to, in the order of the file."""
        return tuple(peer for peer in self.peers if isinstance(peer, ArchivePeer))

    @property
    def senders(self) -> tuple[SenderPeer, ...]:
        """The peers that may send, in the order of the file."""
        return tuple(peer for peer in self.peers if isinstance(peer, SenderPeer))

    @property
    def worklists(self) -> tuple[WorklistPeer, ...]:
        """The worklists, in the order of the file."""
        return tuple(peer for peer in self.peers if isinstance(peer, WorklistPeer))

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the store, from ``store.url_file`` where that is given; SettingsError where it is none."""
        if self.store.url_file is not None:
            return _check_url(_read_secret(self.store.url_file), "url_file")
        if self.store.url is not None:
            return _check_url(self.store.url, "url")
        return f"sqlite:///{(self.node.data_dir / 'node.db').absolute()}"

    @property
    def spool_dir(self) -> Path:
        """Where received objects lie."""
        return self.node.data_dir / "spool"

    @property
    def documents_dir(self) -> Path:
        """Where composed reports lie until they are committed, and after."""
        return self.node.data_dir / "documents"


def load_settings(path: Path) -> Settings:
    """Read and check a settings file.

    Raises
    ------
    SettingsError
        The file is missing, no TOML, or has anything wrong in it; its ``problems`` are SettingsProblems, all of them.
    """
    tables = _read_toml(path)
    problems = list(_find_passwords(tables))
    try:
        settings = Settings.model_validate(tables)
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False)
        raise SettingsError(*problems, *map(_as_problem, details)) from None  # the cause would show values
    if problems:
        raise SettingsError(*problems)
    return _resolve_paths(settings, path.absolute().parent)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))  # editors of Windows put a byte order mark first
    except OSError as error:
        what = f"The settings file cannot be read ({error.strerror})."
        raise SettingsError(SettingsProblem("", "", what, "Check the path and who may read it.")) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # Only the position: the message of the parser may quote the line, which may hold a secret.
        where = str(error).rpartition("(")[2].rstrip(")") if isinstance(error, tomllib.TOMLDecodeError) else ""
        what = f"The settings file is not valid TOML ({where or 'it is not UTF-8'})."
        raise SettingsError(SettingsProblem("", "", what, "Strings need quotes, tables need [name].")) from None


def _find_passwords(tables: Mapping[str, Any]) -> Iterable[SettingsProblem]:
    """Yield a problem where the settings file itself holds a password."""
    store = tables.get("store")
    url = store.get("url") if isinstance(store, dict) else None
    if isinstance(url, str) and (":" in url.partition("://")[2].rpartition("@")[0] or "password=" in url):
        remedy = "Write the whole URL into a file only the node may read and name it in store.url_file."
        yield SettingsProblem("store", "url", "The URL holds a password.", remedy)


def _read_secret(path: Path) -> str:
    try:
        secret = path.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        secret = ""
    if not secret:
        remedy = "Write the database URL into it and let the node's user read it."
        raise SettingsError(SettingsProblem("store", "url_file", "The file is missing, unreadable or empty.", remedy))
    return secret


def _check_url(url: str, key: str) -> str:
    """Return the URL if it names one of the two databases; the complaints of those who use it would quote it."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        backend = make_url(url).get_backend_name()
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        backend = ""
    if backend not in ("sqlite", "postgresql"):
        what = "This is no URL of an SQLite or PostgreSQL database."
        remedy = (
            "Write postgresql://user:password@host/database, with @ : / ? # in the password as %40 %3A %2F %3F %23."
        )
        raise SettingsError(SettingsProblem("store", key, what, remedy)) from None
    return url


def _resolve_paths(settings: Settings, folder: Path) -> Settings:
    node = settings.node.model_copy(update={"data_dir": folder / settings.node.data_dir.expanduser()})
    store = settings.store
    if store.url_file is not None:
        store = store.model_copy(update={"url_file": folder / store.url_file.expanduser()})
    interpret = settings.interpret
    if interpret.recalibration is not None:
        interpret = interpret.model_copy(update={"recalibration": folder / interpret.recalibration.expanduser()})
    return settings.model_copy(update={"node": node, "store": store, "interpret": interpret})


_PLAINER = {
    "extra_forbidden": "There is no such key.",
    "missing": "The key is missing.",
    "union_tag_not_found": "The peer does not say of what kind it is.",
    "string_pattern_mismatch": "The name has characters that names do not have.",
}
"""What pydantic complains of, in words for an administrator."""


def _as_problem(detail: ErrorDetails) -> SettingsProblem:
    """Turn one of pydantic's complaints into ours, without the value it complains about."""
    section, key = _locate(detail["loc"])
    what = _PLAINER.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
    return SettingsProblem(section, key, what if what.endswith(".") else f"{what}.", _remedy(detail))


def _locate(loc: tuple[int | str, ...]) -> tuple[str, str]:
    """Split a location such as ``("peers", 1, "archive", "port")`` into section and key."""
    if len(loc) > 1 and loc[0] == "peers":
        return f"peers[{loc[1]}]", ".".join(str(part) for part in loc[3:])
    return str(loc[0]) if loc else "", ".".join(str(part) for part in loc[1:])


def _remedy(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"Remove it or correct its spelling; known here: {', '.join(_known_keys(detail['loc']))}."
    if kind == "missing":
        return "Add it: it has no default."
    if kind == "union_tag_not_found":
        return 'Add kind = "archive", kind = "sender" or kind = "worklist".'
    if kind == "string_pattern_mismatch":
        return "Use letters, digits, dot, dash and underscore, a letter or digit first, 64 at most."
    if kind == "literal_error":
        return f"Choose one of {context['expected']}."
    return "README, 'A first real configuration', shows every key."


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys a table of the settings file may have, for the table that holds ``loc``."""
    if len(loc) == 1:
        return list(Settings.model_fields)
    if loc[0] == "peers":
        kinds: dict[str, type[BaseModel]] = {
            "archive": ArchivePeer,
            "sender": SenderPeer,
            "worklist": WorklistPeer,
        }
        return list(kinds[str(loc[2])].model_fields)
    section = Settings.model_fields[str(loc[0])].annotation
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
