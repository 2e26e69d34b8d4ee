"""Key locks: first come, first served; nothing left behind by who gives up."""

from __future__ import annotations

import asyncio

import pytest

from persistence.locks import KeyLocks


async def test_free_locks_are_taken_without_suspending() -> None:
    locks = KeyLocks()
    acquiring = locks.acquire([b"b", b"a", b"b"])
    with pytest.raises(StopIteration) as done:
        acquiring.send(None)
    assert done.value.value == [b"a", b"b"]
    assert not locks.are_free([b"a"])
    assert locks.are_free([b"c"])
    locks.release([b"a", b"b"])
    assert locks.held == {}


async def test_waiters_are_served_in_order_of_arrival() -> None:
    locks = KeyLocks()
    order: list[int] = []

    async def worker(number: int) -> None:
        held = await locks.acquire([b"k"])
        order.append(number)
        await asyncio.sleep(0)
        locks.release(held)

    await asyncio.gather(*(worker(number) for number in range(20)))
    assert order == list(range(20))
    assert locks.held == {}


async def test_overlapping_sets_of_keys_do_not_deadlock() -> None:
    locks = KeyLocks()
    inside: set[bytes] = set()

    async def worker(keys: list[bytes]) -> None:
        for _ in range(10):
            held = await locks.acquire(keys)
            assert not inside.intersection(held)
            inside.update(held)
            await asyncio.sleep(0)
            inside.difference_update(held)
            locks.release(held)

    async with asyncio.timeout(10):
        await asyncio.gather(worker([b"a", b"b"]), worker([b"b", b"c"]), worker([b"c", b"a"]), worker([b"b"]))
    assert locks.held == {}


async def test_who_gives_up_waiting_leaves_nothing_locked() -> None:
    locks = KeyLocks()
    held = await locks.acquire([b"b"])
    waiting = asyncio.create_task(locks.acquire([b"a", b"b"]))
    await asyncio.sleep(0)
    assert not locks.are_free([b"a"])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert locks.are_free([b"a"])
    locks.release(held)
    assert locks.held == {}


async def test_lock_handed_to_somebody_who_is_cancelled_in_the_same_moment_goes_on() -> None:
    locks = KeyLocks()
    held = await locks.acquire([b"k"])
    first = asyncio.create_task(locks.acquire([b"k"]))
    second = asyncio.create_task(locks.acquire([b"k"]))
    await asyncio.sleep(0)
    locks.release(held)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == [b"k"]


async def test_wait_idle_returns_when_nothing_is_locked() -> None:
    locks = KeyLocks()
    held = await locks.acquire([b"a"])
    idle = asyncio.create_task(locks.wait_idle())
    await asyncio.sleep(0)
    assert not idle.done()
    locks.release(held)
    async with asyncio.timeout(5):
        await idle
