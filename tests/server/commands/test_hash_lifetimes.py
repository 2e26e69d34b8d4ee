"""Lifetimes of hash fields: what each command answers, what expired fields are to others, and who takes them out."""

from __future__ import annotations

import pytest

from persistence.field_lifetimes import ExpiringHash
from protocol.replies import Error, Map
from server.keyspace.keyspace import EXPIRE_SLICE
from tests.server.commands.workbench import OFFSET_MS, START_MS, Workbench

NOW_MS = START_MS + OFFSET_MS


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Workbench:
    bench = Workbench(request.param)
    bench.run("HSET", "h", "f", 1, "g", 2, "i", 3)
    return bench


def expire(bench: Workbench, *fields: str, seconds: int = 10) -> object:
    return bench.run("HEXPIRE", "h", seconds, "FIELDS", len(fields), *fields)


# -- replies ----------------------------------------------------------------------------------------------------------


def test_each_field_has_its_own_reply(bench: Workbench) -> None:
    assert expire(bench, "f", "nosuch", "g") == [1, -2, 1]
    assert bench.run("HTTL", "h", "FIELDS", 4, "f", "g", "i", "nosuch") == [10, 10, -1, -2]
    assert bench.run("HPTTL", "h", "FIELDS", 1, "f") == [10_000]
    assert bench.run("HEXPIRETIME", "h", "FIELDS", 1, "f") == [(NOW_MS + 10_000 + 999) // 1000]
    assert bench.run("HPEXPIRETIME", "h", "FIELDS", 1, "f") == [NOW_MS + 10_000]
    bench.check()


def test_seconds_that_are_left_are_rounded_up(bench: Workbench) -> None:
    bench.run("HPEXPIRE", "h", 1001, "FIELDS", 1, "f")
    assert bench.run("HTTL", "h", "FIELDS", 1, "f") == [2]
    bench.pass_time(1)
    assert bench.run("HTTL", "h", "FIELDS", 1, "f") == [1]


@pytest.mark.parametrize(
    "words", [("HEXPIRE", 10), ("HPEXPIRE", 10), ("HEXPIREAT", 1 << 32), ("HPEXPIREAT", NOW_MS + 5)]
)
def test_absent_key_answers_for_each_field(bench: Workbench, words: tuple[str, int]) -> None:
    assert bench.run(words[0], "nosuch", words[1], "FIELDS", 2, "f", "g") == [-2, -2]
    assert bench.run("HTTL", "nosuch", "FIELDS", 2, "f", "g") == [-2, -2]
    assert bench.run("HPERSIST", "nosuch", "FIELDS", 1, "f") == [-2]


def test_points_in_time_are_wall_clock_times(bench: Workbench) -> None:
    assert bench.run("HPEXPIREAT", "h", NOW_MS + 70, "FIELDS", 1, "f") == [1]
    assert bench.run("HEXPIREAT", "h", NOW_MS // 1000 + 60, "FIELDS", 1, "g") == [1]
    assert bench.run("HPTTL", "h", "FIELDS", 2, "f", "g") == [70, 60_000 - NOW_MS % 1000]


@pytest.mark.parametrize(
    ("condition", "without", "sooner", "later"),
    [("NX", 1, 0, 0), ("XX", 0, 1, 1), ("GT", 0, 0, 1), ("LT", 1, 1, 0), ("gt", 0, 0, 1)],
)
def test_condition_decides_by_field(bench: Workbench, condition: str, without: int, sooner: int, later: int) -> None:
    expire(bench, "f", seconds=100)
    assert bench.run("HEXPIRE", "h", 50, condition, "FIELDS", 2, "f", "g") == [sooner, without]
    bench.run("HEXPIRE", "h", 100, "FIELDS", 1, "f")
    assert bench.run("HEXPIRE", "h", 200, condition, "FIELDS", 1, "f") == [later]
    bench.run("HEXPIRE", "h", 100, "FIELDS", 1, "f")
    equal = bench.run("HEXPIRE", "h", 100, condition, "FIELDS", 1, "f")
    assert equal == [1 if condition == "XX" else 0]


def test_deadline_in_the_past_deletes_at_once(bench: Workbench) -> None:
    assert bench.run("HEXPIREAT", "h", 1, "FIELDS", 3, "f", "nosuch", "f") == [2, -2, -2]
    assert bench.run("HEXPIRE", "h", 0, "FIELDS", 1, "g") == [2]
    assert bench.run("HGETALL", "h") == Map([(b"i", b"3")])
    assert bench.run("HPEXPIRE", "h", 0, "GT", "FIELDS", 1, "i") == [0]
    assert bench.run("HPEXPIRE", "h", 0, "FIELDS", 1, "i") == [2]
    assert bench.run("EXISTS", "h") == 0
    bench.check()


def test_persist_takes_the_lifetime_away(bench: Workbench) -> None:
    expire(bench, "f")
    assert bench.run("HPERSIST", "h", "FIELDS", 3, "f", "g", "nosuch") == [1, -1, -2]
    assert bench.run("HPERSIST", "h", "FIELDS", 1, "f") == [-1]
    bench.pass_time(20_000)
    assert bench.run("HLEN", "h") == 3
    bench.check()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("HEXPIRE", "h", "x", "FIELDS", 1, "f"), "ERR value is not an integer or out of range"),
        (("HEXPIRE", "h", -1, "FIELDS", 1, "f"), "ERR invalid expire time, must be >= 0"),
        (("HEXPIRE", "h", 1 << 46, "FIELDS", 1, "f"), "ERR invalid expire time in 'hexpire' command"),
        (("HPEXPIREAT", "h", 1 << 46, "FIELDS", 1, "f"), "ERR invalid expire time in 'hpexpireat' command"),
        (("HEXPIRE", "h", 1, "FIELDS", 1), "ERR wrong number of arguments for 'hexpire' command"),
        (
            ("HEXPIRE", "h", 1, "NX", "FIELD", 1, "f"),
            "ERR Mandatory argument FIELDS is missing or not at the right position",
        ),
        (("HEXPIRE", "h", 1, "FIELDS", 0, "f"), "ERR Parameter `numFields` should be greater than 0"),
        (("HEXPIRE", "h", 1, "FIELDS", "x", "f"), "ERR Parameter `numFields` should be greater than 0"),
        (("HEXPIRE", "h", 1, "FIELDS", 2, "f"), "ERR The `numfields` parameter must match the number of arguments"),
        (("HTTL", "h", "FIELDS", 0, "f"), "ERR Number of fields must be a positive integer"),
        (("HTTL", "h", "FIELDS", 1, "f", "g"), "ERR The `numfields` parameter must match the number of arguments"),
        (("HPERSIST", "h", "X", 1, "f"), "ERR Mandatory argument FIELDS is missing or not at the right position"),
        (("HTTL", "s", "FIELDS", 1, "f"), "WRONGTYPE Operation against a key holding the wrong kind of value"),
        (("HEXPIRE", "s", "x", "FIELDS", 1, "f"), "WRONGTYPE Operation against a key holding the wrong kind of value"),
    ],
)
def test_bad_arguments_are_refused(bench: Workbench, words: tuple[object, ...], message: str) -> None:
    bench.run("SET", "s", "x")
    assert bench.run(*words) == Error(message)


# -- expired fields ---------------------------------------------------------------------------------------------------

READS = [
    (("HGET", "h", "f"), None),
    (("HMGET", "h", "f", "g"), [None, b"2"]),
    (("HGETALL", "h"), Map([(b"g", b"2"), (b"i", b"3")])),
    (("HKEYS", "h"), [b"g", b"i"]),
    (("HVALS", "h"), [b"2", b"3"]),
    (("HLEN", "h"), 2),
    (("HEXISTS", "h", "f"), 0),
    (("HSTRLEN", "h", "f"), 0),
    (("HSCAN", "h", 0), [b"0", [b"g", b"2", b"i", b"3"]]),
    (("HRANDFIELD", "h", 10), [b"g", b"i"]),
    (("HTTL", "h", "FIELDS", 1, "f"), [-2]),
    (("HDEL", "h", "f"), 0),
    (("HSETNX", "h", "f", "new"), 1),
    (("HINCRBY", "h", "f", 5), 5),
    (("HINCRBYFLOAT", "h", "f", 5), b"5"),
    (("HSET", "h", "f", "new"), 1),
]


@pytest.mark.parametrize(("words", "reply"), READS, ids=[words[0] for words, _ in READS])
def test_expired_field_is_not_there(bench: Workbench, words: tuple[object, ...], reply: object) -> None:
    expire(bench, "f")
    bench.pass_time(10_000)
    assert bench.run(*words) == reply
    bench.check()


GONE = [
    (("HGET", "h", "f"), None),
    (("HMGET", "h", "f"), [None]),
    (("HGETALL", "h"), Map([])),
    (("HLEN", "h"), 0),
    (("HRANDFIELD", "h"), None),
    (("HRANDFIELD", "h", -3), []),
    (("HSCAN", "h", 0), [b"0", []]),
    (("HDEL", "h", "f"), 0),
    (("HTTL", "h", "FIELDS", 1, "f"), [-2]),
    (("HPERSIST", "h", "FIELDS", 1, "f"), [-2]),
    (("HEXPIRE", "h", 1, "FIELDS", 1, "f"), [-2]),
    (("HSET", "h", "new", "1"), 1),
    (("HSETNX", "h", "f", "1"), 1),
    (("HINCRBY", "h", "f", 1), 1),
    (("HINCRBYFLOAT", "h", "f", 1), b"1"),
]


@pytest.mark.parametrize(("words", "reply"), GONE, ids=[words[0] for words, _ in GONE])
def test_key_goes_with_its_last_field(bench: Workbench, words: tuple[object, ...], reply: object) -> None:
    expire(bench, "f", "g", "i")
    bench.pass_time(10_000)
    assert bench.run(*words) == reply
    written = words[0] in ("HSET", "HSETNX", "HINCRBY", "HINCRBYFLOAT")
    assert bench.run("EXISTS", "h") == int(written)
    assert bench.run("HLEN", "h") == int(written)
    assert bench.run("TTL", "h") == (-1 if written else -2)
    bench.check()


def test_new_value_takes_the_lifetime_away_and_an_increment_leaves_it(bench: Workbench) -> None:
    expire(bench, "f", "g", "i")
    bench.run("HSET", "h", "f", "new")
    bench.run("HINCRBY", "h", "g", 1)
    bench.run("HINCRBYFLOAT", "h", "i", 1)
    assert bench.run("HTTL", "h", "FIELDS", 3, "f", "g", "i") == [-1, 10, 10]
    bench.run("HDEL", "h", "g")
    bench.run("HSET", "h", "g", 1)
    assert bench.run("HTTL", "h", "FIELDS", 1, "g") == [-1]
    bench.pass_time(10_000)
    assert bench.run("HKEYS", "h") == [b"f", b"g"]
    bench.check()


def test_lifetimes_travel_with_the_value(bench: Workbench) -> None:
    expire(bench, "f")
    bench.run("COPY", "h", "copy")
    bench.run("RENAME", "h", "renamed")
    for key in ("copy", "renamed"):
        assert bench.run("HTTL", key, "FIELDS", 2, "f", "g") == [10, -1]
    bench.run("HPERSIST", "copy", "FIELDS", 1, "f")
    assert bench.run("HTTL", "renamed", "FIELDS", 1, "f") == [10]
    bench.check()


def test_encoding_tells_of_lifetimes(bench: Workbench) -> None:
    assert bench.run("OBJECT", "ENCODING", "h") == b"listpack"
    expire(bench, "f")
    assert bench.run("OBJECT", "ENCODING", "h") == b"listpackex"


# -- the active cycle -------------------------------------------------------------------------------------------------


def cycle(bench: Workbench, budget: int = EXPIRE_SLICE) -> int:
    return bench.base.expire_fields_due(bench.base.now_ms + OFFSET_MS, budget)


def test_active_cycle_takes_out_fields_that_nobody_asks_for() -> None:
    bench = Workbench()
    bench.run("HSET", "h", "f", 1, "g", 2)
    bench.run("HPEXPIRE", "h", 50, "FIELDS", 1, "f")
    bench.run("HPEXPIRE", "h", 90, "FIELDS", 1, "g")
    bench.pass_time(49)
    assert cycle(bench) == 0
    bench.pass_time(1)
    assert cycle(bench) == 1
    held = bench.base.held(b"h")
    assert held is not None
    assert isinstance(held.value, ExpiringHash)
    assert dict(held.value) == {b"g": b"2"}
    bench.pass_time(40)
    assert cycle(bench) == 1
    assert bench.base.held(b"h") is None
    assert len(bench.base.fields) == 0
    bench.check()


def test_active_cycle_keeps_to_its_budget() -> None:
    bench = Workbench()
    for number in range(10):
        bench.run("HSET", number, "f", 1)
        bench.run("HPEXPIRE", number, 50, "FIELDS", 1, "f")
    bench.pass_time(50)
    assert cycle(bench, 4) == 4
    assert len(bench.base) == 6
    assert cycle(bench) == 6
    assert len(bench.base) == 0


def test_records_of_deleted_keys_do_not_pile_up() -> None:
    bench = Workbench()
    for number in range(5000):
        bench.run("HSET", number, "f", 1)
        bench.run("HEXPIRE", number, 10_000, "FIELDS", 1, "f")
        bench.run("DEL", number)
        if not number % 100:
            cycle(bench)
    assert len(bench.base.fields) <= 1200


def test_swapped_and_emptied_databases_keep_their_lifetimes_apart() -> None:
    bench = Workbench()
    bench.run("HSET", "h", "f", 1)
    bench.run("HPEXPIRE", "h", 50, "FIELDS", 1, "f")
    bench.server.keyspace.swap(0, 1)
    bench.pass_time(50)
    assert cycle(bench) == 0
    other = bench.server.keyspace.database(1)
    assert other.expire_fields_due(other.now_ms + OFFSET_MS, 10) == 1
    assert len(other) == 0
    bench.run("HSET", "h", "f", 1)
    bench.run("HPEXPIRE", "h", 50, "FIELDS", 1, "f")
    bench.base.clear()
    assert len(bench.base.fields) == 0


def test_watcher_learns_that_a_field_ran_out() -> None:
    class Watcher:
        count = 0

        def touched(self) -> None:
            self.count += 1

    bench = Workbench()
    bench.run("HSET", "h", "f", 1, "g", 2)
    bench.run("HPEXPIRE", "h", 50, "FIELDS", 1, "f")
    watcher = Watcher()
    bench.base.watch(b"h", watcher)
    bench.pass_time(50)
    cycle(bench)
    assert watcher.count == 1


# -- the value --------------------------------------------------------------------------------------------------------


def test_hash_with_lifetimes_equals_only_the_same_one() -> None:
    fields = {b"f": b"1", b"g": b"2"}
    assert ExpiringHash(fields, {b"f": 5}) == ExpiringHash(fields, {b"f": 5})
    assert ExpiringHash(fields, {b"f": 5}) != ExpiringHash(fields, {b"f": 6})
    assert ExpiringHash(fields, {b"f": 5}) != fields
    assert fields != ExpiringHash(fields, {b"f": 5})
    assert ExpiringHash(fields, {}) == fields
    assert (ExpiringHash(fields, {}) != fields) is False


def test_deadlines_that_move_do_not_fill_the_heap() -> None:
    value = ExpiringHash({b"f": b"1"}, {})
    for deadline_ms in range(10_000, 0, -1):
        value.expire(b"f", deadline_ms)
    assert value.soonest_ms() == 1
    assert value.take_due(1) == [(b"f", b"1")]
    assert len(value._heap) <= 80
