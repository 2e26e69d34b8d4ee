"""Keyspace: all logical databases, the memory limit, and the clock that one batch of commands sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from eviction.policy import Policy
from server.keyspace.database import EXPIRE_SLICE, Database, Observer

# Evictions that one command may cause before it is answered -OOM: bounds the work a single write can be charged with.
_MAX_EVICTIONS: Final = 10_000


class Keyspace:
    """Databases × shards. Databases are made when first selected, so fifteen unused ones cost nothing."""

    __slots__ = ("_databases", "_make_policy", "_observer", "maxmemory", "now_ms", "opened", "shards", "volatile_only")

    def __init__(self, databases: int, shards: int) -> None:
        self._databases: list[Database | None] = [None] * databases
        self.shards = shards
        self.opened: list[Database] = []
        # Bytes; 0 means no limit.
        self.maxmemory = 0
        # Makes one shard's policy; None means noeviction.
        self._make_policy: Callable[[], Policy] | None = None
        self.volatile_only = False
        self._observer: Observer | None = None
        self.now_ms = 0
        self.database(0)

    @property
    def size(self) -> int:
        """Number of logical databases."""
        return len(self._databases)

    def database(self, index: int) -> Database:
        """The database of that number, 0 … size - 1."""
        database = self._databases[index]
        if database is None:
            database = Database(index, self.shards)
            database.now_ms = self.now_ms
            self._databases[index] = database
            self.opened.append(database)
            self._arm(database)
            database.observe(self._observer)
        return database

    def swap(self, first: int, second: int) -> None:
        """Exchange the contents of two databases: sessions keep their Database object, so contents move."""
        a, b = self.database(first), self.database(second)
        a.shards, b.shards = b.shards, a.shards
        a.tables, b.tables = b.tables, a.tables
        a.fields, b.fields = b.fields, a.fields
        for database in (a, b):
            for key in list(database.watched):
                database.touch_watchers(key)
            if self._observer is not None:
                self._observer.emptied(database)

    def observe(self, observer: Observer | None) -> None:
        """Tell this one of everything that happens to keys; None: nobody."""
        self._observer = observer
        for database in self.opened:
            database.observe(observer)

    def tick(self, now_ms: int) -> None:
        """Let every database see this time."""
        self.now_ms = now_ms
        for database in self.opened:
            database.now_ms = now_ms

    def used(self) -> int:
        """Estimated bytes of everything held."""
        return sum(database.used_bytes() for database in self.opened)

    def limit(self, maxmemory: int, make_policy: Callable[[], Policy] | None, volatile_only: bool) -> None:
        """Set the memory limit and the policy, also at run time. O(n) when the policy changes."""
        self.maxmemory = maxmemory
        self._make_policy = make_policy if maxmemory else None
        self.volatile_only = volatile_only
        for database in self.opened:
            self._arm(database)

    def _arm(self, database: Database) -> None:
        make = self._make_policy
        database.hit_cap = 0
        for shard in database.shards:
            policy = make() if make is not None else None
            if policy is not None:
                database.hit_cap = -1 if policy.needs_touch else policy.hit_cap
                policy.set_capacity(max(1, self.maxmemory // self.shards), 0)
            if policy is not None or shard.policy is not None:
                shard.use(policy, self.volatile_only)

    def make_room(self) -> bool:
        """Before a write that may grow memory: evict until below the limit. False: nothing more may be evicted."""
        if not self.maxmemory:
            return True
        excess = self.used() - self.maxmemory
        if excess <= 0:
            return True
        for database in self.opened:
            database.expire_due(EXPIRE_SLICE)
        excess = self.used() - self.maxmemory
        for _ in range(_MAX_EVICTIONS):
            if excess <= 0:
                return True
            freed = self._evict_from_fullest()
            if not freed:
                return False
            excess -= freed
        return excess <= 0

    def _evict_from_fullest(self) -> int:
        # The fullest shard pays first, which keeps shards level and costs O(shards) per eviction.
        candidates = sorted(
            (
                (shard.bytes, position, database)
                for database in self.opened
                for position, shard in enumerate(database.shards)
            ),
            key=lambda item: -item[0],
        )
        for weight, position, database in candidates:
            if not weight:
                break
            victim = database.shards[position].evict_one()
            if victim is not None:
                freed = victim.weight
                database.take_out_victim(victim)
                return freed
        return 0
