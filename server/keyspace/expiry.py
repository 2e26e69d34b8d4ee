"""The expiry wheel: which keys run out in which second.

Appending a key to the bucket of its second costs O(1), and taking what is due costs O(1) per key, without sampling. An
entry whose deadline moves *later* stays in its old bucket and is filed again when that bucket comes up, so a key that
is set with a TTL ten thousand times a second is in the wheel once. An entry that is deleted leaves its key behind
until its second passes; when such leftovers outnumber the living, the wheel is rebuilt (amortised O(1) per removal).
"""

from __future__ import annotations

from sortedcontainers import SortedDict

from persistence.change import NEVER
from server.keyspace.entry import Entry

# Leftovers that are tolerated whatever the number of living keys: rebuilding a small wheel is not worth a thought.
_SLACK = 4096


class ExpiryWheel:
    """Keys by the second in which they expire, for one shard."""

    __slots__ = ("_buckets", "_filed", "_records")

    def __init__(self) -> None:
        self._buckets: SortedDict[int, list[bytes]] = SortedDict()
        # Living entries that are in some bucket.
        self._filed = 0
        # Keys in all buckets, leftovers included.
        self._records = 0

    def file(self, entry: Entry, earliest_s: int = 1) -> None:
        """Put an entry under the second in which it is due, unless it sits in an earlier one. O(log seconds)."""
        due_ms = entry.due_ms()
        if due_ms == NEVER:
            return
        second = max(earliest_s, due_ms // 1000 + 1)
        if entry.wheel_s:
            if entry.wheel_s <= second:
                return
        else:
            self._filed += 1
        entry.wheel_s = second
        bucket = self._buckets.get(second)
        if bucket is None:
            self._buckets[second] = [entry.key]
        else:
            bucket.append(entry.key)
        self._records += 1

    def forget(self, entry: Entry) -> None:
        """An entry leaves the shard; its key stays in the bucket as a leftover."""
        if entry.wheel_s:
            entry.wheel_s = 0
            self._filed -= 1

    def due(self, now_ms: int) -> list[bytes]:
        """Take out the earliest bucket whose second has passed; empty when none has. Leftovers included."""
        if not self._buckets:
            return []
        second = self._buckets.keys()[0]
        if second * 1000 > now_ms:
            return []
        keys: list[bytes] = self._buckets.pop(second)
        self._records -= len(keys)
        return keys

    def put_back(self, keys: list[bytes], now_ms: int) -> None:
        """Return keys taken by `due` that could not be looked at in this slice; they come up again at once."""
        second = now_ms // 1000
        self._buckets.setdefault(second, []).extend(keys)
        self._records += len(keys)

    def settle(self, entry: Entry, now_ms: int) -> None:
        """A key came up whose entry lives on: file it again under its present deadline."""
        if entry.wheel_s and entry.wheel_s * 1000 <= now_ms:
            entry.wheel_s = 0
            self._filed -= 1
            # An entry that is due and must stay (its change is unsaved) comes up a second later, not at once again.
            self.file(entry, now_ms // 1000 + 1)

    def crowded(self) -> bool:
        """Are there more leftovers than living keys?"""
        return self._records > 2 * self._filed + _SLACK

    def rebuild(self, entries: list[Entry]) -> None:
        """Start afresh from the living entries. O(n)."""
        self._buckets.clear()
        self._filed = 0
        self._records = 0
        for entry in entries:
            entry.wheel_s = 0
            self.file(entry)

    def __len__(self) -> int:
        return self._filed
