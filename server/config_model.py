"""The shape of the configuration file: every section and key, its default and its reader.

This is the only module that knows pydantic. It checks key by key; what several keys mean together is config.py's. Keys
whose default depends on other keys have the default None here.

A new key: one line here, one in config.py's dataclass (or PrefixRule), one in config.example.toml (a test insists).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError

from eviction.registry import POLICIES
from persistence.prefixes import CACHE_ASIDE, READ_STRATEGIES, WRITE_STRATEGIES
from server import config_units as units
from server.config_units import Amount
from server.event_classes import parse_events

URL_FORMS: Final = "postgresql://, postgres://, sqlite:/// or memory:"
# Redis's names of memory policies begin with the scope; ours keep scope and policy apart.
REDIS_SCOPES: Final = {"allkeys": "all", "volatile": "volatile"}
# What `eviction` may be.
POLICY_NAMES: Final = tuple(POLICIES)
# What `cost` may be: does a copy whose load was expensive stay longer?
COSTS: Final = ("none", "load-time")
# The policies that can.
WEIGH_COSTS: Final = ("s3-fifo",)


@dataclass(frozen=True, slots=True)
class ValueSpec:
    """The `value` key: how a row is a value. `columns` are those that the table form of the key names."""

    kind: str  # json | hash | column | set | zset
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A store's URL, taken apart as far as we look into it."""

    url: str
    kind: str  # postgresql | sqlite | memory
    path: str = ""  # of the SQLite file


def store_url(value: object) -> StoreUrl:
    """postgresql://…, postgres://…, sqlite:///path or memory:. Errors never quote it: it holds a password."""
    url = units.text(value)
    scheme, colon, rest = url.partition(":")
    if url in ("memory:", "memory://"):
        return StoreUrl("memory:", "memory")
    if scheme in ("postgresql", "postgres") and rest.startswith("//"):
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise ValueError(
                "host or port in the URL is malformed; characters such as @ : / in a password are written %40 %3A %2F"
            ) from None
        database = parts.path.removeprefix("/")
        if not database and not {"dbname", "database", "service"}.intersection(parse_qs(parts.query)):
            raise ValueError("names no database; it is written postgresql://user:password@host:port/database")
        if "@" in database:
            # What was meant for the host, behind a slash in the password.
            raise ValueError(
                "has an @ in the database's name; characters such as @ : / in a password are written %40 %3A %2F"
            )
        return StoreUrl(url, "postgresql")
    if scheme == "sqlite":
        # As SQLAlchemy has it: what follows the third slash is the path, so an absolute one makes four.
        path = rest.removeprefix("///")
        if path == rest or not path.strip("/"):
            raise ValueError("a SQLite file is written sqlite:///relative/file.db or sqlite:////absolute/file.db")
        if "?" in path:
            raise ValueError("a SQLite file takes no parameters; leave out what follows the question mark")
        return StoreUrl(url, "sqlite", path)
    if not colon:
        raise ValueError(f"must be a URL; known are {URL_FORMS}")
    raise ValueError(f"unknown kind of store {scheme[:20]!r}; known are {URL_FORMS}")


def value_spec(value: object) -> ValueSpec:
    """ "hash", "json", {column = "…"}, {set = "…"} or {zset = ["…", "…"]}."""
    if isinstance(value, str):
        if value not in ("hash", "json"):
            hint = units.suggestion(value, ("hash", "json"))
            raise ValueError(f'unknown word {value!r}; {hint} (one column is written {{ column = "…" }})')
        return ValueSpec(value)
    if isinstance(value, dict) and len(value) == 1:
        kind, columns = next(iter(value.items()))
        if kind in ("column", "set") and isinstance(columns, str) and columns:
            return ValueSpec(kind, (units.text(columns),))
        if kind == "zset" and isinstance(columns, list) and len(columns) == 2 and all(columns):
            return ValueSpec(kind, tuple(units.text(column) for column in columns))
    raise ValueError(
        'must be "hash", "json", { column = "name of a column" }, { set = "column of the members" } or'
        ' { zset = ["column of the members", "column of the scores"] }'
    )


def column_pairs(value: object) -> tuple[tuple[str, str], ...]:
    """(field, column) pairs from a list of columns or from { field = "column" }; empty means all."""
    if isinstance(value, list):
        pairs = tuple((units.text(name), units.text(name)) for name in value)
    elif isinstance(value, dict):
        pairs = tuple((field, units.text(column)) for field, column in value.items())
    else:
        raise ValueError(f'must be a list of columns or a table {{ field = "column" }}, not {units.kind_of(value)}')
    if not all(field and column for field, column in pairs):
        raise ValueError("holds an empty name")
    for position, what in ((0, "field"), (1, "column")):
        names = [pair[position] for pair in pairs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"names the {what} {name!r} twice")
    return pairs


def column_list(value: object) -> tuple[str, ...]:
    """A list of columns."""
    if not isinstance(value, list):
        raise ValueError(f"must be a list of columns, not {units.kind_of(value)}")
    return tuple(units.text(name) for name in value)


def events(value: object) -> str:
    """Letters of notify-keyspace-events."""
    letters = units.text(value)
    parse_events(letters)
    return letters


def policy(value: object) -> str:
    """The name of an eviction policy; Redis's own names are explained."""
    name = units.text(value)
    if name in POLICY_NAMES:
        return name
    scope, dash, rest = name.partition("-")
    if dash and scope in REDIS_SCOPES and rest in POLICY_NAMES:
        raise ValueError(
            f'{name!r} is written in two keys here: eviction = "{rest}" and scope = "{REDIS_SCOPES[scope]}"'
        )
    raise ValueError(f"unknown policy {name!r}; {units.suggestion(name, POLICY_NAMES)}")


def own_policy(value: object) -> str:
    """A prefix's policy; "shared" means that of [memory]."""
    return "shared" if value == "shared" else policy(value)


def own_memory(value: object) -> Amount:
    """A prefix's budget; "shared" means that of [memory]."""
    return Amount() if value == "shared" else units.amount(value)


Text = Annotated[str, PlainValidator(units.text)]
Flag = Annotated[bool, PlainValidator(units.flag)]
Duration = Annotated[float, PlainValidator(units.duration)]
PositiveDuration = Annotated[float, PlainValidator(units.positive_duration)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerModel(_Section):
    """[server]"""

    bind: Annotated[tuple[str, ...], PlainValidator(units.hosts)] = ("127.0.0.1",)
    port: Annotated[int, PlainValidator(units.whole(0, 65535))] = 6379
    unix_socket: Text = ""
    unix_socket_mode: Annotated[int, PlainValidator(units.file_mode)] = 0o600
    # 4096: each opened database costs its shards; nobody has been seen to use more than a few dozen.
    databases: Annotated[int, PlainValidator(units.whole(1, 4096))] = 16
    max_clients: Annotated[int, PlainValidator(units.whole(1, 1_000_000))] = 10_000
    password: Text = ""
    acl_file: Text = ""
    protected_mode: Flag = True
    timeout: Duration = 0.0
    tcp_keepalive: Duration = 300.0
    shutdown_timeout: Duration = 30.0
    data_dir: Text = ""
    notify_keyspace_events: Annotated[str, PlainValidator(events)] = ""
    # Microseconds and milliseconds, plain numbers as Redis has them; -1 and 0 switch them off.
    slowlog_log_slower_than: Annotated[int, PlainValidator(units.whole(-1, 1 << 62))] = 10_000
    slowlog_max_len: Annotated[int, PlainValidator(units.whole(0, 1_000_000))] = 128
    latency_monitor_threshold: Annotated[int, PlainValidator(units.whole(0, 1 << 62))] = 0
    latency_tracking: Flag = False
    tracking_table_max_keys: Annotated[int, PlainValidator(units.whole(0, (1 << 63) - 1))] = 1_000_000
    acllog_max_len: Annotated[int, PlainValidator(units.whole(0, 1_000_000))] = 128
    enable_debug_command: Flag = False
    scripting: Flag = True
    # Below 4 MB the libraries that scripts see would leave no room for scripts.
    script_memory: Annotated[int, PlainValidator(units.size_between(4 << 20, 1 << 40))] = 64 << 20
    script_time_limit: PositiveDuration = 5.0


class MemoryModel(_Section):
    """[memory]"""

    maxmemory: Annotated[Amount, PlainValidator(units.amount)] = Amount()
    eviction: Annotated[str, PlainValidator(policy)] = "s3-fifo"
    scope: Annotated[str, PlainValidator(units.one_of("all", "volatile"))] = "all"
    cost: Annotated[str, PlainValidator(units.one_of(*COSTS))] = "none"
    # Shards are contiguous ranges of 16384 slots; 1024 leaves 10 or 20 slots to each.
    shards: Annotated[int, PlainValidator(units.whole(1, 1024))] = 16
    advise_sample: Annotated[float, PlainValidator(units.fraction(zero_allowed=True))] = 0.015


class JournalModel(_Section):
    """[journal]"""

    dir: Text = ""
    fsync: Annotated[str, PlainValidator(units.one_of("always", "everysec", "no"))] = "everysec"
    segment_size: Annotated[int, PlainValidator(units.size_between(64 << 10, 1 << 31))] = 64 << 20
    max_size: Annotated[int, PlainValidator(units.size_between(192 << 10, 1 << 50))] = 1 << 30


class HttpModel(_Section):
    """[http]"""

    bind: Annotated[tuple[str, int] | None, PlainValidator(units.address)] = None


class StoreModel(_Section):
    """[stores.NAME]"""

    url: Annotated[StoreUrl, PlainValidator(store_url)]
    pool: Annotated[int, PlainValidator(units.whole(1, 1000))] = 8
    statement_timeout: PositiveDuration = 2.0


class PrefixModel(_Section):
    """[prefix."TEMPLATE"]"""

    store: Text = ""
    read: Annotated[str, PlainValidator(units.one_of(*READ_STRATEGIES))] = CACHE_ASIDE
    write: Annotated[str, PlainValidator(units.one_of(*WRITE_STRATEGIES))] = CACHE_ASIDE
    table: Text = ""
    value: Annotated[ValueSpec | None, PlainValidator(value_spec)] = None
    columns: Annotated[tuple[tuple[str, str], ...], PlainValidator(column_pairs)] = ()
    load: Text = ""
    upsert: Text = ""
    delete: Text = ""
    warm: Text = "none"
    ttl: Duration = 300.0
    ttl_jitter: Annotated[float, PlainValidator(units.fraction(zero_allowed=True))] = 0.1
    negative_ttl: Annotated[float | None, PlainValidator(units.duration)] = None
    refresh_at: Annotated[float, PlainValidator(units.fraction(zero_allowed=False))] = 0.8
    early_expiry: Annotated[float, PlainValidator(units.not_negative)] = 0.0
    stale_while_revalidate: Duration = 0.0
    stale_if_error: Duration = 0.0
    load_timeout: PositiveDuration = 2.0
    load_soft_timeout: Annotated[float, PlainValidator(units.duration_or_off)] = 0.0
    load_batch: Annotated[int, PlainValidator(units.whole(1, 100_000))] = 256
    write_delay: Annotated[float | None, PlainValidator(units.duration)] = None
    write_batch: Annotated[int, PlainValidator(units.whole(1, 100_000))] = 1000
    max_dirty: Annotated[Amount | None, PlainValidator(units.amount)] = None
    on_full: Annotated[str, PlainValidator(units.one_of("block", "reject", "write-through"))] = "block"
    retry_limit: Annotated[int, PlainValidator(units.whole(1, 1000))] = 5
    on_dead: Annotated[str, PlainValidator(units.one_of("drop", "keep"))] = "drop"
    invalidate: Annotated[str, PlainValidator(units.one_of("none", "notify"))] = "none"
    tags: Annotated[tuple[str, ...], PlainValidator(column_list)] = ()
    maxmemory: Annotated[Amount, PlainValidator(own_memory)] = Amount()
    eviction: Annotated[str, PlainValidator(own_policy)] = "shared"
    cost: Annotated[str, PlainValidator(units.one_of("shared", *COSTS))] = "shared"
    unmapped: Annotated[str, PlainValidator(units.one_of("memory", "reject"))] = "memory"


class FileModel(_Section):
    """The whole file."""

    server: ServerModel = ServerModel()
    memory: MemoryModel = MemoryModel()
    journal: JournalModel = JournalModel()
    http: HttpModel = HttpModel()
    stores: dict[str, StoreModel] = {}
    prefix: dict[str, PrefixModel] = {}


class Refused(Exception):
    """A key that is refused: where it is, and why. config.py makes a ConfigError of it."""

    def __init__(self, path: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def known_keys(path: tuple[str, ...]) -> list[str] | None:
    """The keys that the table at `path` may have; None when they are the operator's own names, or it is no section."""
    models: dict[str, type[_Section]] = {
        "server": ServerModel, "memory": MemoryModel, "journal": JournalModel, "http": HttpModel
    }  # fmt: skip
    named: dict[str, type[_Section]] = {"stores": StoreModel, "prefix": PrefixModel}
    if not path:
        return list(FileModel.model_fields)
    if len(path) == 1 and path[0] in models:
        return list(models[path[0]].model_fields)
    if len(path) == 2 and path[0] in named:
        return list(named[path[0]].model_fields)
    return None


def read_model(raw: Mapping[str, object]) -> FileModel:
    """Check every key on its own; raises Refused for the first that is wrong, unknown keys before all others."""
    try:
        model = FileModel.model_validate(raw)
    except ValidationError as invalid:
        # A misspelled key is often why another one is missing.
        errors = sorted(invalid.errors(), key=lambda error: error["type"] != "extra_forbidden")
        error = errors[0]
        path = tuple(str(part) for part in error["loc"])
        raise Refused(path, _reason(error["type"], path, error.get("ctx", {}))) from None
    return model


def _reason(kind: str, path: tuple[str, ...], context: Mapping[str, object]) -> str:
    if kind == "extra_forbidden":
        known = known_keys(path[:-1]) or []
        if path[-1].endswith("_file"):
            known = [f"{key}_file" for key in known]
        return f"unknown key; {units.suggestion(path[-1], known)}"
    if kind == "missing":
        return f"is required; for example {URL_FORMS}"
    if kind == "value_error":
        return str(context["error"])
    # Sections and the readers above leave nothing else: a section that is not a table.
    return f"must be a table, written [{'.'.join(path)}]"
