"""Dead letters: changes that the database refused for good, kept until an operator retries or drops them.

None is ever forgotten to make room, because each was acknowledged. When as many are kept as may be, a row that is
refused stays unsaved instead, where `max_dirty` bounds it and turns into backpressure.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from persistence.backlog import weight_of
from persistence.change import EXPIRY, Change

# How many are kept, and their estimated bytes: more than anybody reads, far less than fills a machine.
KEPT: Final = 10_000
KEPT_BYTES: Final = 64 << 20


class DeadLetter:
    """A change that the database refused for good, as the queue, the journal and `CACHE.DLQ` know it."""

    __slots__ = ("attempts", "change", "id", "is_overtaken", "key", "message", "prefix", "seq", "sqlstate", "unix_ms")

    def __init__(
        self,
        prefix: str,
        key: bytes,
        seq: int,
        sqlstate: str,
        message: str,
        attempts: int,
        unix_ms: int,
        change: Change,
    ) -> None:
        # Given when it is buried (`QueueLog.bury`), never twice; 0 before.
        self.id = 0
        # The rule's name, which is its template's text.
        self.prefix = prefix
        self.key = key
        # Of the newest change in it: what it settles in the journal.
        self.seq = seq
        # Why, in the database's words, how often it was tried, and when that was.
        self.sqlstate = sqlstate
        self.message = message
        self.attempts = attempts
        self.unix_ms = unix_ms
        # Everything that was unsaved, merged. Read from a journal, its value may hold the touched members alone.
        self.change = change
        # A later change of the same has been saved since: trying this one again would undo that. (Not known any more
        # after a restart.)
        self.is_overtaken = False


class DeadLetters:
    """The dead letters of one queue, oldest first."""

    __slots__ = ("_bytes", "_letters", "_of_key", "resent")

    def __init__(self) -> None:
        self._letters: dict[int, DeadLetter] = {}
        self._of_key: dict[bytes, set[int]] = {}
        # Key of one that is tried again → the sequence that it has now, and the one that it had.
        self.resent: dict[bytes, tuple[int, int]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._letters)

    def values(self) -> Collection[DeadLetter]:
        """All of them."""
        return self._letters.values()

    def get(self, id: int) -> DeadLetter | None:
        """One of them, if it is there."""
        return self._letters.get(id)

    def is_full(self) -> bool:
        """Are there as many as are kept?"""
        return len(self._letters) >= KEPT or self._bytes >= KEPT_BYTES

    def add(self, letter: DeadLetter) -> None:
        """Keep another one, whatever there is."""
        self._letters[letter.id] = letter
        self._of_key.setdefault(letter.key, set()).add(letter.id)
        self._bytes += _weight(letter)

    def pop(self, id: int) -> DeadLetter | None:
        """Forget one; None when there is none."""
        letter = self._letters.pop(id, None)
        if letter is not None:
            self._bytes -= _weight(letter)
            self._of_key[letter.key].discard(id)
            if not self._of_key[letter.key]:
                del self._of_key[letter.key]
        return letter

    def saved(self, key: bytes, change: Change, seq: int) -> None:
        """A change of a key has been saved, the newest of which has this sequence: older letters of it are overtaken.

        O(letters of the key).
        """
        if not (self._of_key or self.resent):
            return
        now_seq, old_seq = self.resent.pop(key, (0, 0))
        if seq == now_seq:
            # It was a letter itself, and is as old as that was.
            seq = old_seq
        for id in self._of_key.get(key, ()):
            letter = self._letters[id]
            if letter.seq < seq and _covers(change, letter.change):
                letter.is_overtaken = True


def _covers(newer: Change, older: Change) -> bool:
    # Does nothing of the older one show when the newer one has been made?
    if newer.verb == EXPIRY:
        return older.verb == EXPIRY
    return newer.members is None or (older.members is not None and older.members <= newer.members)


def _weight(letter: DeadLetter) -> int:
    # (A change that is retried may be merged with others; by then its letter is gone.)
    return len(letter.key) + weight_of(letter.change, False)
