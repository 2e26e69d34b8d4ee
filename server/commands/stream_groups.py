"""Groups of consumers: XGROUP, XACK, XPENDING, XCLAIM and XAUTOCLAIM. Reading for a group is in `stream_reads.py`."""

from __future__ import annotations

from itertools import islice
from typing import Final

from persistence.change import NEVER, STREAM
from protocol.replies import NIL_ARRAY, OK, Error
from server.commands.args import integer, integer_from
from server.commands.command_docs import container_help
from server.commands.context import Context
from server.commands.spec import DENYOOM, FAST, FIRST, LOADING, READ, SECOND, STALE, WRITE, command
from server.commands.stream_ids import (
    ALL_OF_IT,
    CONSUMER_MADE,
    NO_EVENT,
    any_id,
    entry_reply,
    exact_id,
    high_bound,
    low_bound,
    no_group,
    no_group_of_key,
    parse_id,
    stream_of,
    unix_ms,
)
from server.errors import SYNTAX, CommandError, unknown_subcommand, wrong_words
from server.keyspace.entry import Entry
from server.keyspace.values.stream import ID_MAX, UNKNOWN, Consumer, Group, Stream, id_text

_KEY_REQUIRED: Final = Error(
    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option "
    "to create an empty stream automatically."
)
_BUSY: Final = Error("BUSYGROUP Consumer Group name already exists")
_BAD_ENTRIES_READ: Final = Error("ERR value for ENTRIESREAD must be positive or -1")
_COUNT_POSITIVE: Final = Error("ERR COUNT must be > 0")
# Pending entries that XAUTOCLAIM looks at for each that it may claim.
_ATTEMPTS: Final = 10
# Redis's limit for COUNT, from what it would have to allocate.
_MOST_CLAIMED: Final = ((1 << 63) - 1) // 16


def group_of(ctx: Context, key: bytes, name: bytes) -> tuple[Entry, Stream, Group]:
    """A stream that is going to be changed, and one of its groups; NOGROUP when one of them is missing."""
    entry = ctx.db.edit(key)
    stream = stream_of(entry) if entry is not None else None
    group = stream.groups.get(name) if stream is not None else None
    if entry is None or stream is None or group is None:
        raise CommandError(no_group(key, name))
    return entry, stream, group


# -- XGROUP -----------------------------------------------------------------------------------------------------------


@command(
    "XGROUP",
    arity=-2,
    flags=0,
    group="stream",
    since="5.0.0",
    summary="Commands that make and remove groups and their consumers.",
    complexity="Depends on the subcommand.",
)
def xgroup(ctx: Context, argv: list[bytes]) -> object:
    return unknown_subcommand("xgroup", argv[1])


class _Position:
    """The options of XGROUP CREATE and SETID."""

    __slots__ = ("entries_read", "make")

    def __init__(self, argv: list[bytes], may_make: bool) -> None:
        self.make = False
        self.entries_read = UNKNOWN
        at = 5
        while at < len(argv):
            option = argv[at].upper()
            if option == b"MKSTREAM" and may_make:
                self.make = True
                at += 1
            elif option == b"ENTRIESREAD" and at + 1 < len(argv):
                self.entries_read = integer(argv[at + 1])
                if self.entries_read < 0 and self.entries_read != UNKNOWN:
                    raise CommandError(_BAD_ENTRIES_READ)
                at += 2
            else:
                raise CommandError(wrong_words(argv))


def _group_in(ctx: Context, argv: list[bytes]) -> tuple[Entry, Stream, Group]:
    # For the subcommands whose key and group must be there.
    entry = ctx.db.edit(argv[2])
    if entry is None:
        raise CommandError(_KEY_REQUIRED)
    stream = stream_of(entry)
    group = stream.groups.get(argv[3])
    if group is None:
        raise CommandError(no_group_of_key(argv[2], argv[3]))
    return entry, stream, group


@command(
    "XGROUP CREATE",
    arity=-5,
    flags=WRITE | DENYOOM,
    keys=SECOND,
    group="stream",
    since="5.0.0",
    summary="Makes a group that reads the entries behind an id; `$`: those that are yet to come.",
    complexity="O(1)",
    syntax="key group <id | $> [MKSTREAM] [ENTRIESREAD entries-read]",
)
def xgroup_create(ctx: Context, argv: list[bytes]) -> object:
    options = _Position(argv, True)
    db = ctx.db
    entry = db.edit(argv[2])
    if entry is None and not options.make:
        return _KEY_REQUIRED
    stream = Stream() if entry is None else stream_of(entry)
    last_id = stream.last_id if argv[4] == b"$" else exact_id(argv[4])
    if argv[3] in stream.groups:
        return _BUSY
    group = stream.groups[argv[3]] = Group(argv[3], last_id, options.entries_read)
    if entry is None:
        db.put(argv[2], STREAM, stream, NEVER, b"xgroup-create")
    else:
        db.edited(entry, b"xgroup-create", ALL_OF_IT, group.weight())
    return OK


@command(
    "XGROUP SETID",
    arity=-5,
    flags=WRITE,
    keys=SECOND,
    group="stream",
    since="5.0.0",
    summary="Lets a group go on behind another id.",
    complexity="O(1)",
    syntax="key group <id | $> [ENTRIESREAD entries-read]",
)
def xgroup_setid(ctx: Context, argv: list[bytes]) -> object:
    options = _Position(argv, False)
    entry, stream, group = _group_in(ctx, argv)
    # Unlike CREATE it takes `-` and `+`, too.
    group.last_id = stream.last_id if argv[4] == b"$" else any_id(argv[4])
    group.entries_read = options.entries_read
    ctx.db.edited(entry, b"xgroup-setid", ALL_OF_IT, 0)
    return OK


@command(
    "XGROUP DESTROY",
    arity=4,
    flags=WRITE,
    keys=SECOND,
    group="stream",
    since="5.0.0",
    summary="Removes a group with its consumers and what is pending; 1 when there was one.",
    complexity="O(N) with N pending entries",
    syntax="key group",
)
def xgroup_destroy(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[2])
    if entry is None:
        return _KEY_REQUIRED
    group = stream_of(entry).groups.pop(argv[3], None)
    if group is None:
        return 0
    delta = -group.weight()
    group.disband()
    ctx.db.edited(entry, b"xgroup-destroy", ALL_OF_IT, delta)
    return 1


@command(
    "XGROUP CREATECONSUMER",
    arity=5,
    flags=WRITE | DENYOOM,
    keys=SECOND,
    group="stream",
    since="6.2.0",
    summary="Makes a consumer of a group; 1 when it is new. Reading makes it, too.",
    complexity="O(1)",
    syntax="key group consumer",
)
def xgroup_createconsumer(ctx: Context, argv: list[bytes]) -> object:
    entry, _, group = _group_in(ctx, argv)
    if argv[4] in group.consumers:
        return 0
    before = group.weight()
    group.consumers[argv[4]] = Consumer(argv[4], unix_ms(ctx))
    ctx.db.edited(entry, CONSUMER_MADE, ALL_OF_IT, group.weight() - before)
    return 1


@command(
    "XGROUP DELCONSUMER",
    arity=5,
    flags=WRITE,
    keys=SECOND,
    group="stream",
    since="5.0.0",
    summary="Removes a consumer of a group with what is pending with it, and returns how much that was.",
    complexity="O(N*log(M)) with N entries pending with it, M with the group",
    syntax="key group consumer",
)
def xgroup_delconsumer(ctx: Context, argv: list[bytes]) -> object:
    entry, _, group = _group_in(ctx, argv)
    consumer = group.consumers.get(argv[4])
    if consumer is None:
        return 0
    before = group.weight()
    count = group.dismiss(consumer)
    ctx.db.edited(entry, b"xgroup-delconsumer", ALL_OF_IT, group.weight() - before)
    return count


@command(
    "XGROUP HELP",
    arity=2,
    flags=LOADING | STALE,
    group="stream",
    since="5.0.0",
    summary="Lists the subcommands.",
    complexity="O(1)",
)
def xgroup_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("xgroup")


# -- acknowledging ----------------------------------------------------------------------------------------------------


@command(
    "XACK",
    arity=-4,
    flags=WRITE | FAST,
    keys=FIRST,
    group="stream",
    since="5.0.0",
    summary="Says that entries are dealt with, so that they are not pending any more; how many were.",
    complexity="O(log(N)) for each id, with N pending entries",
    syntax="key group id [id ...]",
)
def xack(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    group = stream_of(entry).groups.get(argv[2]) if entry is not None else None
    if entry is None or group is None:
        return 0
    numbers = [exact_id(text) for text in argv[3:]]
    before = group.weight()
    settled = 0
    for number in numbers:
        if group.settle(number):
            settled += 1
    if settled:
        ctx.db.edited(entry, NO_EVENT, ALL_OF_IT, group.weight() - before)
    return settled


# -- what is pending --------------------------------------------------------------------------------------------------


@command(
    "XPENDING",
    arity=-3,
    flags=READ,
    keys=FIRST,
    group="stream",
    since="5.0.0",
    summary="What is pending in a group: a summary, or entry by entry between two ids.",
    complexity="O(N) with N consumers; O(log(N)+M) with N pending entries, M of them shown",
    syntax="key group [[IDLE min-idle-time] start end count [consumer]]",
)
def xpending(ctx: Context, argv: list[bytes]) -> object:
    words = argv[3:]
    if words and not 3 <= len(words) <= 6:
        return SYNTAX
    min_idle_ms = 0
    if words and words[0].upper() == b"IDLE":
        min_idle_ms = integer(words[1])
        words = words[2:]
        if len(words) < 3:
            return SYNTAX
    if len(words) > 4:
        return SYNTAX
    count = max(0, integer(words[2])) if words else 0
    low, high = (low_bound(words[0]), high_bound(words[1])) if words else (0, ID_MAX)
    entry = ctx.db.find(argv[1])
    group = stream_of(entry).groups.get(argv[2]) if entry is not None else None
    if group is None:
        return no_group(argv[1], argv[2])
    if not words:
        return _summary(group)
    pending = group.pending
    if len(words) == 4:
        consumer = group.consumers.get(words[3])
        if consumer is None:
            return []
        pending = consumer.pending
    now_ms = unix_ms(ctx)
    shown: list[object] = []
    for number, each in pending.upward(low, high):
        if len(shown) >= count:
            break
        idle_ms = max(0, now_ms - each.delivered_ms)
        if idle_ms >= min_idle_ms:
            shown.append([id_text(number), each.consumer.name, idle_ms, each.count])
    return shown


def _summary(group: Group) -> list[object]:
    pending = group.pending
    if not len(pending):
        return [0, None, None, NIL_ARRAY]
    busy = [
        [name, b"%d" % len(consumer.pending)]
        for name, consumer in sorted(group.consumers.items())
        if len(consumer.pending)
    ]
    return [len(pending), id_text(pending.first()), id_text(pending.last()), busy]


# -- claiming ---------------------------------------------------------------------------------------------------------


def _min_idle(text: bytes, name: str) -> int:
    return _claim_integer(text, f"min-idle-time argument for {name}")


def _claim_integer(text: bytes, what: str) -> int:
    # A number of XCLAIM or XAUTOCLAIM, whose refusal names it; below zero it counts as zero.
    return max(0, integer_from(text, -(1 << 63), Error(f"ERR Invalid {what}")))


class _Claim:
    """What XCLAIM and XAUTOCLAIM do to an entry: for whom, if idle for how long, and what is noted."""

    __slots__ = ("consumer", "delivered_ms", "event", "force", "just_id", "min_idle_ms", "now_ms", "retry_count")

    def __init__(self, group: Group, consumer: bytes, min_idle_ms: int, now_ms: int) -> None:
        self.min_idle_ms = min_idle_ms
        self.now_ms = now_ms
        # What is noted as the time of delivery, and as the number of deliveries (-1: one more, unless `just_id`).
        self.delivered_ms = now_ms
        self.retry_count = -1
        # XCLAIM's FORCE: also entries that are pending with nobody. Only ids are wanted in reply.
        self.force = False
        self.just_id = False
        self.event = NO_EVENT
        known = group.consumers.get(consumer)
        if known is None:
            self.event = CONSUMER_MADE
            known = group.consumers[consumer] = Consumer(consumer, now_ms)
        known.seen_ms = now_ms
        self.consumer = known

    def take(self, group: Group, number: int, words: tuple[bytes, ...]) -> object:
        """Claim one entry: its reply, or None when it is not to be had."""
        pending = group.pending.get(number)
        if pending is None:
            if not self.force:
                return None
            count = 1
        elif self.now_ms - pending.delivered_ms < self.min_idle_ms:
            return None
        else:
            count = pending.count
        if self.retry_count >= 0:
            count = self.retry_count
        elif not self.just_id:
            count += 1
        group.assign(number, self.consumer, self.delivered_ms, count)
        self.consumer.active_ms = self.now_ms
        return id_text(number) if self.just_id else entry_reply(number, words)


class _ClaimOptions:
    """What stands behind the ids of XCLAIM."""

    __slots__ = ("delivered_ms", "force", "just_id", "last_id", "retry_count")

    def __init__(self, options: list[bytes], now_ms: int) -> None:
        self.delivered_ms = now_ms
        self.retry_count = -1
        self.force = False
        self.just_id = False
        self.last_id = 0
        at = 0
        while at < len(options):
            option = options[at].upper()
            if option == b"FORCE":
                self.force = True
            elif option == b"JUSTID":
                self.just_id = True
            elif at + 1 < len(options) and option in (b"IDLE", b"TIME", b"RETRYCOUNT", b"LASTID"):
                at += 1
                self._take(option, options[at], now_ms)
            else:
                raise CommandError(Error(b"ERR Unrecognized XCLAIM option '" + options[at] + b"'"))
            at += 1
        if not 0 <= self.delivered_ms <= now_ms:
            self.delivered_ms = now_ms

    def _take(self, option: bytes, value: bytes, now_ms: int) -> None:
        if option == b"LASTID":
            self.last_id = exact_id(value)
            return
        number = integer_from(value, -(1 << 63), Error(f"ERR Invalid {option.decode()} option argument for XCLAIM"))
        if option == b"IDLE":
            self.delivered_ms = now_ms - number
        elif option == b"TIME":
            self.delivered_ms = number
        else:
            self.retry_count = number


@command(
    "XCLAIM",
    arity=-6,
    flags=WRITE | FAST,
    keys=FIRST,
    group="stream",
    since="5.0.0",
    summary="Makes a consumer the owner of pending entries that have been idle long enough, and returns them.",
    complexity="O(log(N)) for each id, with N pending entries",
    syntax="key group consumer min-idle-time id [id ...] [IDLE ms] [TIME unix-time-milliseconds] [RETRYCOUNT count] "
    "[FORCE] [JUSTID] [LASTID lastid]",
)
def xclaim(ctx: Context, argv: list[bytes]) -> object:
    entry, stream, group = group_of(ctx, argv[1], argv[2])
    min_idle_ms = _min_idle(argv[4], "XCLAIM")
    # The ids end where the first word is none.
    numbers: list[int] = []
    at = 5
    while at < len(argv):
        number = parse_id(argv[at], 0)
        if number is None:
            break
        numbers.append(number)
        at += 1
    now_ms = unix_ms(ctx)
    options = _ClaimOptions(argv[at:], now_ms)
    before = group.weight()
    group.last_id = max(group.last_id, options.last_id)
    claim = _Claim(group, argv[3], min_idle_ms, now_ms)
    claim.delivered_ms = options.delivered_ms
    claim.retry_count = options.retry_count
    claim.force = options.force
    claim.just_id = options.just_id
    claimed: list[object] = []
    for number in numbers:
        words = stream.entries.get(number)
        if words is None:
            # It was deleted: nobody will ever deal with it.
            group.settle(number)
            continue
        reply = claim.take(group, number, words)
        if reply is not None:
            claimed.append(reply)
    ctx.db.edited(entry, claim.event, ALL_OF_IT, group.weight() - before)
    return claimed


@command(
    "XAUTOCLAIM",
    arity=-6,
    flags=WRITE | FAST,
    keys=FIRST,
    group="stream",
    since="6.2.0",
    summary="Makes a consumer the owner of pending entries from an id on that have been idle long enough; returns "
    "where to go on, the entries, and the ids of those that do not exist any more.",
    complexity="O(log(N)+M) with N pending entries, M looked at: at most ten times COUNT",
    syntax="key group consumer min-idle-time start [COUNT count] [JUSTID]",
)
def xautoclaim(ctx: Context, argv: list[bytes]) -> object:
    min_idle_ms = _min_idle(argv[4], "XAUTOCLAIM")
    start = low_bound(argv[5])
    count = 100
    just_id = False
    at = 6
    while at < len(argv):
        option = argv[at].upper()
        if option == b"COUNT" and at + 1 < len(argv):
            at += 1
            count = integer_from(argv[at], 1, _COUNT_POSITIVE)
            if count > _MOST_CLAIMED:
                return _COUNT_POSITIVE
        elif option == b"JUSTID":
            just_id = True
        else:
            return SYNTAX
        at += 1
    entry, stream, group = group_of(ctx, argv[1], argv[2])
    before = group.weight()
    claim = _Claim(group, argv[3], min_idle_ms, unix_ms(ctx))
    claim.just_id = just_id
    claimed: list[object] = []
    deleted: list[object] = []
    attempts = count * _ATTEMPTS
    # One more than may be looked at: where to go on.
    seen = [number for number, _ in islice(group.pending.upward(start, ID_MAX), attempts + 1)]
    next_id = 0
    for place, number in enumerate(seen):
        if place == attempts or len(claimed) + len(deleted) == count:
            next_id = number
            break
        words = stream.entries.get(number)
        if words is None:
            group.settle(number)
            deleted.append(id_text(number))
            continue
        reply = claim.take(group, number, words)
        if reply is not None:
            claimed.append(reply)
    ctx.db.edited(entry, claim.event, ALL_OF_IT, group.weight() - before)
    return [id_text(next_id), claimed, deleted]
