"""CACHE.*: looking into the engine, and telling it what to load, to drop and to save.

All of them act on database 0, where prefix rules act, whatever database is selected.

The keys of EXPLAIN, LOAD and INVALIDATE are arguments and not keys to the table (NO_KEYS, no finder). Dispatch plans
every command by its keys: with them declared, EXPLAIN would load what it was asked to explain, and INVALIDATE would
fetch a row only to drop it. So COMMAND GETKEYS finds no keys in them either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from protocol.replies import OK, Error, Map
from server import errors
from server.commands.args import parse_integer
from server.commands.command_docs import container_help
from server.commands.connection import text
from server.commands.context import Cache, Context, Wait
from server.commands.spec import ADMIN, FAST, LOADING, NO_MULTI, NOSCRIPT, STALE, command

# A transaction or script runs at one moment and cannot wait for the store in the middle.
_WAITS: Final = NO_MULTI | NOSCRIPT


def _reply(value: object) -> object:
    # The engine speaks in strings, numbers, lists and dicts.
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        return Map([(_reply(key), _reply(item)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return [_reply(item) for item in value]
    return value


def _unknown_prefix(prefix: str) -> Error:
    return Error(f"ERR no rule has the prefix '{prefix}'")


@command(
    "CACHE.EXPLAIN",
    arity=2,
    flags=FAST | LOADING | STALE,
    group="cache",
    since="0.1.0",
    summary="Explains a key without touching it: its rule, its state, how old it is, which SQL would load it.",
    complexity="O(1)",
    syntax="key",
)
def cache_explain(ctx: Context, argv: list[bytes]) -> object:
    server = ctx.server
    return _reply(server.cache.explain(argv[1], server.keyspace.database(0)))


@command(
    "CACHE.INFO",
    arity=-1,
    flags=LOADING | STALE,
    group="cache",
    since="0.1.0",
    summary="Tells the counters of one prefix, or of every prefix by name.",
    complexity="O(N) where N is the number of prefixes",
    syntax="[prefix]",
)
def cache_info(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 2:
        return errors.SYNTAX
    if len(argv) == 1:
        return _reply(ctx.server.cache.info(None))
    # A prefix is named by its whole template or by its head, which several templates may share.
    prefix = text(argv[1])
    found = ctx.server.cache.info(prefix)
    if not found:
        return _unknown_prefix(prefix)
    return _reply(next(iter(found.values())) if len(found) == 1 else found)


@command(
    "CACHE.RULES",
    arity=1,
    flags=LOADING | STALE,
    group="cache",
    since="0.1.0",
    summary="Lists the prefix rules in force, in matching order.",
    complexity="O(N) where N is the number of rules",
)
def cache_rules(ctx: Context, argv: list[bytes]) -> object:
    return _reply(ctx.server.cache.rules())


@command(
    "CACHE.LOAD",
    arity=-2,
    flags=_WAITS,
    group="cache",
    since="0.1.0",
    summary="Loads keys from the store now, cached or not, and counts those found.",
    complexity="O(N) where N is the number of keys, and a statement for each mapping",
    syntax="key [key ...]",
)
def cache_load(ctx: Context, argv: list[bytes]) -> object:
    cache = ctx.server.cache
    keys = argv[1:]
    return Wait(lambda: cache.load(keys))


@command(
    "CACHE.INVALIDATE",
    arity=-2,
    flags=FAST,
    group="cache",
    since="0.1.0",
    summary="Drops keys from memory, never from the database, and counts those dropped.",
    complexity="O(N) where N is the number of keys",
    syntax="key [key ...]",
)
def cache_invalidate(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.cache.invalidate(argv[1:])


@command(
    "CACHE.PURGE",
    arity=2,
    flags=_WAITS,
    group="cache",
    since="0.1.0",
    summary="Drops the keys that fit a pattern from memory, never from the database, and counts those dropped.",
    complexity="O(N) where N is the number of keys in memory, in slices that let other clients in",
    syntax="pattern",
)
def cache_purge(ctx: Context, argv: list[bytes]) -> object:
    cache, pattern = ctx.server.cache, argv[1]
    return Wait(lambda: cache.purge(pattern))


@command(
    "CACHE.BUMP",
    arity=2,
    flags=FAST,
    group="cache",
    since="0.1.0",
    summary="Voids everything that is cached under a prefix at once; unsaved writes survive.",
    complexity="O(1)",
    syntax="prefix",
)
def cache_bump(ctx: Context, argv: list[bytes]) -> object:
    prefix = text(argv[1])
    try:
        ctx.server.cache.bump(prefix)
    except KeyError:
        return _unknown_prefix(prefix)
    return OK


@command(
    "CACHE.UNTAG",
    arity=-2,
    flags=FAST,
    group="cache",
    since="0.1.0",
    summary="Voids everything that carries one of these tags, such as tenant_id=7, and counts the rules concerned.",
    complexity="O(N) where N is the number of rules",
    syntax="tag [tag ...]",
)
def cache_untag(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.cache.untag(argv[1:])


@command(
    "CACHE.FLUSH",
    arity=-1,
    flags=_WAITS,
    group="cache",
    since="0.1.0",
    summary="Writes all unsaved changes to the store and tells how many were written and how many remain.",
    complexity="O(N) where N is the number of unsaved changes",
    syntax="[prefix] [TIMEOUT milliseconds]",
)
def cache_flush(ctx: Context, argv: list[bytes]) -> object:
    words = argv[1:]
    timeout_ms: int | None = None
    if len(words) >= 2:
        if words[-2].upper() != b"TIMEOUT":
            return errors.SYNTAX
        timeout_ms = parse_integer(words[-1])
        if timeout_ms is None:
            return Error("ERR timeout is not an integer or out of range")
        if timeout_ms < 0:
            return Error("ERR timeout is negative")
        del words[-2:]
    if len(words) > 1 or (words and words[0].upper() == b"TIMEOUT"):
        return errors.SYNTAX
    prefix = text(words[0]) if words else None
    cache = ctx.server.cache

    async def flush() -> object:
        try:
            flushed, remaining = await cache.flush(prefix, timeout_ms)
        except KeyError:
            if prefix is None:
                raise
            return _unknown_prefix(prefix)
        return [flushed, remaining]

    return Wait(flush)


@command(
    "CACHE.WAIT",
    arity=2,
    flags=_WAITS,
    group="cache",
    since="0.1.0",
    summary="Waits until everything written on this connection is in the store; counts the unsaved keys that are left.",
    complexity="O(1) for each store, O(N) where N is the number of keys that are left",
    syntax="milliseconds",
)
def cache_wait(ctx: Context, argv: list[bytes]) -> object:
    timeout_ms = parse_integer(argv[1])
    if timeout_ms is None:
        return Error("ERR timeout is not an integer or out of range")
    if timeout_ms < 0:
        return Error("ERR timeout is negative")
    cache = ctx.server.cache
    # As it is now: what is written behind this command in the pipeline is not waited for.
    written = dict(ctx.written)
    return Wait(lambda: cache.wait_saved(written, timeout_ms))


@command(
    "CACHE.DISCARD",
    arity=2,
    flags=_WAITS | ADMIN,
    group="cache",
    since="0.1.0",
    summary="Gives up the unsaved changes of a prefix, drops their copies, and counts them.",
    complexity="O(N) where N is the number of unsaved changes, in slices that let other clients in",
    syntax="prefix",
)
def cache_discard(ctx: Context, argv: list[bytes]) -> object:
    prefix = text(argv[1])
    return _of_prefix(prefix, lambda: ctx.server.cache.discard(prefix))


@command(
    "CACHE.WARM",
    arity=2,
    flags=_WAITS,
    group="cache",
    since="0.1.0",
    summary="Runs the warm-up of a prefix and counts the rows that were loaded.",
    complexity="O(N) where N is the number of rows, in batches that let other clients in",
    syntax="prefix",
)
def cache_warm(ctx: Context, argv: list[bytes]) -> object:
    prefix = text(argv[1])
    return _of_prefix(prefix, lambda: ctx.server.cache.warm(prefix))


@command(
    "CACHE.VERIFY",
    arity=-2,
    flags=_WAITS,
    group="cache",
    since="0.1.0",
    summary="Compares copies with the database: how many were compared, how many differ, how many REPAIR has dropped.",
    complexity="O(N) where N is the number of keys in memory, in slices that let other clients in",
    syntax="prefix [SAMPLE count] [REPAIR]",
)
def cache_verify(ctx: Context, argv: list[bytes]) -> object:
    prefix = text(argv[1])
    sample: int | None = None
    repair = False
    at = 2
    while at < len(argv):
        option = argv[at].upper()
        if option == b"SAMPLE" and sample is None and at + 1 < len(argv):
            at += 1
            sample = parse_integer(argv[at])
            if sample is None or sample < 1:
                return Error("ERR sample is not a positive integer")
        elif option == b"REPAIR" and not repair:
            repair = True
        else:
            return errors.SYNTAX
        at += 1
    return _of_prefix(prefix, lambda: ctx.server.cache.verify(prefix, sample, repair))


@command(
    "CACHE.ADVISE",
    arity=-1,
    flags=_WAITS,
    group="cache",
    since="0.1.0",
    summary="Tells what other policies and other sizes would have made of the last accesses, and recommends.",
    complexity="O(N) where N is the number of accesses noted, 131,072 at most, in slices that let other clients in",
    syntax="[prefix]",
)
def cache_advise(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 2:
        return errors.SYNTAX
    cache = ctx.server.cache
    if len(argv) == 1:
        return Wait(lambda: _told(cache))
    prefix = text(argv[1])
    return _of_prefix(prefix, lambda: cache.advise(prefix))


async def _told(cache: Cache) -> object:
    return _reply(await cache.advise(None))


def _of_prefix(prefix: str, start: Callable[[], Awaitable[object]]) -> Wait:
    # What waits, and concerns one prefix, which may not exist.
    async def answer() -> object:
        try:
            return _reply(await start())
        except KeyError:
            return _unknown_prefix(prefix)

    return Wait(answer)


# -- dead letters -----------------------------------------------------------------------------------------------------


@command(
    "CACHE.DLQ",
    arity=-2,
    flags=0,
    group="cache",
    since="0.1.0",
    summary="Commands about dead letters: changes that the store refused for good.",
    complexity="Depends on the subcommand.",
)
def cache_dlq(ctx: Context, argv: list[bytes]) -> object:
    return errors.unknown_subcommand("cache.dlq", argv[1])


@command(
    "CACHE.DLQ COUNT",
    arity=2,
    flags=ADMIN | LOADING | STALE,
    group="cache",
    since="0.1.0",
    summary="Counts the dead letters.",
    complexity="O(N) where N is the number of dead letters",
)
def cache_dlq_count(ctx: Context, argv: list[bytes]) -> object:
    return len(ctx.server.cache.dead_letters(None))


@command(
    "CACHE.DLQ LIST",
    arity=-2,
    flags=ADMIN | LOADING | STALE,
    group="cache",
    since="0.1.0",
    summary="Lists the dead letters, of one prefix or of all, the first of them or all.",
    complexity="O(N) where N is the number of dead letters",
    syntax="[prefix] [COUNT count]",
)
def cache_dlq_list(ctx: Context, argv: list[bytes]) -> object:
    words = argv[2:]
    count: int | None = None
    if len(words) >= 2:
        if words[-2].upper() != b"COUNT":
            return errors.SYNTAX
        count = parse_integer(words[-1])
        if count is None:
            return errors.NOT_INTEGER
        if count < 0:
            return Error("ERR count is negative")
        del words[-2:]
    if len(words) > 1 or (words and words[0].upper() == b"COUNT"):
        return errors.SYNTAX
    prefix = text(words[0]) if words else None
    try:
        letters = ctx.server.cache.dead_letters(prefix)
    except KeyError:
        if prefix is None:
            raise
        return _unknown_prefix(prefix)
    return _reply(letters if count is None else letters[:count])


@command(
    "CACHE.DLQ GET",
    arity=3,
    flags=ADMIN | LOADING | STALE,
    group="cache",
    since="0.1.0",
    summary="Shows a dead letter with the change that was refused; null when there is none with this id.",
    complexity="O(N) where N is the size of the change",
    syntax="id",
)
def cache_dlq_get(ctx: Context, argv: list[bytes]) -> object:
    id = parse_integer(argv[2])
    if id is None:
        return errors.NOT_INTEGER
    letter = ctx.server.cache.dead_letter(id)
    return None if letter is None else _reply(letter)


@command(
    "CACHE.DLQ RETRY",
    arity=3,
    flags=ADMIN | LOADING | STALE,
    group="cache",
    since="0.1.0",
    summary="Queues dead letters to be saved again; returns how many. Those whose key has newer changes stay.",
    complexity="O(N) where N is the number of dead letters",
    syntax="<id | ALL>",
)
def cache_dlq_retry(ctx: Context, argv: list[bytes]) -> object:
    ids = _letter_ids(ctx, argv[2])
    return ids if isinstance(ids, Error) else ctx.server.cache.retry_letters(ids)


@command(
    "CACHE.DLQ DROP",
    arity=3,
    flags=ADMIN | LOADING | STALE,
    group="cache",
    since="0.1.0",
    summary="Forgets dead letters for good; returns how many.",
    complexity="O(N) where N is the number of dead letters",
    syntax="<id | ALL>",
)
def cache_dlq_drop(ctx: Context, argv: list[bytes]) -> object:
    ids = _letter_ids(ctx, argv[2])
    return ids if isinstance(ids, Error) else ctx.server.cache.drop_letters(ids)


def _letter_ids(ctx: Context, word: bytes) -> list[int] | Error:
    if word.upper() == b"ALL":
        return [int(str(letter["id"])) for letter in ctx.server.cache.dead_letters(None)]
    id = parse_integer(word)
    return errors.NOT_INTEGER if id is None else [id]


@command(
    "CACHE.DLQ HELP",
    arity=2,
    flags=LOADING | STALE,
    group="cache",
    since="0.1.0",
    summary="Explains the subcommands.",
    complexity="O(1)",
)
def cache_dlq_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("cache.dlq")
