"""Keyspace: all logical databases, what they may hold, and the clock that one batch of commands sees.

Everything shares one limit, but prefixes with a budget or a policy of their own are counted apart (shard_group.py).
Their budgets are set aside: while everything together is over the limit, what has no budget gives way first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from eviction.policy import RandomSource
from eviction.registry import DEFAULT_POLICY
from server.keyspace.access_trace import AccessTrace, sampled_tables
from server.keyspace.database import Database, Observer
from server.keyspace.entry import Entry, moment
from server.keyspace.placement import Placement, Share
from server.keyspace.resettling import Resettling
from server.keyspace.shard import TABLES, Ledger, Shard, is_dirty
from server.keyspace.shard_group import ShardGroup
from server.keyspace.terms import NOEVICTION, Terms
from server.keyspace.weights import TIMED_OVERHEAD

# How long one turn of making room or of active expiry may last, in seconds, before clients get theirs, and how many
# entries go between two looks at the timer. It is the time that counts, because what an entry costs differs by two
# orders of magnitude: the last object in an arena of Python's allocator gives that megabyte back to the system, about
# 0.1 ms, and keys that go in another order than they came are the last in many arenas at the end.
TURN_S: Final = 0.001
_BETWEEN_LOOKS: Final = 8
# Keys that one turn of active expiry looks at, at most.
EXPIRE_SLICE: Final = 1000
# Evictions that one write is charged with, at most: when more is to go, because the limit was lowered or a large value
# came, the next writes and the server's pulse go on.
EVICTION_SLICE: Final = 128
# The same for entries that move to other shards, 5 to 8 µs each interpreted.
SETTLE_SLICE: Final = 150
# Of the limit, as a power of two, what it may be exceeded by before each write takes a whole turn again: what comes
# must not outrun what goes.
_FAR_OVER: Final = 4
# 2^64 ÷ the golden ratio: multiples of it, modulo 2^64, fall evenly into an interval.
_GOLDEN: Final = 0x9E3779B97F4A7C15
_TURNS: Final = (1 << 64) - 1
_UNLIMITED: Final = 1 << 62


def standing_still() -> float:
    """A timer for those who measure no time: turns end by number alone."""
    return 0.0


class Keyspace:
    """Databases, and groups of shards over them. Databases are made when first selected: unused ones cost nothing."""

    __slots__ = (
        "_ceiling",
        "_databases",
        "_expired_s",
        "_is_relieving",
        "_ledger",
        "_moment",
        "_observer",
        "_placement",
        "_random",
        "_resettling",
        "_spent_ms",
        "_structures",
        "_stuck",
        "_timer",
        "_turn",
        "limited",
        "now_ms",
        "opened",
        "own",
        "reserve",
        "shards",
        "shared",
        "terms",
        "ticked",
        "trace",
    )

    def __init__(
        self,
        databases: int,
        shards: int,
        random: RandomSource | None = None,
        advise_sample: float = 0.0,
        timer: Callable[[], float] = standing_still,
    ) -> None:
        self._databases: list[Database | None] = [None] * databases
        self.shards = shards
        self.opened: list[Database] = []
        # Only the policy `random` needs it.
        self._random = random
        # Seconds since whenever: when a turn has lasted for too long.
        self._timer = timer
        # What everything may hold, and who of what has no terms of its own goes first.
        self.terms = Terms()
        # Bytes of all entries at which room has to be made: the limit without the next two.
        self._ceiling = _UNLIMITED
        # Bytes of the limit that are not for keys and values (server/headroom.py).
        self.reserve = 0
        # Estimated bytes of what orders the entries, as they were when they were last counted.
        self._structures = 0
        # May a write have to make room?
        self.limited = False
        # The last attempt to make room for everything found nobody who may go.
        self._stuck = False
        # Accesses to a sample of database 0; None: none are noted.
        self.trace = AccessTrace(sampled_tables(advise_sample, TABLES)) if advise_sample > 0 else None
        # Those of everything that has nothing of its own; and by number of a prefix those of the others.
        self.shared = ShardGroup(self.terms, random, self.trace)
        self.own: dict[int, ShardGroup] = {}
        self._ledger = Ledger()
        self._placement: Placement | None = None
        # Entries under way to other shards; None: all are where they belong.
        self._resettling: Resettling | None = None
        # The millisecond in which making room took a whole turn; until the next one, writes make little more.
        self._spent_ms = -1
        # Up to which second everything that ran out has been taken out for room.
        self._expired_s = 0
        # A prefix is over its budget, and there is more to evict of it.
        self._is_relieving = False
        # Chooses who pays among several that share the limit.
        self._turn = 0
        self._observer: Observer | None = None
        self.now_ms = 0
        # Who wants to know that the time has moved on.
        self.ticked: Callable[[int], None] | None = None
        # The life of everything that is used in this second and has none of its own.
        self._moment = moment(0)
        self.database(0)

    @property
    def size(self) -> int:
        """Number of logical databases."""
        return len(self._databases)

    @property
    def maxmemory(self) -> int:
        """Bytes that everything may hold; 0 means no limit."""
        return self.terms.maxmemory

    def database(self, index: int) -> Database:
        """The database of that number, 0 … size - 1."""
        database = self._databases[index]
        if database is None:
            homes = self.shared.furnish(index, self.shards, self.terms.maxmemory > 0)
            database = Database(index, self.shards, homes)
            database.now_ms = self.now_ms
            database.moment = self._moment
            self._databases[index] = database
            self.opened.append(database)
            self._share_out()
            database.observe(self._observer)
        return database

    def swap(self, first: int, second: int) -> None:
        """Exchange the contents of two databases: sessions keep their Database object, so contents move."""
        a, b = self.database(first), self.database(second)
        while self._resettling is not None:
            self._settle()
        a.exchange(b)
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
        if now_ms // 1000 != self._moment.access_s:
            self._moment = moment(now_ms)
        for database in self.opened:
            database.now_ms = now_ms
            database.moment = self._moment
        if self.ticked is not None:
            self.ticked(now_ms)

    def expire(self, wall_ms: int) -> bool:
        """One turn of active expiry, of keys and of the fields of hashes; is there more that is due?"""
        until_s = self._timer() + TURN_S
        left = EXPIRE_SLICE
        while left > 0:
            most = 0
            for database in self.opened:
                keys = database.expire_due(_BETWEEN_LOOKS)
                most = max(most, keys, database.expire_fields_due(wall_ms, _BETWEEN_LOOKS))
            if most < _BETWEEN_LOOKS:
                return False
            if self._timer() > until_s:
                return True
            left -= most
        return True

    def dig(self, budget: int) -> bool:
        """Free about so many objects that no key holds any more; is there more?"""
        for database in self.opened:
            if len(database.graveyard):
                return database.graveyard.dig(budget) or self.is_littered()
        return False

    def is_littered(self) -> bool:
        """Is there something that no key holds any more, and that is still in memory?"""
        return any(len(database.graveyard) for database in self.opened)

    def used(self) -> int:
        """Estimated bytes of everything held. O(1)."""
        return self._held() + self._structures

    def _held(self) -> int:
        return self.shared.tally.bytes + self._ledger.own_bytes

    def survey(self, reserve: int, copies: int = 0) -> None:
        """Count anew what wheels and policies take and what hashes share, and keep `reserve` bytes of the limit free.
        `copies`: what copies of rows take that is in no weight, or less. O(shards + names of fields)."""
        timed = sum([database.volatile() for database in self.opened])
        groups = [self.shared, *self.own.values()]
        ordering = sum([policy.stats().overhead_bytes for group in groups for policy in group.policies])
        ordering += sum([shard.wheel.overhead_bytes() for database in self.opened for shard in database.shards])
        shared = sum([database.names.survey() for database in self.opened])
        self._structures = TIMED_OVERHEAD * timed + copies + ordering - shared
        self.reserve = reserve
        self._set_ceiling()

    def _set_ceiling(self) -> None:
        maxmemory = self.terms.maxmemory
        self._ceiling = max(1, maxmemory - self._structures - self.reserve) if maxmemory else _UNLIMITED

    def group_of(self, name: str | None) -> ShardGroup:
        """The group of a prefix rule: its own, or that of everything that has none."""
        for group in self.own.values():
            if group.name == name:
                return group
        return self.shared

    def terms_of(self, name: str) -> Terms:
        """The terms of a prefix rule: its own, or, without a budget, those of everything."""
        group = self.group_of(name)
        return group.terms if group.own is not None else replace(group.terms, maxmemory=0)

    def policy_of(self, database: int, key: bytes) -> str:
        """The policy that a key is under: its prefix's own, or that of everything."""
        if self._placement is not None and database == 0:
            group = self.own.get(self._placement.number_of(key))
            if group is not None:
                return group.terms.policy
        return self.terms.policy

    # -- terms --------------------------------------------------------------------------------------------------------

    def limit(self, terms: Terms) -> None:
        """Other terms for everything, also at run time. When another order is asked for, entries move to new shards:
        newcomers at once, the others in slices (`tidy`)."""
        before = self.terms
        self.terms = terms
        self._rearrange(not terms.same_order(before) or (terms.maxmemory > 0) != (before.maxmemory > 0), False)

    def partition(self, shares: list[Share]) -> None:
        """These prefixes are all that the rules name, in matching order; some have terms of their own."""
        if self.trace is not None:
            self.trace.use(Placement(shares) if shares else None)
        placement = Placement(shares) if any(share.terms is not None for share in shares) else None
        if placement is not None or self._placement is not None:
            before = self._placement.shares if self._placement is not None else []
            self._placement = placement
            heads = [(share.head, share.terms is None) for share in shares]
            self._rearrange(False, heads != [(share.head, share.terms is None) for share in before])

    def _rearrange(self, shared_anew: bool, placed_anew: bool) -> None:
        # Builds the groups that the terms ask for, keeps those that are right already, and lets entries move.
        before = self.own
        self.own = self._own_groups(before)
        self.shared.terms = self.terms
        if shared_anew:
            self.shared.leave()
        kept = set(self.own.values())
        for group in before.values():
            if group.own is not None and group not in kept:
                group.own.limit = 0
        if shared_anew or placed_anew or before != self.own:
            for database in self.opened:
                self._refurnish(database, shared_anew, before)
        self._note_stuck(False)
        self._set_ceiling()
        self.limited = self.terms.maxmemory > 0 or any(group.terms.maxmemory for group in self.own.values())
        self._share_out()
        self._settle()

    def _refurnish(self, database: Database, shared_anew: bool, before: dict[int, ShardGroup]) -> None:
        bounded = self.terms.maxmemory > 0
        homes = database.homes
        if shared_anew:
            homes = self.shared.furnish(database.index, self.shards, bounded)
        own: dict[int, list[Shard]] = {}
        if database.index == 0:
            kept = {group: number for number, group in before.items()}
            for number, group in self.own.items():
                if group in kept:
                    own[number] = database.own_homes[kept[group]]
                else:
                    own[number] = group.furnish(0, self.shards, bounded or group.terms.maxmemory > 0)
        leaving = database.furnish(homes, own, self._placement)
        if self._resettling is None:
            self._resettling = Resettling()
        self._resettling.begin(database, leaving)

    def _own_groups(self, before: dict[int, ShardGroup]) -> dict[int, ShardGroup]:
        groups: dict[int, ShardGroup] = {}
        if self._placement is None:
            return groups
        former = {group.name: group for group in before.values()}
        for number, share in enumerate(self._placement.shares, 1):
            if share.terms is None:
                continue
            terms = self._terms_of(share.terms)
            group = former.get(share.name)
            if group is None or not group.takes(terms, self.terms.maxmemory > 0):
                group = ShardGroup(terms, self._random, self.trace)
            group.claim(share.name, number, terms, self._ledger)
            groups[number] = group
        return groups

    def _terms_of(self, own: Terms) -> Terms:
        # A prefix that shares the policy and has a budget needs one that makes room; all of its keys may go.
        policy = own.policy or self.terms.policy
        if policy == NOEVICTION and own.maxmemory:
            policy = DEFAULT_POLICY
        return Terms(own.maxmemory, policy, False, own.weighs_cost)

    def _share_out(self) -> None:
        # Tell every group what it may count on.
        maxmemory = self.terms.maxmemory
        set_aside = sum(group.terms.maxmemory for group in self.own.values())
        alone = all(group.terms.maxmemory for group in self.own.values())
        rest = maxmemory - set_aside
        self.shared.limit((rest if rest > 0 else maxmemory) if alone else 0, len(self.opened))
        for group in self.own.values():
            group.limit(group.terms.maxmemory, 1)

    # -- making room --------------------------------------------------------------------------------------------------

    def make_room(self) -> bool:
        """Before a write that may grow memory: evict what is over a limit. False: there is no room, and nobody may go.

        O(1) while nothing is over its limit. What takes more than a turn goes on with the next call: of the writes that
        come in one read only one takes a whole turn, or fifty of them would keep everybody else waiting for fifty.
        """
        ledger = self._ledger
        # `_held`, written out.
        if self.shared.tally.bytes + ledger.own_bytes <= self._ceiling and not ledger.over:
            return True
        until_s = self._timer() + TURN_S
        is_spent = self.now_ms == self._spent_ms and self._held() <= self._ceiling + (self._ceiling >> _FAR_OVER)
        if not self._expire_first(_BETWEEN_LOOKS if is_spent else EXPIRE_SLICE, until_s):
            return True
        budget = self._relieve(_BETWEEN_LOOKS if is_spent else EVICTION_SLICE, until_s)
        self._note_stuck(not self._lower(budget, until_s))
        return not self._stuck

    def _note_stuck(self, stuck: bool) -> None:
        if stuck != self._stuck:
            self._stuck = stuck
            for database in self.opened:
                database.surplus = [] if stuck else None

    @property
    def is_stuck(self) -> bool:
        """Is there no room, and was there nobody who could go when that was last tried?"""
        return self._stuck and self._held() > self._ceiling

    def tidy(self) -> bool:
        """One slice of moving entries to other shards and of evicting; is there more to do?"""
        self._settle()
        self._spent_ms = -1
        room = self.make_room()
        if self._stuck and not self.is_stuck:
            self._note_stuck(False)
        for group in (self.shared, *self.own.values()):
            group.follow()
        return self._resettling is not None or self._is_relieving or (room and self._held() > self._ceiling)

    def has_room(self, name: str, share: float) -> bool:
        """Is less than a share of the limits in use, of everything's and of the prefix's own?"""
        group = self.group_of(name)
        if group.own is not None and group.terms.maxmemory and group.tally.bytes >= group.terms.maxmemory * share:
            return False
        return not self.maxmemory or self.used() < self.maxmemory * share

    def _settle(self) -> None:
        resettling = self._resettling
        if resettling is not None:
            resettling.step(SETTLE_SLICE)
            if resettling.is_over:
                self._resettling = None
                graveyard = self.opened[0].graveyard
                for group in (self.shared, *self.own.values()):
                    graveyard.bury_order(group.forget_former())

    @property
    def awaits_saving(self) -> bool:
        """Is something over its limit, and has somebody been passed over because its change is unsaved?"""
        if self._held() <= self._ceiling and not self._ledger.over:
            return False
        return self.shared.awaits_saving or any(group.awaits_saving for group in self.own.values())

    def _is_over(self, until_s: float) -> bool:
        # Has this turn lasted for long enough?
        if self._timer() <= until_s:
            return False
        self._spent_ms = self.now_ms
        return True

    def _expire_first(self, left: int, until_s: float) -> bool:
        # What is past its time goes before anything alive; False when there may be more of it. Looked for once a
        # second, because the wheels turn by seconds.
        second = self.now_ms // 1000
        if second == self._expired_s:
            return True
        for database in self.opened:
            while (looked := database.expire_due(_BETWEEN_LOOKS)) >= _BETWEEN_LOOKS:
                left -= looked
                if left <= 0 or self._is_over(until_s):
                    return False
        self._expired_s = second
        return True

    def _relieve(self, budget: int, until_s: float) -> int:
        # Prefixes over their own budgets; what is left of ours. One that cannot shrink now is tried again.
        over = self._ledger.over
        self._is_relieving = False
        if not over:
            return budget
        still = []
        for tally in over:
            group = self.own.get(tally.number)
            while tally.limit and tally.bytes > tally.limit and budget > 0:
                if group is None or not self._evict_from(group):
                    break
                budget -= 1
                if budget % _BETWEEN_LOOKS == 0 and self._is_over(until_s):
                    budget = 0
            if tally.limit and tally.bytes > tally.limit:
                still.append(tally)
                self._is_relieving = self._is_relieving or budget <= 0
            else:
                tally.is_over = False
        self._ledger.over = still
        return max(1, budget)

    def _lower(self, budget: int, until_s: float) -> bool:
        # Everything together; False when it is over the limit and nobody may go.
        while self._held() > self._ceiling:
            if budget <= 0 or (budget % _BETWEEN_LOOKS == 0 and self._is_over(until_s)):
                return True
            budget -= 1
            if self._evict_from(self._payer()):
                continue
            if any(self._evict_from(group) for group in self._by_size()):
                continue
            if self._resettling is None or self._resettling.is_over:
                return self._drop_surplus()
            # What no policy has known so far gets to know one.
            self._resettling.step(SETTLE_SLICE)
            budget -= SETTLE_SLICE
        return True

    def _drop_surplus(self) -> bool:
        # What was loaded although there is no room has served those who waited for it.
        for database in self.opened:
            surplus = database.surplus
            while surplus:
                entry = surplus.pop()
                if database.held(entry.key) is entry and entry.lease is not None and not is_dirty(entry):
                    database.take_out_victim(entry)
        return self._held() <= self._ceiling

    def _payer(self) -> ShardGroup:
        # Those without a budget pay in proportion to what they hold, as if they were one.
        shared = self.shared
        if not self.own:
            return shared
        payers = [group for group in self.own.values() if not group.terms.maxmemory]
        if not payers:
            return shared
        total = shared.tally.bytes + sum([group.tally.bytes for group in payers])
        self._turn = (self._turn + _GOLDEN) & _TURNS
        point = self._turn * total >> 64
        for group in payers:
            point -= group.tally.bytes
            if point < 0:
                return group
        return shared

    def _by_size(self) -> list[ShardGroup]:
        # The fullest first, those with a budget last.
        groups = [self.shared, *self.own.values()]
        groups.sort(key=_fullness)
        return groups

    def _evict_from(self, group: ShardGroup) -> bool:
        entry: Entry | None = group.next_victim()
        if entry is None:
            return False
        home = entry.home
        assert isinstance(home, Shard)
        self.database(home.database).take_out_victim(entry)
        return True


def _fullness(group: ShardGroup) -> tuple[bool, int]:
    return group.terms.maxmemory > 0 and group.own is not None, -group.tally.bytes
