"""Breaker: a store that fails again and again is left alone for a moment, and its users are told at once.

Closed, everything passes. After `THRESHOLD` failures in a row it opens: callers fail fast (or serve what is stale)
instead of queueing up behind timeouts. When the pause is over, one caller is let through as a probe; its success
closes the breaker, its failure doubles the pause. Pauses are short, because a database that is back should be used at
once.

Loads, writes and flushes of a store share one breaker, so what counts is whether the store can be *reached*: a server
that answers "read-only", "disk full" or "deadlock" fails writes and would serve loads.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from persistence.clock import Clock, Random
from persistence.errors import LoadTimeout, StoreDown, StoreError, StoreTimeout

log = logging.getLogger("forebay.breaker")
T = TypeVar("T")

# Failures in a row: one may be an accident, five are a state.
THRESHOLD: Final = 5
FIRST_PAUSE_MS: Final = 100.0
LONGEST_PAUSE_MS: Final = 2000.0


class Breaker:
    """The circuit breaker of one store."""

    __slots__ = (
        "_clock",
        "_failures",
        "_name",
        "_on_close",
        "_open_until_ms",
        "_pause_ms",
        "_probing",
        "_random",
        "opened",
    )

    def __init__(self, name: str, clock: Clock, random: Random) -> None:
        self._name = name
        self._clock = clock
        self._random = random
        self._failures = 0
        self._pause_ms = 0.0
        self._open_until_ms = 0
        self._probing = False
        # Who wants to know at once that the store is back.
        self._on_close: list[Callable[[], None]] = []
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

    def wait_ms(self) -> int:
        """How long until `allows` may say yes; 0: it does now."""
        if not self._open_until_ms:
            return 0
        left = self._open_until_ms - self._clock.now_ms()
        return max(left, int(FIRST_PAUSE_MS)) if self._probing else max(0, left)

    def refusal(self) -> StoreDown:
        """What a caller is told who may not try."""
        return StoreDown(f"store {self._name}: failing, left alone for a moment")

    def notify_closed(self, listener: Callable[[], None]) -> None:
        """Call this whenever the breaker closes."""
        self._on_close.append(listener)

    async def ask(self, answer: Awaitable[T]) -> T:
        """Wait for what the store answers to a caller who was allowed to try, and draw the conclusion."""
        try:
            result = await answer
        except StoreError as error:
            if _is_failure(error):
                self.failed()
            else:
                self.succeeded()
            raise
        except BaseException:
            # Interrupted, or a bug of ours: the next caller shall find out.
            self.give_up()
            raise
        self.succeeded()
        return result

    def succeeded(self) -> None:
        """The store answered, if only to refuse."""
        self._failures = 0
        self._pause_ms = 0.0
        self._probing = False
        if self._open_until_ms:
            self._open_until_ms = 0
            log.info("store %s answers again", self._name)
            for listener in self._on_close:
                listener()

    def failed(self) -> None:
        """The store could not be reached or did not answer in time."""
        self._failures += 1
        if self._failures < THRESHOLD or (self._open_until_ms and not self._probing):
            # (While it is open: one that was under way when it opened. Only a probe tells something new.)
            return
        if not self._open_until_ms:
            self.opened += 1
            log.warning("store %s: %d failures in a row, it is left alone for moments", self._name, self._failures)
        self._probing = False
        self._pause_ms = min(LONGEST_PAUSE_MS, max(FIRST_PAUSE_MS, self._pause_ms * 2))
        self._open_until_ms = self._clock.now_ms() + int(self._pause_ms * (0.5 + self._random.random() / 2))

    def give_up(self) -> None:
        """The caller who was allowed to try did not ask: the next one may."""
        self._probing = False


def _is_failure(error: StoreError) -> bool:
    return isinstance(error, (StoreTimeout, LoadTimeout)) or (isinstance(error, StoreDown) and not error.answered)
