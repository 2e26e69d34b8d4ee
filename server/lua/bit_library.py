"""The bit library: operations on 32-bit integers, as LuaJIT's bit module defines them.

Numbers are taken modulo 2^32, fractions rounded to even first; results are signed. LibraryError tells of a wrong
argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_MASK: Final = 0xFFFFFFFF
_SIGN: Final = 0x80000000


class LibraryError(Exception):
    """What a script did wrong, in the words of Lua."""


def wrong_argument(number: int, name: str, reason: str) -> LibraryError:
    """Lua's error for an argument."""
    return LibraryError(f"bad argument #{number} to '{name}' ({reason})")


def number_from(arguments: tuple[object, ...], index: int, name: str, first: int = 1) -> int | float:
    """An argument as a number; Lua takes strings that look like one. `first` is what Lua calls the first argument."""
    value = arguments[index] if index < len(arguments) else None
    if isinstance(value, bytes):
        try:
            return float(value)
        except ValueError:
            raise wrong_argument(index + first, name, "number expected, got string") from None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, bool):
        raise wrong_argument(index + first, name, "number expected, got boolean")
    got = "nil" if index < len(arguments) else "no value"
    raise wrong_argument(index + first, name, f"number expected, got {got}")


def _unsigned(arguments: tuple[object, ...], index: int, name: str) -> int:
    value = number_from(arguments, index, name)
    try:
        return round(value) & _MASK
    except (ValueError, OverflowError):
        # Not a number, or infinite.
        return 0


def _signed(value: int) -> int:
    value &= _MASK
    return value - 0x100000000 if value & _SIGN else value


def _tobit(*arguments: object) -> int:
    return _signed(_unsigned(arguments, 0, "tobit"))


def _bnot(*arguments: object) -> int:
    return _signed(~_unsigned(arguments, 0, "bnot"))


def _band(*arguments: object) -> int:
    value = _unsigned(arguments, 0, "band")
    for index in range(1, len(arguments)):
        value &= _unsigned(arguments, index, "band")
    return _signed(value)


def _bor(*arguments: object) -> int:
    value = _unsigned(arguments, 0, "bor")
    for index in range(1, len(arguments)):
        value |= _unsigned(arguments, index, "bor")
    return _signed(value)


def _bxor(*arguments: object) -> int:
    value = _unsigned(arguments, 0, "bxor")
    for index in range(1, len(arguments)):
        value ^= _unsigned(arguments, index, "bxor")
    return _signed(value)


def _lshift(*arguments: object) -> int:
    return _signed(_unsigned(arguments, 0, "lshift") << (_unsigned(arguments, 1, "lshift") & 31))


def _rshift(*arguments: object) -> int:
    return _signed(_unsigned(arguments, 0, "rshift") >> (_unsigned(arguments, 1, "rshift") & 31))


def _arshift(*arguments: object) -> int:
    return _signed(_unsigned(arguments, 0, "arshift")) >> (_unsigned(arguments, 1, "arshift") & 31)


def _rol(*arguments: object) -> int:
    return _rotated(_unsigned(arguments, 0, "rol"), _unsigned(arguments, 1, "rol"))


def _ror(*arguments: object) -> int:
    return _rotated(_unsigned(arguments, 0, "ror"), 32 - (_unsigned(arguments, 1, "ror") & 31))


def _rotated(value: int, count: int) -> int:
    count &= 31
    return _signed(value << count | value >> (32 - count))


def _bswap(*arguments: object) -> int:
    return _signed(int.from_bytes(_unsigned(arguments, 0, "bswap").to_bytes(4, "little"), "big"))


def _tohex(*arguments: object) -> bytes:
    value = _unsigned(arguments, 0, "tohex")
    digits = _signed(_unsigned(arguments, 1, "tohex")) if len(arguments) > 1 else 8
    text = b"%08X" % value if digits < 0 else b"%08x" % value
    count = min(abs(digits), 8)
    return text[8 - count :]


FUNCTIONS: Final[dict[str, Callable[..., object]]] = {
    "arshift": _arshift,
    "band": _band,
    "bnot": _bnot,
    "bor": _bor,
    "bswap": _bswap,
    "bxor": _bxor,
    "lshift": _lshift,
    "rol": _rol,
    "ror": _ror,
    "rshift": _rshift,
    "tobit": _tobit,
    "tohex": _tohex,
}
