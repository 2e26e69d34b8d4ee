"""EVAL, EVALSHA and SCRIPT: Lua scripts, each of them one atomic command.

The rows say that scripts write their keys and need the old values, which is the worst that they may do; EVAL_RO and
EVALSHA_RO read them. What runs a script is the server's (server/scripting.py).
"""

from __future__ import annotations

from typing import Final

from protocol.replies import OK, Error
from server.commands.args import counted_keys, parse_integer
from server.commands.context import Context, Scripts
from server.commands.spec import LOADING, NOSCRIPT, READ, STALE, WRITE, command
from server.errors import NOT_INTEGER, CommandError, unknown_subcommand

RUNS: Final = NOSCRIPT | STALE
_OFF: Final = Error("ERR scripting is turned off (scripting = false in [server])")
_NEGATIVE: Final = Error("ERR Number of keys can't be negative")
_TOO_MANY: Final = Error("ERR Number of keys can't be greater than number of args")
_FLUSH_HOW: Final = Error("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
NOT_BUSY: Final = Error("NOTBUSY No scripts in execution right now.")


def scripts_of(ctx: Context) -> Scripts:
    """The server's scripts. CommandError when scripting is turned off."""
    if ctx.server.scripts is None:
        raise CommandError(_OFF)
    return ctx.server.scripts


def keys_of_call(argv: list[bytes]) -> list[bytes]:
    """For `find_keys=`: a script or function, `numkeys key [key ...]`, arguments."""
    return counted_keys(argv, 2)


def split_call(argv: list[bytes], not_a_number: Error) -> tuple[list[bytes], list[bytes]]:
    """Keys and arguments of a call."""
    count = parse_integer(argv[2])
    if count is None:
        raise CommandError(not_a_number)
    if count < 0:
        raise CommandError(_NEGATIVE)
    if count > len(argv) - 3:
        raise CommandError(_TOO_MANY)
    return argv[3 : 3 + count], argv[3 + count :]


@command(
    "EVAL",
    arity=-3,
    flags=WRITE | RUNS,
    find_keys=keys_of_call,
    group="scripting",
    since="2.6.0",
    summary="Runs a Lua script as one atomic command, and one database transaction.",
    complexity="That of the script",
    syntax="script numkeys [key [key ...]] [arg [arg ...]]",
)
def eval_(ctx: Context, argv: list[bytes]) -> object:
    keys, arguments = split_call(argv, NOT_INTEGER)
    return scripts_of(ctx).eval(ctx, argv[1], keys, arguments, False)


@command(
    "EVALSHA",
    arity=-3,
    flags=WRITE | RUNS,
    find_keys=keys_of_call,
    group="scripting",
    since="2.6.0",
    summary="Runs a Lua script that the server knows, by its SHA-1.",
    complexity="That of the script",
    syntax="sha1 numkeys [key [key ...]] [arg [arg ...]]",
)
def evalsha(ctx: Context, argv: list[bytes]) -> object:
    keys, arguments = split_call(argv, NOT_INTEGER)
    return scripts_of(ctx).evalsha(ctx, argv[1], keys, arguments, False)


# A reading script is run again when it has met keys that must be loaded. An error of its first run, which has seen them
# missing, must not keep dispatch from looking: so errors are returned here, not raised.
@command(
    "EVAL_RO",
    arity=-3,
    flags=READ | RUNS,
    find_keys=keys_of_call,
    group="scripting",
    since="7.0.0",
    summary="Runs a Lua script that only reads.",
    complexity="That of the script",
    syntax="script numkeys [key [key ...]] [arg [arg ...]]",
)
def eval_ro(ctx: Context, argv: list[bytes]) -> object:
    try:
        keys, arguments = split_call(argv, NOT_INTEGER)
        return scripts_of(ctx).eval(ctx, argv[1], keys, arguments, True)
    except CommandError as error:
        return error.reply


@command(
    "EVALSHA_RO",
    arity=-3,
    flags=READ | RUNS,
    find_keys=keys_of_call,
    group="scripting",
    since="7.0.0",
    summary="Runs a Lua script that the server knows and that only reads, by its SHA-1.",
    complexity="That of the script",
    syntax="sha1 numkeys [key [key ...]] [arg [arg ...]]",
)
def evalsha_ro(ctx: Context, argv: list[bytes]) -> object:
    try:
        keys, arguments = split_call(argv, NOT_INTEGER)
        return scripts_of(ctx).evalsha(ctx, argv[1], keys, arguments, True)
    except CommandError as error:
        return error.reply


@command(
    "SCRIPT",
    arity=-2,
    flags=0,
    group="scripting",
    since="2.6.0",
    summary="Commands that manage the scripts that the server knows.",
    complexity="Depends on subcommand.",
    syntax="subcommand [argument [argument ...]]",
)
def script(ctx: Context, argv: list[bytes]) -> object:
    return unknown_subcommand("script", argv[1])


@command(
    "SCRIPT LOAD",
    arity=3,
    flags=RUNS,
    group="scripting",
    since="2.6.0",
    summary="Keeps a script for EVALSHA, without running it; its SHA-1.",
    complexity="O(N) with the length of the script",
    syntax="script",
)
def script_load(ctx: Context, argv: list[bytes]) -> object:
    return scripts_of(ctx).load(argv[2])


@command(
    "SCRIPT EXISTS",
    arity=-3,
    flags=NOSCRIPT,
    group="scripting",
    since="2.6.0",
    summary="Which of these scripts does the server know?",
    complexity="O(N) with N scripts asked for",
    syntax="sha1 [sha1 ...]",
)
def script_exists(ctx: Context, argv: list[bytes]) -> object:
    scripts = scripts_of(ctx)
    return [int(scripts.knows(sha)) for sha in argv[2:]]


@command(
    "SCRIPT FLUSH",
    arity=-2,
    flags=NOSCRIPT,
    group="scripting",
    since="2.6.0",
    summary="Forgets all scripts.",
    complexity="O(N) with N scripts",
    syntax="[ASYNC | SYNC]",
)
def script_flush(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 3 or (len(argv) == 3 and argv[2].upper() not in (b"SYNC", b"ASYNC")):
        return _FLUSH_HOW
    scripts_of(ctx).flush()
    return OK


@command(
    "SCRIPT KILL",
    arity=2,
    flags=NOSCRIPT,
    group="scripting",
    since="2.6.0",
    summary="Answers that no script is running: no command is answered while one does, and each ends in time.",
    complexity="O(1)",
)
def script_kill(ctx: Context, argv: list[bytes]) -> object:
    scripts_of(ctx)
    return NOT_BUSY


_HELP: Final = (
    "SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "EXISTS <sha1> [<sha1> ...]",
    "    Tell which scripts are known.",
    "FLUSH [ASYNC|SYNC]",
    "    Forget all scripts.",
    "KILL",
    "    Answers NOTBUSY: a script that runs too long is ended by script_time_limit.",
    "LOAD <script>",
    "    Keep a script without running it.",
    "HELP",
    "    Print this help.",
)


@command(
    "SCRIPT HELP",
    arity=2,
    flags=LOADING | STALE,
    group="scripting",
    since="5.0.0",
    summary="Describes the subcommands of SCRIPT.",
    complexity="O(1)",
)
def script_help(ctx: Context, argv: list[bytes]) -> object:
    return [line.encode() for line in _HELP]
