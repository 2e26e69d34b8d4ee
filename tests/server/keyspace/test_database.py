"""Databases, shards, the expiry wheel and the memory limit: what is counted, what goes, and who is told."""

from __future__ import annotations

import itertools
import random

import pytest

from eviction.registry import POLICIES
from persistence.breaker import Breaker
from persistence.change import HASH, NEVER, STRING
from persistence.lease import Lease
from persistence.managed import ManagedPrefix
from persistence.prefixes import PrefixRule, Template
from server.clock import SystemClock
from server.keyspace.database import Database
from server.keyspace.keyspace import TURN_S, Keyspace
from server.keyspace.overlay import Overlay
from server.keyspace.terms import Terms


class Watching:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.told = 0

    def touched(self) -> None:
        self.told += 1


def put(database: Database, key: bytes, value: bytes = b"v", deadline_ms: int = NEVER) -> None:
    database.put(key, STRING, value, deadline_ms, b"set")


def check(database: Database) -> None:
    """The shards' counts are what their tables hold."""
    for shard in database.shards:
        entries = [entry for table in database.tables for entry in table.values() if entry.home is shard]
        assert shard.count == len(entries)
        assert shard.bytes == sum(entry.weight for entry in entries)
        assert len(shard.wheel) == sum(1 for entry in entries if entry.life.wheel_s)
        if shard.policy is not None:
            shard.policy.check()


def test_every_key_lands_in_the_shard_of_its_slot() -> None:
    database = Database(0, 16)
    for number in range(1000):
        put(database, b"key:%d" % number)
    assert len(database) == 1000
    for number, table in enumerate(database.tables):
        for entry in table.values():
            assert database.table_of(entry.key) == number
            assert entry.home is database.shards[database.shard_number(entry.key)]
    assert min(shard.count for shard in database.shards) > 20
    check(database)


def test_find_counts_and_calls_for_attention_only_when_the_entry_cannot_answer() -> None:
    database = Database(0, 1)
    put(database, b"a")
    assert database.find(b"a") is not None
    assert (database.hits, database.misses, database.attention) == (1, 0, 0)
    assert database.find(b"b") is None
    assert (database.hits, database.misses, database.attention) == (1, 1, 1)
    entry = database.held(b"a")
    assert entry is not None
    # Soft: somebody should look, but the value is served.
    entry.soft_ms = 0
    assert database.find(b"a") is entry
    assert (database.hits, database.attention) == (2, 2)


def test_expired_key_is_gone_at_its_deadline_and_not_before() -> None:
    database = Database(0, 4)
    database.now_ms = 1000
    put(database, b"a", deadline_ms=1500)
    database.now_ms = 1499
    assert database.find(b"a") is not None
    database.now_ms = 1500
    assert database.find(b"a") is None
    assert (len(database), database.expired) == (0, 1)
    check(database)


def test_active_expiry_takes_what_is_due_in_slices() -> None:
    database = Database(0, 4)
    database.now_ms = 1000
    for number in range(1000):
        put(database, b"short:%d" % number, deadline_ms=2000)
        put(database, b"long:%d" % number, deadline_ms=1_000_000)
    database.now_ms = 3001
    assert database.expire_due(300) == 300
    assert len(database) == 1700
    while database.expire_due(300):
        pass
    assert len(database) == 1000
    assert database.volatile() == 1000
    check(database)


def test_deadline_that_moves_later_or_away_is_honoured_by_the_wheel() -> None:
    database = Database(0, 1)
    database.now_ms = 1000
    for key in (b"later", b"never", b"sooner"):
        put(database, key, deadline_ms=5000)
    for key, deadline_ms in ((b"later", 60_000), (b"never", NEVER), (b"sooner", 2000)):
        entry = database.edit(key)
        assert entry is not None
        database.set_deadline(entry, deadline_ms, b"expire")
    assert database.volatile() == 2
    database.now_ms = 10_000
    while database.expire_due(100):
        pass
    assert {entry.key for entry in database.entries()} == {b"later", b"never"}
    database.now_ms = 61_001
    while database.expire_due(100):
        pass
    assert {entry.key for entry in database.entries()} == {b"never"}
    check(database)


def test_key_set_with_a_ttl_again_and_again_is_in_the_wheel_once() -> None:
    database = Database(0, 1)
    for number in range(20_000):
        database.now_ms = number
        put(database, b"a", deadline_ms=number + 3_600_000)
    assert len(database.shards[0].wheel) == 1
    assert database.shards[0].wheel._records == 1
    # Deleted and made anew, it leaves its key behind each time; the wheel is rebuilt before that counts.
    for number in range(20_000):
        database.remove(b"a")
        put(database, b"a", deadline_ms=20_000 + number + 3_600_000)
        database.expire_due(10)
    assert database.shards[0].wheel._records < 10_000
    check(database)


def test_watchers_are_told_of_every_change_and_of_nothing_else() -> None:
    database = Database(0, 1)
    watching = Watching()
    put(database, b"a")
    database.watch(b"a", watching)
    database.find(b"a")
    put(database, b"b")
    assert watching.told == 0
    put(database, b"a")
    entry = database.edit(b"a")
    assert entry is not None
    database.set_deadline(entry, 10**6, b"expire")
    database.remove(b"a")
    assert watching.told == 3
    database.clear()
    assert watching.told == 4
    database.unwatch(b"a", watching)
    put(database, b"a")
    assert watching.told == 4
    assert database.watched == {}


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "noeviction"])
@pytest.mark.parametrize("volatile_only", [False, True])
def test_memory_limit_holds_under_every_policy(name: str, volatile_only: bool) -> None:
    chance = random.Random(1)
    keyspace = Keyspace(1, 4, chance)
    keyspace.tick(1000)
    database = keyspace.database(0)
    keyspace.limit(Terms(200_000, name, volatile_only))
    for number in range(5000):
        assert keyspace.make_room()
        deadline_ms = 10**9 + number if volatile_only or chance.random() < 0.5 else NEVER
        put(database, b"key:%d" % chance.randrange(3000), b"x" * chance.randrange(200), deadline_ms)
        database.find(b"key:%d" % chance.randrange(3000))
        if chance.random() < 0.1:
            database.remove(b"key:%d" % chance.randrange(3000))
    assert keyspace.make_room()
    assert keyspace.used() <= 200_000
    assert database.evicted > 1000
    check(database)


def test_of_the_writes_of_one_read_only_one_takes_a_whole_turn_to_make_room() -> None:
    looks = itertools.count()
    # Each look at the timer finds it 0.3 turns later.
    keyspace = Keyspace(1, 4, timer=lambda: next(looks) * TURN_S * 0.3)
    keyspace.limit(Terms(1_000_000, "lru"))
    database = keyspace.database(0)
    keyspace.tick(1000)
    for number in range(4000):
        put(database, b"key:%d" % number, b"x" * 80)
    held = keyspace.used()

    def evicted() -> int:
        before = database.evicted
        assert keyspace.make_room()
        return database.evicted - before

    keyspace.limit(Terms(held - held // 32, "lru"))
    assert [evicted() for _ in range(3)] == [24, 8, 8]
    keyspace.tick(1001)
    assert [evicted() for _ in range(3)] == [24, 8, 8]
    # The pulse does not wait for the next millisecond, and nobody does who is far over the limit.
    before = database.evicted
    assert keyspace.tidy()
    assert database.evicted == before + 24
    keyspace.limit(Terms(held // 2, "lru"))
    assert [evicted() for _ in range(3)] == [24, 24, 24]


def test_volatile_scope_without_volatile_keys_refuses_like_noeviction() -> None:
    keyspace = Keyspace(1, 4)
    keyspace.limit(Terms(10_000, "lru", True))
    for number in range(100):
        put(keyspace.database(0), b"key:%d" % number)
    assert not keyspace.make_room()
    assert len(keyspace.database(0)) == 100


def test_policy_may_change_while_keys_are_there() -> None:
    keyspace = Keyspace(1, 2)
    database = keyspace.database(0)
    for number in range(500):
        put(database, b"key:%d" % number)
    for name in ("lru", "s3-fifo", "lfu", "sieve", "noeviction", "w-tinylfu"):
        keyspace.limit(Terms(50_000, name))
        check(database)
        keyspace.make_room()
        check(database)
    while keyspace.tidy():
        check(database)
    assert keyspace.used() <= 50_000


def test_overlay_changes_nothing_until_it_is_published() -> None:
    base = Database(0, 1)
    put(base, b"a", b"old")
    base.put(b"h", HASH, {b"f": b"1"}, NEVER, b"hset")
    view = Overlay(base)
    view.put(b"a", STRING, b"new", NEVER, b"set")
    entry = view.edit(b"h")
    assert entry is not None and isinstance(entry.value, dict)
    entry.value[b"f"] = b"2"
    view.edited(entry, b"hset", [b"f"], 0)
    view.put(b"b", STRING, b"made", NEVER, b"set")
    assert view.remove(b"b")
    found = base.find(b"a")
    assert found is not None and found.value == b"old"
    held = base.held(b"h")
    assert held is not None and held.value == {b"f": b"1"}
    assert base.held(b"b") is None
    assert view.changes[b"h"].members == {b"f"}
    assert view.changes[b"h"].existed is True
    assert view.changes[b"a"].members is None
    for key in (b"a", b"h", b"b"):
        view.publish_plain(key)
    found = base.find(b"a")
    assert found is not None and found.value == b"new"
    held = base.held(b"h")
    assert held is not None and held.value == {b"f": b"2"}
    assert base.held(b"b") is None
    check(base)


# -- copies that are kept for stale serving ---------------------------------------------------------------------------


def lease(database: Database, key: bytes, until_ms: int, stale_ms: int) -> Lease:
    """Make a copy of a row of a key: it lapses at `until_ms` and may be served stale for `stale_ms` more."""
    prefix = ManagedPrefix(PrefixRule(Template("k:{id}")), None, Breaker("", SystemClock(), random.Random(0)))
    entry = database.install(key, STRING, b"v", until_ms)
    made = entry.lease = Lease(prefix, database.now_ms, 0.0, until_ms, until_ms)
    made.stale_until_ms = until_ms + stale_ms
    prefix.keys += 1
    database.refile(key)
    return made


def test_copy_past_its_time_is_kept_and_not_counted() -> None:
    database = Database(0, 2)
    put(database, b"plain")
    lease(database, b"k:1", 10_000, 60_000)
    assert (len(database), database.volatile()) == (2, 1)
    database.now_ms = 12_000
    assert database.expire_due(100) == 1
    assert database.held(b"k:1") is not None
    assert (len(database), database.volatile()) == (1, 0)
    assert database.expire_due(100) == 0
    check(database)
    database.now_ms = 72_000
    assert database.expire_due(100) == 1
    assert database.held(b"k:1") is None
    assert (len(database), database.expired) == (1, 1)
    check(database)


def test_reading_a_copy_past_its_time_takes_it_out_of_the_count_at_once() -> None:
    database = Database(0, 1)
    lease(database, b"k:1", 10_000, 60_000)
    database.now_ms = 10_000
    assert len(database) == 1
    assert database.find(b"k:1") is None
    assert (len(database), [entry.key for entry in database.entries()]) == (0, [])
    assert database.find(b"k:1") is None
    assert len(database) == 0


@pytest.mark.parametrize("how", ["renewed", "overwritten", "extended", "dropped", "cleared"])
def test_count_is_right_again_whatever_becomes_of_a_lapsed_copy(how: str) -> None:
    database = Database(0, 1)
    old = lease(database, b"k:1", 10_000, 60_000)
    database.now_ms = 12_000
    database.expire_due(100)
    assert len(database) == 0
    if how == "renewed":
        lease(database, b"k:1", 50_000, 1000)
    elif how == "overwritten":
        put(database, b"k:1")
    elif how == "extended":
        entry = database.held(b"k:1")
        assert entry is not None
        entry.deadline_ms = old.until_ms = old.stale_until_ms = 50_000
        database.refile(b"k:1")
    elif how == "dropped":
        database.drop(b"k:1")
    else:
        database.clear()
    assert len(database) == len(list(database.entries())) == (how not in ("dropped", "cleared"))
    database.now_ms = 80_000
    database.expire_due(100)
    assert len(database) == (how == "overwritten")
    check(database)


def test_unsaved_copy_past_its_time_is_counted_and_comes_up_once_a_second() -> None:
    database = Database(0, 1)
    lease(database, b"k:1", 10_000, 0).dirty_seq = 7
    for now_ms in (12_000, 13_000, 14_000):
        database.now_ms = now_ms
        assert database.expire_due(100) == 1
        assert database.expire_due(100) == 0
    assert len(database) == 1
    check(database)


@pytest.mark.parametrize("terms", [Terms(), Terms(64 << 20, "s3-fifo"), Terms(64 << 20, "lru", True)])
def test_copies_that_come_together_are_counted_filed_and_run_out_like_others(terms: Terms) -> None:
    keyspace = Keyspace(1, 4, random.Random(1))
    keyspace.limit(terms)
    database = keyspace.database(0)
    prefix = ManagedPrefix(PrefixRule(Template("user:")), None, Breaker("", SystemClock(), random.Random(1)))
    models = [Lease(prefix, 0, 1.0, ttl_ms, ttl_ms) for ttl_ms in (5_000, 8_000)]
    keys = [b"user:%d" % number for number in range(300)]
    put(database, keys[7])
    values: list[object] = [b"v%d" % number for number in range(300)]
    assert database.admit_together(STRING, keys, values, models, [4_000, 8_000]) == [7]
    check(database)
    assert (prefix.keys, len(database)) == (299, 300)
    copies = [entry for entry in database.entries() if entry.lease is not None]
    assert prefix.bytes == sum(entry.weight for entry in copies)
    # Each has a lease of its own, like one of the models.
    assert len({id(entry.lease) for entry in copies}) == 299
    assert {(entry.deadline_ms, entry.soft_ms) for entry in copies} == {(5_000, 4_000), (8_000, 8_000)}
    found = database.find(b"user:8")
    assert found is not None and found.value == b"v8"
    database.now_ms = 6_001
    database.expire_due(1000)
    check(database)
    assert {entry.deadline_ms for entry in database.entries()} == {8_000, NEVER}
    database.now_ms = 9_001
    database.expire_due(1000)
    check(database)
    assert (len(database), prefix.keys, prefix.bytes) == (1, 0, 0)
