#!/usr/bin/env python3
"""Miss ratios of the eviction policies on request traces, beside published references, and held against the goals.

    python bench/hitratio.py                                    every policy, every trace, 0.1 / 1 / 10 % of the keys
    python bench/hitratio.py --quick                            without orm_night, whose five million requests take long
    python bench/hitratio.py --policies lru,s3-fifo --trace oltp --trace mine.ctr.xz
    python bench/hitratio.py --trace gen:churn --trace gen:zipf:0.8:sized   made by the gen.py beside the traces
    python bench/hitratio.py --plot curves.png                  miss-ratio curves; needs the extra `bench`
    python bench/hitratio.py --server 127.0.0.1:6379 --trace web12   a Redis server beside ours; EMPTIES its database 0
    python bench/hitratio.py --save                             also into bench/results/

Runs in process: a dictionary of nodes and a Policy, driven in the order in which the keyspace drives them (a hit
counts in the node or calls touched; a miss evicts until the newcomer fits, then adds it). A trace with sizes is run a
second time with the capacity in bytes. Traces are read with the `ctr.py` that lies beside them; text traces, one key
and optionally a size per line, work too.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Final, TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.published_misses import CLAIRVOYANT, PlainS3Fifo, nearest, published  # noqa: E402
from bench.report import RESULTS, Line, save  # noqa: E402
from bench.table import Progress, table  # noqa: E402
from eviction.policy import Node, PlainNode, Policy, never_pinned  # noqa: E402
from eviction.registry import DEFAULT_POLICY, POLICIES, create  # noqa: E402

T = TypeVar("T")

LARGE: Final = "orm_night"
DEVELOPMENT: Final = ("web12", "oltp", "p12_ext", LARGE)
FRACTIONS: Final = (0.001, 0.01, 0.1)
PLOTTED: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of the keys or bytes
GENERATED_REQUESTS: Final = 300_000
GENERATED_KEYS: Final = 30_000
ALLOWED: Final = 0.5  # points over min(LRU, S3-FIFO) that the default policy may miss
PAPER: Final = "paper's S3-FIFO"  # run here for rows without a published figure
LFU_GOALS: Final = {"web12": (69.4, 72.0), "oltp": (65.6, 67.5)}  # hit ratio at 10 %: Redis's, and ours to reach
VALUE: Final = b"x" * 1000  # what a server is given to keep: much beside its own buffers


class Trace:
    """Requests as an index into `names`, and optionally the size of each requested object."""

    def __init__(self, name: str, keys: Sequence[int], sizes: Sequence[int] | None) -> None:
        self.name = name
        self.keys = keys
        self.sizes = sizes
        self.names = [b"key:%d" % i for i in range(max(keys, default=-1) + 1)]

    def footprint(self, in_bytes: bool) -> int:
        """All different keys, or all their bytes."""
        if not in_bytes:
            return len(set(self.keys))
        assert self.sizes is not None
        first: dict[int, int] = {}
        for key, size in zip(self.keys, self.sizes, strict=True):
            first.setdefault(key, size)
        return sum(first.values())


@dataclass
class Row:
    """One trace at one capacity, and the misses in % of each policy."""

    trace: str
    fraction: float
    capacity: int
    in_bytes: bool
    ours: dict[str, float] = field(default_factory=dict)
    references: dict[str, float] = field(default_factory=dict)

    def bar(self) -> float | None:
        """min(LRU, S3-FIFO), published or run here; None if neither is known."""
        lru = self.references.get("lru", self.ours.get("lru"))
        s3 = self.references.get("s3-fifo", self.ours.get(PAPER))
        known = [value for value in (lru, s3) if value is not None]
        return min(known) if known else None

    def line(self) -> str:
        """What is known of it, in one line."""
        figures = "  ".join(f"{name} {figure:.2f}" for name, figure in sorted(self.ours.items()))
        return f"{self.trace} at {self.capacity}{' B' if self.in_bytes else ''}: {figures}"

    def best_public(self) -> float | None:
        """The fewest misses of any published policy."""
        known = [value for name, value in self.references.items() if name != CLAIRVOYANT]
        return min(known) if known else None


# -- traces -----------------------------------------------------------------------------------------------------------


def load_module(directory: Path, name: str) -> ModuleType:
    """A module that lies beside the traces."""
    path = directory / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"no {path}; say where the traces are with --traces DIR")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=2)
def load(directory: Path, given: str, limit: int, seed: int) -> Trace:
    """A trace by its name, its path, or made: `gen:KIND[:ALPHA][:sized]`."""
    if given.startswith("gen:"):
        return make(directory, given, limit, seed)
    reader = load_module(directory, "ctr")
    path = Path(reader.resolve(given, [str(directory)]))
    keys, sizes = reader.load(str(path), limit)
    return Trace(path.name.split(".")[0], keys, sizes)


def make(directory: Path, given: str, limit: int, seed: int) -> Trace:
    """A trace from the generator that lies beside the others."""
    generator = load_module(directory, "gen")
    words = given.split(":")[1:]
    sized = words[-1] == "sized"
    alpha = float(words[1]) if len(words) > 1 and words[1] != "sized" else 1.0
    numbers: dict[int, int] = {}
    made = generator.gen(words[0], GENERATED_REQUESTS, GENERATED_KEYS, alpha, seed)
    raw = list(islice(made, limit or None))
    keys = [numbers.setdefault(key, len(numbers)) for key in raw]
    sizes = [generator.size_of(key, seed) for key in raw] if sized else None
    return Trace(given, keys, sizes)


# -- runs -------------------------------------------------------------------------------------------------------------


def misses(policy: Policy, trace: Trace, capacity: int, in_bytes: bool) -> float:
    """Misses in % of one policy on one trace."""
    policy.set_capacity(capacity)
    entries: dict[bytes, Node] = {}
    lookup = entries.get
    names = trace.names
    hit_cap = -1 if policy.needs_touch else policy.hit_cap
    missed = 0
    sizes = trace.sizes if in_bytes else None
    for i, number in enumerate(trace.keys):
        key = names[number]
        node = lookup(key)
        if node is not None:
            if node.freq < hit_cap:
                node.freq += 1
            elif node.freq > hit_cap:
                policy.touched(node)
            continue
        missed += 1
        weight = 1 if sizes is None else sizes[i]
        if weight > capacity:
            continue
        while policy.weight + weight > capacity:
            victim = policy.victim(never_pinned)
            if victim is None:
                raise RuntimeError(f"{policy.name} proposes nobody at {policy.weight} of {capacity}")
            del entries[victim.key]
        node = PlainNode(key, weight)
        entries[key] = node
        policy.added(node)
    return 100 * missed / len(trace.keys) if trace.keys else 0.0


def plain_misses(trace: Trace, capacity: int, in_bytes: bool) -> float:
    """Misses in % of the paper's S3-FIFO."""
    cache = PlainS3Fifo(capacity)
    sizes = trace.sizes if in_bytes else None
    missed = sum(cache.misses(key, 1 if sizes is None else sizes[i]) for i, key in enumerate(trace.keys))
    return 100 * missed / len(trace.keys) if trace.keys else 0.0


def run_one(
    directory: Path, given: str, limit: int, seed: int, name: str, capacity: int, in_bytes: bool
) -> tuple[str, float]:
    """One cell of the table; runs in a process of its own."""
    trace = load(directory, given, limit, seed)
    if name == PAPER:
        return name, plain_misses(trace, capacity, in_bytes)
    return name, misses(create(name, random.Random(seed)), trace, capacity, in_bytes)


def rows_of(trace: Trace, fractions: Sequence[float], in_bytes: bool, limit: int) -> list[Row]:
    """The rows of a trace, still without figures."""
    footprint = trace.footprint(in_bytes)
    rows = []
    for fraction in fractions:
        capacity = max(1, round(footprint * fraction))
        if not limit:
            capacity = nearest(trace.name, capacity, in_bytes)
        references = {} if limit else published(trace.name, capacity, in_bytes)
        rows.append(Row(trace.name, fraction, capacity, in_bytes, {}, references))
    return rows


def measure(options: argparse.Namespace, fractions: Sequence[float], progress: Progress) -> list[Row]:
    """Every policy on every trace at every capacity, on several processors."""
    rows: list[Row] = []
    cells: dict[Future[tuple[str, float]], tuple[Row, list[str]]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for given in options.trace:
            progress.show(f"loading {given}")
            trace = load(options.traces, given, options.limit, options.seed)
            for in_bytes in (False, True) if trace.sizes is not None else (False,):
                for row in rows_of(trace, fractions, in_bytes, options.limit):
                    rows.append(row)
                    names = [*options.policies, *([] if "s3-fifo" in row.references else [PAPER])]
                    for name in names:
                        cell = pool.submit(
                            run_one, options.traces, given, options.limit, options.seed, name, row.capacity, in_bytes
                        )
                        cells[cell] = row, names
        for done, cell in enumerate(as_completed(cells), 1):
            row, names = cells[cell]
            name, figure = cell.result()
            row.ours[name] = figure
            if len(row.ours) == len(names):
                # The table comes when all are done, which takes a quarter of an hour and more.
                progress.clear()
                print(row.line(), file=sys.stderr, flush=True)
            progress.show(f"{done} of {len(cells)} runs done, the last was {row.trace} {name}")
    progress.clear()
    return rows


# -- over the wire ----------------------------------------------------------------------------------------------------


def wire_row(address: str, trace: Trace, fraction: float, progress: Progress) -> list[object]:
    """A Redis server with room for a part of the keys: GET, and SET after a miss, one after the other."""
    import redis  # noqa: PLC0415 - only who names a server needs the client

    host, _, port = address.rpartition(":")
    client = redis.Redis(host or "127.0.0.1", int(port))
    wanted = max(1, round(trace.footprint(False) * fraction))
    before = client.config_get("maxmemory*")
    try:
        _give_room(client, trace, wanted)
        missed = 0
        held = []
        for done, number in enumerate(trace.keys):
            if done % 5000 == 4999:
                progress.show(f"{address} {trace.name} {100 * done // len(trace.keys)} %")
                held.append(int(client.dbsize()))
            key = trace.names[number]
            if client.get(key) is None:
                missed += 1
                client.set(key, VALUE)
        held.append(int(client.dbsize()))
    finally:
        client.flushdb()
        for name, value in before.items():
            client.config_set(name, value)
    progress.clear()
    told = 100 * missed / len(trace.keys)
    # It fills at first: what it holds when full is what to compare with.
    room = max(1, round(median(held[len(held) // 2 :])))
    ours = {name: misses(create(name, None), trace, room, False) for name in ("lru", DEFAULT_POLICY, "auto")}
    policy = before["maxmemory-policy"]
    return [trace.name, policy, room, f"{told:.2f}", *(f"{figure:.2f}" for figure in ours.values())]


def _give_room(client: object, trace: Trace, wanted: int) -> None:
    # What so many keys take is found by storing them: then that is the limit. The policy stays the one in force.
    import redis  # noqa: PLC0415

    assert isinstance(client, redis.Redis)
    client.config_set("maxmemory", "0")
    client.flushdb()
    empty = int(client.info("memory")["used_memory"])
    pipeline = client.pipeline(transaction=False)
    for name in trace.names[:wanted]:
        pipeline.set(name, VALUE)
    pipeline.execute()
    full = int(client.info("memory")["used_memory"])
    client.flushdb()
    client.config_set("maxmemory", str(max(full, empty + 1)))


# -- goals ------------------------------------------------------------------------------------------------------------


@dataclass
class Goal:
    """One line of the law: what was reached, what must be, what is aimed at."""

    name: str
    figure: float
    must: float
    target: float
    less: bool
    unit: str

    def verdict(self) -> str:
        """Reached, or by how much not."""
        short = [self._short(goal) for goal in (self.must, self.target)]
        if short[0] > 0:
            return f"must missed by {short[0]:.2f}"
        return f"must; target missed by {short[1]:.2f}" if short[1] > 0 else "must and target"

    def _short(self, goal: float) -> float:
        return self.figure - goal if self.less else goal - self.figure

    def cells(self) -> list[object]:
        """As a row of the table."""
        sign = "≤" if self.less else "≥"
        figures = f"{sign} {self.must:g}", f"{sign} {self.target:g}"
        return [self.name, f"{self.figure:.2f} {self.unit}", *figures, self.verdict()]

    def line(self, build: str) -> Line:
        """For the file of results."""
        return Line(self.name, self.unit, {build: [self.figure]}, [], {build: self.target}, self.less)


def goals(rows: Sequence[Row]) -> list[Goal]:
    """The goals that these rows can say something about."""
    found = []
    exact = [abs(row.ours["lru"] - row.references["lru"]) for row in _with(rows, "lru") if "lru" in row.references]
    if exact:
        found.append(Goal("lru: largest distance from exact LRU", max(exact), 1.0, 0.3, True, "points"))
    over = [row.ours[DEFAULT_POLICY] - bar for row in _with(rows, DEFAULT_POLICY) if (bar := row.bar()) is not None]
    if over:
        within = 100 * sum(distance <= ALLOWED for distance in over) / len(over)
        name = f"{DEFAULT_POLICY}: rows within {ALLOWED} point of min(LRU, S3-FIFO)"
        found.append(Goal(f"{name}, of {len(over)}", within, 80, 95, False, "%"))
    # A row in which ours is better counts as no distance, not as credit for the others.
    far = [max(0.0, row.ours["auto"] - best) for row in _with(rows, "auto") if (best := row.best_public()) is not None]
    if far:
        mean = sum(far) / len(far)
        found.append(
            Goal(f"auto: mean distance to the best public policy, {len(far)} rows", mean, 2.2, 0.8, True, "points")
        )
    for row in _with(rows, "lfu"):
        if row.trace in LFU_GOALS and row.fraction == 0.1 and row.references and not row.in_bytes:
            must, target = LFU_GOALS[row.trace]
            found.append(Goal(f"lfu: hit ratio, {row.trace} at 10 %", 100 - row.ours["lfu"], must, target, False, "%"))
    for row in _with(rows, DEFAULT_POLICY):
        if row.trace == "p12_ext" and row.in_bytes and row.fraction == 0.01 and row.references:
            figure = row.ours[DEFAULT_POLICY]
            found.append(Goal(f"{DEFAULT_POLICY}: p12_ext at 1 % of the bytes, misses", figure, 81.5, 77.5, True, "%"))
    return found


def _with(rows: Sequence[Row], policy: str) -> list[Row]:
    return [row for row in rows if policy in row.ours]


# -- what is shown ----------------------------------------------------------------------------------------------------


def shown(rows: Sequence[Row], policies: Sequence[str]) -> str:
    """The table: ours, then the published figure."""
    columns = ["trace", "capacity", *policies, "best public", f"{DEFAULT_POLICY} to min(LRU, S3-FIFO)"]
    lines = []
    for row in rows:
        unit = " B" if row.in_bytes else ""
        cells: list[object] = [row.trace, f"{row.capacity}{unit} ({100 * row.fraction:g} %)"]
        for policy in policies:
            reference = row.references.get(policy)
            cells.append(f"{row.ours[policy]:.2f}" + (f" / {reference:.1f}" if reference is not None else ""))
        best = row.best_public()
        cells.append("" if best is None else f"{best:.1f}")
        bar = row.bar()
        known = bar is not None and DEFAULT_POLICY in row.ours
        cells.append(f"{row.ours[DEFAULT_POLICY] - bar:+.2f}" if known and bar is not None else "")
        lines.append(cells)
    return table(columns, lines)


def plot(rows: Sequence[Row], policies: Sequence[str], path: Path) -> None:
    """Miss-ratio curves, one picture per trace."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only plots need it
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install 'forebay[bench]'") from None
    groups = list(dict.fromkeys((row.trace, row.in_bytes) for row in rows))
    across = min(3, len(groups))
    down = -(-len(groups) // across)
    figure = Figure(figsize=(5 * across, 4 * down), layout="constrained")
    for at, (trace, in_bytes) in enumerate(groups, 1):
        axes = figure.add_subplot(down, across, at)
        of_it = sorted((r for r in rows if (r.trace, r.in_bytes) == (trace, in_bytes)), key=lambda r: r.capacity)
        for policy in policies:
            axes.plot([100 * r.fraction for r in of_it], [r.ours[policy] for r in of_it], marker=".", label=policy)
        axes.set_xscale("log")
        axes.set_xlabel(f"capacity, % of the {'bytes' if in_bytes else 'keys'}")
        axes.set_ylabel("misses, %")
        axes.set_title(trace)
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=120)


# -- the command ------------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=ROOT.parent / "shared" / "traces", metavar="DIR")
    parser.add_argument("--trace", action="append", metavar="NAME", help="in DIR, a path, or gen:KIND; repeatable")
    names = [name for name in POLICIES if name not in ("noeviction", "ttl")]
    parser.add_argument("--policies", type=_listed(str), default=names, help="separated by commas")
    parser.add_argument("--fractions", type=_listed(float), help="capacities as parts of the keys (or bytes)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the first N requests only")
    parser.add_argument("--seed", type=int, default=1, help="of the random policy and of generated traces")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    parser.add_argument("--quick", action="store_true", help=f"without {LARGE}")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw miss-ratio curves, with more capacities")
    parser.add_argument("--server", metavar="HOST:PORT", help="a Redis server to run beside; its database 0 is EMPTIED")
    parser.add_argument("--save", action="store_true", help=f"into {RESULTS.name}/")
    options = parser.parse_args(argv)
    unknown = [name for name in options.policies if name not in names]
    if unknown:
        parser.error(f"unknown policies {', '.join(unknown)}; known are {', '.join(names)}")
    if options.trace is None:
        options.trace = [name for name in DEVELOPMENT if name != LARGE or not options.quick]
    if options.fractions is None:
        options.fractions = list(PLOTTED if options.plot else FRACTIONS)
    return options


def _listed(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    return lambda text: [kind(word) for word in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run, show, judge."""
    options = parse(argv)
    progress = Progress()
    if options.server:
        found = [load(options.traces, given, options.limit, options.seed) for given in options.trace]
        cells = [wire_row(options.server, trace, f, progress) for trace in found for f in options.fractions]
        columns = [
            "trace",
            "policy there",
            "keys held",
            "misses there, %",
            "our lru",
            f"our {DEFAULT_POLICY}",
            "our auto",
        ]
        print(table(columns, cells))
        return 0
    rows = measure(options, options.fractions, progress)
    shown_rows = shown(rows, [*options.policies])
    judged = goals(rows)
    verdicts = table(["goal", "reached", "must", "target", "verdict"], [goal.cells() for goal in judged])
    text = f"misses in %, ours / libCacheSim 0.3.5 where published\n\n{shown_rows}\n\n{verdicts}"
    print(text)
    if options.plot:
        plot(rows, options.policies, options.plot)
        print(f"\nplotted to {options.plot}")
    if options.save:
        build = "compiled" if machine.is_compiled() else "interpreted"
        lines = [goal.line(build) for goal in judged]
        print(
            f"\nsaved as {save('hitratio', 'Miss ratios of the policies', machine.describe('hitratio'), text, lines)}"
        )
    return 0 if all("must missed" not in goal.verdict() for goal in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
