"""Line: the unsaved changes of one prefix that wait for a flush, by key and by age; Backlog: all that is unsaved of it.

A line may hold a million keys while a database is away, and nothing here may take long at once. A large dictionary
stops the world when it grows, so there are many small ones: by key a number of shards, by age a chunk for every few
thousand sequences. Age is `first_seq`, so what is put back after a flush that failed has its old place again.

Most changes are plain SETs, of most of which nothing is asked before the flush. So they wait as a Text, which is the
least that there is to say and is overwritten in place, until somebody asks: then a Pending takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from persistence.change import NEVER, STRING, WRITE, Change
from persistence.managed import ManagedPrefix, Target
from persistence.pending import PENDING_OVERHEAD, Pending

# Of a million keys a shard has sixteen thousand: its dictionary grows in a third of a millisecond.
SHARD_MASK: Final = 63
# 4,096 sequences to a chunk.
CHUNK_BITS: Final = 12


class Text:
    """A change that says nothing but that a key holds this string, and never expires."""

    __slots__ = ("first_ms", "first_seq", "seq", "value")

    def __init__(self, value: bytes, seq: int, first_ms: int) -> None:
        self.value = value
        # Newest sequence, oldest sequence, server milliseconds of that.
        self.seq = seq
        self.first_seq = seq
        self.first_ms = first_ms


class Line:
    """Pendings of one prefix, the oldest first. Who adds texts looks into `shards` itself (write_behind.py)."""

    __slots__ = ("_chunks", "_mixed", "_newest", "_prefix", "count", "shards")

    def __init__(self, prefix: ManagedPrefix) -> None:
        self._prefix = prefix
        self.shards: list[dict[bytes, Pending | Text]] = [{} for _ in range(SHARD_MASK + 1)]
        # `first_seq >> CHUNK_BITS` → `first_seq` → key.
        self._chunks: dict[int, dict[int, bytes]] = {}
        # The highest `first_seq` that has come; the chunks to which an older one was put back, so that they are not in
        # order.
        self._newest = 0
        self._mixed: set[int] = set()
        self.count = 0

    # -- by key -------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.count

    def get(self, key: bytes) -> Pending | None:
        """What waits of a key."""
        known = self.shards[hash(key) & SHARD_MASK].get(key)
        return self._written_out(key, known) if isinstance(known, Text) else known

    def has_any(self, keys: Iterable[bytes]) -> bool:
        """Does one of these keys wait?"""
        return any(key in self.shards[hash(key) & SHARD_MASK] for key in keys)

    def __setitem__(self, key: bytes, pending: Pending) -> None:
        # Of a key that does not wait.
        self.shards[hash(key) & SHARD_MASK][key] = pending
        first_seq = pending.first_seq
        chunk = self.chunk_of(first_seq)
        if first_seq < self._newest and chunk:
            self._mixed.add(first_seq >> CHUNK_BITS)
        self._newest = max(self._newest, first_seq)
        chunk[first_seq] = key
        self.count += 1

    def __delitem__(self, key: bytes) -> None:
        known = self.shards[hash(key) & SHARD_MASK].pop(key)
        first_seq = known.first_seq
        chunk = self._chunks[first_seq >> CHUNK_BITS]
        del chunk[first_seq]
        if not chunk:
            del self._chunks[first_seq >> CHUNK_BITS]
            self._mixed.discard(first_seq >> CHUNK_BITS)
        self.count -= 1

    def pop(self, key: bytes) -> Pending | None:
        """Take what waits of a key."""
        pending = self.get(key)
        if pending is not None:
            del self[key]
        return pending

    def _written_out(self, key: bytes, text: Text) -> Pending:
        pending = self.shards[hash(key) & SHARD_MASK][key] = self._made(key, text)
        return pending

    def _made(self, key: bytes, text: Text) -> Pending:
        # Which row it is is found out when it is written.
        target = Target(key, self._prefix, ())
        change = Change(key, WRITE, STRING, text.value, None, NEVER, None)
        weight = len(text.value) + len(key) + PENDING_OVERHEAD
        pending = Pending(target, change, text.first_seq, text.first_ms, weight)
        pending.seq = text.seq
        return pending

    # -- by age -------------------------------------------------------------------------------------------------------

    def chunk_of(self, first_seq: int) -> dict[int, bytes]:
        """Where keys of that age and those around it are noted."""
        number = first_seq >> CHUNK_BITS
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = self._chunks[number] = {}
        return chunk

    def came(self, first_seq: int, count: int) -> None:
        """So many texts were put into shards and chunks, the youngest of which has this age."""
        self._newest = first_seq
        self.count += count

    def due(self, most: int, until_ms: int, until_seq: int, flying: dict[bytes, Pending]) -> tuple[list[int], int]:
        """The ages of the oldest, at most so many and none that flies already, as long as their first change was made
        by that time or has at most that sequence; and the time of the first that is too young, or NEVER. O(what is due
        + what flies)."""
        ages: list[int] = []
        for number in sorted(self._chunks):
            for first_seq, key in self._ordered(number).items():
                if len(ages) == most:
                    return ages, NEVER
                if key in flying:
                    # Due when that has landed.
                    continue
                known = self.shards[hash(key) & SHARD_MASK][key]
                first_ms = known.first_ms
                if first_ms > until_ms and first_seq > until_seq:
                    return ages, first_ms
                ages.append(first_seq)
        return ages, NEVER

    def take(self, ages: list[int], flying: dict[bytes, Pending]) -> list[Pending]:
        """Move those of these ages to those that fly."""
        taken: list[Pending] = []
        number = -1
        chunk: dict[int, bytes] = {}
        for first_seq in ages:
            if first_seq >> CHUNK_BITS != number:
                number = first_seq >> CHUNK_BITS
                chunk = self._chunks[number]
            key = chunk.pop(first_seq)
            if not chunk:
                del self._chunks[number]
            known = self.shards[hash(key) & SHARD_MASK].pop(key)
            pending = self._made(key, known) if isinstance(known, Text) else known
            flying[key] = pending
            taken.append(pending)
        self.count -= len(taken)
        return taken

    def strip(self, number: int) -> list[tuple[bytes, int]]:
        """Take a chunk out: its keys, and the sequence of the newest change of each."""
        gone: list[tuple[bytes, int]] = []
        for key in self._chunks.pop(number).values():
            known = self.shards[hash(key) & SHARD_MASK].pop(key)
            gone.append((key, known.seq))
        self._mixed.discard(number)
        self.count -= len(gone)
        return gone

    def _ordered(self, number: int) -> dict[int, bytes]:
        chunk = self._chunks[number]
        if number in self._mixed:
            chunk = self._chunks[number] = dict(sorted(chunk.items()))
            self._mixed.discard(number)
        return chunk

    def values(self) -> Iterator[Pending]:
        """Everything, the oldest first; nothing may be put or taken meanwhile."""
        for number in sorted(self._chunks):
            for key in self._ordered(number).values():
                pending = self.get(key)
                assert pending is not None
                yield pending

    def chunks(self) -> list[int]:
        """The numbers of all chunks, the oldest first."""
        return sorted(self._chunks)

    def keys_of(self, number: int) -> list[bytes]:
        """The keys of a chunk, if it is still there."""
        return list(self._chunks.get(number, {}).values())

    def oldest(self) -> int:
        """The least `first_seq`; 0 when nothing waits."""
        return min(self._chunks[min(self._chunks)]) if self._chunks else 0

    def count_until(self, seq: int) -> int:
        """How many have this age or a greater one."""
        number = seq >> CHUNK_BITS
        count = 0
        for each in self._chunks:
            if each < number:
                count += len(self._chunks[each])
        return count + sum([first_seq <= seq for first_seq in self._chunks.get(number, ())])


class Backlog:
    """What is unsaved of one prefix."""

    __slots__ = ("bytes", "name", "pendings", "prefix")

    def __init__(self, prefix: ManagedPrefix) -> None:
        self.prefix = prefix
        self.name = prefix.rule.name
        # What waits for a flush.
        self.pendings = Line(prefix)
        # Of all that is unsaved, what flies or was refused included.
        self.bytes = 0
