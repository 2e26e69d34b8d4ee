"""The journal's thread: jobs in order, what became of them on the loop, and an end that waits for nobody's answer."""

from __future__ import annotations

import asyncio
import threading

from persistence.journal_thread import JournalThread


async def test_jobs_run_in_order_in_one_thread_and_their_ends_are_told_on_the_loop() -> None:
    thread = JournalThread()
    ran: list[tuple[int, int]] = []
    told: list[tuple[int, int, Exception | None]] = []
    last: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    broken = OSError(5, "Input/output error")

    def job(number: int) -> None:
        ran.append((number, threading.get_ident()))
        if number == 1:
            raise broken

    def done(number: int, error: Exception | None) -> None:
        told.append((number, threading.get_ident(), error))
        if number == 2:
            last.set_result(None)

    for number in range(3):
        thread.run(lambda number=number: job(number), lambda error, number=number: done(number, error))  # type: ignore[misc]
    await last
    here = threading.get_ident()
    assert [number for number, _ in ran] == [0, 1, 2]
    assert len({ident for _, ident in ran} | {here}) == 2
    assert told == [(0, here, None), (1, here, broken), (2, here, None)]
    thread.close()


async def test_join_returns_when_the_job_that_runs_is_done() -> None:
    thread = JournalThread()
    may_end = threading.Event()
    done = threading.Event()

    def job() -> None:
        may_end.wait()
        done.set()

    thread.run(job, lambda error: None)
    joining = asyncio.get_running_loop().run_in_executor(None, thread.join)
    assert not done.is_set() and not joining.done()
    may_end.set()
    await joining
    assert done.is_set()


def test_job_that_ends_when_the_loop_is_closed_is_told_to_nobody() -> None:
    may_end = threading.Event()

    async def begin() -> JournalThread:
        thread = JournalThread()
        thread.run(lambda: (may_end.wait(), None)[1], lambda error: None)
        return thread

    thread = asyncio.run(begin())
    may_end.set()
    thread.join()
