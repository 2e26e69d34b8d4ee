"""What a script returned: from the sandbox's notation to a reply.

A letter, for most a number or a size and a newline, then the text if there is one:

    _ t f             nothing, true, false
    :n  ,x            an integer, a double
    $n + - ( =        a string, status, error, big number, verbatim string (format and text) of n bytes
    *n  ~n  %n        an array or set of n values, a map of n pairs, which follow
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.replies import BigNumber, Error, Map, SetOf, Status, Verbatim

_TEXTS: Final = b"$+-(="
# Booleans by the protocol that the script has chosen.
_WORDS: Final[dict[int, dict[int, object]]] = {
    2: {ord("_"): None, ord("t"): 1, ord("f"): None},
    3: {ord("_"): None, ord("t"): True, ord("f"): False},
}


class _Open:
    """A collection that is being read."""

    __slots__ = ("close", "items", "left")

    def __init__(self, left: int, close: Callable[[list[object]], object]) -> None:
        self.left = left
        self.items: list[object] = []
        self.close = close


def _as_array(items: list[object]) -> object:
    return items


def _as_map(items: list[object]) -> object:
    return Map(zip(items[::2], items[1::2], strict=True))


def read_result(data: bytes, protocol: int) -> object:
    """The reply that the notation stands for; `protocol`: that of the script (redis.setresp).

    O(size), and nesting costs no recursion.
    """
    words = _WORDS[protocol]
    opened: list[_Open] = []
    at = 0
    while True:
        letter = data[at]
        at += 1
        value: object
        if letter in words:
            value = words[letter]
        else:
            end = data.index(b"\n", at)
            size = data[at:end]
            at = end + 1
            if letter == 0x3A:
                value = int(size)
            elif letter == 0x2C:
                value = float(size)
            elif letter in _TEXTS:
                value = _text(letter, data[at : at + int(size)])
                at += int(size)
            else:
                opened.append(_collection(letter, int(size)))
                value = None
                if opened[-1].left:
                    continue
                last = opened.pop()
                value = last.close(last.items)
        while opened:
            inner = opened[-1]
            inner.items.append(value)
            inner.left -= 1
            if inner.left:
                break
            opened.pop()
            value = inner.close(inner.items)
        else:
            return value


def _collection(letter: int, count: int) -> _Open:
    if letter == 0x25:
        return _Open(2 * count, _as_map)
    return _Open(count, SetOf if letter == 0x7E else _as_array)


def _text(letter: int, text: bytes) -> object:
    if letter == 0x24:
        return text
    if letter == 0x2B:
        return Status(text)
    if letter == 0x2D:
        return Error(text)
    if letter == 0x3D:
        return Verbatim(text[3:], text[:3].decode("latin-1") if text[:3].isascii() else "txt")
    try:
        return BigNumber(int(text))
    except ValueError:
        return text
