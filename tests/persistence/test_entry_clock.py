"""The entry's clock: fresh, refreshing, revalidating, last resort, gone; and what voids a copy before its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from persistence.errors import StoreDown
from server.app import Node
from tests.support.node import client_of, running_node
from tests.support.shop import Shop, SqliteShop, prefix, rules
from tests.support.waiting import eventually

Start = Callable[..., Awaitable[tuple[Node, redis.asyncio.Redis]]]

USERS = {"table": "users", "value": "hash", "ttl_jitter": 0.0}


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    opened = SqliteShop(tmp_path / "shop.db")
    users = "(1, 'Ada', 'x'), (2, 'Grace', 'x'), (3, 'Eve', 'y')"
    await opened.execute(f"insert into users (id, name, email) values {users}")
    yield opened
    await opened.close()


@pytest.fixture
async def start(shop: Shop) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def starter(*prefixes: str) -> tuple[Node, redis.asyncio.Redis]:
            node = await stack.enter_async_context(running_node(rules(shop, prefixes)))
            client = client_of(node, decode_responses=True)
            stack.push_async_callback(client.aclose)
            return node, client

        yield starter


def counters(node: Node) -> Any:
    return node.engine.prefixes["user:{id:int}"].counters


def age(node: Node, key: bytes, ms: int) -> None:
    """Let `ms` milliseconds of an entry's life pass at once."""
    entry = node.keyspace.database(0).held(key)
    assert entry is not None and entry.lease is not None
    entry.deadline_ms -= ms
    entry.soft_ms -= ms
    lease = entry.lease
    lease.loaded_ms -= ms
    lease.until_ms -= ms
    lease.stale_until_ms -= ms


def break_store(node: Node) -> Callable[[], None]:
    """Make every load fail until the returned function is called."""
    store = node.engine.stores["main"]
    real = store.load_many

    async def failing(mapping: Any, keys: Any) -> Any:
        raise StoreDown("connection refused")

    store.load_many = failing  # type: ignore[method-assign]

    def heal() -> None:
        store.load_many = real  # type: ignore[method-assign]

    return heal


async def test_stale_while_revalidate_serves_the_old_value_while_one_load_runs(shop: Shop, start: Start) -> None:
    node, client = await start(
        prefix("user:{id:int}", read="read-through", ttl="10s", stale_while_revalidate="5s", **USERS)
    )
    assert await client.hget("user:1", "name") == "Ada"
    await shop.execute("update users set name = 'Augusta' where id = 1")
    age(node, b"user:1", 11_000)
    assert await client.hget("user:1", "name") == "Ada"
    assert counters(node).stale_hits == 1
    await eventually(lambda: counters(node).refreshes_changed == 1)
    assert await client.hget("user:1", "name") == "Augusta"
    assert counters(node).load_statements == 2


async def test_after_the_stale_window_the_value_is_loaded_first(shop: Shop, start: Start) -> None:
    node, client = await start(
        prefix("user:{id:int}", read="read-through", ttl="10s", stale_while_revalidate="5s", **USERS)
    )
    assert await client.hget("user:1", "name") == "Ada"
    await shop.execute("update users set name = 'Augusta' where id = 1")
    age(node, b"user:1", 16_000)
    assert await client.hget("user:1", "name") == "Augusta"
    assert counters(node).stale_hits == 0


async def test_stale_if_error_serves_the_old_value_when_the_store_fails_and_backs_off(shop: Shop, start: Start) -> None:
    node, client = await start(prefix("user:{id:int}", read="read-through", ttl="10s", stale_if_error="1h", **USERS))
    assert await client.hget("user:1", "name") == "Ada"
    age(node, b"user:1", 11_000)
    heal = break_store(node)
    assert await client.hget("user:1", "name") == "Ada"
    statements = counters(node).load_statements
    for _ in range(20):
        assert await client.hget("user:1", "name") == "Ada"
    # The next reads must not hammer a sick database.
    assert counters(node).load_statements == statements
    assert counters(node).stale_hits == 21
    with pytest.raises(ResponseError, match="STOREDOWN"):
        await client.hget("user:2", "name")
    await shop.execute("update users set name = 'Augusta' where id = 1")
    heal()
    entry = node.keyspace.database(0).held(b"user:1")
    assert entry is not None and entry.lease is not None
    assert entry.lease.retry_ms > entry.lease.until_ms
    entry.lease.retry_ms = 0
    node.engine.breakers["main"].succeeded()
    assert await client.hget("user:1", "name") == "Augusta"


async def test_stale_copy_is_no_key_for_exists_and_dbsize(shop: Shop, start: Start) -> None:
    node, client = await start(prefix("user:{id:int}", read="read-through", ttl="10s", stale_if_error="1h", **USERS))
    assert await client.hget("user:1", "name") == "Ada"
    age(node, b"user:1", 11_000)
    heal = break_store(node)
    with pytest.raises(ResponseError, match="STOREDOWN"):
        await client.exists("user:1")
    assert await client.hget("user:1", "name") == "Ada"
    assert (await client.dbsize(), await client.keys(), await client.scan()) == (0, [], (0, []))
    heal()
    assert await client.exists("user:1") == 1
    assert await client.dbsize() == 1


async def test_writes_never_compute_from_a_stale_value(shop: Shop, start: Start) -> None:
    node, client = await start(
        prefix(
            "user:{id:int}",
            read="read-through",
            write="write-through",
            ttl="10s",
            stale_while_revalidate="1h",
            stale_if_error="1h",
            **USERS,
        )
    )
    assert await client.hget("user:1", "credits") == "0"
    await shop.execute("update users set credits = 41 where id = 1")
    age(node, b"user:1", 11_000)
    assert await client.hincrby("user:1", "credits", 1) == 42
    age(node, b"user:1", 11_000)
    break_store(node)
    with pytest.raises(ResponseError, match="STOREDOWN"):
        await client.hincrby("user:1", "credits", 1)


async def test_soft_timeout_answers_with_the_old_value_while_the_load_goes_on(shop: Shop, start: Start) -> None:
    node, client = await start(
        prefix(
            "user:{id:int}",
            read="read-through",
            ttl="10s",
            stale_if_error="1h",
            load_soft_timeout="20ms",
            load_timeout="30s",
            **USERS,
        )
    )
    assert await client.hget("user:1", "name") == "Ada"
    await shop.execute("update users set name = 'Augusta' where id = 1")
    age(node, b"user:1", 11_000)
    store = node.engine.stores["main"]
    real, go = store.load_many, asyncio.Event()

    async def slow(mapping: Any, keys: Any) -> Any:
        await go.wait()
        return await real(mapping, keys)

    store.load_many = slow  # type: ignore[method-assign]
    assert await client.hget("user:1", "name") == "Ada"
    go.set()
    await eventually(lambda: node.engine.loader.loading() == 0)
    assert await client.hget("user:1", "name") == "Augusta"


async def test_early_expiry_renews_before_the_end_with_growing_probability(shop: Shop, start: Start) -> None:
    node, client = await start(prefix("user:{id:int}", read="read-through", ttl="10s", early_expiry=1.0, **USERS))
    assert await client.hget("user:1", "name") == "Ada"
    entry = node.keyspace.database(0).held(b"user:1")
    assert entry is not None and entry.lease is not None
    # As if the load had cost half a second: the dice are rolled in the last five.
    entry.lease.cost_ms = 500.0
    entry.soft_ms = entry.lease.until_ms - 5000
    age(node, b"user:1", 4_000)
    for _ in range(50):
        await client.hget("user:1", "name")
    assert counters(node).refreshes == 0
    age(node, b"user:1", 5_700)
    for _ in range(200):
        await client.hget("user:1", "name")
        if counters(node).loads == 2:
            break
    await eventually(lambda: counters(node).refreshes == 1)


async def test_failed_refresh_keeps_the_value_and_doubles_its_pause(shop: Shop, start: Start) -> None:
    node, client = await start(prefix("user:{id:int}", read="refresh-ahead", ttl="100s", **USERS))
    assert await client.hget("user:1", "name") == "Ada"
    entry = node.keyspace.database(0).held(b"user:1")
    assert entry is not None and entry.lease is not None
    break_store(node)
    pauses = []
    for _ in range(4):
        entry.soft_ms = 0
        entry.lease.retry_ms = 0
        assert await client.hget("user:1", "name") == "Ada"
        await eventually(lambda: not entry.lease.refreshing)
        pauses.append(entry.lease.retry_pause_ms)
    assert pauses == [500, 1000, 2000, 4000]


async def test_breaker_opens_after_five_failures_and_one_probe_closes_it(shop: Shop, start: Start) -> None:
    node, client = await start(prefix("user:{id:int}", read="read-through", **USERS))
    heal = break_store(node)
    for _ in range(5):
        with pytest.raises(ResponseError, match="connection refused"):
            await client.hget("user:1", "name")
    assert node.engine.breakers["main"].is_open
    with pytest.raises(ResponseError, match="left alone"):
        await client.hget("user:1", "name")
    heal()

    async def served() -> bool:
        try:
            return await client.hget("user:1", "name") == "Ada"
        except ResponseError:
            return False

    await eventually(served)
    assert not node.engine.breakers["main"].is_open


async def test_bump_voids_everything_cached_under_the_prefix_but_unsaved_writes(shop: Shop, start: Start) -> None:
    node, client = await start(
        prefix("user:{id:int}", read="read-through", write="write-behind", write_delay="60s", ttl="100s", **USERS)
    )
    assert await client.hget("user:1", "name") == "Ada"
    assert await client.hget("user:9", "name") is None
    await client.hset("user:2", "name", "unsaved")
    await shop.execute("update users set name = 'changed'; insert into users (id, name) values (9, 'new')")
    assert await client.hget("user:1", "name") == "Ada"
    assert await client.execute_command("CACHE.BUMP", "user:") == "OK"
    assert await client.hget("user:1", "name") == "changed"
    assert await client.hget("user:9", "name") == "new"
    assert await client.hget("user:2", "name") == "unsaved"
    with pytest.raises(ResponseError, match="no rule has the prefix 'nobody:'"):
        await client.execute_command("CACHE.BUMP", "nobody:")
    assert node.engine.unsaved() == 1


async def test_bump_during_a_load_keeps_the_old_row_out(shop: Shop, start: Start) -> None:
    node, client = await start(prefix("user:{id:int}", read="read-through", **USERS))
    store = node.engine.stores["main"]
    real, answered, go = store.load_many, asyncio.Event(), asyncio.Event()

    async def slow(mapping: Any, keys: Any) -> Any:
        rows = await real(mapping, keys)
        answered.set()
        await go.wait()
        return rows

    store.load_many = slow  # type: ignore[method-assign]
    reading = asyncio.create_task(client.hget("user:1", "name"))
    await answered.wait()
    await shop.execute("update users set name = 'changed'")
    other = client_of(node, decode_responses=True)
    await other.execute_command("CACHE.BUMP", "user:{id:int}")
    store.load_many = real  # type: ignore[method-assign]
    go.set()
    assert await reading == "Ada"
    assert await other.hget("user:1", "name") == "changed"
    await other.aclose()


async def test_untag_voids_what_carries_the_tag_and_nothing_else(shop: Shop, start: Start) -> None:
    node, client = await start(prefix("user:{id:int}", read="read-through", tags=["email"], **USERS))
    for number in (1, 2, 3):
        assert await client.hget(f"user:{number}", "name")
    await shop.execute("update users set name = 'changed'")
    assert await client.execute_command("CACHE.UNTAG", "email=x") == 1
    assert [await client.hget(f"user:{number}", "name") for number in (1, 2, 3)] == ["changed", "changed", "Eve"]
    assert counters(node).loads == 5
    assert await client.execute_command("CACHE.UNTAG", "nothing=x") == 0


async def test_purge_drops_by_pattern_from_memory_only(shop: Shop, start: Start) -> None:
    _, client = await start(prefix("user:{id:int}", read="read-through", **USERS))
    for number in (1, 2, 3):
        assert await client.hget(f"user:{number}", "name")
    await client.set("plain", "1")
    assert await client.execute_command("CACHE.PURGE", "user:[12]") == 2
    assert sorted(await client.keys("*")) == ["plain", "user:3"]
    assert await shop.rows("select count(*) from users") == [(3,)]


async def test_keys_and_bytes_of_a_prefix_are_counted_as_they_come_and_go(shop: Shop, start: Start) -> None:
    node, client = await start(prefix("user:{id:int}", read="read-through", write="write-through", **USERS))
    managed = node.engine.prefixes["user:{id:int}"]

    def check() -> None:
        entries = [entry for entry in node.keyspace.database(0).entries() if entry.lease is not None]
        assert managed.keys == len(entries)
        assert managed.bytes == sum(entry.weight for entry in entries)

    for number in (1, 2, 3):
        await client.hgetall(f"user:{number}")
    check()
    assert managed.keys == 3
    await client.hset("user:1", "name", "a much longer name than before")
    check()
    await client.delete("user:2")
    check()
    await client.execute_command("CACHE.INVALIDATE", "user:3")
    check()
    assert managed.keys == 1
    await client.flushall()
    assert (managed.keys, managed.bytes) == (0, 0)


async def test_reload_lets_no_plain_key_hide_a_row_and_no_copy_outlive_its_rule(shop: Shop, start: Start) -> None:
    plain, counted = prefix("page:", read="cache-aside"), prefix("user:{id:int}", read="read-through", **USERS)
    node, client = await start(plain)
    await client.hset("user:1", "name", "plain key")
    node.source = Path(shop.url.removeprefix("sqlite:///")).with_name("forebay.toml")
    node.source.write_text(rules(shop, [plain, counted]))
    await node.reload()
    assert await client.hget("user:1", "name") == "Ada"
    node.source.write_text(rules(shop, [plain]))
    await node.reload()
    assert await client.exists("user:1") == 0
