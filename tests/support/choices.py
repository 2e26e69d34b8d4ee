"""Choices read off bytes: what a test draws for one example, at the price of a single draw of hypothesis.

A strategy of lists within lists costs milliseconds per example, most of it for the books that hypothesis keeps on each
draw. Here it draws one string of bytes, and the test reads its choices off that. Nothing is lost: hypothesis makes the
bytes of a failing example smaller, and a zero, or no more bytes at all, is the first and simplest choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Choices:
    """A reader of choices; at the end of its bytes every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1."""
        return int.from_bytes(self._take(((limit - 1).bit_length() + 7) // 8)) % limit

    def one_of(self, options: Sequence[T]) -> T:
        """One of these."""
        return options[self.below(len(options))]

    def some(self, most: int) -> bytes:
        """At most so many bytes of any value."""
        return self._take(self.below(most + 1))

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken


def chosen(make: Callable[[Choices], T], size: int) -> st.SearchStrategy[T]:
    """What `make` puts together from choices of `size` bytes."""
    return st.binary(min_size=size, max_size=size).map(lambda data: make(Choices(data)))
