"""Discard: unsaved changes are given up, and memory follows the database again (CACHE.DISCARD).

The queue forgets at once; memory follows in slices, so that giving up a long backlog keeps nobody waiting. A key that
is written between the two has a newer sequence and is left alone.

What flies cannot be called back. Until it has landed nobody knows which value the row has, so its key counts as being
written: loads of it are answered and not kept.

    1. v1 flies; DISCARD gives it up and drops the copy
    2. GET loads the row as it was before v1 … and would keep it
    3. v1 is committed after all: the copy would be wrong until it expires
"""

from __future__ import annotations

from typing import Final

from persistence.engine import Engine
from persistence.managed import ManagedPrefix
from persistence.pending import Pending
from persistence.prefixes import WRITE_BEHIND

# Keys dropped before others get a turn: about a millisecond.
_SLICE: Final = 500


class Discard:
    """Gives up the unsaved changes of prefixes."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def discard(self, prefix: ManagedPrefix) -> int:
        """Give up what is unsaved of a prefix and drop the copies that hold it; how many changes."""
        engine = self._engine
        if prefix.rule.write != WRITE_BEHIND:
            return 0
        # The queue tells its journal before it forgets anything.
        given_up = engine.queue_of(prefix).discard(prefix, self._landed)
        for pending in given_up:
            if pending.on_over is not None:
                engine.loader.begin_write(pending.target.key)
        for number, pending in enumerate(given_up, 1):
            self._drop(pending)
            if number % _SLICE == 0:
                await engine.clock.sleep(0)
        return len(given_up)

    def _drop(self, pending: Pending) -> None:
        engine = self._engine
        key = pending.target.key
        engine.loader.fence(key)
        entry = engine.memory.held(key)
        lease = entry.lease if entry is not None else None
        if lease is not None and 0 < lease.dirty_seq <= pending.seq:
            lease.dirty_seq = 0
            engine.memory.drop(key)
        engine.memory.touch_watchers(key)

    def _landed(self, pending: Pending) -> None:
        # Given up, and now certain, one way or the other: from here on loads may be kept.
        self._engine.loader.end_write(pending.target.key)
