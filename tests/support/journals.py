"""For tests of the journal: a Runner that runs when it is told to, a clock that is moved, changes in one line."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from persistence.change import DELETE, EXPIRY, HASH, NEVER, SET, STRING, WRITE, ZSET, Change
from persistence.disk import Disk
from persistence.journal import Journal
from persistence.journal_options import JournalOptions
from persistence.journal_recovery import Recovery, open_journal

DIRECTORY = "/journal"


class StillClock:
    """A Clock that is moved by hand; the wall clock is ahead of the server's by a fixed offset."""

    def __init__(self) -> None:
        self.ms = 1_000_000
        self.offset_ms = 500

    def now_ms(self) -> int:
        return self.ms

    def wall_offset_ms(self) -> int:
        return self.offset_ms

    async def sleep(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


class Jobs:
    """Jobs that wait, as a thread would have them; `held`: until they are told to go."""

    def __init__(self) -> None:
        self.held = False
        self.jobs: list[tuple[Callable[[], None], Callable[[Exception | None], None]]] = []

    def work(self) -> None:
        """Run the job that waits."""
        job, done = self.jobs.pop()
        try:
            job()
        except Exception as error:  # noqa: BLE001 - as a thread would carry it over
            done(error)
        else:
            done(None)


class HandRunner(Jobs):
    """Callbacks and timers wait until they are told to go; a job runs at once, or when told if `held`."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: list[Callable[[], None]] = []
        self.timers: list[Callable[[], None]] = []

    def soon(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.timers.append(callback)

    def run(self, job: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        self.jobs.append((job, done))
        if not self.held:
            self.work()

    def turn(self) -> None:
        """One loop tick after another until nothing is ready."""
        while self.callbacks:
            ready, self.callbacks = self.callbacks, []
            for callback in ready:
                callback()

    def elapse(self) -> None:
        """Every timer that is set now is due."""
        due, self.timers = self.timers, []
        for callback in due:
            callback()
        self.turn()


class LoopRunner(Jobs):
    """The journal's Runner on the loop that runs; a job takes a while, or until `work` is called if `held`."""

    def __init__(self, takes_s: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__()
        self.takes_s = takes_s
        # The process is dead: nothing is called any more.
        self.ended = False

    def soon(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(self._unless_ended, callback)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, self._unless_ended, callback)

    def _unless_ended(self, callback: Callable[[], None]) -> None:
        if not self.ended:
            callback()

    def run(self, job: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        self.jobs.append((job, done))
        if not self.held:
            self.later(self.takes_s(), self.work)


def opened(
    disk: Disk,
    fsync: str = "always",
    segment_bytes: int = 4096,
    quota_bytes: int = 1 << 20,
    runner: HandRunner | None = None,
    clock: StillClock | None = None,
    directory: str = DIRECTORY,
) -> tuple[Journal, Recovery, HandRunner]:
    """A journal, its recovery and its runner, with everything done that opening begins."""
    runner = runner or HandRunner()
    options = JournalOptions(directory, fsync, segment_bytes, quota_bytes)
    journal, recovery = open_journal(disk, options, runner, clock or StillClock(), "n1")
    runner.turn()
    return journal, recovery, runner


def complete(work: Coroutine[Any, Any, None]) -> None:
    """Do what is done in slices, one after the other, without a loop."""
    try:
        while True:
            work.send(None)
    except StopIteration:
        return


def text(key: bytes, value: bytes, existed: bool | None = None, deadline_ms: int = NEVER) -> Change:
    """SET"""
    return Change(key, WRITE, STRING, value, None, deadline_ms, existed)


def fields(key: bytes, whole: Mapping[bytes, bytes], touched: set[bytes] | None, existed: bool | None = True) -> Change:
    """HSET, HDEL: the hash afterwards, and the fields that were touched."""
    return Change(key, WRITE, HASH, dict(whole), touched, NEVER, existed)


def members(key: bytes, whole: set[bytes], touched: set[bytes] | None, existed: bool | None = True) -> Change:
    """SADD, SREM"""
    return Change(key, WRITE, SET, set(whole), touched, NEVER, existed)


def scores(key: bytes, whole: Mapping[bytes, float], touched: set[bytes] | None, existed: bool | None = True) -> Change:
    """ZADD, ZREM"""
    return Change(key, WRITE, ZSET, dict(whole), touched, NEVER, existed)


def gone(key: bytes, existed: bool | None = True) -> Change:
    """DEL"""
    return Change(key, DELETE, 0, None, None, NEVER, existed)


def lifetime(key: bytes, deadline_ms: int, kind: int = STRING) -> Change:
    """EXPIRE"""
    return Change(key, EXPIRY, kind, None, None, deadline_ms, True)


def same(one: Change, other: Change) -> bool:
    """Do two changes say the same?"""
    # Attributes are descriptors of the class, in the compiled build, which has no __slots__, too.
    names = [name for name, found in vars(Change).items() if inspect.isdatadescriptor(found)]
    return all(getattr(one, name) == getattr(other, name) for name in names)
