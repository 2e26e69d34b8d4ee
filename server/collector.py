"""Python's garbage collector, tamed.

The problem: the collector looks for objects that refer to each other in circles, and to find them it visits everything
that could be part of one. A keyspace is millions of such objects and no circle. Left alone it visits them all again and
again while they become more: filling to five million keys, the longest of these visits stops the server for 0.8 s.

The method: what has survived two visits is *frozen*, which takes it out of the collector's sight for ever at a cost
that does not depend on how much it is (lists are joined). So a visit sees what is new: the youngest generation, and,
every fourth time, the few generations that have survived one visit. Both together cost a tenth to two tenths of a
microsecond per object that stays, and one or two milliseconds at a time.

When it comes. By itself it comes when YOUNG more objects were made than freed. But a full cache frees as many as it
makes: the collector hardly ever came, and then found forty thousand new ones, which took 50 ms. So it is also called by
the clock, every few milliseconds in which anything is done at all (`ticked`); an idle server never calls it.

The price: a circle that forms among frozen objects is never found. Therefore nothing that lives long may end as a
circle: the keyspace has none (the consumers of a stream's groups are undone by hand, see keyspace/graveyard.py), and
a connection, a session or a task must let go of its neighbours when it ends. A test counts what clients leave behind.

Rejected: one high threshold for everything (a rare visit is a long one); visits only when the server is idle (a busy
one never is); `gc.disable()` (what short-lived circles there are, in exceptions mostly, would stay).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from typing import Final

# New objects after which the youngest are visited: 0.4 ms, when none of them is in the processor's cache any more.
YOUNG: Final = 2_000
# How often the youngest are visited before all that is not frozen yet is: 10,000 objects, 2 ms.
_VISITS: Final = 3
# The oldest generation is always empty; its turn need never come.
_NEVER: Final = 1_000_000
# Milliseconds of work between two visits: some thousand new objects.
_EVERY_MS: Final = 4


class Collector:
    """Keeps the collector's visits short, and counts them."""

    __slots__ = ("_began_ns", "_turn", "_visited_ms", "longest_ns", "passes", "total_ns")

    def __init__(self) -> None:
        # When the clock last called it, and how often that was.
        self._visited_ms = 0
        self._turn = 0
        # When the visit under way began.
        self._began_ns = 0
        self.passes = 0
        self.longest_ns = 0
        self.total_ns = 0

    def tame(self) -> None:
        """From now on. What exists lives as long as the process."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, _VISITS, _NEVER)
        gc.callbacks.append(self.visited)

    def ticked(self, now_ms: int) -> None:
        """The time has moved on, and something is going to be done."""
        if now_ms - self._visited_ms >= _EVERY_MS:
            self._visited_ms = now_ms
            self._turn += 1
            gc.collect(0 if self._turn % (_VISITS + 1) else 1)

    def visited(self, phase: str, info: dict[str, int]) -> None:
        """The collector calls this before and after each visit."""
        now_ns = time.perf_counter_ns()
        if phase == "start":
            self._began_ns = now_ns
            return
        if info["generation"]:
            gc.freeze()
        took_ns = now_ns - self._began_ns
        self.passes += 1
        self.total_ns += took_ns
        if took_ns > self.longest_ns:
            self.longest_ns = took_ns

    def info(self) -> Iterable[tuple[str, object]]:
        """For INFO stats: how often it came, how long it stayed at most and altogether."""
        yield "gc_visits", self.passes
        yield "gc_longest_us", self.longest_ns // 1000
        yield "gc_total_ms", self.total_ns // 1_000_000
