"""What things weigh: estimated bytes of process memory, kept current by deltas and never by walking a value.

The constants are CPython's object sizes on 64-bit builds, rounded up to the allocator's 16-byte steps and with the
dictionary slot at its average fill. They are estimates; calibration against the process is a bench.
"""

from __future__ import annotations

from typing import Final

from persistence.change import HASH, STRING

# bytes object: header 33, rounded to the allocator's step.
BYTES_OVERHEAD: Final = 40
# Entry with its collector header, plus its share of a dictionary at average fill.
ENTRY_OVERHEAD: Final = 208
# Everything of a string key but its key's and value's own bytes.
STRING_OVERHEAD: Final = ENTRY_OVERHEAD + 2 * BYTES_OVERHEAD
# An empty dict; and a field's share of it at average fill.
DICT_OVERHEAD: Final = 232
FIELD_OVERHEAD: Final = 48 + 2 * BYTES_OVERHEAD


def key_weight(key: bytes) -> int:
    """Bytes that a key costs whatever it holds."""
    return ENTRY_OVERHEAD + BYTES_OVERHEAD + len(key)


def field_weight(field: bytes, value: bytes) -> int:
    """Bytes that one hash field costs."""
    return FIELD_OVERHEAD + len(field) + len(value)


def value_weight(kind: int, value: object) -> int:
    """Bytes of a whole value. O(1) for strings, O(n) otherwise: used when a value is put, not when it is edited."""
    if kind == STRING:
        assert isinstance(value, bytes)
        return BYTES_OVERHEAD + len(value)
    if kind == HASH:
        assert isinstance(value, dict)
        total = DICT_OVERHEAD
        for field, item in value.items():
            total += FIELD_OVERHEAD + len(field) + len(item)
        return total
    raise TypeError(f"no weight for values of kind {kind}")
