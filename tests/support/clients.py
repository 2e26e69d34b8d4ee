"""Programs that Redis users have: redis-cli and redis-benchmark, run against a server of ours."""

from __future__ import annotations

import shutil
import subprocess

import pytest

# Far beyond what they take; a client that hangs must not hang the run.
_TIMEOUT_S = 60.0


def program(name: str) -> str:
    """The path of a program of the redis-tools package; the test is skipped, with the reason, where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian package redis-tools)")
    return found


def redis_cli(port: int, *arguments: str, stdin: str | None = None) -> str:
    """What redis-cli prints for these arguments; it must succeed."""
    done = subprocess.run(
        [program("redis-cli"), "-p", str(port), *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    assert done.returncode == 0, f"redis-cli {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def redis_benchmark(port: int, *arguments: str) -> str:
    """What redis-benchmark prints; it must succeed."""
    done = subprocess.run(
        [program("redis-benchmark"), "-p", str(port), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    assert done.returncode == 0, f"redis-benchmark {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.replace("\r", "\n")
