"""What refers to other rows is saved after them, whatever rules they are under: foreign keys of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis.asyncio

from server.app import Node
from tests.support.node import client_of, running_node
from tests.support.shop import PostgresShop, prefix, rules
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

Start = Callable[..., Awaitable[tuple[Node, redis.asyncio.Redis]]]

TABLES = """
create table authors (id bigint primary key, name text unique);
create table books (id bigint primary key, author bigint not null references authors (id), title text);
"""
BEHIND: dict[str, Any] = {"read": "read-through", "write": "write-behind", "value": "hash", "retry_limit": 1}
AUTHORS: dict[str, Any] = {**BEHIND, "table": "authors"}
BOOKS: dict[str, Any] = {**BEHIND, "table": "books"}


@pytest.fixture
async def shop(postgres_url: str) -> AsyncIterator[PostgresShop]:
    opened = await PostgresShop.open(postgres_url)
    await opened.execute(TABLES)
    yield opened
    await opened.close()


@pytest.fixture
async def start(shop: PostgresShop) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def starter(*prefixes: str) -> tuple[Node, redis.asyncio.Redis]:
            node = await stack.enter_async_context(running_node(rules(shop, prefixes)))
            client = client_of(node, decode_responses=True)
            stack.push_async_callback(client.aclose)
            return node, client

        yield starter


def refusals(node: Node) -> int:
    """Rows that the database has refused, once or for good."""
    prefixes = node.engine.prefixes.values()
    return sum(prefix.counters.write_errors + prefix.counters.dead_letters for prefix in prefixes)


async def test_row_waits_behind_an_older_one_of_a_rule_of_which_enough_goes_already(
    shop: PostgresShop, start: Start
) -> None:
    node, client = await start(
        prefix("author:{id:int}", **AUTHORS, write_delay="1m", write_batch=2),
        prefix("book:{id:int}", **BOOKS, write_delay="1m"),
    )
    pipe = client.pipeline(transaction=False)
    for number in range(1, 21):
        pipe.hset(f"author:{number}", mapping={"name": f"author {number}"})
    for number in range(1, 21):
        pipe.hset(f"book:{number}", mapping={"author": number, "title": "new"})
    await pipe.execute()
    assert await client.execute_command("CACHE.WAIT", 10_000) == 0
    assert await shop.rows("select count(*) from books join authors on authors.id = books.author") == [(20,)]
    assert refusals(node) == 0


async def test_row_waits_for_an_older_one_whose_rule_saves_later(shop: PostgresShop, start: Start) -> None:
    node, client = await start(
        prefix("author:{id:int}", **AUTHORS, write_delay="1m"),
        prefix("book:{id:int}", **BOOKS, write_delay="1ms"),
    )
    await client.hset("author:1", mapping={"name": "one"})
    await client.hset("book:1", mapping={"author": 1, "title": "first"})
    queue = node.engine.queues["main"]
    await eventually(lambda: b"book:1" in queue.suspects)
    assert (await client.hget("book:1", "title"), queue.count(), refusals(node)) == ("first", 2, 0)
    await client.execute_command("CACHE.FLUSH")
    await eventually(lambda: not queue.count())
    assert await shop.rows("select author, title from books") == [(1, "first")]
    assert refusals(node) == 0


async def test_interleaved_rows_of_two_tables_leave_no_dead_letter(shop: PostgresShop, start: Start) -> None:
    node, client = await start(
        prefix("author:{id:int}", **AUTHORS, write_delay="1m"),
        prefix("book:{id:int}", **BOOKS, write_delay="1m"),
    )
    await shop.execute("insert into authors (id) values (0)")
    pipe = client.pipeline(transaction=False)
    for number in range(1, 101):
        pipe.hset(f"book:{number}", mapping={"author": number - 1})
        pipe.hset(f"author:{number}", mapping={"name": f"author {number}"})
    await pipe.execute()
    assert await client.execute_command("CACHE.WAIT", 10_000) == 0
    assert await shop.rows("select count(*) from books join authors on authors.id = books.author") == [(100,)]
    assert refusals(node) == 0
