"""On what a bench ran: the machine, the versions, the command line. A result without these means nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import protocol.parser

ROOT = Path(__file__).resolve().parent.parent


def describe(program: str) -> dict[str, str]:
    """The facts by name, in the order in which they are shown; no host name and no path."""
    facts = {
        "command line": " ".join([f"bench/{program}.py", *sys.argv[1:]]),
        "cpu": f"{len(os.sched_getaffinity(0))} × {_cpu()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "forebay": f"{_own_version()}, {'compiled' if is_compiled() else 'interpreted'}",
    }
    for package in ("uvloop", "hiredis", "asyncpg"):
        facts[package] = _version(package)
    return facts


def is_compiled() -> bool:
    """Does the hot road run compiled?"""
    return not str(protocol.parser.__file__).endswith(".py")


def program_version(program: str) -> str:
    """The version that an installed program tells, or why there is none."""
    path = shutil.which(program)
    if path is None:
        return "not installed"
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+(\.\d+)+", told)
    return found.group() if found else "unknown"


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.machine() or "unknown"


# The checkout's own: it runs uninstalled, too.
def _own_version() -> str:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
