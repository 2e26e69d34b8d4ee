"""Arrivals: what memory gets of the flights that have landed, and what becomes of the copies whose renewal did not."""

from __future__ import annotations

from collections.abc import Callable

from persistence.change import NEVER
from persistence.lease import Lease
from persistence.lifetimes import Lifetimes
from persistence.loader import Flight
from persistence.managed import Target
from persistence.mapping import Loaded
from persistence.seams import Clock, Held, Memory


class Arrivals:
    """The loader's Installer: puts what was loaded into memory, with a lease."""

    __slots__ = ("_clock", "_is_uncertain", "_lifetimes", "_memory")

    def __init__(
        self, memory: Memory, clock: Clock, lifetimes: Lifetimes, is_uncertain: Callable[[Target], bool]
    ) -> None:
        self._memory = memory
        self._clock = clock
        self._lifetimes = lifetimes
        # May the row of a key be about to change, or does it lack a change of ours?
        self._is_uncertain = is_uncertain

    def loaded(self, flight: Flight) -> None:
        """A load's answer may be cached."""
        target = flight.target
        if self._is_uncertain(target):
            return
        entry = self._memory.held(target.key)
        result = flight.result
        if entry is not None or result is None or flight.refresh:
            self._replace(flight, entry, result)
        else:
            self._install(flight, result)

    def _replace(self, flight: Flight, entry: Held | None, result: Loaded | None) -> None:
        # There is something in memory already, or no row, or nobody waits.
        if entry is not None and entry.lease is not None and entry.lease.dirty_seq:
            return
        key = flight.target.key
        prefix = flight.target.prefix
        changed = entry is not None and (result is None or entry.value != result.value)
        if flight.refresh:
            prefix.counters.refreshes += 1
            prefix.counters.refreshes_dropped += result is None
            prefix.counters.refreshes_changed += changed and result is not None
        if result is not None:
            self._install(flight, result)
        else:
            if entry is not None:
                self._memory.drop(key)
            prefix.remember_absent(key, self._clock.now_ms())
        if changed:
            self._memory.touch_watchers(key)

    def _install(self, flight: Flight, result: Loaded) -> None:
        target = flight.target
        prefix = target.prefix
        rule = prefix.rule
        now = self._clock.now_ms()
        prefix.forget_absent(target.key)
        ttl_ms = self._lifetimes.ttl_ms(rule)
        until_ms = now + ttl_ms if ttl_ms else NEVER
        deadline_ms = until_ms
        if rule.generic:
            # The row's own.
            deadline_ms = result.expires_ms
            if deadline_ms != NEVER:
                deadline_ms -= self._clock.wall_offset_ms()
        entry = self._memory.install(target.key, result.kind, result.value, deadline_ms)
        lease = Lease(prefix, now, flight.cost_ms, ttl_ms, until_ms)
        if rule.tags:
            assert prefix.mapping is not None
            lease.tags = prefix.mapping.tags_of(target.row_key, result.value)
        self._lifetimes.attach(entry, lease, now)

    def overtaken(self, flight: Flight) -> None:
        """A refresh brought nothing that may be kept: the next reader may try again."""
        entry = self._memory.held(flight.target.key)
        if entry is not None and entry.lease is not None and entry.lease.refreshing:
            entry.lease.refreshing = False
            entry.soft_ms = min(entry.soft_ms, self._clock.now_ms())

    def load_failed(self, flight: Flight) -> None:
        """A load ended in an error."""
        self._lifetimes.put_off(flight.target.key)
