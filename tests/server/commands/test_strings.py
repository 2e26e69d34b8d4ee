"""Strings, on the database and on staged copies: replies, corner cases, lifetimes, refusals that change nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol.replies import OK, Error, Map
from server import errors
from server.commands.args import READY
from server.commands.spec import COMMANDS
from tests.server.commands.workbench import OFFSET_MS, START_MS, Workbench


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    workbench = Workbench(staged=request.param)
    yield workbench
    workbench.check()


# -- GET, SET ---------------------------------------------------------------------------------------------------------


def test_set_then_get(bench: Workbench) -> None:
    assert bench.run("GET", "k") is None
    assert bench.run("SET", "k", b"\x00\xff") == OK
    assert bench.run("GET", "k") == b"\x00\xff"


def test_set_replaces_any_type_and_lifetime(bench: Workbench) -> None:
    bench.run("HSET", "k", "f", "v")
    bench.run("EXPIRE", "k", 10)
    assert bench.run("SET", "k", "v") == OK
    assert bench.run("GET", "k") == b"v"
    assert bench.run("TTL", "k") == -1


def test_set_nx_and_xx(bench: Workbench) -> None:
    assert bench.run("SET", "k", "1", "XX") is None
    assert bench.run("SET", "k", "1", "nx") == OK
    assert bench.run("SET", "k", "2", "NX") is None
    assert bench.run("SET", "k", "3", "xx") == OK
    assert bench.run("GET", "k") == b"3"


def test_set_get_returns_the_old_value_whatever_happens(bench: Workbench) -> None:
    assert bench.run("SET", "k", "1", "GET") is None
    assert bench.run("SET", "k", "2", "GET") == b"1"
    assert bench.run("SET", "k", "3", "NX", "GET") == b"2"
    assert bench.run("SET", "absent", "3", "XX", "GET") is None
    assert bench.run("GET", "k") == b"2"
    assert bench.run("EXISTS", "absent") == 0


def test_set_get_refuses_a_hash(bench: Workbench) -> None:
    bench.run("HSET", "h", "f", "v")
    assert bench.run("SET", "h", "1", "GET") == errors.WRONG_TYPE
    assert bench.run("HGET", "h", "f") == b"v"


@pytest.mark.parametrize(
    ("options", "pttl"),
    [
        (["EX", 10], 10_000),
        (["px", 1500], 1500),
        (["EXAT", (START_MS + OFFSET_MS) // 1000 + 7], 7000),
        (["Pxat", START_MS + OFFSET_MS + 9], 9),
        (["EX", 10, "EX", 20], 20_000),
        (["NX", "EX", 10], 10_000),
    ],
)
def test_set_with_a_lifetime(bench: Workbench, options: list[str | int], pttl: int) -> None:
    assert bench.run("SET", "k", "v", *options) == OK
    assert bench.run("PTTL", "k") == pttl
    bench.pass_time(pttl - 1)
    assert bench.run("GET", "k") == b"v"
    bench.pass_time(1)
    assert bench.run("GET", "k") is None


def test_set_keepttl(bench: Workbench) -> None:
    bench.run("SET", "k", "v", "EX", 10)
    assert bench.run("SET", "k", "w", "KEEPTTL") == OK
    assert bench.run("TTL", "k") == 10
    assert bench.run("SET", "new", "w", "keepttl") == OK
    assert bench.run("TTL", "new") == -1


def test_set_with_a_past_time_leaves_nothing(bench: Workbench) -> None:
    assert bench.run("SET", "k", "v", "EXAT", 1) == OK
    assert bench.run("GET", "k") is None


@pytest.mark.parametrize(
    "options",
    [
        ["NX", "XX"],
        ["XX", "NX"],
        ["EX"],
        ["EX", 1, "PX", 1],
        ["EX", 1, "KEEPTTL"],
        ["KEEPTTL", "EXAT", 1],
        ["PERSIST"],
        ["junk"],
        ["10"],
    ],
)
def test_set_refuses_options_that_conflict(bench: Workbench, options: list[str | int]) -> None:
    bench.run("SET", "k", "old")
    assert bench.run("SET", "k", "new", *options) == errors.SYNTAX
    assert bench.run("GET", "k") == b"old"


@pytest.mark.parametrize("amount", ["0", "-1", "9223372036854775807"])
def test_lifetimes_out_of_range(bench: Workbench, amount: str) -> None:
    bench.run("SET", "k", "old")
    assert bench.run("SET", "k", "v", "EX", amount) == errors.invalid_expire("set")
    assert bench.run("SETEX", "k", amount, "v") == errors.invalid_expire("setex")
    assert bench.run("PSETEX", "k", amount, "v") == errors.invalid_expire("psetex")
    assert bench.run("GETEX", "k", "PX", amount) == errors.invalid_expire("getex")
    assert bench.run("GET", "k") == b"old"
    assert bench.run("TTL", "k") == -1


@pytest.mark.parametrize("amount", ["", "1.5", "ten", " 1", "9223372036854775808"])
def test_lifetimes_that_are_no_integer(bench: Workbench, amount: str) -> None:
    assert bench.run("SET", "k", "v", "EX", amount) == errors.NOT_INTEGER
    assert bench.run("SETEX", "k", amount, "v") == errors.NOT_INTEGER
    assert bench.run("EXISTS", "k") == 0


def test_which_sets_are_blind() -> None:
    blind = COMMANDS["set"].blind
    assert blind is not None
    assert blind([b"SET", b"k", b"v"])
    assert blind([b"SET", b"k", b"nx", b"EX", b"1"])
    for option in (b"NX", b"xx", b"Get", b"KEEPTTL"):
        assert not blind([b"SET", b"k", b"v", b"EX", b"1", option])
    assert COMMANDS["mset"].blind is not None
    assert COMMANDS["setex"].blind is not None
    assert COMMANDS["setnx"].blind is None
    assert COMMANDS["getset"].blind is None


def test_setnx_setex_psetex(bench: Workbench) -> None:
    assert bench.run("SETNX", "k", "1") == 1
    assert bench.run("SETNX", "k", "2") == 0
    assert bench.run("GET", "k") == b"1"
    assert bench.run("SETEX", "k", 5, "3") == OK
    assert bench.run("PTTL", "k") == 5000
    assert bench.run("PSETEX", "k", 5, "4") == OK
    assert bench.run("PTTL", "k") == 5
    assert bench.run("GET", "k") == b"4"


def test_setnx_sees_a_key_that_has_run_out_as_absent(bench: Workbench) -> None:
    bench.run("PSETEX", "k", 5, "1")
    bench.pass_time(5)
    assert bench.run("SETNX", "k", "2") == 1
    assert bench.run("TTL", "k") == -1


def test_getset_and_getdel(bench: Workbench) -> None:
    assert bench.run("GETSET", "k", "1") is None
    bench.run("EXPIRE", "k", 10)
    assert bench.run("GETSET", "k", "2") == b"1"
    assert bench.run("TTL", "k") == -1
    assert bench.run("GETDEL", "k") == b"2"
    assert bench.run("GETDEL", "k") is None
    assert bench.run("EXISTS", "k") == 0


def test_getex(bench: Workbench) -> None:
    assert bench.run("GETEX", "k", "EX", 10) is None
    bench.run("SET", "k", "v")
    assert bench.run("GETEX", "k", "EX", 10) == b"v"
    assert bench.run("TTL", "k") == 10
    assert bench.run("GETEX", "k") == b"v"
    assert bench.run("TTL", "k") == 10
    assert bench.run("GETEX", "k", "PERSIST") == b"v"
    assert bench.run("TTL", "k") == -1
    assert bench.run("GETEX", "k", "PXAT", 1) == b"v"
    assert bench.run("EXISTS", "k") == 0


@pytest.mark.parametrize("options", [["PERSIST", "EX", 1], ["EX", 1, "PERSIST"], ["NX"], ["GET"], ["KEEPTTL"], ["EX"]])
def test_getex_refuses_options_of_set(bench: Workbench, options: list[str | int]) -> None:
    assert bench.run("GETEX", "k", *options) == errors.SYNTAX


# -- several keys -----------------------------------------------------------------------------------------------------


def test_mget_gives_nil_for_what_is_no_string(bench: Workbench) -> None:
    bench.run("MSET", "a", "1", "b", "2")
    bench.run("HSET", "h", "f", "v")
    assert bench.run("MGET", "a", "h", "absent", "b", "a") == [b"1", None, None, b"2", b"1"]


def test_mset_lets_the_last_one_win_and_wants_pairs(bench: Workbench) -> None:
    assert bench.run("MSET", "a", "1", "a", "2") == OK
    assert bench.run("GET", "a") == b"2"
    assert bench.run("MSET", "a", "3", "b") == errors.wrong_arity("mset")
    assert bench.run("MSETNX", "c", "3", "b") == errors.wrong_arity("msetnx")
    assert bench.run("EXISTS", "b", "c") == 0
    assert bench.run("GET", "a") == b"2"


def test_msetnx_sets_all_or_none(bench: Workbench) -> None:
    bench.run("SET", "b", "old")
    assert bench.run("MSETNX", "a", "1", "b", "2") == 0
    assert bench.run("EXISTS", "a") == 0
    assert bench.run("MSETNX", "a", "1", "c", "2") == 1
    assert bench.run("MGET", "a", "b", "c") == [b"1", b"old", b"2"]


# -- parts ------------------------------------------------------------------------------------------------------------


def test_append_and_strlen(bench: Workbench) -> None:
    assert bench.run("STRLEN", "k") == 0
    assert bench.run("APPEND", "k", "ab") == 2
    bench.run("EXPIRE", "k", 10)
    assert bench.run("APPEND", "k", b"\x00") == 3
    assert bench.run("APPEND", "k", "") == 3
    assert bench.run("GET", "k") == b"ab\x00"
    assert bench.run("STRLEN", "k") == 3
    assert bench.run("TTL", "k") == 10


@pytest.mark.parametrize(
    ("start", "end", "part"),
    [
        (0, 3, b"This"),
        (-3, -1, b"ing"),
        (0, -1, b"This is a string"),
        (10, 100, b"string"),
        (5, 3, b""),
        (100, 200, b""),
        (-1, -5, b""),
        (-100, -99, b"T"),
        (0, -100, b"T"),
        (-(2**63), 2**63 - 1, b"This is a string"),
    ],
)
def test_getrange(bench: Workbench, start: int, end: int, part: bytes) -> None:
    bench.run("SET", "k", "This is a string")
    assert bench.run("GETRANGE", "k", start, end) == part
    assert bench.run("SUBSTR", "k", start, end) == part
    assert bench.run("GETRANGE", "absent", start, end) == b""


@pytest.mark.parametrize("size", [0, 10, 4095, 4096, 9000])
@pytest.mark.parametrize("part", [b"x", b"longer than that"])
def test_part_of_a_string_is_replaced_wherever_it_lies(bench: Workbench, size: int, part: bytes) -> None:
    old = bytes(at % 251 for at in range(size))
    for at in {0, 1, max(0, size - 3), size, size + 1, size + 5000}:
        if old:
            bench.run("SET", "k", old)
        else:
            bench.run("DEL", "k")
        expected = bytearray(old.ljust(at + len(part), b"\0"))
        expected[at : at + len(part)] = part
        assert bench.run("SETRANGE", "k", at, part) == len(expected)
        assert bench.run("GET", "k") == bytes(expected)
        assert bench.run("SETBIT", "k", 8 * at, 1) == expected[at] >> 7
        expected[at] |= 0x80
        assert bench.run("GET", "k") == bytes(expected)


def test_setrange(bench: Workbench) -> None:
    assert bench.run("SETRANGE", "k", 3, "") == 0
    assert bench.run("EXISTS", "k") == 0
    assert bench.run("SETRANGE", "k", 3, "abc") == 6
    assert bench.run("GET", "k") == b"\0\0\0abc"
    assert bench.run("SETRANGE", "k", 1, "XY") == 6
    assert bench.run("GET", "k") == b"\0XYabc"
    assert bench.run("SETRANGE", "k", 100, "") == 6
    assert bench.run("SETRANGE", "k", -1, "x") == errors.OFFSET_OUT_OF_RANGE
    assert bench.run("SETRANGE", "k", "x", "x") == errors.NOT_INTEGER


def test_strings_beyond_the_limit_are_refused_before_anything_is_allocated(bench: Workbench) -> None:
    bench.run("SET", "k", "v")
    for offset in (512 * 1024 * 1024, 2**62, 2**63 - 1):
        assert bench.run("SETRANGE", "k", offset, "x") == errors.STRING_TOO_LONG
        assert bench.run("SETRANGE", "absent", offset, "x") == errors.STRING_TOO_LONG
    assert bench.run("GET", "k") == b"v"
    assert bench.run("EXISTS", "absent") == 0


# -- counters ---------------------------------------------------------------------------------------------------------


def test_counters(bench: Workbench) -> None:
    assert bench.run("INCR", "k") == 1
    assert bench.run("INCRBY", "k", 41) == 42
    assert bench.run("DECR", "k") == 41
    assert bench.run("DECRBY", "k", 50) == -9
    assert bench.run("GET", "k") == b"-9"
    assert bench.run("DECR", "new") == -1


@pytest.mark.parametrize("edge", [0, 1000, READY, 2**61, -(2**61)])
def test_counters_pass_the_numbers_that_are_ready_and_those_of_a_register(bench: Workbench, edge: int) -> None:
    bench.run("SET", "k", edge - 2)
    bench.run("HSET", "h", "f", edge - 2)
    for number in range(edge - 1, edge + 3):
        assert bench.run("INCR", "k") == bench.run("HINCRBY", "h", "f", 1) == number
        assert bench.run("GET", "k") == bench.run("HGET", "h", "f") == b"%d" % number
    for number in range(edge + 1, edge - 3, -1):
        assert bench.run("DECR", "k") == number
        assert bench.run("GET", "k") == b"%d" % number


def test_counter_keeps_its_lifetime(bench: Workbench) -> None:
    bench.run("SET", "k", "1", "EX", 10)
    bench.run("INCR", "k")
    assert bench.run("TTL", "k") == 10


def test_counters_stay_within_64_bits(bench: Workbench) -> None:
    bench.run("SET", "k", 2**63 - 1)
    assert bench.run("INCR", "k") == errors.OVERFLOW
    assert bench.run("DECRBY", "k", -1) == errors.OVERFLOW
    assert bench.run("DECRBY", "k", -(2**63)) == errors.DECR_OVERFLOW
    bench.run("SET", "low", -(2**63))
    assert bench.run("DECR", "low") == errors.OVERFLOW
    assert bench.run("INCRBY", "low", -1) == errors.OVERFLOW
    assert bench.run("MGET", "k", "low") == [b"9223372036854775807", b"-9223372036854775808"]


@pytest.mark.parametrize("value", ["", "abc", " 1", "1 ", "01", "+1", "1.0", "9223372036854775808"])
def test_counters_refuse_what_is_no_integer(bench: Workbench, value: str) -> None:
    bench.run("SET", "k", value)
    assert bench.run("INCR", "k") == errors.NOT_INTEGER
    assert bench.run("INCRBY", "n", value) == errors.NOT_INTEGER
    assert bench.run("EXISTS", "n") == 0
    assert bench.run("GET", "k") == value.encode()


def test_incrbyfloat(bench: Workbench) -> None:
    assert bench.run("INCRBYFLOAT", "k", "0.1") == b"0.1"
    assert bench.run("INCRBYFLOAT", "k", "0.2") == b"0.3"
    # As Redis says it: 64 bits do not hold 17 decimals of thousands.
    assert bench.run("INCRBYFLOAT", "k", "-5.0e3") == b"-4999.70000000000000018"
    bench.run("EXPIRE", "k", 10)
    assert bench.run("INCRBYFLOAT", "k", "4999.7") == b"0"
    assert bench.run("TTL", "k") == 10
    assert bench.run("INCRBYFLOAT", "k", "x") == errors.NOT_FLOAT
    assert bench.run("INCRBYFLOAT", "k", "inf") == errors.NAN_OR_INFINITY
    bench.run("SET", "k", "word")
    assert bench.run("INCRBYFLOAT", "k", "1") == errors.NOT_FLOAT


# -- types and words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    # The arguments after the key.
    ["GET", "GETSET v", "GETDEL", "GETEX", "GETEX EX 1", "STRLEN", "APPEND v", "GETRANGE 0 1", "SUBSTR 0 1",
     "SETRANGE 0 v", "SETRANGE 0 ", "INCR", "DECR", "INCRBY 1", "DECRBY 1", "INCRBYFLOAT 1"],
)  # fmt: skip
def test_a_hash_is_refused(bench: Workbench, command: str) -> None:
    bench.run("HSET", "h", "f", "v")
    name, *rest = command.split(" ")
    assert bench.run(name, "h", *rest) == errors.WRONG_TYPE
    assert bench.run("HGETALL", "h") == Map([(b"f", b"v")])
    assert bench.run("TTL", "h") == -1


@pytest.mark.parametrize("name", ["GET", "SET", "SETEX", "GETSET", "MGET", "MSET", "APPEND", "GETRANGE", "INCR", "LCS"])
def test_too_few_words(bench: Workbench, name: str) -> None:
    assert bench.run(name) == errors.wrong_arity(name.lower())


# -- LCS --------------------------------------------------------------------------------------------------------------


def test_lcs_of_the_documented_example(bench: Workbench) -> None:
    bench.run("MSET", "key1", "ohmytext", "key2", "mynewtext")
    assert bench.run("LCS", "key1", "key2") == b"mytext"
    assert bench.run("LCS", "key1", "key2", "LEN") == 6
    assert bench.run("LCS", "key1", "key2", "IDX") == Map(
        [(b"matches", [[[4, 7], [5, 8]], [[2, 3], [0, 1]]]), (b"len", 6)]
    )
    assert bench.run("LCS", "key1", "key2", "idx", "minmatchlen", 4, "withmatchlen") == Map(
        [(b"matches", [[[4, 7], [5, 8], 4]]), (b"len", 6)]
    )


def test_lcs_of_absent_keys_is_empty(bench: Workbench) -> None:
    assert bench.run("LCS", "a", "b") == b""
    assert bench.run("LCS", "a", "b", "LEN") == 0
    assert bench.run("LCS", "a", "b", "IDX") == Map([(b"matches", []), (b"len", 0)])


def test_lcs_refusals(bench: Workbench) -> None:
    assert bench.run("LCS", "a", "b", "LEN", "IDX") == Error(
        "ERR If you want both the length and indexes, please just use IDX."
    )
    assert bench.run("LCS", "a", "b", "MINMATCHLEN") == errors.SYNTAX
    assert bench.run("LCS", "a", "b", "MINMATCHLEN", "x") == errors.NOT_INTEGER
    bench.run("HSET", "h", "f", "v")
    assert bench.run("LCS", "h", "b") == Error("ERR The specified keys must contain string values")
    bench.run("MSET", "a", "x" * 20_000, "b", "y" * 20_000)
    reply = bench.run("LCS", "a", "b")
    assert isinstance(reply, Error)
    assert reply.message.startswith("ERR Insufficient memory")


def test_lcs_of_strings_at_the_limit_is_quick_enough(bench: Workbench) -> None:
    bench.run("MSET", "a", "abcdefgh" * 1400, "b", "hgfedcba" * 1400)
    text = bench.run("LCS", "a", "b")
    assert isinstance(text, bytes)
    assert bench.run("LCS", "a", "b", "LEN") == len(text)
