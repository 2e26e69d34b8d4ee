"""The field wheel: which hashes have fields that run out, and when somebody must look.

Few keys have such fields, so this is one heap for a database. A key is in it once for its soonest deadline, or earlier;
one that is deleted leaves its record behind until that time. When records have doubled since the last time, those of
keys that have no such fields any more are dropped, which is O(1) amortised for each record.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from persistence.change import NEVER

# So many records are never worth a look.
_SLACK: Final = 1024


class FieldWheel:
    """Keys by the wall-clock millisecond at which a field of theirs runs out."""

    __slots__ = ("_heap", "_most", "_soonest")

    def __init__(self) -> None:
        self._heap: list[tuple[int, bytes]] = []
        # Key → the time of its earliest record.
        self._soonest: dict[bytes, int] = {}
        # Records at which it is time to drop those of the dead.
        self._most = _SLACK

    def __len__(self) -> int:
        return len(self._soonest)

    def file(self, key: bytes, due_ms: int) -> None:
        """A field of this key runs out then. O(log n)."""
        if due_ms < self._soonest.get(key, NEVER):
            self._soonest[key] = due_ms
            heappush(self._heap, (due_ms, key))

    def due(self, now_ms: int) -> bytes | None:
        """Take out a key whose time has come; None when there is none. The caller files it again if it must."""
        while self._heap and self._heap[0][0] <= now_ms:
            due_ms, key = heappop(self._heap)
            if self._soonest.get(key) == due_ms:
                del self._soonest[key]
                return key
        return None

    def crowded(self) -> bool:
        """Are there so many records that those of the dead should be dropped?"""
        return len(self._heap) > self._most

    def sweep(self, due_ms_of: Callable[[bytes], int]) -> None:
        """Keep the keys that still have such fields; `due_ms_of` answers NEVER for the others. O(n)."""
        self._soonest = {key: due for key in self._soonest if (due := due_ms_of(key)) != NEVER}
        self._heap = [(due, key) for key, due in self._soonest.items()]
        heapify(self._heap)
        self._most = max(_SLACK, 2 * len(self._heap))

    def clear(self) -> list[object]:
        """Every key is gone; the containers that held them."""
        held: list[object] = [self._heap, self._soonest]
        self._heap = []
        self._soonest = {}
        self._most = _SLACK
        return held
