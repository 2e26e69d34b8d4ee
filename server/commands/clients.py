"""CLIENT: the connected clients, and what a connection says about itself.

The clients are known here only by the flat dicts of CLIENT LIST's fields that `ctx.server.clients` hands out, in the
order in which they are printed.
"""

from __future__ import annotations

from typing import Final

from protocol.replies import NO_REPLY, OK, Error, Verbatim
from server import errors
from server.commands.args import integer, parse_integer
from server.commands.command_docs import container_help
from server.commands.connection import NAME_REFUSED, is_printable, text
from server.commands.context import Context
from server.commands.spec import ADMIN, LOADING, NOSCRIPT, STALE, command
from server.errors import CommandError

OWN: Final = NOSCRIPT | LOADING | STALE
_ADMIN: Final = ADMIN | NOSCRIPT | LOADING | STALE

_PAUSE_HOW: Final = Error("ERR CLIENT PAUSE mode must be WRITE or ALL")
_TIMEOUT_NO_INTEGER: Final = Error("ERR timeout is not an integer or out of range")
_TIMEOUT_NEGATIVE: Final = Error("ERR timeout is negative")
_UNBLOCK_HOW: Final = Error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")

# The types that CLIENT LIST and KILL filter by, and the letter by which CLIENT LIST's `flags` show them.
_TYPES: Final = {b"normal": "", b"master": "M", b"replica": "S", b"slave": "S", b"pubsub": "P"}


def _line(fields: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _listing(clients: list[dict[str, str]]) -> Verbatim:
    lines = "".join(_line(fields) + "\n" for fields in clients)
    return Verbatim(lines.encode("utf-8", "surrogateescape"))


def _type_letter(argument: bytes) -> str:
    letter = _TYPES.get(argument.lower())
    if letter is None:
        raise CommandError(Error(f"ERR Unknown client type '{text(argument)}'"))
    return letter


def _is_of_type(fields: dict[str, str], letter: str) -> bool:
    flags = fields.get("flags", "")
    return letter in flags if letter else not any(other in flags for other in "MSP")


def _switch(argument: bytes) -> bool:
    # ON or OFF.
    word = argument.upper()
    if word not in (b"ON", b"OFF"):
        raise CommandError(errors.SYNTAX)
    return word == b"ON"


@command(
    "CLIENT",
    arity=-2,
    flags=0,
    group="connection",
    since="2.4.0",
    summary="Commands about clients.",
    complexity="Depends on the subcommand.",
)
def client(ctx: Context, argv: list[bytes]) -> object:
    return errors.unknown_subcommand("client", argv[1])


@command(
    "CLIENT ID",
    arity=2,
    flags=OWN,
    group="connection",
    since="5.0.0",
    summary="Tells the connection's number, which is never used again.",
    complexity="O(1)",
)
def client_id(ctx: Context, argv: list[bytes]) -> object:
    return ctx.client_id


@command(
    "CLIENT INFO",
    arity=2,
    flags=OWN,
    group="connection",
    since="6.2.0",
    summary="Describes this connection as CLIENT LIST would.",
    complexity="O(1)",
)
def client_info(ctx: Context, argv: list[bytes]) -> object:
    fields = ctx.server.clients.describe(ctx.client_id)
    return _listing([] if fields is None else [fields])


@command(
    "CLIENT LIST",
    arity=-2,
    flags=_ADMIN,
    group="connection",
    since="2.4.0",
    summary="Describes the connected clients, one line each.",
    complexity="O(N) where N is the number of clients",
    syntax="[TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]",
)
def client_list(ctx: Context, argv: list[bytes]) -> object:
    clients = ctx.server.clients
    if len(argv) == 2:
        return _listing(clients.describe_all())
    option = argv[2].upper()
    if option == b"TYPE" and len(argv) == 4:
        letter = _type_letter(argv[3])
        return _listing([fields for fields in clients.describe_all() if _is_of_type(fields, letter)])
    if option == b"ID" and len(argv) > 3:
        found: list[dict[str, str]] = []
        for argument in argv[3:]:
            number = parse_integer(argument)
            if number is None:
                return Error("ERR Invalid client ID")
            fields = clients.describe(number)
            if fields is not None:
                found.append(fields)
        return _listing(found)
    return errors.SYNTAX


class _Filter:
    """Whom CLIENT KILL means: a client must fit everything that was said."""

    __slots__ = ("addr", "client_id", "laddr", "max_age_s", "skip_me", "type_letter", "user")

    def __init__(self) -> None:
        self.client_id = 0
        self.type_letter: str | None = None
        self.user: str | None = None
        self.addr: str | None = None
        self.laddr: str | None = None
        # Only clients connected for at least so long.
        self.max_age_s = 0
        self.skip_me = True

    def parse(self, ctx: Context, options: list[bytes]) -> None:
        """Read `option value` pairs."""
        if len(options) % 2:
            raise CommandError(errors.SYNTAX)
        for at in range(0, len(options), 2):
            self._take(ctx, options[at].upper(), options[at + 1])

    def _take(self, ctx: Context, option: bytes, value: bytes) -> None:
        if option == b"ID":
            self.client_id = _positive(
                value, "client-id should be greater than 0", "client-id should be greater than 0"
            )
        elif option == b"MAXAGE":
            self.max_age_s = _positive(
                value, "maxage is not an integer or out of range", "maxage should be greater than 0"
            )
        elif option == b"TYPE":
            self.type_letter = _type_letter(value)
        elif option == b"USER":
            self.user = text(value)
            if value not in ctx.server.acl.names():
                raise CommandError(Error(f"ERR No such user '{self.user}'"))
        elif option == b"ADDR":
            self.addr = text(value)
        elif option == b"LADDR":
            self.laddr = text(value)
        elif option == b"SKIPME" and value.upper() in (b"YES", b"NO"):
            self.skip_me = value.upper() == b"YES"
        else:
            raise CommandError(errors.SYNTAX)

    def fits(self, fields: dict[str, str]) -> bool:
        """Is this client meant?"""
        return (
            (self.client_id == 0 or int(fields["id"]) == self.client_id)
            and (self.addr is None or fields["addr"] == self.addr)
            and (self.laddr is None or fields["laddr"] == self.laddr)
            and (self.user is None or fields["user"] == self.user)
            and (self.type_letter is None or _is_of_type(fields, self.type_letter))
            and int(fields["age"]) >= self.max_age_s
        )


def _positive(argument: bytes, no_integer: str, too_small: str) -> int:
    number = parse_integer(argument)
    if number is None:
        raise CommandError(Error(f"ERR {no_integer}"))
    if number <= 0:
        raise CommandError(Error(f"ERR {too_small}"))
    return number


@command(
    "CLIENT KILL",
    arity=-3,
    flags=_ADMIN,
    group="connection",
    since="2.4.0",
    summary="Closes the connections that fit, and counts them; the old form closes the one at an address.",
    complexity="O(N) where N is the number of clients",
    syntax="<ip:port | <[ID client-id] | [TYPE <NORMAL | MASTER | SLAVE | REPLICA | PUBSUB>] | [USER username] | "
    "[ADDR ip:port] | [LADDR ip:port] | [SKIPME <YES | NO>] | [MAXAGE maxage]> ...>",
)
def client_kill(ctx: Context, argv: list[bytes]) -> object:
    wanted = _Filter()
    if len(argv) == 3:
        wanted.addr = text(argv[2])
        wanted.skip_me = False
    else:
        wanted.parse(ctx, argv[2:])
    killed = 0
    for fields in ctx.server.clients.describe_all():
        number = int(fields["id"])
        if not wanted.fits(fields) or (wanted.skip_me and number == ctx.client_id):
            continue
        if number == ctx.client_id:
            ctx.close_after_reply = True
            killed += 1
        elif ctx.server.clients.kill(number):
            killed += 1
    if len(argv) == 3:
        return OK if killed else Error("ERR No such client")
    return killed


@command(
    "CLIENT UNBLOCK",
    arity=-3,
    flags=_ADMIN,
    group="connection",
    since="5.0.0",
    summary="Ends a client's wait for a key as its timeout would, or with an error; 1 when it waited.",
    complexity="O(N) with N keys that it waits for",
    syntax="client-id [TIMEOUT | ERROR]",
)
def client_unblock(ctx: Context, argv: list[bytes]) -> object:
    with_error = False
    if len(argv) > 3:
        how = argv[3].upper()
        if len(argv) > 4:
            return errors.wrong_words(argv)
        if how not in (b"TIMEOUT", b"ERROR"):
            return _UNBLOCK_HOW
        with_error = how == b"ERROR"
    return int(ctx.server.clients.unblock(integer(argv[2]), with_error))


@command(
    "CLIENT PAUSE",
    arity=-3,
    flags=_ADMIN,
    group="connection",
    since="3.0.0",
    summary="Lets the commands of all clients wait for some milliseconds: all of them, or those that may write.",
    complexity="O(1)",
    syntax="timeout [WRITE | ALL]",
)
def client_pause(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 4:
        return errors.wrong_arity("client|pause")
    how = argv[3].upper() if len(argv) == 4 else b"ALL"
    if how not in (b"WRITE", b"ALL"):
        return _PAUSE_HOW
    timeout_ms = parse_integer(argv[2])
    if timeout_ms is None:
        return _TIMEOUT_NO_INTEGER
    if timeout_ms < 0:
        return _TIMEOUT_NEGATIVE
    ctx.server.clients.pause(timeout_ms, how == b"WRITE")
    return OK


@command(
    "CLIENT UNPAUSE",
    arity=2,
    flags=_ADMIN,
    group="connection",
    since="6.2.0",
    summary="Ends the pause.",
    complexity="O(N) where N is the number of clients that wait for it",
)
def client_unpause(ctx: Context, argv: list[bytes]) -> object:
    ctx.server.clients.unpause()
    return OK


@command(
    "CLIENT SETNAME",
    arity=3,
    flags=OWN,
    group="connection",
    since="2.6.9",
    summary="Names the connection; an empty name takes the name away.",
    complexity="O(1)",
    syntax="connection-name",
)
def client_setname(ctx: Context, argv: list[bytes]) -> object:
    if not is_printable(argv[2]):
        return NAME_REFUSED
    ctx.name = argv[2]
    return OK


@command(
    "CLIENT GETNAME",
    arity=2,
    flags=OWN,
    group="connection",
    since="2.6.9",
    summary="Tells the connection's name.",
    complexity="O(1)",
)
def client_getname(ctx: Context, argv: list[bytes]) -> object:
    return ctx.name or None


@command(
    "CLIENT SETINFO",
    arity=4,
    flags=OWN,
    group="connection",
    since="7.2.0",
    summary="Notes which client library speaks, for CLIENT LIST.",
    complexity="O(1)",
    syntax="<LIB-NAME libname | LIB-VER libver>",
)
def client_setinfo(ctx: Context, argv: list[bytes]) -> object:
    attribute = argv[2].upper()
    if attribute not in (b"LIB-NAME", b"LIB-VER"):
        return Error(f"ERR Unrecognized option '{text(argv[2])}'")
    if not is_printable(argv[3]):
        return Error(f"ERR {text(argv[2])} cannot contain spaces, newlines or special characters.")
    if attribute == b"LIB-NAME":
        ctx.lib_name = argv[3]
    else:
        ctx.lib_ver = argv[3]
    return OK


@command(
    "CLIENT REPLY",
    arity=3,
    flags=OWN,
    group="connection",
    since="3.2.0",
    summary="Turns replies on or off, or leaves out the next one.",
    complexity="O(1)",
    syntax="<ON | OFF | SKIP>",
)
def client_reply(ctx: Context, argv: list[bytes]) -> object:
    word = argv[2].upper()
    if word == b"ON":
        ctx.asking_reply = "on"
        return OK
    if word == b"OFF":
        ctx.asking_reply = "off"
    elif word != b"SKIP":
        return errors.SYNTAX
    elif ctx.asking_reply != "off":
        ctx.asking_reply = "skip"
    return NO_REPLY


@command(
    "CLIENT NO-EVICT",
    arity=3,
    flags=_ADMIN,
    group="connection",
    since="7.0.0",
    summary="Spares the connection when clients are closed for want of memory.",
    complexity="O(1)",
    syntax="<ON | OFF>",
)
def client_no_evict(ctx: Context, argv: list[bytes]) -> object:
    ctx.no_evict = _switch(argv[2])
    return OK


@command(
    "CLIENT NO-TOUCH",
    arity=3,
    flags=OWN,
    group="connection",
    since="7.2.0",
    summary="Lets the connection's commands leave no trace in the recency and frequency of keys.",
    complexity="O(1)",
    syntax="<ON | OFF>",
)
def client_no_touch(ctx: Context, argv: list[bytes]) -> object:
    ctx.no_touch = _switch(argv[2])
    return OK


@command(
    "CLIENT HELP",
    arity=2,
    flags=LOADING | STALE,
    group="connection",
    since="5.0.0",
    summary="Explains the subcommands.",
    complexity="O(1)",
)
def client_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("client")
