"""HSET and HINCRBY of a row that memory has, under write-through: in company, without a task; on both stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from server.app import Node
from server.commands.spec import COMMANDS
from tests.server.test_parked import Gate, waiting
from tests.support.node import client_of, running_node
from tests.support.shop import PostgresShop, Shop, SqliteShop, prefix, rules
from tests.support.waiting import eventually

USER = prefix("user:{id:int}", read="read-through", write="write-through", table="users", value="hash", ttl="50s")
LIMIT = prefix(
    "limit:{id:int}", read="read-through", write="write-through", table="limits", value='{ column = "most" }', ttl="50s"
)
USERS = 6


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    if request.param == "sqlite":
        opened: Shop = SqliteShop(tmp_path / "shop.db")
    else:
        opened = await PostgresShop.open(request.getfixturevalue("postgres_url"))
    for number in range(USERS):
        await opened.execute("insert into users (id, name, credits) values ($1, $2, $3)", number, f"user {number}", 40)
    yield opened
    await opened.close()


@asynccontextmanager
async def started(shop: Shop) -> AsyncIterator[tuple[Node, redis.asyncio.Redis]]:
    async with running_node(rules(shop, [USER])) as node:
        client = client_of(node, decode_responses=True)
        for number in range(USERS):
            assert await client.hget(f"user:{number}", "credits") == "40"
        yield node, client
        await client.aclose()


@pytest.mark.parametrize(
    ("words", "reply", "row"),
    [
        ("HSET {} name Ada", 0, ("Ada", 40)),
        ("HSET {} name Ada credits 007 name Eve", 0, ("Eve", 7)),
        ("HINCRBY {} credits 2", 42, ("user", 42)),
        ("HINCRBY {} credits -39", 1, ("user", 1)),
    ],
)
async def test_fields_that_memory_has_are_written_together_and_keep_the_deadline(
    shop: Shop, words: str, reply: int, row: tuple[str, int]
) -> None:
    async with started(shop) as (node, client):
        await shop.execute("update users set name = 'user'")
        await client.execute_command("CACHE.BUMP", "user:{id:int}")
        for number in range(USERS):
            assert await client.hget(f"user:{number}", "name") == "user"
        memory = node.keyspace.database(0)
        before = {entry.key: entry.deadline_ms for entry in memory.entries()}
        groups = node.engine.groups["main"].groups
        gate = Gate(node, "apply")
        writes = [asyncio.create_task(client.execute_command(*words.format(f"user:{n}").split())) for n in range(USERS)]
        await eventually(lambda: len(waiting(node)) == USERS)
        assert [connection for connection in waiting(node) if connection._task is not None] == []
        gate.open()
        assert await asyncio.gather(*writes) == [reply] * USERS
        assert node.engine.groups["main"].groups - groups <= 3
        assert await shop.rows("select name, credits from users") == [row] * USERS
        # Memory shows what the store does, and asks nobody for it.
        misses = memory.misses
        shown = [await client.hmget(f"user:{n}", "name", "credits") for n in range(USERS)]
        assert (shown, memory.misses) == ([[row[0], str(row[1])]] * USERS, misses)
        assert {entry.key: entry.deadline_ms for entry in memory.entries()} == before
        assert not node.engine.locks.held


async def test_refused_field_leaves_row_and_memory_as_they_were(shop: Shop) -> None:
    async with started(shop) as (node, client):
        failed = COMMANDS["hset"].failed
        for words, error in (
            ("HSET user:1 credits many", "STOREREJECTED 22P02"),
            ("HSET user:1 colour red", "STOREREJECTED 42703"),
            ("HSET user:1 id 7", "STOREREJECTED 22023"),
            ("HINCRBY user:1 credits -41", "STOREREJECTED 23514"),
            ("HINCRBY user:1 name 1", "hash value is not an integer"),
            ("HINCRBY user:1 credits 9223372036854775807", "would overflow"),
        ):
            with pytest.raises(ResponseError, match=error):
                await client.execute_command(*words.split())
        assert COMMANDS["hset"].failed - failed == 3
        assert await client.hmget("user:1", "id", "name", "credits") == ["1", "user 1", "40"]
        assert await shop.rows("select name, credits from users where id = 1") == [("user 1", 40)]
        assert not node.engine.locks.held


async def test_row_that_is_gone_is_made_anew_and_those_beside_it_are_not_repeated(shop: Shop) -> None:
    async with started(shop) as (node, client):
        await shop.execute("delete from users where id in (1, 4)")
        gate = Gate(node, "apply")
        first = asyncio.create_task(client.hset("user:0", "name", "first"))
        await eventually(lambda: gate.answered == 1)
        writes = [
            asyncio.create_task(client.execute_command(*words.split()))
            for words in ("HINCRBY user:1 credits 2", "HINCRBY user:2 credits 2", "HSET user:4 name Eve")
        ]
        await eventually(lambda: len(waiting(node)) == 4)
        gate.open()
        # A sum of a row that is gone begins at 0, in a row without a name, which there cannot be.
        replies = await asyncio.gather(first, *writes, return_exceptions=True)
        assert [replies[0], *replies[2:]] == [0, 42, 1]
        assert str(replies[1]) == 'STOREREJECTED 23502 column "name" cannot be NULL'
        rows = await shop.rows("select id, name, credits from users order by id")
        assert rows[:2] == [(0, "first", 40), (2, "user 2", 42)]
        assert rows[3][:2] == (4, "Eve")
        assert await client.exists("user:1") == 0
        assert not node.engine.locks.held


async def test_copy_that_went_while_its_field_was_written_is_not_brought_back(shop: Shop) -> None:
    async with started(shop) as (node, client):
        gate = Gate(node, "apply")
        writes = [asyncio.create_task(client.hset(f"user:{n}", "name", "new")) for n in range(3)]
        await eventually(lambda: len(node.engine.locks.held) == 3 and gate.answered > 0)
        # Somebody has changed another column meanwhile, and we were told.
        await shop.execute("update users set credits = 7")
        assert await client.execute_command("CACHE.INVALIDATE", "user:0") == 1
        await client.execute_command("CACHE.BUMP", "user:{id:int}")
        gate.open()
        assert await asyncio.gather(*writes) == [0, 0, 0]
        for n in range(3):
            assert await client.hmget(f"user:{n}", "name", "credits") == ["new", "7"]
        assert not node.engine.locks.held


@pytest.mark.parametrize(
    "words",
    ["SET {} new", "GETSET {} new", "APPEND {} new", "SETEX {} 50 new", "MSET {} new", "MSET {} new tag:1 x"],
)
async def test_text_that_was_changed_while_it_was_written_is_not_shown_as_it_was_written(
    shop: Shop, words: str
) -> None:
    rule = prefix("name:{id:int}", read="read-through", write="write-through", table="users", ttl="50s")
    rule += 'value = { column = "name" }\n'
    behind = prefix("tag:", read="read-through", write="write-behind", ttl="50s")
    async with running_node(rules(shop, [rule, behind])) as node:
        client = client_of(node, decode_responses=True)
        assert await client.get("name:1") == "user 1"
        gate = Gate(node, "apply")
        write = asyncio.create_task(client.execute_command(*words.format("name:1").split()))
        await eventually(lambda: gate.answered > 0)
        await shop.execute("update users set name = 'third' where id = 1")
        assert await client.execute_command("CACHE.INVALIDATE", "name:1") <= 1
        gate.open()
        await write
        assert await client.get("name:1") == "third"
        await client.aclose()


@pytest.mark.parametrize("words", ["HDEL {} email", "HSETNX {} age 3", "HINCRBYFLOAT {} credits 1", "MULTI"])
@pytest.mark.parametrize("how", ["CACHE.INVALIDATE user:1", "CACHE.BUMP user:{id:int}"])
async def test_fields_that_were_changed_beside_those_being_written_are_not_shown_as_they_were(
    shop: Shop, words: str, how: str
) -> None:
    async with started(shop) as (node, client):
        assert await client.hset("user:1", "email", "ada@example.org") == 1
        gate = Gate(node, "apply")
        if words == "MULTI":
            transaction = client.pipeline().hset("user:1", "name", "new").expire("user:2", 40)
            write = asyncio.ensure_future(transaction.execute())
        else:
            write = asyncio.create_task(client.execute_command(*words.format("user:1").split()))
        await eventually(lambda: gate.answered > 0)
        await shop.execute("update users set credits = 7")
        for number in (1, 2):
            await client.execute_command(*how.replace("user:1", f"user:{number}").split())
        gate.open()
        await asyncio.gather(write, return_exceptions=True)
        assert [await client.hget(f"user:{n}", "credits") for n in (1, 2)] == ["7", "7"]
        assert not node.engine.loader._voided


async def test_fields_of_a_row_being_written_are_written_after_it(shop: Shop) -> None:
    async with started(shop) as (_, client):
        sums = [client.hincrby("user:3", "credits", 1) for _ in range(20)]
        assert sorted(await asyncio.gather(*sums)) == list(range(41, 61))
        assert await shop.rows("select credits from users where id = 3") == [(60,)]


@pytest.mark.parametrize("words", ["HSET user:1 name Ada", "HINCRBY user:1 credits 1", "INCR limit:1"])
async def test_copy_that_was_to_stay_has_the_rules_lifetime_again_when_it_is_written(shop: Shop, words: str) -> None:
    await shop.execute("create table limits (id integer primary key, most integer)")
    await shop.execute("insert into limits values (1, 7)")
    async with running_node(rules(shop, [USER, LIMIT])) as node:
        client = client_of(node, decode_responses=True)
        key = words.split()[1]
        assert await client.exists(key) == 1
        assert await client.persist(key)
        assert await client.pttl(key) == -1
        await client.execute_command(*words.split())
        assert 0 < await client.pttl(key) <= 60_000
        await client.aclose()


async def test_fields_are_told_to_those_who_watch_and_listen(shop: Shop) -> None:
    async with started(shop) as (_, client):
        await client.config_set("notify-keyspace-events", "Kh")
        async with client.pubsub() as listener, client.pipeline() as watching:
            await listener.subscribe("__keyspace@0__:user:1", "__keyspace@0__:user:2")
            await watching.watch("user:1")
            assert await client.hset("user:1", "name", "Ada") == 0
            assert await client.hincrby("user:2", "credits", 1) == 41
            told: list[str] = []

            async def has_heard() -> bool:
                message = await listener.get_message(ignore_subscribe_messages=True)
                if message is not None:
                    told.append(message["data"])
                return len(told) >= 2

            await eventually(has_heard)
            assert told == ["hset", "hincrby"]
            watching.multi()
            watching.set("plain", "1")
            with pytest.raises(redis.exceptions.WatchError):
                await watching.execute()
