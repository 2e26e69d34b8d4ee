#!/usr/bin/env python3
"""What a command costs as the number of keys, and of prefix rules, grows: a table, and a plot that should be flat.

    python bench/growth.py                               10 k, 100 k, 1 M and 5 M keys; 1 to 1,000 prefix rules
    python bench/growth.py --keys 10000,1000000 --only keys
    python bench/growth.py --plot growth.png             needs matplotlib: the extra `bench`
    python bench/growth.py --save                        also into bench/results/, with the plot if matplotlib is there

A server for each number runs at the same time, and all are measured in turn. The figure is processor time per command,
GET and SET at random in pipelines of 16, by redis-benchmark: speed on a shared machine says less. `managed` keys are
under a read-through, write-behind rule over an SQLite table, and in memory when they are measured; nothing is flushed
meanwhile. Processor caches make every server slower with more keys, so redis-server's growth stands beside ours.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
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
    ServerFailed,
    add_builds_option,
    add_rounds_options,
    exit_code_of,
    forebay,
    redis_server,
    rounds,
    server_at,
    turn,
)
from bench.table import Progress, number, table  # noqa: E402
from tests.support.wire import RawClient  # noqa: E402

SIZE: Final = 64
# Of redis-server's own growth from the fewest to the most keys; of nothing at all where there is no redis-server.
GOAL: Final = 1.15
KEYS: Final = "keys"
PREFIXES: Final = "prefix rules"
_PLAIN: Final = "key:__rand_int__"
# Keys of one command while filling.
_AT_ONCE: Final = 500
_ROWS: Final = "rows"
# Of a server's lines in the plot.
_STYLES: Final = {REDIS: ":", "interpreted": "-", "compiled": "--"}


@dataclass
class Series:
    """One command of one server at each number of keys or rules: the runs, by round."""

    axis: str
    server: str
    command: str
    runs: dict[int, list[Run]] = field(default_factory=dict)

    def cost_us(self, at: int) -> float:
        """Processor time per command."""
        return median(run.cpu_us for run in self.runs[at])

    @property
    def growth(self) -> list[float]:
        """The cost at the highest number as a multiple of that at the lowest, round by round."""
        fewest, most = self.runs[min(self.runs)], self.runs[max(self.runs)]
        return [many.cpu_us / few.cpu_us for few, many in zip(fewest, most, strict=True)]


@dataclass(frozen=True)
class Cell:
    """A running server at one number on an axis, and the commands to measure there by name."""

    at: int
    server: Server
    keys: int
    commands: dict[str, tuple[str, ...]]


# -- the servers ------------------------------------------------------------------------------------------------------


def commands(kind: str, key: str) -> dict[str, tuple[str, ...]]:
    """GET and SET of a kind of keys."""
    return {f"{kind} GET": ("GET", key), f"{kind} SET": ("SET", key, "x" * SIZE)}


def configuration(database: Path, rules: int) -> str:
    """A server with so many rules over the same table. Nothing is flushed while it is measured."""
    text = f'[stores.main]\nurl = "sqlite:///{database}"\n'
    for at in range(rules):
        text += f"""
[prefix."{head(at)}{{name}}"]
store = "main"
table = "{_ROWS}"
value = {{ column = "body" }}
read = "read-through"
write = "write-behind"
ttl = "10h"
write_delay = "50m"
max_dirty = "4gb"
"""
    return text


def head(rule: int) -> str:
    """What the keys of a rule begin with."""
    return f"rule{rule}:"


def make_rows(database: Path, count: int) -> None:
    """An SQLite table with a row for each number, as redis-benchmark spells it."""
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"CREATE TABLE {_ROWS} (name TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID")
        rows = ((f"{at:012}", "x" * SIZE) for at in range(count))
        connection.executemany(f"INSERT INTO {_ROWS} VALUES (?, ?)", rows)
    connection.close()


def fill(server: Server, count: int) -> None:
    """Plain keys, all of them."""
    with RawClient(server.port) as client:
        for numbers in _portions(count):
            pairs = [b"$16\r\nkey:%012d\r\n$%d\r\n%b\r\n" % (at, SIZE, b"x" * SIZE) for at in numbers]
            client.send(b"*%d\r\n$4\r\nMSET\r\n%b" % (1 + 2 * len(pairs), b"".join(pairs)))
            _expect(client.reply(), b"OK")


def load(server: Server, rule: int, count: int) -> None:
    """Read every row under a rule, so that it is in memory."""
    with RawClient(server.port) as client:
        for numbers in _portions(count):
            values = client.call("MGET", *[f"{head(rule)}{at:012}" for at in numbers])
            _expect(values, [b"x" * SIZE] * len(numbers))


def _portions(count: int) -> Iterator[range]:
    for first in range(0, count, _AT_ONCE):
        yield range(first, min(first + _AT_ONCE, count))


def _expect(reply: object, expected: object) -> None:
    if reply != expected:
        raise ServerFailed(f"instead of what was asked for: {reply!r}"[:300])


# -- measuring --------------------------------------------------------------------------------------------------------


def plain_keys(options: argparse.Namespace) -> list[Series]:
    """Plain keys, beside redis-server."""
    progress = Progress()
    with ExitStack() as stack:
        cells = []
        for count in options.keys:
            running = [server_at(REDIS, stack.enter_context(redis_server()))]
            running += [stack.enter_context(forebay(build)) for build in options.builds]
            for server in running:
                progress.show(f"{number(count)} keys in {server.name}")
                fill(server, count)
                cells.append(Cell(count, server, count, commands("plain", _PLAIN)))
        return measure(KEYS, cells, options, progress)


def managed_keys(options: argparse.Namespace, directory: Path) -> list[Series]:
    """Keys under a rule."""
    progress = Progress()
    progress.show("making rows")
    database = directory / "keys.db"
    make_rows(database, max(options.managed_keys))
    with ExitStack() as stack:
        cells = []
        for count in options.managed_keys:
            for build in options.builds:
                server = stack.enter_context(forebay(build, configuration(database, 1), unsaved_is_fine=True))
                progress.show(f"{number(count)} managed keys in {server.name}")
                load(server, 0, count)
                cells.append(Cell(count, server, count, commands("managed", f"{head(0)}__rand_int__")))
        return measure(KEYS, cells, options, progress)


def prefix_rules(options: argparse.Namespace, directory: Path) -> list[Series]:
    """Few keys, plain and under the last of many rules."""
    progress = Progress()
    database = directory / "rules.db"
    make_rows(database, options.few)
    with ExitStack() as stack:
        cells = []
        for rules in options.prefixes:
            for build in options.builds:
                progress.show(f"{number(rules)} rules in {build.name}")
                server = stack.enter_context(forebay(build, configuration(database, rules), unsaved_is_fine=True))
                fill(server, options.few)
                load(server, rules - 1, options.few)
                both = commands("plain", _PLAIN) | commands("managed", f"{head(rules - 1)}__rand_int__")
                cells.append(Cell(rules, server, options.few, both))
        return measure(PREFIXES, cells, options, progress)


def measure(axis: str, cells: Sequence[Cell], options: argparse.Namespace, progress: Progress) -> list[Series]:
    """Every command of every cell, all in turn, so that all numbers were measured under the same weather."""
    found: dict[tuple[str, str], Series] = {}
    try:
        for at in rounds(options):
            for cell in turn(cells, at):
                for name, words in cell.commands.items():
                    progress.show(f"{axis}, round {at + 1} of {options.rounds}: {number(cell.at)}, {name}")
                    load_of = Load(options.requests, 16, 50, cell.keys, SIZE)
                    series = found.setdefault((cell.server.name, name), Series(axis, cell.server.name, name))
                    series.runs.setdefault(cell.at, []).append(run(cell.server, load_of, words))
    finally:
        progress.clear()
    return list(found.values())


# -- showing ----------------------------------------------------------------------------------------------------------


def lines_of(results: Sequence[Series]) -> list[Line]:
    """By how much each command's cost grows from the fewest to the most."""
    lines: dict[tuple[str, str], Line] = {}
    # What more keys cost redis-server, by command word and numbers; managed keys are held against it, too.
    redis = {
        (each.command.split()[1], min(each.runs), max(each.runs)): each.growth
        for each in results
        if each.server == REDIS
    }
    for each in results:
        fewest, most = min(each.runs), max(each.runs)
        if each.server == REDIS or fewest == most:
            continue
        subject = f"cost of {each.command}, {number(most)} {each.axis} ÷ {number(fewest)}"
        line = lines.setdefault((each.axis, each.command), Line(subject, "×", {}, less=True))
        line.ours[each.server] = each.growth
        line.goals[each.server] = GOAL
        if each.axis == KEYS:
            line.theirs = redis.get((each.command.split()[1], fewest, most), [])
    return list(lines.values())


def show(results: Sequence[Series], builds: Sequence[str]) -> str:
    """The costs by number, a table for each axis, then the growth."""
    parts = []
    for axis in dict.fromkeys(each.axis for each in results):
        rows = [each for each in results if each.axis == axis]
        numbers = sorted({at for each in rows for at in each.runs})
        cells = [
            (f"{each.command}, {each.server}", *(figure(each.cost_us(at)) if at in each.runs else "" for at in numbers))
            for each in sorted(rows, key=lambda each: (each.command, each.server != REDIS))
        ]
        parts.append(table([f"cpu µs by {axis}", *map(number, numbers)], cells))
    return "\n\n".join([*parts, summary(lines_of(results), builds)])


def can_plot() -> bool:
    """Is the package that draws installed?"""
    return importlib.util.find_spec("matplotlib") is not None


def plot(results: Sequence[Series], path: Path) -> None:
    """The costs as a picture, a panel for each axis."""
    # Loaded when something is drawn, because it takes as long as a small bench.
    pyplot = importlib.import_module("matplotlib.pyplot")
    axes = list(dict.fromkeys(each.axis for each in results))
    # A colour for each command, a style for each server.
    colours = {name: f"C{at}" for at, name in enumerate(dict.fromkeys(each.command for each in results))}
    drawing, panels = pyplot.subplots(1, len(axes), figsize=(6.5 * len(axes), 4.8), squeeze=False, sharey=True)
    for axis, panel in zip(axes, panels[0], strict=True):
        for each in results:
            if each.axis == axis:
                numbers = sorted(each.runs)
                costs = [each.cost_us(at) for at in numbers]
                label = f"{each.command}, {each.server}"
                panel.plot(numbers, costs, _STYLES[each.server], color=colours[each.command], marker="o", label=label)
        panel.set_xscale("log")
        # Logarithmic as well, because a managed write costs twenty times what a read does; flat is flat.
        panel.set_yscale("log")
        panel.set_xlabel(axis)
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    panels[0][0].set_ylabel("processor time per command, µs (pipeline 16)")
    drawing.tight_layout()
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)


# -- the program ------------------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def counts(text: str) -> list[int]:
        return sorted({int(each) for each in text.split(",")})

    every = [10_000, 100_000, 1_000_000, 5_000_000]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=counts, default=every, metavar="N,…", help="plain ones")
    parser.add_argument("--managed-keys", type=counts, default=[], metavar="N,…", help="default: as many as --keys")
    parser.add_argument("--prefixes", type=counts, default=[1, 10, 100, 1000], metavar="N,…", help="rules")
    parser.add_argument("--only", choices=("keys", "prefixes"), help="one half of it")
    parser.add_argument("--few", type=int, default=10_000, metavar="N", help="keys of each kind beside many rules")
    add_rounds_options(parser)
    parser.add_argument("--requests", type=int, default=100_000, metavar="N", help="per run")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it; needs matplotlib (the extra `bench`)")
    add_builds_option(parser)
    parser.add_argument("--save", action="store_true", help="write bench/results/DATE-growth.json, .md and .png")
    options = parser.parse_args(arguments)
    options.managed_keys = options.managed_keys or options.keys
    numbers = (options.rounds, options.requests, options.few, *options.keys, *options.managed_keys, *options.prefixes)
    if min(numbers) < 1:
        parser.error("numbers must be at least 1")
    if options.plot and not can_plot():
        parser.error("--plot needs matplotlib: .venv/bin/pip install -e '.[bench]'")
    return options


def main() -> int:
    options = parse()
    facts = machine.describe("growth", options.builds)
    results: list[Series] = []
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as directory:
        if options.only != "prefixes":
            results += plain_keys(options)
            results += managed_keys(options, Path(directory))
        if options.only != "keys":
            results += prefix_rules(options, Path(directory))
    shown = show(results, [build.name for build in options.builds])
    path = publish("growth", "What a command costs as things grow", facts, shown, lines_of(results), options.save)
    if options.plot:
        plot(results, options.plot)
    if path is not None and can_plot():
        plot(results, path.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
