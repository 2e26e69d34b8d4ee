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
from collections.abc import Sequence
from pathlib import Path

from bench.servers import Build
from tests.support.forebay import default_root

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("protocol", "eviction", "persistence", "server")


def describe(program: str, builds: Sequence[Build] = ()) -> dict[str, str]:
    """The facts by name, in the order in which they are shown; no host name and no path. `builds` are those measured,
    without them it is the one that runs here."""
    measured = [f"{build.name}{' (of other sources)' if _differs(build) else ''}" for build in builds] or [
        "compiled" if is_compiled() else "interpreted"
    ]
    facts = {
        "command line": " ".join([f"bench/{program}.py", *sys.argv[1:]]),
        "cpu": f"{len(os.sched_getaffinity(0))} × {_cpu()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "load before": _load(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "forebay": f"{_own_version()}, {' and '.join(measured)}, {_commit()}",
    }
    for installed in ("redis-server", "redis-benchmark"):
        facts[installed] = program_version(installed)
    for package in ("uvloop", "hiredis", "asyncpg"):
        facts[package] = _version(package)
    return facts


def is_compiled() -> bool:
    """Does the hot road of the Forebay that a bench starts by default run compiled?"""
    return any(default_root().glob("protocol/parser.*.so"))


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


def _load() -> str:
    loads = os.getloadavg()
    told = " ".join(f"{load:.1f}" for load in loads)
    # A bench needs a core beside the server's.
    is_busy = loads[0] > 0.5 * len(os.sched_getaffinity(0))
    return f"{told} (others use this machine: trust processor times and counts, no speeds)" if is_busy else told


# A build is a copy; the checkout may have gone on since.
def _differs(build: Build) -> bool:
    if build.root == ROOT:
        return False
    ours = {path for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    return any(not _is_same(path, build.root / path.relative_to(ROOT)) for path in ours)


def _is_same(path: Path, other: Path) -> bool:
    return other.exists() and path.read_bytes() == other.read_bytes()


def _commit() -> str:
    """Which sources these are, as far as the checkout knows."""

    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    commit = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--", *ROOMS)
    return f"commit {commit}{' with changes' if changed else ''}" if commit else "commit unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
