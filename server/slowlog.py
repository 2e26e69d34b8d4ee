"""The slow log: the commands whose handlers took longest, with what they were asked and by whom. Newest first.

What is kept of a command is bounded: 32 words, 128 bytes of each, passwords never.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

_WORDS: Final = 32
_WORD_BYTES: Final = 128


class SlowLog:
    """The last entries, at most `max_len`."""

    __slots__ = ("_entries", "_next_id", "max_len", "slower_than_us")

    def __init__(self, slower_than_us: int, max_len: int) -> None:
        # Microseconds from which on a command is slow; below 0: none is.
        self.slower_than_us = slower_than_us
        self.max_len = max_len
        self._entries: deque[list[object]] = deque()
        self._next_id = 0

    def note(self, unix_s: int, took_us: int, words: list[bytes], address: bytes, name: bytes) -> None:
        """A command was slow."""
        entry: list[object] = [self._next_id, unix_s, took_us, _shortened(words), address, name]
        self._next_id += 1
        self._entries.appendleft(entry)
        self.trim()

    def trim(self) -> None:
        """`max_len` may have been lowered."""
        while len(self._entries) > self.max_len:
            self._entries.pop()

    def entries(self, count: int) -> list[list[object]]:
        """The newest so many, as SLOWLOG GET has them: id, Unix seconds, microseconds, words, address, name."""
        return list(islice(self._entries, count))

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget all; ids go on."""
        self._entries.clear()


def _shortened(words: list[bytes]) -> list[bytes]:
    kept = words if len(words) <= _WORDS else words[: _WORDS - 1]
    short = [
        word if len(word) <= _WORD_BYTES else word[:_WORD_BYTES] + b"... (%d more bytes)" % (len(word) - _WORD_BYTES)
        for word in kept
    ]
    if len(words) > _WORDS:
        short.append(b"... (%d more arguments)" % (len(words) - _WORDS + 1))
    return short
