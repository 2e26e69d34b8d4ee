#!/usr/bin/env python3
"""Where the time of a command goes, inside the server's process and without a socket, stage by stage.

    python bench/stages.py
    python bench/stages.py --commands GET,SET --pipelines 1,16,100
    python bench/stages.py --save                        also into bench/results/

    parse    bytes to arguments
    run      look-up of the command, handler, its reply as bytes
    join     the replies of a read as one piece
    whole    all of it as the connection does it, with a write to /dev/null

Processor time of one process, the best of several, in µs per command; nothing else of the machine is in it but its
speed. `whole` is not the sum: the connection's own work is in it, and a read that is one command is not joined. What a
command costs beyond that (`bench/plain.py` shows it) is the kernel's and the event loop's.
"""

from __future__ import annotations

import argparse
import json
import os
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
from bench.report import Line, figure, publish  # noqa: E402
from bench.servers import (  # noqa: E402
    Build,
    ServerFailed,
    add_builds_option,
    add_rounds_options,
    exit_code_of,
    rounds,
    turn,
)
from bench.stage_timing import STAGES, Task, Timing  # noqa: E402
from bench.table import Progress, table  # noqa: E402

_VALUE: Final = "x" * 64
COMMANDS: Final = {
    "GET": ["GET", "key:KEY"],
    "SET": ["SET", "key:KEY", _VALUE],
    "INCR": ["INCR", "counter:KEY"],
    # One key each, as redis-benchmark has it, and none of those few whose accesses are noted for CACHE.ADVISE.
    "HSET": ["HSET", "myhash", "field:KEY", _VALUE],
    "LPUSH": ["LPUSH", "mylist", _VALUE],
    "SADD": ["SADD", "myset", "member:KEY"],
    "ZADD": ["ZADD", "myzset", "0", "member:KEY"],
    "PING": ["PING"],
}


@dataclass
class Measured:
    """One command at one length of pipeline in one build: µs by stage, by round."""

    build: str
    command: str
    pipeline: int
    us: dict[str, list[float]] = field(default_factory=dict)


def perform(build: Build, task: Task) -> list[Timing]:
    """Time a build in a process of its own."""
    done = subprocess.run(
        # The instrument is this checkout's, what it measures is the build's: -P keeps them apart.
        [sys.executable, "-P", str(ROOT / "bench" / "stage_timing.py"), json.dumps(asdict(task))],
        env={**os.environ, "PYTHONPATH": str(build.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServerFailed(f"{build.name}: {done.stderr.strip()[-500:]}")
    return [Timing(**each) for each in json.loads(done.stdout)]


def measure(options: argparse.Namespace) -> list[Measured]:
    """All builds in turn."""
    task = Task({name: COMMANDS[name] for name in options.commands}, options.pipelines, options.keys, options.repeat)
    found: dict[tuple[str, str, int], Measured] = {}
    progress = Progress()
    try:
        for at in rounds(options):
            for build in turn(options.builds, at):
                progress.show(f"round {at + 1} of {options.rounds}, {build.name}")
                for timing in perform(build, task):
                    place = build.name, timing.command, timing.pipeline
                    measured = found.setdefault(place, Measured(*place))
                    for stage, us in timing.us.items():
                        measured.us.setdefault(stage, []).append(us)
    finally:
        progress.clear()
    return list(found.values())


def show(results: Sequence[Measured]) -> str:
    """A row for each command, length of pipeline and build."""
    rows = [
        (each.command, each.pipeline, each.build, *(figure(median(each.us[stage])) for stage in STAGES))
        for each in sorted(results, key=lambda each: (each.pipeline, list(COMMANDS).index(each.command)))
    ]
    return table(["command", "pipeline", "build", *(f"{stage} µs" for stage in STAGES)], rows)


def lines_of(results: Sequence[Measured]) -> list[Line]:
    """The whole road of each command."""
    lines: dict[tuple[str, int], Line] = {}
    for each in results:
        subject = f"{each.command} in process{f', pipeline {each.pipeline}' if each.pipeline > 1 else ''}"
        line = lines.setdefault((each.command, each.pipeline), Line(subject, "µs", {}, less=True))
        line.ours[each.build] = each.us["whole"]
    return list(lines.values())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def commands(text: str) -> list[str]:
        unknown = set(text.upper().split(",")) - set(COMMANDS)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(COMMANDS)}")
        return text.upper().split(",")

    def lengths(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=commands, default=list(COMMANDS), metavar="NAMES", help=", ".join(COMMANDS))
    parser.add_argument("--pipelines", type=lengths, default=[1, 16], metavar="N,…", help="commands of a read")
    add_rounds_options(parser, 3)
    parser.add_argument("--repeat", type=int, default=20_000, metavar="N", help="commands of a timing")
    parser.add_argument("--keys", type=int, default=10_000, metavar="N", help="different keys")
    add_builds_option(parser)
    parser.add_argument("--save", action="store_true", help="write bench/results/DATE-stages.json and .md")
    options = parser.parse_args(arguments)
    if min(options.repeat, options.keys, *options.pipelines) < 1:
        parser.error("numbers must be at least 1")
    return options


def main() -> int:
    options = parse()
    facts = machine.describe("stages", options.builds)
    results = measure(options)
    publish("stages", "Where the time of a command goes", facts, show(results), lines_of(results), options.save)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
