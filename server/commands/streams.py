"""Streams: adding, reading and removing entries. A value is a Stream, changed in place between `edit` and `edited`.

Reading with waiting and for groups is in `stream_reads.py`, groups in `stream_groups.py`, XINFO in `stream_info.py`.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from persistence.change import NEVER, STREAM
from protocol.replies import NIL_ARRAY, OK, Error
from server.commands.args import INT64_MAX, integer
from server.commands.context import Context
from server.commands.spec import DENYOOM, FAST, FIRST, READ, WRITE, command
from server.commands.stream_ids import (
    ALL_OF_IT,
    INVALID_ID,
    entry_reply,
    exact_id,
    high_bound,
    low_bound,
    parse_id,
    stream_of,
    unix_ms,
)
from server.errors import NO_SUCH_KEY, SYNTAX, CommandError, wrong_arity
from server.keyspace.values.stream import ID_MAX, SEQUENCE_BITS, SEQUENCE_MASK, Stream, id_text

# Entries that `~` removes at most without a LIMIT.
_USUAL_LIMIT: Final = 10_000

_TWO_STRATEGIES: Final = Error("ERR syntax error, MAXLEN and MINID options at the same time are not compatible")
_NO_STRATEGY: Final = Error("ERR syntax error, XTRIM must be called with a trimming strategy")
_LIMIT_ALONE: Final = Error("ERR syntax error, LIMIT cannot be used without specifying a trimming strategy")
_LIMIT_EXACT: Final = Error("ERR syntax error, LIMIT cannot be used without the special ~ option")
_MAXLEN_NEGATIVE: Final = Error("ERR The MAXLEN argument must be >= 0.")
_LIMIT_NEGATIVE: Final = Error("ERR The LIMIT argument must be >= 0.")
_ZERO_ID: Final = Error("ERR The ID specified in XADD must be greater than 0-0")
_TOO_SMALL: Final = Error("ERR The ID specified in XADD is equal or smaller than the target stream top item")
_EXHAUSTED: Final = Error("ERR The stream has exhausted the last possible ID, unable to add more items")
_ADDED_NEGATIVE: Final = Error("ERR entries_added must be positive")
_BELOW_GIVEN_DELETED: Final = Error("ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id")
_BELOW_DELETED: Final = Error("ERR The ID specified in XSETID is smaller than current max_deleted_entry_id")
_BELOW_TOP: Final = Error("ERR The ID specified in XSETID is smaller than the target stream top item")
_ADDED_TOO_FEW: Final = Error("ERR The entries_added specified in XSETID is smaller than the target stream length")


class _Trimming:
    """`<MAXLEN | MINID> [= | ~] threshold [LIMIT count]`, as XADD and XTRIM take it."""

    __slots__ = ("approximate", "given", "keep", "limit", "min_id")

    def __init__(self) -> None:
        self.given = False
        self.approximate = False
        # Entries that stay, and the lowest id that stays.
        self.keep = INT64_MAX
        self.min_id = 0
        # LIMIT; -1 when it was not given.
        self.limit = -1

    def take(self, argv: list[bytes], at: int) -> int:
        """Read the option at argv[at], if it is one: the position behind it; 0 when it is none."""
        word = argv[at].upper()
        more = len(argv) - 1 - at
        if not more:
            return 0
        if word == b"LIMIT":
            self.limit = integer(argv[at + 1])
            if self.limit < 0:
                raise CommandError(_LIMIT_NEGATIVE)
            return at + 2
        if word not in (b"MAXLEN", b"MINID"):
            return 0
        if self.given:
            raise CommandError(_TWO_STRATEGIES)
        self.given = True
        at += 1
        if more >= 2 and argv[at] in (b"~", b"="):
            self.approximate = argv[at] == b"~"
            at += 1
        if word == b"MINID":
            self.min_id = exact_id(argv[at])
        else:
            self.keep = integer(argv[at])
            if self.keep < 0:
                raise CommandError(_MAXLEN_NEGATIVE)
        return at + 1

    def check(self) -> None:
        """Do the options fit together?"""
        if self.limit > 0 and not self.given:
            raise CommandError(_LIMIT_ALONE)
        if self.limit >= 0 and not self.approximate and self.given:
            raise CommandError(_LIMIT_EXACT)

    def apply(self, stream: Stream) -> int:
        """Trim; how many entries went."""
        limit = 0
        if self.approximate:
            limit = _USUAL_LIMIT if self.limit < 0 else self.limit
        return stream.trim(self.keep, self.min_id, self.approximate, limit)


class _Adding:
    """The arguments of XADD between the key and the fields."""

    __slots__ = ("behind", "make", "milliseconds", "number", "trimming")

    def __init__(self, argv: list[bytes]) -> None:
        # May the stream be made?
        self.make = True
        self.trimming = _Trimming()
        # A whole id; or its milliseconds alone; both -1: `*`.
        self.number = -1
        self.milliseconds = -1
        # Position of the first field.
        self.behind = len(argv) + 1
        at = 2
        while at < len(argv):
            behind = self.trimming.take(argv, at)
            if behind:
                at = behind
            elif argv[at].upper() == b"NOMKSTREAM":
                self.make = False
                at += 1
            else:
                self._take_id(argv[at])
                self.behind = at + 1
                break
        self.trimming.check()

    def _take_id(self, text: bytes) -> None:
        if text == b"*":
            return
        if text[-2:] == b"-*":
            number = parse_id(text[:-2], 0)
            if number is None or b"-" in text[:-2]:
                raise CommandError(INVALID_ID)
            self.milliseconds = number >> SEQUENCE_BITS
        else:
            self.number = exact_id(text)

    def next_id(self, last_id: int, now_ms: int) -> int:
        """The id of the new entry, behind `last_id`."""
        if self.number >= 0:
            number = self.number
        elif self.milliseconds < 0:
            number = max(now_ms << SEQUENCE_BITS, last_id + 1)
        elif self.milliseconds == last_id >> SEQUENCE_BITS and last_id & SEQUENCE_MASK != SEQUENCE_MASK:
            number = last_id + 1
        else:
            number = self.milliseconds << SEQUENCE_BITS
        if number <= last_id:
            raise CommandError(_TOO_SMALL)
        return number


@command(
    "XADD",
    arity=-5,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="stream",
    since="5.0.0",
    summary="Adds an entry to a stream, which is made when absent, and returns the entry's id.",
    complexity="O(1), O(N) when N entries are trimmed",
    syntax="key [NOMKSTREAM] [<MAXLEN | MINID> [= | ~] threshold [LIMIT count]] <* | id> field value [field value ...]",
)
def xadd(ctx: Context, argv: list[bytes]) -> object:
    adding = _Adding(argv)
    words = argv[adding.behind :]
    if not words or len(words) % 2:
        return wrong_arity("xadd")
    if adding.number == 0:
        return _ZERO_ID
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None and not adding.make:
        return None
    stream = Stream() if entry is None else stream_of(entry)
    if stream.last_id == ID_MAX:
        return _EXHAUSTED
    number = adding.next_id(stream.last_id, unix_ms(ctx))
    before = stream.payload
    stream.append(number, words)
    trimmed = adding.trimming.apply(stream) if adding.trimming.given else 0
    if entry is None:
        db.put(argv[1], STREAM, stream, NEVER, b"xadd")
    else:
        db.edited(entry, b"xadd", ALL_OF_IT, stream.payload - before)
        if trimmed:
            db.edited(entry, b"xtrim", ALL_OF_IT, 0)
    return id_text(number)


@command(
    "XTRIM",
    arity=-4,
    flags=WRITE,
    keys=FIRST,
    group="stream",
    since="5.0.0",
    summary="Removes the oldest entries of a stream until it is short enough, or none has too low an id; how many.",
    complexity="O(N) with N entries removed",
    syntax="key <MAXLEN | MINID> [= | ~] threshold [LIMIT count]",
)
def xtrim(ctx: Context, argv: list[bytes]) -> object:
    trimming = _Trimming()
    at = 2
    while at < len(argv):
        at = trimming.take(argv, at)
        if not at:
            return SYNTAX
    trimming.check()
    if not trimming.given:
        return _NO_STRATEGY
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return 0
    stream = stream_of(entry)
    before = stream.payload
    trimmed = trimming.apply(stream)
    if trimmed:
        ctx.db.edited(entry, b"xtrim", ALL_OF_IT, stream.payload - before)
    return trimmed


@command(
    "XDEL",
    arity=-3,
    flags=WRITE | FAST,
    keys=FIRST,
    group="stream",
    since="5.0.0",
    summary="Removes entries of a stream by their ids; how many there were. An empty stream stays.",
    complexity="O(log(N)) for each id, with N entries",
    syntax="key id [id ...]",
)
def xdel(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return 0
    stream = stream_of(entry)
    numbers = [exact_id(text) for text in argv[2:]]
    before = stream.payload
    deleted = 0
    for number in numbers:
        if stream.delete(number):
            deleted += 1
    if deleted:
        ctx.db.edited(entry, b"xdel", ALL_OF_IT, stream.payload - before)
    return deleted


@command(
    "XSETID",
    arity=-3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="stream",
    since="5.0.0",
    summary="Sets the id behind which a stream goes on. For whoever rebuilds a stream from a copy.",
    complexity="O(1)",
    syntax="key last-id [ENTRIESADDED entries-added] [MAXDELETEDID max-deleted-id]",
)
def xsetid(ctx: Context, argv: list[bytes]) -> object:
    last_id = exact_id(argv[2])
    entries_added = -1
    max_deleted_id = 0
    for at in range(3, len(argv), 2):
        option = argv[at].upper()
        if at + 1 == len(argv) or option not in (b"ENTRIESADDED", b"MAXDELETEDID"):
            return SYNTAX
        if option == b"ENTRIESADDED":
            entries_added = integer(argv[at + 1])
            if entries_added < 0:
                return _ADDED_NEGATIVE
        else:
            max_deleted_id = exact_id(argv[at + 1])
            if last_id < max_deleted_id:
                return _BELOW_GIVEN_DELETED
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return NO_SUCH_KEY
    stream = stream_of(entry)
    if last_id < stream.max_deleted_id:
        return _BELOW_DELETED
    if len(stream):
        if last_id < stream.entries.last():
            return _BELOW_TOP
        if 0 <= entries_added < len(stream):
            return _ADDED_TOO_FEW
    stream.last_id = last_id
    if entries_added >= 0:
        stream.entries_added = entries_added
    if max_deleted_id:
        stream.max_deleted_id = max_deleted_id
    ctx.db.edited(entry, b"xsetid", ALL_OF_IT, 0)
    return OK


# -- reading ----------------------------------------------------------------------------------------------------------


@command(
    "XLEN",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="stream",
    since="5.0.0",
    summary="Number of entries of a stream; 0 when it is absent.",
    complexity="O(1)",
    syntax="key",
)
def xlen(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    return 0 if entry is None else len(stream_of(entry))


@command(
    "XRANGE",
    arity=-4,
    flags=READ,
    keys=FIRST,
    group="stream",
    since="5.0.0",
    summary="Reads the entries of a stream between two ids, which may be `-` and `+`; `(` before an id leaves it out.",
    complexity="O(log(N)+M) with N entries, M of them read",
    syntax="key start end [COUNT count]",
)
def xrange(ctx: Context, argv: list[bytes]) -> object:
    return _range(ctx, argv, low_bound(argv[2]), high_bound(argv[3]), False)


@command(
    "XREVRANGE",
    arity=-4,
    flags=READ,
    keys=FIRST,
    group="stream",
    since="5.0.0",
    summary="XRANGE from the end: the newest entries come first.",
    complexity="O(log(N)+M) with N entries, M of them read",
    syntax="key end start [COUNT count]",
)
def xrevrange(ctx: Context, argv: list[bytes]) -> object:
    low = low_bound(argv[3])
    return _range(ctx, argv, low, high_bound(argv[2]), True)


def _range(ctx: Context, argv: list[bytes], low: int, high: int, falling: bool) -> object:
    count: int | None = None
    for at in range(4, len(argv), 2):
        if argv[at].upper() != b"COUNT" or at + 1 == len(argv):
            return SYNTAX
        count = max(0, integer(argv[at + 1]))
    entry = ctx.db.find(argv[1])
    if entry is None:
        return []
    entries = stream_of(entry).entries
    if count == 0:
        return NIL_ARRAY
    pairs = entries.downward(high, low) if falling else entries.upward(low, high)
    return [entry_reply(number, words) for number, words in islice(pairs, count)]
