"""Changes of single members that are not saved yet, and what happens to their rows and rules meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

import pytest

from persistence.prefixes import READ_THROUGH, WRITE_BEHIND, PrefixRule, RuleTable, Template
from persistence.reload import reload
from protocol.decoder import ReplyError
from tests.persistence.test_flusher import Desk, Gate
from tests.support.fake_disk import FakeDisk
from tests.support.journals import StillClock
from tests.support.lives import Life, shop_store
from tests.support.waiting import eventually

USERS: Final = PrefixRule(
    Template("user:{id:int}"),
    store="main",
    read=READ_THROUGH,
    write=WRITE_BEHIND,
    write_delay_s=3600.0,
    table="users",
    value="hash",
    columns=(("name", "name"), ("n", "n")),
)

ITEMS: Final = replace(
    USERS,
    template=Template("item:{id:int}"),
    table="items",
    value="column",
    column="body",
    columns=(),
    negative_ttl_s=60.0,
)


async def test_what_was_voided_while_a_change_was_unsaved_is_void_after_the_next_change_too() -> None:
    store = shop_store()
    async with Life(store, (USERS,), FakeDisk()) as life:
        await life.call("HSET", "user:1", "name", "ann", "n", 1)
        await life.flush()
        await life.call("HINCRBY", "user:1", "n", 1)
        # Somebody else changes what we have not changed, and says so.
        store.tables["users"].rows[1,]["name"] = "eve"
        await life.call("CACHE.BUMP", "user:")
        await life.call("HINCRBY", "user:1", "n", 1)
        await life.flush()
        assert store.tables["users"].rows[1,] == {"id": 1, "name": "eve", "n": 3}
        assert await life.call("HGETALL", "user:1") == [b"name", b"eve", b"n", b"3"]


@pytest.mark.parametrize("news", ["told", "invalidated", "voided", "expired"])
async def test_a_row_that_is_written_all_the_time_is_seen_as_others_have_changed_it(news: str) -> None:
    store = shop_store()
    clock = StillClock()
    async with Life(store, (replace(USERS, ttl_s=60.0, ttl_jitter=0.0),), FakeDisk(), clock=clock) as life:
        await life.call("HSET", "user:1", "name", "ann", "n", 0)
        await life.flush()
        await life.call("HGET", "user:1", "n")
        queue = life.engine.queues["main"]
        desk = Desk(store)
        await life.call("HINCRBY", "user:1", "n", 1)
        store.tables["users"].rows[1,]["name"] = "eve"
        if news == "told":
            life.engine.row_changed(life.engine.prefixes[USERS.name], ("1",))
        elif news == "invalidated":
            assert await life.call("CACHE.INVALIDATE", "user:1") == 0
        elif news == "voided":
            await life.call("CACHE.BUMP", "user:")
        else:
            clock.ms += 61_000
        for number in range(1, 4):
            # Some change is unsaved at every moment.
            desk.before = gate = Gate()
            queue.hurry()
            await eventually(lambda sent=number: len(desk.asked) == sent)
            counting = asyncio.create_task(life.call("HINCRBY", "user:1", "n", 1, session=life.new_session()))
            await asyncio.sleep(0)
            gate.opened.set()
            assert await counting == number + 1
            await eventually(lambda: not queue.flying)
        assert await life.call("HGETALL", "user:1") == [b"name", b"eve", b"n", b"4"]
        assert store.tables["users"].rows[1,]["name"] == "eve"


@pytest.mark.parametrize("change", [("SET", "item:1", "ours"), ("DEL", "item:1")])
async def test_who_invalidates_a_key_whose_change_is_committed_but_not_landed_sees_the_row(
    change: tuple[str, ...],
) -> None:
    store = shop_store()
    async with Life(store, (ITEMS,), FakeDisk()) as life:
        await life.call("SET", "item:1", "old")
        await life.flush()
        desk = Desk(store)
        desk.after = gate = Gate()
        await life.call(*change)
        queue = life.engine.queues["main"]
        queue.hurry()
        await eventually(lambda: bool(desk.asked))
        # It is committed, and then somebody else writes.
        row = store.tables["items"].rows.setdefault((1,), {"id": 1, "body": None})
        row["body"] = "theirs"
        await life.call("CACHE.INVALIDATE", "item:1")
        gate.opened.set()
        await eventually(lambda: not queue.count())
        assert await life.call("GET", "item:1") == b"theirs"


async def test_a_given_up_change_that_is_committed_after_all_is_seen_beside_a_newer_one() -> None:
    store = shop_store()
    async with Life(store, (USERS,), FakeDisk()) as life:
        await life.call("HSET", "user:1", "name", "ann", "n", 1)
        await life.flush()
        desk = Desk(store)
        desk.before = gate = Gate()
        await life.call("HINCRBY", "user:1", "n", 100)
        queue = life.engine.queues["main"]
        queue.hurry()
        await eventually(lambda: bool(desk.asked))
        assert await life.call("CACHE.DISCARD", USERS.name) == 1
        await life.call("HSET", "user:1", "name", "eve")
        gate.opened.set()
        await eventually(lambda: not queue.flying)
        await life.flush()
        assert store.tables["users"].rows[1,] == {"id": 1, "name": "eve", "n": 101}
        assert await life.call("HGETALL", "user:1") == [b"name", b"eve", b"n", b"101"]


async def test_a_command_that_waits_through_a_reload_of_its_rule_leaves_nothing_under_the_old_one() -> None:
    store = shop_store()
    async with Life(store, (USERS,), FakeDisk()) as life:
        await life.call("HSET", "user:1", "name", "ann", "n", 1)
        await life.flush()
        await life.call("CACHE.INVALIDATE", "user:1")
        waiting, inner = asyncio.Event(), store.load_many

        async def load_many(*args: object) -> object:
            await waiting.wait()
            return await inner(*args)  # type: ignore[arg-type]

        store.load_many = load_many  # type: ignore[method-assign,assignment]
        command = asyncio.create_task(life.transaction(["HGET", "user:2", "n"], ["DEL", "user:1"]))
        await eventually(lambda: life.engine.loader.loading())
        reloading = asyncio.create_task(reload(life.engine, RuleTable([replace(USERS, ttl_s=5.0)]), 1.0))
        await asyncio.sleep(0)
        waiting.set()
        assert await reloading == []
        reply = await command
        gone = await life.call("EXISTS", "user:1") == 0
        assert gone is not isinstance(reply, ReplyError), reply
        await life.flush()
        assert ((1,) not in store.tables["users"].rows) is gone
        assert not [prefix for prefix in life.engine.queues["main"].backlogs if prefix.retired]
