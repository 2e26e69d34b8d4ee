"""BLPOP and its kin: the commands that take an element from a list or a sorted set, and wait when there is none.

A handler here only tries. When there is nothing it returns Blocked, and dispatch has it run again when one of its keys
may have something (server/blocking.py); it cannot tell the first time from the hundredth.
"""

from __future__ import annotations

from typing import Final

from persistence.change import LIST, ZSET
from protocol.replies import NIL_ARRAY, Error
from server.commands import lists, sorted_sets
from server.commands.args import INT64_MAX, counted_keys, parse_integer
from server.commands.context import Blocked, Context
from server.commands.numerals import parse_long_double
from server.commands.spec import BLOCKING, DENYOOM, FAST, FIRST_TWO, WRITE, command
from server.errors import WRONG_TYPE, CommandError

# `key [key ...] timeout`
_ALL_BUT_LAST: Final = (1, -2, 1)

_TIMEOUT_NOT_FLOAT: Final = Error("ERR timeout is not a float or out of range")
_TIMEOUT_NOT_INTEGER: Final = Error("ERR timeout is not an integer or out of range")
_TIMEOUT_NEGATIVE: Final = Error("ERR timeout is negative")
_TIMEOUT_OUT_OF_RANGE: Final = Error("ERR timeout is out of range")


def timeout_of(ctx: Context, seconds: bytes) -> int:
    """A timeout in seconds, with decimals, as milliseconds; 0 means for ever."""
    number = parse_long_double(seconds)
    if number is None:
        raise CommandError(_TIMEOUT_NOT_FLOAT)
    if number.is_infinite():
        raise CommandError(_TIMEOUT_NEGATIVE if seconds[:1] == b"-" else _TIMEOUT_OUT_OF_RANGE)
    thousandfold = number.significand * 1000
    # Rounded up: a wait of a microsecond is not one for ever.
    exponent = number.exponent
    return _checked(ctx, thousandfold << exponent if exponent >= 0 else -(-thousandfold >> -exponent))


def timeout_ms_of(ctx: Context, milliseconds: bytes) -> int:
    """A timeout in whole milliseconds (XREAD's BLOCK); 0 means for ever."""
    number = parse_integer(milliseconds)
    if number is None:
        raise CommandError(_TIMEOUT_NOT_INTEGER)
    return _checked(ctx, number)


def _checked(ctx: Context, timeout_ms: int) -> int:
    if timeout_ms < 0:
        raise CommandError(_TIMEOUT_NEGATIVE)
    if timeout_ms > INT64_MAX - ctx.db.now_ms - ctx.server.wall_offset_ms():
        raise CommandError(_TIMEOUT_OUT_OF_RANGE)
    return timeout_ms


def _keys_after_timeout(argv: list[bytes]) -> list[bytes]:
    # `timeout numkeys key [key ...]`
    return counted_keys(argv, 2)


# -- lists ------------------------------------------------------------------------------------------------------------


@command(
    "BLPOP",
    arity=-3,
    flags=WRITE | BLOCKING,
    keys=_ALL_BUT_LAST,
    group="list",
    since="2.0.0",
    summary="Takes out the first element of the first list that exists; waits for one when none does.",
    complexity="O(N) with N keys",
    syntax="key [key ...] timeout",
)
def blpop(ctx: Context, argv: list[bytes]) -> object:
    return _pop_element(ctx, argv, True)


@command(
    "BRPOP",
    arity=-3,
    flags=WRITE | BLOCKING,
    keys=_ALL_BUT_LAST,
    group="list",
    since="2.0.0",
    summary="Takes out the last element of the first list that exists; waits for one when none does.",
    complexity="O(N) with N keys",
    syntax="key [key ...] timeout",
)
def brpop(ctx: Context, argv: list[bytes]) -> object:
    return _pop_element(ctx, argv, False)


def _pop_element(ctx: Context, argv: list[bytes], from_left: bool) -> object:
    timeout_ms = timeout_of(ctx, argv[-1])
    keys = argv[1:-1]
    for key in keys:
        entry = ctx.db.edit(key)
        if entry is not None:
            return [key, lists.take_one(ctx.db, entry, from_left)] if entry.kind == LIST else WRONG_TYPE
    return Blocked(keys, LIST, timeout_ms, NIL_ARRAY)


@command(
    "BLMPOP",
    arity=-5,
    flags=WRITE | BLOCKING,
    find_keys=_keys_after_timeout,
    group="list",
    since="7.0.0",
    summary="Takes elements out of the first list that exists, and tells its key; waits for one when none does.",
    complexity="O(N+M) with N keys and M elements taken out",
    syntax="timeout numkeys key [key ...] <LEFT | RIGHT> [COUNT count]",
)
def blmpop(ctx: Context, argv: list[bytes]) -> object:
    wanted = lists.ManyPop(argv, 2)
    timeout_ms = timeout_of(ctx, argv[1])
    return wanted.run(ctx.db) or Blocked(wanted.keys, LIST, timeout_ms, NIL_ARRAY)


@command(
    "BLMOVE",
    arity=6,
    flags=WRITE | DENYOOM | BLOCKING,
    keys=FIRST_TWO,
    group="list",
    since="6.2.0",
    summary="LMOVE that waits for an element when the source is absent.",
    complexity="O(1)",
    syntax="source destination <LEFT | RIGHT> <LEFT | RIGHT> timeout",
)
def blmove(ctx: Context, argv: list[bytes]) -> object:
    from_left = lists.is_left(argv[3])
    to_left = lists.is_left(argv[4])
    return _move(ctx, argv, from_left, to_left)


@command(
    "BRPOPLPUSH",
    arity=4,
    flags=WRITE | DENYOOM | BLOCKING,
    keys=FIRST_TWO,
    group="list",
    since="2.2.0",
    summary="The old name of BLMOVE source destination RIGHT LEFT timeout.",
    complexity="O(1)",
    syntax="source destination timeout",
)
def brpoplpush(ctx: Context, argv: list[bytes]) -> object:
    return _move(ctx, argv, False, True)


def _move(ctx: Context, argv: list[bytes], from_left: bool, to_left: bool) -> object:
    timeout_ms = timeout_of(ctx, argv[-1])
    moved = lists.move_one(ctx.db, argv[1], argv[2], from_left, to_left)
    return Blocked([argv[1]], LIST, timeout_ms, None) if moved is None else moved


# -- sorted sets ------------------------------------------------------------------------------------------------------


@command(
    "BZPOPMIN",
    arity=-3,
    flags=WRITE | FAST | BLOCKING,
    keys=_ALL_BUT_LAST,
    group="sorted-set",
    since="5.0.0",
    summary="Takes the member with the lowest score out of the first sorted set that exists; waits for one when none "
    "does.",
    complexity="O(log(N)) with N members",
    syntax="key [key ...] timeout",
)
def bzpopmin(ctx: Context, argv: list[bytes]) -> object:
    return _pop_member(ctx, argv, False)


@command(
    "BZPOPMAX",
    arity=-3,
    flags=WRITE | FAST | BLOCKING,
    keys=_ALL_BUT_LAST,
    group="sorted-set",
    since="5.0.0",
    summary="Takes the member with the highest score out of the first sorted set that exists; waits for one when none "
    "does.",
    complexity="O(log(N)) with N members",
    syntax="key [key ...] timeout",
)
def bzpopmax(ctx: Context, argv: list[bytes]) -> object:
    return _pop_member(ctx, argv, True)


def _pop_member(ctx: Context, argv: list[bytes], highest: bool) -> object:
    timeout_ms = timeout_of(ctx, argv[-1])
    keys = argv[1:-1]
    for key in keys:
        entry = ctx.db.edit(key)
        if entry is not None:
            if entry.kind != ZSET:
                return WRONG_TYPE
            score, member = sorted_sets.pop(ctx.db, entry, 1, highest)[0]
            return [key, member, score]
    return Blocked(keys, ZSET, timeout_ms, NIL_ARRAY)


@command(
    "BZMPOP",
    arity=-5,
    flags=WRITE | BLOCKING,
    find_keys=_keys_after_timeout,
    group="sorted-set",
    since="7.0.0",
    summary="Takes members from one end of the first sorted set that exists, and tells its key; waits when none does.",
    complexity="O(K) + O(M*log(N)) with K keys, N members in the set, M taken",
    syntax="timeout numkeys key [key ...] <MIN | MAX> [COUNT count]",
)
def bzmpop(ctx: Context, argv: list[bytes]) -> object:
    wanted = sorted_sets.ManyPop(argv, 2)
    timeout_ms = timeout_of(ctx, argv[1])
    reply = wanted.run(ctx.db)
    return Blocked(wanted.keys, ZSET, timeout_ms, NIL_ARRAY) if reply is None else reply
