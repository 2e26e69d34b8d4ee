"""Flusher: the next flush is made while the store has one, and nothing that holds for one flush is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from persistence.change import DELETE, NEVER, STRING, Change
from persistence.dead_letters import KEPT, DeadLetter, DeadLetters
from persistence.due import FLUSH_BYTES, STATEMENTS
from persistence.errors import RowRejected, StoreTimeout
from persistence.mapping import RowOp
from persistence.prefixes import READ_THROUGH, WRITE_BEHIND, PrefixRule, Template
from persistence.stores.base import Applied, Stamp
from persistence.stores.memory import MemoryStore
from persistence.write_behind import WriteBehind
from tests.support.fake_disk import FakeDisk
from tests.support.journals import StillClock
from tests.support.lives import Life, shop_store
from tests.support.waiting import eventually

# One row a statement: a flush carries as many keys as it may have statements.
KV = PrefixRule(
    Template("kv:"),
    store="main",
    read=READ_THROUGH,
    write=WRITE_BEHIND,
    write_delay_s=3600.0,
    write_batch=1,
    retry_limit=1,
)
FIRST = tuple(f"kv:{number}" for number in range(STATEMENTS))
SECOND = tuple(f"kv:{number}" for number in range(STATEMENTS, 2 * STATEMENTS))

Hook = Callable[[tuple[str, ...]], Awaitable[None]]


class Desk:
    """What a store is asked, in order: the keys of each `apply`, and "claim". Hooks run before and after `apply`."""

    def __init__(self, store: MemoryStore) -> None:
        self.asked: list[Any] = []
        self.before: Hook | None = None
        self.after: Hook | None = None
        self._apply, self._claim = store.apply, store.claim
        store.apply = self.apply  # type: ignore[method-assign]
        store.claim = self.claim  # type: ignore[method-assign]

    async def apply(self, ops: Sequence[RowOp], want_rows: bool, stamp: Stamp | None = None) -> list[Applied]:
        keys = tuple(str(op.key[0]) for op in ops)
        self.asked.append(keys)
        if self.before is not None:
            await self.before(keys)
        results = await self._apply(ops, want_rows, stamp)
        if self.after is not None:
            await self.after(keys)
        return results

    async def claim(self, stamp: Stamp) -> bool:
        self.asked.append("claim")
        return await self._claim(stamp)


class Gate:
    """A hook that lets nobody pass before it is opened; then it does what it was told to."""

    def __init__(self, then: Hook | None = None) -> None:
        self.opened = asyncio.Event()
        self._then = then

    async def __call__(self, keys: tuple[str, ...]) -> None:
        await self.opened.wait()
        if self._then is not None:
            await self._then(keys)


async def write(life: Life, keys: Sequence[str]) -> WriteBehind:
    """Write these keys and let them be flushed."""
    for key in keys:
        assert await life.call("SET", key, f"value of {key}") == b"OK"
    queue = life.engine.queues["main"]
    queue.hurry()
    return queue


def saved(store: MemoryStore) -> dict[str, bytes]:
    return {str(key): row["value"] for (key,), row in store.tables["forebay_kv"].rows.items()}


def expected(*keys: str) -> dict[str, bytes]:
    return {key: f"value of {key}".encode() for key in keys}


async def test_the_next_flush_is_made_while_the_store_has_one_and_sent_when_that_is_over() -> None:
    store = shop_store()
    desk = Desk(store)
    desk.before = gate = Gate()
    async with Life(store, (KV,), FakeDisk()) as life:
        queue = await write(life, FIRST + SECOND)
        await eventually(lambda: len(queue.flying) == len(FIRST + SECOND))
        assert desk.asked == [FIRST]
        gate.opened.set()
        await eventually(lambda: not queue.count())
        assert desk.asked == [FIRST, SECOND]
        assert life.journal.stats().undecided_batches == 0
    assert saved(store) == expected(*FIRST, *SECOND)


@pytest.mark.parametrize("committed", [False, True])
async def test_a_kill_with_one_flush_sent_and_one_announced_loses_and_repeats_nothing(committed: bool) -> None:
    store = shop_store()
    desk = Desk(store)
    gate = Gate()
    if committed:
        desk.after = gate
    else:
        desk.before = gate
    async with Life(store, (KV,), FakeDisk()) as first:
        queue = await write(first, FIRST + SECOND)
        await eventually(lambda: first.journal.stats().undecided_batches == 2)
        await eventually(lambda: len(saved(store)) == len(FIRST) * committed)
        assert len(queue.flying) == len(FIRST + SECOND)
        disk = first.kill()
    desk.before = desk.after = None
    desk.asked.clear()
    async with Life(store, (KV,), disk) as second:
        assert (second.found.keys, second.found.undecided_batches) == (len(FIRST + SECOND), 2)
        await second.flush()
        assert desk.asked[:2] == ["claim", "claim"]
        sent = [key for keys in desk.asked[2:] for key in keys]
        assert sorted(sent) == sorted(SECOND if committed else FIRST + SECOND)
    assert saved(store) == expected(*FIRST, *SECOND)


async def test_a_flush_that_was_announced_is_not_sent_when_the_one_before_it_has_no_answer() -> None:
    store = shop_store()
    desk = Desk(store)

    async def lose_the_answer(keys: tuple[str, ...]) -> None:
        desk.after = None
        raise StoreTimeout("no answer in time")

    desk.after = gate = Gate(lose_the_answer)
    async with Life(store, (KV,), FakeDisk()) as life:
        queue = await write(life, FIRST + SECOND)
        await eventually(lambda: life.journal.stats().undecided_batches == 2)
        gate.opened.set()
        await eventually(lambda: not queue.count())
        # What became of the first is known before anything else is sent, and it is not sent again.
        assert desk.asked == [FIRST, "claim", SECOND]
        assert life.journal.stats().undecided_batches == 0
    assert saved(store) == expected(*FIRST, *SECOND)


async def test_a_refused_flush_is_divided_before_the_next_is_sent() -> None:
    store = shop_store()
    desk = Desk(store)
    bad = FIRST[1]

    async def refuse(keys: tuple[str, ...]) -> None:
        if bad in keys:
            raise RowRejected("23514", "not this one")

    desk.before = gate = Gate(refuse)
    async with Life(store, (KV,), FakeDisk()) as life:
        queue = await write(life, FIRST + SECOND)
        await eventually(lambda: len(queue.flying) == len(FIRST + SECOND))
        gate.opened.set()
        await eventually(lambda: not queue.count())
        assert [keys for keys in desk.asked if keys == SECOND] == [SECOND]
        assert desk.asked.index(SECOND) == len(desk.asked) - 1
        assert [letter.key for letter in queue.dead.values()] == [bad.encode()]
    assert saved(store) == expected(*FIRST[:1], *FIRST[2:], *SECOND)


async def test_a_change_that_comes_while_its_key_is_in_the_next_flush_is_saved_after_it() -> None:
    store = shop_store()
    desk = Desk(store)
    desk.before = gate = Gate()
    async with Life(store, (KV,), FakeDisk()) as life:
        queue = await write(life, FIRST + SECOND)
        await eventually(lambda: len(queue.flying) == len(FIRST + SECOND))
        await life.call("SET", SECOND[0], "newer")
        gate.opened.set()
        queue.hurry()
        await eventually(lambda: not queue.count())
        assert desk.asked == [FIRST, SECOND, SECOND[:1]]
    assert saved(store) == {**expected(*FIRST, *SECOND), SECOND[0]: b"newer"}


async def test_what_is_given_up_before_it_is_sent_is_not_sent() -> None:
    store = shop_store()
    desk = Desk(store)
    desk.before = gate = Gate()
    async with Life(store, (KV,), FakeDisk()) as life:
        queue = await write(life, FIRST + SECOND)
        await eventually(lambda: len(queue.flying) == len(FIRST + SECOND))
        assert await life.call("CACHE.DISCARD", "kv:") == len(FIRST + SECOND)
        gate.opened.set()
        await eventually(lambda: not queue.flying)
        assert desk.asked == [FIRST]
        await eventually(lambda: life.journal.stats().undecided_batches == 0)
        assert (queue.count(), queue.given_up, queue.stats().bytes) == (0, 0, 0)


async def test_a_flush_takes_no_more_of_several_rules_than_of_one_and_the_oldest_of_all() -> None:
    other = replace(KV, template=Template("other:"))
    store = shop_store()
    desk = Desk(store)
    written = [f"{'kv' if number % 3 else 'other'}:{number}" for number in range(3 * STATEMENTS)]
    async with Life(store, (KV, other), FakeDisk()) as life:
        queue = await write(life, written)
        await eventually(lambda: not queue.count())
    assert [keys for keys in desk.asked if len(keys) > STATEMENTS] == []
    assert [key for keys in desk.asked for key in keys] == written
    assert saved(store) == expected(*written)


def fill(letters: DeadLetters) -> None:
    """Leave no room among them."""
    for number in range(1, KEPT + 1):
        letter = DeadLetter(
            "kv:", b"kv:of old", 0, "23514", "", 1, 0, Change(b"", DELETE, STRING, None, None, NEVER, None)
        )
        letter.id = -number
        letters.add(letter)


async def test_hurrying_does_not_ask_again_and_again_for_a_row_that_finds_no_room_among_the_dead_letters() -> None:
    store = shop_store()
    desk = Desk(store)

    async def refuse(keys: tuple[str, ...]) -> None:
        raise RowRejected("23514", "not this one")

    desk.before = refuse
    # (Its clock stands still: nothing is due by itself.)
    async with Life(store, (KV,), FakeDisk(), clock=StillClock()) as life:
        fill(life.engine.queues["main"].dead)
        queue = await write(life, FIRST[:1])
        await eventually(lambda: bool(queue.suspects))
        asked = len(desk.asked)
        for _ in range(100):
            queue.hurry()
            await asyncio.sleep(0)
        assert (len(desk.asked), asked) == (1, 1)
        assert queue.count() == 1


async def test_a_queue_that_closes_sends_nothing_of_what_was_announced() -> None:
    store = shop_store()
    desk = Desk(store)
    desk.before = Gate()
    async with Life(store, (KV,), FakeDisk()) as life:
        queue = await write(life, FIRST + SECOND)
        await eventually(lambda: len(queue.flying) == len(FIRST + SECOND))
        assert await queue.close(0.01) == len(FIRST + SECOND)
        assert desk.asked == [FIRST]
        # What was sent flies on: nobody knows. The rest is back in its line.
        assert sorted(queue.flying) == [key.encode() for key in FIRST]
    assert saved(store) == {}


async def test_flush_of_large_values_carries_few_and_one_of_a_value_that_is_larger_than_all_may_be() -> None:
    many = replace(KV, write_batch=1000, max_dirty=1 << 30)
    store = shop_store()
    desk = Desk(store)
    large = b"x" * (FLUSH_BYTES * 2 // 5)
    async with Life(store, (many,), FakeDisk(), segment_bytes=64 << 20, quota_bytes=1 << 30) as life:
        queue = life.engine.queues["main"]
        for number, value in enumerate((large, large, large, b"small", large * 3, b"small")):
            assert await life.call("SET", f"kv:{number}", value) == b"OK"
        queue.hurry()
        await eventually(lambda: not queue.count())
        assert (queue.stats().bytes, queue.flying) == (0, {})
    assert [len(keys) for keys in desk.asked] == [2, 2, 1, 1]
    assert [key for keys in desk.asked for key in keys] == [f"kv:{number}" for number in range(6)]
