"""Slots as Redis Cluster defines them."""

from __future__ import annotations

import pytest

from server.keyspace.slots import slot_of


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        # The reference value of CRC16-XMODEM, 0x31C3, and what `CLUSTER KEYSLOT` answers for the others.
        (b"123456789", 0x31C3),
        (b"foo", 12182),
        (b"bar", 5061),
        (b"", 0),
    ],
)
def test_slot_of_known_keys(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_hash_tags() -> None:
    assert slot_of(b"{user1000}.following") == slot_of(b"{user1000}.followers") == slot_of(b"user1000")
    # Nothing between the braces, no closing brace: the whole key counts.
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")
    assert slot_of(b"foo{bar") != slot_of(b"bar")
    # The first brace and the first closing one behind it.
    assert slot_of(b"foo{{bar}}zap") == slot_of(b"{bar")
    assert slot_of(b"foo{bar}{zap}") == slot_of(b"bar")
