"""What dump payloads are made of: lengths, strings, numbers, written and read.

A length is 6, 14, 32 or 64 bits, told apart by the highest bits of its first byte; where a string is expected it may
also say "an integer of 8, 16 or 32 bits" or "compressed".
"""

from __future__ import annotations

from math import inf
from typing import Final

from server.commands.args import MAX_STRING, parse_integer
from server.commands.rdb_encodings import Malformed, lzf_decompressed
from server.commands.scores import strtod

# Integers of strings, by their code: bytes that follow.
_INTEGERS: Final = {0xC0: 1, 0xC1: 2, 0xC2: 4}
_COMPRESSED: Final = 0xC3


# -- writing ----------------------------------------------------------------------------------------------------------


# Of texts below 64 bytes.
_HEADS: Final = [bytes((size,)) for size in range(64)]


def length_of(number: int) -> bytes:
    """A length, or any other number from 0 to 2^64 - 1."""
    if number < 64:
        return bytes((number,))
    if number < 16384:
        return (0x4000 | number).to_bytes(2, "big")
    if number < 1 << 32:
        return b"\x80" + number.to_bytes(4, "big")
    return b"\x81" + number.to_bytes(8, "big")


def string_of(text: bytes) -> bytes:
    """A string; short texts of integers are written as such."""
    if len(text) <= 11:
        number = parse_integer(text)
        if number is not None:
            if -128 <= number < 128:
                return b"\xc0" + number.to_bytes(1, "little", signed=True)
            if -32768 <= number < 32768:
                return b"\xc1" + number.to_bytes(2, "little", signed=True)
            if -(1 << 31) <= number < 1 << 31:
                return b"\xc2" + number.to_bytes(4, "little", signed=True)
    return (_HEADS[len(text)] if len(text) < 64 else length_of(len(text))) + text


# -- reading ----------------------------------------------------------------------------------------------------------


class Reader:
    """The bytes of a payload, taken one after the other. Raises Malformed when they end too soon."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def left(self) -> int:
        """Bytes not taken yet."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """The next bytes."""
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise Malformed
        self._at += size
        return part

    def byte(self) -> int:
        """The next one."""
        return self.take(1)[0]

    def length(self) -> int:
        """A length."""
        return self._length(self.byte())

    def _length(self, code: int) -> int:
        if code < 0x40:
            return code
        if code < 0x80:
            return (code & 63) << 8 | self.byte()
        if code == 0x80:
            return int.from_bytes(self.take(4), "big")
        if code == 0x81:
            return int.from_bytes(self.take(8), "big")
        raise Malformed

    def size(self) -> int:
        """How many parts follow, each of a byte at least, or none: a number that cannot be true is not believed."""
        count = self.length()
        if count > self.left():
            raise Malformed
        return count

    def count(self) -> int:
        """The same where there must be one."""
        count = self.size()
        if not count:
            raise Malformed
        return count

    def string(self) -> bytes:
        """A string, however it is written."""
        code = self.byte()
        width = _INTEGERS.get(code, 0)
        if width:
            return b"%d" % int.from_bytes(self.take(width), "little", signed=True)
        if code != _COMPRESSED:
            return self.take(self._length(code))
        packed = self.length()
        size = self.length()
        if size > MAX_STRING:
            raise Malformed
        return lzf_decompressed(self.take(packed), size)

    def strings(self, count: int) -> list[bytes]:
        """So many strings."""
        return [self.string() for _ in range(count)]

    def milliseconds(self) -> int:
        """A time."""
        return int.from_bytes(self.take(8), "little", signed=True)

    def old_double(self) -> float:
        """A double as decimal text, as it was written before Redis 4."""
        size = self.byte()
        if size >= 253:
            if size == 253:
                raise Malformed
            return inf if size == 254 else -inf
        return number_of(self.take(size))


def number_of(text: bytes) -> float:
    """The double that a text spells."""
    value = strtod(text)
    if value is None:
        raise Malformed
    return value
