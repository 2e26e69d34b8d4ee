"""ConfigFile: the configuration file as CONFIG REWRITE changes it: what was set at run time, and nothing else.

The file is the operator's: comments, order and spelling of what has not changed stay as they are (tomlkit), and so do
its permissions. The new text is read and checked like any other before it takes the old one's place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from eviction.registry import from_redis
from protocol.replies import OK, Error
from server.config import parse_config
from server.errors import ConfigError
from server.settings import RuntimeSettings, Setting

log = logging.getLogger("forebay.config")

Value = int | str


def _text(value: str) -> Value:
    # A dollar may begin an environment variable.
    return value.replace("$", "$$")


def _yes(value: str) -> Value:
    return value == "yes"


# Setting → section and key of the file, and how its value is written there.
_KEYS: Final[dict[str, tuple[str, str, Callable[[str], Value]]]] = {
    "maxmemory": ("memory", "maxmemory", int),
    "maxclients": ("server", "max_clients", int),
    "timeout": ("server", "timeout", int),
    "requirepass": ("server", "password", _text),
    "notify-keyspace-events": ("server", "notify_keyspace_events", _text),
    "slowlog-log-slower-than": ("server", "slowlog_log_slower_than", int),
    "slowlog-max-len": ("server", "slowlog_max_len", int),
    "latency-monitor-threshold": ("server", "latency_monitor_threshold", int),
    "latency-tracking": ("server", "latency_tracking", _yes),
    "tracking-table-max-keys": ("server", "tracking_table_max_keys", int),
    "acllog-max-len": ("server", "acllog_max_len", int),
}
_POLICY: Final = "maxmemory-policy"

_NO_FILE: Final = Error("ERR The server is running without a config file")


class RewritableSettings(RuntimeSettings):
    """Settings that can be written into the file which the server was started with."""

    __slots__ = ("_environment", "_source")

    def __init__(self, settings: list[Setting], source: Path | None, environment: Mapping[str, str]) -> None:
        super().__init__(settings)
        self._source = source
        self._environment = environment

    async def rewrite(self) -> object:
        """CONFIG REWRITE: the reply."""
        if self._source is None:
            return _NO_FILE
        names = sorted(self.changed)
        values = self._values(names)
        try:
            if values:
                await asyncio.to_thread(_rewrite, self._source, values, self._environment)
        except OSError as error:
            return Error(f"ERR Rewriting config file: {error.strerror}")
        except (ConfigError, TOMLKitError) as error:
            return Error(f"ERR Rewriting config file: {error}")
        kept = [name for name in names if name not in _KEYS and name != _POLICY]
        if kept:
            log.warning("CONFIG REWRITE: the configuration file has no key for %s", ", ".join(kept))
        return OK

    def _values(self, names: list[str]) -> dict[tuple[str, str], Value]:
        values: dict[tuple[str, str], Value] = {}
        for name in names:
            text = self.get(name)
            if name == _POLICY:
                values["memory", "eviction"], values["memory", "scope"] = from_redis(text)
            elif name in _KEYS:
                section, key, write = _KEYS[name]
                values[section, key] = write(text)
        return values


def _rewrite(source: Path, values: dict[tuple[str, str], Value], environment: Mapping[str, str]) -> None:
    # A link stays one.
    path = source.resolve()
    try:
        document: Any = tomlkit.parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ConfigError("it is not UTF-8 any more") from None
    for (section, key), value in values.items():
        table = document.get(section)
        if table is None:
            table = document[section] = tomlkit.table()
        _set(table, section, key, value)
    text = tomlkit.dumps(document)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError("a value is not UTF-8, as the file must be") from None
    parse_config(text, environment, str(source))
    _replace(path, text)


def _set(table: Any, section: str, key: str, value: Value) -> None:
    # Who wrote a secret's file or a variable there wants it to stay there.
    if table.get(f"{key}_file"):
        raise ConfigError(f"{section}.{key}_file names a file that holds the value; change it there")
    before = table.get(key)
    if isinstance(before, str) and "${" in before:
        raise ConfigError(f"{section}.{key} comes from an environment variable; change it there")
    if before != value:
        table[key] = value


def _replace(path: Path, text: str) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    draft = path.with_name(path.name + ".new")
    # It may hold passwords: nobody may read more of it than of the old one, not even for a moment.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    os.replace(draft, path)
