"""Splice: a string with a part of it replaced: what SETRANGE and SETBIT make of a value that cannot be changed."""

from __future__ import annotations

from typing import Final

# From so many bytes on a copy less is worth two views.
_LARGE: Final = 4096


def spliced(old: bytes, at: int, part: bytes) -> bytes:
    """`old` with `part` at position `at`, zeros before it where `old` is too short. O(length): copied once."""
    if len(old) < _LARGE:
        return b"".join((old[:at].ljust(at, b"\0"), part, old[at + len(part) :]))
    if at >= len(old):
        return b"".join((old, bytes(at - len(old)), part))
    view = memoryview(old)
    return b"".join((view[:at], part, view[at + len(part) :]))
