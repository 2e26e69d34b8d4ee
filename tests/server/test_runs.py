"""Runs, and the texts for one command alone, do what the handlers do, and leave what is not plain to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import cast

import pytest

from eviction.registry import POLICIES
from persistence.engine import Engine
from persistence.prefixes import RuleTable
from server.answers import ANSWERS
from server.commands.context import Server
from server.commands.spec import COMMANDS
from server.control import CachePort
from server.dispatch import Dispatch
from server.keyspace.keyspace import Keyspace
from server.keyspace.terms import Terms
from server.runs import RUNS
from server.session import Session
from tests.simulation.faults import FakeClock
from tests.simulation.world import FakeServer

START_MS = 1_000_000
ALIKE = ("get", "set", "incr", "lpush", "rpush", "lpop", "rpop", "hset", "sadd", "zadd")


class Clock(FakeClock):
    """Time that is moved by hand."""

    def __init__(self) -> None:
        self.time_ms = START_MS

    def now_ms(self) -> int:
        return self.time_ms

    def wall_offset_ms(self) -> int:
        return 0


class Bench:
    """One client on a database without rules."""

    def __init__(self, protocol: int = 2, policy: str = "noeviction", maxmemory: int = 0) -> None:
        self.clock = Clock()
        self.keyspace = Keyspace(1, 2, Random(3))
        self.keyspace.limit(Terms(maxmemory, policy))
        self.memory = self.keyspace.database(0)
        engine = Engine(RuleTable([]), {}, self.memory, self.clock, Random(1))
        self.dispatch = Dispatch(self.keyspace, engine, self.clock)
        cache = CachePort(engine, self.keyspace, self.clock)
        server = FakeServer(self.keyspace, cache, Random(2), self.clock)
        self.session = Session(cast(Server, server), 1, self.memory)
        self.session.protocol = protocol

    def pipeline(self, commands: Sequence[list[bytes]]) -> bytes:
        """The replies to one read."""
        self.keyspace.tick(self.clock.now_ms())
        out: list[bytes] = []
        position = 0
        while position < len(commands):
            position = self.dispatch.run_batch(self.session, list(commands), position, out)
        return b"".join(out)

    def one_by_one(self, commands: Sequence[list[bytes]]) -> bytes:
        """The same commands, each in a read of its own."""
        return b"".join(self.pipeline([command]) for command in commands)

    def alone(self, commands: Sequence[list[bytes]]) -> bytes:
        """The same, by the road of one short command where that takes it."""
        self.keyspace.tick(self.clock.now_ms())
        out = b""
        for argv in commands:
            wire = self.dispatch.run_one(self.session, argv)
            out += self.pipeline([argv]) if wire is None else wire or b"".join(self.dispatch.long_reply)
        return out

    def state(self) -> object:
        """All that memory knows."""
        memory = self.memory
        entries = [
            (e.key, e.value, e.access_ms, e.deadline_ms, e.weight, e.freq, e.where)
            for table in memory.tables
            for e in table.values()
        ]
        counts = (memory.hits, memory.misses, memory.attention, memory.mutations, memory.expired, memory.used_bytes())
        return sorted(entries, key=lambda entry: entry[0]), counts


def told_calls() -> list[tuple[int, int, int]]:
    return [(COMMANDS[name].calls, COMMANDS[name].failed, COMMANDS[name].rejected) for name in ALIKE]


def walk(seed: int) -> list[list[list[bytes]]]:
    """Pipelines that are mostly runs, on keys of every kind, some with a time to live."""
    random = Random(seed)

    def key() -> bytes:
        return random.choice((b"a", b"b", b"{c}d", b"e", b"list", b"list2", b"hash", b"set", b"zset", b"counter", b"f"))

    def text() -> bytes:
        return random.choice((b"1", b"9", b"99", b"9999", b"-1", b"x" * 2000, b"x", b"9223372036854775807", b""))

    makers: dict[str, Callable[[], list[bytes]]] = {
        "get": lambda: [key()],
        "set": lambda: [key(), text()],
        "incr": lambda: [random.choice((b"counter", b"a", key()))],
        "lpush": lambda: [random.choice((b"list", b"list2", key())), text()],
        "rpush": lambda: [random.choice((b"list", key())), text()],
        "lpop": lambda: [random.choice((b"list", b"list2", key()))],
        "rpop": lambda: [random.choice((b"list", key()))],
        "hset": lambda: [random.choice((b"hash", key())), text(), text()],
        "sadd": lambda: [random.choice((b"set", key())), text()],
        "zadd": lambda: [random.choice((b"zset", key())), random.choice((b"0", b"1", b"1.5", b"x", b"-3")), text()],
    }
    odd: list[list[bytes]] = [
        [b"PEXPIRE", b"a", b"15"],
        [b"PEXPIRE", b"counter", b"15"],
        [b"PEXPIRE", b"list", b"25"],
        [b"SET", b"a", b"5", b"PX", b"10"],
        [b"DEL", b"hash", b"set", b"zset", b"list"],
        [b"HSCAN", b"hash", b"0"],
        [b"GET"],
        [b"get", b"a"],
        [b"PING"],
    ]
    pipelines = []
    for _ in range(60):
        name = random.choice(ALIKE)
        word = random.choice((name, name.upper())).encode()
        pipeline = [[word, *makers[name]()] for _ in range(random.randrange(1, 20))]
        for _ in range(random.randrange(3)):
            pipeline.insert(random.randrange(len(pipeline) + 1), random.choice(odd))
        pipelines.append(pipeline)
    return pipelines


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("seed", range(4))
def test_a_pipeline_leaves_what_its_commands_leave_one_by_one(seed: int, policy: str) -> None:
    limit = (1 << 30) * (seed % 2)
    benches = [Bench(2 + seed % 2, policy if limit else "noeviction", limit) for _ in range(3)]
    outcomes = []
    for bench, send in zip(benches, (Bench.pipeline, Bench.one_by_one, Bench.alone), strict=True):
        before = told_calls()
        replies = []
        for pipeline in walk(seed):
            replies.append(send(bench, pipeline))
            bench.clock.time_ms += 7
        counts = [tuple(b - a for a, b in zip(*each, strict=True)) for each in zip(before, told_calls(), strict=True)]
        outcomes.append((replies, bench.state(), counts))
    assert outcomes[0] == outcomes[1]
    assert outcomes[2] == outcomes[1]


def filled() -> Bench:
    bench = Bench()
    bench.pipeline([[b"SET", b"get", b"v"]])
    bench.pipeline([[b"RPUSH", name, *(b"%d" % n for n in range(7))] for name in (b"lpop", b"rpop")])
    return bench


def rest_of(name: str) -> list[bytes]:
    """What follows the key."""
    none: list[bytes] = []
    some = {"get": none, "incr": none, "lpop": none, "rpop": none, "hset": [b"f", b"v"], "zadd": [b"1", b"m"]}
    return some.get(name, [b"v"])


@pytest.mark.parametrize("name", ALIKE)
def test_a_run_takes_all_that_is_plain(name: str) -> None:
    word = name.encode()
    commands = [[word, word, *rest_of(name)] for _ in range(9)]
    out: list[bytes] = []
    assert RUNS[COMMANDS[name].handler](filled().session, commands, 0, 9, out) == 9
    assert b"".join(out) == filled().one_by_one(commands)


@pytest.mark.parametrize("name", sorted(ANSWERS))
@pytest.mark.parametrize("maxmemory", [0, 1 << 30])
def test_a_plain_command_alone_is_answered_without_its_handler(name: str, maxmemory: int) -> None:
    bench = Bench(maxmemory=maxmemory)
    word = name.encode()
    argv = [word, word, *rest_of(name)]
    bench.one_by_one([[b"SET", b"get", b"v"], argv])
    answer = COMMANDS[name].answer
    assert answer is not None
    twin = Bench(maxmemory=maxmemory)
    twin.one_by_one([[b"SET", b"get", b"v"], argv])
    calls = COMMANDS[name].calls
    assert answer(bench.session, argv) == twin.one_by_one([argv])
    assert COMMANDS[name].calls == calls + 2
    assert bench.dispatch.run_one(bench.session, argv) == twin.one_by_one([argv])
    assert bench.state() == twin.state()


def test_a_key_that_has_run_out_is_not_answered_for() -> None:
    bench = Bench()
    bench.one_by_one([[b"HSET", b"hash", b"f", b"v"], [b"PEXPIRE", b"hash", b"5"]])
    bench.clock.time_ms += 5
    assert bench.alone([[b"HSET", b"hash", b"g", b"v"], [b"HGET", b"hash", b"f"]]) == b":1\r\n$-1\r\n"


def test_a_long_element_ends_a_run_of_pops() -> None:
    bench = Bench()
    elements = [b"1", b"x" * 100_000, b"3"]
    bench.pipeline([[b"RPUSH", b"list", *elements]])
    out: list[bytes] = []
    pops = [[b"LPOP", b"list"]] * 4
    assert RUNS[COMMANDS["lpop"].handler](bench.session, pops, 0, 4, out) == 2
    assert b"".join(out) == b"$1\r\n1\r\n$100000\r\n" + elements[1] + b"\r\n"
    assert bench.pipeline(pops) == b"$1\r\n3\r\n" + b"$-1\r\n" * 3


def test_a_watched_key_that_a_pipeline_changes_breaks_the_transaction() -> None:
    bench = Bench()
    other = Session(bench.session.server, 2, bench.memory)
    other.watch([b"counter"])
    bench.pipeline([[b"INCR", b"counter"]] * 8)
    assert other.broken


def test_a_pipeline_of_writes_is_refused_from_where_memory_is_full() -> None:
    bench = Bench(maxmemory=20_000)
    replies = bench.pipeline([[b"SET", b"key:%d" % number, b"x" * 100] for number in range(400)])
    assert replies.startswith(b"+OK\r\n" * 40)
    assert replies.endswith(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n" * 200)
    assert bench.memory.used_bytes() < 20_000 + 32 * 400


def test_a_pipeline_of_writes_evicts_as_it_goes() -> None:
    bench = Bench(policy="lru", maxmemory=20_000)
    assert bench.pipeline([[b"SET", b"key:%d" % number, b"x" * 100] for number in range(400)]) == b"+OK\r\n" * 400
    assert bench.memory.evicted > 250
    assert bench.memory.used_bytes() < 20_000 + 32 * 400


def test_a_bug_in_a_run_is_told_and_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("a bug")

    bench = Bench()
    monkeypatch.setitem(RUNS, COMMANDS["get"].handler, broken)
    assert bench.pipeline([[b"GET", b"a"]] * 8) == b"-ERR internal error\r\n"
    assert bench.session.close_after_reply
    assert bench.dispatch.internal_errors == 1
