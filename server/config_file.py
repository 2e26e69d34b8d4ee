"""ConfigFile: the configuration file as CONFIG REWRITE changes it: what was set at run time, and nothing else.

The file is the operator's: comments, order and spelling of what has not changed stay as they are (tomlkit), and so do
its permissions. The new text is read and checked like any other before it takes the old one's place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Mapping
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

# Setting → section and key of the file, and whether its value is a number there.
_KEYS: Final = {
    "maxmemory": ("memory", "maxmemory", True),
    "maxclients": ("server", "max_clients", True),
    "timeout": ("server", "timeout", True),
    "requirepass": ("server", "password", False),
    "notify-keyspace-events": ("server", "notify_keyspace_events", False),
    "slowlog-log-slower-than": ("server", "slowlog_log_slower_than", True),
    "slowlog-max-len": ("server", "slowlog_max_len", True),
    "latency-monitor-threshold": ("server", "latency_monitor_threshold", True),
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

    def _values(self, names: list[str]) -> dict[tuple[str, str], int | str]:
        values: dict[tuple[str, str], int | str] = {}
        for name in names:
            text = self.get(name)
            if name == _POLICY:
                values["memory", "eviction"], values["memory", "scope"] = from_redis(text)
            elif name in _KEYS:
                section, key, is_number = _KEYS[name]
                # A dollar may begin an environment variable.
                values[section, key] = int(text) if is_number else text.replace("$", "$$")
        return values


def _rewrite(source: Path, values: dict[tuple[str, str], int | str], environment: Mapping[str, str]) -> None:
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


def _set(table: Any, section: str, key: str, value: int | str) -> None:
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
