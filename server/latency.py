"""Latency: when something took long, by event (LATENCY LATEST, HISTORY), and how long commands take (HISTOGRAM).

An event keeps its last 160 seconds in which something happened, the longest of each second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Final

_SAMPLES: Final = 160
# Upper bounds in microseconds: powers of two of 1,024 nanoseconds, as Redis's histograms (of two digits) round them.
BUCKETS_US: Final = (
    1, 2, 4, 8, 16, 33, 66, 132, 264, 528, 1056, 2113, 4227, 8454, 16908, 33816, 67633, 135266, 270532, 541065, 1082130,
)  # fmt: skip


class _Event:
    """The samples of one event: Unix seconds and milliseconds."""

    __slots__ = ("most_ms", "samples")

    def __init__(self) -> None:
        self.samples: deque[tuple[int, int]] = deque(maxlen=_SAMPLES)
        # The longest of all times.
        self.most_ms = 0


class Latency:
    """Samples of events that took at least `threshold_ms`; 0: none is taken."""

    __slots__ = ("_events", "threshold_ms")

    def __init__(self, threshold_ms: int) -> None:
        self.threshold_ms = threshold_ms
        self._events: dict[str, _Event] = {}

    def note(self, name: str, unix_s: int, took_ms: int) -> None:
        """An event took that long."""
        event = self._events.setdefault(name, _Event())
        event.most_ms = max(event.most_ms, took_ms)
        samples = event.samples
        if samples and samples[-1][0] == unix_s:
            samples[-1] = (unix_s, max(samples[-1][1], took_ms))
        else:
            samples.append((unix_s, took_ms))

    def latest(self) -> list[list[object]]:
        """Each event: its name, when it came last, how long it took then, and the longest ever."""
        return [
            [name.encode(), event.samples[-1][0], event.samples[-1][1], event.most_ms]
            for name, event in self._events.items()
        ]

    def history(self, name: str) -> list[list[int]]:
        """The samples of an event, oldest first: Unix seconds, milliseconds."""
        event = self._events.get(name)
        return [list(sample) for sample in event.samples] if event is not None else []

    def reset(self, names: list[str]) -> int:
        """Forget these events, or all when none is named; how many there were."""
        chosen = [name for name in names if name in self._events] if names else list(self._events)
        for name in set(chosen):
            del self._events[name]
        return len(set(chosen))


class Histogram:
    """How often a command took how long."""

    __slots__ = ("_counts", "calls", "total_ns")

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_US) + 1)
        self.calls = 0
        # What all of them took together.
        self.total_ns = 0

    def add(self, took_ns: int) -> None:
        """One more call."""
        self.calls += 1
        self.total_ns += took_ns
        self._counts[bisect_left(BUCKETS_US, took_ns // 1000)] += 1

    def percentile(self, percent: float) -> int:
        """Microseconds that so many percent of the calls took at most: the bound of a bucket, so rather too much."""
        for bound_us, total in self.cumulative():
            if total * 100 >= self.calls * percent:
                return bound_us
        return 0

    def cumulative(self) -> list[tuple[int, int]]:
        """How many calls took at most so many microseconds, from the first bound that one met to one that all met."""
        found: list[tuple[int, int]] = []
        total = 0
        for bound_us, count in zip(BUCKETS_US, self._counts, strict=False):
            total += count
            if count:
                found.append((bound_us, total))
        if total < self.calls:
            # Above the last bound: it is told by twice that.
            found.append((2 * BUCKETS_US[-1], self.calls))
        return found
