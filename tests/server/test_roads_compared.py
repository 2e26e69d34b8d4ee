"""The short roads leave behind what the general one does: some walks of roads_compared.py, and what they have found.

`script/soak roads` walks thousands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from persistence.prefixes import READ_THROUGH, WRITE_THROUGH, PrefixRule, RuleTable, Template
from persistence.reload import reload
from persistence.stores.memory import BEFORE
from protocol.decoder import ReplyError, pack_command
from server.app import Node
from server.commands.table import COMMANDS
from tests.server.roads_compared import (
    Author,
    Guest,
    SqliteOutsider,
    StandingClock,
    compare,
    configuration,
    standing_node,
)
from tests.support.fake_disk import FakeDisk
from tests.support.lives import Life, shop_store
from tests.support.postgres import PostgresServer


async def test_all_roads_leave_the_same_behind_on_sqlite_with_a_journal() -> None:
    assert await compare([Author(seed).walk() for seed in range(10)], None, "always") == []


@pytest.mark.postgres
async def test_all_roads_leave_the_same_behind_on_postgresql(postgres_server: PostgresServer) -> None:
    assert await compare([Author(seed).walk() for seed in range(1000, 1004)], postgres_server) == []


# -- what they have found ---------------------------------------------------------------------------------------------


class House:
    """A standing node with every rule of the walks, a client, and plain SQL."""

    def __init__(self, node: Node, clock: StandingClock, outsider: SqliteOutsider) -> None:
        self.node = node
        self.clock = clock
        self.outsider = outsider
        self.client = Guest(node)

    async def call(self, line: str) -> object:
        """One command, words apart at blanks."""
        return await self.client.call(*line.encode().split(b" "))

    async def transaction(self, line: str) -> object:
        """The same within MULTI: the reply of EXEC."""
        await self.call("MULTI")
        await self.call(line)
        return await self.call("EXEC")

    def pass_time(self, ms: int) -> None:
        """Move the clock."""
        self.clock.ms += ms
        self.node.keyspace.tick(self.clock.ms)


@asynccontextmanager
async def house(directory: Path) -> AsyncIterator[House]:
    path = directory / "rows.db"
    outsider = SqliteOutsider(path)
    try:
        async with standing_node(configuration(f"sqlite:///{path}", "sqlite")) as (node, clock):
            yield House(node, clock, outsider)
    finally:
        outsider.close()


# Heads of the walks' rules: h hash, j JSON, c column, g generic; 0 cache-aside, 1 read-through; then 0 cache-aside,
# 1 write-through, 2 write-behind; t: five seconds to live, l: for ever.


async def test_transaction_is_not_served_a_key_whose_own_time_is_over(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        for key in ("g11l:1", "g12l:1", "g10l:1", "c10l:1"):
            await here.call(f"SET {key} old")
            await here.call(f"PEXPIRE {key} 1000")
        here.pass_time(1000)
        for key in ("g11l:1", "g12l:1", "g10l:1", "c10l:1"):
            assert await here.transaction(f"GET {key}") == [None], key


async def test_value_that_fits_no_row_may_be_kept_in_memory_alone_beside_tags(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        assert await here.call("INCR j10l:1") == 1
        assert await here.call("APPEND j10l:2 text") == 4
        assert await here.transaction("SETRANGE j10l:3 1 x") == [2]
        assert await here.call("LPUSH j10l:4 x") == 1
        assert here.node.dispatch.internal_errors == 0


async def test_what_is_written_to_memory_alone_carries_the_tags_of_its_value(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        await here.outsider.execute("insert into notes (id, name, age) values (1, 'row', 9)")
        assert await here.call('SET j10l:1 {"age":4}') == b"OK"
        assert await here.call("CACHE.UNTAG age=9") is not None
        assert await here.call("GET j10l:1") == b'{"age":4}'
        await here.call("CACHE.UNTAG age=4")
        assert await here.call("GET j10l:1") == b'{"id":1,"name":"row","age":9}'


async def test_lifetime_given_in_memory_alone_outlasts_the_default(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        for key, line in (("c10t:1", "PERSIST"), ("c10t:2", "PEXPIRE {} 60000"), ("g10t:1", "PERSIST")):
            await here.outsider.execute(
                "insert into texts (id, body) values (1, 'row'), (2, 'row') on conflict do nothing"
            )
            await here.call(f"SET {key} ours")
            assert await here.call(line.format(key) if "{}" in line else f"{line} {key}") == 1
            here.pass_time(6000)
            here.node.background.expire_slice()
            assert await here.call(f"GET {key}") == b"ours"
            assert await here.call(f"APPEND {key} !") == 5
            assert await here.transaction(f"GET {key}") == [b"ours!"]


async def test_default_lifetime_of_a_generic_key_in_memory_alone_is_told_whether_it_was_loaded_for_or_not(
    tmp_path: Path,
) -> None:
    async with house(tmp_path) as here:
        await here.call("SET g10t:1 x")
        await here.call("LPUSH g10t:2 x")
        assert [await here.call("PTTL g10t:1"), await here.call("PTTL g10t:2")] == [5000, 5000]


async def test_failed_commands_are_counted_on_every_road(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        await here.outsider.execute("insert into users (id, name) values (1, 'Ada')")
        get, hset = COMMANDS["get"], COMMANDS["hset"]
        failed = get.failed, hset.failed
        # A miss that lands; a change that no row can take, within a transaction.
        assert isinstance(await here.call("GET h11l:1"), ReplyError)
        assert isinstance(await here.transaction("HSET h02l:1 other x"), ReplyError)
        assert (get.failed, hset.failed) == (failed[0] + 1, failed[1] + 1)


async def test_limit_holds_for_what_stands_behind_it_in_a_pipeline(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        await here.call("SET plain x")
        lines = ("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1", "SET other x")
        replies = await here.client.say(b"".join(pack_command(*line.split(" ")) for line in lines), 3)
        assert str(replies[2]).startswith("OOM command not allowed")


async def test_key_that_fits_no_template_is_plain_memory_for_a_set_of_any_length_of_pipeline(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        for head in ("k02l:", "k12l:", "k11l:", "c12l:", "c11l:"):
            names = (b"1", b"x", b"2", b"", b"y", b"01")
            await here.client.say(b"".join(pack_command(b"SET", head.encode() + name, b"v") for name in names), 6)
            for name in ("x", "", "y", "01"):
                assert await here.call(f"GET {head}{name}") == b"v"
                entry = here.node.keyspace.database(0).held(f"{head}{name}".encode())
                assert entry is not None and entry.lease is None, entry
        assert await here.call("CACHE.FLUSH") == [6, 0]
        assert await here.call("CACHE.DLQ COUNT") == 0


ITEMS = PrefixRule(
    Template("item:{id:int}"),
    store="main",
    table="items",
    value="column",
    column="body",
    read=READ_THROUGH,
    write=WRITE_THROUGH,
    ttl_s=3600.0,
)


@pytest.mark.parametrize("words", [("SET", "item:1", "x"), ("APPEND", "item:1", "x"), ("GET", "item:1")])
@pytest.mark.parametrize("within", [False, True], ids=["alone", "transaction"])
async def test_what_is_under_way_while_rules_change_leaves_no_copy_under_the_old_rule(
    words: tuple[str, ...], within: bool
) -> None:
    store = shop_store()
    held, begun = asyncio.Event(), asyncio.Event()

    async def fault(moment: str, what: str) -> None:
        if moment == BEFORE and what.startswith(("load", "apply")):
            begun.set()
            await held.wait()

    async with Life(store, (ITEMS,), FakeDisk(), "no") as life:
        store.fault = fault
        client = life.new_session()
        command = life.transaction(words, session=client) if within else life.call(*words, session=client)
        running = asyncio.ensure_future(command)
        await begun.wait()
        assert await reload(life.engine, RuleTable([replace(ITEMS, ttl_s=60.0)]), 1.0) == []
        held.set()
        await running
        assert life.memory.held(b"item:1") is None
