"""AccessTrace: the last accesses to a sample of the keys, for simulations of other policies and sizes (CACHE.ADVISE).

Sampled are keys, not accesses: all accesses to few keys, chosen by hash, make a small cache that behaves as the large
one does (Waldspurger, Park, Garthwaite, Ahmad: "Efficient MRC Construction with SHARDS", FAST 2015). The hash is the
one that chooses a key's table, so sampling costs the other keys nothing at all: entries of the sampled tables have a
home that notes what is done to them (TappedShard), and nobody looks whether a key is sampled. Keys that share a hash
tag are sampled together or not at all.

Nothing is simulated until somebody asks. An access is noted in twelve bytes; when the ring is full, the oldest is
overwritten.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import crc32

from server.keyspace.placement import Placement

# Accesses that are remembered: 1.5 MB, and with one key in 64 the last 8 million accesses to all of them.
CAPACITY: Final = 1 << 17
# What array("I") can hold.
_HEAVIEST: Final = (1 << 32) - 1


class Access(NamedTuple):
    """One access: the key's fingerprint, the bytes it weighs, its prefix (0: none), and whether it was in memory."""

    fingerprint: int
    weight: int
    prefix: int
    hit: bool


class AccessTrace:
    """A ring of accesses to the keys of some tables of one database."""

    __slots__ = ("_capacity", "_fingerprints", "_marks", "_next", "_weights", "placement", "tables")

    def __init__(self, tables: frozenset[int], capacity: int = CAPACITY) -> None:
        # The sampled tables.
        self.tables = tables
        # Who names a key's prefix; None: no rules.
        self.placement: Placement | None = None
        self._capacity = capacity
        # CRC-32 of the key: among the few ten thousand keys of a sample two are rarely taken for one.
        self._fingerprints = array("I")
        self._weights = array("I")
        # Prefix × 2 + hit.
        self._marks = array("I")
        # Where the next one goes once the ring is full.
        self._next = 0

    def note(self, key: bytes, weight: int, hit: bool) -> None:
        """A key was used (hit), or came into memory because it had been missed."""
        mark = 1 if hit else 0
        if self.placement is not None:
            mark += 2 * self.placement.number_of(key)
        if weight > _HEAVIEST:
            weight = _HEAVIEST
        if len(self._marks) < self._capacity:
            self._fingerprints.append(crc32(key))
            self._weights.append(weight)
            self._marks.append(mark)
            return
        at = self._next
        self._fingerprints[at] = crc32(key)
        self._weights[at] = weight
        self._marks[at] = mark
        self._next = at + 1 if at + 1 < self._capacity else 0

    def __len__(self) -> int:
        return len(self._marks)

    def use(self, placement: Placement | None) -> None:
        """Let this one name prefixes; when they have other numbers now, what was noted is forgotten."""
        before, self.placement = self.placement, placement
        heads = [share.head for share in placement.shares] if placement is not None else []
        if before is None or heads != [share.head for share in before.shares]:
            self._clear()

    def _clear(self) -> None:
        self._fingerprints = array("I")
        self._weights = array("I")
        self._marks = array("I")
        self._next = 0

    def accesses(self) -> Iterator[Access]:
        """A copy's accesses, oldest first; more may be noted meanwhile."""
        start = self._next
        fingerprints = self._fingerprints[start:] + self._fingerprints[:start]
        weights = self._weights[start:] + self._weights[:start]
        marks = self._marks[start:] + self._marks[:start]
        for fingerprint, weight, mark in zip(fingerprints, weights, marks, strict=True):
            yield Access(fingerprint, weight, mark >> 1, mark & 1 == 1)


def sampled_tables(share: float, tables: int) -> frozenset[int]:
    """So many tables, at least one when the share is above 0, spread evenly over all."""
    count = min(tables, max(1, round(share * tables))) if share > 0 else 0
    return frozenset(number * tables // count for number in range(count))
