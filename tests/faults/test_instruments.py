"""The instruments of the fault tests notice what they are there for, and only that."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.watchdog import LIMIT_S, LoopWatch, crowd
from tests.faults.workload import NOTES, PAGES, Client, Oracle
from tests.simulation.check import UNKNOWN, Violation, Words


def too_long_s() -> float:
    """Above the limit of a machine that others use, too; which is another one from minute to minute."""
    return 2.5 * LIMIT_S * crowd()


async def test_watch_notices_a_call_that_blocks() -> None:
    async with LoopWatch() as watch:
        await asyncio.sleep(0.02)
        time.sleep(too_long_s())  # noqa: ASYNC251
        await asyncio.sleep(0.02)
    with pytest.raises(AssertionError, match="test_watch_notices_a_call_that_blocks"):
        watch.check()


async def test_watch_notices_computing() -> None:
    async with LoopWatch() as watch:
        await asyncio.sleep(0.02)
        limit_s = too_long_s()
        began = time.thread_time()
        while time.thread_time() - began < limit_s:
            pass
        await asyncio.sleep(0.02)
    with pytest.raises(AssertionError, match="was blocked"):
        watch.check()


async def test_watch_says_nothing_of_a_loop_that_waits_as_it_should() -> None:
    async with LoopWatch() as watch:
        await asyncio.gather(*[asyncio.sleep(0.3) for _ in range(10)])
        await asyncio.to_thread(time.sleep, 0.3)
    watch.check()


async def test_watch_says_nothing_of_a_loop_that_is_busy_with_many_small_things() -> None:
    async def busy() -> None:
        for _ in range(8):
            began = time.thread_time()
            while time.thread_time() - began < 0.004:
                pass
            await asyncio.sleep(0)

    async with LoopWatch() as watch:
        # A turn of a hundred milliseconds, and no callback of more than four.
        await asyncio.gather(*[busy() for _ in range(25)])
    watch.check()


class ScriptedClient(Client):
    """A client whose server says what it is told to say."""

    def __init__(self, *replies: object) -> None:
        self.replies = list(replies)

    async def call(self, *words: bytes | str | int) -> object:
        return self.replies.pop(0)


GET: list[Words] = [(b"GET", b"page:1")]
SET: list[Words] = [(b"SET", b"page:1", b"2")]
INCR: list[Words] = [(b"INCR", b"page:1")]


async def told(replies: list[object], *commands: list[Words]) -> Oracle:
    """An oracle after these commands had these replies, one after the other, and everything is healed."""
    oracle = Oracle({b"page:1": b"1", b"note:1": b"1"})
    client = ScriptedClient(*replies)
    for words in commands:
        await oracle.run(client, 1, PAGES, words)
    oracle.heal()
    return oracle


async def test_oracle_accepts_what_is_right() -> None:
    (await told([b"1", b"OK", b"2", 3, b"3"], GET, SET, GET, INCR, GET)).check()


@pytest.mark.parametrize(
    ("replies", "commands"),
    [
        ([b"7"], [GET]),  # a value that nobody wrote
        ([None], [GET]),  # a row that was there
        ([b"OK", b"1"], [SET, GET]),  # older than what was acknowledged
        ([2, 2], [INCR, INCR]),  # one of two increments is lost
        ([2, b"3"], [INCR, GET]),  # counted twice
    ],
)
async def test_oracle_notices_what_is_wrong(replies: list[object], commands: list[list[Words]]) -> None:
    oracle = await told(replies, *commands)
    with pytest.raises(Violation):
        oracle.check()


async def test_oracle_notices_an_acknowledged_write_that_the_database_lacks() -> None:
    oracle = await told([b"OK"], SET)
    oracle.add_row(PAGES, b"page:1", b"1")
    with pytest.raises(Violation, match="in the database"):
        oracle.check()


async def test_oracle_allows_an_unknown_write_to_show_or_not_but_only_once() -> None:
    for seen, right in ((b"1", True), (b"2", True), (b"3", False)):
        oracle = await told([], *[])
        history = oracle.histories[False]
        await oracle.run(ScriptedClient(2), 1, PAGES, INCR)
        history.operations[-1].status = UNKNOWN
        await oracle.run(ScriptedClient(seen), 2, PAGES, GET)
        oracle.heal()
        if right:
            oracle.check()
        else:
            with pytest.raises(Violation):
                oracle.check()
    assert oracle.operations(behind=True) == [] and not NOTES.hash
