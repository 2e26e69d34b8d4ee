#!/usr/bin/env python3
"""Large values beside redis-server: SET and GET from a kilobyte to eight megabytes.

    python bench/large_values.py
    python bench/large_values.py --sizes 1kb,64kb --rounds 9
    python bench/large_values.py --save                  also into bench/results/

A run moves about the same number of bytes whatever the size. Eight clients, one request at a time each, eight keys.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.load import Load, Run, run_test  # noqa: E402
from bench.report import Line, figure, publish, summary  # noqa: E402
from bench.servers import (  # noqa: E402
    REDIS,
    add_builds_option,
    add_rounds_options,
    exit_code_of,
    rounds,
    servers,
    turn,
)
from bench.table import Progress, table  # noqa: E402

SIZES: Final = "1kb,8kb,64kb,512kb,8mb"
_UNITS: Final = {"": 1, "kb": 1 << 10, "mb": 1 << 20}
_KEYS: Final = 8
_CLIENTS: Final = 8
# Of a run: with fewer requests it is over before it is measured, with more a kilobyte takes all the time.
_FEWEST: Final = 24
_MOST: Final = 50_000


@dataclass
class Measured:
    """One command with one size: the runs of every server, by round."""

    test: str
    size: int
    runs: dict[str, list[Run]] = field(default_factory=dict)

    @property
    def line(self) -> Line:
        """Megabytes per second, beside redis-server's."""
        speeds = {name: [run.per_s * self.size / 1e6 for run in runs] for name, runs in self.runs.items()}
        return Line(f"{self.test.upper()} of {text_of(self.size)}", "MB/s", speeds, speeds.pop(REDIS))


def bytes_of(text: str) -> int:
    """A size as a number: 8mb, 64kb, 100."""
    found = re.fullmatch(r"(\d+)(|kb|mb)", text.lower())
    if found is None or int(found[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 100, 64kb or 8mb")
    return int(found[1]) * _UNITS[found[2]]


def text_of(size: int) -> str:
    """A size as people write it."""
    for unit, factor in (("MB", 1 << 20), ("KB", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def measure(options: argparse.Namespace) -> list[Measured]:
    """Every size, written and read, everybody in turn."""
    results = [Measured(test, size) for size in options.sizes for test in ("set", "get")]
    progress = Progress()
    with servers(options.builds) as running:
        try:
            for at in rounds(options):
                for each in results:
                    progress.show(f"round {at + 1} of {options.rounds}: {each.test.upper()} of {text_of(each.size)}")
                    requests = min(_MOST, max(_FEWEST, options.volume // each.size))
                    load = Load(requests, 1, _CLIENTS, _KEYS, each.size)
                    for server in turn(running, at):
                        each.runs.setdefault(server.name, []).append(run_test(server, load, each.test))
        finally:
            progress.clear()
    return results


def show(results: Sequence[Measured], builds: Sequence[str]) -> str:
    """Speeds and ratios, then requests and processor time."""
    rows = [
        (
            each.line.subject,
            *(figure(median(run.per_s for run in runs)) for runs in each.runs.values()),
            *(figure(median(run.cpu_us for run in runs)) for runs in each.runs.values()),
        )
        for each in results
    ]
    names = [REDIS, *builds]
    columns = ["", *(f"{name}/s" for name in names), *(f"{name} cpu µs" for name in names)]
    return summary([each.line for each in results], builds) + "\n\n" + table(columns, rows)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def sizes(text: str) -> list[int]:
        return [bytes_of(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=sizes, default=sizes(SIZES), metavar="SIZE,…", help=f"default: {SIZES}")
    parser.add_argument("--volume", type=bytes_of, default=bytes_of("256mb"), metavar="SIZE", help="bytes of a run")
    add_rounds_options(parser)
    add_builds_option(parser)
    parser.add_argument("--save", action="store_true", help="write bench/results/DATE-large_values.json and .md")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    facts = machine.describe("large_values", options.builds)
    results = measure(options)
    shown = show(results, [build.name for build in options.builds])
    lines = [each.line for each in results]
    publish("large_values", "Large values beside redis-server", facts, shown, lines, options.save)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
