"""Commands about the server as a whole: INFO, CONFIG, TIME, the size and emptying of databases, SHUTDOWN, LOLWUT."""

from __future__ import annotations

from typing import Final

from protocol.replies import NO_REPLY, OK, Error, Map, Verbatim
from server import errors
from server.commands.args import integer, parse_integer
from server.commands.command_docs import container_help
from server.commands.connection import text
from server.commands.context import Context, Wait
from server.commands.spec import ADMIN, FAST, KEYSPACE, LOADING, NO_MULTI, NOSCRIPT, READ, STALE, WRITE, command
from server.keyspace.globbing import Glob

_ADMIN: Final = ADMIN | NOSCRIPT | LOADING | STALE

# Shown by CONFIG GET as set or unset only.
_SECRETS: Final = frozenset(("requirepass", "masterauth", "tls-key-file-pass", "tls-client-key-file-pass"))
_CONCEALED: Final = b"***"

_SWAP_WITH_RULES: Final = Error(
    "ERR database 0 cannot be swapped: prefix rules act in it, and its keys would be served without them"
)

_LOLWUT: Final = """\
        .  '  .
      '    |    '            rain
    .   '  |  '   .
   ~~~~~~~~~~~~~~~~~~~~\\
   ~  ~   forebay   ~   |    still water, kept ready
    ~~   ~    ~~   ~    |
    ~  ~~   ~    ~~  ~  |=========\\
   ______________________|         \\\\
                                    \\\\   (+)
                                     \\\\__/   the database turns no faster
"""


@command(
    "INFO",
    arity=-1,
    flags=LOADING | STALE,
    group="server",
    since="1.0.0",
    summary="Reports the server's state and counters, all sections or some.",
    complexity="O(1)",
    syntax="[section [section ...]]",
)
def info(ctx: Context, argv: list[bytes]) -> object:
    sections: list[str] = []
    for argument in argv[1:]:
        section = text(argument).lower()
        if section not in sections:
            sections.append(section)
    return Verbatim(ctx.server.info(sections or ["default"]).encode("utf-8", "surrogateescape"))


# -- CONFIG -----------------------------------------------------------------------------------------------------------


@command(
    "CONFIG",
    arity=-2,
    flags=0,
    group="server",
    since="2.0.0",
    summary="Commands about the settings.",
    complexity="Depends on the subcommand.",
)
def config(ctx: Context, argv: list[bytes]) -> object:
    return errors.unknown_subcommand("config", argv[1])


@command(
    "CONFIG GET",
    arity=-3,
    flags=_ADMIN,
    group="server",
    since="2.0.0",
    summary="Tells the settings whose names fit one of the patterns.",
    complexity="O(N) where N is the number of settings times that of patterns",
    syntax="parameter [parameter ...]",
)
def config_get(ctx: Context, argv: list[bytes]) -> object:
    settings = ctx.server.settings
    patterns = [Glob(argument.lower()) for argument in argv[2:]]
    pairs: list[tuple[object, object]] = []
    for name in settings.names():
        encoded = name.encode()
        if any(pattern.matches(encoded) for pattern in patterns):
            value = settings.get(name).encode("utf-8", "surrogateescape")
            pairs.append((encoded, _CONCEALED if value and name in _SECRETS else value))
    return Map(pairs)


@command(
    "CONFIG SET",
    arity=-4,
    flags=_ADMIN,
    group="server",
    since="2.0.0",
    summary="Changes settings while the server runs: all of those named, or none.",
    complexity="O(N) where N is the number of settings given",
    syntax="parameter value [parameter value ...]",
)
def config_set(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) % 2:
        return errors.SYNTAX
    settings = ctx.server.settings
    known = settings.names()
    values: dict[str, str] = {}
    for at in range(2, len(argv), 2):
        name = text(argv[at]).lower()
        if name not in known:
            return Error(f"ERR Unknown option or number of arguments for CONFIG SET - '{text(argv[at])}'")
        if name in values:
            return Error(f"ERR CONFIG SET failed (possibly related to argument '{name}') - duplicate parameter")
        values[name] = text(argv[at + 1])
    try:
        settings.set_many(values)
    except ValueError as refusal:
        message = str(refusal)
        return Error(message if message.startswith("ERR ") else f"ERR {message}")
    return OK


@command(
    "CONFIG RESETSTAT",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.0.0",
    summary="Sets INFO's counters back to zero.",
    complexity="O(1)",
)
def config_resetstat(ctx: Context, argv: list[bytes]) -> object:
    ctx.server.reset_stats()
    return OK


@command(
    "CONFIG REWRITE",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.8.0",
    summary="Writes what CONFIG SET has changed into the configuration file, and leaves the rest of it as it is.",
    complexity="O(N) in the length of the file",
)
def config_rewrite(ctx: Context, argv: list[bytes]) -> object:
    return Wait(ctx.server.settings.rewrite)


@command(
    "CONFIG HELP",
    arity=2,
    flags=LOADING | STALE,
    group="server",
    since="5.0.0",
    summary="Explains the subcommands.",
    complexity="O(1)",
)
def config_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("config")


# -- time and databases -----------------------------------------------------------------------------------------------


@command(
    "TIME",
    arity=1,
    flags=FAST | LOADING | STALE,
    group="server",
    since="2.6.0",
    summary="Tells the server's time: Unix seconds, and the microseconds of the current one.",
    complexity="O(1)",
)
def time(ctx: Context, argv: list[bytes]) -> object:
    seconds, microseconds = divmod(ctx.server.unix_time_us(), 1_000_000)
    return [str(seconds).encode(), str(microseconds).encode()]


@command(
    "DBSIZE",
    arity=1,
    flags=READ | FAST,
    group="server",
    since="1.0.0",
    summary="Counts the keys of the database that are in memory.",
    complexity="O(1)",
)
def dbsize(ctx: Context, argv: list[bytes]) -> object:
    return len(ctx.db)


def _is_flush_syntax(argv: list[bytes]) -> bool:
    # ASYNC and SYNC are accepted and mean the same: the keys are gone at once, and freed by and by.
    return len(argv) == 1 or (len(argv) == 2 and argv[1].upper() in (b"ASYNC", b"SYNC"))


@command(
    "FLUSHALL",
    arity=-1,
    flags=WRITE | KEYSPACE,
    group="server",
    since="1.0.0",
    summary="Empties memory, all databases. The rows behind it stay; refused while unsaved changes exist.",
    complexity="O(N) where N is the number of keys",
    syntax="[ASYNC | SYNC]",
)
def flushall(ctx: Context, argv: list[bytes]) -> object:
    if not _is_flush_syntax(argv):
        return errors.SYNTAX
    if ctx.server.cache.dirty() > 0:
        return errors.DIRTY
    for database in ctx.server.keyspace.opened:
        database.clear()
    ctx.server.cache.forget_all()
    return OK


@command(
    "FLUSHDB",
    arity=-1,
    flags=WRITE | KEYSPACE,
    group="server",
    since="1.0.0",
    summary="Empties memory, the current database only. The rows behind it stay; refused while unsaved changes exist.",
    complexity="O(N) where N is the number of keys",
    syntax="[ASYNC | SYNC]",
)
def flushdb(ctx: Context, argv: list[bytes]) -> object:
    if not _is_flush_syntax(argv):
        return errors.SYNTAX
    # Rules act in database 0; the others have no rows behind them.
    has_rules = ctx.db.index == 0
    if has_rules and ctx.server.cache.dirty() > 0:
        return errors.DIRTY
    ctx.db.clear()
    if has_rules:
        ctx.server.cache.forget_all()
    return OK


@command(
    "SWAPDB",
    arity=3,
    flags=WRITE | FAST | KEYSPACE,
    group="server",
    since="4.0.0",
    summary="Exchanges the contents of two databases.",
    complexity="O(N) where N is the number of watched keys",
    syntax="index1 index2",
)
def swapdb(ctx: Context, argv: list[bytes]) -> object:
    first = parse_integer(argv[1])
    if first is None:
        return Error("ERR invalid first DB index")
    second = parse_integer(argv[2])
    if second is None:
        return Error("ERR invalid second DB index")
    keyspace = ctx.server.keyspace
    if not 0 <= first < keyspace.size or not 0 <= second < keyspace.size:
        return errors.INDEX_OUT_OF_RANGE
    if first == second:
        return OK
    # A row's copy would turn into a plain key elsewhere, and another database's plain key would hide a row.
    if (first == 0 or second == 0) and ctx.server.cache.rules():
        return _SWAP_WITH_RULES
    keyspace.swap(first, second)
    return OK


# -- the end ----------------------------------------------------------------------------------------------------------


@command(
    "SHUTDOWN",
    arity=-1,
    flags=_ADMIN | NO_MULTI,
    group="server",
    since="1.0.0",
    summary="Saves what is unsaved and stops the server.",
    complexity="O(N) where N is the number of unsaved changes",
    syntax="[NOSAVE | SAVE] [NOW] [FORCE] [ABORT]",
)
def shutdown(ctx: Context, argv: list[bytes]) -> object:
    options = {argument.upper() for argument in argv[1:]}
    if options - {b"NOSAVE", b"SAVE", b"NOW", b"FORCE", b"ABORT"}:
        return errors.SYNTAX
    if (b"ABORT" in options and len(options) > 1) or (b"SAVE" in options and b"NOSAVE" in options):
        return errors.SYNTAX
    if b"ABORT" in options:
        # A shutdown stops taking commands at once, so whoever can ask is in time for none.
        return Error("ERR No shutdown in progress.")
    save: bool | None = None
    if b"SAVE" in options or b"NOSAVE" in options:
        save = b"SAVE" in options
    # NOW spares Redis the wait for its replicas; there are none.
    ctx.server.shutdown(save, b"FORCE" in options)
    return NO_REPLY


@command(
    "LOLWUT",
    arity=-1,
    flags=READ | FAST,
    group="server",
    since="5.0.0",
    summary="Draws something, and tells the version.",
    complexity="O(1)",
    syntax="[VERSION version]",
)
def lolwut(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 2 and argv[1].upper() == b"VERSION":
        integer(argv[2])
    return Verbatim(f"{_LOLWUT}\nForebay ver. {_version(ctx)}\n")


def _version(ctx: Context) -> str:
    # INFO is the one place that states it.
    for line in ctx.server.info(["server"]).splitlines():
        name, _, value = line.partition(":")
        if name == "forebay_version":
            return value
    return "unknown"
