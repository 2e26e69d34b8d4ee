"""IdMap: values under rising 128-bit numbers, in their order: a stream's entries, and what is pending of them.

Nearly all additions come behind the last number, nearly all removals from the front. So numbers and values lie in
*blocks* of a hundred, each two parallel lists, and one list holds the first number of every block: an addition appends
to the last block; anything else bisects twice, at C speed, and then moves at most a block. A block that runs empty is
taken out. Ranges are read in both directions without copying more than what is asked for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# As many entries as a node of a Redis stream has: trimming that is only approximate stops at the same places.
BLOCK: Final = 100


class IdMap(Generic[T]):
    """Numbers, each with a value. Iterates over pairs."""

    __slots__ = ("_firsts", "_numbers", "_size", "_values")

    def __init__(self) -> None:
        # For each block its first number, its numbers and their values. Without blocks all three are empty.
        self._firsts: list[int] = []
        self._numbers: list[list[int]] = []
        self._values: list[list[T]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[tuple[int, T]]:
        for numbers, values in zip(self._numbers, self._values, strict=True):
            yield from zip(numbers, values, strict=True)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self._firsts)

    def _place(self, number: int) -> tuple[int, int]:
        # The block in which a number stands or would stand, and its place there. There must be a block.
        block = max(0, bisect_right(self._firsts, number) - 1)
        return block, bisect_left(self._numbers[block], number)

    def get(self, number: int) -> T | None:
        """The value of a number; None when it is absent. O(log n)."""
        if not self._size:
            return None
        block, place = self._place(number)
        numbers = self._numbers[block]
        return self._values[block][place] if place < len(numbers) and numbers[place] == number else None

    def first(self) -> int:
        """The lowest number; 0 when there is none."""
        return self._firsts[0] if self._firsts else 0

    def last(self) -> int:
        """The highest number; 0 when there is none."""
        return self._numbers[-1][-1] if self._numbers else 0

    def put(self, number: int, value: T) -> None:
        """Give a number its value, whatever it had. O(1) behind the last, O(log n + block) otherwise."""
        if not self._firsts or number > self._numbers[-1][-1]:
            if not self._firsts or len(self._numbers[-1]) >= BLOCK:
                self._firsts.append(number)
                self._numbers.append([])
                self._values.append([])
            self._numbers[-1].append(number)
            self._values[-1].append(value)
            self._size += 1
            return
        block, place = self._place(number)
        numbers = self._numbers[block]
        if place < len(numbers) and numbers[place] == number:
            self._values[block][place] = value
            return
        numbers.insert(place, number)
        self._values[block].insert(place, value)
        self._firsts[block] = numbers[0]
        self._size += 1
        if len(numbers) > 2 * BLOCK:
            self._split(block)

    def _split(self, block: int) -> None:
        numbers = self._numbers[block]
        values = self._values[block]
        self._numbers.insert(block + 1, numbers[BLOCK:])
        self._values.insert(block + 1, values[BLOCK:])
        self._firsts.insert(block + 1, numbers[BLOCK])
        del numbers[BLOCK:]
        del values[BLOCK:]

    def pop(self, number: int) -> T | None:
        """Take a number out; its value, or None when it was absent. O(log n + block)."""
        if not self._size:
            return None
        block, place = self._place(number)
        numbers = self._numbers[block]
        if place == len(numbers) or numbers[place] != number:
            return None
        del numbers[place]
        value = self._values[block].pop(place)
        self._size -= 1
        if numbers:
            self._firsts[block] = numbers[0]
        else:
            del self._firsts[block], self._numbers[block], self._values[block]
        return value

    # -- from the front -----------------------------------------------------------------------------------------------

    def first_block(self) -> tuple[list[int], list[T]]:
        """Numbers and values of the first block, to be looked at. There must be one."""
        return self._numbers[0], self._values[0]

    def drop_first(self, count: int) -> None:
        """Take the first `count` numbers of the first block out; at most all of them."""
        numbers = self._numbers[0]
        self._size -= count
        if count == len(numbers):
            del self._firsts[0], self._numbers[0], self._values[0]
            return
        del numbers[:count]
        del self._values[0][:count]
        self._firsts[0] = numbers[0]

    # -- ranges -------------------------------------------------------------------------------------------------------

    def upward(self, low: int, high: int) -> Iterator[tuple[int, T]]:
        """The pairs with low ≤ number ≤ high, rising. O(log n) to begin. Nothing may change meanwhile."""
        if not self._size or low > high:
            return
        block, place = self._place(low)
        while block < len(self._numbers):
            numbers = self._numbers[block]
            values = self._values[block]
            while place < len(numbers):
                if numbers[place] > high:
                    return
                yield numbers[place], values[place]
                place += 1
            block += 1
            place = 0

    def downward(self, high: int, low: int) -> Iterator[tuple[int, T]]:
        """The pairs with low ≤ number ≤ high, falling. O(log n) to begin. Nothing may change meanwhile."""
        if not self._size or low > high:
            return
        block = max(0, bisect_right(self._firsts, high) - 1)
        place = bisect_right(self._numbers[block], high) - 1
        while block >= 0:
            numbers = self._numbers[block]
            values = self._values[block]
            while place >= 0:
                if numbers[place] < low:
                    return
                yield numbers[place], values[place]
                place -= 1
            block -= 1
            if block >= 0:
                place = len(self._numbers[block]) - 1

    def parts(self) -> list[object]:
        """The containers that its values are in, for taking it apart."""
        return [self._firsts, self._numbers, self._values]

    def check(self) -> None:
        """Assert the invariants."""
        assert self._size == sum(map(len, self._numbers))
        assert self._firsts == [numbers[0] for numbers in self._numbers]
        assert [len(numbers) for numbers in self._numbers] == [len(values) for values in self._values]
        every = [number for number, _ in self]
        assert every == sorted(set(every))
