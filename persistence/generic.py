"""The generic table `forebay_kv`: any key under a prefix, whatever its kind, with its expiry.

    key text primary key · kind text (Redis's type name) · value · expires_at (NULL: never) · updated_at

PostgreSQL: `value bytea`, `expires_at timestamptz`, `updated_at timestamptz default now()`. SQLite: `value BLOB`, times
as INTEGER milliseconds of the wall clock. Strings are stored as they are, a hash as a MessagePack map of byte strings.
"""

from __future__ import annotations

from typing import Final, cast

import msgpack  # type: ignore[import-untyped]  # ships no types

from persistence import change as changes
from persistence.change import HASH, KIND_NAMES, NEVER, STRING, Change
from persistence.codecs import POSTGRES_MILLISECONDS, codec_for
from persistence.errors import RowRejected
from persistence.json_text import Unfit, decode_text
from persistence.prefixes import Captures, PrefixRule
from persistence.row_values import Field, Layout, Loaded, Mapping, RowOp, shown
from persistence.rows import RelationShape, Row, RowKey
from persistence.sql import REPLACE, UPDATE, Column, quote_relation, sql_for

GENERIC_TABLE: Final = "forebay_kv"


class NotOurs(ValueError):
    """A table of this name is there, but it is not the generic table."""


def _pack_hash(value: object) -> bytes:
    return cast(bytes, msgpack.packb(value, use_bin_type=True))


def _unpack_hash(raw: bytes) -> object:
    value = msgpack.unpackb(raw, raw=False, strict_map_key=False)
    if not isinstance(value, dict) or not all(
        isinstance(name, bytes) and isinstance(item, bytes) for name, item in value.items()
    ):
        raise ValueError("not a map of byte strings")
    return value


def _same(value: object) -> bytes:
    return cast(bytes, value)


# How each kind is stored in `value`: (encode, decode). A further kind is one more line.
_KINDS: Final = {
    STRING: (_same, _same),
    HASH: (_pack_hash, _unpack_hash),
}
_KIND_NUMBERS: Final = {name: number for number, name in enumerate(KIND_NAMES)}


class GenericMapping(Mapping):
    """A row of `forebay_kv` ↔ any key: kind, value and expiry are columns."""

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
        return Loaded(kind, value, NEVER if expires_ms is None else cast(int, expires_ms))

    def accept(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp | None, object]:
        if change.verb == changes.EXPIRY:
            expires = self._expires(change, wall_offset_ms)
            return RowOp(self, UPDATE, key, ("expires_at",), (expires,)), change.value
        return super().accept(key, change, wall_offset_ms)

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
