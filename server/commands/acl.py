"""ACL: the users, and what each may do. What their rules mean is in server/acl_rules.py."""

from __future__ import annotations

from typing import Final

from protocol.replies import OK, Error, Map
from server import errors
from server.commands.args import INT64_MAX, integer, parse_integer
from server.commands.command_docs import CATEGORIES, categories, container_help
from server.commands.connection import text
from server.commands.context import Context, Wait
from server.commands.spec import ADMIN, COMMANDS, LOADING, NOSCRIPT, STALE, command

_ADMIN: Final = ADMIN | NOSCRIPT | LOADING | STALE
_OWN: Final = NOSCRIPT | LOADING | STALE
_BAD_BITS: Final = Error(
    "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096"
)
_PASSWORD_BITS: Final = 256
_MOST_BITS: Final = 4096
# Entries that ACL LOG shows unless told otherwise.
_SHOWN: Final = 10


@command(
    "ACL",
    arity=-2,
    flags=0,
    group="server",
    since="6.0.0",
    summary="Commands about users and what they may do.",
    complexity="Depends on the subcommand.",
)
def acl(ctx: Context, argv: list[bytes]) -> object:
    return errors.unknown_subcommand("acl", argv[1])


@command(
    "ACL SETUSER",
    arity=-3,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    summary="Makes a user or changes one: all of the rules take effect at once, or none. A new user is off and may do "
    "nothing.",
    complexity="O(N) where N is the number of rules",
    syntax="username [rule [rule ...]]",
)
def acl_setuser(ctx: Context, argv: list[bytes]) -> object:
    ctx.server.acl.set_user(ctx, argv[2], argv[3:])
    return OK


@command(
    "ACL GETUSER",
    arity=3,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    summary="Tells a user's flags, hashes of passwords and rules.",
    complexity="O(N) where N is the number of rules",
    syntax="username",
)
def acl_getuser(ctx: Context, argv: list[bytes]) -> object:
    described = ctx.server.acl.describe(argv[2])
    return None if described is None else Map(described)


@command(
    "ACL DELUSER",
    arity=-3,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    summary="Removes users and closes their connections; how many users there were.",
    complexity="O(N) where N is the number of connections",
    syntax="username [username ...]",
)
def acl_deluser(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.acl.remove_users(ctx, argv[2:])


@command(
    "ACL LIST",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    summary="Tells all users, each as a line of the ACL file.",
    complexity="O(N) where N is the number of users",
)
def acl_list(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.acl.lines()


@command(
    "ACL USERS",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    summary="Tells the names of all users.",
    complexity="O(N) where N is the number of users",
)
def acl_users(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.acl.names()


@command(
    "ACL WHOAMI",
    arity=2,
    flags=_OWN,
    group="server",
    since="6.0.0",
    summary="Tells as whom the connection is logged in.",
    complexity="O(1)",
)
def acl_whoami(ctx: Context, argv: list[bytes]) -> object:
    return ctx.user


@command(
    "ACL CAT",
    arity=-2,
    flags=_OWN,
    group="server",
    since="6.0.0",
    summary="Lists the categories of commands, or the commands of one.",
    complexity="O(N) where N is the number of commands",
    syntax="[category]",
)
def acl_cat(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 3:
        return errors.wrong_words(argv)
    if len(argv) == 2:
        return [name.encode() for name in CATEGORIES]
    name = text(argv[2])
    if name.lower() not in CATEGORIES:
        return Error(f"ERR Unknown category '{name}'")
    category = "@" + name.lower()
    rows = [each for spec in COMMANDS.values() for each in (spec, *spec.subcommands.values())]
    return [row.name.encode() for row in rows if category in categories(row)]


@command(
    "ACL GENPASS",
    arity=-2,
    flags=_OWN,
    group="server",
    since="6.0.0",
    summary="Makes a password that nobody can guess: 256 random bits in hexadecimal digits, or as many as asked for.",
    complexity="O(1)",
    syntax="[bits]",
)
def acl_genpass(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 3:
        return errors.wrong_words(argv)
    bits = _PASSWORD_BITS
    if len(argv) == 3:
        bits = integer(argv[2])
        if not 0 < bits <= _MOST_BITS:
            return _BAD_BITS
    digits = (bits + 3) // 4
    return ctx.server.acl.random_bytes((digits + 1) // 2).hex()[:digits].encode()


@command(
    "ACL LOG",
    arity=-2,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    summary="The newest refusals: of commands, keys, channels and passwords. RESET forgets them.",
    complexity="O(N) with N entries shown",
    syntax="[count | RESET]",
)
def acl_log(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 3:
        return errors.wrong_words(argv)
    count = _SHOWN
    if len(argv) == 3:
        if argv[2].upper() == b"RESET":
            ctx.server.acl.forget_log()
            return OK
        given = parse_integer(argv[2])
        if given is None:
            return errors.NOT_INTEGER
        count = min(max(0, given), INT64_MAX >> 1)
    now_ms = ctx.server.unix_time_us() // 1000
    return [Map(fields) for fields in ctx.server.acl.entries(count, now_ms)]


@command(
    "ACL DRYRUN",
    arity=-4,
    flags=_ADMIN,
    group="server",
    since="7.0.0",
    summary="Tells whether a user may run a command, without running it.",
    complexity="O(N) where N is the number of the user's rules",
    syntax="username command [arg [arg ...]]",
)
def acl_dryrun(ctx: Context, argv: list[bytes]) -> object:
    refused = ctx.server.acl.dry_run(argv[2], argv[3:])
    return OK if refused is None else refused.encode("utf-8", "surrogateescape")


@command(
    "ACL LOAD",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    summary="Reads the ACL file again: its users take the place of all there are, or nothing changes.",
    complexity="O(N) where N is the number of users",
)
def acl_load(ctx: Context, argv: list[bytes]) -> object:
    return Wait(lambda: ctx.server.acl.load(ctx))


@command(
    "ACL SAVE",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    summary="Writes all users into the ACL file.",
    complexity="O(N) where N is the number of users",
)
def acl_save(ctx: Context, argv: list[bytes]) -> object:
    return Wait(ctx.server.acl.save)


@command(
    "ACL HELP",
    arity=2,
    flags=LOADING | STALE,
    group="server",
    since="6.0.0",
    summary="Explains the subcommands.",
    complexity="O(1)",
)
def acl_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("acl")
