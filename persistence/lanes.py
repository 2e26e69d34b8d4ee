"""Lane: the loads of one prefix, on their way into statements (loader.py tells when there is a second one, and why)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from persistence.flights import Convoy, Flight, ParkedLoad
from persistence.managed import ManagedPrefix
from persistence.rows import RowKey

# Statements in flight per prefix; more would only make batches smaller.
STATEMENTS_IN_FLIGHT: Final = 2
# The second is sent beside one of so few keys at once: a handful of clients need not wait for each other …
FEW_KEYS: Final = 4
# … or when so many times more keys wait than are under way …
MORE_WAITING: Final = 2
# … or when the first takes so many times longer than usual, and this long at least.
SLOWER_THAN_USUAL: Final = 2.0
SLOW_S: Final = 0.002
# More keys than ever wait.
_NO_NUMBER: Final = sys.maxsize
# Weight of the newest statement in what is usual.
_NEWEST: Final = 0.2


class LoadBatch:
    """What one statement asks for."""

    __slots__ = ("convoys", "flights", "size")

    def __init__(self) -> None:
        self.flights: list[Flight] = []
        self.convoys: list[Convoy] = []
        # Keys of both.
        self.size = 0

    def row_keys(self) -> list[RowKey]:
        """The rows."""
        if not self.flights and len(self.convoys) == 1:
            return self.convoys[0].row_keys
        row_keys = [flight.row_key for flight in self.flights]
        for convoy in self.convoys:
            row_keys += convoy.row_keys
        return row_keys


class Lane:
    """The loads of one prefix."""

    __slots__ = (
        "convoy_keys",
        "convoys",
        "convoys_first",
        "enough",
        "flying",
        "gathering",
        "is_late",
        "is_scheduled",
        "keys_flying",
        "launches",
        "prefix",
        "usual_s",
    )

    def __init__(self, prefix: ManagedPrefix) -> None:
        self.prefix = prefix
        # What the next statement will ask for; of the convoys also how many keys they have. Which of both are taken
        # first takes turns, so that neither waits for ever behind the other.
        self.gathering: list[Flight] = []
        self.convoys: list[Convoy] = []
        self.convoy_keys = 0
        self.convoys_first = False
        # The loop will look in this turn whether a statement can be sent.
        self.is_scheduled = False
        # What the statements under way ask for; how many keys that are; how many statements there have been, and
        # whether the last of them takes longer than usual.
        self.flying: list[LoadBatch] = []
        self.keys_flying = 0
        self.launches = 0
        self.is_late = False
        # So many keys have to wait for a statement to be sent: what the four above say in one number.
        self.enough = 1
        # How long statements take, a moving average; 0: none has been answered.
        self.usual_s = 0.0

    def may_send(self) -> bool:
        """May a statement be sent now for what has gathered?"""
        return len(self.gathering) + self.convoy_keys >= self.enough

    def _reckon(self) -> None:
        # What flies has changed: how many are enough?
        if not self.flying:
            self.enough = 1
        elif len(self.flying) >= STATEMENTS_IN_FLIGHT:
            self.enough = _NO_NUMBER
        elif self.keys_flying <= FEW_KEYS or self.is_late:
            self.enough = 1
        else:
            self.enough = min(MORE_WAITING * self.keys_flying, self.prefix.rule.load_batch)

    def grow_late(self) -> None:
        """The last statement takes longer than usual."""
        self.is_late = True
        self._reckon()

    def take(self) -> LoadBatch:
        """What the next statement asks for; it flies from now on."""
        batch = LoadBatch()
        if self.convoys_first:
            self._take_convoys(batch)
        room = self.prefix.rule.load_batch - batch.size
        if len(self.gathering) <= room:
            batch.flights = self.gathering
            self.gathering = []
        else:
            batch.flights = self.gathering[:room]
            del self.gathering[:room]
        batch.size += len(batch.flights)
        if not self.convoys_first:
            self._take_convoys(batch)
        self.convoys_first = not self.convoys_first
        self.launches += 1
        self.is_late = False
        self.flying.append(batch)
        self.keys_flying += batch.size
        self._reckon()
        return batch

    def _take_convoys(self, batch: LoadBatch) -> None:
        # As many as there is room for, the oldest first. None is larger than a statement may be.
        most = self.prefix.rule.load_batch
        count = 0
        for convoy in self.convoys:
            size = len(convoy.keys)
            if batch.size + size > most:
                break
            batch.size += size
            self.convoy_keys -= size
            count += 1
        batch.convoys = self.convoys[:count]
        del self.convoys[:count]

    def landed(self, batch: LoadBatch) -> None:
        """The statement is over."""
        self.flying.remove(batch)
        self.keys_flying -= batch.size
        self._reckon()

    def waiting(self) -> Iterator[ParkedLoad]:
        """Those who are parked, once for each load that they wait for."""
        flights = [self.gathering, *[batch.flights for batch in self.flying]]
        convoys = [self.convoys, *[batch.convoys for batch in self.flying]]
        for some in flights:
            for flight in some:
                yield from flight.awaited_by()
        for others in convoys:
            for convoy in others:
                yield from convoy.awaited_by()

    def patience_s(self) -> float:
        """How long the statement that is sent now may take before another is sent beside it."""
        return max(SLOW_S, SLOWER_THAN_USUAL * self.usual_s)

    def took(self, seconds: float) -> None:
        """A statement was answered."""
        usual_s = self.usual_s or seconds
        self.usual_s = seconds * _NEWEST + usual_s * (1 - _NEWEST)
