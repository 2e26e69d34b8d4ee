"""Hashes, on the database and on staged copies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol.replies import OK, Error, Map
from server import errors
from tests.server.commands.workbench import Workbench


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    workbench = Workbench(staged=request.param)
    yield workbench
    workbench.check()


def test_hset_counts_new_fields(bench: Workbench) -> None:
    assert bench.run("HSET", "h", "a", "1", "b", "2") == 2
    assert bench.run("HSET", "h", "b", "3", "c", "4") == 1
    assert bench.run("HSET", "h", "a", "") == 0
    assert bench.run("HGETALL", "h") == Map([(b"a", b""), (b"b", b"3"), (b"c", b"4")])


def test_hset_counts_a_field_given_twice_once(bench: Workbench) -> None:
    assert bench.run("HSET", "h", "a", "1", "a", "2") == 1
    assert bench.run("HSET", "h", "b", "1", "b", "22") == 1
    assert bench.run("HMGET", "h", "a", "b") == [b"2", b"22"]


def test_hset_wants_pairs(bench: Workbench) -> None:
    assert bench.run("HSET", "h", "a", "1", "b") == errors.wrong_arity("hset")
    assert bench.run("HMSET", "h", "a", "1", "b") == errors.wrong_arity("hmset")
    assert bench.run("EXISTS", "h") == 0


def test_hset_keeps_the_lifetime(bench: Workbench) -> None:
    bench.run("HSET", "h", "a", "1")
    bench.run("EXPIRE", "h", 10)
    bench.run("HSET", "h", "a", "2")
    assert bench.run("TTL", "h") == 10


def test_hmset_and_hsetnx(bench: Workbench) -> None:
    assert bench.run("HMSET", "h", "a", "1", "b", "2") == OK
    assert bench.run("HSETNX", "h", "a", "9") == 0
    assert bench.run("HSETNX", "h", "c", "3") == 1
    assert bench.run("HSETNX", "new", "f", "v") == 1
    assert bench.run("HVALS", "h") == [b"1", b"2", b"3"]
    assert bench.run("HGET", "new", "f") == b"v"


def test_reading(bench: Workbench) -> None:
    bench.run("HSET", "h", "a", "1", "", b"\r\n")
    assert bench.run("HGET", "h", "a") == b"1"
    assert bench.run("HGET", "h", "") == b"\r\n"
    assert bench.run("HGET", "h", "x") is None
    assert bench.run("HMGET", "h", "x", "a", "a") == [None, b"1", b"1"]
    assert bench.run("HKEYS", "h") == [b"a", b""]
    assert bench.run("HVALS", "h") == [b"1", b"\r\n"]
    assert bench.run("HLEN", "h") == 2
    assert bench.run("HEXISTS", "h", "a") == 1
    assert bench.run("HEXISTS", "h", "x") == 0
    assert bench.run("HSTRLEN", "h", "") == 2
    assert bench.run("HSTRLEN", "h", "x") == 0


def test_reading_an_absent_hash(bench: Workbench) -> None:
    assert bench.run("HGET", "h", "a") is None
    assert bench.run("HMGET", "h", "a", "b") == [None, None]
    assert bench.run("HGETALL", "h") == Map([])
    assert bench.run("HKEYS", "h") == []
    assert bench.run("HVALS", "h") == []
    assert bench.run("HLEN", "h") == 0
    assert bench.run("HEXISTS", "h", "a") == 0
    assert bench.run("HSTRLEN", "h", "a") == 0
    assert bench.run("HRANDFIELD", "h") is None
    assert bench.run("HRANDFIELD", "h", 5) == []
    assert bench.run("HSCAN", "h", 0, "no", "such", "option") == [b"0", []]


def test_hgetall_is_a_map_in_resp3_and_flat_in_resp2(bench: Workbench) -> None:
    bench.run("HSET", "h", "a", "1")
    assert bench.wire("HGETALL", "h") == b"*2\r\n$1\r\na\r\n$1\r\n1\r\n"
    bench.context.protocol = 3
    assert bench.wire("HGETALL", "h") == b"%1\r\n$1\r\na\r\n$1\r\n1\r\n"
    assert bench.wire("HGETALL", "absent") == b"%0\r\n"


def test_hdel_removes_the_hash_with_its_last_field(bench: Workbench) -> None:
    bench.run("HSET", "h", "a", "1", "b", "2")
    assert bench.run("HDEL", "h", "x") == 0
    assert bench.run("HDEL", "h", "a", "a", "x") == 1
    assert bench.run("EXISTS", "h") == 1
    assert bench.run("HDEL", "h", "b") == 1
    assert bench.run("EXISTS", "h") == 0
    assert bench.run("TYPE", "h").wire == b"+none\r\n"  # type: ignore[attr-defined]
    assert bench.run("HDEL", "h", "b") == 0


def test_hincrby(bench: Workbench) -> None:
    assert bench.run("HINCRBY", "h", "n", 5) == 5
    assert bench.run("HINCRBY", "h", "n", -7) == -2
    assert bench.run("HINCRBY", "h", "m", -(2**63)) == -(2**63)
    assert bench.run("HINCRBY", "h", "m", -1) == errors.OVERFLOW
    assert bench.run("HINCRBY", "h", "n", "1.5") == errors.NOT_INTEGER
    bench.run("HSET", "h", "word", "x")
    assert bench.run("HINCRBY", "h", "word", 1) == errors.HASH_NOT_INTEGER
    assert bench.run("HMGET", "h", "n", "m", "word") == [b"-2", b"-9223372036854775808", b"x"]


def test_hincrbyfloat(bench: Workbench) -> None:
    assert bench.run("HINCRBYFLOAT", "h", "n", "10.5") == b"10.5"
    assert bench.run("HINCRBYFLOAT", "h", "n", "0.1") == b"10.6"
    assert bench.run("HINCRBYFLOAT", "h", "n", "2e2") == b"210.60000000000000001"
    assert bench.run("HINCRBYFLOAT", "h", "n", "x") == errors.NOT_FLOAT
    assert bench.run("HINCRBYFLOAT", "h", "n", "inf") == Error("ERR value is NaN or Infinity")
    bench.run("HSET", "h", "word", "x", "inf", "inf")
    assert bench.run("HINCRBYFLOAT", "h", "word", "1") == errors.HASH_NOT_FLOAT
    assert bench.run("HINCRBYFLOAT", "h", "inf", "1") == errors.NAN_OR_INFINITY


def test_refused_increments_make_no_hash(bench: Workbench) -> None:
    bench.run("HINCRBY", "h", "n", "x")
    bench.run("HINCRBYFLOAT", "h", "n", "x")
    assert bench.run("EXISTS", "h") == 0


# -- HRANDFIELD -------------------------------------------------------------------------------------------------------


def test_hrandfield_draws_one(bench: Workbench) -> None:
    bench.run("HSET", "h", "a", "1", "b", "2", "c", "3")
    assert {bench.run("HRANDFIELD", "h") for _ in range(100)} == {b"a", b"b", b"c"}


def test_hrandfield_with_a_count_draws_different_fields(bench: Workbench) -> None:
    bench.run("HSET", "h", *[word for at in range(20) for word in (at, at)])
    seen = set()
    for _ in range(200):
        fields = bench.run("HRANDFIELD", "h", 5)
        assert isinstance(fields, list)
        assert len(set(fields)) == 5
        seen.update(fields)
    assert len(seen) == 20
    everything = bench.run("HRANDFIELD", "h", 100)
    assert isinstance(everything, list)
    assert len(set(everything)) == len(everything) == 20
    assert bench.run("HRANDFIELD", "h", 0) == []


def test_hrandfield_with_a_count_below_zero_may_repeat(bench: Workbench) -> None:
    bench.run("HSET", "h", "a", "1")
    assert bench.run("HRANDFIELD", "h", -3) == [b"a", b"a", b"a"]
    assert bench.run("HRANDFIELD", "h", -2, "WITHVALUES") == [b"a", b"1", b"a", b"1"]


def test_hrandfield_pairs_are_arrays_in_resp3(bench: Workbench) -> None:
    bench.run("HSET", "h", "a", "1")
    bench.context.protocol = 3
    assert bench.run("HRANDFIELD", "h", 1, "withvalues") == [[b"a", b"1"]]


def test_hrandfield_refuses_a_reply_that_nobody_could_take(bench: Workbench) -> None:
    bench.run("HSET", "h", "a", "x" * 1000)
    assert bench.run("HRANDFIELD", "h", -1_000_000_000) == errors.OUT_OF_RANGE
    assert bench.run("HRANDFIELD", "h", -(2**63) + 1) == errors.OUT_OF_RANGE
    assert bench.run("HRANDFIELD", "h", -1_000_000, "WITHVALUES") == errors.OUT_OF_RANGE
    assert bench.run("HRANDFIELD", "h", -(2**63)) == Error(
        "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807"
    )


@pytest.mark.parametrize("rest", [["1", "junk"], ["1", "WITHVALUES", "more"]])
def test_hrandfield_syntax(bench: Workbench, rest: list[str]) -> None:
    assert bench.run("HRANDFIELD", "h", *rest) == errors.SYNTAX


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    # The arguments after the key.
    ["HSET f v", "HMSET f v", "HSETNX f v", "HGET f", "HMGET f", "HGETALL", "HDEL f", "HLEN", "HEXISTS f", "HKEYS",
     "HVALS", "HINCRBY f 1", "HINCRBYFLOAT f 1", "HSTRLEN f", "HRANDFIELD", "HRANDFIELD 2", "HSCAN 0"],
)  # fmt: skip
def test_a_string_is_refused(bench: Workbench, command: str) -> None:
    bench.run("SET", "k", "v")
    name, *rest = command.split(" ")
    assert bench.run(name, "k", *rest) == errors.WRONG_TYPE
    assert bench.run("GET", "k") == b"v"


def test_weights_follow_changes() -> None:
    bench = Workbench()
    for step in range(50):
        bench.run("HSET", "h", step % 7, "x" * step, "other", "y" * (50 - step))
        bench.run("HINCRBY", "h", "n", 10**step % 2**60)
        bench.run("HDEL", "h", step % 5)
        bench.run("HINCRBYFLOAT", "h", "d", "0.1")
        bench.check()
    bench.run("DEL", "h")
    assert bench.base.used_bytes() == 0
