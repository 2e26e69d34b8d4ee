"""An event loop without a world: no sockets, no threads, and a time that jumps to the next timer when nothing is ready.

What is kept of asyncio's promises, and what is shuffled:

- A task's own steps keep their order: a task has at most one step waiting to run, whatever else is shuffled.
- Callbacks that become ready in different turns run in that order: the loop finishes a turn before it starts the next.
- Timers that are due at exactly the same time run in any order, as answers of a network would come in.
- Within one turn the order is `call_soon`'s, as asyncio and uvloop have it, unless `shuffled`: then each turn is run in
  an order drawn from the seed. asyncio promises more, so a failure that needs shuffling is looked at with that in mind;
  the engine relies on no such order (a loader's batch may only come out smaller).

Everything drawn comes from the Random that is passed in, so the same seed gives the same run. Callbacks are the only
thing that happens: when none is ready and no timer is set, nothing will ever happen again, which is a Deadlock.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import Any, Final

# Turns after which a run is going round in circles; an ordinary one takes some thousand.
_MOST_TURNS: Final = 200_000


class Deadlock(RuntimeError):
    """Somebody waits for something that cannot come any more, or goes round in circles."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """asyncio's own tasks and futures over virtual time."""

    # Of BaseEventLoop.
    _ready: Any
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self, random: Random, shuffled: bool) -> None:
        super().__init__()
        self._now = 0.0
        self._random = random
        self._shuffled = shuffled
        self._turns = 0
        # What would otherwise be printed and forgotten: exceptions that nobody retrieved.
        self.complaints: list[str] = []
        self.set_exception_handler(self._complain)

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def time(self) -> float:
        return self._now

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        # A hair of randomness decides between timers of the same moment, and never puts one before its time.
        return super().call_at(when + self._random.random() * 1e-7, callback, *args, context=context)

    def _run_once(self) -> None:
        # One turn: what is ready now; what these callbacks make ready belongs to the next.
        ready = self._ready
        scheduled = self._scheduled
        self._turns += 1
        if self._turns > _MOST_TURNS:
            raise Deadlock(f"no end after {_MOST_TURNS} turns")
        if not ready:
            while scheduled and scheduled[0].cancelled():
                heapq.heappop(scheduled)
            if scheduled:
                self._now = max(self._now, scheduled[0].when())
            elif not self._stopping:
                raise Deadlock(f"nothing is ready and no timer is set at {self._now:.3f} s")
        while scheduled and scheduled[0].when() <= self._now:
            handle = heapq.heappop(scheduled)
            if not handle.cancelled():
                ready.append(handle)
        if self._shuffled and len(ready) > 1:
            self._random.shuffle(ready)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        # Cancelled timers leave the heap when their time comes.
        pass

    def _process_events(self, event_list: list[Any]) -> None:
        raise NotImplementedError("a simulated loop has no files")

    def _write_to_self(self) -> None:
        raise NotImplementedError("a simulated loop has no threads")
