"""The real Clock: monotonic milliseconds, anchored to the wall clock when the server starts."""

from __future__ import annotations

import asyncio
import time
from typing import Final

# A difference between the anchored and the wall clock that is believed to be a correction by the administrator (or NTP)
# rather than a scheduling hiccup; smaller ones would make EXPIRETIME differ from EXPIREAT by a millisecond.
_STEP_MS: Final = 500


class SystemClock:
    """Server milliseconds that never go back, whatever happens to the wall clock."""

    __slots__ = ("_anchor_ms", "_now_ms", "_offset_ms", "next_s")

    def __init__(self) -> None:
        self._anchor_ms = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000
        self._offset_ms = 0
        # The current millisecond, and the monotonic second at which the next one begins: a busy server asks a hundred
        # times a millisecond, and comparing floats is half the price of dividing nanoseconds.
        self._now_ms = 0
        self.next_s = 0.0

    def now_ms(self) -> int:
        """Milliseconds since the epoch as it was known at start; only their differences mean anything."""
        now_s = time.monotonic()
        if now_s >= self.next_s:
            since_ms = int(now_s * 1000)
            self.next_s = (since_ms + 1) / 1000
            self._now_ms = since_ms + self._anchor_ms
        return self._now_ms

    def wall_offset_ms(self) -> int:
        """What to add to `now_ms` to get Unix milliseconds."""
        drift = time.time_ns() // 1_000_000 - self.now_ms()
        if abs(drift - self._offset_ms) > _STEP_MS:
            self._offset_ms = drift
        return self._offset_ms

    async def sleep(self, seconds: float) -> None:
        """Return after that long."""
        await asyncio.sleep(seconds)
