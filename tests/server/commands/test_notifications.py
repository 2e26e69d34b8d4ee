"""Keyspace notifications: the same events in the same order as a real redis-server tells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.event_classes import parse_events, spell_events
from tests.server.commands.test_against_redis import redis_port  # noqa: F401 - a fixture
from tests.support.dialogue import pack
from tests.support.forebay import ForebayProcess
from tests.support.node import client_of, running_node
from tests.support.waiting import eventually
from tests.support.wire import RawClient

EVERYTHING = "AKE"


class Ear:
    """A client that writes, and one that hears all events."""

    def __init__(self, port: int) -> None:
        self.client = RawClient(port)
        self.ear = RawClient(port)
        # Says when it is over, from outside of a transaction.
        self.clock = RawClient(port)
        assert self.client.call("CONFIG", "SET", "notify-keyspace-events", EVERYTHING) == b"OK"
        self.ear.call("PSUBSCRIBE", "__key*__:*")

    def run(self, *lines: str) -> list[object]:
        """The replies to some commands."""
        return [self.client.call(*line.split()) for line in lines]

    def heard(self) -> list[tuple[object, object]]:
        """The events since the last time: channel and message."""
        self.clock.call("PUBLISH", "__keyend__:x", "end")
        events: list[tuple[object, object]] = []
        while True:
            reply = self.ear.reply()
            assert isinstance(reply, list)
            if reply[2] == b"__keyend__:x":
                return events
            events.append((reply[2], reply[3]))

    def close(self) -> None:
        """Leave."""
        for client in (self.client, self.ear, self.clock):
            client.close()


@pytest.fixture(scope="module")
def forebay() -> Iterator[int]:
    with ForebayProcess("[server]\n") as server:
        yield server.port


@pytest.fixture(scope="module")
def ours(forebay: int) -> Iterator[Ear]:
    ear = Ear(forebay)
    yield ear
    ear.close()


@pytest.fixture(scope="module")
def theirs(redis_port: int) -> Iterator[Ear]:  # noqa: F811
    ear = Ear(redis_port)
    yield ear
    ear.close()


SCRIPTS = {
    "strings": """
        SET a 1
        SET a 2 EX 100
        SET a 3 KEEPTTL
        SET a 3 PX 100000 GET
        SETEX b 100 x
        PSETEX b 100000 x
        SETNX c x
        SETNX c y
        GETSET c z
        GETEX c EX 100
        GETEX c PERSIST
        GETDEL c
        MSET a 1 b 2
        MSETNX a 1 n 2
        MSETNX m 1 n 2
        APPEND a x
        APPEND new x
        SETRANGE a 3 x
        SETRANGE none 0 x
        INCR i
        INCRBY i 5
        DECR i
        INCRBYFLOAT i 1.5
        SETBIT bits 3 1
        BITFIELD bits SET u8 0 5
        BITOP OR bits2 bits i
        BITOP OR bits2 none1 none2
        PFADD hll a b
        PFMERGE hll2 hll
    """,
    "keys": """
        MSET a 1 b 2 c 3
        DEL a nothing b
        UNLINK c
        SET a 1
        EXPIRE a 100
        PERSIST a
        PEXPIRE a 100000
        EXPIREAT a 1
        SET a 1
        EXPIRE a -1
        SET a 1
        GETEX a EXAT 1
        SET a 1
        RENAME a b
        SET a 1
        RENAME a b
        RENAMENX b d
        COPY d e
        SET e 2
        COPY d e
        COPY d e REPLACE
        MOVE e 3
        TOUCH d
    """,
    "hashes": """
        HSET h f 1 g 2
        HMSET h f 1
        HSETNX h f 1
        HSETNX h x 1
        HINCRBY h f 2
        HINCRBYFLOAT h f 1.5
        HDEL h nothing
        HDEL h f g x
    """,
    "lists": """
        LPUSH l a b
        RPUSH l c
        LPUSHX l d
        RPUSHX none d
        LSET l 0 z
        LINSERT l BEFORE a q
        LREM l 0 q
        LTRIM l 0 1
        LPOP l
        LPUSH l a b c d
        RPOP l 2
        LMOVE l m LEFT RIGHT
        RPOPLPUSH l m
        LMPOP 1 m LEFT COUNT 10
        LTRIM l 5 6
    """,
    "sets": """
        SADD s a b c
        SADD s a
        SREM s a nothing
        SPOP s
        SADD s x y z
        SPOP s 100
        SADD s a b c
        SADD t b
        SMOVE s t a
        SMOVE t s b
        SINTERSTORE u s t
        SUNIONSTORE u s t
        SDIFFSTORE u s s
        SREM t a
    """,
    "sorted sets": """
        ZADD z 1 a 2 b 3 c 4 d 5 e
        ZADD z 1 a
        ZADD z XX CH 7 a
        ZINCRBY z 1 a
        ZADD z INCR 1 a
        ZINCRBY new 1 a
        ZADD newer INCR 1 a
        ZREM z a
        ZPOPMIN z
        ZPOPMAX z
        ZREMRANGEBYRANK z 0 0
        ZREMRANGEBYSCORE z 0 100
        ZADD z 0 a 0 b
        ZREMRANGEBYLEX z [a [a
        ZADD y 1 a 2 b
        ZUNIONSTORE x 2 z y
        ZINTERSTORE x 2 z y
        ZDIFFSTORE x 2 y z
        ZRANGESTORE x y 0 -1
        ZRANGESTORE x none 0 -1
        ZINTERSTORE x 2 z none
        ZMPOP 1 y MIN COUNT 10
    """,
    "streams": """
        XADD st 1-1 f v
        XADD st MAXLEN 1 2-1 f v
        XDEL st 1-1
        XTRIM st MAXLEN 0
        XGROUP CREATE st g $
        XGROUP SETID st g 0
        XGROUP CREATECONSUMER st g c
        XSETID st 5-1
        XGROUP DELCONSUMER st g c
        XGROUP DESTROY st g
    """,
    "transactions": """
        MULTI
        SET a 1
        INCR a
        DEL a
        EXEC
    """,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_events_are_those_of_redis(name: str, ours: Ear, theirs: Ear) -> None:
    for ear in (ours, theirs):
        ear.run("FLUSHALL")
        ear.heard()
    script = SCRIPTS[name].strip().splitlines()
    differing = []
    for line in script:
        expected_reply, reply = theirs.run(line), ours.run(line)
        expected, heard = theirs.heard(), ours.heard()
        if heard != expected:
            differing.append((line.strip(), reply, expected_reply, heard, expected))
    assert differing == []


@pytest.mark.parametrize("protocol", [2, 3])
def test_setting_is_spelled_as_redis_spells_it(protocol: int, forebay: int, redis_port: int) -> None:  # noqa: F811
    letters = ("KEA", "A", "Kx", "mK", "E", "", "q", "AKE$", "KEg$lshzxet", "KEg$lshzxetd", "elsh$", "KEq", "ke")
    seen = []
    for port in (forebay, redis_port):
        client = RawClient(port)
        client.call("HELLO", protocol)
        replies: list[object] = []
        for text in letters:
            replies += (
                client.call("CONFIG", "SET", "notify-keyspace-events", text),
                client.call("CONFIG", "GET", "notify-keyspace-events"),
            )
        client.call("CONFIG", "SET", "notify-keyspace-events", EVERYTHING)
        client.close()
        seen.append(list(map(repr, replies)))
    assert seen[0] == seen[1]


def test_every_spelling_is_read_back_as_the_same_classes() -> None:
    # Redis 7.0 loses the n beside A.
    for flags in range(1 << 14):
        assert parse_events(spell_events(flags)) == flags


def test_new_keys_and_missed_reads_are_told_when_asked_for(ours: Ear, theirs: Ear) -> None:
    script = (
        "SET a 1", "SET a 2", "GET a", "GET none", "MGET none a none2", "LPUSH l x", "LPUSH l y", "RENAME a b",
        "HGET none f", "EXISTS none", "INCR i", "SADD s a", "ZADD z 1 a", "HSET h f v", "STRLEN none", "DEL none",
    )  # fmt: skip
    heard = []
    for ear in (ours, theirs):
        ear.run("FLUSHALL")
        ear.clock.call("CONFIG", "SET", "notify-keyspace-events", "Knm$g")
        ear.heard()
        events = []
        for line in script:
            ear.run(line)
            # Redis tells that the new name is there before it tells of the renaming, we after it.
            events.append((line, sorted(map(repr, ear.heard()))))
        heard.append(events)
        ear.clock.call("CONFIG", "SET", "notify-keyspace-events", EVERYTHING)
    assert heard[0] == heard[1]


def test_batch_under_way_notices_that_misses_are_told_from_now_on(ours: Ear) -> None:
    ours.client.send(pack("CONFIG SET notify-keyspace-events Km") + pack("GET nowhere") + pack("PING"))
    assert [ours.client.reply() for _ in range(3)] == [b"OK", None, b"PONG"]
    assert ours.heard() == [(b"__keyspace@0__:nowhere", b"keymiss")]
    ours.clock.call("CONFIG", "SET", "notify-keyspace-events", EVERYTHING)


def test_only_the_chosen_classes_are_told(ours: Ear) -> None:
    ours.clock.call("CONFIG", "SET", "notify-keyspace-events", "El")
    ours.run("SET a 1", "LPUSH chosen x", "DEL a")
    assert ours.heard() == [(b"__keyevent@0__:lpush", b"chosen")]
    ours.clock.call("CONFIG", "SET", "notify-keyspace-events", "lg$")
    ours.run("SET a 1", "LPUSH chosen x")
    assert ours.heard() == []
    ours.clock.call("CONFIG", "SET", "notify-keyspace-events", EVERYTHING)


async def test_expired_and_evicted_keys_are_told_managed_ones_too() -> None:
    toml = """
[server]
port = 0
notify_keyspace_events = "Exe$g"
[memory]
maxmemory = "300kb"
eviction = "fifo"
[stores.main]
url = "memory:"
[prefix."m:"]
store = "main"
read = "read-through"
write = "write-through"
ttl = "10s"
"""
    async with running_node(toml) as node:
        client, listening = client_of(node), client_of(node)
        ear = listening.pubsub(ignore_subscribe_messages=True)
        await ear.psubscribe("__keyevent@*")

        async def heard() -> tuple[bytes, bytes]:
            while True:
                message = await ear.get_message(timeout=None)
                if message is not None:
                    return message["channel"].rpartition(b":")[2], message["data"]

        await eventually(lambda: node.audience.pubsub.count(1))
        await client.set("plain", "x", px=5000)
        await client.set("m:row", "x")
        assert [await heard() for _ in range(3)] == [(b"set", b"plain"), (b"expire", b"plain"), (b"set", b"m:row")]
        # What is loaded is nobody's event.
        await client.execute_command("CACHE.INVALIDATE", "m:row")
        assert await client.get("m:row") == b"x"
        node.keyspace.tick(node.clock.now_ms() + 20_000)
        node.keyspace.database(0).expire_due(1000)
        assert {await heard(), await heard()} == {(b"expired", b"plain"), (b"expired", b"m:row")}
        await client.set("m:first", "x" * 1000)
        await client.delete("m:nothing")
        number = 0
        while node.keyspace.database(0).peek(b"m:first") is not None:
            number += 1
            await client.set(f"filler:{number}", "x" * 1000)
        events = [await heard()]
        assert events == [(b"set", b"m:first")]
        while events[-1] != (b"evicted", b"m:first"):
            events.append(await heard())
        assert (b"del", b"m:nothing") not in events
        await ear.aclose()
        await listening.aclose()
        await client.aclose()


async def test_commands_on_managed_keys_tell_their_own_events() -> None:
    toml = """
[server]
port = 0
notify_keyspace_events = "KA"
[stores.main]
url = "memory:"
[prefix."m:"]
store = "main"
read = "read-through"
write = "write-through"
"""
    async with running_node(toml) as node:
        client, listening = client_of(node), client_of(node)
        ear = listening.pubsub(ignore_subscribe_messages=True)
        await ear.psubscribe("__keyspace@0__:*")
        await eventually(lambda: node.audience.pubsub.count(1))
        await client.hset("m:h", mapping={"a": "1", "b": "2"})
        await client.hincrby("m:h", "a", 5)
        await client.hdel("m:h", "a", "b")
        await client.set("plain", "x")
        async with client.pipeline(transaction=True) as transaction:
            await transaction.set("m:s", "x").append("m:s", "y").set("free", "z").delete("m:s").execute()
        await client.publish("__keyspace@0__:end", "end")
        heard: list[tuple[bytes, bytes]] = []
        while not heard or heard[-1][1] != b"end":
            message = await ear.get_message(timeout=None)
            if message is not None:
                heard.append((message["channel"].partition(b":")[2], message["data"]))
        assert heard[:-1] == [
            (b"m:h", b"hset"),
            (b"m:h", b"hincrby"),
            (b"m:h", b"hdel"),
            (b"m:h", b"del"),
            (b"plain", b"set"),
            (b"m:s", b"set"),
            (b"m:s", b"append"),
            (b"free", b"set"),
            (b"m:s", b"del"),
        ]
        await ear.aclose()
        await listening.aclose()
        await client.aclose()
