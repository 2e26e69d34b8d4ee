"""Arrays as parameters of PostgreSQL statements, packed in one go.

Rows travel as one array per column, so packing arrays is most of what a statement costs this process. asyncpg asks two
abstract base classes about each element (might it be an array, too?) and calls one encoder per element: 0.7 µs of the
0.8 that an element costs. Here an array is a list of one dimension, and is packed by a few calls for all of its
elements:

    dimensions, flags, type of the elements, length, lower bound     32 bits each
    then, for each element, its length in bytes and these bytes      -1: NULL

asyncpg takes codecs for arrays through its settings alone; its public method refuses all but scalars.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

# Of a column: its values, or None where one is NULL.
Packer = Callable[[Sequence[Any]], bytes]

_HEAD: Final = struct.Struct(">iiIii")
_INT: Final = struct.Struct(">i")
_NULL: Final = _INT.pack(-1)
# Lengths of most elements, packed once: those of keys, names and small values.
_LENGTHS: Final = [_INT.pack(length) for length in range(2048)]


class ArrayType(NamedTuple):
    """A type of arrays whose codec is ours, with the numbers that PostgreSQL knows it and its elements by."""

    name: str
    oid: int
    element_oid: int
    # Of whole numbers: the letter by which `struct` knows them, and their bytes. None: text, or bytes.
    letter: str = ""
    size: int = 0
    is_text: bool = False


TYPES: Final = (
    ArrayType("_int2", 1005, 21, "h", 2),
    ArrayType("_int4", 1007, 23, "i", 4),
    ArrayType("_int8", 1016, 20, "q", 8),
    ArrayType("_text", 1009, 25, is_text=True),
    ArrayType("_bytea", 1001, 17),
)


def teach(settings: Any) -> None:
    """Let a connection with these settings pack such arrays so; before its first statement."""
    for each in TYPES:
        settings.add_python_codec(
            each.oid, each.name, "pg_catalog", [], "scalar", packer_of(each), unpacker_of(each), "binary"
        )


def packer_of(kind: ArrayType) -> Packer:
    """What makes bytes of a list. It raises what its elements raise: asyncpg tells of bad input then."""
    if kind.letter:
        return _Numbers(kind)
    return _Texts(kind) if kind.is_text else _Blobs(kind)


class _Numbers:
    """Packs whole numbers."""

    def __init__(self, kind: ArrayType) -> None:
        self._oid = kind.element_oid
        self._item = "i" + kind.letter
        self._size = kind.size
        self._one = struct.Struct(">" + self._item)

    def __call__(self, values: Sequence[Any]) -> bytes:
        length = len(values)
        head = _HEAD.pack(1, 0, self._oid, length, 1)
        missing = values.count(None)
        if missing == length:
            return head + _NULL * length
        if missing:
            pack, size = self._one.pack, self._size
            return head + b"".join([_NULL if value is None else pack(size, value) for value in values])
        # Length, number, length, number …
        flat: list[object] = [self._size] * (2 * length)
        flat[1::2] = values
        return head + struct.pack(">" + self._item * length, *flat)


class _Blobs:
    """Packs bytes."""

    def __init__(self, kind: ArrayType) -> None:
        self._oid = kind.element_oid

    def __call__(self, values: Sequence[Any]) -> bytes:
        if None in values:
            return self._packed(
                [_NULL if value is None else _length(len(value)) for value in values],
                [value or b"" for value in values],
            )
        lengths = list(map(len, values))
        if max(lengths, default=0) < len(_LENGTHS):
            return self._packed(list(map(_LENGTHS.__getitem__, lengths)), values)
        return self._packed(list(map(_length, lengths)), values)

    def _packed(self, lengths: list[bytes], values: Sequence[bytes]) -> bytes:
        count = len(lengths)
        parts = [_HEAD.pack(1, 0, self._oid, count, 1)] * (2 * count + 1)
        parts[1::2] = lengths
        parts[2::2] = values
        return b"".join(parts)


class _Texts(_Blobs):
    """Packs text."""

    def __call__(self, values: Sequence[Any]) -> bytes:
        if None in values:
            return super().__call__([None if value is None else value.encode() for value in values])
        return super().__call__([value.encode() for value in values])


def _length(length: int) -> bytes:
    return _LENGTHS[length] if length < len(_LENGTHS) else _INT.pack(length)


def unpacker_of(kind: ArrayType) -> Callable[[bytes], list[object]]:
    """What makes a list of bytes that the server sent."""
    return _Unpacker(kind)


class _Unpacker:
    """Unpacks arrays of one dimension; a statement of ours asks for no others."""

    def __init__(self, kind: ArrayType) -> None:
        self._kind = kind

    def __call__(self, data: bytes) -> list[object]:
        dimensions = _INT.unpack_from(data)[0]
        if not dimensions:
            return []
        if dimensions != 1:
            raise ValueError(f"an array of {dimensions} dimensions")
        count = _HEAD.unpack_from(data)[3]
        values: list[object] = []
        at = _HEAD.size
        for _ in range(count):
            length = _INT.unpack_from(data, at)[0]
            at += _INT.size
            if length < 0:
                values.append(None)
                continue
            values.append(self._value(data[at : at + length]))
            at += length
        return values

    def _value(self, item: bytes) -> object:
        if self._kind.letter:
            return int.from_bytes(item, "big", signed=True)
        return item.decode() if self._kind.is_text else item
