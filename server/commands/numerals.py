"""Numbers as Redis computes and prints them.

INCRBYFLOAT and HINCRBYFLOAT calculate in C's `long double`, on x86-64 a significand of 64 bits, and print it with 17
decimals, trailing zeros removed. So 0.1 + 0.2 is `0.3` to a client. Python's float has 53 bits and would answer
0.30000000000000004; decimal arithmetic agrees for short numbers but parts from Redis where 64 bits run out. Here a
number is significand × 2^exponent in integers: every operation is exact and then rounded once to 64 bits, ties to even,
as the hardware does, so the texts are Redis's to the last digit, and the same on every machine.
"""

from __future__ import annotations

import re
from typing import Final

# The format of an x87 register: bits of the significand, exponent of the smallest denormal, and the first power of two
# that is too large.
_BITS: Final = 64
_LOWEST_EXPONENT: Final = -16445
_TOO_LARGE: Final = 16384
# Decimals printed: what Redis asks printf for.
_DECIMALS: Final = 17
_SCALE: Final = 10**_DECIMALS
# Redis copies a number into a buffer of this size; longer texts are no numbers.
_LONGEST_TEXT: Final = 5 * 1024 - 1
# Python refuses to convert more than 4,300 digits at once; long double has up to 4,933.
_CHUNK: Final = 4000
_CHUNK_SCALE: Final = 10**_CHUNK
# Decimal exponents beyond this are zero or infinity whatever the digits (of which there are at most 5,119) are.
_FAR_EXPONENT: Final = 20_000

_DECIMAL: Final = re.compile(rb"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?)([0-9]+))?")
_HEXADECIMAL: Final = re.compile(rb"([+-]?)0[xX]([0-9a-fA-F]*)(?:\.([0-9a-fA-F]*))?(?:[pP]([+-]?)([0-9]+))?")
_INFINITY: Final = re.compile(rb"[+-]?inf(?:inity)?", re.IGNORECASE)


class LongDouble:
    """significand × 2^exponent, as wide as a C long double; infinite when the exponent says so."""

    __slots__ = ("exponent", "significand")

    def __init__(self, significand: int, exponent: int) -> None:
        self.significand = significand
        self.exponent = exponent

    def is_infinite(self) -> bool:
        """Is it too large for a long double?"""
        return self.significand != 0 and abs(self.significand).bit_length() + self.exponent > _TOO_LARGE

    def plus(self, other: LongDouble) -> LongDouble:
        """The sum, rounded to 64 bits. Both must be finite; the sum need not be."""
        exponent = min(self.exponent, other.exponent)
        total = (self.significand << (self.exponent - exponent)) + (other.significand << (other.exponent - exponent))
        if exponent >= 0:
            return _rounded(total << exponent, 1)
        return _rounded(total, 1 << -exponent)

    def text(self) -> bytes:
        """As printf("%.17Lf") gives it, without trailing zeros; at most 4,952 bytes."""
        magnitude = abs(self.significand)
        if self.exponent >= 0:
            whole = magnitude << self.exponent
            fraction = 0
        else:
            whole, fraction = divmod(_divided(magnitude * _SCALE, 1 << -self.exponent), _SCALE)
        digits = _digits(whole)
        if fraction:
            digits += "." + str(fraction).zfill(_DECIMALS).rstrip("0")
        if self.significand < 0 and (whole or fraction):
            digits = "-" + digits
        return digits.encode()


_ZERO: Final = LongDouble(0, 0)
_INFINITE: Final = LongDouble(1, _TOO_LARGE)


def parse_long_double(text: bytes) -> LongDouble | None:
    """What strtold makes of the whole text; None when it is no number, NaN, or outside the range of a long double."""
    if len(text) > _LONGEST_TEXT:
        return None
    match = _DECIMAL.fullmatch(text)
    if match is not None:
        sign, whole, fraction, exponent_sign, exponent_digits = match.groups(b"")
        if not whole and not fraction:
            return None
        power = _exponent(exponent_sign, exponent_digits) - len(fraction)
        significand = _from_digits(whole + fraction)
        if abs(power) > _FAR_EXPONENT:
            return None if significand else _ZERO
        if sign == b"-":
            significand = -significand
        number = _rounded(significand * 10**power, 1) if power >= 0 else _rounded(significand, 10**-power)
    else:
        match = _HEXADECIMAL.fullmatch(text)
        if match is None:
            return _INFINITE if _INFINITY.fullmatch(text) else None
        sign, whole, fraction, exponent_sign, exponent_digits = match.groups(b"")
        if not whole and not fraction:
            return None
        power = _exponent(exponent_sign, exponent_digits) - 4 * len(fraction)
        significand = int(whole + fraction, 16)
        if abs(power) > 4 * _FAR_EXPONENT:
            return None if significand else _ZERO
        if sign == b"-":
            significand = -significand
        number = _rounded(significand << power, 1) if power >= 0 else _rounded(significand, 1 << -power)
    # ERANGE: overflow, or so small that nothing is left.
    if number.is_infinite() or (significand and not number.significand):
        return None
    return number


def _exponent(sign: bytes, digits: bytes) -> int:
    digits = digits.lstrip(b"0")
    # Nine digits are far outside the range already; int() refuses thousands of them.
    value = int(digits[:9] or b"0")
    return -value if sign == b"-" else value


def _from_digits(digits: bytes) -> int:
    if len(digits) <= _CHUNK:
        return int(digits)
    return int(digits[:-_CHUNK]) * _CHUNK_SCALE + int(digits[-_CHUNK:])


def _digits(number: int) -> str:
    if number < _CHUNK_SCALE:
        return str(number)
    high, low = divmod(number, _CHUNK_SCALE)
    return str(high) + str(low).zfill(_CHUNK)


def _divided(dividend: int, divisor: int) -> int:
    # The quotient rounded to the nearest integer, ties to even. Both positive.
    quotient, rest = divmod(dividend, divisor)
    rest *= 2
    if rest > divisor or (rest == divisor and quotient & 1):
        quotient += 1
    return quotient


def _rounded(numerator: int, denominator: int) -> LongDouble:
    if not numerator:
        return _ZERO
    magnitude = abs(numerator)
    if denominator == 1 and magnitude.bit_length() <= _BITS:
        return LongDouble(numerator, 0)
    # This exponent leaves 64 or 65 bits before rounding, so a second look is needed at most.
    exponent = max(magnitude.bit_length() - denominator.bit_length() - _BITS, _LOWEST_EXPONENT)
    while True:
        dividend = magnitude << max(0, -exponent)
        divisor = denominator << max(0, exponent)
        if (dividend // divisor).bit_length() <= _BITS:
            break
        exponent += 1
    significand = _divided(dividend, divisor)
    return LongDouble(-significand if numerator < 0 else significand, exponent)
