"""Glob: Redis's pattern language for keys and channels, compiled once and matched in O(pattern × text).

    *  anything    ?  one byte    [abc] [a-z] [^a-z]  one byte of a set    \\x  the byte x itself

Redis's own readings of odd patterns are kept: `]` closes a set even as its first byte, a range may be given backwards,
a set that is not closed ends with the pattern, and a lone backslash at the end stands for itself. One is not: in Redis
the empty text does not match `**`; here stars match anything.

A recursive matcher, or a translation to a regular expression, takes exponential time on `a*a*a*a*b`; remembering only
the *last* star is enough, because an earlier star never needs to give up what it has found (the shortest match of what
stands between two stars leaves the most to the rest). Patterns of literals and stars, which is what clients send, are
matched with `startswith`, `find` and `endswith`.
"""

from __future__ import annotations

from typing import Final

# Codes of a compiled pattern: a byte's value, or one of these; CLASS - n is the n-th set.
_ANY: Final = -1
_STAR: Final = -2
_CLASS: Final = -3

_BACKSLASH: Final = 92
_CARET: Final = 94
_CLOSE: Final = 93
_DASH: Final = 45
_OPEN: Final = 91
_QUESTION: Final = 63
_ASTERISK: Final = 42


class Glob:
    """A compiled pattern."""

    __slots__ = ("_classes", "_codes", "_pieces", "everything", "literal")

    def __init__(self, pattern: bytes) -> None:
        # A byte's value, ANY, STAR or CLASS - n; never two stars in a row.
        self._codes: list[int] = []
        # 256 flags each: is that byte in the set?
        self._classes: list[bytes] = []
        self._compile(pattern)
        # Matches whatever it is given.
        self.everything = self._codes == [_STAR]
        # What stands between the stars, when there is nothing but literals and stars; None otherwise.
        self._pieces = self._split()
        # The only text that matches, when there is just one.
        self.literal: bytes | None = None
        if self._pieces is not None and len(self._pieces) == 1:
            self.literal = self._pieces[0]

    def matches(self, text: bytes) -> bool:
        """Does the whole text fit the pattern?"""
        if self.everything:
            return True
        pieces = self._pieces
        if pieces is None:
            return self._walk(text)
        if self.literal is not None:
            return text == self.literal
        first = pieces[0]
        last = pieces[-1]
        start = len(first)
        end = len(text) - len(last)
        if start > end or not text.startswith(first) or not text.endswith(last):
            return False
        for piece in pieces[1:-1]:
            start = text.find(piece, start, end)
            if start < 0:
                return False
            start += len(piece)
        return True

    def _walk(self, text: bytes) -> bool:
        codes = self._codes
        length = len(codes)
        at = 0
        position = 0
        # Where the last star stands, and the first byte that it does not cover yet.
        star = -1
        resume = 0
        while position < len(text):
            if at < length:
                code = codes[at]
                if code == _STAR:
                    star = at
                    resume = position
                    at += 1
                    continue
                byte = text[position]
                if code in (byte, _ANY) or (code <= _CLASS and self._classes[_CLASS - code][byte]):
                    at += 1
                    position += 1
                    continue
            if star < 0:
                return False
            at = star + 1
            resume += 1
            position = resume
        return at == length or (at == length - 1 and codes[at] == _STAR)

    def _split(self) -> list[bytes] | None:
        pieces = [bytearray()]
        for code in self._codes:
            if code >= 0:
                pieces[-1].append(code)
            elif code == _STAR:
                pieces.append(bytearray())
            else:
                return None
        return [bytes(piece) for piece in pieces]

    def _compile(self, pattern: bytes) -> None:
        codes = self._codes
        at = 0
        while at < len(pattern):
            byte = pattern[at]
            if byte == _ASTERISK:
                if not codes or codes[-1] != _STAR:
                    codes.append(_STAR)
            elif byte == _QUESTION:
                codes.append(_ANY)
            elif byte == _OPEN:
                at = self._compile_class(pattern, at + 1)
                continue
            elif byte == _BACKSLASH and at + 1 < len(pattern):
                at += 1
                codes.append(pattern[at])
            else:
                codes.append(byte)
            at += 1

    def _compile_class(self, pattern: bytes, at: int) -> int:
        # `at` is behind the opening bracket; returns the position behind the set.
        negated = at < len(pattern) and pattern[at] == _CARET
        if negated:
            at += 1
        members = bytearray(256)
        while at < len(pattern):
            left = len(pattern) - at
            if left >= 2 and pattern[at] == _BACKSLASH:
                at += 1
                members[pattern[at]] = 1
            elif pattern[at] == _CLOSE:
                at += 1
                break
            elif left >= 3 and pattern[at + 1] == _DASH:
                low = min(pattern[at], pattern[at + 2])
                high = max(pattern[at], pattern[at + 2])
                for byte in range(low, high + 1):
                    members[byte] = 1
                at += 2
            else:
                members[pattern[at]] = 1
            at += 1
        if negated:
            for byte in range(256):
                members[byte] ^= 1
        self._codes.append(_CLASS - len(self._classes))
        self._classes.append(bytes(members))
        return at
