"""ExpiringHash: a hash of which some fields have a lifetime of their own.

A hash is a plain `dict[bytes, bytes]` until a field is given a lifetime; then it becomes one of these, which is still
that dictionary, with deadlines beside it. They are wall-clock milliseconds, unlike the deadlines of keys: as data they
go to databases, journals and payloads unchanged, and whoever holds a hash without knowing the clock can keep it.

Nobody but the keyspace removes a field whose time has come; what is read from a store may hold such fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from persistence.change import NEVER

# Superseded deadlines that are tolerated in a small heap.
_SLACK: Final = 64


class ExpiringHash(dict[bytes, bytes]):
    """Fields with values, and the deadlines of some. `deadlines` may be read but is changed by methods alone."""

    __slots__ = ("_heap", "deadlines")

    def __init__(self, fields: Mapping[bytes, bytes], deadlines: dict[bytes, int]) -> None:
        super().__init__(fields)
        # Field → wall-clock milliseconds; taken over, not copied. Every field in it exists.
        self.deadlines = deadlines
        # (deadline, field) of each, and of deadlines that were changed since.
        self._heap = [(deadline_ms, field) for field, deadline_ms in deadlines.items()]
        heapify(self._heap)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, dict) or not dict.__eq__(self, other):
            return False
        return self.deadlines == (other.deadlines if isinstance(other, ExpiringHash) else {})

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def copy(self) -> ExpiringHash:
        """The same fields and deadlines. O(n)."""
        return ExpiringHash(self, dict(self.deadlines))

    def soonest_ms(self) -> int:
        """No deadline comes before this; NEVER when there is none. O(1)."""
        return self._heap[0][0] if self._heap else NEVER

    def expire(self, field: bytes, deadline_ms: int) -> bool:
        """Give a field that exists a deadline; is it the first that it has? O(log n)."""
        is_first = field not in self.deadlines
        self.deadlines[field] = deadline_ms
        if len(self._heap) > 2 * len(self.deadlines) + _SLACK:
            self._heap = [(deadline, name) for name, deadline in self.deadlines.items()]
            heapify(self._heap)
        else:
            heappush(self._heap, (deadline_ms, field))
        return is_first

    def persist(self, field: bytes) -> bool:
        """Take a field's deadline away, for one that stays or goes; had it one? O(1)."""
        return self.deadlines.pop(field, None) is not None

    def take_due(self, now_ms: int) -> list[tuple[bytes, bytes]]:
        """Take out the fields whose time has come, with their values. O(log n) for each."""
        gone: list[tuple[bytes, bytes]] = []
        heap = self._heap
        while heap and heap[0][0] <= now_ms:
            deadline_ms, field = heappop(heap)
            if self.deadlines.get(field) == deadline_ms:
                del self.deadlines[field]
                gone.append((field, self.pop(field)))
        return gone


def deadlines_of(value: object) -> dict[bytes, int]:
    """The deadlines of a hash's fields in wall-clock milliseconds; empty for a plain one."""
    return value.deadlines if isinstance(value, ExpiringHash) else {}
