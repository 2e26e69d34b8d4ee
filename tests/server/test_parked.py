"""Commands that wait for a store without a task of their own: reads of absent keys, plain SET under write-through.

What they promise is tested where it is promised (tests/persistence/test_promises.py, the simulation). Here is what only
these roads can get wrong, on both stores.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from persistence.flights import Flight
from persistence.prefixes import RuleTable
from persistence.reload import reload
from server.app import Node
from server.misses import Miss
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


@pytest.mark.parametrize("is_heard", [False, True], ids=["unheard", "heard"])
async def test_sets_of_a_group_are_published_whatever_memory_has_of_their_keys(shop: Shop, is_heard: bool) -> None:
    lifetimes: dict[str, object] = {"ttl": "100s", "ttl_jitter": 0.2}
    jittered = prefix("article:{slug}", read="read-through", write="write-through", **BODY, **lifetimes)
    async with started(shop, jittered) as (node, client):
        (rule,) = node.engine.prefixes.values()
        if is_heard:
            await client.config_set("notify-keyspace-events", "K$")
        async with client.pubsub() as listener:
            await listener.psubscribe("__keyspace@0__:article:*")
            await listener.get_message(timeout=1)
            # The first two occupy the transactions, so that the others are a group. Memory has one of those in the
            # middle, and knows that there was no such row as the last.
            gate = Gate(node, "apply")
            assert await client.get("article:a9") == "body 9"
            assert await client.get("article:none") is None
            names = [*[f"article:a{number}" for number in range(CLIENTS)], "article:none"]
            writes: list[asyncio.Task[Any]] = []
            for count, name in enumerate(names, 1):
                writes.append(asyncio.create_task(client.set(name, f"new {name}")))
                await eventually(lambda count=count: len(waiting(node)) == count)
            gate.open()
            assert await asyncio.gather(*writes) == [True] * len(names)
            memory = node.keyspace.database(0)
            held = [memory.held(name.encode()) for name in names]
            assert [entry.value for entry in held if entry is not None] == [f"new {name}".encode() for name in names]
            assert (rule.keys, rule.counters.writes, memory.mutations) == (len(names), len(names), len(names))
            assert await client.get("article:none") == "new article:none"
            assert len({await client.pttl(name) // 100 for name in names}) > CLIENTS / 4
            assert sum(len(shard.wheel) for shard in memory.shards) == len(names)
            assert not node.engine.locks.held
            told: set[str] = set()

            async def has_heard() -> bool:
                message = await listener.get_message(ignore_subscribe_messages=True)
                if message is not None:
                    told.add(message["channel"].partition(":")[2])
                return told == set(names)

            if is_heard:
                await eventually(has_heard)


@pytest.mark.parametrize("words", ["SET {} new EX 50", "SETEX {} 50 new", "PSETEX {} 50000 new"])
async def test_set_with_a_lifetime_waits_without_a_task_and_its_copy_lives_as_long(shop: Shop, words: str) -> None:
    async with started(shop, THROUGH) as (node, client):
        await client.config_set("notify-keyspace-events", "KEA")
        async with client.pubsub() as listener:
            await listener.psubscribe("__keyspace@0__:article:*")
            gate = Gate(node, "apply")
            # One that memory has, and one that it has not.
            assert await client.get("article:a0") == "body 0"
            writes = [
                asyncio.create_task(client.execute_command(*words.format(f"article:a{number}").split()))
                for number in range(2)
            ]
            await eventually(lambda: len(waiting(node)) == 2)
            assert [connection for connection in waiting(node) if connection._task is not None] == []
            gate.open()
            assert await asyncio.gather(*writes) == [True, True]
            for number in range(2):
                assert 40_000 < await client.pttl(f"article:a{number}") <= 50_000
            assert await shop.rows("select slug from articles where body = 'new' order by slug") == [("a0",), ("a1",)]
            told: list[tuple[str, str]] = []

            async def has_heard() -> bool:
                message = await listener.get_message(ignore_subscribe_messages=True)
                if message is not None:
                    told.append((message["channel"][-2:], message["data"]))
                return len(told) >= 4

            await eventually(has_heard)
            for key in ("a0", "a1"):
                assert [event for name, event in told if name == key and event in ("set", "expire")] == [
                    "set",
                    "expire",
                ]
        with pytest.raises(ResponseError, match="invalid expire time"):
            await client.execute_command(*words.replace("50", "0").replace("0000", "0").format("article:a0").split())
        assert await client.get("article:a0") == "new"
        # Without a lifetime of its own it gets the rule's.
        await client.set("article:a0", "newest")
        assert await client.pttl("article:a0") > 60_000


async def test_set_with_a_lifetime_in_the_generic_table_leaves_it_in_the_row(shop: Shop) -> None:
    async with started(shop, prefix("kv:", read="read-through", write="write-through")) as (_, client):
        await asyncio.gather(
            *[client.set(f"kv:{number}", "v", px=100_000) for number in range(3)], client.set("kv:4", "v")
        )
        # What memory knows goes; what is loaded has the row's own.
        for number in range(3):
            await client.execute_command("CACHE.INVALIDATE", f"kv:{number}")
            assert 90_000 < await client.pttl(f"kv:{number}") <= 100_000
        await client.execute_command("CACHE.INVALIDATE", "kv:4")
        assert await client.pttl("kv:4") == -1
        await client.set("kv:0", "for good")
        await client.execute_command("CACHE.INVALIDATE", "kv:0")
        assert await client.pttl("kv:0") == -1


async def test_deletes_of_one_key_wait_without_a_task_and_count_rows(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        store = node.engine.stores["main"]
        assert await client.get("article:a0") == "body 0"
        before = store.stats().transactions
        gate = Gate(node, "apply")
        # In memory, in the table alone, in neither.
        names = ("a0", "a1", "none")
        deletes = [asyncio.create_task(client.unlink(f"article:{name}")) for name in names]
        await eventually(lambda: len(waiting(node)) == 3)
        assert [connection for connection in waiting(node) if connection._task is not None] == []
        assert node.keyspace.database(0).held(b"article:a0") is not None
        gate.open()
        assert await asyncio.gather(*deletes) == [1, 1, 0]
        assert store.stats().transactions - before <= 3
        assert await shop.rows("select slug from articles where slug in ('a0', 'a1', 'none')") == []
        # It is remembered that they are gone: neither a load nor a statement.
        loads = store.stats().load_statements
        assert await client.mget(*[f"article:{name}" for name in names]) == [None, None, None]
        assert await client.delete("article:a0") == 0
        assert (store.stats().load_statements, store.stats().transactions - before <= 3) == (loads, True)
        assert not node.engine.locks.held


async def test_delete_of_a_row_that_another_one_needs_is_refused_and_leaves_memory(shop: Shop) -> None:
    await shop.execute("create table parents (id integer primary key, body text)")
    await shop.execute("create table needs (id integer primary key, parent integer references parents (id))")
    await shop.execute("insert into parents (id, body) values (1, 'kept'), (2, 'free')")
    await shop.execute("insert into needs (id, parent) values (1, 1)")
    rule = prefix(
        "parent:{id:int}", read="read-through", write="write-through", table="parents", value='{ column = "body" }'
    )
    async with started(shop, rule) as (node, client):
        assert await client.get("parent:1") == "kept"
        outcomes = await asyncio.gather(client.delete("parent:1"), client.delete("parent:2"), return_exceptions=True)
        assert isinstance(outcomes[0], ResponseError) and "STOREREJECTED 23" in str(outcomes[0])
        # Its neighbour in the group is deleted.
        assert outcomes[1] == 1
        assert await client.get("parent:1") == "kept"
        assert await shop.rows("select id from parents") == [(1,)]
        assert not node.engine.locks.held


async def test_update_that_meets_no_row_leaves_those_beside_it_in_their_transaction(shop: Shop) -> None:
    user = prefix("user:{id:int}", read="read-through", write="write-through", table="users", value="hash")
    async with started(shop, user) as (node, client):
        store = node.engine.stores["main"]
        for number in range(4):
            await shop.execute("insert into users (id, name) values ($1, $2)", number, "before")
            assert await client.hget(f"user:{number}", "name") == "before"
        # Behind Forebay's back, which will learn it from its own UPDATE.
        await shop.execute("delete from users where id = 2")
        before = store.stats().transactions
        gate = Gate(node, "apply")
        held = asyncio.create_task(client.hset("user:0", "name", "first"))
        await eventually(lambda: gate.answered == 1)
        others = [asyncio.create_task(client.hset(f"user:{number}", "name", "after")) for number in range(1, 4)]
        await eventually(lambda: len(waiting(node)) == 4)
        gate.open()
        # The one whose row is gone runs again, on the truth: its field is new.
        assert await asyncio.gather(held, *others) == [0, 0, 1, 0]
        assert await shop.rows("select id, name from users order by id") == [
            *((0, "first"), (1, "after")),
            *((2, "after"), (3, "after")),
        ]
        # The first alone, at most two for those who came together, and the second attempt: nobody else was repeated.
        assert store.stats().transactions - before <= 4
        assert node.engine.prefixes["user:{id:int}"].counters.write_errors == 1
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


async def test_cold_mget_loads_each_key_by_its_own_rule(shop: Shop) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ann'), (2, 'Ben')")
    users = prefix("user:{id:int}", read="read-through", table="users", value='{ column = "name" }')
    # Keys under its head begin with that of the other.
    inner = prefix("user:article:{slug}", read="read-through", **BODY)
    async with started(shop, users, inner) as (node, client):
        assert await client.mget("user:1", "user:article:a1", "user:2", "user:article:a2", "user:1") == [
            *("Ann", "body 1", "Ben", "body 2", "Ann"),
        ]
        counters = [node.engine.prefixes[name].counters for name in ("user:{id:int}", "user:article:{slug}")]
        assert [(each.misses, each.hits, each.load_statements) for each in counters] == [(2, 0, 1), (2, 0, 1)]
        # A number that no row can have, and what is no number, are nobody's.
        assert await client.mget("user:99999999999999999999", "user:-1", "user:x") == [None, None, None]


async def test_cold_mget_of_rows_and_plain_keys_looks_at_each_once(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        await client.set("plain", "x")
        keys = ["article:a0", "nowhere", "plain", "article:a1", "nowhere", "article:none"]
        assert await client.mget(keys) == ["body 0", None, "x", "body 1", None, None]
        counters = node.engine.prefixes["article:{slug}"].counters
        # A second look at memory would have found both rows.
        assert (counters.misses, counters.hits, counters.load_statements) == (3, 0, 1)


async def test_cold_rows_that_are_no_strings_are_told_apart(shop: Shop) -> None:
    await shop.execute("insert into users (id, name) values (1, 'Ann'), (2, 'Ben')")
    users = prefix("user:{id:int}", read="read-through", table="users", value="hash")
    async with started(shop, users, THROUGH) as (_, client):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await client.get("user:1")
        assert await client.mget("article:a0", "user:2", "article:a1") == ["body 0", None, "body 1"]
        assert await client.hget("user:2", "name") == "Ben"


async def test_cold_key_is_loaded_by_the_rule_that_is_in_force_by_then(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        assert await client.get("article:a0") == "body 0"
        (rule,) = node.engine.rules.rules
        assert await reload(node.engine, RuleTable([replace(rule, column="views")]), 1.0) == []
        assert await client.get("article:a1") == "0"
        assert await reload(node.engine, RuleTable([]), 1.0) == []
        assert await client.mget("article:a1", "article:a2") == [None, None]


async def test_row_that_is_written_while_it_is_loaded_is_answered_as_it_is_now(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        gate = Gate(node, "load_many")
        reads = [asyncio.create_task(client.get("article:a0")), asyncio.create_task(client.mget("article:a0"))]
        await eventually(lambda: len(waiting(node)) == 2 and gate.answered == 1)
        await client.set("article:a0", "new")
        gate.open()
        assert await asyncio.gather(*reads) == ["new", ["new"]]
        assert node.engine.prefixes["article:{slug}"].counters.loads_fenced == 1


async def test_reads_that_have_waited_leave_no_circles(shop: Shop) -> None:
    # The collector finds none among objects that have lived for a while.
    async with started(shop, THROUGH) as (node, client):
        gate = Gate(node, "load_many")
        gc.collect()
        gc.disable()
        try:
            keys = [f"article:a{number}" for number in range(CLIENTS)]
            reads = [asyncio.create_task(client.get(key)) for key in keys]
            reads += [asyncio.create_task(client.mget(keys)), asyncio.create_task(client.mget(keys))]
            await eventually(lambda: len(waiting(node)) == CLIENTS + 2)
            assert {type(each) for each in gc.get_objects()} >= {Flight, Miss}
            gate.open()
            await asyncio.gather(*reads)
            assert node.engine.prefixes["article:{slug}"].counters.loads_shared == 2 * CLIENTS
            assert [each for each in gc.get_objects() if type(each) in (Flight, Miss)] == []
        finally:
            gc.enable()


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


LIMIT = prefix(
    "limit:{id:int}", read="read-through", write="write-through", table="limits", value='{ column = "most" }', ttl="50s"
)


@pytest.mark.parametrize(
    ("words", "reply"), [("INCR {}", 8), ("DECR {}", 6), ("INCRBY {} 10", 17), ("DECRBY {} 5", 2), ("INCRBY {} -7", 0)]
)
async def test_sum_of_a_row_that_memory_has_waits_without_a_task_and_keeps_the_deadline(
    shop: Shop, words: str, reply: int
) -> None:
    await shop.execute("insert into limits values (1, 7), (2, 7), (3, 7)")
    async with started(shop, LIMIT) as (node, client):
        assert await client.mget("limit:1", "limit:2") == ["7", "7"]
        memory = node.keyspace.database(0)
        before = {entry.key: entry.deadline_ms for entry in memory.entries()}
        await client.config_set("notify-keyspace-events", "K$")
        async with client.pubsub() as listener:
            await listener.subscribe("__keyspace@0__:limit:1", "__keyspace@0__:limit:2")
            gate = Gate(node, "apply")
            # The second key is evicted before the row is written; the third was never in memory, and has to be loaded.
            sums = [
                asyncio.create_task(client.execute_command(*words.format(f"limit:{number}").split()))
                for number in (1, 2, 3)
            ]
            await eventually(lambda: len(waiting(node)) == 3)
            assert len([connection for connection in waiting(node) if connection._task is not None]) == 1
            await eventually(lambda: len(node.engine.locks.held) == 3)
            memory.drop(b"limit:2")
            gate.open()
            assert await asyncio.gather(*sums) == [reply] * 3
            assert await client.mget("limit:1", "limit:2", "limit:3") == [str(reply)] * 3
            after = {entry.key: entry.deadline_ms for entry in memory.entries()}
            assert before.items() <= after.items()
            told: list[str] = []

            async def has_heard() -> bool:
                message = await listener.get_message(ignore_subscribe_messages=True)
                if message is not None:
                    told.append(message["data"])
                return len(told) >= 2

            await eventually(has_heard)
            assert told == ["incrby", "incrby"]
        assert await shop.rows("select most from limits") == [(reply,)] * 3
        assert not node.engine.locks.held


async def test_sum_that_is_refused_leaves_row_and_memory_as_they_were(shop: Shop) -> None:
    text = prefix("article:{slug}", read="read-through", write="write-through", **BODY)
    await shop.execute("insert into limits values (1, 7)")
    most = str((1 << 63) - 1)
    await shop.execute("insert into articles (slug, body) values ($1, $2)", "most", most)
    async with started(shop, LIMIT, text) as (node, client):
        assert await client.mget("limit:1", "article:most", "article:a0") == ["7", most, "body 0"]
        with pytest.raises(ResponseError, match="STOREREJECTED 23514"):
            await client.decrby("limit:1", 8)
        with pytest.raises(ResponseError, match="increment or decrement would overflow"):
            await client.incr("article:most")
        for words in ("INCR article:a0", "INCRBY limit:1 many"):
            with pytest.raises(ResponseError, match="value is not an integer"):
                await client.execute_command(*words.split())
        assert await client.mget("limit:1", "article:most", "article:a0") == ["7", most, "body 0"]
        assert await shop.rows("select most from limits") == [(7,)]
        assert node.engine.prefixes["limit:{id:int}"].counters.write_errors == 1
        assert not node.engine.locks.held


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


def articles(*numbers: int) -> list[str]:
    """The keys of these rows."""
    return [f"article:a{number}" for number in numbers]


async def test_cold_mget_is_one_convoy_of_what_memory_lacks(shop: Shop) -> None:
    numbered = prefix("limit:{id:int}", read="read-through", table="limits", value='{ column = "most" }')
    for number in range(1, 8):
        await shop.execute("insert into limits (id, most) values ($1, $2)", number, number * 10)
    async with started(shop, THROUGH, numbered) as (node, client):
        # The first key of a prefix tells which one is missed most.
        assert await client.mget("limit:1", "article:a0") == ["10", "body 0"]
        for keys, values in (
            (["limit:2", "limit:3"], ["20", "30"]),
            (["limit:1", "limit:4", "limit:5", "limit:4"], ["10", "40", "50", "40"]),
            # No such row, or none at all; no number that a row could have.
            (["limit:97", "limit:98"], [None, None]),
            (["limit:6", "limit:99", "limit:7"], ["60", None, "70"]),
            (["limit:0", "limit:07", "limit:", "limit:-1", "limit:9999999999"], [None] * 5),
        ):
            assert await client.mget(*keys) == values
        counters = node.engine.prefixes["limit:{id:int}"].counters
        assert (counters.load_rows, counters.hits) == (7, 1)
        # That there is none is remembered.
        statements = counters.load_statements
        assert await client.mget("limit:99", "limit:7", "limit:6") == [None, "70", "60"]
        assert counters.load_statements == statements


async def test_cold_mget_of_more_keys_than_a_statement_takes_is_answered_in_order(shop: Shop) -> None:
    small = prefix("article:{slug}", read="read-through", load_batch=3, **BODY)
    async with started(shop, small) as (node, client):
        assert await client.get("article:a0") == "body 0"
        keys = articles(*range(1, CLIENTS))
        first, second = await asyncio.gather(client.mget(keys[:9]), client.mget(keys[9:]))
        assert [*first, *second] == [f"body {number}" for number in range(1, CLIENTS)]
        assert node.engine.prefixes["article:{slug}"].counters.load_statements == 1 + 3 + 4


async def test_key_of_a_convoy_is_joined_by_others(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        assert await client.get("article:a0") == "body 0"
        gate = Gate(node, "load_many")
        reads: list[Any] = [asyncio.create_task(client.mget(articles(1, 2, 3)))]
        await eventually(lambda: gate.answered == 1)
        reads += [asyncio.create_task(read) for read in (client.get("article:a2"), client.mget(articles(3, 4)))]
        reads.append(asyncio.create_task(client.strlen("article:a1")))
        await eventually(lambda: len(waiting(node)) == 4)
        gate.open()
        assert await asyncio.gather(*reads) == [
            *(["body 1", "body 2", "body 3"], "body 2", ["body 3", "body 4"], len("body 1")),
        ]
        counters = node.engine.prefixes["article:{slug}"].counters
        assert (counters.loads, counters.loads_shared, counters.misses) == (5, 3, 8)
        assert await client.mget(articles(1, 2, 3, 4)) == ["body 1", "body 2", "body 3", "body 4"]
        assert (counters.loads, counters.hits, node.engine.loader.loading()) == (5, 4, 0)


async def test_key_of_a_convoy_that_is_written_meanwhile_is_answered_as_it_is_now(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        assert await client.get("article:a0") == "body 0"
        gate = Gate(node, "load_many")
        reading = asyncio.create_task(client.mget(articles(1, 2, 3)))
        await eventually(lambda: gate.answered == 1)
        await client.set("article:a2", "new")
        gate.open()
        assert await reading == ["body 1", "new", "body 3"]
        counters = node.engine.prefixes["article:{slug}"].counters
        assert (counters.loads_fenced, node.engine.loader.loading()) == (1, 0)
        assert await client.mget(articles(1, 2, 3)) == ["body 1", "new", "body 3"]
        assert counters.loads == 4


async def test_convoy_that_is_voided_meanwhile_is_answered_and_not_kept(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        assert await client.get("article:a0") == "body 0"
        gate = Gate(node, "load_many")
        reading = asyncio.create_task(client.mget(articles(1, 2)))
        await eventually(lambda: gate.answered == 1)
        await client.execute_command("CACHE.BUMP", "article:{slug}")
        await shop.execute("update articles set body = 'changed' where slug = 'a1'")
        gate.open()
        # Looked at again, because the two may not have been so at one moment.
        assert await reading == ["changed", "body 2"]
        assert await client.mget(articles(1, 2)) == ["changed", "body 2"]


async def test_convoy_whose_store_does_not_answer_is_given_up_in_time(shop: Shop) -> None:
    patient = prefix("article:{slug}", read="read-through", load_timeout="150ms", **BODY)
    async with started(shop, patient) as (node, client):
        assert await client.get("article:a0") == "body 0"
        gate = Gate(node, "load_many")
        with pytest.raises(ResponseError, match="LOADTIMEOUT"):
            await client.mget(articles(1, 2, 3))
        gate.open()
        await eventually(lambda: node.engine.loader.loading() == 0)
        assert await client.mget(articles(1, 2, 3)) == ["body 1", "body 2", "body 3"]


async def test_convoy_whose_statement_fails_is_an_error_and_leaves_nothing_behind(shop: Shop) -> None:
    async with started(shop, THROUGH) as (node, client):
        assert await client.get("article:a0") == "body 0"
        await shop.execute("alter table articles rename to moved")
        with pytest.raises(ResponseError, match="STORE"):
            await client.mget(articles(1, 2, 3))
        assert node.engine.loader.loading() == 0
        await shop.execute("alter table moved rename to articles")
        assert await client.mget(articles(1, 2, 3)) == ["body 1", "body 2", "body 3"]


async def test_convoy_under_a_write_behind_rule_reads_what_is_not_saved_yet(shop: Shop) -> None:
    behind = prefix("article:{slug}", read="read-through", write="write-behind", write_delay="60s", **BODY)
    async with started(shop, behind) as (node, client):
        assert await client.get("article:a0") == "body 0"
        assert await client.mget(articles(1, 2)) == ["body 1", "body 2"]
        await client.set("article:a3", "new")
        await client.delete("article:a4")
        assert await client.mget(articles(3, 4, 5)) == ["new", None, "body 5"]
        assert await client.mget(articles(6, 4, 7)) == ["body 6", None, "body 7"]
        assert node.engine.prefixes["article:{slug}"].counters.load_rows == 6


async def test_rows_of_one_statement_get_several_lifetimes_within_the_jitter(shop: Shop) -> None:
    jittered = prefix("article:{slug}", read="read-through", ttl="100s", ttl_jitter=0.2, **BODY)
    async with started(shop, jittered) as (node, client):
        assert await client.get("article:a0") == "body 0"
        await client.mget(articles(*range(CLIENTS)))
        lifetimes = {await client.pttl(key) // 100 for key in articles(*range(CLIENTS))}
        assert all(790 <= lifetime <= 1200 for lifetime in lifetimes)
        assert len(lifetimes) > CLIENTS / 4
        assert sum(len(shard.wheel) for shard in node.keyspace.database(0).shards) == CLIENTS
