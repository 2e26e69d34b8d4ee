"""Headroom: what part of maxmemory is kept for all that is not counted.

`used_memory` counts keys and values. The process is more: the interpreter with its modules (about 60 MB), clients'
buffers, what waits to be saved or freed, and the gaps between what was freed and what came after it. An operator who
sets maxmemory wants the *process* to stay near it, so ten times a second its real size is compared with the limit: when
it passes LIMIT of maxmemory the keyspace may not grow any more, and as the process creeps on it shrinks by as much;
when there is room again, it gets it back.

Gaps do not close when keys go, so a process that has become large seldom becomes small. What can be done is to keep it
from growing in the first place, which is why it is the growth of `used_memory` that is stopped, early, rather than keys
evicted until the size falls: that would empty the cache for nothing. For the same reason no more than MOST of maxmemory
is ever set aside.

Below LEAST the interpreter is most of the limit; such a limit is taken to be about keys and values alone.
"""

from __future__ import annotations

from typing import Final

LEAST: Final = 128 << 20
# Of maxmemory: where growth is stopped, where keys are evicted for every look, below which room is given back, and what
# may be set aside at most.
LIMIT: Final = 1.05
URGENT: Final = 1.12
_ROOMY: Final = 0.98
MOST: Final = 0.7
# Of what is too much, or of what is free, the part by which the reserve changes at a time.
_STEP: Final = 16


class Headroom:
    """The reserve, as the process's size makes it."""

    __slots__ = ("_highest", "reserve")

    def __init__(self) -> None:
        # Bytes of maxmemory that keys and values must not take.
        self.reserve = 0
        # The process's size up to which the reserve has taken account of it; 0 while it is within the limit.
        self._highest = 0

    def adjust(self, maxmemory: int, used: int, resident: int) -> int:
        """Look at the process's size; the reserve from now on. All in bytes, `maxmemory` 0 for no limit."""
        if maxmemory < LEAST:
            self.reserve = 0
            self._highest = 0
        elif resident > maxmemory * LIMIT:
            self._hold(maxmemory, used, resident)
        elif resident < maxmemory * _ROOMY:
            room = int(maxmemory * _ROOMY) - resident
            self.reserve = max(0, self.reserve - max(1, room // _STEP))
            self._highest = 0
        return self.reserve

    def _hold(self, maxmemory: int, used: int, resident: int) -> None:
        # What is used now is what may be used. (Once: it falls below its limit by every large value that goes.)
        reserve = self.reserve if self._highest else max(self.reserve, maxmemory - used)
        reserve += max(0, resident - self._highest) if self._highest else 0
        if resident > maxmemory * URGENT:
            reserve += (resident - int(maxmemory * URGENT)) // _STEP
        self._highest = max(self._highest, resident)
        self.reserve = min(reserve, int(maxmemory * MOST))
