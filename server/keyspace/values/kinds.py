"""Kinds: the one place that knows what a key can hold. A further kind is one more row of the table below.

The persistence room knows values in their plain form, and may not know more: a string is `bytes`, a hash
`dict[bytes, bytes]` (an `ExpiringHash` when fields have lifetimes), a list `list[bytes]`, a set `set[bytes]`, a sorted
set `dict[bytes, float]`. In memory the larger kinds have types of their own (`member_set.py` …). `revive` turns the
first into the second. A live value can do what its plain form can, as far as a store asks: a list is iterable, in
order; a set is iterable, has a size and `in`; a sorted set has a size, `items()`, `get` and `in`; a stream yields the
parts of its plain form, which `stream.py` describes; and each equals its plain form.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Final

from persistence.change import HASH, LIST, SET, STREAM, STRING, ZSET
from persistence.field_lifetimes import ExpiringHash
from server.keyspace.values.list_value import ListValue
from server.keyspace.values.member_set import MemberSet
from server.keyspace.values.sorted_set import SortedSet
from server.keyspace.values.stream import Stream, revive_stream
from server.keyspace.values.walked_hash import WalkedHash
from server.keyspace.weights import BYTES_OVERHEAD, DEADLINE_OVERHEAD, DICT_OVERHEAD, FIELD_OVERHEAD


class Kind:
    """What must be known of one kind of value: one row of the table."""

    __slots__ = ("copy", "may_be_empty", "revive", "weigh")

    def __init__(
        self,
        revive: Callable[[object], object],
        copy: Callable[[object], object],
        weigh: Callable[[object], int],
        may_be_empty: bool,
    ) -> None:
        # The live value of a plain one; what is alive already comes back as it is.
        self.revive = revive
        # A second live value that shares no state with the first.
        self.copy = copy
        # Bytes that a live value costs; equal to the sum of what its changes reported.
        self.weigh = weigh
        # Does a key go on to exist without a member?
        self.may_be_empty = may_be_empty


def _same(value: object) -> object:
    return value


# -- strings and hashes: plain Python in memory too -------------------------------------------------------------------


def _weigh_string(value: object) -> int:
    assert isinstance(value, bytes)
    return BYTES_OVERHEAD + len(value)


def _copy_hash(value: object) -> object:
    assert isinstance(value, dict)
    return value.copy()


def _weigh_hash(value: object) -> int:
    assert isinstance(value, dict)
    fields = DICT_OVERHEAD + FIELD_OVERHEAD * len(value) + sum(map(len, value)) + sum(map(len, value.values()))
    return fields + DEADLINE_OVERHEAD * len(value.deadlines) if isinstance(value, ExpiringHash) else fields


# -- lists ------------------------------------------------------------------------------------------------------------


def _revive_list(plain: object) -> object:
    if isinstance(plain, ListValue):
        return plain
    assert isinstance(plain, list)
    return ListValue(plain)


def _copy_list(value: object) -> object:
    assert isinstance(value, ListValue)
    return value.copy()


def _weigh_list(value: object) -> int:
    assert isinstance(value, ListValue)
    return value.weight()


# -- sets and sorted sets ---------------------------------------------------------------------------------------------


def _revive_set(plain: object) -> object:
    if isinstance(plain, MemberSet):
        return plain
    assert isinstance(plain, (set, frozenset))
    return MemberSet(set(plain))


def _copy_set(value: object) -> object:
    assert isinstance(value, MemberSet)
    return value.copy()


def _weigh_set(value: object) -> int:
    assert isinstance(value, MemberSet)
    return value.weight()


def _revive_sorted_set(plain: object) -> object:
    if isinstance(plain, SortedSet):
        return plain
    assert isinstance(plain, dict)
    return SortedSet(dict(plain))


def _copy_sorted_set(value: object) -> object:
    assert isinstance(value, SortedSet)
    return value.copy()


def _weigh_sorted_set(value: object) -> int:
    assert isinstance(value, SortedSet)
    return value.weight()


# -- streams ----------------------------------------------------------------------------------------------------------


def _revive_stream(plain: object) -> object:
    if isinstance(plain, Stream):
        return plain
    assert isinstance(plain, list)
    return revive_stream(plain)


def _copy_stream(value: object) -> object:
    assert isinstance(value, Stream)
    return value.copy()


def _weigh_stream(value: object) -> int:
    assert isinstance(value, Stream)
    return value.weight()


# -- the table --------------------------------------------------------------------------------------------------------

# By number: STRING, LIST …
KINDS: Final[list[Kind]] = [
    Kind(_same, _same, _weigh_string, True),
    Kind(_revive_list, _copy_list, _weigh_list, False),
    Kind(_revive_set, _copy_set, _weigh_set, False),
    Kind(_revive_sorted_set, _copy_sorted_set, _weigh_sorted_set, False),
    Kind(_same, _copy_hash, _weigh_hash, False),
    Kind(_revive_stream, _copy_stream, _weigh_stream, True),
]


# What holds which kind in memory.
_KIND_OF: Final[dict[type, int]] = {
    bytes: STRING,
    dict: HASH,
    ExpiringHash: HASH,
    WalkedHash: HASH,
    ListValue: LIST,
    MemberSet: SET,
    SortedSet: ZSET,
    Stream: STREAM,
}


def kind_of(value: object) -> int:
    """The kind of a live value."""
    return _KIND_OF[type(value)]


def revive(kind: int, plain: object) -> object:
    """The value as memory holds it, from its plain form. O(1) for strings, hashes and live values, O(n) otherwise."""
    return KINDS[kind].revive(plain)


def copy_value(kind: int, value: object) -> object:
    """A second value that shares no state with the first. O(1) for strings, O(n) otherwise."""
    return KINDS[kind].copy(value)


def weigh(kind: int, value: object) -> int:
    """Bytes of a whole value. O(1) for strings, O(n) otherwise: used when a value is put, not when it is edited."""
    return KINDS[kind].weigh(value)


def parts(value: object) -> list[object]:
    """The containers that a live value consists of, for taking it apart; it must not be used thereafter."""
    if isinstance(value, (MemberSet, SortedSet, ListValue, Stream, WalkedHash)):
        return value.parts()
    # Another hash, or a table of keys, is its own container.
    return [value]


def is_empty(kind: int, value: object) -> bool:
    """Is this a value that no key may hold, because its last member is gone?"""
    if KINDS[kind].may_be_empty:
        return False
    assert isinstance(value, Sized)
    return len(value) == 0
