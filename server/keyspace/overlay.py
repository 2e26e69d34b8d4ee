"""Overlay: a database seen through staged copies.

A command that must wait for a store runs on an Overlay: reads see values that were loaded for it (cached or not),
writes go to copies, and every change is recorded. When the store has accepted, `publish` carries the staged entries
into the database; when it refuses, the Overlay is forgotten and memory never held what the database does not have.

Staging copies a value when a command first edits it: O(size of the value). Rows are small; where they are not (a hash
of many thousand fields in the generic table) the store rewrites the whole value anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

from persistence.change import DELETE, EXPIRY, HASH, NEVER, WRITE, Change
from server.keyspace.database import Database
from server.keyspace.entry import Entry


class Overlay(Database):
    """Staged view of one database for one command or one transaction."""

    __slots__ = ("base", "changes", "deleted_blindly", "managed", "staged", "unknown")

    def __init__(self, base: Database) -> None:
        # Not Database.__init__: an overlay shares its base's tables and counters and builds none of its own.
        self.base = base
        self.index = base.index
        self.now_ms = base.now_ms
        self.attention = 0
        self.hits = 0
        self.misses = 0
        self.expired = 0
        self.mutations = 0
        self.hit_cap = 0
        self.watched = {}
        self.shards = base.shards
        self.tables = base.tables
        self.tables_per_shard = base.tables_per_shard
        # Key → its entry as this command sees it; None: absent. Loaded values and staged copies alike.
        self.staged: dict[bytes, Entry | None] = {}
        # Keys under a rule whose row was not looked at: a DEL may or may not meet one.
        self.unknown: set[bytes] = set()
        # Deletes of such keys: the reply counted them as found, the store knows better.
        self.deleted_blindly: set[bytes] = set()
        # Key → what was done to it, in the order of first change.
        self.changes: dict[bytes, Change] = {}
        # Keys whose cached entry is only a copy of a row: their lifetime is the cache's, not the row's.
        self.managed: set[bytes] = set()

    # -- preparing ----------------------------------------------------------------------------------------------------

    def stage_loaded(self, key: bytes, kind: int, value: object, deadline_ms: int) -> None:
        """This command sees the key with a value that was loaded for it."""
        self.staged[key] = Entry(key, kind, value, deadline_ms, self.now_ms)

    def stage_absent(self, key: bytes) -> None:
        """This command sees the key as absent: the store has no such row."""
        self.staged[key] = None

    # -- reading ------------------------------------------------------------------------------------------------------

    def find(self, key: bytes) -> Entry | None:
        if key in self.staged:
            entry = self.staged[key]
            if entry is None or entry.deadline_ms <= self.now_ms:
                self.misses += 1
                return None
            return entry
        # Not `find`: the engine has seen to it that memory is right, and whether this was a hit was counted when the
        # command first looked.
        return self.base.peek(key)

    def peek(self, key: bytes) -> Entry | None:
        if key in self.staged:
            entry = self.staged[key]
            return entry if entry is not None and entry.deadline_ms > self.now_ms else None
        return self.base.peek(key)

    def held(self, key: bytes) -> Entry | None:
        return self.staged[key] if key in self.staged else self.base.held(key)

    def __len__(self) -> int:
        added = sum(1 for key, entry in self.staged.items() if entry is not None and self.base.peek(key) is None)
        gone = sum(1 for key, entry in self.staged.items() if entry is None and self.base.peek(key) is not None)
        return len(self.base) + added - gone

    def entries(self) -> Iterator[Entry]:
        for entry in self.base.entries():
            if entry.key not in self.staged:
                yield entry
        for staged in self.staged.values():
            if staged is not None and staged.deadline_ms > self.now_ms:
                yield staged

    # -- changing -----------------------------------------------------------------------------------------------------

    def edit(self, key: bytes) -> Entry | None:
        if key in self.staged:
            entry = self.staged[key]
            if entry is None or entry.deadline_ms <= self.now_ms:
                return None
            if key not in self.changes:
                # What was loaded may be shared with other commands that wait for the same row.
                entry = self.staged[key] = _copy(entry)
            return entry
        original = self.base.peek(key)
        if original is None:
            return None
        entry = _copy(original)
        self.staged[key] = entry
        return entry

    def put(self, key: bytes, kind: int, value: object, deadline_ms: int, event: bytes) -> Entry:
        existed = self._existed(key)
        entry = Entry(key, kind, value, deadline_ms, self.now_ms)
        self.staged[key] = entry
        self._record(key, entry, WRITE, None, existed)
        return entry

    def edited(self, entry: Entry, event: bytes, members: list[bytes], delta: int) -> None:
        self._record(entry.key, entry, WRITE, members, True)

    def set_deadline(self, entry: Entry, deadline_ms: int, event: bytes) -> None:
        entry.deadline_ms = deadline_ms
        entry.soft_ms = deadline_ms
        self._record(entry.key, entry, EXPIRY, None, True)

    def remove(self, key: bytes, event: bytes = b"del") -> bool:
        existed = self._existed(key)
        self.staged[key] = None
        if existed is False:
            if key in self.changes and self.changes[key].verb == WRITE:
                self._record(key, None, DELETE, None, existed)
            return False
        if existed is None:
            self.deleted_blindly.add(key)
        self._record(key, None, DELETE, None, existed)
        return True

    def expire_now(self, entry: Entry) -> None:
        if entry.key in self.managed:
            # The row outlives its cached copy.
            entry.deadline_ms = self.now_ms
            self._record(entry.key, entry, EXPIRY, None, True)
        else:
            self.remove(entry.key)

    def _existed(self, key: bytes) -> bool | None:
        if key in self.staged:
            entry = self.staged[key]
            return entry is not None and entry.deadline_ms > self.now_ms
        if key in self.unknown:
            return None
        return self.base.peek(key) is not None

    def _record(
        self, key: bytes, entry: Entry | None, verb: int, members: list[bytes] | None, existed: bool | None
    ) -> None:
        self.mutations += 1
        kind = entry.kind if entry is not None else 0
        value = entry.value if entry is not None else None
        deadline_ms = entry.deadline_ms if entry is not None else NEVER
        change = self.changes.get(key)
        if change is None:
            touched = set(members) if members is not None else None
            self.changes[key] = Change(key, verb, kind, value, touched, deadline_ms, existed)
            return
        # Later commands of the same transaction: keep what existed before the first, merge what was touched.
        if verb == EXPIRY:
            change.deadline_ms = deadline_ms
            return
        if verb == WRITE and change.verb == WRITE and members is not None and change.members is not None:
            change.members.update(members)
        elif verb == WRITE and change.verb == EXPIRY and members is not None:
            change.members = set(members)
        elif not (verb == WRITE and members is not None):
            change.members = None
        change.verb = verb
        change.kind = kind
        change.value = value
        change.deadline_ms = deadline_ms

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def publish_plain(self, key: bytes, event: bytes = b"set") -> None:
        """Carry one staged key that no rule manages into the database, as its client's change."""
        change = self.changes[key]
        if change.verb == DELETE:
            self.base.remove(key)
            return
        entry = self.staged[key]
        assert entry is not None
        if entry.deadline_ms <= self.now_ms:
            self.base.remove(key)
            return
        self.base.put(key, entry.kind, entry.value, entry.deadline_ms, event)

    def clear(self) -> int:
        raise NotImplementedError("FLUSHDB and FLUSHALL never run on staged copies")


def _copy(entry: Entry) -> Entry:
    value = entry.value
    if entry.kind == HASH:
        assert isinstance(value, dict)
        value = dict(value)
    copy = Entry(entry.key, entry.kind, value, entry.deadline_ms, entry.access_ms)
    copy.lease = entry.lease
    copy.soft_ms = entry.soft_ms
    return copy
