"""XREAD and XREADGROUP: entries behind a position, of several streams at once, and waiting for them."""

from __future__ import annotations

from itertools import islice
from typing import Final

from persistence.change import STREAM
from protocol.replies import NIL_ARRAY, Error, Map
from server.commands.args import integer
from server.commands.blocking_pops import timeout_ms_of
from server.commands.context import Blocked, Context
from server.commands.spec import BLOCKING, READ, WRITE, command
from server.commands.stream_ids import (
    ALL_OF_IT,
    CONSUMER_MADE,
    NO_EVENT,
    entry_reply,
    exact_id,
    no_group,
    stream_of,
    unix_ms,
)
from server.errors import SYNTAX, CommandError
from server.keyspace.database import Database
from server.keyspace.entry import Entry
from server.keyspace.values.stream import ID_MAX, Consumer, Group, Stream, id_text

_GROUP_IN_XREAD: Final = Error("ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.")
_NOACK_IN_XREAD: Final = Error("ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.")
_GROUP_MISSING: Final = Error("ERR Missing GROUP option for XREADGROUP")
_NEW_IN_XREAD: Final = Error(
    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option."
)
_LAST_IN_GROUP: Final = (
    "ERR The {0} ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by "
    "specifying a proper ID, or use the > ID to get new messages. The {0} ID would just return an empty result set."
)


class _Reading:
    """The arguments of XREAD or XREADGROUP."""

    __slots__ = ("consumer", "count", "group", "has_group", "no_ack", "streams", "timeout_ms")

    def __init__(self) -> None:
        # Entries of each stream; None: all.
        self.count: int | None = None
        # BLOCK; -1: do not wait.
        self.timeout_ms = -1
        self.has_group = False
        self.group = b""
        self.consumer = b""
        self.no_ack = False
        # Position of the first key.
        self.streams = 0

    def parse(self, ctx: Context, argv: list[bytes], for_group: bool) -> None:
        """Read everything but the positions."""
        at = 1
        while at < len(argv) and not self.streams:
            at = self._take(ctx, argv, at, for_group)
        if not self.streams:
            raise CommandError(SYNTAX)
        if for_group and not self.has_group:
            raise CommandError(_GROUP_MISSING)

    def _take(self, ctx: Context, argv: list[bytes], at: int, for_group: bool) -> int:
        option = argv[at].upper()
        more = len(argv) - at - 1
        if option == b"BLOCK" and more:
            self.timeout_ms = timeout_ms_of(ctx, argv[at + 1])
            return at + 2
        if option == b"COUNT" and more:
            # Redis takes zero and what is below for no limit.
            self.count = max(0, integer(argv[at + 1])) or None
            return at + 2
        if option == b"STREAMS" and more:
            if more % 2:
                name, symbol = ("xreadgroup", "'>'") if for_group else ("xread", "'$'")
                raise CommandError(
                    Error(
                        f"ERR Unbalanced '{name}' list of streams: for each stream key an ID or {symbol} must be "
                        "specified."
                    )
                )
            self.streams = at + 1
            return at + 1
        if option == b"GROUP" and more >= 2:
            if not for_group:
                raise CommandError(_GROUP_IN_XREAD)
            self.has_group = True
            self.group = argv[at + 1]
            self.consumer = argv[at + 2]
            return at + 3
        if option == b"NOACK":
            if not for_group:
                raise CommandError(_NOACK_IN_XREAD)
            self.no_ack = True
            return at + 1
        raise CommandError(SYNTAX)


def _stream_keys(argv: list[bytes]) -> list[bytes]:
    # The keys: the first half of what follows STREAMS.
    at = 1
    while at < len(argv):
        option = argv[at].upper()
        if option == b"STREAMS":
            half, odd = divmod(len(argv) - at - 1, 2)
            return [] if odd else argv[at + 1 : at + 1 + half]
        at += 3 if option == b"GROUP" else 2 if option in (b"BLOCK", b"COUNT") else 1
    return []


def _reply(ctx: Context, found: list[tuple[bytes, list[object]]]) -> object:
    # RESP3 has a map of keys, RESP2 a list of pairs.
    return Map(found) if ctx.protocol >= 3 else [[key, entries] for key, entries in found]


@command(
    "XREAD",
    arity=-4,
    flags=READ | BLOCKING,
    find_keys=_stream_keys,
    group="stream",
    since="5.0.0",
    summary="Reads the entries of streams behind the given ids, or waits for some; `$`: what is there now, `+`: all "
    "but the last entry.",
    complexity="O(log(N)+M) for each stream, with N entries, M of them read",
    syntax="[COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]",
)
def xread(ctx: Context, argv: list[bytes]) -> object:
    reading = _Reading()
    reading.parse(ctx, argv, False)
    size = (len(argv) - reading.streams) // 2
    keys = argv[reading.streams : reading.streams + size]
    streams: list[Stream | None] = []
    behind: list[int] = []
    for place, key in enumerate(keys):
        entry = ctx.db.find(key)
        stream = None if entry is None else stream_of(entry)
        streams.append(stream)
        behind.append(_position(argv[reading.streams + size + place], stream))
    found: list[tuple[bytes, list[object]]] = []
    for key, stream, position in zip(keys, streams, behind, strict=True):
        if stream is not None and stream.entries.last() > position:
            pairs = islice(stream.entries.upward(position + 1, ID_MAX), reading.count)
            found.append((key, [entry_reply(number, words) for number, words in pairs]))
    if found:
        return _reply(ctx, found)
    if reading.timeout_ms < 0:
        return NIL_ARRAY
    again = argv[: reading.streams + size] + [id_text(position) for position in behind]
    return Blocked(keys, STREAM, reading.timeout_ms, NIL_ARRAY, again)


def _position(text: bytes, stream: Stream | None) -> int:
    # The id behind which is read.
    if text == b"$":
        return 0 if stream is None else stream.last_id
    if text == b"+":
        if stream is None:
            return 0
        return stream.entries.last() - 1 if len(stream) else stream.last_id
    if text == b">":
        raise CommandError(_NEW_IN_XREAD)
    return exact_id(text)


# -- groups -----------------------------------------------------------------------------------------------------------


@command(
    "XREADGROUP",
    arity=-7,
    flags=WRITE | BLOCKING,
    find_keys=_stream_keys,
    group="stream",
    since="5.0.0",
    summary="Reads as a member of a group: with `>` what nobody of the group has got yet, or waits; with an id the "
    "reader's own pending entries behind it.",
    complexity="O(log(N)+M) for each stream, with N entries, M of them read",
    syntax="GROUP group consumer [COUNT count] [BLOCK milliseconds] [NOACK] STREAMS key [key ...] id [id ...]",
)
def xreadgroup(ctx: Context, argv: list[bytes]) -> object:
    reading = _Reading()
    reading.parse(ctx, argv, True)
    size = (len(argv) - reading.streams) // 2
    keys = argv[reading.streams : reading.streams + size]
    entries: list[Entry] = []
    # -1: `>`.
    behind: list[int] = []
    for place, key in enumerate(keys):
        entry = ctx.db.edit(key)
        if entry is None or reading.group not in stream_of(entry).groups:
            return no_group(key, reading.group, b" in XREADGROUP with GROUP option")
        entries.append(entry)
        text = argv[reading.streams + size + place]
        if text in (b"$", b"+"):
            return Error(_LAST_IN_GROUP.format(text.decode()))
        behind.append(-1 if text == b">" else exact_id(text))
    now_ms = unix_ms(ctx)
    found: list[tuple[bytes, list[object]]] = []
    for entry, position in zip(entries, behind, strict=True):
        read = _read_as(ctx.db, entry, reading, position, now_ms)
        if read is not None:
            found.append((entry.key, read))
    if found:
        return _reply(ctx, found)
    return NIL_ARRAY if reading.timeout_ms < 0 else Blocked(keys, STREAM, reading.timeout_ms, NIL_ARRAY, None, True)


def _read_as(db: Database, entry: Entry, reading: _Reading, position: int, now_ms: int) -> list[object] | None:
    # What the consumer gets of one stream; None: nothing new.
    stream = stream_of(entry)
    group = stream.groups[reading.group]
    before = group.weight()
    consumer = group.consumers.get(reading.consumer)
    is_new = consumer is None
    if consumer is None:
        consumer = group.consumers[reading.consumer] = Consumer(reading.consumer, now_ms)
    consumer.seen_ms = now_ms
    read: list[object] | None = None
    if position >= 0:
        read = _history(stream, consumer, position, reading.count, now_ms)
    elif stream.entries.last() > group.last_id:
        read = _news(stream, group, consumer, reading, now_ms)
    # Somebody who finds nothing changes nothing: a change here would have every blocked reader try again.
    if read or is_new:
        if read and position < 0:
            consumer.active_ms = now_ms
        db.edited(entry, CONSUMER_MADE if is_new else NO_EVENT, ALL_OF_IT, group.weight() - before)
    return read


def _news(stream: Stream, group: Group, consumer: Consumer, reading: _Reading, now_ms: int) -> list[object]:
    read: list[object] = []
    for number, words in islice(stream.entries.upward(group.last_id + 1, ID_MAX), reading.count):
        stream.advance(group, number)
        if not reading.no_ack:
            # After XGROUP SETID it may be pending with somebody else.
            group.assign(number, consumer, now_ms, 1)
        read.append(entry_reply(number, words))
    return read


def _history(stream: Stream, consumer: Consumer, position: int, count: int | None, now_ms: int) -> list[object]:
    read: list[object] = []
    if position == ID_MAX:
        return read
    for number, pending in islice(consumer.pending.upward(position + 1, ID_MAX), count):
        words = stream.entries.get(number)
        if words is None:
            read.append([id_text(number), NIL_ARRAY])
        else:
            pending.delivered_ms = now_ms
            pending.count += 1
            read.append(entry_reply(number, words))
    return read
