"""Quarantine: keys whose last write may still be committed, because nobody knows its outcome.

As long as that is so, what the store says of them is not kept, and nothing is written to them: a later write could
commit first and be overwritten by the earlier one. The time is over when the server must have given up the statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from persistence.clock import Clock
from persistence.stores.base import Store

# Added to the server-side statement timeout before a key whose write had an unknown outcome is trusted again.
QUARANTINE_SLACK_S: Final = 1.0


def straggling_ms(store: Store) -> int:
    """How long after a StoreTimeout the write may still be committed."""
    return int((store.statement_timeout_s + QUARANTINE_SLACK_S) * 1000)


class Quarantine:
    """Keys and until when. The oldest come first; those whose time is over leave when somebody looks."""

    __slots__ = ("_clock", "_until_ms")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Key → server milliseconds until which the write may still land.
        self._until_ms: dict[bytes, int] = {}

    def add(self, key: bytes, duration_ms: int) -> None:
        """A write of the key has an unknown outcome for so long."""
        now = self._clock.now_ms()
        for other in list(islice(self._until_ms, 2)):
            if self._until_ms[other] <= now:
                del self._until_ms[other]
        self._until_ms.pop(key, None)
        self._until_ms[key] = now + duration_ms

    def drop(self, key: bytes) -> None:
        """The outcome is known after all."""
        del self._until_ms[key]

    def is_empty(self) -> bool:
        """Is the outcome of every write known? O(those whose time is over)."""
        while self._until_ms:
            key, until_ms = next(iter(self._until_ms.items()))
            if until_ms > self._clock.now_ms():
                return False
            del self._until_ms[key]
        return True

    def holds(self, key: bytes) -> bool:
        """May a write of this key still land?"""
        until_ms = self._until_ms.get(key) if self._until_ms else None
        if until_ms is None:
            return False
        if until_ms > self._clock.now_ms():
            return True
        del self._until_ms[key]
        return False

    async def sit_out(self, keys: Iterable[bytes]) -> None:
        """Wait until no write of these keys may still land."""
        for key in keys if self._until_ms else ():
            # (Another write of it may meet the same fate meanwhile.)
            while self.holds(key):
                await self._clock.sleep((self._until_ms[key] - self._clock.now_ms()) / 1000)
