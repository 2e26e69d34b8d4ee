"""Shard: a part of a database's entries that is counted, ordered for eviction and filed for expiry together.

The entries themselves lie in the database's tables, many small dictionaries by slot range, because a big dictionary
stops the world when it grows. A shard has a run of those tables, and of what lies there the entries of its group: most
shards belong to the group of everything that has no budget of its own (shard_group.py). An entry knows its shard, so
that whoever has found the entry need not look for it.

A policy proposes victims; the shard alone removes entries and counts bytes. A shard keeps its policy for life: other
terms mean other shards, to which the entries move one by one (resettling.py).
"""

from __future__ import annotations

from typing import Final

from eviction.policy import Node, Policy
from persistence.change import NEVER
from persistence.lease import Lease
from server.keyspace.access_trace import AccessTrace
from server.keyspace.entry import NOWHERE, Entry, Home, LeasedLife
from server.keyspace.expiry import ExpiryWheel, second_of
from server.keyspace.slots import SLOTS

# 1,639 dictionaries of ten slots each per database: 5 M keys make about 3,000 entries a dictionary, whose growth costs
# well under a millisecond. A dictionary doubles when two thirds of it are taken, and is half empty then; with ten slots
# to each that is so at 0.55, 1.1 and 2.2 million keys, so that a round million lies where they are well filled.
SLOTS_PER_TABLE: Final = 10
TABLES: Final = -(-SLOTS // SLOTS_PER_TABLE)
# Copies that may have one lifetime because they came together: whoever reads them again when it is over misses on so
# many at once.
COHORT: Final = 16


class Tally:
    """What a group of shards holds, and what of that leaves first."""

    __slots__ = ("bytes", "stale")

    def __init__(self) -> None:
        # Estimated bytes of all entries (weights.py).
        self.bytes = 0
        # Entries whose time is over and that are kept for stale serving alone. (A dictionary as a set: its last item
        # is taken in O(1), its first is not.)
        self.stale: dict[Entry, None] = {}


class OwnTally(Tally):
    """The tally of a prefix that has its own budget or policy: told apart from the rest, and watched."""

    __slots__ = ("is_over", "ledger", "limit", "number")

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        # Of the prefix (placement.py).
        self.number = 0
        # Bytes; 0 when only the policy is its own.
        self.limit = 0
        # It stands in the ledger's list of those over their limit.
        self.is_over = False

    def grew(self, delta: int) -> None:
        """`bytes` has changed by so much, or `limit` has."""
        self.ledger.own_bytes += delta
        if delta >= 0 and self.limit and self.bytes > self.limit and not self.is_over:
            self.is_over = True
            self.ledger.over.append(self)


class Ledger:
    """What prefixes with a budget or policy of their own hold together, and which of them hold too much."""

    __slots__ = ("over", "own_bytes")

    def __init__(self) -> None:
        self.own_bytes = 0
        self.over: list[OwnTally] = []


def is_dirty(node: Node) -> bool:
    """Is this entry pinned, because the database does not have its value yet?"""
    assert isinstance(node, Entry)
    return node.lease is not None and node.lease.dirty_seq != 0


class Shard(Home):
    """One shard of one database."""

    __slots__ = (
        "bytes",
        "count",
        "database",
        "first_table",
        "lapsed",
        "policy",
        "table_count",
        "tally",
        "volatile_only",
        "wheel",
    )

    def __init__(
        self,
        database: int,
        first_table: int,
        table_count: int,
        tally: Tally,
        policy: Policy | None,
        volatile_only: bool,
    ) -> None:
        super().__init__()
        # The database's number, and which of its tables hold the entries.
        self.database = database
        self.first_table = first_table
        self.table_count = table_count
        self.tally = tally
        self.wheel = ExpiryWheel()
        # None when nothing may be evicted: no limit, or noeviction. Shards may share one.
        self.policy = policy
        # The policy holds only keys with a time to live.
        self.volatile_only = volatile_only
        # Estimated bytes of all entries (weights.py).
        self.bytes = 0
        # Number of entries, expired but not yet removed ones included.
        self.count = 0
        # Those among them whose time is over and that are kept for stale serving alone.
        self.lapsed = 0
        self._count_to(self._wanted_hits())

    def _wanted_hits(self) -> int:
        # As `hit_cap`: as many as the policy wants.
        policy = self.policy
        if policy is None:
            return 0
        return -1 if policy.needs_touch else policy.hit_cap

    # -- coming and going ---------------------------------------------------------------------------------------------

    def admit(self, entry: Entry, weight: int) -> None:
        """A new entry of this weight, with a seat here and perhaps a lease, is now in one of the tables."""
        self.bytes += weight
        self.tally.bytes += weight
        self.count += 1
        life = entry.life
        if life.deadline_ms != NEVER or isinstance(life, LeasedLife):
            self.wheel.file(entry)
        if self.policy is not None:
            self._enlist(self.policy, entry)

    def receive(self, cohort: Cohort) -> None:
        """`admit` for all of a cohort."""
        entries = cohort.entries
        self.bytes += cohort.weight
        self.tally.bytes += cohort.weight
        self.count += len(entries)
        if cohort.second:
            self.wheel.file_together(cohort.second, [entry.key for entry in entries])
        if self.policy is not None:
            for entry in entries:
                self._enlist(self.policy, entry)

    def _enlist(self, policy: Policy, entry: Entry) -> None:
        if self.volatile_only and entry.deadline_ms == NEVER:
            return
        policy.added(entry)
        if policy.needs_deadlines:
            policy.deadline_changed(entry, 0 if entry.deadline_ms == NEVER else entry.deadline_ms)

    def release(self, entry: Entry) -> None:
        life = entry.life
        if isinstance(life, LeasedLife):
            lease = life.lease
            if lease is not None:
                lease.prefix.keys -= 1
                lease.prefix.bytes -= life.weight
        self._let_go(entry)
        entry.seat = NOWHERE.entrance

    def _let_go(self, entry: Entry) -> None:
        # Undoes `admit`.
        weight = entry.weight
        self.bytes -= weight
        self.tally.bytes -= weight
        self.count -= 1
        life = entry.life
        if life.weight:
            if isinstance(life, LeasedLife):
                self._revive(entry)
            if life.wheel_s:
                self.wheel.forget(entry)
        if self.policy is not None and entry.seat.where:
            self.policy.removed(entry)

    def hand_over(self, entry: Entry, heir: Shard) -> None:
        """The entry belongs to another shard now; it stays in its table. Its policy there keeps what hits it can."""
        lapsed = entry.lease is not None and entry.lease.lapsed
        self._let_go(entry)
        entry.sit(heir, 0, entry.freq)
        heir.adopt(entry)
        if lapsed:
            heir.lapse(entry)

    def adopt(self, entry: Entry) -> None:
        """An entry comes from another shard."""
        weight = entry.weight
        self.bytes += weight
        self.tally.bytes += weight
        self.count += 1
        if entry.life.deadline_ms != NEVER:
            self.wheel.file(entry)
        policy = self.policy
        if policy is None:
            entry.freq = 0
        elif not self.volatile_only or entry.deadline_ms != NEVER:
            policy.adopt((entry,))
            if policy.needs_deadlines:
                policy.deadline_changed(entry, 0 if entry.deadline_ms == NEVER else entry.deadline_ms)

    # -- what becomes of an entry -------------------------------------------------------------------------------------

    def touched(self, entry: Entry) -> None:
        policy = self.policy
        seat = entry.seat
        if policy is None or not seat.where:
            return
        # Whoever counts hits in the entry itself wants to hear only of those that it has marked.
        cap = -1 if policy.needs_touch else policy.hit_cap
        if seat.freq < cap:
            entry.freq = seat.freq + 1
        elif seat.freq > cap:
            policy.touched(entry)

    def unlease(self, entry: Entry) -> None:
        lease = entry.lease
        if lease is not None:
            lease.prefix.keys -= 1
            lease.prefix.bytes -= entry.weight
            self._revive(entry)
            entry.lease = None

    def lapse(self, entry: Entry) -> None:
        # From now on it is not counted as a key.
        lease = entry.lease
        if lease is not None and not lease.lapsed:
            lease.lapsed = True
            self.lapsed += 1
            self.tally.stale[entry] = None

    def _revive(self, entry: Entry) -> None:
        lease = entry.lease
        if lease is not None and lease.lapsed:
            lease.lapsed = False
            self.lapsed -= 1
            self.tally.stale.pop(entry, None)

    def grew(self, entry: Entry, delta: int) -> None:
        self.bytes += delta
        self.tally.bytes += delta
        life = entry.life
        if life.weight:
            life.weight += delta
            if isinstance(life, LeasedLife) and life.lease is not None:
                life.lease.prefix.bytes += delta
        if self.policy is not None and entry.seat.where:
            self.policy.resized(entry, entry.weight - delta)

    def deadline_moved(self, entry: Entry) -> None:
        # Refile it, and with scope `volatile` let the policy know.
        if entry.lease is not None:
            self._revive(entry)
        if entry.life.wheel_s and entry.gone_ms() == NEVER:
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

    def unpinned(self, entry: Entry) -> None:
        if self.policy is not None and entry.where:
            self.policy.unpinned(entry)

    def clear(self) -> list[object]:
        """Every entry has left its table; the containers that had them in order."""
        held = self.wheel.clear()
        if self.policy is not None:
            held += self.policy.clear()
        if self.lapsed:
            # Only database 0 has such entries, and all of its shards are cleared together.
            held.append(self.tally.stale)
            self.tally.stale = {}
        self.tally.bytes -= self.bytes
        self.bytes = 0
        self.count = 0
        self.lapsed = 0
        return held


class Cohort:
    """Copies of rows that come into a shard at once and have one lifetime."""

    __slots__ = ("entries", "home", "seat", "second", "soft_ms", "stale_until_ms", "ttl_ms", "until_ms", "weight")

    def __init__(self, home: Shard, lease: Lease, soft_ms: int) -> None:
        self.home = home
        self.entries: list[Entry] = []
        # Of all of them together.
        self.weight = 0
        # What each of them has: its seat, what there is in its lease, and the second under which it is filed (0: it
        # does not run out).
        self.seat = home.row(0, True)[0]
        self.ttl_ms = lease.ttl_ms
        self.until_ms = lease.until_ms
        self.stale_until_ms = lease.stale_until_ms
        self.soft_ms = soft_ms
        self.second = 0 if lease.until_ms == NEVER else second_of(lease.until_ms)


class TappedShard(Shard):
    """A shard whose accesses are noted (access_trace.py): it has the sampled tables of another, and its policy."""

    __slots__ = ("trace",)

    def __init__(
        self,
        database: int,
        first_table: int,
        table_count: int,
        tally: Tally,
        policy: Policy | None,
        volatile_only: bool,
        trace: AccessTrace,
    ) -> None:
        self.trace = trace
        super().__init__(database, first_table, table_count, tally, policy, volatile_only)

    def _wanted_hits(self) -> int:
        return -1

    def admit(self, entry: Entry, weight: int) -> None:
        self.trace.note(entry.key, weight, False)
        super().admit(entry, weight)

    def receive(self, cohort: Cohort) -> None:
        for entry in cohort.entries:
            self.trace.note(entry.key, entry.weight, False)
        super().receive(cohort)

    def touched(self, entry: Entry) -> None:
        self.trace.note(entry.key, entry.weight, True)
        super().touched(entry)


class OwnShard(Shard):
    """A shard of a prefix that has its own budget or policy."""

    __slots__ = ("own", "trace")

    def __init__(
        self,
        database: int,
        first_table: int,
        table_count: int,
        tally: OwnTally,
        policy: Policy | None,
        volatile_only: bool,
        trace: AccessTrace | None,
    ) -> None:
        self.own = tally
        # Of a shard whose accesses are noted.
        self.trace = trace
        super().__init__(database, first_table, table_count, tally, policy, volatile_only)

    def _wanted_hits(self) -> int:
        return -1 if self.trace is not None else super()._wanted_hits()

    def admit(self, entry: Entry, weight: int) -> None:
        if self.trace is not None:
            self.trace.note(entry.key, weight, False)
        super().admit(entry, weight)
        self.own.grew(weight)

    def receive(self, cohort: Cohort) -> None:
        if self.trace is not None:
            for entry in cohort.entries:
                self.trace.note(entry.key, entry.weight, False)
        super().receive(cohort)
        self.own.grew(cohort.weight)

    def adopt(self, entry: Entry) -> None:
        super().adopt(entry)
        self.own.grew(entry.weight)

    def _let_go(self, entry: Entry) -> None:
        super()._let_go(entry)
        self.own.grew(-entry.weight)

    def grew(self, entry: Entry, delta: int) -> None:
        super().grew(entry, delta)
        self.own.grew(delta)

    def touched(self, entry: Entry) -> None:
        if self.trace is not None:
            self.trace.note(entry.key, entry.weight, True)
        super().touched(entry)

    def clear(self) -> list[object]:
        dropped = self.bytes
        held = super().clear()
        self.own.grew(-dropped)
        return held
