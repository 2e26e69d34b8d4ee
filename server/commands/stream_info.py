"""XINFO: what a stream, its groups and their consumers look like from outside."""

from __future__ import annotations

from itertools import islice
from typing import Final

from protocol.replies import Map
from server.commands.args import integer
from server.commands.command_docs import container_help
from server.commands.context import Context
from server.commands.spec import LOADING, READ, SECOND, STALE, command
from server.commands.stream_ids import entry_reply, no_group_of_key, stream_of, unix_ms
from server.errors import NO_SUCH_KEY, CommandError, unknown_subcommand, wrong_words
from server.keyspace.values.stream import ID_MAX, UNKNOWN, Consumer, Group, Stream, id_text

# What XINFO STREAM FULL shows of each list without a COUNT.
_FULL_COUNT: Final = 10


def _stream(ctx: Context, key: bytes) -> Stream:
    entry = ctx.db.find(key)
    if entry is None:
        raise CommandError(NO_SUCH_KEY)
    return stream_of(entry)


@command(
    "XINFO",
    arity=-2,
    flags=0,
    group="stream",
    since="5.0.0",
    summary="Commands that describe streams.",
    complexity="Depends on the subcommand.",
)
def xinfo(ctx: Context, argv: list[bytes]) -> object:
    return unknown_subcommand("xinfo", argv[1])


@command(
    "XINFO STREAM",
    arity=-3,
    flags=READ,
    keys=SECOND,
    group="stream",
    since="5.0.0",
    summary="Describes a stream; with FULL also its first entries, its groups, and what is pending in them.",
    complexity="O(1); with FULL O(N) with N things shown",
    syntax="key [FULL [COUNT count]]",
)
def xinfo_stream(ctx: Context, argv: list[bytes]) -> object:
    stream = _stream(ctx, argv[2])
    options = argv[3:]
    count: int | None = _FULL_COUNT
    if options:
        if options[0].upper() != b"FULL" or len(options) not in (1, 3):
            return wrong_words(argv)
        if len(options) == 3:
            if options[1].upper() != b"COUNT":
                return wrong_words(argv)
            wanted = integer(options[2])
            # Zero shows all; what is below shows the usual number.
            count = (wanted or None) if wanted >= 0 else _FULL_COUNT
    entries = stream.entries
    fields: list[tuple[object, object]] = [
        (b"length", len(stream)),
        (b"radix-tree-keys", entries.blocks),
        # Redis keeps entries in a tree; one node per block and a root is what it would need at least.
        (b"radix-tree-nodes", entries.blocks + 1),
        (b"last-generated-id", id_text(stream.last_id)),
        (b"max-deleted-entry-id", id_text(stream.max_deleted_id)),
        (b"entries-added", stream.entries_added),
        (b"recorded-first-entry-id", id_text(entries.first())),
    ]
    if options:
        shown = [entry_reply(number, words) for number, words in islice(entries, count)]
        groups = [_full_group(stream, group, count) for _, group in sorted(stream.groups.items())]
        return Map([*fields, (b"entries", shown), (b"groups", groups)])
    fields.append((b"groups", len(stream.groups)))
    for name, end in ((b"first-entry", entries.first()), (b"last-entry", entries.last())):
        words = entries.get(end)
        fields.append((name, None if words is None else entry_reply(end, words)))
    return Map(fields)


def _full_group(stream: Stream, group: Group, count: int | None) -> Map:
    pending: list[object] = [
        [id_text(number), each.consumer.name, each.delivered_ms, each.count]
        for number, each in islice(group.pending.upward(0, ID_MAX), count)
    ]
    return Map(
        [
            (b"name", group.name),
            (b"last-delivered-id", id_text(group.last_id)),
            (b"entries-read", None if group.entries_read == UNKNOWN else group.entries_read),
            (b"lag", stream.lag(group)),
            (b"pel-count", len(group.pending)),
            (b"pending", pending),
            (b"consumers", [_full_consumer(consumer, count) for _, consumer in sorted(group.consumers.items())]),
        ]
    )


def _full_consumer(consumer: Consumer, count: int | None) -> Map:
    pending: list[object] = [
        [id_text(number), each.delivered_ms, each.count]
        for number, each in islice(consumer.pending.upward(0, ID_MAX), count)
    ]
    return Map(
        [
            (b"name", consumer.name),
            (b"seen-time", consumer.seen_ms),
            (b"active-time", consumer.active_ms),
            (b"pel-count", len(consumer.pending)),
            (b"pending", pending),
        ]
    )


@command(
    "XINFO GROUPS",
    arity=3,
    flags=READ,
    keys=SECOND,
    group="stream",
    since="5.0.0",
    summary="Describes the groups of a stream.",
    complexity="O(N) with N groups",
    syntax="key",
)
def xinfo_groups(ctx: Context, argv: list[bytes]) -> object:
    stream = _stream(ctx, argv[2])
    return [
        Map(
            [
                (b"name", name),
                (b"consumers", len(group.consumers)),
                (b"pending", len(group.pending)),
                (b"last-delivered-id", id_text(group.last_id)),
                (b"entries-read", None if group.entries_read == UNKNOWN else group.entries_read),
                (b"lag", stream.lag(group)),
            ]
        )
        for name, group in sorted(stream.groups.items())
    ]


@command(
    "XINFO CONSUMERS",
    arity=4,
    flags=READ,
    keys=SECOND,
    group="stream",
    since="5.0.0",
    summary="Describes the consumers of a group: what is pending, since when each is idle and inactive.",
    complexity="O(N) with N consumers",
    syntax="key group",
)
def xinfo_consumers(ctx: Context, argv: list[bytes]) -> object:
    group = _stream(ctx, argv[2]).groups.get(argv[3])
    if group is None:
        return no_group_of_key(argv[2], argv[3])
    now_ms = unix_ms(ctx)
    return [
        Map(
            [
                (b"name", name),
                (b"pending", len(consumer.pending)),
                (b"idle", max(0, now_ms - consumer.seen_ms)),
                (b"inactive", max(0, now_ms - consumer.active_ms) if consumer.active_ms >= 0 else -1),
            ]
        )
        for name, consumer in sorted(group.consumers.items())
    ]


@command(
    "XINFO HELP",
    arity=2,
    flags=LOADING | STALE,
    group="stream",
    since="5.0.0",
    summary="Lists the subcommands.",
    complexity="O(1)",
)
def xinfo_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("xinfo")
