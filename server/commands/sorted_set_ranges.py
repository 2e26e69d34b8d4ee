"""Ranges of sorted sets, by rank, score or text: ZRANGE and its many older names, counting, and removing.

Every command turns its arguments into one pair of ranks, O(log n), and then reads or removes what lies between.
"""

from __future__ import annotations

from typing import Final

from persistence.change import NEVER, ZSET
from protocol.replies import Elements, Error
from server.commands.args import integer
from server.commands.context import Context
from server.commands.scores import ScoreBounds, TextBounds
from server.commands.sorted_sets import removed, sorted_set_of, with_scores
from server.commands.spec import DENYOOM, FAST, FIRST, FIRST_TWO, READ, WRITE, command
from server.errors import SYNTAX, WRONG_TYPE, CommandError
from server.keyspace.entry import Entry
from server.keyspace.excerpt import AT_ONCE, Ranks
from server.keyspace.values.sorted_set import SortedSet

_LIMIT_BY_RANK: Final = Error("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
_SCORES_BY_TEXT: Final = Error("ERR syntax error, WITHSCORES not supported in combination with BYLEX")

# How a range is named; NOT_SAID until an option says so, by rank if none does.
NOT_SAID: Final = 0
BY_RANK: Final = 1
BY_SCORE: Final = 2
BY_TEXT: Final = 3


class RankBounds:
    """`start` and `stop` of a range of ranks, both included; below zero they count from the end."""

    __slots__ = ("start", "stop")

    def __init__(self, start: bytes, stop: bytes) -> None:
        self.start = integer(start)
        self.stop = integer(stop)

    def ranks(self, members: SortedSet) -> tuple[int, int]:
        """The ranks (first, end) of the members within. O(1)."""
        size = len(members)
        first = max(0, self.start + size if self.start < 0 else self.start)
        last = self.stop + size if self.stop < 0 else self.stop
        return first, min(last + 1, size)


Bounds = RankBounds | ScoreBounds | TextBounds


def bounds_of(by: int, low: bytes, high: bytes) -> Bounds:
    """The bounds that two arguments name."""
    if by == BY_SCORE:
        return ScoreBounds(low, high)
    if by == BY_TEXT:
        return TextBounds(low, high)
    return RankBounds(low, high)


class Range:
    """The arguments of the ZRANGE family from a key's two bounds on."""

    __slots__ = ("bounds", "by", "limit", "offset", "reverse", "scores")

    def __init__(self, argv: list[bytes], at: int, by: int, reverse: bool, any_order: bool, to_store: bool) -> None:
        # BY_RANK …
        self.by = by
        # The highest first.
        self.reverse = reverse
        # WITHSCORES
        self.scores = False
        # LIMIT; below zero there is none.
        self.offset = 0
        self.limit = -1
        self._parse(argv, at + 2, any_order, to_store)
        if self.limit != -1 and self.by in (NOT_SAID, BY_RANK):
            raise CommandError(_LIMIT_BY_RANK)
        if self.scores and self.by == BY_TEXT:
            raise CommandError(_SCORES_BY_TEXT)
        # Scores and texts are given in the order of the reply, ranks are counted in it.
        turned = self.reverse and self.by in (BY_SCORE, BY_TEXT)
        low, high = (argv[at + 1], argv[at]) if turned else (argv[at], argv[at + 1])
        self.bounds = bounds_of(self.by, low, high)

    def _parse(self, argv: list[bytes], at: int, any_order: bool, to_store: bool) -> None:
        # `any_order`: REV may be said; a range that is NOT_SAID may be named.
        while at < len(argv):
            option = argv[at].upper()
            if option == b"WITHSCORES" and not to_store:
                self.scores = True
            elif option == b"LIMIT" and at + 2 < len(argv):
                self.offset = integer(argv[at + 1])
                self.limit = integer(argv[at + 2])
                at += 2
            elif option == b"REV" and any_order and not self.reverse:
                self.reverse = True
            elif option == b"BYSCORE" and self.by == NOT_SAID:
                self.by = BY_SCORE
            elif option == b"BYLEX" and self.by == NOT_SAID:
                self.by = BY_TEXT
            else:
                raise CommandError(SYNTAX)
            at += 1

    def ranks(self, members: SortedSet) -> tuple[int, int]:
        """The range as ranks counted from the lowest score, the second not included. O(log n)."""
        first, end = self.bounds.ranks(members)
        if self.by in (BY_SCORE, BY_TEXT):
            return self._limited(first, end)
        if self.reverse:
            size = len(members)
            return size - end, size - first
        return first, end

    def of(self, members: SortedSet) -> list[tuple[float, bytes]]:
        """What of a sorted set lies in the range, in its order. O(log n + members returned)."""
        first, end = self.ranks(members)
        return members.slice(first, end, self.reverse) if first < end else []

    def _limited(self, first: int, end: int) -> tuple[int, int]:
        if self.offset < 0:
            return 0, 0
        if self.reverse:
            end -= self.offset
            return (max(first, end - self.limit) if self.limit >= 0 else first), end
        first += self.offset
        return first, (min(end, first + self.limit) if self.limit >= 0 else end)


def _read(ctx: Context, argv: list[bytes], by: int, reverse: bool) -> object:
    wanted = Range(argv, 2, by, reverse, by == NOT_SAID, False)
    entry = ctx.db.find(argv[1])
    if entry is None:
        return []
    if entry.kind != ZSET:
        return WRONG_TYPE
    members = sorted_set_of(entry)
    first, end = wanted.ranks(members)
    end = min(end, len(members))
    if end - first > AT_ONCE and ctx.may_read_on():
        in_pairs = ctx.protocol >= 3
        parts = 2 if wanted.scores and not in_pairs else 1
        excerpt = Ranks(members, first, end, wanted.reverse, wanted.scores, in_pairs)
        return Elements(excerpt, parts * (end - first))
    pairs = members.slice(first, end, wanted.reverse) if first < end else []
    return with_scores(ctx, pairs) if wanted.scores else [member for _, member in pairs]


# -- reading ----------------------------------------------------------------------------------------------------------


@command(
    "ZRANGE",
    arity=-4,
    flags=READ,
    keys=FIRST,
    group="sorted-set",
    since="1.2.0",
    summary="The members of a sorted set in a range of ranks, scores or texts.",
    complexity="O(log(N)+M) with N members, M returned",
    syntax="key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]",
)
def zrange(ctx: Context, argv: list[bytes]) -> object:
    return _read(ctx, argv, NOT_SAID, False)


@command(
    "ZREVRANGE",
    arity=-4,
    flags=READ,
    keys=FIRST,
    group="sorted-set",
    since="1.2.0",
    summary="The members in a range of ranks, counted from the highest score down.",
    complexity="O(log(N)+M) with N members, M returned",
    syntax="key start stop [WITHSCORES]",
)
def zrevrange(ctx: Context, argv: list[bytes]) -> object:
    return _read(ctx, argv, BY_RANK, True)


@command(
    "ZRANGEBYSCORE",
    arity=-4,
    flags=READ,
    keys=FIRST,
    group="sorted-set",
    since="1.0.5",
    summary="The members in a range of scores.",
    complexity="O(log(N)+M) with N members, M returned",
    syntax="key min max [WITHSCORES] [LIMIT offset count]",
)
def zrangebyscore(ctx: Context, argv: list[bytes]) -> object:
    return _read(ctx, argv, BY_SCORE, False)


@command(
    "ZREVRANGEBYSCORE",
    arity=-4,
    flags=READ,
    keys=FIRST,
    group="sorted-set",
    since="2.2.0",
    summary="The members in a range of scores, from the highest down.",
    complexity="O(log(N)+M) with N members, M returned",
    syntax="key max min [WITHSCORES] [LIMIT offset count]",
)
def zrevrangebyscore(ctx: Context, argv: list[bytes]) -> object:
    return _read(ctx, argv, BY_SCORE, True)


@command(
    "ZRANGEBYLEX",
    arity=-4,
    flags=READ,
    keys=FIRST,
    group="sorted-set",
    since="2.8.9",
    summary="The members in a range of texts, when all have the same score.",
    complexity="O(log(N)+M) with N members, M returned",
    syntax="key min max [LIMIT offset count]",
)
def zrangebylex(ctx: Context, argv: list[bytes]) -> object:
    return _read(ctx, argv, BY_TEXT, False)


@command(
    "ZREVRANGEBYLEX",
    arity=-4,
    flags=READ,
    keys=FIRST,
    group="sorted-set",
    since="2.8.9",
    summary="The members in a range of texts, from the last back, when all have the same score.",
    complexity="O(log(N)+M) with N members, M returned",
    syntax="key max min [LIMIT offset count]",
)
def zrevrangebylex(ctx: Context, argv: list[bytes]) -> object:
    return _read(ctx, argv, BY_TEXT, True)


# -- counting ---------------------------------------------------------------------------------------------------------


@command(
    "ZCOUNT",
    arity=4,
    flags=READ | FAST,
    keys=FIRST,
    group="sorted-set",
    since="2.0.0",
    summary="Number of members in a range of scores.",
    complexity="O(log(N)) with N members",
    syntax="key min max",
)
def zcount(ctx: Context, argv: list[bytes]) -> object:
    return _count(ctx, argv, BY_SCORE)


@command(
    "ZLEXCOUNT",
    arity=4,
    flags=READ | FAST,
    keys=FIRST,
    group="sorted-set",
    since="2.8.9",
    summary="Number of members in a range of texts, when all have the same score.",
    complexity="O(log(N)) with N members",
    syntax="key min max",
)
def zlexcount(ctx: Context, argv: list[bytes]) -> object:
    return _count(ctx, argv, BY_TEXT)


def _count(ctx: Context, argv: list[bytes], by: int) -> object:
    bounds = bounds_of(by, argv[2], argv[3])
    entry = ctx.db.find(argv[1])
    if entry is None:
        return 0
    if entry.kind != ZSET:
        return WRONG_TYPE
    first, end = bounds.ranks(sorted_set_of(entry))
    return max(0, end - first)


# -- writing ----------------------------------------------------------------------------------------------------------


@command(
    "ZRANGESTORE",
    arity=-5,
    flags=WRITE | DENYOOM,
    keys=FIRST_TWO,
    group="sorted-set",
    since="6.2.0",
    summary="Stores a range of a sorted set in another key; returns how many members it has.",
    complexity="O(log(N)+M) with N members, M stored",
    syntax="dst src min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]",
)
def zrangestore(ctx: Context, argv: list[bytes]) -> object:
    wanted = Range(argv, 3, NOT_SAID, False, True, True)
    db = ctx.db
    entry = db.find(argv[2])
    if entry is not None and entry.kind != ZSET:
        return WRONG_TYPE
    pairs = wanted.of(sorted_set_of(entry)) if entry is not None else []
    if not pairs:
        db.remove(argv[1], b"del")
        return 0
    db.put(argv[1], ZSET, SortedSet({member: points for points, member in pairs}), NEVER, b"zrangestore")
    return len(pairs)


@command(
    "ZREMRANGEBYRANK",
    arity=4,
    flags=WRITE,
    keys=FIRST,
    group="sorted-set",
    since="2.0.0",
    summary="Removes the members in a range of ranks; returns how many there were.",
    complexity="O(log(N)+M) with N members, M removed",
    syntax="key start stop",
)
def zremrangebyrank(ctx: Context, argv: list[bytes]) -> object:
    return _remove(ctx, argv, BY_RANK, b"zremrangebyrank")


@command(
    "ZREMRANGEBYSCORE",
    arity=4,
    flags=WRITE,
    keys=FIRST,
    group="sorted-set",
    since="1.2.0",
    summary="Removes the members in a range of scores; returns how many there were.",
    complexity="O(log(N)+M) with N members, M removed",
    syntax="key min max",
)
def zremrangebyscore(ctx: Context, argv: list[bytes]) -> object:
    return _remove(ctx, argv, BY_SCORE, b"zremrangebyscore")


@command(
    "ZREMRANGEBYLEX",
    arity=4,
    flags=WRITE,
    keys=FIRST,
    group="sorted-set",
    since="2.8.9",
    summary="Removes the members in a range of texts, when all have the same score; returns how many there were.",
    complexity="O(log(N)+M) with N members, M removed",
    syntax="key min max",
)
def zremrangebylex(ctx: Context, argv: list[bytes]) -> object:
    return _remove(ctx, argv, BY_TEXT, b"zremrangebylex")


def _remove(ctx: Context, argv: list[bytes], by: int, event: bytes) -> object:
    bounds = bounds_of(by, argv[2], argv[3])
    entry: Entry | None = ctx.db.edit(argv[1])
    if entry is None:
        return 0
    if entry.kind != ZSET:
        return WRONG_TYPE
    value = sorted_set_of(entry)
    first, end = bounds.ranks(value)
    if first >= end:
        return 0
    gone = [member for _, member in value.take(first, end)]
    removed(ctx.db, entry, gone, event)
    return len(gone)
