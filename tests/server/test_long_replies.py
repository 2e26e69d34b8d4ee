"""Replies of many elements are written in slices, and say the same as if they were written at once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Coroutine

import pytest

from persistence.change import NEVER, STRING
from protocol.encoder import encode, encode_into
from protocol.replies import Elements, Map, Ready, SetOf
from server.app import Node
from server.keyspace.excerpt import AT_ONCE, Whole
from server.keyspace.globbing import Glob
from server.keyspace.keyspace import Keyspace
from server.long_replies import is_long, survey, write
from server.session import Session
from tests.support.node import client_of, running_node

_COUNT = 3 * AT_ONCE
_NAMES = [b"%06d" % number for number in range(_COUNT)]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for a slice is always over when somebody looks."""
    monkeypatch.setattr(time, "perf_counter", itertools.count().__next__)


def _ended(coroutine: object) -> tuple[int, Ready]:
    # How often it let others in, and what it returned.
    turns = 0
    while True:
        try:
            coroutine.send(None)  # type: ignore[attr-defined]
        except StopIteration as end:
            assert isinstance(end.value, Ready)
            return turns, end.value
        turns += 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("kind", ["list", "set", "map", "mixed"])
def test_a_long_reply_is_the_same_in_slices(protocol: int, kind: str) -> None:
    replies = {
        "list": lambda: list(_NAMES),
        "set": lambda: SetOf(_NAMES),
        "map": lambda: Map(dict.fromkeys(_NAMES, 1.5)),
        "mixed": lambda: [None, 5, [b"pair", 0.5]] * AT_ONCE,
    }
    reply = replies[kind]()
    assert is_long(reply)
    whole = encode(reply, protocol)
    turns, ready = _ended(write(reply, protocol))
    assert encode(ready, protocol) == whole and ready.size == len(whole)
    assert turns == len(ready.chunks) - 1 >= _COUNT // 1000
    out: list[bytes] = []
    assert encode_into(out, ready, protocol) == len(whole) and b"".join(out) == whole


def test_a_short_reply_is_not_worth_it() -> None:
    assert not is_long(_NAMES[:AT_ONCE]) and not is_long(b"x" * 1_000_000) and not is_long(None)


@pytest.mark.usefixtures("hasty")
def test_keys_lets_others_in_and_finds_every_living_key() -> None:
    keyspace = Keyspace(1, 1)
    keyspace.tick(1000)
    database = keyspace.database(0)
    for name in _NAMES:
        database.put(name, STRING, b"", NEVER, b"")
    database.put(b"gone", STRING, b"", 1500, b"")
    keyspace.tick(2000)
    turns, ready = _ended(survey(database, None, 2))
    assert turns > 1000
    assert sorted(encode(ready, 2).split(b"\r\n")[2::2]) == _NAMES
    _, ready = _ended(survey(database, Glob(b"00001?").matches, 2))
    assert ready.chunks[0] == b"*10\r\n" and ready.size == sum(map(len, ready.chunks))


async def test_replies_before_and_behind_a_long_one_come_in_order() -> None:
    async with running_node("") as node:
        client = client_of(node)
        await client.rpush("list", *_NAMES)
        async with client.pipeline(transaction=False) as pipe:
            pipe.echo("before")
            pipe.lrange("list", 0, -1)
            pipe.echo("behind")
            assert await pipe.execute() == [b"before", _NAMES, b"behind"]
        await client.aclose()


async def test_keys_of_a_large_database_in_transactions_and_scripts_does_not_wait() -> None:
    async with running_node("") as node:
        client = client_of(node)
        await client.mset(dict.fromkeys(_NAMES, b""))
        assert sorted(await client.keys("*")) == _NAMES
        assert await client.eval("return #redis.call('keys', '*')", 0) == _COUNT
        async with client.pipeline(transaction=True) as pipe:
            pipe.keys("*")
            pipe.get(_NAMES[0])
            found, value = await pipe.execute()
        assert sorted(found) == _NAMES and value == b""
        await client.aclose()


_READ = _NAMES[: AT_ONCE + 2000]
_PAIRS = [word for number, name in enumerate(_READ) for word in (name, b"%d" % number)]
_SCORED = [word for number, name in enumerate(_READ) for word in (b"%d" % (number * 7919 % len(_READ)), name)]
# A value, and reads of much of it.
VALUES: dict[str, tuple[list[bytes], list[bytes]]] = {
    "set": ([b"SADD", b"key", *_READ], [b"SMEMBERS key"]),
    "hash": ([b"HSET", b"key", *_PAIRS], [b"HGETALL key", b"HKEYS key", b"HVALS key"]),
    "list": ([b"RPUSH", b"key", *_READ], [b"LRANGE key 0 -1", b"LRANGE key 700 -900"]),
    "sorted set": (
        [b"ZADD", b"key", *_SCORED],
        [
            b"ZRANGE key 0 -1",
            b"ZRANGE key 0 -1 WITHSCORES",
            b"ZREVRANGE key 7 -9 WITHSCORES",
            b"ZRANGEBYSCORE key 5 +inf LIMIT 3 11000",
        ],
    ),
}
# What others may do in the middle of it; one of them fits the value, the others are refused.
CHANGES: dict[str, list[bytes]] = {
    "nothing": [b"PING"],
    "member added": [b"SADD key x", b"HSET key x y", b"LPUSH key x", b"ZADD key -5 x"],
    "members lost": [b"SPOP key 5000", b"HDEL key 000001 011999", b"LPOP key 5000", b"ZPOPMAX key 5000"],
    "key deleted": [b"DEL key"],
    "key overwritten": [b"SET key short"],
    "key moved and changed": [b"RENAME key k", b"SADD k x", b"HDEL k 011999", b"RPOP k", b"ZREM k 011999"],
    "databases exchanged": [b"SWAPDB 0 1", b"SELECT 1", b"SADD key x", b"HDEL key 011999", b"RPOP key", b"ZPOPMIN key"],
    "everything deleted": [b"FLUSHALL"],
}


def _said(node: Node, session: Session, command: list[bytes]) -> object:
    # The reply in wire form, or what must be awaited for it.
    out: list[bytes] = []
    node.dispatch.run_batch(session, [command], 0, out)
    return session.take_rest() or b"".join(out)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", VALUES)
async def test_a_value_that_is_read_by_and_by_is_what_it_was_whatever_happens_to_it(kind: str) -> None:
    async with running_node("") as node:
        database = node.keyspace.database(0)
        reader, other = (Session(node.control, number, database) for number in (1, 2))
        make, reads = VALUES[kind]
        for turn, (name, changes) in enumerate(CHANGES.items()):
            read = reads[turn % len(reads)].split()
            reader.protocol = 2 + turn // 2 % 2
            _said(node, other, [b"FLUSHALL"])
            _said(node, other, make)
            reader.is_running = True
            whole = _said(node, reader, read)
            reader.is_running = False
            assert isinstance(whole, Coroutine) and not database.lent
            expected = encode(_ended(whole)[1], reader.protocol)
            coroutine = _said(node, reader, read)
            assert isinstance(coroutine, Coroutine) and len(database.lent) == 1
            for _ in range(3):
                coroutine.send(None)
            for change in changes:
                _said(node, other, change.split())
            while node.keyspace.dig(1000):
                pass
            assert encode(_ended(coroutine)[1], reader.protocol) == expected, f"{name}: {read[0]!r}"
            assert not database.lent
            other.select(0)


@pytest.mark.usefixtures("hasty")
async def test_what_was_deleted_while_it_was_read_is_freed_in_slices_when_it_has_been_read() -> None:
    async with running_node("") as node:
        database = node.keyspace.database(0)
        session = Session(node.control, 1, database)
        _said(node, session, VALUES["set"][0])
        coroutine = _said(node, session, [b"SMEMBERS", b"key"])
        assert isinstance(coroutine, Coroutine)
        coroutine.send(None)
        _said(node, session, [b"DEL", b"key"])
        while node.keyspace.dig(1000):
            pass
        _ended(coroutine)
        del coroutine
        slices = 1
        while database.graveyard.dig(1000):
            slices += 1
        assert slices > len(_READ) // 2000


async def test_transactions_and_scripts_read_a_large_value_at_once() -> None:
    async with running_node("") as node:
        client = client_of(node)
        await client.sadd("key", *_NAMES)
        async with client.pipeline(transaction=True) as pipe:
            pipe.smembers("key")
            pipe.delete("key")
            members, _ = await pipe.execute()
        assert members == set(_NAMES)
        await client.sadd("key", *_NAMES)
        assert await client.eval("return #redis.call('smembers', KEYS[1])", 1, "key") == _COUNT
        await client.aclose()


def test_elements_that_cannot_be_put_off_are_encoded_at_once() -> None:
    pairs = [b"a", b"1", b"b", b"2"]
    for kind, reply in ((b"*", pairs), (b"~", SetOf(pairs)), (b"%", Map([(b"a", b"1"), (b"b", b"2")]))):
        for protocol in (2, 3):
            assert encode(Elements(Whole(list(pairs)), 4, kind), protocol) == encode(reply, protocol)
