"""COMMAND and its subcommands: the command table, as clients read it.

redis-cli draws its help and hints from COMMAND DOCS and stops with a failed assertion when a flag is not a simple
string or a name not a bulk string; cluster clients route by COMMAND INFO and COMMAND GETKEYS.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.replies import Error, Map, SetOf, Status
from server import errors
from server.commands.context import Context
from server.commands.spec import (
    ADMIN,
    BLOCKING,
    COMMANDS,
    DELETES,
    FAST,
    FLAG_NAMES,
    LOADING,
    PUBSUB,
    READ,
    STALE,
    WRITE,
    CommandSpec,
    command,
)
from server.commands.syntax import Argument, parse
from server.errors import CommandError
from server.keyspace.globbing import Glob

# The order in which Redis lists ACL categories; ours comes last.
CATEGORIES: Final = (
    "keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog", "geo", "stream",
    "pubsub", "admin", "fast", "slow", "blocking", "dangerous", "connection", "transaction", "scripting", "cache",
)  # fmt: skip
# What a group's name is among the categories; `server` and `cluster` have none, `pubsub` comes from the flag.
_GROUP_CATEGORIES: Final = {
    "bitmap": "bitmap",
    "cache": "cache",
    "connection": "connection",
    "generic": "keyspace",
    "geo": "geo",
    "hash": "hash",
    "hyperloglog": "hyperloglog",
    "list": "list",
    "scripting": "scripting",
    "set": "set",
    "sorted-set": "sortedset",
    "stream": "stream",
    "string": "string",
    "transactions": "transaction",
}
# What neither flags nor group tell. A subcommand without a line of its own inherits its container's.
_FURTHER_CATEGORIES: Final = {
    "command": ("connection",),
    "dbsize": ("keyspace",),
    "flushall": ("keyspace", "dangerous"),
    "flushdb": ("keyspace", "dangerous"),
    "info": ("dangerous",),
    "keys": ("dangerous",),
    "lastsave": ("admin", "dangerous"),
    "migrate": ("dangerous",),
    "readonly": ("connection",),
    "readwrite": ("connection",),
    "restore": ("dangerous",),
    "role": ("admin", "dangerous"),
    "sort": ("set", "sortedset", "list", "dangerous"),
    "sort_ro": ("set", "sortedset", "list", "dangerous"),
    "swapdb": ("keyspace", "dangerous"),
    "wait": ("connection",),
}
# Commands that have categories of their own instead of their group's.
_NO_GROUP_CATEGORY: Final = frozenset(("sort", "sort_ro", "wait"))

# Hints for clients and proxies that spread commands over several nodes; they say nothing that the server itself uses.
_TIPS: Final = {
    "client|info": ("nondeterministic_output",),
    "client|list": ("nondeterministic_output",),
    "command": ("nondeterministic_output_order",),
    "command|docs": ("nondeterministic_output_order",),
    "command|info": ("nondeterministic_output_order",),
    "command|list": ("nondeterministic_output_order",),
    "config|set": ("request_policy:all_nodes", "response_policy:all_succeeded"),
    "dbsize": ("request_policy:all_shards", "response_policy:agg_sum"),
    "del": ("request_policy:multi_shard", "response_policy:agg_sum"),
    "dump": ("nondeterministic_output",),
    "exists": ("request_policy:multi_shard", "response_policy:agg_sum"),
    "flushall": ("request_policy:all_shards", "response_policy:all_succeeded"),
    "flushdb": ("request_policy:all_shards", "response_policy:all_succeeded"),
    "hgetall": ("nondeterministic_output_order",),
    "hkeys": ("nondeterministic_output_order",),
    "hrandfield": ("nondeterministic_output",),
    "hscan": ("nondeterministic_output",),
    "hvals": ("nondeterministic_output_order",),
    "info": ("nondeterministic_output", "request_policy:all_shards", "response_policy:special"),
    "keys": ("request_policy:all_shards", "nondeterministic_output_order"),
    "mget": ("request_policy:multi_shard",),
    "mset": ("request_policy:multi_shard", "response_policy:all_succeeded"),
    "msetnx": ("request_policy:multi_shard", "response_policy:agg_min"),
    "object|encoding": ("nondeterministic_output",),
    "object|freq": ("nondeterministic_output",),
    "object|idletime": ("nondeterministic_output",),
    "object|refcount": ("nondeterministic_output",),
    "ping": ("request_policy:all_shards", "response_policy:all_succeeded"),
    "pttl": ("nondeterministic_output",),
    "randomkey": ("request_policy:all_shards", "nondeterministic_output"),
    "scan": ("nondeterministic_output", "request_policy:special"),
    "sdiff": ("nondeterministic_output_order",),
    "sinter": ("nondeterministic_output_order",),
    "smembers": ("nondeterministic_output_order",),
    "spop": ("nondeterministic_output",),
    "srandmember": ("nondeterministic_output",),
    "sscan": ("nondeterministic_output",),
    "sunion": ("nondeterministic_output_order",),
    "time": ("nondeterministic_output",),
    "touch": ("request_policy:multi_shard", "response_policy:agg_sum"),
    "ttl": ("nondeterministic_output",),
    "unlink": ("request_policy:multi_shard", "response_policy:agg_sum"),
    "zrandmember": ("nondeterministic_output",),
    "zscan": ("nondeterministic_output",),
}

# The parsed syntax lines, filled as they are asked for: specs do not change after start.
_ARGUMENTS: Final[dict[str, list[object]]] = {}
# What COMMAND tells of each, filled likewise: all of them take 10 ms, and some clients ask with every connection.
_INFOS: Final[dict[str, list[object]]] = {}


# -- what others read from a row of the table -------------------------------------------------------------------------


def categories(spec: CommandSpec) -> list[str]:
    """The ACL categories of a command, with their `@`, in Redis's order."""
    if spec.subcommands and not spec.flags:
        # A container does nothing itself.
        return ["@slow"]
    found: set[str] = {"fast" if spec.flags & FAST else "slow"}
    if spec.flags & READ and spec.group != "scripting":
        found.add("read")
    if spec.flags & WRITE:
        found.add("write")
    if spec.flags & ADMIN:
        found.update(("admin", "dangerous"))
    if spec.flags & PUBSUB:
        found.add("pubsub")
    if spec.flags & BLOCKING:
        found.add("blocking")
    if spec.group in _GROUP_CATEGORIES and spec.name not in _NO_GROUP_CATEGORY:
        found.add(_GROUP_CATEGORIES[spec.group])
    container = spec.name.partition("|")[0]
    found.update(_FURTHER_CATEGORIES.get(spec.name, _FURTHER_CATEGORIES.get(container, ())))
    return ["@" + name for name in CATEGORIES if name in found]


def flag_names(spec: CommandSpec) -> list[str]:
    """The flags of a command as COMMAND names them."""
    names = [name for flag, name in FLAG_NAMES if spec.flags & flag]
    if spec.find_keys is not None and "movablekeys" not in names:
        names.append("movablekeys")
    return names


def key_flags(spec: CommandSpec) -> list[str]:
    """What a command does to its keys: reads (RO), changes (RW), overwrites (OW) or removes (RM) them, and why."""
    if spec.flags & DELETES:
        return ["RM", "delete"]
    if not spec.flags & WRITE:
        return ["RO", "access"]
    return ["OW", "update"] if spec.blind is not None else ["RW", "access", "update"]


def find_spec(name: bytes) -> CommandSpec | None:
    """The row of a command, or of a subcommand as `config|get`, in any case."""
    parent, bar, child = name.lower().partition(b"|")
    spec = COMMANDS.get(parent.decode("utf-8", "replace"))
    if spec is None or not bar:
        return spec
    return spec.subcommands.get(child)


def container_help(container: str) -> list[object]:
    """The reply of a container's HELP, drawn from its subcommands; `container` in lower case."""
    spec = COMMANDS[container]
    lines = [f"{container.upper()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    if spec.fits(1):
        lines += ["(no subcommand)", f"    {spec.summary}"]
    for subcommand in _sorted(spec.subcommands.values()):
        word = subcommand.name.partition("|")[2].upper()
        lines += [f"{word} {subcommand.syntax}".rstrip(), f"    {subcommand.summary}"]
    return [Status(line) for line in lines]


def _sorted(specs: Iterable[CommandSpec]) -> list[CommandSpec]:
    return sorted(specs, key=_name_of)


def _name_of(spec: CommandSpec) -> str:
    return spec.name


def _statuses(names: list[str]) -> SetOf:
    return SetOf([Status(name) for name in names])


# -- COMMAND INFO -----------------------------------------------------------------------------------------------------


def _info_of(spec: CommandSpec) -> list[object]:
    info = _INFOS.get(spec.name)
    if info is None:
        info = _INFOS[spec.name] = _description(spec)
    return info


def _description(spec: CommandSpec) -> list[object]:
    first, last, step = spec.keys
    subcommands: object = [_info_of(child) for child in _sorted(spec.subcommands.values())]
    return [
        spec.name.encode(),
        spec.arity,
        _statuses(flag_names(spec)),
        first,
        last,
        step,
        _statuses(categories(spec)),
        SetOf([tip.encode() for tip in _TIPS.get(spec.name, ())]),
        SetOf(_key_specifications(spec)),
        subcommands if spec.subcommands else SetOf([]),
    ]


def _key_specifications(spec: CommandSpec) -> list[object]:
    found: list[object] = []
    first, last, step = spec.keys
    if first:
        # A key specification counts its last key from the first one, COMMAND from the start.
        reach = last - first if last > 0 else last
        found.append(
            _key_specification(
                spec,
                _typed("index", [(b"index", first)]),
                _typed("range", [(b"lastkey", reach), (b"keystep", step), (b"limit", 0)]),
            )
        )
    if spec.find_keys is not None:
        found.append(_key_specification(spec, _typed("unknown", []), _typed("unknown", [])))
    return found


def _key_specification(spec: CommandSpec, begin_search: Map, find_keys: Map) -> Map:
    flags = key_flags(spec)
    if spec.find_keys is not None:
        flags.append("incomplete")
    return Map([(b"flags", _statuses(flags)), (b"begin_search", begin_search), (b"find_keys", find_keys)])


def _typed(kind: str, fields: list[tuple[object, object]]) -> Map:
    return Map([(b"type", kind.encode()), (b"spec", Map(fields))])


# -- COMMAND DOCS -----------------------------------------------------------------------------------------------------


def _docs_of(spec: CommandSpec) -> Map:
    pairs: list[tuple[object, object]] = [
        (b"summary", spec.summary.encode()),
        (b"since", spec.since.encode()),
        (b"group", spec.group.encode()),
        (b"complexity", spec.complexity.encode()),
    ]
    if spec.syntax:
        pairs.append((b"arguments", _arguments_of(spec)))
    if spec.subcommands:
        pairs.append((b"subcommands", Map([_documented(child) for child in _sorted(spec.subcommands.values())])))
    return Map(pairs)


def _documented(spec: CommandSpec) -> tuple[object, object]:
    return spec.name.encode(), _docs_of(spec)


def _arguments_of(spec: CommandSpec) -> list[object]:
    arguments = _ARGUMENTS.get(spec.name)
    if arguments is None:
        arguments = [_argument_map(argument) for argument in parse(spec.syntax, spec.name, spec.has_keys)]
        _ARGUMENTS[spec.name] = arguments
    return arguments


def _argument_map(argument: Argument) -> Map:
    pairs: list[tuple[object, object]] = [(b"name", argument.name.encode()), (b"type", argument.type.encode())]
    if not argument.arguments:
        pairs.append((b"display_text", argument.name.encode()))
    if argument.type == "key":
        pairs.append((b"key_spec_index", 0))
    if argument.token:
        pairs.append((b"token", argument.token.encode()))
    flags: list[str] = []
    if argument.optional:
        flags.append("optional")
    if argument.multiple:
        flags.append("multiple")
    if argument.multiple_token:
        flags.append("multiple_token")
    if flags:
        pairs.append((b"flags", _statuses(flags)))
    if argument.arguments:
        pairs.append((b"arguments", [_argument_map(child) for child in argument.arguments]))
    return Map(pairs)


# -- the commands -----------------------------------------------------------------------------------------------------


@command(
    "COMMAND",
    arity=-1,
    flags=LOADING | STALE,
    group="server",
    since="2.8.13",
    summary="Describes every command.",
    complexity="O(N) where N is the number of commands",
)
def command_(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 1:
        return errors.unknown_subcommand("command", argv[1])
    return [_info_of(spec) for spec in _sorted(COMMANDS.values())]


@command(
    "COMMAND COUNT",
    arity=2,
    flags=LOADING | STALE,
    group="server",
    since="2.8.13",
    summary="Counts the commands.",
    complexity="O(1)",
)
def command_count(ctx: Context, argv: list[bytes]) -> object:
    return len(COMMANDS)


@command(
    "COMMAND LIST",
    arity=-2,
    flags=LOADING | STALE,
    group="server",
    since="7.0.0",
    summary="Lists the names of all commands, or of those in a category, of a module or fitting a pattern.",
    complexity="O(N) where N is the number of commands",
    syntax="[FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]",
)
def command_list(ctx: Context, argv: list[bytes]) -> object:
    specs: list[CommandSpec] = []
    for spec in _sorted(COMMANDS.values()):
        specs.append(spec)
        specs += _sorted(spec.subcommands.values())
    if len(argv) == 2:
        return [spec.name.encode() for spec in specs]
    if len(argv) != 5 or argv[2].upper() != b"FILTERBY":
        return errors.SYNTAX
    by = argv[3].upper()
    wanted = argv[4].lower()
    if by == b"MODULE":
        return []
    if by == b"ACLCAT":
        category = "@" + wanted.decode("utf-8", "replace")
        return [spec.name.encode() for spec in specs if category in categories(spec)]
    if by == b"PATTERN":
        pattern = Glob(wanted)
        return [spec.name.encode() for spec in specs if pattern.matches(spec.name.encode())]
    return errors.SYNTAX


@command(
    "COMMAND INFO",
    arity=-2,
    flags=LOADING | STALE,
    group="server",
    since="2.8.13",
    summary="Describes some commands, or all: arity, flags, where their keys stand.",
    complexity="O(N) where N is the number of commands asked for",
    syntax="[command-name [command-name ...]]",
)
def command_info(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) == 2:
        return [_info_of(spec) for spec in _sorted(COMMANDS.values())]
    found: list[object] = []
    for name in argv[2:]:
        spec = find_spec(name)
        found.append(None if spec is None else _info_of(spec))
    return found


@command(
    "COMMAND DOCS",
    arity=-2,
    flags=LOADING | STALE,
    group="server",
    since="7.0.0",
    summary="Documents some commands, or all: what they do, since when, with which arguments.",
    complexity="O(N) where N is the number of commands asked for",
    syntax="[command-name [command-name ...]]",
)
def command_docs(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) == 2:
        return Map([_documented(spec) for spec in _sorted(COMMANDS.values())])
    pairs: list[tuple[object, object]] = []
    for name in argv[2:]:
        spec = find_spec(name)
        if spec is not None:
            pairs.append(_documented(spec))
    return Map(pairs)


def _keys_in(argv: list[bytes]) -> tuple[CommandSpec, list[bytes]]:
    # The keys of a whole command line; CommandError says why there are none.
    spec = find_spec(argv[0]) if b"|" not in argv[0] else None
    if spec is not None and spec.subcommands and len(argv) > 1:
        spec = spec.subcommands.get(argv[1].lower())
    if spec is None:
        raise CommandError(Error("ERR Invalid command specified"))
    if not spec.has_keys:
        raise CommandError(Error("ERR The command has no key arguments"))
    if not spec.fits(len(argv)):
        raise CommandError(Error("ERR Invalid number of arguments specified for command"))
    try:
        keys = spec.keys_of(argv)
    except (CommandError, ValueError, IndexError):
        keys = []
    if not keys:
        raise CommandError(Error("ERR Invalid arguments specified for command"))
    return spec, keys


@command(
    "COMMAND GETKEYS",
    arity=-3,
    flags=LOADING | STALE,
    group="server",
    since="2.8.13",
    summary="Finds the keys in a whole command line.",
    complexity="O(N) where N is the number of arguments",
    syntax="command [arg [arg ...]]",
)
def command_getkeys(ctx: Context, argv: list[bytes]) -> object:
    return _keys_in(argv[2:])[1]


@command(
    "COMMAND GETKEYSANDFLAGS",
    arity=-3,
    flags=LOADING | STALE,
    group="server",
    since="7.0.0",
    summary="Finds the keys in a whole command line and says what would be done with them.",
    complexity="O(N) where N is the number of arguments",
    syntax="command [arg [arg ...]]",
)
def command_getkeysandflags(ctx: Context, argv: list[bytes]) -> object:
    spec, keys = _keys_in(argv[2:])
    return [[key, _statuses(key_flags(spec))] for key in keys]


@command(
    "COMMAND HELP",
    arity=2,
    flags=LOADING | STALE,
    group="server",
    since="5.0.0",
    summary="Explains the subcommands.",
    complexity="O(1)",
)
def command_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("command")
