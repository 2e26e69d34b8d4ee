"""Commands that wait for a store without a task of their own: reads of absent keys, plain SET under write-through.

What they promise is tested where it is promised (tests/persistence/test_promises.py, the simulation). Here is what only
these roads can get wrong, on both stores.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from server.app import Node
from tests.support.node import client_of, running_node
from tests.support.shop import PostgresShop, Shop, SqliteShop, prefix, rules
from tests.support.waiting import eventually

BODY = {"table": "articles", "value": '{ column = "body" }'}
THROUGH = prefix("article:{slug}", read="read-through", write="write-through", **BODY)
AROUND = prefix("article:{slug}", read="read-through", write="write-around", **BODY)
CLIENTS = 20


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    if request.param == "sqlite":
        opened: Shop = SqliteShop(tmp_path / "shop.db")
    else:
        opened = await PostgresShop.open(request.getfixturevalue("postgres_url"))
    await opened.execute("create table limits (id integer primary key, most integer check (most >= 0))")
    for number in range(CLIENTS):
        await opened.execute("insert into articles (slug, body) values ($1, $2)", f"a{number}", f"body {number}")
    yield opened
    await opened.close()


@asynccontextmanager
async def started(shop: Shop, *prefixes: str) -> AsyncIterator[tuple[Node, redis.asyncio.Redis]]:
    async with running_node(rules(shop, prefixes)) as node:
        client = client_of(node, decode_responses=True)
        yield node, client
        await client.aclose()


class Gate:
    """A method of the node's store whose answers are held back until `open`."""

    def __init__(self, node: Node, method: str) -> None:
        self._store: Any = node.engine.stores["main"]
        self._method = method
        self._real = getattr(self._store, method)
        self._open = asyncio.Event()
        # Statements that have been answered by the store.
        self.answered = 0
        setattr(self._store, method, self._held)

    async def _held(self, *args: Any) -> Any:
        answer = await self._real(*args)
        self.answered += 1
        await self._open.wait()
        return answer

    def open(self) -> None:
        """Let the answers through, those to come included."""
        setattr(self._store, self._method, self._real)
        self._open.set()


def waiting(node: Node) -> list[Any]:
    """The connections whose command waits."""
    return [connection for connection in node.peers.by_id.values() if connection.waits]


async def test_reads_that_wait_have_no_task_and_share_a_statement(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        gate = Gate(node, "load_many")
        reads = [asyncio.create_task(client.get(f"article:a{number}")) for number in range(CLIENTS)]
        await eventually(lambda: len(waiting(node)) == CLIENTS)
        assert [connection for connection in waiting(node) if connection._task is not None] == []
        gate.open()
        assert await asyncio.gather(*reads) == [f"body {number}" for number in range(CLIENTS)]
        counters = node.engine.prefixes["article:{slug}"].counters
        assert (counters.misses, counters.hits, counters.load_rows) == (CLIENTS, 0, CLIENTS)
        assert await client.get("article:a0") == "body 0"
        assert counters.hits == 1


async def test_plain_sets_that_wait_have_no_task_and_share_transactions(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        store = node.engine.stores["main"]
        before = store.stats().transactions
        gate = Gate(node, "apply")
        writes = [asyncio.create_task(client.set(f"article:a{number}", "new")) for number in range(CLIENTS)]
        await eventually(lambda: len(waiting(node)) == CLIENTS)
        assert [connection for connection in waiting(node) if connection._task is not None] == []
        # Memory shows nothing before the database has told.
        assert node.keyspace.database(0).held(b"article:a0") is None
        gate.open()
        assert await asyncio.gather(*writes) == [True] * CLIENTS
        assert await shop.rows("select distinct body from articles") == [("new",)]
        assert await client.mget("article:a0", "article:a19") == ["new", "new"]
        assert store.stats().transactions - before < CLIENTS
        assert not node.engine.locks.held


async def test_pipeline_of_misses_writes_and_plain_commands_is_answered_in_order(shop: Shop) -> None:
    async with started(shop, THROUGH) as (_, client):
        pipeline = client.pipeline(transaction=False)
        pipeline.get("article:a0").ping().set("article:a1", "one").get("article:a1").get("article:none")
        pipeline.set("plain", "x").mget("article:a2", "plain", "article:a3").set("article:a0", "zero").get("article:a0")
        assert await pipeline.execute() == [
            *("body 0", True, True, "one", None, True),
            *(["body 2", "x", "body 3"], True, "zero"),
        ]


async def test_mget_does_not_see_half_of_a_transaction_that_commits_while_it_waits(shop: Shop) -> None:
    # Write-around keeps neither value, so memory cannot help: what came in before the transaction must not be combined
    # with what comes in after it.
    async with started(shop, AROUND) as (node, client):
        assert await client.get("article:a0") == "body 0"
        gate = Gate(node, "load_many")
        reading = asyncio.create_task(client.mget("article:a0", "article:a1"))
        await eventually(lambda: gate.answered == 1)
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.set("article:a0", "new").set("article:a1", "new")
            await pipeline.execute()
        gate.open()
        assert await reading == ["new", "new"]


async def test_set_of_a_key_that_is_being_set_comes_second(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        gate = Gate(node, "apply")
        first = asyncio.create_task(client.set("article:a0", "first"))
        await eventually(lambda: gate.answered == 1)
        second = asyncio.create_task(client.set("article:a0", "second"))
        await eventually(lambda: len(waiting(node)) == 2)
        gate.open()
        assert await asyncio.gather(first, second) == [True, True]
        assert await client.get("article:a0") == "second"
        assert await shop.rows("select body from articles where slug = 'a0'") == [("second",)]


async def test_set_that_the_database_refuses_leaves_memory_as_it_was(shop: Shop) -> None:
    limit = prefix(
        "limit:{id:int}", read="read-through", write="write-through", table="limits", value='{ column = "most" }'
    )
    async with started(shop, limit) as (node, client):
        await client.set("limit:1", "007")
        # As a load would show it.
        assert await client.get("limit:1") == "7"
        with pytest.raises(ResponseError, match="STOREREJECTED 23514"):
            await client.set("limit:1", "-1")
        with pytest.raises(ResponseError, match="STOREREJECTED 22P02"):
            await client.set("limit:1", "many")
        assert await client.get("limit:1") == "7"
        assert await shop.rows("select id, most from limits") == [(1, 7)]
        assert node.engine.prefixes["limit:{id:int}"].counters.write_errors == 1
        assert not node.engine.locks.held


async def test_client_that_leaves_while_its_set_is_under_way_changes_nothing_about_it(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        gate = Gate(node, "apply")
        _, writer = await asyncio.open_connection("127.0.0.1", node.listener.port)
        writer.write(b"SET article:a0 left\r\nGET article:a1\r\n")
        await eventually(lambda: gate.answered == 1)
        # A reset: the client is gone, not merely done with sending.
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await eventually(lambda: not waiting(node))
        gate.open()
        await eventually(lambda: not node.engine.locks.held)
        assert await client.get("article:a0") == "left"
