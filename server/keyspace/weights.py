"""What things weigh: estimated bytes of process memory, kept current by deltas and never by walking a value.

The constants are CPython's object sizes on 64-bit builds, rounded up to the allocator's 16-byte steps and with the
dictionary slot at its average fill. They are estimates; calibration against the process is a bench.
"""

from __future__ import annotations

from typing import Final

# bytes object: header 33, rounded to the allocator's step.
BYTES_OVERHEAD: Final = 40
# Entry with its collector header, plus its share of a dictionary at average fill.
ENTRY_OVERHEAD: Final = 208
# Everything of a string key but its key's and value's own bytes.
STRING_OVERHEAD: Final = ENTRY_OVERHEAD + 2 * BYTES_OVERHEAD
# An empty dict; and a field's share of it at average fill.
DICT_OVERHEAD: Final = 232
FIELD_OVERHEAD: Final = 48 + 2 * BYTES_OVERHEAD
# What a field's own deadline adds: a place in a dictionary, an integer, a pair in a heap.
DEADLINE_OVERHEAD: Final = 48 + 32 + 64
# An empty MemberSet with its two sets; and a member's share of them at average fill, with its place in the index.
SET_OVERHEAD: Final = 488
MEMBER_OVERHEAD: Final = 56 + BYTES_OVERHEAD
# An empty ListValue with its two lists; and an element's share of them at average fill.
LIST_OVERHEAD: Final = 224
ITEM_OVERHEAD: Final = 9 + BYTES_OVERHEAD
# An empty SortedSet with its dictionary and order; and a member's share of them, with its score and two places.
SORTED_SET_OVERHEAD: Final = 536
SCORED_OVERHEAD: Final = 36 + 32 + 20 + BYTES_OVERHEAD

# A word of a stream's entry; an entry beside its words, with its id; an empty Stream; and what a group and its members
# cost. What is pending stands in two places.
WORD_OVERHEAD: Final = 16 + BYTES_OVERHEAD
STREAM_ENTRY_OVERHEAD: Final = 48 + 56 + 20
STREAM_OVERHEAD: Final = 560
GROUP_OVERHEAD: Final = 760
CONSUMER_OVERHEAD: Final = 560
PENDING_WEIGHT: Final = 56 + 48 + 48


def key_weight(key: bytes) -> int:
    """Bytes that a key costs whatever it holds."""
    return ENTRY_OVERHEAD + BYTES_OVERHEAD + len(key)


def field_weight(field: bytes, value: bytes) -> int:
    """Bytes that one hash field costs."""
    return FIELD_OVERHEAD + len(field) + len(value)


def member_weight(member: bytes) -> int:
    """Bytes that one member of a set costs."""
    return MEMBER_OVERHEAD + len(member)


def scored_weight(member: bytes) -> int:
    """Bytes that one member of a sorted set costs with its score."""
    return SCORED_OVERHEAD + len(member)
