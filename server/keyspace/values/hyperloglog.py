"""HyperLogLog: how many different elements were seen, estimated from 16,384 small registers.

An element's hash chooses a register (14 bits) and a rank: one more than the number of zeros below the lowest one among
the other 50 bits. A register keeps the highest rank it has met. The estimate is Ertl's ("New cardinality estimation
algorithms for HyperLogLog sketches", 2017), its error about 0.81 %.

The value is a plain string, laid out as Redis lays it out, so that GET here and SET there, or the other way round,
carry it from one to the other:

    "HYLL" · encoding (0 dense, 1 sparse) · 3 bytes unused · the estimate, 8 bytes little endian · registers

The highest bit of the estimate says that it is out of date. *Dense* registers are 6 bits each, the lowest bits first.
*Sparse* ones are runs: `00llllll` l+1 registers of rank 0, `01llllll llllllll` the same for up to 16,384, `1vvvvvll`
l+1 registers of rank v+1. A sparse value becomes dense when a rank is above 32 or it would pass 3,000 bytes. Runs are
cut and joined by Redis's rules, so that the bytes, too, are the same.

For counting and merging, the registers are spread out to one byte each, which translate tables and arithmetic on large
integers do thousands at a time.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Final

REGISTERS: Final = 16384
_MAGIC: Final = b"HYLL"
_HEADER: Final = 16
_DENSE: Final = 0
_SPARSE: Final = 1
_DENSE_SIZE: Final = _HEADER + REGISTERS * 6 // 8
# Bits of a hash beside those that choose the register.
_RANK_BITS: Final = 50
# Redis's default for hll-sparse-max-bytes.
_SPARSE_MOST: Final = 3000
# Where the estimate ends, and its bit that says it is out of date.
_STALE_AT: Final = 15
_STALE: Final = 0x80
# The highest rank and the longest runs of the sparse form.
_MOST_RANK: Final = 32
_MOST_ZEROS: Final = 64
_MOST_VALUES: Final = 4
# Runs behind the one that was changed, among which neighbours of equal rank are joined.
_JOINED: Final = 5
# 1 / (2 ln 2): the bias correction in the limit of many registers.
_ALPHA: Final = 0.721347520444481703680

# The highest estimate that can be told.
_MOST: Final = (1 << 63) - 1

_M: Final = 0xC6A4A7935BD1E995
_MASK: Final = (1 << 64) - 1
_SEED: Final = 0xADC83B19


class Corrupted(ValueError):
    """The runs of a sparse value do not make 16,384 registers."""


# -- one element ------------------------------------------------------------------------------------------------------


def murmur_hash(data: bytes) -> int:
    """MurmurHash64A of Austin Appleby (public domain), with the seed that Redis uses. O(n)."""
    size = len(data)
    value = _SEED ^ (size * _M & _MASK)
    whole = size & ~7
    for at in range(0, whole, 8):
        part = int.from_bytes(data[at : at + 8], "little") * _M & _MASK
        part ^= part >> 47
        value = (value ^ (part * _M & _MASK)) * _M & _MASK
    if size & 7:
        value = (value ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    value ^= value >> 47
    value = value * _M & _MASK
    return value ^ (value >> 47)


def register_of(element: bytes) -> tuple[int, int]:
    """The register that an element falls into, and its rank there, 1 … 51."""
    value = murmur_hash(element)
    # The bit above the hash ends a run of 50 zeros.
    rest = value >> 14 | 1 << _RANK_BITS
    return value & (REGISTERS - 1), (rest & -rest).bit_length()


# -- the string -------------------------------------------------------------------------------------------------------


def empty() -> bytes:
    """The value that has seen nothing: one run of zeros, and an estimate that is up to date."""
    return b"HYLL\x01" + bytes(11) + b"\x7f\xff"


def is_valid(value: bytes) -> bool:
    """Does a string look like a value of this kind? The runs of a sparse one are checked when they are read."""
    if len(value) < _HEADER or value[:4] != _MAGIC or value[4] > _SPARSE:
        return False
    return value[4] == _SPARSE or len(value) == _DENSE_SIZE


def is_dense(value: bytes) -> bool:
    """Does every register have its six bits?"""
    return value[4] == _DENSE


def cached_estimate(value: bytes) -> int | None:
    """The estimate that the header holds; None when it is out of date."""
    if value[_STALE_AT] & _STALE:
        return None
    return int.from_bytes(value[8:_HEADER], "little")


def with_estimate(value: bytes, estimate: int) -> bytes:
    """The value with this estimate in its header."""
    return b"".join((value[:8], estimate.to_bytes(8, "little"), value[_HEADER:]))


def add(value: bytes, elements: list[bytes]) -> bytes | None:
    """The value after these elements; None when no register changed. O(elements × runs), O(elements) when dense."""
    changed = False
    sketch = _Sketch(value)
    for element in elements:
        index, rank = register_of(element)
        if sketch.raise_to(index, rank):
            changed = True
    return sketch.text() if changed else None


def merge(target: bytes, ranks: bytes, dense: bool) -> bytes:
    """The value whose registers are raised to `ranks` (one byte each), made dense when asked for. Stale estimate."""
    sketch = _Sketch(target)
    if dense:
        sketch.make_dense()
    if sketch.is_dense:
        # The old estimate stays in the header, out of date.
        header = bytes(sketch.data[:_STALE_AT]) + bytes((sketch.data[_STALE_AT] | _STALE,))
        return header + _packed(highest(spread(bytes(sketch.data)), ranks))
    for index, rank in enumerate(ranks):
        if rank:
            sketch.raise_to(index, rank)
    return sketch.text()


class _Sketch:
    """A value while it is changed."""

    __slots__ = ("_at", "_before", "_first", "_index", "data", "is_dense")

    def __init__(self, value: bytes) -> None:
        self.data = bytearray(value)
        self.is_dense = value[4] == _DENSE
        # Where the last look for a run ended: the run before the one found, or -1; that one's first register; and the
        # register looked for. Registers come in rising order when values are merged, and need no look from the start.
        self._before = -1
        self._at = _HEADER
        self._first = 0
        self._index = -1

    def text(self) -> bytes:
        """The string, its estimate marked as out of date."""
        self.data[_STALE_AT] |= _STALE
        return bytes(self.data)

    def make_dense(self) -> None:
        """Give every register its six bits."""
        if not self.is_dense:
            packed = _packed(spread(bytes(self.data)))
            self.data = self.data[:_HEADER] + packed
            self.data[4] = _DENSE
            self.is_dense = True

    def raise_to(self, index: int, rank: int) -> bool:
        """Let a register have at least this rank; had it less?"""
        if self.is_dense:
            return self._raise_dense(index, rank)
        if rank > _MOST_RANK:
            self.make_dense()
            return self._raise_dense(index, rank)
        return self._raise_sparse(index, rank)

    def _raise_dense(self, index: int, rank: int) -> bool:
        at = _HEADER + index * 6 // 8
        shift = index * 6 & 7
        # The last register ends with the last byte.
        both = int.from_bytes(self.data[at : at + 2], "little")
        if both >> shift & 63 >= rank:
            return False
        both = both & ~(63 << shift) | rank << shift
        self.data[at : at + 2] = both.to_bytes(len(self.data[at : at + 2]), "little")
        return True

    def _find(self, index: int) -> tuple[int, int, int]:
        # The run that holds a register: its place, its length, its first register. `_before` is the run before it.
        data = self.data
        end = len(data)
        at, first, before = _HEADER, 0, -1
        if self._before >= 0 and index > self._index:
            at, first = self._before, self._first
        began = at
        while at < end:
            span, size = _run(data, at)
            if index < first + span:
                if at == began and at != _HEADER:
                    # What lay before it is not known: the run has grown over the register since.
                    self._before = -1
                    return self._find(index)
                if before >= 0:
                    self._first = first - _run(data, before)[0]
                self._before = before
                self._index = index
                return at, span, first
            before = at
            at += size
            first += span
        raise Corrupted

    def _raise_sparse(self, index: int, rank: int) -> bool:
        at, span, first = self._find(index)
        data = self.data
        code = data[at]
        old = (code >> 2 & 31) + 1 if code & 0x80 else 0
        if old >= rank:
            return False
        if span == 1 and code >> 6 != 1:
            data[at] = _value_run(rank, 1)
        else:
            runs = _runs(old, index - first) + bytes((_value_run(rank, 1),)) + _runs(old, first + span - 1 - index)
            size = 2 if code >> 6 == 1 else 1
            if len(runs) > size and len(data) + len(runs) - size > _SPARSE_MOST:
                self.make_dense()
                return self._raise_dense(index, rank)
            data[at : at + size] = runs
        self._join(self._before if self._before >= 0 else _HEADER)
        return True

    def _join(self, at: int) -> None:
        # Neighbouring runs of the same rank become one while they fit; only around what was changed.
        data = self.data
        for _ in range(_JOINED):
            if at >= len(data):
                return
            code = data[at]
            if not code & 0x80:
                at += 1 + (code >> 6)
                continue
            if at + 1 < len(data) and data[at + 1] & 0x80 and data[at + 1] >> 2 == code >> 2:
                length = (code & 3) + (data[at + 1] & 3) + 2
                if length <= _MOST_VALUES:
                    data[at : at + 2] = bytes((code & 0xFC | length - 1,))
                    continue
            at += 1


def _run(data: bytearray, at: int) -> tuple[int, int]:
    # How many registers the run at a place covers, and in how many bytes it is written.
    code = data[at]
    if code & 0x80:
        return (code & 3) + 1, 1
    if not code & 0x40:
        return (code & 63) + 1, 1
    if at + 1 == len(data):
        raise Corrupted
    return ((code & 63) << 8 | data[at + 1]) + 1, 2


def _value_run(rank: int, length: int) -> int:
    return 0x80 | rank - 1 << 2 | length - 1


def _runs(rank: int, length: int) -> bytes:
    # One run of that many registers, nothing for none.
    if not length:
        return b""
    if rank:
        return bytes((_value_run(rank, length),))
    if length > _MOST_ZEROS:
        return (0x4000 | length - 1).to_bytes(2, "big")
    return bytes((length - 1,))


# -- all registers ----------------------------------------------------------------------------------------------------

# Three bytes hold four registers. Tables that take out of a byte the part that one of them has in it.
_LOW_6: Final = bytes(byte & 63 for byte in range(256))
_HIGH_2: Final = bytes(byte >> 6 for byte in range(256))
_LOW_4: Final = bytes((byte & 15) << 2 for byte in range(256))
_HIGH_4: Final = bytes(byte >> 4 for byte in range(256))
_LOW_2: Final = bytes((byte & 3) << 4 for byte in range(256))
_HIGH_6: Final = bytes(byte >> 2 for byte in range(256))
# And back.
_TO_HIGH_2: Final = bytes((byte & 3) << 6 for byte in range(256))
_TO_LOW_4: Final = bytes(byte >> 2 & 15 for byte in range(256))
_TO_HIGH_4: Final = bytes((byte & 15) << 4 for byte in range(256))
_TO_LOW_2: Final = bytes(byte >> 4 & 3 for byte in range(256))
_TO_HIGH_6: Final = bytes((byte & 63) << 2 for byte in range(256))


def _either(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") | int.from_bytes(b, "big")).to_bytes(len(a), "big")


def spread(value: bytes) -> bytes:
    """The ranks of all registers, one byte each. Raises Corrupted."""
    if value[4] == _SPARSE:
        return _spread_runs(value)
    first, second, third = value[_HEADER::3], value[_HEADER + 1 :: 3], value[_HEADER + 2 :: 3]
    ranks = bytearray(REGISTERS)
    ranks[0::4] = first.translate(_LOW_6)
    ranks[1::4] = _either(first.translate(_HIGH_2), second.translate(_LOW_4))
    ranks[2::4] = _either(second.translate(_HIGH_4), third.translate(_LOW_2))
    ranks[3::4] = third.translate(_HIGH_6)
    return bytes(ranks)


def _spread_runs(value: bytes) -> bytes:
    data = bytearray(value)
    parts: list[bytes] = []
    at = _HEADER
    total = 0
    while at < len(data):
        span, size = _run(data, at)
        code = data[at]
        parts.append((b"%c" % ((code >> 2 & 31) + 1) if code & 0x80 else b"\0") * span)
        total += span
        if total > REGISTERS:
            raise Corrupted
        at += size
    if total != REGISTERS:
        raise Corrupted
    return b"".join(parts)


def _packed(ranks: bytes) -> bytes:
    # The registers of a dense value.
    zero, one, two, three = ranks[0::4], ranks[1::4], ranks[2::4], ranks[3::4]
    registers = bytearray(_DENSE_SIZE - _HEADER)
    registers[0::3] = _either(zero, one.translate(_TO_HIGH_2))
    registers[1::3] = _either(one.translate(_TO_LOW_4), two.translate(_TO_HIGH_4))
    registers[2::3] = _either(two.translate(_TO_LOW_2), three.translate(_TO_HIGH_6))
    return bytes(registers)


_TOPS: Final = int.from_bytes(b"\x80" * REGISTERS, "big")


def highest(a: bytes, b: bytes) -> bytes:
    """The higher of two ranks, for every register."""
    x = int.from_bytes(a, "big")
    y = int.from_bytes(b, "big")
    # Ranks are below 128, so the top bit of a byte is free: it survives the subtraction where x is not the lower one.
    tops = ((x | _TOPS) - y) & _TOPS
    chosen = tops - (tops >> 7)
    return (x & chosen | y & ~chosen).to_bytes(REGISTERS, "big")


# -- the estimate -----------------------------------------------------------------------------------------------------


def estimate(ranks: bytes) -> int:
    """How many different elements were seen, from the ranks of all registers."""
    size = float(REGISTERS)
    total = size * _tau((size - ranks.count(_RANK_BITS + 1)) / size)
    for rank in range(_RANK_BITS, 0, -1):
        total = (total + ranks.count(rank)) * 0.5
    total += size * _sigma(ranks.count(0) / size)
    # Infinite when nothing was seen; zero when every register claims more than a hash can give, as only a forged value
    # does.
    return min(int(_ALPHA * size * size / total + 0.5), _MOST) if total else _MOST


# The two series of Ertl's estimator, for the registers that are full and those that are empty.


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y = 1.0
    z = 1.0 - x
    while True:
        x = sqrt(x)
        before = z
        y *= 0.5
        z -= (1.0 - x) * (1.0 - x) * y
        if z == before:
            return z / 3.0


def _sigma(x: float) -> float:
    if x == 1.0:
        return inf
    y = 1.0
    z = x
    while True:
        x *= x
        before = z
        z += x * y
        y += y
        if z == before:
            return z
