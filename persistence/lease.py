"""Lease: what a managed entry knows about its own life (strategies.md, "the entry's clock").

A plain key has none. The keyspace carries a Lease and counts hits on it; the engine does everything else.
"""

from __future__ import annotations

from persistence.change import NEVER
from persistence.managed import ManagedPrefix


class Lease:
    """When an entry was loaded, what the load cost, how long it may be served, and what the database lacks of it."""

    __slots__ = (
        "cost_ms",
        "dirty_seq",
        "generation",
        "lapsed",
        "loaded_ms",
        "prefix",
        "refreshing",
        "retry_ms",
        "retry_pause_ms",
        "stale_until_ms",
        "tags",
        "ttl_ms",
        "until_ms",
    )

    def __init__(self, prefix: ManagedPrefix, loaded_ms: int, cost_ms: float, ttl_ms: int, until_ms: int) -> None:
        self.prefix = prefix
        # The prefix's generation when this was made; a higher one there voids the entry.
        self.generation = prefix.generation
        # Server milliseconds of the load or of the write that made the value.
        self.loaded_ms = loaded_ms
        # Duration of the statement that loaded it: what a hit saves.
        self.cost_ms = cost_ms
        # Lifetime in the cache, jitter included; 0 means unlimited.
        self.ttl_ms = ttl_ms
        # Server milliseconds after which the copy may not be served. For mapped rows this is the entry's deadline too;
        # a generic row has a deadline of its own, which is data.
        self.until_ms = until_ms
        # Sequence of its newest unsaved change; 0 when the database has everything.
        self.dirty_seq = 0
        # A background refresh is under way.
        self.refreshing = False
        # Its time is over, and that has been noticed: kept for stale serving alone, and not counted as a key.
        self.lapsed = False
        # Until when the copy may still be served after its time is over: stale-while-revalidate, stale-if-error.
        self.stale_until_ms = until_ms
        # After a failed load: no earlier attempt than this, and the pause that led to it (doubling).
        self.retry_ms = 0
        self.retry_pause_ms = 0.0
        # Tags of the row (`tenant_id=7`), from the rule's `tags`.
        self.tags: tuple[bytes, ...] = ()

    def again(self) -> Lease:
        """A new one like it, for a row that came with the same statement."""
        lease = Lease(self.prefix, self.loaded_ms, self.cost_ms, self.ttl_ms, self.until_ms)
        lease.stale_until_ms = self.stale_until_ms
        return lease

    def renew(self, now: int) -> int:
        """A new term of the same length, as if it were a new lease; when it ends."""
        until_ms = now + self.ttl_ms if self.ttl_ms else NEVER
        self.loaded_ms = now
        self.until_ms = self.stale_until_ms = until_ms
        self.generation = self.prefix.generation
        return until_ms

    def is_void(self) -> bool:
        """Was the entry voided by CACHE.BUMP or CACHE.UNTAG since it was made? If not, that is noted. O(tags)."""
        prefix = self.prefix
        if self.generation == prefix.generation:
            return False
        if self.generation < prefix.void_below:
            return True
        voided = prefix.voided_tags
        for tag in self.tags:
            if voided.get(tag, 0) > self.generation:
                return True
        self.generation = prefix.generation
        return False
