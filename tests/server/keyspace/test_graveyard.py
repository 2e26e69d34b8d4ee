"""What keys let go of is freed a little at a time, unless somebody else still holds it."""

from __future__ import annotations

import gc
import random

import pytest

from eviction.registry import POLICIES
from persistence.change import HASH, LIST, NEVER, SET, STREAM, STRING, ZSET
from server.keyspace.database import Database
from server.keyspace.entry import Entry
from server.keyspace.keyspace import Keyspace
from server.keyspace.terms import Terms
from server.keyspace.values.sorted_set import SortedSet
from server.keyspace.values.stream import Consumer, Group, Stream

_MEMBERS = 5000
_NAMES = [b"%06d" % number for number in range(_MEMBERS)]


def _sorted_set() -> SortedSet:
    value = SortedSet({})
    for number, name in enumerate(_NAMES):
        value.put(name, float(number))
    return value


def _stream() -> Stream:
    value = Stream()
    for number, name in enumerate(_NAMES, 1):
        value.append(number, [b"field", name])
    group = value.groups[b"g"] = Group(b"g", 0, 0)
    consumer = group.consumers[b"c"] = Consumer(b"c", 0)
    for number in range(1, 500):
        group.assign(number, consumer, 0, 1)
    return value


BIG = {
    "set": (SET, lambda: set(_NAMES)),
    "hash": (HASH, lambda: dict.fromkeys(_NAMES, b"value")),
    "list": (LIST, lambda: list(_NAMES)),
    "sorted set": (ZSET, _sorted_set),
    "stream": (STREAM, _stream),
}


@pytest.fixture
def database() -> Database:
    keyspace = Keyspace(1, 1)
    keyspace.tick(1000)
    return keyspace.database(0)


def _slices(database: Database, budget: int) -> int:
    # So many slices it takes until nothing is left.
    count = 1
    while database.graveyard.dig(budget):
        count += 1
    assert len(database.graveyard) == 0
    return count


@pytest.mark.parametrize("name", BIG)
def test_a_big_value_that_is_deleted_is_freed_in_slices(database: Database, name: str) -> None:
    kind, make = BIG[name]
    database.put(b"key", kind, make(), NEVER, b"")
    database.remove(b"key")
    assert len(database.graveyard) == 1
    # Blocks of a list or a stream go as one: some slices are larger.
    assert _slices(database, 500) >= 4


@pytest.mark.parametrize("name", BIG)
def test_a_big_value_that_is_overwritten_is_freed_in_slices(database: Database, name: str) -> None:
    kind, make = BIG[name]
    database.put(b"key", kind, make(), NEVER, b"")
    database.put(b"key", STRING, b"short", NEVER, b"")
    assert _slices(database, 500) >= 4


@pytest.mark.parametrize("name", BIG)
def test_a_value_that_somebody_still_holds_stays_whole(database: Database, name: str) -> None:
    kind, make = BIG[name]
    held = database.put(b"key", kind, make(), NEVER, b"").value
    database.remove(b"key")
    _slices(database, 500)
    assert len(held) == _MEMBERS  # type: ignore[arg-type]


def test_a_set_whose_members_alone_are_held_keeps_them(database: Database) -> None:
    value = database.put(b"key", SET, set(_NAMES), NEVER, b"").value
    members = value.members  # type: ignore[attr-defined]
    del value
    database.remove(b"key")
    _slices(database, 500)
    assert len(members) == _MEMBERS


def test_a_value_that_moves_to_another_key_stays_whole(database: Database) -> None:
    entry = database.put(b"old", HASH, dict.fromkeys(_NAMES, b"value"), NEVER, b"")
    value = entry.value
    del entry
    database.remove(b"old")
    database.put(b"new", HASH, value, NEVER, b"")
    del value
    _slices(database, 500)
    moved = database.find(b"new")
    assert moved is not None and len(moved.value) == _MEMBERS  # type: ignore[arg-type]


def test_small_values_and_long_strings_are_freed_at_once(database: Database) -> None:
    database.put(b"small", SET, {b"a", b"b"}, NEVER, b"")
    database.put(b"long", STRING, b"x" * 1_000_000, NEVER, b"")
    database.remove(b"small")
    database.remove(b"long")
    assert len(database.graveyard) == 0


def test_clearing_a_database_frees_its_keys_in_slices_and_big_values_among_them_too(database: Database) -> None:
    for name in _NAMES:
        database.put(name, STRING, b"value", NEVER, b"")
    database.put(b"big", SET, set(_NAMES), NEVER, b"")
    assert database.clear() == _MEMBERS + 1
    assert len(database) == 0 and database.find(_NAMES[0]) is None
    database.put(_NAMES[0], STRING, b"later", NEVER, b"")
    # Three objects a key, and the members of the set.
    assert _slices(database, 1000) >= (3 * _MEMBERS + _MEMBERS) // 1100
    assert len(database) == 1


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "noeviction"])
def test_what_had_cleared_keys_in_order_is_freed_in_slices_too(policy: str) -> None:
    keyspace = Keyspace(1, 4, random.Random(1))
    keyspace.limit(Terms(1 << 30, policy, False, False))
    keyspace.tick(1000)
    database = keyspace.database(0)
    for number, name in enumerate(_NAMES):
        deadline_ms = 10_000 + number % 7 * 1000 if number % 2 else NEVER
        database.put(name, STRING, b"value", deadline_ms, b"")
        if number % 10 == 0:
            database.remove(name)
    held = 9 * _MEMBERS // 10
    assert database.clear() == held
    # Three objects a key, its place in the policy, and for every second one that in the wheel.
    assert _slices(database, 500) >= (4 * held + held // 2) // 600
    shards = database.shards
    assert not [found for found in gc.get_objects() if type(found) is Entry and found.home in shards]


@pytest.mark.parametrize("policy", ["s3-fifo", "lru"])
def test_a_deleted_value_is_not_kept_by_the_record_that_a_policy_has_of_its_key(policy: str) -> None:
    keyspace = Keyspace(1, 1)
    keyspace.limit(Terms(1 << 30, policy, False, False))
    database = keyspace.database(0)
    database.put(b"key", SET, set(_NAMES), NEVER, b"")
    database.remove(b"key")
    assert _slices(database, 500) >= 4


def _collect_all() -> None:
    # What finalizers of other tests' garbage let go of is found by the next visit.
    while gc.collect():
        pass


def test_pending_entries_and_consumers_of_a_deleted_stream_are_no_circle(database: Database) -> None:
    stream = Stream()
    stream.append(1, [b"field", b"value"])
    group = stream.groups[b"g"] = Group(b"g", 0, 0)
    group.assign(1, group.consumers.setdefault(b"c", Consumer(b"c", 0)), 0, 1)
    database.put(b"key", STREAM, stream, NEVER, b"")
    del stream, group
    _collect_all()
    gc.disable()
    try:
        database.remove(b"key")
        _slices(database, 500)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_dismissed_consumer_is_no_circle_with_what_was_pending() -> None:
    group = Group(b"g", 0, 0)
    group.assign(1, group.consumers.setdefault(b"c", Consumer(b"c", 0)), 0, 1)
    _collect_all()
    gc.disable()
    try:
        assert group.dismiss(group.consumers[b"c"]) == 1
        assert gc.collect() == 0
    finally:
        gc.enable()
