"""MEMORY: what keys and the process weigh. Estimates by weights.py, which are also what `maxmemory` counts."""

from __future__ import annotations

from typing import Final

from protocol.replies import OK, Map, Verbatim
from server.commands.args import integer
from server.commands.command_docs import container_help
from server.commands.context import Context
from server.commands.keys import glance
from server.commands.spec import LOADING, READ, SECOND, STALE, command
from server.errors import SYNTAX, unknown_subcommand
from server.keyspace.database import Database
from server.keyspace.entry import NOWHERE
from server.keyspace.values.kinds import weigh
from server.keyspace.weights import key_weight

# Below this there is nothing to judge.
_SMALL: Final = 5 << 20
# Resident bytes above so many times what the data weighs are worth a word.
_WASTEFUL: Final = 1.8


@command(
    "MEMORY",
    arity=-2,
    flags=0,
    group="server",
    since="4.0.0",
    summary="Commands about memory.",
    complexity="Depends on the subcommand.",
)
def memory(ctx: Context, argv: list[bytes]) -> object:
    return unknown_subcommand("memory", argv[1])


@command(
    "MEMORY USAGE",
    arity=-3,
    flags=READ,
    keys=SECOND,
    group="server",
    since="4.0.0",
    summary="Estimated bytes of a key with its value; all members are counted, whatever SAMPLES says.",
    complexity="O(1), O(N) for N members in a transaction",
    syntax="key [SAMPLES count]",
)
def memory_usage(ctx: Context, argv: list[bytes]) -> object:
    at = 3
    while at < len(argv):
        if argv[at].upper() != b"SAMPLES" or at + 1 == len(argv) or integer(argv[at + 1]) < 0:
            return SYNTAX
        at += 2
    entry = glance(ctx.db, argv[2])
    if entry is None:
        return None
    # A staged copy has not been weighed.
    return entry.weight if entry.home is not NOWHERE else key_weight(entry.key) + weigh(entry.kind, entry.value)


def _facts(ctx: Context) -> dict[str, str]:
    # INFO is the one place that measures the process.
    fields: dict[str, str] = {}
    for line in ctx.server.info(["memory", "stats", "clients"]).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields[name] = value
    return fields


@command(
    "MEMORY STATS",
    arity=2,
    flags=0,
    group="server",
    since="4.0.0",
    summary="The numbers behind INFO memory, and those of each database.",
    complexity="O(1)",
)
def memory_stats(ctx: Context, argv: list[bytes]) -> object:
    facts = _facts(ctx)
    keyspace = ctx.server.keyspace
    resident = int(facts["used_memory_rss"])
    peak = int(facts["used_memory_peak"])
    dataset = keyspace.used()
    keys = sum(len(database) for database in keyspace.opened)
    stats: list[tuple[object, object]] = [
        (b"peak.allocated", peak),
        (b"total.allocated", resident),
        (b"overhead.total", max(0, resident - dataset)),
        (b"keys.count", keys),
        (b"keys.bytes-per-key", dataset // keys if keys else 0),
        (b"dataset.bytes", dataset),
        (b"dataset.percentage", 100.0 * dataset / resident if resident else 0.0),
        (b"peak.percentage", 100.0 * resident / peak if peak else 0.0),
        (b"fragmentation", resident / dataset if dataset else 0.0),
    ]
    for database in sorted(keyspace.opened, key=_index):
        if len(database):
            numbers = [(b"keys", len(database)), (b"expires", database.volatile()), (b"bytes", database.used_bytes())]
            stats.append((b"db.%d" % database.index, Map(numbers)))
    return Map(stats)


def _index(database: Database) -> int:
    return database.index


@command(
    "MEMORY DOCTOR",
    arity=2,
    flags=0,
    group="server",
    since="4.0.0",
    summary="What about the use of memory deserves attention, in words.",
    complexity="O(1)",
)
def memory_doctor(ctx: Context, argv: list[bytes]) -> object:
    facts = _facts(ctx)
    resident = int(facts["used_memory_rss"])
    dataset = ctx.server.keyspace.used()
    limit = ctx.server.keyspace.maxmemory
    if dataset < _SMALL:
        return Verbatim("There is next to nothing in memory: no numbers to judge.\n")
    found: list[str] = []
    if resident > _WASTEFUL * dataset:
        found.append(
            f"The process holds {resident / dataset:.1f} times what its data is estimated to weigh: memory was freed "
            "but not given back, or clients' buffers are large. MEMORY PURGE gives back what it can."
        )
    if limit and resident > limit:
        found.append("The process holds more than maxmemory: leave room for what is not keys and values.")
    if limit and dataset > 0.95 * limit and facts["maxmemory_policy"] == "noeviction":
        found.append("Memory is nearly full and nothing may be evicted: writes will soon be refused.")
    return Verbatim("".join(f"* {line}\n" for line in found) or "Nothing about the use of memory stands out.\n")


@command(
    "MEMORY PURGE",
    arity=2,
    flags=0,
    group="server",
    since="4.0.0",
    summary="Gives free memory back to the operating system, as far as the C library can.",
    complexity="Depends on how much is free",
)
def memory_purge(ctx: Context, argv: list[bytes]) -> object:
    ctx.server.diagnostics.release_memory()
    return OK


@command(
    "MEMORY MALLOC-STATS",
    arity=2,
    flags=0,
    group="server",
    since="4.0.0",
    summary="Would show the allocator's own numbers, if it had any.",
    complexity="O(1)",
)
def memory_malloc_stats(ctx: Context, argv: list[bytes]) -> object:
    return b"Stats not supported for the current allocator"


@command(
    "MEMORY HELP",
    arity=2,
    flags=LOADING | STALE,
    group="server",
    since="4.0.0",
    summary="Lists the subcommands.",
    complexity="O(1)",
)
def memory_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("memory")
