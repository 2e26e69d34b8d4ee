"""What things weigh: estimated bytes of process memory, kept current by deltas and never by walking a value.

The constants are CPython's object sizes on 64-bit builds, rounded up to the allocator's 16-byte steps and with
dictionaries and sets at their average fill. They are estimates: a table that has just doubled is half empty, a small
container has a little for nothing, and a weight must be a sum over members to be kept by deltas. So they are chosen to
be within a tenth of what the process grows by where sizes are mixed; `bench/memory.py` shows it. Of keys that all have
the same number of members it may be more: dictionaries double, between 0.9 and 1.1 (for a sorted set of one member
0.75), and sets quadruple until they have fifty thousand members, between 0.7 and 1.2.
"""

from __future__ import annotations

from types import FunctionType
from typing import Final


def key_weight(key: bytes) -> int:
    """Bytes that a key costs whatever it holds."""
    return ENTRY_OVERHEAD + BYTES_OVERHEAD + len(key)


# What an integer costs to which one attribute refers: an object, or in a compiled class nothing more.
_NUMBER: Final[int] = 32 if isinstance(key_weight, FunctionType) else 0

# bytes object: header 33, rounded to the allocator's step.
BYTES_OVERHEAD: Final = 40
# Entry with its collector header, plus its share of a dictionary at average fill, plus the allocator's own.
ENTRY_OVERHEAD: Final = 126
# A life of its own, which every entry has that holds anything but a plain string.
LIFE_OVERHEAD: Final = 64
# Everything of a string key but its key's and value's own bytes.
STRING_OVERHEAD: Final = ENTRY_OVERHEAD + 2 * BYTES_OVERHEAD
# What a time to live adds to a key: a life, its deadline and its second. Beside it, in the wheel, its record; and a
# second in which something runs out, with its list, its places in dictionary and heap, and its number. (These are many
# where few keys are spread over many seconds.)
TIMED_OVERHEAD: Final[int] = LIFE_OVERHEAD + 16 + 2 * _NUMBER
RECORD_OVERHEAD: Final = 9
SECOND_OVERHEAD: Final = 230
# What being the copy of a row adds to a key with a time to live, as nearly all have: a somewhat larger life, and its
# lease. And what one adds that came alone: copies that came together share the numbers in these.
LEASE_OVERHEAD: Final[int] = 168 - _NUMBER
LONE_OVERHEAD: Final[int] = 3 * _NUMBER
# What an unsaved change adds to a key beside its value, which both share: its place in the queue, what the journal
# knows of it, and the sequences in all of them. (A plain SET takes less than any other change.)
UNSAVED_OVERHEAD: Final[int] = 392 - _NUMBER - LONE_OVERHEAD
# An empty dict; and a field's share of it at average fill.
DICT_OVERHEAD: Final = LIFE_OVERHEAD + 140
FIELD_OVERHEAD: Final = 48 + 2 * BYTES_OVERHEAD
# What a field's own deadline adds: a place in a dictionary, an integer, a pair in a heap.
DEADLINE_OVERHEAD: Final = 48 + 32 + 64
# An empty MemberSet with its set; and a member's share of it at average fill, with its place in the index.
SET_OVERHEAD: Final = LIFE_OVERHEAD + 240
MEMBER_OVERHEAD: Final = 56 + BYTES_OVERHEAD
# An empty ListValue with its two lists; and an element's share of them at average fill.
LIST_OVERHEAD: Final = LIFE_OVERHEAD + 306
ITEM_OVERHEAD: Final = 12 + BYTES_OVERHEAD
# An empty SortedSet with its dictionary and order; and a member's share of them, with its score and two places.
SORTED_SET_OVERHEAD: Final = LIFE_OVERHEAD + 88
SCORED_OVERHEAD: Final = 40 + 32 + 20 + BYTES_OVERHEAD

# A word of a stream's entry; an entry beside its words, with its id; an empty Stream; and what a group and its members
# cost. What is pending stands in two places.
WORD_OVERHEAD: Final = 16 + BYTES_OVERHEAD
STREAM_ENTRY_OVERHEAD: Final = 48 + 56 + 28
STREAM_OVERHEAD: Final = LIFE_OVERHEAD + 860
GROUP_OVERHEAD: Final = 760
CONSUMER_OVERHEAD: Final = 560
PENDING_WEIGHT: Final = 56 + 48 + 48


# The weights of the shorter strings by the bytes of key and value together, for those that keep one: they share these
# numbers, where each would have one of its own, 32 bytes.
_STRING_WEIGHTS: Final = [STRING_OVERHEAD + size for size in range(1024)]
_SHARED_WEIGHTS: Final = len(_STRING_WEIGHTS)


def string_weight(size: int) -> int:
    """Bytes that a string costs of whose key and value so many bytes are."""
    return _STRING_WEIGHTS[size] if size < _SHARED_WEIGHTS else STRING_OVERHEAD + size


def field_weight(field: bytes, value: bytes) -> int:
    """Bytes that one hash field costs."""
    return FIELD_OVERHEAD + len(field) + len(value)


def member_weight(member: bytes) -> int:
    """Bytes that one member of a set costs."""
    return MEMBER_OVERHEAD + len(member)


def scored_weight(member: bytes) -> int:
    """Bytes that one member of a sorted set costs with its score."""
    return SCORED_OVERHEAD + len(member)
