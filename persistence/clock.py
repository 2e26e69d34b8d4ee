"""Clock and Random: time and chance, as the persistence room is given them."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Time. Server milliseconds are monotonic; only persisted times and EXPIREAT touch the wall clock."""

    def now_ms(self) -> int:
        """Server milliseconds, never going back."""

    def wall_offset_ms(self) -> int:
        """What to add to server milliseconds to get Unix milliseconds."""

    async def sleep(self, seconds: float) -> None:
        """Return after that long."""


class Random(Protocol):
    """Randomness: the part of random.Random that jitter needs."""

    def random(self) -> float:
        """A float, 0 ≤ x < 1."""
