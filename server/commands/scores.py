"""Scores: the numbers of sorted sets as clients write them, the ranges made of them, and how they are printed.

C reads a score with strtod, which takes more than Python's float: hexadecimal numbers, and no underscores or spaces
around. Redis reads the bounds of a range less strictly than a score: leading spaces pass, nothing at all is zero, and
what is too large is infinite.
"""

from __future__ import annotations

import re
from math import inf, isfinite, isnan
from typing import Final

from protocol.replies import Error
from server.errors import NOT_FLOAT, CommandError
from server.keyspace.values.sorted_set import SortedSet

NO_SCORE_RANGE: Final = Error("ERR min or max is not a float")
NO_TEXT_RANGE: Final = Error("ERR min or max not valid string range item")

_DECIMAL: Final = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_HEXADECIMAL: Final = re.compile(rb"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?")
_INFINITY: Final = re.compile(rb"[+-]?inf(?:inity)?", re.IGNORECASE)
# So many digits are a number of which nothing gets lost: most scores are counts or times.
PLAIN_DIGITS: Final = 15
# What C's isspace calls space.
_SPACE: Final = b" \t\n\v\f\r"
# Beyond this a whole number needs more digits than a double has, and C's %.17g changes to an exponent.
_PLAIN_BELOW: Final = 1e17


def strtod(text: bytes) -> float | None:
    """The double that the whole text spells, infinite when it is too large; None when it spells none, or NaN."""
    if _DECIMAL.fullmatch(text) or _INFINITY.fullmatch(text):
        return float(text)
    if _HEXADECIMAL.fullmatch(text):
        try:
            return float.fromhex(text.decode("ascii"))
        except OverflowError:
            return -inf if text[:1] == b"-" else inf
    return None


def score(text: bytes, refusal: Error = NOT_FLOAT) -> float:
    """A score argument: a double, infinite only if it says so, and not so small that nothing is left of it."""
    if len(text) <= PLAIN_DIGITS and text.isdigit():
        return float(text)
    value = strtod(text)
    if value is None:
        raise CommandError(refusal)
    # ERANGE: it became infinite or zero without being spelled so.
    if not isfinite(value):
        if not _INFINITY.fullmatch(text):
            raise CommandError(refusal)
    elif value == 0.0 and _has_significand(text):
        raise CommandError(refusal)
    return value


def _has_significand(text: bytes) -> bool:
    # Is there a digit but 0 before the exponent?
    text = text.lstrip(b"+-").lower()
    if text[:2] == b"0x":
        return bool(text[2:].split(b"p")[0].strip(b"0."))
    return bool(text.split(b"e")[0].strip(b"0."))


def score_text(value: float) -> bytes:
    """A score as text: the shortest that reads back the same, in the shape in which RESP2 sends doubles."""
    if not isfinite(value):
        return b"nan" if isnan(value) else b"inf" if value > 0 else b"-inf"
    if -_PLAIN_BELOW < value < _PLAIN_BELOW and value == int(value):
        return b"-0" if value == 0 and str(value)[0] == "-" else b"%d" % int(value)
    return repr(value).encode()


# -- ranges -----------------------------------------------------------------------------------------------------------


class ScoreBounds:
    """`min` and `max` of a range of scores: `5`, `(5` without 5 itself, `-inf`, `+inf`."""

    __slots__ = ("high", "low", "without_high", "without_low")

    def __init__(self, low: bytes, high: bytes) -> None:
        self.without_low = low[:1] == b"("
        self.without_high = high[:1] == b"("
        self.low = _bound(low[1:] if self.without_low else low)
        self.high = _bound(high[1:] if self.without_high else high)

    def ranks(self, members: SortedSet) -> tuple[int, int]:
        """The ranks (first, end) of the members whose scores lie within. O(log n)."""
        return members.by_score(self.low, self.high, self.without_low, self.without_high)


def _bound(text: bytes) -> float:
    # As C sees it: the text ends at its first NUL.
    text = text.partition(b"\0")[0]
    if not text:
        return 0.0
    value = strtod(text.lstrip(_SPACE))
    if value is None:
        raise CommandError(NO_SCORE_RANGE)
    return value


class TextBounds:
    """`min` and `max` of a range of members: `[a` with a, `(a` without it, `-` and `+` before and behind all."""

    __slots__ = ("high", "is_empty", "low", "without_high", "without_low")

    def __init__(self, low: bytes, high: bytes) -> None:
        self.low = _text_bound(low)
        self.high = _text_bound(high)
        self.without_low = low[:1] == b"("
        self.without_high = high[:1] == b"("
        # From behind all members, or to before all.
        self.is_empty = low[:1] == b"+" or high[:1] == b"-"

    def ranks(self, members: SortedSet) -> tuple[int, int]:
        """The ranks (first, end) of the members within, if all have the same score. O(log n)."""
        if self.is_empty:
            return 0, 0
        return members.by_text(self.low, self.high, self.without_low, self.without_high)


def _text_bound(text: bytes) -> bytes | None:
    # None for the two that are no text.
    if text[:1] in (b"[", b"("):
        return text[1:]
    # NUL ends a text in C.
    if text.partition(b"\0")[0] in (b"-", b"+") and text[1:2] in (b"", b"\0"):
        return None
    raise CommandError(NO_TEXT_RANGE)
