"""Before it is durable nobody may see it: whose replies wait for the journal, on a disk that is slow or breaks."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import pytest

from persistence.prefixes import READ_THROUGH, WRITE_BEHIND, PrefixRule, Template
from protocol.decoder import ReplyError
from tests.support.fake_disk import FakeDisk
from tests.support.lives import Cut, Life, shop_store
from tests.support.waiting import eventually

NEVER_S = 3600.0
RULES = (
    PrefixRule(Template("kv:"), store="main", read=READ_THROUGH, write=WRITE_BEHIND, write_delay_s=NEVER_S),
    PrefixRule(
        Template("cart:{id:int}"),
        store="main",
        read=READ_THROUGH,
        write=WRITE_BEHIND,
        write_delay_s=NEVER_S,
        table="carts",
        value="set",
        column="item",
    ),
)

WRITES: list[tuple[str | int, ...]] = [
    ("SET", "kv:new", "1"),
    ("SET", "kv:old", "2"),
    ("INCR", "kv:old"),
    ("DEL", "kv:old"),
    ("EXPIRE", "kv:old", 1000),
    ("MSET", "kv:old", "2", "kv:new", "1"),
    ("SADD", "cart:1", "apple"),
    ("RENAME", "kv:old", "kv:new"),
]
READS: list[tuple[str | int, ...]] = [
    ("GET", "kv:old"),
    ("MGET", "kv:old", "plain"),
    ("EXISTS", "kv:old"),
    ("TTL", "kv:old"),
    ("TYPE", "kv:old"),
    ("STRLEN", "kv:old"),
    ("OBJECT", "ENCODING", "kv:old"),
    ("KEYS", "*"),
    ("SCAN", 0),
    ("DBSIZE",),
    ("RANDOMKEY",),
    ("SETNX", "kv:old", "3"),
]


async def is_held(task: asyncio.Task[Any]) -> bool:
    """Is a command still waiting when nothing else is left to do on the loop?"""
    for _ in range(50):
        await asyncio.sleep(0)
    return not task.done()


async def prepared(life: Life) -> None:
    await life.call("SET", "kv:old", "1")
    await life.call("SET", "plain", "x")
    await life.call("SMEMBERS", "cart:1")
    await life.flush()
    await eventually(lambda: not life.journal._busy)


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_is_answered_when_it_is_synced_and_not_before(write: tuple[str | int, ...]) -> None:
    async with Life(shop_store(), RULES, FakeDisk()) as life:
        await prepared(life)
        life.runner.held = True
        writing = asyncio.create_task(life.call(*write))
        assert await is_held(writing)
        life.runner.held = False
        life.runner.work()
        assert not isinstance(await writing, ReplyError)


@pytest.mark.parametrize("read", READS)
async def test_a_read_of_what_is_not_synced_waits_for_the_sync(read: tuple[str | int, ...]) -> None:
    async with Life(shop_store(), RULES, FakeDisk()) as life:
        await prepared(life)
        life.runner.held = True
        writing = asyncio.create_task(life.call("SET", "kv:old", "2"))
        await is_held(writing)
        reading = asyncio.create_task(life.call(*read, session=life.new_session()))
        bystander = asyncio.create_task(life.call("GET", "plain", session=life.new_session()))
        assert await is_held(reading)
        assert bystander.done(), "who asks for something else has nothing to wait for"
        life.runner.held = False
        life.runner.work()
        await writing
        assert not isinstance(await reading, ReplyError)
        # The next one finds it durable.
        life.runner.held = True
        again = asyncio.create_task(life.call("GET", "kv:old", session=life.new_session()))
        assert not await is_held(again)


@pytest.mark.parametrize("read", [("GET", "kv:old"), ("EXISTS", "kv:old"), ("KEYS", "*")])
async def test_a_transaction_that_reads_what_is_not_synced_waits_for_the_sync(read: tuple[str, ...]) -> None:
    async with Life(shop_store(), RULES, FakeDisk()) as life:
        await prepared(life)
        life.runner.held = True
        writing = asyncio.create_task(life.call("SET", "kv:old", "2"))
        await is_held(writing)
        reading = asyncio.create_task(life.transaction(read, ("GET", "plain"), session=life.new_session()))
        assert await is_held(reading)
        life.runner.held = False
        life.runner.work()
        await writing
        assert (await reading)[1] == b"x"


async def test_the_absence_of_a_key_whose_delete_is_not_synced_waits_for_the_sync() -> None:
    async with Life(shop_store(), RULES, FakeDisk()) as life:
        await prepared(life)
        life.runner.held = True
        writing = asyncio.create_task(life.call("DEL", "kv:old"))
        await is_held(writing)
        reading = asyncio.create_task(life.call("GET", "kv:old", session=life.new_session()))
        assert await is_held(reading)
        life.runner.held = False
        life.runner.work()
        assert (await writing, await reading) == (1, None)


@pytest.mark.parametrize("fsync", ["everysec", "no"])
async def test_without_a_sync_per_write_a_reply_leaves_when_its_change_is_written(fsync: str) -> None:
    """It left before: a kill between the reply and the end of the tick lost an acknowledged write."""
    disk = FakeDisk()
    async with Life(shop_store(), RULES, disk, fsync) as life:
        await prepared(life)
        session = life.session
        life.dispatch.run_batch(session, [[b"SET", b"kv:old", b"2"]], 0, [])
        assert session.hold_seq == life.journal.next_seq - 1 > life.journal.durable_seq
        session.hold_seq = 0
        # While the thread syncs, it is written all the same.
        life.runner.held = True
        life.journal.when_synced(life.journal.next_seq - 1, lambda error: None)
        await asyncio.sleep(0)
        assert await life.call("SET", "kv:old", "3") == b"OK"
        assert life.journal.synced_seq < life.journal.durable_seq
        found = life.kill()
    async with Life(shop_store(), RULES, found, fsync) as second:
        assert await second.call("GET", "kv:old") == b"3"


@pytest.mark.parametrize("words", [("CACHE.DISCARD", "kv:"), ("CACHE.DLQ", "RETRY", "ALL")])
async def test_what_an_operator_decides_is_answered_when_it_is_synced(words: tuple[str, ...]) -> None:
    store = shop_store()
    rules = (PrefixRule(Template("kv:"), store="main", write=WRITE_BEHIND, write_delay_s=NEVER_S, retry_limit=1),)
    async with Life(store, rules, FakeDisk()) as life:
        await life.call("SET", "kv:a", "1")
        store.tables["forebay_kv"].check = lambda row: False
        await life.flush()
        await life.call("SET", "kv:b", "1")
        await eventually(lambda: not life.journal._busy)
        life.runner.held = True
        deciding = asyncio.create_task(life.call(*words))
        assert await is_held(deciding)
        life.runner.held = False
        life.runner.work()
        assert await deciding == 1


# -- a disk that breaks -----------------------------------------------------------------------------------------------


def break_syncs(disk: FakeDisk) -> None:
    def refuse(operation: str, path: str) -> None:
        if operation == "sync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk.before = refuse


async def test_after_a_failed_sync_nothing_is_acknowledged_any_more() -> None:
    store = shop_store()
    disk = FakeDisk()
    async with Life(store, RULES, disk) as life:
        await prepared(life)
        assert await life.call("SET", "kv:safe", "1") == b"OK"
        break_syncs(disk)
        life.runner.held = True
        writing = asyncio.create_task(life.call("SET", "kv:old", "2"))
        await is_held(writing)
        reading = asyncio.create_task(life.call("GET", "kv:old", session=life.new_session()))
        scanning = asyncio.create_task(life.call("KEYS", "*", session=life.new_session()))
        await is_held(reading)
        life.runner.held = False
        life.runner.work()
        # Who was told nothing is cut: neither "OK" nor an error would be true.
        for task in (writing, reading, scanning):
            with pytest.raises(Cut):
                await task
        disk.before = None
        for words in (("SET", "kv:a", "1"), ("INCR", "kv:old"), ("DEL", "kv:safe"), ("MSET", "kv:a", "1", "kv:b", "2")):
            try:
                reply = await life.call(*words)
            except Cut:
                continue
            assert isinstance(reply, ReplyError) and str(reply).startswith("MISCONF"), (words, reply)
        with pytest.raises(Cut):
            await life.call("GET", "kv:old", session=life.new_session())
        # What is safe is served, and so is what has no journal.
        assert await life.call("GET", "kv:safe") == b"1"
        assert await life.call("SET", "plain", "y") == b"OK"
        # Nothing is saved either: how would the journal know?
        rows = dict(store.tables["forebay_kv"].rows)
        flushed = await life.call("CACHE.FLUSH", "TIMEOUT", 50)
        assert flushed[1] > 0
        assert store.tables["forebay_kv"].rows == rows
        found = life.kill()
    async with Life(store, RULES, found) as second:
        assert await second.call("GET", "kv:safe") == b"1"
        assert await second.call("GET", "kv:old") in (b"1", b"2")
        await second.flush()


async def test_a_journal_that_fails_during_a_flush_leaves_its_outcome_to_the_next_start() -> None:
    store = shop_store()
    disk = FakeDisk()
    async with Life(store, RULES, disk) as life:
        await prepared(life)
        await life.call("SET", "kv:a", "1")
        break_syncs(disk)
        flushed = await life.call("CACHE.FLUSH", "TIMEOUT", 100)
        assert flushed[1] == 1
        assert ("kv:a",) not in store.tables["forebay_kv"].rows, "it was not announced, so it must not be sent"
        found = life.kill()
    async with Life(store, RULES, found) as second:
        await second.flush()
    assert store.tables["forebay_kv"].rows["kv:a",]["value"] == b"1"
