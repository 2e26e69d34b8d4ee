"""ListValue: a sequence of byte strings that is cheap at both ends and never slow in the middle.

A Python list pays O(n) at its left end; a `collections.deque` pays 760 bytes when it is empty, walks one element at a
time to read a range in the middle and rotates itself to insert there. So a list is kept in *blocks* of a thousand:

    front (reversed) · middle: a deque of lists, in order · back

A push at the left appends to `front`, a push at the right to `back`; a full one becomes the outermost block of the
middle. A pop takes from its own end, then from the outermost block of the middle, then half of what the other end has.
All of that is O(1) amortised, with no step longer than a block. What lies in the middle is found by stepping over
blocks from the nearer end: n ÷ 2,000 steps at most, as Redis steps over the nodes of a quicklist. A short list, the
usual case, is one or two Python lists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final

from server.keyspace.weights import ITEM_OVERHEAD, LIST_OVERHEAD

# Elements of a full block. Half of it is moved at once when a list is used as a queue, which takes some microseconds;
# a million elements make a thousand blocks to step over. The square root of the sizes that matter.
BLOCK: Final = 1024


class ListValue:
    """Byte strings in order; positions count from 0. Empty only between a change and the removal of its key."""

    __slots__ = ("_back", "_front", "_inner", "_middle", "size")

    def __init__(self, items: Iterable[bytes] = ()) -> None:
        # The first elements in reverse order, and the last ones.
        self._front: list[bytes] = []
        self._back = list(items)
        # What lies between them in blocks, none empty; and how many elements that is.
        self._middle: deque[list[bytes]] | None = None
        self._inner = 0
        # How many there are; for reading.
        self.size = len(self._back)
        if self.size > BLOCK:
            self._spill_back()

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        return chain(reversed(self._front), chain.from_iterable(self._middle or ()), self._back)

    def __reversed__(self) -> Iterator[bytes]:
        middle = self._middle or ()
        return chain(reversed(self._back), chain.from_iterable(map(reversed, reversed(middle))), self._front)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (ListValue, list)):
            return len(self) == len(other) and all(map(bytes.__eq__, self, other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ListValue({list(self)!r})"

    def copy(self) -> ListValue:
        """The same elements. O(n)."""
        copy = ListValue()
        copy._front = self._front.copy()
        copy._back = self._back.copy()
        if self._middle:
            copy._middle = deque([block.copy() for block in self._middle])
            copy._inner = self._inner
        copy.size = self.size
        return copy

    def weight(self) -> int:
        """Estimated bytes of the whole list. O(n)."""
        total = LIST_OVERHEAD + ITEM_OVERHEAD * self.size + sum(map(len, self._back))
        if self._front:
            total += sum(map(len, self._front))
        if self._middle:
            total += sum(map(len, chain.from_iterable(self._middle)))
        return total

    def parts(self) -> list[object]:
        """The containers that its elements are in, for taking it apart."""
        return [self._front, self._middle or [], self._back]

    # -- the ends -----------------------------------------------------------------------------------------------------

    def push_left(self, item: bytes) -> int:
        """Put an element before the first; the length afterwards. O(1) amortised."""
        front = self._front
        front.append(item)
        if len(front) > BLOCK:
            self._spill_front()
        size = self.size + 1
        self.size = size
        return size

    def push_right(self, item: bytes) -> int:
        """Put an element behind the last; the length afterwards. O(1) amortised."""
        back = self._back
        back.append(item)
        if len(back) > BLOCK:
            self._spill_back()
        size = self.size + 1
        self.size = size
        return size

    def extend(self, items: Iterable[bytes]) -> None:
        """Put elements behind the last, in order."""
        back = self._back
        self.size -= len(back)
        back.extend(items)
        self.size += len(back)
        if len(back) > BLOCK:
            self._spill_back()

    def extend_left(self, items: Iterable[bytes]) -> None:
        """Put elements before the first, one by one: the last of them is the first in the end."""
        front = self._front
        self.size -= len(front)
        front.extend(items)
        self.size += len(front)
        if len(front) > BLOCK:
            self._spill_front()

    # What is full goes to the middle, in blocks; those that came last stay.

    def _spill_front(self) -> None:
        front = self._front
        middle = self._enclose()
        full = len(front) - len(front) % BLOCK
        for at in range(0, full, BLOCK):
            block = front[at : at + BLOCK]
            block.reverse()
            middle.appendleft(block)
        self._inner += full
        del front[:full]

    def _spill_back(self) -> None:
        back = self._back
        middle = self._enclose()
        full = len(back) - len(back) % BLOCK
        for at in range(0, full, BLOCK):
            middle.append(back[at : at + BLOCK])
        self._inner += full
        del back[:full]

    def _enclose(self) -> deque[list[bytes]]:
        if self._middle is None:
            self._middle = deque()
        return self._middle

    def pop_left(self) -> bytes:
        """Take out the first element; IndexError when there is none. O(1) amortised."""
        if not self._front:
            self._refill_front()
        item = self._front.pop()
        self.size -= 1
        return item

    def pop_right(self) -> bytes:
        """Take out the last element; IndexError when there is none. O(1) amortised."""
        if not self._back:
            self._refill_back()
        item = self._back.pop()
        self.size -= 1
        return item

    def _refill_front(self) -> None:
        if self._middle:
            self._front = self._middle.popleft()
            self._inner -= len(self._front)
        else:
            half = (len(self._back) + 1) // 2
            self._front = self._back[:half]
            del self._back[:half]
        self._front.reverse()

    def _refill_back(self) -> None:
        if self._middle:
            self._back = self._middle.pop()
            self._inner -= len(self._back)
        else:
            half = (len(self._front) + 1) // 2
            self._back = self._front[:half]
            del self._front[:half]
            self._back.reverse()

    # -- by position --------------------------------------------------------------------------------------------------

    def _find(self, at: int) -> tuple[int, list[bytes], int]:
        # The block of the middle that holds position `at` of the middle: its number, itself, the place inside. Stepped
        # to from the nearer end.
        middle = self._middle
        assert middle is not None
        if at < self._inner // 2:
            for number, block in enumerate(middle):
                if at < len(block):
                    return number, block, at
                at -= len(block)
        else:
            behind = self._inner - at
            for number, block in enumerate(reversed(middle)):
                if behind <= len(block):
                    return len(middle) - 1 - number, block, len(block) - behind
                behind -= len(block)
        raise IndexError(at)

    def get(self, at: int) -> bytes:
        """The element at a position, 0 … length - 1. O(1) near the ends, O(n ÷ block) otherwise."""
        before = len(self._front)
        if at < before:
            return self._front[before - 1 - at]
        at -= before
        if at >= self._inner:
            return self._back[at - self._inner]
        _, block, place = self._find(at)
        return block[place]

    def set(self, at: int, item: bytes) -> bytes:
        """Replace the element at a position: the one that stood there. As fast as `get`."""
        before = len(self._front)
        if at < before:
            block, place = self._front, before - 1 - at
        elif at - before >= self._inner:
            block, place = self._back, at - before - self._inner
        else:
            _, block, place = self._find(at - before)
        old = block[place]
        block[place] = item
        return old

    def slice(self, first: int, end: int) -> list[bytes]:
        """The elements from `first` up to but not including `end`; 0 ≤ first ≤ end ≤ length. O(n ÷ block + result)."""
        before = len(self._front)
        inner_end = before + self._inner
        found: list[bytes] = []
        if first < before:
            found = self._front[before - min(end, before) : before - first]
            found.reverse()
        if self._middle and first < inner_end and end > before:
            self._slice_middle(max(first - before, 0), min(end, inner_end) - before, found)
        if end > inner_end:
            found += self._back[max(first - inner_end, 0) : end - inner_end]
        return found

    def _slice_middle(self, first: int, end: int, found: list[bytes]) -> None:
        if first >= end:
            return
        assert self._middle is not None
        number, block, place = self._find(first)
        blocks = islice(self._middle, number, None)
        left = end - first
        while left > 0:
            block = next(blocks)
            part = block[place : place + left]
            found += part
            left -= len(part)
            place = 0

    def insert(self, at: int, item: bytes) -> None:
        """Put an element at a position, before what stood there; 0 ≤ at ≤ length. O(n ÷ block + block)."""
        before = len(self._front)
        if at <= before and before:
            self._front.insert(before - at, item)
            if len(self._front) > BLOCK:
                self._spill_front()
        elif at - before >= self._inner:
            self._back.insert(at - before - self._inner, item)
            if len(self._back) > BLOCK:
                self._spill_back()
        else:
            number, block, place = self._find(at - before)
            block.insert(place, item)
            self._inner += 1
            if len(block) > 2 * BLOCK:
                assert self._middle is not None
                self._middle.insert(number + 1, block[BLOCK:])
                del block[BLOCK:]
        self.size += 1

    # -- taking out ---------------------------------------------------------------------------------------------------

    def trim(self, first: int, end: int) -> int:
        """Keep the elements from `first` up to but not including `end`; the bytes of the others. O(their number)."""
        return self._drop_right(self.size - end) + self._drop_left(first)

    def _drop_left(self, count: int) -> int:
        freed = 0
        while count > 0:
            if not self._front:
                self._refill_front()
            front = self._front
            kept = max(0, len(front) - count)
            gone = front[kept:]
            del front[kept:]
            freed += self._lighten(gone)
            count -= len(gone)
        return freed

    def _drop_right(self, count: int) -> int:
        freed = 0
        while count > 0:
            if not self._back:
                self._refill_back()
            back = self._back
            kept = max(0, len(back) - count)
            gone = back[kept:]
            del back[kept:]
            freed += self._lighten(gone)
            count -= len(gone)
        return freed

    def _lighten(self, gone: list[bytes]) -> int:
        self.size -= len(gone)
        return ITEM_OVERHEAD * len(gone) + sum(map(len, gone))

    def remove(self, item: bytes, count: int) -> int:
        """Take out elements equal to `item`; how many. `count` > 0: at most so many from the left, < 0: from the
        right, 0: all. O(n) at C speed."""
        limit = abs(count) if count else len(self)
        removed = 0
        # Blocks in the order of the search; `front` is the only one that lies the wrong way round.
        self._front.reverse()
        blocks = [self._front, *(self._middle or ()), self._back]
        for block in blocks if count >= 0 else reversed(blocks):
            if removed == limit:
                break
            removed += _take_out(block, item, limit - removed, count < 0)
        self._front.reverse()
        self.size -= removed
        if removed and self._middle:
            self._close_gaps()
        return removed

    def _close_gaps(self) -> None:
        # Neighbours that fit into one block become one: what is left of a list must not keep the blocks of what it was.
        assert self._middle is not None
        closed: deque[list[bytes]] = deque()
        self._inner = 0
        for block in self._middle:
            if not block:
                continue
            if closed and len(closed[-1]) + len(block) <= BLOCK:
                closed[-1] += block
            else:
                closed.append(block)
            self._inner += len(block)
        self._middle = closed or None

    # -- searching ----------------------------------------------------------------------------------------------------

    def position(self, item: bytes) -> int:
        """Position of the first element equal to `item`; -1 when there is none. O(n) at C speed."""
        found = self.positions(item, False, 1, 1, len(self))
        return found[0] if found else -1

    def positions(self, item: bytes, from_right: bool, rank: int, limit: int, most: int) -> list[int]:
        """Positions of elements equal to `item`, from its `rank`-th occurrence (1: the first) on, at most `limit`.

        Looks at no more than `most` elements, beginning at the left or at the right end.
        """
        found: list[int] = []
        length = len(self)
        passed = 0
        for block in self._blocks(from_right):
            if passed >= most:
                break
            place = -1
            while True:
                try:
                    place = block.index(item, place + 1)
                except ValueError:
                    break
                if passed + place >= most:
                    return found
                rank -= 1
                if rank <= 0:
                    found.append(length - 1 - passed - place if from_right else passed + place)
                    if len(found) >= limit:
                        return found
            passed += len(block)
        return found

    def _blocks(self, from_right: bool) -> Iterator[list[bytes]]:
        # The blocks in the order of a search, each lying in that direction.
        middle: Iterable[list[bytes]] = self._middle or ()
        if not from_right:
            yield self._front[::-1]
            yield from middle
            yield self._back
            return
        yield self._back[::-1]
        for block in reversed(self._middle or deque()):
            yield block[::-1]
        yield self._front

    def check(self) -> None:
        """Assert the invariants."""
        middle = self._middle or ()
        assert self._inner == sum(map(len, middle))
        assert all(0 < len(block) <= 2 * BLOCK for block in middle)
        assert len(self._front) <= BLOCK * 2 and len(self._back) <= BLOCK * 2
        assert self.size == len(self._front) + self._inner + len(self._back)
        assert self.weight() == LIST_OVERHEAD + sum(ITEM_OVERHEAD + len(item) for item in self)


def _take_out(block: list[bytes], item: bytes, limit: int, from_right: bool) -> int:
    # Take at most `limit` elements equal to `item` out of a block, from one side; how many.
    there = block.count(item)
    if not there:
        return 0
    if there <= limit:
        block[:] = [each for each in block if each != item]
        return there
    if from_right:
        block.reverse()
    last = -1
    for _ in range(limit):
        last = block.index(item, last + 1)
    block[: last + 1] = [each for each in block[: last + 1] if each != item]
    if from_right:
        block.reverse()
    return limit
