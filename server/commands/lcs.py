"""The longest common subsequence of two strings, for LCS.

Redis fills a table of len(a) × len(b) numbers and walks back through it. The same table fits in bits: row i is an
integer whose bit j-1 says whether the length grows from column j-1 to column j, and a row follows from the one before
by one addition (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"). That is all the way back needs, because
Redis goes up when L(i-1, j) > L(i, j-1), and that is the case exactly when the bit of (i, j) is set. At the largest
square that Redis accepts, 11,000 × 11,000 bytes, this takes a few tenths of a second.
"""

from __future__ import annotations


def _occurrences(b: bytes, byte: int) -> int:
    # Bit j says whether b[j] is that byte.
    flags = bytearray(b"0" * 256)
    flags[byte] = 49
    return int(b[::-1].translate(flags) or b"0", 2)


def lcs_length(a: bytes, b: bytes) -> int:
    """Length of the longest common subsequence; quicker when `a` is the shorter."""
    mask = (1 << len(b)) - 1
    where = {byte: _occurrences(b, byte) for byte in set(a)}
    row = mask
    for byte in a:
        shared = row & where[byte]
        row = ((row + shared) | (row - shared)) & mask
    return (row ^ mask).bit_count()


def lcs_trace(a: bytes, b: bytes) -> tuple[bytes, list[tuple[int, int, int, int]]]:
    """The subsequence that Redis would choose, and its unbroken ranges, the last one first.

    A range is its first and last position in `a` and the same in `b`. Keeps len(a) integers of len(b) bits.
    """
    mask = (1 << len(b)) - 1
    where = {byte: _occurrences(b, byte) for byte in set(a)}
    grows = [0]
    row = mask
    for byte in a:
        shared = row & where[byte]
        row = ((row + shared) | (row - shared)) & mask
        grows.append(row ^ mask)
    text = bytearray()
    ranges: list[tuple[int, int, int, int]] = []
    i = len(a)
    j = len(b)
    a_end = -1
    b_end = -1
    while i > 0 and j > 0:
        if a[i - 1] == b[j - 1]:
            if a_end < 0:
                a_end = i - 1
                b_end = j - 1
            text.append(a[i - 1])
            i -= 1
            j -= 1
            continue
        if a_end >= 0:
            ranges.append((i, a_end, j, b_end))
            a_end = -1
        # Left to the next column that matches or grows, in one step; up where it grows.
        column = max(b.rfind(a[i - 1], 0, j) + 1, (grows[i] & ((1 << j) - 1)).bit_length())
        if column == j:
            i -= 1
        else:
            j = column
    if a_end >= 0:
        ranges.append((i, a_end, j, b_end))
    text.reverse()
    return bytes(text), ranges
