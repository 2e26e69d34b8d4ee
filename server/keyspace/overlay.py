"""Overlay: a database seen through staged copies.

A command that must wait for a store runs on an Overlay: reads see values that were loaded for it (cached or not),
writes go to copies, and every change is recorded. When the store has accepted, `publish` carries the staged entries
into the database; when it refuses, the Overlay is forgotten and memory never held what the database does not have.

Staging copies a value when a command first edits it: O(size of the value). Rows are small; where they are not (a hash
of many thousand fields in the generic table) the store rewrites the whole value anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

from persistence.change import DELETE, EXPIRY, NEVER, STRING, WRITE, Change
from persistence.field_lifetimes import ExpiringHash
from server.keyspace.database import Database
from server.keyspace.entry import Entry, staged_entry
from server.keyspace.values.kinds import copy_value, is_empty, revive


class Overlay(Database):
    """Staged view of one database for one command or one transaction."""

    __slots__ = ("base", "changes", "deleted_blindly", "events", "managed", "staged", "unknown")

    def __init__(self, base: Database) -> None:
        # Not Database.__init__: an overlay shares its base's tables and counters and builds none of its own.
        self.base = base
        self.index = base.index
        self.now_ms = base.now_ms
        self.moment = base.moment
        self.attention = 0
        self.hits = 0
        self.misses = 0
        self.expired = 0
        self.mutations = 0
        self.evicted = 0
        self.surplus = None
        self.newcomer = None
        self.watched = {}
        self.observer = None
        self.heeded = False
        self.fields = base.fields
        self.names = base.names
        self.graveyard = base.graveyard
        self.lent = base.lent
        self.shards = base.shards
        self.shard_count = base.shard_count
        self.tables = base.tables
        self.homes = base.homes
        self.own_homes = base.own_homes
        self.placement = base.placement
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
        # What an observer of the base is to hear once it is published: key, event, and whether the key is new.
        self.events: list[tuple[bytes, bytes, bool]] = []

    # -- preparing ----------------------------------------------------------------------------------------------------

    def begin_read(self) -> None:
        """Be a new view, for a command that changes nothing; the last one was for such a command, too."""
        base = self.base
        self.now_ms = base.now_ms
        self.moment = base.moment
        self.fields = base.fields
        self.shards = base.shards
        self.tables = base.tables
        if self.staged:
            self.staged.clear()

    def stage_loaded(self, key: bytes, kind: int, value: object, deadline_ms: int) -> None:
        """This command sees the key with a value that was loaded for it."""
        self.staged[key] = staged_entry(key, revive(kind, value), deadline_ms, self.now_ms)

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
        entry = staged_entry(key, revive(kind, value), deadline_ms, self.now_ms)
        self.staged[key] = entry
        self._record(key, entry, WRITE, None, existed)
        self._tell_later(key, event, existed is False)
        return entry

    def edited(self, entry: Entry, event: bytes, members: list[bytes], delta: int) -> None:
        self._record(entry.key, entry, WRITE, members, True)
        self._tell_later(entry.key, event)

    def respell(self, entry: Entry, text: bytes, event: bytes) -> None:
        self.put(entry.key, STRING, text, entry.deadline_ms, event)

    def set_deadline(self, entry: Entry, deadline_ms: int, event: bytes) -> None:
        entry.deadline_ms = deadline_ms
        entry.soft_ms = deadline_ms
        self._record(entry.key, entry, EXPIRY, None, True)
        self._tell_later(entry.key, event)

    def remove(self, key: bytes, event: bytes = b"del") -> bool:
        existed = self._existed(key)
        emptied = self._emptied(key)
        self.staged[key] = None
        if existed is False:
            if key in self.changes and self.changes[key].verb == WRITE:
                self._record(key, None, DELETE, None, existed)
            return False
        if existed is None:
            self.deleted_blindly.add(key)
        self._record(key, None, DELETE, emptied, existed)
        self._tell_later(key, event)
        return True

    # The members that a command has taken out of a key, when those were its last. The key goes with them, but of the
    # store's rows only theirs: it may have others, which memory does not know of.
    def _emptied(self, key: bytes) -> list[bytes] | None:
        entry = self.staged.get(key)
        change = self.changes.get(key)
        if entry is None or change is None or change.verb != WRITE or change.members is None:
            return None
        return list(change.members) if is_empty(entry.kind, entry.value) else None

    def expire_now(self, entry: Entry) -> None:
        if entry.key in self.managed:
            # The row outlives its cached copy.
            entry.deadline_ms = self.now_ms
            self._record(entry.key, entry, EXPIRY, None, True)
            self._tell_later(entry.key, b"del")
        else:
            self.remove(entry.key)

    def expire_fields(self, entry: Entry, wall_ms: int) -> None:
        """The same for a staged copy; nobody need be told of what will not be there when it is published."""
        if self.staged.get(entry.key) is not entry:
            self.base.expire_fields(entry, wall_ms)
            return
        value = entry.value
        if isinstance(value, ExpiringHash) and value.take_due(wall_ms) and not value:
            entry.deadline_ms = self.now_ms

    def note(self, key: bytes, event: bytes) -> None:
        self._tell_later(key, event)

    def _tell_later(self, key: bytes, event: bytes, is_new: bool = False) -> None:
        if self.base.observer is not None:
            self.events.append((key, event, is_new))

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
        elif members is not None and (verb == DELETE or (verb == WRITE and change.verb == EXPIRY)):
            change.members = set(members)
        elif not (verb == WRITE and members is not None):
            change.members = None
        change.verb = verb
        change.kind = kind
        change.value = value
        change.deadline_ms = deadline_ms

    # -- a part that may be forgotten ---------------------------------------------------------------------------------

    def savepoint(self) -> Savepoint:
        """How things are now, for `go_back`. O(keys), and the values of those that have been changed are copied."""
        staged = dict(self.staged)
        changes: dict[bytes, Change] = {}
        for key, change in self.changes.items():
            entry = staged[key]
            if entry is not None:
                # What is edited further is edited in place.
                entry = staged[key] = _copy(entry)
            touched = set(change.members) if change.members is not None else None
            value = entry.value if entry is not None else None
            changes[key] = Change(key, change.verb, change.kind, value, touched, change.deadline_ms, change.existed)
        return Savepoint(staged, changes, set(self.deleted_blindly), len(self.events))

    def go_back(self, point: Savepoint) -> None:
        """Forget everything that was done since; the savepoint is used up."""
        self.staged = point.staged
        self.changes = point.changes
        self.deleted_blindly = point.deleted_blindly
        del self.events[point.events :]

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def publish_plain(self, key: bytes) -> None:
        """Carry one staged key that no rule manages into the database. Its events are told by `announce`."""
        change = self.changes[key]
        if change.verb == DELETE:
            self.base.remove(key, b"")
            return
        entry = self.staged[key]
        assert entry is not None
        if entry.deadline_ms <= self.now_ms:
            self.base.remove(key, b"")
            return
        self.base.put(key, entry.kind, entry.value, entry.deadline_ms, b"")

    def unsay(self, keys: set[bytes]) -> None:
        """These keys were deleted without a look, and had no row."""
        if self.events:
            self.events = [event for event in self.events if event[0] not in keys]

    def announce(self) -> None:
        """Everything is published: tell the base's observer what the command did."""
        observer = self.base.observer
        if observer is not None:
            for key, event, is_new in self.events:
                observer.changed(self.base, key, event, is_new)

    def clear(self) -> int:
        raise NotImplementedError("FLUSHDB and FLUSHALL never run on staged copies")


class Savepoint:
    """What an Overlay was when one of its commands began."""

    __slots__ = ("changes", "deleted_blindly", "events", "staged")

    def __init__(
        self,
        staged: dict[bytes, Entry | None],
        changes: dict[bytes, Change],
        deleted_blindly: set[bytes],
        events: int,
    ) -> None:
        self.staged = staged
        self.changes = changes
        self.deleted_blindly = deleted_blindly
        # How many there were to tell.
        self.events = events


def _copy(entry: Entry) -> Entry:
    value = copy_value(entry.kind, entry.value)
    copy = staged_entry(entry.key, value, entry.deadline_ms, entry.access_ms)
    copy.lease = entry.lease
    copy.soft_ms = entry.soft_ms
    return copy
