#!/usr/bin/env python3
"""Plain commands beside redis-server: redis-benchmark against all in turn, medians and ratios.

    python bench/plain.py                                    SET and GET, one at a time and 16 to a pipeline
    python bench/plain.py --tests all --pipelines 1,16,100   every command
    python bench/plain.py --builds compiled --rounds 9       without the interpreted build
    python bench/plain.py --save                             also into bench/results/

All servers are started here, on free ports, without persistence, and stopped at the end: redis-server and Forebay in
each build that there is. They are measured round by round, redis, interpreted, compiled, in the next round the other
way round. Absolute numbers drift while other programs use the machine; the ratio within a round drifts far less, so the
ratio that counts is the median over the rounds. The processor time per command drifts least.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.load import Load, Run, run  # noqa: E402
from bench.report import Line, figure, publish, summary  # noqa: E402
from bench.servers import (  # noqa: E402
    REDIS,
    Server,
    add_builds_option,
    add_rounds_options,
    exit_code_of,
    rounds,
    servers,
    turn,
)
from bench.table import Progress, table  # noqa: E402

_DATA: Final = "__data__"
# What is sent, with __rand_int__ for a random number; the same as redis-benchmark's tests of these names.
TESTS: Final = {
    "set": ("SET", "key:__rand_int__", _DATA),
    "get": ("GET", "key:__rand_int__"),
    "incr": ("INCR", "counter:__rand_int__"),
    "hset": ("HSET", "myhash", "element:__rand_int__", _DATA),
    "lpush": ("LPUSH", "mylist", _DATA),
    "rpush": ("RPUSH", "mylist", _DATA),
    "lpop": ("LPOP", "poplist"),
    "rpop": ("RPOP", "poplist"),
    "sadd": ("SADD", "myset", "element:__rand_int__"),
    "spop": ("SPOP", "popset"),
    "zadd": ("ZADD", "myzset", "0", "element:__rand_int__"),
    "lrange_100": ("LRANGE", "rangelist", "0", "99"),
    "mset": ("MSET", *[word for _ in range(10) for word in ("key:__rand_int__", _DATA)]),
    "ping": ("PING",),
}
# What takes elements away finds as many as it takes.
_FILLED: Final = {
    "lpop": ("RPUSH", "poplist", _DATA),
    "rpop": ("RPUSH", "poplist", _DATA),
    "spop": ("SADD", "popset", "__rand_int__"),
}
# Of redis-server's speed, by length of the pipeline; for the commands that there is a goal for.
WITH_GOAL: Final = ("set", "get", "incr", "hset", "lpush", "sadd", "zadd")
GOALS: Final = {
    1: {"interpreted": 0.95, "compiled": 1.0},
    16: {"interpreted": 0.55, "compiled": 0.9},
    100: {"interpreted": 0.4, "compiled": 0.65},
}
# A run must last long enough to be measured, and no longer.
_MORE: Final = {1: 1, 16: 4}
_MOST_MORE: Final = 6


@dataclass
class Measured:
    """One command at one length of pipeline: the runs of every server, by round."""

    test: str
    pipeline: int
    runs: dict[str, list[Run]] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """What was measured, in words."""
        return self.test.upper() if self.pipeline == 1 else f"{self.test.upper()}, pipeline {self.pipeline}"

    @property
    def line(self) -> Line:
        """Requests per second, beside redis-server's."""
        speeds = {name: [run.per_s for run in runs] for name, runs in self.runs.items()}
        theirs = speeds.pop(REDIS)
        goals = GOALS.get(self.pipeline, {}) if self.test in WITH_GOAL else {}
        return Line(self.subject, "/s", speeds, theirs, dict(goals))


def words_of(test: Iterable[str], size: int) -> list[str]:
    """A test's words with values of that size."""
    return ["x" * size if word == _DATA else word for word in test]


def measure(options: argparse.Namespace) -> list[Measured]:
    """Every test at every length of pipeline, everybody in turn; fewer rounds when the time is over before."""
    results = [Measured(test, pipeline) for pipeline in options.pipelines for test in options.tests]
    progress = Progress()
    with servers(options.builds) as running:
        for server in running:
            progress.show(f"filling {server.name}")
            prepare(server, options)
        try:
            for at in rounds(options):
                for each in results:
                    progress.show(f"{each.subject}, round {at + 1} of {options.rounds}")
                    for server in turn(running, at):
                        each.runs.setdefault(server.name, []).append(one(server, each, options))
        finally:
            progress.clear()
    return results


def prepare(server: Server, options: argparse.Namespace) -> None:
    """Keys for GET: a random one is missed by about one in e to the three. A list for LRANGE."""
    load = Load(3 * options.keys, 16, options.clients, options.keys, options.size)
    run(server, load, words_of(TESTS["set"], options.size))
    run(server, Load(1000, 16), words_of(("RPUSH", "rangelist", _DATA), options.size))


def one(server: Server, measured: Measured, options: argparse.Namespace) -> Run:
    """One run of one test."""
    requests = options.requests * _MORE.get(measured.pipeline, _MOST_MORE)
    if measured.test in _FILLED:
        # Spread over ten times as many numbers, few of them are the same.
        enough = Load(requests, 100, options.clients, 10 * requests)
        run(server, enough, words_of(_FILLED[measured.test], options.size))
    load = Load(requests, measured.pipeline, options.clients, options.keys, options.size)
    return run(server, load, words_of(TESTS[measured.test], options.size))


def show(results: Sequence[Measured], builds: Sequence[str]) -> str:
    """Speeds and ratios as a table, and what each command costs as a second one."""
    costs = []
    for each in results:
        runs = each.runs.values()
        theirs = each.runs[REDIS]
        costs.append(
            (
                each.test.upper(),
                each.pipeline,
                *(figure(median(run.cpu_us for run in of)) for of in runs),
                *(
                    f"{median(a.cpu_us / b.cpu_us for a, b in zip(theirs, each.runs[name], strict=True)):.2f}"
                    for name in builds
                ),
                *(f"{median(run.p99_ms for run in of):.2f}" for of in runs),
            )
        )
    names = [REDIS, *builds]
    columns = ["command", "pipeline", *(f"{name} cpu µs" for name in names), *(f"cpu ratio {name}" for name in builds)]
    columns += [f"{name} p99 ms" for name in names]
    return summary([each.line for each in results], builds) + "\n\n" + table(columns, costs)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def tests(text: str) -> list[str]:
        if text == "all":
            return list(TESTS)
        unknown = set(text.lower().split(",")) - set(TESTS)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are all, {', '.join(TESTS)}")
        return text.lower().split(",")

    def lengths(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=tests, default=["set", "get"], metavar="NAMES", help=f"all, {', '.join(TESTS)}")
    parser.add_argument("--pipelines", type=lengths, default=[1, 16], metavar="N,…", help="commands sent at once")
    add_rounds_options(parser)
    parser.add_argument("--requests", type=int, default=100_000, metavar="N", help="per run; ×4 at 16, ×6 beyond")
    parser.add_argument("--clients", type=int, default=50, metavar="N")
    parser.add_argument("--keys", type=int, default=100_000, metavar="N", help="different keys")
    parser.add_argument("--size", type=int, default=64, metavar="BYTES", help="of a value")
    add_builds_option(parser)
    parser.add_argument("--save", action="store_true", help="write bench/results/DATE-plain.json and .md")
    options = parser.parse_args(arguments)
    if min(options.requests, options.clients, options.keys, options.size, *options.pipelines) < 1:
        parser.error("numbers must be at least 1")
    return options


def main() -> int:
    options = parse()
    facts = machine.describe("plain", options.builds)
    results = measure(options)
    shown = show(results, [build.name for build in options.builds])
    lines = [each.line for each in results]
    publish("plain", "Plain commands beside redis-server", facts, shown, lines, options.save)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
