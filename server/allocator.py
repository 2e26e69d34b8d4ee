"""The C library's allocator, told what kind of process this is.

The problem: glibc gives threads heaps of their own, so that they need not wait for each other. A store's thread reads
rows into one of them, but it is the event loop that keeps these values and lets go of them, in an order of its own; and
what is free in one heap is no use to the other. After some turnovers of the cache a third of the heaps is gaps: with
`maxmemory = "128mb"` and half of the writes to be saved the process grows to 1.3 times the limit.

The method: one heap for all threads. They take turns anyway, because there is one interpreter.

Rejected: `malloc_trim` now and then (25 ms for 90 MB, under the heap's lock, and the gaps come back); a lower threshold
from which on memory comes from the system directly (a value of half a megabyte then costs 500 µs instead of 40).

Other C libraries have no such switch, and do not need it.
"""

from __future__ import annotations

import ctypes
from typing import Final

# Of mallopt(3).
_M_ARENA_MAX: Final = -8


def use_one_heap() -> bool:
    """Let all threads that are still to be started share the first one's heap; False where there is no such choice."""
    library = ctypes.CDLL(None)
    try:
        return bool(library.mallopt(_M_ARENA_MAX, 1))
    except AttributeError:
        return False
