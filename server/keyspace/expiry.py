"""The expiry wheel: which keys run out in which second.

Appending a key to the bucket of its second costs O(1), and taking what is due costs O(1) per key, without sampling. An
entry whose deadline moves *later* stays in its old bucket and is filed again when that bucket comes up, so a key that
is set with a TTL ten thousand times a second is in the wheel once. An entry that is deleted leaves its key behind
until its second passes; while such leftovers outnumber the living, the wheel is swept, a slice at a time and round and
round (amortised O(1) per removal).

The buckets are a dictionary by second, and a heap tells the earliest. (A sorted dictionary costs five times as much for
a key that is the first of its second, as many are whose lifetimes are spread over minutes.) A bucket that is swept
empty leaves its second in the heap, where it is passed over; when most of the heap is such, it is built anew.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from persistence.change import NEVER
from server.keyspace.entry import Entry, LeasedLife
from server.keyspace.weights import RECORD_OVERHEAD, SECOND_OVERHEAD

# Leftovers that are tolerated whatever the number of living keys: sweeping a small wheel is not worth a thought.
_SLACK = 4096


def second_of(due_ms: int) -> int:
    """The second under which is filed what is due then."""
    return due_ms // 1000 + 1


class ExpiryWheel:
    """Keys by the second in which they expire, for one shard."""

    __slots__ = ("_buckets", "_filed", "_kept", "_records", "_round", "_seconds", "_sweeping")

    def __init__(self) -> None:
        self._buckets: dict[int, list[bytes]] = {}
        # A heap of their seconds, and perhaps of some that have no bucket any more.
        self._seconds: list[int] = []
        # Living entries that are in some bucket.
        self._filed = 0
        # Keys in all buckets, leftovers included.
        self._records = 0
        # The second whose bucket is being swept, what of it was looked at and stays, and whose turn comes thereafter
        # in this round, last first.
        self._sweeping = 0
        self._kept: list[bytes] = []
        self._round: list[int] = []

    def file(self, entry: Entry, earliest_s: int = 1) -> None:
        """Put an entry under the second in which it is due, unless it sits in an earlier one. O(log seconds)."""
        life = entry.life
        due_ms = life.deadline_ms
        if isinstance(life, LeasedLife) and life.lease is not None and life.lease.stale_until_ms != due_ms:
            due_ms = entry.due_ms()
        if due_ms == NEVER:
            return
        # (`second_of`, written out.)
        second = due_ms // 1000 + 1
        if second < earliest_s:
            second = earliest_s
        if life.wheel_s:
            if life.wheel_s <= second:
                return
        else:
            self._filed += 1
        life.wheel_s = second
        bucket = self._buckets.get(second)
        if bucket is None:
            self._buckets[second] = [entry.key]
            heappush(self._seconds, second)
        else:
            bucket.append(entry.key)
        self._records += 1

    def file_together(self, second: int, keys: list[bytes]) -> None:
        """Put new entries, whose lives say so already, under one second. The list is the wheel's from now on."""
        bucket = self._buckets.get(second)
        if bucket is None:
            self._buckets[second] = keys
            heappush(self._seconds, second)
        else:
            bucket += keys
        self._filed += len(keys)
        self._records += len(keys)

    def forget(self, entry: Entry) -> None:
        """An entry leaves the shard; its key stays in the bucket as a leftover."""
        life = entry.life
        if life.wheel_s:
            life.wheel_s = 0
            self._filed -= 1

    def due(self, now_ms: int, room: int) -> list[bytes]:
        """Take up to `room` keys out of the earliest bucket whose second has passed; empty when none has. Leftovers
        included. O(room)."""
        seconds = self._seconds
        while seconds and seconds[0] * 1000 <= now_ms and seconds[0] not in self._buckets:
            heappop(seconds)
        if not seconds or seconds[0] * 1000 > now_ms:
            return []
        second = seconds[0]
        bucket = self._buckets[second]
        if second == self._sweeping:
            bucket += self._kept
            self._kept = []
            self._sweeping = 0
        keys: list[bytes] = bucket[-room:]
        if len(keys) == len(bucket):
            del self._buckets[second]
            heappop(seconds)
        else:
            del bucket[-room:]
        self._records -= len(keys)
        return keys

    def settle(self, entry: Entry, now_ms: int) -> None:
        """A key came up whose entry lives on: file it again under its present deadline."""
        life = entry.life
        if life.wheel_s and life.wheel_s * 1000 <= now_ms:
            life.wheel_s = 0
            self._filed -= 1
            # An entry that is due and must stay (its change is unsaved) comes up a second later, not at once again.
            self.file(entry, now_ms // 1000 + 1)

    def crowded(self) -> bool:
        """Are there more leftovers than living keys?"""
        return self._records > 2 * self._filed + _SLACK

    def swept(self, room: int) -> tuple[int, list[bytes]]:
        """Take up to `room` keys out of the bucket that is being swept: its second, and the keys. The caller looks at
        them and gives back to `keep` those that this second still stands for."""
        bucket = self._buckets.get(self._sweeping)
        if bucket is None:
            self._kept = []
            bucket = self._next_of_round()
        keys = bucket[-room:]
        del bucket[-room:]
        self._records -= len(keys)
        return self._sweeping, keys

    def _next_of_round(self) -> list[bytes]:
        # The bucket that is swept next, round and round. There is one: something has been left over.
        while True:
            if not self._round:
                self._round = list(self._buckets)
            second = self._round.pop()
            bucket = self._buckets.get(second)
            if bucket is not None:
                self._sweeping = second
                return bucket

    def keep(self, keys: list[bytes]) -> None:
        """These keys of the bucket that is being swept stay, each once."""
        once = dict.fromkeys(keys)
        self._kept += once
        self._records += len(once)
        if not self._buckets[self._sweeping]:
            if self._kept:
                self._buckets[self._sweeping] = self._kept
            else:
                self._drop(self._sweeping)
            # The bucket is complete again; the next call goes on with another.
            self._kept = []
            self._sweeping = 0

    def _drop(self, second: int) -> None:
        # A bucket in the middle has become empty.
        del self._buckets[second]
        if len(self._seconds) > 2 * len(self._buckets) + _SLACK:
            self._seconds = list(self._buckets)
            heapify(self._seconds)

    def clear(self) -> list[object]:
        """Every entry is gone; the containers that held their keys."""
        held: list[object] = [self._buckets, self._seconds, self._kept, self._round]
        self._buckets = {}
        self._seconds = []
        self._round = []
        self._filed = 0
        self._records = 0
        self._sweeping = 0
        self._kept = []
        return held

    def overhead_bytes(self) -> int:
        """Estimated bytes of records and buckets, as far as living keys may have them: no eviction would free the
        others."""
        filed = self._filed
        return RECORD_OVERHEAD * filed + SECOND_OVERHEAD * min(len(self._buckets), filed)

    def __len__(self) -> int:
        return self._filed
