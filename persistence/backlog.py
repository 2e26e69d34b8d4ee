"""Backlog: how many bytes an unsaved change is counted with, for `max_dirty`. Estimates of what is held for the store.

Where the store is told the touched members alone (a child table), only they count, so that a member that is added to a
set of a million costs its own bytes, to hold and to count. Everything else is written as a whole and counted so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Mapping as Lookup
from typing import Final, cast

from persistence.change import HASH, SET, STREAM, STRING, WRITE, ZSET, Change

# A member's own object, and a score.
MEMBER_OVERHEAD: Final = 40
SCORE_BYTES: Final = 8


def weight_of(change: Change, by_member: bool) -> int:
    """The bytes of one change; `by_member`: the store is told members. O(1) for strings, O(what is written) else."""
    if by_member and change.members is not None:
        return sum(map(len, change.members)) + MEMBER_OVERHEAD * len(change.members)
    value = change.value
    if change.kind == STRING:
        return len(value) if isinstance(value, bytes) else 0
    if change.kind == HASH:
        fields = cast(dict[bytes, bytes], value or {})
        return sum(map(len, fields)) + sum(map(len, fields.values()))
    if change.kind == ZSET:
        scores = cast(Lookup[bytes, float], value or {})
        return sum([len(member) + MEMBER_OVERHEAD + SCORE_BYTES for member, _ in scores.items()])
    if change.kind == SET:
        return sum([len(member) + MEMBER_OVERHEAD for member in cast(Iterable[bytes], value or ())])
    if change.kind == STREAM:
        return _weight_of_stream(value)
    return sum(map(len, value)) if isinstance(value, Iterable) else 0


def _weight_of_stream(value: object) -> int:
    # Its entries and what is pending; the marks and names beside them weigh nothing (their form: generic.py).
    if value is None:
        return 0
    _, _, _, entries, groups = cast(Iterable[list[list[object]]], value)
    total = sum([MEMBER_OVERHEAD + sum(map(len, cast(list[bytes], words))) for _, words in entries])
    return total + sum([MEMBER_OVERHEAD * len(cast(list[object], pending)) for *_, pending in groups])


def joint_weight(older: Change, older_bytes: int, newer: Change, newer_bytes: int, by_member: bool) -> int:
    """The bytes of two changes of one key once they are merged; `…_bytes` count each alone. O(members touched)."""
    if not by_member or newer.verb != WRITE or newer.members is None or older.verb != WRITE:
        return newer_bytes
    touched = newer.members
    if older.members is not None:
        touched = touched - older.members
        return older_bytes + sum(map(len, touched)) + MEMBER_OVERHEAD * len(touched)
    # The older one is a whole value: what has come since, and what has gone.
    before = cast(Collection[bytes], older.value)
    after = cast(Collection[bytes], newer.value)
    weight = older_bytes
    for member in touched:
        weight += ((member in after) - (member in before)) * (len(member) + MEMBER_OVERHEAD)
    return weight
