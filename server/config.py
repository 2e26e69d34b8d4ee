"""The configuration: one TOML file in, frozen records out; nobody after this page sees TOML, pydantic or a unit.

    text ── tomllib ──► dict ── ${NAME}, KEY_file ──► dict ── config_model ──► model ── here ──► Config

Loading reads files (the configuration, the secrets it names, the limits of the container) and changes nothing. Every
refusal is a ConfigError of one line, `file: section.key: what is wrong; what was meant`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from persistence.journal_options import QUOTA_BYTES, QUOTA_SEGMENTS, SEGMENT_BYTES
from persistence.prefixes import HOT_KEYS, PrefixRule, RuleTable, TemplateError
from server.config_model import (
    WEIGH_COSTS,
    FileModel,
    JournalModel,
    MemoryModel,
    PrefixModel,
    Refused,
    StoreModel,
    known_keys,
    read_model,
)
from server.config_rules import build_rule
from server.config_units import available_memory, suggestion
from server.errors import ConfigError

# ${NAME}, ${NAME:-what to take when it is unset or empty}, $$ for a dollar; `$1` in SQL is left alone.
_VARIABLE: Final = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\{)")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
# Far above any password, URL or statement; keeps `password_file = "/dev/zero"` from eating memory.
_MAX_SECRET: Final = 1 << 20
# The least that a prefix may have for itself: a few hundred small keys.
_LEAST_BUDGET: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """[server]"""

    bind: tuple[str, ...] = ("127.0.0.1",)
    port: int = 6379  # 0: any free one
    unix_socket: str = ""
    unix_socket_mode: int = 0o600
    databases: int = 16
    max_clients: int = 10_000
    password: str = field(default="", repr=False)
    acl_file: str = ""  # empty: no users but the default one
    protected_mode: bool = True
    timeout_s: float = 0.0  # idle clients; 0 means never
    tcp_keepalive_s: float = 300.0  # 0 means off
    shutdown_timeout_s: float = 30.0
    data_dir: str = ""  # empty: nothing is kept between two starts
    notify_keyspace_events: str = ""  # Redis's letters; empty: no event is told
    slowlog_log_slower_than_us: int = 10_000  # -1: nothing is slow
    slowlog_max_len: int = 128
    latency_monitor_threshold_ms: int = 0  # 0: nothing takes long
    latency_tracking: bool = False
    tracking_table_max_keys: int = 1_000_000  # 0: no limit
    acllog_max_len: int = 128
    enable_debug_command: bool = False
    scripting: bool = True
    script_memory: int = 64 << 20
    script_time_limit_s: float = 5.0


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """[memory]"""

    maxmemory: int = 0  # bytes; 0 means no limit
    eviction: str = "s3-fifo"  # a name in eviction.registry.POLICIES, or noeviction
    scope: str = "all"  # all | volatile
    cost: str = "none"  # none | load-time
    shards: int = 16
    advise_sample: float = 0.015  # share of the keys whose accesses are noted; 0: none


@dataclass(frozen=True, slots=True)
class PrefixMemoryConfig:
    """What a prefix has of its own of [memory]; "shared": nothing."""

    maxmemory: int = 0  # bytes; 0: shared
    eviction: str = "shared"
    cost: str = "shared"


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """[journal]"""

    dir: str = ""  # empty: no journal
    fsync: str = "everysec"  # always | everysec | no
    segment_bytes: int = SEGMENT_BYTES  # of one file
    max_bytes: int = QUOTA_BYTES  # of all: beyond, write-behind writes are refused


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """[http]"""

    bind: tuple[str, int] | None = None  # None: no HTTP; port 0: any free one


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """[stores.NAME]"""

    name: str
    url: str = field(repr=False)  # may hold a password
    kind: str  # postgresql | sqlite | memory
    path: str = ""  # sqlite: the file
    pool: int = 8
    statement_timeout_s: float = 2.0

    def misplaced(self) -> str:
        """Why there can be no SQLite file at `path`: it makes the file, and no directory. Empty when there can be."""
        place = Path(self.path).absolute()
        if self.path and place.is_dir():
            return f"{place} is a directory"
        return f"there is no directory {place.parent}" if self.path and not place.parent.is_dir() else ""

    @property
    def shown(self) -> str:
        """The store as logs may show it: without user and password."""
        if self.kind == "postgresql":
            parts = urlsplit(self.url)
            return f"postgresql {parts.netloc.rpartition('@')[2]}{parts.path}"
        return f"{self.kind} {self.path}".strip()


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the operator decided. `Config()` is the empty file: a plain cache on the loopback interface."""

    server: ServerConfig = ServerConfig()
    memory: MemoryConfig = MemoryConfig()
    journal: JournalConfig = JournalConfig()
    http: HttpConfig = HttpConfig()
    stores: dict[str, StoreConfig] = field(default_factory=dict)
    rules: list[PrefixRule] = field(default_factory=list)  # in matching order: longest head first
    budgets: dict[str, PrefixMemoryConfig] = field(default_factory=dict)  # by rule, of those that have their own


def load_config(path: Path, env: Mapping[str, str]) -> Config:
    """Read and check a configuration file."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 (byte {error.start})") from None
    return parse_config(text, env, str(path))


def parse_config(text: str, env: Mapping[str, str], source: str) -> Config:
    """Check the text of a configuration file; `source` is how errors name it."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: is not TOML: {_one_line(str(error))}{_toml_hint(text)}") from None
    try:
        return _build(read_model(_resolve_table(raw, (), env)))
    except Refused as refused:
        where = f"{_spell(refused.path)}: " if refused.path else ""
        raise ConfigError(_one_line(f"{source}: {where}{refused.reason}")) from None


def warnings(config: Config) -> list[str]:
    """What is allowed and deserves to be said at start, one line each."""
    found = []
    behind = [rule.name for rule in config.rules if rule.write == "write-behind"]
    if behind and not config.journal.dir:
        found.append(
            "write-behind without a journal: what is not saved yet is lost when the process dies; concerns "
            + ", ".join(behind)
        )
    foreign = [name for name in config.server.bind if name not in ("127.0.0.1", "::1", "localhost")]
    if foreign and not config.server.password:
        if config.server.protected_mode:
            found.append(f"protected mode: only loopback peers are served on {', '.join(foreign)}; set a password")
        else:
            found.append(f"everybody who reaches {', '.join(foreign)} is served: no password, protected mode off")
    return found


def _journal(model: JournalModel) -> JournalConfig:
    if model.max_size < QUOTA_SEGMENTS * model.segment_size:
        raise Refused(("journal", "max_size"), f"must hold at least {QUOTA_SEGMENTS} segments of segment_size")
    return JournalConfig(model.dir, model.fsync, model.segment_size, model.max_size)


def _build(model: FileModel) -> Config:
    server = model.server
    if not server.bind and not server.unix_socket:
        raise Refused(("server", "bind"), "is empty and there is no unix_socket; nobody could connect")
    memory = _memory(model.memory)
    budgets = build_budgets(model.prefix, memory)
    stores = {name: _store(name, store) for name, store in model.stores.items()}
    kinds = {name: store.kind for name, store in stores.items()}
    rules = [
        build_rule(template, rule, kinds, _budget(budgets, template) or memory.maxmemory)
        for template, rule in model.prefix.items()
    ]
    try:
        rules = RuleTable(rules).rules
    except TemplateError as error:
        raise Refused(("prefix",), f"{error}; every rule needs a head of its own") from None
    for rule in rules:
        if rule.warm == HOT_KEYS and not server.data_dir:
            raise Refused(
                ("prefix", rule.name, "warm"), '"hot-keys" needs [server] data_dir, the directory where they are noted'
            )
    return Config(
        server=ServerConfig(
            bind=server.bind,
            port=server.port,
            unix_socket=server.unix_socket,
            unix_socket_mode=server.unix_socket_mode,
            databases=server.databases,
            max_clients=server.max_clients,
            password=server.password,
            acl_file=server.acl_file,
            protected_mode=server.protected_mode,
            timeout_s=server.timeout,
            tcp_keepalive_s=server.tcp_keepalive,
            shutdown_timeout_s=server.shutdown_timeout,
            data_dir=server.data_dir,
            notify_keyspace_events=server.notify_keyspace_events,
            slowlog_log_slower_than_us=server.slowlog_log_slower_than,
            slowlog_max_len=server.slowlog_max_len,
            latency_monitor_threshold_ms=server.latency_monitor_threshold,
            latency_tracking=server.latency_tracking,
            tracking_table_max_keys=server.tracking_table_max_keys,
            acllog_max_len=server.acllog_max_len,
            enable_debug_command=server.enable_debug_command,
            scripting=server.scripting,
            script_memory=server.script_memory,
            script_time_limit_s=server.script_time_limit,
        ),
        memory=memory,
        journal=_journal(model.journal),
        http=HttpConfig(bind=model.http.bind),
        stores=stores,
        rules=rules,
        budgets=budgets,
    )


def _budget(budgets: Mapping[str, PrefixMemoryConfig], template: str) -> int:
    own = budgets.get(template)
    return own.maxmemory if own is not None else 0


def build_budgets(prefixes: Mapping[str, PrefixModel], memory: MemoryConfig) -> dict[str, PrefixMemoryConfig]:
    """What prefixes have of their own, by template. Raises Refused."""
    budgets: dict[str, PrefixMemoryConfig] = {}
    for template, model in prefixes.items():
        amount = model.maxmemory
        if amount.share and not memory.maxmemory:
            raise Refused(
                ("prefix", template, "maxmemory"), "is a share of [memory] maxmemory, which has no limit; give a size"
            )
        own = PrefixMemoryConfig(amount.of(memory.maxmemory), model.eviction, model.cost)
        refusal = _refuse_budget(own, memory)
        if refusal is not None:
            raise Refused(("prefix", template, refusal[0]), refusal[1])
        if own != PrefixMemoryConfig():
            budgets[template] = own
    together = sum(own.maxmemory for own in budgets.values())
    if memory.maxmemory and together > memory.maxmemory:
        raise Refused(
            ("memory", "maxmemory"), f"is less than the budgets of the prefixes come to, which is {together} bytes"
        )
    return budgets


def _refuse_budget(own: PrefixMemoryConfig, memory: MemoryConfig) -> tuple[str, str] | None:
    if 0 < own.maxmemory < _LEAST_BUDGET:
        return "maxmemory", f'must be at least {_LEAST_BUDGET} bytes: less holds a few keys; leave it "shared"'
    policy = memory.eviction if own.eviction == "shared" else own.eviction
    if own.maxmemory and policy == "noeviction":
        return "eviction", (
            'is "noeviction", and a budget needs a policy that makes room; name one, such as "s3-fifo", or leave'
            " maxmemory out"
        )
    if own.cost == "load-time" and policy not in WEIGH_COSTS:
        return "cost", f'"{policy}" does not weigh what a load costs; {", ".join(WEIGH_COSTS)} does'
    return None


def _memory(model: MemoryModel) -> MemoryConfig:
    if model.cost == "load-time" and model.eviction not in WEIGH_COSTS:
        raise Refused(
            ("memory", "cost"), f'"{model.eviction}" does not weigh what a load costs; {", ".join(WEIGH_COSTS)} does'
        )
    maxmemory = model.maxmemory
    return MemoryConfig(
        maxmemory=maxmemory.of(available_memory()) if maxmemory.share else maxmemory.bytes,
        eviction=model.eviction,
        scope=model.scope,
        cost=model.cost,
        shards=model.shards,
        advise_sample=model.advise_sample,
    )


def _store(name: str, model: StoreModel) -> StoreConfig:
    return StoreConfig(
        name=name,
        url=model.url.url,
        kind=model.url.kind,
        path=model.url.path,
        pool=model.pool,
        statement_timeout_s=model.statement_timeout,
    )


def _resolve_table(table: Mapping[str, object], path: tuple[str, ...], env: Mapping[str, str]) -> dict[str, object]:
    # The table with its environment variables filled in and its KEY_file keys replaced by what the files hold.
    resolved = {key: _resolve(value, (*path, key), env) for key, value in table.items()}
    known = known_keys(path) or []
    for key in list(resolved):
        target = key.removesuffix("_file")
        if key in known or target == key or target not in known:
            continue
        file = resolved.pop(key)
        if not isinstance(file, str):
            raise Refused((*path, key), "must be the path of a file, in quotes")
        # An empty path is "not given", so that a container can write password_file = "${PASSWORD_FILE:-}".
        if not file:
            continue
        if resolved.get(target):
            raise Refused((*path, key), f"is given together with {target}; leave one of them out")
        resolved[target] = _secret(file, (*path, key))
    return resolved


def _resolve(value: object, path: tuple[str, ...], env: Mapping[str, str]) -> object:
    if isinstance(value, dict):
        return _resolve_table(value, path, env)
    if isinstance(value, list):
        return [_resolve(item, path, env) for item in value]
    return _fill_in(value, path, env) if isinstance(value, str) else value


def _fill_in(text: str, path: tuple[str, ...], env: Mapping[str, str]) -> str:
    def replacement(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match["dollar"]:
            return "$"
        if name is None:
            raise Refused(path, "${ begins an environment variable, as in ${NAME}; a dollar sign is written $$")
        if default is not None:
            return env.get(name) or default
        if name not in env:
            near = suggestion(name, [known for known in env if known.isidentifier()])
            hint = near if near.startswith("did") else f"set it, or write ${{{name}:-default}}"
            raise Refused(path, f"the environment variable {name} is not set; {hint}")
        return env[name]

    return _VARIABLE.sub(replacement, text)


def _secret(file: str, path: tuple[str, ...]) -> str:
    try:
        with open(file, "rb") as handle:
            content = handle.read(_MAX_SECRET + 1)
        secret = content.decode().rstrip("\r\n")
    except OSError as error:
        raise Refused(path, f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Refused(path, f"{file} cannot be read: not a path, or not UTF-8") from None
    # An empty password would switch authentication off without a word.
    if not secret or len(content) > _MAX_SECRET:
        raise Refused(path, f"{file} is empty" if not secret else f"{file} is larger than 1 MiB; is that the secret?")
    return secret


def _spell(path: tuple[str, ...]) -> str:
    # As TOML would write the key: prefix."user:{id:int}".ttl
    return ".".join(part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in path)


def _toml_hint(text: str) -> str:
    if re.search(r"^\s*\[prefix\.[^\"'\]]*[{:]", text, re.MULTILINE):
        return '; a key template is written in quotes: [prefix."user:{id:int}"]'
    return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
