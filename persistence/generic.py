"""The generic table `forebay_kv`: any key under a prefix, whatever its kind, with its expiry.

    key text primary key · kind text (Redis's type name) · value · expires_at (NULL: never) · updated_at

PostgreSQL: `value bytea`, `expires_at timestamptz`, `updated_at timestamptz default now()`. SQLite: `value BLOB`, times
as INTEGER milliseconds of the wall clock.

A string is stored as it is. The others are MessagePack over byte strings: a hash and a sorted set as a map (to byte
strings; to 64-bit floats, so that a score comes back exactly as it was, infinite ones and -0 too), a list and a set as
an array, a hash of which fields have lifetimes as an array of two maps (fields to values, and to deadlines in
wall-clock milliseconds), a stream as an array of its marks, its entries and its groups (see `_unpack_stream`). A row
whose value is empty reads as absent: no key holds an empty collection. (A stream without entries is not empty.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol, cast

import msgpack  # type: ignore[import-untyped]  # ships no types

from persistence import change as changes
from persistence.change import HASH, KIND_NAMES, LIST, NEVER, SET, STREAM, STRING, ZSET, Change
from persistence.codecs import POSTGRES_MILLISECONDS, codec_for
from persistence.errors import RowRejected
from persistence.field_lifetimes import ExpiringHash, deadlines_of
from persistence.json_text import Unfit, decode_text
from persistence.prefixes import Captures, PrefixRule
from persistence.row_values import Field, Layout, Loaded, Mapping, RowOp, shown
from persistence.rows import RelationShape, Row, RowKey
from persistence.sql import REPLACE, UPDATE, Column, quote_relation, sql_for

GENERIC_TABLE: Final = "forebay_kv"


class NotOurs(ValueError):
    """A table of this name is there, but it is not the generic table."""


# Values are written as the keyspace has them: a hash is a dict; a list and a set can be iterated; a sorted set has
# `items()`. They are read in plain Python.


class _SortedSet(Protocol):
    def items(self) -> Iterable[tuple[bytes, float]]: ...


def _pack_map(value: object) -> bytes:
    return cast(bytes, msgpack.packb(dict(cast(_SortedSet, value).items()), use_bin_type=True))


def _pack_array(value: object) -> bytes:
    return cast(bytes, msgpack.packb(list(cast(Iterable[bytes], value)), use_bin_type=True))


def _pack_hash(value: object) -> bytes:
    # A map; or, when fields have lifetimes, an array: the map, and another of their deadlines.
    deadlines = deadlines_of(value)
    if not deadlines:
        return _pack_map(value)
    return cast(bytes, msgpack.packb([dict(cast(_SortedSet, value).items()), deadlines], use_bin_type=True))


def _unpack_hash(raw: bytes) -> object:
    value = msgpack.unpackb(raw, raw=False, strict_map_key=False)
    fields, deadlines = value if isinstance(value, list) else (value, {})
    if not isinstance(fields, dict) or not all(
        isinstance(name, bytes) and isinstance(item, bytes) for name, item in fields.items()
    ):
        raise ValueError("not a map of byte strings")
    if not isinstance(deadlines, dict) or not all(
        name in fields and type(deadline_ms) is int for name, deadline_ms in deadlines.items()
    ):
        raise ValueError("not a map of fields to times")
    return ExpiringHash(fields, deadlines) if deadlines else fields


def _unpack_list(raw: bytes) -> object:
    value = msgpack.unpackb(raw, raw=False)
    if not isinstance(value, list) or not all(isinstance(item, bytes) for item in value):
        raise ValueError("not an array of byte strings")
    return value


def _unpack_set(raw: bytes) -> object:
    return set(cast(list[bytes], _unpack_list(raw)))


def _unpack_sorted_set(raw: bytes) -> object:
    value = msgpack.unpackb(raw, raw=False, strict_map_key=False)
    if not isinstance(value, dict) or not all(
        isinstance(member, bytes) and isinstance(score, float) and score == score for member, score in value.items()
    ):
        raise ValueError("not a map of byte strings to numbers")
    return value


def _unpack_stream(raw: bytes) -> object:
    # [last id, highest deleted id, entries added, entries, groups]
    #   entry: [id, [field, value, …]]     group: [name, last id, entries read, consumers, pending]
    #   consumer: [name, seen ms, active ms]     pending: [id, place of its consumer, delivered ms, deliveries]
    # An id is 16 bytes, milliseconds and sequence.
    value = msgpack.unpackb(raw, raw=False)
    last_id, deleted_id, added, entries, groups = value
    good = _is_id(last_id) and _is_id(deleted_id) and isinstance(added, int)
    before = bytes(16)
    for number, words in entries:
        # In order, with fields and values in pairs.
        good = good and _is_id(number) and before < number <= last_id
        good = good and bool(words) and not len(words) % 2 and all(isinstance(word, bytes) for word in words)
        before = number
    for group in groups:
        good = good and _is_group(*group)
    if not good:
        raise ValueError("not a stream")
    return value


def _is_id(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 16


def _is_group(name: object, last_id: object, read: object, consumers: list[object], pending: list[object]) -> bool:
    size = len(consumers)
    good = isinstance(name, bytes) and _is_id(last_id) and isinstance(read, int)
    for member, seen_ms, active_ms in cast(list[list[object]], consumers):
        good = good and isinstance(member, bytes) and isinstance(seen_ms, int) and isinstance(active_ms, int)
    for number, place, delivered_ms, count in cast(list[list[object]], pending):
        good = good and _is_id(number) and isinstance(place, int) and 0 <= place < size
        good = good and isinstance(delivered_ms, int) and isinstance(count, int)
    return good


def _same(value: object) -> bytes:
    return cast(bytes, value)


# How each kind is stored in `value`: (encode, decode). A further kind is one more line.
_KINDS: Final = {
    STRING: (_same, _same),
    HASH: (_pack_hash, _unpack_hash),
    LIST: (_pack_array, _unpack_list),
    SET: (_pack_array, _unpack_set),
    ZSET: (_pack_map, _unpack_sorted_set),
    STREAM: (_pack_array, _unpack_stream),
}
_KIND_NUMBERS: Final = {name: number for number, name in enumerate(KIND_NAMES)}


class GenericMapping(Mapping):
    """A row of `forebay_kv` ↔ any key: kind, value and expiry are columns."""

    takes_any_text = True

    def row_key_of(self, key: bytes, captures: Captures) -> RowKey | None:
        try:
            return (decode_text(key),)
        except Unfit as refusal:
            raise RowRejected(refusal.sqlstate, f"the key of a row in {GENERIC_TABLE}: {refusal.reason}") from None

    def value_of(self, key: RowKey, row: Row) -> Loaded | None:
        kind_name, raw, expires_ms = row
        kind = _KIND_NUMBERS.get(cast(str, kind_name), -1)
        if kind not in _KINDS:
            raise RowRejected("0A000", f'{GENERIC_TABLE}: values of kind "{shown(str(kind_name))}" are not supported')
        try:
            value = _KINDS[kind][1](cast(bytes, raw))
        except (ValueError, TypeError, msgpack.UnpackException):
            raise RowRejected("22000", f"{GENERIC_TABLE}: the value is not a {KIND_NAMES[kind]}") from None
        if kind != STRING and not value:
            return None
        return Loaded(kind, value, NEVER if expires_ms is None else cast(int, expires_ms))

    def accept(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp | None, object]:
        if change.verb == changes.EXPIRY:
            expires = self._expires(change, wall_offset_ms)
            return RowOp(self, UPDATE, key, ("expires_at",), (expires,)), change.value
        return super().accept(key, change, wall_offset_ms)

    def accept_string(self, key: RowKey, raw: bytes, expires_ms: int | None = None) -> tuple[RowOp, object]:
        return RowOp(self, REPLACE, key, self.columns, (KIND_NAMES[STRING], raw, expires_ms)), raw

    def canonical(self, key: RowKey, change: Change, wall_offset_ms: int) -> object:
        # Whatever it is, it is loaded as it was.
        if change.verb == changes.WRITE:
            self._check_kind(change)
        return change.value

    def _check_kind(self, change: Change) -> None:
        if change.kind not in _KINDS:
            raise RowRejected("0A000", f"{GENERIC_TABLE} does not hold values of kind {KIND_NAMES[change.kind]} yet")

    def _expires(self, change: Change, wall_offset_ms: int) -> int | None:
        return None if change.deadline_ms >= NEVER else change.deadline_ms + wall_offset_ms

    def _replace(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp, object]:
        raw = _KINDS[change.kind][0](change.value)
        values = (KIND_NAMES[change.kind], raw, self._expires(change, wall_offset_ms))
        return RowOp(self, REPLACE, key, self.columns, values), change.value


def build_generic(rule: PrefixRule, shape: RelationShape, dialect: str) -> GenericMapping:
    """The mapping of a rule onto the store's `forebay_kv`; raises NotOurs when that table is not ours."""
    columns = {column.name: column for column in shape.columns}
    for name in ("key", "kind", "value", "expires_at", "updated_at"):
        if name not in columns:
            raise NotOurs(f"the table {shape.name} is not ours: it has no column {name!r}")
    keys = (Column("key", codec_for(columns["key"], dialect)),)
    fields: list[Field] = []
    for name in ("kind", "value", "expires_at"):
        codec = codec_for(columns[name], dialect)
        if name == "expires_at" and dialect == "postgresql":
            codec = POSTGRES_MILLISECONDS
        fields.append(Field(name.encode(), name, codec, name == "expires_at", False, False, -1))
    mapped = tuple([Column(field.column, field.codec) for field in fields])
    resets = ("kind", "value", "expires_at", "updated_at")
    sql = sql_for(dialect, quote_relation(shape.name), keys, mapped, resets)
    return GenericMapping(Layout(rule, shape.name, dialect, keys, tuple(fields), sql, resets))
