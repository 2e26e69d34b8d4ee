"""SortedSet: members with scores, in the order of (score, member).

A dictionary knows each member's score; a ScoreOrder (`score_order.py`) knows the order. It is made when somebody first
asks for order, so a set that is only written and looked up by member never pays for it; but a set that grows member by
member past `_LAZY` gets it there and then, while making it is a fraction of a millisecond: no later command stops to
sort a million members that came one at a time. One that came as a whole, from a store or by ZUNIONSTORE, is sorted by
the first who asks for its order: 0.2 ms for a thousand members, half a second for a million.

Ranks are numbered from 0. A range of ranks is (first, end), end not included; the three ways to name a range (rank,
score, text) become one such pair in O(log n), and what is done with it is O(log n + members in it). Scores compare
as numbers, -0 equal to 0; members as bytes. Scores are never NaN.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator
from typing import Final

from server.keyspace.values.places import Places
from server.keyspace.values.score_order import ScoreOrder
from server.keyspace.weights import SCORED_OVERHEAD, SORTED_SET_OVERHEAD

# Sorting so many members takes about a tenth of a millisecond.
_LAZY: Final = 512


class SortedSet:
    """Distinct members, each with a score. `scores` may be read but is changed by methods alone."""

    __slots__ = ("_order", "_places", "scores")

    def __init__(self, scores: dict[bytes, float]) -> None:
        # Taken over, not copied.
        self.scores = scores
        # None until somebody asks for order.
        self._order: ScoreOrder | None = None
        # None until somebody walks.
        self._places: Places | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.scores)

    def __contains__(self, member: object) -> bool:
        return member in self.scores

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SortedSet):
            return self.scores == other.scores
        if isinstance(other, dict):
            return self.scores == other
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SortedSet({self.scores!r})"

    def items(self) -> ItemsView[bytes, float]:
        """Members with their scores, in no particular order."""
        return self.scores.items()

    def get(self, member: bytes) -> float | None:
        """The score of a member; None when it is absent. O(1)."""
        return self.scores.get(member)

    def copy(self) -> SortedSet:
        """The same members and scores. O(n)."""
        copy = SortedSet(dict(self.scores))
        if self._order is not None:
            copy._order = self._order.copy(copy.scores)
        if self._places is not None:
            copy._places = self._places.copy(copy.scores)
        return copy

    def parts(self) -> list[object]:
        """The containers that its members are in, for taking it apart."""
        order = self._order.parts() if self._order is not None else []
        places = self._places.parts() if self._places is not None else []
        return [self.scores, *order, *places]

    def weight(self) -> int:
        """Estimated bytes of the whole set. O(n)."""
        return SORTED_SET_OVERHEAD + SCORED_OVERHEAD * len(self.scores) + sum(map(len, self.scores))

    # -- changing -----------------------------------------------------------------------------------------------------

    def put(self, member: bytes, score: float) -> None:
        """Give a member a score, whether it is new or not. O(log n)."""
        old = self.scores.get(member)
        if old is None:
            self.add(member, score)
        else:
            self.move(member, old, score)

    def add(self, member: bytes, score: float) -> None:
        """Put in a member that is absent. O(log n)."""
        scores = self.scores
        scores[member] = score
        order = self._order
        if order is not None:
            order.add(score, member)
        elif len(scores) == _LAZY:
            self._sort()
        if self._places is not None:
            self._places.added(member)

    def move(self, member: bytes, old: float, score: float) -> None:
        """Give a member that has the score `old` another one. O(log n)."""
        order = self._order
        if order is not None:
            order.remove(old, member)
        self.scores[member] = score
        if order is not None:
            order.add(score, member)

    def discard(self, member: bytes) -> bool:
        """Take a member out; was it there? O(log n)."""
        score = self.scores.get(member)
        if score is None:
            return False
        if self._order is not None:
            self._order.remove(score, member)
        del self.scores[member]
        if self._places is not None:
            self._places.removed(member)
        return True

    def take(self, first: int, end: int) -> list[tuple[float, bytes]]:
        """Take out a range of ranks; what was in it, in order. O(log n + members taken)."""
        order = self._order if self._order is not None else self._sort()
        taken = order.take(first, end)
        for _, member in taken:
            del self.scores[member]
            if self._places is not None:
                self._places.removed(member)
        return taken

    def _sort(self) -> ScoreOrder:
        order = self._order = ScoreOrder(self.scores)
        return order

    # -- order --------------------------------------------------------------------------------------------------------

    def rank(self, member: bytes) -> int | None:
        """How many members stand before this one; None when it is absent. O(log n)."""
        score = self.scores.get(member)
        if score is None:
            return None
        order = self._order if self._order is not None else self._sort()
        return order.rank(score, member)

    def slice(self, first: int, end: int, reverse: bool = False) -> list[tuple[float, bytes]]:
        """(score, member) of a range of ranks, the highest first with `reverse`. O(log n + members in it)."""
        order = self._order if self._order is not None else self._sort()
        pairs = order.slice(first, end)
        if reverse:
            pairs.reverse()
        return pairs

    def at(self, rank: int) -> tuple[float, bytes]:
        """(score, member) at a rank that exists. O(log n)."""
        order = self._order if self._order is not None else self._sort()
        return order.at(rank)

    def draw_many(self, count: int, randrange: Callable[[int], int]) -> list[tuple[float, bytes]]:
        """(score, member) of so many different random members, at most of all. O(count · log n)."""
        size = len(self.scores)
        if count >= size:
            return self.slice(0, size)
        if 2 * count > size:
            # The first steps of a Fisher-Yates shuffle.
            pairs = self.slice(0, size)
            for place in range(count):
                other = place + randrange(size - place)
                pairs[place], pairs[other] = pairs[other], pairs[place]
            return pairs[:count]
        # Each draw hits a new rank with a chance above one half.
        ranks: dict[int, None] = {}
        while len(ranks) < count:
            ranks[randrange(size)] = None
        return [self.at(rank) for rank in ranks]

    def by_score(self, low: float, high: float, without_low: bool, without_high: bool) -> tuple[int, int]:
        """The ranks of the scores from `low` to `high`, without these two where said; empty: first ≥ end. O(log n)."""
        order = self._order if self._order is not None else self._sort()
        first = order.up_to(low) if without_low else order.below(low)
        end = order.below(high) if without_high else order.up_to(high)
        return first, end

    def by_text(self, low: bytes | None, high: bytes | None, without_low: bool, without_high: bool) -> tuple[int, int]:
        """The ranks of the members from `low` to `high`, None for no bound, when all have the same score. O(log n).

        With different scores it is the range among members of the lowest score; Redis leaves that case open.
        """
        order = self._order if self._order is not None else self._sort()
        if not self.scores:
            return 0, 0
        score = order.at(0)[0]
        first = 0
        if low is not None:
            first = order.rank(score, low) + (without_low and self.scores.get(low) == score)
        end = len(self.scores)
        if high is not None:
            end = order.rank(score, high) + (not without_high and self.scores.get(high) == score)
        return first, end

    def walk(self, left: int, count: int) -> tuple[int, list[bytes]]:
        """One step of a walk backwards, in no order of scores (`Places.walk`). O(count)."""
        if self._places is None:
            self._places = Places(self.scores)
        return self._places.walk(left, count)

    def check(self) -> None:
        """Assert the invariants."""
        if self._order is not None:
            self._order.check()
        if self._places is not None:
            self._places.check()
