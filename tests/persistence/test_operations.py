"""CACHE.WAIT, DISCARD, VERIFY and WARM over real sockets, on SQLite and on PostgreSQL, and the warm-up at start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from persistence.errors import StoreDown, StoreTimeout
from persistence.invalidation import FOLLOWER_FIELDS, outbox_sql
from server.app import Node
from server.config import parse_config
from server.errors import ConfigError
from tests.support.node import client_of, running_node
from tests.support.shop import PostgresShop, Shop, SqliteShop, prefix, rules
from tests.support.waiting import eventually

Start = Callable[..., Awaitable[tuple[Node, redis.asyncio.Redis]]]

ARTICLES = {"table": "articles", "value": '{ column = "body" }'}
READ_THROUGH = prefix("article:{slug}", read="read-through", **ARTICLES)
# Nothing is saved by itself within a test.
BEHIND = prefix("article:{slug}", read="read-through", write="write-behind", write_delay="1m", **ARTICLES)
USERS_BEHIND = prefix(
    "user:{id:int}", read="read-through", write="write-behind", write_delay="1m", table="users", value="hash"
)


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

        async def starter(*prefixes: str, head: str = "") -> tuple[Node, redis.asyncio.Redis]:
            node = await stack.enter_async_context(running_node(head + rules(shop, prefixes)))
            return node, await connection(stack, node)

        yield starter


async def connection(stack: AsyncExitStack, node: Node) -> redis.asyncio.Redis:
    """A client with one connection, because CACHE.WAIT is about connections."""
    client = client_of(node, decode_responses=True, single_connection_client=True)
    stack.push_async_callback(client.aclose)
    return client


async def body(shop: Shop, slug: str) -> object:
    rows = await shop.rows("select body from articles where slug = $1", slug)
    return rows[0][0] if rows else None


async def add(shop: Shop, *slugs: str) -> None:
    for slug in slugs:
        await shop.execute("insert into articles (slug, body) values ($1, $2)", slug, f"body of {slug}")


def counters(node: Node, name: str = "article:{slug}") -> Any:
    return node.engine.prefixes[name].counters


class Gate:
    """Stands before a method of a store: a call stops until `open`, and fails with `error` if there is one."""

    def __init__(self, store: Any, method: str) -> None:
        self.reached = asyncio.Event()
        self.error: Exception | None = None
        self.calls = 0
        self._opened = asyncio.Event()
        self._inner = getattr(store, method)
        setattr(store, method, self._call)

    def open(self) -> None:
        self._opened.set()

    async def _call(self, *args: Any) -> Any:
        self.calls += 1
        self.reached.set()
        await self._opened.wait()
        if self.error is not None:
            raise self.error
        return await self._inner(*args)


# -- CACHE.WAIT -------------------------------------------------------------------------------------------------------


async def test_wait_saves_what_this_connection_wrote(shop: Shop, start: Start) -> None:
    _, client = await start(BEHIND)
    assert await client.execute_command("CACHE.WAIT", 0) == 0
    await client.set("article:a", "one")
    await client.set("article:b", "two")
    assert await client.execute_command("CACHE.WAIT", 0) == 2
    assert await body(shop, "a") is None
    assert await client.execute_command("CACHE.WAIT", 10_000) == 0
    assert (await body(shop, "a"), await body(shop, "b")) == ("one", "two")


async def test_wait_covers_a_transaction(shop: Shop, start: Start) -> None:
    _, client = await start(BEHIND)
    async with client.pipeline(transaction=True) as pipeline:
        await pipeline.set("article:a", "one").set("article:b", "two").execute()
    assert await client.execute_command("CACHE.WAIT", 10_000) == 0
    assert (await body(shop, "a"), await body(shop, "b")) == ("one", "two")


async def test_wait_of_one_connection_knows_nothing_of_another_ones_writes(start: Start) -> None:
    node, client = await start(BEHIND)
    async with AsyncExitStack() as stack:
        other = await connection(stack, node)
        await other.set("article:a", "one")
        assert await client.execute_command("CACHE.WAIT", 10_000) == 0
        assert node.engine.unsaved() == 1


async def test_wait_is_not_held_up_by_later_writes_of_the_same_key(shop: Shop, start: Start) -> None:
    node, client = await start(BEHIND)
    async with AsyncExitStack() as stack:
        other = await connection(stack, node)
        await client.set("article:a", "one")
        gate = Gate(node.engine.stores["main"], "apply")
        waiting = asyncio.create_task(client.execute_command("CACHE.WAIT", 10_000))
        await gate.reached.wait()
        await other.set("article:a", "two")
        gate.open()
        assert await waiting == 0
        assert await body(shop, "a") == "one"
        assert node.engine.unsaved() == 1


async def test_wait_covers_a_change_that_a_later_one_was_merged_into(shop: Shop, start: Start) -> None:
    node, client = await start(BEHIND)
    async with AsyncExitStack() as stack:
        other = await connection(stack, node)
        await client.set("article:a", "one")
        await other.set("article:a", "two")
        assert await client.execute_command("CACHE.WAIT", 0) == 1
        assert await client.execute_command("CACHE.WAIT", 10_000) == 0
        assert await body(shop, "a") == "two"


async def test_wait_tells_how_much_is_left_when_the_time_runs_out(start: Start) -> None:
    node, client = await start(BEHIND)
    gate = Gate(node.engine.stores["main"], "apply")
    await client.mset({"article:a": "one", "article:b": "two"})
    assert await client.execute_command("CACHE.WAIT", 20) == 2
    gate.open()
    assert await client.execute_command("CACHE.WAIT", 10_000) == 0


async def test_reset_connection_waits_for_nothing(start: Start) -> None:
    node, client = await start(BEHIND)
    await client.set("article:a", "one")
    await client.execute_command("RESET")
    assert await client.execute_command("CACHE.WAIT", 10_000) == 0
    assert node.engine.unsaved() == 1


# -- CACHE.DISCARD ----------------------------------------------------------------------------------------------------


async def test_discard_gives_up_values_and_tombstones(shop: Shop, start: Start) -> None:
    await add(shop, "a", "b")
    node, client = await start(BEHIND)
    await client.set("article:a", "changed")
    await client.delete("article:b")
    await client.set("article:c", "new")
    assert await client.execute_command("CACHE.DISCARD", "article:") == 3
    assert await client.mget("article:a", "article:b", "article:c") == ["body of a", "body of b", None]
    assert await client.execute_command("CACHE.FLUSH", "TIMEOUT", 10_000) == [0, 0]
    assert await body(shop, "a") == "body of a"
    assert await body(shop, "c") is None
    assert (node.engine.unsaved(), node.engine.queues["main"].stats().bytes) == (0, 0)


async def test_discard_of_one_prefix_leaves_another_ones_changes(shop: Shop, start: Start) -> None:
    _, client = await start(BEHIND, USERS_BEHIND)
    await client.set("article:a", "new")
    await client.hset("user:1", mapping={"name": "Ada"})
    assert await client.execute_command("CACHE.DISCARD", "article:") == 1
    assert await client.execute_command("CACHE.FLUSH", "TIMEOUT", 10_000) == [1, 0]
    assert await shop.rows("select name from users") == [("Ada",)]


@pytest.mark.parametrize("error", [StoreDown("gone"), StoreTimeout("no answer")])
async def test_discarded_change_that_flies_and_fails_is_not_sent_again(
    shop: Shop, start: Start, error: Exception
) -> None:
    await add(shop, "a")
    node, client = await start(BEHIND)
    # How long a flush without an answer may still be committed.
    node.engine.stores["main"].statement_timeout_s = 0.01
    gate = Gate(node.engine.stores["main"], "apply")
    gate.error = error
    await client.set("article:a", "changed")
    async with AsyncExitStack() as stack:
        other = await connection(stack, node)
        flushing = asyncio.create_task(other.execute_command("CACHE.FLUSH", "TIMEOUT", 10_000))
        await gate.reached.wait()
        assert await client.execute_command("CACHE.DISCARD", "article:") == 1
        assert node.engine.unsaved() == 0
        # Not the discarded value, and not kept: it may still be committed.
        assert await client.get("article:a") == "body of a"
        assert not await client.execute_command("DBSIZE")
        gate.open()
        await flushing
    queue = node.engine.queues["main"]
    await eventually(lambda: not queue.stats().flying)
    assert await client.get("article:a") == "body of a"
    assert await client.execute_command("DBSIZE") == 1
    assert (gate.calls, queue.stats().bytes) == (1, 0)


async def test_discarded_change_that_is_committed_after_all_is_seen(shop: Shop, start: Start) -> None:
    await add(shop, "a")
    node, client = await start(BEHIND)
    gate = Gate(node.engine.stores["main"], "apply")
    await client.set("article:a", "changed")
    node.engine.queues["main"].hurry()
    await gate.reached.wait()
    assert await client.execute_command("CACHE.DISCARD", "article:") == 1
    assert await client.get("article:a") == "body of a"
    gate.open()
    await eventually(lambda: not node.engine.queues["main"].stats().flying)
    assert await client.get("article:a") == "changed"


async def test_write_after_a_discard_is_saved(shop: Shop, start: Start) -> None:
    node, client = await start(BEHIND)
    gate = Gate(node.engine.stores["main"], "apply")
    await client.set("article:a", "first")
    node.engine.queues["main"].hurry()
    await gate.reached.wait()
    assert await client.execute_command("CACHE.DISCARD", "article:") == 1
    await client.set("article:a", "second")
    assert await client.get("article:a") == "second"
    gate.open()
    assert await client.execute_command("CACHE.WAIT", 10_000) == 0
    assert (await body(shop, "a"), await client.get("article:a")) == ("second", "second")


async def test_discard_wakes_a_writer_that_waits_for_room(start: Start) -> None:
    full = BEHIND + 'max_dirty = 1000\non_full = "block"\n'
    node, client = await start(full)
    gate = Gate(node.engine.stores["main"], "apply")
    await client.mset({"article:a": "x" * 900, "article:b": "x" * 900})
    async with AsyncExitStack() as stack:
        other = await connection(stack, node)
        waiting = asyncio.create_task(other.set("article:c", "y"))
        await eventually(lambda: node.engine.queues["main"]._saved_waiters)
        await client.execute_command("CACHE.DISCARD", "article:")
        assert await waiting is True
    gate.open()


# -- CACHE.VERIFY -----------------------------------------------------------------------------------------------------


async def verify(client: redis.asyncio.Redis, *options: object) -> list[int]:
    found: list[int] = await client.execute_command("CACHE.VERIFY", "article:", *options)
    return found


async def test_verify_finds_and_repairs_what_differs(shop: Shop, start: Start) -> None:
    await add(shop, "a", "b", "c", "d")
    _, client = await start(READ_THROUGH)
    await client.mget("article:a", "article:b", "article:c", "article:d")
    assert await verify(client) == [4, 0, 0]
    await shop.execute("update articles set body = 'changed' where slug = 'a'")
    await shop.execute("delete from articles where slug = 'b'")
    assert await verify(client) == [4, 2, 0]
    assert await client.get("article:a") == "body of a"
    assert await verify(client, "REPAIR") == [4, 2, 2]
    assert await client.mget("article:a", "article:b", "article:c") == ["changed", None, "body of c"]
    assert await verify(client) == [3, 0, 0]


async def test_verify_leaves_no_trace_in_recency_and_counters(shop: Shop, start: Start) -> None:
    await add(shop, "a")
    node, client = await start(READ_THROUGH)
    await client.get("article:a")
    entry = node.engine.memory.held(b"article:a")
    assert entry is not None
    entry.access_ms -= 5000
    before = (entry.access_ms, entry.freq, counters(node).hits, counters(node).misses, node.cache.info(None))
    assert await verify(client) == [1, 0, 0]
    after = (entry.access_ms, entry.freq, counters(node).hits, counters(node).misses, node.cache.info(None))
    assert after == before


async def test_verify_compares_no_unsaved_key(shop: Shop, start: Start) -> None:
    await add(shop, "a", "b")
    _, client = await start(BEHIND)
    await client.mget("article:a", "article:b")
    await client.set("article:a", "unsaved")
    assert await verify(client, "REPAIR") == [1, 0, 0]
    assert await client.get("article:a") == "unsaved"


async def test_verify_does_not_count_what_changed_meanwhile(shop: Shop, start: Start) -> None:
    await add(shop, "a", "b")
    node, client = await start(BEHIND)
    await client.mget("article:a", "article:b")
    gate = Gate(node.engine.stores["main"], "load_many")
    async with AsyncExitStack() as stack:
        other = await connection(stack, node)
        verifying = asyncio.create_task(verify(other))
        await gate.reached.wait()
        await client.set("article:a", "changed")
        await shop.execute("update articles set body = 'changed' where slug = 'b'")
        await client.execute_command("CACHE.INVALIDATE", "article:b")
        gate.open()
        assert await verifying == [0, 0, 0]


async def test_verify_gives_a_difference_a_second_look(shop: Shop, start: Start) -> None:
    await add(shop, "a")
    node, client = await start(READ_THROUGH)
    await client.get("article:a")
    await shop.execute("update articles set body = 'changed' where slug = 'a'")
    looks: list[None] = []
    inner = node.engine.stores["main"].load_many

    async def told_between_the_looks(*args: Any) -> Any:
        rows = await inner(*args)
        looks.append(None)
        if len(looks) == 2:
            node.engine.invalidate(b"article:a")
        return rows

    node.engine.stores["main"].load_many = told_between_the_looks  # type: ignore[method-assign]
    assert await verify(client) == [1, 0, 0]
    assert len(looks) == 2


async def test_verify_of_a_sample_compares_so_many(shop: Shop, start: Start) -> None:
    slugs = [f"s{number}" for number in range(30)]
    await add(shop, *slugs)
    _, client = await start(READ_THROUGH + "load_batch = 4\n")
    await client.mget([f"article:{slug}" for slug in slugs])
    assert await verify(client, "SAMPLE", 10) == [10, 0, 0]
    assert await verify(client, "SAMPLE", 100) == [30, 0, 0]


async def test_verify_of_a_generic_value_sees_its_expiry(shop: Shop, start: Start) -> None:
    _, client = await start(prefix("kv:", read="read-through", write="write-through"))
    await client.set("kv:a", "x", ex=100)
    await client.set("kv:b", "y")
    assert await client.execute_command("CACHE.VERIFY", "kv:") == [2, 0, 0]
    await shop.execute("update forebay_kv set expires_at = null where key = 'kv:a'")
    assert await client.execute_command("CACHE.VERIFY", "kv:") == [2, 1, 0]


async def test_verify_says_that_the_store_is_down(shop: Shop, start: Start) -> None:
    await add(shop, "a")
    node, client = await start(READ_THROUGH)
    await client.get("article:a")
    gate = Gate(node.engine.stores["main"], "load_many")
    gate.error = StoreDown("gone")
    gate.open()
    with pytest.raises(ResponseError, match="STOREDOWN"):
        await verify(client)


# -- what INFO, /metrics and CACHE.EXPLAIN tell of followers and stores -----------------------------------------------


async def samples(node: Node) -> dict[str, float]:
    """The samples of /metrics that have a store, by name."""
    assert node.http is not None and node.http.address is not None
    async with (
        aiohttp.ClientSession() as session,
        session.get("http://{}:{}/metrics".format(*node.http.address)) as told,
    ):
        text = await told.text()
    return {line.partition("{")[0]: float(line.split()[-1]) for line in text.splitlines() if 'store="main"' in line}


@pytest.mark.postgres
async def test_state_of_the_follower_is_told_everywhere(postgres_url: str) -> None:
    followed = prefix("article:{slug}", read="read-through", invalidate="notify", **ARTICLES)
    shop = await PostgresShop.open(postgres_url)
    toml = rules(shop, [followed]) + '[http]\nbind = "127.0.0.1:0"\n'
    await shop.execute(outbox_sql(parse_config(toml, {}, "test.toml").rules))
    await add(shop, "a")
    async with running_node(toml) as node, AsyncExitStack() as stack:
        client = await connection(stack, node)

        async def told() -> dict[str, int]:
            told: dict[str, int] = (await client.info("invalidation"))["store_main"]
            return told

        before = await told()
        assert (before["live"], before["prefixes"], before["losses"]) == (1, 1, 0)
        assert list(before) == list(FOLLOWER_FIELDS)
        await client.get("article:a")
        explained = await client.execute_command("CACHE.EXPLAIN", "article:a")
        assert explained["followed"] == "live"
        await shop.execute("update articles set body = 'changed' where slug = 'a'")
        await eventually(lambda: node.followers[0].stats().statements > before["statements"])
        assert (await told())["statements"] == before["statements"] + 1
        metrics = await samples(node)
        assert (metrics["forebay_follower_live"], metrics["forebay_follower_prefixes"]) == (1, 1)
        assert metrics["forebay_follower_statements_total"] == before["statements"] + 1
        node.followers[0].close()
        assert node.cache.followers()["main"].live is False
    await shop.close()


async def test_store_without_followed_prefixes_has_no_follower_to_show(start: Start) -> None:
    node, client = await start(READ_THROUGH)
    assert await client.info("invalidation") == {}
    explained = await client.execute_command("CACHE.EXPLAIN", "article:a")
    assert "followed" not in explained
    assert node.cache.followers() == {}


async def test_statements_of_a_store_are_counted_in_info_and_metrics(shop: Shop, start: Start) -> None:
    await add(shop, "a")
    node, client = await start(BEHIND, head='[http]\nbind = "127.0.0.1:0"\n')
    await client.get("article:a")
    await client.set("article:b", "new")
    assert await client.execute_command("CACHE.WAIT", 10_000) == 0
    told = (await client.info("stores"))["store_main"]
    assert told == {"load_statements": 1, "write_statements": 1, "transactions": 1, "errors": 0}
    metrics = await samples(node)
    assert {metrics[f"forebay_store_{name}_total"] for name in ("load_statements", "transactions")} == {1}


# -- CACHE.WARM and the start -----------------------------------------------------------------------------------------


def warmed(sql: str, **keys: object) -> str:
    return prefix("article:{slug}", read="read-through", warm=sql, **ARTICLES, **keys)


async def test_warm_up_at_start_loads_what_its_sql_names(shop: Shop, start: Start) -> None:
    await add(shop, *(f"s{number}" for number in range(50)))
    sql = "SELECT views, slug FROM articles WHERE slug < 's3' ORDER BY slug"
    node, client = await start(warmed(sql, load_batch=8))
    await eventually(lambda: counters(node).load_rows == 23)
    assert counters(node).misses == 0
    assert counters(node).load_statements == 3
    assert await client.get("article:s1") == "body of s1"
    assert (counters(node).load_statements, counters(node).hits) == (3, 1)


async def test_warm_on_request_counts_what_it_loads(shop: Shop, start: Start) -> None:
    await add(shop, "a", "b", "c")
    node, client = await start(warmed("SELECT slug FROM articles"))
    await eventually(lambda: counters(node).load_rows == 3)
    assert await client.execute_command("CACHE.WARM", "article:") == 0
    await client.execute_command("CACHE.INVALIDATE", "article:a", "article:b")
    assert await client.execute_command("CACHE.WARM", "article:{slug}") == 2
    assert await client.execute_command("DBSIZE") == 3


async def test_warm_of_a_prefix_without_a_warm_up_says_so(start: Start) -> None:
    _, client = await start(READ_THROUGH)
    with pytest.raises(ResponseError, match=r"the prefix 'article:\{slug\}' has no warm-up"):
        await client.execute_command("CACHE.WARM", "article:")


async def test_warm_of_a_generic_prefix_takes_whole_keys(shop: Shop, start: Start) -> None:
    sql = "SELECT key FROM forebay_kv ORDER BY key"
    _, client = await start(prefix("kv:", read="read-through", write="write-through", warm=sql))
    await client.mset({"kv:a": "1", "kv:b": "2"})
    await shop.execute("insert into forebay_kv (key, kind, value) values ('other', 'string', '1')")
    await client.execute_command("CACHE.INVALIDATE", "kv:a", "kv:b")
    # (The one at the start may still be at it, and be first.)
    await client.execute_command("CACHE.WARM", "kv:")
    assert await client.execute_command("DBSIZE") == 2


async def test_warm_up_keeps_unsaved_changes(shop: Shop, start: Start) -> None:
    await add(shop, "a", "b", "c")
    sql = {"warm": "SELECT slug FROM articles"}
    behind = prefix("article:{slug}", read="read-through", write="write-behind", write_delay="1m", **ARTICLES, **sql)
    node, client = await start(behind)
    await eventually(lambda: counters(node).load_rows == 3)
    await client.set("article:a", "unsaved")
    await client.delete("article:b")
    await client.execute_command("CACHE.INVALIDATE", "article:c")
    assert await client.execute_command("CACHE.WARM", "article:") == 1
    assert await client.mget("article:a", "article:b") == ["unsaved", None]


async def test_warm_up_stops_when_memory_is_full(shop: Shop, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    values = ", ".join([f"('s{number}', '{'x' * 400}')" for number in range(500)])
    await shop.execute(f"insert into articles (slug, body) values {values}")
    caplog.set_level(logging.INFO, "forebay.warm_up")
    sql = "SELECT slug FROM articles"
    node, _ = await start(warmed(sql, load_batch=4), head='[memory]\nmaxmemory = "128kb"\n')
    await eventually(lambda: "memory is full" in caplog.text)
    # What structures take is counted now and then: nothing of what was loaded goes for it.
    node.background.watch_memory()
    while node.keyspace.tidy():
        pass
    assert 0 < counters(node).load_rows < 250
    assert counters(node).evictions == 0


@pytest.mark.parametrize("sql", ["SELECT nonsense FROM articles", "DELETE FROM articles RETURNING slug", "SELECT 1 +"])
async def test_warm_up_that_cannot_work_is_refused_at_the_start(shop: Shop, start: Start, sql: str) -> None:
    await add(shop, "a")
    with pytest.raises(ConfigError, match=r"prefix article:\{slug\}: warm: "):
        await start(warmed(sql))
    assert await body(shop, "a") == "body of a"


async def test_warm_up_that_is_refused_later_leaves_its_prefix_alone(shop: Shop, start: Start) -> None:
    await add(shop, "a")
    await shop.execute("CREATE TABLE picks (slug text)")
    _, client = await start(warmed("SELECT slug FROM picks"))
    await shop.execute("DROP TABLE picks")
    with pytest.raises(ResponseError, match="STOREREJECTED"):
        await client.execute_command("CACHE.WARM", "article:")
    assert await client.get("article:a") == "body of a"


async def test_warm_up_waits_for_a_store_that_is_down(
    shop: Shop, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(shop, "a", "b")
    monkeypatch.setattr("persistence.warm_up.BACKOFF_FIRST_S", 0.01)
    node, client = await start(warmed("SELECT slug FROM articles"))
    await eventually(lambda: counters(node).load_rows == 2)
    await client.execute_command("CACHE.INVALIDATE", "article:a", "article:b")
    store = node.engine.stores["main"]
    inner, failures = store.load_many, [StoreDown("gone")] * 3

    async def sick(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return await inner(*args)

    store.load_many = sick  # type: ignore[method-assign]
    await node.warm_up.run()
    assert failures == []
    assert await client.execute_command("DBSIZE") == 2


async def test_hot_keys_are_loaded_again_by_the_next_start(shop: Shop, tmp_path: Path) -> None:
    await add(shop, *(f"s{number}" for number in range(20)))
    toml = f'[server]\nport = 0\ndata_dir = "{tmp_path}/data"\n' + rules(shop, [warmed("hot-keys")])
    async with running_node(toml) as node, AsyncExitStack() as stack:
        client = await connection(stack, node)
        await eventually(lambda: node.hot_keys is not None and node.hot_keys.may_note)
        await client.mget([f"article:s{number}" for number in range(5)])
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "hot-keys").stat().st_mode & 0o777 == 0o600
    async with running_node(toml) as node, AsyncExitStack() as stack:
        client = await connection(stack, node)
        await eventually(lambda: node.hot_keys is not None and node.hot_keys.may_note)
        assert (counters(node).load_rows, counters(node).load_statements) == (5, 1)
        assert await client.get("article:s3") == "body of s3"
        assert counters(node).misses == 0


async def test_server_that_never_warmed_up_does_not_forget_the_hot_keys(shop: Shop, tmp_path: Path) -> None:
    await add(shop, "a")
    toml = f'[server]\nport = 0\ndata_dir = "{tmp_path}"\n' + rules(shop, [warmed("hot-keys")])
    async with running_node(toml) as node, AsyncExitStack() as stack:
        await (await connection(stack, node)).get("article:a")
        await eventually(lambda: node.hot_keys is not None and node.hot_keys.may_note)
    noted = (tmp_path / "hot-keys").read_bytes()
    assert b"article:a" in noted
    async with running_node(toml) as node:
        gate = Gate(node.engine.stores["main"], "load_many")
        await gate.reached.wait()
        gate.error = StoreDown("gone")
        gate.open()
        await eventually(lambda: counters(node).load_errors)
    assert (tmp_path / "hot-keys").read_bytes() == noted
