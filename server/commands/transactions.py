"""MULTI, EXEC, DISCARD, WATCH, UNWATCH: their rows in the command table.

They steer the session rather than the keyspace, so dispatch carries them out (server/dispatch.py); the handlers here
only answer for calls that dispatch lets through in no state of its own.
"""

from __future__ import annotations

from protocol.replies import OK
from server import errors
from server.commands.context import Context
from server.commands.spec import ALL, FAST, IMMEDIATE, LOADING, NOSCRIPT, STALE, command

_FLAGS = NOSCRIPT | LOADING | STALE | FAST


@command(
    "MULTI",
    arity=1,
    flags=_FLAGS | IMMEDIATE,
    group="transactions",
    since="1.2.0",
    summary="Begins a transaction: the commands that follow are queued until EXEC.",
    complexity="O(1)",
)
def multi(ctx: Context, argv: list[bytes]) -> object:
    if ctx.in_transaction():
        return errors.NESTED_MULTI
    ctx.begin_multi()
    return OK


@command(
    "DISCARD",
    arity=1,
    flags=_FLAGS | IMMEDIATE,
    group="transactions",
    since="2.0.0",
    summary="Gives up a transaction and everything queued in it.",
    complexity="O(N) in the number of queued commands",
)
def discard(ctx: Context, argv: list[bytes]) -> object:
    if not ctx.in_transaction():
        return errors.DISCARD_WITHOUT_MULTI
    ctx.end_multi()
    ctx.unwatch()
    return OK


@command(
    "WATCH",
    arity=-2,
    flags=_FLAGS | IMMEDIATE,
    keys=ALL,
    group="transactions",
    since="2.2.0",
    summary="Makes the next EXEC depend on these keys staying as they are.",
    complexity="O(1) for every key",
    syntax="key [key ...]",
)
def watch(ctx: Context, argv: list[bytes]) -> object:
    if ctx.in_transaction():
        return errors.WATCH_IN_MULTI
    ctx.watch(argv[1:])
    return OK


@command(
    "UNWATCH",
    arity=1,
    flags=_FLAGS,
    group="transactions",
    since="2.2.0",
    summary="Forgets all watched keys.",
    complexity="O(1)",
)
def unwatch(ctx: Context, argv: list[bytes]) -> object:
    ctx.unwatch()
    return OK


@command(
    "EXEC",
    arity=1,
    flags=NOSCRIPT | LOADING | STALE | IMMEDIATE,
    group="transactions",
    since="1.2.0",
    summary="Runs the queued commands as one atomic step, and one database transaction.",
    complexity="That of the queued commands",
)
def exec_(ctx: Context, argv: list[bytes]) -> object:
    # Inside MULTI dispatch runs the transaction itself.
    return errors.EXEC_WITHOUT_MULTI
