"""MemberSet: a set of byte strings that can also draw at random and be walked by number, when somebody asks for it.

Set algebra and `in` are a Python set's. What draws or walks has an index made beside it (`places.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from server.keyspace.values.places import Places
from server.keyspace.weights import MEMBER_OVERHEAD, SET_OVERHEAD, table_weight


class MemberSet:
    """Distinct members without order. `members` may be read (`in`, set algebra) but is changed by methods alone."""

    __slots__ = ("_places", "members")

    def __init__(self, members: set[bytes]) -> None:
        # Taken over, not copied.
        self.members = members
        # None until somebody draws or walks.
        self._places: Places | None = None

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
        if self._places is not None:
            copy._places = self._places.copy(copy.members)
        return copy

    def parts(self) -> list[object]:
        """The containers that its members are in, for taking it apart."""
        return [self.members] if self._places is None else [self.members, *self._places.parts()]

    def weight(self) -> int:
        """Estimated bytes of the whole set. O(n)."""
        size = len(self.members)
        return SET_OVERHEAD + table_weight(size) + MEMBER_OVERHEAD * size + sum(map(len, self.members))

    # -- changing -----------------------------------------------------------------------------------------------------

    def add(self, member: bytes) -> bool:
        """Put a member in; was it missing? O(1)."""
        members = self.members
        if member in members:
            return False
        members.add(member)
        if self._places is not None:
            self._places.added(member)
        return True

    def discard(self, member: bytes) -> bool:
        """Take a member out; was it there? O(1) amortised."""
        if member not in self.members:
            return False
        self.members.discard(member)
        if self._places is not None:
            self._places.removed(member)
        return True

    # -- drawing and walking ------------------------------------------------------------------------------------------

    def _ready(self) -> Places:
        places = self._places
        if places is None:
            places = self._places = Places(self.members)
        return places

    def draw(self, random: Callable[[], float]) -> bytes:
        """A random member; each has the same chance. The set must not be empty. O(1) amortised."""
        return self._ready().draw(random)

    def draw_many(self, count: int, random: Callable[[], float]) -> list[bytes]:
        """So many different members, at most all of them. O(count)."""
        return self._ready().draw_many(count, random)

    def pop(self, random: Callable[[], float]) -> bytes:
        """Take out a random member. The set must not be empty. O(1) amortised."""
        member = (self._places or self._ready()).take(random)
        self.members.discard(member)
        return member

    def walk(self, left: int, count: int) -> tuple[int, list[bytes]]:
        """One step of a walk backwards (`Places.walk`). O(count)."""
        return self._ready().walk(left, count)

    def check(self) -> None:
        """Assert the invariants."""
        if self._places is not None:
            self._places.check()


def member_set_of(members: Iterable[bytes]) -> MemberSet:
    """A set of these members, repeated ones taken once. O(n)."""
    return MemberSet(set(members))
