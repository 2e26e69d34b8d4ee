"""Budgets and policies per prefix, and terms that change while keys are there: who goes, who stays, what is counted."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from eviction.registry import POLICIES
from persistence.breaker import Breaker
from persistence.change import HASH, NEVER, STRING
from persistence.lease import Lease
from persistence.managed import ManagedPrefix
from persistence.prefixes import PrefixRule, Template
from server.clock import SystemClock
from server.keyspace.database import Database
from server.keyspace.entry import Entry
from server.keyspace.keyspace import EVICTION_SLICE, Keyspace
from server.keyspace.placement import Share
from server.keyspace.shard import Shard, is_dirty
from server.keyspace.terms import Terms

OWN = Terms(60_000, "lru")


def keyspace_of(terms: Terms, *shares: Share, databases: int = 1, sample: float = 0.0) -> Keyspace:
    keyspace = Keyspace(databases, 4, random.Random(7), sample)
    keyspace.tick(1_000_000)
    keyspace.limit(terms)
    keyspace.partition(list(shares))
    return keyspace


def put(database: Database, key: bytes, size: int = 100, deadline_ms: int = NEVER) -> None:
    database.put(key, STRING, b"x" * size, deadline_ms, b"set")


def make_room(keyspace: Keyspace) -> bool:
    """As often as it takes: one call evicts a slice."""
    while True:
        room = keyspace.make_room()
        over = keyspace.used() > (keyspace.maxmemory or 1 << 62)
        if not room or not over:
            return room


def settle(keyspace: Keyspace) -> None:
    while keyspace.tidy():
        pass


def bytes_of(database: Database, head: bytes) -> int:
    return sum(entry.weight for table in database.tables for entry in table.values() if entry.key.startswith(head))


def count_of(database: Database, head: bytes) -> int:
    return sum(entry.key.startswith(head) for table in database.tables for entry in table.values())


def check(keyspace: Keyspace) -> None:
    """Every sum is what a recount finds, and every entry is in exactly one shard and one order."""
    everything = 0
    by_tally: dict[int, int] = {}
    stale: dict[int, set[Entry]] = {}
    for database in keyspace.opened:
        counted: dict[Shard, list[Entry]] = {shard: [] for shard in database.shards}
        for table in database.tables:
            for entry in table.values():
                assert isinstance(entry.home, Shard)
                counted[entry.home].append(entry)
        for shard, entries in counted.items():
            assert shard.database == database.index
            assert shard.count == len(entries)
            assert shard.bytes == sum(entry.weight for entry in entries)
            assert len(shard.wheel) == sum(1 for entry in entries if entry.life.wheel_s)
            lapsed = {entry for entry in entries if entry.lease is not None and entry.lease.lapsed}
            assert shard.lapsed == len(lapsed)
            stale.setdefault(id(shard.tally), set()).update(lapsed)
            by_tally[id(shard.tally)] = by_tally.get(id(shard.tally), 0) + shard.bytes
            everything += shard.bytes
            if shard.policy is not None:
                shard.policy.check()
                held = [entry for entry in entries if not shard.volatile_only or entry.deadline_ms != NEVER]
                assert all(entry.where for entry in held)
                assert not shard.volatile_only or sum(1 for entry in entries if entry.where) == len(held)
    groups = [keyspace.shared, *keyspace.own.values()]
    for group in groups:
        assert group.tally.bytes == by_tally.get(id(group.tally), 0)
        assert set(group.tally.stale) <= stale.get(id(group.tally), set())
    assert keyspace.used() == everything


# -- budgets ----------------------------------------------------------------------------------------------------------


def test_prefix_over_its_budget_evicts_its_own_keys_only() -> None:
    keyspace = keyspace_of(Terms(), Share("user:{id}", b"user:", OWN))
    database = keyspace.database(0)
    for number in range(500):
        assert keyspace.make_room()
        put(database, b"user:%d" % number)
        put(database, b"plain:%d" % number)
    keyspace.make_room()
    assert bytes_of(database, b"user:") <= 60_000
    assert count_of(database, b"user:") > 100
    assert count_of(database, b"plain:") == 500
    # lru: the last ones are there.
    assert database.held(b"user:499") is not None
    assert database.held(b"user:0") is None
    check(keyspace)


def test_longer_head_without_a_budget_is_not_counted_with_the_shorter_one() -> None:
    shares = (Share("user:session:{id}", b"user:session:", None), Share("user:{id}", b"user:", OWN))
    keyspace = keyspace_of(Terms(), *shares)
    database = keyspace.database(0)
    for number in range(500):
        put(database, b"user:session:%d" % number)
    make_room(keyspace)
    assert len(database) == 500
    assert keyspace.own[2].tally.bytes == 0
    check(keyspace)


def test_budget_is_set_aside_while_everything_together_is_over_the_limit() -> None:
    keyspace = keyspace_of(Terms(200_000, "lru"), Share("user:{id}", b"user:", OWN))
    database = keyspace.database(0)
    for number in range(150):
        put(database, b"user:%d" % number)
    before = count_of(database, b"user:")
    for number in range(2000):
        keyspace.make_room()
        put(database, b"plain:%d" % number)
    make_room(keyspace)
    assert keyspace.used() <= 200_000
    assert count_of(database, b"user:") == before
    check(keyspace)


def test_budgeted_prefix_gives_way_when_nobody_else_is_left() -> None:
    keyspace = keyspace_of(Terms(200_000, "lru"), Share("user:{id}", b"user:", Terms(150_000, "lru")))
    database = keyspace.database(0)
    for number in range(300):
        put(database, b"user:%d" % number)
    keyspace.limit(Terms(50_000, "lru"))
    assert make_room(keyspace)
    assert 0 < keyspace.used() <= 50_000
    check(keyspace)


def test_policy_alone_shares_the_limit_in_proportion() -> None:
    keyspace = keyspace_of(Terms(400_000, "fifo"), Share("a:", b"a:", Terms(0, "lfu")))
    database = keyspace.database(0)
    for number in range(2500):
        keyspace.make_room()
        put(database, b"a:%d" % number)
        for copy in range(3):
            put(database, b"plain:%d:%d" % (number, copy))
    make_room(keyspace)
    # Three of four new keys are plain, so three of four bytes are.
    assert 0.15 < bytes_of(database, b"a:") / keyspace.used() < 0.35
    check(keyspace)


def test_prefix_that_is_never_evicted_stays_until_writes_are_refused() -> None:
    keyspace = keyspace_of(Terms(100_000, "lru"), Share("keep:", b"keep:", Terms(0, "noeviction")))
    database = keyspace.database(0)
    number = 0
    while make_room(keyspace):
        put(database, b"plain:%d" % number)
        put(database, b"keep:%d" % number)
        number += 1
    assert count_of(database, b"plain:") == 0
    assert count_of(database, b"keep:") == number
    assert keyspace.is_stuck
    check(keyspace)


def test_budget_with_a_shared_policy_evicts_although_nothing_else_may_be() -> None:
    keyspace = keyspace_of(Terms(0, "noeviction"), Share("user:{id}", b"user:", Terms(60_000, "")))
    assert keyspace.own[1].terms.policy == "s3-fifo"
    database = keyspace.database(0)
    for number in range(1000):
        put(database, b"user:%d" % number)
        keyspace.make_room()
    assert bytes_of(database, b"user:") <= 60_000
    check(keyspace)


def test_other_databases_know_no_prefixes() -> None:
    keyspace = keyspace_of(Terms(), Share("user:{id}", b"user:", OWN), databases=2)
    for number in range(500):
        put(keyspace.database(1), b"user:%d" % number)
    make_room(keyspace)
    assert len(keyspace.database(1)) == 500
    check(keyspace)


# -- terms that change ------------------------------------------------------------------------------------------------


def test_new_order_lets_go_first_what_the_old_one_would_have() -> None:
    keyspace = keyspace_of(Terms(10_000_000, "lru"))
    database = keyspace.database(0)
    for number in range(1000):
        put(database, b"key:%d" % number)
    for number in range(500):
        # The older half is the one that is used.
        database.find(b"key:%d" % number)
    keyspace.limit(Terms(10_000_000, "fifo"))
    check(keyspace)
    settle(keyspace)
    check(keyspace)
    assert len(database.shards) == 4
    keyspace.limit(Terms(keyspace.used() // 2, "fifo"))
    make_room(keyspace)
    kept = sum(database.held(b"key:%d" % number) is not None for number in range(500))
    assert kept > 480


def test_eviction_does_not_wait_for_keys_that_are_still_moving() -> None:
    keyspace = keyspace_of(Terms())
    database = keyspace.database(0)
    for number in range(4000):
        put(database, b"key:%d" % number)
    keyspace.limit(Terms(100_000, "lru"))
    assert make_room(keyspace)
    assert 0 < keyspace.used() <= 100_000
    check(keyspace)


def test_one_call_evicts_no_more_than_a_slice() -> None:
    keyspace = keyspace_of(Terms(10_000_000, "lru"))
    database = keyspace.database(0)
    for number in range(4000):
        put(database, b"key:%d" % number)
    keyspace.limit(Terms(1000, "lru"))
    assert keyspace.make_room()
    assert len(database) >= 4000 - EVICTION_SLICE
    # The rest goes with the server's pulse.
    settle(keyspace)
    assert keyspace.used() <= 1000


def test_new_prefix_takes_its_keys_and_a_prefix_that_goes_gives_them_back() -> None:
    keyspace = keyspace_of(Terms(1_000_000, "lru"))
    database = keyspace.database(0)
    for number in range(300):
        put(database, b"user:%d" % number)
        put(database, b"plain:%d" % number)
    keyspace.partition([Share("user:{id}", b"user:", OWN)])
    settle(keyspace)
    check(keyspace)
    assert keyspace.own[1].tally.bytes == bytes_of(database, b"user:") <= 60_000
    assert count_of(database, b"plain:") == 300
    keyspace.partition([])
    settle(keyspace)
    check(keyspace)
    assert keyspace.shared.tally.bytes == keyspace.used()
    assert database.placement is None


def test_prefix_that_shares_the_policy_follows_when_that_changes() -> None:
    shares = (Share("user:{id}", b"user:", Terms(30_000, "")), Share("own:", b"own:", Terms(30_000, "lfu")))
    keyspace = keyspace_of(Terms(1_000_000, "lru"), *shares)
    database = keyspace.database(0)
    for number in range(60):
        put(database, b"user:%d" % number)
        put(database, b"own:%d" % number)
    own = keyspace.own[2]
    keyspace.limit(Terms(1_000_000, "sieve", True))
    assert keyspace.own[2] is own
    assert keyspace.own[1].terms == Terms(30_000, "sieve")
    settle(keyspace)
    check(keyspace)
    assert keyspace.own[1].tally.bytes == bytes_of(database, b"user:") > 0
    assert keyspace.own[2].tally.bytes == bytes_of(database, b"own:") > 0


def test_budget_alone_changes_without_a_move() -> None:
    keyspace = keyspace_of(Terms(1_000_000, "lru"), Share("user:{id}", b"user:", OWN))
    database = keyspace.database(0)
    for number in range(150):
        put(database, b"user:%d" % number)
    homes = list(database.shards)
    keyspace.partition([Share("user:{id}", b"user:", replace(OWN, maxmemory=20_000))])
    assert database.shards == homes
    keyspace.make_room()
    assert bytes_of(database, b"user:") <= 20_000
    check(keyspace)


def test_budget_that_was_lowered_by_much_is_reached_in_slices_at_once() -> None:
    keyspace = keyspace_of(Terms(), Share("user:{id}", b"user:", Terms(10_000_000, "lru")))
    database = keyspace.database(0)
    for number in range(2000):
        put(database, b"user:%d" % number)
    keyspace.partition([Share("user:{id}", b"user:", Terms(20_000, "lru"))])
    assert keyspace.make_room()
    assert len(database) == 2000 - EVICTION_SLICE
    settle(keyspace)
    assert bytes_of(database, b"user:") <= 20_000


def test_room_is_what_the_prefix_and_everything_together_have_left() -> None:
    keyspace = keyspace_of(Terms(100_000, "lru"), Share("user:{id}", b"user:", Terms(50_000, "lru")))
    database = keyspace.database(0)
    assert keyspace.has_room("user:{id}", 0.9)
    while bytes_of(database, b"user:") < 45_000:
        put(database, b"user:%d" % len(database))
    assert not keyspace.has_room("user:{id}", 0.9)
    assert keyspace.has_room("other", 0.9)
    while keyspace.used() < 90_000:
        put(database, b"plain:%d" % len(database))
    assert not keyspace.has_room("other", 0.9)


# -- what goes first --------------------------------------------------------------------------------------------------


def leased(database: Database, key: bytes, until_ms: int, stale_ms: int, dirty_seq: int = 0) -> Lease:
    prefix = ManagedPrefix(PrefixRule(Template("user:{id}")), None, Breaker("", SystemClock(), random.Random(0)))
    entry = database.install(key, STRING, b"x" * 100, until_ms)
    made = entry.lease = Lease(prefix, database.now_ms, 0.0, until_ms, until_ms)
    made.stale_until_ms = until_ms + stale_ms
    made.dirty_seq = dirty_seq
    prefix.keys += 1
    prefix.bytes += entry.weight
    database.refile(key)
    return made


class Listening:
    """Notes which keys were lost, and why."""

    def __init__(self) -> None:
        self.lost_keys: list[tuple[bytes, bytes]] = []

    def changed(self, database: Database, key: bytes, event: bytes, is_new: bool) -> None: ...

    def noted(self, database: Database, key: bytes, event: bytes) -> None: ...

    def lost(self, database: Database, key: bytes, event: bytes) -> None:
        self.lost_keys.append((key, event))

    def touched(self, key: bytes) -> None: ...

    def appeared(self, key: bytes) -> None: ...

    def emptied(self, database: Database) -> None: ...

    def voided(self, database: Database, head: bytes) -> None: ...


def test_what_is_past_its_time_goes_before_anything_alive() -> None:
    keyspace = keyspace_of(Terms(31_000, "lru"), Share("user:{id}", b"user:", None))
    database = keyspace.database(0)
    listening = Listening()
    keyspace.observe(listening)
    for number in range(30):
        put(database, b"short:%d" % number, deadline_ms=1_001_000)
        leased(database, b"user:%d" % number, 1_001_000, 60_000)
        put(database, b"alive:%d" % number)
    keyspace.tick(1_003_000)
    number = 30
    while not listening.lost_keys or number < 90:
        keyspace.make_room()
        put(database, b"alive:%d" % number)
        number += 1
    events = [event for _, event in listening.lost_keys]
    # First all that ran out, then the copies that are kept for stale serving alone; nothing alive.
    assert events.count(b"expired") == database.expired == 30
    assert 0 < events.count(b"evicted") == database.evicted <= 30
    assert events == sorted(events, reverse=True)
    assert {key.split(b":")[0] for key, _ in listening.lost_keys} == {b"short", b"user"}
    assert count_of(database, b"alive:") == number
    check(keyspace)


@pytest.mark.parametrize("policy", ["s3-fifo", "lru", "auto"])
def test_unsaved_changes_are_never_evicted_and_come_first_once_saved(policy: str) -> None:
    keyspace = keyspace_of(Terms(30_000, policy), Share("user:{id}", b"user:", None))
    database = keyspace.database(0)
    leases = [leased(database, b"user:%d" % number, NEVER, 0, number + 1) for number in range(100)]
    assert not make_room(keyspace)
    assert keyspace.awaits_saving
    assert len(database) == 100
    check(keyspace)
    for number, lease in enumerate(leases):
        lease.dirty_seq = 0
        database.unpinned(b"user:%d" % number)
    assert make_room(keyspace)
    assert 0 < keyspace.used() <= 30_000
    assert not keyspace.awaits_saving
    check(keyspace)


class Loading:
    """Two tables, one ten times as expensive to load as the other, read in the same pattern."""

    def __init__(self, terms: Terms) -> None:
        self.keyspace = keyspace_of(terms, Share("user:{id}", b"user:", None))
        self.cost_ms = 0.0

    def read(self, requests: int) -> float:
        """What all loads took together."""
        chance, database = random.Random(11), self.keyspace.database(0)
        for _ in range(requests):
            number = int(1200 * chance.random() ** 4)
            key = b"user:%d" % number
            if database.find(key) is None:
                cost_ms = 10.0 if number % 2 else 1.0
                self.cost_ms += cost_ms
                leased(database, key, NEVER, 0).cost_ms = cost_ms
                self.keyspace.make_room()
        return self.cost_ms


def test_copies_that_were_expensive_to_load_stay_longer_where_costs_count() -> None:
    alike = Loading(Terms(40_000, "s3-fifo")).read(8_000)
    weighed = Loading(Terms(40_000, "s3-fifo", weighs_cost=True)).read(8_000)
    assert weighed < 0.97 * alike


def test_policy_without_a_way_to_weigh_costs_serves_all_the_same() -> None:
    keyspace = keyspace_of(Terms(40_000, "lru", weighs_cost=True))
    for number in range(300):
        put(keyspace.database(0), b"key:%d" % number)
    assert make_room(keyspace)
    check(keyspace)


# -- everything at once -----------------------------------------------------------------------------------------------

HEADS = (b"a:", b"b:", b"c:", b"plain:")


def random_share(chance: random.Random, head: bytes) -> Share:
    terms = None
    if chance.random() < 0.7:
        budget = chance.choice([0, 8_000, 20_000, 60_000])
        policies = [name for name in POLICIES if name != "noeviction" or not budget]
        terms = Terms(budget, chance.choice([*policies, ""]))
    return Share(head.decode(), head, terms)


def random_terms(chance: random.Random) -> Terms:
    return Terms(chance.choice([0, 30_000, 80_000, 200_000]), chance.choice(list(POLICIES)), chance.random() < 0.3)


class Walk:
    """A keyspace to which anything happens, with keys that are pinned now and then."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.keyspace = keyspace_of(random_terms(self.chance), databases=2, sample=0.1)
        self.pinned: set[bytes] = set()

    @property
    def database(self) -> Database:
        return self.keyspace.database(0)

    def key(self) -> bytes:
        return self.chance.choice(HEADS) + b"%d" % self.chance.randrange(150)

    def step(self) -> None:
        chance, keyspace, database, key = self.chance, self.keyspace, self.database, self.key()
        keyspace.tick(keyspace.now_ms + chance.randrange(40))
        dice = chance.random()
        if dice < 0.40:
            keyspace.make_room()
            deadline_ms = NEVER if chance.random() < 0.5 else keyspace.now_ms + chance.randrange(1, 3000)
            chosen = database if chance.random() < 0.9 else keyspace.database(1)
            if chosen is not database or key not in self.pinned:
                put(chosen, key, chance.randrange(400), deadline_ms)
        elif dice < 0.55:
            database.find(key)
        elif dice < 0.65:
            entry = database.edit(key)
            if entry is not None and entry.kind == STRING:
                assert isinstance(entry.value, bytes)
                grown = chance.randrange(-len(entry.value), 200) if entry.value else 10
                entry.value = entry.value[:grown] if grown < 0 else entry.value + b"y" * grown
                database.edited(entry, b"append", [], grown)
        elif dice < 0.72:
            entry = database.edit(key)
            if entry is not None:
                deadline_ms = NEVER if chance.random() < 0.4 else keyspace.now_ms + chance.randrange(1, 5000)
                database.set_deadline(entry, deadline_ms, b"expire")
        elif dice < 0.78:
            if key not in self.pinned:
                database.remove(key)
        elif dice < 0.84:
            if key not in self.pinned:
                seq = chance.choice([0, 1])
                leased(database, key, keyspace.now_ms + chance.randrange(1, 4000), 3000, seq)
                if seq:
                    self.pinned.add(key)
        elif dice < 0.90:
            for saved in list(self.pinned)[:5]:
                self.pinned.discard(saved)
                entry = database.held(saved)
                assert entry is not None and entry.lease is not None, "a pinned key was evicted"
                entry.lease.dirty_seq = 0
                database.unpinned(saved)
        elif dice < 0.95:
            keyspace.tidy()
        elif dice < 0.97:
            database.expire_due(50)
        elif dice < 0.98:
            keyspace.limit(random_terms(chance))
        elif dice < 0.99:
            keyspace.partition([random_share(chance, head) for head in HEADS[:3]])
        elif chance.random() < 0.3 and not self.pinned:
            database.clear()
        elif key not in self.pinned:
            database.put(key, HASH, {b"f": b"1"}, NEVER, b"hset")

    def check_limits(self) -> None:
        # After enough calls nothing is over its limit, or nobody may go.
        keyspace = self.keyspace
        for _ in range(20):
            keyspace.make_room()
        over_all = bool(keyspace.maxmemory) and keyspace.used() > keyspace.maxmemory
        assert keyspace.is_stuck == over_all
        for table in self.database.tables:
            for entry in table.values():
                assert is_dirty(entry) == (entry.key in self.pinned)
        for group in keyspace.own.values():
            if group.terms.maxmemory and group.tally.bytes > group.terms.maxmemory:
                assert all(is_dirty(entry) for entry in self.entries_of(group.name.encode()))

    def entries_of(self, head: bytes) -> list[Entry]:
        return [entry for table in self.database.tables for entry in table.values() if entry.key.startswith(head)]


@pytest.mark.parametrize("seed", range(6))
def test_anything_may_happen_in_any_order(seed: int) -> None:
    walk = Walk(seed)
    for number in range(1500):
        walk.step()
        if number % 50 == 49:
            check(walk.keyspace)
        if number % 150 == 149:
            walk.check_limits()
            check(walk.keyspace)
    settle(walk.keyspace)
    check(walk.keyspace)
    for database in walk.keyspace.opened:
        homes = set(database.homes).union(*database.own_homes.values())
        assert homes == set(database.shards)


def test_what_had_entries_in_order_before_a_change_of_policy_is_freed_in_slices() -> None:
    keyspace = keyspace_of(Terms(10_000_000, "lru"))
    database = keyspace.database(0)
    count = 3000
    for number in range(count):
        put(database, b"k%d" % number, deadline_ms=2_000_000 + number)
    keyspace.limit(Terms(10_000_000, "s3-fifo"))
    settle(keyspace)
    assert count_of(database, b"k") == count
    # The places of a list that are free now, three for each node, and the keys in the wheels of the former shards.
    slices = 0
    while keyspace.dig(100):
        slices += 1
    assert slices >= 4 * count // 200
    assert keyspace.policy_of(0, b"k1") == "s3-fifo" and database.volatile() == count
