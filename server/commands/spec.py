"""CommandSpec: the one row that everybody reads about a command.

Arity, gates, the engine (which keys are read, which are overwritten blindly), COMMAND, COMMAND DOCS, COMMAND GETKEYS,
the generated documentation and the tests all read this row; nothing about a command is written down twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from server.commands.context import Context

Handler = Callable[[Context, list[bytes]], object]
KeyFinder = Callable[[list[bytes]], list[bytes]]
Test = Callable[[list[bytes]], bool]
Answer = Callable[[Context, list[bytes]], bytes | None]

# Flags, named as COMMAND names them.
READ: Final = 1
WRITE: Final = 2
FAST: Final = 4
DENYOOM: Final = 8
ADMIN: Final = 16
NOSCRIPT: Final = 32
LOADING: Final = 64
STALE: Final = 128
NO_AUTH: Final = 256  # may run before authentication
NO_MULTI: Final = 512  # refused inside MULTI
BLOCKING: Final = 1024
PUBSUB: Final = 2048
MOVABLEKEYS: Final = 4096
IMMEDIATE: Final = 8192  # runs at once even inside MULTI (EXEC, DISCARD, WATCH, QUIT, RESET)
DELETES: Final = 16384  # replies with the number of keys deleted: the store's count replaces memory's
KEYSPACE: Final = 32768  # touches every key of a database (FLUSHALL, SWAPDB)
FRESH: Final = 65536  # sees no copy past its time, although GET may be served one (EXISTS)

FLAG_NAMES: Final = (
    (WRITE, "write"),
    (READ, "readonly"),
    (DENYOOM, "denyoom"),
    (ADMIN, "admin"),
    (PUBSUB, "pubsub"),
    (NOSCRIPT, "noscript"),
    (BLOCKING, "blocking"),
    (LOADING, "loading"),
    (STALE, "stale"),
    (FAST, "fast"),
    (NO_AUTH, "no_auth"),
    (NO_MULTI, "no_multi"),
    (MOVABLEKEYS, "movablekeys"),
)

# Where the keys stand: (first, last, step), counted from argv[1]; last < 0 counts from the end, 0 means none.
NO_KEYS: Final = (0, 0, 0)
FIRST: Final = (1, 1, 1)
FIRST_TWO: Final = (1, 2, 1)
ALL: Final = (1, -1, 1)
ALL_PAIRS: Final = (1, -1, 2)
# `OBJECT ENCODING key`: the key follows the subcommand.
SECOND: Final = (2, 2, 1)


class CommandSpec:
    """One command or subcommand. Frozen by convention after its module is imported, but for the counters."""

    __slots__ = (
        "answer",
        "arity",
        "blind",
        "calls",
        "complexity",
        "failed",
        "find_keys",
        "flags",
        "group",
        "grows",
        "handler",
        "has_keys",
        "keys",
        "name",
        "rejected",
        "since",
        "subcommands",
        "summary",
        "syntax",
        "writes",
    )

    def __init__(
        self,
        name: str,
        handler: Handler,
        arity: int,
        flags: int,
        keys: tuple[int, int, int],
        find_keys: KeyFinder | None,
        blind: Test | None,
        group: str,
        since: str,
        summary: str,
        complexity: str,
        syntax: str,
    ) -> None:
        # Lower case; a subcommand is `config|get`.
        self.name = name
        self.handler = handler
        # As COMMAND gives it: the exact number of words, or minus the least number.
        self.arity = arity
        self.flags = flags
        self.writes = flags & WRITE != 0
        # Refused when memory is full.
        self.grows = flags & DENYOOM != 0
        self.keys = keys
        # For commands whose keys cannot be told by position.
        self.find_keys = find_keys
        self.has_keys = keys[0] != 0 or find_keys is not None
        # Does this call overwrite its keys without looking at the old values? None: never.
        self.blind = blind
        self.group = group
        self.since = since
        self.summary = summary
        self.complexity = complexity
        # The arguments as redis.io prints them: `key value [NX | XX] [EX seconds]`.
        self.syntax = syntax
        self.subcommands: dict[bytes, CommandSpec] = {}
        # Does all of a plain call that came alone, and gives its encoded reply (server/answers.py). None: no such text.
        self.answer: Answer | None = None
        # Counters for INFO commandstats.
        self.calls = 0
        self.rejected = 0
        self.failed = 0

    def fits(self, argc: int) -> bool:
        """Is that number of words allowed?"""
        return argc == self.arity if self.arity >= 0 else argc >= -self.arity

    def keys_of(self, argv: list[bytes]) -> list[bytes]:
        """The keys among the arguments, in order, repeated ones included."""
        if self.find_keys is not None:
            return self.find_keys(argv)
        first, last, step = self.keys
        if first == 0:
            return []
        end = last + 1 if last >= 0 else len(argv) + last + 1
        return argv[first:end:step]


# Every command by its name, in lower case.
COMMANDS: Final[dict[str, CommandSpec]] = {}


def command(
    name: str,
    *,
    arity: int,
    flags: int,
    group: str,
    since: str,
    summary: str,
    complexity: str,
    syntax: str = "",
    keys: tuple[int, int, int] = NO_KEYS,
    find_keys: KeyFinder | None = None,
    blind: Test | None = None,
) -> Callable[[Handler], Handler]:
    """Enter the decorated handler into the command table; `name` is `GET`, or `CONFIG GET` for a subcommand.

    The parent of a subcommand must have been entered before it. `since` is the Redis version that brought the command,
    or Forebay's for commands of our own (group `cache`).
    """

    def enter(handler: Handler) -> Handler:
        parent, _, child = name.lower().partition(" ")
        full = f"{parent}|{child}" if child else parent
        spec = CommandSpec(
            full, handler, arity, flags, keys, find_keys, blind, group, since, summary, complexity, syntax
        )
        if child:
            COMMANDS[parent].subcommands[child.encode()] = spec
        else:
            if full in COMMANDS:
                raise ValueError(f"the command {full!r} is entered twice")
            COMMANDS[full] = spec
        return handler

    return enter


def spellings(commands: dict[str, CommandSpec]) -> dict[bytes, CommandSpec]:
    """The table that dispatch looks into: every name in lower and upper case; other spellings are folded first."""
    table: dict[bytes, CommandSpec] = {}
    for name, spec in commands.items():
        table[name.encode()] = spec
        table[name.upper().encode()] = spec
    return table


def called() -> list[CommandSpec]:
    """The rows of the command table that have counted something, subcommands included."""
    specs: list[CommandSpec] = []
    for spec in COMMANDS.values():
        specs += [spec, *spec.subcommands.values()]
    return [spec for spec in specs if spec.calls or spec.failed or spec.rejected]
