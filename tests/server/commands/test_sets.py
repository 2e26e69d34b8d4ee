"""Sets, on the database and on staged copies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from persistence.change import DELETE, WRITE
from protocol.replies import Error, SetOf
from server import errors
from server.keyspace.overlay import Overlay
from tests.server.commands.workbench import Workbench


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    workbench = Workbench(staged=request.param)
    yield workbench
    workbench.check()


def members(reply: object) -> set[object]:
    """The members of a reply, which has each once."""
    items = reply.items if isinstance(reply, SetOf) else reply
    assert isinstance(items, list)
    assert len(set(items)) == len(items)
    return set(items)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_sadd_counts_new_members(bench: Workbench) -> None:
    assert bench.run("SADD", "s", "a", "b", "a") == 2
    assert bench.run("SADD", "s", "b", "c", "c") == 1
    assert bench.run("SADD", "s", "a") == 0
    assert members(bench.run("SMEMBERS", "s")) == {b"a", b"b", b"c"}
    assert bench.run("SCARD", "s") == 3


def test_sadd_keeps_the_lifetime(bench: Workbench) -> None:
    bench.run("SADD", "s", "a")
    bench.run("EXPIRE", "s", 10)
    bench.run("SADD", "s", "b")
    assert bench.run("TTL", "s") == 10


def test_srem_removes_the_set_with_its_last_member(bench: Workbench) -> None:
    bench.run("SADD", "s", "a", "b")
    assert bench.run("SREM", "s", "x") == 0
    assert bench.run("SREM", "s", "a", "a", "x") == 1
    assert bench.run("EXISTS", "s") == 1
    assert bench.run("SREM", "s", "b") == 1
    assert bench.run("EXISTS", "s") == 0
    assert bench.run("SREM", "s", "b") == 0


def test_smove(bench: Workbench) -> None:
    bench.run("SADD", "s", "a", "b")
    assert bench.run("SMOVE", "s", "t", "x") == 0
    assert bench.run("EXISTS", "t") == 0
    assert bench.run("SMOVE", "s", "t", "a") == 1
    assert bench.run("SMOVE", "s", "s", "b") == 1
    assert bench.run("SMOVE", "s", "s", "x") == 0
    assert bench.run("SADD", "t", "b") == 1
    assert bench.run("SMOVE", "s", "t", "b") == 1
    assert bench.run("EXISTS", "s") == 0
    assert members(bench.run("SMEMBERS", "t")) == {b"a", b"b"}
    assert bench.run("SMOVE", "s", "t", "a") == 0


def test_smove_looks_at_both_types_when_there_is_a_source(bench: Workbench) -> None:
    bench.run("SET", "k", "v")
    assert bench.run("SMOVE", "s", "k", "a") == 0
    bench.run("SADD", "s", "a")
    assert bench.run("SMOVE", "s", "k", "x") == errors.WRONG_TYPE
    assert bench.run("SMOVE", "k", "s", "x") == errors.WRONG_TYPE
    assert bench.run("SISMEMBER", "s", "a") == 1


def test_spop_takes_one_at_a_time(bench: Workbench) -> None:
    everything = {b"%d" % number for number in range(20)}
    bench.run("SADD", "s", *everything)
    popped = [bench.run("SPOP", "s") for _ in range(20)]
    assert set(popped) == everything
    assert bench.run("EXISTS", "s") == 0
    assert bench.run("SPOP", "s") is None


def test_spop_with_a_count(bench: Workbench) -> None:
    everything = {b"%d" % number for number in range(20)}
    bench.run("SADD", "s", *everything)
    assert members(bench.run("SPOP", "s", 0)) == set()
    first = members(bench.run("SPOP", "s", 5))
    assert len(first) == 5
    assert bench.run("SCARD", "s") == 15
    assert members(bench.run("SPOP", "s", 100)) == everything - first
    assert bench.run("EXISTS", "s") == 0
    assert members(bench.run("SPOP", "s", 1)) == set()


def test_spop_refuses_counts_below_zero(bench: Workbench) -> None:
    for count in ("-1", "x", "1.5", "9223372036854775808"):
        assert bench.run("SPOP", "s", count) == Error("ERR value is out of range, must be positive")
    assert bench.run("SPOP", "s", "1", "2") == errors.SYNTAX


# -- reading ----------------------------------------------------------------------------------------------------------


def test_membership(bench: Workbench) -> None:
    bench.run("SADD", "s", "a", "")
    assert bench.run("SISMEMBER", "s", "") == 1
    assert bench.run("SISMEMBER", "s", "x") == 0
    assert bench.run("SMISMEMBER", "s", "x", "a", "a") == [0, 1, 1]


def test_reading_an_absent_set(bench: Workbench) -> None:
    assert bench.run("SISMEMBER", "s", "a") == 0
    assert bench.run("SMISMEMBER", "s", "a", "b") == [0, 0]
    assert bench.run("SCARD", "s") == 0
    assert bench.run("SRANDMEMBER", "s") is None
    assert bench.run("SRANDMEMBER", "s", 3) == []
    assert bench.run("SSCAN", "s", 0, "no", "such", "option") == [b"0", []]
    for name in ("SMEMBERS", "SINTER", "SUNION", "SDIFF"):
        assert bench.run(name, "s") == SetOf([])


def test_replies_are_sets_in_resp3_and_arrays_in_resp2(bench: Workbench) -> None:
    bench.run("SADD", "s", "a")
    for protocol, sign in ((2, b"*"), (3, b"~")):
        bench.context.protocol = protocol
        for command in ("SMEMBERS s", "SINTER s s", "SUNION s", "SDIFF s t"):
            assert bench.wire(*command.split(" ")) == sign + b"1\r\n$1\r\na\r\n"
        assert bench.wire("SMEMBERS", "absent") == sign + b"0\r\n"
        assert bench.wire("SPOP", "absent", "1") == sign + b"0\r\n"
        # May repeat members, so it is no set.
        assert bench.wire("SRANDMEMBER", "s", "1") == b"*1\r\n$1\r\na\r\n"


def test_srandmember(bench: Workbench) -> None:
    everything = {b"%d" % number for number in range(20)}
    bench.run("SADD", "s", *everything)
    assert {bench.run("SRANDMEMBER", "s") for _ in range(400)} == everything
    for count, size in ((0, 0), (5, 5), (15, 15), (20, 20), (100, 20)):
        drawn = bench.run("SRANDMEMBER", "s", count)
        assert len(members(drawn)) == size
        assert members(drawn) <= everything
    repeated = bench.run("SRANDMEMBER", "s", -50)
    assert isinstance(repeated, list)
    assert len(repeated) == 50
    assert set(repeated) <= everything
    assert bench.run("SCARD", "s") == 20


def test_srandmember_refuses_a_reply_that_nobody_could_take(bench: Workbench) -> None:
    bench.run("SADD", "s", "x" * 1000)
    assert bench.run("SRANDMEMBER", "s", -1_000_000_000) == errors.OUT_OF_RANGE
    assert bench.run("SRANDMEMBER", "s", -(2**63) + 1) == errors.OUT_OF_RANGE
    assert bench.run("SRANDMEMBER", "s", -(2**63)) == Error(
        "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807"
    )
    assert bench.run("SRANDMEMBER", "s", "x") == errors.NOT_INTEGER
    assert bench.run("SRANDMEMBER", "s", 1, 2) == errors.SYNTAX


# -- algebra ----------------------------------------------------------------------------------------------------------


def test_algebra(bench: Workbench) -> None:
    bench.run("SADD", "s", "a", "b", "c", "d")
    bench.run("SADD", "t", "c")
    bench.run("SADD", "u", "a", "c", "e")
    assert members(bench.run("SINTER", "s", "t", "u")) == {b"c"}
    assert members(bench.run("SINTER", "s", "u", "s")) == {b"a", b"c"}
    assert members(bench.run("SINTER", "s", "absent")) == set()
    assert members(bench.run("SUNION", "s", "t", "u", "absent")) == {b"a", b"b", b"c", b"d", b"e"}
    assert members(bench.run("SDIFF", "s", "t", "u")) == {b"b", b"d"}
    assert members(bench.run("SDIFF", "s", "s")) == set()
    assert members(bench.run("SDIFF", "absent", "s")) == set()
    assert bench.run("SCARD", "s") == 4


@pytest.mark.parametrize(
    ("command", "stored"),
    [
        ("SINTERSTORE", {b"b"}),
        ("SUNIONSTORE", {b"a", b"b", b"c"}),
        ("SDIFFSTORE", {b"a"}),
    ],
)
def test_results_are_stored(bench: Workbench, command: str, stored: set[bytes]) -> None:
    bench.run("SADD", "s", "a", "b")
    bench.run("SADD", "t", "b", "c")
    # Whatever was there is overwritten, its lifetime too.
    bench.run("SET", "d", "text", "EX", 100)
    assert bench.run(command, "d", "s", "t") == len(stored)
    assert members(bench.run("SMEMBERS", "d")) == stored
    assert bench.run("TTL", "d") == -1
    # What was stored is the key's own.
    bench.run("SADD", "d", "new")
    assert bench.run("SISMEMBER", "s", "new") == bench.run("SISMEMBER", "t", "new") == 0
    assert bench.run(command, "s", "s", "t") == len(stored)
    assert members(bench.run("SMEMBERS", "s")) == stored


@pytest.mark.parametrize("command", ["SINTERSTORE d s x", "SUNIONSTORE d x y", "SDIFFSTORE d s s"])
def test_an_empty_result_deletes_the_destination(bench: Workbench, command: str) -> None:
    bench.run("SADD", "s", "a")
    bench.run("SET", "d", "text")
    assert bench.run(*command.split(" ")) == 0
    assert bench.run("EXISTS", "d") == 0
    assert bench.run(*command.split(" ")) == 0


@pytest.mark.parametrize("command", ["SINTERSTORE", "SUNIONSTORE", "SDIFFSTORE"])
def test_a_wrong_type_among_the_sources_leaves_the_destination(bench: Workbench, command: str) -> None:
    bench.run("SADD", "s", "a")
    bench.run("SET", "k", "v")
    bench.run("SET", "d", "text")
    assert bench.run(command, "d", "absent", "k") == errors.WRONG_TYPE
    assert bench.run("GET", "d") == b"text"


def test_sintercard(bench: Workbench) -> None:
    bench.run("SADD", "s", *range(10))
    bench.run("SADD", "t", *range(5, 20))
    assert bench.run("SINTERCARD", 2, "s", "t") == 5
    assert bench.run("SINTERCARD", 2, "s", "t", "LIMIT", 3) == 3
    assert bench.run("SINTERCARD", 2, "s", "t", "LIMIT", 0) == 5
    assert bench.run("SINTERCARD", 2, "s", "t", "limit", 100) == 5
    assert bench.run("SINTERCARD", 2, "s", "absent", "LIMIT", 1) == 0
    assert bench.run("SINTERCARD", 1, "s") == 10


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("0 s", "ERR numkeys should be greater than 0"),
        ("x s", "ERR numkeys should be greater than 0"),
        ("3 s t", "ERR Number of keys can't be greater than number of args"),
        ("1 s t", "ERR syntax error"),
        ("1 s LIMIT", "ERR syntax error"),
        ("1 s LIMIT -1", "ERR LIMIT can't be negative"),
        ("1 s LIMIT x", "ERR LIMIT can't be negative"),
    ],
)
def test_sintercard_refuses(bench: Workbench, arguments: str, text: str) -> None:
    assert bench.run("SINTERCARD", *arguments.split(" ")) == Error(text)


# -- scanning ---------------------------------------------------------------------------------------------------------


def walk(bench: Workbench, *options: str) -> list[bytes]:
    found: list[bytes] = []
    cursor = b"0"
    while True:
        reply = bench.run("SSCAN", "s", cursor, *options)
        assert isinstance(reply, list)
        cursor, names = reply
        found += names
        if cursor == b"0":
            return found


@pytest.mark.parametrize("size", [1, 512, 513, 3000])
def test_sscan_walks_through_a_set_once(bench: Workbench, size: int) -> None:
    bench.run("SADD", "s", *range(size))
    assert sorted(walk(bench)) == sorted(b"%d" % number for number in range(size))
    assert sorted(walk(bench, "COUNT", "700")) == sorted(b"%d" % number for number in range(size))
    assert sorted(walk(bench, "MATCH", "1*", "COUNT", "100")) == sorted(
        b"%d" % number for number in range(size) if str(number)[0] == "1"
    )


def test_sscan_keeps_to_count_in_a_large_set(bench: Workbench) -> None:
    bench.run("SADD", "s", *range(1000))
    reply = bench.run("SSCAN", "s", 0, "COUNT", 30)
    assert isinstance(reply, list)
    assert reply[0] == b"970"
    assert len(reply[1]) == 30


@pytest.mark.parametrize("options", ["COUNT 0", "TYPE set", "MATCH", "NONSENSE", "COUNT x"])
def test_sscan_refuses(bench: Workbench, options: str) -> None:
    bench.run("SADD", "s", "a")
    expected = errors.NOT_INTEGER if options == "COUNT x" else errors.SYNTAX
    assert bench.run("SSCAN", "s", 0, *options.split(" ")) == expected
    assert bench.run("SSCAN", "s", "x") == errors.INVALID_CURSOR
    assert bench.run("SSCAN", "s", 0, "NOVALUES") == Error("ERR NOVALUES option can only be used in HSCAN")


# -- what is recorded -------------------------------------------------------------------------------------------------


def test_changes_name_the_members_that_changed() -> None:
    bench = Workbench(staged=True)
    overlay = bench.context.db
    assert isinstance(overlay, Overlay)
    bench.run("SADD", "s", *range(10))
    # A second command on a set that was there: what counts is the second's.
    for words, expected in (
        (("SADD", "s", "1", "new"), {b"new"}),
        (("SREM", "s", "2", "x"), {b"2"}),
        (("SADD", "s", "1"), None),
    ):
        overlay.changes.clear()
        bench.run(*words)
        if expected is None:
            assert overlay.changes == {}
        else:
            assert overlay.changes[b"s"].verb == WRITE
            assert overlay.changes[b"s"].members == expected
    overlay.changes.clear()
    popped = bench.run("SPOP", "s")
    assert overlay.changes[b"s"].members == {popped}
    overlay.changes.clear()
    bench.run("SPOP", "s", 100)
    assert overlay.changes[b"s"].verb == DELETE


def test_a_staged_change_does_not_touch_the_value_it_began_with() -> None:
    bench = Workbench()
    bench.run("SADD", "s", "a", "b", "c")
    overlay = Overlay(bench.base)
    bench.context.db = overlay
    bench.run("SPOP", "s")
    bench.run("SADD", "s", "d")
    bench.run("SINTERSTORE", "t", "s", "s")
    assert bench.base.peek(b"s").value == {b"a", b"b", b"c"}  # type: ignore[union-attr]
    assert overlay.changes[b"s"].value == overlay.changes[b"t"].value
    assert b"d" in overlay.changes[b"s"].value  # type: ignore[operator]


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["SADD k a", "SREM k a", "SISMEMBER k a", "SMISMEMBER k a", "SMEMBERS k", "SCARD k", "SPOP k", "SPOP k 1",
     "SRANDMEMBER k", "SRANDMEMBER k 1", "SMOVE k s a", "SINTER k", "SINTER s k", "SINTER absent k", "SINTERCARD 1 k",
     "SUNION s k", "SDIFF s k", "SDIFF absent k", "SSCAN k 0"],
)  # fmt: skip
def test_a_string_is_refused(bench: Workbench, command: str) -> None:
    bench.run("SET", "k", "v")
    bench.run("SADD", "s", "a")
    assert bench.run(*command.split(" ")) == errors.WRONG_TYPE
    assert bench.run("GET", "k") == b"v"


def test_sets_are_renamed_copied_and_typed(bench: Workbench) -> None:
    bench.run("SADD", "s", "a", "b")
    bench.run("SRANDMEMBER", "s")
    assert bench.wire("TYPE", "s") == b"+set\r\n"
    bench.run("RENAME", "s", "t")
    assert bench.run("COPY", "t", "u") == 1
    bench.run("SADD", "u", "c")
    assert members(bench.run("SMEMBERS", "t")) == {b"a", b"b"}
    assert members(bench.run("SMEMBERS", "u")) == {b"a", b"b", b"c"}


@pytest.mark.parametrize(
    ("members", "encoding"),
    [
        (["1", "-2"], b"intset"),
        ([str(at) for at in range(512)], b"intset"),
        ([str(at) for at in range(513)], b"hashtable"),
        (["1", "x"], b"listpack"),
        (["01"], b"listpack"),
        (["x" * 64], b"listpack"),
        (["x" * 65], b"hashtable"),
        ([f"m{at}" for at in range(128)], b"listpack"),
        ([f"m{at}" for at in range(129)], b"hashtable"),
    ],
)
def test_encodings_are_those_of_redis_7_2(bench: Workbench, members: list[str], encoding: bytes) -> None:
    bench.run("SADD", "s", *members)
    assert bench.run("OBJECT", "ENCODING", "s") == encoding


def test_weights_follow_changes() -> None:
    bench = Workbench()
    for step in range(60):
        bench.run("SADD", "s", step, "x" * step, step % 7)
        bench.run("SREM", "s", step - 3, "x" * (step % 5))
        bench.run("SPOP", "s", step % 3)
        bench.run("SMOVE", "s", "t", step % 7)
        bench.run("SUNIONSTORE", "u", "s", "t")
        bench.check()
    bench.run("DEL", "s", "t", "u")
    assert bench.base.used_bytes() == 0
