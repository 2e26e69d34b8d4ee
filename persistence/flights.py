"""Flights: keys that are being loaded, and who waits for them (loader.py tells how they are made and land).

Who waits with steps of its own before and after the load is a task and awaits the flight. Who does not is parked, and
called back when its flights have landed.
"""

from __future__ import annotations

import asyncio

from persistence.errors import LoadTimeout, StoreError
from persistence.managed import ManagedPrefix, Target
from persistence.mapping import Loaded
from persistence.parked import Parked
from persistence.rows import RowKey


class Flight(Target):
    """One key being loaded. Whoever wants a key makes one; the loader says which one flies, because it may have one.

    (A target and a flight that refers to it would be two objects for each key that is missed, and the garbage collector
    visits what is under way.)
    """

    __slots__ = ("claimed", "done", "error", "fenced", "others", "parked", "refresh", "result", "waiters")

    def __init__(self, key: bytes, prefix: ManagedPrefix, row_key: RowKey) -> None:
        self.key = key
        self.prefix = prefix
        self.row_key = row_key
        # Somebody waits for it, or did: whoever comes next shares it.
        self.claimed = True
        # A background refresh: nobody waited when it began.
        self.refresh = False
        # The key was written or invalidated since the flight began.
        self.fenced = False
        self.done = False
        # The row's value; None when there is no such row.
        self.result: Loaded | None = None
        self.error: StoreError | None = None
        # Tasks that wait. None: none yet.
        self.waiters: list[asyncio.Future[None]] | None = None
        # A command that is called back, and others after it.
        self.parked: ParkedLoad | None = None
        self.others: list[ParkedLoad] | None = None

    async def wait(self, timeout_s: float) -> Loaded | None:
        """The value, or None for no such row; raises the load's error, or LoadTimeout after `timeout_s` seconds."""
        if not self.done:
            loop = asyncio.get_running_loop()
            turn: asyncio.Future[None] = loop.create_future()
            if self.waiters is None:
                self.waiters = []
            self.waiters.append(turn)
            timer = loop.call_later(timeout_s, expire, turn)
            try:
                await turn
            finally:
                timer.cancel()
                if not self.done and turn in self.waiters:
                    self.waiters.remove(turn)
        if self.error is not None:
            raise self.error
        return self.result

    def park(self, parked: ParkedLoad) -> None:
        """Call this one back when the flight has landed."""
        if self.parked is None:
            self.parked = parked
        elif self.others is None:
            self.others = [parked]
        else:
            self.others.append(parked)

    def land(self, ready: list[ParkedLoad]) -> None:
        """Wake the tasks that wait; of those who are parked, `ready` gets those who wait for nothing else."""
        self.done = True
        waiters, self.waiters = self.waiters, None
        if waiters is not None:
            for turn in waiters:
                if not turn.done():
                    turn.set_result(None)
        parked, others = self.parked, self.others
        if parked is not None:
            # They know their flights: a circle, which nobody would find.
            self.parked = self.others = None
            parked.left -= 1
            if not parked.left:
                ready.append(parked)
            if others is not None:
                for other in others:
                    other.left -= 1
                    if not other.left:
                        ready.append(other)

    def awaited_by(self) -> list[ParkedLoad]:
        """Those who are parked."""
        if self.parked is None:
            return []
        return [self.parked, *self.others] if self.others is not None else [self.parked]


def expire(turn: asyncio.Future[None]) -> None:
    """The timer of a task that waits."""
    if not turn.done():
        turn.set_exception(LoadTimeout("the load did not finish in time"))


class ParkedLoad(Parked):
    """A command without a task that waits for flights."""

    __slots__ = ("fences", "flights", "left", "until_s")

    def __init__(self) -> None:
        super().__init__()
        self.flights: list[Flight] = []
        # Flights that have not landed; below zero: it waits for them no more.
        self.left = 0
        # The loop's time at which it has waited long enough.
        self.until_s = 0.0
        # Fences there had been when it was parked.
        self.fences = 0

    def close(self) -> None:
        self.left = -1


class Watch:
    """Keys that one command reads together, while it waits for some of them."""

    __slots__ = ("broken", "keys")

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self.keys = keys
        # One of the keys was fenced, or is being written: what was read of them may not have been true at one moment.
        self.broken = False
