"""A count-min sketch of recent request frequencies, a byte per counter.

Cormode and Muthukrishnan, "An improved data stream summary: the count-min sketch", 2005; counters that stop at 15 and
are halved after a sample of 10 requests per cached key are TinyLFU's (Einziger, Friedman, Manes, ACM ToS 2017,
https://arxiv.org/abs/1512.00727). Packing two counters into a byte would save four bytes a key and cost a shift and a
mask in each of the eight accesses of a request, the slowest part of the policy already.

Only the smallest of a key's four counters is incremented ("conservative update"): it is the only one that can be right.

Ageing halves a row at a time by bytes.translate, at C speed, one row per request, so that no request pays for all
four: with 1 M counters 1 ms instead of 4. Between the four requests the minimum may come from a row already halved;
no harm.

Grown like the ghosts (ghosts.py): a row copied behind itself keeps every count under the longer index.
"""

from typing import Final
from zlib import crc32

TOP: Final = 15  # where a counter ends
SAMPLE: Final = 10  # requests per cached key until all counters are halved
COUNTERS_PER_KEY: Final = (
    2  # in a row; most keys that pass are not cached, and with 1 they cost up to 2 points of misses
)
SMALLEST: Final = 64  # counters a row
_HALVED: Final = bytes([i >> 1 for i in range(256)])


class Sketch:
    """Approximate, ageing counts of keys, never too low but by ageing."""

    def __init__(self) -> None:
        self.rows = [bytearray(SMALLEST) for _ in range(4)]
        self.mask = SMALLEST - 1
        self.keys = SMALLEST // COUNTERS_PER_KEY  # in the cache, as far as we were told
        self.requests = 0  # since the last ageing
        self.ageing = 0  # rows still to halve

    def ensure(self, keys: int) -> None:
        """Be wide enough for so many keys in the cache."""
        if keys > self.keys:
            self.keys = keys
        while self.mask + 1 < COUNTERS_PER_KEY * keys:
            self.rows = [row + row for row in self.rows]
            self.mask = 2 * self.mask + 1

    def add(self, key: bytes) -> None:
        """Count a request."""
        a = crc32(key)
        # A second, odd step from the bits that the mask leaves out; 0x9E37 is Knuth's multiplier cut to 16 bits.
        b = ((a >> 16) * 0x9E37 ^ a) | 1
        mask = self.mask
        rows = self.rows
        row0 = rows[0]
        row1 = rows[1]
        row2 = rows[2]
        row3 = rows[3]
        i0 = a & mask
        i1 = (a + b) & mask
        i2 = (a + 2 * b) & mask
        i3 = (a + 3 * b) & mask
        c0 = row0[i0]
        c1 = row1[i1]
        c2 = row2[i2]
        c3 = row3[i3]
        least = c0
        if c1 < least:
            least = c1
        if c2 < least:
            least = c2
        if c3 < least:
            least = c3
        if least < TOP:
            if c0 == least:
                row0[i0] = least + 1
            if c1 == least:
                row1[i1] = least + 1
            if c2 == least:
                row2[i2] = least + 1
            if c3 == least:
                row3[i3] = least + 1
        self.requests += 1
        if self.ageing:
            self.ageing -= 1
            rows[self.ageing] = rows[self.ageing].translate(_HALVED)
        elif self.requests > SAMPLE * self.keys:
            self.requests >>= 1
            self.ageing = 4

    def count(self, key: bytes) -> int:
        """How often a key was asked for lately, 0 … 15."""
        a = crc32(key)
        b = ((a >> 16) * 0x9E37 ^ a) | 1
        mask = self.mask
        rows = self.rows
        return min(
            rows[0][a & mask],
            rows[1][(a + b) & mask],
            rows[2][(a + 2 * b) & mask],
            rows[3][(a + 3 * b) & mask],
        )

    def clear(self) -> None:
        self.rows = [bytearray(SMALLEST) for _ in range(4)]
        self.mask = SMALLEST - 1
        self.keys = SMALLEST // COUNTERS_PER_KEY
        self.requests = 0
        self.ageing = 0

    def overhead_bytes(self) -> int:
        return 4 * (self.mask + 1)
