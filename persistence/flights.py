"""Flights: keys that are being loaded, and who waits for them (loader.py tells how they are made and land).

Who waits with steps of its own before and after the load is a task and awaits the flight. Who does not is parked, and
called back when its flights have landed.

A read of many keys that memory does not have, and that nobody else is loading, is spared a flight for each: they are a
Convoy. It lands as one, or, when anything has happened to one of its keys on the way, as the flights that it spared.
"""

from __future__ import annotations

import asyncio

from persistence.change import NEVER
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

    __slots__ = ("claimed", "done", "error", "fenced", "others", "parked", "refresh", "result", "value", "waiters")

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
        # The value alone, of the mapping's kind, where nothing happened to the key on the way and memory has it, too.
        self.value: object = None
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
        return self.loaded()

    def loaded(self) -> Loaded | None:
        """What it has brought."""
        mapping = self.prefix.mapping
        if self.value is None or mapping is None:
            return self.result
        return Loaded(mapping.kind, self.value, NEVER)

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


class Convoy:
    """Keys of one prefix that one command misses together and that nobody else was loading then.

    Each of them is fenced, and joined by others, as if it had a flight; then it gets one, in the end or at once.
    """

    __slots__ = ("apart", "fenced", "keys", "parked", "prefix", "row_keys", "values")

    def __init__(self, prefix: ManagedPrefix, keys: list[bytes], row_keys: list[RowKey]) -> None:
        self.prefix = prefix
        # Each once; and the rows that they name.
        self.keys = keys
        self.row_keys = row_keys
        # Who waits; None: it has landed, in one way or the other.
        self.parked: ParkedLoad | None = None
        # Keys that were written or invalidated since; None: none was.
        self.fenced: set[bytes] | None = None
        # Keys that others wait for as well, with the flights that they share.
        self.apart: dict[bytes, Flight] | None = None
        # What it has brought when it has landed as one, a value for each key; None: there is no such row.
        self.values: list[object] | None = None

    def fence(self, key: bytes) -> None:
        """One of its keys changes."""
        if self.fenced is None:
            self.fenced = set()
        self.fenced.add(key)

    def part(self, key: bytes) -> Flight:
        """A flight of its own for a key that somebody else wants, too. O(keys)."""
        flight = Flight(key, self.prefix, self.row_keys[self.keys.index(key)])
        if self.apart is None:
            self.apart = {}
        self.apart[key] = flight
        return flight

    def land(self, values: list[object], ready: list[ParkedLoad]) -> None:
        """These are the values, and nothing has happened to any key meanwhile: as Flight.land."""
        self.values = values
        parked, self.parked = self.parked, None
        if parked is not None:
            parked.left -= 1
            if not parked.left:
                ready.append(parked)

    def scatter(self) -> list[Flight]:
        """It cannot land as one: its keys' flights, for which the command waits instead."""
        flights = self.as_flights()
        parked, self.parked = self.parked, None
        # (Who has waited too long waits for nothing.)
        if parked is not None and parked.left > 0:
            parked.convoys.remove(self)
            parked.flights += flights
            parked.left += len(flights) - 1
            for flight in flights:
                flight.park(parked)
        return flights

    def as_flights(self) -> list[Flight]:
        """What is known of each key now, for who has to look at them one by one."""
        values = self.values
        flights: list[Flight] = []
        for place, key in enumerate(self.keys):
            flight = self.apart.get(key) if self.apart is not None else None
            if flight is None:
                flight = Flight(key, self.prefix, self.row_keys[place])
                flight.fenced = self.fenced is not None and key in self.fenced
            if values is not None:
                flight.done = True
                flight.value = values[place]
            flights.append(flight)
        return flights

    def awaited_by(self) -> list[ParkedLoad]:
        """As of a flight."""
        parked = [self.parked] if self.parked is not None else []
        if self.apart is not None:
            for flight in self.apart.values():
                parked += flight.awaited_by()
        return parked


def expire(turn: asyncio.Future[None]) -> None:
    """The timer of a task that waits."""
    if not turn.done():
        turn.set_exception(LoadTimeout("the load did not finish in time"))


class ParkedLoad(Parked):
    """A command without a task that waits for flights and convoys."""

    __slots__ = ("convoys", "fences", "flights", "left", "until_s")

    def __init__(self) -> None:
        super().__init__()
        self.flights: list[Flight] = []
        self.convoys: list[Convoy] = []
        # Of these, those that have not landed; below zero: it waits for them no more.
        self.left = 0
        # The loop's time at which it has waited long enough.
        self.until_s = 0.0
        # Fences there had been when it was parked.
        self.fences = 0

    def all_flights(self) -> list[Flight]:
        """What it waits or has waited for, key by key."""
        if not self.convoys:
            return self.flights
        return [*self.flights, *[flight for convoy in self.convoys for flight in convoy.as_flights()]]

    def close(self) -> None:
        self.left = -1


class Watch:
    """Keys that one command reads together, while it waits for some of them."""

    __slots__ = ("broken", "keys")

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self.keys = keys
        # One of the keys was fenced, or is being written: what was read of them may not have been true at one moment.
        self.broken = False
