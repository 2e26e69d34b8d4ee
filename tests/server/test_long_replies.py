"""Replies of many elements are written in slices, and say the same as if they were written at once."""

from __future__ import annotations

import itertools
import time

import pytest

from persistence.change import NEVER, STRING
from protocol.encoder import encode, encode_into
from protocol.replies import Map, Ready, SetOf
from server.keyspace.globbing import Glob
from server.keyspace.keyspace import Keyspace
from server.long_replies import AT_ONCE, is_long, survey, write
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
    assert ready.chunks[0] == b"*10\r\n"


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
