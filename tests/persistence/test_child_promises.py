"""Keys that are many rows, by name and through real commands: over sockets, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from persistence.invalidation import outbox_sql
from server import cli
from server.app import Node
from server.config import parse_config
from tests.support.node import client_of, running_node
from tests.support.postgres import PostgresServer
from tests.support.shop import PostgresShop, Shop, SqliteShop, prefix, rules
from tests.support.waiting import eventually

postgres = pytest.mark.postgres
Start = Callable[..., Awaitable[tuple[Node, redis.asyncio.Redis]]]

TABLES = """
create table cart_items (
    user_id bigint not null,
    item text not null check (item <> 'poison'),
    quantity integer not null default 1,
    primary key (user_id, item)
);
create table scores (
    game text not null,
    player bigint not null,
    points double precision not null check (points < 1000000),
    primary key (game, player)
);
"""
# Parents and children, as SQLite and PostgreSQL both take them.
FAMILY = """
create table parents (id bigint primary key, name text);
create table children (
    parent bigint not null references parents (id), child text not null, primary key (parent, child)
);
"""

ITEMS = {"table": "cart_items", "value": '{ set = "item" }', "read": "read-through"}
POINTS = {"table": "scores", "value": '{ zset = ["player", "points"] }', "read": "read-through"}
CART = prefix("cart:{user_id:int}", **ITEMS, write="write-through")
CART_BEHIND = prefix("cart:{user_id:int}", **ITEMS, write="write-behind", write_delay="10s", write_batch=2000)
SCORES = prefix("score:{game}", **POINTS, write="write-through")
SCORES_BEHIND = prefix("score:{game}", **POINTS, write="write-behind", write_delay="10s")
USER = prefix("user:{id:int}", table="users", value="hash", read="read-through", write="write-through")
BOTH = pytest.mark.parametrize("rule", [CART, CART_BEHIND], ids=["write-through", "write-behind"])


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=postgres)])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    if request.param == "sqlite":
        opened: Shop = SqliteShop(tmp_path / "shop.db")
    else:
        opened = await PostgresShop.open(request.getfixturevalue("postgres_url"))
    await opened.execute(TABLES)
    yield opened
    await opened.close()


@pytest.fixture
async def start(shop: Shop) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def starter(*prefixes: str, **options: Any) -> tuple[Node, redis.asyncio.Redis]:
            node = await stack.enter_async_context(running_node(rules(shop, prefixes)))
            client = client_of(node, decode_responses=True, **options)
            stack.push_async_callback(client.aclose)
            return node, client

        yield starter


async def fill(shop: Shop, user: int, *items: str) -> None:
    for item in items:
        await shop.execute("insert into cart_items (user_id, item, quantity) values ($1, $2, 9)", user, item)


async def items(shop: Shop, user: int) -> list[tuple[object, ...]]:
    return await shop.rows("select item, quantity from cart_items where user_id = $1 order by item", user)


def counters(node: Node, name: str = "cart:{user_id:int}") -> Any:
    return node.engine.prefixes[name].counters


class Statements:
    """Statements and transactions of the store since this was made."""

    def __init__(self, node: Node) -> None:
        self._store = node.engine.stores["main"]
        self._before = self._store.stats()

    @property
    def loads(self) -> int:
        return self._store.stats().load_statements - self._before.load_statements

    @property
    def writes(self) -> int:
        return self._store.stats().write_statements - self._before.write_statements

    @property
    def transactions(self) -> int:
        return self._store.stats().transactions - self._before.transactions


# Reading


async def test_concurrent_smembers_of_a_cold_set_are_one_statement(shop: Shop, start: Start) -> None:
    await fill(shop, 7, "anchor", "buoy")
    node, client = await start(CART, max_connections=200)
    answers = await asyncio.gather(*[client.smembers("cart:7") for _ in range(200)])
    assert all(answer == {"anchor", "buoy"} for answer in answers)
    assert counters(node).load_statements == 1


async def test_pipeline_of_hundred_cold_smembers_is_one_statement(shop: Shop, start: Start) -> None:
    for user in range(100):
        await fill(shop, user, f"item {user}")
    node, client = await start(CART)
    pipeline = client.pipeline(transaction=False)
    for user in range(100):
        pipeline.smembers(f"cart:{user}")
    assert await pipeline.execute() == [{f"item {user}"} for user in range(100)]
    assert counters(node).load_statements == 1
    assert counters(node).load_rows == 100


async def test_set_without_rows_is_an_absent_key_and_remembered(shop: Shop, start: Start) -> None:
    node, client = await start(CART)
    assert await client.smembers("cart:7") == set()
    assert await client.exists("cart:7") == 0
    assert await client.type("cart:7") == "none"
    assert counters(node).load_statements == 1
    assert counters(node).negative_hits >= 2
    assert await client.dbsize() == 0


async def test_sorted_set_is_read_in_the_order_of_its_scores(shop: Shop, start: Start) -> None:
    for player, points in ((7, 1.5), (8, -2.0), (9, 1e10 / 3e4)):
        await shop.execute("insert into scores values ('chess', $1, $2)", player, points)
    _, client = await start(SCORES)
    assert await client.zrange("score:chess", 0, -1, withscores=True) == [("8", -2.0), ("7", 1.5), ("9", 1e10 / 3e4)]
    assert await client.zrevrank("score:chess", "7") == 1
    assert await client.type("score:chess") == "zset"


# Writing


@BOTH
async def test_sadd_on_an_uncached_set_loads_once_and_adds_one_row(shop: Shop, start: Start, rule: str) -> None:
    await fill(shop, 7, "anchor", "buoy")
    node, client = await start(rule)
    seen = Statements(node)
    assert await client.sadd("cart:7", "compass", "anchor") == 1
    assert await client.smembers("cart:7") == {"anchor", "buoy", "compass"}
    await client.execute_command("CACHE.FLUSH")
    assert (seen.loads, seen.writes, seen.transactions) == (1, 1, 1)
    # The others were not touched: they have the quantity that an outsider gave them.
    assert await items(shop, 7) == [("anchor", 9), ("buoy", 9), ("compass", 1)]


@BOTH
async def test_srem_of_the_last_member_leaves_no_row_and_no_key(shop: Shop, start: Start, rule: str) -> None:
    await fill(shop, 7, "anchor", "buoy")
    await fill(shop, 8, "anchor")
    node, client = await start(rule)
    seen = Statements(node)
    assert await client.srem("cart:7", "anchor") == 1
    assert await client.srem("cart:7", "buoy", "none") == 1
    assert await client.exists("cart:7") == 0
    await client.execute_command("CACHE.FLUSH")
    assert await items(shop, 7) == []
    assert await items(shop, 8) == [("anchor", 9)]
    assert await client.exists("cart:7") == 0
    assert seen.loads == 1


@BOTH
async def test_srem_of_the_last_known_member_leaves_what_somebody_else_has_added(
    shop: Shop, start: Start, rule: str
) -> None:
    await fill(shop, 7, "anchor")
    _, client = await start(rule)
    assert await client.smembers("cart:7") == {"anchor"}
    await fill(shop, 7, "theirs")
    assert await client.srem("cart:7", "anchor") == 1
    await client.execute_command("CACHE.FLUSH")
    assert await items(shop, 7) == [("theirs", 9)]


@BOTH
async def test_del_deletes_all_rows_of_the_key_in_one_statement(shop: Shop, start: Start, rule: str) -> None:
    await fill(shop, 7, "anchor", "buoy")
    await fill(shop, 8, "anchor")
    node, client = await start(rule)
    seen = Statements(node)
    assert await client.delete("cart:7") == 1
    assert await client.smembers("cart:7") == set()
    await client.execute_command("CACHE.FLUSH")
    assert (await items(shop, 7), await items(shop, 8)) == ([], [("anchor", 9)])
    assert (seen.loads, seen.writes) == (0, 1)


async def test_del_counts_keys_that_had_rows(shop: Shop, start: Start) -> None:
    await fill(shop, 7, "anchor", "buoy")
    _, client = await start(CART)
    assert await client.delete("cart:7", "cart:8") == 1


@BOTH
async def test_store_variant_replaces_the_set_without_loading_it(shop: Shop, start: Start, rule: str) -> None:
    await fill(shop, 1, "anchor", "buoy")
    await fill(shop, 2, "buoy", "compass")
    await fill(shop, 3, "old", "compass")
    node, client = await start(rule)
    seen = Statements(node)
    assert await client.sunionstore("cart:3", "cart:1", "cart:2") == 3
    await client.execute_command("CACHE.FLUSH")
    assert (seen.loads, seen.writes, seen.transactions) == (1, 2, 1)
    # The one that stays is the row that was there.
    assert await items(shop, 3) == [("anchor", 1), ("buoy", 1), ("compass", 9)]
    assert await client.sinterstore("cart:3", "cart:1", "cart:4") == 0
    await client.execute_command("CACHE.FLUSH")
    assert await items(shop, 3) == []


@pytest.mark.parametrize("rule", [SCORES, SCORES_BEHIND], ids=["write-through", "write-behind"])
async def test_zadd_and_zincrby_write_one_row(shop: Shop, start: Start, rule: str) -> None:
    for player in range(5):
        await shop.execute("insert into scores values ('chess', $1, 1)", player)
    node, client = await start(rule)
    seen = Statements(node)
    assert await client.zincrby("score:chess", 0.5, "3") == 1.5
    await client.execute_command("CACHE.FLUSH")
    assert (seen.loads, seen.writes) == (1, 1)
    assert await client.zadd("score:chess", {"9": 4}) == 1
    await client.execute_command("CACHE.FLUSH")
    assert (seen.loads, seen.writes) == (1, 2)
    assert await client.zrem("score:chess", "0", "1") == 2
    await client.execute_command("CACHE.FLUSH")
    assert seen.writes == 3
    rows = await shop.rows("select player, points from scores order by player")
    assert rows == [(2, 1.0), (3, 1.5), (4, 1.0), (9, 4.0)]


@BOTH
async def test_smove_is_one_transaction(shop: Shop, start: Start, rule: str) -> None:
    await fill(shop, 1, "anchor", "buoy")
    node, client = await start(rule)
    seen = Statements(node)
    assert await client.smove("cart:1", "cart:2", "anchor") == 1
    await client.execute_command("CACHE.FLUSH")
    assert (seen.loads, seen.transactions) == (1, 1)
    assert await items(shop, 1) == [("buoy", 9)]
    assert await items(shop, 2) == [("anchor", 1)]


async def test_rename_and_copy_of_a_set_move_its_rows(shop: Shop, start: Start) -> None:
    await fill(shop, 1, "anchor", "buoy")
    await fill(shop, 3, "old")
    _, client = await start(CART)
    assert await client.copy("cart:1", "cart:2")
    assert await client.rename("cart:1", "cart:3")
    assert await shop.rows("select user_id, item from cart_items order by 1, 2") == [
        (2, "anchor"),
        (2, "buoy"),
        (3, "anchor"),
        (3, "buoy"),
    ]


# What is refused


async def test_member_that_does_not_fit_is_refused_before_the_store_is_asked(shop: Shop, start: Start) -> None:
    node, client = await start(CART_BEHIND, SCORES_BEHIND)
    seen = Statements(node)
    with pytest.raises(ResponseError, match='STOREREJECTED 22021 column "item"'):
        await client.sadd("cart:7", b"\xff")
    with pytest.raises(ResponseError, match='STOREREJECTED 22P02 column "player" is not an integer'):
        await client.zadd("score:chess", {"Ada": 1})
    with pytest.raises(ResponseError, match=r"STOREREJECTED 42804 .* holds values of kind set, not string"):
        await client.set("cart:7", "text")
    assert seen.writes == 0
    assert node.engine.unsaved() == 0
    assert await client.exists("cart:7", "score:chess") == 0


async def test_member_is_shown_as_its_row_spells_it(shop: Shop, start: Start) -> None:
    _, client = await start(SCORES)
    assert await client.zadd("score:chess", {"007": 1}) == 1
    assert await client.zrange("score:chess", 0, -1) == ["7"]
    await client.execute_command("CACHE.INVALIDATE", "score:chess")
    assert await client.zrange("score:chess", 0, -1) == ["7"]


async def test_refused_member_leaves_memory_and_rows_as_they_were(shop: Shop, start: Start) -> None:
    await fill(shop, 7, "anchor")
    _, client = await start(CART)
    assert await client.smembers("cart:7") == {"anchor"}
    with pytest.raises(ResponseError, match="STOREREJECTED 23514"):
        await client.sadd("cart:7", "good", "poison")
    assert await client.smembers("cart:7") == {"anchor"}
    assert await items(shop, 7) == [("anchor", 9)]


async def test_transaction_over_a_row_and_a_set_is_all_or_nothing(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ada')")
    await fill(shop, 1, "anchor")
    node, client = await start(USER, CART)
    assert await client.hget("user:1", "name") == "Ada"
    assert await client.smembers("cart:1") == {"anchor"}
    seen = Statements(node)
    transaction = client.pipeline(transaction=True)
    transaction.hset("user:1", "name", "Lady Ada")
    transaction.sadd("cart:1", "poison")
    with pytest.raises(ResponseError, match="STOREREJECTED 23514"):
        await transaction.execute()
    assert await client.hget("user:1", "name") == "Ada"
    assert await client.smembers("cart:1") == {"anchor"}
    assert await shop.rows("select name from users") == [("Ada",)]
    assert await items(shop, 1) == [("anchor", 9)]
    transaction = client.pipeline(transaction=True)
    transaction.hset("user:1", "name", "Lady Ada")
    transaction.sadd("cart:1", "buoy")
    transaction.srem("cart:1", "anchor")
    assert await transaction.execute() == [0, 1, 1]
    # The refused one, and this: a delete, an update, an upsert.
    assert seen.transactions == 2
    assert await shop.rows("select name from users") == [("Lady Ada",)]
    assert await items(shop, 1) == [("buoy", 1)]


@postgres
async def test_transaction_over_a_row_and_a_set_is_one_in_the_log_of_postgresql(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    shop = await PostgresShop.open(postgres_server.url(postgres_database))
    await shop.execute(TABLES)
    await shop.execute("insert into users (id, name) values (1, 'Ada')")
    await fill(shop, 1, "anchor")
    postgres_server.log_statements(postgres_database)
    before = len(postgres_server.log)
    try:
        async with running_node(rules(shop, [USER, CART])) as node:
            client = client_of(node, decode_responses=True)
            transaction = client.pipeline(transaction=True)
            transaction.hset("user:1", "name", "Lady Ada")
            transaction.sadd("cart:1", "buoy")
            transaction.srem("cart:1", "anchor")
            assert await transaction.execute() == [0, 1, 1]
            await client.aclose()
    finally:
        postgres_server.log_statements(postgres_database, on=False)
        await shop.close()
    lines = [line.partition(": ")[2].strip() for line in postgres_server.log[before:].splitlines()]
    words = ("BEGIN", "COMMIT", "ROLLBACK", "INSERT", "UPDATE", "WITH gone0 AS (DELETE")
    seen = [word for line in lines for word in words if line.startswith(word) or f": {word}" in line]
    assert seen == ["BEGIN", "WITH gone0 AS (DELETE", "UPDATE", "INSERT", "COMMIT"]


async def test_parent_and_children_are_written_in_one_transaction_in_whatever_order_they_were_named(
    shop: Shop, start: Start
) -> None:
    await shop.execute(FAMILY)
    node, client = await start(
        prefix("kids:{parent:int}", table="children", value='{ set = "child" }', write="write-through"),
        prefix("parent:{id:int}", table="parents", value="hash", write="write-through"),
    )
    transaction = client.pipeline(transaction=True)
    transaction.sadd("kids:1", "Byron", "Anne")
    transaction.hset("parent:1", "name", "Ada")
    await transaction.execute()
    assert await shop.rows("select parent, child from children order by child") == [(1, "Anne"), (1, "Byron")]
    transaction = client.pipeline(transaction=True)
    transaction.delete("parent:1")
    transaction.delete("kids:1")
    seen = Statements(node)
    assert await transaction.execute() == [1, 1]
    assert seen.transactions == 1
    assert await shop.rows("select * from parents") == []


# Writing behind


async def test_thousand_sadds_to_one_set_are_one_upsert(shop: Shop, start: Start) -> None:
    await fill(shop, 7, "anchor")
    node, client = await start(CART_BEHIND)
    seen = Statements(node)
    pipeline = client.pipeline(transaction=False)
    for number in range(1000):
        pipeline.sadd("cart:7", f"item {number}")
        if number % 2:
            pipeline.sadd("cart:8", f"item {number}")
    assert set(await pipeline.execute()) == {1}
    assert await client.execute_command("CACHE.FLUSH") == [2, 0]
    assert (seen.loads, seen.transactions) == (1, 1)
    # SQLite takes rows by the thousand.
    assert seen.writes == (2 if shop.url.startswith("sqlite") else 1)
    assert await shop.rows("select user_id, count(*) from cart_items group by 1 order by 1") == [(7, 1001), (8, 500)]
    assert await shop.rows("select quantity from cart_items where item = 'anchor'") == [(9,)]


async def test_thousand_sadds_are_one_upsert_statement(shop: Shop, start: Start) -> None:
    node, client = await start(CART_BEHIND)
    seen = Statements(node)
    pipeline = client.pipeline(transaction=False)
    for number in range(1000):
        pipeline.sadd("cart:7", f"item {number}")
    await pipeline.execute()
    await client.execute_command("CACHE.FLUSH")
    assert (seen.writes, seen.transactions) == (1, 1)
    assert await shop.rows("select count(*) from cart_items") == [(1000,)]
    assert counters(node).flush_rows == 1


async def test_members_that_come_and_go_before_a_flush_are_what_they_are_at_its_time(shop: Shop, start: Start) -> None:
    await fill(shop, 7, "anchor", "buoy")
    node, client = await start(CART_BEHIND)
    seen = Statements(node)
    await client.sadd("cart:7", "compass", "dinghy")
    await client.srem("cart:7", "compass", "anchor")
    await client.sadd("cart:7", "anchor")
    await client.srem("cart:7", "buoy")
    assert await client.smembers("cart:7") == {"anchor", "dinghy"}
    await client.execute_command("CACHE.FLUSH")
    assert (seen.writes, seen.transactions) == (2, 1)
    assert await items(shop, 7) == [("anchor", 9), ("dinghy", 1)]


async def test_deleted_and_refilled_set_has_its_new_members_alone(shop: Shop, start: Start) -> None:
    await fill(shop, 7, "anchor", "buoy")
    _, client = await start(CART_BEHIND)
    assert await client.delete("cart:7") == 1
    assert await client.sadd("cart:7", "buoy", "compass") == 2
    assert await client.smembers("cart:7") == {"buoy", "compass"}
    await client.execute_command("CACHE.FLUSH")
    assert await items(shop, 7) == [("buoy", 9), ("compass", 1)]


async def test_poison_member_of_a_hundred_is_a_dead_letter_and_the_others_are_saved(shop: Shop, start: Start) -> None:
    await fill(shop, 7, "anchor")
    node, client = await start(CART_BEHIND)
    await client.sadd("cart:7", *[f"item {number}" for number in range(99)], "poison")
    await client.sadd("cart:8", "buoy")
    assert (await client.execute_command("CACHE.FLUSH", "TIMEOUT", 20000))[1] == 0
    assert len(await items(shop, 7)) == 100
    assert await items(shop, 8) == [("buoy", 1)]
    letters = node.cache.dead_letters(None)
    assert [(letter["key"], letter["sqlstate"]) for letter in letters] == [(b"cart:7", "23514")]
    letter = next(iter(node.engine.queues["main"].dead.values()))
    assert letter.change.members == {b"poison"}
    # on_dead = drop: readers see what the database has.
    assert len(await client.smembers("cart:7")) == 100


async def test_backlog_of_a_large_set_counts_the_members_that_were_touched(shop: Shop, start: Start) -> None:
    await shop.execute(
        "insert into cart_items (user_id, item)"
        " with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) select 7, 'item ' || i from n"
    )
    node, client = await start(CART_BEHIND)
    assert await client.scard("cart:7") == 5000
    await client.sadd("cart:7", "one", "two")
    managed = node.engine.prefixes["cart:{user_id:int}"]
    before = node.engine.queues["main"].bytes_of(managed)
    assert 0 < before < 1000
    await client.sadd("cart:7", "three")
    await client.sadd("cart:7", "three")
    grown = node.engine.queues["main"].bytes_of(managed) - before
    assert 0 < grown < 100
    await client.execute_command("CACHE.FLUSH")
    assert node.engine.queues["main"].bytes_of(managed) == 0


# Triggers of the application


TRIGGERS = {
    "sqlite": "create trigger shout after insert on cart_items when new.item <> upper(new.item) begin"
    " update cart_items set item = upper(item) where user_id = new.user_id and item = new.item; end",
    "postgresql": "create function shout() returns trigger language plpgsql as"
    " 'begin new.item := upper(new.item); return new; end';"
    "create trigger shout before insert on cart_items for each row execute function shout()",
}


async def test_member_that_a_trigger_changes_is_shown_as_the_trigger_left_it(shop: Shop, start: Start) -> None:
    await shop.execute(TRIGGERS["sqlite" if shop.url.startswith("sqlite") else "postgresql"])
    _, client = await start(CART)
    assert await client.sadd("cart:7", "anchor") == 1
    assert await client.smembers("cart:7") == {"ANCHOR"}


# Following the database


class Followed:
    """A node that follows the child tables of a PostgreSQL, and plain SQL beside it."""

    def __init__(self, url: str, shop: PostgresShop, node: Node, client: redis.asyncio.Redis) -> None:
        self.url = url
        self.shop = shop
        self.node = node
        self.client = client

    def in_memory(self, key: bytes) -> bool:
        return self.node.engine.plan_read([key]) is None

    async def heard(self) -> None:
        """Everything that is committed now has reached the node."""
        before = self.node.followers[0].stats().reads

        async def read_twice() -> bool:
            await self.shop.execute("notify forebay")
            return self.node.followers[0].stats().reads >= before + 2

        await eventually(read_twice)


@pytest.fixture
async def followed(request: pytest.FixtureRequest) -> AsyncIterator[Followed]:
    url: str = request.getfixturevalue("postgres_url")
    write = getattr(request, "param", "write-through")
    shop = await PostgresShop.open(url)
    await shop.execute(TABLES)
    follow = {"invalidate": "notify", "ttl": "1h", "negative_ttl": "1h", "write": write}
    toml = rules(
        shop,
        [
            prefix("cart:{user_id:int}", **ITEMS, **follow),
            prefix("score:{game}", **POINTS, **follow),
            prefix("item:{user_id:int}:{item}", table="cart_items", value="json", read="read-through", **follow),
        ],
    )
    await shop.execute(outbox_sql(parse_config(toml, {}, "test.toml").rules))
    try:
        async with running_node(toml) as node:
            client = client_of(node, decode_responses=True)
            yield Followed(url, shop, node, client)
            await client.aclose()
    finally:
        await shop.close()


@postgres
async def test_row_changed_by_plain_sql_invalidates_the_set(followed: Followed) -> None:
    shop, client = followed.shop, followed.client
    await fill(shop, 1, "anchor")
    await fill(shop, 2, "anchor")
    await followed.heard()
    assert [await client.smembers(f"cart:{user}") for user in (1, 2, 3)] == [{"anchor"}, {"anchor"}, set()]

    async def shows(user: int, *wanted: str) -> bool:
        return bool(await client.smembers(f"cart:{user}") == set(wanted))

    await fill(shop, 1, "buoy")
    await eventually(lambda: shows(1, "anchor", "buoy"))
    assert followed.in_memory(b"cart:2")
    # From one key to another, that was remembered as absent.
    await shop.execute("update cart_items set user_id = 3 where user_id = 1 and item = 'buoy'")
    await eventually(lambda: shows(3, "buoy"))
    await eventually(lambda: shows(1, "anchor"))
    await shop.execute("delete from cart_items where user_id = 3")
    await eventually(lambda: shows(3))


@postgres
async def test_statement_that_fills_one_set_is_noted_as_one_key(followed: Followed) -> None:
    shop, client, node = followed.shop, followed.client, followed.node
    await shop.execute("insert into scores values ('chess', 1, 1), ('go', 1, 1)")
    await followed.heard()
    assert await client.zcard("score:chess") == 1
    assert await client.zcard("score:go") == 1
    managed = node.engine.prefixes["score:{game}"]
    before, bumps = managed.counters.invalidations, managed.void_below
    await shop.execute("insert into scores select 'chess', n, 0 from generate_series(2, 12000) n")
    await eventually(lambda: not followed.in_memory(b"score:chess"))
    assert followed.in_memory(b"score:go")
    assert (managed.counters.invalidations - before, managed.void_below) == (1, bumps)
    noted = await shop.rows(
        "select keys::text from forebay_outbox where relation like '%scores' order by seq desc limit 1"
    )
    assert noted == [('[{"game": "chess"}]',)]


@postgres
@pytest.mark.parametrize("followed", ["write-through", "write-behind"], indirect=True)
async def test_own_writes_of_members_are_recognised_as_ours(followed: Followed) -> None:
    shop, client, node = followed.shop, followed.client, followed.node
    await fill(shop, 1, "anchor", "buoy")
    await shop.execute("insert into scores values ('chess', 1, 1), ('chess', 2, 2)")
    await followed.heard()
    assert await client.smembers("cart:1") == {"anchor", "buoy"}
    assert await client.zcard("score:chess") == 2
    before = [counters(node, name).invalidations for name in ("cart:{user_id:int}", "score:{game}")]
    commands = [
        ("SADD", "cart:1", "compass"),
        ("SREM", "cart:1", "anchor"),
        ("SADD", "cart:2", "x", "y"),
        ("SUNIONSTORE", "cart:3", "cart:1", "cart:2"),
        # Nothing of it changes, nothing is told.
        ("SUNIONSTORE", "cart:3", "cart:1", "cart:2"),
        ("SDIFFSTORE", "cart:3", "cart:1", "cart:2"),
        # Inserted and updated in one statement: both triggers tell.
        ("ZADD", "score:chess", "5", "1", "6", "3"),
        ("ZINCRBY", "score:chess", "1", "2"),
        ("ZADD", "score:go", "5", "1"),
        ("ZUNIONSTORE", "score:go", "1", "score:chess"),
        ("ZREM", "score:chess", "1"),
        ("SMOVE", "cart:1", "cart:2", "compass"),
        ("DEL", "cart:2"),
    ]
    for command in commands:
        await client.execute_command(*command)
        await client.execute_command("CACHE.FLUSH")
    await followed.heard()
    after = [counters(node, name).invalidations for name in ("cart:{user_id:int}", "score:{game}")]
    assert after == before
    assert all(followed.in_memory(key) for key in (b"cart:1", b"cart:3", b"score:chess", b"score:go"))
    # No write of ours waits for an echo that never comes: the next change is somebody else's.
    own = node.engine.stores["main"].own_writes  # type: ignore[attr-defined]
    assert len(own) == 0
    assert await client.zrange("score:go", 0, -1, withscores=True) == [("2", 3.0), ("1", 5.0), ("3", 6.0)]


@postgres
async def test_member_written_through_another_prefix_of_the_table_invalidates_the_set(followed: Followed) -> None:
    client = followed.client
    await fill(followed.shop, 1, "anchor")
    await followed.heard()
    assert await client.smembers("cart:1") == {"anchor"}
    await client.set("item:1:buoy", '{"user_id": 1, "item": "buoy", "quantity": 2}')
    await eventually(lambda: not followed.in_memory(b"cart:1"))
    assert await client.smembers("cart:1") == {"anchor", "buoy"}


# What the command line says


@postgres
async def test_sql_for_child_tables_notes_each_key_once_and_may_be_run_again(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = await PostgresShop.open(postgres_url)
    await shop.execute(TABLES)
    path = tmp_path / "f.toml"
    follow = {"invalidate": "notify", "ttl": "1h"}
    path.write_text(rules(shop, [prefix("cart:{user_id:int}", **ITEMS, **follow), SCORES]))
    assert cli.main(["sql", str(path)]) == 0
    script = capsys.readouterr().out
    # A table that nobody follows gets no triggers.
    assert "scores" not in script
    for _ in range(2):
        await shop.execute(script)
    # The members are no part of the key.
    [(noted,)] = await shop.rows("SELECT prosrc FROM pg_proc WHERE proname = 'forebay_follow_cart_items'")
    assert "SELECT DISTINCT jsonb_build_object('user_id', t.user_id::text) AS key FROM new_rows" in str(noted)
    assert "'item'" not in str(noted)
    assert await asyncio.to_thread(cli.main, ["check", str(path), "--connect"]) == 0
    assert "cart:{user_id:int}, read read-through, write cache-aside, main: cart_items as set of item" in (
        capsys.readouterr().out
    )
    await shop.close()


async def test_check_names_the_columns_of_a_child_table_that_does_not_fit(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await shop.execute("create table loose (user_id bigint not null, item text not null, price text)")
    path = tmp_path / "f.toml"
    loose = {**ITEMS, "table": "loose", "write": "write-through"}
    scored = {**POINTS, "table": "loose", "value": '{ zset = ["item", "price"] }'}
    path.write_text(rules(shop, [prefix("cart:{user_id:int}", **loose), prefix("price:{user_id:int}", **scored)]))
    assert await asyncio.to_thread(cli.main, ["check", str(path), "--connect"]) == 2
    said = capsys.readouterr().err
    assert "cart:{user_id:int}: user_id, item is not a unique key of loose" in said
    assert "price:{user_id:int}: loose.price is" in said


async def test_explain_and_rules_show_what_a_key_of_many_rows_is(shop: Shop, start: Start) -> None:
    _, client = await start(SCORES)
    shown = await client.execute_command("CACHE.EXPLAIN", "score:chess")
    explained = dict(zip(shown[::2], shown[1::2], strict=True)) if isinstance(shown, list) else shown
    assert 'SELECT t."game", ' in str(explained["load_sql"])
    assert "zset of player by points" in str(await client.execute_command("CACHE.RULES"))
