"""Logs: standard error, one line per event, as text or as JSON.

    2026-01-31T12:00:00.250Z INFO    server.app: ready addresses=127.0.0.1:6379
    {"time": "2026-01-31T12:00:00.250Z", "level": "info", "logger": "server.app", "event": "ready", "addresses": […]}

What is passed as `extra={…}` follows the message as name=value. Whatever comes from outside may end up in a message (a
key, a client's name, a database's error text), so control characters are escaped: nobody can forge a second line.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")

# Redis's names (CONFIG SET loglevel), and ours.
_LEVEL_OF: Final = {"verbose": "info", "notice": "info", **{level: level for level in LEVELS}}
_REDIS_NAME: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "notice",
    logging.WARNING: "warning",
    logging.ERROR: "error",
}

# C0, DEL, C1, and the separators that some readers take for a line's end.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What logging itself puts on a record; everything else came as `extra`.
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def escaped(text: str) -> str:
    """`text` on one line: control characters as \\n, \\t, \\x1b …"""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class TextFormatter(logging.Formatter):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {record.getMessage()}"
        for name, value in _extra(record).items():
            line += f" {name}={_shown(value)}"
        trace = _trace(self, record)
        return escaped(f"{line}: {trace}" if trace else line)


class JsonFormatter(logging.Formatter):
    """For machines: one object per line."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        # An `extra` named like one of the four must not hide it.
        event.update((name if name not in event else f"{name}_", value) for name, value in _extra(record).items())
        trace = _trace(self, record)
        if trace:
            event["exception"] = trace
        # ASCII only: lone surrogates (bytes that were not UTF-8) survive, and no separator of Unicode ends the line.
        return json.dumps(event, default=str)


def set_up_logging(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Send everything of `level` and above to `stream` (standard error). Calling it again replaces what was set."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [other for other in root.handlers if getattr(other, "is_forebay", False)]:
        root.removeHandler(old)
    vars(handler)["is_forebay"] = True
    root.addHandler(handler)
    root.setLevel(level.upper())
    # A warning of Python or of a library is an event as well, not a loose pair of lines.
    logging.captureWarnings(True)


def log_level() -> str:
    """The level in force, by Redis's name where there is one."""
    level = logging.getLogger().level
    return _REDIS_NAME.get(level, logging.getLevelName(level).lower())


def checked_log_level(name: str) -> str:
    """A level by Redis's name or ours; ValueError for another word."""
    level = _LEVEL_OF.get(name.lower())
    if level is None:
        raise ValueError(f"argument(s) must be one of the following: {', '.join(_LEVEL_OF)}")
    return level


def set_log_level(level: object) -> None:
    """Put a checked level in force."""
    logging.getLogger().setLevel(str(level).upper())


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
