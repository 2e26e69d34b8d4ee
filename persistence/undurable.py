"""Undurable: changes in memory that the journal has not made durable yet (`fsync = "always"`).

Nobody may see them: a reply that tells of such a change waits until the journal has it, the writer's as well as a
reader's, because a crash would undo what a client has been told. Commands themselves do not wait, so that all changes
of a loop tick share one sync.

A hit on the hot road must not pay for this. As long as an entry's change is not durable its soft deadline lies in the
past, which is what makes a reader look at it more closely; when the change is durable the deadline is put back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from persistence.errors import JournalError
from persistence.journal import Journal
from persistence.seams import Held, Memory


class Undurable:
    """The keys whose newest change is not durable."""

    __slots__ = ("_journal", "_memory", "_unsaved_seq", "_waiting")

    def __init__(self, journal: Journal, memory: Memory, unsaved_seq: Callable[[bytes], int]) -> None:
        self._journal = journal
        self._memory = memory
        # The sequence of a key's newest unsaved change, for keys that memory does not hold (tombstones).
        self._unsaved_seq = unsaved_seq
        # (Sequence, entry, soft deadline to put back), oldest first. Of a key that was written again before it was
        # durable there are several, of which the last one counts.
        self._waiting: deque[tuple[int, Held, int]] = deque()

    def add(self, entry: Held, seq: int) -> None:
        """An entry holds a recorded change, and its deadlines have just been set."""
        journal = self._journal
        if seq <= journal.durable_seq:
            return
        if not self._waiting:
            journal.when_durable(seq, self._came)
        self._waiting.append((seq, entry, entry.soft_ms))
        entry.soft_ms = 0

    def newest(self, keys: Iterable[bytes]) -> int:
        """The highest sequence among these keys' changes that are not durable; 0 when all are."""
        journal = self._journal
        durable_seq = journal.durable_seq
        if durable_seq == journal.next_seq - 1:
            return 0
        newest = 0
        for key in keys:
            entry = self._memory.held(key)
            lease = entry.lease if entry is not None else None
            seq = lease.dirty_seq if lease is not None else self._unsaved_seq(key)
            newest = max(newest, seq)
        return newest if newest > durable_seq else 0

    def _came(self, error: JournalError | None) -> None:
        if error is not None:
            # For ever: their readers are never answered.
            return
        durable_seq = self._journal.durable_seq
        waiting = self._waiting
        while waiting:
            seq, entry, soft_ms = waiting[0]
            if seq > durable_seq:
                self._journal.when_durable(seq, self._came)
                return
            waiting.popleft()
            lease = entry.lease
            # (Otherwise it was written again, or holds something else.)
            if lease is not None and lease.dirty_seq == seq:
                entry.soft_ms = soft_ms
