"""Encodings: what OBJECT ENCODING answers. Forebay keeps values its own way, but tools look at these names.

They follow the value, not its history: Redis also keeps the larger encoding of a value that has shrunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from persistence.change import HASH, KIND_NAMES, LIST, SET, STREAM, STRING, ZSET
from persistence.field_lifetimes import ExpiringHash
from server.commands.args import parse_integer
from server.keyspace.values.list_value import ListValue
from server.keyspace.values.member_set import MemberSet
from server.keyspace.values.sorted_set import SortedSet

# Redis's limits between encodings, its default settings: strings in one allocation, small values in one listpack.
_EMBSTR_LENGTH: Final = 44
LISTPACK_VALUE: Final = 64
HASH_LISTPACK_ENTRIES: Final = 512
LIST_LISTPACK_BYTES: Final = 8192
INTSET_ENTRIES: Final = 512
SET_LISTPACK_ENTRIES: Final = 128
SORTED_SET_LISTPACK_ENTRIES: Final = 128


def encoding_of(kind: int, value: object) -> bytes:
    """The encoding that Redis would choose for a value. O(1), O(n) for values small enough for a compact one."""
    if kind == STRING and isinstance(value, bytes):
        if parse_integer(value) is not None:
            return b"int"
        return b"embstr" if len(value) <= _EMBSTR_LENGTH else b"raw"
    if kind == HASH and isinstance(value, dict):
        compact = len(value) <= HASH_LISTPACK_ENTRIES and _are_short(value) and _are_short(value.values())
        if not compact:
            return b"hashtable"
        # Fields with lifetimes are kept in order of time.
        return b"listpackex" if isinstance(value, ExpiringHash) else b"listpack"
    if kind == LIST and isinstance(value, ListValue):
        # An element has two bytes beside its own at least.
        short = 2 * len(value) <= LIST_LISTPACK_BYTES
        compact = short and sum(map(len, value)) + 2 * len(value) <= LIST_LISTPACK_BYTES
        return b"listpack" if compact else b"quicklist"
    if kind == STREAM:
        return b"stream"
    if kind == SET and isinstance(value, MemberSet):
        return _encoding_of_set(value)
    if kind == ZSET and isinstance(value, SortedSet):
        compact = len(value) <= SORTED_SET_LISTPACK_ENTRIES and _are_short(value)
        return b"listpack" if compact else b"skiplist"
    raise NotImplementedError(f"the encoding of a {KIND_NAMES[kind]}")


def _encoding_of_set(value: MemberSet) -> bytes:
    if len(value) <= INTSET_ENTRIES and all(parse_integer(member) is not None for member in value):
        return b"intset"
    return b"listpack" if len(value) <= SET_LISTPACK_ENTRIES and _are_short(value) else b"hashtable"


def _are_short(items: Iterable[bytes]) -> bool:
    return max(map(len, items), default=0) <= LISTPACK_VALUE
