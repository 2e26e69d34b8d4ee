"""Places: the names of a set or a dictionary by number, so that they can be drawn at random and walked.

A Python set answers `in` at once but cannot name its k-th member, nor can a dictionary. So one that is drawn from
(SPOP, HRANDFIELD) or walked (SSCAN, HSCAN, ZSCAN) gets an index beside it: a list with each name once, made when it is
first asked for. From then on:

- a name that is added goes to the end of the list;
- a name that is removed stays in the list and is noted as *gone*; one that comes back is no longer gone, so no name
  ever stands in the list twice and every draw is fair;
- a draw that meets one that is gone takes it out of the list, the last one moves into its place, and draws again;
- when more than half of the list is gone, it is swept in order.

Chance comes as a function that returns a float from 0 up to 1 (`random.random`): times the size it is a place, and what
53 bits favour is nothing beside four thousand million names.

Every operation is O(1) amortised but for making the index, O(n) once. Order matters to a walk, which goes **backwards**
and keeps the number of places not yet visited: additions come behind it, a sweep moves names only towards the front,
and moving the last one forward repeats a name but skips none (see commands/scan.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# A stale entry in a list costs eight bytes; lists this short are not worth sweeping.
_SWEEP_FROM: Final = 64

Names = set[bytes] | dict[bytes, bytes] | dict[bytes, float]


class Places:
    """An index of a container's names. Whoever changes the container says so."""

    __slots__ = ("gone", "index", "names")

    def __init__(self, names: Names) -> None:
        # The container itself.
        self.names = names
        # Each name once, and those of `gone`.
        self.index = list(names)
        # Removed from the container but not yet from the index.
        self.gone: set[bytes] = set()

    def copy(self, names: Names) -> Places:
        """The same index for a copy of the container. O(n)."""
        copy = Places(())  # type: ignore[arg-type]
        copy.names = names
        copy.index = self.index.copy()
        copy.gone = self.gone.copy()
        return copy

    def parts(self) -> list[object]:
        """The containers that the index consists of, for taking it apart."""
        return [self.index, self.gone]

    def added(self, name: bytes) -> None:
        """The container has a name that it had not."""
        if name in self.gone:
            self.gone.discard(name)
        else:
            self.index.append(name)

    def removed(self, name: bytes) -> None:
        """A name has left the container. O(1) amortised."""
        self.gone.add(name)
        if len(self.gone) > len(self.names) and len(self.index) >= _SWEEP_FROM:
            self._sweep()

    def _sweep(self) -> None:
        names = self.names
        self.index = [name for name in self.index if name in names]
        self.gone.clear()

    # -- drawing ------------------------------------------------------------------------------------------------------

    def _draw_place(self, random: Callable[[], float]) -> int:
        # The place of a random name. At most half of the list is gone, or it is short: two draws on average.
        index = self.index
        gone = self.gone
        while True:
            place = int(random() * len(index))
            if not gone or index[place] not in gone:
                return place
            gone.discard(index[place])
            last = index.pop()
            if place < len(index):
                index[place] = last

    def draw(self, random: Callable[[], float]) -> bytes:
        """A random name; each has the same chance. The container must not be empty. O(1) amortised."""
        return self.index[self._draw_place(random)]

    def draw_many(self, count: int, random: Callable[[], float]) -> list[bytes]:
        """So many different names, at most all of them. O(count)."""
        size = len(self.names)
        if count >= size:
            return list(self.names)
        if 2 * count > size:
            if self.gone:
                self._sweep()
            return _shuffled(self.index.copy(), count, random)
        # Each draw hits a new one with a chance above one half.
        chosen: dict[bytes, None] = {}
        while len(chosen) < count:
            chosen[self.draw(random)] = None
        return list(chosen)

    def take(self, random: Callable[[], float]) -> bytes:
        """Take a random name out of the index; whoever asks removes it from the container. O(1) amortised."""
        index = self.index
        place = self._draw_place(random)
        name = index[place]
        last = index.pop()
        if place < len(index):
            index[place] = last
        return name

    # -- walking ------------------------------------------------------------------------------------------------------

    def walk(self, left: int, count: int) -> tuple[int, list[bytes]]:
        """One step of a walk backwards: the places left after it, and the names found on about `count` places.

        `left` is what the step before returned; 0 begins at the end. O(count).
        """
        size = len(self.index)
        if left <= 0 or left > size:
            left = size
        first = max(0, left - count)
        names = self.index[first:left]
        if self.gone:
            gone = self.gone
            names = [name for name in names if name not in gone]
        return first, names

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self.index) == len(set(self.index))
        assert set(self.index) == set(self.names) | self.gone
        assert not self.gone & set(self.names)


def _shuffled(names: list[bytes], count: int, random: Callable[[], float]) -> list[bytes]:
    # The first steps of a Fisher-Yates shuffle.
    size = len(names)
    for at in range(count):
        other = at + int(random() * (size - at))
        names[at], names[other] = names[other], names[at]
    return names[:count]
