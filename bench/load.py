"""redis-benchmark as a function: one run against one server, with what the run cost the server."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from bench.servers import Server, ServerFailed


@dataclass(frozen=True)
class Run:
    """What came of a run: requests per second, milliseconds, and the server's processor time in µs per request."""

    per_s: float
    p99_ms: float
    cpu_us: float


@dataclass(frozen=True)
class Load:
    """How a run loads a server. `keys` is how many different numbers stand for `__rand_int__`."""

    requests: int
    pipeline: int = 1
    clients: int = 50
    keys: int = 100_000
    size: int = 64


def run(server: Server, load: Load, words: Sequence[str]) -> Run:
    """Requests of one command, in which `__rand_int__` is replaced by twelve random digits."""
    return _run(server, load, list(words))


def run_test(server: Server, load: Load, test: str) -> Run:
    """One of redis-benchmark's own tests; the only way to send values that no command line can hold."""
    return _run(server, load, ["-t", test])


def _run(server: Server, load: Load, what: list[str]) -> Run:
    command = ["redis-benchmark", "-p", str(server.port), "-c", str(load.clients), "-n", str(load.requests)]
    command += ["-P", str(load.pipeline), "-r", str(load.keys), "-d", str(load.size), "--csv"]
    before = server.cpu_s
    # It ends with 1 at the first reply that is an error.
    told = subprocess.run([*command, *what], capture_output=True, text=True, check=False)
    cpu_s = server.cpu_s - before
    rows = [row for row in csv.DictReader(told.stdout.splitlines()) if row.get("rps")]
    if told.returncode or len(rows) != 1:
        raise ServerFailed(
            f"redis-benchmark {' '.join(what)[:60]} failed: {(told.stderr or told.stdout).strip()[:500]}"
        )
    return Run(float(rows[0]["rps"]), float(rows[0]["p99_latency_ms"]), cpu_s / load.requests * 1e6)
