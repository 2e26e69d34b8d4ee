"""Stream: entries in the order of their ids, and groups of consumers that share them out.

An id is a pair of 64-bit numbers, milliseconds and a sequence; here it is one number, milliseconds × 2^64 + sequence,
so that ids compare as ids and the one behind is the one plus 1. Times are Unix milliseconds: they outlive the process.

An entry is a flat tuple of fields and values. Field names repeat from entry to entry, so the first few dozen of them
are kept once for the whole stream.

What a group has given to a consumer and not seen acknowledged is *pending*: one `Pending` stands under the entry's id
in the group and in the consumer. The entry itself may be gone by then; its reader finds out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from server.keyspace.values.id_map import IdMap
from server.keyspace.weights import (
    CONSUMER_OVERHEAD,
    GROUP_OVERHEAD,
    PENDING_WEIGHT,
    STREAM_ENTRY_OVERHEAD,
    STREAM_OVERHEAD,
    WORD_OVERHEAD,
)

SEQUENCE_BITS: Final = 64
SEQUENCE_MASK: Final = (1 << SEQUENCE_BITS) - 1
ID_MAX: Final = (1 << 2 * SEQUENCE_BITS) - 1
_ID_BYTES: Final = 16
# Field names that are kept once: a stream of telemetry has a dozen, one with names that never repeat gains nothing.
_SHARED_NAMES: Final = 64
# A group's `entries_read` when it cannot be told how many entries came before its position.
UNKNOWN: Final = -1


def id_text(number: int) -> bytes:
    """An id as clients read it."""
    return b"%d-%d" % (number >> SEQUENCE_BITS, number & SEQUENCE_MASK)


class Pending:
    """An entry that was delivered to a consumer and not acknowledged."""

    __slots__ = ("consumer", "count", "delivered_ms")

    def __init__(self, consumer: Consumer, delivered_ms: int, count: int) -> None:
        self.consumer = consumer
        self.delivered_ms = delivered_ms
        # How often it was delivered.
        self.count = count


class Consumer:
    """A member of a group."""

    __slots__ = ("active_ms", "name", "pending", "seen_ms")

    def __init__(self, name: bytes, seen_ms: int) -> None:
        self.name = name
        # By id; the same objects as in the group.
        self.pending: IdMap[Pending] = IdMap()
        # When it last asked for anything, and when it last got something (-1: never).
        self.seen_ms = seen_ms
        self.active_ms = -1

    def retire(self) -> list[object]:
        """What is pending with it refers back to it, which must end before it is let go; the containers left of it."""
        found = self.pending.parts()
        self.pending = IdMap()
        return found


class Group:
    """Consumers that share the entries of a stream out among themselves."""

    __slots__ = ("consumers", "entries_read", "last_id", "name", "pending")

    def __init__(self, name: bytes, last_id: int, entries_read: int) -> None:
        self.name = name
        # The last entry delivered to anybody.
        self.last_id = last_id
        # Entries of the stream's whole life up to that one; UNKNOWN when that cannot be told.
        self.entries_read = entries_read
        self.pending: IdMap[Pending] = IdMap()
        self.consumers: dict[bytes, Consumer] = {}

    def weight(self) -> int:
        """Estimated bytes of the group. O(1): names are taken for short."""
        return GROUP_OVERHEAD + CONSUMER_OVERHEAD * len(self.consumers) + PENDING_WEIGHT * len(self.pending)

    def assign(self, number: int, consumer: Consumer, delivered_ms: int, count: int) -> None:
        """An entry is pending with this consumer, whoever had it before. O(log n)."""
        old = self.pending.get(number)
        if old is None:
            old = Pending(consumer, delivered_ms, count)
            self.pending.put(number, old)
            consumer.pending.put(number, old)
            return
        if old.consumer is not consumer:
            old.consumer.pending.pop(number)
            consumer.pending.put(number, old)
            old.consumer = consumer
        old.delivered_ms = delivered_ms
        old.count = count

    def settle(self, number: int) -> bool:
        """An entry is not pending any more; was it? O(log n)."""
        pending = self.pending.pop(number)
        if pending is None:
            return False
        pending.consumer.pending.pop(number)
        return True

    def dismiss(self, consumer: Consumer) -> int:
        """Remove a consumer and what is pending with it; how much that was."""
        count = len(consumer.pending)
        for number, _ in consumer.pending:
            self.pending.pop(number)
        del self.consumers[consumer.name]
        consumer.retire()
        return count

    def disband(self) -> list[object]:
        """Undo the circles between consumers and what is pending; the containers that are left of the group."""
        found = self.pending.parts()
        for consumer in self.consumers.values():
            found += consumer.retire()
        return found

    def copy(self) -> Group:
        """The same group with consumers and pending entries of its own. O(n)."""
        copy = Group(self.name, self.last_id, self.entries_read)
        for consumer in self.consumers.values():
            twin = copy.consumers[consumer.name] = Consumer(consumer.name, consumer.seen_ms)
            twin.active_ms = consumer.active_ms
        for number, pending in self.pending:
            copy.assign(number, copy.consumers[pending.consumer.name], pending.delivered_ms, pending.count)
        return copy


class Stream:
    """Entries by id, the marks that outlive them, and groups. May be empty.

    Its plain form is the list of its `__iter__`: last id, highest deleted id, entries added, [id, words] of every
    entry, and of every group [name, last id, entries read, [name, seen, active] of every consumer, [id, number of the
    consumer, delivered, count] of everything pending]. Ids are 16 bytes, highest first.
    """

    __slots__ = ("_names", "entries", "entries_added", "groups", "last_id", "max_deleted_id", "payload")

    def __init__(self) -> None:
        self.entries: IdMap[tuple[bytes, ...]] = IdMap()
        # The highest id ever added, or set by XSETID.
        self.last_id = 0
        # The highest id that XDEL took out.
        self.max_deleted_id = 0
        # Entries that were ever added.
        self.entries_added = 0
        self.groups: dict[bytes, Group] = {}
        # Field names that entries share.
        self._names: dict[bytes, bytes] = {}
        # Estimated bytes of everything but the groups.
        self.payload = STREAM_OVERHEAD

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[object]:
        yield _packed(self.last_id)
        yield _packed(self.max_deleted_id)
        yield self.entries_added
        yield [[_packed(number), list(words)] for number, words in self.entries]
        yield [_plain_group(group) for group in self.groups.values()]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (Stream, list)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Stream of {len(self.entries)} entries and {len(self.groups)} groups up to {id_text(self.last_id)!r}>"

    def parts(self) -> list[object]:
        """The containers that its entries and groups are in, for taking it apart."""
        found = self.entries.parts()
        for group in self.groups.values():
            found += group.disband()
        return found

    def weight(self) -> int:
        """Estimated bytes of the whole stream. O(number of groups)."""
        return self.payload + sum(group.weight() for group in self.groups.values())

    def copy(self) -> Stream:
        """The same entries and groups. O(n)."""
        copy = Stream()
        for number, words in self.entries:
            copy.entries.put(number, words)
        copy.last_id = self.last_id
        copy.max_deleted_id = self.max_deleted_id
        copy.entries_added = self.entries_added
        copy.groups = {name: group.copy() for name, group in self.groups.items()}
        copy._names = dict(self._names)
        copy.payload = self.payload
        return copy

    # -- entries ------------------------------------------------------------------------------------------------------

    def append(self, number: int, words: list[bytes]) -> None:
        """Add an entry whose id lies behind `last_id`. O(number of words)."""
        self._put(number, words)
        self.last_id = number
        self.entries_added += 1

    def _put(self, number: int, words: list[bytes]) -> None:
        names = self._names
        for at in range(0, len(words), 2):
            name = words[at]
            known = names.get(name)
            if known is not None:
                words[at] = known
            elif len(names) < _SHARED_NAMES:
                names[name] = name
                self.payload += WORD_OVERHEAD + len(name)
        entry = tuple(words)
        self.entries.put(number, entry)
        self.payload += self._weigh(entry)

    def _weigh(self, words: tuple[bytes, ...]) -> int:
        names = self._names
        total = STREAM_ENTRY_OVERHEAD
        for at in range(0, len(words), 2):
            total += WORD_OVERHEAD + len(words[at + 1])
            if words[at] not in names:
                total += WORD_OVERHEAD + len(words[at])
        return total

    def delete(self, number: int) -> bool:
        """Take an entry out; was it there? O(log n)."""
        words = self.entries.pop(number)
        if words is None:
            return False
        self.payload -= self._weigh(words)
        self.max_deleted_id = max(self.max_deleted_id, number)
        return True

    def trim(self, keep: int, from_id: int, whole_blocks: bool, limit: int) -> int:
        """Take entries out at the front until no more than `keep` are left and none has an id below `from_id`.

        How many. `whole_blocks`: only while a whole block may go; `limit` > 0: not more than so many. O(taken out).
        """
        trimmed = 0
        entries = self.entries
        while len(entries) > keep or entries.first() < from_id:
            if not len(entries):
                break
            numbers, values = entries.first_block()
            size = len(numbers)
            if limit and trimmed + size > limit:
                break
            surplus = max(min(len(entries) - keep, size), bisect_left(numbers, from_id))
            if not surplus or (whole_blocks and surplus < size):
                break
            for words in values[:surplus]:
                self.payload -= self._weigh(words)
            entries.drop_first(surplus)
            trimmed += surplus
        return trimmed

    # -- groups -------------------------------------------------------------------------------------------------------

    def has_deleted_behind(self, number: int) -> bool:
        """May an entry with this id or a later one have been deleted from among those that are left?"""
        return bool(len(self.entries)) and self.entries.first() <= self.max_deleted_id and number <= self.max_deleted_id

    def entries_up_to(self, number: int) -> int:
        """How many entries were ever added up to this id; UNKNOWN when deletions make that impossible to tell."""
        if not self.entries_added:
            return 0
        if number >= self.last_id or not len(self.entries):
            return self.entries_added if number <= self.last_id else UNKNOWN
        first = self.entries.first()
        if self.max_deleted_id == 0 or self.max_deleted_id < first:
            if number < first:
                return self.entries_added - len(self.entries)
            if number == first:
                return self.entries_added - len(self.entries) + 1
        return UNKNOWN

    def lag(self, group: Group) -> int | None:
        """How many entries the group has not read yet; None when that cannot be told."""
        if not len(self.entries):
            return 0
        first = self.entries.first()
        if group.last_id < first and self.max_deleted_id < first:
            # All that is left. What was trimmed before the group came to it is not counted.
            return len(self.entries)
        read = group.entries_read
        if read == UNKNOWN or self.has_deleted_behind(group.last_id):
            read = self.entries_up_to(group.last_id)
        return None if read == UNKNOWN else self.entries_added - read

    def advance(self, group: Group, number: int) -> None:
        """The group delivers an entry behind its position."""
        if group.entries_read != UNKNOWN and not self.has_deleted_behind(number):
            group.entries_read += 1
        elif self.entries_added:
            group.entries_read = self.entries_up_to(number)
        group.last_id = number

    def check(self) -> None:
        """Assert the invariants."""
        self.entries.check()
        assert self.entries.last() <= self.last_id
        words = sum(WORD_OVERHEAD + len(name) for name in self._names)
        assert self.payload == STREAM_OVERHEAD + words + sum(self._weigh(entry) for _, entry in self.entries)
        for group in self.groups.values():
            group.pending.check()
            held: list[tuple[int, Pending]] = []
            for consumer in group.consumers.values():
                consumer.pending.check()
                held += consumer.pending
            assert sorted(held, key=_first_of) == list(group.pending)


def _first_of(pair: tuple[int, Pending]) -> int:
    return pair[0]


# -- the plain form ---------------------------------------------------------------------------------------------------


def _packed(number: int) -> bytes:
    return number.to_bytes(_ID_BYTES, "big")


def _plain_group(group: Group) -> list[object]:
    places = {name: place for place, name in enumerate(group.consumers)}
    return [
        group.name,
        _packed(group.last_id),
        group.entries_read,
        [[consumer.name, consumer.seen_ms, consumer.active_ms] for consumer in group.consumers.values()],
        [[_packed(n), places[each.consumer.name], each.delivered_ms, each.count] for n, each in group.pending],
    ]


def revive_stream(plain: list[object]) -> Stream:
    """The stream of a plain form. O(n)."""
    last_id, max_deleted_id, entries_added, entries, groups = plain
    stream = Stream()
    assert isinstance(entries, list) and isinstance(groups, list) and isinstance(entries_added, int)
    for number, words in entries:
        stream._put(_unpacked(number), list(words))
    stream.last_id = _unpacked(last_id)
    stream.max_deleted_id = _unpacked(max_deleted_id)
    stream.entries_added = entries_added
    for name, position, entries_read, consumers, pending in groups:
        group = stream.groups[name] = Group(name, _unpacked(position), entries_read)
        members: list[Consumer] = []
        for consumer_name, seen_ms, active_ms in consumers:
            member = group.consumers[consumer_name] = Consumer(consumer_name, seen_ms)
            member.active_ms = active_ms
            members.append(member)
        for number, place, delivered_ms, count in pending:
            group.assign(_unpacked(number), members[place], delivered_ms, count)
    return stream


def _unpacked(raw: object) -> int:
    assert isinstance(raw, bytes)
    return int.from_bytes(raw, "big")
