"""Hashes: HSET, HGET and their kin. A value is a `dict[bytes, bytes]`, changed in place between `edit` and `edited`.

One with fields that run out is an ExpiringHash, which is a dictionary too: `living` takes out what has run out, so that
every handler begins with it. A new value takes a field's lifetime away, an increment leaves it.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import Final

from persistence.change import HASH, NEVER
from protocol.replies import OK, Elements, Error, Map
from server.commands.args import (
    INT64_MAX,
    INT64_MIN,
    integer,
    integer_text,
    long_double,
    parse_integer,
)
from server.commands.context import Context
from server.commands.draws import REPLY_OVERHEAD, Draw, check_draws
from server.commands.hash_lifetimes import forget_deadlines, living, walked_hash
from server.commands.numerals import parse_long_double
from server.commands.spec import DENYOOM, FAST, FIRST, READ, WRITE, command
from server.errors import (
    HASH_NOT_FLOAT,
    HASH_NOT_INTEGER,
    NAN_OR_INFINITY,
    OVERFLOW,
    WRONG_TYPE,
    wrong_arity,
)
from server.keyspace.entry import Entry
from server.keyspace.excerpt import AT_ONCE, Members
from server.keyspace.values.field_names import SMALL
from server.keyspace.values.places import Places
from server.keyspace.values.walked_hash import WalkedHash
from server.keyspace.weights import FIELD_OVERHEAD, field_weight

_NOT_FINITE: Final = Error("ERR value is NaN or Infinity")


# -- writing ----------------------------------------------------------------------------------------------------------


@command(
    "HSET",
    arity=-4,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="Gives fields of a hash their values and returns how many fields are new; the hash is made when absent.",
    complexity="O(N) with N fields given",
    syntax="key field value [field value ...]",
)
def hset(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) != 4:
        return wrong_arity("hset") if len(argv) & 1 else _set_all(ctx, ctx.db.edit(argv[1]), argv)
    db = ctx.db
    entry = db.edit(argv[1])
    fields = entry.value if entry is not None else None
    if entry is None or type(fields) is not dict:
        return _set_all(ctx, entry, argv)
    # The usual HSET: one field, and no deadlines to forget.
    field = argv[2]
    value = argv[3]
    old = fields.get(field)
    if old is None:
        fields[db.names.shared(field) if len(fields) < SMALL else field] = value
        db.edited(entry, b"hset", [field], FIELD_OVERHEAD + len(field) + len(value))
        return 1
    fields[field] = value
    db.edited(entry, b"hset", [field], len(value) - len(old))
    return 0


def _set_all(ctx: Context, entry: Entry | None, argv: list[bytes]) -> object:
    if entry is None:
        return _make(ctx, argv)
    if entry.kind != HASH:
        return WRONG_TYPE
    fields = living(ctx, entry)
    if not fields:
        return _make(ctx, argv)
    added = 0
    delta = 0 if type(fields) is dict else -forget_deadlines(fields, argv[2::2])
    for at in range(2, len(argv), 2):
        field = argv[at]
        value = argv[at + 1]
        old = fields.get(field)
        if old is None:
            fields[_name(ctx, fields, field)] = value
            added += 1
            delta += field_weight(field, value)
        else:
            fields[field] = value
            delta += len(value) - len(old)
    ctx.db.edited(entry, b"hset", argv[2::2], delta)
    return added


def _make(ctx: Context, argv: list[bytes]) -> int:
    db = ctx.db
    if len(argv) == 4:
        fields = {db.names.shared(argv[2]): argv[3]}
    else:
        names = argv[2::2]
        shared = db.names.shared_all(names) if len(names) <= SMALL else names
        fields = dict(zip(shared, argv[3::2], strict=True))
    db.put(argv[1], HASH, fields, NEVER, b"hset")
    return len(fields)


def _name(ctx: Context, fields: dict[bytes, bytes], field: bytes) -> bytes:
    # What stands for the name of a field that is new to these.
    return ctx.db.names.shared(field) if len(fields) < SMALL else field


@command(
    "HMSET",
    arity=-4,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="The old name of HSET, which answers OK.",
    complexity="O(N) with N fields given",
    syntax="key field value [field value ...]",
)
def hmset(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) & 1:
        return wrong_arity("hmset")
    reply = hset(ctx, argv)
    return OK if isinstance(reply, int) else reply


@command(
    "HSETNX",
    arity=4,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="Gives a field of a hash a value only if the field does not exist.",
    complexity="O(1)",
    syntax="key field value",
)
def hsetnx(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return _make(ctx, argv)
    if entry.kind != HASH:
        return WRONG_TYPE
    fields = living(ctx, entry)
    if not fields:
        return _make(ctx, argv)
    if argv[2] in fields:
        return 0
    fields[_name(ctx, fields, argv[2])] = argv[3]
    ctx.db.edited(entry, b"hset", [argv[2]], field_weight(argv[2], argv[3]))
    return 1


@command(
    "HDEL",
    arity=-3,
    flags=WRITE | FAST,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="Deletes fields of a hash, and the hash with its last field; returns how many fields there were.",
    complexity="O(N) with N fields given",
    syntax="key field [field ...]",
)
def hdel(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None:
        return 0
    if entry.kind != HASH:
        return WRONG_TYPE
    fields = living(ctx, entry)
    gone: list[bytes] = []
    delta = 0
    for field in argv[2:]:
        old = fields.pop(field, None)
        if old is not None:
            gone.append(field)
            delta -= field_weight(field, old)
    if gone:
        if type(fields) is not dict:
            delta -= forget_deadlines(fields, gone)
        db.edited(entry, b"hdel", gone, delta)
        if not fields:
            db.remove(argv[1], b"del")
    return len(gone)


@command(
    "HINCRBY",
    arity=4,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="Adds a number to the integer that a field of a hash spells; an absent field counts as 0.",
    complexity="O(1)",
    syntax="key field increment",
)
def hincrby(ctx: Context, argv: list[bytes]) -> object:
    amount = integer(argv[3])
    field = argv[2]
    entry = ctx.db.edit(argv[1])
    if entry is not None and entry.kind != HASH:
        return WRONG_TYPE
    fields = living(ctx, entry) if entry is not None else {}
    text = fields.get(field)
    total = amount
    if text is not None:
        old = parse_integer(text)
        if old is None:
            return HASH_NOT_INTEGER
        total = old + amount
        if not INT64_MIN <= total <= INT64_MAX:
            return OVERFLOW
    _store(ctx, entry if fields else None, argv[1], field, text, integer_text(total), b"hincrby")
    return total


@command(
    "HINCRBYFLOAT",
    arity=4,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="hash",
    since="2.6.0",
    summary="Adds a number with decimals to the one that a field of a hash spells; an absent field counts as 0.",
    complexity="O(1)",
    syntax="key field increment",
)
def hincrbyfloat(ctx: Context, argv: list[bytes]) -> object:
    number = long_double(argv[3])
    if number.is_infinite():
        return _NOT_FINITE
    field = argv[2]
    entry = ctx.db.edit(argv[1])
    if entry is not None and entry.kind != HASH:
        return WRONG_TYPE
    fields = living(ctx, entry) if entry is not None else {}
    text = fields.get(field)
    if text is not None:
        old = parse_long_double(text)
        if old is None:
            return HASH_NOT_FLOAT
        if old.is_infinite():
            return NAN_OR_INFINITY
        number = old.plus(number)
        if number.is_infinite():
            return NAN_OR_INFINITY
    total = number.text()
    _store(ctx, entry if fields else None, argv[1], field, text, total, b"hincrbyfloat")
    return total


def _store(
    ctx: Context, entry: Entry | None, key: bytes, field: bytes, old: bytes | None, new: bytes, event: bytes
) -> None:
    # One field of a hash from `edit`, or of a new one.
    if entry is None:
        ctx.db.put(key, HASH, {ctx.db.names.shared(field): new}, NEVER, event)
        return
    fields = entry.value
    assert isinstance(fields, dict)
    fields[field if old is not None else _name(ctx, fields, field)] = new
    delta = field_weight(field, new) if old is None else len(new) - len(old)
    ctx.db.edited(entry, event, [field], delta)


# -- reading ----------------------------------------------------------------------------------------------------------


@command(
    "HGET",
    arity=3,
    flags=READ | FAST,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="Reads a field of a hash.",
    complexity="O(1)",
    syntax="key field",
)
def hget(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return None
    if entry.kind != HASH:
        return WRONG_TYPE
    fields = entry.value
    return fields.get(argv[2]) if type(fields) is dict else living(ctx, entry).get(argv[2])


@command(
    "HMGET",
    arity=-3,
    flags=READ | FAST,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="Reads several fields of a hash; nil for each that is absent.",
    complexity="O(N) with N fields given",
    syntax="key field [field ...]",
)
def hmget(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return [None] * (len(argv) - 2)
    if entry.kind != HASH:
        return WRONG_TYPE
    fields = living(ctx, entry)
    return [fields.get(field) for field in argv[2:]]


@command(
    "HGETALL",
    arity=2,
    flags=READ,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="Reads all fields of a hash with their values.",
    complexity="O(N) with N fields",
    syntax="key",
)
def hgetall(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return Map([])
    if entry.kind != HASH:
        return WRONG_TYPE
    fields = living(ctx, entry)
    if len(fields) > AT_ONCE and ctx.may_read_on():
        return Elements(Members(fields, chain.from_iterable(fields.items())), 2 * len(fields), b"%")
    return Map(fields.items())


@command(
    "HKEYS",
    arity=2,
    flags=READ,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="The names of all fields of a hash.",
    complexity="O(N) with N fields",
    syntax="key",
)
def hkeys(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return []
    return _listed(ctx, living(ctx, entry), False) if entry.kind == HASH else WRONG_TYPE


@command(
    "HVALS",
    arity=2,
    flags=READ,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="The values of all fields of a hash.",
    complexity="O(N) with N fields",
    syntax="key",
)
def hvals(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return []
    return _listed(ctx, living(ctx, entry), True) if entry.kind == HASH else WRONG_TYPE


def _listed(ctx: Context, fields: dict[bytes, bytes], values: bool) -> object:
    # The names of all fields, or their values.
    listed = fields.values() if values else fields.keys()
    if len(fields) > AT_ONCE and ctx.may_read_on():
        return Elements(Members(fields, iter(listed)), len(fields))
    return list(listed)


@command(
    "HLEN",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="Number of fields of a hash.",
    complexity="O(1)",
    syntax="key",
)
def hlen(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return 0
    return len(living(ctx, entry)) if entry.kind == HASH else WRONG_TYPE


@command(
    "HEXISTS",
    arity=3,
    flags=READ | FAST,
    keys=FIRST,
    group="hash",
    since="2.0.0",
    summary="Does a field of a hash exist?",
    complexity="O(1)",
    syntax="key field",
)
def hexists(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return 0
    if entry.kind != HASH:
        return WRONG_TYPE
    return 1 if argv[2] in living(ctx, entry) else 0


@command(
    "HSTRLEN",
    arity=3,
    flags=READ | FAST,
    keys=FIRST,
    group="hash",
    since="3.2.0",
    summary="Number of bytes of a field's value; 0 when it is absent.",
    complexity="O(1)",
    syntax="key field",
)
def hstrlen(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return 0
    return len(living(ctx, entry).get(argv[2], b"")) if entry.kind == HASH else WRONG_TYPE


@command(
    "HRANDFIELD",
    arity=-2,
    flags=READ,
    keys=FIRST,
    group="hash",
    since="6.2.0",
    summary="Random fields of a hash: different ones for a count above zero, possibly repeated ones below.",
    complexity="O(N) with N fields returned; the first call makes an index of a large hash",
    syntax="key [count [WITHVALUES]]",
)
def hrandfield(ctx: Context, argv: list[bytes]) -> object:
    draw = Draw(argv, b"WITHVALUES")
    entry = ctx.db.find(argv[1])
    if entry is None:
        return draw.nothing()
    if entry.kind != HASH:
        return WRONG_TYPE
    fields = living(ctx, entry)
    if not fields:
        return draw.nothing()
    if draw.is_single:
        walked = walked_hash(entry)
        if walked is not None:
            return walked.places.draw(ctx.server.random.random)
        return next(islice(fields, int(ctx.server.random.random() * len(fields)), None))
    if -draw.count > len(fields):
        check_draws(-draw.count, fields, _value_reply(fields) if draw.with_more else 0)
    chosen = _choose(ctx, walked_hash(entry) or fields, draw.count)
    if not draw.with_more:
        return chosen
    if ctx.protocol >= 3:
        return [[field, fields[field]] for field in chosen]
    flat: list[bytes] = []
    for field in chosen:
        flat.append(field)
        flat.append(fields[field])
    return flat


def _value_reply(fields: dict[bytes, bytes]) -> int:
    # Bytes that a value takes in a reply, on average.
    return REPLY_OVERHEAD + sum(map(len, fields.values())) // len(fields) + 1


def _choose(ctx: Context, fields: dict[bytes, bytes], count: int) -> list[bytes]:
    random = ctx.server.random.random
    places = fields.places if isinstance(fields, WalkedHash) else Places(fields)
    return places.draw_many(count, random) if count >= 0 else [places.draw(random) for _ in range(-count)]
