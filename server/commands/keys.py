"""Keys whatever they hold: deleting, lifetimes, renaming, finding."""

from __future__ import annotations

from itertools import islice
from typing import Final

from persistence.change import KIND_NAMES, NEVER
from protocol.replies import OK, Error, Status
from server.commands.args import (
    AT_MILLISECONDS,
    AT_SECONDS,
    EXPIRE_GT,
    EXPIRE_LT,
    EXPIRE_NX,
    EXPIRE_XX,
    MILLISECONDS,
    SECONDS,
    always,
    deadline,
    expire_conditions,
    integer,
    integer_between,
    parse_integer,
)
from server.commands.command_docs import container_help
from server.commands.context import Context, Wait
from server.commands.object_encoding import encoding_of
from server.commands.spec import (
    ALL,
    DELETES,
    DENYOOM,
    FAST,
    FIRST,
    FIRST_TWO,
    FRESH,
    LOADING,
    READ,
    SECOND,
    STALE,
    WRITE,
    command,
)
from server.errors import (
    INDEX_OUT_OF_RANGE,
    MANAGED_ELSEWHERE,
    NO_SUCH_KEY,
    SAME_OBJECT,
    STAGED_ELSEWHERE,
    SYNTAX,
    CommandError,
    unknown_subcommand,
)
from server.keyspace.database import Database
from server.keyspace.entry import Entry
from server.keyspace.globbing import Glob
from server.keyspace.values.kinds import copy_value

_INT_MIN: Final = -(1 << 31)
_INT_MAX: Final = (1 << 31) - 1


def glance(db: Database, key: bytes) -> Entry | None:
    """`find` for commands that ask *about* a key (EXISTS, TYPE, TTL, OBJECT): a hit does not count as a use of it."""
    entry = db.peek(key)
    if entry is not None and entry.lease is None:
        db.hits += 1
        return entry
    # Absent, or a copy of a row that may be too old: `find` knows whom to ask.
    return db.find(key)


# -- deleting and asking ----------------------------------------------------------------------------------------------


@command(
    "DEL",
    arity=-2,
    flags=WRITE | DELETES,
    keys=ALL,
    blind=always,
    group="generic",
    since="1.0.0",
    summary="Deletes keys and returns how many there were.",
    complexity="O(N) with N keys",
    syntax="key [key ...]",
)
def del_(ctx: Context, argv: list[bytes]) -> object:
    remove = ctx.db.remove
    deleted = 0
    for key in argv[1:]:
        if remove(key):
            deleted += 1
    return deleted


command(
    "UNLINK",
    arity=-2,
    flags=WRITE | FAST | DELETES,
    keys=ALL,
    blind=always,
    group="generic",
    since="4.0.0",
    summary="DEL under another name: Forebay frees values at once either way.",
    complexity="O(N) with N keys",
    syntax="key [key ...]",
)(del_)


@command(
    "EXISTS",
    arity=-2,
    flags=READ | FAST | FRESH,
    keys=ALL,
    group="generic",
    since="1.0.0",
    summary="How many of the keys exist; a key named twice counts twice.",
    complexity="O(N) with N keys",
    syntax="key [key ...]",
)
def exists(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    found = 0
    for key in argv[1:]:
        if glance(db, key) is not None:
            found += 1
    return found


@command(
    "TOUCH",
    arity=-2,
    flags=READ | FAST,
    keys=ALL,
    group="generic",
    since="3.2.1",
    summary="Counts as a use of each key; returns how many of them exist.",
    complexity="O(N) with N keys",
    syntax="key [key ...]",
)
def touch(ctx: Context, argv: list[bytes]) -> object:
    find = ctx.db.find
    found = 0
    for key in argv[1:]:
        if find(key) is not None:
            found += 1
    return found


@command(
    "TYPE",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="generic",
    since="1.0.0",
    summary="What kind of value a key holds: string, hash, set …, or none.",
    complexity="O(1)",
    syntax="key",
)
def type_(ctx: Context, argv: list[bytes]) -> object:
    entry = glance(ctx.db, argv[1])
    return Status(KIND_NAMES[entry.kind] if entry is not None else "none")


# -- lifetimes --------------------------------------------------------------------------------------------------------


@command(
    "EXPIRE",
    arity=-3,
    flags=WRITE | FAST,
    keys=FIRST,
    group="generic",
    since="1.0.0",
    summary="Lets a key live for a number of seconds.",
    complexity="O(1)",
    syntax="key seconds [NX | XX | GT | LT]",
)
def expire(ctx: Context, argv: list[bytes]) -> object:
    return _expire(ctx, argv, SECONDS, "expire")


@command(
    "PEXPIRE",
    arity=-3,
    flags=WRITE | FAST,
    keys=FIRST,
    group="generic",
    since="2.6.0",
    summary="Lets a key live for a number of milliseconds.",
    complexity="O(1)",
    syntax="key milliseconds [NX | XX | GT | LT]",
)
def pexpire(ctx: Context, argv: list[bytes]) -> object:
    return _expire(ctx, argv, MILLISECONDS, "pexpire")


@command(
    "EXPIREAT",
    arity=-3,
    flags=WRITE | FAST,
    keys=FIRST,
    group="generic",
    since="1.2.0",
    summary="Lets a key live until a Unix time in seconds.",
    complexity="O(1)",
    syntax="key unix-time-seconds [NX | XX | GT | LT]",
)
def expireat(ctx: Context, argv: list[bytes]) -> object:
    return _expire(ctx, argv, AT_SECONDS, "expireat")


@command(
    "PEXPIREAT",
    arity=-3,
    flags=WRITE | FAST,
    keys=FIRST,
    group="generic",
    since="2.6.0",
    summary="Lets a key live until a Unix time in milliseconds.",
    complexity="O(1)",
    syntax="key unix-time-milliseconds [NX | XX | GT | LT]",
)
def pexpireat(ctx: Context, argv: list[bytes]) -> object:
    return _expire(ctx, argv, AT_MILLISECONDS, "pexpireat")


def _expire(ctx: Context, argv: list[bytes], unit: int, name: str) -> int:
    conditions = expire_conditions(argv) if len(argv) > 3 else 0
    deadline_ms = deadline(ctx, unit, integer(argv[2]), name)
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None or (conditions and not _allows(conditions, entry.deadline_ms, deadline_ms)):
        return 0
    if deadline_ms > db.now_ms:
        db.set_deadline(entry, deadline_ms, b"expire")
    else:
        db.expire_now(entry)
    return 1


def _allows(conditions: int, current_ms: int, wanted_ms: int) -> bool:
    # A key without a lifetime lives for ever: GT never holds for it, LT always does. NEVER is later than any deadline.
    if conditions & EXPIRE_NX and current_ms != NEVER:
        return False
    if conditions & EXPIRE_XX and current_ms == NEVER:
        return False
    if conditions & EXPIRE_GT and wanted_ms <= current_ms:
        return False
    return not (conditions & EXPIRE_LT and wanted_ms >= current_ms)


@command(
    "PERSIST",
    arity=2,
    flags=WRITE | FAST,
    keys=FIRST,
    group="generic",
    since="2.2.0",
    summary="Takes a key's lifetime away, so that it stays.",
    complexity="O(1)",
    syntax="key",
)
def persist(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is None or entry.deadline_ms == NEVER:
        return 0
    ctx.db.set_deadline(entry, NEVER, b"persist")
    return 1


@command(
    "TTL",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="generic",
    since="1.0.0",
    summary="Seconds that a key has to live; -1 without a lifetime, -2 when the key is absent.",
    complexity="O(1)",
    syntax="key",
)
def ttl(ctx: Context, argv: list[bytes]) -> object:
    entry = glance(ctx.db, argv[1])
    if entry is None:
        return -2
    return -1 if entry.deadline_ms == NEVER else (entry.deadline_ms - ctx.db.now_ms + 500) // 1000


@command(
    "PTTL",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="generic",
    since="2.6.0",
    summary="Milliseconds that a key has to live; -1 without a lifetime, -2 when the key is absent.",
    complexity="O(1)",
    syntax="key",
)
def pttl(ctx: Context, argv: list[bytes]) -> object:
    entry = glance(ctx.db, argv[1])
    if entry is None:
        return -2
    return -1 if entry.deadline_ms == NEVER else entry.deadline_ms - ctx.db.now_ms


@command(
    "EXPIRETIME",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="generic",
    since="7.0.0",
    summary="Unix time in seconds at which a key runs out; -1 without a lifetime, -2 when the key is absent.",
    complexity="O(1)",
    syntax="key",
)
def expiretime(ctx: Context, argv: list[bytes]) -> object:
    wall_ms = _runs_out(ctx, argv[1])
    return wall_ms if wall_ms < 0 else (wall_ms + 500) // 1000


@command(
    "PEXPIRETIME",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="generic",
    since="7.0.0",
    summary="Unix time in milliseconds at which a key runs out; -1 without a lifetime, -2 when the key is absent.",
    complexity="O(1)",
    syntax="key",
)
def pexpiretime(ctx: Context, argv: list[bytes]) -> object:
    return _runs_out(ctx, argv[1])


def _runs_out(ctx: Context, key: bytes) -> int:
    entry = glance(ctx.db, key)
    if entry is None:
        return -2
    return -1 if entry.deadline_ms == NEVER else entry.deadline_ms + ctx.server.wall_offset_ms()


# -- renaming, copying, moving ----------------------------------------------------------------------------------------


@command(
    "RENAME",
    arity=3,
    flags=WRITE,
    keys=FIRST_TWO,
    group="generic",
    since="1.0.0",
    summary="Gives a key another name, whatever that name stood for before.",
    complexity="O(1) for strings, O(N) for N members",
    syntax="key newkey",
)
def rename(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return NO_SUCH_KEY
    if argv[1] != argv[2]:
        _rename(ctx.db, entry, argv[2])
    return OK


@command(
    "RENAMENX",
    arity=3,
    flags=WRITE | FAST,
    keys=FIRST_TWO,
    group="generic",
    since="1.0.0",
    summary="Gives a key another name only if nothing has that name yet.",
    complexity="O(1) for strings, O(N) for N members",
    syntax="key newkey",
)
def renamenx(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return NO_SUCH_KEY
    if ctx.db.peek(argv[2]) is not None:
        return 0
    _rename(ctx.db, entry, argv[2])
    return 1


def _rename(db: Database, entry: Entry, new: bytes) -> None:
    # The value itself moves: it came from `edit`, so it is this command's own, and the old key lets go of it first.
    kind = entry.kind
    value = entry.value
    deadline_ms = entry.deadline_ms
    db.remove(entry.key, b"rename_from")
    db.put(new, kind, value, deadline_ms, b"rename_to")


@command(
    "COPY",
    arity=-3,
    flags=WRITE | DENYOOM,
    keys=FIRST_TWO,
    group="generic",
    since="6.2.0",
    summary="Copies a key's value and lifetime to another key, also of another database.",
    complexity="O(N) with the size of the value",
    syntax="source destination [DB destination-db] [REPLACE]",
)
def copy(ctx: Context, argv: list[bytes]) -> object:
    target = ctx.db
    replace = False
    at = 3
    while at < len(argv):
        option = argv[at].upper()
        if option == b"REPLACE":
            replace = True
        elif option == b"DB" and at + 1 < len(argv):
            at += 1
            target = _database(ctx, argv[at], argv[1:3])
        else:
            return SYNTAX
        at += 1
    if target is ctx.db and argv[1] == argv[2]:
        return SAME_OBJECT
    entry = ctx.db.find(argv[1])
    if entry is None or (not replace and target.peek(argv[2]) is not None):
        return 0
    target.put(argv[2], entry.kind, copy_value(entry.kind, entry.value), entry.deadline_ms, b"copy_to")
    return 1


@command(
    "MOVE",
    arity=3,
    flags=WRITE | FAST,
    keys=FIRST,
    group="generic",
    since="1.0.0",
    summary="Moves a key to another database, unless that has a key of this name.",
    complexity="O(1) for strings, O(N) for N members",
    syntax="key db",
)
def move(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    target = _database(ctx, argv[2], argv[1:2])
    if target is db:
        return SAME_OBJECT
    entry = db.edit(argv[1])
    if entry is None or target.peek(argv[1]) is not None:
        return 0
    kind = entry.kind
    value = entry.value
    deadline_ms = entry.deadline_ms
    db.remove(argv[1], b"move_from")
    target.put(argv[1], kind, value, deadline_ms, b"move_to")
    return 1


def _database(ctx: Context, text: bytes, keys: list[bytes]) -> Database:
    index = integer_between(text, _INT_MIN, _INT_MAX)
    keyspace = ctx.server.keyspace
    if not 0 <= index < keyspace.size:
        raise CommandError(INDEX_OUT_OF_RANGE)
    # The selected database may be a staged view; asked for by its number it must stay that view.
    if index == ctx.db.index:
        return ctx.db
    target = keyspace.database(index)
    if ctx.db is not keyspace.database(ctx.db.index):
        raise CommandError(STAGED_ELSEWHERE)
    # Rules act in database 0: what enters or leaves it under one would bypass its store.
    if 0 in (index, ctx.db.index) and any(ctx.server.cache.manages(key) for key in keys):
        raise CommandError(MANAGED_ELSEWHERE)
    return target


# -- finding ----------------------------------------------------------------------------------------------------------


# As many keys KEYS looks at before it lets others in: 2 ms.
_KEYS_AT_ONCE: Final = 5000


@command(
    "KEYS",
    arity=2,
    flags=READ,
    group="generic",
    since="1.0.0",
    summary="All keys that fit a pattern. For debugging: the reply may be huge; SCAN is kinder.",
    complexity="O(N) with N keys in the database",
    syntax="pattern",
)
def keys(ctx: Context, argv: list[bytes]) -> object:
    glob = Glob(argv[1])
    db = ctx.db
    if glob.literal is not None:
        return [glob.literal] if db.peek(glob.literal) is not None else []
    if len(db) <= _KEYS_AT_ONCE:
        return _fitting(db, glob)
    matches = None if glob.everything else glob.matches
    return Wait(lambda: ctx.server.survey(db, matches, ctx.protocol), lambda: _fitting(db, glob))


def _fitting(db: Database, glob: Glob) -> list[bytes]:
    if glob.everything:
        return [entry.key for entry in db.entries()]
    matches = glob.matches
    return [entry.key for entry in db.entries() if matches(entry.key)]


# Expired keys that RANDOMKEY may draw before it stops trusting its luck and looks for a living one in order.
_DRAWS: Final = 100


@command(
    "RANDOMKEY",
    arity=1,
    flags=READ,
    group="generic",
    since="1.0.0",
    summary="A random key of the database; nil when there is none.",
    complexity="O(1024 + N/1024) with N keys in the database",
)
def randomkey(ctx: Context, argv: list[bytes]) -> object:
    # Every key has the same chance: draw a number below the number of keys, find its table by adding up sizes (1,024
    # small numbers), then step to its place in that table.
    db = ctx.db
    for _ in range(_DRAWS):
        total = len(db)
        if not total:
            return None
        place = ctx.server.random.randrange(total)
        for table in db.tables:
            if place < len(table):
                key = next(islice(table, place, None))
                if db.peek(key) is not None:
                    return key
                break
            place -= len(table)
    for entry in db.entries():
        return entry.key
    return None


# -- OBJECT -----------------------------------------------------------------------------------------------------------

# Redis shares the objects of the numbers below this, and says so by an absurd count of references.
_SHARED_INTEGERS: Final = 10_000
_SHARED_REFCOUNT: Final = (1 << 31) - 1

_NOT_LFU: Final = Error(
    "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching "
    "between policies at runtime LRU and LFU data will take some time to adjust."
)
_IS_LFU: Final = Error(
    "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between policies "
    "at runtime LRU and LFU data will take some time to adjust."
)


@command(
    "OBJECT",
    arity=-2,
    flags=0,
    group="generic",
    since="2.2.3",
    summary="Commands that look inside a key's entry.",
    complexity="Depends on the subcommand.",
)
def object_(ctx: Context, argv: list[bytes]) -> object:
    return unknown_subcommand("object", argv[1])


@command(
    "OBJECT ENCODING",
    arity=3,
    flags=READ,
    keys=SECOND,
    group="generic",
    since="2.2.3",
    summary="The encoding that Redis would choose for a key's value. Forebay has its own.",
    complexity="O(1), O(N) for values of N ≤ 512 members",
    syntax="key",
)
def object_encoding(ctx: Context, argv: list[bytes]) -> object:
    entry = glance(ctx.db, argv[2])
    if entry is None:
        return None
    return encoding_of(entry.kind, entry.value)


@command(
    "OBJECT FREQ",
    arity=3,
    flags=READ,
    keys=SECOND,
    group="generic",
    since="4.0.0",
    summary="How often a key was used lately, on a logarithmic scale; only with an LFU policy.",
    complexity="O(1)",
    syntax="key",
)
def object_freq(ctx: Context, argv: list[bytes]) -> object:
    entry = glance(ctx.db, argv[2])
    if entry is None:
        return None
    if not _is_lfu(ctx, argv[2]):
        return _NOT_LFU
    return ctx.db.frequency(entry)


@command(
    "OBJECT IDLETIME",
    arity=3,
    flags=READ,
    keys=SECOND,
    group="generic",
    since="2.2.3",
    summary="Seconds since a key was used last; not with an LFU policy.",
    complexity="O(1)",
    syntax="key",
)
def object_idletime(ctx: Context, argv: list[bytes]) -> object:
    entry = glance(ctx.db, argv[2])
    if entry is None:
        return None
    return _IS_LFU if _is_lfu(ctx, argv[2]) else max(0, ctx.db.now_ms - entry.access_ms) // 1000


def _is_lfu(ctx: Context, key: bytes) -> bool:
    # The key's own policy, which may be that of its prefix.
    return ctx.server.keyspace.policy_of(ctx.db.index, key) == "lfu"


@command(
    "OBJECT REFCOUNT",
    arity=3,
    flags=READ,
    keys=SECOND,
    group="generic",
    since="2.2.3",
    summary="The number of references that Redis would report for a key's value.",
    complexity="O(1)",
    syntax="key",
)
def object_refcount(ctx: Context, argv: list[bytes]) -> object:
    entry = glance(ctx.db, argv[2])
    if entry is None:
        return None
    value = entry.value
    if isinstance(value, bytes) and len(value) < 5:
        number = parse_integer(value)
        if number is not None and 0 <= number < _SHARED_INTEGERS:
            return _SHARED_REFCOUNT
    return 1


@command(
    "OBJECT HELP",
    arity=2,
    flags=LOADING | STALE,
    group="generic",
    since="6.2.0",
    summary="Lists the subcommands.",
    complexity="O(1)",
)
def object_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("object")
