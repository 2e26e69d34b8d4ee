"""Strings: GET, SET and their kin. A value is a `bytes`, replaced and never changed in place."""

from __future__ import annotations

from typing import Final

from persistence.change import NEVER, STRING
from protocol.replies import OK, Error, Map
from server.commands.args import (
    INT64_MAX,
    INT64_MIN,
    KEEP_LIFETIME,
    LIFETIMES,
    MAX_STRING,
    MILLISECONDS,
    NO_LIFETIME,
    NUMBERS,
    PERSIST,
    READY,
    READY_DIGITS,
    SECONDS,
    TEXTS,
    SetOptions,
    always,
    check_length,
    integer,
    integer_text,
    long_double,
    parse_integer,
    positive_deadline,
)
from server.commands.context import Context
from server.commands.lcs import lcs_length, lcs_trace
from server.commands.many_texts import put_all, text_of, texts_of
from server.commands.spec import ALL, ALL_PAIRS, DENYOOM, FAST, FIRST, FIRST_TWO, READ, WRITE, command
from server.commands.splice import spliced
from server.errors import (
    DECR_OVERFLOW,
    NAN_OR_INFINITY,
    NOT_INTEGER,
    OFFSET_OUT_OF_RANGE,
    OVERFLOW,
    SYNTAX,
    WRONG_TYPE,
    wrong_arity,
)
from server.keyspace.database import Database

# -- whole values -----------------------------------------------------------------------------------------------------


@command(
    "GET",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="string",
    since="1.0.0",
    summary="Reads the string that a key holds.",
    complexity="O(1)",
    syntax="key",
)
def get(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return None
    value = entry.value
    return value if isinstance(value, bytes) else WRONG_TYPE


_LOOKING: Final = (b"NX", b"XX", b"GET", b"KEEPTTL")


def _set_is_blind(argv: list[bytes]) -> bool:
    return all(option.upper() not in _LOOKING for option in argv[3:])


@command(
    "SET",
    arity=-3,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    blind=_set_is_blind,
    group="string",
    since="1.0.0",
    summary="Lets a key hold a string, whatever it held before; on request only if it exists or does not exist.",
    complexity="O(1)",
    syntax="key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | "
    "PXAT unix-time-milliseconds | KEEPTTL]",
)
def set_(ctx: Context, argv: list[bytes]) -> object:
    argc = len(argv)
    if argc == 3:
        ctx.db.put(argv[1], STRING, argv[2], NEVER, b"set")
        return OK
    if argc == 5:
        unit = LIFETIMES.get(argv[3], NO_LIFETIME)
        if unit != NO_LIFETIME:
            ctx.db.put(argv[1], STRING, argv[2], positive_deadline(ctx, unit, argv[4], "set"), b"set")
            ctx.db.note(argv[1], b"expire")
            return OK
    return _set_with_options(ctx, argv)


def _set_with_options(ctx: Context, argv: list[bytes]) -> object:
    options = SetOptions()
    options.parse(argv, 3, True)
    key = argv[1]
    db = ctx.db
    deadline_ms = NEVER
    if options.has_deadline():
        deadline_ms = positive_deadline(ctx, options.unit, options.amount, "set")
    old: object = None
    if options.get:
        entry = db.find(key)
        if entry is not None:
            if entry.kind != STRING:
                return WRONG_TYPE
            old = entry.value
    elif options.if_absent or options.if_present or options.unit == KEEP_LIFETIME:
        entry = db.peek(key)
    else:
        db.put(key, STRING, argv[2], deadline_ms, b"set")
        if deadline_ms != NEVER:
            db.note(key, b"expire")
        return OK
    if (options.if_absent and entry is not None) or (options.if_present and entry is None):
        return old
    if options.unit == KEEP_LIFETIME and entry is not None:
        deadline_ms = entry.deadline_ms
    db.put(key, STRING, argv[2], deadline_ms, b"set")
    if options.has_deadline():
        db.note(key, b"expire")
    return old if options.get else OK


@command(
    "SETNX",
    arity=3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="string",
    since="1.0.0",
    summary="Lets a key hold a string only if the key does not exist.",
    complexity="O(1)",
    syntax="key value",
)
def setnx(ctx: Context, argv: list[bytes]) -> object:
    if ctx.db.peek(argv[1]) is not None:
        return 0
    ctx.db.put(argv[1], STRING, argv[2], NEVER, b"set")
    return 1


@command(
    "SETEX",
    arity=4,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    blind=always,
    group="string",
    since="2.0.0",
    summary="Lets a key hold a string for a number of seconds.",
    complexity="O(1)",
    syntax="key seconds value",
)
def setex(ctx: Context, argv: list[bytes]) -> object:
    ctx.db.put(argv[1], STRING, argv[3], positive_deadline(ctx, SECONDS, argv[2], "setex"), b"set")
    ctx.db.note(argv[1], b"expire")
    return OK


@command(
    "PSETEX",
    arity=4,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    blind=always,
    group="string",
    since="2.6.0",
    summary="Lets a key hold a string for a number of milliseconds.",
    complexity="O(1)",
    syntax="key milliseconds value",
)
def psetex(ctx: Context, argv: list[bytes]) -> object:
    ctx.db.put(argv[1], STRING, argv[3], positive_deadline(ctx, MILLISECONDS, argv[2], "psetex"), b"set")
    ctx.db.note(argv[1], b"expire")
    return OK


@command(
    "GETSET",
    arity=3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="string",
    since="1.0.0",
    summary="Lets a key hold a new string and returns the one it held.",
    complexity="O(1)",
    syntax="key value",
)
def getset(ctx: Context, argv: list[bytes]) -> object:
    old: object = None
    entry = ctx.db.find(argv[1])
    if entry is not None:
        if entry.kind != STRING:
            return WRONG_TYPE
        old = entry.value
    ctx.db.put(argv[1], STRING, argv[2], NEVER, b"set")
    return old


@command(
    "GETDEL",
    arity=2,
    flags=WRITE | FAST,
    keys=FIRST,
    group="string",
    since="6.2.0",
    summary="Returns a key's string and deletes the key.",
    complexity="O(1)",
    syntax="key",
)
def getdel(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return None
    if entry.kind != STRING:
        return WRONG_TYPE
    value = entry.value
    ctx.db.remove(argv[1])
    return value


@command(
    "GETEX",
    arity=-2,
    flags=WRITE | FAST,
    keys=FIRST,
    group="string",
    since="6.2.0",
    summary="Returns a key's string and gives the key another time to live, or none.",
    complexity="O(1)",
    syntax="key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]",
)
def getex(ctx: Context, argv: list[bytes]) -> object:
    options = SetOptions()
    options.parse(argv, 2, False)
    db = ctx.db
    entry = db.find(argv[1])
    if entry is None:
        return None
    if entry.kind != STRING:
        return WRONG_TYPE
    value = entry.value
    if options.unit == NO_LIFETIME:
        return value
    deadline_ms = NEVER
    if options.unit != PERSIST:
        deadline_ms = positive_deadline(ctx, options.unit, options.amount, "getex")
    elif entry.deadline_ms == NEVER:
        return value
    entry = db.edit(argv[1])
    if entry is not None:
        if deadline_ms > db.now_ms:
            db.set_deadline(entry, deadline_ms, b"persist" if deadline_ms == NEVER else b"expire")
        else:
            db.expire_now(entry)
    return value


@command(
    "MGET",
    arity=-2,
    flags=READ | FAST,
    keys=ALL,
    group="string",
    since="1.0.0",
    summary="Reads the strings of several keys; nil for each key that is absent or holds something else.",
    complexity="O(N) with N keys",
    syntax="key [key ...]",
)
def mget(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    return texts_of(db, argv) if type(db) is Database else [text_of(db, key) for key in argv[1:]]


@command(
    "MSET",
    arity=-3,
    flags=WRITE | DENYOOM,
    keys=ALL_PAIRS,
    blind=always,
    group="string",
    since="1.0.1",
    summary="Lets several keys hold a string each, in one step.",
    complexity="O(N) with N keys",
    syntax="key value [key value ...]",
)
def mset(ctx: Context, argv: list[bytes]) -> object:
    if not len(argv) & 1:
        return wrong_arity("mset")
    db = ctx.db
    if type(db) is Database and not db.heeded:
        put_all(db, argv)
        return OK
    for at in range(1, len(argv), 2):
        db.put(argv[at], STRING, argv[at + 1], NEVER, b"set")
    return OK


@command(
    "MSETNX",
    arity=-3,
    flags=WRITE | DENYOOM,
    keys=ALL_PAIRS,
    group="string",
    since="1.0.1",
    summary="Lets several keys hold a string each, but only if none of them exists.",
    complexity="O(N) with N keys",
    syntax="key value [key value ...]",
)
def msetnx(ctx: Context, argv: list[bytes]) -> object:
    if not len(argv) & 1:
        return wrong_arity("msetnx")
    db = ctx.db
    for key in argv[1::2]:
        if db.peek(key) is not None:
            return 0
    for at in range(1, len(argv), 2):
        db.put(argv[at], STRING, argv[at + 1], NEVER, b"set")
    return 1


# -- parts of values --------------------------------------------------------------------------------------------------


@command(
    "STRLEN",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="string",
    since="2.2.0",
    summary="Number of bytes of a key's string; 0 when the key is absent.",
    complexity="O(1)",
    syntax="key",
)
def strlen(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return 0
    value = entry.value
    return len(value) if isinstance(value, bytes) else WRONG_TYPE


@command(
    "APPEND",
    arity=3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="string",
    since="2.0.0",
    summary="Adds bytes to the end of a key's string, which is made when the key is absent; returns the new length.",
    complexity="O(N) with the length of the result",
    syntax="key value",
)
def append(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None:
        db.put(argv[1], STRING, argv[2], NEVER, b"append")
        return len(argv[2])
    value = entry.value
    if not isinstance(value, bytes):
        return WRONG_TYPE
    length = len(value) + len(argv[2])
    check_length(length)
    db.respell(entry, value + argv[2], b"append")
    return length


@command(
    "GETRANGE",
    arity=4,
    flags=READ,
    keys=FIRST,
    group="string",
    since="2.4.0",
    summary="Reads a part of a key's string; positions below zero count from the end, both ends are included.",
    complexity="O(N) with the length of the part",
    syntax="key start end",
)
def getrange(ctx: Context, argv: list[bytes]) -> object:
    start = integer(argv[2])
    end = integer(argv[3])
    entry = ctx.db.find(argv[1])
    if entry is None:
        return b""
    value = entry.value
    if not isinstance(value, bytes):
        return WRONG_TYPE
    if start < 0 and end < 0 and start > end:
        return b""
    if start < 0:
        start = max(0, start + len(value))
    if end < 0:
        # As in Redis, an end before the beginning means the first byte.
        end = max(0, end + len(value))
    # The test is for mypyc, whose slice of bytes fails when it would end before it starts.
    return value[start : end + 1] if start <= end else b""


command(
    "SUBSTR",
    arity=4,
    flags=READ,
    keys=FIRST,
    group="string",
    since="1.0.0",
    summary="The old name of GETRANGE.",
    complexity="O(N) with the length of the part",
    syntax="key start end",
)(getrange)


@command(
    "SETRANGE",
    arity=4,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    group="string",
    since="2.2.0",
    summary="Overwrites a part of a key's string from an offset on, filling a gap with zero bytes.",
    complexity="O(N) with the length of the result",
    syntax="key offset value",
)
def setrange(ctx: Context, argv: list[bytes]) -> object:
    offset = integer(argv[2])
    if offset < 0:
        return OFFSET_OUT_OF_RANGE
    part = argv[3]
    db = ctx.db
    old = b""
    entry = db.edit(argv[1])
    if entry is not None:
        value = entry.value
        if not isinstance(value, bytes):
            return WRONG_TYPE
        old = value
    if not part:
        return len(old)
    check_length(offset + len(part))
    new = spliced(old, offset, part)
    if entry is None:
        db.put(argv[1], STRING, new, NEVER, b"setrange")
    else:
        db.respell(entry, new, b"setrange")
    return len(new)


# -- counters ---------------------------------------------------------------------------------------------------------


@command(
    "INCR",
    arity=2,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="string",
    since="1.0.0",
    summary="Adds one to the integer that a key's string spells; an absent key counts as 0.",
    complexity="O(1)",
    syntax="key",
)
def incr(ctx: Context, argv: list[bytes]) -> object:
    return _add(ctx.db, argv[1], 1)


@command(
    "DECR",
    arity=2,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="string",
    since="1.0.0",
    summary="Takes one from the integer that a key's string spells; an absent key counts as 0.",
    complexity="O(1)",
    syntax="key",
)
def decr(ctx: Context, argv: list[bytes]) -> object:
    return _add(ctx.db, argv[1], -1)


@command(
    "INCRBY",
    arity=3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="string",
    since="1.0.0",
    summary="Adds a number to the integer that a key's string spells; an absent key counts as 0.",
    complexity="O(1)",
    syntax="key increment",
)
def incrby(ctx: Context, argv: list[bytes]) -> object:
    return _add(ctx.db, argv[1], integer(argv[2]))


@command(
    "DECRBY",
    arity=3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="string",
    since="1.0.0",
    summary="Takes a number from the integer that a key's string spells; an absent key counts as 0.",
    complexity="O(1)",
    syntax="key decrement",
)
def decrby(ctx: Context, argv: list[bytes]) -> object:
    amount = integer(argv[2])
    if amount == INT64_MIN:
        return DECR_OVERFLOW
    return _add(ctx.db, argv[1], -amount)


# Compiled code compares numbers below this in registers, and those of 64 bits as objects.
_NEAR: Final = 1 << 61


def _add(db: Database, key: bytes, amount: int) -> object:
    entry = db.edit(key)
    if entry is None:
        db.put(key, STRING, integer_text(amount), NEVER, b"incrby")
        return amount
    value = entry.value
    if not isinstance(value, bytes):
        return WRONG_TYPE
    old = NUMBERS.get(value) if len(value) < READY_DIGITS else None
    if old is None:
        old = parse_integer(value)
        if old is None:
            return NOT_INTEGER
    new = old + amount
    if 0 <= new < READY:
        db.respell(entry, TEXTS[new], b"incrby")
    elif -_NEAR < new < _NEAR or INT64_MIN <= new <= INT64_MAX:
        db.respell(entry, b"%d" % new, b"incrby")
    else:
        return OVERFLOW
    return new


@command(
    "INCRBYFLOAT",
    arity=3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="string",
    since="2.6.0",
    summary="Adds a number with decimals to the one that a key's string spells; an absent key counts as 0.",
    complexity="O(1)",
    syntax="key increment",
)
def incrbyfloat(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    old = b"0"
    entry = db.edit(argv[1])
    if entry is not None:
        value = entry.value
        if not isinstance(value, bytes):
            return WRONG_TYPE
        old = value
    number = long_double(old)
    amount = long_double(argv[2])
    if number.is_infinite() or amount.is_infinite():
        return NAN_OR_INFINITY
    number = number.plus(amount)
    if number.is_infinite():
        return NAN_OR_INFINITY
    text = number.text()
    if entry is None:
        db.put(argv[1], STRING, text, NEVER, b"incrbyfloat")
    else:
        db.respell(entry, text, b"incrbyfloat")
    return text


# -- comparing --------------------------------------------------------------------------------------------------------

_LCS_TYPE: Final = Error("ERR The specified keys must contain string values")
_LCS_BOTH: Final = Error("ERR If you want both the length and indexes, please just use IDX.")
_LCS_MEMORY: Final = Error("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")
# Rows that are kept for the way back: a step of each costs about a microsecond, and nobody else is served meanwhile.
_LCS_ROWS: Final = 1 << 20


@command(
    "LCS",
    arity=-3,
    flags=READ,
    keys=FIRST_TWO,
    group="string",
    since="7.0.0",
    summary="Finds the longest common subsequence of two strings: itself, its length, or where it lies in both.",
    complexity="O(N*M) with the lengths of the strings",
    syntax="key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]",
)
def lcs(ctx: Context, argv: list[bytes]) -> object:
    first = ctx.db.find(argv[1])
    second = ctx.db.find(argv[2])
    a = first.value if first is not None else b""
    b = second.value if second is not None else b""
    if not isinstance(a, bytes) or not isinstance(b, bytes):
        return _LCS_TYPE
    only_length = False
    indexes = False
    with_lengths = False
    least = 0
    at = 3
    while at < len(argv):
        option = argv[at].upper()
        if option == b"LEN":
            only_length = True
        elif option == b"IDX":
            indexes = True
        elif option == b"WITHMATCHLEN":
            with_lengths = True
        elif option == b"MINMATCHLEN" and at + 1 < len(argv):
            at += 1
            least = integer(argv[at])
        else:
            return SYNTAX
        at += 1
    if only_length and indexes:
        return _LCS_BOTH
    if (len(a) + 1) * (len(b) + 1) * 4 > MAX_STRING or (len(a) > _LCS_ROWS and not only_length):
        return _LCS_MEMORY
    if only_length:
        return lcs_length(a, b) if len(a) < len(b) else lcs_length(b, a)
    text, ranges = lcs_trace(a, b)
    if not indexes:
        return text
    matches: list[object] = []
    for a_start, a_end, b_start, b_end in ranges:
        length = a_end - a_start + 1
        if length >= least:
            match: list[object] = [[a_start, a_end], [b_start, b_end]]
            if with_lengths:
                match.append(length)
            matches.append(match)
    return Map([(b"matches", matches), (b"len", len(text))])
