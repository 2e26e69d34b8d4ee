"""Lists, on the database and on staged copies. What Redis replies is compared in test_sequences_against_redis.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from persistence.change import LIST, ZSET
from protocol.replies import NIL_ARRAY, OK, Error
from server import errors
from server.commands.context import Blocked
from tests.server.commands.workbench import Workbench


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    workbench = Workbench(staged=request.param)
    yield workbench
    workbench.check()


def test_pushes_put_each_element_at_the_end_in_turn(bench: Workbench) -> None:
    assert bench.run("LPUSH", "l", "a", "b") == 2
    assert bench.run("RPUSH", "l", "c", "d") == 4
    assert bench.run("LPUSH", "l", "e", "f") == 6
    assert bench.run("LRANGE", "l", 0, -1) == [b"f", b"e", b"b", b"a", b"c", b"d"]
    assert bench.run("LLEN", "l") == 6


def test_pushx_wants_a_list(bench: Workbench) -> None:
    assert bench.run("LPUSHX", "l", "a") == 0
    assert bench.run("RPUSHX", "l", "a") == 0
    assert bench.run("EXISTS", "l") == 0
    bench.run("RPUSH", "l", "a")
    assert bench.run("LPUSHX", "l", "b", "c") == 3
    assert bench.run("RPUSHX", "l", "d") == 4


def test_pushes_keep_the_lifetime(bench: Workbench) -> None:
    bench.run("RPUSH", "l", "a")
    bench.run("EXPIRE", "l", 10)
    bench.run("RPUSH", "l", "b")
    bench.run("LPOP", "l")
    assert bench.run("TTL", "l") == 10


def test_list_goes_with_its_last_element(bench: Workbench) -> None:
    for take in ("LPOP l", "RPOP l 5", "LREM l 0 a", "LTRIM l 1 0", "LMPOP 1 l LEFT"):
        bench.run("RPUSH", "l", "a")
        bench.run(*take.split())
        assert bench.run("EXISTS", "l") == 0, take
    bench.run("RPUSH", "l", "a")
    assert bench.run("LMOVE", "l", "m", "LEFT", "LEFT") == b"a"
    assert bench.run("EXISTS", "l") == 0


def test_list_of_one_element_survives_its_rotation(bench: Workbench) -> None:
    bench.run("RPUSH", "l", "a")
    bench.run("EXPIRE", "l", 10)
    assert bench.run("RPOPLPUSH", "l", "l") == b"a"
    assert bench.run("LRANGE", "l", 0, -1) == [b"a"]
    assert bench.run("TTL", "l") == 10


def test_pop_with_and_without_a_count(bench: Workbench) -> None:
    assert bench.run("LPOP", "l") is None
    assert bench.run("LPOP", "l", 1) is NIL_ARRAY
    bench.run("RPUSH", "l", *"abcdef")
    assert bench.run("LPOP", "l") == b"a"
    assert bench.run("RPOP", "l", 2) == [b"f", b"e"]
    assert bench.run("LPOP", "l", 0) == []
    assert bench.run("LPOP", "l", 2) == [b"b", b"c"]
    assert bench.run("LPOP", "l", -1) == Error("ERR value is out of range, must be positive")
    assert bench.run("LPOP", "l", 1, 1) == errors.wrong_arity("lpop")
    assert bench.run("RPOP", "l", 100) == [b"d"]


def test_move_to_a_key_of_another_kind_changes_nothing(bench: Workbench) -> None:
    bench.run("RPUSH", "l", "a", "b")
    bench.run("SET", "s", "x")
    assert bench.run("LMOVE", "l", "s", "LEFT", "LEFT") == errors.WRONG_TYPE
    assert bench.run("LRANGE", "l", 0, -1) == [b"a", b"b"]


def test_first_existing_list_is_popped_from(bench: Workbench) -> None:
    assert bench.run("LMPOP", 2, "l", "m", "LEFT") is NIL_ARRAY
    bench.run("RPUSH", "m", "a", "b", "c")
    assert bench.run("LMPOP", 2, "l", "m", "RIGHT", "COUNT", 2) == [b"m", [b"c", b"b"]]
    bench.run("SET", "l", "x")
    assert bench.run("LMPOP", 2, "l", "m", "RIGHT") == errors.WRONG_TYPE


def test_insert_next_to_a_pivot(bench: Workbench) -> None:
    assert bench.run("LINSERT", "l", "BEFORE", "b", "a") == 0
    bench.run("RPUSH", "l", "b", "d")
    assert bench.run("LINSERT", "l", "BEFORE", "b", "a") == 3
    assert bench.run("LINSERT", "l", "after", "b", "c") == 4
    assert bench.run("LINSERT", "l", "AFTER", "x", "c") == -1
    assert bench.run("LRANGE", "l", 0, -1) == [b"a", b"b", b"c", b"d"]


def test_set_refuses_what_is_outside(bench: Workbench) -> None:
    assert bench.run("LSET", "l", 0, "x") == errors.NO_SUCH_KEY
    bench.run("RPUSH", "l", "a", "b")
    assert bench.run("LSET", "l", -1, "c") == OK
    assert bench.run("LSET", "l", 2, "c") == Error("ERR index out of range")
    assert bench.run("LSET", "l", -3, "c") == Error("ERR index out of range")
    assert bench.run("LRANGE", "l", 0, -1) == [b"a", b"c"]


def test_positions_of_an_element(bench: Workbench) -> None:
    bench.run("RPUSH", "l", *"abcabc")
    assert bench.run("LPOS", "l", "c") == 2
    assert bench.run("LPOS", "l", "c", "RANK", -1) == 5
    assert bench.run("LPOS", "l", "a", "COUNT", 0) == [0, 3]
    assert bench.run("LPOS", "l", "a", "RANK", -1, "COUNT", 0) == [3, 0]
    assert bench.run("LPOS", "l", "c", "MAXLEN", 2) is None
    assert bench.run("LPOS", "l", "x", "COUNT", 1) == []
    assert bench.run("LPOS", "none", "x") is None


def test_lists_are_copied_renamed_and_described_like_other_keys(bench: Workbench) -> None:
    bench.run("RPUSH", "l", "a")
    bench.run("COPY", "l", "m")
    bench.run("RPUSH", "m", "b")
    assert bench.run("LRANGE", "l", 0, -1) == [b"a"]
    bench.run("RENAME", "m", "n")
    assert bench.run("LRANGE", "n", 0, -1) == [b"a", b"b"]
    assert bench.run("TYPE", "n").wire == b"+list\r\n"  # type: ignore[attr-defined]
    assert bench.run("OBJECT", "ENCODING", "n") == b"listpack"
    bench.run("RPUSH", "n", "x" * 10_000)
    assert bench.run("OBJECT", "ENCODING", "n") == b"quicklist"


def test_middle_of_a_long_list_is_reached(bench: Workbench) -> None:
    bench.run("RPUSH", "l", *range(5000))
    assert bench.run("LINDEX", "l", 2500) == b"2500"
    assert bench.run("LRANGE", "l", 2499, 2501) == [b"2499", b"2500", b"2501"]
    assert bench.run("LINSERT", "l", "BEFORE", 2500, "x") == 5001
    assert bench.run("LPOS", "l", "x") == 2500
    assert bench.run("LREM", "l", -1, "x") == 1
    assert bench.run("LTRIM", "l", 2000, 2999) == OK
    assert bench.run("LLEN", "l") == 1000


# -- what blocking commands do before they wait -----------------------------------------------------------------------


def test_blocking_pop_takes_what_is_there(bench: Workbench) -> None:
    bench.run("RPUSH", "m", "a", "b", "c")
    assert bench.run("BLPOP", "l", "m", 0) == [b"m", b"a"]
    assert bench.run("BRPOP", "l", "m", 0) == [b"m", b"c"]
    assert bench.run("BLMOVE", "m", "n", "LEFT", "LEFT", 0) == b"b"
    assert bench.run("BRPOPLPUSH", "n", "l", 0) == b"b"
    assert bench.run("BLMPOP", 0, 1, "l", "LEFT", "COUNT", 5) == [b"l", [b"b"]]
    bench.run("ZADD", "z", 1, "low", 2, "high", 3, "top")
    assert bench.run("BZPOPMIN", "l", "z", 0) == [b"z", b"low", 1.0]
    assert bench.run("BZPOPMAX", "z", 0) == [b"z", b"top", 3.0]
    assert bench.run("BZMPOP", 0, 1, "z", "MAX") == [b"z", [[b"high", 2.0]]]


@pytest.mark.parametrize(
    ("words", "keys", "kind", "timeout_ms", "nothing"),
    [
        (["BLPOP", "a", "b", "a", "1.5"], [b"a", b"b", b"a"], LIST, 1500, NIL_ARRAY),
        (["BRPOP", "a", "0"], [b"a"], LIST, 0, NIL_ARRAY),
        (["BLMOVE", "a", "b", "LEFT", "RIGHT", "0.0001"], [b"a"], LIST, 1, None),
        (["BRPOPLPUSH", "a", "b", "0x10"], [b"a"], LIST, 16_000, None),
        (["BLMPOP", "7", "2", "a", "b", "LEFT"], [b"a", b"b"], LIST, 7000, NIL_ARRAY),
        (["BZPOPMIN", "a", "1e3"], [b"a"], ZSET, 1_000_000, NIL_ARRAY),
        (["BZMPOP", "0.01", "1", "a", "MIN", "COUNT", "3"], [b"a"], ZSET, 10, NIL_ARRAY),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_blocking_command_without_an_element_says_what_it_waits_for(
    bench: Workbench, words: list[str], keys: list[bytes], kind: int, timeout_ms: int, nothing: object
) -> None:
    blocked = bench.run(*words)
    assert isinstance(blocked, Blocked)
    assert (blocked.keys, blocked.kind, blocked.timeout_ms) == (keys, kind, timeout_ms)
    assert blocked.nothing is nothing


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        ("x", "ERR timeout is not a float or out of range"),
        ("nan", "ERR timeout is not a float or out of range"),
        ("-1", "ERR timeout is negative"),
        ("-inf", "ERR timeout is negative"),
        ("inf", "ERR timeout is out of range"),
        ("1e20", "ERR timeout is out of range"),
    ],
)
def test_senseless_timeout_is_refused(bench: Workbench, timeout: str, error: str) -> None:
    assert bench.run("BLPOP", "l", timeout) == Error(error)
