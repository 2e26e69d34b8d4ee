"""Values as Redis's dump payloads carry them: what DUMP gives and RESTORE takes.

    type (1 byte) · value · format version (2 bytes, little endian) · CRC-64 of all before (8 bytes, little endian)

Written are the plain types of each kind, which every Redis since 7.0 reads: version 10, or 12 for hashes whose fields
have lifetimes (7.4). Read are all types that Redis 2.6 … 7.4 wrote; those of modules are neither written nor read.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from math import isnan
from typing import Final, cast

from persistence.change import HASH, LIST, SET, STREAM, STRING, ZSET
from persistence.field_lifetimes import ExpiringHash
from server.commands.crc64 import crc64
from server.commands.rdb_encodings import (
    Malformed,
    intset_members,
    listpack_items,
    ziplist_items,
    zipmap_items,
)
from server.commands.rdb_primitives import Reader, length_of, number_of, string_of
from server.commands.rdb_streams import STREAM as _STREAM
from server.commands.rdb_streams import STREAM_2 as _STREAM_2
from server.commands.rdb_streams import STREAM_3 as _STREAM_3
from server.commands.rdb_streams import read_stream, stream_parts
from server.keyspace.values.list_value import ListValue
from server.keyspace.values.sorted_set import SortedSet
from server.keyspace.values.stream import Stream

# The newest format that is read (Redis 7.4), and what is written: the oldest that says what there is to say.
_NEWEST: Final = 12
_PLAIN: Final = 10
_WITH_LIFETIMES: Final = 12
_FOOTER: Final = 10

# Types, by Redis's numbers.
_STRING: Final = 0
_LIST: Final = 1
_SET: Final = 2
_ZSET: Final = 3
_HASH: Final = 4
_ZSET_2: Final = 5
_HASH_ZIPMAP: Final = 9
_LIST_ZIPLIST: Final = 10
_SET_INTSET: Final = 11
_ZSET_ZIPLIST: Final = 12
_HASH_ZIPLIST: Final = 13
_LIST_QUICKLIST: Final = 14
_HASH_LISTPACK: Final = 16
_ZSET_LISTPACK: Final = 17
_LIST_QUICKLIST_2: Final = 18
_SET_LISTPACK: Final = 20
_HASH_METADATA_OLD: Final = 22
_HASH_LISTPACK_EX_OLD: Final = 23
_HASH_METADATA: Final = 24
_HASH_LISTPACK_EX: Final = 25

# A node of a quicklist: one long element, or a listpack.
_PLAIN_NODE: Final = 1
_PACKED_NODE: Final = 2

_DOUBLE: Final = struct.Struct("<d")


class Foreign(ValueError):
    """A checksum that does not match, or a format that is too new."""


class Unsupported(ValueError):
    """A value of a kind that is not read: a module's."""


# -- writing ----------------------------------------------------------------------------------------------------------


def _strings(kind: int, items: Iterable[bytes], count: int) -> list[bytes]:
    return [bytes((kind,)), length_of(count), *map(string_of, items)]


def _hash(fields: dict[bytes, bytes]) -> list[bytes]:
    deadlines = fields.deadlines if isinstance(fields, ExpiringHash) else {}
    if not deadlines:
        parts = [bytes((_HASH,)), length_of(len(fields))]
        for field, value in fields.items():
            parts += (string_of(field), string_of(value))
        return parts
    # Deadlines follow the earliest one, plus 1; 0 is none.
    earliest = min(deadlines.values())
    parts = [bytes((_HASH_METADATA,)), earliest.to_bytes(8, "little", signed=True), length_of(len(fields))]
    for field, value in fields.items():
        deadline_ms = deadlines.get(field)
        since = 0 if deadline_ms is None else deadline_ms - earliest + 1
        parts += (length_of(since), string_of(field), string_of(value))
    return parts


def _sorted_set(members: SortedSet) -> list[bytes]:
    parts = [bytes((_ZSET_2,)), length_of(len(members))]
    for member, points in members.items():
        parts += (string_of(member), _DOUBLE.pack(points))
    return parts


def payload_of(kind: int, value: object) -> bytes:
    """The payload of a value. O(size)."""
    version = _PLAIN
    if kind == STRING:
        parts = [bytes((_STRING,)), string_of(cast(bytes, value))]
    elif kind == LIST:
        items = cast(ListValue, value)
        parts = _strings(_LIST, items, len(items))
    elif kind == SET:
        members = cast(Collection[bytes], value)
        parts = _strings(_SET, members, len(members))
    elif kind == ZSET:
        parts = _sorted_set(cast(SortedSet, value))
    elif kind == HASH:
        parts = _hash(cast(dict[bytes, bytes], value))
        if parts[0][0] == _HASH_METADATA:
            version = _WITH_LIFETIMES
    else:
        parts = stream_parts(cast(Stream, value))
    parts.append(version.to_bytes(2, "little"))
    body = b"".join(parts)
    return body + crc64(body).to_bytes(8, "little")


# -- reading ----------------------------------------------------------------------------------------------------------


def _distinct(members: list[bytes]) -> set[bytes]:
    distinct = set(members)
    if len(distinct) != len(members) or not members:
        raise Malformed
    return distinct


def _paired(items: list[bytes]) -> dict[bytes, bytes]:
    # Fields and values in turn.
    if len(items) & 1:
        raise Malformed
    fields = dict(zip(items[::2], items[1::2], strict=True))
    if 2 * len(fields) != len(items) or not fields:
        raise Malformed
    return fields


def _scored(pairs: Iterable[tuple[bytes, float]], count: int) -> dict[bytes, float]:
    scores = dict(pairs)
    if len(scores) != count or not count or any(map(isnan, scores.values())):
        raise Malformed
    return scores


def _packed_scores(items: list[bytes]) -> dict[bytes, float]:
    if len(items) & 1:
        raise Malformed
    return _scored(zip(items[::2], map(number_of, items[1::2]), strict=True), len(items) // 2)


def _read_list(reader: Reader, kind: int) -> list[bytes]:
    if kind == _LIST:
        return reader.strings(reader.count())
    if kind == _LIST_ZIPLIST:
        return ziplist_items(reader.string())
    items: list[bytes] = []
    for _ in range(reader.count()):
        container = reader.length() if kind == _LIST_QUICKLIST_2 else 0
        node = reader.string()
        if container == _PLAIN_NODE:
            items.append(node)
        elif container == _PACKED_NODE:
            items += listpack_items(node)
        elif kind == _LIST_QUICKLIST:
            items += ziplist_items(node)
        else:
            raise Malformed
    return items


def _read_set(reader: Reader, kind: int) -> set[bytes]:
    if kind == _SET:
        return _distinct(reader.strings(reader.count()))
    packed = reader.string()
    return _distinct(intset_members(packed) if kind == _SET_INTSET else listpack_items(packed))


def _read_sorted_set(reader: Reader, kind: int) -> dict[bytes, float]:
    if kind == _ZSET_ZIPLIST:
        return _packed_scores(ziplist_items(reader.string()))
    if kind == _ZSET_LISTPACK:
        return _packed_scores(listpack_items(reader.string()))
    count = reader.count()
    pairs: list[tuple[bytes, float]] = []
    for _ in range(count):
        member = reader.string()
        points = reader.old_double() if kind == _ZSET else cast(float, _DOUBLE.unpack(reader.take(8))[0])
        pairs.append((member, points))
    return _scored(pairs, count)


def _read_hash(reader: Reader, kind: int) -> dict[bytes, bytes]:
    if kind == _HASH:
        return _paired(reader.strings(2 * reader.count()))
    if kind in (_HASH_METADATA, _HASH_METADATA_OLD):
        return _read_with_lifetimes(reader, kind)
    earliest = reader.milliseconds() if kind == _HASH_LISTPACK_EX else 0
    packed = reader.string()
    if kind == _HASH_ZIPMAP:
        return _paired(zipmap_items(packed))
    if kind == _HASH_ZIPLIST:
        return _paired(ziplist_items(packed))
    items = listpack_items(packed)
    if kind == _HASH_LISTPACK:
        return _paired(items)
    # Field, value and deadline in turn; the earliest one stands before them for those who do not want to look.
    if len(items) % 3 or earliest < 0:
        raise Malformed
    fields = _paired([item for at, item in enumerate(items) if at % 3 != 2])
    return _with_deadlines(
        fields, {field: int(number_of(text)) for field, text in zip(items[::3], items[2::3], strict=True)}
    )


def _read_with_lifetimes(reader: Reader, kind: int) -> dict[bytes, bytes]:
    earliest = reader.milliseconds() - 1 if kind == _HASH_METADATA else 0
    items: list[bytes] = []
    deadlines: dict[bytes, int] = {}
    for _ in range(reader.count()):
        since = reader.length()
        field = reader.string()
        items += (field, reader.string())
        deadlines[field] = earliest + since if since else 0
    return _with_deadlines(_paired(items), deadlines)


def _with_deadlines(fields: dict[bytes, bytes], deadlines: dict[bytes, int]) -> dict[bytes, bytes]:
    # 0 stands for none.
    given = {field: deadline_ms for field, deadline_ms in deadlines.items() if deadline_ms}
    return ExpiringHash(fields, given) if given else fields


_LISTS: Final = (_LIST, _LIST_ZIPLIST, _LIST_QUICKLIST, _LIST_QUICKLIST_2)
_SETS: Final = (_SET, _SET_INTSET, _SET_LISTPACK)
_SORTED_SETS: Final = (_ZSET, _ZSET_2, _ZSET_ZIPLIST, _ZSET_LISTPACK)
_HASHES: Final = (
    _HASH,
    _HASH_ZIPMAP,
    _HASH_ZIPLIST,
    _HASH_LISTPACK,
    _HASH_METADATA_OLD,
    _HASH_LISTPACK_EX_OLD,
    _HASH_METADATA,
    _HASH_LISTPACK_EX,
)


def value_of(payload: bytes) -> tuple[int, object]:
    """The kind and the plain value of a payload. Raises Foreign, Unsupported or Malformed. O(size)."""
    if len(payload) <= _FOOTER or int.from_bytes(payload[-10:-8], "little") > _NEWEST:
        raise Foreign
    # A checksum of zero means that none was made.
    checksum = int.from_bytes(payload[-8:], "little")
    if checksum and checksum != crc64(payload[:-8]):
        raise Foreign
    reader = Reader(payload[:-_FOOTER])
    kind, value = _read(reader, reader.byte())
    if reader.left() or (kind != STRING and not value):
        raise Malformed
    return kind, value


def _read(reader: Reader, kind: int) -> tuple[int, object]:
    if kind == _STRING:
        return STRING, reader.string()
    if kind in _LISTS:
        return LIST, _read_list(reader, kind)
    if kind in _SETS:
        return SET, _read_set(reader, kind)
    if kind in _SORTED_SETS:
        return ZSET, _read_sorted_set(reader, kind)
    if kind in _HASHES:
        return HASH, _read_hash(reader, kind)
    if kind in (_STREAM, _STREAM_2, _STREAM_3):
        return STREAM, read_stream(reader, kind)
    raise Unsupported
