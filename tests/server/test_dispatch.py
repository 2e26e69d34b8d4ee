"""Dispatch: what it sees to besides running handlers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from server.app import Node
from server.commands.spec import COMMANDS
from tests.support.node import client_of, running_node
from tests.support.shop import SqliteShop, prefix, rules


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    shop = SqliteShop(tmp_path / "shop.db")
    await shop.execute("insert into users (id, name, credits) values (1, 'Ada', 41)")
    users = prefix("user:{id:int}", table="users", value="hash", read="read-through", write="write-through")
    async with running_node(rules(shop, [users])) as started:
        yield started
    await shop.close()


@pytest.fixture
async def client(node: Node) -> AsyncIterator[redis.asyncio.Redis]:
    opened = client_of(node, decode_responses=True, single_connection_client=True)
    yield opened
    await opened.aclose()


async def test_no_touch_leaves_no_trace_in_recency(node: Node, client: redis.asyncio.Redis) -> None:
    await client.set("a", "1")
    entry = node.keyspace.database(0).held(b"a")
    assert entry is not None
    entry.access_ms = 5000
    await client.execute_command("CLIENT", "NO-TOUCH", "ON")
    assert await client.get("a") == "1"
    assert entry.access_ms == 5000
    assert await client.execute_command("TOUCH", "a") == 1
    assert entry.access_ms > 5000
    entry.access_ms = 5000
    await client.execute_command("CLIENT", "NO-TOUCH", "OFF")
    assert await client.get("a") == "1"
    assert entry.access_ms > 5000


async def test_select_inside_multi_does_not_get_round_the_rules(client: redis.asyncio.Redis) -> None:
    await client.select(3)
    await client.execute_command("MULTI")
    await client.execute_command("SELECT", "0")
    await client.execute_command("HINCRBY", "user:1", "credits", "100")
    assert (await client.execute_command("EXEC"))[1] == 141
    await client.select(0)
    assert await client.hget("user:1", "credits") == "141"


async def test_transaction_on_managed_keys_that_writes_elsewhere_is_refused_whole(client: redis.asyncio.Redis) -> None:
    await client.execute_command("MULTI")
    await client.execute_command("HINCRBY", "user:1", "credits", "1")
    await client.execute_command("SELECT", "3")
    await client.execute_command("SET", "a", "1")
    with pytest.raises(ResponseError, match="cannot reach into another database"):
        await client.execute_command("EXEC")
    assert await client.hget("user:1", "credits") == "41"
    await client.select(3)
    assert await client.get("a") is None


async def test_transaction_in_another_database_is_plain(client: redis.asyncio.Redis) -> None:
    await client.select(3)
    await client.execute_command("MULTI")
    await client.execute_command("HSET", "user:1", "colour", "red")
    assert await client.execute_command("EXEC") == [1]
    assert await client.hget("user:1", "colour") == "red"


async def test_flushall_cannot_be_part_of_a_managed_transaction(client: redis.asyncio.Redis) -> None:
    pipeline = client.pipeline(transaction=True)
    pipeline.hincrby("user:1", "credits", 1)
    pipeline.flushall()
    with pytest.raises(ResponseError, match="flushall cannot be part of a transaction"):
        await pipeline.execute()


async def test_bug_in_a_handler_is_an_error_reply_and_the_server_lives(
    node: Node, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(ctx: object, argv: list[bytes]) -> object:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(COMMANDS["get"], "handler", broken)
    with pytest.raises(ResponseError, match="internal error"):
        await client.get("secret")
    assert await client.ping()
    assert node.dispatch.internal_errors == 1
    assert "internal error in get, key [b'secret']" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_error_replies_are_counted_by_code(client: redis.asyncio.Redis) -> None:
    await client.set("a", "x")
    # Clients may have tried commands of other servers when they connected.
    await client.config_resetstat()
    for _ in range(2):
        with pytest.raises(ResponseError):
            await client.incr("a")
    with pytest.raises(ResponseError):
        await client.hget("a", "f")
    stats = await client.info("errorstats")
    assert stats["errorstat_ERR"] == {"count": 2}
    assert stats["errorstat_WRONGTYPE"] == {"count": 1}
    # Those inside of a transaction are replies, too.
    for words in (("MULTI",), ("INCR", "a"), ("HGET", "a", "f"), ("GET", "a"), ("EXEC",)):
        await client.execute_command(*words)
    stats = await client.info("errorstats")
    assert stats["errorstat_ERR"] == {"count": 3}
    assert stats["errorstat_WRONGTYPE"] == {"count": 2}
    # A script may answer with words that nobody knows: those past the 128th are counted together.
    for number in range(150):
        with pytest.raises(ResponseError):
            await client.eval("return redis.error_reply(ARGV[1])", 0, f"MINE{number} is over")
    stats = await client.info("errorstats")
    assert (len(stats), stats["errorstat_OTHER"]) == (129, {"count": 150 - 126})
