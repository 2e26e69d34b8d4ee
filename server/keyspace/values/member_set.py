"""MemberSet: a set of byte strings that can also draw at random and be walked by number.

A Python set answers `in` at once but cannot name its k-th member. So a set that is drawn from (SPOP, SRANDMEMBER) or
walked (SSCAN) gets an index beside it: a list with each member once, made when it is first asked for. From then on:

- a member that is added goes to the end of the list;
- a member that is removed stays in the list and is noted as *gone*; one that comes back is no longer gone, so no member
  ever stands in the list twice and every draw is fair;
- a draw that meets one that is gone takes it out of the list, the last one moves into its place, and draws again;
- when more than half of the list is gone, it is swept in order.

Chance comes as a function that returns a float from 0 up to 1 (`random.random`): times the size it is a place, and what
53 bits favour is nothing beside four thousand million members.

Every operation is O(1) amortised but for making the index, O(n) once. Order matters to a walk, which goes **backwards**
and keeps the number of places not yet visited: additions come behind it, a sweep moves members only towards the front,
and moving the last one forward repeats a member but skips none (see commands/scan.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from server.keyspace.weights import MEMBER_OVERHEAD, SET_OVERHEAD

# A stale entry in a list costs eight bytes; lists this short are not worth sweeping.
_SWEEP_FROM: Final = 64
# Of every set without an index: an empty set of its own would be a quarter of a small one. Nobody adds to it.
_NOBODY: Final[set[bytes]] = set()


class MemberSet:
    """Distinct members without order. `members` may be read (`in`, set algebra) but is changed by methods alone."""

    __slots__ = ("_gone", "_index", "members")

    def __init__(self, members: set[bytes]) -> None:
        # Taken over, not copied.
        self.members = members
        # Each member once, and those of `_gone`; None until somebody draws or walks.
        self._index: list[bytes] | None = None
        # Removed from `members` but not yet from `_index`; made together with that.
        self._gone: set[bytes] = _NOBODY

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.members)

    def __contains__(self, member: object) -> bool:
        return member in self.members

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MemberSet):
            return self.members == other.members
        if isinstance(other, (set, frozenset)):
            return self.members == other
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"MemberSet({self.members!r})"

    def copy(self) -> MemberSet:
        """The same members, in the same order for those who walk. O(n)."""
        copy = MemberSet(set(self.members))
        if self._index is not None:
            copy._index = list(self._index)
            copy._gone = set(self._gone)
        return copy

    def parts(self) -> list[object]:
        """The containers that its members are in, for taking it apart."""
        return [self.members, self._gone or [], self._index or []]

    def weight(self) -> int:
        """Estimated bytes of the whole set. O(n)."""
        return SET_OVERHEAD + MEMBER_OVERHEAD * len(self.members) + sum(map(len, self.members))

    # -- changing -----------------------------------------------------------------------------------------------------

    def add(self, member: bytes) -> bool:
        """Put a member in; was it missing? O(1)."""
        if member in self.members:
            return False
        self.members.add(member)
        if self._index is not None:
            if member in self._gone:
                self._gone.discard(member)
            else:
                self._index.append(member)
        return True

    def discard(self, member: bytes) -> bool:
        """Take a member out; was it there? O(1) amortised."""
        if member not in self.members:
            return False
        self.members.discard(member)
        if self._index is not None:
            self._gone.add(member)
            if len(self._gone) > len(self.members) and len(self._index) >= _SWEEP_FROM:
                self._sweep(self._index)
        return True

    def _sweep(self, index: list[bytes]) -> None:
        members = self.members
        self._index = [member for member in index if member in members]
        self._gone.clear()

    # -- drawing ------------------------------------------------------------------------------------------------------

    def _ready(self) -> list[bytes]:
        if self._index is None:
            self._index = list(self.members)
            self._gone = set()
        return self._index

    def _draw_place(self, index: list[bytes], random: Callable[[], float]) -> int:
        # The place of a random member. At most half of the list is gone, or it is short: two draws on average.
        while True:
            place = int(random() * len(index))
            if index[place] not in self._gone:
                return place
            self._gone.discard(index[place])
            last = index.pop()
            if place < len(index):
                index[place] = last

    def draw(self, random: Callable[[], float]) -> bytes:
        """A random member; each has the same chance. The set must not be empty. O(1) amortised."""
        index = self._ready()
        return index[self._draw_place(index, random)]

    def draw_many(self, count: int, random: Callable[[], float]) -> list[bytes]:
        """So many different members, at most all of them. O(count)."""
        if count >= len(self.members):
            return list(self.members)
        index = self._ready()
        if 2 * count > len(self.members):
            if self._gone:
                self._sweep(index)
                index = self._ready()
            return _shuffled(list(index), count, random)
        # Each draw hits a new one with a chance above one half.
        chosen: dict[bytes, None] = {}
        while len(chosen) < count:
            chosen[index[self._draw_place(index, random)]] = None
        return list(chosen)

    def pop(self, random: Callable[[], float]) -> bytes:
        """Take out a random member. The set must not be empty. O(1) amortised."""
        index = self._ready()
        place = self._draw_place(index, random)
        member = index[place]
        last = index.pop()
        if place < len(index):
            index[place] = last
        self.members.discard(member)
        return member

    # -- walking ------------------------------------------------------------------------------------------------------

    def walk(self, left: int, count: int) -> tuple[int, list[bytes]]:
        """One step of a walk backwards: the places left after it, and the members found on about `count` places.

        `left` is what the step before returned; 0 begins at the end. O(count).
        """
        index = self._ready()
        size = len(index)
        if left <= 0 or left > size:
            left = size
        first = max(0, left - count)
        names = index[first:left]
        if self._gone:
            gone = self._gone
            names = [name for name in names if name not in gone]
        return first, names


def _shuffled(names: list[bytes], count: int, random: Callable[[], float]) -> list[bytes]:
    # The first steps of a Fisher-Yates shuffle.
    size = len(names)
    for at in range(count):
        other = at + int(random() * (size - at))
        names[at], names[other] = names[other], names[at]
    return names[:count]


def member_set_of(members: Iterable[bytes]) -> MemberSet:
    """A set of these members, repeated ones taken once. O(n)."""
    return MemberSet(set(members))
