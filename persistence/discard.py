"""Discard: unsaved changes are given up, and memory follows the database again (CACHE.DISCARD).

The queue forgets at once; memory and the journal follow in slices, so that giving up a long backlog keeps nobody
waiting. A key that is written between the two has a newer sequence and is left alone; and nothing is computed from a
copy that has been given up (`Engine.missing`), because what came of it would be kept as if the row were so.

What flies cannot be called back. Until it has landed nobody knows which value the row has, so its key counts as being
written: loads of it are answered and not kept.

    1. v1 flies; DISCARD gives it up and drops the copy
    2. GET loads the row as it was before v1 … and would keep it
    3. v1 is committed after all: the copy would be wrong until it expires

Whoever changes a part of the value in between does so on a copy without v1, which goes as soon as it is saved.
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
        queue = engine.queue_of(prefix)
        # The queue tells its journal before it forgets anything.
        apart, waited = queue.discard(prefix, self._landed)
        for pending in apart:
            if pending.on_over is not None:
                engine.loader.begin_write(pending.target.key)
        count = len(apart) + len(waited)
        for pending in apart:
            self._drop(pending.target.key, pending.seq)
        for number in waited.chunks():
            for place, (key, seq) in enumerate(waited.strip(number)):
                if place % _SLICE == 0:
                    await engine.clock.sleep(0)
                self._drop(key, seq)
        await queue.log.let_go(prefix.rule.name)
        return count

    def _drop(self, key: bytes, seq: int) -> None:
        # The copy, if it is of that change or an older one.
        engine = self._engine
        engine.loader.fence(key)
        entry = engine.memory.held(key)
        lease = entry.lease if entry is not None else None
        if lease is not None and 0 < lease.dirty_seq <= seq:
            lease.dirty_seq = 0
            engine.memory.drop(key)
        engine.memory.touch_watchers(key)

    def _landed(self, pending: Pending) -> None:
        # Given up, and now certain, one way or the other: from here on loads may be kept.
        engine = self._engine
        engine.loader.end_write(pending.target.key)
        engine.loader.take_voided((pending.target.key,))
        engine.queue_of(pending.target.prefix).doubt(pending.target)
