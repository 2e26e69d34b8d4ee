"""Pausing: CLIENT PAUSE lets commands wait, all of them or those alone that may write.

A paused command has not begun: its client waits as for a store, and when the pause is over the command goes through
dispatch from the start. Meanwhile keys that run out stay where they are (server/background.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from persistence.seams import Clock

# Event loops count the time in floats and do not like centuries: a longer pause is timed anew when this has passed.
_LONGEST_TIMER_S: Final = 86_400.0


class Pause:
    """The pause that is in force, if any."""

    __slots__ = ("_changed", "_clock", "_is_over", "_timer", "is_on", "until_ms", "writes_only")

    def __init__(self, clock: Clock, changed: Callable[[], None]) -> None:
        self._clock = clock
        # Called when a pause begins, changes or ends.
        self._changed = changed
        self._is_over = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.is_on = False
        # Server milliseconds.
        self.until_ms = 0
        self.writes_only = False

    def begin(self, timeout_ms: int, writes_only: bool) -> None:
        """Pause for so long. Of two pauses the stricter and the later end count, as in Redis."""
        until_ms = self._clock.now_ms() + timeout_ms
        if self.is_on:
            writes_only = writes_only and self.writes_only
            until_ms = max(until_ms, self.until_ms)
        self.writes_only = writes_only
        self.until_ms = until_ms
        if not self.is_on:
            self.is_on = True
            self._is_over.clear()
        self._set_timer()
        self._changed()

    def end(self) -> None:
        """Let everybody go on."""
        if not self.is_on:
            return
        self.is_on = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_over.set()
        self._changed()

    async def wait_over(self) -> None:
        """Return when no pause is in force."""
        while self.is_on:
            await self._is_over.wait()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left_s = (self.until_ms - self._clock.now_ms()) / 1000
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(max(left_s, 0.0), _LONGEST_TIMER_S), self._time_is_up)

    def _time_is_up(self) -> None:
        if self._clock.now_ms() < self.until_ms:
            self._set_timer()
        else:
            self._timer = None
            self.end()
