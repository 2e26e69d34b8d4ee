"""Runs: what many commands of one name in a row do, in one frame.

A pipeline is often one command over and over: counters, a bulk load, a list that is filled. On the ordinary road each
of them pays for its look-up, its checks and half a dozen calls, which interpreted is two thirds of its time. A run pays
for them once, and looks a key up once as long as it stays the same.

As the quick roads of the parser, a run judges nothing. It takes what is plain and stops before the first command that
is anything else: another name or number of words, a key of another kind, what would be refused. That goes the ordinary
road, the only place with error texts, and so does what stands behind it in the same read. So a run can be wrong only
by doing something else than the handlers would have done (the tests compare).

Whoever starts a run has made sure that nobody listens to changes, that no value is being read in slices, and that no
prefix rule has a say. Only a run of RULED may be started where there are rules: it stops where one would be asked.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from persistence.change import HASH, LIST, NEVER, SET, STRING, ZSET
from protocol.encoder import BULK_HEADERS, CRLF, INTEGERS
from protocol.replies import OK
from server.commands import hashes, lists, sets, sorted_sets, strings
from server.commands.args import READY_DIGITS, TEXTS, integer_text, parse_integer
from server.commands.context import Context
from server.commands.scores import PLAIN_DIGITS
from server.commands.spec import Handler
from server.keyspace.database import Database
from server.keyspace.entry import Entry, LeasedLife
from server.keyspace.keyspace import Keyspace
from server.keyspace.slots import tagged
from server.keyspace.values.field_names import SMALL
from server.keyspace.values.list_value import ListValue
from server.keyspace.values.member_set import MemberSet, member_set_of
from server.keyspace.values.sorted_set import SortedSet
from server.keyspace.weights import (
    FIELD_OVERHEAD,
    ITEM_OVERHEAD,
    MEMBER_OVERHEAD,
    SCORED_OVERHEAD,
    STRING_OVERHEAD,
    TABLE_STEPS,
)

# Runs commands[begin:end] as far as they are alike and plain, appends their encoded replies to the list, and returns
# the position of the first command that it has not run.
Run = Callable[[Context, list[list[bytes]], int, int, list[bytes]], int]

# As in the database: a constant, because compiled code looks an imported function up by its name at each call.
_crc16: Final = crc_hqx
_SHORT_BULK: Final = len(BULK_HEADERS)
_SMALL_INTEGERS: Final = len(INTEGERS)
_ZERO: Final = INTEGERS[0]
_ONE: Final = INTEGERS[1]
# By the text of a small number: that of the next one, the reply that tells it, and by how many bytes it is longer. Made
# once, a megabyte; most counters stand at one of them.
STEPS: Final[dict[bytes, tuple[bytes, bytes, int]]] = {
    text: (after, b":%b\r\n" % after, len(after) - len(text)) for text, after in pairwise(TEXTS)
}
# Numbers within this are added to without a look at the bounds of 64 bits.
_NEAR: Final = 1 << 61


# -- strings ----------------------------------------------------------------------------------------------------------


def _gets(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    db = ctx.db
    tables = db.tables
    life = db.moment
    name = commands[begin][0]
    nil = b"$-1\r\n" if ctx.protocol == 2 else b"_\r\n"
    hits = 0
    misses = 0
    others = 0
    for argv in commands[begin:end]:
        if len(argv) != 2 or argv[0] != name:
            break
        key = argv[1]
        hashed = tagged(key) if 123 in key else key
        entry = tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
        if entry is None:
            misses += 1
            out.append(nil)
            continue
        value = entry.value
        if not isinstance(value, bytes) or len(value) >= _SHORT_BULK:
            break
        after = entry.seat.after
        if after is not None:
            entry.seat = after
            entry.life = life
            hits += 1
        else:
            others += 1
            if db.find(key) is None:
                # It has run out.
                out.append(nil)
                continue
        out += (BULK_HEADERS[len(value)], value, CRLF)
    db.hits += hits
    db.misses += misses
    db.attention += misses
    return begin + hits + misses + others


def _held_gets(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    # The same of what memory has and nobody has to be asked about: plain strings, and copies of rows in their time.
    db = ctx.db
    tables = db.tables
    moment = db.moment
    now_ms = db.now_ms
    name = commands[begin][0]
    hits = 0
    others = 0
    for argv in commands[begin:end]:
        if len(argv) != 2 or argv[0] != name:
            break
        key = argv[1]
        hashed = tagged(key) if 123 in key else key
        entry = tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
        if entry is None:
            break
        value = entry.value
        if not isinstance(value, bytes) or len(value) >= _SHORT_BULK:
            break
        after = entry.seat.after
        if after is not None:
            entry.seat = after
            entry.life = moment
        else:
            life = entry.life
            if not isinstance(life, LeasedLife):
                if life.deadline_ms <= now_ms:
                    break
                db.find(key)
                others += 1
                out += (BULK_HEADERS[len(value)], value, CRLF)
                continue
            if life.soft_ms <= now_ms:
                break
            lease = life.lease
            if lease is None:
                break
            prefix = lease.prefix
            if lease.generation != prefix.generation:
                break
            life.access_s = moment.access_s
            counters = prefix.counters
            counters.hits += 1
            counters.saved_db_ms += lease.cost_ms
            seat = entry.seat
            if seat.freq != seat.home.hit_cap:
                db.note_hit(entry)
        hits += 1
        out += (BULK_HEADERS[len(value)], value, CRLF)
    db.hits += hits
    return begin + hits + others


def _sets(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    db = ctx.db
    tables = db.tables
    life = db.moment
    name = commands[begin][0]
    plain = 0
    others = 0
    for argv in commands[begin:end]:
        if len(argv) != 3 or argv[0] != name:
            break
        key = argv[1]
        value = argv[2]
        hashed = tagged(key) if 123 in key else key
        index = (_crc16(hashed, 0) & 16383) // 10
        entry = tables[index].get(key)
        if entry is None:
            _enter(db, key, index, value)
            plain += 1
            continue
        if entry.life.weight:
            db.put(key, STRING, value, NEVER, b"set")
            others += 1
            continue
        grown = len(value) - len(entry.value)  # type: ignore[arg-type]
        entry.value = value
        entry.life = life
        if grown:
            entry.seat.home.grew(entry, grown)
        plain += 1
    db.mutations += plain
    done = plain + others
    out.append(OK.wire * done)
    return begin + done


def _enter(db: Database, key: bytes, index: int, text: bytes) -> None:
    # A key comes that the table of this number does not have: as Database.put, for a plain string that does not expire.
    home = db.homes[index] if db.placement is None else db.home_of(key, index)
    entry = Entry(key, text, db.moment, home.entrance)
    db.tables[index][key] = entry
    home.admit(entry, STRING_OVERHEAD + len(key) + len(text))


def _incrs(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    db = ctx.db
    tables = db.tables
    life = db.moment
    name = commands[begin][0]
    added = 0
    others = 0
    for argv in commands[begin:end]:
        if len(argv) != 2 or argv[0] != name:
            break
        key = argv[1]
        hashed = tagged(key) if 123 in key else key
        index = (_crc16(hashed, 0) & 16383) // 10
        entry = tables[index].get(key)
        if entry is None:
            _enter(db, key, index, TEXTS[1])
            out.append(_ONE)
            added += 1
            continue
        value = entry.value
        if not isinstance(value, bytes):
            break
        after = entry.seat.after
        step = STEPS.get(value) if len(value) < READY_DIGITS else None
        if step is None:
            number = parse_integer(value)
            if number is None or not -_NEAR < number < _NEAR:
                break
            text = integer_text(number + 1)
            step = (text, b":%b\r\n" % text, len(text) - len(value))
        if after is not None:
            entry.seat = after
            entry.life = life
            entry.value, reply, grown = step
            if grown:
                entry.seat.home.grew(entry, grown)
            added += 1
        else:
            if db.edit(key) is None:
                # It has run out, and begins anew.
                break
            text, reply, _ = step
            db.respell(entry, text, b"incrby")
            others += 1
        out.append(reply)
    db.mutations += added
    return begin + added + others


def _leave(db: Database, entry: Entry, grown: int, again: int) -> None:
    # The commands that follow name another key than this one, which came from `edit`.
    if grown:
        entry.seat.home.grew(entry, grown)
    # That it was used again is nothing new once the count has reached what anybody wants to know.
    while again and entry.seat.freq != entry.seat.home.hit_cap:
        db.note_hit(entry)
        again -= 1


# -- lists ------------------------------------------------------------------------------------------------------------


def _lpushes(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    return _pushes(ctx, commands, begin, end, out, True)


def _rpushes(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    return _pushes(ctx, commands, begin, end, out, False)


def _pushes(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes], to_left: bool) -> int:
    db = ctx.db
    name = commands[begin][0]
    # The list of the key that the last command named; by how many bytes it has grown since, and by how many commands it
    # has been used again, which is told when the next command names another.
    items: ListValue | None = None
    entry: Entry | None = None
    last = b""
    grown = 0
    again = 0
    pushed = 0
    made = 0
    for argv in commands[begin:end]:
        if len(argv) != 3 or argv[0] != name:
            break
        key = argv[1]
        item = argv[2]
        if items is None or key != last:
            if entry is not None:
                _leave(db, entry, grown, again)
                grown = 0
                again = 0
            items = None
            entry = db.held(key)
            value = entry.value if entry is not None else None
            if value is not None and not isinstance(value, ListValue):
                break
            entry = db.edit(key)
            if entry is None or value is None:
                db.put(key, LIST, ListValue([item]), NEVER, b"lpush" if to_left else b"rpush")
                out.append(_ONE)
                made += 1
                continue
            items = value
            last = key
        else:
            again += 1
        size = items.push_left(item) if to_left else items.push_right(item)
        grown += ITEM_OVERHEAD + len(item)
        pushed += 1
        out.append(INTEGERS[size] if size < _SMALL_INTEGERS else b":%d\r\n" % size)
    if entry is not None:
        _leave(db, entry, grown, again)
    db.mutations += pushed
    return begin + pushed + made


def _lpops(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    return _pops(ctx, commands, begin, end, out, True)


def _rpops(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    return _pops(ctx, commands, begin, end, out, False)


def _pops(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes], to_left: bool) -> int:
    db = ctx.db
    name = commands[begin][0]
    nil = b"$-1\r\n" if ctx.protocol == 2 else b"_\r\n"
    # As in `_pushes`.
    items: ListValue | None = None
    entry: Entry | None = None
    last = b""
    grown = 0
    again = 0
    popped = 0
    others = 0
    for argv in commands[begin:end]:
        if len(argv) != 2 or argv[0] != name:
            break
        key = argv[1]
        if items is None or key != last:
            if entry is not None:
                _leave(db, entry, grown, again)
                grown = 0
                again = 0
            items = None
            entry = db.held(key)
            value = entry.value if entry is not None else None
            if value is not None and not isinstance(value, ListValue):
                entry = None
                break
            entry = db.edit(key)
            if entry is None or value is None:
                out.append(nil)
                others += 1
                continue
            items = value
            last = key
        else:
            again += 1
        item = items.pop_left() if to_left else items.pop_right()
        length = len(item)
        out += (BULK_HEADERS[length] if length < _SHORT_BULK else b"$%d\r\n" % length, item, CRLF)
        grown -= ITEM_OVERHEAD + length
        popped += 1
        if entry is not None and not items.size:
            _leave(db, entry, grown, again)
            grown = 0
            again = 0
            items = None
            entry = None
            db.remove(key)
        if length >= _SHORT_BULK:
            # The replies of a run are not weighed: one that is long is its last.
            break
    if entry is not None:
        _leave(db, entry, grown, again)
    db.mutations += popped
    return begin + popped + others


# -- hashes and sets --------------------------------------------------------------------------------------------------


def _hsets(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    db = ctx.db
    name = commands[begin][0]
    # As in `_pushes`.
    fields: dict[bytes, bytes] | None = None
    entry: Entry | None = None
    last = b""
    grown = 0
    again = 0
    changed = 0
    made = 0
    for argv in commands[begin:end]:
        if len(argv) != 4 or argv[0] != name:
            break
        key = argv[1]
        field = argv[2]
        value = argv[3]
        if fields is None or key != last:
            if entry is not None:
                _leave(db, entry, grown, again)
                grown = 0
                again = 0
            fields = None
            entry = db.held(key)
            held = entry.value if entry is not None else None
            if held is not None and type(held) is not dict:
                break
            entry = db.edit(key)
            if entry is None or held is None:
                db.put(key, HASH, {db.names.shared(field): value}, NEVER, b"hset")
                out.append(_ONE)
                made += 1
                continue
            fields = held
            last = key
        else:
            again += 1
        old = fields.get(field)
        if old is None:
            fields[db.names.shared(field) if len(fields) < SMALL else field] = value
            grown += FIELD_OVERHEAD + len(field) + len(value)
            out.append(_ONE)
        else:
            fields[field] = value
            grown += len(value) - len(old)
            out.append(_ZERO)
        changed += 1
    if entry is not None:
        _leave(db, entry, grown, again)
    db.mutations += changed
    return begin + changed + made


def _sadds(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    db = ctx.db
    name = commands[begin][0]
    # As in `_pushes`.
    members: MemberSet | None = None
    entry: Entry | None = None
    last = b""
    grown = 0
    again = 0
    added = 0
    others = 0
    for argv in commands[begin:end]:
        if len(argv) != 3 or argv[0] != name:
            break
        key = argv[1]
        member = argv[2]
        if members is None or key != last:
            if entry is not None:
                _leave(db, entry, grown, again)
                grown = 0
                again = 0
            members = None
            entry = db.held(key)
            value = entry.value if entry is not None else None
            if value is not None and not isinstance(value, MemberSet):
                break
            entry = db.edit(key)
            if entry is None or value is None:
                db.put(key, SET, member_set_of((member,)), NEVER, b"sadd")
                out.append(_ONE)
                others += 1
                continue
            members = value
            last = key
        else:
            again += 1
        if members.add(member):
            grown += MEMBER_OVERHEAD + len(member) + TABLE_STEPS.get(len(members.members), 0)
            out.append(_ONE)
            added += 1
        else:
            out.append(_ZERO)
            others += 1
    if entry is not None:
        _leave(db, entry, grown, again)
    db.mutations += added
    return begin + added + others


def _zadds(ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]) -> int:
    db = ctx.db
    name = commands[begin][0]
    # As in `_pushes`.
    members: SortedSet | None = None
    entry: Entry | None = None
    last = b""
    grown = 0
    again = 0
    changed = 0
    others = 0
    for argv in commands[begin:end]:
        if len(argv) != 4 or argv[0] != name:
            break
        text = argv[2]
        if not text.isdigit() or len(text) > PLAIN_DIGITS:
            break
        score = float(text)
        key = argv[1]
        member = argv[3]
        if members is None or key != last:
            if entry is not None:
                _leave(db, entry, grown, again)
                grown = 0
                again = 0
            members = None
            entry = db.held(key)
            value = entry.value if entry is not None else None
            if value is not None and not isinstance(value, SortedSet):
                break
            entry = db.edit(key)
            if entry is None or value is None:
                db.put(key, ZSET, SortedSet({member: score}), NEVER, b"zadd")
                out.append(_ONE)
                others += 1
                continue
            members = value
            last = key
        else:
            again += 1
        old = members.scores.get(member)
        if old is None:
            members.add(member, score)
            grown += SCORED_OVERHEAD + len(member)
            out.append(_ONE)
            changed += 1
            continue
        if old != score:
            members.move(member, old, score)
            changed += 1
        else:
            others += 1
        out.append(_ZERO)
    if entry is not None:
        _leave(db, entry, grown, again)
    db.mutations += changed
    return begin + changed + others


# -- all of them ------------------------------------------------------------------------------------------------------

# By handler, and not by name: a handler with a clock around it (stopwatch.py) is another one, and is called each time.
RUNS: Final[dict[Handler, Run]] = {
    strings.get: _gets,
    strings.set_: _sets,
    strings.incr: _incrs,
    lists.lpush: _lpushes,
    lists.rpush: _rpushes,
    lists.lpop: _lpops,
    lists.rpop: _rpops,
    hashes.hset: _hsets,
    sets.sadd: _sadds,
    sorted_sets.zadd: _zadds,
}
# Those that may be started in a database with rules.
RULED: Final[dict[Handler, Run]] = {strings.get: _held_gets}

# Commands that a run may take between two looks at the memory that is left.
_UNWEIGHED: Final = 32


def run_weighed(
    run: Run, keyspace: Keyspace, ctx: Context, commands: list[list[bytes]], begin: int, end: int, out: list[bytes]
) -> int:
    """A run of a command that may grow memory, which is limited; it ends where there is no room left."""
    at = begin
    while at < end and keyspace.make_room():
        stop = min(end, at + _UNWEIGHED)
        at = run(ctx, commands, at, stop, out)
        if at < stop:
            break
    return at
