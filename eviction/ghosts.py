"""The memory of keys evicted lately: a fingerprint, a time and a few bits each, in two arrays.

A ghost answers one question: this key that just missed, was it evicted only a short while ago? A set of keys with a
queue of their ages would say so exactly at about 150 bytes a ghost. Here it is 8: an unsigned 32-bit fingerprint in
one array and, at the same place of another, 28 bits of time and 4 of payload. (One array of 64-bit numbers holding
both is twice as slow interpreted: every look at a slot makes and masks a long integer.)

The arrays are a hash table of sets of four slots. Time is the table's own insertion count, so "short" means "at most
so many evictions ago", and a ghost needs no removal: it turns invalid as the count moves on. A full set overwrites
its oldest. Being a hint, a ghost may be lost (its set was full of younger ones: rare at the chosen size) or mistaken
(same set and fingerprint: one in 2**30 per look-up).

The fingerprint that callers give is the key's CRC-32 and not hash(): hash() of bytes differs from process to process,
and a simulation that finds a fault must find it again from its seed. Somebody who crafts colliding keys can make us
forget ghosts, nothing more.

The table doubles by being copied behind itself: with the low bits of the fingerprint choosing the set, every ghost is
then found under the longer index too, and its other copy dies of age. No rehash, one memcpy. It never shrinks but by
clear.

The four slots are written out, not looped over: this runs on every miss of the default policy.
"""

from array import array
from typing import Final

PAYLOAD_BITS: Final = 4
MAX_STAMP: Final = 1 << 28  # what 32 bits leave beside the payload; then the table starts over, empty
WAYS: Final = 4
SMALLEST: Final = 64  # slots; caches of fewer than a hundred keys need a fair hearing too


class Ghosts:
    """A bounded, approximate map from evicted key to the age of its eviction and a payload of 0 … 15."""

    def __init__(self) -> None:
        self.fingerprints = array("I", bytes(4 * SMALLEST))
        self.stamps = array("I", bytes(4 * SMALLEST))  # now << 4 | payload; 0 = empty
        self.turns = bytearray(SMALLEST // WAYS)  # by set: which of its slots is overwritten next
        self.mask = SMALLEST - WAYS  # fingerprint & mask = first slot of the set
        self.now = 1  # insertions so far

    def __len__(self) -> int:
        """Slots, which is how many ghosts fit."""
        return len(self.stamps)

    def ensure(self, ghosts: int) -> None:
        """Make room for so many valid ghosts."""
        while len(self.stamps) < ghosts:
            self.fingerprints.extend(self.fingerprints)
            self.stamps.extend(self.stamps)
            self.turns += bytes(self.turns)
            self.mask = len(self.stamps) - WAYS

    def remember(self, fingerprint: int, payload: int) -> None:
        """A key was evicted just now; it must have been recalled when it came, so it has no ghost yet."""
        now = self.now + 1
        if now >= MAX_STAMP:
            self.clear()
            now = 2
        self.now = now
        base = fingerprint & self.mask
        turn = self.turns[base >> 2]
        self.turns[base >> 2] = (turn + 1) & 3
        self.fingerprints[base + turn] = fingerprint
        self.stamps[base + turn] = now << PAYLOAD_BITS | payload

    def recall(self, fingerprint: int) -> int:
        """`age << 4 | payload` of an evicted key, forgetting it; -1 if unknown. Age counts evictions since, from 0."""
        fingerprints = self.fingerprints
        slot = fingerprint & self.mask
        if fingerprints[slot] != fingerprint:
            slot += 1
            if fingerprints[slot] != fingerprint:
                slot += 1
                if fingerprints[slot] != fingerprint:
                    slot += 1
                    if fingerprints[slot] != fingerprint:
                        return -1
        stamp = self.stamps[slot]
        if not stamp:
            return -1
        self.stamps[slot] = 0
        self.fingerprints[slot] = 0
        return ((self.now - (stamp >> PAYLOAD_BITS)) << PAYLOAD_BITS) | (stamp & 15)

    def clear(self) -> None:
        self.fingerprints = array("I", bytes(4 * SMALLEST))
        self.stamps = array("I", bytes(4 * SMALLEST))
        self.turns = bytearray(SMALLEST // WAYS)
        self.mask = SMALLEST - WAYS
        self.now = 1

    def overhead_bytes(self) -> int:
        return 8 * len(self.stamps) + len(self.turns)
