"""TextForm: how the journal's commonest record looks, "the key holds this string, and never expires", in pieces.

A pipeline of plain SETs makes hundreds of them in a row which differ in nothing but key and value. Packing each one
costs as much as all the rest of recording it; putting together what is the same does not.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from persistence.change import STRING
from persistence.journal_records import WHOLE, pack

_SHORT_BINS: Final = [b"\xc4%c" % size for size in range(256)]
# Of which milliseconds it is remembered.
_MOST_MIDDLES: Final = 4096
_NIL: Final = 0xC0
_UINT64: Final = 0xCF
# Was the row there, the time of the first change, no deadline, the kind.
_TIME: Final = Struct(">BBQBB")


class TextForm:
    """What stands around key and value in such records of one prefix.

        head  key  middle  value

    The four make the bytes that `pack_change` makes, but for the width of a number. Head and middle are nearly always
    as in some record before, and are kept.
    """

    __slots__ = ("_begin", "heads", "middles", "size")

    def __init__(self, prefix: str) -> None:
        # An array of eight: WHOLE, the prefix …
        self._begin: bytes = b"\x98" + pack(WHOLE) + pack(prefix)
        # By the length of the key.
        self.heads: dict[int, bytes] = {}
        # For values of that length, by the time of the first change; it is not known whether the row was there.
        self.size = -1
        self.middles: dict[int, bytes] = {}

    def head_of(self, size: int) -> bytes:
        """What stands before a key of that length."""
        head = self._begin + _bin_head(size)
        if size < len(_SHORT_BINS):
            self.heads[size] = head
        return head

    def resize(self, size: int) -> None:
        """From now on values of that length are spoken of."""
        self.size = size
        self.middles.clear()

    def middle_of(self, first_ms: int) -> bytes:
        """What stands between the key and such a value."""
        if len(self.middles) >= _MOST_MIDDLES:
            self.middles.clear()
        middle = self.middles[first_ms] = _TIME.pack(_NIL, _UINT64, first_ms, _NIL, STRING) + _bin_head(self.size)
        return middle


def _bin_head(size: int) -> bytes:
    # Before a byte string of that length.
    if size < len(_SHORT_BINS):
        return _SHORT_BINS[size]
    return b"\xc5" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xc6" + size.to_bytes(4, "big")
