"""Invalidation by the database: what plain SQL changes leaves memory, and nothing else does. With real triggers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio

from persistence import invalidation
from persistence.invalidation import Follower, SpelledTwice, followed_tables, outbox_sql
from persistence.prefixes import PrefixRule, Template
from persistence.stores.base import Applied, OwnWrites
from persistence.stores.postgres import CREATE_GENERIC
from server import cli
from server.app import Node
from server.config import parse_config
from server.errors import ConfigError
from tests.support.node import client_of, running_node
from tests.support.postgres import PostgresServer
from tests.support.proxy import BOTH, UP, Proxy
from tests.support.shop import PostgresShop, prefix
from tests.support.waiting import eventually

postgres = pytest.mark.postgres

FOLLOW = {"read": "read-through", "invalidate": "notify", "ttl": "1h", "negative_ttl": "1h"}
USER = prefix("user:{id:int}", table="users", value="hash", **FOLLOW)
USER_THROUGH = prefix("user:{id:int}", table="users", value="hash", write="write-through", **FOLLOW)
USER_BEHIND = prefix("user:{id:int}", table="users", value="hash", write="write-behind", write_delay="10s", **FOLLOW)
USER_UNFOLLOWED = prefix("user:{id:int}", read="read-through", table="users", value="hash")
MAIL = prefix("mail:{email}", table="users", value="json", **FOLLOW)
ARTICLE = prefix("article:{slug}", table="articles", value='{ column = "body" }', **FOLLOW)
ORDER = prefix("order:{tenant:int}:{number:int}", table="orders", value="json", **FOLLOW)
GENERIC = prefix("kv:", write="write-through", **FOLLOW)
TOKEN = prefix("token:{id:uuid}", table="tokens", value="json", **FOLLOW)
BLOB = prefix("blob:{name}", table="blobs", value='{ column = "body" }', **FOLLOW)


def configuration(url: str, *prefixes: str) -> str:
    return f'[stores.main]\nurl = "{url}"\n' + "\n".join(prefixes)


def wanted_sql(toml: str) -> str:
    return outbox_sql(parse_config(toml, {}, "test.toml").rules)


class Case:
    """A shop with its triggers, nodes that follow it, and counters."""

    def __init__(self, url: str, shop: PostgresShop, stack: AsyncExitStack) -> None:
        self.url = url
        self.shop = shop
        self._stack = stack
        self.sql = shop.execute

    async def start(self, *prefixes: str, url: str = "") -> tuple[Node, redis.asyncio.Redis]:
        """A node that is listening, and a client of it. The triggers are made for these prefixes."""
        toml = configuration(self.url, *prefixes)
        if "kv:" in toml:
            await self.sql(CREATE_GENERIC)
        await self.sql(wanted_sql(toml))
        node = await self._stack.enter_async_context(running_node(configuration(url or self.url, *prefixes)))
        client = client_of(node, decode_responses=True)
        self._stack.push_async_callback(client.aclose)
        assert node.followers[0].stats().live
        return node, client

    async def heard(self, node: Node) -> None:
        """Everything that is committed now has reached the node: a read has begun and ended since."""
        before = follower(node).stats().reads
        # Not the shop's: a restart of the server may have cut that.
        connection = await asyncpg.connect(self.url)

        async def read_twice() -> bool:
            await connection.execute("notify forebay")
            return follower(node).stats().reads >= before + 2

        try:
            await eventually(read_twice)
        finally:
            await connection.close()

    async def cut_listeners(self) -> None:
        """Terminate every listening connection to the database."""
        await self.shop.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'forebay listener' and datname = current_database()"
        )

    async def other(self) -> asyncpg.Connection:
        """One more connection of an outsider."""
        connection = await asyncpg.connect(self.url)
        self._stack.push_async_callback(connection.close)
        return connection


@pytest.fixture
async def case(postgres_url: str) -> AsyncIterator[Case]:
    shop = await PostgresShop.open(postgres_url)
    await shop.execute("create unique index on users (email)")
    await shop.execute("update users set email = ''")
    await shop.execute("alter table users alter email set not null")
    try:
        async with AsyncExitStack() as stack:
            yield Case(postgres_url, shop, stack)
    finally:
        await shop.close()


def counters(node: Node, name: str = "user:{id:int}") -> Any:
    return node.engine.prefixes[name].counters


def follower(node: Node) -> Follower:
    return node.followers[0]


def in_memory(node: Node, key: bytes) -> bool:
    """Would a read be answered from memory?"""
    return node.engine.plan_read([key]) is None


# What reaches which key


@postgres
async def test_update_insert_and_delete_reach_a_hash(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'Ada', 'ada@x')")
    _, client = await case.start(USER)
    assert await client.hget("user:1", "name") == "Ada"
    assert await client.hget("user:2", "name") is None  # remembered as absent for an hour

    async def name(key: str, wanted: str | None) -> bool:
        return bool(await client.hget(key, "name") == wanted)

    await case.sql("update users set name = 'Lady Ada' where id = 1")
    await eventually(lambda: name("user:1", "Lady Ada"))
    await case.sql("insert into users (id, name, email) values (2, 'Bob', 'bob@x')")
    await eventually(lambda: name("user:2", "Bob"))
    await case.sql("delete from users where id = 1")
    await eventually(lambda: name("user:1", None))


@postgres
async def test_change_of_the_key_reaches_the_old_and_the_new_key(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'Ada', 'ada@x')")
    node, client = await case.start(USER)
    assert [await client.hget(f"user:{n}", "name") for n in (1, 2)] == ["Ada", None]
    await case.sql("update users set id = 2 where id = 1")
    await eventually(lambda: not in_memory(node, b"user:1") and not in_memory(node, b"user:2"))
    assert [await client.hget(f"user:{n}", "name") for n in (1, 2)] == [None, "Ada"]


@postgres
async def test_every_form_of_value_and_every_type_of_key_is_reached(case: Case) -> None:
    token = "6f2b5dd4-6b0e-4d0c-9d3e-0f1c2a3b4c5d"
    await case.sql(
        "create table tokens (id uuid primary key, owner text);"
        "create table blobs (name bytea primary key, body text);"
        f"insert into tokens values ('{token}', 'ada');"
        "insert into blobs values (convert_to('é', 'UTF8'), 'v1');"
        "insert into articles (slug, body) values ('a:b''\"c', 'v1');"
        "insert into orders values (7, 42, 'v1');"
        "insert into users (id, name, email) values (1, 'v1', 'ada@x')"
    )
    node, client = await case.start(USER, MAIL, ARTICLE, ORDER, GENERIC, TOKEN, BLOB)
    await case.sql("insert into forebay_kv (key, kind, value) values ('kv:x', 'string', 'v1')")
    await case.heard(node)
    keys = ["mail:ada@x", "article:a:b'\"c", "order:7:42", "kv:x", f"token:{token}", "blob:é"]
    before = [await client.get(key) for key in keys]
    assert await client.hget("user:1", "name") == "v1"
    assert all(in_memory(node, key.encode()) for key in [*keys, "user:1"])
    bumps = sum(prefix.void_below for prefix in node.engine.prefixes.values())
    # In sessions of applications, with whatever settings those have.
    await case.sql(
        "set bytea_output = 'escape'; set search_path = pg_catalog;"
        "update public.users set name = 'v2'; update public.articles set body = 'v2';"
        "update public.orders set status = 'v2'; update public.forebay_kv set value = 'v2';"
        "update public.tokens set owner = 'v2'; update public.blobs set body = 'v2'; reset search_path"
    )
    await eventually(lambda: not any(in_memory(node, key.encode()) for key in [*keys, "user:1"]))
    after = [await client.get(key) for key in keys]
    assert all(value is not None and "v2" in value for value in after), after
    assert all(old is not None and "v2" not in old for old in before)
    assert await client.hget("user:1", "name") == "v2"
    assert sum(prefix.void_below for prefix in node.engine.prefixes.values()) == bumps


@postgres
async def test_composite_key_is_not_confused_with_its_neighbours(case: Case) -> None:
    await case.sql("insert into orders select t, n, 'v1' from generate_series(1, 3) t, generate_series(1, 3) n")
    node, client = await case.start(ORDER)
    keys = [f"order:{t}:{n}" for t in (1, 2, 3) for n in (1, 2, 3)]
    await client.mget(keys)
    await case.sql("update orders set status = 'v2' where tenant = 2 and number = 3")
    await eventually(lambda: not in_memory(node, b"order:2:3"))
    assert sum(in_memory(node, key.encode()) for key in keys) == 8


@postgres
async def test_rows_that_no_key_names_are_passed_over(case: Case) -> None:
    await case.sql("create table words (word text primary key, lang text not null, unique (lang, word))")
    node, client = await case.start(prefix("word:{lang}:{word}", table="words", value="json", **FOLLOW))
    await case.sql("insert into words values ('2:3', 'x'), ('3', 'x:2')")
    # Both spell word:x:2:3, which names the first one.
    await case.heard(node)
    assert await client.get("word:x:2:3") == '{"word":"2:3","lang":"x"}'
    before = counters(node, "word:{lang}:{word}").invalidations
    await case.sql("update words set word = '33' where lang = 'x:2'")
    await case.heard(node)
    assert counters(node, "word:{lang}:{word}").invalidations == before
    assert in_memory(node, b"word:x:2:3")


@postgres
async def test_truncate_and_very_large_statements_bump(case: Case) -> None:
    await case.sql("insert into users (id, name, email) select n, 'v1', n::text from generate_series(1, 20000) n")
    node, client = await case.start(USER)
    assert await client.hget("user:1", "name") == "v1"
    await case.sql("update users set name = 'v2' where id > 5")
    await eventually(lambda: not in_memory(node, b"user:1"))
    assert await client.hget("user:1", "name") == "v1"
    assert await case.shop.rows("select relation, keys from forebay_outbox where seq > 0") == [("public.users", None)]
    await case.sql("truncate users")
    await eventually(lambda: not in_memory(node, b"user:1"))
    assert await client.hget("user:1", "name") is None


@postgres
async def test_update_of_thousand_rows_is_one_outbox_row_and_few_reads(case: Case) -> None:
    await case.sql("insert into users (id, name, email) select n, 'v1', n::text from generate_series(1, 1000) n")
    node, client = await case.start(USER)
    keys = [f"user:{n}" for n in range(1, 1001)]
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hget(key, "name")
    assert await pipeline.execute() == ["v1"] * 1000
    reads = follower(node).stats().reads
    await case.sql("update users set name = 'v2'")
    await eventually(lambda: not any(in_memory(node, key.encode()) for key in keys))
    assert follower(node).stats().reads - reads <= 3
    assert await case.shop.rows("select count(*) from forebay_outbox where seq > 0") == [(1,)]
    for key in keys:
        pipeline.hget(key, "name")
    assert await pipeline.execute() == ["v2"] * 1000


@postgres
async def test_statement_that_changes_nothing_and_rolled_back_transaction_say_nothing(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'Ada', 'ada@x')")
    node, client = await case.start(USER)
    await client.hget("user:1", "name")
    before = counters(node).invalidations
    await case.sql("update users set name = 'x' where id = 99")
    await case.sql("begin; update users set name = 'x' where id = 1; truncate users; rollback")
    await case.heard(node)
    assert counters(node).invalidations == before
    assert await case.shop.rows("select count(*) from forebay_outbox where seq > 0") == [(0,)]


@postgres
async def test_upsert_cascade_and_copy_are_seen(case: Case) -> None:
    await case.sql(
        "create table notes (id integer primary key, owner integer references users on delete cascade, body text);"
        "insert into users (id, name, email) values (1, 'Ada', 'ada@x'); insert into notes values (5, 1, 'v1')"
    )
    node, client = await case.start(USER, prefix("note:{id:int}", table="notes", value="json", **FOLLOW))
    assert await client.get("note:5") and await client.hget("user:1", "name")
    await case.sql(
        "insert into users (id, name, email) values (1, 'x', 'x'), (2, 'y', 'y')"
        " on conflict (id) do update set name = 'up'"
    )
    await eventually(lambda: not in_memory(node, b"user:1"))
    await case.sql("delete from users where id = 1")
    await eventually(lambda: not in_memory(node, b"note:5"))
    assert await client.hget("user:3", "name") is None
    other = await case.other()
    await other.copy_records_to_table("users", records=[(3, "Cleo", "c@x")], columns=["id", "name", "email"])
    await eventually(lambda: not in_memory(node, b"user:3"))


@postgres
async def test_change_in_a_transaction_is_seen_when_it_commits(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x')")
    node, client = await case.start(USER)
    other = await case.other()
    transaction = other.transaction()
    await transaction.start()
    await other.execute("update users set name = 'v2' where id = 1")
    assert await client.hget("user:1", "name") == "v1"
    await case.heard(node)
    assert in_memory(node, b"user:1")
    await transaction.commit()
    await eventually(lambda: not in_memory(node, b"user:1"))
    assert await client.hget("user:1", "name") == "v2"


@postgres
async def test_lower_number_that_commits_later_is_not_missed(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'a'), (2, 'v1', 'b'), (3, 'v1', 'c')")
    node, client = await case.start(USER)
    slow, slower = await case.other(), await case.other()
    for connection, row in ((slow, 1), (slower, 2)):
        await connection.execute(f"begin; update users set name = 'v2' where id = {row}")
    for row in (1, 2, 3):
        assert await client.hget(f"user:{row}", "name") == "v1"
    await case.sql("update users set name = 'v2' where id = 3")
    await eventually(lambda: not in_memory(node, b"user:3"))
    await case.heard(node)
    assert in_memory(node, b"user:1") and in_memory(node, b"user:2")
    await slower.execute("commit")
    await eventually(lambda: not in_memory(node, b"user:2"))
    statements = follower(node).stats().statements
    await slow.execute("commit")
    await eventually(lambda: not in_memory(node, b"user:1"))
    assert follower(node).stats().statements == statements + 1  # nothing is read twice
    assert await case.shop.rows("select keys->0->>'id' from forebay_outbox where seq > 0 order by seq") == [
        ("1",), ("2",), ("3",)
    ]  # fmt: skip


@postgres
@pytest.mark.serial
async def test_change_is_heard_within_a_moment(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, '0', 'ada@x')")
    node, client = await case.start(USER)
    took: list[float] = []
    for number in range(1, 21):
        await client.hget("user:1", "name")
        began = time.perf_counter()
        await case.sql("update users set name = $1 where id = 1", str(number))
        while in_memory(node, b"user:1"):  # noqa: ASYNC110 - measured to the turn of the loop
            await asyncio.sleep(0)
        took.append((time.perf_counter() - began) * 1000)
    took.sort()
    print(f"\nfrom the statement to the invalidation: median {took[10]:.1f} ms, slowest {took[-1]:.1f} ms")
    assert took[10] < 200


# Own writes


@postgres
@pytest.mark.parametrize("strategy", ["write-through", "write-behind"])
async def test_own_writes_do_not_invalidate_their_own_entries(case: Case, strategy: str) -> None:
    await case.sql("insert into users (id, name, email) select n, 'v1', n::text from generate_series(1, 50) n")
    rule = prefix("user:{id:int}", table="users", value="hash", write=strategy, write_delay="20ms", **FOLLOW)
    node, client = await case.start(rule)
    before = counters(node).invalidations
    for row in range(1, 51):
        await client.hset(f"user:{row}", "name", "v2")
    await client.delete("user:50", "user:999")
    await client.execute_command("CACHE.FLUSH")
    assert await case.shop.rows("select count(*) from users where name = 'v2'") == [(49,)]
    await eventually(lambda: follower(node).stats().echoes >= 50)
    assert counters(node).invalidations == before
    loads = counters(node).loads
    assert [await client.hget(f"user:{row}", "name") for row in range(1, 50)] == ["v2"] * 49
    assert await client.exists("user:50") == 0
    assert counters(node).loads == loads
    assert len(follower(node)._own) == 0


@postgres
async def test_write_of_another_node_invalidates(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x')")
    one, client_one = await case.start(USER_THROUGH)
    two, client_two = await case.start(USER_THROUGH)
    assert [await c.hget("user:1", "name") for c in (client_one, client_two)] == ["v1", "v1"]
    before = counters(one).invalidations
    await client_one.hset("user:1", "name", "v2")
    await eventually(lambda: not in_memory(two, b"user:1"))
    assert await client_two.hget("user:1", "name") == "v2"
    await case.heard(one)
    assert counters(one).invalidations == before
    assert in_memory(one, b"user:1")


@postgres
async def test_own_write_invalidates_the_same_row_under_another_prefix(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x')")
    node, client = await case.start(USER_THROUGH, MAIL)
    assert '"v1"' in await client.get("mail:ada@x")
    assert await client.get("mail:new@x") is None
    await client.hset("user:1", "name", "v2")
    await eventually(lambda: not in_memory(node, b"mail:ada@x"))
    assert '"v2"' in await client.get("mail:ada@x")
    assert in_memory(node, b"user:1")
    # A moved key, written through the other prefix.
    await client.hset("user:1", "email", "new@x")
    await eventually(lambda: not in_memory(node, b"mail:ada@x") and not in_memory(node, b"mail:new@x"))
    assert '"v2"' in await client.get("mail:new@x")


@postgres
async def test_rows_that_triggers_change_in_our_own_transaction_are_foreign(case: Case) -> None:
    await case.sql(
        "insert into users (id, name, email) values (1, 'v1', 'ada@x'); insert into orders values (1, 1, 'new');"
        "create function touch() returns trigger language plpgsql as $$ begin"
        " update users set credits = credits + 1 where id = new.tenant; return null; end $$;"
        "create trigger touch after update on orders for each row execute function touch()"
    )
    order = prefix("order:{tenant:int}:{number:int}", table="orders", value="hash", write="write-through", **FOLLOW)
    node, client = await case.start(USER_THROUGH, order)
    assert await client.hget("user:1", "credits") == "0"
    await client.hset("order:1:1", "status", "paid")
    await eventually(lambda: not in_memory(node, b"user:1"))
    assert await client.hget("user:1", "credits") == "1"
    assert in_memory(node, b"order:1:1")


@postgres
async def test_reaped_generic_rows_and_generic_writes_are_quiet(case: Case) -> None:
    node, client = await case.start(GENERIC)
    before = counters(node, "kv:").invalidations
    await client.set("kv:a", "1")
    await client.set("kv:b", "1", px=50)
    await eventually(lambda: follower(node).stats().echoes == 2)
    assert counters(node, "kv:").invalidations == before
    assert await client.get("kv:a") == "1"


# Races


@postgres
async def test_load_in_flight_when_its_row_changes_is_not_cached(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x')")
    node, client = await case.start(USER)
    store: Any = node.engine.stores["main"]
    load_many, arrived, go = store.load_many, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        rows = await load_many(*args)
        arrived.set()
        await go.wait()
        return rows

    store.load_many = slow
    reading = asyncio.create_task(client.hget("user:1", "name"))
    await arrived.wait()
    before = counters(node).invalidations
    await case.sql("update users set name = 'v2' where id = 1")
    await eventually(lambda: counters(node).invalidations > before)
    go.set()
    assert await reading == "v1"  # it asked before the change
    assert not in_memory(node, b"user:1")
    assert counters(node).loads_fenced == 1
    assert await client.hget("user:1", "name") == "v2"


@postgres
async def test_change_of_an_unsaved_key_is_a_conflict_and_ours_wins(case: Case) -> None:
    await case.sql("insert into users (id, name, email, age) values (1, 'v1', 'ada@x', 1)")
    node, client = await case.start(USER_BEHIND)
    await client.hset("user:1", "name", "ours")
    await case.sql("update users set name = 'theirs', age = 2 where id = 1")
    await eventually(lambda: counters(node).conflicts == 1)
    assert await client.hget("user:1", "name") == "ours"
    await client.execute_command("CACHE.FLUSH")
    assert await case.shop.rows("select name, age from users") == [("ours", 2)]
    # The other column that somebody else changed meanwhile is not hidden by our copy.
    await eventually(lambda: follower(node).stats().later == 0)
    assert await client.hmget("user:1", "name", "age") == ["ours", "2"]


@postgres
async def test_change_of_another_column_during_our_write_is_not_hidden(case: Case) -> None:
    await case.sql("insert into users (id, name, email, age) values (1, 'v1', 'ada@x', 1)")
    node, client = await case.start(USER_THROUGH)
    assert await client.hget("user:1", "age") == "1"
    store: Any = node.engine.stores["main"]
    apply, arrived, go = store.apply, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        # The command has staged its copy already.
        arrived.set()
        await go.wait()
        return await apply(*args)

    store.apply = slow
    writing = asyncio.create_task(client.hset("user:1", "name", "ours"))
    await arrived.wait()
    await case.sql("update users set age = 2 where id = 1")
    await eventually(lambda: follower(node).stats().later == 1)
    go.set()
    await writing
    await eventually(lambda: follower(node).stats().later == 0)
    assert await client.hmget("user:1", "name", "age") == ["ours", "2"]


# Lost connections


async def change_thousand(case: Case, value: str) -> None:
    for start in range(1, 1001, 10):
        await case.sql(f"update users set name = $1 where id between {start} and {start + 9}", value)


async def names(client: redis.asyncio.Redis) -> list[str | None]:
    pipeline = client.pipeline(transaction=False)
    for row in range(1, 1001):
        pipeline.hget(f"user:{row}", "name")
    return await pipeline.execute()


async def thousand(case: Case, url: str = "") -> tuple[Node, redis.asyncio.Redis]:
    await case.sql("insert into users (id, name, email) select n, 'v1', n::text from generate_series(1, 1000) n")
    node, client = await case.start(USER, url=url)
    assert await names(client) == ["v1"] * 1000
    return node, client


async def live(node: Node) -> None:
    await eventually(lambda: follower(node).stats().live, 10.0)


@postgres
async def test_terminated_listener_misses_nothing(case: Case) -> None:
    node, client = await thousand(case)

    async def kill() -> None:
        for _ in range(5):
            await case.cut_listeners()
            await asyncio.sleep(0.1)

    killing = asyncio.create_task(kill())
    other = await case.other()
    for start in range(1, 1001, 10):
        await other.execute(f"update users set name = 'v2' where id between {start} and {start + 9}")
        await asyncio.sleep(0.004)
    await killing
    await live(node)
    await case.heard(node)
    assert await names(client) == ["v2"] * 1000
    assert follower(node).stats().losses >= 1
    assert follower(node).stats().gaps == 0


@postgres
async def test_catch_up_after_an_absence_touches_only_what_changed(case: Case) -> None:
    node, client = await thousand(case)
    store: Any = node.engine.stores["main"]
    listen, may = store.listen, asyncio.Event()

    async def later(channel: str) -> Any:
        await may.wait()
        return await listen(channel)

    store.listen = later
    await case.cut_listeners()
    await eventually(lambda: not follower(node).stats().live)
    await case.sql("update users set name = 'v2' where id <= 10")
    assert await names(client) == ["v1"] * 1000  # reads go on from memory
    may.set()
    await live(node)
    await case.heard(node)
    assert sum(in_memory(node, f"user:{n}".encode()) for n in range(1, 1001)) == 990
    assert (await names(client))[:11] == ["v2"] * 10 + ["v1"]


@postgres
async def test_black_holed_listener_is_noticed_and_catches_up(case: Case, postgres_server: PostgresServer) -> None:
    async with Proxy(postgres_server.port) as proxy:
        database = case.url.rpartition("/")[2]
        node, client = await thousand(case, postgres_server.url(database, proxy.port))
        (link,) = proxy.find(b"LISTEN")
        link.black_hole()
        began = time.monotonic()
        await change_thousand(case, "v2")
        await eventually(lambda: not follower(node).stats().live or follower(node).stats().losses, 5.5)
        print(f"\nblack hole noticed after {time.monotonic() - began:.1f} s")
        await live(node)
        await case.heard(node)
        assert await names(client) == ["v2"] * 1000
        assert follower(node).stats().gaps == 0


@postgres
@pytest.mark.slow
async def test_no_stale_read_five_seconds_after_a_black_hole_has_healed(
    case: Case, postgres_server: PostgresServer
) -> None:
    async with Proxy(postgres_server.port) as proxy:
        database = case.url.rpartition("/")[2]
        node, client = await thousand(case, postgres_server.url(database, proxy.port))
        proxy.faults.black_hole(*BOTH)
        await change_thousand(case, "v2")
        await eventually(lambda: follower(node).stats().losses, 6.0)
        # New connections vanish, too; a second round of changes meanwhile.
        await asyncio.sleep(2.5)
        await change_thousand(case, "v3")
        assert await names(client) == ["v1"] * 1000
        proxy.faults.heal()
        healed = time.monotonic()
        await live(node)
        await case.heard(node)
        took = time.monotonic() - healed
        print(f"\ncaught up {took:.1f} s after healing")
        assert took < 5
        assert await names(client) == ["v3"] * 1000


@postgres
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_restart_of_the_server_is_survived(case: Case, postgres_server: PostgresServer, mode: str) -> None:
    node, client = await thousand(case)
    await case.shop.close()
    postgres_server.stop(mode)
    await eventually(lambda: not follower(node).stats().live)
    postgres_server.start()
    database = case.url.rpartition("/")[2]
    postgres_server.execute("update users set name = 'v2' where id <= 500", database)
    await live(node)
    await case.heard(node)
    assert await names(client) == ["v2"] * 500 + ["v1"] * 500
    # A clean restart loses nothing; after a crash nobody knows what was undone.
    assert follower(node).stats().gaps == (mode == "immediate")


@postgres
async def test_node_that_starts_before_its_database_follows_later(case: Case, postgres_server: PostgresServer) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x')")
    await case.sql(wanted_sql(configuration(case.url, USER)))
    async with Proxy(postgres_server.port) as proxy:
        url = postgres_server.url(case.url.rpartition("/")[2], proxy.port)
        proxy.faults.black_hole(*BOTH)
        rule = prefix("user:{id:int}", table="users", value="hash", **FOLLOW)
        starting = asyncio.create_task(asyncio.wait_for(_started(configuration(url, rule)), 30))
        await eventually(lambda: len(proxy.links) >= 1)
        proxy.reset()
        node = await starting
        try:
            assert not follower(node).stats().live
            proxy.faults.heal()
            await live(node)
            client = client_of(node, decode_responses=True)
            assert await client.hget("user:1", "name") == "v1"
            await case.sql("update users set name = 'v2'")
            await eventually(lambda: not in_memory(node, b"user:1"))
            await client.aclose()
        finally:
            await node.stop()


async def _started(toml: str) -> Node:
    node = Node(parse_config("[server]\nport = 0\n" + toml, {}, "test.toml"), None, None)
    await node.start()
    return node


# The outbox


async def away(node: Node, case: Case, during: Callable[[], Awaitable[object]]) -> None:
    """Run something while the node cannot listen, and wait until it has caught up."""
    store: Any = node.engine.stores["main"]
    listen, may = store.listen, asyncio.Event()

    async def later(channel: str) -> Any:
        await may.wait()
        return await listen(channel)

    store.listen = later
    await case.cut_listeners()
    await eventually(lambda: not follower(node).stats().live)
    await during()
    may.set()
    await live(node)
    await case.heard(node)


@postgres
@pytest.mark.parametrize("how", ["trimmed", "truncated", "made anew", "untouched"])
async def test_outbox_that_lost_unread_rows_bumps(case: Case, how: str) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x'), (2, 'v1', 'bob@x')")
    node, client = await case.start(USER)
    assert [await client.hget(f"user:{n}", "name") for n in (1, 2)] == ["v1", "v1"]

    async def lose() -> None:
        await case.sql("update users set name = 'v2' where id = 1")
        if how == "trimmed":
            assert await case.shop.rows(invalidation._TRIM, 0.0, 1000) == [(1,)]
        elif how == "truncated":
            await case.sql("truncate forebay_outbox")
        elif how == "made anew":
            await case.sql("drop table forebay_outbox;" + wanted_sql(configuration(case.url, USER)))

    await away(node, case, lose)
    assert follower(node).stats().gaps == (how != "untouched")
    assert in_memory(node, b"user:2") == (how == "untouched")
    assert [await client.hget(f"user:{n}", "name") for n in (1, 2)] == ["v2", "v1"]
    # It follows on, and does not bump again.
    await case.sql("update users set name = 'v3' where id = 1")
    await eventually(lambda: not in_memory(node, b"user:1"))
    assert in_memory(node, b"user:2")
    assert follower(node).stats().gaps == (how != "untouched")


@postgres
async def test_trimming_what_everybody_has_read_disturbs_nobody(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x')")
    node, client = await case.start(USER)
    other = await case.other()
    await case.sql("update users set name = 'v2'")
    await case.heard(node)
    await other.execute("begin; update users set name = 'v3'")
    await client.hget("user:1", "name")
    # The transaction under way is younger than what is trimmed.
    assert await case.shop.rows(invalidation._TRIM, 0.0, 1000) == [(1,)]
    await case.heard(node)
    assert in_memory(node, b"user:1")
    await other.execute("commit")
    await eventually(lambda: not in_memory(node, b"user:1"))
    # Old rows of the age that counts stay.
    assert await case.shop.rows(invalidation._TRIM, 3600.0, 1000) == [(0,)]
    assert follower(node).stats().gaps == 0


@postgres
async def test_row_of_a_transaction_that_is_not_over_for_everybody_is_not_trimmed(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'a'), (2, 'v1', 'b')")
    node, _ = await case.start(USER)
    other = await case.other()
    await other.execute("begin; update users set name = 'v2' where id = 1")
    await case.sql("update users set name = 'v2' where id = 2")
    # A younger row is there, but an older transaction may still bring one.
    assert await case.shop.rows(invalidation._TRIM, 0.0, 1000) == [(0,)]
    await other.execute("commit")
    await case.heard(node)
    assert await case.shop.rows(invalidation._TRIM, 0.0, 1000) == [(2,)]
    await case.heard(node)
    assert follower(node).stats().gaps == 0


@postgres
async def test_flood_of_changes_bumps_instead_of_reading_them_all(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await case.sql("insert into users (id, name, email) select n, 'v1', n::text from generate_series(1, 100) n")
    node, client = await case.start(USER)
    assert await client.hget("user:1", "name") == "v1"
    monkeypatch.setattr(invalidation, "KEYS_READ", 50)
    await case.sql("update users set name = 'v2'")
    await eventually(lambda: not in_memory(node, b"user:1"))
    assert node.engine.prefixes["user:{id:int}"].void_below == 2  # the first look, and this
    assert await client.hget("user:1", "name") == "v2"


@postgres
async def test_triggers_of_other_prefixes_bump_rather_than_miss(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x')")
    node, client = await case.start(USER)
    await case.sql("drop function forebay_follow_users cascade;" + wanted_sql(configuration(case.url, MAIL)))
    assert await client.hget("user:1", "name") == "v1"
    await case.sql("update users set name = 'v2' where id = 1")
    await eventually(lambda: not in_memory(node, b"user:1"))
    assert await client.hget("user:1", "name") == "v2"


@postgres
async def test_servers_with_different_key_columns_of_one_table_share_its_triggers(case: Case) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x'), (2, 'v1', 'bob@x')")
    by_id, ids = await case.start(USER)
    by_mail, mails = await case.start(MAIL)
    # Each script was run after the other's, and the first one once more.
    await case.sql(wanted_sql(configuration(case.url, USER)))
    assert await case.shop.rows("select count(*) from pg_trigger where tgname like 'forebay%'") == [(4,)]
    for key in ("user:1", "user:2"):
        assert await ids.hget(key, "name") == "v1"
    for key in ("mail:ada@x", "mail:bob@x"):
        assert '"name":"v1"' in await mails.get(key)
    await case.sql("update users set name = 'v2' where id = 1")
    await eventually(lambda: not in_memory(by_id, b"user:1") and not in_memory(by_mail, b"mail:ada@x"))
    # That very row, and not everything.
    assert in_memory(by_id, b"user:2") and in_memory(by_mail, b"mail:bob@x")
    assert await case.shop.rows("select keys::text from forebay_outbox where seq > 0") == [
        ('[{"id": "1", "email": "ada@x"}]',)
    ]
    assert by_id.followers[0].problems == by_mail.followers[0].problems == []


@postgres
async def test_column_that_is_gone_leaves_the_triggers_when_the_script_is_run_again(case: Case) -> None:
    await case.sql(wanted_sql(configuration(case.url, USER, MAIL)))
    await case.sql("alter table users drop column email")
    await case.sql(wanted_sql(configuration(case.url, USER)))
    await case.sql("insert into users (id, name) values (1, 'x')")
    assert await case.shop.rows("select keys::text from forebay_outbox where seq > 0") == [('[{"id": "1"}]',)]


# The script, and what is missing


@postgres
async def test_script_can_be_run_again_and_by_its_side_names_of_all_kinds(case: Case) -> None:
    await case.sql(
        'create schema "My Shop"; create table "My Shop"."T able" ("Id \'x" integer primary key, "changed" text);'
        'create table "My Shop".twice (changed text primary key, body text)'
    )
    rules = [
        PrefixRule(Template("x:{changed}"), "main", "read-through", table='"My Shop".twice', invalidate="notify"),
        PrefixRule(Template("y:{id:int}"), "main", "read-through", table="users", invalidate="notify"),
        PrefixRule(Template("z:{email}"), "main", "read-through", table="users", invalidate="notify"),
        PrefixRule(Template("none:{id:int}"), "main", "read-through", table="orders"),
    ]
    assert followed_tables(rules) == {'"My Shop".twice': ("changed",), "users": ("email", "id")}
    script = outbox_sql(rules)
    await case.sql("begin;" + script + ";commit")
    await case.sql("insert into \"My Shop\".twice values ('a', 'b')")
    await case.sql("begin;" + script + ";commit")
    await case.sql("update \"My Shop\".twice set changed = 'c'")
    assert await case.shop.rows("select relation, keys::text from forebay_outbox where seq > 0 order by seq") == [
        ('"My Shop".twice', '[{"changed": "a"}]'),
        ('"My Shop".twice', '[{"changed": "a"}, {"changed": "c"}]'),
    ]
    assert await case.shop.rows("select count(*) from pg_trigger where tgname like 'forebay%'") == [(8,)]


@postgres
async def test_application_role_needs_no_rights_on_the_outbox(case: Case) -> None:
    await case.sql(wanted_sql(configuration(case.url, USER)))
    role = f"app_{case.url.rpartition('/')[2]}"
    await case.sql(f"create role {role}; grant select, insert, update, delete on users to {role}")
    try:
        await case.sql(f"set role {role}; insert into users (id, name, email) values (1, 'x', 'x'); reset role")
        assert await case.shop.rows("select keys::text from forebay_outbox where seq > 0") == [('[{"id": "1"}]',)]
    finally:
        await case.sql(f"reset role; drop owned by {role}; drop role {role}")


def test_one_table_spelled_in_two_ways_is_refused() -> None:
    def rule(text: str, table: str) -> PrefixRule:
        return PrefixRule(Template(text), "main", "read-through", table=table, invalidate="notify")

    with pytest.raises(SpelledTwice, match=r"'public\.users' and 'users' may be the same"):
        outbox_sql([rule("a:{id:int}", "users"), rule("b:{id:int}", "public.users")])
    assert "audit" in outbox_sql([rule("a:{id:int}", "app.users"), rule("b:{id:int}", "audit.users")])
    assert outbox_sql([]) == ""


@postgres
async def test_missing_triggers_are_a_configuration_error(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toml = configuration(case.url, USER, MAIL)
    path = tmp_path / "f.toml"
    path.write_text(toml)

    async def refusal() -> str:
        with pytest.raises(ConfigError) as refused:
            async with running_node(toml):
                pass
        return str(refused.value)

    assert "there is no table forebay_outbox to note changed rows in; run: forebay sql" in await refusal()
    # Who is refused is told once.
    assert "forebay_outbox" not in caplog.text
    await case.sql(wanted_sql(configuration(case.url, USER)))
    message = await refusal()
    assert "prefix 'mail:{email}', 'user:{id:int}' with invalidate = \"notify\": users has no triggers" in message
    assert "email, id on INSERT, UPDATE, DELETE, TRUNCATE; run: forebay sql" in message
    await case.sql(wanted_sql(toml))
    await case.sql("alter table users disable trigger forebay_delete")
    assert "on DELETE;" in await refusal()
    assert await asyncio.to_thread(cli.main, ["check", str(path), "--connect"]) == 2
    await case.sql("alter table users enable trigger forebay_delete")
    assert await asyncio.to_thread(cli.main, ["check", str(path), "--connect"]) == 0
    async with running_node(toml) as node:
        assert follower(node).stats().live


@postgres
async def test_view_cannot_be_followed(case: Case) -> None:
    await case.sql(wanted_sql(configuration(case.url, USER)) + "; create view adults as select * from users")
    toml = configuration(case.url, prefix("adult:{id:int}", table="adults", value="json", **FOLLOW))
    with pytest.raises(ConfigError, match="adults is no table, so it can have no such triggers"):
        async with running_node(toml):
            pass


@postgres
async def test_triggers_lost_and_regained_while_running_bump(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x')")
    node, client = await case.start(USER)
    script = wanted_sql(configuration(case.url, USER))
    assert await client.hget("user:1", "name") == "v1"

    async def lose() -> None:
        await case.sql("drop function \"forebay_follow_users\" cascade; update users set name = 'v2'")

    await away(node, case, lose)
    assert "users has no triggers" in caplog.text
    assert await client.hget("user:1", "name") == "v1"
    await away(node, case, lambda: case.sql(script))
    assert await client.hget("user:1", "name") == "v2"


@pytest.mark.parametrize(
    ("url", "keys", "message"),
    [
        ("sqlite:///x.db", {"table": "t"}, "needs PostgreSQL, and 'main' is a SQLite file, which tells nobody"),
        ("memory:", {"table": "t"}, "needs PostgreSQL; nobody but us can change 'main'"),
        ("postgresql://h/d", {"load": "select 1"}, "follows a table, and load alone names none"),
    ],
)
def test_notify_where_it_cannot_work_is_refused(url: str, keys: dict[str, str], message: str) -> None:
    rule = prefix("a:{id:int}", read="read-through", invalidate="notify", **keys)
    with pytest.raises(ConfigError) as refused:
        parse_config(configuration(url, rule), {}, "f.toml")
    assert message in str(refused.value)
    assert ".invalidate: " in str(refused.value)


@postgres
async def test_sql_command_prints_a_script_that_check_accepts(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f.toml"
    path.write_text(configuration(case.url, USER, MAIL, GENERIC))
    assert cli.main(["sql", str(path)]) == 0
    script = capsys.readouterr().out
    assert script.count("BEGIN;\n") == 2
    await case.sql(script)
    await case.sql(script)
    assert await asyncio.to_thread(cli.main, ["check", str(path), "--connect"]) == 0


# Reloading the configuration


@postgres
async def test_prefix_that_follows_after_a_reload(case: Case, tmp_path: Path) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x')")
    await case.sql(wanted_sql(configuration(case.url, USER, MAIL)))
    path = tmp_path / "f.toml"
    path.write_text("[server]\nport = 0\n" + configuration(case.url, USER_UNFOLLOWED))
    node = Node(parse_config(path.read_text(), {}, str(path)), path, None)
    await node.start()
    client = client_of(node, decode_responses=True)
    try:
        assert not follower(node).stats().live
        path.write_text("[server]\nport = 0\n" + configuration(case.url, USER, MAIL))
        await node.reload()
        await live(node)
        assert await client.hget("user:1", "name") == "v1"
        await case.sql("update users set name = 'v2'")
        await eventually(lambda: not in_memory(node, b"user:1"))
        path.write_text("[server]\nport = 0\n" + configuration(case.url, USER_UNFOLLOWED))
        await node.reload()
        await eventually(lambda: not follower(node).stats().live)
    finally:
        await client.aclose()
        await node.stop()


# Own writes, alone


class FakeMapping:
    def __init__(self, invalidate: str = "notify") -> None:
        self.rule = PrefixRule(Template("a:{id:int}"), invalidate=invalidate)


class FakeOp:
    echoes = 1

    def __init__(self, mapping: FakeMapping, key: int) -> None:
        self.mapping = mapping
        self.key = (key,)


def test_each_own_write_answers_for_one_echo() -> None:
    mapping: Any = FakeMapping()
    own, ops = OwnWrites(), [FakeOp(mapping, 1), FakeOp(mapping, 2), FakeOp(mapping, 3)]
    own.expect(ops)  # type: ignore[arg-type]
    own.expect(ops[:1])  # type: ignore[arg-type]
    own.settle(ops, [Applied(True, None), Applied(True, None), Applied(False, None)])  # type: ignore[arg-type]
    assert [own.take(mapping, (1,)) for _ in range(3)] == [True, True, False]
    assert [own.take(mapping, (2,)), own.take(mapping, (2,)), own.take(mapping, (3,))] == [True, False, False]
    assert len(own) == 0


def test_own_writes_are_bounded_and_ignore_prefixes_that_follow_nothing() -> None:
    own, mapping = OwnWrites(), FakeMapping()
    own.expect([FakeOp(FakeMapping("none"), 1)])  # type: ignore[list-item]
    assert len(own) == 0
    own.expect([FakeOp(mapping, number) for number in range(own.MOST + 10)])  # type: ignore[misc]
    assert len(own) == own.MOST


@postgres
async def test_write_of_unknown_outcome_that_lands_late_invalidates(
    case: Case, postgres_server: PostgresServer
) -> None:
    await case.sql("insert into users (id, name, email) values (1, 'v1', 'ada@x')")
    async with Proxy(postgres_server.port) as proxy:
        node, client = await case.start(USER_THROUGH, url=postgres_server.url(case.url.rpartition("/")[2], proxy.port))
        assert await client.hget("user:1", "name") == "v1"
        # The statement reaches the server, its answer never comes back.
        proxy.faults.cut_when(b"UPDATE", UP)
        with pytest.raises(redis.exceptions.ResponseError, match=r"STORETIMEOUT|STOREDOWN"):
            await client.hset("user:1", "name", "late")
        assert len(follower(node)._own) == 0
        # When the late commit is heard of, nothing old stays, quarantine or not.
        await case.heard(node)
        assert not in_memory(node, b"user:1")
        assert await client.hget("user:1", "name") in ("v1", "late")
