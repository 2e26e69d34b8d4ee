"""Sorted sets: ZADD, ZSCORE and their kin; ranges and algebra have files of their own.

A value is a SortedSet, changed in place between `edit` and `edited`.
"""

from __future__ import annotations

from math import isnan
from typing import Final

from persistence.change import NEVER, ZSET
from protocol.replies import NIL_ARRAY, Error
from server.commands.args import integer_from, keys_after_count
from server.commands.context import Context
from server.commands.draws import Draw, check_draws
from server.commands.scores import PLAIN_DIGITS, score
from server.commands.spec import DENYOOM, FAST, FIRST, READ, WRITE, command
from server.errors import (
    NO_KEYS_COUNTED,
    NOT_POSITIVE,
    SYNTAX,
    WRONG_TYPE,
    CommandError,
    wrong_arity,
)
from server.keyspace.database import Database
from server.keyspace.entry import Entry
from server.keyspace.values.sorted_set import SortedSet
from server.keyspace.weights import SCORED_OVERHEAD, scored_weight

_XX_WITH_NX: Final = Error("ERR XX and NX options at the same time are not compatible")
_GT_WITH_LT: Final = Error("ERR GT, LT, and/or NX options at the same time are not compatible")
_ONE_INCREMENT: Final = Error("ERR INCR option supports a single increment-element pair")
_NOT_A_SCORE: Final = Error("ERR resulting score is not a number (NaN)")
_NO_COUNT: Final = Error("ERR count should be greater than 0")
# Bytes of a double in a reply, at most.
_SCORE_REPLY: Final = 24


def sorted_set_of(entry: Entry) -> SortedSet:
    """The members of an entry whose kind is ZSET."""
    members = entry.value
    assert isinstance(members, SortedSet)
    return members


def with_scores(ctx: Context, pairs: list[tuple[float, bytes]]) -> list[object]:
    """Members and scores as a reply: pairs under RESP3, in turn under RESP2."""
    if ctx.protocol >= 3:
        return [[member, points] for points, member in pairs]
    flat: list[object] = []
    for points, member in pairs:
        flat.append(member)
        flat.append(points)
    return flat


def removed(db: Database, entry: Entry, gone: list[bytes], event: bytes) -> None:
    """These members were taken out of the value of an entry from `edit`; without the last one the key goes too."""
    if not gone:
        return
    db.edited(entry, event, gone, -SCORED_OVERHEAD * len(gone) - sum(map(len, gone)))
    if not sorted_set_of(entry):
        db.remove(entry.key, b"del")


# -- writing ----------------------------------------------------------------------------------------------------------

# ZADD's options, as bits.
_NX: Final = 1
_XX: Final = 2
_GT: Final = 4
_LT: Final = 8
_CH: Final = 16
_INCR: Final = 32

_OPTIONS: Final = {b"NX": _NX, b"XX": _XX, b"GT": _GT, b"LT": _LT, b"CH": _CH, b"INCR": _INCR}


@command(
    "ZADD",
    arity=-4,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="sorted-set",
    since="1.2.0",
    summary="Gives members of a sorted set their scores and returns how many are new, with CH how many new or changed; "
    "with INCR adds to a score and returns it.",
    complexity="O(log(N)) for each member given, N in the set",
    syntax="key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]",
)
def zadd(ctx: Context, argv: list[bytes]) -> object:
    text = argv[2]
    if len(argv) == 4 and text.isdigit() and len(text) <= PLAIN_DIGITS:
        points = float(text)
    elif len(argv) == 4 and text.upper() not in _OPTIONS:
        points = score(text)
    else:
        return _add_with_options(ctx.db, argv)
    # The usual ZADD: one member, no options.
    member = argv[3]
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None:
        db.put(argv[1], ZSET, SortedSet({member: points}), NEVER, b"zadd")
        return 1
    value = entry.value
    if not isinstance(value, SortedSet):
        return WRONG_TYPE
    old = value.scores.get(member)
    if old is None:
        value.add(member, points)
        db.edited(entry, b"zadd", [member], SCORED_OVERHEAD + len(member))
        return 1
    if old != points:
        value.move(member, old, points)
        db.edited(entry, b"zadd", [member], 0)
    return 0


def _add_with_options(db: Database, argv: list[bytes]) -> object:
    options = 0
    at = 2
    while at < len(argv):
        bit = _OPTIONS.get(argv[at].upper(), 0)
        if not bit:
            break
        options |= bit
        at += 1
    rest = len(argv) - at
    if not rest or rest & 1:
        return SYNTAX
    if options & _NX and options & _XX:
        return _XX_WITH_NX
    if (options & _GT and options & (_NX | _LT)) or (options & _LT and options & _NX):
        return _GT_WITH_LT
    if options & _INCR and rest > 2:
        return _ONE_INCREMENT
    scores = [score(text) for text in argv[at::2]]
    return _add(db, argv[1], scores, argv[at + 1 :: 2], options)


def _add(db: Database, key: bytes, scores: list[float], members: list[bytes], options: int) -> object:
    event = b"zincr" if options & _INCR else b"zadd"
    entry = db.edit(key)
    if entry is None:
        if options & _XX:
            return None if options & _INCR else 0
        adding = _Adding(SortedSet({}), options)
        adding.add_all(members, scores)
        db.put(key, ZSET, adding.value, NEVER, event)
        return adding.reply()
    if entry.kind != ZSET:
        return WRONG_TYPE
    adding = _Adding(sorted_set_of(entry), options)
    adding.add_all(members, scores)
    if adding.touched:
        db.edited(entry, event, adding.touched, adding.delta)
    return adding.reply()


class _Adding:
    """One ZADD at work: what its options let happen to each member, and what came of it."""

    __slots__ = ("added", "delta", "options", "result", "touched", "value")

    def __init__(self, value: SortedSet, options: int) -> None:
        self.value = value
        self.options = options
        self.added = 0
        # New members and those with another score than before.
        self.touched: list[bytes] = []
        # Bytes by which the set grew.
        self.delta = 0
        # With INCR: the score afterwards; None when the options forbade it.
        self.result: float | None = None

    def add_all(self, members: list[bytes], scores: list[float]) -> None:
        """Add each member, in order: one that is given twice has the second score in the end."""
        for member, points in zip(members, scores, strict=True):
            self._add_one(member, points)

    def _add_one(self, member: bytes, points: float) -> None:
        options = self.options
        old = self.value.get(member)
        if old is None:
            if options & _XX:
                return
            self.added += 1
            self.delta += scored_weight(member)
        else:
            if options & _NX:
                return
            if options & _INCR:
                points += old
                if isnan(points):
                    raise CommandError(_NOT_A_SCORE)
            if (options & _LT and points >= old) or (options & _GT and points <= old):
                return
        self.result = points
        if old is None or points != old:
            self.value.put(member, points)
            self.touched.append(member)

    def reply(self) -> object:
        """What ZADD answers."""
        if self.options & _INCR:
            return self.result
        return len(self.touched) if self.options & _CH else self.added


@command(
    "ZINCRBY",
    arity=4,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="sorted-set",
    since="1.2.0",
    summary="Adds to the score of a member and returns the sum; an absent member counts as 0.",
    complexity="O(log(N)) with N members",
    syntax="key increment member",
)
def zincrby(ctx: Context, argv: list[bytes]) -> object:
    points = score(argv[2])
    member = argv[3]
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None:
        db.put(argv[1], ZSET, SortedSet({member: points}), NEVER, b"zincr")
        return points
    value = entry.value
    if not isinstance(value, SortedSet):
        return WRONG_TYPE
    old = value.scores.get(member)
    if old is None:
        value.add(member, points)
        db.edited(entry, b"zincr", [member], SCORED_OVERHEAD + len(member))
        return points
    points += old
    if isnan(points):
        return _NOT_A_SCORE
    if points != old:
        value.move(member, old, points)
        db.edited(entry, b"zincr", [member], 0)
    return points


@command(
    "ZREM",
    arity=-3,
    flags=WRITE | FAST,
    keys=FIRST,
    group="sorted-set",
    since="1.2.0",
    summary="Removes members from a sorted set, and the set with its last member; returns how many there were.",
    complexity="O(M*log(N)) with M members given, N in the set",
    syntax="key member [member ...]",
)
def zrem(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return 0
    value = entry.value
    if not isinstance(value, SortedSet):
        return WRONG_TYPE
    gone = [member for member in argv[2:] if value.discard(member)]
    removed(ctx.db, entry, gone, b"zrem")
    return len(gone)


# -- taking from the ends ---------------------------------------------------------------------------------------------


def pop(db: Database, entry: Entry, count: int, highest: bool) -> list[tuple[float, bytes]]:
    """Take up to `count` members from one end of the sorted set in an entry from `edit`; the outermost comes first."""
    value = sorted_set_of(entry)
    size = len(value)
    taken = value.take(max(0, size - count), size) if highest else value.take(0, count)
    if highest:
        taken.reverse()
    removed(db, entry, [member for _, member in taken], b"zpopmax" if highest else b"zpopmin")
    return taken


@command(
    "ZPOPMIN",
    arity=-2,
    flags=WRITE | FAST,
    keys=FIRST,
    group="sorted-set",
    since="5.0.0",
    summary="Takes out the members with the lowest scores and returns them with their scores.",
    complexity="O(log(N)+M) with N members, M taken",
    syntax="key [count]",
)
def zpopmin(ctx: Context, argv: list[bytes]) -> object:
    return _pop_end(ctx, argv, False)


@command(
    "ZPOPMAX",
    arity=-2,
    flags=WRITE | FAST,
    keys=FIRST,
    group="sorted-set",
    since="5.0.0",
    summary="Takes out the members with the highest scores and returns them with their scores.",
    complexity="O(log(N)+M) with N members, M taken",
    syntax="key [count]",
)
def zpopmax(ctx: Context, argv: list[bytes]) -> object:
    return _pop_end(ctx, argv, True)


def _pop_end(ctx: Context, argv: list[bytes], highest: bool) -> object:
    if len(argv) > 3:
        return SYNTAX
    count = 1 if len(argv) == 2 else integer_from(argv[2], 0, NOT_POSITIVE)
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return []
    if entry.kind != ZSET:
        return WRONG_TYPE
    taken = pop(ctx.db, entry, count, highest)
    if len(argv) == 2:
        # One pair is not put into a list, whatever the protocol.
        return [taken[0][1], taken[0][0]]
    return with_scores(ctx, taken)


class ManyPop:
    """The arguments of ZMPOP and BZMPOP from their `numkeys` on: `numkeys key [key ...] <MIN | MAX> [COUNT count]`."""

    __slots__ = ("count", "highest", "keys")

    def __init__(self, argv: list[bytes], at: int) -> None:
        number = integer_from(argv[at], 1, NO_KEYS_COUNTED)
        where = at + 1 + number
        if where >= len(argv):
            raise CommandError(SYNTAX)
        self.keys = argv[at + 1 : where]
        end = argv[where].upper()
        if end not in (b"MIN", b"MAX"):
            raise CommandError(SYNTAX)
        self.highest = end == b"MAX"
        self.count = 1
        rest = argv[where + 1 :]
        if rest:
            if len(rest) == 1 or rest[0].upper() != b"COUNT":
                raise CommandError(SYNTAX)
            self.count = integer_from(rest[1], 1, _NO_COUNT)
            if len(rest) > 2:
                raise CommandError(SYNTAX)

    def run(self, db: Database) -> object:
        """The first key that has members, with those taken from it; None when none has."""
        for key in self.keys:
            entry = db.edit(key)
            if entry is None:
                continue
            if entry.kind != ZSET:
                return WRONG_TYPE
            taken = pop(db, entry, self.count, self.highest)
            return [key, [[member, points] for points, member in taken]]
        return None


@command(
    "ZMPOP",
    arity=-4,
    flags=WRITE,
    find_keys=keys_after_count,
    group="sorted-set",
    since="7.0.0",
    summary="Takes members from one end of the first sorted set that is not empty; returns its key and the members.",
    complexity="O(K) + O(M*log(N)) with K keys, N members in the set, M taken",
    syntax="numkeys key [key ...] <MIN | MAX> [COUNT count]",
)
def zmpop(ctx: Context, argv: list[bytes]) -> object:
    reply = ManyPop(argv, 1).run(ctx.db)
    return NIL_ARRAY if reply is None else reply


# -- reading ----------------------------------------------------------------------------------------------------------


@command(
    "ZCARD",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="sorted-set",
    since="1.2.0",
    summary="Number of members of a sorted set.",
    complexity="O(1)",
    syntax="key",
)
def zcard(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return 0
    return len(sorted_set_of(entry)) if entry.kind == ZSET else WRONG_TYPE


@command(
    "ZSCORE",
    arity=3,
    flags=READ | FAST,
    keys=FIRST,
    group="sorted-set",
    since="1.2.0",
    summary="The score of a member.",
    complexity="O(1)",
    syntax="key member",
)
def zscore(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return None
    return sorted_set_of(entry).get(argv[2]) if entry.kind == ZSET else WRONG_TYPE


@command(
    "ZMSCORE",
    arity=-3,
    flags=READ | FAST,
    keys=FIRST,
    group="sorted-set",
    since="6.2.0",
    summary="The scores of several members; nil for each that is absent.",
    complexity="O(N) with N members given",
    syntax="key member [member ...]",
)
def zmscore(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return [None] * (len(argv) - 2)
    if entry.kind != ZSET:
        return WRONG_TYPE
    scores = sorted_set_of(entry).scores
    return [scores.get(member) for member in argv[2:]]


@command(
    "ZRANK",
    arity=-3,
    flags=READ | FAST,
    keys=FIRST,
    group="sorted-set",
    since="2.0.0",
    summary="How many members stand before this one, from the lowest score on; nil when it is absent.",
    complexity="O(log(N)) with N members",
    syntax="key member [WITHSCORE]",
)
def zrank(ctx: Context, argv: list[bytes]) -> object:
    return _rank(ctx, argv, False)


@command(
    "ZREVRANK",
    arity=-3,
    flags=READ | FAST,
    keys=FIRST,
    group="sorted-set",
    since="2.0.0",
    summary="How many members stand behind this one, from the highest score on; nil when it is absent.",
    complexity="O(log(N)) with N members",
    syntax="key member [WITHSCORE]",
)
def zrevrank(ctx: Context, argv: list[bytes]) -> object:
    return _rank(ctx, argv, True)


def _rank(ctx: Context, argv: list[bytes], reverse: bool) -> object:
    if len(argv) > 4:
        return wrong_arity("zrevrank" if reverse else "zrank")
    with_score = len(argv) == 4
    if with_score and argv[3].upper() != b"WITHSCORE":
        return SYNTAX
    nothing = NIL_ARRAY if with_score else None
    entry = ctx.db.find(argv[1])
    if entry is None:
        return nothing
    if entry.kind != ZSET:
        return WRONG_TYPE
    value = sorted_set_of(entry)
    rank = value.rank(argv[2])
    if rank is None:
        return nothing
    if reverse:
        rank = len(value) - 1 - rank
    return [rank, value.get(argv[2])] if with_score else rank


@command(
    "ZRANDMEMBER",
    arity=-2,
    flags=READ,
    keys=FIRST,
    group="sorted-set",
    since="6.2.0",
    summary="Random members of a sorted set: different ones for a count above zero, possibly repeated ones below.",
    complexity="O(M*log(N)) with M members returned, N in the set",
    syntax="key [count [WITHSCORES]]",
)
def zrandmember(ctx: Context, argv: list[bytes]) -> object:
    draw = Draw(argv, b"WITHSCORES")
    entry = ctx.db.find(argv[1])
    if entry is None:
        return draw.nothing()
    if entry.kind != ZSET:
        return WRONG_TYPE
    value = sorted_set_of(entry)
    randrange = ctx.server.random.randrange
    if draw.is_single:
        return value.at(randrange(len(value)))[1]
    if draw.count < 0:
        check_draws(-draw.count, value.scores, _SCORE_REPLY if draw.with_more else 0)
        chosen = [value.at(randrange(len(value))) for _ in range(-draw.count)]
    else:
        chosen = value.draw_many(draw.count, randrange)
    return with_scores(ctx, chosen) if draw.with_more else [member for _, member in chosen]
