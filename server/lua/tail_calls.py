"""Tail calls of library functions, made ordinary calls in compiled Lua.

`return redis.call(…)` is a tail call: the frame of the script is gone when the call fails, and with it the line that
the error reply names. In Redis redis.call is a C function, for which the frame stays. Ours are Lua functions; so in
what the compiler has made of a script, tail calls of a field, a method or a global become plain calls. Those of local
variables stay, because recursion without end through them is legal.

The format is that of Lua 5.1's own `string.dump`. What does not look like it is left as it is.
"""

from __future__ import annotations

import struct
from typing import Final

# Signature, version 5.1, official format, little endian, sizes of int, size_t, instruction and number, floating point.
_HEADER: Final = b"\x1bLuaQ\x00\x01\x04\x08\x04\x08\x00"
_GETUPVAL: Final = 4
_GETGLOBAL: Final = 5
_GETTABLE: Final = 6
_SELF: Final = 11
_CALL: Final = 28
_TAILCALL: Final = 29
_MOVE: Final = 0
_CLOSURE: Final = 36
# What may put a function into the register from which it is called.
_LOADS: Final = frozenset((_MOVE, _GETUPVAL, _GETGLOBAL, _GETTABLE, _SELF, _CALL, _CLOSURE))
_BY_NAME: Final = frozenset((_GETGLOBAL, _GETTABLE, _SELF))


def without_tail_calls(dumped: bytes) -> bytes:
    """The same code, in which library functions are called by plain calls. O(size)."""
    if not dumped.startswith(_HEADER):
        return dumped
    code = bytearray(dumped)
    _function(code, len(_HEADER))
    return bytes(code)


def _function(code: bytearray, at: int) -> int:
    # One function and those inside it; the position behind. Source name, two lines, four counts, then the lists.
    at = _skip_string(code, at) + 4 + 4 + 4
    count = _count(code, at)
    _rewrite(code, at + 4, count)
    at = _skip_constants(code, at + 4 + 4 * count)
    inner = _count(code, at)
    at += 4
    for _ in range(inner):
        at = _function(code, at)
    at += 4 + 4 * _count(code, at)
    variables = _count(code, at)
    at += 4
    for _ in range(variables):
        at = _skip_string(code, at) + 8
    names = _count(code, at)
    at += 4
    for _ in range(names):
        at = _skip_string(code, at)
    return at


def _rewrite(code: bytearray, start: int, count: int) -> None:
    for index in range(count):
        at = start + 4 * index
        instruction = _count(code, at)
        if instruction & 63 == _TAILCALL and _is_by_name(code, start, index, instruction >> 6 & 255):
            struct.pack_into("<I", code, at, instruction & ~63 | _CALL)


def _is_by_name(code: bytearray, start: int, index: int, register: int) -> bool:
    # The arguments lie in higher registers, so the nearest instruction before that fills this one loads the function.
    while index:
        index -= 1
        instruction = _count(code, start + 4 * index)
        if instruction >> 6 & 255 == register and instruction & 63 in _LOADS:
            return instruction & 63 in _BY_NAME
    return False


def _skip_constants(code: bytearray, at: int) -> int:
    count = _count(code, at)
    at += 4
    for _ in range(count):
        kind = code[at]
        at += 1
        if kind == 1:
            at += 1
        elif kind == 3:
            at += 8
        elif kind == 4:
            at = _skip_string(code, at)
    return at


def _skip_string(code: bytearray, at: int) -> int:
    size: int = struct.unpack_from("<Q", code, at)[0]
    return at + 8 + size


def _count(code: bytearray, at: int) -> int:
    number: int = struct.unpack_from("<I", code, at)[0]
    return number
