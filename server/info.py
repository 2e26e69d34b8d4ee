"""INFO: Redis's sections and field names, so that existing dashboards work, and a section of our own for prefixes."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from protocol.quick import COMPILED

# Which form of the sources runs.
BUILD: Final = "compiled" if COMPILED else "interpreted"
# The Redis version whose behaviour we follow; clients look at it.
REDIS_VERSION: Final = "7.4.0"

Section = Callable[[], Iterable[tuple[str, object]]]

# Sections that `INFO` without arguments shows, in Redis's order.
DEFAULT_SECTIONS: Final = (
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "cpu",
    "errorstats",
    "keyspace",
    "prefixes",
    "invalidation",
    "stores",
)


class Info:
    """Writes INFO from named sections, each a function that yields (field, value) pairs."""

    __slots__ = ("_sections",)

    def __init__(self, sections: dict[str, Section]) -> None:
        self._sections = sections

    def write(self, wanted: list[str]) -> str:
        """The text of the named sections; none, `default`: the usual ones; `all`, `everything`: every one."""
        names = [name.lower() for name in wanted]
        if not names or "default" in names:
            chosen: list[str] = [name for name in DEFAULT_SECTIONS if name in self._sections]
            chosen += [name for name in names if name in self._sections and name not in chosen]
        elif "all" in names or "everything" in names:
            chosen = list(self._sections)
        else:
            chosen = [name for name in self._sections if name in names]
        parts = []
        for name in chosen:
            lines = [f"# {name.capitalize()}"]
            lines += [f"{field}:{value}" for field, value in self._sections[name]()]
            parts.append("\r\n".join(lines) + "\r\n")
        return "\r\n".join(parts)


def own_version() -> str:
    """Forebay's version."""
    try:
        return version("forebay")
    except PackageNotFoundError:
        return "0.0.0"


def human_bytes(count: float) -> str:
    """`1.50M`, as Redis writes sizes for people."""
    for unit, factor in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.2f}{unit}"
    return f"{int(count)}B"


def resident_bytes() -> int:
    """The process's resident set, in bytes."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak_resident_bytes() -> int:
    """The largest resident set so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def platform_fields() -> list[tuple[str, object]]:
    """What machine and interpreter this is."""
    system = platform.uname()
    return [
        ("os", f"{system.system} {system.release} {system.machine}"),
        ("arch_bits", 64 if sys.maxsize > 1 << 32 else 32),
        ("python_version", platform.python_version()),
        ("process_id", os.getpid()),
    ]


def cpu_fields() -> list[tuple[str, object]]:
    """Processor seconds used so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return [
        ("used_cpu_sys", f"{own.ru_stime:.6f}"),
        ("used_cpu_user", f"{own.ru_utime:.6f}"),
        ("used_cpu_sys_children", f"{children.ru_stime:.6f}"),
        ("used_cpu_user_children", f"{children.ru_utime:.6f}"),
    ]
