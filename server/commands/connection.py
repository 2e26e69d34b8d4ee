"""Commands about the connection itself: HELLO, AUTH, PING, ECHO, SELECT, QUIT, RESET."""

from __future__ import annotations

from typing import Final

from protocol.replies import OK, PONG, Error, Map, Status
from server import errors
from server.commands.args import integer_between, parse_integer
from server.commands.context import Context
from server.commands.spec import FAST, IMMEDIATE, LOADING, NO_AUTH, NOSCRIPT, STALE, command

# The Redis version whose behaviour Forebay follows. Clients switch features by it, so it is not Forebay's own.
REDIS_VERSION: Final = b"7.4.0"
# SELECT reads a C int, and says so.
_INT_MAX: Final = 2**31 - 1

NAME_REFUSED: Final = Error("ERR Client names cannot contain spaces, newlines or special characters.")
_HELLO_NEEDS_AUTH: Final = Error(
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> "
    "option can be used to authenticate the client and select the RESP protocol version at the same time"
)


def is_printable(value: bytes) -> bool:
    """May this be a client's name or attribute: visible ASCII only? CLIENT LIST separates its fields by spaces."""
    return all(0x21 <= byte <= 0x7E for byte in value)


def text(argument: bytes) -> str:
    """An argument as a string; bytes that are not UTF-8 find their way back when a reply is made of it."""
    return argument.decode("utf-8", "surrogateescape")


def _log_in(ctx: Context, word: bytes, user: bytes, password: bytes) -> bool:
    if not ctx.server.check_password(user, password):
        ctx.server.acl.note_failed_login(ctx, word, user)
        return False
    ctx.authenticated = True
    ctx.user = user
    return True


@command(
    "HELLO",
    arity=-1,
    flags=FAST | NOSCRIPT | LOADING | STALE | NO_AUTH,
    group="connection",
    since="6.0.0",
    summary="Chooses the protocol version, optionally logs in and names the connection, and describes the server.",
    complexity="O(1)",
    syntax="[protover [AUTH username password] [SETNAME clientname]]",
)
def hello(ctx: Context, argv: list[bytes]) -> object:
    version = 0
    if len(argv) > 1:
        asked = parse_integer(argv[1])
        if asked is None:
            return Error("ERR Protocol version is not an integer or out of range")
        if asked not in (2, 3):
            return errors.NO_PROTO
        version = asked

    login: list[bytes] = []
    name: bytes | None = None
    at = 2
    while at < len(argv):
        option = argv[at].upper()
        if option == b"AUTH" and at + 2 < len(argv):
            login = argv[at + 1 : at + 3]
            at += 3
        elif option == b"SETNAME" and at + 1 < len(argv):
            name = argv[at + 1]
            if not is_printable(name):
                return NAME_REFUSED
            at += 2
        else:
            return Error(f"ERR Syntax error in HELLO option '{text(argv[at])}'")

    if login and not _log_in(ctx, b"HELLO", login[0], login[1]):
        return errors.WRONG_PASS
    if not ctx.authenticated and ctx.server.password_is_set():
        return _HELLO_NEEDS_AUTH
    # Only now: a refused HELLO changes nothing.
    if name is not None:
        ctx.name = name
    if version:
        ctx.protocol = version
    return Map(
        [
            (b"server", b"redis"),
            (b"version", REDIS_VERSION),
            (b"proto", ctx.protocol),
            (b"id", ctx.client_id),
            (b"mode", b"standalone"),
            (b"role", b"master"),
            (b"modules", []),
        ]
    )


@command(
    "AUTH",
    arity=-2,
    flags=FAST | NOSCRIPT | LOADING | STALE | NO_AUTH,
    group="connection",
    since="1.0.0",
    summary="Logs the connection in.",
    complexity="O(1)",
    syntax="[username] password",
)
def auth(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 3:
        return errors.SYNTAX
    if len(argv) == 2:
        if not ctx.server.password_is_set():
            return errors.NO_PASSWORD_SET
        accepted = _log_in(ctx, b"AUTH", b"default", argv[1])
    else:
        accepted = _log_in(ctx, b"AUTH", argv[1], argv[2])
    return OK if accepted else errors.WRONG_PASS


@command(
    "PING",
    arity=-1,
    flags=FAST,
    group="connection",
    since="1.0.0",
    summary="Answers PONG, or with the message, to show that the server is alive.",
    complexity="O(1)",
    syntax="[message]",
)
def ping(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 2:
        return errors.wrong_arity("ping")
    message = argv[1] if len(argv) == 2 else b""
    if ctx.protocol == 2 and ctx.is_subscribed():
        # A RESP2 subscriber can tell replies from messages only if they look like messages.
        return [b"pong", message]
    return message if len(argv) == 2 else PONG


@command(
    "ECHO",
    arity=2,
    flags=FAST | LOADING | STALE,
    group="connection",
    since="1.0.0",
    summary="Answers with the message.",
    complexity="O(1)",
    syntax="message",
)
def echo(ctx: Context, argv: list[bytes]) -> object:
    return argv[1]


@command(
    "SELECT",
    arity=2,
    flags=FAST | LOADING | STALE,
    group="connection",
    since="1.0.0",
    summary="Changes the connection's database.",
    complexity="O(1)",
    syntax="index",
)
def select(ctx: Context, argv: list[bytes]) -> object:
    index = integer_between(argv[1], -_INT_MAX - 1, _INT_MAX)
    if not 0 <= index < ctx.server.keyspace.size:
        return errors.INDEX_OUT_OF_RANGE
    ctx.select(index)
    return OK


@command(
    "QUIT",
    arity=-1,
    flags=FAST | NOSCRIPT | LOADING | STALE | NO_AUTH | IMMEDIATE,
    group="connection",
    since="1.0.0",
    summary="Closes the connection once its replies are written.",
    complexity="O(1)",
)
def quit_(ctx: Context, argv: list[bytes]) -> object:
    ctx.close_after_reply = True
    return OK


@command(
    "RESET",
    arity=1,
    flags=FAST | NOSCRIPT | LOADING | STALE | NO_AUTH | IMMEDIATE,
    group="connection",
    since="6.2.0",
    summary="Brings the connection back to the state of a new one.",
    complexity="O(1)",
)
def reset(ctx: Context, argv: list[bytes]) -> object:
    ctx.reset()
    return Status("RESET")
