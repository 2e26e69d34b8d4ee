"""HyperLogLogs: the same strings, byte for byte, as a real Redis makes of the same commands; damaged ones refused."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from protocol.replies import OK, Error
from server.keyspace.values.hyperloglog import (
    REGISTERS,
    add,
    cached_estimate,
    empty,
    estimate,
    highest,
    is_dense,
    is_valid,
    merge,
    spread,
)
from tests.server.commands.test_against_redis import Redis, redis_port  # noqa: F401 - a fixture
from tests.server.commands.workbench import Workbench

NOT_ONE = Error("WRONGTYPE Key is not a valid HyperLogLog string value.")
CORRUPTED = Error("INVALIDOBJ Corrupted HLL object detected")


@pytest.fixture(scope="module")
def redis(redis_port: int) -> Iterator[Redis]:  # noqa: F811
    connection = Redis(redis_port, 2)
    yield connection
    connection.close()


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Workbench:
    return Workbench(request.param)


# -- against a real one -----------------------------------------------------------------------------------------------


def commands(seed: int) -> list[list[bytes]]:
    generator = random.Random(seed)
    keys = [b"a", b"b", b"c", b"d"]
    # Few elements stay sparse, many pass through the change to dense.
    most = generator.choice([3, 40, 300])
    found: list[list[bytes]] = []
    for _ in range(40):
        elements = [b"%d" % generator.randrange(100_000) for _ in range(generator.randint(0, most))]
        key = generator.choice(keys)
        found += [[b"PFADD", key, *elements], [b"GET", key]]
        luck = generator.random()
        if luck < 0.2:
            found += [[b"PFMERGE", key, *generator.choices([*keys, b"nosuch"], k=2)], [b"GET", key]]
        elif luck < 0.4:
            found += [[b"PFCOUNT", key], [b"GET", key], [b"PFCOUNT", key]]
        elif luck < 0.5:
            found.append([b"PFCOUNT", *keys])
        elif luck < 0.55:
            found += [[b"PFCOUNT", b"nosuch"], [b"PFADD", b"fresh"], [b"GET", b"fresh"], [b"DEL", b"fresh"]]
    return found


@pytest.mark.parametrize("seed", range(12))
def test_values_and_estimates_are_those_of_redis(redis: Redis, seed: int) -> None:
    bench = Workbench()
    run = commands(seed)
    for argv, their in zip(run, redis.run([[b"FLUSHALL"], *run])[1:], strict=True):
        assert bench.wire(*argv) == their, argv[:3]
    bench.check()


def test_value_goes_to_redis_and_comes_back(redis: Redis) -> None:
    bench = Workbench()
    for count in (10, 20_000):
        bench.run("DEL", "k")
        bench.run("PFADD", "k", *range(count))
        ours = bench.run("GET", "k")
        assert isinstance(ours, bytes)
        more = [b"more %d" % number for number in range(50)]
        theirs = redis.run([[b"FLUSHALL"], [b"SET", b"k", ours], [b"PFCOUNT", b"k"], [b"PFADD", b"k", *more]])
        assert theirs[2:] == [b":%d\r\n" % bench.run("PFCOUNT", "k"), b":1\r\n"]  # type: ignore[str-format]
        *_, back = redis.run([[b"GET", b"k"]])
        bench.run("SET", "k", back.partition(b"\r\n")[2][:-2])
        assert bench.run("PFADD", "k", *more) == 0


# -- by ourselves -----------------------------------------------------------------------------------------------------


def test_estimate_is_close(bench: Workbench) -> None:
    for count in (1, 10, 100, 1000, 10_000, 50_000):
        bench.run("DEL", "k")
        bench.run("PFADD", "k", *range(count))
        found = bench.run("PFCOUNT", "k")
        assert isinstance(found, int)
        assert abs(found - count) <= 0.03 * count


def test_only_what_changes_a_register_is_told(bench: Workbench) -> None:
    assert bench.run("PFADD", "k") == 1
    assert bench.run("PFADD", "k") == 0
    assert bench.run("PFADD", "k", "x", "y") == 1
    assert bench.run("PFADD", "k", "x", "y") == 0
    bench.check()


def test_lifetime_stays(bench: Workbench) -> None:
    bench.run("PFADD", "k", "x")
    bench.run("EXPIRE", "k", 100)
    bench.run("PFADD", "k", "y")
    bench.run("PFMERGE", "k", "nosuch")
    assert bench.run("TTL", "k") == 100


def test_estimate_is_noted_in_the_value_without_a_change() -> None:
    bench = Workbench()
    bench.run("PFADD", "k", "x")
    before = bench.base.mutations
    assert bench.run("PFCOUNT", "k") == 1
    value = bench.run("GET", "k")
    assert isinstance(value, bytes)
    assert cached_estimate(value) == 1
    assert bench.base.mutations == before
    bench.check()


def test_copy_of_a_row_is_left_as_it_is() -> None:
    bench = Workbench()
    bench.run("PFADD", "k", "x")
    bench.server.cache.managed.add(b"k")
    before = bench.run("GET", "k")
    assert bench.run("PFCOUNT", "k") == 1
    assert bench.run("GET", "k") == before


@pytest.mark.parametrize("value", ["", "x" * 20, "HYLL", "HYLL\x02" + "\0" * 20, "HYLL\0" + "\0" * 100])
def test_other_strings_are_refused(bench: Workbench, value: str) -> None:
    bench.run("SET", "k", value)
    for words in (("PFADD", "k", "x"), ("PFCOUNT", "k"), ("PFCOUNT", "k", "j"), ("PFMERGE", "j", "k")):
        assert bench.run(*words) == NOT_ONE
    bench.run("HSET", "h", "f", "v")
    assert bench.run("PFADD", "h", "x") == Error("WRONGTYPE Operation against a key holding the wrong kind of value")


@pytest.mark.parametrize("runs", [b"", b"\x7f", b"\x7f\xfe", b"\x7f\xff\x00", b"\x80" * 40])
def test_runs_that_do_not_add_up_are_corrupted(bench: Workbench, runs: bytes) -> None:
    bench.run("SET", "k", empty()[:15] + b"\x80" + runs)
    for words in (("PFCOUNT", "k"), ("PFCOUNT", "k", "j"), ("PFMERGE", "j", "k"), ("PFMERGE", "k")):
        assert bench.run(*words) == CORRUPTED
    assert bench.run("PFADD", "k", *range(100)) in (CORRUPTED, 1)


def test_merged_value_has_seen_what_each_has_seen(bench: Workbench) -> None:
    bench.run("PFADD", "a", *range(300))
    bench.run("PFADD", "b", *range(200, 500))
    together = bench.run("PFCOUNT", "a", "b")
    assert bench.run("PFMERGE", "c", "a", "b", "nosuch") == OK
    assert bench.run("PFCOUNT", "c") == together
    bench.check()


def test_elements_of_every_length_fall_into_the_same_registers(redis: Redis) -> None:
    generator = random.Random(5)
    bench = Workbench()
    for size in range(70):
        argv = [b"PFADD", b"k", generator.randbytes(size), generator.randbytes(size)]
        assert redis.run([[b"DEL", b"k"], argv, [b"GET", b"k"]])[1:] == [bench.wire(*argv), bench.wire("GET", "k")]
        bench.run("DEL", "k")


def test_registers_survive_every_form() -> None:
    generator = random.Random(3)
    ranks = bytes(generator.choice([0, 0, 1, 2, 31, 32, 33, 51]) for _ in range(REGISTERS))
    dense = merge(empty(), ranks, True)
    assert is_valid(dense)
    assert is_dense(dense)
    assert spread(dense) == ranks
    few = bytes(rank if rank <= 32 and at % 50 == 0 else 0 for at, rank in enumerate(ranks))
    sparse = merge(empty(), few, False)
    assert not is_dense(sparse)
    assert spread(sparse) == few
    assert highest(ranks, few) == bytes(map(max, ranks, few))
    assert spread(merge(sparse, ranks, False)) == highest(ranks, few)


def test_limits_of_the_estimate() -> None:
    assert estimate(bytes(REGISTERS)) == 0
    assert estimate(bytes([51]) * REGISTERS) == estimate(bytes([63]) * REGISTERS) == (1 << 63) - 1
    assert add(empty(), []) is None
