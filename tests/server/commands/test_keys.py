"""Keys whatever they hold, on the database and, where staged copies can serve, on those."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol.replies import OK, Error, Map, Status
from server import errors
from server.commands.spec import COMMANDS, DELETES
from server.keyspace.placement import Share
from server.keyspace.terms import Terms
from tests.server.commands.workbench import OFFSET_MS, START_MS, Workbench

NOW_S = (START_MS + OFFSET_MS) // 1000


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    workbench = Workbench(staged=request.param)
    yield workbench
    workbench.check()


@pytest.fixture
def whole() -> Iterator[Workbench]:
    """For commands that look at the whole database."""
    workbench = Workbench()
    yield workbench
    workbench.check()


# -- deleting and asking ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DEL", "UNLINK"])
def test_deleting_counts_what_was_there(bench: Workbench, name: str) -> None:
    bench.run("MSET", "a", "1", "b", "2")
    bench.run("HSET", "h", "f", "v")
    assert bench.run(name, "a", "h", "a", "absent") == 2
    assert bench.run("EXISTS", "a", "h", "b") == 1
    bench.run("PSETEX", "k", 1, "v")
    bench.pass_time(1)
    assert bench.run(name, "k") == 0


def test_deletes_are_blind_and_leave_the_count_to_the_store() -> None:
    for name in ("del", "unlink"):
        spec = COMMANDS[name]
        assert spec.flags & DELETES
        assert spec.blind is not None
        assert spec.blind([b"DEL", b"k"])


def test_exists_and_touch_count_repetitions(bench: Workbench) -> None:
    bench.run("SET", "a", "1")
    assert bench.run("EXISTS", "a", "a", "absent") == 2
    assert bench.run("TOUCH", "a", "a", "absent") == 2


def test_type(bench: Workbench) -> None:
    bench.run("SET", "s", "1")
    bench.run("HSET", "h", "f", "v")
    assert bench.run("TYPE", "s") == Status("string")
    assert bench.run("TYPE", "h") == Status("hash")
    assert bench.run("TYPE", "absent") == Status("none")


def test_asking_about_a_key_is_no_use_of_it(whole: Workbench) -> None:
    whole.run("SET", "k", "v")
    whole.pass_time(7_900)
    for words in (["EXISTS", "k"], ["TYPE", "k"], ["TTL", "k"], ["PTTL", "k"], ["OBJECT", "ENCODING", "k"]):
        whole.run(*words)
    assert whole.run("OBJECT", "IDLETIME", "k") == 7
    whole.run("TOUCH", "k")
    assert whole.run("OBJECT", "IDLETIME", "k") == 0


def test_asking_about_an_absent_key_calls_for_attention(whole: Workbench) -> None:
    for words in (["EXISTS", "k"], ["TYPE", "k"], ["TTL", "k"], ["OBJECT", "ENCODING", "k"], ["EXPIRETIME", "k"]):
        before = whole.base.attention
        whole.run(*words)
        assert whole.base.attention == before + 1


# -- lifetimes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "amount", "pttl"),
    [
        ("EXPIRE", 10, 10_000),
        ("PEXPIRE", 1501, 1501),
        ("EXPIREAT", NOW_S + 5, 5000),
        ("PEXPIREAT", START_MS + OFFSET_MS + 77, 77),
    ],
)
def test_lifetimes(bench: Workbench, name: str, amount: int, pttl: int) -> None:
    assert bench.run(name, "k", amount) == 0
    bench.run("SET", "k", "v")
    assert bench.run(name, "k", amount) == 1
    assert bench.run("PTTL", "k") == pttl
    assert bench.run("TTL", "k") == (pttl + 500) // 1000
    assert bench.run("PEXPIRETIME", "k") == START_MS + OFFSET_MS + pttl
    assert bench.run("EXPIRETIME", "k") == (START_MS + OFFSET_MS + pttl + 500) // 1000
    bench.pass_time(pttl)
    assert bench.run("EXISTS", "k") == 0
    assert bench.run("TTL", "k") == -2


@pytest.mark.parametrize(
    ("name", "amount"),
    [("EXPIRE", 0), ("EXPIRE", -1), ("PEXPIRE", 0), ("EXPIREAT", NOW_S), ("PEXPIREAT", 1), ("EXPIREAT", -5)],
)
def test_a_time_in_the_past_deletes(bench: Workbench, name: str, amount: int) -> None:
    bench.run("SET", "k", "v")
    assert bench.run(name, "k", amount) == 1
    assert bench.run("EXISTS", "k") == 0


@pytest.mark.parametrize(
    ("option", "without", "same_time", "earlier", "later"),
    # The replies for a key without a lifetime, and for one that has the same, an earlier or a later one.
    [("NX", 1, 0, 0, 0), ("XX", 0, 1, 1, 1), ("GT", 0, 0, 1, 0), ("lt", 1, 0, 0, 1)],
)
def test_conditions(bench: Workbench, option: str, without: int, same_time: int, earlier: int, later: int) -> None:
    for present, expected in ((None, without), (100, same_time), (50, earlier), (200, later)):
        bench.run("SET", "k", "v")
        if present is not None:
            bench.run("EXPIRE", "k", present)
        assert bench.run("EXPIRE", "k", 100, option) == expected
        before = -1 if present is None else present
        assert bench.run("TTL", "k") == (100 if expected else before)


def test_conditions_that_conflict(bench: Workbench) -> None:
    nx = Error("ERR NX and XX, GT or LT options at the same time are not compatible")
    bench.run("SET", "k", "v")
    for other in ("XX", "GT", "LT"):
        assert bench.run("EXPIRE", "k", 10, "NX", other) == nx
    assert bench.run("EXPIRE", "k", 10, "GT", "LT") == Error(
        "ERR GT and LT options at the same time are not compatible"
    )
    assert bench.run("EXPIRE", "k", 10, "junk") == Error("ERR Unsupported option junk")
    assert bench.run("EXPIRE", "k", 10, "XX", "GT") == 0
    assert bench.run("TTL", "k") == -1


def test_times_that_are_none(bench: Workbench) -> None:
    bench.run("SET", "k", "v")
    assert bench.run("EXPIRE", "k", "x") == errors.NOT_INTEGER
    for name, amount in (
        ("EXPIRE", 2**63 - 1),
        ("EXPIRE", -(2**63)),
        ("EXPIREAT", 2**62),
        ("PEXPIRE", 2**63 - 1),
        ("EXPIRE", (2**63 - 1) // 1000),
    ):
        assert bench.run(name, "k", amount) == errors.invalid_expire(name.lower())
    assert bench.run("TTL", "k") == -1


def test_a_deadline_beyond_all_clocks_is_still_a_deadline(bench: Workbench) -> None:
    bench.run("SET", "k", "v")
    assert bench.run("PEXPIREAT", "k", 2**63 - 1) == 1
    ttl = bench.run("TTL", "k")
    assert isinstance(ttl, int)
    assert ttl > 10**15
    assert bench.run("PERSIST", "k") == 1


def test_persist(bench: Workbench) -> None:
    assert bench.run("PERSIST", "k") == 0
    bench.run("SET", "k", "v", "EX", 10)
    assert bench.run("PERSIST", "k") == 1
    assert bench.run("PERSIST", "k") == 0
    assert bench.run("TTL", "k") == -1
    assert bench.run("EXPIRETIME", "k") == -1
    assert bench.run("PEXPIRETIME", "absent") == -2


# -- renaming, copying, moving ----------------------------------------------------------------------------------------


def test_rename(bench: Workbench) -> None:
    assert bench.run("RENAME", "a", "b") == errors.NO_SUCH_KEY
    assert bench.run("RENAME", "a", "a") == errors.NO_SUCH_KEY
    bench.run("HSET", "a", "f", "v")
    bench.run("EXPIRE", "a", 10)
    bench.run("SET", "b", "old", "EX", 99)
    assert bench.run("RENAME", "a", "b") == OK
    assert bench.run("EXISTS", "a") == 0
    assert bench.run("HGETALL", "b") == Map([(b"f", b"v")])
    assert bench.run("TTL", "b") == 10
    assert bench.run("RENAME", "b", "b") == OK
    assert bench.run("HSET", "b", "g", "w") == 1


def test_renamenx(bench: Workbench) -> None:
    assert bench.run("RENAMENX", "a", "b") == errors.NO_SUCH_KEY
    bench.run("MSET", "a", "1", "b", "2")
    assert bench.run("RENAMENX", "a", "b") == 0
    assert bench.run("RENAMENX", "a", "a") == 0
    assert bench.run("RENAMENX", "a", "c") == 1
    assert bench.run("MGET", "a", "b", "c") == [None, b"2", b"1"]


def test_copy_is_independent(bench: Workbench) -> None:
    assert bench.run("COPY", "a", "b") == 0
    bench.run("HSET", "a", "f", "v")
    bench.run("EXPIRE", "a", 10)
    assert bench.run("COPY", "a", "b") == 1
    bench.run("HSET", "b", "f", "changed")
    assert bench.run("HGET", "a", "f") == b"v"
    assert bench.run("TTL", "b") == 10
    assert bench.run("COPY", "a", "b") == 0
    assert bench.run("COPY", "a", "b", "replace") == 1
    assert bench.run("HGET", "b", "f") == b"v"


def test_copy_refusals(bench: Workbench) -> None:
    bench.run("SET", "a", "1")
    assert bench.run("COPY", "a", "a") == errors.SAME_OBJECT
    assert bench.run("COPY", "a", "a", "DB", 0) == errors.SAME_OBJECT
    assert bench.run("COPY", "a", "b", "DB") == errors.SYNTAX
    assert bench.run("COPY", "a", "b", "junk") == errors.SYNTAX
    assert bench.run("COPY", "a", "b", "DB", 16) == errors.INDEX_OUT_OF_RANGE
    assert bench.run("COPY", "a", "b", "DB", -1) == errors.INDEX_OUT_OF_RANGE
    assert bench.run("COPY", "a", "b", "DB", "x") == errors.NOT_INTEGER
    assert bench.run("COPY", "a", "b", "DB", 2**40) == Error(
        "ERR value is out of range, value must between -2147483648 and 2147483647"
    )
    assert bench.run("EXISTS", "b") == 0


def test_copy_and_move_to_another_database(whole: Workbench) -> None:
    bench = whole
    bench.run("SET", "a", "1", "EX", 10)
    assert bench.run("COPY", "a", "a", "DB", 1) == 1
    assert bench.run("MOVE", "a", 1) == 0
    assert bench.run("MOVE", "a", 2) == 1
    assert bench.run("MOVE", "a", 2) == 0
    assert bench.run("EXISTS", "a") == 0
    for index in (1, 2):
        bench.context.select(index)
        assert bench.run("GET", "a") == b"1"
        assert bench.run("TTL", "a") == 10


def test_keys_under_a_rule_do_not_leave_or_enter_database_0(whole: Workbench) -> None:
    whole.run("SET", "a", "1")
    whole.server.cache.managed.add(b"a")
    assert whole.run("MOVE", "a", 1) == errors.MANAGED_ELSEWHERE
    assert whole.run("COPY", "a", "b", "DB", 1) == errors.MANAGED_ELSEWHERE
    whole.context.select(1)
    whole.run("SET", "b", "1")
    assert whole.run("COPY", "b", "a", "DB", 0) == errors.MANAGED_ELSEWHERE
    assert whole.run("COPY", "b", "a", "DB", 2) == 1


def test_staged_transaction_does_not_reach_into_another_database() -> None:
    bench = Workbench(staged=True)
    bench.run("SET", "a", "1")
    assert bench.run("MOVE", "a", 1) == errors.STAGED_ELSEWHERE
    assert bench.run("COPY", "a", "b", "DB", 1) == errors.STAGED_ELSEWHERE


def test_move_refusals(bench: Workbench) -> None:
    bench.run("SET", "a", "1")
    assert bench.run("MOVE", "a", 0) == errors.SAME_OBJECT
    assert bench.run("MOVE", "a", 16) == errors.INDEX_OUT_OF_RANGE
    assert bench.run("MOVE", "a", "x") == errors.NOT_INTEGER
    assert bench.run("GET", "a") == b"1"


# -- finding ----------------------------------------------------------------------------------------------------------


def test_keys(whole: Workbench) -> None:
    whole.run("MSET", "one", "1", "two", "2", "three", "3", b"\xff", "4")
    whole.run("PSETEX", "gone", 1, "")
    whole.pass_time(1)

    def found(pattern: bytes) -> list[bytes]:
        reply = whole.run("KEYS", pattern)
        assert isinstance(reply, list)
        return sorted(reply)

    assert found(b"*") == [b"one", b"three", b"two", b"\xff"]
    assert found(b"t*") == [b"three", b"two"]
    assert found(b"t??") == [b"two"]
    assert found(b"one") == [b"one"]
    assert found(b"gone") == []
    assert found(b"[^a-z]") == [b"\xff"]


def test_randomkey_of_an_empty_database(whole: Workbench) -> None:
    assert whole.run("RANDOMKEY") is None
    whole.run("PSETEX", "k", 1, "")
    whole.pass_time(1)
    assert whole.run("RANDOMKEY") is None


def test_randomkey_gives_every_key_the_same_chance(whole: Workbench) -> None:
    # Three keys share a slot, one has its own: a table drawn at random would give that one half of the draws.
    names = [b"{a}1", b"{a}2", b"{a}3", b"b"]
    for name in names:
        whole.run("SET", name, "")
    draws = [whole.run("RANDOMKEY") for _ in range(2000)]
    for name in names:
        assert 400 < draws.count(name) < 600


def test_randomkey_finds_the_living_among_many_that_have_run_out(whole: Workbench) -> None:
    for at in range(3000):
        whole.run("PSETEX", f"k{at}", 1, "")
    whole.run("SET", "alive", "")
    whole.pass_time(1)
    assert whole.run("RANDOMKEY") == b"alive"


# -- OBJECT -----------------------------------------------------------------------------------------------------------


def test_object_encoding(bench: Workbench) -> None:
    for value, encoding in (("12", b"int"), ("012", b"embstr"), ("x" * 44, b"embstr"), ("x" * 45, b"raw")):
        bench.run("SET", "k", value)
        assert bench.run("OBJECT", "ENCODING", "k") == encoding
    bench.run("HSET", "h", "f", "x" * 64)
    assert bench.run("OBJECT", "encoding", "h") == b"listpack"
    bench.run("HSET", "h", "f", "x" * 65)
    assert bench.run("OBJECT", "ENCODING", "h") == b"hashtable"
    assert bench.run("OBJECT", "ENCODING", "absent") is None


def test_object_freq_and_idletime_depend_on_the_policy(whole: Workbench) -> None:
    whole.run("SET", "k", "v")
    assert isinstance(whole.run("OBJECT", "FREQ", "k"), Error)
    assert whole.run("OBJECT", "IDLETIME", "k") == 0
    whole.server.keyspace.limit(Terms(1 << 20, "lfu"))
    assert whole.run("OBJECT", "FREQ", "k") == 5
    assert isinstance(whole.run("OBJECT", "IDLETIME", "k"), Error)
    assert whole.run("OBJECT", "FREQ", "absent") is None
    assert whole.run("OBJECT", "IDLETIME", "absent") is None
    # Its counts are kept elsewhere, and age.
    whole.server.keyspace.limit(Terms(1 << 20, "w-tinylfu"))
    assert isinstance(whole.run("OBJECT", "FREQ", "k"), Error)


def test_object_freq_and_idletime_ask_the_policy_of_the_keys_own_prefix(whole: Workbench) -> None:
    keyspace = whole.server.keyspace
    keyspace.limit(Terms(1 << 20, "lru"))
    keyspace.partition([Share("hot:", b"hot:", Terms(1 << 18, "lfu")), Share("cold:", b"cold:", None)])
    for key in ("hot:1", "cold:1", "k"):
        whole.run("SET", key, "v")
    for _ in range(200):
        whole.run("GET", "hot:1")
    frequency = whole.run("OBJECT", "FREQ", "hot:1")
    assert isinstance(frequency, int) and frequency > 5
    assert isinstance(whole.run("OBJECT", "IDLETIME", "hot:1"), Error)
    for key in ("cold:1", "k"):
        assert isinstance(whole.run("OBJECT", "FREQ", key), Error) and whole.run("OBJECT", "IDLETIME", key) == 0
    # Rules act in database 0 alone.
    whole.context.select(1)
    whole.run("SET", "hot:1", "v")
    assert isinstance(whole.run("OBJECT", "FREQ", "hot:1"), Error)


def test_object_refcount(bench: Workbench) -> None:
    bench.run("MSET", "small", "9999", "large", "10000", "word", "x")
    assert bench.run("OBJECT", "REFCOUNT", "small") == 2147483647
    assert bench.run("OBJECT", "REFCOUNT", "large") == 1
    assert bench.run("OBJECT", "REFCOUNT", "word") == 1


def test_object_subcommands(bench: Workbench) -> None:
    assert bench.run("OBJECT", "what", "k") == Error("ERR unknown subcommand 'what'. Try OBJECT HELP.")
    assert bench.run("OBJECT", "ENCODING") == errors.wrong_arity("object|encoding")
    lines = bench.run("OBJECT", "HELP")
    assert isinstance(lines, list)
    assert all(isinstance(line, Status) for line in lines)
