"""Pending: one key's change on its way to the database, and what becomes of it.

    Pending ──► Flight ──► Saved
       ▲          │
       └──────────┴──► DeadLetter (dead_letters.py)

`merge` is the one rule by which changes of a key become one (journal_records.fold says the same of recorded ones).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from persistence.backlog import joint_weight
from persistence.change import DELETE, EXPIRY, NEVER, STRING, WRITE, Change
from persistence.journal_records import Item, apply_members
from persistence.managed import Target
from persistence.row_values import Loaded, Mapping, RowOp
from persistence.stores.base import Applied, Stamp

# Estimated bytes of a Pending beyond its key and value.
PENDING_OVERHEAD: Final = 400


class Pending:
    """What the store does not have of one key."""

    __slots__ = (
        "attempts",
        "bytes",
        "change",
        "first_ms",
        "first_seq",
        "is_partial",
        "is_unseen",
        "not_before_ms",
        "on_over",
        "seq",
        "target",
    )

    def __init__(self, target: Target, change: Change, seq: int, first_ms: int, weight: int) -> None:
        self.target = target
        # Everything since the store's last knowledge, merged.
        self.change = change
        # Sequences of the newest and of the oldest change in it.
        self.seq = seq
        self.first_seq = seq
        # Server milliseconds of the oldest change in it.
        self.first_ms = first_ms
        self.bytes = weight
        # Times that the row itself was refused.
        self.attempts = 0
        self.not_before_ms = 0
        # Recovered: of the value that the change belongs to it holds the touched members alone.
        self.is_partial = False
        # The row was changed before it in a way that memory does not show: the copy is wrong, whatever this one brings.
        self.is_unseen = False
        # Set when it was given up while it flew: told when it has landed, and nothing else is done about it.
        self.on_over: Callable[[Pending], None] | None = None


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The queue at a moment; bytes are estimates, ages milliseconds."""

    keys: int
    bytes: int
    oldest_ms: int
    flying: int
    dead_letters: int


class Saved:
    """Tells the engine that a key's change reached the store, and the row as it is there now."""

    __slots__ = ("applied", "pending", "unseen")

    def __init__(self, pending: Pending, applied: Applied, unseen: bool) -> None:
        self.pending = pending
        self.applied = applied
        # Nobody knows what the database has made of it.
        self.unseen = unseen


class Flight:
    """A flush that was sent, and whose answer has not come."""

    __slots__ = ("pendings", "stamp", "until_ms")

    def __init__(self, pendings: list[Pending], stamp: Stamp | None, until_ms: int) -> None:
        self.pendings = pendings
        # What it leaves in the database, if there is a journal: then the database can be asked.
        self.stamp = stamp
        # Otherwise: server milliseconds until which it may still be committed.
        self.until_ms = until_ms


class Parcel:
    """What one transaction is to write."""

    __slots__ = ("flight", "ops", "results", "want_rows")

    def __init__(self, flight: Flight, ops: list[RowOp], want_rows: bool) -> None:
        self.flight = flight
        # One for each of the flight's changes.
        self.ops = ops
        self.want_rows = want_rows
        # What became of them; None: not known yet, or refused.
        self.results: list[Applied] | None = None


def item_of(pending: Pending) -> Item:
    """A change as the journal names it."""
    return pending.target.prefix.rule.template.text, pending.target.key, pending.seq


def op_of(pending: Pending, mapping: Mapping, wall_offset_ms: int) -> RowOp | None:
    """What to write of a change; None for nothing. Raises RowRejected."""
    change = pending.change
    if not mapping.takes_any_text or change.verb != WRITE or change.kind != STRING or change.members is not None:
        return mapping.accept(pending.target.row_key, change, wall_offset_ms)[0]
    # Most of what is saved where any string will do: there is nothing to look at.
    expires_ms = change.deadline_ms + wall_offset_ms if change.deadline_ms < NEVER else None
    return mapping.accept_string(pending.target.row_key, cast(bytes, change.value), expires_ms)[0]


def take_in(pending: Pending, newer: Pending) -> None:
    """Put what has been changed since on top of a change; `newer` is used up. O(members), or O(value) if recovered."""
    change = newer.change
    before = pending.change
    if newer.is_partial and change.verb == WRITE and before.verb == WRITE:
        change.value = apply_members(change.kind, before.value, change)
    by_member = pending.target.prefix.rule.has_children
    pending.bytes = joint_weight(before, pending.bytes, change, newer.bytes, by_member)
    pending.change = merge(before, change)
    pending.seq = newer.seq
    pending.is_partial = pending.is_partial and lacks_the_rest(pending.change)
    pending.is_unseen = pending.is_unseen or newer.is_unseen


def lacks_the_rest(change: Change) -> bool:
    """Is a recovered change one of members, so that its value is not the whole value?"""
    return change.verb == WRITE and change.members is not None


def complete(pending: Pending, loaded: Loaded | None) -> None:
    """Make a recovered change of members one of the whole value, given the value that the database has."""
    change = pending.change
    known = loaded is not None and loaded.kind == change.kind
    change.value = apply_members(change.kind, loaded.value if known and loaded is not None else {}, change)
    change.members = None
    pending.is_partial = False


def merge(older: Change, newer: Change) -> Change:
    """One change that has the effect of `older` followed by `newer` on a row that knows neither."""
    if newer.verb == EXPIRY:
        older.deadline_ms = newer.deadline_ms
        return older
    if newer.verb == DELETE:
        newer.existed = older.existed
        if newer.members is not None:
            # The last members were taken out. What was touched before is not there any more either.
            newer.members = newer.members | older.members if older.members is not None else None
        return newer
    if older.verb == DELETE:
        # A write on a tombstone replaces the row, whatever it was: the store has it still.
        newer.members = None
        newer.existed = None
        return newer
    if older.verb == WRITE:
        if older.members is None or older.existed is False:
            newer.members = None
        elif newer.members is not None:
            newer.members = older.members | newer.members
        newer.existed = older.existed
    elif older.existed is not None:
        newer.existed = older.existed
    return newer
