"""Slots: CRC16 (XMODEM) of the key modulo 16384, exactly as Redis Cluster defines it, hash tags respected."""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

SLOTS: Final = 16384


def tagged(key: bytes) -> bytes:
    """The part of `key` that is hashed: what stands between the first `{` and the next `}`, unless that is empty."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            return key[start + 1 : end]
    return key


def slot_of(key: bytes) -> int:
    """The slot of a key, 0 … 16383. O(length of key), at C speed."""
    if 123 in key:
        key = tagged(key)
    return crc_hqx(key, 0) & 16383
