"""JournalThread: the journal's Runner in a server: the event loop, and one thread for what blocks.

A sync is asked for and told of hundreds of times a second while clients write with `fsync = "always"`, so both ways are
as short as they can be: a queue in C to the thread, one callback from it. (An executor makes two futures for each job,
with a lock and a list of callbacks each: four times the processor time of the loop, in every group of writes.)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

_Job = tuple[Callable[[], None], Callable[[Exception | None], None]]


class JournalThread:
    """One loop, one thread. Made while the loop runs."""

    __slots__ = ("_jobs", "_loop", "_thread")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # None: the thread is to end.
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # A disk that hangs must not keep the process from ending: whoever wants to wait for the last job joins.
        self._thread = threading.Thread(target=_work, args=(self._jobs, self._loop), name="journal", daemon=True)
        self._thread.start()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back at the end of this loop tick."""
        self._loop.call_soon(callback)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back after that long."""
        self._loop.call_later(seconds, callback)

    def run(self, job: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Run a job in the thread, then call `done` on the loop with its exception."""
        self._jobs.put((job, done))

    def close(self) -> None:
        """Let the thread end when its job is done."""
        self._jobs.put(None)

    def join(self) -> None:
        """Wait for the job that runs, blocking; nothing is told of it any more."""
        self.close()
        self._thread.join()


def _work(jobs: SimpleQueue[_Job | None], loop: asyncio.AbstractEventLoop) -> None:
    while (order := jobs.get()) is not None:
        job, done = order
        error: Exception | None = None
        try:
            job()
        except Exception as raised:  # noqa: BLE001 - whatever it is, the journal must hear of it on the loop
            error = raised
        try:
            loop.call_soon_threadsafe(done, error)
        except RuntimeError:
            # The loop is closed: nobody is left who could be told.
            return
