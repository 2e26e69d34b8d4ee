"""Writes that the database gives up: a flush that is too slow is divided, and one bad table costs no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.app import Node
from tests.support.node import client_of, running_node
from tests.support.shop import PostgresShop, prefix, rules
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

BEHIND: dict[str, Any] = {"read": "read-through", "write": "write-behind", "write_delay": "1m", "value": "hash"}
USERS = prefix("user:{id:int}", table="users", **BEHIND)
ORDERS = prefix("order:{tenant:int}:{number:int}", table="orders", **BEHIND)
SLOW = """
create function slow() returns trigger language plpgsql as $$begin perform pg_sleep({seconds}); return new; end$$;
create trigger slow before insert on users for each row when ({condition}) execute function slow();
"""


@pytest.fixture
async def shop(postgres_url: str) -> AsyncIterator[PostgresShop]:
    opened = await PostgresShop.open(postgres_url)
    yield opened
    await opened.close()


def impatient(shop: PostgresShop, *prefixes: str) -> str:
    """A configuration whose statements may not take long."""
    return rules(shop, prefixes).replace("[stores.main]", '[stores.main]\nstatement_timeout = "250ms"')


async def written(node: Node, count: int) -> None:
    """So many users are written, and saved without delay."""
    client = client_of(node)
    pipe = client.pipeline(transaction=False)
    for number in range(1, count + 1):
        pipe.hset(f"user:{number}", mapping={"name": f"user {number}"})
    await pipe.execute()
    node.engine.queues["main"].flusher.force(node.engine.queues["main"].seq)
    await client.aclose()


async def test_flush_that_takes_too_long_is_made_smaller_until_it_does_not(shop: PostgresShop) -> None:
    await shop.execute(SLOW.format(seconds=0.01, condition="true"))
    async with running_node(impatient(shop, USERS)) as node:
        await written(node, 40)
        await eventually(lambda: not node.engine.unsaved(), 10.0)
        assert await shop.rows("select count(*) from users") == [(40,)]
        assert node.engine.queues["main"].stats().dead_letters == 0


async def test_row_that_takes_too_long_by_itself_holds_up_no_other(shop: PostgresShop) -> None:
    await shop.execute(SLOW.format(seconds=1, condition="new.id = 2"))
    async with running_node(impatient(shop, USERS)) as node:
        await written(node, 8)
        queue = node.engine.queues["main"]
        await eventually(lambda: queue.count() == 1 and b"user:2" in {**queue.suspects, **queue.flying}, 10.0)
        await shop.execute("drop trigger slow on users")
        await eventually(lambda: not queue.count(), 10.0)
        assert await shop.rows("select count(*) from users") == [(8,)]


async def test_table_that_is_in_no_state_to_be_written_stops_its_own_rule_alone(shop: PostgresShop) -> None:
    await shop.execute("insert into orders values (1, 1, 'new')")
    await shop.execute("create publication everything for table orders; alter table orders replica identity nothing")
    async with running_node(rules(shop, (USERS, ORDERS))) as node:
        client = client_of(node)
        await client.hset("order:1:1", "status", "paid")
        await written(node, 2)
        await eventually(lambda: node.engine.unsaved() == 1)
        assert "replica identity" in node.engine.prefixes["order:{tenant:int}:{number:int}"].stopped
        assert await shop.rows("select count(*) from users") == [(2,)]
        await shop.execute("drop publication everything")
        queue = node.engine.queues["main"]

        def saved() -> bool:
            for backlog in queue.backlogs.values():
                for pending in backlog.pendings.values():
                    # Not in five seconds.
                    pending.not_before_ms = 0
            node.engine.hurry()
            return not queue.count()

        await eventually(saved, 10.0)
        assert await shop.rows("select status from orders") == [("paid",)]
        await client.aclose()
