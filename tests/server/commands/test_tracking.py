"""Client-side caching on the wire: every mode as a real redis-server does it, and what only Forebay can tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import asyncpg
import pytest
import redis
from redis.cache import CacheConfig

from persistence.invalidation import outbox_sql
from protocol.decoder import pack_command
from protocol.encoder import encode
from protocol.replies import Push
from server.app import Node
from server.commands.context import Context, TrackingMode
from server.config import parse_config
from server.keyspace.keyspace import Keyspace
from server.tracking import Tracking
from tests.server.commands.test_against_redis import redis_port  # noqa: F401 - a fixture
from tests.support.dialogue import Talker
from tests.support.forebay import ForebayProcess
from tests.support.node import client_of, running_node
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually
from tests.support.wire import RawClient, client_list, info_field, wait_until

# "Told within 100 ms."
TOLD_S = 0.1


@pytest.fixture(scope="module")
def server() -> Iterator[ForebayProcess]:
    with ForebayProcess("[server]\n") as process:
        yield process


@pytest.fixture
def port(server: ForebayProcess) -> Iterator[int]:
    yield server.port
    # Whatever a test left behind, failed or not.
    with RawClient(server.port) as client:
        client.call("CLIENT", "KILL", "SKIPME", "yes")
        wait_until(lambda: len(client_list(client)) == 1, "all clients to be gone")
        client.call("FLUSHALL")


def invalidation(*keys: bytes) -> bytes:
    """The push that names these keys; none: everything."""
    return encode(Push([b"invalidate", list(keys) if keys else None]), 3)


# -- as Redis does it -------------------------------------------------------------------------------------------------

# One client that tracks, and another that changes keys: `>` lines are the other's. What both hear is compared.
DIALOGUES = {
    "keys that were read are told once": (
        "CLIENT TRACKING ON",
        "MGET a b c",
        ">MSET a 1 b 2 x 3",
        ">SET a 2",
        "GET a",
        ">SET a 3",
        ">DEL c",
    ),
    "own changes are told behind the reply": ("CLIENT TRACKING ON", "GET a", "SET a 1", "PING", "GET a"),
    "own changes inside of a transaction": (
        "CLIENT TRACKING ON",
        "GET a",
        "MULTI; GET b; SET b 1; EXEC; PING",
        ">MSET a 2 b 2",
    ),
    "noloop": ("CLIENT TRACKING ON NOLOOP", "GET a", "SET a 1", "GET a", ">SET a 2", "GET a", ">SET a 3"),
    "optin": (
        "CLIENT TRACKING ON OPTIN",
        "GET a",
        "CLIENT CACHING YES",
        "GET b",
        "GET c",
        "CLIENT CACHING YES",
        "MULTI; GET d; GET e; EXEC; GET f",
        ">MSET a 1 b 1 c 1",
        ">MSET d 1 e 1 f 1",
    ),
    "optout": ("CLIENT TRACKING ON OPTOUT", "CLIENT CACHING NO", "GET a", "GET b", ">MSET a 1 b 1"),
    "broadcasts": (
        "CLIENT TRACKING ON BCAST PREFIX a PREFIX b",
        ">SET a1 1",
        ">SET c 1",
        ">DEL a1",
        "SET b1 1",
        ">EXPIRE b1 100",
    ),
    "broadcasts of everything, gathered": ("CLIENT TRACKING ON BCAST", ">MSET a 1 b 2 c 3", ">SET a 2"),
    "broadcasts without a loop": ("CLIENT TRACKING ON BCAST NOLOOP", "SET a 1", ">SET a 2", "SET b 1"),
    "everything is gone": ("CLIENT TRACKING ON", "GET a", ">FLUSHALL", ">SET a 1", "GET a", ">FLUSHDB"),
    "off": ("CLIENT TRACKING ON", "GET a", "CLIENT TRACKING OFF", ">SET a 1", "CLIENT TRACKING OFF"),
    "what is told of it": (
        "CLIENT TRACKINGINFO",
        "CLIENT GETREDIR",
        "CLIENT TRACKING ON OPTIN NOLOOP",
        "CLIENT TRACKINGINFO",
        "CLIENT CACHING YES",
        "CLIENT TRACKINGINFO",
        "CLIENT GETREDIR",
        "CLIENT TRACKING OFF",
        "CLIENT TRACKING ON BCAST PREFIX b PREFIX a",
        "CLIENT TRACKING ON BCAST PREFIX zz",
        "CLIENT TRACKINGINFO",
        "RESET",
        "CLIENT TRACKINGINFO",
    ),
    "what is refused": (
        "CLIENT CACHING YES",
        "CLIENT TRACKING",
        "CLIENT TRACKING maybe",
        "CLIENT TRACKING ON WHATEVER",
        "CLIENT TRACKING ON REDIRECT",
        "CLIENT TRACKING ON REDIRECT abc",
        "CLIENT TRACKING ON REDIRECT 999999",
        "CLIENT TRACKING ON PREFIX a",
        "CLIENT TRACKING ON OPTIN OPTOUT",
        "CLIENT TRACKING ON BCAST OPTIN",
        "CLIENT TRACKING ON BCAST PREFIX a PREFIX ab",
        "CLIENT TRACKING ON OPTIN",
        "CLIENT TRACKING ON BCAST",
        "CLIENT TRACKING ON OPTOUT",
        "CLIENT CACHING NO",
        "CLIENT CACHING perhaps",
        "CLIENT TRACKING OFF",
        "CLIENT TRACKING ON BCAST PREFIX b",
        "CLIENT TRACKING ON BCAST PREFIX bc",
        "CLIENT TRACKING ON",
        "CLIENT CACHING YES",
    ),
}


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogue_is_that_of_redis(name: str, protocol: int, port: int, redis_port: int) -> None:  # noqa: F811
    heard = []
    for each in (port, redis_port):
        tracker, other = Talker(each, protocol), Talker(each)
        other.say("FLUSHALL")
        lines = []
        for line in DIALOGUES[name]:
            if line.startswith(">"):
                other.say(line[1:])
                # A broadcast leaves when the loop has turned, at the latest before the next question.
                lines.append((line, tracker.news()))
            else:
                lines.append((line, tracker.say(*line.split("; ")) + tracker.news()))
        heard.append(lines)
        tracker.close()
        other.close()
    assert heard[0] == heard[1]


def test_redirected_invalidations_look_as_those_of_redis(port: int, redis_port: int) -> None:  # noqa: F811
    heard = []
    for each in (port, redis_port):
        tracker, ear, other = Talker(each), Talker(each), Talker(each)
        other.say("FLUSHALL")
        ear.say("SUBSCRIBE __redis__:invalidate")
        assert tracker.say(f"CLIENT TRACKING ON REDIRECT {ear.id}", "GET a") == b"+OK\r\n$-1\r\n"
        assert tracker.ask("CLIENT GETREDIR") == ear.id
        other.say("SET a 1", "FLUSHALL")
        told = [ear.news()]
        # The same ear under RESP3, subscribed to nothing.
        ear.say("RESET", "HELLO 3")
        tracker.say("GET a")
        other.say("SET a 2")
        told.append(ear.news())
        ear.close()
        other.ask("PING")
        wait_until(lambda: str(ear.id) not in [f["id"] for f in client_list(other.raw)], "the ear to be gone")  # noqa: B023
        tracker.say("HELLO 3", "GET a")
        other.say("SET a 3")
        told.append(tracker.news().replace(b":%d\r\n" % ear.id, b":ID\r\n"))
        told.append(tracker.say("CLIENT TRACKINGINFO").replace(b":%d\r\n" % ear.id, b":ID\r\n"))
        heard.append(told)
        tracker.close()
        other.close()
    assert heard[0] == heard[1]
    assert b"tracking-redir-broken" in heard[0][2]


def test_client_list_tells_who_tracks(port: int) -> None:
    tracker, other = Talker(port, 3), RawClient(port)
    tracker.say("CLIENT TRACKING ON BCAST PREFIX a", "CLIENT NO-TOUCH ON")
    (line,) = [fields for fields in client_list(other) if fields["id"] == str(tracker.id)]
    assert (line["flags"], line["redir"]) == ("tBT", "0")
    assert info_field(other, "clients", "tracking_clients") == 1
    assert info_field(other, "stats", "tracking_total_prefixes") == 1
    tracker.close()
    wait_until(lambda: info_field(other, "clients", "tracking_clients") == 0, "the client to be gone")
    assert info_field(other, "stats", "tracking_total_prefixes") == 0
    other.close()


def test_table_over_its_limit_lets_the_oldest_go_and_says_so(port: int) -> None:
    tracker, other = Talker(port, 3), RawClient(port)
    assert other.call("CONFIG", "SET", "tracking-table-max-keys", "2") == b"OK"
    tracker.say("CLIENT TRACKING ON", "GET n1", "GET n2")
    assert info_field(other, "stats", "tracking_total_keys") == 2
    assert tracker.say("GET n3") == b"_\r\n" + invalidation(b"n1")
    assert tracker.say("GET n3") == b"_\r\n"
    assert info_field(other, "stats", "tracking_total_keys") == info_field(other, "stats", "tracking_total_items") == 2
    assert other.call("CONFIG", "SET", "tracking-table-max-keys", "1") == b"OK"
    assert tracker.news() == invalidation(b"n2")
    assert other.call("CONFIG", "SET", "tracking-table-max-keys", "1000000") == b"OK"
    tracker.close()
    other.close()


async def test_expiry_and_eviction_are_told() -> None:
    async with running_node("[memory]\nmaxmemory = '1mb'\neviction = 'fifo'\n") as node:
        client = client_of(node)
        told = await Told.to(node)
        await client.set("short", "x", px=5000)
        await told.ask("CLIENT", "TRACKING", "ON")
        await told.ask("GET", "short")
        node.keyspace.tick(node.clock.now_ms() + 6000)
        node.keyspace.database(0).expire_due(1000)
        assert await told.next() == [b"short"]
        await client.set("victim", "x" * 1000)
        await told.ask("GET", "victim")
        number = 0
        while told.messages.empty():
            number += 1
            await client.set(f"filler:{number}", "x" * 1000)
        assert await told.next() == [b"victim"]
        await told.close()
        await client.aclose()


# -- a client library with a cache of its own -------------------------------------------------------------------------


def test_redis_py_with_a_cache_reads_its_own_memory_until_the_key_changes(port: int) -> None:
    cached = redis.Redis(port=port, protocol=3, cache_config=CacheConfig())
    other = redis.Redis(port=port)
    other.set("k", "one")
    calls = RawClient(port)

    def gets() -> int:
        text = calls.call("INFO", "commandstats")
        assert isinstance(text, bytes)
        return int(text.decode().partition("cmdstat_get:calls=")[2].partition(",")[0] or 0)

    assert cached.get("k") == b"one"
    before = gets()
    assert [cached.get("k") for _ in range(10)] == [b"one"] * 10
    assert gets() == before
    other.set("k", "two")
    wait_until(lambda: cached.get("k") == b"two", "the new value")
    other.delete("k")
    wait_until(lambda: cached.get("k") is None, "the key to be gone")
    cached.close()
    other.close()
    calls.close()


# -- what only Forebay can tell ---------------------------------------------------------------------------------------

_TABLE = """
CREATE TABLE users (id int8 PRIMARY KEY, name text NOT NULL, tenant int4 NOT NULL DEFAULT 1);
INSERT INTO users SELECT id, 'old' FROM generate_series(1, 100) AS id;
"""
_RULE = """
[stores.main]
url = "{url}"
[prefix."user:{{id:int}}"]
store = "main"
read = "read-through"
write = "{write}"
table = "users"
value = "hash"
ttl = "1h"
tags = ["tenant"]
invalidate = "{invalidate}"
"""


class Told:
    """A RESP3 client in the test's own loop; invalidations gather apart from replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._replies: asyncio.Queue[object] = asyncio.Queue()
        # Keys (None: everything), in the order in which they were told.
        self.messages: asyncio.Queue[list[bytes] | None] = asyncio.Queue()
        # What came, in order: `reply` or `invalidate`.
        self.order: list[str] = []
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def to(cls, node: Node) -> Told:
        """Connect."""
        told = cls(*await asyncio.open_connection("127.0.0.1", node.listener.port))
        await told.ask("HELLO", "3")
        return told

    async def _read(self) -> None:
        while True:
            line = await self._reader.readline()
            if not line:
                return
            value = await self._value(line)
            if line.startswith(b">"):
                assert isinstance(value, list) and value[0] == b"invalidate"
                self.order.append("invalidate")
                self.messages.put_nowait(value[1])
            else:
                self.order.append("reply")
                self._replies.put_nowait(value)

    async def _value(self, line: bytes) -> Any:
        kind, rest = line[:1], line[1:-2]
        if kind == b"_":
            return None
        if kind == b"$":
            return (await self._reader.readexactly(int(rest) + 2))[:-2]
        if kind in b"*>~%":
            count = int(rest) * (2 if kind == b"%" else 1)
            return [await self._value(await self._reader.readline()) for _ in range(count)]
        return int(rest) if kind == b":" else rest

    async def ask(self, *words: str) -> Any:
        """One command and its reply."""
        self.send(*words)
        return await self.reply()

    async def reply(self) -> Any:
        """The next reply."""
        return await asyncio.wait_for(self._replies.get(), 10)

    def send(self, *words: str) -> None:
        """One command."""
        encoded = [word.encode() for word in words]
        self._writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in encoded))

    async def next(self) -> list[bytes] | None:
        """The next invalidation."""
        return await asyncio.wait_for(self.messages.get(), 10)

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._task


@pytest.mark.serial
@pytest.mark.postgres
async def test_row_changed_by_plain_sql_is_told_within_100_ms(postgres_server: PostgresServer, postgres_database: str,
                                                              postgres_url: str) -> None:  # fmt: skip
    toml = _RULE.format(url=postgres_url, write="write-through", invalidate="notify")
    postgres_server.script(_TABLE + outbox_sql(parse_config(toml, {}, "test.toml").rules), postgres_database)
    async with running_node(toml) as node:
        await eventually(lambda: node.followers[0].stats().live)
        told, writer = await Told.to(node), client_of(node)
        await told.ask("CLIENT", "TRACKING", "ON")
        outsider = await _connect(postgres_url)
        delays = []
        for number in range(1, 31):
            # Loaded by the read: the load itself is no news, so nothing is told before the row changes.
            assert await told.ask("HGET", f"user:{number}", "name") == b"old"
            assert told.messages.empty()
            began = time.monotonic()
            await outsider.execute("UPDATE users SET name = 'new' WHERE id = $1", number)
            assert await told.next() == [b"user:%d" % number]
            delays.append(time.monotonic() - began)
            assert await told.ask("HGET", f"user:{number}", "name") == b"new"
        assert median(delays) < TOLD_S, delays
        # A row that was read as absent, and comes into being.
        assert await told.ask("HGET", "user:1000", "name") is None
        await outsider.execute("INSERT INTO users VALUES (1000, 'born')")
        assert await told.next() == [b"user:1000"]
        # A client's write through the cache is told by the command, with nothing from the database's own notification.
        assert await told.ask("HGET", "user:50", "name") == b"old"
        await writer.hset("user:50", "name", "written")
        assert await told.next() == [b"user:50"]
        assert await told.ask("HGET", "user:50", "name") == b"written"
        await told.ask("SET", "plain", "x")
        assert told.messages.empty()
        await outsider.close()
        await told.close()
        await writer.aclose()


async def _connect(url: str) -> Any:
    return await asyncpg.connect(url)


@pytest.mark.postgres
async def test_whatever_voids_a_copy_is_told(postgres_server: PostgresServer, postgres_database: str,
                                             postgres_url: str) -> None:  # fmt: skip
    toml = _RULE.format(url=postgres_url, write="write-through", invalidate="none")
    postgres_server.script(_TABLE + "UPDATE users SET tenant = 2 WHERE id > 10;", postgres_database)
    async with running_node(toml) as node:
        told, broadcast, admin = await Told.to(node), await Told.to(node), client_of(node)
        await told.ask("CLIENT", "TRACKING", "ON")
        await broadcast.ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "user:1")
        steps: list[tuple[tuple[str, ...], set[bytes], list[bytes] | None]] = [
            (("CACHE.INVALIDATE", "user:1"), {b"user:1"}, [b"user:1"]),
            (("CACHE.PURGE", "user:1*"), {b"user:1", b"user:11"}, [b"user:1", b"user:11"]),
            (("CACHE.UNTAG", "tenant=2"), {b"user:11", b"user:12"}, None),
            (("CACHE.BUMP", "user:"), {b"user:1", b"user:11", b"user:12"}, None),
        ]
        for words, expected, gathered in steps:
            for number in ("1", "11", "12"):
                await told.ask("HGET", f"user:{number}", "name")
            if expected == {b"user:1", b"user:11"}:
                await admin.execute_command("CACHE.INVALIDATE", "user:12")
                assert await told.next() == [b"user:12"]
                assert await broadcast.next() == [b"user:12"]
            await admin.execute_command(*words)
            assert {(await told.next() or [b""])[0] for _ in expected} == expected, words
            seen = await broadcast.next()
            while gathered is not None and seen is not None and len(seen) < len(gathered):
                seen += await broadcast.next() or []
            assert seen == gathered or sorted(seen or []) == gathered, words
        await told.ask("PING")
        assert told.messages.empty()
        await told.close()
        await broadcast.close()
        await admin.aclose()


@pytest.mark.postgres
async def test_row_that_changes_while_it_is_loaded_is_told_behind_the_reply(
    postgres_server: PostgresServer, postgres_database: str, postgres_url: str
) -> None:
    toml = _RULE.format(url=postgres_url, write="write-through", invalidate="none")
    postgres_server.script(_TABLE, postgres_database)
    async with running_node(toml) as node:
        told, admin = await Told.to(node), client_of(node)
        await told.ask("CLIENT", "TRACKING", "ON")
        blocker = await _connect(postgres_url)
        await blocker.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        told.send("HGET", "user:1", "name")
        await eventually(lambda: any(each.waits for each in node.peers.by_id.values()))
        # The load waits for the table; the key is declared void meanwhile, as a notification would do it.
        await admin.execute_command("CACHE.INVALIDATE", "user:1")
        assert told.messages.empty()
        await blocker.execute("COMMIT")
        assert await told.next() == [b"user:1"]
        assert await told.reply() == b"old"
        assert told.order[-2:] == ["reply", "invalidate"]
        assert await told.ask("HGET", "user:1", "name") == b"old"
        assert told.messages.empty()
        await blocker.close()
        await told.close()
        await admin.aclose()


# -- the table --------------------------------------------------------------------------------------------------------


class Reader(Context):
    """A client without a server."""

    def __init__(self, client_id: int) -> None:
        super().__init__(None, client_id, Keyspace(1, 1).database(0))  # type: ignore[arg-type]
        self.protocol = 3
        self.heard: list[bytes] = []

    def refresh_state(self) -> None:
        """Nobody asks for a state."""

    def deliver(self, wire: bytes) -> None:
        """Note it."""
        self.heard.append(wire)


def test_noloop_holds_for_a_command_that_waited_for_its_key(server: ForebayProcess) -> None:
    with RawClient(server.port) as waiter, RawClient(server.port) as other:
        other.call("FLUSHALL")
        waiter.call("HELLO", 3)
        waiter.call("CLIENT", "TRACKING", "ON", "NOLOOP")
        assert waiter.call("LRANGE", "to", 0, -1) == []
        waiter.send(pack_command("BLMOVE", "from", "to", "LEFT", "LEFT", 0))
        wait_until(lambda: info_field(other, "clients", "blocked_clients") == 1, "a blocked client")
        other.call("RPUSH", "from", "x")
        assert waiter.reply() == b"x"
        assert waiter.call("PING") == b"PONG"
        # Somebody else's change is news.
        assert waiter.call("LRANGE", "to", 0, -1) == [b"x"]
        other.call("RPUSH", "to", "y")
        assert waiter.reply() == [b"invalidate", [b"to"]]


def tracking_of(*clients: Reader, change: Callable[[TrackingMode], None] | None = None) -> Tracking:
    tracking = Tracking()
    for client in clients:
        mode = TrackingMode()
        if change is not None:
            change(mode)
        tracking.turn_on(client, mode)
    return tracking


def test_table_counts_keys_and_pairs_and_is_empty_when_nobody_tracks() -> None:
    first, second = Reader(1), Reader(2)
    tracking = tracking_of(first, second)
    tracking.remember(first, [b"a", b"b", b"a"])
    tracking.remember(second, [b"b", b"c"])
    tracking.remember(second, [b"b"])
    assert (len(tracking.table), tracking.items) == (3, 4)
    tracking.changed(b"b")
    assert first.heard == second.heard == [invalidation(b"b")]
    assert (len(tracking.table), tracking.items) == (2, 2)
    tracking.turn_off(first)
    tracking.changed(b"a")
    assert len(first.heard) == 1
    tracking.turn_off(second)
    assert (len(tracking.table), tracking.items) == (0, 0)


def test_full_table_stays_at_its_limit_and_tells_of_everything_that_left() -> None:
    client = Reader(1)
    tracking = tracking_of(client)
    tracking.max_keys = 10_000
    for number in range(50_000):
        tracking.remember(client, [b"key:%d" % number])
        assert len(tracking.table) <= 10_000
    assert len(client.heard) == 50_000 - len(tracking.table) == 50_000 - tracking.items
    assert client.heard[0] == invalidation(b"key:0") and b"key:49999" in tracking.table


def test_key_changed_during_a_reading_is_told_and_not_remembered() -> None:
    client, other = Reader(1), Reader(2)
    tracking = tracking_of(client, other)
    reading = tracking.begin_reading(client, [b"a", b"b"])
    tracking.changed(b"a")
    assert client.heard == []
    tracking.end_reading(client, reading)
    assert client.heard == [invalidation(b"a")]
    assert list(tracking.table) == [b"b"]
    # What a load brings is news for those alone who had read that there is nothing.
    tracking.appeared(b"b")
    tracking.appeared(b"c")
    assert client.heard[1:] == [invalidation(b"b")]


def test_reading_of_a_client_that_left_is_forgotten() -> None:
    client = Reader(1)
    tracking = tracking_of(client)
    reading = tracking.begin_reading(client, [b"a"])
    tracking.turn_off(client)
    tracking.changed(b"a")
    tracking.end_reading(client, reading)
    assert client.heard == [] and tracking.table == {}


def test_broadcast_is_gathered_and_spares_the_writer_that_asked_for_it() -> None:
    def everything(mode: TrackingMode) -> None:
        mode.broadcasts, mode.noloop, mode.prefixes = True, True, [b""]

    writer, reader = Reader(1), Reader(2)
    tracking = tracking_of(writer, reader, change=everything)
    calls: list[Callable[[], None]] = []
    tracking.later = calls.append
    tracking.running = writer
    tracking.changed(b"mine")
    tracking.changed(b"ours")
    tracking.running = None
    tracking.changed(b"ours")
    tracking.changed(b"theirs")
    assert len(calls) == 1 and writer.heard == reader.heard == []
    calls[0]()
    assert writer.heard == [invalidation(b"ours", b"theirs")]
    assert reader.heard == [invalidation(b"mine", b"ours", b"theirs")]
