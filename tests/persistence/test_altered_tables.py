"""A column gets another type while the server runs: what is loaded is shown as what it is, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.node import client_of, running_node
from tests.support.shop import PostgresShop, prefix, rules

pytestmark = pytest.mark.postgres

USERS = prefix("user:{id:int}", table="users", value="hash", read="read-through", write="write-through")


@pytest.fixture
async def shop(postgres_url: str) -> AsyncIterator[PostgresShop]:
    opened = await PostgresShop.open(postgres_url)
    await opened.execute("alter table users add column active boolean not null default true")
    await opened.execute("insert into users (id, name, age, credits) values (1, 'a', 7, 3), (2, 'b', null, 4)")
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("alteration", "field", "shown"),
    [
        ("alter column credits type numeric(10, 2) using credits + 0.75", "credits", "4.75"),
        ("alter column credits type double precision using credits + 0.5", "credits", "4.5"),
        ("alter column active drop default, alter column active type text using 'no'", "active", "no"),
        ("alter column active drop default, alter column active type integer using 0", "active", "0"),
        ("alter column name type integer using id", "name", "2"),
        ("alter column name type bytea using '\\x6279'", "name", "by"),
    ],
)
async def test_value_of_an_altered_column_is_read_as_its_new_type(
    shop: PostgresShop, alteration: str, field: str, shown: str
) -> None:
    async with running_node(rules(shop, (USERS,))) as node:
        client = client_of(node, decode_responses=True)
        assert await client.hgetall("user:1") == {
            "id": "1", "name": "a", "age": "7", "credits": "3", "active": "true"
        }  # fmt: skip
        await shop.execute("alter table users " + alteration)
        row = await client.hgetall("user:2")
        assert row[field] == shown
        # What is written from now on is of the new type, too.
        assert await client.hset("user:2", field, shown) == 0
        assert await client.hgetall("user:2") == row
        await client.aclose()


async def test_write_on_a_copy_from_before_an_alteration_is_committed_and_said_to_be(shop: PostgresShop) -> None:
    async with running_node(rules(shop, (USERS,))) as node:
        client = client_of(node, decode_responses=True)
        assert await client.hget("user:1", "credits") == "3"
        await shop.execute("alter table users alter column credits type numeric(10, 2) using credits + 0.75")
        assert await client.hset("user:1", "age", 8) == 0
        assert await shop.rows("select age from users where id = 1") == [(8,)]
        await client.execute_command("CACHE.INVALIDATE", "user:1")
        assert await client.hmget("user:1", "age", "credits") == ["8", "3.75"]
        await client.aclose()
