"""Arrivals: what memory gets of the flights that have landed, and what becomes of the copies whose renewal did not."""

from __future__ import annotations

from collections.abc import Callable

from persistence.change import NEVER
from persistence.flights import Flight
from persistence.lease import Lease
from persistence.lifetimes import Lifetimes
from persistence.managed import ManagedPrefix, Target
from persistence.mapping import Loaded
from persistence.seams import Clock, Memory, Random


class Arrivals:
    """The loader's Installer: puts what was loaded into memory, with a lease."""

    __slots__ = ("_clock", "_is_uncertain", "_lifetimes", "_may_doubt", "_memory", "_random")

    def __init__(
        self,
        memory: Memory,
        clock: Clock,
        random: Random,
        lifetimes: Lifetimes,
        may_doubt: Callable[[ManagedPrefix, list[bytes]], bool],
        is_uncertain: Callable[[Target], bool],
    ) -> None:
        self._memory = memory
        self._clock = clock
        self._random = random
        self._lifetimes = lifetimes
        # May there be uncertain ones among these keys of a prefix? Is this one: may its row be about to change, or
        # lacks it a change of ours?
        self._may_doubt = may_doubt
        self._is_uncertain = is_uncertain

    def loaded(self, prefix: ManagedPrefix, flights: list[Flight], cost_ms: float) -> None:
        """What one statement brought may be cached. What is the same for all keys of a prefix is worked out once."""
        if prefix.retired:
            return
        rule = prefix.rule
        now = self._clock.now_ms()
        offset_ms = self._clock.wall_offset_ms() if rule.generic else 0
        doubtful = self._may_doubt(prefix, [flight.key for flight in flights])
        # A copy is fresh or gone, and its deadline is its lease's.
        is_plain = not prefix.ages and not rule.generic and not rule.tags
        ends = rule.ttl_s > 0
        shortest_ms, span_ms = self._lifetimes.spread_ms(rule)
        random = self._random.random
        admit = self._memory.admit
        for flight in flights:
            if doubtful and self._is_uncertain(flight):
                continue
            result = flight.result
            if result is None:
                self._gone(prefix, flight.key, flight.refresh)
                continue
            if prefix.negatives:
                prefix.forget_absent(flight.key)
            ttl_ms = int(shortest_ms + span_ms * random() if span_ms else shortest_ms)
            if ends and ttl_ms < 1:
                ttl_ms = 1
            deadline_ms = until_ms = now + ttl_ms if ends else NEVER
            lease = Lease(prefix, now, cost_ms, ttl_ms, until_ms)
            soft_ms = until_ms
            if not is_plain:
                deadline_ms = self._describe(lease, flight, result, offset_ms)
                soft_ms = self._lifetimes.first_look_ms(lease, deadline_ms, now)
            if flight.refresh or not admit(flight.key, result.kind, result.value, deadline_ms, soft_ms, lease):
                self._renew(flight.key, result.kind, result.value, lease, deadline_ms, flight.refresh)

    def loaded_together(self, prefix: ManagedPrefix, keys: list[bytes], values: list[object], cost_ms: float) -> bool:
        """What was brought for keys to which nothing has happened, in one pass. False: nothing has been done, they
        have to be looked at one by one."""
        mapping = prefix.mapping
        assert mapping is not None
        rule = prefix.rule
        if prefix.retired or rule.tags or self._may_doubt(prefix, keys):
            return False
        if prefix.negatives:
            for key in keys:
                prefix.forget_absent(key)
        if None in values:
            for key, value in zip(keys, values, strict=True):
                if value is None:
                    self._gone(prefix, key, False)
            keys = [key for key, value in zip(keys, values, strict=True) if value is not None]
            values = [value for value in values if value is not None]
            if not keys:
                return True
        models, soft_ms = self._lifetimes.models(prefix, len(keys), cost_ms, self._clock.now_ms())
        for place in self._memory.admit_together(mapping.kind, keys, values, models, soft_ms):
            lease = models[0].again()
            self._renew(keys[place], mapping.kind, values[place], lease, lease.until_ms, False)
        return True

    def _describe(self, lease: Lease, target: Target, result: Loaded, offset_ms: int) -> int:
        # Tags, and the deadline: a generic row has its own.
        prefix = lease.prefix
        if prefix.rule.tags:
            assert prefix.mapping is not None
            lease.tags = prefix.mapping.tags_of(target.row_key, result.value)
        if not prefix.rule.generic:
            return lease.until_ms
        return result.expires_ms if result.expires_ms == NEVER else result.expires_ms - offset_ms

    def _gone(self, prefix: ManagedPrefix, key: bytes, is_refresh: bool) -> None:
        # There is no such row.
        entry = self._memory.held(key)
        if entry is not None and entry.lease is not None and entry.lease.dirty_seq:
            return
        if is_refresh:
            prefix.counters.refreshes += 1
            prefix.counters.refreshes_dropped += 1
        if entry is not None:
            self._memory.drop(key)
        prefix.remember_absent(key, self._clock.now_ms())
        if entry is not None:
            self._memory.touch_watchers(key)

    def _renew(self, key: bytes, kind: int, value: object, lease: Lease, deadline_ms: int, is_refresh: bool) -> None:
        # There is something in memory already, or nobody waits.
        old = self._memory.held(key)
        if old is not None and old.lease is not None and old.lease.dirty_seq:
            return
        changed = old is not None and old.value != value
        if is_refresh:
            counters = lease.prefix.counters
            counters.refreshes += 1
            counters.refreshes_changed += changed
        entry = self._memory.install(key, kind, value, deadline_ms)
        self._lifetimes.attach(entry, lease, lease.loaded_ms)
        if changed:
            self._memory.touch_watchers(key)

    def overtaken(self, flight: Flight) -> None:
        """A refresh brought nothing that may be kept: the next reader may try again."""
        entry = self._memory.held(flight.key)
        if entry is not None and entry.lease is not None and entry.lease.refreshing:
            entry.lease.refreshing = False
            entry.soft_ms = min(entry.soft_ms, self._clock.now_ms())

    def load_failed(self, flight: Flight) -> None:
        """A load ended in an error."""
        self._lifetimes.put_off(flight.key)
