"""Breaker: a store that fails again and again is left alone for a moment, and its users are told at once.

Closed, everything passes. After `THRESHOLD` failures in a row it opens: callers fail fast (or serve what is stale)
instead of queueing up behind timeouts. When the pause is over, one caller is let through as a probe; its success
closes the breaker, its failure doubles the pause. Pauses are short, because a database that is back should be used at
once.
"""

from __future__ import annotations

from typing import Final

from persistence.clock import Clock, Random

# Failures in a row: one may be an accident, five are a state.
THRESHOLD: Final = 5
FIRST_PAUSE_MS: Final = 100.0
LONGEST_PAUSE_MS: Final = 2000.0


class Breaker:
    """The circuit breaker of one store."""

    __slots__ = ("_clock", "_failures", "_open_until_ms", "_pause_ms", "_probing", "_random", "opened")

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._failures = 0
        self._pause_ms = 0.0
        self._open_until_ms = 0
        self._probing = False
        # Times that it opened since start.
        self.opened = 0

    @property
    def is_open(self) -> bool:
        """Are callers turned away now?"""
        return self._open_until_ms != 0

    def allows(self) -> bool:
        """May this caller try? While open: only one probe at a time, when the pause is over."""
        if not self._open_until_ms:
            return True
        if self._probing or self._clock.now_ms() < self._open_until_ms:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """The store answered, if only to refuse."""
        self._failures = 0
        self._pause_ms = 0.0
        self._open_until_ms = 0
        self._probing = False

    def failed(self) -> None:
        """The store could not be reached or did not answer in time."""
        self._failures += 1
        if self._failures < THRESHOLD and not self._probing:
            return
        if not self._open_until_ms:
            self.opened += 1
        self._probing = False
        self._pause_ms = min(LONGEST_PAUSE_MS, max(FIRST_PAUSE_MS, self._pause_ms * 2))
        self._open_until_ms = self._clock.now_ms() + int(self._pause_ms * (0.5 + self._random.random() / 2))
