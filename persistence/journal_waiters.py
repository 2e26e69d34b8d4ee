"""Waiters: who is told when the journal has come as far as a sequence."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from persistence.errors import JournalError, JournalFailed

# Told once: None when it came so far, or the error that prevents it.
Told = Callable[[JournalError | None], None]


class Waiters:
    """Callbacks by sequence, the least first; of equal ones the first that came."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Told]] = deque()

    def add(self, seq: int, told: Told) -> None:
        """Tell somebody when a sequence is reached. O(waiters for later ones): most wait for the newest."""
        queue = self._queue
        if not queue or queue[-1][0] <= seq:
            queue.append((seq, told))
            return
        place = len(queue) - 1
        while place and queue[place - 1][0] > seq:
            place -= 1
        queue.insert(place, (seq, told))

    def reached(self, seq: int) -> None:
        """Everything up to a sequence has come to pass."""
        queue = self._queue
        while queue and queue[0][0] <= seq:
            queue.popleft()[1](None)

    def fail(self, reason: str) -> None:
        """Nothing more will come to pass."""
        queue, self._queue = self._queue, deque()
        for _, told in queue:
            told(JournalFailed(reason))


class Turn:
    """A future that the journal completes; its client may have gone."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def come(self, error: JournalError | None) -> None:
        """What was waited for came, or will not come."""
        if self._future.done():
            return
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(error)
