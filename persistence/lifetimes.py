"""Lifetimes: the entry's clock. How long a copy is fresh, when it is renewed, and when it may be served although old.

    fresh        now < loaded + refresh_at × ttl
    refreshing   until its end                          served; one background load renews it          (refresh-ahead)
    revalidating end … + stale_while_revalidate         served; one load renews it
    last resort  end … + stale_if_error                 load first; served if the store fails
    gone

The fast road compares one number, `soft_ms`: until then nobody need be asked. What happens after it is decided here.
"""

from __future__ import annotations

import math
from typing import Final

from persistence.change import NEVER
from persistence.lease import Lease
from persistence.managed import ManagedPrefix
from persistence.mapping import Loaded
from persistence.prefixes import REFRESH_AHEAD, PrefixRule
from persistence.seams import Clock, Held, Memory, Random

# After a failed load of a key that has an old value: the first pause, doubling up to the TTL (or the longest, without
# one), because the next read must not hammer a sick store.
BACKOFF_FIRST_MS: Final = 500.0
BACKOFF_LONGEST_MS: Final = 60_000
# Lifetimes that keys may get that come at once.
_MODELS: Final = 16
# Multiples of the golden ratio, modulo 1, fall evenly into an interval.
_GOLDEN: Final = 0.6180339887498949


class Lifetimes:
    """Gives leases to entries and reads the clock for them."""

    __slots__ = ("_clock", "_memory", "_phase", "_random")

    def __init__(self, memory: Memory, clock: Clock, random: Random) -> None:
        self._memory = memory
        self._clock = clock
        self._random = random
        # Where in the span the first lifetime lay of the keys that last came together, 0 ≤ x < 1.
        self._phase = random.random()

    def ttl_ms(self, rule: PrefixRule) -> int:
        """A rule's default lifetime, spread by the jitter so that keys loaded together do not expire together."""
        ttl_ms = rule.ttl_s * 1000
        if not ttl_ms:
            return 0
        if rule.ttl_jitter:
            ttl_ms *= 1 + rule.ttl_jitter * (2 * self._random.random() - 1)
        return max(1, int(ttl_ms))

    def spread_ms(self, rule: PrefixRule) -> tuple[float, float]:
        """The shortest default lifetime that the jitter leaves, and by how much it lengthens it at most: `ttl_ms` for
        whoever draws many."""
        ttl_ms = rule.ttl_s * 1000
        return ttl_ms * (1 - rule.ttl_jitter), ttl_ms * 2 * rule.ttl_jitter

    def models(self, prefix: ManagedPrefix, keys: int, cost_ms: float, now: int) -> tuple[list[Lease], list[int]]:
        """A few leases for keys that come at once, each with a lifetime of its own, and when a read of their copies has
        to ask first. (A lifetime for each key would be more than it takes to spread what comes next.)

        Few lifetimes that chance alone chose would leave gaps and heaps: so they lie equally far apart, and those of
        the next time between them; the first ones, of which more use is made, lie elsewhere each time.
        """
        rule = prefix.rule
        ends = rule.ttl_s > 0
        shortest_ms, span_ms = self.spread_ms(rule)
        models: list[Lease] = []
        soft_ms: list[int] = []
        count = min(keys, _MODELS) if ends and span_ms else 1
        self._phase = (self._phase + _GOLDEN) % 1.0
        for number in range(count):
            ttl_ms = int(shortest_ms + span_ms * ((self._phase + number / count) % 1.0))
            if ends and ttl_ms < 1:
                ttl_ms = 1
            lease = Lease(prefix, now, cost_ms, ttl_ms, now + ttl_ms if ends else NEVER)
            models.append(lease)
            soft_ms.append(self.first_look_ms(lease, lease.until_ms, now))
        return models, soft_ms

    def seen_deadline(self, prefix: ManagedPrefix, loaded: Loaded, now: int) -> int:
        """The deadline that a command sees on a value that was loaded for it and not cached."""
        if prefix.rule.generic:
            if loaded.expires_ms == NEVER:
                return NEVER
            return loaded.expires_ms - self._clock.wall_offset_ms()
        ttl_ms = self.ttl_ms(prefix.rule)
        return now + ttl_ms if ttl_ms else NEVER

    def attach(self, entry: Held, lease: Lease, now: int) -> None:
        """Make an entry a copy of a row for as long as the lease says."""
        prefix = lease.prefix
        old = entry.lease
        if old is not None:
            old.prefix.keys -= 1
            old.prefix.bytes -= entry.weight
            # Until `refile` below has undone it.
            lease.lapsed = old.lapsed
        prefix.keys += 1
        prefix.bytes += entry.weight
        entry.lease = lease
        entry.soft_ms = self.first_look_ms(lease, entry.deadline_ms, now)
        if lease.lapsed or lease.stale_until_ms != entry.deadline_ms:
            # It may go at another time than its deadline, under which it is filed.
            self._memory.refile(entry.key)

    def first_look_ms(self, lease: Lease, deadline_ms: int, now: int) -> int:
        """When a read of a new copy has to ask first; the lease learns how long the copy may be served stale."""
        prefix = lease.prefix
        rule = prefix.rule
        soft_ms = min(deadline_ms, lease.until_ms)
        if prefix.ages and lease.until_ms != NEVER:
            stale_s = max(rule.stale_while_revalidate_s, rule.stale_if_error_s)
            lease.stale_until_ms = lease.until_ms + int(stale_s * 1000)
            if rule.read == REFRESH_AHEAD and lease.ttl_ms:
                soft_ms = min(soft_ms, now + int(lease.ttl_ms * rule.refresh_at))
            if rule.early_expiry > 0:
                # Before this moment XFetch has less than one chance in 20,000, so hits need not roll the dice.
                soft_ms = min(soft_ms, lease.until_ms - int(10 * lease.cost_ms * rule.early_expiry))
        return soft_ms

    def extend(self, entry: Held, lease: Lease, now: int) -> None:
        """The copy's time ran out, but it is the only place that has the value: it lives on."""
        ttl_ms = self.ttl_ms(lease.prefix.rule)
        lease.until_ms = now + ttl_ms if ttl_ms else NEVER
        entry.deadline_ms = lease.until_ms
        entry.soft_ms = lease.until_ms
        lease.stale_until_ms = lease.until_ms
        self._memory.refile(entry.key)

    def wants_renewal(self, entry: Held, lease: Lease) -> bool:
        """A copy past its soft deadline is read: should it be renewed in the background now? Once, not by everybody."""
        end_ms = min(entry.deadline_ms, lease.until_ms)
        now = self._memory.now_ms
        rule = lease.prefix.rule
        if now < lease.retry_ms:
            entry.soft_ms = min(end_ms, lease.retry_ms)
            return False
        if rule.early_expiry > 0 and not (
            rule.read == REFRESH_AHEAD and now >= lease.loaded_ms + int(lease.ttl_ms * rule.refresh_at)
        ):
            # XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015).
            head_start_ms = -lease.cost_ms * rule.early_expiry * math.log(1.0 - self._random.random())
            if now + head_start_ms < lease.until_ms:
                return False
        entry.soft_ms = end_ms
        return not lease.refreshing

    def is_revalidating(self, lease: Lease) -> bool:
        """May an ended copy be served while one load renews it (stale-while-revalidate)?"""
        return self._memory.now_ms < lease.until_ms + int(lease.prefix.rule.stale_while_revalidate_s * 1000)

    def is_over(self, entry: Held, lease: Lease) -> bool:
        """Has a time run out that somebody gave the key itself? Nothing is served after it, however old a copy is."""
        is_own = lease.prefix.rule.generic or entry.deadline_ms != lease.until_ms
        return is_own and entry.deadline_ms <= self._memory.now_ms

    def is_put_off(self, lease: Lease) -> bool:
        """Has a load of an ended copy failed a moment ago, and may the copy be served without another attempt?"""
        now = self._memory.now_ms
        return now < lease.stale_until_ms and now < lease.retry_ms

    def last_resort(self, key: bytes) -> tuple[int, object] | None:
        """The (kind, value) that may be served if the load of a key fails (stale-if-error)."""
        entry = self._memory.held(key)
        lease = entry.lease if entry is not None else None
        if entry is None or lease is None or lease.is_void() or self._memory.now_ms >= lease.stale_until_ms:
            return None
        return None if self.is_over(entry, lease) else (entry.kind, entry.value)

    def put_off(self, key: bytes) -> None:
        """A load of the key failed: an old value stays, and the next attempt waits, longer each time."""
        entry = self._memory.held(key)
        lease = entry.lease if entry is not None else None
        if entry is None or lease is None:
            return
        now = self._clock.now_ms()
        longest = lease.ttl_ms or BACKOFF_LONGEST_MS
        lease.retry_pause_ms = min(float(longest), max(BACKOFF_FIRST_MS, 2 * lease.retry_pause_ms))
        lease.retry_ms = now + int(lease.retry_pause_ms * (0.5 + self._random.random() / 2))
        lease.refreshing = False
        if entry.soft_ms > now:
            entry.soft_ms = min(entry.soft_ms, lease.retry_ms)
