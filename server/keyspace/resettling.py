"""Resettling: entries move to the shards where they belong since a policy or a budget changed, a slice at a time.

A shard keeps its policy for life, so other terms mean other shards: newcomers enter those at once, and what is in the
former ones moves. It moves in the order in which the former policy would have let it go, so that what was next to go
is still the oldest. What no policy holds (there was none, or it held only keys with a time to live) is found by
walking the tables, and so are keys that a new prefix takes out of shards that stay. Moving is O(1) an entry, and at
any moment each entry is in exactly one shard: commands, expiry and eviction go on meanwhile.
"""

from __future__ import annotations

from eviction.policy import never_pinned
from server.keyspace.database import Database
from server.keyspace.entry import Entry
from server.keyspace.shard import Shard


class Resettling:
    """What has still to move."""

    __slots__ = ("_leaving", "_pending", "_tables", "left")

    def __init__(self) -> None:
        # Shards whose policies still name those who move next.
        self._leaving: list[tuple[Database, Shard]] = []
        # Tables that have still to be walked, and the entries of the one under way.
        self._tables: list[tuple[Database, int]] = []
        self._pending: list[tuple[Database, Entry]] = []
        # Every shard that is being left.
        self.left: list[tuple[Database, Shard]] = []

    def begin(self, database: Database, leaving: list[Shard]) -> None:
        """The entries of these shards, and all that are not where they belong, have to move."""
        for shard in leaving:
            self.left.append((database, shard))
            self._leaving.append((database, shard))
        self._tables = [each for each in self._tables if each[0] is not database]
        # (What comes into an empty table from now on is where it belongs.)
        self._tables += [(database, number) for number, table in enumerate(database.tables) if table]

    @property
    def is_over(self) -> bool:
        """Has everything moved?"""
        return not self._leaving and not self._tables and not self._pending

    def step(self, budget: int) -> None:
        """Move up to `budget` entries, or look at a few times as many that are where they belong."""
        while budget > 0 and not self.is_over:
            if self._pending:
                database, entry = self._pending.pop()
                # It may have left memory since.
                if database.held(entry.key) is entry:
                    database.settle(entry)
                budget -= 1
            elif self._leaving:
                database, shard = self._leaving[-1]
                budget -= 1
                node = shard.policy.victim(never_pinned) if shard.policy is not None else None
                if node is None:
                    self._leaving.pop()
                else:
                    assert isinstance(node, Entry)
                    database.settle(node)
            else:
                database, table = self._tables.pop()
                entries = database.tables[table].values()
                self._pending += [(database, entry) for entry in entries if not database.is_at_home(entry, table)]
                budget -= 1 + len(entries) // 8
        if self.is_over:
            for database, shard in self.left:
                database.shards.remove(shard)
                # Its wheel still has the keys of those who had a time to live.
                database.graveyard.bury_order(shard.wheel.clear())
            self.left = []
