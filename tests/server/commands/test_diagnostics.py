"""SLOWLOG, LATENCY, MONITOR, MEMORY, DEBUG and WAIT, on a running server and its parts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from server.app import Node
from server.commands.spec import COMMANDS
from server.latency import BUCKETS_US, Histogram, Latency
from server.monitors import quoted
from server.redaction import without_secrets
from server.slowlog import SlowLog
from server.stopwatch import Stopwatch, Timed, is_quick
from tests.server.commands.workbench import Workbench
from tests.support.node import client_of, running_node
from tests.support.waiting import eventually

DEBUG = "[server]\nport = 0\nenable_debug_command = true\n"


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running_node(DEBUG) as started:
        yield started


@pytest.fixture
async def client(node: Node) -> AsyncIterator[redis.asyncio.Redis]:
    client = client_of(node, protocol=2)
    yield client
    await client.aclose()


# -- SLOWLOG ----------------------------------------------------------------------------------------------------------


async def test_slow_log_has_what_took_long_enough(client: redis.asyncio.Redis) -> None:
    await client.client_setname("me")
    await client.config_set("slowlog-log-slower-than", 0)
    await client.set("k", "v")
    await client.lrange("nosuch", 0, -1)
    newest = await client.slowlog_get(2)
    assert [entry["command"] for entry in newest] == [b"LRANGE nosuch 0 -1", b"SET k v"]
    first = newest[0]
    assert first["client_name"] == b"me"
    assert first["client_address"].startswith(b"127.0.0.1:")
    assert first["duration"] >= 0
    assert first["id"] == newest[1]["id"] + 1


async def test_quick_commands_are_timed_only_below_a_millisecond(client: redis.asyncio.Redis) -> None:
    timed = lambda name: isinstance(getattr(COMMANDS[name].handler, "__self__", None), Timed)  # noqa: E731
    assert not timed("get")
    assert not timed("set")
    assert timed("lrange")
    assert timed("sort")
    await client.config_set("slowlog-log-slower-than", 999)
    assert timed("get")
    await client.config_set("slowlog-log-slower-than", -1)
    assert not timed("lrange")
    await client.config_set("latency-monitor-threshold", 5)
    assert timed("lrange")
    await client.config_set("latency-tracking", "yes")
    assert timed("get")


async def test_writes_under_rules_are_timed_while_all_commands_are() -> None:
    rules = "".join(
        f'[prefix."{write}:"]\nstore = "main"\nread = "read-through"\nwrite = "write-{write}"\n'
        for write in ("behind", "through")
    )
    async with (
        running_node(f'[server]\nport = 0\n[stores.main]\nurl = "memory://"\n{rules}') as node,
        client_of(node, protocol=2) as client,
    ):

        async def write_all() -> None:
            for head in ("behind", "through"):
                await client.set(f"{head}:1", "v")
                await client.pipeline(transaction=False).set(f"{head}:2", "v").set(f"{head}:3", "v").execute()
                await client.execute_command("SETEX", f"{head}:4", 60, "v")
                await client.delete(f"{head}:1")

        async def calls() -> dict[bytes, int]:
            told = await client.execute_command("LATENCY", "HISTOGRAM", "SET", "SETEX", "DEL")
            return {name: counts[1] for name, counts in zip(told[::2], told[1::2], strict=True)}

        await client.config_set("latency-tracking", "yes")
        await write_all()
        assert await calls() == {b"set": 6, b"setex": 2, b"del": 2}
        await client.config_set("latency-tracking", "no")
        await client.config_set("slowlog-log-slower-than", 0)
        await write_all()
        shown = [entry["command"] for entry in await client.slowlog_get(20)]
        assert shown.count(b"SET behind:2 v") == shown.count(b"DEL through:1") == 1
        await client.config_set("slowlog-log-slower-than", 1000)
        await client.slowlog_reset()
        await write_all()
        assert await client.slowlog_len() == 0


async def test_handlers_are_plain_again_when_the_server_has_stopped() -> None:
    async with running_node("") as node, client_of(node) as client:
        await client.config_set("slowlog-log-slower-than", 0)
    assert not any(isinstance(getattr(spec.handler, "__self__", None), Timed) for spec in COMMANDS.values())


async def test_slow_log_keeps_to_its_length(client: redis.asyncio.Redis) -> None:
    await client.config_set("slowlog-max-len", 3)
    await client.config_set("slowlog-log-slower-than", 0)
    for number in range(5):
        await client.set("k", number)
    assert await client.slowlog_len() == 3
    assert len(await client.execute_command("SLOWLOG", "GET", -1)) == 3
    await client.config_set("slowlog-max-len", 1)
    assert await client.slowlog_len() == 1
    await client.config_set("slowlog-log-slower-than", -1)
    await client.slowlog_reset()
    assert await client.slowlog_len() == 0
    with pytest.raises(ResponseError, match="count should be greater than or equal to -1"):
        await client.execute_command("SLOWLOG", "GET", -2)


async def test_passwords_are_in_no_log() -> None:
    async with (
        running_node('[server]\nport = 0\npassword = "secret"\n') as node,
        client_of(node, password="secret") as client,
        client_of(node, password="secret") as watching,
    ):
        lines = await monitored(watching)
        await client.config_set("slowlog-log-slower-than", 0)
        async with client_of(node, password="secret") as another:
            await another.ping()
        await client.config_set("requirepass", "secret")
        await client.execute_command("HELLO", 3, "AUTH", "default", "secret")
        await client.set("last", "one")
        await eventually(lambda: any(b"last" in line for line in lines))
        entries = await client.execute_command("SLOWLOG", "GET", -1)
        assert b"secret" not in b"".join(lines)
        assert b"secret" not in repr(entries).encode()
        assert any(b'"AUTH" "(redacted)"' in line for line in lines)


def test_entries_are_cut_to_a_bounded_size() -> None:
    log = SlowLog(0, 10)
    log.note(1, 2, [b"MSET", *[b"x" * 200] * 99], b"a", b"n")
    (entry,) = log.entries(10)
    words = entry[3]
    assert isinstance(words, list)
    assert len(words) == 32
    assert words[1] == b"x" * 128 + b"... (72 more bytes)"
    assert words[-1] == b"... (69 more arguments)"
    log.note(1, 2, [b"x"] * 32, b"a", b"n")
    assert log.entries(1)[0][3] == [b"x"] * 32


@pytest.mark.parametrize(
    ("name", "words", "shown"),
    [
        ("auth", ["AUTH", "p"], ["AUTH", "*"]),
        ("auth", ["AUTH", "u", "p"], ["AUTH", "*", "*"]),
        ("hello", ["HELLO", "3", "auth", "u", "p", "SETNAME", "n"], ["HELLO", "3", "auth", "*", "*", "SETNAME", "n"]),
        ("hello", ["HELLO", "3", "AUTH", "u"], ["HELLO", "3", "AUTH", "*"]),
        (
            "config|set",
            ["CONFIG", "SET", "maxmemory", "1", "Requirepass", "p"],
            ["CONFIG", "SET", "maxmemory", "1", "Requirepass", "*"],
        ),
        ("config|set", ["CONFIG", "SET", "tls-key-file-pass", "p"], ["CONFIG", "SET", "tls-key-file-pass", "*"]),
        ("set", ["SET", "AUTH", "p"], ["SET", "AUTH", "p"]),
    ],
)
def test_secrets_are_replaced(name: str, words: list[str], shown: list[str]) -> None:
    parent, _, child = name.partition("|")
    spec = COMMANDS[parent].subcommands[child.encode()] if child else COMMANDS[parent]
    expected = [b"(redacted)" if word == "*" else word.encode() for word in shown]
    assert without_secrets(spec, [word.encode() for word in words]) == expected


# -- the stopwatch ----------------------------------------------------------------------------------------------------


@pytest.fixture
def watch() -> Iterator[tuple[Stopwatch, list[int]]]:
    """A stopwatch whose clock jumps by what stands in the list."""
    now, step = [0], [0]

    def now_ns() -> int:
        now[0] += step[0]
        return now[0]

    stopwatch = Stopwatch(SlowLog(1000, 10), Latency(0), now_ns, lambda: 1_700_000_000_000_000)
    yield stopwatch, step
    stopwatch.stop()


def test_error_is_timed_like_an_answer(watch: tuple[Stopwatch, list[int]]) -> None:
    stopwatch, step = watch
    bench = Workbench()
    bench.server.clients = FakeClients()  # type: ignore[attr-defined]
    stopwatch.start()
    step[0] = 999_999
    bench.run("LRANGE", "l", 0, -1)
    assert len(stopwatch.slow_log) == 0
    step[0] = 1_000_000
    bench.run("LRANGE", "l", "x", -1)
    assert stopwatch.slow_log.entries(1) == [
        [0, 1_700_000_000, 1000, [b"LRANGE", b"l", b"x", b"-1"], b"1.2.3.4:5", b""]
    ]


class FakeClients:
    def describe(self, client_id: int) -> dict[str, str]:
        return {"addr": "1.2.3.4:5"}


def test_events_tell_fast_commands_from_others(watch: tuple[Stopwatch, list[int]]) -> None:
    stopwatch, step = watch
    stopwatch.slow_log.slower_than_us = -1
    stopwatch.latency.threshold_ms = 5
    stopwatch.is_tracking = True
    stopwatch.start()
    bench = Workbench()
    step[0] = 7_000_000
    bench.run("GET", "k")
    bench.run("LRANGE", "l", 0, -1)
    assert sorted(stopwatch.latency.latest()) == [
        [b"command", 1_700_000_000, 7, 7],
        [b"fast-command", 1_700_000_000, 7, 7],
    ]
    assert stopwatch.histograms["get"].cumulative() == [(8454, 1)]


def test_later_stopwatch_takes_over_and_an_earlier_one_leaves_it_alone(watch: tuple[Stopwatch, list[int]]) -> None:
    first, _ = watch
    plain = COMMANDS["lrange"].handler
    first.start()
    second = Stopwatch(SlowLog(1000, 10), Latency(0), lambda: 0, lambda: 0)
    second.start()
    first.stop()
    timed = getattr(COMMANDS["lrange"].handler, "__self__", None)
    assert isinstance(timed, Timed)
    assert timed.watch is second
    assert timed.handler is plain
    second.stop()
    assert COMMANDS["lrange"].handler is plain


def test_what_is_quick_follows_from_the_table() -> None:
    assert all(is_quick(COMMANDS[name]) for name in ("get", "set", "incr", "hget", "zadd", "expire"))
    assert not any(is_quick(COMMANDS[name]) for name in ("keys", "sort", "lrange", "smembers", "del", "sunion"))


# -- LATENCY ----------------------------------------------------------------------------------------------------------


def test_event_keeps_the_longest_of_each_second() -> None:
    latency = Latency(1)
    for unix_s, took_ms in ((1, 5), (1, 9), (1, 2), (2, 3)):
        latency.note("command", unix_s, took_ms)
    assert latency.history("command") == [[1, 9], [2, 3]]
    assert latency.latest() == [[b"command", 2, 3, 9]]
    for second in range(500):
        latency.note("command", second, 1)
    assert len(latency.history("command")) == 160
    assert latency.reset(["nosuch"]) == 0
    assert latency.reset([]) == 1
    assert latency.history("command") == []


def test_histogram_counts_cumulatively() -> None:
    histogram = Histogram()
    for took_us in (0, 1, 2, 3, 33, 34, 5_000_000):
        histogram.add(took_us * 1000 + 999)
    assert histogram.cumulative() == [(1, 2), (2, 3), (4, 4), (33, 5), (66, 6), (2 * BUCKETS_US[-1], 7)]
    assert histogram.total_ns == 5_000_073 * 1000 + 7 * 999


async def test_latency_is_told(client: redis.asyncio.Redis) -> None:
    assert await client.execute_command("LATENCY", "LATEST") == []
    assert await client.execute_command("LATENCY", "HISTORY", "command") == []
    assert await client.execute_command("LATENCY", "RESET", "command") == 0
    assert await client.execute_command("LATENCY", "HISTOGRAM") == []
    await client.config_set("latency-tracking", "yes")
    await client.set("k", "v")
    await client.set("k", "v")
    await client.execute_command("CONFIG", "GET", "port")
    name, counts = await client.execute_command("LATENCY", "HISTOGRAM", "SET")
    assert name == b"set"
    assert counts[:2] == [b"calls", 2]
    assert counts[3][-1] == 2
    assert (await client.execute_command("LATENCY", "HISTOGRAM", "config"))[0] == b"config|get"
    await client.config_set("latency-tracking", "no")
    assert await client.execute_command("LATENCY", "HISTOGRAM") == []


async def test_commandstats_have_times_while_calls_are_timed(client: redis.asyncio.Redis) -> None:
    await client.get("k")
    untimed = (await client.info("commandstats"))["cmdstat_get"]
    assert list(untimed) == ["calls", "usec", "usec_per_call", "rejected_calls", "failed_calls"]
    assert (untimed["usec"], untimed["usec_per_call"]) == (0, 0)
    await client.config_set("latency-tracking", "yes")
    for number in range(1000):
        await client.sadd("s", number)
    await client.sort("s")
    timed = (await client.info("commandstats"))["cmdstat_sort"]
    assert timed["usec"] > 0
    assert timed["usec_per_call"] == pytest.approx(timed["usec"], abs=1)
    await client.config_resetstat()
    assert "cmdstat_sort" not in await client.info("commandstats")
    await client.sort("s")
    assert (await client.info("commandstats"))["cmdstat_sort"]["usec_per_call"] > 0


async def test_errors_are_counted_as_failed_calls_and_refusals_as_rejected(client: redis.asyncio.Redis) -> None:
    async def counted(name: str) -> tuple[int, int, int]:
        stats = (await client.info("commandstats"))[f"cmdstat_{name}"]
        return stats["calls"], stats["rejected_calls"], stats["failed_calls"]

    await client.config_resetstat()
    await client.rpush("list", "x")
    # Returned, raised, and in a pipeline.
    for command in (("GET", "list"), ("EXPIRE", "list", "soon")):
        with pytest.raises(redis.ResponseError):
            await client.execute_command(*command)
    pipeline = client.pipeline(transaction=False)
    pipeline.get("list").get("list").get("nothing").execute_command("GET")
    await pipeline.execute(raise_on_error=False)
    assert await counted("get") == (4, 1, 3)
    assert await counted("expire") == (1, 0, 1)
    # In a transaction, and called by a script.
    transaction = client.pipeline()
    transaction.incr("list").incr("n")
    await transaction.execute(raise_on_error=False)
    assert await counted("incrby") == (2, 0, 1)
    await client.eval("return redis.pcall('INCRBY', 'list', 1)['err'] and redis.call('INCRBY', 'n', 1)", 1, "list")
    assert await counted("incrby") == (4, 0, 2)


# -- MONITOR ----------------------------------------------------------------------------------------------------------


async def monitored(client: redis.asyncio.Redis) -> list[bytes]:
    """What MONITOR sends to this client, as it comes."""
    lines: list[bytes] = []
    connection = await client.connection_pool.get_connection()
    await connection.send_command("MONITOR")
    assert await connection.read_response() == b"OK"

    async def read() -> None:
        while True:
            lines.append(await connection.read_response(disconnect_on_error=False))

    task = asyncio.get_running_loop().create_task(read())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    TASKS.append(task)
    return lines


# Kept so that a reader is not collected.
TASKS: list[asyncio.Task[None]] = []


async def test_monitor_shows_what_everybody_does(node: Node, client: redis.asyncio.Redis) -> None:
    async with client_of(node) as watching:
        lines = await monitored(watching)
        await client.set("k", b"v\x00\n\"'\xff")
        await client.execute_command("SELECT", 3)
        await client.get("k")
        async with client.pipeline() as pipe:
            pipe.set("a", 1)
            pipe.incr("a")
            await pipe.execute()
        await client.config_get("port")
        with pytest.raises(ResponseError):
            await client.execute_command("NOSUCH")
        await client.execute_command("PING", "last")
        await eventually(lambda: any(b"last" in line for line in lines))
        shown = [re.sub(rb"^\d+\.\d{6} ", b"", line) for line in lines]
        assert all(re.match(rb"\d+\.\d{6} \[\d 127\.0\.0\.1:\d+\] \"", line) for line in lines)
        commands = [line.partition(b"] ")[2] for line in shown if b"CLIENT" not in line and b"HELLO" not in line]
        assert commands == [
            b'"SET" "k" "v\\x00\\n\\"\'\\xff"',
            b'"SELECT" "3"',
            b'"GET" "k"',
            b'"MULTI"',
            b'"SET" "a" "1"',
            b'"INCRBY" "a" "1"',
            b'"EXEC"',
            b'"PING" "last"',
        ]
        assert shown[-1].startswith(b"[3 ")


async def test_without_a_monitor_the_short_road_is_open_again(node: Node, client: redis.asyncio.Redis) -> None:
    short = node.dispatch._ordinary
    assert b"GET" in short
    watching = client_of(node)
    await monitored(watching)
    assert node.dispatch._ordinary == {}
    assert "O" in {fields["flags"] for fields in await client.client_list()}
    await watching.aclose()
    await watching.connection_pool.disconnect()
    await eventually(lambda: node.dispatch._ordinary is short)
    assert node.diagnostics.monitors.sessions == []


async def test_monitoring_client_keeps_off_the_keyspace_until_reset(node: Node) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.listener.port)
    for request, reply in [
        (b"MONITOR", b"+OK\r\n"),
        (b"GET k", b"-ERR Replica can't interact with the keyspace\r\n"),
        (b"RESET", None),
        (b"GET k", b"$-1\r\n"),
    ]:
        writer.write(request + b"\r\n")
        line = await reader.readline()
        while line.startswith(b"+1"):
            line = await reader.readline()
        assert line == (reply if reply is not None else b"+RESET\r\n")
    writer.close()
    await writer.wait_closed()


def test_words_are_quoted_as_redis_quotes_them() -> None:
    assert quoted(b"") == b'""'
    assert quoted(b"plain 'text'") == b"\"plain 'text'\""
    assert quoted(b'"\\\n\r\t\a\b\x7f\x80') == b'"\\"\\\\\\n\\r\\t\\a\\b\\x7f\\x80"'


# -- MEMORY -----------------------------------------------------------------------------------------------------------


async def test_memory_of_a_key_is_what_is_counted(node: Node, client: redis.asyncio.Redis) -> None:
    await client.hset("h", mapping={str(number): "x" * 100 for number in range(100)})
    usage = await client.memory_usage("h")
    assert usage == node.keyspace.used()
    assert await client.memory_usage("h", samples=0) == usage
    assert await client.memory_usage("nosuch") is None
    with pytest.raises(ResponseError, match="syntax error"):
        await client.execute_command("MEMORY", "USAGE", "h", "SAMPLES", -1)
    stats = await client.memory_stats()
    assert stats["keys.count"] == 1
    assert stats["dataset.bytes"] == usage
    assert b"next to nothing" in await client.execute_command("MEMORY", "DOCTOR")
    assert await client.memory_purge()
    assert b"not supported" in await client.execute_command("MEMORY", "MALLOC-STATS")


def test_memory_of_a_staged_copy_is_weighed() -> None:
    plain, staged = Workbench(), Workbench(True)
    for bench in (plain, staged):
        bench.run("HSET", "h", "f", "v")
    assert plain.run("MEMORY", "USAGE", "h") == staged.run("MEMORY", "USAGE", "h")


# -- DEBUG and WAIT ---------------------------------------------------------------------------------------------------


async def test_debug_is_refused_where_it_is_not_allowed() -> None:
    async with running_node("") as node, client_of(node) as client:
        for words in (["SLEEP", "0"], ["OBJECT", "k"], ["NOSUCH"], ["SET-ACTIVE-EXPIRE", "0"]):
            with pytest.raises(ResponseError, match="DEBUG command not allowed"):
                await client.execute_command("DEBUG", *words)


async def test_debug_sleep_holds_up_its_own_client_alone(node: Node, client: redis.asyncio.Redis) -> None:
    await client.config_set("slowlog-log-slower-than", 1000)
    async with client_of(node) as sleeper:
        sleep = asyncio.ensure_future(sleeper.execute_command("DEBUG", "SLEEP", "0.05"))
        assert await client.ping()
        assert not sleep.done()
        assert await sleep == b"OK"
    assert (await client.slowlog_get(1))[0]["command"] == b"DEBUG SLEEP 0.05"


async def test_debug_object_tells_of_the_entry(client: redis.asyncio.Redis) -> None:
    await client.set("k", "12345")
    told = await client.execute_command("DEBUG", "OBJECT", "k")
    assert b"encoding:int serializedlength:3 " in told
    with pytest.raises(ResponseError, match="no such key"):
        await client.execute_command("DEBUG", "OBJECT", "nosuch")


async def test_active_expiry_can_be_switched_off(node: Node, client: redis.asyncio.Redis) -> None:
    await client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    assert not node.background.expires
    await client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 1)
    await client.set("k", "v", px=1)
    await client.hset("h", "f", "v")
    await client.execute_command("HPEXPIRE", "h", 1, "FIELDS", 1, "f")
    await eventually(lambda: not len(node.keyspace.database(0)))


async def test_other_parts_of_debug(node: Node, client: redis.asyncio.Redis) -> None:
    assert await client.execute_command("DEBUG", "STRINGMATCH-LEN", 100, "a*b") == 0
    assert await client.execute_command("DEBUG", "STRINGMATCH-LEN", 100, "a*a") == 1
    assert await client.execute_command("DEBUG", "PROTOCOL", "integer") == 12345
    with pytest.raises(ResponseError, match="Wrong protocol type"):
        await client.execute_command("DEBUG", "PROTOCOL", "nosuch")
    async with client_of(node, protocol=2) as older:
        with pytest.raises(ResponseError, match="RESP2 is not supported"):
            await older.execute_command("DEBUG", "PROTOCOL", "push")
    with pytest.raises(ResponseError, match="OWN words"):
        await client.execute_command("DEBUG", "ERROR", "OWN words")


async def test_there_are_no_replicas_to_wait_for(client: redis.asyncio.Redis) -> None:
    assert await client.wait(2, 1000) == 0
    assert await client.execute_command("WAITAOF", 0, 1, 1000) == [0, 0]
    for words, message in [
        (("WAIT", "x", 0), "not an integer"),
        (("WAIT", 1, "x"), "timeout is not an integer or out of range"),
        (("WAIT", 1, -1), "timeout is negative"),
        (("WAITAOF", 1, 0, 0), "appendonly is disabled"),
        (("WAITAOF", 2, 0, 0), "must between 0 and 1"),
    ]:
        with pytest.raises(ResponseError, match=message):
            await client.execute_command(*words)
