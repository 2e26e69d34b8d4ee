"""JournalThread: the journal's Runner in a server: the event loop, and one thread for what blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class JournalThread:
    """One loop, one thread. Made while the loop runs."""

    __slots__ = ("_executor", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, "journal")

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back at the end of this loop tick."""
        self._loop.call_soon(callback)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back after that long."""
        self._loop.call_later(seconds, callback)

    def run(self, job: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Run a job in the thread, then call `done` on the loop with its exception."""
        self._loop.run_in_executor(self._executor, _attempt, job).add_done_callback(_Answer(done).come)

    def close(self) -> None:
        """Let the thread end when its job is done."""
        self._executor.shutdown(wait=False)

    def join(self) -> None:
        """Wait for the job that runs, blocking; nothing is told of it any more."""
        self._executor.shutdown(wait=True)


def _attempt(job: Callable[[], None]) -> Exception | None:
    try:
        job()
    except Exception as error:  # noqa: BLE001 - whatever it is, the journal must hear of it on the loop
        return error
    return None


class _Answer:
    """Carries a job's exception back to the loop."""

    __slots__ = ("_done",)

    def __init__(self, done: Callable[[Exception | None], None]) -> None:
        self._done = done

    def come(self, future: asyncio.Future[Exception | None]) -> None:
        """The thread has finished."""
        if not future.cancelled():
            self._done(future.result())
