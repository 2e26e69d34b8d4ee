"""What things weigh: estimated bytes of process memory, kept current by deltas and never by walking a value.

The constants are CPython's object sizes on 64-bit builds, rounded up to the allocator's 16-byte steps and with
dictionaries at their average fill. They are estimates: a dictionary that has just doubled is half empty, a small
container has a little for nothing, and a weight must be a sum over members to be kept by deltas. So they are chosen to
be within a tenth of what the process grows by; `bench/memory.py` shows it. (A hash of one field is told to five
sixths, a sorted set of one member to three quarters.) The tables of sets quadruple, so that no sum over members could
say what they take: theirs has steps.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
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
# A life of its own with its weight, which every entry has that holds anything but a plain string.
LIFE_OVERHEAD: Final[int] = 64 + _NUMBER
# Everything of a string key but its key's and value's own bytes.
STRING_OVERHEAD: Final = ENTRY_OVERHEAD + 2 * BYTES_OVERHEAD
# What a time to live adds to a key: a life, its deadline and its second. Beside it, in the wheel, its record; and a
# second in which something runs out, with its list, its places in dictionary and heap, and its number. (These are many
# where few keys are spread over many seconds.)
TIMED_OVERHEAD: Final[int] = LIFE_OVERHEAD + 16 + _NUMBER
RECORD_OVERHEAD: Final = 9
SECOND_OVERHEAD: Final = 230
# What being the copy of a row adds to a key with a time to live, as nearly all have: a somewhat larger life, and its
# lease. And what one adds that came alone: copies that came together share the numbers in these.
LEASE_OVERHEAD: Final[int] = 168 - _NUMBER
LONE_OVERHEAD: Final[int] = 3 * _NUMBER
# What an unsaved change adds to a key beside its value, which both share: its place in the queue, what the journal
# knows of it, and the sequences in all of them. (A plain SET takes less than any other change.)
UNSAVED_OVERHEAD: Final[int] = 392 - _NUMBER
# An empty dict; and a field's share of it at average fill.
DICT_OVERHEAD: Final[int] = LIFE_OVERHEAD + 75
FIELD_OVERHEAD: Final = 48 + 2 * BYTES_OVERHEAD
# What a field's own deadline adds: a place in a dictionary, an integer, a pair in a heap.
DEADLINE_OVERHEAD: Final = 48 + 32 + 64
# A MemberSet with its set; and a member beside its place in the set's table, for which see `table_weight`.
SET_OVERHEAD: Final[int] = LIFE_OVERHEAD + 272
MEMBER_OVERHEAD: Final = 6 + BYTES_OVERHEAD
# An empty ListValue with its two lists; and an element's share of them at average fill.
LIST_OVERHEAD: Final[int] = LIFE_OVERHEAD + 224
ITEM_OVERHEAD: Final = 15 + BYTES_OVERHEAD
# An empty SortedSet with its dictionary and order; and a member's share of them, with its score and two places.
SORTED_SET_OVERHEAD: Final[int] = LIFE_OVERHEAD + 62
SCORED_OVERHEAD: Final = 40 + 32 + 20 + BYTES_OVERHEAD

# A word of a stream's entry; an entry beside its words, with its id; an empty Stream; and what a group and its members
# cost. What is pending stands in two places.
WORD_OVERHEAD: Final = 16 + BYTES_OVERHEAD
STREAM_ENTRY_OVERHEAD: Final = 48 + 56 + 28
STREAM_OVERHEAD: Final[int] = LIFE_OVERHEAD + 860
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
    """Bytes that one member of a set costs, beside its place in the set's table."""
    return MEMBER_OVERHEAD + len(member)


def _table_steps() -> dict[int, int]:
    # CPython's rule: three fifths of the places are taken, so there are four times as many as members from then on,
    # or twice as many if those are more than 50,000. Eight places, of 16 bytes, lie in the set itself.
    steps: dict[int, int] = {}
    slots = 8
    before = 0
    while slots < 1 << 36:
        members = -(-3 * (slots - 1) // 5)
        while slots <= members * (2 if members > 50_000 else 4):
            slots *= 2
        steps[members] = 16 * slots - before
        before = 16 * slots
    return steps


# By the number of members with which a set's table grows: by how many bytes. (It does not shrink when members go; that
# it is told so is as wrong as it was right that it grew.)
TABLE_STEPS: Final = _table_steps()
_GROWTHS: Final = list(TABLE_STEPS)
_TABLES: Final = [0, *accumulate(TABLE_STEPS.values())]


def table_weight(members: int) -> int:
    """Bytes of the table of a set with so many members. O(1)."""
    return _TABLES[bisect_right(_GROWTHS, members)]


def scored_weight(member: bytes) -> int:
    """Bytes that one member of a sorted set costs with its score."""
    return SCORED_OVERHEAD + len(member)
