"""A reload changes the rule of keys that are being written: what is acknowledged under the new one is what stays."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from persistence.errors import StoreDown, StoreTimeout
from persistence.prefixes import READ_THROUGH, WRITE_BEHIND, WRITE_THROUGH, PrefixRule, RuleTable, Template
from persistence.reload import reload
from protocol.decoder import ReplyError
from tests.persistence.test_flusher import Desk, Gate
from tests.support.fake_disk import FakeDisk
from tests.support.journals import StillClock
from tests.support.lives import Life, shop_store
from tests.support.waiting import eventually

THROUGH: Final = PrefixRule(
    Template("item:{id:int}"),
    store="main",
    read=READ_THROUGH,
    write=WRITE_THROUGH,
    table="items",
    value="column",
    column="body",
)
BEHIND: Final = replace(THROUGH, write=WRITE_BEHIND, write_delay_s=3600.0)
KV: Final = PrefixRule(
    Template("kv:"), store="main", read=READ_THROUGH, write=WRITE_BEHIND, write_delay_s=3600.0, ttl_s=7200.0
)
PATIENCE_S: Final = 5.0


async def changed(life: Life, *rules: PrefixRule) -> None:
    """Put these rules in force."""
    assert await reload(life.engine, RuleTable(list(rules)), PATIENCE_S) == []


async def test_write_behind_waits_until_a_synchronous_write_from_before_it_can_land_no_more() -> None:
    store = shop_store()
    store.statement_timeout_s = 60.0
    desk = Desk(store)

    async def lose(keys: tuple[str, ...]) -> None:
        raise StoreTimeout("no answer")

    desk.before = lose
    clock = StillClock()
    async with Life(store, (THROUGH,), FakeDisk(), clock=clock) as life:
        reply = await life.call("SET", "item:1", "old")
        assert isinstance(reply, ReplyError) and reply.args[0].startswith("STORETIMEOUT")
        desk.before = None
        desk.asked.clear()
        await changed(life, BEHIND)
        assert await life.call("SET", "item:1", "new") == b"OK"
        assert await life.call("SET", "item:2", "another") == b"OK"
        queue = life.engine.queues["main"]
        queue.hurry()
        await eventually(lambda: b"item:1" in queue.suspects and not queue.flying)
        assert desk.asked == [("2",)]
        # The lost write lands after all.
        store.tables["items"].swap(None, {"id": 1, "body": "old"})
        clock.ms += 62_000
        queue.hurry()
        await eventually(lambda: not queue.count())
        assert await life.call("GET", "item:1") == b"new"
    assert store.tables["items"].rows[1,]["body"] == "new"


async def test_synchronous_write_that_waits_through_a_reload_to_write_behind_overtakes_nothing() -> None:
    store = shop_store()
    desk = Desk(store)
    desk.before = gate = Gate()
    async with Life(store, (THROUGH,), FakeDisk()) as life:
        first = asyncio.create_task(life.call("SET", "item:1", "first", session=life.new_session()))
        await eventually(lambda: bool(desk.asked))
        second = asyncio.create_task(life.call("SET", "item:1", "second", session=life.new_session()))
        await asyncio.sleep(0)
        await changed(life, BEHIND)
        third = asyncio.create_task(life.call("SET", "item:1", "third", session=life.new_session()))
        await asyncio.sleep(0)
        gate.opened.set()
        assert await first == b"OK"
        reply = await second
        assert isinstance(reply, ReplyError) and reply.args[0].startswith("BUSY")
        assert await third == b"OK"
        await life.flush()
        assert await life.call("GET", "item:1") == b"third"
    assert store.tables["items"].rows[1,]["body"] == "third"


async def test_transaction_that_is_half_committed_is_queued_under_the_rule_that_it_began_with() -> None:
    store = shop_store()
    desk = Desk(store)
    desk.before = gate = Gate()
    async with Life(store, (THROUGH, KV), FakeDisk()) as life:
        command = asyncio.create_task(
            life.transaction(["SET", "item:1", "a"], ["SET", "kv:1", "b"], session=life.new_session())
        )
        await eventually(lambda: bool(desk.asked))
        reloading = asyncio.create_task(
            reload(life.engine, RuleTable([THROUGH, replace(KV, ttl_s=9000.0)]), PATIENCE_S)
        )
        await asyncio.sleep(0)
        gate.opened.set()
        assert await command == [b"OK", b"OK"]
        assert await reloading == []
        assert await life.call("GET", "kv:1") == b"b"
        queue = life.engine.queues["main"]
        assert not [prefix for prefix in queue.backlogs if prefix.retired]
        await life.flush()
    assert store.tables["forebay_kv"].rows["kv:1",]["value"] == b"b"


async def test_transaction_that_does_not_end_keeps_its_rules_in_force() -> None:
    store = shop_store()
    desk = Desk(store)
    desk.before = gate = Gate()
    async with Life(store, (THROUGH, KV), FakeDisk()) as life:
        command = asyncio.create_task(
            life.transaction(["SET", "item:1", "a"], ["SET", "kv:1", "b"], session=life.new_session())
        )
        await eventually(lambda: bool(desk.asked))
        problems = await reload(life.engine, RuleTable([THROUGH]), 0.01)
        assert len(problems) == 1 and "kv:" in problems[0]
        gate.opened.set()
        assert await command == [b"OK", b"OK"]
        assert life.engine.queues["main"].count() == 1


async def test_rule_is_not_changed_while_a_discarded_change_of_it_flies() -> None:
    store = shop_store()
    desk = Desk(store)

    async def refuse(keys: tuple[str, ...]) -> None:
        raise StoreDown("gone")

    desk.after = gate = Gate(refuse)
    async with Life(store, (BEHIND,), FakeDisk()) as life:
        await life.call("SET", "item:1", "old")
        queue = life.engine.queues["main"]
        queue.hurry()
        await eventually(lambda: bool(queue.flying))
        assert await life.call("CACHE.DISCARD", "item:{id:int}") == 1
        assert len(await reload(life.engine, RuleTable([THROUGH]), 0.01)) == 1
        gate.opened.set()
        await changed(life, THROUGH)
