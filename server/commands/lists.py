"""Lists: LPUSH, LRANGE and their kin. A value is a ListValue, changed in place between `edit` and `edited`.

The commands that wait for an element are in `blocking_pops.py`; they take what they find by the functions at the end.
"""

from __future__ import annotations

from typing import Final

from persistence.change import LIST, NEVER
from protocol.replies import NIL_ARRAY, OK, Elements, Error
from server.commands.args import INT64_MAX, counted_keys, integer, integer_between, integer_from, keys_after_count
from server.commands.context import Context
from server.commands.spec import DENYOOM, FAST, FIRST, FIRST_TWO, READ, WRITE, command
from server.errors import NO_KEYS_COUNTED, NO_SUCH_KEY, NOT_POSITIVE, SYNTAX, WRONG_TYPE, CommandError, wrong_arity
from server.keyspace.database import Database
from server.keyspace.entry import Entry
from server.keyspace.excerpt import AT_ONCE, Places
from server.keyspace.values.list_value import ListValue
from server.keyspace.weights import ITEM_OVERHEAD

# What changed is told to WATCH and to stores by members; a list has none that could be named.
_ALL: Final[list[bytes]] = []

_INDEX_OUT_OF_RANGE: Final = Error("ERR index out of range")
_COUNT_NOT_POSITIVE: Final = Error("ERR count should be greater than 0")
_RANK_ZERO: Final = Error(
    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... "
    "or use negative to start from the end of the list"
)
_COUNT_NEGATIVE: Final = Error("ERR COUNT can't be negative")
_MAXLEN_NEGATIVE: Final = Error("ERR MAXLEN can't be negative")


def list_of(entry: Entry) -> ListValue:
    """The elements of an entry whose kind is LIST."""
    items = entry.value
    assert isinstance(items, ListValue)
    return items


# -- the ends ---------------------------------------------------------------------------------------------------------


@command(
    "LPUSH",
    arity=-3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="list",
    since="1.0.0",
    summary="Puts elements before the first of a list, one by one; returns its length. The list is made when absent.",
    complexity="O(1) for each element",
    syntax="key element [element ...]",
)
def lpush(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None:
        items = ListValue(argv[:1:-1])
        db.put(argv[1], LIST, items, NEVER, b"lpush")
        return items.size
    value = entry.value
    if not isinstance(value, ListValue):
        return WRONG_TYPE
    if len(argv) == 3:
        # The usual call, without a list of what is new.
        item = argv[2]
        size = value.push_left(item)
        db.edited(entry, b"lpush", _ALL, ITEM_OVERHEAD + len(item))
        return size
    return _push_all(db, entry, value, argv[2:], True)


@command(
    "RPUSH",
    arity=-3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="list",
    since="1.0.0",
    summary="Puts elements behind the last of a list, one by one; returns its length. The list is made when absent.",
    complexity="O(1) for each element",
    syntax="key element [element ...]",
)
def rpush(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None:
        items = ListValue(argv[2:])
        db.put(argv[1], LIST, items, NEVER, b"rpush")
        return items.size
    value = entry.value
    if not isinstance(value, ListValue):
        return WRONG_TYPE
    if len(argv) == 3:
        # The usual call, without a list of what is new.
        item = argv[2]
        size = value.push_right(item)
        db.edited(entry, b"rpush", _ALL, ITEM_OVERHEAD + len(item))
        return size
    return _push_all(db, entry, value, argv[2:], False)


@command(
    "LPUSHX",
    arity=-3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="list",
    since="2.2.0",
    summary="LPUSH, but only if the list exists; otherwise returns 0.",
    complexity="O(1) for each element",
    syntax="key element [element ...]",
)
def lpushx(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return 0
    items = entry.value
    return _push_all(ctx.db, entry, items, argv[2:], True) if isinstance(items, ListValue) else WRONG_TYPE


@command(
    "RPUSHX",
    arity=-3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="list",
    since="2.2.0",
    summary="RPUSH, but only if the list exists; otherwise returns 0.",
    complexity="O(1) for each element",
    syntax="key element [element ...]",
)
def rpushx(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return 0
    items = entry.value
    return _push_all(ctx.db, entry, items, argv[2:], False) if isinstance(items, ListValue) else WRONG_TYPE


def _push_all(db: Database, entry: Entry, items: ListValue, fresh: list[bytes], to_left: bool) -> int:
    if to_left:
        items.extend_left(fresh)
    else:
        items.extend(fresh)
    db.edited(entry, b"lpush" if to_left else b"rpush", _ALL, ITEM_OVERHEAD * len(fresh) + sum(map(len, fresh)))
    return items.size


@command(
    "LPOP",
    arity=-2,
    flags=WRITE | FAST,
    keys=FIRST,
    group="list",
    since="1.0.0",
    summary="Takes out the first element of a list, or several; the list goes with its last element.",
    complexity="O(N) with N elements taken out",
    syntax="key [count]",
)
def lpop(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 2:
        return _pop_several(ctx, argv, True, "lpop")
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None:
        return None
    items = entry.value
    if not isinstance(items, ListValue):
        return WRONG_TYPE
    item = items.pop_left()
    db.edited(entry, b"lpop", _ALL, -ITEM_OVERHEAD - len(item))
    if not items.size:
        db.remove(argv[1])
    return item


@command(
    "RPOP",
    arity=-2,
    flags=WRITE | FAST,
    keys=FIRST,
    group="list",
    since="1.0.0",
    summary="Takes out the last element of a list, or several, the last first; the list goes with its last element.",
    complexity="O(N) with N elements taken out",
    syntax="key [count]",
)
def rpop(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 2:
        return _pop_several(ctx, argv, False, "rpop")
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None:
        return None
    items = entry.value
    if not isinstance(items, ListValue):
        return WRONG_TYPE
    item = items.pop_right()
    db.edited(entry, b"rpop", _ALL, -ITEM_OVERHEAD - len(item))
    if not items.size:
        db.remove(argv[1])
    return item


def _pop_several(ctx: Context, argv: list[bytes], from_left: bool, name: str) -> object:
    if len(argv) > 3:
        return wrong_arity(name)
    count = integer_from(argv[2], 0, NOT_POSITIVE)
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return NIL_ARRAY
    return take(ctx.db, entry, from_left, count) if entry.kind == LIST else WRONG_TYPE


# -- reading ----------------------------------------------------------------------------------------------------------


@command(
    "LLEN",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="list",
    since="1.0.0",
    summary="Number of elements of a list; 0 when it is absent.",
    complexity="O(1)",
    syntax="key",
)
def llen(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return 0
    return len(list_of(entry)) if entry.kind == LIST else WRONG_TYPE


@command(
    "LRANGE",
    arity=4,
    flags=READ,
    keys=FIRST,
    group="list",
    since="1.0.0",
    summary="Reads a part of a list; positions below zero count from the end, both ends are included.",
    complexity="O(S+N) with N elements read, S/1000 steps away from the nearer end of the list",
    syntax="key start stop",
)
def lrange(ctx: Context, argv: list[bytes]) -> object:
    start = integer(argv[2])
    stop = integer(argv[3])
    entry = ctx.db.find(argv[1])
    if entry is None:
        return []
    if entry.kind != LIST:
        return WRONG_TYPE
    items = list_of(entry)
    first, end = _bounds(start, stop, len(items))
    if end - first > AT_ONCE and ctx.may_read_on():
        return Elements(Places(items, first, end), end - first)
    return items.slice(first, end)


def _bounds(start: int, stop: int, length: int) -> tuple[int, int]:
    # As (first, end), end not included; (0, 0) when nothing is meant.
    first = max(0, start + length) if start < 0 else start
    end = min((stop + length if stop < 0 else stop) + 1, length)
    return (first, end) if first < end else (0, 0)


@command(
    "LINDEX",
    arity=3,
    flags=READ,
    keys=FIRST,
    group="list",
    since="1.0.0",
    summary="Reads one element of a list; positions below zero count from the end.",
    complexity="O(1) near the ends, otherwise O(N/1000) with N elements to the nearer end",
    syntax="key index",
)
def lindex(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return None
    if entry.kind != LIST:
        return WRONG_TYPE
    items = list_of(entry)
    at = integer(argv[2])
    if at < 0:
        at += len(items)
    return items.get(at) if 0 <= at < len(items) else None


class _Search:
    """The options of LPOS."""

    __slots__ = ("limit", "most", "rank")

    def __init__(self) -> None:
        self.rank = 1
        # Positions wanted, 0 for all; -1: one, not in an array.
        self.limit = -1
        # Elements to be looked at; 0 for all.
        self.most = 0

    def parse(self, options: list[bytes]) -> None:
        """Read `option value` pairs."""
        for at in range(0, len(options), 2):
            option = options[at].upper()
            if at + 1 == len(options):
                raise CommandError(SYNTAX)
            value = options[at + 1]
            if option == b"RANK":
                self.rank = integer_between(value, -INT64_MAX, INT64_MAX)
                if not self.rank:
                    raise CommandError(_RANK_ZERO)
            elif option == b"COUNT":
                self.limit = integer_from(value, 0, _COUNT_NEGATIVE)
            elif option == b"MAXLEN":
                self.most = integer_from(value, 0, _MAXLEN_NEGATIVE)
            else:
                raise CommandError(SYNTAX)


@command(
    "LPOS",
    arity=-3,
    flags=READ,
    keys=FIRST,
    group="list",
    since="6.0.6",
    summary="Finds where an element stands in a list, or several places.",
    complexity="O(N) with N elements looked at",
    syntax="key element [RANK rank] [COUNT num-matches] [MAXLEN len]",
)
def lpos(ctx: Context, argv: list[bytes]) -> object:
    search = _Search()
    search.parse(argv[3:])
    entry = ctx.db.find(argv[1])
    if entry is None:
        return None if search.limit < 0 else []
    if entry.kind != LIST:
        return WRONG_TYPE
    items = list_of(entry)
    limit = 1 if search.limit < 0 else search.limit or len(items)
    found = items.positions(argv[2], search.rank < 0, abs(search.rank), limit, search.most or len(items))
    if search.limit >= 0:
        return found
    return found[0] if found else None


# -- changing in the middle -------------------------------------------------------------------------------------------


@command(
    "LSET",
    arity=4,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    group="list",
    since="1.0.0",
    summary="Replaces one element of a list; positions below zero count from the end.",
    complexity="O(1) near the ends, otherwise O(N/1000) with N elements to the nearer end",
    syntax="key index element",
)
def lset(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return NO_SUCH_KEY
    if entry.kind != LIST:
        return WRONG_TYPE
    items = list_of(entry)
    at = integer(argv[2])
    if at < 0:
        at += len(items)
    if not 0 <= at < len(items):
        return _INDEX_OUT_OF_RANGE
    old = items.set(at, argv[3])
    ctx.db.edited(entry, b"lset", _ALL, len(argv[3]) - len(old))
    return OK


@command(
    "LINSERT",
    arity=5,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    group="list",
    since="2.2.0",
    summary="Puts an element next to the first that equals a pivot; the new length, 0 without list, -1 without pivot.",
    complexity="O(N) with N elements before the pivot",
    syntax="key <BEFORE | AFTER> pivot element",
)
def linsert(ctx: Context, argv: list[bytes]) -> object:
    where = argv[2].upper()
    if where not in (b"BEFORE", b"AFTER"):
        return SYNTAX
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return 0
    if entry.kind != LIST:
        return WRONG_TYPE
    items = list_of(entry)
    at = items.position(argv[3])
    if at < 0:
        return -1
    items.insert(at if where == b"BEFORE" else at + 1, argv[4])
    ctx.db.edited(entry, b"linsert", _ALL, ITEM_OVERHEAD + len(argv[4]))
    return len(items)


@command(
    "LREM",
    arity=4,
    flags=WRITE,
    keys=FIRST,
    group="list",
    since="1.0.0",
    summary="Takes out elements that equal one given: from the left (count > 0), from the right (< 0) or all (0).",
    complexity="O(N) with N elements",
    syntax="key count element",
)
def lrem(ctx: Context, argv: list[bytes]) -> object:
    count = integer(argv[2])
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return 0
    if entry.kind != LIST:
        return WRONG_TYPE
    removed = list_of(entry).remove(argv[3], count)
    if removed:
        _shrunk(ctx.db, entry, removed * (ITEM_OVERHEAD + len(argv[3])), b"lrem")
    return removed


@command(
    "LTRIM",
    arity=4,
    flags=WRITE,
    keys=FIRST,
    group="list",
    since="1.0.0",
    summary="Keeps a part of a list, drops the rest; positions below zero count from the end, both ends are included.",
    complexity="O(N) with N elements dropped",
    syntax="key start stop",
)
def ltrim(ctx: Context, argv: list[bytes]) -> object:
    start = integer(argv[2])
    stop = integer(argv[3])
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return OK
    if entry.kind != LIST:
        return WRONG_TYPE
    items = list_of(entry)
    first, end = _bounds(start, stop, items.size)
    _shrunk(ctx.db, entry, items.trim(first, end), b"ltrim")
    return OK


def _shrunk(db: Database, entry: Entry, freed: int, event: bytes) -> None:
    # Elements of so many bytes were taken out, perhaps the last one.
    db.edited(entry, event, _ALL, -freed)
    if not list_of(entry).size:
        db.remove(entry.key)


# -- several keys -----------------------------------------------------------------------------------------------------


@command(
    "LMOVE",
    arity=5,
    flags=WRITE | DENYOOM,
    keys=FIRST_TWO,
    group="list",
    since="6.2.0",
    summary="Moves the first or last element of a list to an end of another list or the same, and returns it.",
    complexity="O(1)",
    syntax="source destination <LEFT | RIGHT> <LEFT | RIGHT>",
)
def lmove(ctx: Context, argv: list[bytes]) -> object:
    from_left = is_left(argv[3])
    to_left = is_left(argv[4])
    return move_one(ctx.db, argv[1], argv[2], from_left, to_left)


@command(
    "RPOPLPUSH",
    arity=3,
    flags=WRITE | DENYOOM,
    keys=FIRST_TWO,
    group="list",
    since="1.2.0",
    summary="The old name of LMOVE source destination RIGHT LEFT.",
    complexity="O(1)",
    syntax="source destination",
)
def rpoplpush(ctx: Context, argv: list[bytes]) -> object:
    return move_one(ctx.db, argv[1], argv[2], False, True)


class ManyPop:
    """The arguments of LMPOP and BLMPOP from `numkeys` on: `numkeys key [key ...] <LEFT | RIGHT> [COUNT count]`."""

    __slots__ = ("count", "from_left", "keys")

    def __init__(self, argv: list[bytes], at: int) -> None:
        integer_from(argv[at], 1, NO_KEYS_COUNTED)
        self.keys = counted_keys(argv, at)
        where = at + 1 + len(self.keys)
        if not self.keys or where >= len(argv):
            raise CommandError(SYNTAX)
        self.from_left = is_left(argv[where])
        self.count = 1
        rest = argv[where + 1 :]
        if rest:
            if len(rest) == 1 or rest[0].upper() != b"COUNT":
                raise CommandError(SYNTAX)
            self.count = integer_from(rest[1], 1, _COUNT_NOT_POSITIVE)
            if len(rest) > 2:
                raise CommandError(SYNTAX)

    def run(self, db: Database) -> object:
        """[key, elements] of the first key that exists; None when none does."""
        for key in self.keys:
            entry = db.edit(key)
            if entry is not None:
                return [key, take(db, entry, self.from_left, self.count)] if entry.kind == LIST else WRONG_TYPE
        return None


@command(
    "LMPOP",
    arity=-4,
    flags=WRITE,
    find_keys=keys_after_count,
    group="list",
    since="7.0.0",
    summary="Takes elements out of the first list among the keys that exists, and tells its key; nil when none does.",
    complexity="O(N+M) with N keys and M elements taken out",
    syntax="numkeys key [key ...] <LEFT | RIGHT> [COUNT count]",
)
def lmpop(ctx: Context, argv: list[bytes]) -> object:
    return ManyPop(argv, 1).run(ctx.db) or NIL_ARRAY


# -- parts ------------------------------------------------------------------------------------------------------------


def is_left(word: bytes) -> bool:
    """LEFT or RIGHT."""
    side = word.upper()
    if side not in (b"LEFT", b"RIGHT"):
        raise CommandError(SYNTAX)
    return side == b"LEFT"


def take_one(db: Database, entry: Entry, from_left: bool) -> bytes:
    """Take one element from an end of a list that came from `edit`."""
    items = list_of(entry)
    item = items.pop_left() if from_left else items.pop_right()
    _shrunk(db, entry, ITEM_OVERHEAD + len(item), b"lpop" if from_left else b"rpop")
    return item


def take(db: Database, entry: Entry, from_left: bool, count: int) -> list[bytes]:
    """Take up to so many elements from an end of a list that came from `edit`, the outermost first."""
    items = list_of(entry)
    size = items.size
    count = min(count, size)
    if not count:
        return []
    if from_left:
        taken = items.slice(0, count)
        freed = items.trim(count, size)
    else:
        taken = items.slice(size - count, size)
        taken.reverse()
        freed = items.trim(0, size - count)
    _shrunk(db, entry, freed, b"lpop" if from_left else b"rpop")
    return taken


def move_one(db: Database, source: bytes, destination: bytes, from_left: bool, to_left: bool) -> object:
    """LMOVE: the element moved; None when the source is absent."""
    entry = db.edit(source)
    if entry is None:
        return None
    if entry.kind != LIST:
        return WRONG_TYPE
    target = entry if source == destination else db.edit(destination)
    if target is not None and target.kind != LIST:
        return WRONG_TYPE
    event = b"lpush" if to_left else b"rpush"
    taken = b"lpop" if from_left else b"rpop"
    source_items = list_of(entry)
    item = source_items.pop_left() if from_left else source_items.pop_right()
    if target is entry:
        # Turned in one step: a list of one element must not vanish in between.
        _push(source_items, item, to_left)
        db.edited(entry, event, _ALL, 0)
        db.note(source, taken)
        return item
    # Events are told in Redis's order: what arrived, then what left.
    if target is None:
        db.put(destination, LIST, ListValue([item]), NEVER, event)
    else:
        _push(list_of(target), item, to_left)
        db.edited(target, event, _ALL, ITEM_OVERHEAD + len(item))
    _shrunk(db, entry, ITEM_OVERHEAD + len(item), taken)
    return item


def _push(items: ListValue, item: bytes, to_left: bool) -> None:
    if to_left:
        items.push_left(item)
    else:
        items.push_right(item)
