"""FUNCTION and FCALL: libraries of Lua functions. A function runs as a script does (scripting.py)."""

from __future__ import annotations

from typing import Final

from protocol.replies import OK, Error, Map, SetOf, Status
from server.commands.context import Context
from server.commands.function_payload import libraries_of_payload, payload_of_libraries
from server.commands.rdb_encodings import Malformed
from server.commands.rdb_payload import Foreign
from server.commands.scripting import NOT_BUSY, RUNS, keys_of_call, scripts_of, split_call
from server.commands.spec import DENYOOM, LOADING, NOSCRIPT, READ, STALE, WRITE, command
from server.errors import CommandError, unknown_subcommand, wrong_arity
from server.keyspace.globbing import Glob

_NOT_FOUND: Final = Error("ERR Function not found")
_BAD_COUNT: Final = Error("ERR Bad number of keys provided")
_FLUSH_HOW: Final = Error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option")
_NO_PATTERN: Final = Error("ERR library name argument was not given")
_FOREIGN: Final = Error("ERR DUMP payload version or checksum are wrong")
_MALFORMED: Final = Error("ERR given type is not a function")
_WRONG_POLICY: Final = Error("ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.")


@command(
    "FCALL",
    arity=-3,
    flags=WRITE | RUNS,
    find_keys=keys_of_call,
    group="scripting",
    since="7.0.0",
    summary="Runs a function of a library as one atomic command, and one database transaction.",
    complexity="That of the function",
    syntax="function numkeys [key [key ...]] [arg [arg ...]]",
)
def fcall(ctx: Context, argv: list[bytes]) -> object:
    return _call(ctx, argv, False)


@command(
    "FCALL_RO",
    arity=-3,
    flags=READ | RUNS,
    find_keys=keys_of_call,
    group="scripting",
    since="7.0.0",
    summary="Runs a function of a library that only reads.",
    complexity="That of the function",
    syntax="function numkeys [key [key ...]] [arg [arg ...]]",
)
def fcall_ro(ctx: Context, argv: list[bytes]) -> object:
    # Errors are returned, as those of EVAL_RO.
    try:
        return _call(ctx, argv, True)
    except CommandError as error:
        return error.reply


def _call(ctx: Context, argv: list[bytes], reads_only: bool) -> object:
    scripts = scripts_of(ctx)
    if not scripts.knows_function(argv[1]):
        return _NOT_FOUND
    keys, arguments = split_call(argv, _BAD_COUNT)
    return scripts.fcall(ctx, argv[1], keys, arguments, reads_only)


@command(
    "FUNCTION",
    arity=-2,
    flags=0,
    group="scripting",
    since="7.0.0",
    summary="Commands that manage libraries of functions.",
    complexity="Depends on subcommand.",
    syntax="subcommand [argument [argument ...]]",
)
def function(ctx: Context, argv: list[bytes]) -> object:
    return unknown_subcommand("function", argv[1])


@command(
    "FUNCTION LOAD",
    arity=-3,
    flags=DENYOOM | NOSCRIPT,
    group="scripting",
    since="7.0.0",
    summary="Loads a library; its name.",
    complexity="O(N) with the length of the library",
    syntax="[REPLACE] function-code",
)
def function_load(ctx: Context, argv: list[bytes]) -> object:
    options = argv[2:-1]
    for option in options:
        if option.upper() != b"REPLACE":
            return Error(b"ERR Unknown option given: " + option)
    return scripts_of(ctx).load_library(argv[-1], bool(options))


@command(
    "FUNCTION DELETE",
    arity=3,
    flags=NOSCRIPT,
    group="scripting",
    since="7.0.0",
    summary="Forgets a library.",
    complexity="O(N) with N functions in it",
    syntax="library-name",
)
def function_delete(ctx: Context, argv: list[bytes]) -> object:
    scripts_of(ctx).delete_library(argv[2])
    return OK


@command(
    "FUNCTION FLUSH",
    arity=-2,
    flags=NOSCRIPT,
    group="scripting",
    since="7.0.0",
    summary="Forgets all libraries.",
    complexity="O(N) with N functions",
    syntax="[ASYNC | SYNC]",
)
def function_flush(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 3 or (len(argv) == 3 and argv[2].upper() not in (b"SYNC", b"ASYNC")):
        return _FLUSH_HOW
    scripts_of(ctx).flush_libraries()
    return OK


@command(
    "FUNCTION LIST",
    arity=-2,
    flags=NOSCRIPT,
    group="scripting",
    since="7.0.0",
    summary="Describes the libraries and their functions.",
    complexity="O(N) with N functions",
    syntax="[LIBRARYNAME library-name-pattern] [WITHCODE]",
)
def function_list(ctx: Context, argv: list[bytes]) -> object:
    glob: Glob | None = None
    with_code = False
    at = 2
    while at < len(argv):
        option = argv[at].upper()
        if option == b"WITHCODE" and not with_code:
            with_code = True
        elif option == b"LIBRARYNAME" and glob is None:
            at += 1
            if at >= len(argv):
                return _NO_PATTERN
            glob = Glob(argv[at])
        else:
            return Error(b"ERR Unknown argument " + argv[at])
        at += 1
    shown = []
    for name, code, functions in scripts_of(ctx).describe_libraries():
        if glob is None or glob.matches(name):
            fields: list[tuple[object, object]] = [
                (b"library_name", name),
                (b"engine", b"LUA"),
                (b"functions", [_described(*made) for made in functions]),
            ]
            shown.append(Map([*fields, (b"library_code", code)] if with_code else fields))
    return shown


def _described(name: bytes, description: bytes | None, flags: list[bytes]) -> Map:
    shown = SetOf([Status(flag.decode()) for flag in flags])
    return Map([(b"name", name), (b"description", description), (b"flags", shown)])


@command(
    "FUNCTION STATS",
    arity=2,
    flags=NOSCRIPT,
    group="scripting",
    since="7.0.0",
    summary="Counts libraries and functions. None is running when this is answered.",
    complexity="O(1)",
)
def function_stats(ctx: Context, argv: list[bytes]) -> object:
    libraries = scripts_of(ctx).describe_libraries()
    counts = Map(
        [
            (b"libraries_count", len(libraries)),
            (b"functions_count", sum(len(functions) for _, _, functions in libraries)),
        ]
    )
    return Map([(b"running_script", None), (b"engines", Map([(b"LUA", counts)]))])


@command(
    "FUNCTION KILL",
    arity=2,
    flags=NOSCRIPT,
    group="scripting",
    since="7.0.0",
    summary="Answers that no function is running: no command is answered while one does, and each ends in time.",
    complexity="O(1)",
)
def function_kill(ctx: Context, argv: list[bytes]) -> object:
    scripts_of(ctx)
    return NOT_BUSY


@command(
    "FUNCTION DUMP",
    arity=2,
    flags=NOSCRIPT,
    group="scripting",
    since="7.0.0",
    summary="All libraries as bytes that FUNCTION RESTORE takes, here or in a Redis.",
    complexity="O(N) with the length of the libraries",
)
def function_dump(ctx: Context, argv: list[bytes]) -> object:
    return payload_of_libraries(scripts_of(ctx).library_codes())


@command(
    "FUNCTION RESTORE",
    arity=-3,
    flags=DENYOOM | NOSCRIPT,
    group="scripting",
    since="7.0.0",
    summary="Loads the libraries of a dump, all or none.",
    complexity="O(N) with the length of the libraries",
    syntax="serialized-value [FLUSH | APPEND | REPLACE]",
)
def function_restore(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 4:
        return wrong_arity("function|restore")
    policy = argv[3].upper() if len(argv) == 4 else b"APPEND"
    if policy not in (b"FLUSH", b"APPEND", b"REPLACE"):
        return _WRONG_POLICY
    try:
        codes = libraries_of_payload(argv[2])
    except Foreign:
        return _FOREIGN
    except Malformed:
        return _MALFORMED
    scripts_of(ctx).restore_libraries(codes, policy == b"FLUSH", policy == b"REPLACE")
    return OK


_HELP: Final = (
    "FUNCTION <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "LOAD [REPLACE] <FUNCTION CODE>",
    "    Load a library.",
    "DELETE <LIBRARY NAME>",
    "    Forget a library.",
    "LIST [LIBRARYNAME PATTERN] [WITHCODE]",
    "    Describe the libraries and their functions.",
    "STATS",
    "    Count them.",
    "KILL",
    "    Answers NOTBUSY: a function that runs too long is ended by script_time_limit.",
    "FLUSH [ASYNC|SYNC]",
    "    Forget all libraries.",
    "DUMP",
    "    All libraries as bytes.",
    "RESTORE <PAYLOAD> [FLUSH|APPEND|REPLACE]",
    "    Load the libraries of a dump.",
    "HELP",
    "    Print this help.",
)


@command(
    "FUNCTION HELP",
    arity=2,
    flags=LOADING | STALE,
    group="scripting",
    since="7.0.0",
    summary="Describes the subcommands of FUNCTION.",
    complexity="O(1)",
)
def function_help(ctx: Context, argv: list[bytes]) -> object:
    return [line.encode() for line in _HELP]
