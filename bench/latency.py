#!/usr/bin/env python3
"""Latency at fixed rates beside redis-server: median, 99th and 99.9th percentile of a client that does not wait.

    python bench/latency.py                              1,000/s, 5,000/s and half of what the slowest server can do
    python bench/latency.py --rates 2000,half --rounds 9
    python bench/latency.py --save                       also into bench/results/

The client (bench/open_loop.py) is a process of its own. Its requests are due at moments that are the same for every
server, and latency counts from there, so a pause is charged to every request that it delays. `half` is half of the
unpipelined speed of the slowest of the servers, or of the client where that is less; the table says which rate it was.

With two cores, the client never sleeps on one of them and the server has the other. Whatever else runs, shows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.load import Load, run  # noqa: E402
from bench.open_loop import Outcome, Task  # noqa: E402
from bench.report import Line, publish, summary  # noqa: E402
from bench.servers import (  # noqa: E402
    REDIS,
    Build,
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

HALF: Final = "half"
# Of redis-server's 99th percentile, at half load.
GOALS: Final = {"interpreted": 1.5, "compiled": 1.3}
# A Python client in an endless loop keeps its appointments up to this share of what it can send at all.
_COMFORTABLE: Final = 0.6
# Above anything that one client can send.
_AS_FAST_AS_IT_GOES: Final = 200_000


@dataclass
class Measured:
    """One rate: the outcomes of every server, by round."""

    name: str
    rate: float
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    def line(self, percentile: str) -> Line:
        """A percentile of every server."""
        figures = {name: [each.latency[percentile] for each in found] for name, found in self.outcomes.items()}
        theirs = figures.pop(REDIS)
        goals = dict(GOALS) if self.name == HALF and percentile == "99" else {}
        load = "half load" if self.name == HALF else f"{number(self.rate)}/s"
        return Line(f"latency p{percentile}, {load}", "ms", figures, theirs, goals, less=True)


def perform(task: Task) -> Outcome:
    """Run the client in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.open_loop", json.dumps(asdict(task))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServerFailed(f"the client failed: {done.stderr.strip()[-500:]}")
    return Outcome(**json.loads(done.stdout))


def task_of(server: Server, rate: float, options: argparse.Namespace, seed: int) -> Task:
    """What one run is."""
    return Task(server.port, rate, options.length, options.connections, options.keys, options.size, options.reads, seed)


def fill(server: Server, options: argparse.Namespace) -> None:
    """Every key exists, with a value of the right size: the client tells replies apart by their length."""
    value = "x" * options.size
    for first in range(0, options.keys, 500):
        keys = (f"key:{at:012}" for at in range(first, min(first + 500, options.keys)))
        server.call("MSET", *[word for key in keys for word in (key, value)])


def half_load(running: Sequence[Server], options: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """The rate that `half` stands for, and what everybody can do: each server, and the client."""
    load = Load(int(options.connections * 400), 1, options.connections, options.keys, options.size)
    most = {}
    for server in running:
        speeds = [run(server, load, ("GET", "key:__rand_int__")).per_s for _ in range(3)]
        most[server.name] = median(speeds)
    flood = Task(running[0].port, _AS_FAST_AS_IT_GOES, 0.2, options.connections, options.keys, options.size, 1.0, 0)
    most["client"] = perform(flood).rate
    return min(min(most[server.name] for server in running) / 2, most["client"] * _COMFORTABLE), most


def measure(options: argparse.Namespace) -> tuple[list[Measured], dict[str, float]]:
    """Every rate against everybody in turn, and what `half_load` found."""
    progress = Progress()
    most: dict[str, float] = {}
    with servers(options.builds) as running:
        for server in running:
            progress.show(f"filling {server.name}")
            fill(server, options)
        half = 0.0
        if HALF in options.rates:
            progress.show("looking for half load")
            half, most = half_load(running, options)
        results = [Measured(str(rate), half if rate == HALF else float(rate)) for rate in options.rates]
        try:
            for at in rounds(options):
                for each in results:
                    progress.show(f"round {at + 1} of {options.rounds}, {number(each.rate)}/s")
                    for server in turn(running, at):
                        outcome = perform(task_of(server, each.rate, options, at))
                        each.outcomes.setdefault(server.name, []).append(outcome)
        finally:
            progress.clear()
    return results, most


def show(results: Sequence[Measured], builds: Sequence[Build], most: dict[str, float]) -> str:
    """Percentiles of every server at every rate, then the ratios."""
    rows = []
    for each in results:
        for name, outcomes in each.outcomes.items():
            latency = [f"{median(one.latency[which] for one in outcomes):.3f}" for which in outcomes[0].latency]
            late = f"{median(one.late['99'] for one in outcomes):.3f}"
            rows.append((name, number(each.rate), number(median(one.rate for one in outcomes)), *latency, late))
    columns = ["server", "rate/s", "reached", "p50 ms", "p99 ms", "p99.9 ms", "longest ms", "client late p99 ms"]
    parts = [table(columns, rows)]
    if most:
        parts.append("at most, unpipelined: " + ", ".join(f"{name} {number(rate)}/s" for name, rate in most.items()))
    parts.append(summary(lines_of(results), [build.name for build in builds]))
    return "\n\n".join(parts)


def lines_of(results: Sequence[Measured]) -> list[Line]:
    """The percentiles of each rate."""
    return [each.line(percentile) for each in results for percentile in ("50", "99", "99.9")]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def rates(text: str) -> list[int | str]:
        return [each if each == HALF else int(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=rates, default=[1000, 5000, HALF], metavar="N,…", help=f"per second, or {HALF}")
    add_rounds_options(parser)
    parser.add_argument("--length", type=float, default=3.0, metavar="SECONDS", help="of a run")
    parser.add_argument("--connections", type=int, default=50, metavar="N")
    parser.add_argument("--keys", type=int, default=10_000, metavar="N", help="different keys")
    parser.add_argument("--size", type=int, default=64, metavar="BYTES", help="of a value")
    parser.add_argument("--reads", type=float, default=0.8, metavar="SHARE", help="of the requests; the others write")
    add_builds_option(parser)
    parser.add_argument("--save", action="store_true", help="write bench/results/DATE-latency.json and .md")
    options = parser.parse_args(arguments)
    given = [rate for rate in options.rates if rate != HALF]
    if min(options.connections, options.keys, options.size, *given) < 1 or options.length <= 0:
        parser.error("numbers must be at least 1")
    if not 0 <= options.reads <= 1:
        parser.error("--reads is a share between 0 and 1")
    return options


def main() -> int:
    options = parse()
    facts = machine.describe("latency", options.builds)
    results, most = measure(options)
    shown = show(results, options.builds, most)
    publish("latency", "Latency at fixed rates beside redis-server", facts, shown, lines_of(results), options.save)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
