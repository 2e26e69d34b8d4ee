"""The short road of a plain SET under write-behind: it ends where the long one ends, and makes less on its way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest

from persistence.change import NEVER
from persistence.errors import StoreDown, StoreTimeout
from persistence.prefixes import READ_THROUGH, WRITE_BEHIND, WRITE_THROUGH, PrefixRule, RuleTable, Template
from persistence.reload import reload
from persistence.short_write import LONG, PLAIN, THROUGH
from persistence.stores.memory import BEFORE
from protocol.decoder import ReplyError
from protocol.encoder import encode_into
from server.keyspace.entry import Entry
from tests.support.fake_disk import FakeDisk
from tests.support.lives import Life, shop_store
from tests.support.waiting import eventually, finished

DAY_S = 86_400.0


def rule(template: str, **options: Any) -> PrefixRule:
    """Write-behind that flushes when it is told to, with copies that live a day."""
    defaults: dict[str, Any] = {"read": READ_THROUGH, "write": WRITE_BEHIND, "ttl_s": DAY_S, "write_delay_s": DAY_S}
    return PrefixRule(Template(template), store="main", **(defaults | options))


GENERIC = rule("kv:")
COLUMN = rule("item:{id:int}", table="items", value="column", column="body")
JSON = rule("user:{id:int}", table="users", value="json", tags=("n",))
RULES = (GENERIC, COLUMN, JSON)
# A key of each, two values for it, and what is read of the second.
KEYS = [
    (b"kv:1", b"one", b"two", b"two"),
    (b"item:1", b"one", b"two", b"two"),
    (b"user:1", b'{"n": 1}', b'{"n": 2,  "name": "ann"}', b'{"id":1,"name":"ann","n":2}'),
]
BY_RULE = pytest.mark.parametrize(("key", "first", "second", "read"), KEYS, ids=["generic", "column", "json"])


def entry_of(life: Life, key: bytes) -> Entry:
    entry = life.memory.held(key)
    assert entry is not None
    return entry


def state(life: Life, key: bytes) -> tuple[object, ...]:
    """What memory knows of a key but the exact time."""
    entry = entry_of(life, key)
    lease = entry.lease
    assert lease is not None
    prefix = lease.prefix
    term = (lease.until_ms - lease.loaded_ms == lease.ttl_ms, entry.soft_ms == lease.until_ms, lease.stale_until_ms)
    deadline = (entry.deadline_ms == NEVER, entry.deadline_ms == lease.until_ms, term[2] == lease.until_ms)
    queue = life.engine.queue_of(prefix)
    counted = (prefix.keys, prefix.bytes, queue.count(prefix), queue.bytes_of(prefix), prefix.counters.writes)
    return entry.value, entry.weight, lease.dirty_seq > 0, lease.tags, term[:2], deadline, counted


@BY_RULE
@pytest.mark.parametrize(
    "before", [[], ["SET"], ["SET", "EXPIRE"], ["SET", "flush"], ["SET", "DEL"], ["SET", "PERSIST"]]
)
async def test_memory_queue_and_row_are_as_the_long_road_leaves_them(
    key: bytes, first: bytes, second: bytes, read: bytes, before: list[str]
) -> None:
    seen = []
    for is_long in (False, True):
        store = shop_store()
        async with Life(store, RULES, FakeDisk(), "everysec") as life:
            for step in before:
                if step == "flush":
                    await life.flush()
                else:
                    words = {"SET": (first,), "EXPIRE": (10_000_000,)}.get(step, ())
                    await life.call(step, key, *words)
            if is_long:
                assert await life.transaction(("SET", key, second)) == [b"OK"]
            else:
                assert await life.call("SET", key, second) == b"OK"
            left = state(life, key)
            assert left[0] == read == await life.call("GET", key)
            await life.flush()
            life.engine.invalidate(key)
            assert await life.call("GET", key) == read
            seen.append(left)
    assert seen[0] == seen[1]


@BY_RULE
async def test_second_set_keeps_entry_lease_and_place_in_the_queue(
    key: bytes, first: bytes, second: bytes, read: bytes
) -> None:
    async with Life(shop_store(), RULES, FakeDisk(), "no") as life:
        await life.call("SET", key, first)
        entry = entry_of(life, key)
        lease = entry.lease
        assert lease is not None
        loaded_ms, until_ms, seq = lease.loaded_ms, lease.until_ms, lease.dirty_seq
        life.keyspace.tick(loaded_ms + 5000)
        life.dispatch.run_batch(life.session, [[b"SET", key, second]], 0, [])
        assert entry_of(life, key) is entry and entry.lease is lease and entry.value == read
        assert (lease.loaded_ms, lease.until_ms) == (loaded_ms + 5000, until_ms + 5000)
        assert entry.soft_ms == lease.until_ms and lease.dirty_seq == seq + 1
        assert lease.prefix.counters.coalesced == 1
        assert life.engine.queue_of(lease.prefix).count() == 1


@BY_RULE
async def test_after_a_kill_the_newest_of_many_values_is_there(
    key: bytes, first: bytes, second: bytes, read: bytes
) -> None:
    store = shop_store()
    async with Life(store, RULES, FakeDisk()) as life:
        for value in (first, second, first, second):
            await life.call("SET", key, value)
        disk = life.kill()
    async with Life(store, RULES, disk) as life:
        assert life.found.keys == 1
        await life.flush()
        assert await life.call("GET", key) == read


async def test_copy_whose_lifetime_was_shortened_runs_out_at_its_new_time() -> None:
    async with Life(shop_store(), RULES, FakeDisk(), "no") as life:
        await life.call("SET", "item:1", "one")
        await life.call("EXPIRE", "item:1", 10 * int(DAY_S))
        await life.call("SET", "item:1", "two")
        await life.flush()
        entry = entry_of(life, b"item:1")
        assert entry.lease is not None and entry.deadline_ms == entry.lease.until_ms
        assert 0 < entry.life.wheel_s <= entry.deadline_ms // 1000 + 1
        life.memory.now_ms = entry.deadline_ms + 1000
        life.memory.expire_due(10)
        assert life.memory.held(b"item:1") is None


@pytest.mark.parametrize(
    ("key", "value"), [("item:1", b"a\0b"), ("item:1", b"\xff"), ("user:1", b"[]"), ("user:1", b'{"nobody":1}')]
)
async def test_value_that_its_column_cannot_hold_is_refused_and_nothing_is_recorded(key: str, value: bytes) -> None:
    async with Life(shop_store(), RULES, FakeDisk(), "no") as life:
        good = b"{}" if key == "user:1" else b"good"
        await life.call("SET", key, good)
        before = (await life.call("GET", key), life.journal.next_seq, state(life, key.encode()))
        assert isinstance(await life.call("SET", key, value), ReplyError)
        assert before == (await life.call("GET", key), life.journal.next_seq, state(life, key.encode()))


async def test_key_belongs_to_the_rule_with_the_longer_head_whatever_came_before() -> None:
    longer = rule("kv:item:{id:int}", table="items", value="column", column="body")
    async with Life(shop_store(), (GENERIC, longer), FakeDisk(), "no") as life:
        for _ in range(2):
            for key, name in (("kv:a", "kv:"), ("kv:item:1", "kv:item:{id:int}"), ("kv:b", "kv:")):
                await life.call("SET", key, "x")
                lease = entry_of(life, key.encode()).lease
                assert lease is not None and lease.prefix.rule.name == name


async def test_set_follows_the_rules_that_a_reload_has_put_in_force() -> None:
    async with Life(shop_store(), (GENERIC,), FakeDisk(), "no") as life:
        await life.call("SET", "kv:1", "x")
        changed = replace(GENERIC, ttl_s=60.0, ttl_jitter=0.0)
        assert await reload(life.engine, RuleTable([changed]), 1.0) == []
        await life.call("SET", "kv:1", "y")
        lease = entry_of(life, b"kv:1").lease
        assert lease is not None and lease.prefix.rule is changed and lease.ttl_ms == 60_000
        assert await reload(life.engine, RuleTable([]), 1.0) == []
        await life.call("SET", "kv:1", "z")
        assert entry_of(life, b"kv:1").lease is None


async def test_what_is_not_its_business_is_left_untouched() -> None:
    rules = (*RULES, rule("through:", write=WRITE_THROUGH))
    async with Life(shop_store(), rules, FakeDisk(), "no") as life:
        before = life.journal.next_seq
        written: dict[str, int] = {}
        short = life.dispatch._short
        assert short.set(b"plain", b"x", written) == PLAIN
        assert short.set(b"through:1", b"x", written) == THROUGH
        assert short.set(b"item:no-number", b"x", written) == LONG
        locked = await life.engine.locks.acquire({b"other"})
        assert short.set(b"kv:1", b"x", written) == LONG
        life.engine.locks.release(locked)
        assert (written, life.journal.next_seq, len(life.memory)) == ({}, before, 0)


async def test_with_always_a_key_written_twice_within_a_sync_is_served_when_the_second_is_durable() -> None:
    async with Life(shop_store(), RULES, FakeDisk()) as life:
        await life.call("SET", "kv:1", "one")
        await eventually(lambda: not life.journal._busy)
        life.runner.held = True
        run = life.dispatch.run_batch
        run(life.session, [[b"SET", b"kv:1", b"two"]], 0, [])
        life.journal.commit()
        run(life.session, [[b"SET", b"kv:1", b"three"]], 0, [])
        entry = entry_of(life, b"kv:1")
        assert entry.soft_ms == 0
        life.runner.work()
        # The first of the two is durable.
        assert entry.soft_ms == 0 and entry.lease is not None
        assert life.journal.durable_seq == entry.lease.dirty_seq - 1
        life.runner.held = False
        life.runner.work()
        await life.journal.wait_durable(entry.lease.dirty_seq)
        assert entry.soft_ms == entry.lease.until_ms


# -- many at once -----------------------------------------------------------------------------------------------------


async def pipeline(life: Life, commands: list[list[bytes]]) -> bytes:
    """Commands of one read: what is answered."""
    out: list[bytes] = []
    position = 0
    while position < len(commands):
        position = life.dispatch.run_batch(life.session, commands, position, out)
        if life.session.waiting is not None:
            encode_into(out, await finished(life.session), 2)
    return b"".join(out)


# Key and value of each SET: new ones, one that is there twice, ones that a run must leave to the road of single ones.
RUN = [(b"kv:%d" % number, b"value %d" % number) for number in range(8)]
ODD = {
    "alike": RUN,
    "twice": [*RUN, (b"kv:3", b"again"), (b"kv:3", b"and again"), (b"kv:9", b"")],
    "not_ascii": [*RUN[:4], ("kv:\u00e9".encode(), b"v"), *RUN[4:]],
    "not_text": [*RUN[:4], (b"kv:\xff", b"v"), (b"kv:\0", b"v"), *RUN[4:]],
    "plain": [*RUN[:4], (b"other", b"v"), *RUN[4:]],
    "column": [*RUN[:4], (b"item:1", b"v"), *RUN[4:]],
    "large": [*RUN[:4], (b"kv:large", b"v" * 70_000), *RUN[4:]],
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("fsync", ["always", "everysec", ""])
async def test_pipeline_of_sets_leaves_what_single_ones_leave(odd: str, fsync: str) -> None:
    commands = [[b"SET", key, value] for key, value in ODD[odd]]
    names = sorted({key for key, _ in ODD[odd]})
    seen: list[object] = []
    for is_run in (False, True):
        store = shop_store()
        disk = FakeDisk()
        async with Life(store, RULES, disk, fsync or "no") as life:
            if not fsync:
                life.dispatch.journal = None
            # A hash, a key that memory holds and that is saved, one that is unsaved, and a tombstone.
            await life.call("HSET", "kv:1", "a", "1")
            await life.call("SET", "kv:2", "saved")
            await life.flush()
            await life.call("SET", "kv:4", "unsaved")
            await life.call("DEL", "kv:2")
            if is_run:
                replies = await pipeline(life, commands)
            else:
                replies = b"".join([await pipeline(life, [command]) for command in commands])
            held = [key for key in names if life.memory.held(key) is not None]
            states = [state(life, key) for key in held if entry_of(life, key).lease is not None]
            calls = life.session.hold_seq, life.session.written, life.journal.next_seq
            life.session.hold_seq = 0
            await life.journal.wait_durable(life.journal.next_seq - 1)
            disk = life.kill()
        async with Life(store, RULES, disk) as life:
            unsaved = life.found.keys
            await life.flush()
        rows = {name: dict(table.rows) for name, table in store.tables.items()}
        seen.append((replies, held, states, calls, unsaved, rows))
    assert seen[0] == seen[1]


async def test_with_always_a_key_named_twice_in_a_pipeline_is_served_when_its_last_value_is_durable() -> None:
    async with Life(shop_store(), RULES, FakeDisk()) as life:
        for key in ("kv:1", "kv:2"):
            await life.call("SET", key, "old")
        names = (b"kv:1", b"kv:2", b"kv:1", b"kv:3", b"kv:3", b"kv:1")
        life.dispatch.run_batch(life.session, [[b"SET", key, b"new"] for key in names], 0, [])
        entries = [entry_of(life, key) for key in sorted(set(names))]
        assert [entry.soft_ms for entry in entries] == [0, 0, 0]
        await life.journal.wait_durable(life.journal.next_seq - 1)
        for entry in entries:
            assert entry.lease is not None
            assert entry.soft_ms == entry.lease.until_ms


async def test_pipeline_of_sets_while_its_keys_are_being_saved_is_saved_after_them() -> None:
    store = shop_store()
    gate = asyncio.Event()

    async def hold(moment: str, operation: str) -> None:
        if operation == "apply":
            await gate.wait()

    async with Life(store, RULES, FakeDisk(), "everysec") as life:
        for key, _ in RUN:
            await life.call("SET", key, "old")
        queue = life.engine.queues["main"]
        store.fault = hold
        queue.hurry()
        await eventually(lambda: len(queue.flying) == len(RUN))
        replies = await pipeline(life, [[b"SET", key, value] for key, value in RUN])
        assert replies == b"+OK\r\n" * len(RUN)
        assert queue.count() == 2 * len(RUN)
        gate.set()
        await life.flush()
        assert queue.count() == 0
        for key, value in RUN:
            life.engine.invalidate(key)
            assert await life.call("GET", key) == value


async def test_pipeline_of_sets_ends_where_too_much_is_unsaved() -> None:
    rules = (rule("kv:", max_dirty=2000, on_full="reject"),)
    async with Life(shop_store(), rules, FakeDisk(), "everysec") as life:
        await life.call("SET", "kv:first", "v")
        replies = await pipeline(life, [[b"SET", key, value] for key, value in RUN])
        accepted = replies.count(b"+OK")
        assert 0 < accepted < len(RUN)
        assert replies.startswith(b"+OK\r\n" * accepted + b"-BUSY")
        assert life.engine.queues["main"].count() == accepted + 1


async def test_pipeline_of_sets_is_refused_while_the_journal_is() -> None:
    async with Life(shop_store(), RULES, FakeDisk(), "everysec") as life:
        await life.call("SET", "kv:first", "v")
        life.journal.refusing = "the journal is full"
        replies = await pipeline(life, [[b"SET", key, value] for key, value in RUN])
        assert replies.count(b"-MISCONF ") == replies.count(b"the journal is full\r\n") == len(RUN)
        assert life.engine.queues["main"].count() == 1


async def ill_at_random(random: Random, moment: str, operation: str) -> None:
    """Every fourth transaction is not begun, every fourth has no answer."""
    if operation == "apply" and random.random() < 0.25:
        raise StoreDown("away") if moment == BEFORE else StoreTimeout("late")


@pytest.mark.parametrize("seed", range(8))
async def test_texts_that_the_ledger_was_not_told_of_hold_their_segment_and_come_back_after_a_kill(seed: int) -> None:
    random = Random(seed)
    store = shop_store()
    store.fault = partial(ill_at_random, random)
    expected: dict[bytes, bytes | None] = {}
    async with Life(store, (GENERIC,), FakeDisk(), "everysec", segment_bytes=2048) as life:
        queue = life.engine.queues["main"]
        way = life.engine.prefixes["kv:"]
        for turn in range(150 + random.randrange(100)):
            sets = [[b"SET", b"kv:%d" % random.randrange(24), b"%d" % turn * 9] for _ in range(random.randrange(1, 8))]
            await pipeline(life, sets)
            expected |= {key: value for _, key, value in sets}
            odd = random.choice((b"SET", b"DEL", b"PERSIST"))
            key = b"kv:%d" % random.randrange(24)
            await life.call(odd, key, *([b"alone"] if odd == b"SET" else []))
            if odd != b"PERSIST":
                expected[key] = b"alone" if odd == b"SET" else None
            if random.random() < 0.3:
                queue.hurry()
            await asyncio.sleep(0)
            oldest = life.journal._writer.segments[0].first
            for key, waiting in [item for shard in queue.backlog_of(way).pendings.shards for item in shard.items()]:
                assert oldest <= waiting.seq and 0 < life.journal._ledger.needed_from("kv:", key) <= waiting.seq
        assert len(life.journal._writer.segments) > 1 and way.counters.coalesced > 100
        await life.journal.wait_durable(life.journal.next_seq - 1)
        disk = life.kill()
    store.fault = None
    async with Life(store, (GENERIC,), disk) as life:
        await life.flush()
        for key, value in expected.items():
            life.engine.invalidate(key)
            assert await life.call("GET", key) == value


@pytest.mark.parametrize("at_once", [1, 8])
async def test_unsaved_key_that_is_overwritten_again_and_again_holds_no_old_segment(at_once: int) -> None:
    async with Life(shop_store(), (GENERIC,), FakeDisk(), "everysec", segment_bytes=2048) as life:
        for _ in range(60):
            await pipeline(life, [[b"SET", b"kv:1", b"v" * 200]] * at_once)
            await asyncio.sleep(0)
        await life.journal.wait_synced(life.journal.next_seq - 1)
        await eventually(lambda: len(life.journal._writer.segments) <= 2)
        assert life.journal._writer.segments[0].number > 3
