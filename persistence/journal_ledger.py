"""Ledger: which recorded changes are still unsaved, and from which sequence on the journal is needed.

One small object per unsaved key, nothing per record: the sequence of the oldest record that is needed, and of the
newest. A record that says everything about its key (a whole value, a delete) makes the older ones of that key needless.

Segments are deleted from the front, so the one question is "what is the oldest sequence that anybody needs?". A heap
answers it: an entry joins when its key becomes unsaved, with a sequence larger than all others, which costs one
comparison. What changes later is not looked for; it is put right when it comes to the top, and when the stale ones
outnumber the true, the heap is built anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from persistence.change import DELETE, EXPIRY, STRING, Change
from persistence.journal_records import WHOLE, Batch, Item, Recorded, is_partial, pack, pack_change

# Stale entries that a heap may hold before it is built anew, at least.
_STALE_LEAST: Final = 4096


class Unsaved:
    """One key that the database does not have yet, or a batch whose outcome is not known."""

    __slots__ = ("deleted", "existed", "first", "first_ms", "flying", "gone", "last", "next_first")

    def __init__(self, seq: int, first_ms: int, existed: bool | None, deleted: bool) -> None:
        # Oldest record that is needed, newest record.
        self.first = seq
        self.last = seq
        # Unix milliseconds of the oldest unsaved change.
        self.first_ms = first_ms
        self.existed = existed
        # The newest record is a tombstone.
        self.deleted = deleted
        # Newest sequence that a batch has taken, and the first one after that; 0 for none.
        self.flying = 0
        self.next_first = 0
        # Settled: the heap may forget it.
        self.gone = False

    def __lt__(self, other: Unsaved) -> bool:
        # The heap orders pairs (sequence, entry); this decides between equals, which come when a part was settled.
        return self.last < other.last


class Ledger:
    """Every unsaved key and every undecided batch."""

    __slots__ = ("_heap", "_keys", "_prefixes", "batches")

    def __init__(self) -> None:
        self._prefixes: dict[str, dict[bytes, Unsaved]] = {}
        self._heap: list[tuple[int, Unsaved]] = []
        # Unsaved keys of all prefixes.
        self._keys = 0
        # Number → the batch and its own place in the heap.
        self.batches: dict[int, tuple[Batch, Unsaved]] = {}

    def unsaved_keys(self) -> int:
        """Keys with a recorded change that the database does not have."""
        return self._keys

    def record(self, prefix: str, change: Change, seq: int, now_ms: int, wall_offset_ms: int) -> bytes:
        """Note a change, and its record. O(what changed)."""
        keys = self._prefixes.get(prefix)
        if keys is None:
            keys = self._prefixes[prefix] = {}
        existed = change.existed
        verb = change.verb
        entry = keys.get(change.key)
        if entry is None:
            entry = keys[change.key] = self._unsaved(seq, now_ms, existed, verb == DELETE)
            partial = change.members is not None and is_partial(change)
            return pack_change(prefix, change, partial, existed, now_ms, wall_offset_ms)
        entry.last = seq
        if entry.flying and not entry.next_first:
            # What flies will have been written when this one is sent.
            entry.next_first = seq
            entry.first_ms = now_ms
            entry.existed = not entry.deleted
        if verb == EXPIRY:
            return pack_change(prefix, change, False, existed, now_ms, wall_offset_ms)
        # On a tombstone only the whole value means anything, and the row is still there.
        partial = change.members is not None and not entry.deleted and is_partial(change)
        if entry.deleted and verb != DELETE:
            existed = entry.existed = None
        elif not partial:
            existed = entry.existed
        entry.deleted = verb == DELETE
        if not partial and (verb != DELETE or change.members is None):
            entry.first = seq
        return pack_change(prefix, change, partial, existed, entry.first_ms, wall_offset_ms)

    def record_text(self, prefix: str, key: bytes, value: bytes, seq: int, now_ms: int) -> bytes:
        """`record` of a change that says nothing but "the key holds this string, and never expires"."""
        keys = self._prefixes.get(prefix)
        if keys is None:
            keys = self._prefixes[prefix] = {}
        entry = keys.get(key)
        if entry is None:
            keys[key] = self._unsaved(seq, now_ms, None, False)
            return pack((WHOLE, prefix, key, None, now_ms, None, STRING, value))
        entry.last = entry.first = seq
        if entry.flying and not entry.next_first:
            entry.next_first = seq
            entry.first_ms = now_ms
            entry.existed = not entry.deleted
        if entry.deleted:
            entry.existed = None
            entry.deleted = False
        return pack((WHOLE, prefix, key, entry.existed, entry.first_ms, None, STRING, value))

    def _unsaved(self, seq: int, now_ms: int, existed: bool | None, deleted: bool) -> Unsaved:
        # A key becomes unsaved. Its sequence is the largest of all, so the heap stays one without being looked at.
        entry = Unsaved(seq, now_ms, existed, deleted)
        self._keys += 1
        self._heap.append((seq, entry))
        return entry

    def needed_from(self, prefix: str, key: bytes) -> int:
        """The oldest record that an unsaved key needs; 0 when nothing of it is unsaved. O(1)."""
        keys = self._prefixes.get(prefix)
        entry = keys.get(key) if keys is not None else None
        return entry.first if entry is not None else 0

    def restore(self, chain: list[Recorded]) -> None:
        """Note the records of one key that recovery found, oldest first."""
        newest = chain[-1]
        oldest = chain[0]
        deleted = newest.change.verb == DELETE
        entry = Unsaved(oldest.seq, oldest.first_ms, oldest.change.existed, deleted)
        entry.last = newest.seq
        self._prefixes.setdefault(newest.prefix, {})[newest.change.key] = entry
        self._keys += 1
        heapq.heappush(self._heap, (entry.first, entry))

    def begin(self, batch: Batch) -> None:
        """A batch was recorded: its record is needed until its outcome is known."""
        entry = Unsaved(batch.number, 0, None, False)
        heapq.heappush(self._heap, (entry.first, entry))
        self.batches[batch.number] = (batch, entry)
        for prefix, key, seq in batch.items:
            unsaved = self._prefixes.get(prefix, {}).get(key)
            if unsaved is not None:
                unsaved.flying = seq
                unsaved.next_first = seq + 1 if seq < unsaved.last else 0

    def end(self, number: int, applied: bool) -> None:
        """A batch was decided. KeyError when it is not known."""
        batch, entry = self.batches.pop(number)
        entry.gone = True
        if applied:
            self.settle(batch.items)
            return
        for prefix, key, seq in batch.items:
            unsaved = self._prefixes.get(prefix, {}).get(key)
            if unsaved is not None and unsaved.flying == seq:
                unsaved.flying = 0
                unsaved.next_first = 0

    def settle(self, items: Iterable[Item]) -> None:
        """These keys need nothing up to these sequences any more."""
        for prefix, key, seq in items:
            keys = self._prefixes.get(prefix)
            entry = keys.get(key) if keys is not None else None
            if entry is None or keys is None:
                continue
            if seq >= entry.last:
                del keys[key]
                self._keys -= 1
                entry.gone = True
                continue
            if entry.flying == seq:
                entry.first = max(entry.first, entry.next_first)
                entry.flying = 0
                entry.next_first = 0
            else:
                entry.first = max(entry.first, seq + 1)

    def give_up(self, prefix: str, seq: int) -> None:
        """Everything of a prefix up to a sequence is void."""
        keys = self._prefixes.get(prefix, {})
        self.settle([(prefix, key, min(seq, entry.last)) for key, entry in list(keys.items()) if entry.first <= seq])

    def floor(self, otherwise: int) -> int:
        """The oldest sequence that is needed; `otherwise` when none is. Amortized O(log keys)."""
        heap = self._heap
        if len(heap) > 2 * (self._keys + len(self.batches)) + _STALE_LEAST:
            heap = self._heap = [(entry.first, entry) for _, entry in heap if not entry.gone]
            heapq.heapify(heap)
        while heap:
            seq, entry = heap[0]
            if entry.gone:
                heapq.heappop(heap)
            elif entry.first > seq:
                heapq.heapreplace(heap, (entry.first, entry))
            else:
                return seq
        return otherwise
