"""ScoreOrder: the members of a sorted set in the order of (score, member), found by score and by rank.

The problem: a pair (score, member) per member is an object of 56 bytes, and comparing two of them costs six times what
comparing two floats does, which is what sorting a million members and every search among them consist of. So there are
no pairs. Members lie in *blocks* of some hundreds, and their scores in lists beside them, so that a search is three
bisections of plain numbers at C speed:

    the highest score of each block  →  the scores of the block that it names  →  members of that score, if several

A search among members of equal score goes by the blocks' last members first (`_ends`). Where members are counted
(ranks), the blocks' sizes are added up, thirty-two blocks at a time: `_groups` holds their sums, and n ÷ 16,000
additions are less than a tree would cost up to a hundred million members.

A set that comes as a whole is sorted by its scores alone; members are compared only if scores repeat. The lists of
scores are made block by block when somebody first looks into one, because reading a million scores in an order that is
not the dictionary's costs as much as the sorting: memory is fast only where one thing lies behind the other.

*Rejected:* a balanced tree or a skip list (objects per member, chains of cache misses); bisecting the members with
`key=` (ten looks into a large dictionary per search: five times slower).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import partial
from itertools import islice
from operator import is_
from typing import Final, cast

# Members of a block as it is made; one of twice the size is split, so that an insertion moves a few kilobytes.
BLOCK: Final = 512
# Below so many members a block looks for a neighbour to lie with.
_FEW: Final = BLOCK // 4
# Blocks whose sizes are added up in advance: 2 to the power of this.
_GROUP_SHIFT: Final = 5
_GROUP: Final = 1 << _GROUP_SHIFT


class ScoreOrder:
    """Members by (score, member). The scores belong to the sorted set; what changes there must be told here."""

    __slots__ = ("_blocks", "_ends", "_groups", "_held", "_points", "_scores", "_size", "_tops")

    def __init__(self, scores: dict[bytes, float]) -> None:
        # The sorted set's own dictionary.
        self._scores = scores
        # The same, as objects: compiled code would make a second number of each that passes through its hands.
        self._held = cast(dict[bytes, object], scores)
        members = _arranged(scores)
        self._size = len(members)
        # No block is empty.
        self._blocks: list[list[bytes]] = [members[at : at + BLOCK] for at in range(0, len(members), BLOCK)]
        # The scores of each block; None until somebody looks.
        self._points: list[list[float] | None] = [None] * len(self._blocks)
        # The last score of each block, and the member that has it.
        self._tops: list[float] = [scores[block[-1]] for block in self._blocks]
        self._ends: list[bytes] = [block[-1] for block in self._blocks]
        # Members in blocks 0 … 31, 32 … 63, and so on.
        self._groups: list[int] = []
        self._regroup()

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            yield from block

    def copy(self, scores: dict[bytes, float]) -> ScoreOrder:
        """The same order for a copy of the scores. O(n)."""
        copy = ScoreOrder({})
        copy._scores = scores
        copy._held = cast(dict[bytes, object], scores)
        copy._size = self._size
        copy._blocks = [block.copy() for block in self._blocks]
        copy._points = [points.copy() if points is not None else None for points in self._points]
        copy._tops = self._tops.copy()
        copy._ends = self._ends.copy()
        copy._groups = self._groups.copy()
        return copy

    def parts(self) -> list[object]:
        """The containers that the order consists of, for taking it apart."""
        return [self._blocks, self._points, self._tops, self._ends, self._groups]

    # -- searching ----------------------------------------------------------------------------------------------------

    def _look_into(self, number: int) -> list[float]:
        # The scores of a block.
        points = self._points[number]
        if points is None:
            points = self._points[number] = list(map(self._scores.__getitem__, self._blocks[number]))
        return points

    def _find(self, score: float, member: bytes) -> tuple[int, int]:
        # Block and place of the first pair that is not below this one; (number of blocks, 0) when all are.
        tops = self._tops
        number = bisect_left(tops, score)
        if number == len(tops):
            return number, 0
        if tops[number] == score and self._ends[number] < member:
            # Members of one score fill more than a block: by the last of each, up to the block after them.
            number = bisect_left(self._ends, member, number, bisect_right(tops, score, number))
            if number == len(tops):
                return number, 0
        points = self._points[number]
        if points is None:
            points = self._look_into(number)
        block = self._blocks[number]
        # Where all have one score, which is no rare case, nothing is to be found by scores.
        place = 0 if points[0] == score else bisect_left(points, score)
        if points[place] == score and block[place] < member:
            end = len(points) if points[-1] == score else bisect_right(points, score, place)
            place = bisect_left(block, member, place + 1, end)
        return number, place

    def _before(self, number: int) -> int:
        # Members in the blocks before this one.
        group = number >> _GROUP_SHIFT
        return sum(self._groups[:group]) + sum(map(len, self._blocks[group << _GROUP_SHIFT : number]))

    def rank(self, score: float, member: bytes) -> int:
        """How many pairs are below this one, which may be there or not. O(log n), and n ÷ 16,000 additions."""
        number, place = self._find(score, member)
        return self._before(number) + place

    def below(self, score: float) -> int:
        """How many members have a lower score. As `rank`."""
        number = bisect_left(self._tops, score)
        if number == len(self._tops):
            return self._size
        return self._before(number) + bisect_left(self._look_into(number), score)

    def up_to(self, score: float) -> int:
        """How many members have this score or a lower one. As `rank`."""
        number = bisect_right(self._tops, score)
        if number == len(self._tops):
            return self._size
        return self._before(number) + bisect_right(self._look_into(number), score)

    def _place_of(self, rank: int) -> tuple[int, int]:
        # Block and place of a rank, 0 … size - 1.
        blocks = self._blocks
        if rank < len(blocks[0]):
            return 0, rank
        behind = self._size - rank
        if behind <= len(blocks[-1]):
            return len(blocks) - 1, len(blocks[-1]) - behind
        number = 0
        for count in self._groups:
            if rank < count:
                break
            rank -= count
            number += _GROUP
        while rank >= len(blocks[number]):
            rank -= len(blocks[number])
            number += 1
        return number, rank

    # -- reading ------------------------------------------------------------------------------------------------------

    def at(self, rank: int) -> tuple[float, bytes]:
        """(score, member) at a rank that exists."""
        number, place = self._place_of(rank)
        member = self._blocks[number][place]
        return self._scores[member], member

    def slice(self, first: int, end: int) -> list[tuple[float, bytes]]:
        """(score, member) of the ranks from `first` up to but not including `end`, as far as they exist."""
        end = min(end, self._size)
        if first >= end:
            return []
        number, place = self._place_of(first)
        left = end - first
        block = self._blocks[number]
        if place + left <= len(block):
            return list(zip(self._look_into(number)[place : place + left], block[place : place + left], strict=True))
        found: list[tuple[float, bytes]] = []
        while left > 0:
            points = self._look_into(number)
            found += islice(zip(points, self._blocks[number], strict=True), place, place + left)
            left = end - first - len(found)
            number += 1
            place = 0
        return found

    # -- changing -----------------------------------------------------------------------------------------------------

    def add(self, score: float, member: bytes) -> None:
        """A member that was not there has this score, as the scores say already."""
        self._size += 1
        blocks = self._blocks
        if not blocks:
            blocks.append([member])
            self._points.append(None)
            self._tops.append(score)
            self._ends.append(member)
            self._groups.append(1)
            return
        number, place = self._find(score, member)
        if number == len(blocks):
            # Above all others.
            number -= 1
            block = blocks[number]
            cast(list[object], self._look_into(number)).append(self._held[member])
            block.append(member)
            self._tops[number] = score
            self._ends[number] = member
        else:
            block = blocks[number]
            cast(list[object], self._look_into(number)).insert(place, self._held[member])
            block.insert(place, member)
        self._groups[number >> _GROUP_SHIFT] += 1
        if len(block) > 2 * BLOCK:
            self._split(number)

    def remove(self, score: float, member: bytes) -> None:
        """A member that is there with this score is there no longer."""
        number, place = self._find(score, member)
        self._take_out(number, place, place + 1)

    def take(self, first: int, end: int) -> list[tuple[float, bytes]]:
        """Take out a range of ranks; what was in it. The scores must still be known. O(log n + what is taken)."""
        end = min(end, self._size)
        if first >= end:
            return []
        number, place = self._place_of(first)
        left = end - first
        block = self._blocks[number]
        if place + left <= len(block):
            within = place + left
            taken = list(zip(self._look_into(number)[place:within], block[place:within], strict=True))
            self._take_out(number, place, within)
            return taken
        taken = self.slice(first, end)
        while left:
            number, place = self._place_of(first)
            count = min(left, len(self._blocks[number]) - place)
            self._take_out(number, place, place + count)
            left -= count
        return taken

    def _take_out(self, number: int, first: int, end: int) -> None:
        # The members of a block from place `first` up to but not including `end`.
        block = self._blocks[number]
        points = self._look_into(number)
        del block[first:end]
        del points[first:end]
        self._size -= end - first
        self._groups[number >> _GROUP_SHIFT] -= end - first
        if not block:
            self._drop(number)
            return
        if first == len(block):
            self._tops[number] = points[-1]
            self._ends[number] = block[-1]
        if len(block) < _FEW and len(self._blocks) > 1:
            self._join(number)

    # The rarer steps: every few hundred insertions or removals.

    def _split(self, number: int) -> None:
        block = self._blocks[number]
        points = self._look_into(number)
        self._blocks.insert(number + 1, block[BLOCK:])
        self._points.insert(number + 1, points[BLOCK:])
        self._tops.insert(number, points[BLOCK - 1])
        self._ends.insert(number, block[BLOCK - 1])
        del block[BLOCK:]
        del points[BLOCK:]
        self._regroup()

    def _join(self, number: int) -> None:
        # What is left of a block goes to its neighbour, unless that is full already.
        number = min(number, len(self._blocks) - 2)
        block = self._blocks[number]
        behind = self._blocks[number + 1]
        if len(block) + len(behind) > BLOCK + 2 * _FEW:
            return
        points = self._look_into(number)
        points += self._look_into(number + 1)
        block += behind
        self._tops[number] = points[-1]
        self._ends[number] = block[-1]
        self._drop(number + 1)

    def _drop(self, number: int) -> None:
        del self._blocks[number]
        del self._points[number]
        del self._tops[number]
        del self._ends[number]
        self._regroup()

    def _regroup(self) -> None:
        blocks = self._blocks
        self._groups = [sum(map(len, blocks[at : at + _GROUP])) for at in range(0, len(blocks), _GROUP)]

    def check(self) -> None:
        """Assert the invariants."""
        members = list(self)
        assert self._size == len(members) == len(self._scores)
        pairs = [(self._scores[member], member) for member in members]
        assert pairs == sorted(pairs)
        assert all(0 < len(block) <= 2 * BLOCK for block in self._blocks)
        assert len(self._points) == len(self._tops) == len(self._blocks)
        assert self._ends == [block[-1] for block in self._blocks]
        for number, block in enumerate(self._blocks):
            assert all(map(is_, self._look_into(number), map(self._scores.__getitem__, block)))
            assert len(self._look_into(number)) == len(block)
            assert self._tops[number] == self._scores[block[-1]]
        groups = self._groups
        self._regroup()
        assert groups == self._groups


def _arranged(scores: dict[bytes, float]) -> list[bytes]:
    # Members by (score, member).
    if len(set(scores.values())) < len(scores):
        members = sorted(scores)
        members.sort(key=scores.__getitem__)
        return members
    # Each member's score is the next one of the dictionary: no look-up.
    return sorted(scores, key=partial(next, iter(scores.values())))
