"""The memory of keys evicted lately: a fingerprint, a time and a few bits each, in one array.

A ghost answers one question: this key that just missed, was it evicted only a short while ago? A set of keys with a
queue of their ages would say so exactly at about 150 bytes a ghost. Here it is 8: one unsigned 64-bit number holding

    stamp (25 bits) | payload (4 bits) | fingerprint (32 bits)

in an array used as a hash table of sets of four slots. Time is the table's own insertion count, so "short" means "at
most so many evictions ago", and a ghost needs no removal: it turns invalid as the count moves on. A full set
overwrites its smallest number, which is its oldest, as the stamp has the highest bits. Being a hint, a ghost may be
lost (its set was full of younger ones: rare at the chosen size) or mistaken (same set and fingerprint: one in 2**30
per look-up).

The fingerprint is the key's CRC-32 and not hash(): hash() of bytes differs from process to process, and a simulation
that finds a fault must find it again from its seed. Somebody who crafts colliding keys can make us forget ghosts,
nothing more.

The table doubles by being copied behind itself: with the low bits of the fingerprint choosing the set, every ghost is
then found under the longer index too, and its other copy dies of age. No rehash, one memcpy. It never shrinks but by
clear.
"""

from array import array
from typing import Final
from zlib import crc32

MAX_STAMP: Final = 1 << 25  # so that the packed number stays below 2**61 and mypyc keeps it unboxed; then start over
PAYLOAD_BITS: Final = 4
WAYS: Final = 4
SMALLEST: Final = 64  # slots; caches of fewer than a hundred keys need a fair hearing too


class Ghosts:
    """A bounded, approximate map from evicted key to the age of its eviction and a payload of 0 … 15."""

    def __init__(self) -> None:
        self.table = array("Q", bytes(8 * SMALLEST))
        self.mask = SMALLEST // WAYS - 1  # sets - 1
        self.now = 1  # insertions so far; a stamp of 0 is an empty slot

    def __len__(self) -> int:
        """Slots, which is how many ghosts fit."""
        return len(self.table)

    def ensure(self, ghosts: int) -> None:
        """Make room for so many valid ghosts."""
        while len(self.table) < ghosts:
            self.table.extend(self.table)
            self.mask = len(self.table) // WAYS - 1

    def remember(self, key: bytes, payload: int) -> None:
        """A key was evicted just now."""
        self.now += 1
        if self.now >= MAX_STAMP:
            self.clear()
        fingerprint = crc32(key)
        table = self.table
        slot = (fingerprint & self.mask) * WAYS
        oldest = slot
        smallest = table[slot]
        for i in range(slot, slot + WAYS):
            ghost = table[i]
            if ghost & 0xFFFFFFFF == fingerprint and ghost:
                oldest = i
                break
            if ghost < smallest:
                smallest = ghost
                oldest = i
        table[oldest] = (self.now << 36) | (payload << 32) | fingerprint

    def recall(self, key: bytes) -> int:
        """`age << 4 | payload` of an evicted key, forgetting it; -1 if unknown. Age counts evictions since, from 0."""
        fingerprint = crc32(key)
        table = self.table
        slot = (fingerprint & self.mask) * WAYS
        for i in range(slot, slot + WAYS):
            ghost = table[i]
            if ghost & 0xFFFFFFFF == fingerprint and ghost:
                table[i] = 0
                return ((self.now - (ghost >> 36)) << PAYLOAD_BITS) | ((ghost >> 32) & 15)
        return -1

    def clear(self) -> None:
        self.table = array("Q", bytes(8 * SMALLEST))
        self.mask = SMALLEST // WAYS - 1
        self.now = 1

    def overhead_bytes(self) -> int:
        return 8 * len(self.table)
