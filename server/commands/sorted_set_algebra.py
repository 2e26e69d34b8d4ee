"""Algebra of sorted sets: ZUNION, ZINTER, ZDIFF and what they store. Sets take part too, with a score of 1 each.

Redis's arithmetic to the letter: a score is multiplied by its weight first; what would be NaN (zero times infinity,
infinity minus infinity) becomes 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from math import isnan
from typing import Final

from persistence.change import NEVER, SET, ZSET
from protocol.replies import Error
from server.commands.args import destination_and_keys, integer, integer_from, keys_after_count
from server.commands.context import Context
from server.commands.scores import score
from server.commands.sets import set_of
from server.commands.sorted_sets import sorted_set_of, with_scores
from server.commands.spec import DENYOOM, FIRST, READ, WRITE, command
from server.errors import NEGATIVE_LIMIT, SYNTAX, WRONG_TYPE, CommandError
from server.keyspace.database import Database
from server.keyspace.values.sorted_set import SortedSet

_NOT_A_WEIGHT: Final = Error("ERR weight value is not a float")

# What is made of the scores that a member has in several sets.
_SUM: Final = 0
_MIN: Final = 1
_MAX: Final = 2
_AGGREGATES: Final = {b"SUM": _SUM, b"MIN": _MIN, b"MAX": _MAX}

_UNION: Final = 0
_INTERSECTION: Final = 1
_DIFFERENCE: Final = 2


class _Source:
    """One of the keys, a sorted set or a set, to be read only."""

    __slots__ = ("members", "scores", "weight")

    def __init__(self, db: Database, key: bytes) -> None:
        self.weight = 1.0
        # A sorted set has scores, a set members; an absent key is empty.
        self.scores: dict[bytes, float] | None = None
        self.members: set[bytes] = set()
        entry = db.find(key)
        if entry is None:
            return
        if entry.kind == ZSET:
            self.scores = sorted_set_of(entry).scores
        elif entry.kind == SET:
            self.members = set_of(entry).members
        else:
            raise CommandError(WRONG_TYPE)

    def size(self) -> int:
        """Number of members."""
        return len(self.members) if self.scores is None else len(self.scores)

    def names(self) -> Iterable[bytes]:
        """The members."""
        return self.members if self.scores is None else self.scores

    def items(self) -> Iterable[tuple[bytes, float]]:
        """The members with their scores before the weight."""
        return zip(self.members, repeat(1.0), strict=False) if self.scores is None else self.scores.items()

    def score(self, member: bytes) -> float | None:
        """A member's score before its weight; None when it is absent."""
        if self.scores is not None:
            return self.scores.get(member)
        return 1.0 if member in self.members else None


class _Operation:
    """The arguments of one command of the family, from its `numkeys` on."""

    __slots__ = ("aggregate", "limit", "scores", "sources")

    def __init__(self, ctx: Context, argv: list[bytes], at: int, options: tuple[bytes, ...]) -> None:
        number = integer(argv[at])
        if number < 1:
            name = argv[0].decode("utf-8", "replace").lower()
            raise CommandError(Error(f"ERR at least 1 input key is needed for '{name}' command"))
        end = at + 1 + number
        if end > len(argv):
            raise CommandError(SYNTAX)
        self.sources = [_Source(ctx.db, key) for key in argv[at + 1 : end]]
        self.aggregate = _SUM
        # WITHSCORES
        self.scores = False
        # ZINTERCARD: count no more than so many; 0: all.
        self.limit = 0
        self._parse(argv, end, options)

    def _parse(self, argv: list[bytes], at: int, options: tuple[bytes, ...]) -> None:
        while at < len(argv):
            option = argv[at].upper()
            rest = len(argv) - at
            if option not in options:
                raise CommandError(SYNTAX)
            if option == b"WEIGHTS" and rest > len(self.sources):
                for source in self.sources:
                    at += 1
                    source.weight = score(argv[at], _NOT_A_WEIGHT)
            elif option == b"AGGREGATE" and rest > 1:
                at += 1
                aggregate = _AGGREGATES.get(argv[at].upper(), -1)
                if aggregate < 0:
                    raise CommandError(SYNTAX)
                self.aggregate = aggregate
            elif option == b"WITHSCORES":
                self.scores = True
            elif option == b"LIMIT" and rest > 1:
                at += 1
                self.limit = integer_from(argv[at], 0, NEGATIVE_LIMIT)
            else:
                raise CommandError(SYNTAX)
            at += 1

    def run(self, operation: int) -> dict[bytes, float]:
        """The members of the result with their scores."""
        if operation == _UNION:
            return self._union()
        return self._intersection() if operation == _INTERSECTION else self._difference()

    def _joined(self, total: float, further: float) -> float:
        # Written so that NaN does not replace a number.
        if self.aggregate == _SUM:
            total += further
            return 0.0 if isnan(total) else total
        if self.aggregate == _MIN:
            return further if further < total else total
        return further if further > total else total

    def _by_size(self) -> list[_Source]:
        # Redis's order, in which sums are made; and the smallest set decides what an intersection costs.
        return sorted(self.sources, key=_Source.size)

    def _union(self) -> dict[bytes, float]:
        result: dict[bytes, float] = {}
        for source in self._by_size():
            weight = source.weight
            for member, points in source.items():
                points *= weight
                if isnan(points):
                    points = 0.0
                total = result.get(member)
                result[member] = points if total is None else self._joined(total, points)
        return result

    def _intersection(self) -> dict[bytes, float]:
        first, *others = self._by_size()
        result: dict[bytes, float] = {}
        for member, points in first.items():
            total = points * first.weight
            if isnan(total):
                total = 0.0
            for other in others:
                further = other.score(member)
                if further is None:
                    break
                total = self._joined(total, further * other.weight)
            else:
                result[member] = total
        return result

    def _difference(self) -> dict[bytes, float]:
        first, *others = self.sources
        result: dict[bytes, float] = {}
        for member, points in first.items():
            for other in others:
                if other.score(member) is not None:
                    break
            else:
                result[member] = points
        return result

    def shared(self) -> int:
        """How many members all sets have, as far as the limit."""
        first, *others = self._by_size()
        found = 0
        for member in first.names():
            for other in others:
                if other.score(member) is None:
                    break
            else:
                found += 1
                if found == self.limit:
                    break
        return found


_READING: Final = (b"WEIGHTS", b"AGGREGATE", b"WITHSCORES")
_STORING: Final = (b"WEIGHTS", b"AGGREGATE")


def _read(ctx: Context, argv: list[bytes], operation: int, options: tuple[bytes, ...]) -> object:
    wanted = _Operation(ctx, argv, 1, options)
    pairs = sorted([(points, member) for member, points in wanted.run(operation).items()])
    return with_scores(ctx, pairs) if wanted.scores else [member for _, member in pairs]


def _store(ctx: Context, argv: list[bytes], operation: int, options: tuple[bytes, ...], event: bytes) -> int:
    result = _Operation(ctx, argv, 2, options).run(operation)
    if result:
        ctx.db.put(argv[1], ZSET, SortedSet(result), NEVER, event)
    else:
        ctx.db.remove(argv[1], b"del")
    return len(result)


@command(
    "ZUNION",
    arity=-3,
    flags=READ,
    find_keys=keys_after_count,
    group="sorted-set",
    since="6.2.0",
    summary="The members that any of the sorted sets has, with their scores joined.",
    complexity="O(N)+O(M*log(M)) with N members in all sets, M in the result",
    syntax="numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] [WITHSCORES]",
)
def zunion(ctx: Context, argv: list[bytes]) -> object:
    return _read(ctx, argv, _UNION, _READING)


@command(
    "ZINTER",
    arity=-3,
    flags=READ,
    find_keys=keys_after_count,
    group="sorted-set",
    since="6.2.0",
    summary="The members that all of the sorted sets have, with their scores joined.",
    complexity="O(N*K)+O(M*log(M)) with N members in the smallest of K sets, M in the result",
    syntax="numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] [WITHSCORES]",
)
def zinter(ctx: Context, argv: list[bytes]) -> object:
    return _read(ctx, argv, _INTERSECTION, _READING)


@command(
    "ZDIFF",
    arity=-3,
    flags=READ,
    find_keys=keys_after_count,
    group="sorted-set",
    since="6.2.0",
    summary="The members of the first sorted set that none of the others has.",
    complexity="O(N*K)+O(M*log(M)) with N members in the first of K sets, M in the result",
    syntax="numkeys key [key ...] [WITHSCORES]",
)
def zdiff(ctx: Context, argv: list[bytes]) -> object:
    return _read(ctx, argv, _DIFFERENCE, (b"WITHSCORES",))


@command(
    "ZINTERCARD",
    arity=-3,
    flags=READ,
    find_keys=keys_after_count,
    group="sorted-set",
    since="7.0.0",
    summary="How many members all of the sorted sets have; with a limit, no more than that are counted.",
    complexity="O(N*K) with N members in the smallest of K sets",
    syntax="numkeys key [key ...] [LIMIT limit]",
)
def zintercard(ctx: Context, argv: list[bytes]) -> object:
    return _Operation(ctx, argv, 1, (b"LIMIT",)).shared()


@command(
    "ZUNIONSTORE",
    arity=-4,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    find_keys=destination_and_keys,
    group="sorted-set",
    since="2.0.0",
    summary="Stores the members that any of the sorted sets has in another key; returns how many they are.",
    complexity="O(N) with N members in all sets",
    syntax="destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>]",
)
def zunionstore(ctx: Context, argv: list[bytes]) -> object:
    return _store(ctx, argv, _UNION, _STORING, b"zunionstore")


@command(
    "ZINTERSTORE",
    arity=-4,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    find_keys=destination_and_keys,
    group="sorted-set",
    since="2.0.0",
    summary="Stores the members that all of the sorted sets have in another key; returns how many they are.",
    complexity="O(N*K) with N members in the smallest of K sets",
    syntax="destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>]",
)
def zinterstore(ctx: Context, argv: list[bytes]) -> object:
    return _store(ctx, argv, _INTERSECTION, _STORING, b"zinterstore")


@command(
    "ZDIFFSTORE",
    arity=-4,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    find_keys=destination_and_keys,
    group="sorted-set",
    since="6.2.0",
    summary="Stores the members of the first sorted set that none of the others has in another key; returns how many.",
    complexity="O(N*K) with N members in the first of K sets",
    syntax="destination numkeys key [key ...]",
)
def zdiffstore(ctx: Context, argv: list[bytes]) -> object:
    return _store(ctx, argv, _DIFFERENCE, (), b"zdiffstore")
