"""The expiry wheel against a plain dictionary: what comes up, when, and that leftovers do not pile up."""

from __future__ import annotations

import random

import pytest

from persistence.change import NEVER, STRING
from server.keyspace.database import Database
from server.keyspace.expiry import ExpiryWheel


def put(database: Database, key: bytes, deadline_ms: int) -> None:
    database.put(key, STRING, b"v", deadline_ms, b"set")


def records(wheel: ExpiryWheel) -> int:
    """Keys in all buckets, those of the one that is being swept included."""
    return sum(map(len, wheel._buckets.values())) + len(wheel._kept)


@pytest.mark.parametrize("seed", range(4))
def test_keys_run_out_when_they_should_whatever_is_swept_meanwhile(seed: int) -> None:
    chance = random.Random(seed)
    database = Database(0, 2)
    deadlines: dict[bytes, int] = {}
    for _ in range(3000):
        database.now_ms += chance.randrange(30)
        key = b"%d" % chance.randrange(200)
        dice = chance.random()
        if dice < 0.6:
            deadline_ms = NEVER if chance.random() < 0.2 else database.now_ms + chance.randrange(1, 8000)
            put(database, key, deadline_ms)
            deadlines[key] = deadline_ms
        elif dice < 0.8:
            database.remove(key)
            deadlines.pop(key, None)
        elif dice < 0.9:
            database.expire_due(chance.randrange(1, 50))
        else:
            # As if the wheel were crowded, at any moment.
            for shard in database.shards:
                if records(shard.wheel):
                    database._sweep(shard, chance.randrange(1, 40))
        for shard in database.shards:
            assert shard.wheel._records == records(shard.wheel)
    while database.expire_due(1000):
        pass
    # Exact to a second.
    second_ms = database.now_ms // 1000 * 1000
    held = {entry.key for table in database.tables for entry in table.values()}
    assert held >= {key for key, deadline_ms in deadlines.items() if deadline_ms > database.now_ms}
    assert not held & {key for key, deadline_ms in deadlines.items() if deadline_ms < second_ms}
    for shard in database.shards:
        filed = [
            entry for table in database.tables for entry in table.values() if entry.home is shard and entry.life.wheel_s
        ]
        assert len(shard.wheel) == len(filed)
        for entry in filed:
            bucket = list(shard.wheel._buckets.get(entry.life.wheel_s, []))
            assert entry.key in bucket + shard.wheel._kept


def test_leftovers_are_swept_while_nothing_is_due() -> None:
    database = Database(0, 1)
    for number in range(20_000):
        put(database, b"%d" % number, 10_000_000 + number % 50 * 1000)
    for number in range(19_000):
        database.remove(b"%d" % number)
    wheel = database.shards[0].wheel
    assert records(wheel) == 20_000
    looked = database.expire_due(1000)
    assert looked == 1000
    while database.expire_due(1000):
        pass
    assert records(wheel) <= 2 * 1000 + 4096
    assert len(wheel) == len(database) == 1000


def test_seconds_whose_keys_were_all_swept_are_passed_over() -> None:
    database = Database(0, 1)
    wheel = database.shards[0].wheel
    for number in range(20_000):
        put(database, b"%d" % number, 1_000_000 + number * 1000)
    put(database, b"last", 30_000_000)
    for number in range(20_000):
        database.remove(b"%d" % number)
    while database.expire_due(1000):
        pass
    # What the sweeping has left over: few buckets, and not many more seconds in the heap.
    assert len(wheel._seconds) <= 2 * len(wheel._buckets) + 4096
    assert set(wheel._buckets) <= set(wheel._seconds)
    # A second that comes back has its keys looked at once.
    put(database, b"again", 1_000_500)
    put(database, b"again", NEVER)
    put(database, b"again", 1_000_600)
    database.now_ms = 29_000_000
    while database.expire_due(1000):
        pass
    assert [entry.key for table in database.tables for entry in table.values()] == [b"last"]
    assert (len(wheel), database.expired) == (1, 1)
    assert wheel._records == records(wheel) == 1


def test_one_slice_of_a_crowded_second_takes_no_more_than_its_share() -> None:
    database = Database(0, 1)
    for number in range(5000):
        put(database, b"%d" % number, 500)
    database.now_ms = 2000
    for left in (4000, 3000, 2000, 1000, 0):
        assert database.expire_due(1000) == 1000
        assert len(database) == left
    assert database.expire_due(1000) == 0
