"""DEBUG: the part of it that cannot do harm, and only where the configuration allows it (enable-debug-command)."""

from __future__ import annotations

from math import isfinite
from typing import Final

from persistence.change import HASH
from protocol.replies import OK, BigNumber, Error, Map, Push, SetOf, Status, Verbatim
from server.commands.args import check_length, integer
from server.commands.command_docs import container_help
from server.commands.context import Context, Wait
from server.commands.hash_lifetimes import living
from server.commands.object_encoding import encoding_of
from server.commands.rdb_payload import payload_of
from server.commands.scores import score
from server.commands.spec import ADMIN, LOADING, NOSCRIPT, SECOND, STALE, command
from server.errors import NO_SUCH_KEY, CommandError, unknown_subcommand
from server.keyspace.globbing import Glob

_ADMIN: Final = ADMIN | NOSCRIPT | LOADING | STALE

_NOT_ALLOWED: Final = Error(
    "ERR DEBUG command not allowed. Set server.enable_debug_command = true in the configuration file, and then restart "
    "the server."
)
_BAD_FLAG: Final = Error("ERR the argument must be 0 or 1")
_BAD_TYPE: Final = Error(
    "ERR Wrong protocol type name. Please use one of the following: "
    "string|integer|double|null|array|set|map|push|verbatim|true|false|bignum"
)

# The one kind that RESP2 cannot stand in for.
_NO_PUSH: Final = Error("ERR RESP2 is not supported by this command")

# A reply of each kind that RESP3 knows, for clients under test.
_SAMPLES: Final[dict[bytes, object]] = {
    b"string": b"Hello World",
    b"integer": 12345,
    b"double": 3.141,
    b"null": None,
    b"array": [0, 1, 2],
    b"set": SetOf([0, 1, 2]),
    b"map": Map([(0, False), (1, True), (2, False)]),
    b"push": Push([b"server-cpu-usage", 42]),
    b"verbatim": Verbatim("This is a verbatim\nstring"),
    b"true": True,
    b"false": False,
    b"bignum": BigNumber(1234567999999999999999999999999999999),
}


def _check_allowed(ctx: Context) -> None:
    if not ctx.server.diagnostics.allows_debug:
        raise CommandError(_NOT_ALLOWED)


@command(
    "DEBUG",
    arity=-2,
    flags=_ADMIN,
    group="server",
    since="1.0.0",
    summary="Commands for debugging, where the configuration allows them.",
    complexity="Depends on the subcommand.",
)
def debug(ctx: Context, argv: list[bytes]) -> object:
    _check_allowed(ctx)
    return unknown_subcommand("debug", argv[1])


@command(
    "DEBUG SLEEP",
    arity=3,
    flags=_ADMIN,
    group="server",
    since="1.0.0",
    summary="Lets this client wait for some seconds; unlike in Redis, others are served meanwhile.",
    complexity="O(1)",
    syntax="seconds",
)
def debug_sleep(ctx: Context, argv: list[bytes]) -> object:
    _check_allowed(ctx)
    seconds = score(argv[2])
    if not isfinite(seconds):
        return Error("ERR value is not a valid float")
    return Wait(lambda: ctx.server.diagnostics.sleep(ctx, argv, max(0.0, seconds)))


@command(
    "DEBUG OBJECT",
    arity=3,
    flags=_ADMIN,
    keys=SECOND,
    group="server",
    since="1.0.0",
    summary="What is known of a key's entry: encoding, length of its payload, idle time.",
    complexity="O(N) with the size of the value",
    syntax="key",
)
def debug_object(ctx: Context, argv: list[bytes]) -> object:
    _check_allowed(ctx)
    db = ctx.db
    entry = db.peek(argv[2])
    if entry is None or (entry.kind == HASH and not living(ctx, entry)):
        return NO_SUCH_KEY
    # Without type, version and checksum.
    length = len(payload_of(entry.kind, entry.value)) - 11
    idle_ms = max(0, db.now_ms - entry.access_ms)
    encoding = encoding_of(entry.kind, entry.value).decode()
    return Status(
        f"Value at:{id(entry):#x} refcount:1 encoding:{encoding} serializedlength:{length} "
        f"lru:{entry.access_ms // 1000 & 0xFFFFFF} lru_seconds_idle:{idle_ms // 1000}"
    )


@command(
    "DEBUG SET-ACTIVE-EXPIRE",
    arity=3,
    flags=_ADMIN,
    group="server",
    since="2.8.0",
    summary="Switches the active removal of expired keys and fields off (0) or on (1); nobody sees them either way.",
    complexity="O(1)",
    syntax="flag",
)
def debug_set_active_expire(ctx: Context, argv: list[bytes]) -> object:
    _check_allowed(ctx)
    if argv[2] not in (b"0", b"1"):
        return _BAD_FLAG
    ctx.server.diagnostics.expire_actively(argv[2] == b"1")
    return OK


@command(
    "DEBUG STRINGMATCH-LEN",
    arity=4,
    flags=_ADMIN,
    group="server",
    since="6.2.0",
    summary="Does a pattern fit a text of so many letters a? Shows how long that takes.",
    complexity="O(N*M) with N letters and M characters of the pattern",
    syntax="length pattern",
)
def debug_stringmatch_len(ctx: Context, argv: list[bytes]) -> object:
    _check_allowed(ctx)
    length = max(0, integer(argv[2]))
    check_length(length)
    return 1 if Glob(argv[3]).matches(b"a" * length) else 0


@command(
    "DEBUG PROTOCOL",
    arity=3,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    summary="A reply of each kind that RESP3 knows, for clients under test.",
    complexity="O(1)",
    syntax="type",
)
def debug_protocol(ctx: Context, argv: list[bytes]) -> object:
    _check_allowed(ctx)
    kind = argv[2].lower()
    return _NO_PUSH if kind == b"push" and ctx.protocol < 3 else _SAMPLES.get(kind, _BAD_TYPE)


@command(
    "DEBUG ERROR",
    arity=3,
    flags=_ADMIN,
    group="server",
    since="2.8.0",
    summary="An error of the client's own words, for clients under test.",
    complexity="O(1)",
    syntax="message",
)
def debug_error(ctx: Context, argv: list[bytes]) -> object:
    _check_allowed(ctx)
    return Error(argv[2])


@command(
    "DEBUG HELP",
    arity=2,
    flags=LOADING | STALE,
    group="server",
    since="6.2.0",
    summary="Lists the subcommands.",
    complexity="O(1)",
)
def debug_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("debug")
