"""The struct library: binary strings after a format, as the Lua library of that name reads and writes them.

< > !n        little endian (at first), big endian, alignment to at most n (at first 1; alone 8)
b B h H i I l L T       signed and unsigned integers of 1, 2, 4, 8 bytes; iN IN: of N bytes; T: a size_t
f d           float, double
x             a byte of padding
cN            N bytes; c0: as many as there are (packing), or as the number read before says
s             a string that ends with a NUL
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from server.lua.bit_library import LibraryError, number_from, wrong_argument

_SIZES: Final = {"b": 1, "h": 2, "l": 8, "T": 8, "f": 4, "d": 8, "x": 1}
# The largest integer, in bytes, that the library has a buffer for.
_LARGEST: Final = 32
# What `!` without a number aligns to.
_NATURAL: Final = 8
# One call makes no string longer than this, whatever its format says.
_LONGEST: Final = 512 << 20


class _Format:
    """A walk through a format: one option at a time, with its size and the padding before it."""

    __slots__ = ("_align", "_at", "_format", "is_little")

    def __init__(self, format: bytes) -> None:
        self._format = format
        self._at = 0
        self._align = 1
        self.is_little = True

    def next(self, length: int, name: str) -> tuple[str, int, int] | None:
        """The next option that stands for data, its size, and the bytes of padding before it; None at the end."""
        while self._at < len(self._format):
            option = chr(self._format[self._at])
            self._at += 1
            if option == "<" or option == ">":
                self.is_little = option == "<"
            elif option == "!":
                self._align = self._number(_NATURAL)
                if self._align < 1 or self._align & (self._align - 1):
                    raise LibraryError(f"alignment {self._align} is not a power of 2")
            elif option != " ":
                size = self._size(option, name)
                return option, size, self._padding(length, option, size)
        return None

    def _number(self, default: int) -> int:
        start = self._at
        while self._format[self._at : self._at + 1].isdigit():
            self._at += 1
        if self._at == start:
            return default
        # More digits are no number that could be meant.
        if self._at - start > 9:
            raise LibraryError("integral size overflow")
        return int(self._format[start : self._at])

    def _size(self, option: str, name: str) -> int:
        if option in "iI":
            size = self._number(4)
            if size > _LARGEST:
                raise LibraryError(f"integral size {size} is larger than limit of {_LARGEST}")
            return size
        if option == "c":
            return self._number(1)
        if option == "s":
            return 0
        known = _SIZES.get(option if option in _SIZES else option.lower())
        if known is None or (option not in _SIZES and option not in "BHL"):
            raise wrong_argument(1, name, f"invalid format option '{option}'")
        return known

    def _padding(self, length: int, option: str, size: int) -> int:
        align = min(size, self._align)
        if align <= 1 or option == "c" or size == 0:
            return 0
        return (align - (length & (align - 1))) & (align - 1)


def _pack(*arguments: object) -> bytes:
    form = _Format(_text(arguments, 0, "pack"))
    out = bytearray()
    index = 1
    # The library marks the end of the arguments with a nil, and names that when one is missing.
    arguments = (*arguments, None)
    while (step := form.next(len(out), "pack")) is not None:
        option, size, padding = step
        out += bytes(padding)
        if option == "x":
            out += b"\0"
        elif option in "fd":
            number = float(number_from(arguments, index, "pack"))
            out += _float(number, option, form.is_little)
            index += 1
        elif option in "cs":
            out += _packed_text(arguments, index, option, size)
            index += 1
        else:
            out += _integer(number_from(arguments, index, "pack"), size, form.is_little)
            index += 1
        if len(out) > _LONGEST:
            raise LibraryError("resulting string too large")
    return bytes(out)


def _text(arguments: tuple[object, ...], index: int, name: str) -> bytes:
    value = arguments[index] if index < len(arguments) else None
    if isinstance(value, bytes):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return b"%d" % value if value == int(value) else repr(value).encode()
    got = "no value" if index >= len(arguments) else "nil" if value is None else "boolean"
    raise wrong_argument(index + 1, name, f"string expected, got {got}")


def _packed_text(arguments: tuple[object, ...], index: int, option: str, size: int) -> bytes:
    text = _text(arguments, index, "pack")
    if option == "s":
        return text + b"\0"
    size = size or len(text)
    if len(text) < size:
        # The library has counted on by now.
        raise wrong_argument(index + 2, "pack", "string too short")
    return text[:size]


def _integer(value: int | float, size: int, is_little: bool) -> bytes:
    # As C casts a double to a 64-bit integer, and its bytes repeat the sign beyond.
    whole = int(value) if abs(value) < 2.0**64 else 0
    whole &= 0xFFFFFFFFFFFFFFFF
    if value < 0:
        whole -= 1 << 64
    return (whole & ((1 << 8 * size) - 1)).to_bytes(size, "little" if is_little else "big")


def _float(value: float, option: str, is_little: bool) -> bytes:
    form = ("<" if is_little else ">") + option
    try:
        return struct.pack(form, value)
    except OverflowError:
        return struct.pack(form, float("inf") if value > 0 else float("-inf"))


def _unpack(*arguments: object) -> tuple[object, ...]:
    form = _Format(_text(arguments, 0, "unpack"))
    data = _text(arguments, 1, "unpack")
    start = number_from(arguments, 2, "unpack") if len(arguments) > 2 and arguments[2] is not None else 1
    if start < 1:
        raise wrong_argument(3, "unpack", "offset must be 1 or greater")
    at = int(start) - 1
    found: list[object] = []
    while (step := form.next(at, "unpack")) is not None:
        option, size, padding = step
        at += padding
        if at > len(data) or at + size > len(data):
            raise wrong_argument(2, "unpack", "data string too short")
        if option == "x":
            at += 1
        elif option == "c":
            if size == 0:
                size = _size_before(found)
            if at + size > len(data):
                raise wrong_argument(2, "unpack", "data string too short")
            found.append(data[at : at + size])
            at += size
        elif option == "s":
            end = data.find(b"\0", at)
            if end < 0:
                raise LibraryError("unfinished string in data")
            found.append(data[at:end])
            at = end + 1
        else:
            found.append(_number_at(data, at, option, size, form.is_little))
            at += size
    return (*found, at + 1)


def _size_before(found: list[object]) -> int:
    size = found.pop() if found else None
    if not isinstance(size, (int, float)) or size < 0:
        raise LibraryError("format 'c0' needs a previous size")
    return int(size)


def _number_at(data: bytes, at: int, option: str, size: int, is_little: bool) -> float:
    if option in "fd":
        value: float = struct.unpack_from(("<" if is_little else ">") + option, data, at)[0]
        return value
    raw = data[at : at + size]
    return float(int.from_bytes(raw, "little" if is_little else "big", signed=option.islower()))


def _size(*arguments: object) -> int:
    form = _Format(_text(arguments, 0, "size"))
    total = 0
    while (step := form.next(total, "size")) is not None:
        option, size, padding = step
        if option == "s" or (option == "c" and size == 0):
            shown = "c0" if option == "c" else option
            raise wrong_argument(1, "size", f"option '{shown}' has no fixed size")
        total += padding + size
    return total


FUNCTIONS: Final[dict[str, Callable[..., object]]] = {"pack": _pack, "size": _size, "unpack": _unpack}
