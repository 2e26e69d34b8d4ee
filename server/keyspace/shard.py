"""Shard: a contiguous range of slots with its entries, deadlines, eviction policy and byte count.

The keys of a shard lie in many small dictionaries, by slot range, because a big dictionary stops the world when it
grows. A policy proposes victims; the shard alone removes entries and counts bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from eviction.policy import Node, Policy
from persistence.change import NEVER
from persistence.lease import Lease
from server.keyspace.entry import Entry
from server.keyspace.expiry import ExpiryWheel

# 1,024 dictionaries of 16 slots each per database: 5 M keys make about 5,000 entries a dictionary, whose growth costs
# well under a millisecond.
TABLES: Final = 1024


def is_dirty(node: Node) -> bool:
    """Is this entry pinned, because the database does not have its value yet?"""
    assert isinstance(node, Entry)
    return node.lease is not None and node.lease.dirty_seq != 0


class Shard:
    """One shard of one database."""

    __slots__ = (
        "bytes",
        "count",
        "evictions",
        "first_table",
        "lapsed",
        "newcomer",
        "policy",
        "tables",
        "volatile_only",
        "wheel",
    )

    def __init__(self, first_table: int, tables: int) -> None:
        self.first_table = first_table
        self.tables: list[dict[bytes, Entry]] = [{} for _ in range(tables)]
        self.wheel = ExpiryWheel()
        # None when nothing may be evicted: no limit, or noeviction.
        self.policy: Policy | None = None
        # The policy holds only keys with a time to live.
        self.volatile_only = False
        # Estimated bytes of all entries (weights.py).
        self.bytes = 0
        # Number of entries, expired but not yet removed ones included.
        self.count = 0
        # Those among them whose time is over and that are kept for stale serving alone.
        self.lapsed = 0
        # The key that came last: by it an observer tells a new key from one that was overwritten.
        self.newcomer: bytes | None = None
        self.evictions = 0

    def admit(self, entry: Entry) -> None:
        """A new entry with its weight set is now in one of the tables."""
        self.bytes += entry.weight
        self.count += 1
        self.newcomer = entry.key
        if entry.deadline_ms != NEVER:
            self.wheel.file(entry)
        if self.policy is not None:
            self._enlist(self.policy, entry)

    def _enlist(self, policy: Policy, entry: Entry) -> None:
        if self.volatile_only and entry.deadline_ms == NEVER:
            return
        policy.added(entry)
        if policy.needs_deadlines:
            policy.deadline_changed(entry, 0 if entry.deadline_ms == NEVER else entry.deadline_ms)

    def release(self, entry: Entry) -> None:
        """An entry has left its table, for whatever reason but eviction."""
        self.bytes -= entry.weight
        self.count -= 1
        if entry.lease is not None:
            entry.lease.prefix.keys -= 1
            entry.lease.prefix.bytes -= entry.weight
            self._revive(entry.lease)
        if entry.wheel_s:
            self.wheel.forget(entry)
        if self.policy is not None and entry.where:
            self.policy.removed(entry)

    def unlease(self, entry: Entry) -> None:
        """The entry stays but is no longer a copy of a row, or its next lease is still to come."""
        lease = entry.lease
        if lease is not None:
            lease.prefix.keys -= 1
            lease.prefix.bytes -= entry.weight
            self._revive(lease)
            entry.lease = None

    def lapse(self, entry: Entry) -> None:
        """The entry's time is over, and it stays to be served stale: from now on it is not counted as a key."""
        lease = entry.lease
        if lease is not None and not lease.lapsed:
            lease.lapsed = True
            self.lapsed += 1

    def _revive(self, lease: Lease) -> None:
        if lease.lapsed:
            lease.lapsed = False
            self.lapsed -= 1

    def reweigh(self, entry: Entry, weight: int) -> None:
        """The entry's weight changed."""
        old = entry.weight
        entry.weight = weight
        self.bytes += weight - old
        if entry.lease is not None:
            entry.lease.prefix.bytes += weight - old
        if self.policy is not None and entry.where:
            self.policy.resized(entry, old)

    def deadline_moved(self, entry: Entry) -> None:
        """The entry's deadline changed: refile it, and with scope `volatile` let the policy know."""
        if entry.lease is not None:
            self._revive(entry.lease)
        if entry.wheel_s and entry.gone_ms() == NEVER:
            self.wheel.forget(entry)
        else:
            self.wheel.file(entry)
        policy = self.policy
        if policy is None:
            return
        if self.volatile_only and (entry.deadline_ms == NEVER) == bool(entry.where):
            if entry.where:
                policy.removed(entry)
            else:
                self._enlist(policy, entry)
        elif policy.needs_deadlines and entry.where:
            policy.deadline_changed(entry, 0 if entry.deadline_ms == NEVER else entry.deadline_ms)

    def use(self, policy: Policy | None, volatile_only: bool) -> None:
        """Change the policy at run time; what is here is handed over. O(n)."""
        self.policy = policy
        self.volatile_only = volatile_only
        for entry in self.entries():
            entry.where = 0
            entry.freq = 0
            if policy is not None:
                self._enlist(policy, entry)

    def evict_one(self) -> Entry | None:
        """Take out one victim; None when nothing may be evicted."""
        if self.policy is None:
            return None
        victim = self.policy.victim(is_dirty)
        if victim is None:
            return None
        assert isinstance(victim, Entry)
        self.evictions += 1
        return victim

    def entries(self) -> Iterator[Entry]:
        """Every entry. The tables must not change meanwhile."""
        for table in self.tables:
            yield from table.values()

    def clear(self) -> int:
        """Empty the shard; how many entries were dropped."""
        dropped = self.count
        for entry in self.entries():
            if entry.lease is not None:
                entry.lease.prefix.keys -= 1
                entry.lease.prefix.bytes -= entry.weight
        for table in self.tables:
            table.clear()
        self.wheel = ExpiryWheel()
        if self.policy is not None:
            self.policy.clear()
        self.bytes = 0
        self.count = 0
        self.lapsed = 0
        return dropped
