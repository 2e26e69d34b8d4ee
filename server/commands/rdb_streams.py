"""Streams in dump payloads: listpacks of entries, the marks of the stream, its groups.

    nodes       id of the node's first entry, listpack
    stream      entries, last id, first id, highest deleted id, entries added
    groups      name, last id, entries read, what is pending, consumers with the ids pending with each

A node's listpack begins with a master entry: how many entries follow, how many of them are deleted, and the field names
of the first one, which those that have the same names do not repeat. Ids are told as differences from the node's.

Written is the form of Redis 7.0 (type 19), which every Redis since then reads. It does not know when a consumer was
last active, only when it was last seen; whoever reads it takes the one for the other. Read are also the older form,
which has no first id and no counts, and that of Redis 7.2, which has both times.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from server.commands.args import parse_integer
from server.commands.rdb_encodings import Malformed, listpack_items, listpack_of
from server.commands.rdb_primitives import Reader, length_of, string_of
from server.keyspace.values.stream import SEQUENCE_BITS, SEQUENCE_MASK, UNKNOWN, Group, Stream, revive_stream

# Redis 5, 7.0, 7.2.
STREAM: Final = 15
STREAM_2: Final = 19
STREAM_3: Final = 21

# What Redis itself puts into a node.
_NODE_ENTRIES: Final = 100
_ID_BYTES: Final = 16
_DELETED: Final = 1
_SAME_NAMES: Final = 2
_WORD: Final = 1 << 64


# -- writing ----------------------------------------------------------------------------------------------------------


def stream_parts(stream: Stream) -> list[bytes]:
    """The type and the value. O(size)."""
    entries = iter(stream.entries)
    nodes: list[bytes] = []
    count = 0
    while chunk := list(islice(entries, _NODE_ENTRIES)):
        nodes += _node(chunk)
        count += 1
    marks = (stream.last_id, stream.entries.first() if len(stream.entries) else 0, stream.max_deleted_id)
    parts = [bytes((STREAM_2,)), length_of(count), *nodes, length_of(len(stream))]
    parts += [_id(number) for number in marks]
    parts += [length_of(stream.entries_added), length_of(len(stream.groups))]
    for group in stream.groups.values():
        parts += _group(group)
    return parts


def _id(number: int) -> bytes:
    return length_of(number >> SEQUENCE_BITS) + length_of(number & SEQUENCE_MASK)


def _packed(number: int) -> bytes:
    return number.to_bytes(_ID_BYTES, "big")


def _node(entries: list[tuple[int, tuple[bytes, ...]]]) -> list[bytes]:
    first, words = entries[0]
    names = words[::2]
    items: list[bytes | int] = [len(entries), 0, len(names), *names, 0]
    for number, words in entries:
        ms = (number >> SEQUENCE_BITS) - (first >> SEQUENCE_BITS)
        sequence = (number & SEQUENCE_MASK) - (first & SEQUENCE_MASK)
        if words[::2] == names:
            # Behind each entry stands how many items it has, for whoever walks backwards.
            items += [_SAME_NAMES, _signed(ms), _signed(sequence), *words[1::2], len(names) + 3]
        else:
            items += [0, _signed(ms), _signed(sequence), len(words) // 2, *words, len(words) + 4]
    return [string_of(_packed(first)), string_of(listpack_of(items))]


def _signed(difference: int) -> int:
    # Differences are 64 bits that wrap around.
    return (difference + (_WORD >> 1)) % _WORD - (_WORD >> 1)


def _group(group: Group) -> list[bytes]:
    parts = [string_of(group.name), _id(group.last_id), length_of(group.entries_read % _WORD)]
    parts.append(length_of(len(group.pending)))
    for number, pending in group.pending:
        parts += [_packed(number), pending.delivered_ms.to_bytes(8, "little", signed=True), length_of(pending.count)]
    parts.append(length_of(len(group.consumers)))
    for consumer in group.consumers.values():
        parts += [string_of(consumer.name), consumer.seen_ms.to_bytes(8, "little", signed=True)]
        parts.append(length_of(len(consumer.pending)))
        parts += [_packed(number) for number, _ in consumer.pending]
    return parts


# -- reading ----------------------------------------------------------------------------------------------------------


def read_stream(reader: Reader, kind: int) -> list[object]:
    """The plain form of a stream (values/stream.py). Raises Malformed. O(size)."""
    entries: list[object] = []
    last = -1
    for _ in range(reader.size()):
        for number, words in _read_node(reader):
            if number <= last:
                raise Malformed
            last = number
            entries.append([_packed(number), words])
    if reader.length() != len(entries):
        raise Malformed
    last_id = _read_id(reader)
    if last > last_id:
        raise Malformed
    max_deleted_id = 0
    entries_added = len(entries)
    if kind != STREAM:
        # The first id is known from the entries.
        _read_id(reader)
        max_deleted_id = _read_id(reader)
        entries_added = reader.length()
    groups: list[list[object]] = []
    plain: list[object] = [_packed(last_id), _packed(max_deleted_id), entries_added, entries, groups]
    # The older form does not say how far its groups have come.
    measure = revive_stream(plain) if kind == STREAM else None
    names: set[bytes] = set()
    for _ in range(reader.size()):
        group = _read_group(reader, kind, measure)
        names.add(group[0])  # type: ignore[arg-type]
        groups.append(group)
    if len(names) != len(groups):
        raise Malformed
    return plain


def _read_id(reader: Reader) -> int:
    return reader.length() << SEQUENCE_BITS | reader.length()


def _integer(items: list[bytes], at: int) -> int:
    number = parse_integer(items[at]) if at < len(items) else None
    if number is None:
        raise Malformed
    return number


def _part(items: list[bytes], at: int, count: int) -> list[bytes]:
    part = items[at : at + count]
    if count < 0 or len(part) != count:
        raise Malformed
    return part


def _read_node(reader: Reader) -> list[tuple[int, list[bytes]]]:
    key = reader.string()
    if len(key) != _ID_BYTES:
        raise Malformed
    first = int.from_bytes(key, "big")
    items = listpack_items(reader.string())
    count = _integer(items, 0) + _integer(items, 1)
    names = _part(items, 3, _integer(items, 2))
    # Behind the master entry stands a zero.
    at = 4 + len(names)
    found: list[tuple[int, list[bytes]]] = []
    for _ in range(count):
        flags = _integer(items, at)
        ms = (first >> SEQUENCE_BITS) + _integer(items, at + 1)
        sequence = (first & SEQUENCE_MASK) + _integer(items, at + 2)
        at += 3
        if flags & _SAME_NAMES:
            values = _part(items, at, len(names))
            words = [word for pair in zip(names, values, strict=True) for word in pair]
            at += len(values)
        else:
            words = _part(items, at + 1, 2 * _integer(items, at))
            at += 1 + len(words)
        # Over how many items it stands that were read.
        at += 1
        if not words:
            raise Malformed
        if not flags & _DELETED:
            found.append((ms % _WORD << SEQUENCE_BITS | sequence % _WORD, words))
    if at != len(items):
        raise Malformed
    return found


def _read_group(reader: Reader, kind: int, measure: Stream | None) -> list[object]:
    name = reader.string()
    last_id = _read_id(reader)
    entries_read = measure.entries_up_to(last_id) if measure is not None else reader.length()
    if entries_read >= _WORD >> 1:
        entries_read = UNKNOWN
    deliveries: dict[bytes, tuple[int, int]] = {}
    for _ in range(reader.size()):
        number = reader.take(_ID_BYTES)
        deliveries[number] = (reader.milliseconds(), reader.length())
    consumers: list[list[object]] = []
    owners: dict[bytes, int] = {}
    for place in range(reader.size()):
        consumer = reader.string()
        seen_ms = reader.milliseconds()
        active_ms = reader.milliseconds() if kind == STREAM_3 else seen_ms
        consumers.append([consumer, seen_ms, active_ms])
        for _ in range(reader.size()):
            number = reader.take(_ID_BYTES)
            if number not in deliveries or number in owners:
                raise Malformed
            owners[number] = place
    if len(owners) != len(deliveries) or len({bytes(each[0]) for each in consumers}) != len(consumers):  # type: ignore[call-overload]
        raise Malformed
    pending = [[number, owners[number], *deliveries[number]] for number in sorted(deliveries)]
    return [name, _packed(last_id), entries_read, consumers, pending]
