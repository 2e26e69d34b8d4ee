"""SCAN and HSCAN: nobody who was there all the time is missed, whatever happens meanwhile."""

from __future__ import annotations

import random

import pytest

from protocol.replies import Error
from server import errors
from server.commands.scan import names_before
from tests.server.commands.workbench import Workbench


def walk(bench: Workbench, *options: bytes | str | int) -> list[bytes]:
    found: list[bytes] = []
    cursor = b"0"
    while True:
        reply = bench.run("SCAN", cursor, *options)
        assert isinstance(reply, list)
        cursor = reply[0]
        found += reply[1]
        if cursor == b"0":
            return found


@pytest.mark.parametrize("count", [1, 3, 10, 1000])
@pytest.mark.parametrize("keys", [0, 1, 5, 3000])
def test_scan_of_a_quiet_database_gives_every_key_once(keys: int, count: int) -> None:
    bench = Workbench()
    names = [b"%d" % at for at in range(keys)]
    for name in names:
        bench.run("SET", name, "")
    assert sorted(walk(bench, "COUNT", count)) == sorted(names)


def test_count_is_kept_though_all_keys_lie_in_one_table() -> None:
    bench = Workbench()
    for at in range(1000):
        bench.run("SET", f"{{tag}}{at}", "")
    cursor = b"0"
    calls = 0
    while True:
        reply = bench.run("SCAN", cursor, "COUNT", 7)
        assert isinstance(reply, list)
        assert len(reply[1]) <= 7
        calls += 1
        cursor = reply[0]
        if cursor == b"0":
            break
    assert calls == 1000 // 7 + 1


@pytest.mark.parametrize("seed", range(20))
def test_scan_misses_no_key_that_is_there_all_the_time(seed: int) -> None:
    bench = Workbench()
    generator = random.Random(seed)
    # Many in one table, some all over.
    lasting = {b"{t}%d" % at for at in range(150)} | {b"%d" % at for at in range(50)}
    passing = {b"{t}x%d" % at for at in range(150)} | {b"x%d" % at for at in range(50)}
    everything = list(lasting | passing)
    generator.shuffle(everything)
    for name in everything:
        bench.run("SET", name, "")
    found: set[bytes] = set()
    cursor = b"0"
    calls = 0
    while True:
        reply = bench.run("SCAN", cursor, "COUNT", 5)
        assert isinstance(reply, list)
        found.update(reply[1])
        cursor = reply[0]
        calls += 1
        assert calls < 1000
        if cursor == b"0":
            break
        for _ in range(5):
            bench.run(generator.choice(["DEL", "INCR"]), generator.choice(sorted(passing)))
            bench.run("SET", generator.choice(sorted(lasting)), generator.randrange(100))
        bench.run("SET", b"{t}new%d" % calls, "")
    assert lasting <= found


def test_scan_matches_and_types() -> None:
    bench = Workbench()
    bench.run("MSET", "a1", "", "a2", "", "b1", "")
    bench.run("HSET", "a3", "f", "v")
    assert sorted(walk(bench, "MATCH", "a*")) == [b"a1", b"a2", b"a3"]
    assert walk(bench, "type", "HASH") == [b"a3"]
    assert sorted(walk(bench, "TYPE", "string", "MATCH", "a?")) == [b"a1", b"a2"]
    assert walk(bench, "TYPE", "nonsense") == []


def test_scan_does_not_show_what_has_run_out() -> None:
    bench = Workbench()
    bench.run("PSETEX", "k", 5, "v")
    bench.pass_time(5)
    assert walk(bench) == []


@pytest.mark.parametrize("cursor", ["", "x", "-1", " 1", "1 ", "18446744073709551616", "1.5"])
def test_cursors_that_are_none(cursor: str) -> None:
    bench = Workbench()
    assert bench.run("SCAN", cursor) == errors.INVALID_CURSOR
    assert bench.run("HSCAN", "h", cursor) == errors.INVALID_CURSOR


@pytest.mark.parametrize("cursor", ["5", "1023", "1024", "18446744073709551615"])
def test_cursors_that_were_made_up_do_no_harm(cursor: str) -> None:
    bench = Workbench()
    bench.run("SET", "k", "v")
    reply = bench.run("SCAN", cursor)
    assert isinstance(reply, list)


@pytest.mark.parametrize(
    "options", [["COUNT"], ["COUNT", 0], ["COUNT", -1], ["MATCH"], ["TYPE"], ["junk"], ["COUNT", 1, "junk"]]
)
def test_scan_syntax(options: list[str | int]) -> None:
    assert Workbench().run("SCAN", 0, *options) == errors.SYNTAX


def test_scan_options_of_others() -> None:
    bench = Workbench()
    assert bench.run("SCAN", 0, "COUNT", "x") == errors.NOT_INTEGER
    assert bench.run("SCAN", 0, "NOVALUES") == Error("ERR NOVALUES option can only be used in HSCAN")
    bench.run("HSET", "h", "f", "v")
    assert bench.run("HSCAN", "h", 0, "TYPE", "hash") == errors.SYNTAX


# -- HSCAN ------------------------------------------------------------------------------------------------------------


def test_small_hashes_come_whole() -> None:
    bench = Workbench()
    bench.run("HSET", "h", *[word for at in range(100) for word in (at, at)])
    reply = bench.run("HSCAN", "h", 0, "COUNT", 1)
    assert isinstance(reply, list)
    assert reply[0] == b"0"
    assert len(reply[1]) == 200


def test_hscan_matches_and_leaves_out_values() -> None:
    bench = Workbench()
    bench.run("HSET", "h", "a", "1", "b", "2")
    assert bench.run("HSCAN", "h", 0, "MATCH", "a") == [b"0", [b"a", b"1"]]
    assert bench.run("HSCAN", "h", 0, "novalues") == [b"0", [b"a", b"b"]]


@pytest.mark.parametrize("seed", range(10))
def test_hscan_of_a_large_hash_misses_no_field_that_is_there_all_the_time(seed: int) -> None:
    bench = Workbench()
    generator = random.Random(seed)
    lasting = {b"%d" % at for at in range(1000)}
    passing = [b"x%d" % at for at in range(1000)]
    everything = [*lasting, *passing]
    generator.shuffle(everything)
    for name in everything:
        bench.run("HSET", "h", name, "")
    found: set[bytes] = set()
    cursor = b"0"
    calls = 0
    while True:
        reply = bench.run("HSCAN", "h", cursor, "COUNT", 20)
        assert isinstance(reply, list)
        assert len(reply[1]) <= 40
        found.update(reply[1][::2])
        cursor = reply[0]
        calls += 1
        assert calls < 300
        if cursor == b"0":
            break
        bench.run("HDEL", "h", *generator.sample(passing, 10))
        bench.run("HSET", "h", b"new%d" % calls, "", generator.choice(sorted(lasting)), "changed")
    assert lasting <= found


def scanned(bench: Workbench, command: str, *options: str | int) -> tuple[int, list[object]]:
    """A whole scan of `h`: how many calls it took, and what came."""
    calls = 0
    cursor = b"0"
    found: list[object] = []
    while True:
        reply = bench.run(command, "h", cursor, *options)
        assert isinstance(reply, list)
        calls += 1
        found += reply[1]
        cursor = reply[0]
        if cursor == b"0":
            return calls, found


@pytest.mark.parametrize("command", ["HSCAN", "ZSCAN", "SSCAN"])
def test_scan_of_a_huge_value_keeps_to_count(command: str) -> None:
    bench = Workbench()
    if command == "HSCAN":
        bench.run("HSET", "h", *[word for at in range(20_000) for word in (at, "")])
    elif command == "ZSCAN":
        bench.run("ZADD", "h", *[word for at in range(20_000) for word in (at, at)])
    else:
        bench.run("SADD", "h", *range(20_000))
    calls, found = scanned(bench, command, "COUNT", 100)
    assert calls == 200
    assert len(set(found[:: 1 if command == "SSCAN" else 2])) == 20_000


def test_scan_of_a_huge_hash_without_an_index_takes_a_bounded_number_of_calls() -> None:
    bench = Workbench()
    bench.run("HSET", "h", *[word for at in range(20_000) for word in (at, "")])
    bench.run("HEXPIRE", "h", 1000, "FIELDS", 1, 7)
    calls, found = scanned(bench, "HSCAN", "COUNT", 1, "NOVALUES")
    assert calls <= 256
    assert len(found) == 20_000


@pytest.mark.parametrize("command", ["HSCAN", "ZSCAN"])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_there_all_the_time_is_found_while_the_value_changes(command: str, seed: int) -> None:
    generator = random.Random(seed)
    bench = Workbench()

    def put(name: int) -> None:
        bench.run(*(("HSET", "h", name, "v") if command == "HSCAN" else ("ZADD", "h", generator.random(), name)))

    for name in range(3000):
        put(name)
    cursor: object = b"0"
    found: set[object] = set()
    while True:
        reply = bench.run(command, "h", cursor, "COUNT", 50)
        assert isinstance(reply, list)
        found.update(reply[1][::2])
        cursor = reply[0]
        if cursor == b"0":
            break
        for _ in range(40):
            # The upper half comes and goes.
            name = generator.randrange(1500, 5000)
            if generator.random() < 0.5:
                put(name)
            elif command == "HSCAN":
                bench.run("HDEL", "h", name)
            else:
                bench.run("ZREM", "h", name)
            if command == "HSCAN":
                bench.run("HRANDFIELD", "h")
    assert {b"%d" % name for name in range(1500)} <= found
    bench.check()
    value = bench.base.held(b"h").value  # type: ignore[union-attr]
    places = value.places if command == "HSCAN" else value._places  # type: ignore[attr-defined]
    places.check()


@pytest.mark.parametrize("left", [0, 1, 5, 9, 10])
@pytest.mark.parametrize("count", [1, 3, 10, 99])
def test_names_before_a_place(left: int, count: int) -> None:
    table = {b"%d" % at: None for at in range(10)}
    assert sorted(names_before(table, left, count)) == list(table)[max(0, left - count) : left]
