"""SORT and SORT_RO: the elements of a list, set or sorted set in order, by their own value or by that of other keys.

A pattern names other keys: its first `*` stands for an element, `->field` at its end for a field of a hash. Such keys
cannot be told before the elements are known, so they cannot be loaded first: those under a prefix rule are refused.

Texts are compared byte by byte; Redis compares them by the server's locale.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from persistence.change import HASH, LIST, NEVER, SET, STRING, ZSET
from protocol.replies import Error
from server.commands.args import integer
from server.commands.context import Context
from server.commands.hash_lifetimes import living
from server.commands.scores import score
from server.commands.spec import DENYOOM, FIRST, MOVABLEKEYS, READ, WRITE, command
from server.errors import SYNTAX, WRONG_TYPE, CommandError
from server.keyspace.entry import Entry
from server.keyspace.values.list_value import ListValue
from server.keyspace.values.member_set import MemberSet
from server.keyspace.values.sorted_set import SortedSet

_NOT_A_NUMBER: Final = Error("ERR One or more scores can't be converted into double")
_MANAGED: Final = Error("ERR BY and GET patterns of SORT cannot reach keys under a prefix rule")
# What C's isspace calls space.
_SPACE: Final = b" \t\n\v\f\r"


class _Options:
    """The options of one SORT."""

    __slots__ = ("alpha", "by", "count", "descending", "gets", "offset", "store")

    def __init__(self, argv: list[bytes], may_store: bool) -> None:
        # None: by the elements themselves.
        self.by: _Pattern | None = None
        # LIMIT; a count below zero means all.
        self.offset = 0
        self.count = -1
        # None stands for the element itself (`GET #`).
        self.gets: list[_Pattern | None] = []
        self.descending = False
        self.alpha = False
        self.store: bytes | None = None
        at = 2
        while at < len(argv):
            at += self._take(argv, at, may_store)

    def _take(self, argv: list[bytes], at: int, may_store: bool) -> int:
        # One option; how many words it has.
        option = argv[at].upper()
        left = len(argv) - at - 1
        if option in (b"ASC", b"DESC"):
            self.descending = option == b"DESC"
            return 1
        if option == b"ALPHA":
            self.alpha = True
            return 1
        if option == b"LIMIT" and left >= 2:
            self.offset = integer(argv[at + 1])
            self.count = integer(argv[at + 2])
            return 3
        if option == b"STORE" and left >= 1 and may_store:
            self.store = argv[at + 1]
            return 2
        if option == b"BY" and left >= 1:
            self.by = _Pattern(argv[at + 1])
            return 2
        if option == b"GET" and left >= 1:
            self.gets.append(None if argv[at + 1] == b"#" else _Pattern(argv[at + 1]))
            return 2
        raise CommandError(SYNTAX)

    def cut(self, length: int) -> tuple[int, int]:
        """LIMIT as positions of a result of that length: the first, and the one behind the last."""
        first = min(max(self.offset, 0), length)
        return first, length if self.count < 0 else min(first + self.count, length)


class _Pattern:
    """`prefix*suffix` or `prefix*suffix->field`."""

    __slots__ = ("_field", "_prefix", "_suffix", "is_constant")

    def __init__(self, text: bytes) -> None:
        self._prefix, star, rest = text.partition(b"*")
        # Without a `*` it stands for no key at all.
        self.is_constant = not star
        self._suffix, _, self._field = rest.partition(b"->")
        if not self._field:
            self._suffix = rest

    def look_up(self, ctx: Context, element: bytes) -> bytes | None:
        """The string or the field that it stands for; None when there is none."""
        if self.is_constant:
            return None
        db = ctx.db
        key = self._prefix + element + self._suffix
        if db.index == 0 and ctx.server.cache.manages(key):
            raise CommandError(_MANAGED)
        entry = db.find(key)
        if entry is None:
            return None
        if self._field:
            return living(ctx, entry).get(self._field) if entry.kind == HASH else None
        value = entry.value
        return value if entry.kind == STRING and isinstance(value, bytes) else None


def sort_keys(argv: list[bytes]) -> list[bytes]:
    """For `find_keys=`: the key, and the destination that counts, which is the last."""
    keys = [argv[1]]
    for at in range(len(argv) - 2, 1, -1):
        if argv[at].upper() == b"STORE":
            keys.append(argv[at + 1])
            break
    return keys


@command(
    "SORT",
    arity=-2,
    flags=WRITE | DENYOOM | MOVABLEKEYS,
    keys=FIRST,
    find_keys=sort_keys,
    group="generic",
    since="1.0.0",
    summary="The elements of a list, set or sorted set in order, by number or, with ALPHA, by text; by other keys' "
    "values with BY, as other keys' values with GET. With STORE they become a list, and its length is returned.",
    complexity="O(N + M*log(M)) with N elements and M of them returned",
    syntax="key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA] "
    "[STORE destination]",
)
def sort(ctx: Context, argv: list[bytes]) -> object:
    options = _Options(argv, True)
    result = _sort(ctx, argv[1], options)
    if options.store is None:
        return result
    db = ctx.db
    if not result:
        db.remove(options.store)
        return 0
    db.put(options.store, LIST, ListValue(item or b"" for item in result), NEVER, b"sortstore")
    return len(result)


@command(
    "SORT_RO",
    arity=-2,
    flags=READ | MOVABLEKEYS,
    keys=FIRST,
    group="generic",
    since="7.0.0",
    summary="SORT without STORE: a read.",
    complexity="O(N + M*log(M)) with N elements and M of them returned",
    syntax="key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA]",
)
def sort_ro(ctx: Context, argv: list[bytes]) -> object:
    return _sort(ctx, argv[1], _Options(argv, False))


def _sort(ctx: Context, key: bytes, options: _Options) -> list[bytes | None]:
    entry = ctx.db.find(key)
    if entry is None:
        return []
    if entry.kind not in (LIST, SET, ZSET):
        raise CommandError(WRONG_TYPE)
    chosen = _chosen(ctx, entry, options)
    if not options.gets:
        return list(chosen)
    found: list[bytes | None] = []
    for element in chosen:
        found += [element if pattern is None else pattern.look_up(ctx, element) for pattern in options.gets]
    return found


def _chosen(ctx: Context, entry: Entry, options: _Options) -> list[bytes]:
    value = entry.value
    assert isinstance(value, (ListValue, MemberSet, SortedSet))
    first, end = options.cut(len(value))
    by = options.by
    if by is None or not by.is_constant:
        elements = list(value)
        _order(ctx, elements, options)
        return elements[first:end]
    # `BY nosort`: in the order in which they lie.
    if isinstance(value, SortedSet):
        if options.descending:
            return [member for _, member in value.slice(len(value) - end, len(value) - first, True)]
        return [member for _, member in value.slice(first, end)]
    if isinstance(value, ListValue):
        if options.descending:
            return list(islice(reversed(value), first, end))
        return value.slice(first, end)
    if options.store is not None:
        # A set has no order, but what is stored must not depend on chance.
        return sorted(value, reverse=options.descending)[first:end]
    return list(islice(value, first, end))


def _order(ctx: Context, elements: list[bytes], options: _Options) -> None:
    by = options.by
    if options.alpha and by is None:
        elements.sort(reverse=options.descending)
        return
    if options.alpha:
        assert by is not None
        # What has no value comes first.
        texts = {element: by.look_up(ctx, element) for element in elements}
        absent = [element for element in elements if texts[element] is None]
        there = [element for element in elements if texts[element] is not None]
        there.sort(key=texts.__getitem__, reverse=options.descending)  # type: ignore[arg-type]
        elements[:] = there + absent if options.descending else absent + there
        return
    # Equal numbers are told apart by the element: they stay as they are here.
    elements.sort(reverse=options.descending)
    if by is None:
        elements.sort(key=_number, reverse=options.descending)
        return
    numbers: dict[bytes, float] = {}
    for element in elements:
        text = by.look_up(ctx, element)
        numbers[element] = 0.0 if text is None else _number(text)
    elements.sort(key=numbers.__getitem__, reverse=options.descending)


# Digits that make a finite number, whichever they are.
_ORDINARY: Final = 300


def _number(text: bytes) -> float:
    if text.isdigit() and len(text) <= _ORDINARY:
        return float(text)
    # As C sees it: the text ends at its first NUL, nothing is zero, leading spaces pass.
    text = text.partition(b"\0")[0]
    return score(text.lstrip(_SPACE), _NOT_A_NUMBER) if text else 0.0
