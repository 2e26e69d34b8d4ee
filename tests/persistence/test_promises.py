"""What other caches get wrong: each item by name, over real sockets, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from server.app import Node
from tests.support.node import client_of, running_node
from tests.support.shop import PostgresShop, Shop, SqliteShop, prefix, rules
from tests.support.waiting import eventually

Start = Callable[..., Awaitable[tuple[Node, redis.asyncio.Redis]]]

USERS = {"table": "users", "value": "hash"}
READ_THROUGH = prefix("user:{id:int}", read="read-through", **USERS)
WRITE_THROUGH = prefix("user:{id:int}", read="read-through", write="write-through", **USERS)
WRITE_BEHIND = prefix("user:{id:int}", read="read-through", write="write-behind", write_delay="20ms", **USERS)
ARTICLES_BEHIND = prefix(
    "article:{slug}",
    read="read-through",
    write="write-behind",
    write_delay="200ms",
    table="articles",
    value='{ column = "body" }',
)
GENERIC_BEHIND = prefix("kv:", read="read-through", write="write-behind", write_delay="200ms")
GENERIC_THROUGH = prefix("kv:", read="read-through", write="write-through")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    if request.param == "sqlite":
        opened: Shop = SqliteShop(tmp_path / "shop.db")
    else:
        opened = await PostgresShop.open(request.getfixturevalue("postgres_url"))
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


def counters(node: Node, name: str = "user:{id:int}") -> Any:
    return node.engine.prefixes[name].counters


async def test_thousand_concurrent_gets_of_a_cold_key_are_one_statement(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ada')")
    node, _ = await start(prefix("user:{id:int}", read="read-through", load_timeout="60s", **USERS))
    # All are connected before the first asks.
    clients = [await asyncio.open_connection("127.0.0.1", node.listener.port) for _ in range(1000)]
    for _, writer in clients:
        writer.write(b"HGET user:1 name\r\n")
    answers = await asyncio.gather(*(reader.readexactly(9) for reader, _ in clients))
    assert answers == [b"$3\r\nAda\r\n"] * 1000
    assert counters(node).load_statements == 1
    for _, writer in clients:
        writer.close()


async def test_cold_mget_of_hundred_keys_is_one_statement(shop: Shop, start: Start) -> None:
    for number in range(100):
        await shop.execute("insert into articles (slug, body) values ($1, $2)", f"a{number}", f"body {number}")
    node, client = await start(ARTICLES_BEHIND)
    values = await client.mget([f"article:a{number}" for number in range(100)])
    assert values == [f"body {number}" for number in range(100)]
    assert counters(node, "article:{slug}").load_statements == 1


async def test_pipeline_that_misses_hundred_keys_is_one_statement(shop: Shop, start: Start) -> None:
    for number in range(100):
        await shop.execute("insert into users (id, name) values ($1, $2)", number, f"name {number}")
    node, client = await start(READ_THROUGH)
    pipeline = client.pipeline(transaction=False)
    for number in range(100):
        pipeline.hget(f"user:{number}", "name")
    assert await pipeline.execute() == [f"name {number}" for number in range(100)]
    # The command that suspends is loaded together with those behind it.
    assert counters(node).load_statements == 1


@pytest.mark.parametrize("rule", [WRITE_THROUGH, WRITE_BEHIND], ids=["write-through", "write-behind"])
async def test_hincrby_on_an_uncached_row_with_41_gives_42_in_memory_and_database(
    shop: Shop, start: Start, rule: str
) -> None:
    await shop.execute("insert into users (id, name, credits) values (1, 'Ada', 41)")
    _, client = await start(rule)
    assert await client.hincrby("user:1", "credits", 1) == 42
    assert await client.hget("user:1", "credits") == "42"
    await client.execute_command("CACHE.FLUSH")
    assert await shop.rows("select name, credits from users where id = 1") == [("Ada", 42)]


async def test_setnx_on_an_uncached_existing_row_gives_0(shop: Shop, start: Start) -> None:
    await shop.execute("insert into articles (slug, body) values ('a', 'old')")
    _, client = await start(ARTICLES_BEHIND)
    assert await client.execute_command("SETNX", "article:a", "new") == 0
    assert await client.get("article:a") == "old"
    await client.execute_command("CACHE.FLUSH")
    assert await shop.rows("select body from articles") == [("old",)]


async def test_check_violation_under_write_through_leaves_memory_and_database_as_they_were(
    shop: Shop, start: Start
) -> None:
    await shop.execute("insert into users (id, name, credits) values (1, 'Ada', 5)")
    _, client = await start(WRITE_THROUGH)
    assert await client.hget("user:1", "credits") == "5"
    with pytest.raises(ResponseError, match="STOREREJECTED 23514"):
        await client.hset("user:1", "credits", -1)
    assert await client.hget("user:1", "credits") == "5"
    assert await shop.rows("select credits from users") == [(5,)]


async def test_set_and_del_in_one_window_leave_the_row_absent(shop: Shop, start: Start) -> None:
    _, client = await start(ARTICLES_BEHIND)
    await client.set("article:a", "text")
    assert await client.delete("article:a") == 1
    assert await client.get("article:a") is None
    await client.execute_command("CACHE.FLUSH")
    assert await shop.rows("select * from articles") == []


async def test_del_and_get_in_one_window_do_not_load_the_row_back(shop: Shop, start: Start) -> None:
    await shop.execute("insert into articles (slug, body) values ('a', 'text')")
    node, client = await start(ARTICLES_BEHIND)
    assert await client.delete("article:a") == 1
    assert await client.get("article:a") is None
    assert await client.exists("article:a") == 0
    assert counters(node, "article:{slug}").load_statements == 0
    await client.execute_command("CACHE.FLUSH")
    assert await shop.rows("select * from articles") == []


async def test_alternating_set_and_del_over_1000_keys_is_two_statements(shop: Shop, start: Start) -> None:
    node, client = await start(ARTICLES_BEHIND.replace("200ms", "5s") + "write_batch = 2000\n")
    pipeline = client.pipeline(transaction=False)
    for number in range(1000):
        if number % 2:
            pipeline.set(f"article:{number}", "text")
        else:
            pipeline.delete(f"article:{number}")
    store = node.engine.stores["main"]
    before = store.stats().write_statements
    await pipeline.execute()
    flushed, left = await client.execute_command("CACHE.FLUSH")
    assert (flushed, left) == (1000, 0)
    assert store.stats().write_statements - before == 2
    assert await shop.rows("select count(*) from articles") == [(500,)]


@pytest.mark.parametrize("position", [0, 1, 499, 998, 999])
async def test_one_poison_row_of_1000_lets_999_commit_and_becomes_a_dead_letter(
    shop: Shop, start: Start, position: int
) -> None:
    node, client = await start(WRITE_BEHIND.replace("20ms", "5s"))
    pipeline = client.pipeline(transaction=False)
    for number in range(1000):
        pipeline.hset(f"user:{number}", mapping={"name": "x", "credits": -1 if number == position else number})
    await pipeline.execute()
    assert (await client.execute_command("CACHE.FLUSH", "TIMEOUT", 20000))[1] == 0
    assert await shop.rows("select count(*) from users") == [(999,)]
    assert await shop.rows("select * from users where id = $1", position) == []
    letters = node.cache.dead_letters(None)
    assert [letter["key"] for letter in letters] == [b"user:%d" % position]
    assert letters[0]["sqlstate"] == "23514"
    assert counters(node).dead_letters == 1
    # on_dead = drop: readers see what the database has.
    assert await client.hgetall(f"user:{position}") == {}


async def test_flushall_leaves_every_row_and_refuses_while_unsaved(shop: Shop, start: Start) -> None:
    _, client = await start(ARTICLES_BEHIND.replace("200ms", "5s"))
    await client.set("article:a", "text")
    with pytest.raises(ResponseError, match="DIRTY"):
        await client.flushall()
    await client.execute_command("CACHE.FLUSH")
    assert await client.flushall()
    assert await client.dbsize() == 0
    assert await shop.rows("select slug, body from articles") == [("a", "text")]
    assert await client.get("article:a") == "text"


async def test_ten_thousand_keys_loaded_together_expire_spread_over_ten_percent(shop: Shop, start: Start) -> None:
    for block in range(10):
        values = ", ".join(f"({number}, 'n')" for number in range(block * 1000, block * 1000 + 1000))
        await shop.execute(f"insert into users (id, name) values {values}")
    rule = prefix("user:{id:int}", read="read-through", ttl="1000s", load_timeout="60s", **USERS)
    node, client = await start(rule)
    pipeline = client.pipeline(transaction=False)
    for number in range(10_000):
        pipeline.hlen(f"user:{number}")
    assert set(await pipeline.execute()) == {3}
    lifetimes = [entry.lease.ttl_ms for entry in node.keyspace.database(0).entries() if entry.lease is not None]
    assert len(lifetimes) == 10_000
    assert 900_000 <= min(lifetimes) < 905_000
    assert 1_095_000 < max(lifetimes) <= 1_100_000
    # Evenly: every tenth of the window gets its share.
    tenths = [0] * 10
    for lifetime in lifetimes:
        tenths[min(9, (lifetime - 900_000) // 20_000)] += 1
    assert min(tenths) > 800


async def test_row_deleted_while_its_load_is_in_flight_is_returned_to_the_waiters_and_not_cached(
    shop: Shop, start: Start
) -> None:
    await shop.execute("insert into articles (slug, body) values ('a', 'text')")
    node, client = await start(
        prefix(
            "article:{slug}",
            read="read-through",
            write="write-through",
            table="articles",
            value='{ column = "body" }',
        )
    )
    store = node.engine.stores["main"]
    answered, go = asyncio.Event(), asyncio.Event()
    real = store.load_many

    async def slow(mapping: Any, keys: Any) -> Any:
        rows = await real(mapping, keys)
        answered.set()
        await go.wait()
        return rows

    store.load_many = slow  # type: ignore[method-assign]
    reading = asyncio.create_task(client.get("article:a"))
    await answered.wait()
    # The statement has read the old row; now it is deleted, and the delete is acknowledged.
    assert await client.delete("article:a") == 1
    store.load_many = real  # type: ignore[method-assign]
    go.set()
    assert await reading == "text"
    assert counters(node, "article:{slug}").loads_fenced == 1
    assert await client.get("article:a") is None


async def test_missing_key_asked_for_twice_is_one_statement_and_a_set_is_visible_at_once(
    shop: Shop, start: Start
) -> None:
    node, client = await start(ARTICLES_BEHIND)
    assert await client.get("article:a") is None
    assert await client.get("article:a") is None
    assert counters(node, "article:{slug}").load_statements == 1
    assert counters(node, "article:{slug}").negative_hits == 1
    assert await client.dbsize() == 0
    assert await client.keys("*") == []
    await client.set("article:a", "text")
    assert await client.get("article:a") == "text"


async def test_ten_thousand_sets_of_one_key_within_the_delay_are_at_most_two_upserts(shop: Shop, start: Start) -> None:
    node, client = await start(ARTICLES_BEHIND.replace("200ms", "60s"))
    pipeline = client.pipeline(transaction=False)
    for number in range(10_000):
        pipeline.set("article:hot", number)
    await pipeline.execute()
    await client.execute_command("CACHE.FLUSH")
    assert counters(node, "article:{slug}").flush_rows <= 2
    assert await shop.rows("select body from articles") == [("9999",)]


async def test_leaders_client_disconnecting_leaves_the_followers_served(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ada')")
    node, client = await start(READ_THROUGH)
    store = node.engine.stores["main"]
    asked, go = asyncio.Event(), asyncio.Event()
    real = store.load_many

    async def slow(mapping: Any, keys: Any) -> Any:
        asked.set()
        await go.wait()
        return await real(mapping, keys)

    store.load_many = slow  # type: ignore[method-assign]
    _, writer = await asyncio.open_connection("127.0.0.1", node.listener.port)
    writer.write(b"HGET user:1 name\r\n")
    await asked.wait()
    followers = [asyncio.create_task(client.hget("user:1", "name")) for _ in range(10)]
    await eventually(lambda: counters(node).loads_shared == 10)
    connected = len(node.peers.by_id)
    # A reset: the client is gone, not merely done with sending.
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    await eventually(lambda: len(node.peers.by_id) == connected - 1)
    go.set()
    assert await asyncio.gather(*followers) == ["Ada"] * 10
    assert counters(node).load_statements == 1


async def test_load_failure_reaches_everybody_who_waits_and_is_not_nil(shop: Shop, start: Start) -> None:
    node, client = await start(READ_THROUGH)
    store = node.engine.stores["main"]
    real = store.load_many

    async def failing(mapping: Any, keys: Any) -> Any:
        from persistence.errors import StoreDown  # noqa: PLC0415 - only this fault needs it

        raise StoreDown("connection refused")

    store.load_many = failing  # type: ignore[method-assign]
    results = await asyncio.gather(*(client.hget("user:1", "name") for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, ResponseError) and str(result).startswith("STOREDOWN") for result in results)
    store.load_many = real  # type: ignore[method-assign]
    assert await client.hget("user:1", "name") is None


async def test_load_timeout_is_an_error_and_never_nil(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ada')")
    node, client = await start(prefix("user:{id:int}", read="read-through", load_timeout="50ms", **USERS))
    store = node.engine.stores["main"]
    go = asyncio.Event()
    real = store.load_many

    async def slow(mapping: Any, keys: Any) -> Any:
        await go.wait()
        return await real(mapping, keys)

    store.load_many = slow  # type: ignore[method-assign]
    with pytest.raises(ResponseError, match="LOADTIMEOUT"):
        await client.hget("user:1", "name")
    go.set()
    await eventually(lambda: node.engine.loader.loading() == 0)
    assert await client.hget("user:1", "name") == "Ada"


async def test_write_around_goes_to_the_database_and_drops_the_cached_copy(shop: Shop, start: Start) -> None:
    node, client = await start(
        prefix(
            "article:{slug}", read="read-through", write="write-around", table="articles", value='{ column = "body" }'
        )
    )
    await client.set("article:a", "one")
    assert await client.dbsize() == 0
    assert await shop.rows("select body from articles") == [("one",)]
    assert await client.get("article:a") == "one"
    assert counters(node, "article:{slug}").load_statements == 1
    await client.append("article:a", " two")
    assert await client.dbsize() == 0
    assert await client.get("article:a") == "one two"


async def test_refresh_ahead_serves_the_old_value_and_renews_it_in_the_background(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ada')")
    node, client = await start(prefix("user:{id:int}", read="refresh-ahead", ttl="60s", ttl_jitter=0.0, **USERS))
    assert await client.hget("user:1", "name") == "Ada"
    await shop.execute("update users set name = 'Grace' where id = 1")
    entry = node.keyspace.database(0).held(b"user:1")
    assert entry is not None and entry.lease is not None
    assert entry.soft_ms - entry.lease.loaded_ms == 48_000
    entry.soft_ms = 0
    assert await client.hget("user:1", "name") == "Ada"
    await eventually(lambda: counters(node).refreshes == 1)
    assert counters(node).refreshes_changed == 1
    assert await client.hget("user:1", "name") == "Grace"
    assert counters(node).load_statements == 2


async def test_refresh_that_finds_the_row_gone_makes_a_negative_entry(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ada')")
    node, client = await start(prefix("user:{id:int}", read="refresh-ahead", ttl="60s", **USERS))
    assert await client.hget("user:1", "name") == "Ada"
    await shop.execute("delete from users")
    entry = node.keyspace.database(0).held(b"user:1")
    assert entry is not None
    entry.soft_ms = 0
    assert await client.hget("user:1", "name") == "Ada"
    await eventually(lambda: counters(node).refreshes_dropped == 1)
    assert await client.hget("user:1", "name") is None
    assert counters(node).load_statements == 2


async def test_delete_under_write_through_replies_the_rows_deleted(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ada'), (2, 'Grace')")
    _, client = await start(WRITE_THROUGH)
    assert await client.delete("user:1", "user:2", "user:3") == 2
    assert await shop.rows("select count(*) from users") == [(0,)]
    assert await client.delete("user:1") == 0


async def test_row_deleted_behind_our_back_is_inserted_anew_by_a_write_through_on_its_cached_copy(
    shop: Shop, start: Start
) -> None:
    await shop.execute("insert into users (id, name, credits) values (1, 'Ada', 7)")
    _, client = await start(WRITE_THROUGH)
    assert await client.hget("user:1", "credits") == "7"
    await shop.execute("delete from users")
    # The copy is known to be wrong now; the command runs again on what is true: no row, so the name is missing.
    with pytest.raises(ResponseError, match=r"STOREREJECTED 23502 .*name"):
        await client.hincrby("user:1", "credits", 1)
    assert await client.hset("user:1", mapping={"name": "Eve", "credits": 1}) >= 2
    assert await shop.rows("select name, credits from users") == [("Eve", 1)]


async def test_multi_over_two_tables_is_one_transaction_and_all_or_nothing(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name, credits) values (1, 'Ada', 5)")
    articles = prefix(
        "article:{slug}", read="read-through", write="write-through", table="articles", value='{ column = "body" }'
    )
    node, client = await start(WRITE_THROUGH, articles)
    store = node.engine.stores["main"]
    before = store.stats().transactions
    pipeline = client.pipeline(transaction=True)
    pipeline.set("article:a", "text")
    pipeline.hincrby("user:1", "credits", -1)
    pipeline.get("plain")
    assert await pipeline.execute() == [True, 4, None]
    assert store.stats().transactions - before == 1
    pipeline = client.pipeline(transaction=True)
    pipeline.set("article:a", "changed")
    pipeline.set("plain", "changed")
    pipeline.hincrby("user:1", "credits", -100)
    with pytest.raises(ResponseError, match="STOREREJECTED 23514"):
        await pipeline.execute()
    assert await client.get("article:a") == "text"
    assert await client.get("plain") is None
    assert await client.hget("user:1", "credits") == "4"
    assert await shop.rows("select body from articles") == [("text",)]
    assert await shop.rows("select credits from users") == [(4,)]


async def test_hundred_concurrent_increments_lose_none(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name, credits) values (1, 'Ada', 0)")
    _, client = await start(WRITE_THROUGH, max_connections=100)
    results = await asyncio.gather(*(client.hincrby("user:1", "credits", 1) for _ in range(100)))
    assert sorted(results) == list(range(1, 101))
    assert await shop.rows("select credits from users") == [(100,)]


async def test_unknown_field_and_bad_value_are_refused_at_once_with_the_columns_name(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ada')")
    for rule in (WRITE_THROUGH, WRITE_BEHIND):
        node, client = await start(rule)
        with pytest.raises(ResponseError, match=r"STOREREJECTED .*colour"):
            await client.hset("user:1", "colour", "red")
        if shop.url.startswith("postgres"):
            with pytest.raises(ResponseError, match=r"STOREREJECTED 22.* .*credits"):
                await client.hset("user:1", "credits", "many")
        assert await client.hgetall("user:1") == {"id": "1", "name": "Ada", "credits": "0"}
        assert node.engine.unsaved() == 0
        await node.stop()


async def test_two_spellings_of_one_row_are_not_two_entries(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name) values (7, 'Ada')")
    _, client = await start(READ_THROUGH)
    assert await client.hget("user:7", "name") == "Ada"
    assert await client.hget("user:07", "name") is None
    assert await client.hget("user:+7", "name") is None


async def test_composite_key_names_one_row(shop: Shop, start: Start) -> None:
    await shop.execute("insert into orders (tenant, number, status) values (1, 2, 'open'), (2, 1, 'done')")
    _, client = await start(
        prefix("order:{tenant:int}:{number:int}", read="read-through", write="write-through", table="orders")
    )
    assert await client.get("order:1:2") == '{"tenant":1,"number":2,"status":"open"}'
    assert await client.get("order:2:1") == '{"tenant":2,"number":1,"status":"done"}'
    await client.set("order:1:2", '{"status": "sent"}')
    assert await shop.rows("select status from orders where tenant = 1 and number = 2") == [("sent",)]
    assert await client.get("order:1:2") == '{"tenant":1,"number":2,"status":"sent"}'


@pytest.mark.parametrize("rule", [GENERIC_THROUGH, GENERIC_BEHIND], ids=["write-through", "write-behind"])
async def test_generic_table_holds_strings_and_hashes_over_a_restart(shop: Shop, start: Start, rule: str) -> None:
    node, client = await start(rule)
    await client.set("kv:s", "text")
    await client.set("kv:t", "text", ex=1000)
    await client.hset("kv:h", mapping={"a": "1", "b": "2"})
    await client.hincrby("kv:h", "a", 1)
    await client.incr("kv:n")
    await client.set("kv:gone", "x")
    await client.delete("kv:gone")
    await client.execute_command("CACHE.FLUSH")
    assert bytes((await shop.rows("select value from forebay_kv where key = 'kv:s'"))[0][0]) == b"text"  # type: ignore[arg-type]
    await node.stop()
    _, client = await start(rule)
    assert await client.get("kv:s") == "text"
    assert await client.ttl("kv:s") == -1
    assert 990 <= await client.ttl("kv:t") <= 1000
    assert await client.hgetall("kv:h") == {"a": "2", "b": "2"}
    assert await client.get("kv:n") == "1"
    assert await client.get("kv:gone") is None
    assert await client.type("kv:h") == "hash"


@pytest.mark.parametrize("rule", [GENERIC_THROUGH, GENERIC_BEHIND], ids=["write-through", "write-behind"])
async def test_generic_table_holds_sets_over_a_restart(shop: Shop, start: Start, rule: str) -> None:
    node, client = await start(rule)
    await client.sadd("kv:s", "a", "b", "c")
    await client.srem("kv:s", "b")
    await client.sadd("kv:last", "x")
    assert await client.spop("kv:last") == "x"
    await client.zadd("kv:z", {"low": float("-inf"), "m": 0.1, "n": 1})
    await client.zincrby("kv:z", 2, "n")
    await client.zunionstore("kv:u", ["kv:z", "kv:s"])
    assert await client.smove("kv:s", "kv:t", "c")
    await client.execute_command("CACHE.FLUSH")
    await node.stop()
    _, client = await start(rule)
    assert await client.smembers("kv:s") == {"a"}
    assert await client.smembers("kv:t") == {"c"}
    assert await client.exists("kv:last") == 0
    assert await client.zrange("kv:z", 0, -1, withscores=True) == [("low", float("-inf")), ("m", 0.1), ("n", 3.0)]
    assert await client.zscore("kv:u", "a") == 1
    assert await client.zrank("kv:u", "n") == 4
    # On an uncached row: what is there is loaded before the command runs.
    assert await client.sadd("kv:s", "a", "d") == 1
    assert await client.zadd("kv:z", {"n": 3, "new": 4}) == 1
    assert await client.type("kv:z") == "zset"
    kinds = await shop.rows("select key, kind from forebay_kv order by key")
    assert [tuple(row) for row in kinds] == [("kv:s", "set"), ("kv:t", "set"), ("kv:u", "zset"), ("kv:z", "zset")]


async def test_expired_generic_row_reads_as_absent_and_is_reaped(shop: Shop, start: Start) -> None:
    node, client = await start(GENERIC_THROUGH)
    await client.set("kv:t", "text", px=30)
    await eventually(lambda: _is_absent(client, "kv:t"))
    wall_ms = node.clock.now_ms() + node.clock.wall_offset_ms()
    assert await node.engine.stores["main"].reap_generic(wall_ms, 100) == 1
    assert await shop.rows("select * from forebay_kv") == []


async def _is_absent(client: redis.asyncio.Redis, key: str) -> bool:
    return await client.get(key) is None


async def test_ttl_running_out_empties_memory_and_never_the_database(shop: Shop, start: Start) -> None:
    node, client = await start(ARTICLES_BEHIND)
    await client.set("article:a", "text", px=20)
    await client.execute_command("CACHE.FLUSH")
    await eventually(lambda: not node.background.expire_slice() and len(node.keyspace.database(0)) == 0)
    assert await shop.rows("select body from articles") == [("text",)]
    assert await client.get("article:a") == "text"


async def test_unsaved_value_outlives_its_ttl_until_the_database_has_it(shop: Shop, start: Start) -> None:
    await shop.execute("insert into articles (slug, body) values ('a', 'old')")
    node, client = await start(ARTICLES_BEHIND.replace("200ms", "60s"))
    await client.set("article:a", "new", px=1)
    entry = node.keyspace.database(0).held(b"article:a")
    assert entry is not None
    await eventually(lambda: entry.deadline_ms < node.clock.now_ms())
    assert await client.get("article:a") == "new"
    assert counters(node, "article:{slug}").load_statements == 0


async def test_expire_on_a_mapped_row_concerns_the_copy_alone(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ada')")
    _, client = await start(WRITE_THROUGH)
    assert await client.expire("user:1", 1000)
    assert 990 <= await client.ttl("user:1") <= 1000
    assert await client.expire("user:1", 0)
    assert await client.hget("user:1", "name") == "Ada"
    assert await shop.rows("select count(*) from users") == [(1,)]


async def test_rename_and_copy_of_rows_are_one_transaction(shop: Shop, start: Start) -> None:
    await shop.execute("insert into articles (slug, body) values ('a', 'text')")
    node, client = await start(
        prefix(
            "article:{slug}", read="read-through", write="write-through", table="articles", value='{ column = "body" }'
        )
    )
    store = node.engine.stores["main"]
    before = store.stats().transactions
    await client.rename("article:a", "article:b")
    assert store.stats().transactions - before == 1
    assert await shop.rows("select slug, body from articles") == [("b", "text")]
    assert await client.copy("article:b", "article:c")
    assert await shop.rows("select slug, body from articles order by slug") == [("b", "text"), ("c", "text")]


async def test_store_unreachable_is_an_error_and_nothing_changes(shop: Shop, start: Start) -> None:
    await shop.execute("insert into users (id, name, credits) values (1, 'Ada', 5)")
    node, client = await start(WRITE_THROUGH)
    assert await client.hget("user:1", "credits") == "5"
    store = node.engine.stores["main"]
    real = store.apply

    async def failing(ops: Any, want_rows: bool, stamp: Any = None) -> Any:
        from persistence.errors import StoreDown  # noqa: PLC0415 - only this fault needs it

        raise StoreDown("connection refused")

    store.apply = failing  # type: ignore[method-assign]
    with pytest.raises(ResponseError, match="STOREDOWN"):
        await client.hset("user:1", "credits", 6)
    assert await client.hget("user:1", "credits") == "5"
    store.apply = real  # type: ignore[method-assign]
    await client.hset("user:1", "credits", 6)
    assert await shop.rows("select credits from users") == [(6,)]


async def test_write_behind_survives_an_unreachable_store_and_catches_up(shop: Shop, start: Start) -> None:
    node, client = await start(WRITE_BEHIND)
    store = node.engine.stores["main"]
    real = store.apply

    async def failing(ops: Any, want_rows: bool, stamp: Any = None) -> Any:
        from persistence.errors import StoreDown  # noqa: PLC0415 - only this fault needs it

        raise StoreDown("connection refused")

    store.apply = failing  # type: ignore[method-assign]
    for number in range(50):
        await client.hset(f"user:{number}", mapping={"name": f"n{number}"})
    await eventually(lambda: node.engine.queues["main"].down_since_ms > 0)
    await client.hset("user:1", "email", "one@example.org")
    store.apply = real  # type: ignore[method-assign]
    await eventually(lambda: node.engine.unsaved() == 0, 10)
    assert await shop.rows("select count(*) from users") == [(50,)]
    assert await shop.rows("select name, email from users where id = 1") == [("n1", "one@example.org")]


async def test_write_while_its_key_is_being_flushed_is_not_lost(shop: Shop, start: Start) -> None:
    node, client = await start(WRITE_BEHIND)
    store = node.engine.stores["main"]
    sent, go = asyncio.Event(), asyncio.Event()
    real = store.apply

    async def slow(ops: Any, want_rows: bool, stamp: Any = None) -> Any:
        results = await real(ops, want_rows)
        sent.set()
        await go.wait()
        return results

    store.apply = slow  # type: ignore[method-assign]
    await client.hset("user:1", mapping={"name": "one"})
    await sent.wait()
    # Version one is on its way; version two must not be cleared by its landing.
    await client.hset("user:1", "name", "two")
    store.apply = real  # type: ignore[method-assign]
    go.set()
    assert await client.hget("user:1", "name") == "two"
    await eventually(lambda: node.engine.unsaved() == 0)
    assert await shop.rows("select name from users") == [("two",)]


async def test_shutdown_saves_what_is_unsaved(shop: Shop, start: Start) -> None:
    node, client = await start(ARTICLES_BEHIND.replace("200ms", "60s"))
    await client.set("article:a", "text")
    assert await node.stop() == 0
    assert await shop.rows("select body from articles") == [("text",)]


async def test_own_write_is_read_back_while_an_older_load_is_under_way(shop: Shop, start: Start) -> None:
    await shop.execute("insert into articles (slug, body) values ('a', 'old')")
    node, client = await start(
        prefix(
            "article:{slug}", read="read-through", write="write-around", table="articles", value='{ column = "body" }'
        )
    )
    store = node.engine.stores["main"]
    answered, go = asyncio.Event(), asyncio.Event()
    real = store.load_many

    async def slow(mapping: Any, keys: Any) -> Any:
        rows = await real(mapping, keys)
        answered.set()
        await go.wait()
        return rows

    store.load_many = slow  # type: ignore[method-assign]
    older = asyncio.create_task(client.get("article:a"))
    await answered.wait()
    store.load_many = real  # type: ignore[method-assign]
    await client.set("article:a", "new")
    # Joining the older load would be wrong: the write was acknowledged before this read began.
    assert await client.get("article:a") == "new"
    go.set()
    # The older reader may see either; memory has the newer by now.
    assert await older == "new"
    assert await client.get("article:a") == "new"


async def test_writes_of_a_moment_share_a_commit_and_a_refused_one_fails_alone(shop: Shop, start: Start) -> None:
    values = ", ".join(f"({number}, 'n')" for number in range(50))
    await shop.execute(f"insert into users (id, name) values {values}")
    node, client = await start(WRITE_THROUGH, max_connections=50)
    await asyncio.gather(*(client.hget(f"user:{number}", "name") for number in range(50)))
    store = node.engine.stores["main"]
    before = store.stats().transactions
    results = await asyncio.gather(
        *(client.hset(f"user:{number}", "credits", -1 if number == 17 else number) for number in range(50)),
        return_exceptions=True,
    )
    assert [number for number, result in enumerate(results) if isinstance(result, ResponseError)] == [17]
    assert str(results[17]).startswith("STOREREJECTED 23514")
    assert await shop.rows("select sum(credits) from users") == [(sum(range(50)) - 17,)]
    # Bisecting costs a few; one for each would be fifty.
    assert store.stats().transactions - before < 30
    assert await client.hget("user:17", "credits") == "0"


@pytest.mark.parametrize("rule", [GENERIC_THROUGH, GENERIC_BEHIND])
async def test_watched_row_that_memory_does_not_hold_is_deleted_by_another_client(start: Start, rule: str) -> None:
    node, client = await start(rule)
    other = client_of(node)
    await client.set("kv:a", "1")
    await client.execute_command("CACHE.FLUSH")
    await client.execute_command("CACHE.INVALIDATE", "kv:a")
    async with client.pipeline() as transaction:
        await transaction.watch("kv:a")
        assert await other.delete("kv:a") == 1
        transaction.multi()
        transaction.set("kv:seen", "1")
        with pytest.raises(redis.WatchError):
            await transaction.execute()
    await other.aclose()


async def test_calls_of_commands_that_wait_for_a_store_are_counted_once(start: Start) -> None:
    _, client = await start(GENERIC_THROUGH)
    await client.config_resetstat()
    await client.incrby("kv:n", 1)
    with pytest.raises(ResponseError):
        await client.hset("kv:n", "field", "value")
    transaction = client.pipeline()
    transaction.incrby("kv:n", 1).hset("kv:n", "field", "value")
    await transaction.execute(raise_on_error=False)
    stats = await client.info("commandstats")
    assert (stats["cmdstat_incrby"]["calls"], stats["cmdstat_incrby"]["failed_calls"]) == (2, 0)
    assert (stats["cmdstat_hset"]["calls"], stats["cmdstat_hset"]["failed_calls"]) == (2, 2)
