"""Answers: eight commands that come alone, each in one frame between its words and its encoded reply.

They are most of what comes alone. On the ordinary road two thirds of such a command's time are calls: the handler, the
key's look-up, the note of the change, the reply's encoding. Here they are written out for the plain case, once more as
in `server/runs.py`, and likewise judge nothing. None: nothing has been done, and the handler has to do it.

The caller has asked about rules and room. An answer is for the handler that it stands for: one with a clock around it
(stopwatch.py) is another one, and is called each time.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

from protocol.encoder import BULK_HEADERS, CRLF, INTEGERS
from protocol.replies import OK
from server.commands import hashes, lists, sets, sorted_sets, strings
from server.commands.args import READY_DIGITS
from server.commands.context import Context
from server.commands.scores import PLAIN_DIGITS
from server.commands.spec import COMMANDS, Answer, Handler
from server.keyspace.entry import LeasedLife
from server.keyspace.slots import tagged
from server.keyspace.values.field_names import SMALL
from server.keyspace.values.list_value import ListValue
from server.keyspace.values.member_set import MemberSet
from server.keyspace.values.sorted_set import SortedSet
from server.keyspace.weights import FIELD_OVERHEAD, ITEM_OVERHEAD, MEMBER_OVERHEAD, SCORED_OVERHEAD, TABLE_STEPS
from server.runs import STEPS

# As in the database: a constant, because compiled code looks an imported function up by its name at each call.
_crc16: Final = crc_hqx
_SHORT_BULK: Final = len(BULK_HEADERS)
_SMALL_INTEGERS: Final = len(INTEGERS)
_ZERO: Final = INTEGERS[0]
_ONE: Final = INTEGERS[1]
_OK: Final = OK.wire

_GET: Final = COMMANDS["get"]
_SET: Final = COMMANDS["set"]
_INCR: Final = COMMANDS["incr"]
_LPUSH: Final = COMMANDS["lpush"]
_RPUSH: Final = COMMANDS["rpush"]
_HSET: Final = COMMANDS["hset"]
_SADD: Final = COMMANDS["sadd"]
_ZADD: Final = COMMANDS["zadd"]
_get: Final[Handler] = strings.get
_set: Final[Handler] = strings.set_
_incr: Final[Handler] = strings.incr
_lpush: Final[Handler] = lists.lpush
_rpush: Final[Handler] = lists.rpush
_hset: Final[Handler] = hashes.hset
_sadd: Final[Handler] = sets.sadd
_zadd: Final[Handler] = sorted_sets.zadd


# -- strings ----------------------------------------------------------------------------------------------------------


def _answer_get(ctx: Context, argv: list[bytes]) -> bytes | None:
    # As Database.find, for a plain string that does not expire; which rules there are does not matter to that. And for
    # the copy of a row, as long as nobody has to be asked about it.
    if len(argv) != 2:
        return None
    db = ctx.db
    key = argv[1]
    hashed = tagged(key) if 123 in key else key
    entry = db.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
    if entry is None or _GET.handler is not _get:
        return None
    after = entry.seat.after
    value = entry.value
    if not isinstance(value, bytes):
        return None
    length = len(value)
    if length >= _SHORT_BULK:
        return None
    if after is not None:
        entry.seat = after
        entry.life = db.moment
    else:
        life = entry.life
        if not isinstance(life, LeasedLife) or life.soft_ms <= db.now_ms:
            return None
        lease = life.lease
        if lease is None:
            return None
        prefix = lease.prefix
        if lease.generation != prefix.generation:
            return None
        life.access_s = db.moment.access_s
        counters = prefix.counters
        counters.hits += 1
        counters.saved_db_ms += lease.cost_ms
        seat = entry.seat
        if seat.freq != seat.home.hit_cap:
            db.note_hit(entry)
    db.hits += 1
    _GET.calls += 1
    return BULK_HEADERS[length] + value + CRLF


def _answer_set(ctx: Context, argv: list[bytes]) -> bytes | None:
    # As Database.put, for a plain string over a plain string.
    if len(argv) != 3:
        return None
    db = ctx.db
    key = argv[1]
    hashed = tagged(key) if 123 in key else key
    entry = db.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
    if entry is None or db.heeded or entry.life.weight or _SET.handler is not _set:
        return None
    value = argv[2]
    grown = len(value) - len(entry.value)  # type: ignore[arg-type]
    entry.value = value
    entry.life = db.moment
    if grown:
        entry.seat.home.grew(entry, grown)
    db.mutations += 1
    _SET.calls += 1
    return _OK


def _answer_incr(ctx: Context, argv: list[bytes]) -> bytes | None:
    # A plain string that spells a small number and does not expire.
    if len(argv) != 2:
        return None
    db = ctx.db
    key = argv[1]
    hashed = tagged(key) if 123 in key else key
    entry = db.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
    if entry is None or db.heeded or db.lent or _INCR.handler is not _incr:
        return None
    after = entry.seat.after
    value = entry.value
    if after is None or not isinstance(value, bytes) or len(value) >= READY_DIGITS:
        return None
    step = STEPS.get(value)
    if step is None:
        return None
    entry.seat = after
    entry.life = db.moment
    entry.value, reply, grown = step
    if grown:
        after.home.grew(entry, grown)
    db.mutations += 1
    _INCR.calls += 1
    return reply


# -- collections ------------------------------------------------------------------------------------------------------
#
# One element goes into a value that is there. What `Database.edit` does to such an entry is half of each text.


def _answer_lpush(ctx: Context, argv: list[bytes]) -> bytes | None:
    return _push(ctx, argv, True) if _LPUSH.handler is _lpush else None


def _answer_rpush(ctx: Context, argv: list[bytes]) -> bytes | None:
    return _push(ctx, argv, False) if _RPUSH.handler is _rpush else None


def _push(ctx: Context, argv: list[bytes], to_left: bool) -> bytes | None:
    if len(argv) != 3:
        return None
    db = ctx.db
    key = argv[1]
    hashed = tagged(key) if 123 in key else key
    entry = db.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
    if entry is None or db.heeded or db.lent:
        return None
    items = entry.value
    life = entry.life
    if not isinstance(items, ListValue) or life.deadline_ms <= db.now_ms:
        return None
    life.access_s = db.moment.access_s
    item = argv[2]
    if to_left:
        size = items.push_left(item)
        _LPUSH.calls += 1
    else:
        size = items.push_right(item)
        _RPUSH.calls += 1
    home = entry.seat.home
    if entry.seat.freq != home.hit_cap:
        db.note_hit(entry)
    home.grew(entry, ITEM_OVERHEAD + len(item))
    db.mutations += 1
    return INTEGERS[size] if size < _SMALL_INTEGERS else b":%d\r\n" % size


def _answer_hset(ctx: Context, argv: list[bytes]) -> bytes | None:
    if len(argv) != 4:
        return None
    db = ctx.db
    key = argv[1]
    hashed = tagged(key) if 123 in key else key
    entry = db.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
    if entry is None or db.heeded or db.lent or _HSET.handler is not _hset:
        return None
    fields = entry.value
    life = entry.life
    if type(fields) is not dict or life.deadline_ms <= db.now_ms:
        return None
    life.access_s = db.moment.access_s
    field = argv[2]
    value = argv[3]
    old = fields.get(field)
    if old is None:
        fields[db.names.shared(field) if len(fields) < SMALL else field] = value
        reply = _ONE
        grown = FIELD_OVERHEAD + len(field) + len(value)
    else:
        fields[field] = value
        reply = _ZERO
        grown = len(value) - len(old)
    home = entry.seat.home
    if entry.seat.freq != home.hit_cap:
        db.note_hit(entry)
    if grown:
        home.grew(entry, grown)
    db.mutations += 1
    _HSET.calls += 1
    return reply


def _answer_sadd(ctx: Context, argv: list[bytes]) -> bytes | None:
    if len(argv) != 3:
        return None
    db = ctx.db
    key = argv[1]
    hashed = tagged(key) if 123 in key else key
    entry = db.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
    if entry is None or db.heeded or db.lent or _SADD.handler is not _sadd:
        return None
    members = entry.value
    life = entry.life
    if not isinstance(members, MemberSet) or life.deadline_ms <= db.now_ms:
        return None
    life.access_s = db.moment.access_s
    home = entry.seat.home
    if entry.seat.freq != home.hit_cap:
        db.note_hit(entry)
    _SADD.calls += 1
    member = argv[2]
    if not members.add(member):
        return _ZERO
    home.grew(entry, MEMBER_OVERHEAD + len(member) + TABLE_STEPS.get(len(members.members), 0))
    db.mutations += 1
    return _ONE


def _answer_zadd(ctx: Context, argv: list[bytes]) -> bytes | None:
    if len(argv) != 4:
        return None
    text = argv[2]
    if not text.isdigit() or len(text) > PLAIN_DIGITS:
        return None
    db = ctx.db
    key = argv[1]
    hashed = tagged(key) if 123 in key else key
    entry = db.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
    if entry is None or db.heeded or db.lent or _ZADD.handler is not _zadd:
        return None
    members = entry.value
    life = entry.life
    if not isinstance(members, SortedSet) or life.deadline_ms <= db.now_ms:
        return None
    life.access_s = db.moment.access_s
    home = entry.seat.home
    if entry.seat.freq != home.hit_cap:
        db.note_hit(entry)
    _ZADD.calls += 1
    score = float(text)
    member = argv[3]
    old = members.scores.get(member)
    if old is None:
        members.add(member, score)
        home.grew(entry, SCORED_OVERHEAD + len(member))
        db.mutations += 1
        return _ONE
    if old != score:
        members.move(member, old, score)
        db.mutations += 1
    return _ZERO


# By the command's name.
ANSWERS: Final[dict[str, Answer]] = {
    "get": _answer_get,
    "set": _answer_set,
    "incr": _answer_incr,
    "lpush": _answer_lpush,
    "rpush": _answer_rpush,
    "hset": _answer_hset,
    "sadd": _answer_sadd,
    "zadd": _answer_zadd,
}
