"""Excerpts: large values that a reply reads by and by, as they were at the moment of the command.

The problem: a list of a million members takes 15 to 300 ms to make, and nobody else is served meanwhile. So the reply
makes its elements a thousand at a time, out of the value itself (server/long_replies.py). But between two of these
steps somebody may change the value, and the reply must be what it was at one moment.

The method: whatever is about to change a value in place says so first (`Database.edit`), and then what is left of the
excerpt is taken at once: the change waits for as long as the read would have made everybody wait. A value that is
overwritten or deleted is not changed; it only is the excerpt's alone from then on, which is why the graveyard gets it
from here in the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Final

from server.keyspace.values.list_value import ListValue
from server.keyspace.values.sorted_set import SortedSet

# Values of so many elements are read at once: 2 ms.
AT_ONCE: Final = 10_000
_STEP: Final = 1000
_ALL: Final = 1 << 62


class Excerpt(ABC):
    """Elements of a value that are still to be read, once."""

    __slots__ = ("_rest", "value")

    def __init__(self, value: object) -> None:
        # What must not change meanwhile; None: it may.
        self.value: object = value
        # The elements that are left, the next one last, once they were taken out of the value.
        self._rest: list[object] | None = None

    def take(self, count: int) -> list[object]:
        """The next elements, so many or a few more; empty when there are none left."""
        rest = self._rest
        if rest is None:
            return self._read(count)
        part = rest[: -count - 1 : -1]
        del rest[-count:]
        return part

    def detach(self) -> None:
        """The value is about to change: take what is left. O(what is left)."""
        if self._rest is None:
            rest = self._read(_ALL)
            rest.reverse()
            self._rest = rest
        self.value = None

    def __iter__(self) -> Iterator[object]:
        while part := self.take(_STEP):
            yield from part

    @abstractmethod
    def _read(self, count: int) -> list[object]:
        """The next elements out of the value."""


class Whole(Excerpt):
    """Elements that are nobody else's. Takes them out of the list."""

    __slots__ = ()

    def __init__(self, items: list[object]) -> None:
        super().__init__(None)
        items.reverse()
        self._rest = items

    def _read(self, count: int) -> list[object]:
        return []


class Members(Excerpt):
    """What an iterator over a value's container yields."""

    __slots__ = ("_items",)

    def __init__(self, value: object, items: Iterator[object]) -> None:
        super().__init__(value)
        self._items = items

    def _read(self, count: int) -> list[object]:
        return list(islice(self._items, count))


class Places(Excerpt):
    """The elements of a list from one place to another."""

    __slots__ = ("_at", "_end", "_items")

    def __init__(self, items: ListValue, first: int, end: int) -> None:
        super().__init__(items)
        self._items = items
        self._at = first
        self._end = end

    def _read(self, count: int) -> list[object]:
        first = self._at
        self._at = end = min(first + count, self._end)
        return [*self._items.slice(first, end)] if first < end else []


class Ranks(Excerpt):
    """The members of a sorted set from one rank to another: alone, before their scores, or in pairs with them."""

    __slots__ = ("_at", "_end", "_in_pairs", "_is_reversed", "_items", "_with_scores")

    def __init__(
        self, items: SortedSet, first: int, end: int, is_reversed: bool, with_scores: bool, in_pairs: bool
    ) -> None:
        super().__init__(items)
        self._items = items
        self._at = first
        self._end = end
        # From the end to the first.
        self._is_reversed = is_reversed
        self._with_scores = with_scores
        self._in_pairs = in_pairs

    def _read(self, count: int) -> list[object]:
        first, end = self._at, self._end
        if first >= end:
            return []
        if self._is_reversed:
            self._end = first = max(first, end - count)
        else:
            self._at = end = min(end, first + count)
        pairs = self._items.slice(first, end, self._is_reversed)
        if not self._with_scores:
            return [member for _, member in pairs]
        if self._in_pairs:
            return [[member, points] for points, member in pairs]
        return [part for points, member in pairs for part in (member, points)]
