"""SLOWLOG, LATENCY and MONITOR: what is slow, and what everybody does."""

from __future__ import annotations

from typing import Final

from protocol.replies import OK, Error, Map
from server.commands.args import INT64_MAX, integer_between, parse_integer
from server.commands.command_docs import container_help
from server.commands.connection import text
from server.commands.context import Context
from server.commands.spec import ADMIN, COMMANDS, LOADING, NO_MULTI, NOSCRIPT, STALE, command
from server.errors import unknown_subcommand

_ADMIN: Final = ADMIN | NOSCRIPT | LOADING | STALE
_BAD_COUNT: Final = Error("ERR count should be greater than or equal to -1")
# Entries that SLOWLOG GET shows unless told otherwise.
_SHOWN: Final = 10


@command(
    "SLOWLOG",
    arity=-2,
    flags=0,
    group="server",
    since="2.2.12",
    summary="Commands about the slow log.",
    complexity="Depends on the subcommand.",
)
def slowlog(ctx: Context, argv: list[bytes]) -> object:
    return unknown_subcommand("slowlog", argv[1])


@command(
    "SLOWLOG GET",
    arity=-2,
    flags=ADMIN | LOADING | STALE,
    group="server",
    since="2.2.12",
    summary="The newest slow commands: id, Unix time, microseconds, words, address and name of the client.",
    complexity="O(N) with N entries returned",
    syntax="[count]",
)
def slowlog_get(ctx: Context, argv: list[bytes]) -> object:
    count = _SHOWN
    if len(argv) > 2:
        given = parse_integer(argv[2])
        if given is None or given < -1 or len(argv) > 3:
            return _BAD_COUNT
        count = given if given >= 0 else ctx.server.diagnostics.slow_count()
    return ctx.server.diagnostics.slow_entries(min(count, INT64_MAX >> 1))


@command(
    "SLOWLOG LEN",
    arity=2,
    flags=ADMIN | LOADING | STALE,
    group="server",
    since="2.2.12",
    summary="Number of entries in the slow log.",
    complexity="O(1)",
)
def slowlog_len(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.diagnostics.slow_count()


@command(
    "SLOWLOG RESET",
    arity=2,
    flags=ADMIN | LOADING | STALE,
    group="server",
    since="2.2.12",
    summary="Empties the slow log.",
    complexity="O(N) with N entries",
)
def slowlog_reset(ctx: Context, argv: list[bytes]) -> object:
    ctx.server.diagnostics.forget_slow()
    return OK


@command(
    "SLOWLOG HELP",
    arity=2,
    flags=LOADING | STALE,
    group="server",
    since="6.2.0",
    summary="Lists the subcommands.",
    complexity="O(1)",
)
def slowlog_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("slowlog")


# -- LATENCY ----------------------------------------------------------------------------------------------------------


@command(
    "LATENCY",
    arity=-2,
    flags=0,
    group="server",
    since="2.8.13",
    summary="Commands about what took long.",
    complexity="Depends on the subcommand.",
)
def latency(ctx: Context, argv: list[bytes]) -> object:
    return unknown_subcommand("latency", argv[1])


@command(
    "LATENCY LATEST",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.8.13",
    summary="Each event's last sample: name, Unix time, milliseconds, and the longest ever. The events are `command` "
    "and `fast-command`; latency-monitor-threshold says what counts as long.",
    complexity="O(1)",
)
def latency_latest(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.diagnostics.latest_events()


@command(
    "LATENCY HISTORY",
    arity=3,
    flags=_ADMIN,
    group="server",
    since="2.8.13",
    summary="The last 160 samples of an event: Unix time and milliseconds.",
    complexity="O(1)",
    syntax="event",
)
def latency_history(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.diagnostics.event_history(text(argv[2]))


@command(
    "LATENCY RESET",
    arity=-2,
    flags=_ADMIN,
    group="server",
    since="2.8.13",
    summary="Forgets the samples of some events, or of all; returns how many events that were.",
    complexity="O(1)",
    syntax="[event [event ...]]",
)
def latency_reset(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.diagnostics.forget_events([text(name) for name in argv[2:]])


@command(
    "LATENCY HISTOGRAM",
    arity=-2,
    flags=_ADMIN,
    group="server",
    since="7.0.0",
    summary="How many calls of commands took at most how many microseconds, while latency-tracking is on.",
    complexity="O(N) with N commands",
    syntax="[command [command ...]]",
)
def latency_histogram(ctx: Context, argv: list[bytes]) -> object:
    known = ctx.server.diagnostics.histograms()
    names = list(known)
    if len(argv) > 2:
        names = []
        for word in argv[2:]:
            name = text(word).lower()
            # A container's name stands for its subcommands.
            spec = COMMANDS.get(name)
            names += [name, *[child.name for child in spec.subcommands.values()]] if spec is not None else [name]
    found: list[tuple[object, object]] = []
    for name in dict.fromkeys(names):
        if name in known:
            calls, counts = known[name]
            found.append((name.encode(), Map([(b"calls", calls), (b"histogram_usec", Map(counts))])))
    return Map(found)


@command(
    "LATENCY HELP",
    arity=2,
    flags=LOADING | STALE,
    group="server",
    since="2.8.13",
    summary="Lists the subcommands.",
    complexity="O(1)",
)
def latency_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("latency")


# -- MONITOR ----------------------------------------------------------------------------------------------------------


@command(
    "MONITOR",
    arity=1,
    flags=_ADMIN | NO_MULTI,
    group="server",
    since="1.0.0",
    summary="From now on this client is sent every command that any client runs, without passwords. For debugging: "
    "all commands take a longer road meanwhile. RESET ends it.",
    complexity="O(1)",
)
def monitor(ctx: Context, argv: list[bytes]) -> object:
    ctx.server.diagnostics.monitor(ctx)
    return OK


# -- replicas ---------------------------------------------------------------------------------------------------------

_TIMEOUT_NO_INTEGER: Final = Error("ERR timeout is not an integer or out of range")
_TIMEOUT_NEGATIVE: Final = Error("ERR timeout is negative")
_NO_APPEND_ONLY: Final = Error("ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.")


def _check_timeout(word: bytes) -> Error | None:
    timeout_ms = parse_integer(word)
    if timeout_ms is None:
        return _TIMEOUT_NO_INTEGER
    return _TIMEOUT_NEGATIVE if timeout_ms < 0 else None


@command(
    "WAIT",
    arity=3,
    flags=0,
    group="generic",
    since="3.0.0",
    summary="How many replicas have what this client wrote: 0, at once, because there are none that could get it. "
    "CACHE.WAIT waits for databases.",
    complexity="O(1)",
    syntax="numreplicas timeout",
)
def wait(ctx: Context, argv: list[bytes]) -> object:
    integer_between(argv[1], -INT64_MAX - 1, INT64_MAX)
    return _check_timeout(argv[2]) or 0


@command(
    "WAITAOF",
    arity=4,
    flags=0,
    group="generic",
    since="7.2.0",
    summary="How many append-only files, here and in replicas, have what this client wrote: none, at once. CACHE.WAIT "
    "waits for databases.",
    complexity="O(1)",
    syntax="numlocal numreplicas timeout",
)
def waitaof(ctx: Context, argv: list[bytes]) -> object:
    numlocal = integer_between(argv[1], 0, 1)
    integer_between(argv[2], 0, INT64_MAX)
    refusal = _check_timeout(argv[3])
    if refusal is not None:
        return refusal
    return _NO_APPEND_ONLY if numlocal else [0, 0]
