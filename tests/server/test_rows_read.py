"""Copies of rows are read without asking anybody, alone, in a pipeline and by MGET, for as long as they may be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from protocol.quick import by_bytes, by_split
from server.app import Node
from server.commands.spec import COMMANDS
from tests.support.node import client_of, running_node
from tests.support.shop import SqliteShop, prefix, rules

ROWS = 12
KEYS = [f"article:a{number}" for number in range(ROWS)]
ARTICLES = prefix(
    "article:{slug}",
    table="articles",
    value='{ column = "body" }',
    read="read-through",
    write="write-around",
    ttl="1h",
)
USERS = prefix("user:{id:int}", table="users", value="hash", read="read-through", write="write-around")
MEMORY = '[memory]\nmaxmemory = "64mb"\neviction = "lfu"\n'
WAYS = ("alone", "pipeline", "mget")


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[SqliteShop]:
    opened = SqliteShop(tmp_path / "shop.db")
    for number in range(ROWS):
        await opened.execute("insert into articles (slug, body) values ($1, $2)", f"a{number}", f"body {number}")
    await opened.execute("insert into users (id, name, credits) values (1, 'Ada', 41)")
    yield opened
    await opened.close()


@asynccontextmanager
async def started(shop: SqliteShop, more: str = "") -> AsyncIterator[tuple[Node, redis.asyncio.Redis]]:
    async with running_node(more + rules(shop, [ARTICLES, USERS])) as node:
        client = client_of(node, decode_responses=True, single_connection_client=True)
        yield node, client
        await client.aclose()


async def read(client: redis.asyncio.Redis, keys: list[str], way: str) -> list[str | None]:
    if way == "mget":
        return list(await client.mget(*keys))
    if way == "alone":
        return [await client.get(key) for key in keys]
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.get(key)
    return list(await pipeline.execute())


@pytest.mark.parametrize("way", WAYS)
async def test_hits_are_counted_for_memory_rule_and_policy(shop: SqliteShop, way: str) -> None:
    async with started(shop, MEMORY) as (node, client):
        await client.mget(*KEYS)
        await client.set("plain", "1", ex=1000)
        memory = node.keyspace.database(0)
        entries = [memory.held(key.encode()) for key in KEYS]
        counters = node.engine.prefixes["article:{slug}"].counters
        for entry in entries:
            assert entry is not None and entry.lease is not None
            entry.access_ms = 5000
            entry.lease.cost_ms = 2.0
        before = (memory.hits, memory.misses, memory.attention, counters.hits, counters.saved_db_ms)
        calls = COMMANDS["get"].calls + COMMANDS["mget"].calls
        found = await read(client, [*KEYS, "plain"], way)
        assert found == [*[f"body {number}" for number in range(ROWS)], "1"]
        after = (memory.hits, memory.misses, memory.attention, counters.hits, counters.saved_db_ms)
        assert [new - old for new, old in zip(after, before, strict=True)] == [ROWS + 1, 0, 0, ROWS, 2.0 * ROWS]
        assert COMMANDS["get"].calls + COMMANDS["mget"].calls - calls == (1 if way == "mget" else ROWS + 1)
        assert {entry.freq for entry in entries if entry is not None} == {1}
        assert all(entry is not None and entry.access_ms > 5000 for entry in entries)


@pytest.mark.parametrize("way", WAYS)
async def test_copy_that_is_void_or_has_run_out_is_loaded_again(shop: SqliteShop, way: str) -> None:
    async with started(shop) as (node, client):
        await client.mget(*KEYS)
        await shop.execute("update articles set body = 'new'")
        old = [f"body {number}" for number in range(ROWS)]
        assert await read(client, KEYS, way) == old
        memory = node.keyspace.database(0)
        for key in KEYS[5:7]:
            entry = memory.held(key.encode())
            assert entry is not None and entry.lease is not None
            entry.lease.until_ms = entry.lease.stale_until_ms = 0
            entry.deadline_ms = entry.soft_ms = 0
        assert await read(client, KEYS, way) == [*old[:5], "new", "new", *old[7:]]
        await client.execute_command("CACHE.BUMP", "article:{slug}")
        assert await read(client, KEYS, way) == ["new"] * ROWS


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_no_row_in_memory_takes_its_own_road_in_between(shop: SqliteShop, way: str) -> None:
    async with started(shop) as (_, client):
        await client.mget(*KEYS[:6])
        await client.set("plain", "1")
        await client.set("brief", "2", px=1)
        await client.hgetall("user:1")
        keys = [*KEYS[:3], "nothing", "plain", "article:none", *KEYS[3:], "brief"]
        bodies = [f"body {number}" for number in range(ROWS)]
        while await client.exists("brief"):
            pass
        assert await read(client, keys, way) == [*bodies[:3], None, "1", None, *bodies[3:], None]
        if way == "mget":
            assert await client.mget(KEYS[0], "user:1") == [bodies[0], None]
        else:
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                await read(client, [*KEYS[:4], "user:1"], way)


@pytest.mark.parametrize("words", [9, 10, 99, 100, 101, 999])
def test_quick_roads_take_commands_of_many_words(words: int) -> None:
    argv = [b"MGET", *[b"k%d" % number for number in range(words - 1)]]
    data = b"*%d\r\n" % words + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in argv])
    for road in (by_split, by_bytes):
        out: list[list[bytes]] = []
        if road is by_split and len(data) > 4096:
            continue
        assert (road(data, 0, 0, 1_000_000, out), out) == (len(data), [argv])
        # Not more than are allowed, and not before the last of them is there.
        assert road(data, 0, 0, words - 1, []) == 0
        assert road(data[:-1], 0, 0, 1_000_000, []) == 0
