"""Lifetimes of single fields of a hash: HEXPIRE, HTTL, HPERSIST and their kin.

A hash becomes an ExpiringHash when a field of it first gets a deadline. Fields whose time has come are taken out when a
command looks at the hash (`living`), or by the active cycle, whichever is first; nobody sees them.
"""

from __future__ import annotations

from typing import Final

from persistence.change import HASH
from persistence.field_lifetimes import ExpiringHash
from protocol.replies import Error
from server.commands.args import INT64_MAX, integer, parse_integer
from server.commands.context import Context
from server.commands.spec import DENYOOM, FAST, FIRST, READ, WRITE, command
from server.errors import WRONG_TYPE, CommandError, invalid_expire
from server.keyspace.entry import Entry
from server.keyspace.values.walked_hash import WalkedHash
from server.keyspace.weights import DEADLINE_OVERHEAD, field_weight

# The latest deadline that Redis can note for a field.
LATEST_MS: Final = (1 << 46) - 1

_NO_FIELDS: Final = Error("ERR Mandatory argument FIELDS is missing or not at the right position")
_NEGATIVE: Final = Error("ERR invalid expire time, must be >= 0")
_NO_NUMBER: Final = Error("ERR Parameter `numFields` should be greater than 0")
_NOT_POSITIVE: Final = Error("ERR Number of fields must be a positive integer")
_MISCOUNTED: Final = Error("ERR The `numfields` parameter must match the number of arguments")

# In a hash of so many fields an index saves nothing.
_SKIPPED: Final = 512

_NX: Final = 1
_XX: Final = 2
_GT: Final = 3
_LT: Final = 4
_CONDITIONS: Final = {b"NX": _NX, b"XX": _XX, b"GT": _GT, b"LT": _LT}

# What a reply says of one field.
_ABSENT: Final = -2
_WITHOUT: Final = -1
_REFUSED: Final = 0
_DONE: Final = 1
_DELETED: Final = 2


def wall_ms(ctx: Context) -> int:
    """The wall clock's milliseconds, as this command sees them."""
    return ctx.db.now_ms + ctx.server.wall_offset_ms()


def living(ctx: Context, entry: Entry) -> dict[bytes, bytes]:
    """The fields of a hash that have not run out. None are left when the last one just did, and the key with it."""
    fields = entry.value
    assert isinstance(fields, dict)
    if type(fields) is not dict:
        ctx.db.expire_fields(entry, wall_ms(ctx))
    return fields


def walked_hash(entry: Entry) -> WalkedHash | None:
    """A large hash with an index of its fields, made if need be. None: it is small, a copy of a row, or has fields that
    run out; then it is walked as the dictionary that it is."""
    fields = entry.value
    if isinstance(fields, WalkedHash):
        return fields
    assert isinstance(fields, dict)
    if type(fields) is not dict or len(fields) <= _SKIPPED or entry.lease is not None:
        return None
    entry.value = walked = WalkedHash(fields)
    return walked


def forget_deadlines(fields: dict[bytes, bytes], names: list[bytes]) -> int:
    """These fields get new values, or are gone, and with the old ones their deadlines; by how much the weight falls."""
    freed = 0
    if isinstance(fields, ExpiringHash):
        for name in names:
            if fields.persist(name):
                freed += DEADLINE_OVERHEAD
    return freed


def _names(argv: list[bytes], at: int, refusal: Error) -> list[bytes]:
    # `FIELDS numfields field [field ...]`, to the end of the line.
    if argv[at].upper() != b"FIELDS":
        raise CommandError(_NO_FIELDS)
    count = parse_integer(argv[at + 1]) if at + 1 < len(argv) else None
    if count is None or not 1 <= count <= INT64_MAX:
        raise CommandError(refusal)
    names = argv[at + 2 :]
    if count != len(names):
        raise CommandError(_MISCOUNTED)
    return names


# -- giving -----------------------------------------------------------------------------------------------------------


@command(
    "HEXPIRE",
    arity=-6,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="hash",
    since="7.4.0",
    summary="Lets fields of a hash live for a number of seconds. For each: 1 done, 0 the condition does not hold, "
    "2 deleted at once, -2 no such field.",
    complexity="O(N log(M)) with N fields given and M that have a lifetime; O(size) for the first lifetime",
    syntax="key seconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
)
def hexpire(ctx: Context, argv: list[bytes]) -> object:
    return _expire(ctx, argv, 1000, wall_ms(ctx), "hexpire")


@command(
    "HPEXPIRE",
    arity=-6,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="hash",
    since="7.4.0",
    summary="Lets fields of a hash live for a number of milliseconds; replies as HEXPIRE.",
    complexity="O(N log(M)) with N fields given and M that have a lifetime",
    syntax="key milliseconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
)
def hpexpire(ctx: Context, argv: list[bytes]) -> object:
    return _expire(ctx, argv, 1, wall_ms(ctx), "hpexpire")


@command(
    "HEXPIREAT",
    arity=-6,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="hash",
    since="7.4.0",
    summary="Lets fields of a hash live until a Unix time in seconds; replies as HEXPIRE.",
    complexity="O(N log(M)) with N fields given and M that have a lifetime",
    syntax="key unix-time-seconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
)
def hexpireat(ctx: Context, argv: list[bytes]) -> object:
    return _expire(ctx, argv, 1000, 0, "hexpireat")


@command(
    "HPEXPIREAT",
    arity=-6,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="hash",
    since="7.4.0",
    summary="Lets fields of a hash live until a Unix time in milliseconds; replies as HEXPIRE.",
    complexity="O(N log(M)) with N fields given and M that have a lifetime",
    syntax="key unix-time-milliseconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
)
def hpexpireat(ctx: Context, argv: list[bytes]) -> object:
    return _expire(ctx, argv, 1, 0, "hpexpireat")


def _expire(ctx: Context, argv: list[bytes], unit_ms: int, from_ms: int, name: str) -> object:
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is not None and entry.kind != HASH:
        return WRONG_TYPE
    amount = integer(argv[2])
    if amount < 0:
        return _NEGATIVE
    deadline_ms = amount * unit_ms + from_ms
    if deadline_ms > LATEST_MS:
        return invalid_expire(name)
    condition = _CONDITIONS.get(argv[3].upper(), 0)
    names = _names(argv, 4 if condition else 3, _NO_NUMBER)
    if entry is None or not living(ctx, entry):
        return [_ABSENT] * len(names)
    if deadline_ms <= wall_ms(ctx):
        return _delete(ctx, entry, names, condition, deadline_ms)
    return _set(ctx, entry, names, condition, deadline_ms)


def _allows(condition: int, current_ms: int | None, wanted_ms: int) -> bool:
    # A field without a deadline lives for ever: GT never holds for it, LT always does.
    if current_ms is None:
        return condition not in (_XX, _GT)
    if condition == _GT:
        return wanted_ms > current_ms
    if condition == _LT:
        return wanted_ms < current_ms
    return condition != _NX


def _set(ctx: Context, entry: Entry, names: list[bytes], condition: int, deadline_ms: int) -> list[int]:
    fields = entry.value
    assert isinstance(fields, dict)
    expiring = fields if isinstance(fields, ExpiringHash) else ExpiringHash(fields, {})
    replies: list[int] = []
    chosen: list[bytes] = []
    delta = 0
    for name in names:
        if name not in fields:
            replies.append(_ABSENT)
        elif _allows(condition, expiring.deadlines.get(name), deadline_ms):
            replies.append(_DONE)
            chosen.append(name)
            if expiring.expire(name, deadline_ms):
                delta += DEADLINE_OVERHEAD
        else:
            replies.append(_REFUSED)
    if chosen:
        entry.value = expiring
        ctx.db.edited(entry, b"hexpire", chosen, delta)
        ctx.db.file_fields(entry.key, expiring)
    return replies


def _delete(ctx: Context, entry: Entry, names: list[bytes], condition: int, deadline_ms: int) -> list[int]:
    # The deadline is in the past: the fields go at once, as HDEL would have them go.
    fields = entry.value
    assert isinstance(fields, dict)
    known = fields.deadlines if isinstance(fields, ExpiringHash) else {}
    replies: list[int] = []
    gone: list[bytes] = []
    delta = 0
    for name in names:
        if name not in fields:
            replies.append(_ABSENT)
        elif _allows(condition, known.get(name), deadline_ms):
            replies.append(_DELETED)
            gone.append(name)
            delta -= forget_deadlines(fields, [name]) + field_weight(name, fields.pop(name))
        else:
            replies.append(_REFUSED)
    if gone:
        ctx.db.edited(entry, b"hdel", gone, delta)
        if not fields:
            ctx.db.remove(entry.key, b"del")
    return replies


@command(
    "HPERSIST",
    arity=-5,
    flags=WRITE | FAST,
    keys=FIRST,
    group="hash",
    since="7.4.0",
    summary="Takes the lifetimes of fields of a hash away. For each: 1 done, -1 it has none, -2 no such field.",
    complexity="O(N) with N fields given",
    syntax="key FIELDS numfields field [field ...]",
)
def hpersist(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is not None and entry.kind != HASH:
        return WRONG_TYPE
    names = _names(argv, 2, _NOT_POSITIVE)
    if entry is None:
        return [_ABSENT] * len(names)
    fields = living(ctx, entry)
    replies: list[int] = []
    freed: list[bytes] = []
    for name in names:
        if name not in fields:
            replies.append(_ABSENT)
        elif isinstance(fields, ExpiringHash) and fields.persist(name):
            replies.append(_DONE)
            freed.append(name)
        else:
            replies.append(_WITHOUT)
    if freed:
        ctx.db.edited(entry, b"hpersist", freed, -DEADLINE_OVERHEAD * len(freed))
    return replies


# -- asking -----------------------------------------------------------------------------------------------------------


@command(
    "HTTL",
    arity=-5,
    flags=READ | FAST,
    keys=FIRST,
    group="hash",
    since="7.4.0",
    summary="Seconds that fields of a hash have to live; -1 without a lifetime, -2 when there is no such field.",
    complexity="O(N) with N fields given",
    syntax="key FIELDS numfields field [field ...]",
)
def httl(ctx: Context, argv: list[bytes]) -> object:
    return _tell(ctx, argv, 1000, wall_ms(ctx))


@command(
    "HPTTL",
    arity=-5,
    flags=READ | FAST,
    keys=FIRST,
    group="hash",
    since="7.4.0",
    summary="Milliseconds that fields of a hash have to live; -1 without a lifetime, -2 when there is no such field.",
    complexity="O(N) with N fields given",
    syntax="key FIELDS numfields field [field ...]",
)
def hpttl(ctx: Context, argv: list[bytes]) -> object:
    return _tell(ctx, argv, 1, wall_ms(ctx))


@command(
    "HEXPIRETIME",
    arity=-5,
    flags=READ | FAST,
    keys=FIRST,
    group="hash",
    since="7.4.0",
    summary="Unix times in seconds at which fields of a hash run out; -1 without a lifetime, -2 for no such field.",
    complexity="O(N) with N fields given",
    syntax="key FIELDS numfields field [field ...]",
)
def hexpiretime(ctx: Context, argv: list[bytes]) -> object:
    return _tell(ctx, argv, 1000, 0)


@command(
    "HPEXPIRETIME",
    arity=-5,
    flags=READ | FAST,
    keys=FIRST,
    group="hash",
    since="7.4.0",
    summary="Unix times in milliseconds when fields of a hash run out; -1 without a lifetime, -2 for no such field.",
    complexity="O(N) with N fields given",
    syntax="key FIELDS numfields field [field ...]",
)
def hpexpiretime(ctx: Context, argv: list[bytes]) -> object:
    return _tell(ctx, argv, 1, 0)


def _tell(ctx: Context, argv: list[bytes], unit_ms: int, from_ms: int) -> object:
    entry = ctx.db.find(argv[1])
    if entry is not None and entry.kind != HASH:
        return WRONG_TYPE
    names = _names(argv, 2, _NOT_POSITIVE)
    if entry is None:
        return [_ABSENT] * len(names)
    fields = living(ctx, entry)
    known = fields.deadlines if isinstance(fields, ExpiringHash) else {}
    replies: list[int] = []
    for name in names:
        deadline_ms = known.get(name)
        if deadline_ms is not None:
            # Seconds are rounded up.
            replies.append((deadline_ms - from_ms + unit_ms - 1) // unit_ms)
        else:
            replies.append(_WITHOUT if name in fields else _ABSENT)
    return replies
