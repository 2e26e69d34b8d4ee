"""KeyLocks: first come, first served, one lock per key.

Only keys on whose behalf somebody waits for a store are ever locked. A command takes all its locks in sorted order, so
two commands cannot wait for each other. Taking free locks does not suspend.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable


class KeyLocks:
    """Exclusive locks by key, FIFO. A lock exists only while it is held."""

    __slots__ = ("_idle", "held")

    def __init__(self) -> None:
        # Locked key → those who wait for it, in order of arrival; None: nobody has yet.
        self.held: dict[bytes, deque[asyncio.Future[None]] | None] = {}
        self._idle: list[asyncio.Future[None]] = []

    def are_free(self, keys: Iterable[bytes]) -> bool:
        """Is none of these keys locked?"""
        held = self.held
        return not held or not any(key in held for key in keys)

    def take(self, key: bytes) -> None:
        """Lock a key that is free."""
        self.held[key] = None

    def give_back(self, key: bytes) -> None:
        """Unlock one key."""
        held = self.held
        if held[key] is None and not self._idle:
            del held[key]
        else:
            self.release([key])

    async def acquire(self, keys: Iterable[bytes]) -> list[bytes]:
        """Lock all keys; returns what must be passed to `release`. On cancellation nothing stays locked."""
        wanted = sorted(set(keys))
        taken: list[bytes] = []
        try:
            for key in wanted:
                if key not in self.held:
                    self.held[key] = None
                else:
                    waiters = self.held[key]
                    if waiters is None:
                        waiters = self.held[key] = deque()
                    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    waiters.append(turn)
                    try:
                        await turn
                    except asyncio.CancelledError:
                        if turn.done() and not turn.cancelled():
                            # The lock was handed over in the same moment: it is ours to pass on.
                            taken.append(key)
                        else:
                            waiters.remove(turn)
                        raise
                taken.append(key)
        except BaseException:
            self.release(taken)
            raise
        return wanted

    def release(self, keys: list[bytes]) -> None:
        """Unlock; each key goes to the first who waits for it."""
        held = self.held
        for key in keys:
            waiters = held[key]
            while waiters:
                turn = waiters.popleft()
                if not turn.done():
                    turn.set_result(None)
                    break
            else:
                del held[key]
        if not held and self._idle:
            idle, self._idle = self._idle, []
            for turn in idle:
                if not turn.done():
                    turn.set_result(None)

    async def wait_idle(self) -> None:
        """Return when nothing is locked (FLUSHALL must not cut through a transaction that is being committed)."""
        while self.held:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(turn)
            await turn
