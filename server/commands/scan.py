"""Scanning: the cursors and options of SCAN, HSCAN, SSCAN and ZSCAN.

A cursor must find its way in a dictionary that changes between two calls, without state on the server. Python's
dictionaries keep the order of insertion, and that gives a simple one: scan **backwards**, and let the cursor be the
number of names that stand before those already returned.

- A name that is added goes to the end, behind the cursor: it was not there during the whole scan, nobody misses it.
- A name that is removed behind the cursor changes nothing. One removed before it lets the others move down, so that the
  place before the cursor holds a name that was returned already: it comes twice, which a scan may do.
- A name that gets a new value keeps its place.

So what was there all the time is returned at least once, and the scan ends, because the cursor only falls. For SCAN the
cursor is this number for one of the 1,639 tables of a database, and the table's index in the lowest eleven bits:

    cursor = names left in the table << 11 | table          0 << 11 | table: the table has not been begun

COUNT is kept to exactly, however many keys lie in a table. Finding the place in a table costs O(names skipped), from
the nearer end, a few nanoseconds each. HSCAN, SSCAN and ZSCAN walk the index that a large value gets beside it
(keyspace/values/places.py), by the same rules and without skipping. Only a hash that has none, because it is a copy of
a row or has fields that run out, is skipped through; there COUNT is raised so that a scan takes at most 256 calls.

All this holds for a value that is changed. One that is replaced meanwhile, by a client or by a reload from the store,
is another value, in which a cursor of the old one is only a number: what is returned then may miss members.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from persistence.change import HASH, KIND_NAMES, SET, ZSET
from protocol.replies import Error
from server.commands.args import integer, parse_integer
from server.commands.context import Context
from server.commands.hash_lifetimes import living, walked_hash
from server.commands.scores import score_text
from server.commands.spec import FIRST, READ, command
from server.errors import INVALID_CURSOR, SYNTAX, WRONG_TYPE, CommandError
from server.keyspace.globbing import Glob
from server.keyspace.shard import TABLES
from server.keyspace.values.member_set import MemberSet
from server.keyspace.values.sorted_set import SortedSet

_TABLE_BITS: Final = (TABLES - 1).bit_length()
_TABLE_MASK: Final = (1 << _TABLE_BITS) - 1
# Redis's default for COUNT.
_COUNT: Final = 10
# Hashes up to this size are returned whole, whatever COUNT says: those that Redis keeps as listpacks (default limit).
_WHOLE: Final = 512
# A scan of a larger hash takes at most so many calls.
_CALLS: Final = 256
# Cursors are unsigned 64-bit numbers.
_LARGEST_CURSOR: Final = (1 << 64) - 1

ANY_KIND: Final = -1
# A type that no key has.
_NO_KIND: Final = -2
_KINDS: Final = {name.encode(): kind for kind, name in enumerate(KIND_NAMES)}
_ONLY_HSCAN: Final = Error("ERR NOVALUES option can only be used in HSCAN")


class ScanOptions:
    """MATCH, COUNT, and TYPE (SCAN) or NOVALUES (HSCAN). They depend on what is scanned: a kind, or all keys."""

    __slots__ = ("count", "glob", "kind", "values")

    def __init__(self) -> None:
        # Names to look at in one call.
        self.count = _COUNT
        # None: every name matches.
        self.glob: Glob | None = None
        self.kind = ANY_KIND
        self.values = True

    def parse(self, argv: list[bytes], start: int, scanned: int) -> None:
        """Read the options from argv[start:]; raises with Redis's texts. `scanned` is a kind, or ANY_KIND for SCAN."""
        at = start
        while at < len(argv):
            option = argv[at].upper()
            has_value = at + 1 < len(argv)
            if option == b"COUNT" and has_value:
                at += 1
                self.count = integer(argv[at])
                if self.count < 1:
                    raise CommandError(SYNTAX)
            elif option == b"MATCH" and has_value:
                at += 1
                glob = Glob(argv[at])
                self.glob = None if glob.everything else glob
            elif option == b"TYPE" and scanned == ANY_KIND and has_value:
                at += 1
                self.kind = _KINDS.get(argv[at].lower(), _NO_KIND)
            elif option == b"NOVALUES":
                if scanned != HASH:
                    raise CommandError(_ONLY_HSCAN)
                self.values = False
            else:
                raise CommandError(SYNTAX)
            at += 1


def parse_cursor(text: bytes) -> int:
    """A cursor argument: an unsigned 64-bit number."""
    cursor = parse_integer(text)
    if cursor is None and text.isdigit() and len(text) <= 20:
        cursor = int(text)
    if cursor is None or not 0 <= cursor <= _LARGEST_CURSOR:
        raise CommandError(INVALID_CURSOR)
    return cursor


# Any: a table of entries or the fields of a hash; only the names matter.
def names_before(table: dict[bytes, Any], left: int, count: int) -> list[bytes]:
    """The last `count` of the first `left` names of a dictionary, or all of them when there are no more."""
    size = len(table)
    if count >= left == size:
        return list(table)
    first = max(0, left - count)
    if first <= size - left:
        return list(islice(table, first, left))
    return list(islice(reversed(table), size - left, size - first))


@command(
    "SCAN",
    arity=-2,
    flags=READ,
    group="generic",
    since="2.8.0",
    summary="Walks through the keys of the database, some at a time: returns the next cursor and some keys.",
    complexity="O(1) per key looked at, O(N) for a whole walk",
    syntax="cursor [MATCH pattern] [COUNT count] [TYPE type]",
)
def scan(ctx: Context, argv: list[bytes]) -> object:
    cursor = parse_cursor(argv[1])
    options = ScanOptions()
    options.parse(argv, 2, ANY_KIND)
    db = ctx.db
    tables = db.tables
    index = cursor & _TABLE_MASK
    left = cursor >> _TABLE_BITS
    room = options.count
    found: list[bytes] = []
    while index < TABLES:
        table = tables[index]
        size = len(table)
        if size:
            if room <= 0:
                break
            if left == 0 or left > size:
                left = size
            names = names_before(table, left, room)
            room -= len(names)
            left -= len(names)
            for name in names:
                if options.glob is None or options.glob.matches(name):
                    entry = db.peek(name)
                    if entry is not None and (options.kind == ANY_KIND or options.kind == entry.kind):
                        found.append(name)
            if left:
                break
        left = 0
        index += 1
    cursor = 0 if index >= TABLES else left << _TABLE_BITS | index
    return [b"%d" % cursor, found]


@command(
    "HSCAN",
    arity=-3,
    flags=READ,
    keys=FIRST,
    group="hash",
    since="2.8.0",
    summary="Walks through the fields of a hash, some at a time: returns the next cursor and some fields with values.",
    complexity="O(1) per field looked at, O(N) for a whole walk",
    syntax="key cursor [MATCH pattern] [COUNT count] [NOVALUES]",
)
def hscan(ctx: Context, argv: list[bytes]) -> object:
    left = parse_cursor(argv[2])
    entry = ctx.db.find(argv[1])
    if entry is None:
        return [b"0", []]
    if entry.kind != HASH:
        return WRONG_TYPE
    options = ScanOptions()
    options.parse(argv, 3, HASH)
    fields = living(ctx, entry)
    walked = walked_hash(entry) if len(fields) > _WHOLE else None
    left, names = _step(fields, left, options) if walked is None else walked.places.walk(left, options.count)
    found: list[object] = []
    for name in names:
        if options.glob is None or options.glob.matches(name):
            found.append(name)
            if options.values:
                found.append(fields[name])
    return [b"%d" % left, found]


def _step(table: dict[bytes, Any], left: int, options: ScanOptions) -> tuple[int, list[bytes]]:
    # One step through a value that is one dictionary: the names left after it, and those to look at now.
    size = len(table)
    if size <= _WHOLE:
        return 0, list(table)
    if left == 0 or left > size:
        left = size
    names = names_before(table, left, max(options.count, size // _CALLS + 1))
    return left - len(names), names


@command(
    "SSCAN",
    arity=-3,
    flags=READ,
    keys=FIRST,
    group="set",
    since="2.8.0",
    summary="Walks through the members of a set, some at a time: returns the next cursor and some members.",
    complexity="O(1) per member looked at, O(N) for a whole walk",
    syntax="key cursor [MATCH pattern] [COUNT count]",
)
def sscan(ctx: Context, argv: list[bytes]) -> object:
    left = parse_cursor(argv[2])
    entry = ctx.db.find(argv[1])
    if entry is None:
        return [b"0", []]
    if entry.kind != SET:
        return WRONG_TYPE
    options = ScanOptions()
    options.parse(argv, 3, SET)
    members = entry.value
    assert isinstance(members, MemberSet)
    if len(members) <= _WHOLE:
        left, names = 0, list(members)
    else:
        left, names = members.walk(left, options.count)
    if options.glob is not None:
        matches = options.glob.matches
        names = [name for name in names if matches(name)]
    return [b"%d" % left, names]


@command(
    "ZSCAN",
    arity=-3,
    flags=READ,
    keys=FIRST,
    group="sorted-set",
    since="2.8.0",
    summary="Walks through the members of a sorted set, some at a time: returns the next cursor and some with scores.",
    complexity="O(1) per member looked at, O(N) for a whole walk",
    syntax="key cursor [MATCH pattern] [COUNT count]",
)
def zscan(ctx: Context, argv: list[bytes]) -> object:
    left = parse_cursor(argv[2])
    entry = ctx.db.find(argv[1])
    if entry is None:
        return [b"0", []]
    if entry.kind != ZSET:
        return WRONG_TYPE
    options = ScanOptions()
    options.parse(argv, 3, ZSET)
    value = entry.value
    assert isinstance(value, SortedSet)
    if len(value) <= _WHOLE:
        left, names = 0, list(value)
    else:
        left, names = value.walk(left, options.count)
    found: list[object] = []
    for name in names:
        if options.glob is None or options.glob.matches(name):
            found.append(name)
            # Text under RESP3 too, unlike everywhere else.
            found.append(score_text(value.scores[name]))
    return [b"%d" % left, found]
