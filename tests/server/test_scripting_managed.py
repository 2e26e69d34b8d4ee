"""Scripts on keys under a prefix rule: what is loaded, what reaches the store and when, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from server.app import Node
from tests.support.node import client_of, running_node
from tests.support.shop import PostgresShop, Shop, SqliteShop, prefix, rules
from tests.support.waiting import eventually

TRANSFER = """
local from, amount = KEYS[1], tonumber(ARGV[1])
if tonumber(redis.call('HGET', from, 'credits')) < amount then return redis.error_reply('POOR not enough') end
redis.call('HINCRBY', from, 'credits', -amount)
redis.call('HINCRBY', KEYS[2], 'credits', amount)
return redis.call('HGET', from, 'credits')
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    opened: Shop
    if request.param == "sqlite":
        opened = SqliteShop(tmp_path / "shop.db")
    else:
        opened = await PostgresShop.open(request.getfixturevalue("postgres_url"))
    await opened.execute("insert into users (id, name, credits) values (1, 'ann', 10), (2, 'bob', 0), (3, 'eve', 5)")
    yield opened
    await opened.close()


def configuration(shop: Shop, write: str = "write-through", **more: object) -> str:
    users = prefix("user:{id:int}", table="users", value="hash", read="read-through", write=write, ttl="60s", **more)
    articles = prefix("body:{slug}", table="articles", value='{ column = "body" }', read="read-through", write=write)
    return rules(shop, [users, articles])


@pytest.fixture
async def node(shop: Shop) -> AsyncIterator[Node]:
    async with running_node(configuration(shop)) as running:
        yield running


@pytest.fixture
async def client(node: Node) -> AsyncIterator[redis.asyncio.Redis]:
    async with client_of(node, decode_responses=True) as connected:
        yield connected


async def credits_of(shop: Shop) -> list[object]:
    return [row[0] for row in await shop.rows("select credits from users order by id")]


# -- write-through ----------------------------------------------------------------------------------------------------


async def test_declared_keys_are_loaded_together_and_written_in_one_transaction(
    shop: Shop, node: Node, client: redis.asyncio.Redis
) -> None:
    assert await client.eval(TRANSFER, 2, "user:1", "user:2", 4) == "6"
    assert await credits_of(shop) == [6, 4, 5]
    assert await client.hget("user:2", "credits") == "4"
    assert node.engine.prefixes["user:{id:int}"].counters.load_statements == 1


@pytest.mark.postgres
async def test_script_is_one_transaction_of_postgresql(postgres_url: str) -> None:
    shop = await PostgresShop.open(postgres_url)
    await shop.execute("insert into users (id, name, credits) values (1, 'ann', 10), (2, 'bob', 0)")
    async with running_node(configuration(shop)) as node, client_of(node) as client:
        await client.eval(TRANSFER, 2, "user:1", "user:2", 4)
    ids = await shop.rows("select distinct xmin::text from users")
    await shop.close()
    assert len(ids) == 1


async def test_what_the_store_refuses_leaves_nothing_of_the_script(shop: Shop, client: redis.asyncio.Redis) -> None:
    text = (
        "redis.call('HINCRBY', KEYS[2], 'credits', 50) redis.call('HINCRBY', KEYS[1], 'credits', -50) "
        "redis.call('SET', KEYS[3], 'x')"
    )
    with pytest.raises(ResponseError, match="STOREREJECTED"):
        await client.eval(text, 3, "user:1", "user:2", "plain")
    assert await credits_of(shop) == [10, 0, 5]
    assert await client.hget("user:2", "credits") == "0"
    assert await client.get("plain") is None


async def test_error_of_the_script_itself_keeps_what_it_has_done_as_redis_does(
    shop: Shop, client: redis.asyncio.Redis
) -> None:
    with pytest.raises(ResponseError, match="user_script:1: boom script: "):
        await client.eval("redis.call('HSET', KEYS[1], 'credits', 7) error('boom')", 1, "user:1")
    assert (await credits_of(shop))[0] == 7


async def test_script_that_decides_not_to_write_writes_nothing(shop: Shop, client: redis.asyncio.Redis) -> None:
    with pytest.raises(ResponseError, match="POOR not enough"):
        await client.eval(TRANSFER, 2, "user:2", "user:1", 4)
    assert await credits_of(shop) == [10, 0, 5]


UNDECLARED = [
    ("return redis.call('HGET', 'user:2', 'name')", 1),
    ("redis.call('HSET', KEYS[1], 'credits', 1) redis.call('HSET', 'user:2', 'credits', 1)", 1),
    ("redis.call('HSET', KEYS[1], 'credits', 1) redis.pcall('HSET', 'user:2', 'credits', 1) return 'caught'", 1),
    ("redis.call('HSET', KEYS[1], 'credits', 1) pcall(redis.call, 'DEL', 'user:2') return 'caught'", 1),
    ("redis.call('SET', KEYS[2], 'x') return redis.call('EXISTS', 'user:2')", 2),
    ("return redis.call('RENAME', KEYS[1], 'user:9')", 1),
    ("return redis.call('HGETALL', 'user:1')", 0),
]


@pytest.mark.parametrize(("text", "count"), UNDECLARED)
async def test_undeclared_managed_key_ends_the_script_and_nothing_has_changed(
    shop: Shop, client: redis.asyncio.Redis, text: str, count: int
) -> None:
    with pytest.raises(ResponseError, match="script tried to access undeclared managed key 'user:"):
        await client.eval(text, count, *["user:1", "plain"][:count])
    assert await credits_of(shop) == [10, 0, 5]
    assert await client.hget("user:1", "credits") == "10"
    assert await client.get("plain") is None


async def test_undeclared_managed_key_takes_back_its_script_alone_from_a_transaction(
    shop: Shop, client: redis.asyncio.Redis
) -> None:
    pipe = client.pipeline(transaction=True)
    pipe.hset("user:1", "credits", 3)
    pipe.eval("redis.call('HSET', KEYS[1], 'credits', 1) redis.call('DEL', 'user:3')", 1, "user:1")
    pipe.eval("return redis.call('HINCRBY', KEYS[1], 'credits', 1)", 1, "user:1")
    replies = await pipe.execute(raise_on_error=False)
    assert replies[0] == 0 and "undeclared managed key" in str(replies[1]) and replies[2] == 4
    assert await credits_of(shop) == [4, 0, 5]


async def test_plain_keys_of_a_managed_script_are_declared_to_be_written_and_free_to_be_read(
    shop: Shop, client: redis.asyncio.Redis
) -> None:
    await client.set("limit", 100)
    text = "redis.call('HSET', KEYS[1], 'credits', redis.call('GET', 'limit')) redis.call('SET', KEYS[2], 'done')"
    await client.eval(text, 2, "user:1", "note")
    assert (await credits_of(shop))[0] == 100
    assert await client.get("note") == "done"
    with pytest.raises(ResponseError, match="tried to write undeclared key 'note'"):
        await client.eval("redis.call('HGET', KEYS[1], 'name') redis.call('SET', 'note', 'x')", 1, "user:1")
    # Without a managed key it is as in Redis.
    await client.eval("redis.call('SET', 'note', 'y')", 0)
    assert await client.get("note") == "y"


async def test_script_cannot_empty_a_database_or_write_elsewhere(client: redis.asyncio.Redis) -> None:
    with pytest.raises(ResponseError, match="cannot empty or swap databases"):
        await client.eval("return redis.call('FLUSHALL')", 0)
    with pytest.raises(ResponseError, match="cannot reach into another database"):
        await client.eval(
            "redis.call('HSET', KEYS[1], 'credits', 1) redis.call('SELECT', 1) redis.call('SET', 'x', 1)", 1, "user:1"
        )


async def test_script_that_only_reads_takes_no_locks_and_finds_loaded_rows(
    shop: Shop, node: Node, client: redis.asyncio.Redis
) -> None:
    text = "return {redis.call('HGET', KEYS[1], 'name'), redis.call('HGET', KEYS[2], 'name')}"
    assert await client.eval_ro(text, 2, "user:1", "user:2") == ["ann", "bob"]
    promised = "#!lua flags=no-writes\nreturn redis.call('HGET', KEYS[1], 'name')"
    before = node.engine.prefixes["user:{id:int}"].counters.writes
    assert await client.eval(promised, 1, "user:3") == "eve"
    # Even while somebody else has the key locked.
    locked = await node.engine.locks.acquire([b"user:3"])
    assert await asyncio.wait_for(client.eval(promised, 1, "user:3"), 10) == "eve"
    node.engine.locks.release(locked)
    assert node.engine.prefixes["user:{id:int}"].counters.writes == before
    # The error that the first run made, when the row was missing, is not the answer.
    assert await client.eval_ro("return redis.call('HGET', KEYS[1], 'name') .. '!'", 1, "user:1") == "ann!"


async def test_script_that_runs_too_long_is_taken_back_on_managed_keys(shop: Shop) -> None:
    toml = "[server]\nport = 0\nscript_time_limit = '100ms'\n" + configuration(shop)
    async with running_node(toml) as node, client_of(node) as client:
        with pytest.raises(ResponseError, match="ran for longer than script_time_limit"):
            await client.eval("redis.call('HSET', KEYS[1], 'credits', 1) while true do end", 1, "user:1")
        assert await credits_of(shop) == [10, 0, 5]
        assert await client.hget("user:1", "credits") == b"10"


async def test_script_runs_again_when_its_row_has_gone(shop: Shop, client: redis.asyncio.Redis) -> None:
    assert await client.hget("user:3", "name") == "eve"
    await shop.execute("delete from users where id = 3")
    text = "return {redis.call('EXISTS', KEYS[1]), redis.call('HSET', KEYS[1], 'name', 'new', 'credits', 1)}"
    assert (await client.eval(text, 1, "user:3"))[0] == 0
    assert await shop.rows("select name, credits from users where id = 3") == [("new", 1)]


async def test_functions_go_the_same_road(shop: Shop, client: redis.asyncio.Redis) -> None:
    library = (
        "#!lua name=bank\nredis.register_function('give', function(keys, args) "
        "return redis.call('HINCRBY', keys[1], 'credits', args[1]) end)\n"
        "redis.register_function{function_name='balance', flags={'no-writes'}, callback=function(keys) "
        "return redis.call('HGET', keys[1], 'credits') end}"
    )
    await client.function_load(library)
    assert await client.fcall("give", 1, "user:2", 9) == 9
    assert await client.fcall("balance", 1, "user:2") == "9"
    assert await client.fcall_ro("balance", 1, "user:1") == "10"
    assert await credits_of(shop) == [10, 9, 5]


async def test_watched_key_that_a_script_wrote_breaks_the_transaction(node: Node, client: redis.asyncio.Redis) -> None:
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch("user:1")
        async with client_of(node) as other:
            await other.eval("redis.call('HSET', KEYS[1], 'credits', 1)", 1, "user:1")
        pipe.multi()
        pipe.hset("user:1", "credits", 2)
        with pytest.raises(redis.exceptions.WatchError):
            await pipe.execute()


async def test_concurrent_scripts_on_one_key_lose_no_update(shop: Shop, node: Node) -> None:
    async with client_of(node) as client:
        text = "return redis.call('HINCRBY', KEYS[1], 'credits', 1)"
        await asyncio.gather(*[client.eval(text, 1, "user:1") for _ in range(40)])
    assert (await credits_of(shop))[0] == 50


# -- write-behind -----------------------------------------------------------------------------------------------------


async def test_write_behind_answers_at_once_and_saves_later(shop: Shop) -> None:
    async with running_node(configuration(shop, "write-behind", write_delay="50ms")) as node, client_of(node) as client:
        assert await client.eval(TRANSFER, 2, "user:1", "user:2", 4) == b"6"
        assert await client.hget("user:2", "credits") == b"4"

        async def saved() -> bool:
            return await credits_of(shop) == [6, 4, 5]

        await eventually(saved)
        with pytest.raises(ResponseError, match="undeclared managed key"):
            await client.eval("redis.call('HSET', KEYS[1], 'credits', 1) redis.call('DEL', 'user:2')", 1, "user:1")
        assert await client.hget("user:1", "credits") == b"6"
        assert node.dispatch.internal_errors == 0
