#!/usr/bin/env python3
"""Many connections beside redis-server: what an idle one takes, what it costs the others, how fast they come and go.

    python bench/connections.py                          1, 100, 1,000 and 10,000 idle clients
    python bench/connections.py --idle 1,5000 --rounds 9
    python bench/connections.py --save                   also into bench/results/

For each number of idle clients: the server's growth in bytes per client, and GET by 50 other clients in turn on all
servers. The idle ones have said PING once. `churn` is a client that connects, says PING and leaves, over and over.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.idle_clients import SPARE_FILES, IdleClients, raise_limit  # noqa: E402
from bench.load import Load, Run, run  # noqa: E402
from bench.report import Line, figure, publish, summary  # noqa: E402
from bench.servers import (  # noqa: E402
    REDIS,
    Server,
    ServerFailed,
    add_builds_option,
    add_rounds_options,
    exit_code_of,
    rounds,
    servers,
    turn,
)
from bench.table import Progress, number, table  # noqa: E402

# What still counts as flat: the growth of a command's cost as a multiple of redis-server's own growth.
FLAT: Final = 1.15
_GET: Final = ("GET", "key:__rand_int__")
_PING: Final = b"*1\r\n$4\r\nPING\r\n"


@dataclass
class Measured:
    """All servers with one number of idle clients."""

    idle: int
    # Bytes of resident memory above those with no idle client at all.
    growth: dict[str, int] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)


def measure(options: argparse.Namespace) -> tuple[list[Measured], dict[str, list[float]]]:
    """Every number of idle clients, smallest first, and connections per second."""
    progress = Progress()
    churned: dict[str, list[float]] = {}
    results = [Measured(idle) for idle in sorted(options.idle)]
    most = max(options.idle) + options.clients + SPARE_FILES
    if raise_limit() < most:
        raise ServerFailed(f"a process may open only {raise_limit()} files here, {most} are needed (ulimit -n)")
    with ExitStack() as stack:
        config = f"[server]\nmax_clients = {most}\n"
        running = stack.enter_context(servers(options.builds, config, ["--maxclients", str(most)]))
        stack.callback(progress.clear)
        load = Load(options.requests, 1, options.clients, options.keys)
        for server in running:
            # Buffers and tables that the first clients bring along belong to no idle client.
            run(server, load, ("SET", "key:__rand_int__", "x" * load.size))
        for at in rounds(options):
            progress.show(f"churn, round {at + 1} of {options.rounds}")
            for server in turn(running, at):
                churned.setdefault(server.name, []).append(churn(server, options.churn))
        before = {server.name: server.resident_bytes for server in running}
        held = {server.name: stack.enter_context(IdleClients(server)) for server in running}
        for each in results:
            for server in running:
                progress.show(f"{number(each.idle)} idle clients of {server.name}")
                held[server.name].grow_to(each.idle)
                each.growth[server.name] = server.resident_bytes - before[server.name]
            for at in rounds(options):
                progress.show(f"GET beside {number(each.idle)} idle clients, round {at + 1} of {options.rounds}")
                for server in turn(running, at):
                    each.runs.setdefault(server.name, []).append(run(server, load, _GET))
    return results, churned


def churn(server: Server, count: int) -> float:
    """Connections per second of a client that makes one after the other."""
    began = time.perf_counter()
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", server.port), 30) as client:
            client.sendall(_PING)
            client.recv(64)
    return count / (time.perf_counter() - began)


def lines_of(results: Sequence[Measured], churned: dict[str, list[float]]) -> list[Line]:
    """Bytes per idle client with the most of them, speed beside them, and the growth of a command's time."""
    fewest, most = results[0], results[-1]
    per_client = {name: [growth / most.idle] for name, growth in most.growth.items()}
    speeds = {name: [run.per_s for run in runs] for name, runs in most.runs.items()}
    # Each server's own time per command, with the most idle clients ÷ with the fewest.
    costs = {
        name: [many.cpu_us / few.cpu_us for many, few in zip(runs, fewest.runs[name], strict=False)]
        for name, runs in most.runs.items()
    }
    beside = f"{number(most.idle)} idle clients"
    lines = [
        _line("memory of an idle client", "B", per_client, less=True),
        _line(f"GET beside {beside}", "/s", speeds),
        _line("connect, PING, close", "/s", dict(churned)),
    ]
    grown = _line(f"cost of GET, {beside} ÷ {fewest.idle}", "×", costs, less=True)
    grown.goals = dict.fromkeys(grown.ours, FLAT)
    return [*lines, grown]


def _line(subject: str, unit: str, figures: dict[str, list[float]], less: bool = False) -> Line:
    theirs = figures.pop(REDIS)
    return Line(subject, unit, figures, theirs, less=less)


def show(results: Sequence[Measured], lines: Sequence[Line], builds: Sequence[str]) -> str:
    """One row per server and number of idle clients, then the ratios."""
    rows = [
        (
            name,
            number(each.idle),
            number(each.growth[name] / each.idle),
            number(median(run.per_s for run in runs)),
            figure(median(run.cpu_us for run in runs)),
            f"{median(run.p99_ms for run in runs):.2f}",
        )
        for each in results
        for name, runs in each.runs.items()
    ]
    columns = ["server", "idle clients", "B per idle client", "GET/s", "cpu µs per GET", "p99 ms"]
    return table(columns, rows) + "\n\n" + summary(lines, builds)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def counts(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=counts, default=[1, 100, 1000, 10_000], metavar="N,…", help="idle clients")
    add_rounds_options(parser)
    parser.add_argument("--requests", type=int, default=50_000, metavar="N", help="per run")
    parser.add_argument("--clients", type=int, default=50, metavar="N", help="that are not idle")
    parser.add_argument("--keys", type=int, default=10_000, metavar="N", help="different keys")
    parser.add_argument("--churn", type=int, default=2000, metavar="N", help="connections made one after the other")
    add_builds_option(parser)
    parser.add_argument("--save", action="store_true", help="write bench/results/DATE-connections.json and .md")
    options = parser.parse_args(arguments)
    if min(options.requests, options.clients, options.keys, options.churn, *options.idle) < 1:
        parser.error("numbers must be at least 1")
    return options


def main() -> int:
    options = parse()
    facts = machine.describe("connections", options.builds)
    results, churned = measure(options)
    lines = lines_of(results, churned)
    shown = show(results, lines, [build.name for build in options.builds])
    publish("connections", "Many connections beside redis-server", facts, shown, lines, options.save)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
