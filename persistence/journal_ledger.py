"""Ledger: which recorded changes are still unsaved, and from which sequence on the journal is needed.

One small object per unsaved key, nothing per record: the sequence of the oldest record that is needed, and of the
newest. A record that says everything about its key (a whole value, a delete) makes the older ones of that key needless.
Of a key that nothing but plain SETs has changed the newest is all that is needed: it is a tuple (Plain). The keys of a
prefix are many small dictionaries, because a large one stops the world when it grows.

Segments are deleted from the front and begin with a group of records, so the one question is "which is the oldest group
of which anybody needs a record?". So it is counted how many keys need something of which group, or from there on.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from persistence.change import DELETE, EXPIRY, STRING, Change
from persistence.journal_records import WHOLE, Batch, Item, Recorded, is_partial, pack, pack_change
from persistence.journal_text import TextForm

# Groups that nobody needs and that the heap may hold before it is built anew, at least.
_STALE_LEAST: Final = 4096
# Keys of a prefix are in so many dictionaries: a million make sixteen thousand in each.
SHARDS: Final = 64
_SHARD_MASK: Final = SHARDS - 1

# Newest sequence, Unix milliseconds of the oldest unsaved change, group.
Plain = tuple[int, int, int]


class Unsaved:
    """One key that the database does not have yet."""

    __slots__ = ("deleted", "existed", "first", "first_ms", "flying", "group", "last", "next_first")

    def __init__(self, seq: int, group: int, first_ms: int, existed: bool | None, deleted: bool) -> None:
        # Oldest record that is needed, newest record.
        self.first = seq
        self.last = seq
        # The group under which it is counted: that of the former, or an older one.
        self.group = group
        # Unix milliseconds of the oldest unsaved change.
        self.first_ms = first_ms
        self.existed = existed
        # The newest record is a tombstone.
        self.deleted = deleted
        # Newest sequence that a batch has taken, and the first one after that; 0 for none.
        self.flying = 0
        self.next_first = 0

    def forget(self, now_ms: int, existed: bool | None) -> None:
        """What was recorded so far is void, and something new comes."""
        self.first_ms = now_ms
        self.existed = existed
        self.deleted = False
        self.flying = 0
        self.next_first = 0


class PrefixRecords:
    """The unsaved keys of one prefix, and the form of its texts' records."""

    __slots__ = ("form", "given_up_seq", "shards")

    def __init__(self, prefix: str) -> None:
        self.shards: list[dict[bytes, Unsaved | Plain]] = [{} for _ in range(_SHARD_MASK + 1)]
        self.form = TextForm(prefix)
        # Up to here nothing is to be saved, although it may still be among them.
        self.given_up_seq = 0


class Ledger:
    """Every unsaved key and every undecided batch."""

    __slots__ = ("_counts", "_group", "_groups", "_here", "_keys", "_prefixes", "batches")

    def __init__(self) -> None:
        self._prefixes: dict[str, PrefixRecords] = {}
        # First sequence of the group that gathers, and how many keys and batches are counted under it.
        self._group = 0
        self._here = 0
        # The same of older groups, as far as there are any; and a heap of these and of some that nobody needs any more.
        self._counts: dict[int, int] = {}
        self._groups: list[int] = []
        # Unsaved keys of all prefixes.
        self._keys = 0
        # Number → the batch, and the group under which it is counted.
        self.batches: dict[int, tuple[Batch, int]] = {}

    def unsaved_keys(self) -> int:
        """Keys with a recorded change that the database does not have."""
        return self._keys

    def begin_group(self, first: int) -> None:
        """What is recorded from now on belongs together, from this sequence on."""
        if self._here:
            self._count(self._group, self._here)
        self._group = first
        self._here = 0

    def _count(self, group: int, by: int) -> None:
        # Of another group than the one that gathers.
        count = self._counts.get(group, 0)
        if not count:
            heapq.heappush(self._groups, group)
        self._counts[group] = count + by

    def _uncount(self, group: int) -> None:
        if group == self._group:
            self._here -= 1
            return
        count = self._counts[group] - 1
        if count:
            self._counts[group] = count
        else:
            del self._counts[group]

    def _move(self, entry: Unsaved) -> None:
        # Nothing that is older than the newest record is needed any more.
        if entry.group != self._group:
            self._uncount(entry.group)
            entry.group = self._group
            self._here += 1

    def record(self, prefix: str, change: Change, seq: int, now_ms: int, wall_offset_ms: int) -> bytes:
        """Note a change, and its record. O(what changed)."""
        records = self._prefixes.get(prefix)
        if records is None:
            records = self._prefixes[prefix] = PrefixRecords(prefix)
        keys = records.shards[hash(change.key) & _SHARD_MASK]
        existed = change.existed
        verb = change.verb
        entry = keys.get(change.key)
        if entry is None:
            keys[change.key] = Unsaved(seq, self._group, now_ms, existed, verb == DELETE)
            self._here += 1
            self._keys += 1
            partial = change.members is not None and is_partial(change)
            return pack_change(prefix, change, partial, existed, now_ms, wall_offset_ms)
        if isinstance(entry, tuple):
            entry = keys[change.key] = Unsaved(entry[0], entry[2], entry[1], None, False)
        elif entry.last <= records.given_up_seq:
            entry.forget(now_ms, existed)
        entry.last = seq
        if entry.flying and not entry.next_first:
            # What flies will have been written when this one is sent.
            entry.next_first = seq
            entry.first_ms = now_ms
            entry.existed = not entry.deleted
        if verb == EXPIRY:
            return pack_change(prefix, change, False, existed, now_ms, wall_offset_ms)
        # On a tombstone only the whole value means anything, and the row is still there.
        partial = change.members is not None and not entry.deleted and is_partial(change)
        if entry.deleted and verb != DELETE:
            existed = entry.existed = None
        elif not partial:
            existed = entry.existed
        entry.deleted = verb == DELETE
        if not partial and (verb != DELETE or change.members is None):
            entry.first = seq
            self._move(entry)
        return pack_change(prefix, change, partial, existed, entry.first_ms, wall_offset_ms)

    def record_text(self, prefix: str, key: bytes, value: bytes, seq: int, now_ms: int) -> bytes:
        """`record` of a change that says nothing but "the key holds this string, and never expires"."""
        records = self._prefixes.get(prefix)
        if records is None:
            records = self._prefixes[prefix] = PrefixRecords(prefix)
        keys = records.shards[hash(key) & _SHARD_MASK]
        known = keys.get(key)
        if known is None:
            keys[key] = (seq, now_ms, self._group)
            self._here += 1
            self._keys += 1
            return pack((WHOLE, prefix, key, None, now_ms, None, STRING, value))
        if isinstance(known, tuple):
            first_ms = known[1]
            if known[2] != self._group:
                self._uncount(known[2])
                self._here += 1
            keys[key] = (seq, first_ms, self._group)
            return pack((WHOLE, prefix, key, None, first_ms, None, STRING, value))
        self._overwrite(known, seq, now_ms, records.given_up_seq)
        return pack((WHOLE, prefix, key, known.existed, known.first_ms, None, STRING, value))

    def record_texts(
        self,
        prefix: str,
        keys: list[bytes],
        values: list[bytes],
        firsts: list[int],
        seq: int,
        now_ms: int,
        wall_offset_ms: int,
        parts: list[bytes],
    ) -> int:
        """`record_text` of many, the first of which has this sequence: their records are added to `parts`, in pieces,
        and how many bytes that is. `firsts` is for each the time of its first unsaved change, in the server's
        milliseconds, where it need not be noted (Journal.append_text); else 0."""
        records = self._prefixes.get(prefix)
        if records is None:
            records = self._prefixes[prefix] = PrefixRecords(prefix)
        shards = records.shards
        form = records.form
        heads = form.heads
        middles = form.middles
        group = self._group
        counts = self._counts
        size = fresh = moved = 0
        for key, value, first_ms in zip(keys, values, firsts):  # noqa: B905 - of one length; compiled, `strict` is slow
            if first_ms:
                first_ms += wall_offset_ms
            else:
                shard = shards[hash(key) & _SHARD_MASK]
                known = shard.get(key)
                first_ms = now_ms
                if known is None:
                    fresh += 1
                    shard[key] = (seq, now_ms, group)
                elif isinstance(known, tuple):
                    first_ms = known[1]
                    old = known[2]
                    if old != group:
                        # `_uncount`, written out.
                        count = counts[old] - 1
                        if count:
                            counts[old] = count
                        else:
                            del counts[old]
                        moved += 1
                    shard[key] = (seq, first_ms, group)
                else:
                    self._overwrite(known, seq, now_ms, records.given_up_seq)
                    record = pack((WHOLE, prefix, key, known.existed, known.first_ms, None, STRING, value))
                    parts.append(record)
                    size += len(record)
                    seq += 1
                    continue
            if len(value) != form.size:
                form.resize(len(value))
            head = heads.get(len(key)) or form.head_of(len(key))
            middle = middles.get(first_ms) or form.middle_of(first_ms)
            parts += (head, key, middle, value)
            size += len(head) + len(key) + len(middle) + len(value)
            seq += 1
        self._here += fresh + moved
        self._keys += fresh
        return size

    def _overwrite(self, entry: Unsaved, seq: int, now_ms: int, given_up_seq: int) -> None:
        # By a plain string.
        if entry.last <= given_up_seq:
            entry.forget(now_ms, None)
        entry.last = entry.first = seq
        self._move(entry)
        if entry.flying and not entry.next_first:
            entry.next_first = seq
            entry.first_ms = now_ms
            entry.existed = not entry.deleted
        if entry.deleted:
            entry.existed = None
            entry.deleted = False

    def _entry(self, prefix: str, key: bytes) -> Unsaved | Plain | None:
        records = self._prefixes.get(prefix)
        return records.shards[hash(key) & _SHARD_MASK].get(key) if records is not None else None

    def needed_from(self, prefix: str, key: bytes) -> int:
        """The oldest record that an unsaved key needs; 0 when nothing of it is unsaved. O(1)."""
        entry = self._entry(prefix, key)
        if entry is None:
            return 0
        return entry[0] if isinstance(entry, tuple) else entry.first

    def restore(self, chain: list[Recorded]) -> None:
        """Note the records of one key that recovery found, oldest first."""
        newest = chain[-1]
        oldest = chain[0]
        deleted = newest.change.verb == DELETE
        entry = Unsaved(oldest.seq, oldest.seq, oldest.first_ms, oldest.change.existed, deleted)
        entry.last = newest.seq
        records = self._prefixes.get(newest.prefix)
        if records is None:
            records = self._prefixes[newest.prefix] = PrefixRecords(newest.prefix)
        key = newest.change.key
        records.shards[hash(key) & _SHARD_MASK][key] = entry
        self._keys += 1
        self._count(oldest.seq, 1)

    def begin(self, batch: Batch, group: int = 0) -> None:
        """A batch was recorded, in the group that gathers or in that one: it is needed until its outcome is known."""
        if group:
            self._count(group, 1)
        else:
            group = self._group
            self._here += 1
        self.batches[batch.number] = (batch, group)
        for prefix, key, seq in batch.items:
            unsaved = self._entry(prefix, key)
            if isinstance(unsaved, Unsaved):
                unsaved.flying = seq
                unsaved.next_first = seq + 1 if seq < unsaved.last else 0

    def end(self, number: int, applied: bool) -> None:
        """A batch was decided. KeyError when it is not known."""
        batch, group = self.batches.pop(number)
        self._uncount(group)
        if applied:
            self.settle(batch.items)
            return
        for prefix, key, seq in batch.items:
            unsaved = self._entry(prefix, key)
            if isinstance(unsaved, Unsaved) and unsaved.flying == seq:
                unsaved.flying = 0
                unsaved.next_first = 0

    def settle(self, items: Iterable[Item]) -> None:
        """These keys need nothing up to these sequences any more."""
        for prefix, key, seq in items:
            records = self._prefixes.get(prefix)
            if records is None:
                continue
            keys = records.shards[hash(key) & _SHARD_MASK]
            entry = keys.get(key)
            if entry is None:
                continue
            if isinstance(entry, tuple):
                # (What is newer than that needs nothing older anyway.)
                if seq >= entry[0]:
                    del keys[key]
                    self._keys -= 1
                    self._uncount(entry[2])
            elif seq >= entry.last:
                del keys[key]
                self._keys -= 1
                self._uncount(entry.group)
            else:
                self._settle_part(entry, seq)

    def _settle_part(self, entry: Unsaved, seq: int) -> None:
        # Something newer is still unsaved.
        if entry.flying == seq:
            first = max(entry.first, entry.next_first)
            entry.flying = 0
            entry.next_first = 0
        else:
            first = max(entry.first, seq + 1)
        if first > entry.first:
            entry.first = first
            if entry.group < first < self._group:
                self._uncount(entry.group)
                entry.group = first
                self._count(first, 1)
            elif first >= self._group:
                self._move(entry)

    def give_up(self, prefix: str, seq: int) -> None:
        """Everything of a prefix up to a sequence is void. O(1): it is counted until it is settled (`given_up`)."""
        records = self._prefixes.get(prefix)
        if records is not None:
            records.given_up_seq = seq

    def given_up(self, prefix: str, shard: int) -> list[Item]:
        """What of one of a prefix's SHARDS has been given up, to be settled. O(keys in it)."""
        records = self._prefixes.get(prefix)
        if records is None:
            return []
        seq = records.given_up_seq
        items: list[Item] = []
        for key, entry in records.shards[shard].items():
            if isinstance(entry, tuple):
                if entry[0] <= seq:
                    items.append((prefix, key, entry[0]))
            elif entry.first <= seq:
                items.append((prefix, key, min(seq, entry.last)))
        return items

    def floor(self, otherwise: int) -> int:
        """The first sequence of the oldest group of which something is needed; `otherwise` when nothing is. Amortized
        O(log groups)."""
        groups = self._groups
        counts = self._counts
        if len(groups) > 2 * len(counts) + _STALE_LEAST:
            # (A sorted list is a heap.)
            groups = self._groups = sorted(counts)
        while groups and groups[0] not in counts:
            heapq.heappop(groups)
        if groups:
            return groups[0]
        return self._group if self._here else otherwise
