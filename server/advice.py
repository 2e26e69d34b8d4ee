"""Advice: what another policy, or another size, would have made of the last accesses (CACHE.ADVISE).

The accesses to a sample of the keys are there (keyspace/access_trace.py). They are played to miniature caches: to one
for each policy at the size in force, scaled down as the keys were, and to one for each of several sizes. The first
third only fills them; the misses of the rest are counted.

What the figures do not know: keys that run out or are deleted (a simulated cache goes on hitting them), so simulated
ratios are compared with each other and never with the measured one; and the policies ttl and random.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from eviction.shadow import CANDIDATES, SCALES, Miniature, create_candidate
from server.keyspace.access_trace import Access, AccessTrace
from server.keyspace.keyspace import Keyspace
from server.keyspace.shard import TABLES

# Accesses played between two looks at the clients: about two milliseconds, at 40 µs for ten caches interpreted.
SLICE: Final = 40
# Fewer counted accesses say nothing: at 1,000 a ratio is right to about three points.
LEAST_ACCESSES: Final = 1000
# A gain below half a point, or below a fiftieth of the misses, is not worth a change.
_LEAST_POINTS: Final = 0.005
_LEAST_SHARE: Final = 0.02


class Advice:
    """One simulation, of everything that shares the limit or of one prefix."""

    __slots__ = (
        "_asked",
        "_at_one",
        "_counted",
        "_group",
        "_hits",
        "_number",
        "_others",
        "_own",
        "_policy",
        "_sample",
        "_sizes",
        "_trace",
    )

    def __init__(self, keyspace: Keyspace, trace: AccessTrace, name: str | None, held_bytes: int) -> None:
        # The prefix's rule; None: what has nothing of its own.
        self._asked = name
        self._group = keyspace.group_of(name)
        self._sample = len(trace.tables) / TABLES
        self._trace = trace
        # Whose accesses count: those of this prefix; or, where nobody was named, of all that have nothing of their own.
        self._number = trace.placement.number_named(name) if trace.placement is not None and name is not None else 0
        self._own = frozenset(keyspace.own)
        capacity = self._capacity(keyspace, held_bytes)
        # The policy in force, as far as it can be simulated; else the one that is compared at several sizes.
        in_force = self._group.in_force
        self._policy = in_force if in_force in CANDIDATES else None
        self._at_one = [self._miniature(policy, 1.0, capacity) for policy in CANDIDATES]
        self._others = [self._miniature(self._policy or "s3-fifo", scale, capacity) for scale in SCALES]
        self._sizes = [int(capacity * scale) for scale in SCALES]
        # Of those that are counted: how many there were, and how many found their key in memory.
        self._counted = 0
        self._hits = 0

    def _capacity(self, keyspace: Keyspace, held_bytes: int) -> int:
        # A prefix without a budget has as much as it holds; so has everything when there is no limit.
        if self._group.terms.maxmemory and self._group.own is not None:
            return self._group.terms.maxmemory
        if self._asked is not None:
            return held_bytes
        set_aside = sum(group.terms.maxmemory for group in keyspace.own.values())
        return max(keyspace.maxmemory - set_aside, 0) or self._group.tally.bytes

    def _miniature(self, policy: str, scale: float, capacity: int) -> Miniature:
        miniature = Miniature(create_candidate(policy), scale)
        miniature.limit(int(capacity * scale * self._sample))
        return miniature

    def play(self) -> Iterator[None]:
        """Play the accesses, a slice at each step."""
        everybody = self._at_one + self._others
        warm = len(self._trace) // 3
        for number, access in enumerate(self._trace.accesses()):
            if number == warm:
                for miniature in everybody:
                    miniature.misses = 0.0
            if number % SLICE == 0:
                yield
            if not self._concerns(access):
                continue
            if number >= warm:
                self._counted += 1
                self._hits += access.hit
            key = access.fingerprint.to_bytes(4, "big")
            for miniature in everybody:
                miniature.access(key, access.weight)

    def _concerns(self, access: Access) -> bool:
        return access.prefix == self._number if self._asked is not None else access.prefix not in self._own

    def told(self) -> dict[str, object]:
        """The reply, once everything was played."""
        counted = max(1, self._counted)
        by_policy = {each.policy.name: each.misses / counted for each in self._at_one}
        by_size = [each.misses / counted for each in self._others]
        sizes = [
            {"scale": each.scale, "bytes": size, "miss_ratio": round(ratio, 4)}
            for each, size, ratio in zip(self._others, self._sizes, by_size, strict=True)
        ]
        measured = 1 - self._hits / counted if self._counted else 0.0
        return {
            "prefix": self._asked,
            "policy": self._group.terms.policy,
            "maxmemory": self._group.terms.maxmemory,
            "bytes": self._sizes[SCALES.index(1.0)],
            "accesses": self._counted,
            "sampled_share": round(self._sample, 5),
            "miss_ratio": round(measured, 4),
            "policies": {policy: round(ratio, 4) for policy, ratio in by_policy.items()},
            "sizes": sizes,
            "recommendation": self._recommendation(by_policy, by_size, measured),
        }

    def _recommendation(self, by_policy: dict[str, float], by_size: list[float], measured: float) -> list[str]:
        if self._counted < LEAST_ACCESSES:
            return [f"too few accesses to say anything: {self._counted} were noted, {LEAST_ACCESSES} are needed"]
        now = by_size[SCALES.index(1.0)]
        lines = []
        best = min(by_policy, key=lambda policy: by_policy[policy])
        gain = now - by_policy[best]
        if self._policy is not None and _is_worth(gain, now):
            share = 100 * gain / max(now, measured)
            lines.append(f"{best} would save {share:.0f} % of the misses{self._of()}")
        half, double = by_size[SCALES.index(0.5)], by_size[SCALES.index(2.0)]
        if _is_worth(now - double, now):
            lines.append(f"twice the memory{self._of()} buys {100 * (now - double):.1f} points")
        elif half - now < _LEAST_POINTS:
            lines.append(
                f"half the memory{self._of()} would cost {100 * max(0.0, half - now):.1f} points: less will do"
            )
        return lines or ["all is well: neither another policy nor twice the memory would gain anything to speak of"]

    def _of(self) -> str:
        return f" for {self._asked}" if self._asked is not None else ""


def _is_worth(gain: float, now: float) -> bool:
    return gain >= _LEAST_POINTS and gain >= _LEAST_SHARE * now
