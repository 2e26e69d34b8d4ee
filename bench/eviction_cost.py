#!/usr/bin/env python3
"""What the eviction policies cost: a hit above its look-up, an eviction with its insertion, and the longest of them.

    python bench/eviction_cost.py                        every policy at a million keys
    python bench/eviction_cost.py --keys 100000 --policies s3-fifo,auto
    python bench/eviction_cost.py --save                 also into bench/results/

In process, without server: hits go to entries of a real keyspace, as Database.find tells its shards of them; evictions
to a Policy and small dictionaries of nodes, as a shard has them. Times are processor time of this process, and what
other programs do to that is taken out by repetition: policies are deterministic, so the same evictions are run several
times from the same beginning, and of each the fastest counts. A pause that the policy makes is there every time. `auto`
is also measured while it changes its policy and every node is handed over. The collector is off: what it costs is
another bench's question.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from zlib import crc32

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.report import RESULTS, Line, publish, summary  # noqa: E402
from bench.table import Progress, table  # noqa: E402
from eviction.auto import CANDIDATES, Auto  # noqa: E402
from eviction.policy import Node, PlainNode, Policy, never_pinned  # noqa: E402
from eviction.registry import POLICIES, create  # noqa: E402
from eviction.shadow import Shadow  # noqa: E402
from persistence.change import NEVER, STRING  # noqa: E402
from server.keyspace.entry import Entry, OwnSeat  # noqa: E402
from server.keyspace.keyspace import Keyspace  # noqa: E402
from server.keyspace.terms import Terms  # noqa: E402

EVICTIONS: Final = 100_000
HITS: Final = 4_000  # of a round: short, so that some rounds are disturbed by nobody
SHARDS: Final = 64
WORKING_SET: Final = 2_000  # keys that the hits go to: hot in the processor's cache, as the figures of the design are
HIT_ROUNDS: Final = 400  # the fastest counts: noise only adds
HIT_GOAL_NS: Final = {"interpreted": 35.0, "compiled": 5.0}
PAUSE_GOAL_MS: Final = 1.0
TABLES: Final = 1024
NOT_MEASURED: Final = ("noeviction",)


class Cost:
    """What was found for one policy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.look_up_ns = 0.0  # what it is on the machine of now
        self.hit_ns = 0.0  # above the look-up
        self.evict_ns = 0.0  # with the insertion that made it necessary
        self.late_ns = 0  # 99.99 % of them took less
        self.longest_ns = 0

    def cells(self) -> list[object]:
        """As a row of the table."""
        late, longest = (f"{ns / 1e6:.3f}" for ns in (self.late_ns, self.longest_ns))
        return [self.name, f"{self.look_up_ns:.0f}", f"{self.hit_ns:.0f}", f"{self.evict_ns:.0f}", late, longest]


class Cache:
    """A full cache of nodes of weight 1, of which a third was hit."""

    def __init__(self, policy: Policy, keys: int) -> None:
        self.policy = policy
        self.keys = keys
        # One large dictionary would stop for its own growth.
        self.tables: list[dict[bytes, Node]] = [{} for _ in range(TABLES)]
        self.added = 0
        policy.set_capacity(keys, keys)
        for _ in range(keys):
            self.insert()
        for number in range(0, keys, 3):
            self.hit(b"key:%d" % number)

    def hit(self, key: bytes) -> None:
        """What the keyspace does for a hit."""
        node = self.table(key).get(key)
        if node is not None:
            cap = -1 if self.policy.needs_touch else self.policy.hit_cap
            if node.freq < cap:
                node.freq += 1
            elif node.freq > cap:
                self.policy.touched(node)

    def table(self, key: bytes) -> dict[bytes, Node]:
        """The dictionary of a key."""
        return self.tables[crc32(key) % TABLES]

    def insert(self) -> None:
        """A new key."""
        node = PlainNode(b"key:%d" % self.added, 1)
        self.added += 1
        self.table(node.key)[node.key] = node
        self.policy.added(node)

    def replace(self) -> None:
        """A new key in the place of a victim."""
        victim = self.policy.victim(never_pinned)
        if victim is None:
            raise RuntimeError(f"{self.policy.name} proposes nobody")
        del self.table(victim.key)[victim.key]
        self.insert()


def look_ups(entries: dict[bytes, Entry], keys: Sequence[bytes]) -> float:
    """Nanoseconds of a look-up alone."""
    find = entries.get
    started = time.process_time_ns()
    for key in keys:
        entry = find(key)
        if entry is None:
            raise RuntimeError(key)
    return (time.process_time_ns() - started) / len(keys)


def hits(entries: dict[bytes, Entry], keys: Sequence[bytes]) -> float:
    """Nanoseconds of a look-up with the hit told as Database.find tells it."""
    find = entries.get
    started = time.process_time_ns()
    for key in keys:
        entry = find(key)
        if entry is None:
            raise RuntimeError(key)
        seat = entry.seat
        after = seat.after
        if after is not None:
            entry.seat = after
        elif seat.freq > seat.home.hit_cap:
            seat.home.touched(entry)
        elif seat.freq < seat.home.hit_cap:
            if isinstance(seat, OwnSeat):
                seat.freq += 1
            else:
                entry.freq = seat.freq + 1
    return (time.process_time_ns() - started) / len(keys)


def hit_cost(name: str, keys: int, seed: int) -> tuple[float, float]:
    """Nanoseconds of looking up a popular key, and what its hit costs above that; the fastest rounds of both."""
    keyspace = Keyspace(1, SHARDS, random.Random(seed))
    keyspace.limit(Terms(keys << 10, name))
    database = keyspace.database(0)
    entries = {}
    stride = max(1, keys // WORKING_SET)
    # All of them, because `auto` follows fewer the more there are.
    for number in range(keys):
        key = b"key:%d" % number
        entry = database.put(key, STRING, b"value", NEVER, b"set")
        if number % stride == 0:
            entries[key] = entry
    hot = list(entries)
    asked = hot * (HITS // len(hot))
    bare = []
    told = []
    for _ in range(HIT_ROUNDS):
        bare.append(look_ups(entries, asked))
        told.append(hits(entries, asked))
    return min(bare), min(told) - min(bare)


def evictions(cache: Cache) -> list[int]:
    """The nanoseconds of each of many replacements."""
    took = []
    clock = time.process_time_ns
    for _ in range(EVICTIONS):
        started = clock()
        cache.replace()
        took.append(clock() - started)
    return took


def judge(cost: Cost, rounds: Sequence[Sequence[int]]) -> Cost:
    """Of each eviction the fastest of the rounds counts."""
    took = sorted(map(min, zip(*rounds, strict=True)))
    cost.evict_ns = sum(took) / len(took)
    cost.late_ns = took[-len(took) // 10_000]
    cost.longest_ns = took[-1]
    return cost


def prepared(name: str, keys: int, seed: int) -> Cache:
    """A full cache under a policy."""
    if name == "auto":
        # As in a server, where the number of keys decides how many are followed.
        return Cache(Auto(Shadow(keys, CANDIDATES, count_hint=keys)), keys)
    return Cache(create(name, random.Random(seed)), keys)


def measure(name: str, keys: int, seed: int, rounds: int) -> list[Cost]:
    """One policy; `auto` twice."""
    steady = []
    changing = []
    for _ in range(rounds):
        cache = prepared(name, keys, seed)
        steady.append(evictions(cache))
        policy = cache.policy
        if isinstance(policy, Auto):
            policy.change_to("lfu" if policy.chosen == "s3-fifo" else "s3-fifo")
            changing.append(evictions(cache))
    found = [judge(Cost(name), steady)]
    if changing:
        found.append(judge(Cost(f"{name}, changing"), changing))
    look_up_ns, hit_ns = hit_cost(name, keys, seed)
    for cost in found:
        cost.look_up_ns, cost.hit_ns = look_up_ns, hit_ns
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name in POLICIES if name not in NOT_MEASURED]
    parser.add_argument("--policies", type=lambda text: text.split(","), default=names, help="separated by commas")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="from the same beginning; of each eviction the fastest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true", help=f"into {RESULTS.name}/")
    options = parser.parse_args(argv)
    unknown = [name for name in options.policies if name not in names]
    if unknown:
        parser.error(f"unknown policies {', '.join(unknown)}; known are {', '.join(names)}")
    build = "compiled" if machine.is_compiled() else "interpreted"
    progress = Progress()
    costs: list[Cost] = []
    gc.disable()
    for name in options.policies:
        progress.show(name)
        costs += measure(name, options.keys, options.seed, options.rounds)
    progress.clear()
    columns = ["policy", "look-up, ns", "hit above it, ns", "insert + evict, ns", "99.99 %, ms", "longest, ms"]
    shown = table(columns, [cost.cells() for cost in costs])
    lines = [Line("longest eviction", "ms", {build: [max(cost.longest_ns for cost in costs) / 1e6]})]
    lines[0].goals, lines[0].less = {build: PAUSE_GOAL_MS}, True
    counted = [cost.hit_ns for cost in costs if cost.name in ("s3-fifo", "auto")]
    if counted:
        goal = {build: HIT_GOAL_NS[build]}
        lines.append(Line("a hit above the look-up, s3-fifo and auto", "ns", {build: [max(counted)]}, [], goal, True))
    text = f"{shown}\n\n{summary(lines, [build])}"
    publish("eviction_cost", "What eviction costs", machine.describe("eviction_cost"), text, lines, options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
